//! Opening a serial port, and why it does not open.

use core::time::Duration;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{ControlModes, OptionalActions, tcgetattr, tcsetattr};
use tokio_serial::{ClearBuffer, ErrorKind, FlowControl, SerialPort, SerialStream};

use crate::settings::PortSettings;

/// A serial port cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// There is no such file.
    #[error("{}: there is no such port; is it plugged in? `ls /dev/serial/by-id` lists those that there are", .0.display())]
    Missing(PathBuf),
    /// Its permissions do not let us.
    #[error("{}: no permission; {}", .path.display(), hint(.group.as_deref()))]
    Permission {
        /// The port.
        path: PathBuf,
        /// The group whose members may open it.
        group: Option<String>,
    },
    /// Another program has it.
    #[error("{}: in use by another program; `fuser -v {}` names it (ModemManager and gpsd like to take ports; a gateway that runs keeps its own)", .0.display(), .0.display())]
    Busy(PathBuf),
    /// It is no serial port.
    #[error("{}: not a serial port; see `port` of this radio", .0.display())]
    NotSerial(PathBuf),
    /// Anything else.
    #[error("{}: {error}", .path.display())]
    System {
        /// The port.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

impl PortError {
    /// A word for the log that stays the same while nothing changes.
    pub(super) fn cause(&self) -> &'static str {
        match self {
            PortError::Missing(_) => "missing",
            PortError::Permission { .. } => "no permission",
            PortError::Busy(_) => "busy",
            PortError::NotSerial(_) => "not a serial port",
            PortError::System { .. } => "system error",
        }
    }
}

/// Opens the port and closes it again.
///
/// # Errors
/// It cannot be opened.
///
/// # Panics
/// Outside of a Tokio runtime with I/O enabled.
pub async fn check_port(settings: &PortSettings) -> Result<(), PortError> {
    close(open(settings).await?).await;
    Ok(())
}

/// Opens the port for us alone, for octets of any value, with nothing in its buffers.
///
/// A USB adapter that hangs can hold system calls up for seconds: they have a thread of their own.
pub(super) async fn open(settings: &PortSettings) -> Result<SerialStream, PortError> {
    let settings = settings.clone();
    tokio::task::spawn_blocking(move || open_now(&settings))
        .await
        .expect("opening a port does not panic")
}

/// Closes the port and forgets what was not sent: the system would wait half a minute for a modem that takes nothing.
pub(super) async fn close(port: SerialStream) {
    let closed = tokio::task::spawn_blocking(move || {
        if unsent(&port) > 0 {
            let _ = port.clear(ClearBuffer::Output); // A port that is gone has no buffers.
        }
    });
    let _ = closed.await;
}

/// Octets that the system still has to send.
pub(super) fn unsent(port: &SerialStream) -> u32 {
    port.bytes_to_write().unwrap_or(0)
}

/// Changes the speed; a modem's answer at the old one may be lost.
pub(super) async fn set_baud(mut port: SerialStream, baud: u32) -> (SerialStream, io::Result<()>) {
    tokio::task::spawn_blocking(move || {
        let result = port.set_baud_rate(baud).map_err(io::Error::from);
        (port, result)
    })
    .await
    .expect("setting a speed does not panic")
}

/// Holds the line in a break; lines that have none, such as those of terminals, go without.
pub(super) async fn send_break(port: SerialStream, length: Duration) -> SerialStream {
    tokio::task::spawn_blocking(move || {
        if port.set_break().is_ok() {
            thread::sleep(length);
            let _ = port.clear_break();
        }
        port
    })
    .await
    .expect("a break does not panic")
}

fn open_now(settings: &PortSettings) -> Result<SerialStream, PortError> {
    let path = &settings.path;
    // Asked first, because the library tells "missing", "busy" and "denied" apart in words only.
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let held = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| explain(path, error))?;
    let mut modes = tcgetattr(&held).map_err(|error| explain(path, error))?;
    // Without it DTR stays up when the port is closed: opening it again does not reset an Arduino.
    modes.control_modes.remove(ControlModes::HUPCL);
    tcsetattr(&held, OptionalActions::Now, &modes).map_err(|error| explain(path, error))?;

    let flow = if settings.hardware_flow {
        FlowControl::Hardware
    } else {
        FlowControl::None
    };
    let builder = tokio_serial::new(path.to_string_lossy(), settings.baud).flow_control(flow);
    let port = SerialStream::open(&builder).map_err(|error| match error.kind {
        // Held by a lock, or by whoever was quicker than we.
        ErrorKind::NoDevice => PortError::Busy(path.clone()),
        _ => PortError::System {
            path: path.clone(),
            error: error.into(),
        },
    })?;
    drop(held);
    let _ = port.clear(ClearBuffer::All); // What was buffered is of an earlier life; without it the driver copes.
    Ok(port)
}

fn explain(path: &Path, error: Errno) -> PortError {
    let path = path.to_owned();
    match error {
        Errno::NOENT => PortError::Missing(path),
        Errno::ACCESS | Errno::PERM => PortError::Permission {
            group: group(&path),
            path,
        },
        Errno::BUSY => PortError::Busy(path),
        Errno::NOTTY | Errno::ISDIR => PortError::NotSerial(path),
        _ => PortError::System {
            path,
            error: error.into(),
        },
    }
}

/// The group of a port that its members may read and write.
fn group(path: &Path) -> Option<String> {
    const GROUP_READ_WRITE: u32 = 0o060;
    let metadata = fs::metadata(path).ok()?;
    if metadata.mode() & GROUP_READ_WRITE != GROUP_READ_WRITE {
        return None;
    }
    let id = metadata.gid().to_string();
    let groups = fs::read_to_string("/etc/group").ok()?;
    let named = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(&id)).then(|| name.to_owned())
    });
    Some(named.unwrap_or(id))
}

fn hint(group: Option<&str>) -> String {
    match group {
        Some(group) => {
            let user = std::env::var_os("USER");
            let user = user.as_deref().and_then(OsStr::to_str).unwrap_or("USER");
            format!("join its group: `sudo usermod -aG {group} {user}`, then log in again")
        }
        None => "`ls -lL` says who may open it".to_owned(),
    }
}
