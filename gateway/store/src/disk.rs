//! What the store needs of a disk.

use std::io;

/// A place for files. Errors are those of the system: what failed did not happen, or not for certain.
pub trait Disk: core::fmt::Debug + Send {
    /// A file of it.
    type File: DiskFile;

    /// The names of all files.
    ///
    /// # Errors
    /// The disk does not work.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes a file of so many zeros; when this returns, file and name are durable. A file of that name is an error.
    ///
    /// # Errors
    /// The disk does not work, is full or has such a file.
    fn create(&mut self, name: &str, len: usize) -> io::Result<Self::File>;

    /// Opens a file to write into it.
    ///
    /// # Errors
    /// The disk does not work, or has no such file.
    fn open(&mut self, name: &str) -> io::Result<Self::File>;

    /// The whole content of a file.
    ///
    /// # Errors
    /// The disk does not work, or has no such file.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Removes a file; when this returns, that is durable.
    ///
    /// # Errors
    /// The disk does not work, or has no such file.
    fn remove(&mut self, name: &str) -> io::Result<()>;
}

/// A file that is open for writing.
pub trait DiskFile: core::fmt::Debug + Send {
    /// Writes all of `octets` at `offset`.
    ///
    /// # Errors
    /// The disk does not work, or is full.
    fn write_at(&mut self, offset: u64, octets: &[u8]) -> io::Result<()>;

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// The disk does not work: what was written may or may not be there, and trying again tells nothing.
    fn sync(&mut self) -> io::Result<()>;
}
