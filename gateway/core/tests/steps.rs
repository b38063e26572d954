//! One step on the core at a time: what goes in, what comes out.

mod common;

use core::time::Duration;

use common::{Bench, CONN, connack, disconnect, publish, seconds, subscribe};
use gateway_core::config::{GatewayConfig, PredefinedTopic, WhenDown};
use gateway_core::io::{BrokerEvent, BrokerRequest, Refusal};
use gateway_core::peer::{LinkAddr, LocalEnd, Route};
use sn_codec::{
    Connect, Disconnect, GwInfo, MsgId, Packet, Pingreq, Puback, Publish, PublishQoS, QoS, Regack, Register,
    ReturnCode, SearchGw, ShortTopic, Suback, Subscribe, TopicFilter, TopicId, TopicRef, Unsubscribe,
    WillMsg, WillTopic,
};

const A: u16 = 1;
const B: u16 = 2;

fn puback(topic_id: TopicId, msg_id: u16, return_code: ReturnCode) -> Packet<'static> {
    Packet::Puback(Puback {
        topic_id,
        msg_id: MsgId(msg_id),
        return_code,
    })
}

fn predefined(id: u16, topic: &str) -> GatewayConfig {
    GatewayConfig {
        predefined: vec![PredefinedTopic {
            id: TopicId(id),
            topic: topic.into(),
        }],
        ..GatewayConfig::default()
    }
}

#[test]
fn puback_follows_the_brokers() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    let id = bench.register(A, "plant/temperature");
    bench.packet(A, publish(TopicRef::Normal(id), QoS::AtLeastOnce, 7, b"21.5"));
    bench.expect(A, &[]);
    let publishes = bench.publishes();
    let [(Some(token), topic, payload)] = &publishes[..] else {
        panic!("{publishes:?}")
    };
    assert_eq!(
        (topic.as_str(), payload.as_slice()),
        ("plant/temperature", &b"21.5"[..])
    );
    bench.broker(BrokerEvent::Settled {
        token: *token,
        result: Ok(None),
    });
    bench.expect(A, &[puback(id, 7, ReturnCode::Accepted)]);
}

#[test]
fn repeated_publish_is_not_published_again() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    let id = bench.register(A, "t/t");
    let again = Packet::Publish(Publish {
        dup: true,
        qos: PublishQoS::Level(QoS::AtLeastOnce),
        retain: false,
        topic: TopicRef::Normal(id),
        msg_id: MsgId(7),
        data: b"x",
    });
    bench.packet(A, publish(TopicRef::Normal(id), QoS::AtLeastOnce, 7, b"x"));
    bench.packet(A, again);
    let publishes = bench.publishes();
    assert_eq!(publishes.len(), 1);
    bench.broker(BrokerEvent::Settled {
        token: publishes[0].0.unwrap(),
        result: Ok(None),
    });
    bench.expect(A, &[puback(id, 7, ReturnCode::Accepted)]);
    bench.packet(A, again);
    bench.expect(A, &[puback(id, 7, ReturnCode::Accepted)]);
    assert_eq!(bench.publishes().len(), 0);
}

#[test]
fn qos_2_up_is_published_once_and_its_id_held_until_pubrel() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    let id = bench.register(A, "t/t");
    let message = publish(TopicRef::Normal(id), QoS::ExactlyOnce, 7, b"x");
    bench.packet(A, message);
    let publishes = bench.publishes();
    bench.broker(BrokerEvent::Settled {
        token: publishes[0].0.unwrap(),
        result: Ok(None),
    });
    bench.expect(A, &[Packet::Pubrec(MsgId(7))]);
    bench.packet(A, message);
    bench.expect(A, &[Packet::Pubrec(MsgId(7))]);
    assert_eq!(bench.publishes().len(), 0);
    bench.packet(A, Packet::Pubrel(MsgId(7)));
    bench.expect(A, &[Packet::Pubcomp(MsgId(7))]);
    bench.packet(A, Packet::Pubrel(MsgId(7)));
    bench.expect(A, &[Packet::Pubcomp(MsgId(7))]);
    bench.packet(A, message);
    bench.expect(A, &[Packet::Pubrec(MsgId(7))]);
    assert_eq!(
        bench.publishes().len(),
        0,
        "a copy that the network held back (A46)"
    );
    bench.pass(Duration::from_secs(10));
    bench.packet(A, message);
    assert_eq!(
        bench.publishes().len(),
        1,
        "Tretry after its PUBREL the id names a new message"
    );
}

#[test]
fn same_id_with_other_content_is_another_message() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    let id = bench.register(A, "t/t");
    bench.packet(A, publish(TopicRef::Normal(id), QoS::AtLeastOnce, 7, b"old"));
    bench.packet(A, publish(TopicRef::Normal(id), QoS::AtLeastOnce, 7, b"new"));
    let publishes = bench.publishes();
    assert_eq!(publishes.len(), 2);
    bench.broker(BrokerEvent::Settled {
        token: publishes[0].0.unwrap(),
        result: Ok(None),
    });
    bench.expect(A, &[]);
    bench.broker(BrokerEvent::Settled {
        token: publishes[1].0.unwrap(),
        result: Ok(None),
    });
    bench.expect(A, &[puback(id, 7, ReturnCode::Accepted)]);
}

