//! Simulated modems: what hangs on a serial line, as values without I/O.
//!
//! A [`SimModem`] takes octets from the host, what it hears on the air, and the time; it gives out octets for the host
//! and requests to its radio. It is written from the makers' manuals and shares no code with the drivers it is there to
//! test. [`Uart`] puts the line in front of it: pace, wrong speed, and everything that goes wrong with cables. The air is
//! in [`crate::ether`].

pub mod ebyte;
mod fault;
pub mod framing;
mod line;
pub mod rak;
pub mod raw;
pub mod rn;
pub mod rylr;
#[cfg(test)]
mod tests;
mod text;
pub mod xbee;

use core::fmt::Debug;
use core::time::Duration;

use gateway_core::time::Instant;

use crate::ether::{AirEvent, AirRequest};

pub use fault::{Fault, FaultError, Mishap};
pub use line::{Uart, UartOutput};

/// A modem behind a UART.
///
/// After every call [`SimModem::poll_output`] is drained to `None`; only then does [`SimModem::poll_timeout`] mean
/// anything. Nothing that the host sends may make it panic or keep more than a bounded amount.
pub trait SimModem: Debug + Send {
    /// The speed it speaks now, in bits a second.
    fn baud(&self) -> u32;

    /// It has power, for the first time or again: what is not in its flash memory is gone. Also the end of a reset that
    /// it was not asked for.
    fn power_on(&mut self, now: Instant);

    /// Octets from the host.
    fn handle_octets(&mut self, now: Instant, octets: &[u8]);

    /// Something happened on the air, or a request to the radio was carried out.
    fn handle_air(&mut self, now: Instant, event: AirEvent);

    /// The host held the line low for so long that it is no octet; the host's speed is that given.
    fn handle_break(&mut self, _now: Instant, _host_baud: u32) {}

    /// Until then it says that it is busy to everything that it can say so to.
    fn set_busy(&mut self, until: Instant);

    /// It does something that its kind does now and then. Kinds that do not overlook it.
    fn provoke(&mut self, _now: Instant, _mishap: Mishap) {}

    /// A deadline passed. A late or needless call does no harm.
    fn handle_timeout(&mut self, now: Instant);

    /// When [`SimModem::handle_timeout`] is wanted.
    fn poll_timeout(&self) -> Option<Instant>;

    /// The next thing that it does.
    fn poll_output(&mut self) -> Option<ModemOutput>;
}

/// What a modem does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModemOutput {
    /// Octets for the host that answer a command, written in one go.
    Reply(Vec<u8>),
    /// Octets for the host that it did not ask for, written in one go.
    Event(Vec<u8>),
    /// For the radio.
    Air(AirRequest),
    /// It leaves the bus for so long, as modems with USB of their own do when they start again. It keeps its power.
    Vanish(Duration),
    /// What a person watching would like to know.
    Note(String),
}
