//! The task that keeps a radio on a serial port running for years.
//!
//! It opens the port, carries out what a [`Driver`] wants and tells it what the line brings. A port that is not there,
//! not permitted or in use is tried again with growing waits, for as long as the gateway runs: a radio that is plugged
//! in later simply begins to work. While a port is gone the core knows that its own radio is down
//! ([`LinkEvent::Down`](gateway_core::io::LinkEvent::Down)) and does not blame clients for their silence.
//!
//! The port is ours alone while it is open, and passes octets of any value. DTR is left as it is, so that opening a
//! port again does not reset an Arduino.

mod line;
mod log;
mod port;
mod probe;
mod task;

use std::sync::Arc;

use gateway_core::peer::LinkId;
use tokio::sync::mpsc;

pub use self::port::{PortError, check_port};
pub use self::probe::{ProbeError, Probed, probe};

use self::task::Task;
use crate::driver::Driver;
use crate::settings::PortSettings;
use crate::stats::RadioStats;
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
    /// When the last clone of the returned sender is dropped, what it was given is sent (for half a second at most),
    /// the port is closed and the link's clone of `inputs` dropped.
    ///
    /// # Panics
    /// Outside of a Tokio runtime with I/O and time enabled.
    pub fn spawn(self, link: LinkId, inputs: InputSender) -> (LinkSender, Arc<RadioStats>) {
        let (sender, batches) = mpsc::unbounded_channel();
        let stats = Arc::new(RadioStats::default());
        let task = Task::new(self, link, inputs, batches, stats.clone());
        tokio::spawn(task.run());
        (sender, stats)
    }
}
