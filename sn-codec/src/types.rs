//! The small values that messages are made of.

use core::fmt;

/// The message type octet (§5.2.2).
///
/// Note the order of `PUBACK`, `PUBCOMP`, `PUBREC`, `PUBREL`: it is not MQTT's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs)] // The names are the specification's.
pub enum MsgType {
    Advertise = 0x00,
    SearchGw = 0x01,
    GwInfo = 0x02,
    Connect = 0x04,
    Connack = 0x05,
    WillTopicReq = 0x06,
    WillTopic = 0x07,
    WillMsgReq = 0x08,
    WillMsg = 0x09,
    Register = 0x0A,
    Regack = 0x0B,
    Publish = 0x0C,
    Puback = 0x0D,
    Pubcomp = 0x0E,
    Pubrec = 0x0F,
    Pubrel = 0x10,
    Subscribe = 0x12,
    Suback = 0x13,
    Unsubscribe = 0x14,
    Unsuback = 0x15,
    Pingreq = 0x16,
    Pingresp = 0x17,
    Disconnect = 0x18,
    WillTopicUpd = 0x1A,
    WillTopicResp = 0x1B,
    WillMsgUpd = 0x1C,
    WillMsgResp = 0x1D,
    Encapsulated = 0xFE,
}

impl MsgType {
    /// Every message type, in the order of its codes.
    pub const ALL: [MsgType; 28] = [
        MsgType::Advertise,
        MsgType::SearchGw,
        MsgType::GwInfo,
        MsgType::Connect,
        MsgType::Connack,
        MsgType::WillTopicReq,
        MsgType::WillTopic,
        MsgType::WillMsgReq,
        MsgType::WillMsg,
        MsgType::Register,
        MsgType::Regack,
        MsgType::Publish,
        MsgType::Puback,
        MsgType::Pubcomp,
        MsgType::Pubrec,
        MsgType::Pubrel,
        MsgType::Subscribe,
        MsgType::Suback,
        MsgType::Unsubscribe,
        MsgType::Unsuback,
        MsgType::Pingreq,
        MsgType::Pingresp,
        MsgType::Disconnect,
        MsgType::WillTopicUpd,
        MsgType::WillTopicResp,
        MsgType::WillMsgUpd,
        MsgType::WillMsgResp,
        MsgType::Encapsulated,
    ];

    /// The type that this octet stands for; `None` if it is reserved.
    pub fn from_octet(octet: u8) -> Option<MsgType> {
        let msg_type = match octet {
            0x00 => MsgType::Advertise,
            0x01 => MsgType::SearchGw,
            0x02 => MsgType::GwInfo,
            0x04 => MsgType::Connect,
            0x05 => MsgType::Connack,
            0x06 => MsgType::WillTopicReq,
            0x07 => MsgType::WillTopic,
            0x08 => MsgType::WillMsgReq,
            0x09 => MsgType::WillMsg,
            0x0A => MsgType::Register,
            0x0B => MsgType::Regack,
            0x0C => MsgType::Publish,
            0x0D => MsgType::Puback,
            0x0E => MsgType::Pubcomp,
            0x0F => MsgType::Pubrec,
            0x10 => MsgType::Pubrel,
            0x12 => MsgType::Subscribe,
            0x13 => MsgType::Suback,
            0x14 => MsgType::Unsubscribe,
            0x15 => MsgType::Unsuback,
            0x16 => MsgType::Pingreq,
            0x17 => MsgType::Pingresp,
            0x18 => MsgType::Disconnect,
            0x1A => MsgType::WillTopicUpd,
            0x1B => MsgType::WillTopicResp,
            0x1C => MsgType::WillMsgUpd,
            0x1D => MsgType::WillMsgResp,
            0xFE => MsgType::Encapsulated,
            _ => return None,
        };
        Some(msg_type)
    }

