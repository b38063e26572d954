//! What is asked of the broker, from when it is wanted until it is settled, and who waits for it.

use std::sync::Arc;

use bytes::Bytes;
use slab::Slab;
use sn_codec::{MsgId, QoS};

use crate::clients::ClientIx;
use crate::io::{ConnId, FilterId, Token};
use crate::subscriptions::FilterKey;
use crate::time::Instant;

#[derive(Debug)]
pub(super) struct Request {
    pub(super) generation: u32,
    /// A subscription that must stand again before anything is published.
    pub(super) restores: bool,
    /// How often the connection broke with it under way.
    pub(super) breaks: u8,
    pub(super) kind: RequestKind,
}

#[derive(Debug)]
pub(super) enum RequestKind {
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

pub(super) fn seq_of(requests: &Slab<Request>, key: usize) -> u64 {
    match &requests[key].kind {
        RequestKind::Publish { seq, .. } => *seq,
        _ => 0,
    }
}

pub(super) fn waits_for_disk(requests: &Slab<Request>, key: usize) -> bool {
    let kind = requests.get(key).map(|request| &request.kind);
    matches!(kind, Some(RequestKind::Subscribe { ready: false, .. }))
}

pub(super) fn token(generation: u32, key: usize) -> Token {
    Token(u64::from(generation) << 32 | key as u64)
}
