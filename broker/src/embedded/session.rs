//! What the broker keeps for one client id, and how messages leave it.
//!
//! A message waits, is sent, and with QoS 1 and 2 stays in flight until the client acknowledged it:
//!
//! ```text
//! waiting --PUBLISH--> Sent --PUBACK--> gone                      QoS 1
//!                      Sent --PUBREC--> Released --PUBCOMP--> gone  QoS 2
//! ```
//!
//! Between PUBREC and Released a QoS 2 message of the gateway is Taken until that will survive ([`exact`](super::exact)).
//!
//! After a new connection everything in flight is said again, in its order (§4.4).

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use gateway_core::time::Instant;
use rustc_hash::{FxHashMap, FxHashSet};
use sn_codec::QoS;

use super::awaited::Awaited;
use super::exact::{Exact, Holds, ORDINARY_IDS};
use super::filters::Filter;
use super::kept::Kept;
use super::packet::{ClientKey, Delivery, Message, Reply, Will, reason};
use super::receipt::Receipt;
use super::retained::Retained;
use super::shared::{Fitness, Subscriber};
use super::stats::Stats;

/// How long a session may stay over its bound before its connection is ended, and how long publishers wait for one whose
/// connection was lost.
pub(crate) const TOO_SLOW: Duration = Duration::from_secs(10);

/// Retained messages for a new subscription are fetched when less than this waits, so that they need no place of their
/// own, however many they are.
const REFILL_BELOW: usize = 64;

/// Places that empty queues keep, so that a session that once was busy does not stay large.
const KEPT_CAPACITY: usize = 64;

/// What a session holds at most, waiting and in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

impl Bound {
    pub(crate) fn times(self, factor: usize) -> Self {
        Bound {
            messages: self.messages.saturating_mul(factor),
            bytes: self.bytes.saturating_mul(factor),
        }
    }
}

/// Where outputs and counts go.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) replies: VecDeque<(ClientKey, Reply)>,
    pub(crate) stats: Stats,
}

impl Outbox {
    pub(crate) fn push(&mut self, client: ClientKey, reply: Reply) {
        self.stats.packets_sent += 1;
        self.replies.push_back((client, reply));
    }
}

/// The state of one client id, connected or not.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client_id: Arc<str>,
    pub(crate) attached: Option<Attached>,
    /// The gateway's own: no MQTT client may take it over.
    pub(crate) local: bool,
    /// Filters of its subscriptions, as sent.
    pub(crate) filters: Vec<Box<str>>,
    /// QoS 2 messages received whose PUBREL has not come (§4.3.3), and for each the withheld acknowledgement if there
    /// is one.
    pub(crate) inbound: FxHashMap<u16, Option<u64>>,
    /// Acknowledgements of others that wait for this session to be within its bound.
    pub(crate) withheld: Vec<u64>,
    /// Published unless the client comes back before.
    pub(crate) will: Option<(Will, Instant)>,
    /// When it ends unless the client comes back.
    pub(crate) expires: Option<Instant>,
    /// It is to survive a restart.
    pub(crate) kept: Option<Kept>,
    /// When the router looks at it next.
    pub(crate) timer: Option<Instant>,
    mark: Mark,
    bound: Bound,
    /// Of all that waits and is in flight, but what is held over.
    messages: usize,
    bytes: usize,
    /// Messages beyond the bound that stay in the gateway's store until the client has them.
    held_over: usize,
    /// Kept over a lost connection, so that a client that comes and goes and takes nothing is too slow all the same.
    over_since: Option<Instant>,
    /// It lost its connection and is expected back: until then the bounds are those of a connected one.
    awaited_until: Option<Instant>,
    /// A message was dropped since it lost its connection.
    dropped: bool,
    waiting: VecDeque<Entry>,
    /// When the first of the waiting expires, or earlier.
    waiting_expires: Option<Instant>,
    in_flight: VecDeque<InFlight>,
    /// How many of these, from the front, were said on this connection.
    said: usize,
    /// Retained messages still to be fetched for new subscriptions.
    scans: VecDeque<Scan>,
    next_id: u16,
    /// How often the packet ids began anew.
    lap: u32,
    /// Packet ids in flight that are not ordinary ones.
    exact_ids: FxHashSet<u16>,
    /// PUBREL waits for this batch, unless that is over.
    taken_until: Option<u64>,
    /// It is of an earlier life, of which the client may still hold QoS 2 messages under any packet id.
    restored: bool,
}

