//! Sessions, subscriptions and retained messages: the broker without I/O.
//!
//! Inputs and outputs are here. What a packet of a client does is in the file of its kind: [`connect`], [`publish`],
//! [`subscribe`]; who is answered for a publish, and when, in [`settle`]. [`keep`] is the sessions in the store.

mod connect;
mod keep;
mod publish;
mod settle;
mod subscribe;
mod sys_topics;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use gateway_core::time::Instant;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rustc_hash::FxHashMap;
use slab::Slab;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use self::connect::Client;
use self::publish::Target;
use self::settle::Pending;
use super::EmbeddedLimits;
use super::awaited::Ended;
use super::filters::Filters;
use super::kept::Keeper;
use super::packet::{ClientKey, Connect, Received, Reply, reason};
use super::retained::Retained;
use super::session::{Outbox, Session};
use super::stats::Stats;

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
    /// For copies that the gateway is to acknowledge.
    end: UnboundedSender<Ended>,
    ended: UnboundedReceiver<Ended>,
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

impl Router {
    /// A router without clients. The same seed and inputs bring the same outputs.
    pub(crate) fn new(limits: RouterLimits, seed: u64) -> Self {
        let (end, ended) = unbounded_channel();
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
            end,
            ended,
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
        self.answer_ended();
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
}
