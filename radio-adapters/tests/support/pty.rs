//! A serial port whose other end is in the test.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tempfile::TempDir;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time;

/// A port can be plugged in and out; its path stays the same, as in `/dev/serial/by-id`.
pub struct Socket {
    directory: TempDir,
}

impl Socket {
    /// Nothing is plugged in.
    pub fn new() -> Socket {
        Socket {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("port")
    }

    /// Plugs in a new port.
    pub fn plug(&self) -> Pty {
        let pty = Pty::open();
        symlink(&pty.path, self.path()).unwrap();
        pty
    }

    /// Takes the port out.
    pub fn unplug(&self, pty: Pty) {
        std::fs::remove_file(self.path()).unwrap();
        drop(pty);
    }
}

/// The modem's end of a serial line.
pub struct Pty {
    master: AsyncFd<File>,
    path: PathBuf,
}

impl Pty {
    fn open() -> Pty {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let path = PathBuf::from(name.to_str().unwrap());
        // Until the driver sets it up, a terminal would echo.
        let terminal = File::options().read(true).write(true).open(&path).unwrap();
        let mut modes = tcgetattr(&terminal).unwrap();
        modes.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &modes).unwrap();
        rustix::fs::fcntl_setfl(&master, OFlags::NONBLOCK).unwrap();
        Pty {
            master: AsyncFd::new(File::from(master)).unwrap(),
            path,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub async fn write(&self, mut octets: &[u8]) {
        while !octets.is_empty() {
            let write = |mut master: &File| master.write(octets);
            let written = self.master.async_io(Interest::WRITABLE, write).await.unwrap();
            octets = &octets[written..];
        }
    }

    /// As many octets, within ten seconds.
    pub async fn read(&self, count: usize) -> Vec<u8> {
        let mut octets = Vec::new();
        while octets.len() < count {
            let mut buffer = vec![0; count - octets.len()];
            let read = time::timeout(Duration::from_secs(10), self.read_some(&mut buffer));
            let len = read
                .await
                .unwrap_or_else(|_| panic!("{count} octets expected, only {octets:02x?} came"));
            octets.extend(&buffer[..len]);
        }
        octets
    }

    async fn read_some(&self, buffer: &mut [u8]) -> usize {
        loop {
            let read = |mut master: &File| match master.read(buffer) {
                // EIO: nobody has the other end open.
                Err(error) if error.raw_os_error() == Some(5) => Ok(None),
                result => result.map(Some),
            };
            match self.master.async_io(Interest::READABLE, read).await.unwrap() {
                Some(len) => return len,
                None => time::sleep(Duration::from_millis(2)).await,
            }
        }
    }

    /// Nothing comes for so long.
    pub async fn is_silent(&self, duration: Duration) -> bool {
        let mut buffer = [0; 64];
        time::timeout(duration, self.read_some(&mut buffer))
            .await
            .is_err()
    }

    /// How the driver has set up the port.
    pub fn modes(&self) -> io::Result<Termios> {
        Ok(tcgetattr(self.master.get_ref().as_fd())?)
    }
}
