//! Octets of a client into packets, with mqtt-protocol-core's parsers.
//!
//! The parsers are more lenient than a server may be. What they let pass is refused here: reserved bits, a will QoS of
//! 3, U+0000 in a string, octets after the packet's end, a second subscription identifier, DUP with QoS 0, packet id 0.
//! The other way round, they refuse a password without user name, which MQTT 5 allows (§3.1.2.9).

use std::sync::Arc;

use bytes::Bytes;
use mqtt_protocol_core::mqtt::ArcPayload;
use mqtt_protocol_core::mqtt::packet::{
    self as core_packet, MqttBinary, Property, Qos, SubEntry, v3_1_1, v5_0,
};
use mqtt_protocol_core::mqtt::result_code::MqttError;
use sn_codec::QoS;

use crate::embedded::packet::{
    Connect, Message, Properties, Received, RetainHandling, Subscription, Will, reason,
};

/// MQTT version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// 3.1.1
    V3,
    /// 5
    V5,
}

/// The fixed header of a packet (§2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Type and flags.
    pub(crate) first: u8,
    /// Octets of this header.
    pub(crate) header_len: usize,
    /// Octets that follow it.
    pub(crate) body_len: usize,
}

/// Why a client's octets end its connection: an MQTT 5 reason code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault(pub(crate) u8);

impl Fault {
    pub(crate) const MALFORMED: Fault = Fault(0x81);
    pub(crate) const PROTOCOL: Fault = Fault(reason::PROTOCOL_ERROR);
    const AUTHENTICATION_METHOD: Fault = Fault(0x8C);
}

impl From<MqttError> for Fault {
    fn from(error: MqttError) -> Self {
        match error as u16 {
            // The parser names the field in which a CONNECT is cut short or no UTF-8; a client id or credentials that
            // are merely unwelcome are another matter (MQTT-3.1.4-1).
            0x85 | 0x86 => Fault::MALFORMED,
            // Above 0xFF are the library's own: a packet too short, mostly.
            code => u8::try_from(code).map_or(Fault::MALFORMED, Fault),
        }
    }
}

/// A CONNECT and what of it concerns the connection alone.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) connect: Connect,
    /// Seconds; 0 for none.
    pub(crate) keep_alive: u16,
    /// The longest packet the client takes.
    pub(crate) packet_bytes: u32,
    /// Topic aliases that the client knows.
    pub(crate) aliases: u16,
}

/// A packet after CONNECT.
#[derive(Debug)]
pub(crate) enum Packet {
    Router(Received),
    /// A topic alias is to be set, or to be replaced by its topic if the message has none.
    Aliased {
        alias: u16,
        publish: Received,
    },
    PingReq,
}

/// Reads a fixed header; `None` if there is more to come.
pub(crate) fn header(octets: &[u8]) -> Result<Option<Header>, Fault> {
    let Some((&first, rest)) = octets.split_first() else {
        return Ok(None);
    };
    let mut body_len = 0;
    for (index, &octet) in rest.iter().take(4).enumerate() {
        body_len |= usize::from(octet & 0x7F) << (7 * index);
        if octet & 0x80 == 0 {
            return Ok(Some(Header {
                first,
                header_len: index + 2,
                body_len,
            }));
        }
    }
    if rest.len() < 4 {
        Ok(None)
    } else {
        Err(Fault::MALFORMED)
    }
}

/// The version a CONNECT asks for, as far as it is one that can be answered; `Err` of a version otherwise is how to say
/// no to it.
pub(crate) fn version(header: Header, body: &[u8]) -> Result<Version, Option<Version>> {
    // §3.1.2.1: another protocol's name is not worth an answer; MQIsdp is MQTT 3.1.
    match (header.first, body) {
        (0x10, [0, 4, b'M', b'Q', b'T', b'T', 4, ..]) => Ok(Version::V3),
        (0x10, [0, 4, b'M', b'Q', b'T', b'T', 5, ..]) => Ok(Version::V5),
        (
            0x10,
            [0, 4, b'M', b'Q', b'T', b'T', 0..=3, ..] | [0, 6, b'M', b'Q', b'I', b's', b'd', b'p', ..],
        ) => Err(Some(Version::V3)),
        (0x10, [0, 4, b'M', b'Q', b'T', b'T', 6..=0xFF, ..]) => Err(Some(Version::V5)),
        _ => Err(None),
    }
}

