//! From the broker to a client.

use sn_codec::{
    Connack, MsgId, Packet, Publish, PublishQoS, QoS, ReturnCode, ShortTopic, Suback, Subscribe, TopicFilter,
    TopicId, TopicRef, Unsubscribe,
};
use system_tests::{Broker, BrokerKind, Client, Setup, with_each_broker};

with_each_broker![
    each_qos_is_delivered_at_the_lower_of_message_and_subscription,
    a_wildcard_match_is_registered_before_its_first_message,
    short_and_predefined_subscriptions_are_delivered_in_their_own_form,
    an_unknown_predefined_id_cannot_be_subscribed_to,
    retained_messages_reach_each_new_subscriber_after_its_suback,
    shared_subscriptions_are_counted,
    overlapping_subscriptions_give_one_message_at_the_higher_qos,
    overlapping_subscriptions_give_the_higher_qos_in_either_order,
    a_client_with_qos_0_takes_nothing_from_another_whose_filter_overlaps,
    max_qos_of_a_client_caps_what_is_granted,
    an_unanswered_message_is_repeated_with_dup,
    two_clients_of_the_gateway_reach_each_other,
    a_session_that_is_not_clean_keeps_its_subscriptions,
    a_clean_session_forgets_them,
];

/// Checks what the client receives next, whatever its message id, and finishes the exchange as its QoS demands.
#[track_caller]
fn receives(client: &Client, topic: TopicRef, qos: QoS, retain: bool, data: &[u8]) {
    let (_, datagram) = client.receive_publish();
    check(client, &datagram.0, topic, qos, retain, data);
}

#[track_caller]
fn check(client: &Client, datagram: &[u8], topic: TopicRef, qos: QoS, retain: bool, data: &[u8]) {
    let Ok(Packet::Publish(publish)) = Packet::decode(datagram) else {
        panic!("{datagram:02x?} is no PUBLISH")
    };
    let msg_id = publish.msg_id;
    assert_eq!(
        publish,
        Publish {
            dup: false,
            qos: PublishQoS::Level(qos),
            retain,
            topic,
            msg_id,
            data
        }
    );
    match qos {
        QoS::AtMostOnce => assert_eq!(msg_id, MsgId(0)),
        QoS::AtLeastOnce => client.acknowledge(&system_tests::Datagram(datagram.to_vec())),
        QoS::ExactlyOnce => {
            client.send(Packet::Pubrec(msg_id));
            client.expect(Packet::Pubrel(msg_id));
            client.send(Packet::Pubcomp(msg_id));
        }
    }
}

fn each_qos_is_delivered_at_the_lower_of_message_and_subscription(kind: BrokerKind) {
    for &protocol in kind.protocols() {
        let broker = Broker::start_new(kind);
        let gateway = Setup::beside(&broker)
            .toml(&format!("broker.protocol = {protocol}"))
            .start();
        let all = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
        for granted in all {
            let client = gateway.connected_client(&format!("client-{}", granted as u8));
            let name = format!("down/{}", granted as u8);
            let topic = TopicRef::Normal(client.subscribe(TopicFilter::Name(&name), granted));
            for sent in all {
                broker.publish(&name, "21.5", sent as u8);
                receives(&client, topic, sent.min(granted), false, b"21.5");
            }
        }
        gateway.stop();
    }
}

fn a_wildcard_match_is_registered_before_its_first_message(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let client = gateway.connected_client("display");
    assert_eq!(
        client.subscribe(TopicFilter::Name("room/+/temp"), QoS::AtLeastOnce),
        TopicId::NONE
    );

    let mut ids = vec![];
    for (room, registered) in [
        ("room/1/temp", true),
        ("room/2/temp", true),
        ("room/1/temp", false),
    ] {
        broker.publish(room, "21.5", 1);
        let (name, datagram) = client.receive_publish();
        assert_eq!(name.as_deref(), registered.then_some(room));
        let Packet::Publish(publish) = datagram.packet() else {
            unreachable!("receive_publish returns nothing else")
        };
        let TopicRef::Normal(id) = publish.topic else {
            panic!("a registered topic has a normal id: {publish:?}")
        };
        ids.push(id);
        client.acknowledge(&datagram);
    }
    assert_eq!(ids[0], ids[2]);
    assert_ne!(ids[0], ids[1]);
    gateway.stop();
}

fn short_and_predefined_subscriptions_are_delivered_in_their_own_form(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker)
        .toml("[[predefined]]\nid = 17\ntopic = 'plant/status'")
        .start();
    let client = gateway.connected_client("display");

    // SUBACK echoes what is not an id of its own (reading A53).
    let echoed = client.subscribe(TopicFilter::Short(ShortTopic(*b"ab")), QoS::AtMostOnce);
    assert_eq!(echoed, TopicId(u16::from_be_bytes(*b"ab")));
    assert_eq!(
        client.subscribe(TopicFilter::Predefined(TopicId(17)), QoS::AtMostOnce),
        TopicId(17)
    );

    broker.publish("ab", "short", 0);
    receives(
        &client,
        TopicRef::Short(ShortTopic(*b"ab")),
        QoS::AtMostOnce,
        false,
        b"short",
    );
    broker.publish("plant/status", "ok", 0);
    receives(
        &client,
        TopicRef::Predefined(TopicId(17)),
        QoS::AtMostOnce,
        false,
        b"ok",
    );
    gateway.stop();
}

