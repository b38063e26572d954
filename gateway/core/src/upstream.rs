//! The policy file: how clients share the connections to the broker.
//!
//! Aggregating (reading A83): all clients share a few connections; a client always publishes on the same one, so its order holds,
//! and all subscriptions live on the first, so nothing arrives twice. Every request waits here until its connection
//! has credit, and every QoS 1 or 2 publish stays here until the broker settled it, so that it can be sent again.
//!
//! With [`Durability`] what the broker cannot take now is stored (*spooled*), and its client answered once that is
//! durable. A connection has two lanes that take turns: what was spooled and not yet sent, and what is new. A client
//! with messages in the first lane adds to it, so that its order holds; what the broker refuses for now waits there too
//! ([`backlog`]). QoS 2 has a connection of its own then, opened
//! when it is needed, since each of its steps waits for the disk.

mod backlog;
mod later;
mod quarantine;
pub(crate) mod spooled;
mod untold;

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use slab::Slab;
use sn_codec::{MsgId, QoS};

use crate::clients::ClientIx;
use crate::config::{Durability, Limits, SpoolFull, UpstreamConfig, WhenDown};
use crate::durable::records::{Stage, UplinkRecord};
use crate::durable::{Journal, Waiting, receiving_key, uplink_key};
use crate::io::{
    BrokerRequest, ConnId, ConnectOptions, DeliveryId, FilterId, RestoredPublish, StoreKey, StoredUplink,
    Token,
};
use crate::limiter::Seldom;
use crate::metrics::{Metrics, SpoolDrop};
use crate::subscriptions::FilterKey;
use crate::time::Instant;
use crate::upstream::backlog::{Backlog, Place};
use crate::upstream::quarantine::{Breaks, Quarantine};
use crate::upstream::untold::Untold;

/// The connection that carries all subscriptions.
pub(crate) const SUBSCRIPTIONS: ConnId = ConnId(0);

/// How long the first QoS 2 publishes wait for their connection before they count as spooled: their clients are told by
/// PUBREC that all is well, and cannot be told any more that the broker refuses them. Taste.
const OPENING: Duration = Duration::from_secs(2);

/// All connections to the broker and what waits for them.
#[derive(Debug)]
pub(crate) struct Upstream {
    connections: Vec<Connection>,
    /// Connections that clients share.
    shared: u32,
    /// The connection for QoS 2 where that is to survive, the last one: how it is opened, until it is.
    exact: Option<ConnectOptions>,
    /// How each connection is opened anew.
    options: Vec<ConnectOptions>,
    /// How often the connection broke with a request for a filter under way.
    filter_breaks: FxHashMap<FilterKey, u8>,
    /// The gateway stops.
    closing: bool,
    requests: Slab<Request>,
    /// Counts up with every token, so that a late answer does not find another request.
    generation: u32,
    next_seq: u64,
    waiting_messages: usize,
    waiting_bytes: usize,
    queue_messages: usize,
    queue_bytes: usize,
    when_down: WhenDown,
    /// Stored and not settled.
    spooled_messages: usize,
    spooled_bytes: usize,
    /// Messages that each client has in the lane of spooled ones of each connection.
    backlog_of: FxHashMap<(ConnId, Author), u32>,
    /// QoS 2 publishes by their number in the store.
    exactly_once: FxHashMap<u64, usize>,
    /// Stored publishes that the broker settled and that are kept for others, by their number in the store.
    held: BTreeMap<u64, usize>,
    /// Spooled messages dropped, by [`SpoolDrop`].
    dropped: [u64; SpoolDrop::ALL.len()],
    untold: Untold,
    /// Notices of publishes that go out again later.
    postponed: Seldom,
    /// Subscriptions under way since the broker came back: what waited is published after them, so that it reaches
    /// the clients that are subscribed to it.
    restoring: usize,
    /// Opens and closes, which need no credit.
    pub(crate) control: VecDeque<BrokerRequest>,
}

#[derive(Debug)]
struct Connection {
    up: bool,
    credit: u32,
    window: u32,
    /// QoS 1 and 2 publishes sent and unsettled.
    in_flight: u32,
    /// It loses what it settled if the process ends.
    forgets: bool,
    /// New publishes not sent yet, in order of `seq`.
    waiting: VecDeque<usize>,
    /// Spooled publishes not sent yet.
    backlog: Backlog,
    /// The next publish is from the backlog, if both have one.
    backlog_next: bool,
    /// Subscriptions and unsubscriptions not sent yet.
    subscriptions: VecDeque<usize>,
    acks: VecDeque<(Ack, DeliveryId)>,
    /// Publishes of a lost session that the port has not reported yet: nothing overtakes them.
    unreported: u32,
    /// It is being opened for the first time, by a broker that is there, and until then nothing is said of it.
    opening: Option<Instant>,
    breaks: Breaks,
    quarantine: Option<Box<Quarantine>>,
}

/// How far a delivery is.
#[derive(Debug, Clone, Copy)]
enum Ack {
    /// The core has it.
    Taken,
    /// QoS 2: a later life knows that the broker has forgotten it.
    Released,
}

#[derive(Debug)]
struct Request {
    generation: u32,
    /// A subscription that must stand again before anything is published.
    restores: bool,
    /// How often the connection broke with it under way.
    breaks: u8,
    kind: RequestKind,
}

#[derive(Debug)]
enum RequestKind {
    Publish {
        conn: ConnId,
        seq: u64,
        sent: bool,
        origin: Origin,
        message: Uplink,
        /// Its number in the store.
        stored: Option<u64>,
        /// It may be sent: what is stored is so once that is durable.
        ready: bool,
        /// Whose messages it keeps its order with.
        author: Author,
        /// It goes out in the lane of spooled ones.
        backlog: bool,
        /// When it came.
        since: Instant,
        /// QoS 2: its client was answered and has released it already.
        released: bool,
        /// QoS 2: its value in the store, which the port writes again.
        record: Option<Bytes>,
    },
    /// A publish that a port that forgets has settled: its record goes when everybody has it.
    Settled {
        stored: Stored,
        message: Uplink,
        since: Instant,
        /// Who sent it.
        author: Author,
    },
    Subscribe {
        filter: FilterKey,
        name: Arc<str>,
        id: FilterId,
        qos: QoS,
        /// It may be sent: what a later life needs to give it back is durable.
        ready: bool,
    },
    Unsubscribe {
        filter: FilterKey,
        name: Arc<str>,
    },
}

