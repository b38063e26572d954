//! What a dialect tells the engine about its modem: a [`Table`], and the meaning of each line.

use core::fmt::Debug;
use core::ops::Range;
use core::time::Duration;

/// The commands and the lines of one kind of modem.
///
/// A value lives from one set-up of the modem to the next: what it learned of the modem is forgotten then.
pub(super) trait Dialect: Debug + Send {
    /// The modem as data. What [`Dialect::learned`] finds out may change it.
    fn table(&self) -> &Table;

    /// What a line means, while the command `asked` waits for its answer. The line is without its end, and without
    /// what cannot be text at both of its ends.
    fn read(&mut self, line: &[u8], asked: Option<&str>) -> Meaning;

    /// The command that sends octets, to an address where the modem knows addresses.
    fn send(&self, to: u16, octets: &[u8]) -> String;

    /// Whether the value that a command was answered with is the one that is wanted.
    fn fits(&self, _command: &str, _value: &str) -> bool {
        true
    }

    /// A command of the set-up was answered: `None` if it was refused.
    fn learned(&mut self, _command: &str, _value: Option<&str>) {}

    /// Where the line ends that begins with the first of these octets.
    fn cut(&self, _octets: &[u8]) -> Cut {
        Cut::LineFeed
    }
}

/// Where a line ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cut {
    /// With the first LF.
    LineFeed,
    /// These octets are the line; what stands before them is not part of it, and LF in them not its end.
    At(Range<usize>),
    /// Later than what is there, whatever LF is in it.
    More,
}

/// A kind of modem as data.
#[derive(Debug)]
pub(super) struct Table {
    /// What people call it.
    pub name: &'static str,
    /// What it calls itself, and its firmware, as far as known.
    pub identity: String,
    /// See `identity`.
    pub firmware: String,
    /// A break and an octet 0x55 make it adopt our speed.
    pub autobaud: bool,
    /// What people must know of it as it is.
    pub caveat: Option<&'static str>,
    /// Any modem of this kind answers this, in every state.
    pub probe: Step,
    /// Brings it from any state to the configured one, not listening.
    pub setup: Vec<Step>,
    /// Makes it listen. Empty if it does so by itself.
    pub listen: Vec<Step>,
    /// Makes it stop listening.
    pub stop: Vec<Step>,
    /// What must happen before it sends.
    pub before_send: BeforeSend,
    /// It no longer listens after it received something.
    pub deaf_after_reception: bool,
    /// It no longer listens after it sent something.
    pub deaf_after_send: bool,
    /// Asks for signal strength and noise of the last reception.
    pub signal: Vec<(Signal, Step)>,
    /// How it tells that something was sent.
    pub completion: Completion,
    /// Its last word before it starts again, and how long that takes.
    pub reset: (&'static str, Duration),
    /// Asked after a long silence.
    pub check: Vec<Step>,
    /// To be repeated every day, while it does not listen.
    pub daily: Vec<Step>,
}

/// What must happen before a modem sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BeforeSend {
    /// Nothing: it goes back to listening by itself.
    Nothing,
    /// It must stop listening.
    Stop,
    /// Its reception cannot be stopped, it ends by itself after so long.
    Wait(Duration),
}

/// Something that is asked for after a reception.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// Signal strength, in dBm.
    Rssi,
    /// Signal to noise ratio, in dB.
    Snr,
}

/// How a modem tells that something was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Completion {
    /// By a line, at the latest so long after the time on air.
    Line(Duration),
    /// Not at all: it is done so long after the time on air.
    Airtime(Duration),
}

/// One command of a script.
#[derive(Debug, Clone)]
pub(super) struct Step {
    /// The command, without the end of the line.
    pub command: String,
    /// What to do if it is refused, or its value does not fit.
    pub otherwise: Otherwise,
    /// The modem starts again after it, answered or not, and takes at most so long.
    pub restarts: Option<Duration>,
}

/// What to do if a command is refused or its value does not fit.
#[derive(Debug, Clone)]
pub(super) enum Otherwise {
    /// The modem cannot be used as configured.
    Fail,
    /// Go on.
    Skip,
    /// Go on, and tell people.
    Degrade(&'static str),
    /// Do this instead.
    Try(Vec<Step>),
    /// It lost its settings: set it up again.
    SetUp,
}

/// What a line means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The command was carried out.
    Done,
    /// The command was carried out and this is its value.
    DoneWith(String),
    /// The command's value; whether it was carried out follows.
    Value(String),
    /// The command was refused.
    Refused,
    /// The command comes at the wrong time.
    Busy,
    /// Octets arrived.
    Received(Reception),
    /// Text arrived that does not stand for octets: its sender encodes in another way, or not at all.
    Foreign,
    /// What was sent has left the antenna.
    Sent,
    /// What was sent, or the reception, ended badly.
    Failed,
    /// Something arrived damaged; the modem goes on listening.
    Damaged,
    /// The modem listens no longer.
    Deaf,
    /// The modem started.
    Started,
    /// A line of this modem that means nothing to us.
    Known,
    /// No line of this modem.
    Noise,
}

/// Octets that arrived.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Reception {
    /// Who sent them, if the modem knows.
    pub from: Option<u16>,
    /// Signal strength, in dBm.
    pub rssi_dbm: Option<i16>,
    /// Signal to noise ratio, in dB.
    pub snr_db: Option<i8>,
    /// The octets.
    pub octets: Vec<u8>,
}

impl Step {
    /// A command that must be carried out.
    pub(super) fn must(command: impl Into<String>) -> Step {
        Step {
            command: command.into(),
            otherwise: Otherwise::Fail,
            restarts: None,
        }
    }

    /// A command that may be refused.
    pub(super) fn may(command: impl Into<String>) -> Step {
        Step::must(command).or(Otherwise::Skip)
    }

    /// With another way out.
    pub(super) fn or(self, otherwise: Otherwise) -> Step {
        Step { otherwise, ..self }
    }

    /// With a restart of the modem after it.
    pub(super) fn restarting(self, within: Duration) -> Step {
        Step {
            restarts: Some(within),
            ..self
        }
    }
}
