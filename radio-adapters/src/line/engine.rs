//! The engine: what all modems have in common that are driven by lines of text.
//!
//! One command is on its way at a time. Lines that answer nothing (receptions, completions, a restart) count at once,
//! whatever waits. This file does what is due and runs scripts; `hear` takes what the modem says, `answer` what it says
//! to a command, `send` brings datagrams to the antenna, `recover` deals with a modem that does not answer.

use core::time::Duration;
use std::collections::VecDeque;

use gateway_core::io::{Destination, LinkEvent, LinkProfile, TxTicket};
use gateway_core::time::Instant;

use super::dialect::{BeforeSend, Dialect, Reception, Signal, Step};
use super::lines::{LONGEST, Line, Lines};
use super::recover::{Attempt, Resume};
use super::send::{Active, Frame};
use crate::acks::AckAirtime;
use crate::driver::{Driver, DriverOutput, DropReason, Report};
use crate::header::Header;
use crate::settings::LoraSettings;

/// A command is answered within this time, and the time that its octets and those of a long line take.
pub(super) const ANSWER: Duration = Duration::from_secs(1);

/// After a break in the conversation the modem gets this time to say what it still has to say.
pub(super) const FLUSH: Duration = Duration::from_millis(100);

/// From the first line of a start-up text to the moment at which the modem takes commands.
pub(super) const STARTED: Duration = Duration::from_millis(500);

/// A modem that says nothing for so long is asked whether it is still there and listens.
const SILENCE: Duration = Duration::from_secs(60);

/// The idle LoRaWAN part of an RN2483 can be paused for 49 days at once.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A refused configuration is tried again after this, then after twice as long, up to [`REFUSED_MAX`].
pub(super) const REFUSED_FIRST: Duration = Duration::from_secs(30);
pub(super) const REFUSED_MAX: Duration = Duration::from_secs(600);

/// A busy modem is asked again after this, then after twice as long, this many times: 1.55 s in all.
pub(super) const BUSY_FIRST: Duration = Duration::from_millis(50);
pub(super) const BUSY_TIMES: u32 = 5;

/// Drives a modem by lines of text.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) settings: LoraSettings,
    pub(super) make: fn(&LoraSettings) -> Box<dyn Dialect>,
    pub(super) dialect: Box<dyn Dialect>,
    pub(super) header: Header,
    pub(super) profile: LinkProfile,
    pub(super) acks: AckAirtime,
    pub(super) lines: Lines,
    pub(super) phase: Phase,
    pub(super) script: VecDeque<(Role, Step)>,
    pub(super) pending: Option<Pending>,
    /// The script goes on then.
    pub(super) pause: Option<Instant>,
    /// It pauses because the modem was told to start again.
    pub(super) restarting: bool,
    /// Nothing is sent before: those who just spoke must switch to listening, those who were spoken to may answer.
    pub(super) hold: Instant,
    /// The modem listens, as far as we know.
    pub(super) listening: bool,
    /// Its reception ends by itself, at the latest then.
    pub(super) window_ends: Option<Instant>,
    pub(super) up: bool,
    /// The core may hand over a datagram.
    pub(super) credit: bool,
    /// A datagram was settled, and the credit for the next not yet given.
    pub(super) credit_owed: bool,
    pub(super) waiting: VecDeque<Frame>,
    pub(super) active: Option<Active>,
    /// A reception whose signal is being asked for.
    pub(super) held: Option<Reception>,
    pub(super) busy: u32,
    /// Commands in a row that were not answered.
    pub(super) misses: u8,
    /// Transmissions in a row that the modem did not say a good word about.
    pub(super) unconfirmed: u8,
    /// Times the port was opened since the modem last worked.
    pub(super) opened_in_vain: u32,
    pub(super) attempts: VecDeque<Attempt>,
    /// The modem was told to start again since the port was opened.
    pub(super) was_reset: bool,
    pub(super) refusals: u32,
    pub(super) last_refusal: Option<String>,
    pub(super) speed: u32,
    pub(super) heard: Instant,
    pub(super) daily: Instant,
    pub(super) outputs: VecDeque<DriverOutput>,
}

