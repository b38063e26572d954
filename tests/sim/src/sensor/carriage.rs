//! How a sensor's datagrams are carried on the air: what its radio and its firmware put around them.

use crate::ether::Tuning;
use crate::modem::ebyte::EbyteFrame;
use crate::modem::framing::{Checksum, Framing};
use crate::modem::xbee::{AirFrame, Nap};

/// RadioHead's address for everyone.
const RADIOHEAD_EVERYONE: u8 = 0xFF;
/// RadioHead's flag of an acknowledgement.
const RADIOHEAD_ACK: u8 = 0x80;

/// What tells nodes apart inside a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    /// To, from, id and flags, as in the RadioHead library.
    RadioHead {
        /// The sensor's address.
        own: u8,
        /// The gateway's.
        gateway: u8,
        /// Each frame is sent until it is acknowledged (RHReliableDatagram).
        reliable: bool,
    },
    /// Forwarder encapsulation with this node id (§5.5).
    Forwarder(Vec<u8>),
    /// Nothing: the sensor is alone.
    None,
}

/// What the radio module of a sensor adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carrier {
    /// Nothing: a LoRa, nRF24 or RFM69 chip.
    Plain,
    /// A REYAX module: addresses of its own, and text only.
    Reyax {
        /// The sensor's address.
        own: u16,
        /// The gateway's.
        gateway: u16,
    },
    /// An Ebyte module in fixed transmission, with frames in its stream.
    Ebyte {
        /// The sensor's address.
        own: u16,
        /// The gateway's.
        gateway: u16,
        /// E22: the network.
        network: u8,
        /// How frames are told apart in the stream.
        framing: Framing,
        /// What follows their content.
        checksum: Checksum,
    },
    /// An XBee.
    Xbee {
        /// Its 64-bit address.
        own: u64,
        /// Its 16-bit address, 0xFFFE for none.
        network: u16,
        /// When it listens.
        sleep: Option<Nap>,
    },
}

/// How a sensor's datagrams are carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carriage {
    /// What its radio is set to.
    pub tuning: Tuning,
    /// What the module adds.
    pub carrier: Carrier,
    /// What the firmware adds.
    pub header: Header,
}

/// What a payload holds for a sensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carried {
    /// A datagram; with the id to acknowledge, if it was sent reliably to this sensor alone.
    Datagram {
        /// MQTT-SN.
        datagram: Vec<u8>,
        /// For everyone.
        broadcast: bool,
        /// RadioHead: the sender and its id.
        id: Option<(u8, u8)>,
    },
    /// RadioHead: a frame of this id arrived.
    Acknowledged(u8),
}

impl Carriage {
    /// RadioHead's header on a bare radio; the gateway has address 0.
    pub fn radiohead(tuning: Tuning, own: u8) -> Carriage {
        Carriage {
            tuning,
            carrier: Carrier::Plain,
            header: Header::RadioHead {
                own,
                gateway: 0,
                reliable: false,
            },
        }
    }

    /// An XBee that always listens.
    pub fn xbee(channel: u8, own: u64, network: u16) -> Carriage {
        Carriage {
            tuning: Tuning::Ieee802154 { channel },
            carrier: Carrier::Xbee {
                own,
                network,
                sleep: None,
            },
            header: Header::None,
        }
    }

    /// A datagram as it is sent; `id` is RadioHead's.
    pub fn encode(&self, broadcast: bool, id: u8, datagram: &[u8]) -> Vec<u8> {
        let message = match &self.header {
            Header::RadioHead { own, gateway, .. } => {
                let to = if broadcast { RADIOHEAD_EVERYONE } else { *gateway };
                [&[to, *own, id, 0], datagram].concat()
            }
            Header::Forwarder(node) => {
                let length = 3 + node.len() as u8;
                [&[length, 0xFE, u8::from(broadcast)], &node[..], datagram].concat()
            }
            Header::None => datagram.to_vec(),
        };
        self.wrap(broadcast, message)
    }

    /// True if a gateway knows the sensor by this address.
    pub fn is_address(&self, address: &[u8]) -> bool {
        match (&self.carrier, &self.header) {
            (Carrier::Xbee { own, .. }, _) => *address == own.to_be_bytes(),
            (Carrier::Reyax { own, .. }, _) => *address == own.to_be_bytes(),
            (_, Header::RadioHead { own, .. }) => *address == [*own],
            (_, Header::Forwarder(_) | Header::None) => false,
        }
    }

