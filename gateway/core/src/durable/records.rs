//! The values of the store, octet by octet.
//!
//! Each begins with the version of its layout. Numbers are big endian; a string or an octet string has its length, 16
//! bits, in front, a payload 32 bits. What cannot be read is `None`: the caller counts and goes on without it.

use core::net::SocketAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use bytes::{BufMut as _, Bytes};
use sn_codec::{MsgId, QoS, TopicId};

use crate::client::connect::StoredWill;
use crate::client::subscribe::Form;
use crate::io::{ConnId, DeliveryId, FilterId, StoredUplink};
use crate::peer::LinkAddr;
use crate::registry::NormalTopic;

const VERSION: u8 = 1;

/// A client's session.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SessionRecord {
    pub(crate) id: Arc<str>,
    pub(crate) clean: bool,
    pub(crate) asked_for_will: bool,
    /// Its next wake-up ends with DISCONNECT.
    pub(crate) misled: bool,
    pub(crate) no_dup: bool,
    pub(crate) no_register: bool,
    pub(crate) answers_register: bool,
    pub(crate) keep_alive: u16,
    pub(crate) state: SavedState,
    /// When it was last seen, in milliseconds since 1970.
    pub(crate) seen_ms: u64,
    pub(crate) place: Option<Place>,
    pub(crate) will: Option<StoredWill>,
    pub(crate) next_topic_id: u16,
    pub(crate) topics: Vec<NormalTopic>,
    pub(crate) subscriptions: Vec<SavedSubscription>,
}

/// The state of a session that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SavedState {
    Active,
    Asleep { duration: u16 },
    Disconnected,
    Lost,
}

/// Where a client was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The name of the radio: its number changes with the configuration.
    pub(crate) link: String,
    pub(crate) addr: LinkAddr,
    /// Which of the link's sockets it sent to.
    pub(crate) socket: u8,
    pub(crate) node: Option<Box<[u8]>>,
}

/// A subscription of a session.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SavedSubscription {
    pub(crate) filter: Arc<str>,
    /// Its number at the broker: messages that wait there carry it.
    pub(crate) id: FilterId,
    pub(crate) form: Form,
    pub(crate) asked: QoS,
}

/// How far a message for the broker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The broker does not have it, or (QoS 1) may have it.
    Pending,
    /// QoS 2: the broker may have it under this packet id.
    Sent(u16),
    /// QoS 2: the broker has it; the packet id is being released.
    Released(u16),
}

/// A message for the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UplinkRecord {
    pub(crate) stage: Stage,
    /// What it keeps its order with, see [`Author`](crate::upstream::Author).
    pub(crate) author: u32,
    /// The client's session, message id and digest; `None` for the gateway's own.
    pub(crate) client: Option<(u32, MsgId, u32)>,
    pub(crate) since_ms: u64,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) topic: Arc<str>,
    pub(crate) payload: Bytes,
}

/// How far a client is with a QoS 2 publish that it was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReceivingRecord {
    pub(crate) serial: u32,
    pub(crate) msg_id: MsgId,
    pub(crate) digest: u32,
    /// It has sent PUBREL.
    pub(crate) released: bool,
}

/// A message for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MessageRecord {
    /// The broker's QoS 2 delivery that brought it.
    pub(crate) from: Option<(ConnId, DeliveryId)>,
    pub(crate) since_ms: u64,
    pub(crate) retain: bool,
    pub(crate) topic: Arc<str>,
    pub(crate) payload: Bytes,
    pub(crate) recipients: Vec<Recipient>,
}

/// Who gets a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recipient {
    /// The session.
    pub(crate) serial: u32,
    pub(crate) qos: QoS,
    /// QoS 2: the message id that it is sent under in this life and the next.
    pub(crate) msg_id: MsgId,
}

/// How far one recipient is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// QoS 2: PUBREC came.
    Received,
    /// Nothing is left to do.
    Done,
}