#[test]
fn unknown_topic_id_is_answered_for_every_qos_but_minus_one() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    let topic = TopicRef::Normal(TopicId(0x500));
    for (qos, msg_id) in [(QoS::AtMostOnce, 0), (QoS::AtLeastOnce, 1), (QoS::ExactlyOnce, 2)] {
        bench.packet(A, publish(topic, qos, msg_id, b"x"));
        bench.expect(A, &[puback(TopicId(0x500), msg_id, ReturnCode::InvalidTopicId)]);
    }
    assert!(bench.publishes().is_empty());
}

#[test]
fn predefined_and_short_topics_need_no_registration() {
    let mut bench = Bench::up(predefined(3, "plant/{client_id}/t"));
    bench.connect(A, "pump-7");
    bench.packet(
        A,
        publish(TopicRef::Predefined(TopicId(3)), QoS::AtMostOnce, 0, b"1"),
    );
    bench.packet(
        A,
        publish(TopicRef::Short(ShortTopic(*b"ab")), QoS::AtMostOnce, 0, b"2"),
    );
    let topics: Vec<String> = bench.publishes().into_iter().map(|(_, topic, _)| topic).collect();
    assert_eq!(topics, ["plant/pump-7/t", "ab"]);
}

#[test]
fn qos_minus_one_needs_no_connection() {
    let mut bench = Bench::up(predefined(3, "events"));
    let minus_one = |topic| {
        let qos = PublishQoS::MinusOne;
        Packet::Publish(Publish {
            dup: false,
            qos,
            retain: true,
            topic,
            msg_id: MsgId(0),
            data: b"x",
        })
    };
    bench.packet(A, minus_one(TopicRef::Predefined(TopicId(3))));
    assert!(matches!(
        &bench.requests[..],
        [BrokerRequest::Publish { token: None, topic, qos: QoS::AtMostOnce, retain: true, .. }] if &**topic == "events"
    ));
    bench.requests.clear();
    bench.packet(A, minus_one(TopicRef::Predefined(TopicId(4))));
    bench.packet(A, minus_one(TopicRef::Short(ShortTopic(*b"ab"))));
    assert!(bench.requests.is_empty(), "short names are off for strangers");
    bench.expect(A, &[]);
}

#[test]
fn refused_publish_is_said_to_the_client() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    let id = bench.register(A, "t/t");
    for (refusal, code) in [
        (Refusal(0x87), ReturnCode::NotSupported),
        (Refusal(0x97), ReturnCode::Congestion),
    ] {
        bench.packet(A, publish(TopicRef::Normal(id), QoS::AtLeastOnce, 1, b"x"));
        let token = bench.publishes()[0].0.unwrap();
        bench.broker(BrokerEvent::Settled {
            token,
            result: Err(refusal),
        });
        bench.expect(A, &[puback(id, 1, code)]);
    }
}

#[test]
fn publishes_wait_for_the_broker_and_only_a_full_queue_is_congestion() {
    let mut config = GatewayConfig::default();
    config.limits.queue_messages = 2;
    let mut bench = Bench::new(config);
    bench.connect(A, "a");
    let id = bench.register(A, "t/t");
    for msg_id in 1..=3 {
        bench.packet(A, publish(TopicRef::Normal(id), QoS::AtLeastOnce, msg_id, b"x"));
    }
    bench.expect(A, &[puback(id, 3, ReturnCode::Congestion)]);
    assert!(bench.publishes().is_empty());
    bench.broker_up(false);
    let publishes = bench.publishes();
    assert_eq!(publishes.len(), 2);
    bench.expect(A, &[]);
    for (token, ..) in publishes {
        bench.broker(BrokerEvent::Settled {
            token: token.unwrap(),
            result: Ok(None),
        });
    }
    bench.expect(
        A,
        &[
            puback(id, 1, ReturnCode::Accepted),
            puback(id, 2, ReturnCode::Accepted),
        ],
    );
}

#[test]
fn when_down_refuse_is_congestion_at_once() {
    let mut config = GatewayConfig::default();
    config.upstream.when_down = WhenDown::Refuse;
    let mut bench = Bench::new(config);
    bench.connect(A, "a");
    let id = bench.register(A, "t/t");
    bench.packet(A, publish(TopicRef::Normal(id), QoS::AtLeastOnce, 1, b"x"));
    bench.expect(A, &[puback(id, 1, ReturnCode::Congestion)]);
    bench.packet(A, subscribe(MsgId(2), "c/d", QoS::AtMostOnce));
    let sent = bench.take(A);
    assert!(matches!(
        Packet::decode(&sent[0]),
        Ok(Packet::Suback(Suback {
            return_code: ReturnCode::Congestion,
            ..
        }))
    ));
}

