//! From a datagram to a [`Packet`].
//!
//! Layout comes before values: a message that is too short or too long for its type is refused without an
//! answer, one that has its shape but a bad value is refused with the answer that stops the sender's retries.

use crate::{
    encapsulation::Encapsulation,
    error::{DecodeError, ErrorKind},
    flags,
    packet::{
        Advertise, Connack, Connect, Direction, Disconnect, GwInfo, Packet, Pingreq, Puback, Publish, Regack,
        Register, SearchGw, Suback, Subscribe, Unsubscribe, WillMsg, WillTopic,
    },
    topic,
    types::{MsgId, MsgType, PublishQoS, QoS, ReturnCode, ShortTopic, TopicFilter, TopicId, TopicRef},
};
use nom::{
    IResult, Parser,
    combinator::map,
    number::complete::{be_u8, be_u16},
};

/// A first octet of 1 announces a two-octet length (§5.2.1).
pub(crate) const LONG_FORM: u8 = 0x01;

/// The only protocol id of MQTT-SN 1.2 (§5.3.9).
pub(crate) const PROTOCOL_ID: u8 = 0x01;

impl<'a> Packet<'a> {
    /// Decodes one datagram that holds exactly one message, without encapsulation.
    ///
    /// The result borrows from `datagram`; nothing is copied or allocated. Both length forms are read, also
    /// where the short one would do. An encapsulation header must have been taken off before
    /// ([`Encapsulation::split`]); here it counts as nested.
    ///
    /// # Errors
    /// What was wrong, where, and the answer if the message parses but carries a bad value.
    pub fn decode(datagram: &'a [u8]) -> Result<Packet<'a>, DecodeError> {
        let (type_octet, body) = split_header(datagram)?;
        let Some(msg_type) = MsgType::from_octet(type_octet) else {
            return Err(DecodeError::new(ErrorKind::ReservedType, body.start - 1));
        };
        match msg_type {
            MsgType::Advertise => {
                let (gw_id, duration) = body.exactly((be_u8, be_u16))?;
                Ok(Packet::Advertise(Advertise { gw_id, duration }))
            }
            MsgType::SearchGw => {
                let radius = body.exactly(be_u8)?;
                Ok(Packet::SearchGw(SearchGw { radius }))
            }
            MsgType::GwInfo => {
                let (gw_id, gw_add) = body.leading(be_u8)?;
                Ok(Packet::GwInfo(GwInfo {
                    gw_id,
                    gw_add: gw_add.octets,
                }))
            }
            MsgType::Connect => connect(body),
            MsgType::Connack => {
                let return_code = body.exactly(return_code)?;
                Ok(Packet::Connack(Connack { return_code }))
            }
            MsgType::WillTopicReq => {
                body.end()?;
                Ok(Packet::WillTopicReq)
            }
            MsgType::WillTopic => {
                let will = will_topic(body).map_err(|e| e.answered(refused_connect()))?;
                Ok(Packet::WillTopic(will))
            }
            MsgType::WillMsgReq => {
                body.end()?;
                Ok(Packet::WillMsgReq)
            }
            MsgType::WillMsg => Ok(Packet::WillMsg(WillMsg { message: body.octets })),
            MsgType::Register => register(body),
            MsgType::Regack => {
                let (topic_id, msg_id, return_code) = body.exactly((topic_id, msg_id, return_code))?;
                Ok(Packet::Regack(Regack {
                    topic_id,
                    msg_id,
                    return_code,
                }))
            }
            MsgType::Publish => publish(body),
            MsgType::Puback => {
                let (topic_id, msg_id, return_code) = body.exactly((topic_id, msg_id, return_code))?;
                Ok(Packet::Puback(Puback {
                    topic_id,
                    msg_id,
                    return_code,
                }))
            }
            MsgType::Pubcomp => Ok(Packet::Pubcomp(body.exactly(msg_id)?)),
            MsgType::Pubrec => Ok(Packet::Pubrec(body.exactly(msg_id)?)),
            MsgType::Pubrel => Ok(Packet::Pubrel(body.exactly(msg_id)?)),
            MsgType::Subscribe => subscribe(body),
            MsgType::Suback => suback(body),
            MsgType::Unsubscribe => unsubscribe(body),
            MsgType::Unsuback => Ok(Packet::Unsuback(body.exactly(msg_id)?)),
            MsgType::Pingreq => {
                let client_id = if body.octets.is_empty() {
                    None
                } else {
                    Some(body.text()?)
                };
                Ok(Packet::Pingreq(Pingreq { client_id }))
            }
            MsgType::Pingresp => {
                body.end()?;
                Ok(Packet::Pingresp)
            }
            MsgType::Disconnect => disconnect(body),
            MsgType::WillTopicUpd => {
                let refused = Packet::WillTopicResp(ReturnCode::NotSupported);
                let will = will_topic(body).map_err(|e| e.answered(refused))?;
                Ok(Packet::WillTopicUpd(will))
            }
            MsgType::WillTopicResp => Ok(Packet::WillTopicResp(body.exactly(return_code)?)),
            MsgType::WillMsgUpd => Ok(Packet::WillMsgUpd(WillMsg { message: body.octets })),
            MsgType::WillMsgResp => Ok(Packet::WillMsgResp(body.exactly(return_code)?)),
            MsgType::Encapsulated => Err(DecodeError::new(ErrorKind::NestedEncapsulation, body.start - 1)),
        }
    }
}

/// Decodes a datagram as it comes from the network: one message, encapsulated by a forwarder or not.
///
/// # Errors
/// As [`Encapsulation::split`] and [`Packet::decode`]; the offset counts from the start of the datagram.
pub fn decode_message(datagram: &[u8]) -> Result<(Option<Encapsulation<'_>>, Packet<'_>), DecodeError> {
    let (encapsulation, message) = Encapsulation::split(datagram)?;
    let start = datagram.len() - message.len();
    let packet = Packet::decode(message).map_err(|e| e.moved_by(start))?;
    Ok((encapsulation, packet))
}

/// Decodes as [`decode_message`] and refuses what only a gateway sends: what a gateway calls for its input.
///
/// # Errors
/// As [`decode_message`], and [`ErrorKind::WrongDirection`].
pub fn decode_for_gateway(datagram: &[u8]) -> Result<(Option<Encapsulation<'_>>, Packet<'_>), DecodeError> {
    let (encapsulation, packet) = decode_message(datagram)?;
    match packet.direction() {
        Direction::ToGateway | Direction::Both => Ok((encapsulation, packet)),
        Direction::ToClient => {
            let header = encapsulation.map_or(0, |e| e.encoded_len());
            let type_offset = if datagram.get(header) == Some(&LONG_FORM) {
                3
            } else {
                1
            };
            Err(DecodeError::new(ErrorKind::WrongDirection, header + type_offset))
        }
    }
}

/// Octets of a message that are still to be read, and where they start in the datagram.
#[derive(Clone, Copy)]
struct Fields<'a> {
    octets: &'a [u8],
    start: usize,
}

