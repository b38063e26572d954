//! Delivery to the client: REGISTER if needed, then PUBLISH, one exchange at a time and in order (§6.10, reading A59).
//!
//! A [`Message`] goes into the [`queue`] of each of its clients. What keeps a whole queue back is known here; otherwise
//! an [`exchange`] is opened for its first message, and [`send`] makes the datagram of each step, which the client
//! answers ([`answers`]) or does not ([`retry`]).

mod answers;
mod delivered;
mod durable;
mod exchange;
mod message;
mod pingresp;
mod queue;
mod retry;
mod send;
mod topic;

use core::time::Duration;
use std::collections::VecDeque;

use sn_codec::MsgId;

use self::delivered::Delivered;
use self::exchange::Exchange;
pub(crate) use self::message::{Message, Stored};
pub(crate) use self::queue::Queued;
use super::{Client, State};
use crate::config::Timers;
use crate::context::Context;
use crate::time::Instant;

/// T_WAIT (§7.2): the pause after a client answered "congestion".
const T_WAIT: Duration = Duration::from_secs(300);

/// What goes to the client and what waits.
#[derive(Debug, Default)]
pub(crate) struct Downlink {
    /// Most clients have nothing most of the time.
    work: Option<Box<Work>>,
    last_msg_id: u16,
    /// The client refuses DUP (reading A61).
    pub(crate) no_dup: bool,
    /// The client does not answer REGISTER (reading A40).
    pub(crate) no_register: bool,
    /// It has answered REGISTER before, so silence is loss and no habit.
    pub(crate) answers_register: bool,
    /// A round was spent: deliveries go on with the next packet from the client (reading A60).
    parked: bool,
}

/// Messages for the client, and what keeps them back.
#[derive(Debug, Default)]
struct Work {
    queue: VecDeque<Queued>,
    exchange: Option<Exchange>,
    bytes: usize,
    /// The client answered "congestion" (reading A62).
    paused_until: Option<Instant>,
    /// A SUBSCRIBE is open: what matches it waits for the SUBACK (reading A57).
    held_until: Option<Instant>,
    /// The client is owed PINGRESP after so many messages (reading A16).
    pingresp_after: Option<u16>,
    pings_put_off: u8,
    /// When the first of those came.
    put_off_since: Instant,
    /// What the client took of what had waited, until that is told.
    delivered: Option<Delivered>,
}

impl Downlink {
    /// `start` is any number: message ids begin there, so that a late answer to an earlier record of the client does
    /// not meet the same id again.
    pub(crate) fn new(start: u16) -> Self {
        Downlink {
            last_msg_id: start,
            ..Downlink::default()
        }
    }

    /// Frees memory that the client does not need for now.
    pub(crate) fn shrink(&mut self) {
        let waits = |work: &Work| work.paused_until.is_some() || work.held_until.is_some();
        if self.len() == 0 && !self.work.as_deref().is_some_and(waits) {
            self.work = None;
        }
    }

    /// When delivery wants to be looked at.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.parked {
            return None;
        }
        let work = self.work.as_ref()?;
        let retry = work
            .exchange
            .as_ref()
            .filter(|exchange| !exchange.due)
            .and_then(|exchange| exchange.retry_at);
        [retry, work.paused_until, work.held_until]
            .into_iter()
            .flatten()
            .min()
    }

    /// Holds deliveries back for a SUBACK, at most Tretry.
    pub(crate) fn hold(&mut self, now: Instant, timers: &Timers) {
        self.work.get_or_insert_default().held_until = Some(now + timers.retry_first);
    }

    /// No SUBACK is waited for any more.
    pub(crate) fn release_hold(&mut self) {
        if let Some(work) = &mut self.work {
            work.held_until = None;
        }
    }

    /// A request of the client ends the pause it asked for (reading A62).
    pub(crate) fn unpause(&mut self) {
        let paused = self.work.as_mut().and_then(|work| work.paused_until.take());
        if paused.is_some() {
            self.repeat_now();
        }
    }

    /// The connection ended: what was open goes back to the front of the queue.
    pub(crate) fn abort(&mut self) {
        self.requeue();
        self.no_dup = false;
        self.no_register = false;
        self.parked = false;
        if let Some(work) = &mut self.work {
            (work.paused_until, work.held_until) = (None, None);
        }
    }

    /// A message id with two different octets and a high one that is not 0, so that byte-swapped answers can be told
    /// from others (reading A64). It is in the lower half: there are clients that answer it as a signed number.
    fn next_msg_id(&mut self) -> MsgId {
        loop {
            self.last_msg_id = ((self.last_msg_id & 0x7FFF) + 1).max(0x0100) & 0x7FFF;
            let [high, low] = self.last_msg_id.to_be_bytes();
            if high != low {
                return MsgId(self.last_msg_id);
            }
        }
    }
}