/// Reads the body of a CONNECT.
pub(crate) fn connect(version: Version, body: &[u8]) -> Result<Opening, Fault> {
    // §3.1.2.3: reserved bit, will QoS, and nothing about a will that there is not.
    let flags = body.get(7).copied().ok_or(Fault::MALFORMED)?;
    if flags & 0x01 != 0 || flags & 0x18 == 0x18 || (flags & 0x04 == 0 && flags & 0x38 != 0) {
        return Err(Fault::MALFORMED);
    }
    match version {
        Version::V3 => connect_v3(body),
        Version::V5 => connect_v5(body, flags),
    }
}

fn connect_v3(body: &[u8]) -> Result<Opening, Fault> {
    let parsed = whole(body, v3_1_1::Connect::parse)?;
    // MQTT-3.1.3-8.
    if parsed.client_id().is_empty() && !parsed.clean_session() {
        return Err(Fault(reason::CLIENT_ID_NOT_VALID));
    }
    texts([parsed.client_id(), parsed.user_name().unwrap_or_default()])?;
    let will = match (parsed.will_topic(), parsed.will_payload()) {
        (Some(topic), Some(payload)) => Some(Will {
            message: Message {
                topic: topic_of(topic)?,
                payload: Bytes::copy_from_slice(payload),
                qos: qos(parsed.will_qos()),
                retain: parsed.will_retain(),
                expiry: None,
                properties: None,
                receipt: None,
            },
            delay: 0,
        }),
        _ => None,
    };
    Ok(Opening {
        connect: Connect {
            client_id: parsed.client_id().to_owned(),
            clean_start: parsed.clean_session(),
            session_expiry: if parsed.clean_session() { 0 } else { u32::MAX },
            receive_maximum: u16::MAX,
            will,
        },
        keep_alive: parsed.keep_alive(),
        packet_bytes: u32::MAX,
        aliases: 0,
    })
}

fn connect_v5(body: &[u8], flags: u8) -> Result<Opening, Fault> {
    const USER_NAME: u8 = 0x80;
    const PASSWORD: u8 = 0x40;
    let parsed = if flags & PASSWORD != 0 && flags & USER_NAME == 0 {
        // The parser wants a user name with a password: it gets neither, and the password is what is left over.
        let mut without = body.to_vec();
        without[7] &= !PASSWORD;
        let (parsed, used) = v5_0::Connect::parse(&without)?;
        whole(&body[used..], MqttBinary::decode)?;
        parsed
    } else {
        whole(body, v5_0::Connect::parse)?
    };
    texts([parsed.client_id(), parsed.user_name().unwrap_or_default()])?;

    let mut opening = Opening {
        connect: Connect {
            client_id: parsed.client_id().to_owned(),
            clean_start: parsed.clean_start(),
            session_expiry: 0,
            receive_maximum: u16::MAX,
            will: None,
        },
        keep_alive: parsed.keep_alive(),
        packet_bytes: u32::MAX,
        aliases: 0,
    };
    let mut authentication = (false, false);
    for property in parsed.props() {
        match property {
            Property::SessionExpiryInterval(seconds) => opening.connect.session_expiry = seconds.val(),
            Property::ReceiveMaximum(messages) => opening.connect.receive_maximum = messages.val(),
            Property::MaximumPacketSize(octets) => opening.packet_bytes = octets.val(),
            Property::TopicAliasMaximum(aliases) => opening.aliases = aliases.val(),
            Property::AuthenticationMethod(_) => authentication.0 = true,
            Property::AuthenticationData(_) => authentication.1 = true,
            Property::UserProperty(pair) => texts([pair.key(), pair.val()])?,
            // Response information need not be given (§3.1.2.11.6), and there is no reason string or user property to
            // leave out (§3.1.2.11.7). The parser let no other through.
            _ => {}
        }
    }
    match authentication {
        (true, _) => return Err(Fault::AUTHENTICATION_METHOD),
        // §3.1.2.11.10
        (false, true) => return Err(Fault::PROTOCOL),
        (false, false) => {}
    }
    if let (Some(topic), Some(payload)) = (parsed.will_topic(), parsed.will_payload()) {
        let properties = message_properties(parsed.will_props())?;
        opening.connect.will = Some(Will {
            delay: properties.will_delay,
            message: Message {
                topic: topic_of(topic)?,
                payload: Bytes::copy_from_slice(payload),
                qos: qos(parsed.will_qos()),
                retain: parsed.will_retain(),
                expiry: properties.expiry,
                properties: properties.handed_on(),
                receipt: None,
            },
        });
    }
    Ok(opening)
}

