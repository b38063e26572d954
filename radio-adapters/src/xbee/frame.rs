//! What API frames mean ("API frames"): one variant for each type, fields in the order of the wire.
//!
//! Both directions are decoded and encoded, whoever sends them. A field that takes the rest of the frame comes last.

use core::fmt;

/// A 64-bit address: unique, from the factory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr64(pub u64);

impl Addr64 {
    /// Everyone.
    pub const BROADCAST: Addr64 = Addr64(0xFFFF);
    /// Not known.
    pub const UNKNOWN: Addr64 = Addr64(u64::MAX);
}

/// A 16-bit network address, which changes when a node joins again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr16(pub u16);

impl Addr16 {
    /// Everyone, in 802.15.4.
    pub const BROADCAST: Addr16 = Addr16(0xFFFF);
    /// Not known, or, as a node's own, none.
    pub const UNKNOWN: Addr16 = Addr16(0xFFFE);
    /// Nobody: in the status of a transmission that failed.
    pub const NOBODY: Addr16 = Addr16(0xFFFD);

    /// Whether it is the address of one node.
    pub fn is_node(self) -> bool {
        self < Addr16::NOBODY
    }
}

/// Ties a status or an answer to what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrameId(pub u8);

impl FrameId {
    /// No status or answer wanted.
    pub const NONE: FrameId = FrameId(0);
}

/// The two letters of an AT command.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct At(pub [u8; 2]);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The application layer addresses of a Zigbee or DigiMesh packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoints {
    /// Endpoint of the sender.
    pub source: u8,
    /// Endpoint of the receiver.
    pub destination: u8,
    /// Cluster.
    pub cluster: u16,
    /// Profile.
    pub profile: u16,
}

impl Endpoints {
    /// What plain transmit requests use.
    pub const DATA: Endpoints = Endpoints {
        source: 0xE8,
        destination: 0xE8,
        cluster: 0x0011,
        profile: 0xC105,
    };
}