    /// The specification's spelling, such as `WILLTOPICREQ`.
    pub fn name(self) -> &'static str {
        match self {
            MsgType::Advertise => "ADVERTISE",
            MsgType::SearchGw => "SEARCHGW",
            MsgType::GwInfo => "GWINFO",
            MsgType::Connect => "CONNECT",
            MsgType::Connack => "CONNACK",
            MsgType::WillTopicReq => "WILLTOPICREQ",
            MsgType::WillTopic => "WILLTOPIC",
            MsgType::WillMsgReq => "WILLMSGREQ",
            MsgType::WillMsg => "WILLMSG",
            MsgType::Register => "REGISTER",
            MsgType::Regack => "REGACK",
            MsgType::Publish => "PUBLISH",
            MsgType::Puback => "PUBACK",
            MsgType::Pubcomp => "PUBCOMP",
            MsgType::Pubrec => "PUBREC",
            MsgType::Pubrel => "PUBREL",
            MsgType::Subscribe => "SUBSCRIBE",
            MsgType::Suback => "SUBACK",
            MsgType::Unsubscribe => "UNSUBSCRIBE",
            MsgType::Unsuback => "UNSUBACK",
            MsgType::Pingreq => "PINGREQ",
            MsgType::Pingresp => "PINGRESP",
            MsgType::Disconnect => "DISCONNECT",
            MsgType::WillTopicUpd => "WILLTOPICUPD",
            MsgType::WillTopicResp => "WILLTOPICRESP",
            MsgType::WillMsgUpd => "WILLMSGUPD",
            MsgType::WillMsgResp => "WILLMSGRESP",
            MsgType::Encapsulated => "ENCAPSULATED",
        }
    }
}

impl fmt::Display for MsgType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Quality of service of a subscription, a will, or a message within a session (§5.3.4, without −1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum QoS {
    /// QoS 0: at most once.
    #[default]
    AtMostOnce = 0,
    /// QoS 1: at least once.
    AtLeastOnce = 1,
    /// QoS 2: exactly once.
    ExactlyOnce = 2,
}

/// Quality of service of a `PUBLISH`, which alone may carry −1 (§5.3.4, §6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PublishQoS {
    /// QoS −1: no connection, no answer; predefined ids and short names only.
    MinusOne,
    /// QoS 0, 1 or 2, within a session.
    Level(QoS),
}

/// A topic id (§5.3.11); 0x0000 and 0xFFFF are reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TopicId(pub u16);

impl TopicId {
    /// The reserved id that stands for "none" (a `REGISTER` from a client, a `SUBACK` for a wildcard).
    pub const NONE: TopicId = TopicId(0);

    /// True for 0x0000 and 0xFFFF, which never name a topic.
    pub fn is_reserved(self) -> bool {
        matches!(self.0, 0 | 0xFFFF)
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A message id (§5.3.8): matches an answer to its request.
///
/// 0 is an ordinary value: clients in the field count through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MsgId(pub u16);

impl fmt::Display for MsgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A topic name of exactly two octets, carried in the place of a topic id (§3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShortTopic(pub [u8; 2]);

impl ShortTopic {
    /// The name as text; `None` if its octets are not UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        core::str::from_utf8(&self.0).ok()
    }
}

/// The topic of a `PUBLISH`: one of three separate number spaces (§5.3.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TopicRef {
    /// An id that the gateway assigned to this client.
    Normal(TopicId),
    /// An id known to both sides by configuration.
    Predefined(TopicId),
    /// The name itself, two octets.
    Short(ShortTopic),
}

/// The topic of a `SUBSCRIBE` or `UNSUBSCRIBE` (§5.4.15).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TopicFilter<'a> {
    /// A topic name, with or without wildcards.
    Name(&'a str),
    /// A predefined id.
    Predefined(TopicId),
    /// A two-octet name.
    Short(ShortTopic),
}

/// A return code (§5.3.10). Every value but 0 is a rejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReturnCode {
    /// 0x00
    Accepted,
    /// 0x01: the receiver waits T_WAIT before it asks again.
    Congestion,
    /// 0x02: the receiver registers the topic again.
    InvalidTopicId,
    /// 0x03
    NotSupported,
    /// 0x04–0xFF, kept as received.
    Reserved(u8),
}

impl From<u8> for ReturnCode {
    fn from(code: u8) -> Self {
        match code {
            0 => Self::Accepted,
            1 => Self::Congestion,
            2 => Self::InvalidTopicId,
            3 => Self::NotSupported,
            code => Self::Reserved(code),
        }
    }
}

impl From<ReturnCode> for u8 {
    fn from(code: ReturnCode) -> u8 {
        match code {
            ReturnCode::Accepted => 0,
            ReturnCode::Congestion => 1,
            ReturnCode::InvalidTopicId => 2,
            ReturnCode::NotSupported => 3,
            ReturnCode::Reserved(code) => code,
        }
    }
}
