//! Clients in the field, each with what it does and what it depends on.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Bench, connack, connect, disconnect, puback, publish, seconds, topic_id};
use gateway_core::config::{ClientRule, GatewayConfig, PredefinedTopic, WhenDown};
use gateway_core::io::{BrokerEvent, BrokerRequest, FilterId};
use sn_codec::{
    Connect, MsgId, Packet, Publish, PublishQoS, QoS, Regack, Register, ReturnCode, ShortTopic, Suback,
    Subscribe, TopicFilter, TopicId, TopicRef,
};

const A: u16 = 1;
const QOS0: QoS = QoS::AtMostOnce;
const QOS1: QoS = QoS::AtLeastOnce;
const QOS2: QoS = QoS::ExactlyOnce;

fn predefined(id: u16, topic: &str) -> GatewayConfig {
    GatewayConfig {
        predefined: vec![PredefinedTopic {
            id: TopicId(id),
            topic: topic.into(),
        }],
        ..GatewayConfig::default()
    }
}

/// Subscribes as the client would and returns the SUBACK.
fn suback(bench: &mut Bench, msg_id: u16, qos: QoS, topic: TopicFilter<'_>) -> (Suback, Option<FilterId>) {
    bench.packet(
        A,
        Packet::Subscribe(Subscribe {
            dup: false,
            qos,
            msg_id: MsgId(msg_id),
            topic,
        }),
    );
    let filter = bench.requests.iter().rev().find_map(|request| match request {
        BrokerRequest::Subscribe { id, .. } => Some(*id),
        _ => None,
    });
    bench.settle();
    match bench.heard(A)[..] {
        [Packet::Suback(suback)] => (suback, filter),
        ref other => panic!("{other:?}"),
    }
}

fn regack(register: Register<'_>) -> Packet<'static> {
    Packet::Regack(Regack {
        topic_id: register.topic_id,
        msg_id: register.msg_id,
        return_code: ReturnCode::Accepted,
    })
}

// RIOT emcute: knows only ids that it asked for, refuses DUP, QoS 2 and predefined ids, never answers REGISTER.

#[test]
fn emcute_is_given_an_id_with_suback_and_messages_under_it() {
    let mut bench = Bench::up(predefined(3, "cmd"));
    bench.connect(A, "emcute");
    let (suback, filter) = suback(&mut bench, 0x1234, QOS1, TopicFilter::Name("cmd"));
    assert!(!suback.topic_id.is_reserved());
    bench.message(&[filter.unwrap()], "cmd", QOS1, false, b"go");
    let message = bench.heard_publish(A);
    assert_eq!(
        message.topic,
        TopicRef::Normal(suback.topic_id),
        "not the predefined id (reading A42)"
    );
}

#[test]
fn emcute_gets_its_message_without_dup_once_it_refused_it() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with(A, connect("emcute", true, 360));
    let (_, filter) = suback(&mut bench, 1, QOS1, TopicFilter::Name("cmd"));
    for payload in [b"1", b"2"] {
        bench.message(&[filter.unwrap()], "cmd", QOS1, false, payload);
    }
    bench.heard_publish(A); // Lost.
    bench.pass(seconds(10));
    let repeat = bench.heard_publish(A);
    assert!(repeat.dup);
    bench.packet(
        A,
        puback(topic_id(repeat.topic), repeat.msg_id.0, ReturnCode::NotSupported),
    );
    let plain = bench.heard_publish(A);
    assert_eq!(plain, Publish { dup: false, ..repeat });
    bench.puback(A, plain);
    bench.heard_publish(A); // Lost as well.
    bench.pass(seconds(10));
    assert!(!bench.heard_publish(A).dup, "it is remembered (reading A61)");
}

#[test]
fn emcute_that_ignores_register_gets_what_it_knows_the_id_of() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with(A, connect("emcute", false, 3600));
    let (suback, filter) = suback(&mut bench, 1, QOS1, TopicFilter::Name("cmd"));
    bench.connect_with(A, connect("emcute", false, 3600));
    bench.message(&[filter.unwrap()], "cmd", QOS1, false, b"1");
    bench.pass(seconds(129));
    assert!(
        bench
            .heard(A)
            .iter()
            .all(|packet| matches!(packet, Packet::Register(_)))
    );
    bench.pass(seconds(1));
    let message = bench.heard_publish(A);
    assert_eq!(message.topic, TopicRef::Normal(suback.topic_id));
    bench.puback(A, message);
    bench.message(&[filter.unwrap()], "cmd", QOS1, false, b"2");
    assert_eq!(
        bench.heard_publish(A).data,
        b"2",
        "REGISTER is not tried again (reading A40)"
    );
}

