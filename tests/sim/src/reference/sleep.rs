//! Sleep and waking up: how long a wake-up lasts and what it must bring (A71), and when a PINGREQ of a client that does not
//! sleep waits for messages (A16).

use core::time::Duration;

use gateway_core::time::Instant;
use sn_codec::{MsgId, MsgType, Pingreq};

use super::Reference;
use super::client::{ClientModel, Phase};
use super::exchanges::{DownExchange, DownKind};
use super::violation::{Check, ensure};
use crate::Address;

/// Reading A16: PINGREQs in a row whose answer waits for a message.
const PINGS_PUT_OFF: usize = 2;
const ROW_OF_PINGS: Duration = Duration::from_secs(60);

/// Reading A71: longest time and most messages of one wake-up.
const WAKE_TIME: Duration = Duration::from_secs(60);
const WAKE_MESSAGES: usize = 100;

/// Longest wake-up with the exchange that is open when the first time is over.
pub(super) const WAKE_TIME_MAX: Duration = Duration::from_secs(240);

impl Reference {
    /// The gateway answers a PINGREQ.
    pub(super) fn on_pingresp(&mut self, now: Instant, ix: usize) -> Check {
        let client = &mut self.clients[ix];
        client.pay(MsgType::Pingresp, MsgId(0))?;
        let room = self.mtu - client.bound.as_ref().map_or(0, Address::overhead);
        self.given_up += client.drop_too_large(room);
        client.end_ping(now)?;
        client.end_wake(now)
    }
}

impl ClientModel {
    /// A DISCONNECT with a duration came.
    pub(super) fn on_sleep(&mut self, now: Instant, seconds: u16) {
        self.phase = Phase::Asleep;
        self.thought_asleep = false;
        self.sleep = Duration::from_secs(u64::from(seconds));
        self.asleep_since = now;
        self.sleep_answer_due = true;
        self.ping_put_off = None;
        self.interrupt();
    }

    /// A PINGREQ: who sleeps wakes, and who is awake may ask for a repeat.
    pub(super) fn on_pingreq(&mut self, now: Instant, ping: Pingreq<'_>) {
        self.owe_answer(MsgType::Pingresp, MsgId(0));
        self.ping_put_off = None;
        match self.phase {
            Phase::Active if ping.client_id.is_some() => {
                self.named_pings.retain(|at| now.since(*at) < ROW_OF_PINGS);
                let put_off = self.named_pings.len() < PINGS_PUT_OFF;
                self.named_pings.push(now);
                self.ping_put_off = put_off.then_some(now);
                if let Some(down) = &mut self.down {
                    // With nothing waiting then, the earlier ones were not put off.
                    down.unsure |= !put_off;
                    down.due = true;
                    down.sends -= down.sends % self.sends_per_round;
                }
            }
            Phase::Asleep => {
                self.phase = Phase::Awake;
                self.woken = now;
                self.woken_first = now;
                self.wake_messages = 0;
            }
            Phase::Awake => {
                let spent = |d: &DownExchange| {
                    let round = d.sends > 0 && d.sends.is_multiple_of(self.sends_per_round);
                    round || now.since(d.last_sent) > WAKE_TIME
                };
                let over = now.since(self.woken) >= WAKE_TIME_MAX;
                if over || self.down.as_ref().is_some_and(spent) {
                    // The wake-up may have been given up, and this begins another.
                    self.interrupt();
                    self.woken = now;
                } else if let Some(down) = &mut self.down {
                    // Its way of saying that the last message did not arrive (section 5 of the page).
                    down.due = true;
                    down.sends -= down.sends % self.sends_per_round;
                }
            }
            Phase::None | Phase::Setup | Phase::Active | Phase::Lost => {}
        }
    }

    /// PINGRESP to an active client that named itself: it may sleep now, so it has got what waited (A16).
    fn end_ping(&mut self, now: Instant) -> Check {
        let Some(asked) = self.ping_put_off.take() else {
            return Ok(());
        };
        let open = |d: &&DownExchange| d.began < asked && d.is_open(now, self.sends_per_round);
        ensure(
            self.down.as_ref().filter(open).is_none(),
            "PINGRESP when everything is acknowledged",
            || format!("{:?} to {}", self.down, self.id),
        )?;
        let kept = self.owed.iter().find(|(_, owed)| owed.since < asked);
        ensure(kept.is_none(), "PINGRESP when nothing waits (A16)", || {
            format!("{kept:?} for {}", self.id)
        })
    }

    /// PINGRESP: the client sleeps again, and has got everything that waited when it woke.
    fn end_wake(&mut self, now: Instant) -> Check {
        if self.phase != Phase::Awake {
            return Ok(());
        }
        self.phase = Phase::Asleep;
        self.asleep_since = now;
        let open = |d: &&DownExchange| d.is_open(now, self.sends_per_round);
        ensure(
            self.down.as_ref().filter(open).is_none(),
            "PINGRESP when everything is acknowledged",
            || format!("{:?} to {}", self.down, self.id),
        )?;
        // A40: what it cannot be told the name of was dropped, and is from now on if it never answers.
        if let Some(down) = self
            .down
            .as_ref()
            .filter(|d| d.kind == DownKind::Register && !d.closed)
        {
            let topic = down.topic.clone();
            self.register_unanswered(Some(&topic));
        }
        let long = now.since(self.woken_first) >= WAKE_TIME || self.wake_messages >= WAKE_MESSAGES;
        let kept = self.owed.iter().find(|(_, owed)| owed.since < self.woken);
        ensure(
            kept.is_none() || long,
            "PINGRESP when nothing waits (A71)",
            || format!("{kept:?} for {}", self.id),
        )
    }
}
