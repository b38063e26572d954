//! What the broker counts.

/// What happened so far and what is held now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Clients connected now, the gateway's own connections included.
    pub clients_connected: usize,
    /// The most there were.
    pub clients_maximum: usize,
    /// Sessions now, connected or not.
    pub sessions: usize,
    /// Sessions that ended because their client did not come back in time.
    pub sessions_expired: u64,
    /// Connections ended because their clients took messages too slowly.
    pub clients_too_slow: u64,
    /// Subscriptions now.
    pub subscriptions: usize,
    /// Of these, shared ones.
    pub shared_subscriptions: usize,
    /// Retained messages now.
    pub retained: usize,
    /// Packets of any type.
    pub packets_received: u64,
    /// Packets of any type.
    pub packets_sent: u64,
    /// PUBLISH of clients.
    pub publish_received: u64,
    /// Octets of their payload.
    pub bytes_received: u64,
    /// PUBLISH to clients.
    pub publish_sent: u64,
    /// PUBLISH of clients refused because a subscriber had no place even beyond its bound.
    pub refused_full: u64,
    /// QoS 0 messages for a client whose queue was full.
    pub dropped_qos0: u64,
    /// QoS 1 and 2 messages that nobody could be told about, wills mostly, for a connected client without any place, or one
    /// that lost its connection a moment ago.
    pub dropped_full: u64,
    /// QoS 1 and 2 messages for a client whose queue was full and that disconnected, or lost its connection a while ago.
    pub dropped_offline: u64,
    /// QoS 0 messages that waited for a client when its connection ended.
    pub dropped_disconnected: u64,
    /// Messages that expired before they could be sent.
    pub dropped_expired: u64,
    /// Messages larger than their client takes.
    pub dropped_too_large: u64,
    /// Messages not retained because there are too many already.
    pub dropped_retained: u64,
    /// Messages of a shared subscription whose last member's session ended.
    pub dropped_unshared: u64,
    /// Messages of the gateway taken beyond the bound of a queue whose client is away, since they stay in its store.
    pub held_over: u64,
    /// Sessions of an earlier life that could not be read, or were too many.
    pub sessions_not_restored: u64,
    /// Changes of sessions that are too long to be kept over a restart.
    pub sessions_not_kept: u64,
}

impl Stats {
    /// Messages that did not reach a client they were for.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped_qos0
            + self.dropped_full
            + self.dropped_offline
            + self.dropped_disconnected
            + self.dropped_expired
            + self.dropped_too_large
            + self.dropped_unshared
    }
}