/// A message for the broker.
#[derive(Debug, Clone)]
pub(crate) struct Uplink {
    pub(crate) topic: Arc<str>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) payload: Bytes,
}

impl Uplink {
    pub(crate) fn size(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

/// A publish in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Its number.
    pub(crate) id: u64,
    pub(crate) size: usize,
    pub(crate) qos: QoS,
    /// QoS 2: its client was answered and has released it already.
    pub(crate) released: bool,
}

/// Messages that keep their order: those of one client id, also when another session or another life of the gateway
/// follows. Two clients may have one, which makes no difference but to their speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Author(pub(crate) u32);

impl Author {
    /// What clients without a session publish: in no order.
    pub(crate) const NONE: Author = Author(0);

    pub(crate) fn of(client_id: &str) -> Author {
        use core::hash::Hasher as _;
        // Not a secret: the next life has to find the same.
        let mut hasher = rustc_hash::FxHasher::default();
        hasher.write(client_id.as_bytes());
        Author((hasher.finish() >> 32) as u32)
    }
}

/// Who waits for the outcome of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A client, by place and serial number of its record.
    Client {
        client: ClientIx,
        serial: u32,
        msg_id: MsgId,
        digest: u32,
    },
    /// Nobody: a will, QoS −1, or one whose client was answered.
    Gateway,
}

/// What a settled token stood for.
#[derive(Debug)]
pub(crate) enum Settled {
    Publish {
        origin: Origin,
        author: Author,
        topic: Arc<str>,
        /// What is stored of it.
        stored: Option<Stored>,
        /// That is not needed any more; else [`Upstream::delivered`] says when.
        done: bool,
    },
    Subscribe {
        filter: FilterKey,
    },
    Unsubscribe {
        filter: FilterKey,
    },
}

