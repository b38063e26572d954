//! Questions a person asks of a running gateway.

use std::sync::Arc;

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
