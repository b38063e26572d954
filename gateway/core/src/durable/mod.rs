//! What must survive the end of the process, as changes of the store, and who waits until they are durable.
//!
//! The changes of one request are there after a power cut together or not at all, and never without those of earlier
//! requests, be they of the core or of a broker's port. So what must change together is asked for in one drain, and what
//! somebody outside is promised waits until it is durable.

pub(crate) mod records;
pub(crate) mod restore;
mod session;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use sn_codec::MsgId;

use crate::client::Reply;
use crate::client::downlink::Message;
use crate::clients::ClientIx;
use crate::config::Durability;
use crate::io::{ConnId, DeliveryId, FilterId, StoreChange, StoreKey, StoreRequest, Ticket, Token};
use crate::peer::LinkId;
use crate::subscriptions::FilterKey;
use crate::time::Instant;

/// Recipients of one record of a message; a message for more has several.
pub(crate) const RECIPIENTS_MAX: usize = 16_384;

/// The kinds of values.
pub(crate) mod kind {
    /// A client's session, by the serial number of its record.
    pub(crate) const SESSION: u8 = 1;
    /// A message for the broker, by a counter.
    pub(crate) const UPLINK: u8 = 2;
    /// How far a client is with a QoS 2 publish, by the number of the message for the broker.
    pub(crate) const RECEIVING: u8 = 3;
    /// A message for clients, by a counter shifted by 24 bits.
    pub(crate) const MESSAGE: u8 = 4;
    /// The broker has released the delivery that brought a message, by the message's number.
    pub(crate) const RELEASED: u8 = 7;
    /// A filter that nobody holds any more and that may still stand at the broker, by its number there.
    pub(crate) const LEAVING: u8 = 8;
    /// How far one recipient of it is, by the same number plus the recipient's place.
    pub(crate) const PROGRESS: u8 = 5;
}

/// Changes on their way to the store, and who waits for them.
#[derive(Debug)]
pub(crate) struct Journal {
    /// `None`: nothing survives.
    rules: Option<Durability>,
    works: bool,
    changes: Vec<StoreChange>,
    /// Somebody waits for the changes gathered.
    urgent: bool,
    /// Of the changes gathered.
    ticket: u64,
    waiting: VecDeque<(u64, Waiting)>,
    /// The last ticket that is durable.
    durable: u64,
    /// The ticket of what was released with a lost session.
    released: u64,
    /// The last number given to a message.
    last_id: u64,
    /// Milliseconds since 1970 at [`Instant::START`].
    epoch_ms: u64,
    /// Clients whose sleep or address changed: written with what has more hurry.
    pub(crate) lazy: Vec<(ClientIx, u32)>,
    pub(crate) lazy_since: Option<Instant>,
    /// QoS 2 deliveries that the broker has not released, with the message they brought and whether all have it.
    received: FxHashMap<(ConnId, DeliveryId), Received>,
}

#[derive(Debug, Clone, Copy)]
struct Received {
    message: u64,
    done: bool,
}

/// What is done once everything gathered so far is durable.
#[derive(Debug, Clone)]
pub(crate) enum Waiting {
    /// A client is owed an answer.
    Reply {
        client: ClientIx,
        serial: u32,
        taken_back: u8,
        reply: Reply,
    },
    /// A client's SUBSCRIBE is answered.
    Suback {
        client: ClientIx,
        serial: u32,
        number: u32,
        filter: FilterKey,
        msg_id: MsgId,
        granted: sn_codec::QoS,
    },
    /// An exchange with a client goes on: REGISTER or PUBREL.
    Exchange {
        client: ClientIx,
        serial: u32,
        msg_id: MsgId,
    },
    /// A QoS 2 message goes to its recipients.
    Message(Arc<Message>, Vec<(ClientIx, u32)>),
    /// A subscription is asked for at the broker.
    Subscription(Token),
    /// A delivery is acknowledged to the broker.
    Ack { conn: ConnId, delivery: DeliveryId },
    /// The broker is told that its delivery is released: its packet id may be another's from then on.
    Complete { conn: ConnId, delivery: DeliveryId },
    /// A message for the broker may be sent, or its client answered.
    Uplink(Token),
    /// A value is not needed any more, and after it the next.
    Forget(StoreKey, Option<StoreKey>),
    /// How far each recipient of a message was is not needed any more.
    ForgetProgress(u64, u32),
}