/// A session's connection.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) key: ClientKey,
    /// PUBLISH it takes.
    pub(crate) credit: u32,
    /// QoS 1 and 2 messages it takes unacknowledged.
    pub(crate) receive_maximum: usize,
}

/// A message for one session.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) message: Arc<Message>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) ids: Box<[u32]>,
    pub(crate) expires: Option<Instant>,
    /// The filter of the shared subscription it came for.
    pub(crate) share: Option<Arc<str>>,
    /// It does not count for the bound of its session.
    pub(crate) held_over: bool,
    /// Its publisher waits until the session, one of the gateway, has taken it.
    pub(crate) awaited: Option<Awaited>,
}

#[derive(Debug)]
struct InFlight {
    packet_id: u16,
    lap: u32,
    held_over: bool,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// PUBREL was said for whatever the client holds under the packet id. It has credit.
    Clearing(Entry),
    Sent(Entry),
    /// The client has it: PUBREL is said when a later life will know, after this batch.
    Taken(Option<Receipt>, u64),
    /// The client has it: PUBREL was said.
    Released(
        /// Some clients make use of a message only when PUBREL comes, so until PUBCOMP its publisher keeps it.
        #[expect(dead_code, reason = "what matters is how long it is held")]
        Option<Receipt>,
    ),
}

impl Stage {
    /// The client has the message.
    fn settle(self) {
        match self {
            Stage::Clearing(mut entry) | Stage::Sent(mut entry) => entry.settle(),
            Stage::Taken(..) | Stage::Released(_) => {}
        }
    }
}

/// A new subscription that has not got all its retained messages.
#[derive(Debug)]
struct Scan {
    filter: Box<str>,
    qos: QoS,
    id: Option<u32>,
    /// The topic it has come to.
    after: Option<Arc<str>>,
}

/// What a session has to do with the message being routed.
#[derive(Debug, Default)]
pub(crate) struct Mark {
    /// Which message this is about.
    routed: u64,
    /// Its place among the targets, but for shared subscriptions.
    pub(crate) target: Option<usize>,
    /// How often it gets the message: once, and once for each shared subscription.
    pub(crate) copies: usize,
}

/// How a session took a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Taken, or dropped as the rules say.
    Settled,
    /// Taken, but the publisher should wait.
    Withheld,
}

impl Session {
    pub(crate) fn new(client_id: Arc<str>, bound: Bound, local: bool) -> Self {
        Session {
            client_id,
            attached: None,
            local,
            filters: Vec::new(),
            inbound: FxHashMap::default(),
            withheld: Vec::new(),
            will: None,
            expires: None,
            kept: None,
            timer: None,
            mark: Mark::default(),
            bound,
            messages: 0,
            bytes: 0,
            held_over: 0,
            over_since: None,
            awaited_until: None,
            dropped: false,
            waiting: VecDeque::new(),
            waiting_expires: None,
            in_flight: VecDeque::new(),
            said: 0,
            scans: VecDeque::new(),
            next_id: 0,
            lap: 0,
            exact_ids: FxHashSet::default(),
            taken_until: None,
            restored: false,
        }
    }

    /// It goes on after a restart: for its client that was the loss of a connection.
    pub(crate) fn restored(&mut self, now: Instant) {
        self.restored = true;
        self.awaited_until = Some(now + TOO_SLOW);
    }

    /// It ends so many seconds from now unless the client comes back.
    pub(crate) fn expire_after(&mut self, now: Instant, seconds: u32) {
        // §3.1.2.11.2: does not expire.
        self.expires = (seconds < u32::MAX).then(|| now + Duration::from_secs(seconds.into()));
    }

