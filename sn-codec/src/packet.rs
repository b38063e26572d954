//! One struct per message, fields in wire order.

use crate::types::{MsgId, MsgType, PublishQoS, QoS, ReturnCode, TopicFilter, TopicId, TopicRef};

/// A decoded MQTT-SN 1.2 message that borrows its text and payload from the datagram.
///
/// Every value of this type that the decoder returns can be encoded again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // Each variant is the message of that name.
pub enum Packet<'a> {
    Advertise(Advertise),
    SearchGw(SearchGw),
    GwInfo(GwInfo<'a>),
    Connect(Connect<'a>),
    Connack(Connack),
    WillTopicReq,
    WillTopic(Option<WillTopic<'a>>),
    WillMsgReq,
    WillMsg(WillMsg<'a>),
    Register(Register<'a>),
    Regack(Regack),
    Publish(Publish<'a>),
    Puback(Puback),
    Pubcomp(MsgId),
    Pubrec(MsgId),
    Pubrel(MsgId),
    Subscribe(Subscribe<'a>),
    Suback(Suback),
    Unsubscribe(Unsubscribe<'a>),
    Unsuback(MsgId),
    Pingreq(Pingreq<'a>),
    Pingresp,
    Disconnect(Disconnect),
    WillTopicUpd(Option<WillTopic<'a>>),
    WillTopicResp(ReturnCode),
    WillMsgUpd(WillMsg<'a>),
    WillMsgResp(ReturnCode),
}

/// `ADVERTISE` (§5.4.2): a gateway says that it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advertise {
    /// Which gateway, unique in the network.
    pub gw_id: u8,
    /// Seconds until the next `ADVERTISE`.
    pub duration: u16,
}

/// `SEARCHGW` (§5.4.3): a client looks for a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchGw {
    /// Broadcast radius in hops; 0 is the whole network.
    pub radius: u8,
}

/// `GWINFO` (§5.4.4): the answer to `SEARCHGW`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GwInfo<'a> {
    /// Which gateway.
    pub gw_id: u8,
    /// Its address, network dependent; empty when the gateway itself answers.
    pub gw_add: &'a [u8],
}

/// `CONNECT` (§5.4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The client will be asked for its will.
    pub will: bool,
    /// Forget what an earlier session left (§6.3).
    pub clean_session: bool,
    /// Keep-alive in seconds; 0 switches supervision off.
    pub duration: u16,
    /// 1–23 characters by the specification; longer and empty ones are decoded too.
    pub client_id: &'a str,
}

/// `CONNACK` (§5.4.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connack {
    /// Whether the client is connected.
    pub return_code: ReturnCode,
}

/// The body of a `WILLTOPIC` or `WILLTOPICUPD` that sets a will (§5.4.8, §5.4.23); without one it deletes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WillTopic<'a> {
    /// QoS the will is published with.
    pub qos: QoS,
    /// Whether the will is published retained.
    pub retain: bool,
    /// Never empty, no wildcard.
    pub topic: &'a str,
}

/// `WILLMSG` or `WILLMSGUPD` (§5.4.10, §5.4.25).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WillMsg<'a> {
    /// The payload, may be empty.
    pub message: &'a [u8],
}

/// `REGISTER` (§5.4.11), in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register<'a> {
    /// 0 from a client, the assigned id from the gateway.
    pub topic_id: TopicId,
    /// Echoed by the `REGACK`.
    pub msg_id: MsgId,
    /// Never empty, no wildcard.
    pub topic_name: &'a str,
}

/// `REGACK` (§5.4.12), in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Regack {
    /// The id now in force; 0 on rejection.
    pub topic_id: TopicId,
    /// As in the `REGISTER`.
    pub msg_id: MsgId,
    /// Whether the id may be used.
    pub return_code: ReturnCode,
}

/// `PUBLISH` (§5.4.13), in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// A retransmission.
    pub dup: bool,
    /// −1 only towards a gateway.
    pub qos: PublishQoS,
    /// Keep at the broker for later subscribers.
    pub retain: bool,
    /// By id or by two-octet name.
    pub topic: TopicRef,
    /// 0 for QoS 0 and −1; others are ignored there.
    pub msg_id: MsgId,
    /// The payload, may be empty.
    pub data: &'a [u8],
}

/// `PUBACK` (§5.4.14): answers QoS 1, and reports an error for any QoS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Puback {
    /// The two octets of the `PUBLISH`, whatever their topic id type.
    pub topic_id: TopicId,
    /// As in the `PUBLISH`.
    pub msg_id: MsgId,
    /// What became of it.
    pub return_code: ReturnCode,
}

/// `SUBSCRIBE` (§5.4.16).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// A retransmission.
    pub dup: bool,
    /// QoS asked for.
    pub qos: QoS,
    /// Echoed by the `SUBACK`.
    pub msg_id: MsgId,
    /// What to subscribe to.
    pub topic: TopicFilter<'a>,
}

