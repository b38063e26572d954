//! From a [`Packet`] to a datagram.

use crate::{
    decode::{LONG_FORM, PROTOCOL_ID},
    encapsulation::Encapsulation,
    flags,
    packet::{Connect, Packet, Publish, WillTopic},
    types::{MsgId, PublishQoS, QoS, ReturnCode, TopicFilter, TopicId, TopicRef},
};
use bytes::BufMut;

/// Length and MsgType in the short and in the long form.
const SHORT_HEADER_LEN: usize = 2;
const LONG_HEADER_LEN: usize = 4;

/// The longest message that the one-octet length can count.
const SHORT_MAX_LEN: usize = 255;

impl Packet<'_> {
    /// The longest message: its length has two octets and counts itself.
    pub const MAX_LEN: usize = 65_535;

    /// Appends the message in its shortest form.
    ///
    /// Reserved and unused bits are sent as 0. Values are not judged again: what the decoder returned is
    /// encoded to something that decodes to the same, and who builds a packet by hand keeps to what the
    /// fields' documentation says.
    ///
    /// A message longer than [`MAX_LEN`](Self::MAX_LEN) cannot be sent. Nothing is appended then, rather than
    /// a cut text or a wrong length; callers compare [`encoded_len`](Self::encoded_len) with the size their
    /// link takes, which is always smaller.
    ///
    /// # Panics
    /// As every [`BufMut`], if the buffer cannot grow and has less than `encoded_len()` octets left.
    pub fn encode(&self, buf: &mut impl BufMut) {
        let len = self.encoded_len();
        let Ok(length) = u16::try_from(len) else {
            return;
        };
        let msg_type = self.msg_type() as u8;
        match u8::try_from(length) {
            Ok(length) => buf.put_slice(&[length, msg_type]),
            Err(_) => {
                let [high, low] = length.to_be_bytes();
                buf.put_slice(&[LONG_FORM, high, low, msg_type]);
            }
        }
        self.encode_body(buf);
    }

    /// How many octets [`Packet::encode`] appends, or would if they were at most [`MAX_LEN`](Self::MAX_LEN).
    pub fn encoded_len(&self) -> usize {
        let body_len = self.body_len();
        if body_len <= SHORT_MAX_LEN - SHORT_HEADER_LEN {
            SHORT_HEADER_LEN + body_len
        } else {
            body_len.saturating_add(LONG_HEADER_LEN)
        }
    }

    /// Everything after MsgType.
    fn encode_body(&self, buf: &mut impl BufMut) {
        match self {
            Packet::Advertise(p) => {
                buf.put_u8(p.gw_id);
                buf.put_u16(p.duration);
            }
            Packet::SearchGw(p) => buf.put_u8(p.radius),
            Packet::GwInfo(p) => {
                buf.put_u8(p.gw_id);
                buf.put_slice(p.gw_add);
            }
            Packet::Connect(p) => {
                let [high, low] = p.duration.to_be_bytes();
                buf.put_slice(&[connect_flags(p), PROTOCOL_ID, high, low]);
                buf.put_slice(p.client_id.as_bytes());
            }
            Packet::Connack(p) => buf.put_u8(p.return_code.into()),
            Packet::WillTopicReq => {}
            Packet::WillTopic(will) => encode_will_topic(will.as_ref(), buf),
            Packet::WillMsgReq => {}
            Packet::WillMsg(p) => buf.put_slice(p.message),
            Packet::Register(p) => {
                buf.put_u16(p.topic_id.0);
                buf.put_u16(p.msg_id.0);
                buf.put_slice(p.topic_name.as_bytes());
            }
            Packet::Regack(p) => buf.put_slice(&acknowledgement(p.topic_id, p.msg_id, p.return_code)),
            Packet::Publish(p) => {
                let (topic_id_type, [topic_0, topic_1]) = publish_topic(p.topic);
                let [high, low] = p.msg_id.0.to_be_bytes();
                buf.put_slice(&[publish_flags(p) | topic_id_type, topic_0, topic_1, high, low]);
                buf.put_slice(p.data);
            }
            Packet::Puback(p) => buf.put_slice(&acknowledgement(p.topic_id, p.msg_id, p.return_code)),
            Packet::Pubcomp(msg_id) => buf.put_u16(msg_id.0),
            Packet::Pubrec(msg_id) => buf.put_u16(msg_id.0),
            Packet::Pubrel(msg_id) => buf.put_u16(msg_id.0),
            Packet::Subscribe(p) => {
                let dup = if p.dup { flags::DUP } else { 0 };
                buf.put_u8(dup | level(p.qos) | topic_id_type(&p.topic));
                buf.put_u16(p.msg_id.0);
                encode_filter(&p.topic, buf);
            }
            Packet::Suback(p) => {
                buf.put_u8(level(p.qos));
                buf.put_slice(&acknowledgement(p.topic_id, p.msg_id, p.return_code));
            }
            Packet::Unsubscribe(p) => {
                buf.put_u8(topic_id_type(&p.topic));
                buf.put_u16(p.msg_id.0);
                encode_filter(&p.topic, buf);
            }
            Packet::Unsuback(msg_id) => buf.put_u16(msg_id.0),
            Packet::Pingreq(p) => buf.put_slice(p.client_id.unwrap_or_default().as_bytes()),
            Packet::Pingresp => {}
            Packet::Disconnect(p) => {
                if let Some(duration) = p.duration {
                    buf.put_u16(duration);
                }
            }
            Packet::WillTopicUpd(will) => encode_will_topic(will.as_ref(), buf),
            Packet::WillTopicResp(return_code) => buf.put_u8((*return_code).into()),
            Packet::WillMsgUpd(p) => buf.put_slice(p.message),
            Packet::WillMsgResp(return_code) => buf.put_u8((*return_code).into()),
        }
    }

    /// How many octets follow MsgType.
    fn body_len(&self) -> usize {
        match self {
            Packet::Advertise(_) => 3,
            Packet::SearchGw(_) => 1,
            Packet::GwInfo(p) => 1 + p.gw_add.len(),
            Packet::Connect(p) => 4 + p.client_id.len(),
            Packet::Connack(_) => 1,
            Packet::WillTopicReq => 0,
            Packet::WillTopic(will) => will_topic_len(will.as_ref()),
            Packet::WillMsgReq => 0,
            Packet::WillMsg(p) => p.message.len(),
            Packet::Register(p) => 4 + p.topic_name.len(),
            Packet::Regack(_) => 5,
            Packet::Publish(p) => 5 + p.data.len(),
            Packet::Puback(_) => 5,
            Packet::Pubcomp(_) => 2,
            Packet::Pubrec(_) => 2,
            Packet::Pubrel(_) => 2,
            Packet::Subscribe(p) => 3 + filter_len(&p.topic),
            Packet::Suback(_) => 6,
            Packet::Unsubscribe(p) => 3 + filter_len(&p.topic),
            Packet::Unsuback(_) => 2,
            Packet::Pingreq(p) => p.client_id.map_or(0, str::len),
            Packet::Pingresp => 0,
            Packet::Disconnect(p) => p.duration.map_or(0, |_| 2),
            Packet::WillTopicUpd(will) => will_topic_len(will.as_ref()),
            Packet::WillTopicResp(_) => 1,
            Packet::WillMsgUpd(p) => p.message.len(),
            Packet::WillMsgResp(_) => 1,
        }
    }
}

