//! Sessions, subscriptions and retained messages: the broker without I/O.

use core::time::Duration;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use gateway_core::io::{StoreChange, StoreKey};
use gateway_core::time::Instant;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustc_hash::FxHashMap;
use slab::Slab;
use sn_codec::QoS;

use super::EmbeddedLimits;
use super::filters::{Filter, Filters, Match, is_sys, is_topic_name};
use super::kept::{Batch, Keeper, KeptSubscription, SessionRecord, key};
use super::packet::{
    ClientKey, Connect, Message, Received, Reply, RetainHandling, Subscription, Will, reason,
};
use super::retained::Retained;
use super::session::{Bound, Entry, Outbox, ProtocolError, Session, Taken};
use super::shared::{Fitness, Subscriber};
use super::stats::Stats;
use super::sys;

/// QoS 2 messages of one session that wait for their PUBREL, at most. Well above the receive maximum that connections
/// announce, and what 3.1.1 clients, which know none, keep open.
const INBOUND_MAX: usize = 1024;

/// The gateway's bounds are that many times those of other clients: all sensors are behind it.
const GATEWAY_FACTOR: usize = 10;

/// What the router holds at most; see [`EmbeddedLimits`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RouterLimits {
    pub(crate) queue_messages: usize,
    pub(crate) queue_bytes: usize,
    pub(crate) retained_max: usize,
    pub(crate) subscriptions_max: usize,
    pub(crate) sessions_max: usize,
}

impl From<&EmbeddedLimits> for RouterLimits {
    fn from(limits: &EmbeddedLimits) -> Self {
        RouterLimits {
            queue_messages: limits.queue_messages,
            queue_bytes: limits.queue_bytes,
            retained_max: limits.retained_max,
            subscriptions_max: limits.subscriptions_max,
            sessions_max: limits.sessions_max,
        }
    }
}

/// The broker's state; see the [module](super) for what it promises.
#[derive(Debug)]
pub(crate) struct Router {
    limits: RouterLimits,
    random: StdRng,
    /// Of the latest input.
    now: Instant,
    clients: Slab<Client>,
    next_serial: u64,
    sessions: Slab<Session>,
    by_id: HashMap<Arc<str>, u32>,
    filters: Filters,
    retained: Retained,
    /// The time at which a session wants to be looked at; one entry each at most.
    timers: BTreeSet<(Instant, u32)>,
    /// Acknowledgements withheld from publishers.
    pending: FxHashMap<u64, Pending>,
    next_pending: u64,
    /// Counts messages routed, for [`Session::mark()`].
    routed: u64,
    /// Kept for its memory.
    targets: Vec<Target>,
    sys_due: Option<Instant>,
    /// What was last published below `$SYS`.
    sys_last: Vec<(&'static str, String)>,
    keeper: Keeper,
    /// Where the sessions of an earlier life are, or were, by their numbers in the store.
    restored: FxHashMap<u64, u32>,
    out: Outbox,
}

/// One attachment.
#[derive(Debug)]
struct Client {
    serial: u64,
    /// `None` when its last reply waits to be taken.
    session: Option<u32>,
    session_expiry: u32,
    will: Option<Will>,
}

/// A publisher that waits for its acknowledgement.
#[derive(Debug)]
struct Pending {
    client: ClientKey,
    packet_id: u16,
    qos: QoS,
    /// Sessions it waits for.
    sessions: usize,
}

/// A session that gets the message being routed.
#[derive(Debug)]
struct Target {
    session: u32,
    /// Granted.
    qos: QoS,
    retain_as_published: bool,
    ids: Box<[u32]>,
    share: Option<Arc<str>>,
}

impl Target {
    fn new(subscriber: &Subscriber, share: Option<Arc<str>>) -> Self {
        Target {
            session: subscriber.session,
            qos: subscriber.qos,
            retain_as_published: subscriber.retain_as_published,
            ids: subscriber.id.into_iter().collect(),
            share,
        }
    }

    /// Another subscription of the session matches (§3.3.4): one message, at the highest QoS, with all identifiers.
    fn merge(&mut self, subscriber: &Subscriber) {
        self.qos = self.qos.max(subscriber.qos);
        self.retain_as_published |= subscriber.retain_as_published;
        self.ids = self.ids.iter().copied().chain(subscriber.id).collect();
    }

    fn entry(self, message: &Arc<Message>, expires: Option<Instant>) -> Entry {
        Entry {
            qos: message.qos.min(self.qos),
            retain: message.retain && self.retain_as_published,
            message: message.clone(),
            ids: self.ids,
            expires,
            share: self.share,
            held_over: false,
        }
    }
}

/// What became of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Published {
    /// To be acknowledged now, with this reason code.
    Settled(u8),
    /// Acknowledged under this number when the sessions have taken it.
    Withheld(u64),
    /// Nobody got it.
    Refused,
}

impl Router {
    /// A router without clients. The same seed and inputs bring the same outputs.
    pub(crate) fn new(limits: RouterLimits, seed: u64) -> Self {
        Router {
            retained: Retained::new(limits.retained_max),
            limits,
            random: StdRng::seed_from_u64(seed),
            now: Instant::START,
            clients: Slab::new(),
            next_serial: 0,
            sessions: Slab::new(),
            by_id: HashMap::new(),
            filters: Filters::new(),
            timers: BTreeSet::new(),
            pending: FxHashMap::default(),
            next_pending: 0,
            routed: 0,
            targets: Vec::new(),
            sys_due: None,
            sys_last: Vec::new(),
            keeper: Keeper::default(),
            restored: FxHashMap::default(),
            out: Outbox::default(),
        }
    }

