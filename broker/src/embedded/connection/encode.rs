//! Packets to a client, written straight into the buffer that goes out.
//!
//! Not with mqtt-protocol-core: its encoders make a vector of each part of each packet and copy a payload twice, for
//! every subscriber. What a server sends is short and without options.

use bytes::BufMut;
use sn_codec::QoS;

use super::decode::Version;
use crate::embedded::packet::{Delivery, Properties};

/// What CONNACK announces in MQTT 5 (§3.2.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) receive_maximum: u16,
    pub(crate) packet_bytes: u32,
    pub(crate) aliases: u16,
}

/// The topic of a PUBLISH as it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alias {
    /// None: the topic alone.
    No,
    /// The topic and the alias it gets.
    Set(u16),
    /// The alias alone.
    Use(u16),
}

/// CONNACK that accepts.
pub(crate) fn accepted(
    version: Version,
    session_present: bool,
    assigned_client_id: Option<&str>,
    terms: Terms,
    out: &mut Vec<u8>,
) {
    let mut body = vec![u8::from(session_present), 0];
    if version == Version::V5 {
        let mut properties = Vec::new();
        properties.put_u8(0x21);
        properties.put_u16(terms.receive_maximum);
        properties.put_u8(0x22);
        properties.put_u16(terms.aliases);
        properties.put_u8(0x27);
        properties.put_u32(terms.packet_bytes);
        if let Some(client_id) = assigned_client_id {
            properties.put_u8(0x12);
            put_text(client_id, &mut properties);
        }
        put_length(properties.len(), &mut body);
        body.extend_from_slice(&properties);
    }
    packet(0x20, &body, out);
}

/// CONNACK that refuses; nothing if 3.1.1 has no code for the reason (MQTT-3.2.2-6).
pub(crate) fn refused(version: Version, reason: u8, out: &mut Vec<u8>) {
    let code = match (version, reason) {
        (Version::V5, reason) => return packet(0x20, &[0, reason, 0], out),
        (Version::V3, 0x84) => 1,
        (Version::V3, 0x85) => 2,
        (Version::V3, 0x88 | 0x89 | 0x8B | 0x97 | 0x9F) => 3,
        (Version::V3, 0x86 | 0x8C) => 4,
        (Version::V3, 0x87 | 0x8A) => 5,
        (Version::V3, _) => return,
    };
    packet(0x20, &[0, code], out);
}