#[test]
fn lost_publishes_go_out_again_in_order_before_new_ones() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    let id = bench.register(A, "t/t");
    for msg_id in 1..=3_u16 {
        bench.packet(
            A,
            publish(
                TopicRef::Normal(id),
                QoS::AtLeastOnce,
                msg_id,
                &msg_id.to_be_bytes(),
            ),
        );
    }
    let first = bench.publishes();
    bench.broker_down();
    bench.packet(
        A,
        publish(TopicRef::Normal(id), QoS::AtLeastOnce, 4, &4_u16.to_be_bytes()),
    );
    bench.broker_up(false);
    assert!(
        bench.publishes().is_empty(),
        "nothing overtakes what is about to be reported lost"
    );
    for (token, ..) in first.iter().rev() {
        bench.broker(BrokerEvent::Lost {
            token: token.unwrap(),
        });
    }
    let again = bench.publishes();
    let payloads: Vec<_> = again.iter().map(|(_, _, payload)| payload[1]).collect();
    assert_eq!(payloads, [1, 2, 3, 4]);
    assert_eq!(again[0].0, first[0].0, "a token stays with its message");
}

#[test]
fn shared_subscription_is_counted() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    bench.connect(B, "b");
    bench.subscribe(A, "cmd/+", QoS::AtLeastOnce);
    let (_, filter) = bench.subscribe(B, "cmd/+", QoS::AtMostOnce);
    bench.requests.clear();
    let unsubscribe = Packet::Unsubscribe(Unsubscribe {
        msg_id: MsgId(5),
        topic: TopicFilter::Name("cmd/+"),
    });
    bench.packet(A, unsubscribe);
    bench.expect(A, &[Packet::Unsuback(MsgId(5))]);
    assert!(bench.requests.is_empty(), "B still wants it");
    bench.message(&[filter], "cmd/x", QoS::AtMostOnce, false, b"1");
    assert!(bench.take(A).is_empty());
    assert_eq!(bench.take(B).len(), 1);
    bench.packet(B, unsubscribe);
    assert!(
        matches!(&bench.requests[..], [BrokerRequest::Unsubscribe { filter, .. }] if &**filter == "cmd/+")
    );
}

#[test]
fn late_subscriber_gets_the_retained_message_and_the_early_one_does_not() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    bench.connect(B, "b");
    let (_, filter) = bench.subscribe(A, "state", QoS::AtMostOnce);
    bench.message(&[filter], "state", QoS::AtMostOnce, true, b"on");
    assert_eq!(bench.take(A).len(), 1);
    bench.subscribe(B, "state", QoS::AtMostOnce);
    bench.message(&[filter], "state", QoS::AtMostOnce, true, b"on");
    assert_eq!(bench.take(A).len(), 0);
    assert_eq!(bench.take(B).len(), 1);
}

#[test]
fn overlapping_filters_deliver_once_at_the_higher_qos() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    let (_, wide) = bench.subscribe(A, "#", QoS::AtMostOnce);
    let (id, exact) = bench.subscribe(A, "x/y", QoS::AtLeastOnce);
    bench.message(&[wide], "x/y", QoS::AtMostOnce, false, b"1");
    bench.message(&[exact], "x/y", QoS::AtLeastOnce, false, b"1");
    let sent = bench.take(A);
    assert_eq!(sent.len(), 1);
    let Ok(Packet::Publish(publish)) = Packet::decode(&sent[0]) else {
        panic!("{sent:?}")
    };
    assert_eq!(
        (publish.qos, publish.topic),
        (PublishQoS::Level(QoS::AtLeastOnce), TopicRef::Normal(id))
    );
}

#[test]
fn message_routed_before_a_better_filter_stood_is_delivered_by_the_older_one() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    bench.register(A, "room/1");
    let (_, all) = bench.subscribe(A, "#", QoS::AtLeastOnce);
    let (_, room) = bench.subscribe(A, "room/+", QoS::ExactlyOnce);
    // It waited at the broker when nothing but `#` was subscribed, so no copy for `room/+` will come.
    bench.message(&[all], "room/1", QoS::AtLeastOnce, false, b"old");
    let message = bench.heard_publish(A);
    bench.puback(A, message);
    // A broker that sends a copy for each: still once.
    for payload in [b"1", b"2"] {
        for filter in [all, room] {
            bench.message(&[filter], "room/1", QoS::ExactlyOnce, false, payload);
        }
        let message = bench.heard_publish(A);
        assert_eq!(
            (message.data, message.qos),
            (&payload[..], PublishQoS::Level(QoS::ExactlyOnce))
        );
        let msg_id = message.msg_id;
        bench.packet(A, Packet::Pubrec(msg_id));
        bench.packet(A, Packet::Pubcomp(msg_id));
        assert!(matches!(bench.heard(A)[..], [Packet::Pubrel(_)]));
    }
}