/// Reads the body of any other packet that a client may send.
pub(crate) fn packet(version: Version, header: Header, body: &[u8]) -> Result<Packet, Fault> {
    // §2.1.3: reserved flags.
    let received = match (header.first, version) {
        (0x30..=0x3F, _) => return publish(version, header, body),
        (0x40, Version::V3) => Received::PubAck {
            packet_id: packet_id_v3(body)?,
        },
        (0x50, Version::V3) => Received::PubRec {
            packet_id: packet_id_v3(body)?,
            refused: false,
        },
        (0x62, Version::V3) => Received::PubRel {
            packet_id: packet_id_v3(body)?,
        },
        (0x70, Version::V3) => Received::PubComp {
            packet_id: packet_id_v3(body)?,
        },
        (0x40, Version::V5) => Received::PubAck {
            packet_id: whole(body, v5_0::Puback::parse)?.packet_id(),
        },
        (0x50, Version::V5) => {
            let parsed = whole(body, v5_0::Pubrec::parse)?;
            Received::PubRec {
                packet_id: parsed.packet_id(),
                refused: parsed.reason_code().is_some_and(|code| code as u8 >= 0x80),
            }
        }
        (0x62, Version::V5) => Received::PubRel {
            packet_id: whole(body, v5_0::Pubrel::parse)?.packet_id(),
        },
        (0x70, Version::V5) => Received::PubComp {
            packet_id: whole(body, v5_0::Pubcomp::parse)?.packet_id(),
        },
        (0x82, Version::V3) => {
            let parsed = whole(body, v3_1_1::Subscribe::parse)?;
            let mut filters = Vec::with_capacity(parsed.entries().len());
            for entry in parsed.entries() {
                // MQTT-3.8.3-4: the other bits are reserved.
                if entry.sub_opts().to_buffer()[0] > 2 {
                    return Err(Fault::MALFORMED);
                }
                filters.push(subscription(entry)?);
            }
            Received::Subscribe {
                packet_id: not_zero(parsed.packet_id())?,
                id: None,
                filters,
            }
        }
        (0x82, Version::V5) => {
            let parsed = whole(body, v5_0::Subscribe::parse)?;
            let mut id = None;
            for property in parsed.props() {
                match property {
                    Property::SubscriptionIdentifier(number) if id.is_none() => id = Some(number.val()),
                    // §3.8.2.1.2: once.
                    Property::SubscriptionIdentifier(_) => return Err(Fault::PROTOCOL),
                    Property::UserProperty(pair) => texts([pair.key(), pair.val()])?,
                    _ => {}
                }
            }
            let filters: Result<_, Fault> = parsed.entries().iter().map(subscription).collect();
            Received::Subscribe {
                packet_id: not_zero(parsed.packet_id())?,
                id,
                filters: filters?,
            }
        }
        (0xA2, Version::V3) => {
            let parsed = whole(body, v3_1_1::Unsubscribe::parse)?;
            unsubscribe(parsed.packet_id(), parsed.entries())?
        }
        (0xA2, Version::V5) => {
            let parsed = whole(body, v5_0::Unsubscribe::parse)?;
            unsubscribe(parsed.packet_id(), parsed.entries())?
        }
        (0xC0, _) if body.is_empty() => return Ok(Packet::PingReq),
        (0xE0, Version::V3) if body.is_empty() => Received::Disconnect {
            with_will: false,
            session_expiry: None,
        },
        (0xE0, Version::V5) => {
            let parsed = whole(body, v5_0::Disconnect::parse)?;
            let session_expiry = parsed
                .props()
                .iter()
                .flatten()
                .find_map(|property| match property {
                    Property::SessionExpiryInterval(seconds) => Some(seconds.val()),
                    _ => None,
                });
            Received::Disconnect {
                // §3.14.2.1: any reason but a normal end is one for the will (MQTT-3.14.4-3).
                with_will: parsed.reason_code().is_some_and(|code| code as u8 != 0),
                session_expiry,
            }
        }
        // §3.1: CONNECT once; §4.12: AUTH only after a CONNECT with a method, which is refused.
        (0x10 | 0xF0, _) => return Err(Fault::PROTOCOL),
        _ => return Err(Fault::MALFORMED),
    };
    Ok(Packet::Router(received))
}

