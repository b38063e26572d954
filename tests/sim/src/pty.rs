//! A pseudo-terminal in the place of a serial port, behind a symbolic link that stays while terminals come and go.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fcntl_setfl, open};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// A port that a driver can open by its path, as long as it is plugged in.
#[derive(Debug)]
pub struct Pty {
    path: PathBuf,
    master: Option<OwnedFd>,
}

/// What came from the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PtyRead {
    /// So many octets.
    Octets(usize),
    /// Nothing now.
    Nothing,
    /// Nobody has the port open.
    Closed,
}

impl Pty {
    /// A port of that path, which is not plugged in.
    ///
    /// # Errors
    /// Something other than a symbolic link is there.
    pub fn new(path: &Path) -> io::Result<Pty> {
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.is_symlink() => {
                let message = format!("{} exists and is no symbolic link", path.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(Pty {
            path: path.to_owned(),
            master: None,
        })
    }

    /// Plugs it in: a new terminal, of which the path tells the name. Returns that name.
    ///
    /// # Errors
    /// The system has no terminal to give, or the link cannot be made.
    pub fn plug(&mut self) -> io::Result<PathBuf> {
        self.unplug();
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let slave = PathBuf::from(std::ffi::OsStr::from_bytes(name.as_bytes()));
        {
            // Before anyone knows of it: a fresh terminal echoes and changes line ends.
            let slave = open(
                slave.as_path(),
                OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            let mut settings = tcgetattr(&slave)?;
            settings.make_raw();
            tcsetattr(&slave, OptionalActions::Now, &settings)?;
        }
        fcntl_setfl(&master, OFlags::NONBLOCK)?;
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        symlink(&slave, &self.path)?;
        self.master = Some(master);
        Ok(slave)
    }

    /// Pulls it out: whoever has it open is told.
    pub fn unplug(&mut self) {
        if self.master.take().is_some() {
            // If the link is gone already, all the better.
            let _ = fs::remove_file(&self.path);
        }
    }

    /// The speed that the driver set, if it is plugged in.
    pub fn baud(&self) -> Option<u32> {
        // The system gives the settings of the other end.
        let settings = tcgetattr(self.master.as_ref()?).ok()?;
        Some(settings.output_speed()).filter(|speed| *speed > 0)
    }

    /// Reads what the driver wrote.
    ///
    /// # Errors
    /// As the system says; a port that nobody has open is none.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<PtyRead> {
        let Some(master) = &self.master else {
            return Ok(PtyRead::Closed);
        };
        match rustix::io::read(master, buffer) {
            Ok(0) | Err(Errno::IO) => Ok(PtyRead::Closed),
            Ok(octets) => Ok(PtyRead::Octets(octets)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(PtyRead::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes to the driver. What it does not read in time is lost, as on a line without flow control.
    pub fn write(&mut self, mut octets: &[u8]) {
        let Some(master) = &self.master else { return };
        while !octets.is_empty() {
            match rustix::io::write(master, octets) {
                Ok(written) => octets = &octets[written..],
                Err(Errno::INTR) => {}
                // Full, or nobody there.
                Err(_) => return,
            }
        }
    }

    /// Waits until there is something to read, or for so long.
    ///
    /// # Errors
    /// As the system says.
    pub fn wait(&self, timeout: core::time::Duration) -> io::Result<()> {
        let timeout = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let mut fds: Vec<PollFd<'_>> = Vec::new();
        if let Some(master) = &self.master {
            let master: BorrowedFd<'_> = master.as_fd();
            fds.push(PollFd::from_borrowed_fd(master, PollFlags::IN));
        }
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // A terminal that nobody has open is always "ready": that must not become a busy loop.
        if fds.iter().any(|fd| fd.revents().contains(PollFlags::HUP)) {
            std::thread::sleep(
                core::time::Duration::from_millis(5).min(core::time::Duration::new(
                    timeout.tv_sec as u64,
                    timeout.tv_nsec as u32,
                )),
            );
        }
        Ok(())
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        self.unplug();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;
    use std::time::Instant;

    #[test]
    fn octets_pass_unchanged_both_ways() {
        let mut port = TestPort::new("octets");
        let driver = port.open();
        let all: Vec<u8> = (0..=255).collect();
        rustix::io::write(&driver, &all).unwrap();
        assert_eq!(port.read(256), all);
        port.pty.write(&all);
        let mut buffer = [0; 512];
        let read = rustix::io::read(&driver, &mut buffer).unwrap();
        assert_eq!(&buffer[..read], all);
    }

    #[test]
    fn speed_is_the_one_that_the_driver_set() {
        let port = TestPort::new("speed");
        let driver = port.open();
        for baud in [9_600, 57_600, 115_200, 12_345] {
            let mut settings = tcgetattr(&driver).unwrap();
            settings.set_speed(baud).unwrap();
            tcsetattr(&driver, OptionalActions::Now, &settings).unwrap();
            assert_eq!(port.pty.baud(), Some(baud));
        }
    }

    #[test]
    fn driver_that_goes_is_noticed_and_may_come_back() {
        let mut port = TestPort::new("goes");
        let mut buffer = [0; 8];
        assert_eq!(port.pty.read(&mut buffer).unwrap(), PtyRead::Closed);
        let driver = port.open();
        assert_eq!(port.pty.read(&mut buffer).unwrap(), PtyRead::Nothing);
        drop(driver);
        assert_eq!(port.pty.read(&mut buffer).unwrap(), PtyRead::Closed);
        let driver = port.open();
        rustix::io::write(&driver, b"AT\r\n").unwrap();
        assert_eq!(port.read(4), b"AT\r\n");
    }

    #[test]
    fn unplugged_port_is_gone_and_comes_back_under_its_path() {
        let mut port = TestPort::new("unplug");
        let driver = port.open();
        port.pty.unplug();
        assert!(!port.path.exists() && !port.path.is_symlink());
        assert_eq!(port.pty.baud(), None);
        let mut buffer = [0; 8];
        let read = rustix::io::read(&driver, &mut buffer);
        assert!(matches!(read, Ok(0) | Err(Errno::IO)), "{read:?}");
        assert_eq!(rustix::io::write(&driver, b"x"), Err(Errno::IO));
        port.pty.plug().unwrap();
        let driver = port.open();
        rustix::io::write(&driver, b"AT\r\n").unwrap();
        assert_eq!(port.read(4), b"AT\r\n");
    }

    #[test]
    fn driver_that_does_not_read_blocks_nobody() {
        let mut port = TestPort::new("blocks");
        let _driver = port.open();
        for _ in 0..1000 {
            port.pty.write(&[0x55; 4096]);
        }
    }

    #[test]
    fn waiting_for_nobody_takes_its_time() {
        let port = TestPort::new("wait");
        let start = Instant::now();
        for _ in 0..10 {
            port.pty.wait(Duration::from_millis(50)).unwrap();
        }
        assert!(start.elapsed() >= Duration::from_millis(50), "a busy loop");
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let path = path("file");
        fs::write(&path, "precious").unwrap();
        let error = Pty::new(&path).expect_err("a file is there");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn link_goes_with_its_port() {
        let port = TestPort::new("drop");
        let path = port.path.clone();
        assert!(path.is_symlink());
        drop(port);
        assert!(!path.is_symlink());
    }

    struct TestPort {
        pty: Pty,
        path: PathBuf,
    }

    impl TestPort {
        fn new(name: &str) -> TestPort {
            let path = path(name);
            let mut pty = Pty::new(&path).unwrap();
            pty.plug().unwrap();
            TestPort { pty, path }
        }

        fn open(&self) -> OwnedFd {
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            open(self.path.as_path(), flags, Mode::empty()).unwrap()
        }

        /// So many octets from the driver.
        fn read(&mut self, octets: usize) -> Vec<u8> {
            let mut got = Vec::new();
            let mut buffer = [0; 512];
            while got.len() < octets {
                match self.pty.read(&mut buffer).unwrap() {
                    PtyRead::Octets(read) => got.extend_from_slice(&buffer[..read]),
                    PtyRead::Nothing => self.pty.wait(Duration::from_secs(5)).unwrap(),
                    PtyRead::Closed => panic!("closed after {} octets", got.len()),
                }
            }
            got
        }
    }

    /// Tests of one process run at the same time, and those of several may.
    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("snipe-pty-{}-{name}", std::process::id()))
    }
}
