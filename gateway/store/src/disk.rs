//! What the store needs of a disk.

use std::io;

/// A place for files.
pub trait Disk: core::fmt::Debug + Send {
    /// A file of it.
    type File: DiskFile;

    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes a file of so many zeros; when this returns, file and name are durable. A file of that name is an error.
    fn create(&mut self, name: &str, len: usize) -> io::Result<Self::File>;

    /// Opens a file to write into it.
    fn open(&mut self, name: &str) -> io::Result<Self::File>;

    /// The whole content of a file.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Removes a file; when this returns, that is durable.
    fn remove(&mut self, name: &str) -> io::Result<()>;
}

/// A file that is open for writing.
pub trait DiskFile: core::fmt::Debug + Send {
    /// Writes all of `octets` at `offset`.
    fn write_at(&mut self, offset: u64, octets: &[u8]) -> io::Result<()>;

    /// Makes everything written so far durable.
    fn sync(&mut self) -> io::Result<()>;
}