impl<'a> Fields<'a> {
    /// Reads the fields of a message that ends with them.
    fn exactly<T>(self, parser: impl Parser<&'a [u8], Output = T, Error = ()>) -> Result<T, DecodeError> {
        let (value, rest) = self.leading(parser)?;
        rest.end()?;
        Ok(value)
    }

    /// Reads fields of fixed size and hands back what follows them.
    fn leading<T>(
        self,
        mut parser: impl Parser<&'a [u8], Output = T, Error = ()>,
    ) -> Result<(T, Fields<'a>), DecodeError> {
        let end = self.start + self.octets.len();
        match parser.parse(self.octets) {
            Ok((rest, value)) => Ok((
                value,
                Fields {
                    octets: rest,
                    start: end - rest.len(),
                },
            )),
            Err(_) => Err(DecodeError::new(ErrorKind::BodyTooShort, end)),
        }
    }

    /// Nothing may follow.
    fn end(self) -> Result<(), DecodeError> {
        if self.octets.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::new(ErrorKind::BodyTooLong, self.start))
        }
    }

    /// All octets as text; MQTT forbids U+0000 in every one of its strings (MQTT 3.1.1 §1.5.3).
    fn text(self) -> Result<&'a str, DecodeError> {
        let invalid = |at: usize| DecodeError::new(ErrorKind::InvalidUtf8, self.start + at);
        let text = core::str::from_utf8(self.octets).map_err(|e| invalid(e.valid_up_to()))?;
        match find(self.octets, |octet| octet == 0) {
            Some(at) => Err(invalid(at)),
            None => Ok(text),
        }
    }

    /// All octets as a topic that can be published to.
    fn topic_name(self) -> Result<&'a str, DecodeError> {
        if self.octets.is_empty() {
            return Err(DecodeError::new(ErrorKind::EmptyTopic, self.start));
        }
        let name = self.topic_text()?;
        match find(self.octets, topic::is_wildcard) {
            Some(at) => Err(DecodeError::new(ErrorKind::WildcardTopic, self.start + at)),
            None => Ok(name),
        }
    }

    /// What names and filters have in common: nothing that a broker may close the connection over.
    fn topic_text(self) -> Result<&'a str, DecodeError> {
        let text = self.text()?;
        if let Some(at) = topic::find_uncarried(text) {
            return Err(DecodeError::new(ErrorKind::InvalidUtf8, self.start + at));
        }
        if topic::has_too_many_levels(text) {
            return Err(DecodeError::new(ErrorKind::ForbiddenTopic, self.start));
        }
        Ok(text)
    }

    /// All octets as a topic that can be subscribed to.
    fn topic_filter(self) -> Result<&'a str, DecodeError> {
        if self.octets.is_empty() {
            return Err(DecodeError::new(ErrorKind::EmptyTopic, self.start));
        }
        let filter = self.topic_text()?;
        if topic::is_valid_filter(filter) {
            Ok(filter)
        } else {
            Err(DecodeError::new(ErrorKind::InvalidFilter, self.start))
        }
    }
}

