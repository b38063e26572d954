//! Counters and gauges, as plain numbers.

use sn_codec::{ErrorKind, MsgType};

use crate::io::ForwarderRefusal;

/// Declares the struct of counters together with the names they are exported under.
macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $field:ident,)+) => {
        /// What the gateway counted since its start. Each field is exported as `snipe_` and its name.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Metrics {
            $($(#[doc = $doc])+ pub $field: u64,)+
            /// Refused datagrams by [`ErrorKind`], indexed by `kind as usize`.
            pub malformed: [u64; ErrorKind::ALL.len()],
            /// Frames of forwarders dropped, and nodes refused, by [`ForwarderRefusal`], indexed by `reason as usize`.
            pub forwarder_refused: [u64; ForwarderRefusal::ALL.len()],
            /// Stored messages dropped before the broker had them, by [`SpoolDrop`], indexed by `reason as usize`.
            pub spool_dropped: [u64; SpoolDrop::ALL.len()],
            /// Datagrams received by message type octet.
            pub received: [u64; 0x1E],
            /// Datagrams sent by message type octet.
            pub sent: [u64; 0x1E],
        }

        impl Default for Metrics {
            fn default() -> Self {
                Metrics {
                    $($field: 0,)+
                    malformed: [0; ErrorKind::ALL.len()],
                    forwarder_refused: [0; ForwarderRefusal::ALL.len()],
                    spool_dropped: [0; SpoolDrop::ALL.len()],
                    received: [0; 0x1E],
                    sent: [0; 0x1E],
                }
            }
        }

        impl Metrics {
            fn plain_rows(&self) -> Vec<(String, u64)> {
                vec![$((concat!("snipe_", stringify!($field)).to_owned(), self.$field),)+]
            }
        }
    };
}

metrics! {
    /// Clients connected and not asleep.
    clients_active,
    /// Clients asleep.
    clients_asleep,
    /// Clients awake for their messages.
    clients_awake,
    /// Clients within a will handshake.
    clients_connecting,
    /// Clients that said goodbye and whose session is kept.
    clients_disconnected,
    /// Clients that were silent for too long and whose session is kept.
    clients_lost,
    /// Client records: all of these together.
    clients,
    /// CONNECTs accepted.
    connects_accepted_total,
    /// CONNECTs answered with congestion.
    connects_congestion_total,
    /// CONNECTs answered with "not supported".
    connects_refused_total,
    /// Clients that took their id to another address.
    takeovers_total,
    /// Takeovers refused: the client answers at its old address, or may not move.
    takeovers_refused_total,
    /// Clients lost: silent beyond their keep-alive or sleep.
    lost_total,
    /// Wills handed to the broker.
    wills_published_total,
    /// Publishes of QoS −1 and 0 handed to the broker.
    publish_up_qos0_total,
    /// Publishes of QoS 1 handed to the broker.
    publish_up_qos1_total,
    /// Publishes of QoS 2 handed to the broker.
    publish_up_qos2_total,
    /// Publishes that the broker acknowledged.
    publish_settled_total,
    /// Publishes that the broker refused.
    publish_refused_total,
    /// Publishes that the broker refused for now after their clients had their answers, each time: they are sent again.
    publish_postponed_total,
    /// Publishes of clients answered with congestion.
    publish_congestion_total,
    /// Publishes of clients with an unknown topic id.
    publish_unknown_topic_total,
    /// QoS 0 and −1 publishes dropped: broker away, queue full, rate exceeded, or not allowed.
    publish_dropped_total,
    /// Publishes and requests recognised as repeats and not carried out again.
    duplicates_suppressed_total,
    /// Sessions restored at the start.
    sessions_restored_total,
    /// Publishes answered because they were stored, before the broker had them.
    publish_spooled_total,
    /// Messages stored until the broker has them.
    spool_messages,
    /// Octets of topic and payload of those.
    spool_bytes,
    /// How long the spooled message that waits longest has waited, in seconds.
    spool_oldest_seconds,
    /// Publishes that wait for a place towards the broker.
    queue_messages,
    /// Octets of topic and payload of those.
    queue_bytes,
    /// Publishes handed to the broker and not yet acknowledged.
    in_flight,
    /// Messages taken from the broker.
    messages_total,
    /// Messages from the broker that matched no client.
    messages_unmatched_total,
    /// Messages delivered to clients.
    delivered_total,
    /// Messages for clients dropped: buffer full, the client's own or that of all together.
    buffer_dropped_total,
    /// Messages for clients dropped: they waited longer than `max_age`.
    buffer_expired_total,
    /// QoS 0 messages for sleeping clients dropped: a later one of the same topic came.
    buffer_superseded_total,
    /// QoS 0 messages dropped: their client is away, or asleep and not to be given any.
    buffer_qos0_dropped_total,
    /// Messages for clients dropped: the session they waited in ended.
    buffer_cleared_total,
    /// Messages for clients dropped: larger than the link carries (§6.10).
    too_large_total,
    /// Messages for clients dropped: the client refused them or their topic.
    rejected_by_client_total,
    /// Messages for clients dropped: never acknowledged in many rounds (reading A60).
    poison_total,
    /// Messages that wait for clients.
    buffer_messages,
    /// Octets of topic and payload of those.
    buffer_bytes,
    /// Datagrams repeated by the gateway.
    retransmissions_total,
    /// Acknowledgements accepted although their ids are byte-swapped (reading A64).
    swapped_acks_total,
    /// Messages that have no meaning in the state their sender is in.
    unexpected_total,
    /// Messages from peers without a session.
    unknown_sender_total,
    /// Answers withheld because a rate limit was reached.
    rate_limited_total,
    /// ADVERTISEs and GWINFOs of other gateways.
    gateways_heard_total,
    /// Searches that were left to the gateway in whose place this one stands ready.
    stand_by_searches_total,
    /// ADVERTISEs and GWINFOs of others that carry our gateway id.
    same_gateway_id_total,
    /// Subscriptions held at the broker.
    filters,
    /// 1 while all the connections are up that clients share, else 0.
    broker_up,
    /// Connections to the broker that are up.
    broker_connections_up,
    /// Connections to the broker that were lost.
    broker_down_total,
}