#[test]
fn wildcard_match_is_registered_before_it_is_published() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    let (suback_id, filter) = bench.subscribe(A, "room/+/temp", QoS::AtLeastOnce);
    assert_eq!(suback_id, TopicId::NONE);
    bench.message(&[filter], "room/1/temp", QoS::AtLeastOnce, false, b"20");
    let sent = bench.take(A);
    let Ok(Packet::Register(Register {
        topic_id,
        msg_id,
        topic_name,
    })) = Packet::decode(&sent[0])
    else {
        panic!("{sent:?}")
    };
    assert_eq!((sent.len(), topic_name), (1, "room/1/temp"));
    bench.packet(
        A,
        Packet::Regack(Regack {
            topic_id,
            msg_id,
            return_code: ReturnCode::Accepted,
        }),
    );
    let sent = bench.take(A);
    let Ok(Packet::Publish(message)) = Packet::decode(&sent[0]) else {
        panic!("{sent:?}")
    };
    assert_eq!(
        (message.topic, message.data, message.dup),
        (TopicRef::Normal(topic_id), &b"20"[..], false)
    );
    bench.packet(A, puback(topic_id, message.msg_id.0, ReturnCode::Accepted));
    assert_eq!(bench.gateway.metrics().delivered_total, 1);
}

#[test]
fn delivery_is_repeated_with_dup_then_parked_until_the_client_speaks() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with(
        A,
        Connect {
            will: false,
            clean_session: true,
            duration: 3600,
            client_id: "a",
        },
    );
    let (_, filter) = bench.subscribe(A, "cmd", QoS::AtLeastOnce);
    bench.message(&[filter], "cmd", QoS::AtLeastOnce, false, b"go");
    bench.pass(seconds(600));
    let sent = bench.take(A);
    let dups: Vec<bool> = sent
        .iter()
        .map(|datagram| match Packet::decode(datagram) {
            Ok(Packet::Publish(publish)) => publish.dup,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(dups, [false, true, true, true], "Nretry is 3");
    bench.packet(A, Packet::Pingreq(Pingreq { client_id: None }));
    let sent = bench.take(A);
    assert_eq!(sent.len(), 2, "PINGRESP and the message again");
    assert_eq!(Packet::decode(&sent[0]), Ok(Packet::Pingresp));
}

#[test]
fn client_that_refuses_dup_is_served_without() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "emcute");
    let (id, filter) = bench.subscribe(A, "cmd", QoS::AtLeastOnce);
    bench.message(&[filter], "cmd", QoS::AtLeastOnce, false, b"go");
    bench.pass(seconds(11));
    let sent = bench.take(A);
    let Ok(Packet::Publish(message)) = Packet::decode(&sent[1]) else {
        panic!("{sent:?}")
    };
    assert!(message.dup);
    bench.packet(A, puback(id, message.msg_id.0, ReturnCode::NotSupported));
    let sent = bench.take(A);
    let Ok(Packet::Publish(message)) = Packet::decode(&sent[0]) else {
        panic!("{sent:?}")
    };
    assert!(!message.dup);
}

#[test]
fn qos_2_down_is_released_by_pubrel() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    let (_, filter) = bench.subscribe(A, "cmd", QoS::ExactlyOnce);
    bench.message(&[filter], "cmd", QoS::ExactlyOnce, false, b"go");
    let sent = bench.take(A);
    let Ok(Packet::Publish(message)) = Packet::decode(&sent[0]) else {
        panic!("{sent:?}")
    };
    bench.packet(A, Packet::Pubrec(message.msg_id));
    bench.expect(A, &[Packet::Pubrel(message.msg_id)]);
    bench.pass(seconds(10));
    bench.expect(A, &[Packet::Pubrel(message.msg_id)]);
    bench.packet(A, Packet::Pubcomp(message.msg_id));
    bench.expect(A, &[]);
    assert_eq!(bench.gateway.metrics().buffer_messages, 0);
}

#[test]
fn subscription_is_accepted_while_the_broker_is_away_and_carried_out_later() {
    let mut bench = Bench::new(GatewayConfig::default());
    bench.connect(A, "a");
    bench.packet(A, subscribe(MsgId(9), "cmd/#", QoS::AtLeastOnce));
    let granted = Suback {
        qos: QoS::AtLeastOnce,
        topic_id: TopicId::NONE,
        msg_id: MsgId(9),
        return_code: ReturnCode::Accepted,
    };
    bench.expect(A, &[Packet::Suback(granted)]);
    bench.broker_up(false);
    let (token, _) = bench.subscribe_request();
    bench.broker(BrokerEvent::Settled {
        token,
        result: Err(Refusal(0x87)),
    });
    bench.expect(A, &[disconnect()]);
}

