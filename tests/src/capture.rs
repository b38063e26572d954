//! What clients and gateway said to each other, as a capture file that other tools read.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

/// Packets begin with their IP header (LINKTYPE_RAW of the libpcap format).
const LINKTYPE_RAW: u32 = 101;

/// The datagrams between some clients and one gateway, in the order they were seen.
#[derive(Clone, Default)]
pub struct Capture(Arc<Mutex<Vec<Record>>>);

/// Which way a datagram went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// By a client.
    ToGateway,
    /// By the gateway.
    ByGateway,
}

#[derive(Clone)]
pub(crate) struct Record {
    pub(crate) at: SystemTime,
    pub(crate) sent: Sent,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) datagram: Vec<u8>,
}

impl Capture {
    /// Notes a datagram.
    pub fn note(&self, sent: Sent, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        let datagram = datagram.to_vec();
        let record = Record {
            at: SystemTime::now(),
            sent,
            from,
            to,
            datagram,
        };
        self.0.lock().expect("no holder panics").push(record);
    }

    /// What the gateway sent, in order.
    pub(crate) fn by_gateway(&self) -> Vec<Record> {
        let records = self.0.lock().expect("no holder panics");
        records
            .iter()
            .filter(|record| record.sent == Sent::ByGateway)
            .cloned()
            .collect()
    }
}

/// Writes a capture file. UDP and IP headers are made up around each datagram, so no privilege is needed.
pub(crate) fn write_pcap(records: &[Record], path: &Path) {
    let mut file = Vec::new();
    // Magic number, version 2.4, time zone, accuracy, longest packet, link type.
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 0x0001_0000, LINKTYPE_RAW] {
        file.extend_from_slice(&u32::to_le_bytes(word));
    }
    for record in records {
        let packet = ip_packet(record);
        let since = record.at.duration_since(UNIX_EPOCH).expect("after 1970");
        let len = packet.len() as u32;
        for word in [since.as_secs() as u32, since.subsec_micros(), len, len] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(&packet);
    }
    fs::write(path, file).expect("the capture file can be written");
}

fn ip_packet(record: &Record) -> Vec<u8> {
    let udp_len = (8 + record.datagram.len()) as u16;
    let mut udp = Vec::new();
    udp.extend_from_slice(&record.from.port().to_be_bytes());
    udp.extend_from_slice(&record.to.port().to_be_bytes());
    udp.extend_from_slice(&udp_len.to_be_bytes());
    udp.extend_from_slice(&[0, 0]); // No checksum; tshark is told not to look.
    udp.extend_from_slice(&record.datagram);

    let mut packet = Vec::new();
    match (record.from.ip(), record.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            packet.extend_from_slice(&[0x45, 0]);
            packet.extend_from_slice(&(20 + udp_len).to_be_bytes());
            packet.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0]);
            packet.extend_from_slice(&from.octets());
            packet.extend_from_slice(&to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            packet.extend_from_slice(&[0x60, 0, 0, 0]);
            packet.extend_from_slice(&udp_len.to_be_bytes());
            packet.extend_from_slice(&[17, 64]);
            packet.extend_from_slice(&from.octets());
            packet.extend_from_slice(&to.octets());
        }
        (from, to) => unreachable!("a datagram from {from} to {to}"),
    }
    packet.extend_from_slice(&udp);
    packet
}