    /// The client is back, or here for the first time: everything in flight is to be said again.
    pub(crate) fn attach(&mut self, key: ClientKey, receive_maximum: u16) {
        self.attached = Some(Attached {
            key,
            credit: 0,
            // More would leave no packet id for the next.
            receive_maximum: usize::from(receive_maximum.clamp(1, *ORDINARY_IDS.end() - 1)),
        });
        self.will = None;
        self.expires = None;
        self.awaited_until = None;
        self.dropped = false;
    }

    /// The connection is gone. QoS 0 does not outlive it (§4.1: state kept is that of QoS 1 and 2). `awaited`: the
    /// client did not say that it goes, and the session stays.
    pub(crate) fn detach(&mut self, now: Instant, awaited: bool, out: &mut Outbox) {
        self.attached = None;
        self.said = 0;
        let (mut messages, mut bytes) = (0, 0);
        self.waiting.retain(|entry| {
            let keep = entry.qos > QoS::AtMostOnce;
            if !keep {
                messages += 1;
                bytes += entry.message.size();
            }
            keep
        });
        self.messages -= messages;
        self.bytes -= bytes;
        out.stats.dropped_disconnected += messages as u64;
        self.over_since = self.over_since.filter(|_| self.is_over());
        let until = self.over_since.unwrap_or(now) + TOO_SLOW;
        self.awaited_until = Some(until).filter(|until| awaited && *until > now);
    }

    /// Stops to expect the client back, if it is time.
    pub(crate) fn await_no_longer(&mut self, now: Instant) {
        self.awaited_until.take_if(|until| *until <= now);
    }

    /// Whether its client is connected, or lost its connection a moment ago.
    fn counts_as_connected(&self) -> bool {
        self.attached.is_some() || self.awaited_until.is_some()
    }

    /// What it takes of QoS 1 and 2.
    fn tracked_bound(&self) -> Bound {
        if self.counts_as_connected() {
            self.bound.times(2)
        } else {
            self.bound
        }
    }

    /// What it has to do with a message being routed: nothing if it was not marked for it.
    pub(crate) fn mark(&mut self, routed: u64) -> &mut Mark {
        if self.mark.routed != routed {
            self.mark = Mark {
                routed,
                ..Mark::default()
            };
        }
        &mut self.mark
    }

    /// Whether there is place for one more message within a bound. A message too large for any bound needs an empty
    /// queue.
    fn has_room(&self, bound: Bound, size: usize) -> bool {
        self.messages < bound.messages && (self.bytes + size <= bound.bytes || self.messages == 0)
    }

    /// Whether the QoS 1 or 2 message it is marked for must be refused.
    pub(crate) fn refuses(&self, size: usize) -> bool {
        let bound = self.bound.times(2);
        let copies = self.mark.copies;
        self.counts_as_connected()
            && (self.messages + copies > bound.messages
                || (self.bytes + copies * size > bound.bytes && self.messages > 0))
    }

    /// As a member of a shared subscription.
    pub(crate) fn fitness(&self, size: usize) -> Fitness {
        match &self.attached {
            Some(_) if self.has_room(self.bound, size) => Fitness::Ready,
            Some(_) if self.has_room(self.tracked_bound(), size) => Fitness::Slow,
            None if self.has_room(self.tracked_bound(), size) => Fitness::Away,
            Some(_) | None => Fitness::Full,
        }
    }

    /// Takes a message back into the queue.
    pub(crate) fn keep(&mut self, entry: Entry) {
        self.push(entry);
    }

    fn is_over(&self) -> bool {
        self.messages > self.bound.messages || (self.bytes > self.bound.bytes && self.messages > 1)
    }

