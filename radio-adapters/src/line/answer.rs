//! Answers to commands.

use gateway_core::time::Instant;

use super::dialect::{BeforeSend, Otherwise, Signal};
use super::engine::{
    ANSWER, BUSY_FIRST, BUSY_TIMES, Engine, FLUSH, Pending, Phase, REFUSED_FIRST, REFUSED_MAX, Role,
};
use super::text;
use crate::driver::{Report, printable};

/// How a command was answered.
#[derive(Debug)]
pub(super) enum Answer {
    Done(Option<String>),
    Refused,
    Busy,
}

impl Engine {
    pub(super) fn on_answer(&mut self, now: Instant, answer: Answer, line: &[u8]) {
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

    pub(super) fn on_done(&mut self, now: Instant, role: Role) {
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
}