    /// A client said CONNECT. Its CONNACK is the first output for the key.
    pub(crate) fn connect(&mut self, now: Instant, connect: Connect) -> ClientKey {
        self.attach(now, connect, false)
    }

    /// The gateway connects: nobody else can take over its session, and its queue is larger.
    pub(crate) fn connect_gateway(&mut self, now: Instant, connect: Connect) -> ClientKey {
        self.attach(now, connect, true)
    }

    /// A client said something.
    pub(crate) fn received(&mut self, now: Instant, client: ClientKey, packet: Received) {
        self.advance(now);
        let Some(session) = self.session_of(client) else {
            return;
        };
        self.out.stats.packets_received += 1;
        match packet {
            Received::Publish {
                packet_id, message, ..
            } => self.on_publish(client, session, packet_id, message),
            Received::PubAck { packet_id } => {
                let result = self.sessions[session as usize].on_puback(packet_id);
                self.acknowledged(client, session, result);
            }
            Received::PubRec { packet_id, refused } => {
                let Router { sessions, keeper, .. } = self;
                let take = |kept, receipt: &_| keeper.take(now, session, kept, receipt);
                let result = sessions[session as usize].on_pubrec(packet_id, refused, take);
                if let Ok(Some(reason)) = result {
                    self.out.push(client, Reply::PubRel { packet_id, reason });
                }
                self.acknowledged(client, session, result.map(|_| ()));
            }
            Received::PubRel { packet_id } => self.on_pubrel(client, session, packet_id),
            Received::PubComp { packet_id } => {
                let result = self.sessions[session as usize].on_pubcomp(self.now, packet_id, &mut self.out);
                self.acknowledged(client, session, result);
            }
            Received::Subscribe {
                packet_id,
                id,
                filters,
            } => self.on_subscribe(client, session, packet_id, id, filters),
            Received::Unsubscribe { packet_id, filters } => {
                self.on_unsubscribe(client, session, packet_id, &filters);
            }
            Received::Disconnect {
                with_will,
                session_expiry,
            } => self.on_disconnect(client, with_will, session_expiry),
            Received::TooLarge { packet_id } => {
                self.out.stats.dropped_too_large += 1;
                self.sessions[session as usize].on_too_large(packet_id);
                self.acknowledged(client, session, Ok(()));
            }
        }
    }

    /// The connection takes that many more PUBLISH. It begins with none.
    pub(crate) fn credit(&mut self, now: Instant, client: ClientKey, packets: u32) {
        self.advance(now);
        if let Some(session) = self.session_of(client) {
            if let Some(attached) = &mut self.sessions[session as usize].attached {
                attached.credit = attached.credit.saturating_add(packets);
            }
            self.pump(session);
        }
    }

    /// The connection is gone without DISCONNECT.
    pub(crate) fn closed(&mut self, now: Instant, client: ClientKey) {
        self.advance(now);
        if self.is_live(client) {
            self.detach(client, true, true);
            self.clients.remove(client.slot());
        }
    }

    /// Ends all connections. No will is published: nobody is left to get it.
    pub(crate) fn shutdown(&mut self) {
        let keys: Vec<ClientKey> = self
            .sessions
            .iter()
            .filter_map(|(_, session)| session.attached.as_ref().map(|attached| attached.key))
            .collect();
        for client in keys {
            self.out.push(
                client,
                Reply::Disconnect {
                    reason: reason::SERVER_SHUTTING_DOWN,
                },
            );
            self.detach(client, false, false);
        }
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        while let Some((due, session)) = self.timers.first().copied()
            && due <= now
        {
            self.timers.pop_first();
            self.sessions[session as usize].timer = None;
            self.on_timer(session);
        }
        if self.sys_due.is_some_and(|due| due <= now) {
            self.publish_sys();
        }
        self.answer_kept();
    }