/// `SUBACK` (§5.4.17).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suback {
    /// QoS granted.
    pub qos: QoS,
    /// The id under which messages will come; 0 for a wildcard.
    pub topic_id: TopicId,
    /// As in the `SUBSCRIBE`.
    pub msg_id: MsgId,
    /// Whether the subscription stands.
    pub return_code: ReturnCode,
}

/// `UNSUBSCRIBE` (§5.4.18).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Echoed by the `UNSUBACK`.
    pub msg_id: MsgId,
    /// What to unsubscribe from.
    pub topic: TopicFilter<'a>,
}

/// `PINGREQ` (§5.4.20), in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pingreq<'a> {
    /// Present when a sleeping client asks for its messages (§6.14).
    pub client_id: Option<&'a str>,
}

/// `DISCONNECT` (§5.4.22), in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnect {
    /// Seconds the client will sleep; only from a client.
    pub duration: Option<u16>,
}

/// Who a message is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Only clients send it: a client drops it.
    ToGateway,
    /// Only gateways send it: a gateway drops it.
    ToClient,
    /// Both sides send it, or it is broadcast and both hear it.
    Both,
}

impl Packet<'_> {
    /// Which way this kind of message travels (§5.4), whatever its fields say.
    pub fn direction(&self) -> Direction {
        match self {
            // §6.1: discovery is broadcast, so clients and gateways hear each other's.
            Packet::Advertise(_) => Direction::Both,
            Packet::SearchGw(_) => Direction::Both,
            Packet::GwInfo(_) => Direction::Both,
            Packet::Connect(_) => Direction::ToGateway,
            Packet::Connack(_) => Direction::ToClient,
            Packet::WillTopicReq => Direction::ToClient,
            Packet::WillTopic(_) => Direction::ToGateway,
            Packet::WillMsgReq => Direction::ToClient,
            Packet::WillMsg(_) => Direction::ToGateway,
            Packet::Register(_) => Direction::Both,
            Packet::Regack(_) => Direction::Both,
            Packet::Publish(_) => Direction::Both,
            Packet::Puback(_) => Direction::Both,
            Packet::Pubcomp(_) => Direction::Both,
            Packet::Pubrec(_) => Direction::Both,
            Packet::Pubrel(_) => Direction::Both,
            Packet::Subscribe(_) => Direction::ToGateway,
            Packet::Suback(_) => Direction::ToClient,
            Packet::Unsubscribe(_) => Direction::ToGateway,
            Packet::Unsuback(_) => Direction::ToClient,
            Packet::Pingreq(_) => Direction::Both,
            Packet::Pingresp => Direction::Both,
            Packet::Disconnect(_) => Direction::Both,
            Packet::WillTopicUpd(_) => Direction::ToGateway,
            Packet::WillTopicResp(_) => Direction::ToClient,
            Packet::WillMsgUpd(_) => Direction::ToGateway,
            Packet::WillMsgResp(_) => Direction::ToClient,
        }
    }

    /// The type octet of this message.
    pub fn msg_type(&self) -> MsgType {
        match self {
            Packet::Advertise(_) => MsgType::Advertise,
            Packet::SearchGw(_) => MsgType::SearchGw,
            Packet::GwInfo(_) => MsgType::GwInfo,
            Packet::Connect(_) => MsgType::Connect,
            Packet::Connack(_) => MsgType::Connack,
            Packet::WillTopicReq => MsgType::WillTopicReq,
            Packet::WillTopic(_) => MsgType::WillTopic,
            Packet::WillMsgReq => MsgType::WillMsgReq,
            Packet::WillMsg(_) => MsgType::WillMsg,
            Packet::Register(_) => MsgType::Register,
            Packet::Regack(_) => MsgType::Regack,
            Packet::Publish(_) => MsgType::Publish,
            Packet::Puback(_) => MsgType::Puback,
            Packet::Pubcomp(_) => MsgType::Pubcomp,
            Packet::Pubrec(_) => MsgType::Pubrec,
            Packet::Pubrel(_) => MsgType::Pubrel,
            Packet::Subscribe(_) => MsgType::Subscribe,
            Packet::Suback(_) => MsgType::Suback,
            Packet::Unsubscribe(_) => MsgType::Unsubscribe,
            Packet::Unsuback(_) => MsgType::Unsuback,
            Packet::Pingreq(_) => MsgType::Pingreq,
            Packet::Pingresp => MsgType::Pingresp,
            Packet::Disconnect(_) => MsgType::Disconnect,
            Packet::WillTopicUpd(_) => MsgType::WillTopicUpd,
            Packet::WillTopicResp(_) => MsgType::WillTopicResp,
            Packet::WillMsgUpd(_) => MsgType::WillMsgUpd,
            Packet::WillMsgResp(_) => MsgType::WillMsgResp,
        }
    }
}