impl SessionRecord {
    /// Seconds after which a client of which nothing is heard is lost; 0 is never.
    pub(crate) fn supervision(&self) -> u16 {
        match self.state {
            SavedState::Active => self.keep_alive,
            SavedState::Asleep { duration } => duration,
            SavedState::Disconnected | SavedState::Lost => 0,
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(128);
        out.put_u8(VERSION);
        put_string(&mut out, &self.id);
        let flags = [
            self.clean,
            self.asked_for_will,
            self.no_dup,
            self.no_register,
            self.answers_register,
            self.will.is_some(),
            self.misled,
        ];
        out.put_u8(pack(&flags));
        out.put_u16(self.keep_alive);
        let (state, duration) = match self.state {
            SavedState::Active => (0, 0),
            SavedState::Asleep { duration } => (1, duration),
            SavedState::Disconnected => (2, 0),
            SavedState::Lost => (3, 0),
        };
        out.put_u8(state);
        out.put_u16(duration);
        out.put_u64(self.seen_ms);
        put_place(&mut out, self.place.as_ref());
        if let Some(will) = &self.will {
            out.put_u8(pack(&[will.topic.is_some(), will.retain]));
            out.put_u8(will.qos as u8);
            put_string(&mut out, will.topic.as_deref().unwrap_or_default());
            put_payload(&mut out, &will.payload);
        }
        out.put_u16(self.next_topic_id);
        out.put_u16(self.topics.len() as u16);
        for topic in &self.topics {
            out.put_u16(topic.id.0);
            out.put_u8(pack(&[topic.confirmed, topic.told, topic.rejected]));
            put_string(&mut out, &topic.name);
        }
        out.put_u16(self.subscriptions.len() as u16);
        for subscription in &self.subscriptions {
            let (form, id) = match subscription.form {
                Form::Name => (0, TopicId::NONE),
                Form::Predefined(id) => (1, id),
                Form::Short => (2, TopicId::NONE),
            };
            out.put_u8(form);
            out.put_u16(id.0);
            out.put_u8(subscription.asked as u8);
            out.put_u32(subscription.id.0);
            put_string(&mut out, &subscription.filter);
        }
        out.into()
    }

    pub(crate) fn decode(value: &Bytes) -> Option<Self> {
        let mut from = Reader::new(value)?;
        let id = from.string()?;
        let [
            clean,
            asked_for_will,
            no_dup,
            no_register,
            answers_register,
            has_will,
            misled,
            ..,
        ] = unpack(from.u8()?);
        let keep_alive = from.u16()?;
        let state = from.u8()?;
        let duration = from.u16()?;
        let state = match state {
            0 => SavedState::Active,
            1 => SavedState::Asleep { duration },
            2 => SavedState::Disconnected,
            3 => SavedState::Lost,
            _ => return None,
        };
        let seen_ms = from.u64()?;
        let place = from.place()?;
        let will = match has_will {
            true => Some(from.will()?),
            false => None,
        };
        let next_topic_id = from.u16()?;
        let mut topics = Vec::new();
        for _ in 0..from.u16()? {
            let id = TopicId(from.u16()?);
            let [confirmed, told, rejected, ..] = unpack(from.u8()?);
            let name = from.string()?;
            topics.push(NormalTopic {
                id,
                name,
                confirmed,
                told,
                rejected,
            });
        }
        let mut subscriptions = Vec::new();
        for _ in 0..from.u16()? {
            let form = from.u8()?;
            let id = TopicId(from.u16()?);
            let form = match form {
                0 => Form::Name,
                1 => Form::Predefined(id),
                2 => Form::Short,
                _ => return None,
            };
            let asked = from.qos()?;
            let id = FilterId(from.u32()?);
            let filter = from.string()?;
            subscriptions.push(SavedSubscription {
                filter,
                id,
                form,
                asked,
            });
        }
        Some(SessionRecord {
            id,
            clean,
            asked_for_will,
            misled,
            no_dup,
            no_register,
            answers_register,
            keep_alive,
            state,
            seen_ms,
            place,
            will,
            next_topic_id,
            topics,
            subscriptions,
        })
    }
}

impl UplinkRecord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(64 + self.topic.len() + self.payload.len());
        out.put_u8(VERSION);
        put_stage(&mut out, self.stage);
        out.put_u32(self.author);
        let (serial, msg_id, digest) = self.client.unwrap_or((0, MsgId(0), 0));
        out.put_u32(serial);
        out.put_u16(msg_id.0);
        out.put_u32(digest);
        out.put_u64(self.since_ms);
        out.put_u8(self.qos as u8);
        out.put_u8(u8::from(self.retain));
        put_string(&mut out, &self.topic);
        put_payload(&mut out, &self.payload);
        out.into()
    }

    pub(crate) fn decode(value: &Bytes) -> Option<Self> {
        let mut from = Reader::new(value)?;
        let (stage, packet_id) = (from.u8()?, from.u16()?);
        let stage = match stage {
            0 => Stage::Pending,
            1 => Stage::Sent(packet_id),
            2 => Stage::Released(packet_id),
            _ => return None,
        };
        let author = from.u32()?;
        let client = (from.u32()?, MsgId(from.u16()?), from.u32()?);
        Some(UplinkRecord {
            stage,
            author,
            client: (client.0 != 0).then_some(client),
            since_ms: from.u64()?,
            qos: from.qos()?,
            retain: from.u8()? != 0,
            topic: from.string()?,
            payload: from.payload()?,
        })
    }
}

