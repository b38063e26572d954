//! QoS 1 and 2 over a lossy link: what is repeated, what is swallowed, and what ends an exchange.

#![allow(clippy::unwrap_used)]

mod common;

use core::time::Duration;

use common::{Bench, LINK, connack, connect, puback, publish, route, seconds, topic_id};
use gateway_core::config::{Durability, GatewayConfig};
use gateway_core::io::{BrokerEvent, ConnId, FilterId, Refusal};
use sn_codec::{MsgId, Packet, Publish, PublishQoS, QoS, ReturnCode, TopicId, TopicRef};

const A: u16 = 1;
const QOS1: QoS = QoS::AtLeastOnce;
const QOS2: QoS = QoS::ExactlyOnce;

fn connected() -> (Bench, TopicId) {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with(A, connect("a", false, 3600));
    let id = bench.register(A, "t/up");
    bench.requests.clear();
    (bench, id)
}

fn subscribed() -> (Bench, FilterId) {
    let (mut bench, _) = connected();
    let (_, filter) = bench.subscribe(A, "cmd", QOS2);
    (bench, filter)
}

fn again(id: TopicId, qos: QoS, msg_id: u16, data: &[u8]) -> Packet<'_> {
    Packet::Publish(Publish {
        dup: true,
        qos: PublishQoS::Level(qos),
        retain: false,
        topic: TopicRef::Normal(id),
        msg_id: MsgId(msg_id),
        data,
    })
}

// From the client.

#[test]
fn copies_on_the_way_to_the_broker_are_swallowed() {
    for qos in [QOS1, QOS2] {
        let (mut bench, id) = connected();
        for _ in 0..3 {
            bench.packet(A, publish(TopicRef::Normal(id), qos, 7, b"x"));
            bench.packet(A, again(id, qos, 7, b"x"));
        }
        bench.expect(A, &[]);
        assert_eq!(bench.requests.len(), 1);
        assert_eq!(bench.gateway.metrics().duplicates_suppressed_total, 5);
    }
}

#[test]
fn repeat_after_pubrel_gets_pubrec_and_is_not_published_again() {
    let (mut bench, id) = connected();
    for msg_id in 1..=3 {
        bench.packet(A, publish(TopicRef::Normal(id), QOS2, msg_id, &[msg_id as u8]));
        bench.settle();
        bench.expect(A, &[Packet::Pubrec(MsgId(msg_id))]);
        bench.packet(A, Packet::Pubrel(MsgId(msg_id)));
        bench.expect(A, &[Packet::Pubcomp(MsgId(msg_id))]);
    }
    for msg_id in 1..=3 {
        bench.packet(A, again(id, QOS2, msg_id, &[msg_id as u8]));
        bench.expect(A, &[Packet::Pubrec(MsgId(msg_id))]);
    }
    assert!(bench.publishes().is_empty());
    // Without DUP it is, for Tretry, a copy of the first sending that the network held back.
    bench.packet(A, publish(TopicRef::Normal(id), QOS2, 1, b"\x01"));
    bench.expect(A, &[Packet::Pubrec(MsgId(1))]);
    assert!(bench.publishes().is_empty());
    bench.pass(Duration::from_secs(10));
    bench.packet(A, publish(TopicRef::Normal(id), QOS2, 1, b"\x01"));
    assert_eq!(bench.publishes().len(), 1, "and then a new message");
}

/// Two devices with one client id, as in seed 1,023,071: neither is left without an answer for good.
#[test]
fn repeat_of_a_finished_message_is_answered_although_qos_2_holds_its_id() {
    let (mut bench, id) = connected();
    bench.packet(A, publish(TopicRef::Normal(id), QOS1, 7, b"x"));
    bench.settle();
    bench.expect(A, &[puback(id, 7, ReturnCode::Accepted)]);
    bench.packet(A, publish(TopicRef::Normal(id), QOS2, 7, b"y"));
    // Its sender would take a PUBACK for the answer to a message that the broker has not yet.
    bench.packet(A, again(id, QOS1, 7, b"x"));
    bench.expect(A, &[]);
    bench.settle();
    bench.expect(A, &[Packet::Pubrec(MsgId(7))]);
    bench.packet(A, again(id, QOS1, 7, b"x"));
    bench.expect(A, &[puback(id, 7, ReturnCode::Accepted)]);
    assert!(bench.requests.is_empty());
}

