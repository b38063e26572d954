//! A second opinion on every datagram the gateway sends: Wireshark's MQTT-SN dissector.

use std::process::Command;

use serde_json::Value;
use sn_codec::{
    Connack, Disconnect, Encapsulation, MsgId, Packet, Puback, Publish, PublishQoS, Regack, Register,
    ReturnCode, Suback, TopicId, TopicRef,
};
use tempfile::TempDir;

use crate::capture::{Capture, Record, write_pcap};

/// Has tshark dissect everything the gateway sent, and compares its reading with ours, field by field.
///
/// The dissector knows less than the specification in a few places; those are left out of the comparison where they
/// stand below, each with its reason. Returns how many datagrams were compared.
///
/// # Panics
/// If tshark is missing, calls a datagram malformed, or reads something else than the codec.
#[track_caller]
pub fn check_with_tshark(capture: &Capture) -> usize {
    let records = capture.by_gateway();
    let dissected = dissect(&records);
    assert_eq!(dissected.len(), records.len(), "tshark lists every packet");
    for (record, layers) in records.iter().zip(&dissected) {
        compare(record, layers);
    }
    records.len()
}

fn dissect(records: &[Record]) -> Vec<Value> {
    if records.is_empty() {
        return vec![];
    }
    let dir = TempDir::new().expect("a temporary directory");
    let file = dir.path().join("gateway.pcap");
    write_pcap(records, &file);
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(&file).args(["-T", "json"]);
    // The dissector claims no port by itself.
    let mut ports: Vec<u16> = records.iter().map(|record| record.from.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    for port in ports {
        command.args(["-d", &format!("udp.port=={port},mqttsn")]);
    }
    let output = command.output().unwrap_or_else(|error| {
        panic!("cannot start tshark: {error}\nrun tests/run.sh, which installs it");
    });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tshark: {errors}");
    let packets: Vec<Value> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("tshark did not print JSON: {error}\n{errors}"));
    packets
        .into_iter()
        .map(|mut packet| packet["_source"]["layers"].take())
        .collect()
}

#[track_caller]
fn compare(record: &Record, layers: &Value) {
    let (encapsulation, message) = Encapsulation::split(&record.datagram)
        .unwrap_or_else(|error| panic!("{:02x?}: {error}", record.datagram));
    let packet = Packet::decode(message).unwrap_or_else(|error| panic!("{:02x?}: {error}", record.datagram));
    // A wireless node id is opaque octets; the dissector reads an integer and gives up beyond four.
    let opaque = encapsulation.is_some_and(|encapsulation| encapsulation.wireless_node_id.len() > 4);
    if !opaque {
        assert!(
            !layers.to_string().contains("_ws.malformed"),
            "tshark calls {packet:?} malformed: {layers:#}"
        );
    }
    let mut seen = &layers["mqttsn"]["mqttsn.msg"];
    if encapsulation.is_some() {
        seen = &seen["mqttsn.msg"];
    }
    let mut expected = vec![
        ("mqttsn.msg.type", Some(u64::from(packet.msg_type() as u8))),
        ("mqttsn.msg.len", Some(message.len() as u64)),
    ];
    expected.extend(fields(&packet));
    for (field, expected) in expected {
        assert_eq!(
            number(&seen[field]),
            expected,
            "{field} of {packet:?}; tshark reads {layers:#}"
        );
    }
    if let Some((field, text)) = text(&packet) {
        assert_eq!(
            seen[field].as_str(),
            Some(text),
            "{field} of {packet:?}; tshark reads {layers:#}"
        );
    }
}

