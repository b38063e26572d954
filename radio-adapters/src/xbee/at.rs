//! Questions to the modem and their answers, one at a time.

use core::time::Duration;

use gateway_core::time::Instant;

use super::driver::{Phase, Xbee, rssi};
use super::frame::{At, Frame, FrameId};
use crate::driver::{Recovery, Report};

/// An AT command takes some milliseconds.
const AT_TIMEOUT: Duration = Duration::from_secs(2);

/// An AT command that waits for its answer.
#[derive(Debug)]
pub(super) struct Asked {
    id: FrameId,
    command: At,
    value: Vec<u8>,
    repeated: bool,
    pub(super) until: Instant,
}

impl Xbee {
    /// Asks the modem; one question at a time.
    pub(super) fn ask(&mut self, now: Instant, command: At, value: &[u8]) {
        let id = self.ids.take();
        self.asked = Some(Asked {
            id,
            command,
            value: value.to_vec(),
            repeated: false,
            until: now + AT_TIMEOUT,
        });
        self.write(&Frame::AtCommand { id, command, value }.encode());
    }

    pub(super) fn on_at_response(
        &mut self,
        now: Instant,
        id: FrameId,
        command: At,
        status: u8,
        value: &[u8],
    ) {
        if matches!(self.phase, Phase::Probing(_)) {
            return self.probe_answered(now, command, status, value);
        }
        let Some(asked) = self
            .asked
            .take_if(|asked| asked.id == id && asked.command == command)
        else {
            return;
        };
        self.ids.give_back(asked.id);
        let rssi_of = self.rssi_of.take();
        match self.phase {
            Phase::SettingUp(step) => self.set_up_answered(now, step, status, value),
            Phase::Joining { .. } => {
                if command == At(*b"AI") && status == 0 {
                    self.modem.learn(command, value);
                    self.join();
                }
            }
            Phase::Running => {
                if let (Some(addr), &[minus_rssi_dbm]) = (rssi_of, value)
                    && command == At(*b"DB")
                {
                    self.peers.heard(addr).last_hop_rssi_dbm = rssi(minus_rssi_dbm).rssi_dbm;
                }
            }
            Phase::Closed
            | Phase::Probing(_)
            | Phase::Commanding(_)
            | Phase::Resetting { .. }
            | Phase::Resting { .. }
            | Phase::GivenUp => {}
        }
    }

    /// The answer to the open question did not come: asks once more, then tries another way.
    pub(super) fn unanswered(&mut self, now: Instant) {
        let Some(asked) = &mut self.asked else {
            return;
        };
        if matches!(self.phase, Phase::Resetting { .. }) {
            // The modem may start again without an answer.
            self.ids.give_back(asked.id);
            self.asked = None;
        } else if matches!(self.phase, Phase::Running | Phase::Joining { .. })
            && self.last_octet + AT_TIMEOUT > now
        {
            // It says other things: the answer was lost.
            self.ids.give_back(asked.id);
            self.asked = None;
        } else if asked.repeated {
            self.reopen();
        } else {
            asked.repeated = true;
            asked.until = now + AT_TIMEOUT;
            let again = Frame::AtCommand {
                id: asked.id,
                command: asked.command,
                value: &asked.value,
            }
            .encode();
            self.report(Report::Recovering(Recovery::Repeat));
            self.write(&again);
        }
    }
}

/// Frame ids; none is used while something about it may still come.
#[derive(Debug)]
pub(super) struct Ids {
    last: u8,
    used: [bool; 256],
}

impl Default for Ids {
    fn default() -> Self {
        Ids {
            last: 0,
            used: [false; 256],
        }
    }
}

impl Ids {
    /// The next free one. Fewer than twenty are ever in use, so there is one.
    pub(super) fn take(&mut self) -> FrameId {
        for _ in 0..=u8::MAX {
            self.last = self.last.wrapping_add(1);
            if self.last != FrameId::NONE.0 && !self.used[usize::from(self.last)] {
                break;
            }
        }
        self.used[usize::from(self.last)] = true;
        FrameId(self.last)
    }

    pub(super) fn give_back(&mut self, id: FrameId) {
        self.used[usize::from(id.0)] = false;
    }
}