/// What a modem is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is no port.
    Closed,
    /// It starts. It is asked for a sign of life then.
    Starting { until: Instant },
    /// It is asked for a sign of life, to go on with what was interrupted.
    Probing { then: Resume, silent: u8 },
    /// It is set up; at last it is made to listen.
    Configuring { last: bool },
    /// It listens, or is about to.
    Receiving,
    /// It is made ready to send, or was told to.
    Sending,
    /// It sends; it should be done then.
    OnAir { until: Instant },
    /// It refused its settings; they are tried again then.
    Refused { until: Instant },
    /// It does not answer; the port is to be opened again then.
    Hopeless { until: Instant },
}

/// What a command is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Probe,
    Plain,
    Listen,
    Stop,
    Signal(Signal),
    Send,
}

/// The command on its way.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) role: Role,
    pub(super) step: Step,
    pub(super) deadline: Instant,
    pub(super) value: Option<String>,
}

impl Engine {
    pub(super) fn new(
        settings: &LoraSettings,
        profile: LinkProfile,
        make: fn(&LoraSettings) -> Box<dyn Dialect>,
    ) -> Engine {
        let header = super::profile::link_header(settings);
        Engine {
            make,
            dialect: make(settings),
            header: Header::new(header),
            profile,
            acks: AckAirtime::new(header, settings.duty_cycle_ppm),
            lines: Lines::default(),
            phase: Phase::Closed,
            script: VecDeque::new(),
            pending: None,
            pause: None,
            restarting: false,
            hold: Instant::START,
            listening: false,
            window_ends: None,
            up: false,
            credit: false,
            credit_owed: false,
            waiting: VecDeque::new(),
            active: None,
            held: None,
            busy: 0,
            misses: 0,
            unconfirmed: 0,
            opened_in_vain: 0,
            attempts: VecDeque::new(),
            was_reset: false,
            refusals: 0,
            last_refusal: None,
            speed: settings.port.baud,
            heard: Instant::START,
            daily: Instant::START,
            outputs: VecDeque::new(),
            settings: settings.clone(),
        }
    }

    pub(super) fn report(&mut self, report: Report) {
        self.outputs.push_back(DriverOutput::Report(report));
    }

    pub(super) fn link(&mut self, event: LinkEvent) {
        self.outputs.push_back(DriverOutput::Link(event));
    }

    /// Time that so many octets take on the line: ten bits each.
    pub(super) fn line_time(&self, octets: usize) -> Duration {
        Duration::from_micros(octets as u64 * 10_000_000 / u64::from(self.speed.max(1)))
    }

    /// How long a command waits for its answer: a long line may come in between.
    pub(super) fn patience(&self, command: &str) -> Duration {
        ANSWER + self.line_time(command.len() + LONGEST / 2)
    }

    // What is due. Each step gives true if it did something that may make another one due.

    pub(super) fn advance(&mut self, now: Instant) {
        while self.advance_once(now) {}
    }

    fn advance_once(&mut self, now: Instant) -> bool {
        if let Some(pending) = &self.pending {
            if now < pending.deadline {
                return false;
            }
            self.on_silence(now);
            return true;
        }
        if let Some(pause) = self.pause {
            if now < pause {
                return false;
            }
            self.pause = None;
            self.restarting = false;
        }
        if let Some((role, step)) = self.script.pop_front() {
            self.command(now, role, step);
            return true;
        }
        // A reception waits only as long as its signal is being asked for.
        self.release(now);
        match self.phase {
            Phase::Closed => false,
            Phase::Starting { until } if now >= until => {
                self.start_probing(now, Resume::SetUp);
                true
            }
            Phase::Probing { .. } => {
                self.next_attempt(now);
                true
            }
            Phase::Configuring { last } => {
                self.on_configured(now, last);
                true
            }
            Phase::Receiving => self.advance_receiving(now),
            Phase::Sending => self.advance_sending(now),
            Phase::OnAir { until } if now >= until => {
                self.on_air_over(now);
                true
            }
            Phase::Refused { until } if now >= until => {
                self.start_probing(now, Resume::SetUp);
                true
            }
            Phase::Hopeless { until } if now >= until => {
                self.reopen();
                true
            }
            Phase::Starting { .. } | Phase::OnAir { .. } | Phase::Refused { .. } | Phase::Hopeless { .. } => {
                false
            }
        }
    }

