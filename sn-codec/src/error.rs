//! What was wrong with a datagram, where, and whether it can be answered.

use crate::packet::Packet;

/// Why a datagram was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{kind} at octet {offset}")]
#[non_exhaustive]
pub struct DecodeError {
    /// What was wrong.
    pub kind: ErrorKind,
    /// Where in the datagram, counted from 0.
    pub offset: usize,
    /// The message that answers it, for one that parses but carries a bad value; `None` is silence.
    pub answer: Option<Packet<'static>>,
}

impl DecodeError {
    /// A refusal that is not answered.
    pub(crate) fn new(kind: ErrorKind, offset: usize) -> Self {
        Self {
            kind,
            offset,
            answer: None,
        }
    }

    /// The same, answered.
    pub(crate) fn answered(self, answer: Packet<'static>) -> Self {
        Self {
            answer: Some(answer),
            ..self
        }
    }

    /// The same for a message that starts `octets` into the datagram.
    pub(crate) fn moved_by(self, octets: usize) -> Self {
        Self {
            offset: self.offset + octets,
            ..self
        }
    }
}

/// The kinds of refusal; [`ErrorKind::name`] gives each a stable name for counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
#[allow(missing_docs)] // The message is the documentation.
pub enum ErrorKind {
    #[error("the datagram ends within the header")]
    TruncatedHeader,
    #[error("the length field is smaller than its own header")]
    LengthTooSmall,
    #[error("the length field differs from the datagram's length")]
    LengthMismatch,
    #[error("an encapsulation header cannot use the three-octet length")]
    ReservedLengthForm,
    #[error("the message type is reserved")]
    ReservedType,
    #[error("the message is too short for its type")]
    BodyTooShort,
    #[error("the message is too long for its type")]
    BodyTooLong,
    #[error("the topic name is empty")]
    EmptyTopic,
    #[error("the text is not UTF-8 or contains characters that MQTT does not carry")]
    InvalidUtf8,
    #[error("a wildcard where a topic name is needed")]
    WildcardTopic,
    #[error("the topic filter is malformed")]
    InvalidFilter,
    #[error("the topic has more than 128 levels, or is the broker's own")]
    ForbiddenTopic,
    #[error("topic ids 0x0000 and 0xFFFF are reserved")]
    InvalidTopicId,
    #[error("topic id type 0b11 is reserved")]
    ReservedTopicIdType,
    #[error("this QoS has no meaning here")]
    InvalidQos,
    #[error("the protocol id is not 0x01")]
    UnsupportedProtocolId,
    #[error("QoS -1 needs a predefined id or a short name")]
    QosMinus1NormalTopic,
    #[error("the wireless node id is empty")]
    EmptyNodeId,
    #[error("an encapsulation inside an encapsulation")]
    NestedEncapsulation,
    #[error("only a gateway sends this message")]
    WrongDirection,
}

impl ErrorKind {
    /// Every kind, in declaration order: `kind as usize` is its index here.
    pub const ALL: [ErrorKind; 20] = [
        ErrorKind::TruncatedHeader,
        ErrorKind::LengthTooSmall,
        ErrorKind::LengthMismatch,
        ErrorKind::ReservedLengthForm,
        ErrorKind::ReservedType,
        ErrorKind::BodyTooShort,
        ErrorKind::BodyTooLong,
        ErrorKind::EmptyTopic,
        ErrorKind::InvalidUtf8,
        ErrorKind::WildcardTopic,
        ErrorKind::InvalidFilter,
        ErrorKind::ForbiddenTopic,
        ErrorKind::InvalidTopicId,
        ErrorKind::ReservedTopicIdType,
        ErrorKind::InvalidQos,
        ErrorKind::UnsupportedProtocolId,
        ErrorKind::QosMinus1NormalTopic,
        ErrorKind::EmptyNodeId,
        ErrorKind::NestedEncapsulation,
        ErrorKind::WrongDirection,
    ];

    /// The stable snake-case name used in counters and test vectors, such as `length_mismatch`.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::TruncatedHeader => "truncated_header",
            ErrorKind::LengthTooSmall => "length_too_small",
            ErrorKind::LengthMismatch => "length_mismatch",
            ErrorKind::ReservedLengthForm => "reserved_length_form",
            ErrorKind::ReservedType => "reserved_type",
            ErrorKind::BodyTooShort => "body_too_short",
            ErrorKind::BodyTooLong => "body_too_long",
            ErrorKind::EmptyTopic => "empty_topic",
            ErrorKind::InvalidUtf8 => "invalid_utf8",
            ErrorKind::WildcardTopic => "wildcard_topic",
            ErrorKind::InvalidFilter => "invalid_filter",
            ErrorKind::ForbiddenTopic => "forbidden_topic",
            ErrorKind::InvalidTopicId => "invalid_topic_id",
            ErrorKind::ReservedTopicIdType => "reserved_topic_id_type",
            ErrorKind::InvalidQos => "invalid_qos",
            ErrorKind::UnsupportedProtocolId => "unsupported_protocol_id",
            ErrorKind::QosMinus1NormalTopic => "qos_minus1_normal_topic",
            ErrorKind::EmptyNodeId => "empty_node_id",
            ErrorKind::NestedEncapsulation => "nested_encapsulation",
            ErrorKind::WrongDirection => "wrong_direction",
        }
    }
}