    /// Takes a message for the client by the rules of flow, and sends what can be sent. `promised`: the publisher will
    /// be told that it was taken, since [`Session::refuses`] said no.
    pub(crate) fn offer(
        &mut self,
        now: Instant,
        entry: Entry,
        promised: bool,
        retained: &Retained,
        out: &mut Outbox,
    ) -> Taken {
        let size = entry.message.size();
        let connected = self.counts_as_connected();
        if self.holds_over(&entry, promised) {
            out.stats.held_over += 1;
            self.push(Entry {
                held_over: true,
                ..entry
            });
            self.pump(now, retained, out);
            return Taken::Settled;
        }
        match entry.qos {
            QoS::AtMostOnce if self.attached.is_none() => return Taken::Settled,
            QoS::AtMostOnce => {
                if !self.has_room(self.bound, size) {
                    out.stats.dropped_qos0 += 1;
                    return Taken::Settled;
                }
            }
            QoS::AtLeastOnce | QoS::ExactlyOnce if connected => {
                if !promised && !self.has_room(self.tracked_bound(), size) {
                    out.stats.dropped_full += 1;
                    return Taken::Settled;
                }
            }
            QoS::AtLeastOnce | QoS::ExactlyOnce => {
                if !self.has_room(self.bound, size) {
                    self.drop_expired(now, out);
                }
                if !self.has_room(self.bound, size) {
                    out.stats.dropped_offline += 1;
                    if !core::mem::replace(&mut self.dropped, true) {
                        tracing::warn!(
                            target: "broker", client = %self.client_id,
                            queued = self.messages,
                            "queue of a disconnected client is full, new messages for it are dropped"
                        );
                    }
                    return Taken::Settled;
                }
            }
        }
        let tracked = entry.qos > QoS::AtMostOnce;
        self.push(entry);
        self.pump(now, retained, out);
        if tracked && connected && self.is_over() {
            self.over_since.get_or_insert(now);
            Taken::Withheld
        } else {
            Taken::Settled
        }
    }

    /// Whether to take a message beyond the bound: its publisher, the gateway, keeps it until the client has it, and
    /// may have promised as much. A client that takes its messages slows the gateway down instead, unless older ones
    /// are held over.
    fn holds_over(&self, entry: &Entry, promised: bool) -> bool {
        let size = entry.message.size();
        let waits = promised
            && self.attached.is_some()
            && self.held_over == 0
            && self.has_room(self.tracked_bound(), size);
        entry.message.is_stored() && entry.qos > QoS::AtMostOnce && !waits && !self.has_room(self.bound, size)
    }

    fn push(&mut self, entry: Entry) {
        if entry.held_over {
            self.held_over += 1;
        } else {
            self.messages += 1;
            self.bytes += entry.message.size();
        }
        if let Some(at) = entry.expires {
            self.waiting_expires = Some(self.waiting_expires.map_or(at, |first| first.min(at)));
        }
        self.waiting.push_back(entry);
    }

    /// Says what the connection takes: first again what is in flight, then what waits.
    pub(crate) fn pump(&mut self, now: Instant, retained: &Retained, out: &mut Outbox) {
        let Some(mut attached) = self.attached.take() else {
            return;
        };
        while self.said < self.in_flight.len() && self.say_again(now, &mut attached, out) {}
        if self.said == self.in_flight.len() {
            while self.say_next(now, &mut attached, retained, out) {}
        }
        self.attached = Some(attached);
    }

    /// Returns whether something was said.
    fn say_again(&mut self, now: Instant, attached: &mut Attached, out: &mut Outbox) -> bool {
        if self.said >= attached.receive_maximum {
            return false;
        }
        let InFlight { packet_id, stage, .. } = &self.in_flight[self.said];
        let packet_id = *packet_id;
        match stage {
            Stage::Clearing(_) | Stage::Sent(_) if attached.credit == 0 => return false,
            Stage::Clearing(_) => {
                attached.credit -= 1;
                out.push(attached.key, pubrel(packet_id));
            }
            Stage::Sent(entry) => {
                attached.credit -= 1;
                let delivery = entry.delivery(now, packet_id, true);
                out.stats.publish_sent += 1;
                out.push(attached.key, Reply::Publish(delivery));
            }
            Stage::Taken(..) => {}
            Stage::Released(_) => out.push(attached.key, pubrel(packet_id)),
        }
        self.said += 1;
        true
    }

