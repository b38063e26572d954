//! What the router and its clients say to each other: MQTT without its wire format.
//!
//! A connection turns these into packets of its client's version and back; the gateway, a client in the same process,
//! turns them into the seam's requests and events. Topic aliases, PINGREQ, keep-alive and the packet's syntax stay with
//! the connection.

use std::sync::Arc;

use bytes::Bytes;
use sn_codec::QoS;

use super::exact::Exact;
use super::receipt::Receipt;

/// One attachment of a client, from its CONNECT to its end. Inputs under a key that has ended are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ClientKey {
    /// Place in a table; reused.
    pub(crate) slot: u32,
    /// Never reused.
    pub(crate) serial: u64,
}

impl ClientKey {
    /// A small number that no other live key has, for tables indexed by it. A key lives until its connection was
    /// reported closed, or its last reply was taken.
    pub(crate) fn slot(self) -> usize {
        self.slot as usize
    }
}

/// An application message, shared by all who get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// Topic name.
    pub(crate) topic: Arc<str>,
    pub(crate) payload: Bytes,
    /// As published.
    pub(crate) qos: QoS,
    /// As published.
    pub(crate) retain: bool,
    /// Seconds after which nobody wants it any more (MQTT 5 §3.3.2.3.3).
    pub(crate) expiry: Option<u32>,
    /// What MQTT 5 hands on unchanged.
    pub(crate) properties: Option<Box<Properties>>,
    /// Present if the gateway keeps it in its store until everybody has it.
    pub(crate) receipt: Option<Receipt>,
}

/// Properties of a message that the broker hands on unchanged (MQTT 5 §3.3.2.3).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Properties {
    /// Payload Format Indicator: 0 octets, 1 UTF-8.
    pub(crate) payload_format: Option<u8>,
    pub(crate) content_type: Option<String>,
    pub(crate) response_topic: Option<String>,
    pub(crate) correlation_data: Option<Bytes>,
    /// In the order given.
    pub(crate) user: Vec<(String, String)>,
}

impl Message {
    /// It stays in the gateway's store until everybody has it.
    pub(crate) fn is_stored(&self) -> bool {
        self.receipt.is_some()
    }

    /// How it reaches sessions once over a restart, if the gateway published it with QoS 2.
    pub(crate) fn exact(&self) -> Option<&Exact> {
        self.receipt.as_ref()?.exact()
    }

    /// Octets it counts in a queue: about those of memory it takes beyond a fixed part.
    pub(crate) fn size(&self) -> usize {
        self.topic.len() + self.payload.len() + self.properties.as_deref().map_or(0, Properties::size)
    }
}

impl Properties {
    fn size(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let user: usize = self
            .user
            .iter()
            .map(|pair| size_of_val(pair) + pair.0.len() + pair.1.len())
            .sum();
        text(&self.content_type)
            + text(&self.response_topic)
            + self.correlation_data.as_ref().map_or(0, Bytes::len)
            + user
    }
}

/// A CONNECT, with what its version leaves unsaid filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connect {
    /// Empty: the router gives it one. (The connection refuses it in 3.1.1 without clean session, MQTT-3.1.3-8.)
    pub(crate) client_id: String,
    /// Begin without an earlier session (clean session in 3.1.1).
    pub(crate) clean_start: bool,
    /// Seconds that the session outlives the connection; `u32::MAX` never ends (§3.1.2.11.2). 3.1.1: 0 with clean
    /// session, else `u32::MAX`.
    pub(crate) session_expiry: u32,
    /// QoS 1 and 2 messages the client takes unacknowledged; 65,535 in 3.1.1.
    pub(crate) receive_maximum: u16,
    pub(crate) will: Option<Will>,
}

/// What is published for a client that vanished (§3.1.2.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Will {
    pub(crate) message: Message,
    /// Seconds to wait for its return (§3.1.3.2.2); 0 in 3.1.1.
    pub(crate) delay: u32,
}

/// What a connected client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Received {
    /// PUBLISH; `packet_id` is 0 with QoS 0.
    Publish {
        packet_id: u16,
        dup: bool,
        message: Message,
    },
    PubAck {
        packet_id: u16,
    },
    /// `refused`: a reason code of 0x80 or more, which ends the exchange (§4.3.3).
    PubRec {
        packet_id: u16,
        refused: bool,
    },
    PubRel {
        packet_id: u16,
    },
    PubComp {
        packet_id: u16,
    },
    Subscribe {
        packet_id: u16,
        id: Option<u32>,
        filters: Vec<Subscription>,
    },
    Unsubscribe {
        packet_id: u16,
        filters: Vec<String>,
    },
    /// DISCONNECT. `with_will`: the client wants its will published all the same (0x04).
    Disconnect {
        with_will: bool,
        session_expiry: Option<u32>,
    },
    /// Not a packet: the PUBLISH with this id (0: QoS 0) is larger than the client takes and was not sent (§3.1.2.11.4).
    TooLarge {
        packet_id: u16,
    },
}

