//! Sleeping clients (§6.14): what is kept for them, and what they hear when they wake.

use std::{thread, time::Duration};

use sn_codec::{
    Connack, Connect, Packet, PublishQoS, QoS, Register, ReturnCode, TopicFilter, TopicRef, WillMsg,
    WillTopic,
};
use system_tests::{Broker, BrokerKind, Message, Setup, allow_many_sockets, with_each_broker};

with_each_broker![
    a_sleeper_gets_messages_of_every_qos_in_order_and_then_pingresp,
    a_sleeper_is_told_the_names_that_its_wildcard_matches,
    a_sleeper_returns_by_connect_and_gets_what_waited,
    a_sleeper_is_found_under_a_new_address,
    a_sleeper_publishes_without_returning,
    a_full_buffer_keeps_what_the_configuration_says,
    a_sleeper_that_is_healthy_has_no_will_published_and_one_that_is_lost_has,
    five_hundred_sleepers_wake_at_once_and_each_gets_its_messages_in_order,
];

const CONNACK: Packet<'_> = Packet::Connack(Connack {
    return_code: ReturnCode::Accepted,
});

fn a_sleeper_gets_messages_of_every_qos_in_order_and_then_pingresp(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let sleeper = gateway.connected_client("sleeper");
    sleeper.subscribe(TopicFilter::Name("cmd/#"), QoS::ExactlyOnce);
    sleeper.sleep(60);

    // Nothing waits: PINGRESP at once.
    sleeper.wake();
    sleeper.expect(Packet::Pingresp);
    for (number, qos) in [0, 1, 2, 1, 0, 2].into_iter().enumerate() {
        broker.publish("cmd/set", &number.to_string(), qos);
    }
    gateway.wait_for_buffered(6);
    sleeper.expect_silence();
    sleeper.wake();

    assert_eq!(
        sleeper.receive_until_pingresp(),
        [b"0", b"1", b"2", b"3", b"4", b"5"]
    );
    gateway.wait_for_buffered(0);
    sleeper.expect_silence();
    gateway.stop();
}

fn a_sleeper_is_told_the_names_that_its_wildcard_matches(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let sleeper = gateway.connected_client("sleeper");
    sleeper.subscribe(TopicFilter::Name("cmd/+"), QoS::AtLeastOnce);
    sleeper.sleep(60);
    broker.publish("cmd/on", "1", 1);
    broker.publish("cmd/off", "2", 1);
    gateway.wait_for_buffered(2);

    sleeper.wake();

    for (expected, data) in [("cmd/on", b"1"), ("cmd/off", b"2")] {
        let (name, datagram) = sleeper.receive_publish();
        assert_eq!(name.as_deref(), Some(expected));
        let Packet::Publish(publish) = datagram.packet() else {
            panic!("checked by receive_publish");
        };
        assert_eq!(publish.data, data);
        sleeper.acknowledge(&datagram);
    }
    sleeper.expect(Packet::Pingresp);

    // What it was told it knows at the next wake-up.
    broker.publish("cmd/on", "3", 1);
    gateway.wait_for_buffered(1);
    sleeper.wake();
    assert_eq!(sleeper.receive_publish().0, None);
    gateway.stop();
}

fn a_sleeper_returns_by_connect_and_gets_what_waited(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let sleeper = gateway.connected_client("sleeper");
    sleeper.subscribe(TopicFilter::Name("cmd"), QoS::AtLeastOnce);
    sleeper.sleep(60);
    broker.publish("cmd", "while asleep", 1);
    gateway.wait_for_buffered(1);

    // The same CONNECT as ever, with CleanSession: it means a return (reading A20).
    sleeper.connect();

    let (_, datagram) = sleeper.receive_publish();
    sleeper.acknowledge(&datagram);
    broker.publish("cmd", "active again", 1);
    let (_, datagram) = sleeper.receive_publish();
    let Packet::Publish(publish) = datagram.packet() else {
        panic!("checked by receive_publish");
    };
    assert_eq!(publish.data, b"active again");
    sleeper.acknowledge(&datagram);
    sleeper.ping();
    gateway.stop();
}