impl Waiting {
    /// Whether it is done all the same when the disk does not work: an answer that promises less than usual is better
    /// than none.
    fn goes_on_without_disk(&self) -> bool {
        match self {
            Waiting::Reply { .. }
            | Waiting::Suback { .. }
            | Waiting::Exchange { .. }
            | Waiting::Message(..)
            | Waiting::Complete { .. }
            | Waiting::Subscription(_) => true,
            Waiting::Ack { .. } | Waiting::Uplink(_) | Waiting::Forget(..) | Waiting::ForgetProgress(..) => {
                false
            }
        }
    }
}

impl Journal {
    pub(crate) fn new(rules: Option<Durability>) -> Self {
        Journal {
            rules,
            works: true,
            changes: Vec::new(),
            urgent: false,
            ticket: 1,
            waiting: VecDeque::new(),
            durable: 0,
            released: 0,
            last_id: 0,
            epoch_ms: 0,
            lazy: Vec::new(),
            lazy_since: None,
            received: FxHashMap::default(),
        }
    }

    /// Whether anything survives.
    pub(crate) fn is_on(&self) -> bool {
        self.rules.is_some()
    }

    /// Whether what is put now will be durable soon.
    pub(crate) fn works(&self) -> bool {
        self.rules.is_some() && self.works
    }

    pub(crate) fn rules(&self) -> Option<&Durability> {
        self.rules.as_ref()
    }

    /// A number that no message had before.
    pub(crate) fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The last number that was given.
    fn last_id(&self) -> u64 {
        self.last_id
    }

    pub(crate) fn put(&mut self, key: StoreKey, value: Bytes) {
        if self.is_on() {
            self.changes.push(StoreChange::Put(key, value));
        }
    }

    pub(crate) fn delete(&mut self, key: StoreKey) {
        if self.is_on() {
            self.changes.push(StoreChange::Delete(key));
        }
    }

    /// What was gathered so far is to be written soon.
    pub(crate) fn hurry(&mut self) {
        self.urgent = true;
    }

    /// Does `waiting` when everything gathered so far is durable. `Some`: now, since nothing survives or the disk does
    /// not work and it goes on without.
    pub(crate) fn wait(&mut self, waiting: Waiting) -> Option<Waiting> {
        if !self.is_on() || (!self.works && waiting.goes_on_without_disk()) {
            return Some(waiting);
        }
        self.urgent = true;
        self.waiting.push_back((self.ticket, waiting));
        None
    }

    /// True if [`Journal::poll`] has something.
    pub(crate) fn has_changes(&self) -> bool {
        self.is_on() && (self.urgent || !self.changes.is_empty())
    }

    /// True if somebody waits for what is gathered.
    pub(crate) fn is_urgent(&self) -> bool {
        self.is_on() && self.urgent
    }

    /// What was gathered.
    pub(crate) fn poll(&mut self) -> Option<StoreRequest> {
        if !self.has_changes() {
            return None;
        }
        let ticket = core::mem::take(&mut self.urgent).then(|| {
            self.ticket += 1;
            Ticket(self.ticket - 1)
        });
        Some(StoreRequest::Write {
            changes: core::mem::take(&mut self.changes),
            ticket,
        })
    }

    /// The next that waited for this ticket or an earlier one.
    pub(crate) fn next_durable(&mut self, ticket: Ticket) -> Option<Waiting> {
        self.durable = self.durable.max(ticket.0);
        let (at, _) = self.waiting.front()?;
        if *at > ticket.0 {
            return None;
        }
        self.waiting.pop_front().map(|(_, waiting)| waiting)
    }