    /// RadioHead's acknowledgement of a frame.
    pub fn encode_ack(&self, to: u8, id: u8) -> Option<Vec<u8>> {
        let Header::RadioHead { own, .. } = self.header else {
            return None;
        };
        Some(self.wrap(false, vec![to, own, id, RADIOHEAD_ACK, b'!']))
    }

    /// An XBee's word that it is there; others have none.
    pub fn encode_announcement(&self) -> Option<Vec<u8>> {
        matches!(self.carrier, Carrier::Xbee { .. }).then(|| self.wrap(true, Vec::new()))
    }

    /// What a payload holds, if it is for this sensor.
    pub fn decode(&self, payload: &[u8]) -> Option<Carried> {
        let (mut broadcast, message) = self.unwrap(payload)?;
        let (datagram, id) = match &self.header {
            Header::RadioHead { own, .. } => {
                let [to, from, id, flags, datagram @ ..] = &message[..] else {
                    return None;
                };
                if flags & RADIOHEAD_ACK != 0 {
                    return (to == own).then_some(Carried::Acknowledged(*id));
                }
                if *to != *own && *to != RADIOHEAD_EVERYONE {
                    return None;
                }
                broadcast |= *to == RADIOHEAD_EVERYONE;
                (datagram.to_vec(), (to == own).then_some((*from, *id)))
            }
            Header::Forwarder(node) => match &message[..] {
                [length, 0xFE, _, rest @ ..] => {
                    let id = rest.get(..usize::from(*length).checked_sub(3)?)?;
                    if id != node {
                        return None;
                    }
                    (rest[id.len()..].to_vec(), None)
                }
                // ADVERTISE and GWINFO to everyone name no node.
                _ => (message, None),
            },
            Header::None => (message, None),
        };
        Some(Carried::Datagram {
            datagram,
            broadcast,
            id,
        })
    }

    /// The datagram in a payload that this sensor sent itself, for who watches the air.
    pub fn decode_own(&self, payload: &[u8]) -> Option<Vec<u8>> {
        let message = match &self.carrier {
            Carrier::Plain => payload.to_vec(),
            Carrier::Reyax { .. } => from_base64(payload.get(8..)?)?,
            Carrier::Ebyte {
                framing, checksum, ..
            } => {
                let content = framing.decode_one(&EbyteFrame::decode(payload)?.data)?;
                checksum.strip(&content)?.to_vec()
            }
            Carrier::Xbee { .. } => AirFrame::decode(payload)?.data,
        };
        match &self.header {
            Header::RadioHead { .. } => match &message[..] {
                [_, _, _, flags, datagram @ ..] if flags & RADIOHEAD_ACK == 0 => Some(datagram.to_vec()),
                _ => None,
            },
            Header::Forwarder(node) => message.get(3 + node.len()..).map(<[u8]>::to_vec),
            Header::None => Some(message),
        }
    }

    fn wrap(&self, broadcast: bool, message: Vec<u8>) -> Vec<u8> {
        match &self.carrier {
            Carrier::Plain => message,
            Carrier::Reyax { own, gateway } => {
                let to = if broadcast { 0 } else { *gateway };
                let addresses = [to.to_be_bytes(), own.to_be_bytes()].concat();
                // Its own header is eight octets, and modules without a password leave four of them zero.
                [&addresses[..], &[0; 4], &base64(&message)[..]].concat()
            }
            Carrier::Ebyte {
                gateway,
                network,
                framing,
                checksum,
                ..
            } => EbyteFrame {
                network: *network,
                to: if broadcast { 0xFFFF } else { *gateway },
                data: framing.encode(&checksum.append(&message)),
            }
            .encode(),
            Carrier::Xbee { own, network, sleep } => AirFrame {
                to: if broadcast { 0xFFFF } else { 0 },
                from: *own,
                network: *network,
                sleep: *sleep,
                broadcast,
                data: message,
            }
            .encode(),
        }
    }