#[test]
fn emcute_repeats_without_dup_and_counts_through_message_id_0() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "emcute");
    let id = bench.register(A, "t/up");
    for msg_id in [0xFFFF, 0, 1] {
        let message = publish(TopicRef::Normal(id), QOS1, msg_id, b"x");
        bench.packet(A, message);
        bench.packet(A, message);
        bench.settle();
        bench.expect(A, &[puback(id, msg_id, ReturnCode::Accepted)]);
    }
}

// RIOT asymcute: the long form for short messages, QoS 2 that is never acknowledged, host byte order.

#[test]
fn asymcute_sends_the_long_form_from_249_octets_on() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "asymcute");
    let id = bench.register(A, "t/up");
    let [high, low] = id.0.to_be_bytes();
    // Reading A2.
    let mut datagram = vec![0x01, 0x00, 249, 0x0C, 0x20, high, low, 0x00, 0x07];
    datagram.resize(249, b'x');
    bench.raw(A, &datagram);
    bench.settle();
    bench.expect(A, &[puback(id, 7, ReturnCode::Accepted)]);
}

#[test]
fn asymcute_that_never_acknowledges_qos_2_stays_connected() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with(A, connect("asymcute", true, 3600));
    let (_, filter) = suback(&mut bench, 1, QOS2, TopicFilter::Name("cmd"));
    bench.message(&[filter.unwrap()], "cmd", QOS2, false, b"1");
    bench.pass(seconds(1000));
    assert_eq!(bench.heard(A).len(), 4);
    bench.pingreq(A, None);
    assert_eq!(bench.heard(A)[0], Packet::Pingresp);
}

#[test]
fn clients_that_lack_qos_2_can_be_kept_below_it_by_rule() {
    let mut bench = Bench::up(GatewayConfig {
        clients: vec![ClientRule {
            pattern: "asym*".into(),
            max_qos: Some(QOS1),
            ..ClientRule::default()
        }],
        ..GatewayConfig::default()
    });
    bench.connect(A, "asymcute");
    let (suback, filter) = suback(&mut bench, 1, QOS2, TopicFilter::Name("cmd"));
    assert_eq!(suback.qos, QOS1, "reading A54");
    bench.message(&[filter.unwrap()], "cmd", QOS2, false, b"1");
    assert_eq!(bench.heard_publish(A).qos, PublishQoS::Level(QOS1));
}

#[test]
fn asymcute_with_its_bytes_swapped_is_told_that_the_id_is_unknown() {
    let mut bench = Bench::up(predefined(0x0102, "cmd"));
    bench.connect(A, "asymcute");
    // Reading A4: no guessing at what a number might have been.
    let (suback, _) = suback(&mut bench, 1, QOS1, TopicFilter::Predefined(TopicId(0x0201)));
    assert_eq!(suback.return_code, ReturnCode::InvalidTopicId);
    assert_eq!(suback.topic_id, TopicId(0x0201));
}

// mqtt-sn-tools: keep-alive 0, two-octet topics as short names, no long form, nothing before CONNACK.

#[test]
fn mqtt_sn_tools_use_two_octets_as_a_short_name_both_ways() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with(A, connect("tools", true, 0));
    let (suback, filter) = suback(&mut bench, 1, QOS0, TopicFilter::Short(ShortTopic(*b"ab")));
    assert_eq!(suback.topic_id, TopicId(0x6162));
    bench.message(&[filter.unwrap()], "ab", QOS0, false, b"down");
    assert_eq!(bench.heard_publish(A).topic, TopicRef::Short(ShortTopic(*b"ab")));
    bench.packet(A, publish(TopicRef::Short(ShortTopic(*b"ab")), QOS0, 0, b"up"));
    assert_eq!(bench.publishes()[0].1, "ab");
}

