//! The policy file: how clients share the connections to the broker.
//!
//! Aggregating (reading A83): all clients share a few connections; a client always publishes on the same one, so its
//! order holds, and all subscriptions live on the first, so nothing arrives twice. Every request waits here until its
//! connection has credit, and every QoS 1 or 2 publish stays here until the broker settled it, so that it can be sent
//! again.
//!
//! With [`Durability`](crate::config::Durability) what the broker cannot take now is stored (*spooled*), and its client
//! answered once that is durable. A connection has two lanes that take turns: what was spooled and not yet sent, and
//! what is new. A client with messages in the first lane adds to it, so that its order holds; what the broker refuses
//! for now waits there too ([`backlog`]). QoS 2 has a connection of its own then, opened when it is needed, since each
//! of its steps waits for the disk.
//!
//! A request ([`request`]) comes in by [`admission`], [`subscribing`] or [`restored`], stands in a lane ([`lanes`]) of
//! its [`connection`], leaves by [`sending`] and ends by [`settling`].

mod admission;
mod backlog;
mod connection;
mod lanes;
mod later;
mod quarantine;
mod request;
mod restored;
mod sending;
mod settling;
pub(crate) mod spooled;
mod subscribing;
mod unsettled;
mod untold;

use std::collections::{BTreeMap, VecDeque};

use rustc_hash::FxHashMap;
use slab::Slab;
use sn_codec::QoS;

use crate::config::{Limits, UpstreamConfig, WhenDown};
use crate::io::{BrokerRequest, ConnId, ConnectOptions, Token};
use crate::limiter::Seldom;
use crate::metrics::{Metrics, SpoolDrop};
use crate::subscriptions::FilterKey;
pub(crate) use crate::upstream::admission::Full;
use crate::upstream::connection::Connection;
pub(crate) use crate::upstream::request::{Author, Origin, Settled, Uplink};
use crate::upstream::request::{Request, RequestKind, token};
use crate::upstream::untold::Untold;

/// The connection that carries all subscriptions.
pub(crate) const SUBSCRIPTIONS: ConnId = ConnId(0);

/// All connections to the broker and what waits for them.
#[derive(Debug)]
pub(crate) struct Upstream {
    connections: Vec<Connection>,
    /// Connections that clients share.
    shared: u32,
    /// The connection for QoS 2 where that is to survive, the last one, is there and not opened yet.
    exact_unopened: bool,
    /// How each connection is opened anew. That for QoS 2 has what is restored here until it is opened.
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
    /// For notices about a full spool.
    full: Seldom,
    /// Subscriptions under way since the broker came back: what waited is published after them, so that it reaches
    /// the clients that are subscribed to it.
    restoring: usize,
    /// Opens and closes, which need no credit.
    pub(crate) control: VecDeque<BrokerRequest>,
}

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
        let options: Vec<ConnectOptions> = shared.chain(exact).collect();
        Upstream {
            connections: (0..count + u32::from(durable))
                .map(|_| Connection::new())
                .collect(),
            shared: count,
            exact_unopened: durable,
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
            full: Seldom::new(admission::FULL),
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

    /// The number of a connection that is none of these.
    pub(crate) fn spare_connection(&self) -> ConnId {
        ConnId(self.connections.len() as u32)
    }

    /// Connections that are open, whether they work or not.
    pub(crate) fn opened(&self) -> u64 {
        self.connections.len() as u64 - u64::from(self.exact_unopened)
    }

    /// Publishes wait although their connection works and the broker takes them.
    pub(crate) fn is_busy(&self) -> bool {
        let waits =
            |connection: &Connection| !connection.waiting.is_empty() || connection.backlog.wants_to_leave();
        self.connections
            .iter()
            .any(|connection| connection.up && waits(connection))
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
        self.exact_unopened = false;
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
}
