//! MQTT 3.1.1 and 5 packets and their octets. It shares nothing with the broker.
//!
//! Decoding is strict: what a server must not send (reserved bits, a property or reason code that the packet does not
//! have, octets left over) is an error, and so a failed test.

use std::fmt;

/// MQTT version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// 3.1.1
    V3,
    /// 5
    V5,
}

/// A control packet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Packet {
    Connect(Connect),
    ConnAck {
        session_present: bool,
        code: u8,
        props: Props,
    },
    Publish(Publish),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    Subscribe {
        id: u16,
        filters: Vec<(String, u8)>,
        props: Props,
    },
    SubAck {
        id: u16,
        codes: Vec<u8>,
        props: Props,
    },
    Unsubscribe {
        id: u16,
        filters: Vec<String>,
        props: Props,
    },
    UnsubAck {
        id: u16,
        codes: Vec<u8>,
        props: Props,
    },
    PingReq,
    PingResp,
    Disconnect {
        code: u8,
        props: Props,
    },
    Auth {
        code: u8,
        props: Props,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Connect {
    pub(crate) client_id: String,
    /// Clean session, clean start.
    pub(crate) clean: bool,
    pub(crate) keep_alive: u16,
    pub(crate) will: Option<Will>,
    pub(crate) user_name: Option<String>,
    pub(crate) password: Option<Vec<u8>>,
    pub(crate) props: Props,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) props: Props,
}

#[derive(Clone, PartialEq)]
pub(crate) struct Publish {
    pub(crate) dup: bool,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) topic: String,
    /// 0 with QoS 0.
    pub(crate) id: u16,
    pub(crate) payload: Vec<u8>,
    pub(crate) props: Props,
}

/// PUBACK and its kin.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ack {
    pub(crate) id: u16,
    /// 0 in 3.1.1.
    pub(crate) code: u8,
    pub(crate) props: Props,
}

pub(crate) type Props = Vec<Prop>;

/// A property of MQTT 5.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Prop {
    PayloadFormat(u8),
    MessageExpiry(u32),
    ContentType(String),
    ResponseTopic(String),
    CorrelationData(Vec<u8>),
    SubscriptionId(u32),
    SessionExpiry(u32),
    AssignedClientId(String),
    ServerKeepAlive(u16),
    AuthMethod(String),
    AuthData(Vec<u8>),
    RequestProblemInfo(u8),
    WillDelay(u32),
    RequestResponseInfo(u8),
    ResponseInfo(String),
    ServerReference(String),
    Reason(String),
    ReceiveMaximum(u16),
    TopicAliasMaximum(u16),
    TopicAlias(u16),
    MaximumQos(u8),
    RetainAvailable(u8),
    User(String, String),
    MaximumPacketSize(u32),
    WildcardAvailable(u8),
    SubscriptionIdAvailable(u8),
    SharedAvailable(u8),
}

impl Connect {
    /// Clean, no keep-alive, no will.
    pub(crate) fn new(client_id: &str) -> Self {
        Connect {
            client_id: client_id.into(),
            clean: true,
            keep_alive: 0,
            will: None,
            user_name: None,
            password: None,
            props: Vec::new(),
        }
    }

    /// With a session that outlives the connection, in `version`'s way.
    pub(crate) fn kept(version: Version, client_id: &str) -> Self {
        let props = match version {
            Version::V3 => Vec::new(),
            Version::V5 => vec![Prop::SessionExpiry(3600)],
        };
        Connect {
            clean: false,
            props,
            ..Connect::new(client_id)
        }
    }

    pub(crate) fn will(self, topic: &str, payload: &str) -> Self {
        let will = Will {
            topic: topic.into(),
            payload: payload.into(),
            qos: 0,
            retain: false,
            props: Vec::new(),
        };
        Connect {
            will: Some(will),
            ..self
        }
    }

    pub(crate) fn will_qos(mut self, qos: u8) -> Self {
        self.will.as_mut().unwrap().qos = qos;
        self
    }

    pub(crate) fn will_retain(mut self) -> Self {
        self.will.as_mut().unwrap().retain = true;
        self
    }

    pub(crate) fn will_prop(mut self, prop: Prop) -> Self {
        self.will.as_mut().unwrap().props.push(prop);
        self
    }

    pub(crate) fn prop(mut self, prop: Prop) -> Self {
        self.props.push(prop);
        self
    }
}