    fn advance_receiving(&mut self, now: Instant) -> bool {
        // The script is through: the modem works.
        self.misses = 0;
        let before_send = self.dialect.table().before_send;
        if self.window_ends.is_some_and(|end| now >= end) {
            self.window_ends = None;
            self.listening = false;
        }
        let can_stop = !matches!(before_send, BeforeSend::Wait(_));
        let wants_to_send = !self.waiting.is_empty();
        if wants_to_send && now >= self.hold && (can_stop || !self.listening) {
            self.phase = Phase::Sending;
            if self.listening && before_send == BeforeSend::Stop {
                self.queue_stop();
            }
            return true;
        }
        if self.daily_due(now) {
            self.daily = now + DAY;
            let daily = self.dialect.table().daily.clone();
            if !daily.is_empty() {
                if self.listening {
                    self.queue_stop();
                }
                self.queue(Role::Plain, daily);
                return true;
            }
        }
        if !self.listening {
            // Where a reception cannot be stopped, none is begun before something that waits was sent.
            if wants_to_send && !can_stop {
                return false;
            }
            self.queue_listen();
            return true;
        }
        if self.credit_owed && !wants_to_send && now >= self.hold {
            self.credit_owed = false;
            self.credit = true;
            self.link(LinkEvent::Credit(1));
        }
        if now >= self.heard + SILENCE {
            self.heard = now;
            let table = self.dialect.table();
            let check = table.check.clone();
            // The line of a reception may have been lost, and with it that listening is over.
            if table.deaf_after_reception && can_stop {
                self.queue_stop();
            }
            self.queue(Role::Plain, check);
            return true;
        }
        false
    }

    /// A reception that cannot be stopped is not disturbed.
    fn daily_due(&self, now: Instant) -> bool {
        now >= self.daily && !(self.window_ends.is_some() && self.listening)
    }

    fn next_deadline(&self) -> Option<Instant> {
        if let Some(pending) = &self.pending {
            return Some(pending.deadline);
        }
        if self.pause.is_some() {
            return self.pause;
        }
        match self.phase {
            Phase::Closed | Phase::Probing { .. } | Phase::Configuring { .. } => None,
            Phase::Starting { until }
            | Phase::OnAir { until }
            | Phase::Refused { until }
            | Phase::Hopeless { until } => Some(until),
            Phase::Sending => Some(self.hold),
            Phase::Receiving => {
                let waits_for_window = self.window_ends.is_some() && self.listening;
                let hold = ((!self.waiting.is_empty() && !waits_for_window)
                    || (self.credit_owed && self.waiting.is_empty()))
                .then_some(self.hold);
                let daily = (!waits_for_window).then_some(self.daily);
                [hold, self.window_ends, daily, Some(self.heard + SILENCE)]
                    .into_iter()
                    .flatten()
                    .min()
            }
        }
    }

    // Scripts.

    pub(super) fn queue(&mut self, role: Role, steps: Vec<Step>) {
        self.script.extend(steps.into_iter().map(|step| (role, step)));
    }

    pub(super) fn queue_stop(&mut self) {
        self.queue(Role::Stop, self.dialect.table().stop.clone());
        self.listening = false;
    }

    pub(super) fn queue_listen(&mut self) {
        let listen = self.dialect.table().listen.clone();
        self.listening = listen.is_empty();
        self.queue(Role::Listen, listen);
    }