#[test]
fn answer_to_an_earlier_subscribe_does_not_take_qos_from_who_asked_for_more_since() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    bench.connect(B, "b");
    bench.packet(A, subscribe(MsgId(9), "cmd", QoS::AtMostOnce));
    let (early, filter) = bench.subscribe_request();
    // Its answer is still to come when the connection drops; meanwhile B is granted QoS 1 (reading A31).
    bench.broker_down();
    bench.packet(B, subscribe(MsgId(9), "cmd", QoS::AtLeastOnce));
    bench.broker_up(true);
    bench.broker(BrokerEvent::Settled {
        token: early,
        result: Ok(Some(QoS::AtMostOnce)),
    });
    bench.take(B);
    bench.message(&[filter], "cmd", QoS::AtLeastOnce, false, b"go");
    let message = bench.heard_publish(B);
    assert_eq!(message.qos, PublishQoS::Level(QoS::AtLeastOnce));
    // A broker that gives less than it was asked for is another matter.
    let (late, _) = bench.subscribe_request();
    bench.broker(BrokerEvent::Settled {
        token: late,
        result: Ok(Some(QoS::AtMostOnce)),
    });
    bench.puback(B, message);
    bench.message(&[filter], "cmd", QoS::AtLeastOnce, false, b"go");
    let message = bench.heard_publish(B);
    assert_eq!(message.qos, PublishQoS::Level(QoS::AtMostOnce));
}

#[test]
fn subscribe_of_an_earlier_connection_does_not_answer_another_under_its_id() {
    let mut bench = Bench::up(GatewayConfig::default());
    let connect = common::connect("a", false, 60);
    bench.connect_with(A, connect);
    bench.packet(A, subscribe(MsgId(9), "cmd/#", QoS::ExactlyOnce));
    let (early, _) = bench.subscribe_request();
    // A device that starts anew and begins with the same ids.
    bench.connect_with(B, connect);
    bench.packet(B, subscribe(MsgId(9), "state/#", QoS::AtLeastOnce));
    let (own, _) = bench.subscribe_request();
    bench.broker(BrokerEvent::Settled {
        token: early,
        result: Ok(Some(QoS::ExactlyOnce)),
    });
    bench.expect(B, &[]);
    bench.broker(BrokerEvent::Settled {
        token: own,
        result: Ok(Some(QoS::AtLeastOnce)),
    });
    let granted = Suback {
        qos: QoS::AtLeastOnce,
        topic_id: TopicId::NONE,
        msg_id: MsgId(9),
        return_code: ReturnCode::Accepted,
    };
    bench.expect(B, &[Packet::Suback(granted)]);
}

#[test]
fn subscriptions_are_renewed_when_the_broker_forgot_them() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    bench.subscribe(A, "cmd", QoS::AtLeastOnce);
    bench.requests.clear();
    bench.broker_down();
    bench.broker_up(true);
    assert!(bench.requests.is_empty(), "the session was kept");
    bench.broker_down();
    bench.broker_up(false);
    bench.subscribe_request();
}

#[test]
fn suback_goes_before_the_messages_that_overtook_it() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    bench.packet(A, subscribe(MsgId(9), "state", QoS::AtMostOnce));
    let (token, filter) = bench.subscribe_request();
    bench.message(&[filter], "state", QoS::AtMostOnce, true, b"on");
    bench.expect(A, &[]);
    bench.broker(BrokerEvent::Settled {
        token,
        result: Ok(Some(QoS::AtMostOnce)),
    });
    let sent = bench.take(A);
    assert!(matches!(Packet::decode(&sent[0]), Ok(Packet::Suback(_))));
    assert!(matches!(Packet::decode(&sent[1]), Ok(Packet::Publish(_))));
}