#[test]
fn ids_of_a_device_that_starts_anew_are_not_taken_for_repeats() {
    let (mut bench, id) = connected();
    bench.packet(A, publish(TopicRef::Normal(id), QOS2, 1, b"x"));
    bench.settle();
    bench.packet(A, Packet::Pubrel(MsgId(1)));
    bench.connect_with_drained(connect("a", false, 60));
    bench.packet(A, again(id, QOS2, 1, b"x"));
    assert_eq!(bench.publishes().len(), 1);
}

#[test]
fn qos_2_that_the_broker_refuses_is_answered_by_puback() {
    let (mut bench, id) = connected();
    bench.packet(A, publish(TopicRef::Normal(id), QOS2, 7, b"x"));
    let token = bench.publishes()[0].0.unwrap();
    bench.broker(BrokerEvent::Settled {
        token,
        result: Err(Refusal(0x87)),
    });
    bench.expect(A, &[puback(id, 7, ReturnCode::NotSupported)]);
    bench.packet(A, Packet::Pubrel(MsgId(7)));
    bench.expect(A, &[Packet::Pubcomp(MsgId(7))]);
}

/// The first QoS 2 publish, for which a connection is opened.
fn first_with_a_disk() -> (Bench, TopicId) {
    let mut bench = Bench::up(GatewayConfig {
        durability: Some(Durability::default()),
        ..GatewayConfig::default()
    });
    bench.connect_with(A, connect("a", false, 3600));
    let id = bench.register(A, "t/up");
    bench.commit();
    bench.take(A);
    bench.packet(A, publish(TopicRef::Normal(id), QOS2, 7, b"x"));
    bench.commit();
    bench.expect(A, &[]);
    (bench, id)
}

#[test]
fn the_first_qos_2_waits_for_its_connection_and_learns_what_the_broker_says() {
    let (mut bench, id) = first_with_a_disk();
    bench.pass(Duration::from_secs(1));
    let conn = ConnId(1);
    bench.broker(BrokerEvent::Up {
        conn,
        session_present: false,
        window: 20,
        forgets: false,
    });
    bench.broker(BrokerEvent::Credit { conn, requests: 10 });
    let token = bench.publishes()[0].0.unwrap();
    bench.broker(BrokerEvent::Settled {
        token,
        result: Err(Refusal(0x87)),
    });
    bench.commit();
    bench.expect(A, &[puback(id, 7, ReturnCode::NotSupported)]);
}

#[test]
fn the_first_qos_2_is_spooled_if_its_connection_is_not_made() {
    let (mut late, _) = first_with_a_disk();
    late.pass(Duration::from_secs(3));
    late.commit();
    late.expect(A, &[Packet::Pubrec(MsgId(7))]);

    let (mut refused, id) = first_with_a_disk();
    refused.broker(BrokerEvent::Down {
        conn: ConnId(1),
        reason: "not authorised".into(),
    });
    refused.commit();
    refused.expect(A, &[Packet::Pubrec(MsgId(7))]);
    // And those that follow at once.
    refused.packet(A, publish(TopicRef::Normal(id), QOS2, 8, b"x"));
    refused.commit();
    refused.expect(A, &[Packet::Pubrec(MsgId(8))]);
}

#[test]
fn message_ids_of_both_directions_and_kinds_are_independent() {
    let (mut bench, filter) = subscribed();
    let id = bench.register(A, "t/up");
    bench.message(&[filter], "cmd", QOS2, false, b"down");
    let down = bench.heard_publish(A);
    bench.packet(A, publish(TopicRef::Normal(id), QOS2, down.msg_id.0, b"up"));
    bench.settle();
    bench.expect(A, &[Packet::Pubrec(down.msg_id)]);
    bench.packet(A, Packet::Pubrec(down.msg_id));
    bench.expect(A, &[Packet::Pubrel(down.msg_id)]);
    bench.packet(A, Packet::Pubrel(down.msg_id));
    bench.expect(A, &[Packet::Pubcomp(down.msg_id)]);
    bench.packet(A, Packet::Pubcomp(down.msg_id));
    bench.expect(A, &[]);
    assert_eq!(bench.gateway.metrics().delivered_total, 1);
}