impl Client {
    /// True in the states in which messages go out.
    pub(crate) fn may_deliver(&self) -> bool {
        matches!(self.state, State::Active | State::Awake(_))
    }

    /// True if a datagram can go out now.
    pub(crate) fn wants_to_deliver(&self, now: Instant) -> bool {
        let Some(work) = self.down.work.as_ref().filter(|_| !self.down.parked) else {
            return false;
        };
        let waiting = |until: Option<Instant>| until.is_some_and(|until| now < until);
        let held = waiting(work.held_until) && self.open.any_subscribe();
        if !self.may_deliver() || waiting(work.paused_until) || held {
            return false;
        }
        match &work.exchange {
            Some(exchange) => exchange.due,
            None => match (&self.state, work.queue.front()) {
                (_, None) => false,
                (_, Some(item)) if item.waits_for_disk() => false,
                (State::Awake(wake), Some(_)) => wake.takes_more(),
                (_, Some(_)) => true,
            },
        }
    }

    /// A deadline of the delivery passed.
    pub(crate) fn on_delivery_deadline(&mut self, cx: &mut Context, now: Instant) {
        let passed = |until: &mut Option<Instant>| until.take_if(|until| now >= *until).is_some();
        if let Some(work) = &mut self.down.work {
            passed(&mut work.held_until);
            if passed(&mut work.paused_until) {
                self.down.repeat_now();
            }
        }
        let link = self.via.as_ref().map(|via| via.link);
        let count = link.map_or(cx.config.timers.retry_count, |link| cx.config.retry(link).count);
        let sends_max = count.saturating_add(1);
        if let Some(exchange) = self.down.exchange_mut()
            && !exchange.due
            && exchange.retry_at.is_some_and(|at| now >= at)
        {
            if exchange.sends < sends_max {
                exchange.due = true;
            } else {
                self.end_round(cx);
            }
        }
        self.on_wake_deadline(now);
        self.end_wake_if_drained(cx, now);
    }

    /// The client wants to be left alone for T_WAIT, or until it asks for something itself (reading A62).
    pub(crate) fn pause_deliveries(&mut self, now: Instant) {
        self.down.work.get_or_insert_default().paused_until = Some(now + T_WAIT);
        if let Some(exchange) = self.down.exchange_mut() {
            (exchange.due, exchange.retry_at) = (false, None);
        }
    }
}

#[cfg(test)]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_ids_are_positive_as_signed_numbers_and_differ_from_themselves_swapped() {
        for start in [0, 0x00FE, 0x7FFD, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF] {
            let mut down = Downlink::new(start);
            let ids: Vec<u16> = (0..3).map(|_| down.next_msg_id().0).collect();
            for id in &ids {
                assert!((0x0100..0x8000).contains(id), "{id:#06x} after {start:#06x}");
                assert_ne!(*id, id.swap_bytes());
            }
            assert!(ids[0] != ids[1] && ids[1] != ids[2]);
        }
    }
}