fn a_sleeper_is_found_under_a_new_address(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let mut sleeper = gateway.connected_client("sleeper");
    sleeper.subscribe(TopicFilter::Name("cmd"), QoS::AtLeastOnce);
    sleeper.sleep(60);
    for number in 0..3 {
        let payload = number.to_string();
        broker.publish("cmd", &payload, 1);
        gateway.wait_for_buffered(1);
        sleeper.rebind();
        sleeper.wake();
        assert_eq!(sleeper.receive_until_pingresp(), [payload.into_bytes()]);
    }
    assert_eq!(gateway.metric("snipe_takeovers_total"), 3);
    assert_eq!(gateway.metric("snipe_clients"), 1);
    gateway.stop();
}

fn a_sleeper_publishes_without_returning(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let mut observer = broker.subscribe("value");
    let sleeper = gateway.connected_client("sleeper");
    sleeper.subscribe(TopicFilter::Name("cmd"), QoS::AtLeastOnce);
    let topic = TopicRef::Normal(sleeper.register("value"));
    sleeper.sleep(60);
    broker.publish("cmd", "later", 1);
    gateway.wait_for_buffered(1);

    // It gets the answer and nothing else (reading A49).
    sleeper.publish_acknowledged(topic, b"21.5");
    sleeper.expect_silence();

    observer.expect(Message::new("value", "21.5", 1));
    sleeper.wake();
    assert_eq!(sleeper.receive_until_pingresp(), [b"later"]);
    gateway.stop();
}

fn a_full_buffer_keeps_what_the_configuration_says(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker)
        .toml(
            r#"
            [sleep]
            max_messages = 3
            [[client]]
            match = "newest"
            sleep = { when_full = "drop-oldest" }
            [[client]]
            match = "latest"
            sleep = { qos0 = "latest-per-topic" }
            "#,
        )
        .start();
    let sleepers = ["oldest", "newest", "latest"].map(|id| {
        let sleeper = gateway.connected_client(id);
        sleeper.subscribe(TopicFilter::Name("cmd/1"), QoS::AtLeastOnce);
        sleeper.subscribe(TopicFilter::Name("cmd/0"), QoS::AtLeastOnce);
        sleeper.sleep(60);
        sleeper
    });

    for number in 0..4 {
        broker.publish("cmd/1", &format!("one {number}"), 1);
    }
    gateway.wait_for_buffered(9);
    let got = sleepers.each_ref().map(|sleeper| {
        sleeper.wake();
        let payloads = sleeper.receive_until_pingresp();
        let texts = payloads
            .into_iter()
            .map(|payload| String::from_utf8(payload).expect("we sent text"));
        texts.collect::<Vec<_>>()
    });
    let first = ["one 0", "one 1", "one 2"];
    assert_eq!(got, [first, ["one 1", "one 2", "one 3"], first]);

    broker.publish("cmd/0", "zero 0", 0);
    broker.publish("cmd/0", "zero 1", 0);
    gateway.wait_for_buffered(5);
    sleepers[2].wake();
    assert_eq!(sleepers[2].receive_until_pingresp(), [b"zero 1"]);
    gateway.stop();
}

fn a_sleeper_that_is_healthy_has_no_will_published_and_one_that_is_lost_has(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let mut observer = broker.subscribe("state");
    let sleeper = gateway.client("sleeper");
    sleeper.send(Packet::Connect(Connect {
        will: true,
        clean_session: true,
        duration: 1,
        client_id: "sleeper",
    }));
    sleeper.expect(Packet::WillTopicReq);
    sleeper.send(Packet::WillTopic(Some(WillTopic {
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: "state",
    })));
    sleeper.expect(Packet::WillMsgReq);
    sleeper.send(Packet::WillMsg(WillMsg { message: b"gone" }));
    sleeper.expect(CONNACK);

    // Longer than its keep-alive, within the sleep: 3 s and half as much again (reading A72).
    for _ in 0..2 {
        sleeper.sleep(3);
        assert_eq!(sleeper.receive_within(Duration::from_millis(2500)), None);
        sleeper.wake();
        sleeper.expect(Packet::Pingresp);
    }
    observer.expect_nothing_more();

    observer.expect(Message::new("state", "gone", 1));
    gateway.stop();
}