/// The numeric fields tshark must show, and with which value.
///
/// Of the flags it shows only those of PUBLISH; the granted QoS of a SUBACK is invisible to it.
fn fields(packet: &Packet<'_>) -> Vec<(&'static str, Option<u64>)> {
    let msg_id = |id: MsgId| ("mqttsn.msg.id", Some(u64::from(id.0)));
    let topic_id = |id: TopicId| ("mqttsn.topic.id", Some(u64::from(id.0)));
    let code = |code: ReturnCode| ("mqttsn.return.code", Some(u64::from(u8::from(code))));
    match *packet {
        Packet::Advertise(advertise) => {
            vec![
                ("mqttsn.gw.id", Some(advertise.gw_id.into())),
                ("mqttsn.adv.interv", Some(advertise.duration.into())),
            ]
        }
        Packet::GwInfo(info) => vec![
            ("mqttsn.gw.id", Some(info.gw_id.into())),
            ("mqttsn.gw.addr", None),
        ],
        Packet::Connack(Connack { return_code }) => vec![code(return_code)],
        Packet::Register(Register {
            topic_id: id,
            msg_id: msg,
            ..
        }) => vec![topic_id(id), msg_id(msg)],
        Packet::Regack(Regack {
            topic_id: id,
            msg_id: msg,
            return_code,
        }) => {
            vec![topic_id(id), msg_id(msg), code(return_code)]
        }
        Packet::Publish(Publish {
            dup,
            qos,
            retain,
            topic,
            msg_id: msg,
            ..
        }) => {
            let qos = match qos {
                PublishQoS::MinusOne => 3,
                PublishQoS::Level(qos) => qos as u64,
            };
            let (kind, id) = match topic {
                TopicRef::Normal(id) => (0, id),
                TopicRef::Predefined(id) => (1, id),
                TopicRef::Short(name) => (2, TopicId(u16::from_be_bytes(name.0))),
            };
            let flags = [
                ("mqttsn.dup", dup.into()),
                ("mqttsn.qos", qos),
                ("mqttsn.retain", retain.into()),
            ];
            let mut fields: Vec<_> = flags
                .into_iter()
                .map(|(name, value)| (name, Some(value)))
                .collect();
            fields.extend([("mqttsn.topic.id.type", Some(kind)), topic_id(id), msg_id(msg)]);
            fields
        }
        Packet::Puback(Puback {
            topic_id: id,
            msg_id: msg,
            return_code,
        }) => {
            vec![topic_id(id), msg_id(msg), code(return_code)]
        }
        Packet::Pubcomp(msg) | Packet::Pubrec(msg) | Packet::Pubrel(msg) | Packet::Unsuback(msg) => {
            vec![msg_id(msg)]
        }
        Packet::Suback(Suback {
            topic_id: id,
            msg_id: msg,
            return_code,
            ..
        }) => {
            vec![topic_id(id), msg_id(msg), code(return_code)]
        }
        Packet::Disconnect(Disconnect { duration }) => vec![("mqttsn.sleep.timer", duration.map(u64::from))],
        Packet::WillTopicResp(return_code) | Packet::WillMsgResp(return_code) => vec![code(return_code)],
        Packet::WillTopicReq | Packet::WillMsgReq | Packet::Pingresp | Packet::Pingreq(_) => vec![],
        Packet::SearchGw(_)
        | Packet::Connect(_)
        | Packet::WillTopic(_)
        | Packet::WillMsg(_)
        | Packet::Subscribe(_)
        | Packet::Unsubscribe(_)
        | Packet::WillTopicUpd(_)
        | Packet::WillMsgUpd(_) => panic!("only clients send {packet:?}"),
    }
}

/// The text tshark must show, if it can: it renders names and payloads as ASCII and cuts them at NUL.
fn text<'a>(packet: &Packet<'a>) -> Option<(&'static str, &'a str)> {
    let (field, octets) = match packet {
        Packet::Register(register) => ("mqttsn.topic", register.topic_name.as_bytes()),
        Packet::Publish(publish) => ("mqttsn.pub.msg", publish.data),
        _ => return None,
    };
    let printable = octets.iter().all(|octet| matches!(octet, b' '..=b'~'));
    std::str::from_utf8(octets)
        .ok()
        .filter(|_| printable)
        .map(|text| (field, text))
}

/// A number as tshark writes it: decimal, `0x`, or from version 4.2 on a truth value in words.
fn number(value: &Value) -> Option<u64> {
    match value.as_str()? {
        "False" => Some(0),
        "True" => Some(1),
        text => match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, net::SocketAddr};

    use super::*;
    use crate::{Sent, gateway::repository};

    fn capture_of(datagrams: &[&str]) -> Capture {
        let (gateway, client): (SocketAddr, SocketAddr) =
            (([127, 0, 0, 1], 1883).into(), ([127, 0, 0, 1], 40_000).into());
        let capture = Capture::default();
        for hex in datagrams {
            let octet = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            let octets: Vec<u8> = (0..hex.len()).step_by(2).map(octet).collect();
            capture.note(Sent::ByGateway, gateway, client, &octets);
        }
        capture
    }

    #[test]
    fn agrees_on_every_vector_that_a_gateway_may_send() {
        let text = fs::read_to_string(repository().join("sn-codec/tests/vectors-1.2.json")).unwrap();
        let vectors: Vec<Value> = serde_json::from_str(&text).unwrap();
        let sent = vectors
            .iter()
            .filter(|vector| vector["valid"] == true && vector["direction"] != "c2g");
        let datagrams: Vec<_> = sent.map(|vector| vector["hex"].as_str().unwrap()).collect();
        assert!(datagrams.len() > 20, "{datagrams:?}");

        assert_eq!(check_with_tshark(&capture_of(&datagrams)), datagrams.len());
    }

    #[test]
    #[should_panic(expected = "malformed")]
    fn refuses_what_tshark_calls_malformed() {
        // An empty WILLTOPIC is the one message tshark takes for malformed and the codec does not.
        check_with_tshark(&capture_of(&["0207"]));
    }

    #[test]
    #[should_panic(expected = "at octet")]
    fn refuses_what_the_codec_does_not_read() {
        check_with_tshark(&capture_of(&["0217", "031700"]));
    }
}