    pub(super) fn command(&mut self, now: Instant, role: Role, step: Step) {
        if !matches!(role, Role::Signal(_)) {
            self.release(now);
        }
        let mut octets = step.command.clone().into_bytes();
        octets.extend(b"\r\n");
        self.outputs.push_back(DriverOutput::Write(octets));
        let deadline = now + self.patience(&step.command);
        self.pending = Some(Pending {
            role,
            step,
            deadline,
            value: None,
        });
    }

    /// The port is open or the modem started: from here on it is set up.
    pub(super) fn configure(&mut self, now: Instant) {
        self.go_down(now);
        self.dialect = (self.make)(&self.settings);
        self.script.clear();
        self.pending = None;
        self.listening = false;
        self.window_ends = None;
        self.busy = 0;
        self.phase = Phase::Configuring { last: false };
        let table = self.dialect.table();
        let setup = table.stop.iter().chain(&table.setup).cloned().collect();
        self.queue(Role::Plain, setup);
    }

    fn on_configured(&mut self, now: Instant, last: bool) {
        if !last {
            self.phase = Phase::Configuring { last: true };
            self.queue_listen();
            return;
        }
        self.phase = Phase::Receiving;
        self.misses = 0;
        self.opened_in_vain = 0;
        self.was_reset = false;
        self.refusals = 0;
        self.last_refusal = None;
        self.daily = now + DAY;
        self.up = true;
        self.credit = true;
        self.credit_owed = false;
        if self.speed != self.settings.port.baud {
            let (found, configured) = (self.speed, self.settings.port.baud);
            self.report(Report::Degraded(format!(
                "the modem answers at {found} bit/s; baud = {configured} is configured"
            )));
        }
        if let Some(caveat) = self.dialect.table().caveat {
            self.report(Report::Degraded(caveat.into()));
        }
        let table = self.dialect.table();
        let (identity, firmware) = (table.identity.clone(), table.firmware.clone());
        self.report(Report::Ready { identity, firmware });
        self.link(LinkEvent::Up(self.profile.clone()));
    }

    /// Ends whatever the modem was told to do step by step.
    pub(super) fn abandon_script(&mut self) {
        self.script.clear();
        self.pending = None;
        self.pause = None;
        self.restarting = false;
        self.listening = false;
        self.window_ends = None;
    }

    /// The link is not there for now, and whoever waits for it is told.
    pub(super) fn go_down(&mut self, now: Instant) {
        self.release(now);
        self.settle_all();
        self.credit = false;
        self.credit_owed = false;
        if core::mem::take(&mut self.up) {
            self.link(LinkEvent::Down);
        }
    }
}

impl Driver for Engine {
    fn opened(&mut self, now: Instant) {
        self.go_down(now);
        self.abandon_script();
        self.lines.clear();
        self.speed = self.settings.port.baud;
        self.was_reset = false;
        self.misses = 0;
        self.busy = 0;
        self.heard = now;
        self.start_probing(now, Resume::SetUp);
        self.advance(now);
    }

    fn closed(&mut self, now: Instant) {
        self.go_down(now);
        self.abandon_script();
        self.lines.clear();
        self.phase = Phase::Closed;
    }

    fn received(&mut self, now: Instant, octets: &[u8]) {
        if self.phase == Phase::Closed {
            return;
        }
        // In pieces, so that what is kept stays small.
        for octets in octets.chunks(512) {
            self.lines.push(now, octets);
            while let Some(line) = self.lines.next(|octets| self.dialect.cut(octets)) {
                match line {
                    Line::Whole(line) => self.on_line(now, &line),
                    Line::TooLong => self.report(Report::Dropped(DropReason::Overrun)),
                }
                self.advance(now);
            }
        }
        self.advance(now);
    }

    fn transmit(&mut self, now: Instant, to: &Destination, datagram: &[u8], ticket: TxTicket) {
        self.take(to, datagram, ticket);
        self.advance(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.next_deadline()
    }

    fn poll_output(&mut self) -> Option<DriverOutput> {
        self.outputs.pop_front()
    }
}
