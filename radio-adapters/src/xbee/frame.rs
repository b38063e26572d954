//! What API frames mean ("API frames"): one variant for each type, fields in the order of the wire.
//!
//! Both directions are decoded and encoded, whoever sends them.

use core::fmt;

use nom::bytes::complete::take;
use nom::combinator::rest;
use nom::multi::count;
use nom::number::complete::{be_u16, be_u64, u8};
use nom::{IResult, Parser};

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

/// One API frame.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the manual, by its names")]
pub enum Frame<'a> {
    /// 00, 802.15.4: transmit to a 64-bit address.
    Tx64 {
        id: FrameId,
        dest: Addr64,
        options: u8,
        data: &'a [u8],
    },
    /// 01, 802.15.4: transmit to a 16-bit address.
    Tx16 {
        id: FrameId,
        dest: Addr16,
        options: u8,
        data: &'a [u8],
    },
    /// 08: AT command, carried out at once.
    AtCommand {
        id: FrameId,
        command: At,
        value: &'a [u8],
    },
    /// 09: AT command, carried out after the next AC.
    AtQueued {
        id: FrameId,
        command: At,
        value: &'a [u8],
    },
    /// 10: transmit.
    Transmit {
        id: FrameId,
        dest64: Addr64,
        dest16: Addr16,
        radius: u8,
        options: u8,
        data: &'a [u8],
    },
    /// 11: transmit with endpoints.
    TransmitExplicit {
        id: FrameId,
        dest64: Addr64,
        dest16: Addr16,
        endpoints: Endpoints,
        radius: u8,
        options: u8,
        data: &'a [u8],
    },
    /// 17: AT command for another node.
    RemoteAt {
        id: FrameId,
        dest64: Addr64,
        dest16: Addr16,
        options: u8,
        command: At,
        value: &'a [u8],
    },
    /// 20, Wi-Fi and cellular: transmit to an IPv4 address.
    TransmitIpv4 {
        id: FrameId,
        dest: [u8; 4],
        dest_port: u16,
        source_port: u16,
        protocol: u8,
        options: u8,
        data: &'a [u8],
    },
    /// 21: the way to a node; hops beginning with the neighbour of that node.
    CreateSourceRoute {
        id: FrameId,
        dest64: Addr64,
        dest16: Addr16,
        options: u8,
        hops: Vec<Addr16>,
    },
    /// 80, 802.15.4: received from a 64-bit address.
    Rx64 {
        source: Addr64,
        minus_rssi_dbm: u8,
        options: u8,
        data: &'a [u8],
    },
    /// 81, 802.15.4: received from a 16-bit address.
    Rx16 {
        source: Addr16,
        minus_rssi_dbm: u8,
        options: u8,
        data: &'a [u8],
    },
    /// 88: answer to an AT command.
    AtResponse {
        id: FrameId,
        command: At,
        status: u8,
        value: &'a [u8],
    },
    /// 89, 802.15.4 and IP: what became of a transmission.
    TxStatus { id: FrameId, status: u8 },
    /// 8A: something happened to the modem.
    ModemStatus { status: u8 },
    /// 8B: what became of a transmission.
    TransmitStatus {
        id: FrameId,
        dest16: Addr16,
        retries: u8,
        delivery: u8,
        discovery: u8,
    },
    /// 90: received.
    Receive {
        source64: Addr64,
        source16: Addr16,
        options: u8,
        data: &'a [u8],
    },
    /// 91: received, with endpoints.
    ReceiveExplicit {
        source64: Addr64,
        source16: Addr16,
        endpoints: Endpoints,
        options: u8,
        data: &'a [u8],
    },
    /// 95: a node said who it is; `details` begins with its name, ended by 00.
    NodeIdentification {
        sender64: Addr64,
        sender16: Addr16,
        options: u8,
        node16: Addr16,
        node64: Addr64,
        details: &'a [u8],
    },
    /// 97: answer of another node to an AT command.
    RemoteAtResponse {
        id: FrameId,
        source64: Addr64,
        source16: Addr16,
        command: At,
        status: u8,
        value: &'a [u8],
    },
    /// A1: the way a node's packets take; hops beginning with the neighbour of that node.
    RouteRecord {
        source64: Addr64,
        source16: Addr16,
        options: u8,
        hops: Vec<Addr16>,
    },
    /// A3: a node collects the data of its network.
    ManyToOne {
        source64: Addr64,
        source16: Addr16,
        reserved: u8,
    },
    /// B0, Wi-Fi and cellular: received from an IPv4 address. The destination port comes first.
    ReceiveIpv4 {
        source: [u8; 4],
        dest_port: u16,
        source_port: u16,
        protocol: u8,
        status: u8,
        data: &'a [u8],
    },
}

