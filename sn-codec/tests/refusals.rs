//! Refusals that the vector file leaves out: what is wrong, at which octet, and what answers it.

#![allow(clippy::unwrap_used)] // The helpers are part of the tests.

use sn_codec::{
    Connack, DecodeError, ErrorKind, MsgId, MsgType, Packet, Puback, QoS, Regack, ReturnCode, ShortTopic,
    Suback, Subscribe, TopicFilter, TopicId, decode_for_gateway, decode_message,
};

#[test]
fn a_publish_with_a_bad_short_name_is_an_invalid_topic_id() {
    for (name, kind, offset) in [
        (*b"a\0", ErrorKind::InvalidUtf8, 4),
        (*b"\xC3a", ErrorKind::InvalidUtf8, 3),
        (*b"+a", ErrorKind::WildcardTopic, 3),
    ] {
        let datagram = [8, 0x0C, 0x22, name[0], name[1], 0, 4, b'x'];
        let answer = puback(u16::from_be_bytes(name), ReturnCode::InvalidTopicId);

        assert_eq!(refusal(&datagram), (kind, offset, Some(answer)), "{name:?}");
    }
}

#[test]
fn a_publish_is_refused_at_qos_0_as_at_any_other() {
    for qos in [0x00, 0x20, 0x40] {
        let reserved_id = [7, 0x0C, qos, 0, 0, 0, 4];
        let answer = puback(0, ReturnCode::InvalidTopicId);
        assert_eq!(
            refusal(&reserved_id),
            (ErrorKind::InvalidTopicId, 3, Some(answer))
        );

        let reserved_type = [7, 0x0C, qos | 0x03, 0, 5, 0, 4];
        let answer = puback(5, ReturnCode::NotSupported);
        assert_eq!(
            refusal(&reserved_type),
            (ErrorKind::ReservedTopicIdType, 2, Some(answer))
        );
    }
}

#[test]
fn reserved_predefined_ids_name_no_topic() {
    for id in [0x0000, 0xFFFF] {
        let [high, low] = u16::to_be_bytes(id);

        let publish = [7, 0x0C, 0x21, high, low, 0, 4];
        let answer = puback(id, ReturnCode::InvalidTopicId);
        assert_eq!(refusal(&publish), (ErrorKind::InvalidTopicId, 3, Some(answer)));

        let subscribe = [7, 0x12, 0x21, 0, 4, high, low];
        let answer = suback(id, ReturnCode::InvalidTopicId);
        assert_eq!(refusal(&subscribe), (ErrorKind::InvalidTopicId, 5, Some(answer)));

        let unsubscribe = [7, 0x14, 0x01, 0, 4, high, low];
        let answer = Packet::Unsuback(MsgId(4));
        assert_eq!(
            refusal(&unsubscribe),
            (ErrorKind::InvalidTopicId, 5, Some(answer))
        );
    }
}

#[test]
fn nothing_answers_a_publish_at_qos_minus_one() {
    for (flags, topic, kind) in [
        (0x60, *b"\0\x05", ErrorKind::QosMinus1NormalTopic),
        (0x60, *b"\0\0", ErrorKind::QosMinus1NormalTopic),
        (0x61, *b"\0\0", ErrorKind::InvalidTopicId),
        (0x62, *b"a#", ErrorKind::WildcardTopic),
        (0x62, *b"a\0", ErrorKind::InvalidUtf8),
        (0x63, *b"\0\x05", ErrorKind::ReservedTopicIdType),
    ] {
        let error = Packet::decode(&[7, 0x0C, flags, topic[0], topic[1], 0, 0]).unwrap_err();

        assert_eq!((error.kind, error.answer), (kind, None), "{flags:#x} {topic:?}");
    }
}

#[test]
fn a_refused_subscribe_gets_back_the_id_or_short_name_it_carried() {
    let filter = [7, 0x12, 0x60, 0, 4, b'a', b'b'];
    assert_eq!(
        refusal(&filter),
        (
            ErrorKind::InvalidQos,
            2,
            Some(suback(0, ReturnCode::NotSupported))
        )
    );

    let predefined = [7, 0x12, 0x61, 0, 4, 0, 17];
    assert_eq!(
        refusal(&predefined),
        (
            ErrorKind::InvalidQos,
            2,
            Some(suback(17, ReturnCode::NotSupported))
        )
    );

    let short = [7, 0x12, 0x22, 0, 4, b'a', b'#'];
    let answer = suback(u16::from_be_bytes(*b"a#"), ReturnCode::NotSupported);
    assert_eq!(refusal(&short), (ErrorKind::InvalidFilter, 5, Some(answer)));
}