#[test]
fn mqtt_sn_tools_are_sent_the_short_form_whenever_it_fits() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "tools");
    let (_, filter) = suback(&mut bench, 1, QOS0, TopicFilter::Short(ShortTopic(*b"ab")));
    for (payload, first) in [(248, 255), (249, 1)] {
        bench.message(&[filter.unwrap()], "ab", QOS0, false, &vec![b'x'; payload]);
        assert_eq!(bench.take(A)[0][0], first, "{payload} octets of payload");
    }
}

#[test]
fn mqtt_sn_tools_hear_connack_before_anything_else() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with(A, connect("tools", false, 60));
    let (_, filter) = suback(&mut bench, 1, QOS1, TopicFilter::Short(ShortTopic(*b"ab")));
    bench.packet(A, disconnect());
    bench.expect(A, &[disconnect()]);
    bench.message(&[filter.unwrap()], "ab", QOS1, false, b"waits");
    bench.packet(
        A,
        Packet::Connect(Connect {
            will: true,
            ..connect("tools", false, 60)
        }),
    );
    bench.message(&[filter.unwrap()], "ab", QOS1, false, b"waits too");
    bench.pass(seconds(9));
    bench.finish_will_handshake_then_heard("waits");
}

// Zephyr: several requests at once, SUBACK's id taken over, an empty PUBLISH never acknowledged.

#[test]
fn zephyr_has_several_requests_open_at_once() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "zephyr");
    let id = bench.register(A, "t/up");
    bench.requests.clear();
    for msg_id in 1..=5 {
        bench.packet(A, publish(TopicRef::Normal(id), QOS1, msg_id, &[msg_id as u8]));
    }
    bench.packet(A, common::subscribe(MsgId(6), "cmd", QOS1));
    bench.packet(
        A,
        Packet::Register(Register {
            topic_id: TopicId::NONE,
            msg_id: MsgId(7),
            topic_name: "t/other",
        }),
    );
    bench.settle();
    let mut answered: Vec<u16> = bench
        .heard(A)
        .iter()
        .map(|packet| match packet {
            Packet::Puback(puback) => puback.msg_id.0,
            Packet::Suback(suback) => suback.msg_id.0,
            Packet::Regack(regack) => regack.msg_id.0,
            other => panic!("{other:?}"),
        })
        .collect();
    answered.sort_unstable();
    assert_eq!(answered, [1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn more_than_sixteen_open_requests_are_congestion() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "zephyr");
    let id = bench.register(A, "t/up");
    for msg_id in 1..=17 {
        bench.packet(A, publish(TopicRef::Normal(id), QOS1, msg_id, &[msg_id as u8]));
    }
    bench.packet(A, common::subscribe(MsgId(18), "cmd", QOS1));
    let heard = bench.heard(A);
    assert_eq!(heard[0], puback(id, 17, ReturnCode::Congestion));
    assert!(
        matches!(heard[1], Packet::Suback(suback) if suback.return_code == ReturnCode::Congestion),
        "reading A52"
    );
}

#[test]
fn zephyr_finds_its_own_id_in_suback() {
    let mut bench = Bench::up(predefined(17, "cmd"));
    bench.connect(A, "zephyr");
    for (topic, id) in [
        (TopicFilter::Predefined(TopicId(17)), TopicId(17)),
        (TopicFilter::Predefined(TopicId(18)), TopicId(18)),
        (TopicFilter::Short(ShortTopic(*b"xy")), TopicId(0x7879)),
    ] {
        assert_eq!(suback(&mut bench, 1, QOS0, topic).0.topic_id, id, "reading A53");
    }
}

#[test]
fn zephyr_survives_an_empty_message_it_cannot_read() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with(A, connect("zephyr", true, 60));
    let (_, filter) = suback(&mut bench, 1, QOS1, TopicFilter::Name("cmd"));
    bench.message(&[filter.unwrap()], "cmd", QOS1, false, b"");
    bench.message(&[filter.unwrap()], "cmd", QOS1, false, b"readable");
    for _ in 0..40 {
        bench.pass(seconds(50));
        bench.pingreq(A, None);
        for packet in bench.heard(A) {
            match packet {
                Packet::Publish(publish) if !publish.data.is_empty() => bench.puback(A, publish),
                Packet::Publish(_) | Packet::Pingresp => {}
                other => panic!("the session goes on (readings A47, A60): {other:?}"),
            }
        }
    }
    assert_eq!(bench.gateway.metrics().poison_total, 1);
    assert_eq!(bench.gateway.metrics().delivered_total, 1);
}