#[test]
fn suback_carries_the_id_that_clients_expect() {
    let mut bench = Bench::up(predefined(17, "pre/defined"));
    bench.connect(A, "a");
    let known = bench.register(A, "known/name");
    let mut subscribe = |topic| {
        bench.packet(
            A,
            Packet::Subscribe(Subscribe {
                dup: false,
                qos: QoS::AtMostOnce,
                msg_id: MsgId(3),
                topic,
            }),
        );
        let (token, _) = bench.subscribe_request();
        bench.broker(BrokerEvent::Settled {
            token,
            result: Ok(Some(QoS::AtMostOnce)),
        });
        let sent = bench.take(A);
        match Packet::decode(&sent[0]) {
            Ok(Packet::Suback(suback)) => suback.topic_id,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(subscribe(TopicFilter::Name("known/name")), known);
    assert_eq!(subscribe(TopicFilter::Predefined(TopicId(17))), TopicId(17));
    assert_eq!(subscribe(TopicFilter::Short(ShortTopic(*b"ab"))), TopicId(0x6162));
    assert_eq!(subscribe(TopicFilter::Name("a/#")), TopicId::NONE);
}

fn connect_with_will(bench: &mut Bench, clean_session: bool) {
    let connect = Connect {
        will: true,
        clean_session,
        duration: 10,
        client_id: "w",
    };
    bench.packet(A, Packet::Connect(connect));
    bench.expect(A, &[Packet::WillTopicReq]);
    let will = WillTopic {
        qos: QoS::AtLeastOnce,
        retain: true,
        topic: "last/will",
    };
    bench.packet(A, Packet::WillTopic(Some(will)));
    bench.expect(A, &[Packet::WillMsgReq]);
    bench.packet(A, Packet::WillMsg(WillMsg { message: b"gone" }));
    bench.expect(A, &[connack(ReturnCode::Accepted)]);
}

#[test]
fn will_of_a_lost_client_is_published_once() {
    let mut bench = Bench::up(GatewayConfig::default());
    connect_with_will(&mut bench, true);
    bench.pass(seconds(14));
    assert!(
        bench.publishes().is_empty(),
        "1.5 times the keep-alive is not over"
    );
    bench.pass(seconds(2));
    assert!(
        matches!(&bench.publishes()[..], [(Some(_), topic, payload)] if topic == "last/will" && payload == b"gone")
    );
    bench.pass(seconds(1000));
    assert!(bench.publishes().is_empty());
    assert_eq!(bench.gateway.metrics().clients, 0);
}

#[test]
fn goodbye_publishes_no_will() {
    let mut bench = Bench::up(GatewayConfig::default());
    connect_with_will(&mut bench, true);
    bench.packet(A, disconnect());
    bench.expect(A, &[disconnect()]);
    bench.pass(seconds(1000));
    assert!(bench.publishes().is_empty());
}

#[test]
fn stored_will_is_used_again_without_asking() {
    let mut bench = Bench::up(GatewayConfig::default());
    connect_with_will(&mut bench, false);
    bench.packet(A, disconnect());
    bench.take(A);
    bench.connect_with(
        A,
        Connect {
            will: false,
            clean_session: false,
            duration: 10,
            client_id: "w",
        },
    );
    bench.pass(seconds(16));
    assert_eq!(
        bench.publishes().len(),
        1,
        "§6.3: Clean 0, Will 0 keeps the stored will"
    );
}

#[test]
fn empty_will_topic_deletes_the_will_and_connects() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.packet(
        A,
        Packet::Connect(Connect {
            will: true,
            clean_session: true,
            duration: 10,
            client_id: "w",
        }),
    );
    bench.take(A);
    bench.packet(A, Packet::WillTopic(None));
    bench.expect(A, &[connack(ReturnCode::Accepted)]);
    bench.pass(seconds(60));
    assert!(bench.publishes().is_empty());
}

#[test]
fn prompts_are_repeated_and_then_given_up_silently() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.packet(
        A,
        Packet::Connect(Connect {
            will: true,
            clean_session: true,
            duration: 10,
            client_id: "w",
        }),
    );
    bench.pass(seconds(120));
    bench.expect(A, &[Packet::WillTopicReq; 4]);
    assert_eq!(bench.gateway.metrics().clients, 0);
    bench.packet(A, Packet::WillTopic(None));
    bench.expect(A, &[disconnect()]);
}

#[test]
fn bad_will_ends_the_handshake() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.packet(
        A,
        Packet::Connect(Connect {
            will: true,
            clean_session: true,
            duration: 10,
            client_id: "w",
        }),
    );
    bench.take(A);
    bench.raw(A, b"\x09\x07\x00will/#");
    bench.expect(A, &[connack(ReturnCode::NotSupported)]);
}

#[test]
fn strangers_are_told_to_connect_at_most_once_a_second() {
    let mut bench = Bench::up(GatewayConfig::default());
    let topic = TopicRef::Normal(TopicId(0x500));
    for _ in 0..3 {
        bench.packet(A, publish(topic, QoS::AtLeastOnce, 1, b"x"));
    }
    bench.expect(A, &[disconnect()]);
    bench.pass(seconds(2));
    bench.packet(A, Packet::Pingreq(Pingreq { client_id: None }));
    bench.expect(A, &[disconnect()]);
    bench.pass(seconds(2));
    bench.packet(A, puback(TopicId(1), 1, ReturnCode::Accepted));
    bench.expect(A, &[]);
}

#[test]
fn client_that_moved_is_served_at_its_new_address() {
    let mut bench = Bench::up(GatewayConfig::default());
    let kept = Connect {
        will: false,
        clean_session: false,
        duration: 60,
        client_id: "a",
    };
    bench.connect_with(A, kept);
    let (_, filter) = bench.subscribe(A, "cmd", QoS::AtMostOnce);
    bench.connect_with(B, kept);
    bench.message(&[filter], "cmd", QoS::AtMostOnce, false, b"1");
    assert!(bench.take(A).is_empty());
    assert_eq!(
        bench.take(B).len(),
        1,
        "REGISTER comes first in the new connection"
    );
    bench.packet(A, Packet::Pingreq(Pingreq { client_id: None }));
    bench.expect(A, &[disconnect()]);
}

#[test]
fn lost_connack_costs_nothing() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    let id = bench.register(A, "t/t");
    // Something was received since: a new session, and with Clean the ids are gone.
    bench.connect(A, "a");
    bench.packet(A, publish(TopicRef::Normal(id), QoS::AtLeastOnce, 1, b"x"));
    bench.expect(A, &[puback(id, 1, ReturnCode::InvalidTopicId)]);
}