#[test]
fn a_subscribe_of_the_wrong_size_is_not_answered_whatever_its_qos() {
    for (datagram, kind, offset) in [
        (&[6, 0x12, 0x61, 0, 4, 17][..], ErrorKind::BodyTooShort, 6),
        (
            &[8, 0x12, 0x62, 0, 4, b'a', b'b', b'c'],
            ErrorKind::BodyTooLong,
            7,
        ),
        (&[4, 0x12, 0x60, 0], ErrorKind::BodyTooShort, 4),
    ] {
        assert_eq!(refusal(datagram), (kind, offset, None));
    }
}

#[test]
fn a_short_name_may_be_subscribed_to_with_a_wildcard() {
    let subscribe = Subscribe {
        dup: false,
        qos: QoS::AtMostOnce,
        msg_id: MsgId(4),
        topic: TopicFilter::Short(ShortTopic(*b"/#")),
    };
    assert_eq!(
        Packet::decode(&[7, 0x12, 0x02, 0, 4, b'/', b'#']),
        Ok(Packet::Subscribe(subscribe))
    );
}

#[test]
fn text_with_nul_is_refused_at_the_nul() {
    let not_supported = ReturnCode::NotSupported;

    let connect = [9, 0x04, 0x04, 1, 0, 60, b'a', 0, b'b'];
    let answer = Packet::Connack(Connack {
        return_code: not_supported,
    });
    assert_eq!(refusal(&connect), (ErrorKind::InvalidUtf8, 7, Some(answer)));

    let subscribe = [7, 0x12, 0x20, 0, 4, b'a', 0];
    assert_eq!(
        refusal(&subscribe),
        (ErrorKind::InvalidUtf8, 6, Some(suback(0, not_supported)))
    );

    let unsubscribe = [7, 0x14, 0x00, 0, 4, 0, b'a'];
    assert_eq!(
        refusal(&unsubscribe),
        (ErrorKind::InvalidUtf8, 5, Some(Packet::Unsuback(MsgId(4))))
    );

    let pingreq = [4, 0x16, b'a', 0];
    assert_eq!(refusal(&pingreq), (ErrorKind::InvalidUtf8, 3, None));
}

#[test]
fn topics_with_what_brokers_close_the_connection_over_are_refused_like_malformed_ones() {
    let not_supported = ReturnCode::NotSupported;
    let regack = Packet::Regack(Regack {
        topic_id: TopicId::NONE,
        msg_id: MsgId(4),
        return_code: not_supported,
    });
    let deep = "/".repeat(200);
    for (topic, kind, at) in [
        ("a\u{1}", ErrorKind::InvalidUtf8, 1),
        ("ab\u{85}", ErrorKind::InvalidUtf8, 2),
        ("\u{FFFE}", ErrorKind::InvalidUtf8, 0),
        (&deep, ErrorKind::ForbiddenTopic, 0),
    ] {
        let message = |msg_type: u8, fields: &[u8]| {
            let len = 2 + fields.len() + topic.len();
            [&[u8::try_from(len).unwrap(), msg_type], fields, topic.as_bytes()].concat()
        };
        let register = message(0x0A, &[0, 0, 0, 4]);
        assert_eq!(refusal(&register), (kind, 6 + at, Some(regack)), "{topic:?}");
        let subscribe = message(0x12, &[0x20, 0, 4]);
        let answer = suback(0, not_supported);
        assert_eq!(refusal(&subscribe), (kind, 5 + at, Some(answer)), "{topic:?}");
        let unsubscribe = message(0x14, &[0x00, 0, 4]);
        let answer = Packet::Unsuback(MsgId(4));
        assert_eq!(refusal(&unsubscribe), (kind, 5 + at, Some(answer)), "{topic:?}");
        let will = message(0x1A, &[0x00]);
        let answer = Packet::WillTopicResp(not_supported);
        assert_eq!(refusal(&will), (kind, 3 + at, Some(answer)), "{topic:?}");
    }
    let share = [&[11, 0x12, 0x20, 0, 4][..], b"$share"].concat();
    let answer = suback(0, not_supported);
    assert_eq!(refusal(&share), (ErrorKind::InvalidFilter, 5, Some(answer)));
    let will = [&[9, 0x1A, 0x00][..], b"$SYS/x"].concat();
    let answer = Packet::WillTopicResp(not_supported);
    assert_eq!(refusal(&will), (ErrorKind::ForbiddenTopic, 3, Some(answer)));
}