// cc.mqttsn: forgets ids, needs both ids echoed, takes QoS 2 repeats only with DUP.

#[test]
fn cc_mqttsn_that_forgot_an_id_is_registered_the_same_again_once() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with(A, connect("cc", true, 600));
    let (suback, filter) = suback(&mut bench, 1, QOS2, TopicFilter::Name("cmd"));
    for payload in [b"1", b"2"] {
        bench.message(&[filter.unwrap()], "cmd", QOS2, false, payload);
    }
    let message = bench.heard_publish(A);
    let unknown = |message: Publish<'_>| {
        puback(
            topic_id(message.topic),
            message.msg_id.0,
            ReturnCode::InvalidTopicId,
        )
    };
    bench.packet(A, unknown(message));
    let [Packet::Register(register)] = bench.heard(A)[..] else {
        panic!("REGISTER first (reading A41)")
    };
    assert_eq!((register.topic_id, register.topic_name), (suback.topic_id, "cmd"));
    bench.packet(A, regack(register));
    let again = bench.heard_publish(A);
    assert_eq!((again.data, again.dup), (message.data, false));
    bench.packet(A, unknown(again));
    let [Packet::Register(next)] = bench.heard(A)[..] else {
        panic!("the first message is dropped, and the name registered for the next")
    };
    bench.packet(A, regack(next));
    assert_eq!(bench.heard_publish(A).data, b"2");
    assert_eq!(bench.gateway.metrics().rejected_by_client_total, 1);
}

#[test]
fn predefined_id_that_the_client_does_not_know_is_replaced_by_a_normal_one() {
    let mut bench = Bench::up(predefined(3, "cmd/a"));
    bench.connect_with(A, connect("cc", true, 600));
    let (_, filter) = suback(&mut bench, 1, QOS1, TopicFilter::Name("cmd/+"));
    bench.message(&[filter.unwrap()], "cmd/a", QOS1, false, b"1");
    let message = bench.heard_publish(A);
    assert_eq!(message.topic, TopicRef::Predefined(TopicId(3)));
    bench.packet(
        A,
        puback(TopicId(3), message.msg_id.0, ReturnCode::InvalidTopicId),
    );
    let [Packet::Register(register)] = bench.heard(A)[..] else {
        panic!("reading A41")
    };
    bench.packet(A, regack(register));
    assert_eq!(bench.heard_publish(A).topic, TopicRef::Normal(register.topic_id));
}

#[test]
fn cc_mqttsn_finds_both_ids_in_puback() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "cc");
    let (one, two) = (bench.register(A, "t/1"), bench.register(A, "t/2"));
    bench.packet(A, publish(TopicRef::Normal(one), QOS1, 1, b"x"));
    bench.packet(A, publish(TopicRef::Normal(two), QOS1, 2, b"x"));
    bench.settle();
    bench.expect(
        A,
        &[
            puback(one, 1, ReturnCode::Accepted),
            puback(two, 2, ReturnCode::Accepted),
        ],
    );
}

// Paho: Length 255 where 257 octets are sent.

#[test]
fn paho_loses_nothing_by_its_length_of_255() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "paho");
    let id = bench.register(A, "t/up");
    let [high, low] = id.0.to_be_bytes();
    // Reading A3.
    let mut datagram = vec![0x01, 0x00, 255, 0x0C, 0x20, high, low, 0x00, 0x07];
    datagram.resize(257, b'x');
    bench.raw(A, &datagram);
    assert_eq!(bench.publishes()[0].2.len(), 248);
}

// ty4tw: wakes up by CONNECT with its original flags, does not subscribe again, waits for WILLTOPICREQ.

#[test]
fn ty4tw_wakes_up_by_connect_and_gets_what_waited() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with_will(A, "ty4tw", true, 60);
    let (_, filter) = suback(&mut bench, 1, QOS1, TopicFilter::Name("cmd"));
    for round in [b"1", b"2"] {
        bench.sleep(A, 600);
        bench.message(&[filter.unwrap()], "cmd", QOS1, false, round);
        bench.packet(
            A,
            Packet::Connect(Connect {
                will: true,
                ..connect("ty4tw", true, 60)
            }),
        );
        bench.expect(A, &[Packet::WillTopicReq]);
        bench.packet(A, common::will_topic("will/t"));
        bench.expect(A, &[Packet::WillMsgReq]);
        bench.packet(A, Packet::WillMsg(sn_codec::WillMsg { message: b"gone" }));
        let heard = bench.heard(A);
        let [first, Packet::Publish(message)] = heard[..] else {
            panic!("{heard:?}")
        };
        assert_eq!((first, message.data), (connack(ReturnCode::Accepted), &round[..]));
        bench.puback(A, message);
    }
}