impl Publish {
    /// QoS 0, not retained.
    pub(crate) fn new(topic: &str, payload: impl AsRef<[u8]>) -> Self {
        Publish {
            dup: false,
            qos: 0,
            retain: false,
            topic: topic.into(),
            id: 0,
            payload: payload.as_ref().to_vec(),
            props: Vec::new(),
        }
    }

    pub(crate) fn qos(self, qos: u8, id: u16) -> Self {
        Publish { qos, id, ..self }
    }

    pub(crate) fn retain(self) -> Self {
        Publish { retain: true, ..self }
    }

    pub(crate) fn dup(self) -> Self {
        Publish { dup: true, ..self }
    }

    pub(crate) fn prop(mut self, prop: Prop) -> Self {
        self.props.push(prop);
        self
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    /// The value of Message Expiry Interval.
    pub(crate) fn expiry(&self) -> Option<u32> {
        self.props.iter().find_map(|prop| match prop {
            Prop::MessageExpiry(seconds) => Some(*seconds),
            _ => None,
        })
    }

    /// All subscription identifiers, in ascending order.
    pub(crate) fn subscription_ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self
            .props
            .iter()
            .filter_map(|prop| match prop {
                Prop::SubscriptionId(id) => Some(*id),
                _ => None,
            })
            .collect();
        ids.sort_unstable();
        ids
    }
}

impl fmt::Debug for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Publish {{ {:?} qos {}", self.topic, self.qos)?;
        if self.qos > 0 {
            write!(f, " id {}", self.id)?;
        }
        if self.dup {
            write!(f, " dup")?;
        }
        if self.retain {
            write!(f, " retain")?;
        }
        if self.payload.len() <= 40 {
            write!(f, " {:?}", self.text())?;
        } else {
            write!(f, " {} octets", self.payload.len())?;
        }
        if !self.props.is_empty() {
            write!(f, " {:?}", self.props)?;
        }
        write!(f, " }}")
    }
}

impl Packet {
    pub(crate) fn subscribe(id: u16, filter: &str, options: u8) -> Self {
        Packet::Subscribe {
            id,
            filters: vec![(filter.into(), options)],
            props: Vec::new(),
        }
    }

    pub(crate) fn unsubscribe(id: u16, filter: &str) -> Self {
        Packet::Unsubscribe {
            id,
            filters: vec![filter.into()],
            props: Vec::new(),
        }
    }

    pub(crate) fn disconnect() -> Self {
        Packet::Disconnect {
            code: 0,
            props: Vec::new(),
        }
    }

    pub(crate) fn pub_ack(id: u16) -> Self {
        Packet::PubAck(Ack::new(id))
    }

    pub(crate) fn pub_rec(id: u16) -> Self {
        Packet::PubRec(Ack::new(id))
    }

    pub(crate) fn pub_rel(id: u16) -> Self {
        Packet::PubRel(Ack::new(id))
    }

    pub(crate) fn pub_comp(id: u16) -> Self {
        Packet::PubComp(Ack::new(id))
    }
}

impl Ack {
    pub(crate) fn new(id: u16) -> Self {
        Ack {
            id,
            code: 0,
            props: Vec::new(),
        }
    }

    pub(crate) fn code(id: u16, code: u8) -> Self {
        Ack {
            id,
            code,
            props: Vec::new(),
        }
    }
}

// Writing

/// A packet out of its first octet and the pieces of the rest, valid or not.
pub(crate) fn frame(first: u8, pieces: &[&[u8]]) -> Vec<u8> {
    let body = pieces.concat();
    let mut octets = vec![first];
    put_variable(&mut octets, body.len() as u32);
    octets.extend(body);
    octets
}

/// A string with its length in front; any octets.
pub(crate) fn text(octets: impl AsRef<[u8]>) -> Vec<u8> {
    let octets = octets.as_ref();
    [&(octets.len() as u16).to_be_bytes(), octets].concat()
}

fn put_variable(out: &mut Vec<u8>, mut value: u32) {
    loop {
        let octet = (value % 128) as u8;
        value /= 128;
        if value == 0 {
            out.push(octet);
            return;
        }
        out.push(octet | 0x80);
    }
}

fn properties(version: Version, props: &Props) -> Vec<u8> {
    let mut out = Vec::new();
    if version == Version::V5 {
        let body: Vec<u8> = props.iter().flat_map(Prop::encode).collect();
        put_variable(&mut out, body.len() as u32);
        out.extend(body);
    } else {
        assert!(props.is_empty(), "3.1.1 has no properties");
    }
    out
}