/// Where the first of the octets looked for is.
///
/// Nearly every text has none. A loop that looks at all octets before it decides has no branch inside, and the
/// compiler turns it into vector instructions.
fn find(octets: &[u8], wanted: impl Fn(u8) -> bool) -> Option<usize> {
    if octets.iter().fold(false, |found, octet| found | wanted(*octet)) {
        octets.iter().position(|octet| wanted(*octet))
    } else {
        None
    }
}

/// Takes Length and MsgType off; the message must fill the datagram.
fn split_header(datagram: &[u8]) -> Result<(u8, Fields<'_>), DecodeError> {
    let Ok((body, (length, type_octet))) = header(datagram) else {
        return Err(DecodeError::new(ErrorKind::TruncatedHeader, datagram.len()));
    };
    let start = datagram.len() - body.len();
    // Paho's encoder takes the long form one octet count too early and then states 255 where it sends 257.
    // With this pair of numbers no other reading is possible, and the payload would lose two octets.
    let repaired = start == 4 && length == 255 && datagram.len() == 257;
    if length < start {
        return Err(DecodeError::new(ErrorKind::LengthTooSmall, 0));
    }
    if length != datagram.len() && !repaired {
        return Err(DecodeError::new(ErrorKind::LengthMismatch, 0));
    }
    Ok((type_octet, Fields { octets: body, start }))
}

/// Length in either form, then MsgType (§5.2).
fn header(i: &[u8]) -> IResult<&[u8], (usize, u8), ()> {
    let (i, first) = be_u8(i)?;
    let (i, length) = if first == LONG_FORM {
        map(be_u16, usize::from).parse(i)?
    } else {
        (i, usize::from(first))
    };
    let (i, type_octet) = be_u8(i)?;
    Ok((i, (length, type_octet)))
}

fn msg_id(i: &[u8]) -> IResult<&[u8], MsgId, ()> {
    map(be_u16, MsgId).parse(i)
}

fn topic_id(i: &[u8]) -> IResult<&[u8], TopicId, ()> {
    map(be_u16, TopicId).parse(i)
}

fn return_code(i: &[u8]) -> IResult<&[u8], ReturnCode, ()> {
    map(be_u8, ReturnCode::from).parse(i)
}

/// What refuses a CONNECT and also takes the place of the next prompt of a will handshake (§6.2).
fn refused_connect() -> Packet<'static> {
    Packet::Connack(Connack {
        return_code: ReturnCode::NotSupported,
    })
}