impl<'a> Frame<'a> {
    /// Reads the data of a frame; `None` for a type that is not listed here or data too short for its type. What
    /// later firmware may append to frames of fixed length is ignored.
    pub fn decode(data: &'a [u8]) -> Option<Frame<'a>> {
        let (&kind, body) = data.split_first()?;
        let parsed: IResult<&'a [u8], Frame<'a>> = match kind {
            0x00 => (id, addr64, u8, rest)
                .map(|(id, dest, options, data)| Frame::Tx64 {
                    id,
                    dest,
                    options,
                    data,
                })
                .parse(body),
            0x01 => (id, addr16, u8, rest)
                .map(|(id, dest, options, data)| Frame::Tx16 {
                    id,
                    dest,
                    options,
                    data,
                })
                .parse(body),
            0x08 => (id, at, rest)
                .map(|(id, command, value)| Frame::AtCommand { id, command, value })
                .parse(body),
            0x09 => (id, at, rest)
                .map(|(id, command, value)| Frame::AtQueued { id, command, value })
                .parse(body),
            0x10 => (id, addr64, addr16, u8, u8, rest)
                .map(|(id, dest64, dest16, radius, options, data)| Frame::Transmit {
                    id,
                    dest64,
                    dest16,
                    radius,
                    options,
                    data,
                })
                .parse(body),
            0x11 => (id, addr64, addr16, endpoints, u8, u8, rest)
                .map(
                    |(id, dest64, dest16, endpoints, radius, options, data)| Frame::TransmitExplicit {
                        id,
                        dest64,
                        dest16,
                        endpoints,
                        radius,
                        options,
                        data,
                    },
                )
                .parse(body),
            0x17 => (id, addr64, addr16, u8, at, rest)
                .map(|(id, dest64, dest16, options, command, value)| Frame::RemoteAt {
                    id,
                    dest64,
                    dest16,
                    options,
                    command,
                    value,
                })
                .parse(body),
            0x20 => (id, ipv4, be_u16, be_u16, u8, u8, rest)
                .map(
                    |(id, dest, dest_port, source_port, protocol, options, data)| Frame::TransmitIpv4 {
                        id,
                        dest,
                        dest_port,
                        source_port,
                        protocol,
                        options,
                        data,
                    },
                )
                .parse(body),
            0x21 => (id, addr64, addr16, u8, hops)
                .map(|(id, dest64, dest16, options, hops)| Frame::CreateSourceRoute {
                    id,
                    dest64,
                    dest16,
                    options,
                    hops,
                })
                .parse(body),
            0x80 => (addr64, u8, u8, rest)
                .map(|(source, minus_rssi_dbm, options, data)| Frame::Rx64 {
                    source,
                    minus_rssi_dbm,
                    options,
                    data,
                })
                .parse(body),
            0x81 => (addr16, u8, u8, rest)
                .map(|(source, minus_rssi_dbm, options, data)| Frame::Rx16 {
                    source,
                    minus_rssi_dbm,
                    options,
                    data,
                })
                .parse(body),
            0x88 => (id, at, u8, rest)
                .map(|(id, command, status, value)| Frame::AtResponse {
                    id,
                    command,
                    status,
                    value,
                })
                .parse(body),
            0x89 => (id, u8)
                .map(|(id, status)| Frame::TxStatus { id, status })
                .parse(body),
            0x8A => u8.map(|status| Frame::ModemStatus { status }).parse(body),
            0x8B => (id, addr16, u8, u8, u8)
                .map(
                    |(id, dest16, retries, delivery, discovery)| Frame::TransmitStatus {
                        id,
                        dest16,
                        retries,
                        delivery,
                        discovery,
                    },
                )
                .parse(body),
            0x90 => (addr64, addr16, u8, rest)
                .map(|(source64, source16, options, data)| Frame::Receive {
                    source64,
                    source16,
                    options,
                    data,
                })
                .parse(body),
            0x91 => (addr64, addr16, endpoints, u8, rest)
                .map(
                    |(source64, source16, endpoints, options, data)| Frame::ReceiveExplicit {
                        source64,
                        source16,
                        endpoints,
                        options,
                        data,
                    },
                )
                .parse(body),
            0x95 => (addr64, addr16, u8, addr16, addr64, rest)
                .map(
                    |(sender64, sender16, options, node16, node64, details)| Frame::NodeIdentification {
                        sender64,
                        sender16,
                        options,
                        node16,
                        node64,
                        details,
                    },
                )
                .parse(body),
            0x97 => (id, addr64, addr16, at, u8, rest)
                .map(
                    |(id, source64, source16, command, status, value)| Frame::RemoteAtResponse {
                        id,
                        source64,
                        source16,
                        command,
                        status,
                        value,
                    },
                )
                .parse(body),
            0xA1 => (addr64, addr16, u8, hops)
                .map(|(source64, source16, options, hops)| Frame::RouteRecord {
                    source64,
                    source16,
                    options,
                    hops,
                })
                .parse(body),
            0xA3 => (addr64, addr16, u8)
                .map(|(source64, source16, reserved)| Frame::ManyToOne {
                    source64,
                    source16,
                    reserved,
                })
                .parse(body),
            0xB0 => (ipv4, be_u16, be_u16, u8, u8, rest)
                .map(
                    |(source, dest_port, source_port, protocol, status, data)| Frame::ReceiveIpv4 {
                        source,
                        dest_port,
                        source_port,
                        protocol,
                        status,
                        data,
                    },
                )
                .parse(body),
            _ => return None,
        };
        parsed.ok().map(|(_, frame)| frame)
    }

    /// The data of the frame, for [`super::framing::encode`].
    pub fn encode(&self) -> Vec<u8> {
        match *self {
            Frame::Tx64 {
                id,
                dest,
                options,
                data,
            } => Out::new(0x00).id(id).addr64(dest).octet(options).slice(data),
            Frame::Tx16 {
                id,
                dest,
                options,
                data,
            } => Out::new(0x01).id(id).addr16(dest).octet(options).slice(data),
            Frame::AtCommand { id, command, value } => Out::new(0x08).id(id).slice(&command.0).slice(value),
            Frame::AtQueued { id, command, value } => Out::new(0x09).id(id).slice(&command.0).slice(value),
            Frame::Transmit {
                id,
                dest64,
                dest16,
                radius,
                options,
                data,
            } => Out::new(0x10)
                .id(id)
                .addr64(dest64)
                .addr16(dest16)
                .octet(radius)
                .octet(options)
                .slice(data),
            Frame::TransmitExplicit {
                id,
                dest64,
                dest16,
                endpoints,
                radius,
                options,
                data,
            } => Out::new(0x11)
                .id(id)
                .addr64(dest64)
                .addr16(dest16)
                .endpoints(endpoints)
                .octet(radius)
                .octet(options)
                .slice(data),
            Frame::RemoteAt {
                id,
                dest64,
                dest16,
                options,
                command,
                value,
            } => Out::new(0x17)
                .id(id)
                .addr64(dest64)
                .addr16(dest16)
                .octet(options)
                .slice(&command.0)
                .slice(value),
            Frame::TransmitIpv4 {
                id,
                dest,
                dest_port,
                source_port,
                protocol,
                options,
                data,
            } => Out::new(0x20)
                .id(id)
                .slice(&dest)
                .number(dest_port)
                .number(source_port)
                .octet(protocol)
                .octet(options)
                .slice(data),
            Frame::CreateSourceRoute {
                id,
                dest64,
                dest16,
                options,
                ref hops,
            } => Out::new(0x21)
                .id(id)
                .addr64(dest64)
                .addr16(dest16)
                .octet(options)
                .hops(hops),
            Frame::Rx64 {
                source,
                minus_rssi_dbm,
                options,
                data,
            } => Out::new(0x80)
                .addr64(source)
                .octet(minus_rssi_dbm)
                .octet(options)
                .slice(data),
            Frame::Rx16 {
                source,
                minus_rssi_dbm,
                options,
                data,
            } => Out::new(0x81)
                .addr16(source)
                .octet(minus_rssi_dbm)
                .octet(options)
                .slice(data),
            Frame::AtResponse {
                id,
                command,
                status,
                value,
            } => Out::new(0x88).id(id).slice(&command.0).octet(status).slice(value),
            Frame::TxStatus { id, status } => Out::new(0x89).id(id).octet(status),
            Frame::ModemStatus { status } => Out::new(0x8A).octet(status),
            Frame::TransmitStatus {
                id,
                dest16,
                retries,
                delivery,
                discovery,
            } => Out::new(0x8B)
                .id(id)
                .addr16(dest16)
                .octet(retries)
                .octet(delivery)
                .octet(discovery),
            Frame::Receive {
                source64,
                source16,
                options,
                data,
            } => Out::new(0x90)
                .addr64(source64)
                .addr16(source16)
                .octet(options)
                .slice(data),
            Frame::ReceiveExplicit {
                source64,
                source16,
                endpoints,
                options,
                data,
            } => Out::new(0x91)
                .addr64(source64)
                .addr16(source16)
                .endpoints(endpoints)
                .octet(options)
                .slice(data),
            Frame::NodeIdentification {
                sender64,
                sender16,
                options,
                node16,
                node64,
                details,
            } => Out::new(0x95)
                .addr64(sender64)
                .addr16(sender16)
                .octet(options)
                .addr16(node16)
                .addr64(node64)
                .slice(details),
            Frame::RemoteAtResponse {
                id,
                source64,
                source16,
                command,
                status,
                value,
            } => Out::new(0x97)
                .id(id)
                .addr64(source64)
                .addr16(source16)
                .slice(&command.0)
                .octet(status)
                .slice(value),
            Frame::RouteRecord {
                source64,
                source16,
                options,
                ref hops,
            } => Out::new(0xA1)
                .addr64(source64)
                .addr16(source16)
                .octet(options)
                .hops(hops),
            Frame::ManyToOne {
                source64,
                source16,
                reserved,
            } => Out::new(0xA3).addr64(source64).addr16(source16).octet(reserved),
            Frame::ReceiveIpv4 {
                source,
                dest_port,
                source_port,
                protocol,
                status,
                data,
            } => Out::new(0xB0)
                .slice(&source)
                .number(dest_port)
                .number(source_port)
                .octet(protocol)
                .octet(status)
                .slice(data),
        }
        .0
    }
}

fn id(input: &[u8]) -> IResult<&[u8], FrameId> {
    u8.map(FrameId).parse(input)
}

fn addr64(input: &[u8]) -> IResult<&[u8], Addr64> {
    be_u64.map(Addr64).parse(input)
}

fn addr16(input: &[u8]) -> IResult<&[u8], Addr16> {
    be_u16.map(Addr16).parse(input)
}

fn at(input: &[u8]) -> IResult<&[u8], At> {
    (u8, u8).map(|(first, second)| At([first, second])).parse(input)
}

fn ipv4(input: &[u8]) -> IResult<&[u8], [u8; 4]> {
    take(4_usize)
        .map_res(|octets: &[u8]| octets.try_into())
        .parse(input)
}

fn endpoints(input: &[u8]) -> IResult<&[u8], Endpoints> {
    (u8, u8, be_u16, be_u16)
        .map(|(source, destination, cluster, profile)| Endpoints {
            source,
            destination,
            cluster,
            profile,
        })
        .parse(input)
}

/// A number of addresses, and the addresses.
fn hops(input: &[u8]) -> IResult<&[u8], Vec<Addr16>> {
    let (input, number) = u8(input)?;
    count(addr16, usize::from(number)).parse(input)
}

/// The data of a frame being written.
struct Out(Vec<u8>);

impl Out {
    fn new(kind: u8) -> Self {
        Out(vec![kind])
    }

    fn octet(mut self, octet: u8) -> Self {
        self.0.push(octet);
        self
    }

    fn slice(mut self, octets: &[u8]) -> Self {
        self.0.extend_from_slice(octets);
        self
    }

    fn id(self, id: FrameId) -> Self {
        self.octet(id.0)
    }

    fn number(self, number: u16) -> Self {
        self.slice(&number.to_be_bytes())
    }

    fn addr64(self, addr: Addr64) -> Self {
        self.slice(&addr.0.to_be_bytes())
    }

    fn addr16(self, addr: Addr16) -> Self {
        self.number(addr.0)
    }

    fn endpoints(self, endpoints: Endpoints) -> Self {
        self.octet(endpoints.source)
            .octet(endpoints.destination)
            .number(endpoints.cluster)
            .number(endpoints.profile)
    }

    /// At most 255 of them, as many as can be counted.
    fn hops(self, hops: &[Addr16]) -> Self {
        let hops = &hops[..hops.len().min(255)];
        hops.iter()
            .fold(self.octet(hops.len() as u8), |out, hop| out.addr16(*hop))
    }
}
