//! Sleeping clients (§6.14).

use core::time::Duration;

use sn_codec::Pingreq;

use super::{Client, Reply, State, Unsaved};
use crate::context::Context;
use crate::io::Notice;
use crate::time::Instant;

/// Longest time and most messages of one wake-up (reading A71); the rest waits for the next.
const WAKE_TIME: Duration = Duration::from_secs(60);
const WAKE_MESSAGES: u16 = 100;

/// The exchange that is open when the time is over is brought to its end; with the default Tretry and Nretry its round
/// takes 130 s. A radio that takes nothing must not keep a client awake, and so unsupervised, for longer.
const WAKE_TIME_MAX: Duration = Duration::from_secs(240);

/// A client that is awake for its messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wake {
    /// Seconds it sleeps again afterwards.
    pub(crate) duration: u16,
    /// When it is looked at: no message is begun after the first time, and after the second it sleeps.
    pub(crate) until: Instant,
    /// Messages it is still given.
    pub(crate) left: u16,
    /// The first time is over.
    over: bool,
}

impl Wake {
    fn new(now: Instant, duration: u16) -> Self {
        Wake {
            duration,
            until: now + WAKE_TIME,
            left: WAKE_MESSAGES,
            over: false,
        }
    }

    /// True if another message may be begun.
    pub(crate) fn takes_more(&self) -> bool {
        self.left > 0 && !self.over
    }
}

impl Client {
    /// C→G DISCONNECT(d)   G→C DISCONNECT, and nothing more until PINGREQ or CONNECT but answers to requests (reading
    /// A73). Asleep already, the client changes its duration or repeats itself (reading A68).
    pub(crate) fn fall_asleep(&mut self, cx: &mut Context, duration: u16) {
        self.down.requeue();
        self.shrink();
        let longest = cx.sleep_rules(self.rule).max_sleep.as_secs();
        let duration = duration.min(u16::try_from(longest).unwrap_or(u16::MAX));
        self.state = State::Asleep { duration };
        self.clear_replies(cx);
        // Another life might publish the will of a client that sleeps as long as it said.
        let after = self.will.as_ref().map_or(0, |will| will.published_after);
        if after != 0 && duration > after {
            self.touch();
        } else {
            self.touch_lazily();
        }
        if self.unsaved == Unsaved::Urgent || self.will.is_some() && cx.journal.is_busy() {
            self.reply_durably(cx, Reply::Disconnect);
        } else {
            self.reply(cx, Reply::Disconnect);
        }
        cx.notice(Notice::Asleep {
            client: self.id.clone(),
            duration,
        });
    }

    /// C→G PINGREQ(ClientId)   G→C messages, then PINGRESP. The client id may be missing (reading A69).
    pub(crate) fn wake(&mut self, cx: &mut Context, now: Instant) {
        match &self.state {
            State::Asleep { duration } => {
                self.down.resume();
                self.state = State::Awake(Wake::new(now, *duration));
                let buffered = self.down.len();
                let client = self.id.clone();
                cx.notice(Notice::Awake { client, buffered });
                self.down.count_delivered();
            }
            State::Awake(_) => self.down.repeat_now(),
            State::Setup(_) | State::Active | State::Disconnected | State::Lost | State::Gone => return,
        }
        self.end_wake_if_drained(cx, now);
    }

    /// PINGRESP once the messages of this wake-up are delivered and acknowledged.
    pub(crate) fn end_wake_if_drained(&mut self, cx: &mut Context, now: Instant) {
        match &self.state {
            State::Awake(wake) => {
                let done = self.down.queue_is_empty() || !wake.takes_more();
                if done && !self.down.has_exchange() {
                    self.tell_delivered(cx);
                    if self.misled && self.down.queue_is_empty() {
                        return self.goodbye(cx, "broker refused a subscription");
                    }
                    self.back_to_sleep(now);
                    self.reply(cx, Reply::Pingresp);
                }
            }
            State::Active if self.down.take_due_pingresp() => self.reply(cx, Reply::Pingresp),
            _ => {}
        }
    }

    /// C→G PINGREQ while active. A client that names itself may be asleep, its DISCONNECT lost and not repeated: what
    /// waits comes first, as in a wake-up (reading A16).
    pub(crate) fn on_ping(&mut self, cx: &mut Context, now: Instant, ping: Pingreq<'_>) {
        if ping.client_id.is_none() || !self.down.put_off_pingresp(now) {
            self.reply(cx, Reply::Pingresp);
        }
    }

    /// The time of a wake-up is over: first for new messages, then for the open exchange.
    pub(crate) fn on_wake_deadline(&mut self, now: Instant) {
        let State::Awake(wake) = &mut self.state else {
            return;
        };
        if now < wake.until {
            return;
        }
        if wake.over {
            self.give_up_wake();
        } else {
            wake.over = true;
            wake.until = wake.until + (WAKE_TIME_MAX - WAKE_TIME);
        }
    }

    /// The client cannot be reached or does not answer: it sleeps, the message waits at the front, and there is no
    /// PINGRESP, so that it asks again.
    pub(crate) fn give_up_wake(&mut self) {
        self.down.requeue();
        self.back_to_sleep(self.last_seen);
    }

    /// A client that sleeps for long keeps only what it needs.
    fn shrink(&mut self) {
        self.open.shrink();
        self.down.shrink();
    }

    /// Asleep again: the sleep timer starts anew, with or without PINGRESP.
    pub(crate) fn back_to_sleep(&mut self, now: Instant) {
        if let State::Awake(wake) = &self.state {
            self.last_seen = self.last_seen.max(now);
            self.state = State::Asleep {
                duration: wake.duration,
            };
            self.shrink();
        }
    }
}
