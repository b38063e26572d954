//! Delivery to the client: REGISTER if needed, then PUBLISH, one exchange at a time and in order (§6.10, reading A59).

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use sn_codec::{
    MsgId, Packet, Puback, Publish, PublishQoS, QoS, Register, ReturnCode, ShortTopic, TopicId, TopicRef,
};

use super::subscribe::Form;
use super::{Client, Reply, State};
use crate::budget::Share;
use crate::config::{SleepQos0, SleepRules, Timers, WhenFull};
use crate::context::Context;
use crate::durable::records::{Progress, Recipient};
use crate::durable::{Waiting, progress_key};
use crate::io::{ConnId, DeliveryId, DropReason, Notice, TxTicket};
use crate::links::{Link, What};
use crate::peer::LinkId;
use crate::registry::NormalTopic;
use crate::schedule::Line;
use crate::time::Instant;

/// Rounds of sends after which a message that is never acknowledged is given up (reading A60).
const ROUNDS_MAX: u8 = 6;

/// Times in a row that a link may refuse the same datagram before that counts as sent in vain; taste.
const UNSENT_MAX: u8 = 16;

/// T_WAIT (§7.2): the pause after a client answered "congestion".
const T_WAIT: Duration = Duration::from_secs(300);

/// A message from the broker, shared by all clients that get it. An empty payload is one like any other (reading A47).
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) topic: Arc<str>,
    pub(crate) payload: Bytes,
    /// As the broker delivered it (reading A66).
    pub(crate) retain: bool,
    /// What is stored of it.
    pub(crate) stored: Option<Stored>,
}

/// A message in the store.
#[derive(Debug)]
pub(crate) struct Stored {
    /// Its number.
    pub(crate) id: u64,
    /// The broker's QoS 2 delivery that brought it.
    pub(crate) from: Option<(ConnId, DeliveryId)>,
    /// Recipients that were given a place in its record, and those of them that do not have it yet.
    pub(crate) recipients: AtomicU32,
    pub(crate) left: AtomicU32,
    /// Not durable yet. With QoS 2 it is not sent before: a later life would send it under another message id.
    pub(crate) unsure: AtomicBool,
}

impl Stored {
    pub(crate) fn new(id: u64, from: Option<(ConnId, DeliveryId)>, unsure: bool) -> Self {
        Stored {
            id,
            from,
            recipients: AtomicU32::new(0),
            left: AtomicU32::new(0),
            unsure: AtomicBool::new(unsure),
        }
    }

    /// One of an earlier life with this many recipients; [`Client::restore_queued`] counts those that still wait.
    pub(crate) fn restored(id: u64, from: Option<(ConnId, DeliveryId)>, recipients: u32) -> Self {
        Stored {
            id,
            from,
            recipients: AtomicU32::new(recipients),
            left: AtomicU32::new(0),
            unsure: AtomicBool::new(false),
        }
    }

    /// The place of one more recipient.
    pub(crate) fn add(&self) -> u32 {
        self.left.fetch_add(1, Ordering::Relaxed);
        self.recipients.fetch_add(1, Ordering::Relaxed)
    }
}

impl Queued {
    /// It is sent when it is durable.
    fn waits_for_disk(&self) -> bool {
        let stored = self.message.stored.as_ref();
        self.qos == QoS::ExactlyOnce && stored.is_some_and(|stored| stored.unsure.load(Ordering::Relaxed))
    }
}

