//! From a sensor to the broker.

use sn_codec::{
    MsgId, Packet, Puback, Publish, PublishQoS, QoS, Regack, Register, ReturnCode, ShortTopic, TopicFilter,
    TopicId, TopicRef,
};
use system_tests::{Broker, BrokerKind, Message, Setup, with_each_broker};

with_each_broker![
    registered_topic_reaches_the_broker_with_each_qos,
    qos_2_repeated_before_its_release_is_published_once,
    predefined_ids_are_global_or_per_client_and_filled_in,
    short_names_need_no_registration,
    qos_minus_one_needs_no_connection_and_gets_no_answer,
    retained_and_empty_messages_stay_what_they_are,
    any_octet_of_a_payload_survives_and_so_does_the_long_length,
    registering_again_gives_the_same_id_and_another_name_another,
    a_publish_under_an_unknown_id_is_refused_with_every_qos,
    order_of_one_client_is_kept,
    an_unknown_sender_is_told_to_connect,
    topic_ids_belong_to_one_client,
    topic_prefix_goes_in_front_of_everything_published,
    wildcards_cannot_be_registered,
    a_repeated_publish_that_was_acknowledged_is_acknowledged_again,
    subscribing_by_name_gives_an_id_to_publish_with,
];

const AT_MOST_ONCE: PublishQoS = PublishQoS::Level(QoS::AtMostOnce);
const EXACTLY_ONCE: PublishQoS = PublishQoS::Level(QoS::ExactlyOnce);

fn registered_topic_reaches_the_broker_with_each_qos(kind: BrokerKind) {
    for &protocol in kind.protocols() {
        let broker = Broker::start_new(kind);
        let gateway = Setup::beside(&broker)
            .toml(&format!("broker.protocol = {protocol}"))
            .start();
        let mut observer = broker.subscribe("demo/#");
        let client = gateway.connected_client("sensor-1");
        let topic = TopicRef::Normal(client.register("demo/temperature"));

        client.publish(topic, AT_MOST_ONCE, b"zero");
        observer.expect(Message::new("demo/temperature", "zero", 0));

        client.publish_acknowledged(topic, b"one");
        observer.expect(Message::new("demo/temperature", "one", 1));

        let msg_id = client.publish(topic, EXACTLY_ONCE, b"two");
        client.expect(Packet::Pubrec(msg_id));
        client.send(Packet::Pubrel(msg_id));
        client.expect(Packet::Pubcomp(msg_id));
        observer.expect(Message::new("demo/temperature", "two", 2));

        gateway.stop();
        observer.expect_nothing_more();
    }
}

/// Inside the gateway no version of MQTT is spoken.
#[test]
fn the_mqtt_version_asked_for_is_spoken() {
    for (protocol, version) in [(3, "p2"), (5, "p5")] {
        let broker = Broker::mosquitto();
        let gateway = Setup::beside(&broker)
            .toml(&format!("broker.protocol = {protocol}"))
            .start();
        broker.wait_for_log("the MQTT version asked for", |line| {
            line.contains(" as snipe ") && line.contains(&format!("({version},"))
        });
        gateway.stop();
    }
}

fn qos_2_repeated_before_its_release_is_published_once(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let mut observer = broker.subscribe("demo/#");
    let client = gateway.connected_client("sensor-1");
    let topic = TopicRef::Normal(client.register("demo/count"));

    let msg_id = client.publish(topic, EXACTLY_ONCE, b"once");
    client.expect(Packet::Pubrec(msg_id));
    client.send(Packet::Publish(Publish {
        dup: true,
        qos: EXACTLY_ONCE,
        retain: false,
        topic,
        msg_id,
        data: b"once",
    }));
    client.expect(Packet::Pubrec(msg_id));
    client.send(Packet::Pubrel(msg_id));
    client.expect(Packet::Pubcomp(msg_id));
    client.send(Packet::Pubrel(msg_id));
    client.expect(Packet::Pubcomp(msg_id));

    observer.expect(Message::new("demo/count", "once", 2));
    // What came twice would come before this.
    client.publish_acknowledged(topic, b"after");
    observer.expect(Message::new("demo/count", "after", 1));
    gateway.stop();
}

