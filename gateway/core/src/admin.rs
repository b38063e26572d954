//! Questions a person asks of a running gateway.

use core::time::Duration;
use std::sync::Arc;

use bytes::Bytes;
use sn_codec::QoS;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminCommand {
    /// The topic registry, at most `limit` rows after skipping `offset`.
    Topics {
        /// Rows to skip.
        offset: usize,
        /// Rows to return, at most 1,000.
        limit: usize,
    },
    /// Counters and gauges by exported name.
    Metrics,
    /// Messages that are stored until the broker has them, at most `limit` rows.
    Spool {
        /// Only those with a higher number.
        after: u64,
        /// Rows to return, at most 1,000.
        limit: usize,
    },
    /// Drop messages of the spool.
    SpoolDrop {
        /// This one; `None` is all of them.
        id: Option<u64>,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminReply {
    /// Rows of the topic registry, and whether there are more.
    Topics {
        /// The rows.
        rows: Vec<TopicRow>,
        /// More rows follow.
        more: bool,
    },
    /// Name and value, in a fixed order.
    Metrics(Vec<(String, u64)>),
    /// Rows of the spool, the lowest numbers first, and whether there are more.
    Spool {
        /// The rows.
        rows: Vec<SpoolRow>,
        /// More rows follow.
        more: bool,
    },
    /// So many messages were dropped.
    SpoolDropped(usize),
}

/// One message of the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolRow {
    /// Its number, by which the store knows it too.
    pub id: u64,
    /// Who sent it; `None` if that client is not known any more, or it was no client.
    pub client: Option<Arc<str>>,
    /// Full topic name.
    pub topic: Arc<str>,
    /// With which QoS it is published.
    pub qos: QoS,
    /// Retained or not.
    pub retain: bool,
    /// The payload.
    pub payload: Bytes,
    /// Time since it came.
    pub age: Duration,
    /// How far it is.
    pub state: SpoolState,
}

/// How far a message of the spool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SpoolState {
    /// It has not been sent to the broker, or not in its present session.
    Waiting,
    /// It was sent, and the broker has not answered.
    Sent,
    /// The broker inside the gateway has it, and not all its subscribers do.
    Held,
}

impl SpoolState {
    /// The stable name used in answers.
    pub fn name(self) -> &'static str {
        match self {
            SpoolState::Waiting => "waiting",
            SpoolState::Sent => "sent",
            SpoolState::Held => "held",
        }
    }
}

/// One row of the topic registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRow {
    /// The topic id.
    pub id: u16,
    /// `predefined` or `registered`.
    pub kind: &'static str,
    /// The client, or the pattern of the clients, it holds for; `*` for all.
    pub client: Arc<str>,
    /// The full topic name.
    pub topic: Arc<str>,
}