// To the client.

#[test]
fn publish_is_repeated_with_dup_under_its_id_after_growing_waits() {
    for qos in [QOS1, QOS2] {
        let (mut bench, filter) = subscribed();
        bench.message(&[filter], "cmd", qos, false, b"go");
        let first = bench.heard_publish(A);
        assert!(!first.dup);
        for wait in [10, 20, 40] {
            bench.pass(Duration::from_millis(wait * 1000 - 1));
            bench.expect(A, &[]);
            bench.pass(Duration::from_millis(1));
            let repeat = bench.heard_publish(A);
            assert_eq!(repeat, Publish { dup: true, ..first });
        }
        bench.pass(seconds(1000));
        bench.expect(A, &[]);
        assert_eq!(bench.gateway.metrics().clients_active, 1, "reading A60");
    }
}

#[test]
fn message_that_is_never_acknowledged_is_dropped_after_six_rounds() {
    let (mut bench, filter) = subscribed();
    bench.message(&[filter], "cmd", QOS1, false, b"");
    bench.message(&[filter], "cmd", QOS1, false, b"next");
    let (mut sends, mut next) = (0, 0);
    for _ in 0..6 {
        bench.pass(seconds(200));
        for packet in bench.heard(A) {
            match packet {
                Packet::Publish(publish) if publish.data.is_empty() => sends += 1,
                Packet::Publish(publish) if publish.data == b"next" => next += 1,
                _ => {}
            }
        }
        bench.pingreq(A, None);
    }
    assert_eq!(sends, 24);
    assert!(next > 0, "the next message has its turn");
    assert_eq!(bench.gateway.metrics().poison_total, 1);
    assert_eq!(bench.gateway.metrics().clients_active, 1);
}

#[test]
fn pubrel_is_repeated_until_pubcomp_and_the_publish_is_not() {
    let (mut bench, filter) = subscribed();
    bench.message(&[filter], "cmd", QOS2, false, b"go");
    let message = bench.heard_publish(A);
    bench.packet(A, Packet::Pubrec(message.msg_id));
    bench.packet(A, Packet::Pubrec(message.msg_id));
    bench.pass(seconds(10));
    let heard = bench.heard(A);
    assert!(
        heard.len() >= 2
            && heard
                .iter()
                .all(|packet| *packet == Packet::Pubrel(message.msg_id))
    );
    bench.packet(A, Packet::Pubcomp(message.msg_id));
    bench.packet(A, Packet::Pubcomp(message.msg_id));
    bench.pass(seconds(100));
    bench.expect(A, &[]);
    assert_eq!(bench.gateway.metrics().delivered_total, 1);
}

#[test]
fn released_message_is_released_again_over_a_new_connection() {
    let (mut bench, filter) = subscribed();
    bench.message(&[filter], "cmd", QOS2, false, b"go");
    let message = bench.heard_publish(A);
    bench.packet(A, Packet::Pubrec(message.msg_id));
    bench.expect(A, &[Packet::Pubrel(message.msg_id)]);
    bench.packet(A, Packet::Connect(connect("a", false, 60)));
    bench.expect(
        A,
        &[connack(ReturnCode::Accepted), Packet::Pubrel(message.msg_id)],
    );
    bench.packet(A, Packet::Pubcomp(message.msg_id));
    bench.expect(A, &[]);
}

#[test]
fn unanswered_message_keeps_its_id_over_a_new_connection() {
    let (mut bench, filter) = subscribed();
    bench.message(&[filter], "cmd", QOS2, false, b"go");
    let message = bench.heard_publish(A);
    bench.packet(A, Packet::Connect(connect("a", false, 60)));
    let heard = bench.heard(A);
    let Packet::Register(register) = heard[1] else {
        panic!("{heard:?}")
    };
    bench.packet(
        A,
        Packet::Regack(sn_codec::Regack {
            topic_id: register.topic_id,
            msg_id: register.msg_id,
            return_code: ReturnCode::Accepted,
        }),
    );
    let repeat = bench.heard_publish(A);
    assert_eq!((repeat.msg_id, repeat.dup), (message.msg_id, true));
}

