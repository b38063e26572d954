//! What waits for the client: taken within the bounds, dropped by the rules (reading A70).

use core::sync::atomic::Ordering;
use std::sync::Arc;

use sn_codec::{MsgId, QoS};

use super::{Downlink, Message, Stored};
use crate::client::{Client, State};
use crate::config::{SleepQos0, SleepRules, WhenFull};
use crate::context::Context;
use crate::durable::records::{Progress, Recipient};
use crate::durable::{Waiting, progress_key};
use crate::io::{DropReason, Notice};
use crate::time::Instant;

/// A message that waits for a client.
#[derive(Debug, Clone)]
pub(crate) struct Queued {
    pub(super) message: Arc<Message>,
    pub(super) since: Instant,
    pub(super) qos: QoS,
    /// The round it is in; a message keeps it when it goes back into the queue.
    pub(super) rounds: u8,
    /// It was sent before under this id: a QoS 2 message must keep it.
    pub(super) msg_id: Option<MsgId>,
    /// The client has acknowledged it with PUBREC; only the release is left.
    pub(super) received: bool,
    /// Its place in the record of the message, if it is stored.
    pub(super) place: Option<u32>,
    /// QoS 2 and stored: the message id to use, in this life and the next.
    pub(super) reserved: Option<MsgId>,
}

impl Downlink {
    /// Messages that wait or are on their way.
    pub(crate) fn len(&self) -> usize {
        let work = self.work.as_deref();
        work.map_or(0, |work| work.queue.len() + usize::from(work.exchange.is_some()))
    }

    /// True if no message waits.
    pub(crate) fn queue_is_empty(&self) -> bool {
        self.work.as_ref().is_none_or(|work| work.queue.is_empty())
    }

    /// Octets of topic and payload.
    fn bytes(&self) -> usize {
        self.work.as_ref().map_or(0, |work| work.bytes)
    }

    pub(super) fn queue(&self) -> impl Iterator<Item = &Queued> {
        self.work.iter().flat_map(|work| &work.queue)
    }
}

impl Client {
    /// Takes a message for the client. Returns what is to be stored of that, if anything is.
    pub(crate) fn deliver(
        &mut self,
        cx: &mut Context,
        now: Instant,
        message: &Arc<Message>,
        qos: QoS,
    ) -> Option<Recipient> {
        if qos == QoS::AtMostOnce && !self.takes_qos0(cx, &message.topic) {
            cx.metrics.buffer_qos0_dropped_total += 1;
            if matches!(self.state, State::Asleep { .. }) {
                self.tell_dropped(cx, &message.topic, DropReason::Qos0);
            }
            return None;
        }
        self.drop_expired(cx, now);
        if !self.make_room(cx, message.size(), qos) {
            cx.metrics.buffer_dropped_total += 1;
            self.tell_dropped(cx, &message.topic, DropReason::Full);
            return None;
        }
        let stored = message.stored.as_ref();
        let place = stored
            .filter(|_| qos > QoS::AtMostOnce || !self.may_deliver())
            .map(Stored::add);
        let reserved = (place.is_some() && qos == QoS::ExactlyOnce).then(|| self.down.next_msg_id());
        cx.metrics.buffer_messages += 1;
        cx.metrics.buffer_bytes += message.size() as u64;
        let item = Queued {
            message: message.clone(),
            since: now,
            qos,
            rounds: 0,
            msg_id: None,
            received: false,
            place,
            reserved,
        };
        let work = self.down.work.get_or_insert_default();
        work.bytes += message.size();
        work.queue.push_back(item);
        place.map(|_| Recipient {
            serial: self.serial,
            qos,
            msg_id: reserved.unwrap_or(MsgId(0)),
        })
    }

    /// A message of an earlier life. The client may have had it under its message id already.
    pub(crate) fn restore_queued(
        &mut self,
        cx: &mut Context,
        message: &Arc<Message>,
        recipient: Recipient,
        place: u32,
        since: Instant,
        received: bool,
    ) {
        cx.metrics.buffer_messages += 1;
        cx.metrics.buffer_bytes += message.size() as u64;
        let msg_id = (recipient.qos == QoS::ExactlyOnce).then_some(recipient.msg_id);
        if let Some(stored) = &message.stored {
            stored.left.fetch_add(1, Ordering::Relaxed);
        }
        let work = self.down.work.get_or_insert_default();
        work.bytes += message.size();
        work.queue.push_back(Queued {
            message: message.clone(),
            since,
            qos: recipient.qos,
            rounds: 0,
            msg_id,
            received,
            place: Some(place),
            reserved: msg_id,
        });
    }