impl Packet {
    pub(crate) fn encode(&self, version: Version) -> Vec<u8> {
        match self {
            Packet::Connect(connect) => connect.encode(version),
            Packet::ConnAck { .. } => unreachable!("a client does not send CONNACK"),
            Packet::Publish(publish) => publish.encode(version),
            Packet::PubAck(ack) => ack.encode(version, 0x40),
            Packet::PubRec(ack) => ack.encode(version, 0x50),
            Packet::PubRel(ack) => ack.encode(version, 0x62),
            Packet::PubComp(ack) => ack.encode(version, 0x70),
            Packet::Subscribe { id, filters, props } => {
                let filters: Vec<u8> = filters
                    .iter()
                    .flat_map(|(filter, options)| [text(filter), vec![*options]].concat())
                    .collect();
                frame(0x82, &[&id.to_be_bytes(), &properties(version, props), &filters])
            }
            Packet::SubAck { .. } => unreachable!("a client does not send SUBACK"),
            Packet::Unsubscribe { id, filters, props } => {
                let filters: Vec<u8> = filters.iter().flat_map(text).collect();
                frame(0xa2, &[&id.to_be_bytes(), &properties(version, props), &filters])
            }
            Packet::UnsubAck { .. } => unreachable!("a client does not send UNSUBACK"),
            Packet::PingReq => frame(0xc0, &[]),
            Packet::PingResp => unreachable!("a client does not send PINGRESP"),
            Packet::Disconnect { code, props } => match version {
                Version::V3 => frame(0xe0, &[]),
                Version::V5 if *code == 0 && props.is_empty() => frame(0xe0, &[]),
                Version::V5 => frame(0xe0, &[&[*code], &properties(version, props)]),
            },
            Packet::Auth { code, props } => frame(0xf0, &[&[*code], &properties(version, props)]),
        }
    }
}

impl Connect {
    pub(crate) fn encode(&self, version: Version) -> Vec<u8> {
        let level = match version {
            Version::V3 => 4,
            Version::V5 => 5,
        };
        let mut flags = u8::from(self.clean) << 1;
        let mut payload = text(&self.client_id);
        if let Some(will) = &self.will {
            flags |= 0x04 | will.qos << 3 | u8::from(will.retain) << 5;
            payload.extend(properties(version, &will.props));
            payload.extend(text(&will.topic));
            payload.extend(text(&will.payload));
        }
        if let Some(user_name) = &self.user_name {
            flags |= 0x80;
            payload.extend(text(user_name));
        }
        if let Some(password) = &self.password {
            flags |= 0x40;
            payload.extend(text(password));
        }
        let properties = properties(version, &self.props);
        frame(
            0x10,
            &[
                &text("MQTT"),
                &[level, flags],
                &self.keep_alive.to_be_bytes(),
                &properties,
                &payload,
            ],
        )
    }
}

impl Publish {
    pub(crate) fn encode(&self, version: Version) -> Vec<u8> {
        let first = 0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        let id = if self.qos == 0 {
            Vec::new()
        } else {
            self.id.to_be_bytes().to_vec()
        };
        frame(
            first,
            &[
                &text(&self.topic),
                &id,
                &properties(version, &self.props),
                &self.payload,
            ],
        )
    }
}

impl Ack {
    fn encode(&self, version: Version, first: u8) -> Vec<u8> {
        if version == Version::V3 || (self.code == 0 && self.props.is_empty()) {
            frame(first, &[&self.id.to_be_bytes()])
        } else {
            frame(
                first,
                &[
                    &self.id.to_be_bytes(),
                    &[self.code],
                    &properties(version, &self.props),
                ],
            )
        }
    }
}

