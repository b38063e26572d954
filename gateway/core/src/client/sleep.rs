//! Sleeping clients (§6.14).

use core::time::Duration;

use super::{Client, Reply, State};
use crate::context::Context;
use crate::io::Notice;
use crate::time::Instant;

/// Longest time and most messages of one wake-up (reading A71); the rest waits for the next.
const WAKE_TIME: Duration = Duration::from_secs(60);
const WAKE_MESSAGES: u16 = 100;

/// A client that is awake for its messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wake {
    /// Seconds it sleeps again afterwards.
    pub(crate) duration: u16,
    /// No message is begun after this.
    pub(crate) until: Instant,
    /// Messages it is still given.
    pub(crate) left: u16,
}

impl Client {
    /// C→G DISCONNECT(d)   G→C DISCONNECT, and nothing more until PINGREQ or CONNECT.
    pub(crate) fn fall_asleep(&mut self, cx: &mut Context, duration: u16) {
        self.down.requeue();
        self.state = State::Asleep { duration };
        self.clear_replies(cx);
        self.reply(cx, Reply::Disconnect);
        cx.notice(Notice::Asleep {
            client: self.id.clone(),
            duration,
        });
    }

    /// C→G PINGREQ(ClientId)   G→C messages, then PINGRESP.
    pub(crate) fn wake(&mut self, cx: &mut Context, now: Instant) {
        match &self.state {
            State::Asleep { duration } => {
                self.down.resume();
                self.state = State::Awake(Wake {
                    duration: *duration,
                    until: now + WAKE_TIME,
                    left: WAKE_MESSAGES,
                });
            }
            State::Awake(_) => self.down.repeat_now(),
            State::Setup(_) | State::Active | State::Disconnected | State::Lost | State::Gone => return,
        }
        self.end_wake_if_drained(cx, now);
    }

    /// PINGRESP once the messages of this wake-up are delivered and acknowledged.
    pub(crate) fn end_wake_if_drained(&mut self, cx: &mut Context, now: Instant) {
        let State::Awake(wake) = &self.state else { return };
        let done = self.down.queue.is_empty() || wake.left == 0 || now >= wake.until;
        if done && self.down.exchange.is_none() {
            self.back_to_sleep(now);
            self.reply(cx, Reply::Pingresp);
        }
    }

    /// Asleep again: the sleep timer starts anew, with or without PINGRESP.
    pub(crate) fn back_to_sleep(&mut self, now: Instant) {
        if let State::Awake(wake) = &self.state {
            self.last_seen = self.last_seen.max(now);
            self.state = State::Asleep {
                duration: wake.duration,
            };
        }
    }
}