#[test]
fn sleeping_client_gets_its_backlog_before_pingresp() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    let (id, filter) = bench.subscribe(A, "cmd", QoS::AtLeastOnce);
    bench.packet(A, Packet::Disconnect(Disconnect { duration: Some(600) }));
    bench.expect(A, &[disconnect()]);
    for payload in [b"1", b"2"] {
        bench.message(&[filter], "cmd", QoS::AtLeastOnce, false, payload);
    }
    bench.expect(A, &[]);
    bench.pass(seconds(500));
    bench.packet(B, Packet::Pingreq(Pingreq { client_id: Some("a") }));
    for expected in [b"1", b"2"] {
        let sent = bench.take(B);
        let Ok(Packet::Publish(message)) = Packet::decode(&sent[0]) else {
            panic!("{sent:?}")
        };
        assert_eq!((sent.len(), message.data), (1, &expected[..]));
        bench.packet(B, puback(id, message.msg_id.0, ReturnCode::Accepted));
    }
    bench.expect(B, &[Packet::Pingresp]);
    bench.pass(seconds(899));
    assert_eq!(bench.gateway.metrics().lost_total, 0);
    bench.pass(seconds(2));
    assert_eq!(bench.gateway.metrics().lost_total, 1);
}

#[test]
fn search_is_answered_with_gwinfo() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.packet(A, Packet::SearchGw(SearchGw { radius: 0 }));
    bench.expect(
        A,
        &[Packet::GwInfo(GwInfo {
            gw_id: 1,
            gw_add: &[],
        })],
    );
}

#[test]
fn forwarded_client_is_answered_through_its_forwarder() {
    let mut bench = Bench::up(GatewayConfig::default());
    let mut datagram = vec![0x05, 0xFE, 0x01, 0xAA, 0xBB];
    Packet::Connect(Connect {
        will: false,
        clean_session: true,
        duration: 60,
        client_id: "n",
    })
    .encode(&mut datagram);
    bench.hand_in(common::LINK, &common::route(A), &datagram);
    let mut buf = Vec::new();
    while bench.gateway.poll_output(bench.now, &mut buf).is_some() {}
    assert_eq!(buf, [0x05, 0xFE, 0x00, 0xAA, 0xBB, 0x03, 0x05, 0x00]);
}

#[test]
fn shutdown_tells_connected_clients_and_closes_upstream() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    bench.requests.clear();
    bench.gateway.handle_shutdown(bench.now);
    bench.drain();
    bench.expect(A, &[disconnect()]);
    assert_eq!(bench.requests, [BrokerRequest::Close { conn: CONN }]);
}

#[test]
fn clients_beyond_the_limit_are_refused_unless_a_session_is_idle() {
    let mut config = GatewayConfig::default();
    config.limits.clients = 1;
    let mut bench = Bench::up(config);
    let connect = |id| {
        Packet::Connect(Connect {
            will: false,
            clean_session: false,
            duration: 60,
            client_id: id,
        })
    };
    bench.packet(A, connect("a"));
    bench.expect(A, &[connack(ReturnCode::Accepted)]);
    bench.packet(B, connect("b"));
    bench.expect(B, &[connack(ReturnCode::Congestion)]);
    bench.packet(A, disconnect());
    bench.packet(B, connect("b"));
    bench.expect(B, &[connack(ReturnCode::Accepted)]);
}

#[test]
fn room_is_made_by_a_session_that_rests_not_by_one_that_returned() {
    let mut config = GatewayConfig::default();
    config.limits.clients = 2;
    let mut bench = Bench::up(config);
    let connect = |id| Connect {
        will: false,
        clean_session: false,
        duration: 60,
        client_id: id,
    };
    bench.connect_with(A, connect("a"));
    bench.connect_with(B, connect("b"));
    for port in [A, B] {
        bench.packet(port, disconnect());
        bench.take(port);
    }
    bench.connect_with(A, connect("a"));
    bench.connect_with(3, connect("c"));
    bench.packet(A, Packet::Pingreq(Pingreq { client_id: None }));
    bench.expect(A, &[Packet::Pingresp]);
    bench.packet(4, Packet::Connect(connect("d")));
    bench.expect(4, &[connack(ReturnCode::Congestion)]);
}

#[test]
fn what_waited_is_published_after_the_subscriptions_stand_again() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    bench.connect(B, "b");
    bench.subscribe(A, "away/#", QoS::AtLeastOnce);
    let id = bench.register(B, "away/1");
    bench.broker_down();
    bench.packet(B, publish(TopicRef::Normal(id), QoS::AtLeastOnce, 1, b"waited"));
    bench.requests.clear();
    bench.broker_up(false);
    assert!(
        matches!(&bench.requests[..], [BrokerRequest::Subscribe { .. }]),
        "{:?}",
        bench.requests
    );
    let (token, _) = bench.subscribe_request();
    bench.broker(BrokerEvent::Settled {
        token,
        result: Ok(Some(QoS::AtLeastOnce)),
    });
    assert_eq!(bench.publishes().len(), 1);
}