impl StoredUplink {
    /// The value once PUBLISH is about to leave under this packet id, or once PUBREC came.
    pub fn at(&self, packet_id: u16, released: bool) -> Bytes {
        self.in_stage(match released {
            false => Stage::Sent(packet_id),
            true => Stage::Released(packet_id),
        })
    }

    /// Its value when it has no packet id any more: the session that it was sent in is lost.
    pub fn pending(&self) -> Bytes {
        self.in_stage(Stage::Pending)
    }

    fn in_stage(&self, stage: Stage) -> Bytes {
        let mut out = Vec::with_capacity(self.value.len());
        out.put_u8(VERSION);
        put_stage(&mut out, stage);
        out.extend_from_slice(self.value.get(STAGE_END..).unwrap_or_default());
        out.into()
    }
}

/// Where the stage of an [`UplinkRecord`] ends.
const STAGE_END: usize = 4;

fn put_stage(out: &mut Vec<u8>, stage: Stage) {
    let (stage, packet_id) = match stage {
        Stage::Pending => (0, 0),
        Stage::Sent(packet_id) => (1, packet_id),
        Stage::Released(packet_id) => (2, packet_id),
    };
    out.put_u8(stage);
    out.put_u16(packet_id);
}

impl ReceivingRecord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(12);
        out.put_u8(VERSION);
        out.put_u32(self.serial);
        out.put_u16(self.msg_id.0);
        out.put_u32(self.digest);
        out.put_u8(u8::from(self.released));
        out.into()
    }

    pub(crate) fn decode(value: &Bytes) -> Option<Self> {
        let mut from = Reader::new(value)?;
        Some(ReceivingRecord {
            serial: from.u32()?,
            msg_id: MsgId(from.u16()?),
            digest: from.u32()?,
            released: from.u8()? != 0,
        })
    }
}

impl MessageRecord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out =
            Vec::with_capacity(64 + self.topic.len() + self.payload.len() + 7 * self.recipients.len());
        out.put_u8(VERSION);
        put_from(&mut out, self.from);
        out.put_u64(self.since_ms);
        out.put_u8(u8::from(self.retain));
        put_string(&mut out, &self.topic);
        put_payload(&mut out, &self.payload);
        out.put_u16(self.recipients.len() as u16);
        for recipient in &self.recipients {
            out.put_u32(recipient.serial);
            out.put_u8(recipient.qos as u8);
            out.put_u16(recipient.msg_id.0);
        }
        out.into()
    }

    pub(crate) fn decode(value: &Bytes) -> Option<Self> {
        let mut from = Reader::new(value)?;
        let delivery = match from.u8()? {
            0 => None,
            _ => Some((ConnId(from.u32()?), DeliveryId(from.u64()?))),
        };
        let since_ms = from.u64()?;
        let retain = from.u8()? != 0;
        let topic = from.string()?;
        let payload = from.payload()?;
        let mut recipients = Vec::new();
        for _ in 0..from.u16()? {
            recipients.push(Recipient {
                serial: from.u32()?,
                qos: from.qos()?,
                msg_id: MsgId(from.u16()?),
            });
        }
        Some(MessageRecord {
            from: delivery,
            since_ms,
            retain,
            topic,
            payload,
            recipients,
        })
    }
}

/// A message that everybody has, kept because the broker may send it again.
pub(crate) fn received_only(from: (ConnId, DeliveryId)) -> Bytes {
    let record = MessageRecord {
        from: Some(from),
        since_ms: 0,
        retain: false,
        topic: "".into(),
        payload: Bytes::new(),
        recipients: Vec::new(),
    };
    record.encode()
}

impl Progress {
    pub(crate) fn encode(self) -> Bytes {
        let octet = match self {
            Progress::Received => 0,
            Progress::Done => 1,
        };
        Bytes::copy_from_slice(&[VERSION, octet])
    }

    pub(crate) fn decode(value: &Bytes) -> Option<Self> {
        match Reader::new(value)?.u8()? {
            0 => Some(Progress::Received),
            1 => Some(Progress::Done),
            _ => None,
        }
    }
}