    /// Returns whether there may be more to say.
    fn say_next(
        &mut self,
        now: Instant,
        attached: &mut Attached,
        retained: &Retained,
        out: &mut Outbox,
    ) -> bool {
        if !self.scans.is_empty() && self.messages < REFILL_BELOW.min(self.bound.messages) {
            self.fetch_retained(now, retained);
        }
        let Some(front) = self.waiting.front() else {
            return false;
        };
        if front.expires.is_some_and(|expires| expires <= now) {
            if let Some(mut entry) = self.forget_front() {
                entry.settle();
            }
            out.stats.dropped_expired += 1;
            return true;
        }
        let tracked = front.qos > QoS::AtMostOnce;
        let exact = front.exact().filter(|_| self.kept.is_some());
        let exact = exact.map(|exact| (exact.packet_id(), exact.client_holds()));
        if attached.credit == 0
            || (tracked && self.in_flight.len() >= attached.receive_maximum)
            || exact.is_some_and(|(packet_id, _)| self.exact_ids.contains(&packet_id))
        {
            return false;
        }
        attached.credit -= 1;
        if !tracked {
            out.stats.publish_sent += 1;
            if let Some(entry) = self.forget_front() {
                out.push(attached.key, Reply::Publish(entry.into_delivery(now)));
            }
            return true;
        }
        let first_time = self.lap == 0 && front.qos == QoS::ExactlyOnce;
        let (packet_id, holds) = match exact {
            Some(exact) => exact,
            None if first_time => (self.next_packet_id(), Holds::Another),
            None => (self.next_packet_id(), Holds::Nothing),
        };
        self.exact_ids.extend(exact.map(|(packet_id, _)| packet_id));
        if let Some(entry) = self.waiting.pop_front() {
            let held_over = entry.held_over;
            // The client would take a QoS 2 message for that of an earlier life which it holds under the packet id.
            let stage = if self.restored && holds == Holds::Another {
                out.push(attached.key, pubrel(packet_id));
                Stage::Clearing(entry)
            } else {
                out.stats.publish_sent += 1;
                let delivery = entry.delivery(now, packet_id, self.restored && holds == Holds::It);
                out.push(attached.key, Reply::Publish(delivery));
                Stage::Sent(entry)
            };
            self.in_flight.push_back(InFlight {
                packet_id,
                lap: self.lap,
                held_over,
                stage,
            });
            self.said += 1;
        }
        true
    }

    /// Takes the first that waits out of the queue and its bound.
    fn forget_front(&mut self) -> Option<Entry> {
        let entry = self.waiting.pop_front()?;
        self.uncount(&entry);
        Some(entry)
    }

    /// A message leaves the queue.
    fn uncount(&mut self, entry: &Entry) {
        if entry.held_over {
            self.held_over -= 1;
        } else {
            self.messages -= 1;
            self.bytes -= entry.message.size();
        }
    }

    /// A packet id that no exchange in flight uses. There are fewer exchanges than ids, by the receive maximum.
    fn next_packet_id(&mut self) -> u16 {
        loop {
            if self.next_id == *ORDINARY_IDS.end() {
                self.next_id = 0;
                self.lap = self.lap.wrapping_add(1);
            }
            self.next_id += 1;
            // In flight is in the order of sending: if the first is of this lap, no id ahead is taken.
            let free = match self.in_flight.front() {
                Some(first) if first.lap != self.lap => !self
                    .in_flight
                    .iter()
                    .any(|exchange| exchange.packet_id == self.next_id),
                Some(_) | None => true,
            };
            if free {
                return self.next_id;
            }
        }
    }