impl Prop {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.number()];
        match self {
            Prop::PayloadFormat(value)
            | Prop::RequestProblemInfo(value)
            | Prop::RequestResponseInfo(value)
            | Prop::MaximumQos(value)
            | Prop::RetainAvailable(value)
            | Prop::WildcardAvailable(value)
            | Prop::SubscriptionIdAvailable(value)
            | Prop::SharedAvailable(value) => out.push(*value),
            Prop::ServerKeepAlive(value)
            | Prop::ReceiveMaximum(value)
            | Prop::TopicAliasMaximum(value)
            | Prop::TopicAlias(value) => out.extend(value.to_be_bytes()),
            Prop::MessageExpiry(value)
            | Prop::SessionExpiry(value)
            | Prop::WillDelay(value)
            | Prop::MaximumPacketSize(value) => out.extend(value.to_be_bytes()),
            Prop::SubscriptionId(value) => put_variable(&mut out, *value),
            Prop::ContentType(value)
            | Prop::ResponseTopic(value)
            | Prop::AssignedClientId(value)
            | Prop::AuthMethod(value)
            | Prop::ResponseInfo(value)
            | Prop::ServerReference(value)
            | Prop::Reason(value) => out.extend(text(value)),
            Prop::CorrelationData(value) | Prop::AuthData(value) => out.extend(text(value)),
            Prop::User(name, value) => {
                out.extend(text(name));
                out.extend(text(value));
            }
        }
        out
    }

    fn number(&self) -> u8 {
        match self {
            Prop::PayloadFormat(_) => 0x01,
            Prop::MessageExpiry(_) => 0x02,
            Prop::ContentType(_) => 0x03,
            Prop::ResponseTopic(_) => 0x08,
            Prop::CorrelationData(_) => 0x09,
            Prop::SubscriptionId(_) => 0x0b,
            Prop::SessionExpiry(_) => 0x11,
            Prop::AssignedClientId(_) => 0x12,
            Prop::ServerKeepAlive(_) => 0x13,
            Prop::AuthMethod(_) => 0x15,
            Prop::AuthData(_) => 0x16,
            Prop::RequestProblemInfo(_) => 0x17,
            Prop::WillDelay(_) => 0x18,
            Prop::RequestResponseInfo(_) => 0x19,
            Prop::ResponseInfo(_) => 0x1a,
            Prop::ServerReference(_) => 0x1c,
            Prop::Reason(_) => 0x1f,
            Prop::ReceiveMaximum(_) => 0x21,
            Prop::TopicAliasMaximum(_) => 0x22,
            Prop::TopicAlias(_) => 0x23,
            Prop::MaximumQos(_) => 0x24,
            Prop::RetainAvailable(_) => 0x25,
            Prop::User(..) => 0x26,
            Prop::MaximumPacketSize(_) => 0x27,
            Prop::WildcardAvailable(_) => 0x28,
            Prop::SubscriptionIdAvailable(_) => 0x29,
            Prop::SharedAvailable(_) => 0x2a,
        }
    }
}

// Reading

/// Properties and reason codes that a server may put into a packet (MQTT 5 Table 2-4 and the tables of section 3).
struct Allowed {
    props: &'static [u8],
    codes: &'static [u8],
}

const CONNACK: Allowed = Allowed {
    props: &[
        0x11, 0x12, 0x13, 0x15, 0x16, 0x1a, 0x1c, 0x1f, 0x21, 0x22, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a,
    ],
    codes: &[
        0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97, 0x99,
        0x9a, 0x9b, 0x9c, 0x9d, 0x9f,
    ],
};
const PUBLISH: Allowed = Allowed {
    props: &[0x01, 0x02, 0x03, 0x08, 0x09, 0x0b, 0x23, 0x26],
    codes: &[],
};
const PUBACK_PUBREC: Allowed = Allowed {
    props: &[0x1f, 0x26],
    codes: &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
};
const PUBREL_PUBCOMP: Allowed = Allowed {
    props: &[0x1f, 0x26],
    codes: &[0x00, 0x92],
};
const SUBACK: Allowed = Allowed {
    props: &[0x1f, 0x26],
    codes: &[
        0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2,
    ],
};
const UNSUBACK: Allowed = Allowed {
    props: &[0x1f, 0x26],
    codes: &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91],
};
const DISCONNECT: Allowed = Allowed {
    props: &[0x1c, 0x1f, 0x26],
    codes: &[
        0x00, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98,
        0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
    ],
};
const AUTH: Allowed = Allowed {
    props: &[0x15, 0x16, 0x1f, 0x26],
    codes: &[0x00, 0x18],
};

/// Takes one whole packet from the front of `octets`; `None` if it is not all there.
pub(crate) fn take(version: Version, octets: &mut Vec<u8>) -> Result<Option<Packet>, String> {
    let mut length = 0;
    for n in 1.. {
        let Some(&octet) = octets.get(n) else {
            return if n <= 4 {
                Ok(None)
            } else {
                Err("a remaining length of five octets".into())
            };
        };
        if n > 4 {
            return Err("a remaining length of five octets".into());
        }
        length |= usize::from(octet & 0x7f) << (7 * (n - 1));
        if octet & 0x80 == 0 {
            if n > 1 && octet == 0 {
                return Err("a remaining length with octets to spare".into());
            }
            let end = 1 + n + length;
            if octets.len() < end {
                return Ok(None);
            }
            let packet: Vec<u8> = octets.drain(..end).collect();
            return match decode(version, packet[0], &packet[1 + n..]) {
                Ok(decoded) => Ok(Some(decoded)),
                Err(error) => Err(format!("{error}: {packet:02x?}")),
            };
        }
    }
    unreachable!("the loop ends at the fifth octet")
}