#[test]
fn ty4tw_pings_without_its_id_while_asleep() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "ty4tw");
    let (_, filter) = suback(&mut bench, 1, QOS1, TopicFilter::Name("cmd"));
    bench.sleep(A, 600);
    bench.message(&[filter.unwrap()], "cmd", QOS1, false, b"1");
    bench.pingreq(A, None);
    let message = bench.heard_publish(A);
    bench.puback(A, message);
    bench.expect(A, &[Packet::Pingresp]);
}

#[test]
fn ty4tw_repeats_its_publish_after_pubrec() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "ty4tw");
    let id = bench.register(A, "t/up");
    bench.packet(A, publish(TopicRef::Normal(id), QOS2, 1, b"x"));
    bench.settle();
    bench.expect(A, &[Packet::Pubrec(MsgId(1))]);
    bench.packet(
        A,
        Packet::Publish(Publish {
            dup: true,
            qos: PublishQoS::Level(QOS2),
            retain: false,
            topic: TopicRef::Normal(id),
            msg_id: MsgId(1),
            data: b"x",
        }),
    );
    bench.expect(A, &[Packet::Pubrec(MsgId(1))]);
    assert!(bench.publishes().is_empty());
}

// Donovan's library and its copies: swapped ids in acknowledgements, DISCONNECT of six octets.

#[test]
fn donovans_byte_swapped_acknowledgements_count() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "arduino");
    let (_, filter) = suback(&mut bench, 1, QOS1, TopicFilter::Name("cmd/+"));
    bench.message(&[filter.unwrap()], "cmd/x", QOS1, false, b"1");
    let [Packet::Register(register)] = bench.heard(A)[..] else {
        panic!("REGISTER first")
    };
    bench.packet(
        A,
        Packet::Regack(Regack {
            topic_id: TopicId(register.topic_id.0.swap_bytes()),
            msg_id: MsgId(register.msg_id.0.swap_bytes()),
            return_code: ReturnCode::Accepted,
        }),
    );
    let message = bench.heard_publish(A);
    bench.packet(
        A,
        puback(
            TopicId(topic_id(message.topic).0.swap_bytes()),
            message.msg_id.0.swap_bytes(),
            ReturnCode::Accepted,
        ),
    );
    assert_eq!(bench.gateway.metrics().delivered_total, 1);
    assert_eq!(bench.gateway.metrics().swapped_acks_total, 2, "reading A64");
}

#[test]
fn donovans_disconnect_of_six_octets_is_a_sleep() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "arduino");
    // Reading A9.
    bench.raw(A, &[6, 0x18, 0x02, 0x58, 0xAA, 0xBB]);
    bench.expect(A, &[disconnect()]);
    assert_eq!(bench.gateway.metrics().clients_asleep, 1);
    bench.pass(seconds(899));
    bench.pingreq(A, Some("arduino"));
    bench.expect(A, &[Packet::Pingresp]);
}

#[test]
fn donovans_qos_0_with_a_message_id_and_pings_with_its_id() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "arduino");
    let id = bench.register(A, "t/up");
    // Reading A44.
    bench.packet(A, publish(TopicRef::Normal(id), QOS0, 77, b"x"));
    assert!(matches!(bench.publishes()[..], [(None, ..)]));
    bench.expect(A, &[]);
    bench.pingreq(A, Some("arduino"));
    bench.expect(A, &[Packet::Pingresp]);
}