    /// The message in a payload for this sensor, and whether it is for everyone.
    fn unwrap(&self, payload: &[u8]) -> Option<(bool, Vec<u8>)> {
        match &self.carrier {
            Carrier::Plain => Some((false, payload.to_vec())),
            Carrier::Reyax { own, .. } => {
                let (addresses, rest) = payload.split_first_chunk::<4>()?;
                let to = u16::from_be_bytes([addresses[0], addresses[1]]);
                let text = rest.get(4..)?;
                (to == *own || to == 0).then_some((to == 0, from_base64(text)?))
            }
            Carrier::Ebyte {
                own,
                network,
                framing,
                checksum,
                ..
            } => {
                let frame = EbyteFrame::decode(payload)?;
                if frame.network != *network || (frame.to != *own && frame.to != 0xFFFF) {
                    return None;
                }
                let content = framing.decode_one(&frame.data)?;
                Some((frame.to == 0xFFFF, checksum.strip(&content)?.to_vec()))
            }
            Carrier::Xbee { own, .. } => {
                let frame = AirFrame::decode(payload)?;
                (frame.to == *own).then_some((frame.broadcast, frame.data))
            }
        }
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 without padding (RFC 4648).
fn base64(octets: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for chunk in octets.chunks(3) {
        let bits = chunk
            .iter()
            .fold(0_u32, |bits, octet| bits << 8 | u32::from(*octet))
            << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(ALPHABET[(bits >> (18 - 6 * place) & 63) as usize]);
        }
    }
    text
}

fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut octets = Vec::new();
    for chunk in text.chunks(4) {
        let mut bits = 0_u32;
        for character in chunk {
            let value = ALPHABET.iter().position(|letter| letter == character)?;
            bits = bits << 6 | value as u32;
        }
        bits <<= 6 * (4 - chunk.len());
        let used = chunk.len().checked_sub(1)?;
        octets.extend(&bits.to_be_bytes()[1..1 + used]);
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::{Carriage, Carried, Carrier, Header, base64, from_base64};
    use crate::ether::Tuning;
    use crate::modem::framing::{Checksum, Framing};

    const TUNING: Tuning = Tuning::Ieee802154 { channel: 15 };

    #[test]
    fn base64_is_that_of_everyone_else() {
        for (octets, text) in [
            (&b"f"[..], "Zg"),
            (b"fo", "Zm8"),
            (b"foo", "Zm9v"),
            (b"foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(octets), text.as_bytes());
            assert_eq!(from_base64(text.as_bytes()).as_deref(), Some(octets));
        }
        assert_eq!(from_base64(b"Z"), Some(Vec::new()));
        assert_eq!(from_base64(b"Z!"), None);
    }

    #[test]
    fn radiohead_is_four_octets_in_front() {
        let node = Carriage::radiohead(TUNING, 5);
        assert_eq!(node.encode(false, 0x2A, &[3, 1, 1]), [0, 5, 0x2A, 0, 3, 1, 1]);
        assert_eq!(node.encode(true, 1, &[3, 1, 1])[0], 0xFF);
        let datagram = |id, broadcast| Carried::Datagram {
            datagram: vec![3, 5, 0],
            broadcast,
            id,
        };
        assert_eq!(
            node.decode(&[5, 0, 9, 0, 3, 5, 0]),
            Some(datagram(Some((0, 9)), false))
        );
        assert_eq!(node.decode(&[0xFF, 0, 9, 0, 3, 5, 0]), Some(datagram(None, true)));
        assert_eq!(node.decode(&[6, 0, 9, 0, 3, 5, 0]), None);
        assert_eq!(
            node.decode(&[5, 0, 9, 0x80, b'!']),
            Some(Carried::Acknowledged(9))
        );
        assert_eq!(node.encode_ack(0, 9), Some(vec![0, 5, 9, 0x80, b'!']));
    }

    #[test]
    fn encapsulation_names_the_node_both_ways() {
        let node = Carriage {
            header: Header::Forwarder(vec![0x12, 0x34]),
            ..Carriage::radiohead(TUNING, 0)
        };
        let up = node.encode(true, 0, &[3, 1, 1]);
        assert_eq!(up, [5, 0xFE, 1, 0x12, 0x34, 3, 1, 1]);
        assert!(node.decode(&up).is_some());
        assert_eq!(node.decode(&[5, 0xFE, 1, 0x12, 0x35, 3, 1, 1]), None);
        assert!(node.decode(&[5, 0, 1, 3, 0x84]).is_some());
    }

    #[test]
    fn what_modules_add_is_taken_off_again() {
        let ebyte = Carrier::Ebyte {
            own: 7,
            gateway: 7,
            network: 1,
            framing: Framing::Cobs,
            checksum: Checksum::X25,
        };
        for carrier in [Carrier::Plain, Carrier::Reyax { own: 7, gateway: 7 }, ebyte] {
            let node = Carriage {
                tuning: TUNING,
                carrier,
                header: Header::None,
            };
            let datagram = vec![0x0C, 0x0C, 0, 0x7E, 0x7D, 1, 0, 0];
            let carried = node.decode(&node.encode(false, 0, &datagram));
            let expected = Carried::Datagram {
                datagram,
                broadcast: false,
                id: None,
            };
            assert_eq!(carried, Some(expected));
        }
    }
}