fn decode(version: Version, first: u8, body: &[u8]) -> Result<Packet, String> {
    let mut reader = Reader { version, rest: body };
    let r = &mut reader;
    let packet = match first {
        0x20 => {
            let flags = r.octet()?;
            if flags & 0xfe != 0 {
                return Err("reserved flags of CONNACK".into());
            }
            let code = r.octet()?;
            let valid = match version {
                Version::V3 => code <= 5,
                // A version that it does not know a server may refuse in the words of 3.1.1.
                Version::V5 if r.rest.is_empty() => code == 1,
                Version::V5 => CONNACK.codes.contains(&code),
            };
            if !valid {
                return Err(format!("CONNACK code {code:#04x}"));
            }
            if code != 0 && flags != 0 {
                return Err("session present in a refusal".into());
            }
            let props = if r.rest.is_empty() {
                Vec::new()
            } else {
                r.props(&CONNACK)?
            };
            Packet::ConnAck {
                session_present: flags == 1,
                code,
                props,
            }
        }
        0x30..=0x3f => {
            let qos = (first >> 1) & 3;
            if qos == 3 {
                return Err("QoS 3".into());
            }
            let dup = first & 8 != 0;
            if qos == 0 && dup {
                return Err("DUP with QoS 0".into());
            }
            let topic = r.text()?;
            let id = if qos > 0 { r.id()? } else { 0 };
            let props = r.props(&PUBLISH)?;
            let payload = std::mem::take(&mut r.rest).to_vec();
            Packet::Publish(Publish {
                dup,
                qos,
                retain: first & 1 != 0,
                topic,
                id,
                payload,
                props,
            })
        }
        0x40 => Packet::PubAck(r.ack(&PUBACK_PUBREC)?),
        0x50 => Packet::PubRec(r.ack(&PUBACK_PUBREC)?),
        0x62 => Packet::PubRel(r.ack(&PUBREL_PUBCOMP)?),
        0x70 => Packet::PubComp(r.ack(&PUBREL_PUBCOMP)?),
        0x90 => {
            let id = r.id()?;
            let props = r.props(&SUBACK)?;
            let codes = std::mem::take(&mut r.rest).to_vec();
            let valid = match version {
                Version::V3 => &[0, 1, 2, 0x80],
                Version::V5 => SUBACK.codes,
            };
            if codes.is_empty() || codes.iter().any(|code| !valid.contains(code)) {
                return Err(format!("SUBACK codes {codes:02x?}"));
            }
            Packet::SubAck { id, codes, props }
        }
        0xb0 => {
            let id = r.id()?;
            let props = r.props(&UNSUBACK)?;
            let codes = std::mem::take(&mut r.rest).to_vec();
            let valid = match version {
                Version::V3 => codes.is_empty(),
                Version::V5 => !codes.is_empty() && codes.iter().all(|code| UNSUBACK.codes.contains(code)),
            };
            if !valid {
                return Err(format!("UNSUBACK codes {codes:02x?}"));
            }
            Packet::UnsubAck { id, codes, props }
        }
        0xd0 => Packet::PingResp,
        0xe0 if version == Version::V5 => {
            let (code, props) = r.code_and_props(&DISCONNECT)?;
            Packet::Disconnect { code, props }
        }
        0xf0 if version == Version::V5 => {
            let (code, props) = r.code_and_props(&AUTH)?;
            Packet::Auth { code, props }
        }
        _ => {
            return Err(format!(
                "a server does not send a packet that begins with {first:#04x}"
            ));
        }
    };
    if reader.rest.is_empty() {
        Ok(packet)
    } else {
        Err("octets left over".into())
    }
}

struct Reader<'a> {
    version: Version,
    rest: &'a [u8],
}