fn five_hundred_sleepers_wake_at_once_and_each_gets_its_messages_in_order(kind: BrokerKind) {
    const SLEEPERS: usize = 500;
    allow_many_sockets();
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let sleepers: Vec<_> = (0..SLEEPERS)
        .map(|n| {
            let sleeper = gateway.connected_client(&format!("sleeper-{n}"));
            sleeper.subscribe(TopicFilter::Name("notice/+"), QoS::ExactlyOnce);
            sleeper.sleep(600);
            sleeper
        })
        .collect();
    let sent = [("a", 1), ("b", 2), ("a", 0), ("c", 1)];
    for (number, (topic, qos)) in sent.into_iter().enumerate() {
        broker.publish(&format!("notice/{topic}"), &number.to_string(), qos);
    }
    gateway.wait_for_buffered((SLEEPERS * sent.len()) as u64);
    for sleeper in &sleepers {
        assert_eq!(
            sleeper.receive_within(Duration::from_micros(1)),
            None,
            "all sleep"
        );
    }

    let awake: Vec<_> = sleepers
        .into_iter()
        .map(|sleeper| {
            thread::spawn(move || {
                sleeper.wake();
                (sleeper.receive_until_pingresp(), sleeper)
            })
        })
        .collect();

    // The sockets stay open until the gateway is gone: nothing meant for them must reach another test's client.
    let mut asleep_again = vec![];
    for thread in awake {
        let (payloads, sleeper) = thread.join().expect("a sleeper");
        assert_eq!(payloads, [b"0", b"1", b"2", b"3"]);
        asleep_again.push(sleeper);
    }
    gateway.wait_for_buffered(0);
    assert_eq!(gateway.metric("snipe_clients_asleep"), SLEEPERS as u64);
    gateway.stop();
}

/// What belongs to no broker: the wake-up of a client that is not there any more.
#[test]
fn a_client_that_nobody_knows_is_told_so_when_it_wakes() {
    let broker = Broker::mosquitto();
    let gateway = Setup::beside(&broker).start();
    let sleeper = gateway.client("forgotten");

    sleeper.wake();

    // A PINGRESP would let it sleep on for days (reading A16).
    sleeper.expect(Packet::Disconnect(sn_codec::Disconnect { duration: None }));
    gateway.stop();
}

/// The exchange is between client and gateway: one broker is enough.
#[test]
fn a_sleeper_that_does_not_answer_keeps_its_message_for_the_next_wake_up() {
    let broker = Broker::mosquitto();
    let gateway = Setup::beside(&broker)
        .toml("timers.retry = { first = '100ms', max = '100ms', count = 2 }")
        .start();
    let sleeper = gateway.connected_client("sleeper");
    sleeper.subscribe(TopicFilter::Name("cmd"), QoS::AtLeastOnce);
    let topic = TopicRef::Normal(sleeper.register("cmd"));
    sleeper.sleep(60);
    broker.publish("cmd", "on", 1);
    gateway.wait_for_buffered(1);

    sleeper.wake();
    for attempt in 0..3 {
        let (_, datagram) = sleeper.receive_publish();
        let Packet::Publish(publish) = datagram.packet() else {
            panic!("checked by receive_publish");
        };
        assert_eq!((publish.dup, publish.topic), (attempt > 0, topic));
        assert_eq!(publish.qos, PublishQoS::Level(QoS::AtLeastOnce));
    }
    // No PINGRESP, and nothing while it sleeps.
    sleeper.expect_silence();

    sleeper.wake();
    assert_eq!(sleeper.receive_until_pingresp(), [b"on"]);
    gateway.stop();
}

/// The names are the gateway's business: one broker is enough.
#[test]
fn a_sleeper_that_moves_to_another_id_does_not_get_the_first_ones_messages() {
    let broker = Broker::mosquitto();
    let gateway = Setup::beside(&broker).start();
    let sleeper = gateway.connected_client("first");
    sleeper.subscribe(TopicFilter::Name("cmd"), QoS::AtLeastOnce);
    sleeper.sleep(60);
    broker.publish("cmd", "for the first", 1);
    gateway.wait_for_buffered(1);

    // The same address, another device (reading A12): a NAT gave it to someone else.
    sleeper.send(Packet::Connect(Connect {
        will: false,
        clean_session: true,
        duration: 60,
        client_id: "second",
    }));
    sleeper.expect(CONNACK);
    sleeper.expect_silence();
    sleeper.send(Packet::Register(Register {
        topic_id: sn_codec::TopicId::NONE,
        msg_id: sn_codec::MsgId(1),
        topic_name: "cmd",
    }));
    assert!(matches!(sleeper.receive().packet(), Packet::Regack(_)));

    let first = gateway.client("first");
    first.wake();
    assert_eq!(first.receive_until_pingresp(), [b"for the first"]);
    gateway.stop();
}