/// PUBLISH, if it has no more than `limit` octets.
pub(crate) fn publish(
    version: Version,
    delivery: &Delivery,
    alias: Alias,
    limit: u32,
    out: &mut Vec<u8>,
) -> bool {
    let message = &*delivery.message;
    let mut properties = Vec::new();
    if version == Version::V5 {
        if let Alias::Set(alias) | Alias::Use(alias) = alias {
            properties.put_u8(0x23);
            properties.put_u16(alias);
        }
        if let Some(seconds) = delivery.expiry {
            properties.put_u8(0x02);
            properties.put_u32(seconds);
        }
        for &id in &delivery.ids {
            properties.put_u8(0x0B);
            put_length(id as usize, &mut properties);
        }
        if let Some(handed_on) = &message.properties {
            put_properties(handed_on, &mut properties);
        }
    }
    let topic = if let Alias::Use(_) = alias {
        ""
    } else {
        &*message.topic
    };
    let id_len = if delivery.qos == QoS::AtMostOnce { 0 } else { 2 };
    let properties_len = match version {
        Version::V3 => 0,
        Version::V5 => length_len(properties.len()) + properties.len(),
    };
    let body_len = 2 + topic.len() + id_len + properties_len + message.payload.len();
    let packet_len = 1 + length_len(body_len) + body_len;
    if packet_len as u64 > u64::from(limit) {
        return false;
    }

    out.reserve(packet_len);
    let flags = u8::from(delivery.dup) << 3 | (delivery.qos as u8) << 1 | u8::from(delivery.retain);
    out.put_u8(0x30 | flags);
    put_length(body_len, out);
    put_text(topic, out);
    if delivery.qos != QoS::AtMostOnce {
        out.put_u16(delivery.packet_id);
    }
    if version == Version::V5 {
        put_length(properties.len(), out);
        out.extend_from_slice(&properties);
    }
    out.extend_from_slice(&message.payload);
    true
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP: `first` says which.
pub(crate) fn acknowledgement(version: Version, first: u8, packet_id: u16, reason: u8, out: &mut Vec<u8>) {
    let [high, low] = packet_id.to_be_bytes();
    match (version, reason) {
        (Version::V3, _) | (Version::V5, 0) => packet(first, &[high, low], out),
        (Version::V5, reason) => packet(first, &[high, low, reason], out),
    }
}

/// SUBACK. 3.1.1 has one code for every refusal (§3.9.3 there).
pub(crate) fn suback(version: Version, packet_id: u16, reasons: &[u8], out: &mut Vec<u8>) {
    match version {
        Version::V3 => {
            let codes: Vec<u8> = reasons.iter().map(|&reason| reason.min(0x80)).collect();
            with_id(0x90, packet_id, &[], &codes, out);
        }
        Version::V5 => with_id(0x90, packet_id, &[0], reasons, out),
    }
}

/// UNSUBACK, without codes in 3.1.1.
pub(crate) fn unsuback(version: Version, packet_id: u16, reasons: &[u8], out: &mut Vec<u8>) {
    match version {
        Version::V3 => with_id(0xB0, packet_id, &[], &[], out),
        Version::V5 => with_id(0xB0, packet_id, &[0], reasons, out),
    }
}

/// PINGRESP.
pub(crate) fn pingresp(out: &mut Vec<u8>) {
    packet(0xD0, &[], out);
}

/// DISCONNECT; a 3.1.1 server has none.
pub(crate) fn disconnect(version: Version, reason: u8, out: &mut Vec<u8>) {
    if version == Version::V5 {
        packet(0xE0, &[reason], out);
    }
}

fn packet(first: u8, body: &[u8], out: &mut Vec<u8>) {
    out.put_u8(first);
    put_length(body.len(), out);
    out.extend_from_slice(body);
}

fn with_id(first: u8, packet_id: u16, properties: &[u8], codes: &[u8], out: &mut Vec<u8>) {
    out.put_u8(first);
    put_length(2 + properties.len() + codes.len(), out);
    out.put_u16(packet_id);
    out.extend_from_slice(properties);
    out.extend_from_slice(codes);
}

fn put_properties(properties: &Properties, out: &mut Vec<u8>) {
    if let Some(format) = properties.payload_format {
        out.extend_from_slice(&[0x01, format]);
    }
    if let Some(kind) = &properties.content_type {
        out.put_u8(0x03);
        put_text(kind, out);
    }
    if let Some(topic) = &properties.response_topic {
        out.put_u8(0x08);
        put_text(topic, out);
    }
    if let Some(data) = &properties.correlation_data {
        out.put_u8(0x09);
        put_octets(data, out);
    }
    for (name, value) in &properties.user {
        out.put_u8(0x26);
        put_text(name, out);
        put_text(value, out);
    }
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    put_octets(text.as_bytes(), out);
}

/// Two octets of length and the octets. All that comes here came in like this, or from the gateway, whose topics are
/// shorter still.
fn put_octets(octets: &[u8], out: &mut Vec<u8>) {
    let len = u16::try_from(octets.len()).unwrap_or(u16::MAX);
    out.put_u16(len);
    out.extend_from_slice(&octets[..usize::from(len)]);
}

/// A variable byte integer (§1.5.5).
fn put_length(mut length: usize, out: &mut Vec<u8>) {
    while length >= 0x80 {
        out.put_u8(length as u8 | 0x80);
        length >>= 7;
    }
    out.put_u8(length as u8);
}

fn length_len(length: usize) -> usize {
    match length {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}