fn an_unknown_predefined_id_cannot_be_subscribed_to(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let client = gateway.connected_client("display");

    let msg_id = client.next_msg_id();
    let topic = TopicFilter::Predefined(TopicId(99));
    client.send(Packet::Subscribe(Subscribe {
        dup: false,
        qos: QoS::AtLeastOnce,
        msg_id,
        topic,
    }));
    let datagram = client.receive();
    let Packet::Suback(Suback {
        topic_id,
        msg_id: answered,
        return_code,
        ..
    }) = datagram.packet()
    else {
        panic!("expected SUBACK, got {datagram:?}");
    };
    assert_eq!(
        (topic_id, answered, return_code),
        (TopicId(99), msg_id, ReturnCode::InvalidTopicId)
    );
    gateway.stop();
}

fn retained_messages_reach_each_new_subscriber_after_its_suback(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    broker.publish_with("state/door", "open", &["-r", "-q", "1"]);

    // The second shares the first one's subscription at the broker and gets the retained message all the same.
    for id in ["first", "second"] {
        let client = gateway.connected_client(id);
        let topic = TopicRef::Normal(client.subscribe(TopicFilter::Name("state/door"), QoS::AtLeastOnce));
        receives(&client, topic, QoS::AtLeastOnce, true, b"open");
        client.expect_silence();
    }
    gateway.stop();
}

fn shared_subscriptions_are_counted(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let (one, two) = (gateway.connected_client("one"), gateway.connected_client("two"));
    let topic_one = TopicRef::Normal(one.subscribe(TopicFilter::Name("shared/a"), QoS::AtMostOnce));
    let topic_two = TopicRef::Normal(two.subscribe(TopicFilter::Name("shared/a"), QoS::AtMostOnce));
    broker.publish("shared/a", "both", 0);
    receives(&one, topic_one, QoS::AtMostOnce, false, b"both");
    receives(&two, topic_two, QoS::AtMostOnce, false, b"both");

    let unsubscribe = |client: &Client| {
        let msg_id = client.next_msg_id();
        client.send(Packet::Unsubscribe(Unsubscribe {
            msg_id,
            topic: TopicFilter::Name("shared/a"),
        }));
        client.expect(Packet::Unsuback(msg_id));
    };
    unsubscribe(&one);
    broker.publish("shared/a", "one left", 0);
    receives(&two, topic_two, QoS::AtMostOnce, false, b"one left");
    one.expect_silence();

    unsubscribe(&two);
    broker.wait_until_nobody_subscribes_to("shared/a");
    two.expect_silence();
    gateway.stop();
}

fn overlapping_subscriptions_give_one_message_at_the_higher_qos(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let client = gateway.connected_client("display");
    let topic = TopicRef::Normal(client.subscribe(TopicFilter::Name("over/lap"), QoS::AtMostOnce));
    client.subscribe(TopicFilter::Name("over/#"), QoS::AtLeastOnce);

    broker.publish("over/lap", "once", 1);

    receives(&client, topic, QoS::AtLeastOnce, false, b"once");
    client.expect_silence();
    gateway.stop();
}

fn overlapping_subscriptions_give_the_higher_qos_in_either_order(kind: BrokerKind) {
    for &protocol in kind.protocols() {
        let broker = Broker::start_new(kind);
        let gateway = Setup::beside(&broker)
            .toml(&format!("broker.protocol = {protocol}"))
            .start();
        let filters = ["o/x/1", "o/x/+"].map(TopicFilter::Name);
        let lower = [QoS::AtMostOnce, QoS::AtLeastOnce];
        for (round, (qos, name_is_better)) in lower
            .iter()
            .flat_map(|qos| [(*qos, false), (*qos, true)])
            .enumerate()
        {
            let granted = match name_is_better {
                true => [QoS::ExactlyOnce, qos],
                false => [qos, QoS::ExactlyOnce],
            };
            for order in [[0, 1], [1, 0]] {
                let client = gateway.connected_client(&format!("client-{round}-{}", order[0]));
                let ids = order.map(|at| client.subscribe(filters[at], granted[at]));
                let topic = ids.into_iter().find(|id| *id != TopicId::NONE);
                let topic = TopicRef::Normal(topic.expect("a name has an id"));

                // The first message as well as the next, and each once.
                for payload in ["first", "second"] {
                    broker.publish("o/x/1", payload, 2);
                    receives(&client, topic, QoS::ExactlyOnce, false, payload.as_bytes());
                }
                client.expect_silence();
                client.disconnect();
            }
        }
        gateway.stop();
    }
}

