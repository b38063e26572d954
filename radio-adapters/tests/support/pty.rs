//! A serial port whose other end is in the test.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tempfile::TempDir;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::time;

/// A port can be plugged in and out; its path stays the same, as in `/dev/serial/by-id`.
pub(crate) struct Socket {
    directory: TempDir,
}

impl Socket {
    /// Nothing is plugged in.
    pub(crate) fn new() -> Socket {
        Socket {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("port")
    }

    /// Plugs in a new port.
    pub(crate) fn plug(&self) -> Pty {
        let (pty, path) = Pty::open();
        symlink(path, self.path()).unwrap();
        pty
    }

    /// Takes the port out.
    pub(crate) fn unplug(&self, pty: Pty) {
        std::fs::remove_file(self.path()).unwrap();
        drop(pty);
    }
}

/// The modem's end of a serial line.
pub(crate) struct Pty {
    // Tokio's pipes take anything that can be waited for.
    receiver: Receiver,
    sender: Sender,
    /// Held open: a terminal that nobody has open tells its other end that it is closed, and never again otherwise.
    terminal: File,
}

impl Pty {
    fn open() -> (Pty, PathBuf) {
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
        let master = File::from(master);
        let pty = Pty {
            receiver: Receiver::from_file_unchecked(master.try_clone().unwrap()).unwrap(),
            sender: Sender::from_file_unchecked(master).unwrap(),
            terminal,
        };
        (pty, path)
    }

    pub(crate) async fn write(&self, mut octets: &[u8]) {
        while !octets.is_empty() {
            self.sender.writable().await.unwrap();
            match self.sender.try_write(octets) {
                Ok(written) => octets = &octets[written..],
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
    }

    /// As many octets, within ten seconds.
    pub(crate) async fn read(&self, count: usize) -> Vec<u8> {
        let mut octets = Vec::new();
        while octets.len() < count {
            let readable = time::timeout(Duration::from_secs(10), self.receiver.readable()).await;
            let readable = readable.unwrap_or_else(|_| panic!("of {count} octets came {octets:02x?}"));
            readable.unwrap();
            let mut buffer = vec![0; count - octets.len()];
            match self.receiver.try_read(&mut buffer) {
                Ok(len) => octets.extend(&buffer[..len]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
        octets
    }

    /// How the driver has set up the port.
    pub(crate) fn modes(&self) -> io::Result<Termios> {
        Ok(tcgetattr(&self.terminal)?)
    }
}