#[test]
fn a_bad_will_is_refused_by_the_answer_that_is_due() {
    let connack = Packet::Connack(Connack {
        return_code: ReturnCode::NotSupported,
    });
    let resp = Packet::WillTopicResp(ReturnCode::NotSupported);
    for (msg_type, answer) in [(0x07, connack), (0x1A, resp)] {
        let qos_3 = [4, msg_type, 0x60, b'w'];
        assert_eq!(refusal(&qos_3), (ErrorKind::InvalidQos, 2, Some(answer)));

        let wildcard = [5, msg_type, 0x00, b'w', b'+'];
        assert_eq!(refusal(&wildcard), (ErrorKind::WildcardTopic, 4, Some(answer)));

        let not_utf8 = [5, msg_type, 0x00, b'w', 0xFF];
        assert_eq!(refusal(&not_utf8), (ErrorKind::InvalidUtf8, 4, Some(answer)));
    }
    assert_eq!(Packet::decode(&[3, 0x1A, 0x60]), Ok(Packet::WillTopicUpd(None)));
}

#[test]
fn flags_without_a_meaning_are_ignored() {
    let plain = [7, 0x14, 0x00, 0, 4, b'a', b'b'];
    let noisy = [7, 0x14, 0xFC, 0, 4, b'a', b'b'];
    assert_eq!(Packet::decode(&noisy), Packet::decode(&plain));

    let plain = [8, 0x13, 0x20, 0, 5, 0, 4, 0];
    let noisy = [8, 0x13, 0xBF, 0, 5, 0, 4, 0];
    assert_eq!(Packet::decode(&noisy), Packet::decode(&plain));
    assert_eq!(
        refusal(&[8, 0x13, 0x60, 0, 5, 0, 4, 0]),
        (ErrorKind::InvalidQos, 2, None)
    );

    let plain = [4, 0x07, 0x30, b'w'];
    let noisy = [4, 0x07, 0xBF, b'w'];
    assert_eq!(Packet::decode(&noisy), Packet::decode(&plain));

    // Ctrl has two bits with a meaning.
    assert_eq!(
        decode_message(&[4, 0xFE, 0xFE, 9, 2, 0x16]),
        decode_message(&[4, 0xFE, 0x02, 9, 2, 0x16])
    );
}

#[test]
fn only_one_wrong_length_is_repaired() {
    let paho = |stated: u8, len: usize| {
        let mut datagram = vec![0; len];
        datagram[..9].copy_from_slice(&[1, 0, stated, 0x0C, 0x20, 0, 7, 0, 9]);
        Packet::decode(&datagram).map_err(|e| e.kind).is_ok()
    };

    assert!(paho(255, 257));
    for (stated, len) in [(255, 256), (255, 258), (254, 256), (253, 255), (0, 257)] {
        assert!(!paho(stated, len), "{stated} {len}");
    }
    let mut short_form = vec![0; 257];
    short_form[..7].copy_from_slice(&[255, 0x0C, 0x20, 0, 7, 0, 9]);
    assert_eq!(refusal(&short_form), (ErrorKind::LengthMismatch, 0, None));
}

#[test]
fn a_disconnect_has_a_body_of_0_2_or_4_octets() {
    for (len, kind) in [
        (1, ErrorKind::BodyTooShort),
        (3, ErrorKind::BodyTooLong),
        (5, ErrorKind::BodyTooLong),
    ] {
        let mut datagram = vec![len + 2, 0x18];
        datagram.extend(vec![0; usize::from(len)]);

        assert_eq!(Packet::decode(&datagram).map_err(|e| e.kind), Err(kind), "{len}");
    }
}

