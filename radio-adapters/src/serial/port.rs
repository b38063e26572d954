//! Opening a serial port, and why it does not open.

use std::path::PathBuf;

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
    #[error("{}: in use by another program; `fuser -v {}` names it (ModemManager and gpsd like to take ports)", .0.display(), .0.display())]
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
        error: std::io::Error,
    },
}

/// Opens the port and closes it again.
///
/// # Errors
/// It cannot be opened.
pub async fn check_port(settings: &PortSettings) -> Result<(), PortError> {
    todo!("{settings:?}")
}

fn hint(group: Option<&str>) -> String {
    match group {
        Some(group) => format!("join its group: `sudo usermod -aG {group} $USER`, then log in again"),
        None => "see `ls -l` for who may open it".to_owned(),
    }
}