impl Message {
    fn size(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

/// The next datagram for a client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Next {
    /// Octets of the message, without the frame of a forwarder.
    pub(crate) len: usize,
    pub(crate) share: Share,
}

/// A message that waits for a client.
#[derive(Debug, Clone)]
pub(crate) struct Queued {
    message: Arc<Message>,
    since: Instant,
    qos: QoS,
    /// The round it is in; a message keeps it when it goes back into the queue.
    rounds: u8,
    /// It was sent before under this id: a QoS 2 message must keep it.
    msg_id: Option<MsgId>,
    /// The client has acknowledged it with PUBREC; only the release is left.
    received: bool,
    /// Its place in the record of the message, if it is stored.
    place: Option<u32>,
    /// QoS 2 and stored: the message id to use, in this life and the next.
    reserved: Option<MsgId>,
}

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

/// PINGREQs in a row whose answer waits for messages, until the client takes one (reading A16): the next gets its
/// PINGRESP at once, before a client that cannot take the message gives the gateway up.
const PINGS_PUT_OFF: u8 = 2;

/// How long such a row is: repeats of one PINGREQ are Tretry apart, and a later one is another wake-up.
const ROW_OF_PINGS: Duration = Duration::from_secs(60);

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

/// What a client took of what had waited for it.
#[derive(Debug, Default)]
struct Delivered {
    messages: u32,
    bytes: u64,
    waited: Duration,
}

/// One open exchange of ours with the client.
#[derive(Debug)]
pub(crate) struct Exchange {
    step: Step,
    msg_id: MsgId,
    item: Queued,
    topic: TopicRef,
    /// Sends of the current step in the current round.
    sends: u8,
    /// Those since the client was last heard.
    unheard: u8,
    /// Tretry after the last send: the earliest time to repeat it, if the client is heard meanwhile.
    soonest: Instant,
    /// The PUBLISH went out at least once under this message id.
    published: bool,
    /// The last PUBLISH carried DUP.
    sent_dup: bool,
    /// Send now; else at `retry_at`.
    due: bool,
    retry_at: Option<Instant>,
    /// The link has it and has not said what became of it.
    in_flight: Option<TxTicket>,
    /// Times in a row that the link did not send it.
    unsent: u8,
    /// What `published` was before the last send.
    published_before: bool,
    /// PUBACK "invalid topic id" was answered with REGISTER already (reading A41).
    tried_register: bool,
    /// PUBREL waits until it is durable that PUBREC came, and REGISTER until it is that the id is taken.
    held: bool,
    /// The message id under which a QoS 2 message was refused by that.
    refused_id: Option<MsgId>,
}

/// What the client must answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// REGISTER, answered by REGACK.
    Register(TopicId),
    /// PUBLISH, answered by PUBACK or PUBREC.
    Publish,
    /// PUBREL, answered by PUBCOMP.
    Pubrel,
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

    /// From now on counts what the client takes, if anything waits for it.
    pub(crate) fn count_delivered(&mut self) {
        if self.len() > 0
            && let Some(work) = &mut self.work
        {
            work.delivered = Some(Delivered::default());
        }
    }

    /// Messages that wait or are on their way.
    pub(crate) fn len(&self) -> usize {
        let work = self.work.as_deref();
        work.map_or(0, |work| work.queue.len() + usize::from(work.exchange.is_some()))
    }

    /// True if no message waits.
    pub(crate) fn queue_is_empty(&self) -> bool {
        self.work.as_ref().is_none_or(|work| work.queue.is_empty())
    }

    /// True if a message is on its way.
    pub(crate) fn has_exchange(&self) -> bool {
        self.exchange().is_some()
    }

    fn exchange(&self) -> Option<&Exchange> {
        self.work.as_ref()?.exchange.as_ref()
    }

    fn exchange_mut(&mut self) -> Option<&mut Exchange> {
        self.work.as_mut()?.exchange.as_mut()
    }

    /// Octets of topic and payload.
    fn bytes(&self) -> usize {
        self.work.as_ref().map_or(0, |work| work.bytes)
    }