    /// True if a QoS 0 message waits in this state; the one it replaces, if it replaces one, is dropped (reading A70).
    fn takes_qos0(&mut self, cx: &mut Context, topic: &Arc<str>) -> bool {
        match self.state {
            State::Setup(_) | State::Active | State::Awake(_) => return true,
            State::Disconnected | State::Lost | State::Gone => return false,
            State::Asleep { .. } => {}
        }
        match cx.sleep_rules(self.rule).qos0 {
            SleepQos0::KeepAll => true,
            SleepQos0::Drop => false,
            SleepQos0::LatestPerTopic => {
                let same = |item: &Queued| item.qos == QoS::AtMostOnce && item.message.topic == *topic;
                let earlier = self.down.queue().position(same);
                if let Some(at) = earlier {
                    self.drop_queued(cx, at);
                    cx.metrics.buffer_superseded_total += 1;
                    self.tell_dropped(cx, topic, DropReason::Superseded);
                }
                true
            }
        }
    }

    /// Room within the three bounds: the oldest QoS 0 message goes first, then what the rules say (reading A70).
    fn make_room(&mut self, cx: &mut Context, size: usize, qos: QoS) -> bool {
        let SleepRules {
            max_messages,
            max_bytes,
            when_full,
            ..
        } = *cx.sleep_rules(self.rule);
        if size > max_bytes.min(cx.config.limits.buffer_bytes) {
            return false;
        }
        loop {
            let fits = self.down.len() < max_messages
                && self.down.bytes() + size <= max_bytes
                && cx.metrics.buffer_bytes as usize + size <= cx.config.limits.buffer_bytes;
            if fits {
                return true;
            }
            let oldest_qos0 = self.down.queue().position(|item| item.qos == QoS::AtMostOnce);
            let goes = match when_full {
                WhenFull::Refuse | WhenFull::DropNewest => oldest_qos0,
                // A QoS 0 message never pushes another QoS out: it is itself the one that goes first.
                WhenFull::DropOldest if qos == QoS::AtMostOnce => oldest_qos0,
                WhenFull::DropOldest => oldest_qos0.or((!self.down.queue_is_empty()).then_some(0)),
            };
            let Some(at) = goes else { return false };
            if let Some(item) = self.drop_queued(cx, at) {
                self.tell_dropped(cx, &item.message.topic, DropReason::Full);
            }
            cx.metrics.buffer_dropped_total += 1;
        }
    }

    /// Drops what waited too long (reading A70). The queue is in the order of arrival.
    pub(crate) fn drop_expired(&mut self, cx: &mut Context, now: Instant) {
        let max_age = cx.sleep_rules(self.rule).max_age;
        while self
            .down
            .queue()
            .next()
            .is_some_and(|item| now >= item.since + max_age)
        {
            if let Some(item) = self.drop_queued(cx, 0) {
                self.tell_dropped(cx, &item.message.topic, DropReason::Expired);
            }
            cx.metrics.buffer_expired_total += 1;
        }
    }

    /// When the message that waits longest has waited too long.
    pub(crate) fn expires_at(&self, cx: &Context) -> Option<Instant> {
        let oldest = self.down.queue().next()?;
        Some(oldest.since + cx.sleep_rules(self.rule).max_age)
    }

    /// Forgets everything that waits for the client.
    pub(crate) fn clear_queue(&mut self, cx: &mut Context) {
        self.down.abort();
        for item in self.down.work.take().into_iter().flat_map(|work| work.queue) {
            self.forget(cx, &item);
            cx.metrics.buffer_cleared_total += 1;
        }
    }

    pub(super) fn drop_queued(&mut self, cx: &mut Context, at: usize) -> Option<Queued> {
        let before = at + usize::from(self.down.has_exchange());
        let work = self.down.work.as_mut()?;
        let item = work.queue.remove(at)?;
        // PINGRESP does not wait for what came after the PINGREQ (reading A16).
        let later = work.pingresp_after.filter(|after| before >= usize::from(*after));
        self.forget(cx, &item);
        if let Some(work) = self.down.work.as_mut().filter(|_| later.is_some()) {
            work.pingresp_after = later;
        }
        Some(item)
    }

    pub(super) fn forget(&mut self, cx: &mut Context, item: &Queued) {
        if let Some(work) = &mut self.down.work {
            work.bytes -= item.message.size();
            work.pingresp_after = work.pingresp_after.map(|after| after.saturating_sub(1));
            work.pings_put_off = 0;
        }
        cx.metrics.buffer_messages -= 1;
        cx.metrics.buffer_bytes -= item.message.size() as u64;
        if let (Some(stored), Some(place)) = (&item.message.stored, item.place) {
            let recipients = stored.recipients.load(Ordering::Relaxed);
            if stored.left.fetch_sub(1, Ordering::Relaxed) > 1 {
                let done = Progress::Done.encode();
                cx.journal.put(progress_key(stored.id, place), done);
                return;
            }
            cx.journal.message_done(stored.id, stored.from);
            if recipients > 1 || item.qos == QoS::ExactlyOnce {
                let forget = Waiting::ForgetProgress(stored.id, recipients);
                // If the disk does not work, later.
                let _ = cx.journal.wait(forget);
            }
        }
    }

    fn tell_dropped(&self, cx: &mut Context, topic: &Arc<str>, reason: DropReason) {
        cx.notice(Notice::Dropped {
            client: self.id.clone(),
            topic: topic.clone(),
            reason,
        });
    }
}