#[test]
fn donovans_library_that_refuses_a_name_keeps_its_session() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with(A, connect("arduino", true, 600));
    let (_, filter) = suback(&mut bench, 1, QOS1, TopicFilter::Name("#"));
    for (topic, payload) in [
        ("strange", b"1"),
        ("known", b"2"),
        ("strange", b"3"),
        ("known", b"4"),
    ] {
        bench.message(&[filter.unwrap()], topic, QOS1, false, payload);
    }
    let mut delivered = Vec::new();
    loop {
        match bench.heard(A)[..] {
            [Packet::Register(register)] => bench.packet(
                A,
                Packet::Regack(Regack {
                    topic_id: register.topic_id,
                    msg_id: register.msg_id,
                    return_code: match register.topic_name {
                        "strange" => ReturnCode::InvalidTopicId,
                        _ => ReturnCode::Accepted,
                    },
                }),
            ),
            [Packet::Publish(publish)] => {
                delivered.push(publish.data);
                bench.puback(A, publish);
            }
            [] => break,
            ref other => panic!("{other:?}"),
        }
    }
    assert_eq!(delivered, [b"2", b"4"], "reading A40");
    assert_eq!(bench.gateway.metrics().rejected_by_client_total, 2);
}

// BtMqttSn: message ids from 0, flag bits in reversed order.

#[test]
fn btmqttsn_is_understood_with_its_flags_reversed() {
    let mut bench = Bench::up(GatewayConfig::default());
    // Reading A5: its CleanSession stands where CONNECT has no flag.
    bench.raw(A, b"\x08\x04\x20\x01\x00\x3Cbt");
    bench.expect(A, &[connack(ReturnCode::Accepted)]);
    bench.raw(A, b"\x09\x0A\x00\x00\x00\x00t/u");
    let [Packet::Regack(regack)] = bench.heard(A)[..] else {
        panic!("message id 0 is one like any other (reading A45)")
    };
    assert_eq!(regack.msg_id, MsgId(0));
    let [high, low] = regack.topic_id.0.to_be_bytes();
    // QoS 0 in its order of bits is QoS 1 in ours.
    bench.raw(A, &[8, 0x0C, 0x20, high, low, 0, 0, b'x']);
    bench.settle();
    bench.expect(A, &[puback(regack.topic_id, 0, ReturnCode::Accepted)]);
    let (suback, _) = suback(&mut bench, 0, QOS0, TopicFilter::Name("cmd"));
    assert_eq!(suback.msg_id, MsgId(0));
}

// S3ler's Arduino client: takes only messages of exactly the QoS that SUBACK granted.

#[test]
fn s3ler_is_granted_the_qos_it_is_then_served_with() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "s3ler");
    bench.packet(A, common::subscribe(MsgId(1), "cmd", QOS2));
    let (token, filter) = bench.subscribe_request();
    bench.broker(BrokerEvent::Settled {
        token,
        result: Ok(Some(QOS1)),
    });
    let [Packet::Suback(suback)] = bench.heard(A)[..] else {
        panic!("SUBACK")
    };
    assert_eq!(suback.qos, QOS1);
    bench.message(&[filter], "cmd", QOS1, false, b"1");
    assert_eq!(bench.heard_publish(A).qos, PublishQoS::Level(QOS1));
}

impl Bench {
    #[track_caller]
    fn finish_will_handshake_then_heard(&mut self, payload: &str) {
        self.expect(A, &[Packet::WillTopicReq]);
        self.packet(A, common::will_topic("will/t"));
        self.expect(A, &[Packet::WillMsgReq]);
        self.packet(A, Packet::WillMsg(sn_codec::WillMsg { message: b"" }));
        let heard = self.heard(A);
        let [first, Packet::Publish(message)] = heard[..] else {
            panic!("{heard:?}")
        };
        assert_eq!(
            (first, message.data),
            (connack(ReturnCode::Accepted), payload.as_bytes())
        );
    }
}

#[test]
fn name_that_was_only_refused_does_not_hide_the_predefined_id() {
    let mut config = predefined(3, "cmd");
    config.upstream.when_down = WhenDown::Refuse;
    let mut bench = Bench::new(config);
    bench.connect_with(A, connect("emcute", false, 600));
    bench.packet(A, common::subscribe(MsgId(1), "cmd", QOS1));
    let refused = Suback {
        qos: QoS::AtMostOnce,
        topic_id: TopicId::NONE,
        msg_id: MsgId(1),
        return_code: ReturnCode::Congestion,
    };
    bench.expect(A, &[Packet::Suback(refused)]);
    bench.broker_up(false);
    let (_, filter) = suback(&mut bench, 2, QOS1, TopicFilter::Predefined(TopicId(3)));
    bench.message(&[filter.unwrap()], "cmd", QOS1, false, b"go");
    assert_eq!(bench.heard_publish(A).topic, TopicRef::Predefined(TopicId(3)));
}