/// There is no place for a publish: congestion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl Upstream {
    pub(crate) fn new(config: &UpstreamConfig, limits: &Limits, durable: bool) -> Self {
        let spools = durable && config.when_down == WhenDown::Spool;
        let count = config.connections.clamp(1, 64);
        let exact = durable.then(|| ConnectOptions {
            client_id: format!("{}-exact", config.client_id).into(),
            clean_start: true,
            exactly_once: true,
            holds_pubcomp: true,
            // Whatever becomes of QoS 1.
            spools: Some(durable),
            ..ConnectOptions::default()
        });
        let name = |conn: u32| match conn {
            0 => config.client_id.clone(),
            conn => format!("{}-{conn}", config.client_id),
        };
        let shared = (0..count).map(|conn| ConnectOptions {
            client_id: name(conn).into(),
            clean_start: true,
            holds_pubcomp: durable,
            spools: Some(spools),
            ..ConnectOptions::default()
        });
        let options: Vec<ConnectOptions> = shared.chain(exact.clone()).collect();
        Upstream {
            connections: (0..count + u32::from(durable))
                .map(|_| Connection::new())
                .collect(),
            shared: count,
            exact,
            requests: Slab::new(),
            generation: 0,
            next_seq: 0,
            waiting_messages: 0,
            waiting_bytes: 0,
            queue_messages: limits.queue_messages,
            queue_bytes: limits.queue_bytes,
            when_down: config.when_down,
            spooled_messages: 0,
            spooled_bytes: 0,
            backlog_of: FxHashMap::default(),
            exactly_once: FxHashMap::default(),
            held: BTreeMap::new(),
            dropped: [0; SpoolDrop::ALL.len()],
            untold: Untold::default(),
            postponed: Seldom::new(later::NOTICE),
            restoring: 0,
            control: (0..count)
                .map(|conn| BrokerRequest::Open {
                    conn: ConnId(conn),
                    options: options[conn as usize].clone(),
                })
                .collect(),
            options,
            filter_breaks: FxHashMap::default(),
            closing: false,
        }
    }

    /// Which connection a client publishes on. Order is promised within one QoS.
    fn connection_for(&self, author: Author, qos: QoS) -> ConnId {
        match qos {
            QoS::ExactlyOnce if self.connections.len() > self.shared as usize => ConnId(self.shared),
            _ => ConnId(author.0 % self.shared),
        }
    }

    pub(crate) fn is_up(&self, conn: ConnId) -> bool {
        self.connections
            .get(conn.0 as usize)
            .is_some_and(|connection| connection.up)
    }

    /// The number of a connection that is none of these.
    pub(crate) fn spare_connection(&self) -> ConnId {
        ConnId(self.connections.len() as u32)
    }

    /// Connections that are open, whether they work or not.
    pub(crate) fn opened(&self) -> u64 {
        self.connections.len() as u64 - u64::from(self.exact.is_some())
    }

    /// Publishes wait although their connection works and the broker takes them.
    pub(crate) fn is_busy(&self) -> bool {
        let waits =
            |connection: &Connection| !connection.waiting.is_empty() || connection.backlog.wants_to_leave();
        self.connections
            .iter()
            .any(|connection| connection.up && waits(connection))
    }

    pub(crate) fn any_up(&self) -> bool {
        self.connections.iter().any(|connection| connection.up)
    }

    /// Takes a publish of a client, or says that there is no place for it. Returns its number in the store, if it has
    /// one.
    pub(crate) fn publish(
        &mut self,
        journal: &mut Journal,
        now: Instant,
        author: Author,
        origin: Origin,
        message: Uplink,
    ) -> Result<Option<u64>, Full> {
        let conn = self.connection_for(author, message.qos);
        if conn.0 == self.shared
            && let Some(options) = self.exact.take()
        {
            self.control.push_back(BrokerRequest::Open { conn, options });
            let opening = self.is_up(SUBSCRIPTIONS).then_some(now + OPENING);
            self.connections[conn.0 as usize].opening = opening;
        }
        let up = self.connections[conn.0 as usize].is_there();
        let forgets = self.connections[conn.0 as usize].forgets;
        let backlogged = self.backlog_of.contains_key(&(conn, author));
        let tracked = message.qos > QoS::AtMostOnce;
        let spools = self.when_down == WhenDown::Spool && journal.is_on();
        let qos0 = journal.rules().is_some_and(|rules| rules.qos0);
        let refused = match tracked {
            // The connection for QoS 2 may be about to be opened.
            true => {
                let away = !up && !self.is_up(SUBSCRIPTIONS);
                away && self.when_down == WhenDown::Refuse && origin != Origin::Gateway
            }
            false => {
                let kept = spools && qos0;
                !up && !kept
            }
        };
        if refused {
            return Err(Full);
        }
        let wanted = match message.qos {
            QoS::AtMostOnce => spools && qos0 && (!up || backlogged),
            QoS::AtLeastOnce => spools && (!up || backlogged || forgets),
            // Exactly once, also over a restart: the broker is told under which packet id (durable/mod.rs).
            QoS::ExactlyOnce => journal.is_on(),
        };
        if wanted && journal.works() {
            return self.spool(journal, now, (conn, author), origin, message, !up || backlogged);
        }
        // While the disk does not work, what cannot leave at once is not taken: nobody could be answered for it.
        let full = wanted && !up
            || self.waiting_messages >= self.queue_messages
            || self.waiting_bytes + message.size() > self.queue_bytes;
        if full {
            return Err(Full);
        }
        self.waiting_messages += 1;
        self.waiting_bytes += message.size();
        let key = self.insert_publish((conn, author), origin, message, now, None, true, backlogged);
        self.line_up(key);
        Ok(None)
    }

    /// Stores a publish. It is sent, or its client answered, once it is durable.
    fn spool(
        &mut self,
        journal: &mut Journal,
        now: Instant,
        (conn, author): (ConnId, Author),
        origin: Origin,
        message: Uplink,
        backlog: bool,
    ) -> Result<Option<u64>, Full> {
        self.make_room(journal, message.size())?;
        let id = journal.new_id();
        let value = record(journal, author, &origin, &message, now).encode();
        journal.put(uplink_key(id), value.clone());
        self.spooled_messages += 1;
        self.spooled_bytes += message.size();
        let qos = message.qos;
        let key = self.insert_publish((conn, author), origin, message, now, Some(id), false, backlog);
        if qos == QoS::ExactlyOnce {
            self.keep_record(key, value);
        }
        self.line_up(key);
        // The journal works, so this waits.
        let _ = journal.wait(Waiting::Uplink(self.token(key)));
        Ok(Some(id))
    }

    /// Room in the store for one more, if there is any by its rules.
    fn make_room(&mut self, journal: &mut Journal, size: usize) -> Result<(), Full> {
        let Some(rules) = journal.rules().cloned() else {
            return Ok(());
        };
        // Dropping others would not help.
        if size > rules.spool_bytes {
            return Err(Full);
        }
        while !self.has_room(&rules, size) {
            let dropped = rules.when_full == SpoolFull::DropOldest && self.drop_oldest(journal);
            if !dropped {
                return Err(Full);
            }
        }
        Ok(())
    }

    fn keep_record(&mut self, key: usize, value: Bytes) {
        if let RequestKind::Publish { record, .. } = &mut self.requests[key].kind {
            *record = Some(value);
        }
    }

    fn has_room(&self, rules: &Durability, size: usize) -> bool {
        self.spooled_messages < rules.spool_messages && self.spooled_bytes + size <= rules.spool_bytes
    }

    #[expect(clippy::too_many_arguments, reason = "one place that makes the entry")]
    fn insert_publish(
        &mut self,
        (conn, author): (ConnId, Author),
        origin: Origin,
        message: Uplink,
        since: Instant,
        stored: Option<u64>,
        ready: bool,
        backlog: bool,
    ) -> usize {
        let seq = self.next_seq;
        self.next_seq += 1;
        if backlog {
            self.enter_backlog(conn, author);
        }
        let qos = message.qos;
        let key = self.insert(RequestKind::Publish {
            conn,
            seq,
            sent: false,
            origin,
            message,
            stored,
            ready,
            author,
            backlog,
            since,
            released: false,
            record: None,
        });
        if let (Some(id), QoS::ExactlyOnce) = (stored, qos) {
            self.exactly_once.insert(id, key);
        }
        key
    }

    /// Puts a publish in its place in its lane, which is nearly always the last.
    fn line_up(&mut self, key: usize) {
        let RequestKind::Publish {
            conn,
            seq,
            author,
            backlog,
            ..
        } = self.requests[key].kind
        else {
            return;
        };
        let Upstream {
            connections,
            requests,
            ..
        } = self;
        let Connection {
            waiting,
            backlog: spooled,
            ..
        } = &mut connections[conn.0 as usize];
        if backlog {
            return spooled.insert((seq, key), author);
        }
        let comes_before = |other: &usize| seq_of(requests, *other) < seq;
        match waiting.back().is_none_or(comes_before) {
            true => waiting.push_back(key),
            false => waiting.insert(waiting.partition_point(comes_before), key),
        }
    }

    /// Drops the spooled messages that waited for too long.
    pub(crate) fn drop_expired(&mut self, journal: &mut Journal, now: Instant) {
        let Some(age) = journal.rules().map(|rules| rules.spool_age) else {
            return;
        };
        for at in 0..self.connections.len() {
            while let Some(key) = self.connections[at].backlog.oldest()
                && let RequestKind::Publish { since, message, .. } = &self.requests[key].kind
                && now >= *since + age
            {
                let topic = message.topic.clone();
                self.drop_spooled(journal, key);
                self.count_dropped(SpoolDrop::Age, topic);
            }
        }
    }

    /// When the spooled message that waits longest has waited for too long.
    pub(crate) fn expires_at(&self, journal: &Journal) -> Option<Instant> {
        let age = journal.rules()?.spool_age;
        let oldest = self.connections.iter().filter_map(|connection| {
            match &self.requests[connection.backlog.oldest()?].kind {
                RequestKind::Publish { since, .. } => Some(*since),
                _ => None,
            }
        });
        Some(oldest.min()? + age)
    }

    fn drop_spooled(&mut self, journal: &mut Journal, key: usize) {
        let request = self.requests.remove(key);
        let RequestKind::Publish {
            conn,
            seq,
            message,
            stored,
            author,
            backlog,
            released,
            ..
        } = request.kind
        else {
            return;
        };
        self.take_out(conn, backlog, (seq, key), author);
        if backlog {
            self.leave_backlog(conn, author);
        }
        match stored {
            Some(id) => self.forget_stored(
                journal,
                Stored {
                    id,
                    size: message.size(),
                    qos: message.qos,
                    released,
                },
            ),
            None => self.forget_waiting(&message),
        }
    }

    /// Takes a publish out of its lane. It is nearly always the first.
    fn take_out(&mut self, conn: ConnId, backlog: bool, place: Place, author: Author) {
        let connection = &mut self.connections[conn.0 as usize];
        match backlog {
            true => connection.backlog.remove(place, author),
            false => connection.take_out(place.1),
        }
    }

    fn enter_backlog(&mut self, conn: ConnId, author: Author) {
        if author != Author::NONE {
            *self.backlog_of.entry((conn, author)).or_default() += 1;
        }
    }

    fn leave_backlog(&mut self, conn: ConnId, author: Author) {
        if let Some(count) = self.backlog_of.get_mut(&(conn, author)) {
            *count -= 1;
            if *count == 0 {
                self.backlog_of.remove(&(conn, author));
            }
        }
    }

    /// A stored publish is done with. What is kept of its client goes after it, not before: else it would be sent again
    /// as another message.
    pub(crate) fn forget_stored(&mut self, journal: &mut Journal, stored: Stored) {
        self.spooled_messages -= 1;
        self.spooled_bytes -= stored.size;
        let key = uplink_key(stored.id);
        match stored.qos {
            QoS::AtMostOnce | QoS::AtLeastOnce => journal.delete(key),
            QoS::ExactlyOnce => {
                self.exactly_once.remove(&stored.id);
                let then = stored.released.then(|| receiving_key(stored.id));
                // What its client was told stands in the store first. If the disk does not work, later.
                let _ = journal.wait(Waiting::Forget(key, then));
            }
        }
    }

    fn seq_of(&self, key: usize) -> u64 {
        seq_of(&self.requests, key)
    }

    /// A stored publish is durable: it may be sent. `Some`: the broker does not get it soon, so that its client is
    /// answered now.
    pub(crate) fn on_durable(&mut self, token: Token) -> Option<Settled> {
        let key = self.key_of(token)?;
        let RequestKind::Publish {
            conn,
            origin,
            message,
            stored,
            ready,
            backlog,
            author,
            ..
        } = &mut self.requests[key].kind
        else {
            return None;
        };
        *ready = true;
        let up = self.connections[conn.0 as usize].is_there();
        if up && !*backlog {
            return None;
        }
        let stored = stored.map(|id| Stored {
            id,
            size: message.size(),
            qos: message.qos,
            released: false,
        });
        Some(Settled::Publish {
            origin: core::mem::replace(origin, Origin::Gateway),
            author: *author,
            topic: message.topic.clone(),
            stored,
            done: false,
        })
    }

    /// The disk does not work: what waits for it and can go out all the same does.
    pub(crate) fn on_store_failed(&mut self) {
        for (_, request) in &mut self.requests {
            if let RequestKind::Publish { ready, .. } = &mut request.kind {
                *ready = true;
            }
        }
    }

    /// The disk works again: what waits for a broker that is away is spooled after all.
    pub(crate) fn on_store_works(&mut self, journal: &mut Journal, now: Instant) {
        for conn in (0..self.connections.len() as u32).map(ConnId) {
            if !self.is_up(conn) {
                self.spool_unsettled(journal, now, conn);
            }
        }
    }

    /// The client has released its QoS 2 publish. False if the broker has it and nothing of it is stored here: then
    /// what is kept of the client can go.
    pub(crate) fn release(&mut self, stored: u64) -> bool {
        let key = self.exactly_once.get(&stored).copied();
        match key
            .and_then(|key| self.requests.get_mut(key))
            .map(|request| &mut request.kind)
        {
            Some(RequestKind::Publish { released, .. }) => {
                *released = true;
                true
            }
            Some(RequestKind::Settled { stored, .. }) => {
                stored.released = true;
                true
            }
            _ => false,
        }
    }

    /// Everybody has a publish that was settled before.
    pub(crate) fn delivered(&mut self, journal: &mut Journal, token: Token) {
        if let Some(key) = self.key_of(token)
            && let RequestKind::Settled { stored, .. } = self.requests[key].kind
        {
            self.requests.remove(key);
            self.held.remove(&stored.id);
            self.forget_stored(journal, stored);
        }
    }

    /// The connection broke: what the broker may not have is stored, so that its clients can be answered.
    pub(crate) fn spool_unsettled(&mut self, journal: &mut Journal, now: Instant, conn: ConnId) {
        if !journal.works() {
            return;
        }
        let spools = self.when_down == WhenDown::Spool;
        let mut keys: Vec<(u64, usize)> = Vec::new();
        for (key, request) in &self.requests {
            if let RequestKind::Publish {
                conn: of,
                seq,
                stored,
                backlog,
                message,
                ..
            } = &request.kind
                && *of == conn
                && (stored.is_some() && !*backlog || stored.is_none() && spools)
                && message.qos > QoS::AtMostOnce
            {
                keys.push((*seq, key));
            }
        }
        keys.sort_unstable();
        for (_, key) in keys {
            self.spool_old(journal, now, key);
        }
        let Upstream {
            connections,
            requests,
            ..
        } = self;
        let connection = &mut connections[conn.0 as usize];
        let mut moved = Vec::new();
        connection.waiting.retain(|key| match requests[*key].kind {
            RequestKind::Publish {
                seq,
                author,
                backlog: true,
                ..
            } => {
                moved.push(((seq, *key), author));
                false
            }
            _ => true,
        });
        for (place, author) in moved {
            connection.backlog.insert(place, author);
        }
    }

    /// When [`Upstream::look_at_opening`] is wanted.
    pub(crate) fn opening_until(&self) -> Option<Instant> {
        self.connections.last()?.opening
    }

    /// The connection for QoS 2 may take too long.
    pub(crate) fn look_at_opening(&mut self, journal: &mut Journal, now: Instant) {
        if self.opening_until().is_some_and(|until| now >= until) {
            self.end_opening(journal, now, ConnId(self.shared));
        }
    }

    /// The connection was waited for, and is away.
    pub(crate) fn end_opening(&mut self, journal: &mut Journal, now: Instant, conn: ConnId) {
        if let Some(connection) = self.connections.get_mut(conn.0 as usize)
            && connection.opening.take().is_some()
        {
            self.spool_unsettled(journal, now, conn);
        }
    }

    /// Stores one that was sent, or waits, without being stored. What is stored is answered now, and goes before what
    /// its client sends from now on.
    fn spool_old(&mut self, journal: &mut Journal, now: Instant, key: usize) {
        let token = self.token(key);
        let Some(RequestKind::Publish {
            conn,
            sent,
            origin,
            message,
            stored,
            author,
            backlog,
            ..
        }) = self.requests.get_mut(key).map(|request| &mut request.kind)
        else {
            return;
        };
        let (conn, author, size, waits) = (*conn, *author, message.size(), !*sent);
        let enters = !core::mem::replace(backlog, true);
        let is_stored = stored.is_some();
        if !is_stored {
            let id = journal.new_id();
            let value = record(journal, author, origin, message, now).encode();
            journal.put(uplink_key(id), value);
            *stored = Some(id);
        }
        if enters {
            self.enter_backlog(conn, author);
        }
        if is_stored {
            // The journal works, so this waits.
            let _ = journal.wait(Waiting::Uplink(token));
            return;
        }
        self.spooled_messages += 1;
        self.spooled_bytes += size;
        if waits {
            self.waiting_messages -= 1;
            self.waiting_bytes -= size;
        }
        // The journal works, so this waits.
        let _ = journal.wait(Waiting::Uplink(token));
    }

    /// A publish of an earlier life. With a packet id the broker may have it; the port is told when it is opened.
    pub(crate) fn restore(
        &mut self,
        id: u64,
        value: Bytes,
        record: UplinkRecord,
        origin: Origin,
        since: Instant,
        released: bool,
    ) {
        let author = Author(record.author);
        let conn = self.connection_for(author, record.qos);
        let message = Uplink {
            topic: record.topic,
            qos: record.qos,
            retain: record.retain,
            payload: record.payload,
        };
        self.spooled_messages += 1;
        self.spooled_bytes += message.size();
        let key = self.insert_publish(
            (conn, author),
            origin,
            message.clone(),
            since,
            Some(id),
            true,
            true,
        );
        if message.qos == QoS::ExactlyOnce {
            self.keep_record(key, value.clone());
            if released {
                self.release(id);
            }
        }
        let (packet_id, released) = match record.stage {
            Stage::Pending => return self.line_up(key),
            Stage::Sent(packet_id) => (packet_id, false),
            Stage::Released(packet_id) => (packet_id, true),
        };
        let token = self.token(key);
        if let RequestKind::Publish { sent, .. } = &mut self.requests[key].kind {
            *sent = true;
        }
        self.connections[conn.0 as usize].in_flight += 1;
        let restored = RestoredPublish {
            token,
            packet_id,
            released,
            topic: message.topic,
            retain: message.retain,
            payload: message.payload,
            stored: StoredUplink {
                key: uplink_key(id),
                value,
            },
        };
        if let Some(options) = self.open_options(conn) {
            options.restored.push(restored);
        }
    }

    /// Puts the publishes that have packet ids in the order in which that was written: of two with the same, the broker
    /// is done with the earlier. It need not be the older, since spooled and new ones take turns.
    pub(crate) fn order_restored(&mut self, written: impl Fn(StoreKey) -> Option<usize>) {
        if let Some(options) = &mut self.exact {
            options
                .restored
                .sort_by_key(|restored| written(restored.stored.key));
        }
    }

    /// What is stored from now on has higher numbers.
    pub(crate) fn stored_until(&mut self, id: u64) {
        if let Some(options) = self.options.get_mut(self.shared as usize) {
            options.stored_until = id;
        }
        if let Some(options) = &mut self.exact {
            options.stored_until = id;
        }
    }

    /// Something of an earlier life is restored: the broker is asked for the session with the subscriptions, and for
    /// that with the QoS 2 publishes if it may know any. What it cannot know waits for that connection too.
    pub(crate) fn resume_sessions(&mut self) {
        if let Some(options) = self.open_options(SUBSCRIPTIONS) {
            options.clean_start = false;
        }
        let waits = (self.connections.last()).is_some_and(|connection| !connection.backlog.is_empty());
        if let Some(mut options) = self
            .exact
            .take_if(|options| waits || !options.restored.is_empty())
        {
            options.clean_start = options.restored.is_empty();
            let conn = ConnId(self.shared);
            self.control.push_back(BrokerRequest::Open { conn, options });
        }
    }

    /// A delivery of an earlier life that the broker has not released.
    pub(crate) fn restore_received(&mut self, conn: ConnId, delivery: DeliveryId) {
        if let Some(options) = self.open_options(conn) {
            options.received.push(delivery);
        }
    }

    fn open_options(&mut self, conn: ConnId) -> Option<&mut ConnectOptions> {
        if conn.0 == self.shared {
            return self.exact.as_mut();
        }
        self.control.iter_mut().find_map(|request| match request {
            BrokerRequest::Open { conn: of, options } if *of == conn => Some(options),
            _ => None,
        })
    }

    /// Asks for a subscription at the broker, once it is durable that somebody wants it if it is not yet.
    pub(crate) fn subscribe(
        &mut self,
        journal: &mut Journal,
        filter: FilterKey,
        name: Arc<str>,
        (id, qos): (FilterId, QoS),
        durable: bool,
    ) {
        // The first subscription brings the first delivery.
        let durable = durable && !journal.mistakes_deliveries();
        let key = self.insert(RequestKind::Subscribe {
            filter,
            name,
            id,
            qos,
            ready: durable,
        });
        if !durable && journal.wait(Waiting::Subscription(self.token(key))).is_some() {
            self.release_subscription(self.token(key));
        }
        self.connections[SUBSCRIPTIONS.0 as usize]
            .subscriptions
            .push_back(key);
    }

    /// A subscription may be asked for.
    pub(crate) fn release_subscription(&mut self, token: Token) {
        let key = self.key_of(token);
        let request = key.and_then(|key| self.requests.get_mut(key));
        if let Some(RequestKind::Subscribe { ready, .. }) = request.map(|request| &mut request.kind) {
            *ready = true;
        }
    }

    /// Asks for the end of a subscription.
    pub(crate) fn unsubscribe(&mut self, filter: FilterKey, name: Arc<str>) {
        let key = self.insert(RequestKind::Unsubscribe { filter, name });
        self.connections[SUBSCRIPTIONS.0 as usize]
            .subscriptions
            .push_back(key);
    }

    /// The end of a subscription is not wanted any more. False if the broker was asked for it.
    pub(crate) fn take_back_unsubscribe(&mut self, filter: FilterKey) -> bool {
        let Upstream {
            connections,
            requests,
            ..
        } = self;
        let line = &mut connections[SUBSCRIPTIONS.0 as usize].subscriptions;
        let is = |key: &usize| match requests.get(*key).map(|request| &request.kind) {
            Some(RequestKind::Unsubscribe { filter: of, .. }) => *of == filter,
            _ => false,
        };
        let Some(key) = line.iter().position(is).and_then(|at| line.remove(at)) else {
            return false;
        };
        requests.remove(key);
        true
    }

    /// A delivery was taken.
    pub(crate) fn acknowledge(&mut self, conn: ConnId, delivery: DeliveryId) {
        if let Some(connection) = self.connections.get_mut(conn.0 as usize) {
            connection.acks.push_back((Ack::Taken, delivery));
        }
    }

    /// A later life knows that a delivery is released.
    pub(crate) fn complete(&mut self, conn: ConnId, delivery: DeliveryId) {
        if let Some(connection) = self.connections.get_mut(conn.0 as usize) {
            connection.acks.push_back((Ack::Released, delivery));
        }
    }

    /// The broker lost the session, and with it what it waited to be answered.
    pub(crate) fn forget_deliveries(&mut self, conn: ConnId) {
        if let Some(connection) = self.connections.get_mut(conn.0 as usize) {
            connection.acks.clear();
        }
    }

    /// The connection works; without its old session nothing new is sent before the old is reported lost.
    pub(crate) fn on_up(
        &mut self,
        now: Instant,
        conn: ConnId,
        session_present: bool,
        window: u16,
        forgets: bool,
    ) {
        self.watch_up(now, conn);
        let Some(connection) = self.connections.get_mut(conn.0 as usize) else {
            return;
        };
        connection.up = true;
        connection.opening = None;
        connection.credit = 0;
        connection.window = u32::from(window);
        connection.forgets = forgets;
        if !session_present {
            connection.unreported = connection.in_flight;
        }
    }

    /// The connection broke. Returns the request over which the broker closes it, if that is found.
    pub(crate) fn on_down(&mut self, now: Instant, conn: ConnId) -> Option<Token> {
        let found = self.watch_down(now, conn);
        if let Some(connection) = self.connections.get_mut(conn.0 as usize) {
            connection.up = false;
            connection.credit = 0;
            connection.unreported = 0;
            // Acknowledgements stay: a QoS 2 message does not come again over a kept session, so its port waits for
            // ours. Those of QoS 1 name a delivery of the last connection, which ports pass over.
        }
        if conn == SUBSCRIPTIONS {
            self.restoring = 0;
            self.requests
                .iter_mut()
                .for_each(|(_, request)| request.restores = false);
        }
        found
    }

    pub(crate) fn on_credit(&mut self, conn: ConnId, requests: u32) {
        if let Some(connection) = self.connections.get_mut(conn.0 as usize) {
            connection.credit = connection.credit.saturating_add(requests);
        }
    }

    /// The broker answered under `token`; `None` if nobody waits for that any more.
    pub(crate) fn settle(&mut self, token: Token, refused: bool) -> Option<Settled> {
        let key = self.key_of(token)?;
        if matches!(self.requests[key].kind, RequestKind::Settled { .. }) {
            return None;
        }
        let request = self.requests.remove(key);
        self.restoring -= usize::from(request.restores);
        Some(match request.kind {
            RequestKind::Publish {
                conn,
                seq,
                sent,
                origin,
                message,
                stored,
                author,
                backlog,
                since,
                released,
                ..
            } => {
                if sent {
                    let connection = &mut self.connections[conn.0 as usize];
                    connection.answered();
                    connection.backlog.settled(seq, author);
                } else {
                    // Reported lost and settled all the same: it must not go out again.
                    self.take_out(conn, backlog, (seq, key), author);
                    if stored.is_none() {
                        self.forget_waiting(&message);
                    }
                }
                if backlog {
                    self.leave_backlog(conn, author);
                }
                let stored = stored.map(|id| Stored {
                    id,
                    size: message.size(),
                    qos: message.qos,
                    released,
                });
                let done = refused || !self.connections[conn.0 as usize].forgets;
                if let (Some(stored), false) = (stored, done) {
                    self.keep_settled(token, key, stored, message.clone(), since, author);
                }
                Settled::Publish {
                    origin,
                    author,
                    topic: message.topic,
                    stored,
                    done,
                }
            }
            RequestKind::Subscribe { filter, .. } => Settled::Subscribe { filter },
            RequestKind::Unsubscribe { filter, .. } => Settled::Unsubscribe { filter },
            RequestKind::Settled { .. } => return None,
        })
    }

    /// Keeps the place of a settled publish, so that its token still names what is stored of it.
    fn keep_settled(
        &mut self,
        token: Token,
        key: usize,
        stored: Stored,
        message: Uplink,
        since: Instant,
        author: Author,
    ) {
        // It was removed just now, so it is the place that is filled next.
        let place = self.requests.insert(Request {
            generation: (token.0 >> 32) as u32,
            restores: false,
            breaks: 0,
            kind: RequestKind::Settled {
                stored,
                message,
                since,
                author,
            },
        });
        self.held.insert(stored.id, place);
        debug_assert_eq!(place, key, "the place that was freed last");
    }

    /// The session that carried this request is gone: a publish goes out again in its old place, under its old
    /// token; the rest is for the filter table to ask again.
    pub(crate) fn lost(&mut self, token: Token) -> Option<Settled> {
        let key = self.key_of(token)?;
        let RequestKind::Publish {
            conn,
            seq,
            sent,
            message,
            stored,
            author,
            backlog,
            ..
        } = &mut self.requests[key].kind
        else {
            return self.settle(token, false);
        };
        if !*sent {
            return None;
        }
        *sent = false;
        if stored.is_none() {
            self.waiting_messages += 1;
            self.waiting_bytes += message.size();
        }
        let connection = &mut self.connections[conn.0 as usize];
        connection.answered();
        match backlog {
            true => connection.backlog.lost((*seq, key), *author),
            false => self.line_up(key),
        }
        None
    }

    /// The subscriptions asked for just now go before everything that is to be published.
    pub(crate) fn restore_first(&mut self) {
        for (_, request) in &mut self.requests {
            let subscribes = matches!(request.kind, RequestKind::Subscribe { .. });
            self.restoring += usize::from(subscribes && !request.restores);
            request.restores |= subscribes;
        }
    }

    /// Drops requests for subscriptions, sent or not: the filter table will ask anew.
    pub(crate) fn forget_subscriptions(&mut self) {
        self.connections[SUBSCRIPTIONS.0 as usize].subscriptions.clear();
        self.restoring = 0;
        self.requests.retain(|_, request| match request.kind {
            RequestKind::Publish { .. } | RequestKind::Settled { .. } => true,
            RequestKind::Subscribe { .. } | RequestKind::Unsubscribe { .. } => false,
        });
    }

    /// The next request that its connection has room for.
    pub(crate) fn poll(
        &mut self,
        now: Instant,
        journal: &mut Journal,
        metrics: &mut Metrics,
    ) -> Option<BrokerRequest> {
        if let Some(request) = self.control.pop_front() {
            return Some(request);
        }
        for at in 0..self.connections.len() {
            let connection = &mut self.connections[at];
            if !connection.up || connection.credit == 0 {
                continue;
            }
            let conn = ConnId(at as u32);
            if let Some((ack, delivery)) = connection.acks.pop_front() {
                connection.credit -= 1;
                return Some(match ack {
                    Ack::Taken => BrokerRequest::Ack { conn, delivery },
                    Ack::Released => BrokerRequest::Complete { conn, delivery },
                });
            }
            if connection.quarantine.is_some() {
                match self.next_alone(at, now, journal, metrics) {
                    Some(request) => return Some(request),
                    None => continue,
                }
            }
            if let Some(key) = connection.subscriptions.front().copied()
                && !waits_for_disk(&self.requests, key)
            {
                connection.subscriptions.pop_front();
                connection.credit -= 1;
                return self.subscription_request(conn, key);
            }
            if connection.unreported == 0
                && self.restoring == 0
                && let Some(request) = self.next_publish(at, journal, metrics)
            {
                return Some(request);
            }
        }
        None
    }

    fn next_publish(
        &mut self,
        at: usize,
        journal: &mut Journal,
        metrics: &mut Metrics,
    ) -> Option<BrokerRequest> {
        let spooled_first = self.connections[at].backlog_next;
        for spooled in [spooled_first, !spooled_first] {
            if let Some(request) = self.next_of_line(at, spooled, journal, metrics) {
                self.connections[at].backlog_next = !spooled;
                return Some(request);
            }
        }
        None
    }

    fn next_of_line(
        &mut self,
        at: usize,
        spooled: bool,
        journal: &mut Journal,
        metrics: &mut Metrics,
    ) -> Option<BrokerRequest> {
        let Upstream {
            connections,
            requests,
            ..
        } = self;
        let connection = &mut connections[at];
        let key = match spooled {
            true => connection.backlog.next()?,
            false => *connection.waiting.front()?,
        };
        let RequestKind::Publish { message, ready, .. } = &requests[key].kind else {
            return None;
        };
        let tracked = message.qos > QoS::AtMostOnce;
        if !*ready || tracked && connection.in_flight >= connection.window {
            return None;
        }
        self.send(at, key, journal, metrics)
    }

    /// Hands a publish that waits to its connection, which has room for it.
    fn send(
        &mut self,
        at: usize,
        key: usize,
        journal: &mut Journal,
        metrics: &mut Metrics,
    ) -> Option<BrokerRequest> {
        let Upstream {
            connections,
            requests,
            waiting_messages,
            waiting_bytes,
            ..
        } = self;
        let connection = &mut connections[at];
        let generation = requests[key].generation;
        let RequestKind::Publish {
            conn,
            seq,
            sent,
            message,
            stored,
            author,
            backlog,
            ..
        } = &mut requests[key].kind
        else {
            return None;
        };
        let tracked = message.qos > QoS::AtMostOnce;
        match backlog {
            true => connection.backlog.send((*seq, key), *author, tracked),
            false => connection.take_out(key),
        }
        connection.credit -= 1;
        connection.in_flight += u32::from(tracked);
        *sent = true;
        match message.qos {
            QoS::AtMostOnce => metrics.publish_up_qos0_total += 1,
            QoS::AtLeastOnce => metrics.publish_up_qos1_total += 1,
            QoS::ExactlyOnce => metrics.publish_up_qos2_total += 1,
        }
        if stored.is_none() {
            *waiting_messages -= 1;
            *waiting_bytes -= message.size();
        }
        let (conn, message, stored) = (*conn, message.clone(), *stored);
        let kept = stored.filter(|_| message.qos == QoS::ExactlyOnce);
        let size = message.size();
        let request = BrokerRequest::Publish {
            conn,
            token: tracked.then(|| token(generation, key)),
            topic: message.topic,
            qos: message.qos,
            retain: message.retain,
            payload: message.payload,
            stored: kept.and_then(|id| self.stored_uplink(id, key)),
        };
        if !tracked {
            self.finish_untracked(journal, key, stored, size);
        }
        Some(request)
    }

    /// A QoS 0 publish has left, and nobody will say what became of it.
    fn finish_untracked(&mut self, journal: &mut Journal, key: usize, stored: Option<u64>, size: usize) {
        if let RequestKind::Publish {
            conn,
            author,
            backlog: true,
            ..
        } = self.requests.remove(key).kind
        {
            self.leave_backlog(conn, author);
        }
        if let Some(id) = stored {
            let qos = QoS::AtMostOnce;
            self.forget_stored(
                journal,
                Stored {
                    id,
                    size,
                    qos,
                    released: false,
                },
            );
        }
    }

    /// The record of a publish, as its port writes it again.
    fn stored_uplink(&self, id: u64, key: usize) -> Option<StoredUplink> {
        let RequestKind::Publish { record, .. } = &self.requests.get(key)?.kind else {
            return None;
        };
        Some(StoredUplink {
            key: uplink_key(id),
            value: record.clone()?,
        })
    }

    fn subscription_request(&self, conn: ConnId, key: usize) -> Option<BrokerRequest> {
        let token = self.token(key);
        match &self.requests.get(key)?.kind {
            RequestKind::Subscribe { name, id, qos, .. } => Some(BrokerRequest::Subscribe {
                conn,
                token,
                filter: name.clone(),
                id: *id,
                qos: *qos,
            }),
            RequestKind::Unsubscribe { name, .. } => Some(BrokerRequest::Unsubscribe {
                conn,
                token,
                filter: name.clone(),
            }),
            RequestKind::Publish { .. } | RequestKind::Settled { .. } => None,
        }
    }

    /// Writes the gauges.
    pub(crate) fn measure(&self, metrics: &mut Metrics) {
        metrics.spool_messages = self.spooled_messages as u64;
        metrics.spool_bytes = self.spooled_bytes as u64;
        metrics.spool_dropped = self.dropped;
        metrics.queue_messages = self.waiting_messages as u64;
        metrics.queue_bytes = self.waiting_bytes as u64;
        metrics.in_flight = self
            .connections
            .iter()
            .map(|connection| u64::from(connection.in_flight))
            .sum();
        let shared = self.connections.iter().take(self.shared as usize);
        metrics.broker_up = u64::from(shared.fold(true, |all, connection| all & connection.up));
        let up = self.connections.iter().filter(|connection| connection.up);
        metrics.broker_connections_up = up.count() as u64;
    }

    /// Closes every connection in good order.
    pub(crate) fn close(&mut self) {
        let conns = 0..self.connections.len() as u32;
        self.exact = None;
        self.closing = true;
        self.control
            .extend(conns.map(|conn| BrokerRequest::Close { conn: ConnId(conn) }));
    }

    fn insert(&mut self, kind: RequestKind) -> usize {
        self.generation = self.generation.wrapping_add(1);
        self.requests.insert(Request {
            generation: self.generation,
            restores: false,
            breaks: 0,
            kind,
        })
    }

    fn token(&self, key: usize) -> Token {
        token(
            self.requests.get(key).map_or(0, |request| request.generation),
            key,
        )
    }

    fn key_of(&self, token: Token) -> Option<usize> {
        let key = (token.0 & 0xFFFF_FFFF) as usize;
        let request = self.requests.get(key)?;
        (u64::from(request.generation) == token.0 >> 32).then_some(key)
    }

    fn forget_waiting(&mut self, message: &Uplink) {
        self.waiting_messages -= 1;
        self.waiting_bytes -= message.size();
    }
}