#[test]
fn one_exchange_at_a_time_and_strict_order() {
    let (mut bench, filter) = subscribed();
    for (qos, payload) in [
        (QOS1, b"1"),
        (QoS::AtMostOnce, b"2"),
        (QOS2, b"3"),
        (QoS::AtMostOnce, b"4"),
    ] {
        bench.message(&[filter], "cmd", qos, false, payload);
    }
    let first = bench.heard_publish(A);
    assert_eq!(first.data, b"1");
    bench.puback(A, first);
    let heard = bench.heard(A);
    let [Packet::Publish(second), Packet::Publish(third)] = heard[..] else {
        panic!("{heard:?}")
    };
    assert_eq!((second.data, third.data), (&b"2"[..], &b"3"[..]));
    assert_eq!(second.msg_id, MsgId(0));
    bench.packet(A, Packet::Pubrec(third.msg_id));
    bench.expect(A, &[Packet::Pubrel(third.msg_id)]);
    bench.packet(A, Packet::Pubcomp(third.msg_id));
    assert_eq!(bench.heard_publish(A).data, b"4");
}

#[test]
fn congestion_from_the_client_pauses_for_t_wait_or_until_it_asks() {
    let (mut bench, filter) = subscribed();
    bench.message(&[filter], "cmd", QOS1, false, b"1");
    let message = bench.heard_publish(A);
    let congested = puback(topic_id(message.topic), message.msg_id.0, ReturnCode::Congestion);
    bench.packet(A, congested);
    bench.pass(seconds(299));
    bench.expect(A, &[]);
    bench.pass(seconds(2));
    let repeat = bench.heard_publish(A);
    assert_eq!(repeat.msg_id, message.msg_id);
    bench.packet(A, congested);
    bench.packet(A, Packet::Pingresp);
    bench.expect(A, &[]);
    bench.register(A, "t/other");
    bench.puback(A, repeat);
    assert_eq!(bench.gateway.metrics().delivered_total, 1);
}

#[test]
fn refused_message_is_dropped_and_the_next_one_comes() {
    let (mut bench, filter) = subscribed();
    bench.message(&[filter], "cmd", QOS1, false, b"1");
    bench.message(&[filter], "cmd", QOS1, false, b"2");
    let message = bench.heard_publish(A);
    bench.packet(
        A,
        puback(
            topic_id(message.topic),
            message.msg_id.0,
            ReturnCode::NotSupported,
        ),
    );
    assert_eq!(bench.heard_publish(A).data, b"2");
    assert_eq!(bench.gateway.metrics().rejected_by_client_total, 1);
}

#[test]
fn message_too_large_for_the_radio_is_dropped_and_counted() {
    let (mut bench, filter) = subscribed();
    bench.message(&[filter], "cmd", QOS1, false, &[b'x'; 1400]);
    bench.expect(A, &[]);
    bench.message(&[filter], "cmd", QOS1, false, b"fits");
    assert_eq!(bench.heard_publish(A).data, b"fits");
    assert_eq!(bench.gateway.metrics().too_large_total, 1);
}

impl Bench {
    fn connect_with_drained(&mut self, connect: sn_codec::Connect<'_>) {
        self.take(A);
        self.requests.clear();
        self.connect_with(A, connect);
    }
}

#[test]
fn late_pubrec_over_a_new_connection_is_answered_by_one_pubrel() {
    let (mut bench, filter) = subscribed();
    bench.message(&[filter], "cmd", QOS2, false, b"go");
    let message = bench.heard_publish(A);
    // Both arrive before the gateway is asked what to send.
    for packet in [
        Packet::Connect(connect("a", false, 60)),
        Packet::Pubrec(message.msg_id),
    ] {
        let mut datagram = Vec::new();
        packet.encode(&mut datagram);
        bench.hand_in(LINK, &route(A), &datagram);
    }
    bench.drain();
    bench.expect(
        A,
        &[connack(ReturnCode::Accepted), Packet::Pubrel(message.msg_id)],
    );
    bench.packet(A, Packet::Pubcomp(message.msg_id));
    bench.expect(A, &[]);
}