/// Makes [`Frame`] and both its directions of a table: type, name, fields in the order of the wire.
macro_rules! frames {
    ($( $(#[$doc:meta])* $kind:literal $name:ident { $($field:ident: $type:ty),* $(,)? } )*) => {
        /// One API frame.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the fields are those of the manual, by its names")]
        pub enum Frame<'a> {
            $( $(#[$doc])* $name { $($field: $type),* }, )*
        }

        impl<'a> Frame<'a> {
            /// Reads the data of a frame; `None` for a type that is not listed here or data too short for its type.
            /// What later firmware may append to frames of fixed length is ignored.
            pub fn decode(data: &'a [u8]) -> Option<Frame<'a>> {
                let (kind, mut body) = data.split_first()?;
                Some(match kind {
                    $( $kind => Frame::$name { $($field: Field::read(&mut body)?),* }, )*
                    _ => return None,
                })
            }

            /// The data of the frame, for [`super::framing::encode`].
            pub fn encode(&self) -> Vec<u8> {
                let mut data = Vec::new();
                match self {
                    $( Frame::$name { $($field),* } => {
                        data.push($kind);
                        $( $field.write(&mut data); )*
                    } )*
                }
                data
            }
        }
    };
}

frames! {
    /// 802.15.4: transmit to a 64-bit address.
    0x00 Tx64 { id: FrameId, dest: Addr64, options: u8, data: &'a [u8] }
    /// 802.15.4: transmit to a 16-bit address.
    0x01 Tx16 { id: FrameId, dest: Addr16, options: u8, data: &'a [u8] }
    /// AT command, carried out at once.
    0x08 AtCommand { id: FrameId, command: At, value: &'a [u8] }
    /// AT command, carried out after the next AC.
    0x09 AtQueued { id: FrameId, command: At, value: &'a [u8] }
    /// Transmit.
    0x10 Transmit { id: FrameId, dest64: Addr64, dest16: Addr16, radius: u8, options: u8, data: &'a [u8] }
    /// Transmit with endpoints.
    0x11 TransmitExplicit {
        id: FrameId, dest64: Addr64, dest16: Addr16, endpoints: Endpoints, radius: u8, options: u8, data: &'a [u8],
    }
    /// AT command for another node.
    0x17 RemoteAt { id: FrameId, dest64: Addr64, dest16: Addr16, options: u8, command: At, value: &'a [u8] }
    /// Wi-Fi and cellular: transmit to an IPv4 address.
    0x20 TransmitIpv4 {
        id: FrameId, dest: [u8; 4], dest_port: u16, source_port: u16, protocol: u8, options: u8, data: &'a [u8],
    }
    /// The way to a node; hops beginning with the neighbour of that node. Nothing answers it.
    0x21 CreateSourceRoute { id: FrameId, dest64: Addr64, dest16: Addr16, options: u8, hops: Vec<Addr16> }
    /// 802.15.4: received from a 64-bit address.
    0x80 Rx64 { source: Addr64, minus_rssi_dbm: u8, options: u8, data: &'a [u8] }
    /// 802.15.4: received from a 16-bit address.
    0x81 Rx16 { source: Addr16, minus_rssi_dbm: u8, options: u8, data: &'a [u8] }
    /// Answer to an AT command.
    0x88 AtResponse { id: FrameId, command: At, status: u8, value: &'a [u8] }
    /// 802.15.4 and IP: what became of a transmission.
    0x89 TxStatus { id: FrameId, status: u8 }
    /// Something happened to the modem.
    0x8A ModemStatus { status: u8 }
    /// What became of a transmission.
    0x8B TransmitStatus { id: FrameId, dest16: Addr16, retries: u8, delivery: u8, discovery: u8 }
    /// Received.
    0x90 Receive { source64: Addr64, source16: Addr16, options: u8, data: &'a [u8] }
    /// Received, with endpoints.
    0x91 ReceiveExplicit {
        source64: Addr64, source16: Addr16, endpoints: Endpoints, options: u8, data: &'a [u8],
    }
    /// A node said who it is; `details` begins with its name, ended by 00.
    0x95 NodeIdentification {
        sender64: Addr64, sender16: Addr16, options: u8, node16: Addr16, node64: Addr64, details: &'a [u8],
    }
    /// Answer of another node to an AT command.
    0x97 RemoteAtResponse {
        id: FrameId, source64: Addr64, source16: Addr16, command: At, status: u8, value: &'a [u8],
    }
    /// The way a node's packets take; hops beginning with the neighbour of that node.
    0xA1 RouteRecord { source64: Addr64, source16: Addr16, options: u8, hops: Vec<Addr16> }
    /// A node collects the data of its network.
    0xA3 ManyToOne { source64: Addr64, source16: Addr16, reserved: u8 }
    /// Wi-Fi and cellular: received from an IPv4 address. The destination port comes first.
    0xB0 ReceiveIpv4 {
        source: [u8; 4], dest_port: u16, source_port: u16, protocol: u8, status: u8, data: &'a [u8],
    }
}

/// A field of a frame.
trait Field<'a>: Sized {
    /// Takes it from the front of what is left of the frame.
    fn read(rest: &mut &'a [u8]) -> Option<Self>;

    fn write(&self, data: &mut Vec<u8>);
}

impl<'a, const N: usize> Field<'a> for [u8; N] {
    fn read(rest: &mut &'a [u8]) -> Option<Self> {
        let (field, later) = rest.split_first_chunk()?;
        *rest = later;
        Some(*field)
    }

    fn write(&self, data: &mut Vec<u8>) {
        data.extend_from_slice(self);
    }
}

impl<'a> Field<'a> for u8 {
    fn read(rest: &mut &'a [u8]) -> Option<Self> {
        Field::read(rest).map(|[octet]: [u8; 1]| octet)
    }

    fn write(&self, data: &mut Vec<u8>) {
        data.push(*self);
    }
}

impl<'a> Field<'a> for u16 {
    fn read(rest: &mut &'a [u8]) -> Option<Self> {
        Field::read(rest).map(u16::from_be_bytes)
    }

    fn write(&self, data: &mut Vec<u8>) {
        self.to_be_bytes().write(data);
    }
}

impl<'a> Field<'a> for FrameId {
    fn read(rest: &mut &'a [u8]) -> Option<Self> {
        Field::read(rest).map(FrameId)
    }

    fn write(&self, data: &mut Vec<u8>) {
        self.0.write(data);
    }
}

impl<'a> Field<'a> for At {
    fn read(rest: &mut &'a [u8]) -> Option<Self> {
        Field::read(rest).map(At)
    }

    fn write(&self, data: &mut Vec<u8>) {
        self.0.write(data);
    }
}

impl<'a> Field<'a> for Addr16 {
    fn read(rest: &mut &'a [u8]) -> Option<Self> {
        Field::read(rest).map(Addr16)
    }

    fn write(&self, data: &mut Vec<u8>) {
        self.0.write(data);
    }
}

impl<'a> Field<'a> for Addr64 {
    fn read(rest: &mut &'a [u8]) -> Option<Self> {
        Field::read(rest).map(|octets| Addr64(u64::from_be_bytes(octets)))
    }

    fn write(&self, data: &mut Vec<u8>) {
        self.0.to_be_bytes().write(data);
    }
}

impl<'a> Field<'a> for Endpoints {
    fn read(rest: &mut &'a [u8]) -> Option<Self> {
        Some(Endpoints {
            source: Field::read(rest)?,
            destination: Field::read(rest)?,
            cluster: Field::read(rest)?,
            profile: Field::read(rest)?,
        })
    }

    fn write(&self, data: &mut Vec<u8>) {
        self.source.write(data);
        self.destination.write(data);
        self.cluster.write(data);
        self.profile.write(data);
    }
}

/// A number of addresses, and the addresses; at most as many as can be counted.
impl<'a> Field<'a> for Vec<Addr16> {
    fn read(rest: &mut &'a [u8]) -> Option<Self> {
        let number = u8::read(rest)?;
        (0..number).map(|_| Field::read(rest)).collect()
    }

    fn write(&self, data: &mut Vec<u8>) {
        let number = u8::try_from(self.len()).unwrap_or(u8::MAX);
        number.write(data);
        self.iter().take(number.into()).for_each(|hop| hop.write(data));
    }
}

/// The rest of the frame.
impl<'a> Field<'a> for &'a [u8] {
    fn read(rest: &mut &'a [u8]) -> Option<Self> {
        Some(core::mem::take(rest))
    }

    fn write(&self, data: &mut Vec<u8>) {
        data.extend_from_slice(self);
    }
}
