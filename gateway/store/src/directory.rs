//! A directory of the file system.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::disk::{Disk, DiskFile};

/// A directory that belongs to one store at a time.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Open for syncing, and locked while this value lives.
    handle: File,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another gateway", .0.display())]
    InUse(PathBuf),
    /// It cannot be made, read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

impl Directory {
    /// Opens a directory for this process alone, and makes it, for its owner only, if it is not there.
    ///
    /// # Errors
    /// Another process has it, or the system refuses.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let fail = |error| OpenError::Io {
            path: path.to_owned(),
            error,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(fail)?;
        let handle = File::open(path).map_err(fail)?;
        match flock(&handle, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::InUse(path.to_owned())),
            Err(error) => return Err(fail(error.into())),
        }
        Ok(Directory {
            path: path.to_owned(),
            handle,
        })
    }
}

impl Disk for Directory {
    type File = File;

    fn list(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn create(&mut self, name: &str, len: usize) -> io::Result<File> {
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&path)?;
        let filled = file
            .write_all(&vec![0; len])
            .and_then(|()| file.sync_all())
            .and_then(|()| self.handle.sync_all());
        if let Err(error) = filled {
            // A disk that is full shall not stay full because of us.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(file)
    }

    fn open(&mut self, name: &str) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.path.join(name))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path.join(name))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))?;
        self.handle.sync_all()
    }
}

impl DiskFile for File {
    fn write_at(&mut self, offset: u64, octets: &[u8]) -> io::Result<()> {
        self.write_all_at(octets, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