fn a_client_with_qos_0_takes_nothing_from_another_whose_filter_overlaps(kind: BrokerKind) {
    for &protocol in kind.protocols() {
        let broker = Broker::start_new(kind);
        let gateway = Setup::beside(&broker)
            .toml(&format!("broker.protocol = {protocol}"))
            .start();
        for (round, [filter, other]) in [["o/1", "o/+"], ["o/+", "o/1"]].into_iter().enumerate() {
            let careless = gateway.connected_client(&format!("careless-{round}"));
            let careful = gateway.connected_client(&format!("careful-{round}"));
            let clients = [
                (&careless, filter, QoS::AtMostOnce),
                (&careful, other, QoS::AtLeastOnce),
            ];
            let ids = clients.map(|(client, filter, qos)| {
                client.subscribe(TopicFilter::Name(filter), qos);
                TopicRef::Normal(client.register("o/1"))
            });
            broker.publish("o/1", "for both", 1);
            for ((client, _, qos), id) in clients.into_iter().zip(ids) {
                receives(client, id, qos, false, b"for both");
                client.expect_silence();
                client.disconnect();
            }
        }
        gateway.stop();
    }
}

fn max_qos_of_a_client_caps_what_is_granted(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker)
        .toml("[[client]]\nmatch = 'display-*'\nmax_qos = 1")
        .start();
    let client = gateway.connected_client("display-1");

    let msg_id = client.next_msg_id();
    let topic = TopicFilter::Name("down/a");
    client.send(Packet::Subscribe(Subscribe {
        dup: false,
        qos: QoS::ExactlyOnce,
        msg_id,
        topic,
    }));
    let datagram = client.receive();
    let Packet::Suback(suback) = datagram.packet() else {
        panic!("expected SUBACK, got {datagram:?}")
    };
    assert_eq!(
        (suback.qos, suback.return_code),
        (QoS::AtLeastOnce, ReturnCode::Accepted)
    );
    gateway.stop();
}

fn an_unanswered_message_is_repeated_with_dup(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker)
        .toml("timers.retry = { first = '1s', max = '2s', count = 3 }")
        .start();
    let client = gateway.connected_client("display");
    client.subscribe(TopicFilter::Name("down/a"), QoS::AtLeastOnce);

    broker.publish("down/a", "again", 1);
    let first = client.receive();
    let (waited, second) = client.receive_timed();

    let (Packet::Publish(first), Packet::Publish(repeated)) = (first.packet(), second.packet()) else {
        panic!("expected two PUBLISHes, got {first:?} and {second:?}");
    };
    assert_eq!(repeated, Publish { dup: true, ..first });
    assert!(waited.as_millis() >= 900, "Tretry was over after {waited:?}");
    client.acknowledge(&second);
    client.expect_silence();
    gateway.stop();
}

fn two_clients_of_the_gateway_reach_each_other(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let (sensor, display) = (
        gateway.connected_client("sensor"),
        gateway.connected_client("display"),
    );
    let shown = TopicRef::Normal(display.subscribe(TopicFilter::Name("room/1/temp"), QoS::AtLeastOnce));

    let topic = TopicRef::Normal(sensor.register("room/1/temp"));
    sensor.publish_acknowledged(topic, b"19");

    receives(&display, shown, QoS::AtLeastOnce, false, b"19");
    gateway.stop();
}

fn a_session_that_is_not_clean_keeps_its_subscriptions(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let before = gateway.client("display");
    let connect = |client: &Client| {
        client.send(client.connect_packet(false, 60));
        client.expect(Packet::Connack(Connack {
            return_code: ReturnCode::Accepted,
        }));
    };
    connect(&before);
    let id = before.subscribe(TopicFilter::Name("down/kept"), QoS::AtLeastOnce);
    before.disconnect();

    // From another port: a session belongs to the client id, not to the address.
    let after = gateway.client("display");
    connect(&after);
    broker.publish("down/kept", "still", 1);
    let (name, datagram) = after.receive_publish();

    // The id is told again, since the client may have forgotten it (reading A39).
    assert_eq!(name.as_deref(), Some("down/kept"));
    check(
        &after,
        &datagram.0,
        TopicRef::Normal(id),
        QoS::AtLeastOnce,
        false,
        b"still",
    );
    gateway.stop();
}

fn a_clean_session_forgets_them(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let client = gateway.connected_client("display");
    client.subscribe(TopicFilter::Name("down/forgotten"), QoS::AtLeastOnce);
    client.disconnect();
    broker.wait_until_nobody_subscribes_to("down/forgotten");

    client.connect();
    broker.publish("down/forgotten", "who?", 1);
    client.expect_silence();
    gateway.stop();
}
