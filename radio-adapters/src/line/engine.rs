//! The engine: what all modems have in common that are driven by lines of text.
//!
//! One command is on its way at a time. Lines that answer nothing (receptions, completions, a restart) count at once,
//! whatever waits. Three parts: this file takes lines and runs scripts, `send` brings datagrams to the antenna,
//! `recover` deals with a modem that does not answer.

use core::time::Duration;
use std::collections::VecDeque;

use gateway_core::io::{Destination, LinkEvent, LinkProfile, RadioFacts, TxTicket};
use gateway_core::peer::LinkAddr;
use gateway_core::time::Instant;

use super::dialect::{BeforeSend, Dialect, Meaning, Otherwise, Reception, Signal, Step};
use super::lines::{LONGEST, Line, Lines, trimmed};
use super::recover::{Attempt, Resume};
use super::send::{Active, Frame};
use super::text;
use crate::driver::{Driver, DriverOutput, DropReason, Report, printable};
use crate::header::{Content, Header};
use crate::settings::LoraSettings;

/// A command is answered within this time, and the time that its octets and those of a long line take.
const ANSWER: Duration = Duration::from_secs(1);

/// After a break in the conversation the modem gets this time to say what it still has to say.
pub(super) const FLUSH: Duration = Duration::from_millis(100);

/// From the first line of a start-up text to the moment at which the modem takes commands.
const STARTED: Duration = Duration::from_millis(500);

/// A modem that says nothing for so long is asked whether it is still there and listens.
const SILENCE: Duration = Duration::from_secs(60);

/// The idle LoRaWAN part of an RN2483 can be paused for 49 days at once.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A refused configuration is tried again after this, then after twice as long, up to [`REFUSED_MAX`].
const REFUSED_FIRST: Duration = Duration::from_secs(30);
const REFUSED_MAX: Duration = Duration::from_secs(600);

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
    held: Option<Reception>,
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
    refusals: u32,
    last_refusal: Option<String>,
    pub(super) speed: u32,
    heard: Instant,
    daily: Instant,
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
    value: Option<String>,
}