#[test]
fn offsets_count_from_the_start_of_the_datagram() {
    // In the long form and behind an encapsulation everything stands further back.
    let short = [7, 0x0A, 0, 0, 0, 1, b'+'];
    let long = [1, 0, 9, 0x0A, 0, 0, 0, 1, b'+'];
    let encapsulated = [5, 0xFE, 0, 0, 7, 1, 0, 9, 0x0A, 0, 0, 0, 1, b'+'];

    for (datagram, offset) in [(&short[..], 6), (&long, 8), (&encapsulated, 13)] {
        let error = decode_message(datagram).unwrap_err();
        assert_eq!((error.kind, error.offset), (ErrorKind::WildcardTopic, offset));
    }
    for (datagram, offset) in [
        (&[3, 5, 0][..], 1),
        (&[1, 0, 5, 5, 0], 3),
        (&[4, 0xFE, 0, 9, 3, 5, 0], 5),
    ] {
        let error = decode_for_gateway(datagram).unwrap_err();
        assert_eq!((error.kind, error.offset), (ErrorKind::WrongDirection, offset));
    }
}

#[test]
fn an_encapsulation_is_nested_where_a_message_is_due() {
    for datagram in [&[4, 0xFE, 0, 9][..], &[1, 0, 5, 0xFE, 0]] {
        assert_eq!(
            Packet::decode(datagram).map_err(|e| e.kind),
            Err(ErrorKind::NestedEncapsulation)
        );
    }
    // Also in the long form, which it could not have outside either.
    let error = decode_message(&[4, 0xFE, 0, 9, 1, 0, 5, 0xFE, 0]).unwrap_err();
    assert_eq!((error.kind, error.offset), (ErrorKind::NestedEncapsulation, 4));
}

#[test]
fn an_encapsulation_header_fits_its_datagram() {
    for (datagram, kind) in [
        (&[0, 0xFE, 0, 7, 2, 0x16][..], ErrorKind::LengthTooSmall),
        (&[2, 0xFE, 0, 7, 2, 0x16], ErrorKind::BodyTooShort),
        (&[9, 0xFE, 0, 7, 2, 0x16], ErrorKind::LengthMismatch),
    ] {
        assert_eq!(
            decode_message(datagram).map_err(|e| e.kind),
            Err(kind),
            "{datagram:?}"
        );
    }
}

#[test]
fn every_other_type_octet_is_reserved() {
    for octet in 0..=u8::MAX {
        let known = MsgType::ALL.iter().find(|known| **known as u8 == octet).copied();

        assert_eq!(MsgType::from_octet(octet), known);
        let reserved = matches!(
            Packet::decode(&[2, octet]),
            Err(DecodeError {
                kind: ErrorKind::ReservedType,
                ..
            })
        );
        assert_eq!(reserved, known.is_none(), "{octet:#04x}");
    }
}

#[test]
fn kinds_are_listed_in_their_order_under_different_names() {
    for (index, kind) in ErrorKind::ALL.into_iter().enumerate() {
        assert_eq!(kind as usize, index);
        assert!(
            ErrorKind::ALL[..index]
                .iter()
                .all(|other| other.name() != kind.name())
        );
    }
}

fn refusal(datagram: &[u8]) -> (ErrorKind, usize, Option<Packet<'static>>) {
    let error = Packet::decode(datagram).unwrap_err();
    (error.kind, error.offset, error.answer)
}

/// The answer to a `PUBLISH` with message id 4.
fn puback(topic_id: u16, return_code: ReturnCode) -> Packet<'static> {
    Packet::Puback(Puback {
        topic_id: TopicId(topic_id),
        msg_id: MsgId(4),
        return_code,
    })
}

/// The answer to a `SUBSCRIBE` with message id 4.
fn suback(topic_id: u16, return_code: ReturnCode) -> Packet<'static> {
    let topic_id = TopicId(topic_id);
    Packet::Suback(Suback {
        qos: QoS::AtMostOnce,
        topic_id,
        msg_id: MsgId(4),
        return_code,
    })
}