#[test]
fn message_that_shows_a_better_subscription_than_is_known_is_delivered_by_it() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    bench.subscribe(A, "s/#", QoS::AtMostOnce);
    let (_, better) = bench.subscribe(A, "s/+", QoS::AtMostOnce);
    // The broker has taken the next SUBSCRIBE when the connection drops; its answer comes after the message.
    bench.packet(A, subscribe(MsgId(10), "s/+", QoS::AtLeastOnce));
    bench.broker_down();
    bench.take(A);
    bench.broker_up(true);
    bench.message(&[better], "s/1", QoS::AtLeastOnce, false, b"go");
    let [Packet::Register(register)] = bench.heard(A)[..] else {
        panic!("the message is dropped")
    };
    let regack = Regack {
        topic_id: register.topic_id,
        msg_id: register.msg_id,
        return_code: ReturnCode::Accepted,
    };
    bench.packet(A, Packet::Regack(regack));
    let message = bench.heard_publish(A);
    assert_eq!(message.qos, PublishQoS::Level(QoS::AtLeastOnce));
}

#[test]
fn very_many_clients_share_a_filter_and_each_gets_its_own() {
    const CLIENTS: u32 = 20_000;
    let mut config = GatewayConfig::default();
    config.limits.new_sessions_per_second = u32::MAX;
    let mut bench = Bench::new(config);
    let route = |n: u32| Route {
        addr: LinkAddr::Udp((core::net::Ipv4Addr::from_bits(n), 1).into()),
        local: LocalEnd::default(),
    };
    let hand_in = |bench: &mut Bench, n: u32, packet: Packet<'_>| {
        let mut datagram = Vec::new();
        packet.encode(&mut datagram);
        bench.hand_in(common::LINK, &route(n), &datagram);
    };
    for n in 0..CLIENTS {
        let id = format!("c{n}");
        hand_in(&mut bench, n, Packet::Connect(common::connect(&id, false, 60)));
        let qos = [QoS::AtMostOnce, QoS::AtLeastOnce][n as usize % 2];
        hand_in(&mut bench, n, subscribe(MsgId(1), "news", qos));
        bench.drain();
    }
    bench.sent.clear();
    // A broker that forgets everything, twice: everybody is to have its retained messages again.
    for _ in 0..2 {
        bench.requests.clear();
        bench.broker_up(false);
        bench.settle();
        bench.broker_down();
    }
    bench.broker_up(false);
    bench.settle();
    bench.take(1);
    // One by one, each answered before the next.
    for n in 0..CLIENTS {
        hand_in(&mut bench, n, subscribe(MsgId(2), "news", QoS::AtLeastOnce));
        bench.drain();
        bench.broker(BrokerEvent::Credit {
            conn: CONN,
            requests: 1,
        });
        bench.settle();
    }
    assert_eq!(bench.sent.len(), CLIENTS as usize, "a SUBACK for each");
    bench.sent.clear();
    bench.message(&[], "news", QoS::AtLeastOnce, false, b"x");
    assert_eq!(bench.sent.len(), CLIENTS as usize);
    // All leave.
    for n in 0..CLIENTS {
        hand_in(
            &mut bench,
            n,
            Packet::Connect(common::connect(&format!("c{n}"), true, 60)),
        );
    }
    bench.drain();
    assert_eq!(bench.gateway.metrics().clients, u64::from(CLIENTS));
    bench.settle();
    assert_eq!(bench.gateway.metrics().filters, 0);
}

#[test]
fn nothing_is_published_to_the_names_of_the_broker() {
    let config = GatewayConfig {
        predefined: vec![PredefinedTopic {
            id: TopicId(7),
            topic: "$SYS/{client_id}".into(),
        }],
        ..GatewayConfig::default()
    };
    let mut bench = Bench::up(config);
    bench.connect(A, "a");
    bench.requests.clear();
    let share = bench.register(A, "$share/g/a");
    for (topic, id) in [
        (TopicRef::Normal(share), share),
        (TopicRef::Predefined(TopicId(7)), TopicId(7)),
    ] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            bench.packet(A, publish(topic, qos, 3, b"x"));
            bench.expect(A, &[puback(id, 3, ReturnCode::NotSupported)]);
        }
    }
    assert_eq!(bench.requests, []);
    assert_eq!(bench.gateway.metrics().publish_refused_total, 6);
}

#[test]
fn a_client_id_brings_nothing_into_a_topic_that_a_broker_closes_the_connection_over() {
    let config = GatewayConfig {
        predefined: vec![PredefinedTopic {
            id: TopicId(7),
            topic: "d/{client_id}".into(),
        }],
        ..GatewayConfig::default()
    };
    let mut bench = Bench::up(config);
    bench.connect(A, "a\u{1}");
    bench.requests.clear();
    bench.packet(
        A,
        publish(TopicRef::Predefined(TopicId(7)), QoS::AtLeastOnce, 3, b"x"),
    );
    bench.expect(A, &[puback(TopicId(7), 3, ReturnCode::InvalidTopicId)]);
    assert_eq!(bench.requests, []);
}
