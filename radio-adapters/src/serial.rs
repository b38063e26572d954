//! The task that keeps a radio on a serial port running for years.
//!
//! It opens the port, carries out what a [`Driver`] wants and tells it what the line brings. A port that is not there,
//! not readable or in use is tried again with growing waits, for as long as the gateway runs: a radio that is plugged
//! in later simply begins to work. While a port is gone the core knows that its own radio is down
//! ([`LinkEvent::Down`](gateway_core::io::LinkEvent::Down)) and does not blame clients for their silence.

use core::time::Duration;
use std::sync::Arc;

use gateway_core::peer::LinkId;

mod port;

pub use self::port::{PortError, check_port};

use crate::driver::Driver;
use crate::settings::PortSettings;
use crate::stats::{Identity, RadioStats};
use crate::{InputSender, LinkSender};

/// One radio of the configuration on a serial port.
#[derive(Debug)]
pub struct SerialLink {
    /// Its name, for the log.
    pub name: String,
    /// Where it is.
    pub port: PortSettings,
    /// What drives it.
    pub driver: Box<dyn Driver>,
}

impl SerialLink {
    /// Spawns the task that drives the radio; it opens the port, now or as soon as it can.
    ///
    /// When the last clone of the returned sender is dropped, what it was given is sent (for a second at most), the
    /// port is closed and the link's clone of `inputs` dropped.
    ///
    /// # Panics
    /// Outside of a Tokio runtime with I/O and time enabled.
    pub fn spawn(self, link: LinkId, inputs: InputSender) -> (LinkSender, Arc<RadioStats>) {
        todo!("{self:?} {link:?} {inputs:?}")
    }
}

/// Opens the port, sets up the modem and says what it is; the port is closed again.
///
/// # Errors
/// The port cannot be opened, the modem refuses its configuration, or does not answer for so long.
pub async fn probe(
    port: &PortSettings,
    driver: Box<dyn Driver>,
    timeout: Duration,
) -> Result<Probed, ProbeError> {
    todo!("{port:?} {driver:?} {timeout:?}")
}

/// What a modem said when it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// What it is.
    pub identity: Identity,
    /// What does not work as it should.
    pub degraded: Vec<String>,
}

/// A modem cannot be asked what it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The port cannot be opened.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The port went away while the modem was set up.
    #[error("the port went away: {0}")]
    Gone(std::io::Error),
    /// The modem does not take its configuration: what it refused, and what to change.
    #[error("{0}")]
    Refused(String),
    /// Nothing came in time.
    #[error("the modem did not answer within {}s: check its power, its wiring (TX and RX crossed?) and `baud`", .0.as_secs_f32())]
    Silent(Duration),
    /// Something came in time, but nothing that the driver understands.
    #[error("no answer within {}s, but {octets} octets that are none: is `baud` right, and is it this kind of modem?", .timeout.as_secs_f32())]
    Gibberish {
        /// How long it was waited.
        timeout: Duration,
        /// How many octets came.
        octets: u64,
    },
}