fn predefined_ids_are_global_or_per_client_and_filled_in(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker)
        .toml(
            r#"
            [[predefined]]
            id = 1
            topic = "plant/status"
            [[predefined]]
            id = 2
            topic = "plant/{client_id}/temperature"
            [[client]]
            match = "pump-*"
            predefined = [{ id = 2, topic = "pump/{client_id}/state" }]
            "#,
        )
        .start();
    let mut observer = broker.subscribe("#");
    let (sensor, pump) = (
        gateway.connected_client("sensor-1"),
        gateway.connected_client("pump-7"),
    );

    sensor.publish_acknowledged(TopicRef::Predefined(TopicId(1)), b"ok");
    observer.expect(Message::new("plant/status", "ok", 1));
    sensor.publish_acknowledged(TopicRef::Predefined(TopicId(2)), b"21.5");
    observer.expect(Message::new("plant/sensor-1/temperature", "21.5", 1));
    pump.publish_acknowledged(TopicRef::Predefined(TopicId(2)), b"on");
    observer.expect(Message::new("pump/pump-7/state", "on", 1));

    // A normal id of the same number is another thing (reading A34).
    let unknown = TopicRef::Normal(TopicId(2));
    let msg_id = pump.publish(unknown, PublishQoS::Level(QoS::AtLeastOnce), b"off");
    pump.expect_puback(unknown, msg_id, ReturnCode::InvalidTopicId);
    gateway.stop();
    observer.expect_nothing_more();
}

fn short_names_need_no_registration(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let mut observer = broker.subscribe("ab");
    let client = gateway.connected_client("sensor-1");

    client.publish_acknowledged(TopicRef::Short(ShortTopic(*b"ab")), b"short");

    observer.expect(Message::new("ab", "short", 1));
    gateway.stop();
}

fn qos_minus_one_needs_no_connection_and_gets_no_answer(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker)
        .toml("[[predefined]]\nid = 1\ntopic = 'plant/status'")
        .start();
    let mut observer = broker.subscribe("#");
    let stranger = gateway.client("nobody");

    stranger.publish(TopicRef::Predefined(TopicId(1)), PublishQoS::MinusOne, b"hello");

    observer.expect(Message::new("plant/status", "hello", 0));
    stranger.expect_silence();
    gateway.stop();
}

fn retained_and_empty_messages_stay_what_they_are(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let client = gateway.connected_client("sensor-1");
    let topic = TopicRef::Normal(client.register("demo/kept"));
    let publish = |data| {
        let msg_id = client.next_msg_id();
        let qos = PublishQoS::Level(QoS::AtLeastOnce);
        client.send(Packet::Publish(Publish {
            dup: false,
            qos,
            retain: true,
            topic,
            msg_id,
            data,
        }));
        client.expect_puback(topic, msg_id, ReturnCode::Accepted);
    };

    publish(b"kept");
    let mut late = broker.subscribe("demo/kept");
    late.expect(Message {
        retain: true,
        ..Message::new("demo/kept", "kept", 1)
    });

    // A retained message without payload deletes the kept one.
    publish(b"");
    late.expect(Message::new("demo/kept", "", 1));
    broker.subscribe("demo/kept").expect_silence();
    gateway.stop();
}

fn any_octet_of_a_payload_survives_and_so_does_the_long_length(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let mut observer = broker.subscribe("demo/octets");
    let client = gateway.connected_client("sensor-1");
    let topic = TopicRef::Normal(client.register("demo/octets"));
    let octets: Vec<u8> = (0..=255).cycle().take(1300).collect();

    // 248 octets are the longest with a one-octet length, 249 need three.
    for len in [0, 1, 247, 248, 249, 1300] {
        client.publish_acknowledged(topic, &octets[..len]);
        observer.expect(Message::new("demo/octets", &octets[..len], 1));
    }
    gateway.stop();
}

fn registering_again_gives_the_same_id_and_another_name_another(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let client = gateway.connected_client("sensor-1");

    let first = client.register("a/b");
    assert_eq!(client.register("a/b"), first);
    assert_ne!(client.register("a/c"), first);
    gateway.stop();
}

fn a_publish_under_an_unknown_id_is_refused_with_every_qos(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let client = gateway.connected_client("sensor-1");

    for topic in [
        TopicRef::Normal(TopicId(4242)),
        TopicRef::Predefined(TopicId(4242)),
    ] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let msg_id = client.publish(topic, PublishQoS::Level(qos), b"lost?");
            client.expect_puback(topic, msg_id, ReturnCode::InvalidTopicId);
        }
    }
    gateway.stop();
}