impl Engine {
    pub(super) fn new(
        settings: &LoraSettings,
        profile: LinkProfile,
        make: fn(&LoraSettings) -> Box<dyn Dialect>,
    ) -> Engine {
        Engine {
            make,
            dialect: make(settings),
            header: Header::new(super::profile::link_header(settings)),
            profile,
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

    fn advance(&mut self, now: Instant) {
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

    // Lines.

    fn on_line(&mut self, now: Instant, line: &[u8]) {
        let line = trimmed(line);
        let asked = self.pending.as_ref().map(|pending| pending.step.command.as_str());
        // Some modems repeat each command (`ATE1`).
        if line.is_empty() || asked.is_some_and(|asked| line.eq_ignore_ascii_case(asked.as_bytes())) {
            return;
        }
        let meaning = self.dialect.read(line, asked);
        if meaning != Meaning::Noise {
            self.heard = now;
        }
        match meaning {
            Meaning::Known => {}
            Meaning::Noise => self.on_noise(),
            Meaning::Started => self.on_started(now),
            Meaning::Received(reception) => self.on_received(now, reception),
            Meaning::Damaged => self.report(Report::Dropped(DropReason::Air)),
            Meaning::Foreign => self.report(Report::Dropped(DropReason::Escape)),
            Meaning::Deaf => self.on_deaf(),
            Meaning::Failed => self.on_failed(now),
            Meaning::Sent => self.on_sent(now),
            Meaning::Value(value) => {
                if let Some(pending) = &mut self.pending {
                    pending.value = Some(value);
                }
            }
            Meaning::Done => self.on_answer(now, Answer::Done(None), line),
            Meaning::DoneWith(value) => self.on_answer(now, Answer::Done(Some(value)), line),
            Meaning::Refused => self.on_answer(now, Answer::Refused, line),
            Meaning::Busy => self.on_answer(now, Answer::Busy, line),
        }
    }

    fn on_noise(&mut self) {
        self.report(Report::Dropped(DropReason::Noise));
        // It may have been a reception, after which the modem must be told to listen again.
        if self.phase == Phase::Receiving
            && self.pending.is_none()
            && self.script.is_empty()
            && self.dialect.table().deaf_after_reception
            && self.dialect.table().before_send == BeforeSend::Stop
        {
            self.queue_stop();
        }
    }

    /// The modem started, by itself unless it was told to.
    fn on_started(&mut self, now: Instant) {
        let soon = now + STARTED;
        match self.phase {
            Phase::Closed | Phase::Probing { .. } => {}
            Phase::Starting { until } => {
                self.phase = Phase::Starting {
                    until: until.min(soon),
                }
            }
            // A step of the script told it to; a few do not answer before.
            Phase::Configuring { .. } if self.restarts() => {
                self.pending = None;
                self.restarting = true;
                self.pause = Some(self.pause.map_or(soon, |pause| pause.min(soon)));
            }
            Phase::Configuring { .. }
            | Phase::Receiving
            | Phase::Sending
            | Phase::OnAir { .. }
            | Phase::Refused { .. }
            | Phase::Hopeless { .. } => {
                self.report(Report::Rebooted);
                self.go_down(now);
                self.abandon_script();
                self.phase = Phase::Starting { until: soon };
            }
        }
    }

    fn restarts(&self) -> bool {
        match &self.pending {
            Some(pending) => pending.step.restarts.is_some(),
            None => self.restarting,
        }
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

    /// Reception ended without anything to show for it.
    fn on_deaf(&mut self) {
        // One that comes while listening is begun is left over from before.
        if !self
            .pending
            .as_ref()
            .is_some_and(|pending| pending.role == Role::Listen)
        {
            self.listening = false;
            self.window_ends = None;
        }
    }

    fn on_failed(&mut self, now: Instant) {
        match self.phase {
            Phase::OnAir { .. } => {
                self.report(Report::Degraded("the modem gave up a transmission".into()));
                self.finish(now);
            }
            Phase::Receiving if self.listening && self.pending.is_none() => {
                // In a short window it says no more than that nothing came.
                if self.window_ends.is_none() {
                    self.report(Report::Dropped(DropReason::Air));
                }
                self.on_deaf();
            }
            Phase::Closed
            | Phase::Starting { .. }
            | Phase::Probing { .. }
            | Phase::Configuring { .. }
            | Phase::Receiving
            | Phase::Sending
            | Phase::Refused { .. }
            | Phase::Hopeless { .. } => self.on_deaf(),
        }
    }

    fn on_received(&mut self, now: Instant, reception: Reception) {
        if self.dialect.table().deaf_after_reception {
            self.on_deaf();
        }
        if !self.up {
            // Settings of another network may still be in force.
            self.report(Report::Dropped(DropReason::NotForUs));
            return;
        }
        self.release(now);
        self.hold = now + self.settings.turnaround;
        let ask = self.settings.ask_signal && self.phase == Phase::Receiving;
        let table = self.dialect.table();
        if ask && !table.signal.is_empty() && self.pending.is_none() && self.script.is_empty() {
            let steps = table.signal.iter().cloned();
            self.script
                .extend(steps.map(|(signal, step)| (Role::Signal(signal), step)));
            self.held = Some(reception);
        } else {
            self.deliver(now, reception);
        }
    }

    pub(super) fn release(&mut self, now: Instant) {
        if let Some(reception) = self.held.take() {
            self.deliver(now, reception);
        }
    }

    fn deliver(&mut self, now: Instant, reception: Reception) {
        let facts = RadioFacts {
            rssi_dbm: reception.rssi_dbm,
            snr_db: reception.snr_db,
            hops: None,
        };
        if let Some(from) = reception.from {
            let from = LinkAddr::Radio(from.to_be_bytes().into_iter().collect());
            self.deliver_datagram(from, facts, &reception.octets);
            return;
        }
        let frame = self.header.unwrap(now, &reception.octets);
        if let Some(ack) = frame.ack {
            let content = frame.content;
            self.acknowledge(&ack);
            self.deliver_content(content, facts);
        } else {
            self.deliver_content(frame.content, facts);
        }
    }

    fn deliver_content(&mut self, content: Content<'_>, facts: RadioFacts) {
        match content {
            Content::Datagram { from, datagram } => self.deliver_datagram(from, facts, datagram),
            // The core does not wait for a node's radio.
            Content::Acknowledged { .. } => {}
            Content::Dropped(reason) => self.report(Report::Dropped(reason)),
        }
    }

    fn deliver_datagram(&mut self, from: LinkAddr, facts: RadioFacts, datagram: &[u8]) {
        if datagram.is_empty() {
            self.report(Report::Dropped(DropReason::Length));
            return;
        }
        self.outputs.push_back(DriverOutput::Received {
            from,
            facts,
            datagram: datagram.to_vec(),
        });
    }

    // Answers.

    fn on_answer(&mut self, now: Instant, answer: Answer, line: &[u8]) {
        let Some(mut pending) = self.pending.take() else {
            return;
        };
        if let Phase::Probing { then, .. } = self.phase {
            match answer {
                Answer::Done(_) => self.on_sign_of_life(now, then),
                // What stood in the modem's buffer spoiled the command.
                Answer::Refused | Answer::Busy => self.pause = Some(now + FLUSH),
            }
            return;
        }
        if pending.role == Role::Send {
            self.on_send_answer(now, &answer);
            return;
        }
        let value = match answer {
            Answer::Busy => return self.on_busy(now, pending),
            Answer::Refused => None,
            Answer::Done(value) => Some(value.or(pending.value.take()).unwrap_or_default()),
        };
        // Stopping is part of asking a busy modem again.
        if pending.role != Role::Stop {
            self.busy = 0;
        }
        self.dialect.learned(&pending.step.command, value.as_deref());
        if let Role::Signal(signal) = pending.role {
            self.on_signal(signal, value.as_deref());
        }
        let fits = value.is_some_and(|value| self.dialect.fits(&pending.step.command, &value));
        if !fits {
            return self.on_refused(now, pending, line);
        }
        if let Some(within) = pending.step.restarts {
            self.pause = Some(now + within);
            self.restarting = true;
        }
        self.on_done(now, pending.role);
    }

    fn on_done(&mut self, now: Instant, role: Role) {
        match role {
            Role::Listen => {
                self.listening = true;
                self.window_ends = match self.dialect.table().before_send {
                    // A reception that began within the window is waited for.
                    BeforeSend::Wait(window) => {
                        Some(now + window + self.profile.airtime.of(self.profile.mtu) + ANSWER)
                    }
                    BeforeSend::Nothing | BeforeSend::Stop => None,
                };
            }
            Role::Stop => self.listening = false,
            Role::Probe | Role::Plain | Role::Signal(_) | Role::Send => {}
        }
    }

    fn on_signal(&mut self, signal: Signal, value: Option<&str>) {
        let (Some(held), Some(value)) = (&mut self.held, value) else {
            return;
        };
        match signal {
            Signal::Rssi => held.rssi_dbm = text::number(value),
            Signal::Snr => held.snr_db = text::snr(value),
        }
    }

    fn on_refused(&mut self, now: Instant, pending: Pending, line: &[u8]) {
        match pending.step.otherwise {
            Otherwise::Skip => {}
            Otherwise::Degrade(text) => {
                let command = pending.step.command;
                self.report(Report::Degraded(format!(
                    "{text} ({command}: {})",
                    printable(line)
                )));
            }
            Otherwise::Try(steps) => {
                for step in steps.into_iter().rev() {
                    self.script.push_front((pending.role, step));
                }
            }
            Otherwise::SetUp => {
                self.report(Report::Rebooted);
                self.configure(now);
            }
            Otherwise::Fail if self.up => self.escalate(now),
            Otherwise::Fail => {
                let value = pending.value.as_deref().unwrap_or_default();
                let text = format!(
                    "the modem answered {:?} with {:?}",
                    pending.step.command,
                    printable(if value.is_empty() { line } else { value.as_bytes() })
                );
                self.refuse(now, text);
            }
        }
    }

    /// The modem cannot be used as configured: that is told once, and tried again.
    fn refuse(&mut self, now: Instant, text: String) {
        if self.last_refusal.as_ref() != Some(&text) {
            self.report(Report::Refused(text.clone()));
            self.last_refusal = Some(text);
        }
        self.abandon_script();
        let wait = REFUSED_FIRST
            .saturating_mul(1 << self.refusals.min(8))
            .min(REFUSED_MAX);
        self.refusals = self.refusals.saturating_add(1);
        self.phase = Phase::Refused { until: now + wait };
    }

    /// The modem is at something else, or was found listening where we thought it did not.
    fn on_busy(&mut self, now: Instant, pending: Pending) {
        self.busy += 1;
        if self.busy > BUSY_TIMES {
            self.escalate(now);
            return;
        }
        self.pause = Some(now + BUSY_FIRST * (1 << (self.busy - 1)));
        let role = pending.role;
        self.script.push_front((role, pending.step));
        if role == Role::Listen {
            let stop = self.dialect.table().stop.clone();
            for step in stop.into_iter().rev() {
                self.script.push_front((Role::Stop, step));
            }
        }
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

/// How a command was answered.
#[derive(Debug)]
pub(super) enum Answer {
    Done(Option<String>),
    Refused,
    Busy,
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
