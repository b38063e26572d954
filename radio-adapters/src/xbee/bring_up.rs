//! From an open port to a modem that is known: its speed, its mode, its firmware and settings.
//!
//! ```text
//! at each speed:  AP? as an API frame, twice        -> 88 AP 00 01|02       -> questions
//! at each speed:  silence, +++, silence             -> OK
//!                 ATAP                              -> OK
//!                 ATCN                              -> OK                   -> again from the start
//! otherwise       the port is opened again
//! ```

use core::time::Duration;

use gateway_core::time::Instant;

use super::driver::{DATA_MAX, Phase, Xbee};
use super::frame::At;
use super::framing::{Deframer, Mode};
use super::modem::{Modem, QUERIES};
use crate::driver::Report;

/// Speeds that modems are found at, 9600 being that of the factory.
const SPEEDS: [u32; 6] = [9600, 115_200, 38_400, 57_600, 19_200, 230_400];

/// What a modem may have begun to say before the port was opened.
const DRAIN: Duration = Duration::from_millis(100);

/// For the answer to an API frame.
const PROBE_TIMEOUT: Duration = Duration::from_millis(300);

/// Times a modem is asked at each speed: the first may end what it took for the beginning of a frame.
const PROBES: u8 = 2;

/// The same at the speed it is thought to have: a modem that just got power takes up to 1.5 s to start.
const PROBES_FIRST: u8 = 6;

/// The same once something that only a modem in API mode says was heard there.
const PROBES_HEARD: u8 = 10;

/// Silence around `+++`, a little more than the guard time of the factory (GT).
const GUARD: Duration = Duration::from_millis(1100);

/// For the answer to `+++`, which comes after the second silence.
const ENTER_TIMEOUT: Duration = Duration::from_millis(2000);

/// For the answer to a command in command mode.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(1000);

/// The end of what command mode says that is kept.
const TEXT_MAX: usize = 16;

/// Looking for a modem in API mode.
#[derive(Debug)]
pub(super) struct Probe {
    /// The speeds to try, from the last to the first.
    speeds: Vec<u32>,
    /// It is still the first of them.
    first: bool,
    /// Times the modem was asked at this speed.
    tries: u8,
    /// Something came that only a modem in API mode says.
    heard: bool,
    pub(super) until: Instant,
}

/// Looking for a modem in transparent mode.
#[derive(Debug)]
pub(super) struct Command {
    speeds: Vec<u32>,
    step: Step,
    text: Vec<u8>,
    pub(super) until: Instant,
}

/// What command mode is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The silence before `+++`.
    Silence,
    /// The answer to `+++`.
    Enter,
    /// The answer to `ATAP`.
    ApiMode,
    /// The answer to `ATCN`.
    Exit,
}

impl Xbee {
    /// Begins to look for the modem.
    pub(super) fn begin(&mut self, now: Instant) {
        // In this mode nothing that came before can swallow the beginning of a frame. The frames in question read the
        // same in both.
        self.mode = Mode::Escaped;
        self.deframer = Deframer::new(Mode::Escaped, DATA_MAX);
        self.phase = Phase::Probing(Probe {
            speeds: self.speeds(),
            first: true,
            tries: 0,
            heard: false,
            until: now + DRAIN,
        });
    }

    /// The speeds to try, from the last to the first.
    fn speeds(&self) -> Vec<u32> {
        let mut speeds = vec![self.baud];
        for speed in [self.settings.port.baud].into_iter().chain(SPEEDS) {
            if !speeds.contains(&speed) {
                speeds.push(speed);
            }
        }
        speeds.reverse();
        speeds
    }

    /// The time for the next question in API mode.
    pub(super) fn probe(&mut self, now: Instant) {
        let Phase::Probing(probe) = &mut self.phase else {
            return;
        };
        if now < probe.until {
            return;
        }
        let tries = match probe.heard {
            true => PROBES_HEARD,
            false if probe.first => PROBES_FIRST,
            false => PROBES,
        };
        if probe.tries >= tries {
            probe.speeds.pop();
            probe.tries = 0;
            probe.heard = false;
            probe.first = false;
        }
        let Some(&speed) = probe.speeds.last() else {
            return self.begin_command_mode(now);
        };
        probe.tries += 1;
        probe.until = now + PROBE_TIMEOUT;
        self.set_baud(speed);
        self.query_api_mode();
    }

    fn query_api_mode(&mut self) {
        self.write(&[0x08, 0x01, b'A', b'P']);
    }

    /// A modem in API mode is there.
    pub(super) fn probe_heard(&mut self) {
        if let Phase::Probing(probe) = &mut self.phase {
            probe.heard = true;
        }
    }

    /// An answer to a question in API mode, perhaps to ours.
    pub(super) fn probe_answered(&mut self, now: Instant, command: At, status: u8, value: &[u8]) {
        let mode = match (command, status, value) {
            (At([b'A', b'P']), 0, [.., 1]) => Mode::Plain,
            (At([b'A', b'P']), 0, [.., 2]) => Mode::Escaped,
            _ => return,
        };
        self.mode = mode;
        self.deframer = Deframer::new(mode, DATA_MAX);
        self.modem = Modem::default();
        if self.baud != self.settings.port.baud {
            self.report(Report::Degraded(format!(
                "the modem talks at {} baud, not at {}",
                self.baud, self.settings.port.baud
            )));
        }
        self.phase = Phase::SettingUp(0);
        self.ask(now, QUERIES[0], &[]);
    }