/// Appends a message as it goes to the network: behind the header of the forwarder it leaves through, if any.
///
/// All or nothing: if either part cannot be encoded, nothing is appended.
pub fn encode_message(encapsulation: Option<&Encapsulation<'_>>, packet: &Packet<'_>, buf: &mut impl BufMut) {
    if packet.encoded_len() > Packet::MAX_LEN || encapsulation.is_some_and(|e| !e.is_encodable()) {
        return;
    }
    if let Some(encapsulation) = encapsulation {
        encapsulation.encode(buf);
    }
    packet.encode(buf);
}

/// The three fields that `REGACK`, `PUBACK` and `SUBACK` have in common.
fn acknowledgement(topic_id: TopicId, msg_id: MsgId, return_code: ReturnCode) -> [u8; 5] {
    let [topic_high, topic_low] = topic_id.0.to_be_bytes();
    let [msg_high, msg_low] = msg_id.0.to_be_bytes();
    [topic_high, topic_low, msg_high, msg_low, return_code.into()]
}

fn connect_flags(connect: &Connect<'_>) -> u8 {
    let will = if connect.will { flags::WILL } else { 0 };
    let clean_session = if connect.clean_session {
        flags::CLEAN_SESSION
    } else {
        0
    };
    will | clean_session
}

fn encode_will_topic(will: Option<&WillTopic<'_>>, buf: &mut impl BufMut) {
    if let Some(will) = will {
        let retain = if will.retain { flags::RETAIN } else { 0 };
        buf.put_u8(level(will.qos) | retain);
        buf.put_slice(will.topic.as_bytes());
    }
}

fn will_topic_len(will: Option<&WillTopic<'_>>) -> usize {
    will.map_or(0, |will| 1 + will.topic.len())
}

/// The flags of a `PUBLISH` but for its topic id type.
fn publish_flags(publish: &Publish<'_>) -> u8 {
    let dup = if publish.dup { flags::DUP } else { 0 };
    let qos = match publish.qos {
        PublishQoS::MinusOne => flags::QOS_MINUS_1,
        PublishQoS::Level(qos) => level(qos),
    };
    let retain = if publish.retain { flags::RETAIN } else { 0 };
    dup | qos | retain
}

fn publish_topic(topic: TopicRef) -> (u8, [u8; 2]) {
    match topic {
        TopicRef::Normal(id) => (flags::NORMAL, id.0.to_be_bytes()),
        TopicRef::Predefined(id) => (flags::PREDEFINED, id.0.to_be_bytes()),
        TopicRef::Short(name) => (flags::SHORT, name.0),
    }
}

fn level(qos: QoS) -> u8 {
    match qos {
        QoS::AtMostOnce => flags::QOS_0,
        QoS::AtLeastOnce => flags::QOS_1,
        QoS::ExactlyOnce => flags::QOS_2,
    }
}

fn topic_id_type(topic: &TopicFilter<'_>) -> u8 {
    match topic {
        TopicFilter::Name(_) => flags::NORMAL,
        TopicFilter::Predefined(_) => flags::PREDEFINED,
        TopicFilter::Short(_) => flags::SHORT,
    }
}

fn encode_filter(topic: &TopicFilter<'_>, buf: &mut impl BufMut) {
    match topic {
        TopicFilter::Name(name) => buf.put_slice(name.as_bytes()),
        TopicFilter::Predefined(id) => buf.put_u16(id.0),
        TopicFilter::Short(name) => buf.put_slice(&name.0),
    }
}

fn filter_len(topic: &TopicFilter<'_>) -> usize {
    match topic {
        TopicFilter::Name(name) => name.len(),
        TopicFilter::Predefined(_) => 2,
        TopicFilter::Short(_) => 2,
    }
}