fn pack(flags: &[bool]) -> u8 {
    let bits = flags.iter().enumerate();
    bits.fold(0, |octet, (at, flag)| octet | u8::from(*flag) << at)
}

fn unpack(octet: u8) -> [bool; 8] {
    core::array::from_fn(|at| octet >> at & 1 != 0)
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    put_octets(out, text.as_bytes());
}

/// No string of the protocol is longer than its 16 bits of length allow.
fn put_octets(out: &mut Vec<u8>, octets: &[u8]) {
    let len = octets.len().min(usize::from(u16::MAX));
    out.put_u16(len as u16);
    out.extend_from_slice(&octets[..len]);
}

fn put_payload(out: &mut Vec<u8>, payload: &[u8]) {
    out.put_u32(payload.len() as u32);
    out.extend_from_slice(payload);
}

fn put_from(out: &mut Vec<u8>, from: Option<(ConnId, DeliveryId)>) {
    out.put_u8(u8::from(from.is_some()));
    if let Some((conn, delivery)) = from {
        out.put_u32(conn.0);
        out.put_u64(delivery.0);
    }
}

fn put_place(out: &mut Vec<u8>, place: Option<&Place>) {
    let Some(place) = place else {
        return out.put_u8(0);
    };
    out.put_u8(match place.addr {
        LinkAddr::Wire => 1,
        LinkAddr::Radio(_) => 2,
        LinkAddr::Udp(_) => 3,
    });
    put_string(out, &place.link);
    match &place.addr {
        LinkAddr::Wire => {}
        LinkAddr::Radio(octets) => put_octets(out, octets),
        // Readable, and with the scope of a link-local address.
        LinkAddr::Udp(addr) => put_string(out, &addr.to_string()),
    }
    out.put_u8(place.socket);
    out.put_u8(u8::from(place.node.is_some()));
    put_octets(out, place.node.as_deref().unwrap_or_default());
}