    fn queue(&self) -> impl Iterator<Item = &Queued> {
        self.work.iter().flat_map(|work| &work.queue)
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

    /// The message that was sent under this id and went back into the queue, when its answer comes late.
    fn requeued(&mut self, msg_id: MsgId, qos: QoS) -> Option<&mut Queued> {
        self.work
            .as_mut()?
            .queue
            .front_mut()
            .filter(|item| item.msg_id == Some(msg_id) && item.qos == qos)
    }

    /// Puts the message of the open exchange back to the front.
    pub(crate) fn requeue(&mut self) {
        let Some(work) = &mut self.work else { return };
        (work.pingresp_after, work.pings_put_off) = (None, 0);
        if let Some(exchange) = work.exchange.take() {
            let mut item = exchange.item;
            // An answer to a copy of what was refused may still come.
            let known = exchange.published.then_some(exchange.msg_id);
            item.msg_id = known.or(exchange.refused_id);
            item.received = exchange.step == Step::Pubrel;
            work.queue.push_front(item);
        }
    }

    /// The client is there again: a parked exchange goes on with a new round.
    pub(crate) fn resume(&mut self) {
        if self.parked {
            self.parked = false;
            self.repeat_now();
        }
    }

    /// The client was heard: the next repeat comes Tretry after the last, for the longer waits are for those that are
    /// silent (reading A60).
    pub(crate) fn end_silence(&mut self) {
        if let Some(exchange) = self.exchange_mut() {
            exchange.retry_at = exchange.retry_at.map(|at| at.min(exchange.soonest));
            exchange.unheard = 0;
        }
    }

    /// A request of the client ends the pause it asked for (reading A62).
    pub(crate) fn unpause(&mut self) {
        let paused = self.work.as_mut().and_then(|work| work.paused_until.take());
        if paused.is_some() {
            self.repeat_now();
        }
    }

    /// True if PINGRESP follows the messages that wait now; the one under way is sent again, for the client says that
    /// it listens.
    pub(crate) fn put_off_pingresp(&mut self, now: Instant) -> bool {
        let waiting = u16::try_from(self.len()).unwrap_or(u16::MAX);
        let Some(work) = self.work.as_mut().filter(|_| waiting > 0) else {
            return false;
        };
        if work.pings_put_off == 0 || now.since(work.put_off_since) >= ROW_OF_PINGS {
            (work.pings_put_off, work.put_off_since) = (0, now);
        }
        if work.pings_put_off >= PINGS_PUT_OFF {
            work.pingresp_after = None;
            return false;
        }
        work.pings_put_off += 1;
        work.pingresp_after = Some(waiting);
        self.repeat_now();
        true
    }

    /// True, once, if the messages that PINGRESP waits for are done with.
    pub(crate) fn take_due_pingresp(&mut self) -> bool {
        let done = self.len() == 0;
        let due = |after: &mut u16| done || *after == 0;
        self.work
            .as_mut()
            .and_then(|work| work.pingresp_after.take_if(due))
            .is_some()
    }

    /// Sends the open exchange again, as a new round; what is on its way has not been sent yet.
    pub(crate) fn repeat_now(&mut self) {
        if let Some(exchange) = self.exchange_mut() {
            exchange.due = exchange.in_flight.is_none() && !exchange.held;
            exchange.sends = 0;
        }
    }

    /// The link is down: the open exchange goes on when it is back, as if it had not been sent.
    pub(crate) fn on_link_down(&mut self) {
        if self.parked {
            return;
        }
        if let Some(exchange) = self.exchange_mut()
            && !exchange.due
            && !exchange.held
        {
            exchange.due = true;
            exchange.sends = exchange.sends.saturating_sub(1);
            exchange.unheard = exchange.unheard.saturating_sub(1);
            (exchange.in_flight, exchange.retry_at) = (None, None);
        }
    }

    /// The client answered a REGISTER: later silence does not make it one that never does (reading A40).
    pub(crate) fn answers_register(&mut self) {
        self.answers_register = true;
        self.no_register = false;
    }

    /// The topic id of the REGISTER that a REGACK answers, also if its ids are byte-swapped (reading A64).
    pub(crate) fn registering(
        &mut self,
        cx: &mut Context,
        topic_id: TopicId,
        msg_id: MsgId,
    ) -> Option<TopicId> {
        let exchange = self.exchange()?;
        let Step::Register(ours) = exchange.step else {
            return None;
        };
        // Not sent yet, so this answers an earlier life's under the same message id.
        if exchange.held {
            return None;
        }
        // A rejection may carry any id.
        if exchange.msg_id == msg_id {
            return Some(ours);
        }
        let swapped = msg_id.0.swap_bytes() == exchange.msg_id.0 && topic_id.0.swap_bytes() == ours.0;
        cx.metrics.swapped_acks_total += u64::from(swapped);
        swapped.then_some(ours)
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
    /// The client has taken a message.
    fn took(&mut self, cx: &mut Context, item: &Queued) {
        cx.metrics.delivered_total += 1;
        let now = cx.links.now;
        let Some(delivered) = self.down.work.as_mut().and_then(|work| work.delivered.as_mut()) else {
            return;
        };
        delivered.messages += 1;
        delivered.bytes += item.message.payload.len() as u64;
        delivered.waited = delivered.waited.max(now.since(item.since));
        if self.down.len() == 0 && matches!(self.state, State::Active) {
            self.tell_delivered(cx);
        }
    }

    /// What had waited for the client is with it.
    pub(crate) fn tell_delivered(&mut self, cx: &mut Context) {
        let delivered = self.down.work.as_mut().and_then(|work| work.delivered.take());
        if let Some(delivered) = delivered
            && delivered.messages > 0
        {
            cx.notice(Notice::Delivered {
                client: self.id.clone(),
                messages: delivered.messages,
                bytes: delivered.bytes,
                waited: delivered.waited,
            });
        }
    }

    fn tell_dropped(&self, cx: &mut Context, topic: &Arc<str>, reason: DropReason) {
        cx.notice(Notice::Dropped {
            client: self.id.clone(),
            topic: topic.clone(),
            reason,
        });
    }

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

    fn drop_queued(&mut self, cx: &mut Context, at: usize) -> Option<Queued> {
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

    fn forget(&mut self, cx: &mut Context, item: &Queued) {
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

    /// Forgets everything that waits for the client.
    pub(crate) fn clear_queue(&mut self, cx: &mut Context) {
        self.down.abort();
        for item in self.down.work.take().into_iter().flat_map(|work| work.queue) {
            self.forget(cx, &item);
            cx.metrics.buffer_cleared_total += 1;
        }
    }

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

    /// Which line the next datagram is for.
    pub(crate) fn next_line(&self) -> Line {
        if matches!(self.state, State::Awake(_)) {
            return Line::Awake;
        }
        let qos0 = match self.down.exchange() {
            Some(exchange) => exchange.is_qos0_publish(),
            None => self
                .down
                .queue()
                .next()
                .is_some_and(|item| item.qos == QoS::AtMostOnce),
        };
        if qos0 { Line::Qos0 } else { Line::Exchange }
    }

    /// The next datagram of the delivery, which [`Client::send`] then makes; `None` if there is nothing to send after
    /// all.
    pub(crate) fn prepare(&mut self, cx: &mut Context, now: Instant) -> Option<Next> {
        let mtu = self.mtu(cx);
        while self.wants_to_deliver(now) {
            if !self.down.has_exchange() {
                self.drop_expired(cx, now);
                self.begin(cx);
            }
            let Some(exchange) = self.down.exchange().filter(|exchange| exchange.due) else {
                continue;
            };
            let len = exchange.packet(false).encoded_len();
            if len <= mtu {
                let share = match exchange.step {
                    Step::Publish => Share::Data,
                    Step::Register(_) | Step::Pubrel => Share::Control,
                };
                return Some(Next { len, share });
            }
            cx.links.count_too_long(self.via.as_ref());
            self.too_large(cx, len);
        }
        None
    }

    /// §6.10, reading A63: a message that does not fit is given up without telling the client, never truncated.
    pub(crate) fn too_large(&mut self, cx: &mut Context, len: usize) {
        cx.metrics.too_large_total += 1;
        if let Some(exchange) = self.down.exchange() {
            cx.notice(Notice::TooLarge {
                client: self.id.clone(),
                topic: exchange.item.message.topic.clone(),
                len,
            });
        }
        self.finish_exchange(cx);
    }

    /// Takes the next message from the queue and opens its exchange.
    fn begin(&mut self, cx: &mut Context) {
        let next = self.down.work.as_mut().and_then(|work| work.queue.pop_front());
        let Some(item) = next else { return };
        if let State::Awake(wake) = &mut self.state {
            wake.left = wake.left.saturating_sub(1);
        }
        let known = item.msg_id;
        let new_id = self.topics.is_spent() && self.topics.by_name(&item.message.topic).is_none();
        let Some((step, topic)) = self.topic_for(cx, &item.message.topic) else {
            cx.metrics.rejected_by_client_total += 1;
            return self.forget(cx, &item);
        };
        let step = if item.received { Step::Pubrel } else { step };
        let msg_id = known.or(item.reserved).unwrap_or_else(|| self.down.next_msg_id());
        self.down.work.get_or_insert_default().exchange = Some(Exchange {
            step,
            msg_id,
            topic,
            sends: 0,
            unheard: 0,
            soonest: Instant::START,
            published: known.is_some(),
            sent_dup: false,
            due: true,
            retry_at: None,
            in_flight: None,
            unsent: 0,
            published_before: known.is_some(),
            tried_register: false,
            held: false,
            refused_id: None,
            item,
        });
        match step {
            Step::Pubrel => self.hold_pubrel(cx),
            Step::Register(_) if new_id => self.hold_register(cx),
            Step::Register(_) | Step::Publish => {}
        }
    }

    /// How the client is told the topic (reading A42), or `None` if it refused the name.
    fn topic_for(&mut self, cx: &mut Context, name: &Arc<str>) -> Option<(Step, TopicRef)> {
        // A number that the client was never told is none yet.
        let known = |topic: &&NormalTopic| topic.told || topic.confirmed || topic.rejected;
        if let Some(topic) = self.topics.by_name(name).filter(known) {
            if topic.rejected {
                return None;
            }
            let skip = topic.confirmed || self.down.no_register;
            let step = if skip {
                Step::Publish
            } else {
                Step::Register(topic.id)
            };
            return Some((step, TopicRef::Normal(topic.id)));
        }
        let subscribed = self.subscriptions.iter().find_map(|mine| match mine.form {
            Form::Predefined(id) => {
                let filter = cx.subscriptions.get_mut(mine.filter)?;
                (filter.name == *name).then_some(id)
            }
            Form::Name | Form::Short => None,
        });
        if let Some(id) = subscribed.or_else(|| cx.predefined.id_of(self.rule, &self.id, name)) {
            return Some((Step::Publish, TopicRef::Predefined(id)));
        }
        if let Ok(short) = <[u8; 2]>::try_from(name.as_bytes()) {
            return Some((Step::Publish, TopicRef::Short(ShortTopic(short))));
        }
        self.register_for(cx, name)
    }

    /// A normal id for a name the client does not know yet.
    fn register_for(&mut self, cx: &mut Context, name: &Arc<str>) -> Option<(Step, TopicRef)> {
        if self.down.no_register {
            return None;
        }
        let id = self
            .topics
            .assign(name, cx.config.limits.topics_per_client)
            .ok()?;
        Some((Step::Register(id), TopicRef::Normal(id)))
    }

    /// Encodes what the open exchange is at. `len` is that of the whole datagram. Returns what is to be remembered of
    /// it if the link will report it.
    pub(crate) fn send(
        &mut self,
        cx: &mut Context,
        now: Instant,
        ticket: TxTicket,
        len: usize,
        buf: &mut Vec<u8>,
    ) -> Option<What> {
        let no_dup = self.down.no_dup;
        let link = self.via.as_ref().map(|via| via.link)?;
        let confirms = cx.links.get(link).is_some_and(Link::confirms);
        let (client, serial) = (self.ix, self.serial);
        let exchange = self.down.exchange_mut()?;
        let again = exchange.sends > 0 || exchange.item.rounds > 0;
        let dup = exchange.published && !no_dup;
        let packet = exchange.packet(dup);
        packet.encode(buf);
        cx.metrics.count_sent(packet.msg_type());
        cx.metrics.retransmissions_total += u64::from(again);
        if exchange.is_qos0_publish() {
            let item = confirms.then(|| exchange.item.clone());
            self.finish_delivered(cx);
            return item.map(|item| What::Qos0 { client, serial, item });
        }
        exchange.published_before = exchange.published;
        if exchange.step == Step::Publish {
            (exchange.published, exchange.sent_dup) = (true, dup);
        }
        exchange.due = false;
        exchange.sends += 1;
        exchange.unheard = exchange.unheard.saturating_add(1);
        if confirms {
            // Its answer is waited for once it has left.
            (exchange.in_flight, exchange.retry_at) = (Some(ticket), None);
            return Some(What::Exchange { client, serial });
        }
        let airtime = cx
            .links
            .get(link)
            .map_or(Duration::ZERO, |link| link.airtime(len));
        self.wait_for_answer(cx, now + airtime, link, len);
        None
    }

    /// A datagram has left, and its answer is waited for: Tretry, or as long as the link needs (three round trips and
    /// what goes out meanwhile), and twice as long each time it is repeated.
    fn wait_for_answer(&mut self, cx: &mut Context, now: Instant, link: LinkId, len: usize) {
        let needed = cx.links.answer_wait(now, link, len, &mut cx.rng);
        let retry = cx.config.retry(link);
        let Some(exchange) = self.down.exchange_mut() else {
            return;
        };
        let factor = 1_u32 << exchange.unheard.saturating_sub(1).min(16);
        let first = retry.first.max(needed);
        exchange.soonest = now + first;
        let wait = first.saturating_mul(factor);
        exchange.retry_at = Some(now + wait.min(retry.max.max(needed)));
    }

    /// A step of the exchange left the antenna.
    pub(crate) fn on_sent(&mut self, cx: &mut Context, now: Instant, ticket: TxTicket, len: usize) {
        let Some(link) = self.via.as_ref().map(|via| via.link) else {
            return;
        };
        let exchange = self.down.exchange_mut();
        let Some(exchange) = exchange.filter(|exchange| exchange.in_flight == Some(ticket)) else {
            return;
        };
        exchange.in_flight = None;
        exchange.unsent = 0;
        if !exchange.due {
            self.wait_for_answer(cx, now, link, len);
        }
    }

    /// It never left: it is due again, and was not sent in vain. `None` is whatever was on its way.
    pub(crate) fn on_unsent(&mut self, ticket: Option<TxTicket>) {
        let Some(exchange) = self.down.exchange_mut() else {
            return;
        };
        if exchange.in_flight.is_none() || ticket.is_some_and(|ticket| exchange.in_flight != Some(ticket)) {
            return;
        }
        exchange.in_flight = None;
        exchange.unsent = exchange.unsent.saturating_add(1);
        exchange.published = exchange.published_before;
        exchange.due = true;
        // What the link refuses again and again must not stay in front for ever.
        if exchange.unsent < UNSENT_MAX {
            exchange.sends = exchange.sends.saturating_sub(1);
            exchange.unheard = exchange.unheard.saturating_sub(1);
        }
    }

    /// A QoS 0 message that never left: it is the next one again.
    pub(crate) fn take_back(&mut self, cx: &mut Context, mut item: Queued) {
        item.rounds += 1;
        if item.rounds > ROUNDS_MAX || !self.state.is_connected() {
            cx.metrics.buffer_qos0_dropped_total += 1;
            return;
        }
        cx.metrics.delivered_total -= 1;
        cx.metrics.buffer_messages += 1;
        cx.metrics.buffer_bytes += item.message.size() as u64;
        let work = self.down.work.get_or_insert_default();
        work.bytes += item.message.size();
        work.queue.push_front(item);
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

    /// Nretry is spent: the client is left alone until it is heard of again (reading A60).
    fn end_round(&mut self, cx: &mut Context) {
        let Some(exchange) = self.down.exchange_mut() else {
            return;
        };
        exchange.item.rounds += 1;
        exchange.retry_at = None;
        let told = match exchange.step {
            Step::Register(id) => self.topics.by_id(id).is_some_and(|topic| topic.told),
            Step::Publish | Step::Pubrel => false,
        };
        if told {
            // Reading A40: emcute never answers REGISTER but knows the ids it asked for.
            self.down.no_register = !self.down.answers_register;
            self.publish_now();
            return;
        }
        if exchange.item.rounds >= ROUNDS_MAX {
            if matches!(exchange.step, Step::Register(_)) {
                self.down.no_register = !self.down.answers_register;
            }
            cx.metrics.poison_total += 1;
            self.finish_exchange(cx);
            return;
        }
        self.down.parked = true;
        if matches!(self.state, State::Awake(_)) {
            self.give_up_wake();
        }
    }

    /// The id is known: the PUBLISH itself goes out.
    pub(crate) fn publish_now(&mut self) {
        if let Some(exchange) = self.down.exchange_mut() {
            exchange.step = Step::Publish;
            exchange.due = true;
            exchange.sends = 0;
            self.down.parked = false;
        }
    }

    /// The message is done with, delivered or not.
    pub(crate) fn finish_exchange(&mut self, cx: &mut Context) -> Option<Queued> {
        let done = self.down.work.as_mut().and_then(|work| work.exchange.take());
        self.down.parked = false;
        let item = done?.item;
        self.forget(cx, &item);
        Some(item)
    }

    /// The message is with the client.
    fn finish_delivered(&mut self, cx: &mut Context) {
        if let Some(item) = self.finish_exchange(cx) {
            self.took(cx, &item);
        }
    }

    /// The client wants to be left alone for T_WAIT, or until it asks for something itself (reading A62).
    pub(crate) fn pause_deliveries(&mut self, now: Instant) {
        self.down.work.get_or_insert_default().paused_until = Some(now + T_WAIT);
        if let Some(exchange) = self.down.exchange_mut() {
            (exchange.due, exchange.retry_at) = (false, None);
        }
    }

    /// QoS 1: G→C PUBLISH(m)   C→G PUBACK(m). With another code it is an error for any QoS.
    pub(crate) fn on_puback(&mut self, cx: &mut Context, now: Instant, puback: Puback) {
        let code = puback.return_code;
        if puback.msg_id == MsgId(0) && code == ReturnCode::InvalidTopicId {
            // A QoS 0 message under an id the client does not know: register before the next one (reading A41).
            if let Some(topic) = self.topics.by_id_mut(puback.topic_id) {
                topic.confirmed = false;
            }
            return;
        }
        let Some(exchange) = self
            .down
            .exchange_mut()
            .filter(|exchange| exchange.answers(cx, &puback))
        else {
            let late =
                code == ReturnCode::Accepted && self.down.requeued(puback.msg_id, QoS::AtLeastOnce).is_some();
            match late {
                true => self.finish_requeued(cx),
                false => cx.metrics.unexpected_total += 1,
            }
            return;
        };
        let qos = exchange.item.qos;
        match code {
            ReturnCode::Accepted if qos == QoS::AtLeastOnce => {
                self.finish_delivered(cx);
            }
            ReturnCode::Accepted => cx.metrics.unexpected_total += 1,
            ReturnCode::Congestion => self.pause_deliveries(now),
            ReturnCode::InvalidTopicId => {
                let tried = core::mem::replace(&mut exchange.tried_register, true);
                let name = exchange.item.message.topic.clone();
                self.topics.unconfirm(&name);
                match tried {
                    false => self.register_again(cx, &name),
                    true => self.reject(cx),
                }
            }
            // Reading A61: emcute refuses any PUBLISH with DUP.
            ReturnCode::NotSupported if exchange.sent_dup => {
                self.down.no_dup = true;
                self.publish_now();
            }
            ReturnCode::NotSupported | ReturnCode::Reserved(_) => self.reject(cx),
        }
    }

    /// The client does not want the message.
    fn reject(&mut self, cx: &mut Context) {
        cx.metrics.rejected_by_client_total += 1;
        self.finish_exchange(cx);
    }

    /// The client does not know the id: the same id is registered again, and the message sent once more (A41).
    fn register_again(&mut self, cx: &mut Context, name: &Arc<str>) {
        match self.register_for(cx, name) {
            Some((step, topic)) => {
                let msg_id = self.down.next_msg_id();
                if let Some(exchange) = self.down.exchange_mut() {
                    exchange.refused_id = (exchange.item.qos == QoS::ExactlyOnce).then_some(exchange.msg_id);
                    (exchange.step, exchange.topic, exchange.msg_id) = (step, topic, msg_id);
                    (exchange.due, exchange.sends, exchange.published) = (true, 0, false);
                }
            }
            None => self.reject(cx),
        }
    }

    /// QoS 2: G→C PUBLISH(m)   C→G PUBREC(m)   G→C PUBREL(m)   C→G PUBCOMP(m).
    pub(crate) fn on_pubrec(&mut self, cx: &mut Context, now: Instant, msg_id: MsgId) {
        match self.down.exchange_mut() {
            Some(exchange) if exchange.msg_id == msg_id && exchange.item.qos == QoS::ExactlyOnce => {
                if exchange.held {
                    return;
                }
                let again = exchange.step == Step::Pubrel;
                exchange.step = Step::Pubrel;
                exchange.due = true;
                exchange.sends = 0;
                if !again {
                    // A step further: what it took to get here does not count against PUBREL.
                    exchange.item.rounds = 0;
                    self.hold_pubrel(cx);
                }
                self.down.parked = false;
            }
            // It refused a copy whose topic id it did not know, and had taken another before (reading A41).
            Some(exchange)
                if exchange.refused_id == Some(msg_id) && matches!(exchange.step, Step::Register(_)) =>
            {
                (exchange.step, exchange.msg_id) = (Step::Pubrel, msg_id);
                exchange.published = true;
                exchange.due = true;
                exchange.sends = 0;
                self.down.parked = false;
                self.hold_pubrel(cx);
            }
            _ => {
                // Late, but the client has the message: sent again under a released id, it would be another one.
                if let Some(item) = self.down.requeued(msg_id, QoS::ExactlyOnce) {
                    item.received = true;
                    let item = item.clone();
                    save_received(cx, &item);
                    if self.wants_to_deliver(now) {
                        return; // The PUBREL is what goes out next.
                    }
                    return self.reply_durably(cx, Reply::Pubrel(msg_id));
                }
                // Reading A51: an id we do not know is released all the same, else its sender repeats for ever.
                self.reply(cx, Reply::Pubrel(msg_id));
            }
        }
    }

    /// PUBREL leaves when it is durable that the client has the message: a later life must not send it again.
    fn hold_pubrel(&mut self, cx: &mut Context) {
        let exchange = self.down.exchange();
        if exchange.is_some_and(|exchange| save_received(cx, &exchange.item)) {
            self.hold_exchange(cx);
        }
    }

    /// REGISTER leaves when a later life would not give its id to another name (reading A35).
    fn hold_register(&mut self, cx: &mut Context) {
        if cx.journal.is_on() {
            self.topics.reserve();
            self.save(cx);
            self.hold_exchange(cx);
        }
    }

    /// The exchange goes on once what was gathered so far is durable.
    fn hold_exchange(&mut self, cx: &mut Context) {
        let (client, serial) = (self.ix, self.serial);
        let Some(exchange) = self.down.exchange_mut() else {
            return;
        };
        let waiting = Waiting::Exchange {
            client,
            serial,
            msg_id: exchange.msg_id,
        };
        if cx.journal.wait(waiting).is_none() {
            (exchange.held, exchange.due, exchange.retry_at) = (true, false, None);
        }
    }

    /// What the exchange waited for is durable.
    pub(crate) fn release_exchange(&mut self, msg_id: MsgId) {
        if let Some(exchange) = self.down.exchange_mut()
            && exchange.held
            && exchange.msg_id == msg_id
        {
            (exchange.held, exchange.due) = (false, true);
        }
    }

    /// The last step of QoS 2.
    pub(crate) fn on_pubcomp(&mut self, cx: &mut Context, msg_id: MsgId) {
        match self.down.exchange() {
            Some(exchange) if exchange.msg_id == msg_id && exchange.step == Step::Pubrel => {
                self.finish_delivered(cx);
            }
            _ => {
                let late = self.down.requeued(msg_id, QoS::ExactlyOnce);
                match late.is_some_and(|item| item.received) {
                    true => self.finish_requeued(cx),
                    false => cx.metrics.unexpected_total += 1,
                }
            }
        }
    }

    /// The message at the front of the queue was acknowledged after all.
    fn finish_requeued(&mut self, cx: &mut Context) {
        if let Some(item) = self.drop_queued(cx, 0) {
            self.took(cx, &item);
        }
    }
}

/// Stores that the client has a QoS 2 message; false if it is not stored at all.
fn save_received(cx: &mut Context, item: &Queued) -> bool {
    let (Some(stored), Some(place)) = (&item.message.stored, item.place) else {
        return false;
    };
    cx.journal
        .put(progress_key(stored.id, place), Progress::Received.encode());
    true
}

impl Exchange {
    /// What it is at.
    fn packet(&self, dup: bool) -> Packet<'_> {
        let item = &self.item;
        match self.step {
            Step::Register(topic_id) => Packet::Register(Register {
                topic_id,
                msg_id: self.msg_id,
                topic_name: &item.message.topic,
            }),
            Step::Publish => Packet::Publish(Publish {
                dup,
                qos: PublishQoS::Level(item.qos),
                retain: item.message.retain,
                topic: self.topic,
                msg_id: if item.qos == QoS::AtMostOnce {
                    MsgId(0)
                } else {
                    self.msg_id
                },
                data: &item.message.payload,
            }),
            Step::Pubrel => Packet::Pubrel(self.msg_id),
        }
    }

    fn is_qos0_publish(&self) -> bool {
        self.step == Step::Publish && self.item.qos == QoS::AtMostOnce
    }

    /// True if a PUBACK answers our PUBLISH, also with both ids byte-swapped (reading A64).
    fn answers(&self, cx: &mut Context, puback: &Puback) -> bool {
        if self.step != Step::Publish || !self.published {
            return false;
        }
        let topic_id = match self.topic {
            TopicRef::Normal(id) | TopicRef::Predefined(id) => id.0,
            TopicRef::Short(short) => u16::from_be_bytes(short.0),
        };
        if puback.msg_id == self.msg_id {
            return true;
        }
        let swapped =
            puback.msg_id.0.swap_bytes() == self.msg_id.0 && puback.topic_id.0.swap_bytes() == topic_id;
        cx.metrics.swapped_acks_total += u64::from(swapped);
        swapped
    }
}

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
