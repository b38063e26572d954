//! A modem that does not answer: the command again, a sign of life, a restart, the port anew, and from the beginning.

use core::time::Duration;

use gateway_core::time::Instant;

use super::engine::{Engine, FLUSH, Phase, Role};
use crate::driver::{DriverOutput, Recovery, Report};

/// A break that makes an RN2483 adopt the speed of the octet after it; the manual wants the time of one octet at the
/// slowest speed.
const BREAK_MS: u16 = 20;

/// Slower lines than this are tried only if they are configured.
const SLOWEST: u32 = 9_600;

/// Times the modem is asked at the configured speed.
const TRIES: usize = 3;

/// Wait before the port is opened again in vain a second time, then twice as long, up to [`REOPEN_MAX`].
const REOPEN_FIRST: Duration = Duration::from_secs(5);
const REOPEN_MAX: Duration = Duration::from_secs(60);

/// What a sign of life lets the engine go on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resume {
    /// Setting it up.
    SetUp,
    /// Making it listen.
    Listen,
}

/// One way to ask for a sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attempt {
    speed: u32,
    autobaud: bool,
}

impl Engine {
    /// Nothing came in time.
    pub(super) fn on_silence(&mut self, now: Instant) {
        let Some(pending) = self.pending.take() else {
            return;
        };
        self.lines.clear();
        if pending.role == Role::Send {
            return self.on_send_silence(now);
        }
        if let Role::Signal(_) = pending.role {
            // What was received has waited long enough, and so has listening.
            self.release(now);
            self.script.clear();
            return;
        }
        if let Phase::Probing { then, silent } = self.phase {
            let silent = silent.saturating_add(1);
            self.phase = Phase::Probing { then, silent };
            if silent == 1 && then == Resume::SetUp {
                self.report(Report::Recovering(Recovery::Probe));
            }
            return self.next_attempt(now);
        }
        if let Some(within) = pending.step.restarts {
            self.pause = Some(now + within);
            self.restarting = true;
            return;
        }
        self.misses = self.misses.saturating_add(1);
        match self.misses {
            1 => {
                self.report(Report::Recovering(Recovery::Repeat));
                self.command(now, pending.role, pending.step);
            }
            2 => {
                self.report(Report::Recovering(Recovery::Probe));
                let then = if self.up { Resume::Listen } else { Resume::SetUp };
                self.start_probing(now, then);
            }
            _ => self.escalate(now),
        }
    }

    /// Asks for a sign of life, in one way after the other.
    pub(super) fn start_probing(&mut self, now: Instant, then: Resume) {
        self.abandon_script();
        self.phase = Phase::Probing { then, silent: 0 };
        let table = self.dialect.table();
        let configured = self.settings.port.baud;
        let plain = |speed| Attempt {
            speed,
            autobaud: false,
        };
        self.attempts.clear();
        self.attempts.extend([plain(self.speed); TRIES]);
        if table.autobaud {
            self.attempts.push_back(Attempt {
                speed: configured,
                autobaud: true,
            });
        }
        // A modem that just worked has not changed its speed.
        if then == Resume::SetUp {
            let usual = self.settings.driver.abilities().bauds.iter().copied();
            let speeds = core::iter::once(configured).chain(usual.filter(|speed| *speed >= SLOWEST));
            let others = speeds.filter(|speed| *speed != self.speed);
            self.attempts.extend(others.map(plain));
        }
        self.next_attempt(now);
    }

    pub(super) fn next_attempt(&mut self, now: Instant) {
        let Some(attempt) = self.attempts.pop_front() else {
            return self.on_no_sign_of_life(now);
        };
        if attempt.speed != self.speed {
            self.set_speed(attempt.speed);
        }
        self.lines.clear();
        // Whatever the modem has of a command ends here; what it says to that is not listened to.
        let flush = if attempt.autobaud {
            self.outputs.push_back(DriverOutput::Break(BREAK_MS));
            vec![0x55]
        } else {
            b"\r\n".to_vec()
        };
        self.outputs.push_back(DriverOutput::Write(flush));
        self.pause = Some(now + FLUSH);
        self.script
            .push_back((Role::Probe, self.dialect.table().probe.clone()));
    }

    pub(super) fn on_sign_of_life(&mut self, now: Instant, then: Resume) {
        match then {
            Resume::SetUp => self.configure(now),
            Resume::Listen => {
                self.phase = Phase::Receiving;
                self.queue_stop();
                self.queue_listen();
            }
        }
    }

    fn on_no_sign_of_life(&mut self, now: Instant) {
        if self.speed != self.settings.port.baud && !self.was_reset {
            self.set_speed(self.settings.port.baud);
        }
        self.escalate(now);
    }

    /// Starts the modem again; if that was done already, the port.
    pub(super) fn escalate(&mut self, now: Instant) {
        self.go_down(now);
        self.abandon_script();
        if !self.was_reset {
            self.report(Report::Recovering(Recovery::Reset));
            self.reset(now);
            return;
        }
        self.report(Report::Recovering(Recovery::Reopen));
        let wait = match self.opened_in_vain {
            0 => Duration::ZERO,
            times => REOPEN_FIRST
                .saturating_mul(1 << (times - 1).min(8))
                .min(REOPEN_MAX),
        };
        self.phase = Phase::Hopeless { until: now + wait };
    }

    /// Tells the modem to start again, heard or not.
    fn reset(&mut self, now: Instant) {
        self.was_reset = true;
        self.misses = 0;
        self.busy = 0;
        let (command, within) = self.dialect.table().reset;
        self.outputs
            .push_back(DriverOutput::Write(format!("\r\n{command}\r\n").into_bytes()));
        self.phase = Phase::Starting { until: now + within };
    }

    pub(super) fn reopen(&mut self) {
        self.opened_in_vain = self.opened_in_vain.saturating_add(1);
        self.phase = Phase::Closed;
        self.outputs.push_back(DriverOutput::Reopen);
    }

    fn set_speed(&mut self, speed: u32) {
        self.speed = speed;
        self.outputs.push_back(DriverOutput::SetBaud(speed));
    }
}
