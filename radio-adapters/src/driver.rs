//! What drives a modem on a serial line: a value without the line and without a clock.
//!
//! A [`Driver`] takes octets of the line, datagrams to send and the time; it gives out octets for the line, datagrams
//! that arrived and what the core must know. The serial task runs one on a real port, the simulated air runs it in
//! virtual time. After every call [`Driver::poll_output`] is drained to `None`; only then does
//! [`Driver::poll_timeout`] mean anything.

use core::fmt::Debug;
use std::borrow::Cow;

use gateway_core::io::{Destination, LinkEvent, RadioFacts, TxTicket};
use gateway_core::peer::LinkAddr;
use gateway_core::time::Instant;

/// One kind of modem, or raw framing, on a serial line.
///
/// Nothing that the line brings may make it panic, wait for ever or keep more than a bounded amount. It reports
/// [`LinkEvent::Up`] when datagrams can be sent, and not earlier; it grants credit by `Up` and [`LinkEvent::Credit`],
/// for one datagram at a time where the modem takes one at a time, and answers each datagram with
/// [`LinkEvent::Sent`] when it has left the antenna or [`LinkEvent::Unsent`] if it never will. Half-duplex links hold
/// the next credit back until those who just sent listen again.
pub trait Driver: Debug + Send {
    /// The port is open, and what it had buffered is gone. Begins to set up the modem.
    fn opened(&mut self, now: Instant);

    /// The port is gone. What was handed over and not sent is reported [`LinkEvent::Unsent`], the link
    /// [`LinkEvent::Down`] if it was up.
    fn closed(&mut self, now: Instant);

    /// Octets from the line, however they are cut.
    fn received(&mut self, now: Instant, octets: &[u8]);

    /// One datagram to send, within the credit that was granted.
    fn transmit(&mut self, now: Instant, to: &Destination, datagram: &[u8], ticket: TxTicket);

    /// A deadline passed. A late or needless call does no harm.
    fn handle_timeout(&mut self, now: Instant);

    /// When [`Driver::handle_timeout`] is wanted.
    fn poll_timeout(&self) -> Option<Instant>;

    /// The next thing to carry out.
    fn poll_output(&mut self) -> Option<DriverOutput>;
}

/// What a driver wants done, or known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DriverOutput {
    /// Octets for the line, to be written in one go.
    Write(Vec<u8>),
    /// The line's speed from now on, for modems that are found at another one.
    SetBaud(u32),
    /// A break of this many milliseconds on the line (RN2483: begins its search for the speed).
    Break(u16),
    /// A datagram arrived.
    Received {
        /// Who sent it.
        from: LinkAddr,
        /// How it was received.
        facts: RadioFacts,
        /// What it holds.
        datagram: Vec<u8>,
    },
    /// For the core.
    Link(LinkEvent),
    /// The modem does not answer: close the port and open it again. It is counted as [`Recovery::Reopen`].
    Reopen,
    /// For the log and the counters.
    Report(Report),
}

/// What people want to know about a modem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// It is set up.
    Ready {
        /// What it calls itself.
        identity: String,
        /// Its firmware, as it says.
        firmware: String,
    },
    /// It works, but not as it should.
    Degraded(String),
    /// It cannot be used as configured: what it refused, and what to change. It is tried again.
    Refused(String),
    /// It started again by itself.
    Rebooted,
    /// It did not answer, and this is tried now.
    Recovering(Recovery),
    /// Something was dropped.
    Dropped(DropReason),
    /// The peer's radio did not confirm a datagram.
    NotHeard,
}

/// How a modem that does not answer is brought back, in the order in which it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Recovery {
    /// The command is sent once more.
    Repeat,
    /// The line is cleared and the modem asked for a sign of life.
    Probe,
    /// The modem is told to start again.
    Reset,
    /// The port is opened again.
    Reopen,
}

impl Recovery {
    /// Every way, in declaration order: `recovery as usize` is its index here.
    pub const ALL: [Recovery; 4] = [
        Recovery::Repeat,
        Recovery::Probe,
        Recovery::Reset,
        Recovery::Reopen,
    ];

    /// The stable name used in counters and logs.
    pub fn name(self) -> &'static str {
        match self {
            Recovery::Repeat => "repeat",
            Recovery::Probe => "probe",
            Recovery::Reset => "reset",
            Recovery::Reopen => "reopen",
        }
    }
}

/// Why something was dropped between the line and the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Longer than anything that can be right.
    Overrun,
    /// An escape sequence that does not exist, or text that does not stand for octets.
    Escape,
    /// A checksum that does not fit.
    Checksum,
    /// A length that cannot be right.
    Length,
    /// Cut off by silence.
    Gap,
    /// A line that the modem does not write.
    Noise,
    /// Damaged on the air, says the modem.
    Air,
    /// For somebody else.
    NotForUs,
    /// A second copy of a frame.
    Duplicate,
    /// To send: larger than the modem takes.
    TooLong,
    /// To send: the modem refused it.
    Refused,
    /// To send: an acknowledgement of the link header for which no airtime was left.
    DutyCycle,
}

impl DropReason {
    /// Every reason, in declaration order: `reason as usize` is its index here.
    pub const ALL: [DropReason; 12] = [
        DropReason::Overrun,
        DropReason::Escape,
        DropReason::Checksum,
        DropReason::Length,
        DropReason::Gap,
        DropReason::Noise,
        DropReason::Air,
        DropReason::NotForUs,
        DropReason::Duplicate,
        DropReason::TooLong,
        DropReason::Refused,
        DropReason::DutyCycle,
    ];

    /// The stable name used in counters and logs.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::Overrun => "overrun",
            DropReason::Escape => "escape",
            DropReason::Checksum => "crc",
            DropReason::Length => "length",
            DropReason::Gap => "gap",
            DropReason::Noise => "noise",
            DropReason::Air => "air",
            DropReason::NotForUs => "not_for_us",
            DropReason::Duplicate => "duplicate",
            DropReason::TooLong => "oversize",
            DropReason::Refused => "modem_refused",
            DropReason::DutyCycle => "duty_cycle",
        }
    }
}

/// Text of a modem for people: without control characters, and not longer than a log line should be.
pub fn printable(octets: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(&octets[..octets.len().min(120)]);
    if text.chars().any(char::is_control) {
        Cow::Owned(text.chars().filter(|c| !c.is_control()).collect())
    } else {
        text
    }
}