impl Connection {
    fn new() -> Self {
        Connection {
            up: false,
            credit: 0,
            window: 0,
            in_flight: 0,
            forgets: false,
            waiting: VecDeque::new(),
            backlog: Backlog::default(),
            backlog_next: false,
            subscriptions: VecDeque::new(),
            acks: VecDeque::new(),
            unreported: 0,
            opening: None,
            breaks: Breaks::default(),
            quarantine: None,
        }
    }

    /// Takes a new publish out of its lane.
    fn take_out(&mut self, key: usize) {
        match self.waiting.front() {
            Some(front) if *front == key => drop(self.waiting.pop_front()),
            _ => self.waiting.retain(|waiting| *waiting != key),
        }
    }

    /// What is handed to it leaves soon.
    fn is_there(&self) -> bool {
        self.up || self.opening.is_some()
    }

    /// A publish in flight was settled or reported lost.
    fn answered(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.unreported = self.unreported.saturating_sub(1);
    }
}

fn seq_of(requests: &Slab<Request>, key: usize) -> u64 {
    match &requests[key].kind {
        RequestKind::Publish { seq, .. } => *seq,
        _ => 0,
    }
}

fn waits_for_disk(requests: &Slab<Request>, key: usize) -> bool {
    let kind = requests.get(key).map(|request| &request.kind);
    matches!(kind, Some(RequestKind::Subscribe { ready: false, .. }))
}

/// A publish as it is stored before it is sent.
fn record(
    journal: &Journal,
    author: Author,
    origin: &Origin,
    message: &Uplink,
    now: Instant,
) -> UplinkRecord {
    let client = match *origin {
        Origin::Client {
            serial,
            msg_id,
            digest,
            ..
        } => Some((serial, msg_id, digest)),
        Origin::Gateway => None,
    };
    UplinkRecord {
        stage: Stage::Pending,
        author: author.0,
        client,
        since_ms: journal.unix_ms(now),
        qos: message.qos,
        retain: message.retain,
        topic: message.topic.clone(),
        payload: message.payload.clone(),
    }
}

fn token(generation: u32, key: usize) -> Token {
    Token(u64::from(generation) << 32 | key as u64)
}
