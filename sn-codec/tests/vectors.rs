//! Every datagram of `vectors-1.2.json` has the outcome that the file states for it.

#![allow(clippy::unwrap_used)] // The helpers are part of the tests.

use serde_json::{Map, Value, json};
use sn_codec::{
    Connack, DecodeError, Encapsulation, MsgId, Packet, Puback, PublishQoS, QoS, Regack, ReturnCode, Suback,
    TopicFilter, TopicId, TopicRef, decode_for_gateway, decode_message, encode_message,
};

const VECTORS: &str = include_str!("vectors-1.2.json");

#[test]
fn the_file_is_complete() {
    let accepted = |value: Value| vectors().iter().filter(|v| v.json["accept"] == value).count();

    assert_eq!(vectors().len(), 151);
    assert_eq!(accepted(json!(true)), 82);
    assert_eq!(accepted(json!("config")), 1);
    assert_eq!(accepted(json!(false)), 68);
}

#[test]
fn accepted_datagrams_decode_to_the_stated_fields() {
    for vector in vectors().iter().filter(|v| v.json["accept"] == true) {
        let name = &vector.name;
        let (encapsulation, packet) =
            decode_message(&vector.datagram).unwrap_or_else(|e| panic!("{name}: {e}"));

        let message = match encapsulation {
            Some(header) => {
                let stated = &vector.json["decoded"];
                assert_eq!(stated["type"], "ENCAPSULATED", "{name}");
                assert_eq!(stated["type_code"], 0xFE, "{name}");
                assert_eq!(stated["length"], header.encoded_len(), "{name}");
                assert_eq!(stated["radius"], header.radius, "{name}");
                assert_eq!(stated["wireless_node_id"], hex(header.wireless_node_id), "{name}");
                &stated["inner"]
            }
            None => &vector.json["decoded"],
        };
        let header_len = encapsulation.map_or(0, |header| header.encoded_len());
        assert_eq!(
            message["length"],
            vector.datagram.len() - header_len,
            "{name}: length"
        );
        assert_fields(name, &packet, message);
    }
}

#[test]
fn accepted_datagrams_are_let_in_by_a_gateway_unless_they_are_for_clients() {
    for vector in vectors().iter().filter(|v| v.json["accept"] == true) {
        let name = &vector.name;
        let outcome = decode_for_gateway(&vector.datagram).map_err(|e| e.kind.name());

        let (_, packet) = decode_message(&vector.datagram).unwrap();
        let is_answer = [
            "CONNACK",
            "WILLTOPICREQ",
            "WILLMSGREQ",
            "SUBACK",
            "UNSUBACK",
            "WILLTOPICRESP",
            "WILLMSGRESP",
        ]
        .contains(&packet.msg_type().name());
        if is_answer {
            assert_eq!(vector.json["direction"], "g2c", "{name}");
            assert_eq!(outcome, Err("wrong_direction"), "{name}");
        } else {
            assert!(outcome.is_ok(), "{name}: {outcome:?}");
        }
    }
}

#[test]
fn rejected_datagrams_give_the_stated_error_and_answer() {
    for vector in vectors().iter().filter(|v| v.json["accept"] == false) {
        let name = &vector.name;
        let error = match vector.json["error"].as_str().unwrap() {
            "wrong_direction" => decode_for_gateway(&vector.datagram),
            _ => decode_message(&vector.datagram),
        }
        .expect_err(name);

        assert_eq!(vector.json["error"], error.kind.name(), "{name}");
        assert_eq!(error.answer, stated_answer(vector), "{name}");
        assert!(error.offset <= vector.datagram.len(), "{name}: {error}");
    }
}

#[test]
fn extensions_are_rejected() {
    for vector in vectors().iter().filter(|v| v.json["accept"] == "config") {
        let error = decode_message(&vector.datagram).expect_err(&vector.name);

        assert_eq!(error.kind.name(), "qos_minus1_normal_topic", "{}", vector.name);
        assert_eq!(error.answer, None, "{}", vector.name);
    }
}

#[test]
fn conforming_datagrams_are_encoded_to_the_same_octets() {
    let conforming = |v: &&Vector| v.json["valid"] == true && !v.name.starts_with("len3_small");
    for vector in vectors().iter().filter(conforming) {
        let name = &vector.name;
        let (encapsulation, packet) = decode_message(&vector.datagram).unwrap();

        let mut encoded = Vec::new();
        encode_message(encapsulation.as_ref(), &packet, &mut encoded);

        assert_eq!(hex(&encoded), hex(&vector.datagram), "{name}");
        let header_len = encapsulation.map_or(0, |header| header.encoded_len());
        assert_eq!(header_len + packet.encoded_len(), encoded.len(), "{name}");
    }
}

#[test]
fn long_forms_that_need_not_be_are_encoded_short() {
    for vector in vectors().iter().filter(|v| v.name.starts_with("len3_small")) {
        let packet = Packet::decode(&vector.datagram).unwrap();

        let mut encoded = Vec::new();
        packet.encode(&mut encoded);

        assert_eq!(encoded.len(), vector.datagram.len() - 2, "{}", vector.name);
        assert_eq!(encoded[1..], vector.datagram[3..], "{}", vector.name);
    }
}