    /// When [`Router::handle_timeout`] is to be called next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let session = self.timers.first().map(|(due, _)| *due);
        let answer = self.keeper.deadline();
        [session, self.sys_due, answer].into_iter().flatten().min()
    }

    /// What is to be said to whom; call until `None` after each batch of inputs.
    pub(crate) fn poll_output(&mut self) -> Option<(ClientKey, Reply)> {
        loop {
            let (client, reply) = self.out.replies.pop_front()?;
            if !self.is_live(client) {
                continue;
            }
            let last = match &reply {
                Reply::ConnAck { reason, .. } => *reason >= 0x80,
                Reply::Disconnect { .. } => true,
                _ => false,
            };
            if last {
                self.clients.remove(client.slot());
            }
            return Some((client, reply));
        }
    }

    pub(crate) fn stats(&self) -> &Stats {
        &self.out.stats
    }

    /// Messages that a client's session holds.
    #[cfg(test)]
    pub(crate) fn held(&self, client_id: &str) -> usize {
        let session = self.by_id.get(client_id);
        session.map_or(0, |session| self.sessions[*session as usize].held().0)
    }

    /// Whether nothing at all is kept but retained messages.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.clients.is_empty()
            && self.sessions.is_empty()
            && self.by_id.is_empty()
            && self.timers.is_empty()
            && self.pending.is_empty()
            && self.out.replies.is_empty()
            && self.filters.is_empty()
    }

    /// Whether no publisher waits for its acknowledgement.
    #[cfg(test)]
    pub(crate) fn owes_nothing(&self) -> bool {
        self.pending.is_empty()
    }

    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    fn is_live(&self, client: ClientKey) -> bool {
        self.clients
            .get(client.slot())
            .is_some_and(|found| found.serial == client.serial)
    }

    fn session_of(&self, client: ClientKey) -> Option<u32> {
        let found = self.clients.get(client.slot())?;
        found.session.filter(|_| found.serial == client.serial)
    }

    // CONNECT, and how connections and sessions end.

    fn attach(&mut self, now: Instant, mut connect: Connect, gateway: bool) -> ClientKey {
        self.advance(now);
        let key = ClientKey {
            slot: self.clients.vacant_key() as u32,
            serial: self.next_serial,
        };
        self.next_serial += 1;
        self.clients.insert(Client {
            serial: key.serial,
            session: None,
            session_expiry: connect.session_expiry,
            will: None,
        });
        self.out.stats.packets_received += 1;
        if let Err(reason) = self.admit(&connect, gateway) {
            self.out.push(
                key,
                Reply::ConnAck {
                    session_present: false,
                    reason,
                    assigned_client_id: None,
                },
            );
            return key;
        }

        let assigned_client_id = connect.client_id.is_empty().then(|| {
            connect.client_id = self.unused_client_id();
            connect.client_id.clone()
        });
        let kept = self.take_over(&connect);
        let session = kept.unwrap_or_else(|| self.new_session(&connect.client_id, gateway));
        self.out.push(
            key,
            Reply::ConnAck {
                session_present: kept.is_some(),
                reason: reason::SUCCESS,
                assigned_client_id,
            },
        );
        self.sessions[session as usize].attach(key, connect.receive_maximum);
        let client = &mut self.clients[key.slot()];
        client.session = Some(session);
        client.will = connect.will;
        self.keep(session, connect.session_expiry);
        let stats = &mut self.out.stats;
        stats.clients_connected += 1;
        stats.clients_maximum = stats.clients_maximum.max(stats.clients_connected);
        key
    }

    /// Decides on a CONNECT.
    ///
    /// # Errors
    ///
    /// The reason code to refuse it with.
    fn admit(&self, connect: &Connect, gateway: bool) -> Result<(), u8> {
        let session = self
            .by_id
            .get(connect.client_id.as_str())
            .map(|session| &self.sessions[*session as usize]);
        if connect.client_id.contains('\0') || connect.client_id.len() > usize::from(u16::MAX) {
            return Err(reason::CLIENT_ID_NOT_VALID);
        }
        if session.is_some_and(|session| session.local) && !gateway {
            tracing::warn!(
                target: "broker", client = %connect.client_id,
                "client refused: it uses the client id of the gateway"
            );
            return Err(reason::CLIENT_ID_NOT_VALID);
        }
        if let Some(will) = &connect.will {
            if !is_topic_name(&will.message.topic) {
                return Err(reason::TOPIC_NAME_INVALID);
            }
            if is_sys(&will.message.topic) {
                return Err(reason::NOT_AUTHORIZED);
            }
        }
        // None is ended to make place: it may hold messages that were acknowledged to their publishers.
        if session.is_none() && !gateway && self.sessions.len() >= self.limits.sessions_max {
            return Err(reason::QUOTA_EXCEEDED);
        }
        Ok(())
    }

    /// Ends an earlier connection under the same client id, and its session if it is not to go on (MQTT-3.1.4-3,
    /// MQTT-3.1.2-4); returns the session if it goes on.
    fn take_over(&mut self, connect: &Connect) -> Option<u32> {
        let session = *self.by_id.get(connect.client_id.as_str())?;
        if let Some(attached) = &self.sessions[session as usize].attached {
            let earlier = attached.key;
            self.end(earlier, reason::SESSION_TAKEN_OVER);
        }
        // One that lasts as long as its connection is gone by now.
        let session = *self.by_id.get(connect.client_id.as_str())?;
        if connect.clean_start {
            self.end_session(session);
            return None;
        }
        Some(session)
    }

    fn new_session(&mut self, client_id: &str, gateway: bool) -> u32 {
        let bound = Bound {
            messages: self.limits.queue_messages,
            bytes: self.limits.queue_bytes,
        };
        let bound = if gateway {
            bound.times(GATEWAY_FACTOR)
        } else {
            bound
        };
        let client_id: Arc<str> = client_id.into();
        let session = self
            .sessions
            .insert(Session::new(client_id.clone(), bound, gateway)) as u32;
        self.by_id.insert(client_id, session);
        self.out.stats.sessions = self.sessions.len();
        session
    }

    fn unused_client_id(&mut self) -> String {
        loop {
            let id = format!("auto-{:016x}", self.random.random::<u64>());
            if !self.by_id.contains_key(id.as_str()) {
                return id;
            }
        }
    }

    fn on_disconnect(&mut self, client: ClientKey, with_will: bool, session_expiry: Option<u32>) {
        let found = &mut self.clients[client.slot()];
        if let Some(expiry) = session_expiry {
            // §3.14.2.2.2
            if found.session_expiry == 0 && expiry != 0 {
                self.end(client, reason::PROTOCOL_ERROR);
                return;
            }
            found.session_expiry = expiry;
            if let Some(session) = found.session {
                self.keep(session, expiry);
            }
        }
        self.detach(client, with_will, false);
        self.clients.remove(client.slot());
    }

    /// Ends a connection from our side.
    fn end(&mut self, client: ClientKey, reason: u8) {
        if let Some(session) = self.session_of(client) {
            tracing::debug!(
                target: "broker", client = %self.sessions[session as usize].client_id,
                rc = reason,
                "client disconnected by the broker"
            );
        }
        self.out.push(client, Reply::Disconnect { reason });
        self.detach(client, true, true);
    }

    /// A connection ended; nothing more is said on it. `lost`: without a word of the client.
    fn detach(&mut self, client: ClientKey, with_will: bool, lost: bool) {
        let found = &mut self.clients[client.slot()];
        let Some(session) = found.session.take() else {
            return;
        };
        let expiry = found.session_expiry;
        let will = found.will.take().filter(|_| with_will);
        self.out.stats.clients_connected -= 1;
        // A session that was too slow is not awaited: its time is over.
        self.sessions[session as usize].detach(self.now, lost && expiry > 0, &mut self.out);
        // §3.1.3.2.2: published when the delay has passed or the session ends, whichever is first.
        match will {
            Some(will) if will.delay > 0 && expiry > 0 => {
                let due = self.now + Duration::from_secs(will.delay.into());
                self.sessions[session as usize].will = Some((will, due));
            }
            Some(will) => {
                self.route(Some(session), will.message, None);
            }
            None => {}
        }
        if expiry == 0 {
            self.end_session(session);
            return;
        }
        self.sessions[session as usize].expire_after(self.now, expiry);
        for entry in self.sessions[session as usize].take_shared_waiting() {
            if let Err(entry) = self.share(entry, Fitness::Slow) {
                self.sessions[session as usize].keep(entry);
            }
        }
        self.relieve(session);
        self.arm(session);
    }

    /// A session without a connection ends.
    fn end_session(&mut self, session: u32) {
        self.release(session);
        let mut ended = self.sessions.remove(session as usize);
        self.by_id.remove(&ended.client_id);
        if let Some(kept) = ended.kept {
            self.keeper.end(kept);
        }
        if let Some(due) = ended.timer {
            self.timers.remove(&(due, session));
        }
        for filter in &ended.filters {
            if let Some(filter) = Filter::parse(filter)
                && self.filters.unsubscribe(&filter, session)
            {
                self.count_subscription(&filter, false);
            }
        }
        self.out.stats.sessions = self.sessions.len();
        let will = ended.will.take();
        for entry in ended.into_shared() {
            if self.share(entry, Fitness::Full).is_err() {
                self.out.stats.dropped_unshared += 1;
            }
        }
        if let Some((will, _)) = will {
            self.route(None, will.message, None);
        }
    }

    fn on_timer(&mut self, session: u32) {
        let now = self.now;
        self.sessions[session as usize].await_no_longer(now);
        self.relieve(session);
        let looked_at = &mut self.sessions[session as usize];
        if looked_at.is_too_slow(now)
            && let Some(attached) = &looked_at.attached
        {
            let client = attached.key;
            tracing::warn!(
                target: "broker", client = %looked_at.client_id,
                queued = looked_at.held().0,
                "client disconnected: it takes its messages too slowly"
            );
            self.out.stats.clients_too_slow += 1;
            self.end(client, reason::QUOTA_EXCEEDED);
            return;
        }
        if looked_at.expires.is_some_and(|due| due <= now) {
            self.out.stats.sessions_expired += 1;
            self.end_session(session);
            return;
        }
        if let Some((will, _)) = looked_at.will.take_if(|(_, due)| *due <= now) {
            self.route(Some(session), will.message, None);
        }
        self.arm(session);
    }

    /// Sees to it that a session is looked at in time. A timer that turns out to be early does no harm.
    fn arm(&mut self, session: u32) {
        let armed = &mut self.sessions[session as usize];
        let Some(due) = armed.deadline() else {
            return;
        };
        if armed.timer.is_some_and(|timer| timer <= due) {
            return;
        }
        if let Some(timer) = armed.timer.replace(due) {
            self.timers.remove(&(timer, session));
        }
        self.timers.insert((due, session));
    }

    // PUBLISH.

    fn on_publish(&mut self, client: ClientKey, session: u32, packet_id: u16, message: Message) {
        self.out.stats.publish_received += 1;
        self.out.stats.bytes_received += message.payload.len() as u64;
        let qos = message.qos;
        if qos > QoS::AtMostOnce && packet_id == 0 {
            // MQTT-2.2.1-3
            return self.end(client, reason::PROTOCOL_ERROR);
        }
        if !is_topic_name(&message.topic) {
            // MQTT-3.3.2-2
            return self.end(client, reason::TOPIC_NAME_INVALID);
        }
        if qos == QoS::ExactlyOnce {
            // MQTT-4.3.3-10: it is the same message until PUBREL.
            let inbound = &self.sessions[session as usize].inbound;
            if let Some(withheld) = inbound.get(&packet_id) {
                match withheld.and_then(|number| self.pending.get_mut(&number)) {
                    Some(pending) => pending.client = client,
                    None => self.answer(client, packet_id, qos, reason::SUCCESS),
                }
                return;
            }
            if inbound.len() >= INBOUND_MAX {
                return self.end(client, reason::RECEIVE_MAXIMUM_EXCEEDED);
            }
        }
        if is_sys(&message.topic) {
            // Not forwarded (§4.7.2); mosquitto answers alike.
            return self.answer(client, packet_id, qos, reason::NOT_AUTHORIZED);
        }
        let publisher = (qos > QoS::AtMostOnce).then_some((client, packet_id));
        let published = self.route(Some(session), message, publisher);
        // Routing a message ends no connection, so the session is still the client's.
        let withheld = match published {
            Published::Settled(reason) => {
                self.answer(client, packet_id, qos, reason);
                None
            }
            Published::Withheld(number) => Some(number),
            Published::Refused => {
                self.out.stats.refused_full += 1;
                return self.answer(client, packet_id, qos, reason::QUOTA_EXCEEDED);
            }
        };
        if qos == QoS::ExactlyOnce {
            self.sessions[session as usize]
                .inbound
                .insert(packet_id, withheld);
        }
    }

    /// Gives a message to all who subscribe to its topic, and keeps it if it is to be retained. With a `publisher`,
    /// who waits for an acknowledgement, it is all or nothing. This is where a message is settled: when all sessions
    /// have taken it.
    fn route(
        &mut self,
        from: Option<u32>,
        message: Message,
        publisher: Option<(ClientKey, u16)>,
    ) -> Published {
        let now = self.now;
        let expires = message
            .expiry
            .map(|seconds| now + Duration::from_secs(seconds.into()));
        let message = Arc::new(message);
        let size = message.size();
        let mut targets = core::mem::take(&mut self.targets);
        self.find_targets(from, &message, size, &mut targets);

        // What the gateway has stored it may have promised: who has no room for it gets it later.
        let refused = publisher.is_some()
            && !message.is_stored()
            && targets.iter().any(|target| {
                target.qos > QoS::AtMostOnce && self.sessions[target.session as usize].refuses(size)
            });
        if refused {
            targets.clear();
            self.targets = targets;
            return Published::Refused;
        }
        if message.retain {
            self.retain(&message, expires);
        }

        let nobody = targets.is_empty();
        self.go_on(&message, &mut targets);
        let number = self.next_pending;
        let mut waits_for = 0;
        for target in targets.drain(..) {
            let session = target.session;
            let taken = self.offer(session, target.entry(&message, expires), publisher.is_some());
            // Not by the publisher's own session: what makes room there, its acknowledgements, may stand behind more
            // publishes, which are not read while too many are unacknowledged.
            let waits = publisher.is_some() && from != Some(session);
            if taken == Taken::Withheld && waits {
                self.sessions[session as usize].withheld.push(number);
                waits_for += 1;
            }
        }
        self.targets = targets;

        match publisher {
            Some((client, packet_id)) if waits_for > 0 => {
                self.next_pending += 1;
                self.pending.insert(
                    number,
                    Pending {
                        client,
                        packet_id,
                        qos: message.qos,
                        sessions: waits_for,
                    },
                );
                Published::Withheld(number)
            }
            _ if nobody => Published::Settled(reason::NO_MATCHING_SUBSCRIBERS),
            _ => Published::Settled(reason::SUCCESS),
        }
    }

    fn find_targets(&mut self, from: Option<u32>, message: &Message, size: usize, targets: &mut Vec<Target>) {
        self.routed += 1;
        let Router {
            filters,
            sessions,
            routed,
            ..
        } = self;
        filters.matching(&message.topic, |found| match found {
            // MQTT-3.8.3-3
            Match::Subscriber(subscriber) if subscriber.no_local && from == Some(subscriber.session) => {}
            Match::Subscriber(subscriber) => {
                let mark = sessions[subscriber.session as usize].mark(*routed);
                if let Some(at) = mark.target {
                    targets[at].merge(subscriber);
                } else {
                    mark.target = Some(targets.len());
                    mark.copies += 1;
                    targets.push(Target::new(subscriber, None));
                }
            }
            Match::Group(group) => {
                let filter = group.filter.clone();
                let fitness = |member: &Subscriber| sessions[member.session as usize].fitness(size);
                if let Some(member) = group.choose(Fitness::Full, fitness) {
                    sessions[member.session as usize].mark(*routed).copies += 1;
                    targets.push(Target::new(member, Some(filter)));
                }
            }
        });
    }

    /// The sessions that took a message of the gateway in an earlier life are not sent it again; PUBREL is due.
    fn go_on(&mut self, message: &Message, targets: &mut Vec<Target>) {
        let Some((exact, receipt)) = message.exact().zip(message.receipt.as_ref()) else {
            return;
        };
        for number in exact.taken() {
            let Some(session) = self.restored.get(&number).copied() else {
                continue;
            };
            let known = self.sessions.get_mut(session as usize);
            let kept = |session: &Session| session.kept.is_some_and(|kept| kept.number() == number);
            let Some(known) = known.filter(|session| kept(session)) else {
                continue;
            };
            known.go_on(exact.packet_id(), receipt.clone());
            targets.retain(|target| target.session != session || target.share.is_some());
            self.pump(session);
        }
    }

    fn retain(&mut self, message: &Arc<Message>, expires: Option<Instant>) {
        // What is retained is nobody's yet.
        let kept = match message.is_stored() {
            true => &Arc::new(Message {
                receipt: None,
                ..Message::clone(message)
            }),
            false => message,
        };
        if self.retained.set(self.now, kept, expires).is_err() {
            if self.out.stats.dropped_retained == 0 {
                tracing::warn!(
                    target: "broker", topic = %message.topic,
                    retained = self.retained.len(),
                    "too many retained messages: those on new topics are delivered but not kept"
                );
            }
            self.out.stats.dropped_retained += 1;
        }
        self.out.stats.retained = self.retained.len();
    }

    fn offer(&mut self, session: u32, entry: Entry, promised: bool) -> Taken {
        let taken =
            self.sessions[session as usize].offer(self.now, entry, promised, &self.retained, &mut self.out);
        match taken {
            Taken::Withheld => self.arm(session),
            Taken::Settled => self.relieve(session),
        }
        taken
    }

    /// Gives a message of a shared subscription to another member.
    fn share(&mut self, mut entry: Entry, least: Fitness) -> Result<(), Entry> {
        let Router {
            filters, sessions, ..
        } = self;
        let size = entry.message.size();
        let filter = entry.share.as_deref().and_then(Filter::parse);
        let group = filter.and_then(|filter| filters.group(&filter));
        let member = group
            .and_then(|group| group.choose(least, |member| sessions[member.session as usize].fitness(size)));
        let Some(member) = member else {
            return Err(entry);
        };
        entry.qos = entry.message.qos.min(member.qos);
        entry.retain = entry.message.retain && member.retain_as_published;
        entry.ids = member.id.into_iter().collect();
        entry.held_over = false;
        let session = member.session;
        self.offer(session, entry, false);
        Ok(())
    }

    /// PUBACK or PUBREC for a publish; nothing with QoS 0.
    fn answer(&mut self, client: ClientKey, packet_id: u16, qos: QoS, reason: u8) {
        if self.session_of(client).is_none() {
            return;
        }
        match qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.out.push(client, Reply::PubAck { packet_id, reason }),
            QoS::ExactlyOnce => self.out.push(client, Reply::PubRec { packet_id, reason }),
        }
    }

    fn on_pubrel(&mut self, client: ClientKey, session: u32, packet_id: u16) {
        let reason = match self.sessions[session as usize].inbound.remove(&packet_id) {
            Some(withheld) => {
                if let Some(number) = withheld {
                    self.pending.remove(&number);
                }
                reason::SUCCESS
            }
            None => reason::PACKET_ID_NOT_FOUND,
        };
        self.out.push(client, Reply::PubComp { packet_id, reason });
    }

    /// A client's word on something in flight to it.
    fn acknowledged(&mut self, client: ClientKey, session: u32, result: Result<(), ProtocolError>) {
        match result {
            Ok(()) => self.pump(session),
            Err(ProtocolError) => self.end(client, reason::PROTOCOL_ERROR),
        }
    }

    fn pump(&mut self, session: u32) {
        self.sessions[session as usize].pump(self.now, &self.retained, &mut self.out);
        self.relieve(session);
    }

    /// Acknowledges what waited for this session, if it is within its bound.
    fn relieve(&mut self, session: u32) {
        if self.sessions[session as usize].is_relieved() {
            self.release(session);
        }
    }

    /// Acknowledges what waited for this session.
    fn release(&mut self, session: u32) {
        for number in core::mem::take(&mut self.sessions[session as usize].withheld) {
            let Some(pending) = self.pending.get_mut(&number) else {
                continue;
            };
            pending.sessions -= 1;
            if pending.sessions == 0
                && let Some(pending) = self.pending.remove(&number)
            {
                self.answer(pending.client, pending.packet_id, pending.qos, reason::SUCCESS);
            }
        }
    }

    // SUBSCRIBE and UNSUBSCRIBE.

    fn on_subscribe(
        &mut self,
        client: ClientKey,
        session: u32,
        packet_id: u16,
        id: Option<u32>,
        filters: Vec<Subscription>,
    ) {
        // MQTT-3.8.3-2, MQTT-3.8.3-4
        let local_shared = |asked: &Subscription| asked.no_local && asked.filter.starts_with("$share/");
        if filters.is_empty() || filters.iter().any(local_shared) {
            return self.end(client, reason::PROTOCOL_ERROR);
        }
        let mut sys = Vec::new();
        let reasons = filters
            .iter()
            .map(|asked| match self.subscribe(session, id, asked, &mut sys) {
                Ok(granted) => granted as u8,
                Err(reason) => reason,
            })
            .collect();
        self.answer_when_kept(client, session, Reply::SubAck { packet_id, reasons });
        for entry in sys {
            self.offer(session, entry, false);
        }
        self.pump(session);
    }

    fn subscribe(
        &mut self,
        session: u32,
        id: Option<u32>,
        asked: &Subscription,
        sys: &mut Vec<Entry>,
    ) -> Result<QoS, u8> {
        let filter = Filter::parse(&asked.filter).ok_or(reason::TOPIC_FILTER_INVALID)?;
        let known = &mut self.sessions[session as usize];
        if !known.filters.iter().any(|known| **known == *filter.text) {
            if known.filters.len() >= self.limits.subscriptions_max {
                return Err(reason::QUOTA_EXCEEDED);
            }
            known.filters.push(filter.text.into());
        }
        let subscriber = Subscriber {
            session,
            qos: asked.qos,
            no_local: asked.no_local,
            retain_as_published: asked.retain_as_published,
            id,
        };
        let earlier = self.filters.subscribe(&filter, subscriber.clone());
        if earlier.as_ref() != Some(&subscriber) {
            self.changed(session);
        }
        let existed = earlier.is_some();
        if !existed {
            self.count_subscription(&filter, true);
        }
        let wanted = match asked.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => !existed,
            RetainHandling::DoNotSend => false,
        };
        // §4.8.2: none for shared subscriptions.
        if wanted && !filter.shared {
            if is_sys(filter.pattern) {
                sys.extend(self.sys_values(&filter, &subscriber));
            } else {
                self.sessions[session as usize].want_retained(&filter, &subscriber);
            }
        }
        Ok(asked.qos)
    }

    fn on_unsubscribe(&mut self, client: ClientKey, session: u32, packet_id: u16, filters: &[String]) {
        if filters.is_empty() {
            // MQTT-3.10.3-2
            return self.end(client, reason::PROTOCOL_ERROR);
        }
        let reasons = filters
            .iter()
            .map(|filter| self.unsubscribe(session, filter))
            .collect();
        self.answer_when_kept(client, session, Reply::UnsubAck { packet_id, reasons });
    }

    fn unsubscribe(&mut self, session: u32, filter: &str) -> u8 {
        let Some(filter) = Filter::parse(filter) else {
            return reason::TOPIC_FILTER_INVALID;
        };
        if !self.filters.unsubscribe(&filter, session) {
            return reason::NO_SUBSCRIPTION_EXISTED;
        }
        self.count_subscription(&filter, false);
        let known = &mut self.sessions[session as usize];
        known.filters.retain(|known| **known != *filter.text);
        known.forget_retained(filter.text);
        self.changed(session);
        reason::SUCCESS
    }

    fn count_subscription(&mut self, filter: &Filter<'_>, new: bool) {
        let stats = &mut self.out.stats;
        if new {
            stats.subscriptions += 1;
            stats.shared_subscriptions += usize::from(filter.shared);
        } else {
            stats.subscriptions -= 1;
            stats.shared_subscriptions -= usize::from(filter.shared);
        }
        // Published only while someone listens.
        if self.filters.sys == 0 {
            self.sys_due = None;
        } else if self.sys_due.is_none() {
            self.sys_due = Some(self.now + sys::INTERVAL);
            self.sys_last.clear();
        }
    }

    // Sessions in the store.

    /// From now on sessions that outlive their connection are kept; those of an earlier life go on, and expire as if
    /// their connections ended now.
    pub(crate) fn keep_sessions(&mut self, now: Instant, mut values: Vec<(StoreKey, Bytes)>) {
        self.advance(now);
        self.keeper.start();
        // The later ones first: of two under one client id the deletion of the earlier was not written.
        values.sort_unstable_by_key(|(key, _)| core::cmp::Reverse(key.id));
        let mut unreadable = 0;
        for (StoreKey { id: number, .. }, value) in values {
            self.keeper.used(number);
            let record = SessionRecord::decode(&value);
            let known = |record: &SessionRecord| self.by_id.contains_key(&record.client_id);
            match record {
                Some(record) if known(&record) => self.keeper.forget(number),
                Some(record) if self.sessions.len() < self.limits.sessions_max => {
                    self.restore(number, record);
                }
                Some(_) | None => {
                    unreadable += 1;
                    self.keeper.forget(number);
                }
            }
        }
        if unreadable > 0 {
            self.out.stats.sessions_not_restored += unreadable;
            tracing::warn!(
                target: "broker", sessions = unreadable,
                "sessions of before the restart dropped: unreadable, or more than may be"
            );
        }
    }

    fn restore(&mut self, number: u64, record: SessionRecord) {
        let session = self.new_session(&record.client_id, false);
        let kept = self.keeper.resume(number, record.expiry);
        self.restored.insert(number, session);
        for subscription in record.subscriptions.iter().take(self.limits.subscriptions_max) {
            let Some(filter) = Filter::parse(&subscription.filter) else {
                continue;
            };
            let subscriber = Subscriber {
                session,
                qos: subscription.qos,
                no_local: subscription.no_local,
                retain_as_published: subscription.retain_as_published,
                id: subscription.id,
            };
            if self.filters.subscribe(&filter, subscriber).is_none() {
                self.sessions[session as usize].filters.push(filter.text.into());
                self.count_subscription(&filter, true);
            }
        }
        let restored = &mut self.sessions[session as usize];
        restored.kept = Some(kept);
        restored.restored(self.now);
        restored.expire_after(self.now, record.expiry);
        self.arm(session);
    }

    /// What to write to the store, under the number to call [`Router::on_durable`] with. `None` while something is being
    /// written.
    pub(crate) fn poll_changes(&mut self) -> Option<(u64, Vec<StoreChange>)> {
        let changed = self.keeper.begin_batch()?;
        Some((self.keeper.batch(), self.changes(changed)))
    }

    /// What is not written yet, whatever is being written: the last there is.
    pub(crate) fn last_changes(&mut self) -> Vec<StoreChange> {
        let changed = self.keeper.begin_last_batch();
        self.changes(changed)
    }

    /// These changes are in the store.
    pub(crate) fn on_durable(&mut self, number: u64) {
        self.keeper.on_durable(number);
        self.answer_kept();
    }

    fn changes(&mut self, batch: Batch) -> Vec<StoreChange> {
        let Router {
            sessions,
            filters,
            out,
            ..
        } = self;
        let change = |(number, session): (u64, Option<u32>)| {
            let Some(session) = session else {
                return StoreChange::Delete(key(number));
            };
            let record = record(filters, session, &sessions[session as usize]);
            let kept = sessions[session as usize].kept.as_mut();
            match kept.and_then(|kept| kept.put(&record)) {
                Some(put) => put,
                None => {
                    out.stats.sessions_not_kept += 1;
                    tracing::warn!(
                        target: "broker", client = %record.client_id,
                        "session has too many subscriptions to be kept over a restart"
                    );
                    StoreChange::Delete(key(number))
                }
            }
        };
        let sessions = batch.sessions.into_iter().map(change);
        sessions.chain(batch.messages).collect()
    }

    /// A session outlives its connection by that many seconds.
    fn keep(&mut self, session: u32, expiry: u32) {
        let Router { sessions, keeper, .. } = self;
        let known = &mut sessions[session as usize];
        if !keeper.is_on() || known.local {
            return;
        }
        match &mut known.kept {
            Some(kept) if kept.expiry == expiry => {}
            Some(kept) if expiry > 0 => {
                kept.expiry = expiry;
                keeper.change(session, kept);
            }
            Some(kept) => {
                keeper.end(*kept);
                known.kept = None;
            }
            None if expiry > 0 => known.kept = Some(keeper.begin(session, expiry)),
            None => {}
        }
    }

    /// A session's subscriptions changed.
    fn changed(&mut self, session: u32) {
        if let Some(kept) = &mut self.sessions[session as usize].kept {
            self.keeper.change(session, kept);
        }
    }

    /// Answers what changed a session, when that will survive.
    fn answer_when_kept(&mut self, client: ClientKey, session: u32, reply: Reply) {
        let kept = self.sessions[session as usize].kept.as_ref();
        match self.keeper.wait(self.now, kept, client, reply) {
            Some(reply) => self.out.push(client, reply),
            None => self.answer_kept(),
        }
    }

    fn answer_kept(&mut self) {
        while let Some((client, reply)) = self.keeper.next_answer(self.now) {
            if self.session_of(client).is_some() {
                self.out.push(client, reply);
            }
        }
        while let Some((batch, sessions)) = self.keeper.next_releasing(self.now) {
            for session in sessions {
                if let Some(session) = self.sessions.get_mut(session as usize) {
                    session.release(batch, &mut self.out);
                }
            }
        }
    }

    // $SYS.

    /// The values of this moment for a new subscription.
    fn sys_values(&self, filter: &Filter<'_>, subscriber: &Subscriber) -> Vec<Entry> {
        let values = sys::values(self.now, self.stats()).into_iter();
        let matching = values.filter(|(topic, _)| filter.matches(topic));
        let entry = |(topic, value)| Entry {
            message: Arc::new(sys_message(topic, value)),
            qos: QoS::AtMostOnce,
            retain: true,
            ids: subscriber.id.into_iter().collect(),
            expires: None,
            share: None,
            held_over: false,
        };
        matching.map(entry).collect()
    }

    /// Publishes the values that changed.
    fn publish_sys(&mut self) {
        self.sys_due = Some(self.now + sys::INTERVAL);
        let values = sys::values(self.now, self.stats());
        let last = core::mem::replace(&mut self.sys_last, values.clone());
        for (at, (topic, value)) in values.into_iter().enumerate() {
            if last.get(at).is_none_or(|(_, last)| *last != value) {
                self.route(None, sys_message(topic, value), None);
            }
        }
    }
}

/// What is to be written of a session.
fn record(filters: &Filters, number: u32, session: &Session) -> SessionRecord {
    let subscription = |text: &str| {
        let subscriber = filters.get(&Filter::parse(text)?, number)?;
        Some(KeptSubscription {
            filter: text.into(),
            qos: subscriber.qos,
            no_local: subscriber.no_local,
            retain_as_published: subscriber.retain_as_published,
            id: subscriber.id,
        })
    };
    SessionRecord {
        client_id: session.client_id.clone(),
        expiry: session.kept.map_or(0, |kept| kept.expiry),
        subscriptions: session
            .filters
            .iter()
            .filter_map(|text| subscription(text))
            .collect(),
    }
}

fn sys_message(topic: &str, value: String) -> Message {
    Message {
        topic: topic.into(),
        payload: Bytes::from(value),
        qos: QoS::AtMostOnce,
        retain: false,
        expiry: None,
        properties: None,
        receipt: None,
    }
}