impl Reader<'_> {
    fn octets(&mut self, count: usize) -> Result<&[u8], String> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("it ends early")?;
        self.rest = rest;
        Ok(taken)
    }

    fn octet(&mut self) -> Result<u8, String> {
        Ok(self.octets(1)?[0])
    }

    fn short(&mut self) -> Result<u16, String> {
        Ok(u16::from_be_bytes(self.octets(2)?.try_into().unwrap()))
    }

    fn long(&mut self) -> Result<u32, String> {
        Ok(u32::from_be_bytes(self.octets(4)?.try_into().unwrap()))
    }

    fn variable(&mut self) -> Result<u32, String> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let octet = self.octet()?;
            value |= u32::from(octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                return if shift > 0 && octet == 0 {
                    Err("a variable byte integer with octets to spare".into())
                } else {
                    Ok(value)
                };
            }
        }
        Err("a variable byte integer of five octets".into())
    }

    fn id(&mut self) -> Result<u16, String> {
        match self.short()? {
            0 => Err("packet id 0".into()),
            id => Ok(id),
        }
    }

    fn binary(&mut self) -> Result<Vec<u8>, String> {
        let length = self.short()?;
        Ok(self.octets(length.into())?.to_vec())
    }

    fn text(&mut self) -> Result<String, String> {
        let text = String::from_utf8(self.binary()?).map_err(|error| error.to_string())?;
        if text.contains('\0') {
            Err("U+0000 in a string".into())
        } else {
            Ok(text)
        }
    }

    fn ack(&mut self, allowed: &Allowed) -> Result<Ack, String> {
        let id = self.id()?;
        let (code, props) = self.code_and_props(allowed)?;
        Ok(Ack { id, code, props })
    }

    /// Both may be left out in MQTT 5, and do not exist in 3.1.1.
    fn code_and_props(&mut self, allowed: &Allowed) -> Result<(u8, Props), String> {
        if self.version == Version::V3 || self.rest.is_empty() {
            return Ok((0, Vec::new()));
        }
        let code = self.octet()?;
        if !allowed.codes.contains(&code) {
            return Err(format!("reason code {code:#04x}"));
        }
        let props = if self.rest.is_empty() {
            Vec::new()
        } else {
            self.props(allowed)?
        };
        Ok((code, props))
    }

    fn props(&mut self, allowed: &Allowed) -> Result<Props, String> {
        let mut props = Vec::new();
        if self.version == Version::V3 {
            return Ok(props);
        }
        let length = self.variable()? as usize;
        let mut reader = Reader {
            version: self.version,
            rest: self.octets(length)?,
        };
        while !reader.rest.is_empty() {
            let prop = reader.prop()?;
            let number = prop.number();
            if !allowed.props.contains(&number) {
                return Err(format!("{prop:?} does not belong here"));
            }
            let may_repeat = matches!(prop, Prop::User(..) | Prop::SubscriptionId(_));
            if !may_repeat && props.iter().any(|other: &Prop| other.number() == number) {
                return Err(format!("{prop:?} is there twice"));
            }
            props.push(prop);
        }
        Ok(props)
    }

    fn prop(&mut self) -> Result<Prop, String> {
        Ok(match self.octet()? {
            0x01 => Prop::PayloadFormat(self.octet()?),
            0x02 => Prop::MessageExpiry(self.long()?),
            0x03 => Prop::ContentType(self.text()?),
            0x08 => Prop::ResponseTopic(self.text()?),
            0x09 => Prop::CorrelationData(self.binary()?),
            0x0b => Prop::SubscriptionId(self.variable()?),
            0x11 => Prop::SessionExpiry(self.long()?),
            0x12 => Prop::AssignedClientId(self.text()?),
            0x13 => Prop::ServerKeepAlive(self.short()?),
            0x15 => Prop::AuthMethod(self.text()?),
            0x16 => Prop::AuthData(self.binary()?),
            0x1a => Prop::ResponseInfo(self.text()?),
            0x1c => Prop::ServerReference(self.text()?),
            0x1f => Prop::Reason(self.text()?),
            0x21 => Prop::ReceiveMaximum(self.short()?),
            0x22 => Prop::TopicAliasMaximum(self.short()?),
            0x23 => Prop::TopicAlias(self.short()?),
            0x24 => Prop::MaximumQos(self.octet()?),
            0x25 => Prop::RetainAvailable(self.octet()?),
            0x26 => Prop::User(self.text()?, self.text()?),
            0x27 => Prop::MaximumPacketSize(self.long()?),
            0x28 => Prop::WildcardAvailable(self.octet()?),
            0x29 => Prop::SubscriptionIdAvailable(self.octet()?),
            0x2a => Prop::SharedAvailable(self.octet()?),
            number => return Err(format!("property {number:#04x}")),
        })
    }
}
