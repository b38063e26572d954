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