    /// Somebody waits for the disk.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_on() && (self.urgent || !self.waiting.is_empty())
    }

    /// A session was lost, and another life would take new deliveries for those of it.
    pub(crate) fn mistakes_deliveries(&self) -> bool {
        self.released > self.durable
    }

    /// The disk does not work: what goes on without it.
    pub(crate) fn fail(&mut self) -> Vec<Waiting> {
        self.works = false;
        let all = core::mem::take(&mut self.waiting);
        let (now, later): (VecDeque<_>, VecDeque<_>) = all
            .into_iter()
            .partition(|(_, waiting)| waiting.goes_on_without_disk());
        self.waiting = later;
        now.into_iter().map(|(_, waiting)| waiting).collect()
    }

    /// The disk works again: what was promised without it is made durable, though nobody waits for that.
    pub(crate) fn recover(&mut self) {
        self.works = true;
        self.urgent = true;
    }

    /// What time it is.
    fn start(&mut self, now: Instant, unix_ms: u64) {
        self.epoch_ms = unix_ms.saturating_sub(now.as_micros() / 1000);
    }

    /// An earlier life used this number.
    fn used(&mut self, id: u64) {
        self.last_id = self.last_id.max(id);
    }

    /// What a link is stored as.
    fn link_name(&self, link: LinkId) -> String {
        let names = self.rules.as_ref().map(|rules| &rules.links);
        let name = names.and_then(|names| names.get(usize::from(link.0)));
        name.cloned().unwrap_or_else(|| link.0.to_string())
    }

    /// The link that was stored as this.
    fn link_named(&self, name: &str) -> Option<LinkId> {
        let names = &self.rules.as_ref()?.links;
        let at = names.iter().position(|own| own == name);
        match at {
            Some(at) => u16::try_from(at).ok().map(LinkId),
            None if names.is_empty() => name.parse().ok().map(LinkId),
            None => None,
        }
    }

    /// Milliseconds since 1970.
    pub(crate) fn unix_ms(&self, at: Instant) -> u64 {
        self.epoch_ms + at.as_micros() / 1000
    }

    /// The instant of a time since 1970; not later than `now`, so that a clock that was wrong does no harm.
    pub(crate) fn instant(&self, unix_ms: u64, now: Instant) -> Instant {
        Instant::from_micros(unix_ms.saturating_sub(self.epoch_ms) * 1000).min(now)
    }

    /// The broker's QoS 2 delivery brought this message.
    pub(crate) fn receive(&mut self, conn: ConnId, delivery: DeliveryId, message: u64) {
        if self.is_on() {
            let received = Received { message, done: false };
            // The broker uses the name again, so it has released the one before.
            let before = self.received.insert((conn, delivery), received);
            if let Some(before) = before.filter(|before| before.done && before.message != message) {
                self.delete(message_key(before.message));
            }
        }
    }

    /// The broker has forgotten the delivery: so does the store, if everybody has the message. False if it did before.
    pub(crate) fn release(&mut self, conn: ConnId, delivery: DeliveryId) -> bool {
        let Some(received) = self.received.remove(&(conn, delivery)) else {
            return false;
        };
        match received.done {
            true => self.delete(message_key(received.message)),
            // The message stays, and the broker may give another the same name.
            false => self.put(released_key(received.message), Bytes::from_static(&[1])),
        }
        self.hurry();
        true
    }

    /// The broker lost the session: its deliveries begin anew, and nothing of the old ones is answered.
    pub(crate) fn release_all(&mut self, conn: ConnId) {
        self.waiting.retain(|(_, waiting)| match waiting {
            Waiting::Ack { conn: of, .. } | Waiting::Complete { conn: of, .. } => *of != conn,
            _ => true,
        });
        let mut released: Vec<_> = self
            .received
            .keys()
            .filter(|(of, _)| *of == conn)
            .copied()
            .collect();
        released.sort_unstable_by_key(|(_, delivery)| delivery.0);
        if !released.is_empty() {
            self.released = self.ticket;
        }
        for (conn, delivery) in released {
            self.release(conn, delivery);
        }
    }

    /// Everybody has the message. Until the broker releases its delivery, the store keeps that it came.
    pub(crate) fn message_done(&mut self, message: u64, from: Option<(ConnId, DeliveryId)>) {
        let waits = from.and_then(|from| self.received.get_mut(&from));
        match (waits.filter(|received| received.message == message), from) {
            (Some(received), Some(from)) => {
                received.done = true;
                self.put(message_key(message), records::received_only(from));
            }
            (_, from) => {
                self.delete(message_key(message));
                if from.is_some() {
                    self.delete(released_key(message));
                }
            }
        }
    }
}

pub(crate) fn session_key(serial: u32) -> StoreKey {
    StoreKey {
        kind: kind::SESSION,
        id: u64::from(serial),
    }
}

pub(crate) fn uplink_key(id: u64) -> StoreKey {
    StoreKey {
        kind: kind::UPLINK,
        id,
    }
}

pub(crate) fn receiving_key(id: u64) -> StoreKey {
    StoreKey {
        kind: kind::RECEIVING,
        id,
    }
}

pub(crate) fn message_key(id: u64) -> StoreKey {
    StoreKey {
        kind: kind::MESSAGE,
        id: id << 24,
    }
}

pub(crate) fn released_key(id: u64) -> StoreKey {
    StoreKey {
        kind: kind::RELEASED,
        id,
    }
}

pub(crate) fn leaving_key(id: FilterId) -> StoreKey {
    StoreKey {
        kind: kind::LEAVING,
        id: u64::from(id.0),
    }
}

pub(crate) fn progress_key(id: u64, recipient: u32) -> StoreKey {
    StoreKey {
        kind: kind::PROGRESS,
        id: id << 24 | u64::from(recipient),
    }
}