/// One topic filter of a SUBSCRIBE and its options (§3.8.3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subscription {
    /// As sent, `$share/…` included.
    pub(crate) filter: String,
    /// Granted at most.
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) retain_handling: RetainHandling,
}

/// Whether a SUBSCRIBE brings retained messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetainHandling {
    /// Always; the only way in 3.1.1.
    Send,
    /// If the subscription did not exist.
    SendIfNew,
    /// Never.
    DoNotSend,
}

/// What the router says to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The first, and with a reason of 0x80 or more the last.
    ConnAck {
        session_present: bool,
        /// MQTT 5 reason code.
        reason: u8,
        /// The id given to a client that came without one.
        assigned_client_id: Option<String>,
    },
    Publish(Delivery),
    PubAck {
        packet_id: u16,
        reason: u8,
    },
    PubRec {
        packet_id: u16,
        reason: u8,
    },
    PubRel {
        packet_id: u16,
        reason: u8,
    },
    PubComp {
        packet_id: u16,
        reason: u8,
    },
    SubAck {
        packet_id: u16,
        reasons: Vec<u8>,
    },
    UnsubAck {
        packet_id: u16,
        reasons: Vec<u8>,
    },
    /// The last: DISCONNECT with this reason in MQTT 5, then the end of the connection.
    Disconnect {
        reason: u8,
    },
}

/// A message on its way to one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) message: Arc<Message>,
    /// 0 with QoS 0.
    pub(crate) packet_id: u16,
    pub(crate) dup: bool,
    /// The lower of published and granted.
    pub(crate) qos: QoS,
    /// As this subscriber gets it.
    pub(crate) retain: bool,
    /// Seconds left of its expiry.
    pub(crate) expiry: Option<u32>,
    /// Subscription identifiers of all the client's subscriptions that match (§3.3.4).
    pub(crate) ids: Box<[u32]>,
}

/// MQTT 5 reason codes the broker uses (§2.4).
pub(crate) mod reason {
    pub(crate) const SUCCESS: u8 = 0x00;
    pub(crate) const NO_MATCHING_SUBSCRIBERS: u8 = 0x10;
    pub(crate) const NO_SUBSCRIPTION_EXISTED: u8 = 0x11;
    pub(crate) const MALFORMED_PACKET: u8 = 0x81;
    pub(crate) const PROTOCOL_ERROR: u8 = 0x82;
    pub(crate) const CLIENT_ID_NOT_VALID: u8 = 0x85;
    pub(crate) const NOT_AUTHORIZED: u8 = 0x87;
    pub(crate) const SERVER_SHUTTING_DOWN: u8 = 0x8B;
    pub(crate) const SESSION_TAKEN_OVER: u8 = 0x8E;
    pub(crate) const TOPIC_FILTER_INVALID: u8 = 0x8F;
    pub(crate) const TOPIC_NAME_INVALID: u8 = 0x90;
    pub(crate) const PACKET_ID_NOT_FOUND: u8 = 0x92;
    pub(crate) const RECEIVE_MAXIMUM_EXCEEDED: u8 = 0x93;
    pub(crate) const PACKET_TOO_LARGE: u8 = 0x95;
    pub(crate) const QUOTA_EXCEEDED: u8 = 0x97;

    /// What connections end with, in the words of the specification.
    pub(crate) fn name(code: u8) -> Option<&'static str> {
        Some(match code {
            MALFORMED_PACKET => "malformed packet",
            PROTOCOL_ERROR => "protocol error",
            SERVER_SHUTTING_DOWN => "server shutting down",
            SESSION_TAKEN_OVER => "session taken over",
            TOPIC_FILTER_INVALID => "topic filter invalid",
            TOPIC_NAME_INVALID => "topic name invalid",
            RECEIVE_MAXIMUM_EXCEEDED => "receive maximum exceeded",
            PACKET_TOO_LARGE => "packet too large",
            QUOTA_EXCEEDED => "quota exceeded",
            _ => return None,
        })
    }
}