    /// Removes expired messages from the queue.
    fn drop_expired(&mut self, now: Instant, out: &mut Outbox) {
        if self.waiting_expires.is_none_or(|expires| expires > now) {
            return;
        }
        let (mut messages, mut bytes, mut first) = (0, 0, None::<Instant>);
        self.waiting.retain(|entry| {
            let keep = entry.expires.is_none_or(|expires| expires > now);
            if !keep {
                messages += 1;
                bytes += entry.message.size();
            } else if let Some(at) = entry.expires {
                first = Some(first.map_or(at, |first| first.min(at)));
            }
            keep
        });
        self.messages -= messages;
        self.bytes -= bytes;
        self.waiting_expires = first;
        out.stats.dropped_expired += messages as u64;
    }

    fn position(&self, packet_id: u16) -> Option<usize> {
        // Nearly always the first, since clients answer in order (§4.6).
        self.in_flight
            .iter()
            .position(|exchange| exchange.packet_id == packet_id)
    }

    /// PUBACK. An unknown packet id is ignored: §4.13 has no answer to it.
    ///
    /// # Errors
    ///
    /// The exchange is one of QoS 2.
    pub(crate) fn on_puback(&mut self, packet_id: u16) -> Result<(), ProtocolError> {
        let Some(at) = self.position(packet_id) else {
            return Ok(());
        };
        match &self.in_flight[at].stage {
            Stage::Sent(entry) if entry.qos == QoS::AtLeastOnce => self.finish(at),
            Stage::Clearing(_) | Stage::Sent(_) | Stage::Taken(..) | Stage::Released(_) => {
                return Err(ProtocolError);
            }
        }
        Ok(())
    }

    /// PUBREC (§4.3.3); returns the reason code of the PUBREL to answer with, if any. `take` sees to it that a later life
    /// will know, and says after which batch.
    ///
    /// # Errors
    ///
    /// The exchange is one of QoS 1.
    pub(crate) fn on_pubrec(
        &mut self,
        packet_id: u16,
        refused: bool,
        take: impl FnOnce(Kept, &Receipt) -> u64,
    ) -> Result<Option<u8>, ProtocolError> {
        let Some(at) = self.position(packet_id) else {
            return Ok((!refused).then_some(reason::PACKET_ID_NOT_FOUND));
        };
        match &self.in_flight[at].stage {
            Stage::Clearing(_) => return Err(ProtocolError),
            Stage::Sent(entry) if entry.qos == QoS::AtLeastOnce => return Err(ProtocolError),
            Stage::Sent(_) if refused => {
                self.finish(at);
                return Ok(None);
            }
            Stage::Sent(entry) => {
                if !entry.held_over {
                    self.bytes -= entry.message.size();
                }
                let receipt = entry.message.receipt.clone();
                let exact = receipt
                    .as_ref()
                    .filter(|_| self.exact_ids.contains(&packet_id))
                    .zip(self.kept);
                if let Some((receipt, kept)) = exact {
                    self.taken_until = Some(take(kept, receipt));
                }
                // MQTT-4.6.0-4: PUBREL goes in the order of PUBREC.
                if let Some(batch) = self.taken_until {
                    self.in_flight[at].stage = Stage::Taken(receipt, batch);
                    return Ok(None);
                }
                let sent = core::mem::replace(&mut self.in_flight[at].stage, Stage::Released(receipt));
                sent.settle();
            }
            Stage::Taken(..) => return Ok(None),
            Stage::Released(_) => {}
        }
        Ok(Some(reason::SUCCESS))
    }

    /// A later life will know what was taken up to this batch, or that was waited for long enough.
    pub(crate) fn release(&mut self, batch: u64, out: &mut Outbox) {
        self.taken_until.take_if(|until| *until <= batch);
        for (at, exchange) in self.in_flight.iter_mut().enumerate() {
            if let Stage::Taken(receipt, until) = &mut exchange.stage
                && *until <= batch
            {
                exchange.stage = Stage::Released(receipt.take());
                if let Some(attached) = self.attached.as_ref().filter(|_| at < self.said) {
                    out.push(attached.key, pubrel(exchange.packet_id));
                }
            }
        }
    }

