//! Messages and return codes in words.

use std::fmt;

use sn_codec::{Packet, PublishQoS, QoS, ReturnCode, TopicFilter, TopicRef};

/// A return code for people (§5.3.10).
pub(crate) fn reason(code: ReturnCode) -> String {
    match code {
        ReturnCode::Accepted => "accepted".to_owned(),
        ReturnCode::Congestion => "congestion, try again later (return code 1)".to_owned(),
        ReturnCode::InvalidTopicId => "invalid topic id (return code 2)".to_owned(),
        ReturnCode::NotSupported => "not supported (return code 3)".to_owned(),
        ReturnCode::Reserved(code) => format!("unknown reason (return code {code})"),
    }
}

/// The QoS as people write it.
pub(crate) fn qos_number(qos: PublishQoS) -> i8 {
    match qos {
        PublishQoS::MinusOne => -1,
        PublishQoS::Level(QoS::AtMostOnce) => 0,
        PublishQoS::Level(QoS::AtLeastOnce) => 1,
        PublishQoS::Level(QoS::ExactlyOnce) => 2,
    }
}

/// A message on one line, in the manner of mosquitto's debug output.
pub(crate) struct OneLine<'a>(pub(crate) &'a Packet<'a>);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Packet::Advertise(m) => write!(f, "ADVERTISE (gateway {}, {} s)", m.gw_id, m.duration),
            Packet::SearchGw(m) => write!(f, "SEARCHGW (radius {})", m.radius),
            Packet::GwInfo(m) => write!(f, "GWINFO (gateway {})", m.gw_id),
            Packet::Connect(m) => write!(
                f,
                "CONNECT ({:?}, k{}, c{}, will {})",
                m.client_id,
                m.duration,
                u8::from(m.clean_session),
                u8::from(m.will)
            ),
            Packet::Connack(m) => write!(f, "CONNACK ({})", reason(m.return_code)),
            Packet::WillTopicReq => f.write_str("WILLTOPICREQ"),
            Packet::WillTopic(m) => write!(f, "WILLTOPIC ({:?})", m.map_or("", |will| will.topic)),
            Packet::WillMsgReq => f.write_str("WILLMSGREQ"),
            Packet::WillMsg(m) => write!(f, "WILLMSG ({} octets)", m.message.len()),
            Packet::Register(m) => {
                write!(
                    f,
                    "REGISTER (m{}, topic id {}, {:?})",
                    m.msg_id, m.topic_id, m.topic_name
                )
            }
            Packet::Regack(m) => {
                write!(
                    f,
                    "REGACK (m{}, topic id {}, {})",
                    m.msg_id,
                    m.topic_id,
                    reason(m.return_code)
                )
            }
            Packet::Publish(m) => write!(
                f,
                "PUBLISH (d{}, q{}, r{}, m{}, {}, {} octets)",
                u8::from(m.dup),
                qos_number(m.qos),
                u8::from(m.retain),
                m.msg_id,
                topic(m.topic),
                m.data.len()
            ),
            Packet::Puback(m) => {
                write!(
                    f,
                    "PUBACK (m{}, topic id {}, {})",
                    m.msg_id,
                    m.topic_id,
                    reason(m.return_code)
                )
            }
            Packet::Pubcomp(id) => write!(f, "PUBCOMP (m{id})"),
            Packet::Pubrec(id) => write!(f, "PUBREC (m{id})"),
            Packet::Pubrel(id) => write!(f, "PUBREL (m{id})"),
            Packet::Subscribe(m) => write!(
                f,
                "SUBSCRIBE (d{}, q{}, m{}, {})",
                u8::from(m.dup),
                qos_number(PublishQoS::Level(m.qos)),
                m.msg_id,
                filter(m.topic)
            ),
            Packet::Suback(m) => write!(
                f,
                "SUBACK (q{}, m{}, topic id {}, {})",
                qos_number(PublishQoS::Level(m.qos)),
                m.msg_id,
                m.topic_id,
                reason(m.return_code)
            ),
            Packet::Unsubscribe(m) => write!(f, "UNSUBSCRIBE (m{}, {})", m.msg_id, filter(m.topic)),
            Packet::Unsuback(id) => write!(f, "UNSUBACK (m{id})"),
            Packet::Pingreq(m) => match m.client_id {
                Some(id) => write!(f, "PINGREQ ({id:?})"),
                None => f.write_str("PINGREQ"),
            },
            Packet::Pingresp => f.write_str("PINGRESP"),
            Packet::Disconnect(m) => match m.duration {
                Some(seconds) => write!(f, "DISCONNECT (sleep {seconds} s)"),
                None => f.write_str("DISCONNECT"),
            },
            Packet::WillTopicUpd(m) => write!(f, "WILLTOPICUPD ({:?})", m.map_or("", |will| will.topic)),
            Packet::WillTopicResp(code) => write!(f, "WILLTOPICRESP ({})", reason(*code)),
            Packet::WillMsgUpd(m) => write!(f, "WILLMSGUPD ({} octets)", m.message.len()),
            Packet::WillMsgResp(code) => write!(f, "WILLMSGRESP ({})", reason(*code)),
        }
    }
}

fn topic(topic: TopicRef) -> String {
    match topic {
        TopicRef::Normal(id) => format!("topic id {id}"),
        TopicRef::Predefined(id) => format!("predefined id {id}"),
        TopicRef::Short(short) => format!("{:?}", String::from_utf8_lossy(&short.0)),
    }
}

fn filter(filter: TopicFilter<'_>) -> String {
    match filter {
        TopicFilter::Name(name) => format!("{name:?}"),
        TopicFilter::Predefined(id) => format!("predefined id {id}"),
        TopicFilter::Short(short) => format!("{:?}", String::from_utf8_lossy(&short.0)),
    }
}