fn publish(version: Version, header: Header, body: &[u8]) -> Result<Packet, Fault> {
    let flags = header.first & 0x0F;
    // The one copy of the payload: read buffer to message.
    let body: Arc<[u8]> = Arc::from(body);
    let len = header.header_len + body.len();
    let dup = flags & 0x08 != 0;
    let retain = flags & 0x01 != 0;

    let mut alias = None;
    let (packet_id, message) = match version {
        Version::V3 => {
            let (parsed, _) = v3_1_1::Publish::parse(flags, body)?;
            let message = Message {
                topic: topic_of(parsed.topic_name())?,
                payload: payload(parsed.payload()),
                qos: qos(parsed.qos()),
                retain,
                expiry: None,
                properties: None,
                receipt: None,
            };
            (parsed.packet_id(), message)
        }
        Version::V5 => {
            let (parsed, _) = v5_0::Publish::parse(flags, body)?;
            // Shorter means that it has no property length, longer that one is not in its shortest form.
            if parsed.size() != len {
                return Err(Fault::MALFORMED);
            }
            let properties = message_properties(parsed.props())?;
            alias = properties.alias;
            let message = Message {
                topic: topic_of(parsed.topic_name())?,
                payload: payload(parsed.payload()),
                qos: qos(parsed.qos()),
                retain,
                expiry: properties.expiry,
                properties: properties.handed_on(),
                receipt: None,
            };
            (parsed.packet_id(), message)
        }
    };
    let packet_id = match (message.qos, packet_id) {
        // MQTT-3.3.1-2.
        (QoS::AtMostOnce, _) if dup => return Err(Fault::MALFORMED),
        (QoS::AtMostOnce, _) => 0,
        (QoS::AtLeastOnce | QoS::ExactlyOnce, id) => not_zero(id.unwrap_or_default())?,
    };
    if version == Version::V5 && message.topic.is_empty() && alias.is_none() {
        // §3.3.2.1
        return Err(Fault::PROTOCOL);
    }
    let publish = Received::Publish {
        packet_id,
        dup,
        message,
    };
    Ok(match alias {
        Some(alias) => Packet::Aliased { alias, publish },
        None => Packet::Router(publish),
    })
}

/// Properties of a PUBLISH or a will.
#[derive(Default)]
struct MessageProperties {
    handed_on: Properties,
    expiry: Option<u32>,
    will_delay: u32,
    alias: Option<u16>,
}

impl MessageProperties {
    fn handed_on(self) -> Option<Box<Properties>> {
        (self.handed_on != Properties::default()).then(|| Box::new(self.handed_on))
    }
}

