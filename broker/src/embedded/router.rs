//! Sessions, subscriptions and retained messages: the broker without I/O.

use core::time::Duration;
use std::collections::VecDeque;

use gateway_core::time::Instant;

use super::EmbeddedLimits;
use super::packet::{Connect, Received, Reply};

/// How long a session may stay over its bound before its connection is ended.
pub(crate) const TOO_SLOW: Duration = Duration::from_secs(10);

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

/// One attachment of a client, from its CONNECT to its end. Inputs under a key that has ended are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ClientKey {
    /// Place in a table; reused.
    slot: u32,
    /// Never reused.
    serial: u64,
}

impl ClientKey {
    /// A small number that no other live key has, for tables indexed by it.
    pub(crate) fn slot(self) -> usize {
        self.slot as usize
    }
}

/// What happened so far and what is held now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    /// Clients connected now, the gateway's included.
    pub(crate) clients_connected: usize,
    /// Messages published by clients.
    pub(crate) messages_received: u64,
}

/// The broker's state; see the [module](super) for what it promises.
#[derive(Debug)]
pub(crate) struct Router {
    limits: RouterLimits,
    outputs: VecDeque<(ClientKey, Reply)>,
    stats: Stats,
}

impl Router {
    /// A router without clients. The same seed and inputs bring the same outputs.
    pub(crate) fn new(limits: RouterLimits, _seed: u64) -> Self {
        Router {
            limits,
            outputs: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    /// A client said CONNECT. Its CONNACK is the first output for the key.
    pub(crate) fn connect(&mut self, _now: Instant, _connect: Connect) -> ClientKey {
        ClientKey { slot: 0, serial: 0 }
    }

    /// A client said something.
    pub(crate) fn received(&mut self, _now: Instant, _client: ClientKey, _packet: Received) {}

    /// The connection takes that many more PUBLISH. It begins with none.
    pub(crate) fn credit(&mut self, _client: ClientKey, _packets: u32) {}

    /// The connection is gone without DISCONNECT.
    pub(crate) fn closed(&mut self, _now: Instant, _client: ClientKey) {}

    /// Ends all connections.
    pub(crate) fn shutdown(&mut self) {}

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, _now: Instant) {}

    /// When [`Router::handle_timeout`] is to be called next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// What is to be said to whom; call until `None` after each batch of inputs.
    pub(crate) fn poll_output(&mut self) -> Option<(ClientKey, Reply)> {
        self.outputs.pop_front()
    }

    pub(crate) fn stats(&self) -> &Stats {
        &self.stats
    }
}