    fn begin_command_mode(&mut self, now: Instant) {
        if self.was_transparent {
            return self.not_found();
        }
        let speeds = self.speeds();
        self.phase = Phase::Commanding(Command {
            speeds,
            step: Step::Silence,
            text: Vec::new(),
            until: now + GUARD,
        });
        self.next_command_speed(now);
    }

    /// Turns the line to the next speed to try and begins with silence.
    fn next_command_speed(&mut self, now: Instant) {
        let Phase::Commanding(command) = &mut self.phase else {
            return;
        };
        let Some(speed) = command.speeds.pop() else {
            return self.not_found();
        };
        command.step = Step::Silence;
        command.text.clear();
        command.until = now + GUARD;
        self.set_baud(speed);
    }

    /// The time in command mode is over.
    pub(super) fn command(&mut self, now: Instant) {
        let Phase::Commanding(command) = &mut self.phase else {
            return;
        };
        if now < command.until {
            return;
        }
        match command.step {
            Step::Silence => {
                command.step = Step::Enter;
                command.text.clear();
                command.until = now + ENTER_TIMEOUT;
                self.write_raw(b"+++".to_vec());
            }
            Step::Enter | Step::ApiMode => self.next_command_speed(now),
            // It left command mode all the same, now or by its own time-out.
            Step::Exit => self.begin(now),
        }
    }

    /// What comes while command mode is tried.
    pub(super) fn command_mode_received(&mut self, now: Instant, octets: &[u8]) {
        for &octet in octets {
            let Phase::Commanding(command) = &mut self.phase else {
                return;
            };
            if command.text.len() >= TEXT_MAX {
                command.text.remove(0);
            }
            command.text.push(octet);
            let ok = command.text.ends_with(b"OK\r");
            let error = command.text.ends_with(b"ERROR\r");
            if ok || error {
                command.text.clear();
                self.command_answered(now, ok);
            }
        }
    }

    fn command_answered(&mut self, now: Instant, ok: bool) {
        let api_mode = if self.settings.api_mode == 1 { 1 } else { 2 };
        let Phase::Commanding(command) = &mut self.phase else {
            return;
        };
        match (command.step, ok) {
            (Step::Silence, _) => {}
            (Step::Enter, true) => {
                command.step = Step::ApiMode;
                command.until = now + COMMAND_TIMEOUT;
                self.write_raw(format!("ATAP{api_mode}\r").into_bytes());
            }
            // It was in command mode already and leaves it by itself after 10 s.
            (Step::Enter, false) => {}
            (Step::ApiMode, true) => {
                command.step = Step::Exit;
                command.until = now + COMMAND_TIMEOUT;
                self.was_transparent = true;
                self.report(Report::Degraded(format!(
                    "the modem was in transparent mode; it has AP = {api_mode} until it loses power, store that \
                     with ATWR"
                )));
                self.write_raw(b"ATCN\r".to_vec());
            }
            (Step::ApiMode, false) => {
                self.refuse(now, "the modem's firmware has no API mode: load its API firmware");
            }
            (Step::Exit, _) => self.begin(now),
        }
    }

    /// No modem at any speed in any mode.
    fn not_found(&mut self) {
        self.complain(
            "no XBee answers, at no speed and neither in API nor in transparent mode: look at its power, the wiring \
             and whether another program has the port",
        );
        self.reopen();
    }

    /// The answer to the question that was open during set-up. What a firmware does not know it refuses.
    pub(super) fn set_up_answered(&mut self, now: Instant, step: usize, status: u8, value: &[u8]) {
        match QUERIES.get(step) {
            Some(&command) if status == 0 => self.modem.learn(command, value),
            Some(_) => {}
            None if status == 0 => {}
            None => self.report(Report::Degraded(format!(
                "the modem refuses to set {}",
                self.changing(step)
            ))),
        }
        let next = step + 1;
        if let Some(&command) = QUERIES.get(next) {
            self.phase = Phase::SettingUp(next);
            return self.ask(now, command, &[]);
        }
        self.network = match self.modem.network() {
            Ok(network) => network,
            Err(reason) => return self.refuse(now, reason),
        };
        match self.changes().get(next - QUERIES.len()) {
            Some(&(register, value)) => {
                self.phase = Phase::SettingUp(next);
                self.ask(now, register, &[value]);
            }
            None => self.set_up(now),
        }
    }

    /// Registers to change, until the modem loses power.
    fn changes(&self) -> Vec<(At, u8)> {
        let mut changes = Vec::new();
        changes.extend(
            self.modem
                .wanted_output(self.network)
                .map(|value| (At(*b"AO"), value)),
        );
        if self.settings.port.hardware_flow {
            // CTS from the modem, RTS to it.
            changes.extend([(At(*b"D7"), 1), (At(*b"D6"), 1)]);
        }
        changes
    }

    fn changing(&self, step: usize) -> At {
        let change = step
            .checked_sub(QUERIES.len())
            .and_then(|at| self.changes().get(at).copied());
        change.map_or(At(*b"??"), |(register, _)| register)
    }
}