#[test]
fn cut_datagrams_are_rejected_without_an_answer() {
    for vector in vectors() {
        // Malformed ones may become well formed by cutting; a conforming one never stays so.
        for len in 0..vector.datagram.len() {
            let outcome = decode_message(&vector.datagram[..len]);
            if vector.json["valid"] == true {
                let error = outcome.expect_err(&vector.name);
                assert_eq!(error.answer, None, "{} cut to {len}", vector.name);
            } else {
                assert_sound(outcome, len);
            }
        }
    }
}

#[test]
fn changed_octets_never_confuse_the_decoder() {
    for vector in vectors() {
        for at in 0..vector.datagram.len() {
            for mask in [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xFF] {
                let mut datagram = vector.datagram.clone();
                datagram[at] ^= mask;
                assert_sound(decode_message(&datagram), datagram.len());
            }
        }
    }
}

/// One entry of the file.
struct Vector {
    name: String,
    datagram: Vec<u8>,
    json: Value,
}

fn vectors() -> Vec<Vector> {
    let entries: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
    let vector = |json: Value| Vector {
        name: json["name"].as_str().unwrap().to_owned(),
        datagram: octets(json["hex"].as_str().unwrap()),
        json,
    };
    entries.into_iter().map(vector).collect()
}

/// What holds for every outcome: an error lies within the datagram and its answer can be sent; a packet
/// survives encoding.
fn assert_sound(outcome: Result<(Option<Encapsulation<'_>>, Packet<'_>), DecodeError>, len: usize) {
    let mut encoded = Vec::new();
    match outcome {
        Ok((encapsulation, packet)) => {
            encode_message(encapsulation.as_ref(), &packet, &mut encoded);
            assert_eq!(decode_message(&encoded), Ok((encapsulation, packet)));
        }
        Err(error) => {
            assert!(error.offset <= len, "{error}");
            if let Some(answer) = error.answer {
                answer.encode(&mut encoded);
                assert_eq!(Packet::decode(&encoded), Ok(answer));
            }
        }
    }
}

/// Compares the fields of a packet with the JSON one by one, and that neither side has one more.
fn assert_fields(name: &str, packet: &Packet<'_>, stated: &Value) {
    let mut decoded = fields(packet);
    assert_eq!(stated["type"], packet.msg_type().name(), "{name}: type");
    assert_eq!(stated["type_code"], packet.msg_type() as u8, "{name}: type code");
    for (key, value) in stated.as_object().unwrap() {
        match key.as_str() {
            "type" | "type_code" | "length" => {}
            "flags" if name == "tol_willtopic_flags_only" => {
                assert_eq!(
                    decoded.remove("flags"),
                    Some(Value::Null),
                    "{name}: flags mean nothing without a topic"
                );
            }
            "flags" => {
                let flags = decoded
                    .remove("flags")
                    .unwrap_or_else(|| panic!("{name}: no flags"));
                assert_eq!(flags.is_null(), value.is_null(), "{name}: flags");
                // The JSON has all five fields of the octet, the packet those with a meaning in this message.
                for (flag, decoded) in flags.as_object().into_iter().flatten() {
                    assert_eq!(*decoded, value[flag], "{name}: {flag}");
                }
            }
            _ => assert_eq!(decoded.remove(key).as_ref(), Some(value), "{name}: {key}"),
        }
    }
    assert!(decoded.is_empty(), "{name}: more than stated: {decoded:?}");
}