/// Reads a value from its front.
struct Reader<'a> {
    value: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    /// Behind the version; `None` if that is not ours.
    fn new(value: &'a Bytes) -> Option<Self> {
        let mut reader = Reader { value, at: 0 };
        (reader.u8()? == VERSION).then_some(reader)
    }

    fn octets(&mut self, len: usize) -> Option<&'a [u8]> {
        let octets = self.value.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(octets)
    }

    fn u8(&mut self) -> Option<u8> {
        self.octets(1).map(|octets| octets[0])
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.octets(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.octets(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.octets(8)?.try_into().ok()?))
    }

    fn short(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.u16()?);
        self.octets(len)
    }

    fn string(&mut self) -> Option<Arc<str>> {
        Some(core::str::from_utf8(self.short()?).ok()?.into())
    }

    fn payload(&mut self) -> Option<Bytes> {
        let len = self.u32()? as usize;
        Some(Bytes::copy_from_slice(self.octets(len)?))
    }

    fn qos(&mut self) -> Option<QoS> {
        Some(match self.u8()? {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            2 => QoS::ExactlyOnce,
            _ => return None,
        })
    }

    fn will(&mut self) -> Option<StoredWill> {
        let [has_topic, retain, ..] = unpack(self.u8()?);
        let qos = self.qos()?;
        let topic = self.string()?;
        Some(StoredWill {
            topic: has_topic.then_some(topic),
            payload: self.payload()?,
            qos,
            retain,
            published_after: 0,
        })
    }

    fn place(&mut self) -> Option<Option<Place>> {
        let form = self.u8()?;
        if form == 0 {
            return Some(None);
        }
        let link = self.string()?.to_string();
        let addr = match form {
            1 => LinkAddr::Wire,
            2 => LinkAddr::Radio(ArrayVec::try_from(self.short()?).ok()?),
            3 => LinkAddr::Udp(self.string()?.parse::<SocketAddr>().ok()?),
            _ => return None,
        };
        let socket = self.u8()?;
        let has_node = self.u8()? != 0;
        let node: Box<[u8]> = self.short()?.into();
        Some(Some(Place {
            link,
            addr,
            socket,
            node: has_node.then_some(node),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> SessionRecord {
        SessionRecord {
            id: "pump-7".into(),
            clean: false,
            asked_for_will: true,
            misled: true,
            no_dup: false,
            no_register: true,
            answers_register: false,
            keep_alive: 300,
            state: SavedState::Asleep { duration: 3600 },
            seen_ms: 1_795_000_000_123,
            place: Some(Place {
                link: "lora0".into(),
                addr: LinkAddr::Radio(ArrayVec::from_iter([1, 2])),
                socket: 1,
                node: Some([9, 8, 7].into()),
            }),
            will: Some(StoredWill {
                topic: Some("gone".into()),
                payload: Bytes::from_static(b"bye"),
                qos: QoS::AtLeastOnce,
                retain: true,
                published_after: 0,
            }),
            next_topic_id: 0x0499,
            topics: vec![NormalTopic {
                id: TopicId(0x0498),
                name: "a/b".into(),
                confirmed: true,
                told: true,
                rejected: false,
            }],
            subscriptions: vec![
                SavedSubscription {
                    filter: "cmd/+".into(),
                    id: FilterId(3),
                    form: Form::Name,
                    asked: QoS::ExactlyOnce,
                },
                SavedSubscription {
                    filter: "x/y".into(),
                    id: FilterId(9),
                    form: Form::Predefined(TopicId(7)),
                    asked: QoS::AtMostOnce,
                },
            ],
        }
    }

    fn uplink() -> UplinkRecord {
        UplinkRecord {
            stage: Stage::Pending,
            author: 3,
            client: Some((12, MsgId(0x0102), 0xDEAD_BEEF)),
            since_ms: 1,
            qos: QoS::ExactlyOnce,
            retain: true,
            topic: "t".into(),
            payload: Bytes::from_static(b"p"),
        }
    }

    fn message() -> MessageRecord {
        MessageRecord {
            from: Some((ConnId(0), DeliveryId(77))),
            since_ms: 5,
            retain: false,
            topic: "cmd/1".into(),
            payload: Bytes::from_static(b"on"),
            recipients: vec![Recipient {
                serial: 4,
                qos: QoS::ExactlyOnce,
                msg_id: MsgId(0x0123),
            }],
        }
    }

    #[test]
    fn every_value_comes_back_as_it_was() {
        let session = session();
        assert_eq!(SessionRecord::decode(&session.encode()), Some(session.clone()));
        let elsewhere = SessionRecord {
            place: Some(Place {
                link: "udp0".into(),
                addr: LinkAddr::Udp("[fe80::1%3]:40001".parse().unwrap()),
                socket: 0,
                node: None,
            }),
            state: SavedState::Lost,
            will: None,
            ..session
        };
        assert_eq!(SessionRecord::decode(&elsewhere.encode()), Some(elsewhere));
        assert_eq!(UplinkRecord::decode(&uplink().encode()), Some(uplink()));
        assert_eq!(MessageRecord::decode(&message().encode()), Some(message()));
        let receiving = ReceivingRecord {
            serial: 9,
            msg_id: MsgId(3),
            digest: 4,
            released: true,
        };
        assert_eq!(ReceivingRecord::decode(&receiving.encode()), Some(receiving));
        for progress in [Progress::Received, Progress::Done] {
            assert_eq!(Progress::decode(&progress.encode()), Some(progress));
        }
    }

    #[test]
    fn stages_of_an_uplink_are_written_over_the_first() {
        let stored = StoredUplink {
            key: crate::durable::uplink_key(1),
            value: uplink().encode(),
        };
        for (released, stage) in [(false, Stage::Sent(513)), (true, Stage::Released(513))] {
            let record = UplinkRecord::decode(&stored.at(513, released)).unwrap();
            assert_eq!(record, UplinkRecord { stage, ..uplink() });
        }
    }

    #[test]
    fn values_that_are_cut_off_or_damaged_are_refused_without_a_panic() {
        for value in [session().encode(), uplink().encode(), message().encode()] {
            for len in 0..value.len() {
                let cut = value.slice(..len);
                assert!(SessionRecord::decode(&cut).is_none(), "{len}");
                assert!(UplinkRecord::decode(&cut).is_none() || len == value.len());
                let _ = (
                    MessageRecord::decode(&cut),
                    ReceivingRecord::decode(&cut),
                    Progress::decode(&cut),
                );
            }
            for at in 0..value.len() {
                let mut damaged = value.to_vec();
                damaged[at] ^= 0xFF;
                let damaged = Bytes::from(damaged);
                let _ = (SessionRecord::decode(&damaged), UplinkRecord::decode(&damaged));
                let _ = (MessageRecord::decode(&damaged), ReceivingRecord::decode(&damaged));
            }
        }
    }
}