fn message_properties(properties: &[Property]) -> Result<MessageProperties, Fault> {
    let mut found = MessageProperties::default();
    let handed_on = &mut found.handed_on;
    for property in properties {
        match property {
            Property::PayloadFormatIndicator(format) => handed_on.payload_format = Some(format.val()),
            Property::MessageExpiryInterval(seconds) => found.expiry = Some(seconds.val()),
            Property::TopicAlias(alias) => found.alias = Some(alias.val()),
            Property::WillDelayInterval(seconds) => found.will_delay = seconds.val(),
            Property::ContentType(kind) => {
                texts([kind.val()])?;
                handed_on.content_type = Some(kind.val().to_owned());
            }
            Property::ResponseTopic(topic) => {
                texts([topic.val()])?;
                // MQTT-3.3.2-14.
                if topic.val().contains(['#', '+']) {
                    return Err(Fault::PROTOCOL);
                }
                handed_on.response_topic = Some(topic.val().to_owned());
            }
            Property::CorrelationData(data) => {
                handed_on.correlation_data = Some(Bytes::copy_from_slice(data.val()));
            }
            Property::UserProperty(pair) => {
                texts([pair.key(), pair.val()])?;
                handed_on
                    .user
                    .push((pair.key().to_owned(), pair.val().to_owned()));
            }
            // MQTT-3.3.4-6: only a server names subscriptions.
            Property::SubscriptionIdentifier(_) => return Err(Fault::PROTOCOL),
            // The parser let no other through.
            _ => {}
        }
    }
    Ok(found)
}

fn subscription(entry: &SubEntry) -> Result<Subscription, Fault> {
    let options = entry.sub_opts();
    // §3.8.3.1: reserved bits.
    if options.to_buffer()[0] & 0xC0 != 0 {
        return Err(Fault::MALFORMED);
    }
    texts([entry.topic_filter()])?;
    Ok(Subscription {
        filter: entry.topic_filter().to_owned(),
        qos: qos(options.qos()),
        no_local: options.nl(),
        retain_as_published: options.rap(),
        retain_handling: match options.rh() {
            core_packet::RetainHandling::SendRetained => RetainHandling::Send,
            core_packet::RetainHandling::SendRetainedIfNotExists => RetainHandling::SendIfNew,
            core_packet::RetainHandling::DoNotSendRetained => RetainHandling::DoNotSend,
        },
    })
}

fn unsubscribe(packet_id: u16, entries: &[core_packet::MqttString]) -> Result<Received, Fault> {
    let mut filters = Vec::with_capacity(entries.len());
    for entry in entries {
        texts([entry.as_str()])?;
        filters.push(entry.as_str().to_owned());
    }
    Ok(Received::Unsubscribe {
        packet_id: not_zero(packet_id)?,
        filters,
    })
}

/// Shares the packet's octets instead of copying them once more.
fn payload(payload: &ArcPayload) -> Bytes {
    struct Owner(ArcPayload);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            self.0.as_slice()
        }
    }
    if payload.is_empty() {
        return Bytes::new();
    }
    Bytes::from_owner(Owner(payload.clone()))
}

/// A packet that fills its body.
fn whole<T>(body: &[u8], parse: impl FnOnce(&[u8]) -> Result<(T, usize), MqttError>) -> Result<T, Fault> {
    let (parsed, used) = parse(body)?;
    if used == body.len() {
        Ok(parsed)
    } else {
        Err(Fault::MALFORMED)
    }
}

/// MQTT-1.5.4-2: no U+0000 in a string.
fn texts<const N: usize>(texts: [&str; N]) -> Result<(), Fault> {
    if texts.iter().any(|text| text.contains('\0')) {
        return Err(Fault::MALFORMED);
    }
    Ok(())
}

fn topic_of(topic: &str) -> Result<Arc<str>, Fault> {
    texts([topic])?;
    Ok(Arc::from(topic))
}

fn packet_id_v3(body: &[u8]) -> Result<u16, Fault> {
    let octets = <[u8; 2]>::try_from(body).map_err(|_| Fault::MALFORMED)?;
    not_zero(u16::from_be_bytes(octets))
}

/// MQTT-2.2.1-3.
fn not_zero(packet_id: u16) -> Result<u16, Fault> {
    if packet_id == 0 {
        return Err(Fault::PROTOCOL);
    }
    Ok(packet_id)
}

fn qos(qos: Qos) -> QoS {
    match qos {
        Qos::AtMostOnce => QoS::AtMostOnce,
        Qos::AtLeastOnce => QoS::AtLeastOnce,
        Qos::ExactlyOnce => QoS::ExactlyOnce,
    }
}