    /// The client took this message in an earlier life: PUBREL is due, unless that went before another one under the
    /// packet id.
    pub(crate) fn go_on(&mut self, packet_id: u16, receipt: Receipt) {
        if self.exact_ids.insert(packet_id) {
            self.held_over += 1;
            self.in_flight.push_back(InFlight {
                packet_id,
                lap: self.lap,
                held_over: true,
                stage: Stage::Released(Some(receipt)),
            });
        }
    }

    /// PUBCOMP. An unknown packet id is ignored.
    ///
    /// # Errors
    ///
    /// There was no PUBREL before.
    pub(crate) fn on_pubcomp(
        &mut self,
        now: Instant,
        packet_id: u16,
        out: &mut Outbox,
    ) -> Result<(), ProtocolError> {
        let Some(at) = self.position(packet_id) else {
            return Ok(());
        };
        match &self.in_flight[at].stage {
            Stage::Released(_) => self.finish(at),
            // One of an earlier connection cannot come, so PUBREL was said on this one, and has credit.
            Stage::Clearing(_) => self.say_cleared(now, at, out),
            Stage::Sent(_) | Stage::Taken(..) => return Err(ProtocolError),
        }
        Ok(())
    }

    /// The client holds nothing under the packet id any more: now the message.
    fn say_cleared(&mut self, now: Instant, at: usize, out: &mut Outbox) {
        let Some(exchange) = self.in_flight.get_mut(at) else {
            return;
        };
        let stage = core::mem::replace(&mut exchange.stage, Stage::Released(None));
        let Stage::Clearing(entry) = stage else {
            exchange.stage = stage;
            return;
        };
        if let Some(attached) = &self.attached {
            out.stats.publish_sent += 1;
            let delivery = entry.delivery(now, exchange.packet_id, false);
            out.push(attached.key, Reply::Publish(delivery));
        }
        exchange.stage = Stage::Sent(entry);
    }

    /// The client cannot take this message: it counts as delivered (§3.1.2.11.4).
    pub(crate) fn on_too_large(&mut self, packet_id: u16) {
        if let Some(at) = self.position(packet_id) {
            self.finish(at);
        }
    }

    fn finish(&mut self, at: usize) {
        let Some(exchange) = self.in_flight.remove(at) else {
            return;
        };
        self.said -= usize::from(at < self.said);
        self.exact_ids.remove(&exchange.packet_id);
        if exchange.held_over {
            self.held_over -= 1;
        } else {
            self.messages -= 1;
            if let Stage::Clearing(entry) | Stage::Sent(entry) = &exchange.stage {
                self.bytes -= entry.message.size();
            }
        }
        exchange.stage.settle();
        if self.messages == 0 && self.held_over == 0 {
            self.waiting.shrink_to(KEPT_CAPACITY);
            self.in_flight.shrink_to(KEPT_CAPACITY);
        }
    }

    /// Whether what others wait for may be acknowledged, now that something left.
    pub(crate) fn is_relieved(&mut self) -> bool {
        if self.is_over() && self.counts_as_connected() {
            return false;
        }
        self.over_since = None;
        !self.withheld.is_empty()
    }

    /// Since when it is over its bound and too slow for its publishers, for too long.
    pub(crate) fn is_too_slow(&self, now: Instant) -> bool {
        self.over_since.is_some_and(|since| now >= since + TOO_SLOW)
    }