/// A packet in the terms of the vector file, type and length aside.
fn fields(packet: &Packet<'_>) -> Map<String, Value> {
    let value = match packet {
        Packet::Advertise(p) => json!({"gw_id": p.gw_id, "duration": p.duration}),
        Packet::SearchGw(p) => json!({"radius": p.radius}),
        Packet::GwInfo(p) => json!({"gw_id": p.gw_id, "gw_add": hex(p.gw_add)}),
        Packet::Connect(p) => json!({
            "flags": {"will": p.will, "clean_session": p.clean_session},
            "protocol_id": 1,
            "duration": p.duration,
            "client_id": p.client_id,
        }),
        Packet::Connack(p) => json!({"return_code": u8::from(p.return_code)}),
        Packet::WillTopicReq | Packet::WillMsgReq | Packet::Pingresp => json!({}),
        Packet::WillTopic(None) | Packet::WillTopicUpd(None) => json!({"flags": null, "will_topic": ""}),
        Packet::WillTopic(Some(p)) | Packet::WillTopicUpd(Some(p)) => json!({
            "flags": {"qos": p.qos as u8, "retain": p.retain},
            "will_topic": p.topic,
        }),
        Packet::WillMsg(p) | Packet::WillMsgUpd(p) => json!({"will_msg": hex(p.message)}),
        Packet::Register(p) => json!({
            "topic_id": p.topic_id.0,
            "msg_id": p.msg_id.0,
            "topic_name": p.topic_name,
        }),
        Packet::Regack(p) => json!({
            "topic_id": p.topic_id.0,
            "msg_id": p.msg_id.0,
            "return_code": u8::from(p.return_code),
        }),
        Packet::Publish(p) => {
            let qos = match p.qos {
                PublishQoS::MinusOne => -1,
                PublishQoS::Level(qos) => qos as i8,
            };
            let (topic_id_type, topic_id, short) = match p.topic {
                TopicRef::Normal(id) => ("normal", id.0, None),
                TopicRef::Predefined(id) => ("predefined", id.0, None),
                TopicRef::Short(name) => ("short", u16::from_be_bytes(name.0), Some(name)),
            };
            let mut value = json!({
                "flags": {"dup": p.dup, "qos": qos, "retain": p.retain, "topic_id_type": topic_id_type},
                "topic_id": topic_id,
                "msg_id": p.msg_id.0,
                "data": hex(p.data),
            });
            if let Some(name) = short {
                value["short_topic"] = json!(name.as_str());
            }
            value
        }
        Packet::Puback(p) => json!({
            "topic_id": p.topic_id.0,
            "msg_id": p.msg_id.0,
            "return_code": u8::from(p.return_code),
        }),
        Packet::Pubcomp(msg_id)
        | Packet::Pubrec(msg_id)
        | Packet::Pubrel(msg_id)
        | Packet::Unsuback(msg_id) => {
            json!({"msg_id": msg_id.0})
        }
        Packet::Subscribe(p) => {
            let mut value = filter(&p.topic);
            value["flags"]["dup"] = json!(p.dup);
            value["flags"]["qos"] = json!(p.qos as u8);
            value["msg_id"] = json!(p.msg_id.0);
            value
        }
        Packet::Suback(p) => json!({
            "flags": {"qos": p.qos as u8},
            "topic_id": p.topic_id.0,
            "msg_id": p.msg_id.0,
            "return_code": u8::from(p.return_code),
        }),
        Packet::Unsubscribe(p) => {
            let mut value = filter(&p.topic);
            value["msg_id"] = json!(p.msg_id.0);
            value
        }
        Packet::Pingreq(p) => json!({"client_id": p.client_id.unwrap_or("")}),
        Packet::Disconnect(p) => json!({"duration": p.duration}),
        Packet::WillTopicResp(code) | Packet::WillMsgResp(code) => json!({"return_code": u8::from(*code)}),
    };
    value.as_object().unwrap().clone()
}

fn filter(topic: &TopicFilter<'_>) -> Value {
    match topic {
        TopicFilter::Name(name) => json!({"flags": {"topic_id_type": "normal"}, "topic_name": name}),
        TopicFilter::Predefined(id) => json!({"flags": {"topic_id_type": "predefined"}, "topic_id": id.0}),
        TopicFilter::Short(name) => {
            json!({"flags": {"topic_id_type": "short"}, "short_topic": name.as_str()})
        }
    }
}

/// The `action` of a vector as the message it asks for.
fn stated_answer(vector: &Vector) -> Option<Packet<'static>> {
    let word = |at: usize| u16::from_be_bytes([vector.datagram[at], vector.datagram[at + 1]]);
    let return_code = ReturnCode::NotSupported;
    let answer = match vector.json["action"].as_str().unwrap() {
        "drop silently; count; no reply; session untouched" => return None,
        "CONNACK 0x03" | "CONNACK 0x03, no session" | "CONNACK 0x03, drop the handshake" => {
            Packet::Connack(Connack { return_code })
        }
        "REGACK(TopicId 0, same MsgId, 0x03)" => Packet::Regack(Regack {
            topic_id: TopicId(0),
            msg_id: MsgId(word(4)),
            return_code,
        }),
        "PUBACK(TopicId 0, MsgId 4, 0x02)" => Packet::Puback(Puback {
            topic_id: TopicId(0),
            msg_id: MsgId(4),
            return_code: ReturnCode::InvalidTopicId,
        }),
        "PUBACK(TopicId FFFF, MsgId 4, 0x02)" => Packet::Puback(Puback {
            topic_id: TopicId(0xFFFF),
            msg_id: MsgId(4),
            return_code: ReturnCode::InvalidTopicId,
        }),
        "PUBACK(same ids, 0x02)" => Packet::Puback(Puback {
            topic_id: TopicId(word(3)),
            msg_id: MsgId(word(5)),
            return_code: ReturnCode::InvalidTopicId,
        }),
        "PUBACK(same ids, 0x03)" => Packet::Puback(Puback {
            topic_id: TopicId(word(3)),
            msg_id: MsgId(word(5)),
            return_code,
        }),
        "SUBACK(QoS 0, TopicId 0, same MsgId, 0x03)" => Packet::Suback(Suback {
            qos: QoS::AtMostOnce,
            topic_id: TopicId(0),
            msg_id: MsgId(word(3)),
            return_code,
        }),
        action if action.starts_with("UNSUBACK(same MsgId)") => Packet::Unsuback(MsgId(word(3))),
        action => panic!("{}: no such action: {action}", vector.name),
    };
    Some(answer)
}

fn octets(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "{hex}");
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