/// §5.4.5
fn connect(body: Fields<'_>) -> Result<Packet<'_>, DecodeError> {
    let ((flags, protocol_id, duration), client_id) = body.leading((be_u8, be_u8, be_u16))?;
    if protocol_id != PROTOCOL_ID {
        let error = DecodeError::new(ErrorKind::UnsupportedProtocolId, body.start + 1);
        return Err(error.answered(refused_connect()));
    }
    Ok(Packet::Connect(Connect {
        will: flags & flags::WILL != 0,
        clean_session: flags & flags::CLEAN_SESSION != 0,
        duration,
        client_id: client_id.text().map_err(|e| e.answered(refused_connect()))?,
    }))
}

/// §5.4.8 and §5.4.23; flags without a name mean what no flags mean: no will.
fn will_topic(body: Fields<'_>) -> Result<Option<WillTopic<'_>>, DecodeError> {
    if body.octets.len() <= 1 {
        return Ok(None);
    }
    let (flags, topic) = body.leading(be_u8)?;
    let Some(qos) = level(flags) else {
        return Err(DecodeError::new(ErrorKind::InvalidQos, body.start));
    };
    let name = topic.topic_name()?;
    if !topic::is_open_to_clients(name) {
        return Err(DecodeError::new(ErrorKind::ForbiddenTopic, topic.start));
    }
    Ok(Some(WillTopic {
        qos,
        retain: flags & flags::RETAIN != 0,
        topic: name,
    }))
}

/// §5.4.11
fn register(body: Fields<'_>) -> Result<Packet<'_>, DecodeError> {
    let ((topic_id, msg_id), topic_name) = body.leading((topic_id, msg_id))?;
    let refused = Packet::Regack(Regack {
        topic_id: TopicId::NONE,
        msg_id,
        return_code: ReturnCode::NotSupported,
    });
    let topic_name = topic_name.topic_name().map_err(|e| e.answered(refused))?;
    Ok(Packet::Register(Register {
        topic_id,
        msg_id,
        topic_name,
    }))
}

/// §5.4.13
fn publish(body: Fields<'_>) -> Result<Packet<'_>, DecodeError> {
    let ((flags, topic_id, msg_id), data) = body.leading((be_u8, topic_id, msg_id))?;
    let qos = level(flags).map_or(PublishQoS::MinusOne, PublishQoS::Level);
    let topic = match publish_topic(flags, topic_id, body.start) {
        Ok(topic) => topic,
        // §6.8: nothing is ever answered to QoS −1.
        Err(error) if qos == PublishQoS::MinusOne => return Err(error),
        // §6.6: an error is reported for every other QoS.
        Err(error) => {
            let return_code = match error.kind {
                ErrorKind::ReservedTopicIdType => ReturnCode::NotSupported,
                _ => ReturnCode::InvalidTopicId,
            };
            return Err(error.answered(Packet::Puback(Puback {
                topic_id,
                msg_id,
                return_code,
            })));
        }
    };
    Ok(Packet::Publish(Publish {
        dup: flags & flags::DUP != 0,
        qos,
        retain: flags & flags::RETAIN != 0,
        topic,
        msg_id,
        data: data.octets,
    }))
}

/// The topic of a `PUBLISH` whose flags octet is at `start`.
fn publish_topic(flags: u8, topic_id: TopicId, start: usize) -> Result<TopicRef, DecodeError> {
    let name = topic_id.0.to_be_bytes();
    match flags & flags::TOPIC_ID_TYPE {
        flags::NORMAL if level(flags).is_none() => {
            Err(DecodeError::new(ErrorKind::QosMinus1NormalTopic, start))
        }
        flags::NORMAL => Ok(TopicRef::Normal(assigned(topic_id, start + 1)?)),
        flags::PREDEFINED => Ok(TopicRef::Predefined(assigned(topic_id, start + 1)?)),
        flags::SHORT => {
            Fields {
                octets: &name,
                start: start + 1,
            }
            .topic_name()?;
            Ok(TopicRef::Short(ShortTopic(name)))
        }
        _ => Err(DecodeError::new(ErrorKind::ReservedTopicIdType, start)),
    }
}

/// §5.4.16
fn subscribe(body: Fields<'_>) -> Result<Packet<'_>, DecodeError> {
    let ((flags, msg_id), topic) = body.leading((be_u8, msg_id))?;
    let refused = |error: DecodeError| {
        let return_code = match error.kind {
            ErrorKind::BodyTooShort | ErrorKind::BodyTooLong => return error,
            ErrorKind::InvalidTopicId => ReturnCode::InvalidTopicId,
            _ => ReturnCode::NotSupported,
        };
        let topic_id = refused_topic_id(flags, topic);
        error.answered(Packet::Suback(Suback {
            qos: QoS::AtMostOnce,
            topic_id,
            msg_id,
            return_code,
        }))
    };
    let topic = subscribe_topic(flags, body.start, topic).map_err(refused)?;
    let Some(qos) = level(flags) else {
        return Err(refused(DecodeError::new(ErrorKind::InvalidQos, body.start)));
    };
    Ok(Packet::Subscribe(Subscribe {
        dup: flags & flags::DUP != 0,
        qos,
        msg_id,
        topic,
    }))
}

/// §5.4.18
fn unsubscribe(body: Fields<'_>) -> Result<Packet<'_>, DecodeError> {
    let ((flags, msg_id), topic) = body.leading((be_u8, msg_id))?;
    let topic = subscribe_topic(flags, body.start, topic).map_err(|error| match error.kind {
        ErrorKind::BodyTooShort | ErrorKind::BodyTooLong => error,
        // There was nothing to unsubscribe from; the client only needs to stop retrying.
        _ => error.answered(Packet::Unsuback(msg_id)),
    })?;
    Ok(Packet::Unsubscribe(Unsubscribe { msg_id, topic }))
}

/// The topic of a `SUBSCRIBE` or `UNSUBSCRIBE` whose flags octet is at `flags_at`.
fn subscribe_topic<'a>(
    flags: u8,
    flags_at: usize,
    topic: Fields<'a>,
) -> Result<TopicFilter<'a>, DecodeError> {
    match flags & flags::TOPIC_ID_TYPE {
        flags::NORMAL => Ok(TopicFilter::Name(topic.topic_filter()?)),
        flags::PREDEFINED => {
            let id = topic.exactly(topic_id)?;
            Ok(TopicFilter::Predefined(assigned(id, topic.start)?))
        }
        flags::SHORT => {
            let name = topic.exactly(be_u16)?;
            topic.topic_filter()?;
            Ok(TopicFilter::Short(ShortTopic(name.to_be_bytes())))
        }
        _ => Err(DecodeError::new(ErrorKind::ReservedTopicIdType, flags_at)),
    }
}

/// A refused `SUBSCRIBE` gets back the two octets it carried in the place of a topic id, or 0 for a name.
fn refused_topic_id(flags: u8, topic: Fields<'_>) -> TopicId {
    match flags & flags::TOPIC_ID_TYPE {
        flags::PREDEFINED | flags::SHORT => topic.exactly(topic_id).unwrap_or(TopicId::NONE),
        _ => TopicId::NONE,
    }
}

/// §5.4.17
fn suback(body: Fields<'_>) -> Result<Packet<'_>, DecodeError> {
    let (flags, topic_id, msg_id, return_code) = body.exactly((be_u8, topic_id, msg_id, return_code))?;
    let Some(qos) = level(flags) else {
        return Err(DecodeError::new(ErrorKind::InvalidQos, body.start));
    };
    Ok(Packet::Suback(Suback {
        qos,
        topic_id,
        msg_id,
        return_code,
    }))
}

/// §5.4.22
fn disconnect(body: Fields<'_>) -> Result<Packet<'_>, DecodeError> {
    if body.octets.is_empty() {
        return Ok(Packet::Disconnect(Disconnect { duration: None }));
    }
    let (duration, rest) = body.leading(be_u16)?;
    // A widely copied Arduino library counts its header twice and so sends two stray octets.
    if rest.octets.len() != 2 {
        rest.end()?;
    }
    Ok(Packet::Disconnect(Disconnect {
        duration: Some(duration),
    }))
}

/// The QoS bits; `None` is 0b11, which is −1 in a `PUBLISH` and has no meaning elsewhere (§5.3.4).
fn level(flags: u8) -> Option<QoS> {
    match flags & flags::QOS {
        flags::QOS_0 => Some(QoS::AtMostOnce),
        flags::QOS_1 => Some(QoS::AtLeastOnce),
        flags::QOS_2 => Some(QoS::ExactlyOnce),
        _ => None,
    }
}

/// §5.3.11: 0x0000 and 0xFFFF name no topic.
fn assigned(topic_id: TopicId, at: usize) -> Result<TopicId, DecodeError> {
    if topic_id.is_reserved() {
        Err(DecodeError::new(ErrorKind::InvalidTopicId, at))
    } else {
        Ok(topic_id)
    }
}