#[test]
fn late_copy_of_a_finished_message_does_not_end_the_one_that_has_its_id_now() {
    for qos in [QOS1, QOS2] {
        let (mut bench, id) = connected();
        let topic = TopicRef::Normal(id);
        bench.packet(A, publish(topic, qos, 7, b"first"));
        bench.settle();
        bench.packet(A, Packet::Pubrel(MsgId(7)));
        bench.take(A);
        bench.packet(A, publish(topic, qos, 7, b"second"));
        bench.packet(A, again(id, qos, 7, b"first"));
        bench.expect(A, &[]); // It would be taken for the answer to the second.
        assert_eq!(bench.requests.len(), 1, "{:?}", bench.requests);
        bench.settle();
        let answer = match qos {
            QOS2 => Packet::Pubrec(MsgId(7)),
            _ => puback(id, 7, ReturnCode::Accepted),
        };
        bench.expect(A, &[answer]);
    }
}

#[test]
fn message_refused_for_its_topic_id_is_released_if_another_copy_was_taken() {
    let (mut bench, filter) = subscribed();
    bench.message(&[filter], "cmd", QOS2, false, b"go");
    let message = bench.heard_publish(A);
    bench.pass(seconds(10));
    let copy = bench.heard_publish(A);
    assert!(copy.dup);
    // The client took the first, began anew and does not know the copy's topic id; its PUBREC was held up on the way.
    let unknown = puback(topic_id(copy.topic), copy.msg_id.0, ReturnCode::InvalidTopicId);
    bench.packet(A, unknown);
    assert!(matches!(bench.heard(A)[..], [Packet::Register(_)]));
    bench.packet(A, Packet::Pubrec(message.msg_id));
    bench.expect(A, &[Packet::Pubrel(message.msg_id)]);
    bench.pass(seconds(10));
    bench.expect(A, &[Packet::Pubrel(message.msg_id)]);
    bench.packet(A, Packet::Pubcomp(message.msg_id));
    bench.pass(seconds(600));
    bench.expect(A, &[]);
    assert_eq!(bench.gateway.metrics().delivered_total, 1);
}

#[test]
fn message_refused_for_its_topic_id_is_released_although_its_client_went_to_sleep() {
    let (mut bench, filter) = subscribed();
    bench.message(&[filter], "cmd", QOS2, false, b"go");
    let message = bench.heard_publish(A);
    let unknown = puback(
        topic_id(message.topic),
        message.msg_id.0,
        ReturnCode::InvalidTopicId,
    );
    bench.packet(A, unknown);
    assert!(matches!(bench.heard(A)[..], [Packet::Register(_)]));
    bench.sleep(A, 600);
    // The network doubled the PUBLISH, and behind the REGISTER the client took it.
    bench.packet(A, Packet::Pubrec(message.msg_id));
    bench.expect(A, &[Packet::Pubrel(message.msg_id)]);
    bench.packet(A, Packet::Connect(connect("a", false, 3600)));
    bench.expect(
        A,
        &[connack(ReturnCode::Accepted), Packet::Pubrel(message.msg_id)],
    );
    bench.packet(A, Packet::Pubcomp(message.msg_id));
    bench.pass(seconds(600));
    bench.expect(A, &[]);
    assert_eq!(bench.gateway.metrics().delivered_total, 1);
}

#[test]
fn publish_of_an_earlier_connection_is_answered_when_it_is_repeated() {
    for qos in [QOS1, QOS2] {
        let (mut bench, id) = connected();
        bench.packet(A, publish(TopicRef::Normal(id), qos, 7, b"x"));
        // A device that began anew may have sent another message under the id, which did not arrive.
        bench.connect_with(A, connect("a", false, 60));
        bench.settle();
        bench.expect(A, &[]);
        bench.packet(A, again(id, qos, 7, b"x"));
        let answer = match qos {
            QOS2 => Packet::Pubrec(MsgId(7)),
            _ => puback(id, 7, ReturnCode::Accepted),
        };
        bench.expect(A, &[answer]);
        assert!(bench.requests.is_empty(), "published once");
    }
}

#[test]
fn publish_of_an_earlier_connection_that_is_repeated_early_is_answered_with_the_brokers_answer() {
    let (mut bench, id) = connected();
    bench.packet(A, publish(TopicRef::Normal(id), QOS1, 7, b"x"));
    bench.connect_with(A, connect("a", false, 60));
    bench.packet(A, again(id, QOS1, 7, b"x"));
    bench.expect(A, &[]);
    bench.settle();
    bench.expect(A, &[puback(id, 7, ReturnCode::Accepted)]);
}