    /// When the router must look at it.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let slow = self.over_since.map(|since| since + TOO_SLOW);
        let will = self.will.as_ref().map(|(_, due)| *due);
        [slow, self.awaited_until, will, self.expires]
            .into_iter()
            .flatten()
            .min()
    }

    /// A subscription that wants retained messages.
    pub(crate) fn want_retained(&mut self, filter: &Filter<'_>, subscriber: &Subscriber) {
        self.forget_retained(filter.text);
        self.scans.push_back(Scan {
            filter: filter.text.into(),
            qos: subscriber.qos,
            id: subscriber.id,
            after: None,
        });
    }

    /// The subscription is gone or made anew.
    pub(crate) fn forget_retained(&mut self, filter: &str) {
        self.scans.retain(|scan| *scan.filter != *filter);
    }

    /// Puts retained messages into the queue while there is place.
    fn fetch_retained(&mut self, now: Instant, retained: &Retained) {
        while let Some(scan) = self.scans.front_mut() {
            let kept = Filter::parse(&scan.filter)
                .and_then(|filter| retained.next(now, &filter, scan.after.as_ref()));
            let Some(kept) = kept else {
                self.scans.pop_front();
                continue;
            };
            let entry = Entry {
                message: kept.message.clone(),
                qos: kept.message.qos.min(scan.qos),
                retain: true,
                ids: scan.id.into_iter().collect(),
                expires: kept.expires,
                share: None,
                held_over: false,
                awaited: None,
            };
            if !self.has_room(self.bound, entry.message.size()) {
                return;
            }
            if let Some(scan) = self.scans.front_mut() {
                scan.after = Some(entry.message.topic.clone());
            }
            self.push(entry);
            if self.messages >= REFILL_BELOW {
                return;
            }
        }
    }

    /// Takes out what waits for shared subscriptions, to be given to other members.
    pub(crate) fn take_shared_waiting(&mut self) -> Vec<Entry> {
        let mut taken = Vec::new();
        for entry in core::mem::take(&mut self.waiting) {
            if entry.share.is_some() {
                self.uncount(&entry);
                taken.push(entry);
            } else {
                self.waiting.push_back(entry);
            }
        }
        taken
    }

    /// What the end of the session leaves to other members of shared subscriptions: all but QoS 2 messages that were
    /// sent (MQTT-4.8.2-5).
    pub(crate) fn into_shared(self) -> impl Iterator<Item = Entry> {
        let sent = self
            .in_flight
            .into_iter()
            .filter_map(|exchange| match exchange.stage {
                Stage::Sent(entry) if entry.qos == QoS::AtLeastOnce => Some(entry),
                // Not sent yet.
                Stage::Clearing(entry) => Some(entry),
                Stage::Sent(_) | Stage::Taken(..) | Stage::Released(_) => None,
            });
        sent.chain(self.waiting).filter(|entry| entry.share.is_some())
    }

    /// Messages and octets held.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.messages, self.bytes)
    }
}

fn pubrel(packet_id: u16) -> Reply {
    Reply::PubRel {
        packet_id,
        reason: reason::SUCCESS,
    }
}

/// The client did what MQTT does not allow.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ProtocolError;

impl Entry {
    /// Its publisher waits no longer.
    pub(crate) fn settle(&mut self) {
        if let Some(awaited) = self.awaited.take() {
            awaited.settle();
        }
    }

    /// Of what a session gets for a subscription of its own. A member of a shared one may be another after a restart.
    fn exact(&self) -> Option<&Exact> {
        self.message
            .exact()
            .filter(|_| self.qos == QoS::ExactlyOnce && self.share.is_none())
    }

    fn delivery(&self, now: Instant, packet_id: u16, dup: bool) -> Delivery {
        Delivery {
            message: self.message.clone(),
            packet_id,
            dup,
            qos: self.qos,
            retain: self.retain,
            expiry: self.seconds_left(now),
            ids: self.ids.clone(),
        }
    }

    /// With QoS 0.
    fn into_delivery(self, now: Instant) -> Delivery {
        Delivery {
            packet_id: 0,
            dup: false,
            qos: self.qos,
            retain: self.retain,
            expiry: self.seconds_left(now),
            ids: self.ids,
            message: self.message,
        }
    }

    /// §3.3.2.3.3: the time received less the time it waited here, in whole seconds.
    fn seconds_left(&self, now: Instant) -> Option<u32> {
        let left = self.expires?.since(now).as_micros().div_ceil(1_000_000);
        Some(u32::try_from(left).unwrap_or(u32::MAX))
    }
}