/// Why a message that waited on disk for the broker was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SpoolDrop {
    /// There was no room for a newer one.
    Full,
    /// It waited for too long.
    Age,
    /// A person said so.
    Command,
    /// The broker refused it after its client had its answer.
    Refused,
}

impl SpoolDrop {
    /// Every reason, in declaration order: `reason as usize` is its index here.
    pub const ALL: [SpoolDrop; 4] = [
        SpoolDrop::Full,
        SpoolDrop::Age,
        SpoolDrop::Command,
        SpoolDrop::Refused,
    ];

    /// The stable name used in counters.
    pub fn name(self) -> &'static str {
        match self {
            SpoolDrop::Full => "full",
            SpoolDrop::Age => "age",
            SpoolDrop::Command => "command",
            SpoolDrop::Refused => "refused",
        }
    }
}

impl Metrics {
    /// Every counter with its exported name, in a fixed order; message types that never occurred are left out.
    pub fn rows(&self) -> Vec<(String, u64)> {
        let mut rows = self.plain_rows();
        for kind in ErrorKind::ALL {
            let name = format!("snipe_malformed_total{{reason=\"{}\"}}", kind.name());
            rows.push((name, self.malformed[kind as usize]));
        }
        for reason in ForwarderRefusal::ALL {
            let name = format!("snipe_forwarder_refused_total{{reason=\"{}\"}}", reason.name());
            rows.push((name, self.forwarder_refused[reason as usize]));
        }
        for reason in SpoolDrop::ALL {
            let name = format!("snipe_spool_dropped_total{{reason=\"{}\"}}", reason.name());
            rows.push((name, self.spool_dropped[reason as usize]));
        }
        for (direction, counts) in [("rx", &self.received), ("tx", &self.sent)] {
            for (code, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                rows.push((
                    format!("snipe_packets_total{{direction=\"{direction}\",type=\"0x{code:02x}\"}}"),
                    *count,
                ));
            }
        }
        rows
    }

    pub(crate) fn count_sent(&mut self, msg_type: MsgType) {
        if let Some(count) = self.sent.get_mut(msg_type as usize) {
            *count += 1;
        }
    }

    pub(crate) fn count_received(&mut self, msg_type: MsgType) {
        if let Some(count) = self.received.get_mut(msg_type as usize) {
            *count += 1;
        }
    }
}