fn order_of_one_client_is_kept(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let mut observer = broker.subscribe("demo/order");
    let client = gateway.connected_client("sensor-1");
    let topic = TopicRef::Normal(client.register("demo/order"));

    // Up to 16 may be open at once (reading A52); more are sent as acknowledgements come back.
    for round in 0..20 {
        let open: Vec<MsgId> = (0..10)
            .map(|n| {
                client.publish(
                    topic,
                    PublishQoS::Level(QoS::AtLeastOnce),
                    format!("{}", round * 10 + n).as_bytes(),
                )
            })
            .collect();
        for msg_id in open {
            client.expect_puback(topic, msg_id, ReturnCode::Accepted);
        }
    }

    let received = observer.receive_many(200);
    let numbers: Vec<_> = received
        .iter()
        .map(|message| String::from_utf8_lossy(&message.payload).into_owned())
        .collect();
    assert_eq!(numbers, (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
    gateway.stop();
}

fn an_unknown_sender_is_told_to_connect(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let stranger = gateway.client("stranger");

    stranger.publish(
        TopicRef::Normal(TopicId(1025)),
        PublishQoS::Level(QoS::AtLeastOnce),
        b"x",
    );
    stranger.expect(Packet::Disconnect(sn_codec::Disconnect { duration: None }));
    gateway.stop();
}

fn topic_ids_belong_to_one_client(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let mut observer = broker.subscribe("#");
    let (one, two) = (gateway.connected_client("one"), gateway.connected_client("two"));

    // Two clients may get the same number for different names.
    let topic_of_one = TopicRef::Normal(one.register("of/one"));
    let topic_of_two = TopicRef::Normal(two.register("of/two"));
    one.publish_acknowledged(topic_of_one, b"1");
    two.publish_acknowledged(topic_of_two, b"2");

    observer.expect(Message::new("of/one", "1", 1));
    observer.expect(Message::new("of/two", "2", 1));
    gateway.stop();
}

fn topic_prefix_goes_in_front_of_everything_published(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker)
        .toml("broker.topic_prefix = 'site7/'")
        .start();
    let mut observer = broker.subscribe("#");
    let client = gateway.connected_client("sensor-1");

    let topic = TopicRef::Normal(client.register("demo/hello"));
    client.publish_acknowledged(topic, b"x");

    observer.expect(Message::new("site7/demo/hello", "x", 1));
    gateway.stop();
}

fn wildcards_cannot_be_registered(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let client = gateway.connected_client("sensor-1");

    // The codec refuses to write such a message with its types, so it is written by hand: REGISTER 0, 4, "a/+/b".
    client.send_bytes(b"\x0b\x0a\x00\x00\x00\x04a/+/b");
    client.expect(Packet::Regack(Regack {
        topic_id: TopicId::NONE,
        msg_id: MsgId(4),
        return_code: ReturnCode::NotSupported,
    }));
    gateway.stop();
}

fn a_repeated_publish_that_was_acknowledged_is_acknowledged_again(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let mut observer = broker.subscribe("demo/#");
    let client = gateway.connected_client("sensor-1");
    let topic_id = client.register("demo/again");
    let topic = TopicRef::Normal(topic_id);

    let msg_id = client.publish(topic, PublishQoS::Level(QoS::AtLeastOnce), b"once");
    client.expect_puback(topic, msg_id, ReturnCode::Accepted);
    // Its PUBACK got lost: the client repeats with DUP (§6.13).
    let qos = PublishQoS::Level(QoS::AtLeastOnce);
    client.send(Packet::Publish(Publish {
        dup: true,
        qos,
        retain: false,
        topic,
        msg_id,
        data: b"once",
    }));
    client.expect(Packet::Puback(Puback {
        topic_id,
        msg_id,
        return_code: ReturnCode::Accepted,
    }));

    observer.expect(Message::new("demo/again", "once", 1));
    client.publish_acknowledged(topic, b"next");
    observer.expect(Message::new("demo/again", "next", 1));
    gateway.stop();
}

fn subscribing_by_name_gives_an_id_to_publish_with(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let mut observer = broker.subscribe("demo/both");
    let client = gateway.connected_client("sensor-1");

    let topic_id = client.subscribe(TopicFilter::Name("demo/both"), QoS::AtMostOnce);
    let msg_id = client.next_msg_id();
    client.send(Packet::Register(Register {
        topic_id: TopicId::NONE,
        msg_id,
        topic_name: "demo/both",
    }));
    client.expect(Packet::Regack(Regack {
        topic_id,
        msg_id,
        return_code: ReturnCode::Accepted,
    }));
    client.publish(TopicRef::Normal(topic_id), AT_MOST_ONCE, b"echo");

    observer.expect(Message::new("demo/both", "echo", 0));
    let (_, datagram) = client.receive_publish();
    assert!(matches!(datagram.packet(), Packet::Publish(publish) if publish.data == b"echo"));
    gateway.stop();
}
