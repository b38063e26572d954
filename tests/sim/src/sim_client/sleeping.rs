//! Asleep: the radio is on from PINGREQ to PINGRESP, and while an answer is waited for (§6.14).

use core::time::Duration;

use gateway_core::time::Instant;
use sn_codec::{Packet, Pingreq};

use super::{Kind, SimClient, State};

/// Wake-ups in a row without an answer after which a sleeper connects anew.
const MISSED_WAKES: usize = 3;

impl SimClient {
    pub(super) fn fall_asleep(&mut self, now: Instant) {
        self.open.clear();
        self.rest(now);
    }

    fn rest(&mut self, now: Instant) {
        let duration = self.nap.map_or(0, |nap| nap.duration);
        self.state = State::Asleep {
            wakes_at: now + Duration::from_secs(u64::from(duration)),
        };
    }

    pub(super) fn on_pingresp(&mut self, now: Instant) {
        if !matches!(self.state, State::Awake { .. }) {
            self.open.retain(|e| e.kind != Kind::Ping);
            return;
        }
        self.wakes += 1;
        self.missed_in_a_row = 0;
        if let Some(nap) = &mut self.nap
            && nap.left != u32::MAX
        {
            nap.left = nap.left.saturating_sub(1);
        }
        self.rest(now);
    }

    pub(super) fn on_sleep_timeout(&mut self, now: Instant) {
        if self.give_up_if_spent(now) {
            return;
        }
        self.repeat_due(now);
        if self.paused_until <= now {
            self.paused_until = Instant::START;
        }
        match self.state {
            State::Asleep { wakes_at } if wakes_at <= now => {
                if self.nap.is_none_or(|nap| nap.left == 0) {
                    return self.send_connect(now);
                }
                self.send_wake_up(now, 1);
            }
            State::Awake { sends, deadline } if deadline <= now => {
                if sends <= self.config.retry_count {
                    self.send_wake_up(now, sends + 1);
                    return;
                }
                // §6.14: it gives up and goes back to sleep; when that has not helped it begins anew.
                self.missed_wakes += 1;
                self.missed_in_a_row += 1;
                if self.missed_in_a_row < MISSED_WAKES {
                    self.rest(now);
                } else {
                    return self.send_connect(now);
                }
            }
            _ => {}
        }
        self.go_on(now);
    }

    fn send_wake_up(&mut self, now: Instant, sends: u32) {
        self.state = State::Awake {
            sends,
            deadline: now + self.config.retry,
        };
        let id = self.config.id.clone();
        let client_id = (!self.config.quirks.wakes_without_id).then_some(id.as_str());
        self.send(now, Packet::Pingreq(Pingreq { client_id }));
    }
}
