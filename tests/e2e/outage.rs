//! The broker is down at the start, dies later, or keeps its answers to itself.
//!
//! All beside mosquitto: the broker inside the gateway is never away from it.

use sn_codec::{Packet, PublishQoS, QoS, ReturnCode, TopicFilter, TopicRef};
use system_tests::{Broker, Client, Message, PATIENCE, Relay, SILENCE, Setup, Signal, poll_until};

const AT_LEAST_ONCE: PublishQoS = PublishQoS::Level(QoS::AtLeastOnce);
const EXACTLY_ONCE: PublishQoS = PublishQoS::Level(QoS::ExactlyOnce);

/// A subscription that waits at the broker while nobody runs, not even the broker.
const OBSERVER: &str = "observer";

/// A broker that is down and will remember what its observer subscribed to.
fn broker_with_kept_subscription(filter: &str) -> Broker {
    let mut broker = Broker::mosquitto();
    broker.keep_subscription(OBSERVER, filter);
    broker.stop();
    broker
}

/// What waits does so in memory.
fn in_memory(broker: &Broker) -> Setup {
    Setup::beside(broker).args(&["--ephemeral"])
}

#[test]
fn down_at_the_start_sensors_work_and_what_waited_is_delivered_then_acknowledged() {
    let mut broker = broker_with_kept_subscription("demo/#");
    let gateway = in_memory(&broker).start();

    let client = gateway.connected_client("sensor-1");
    let topic = TopicRef::Normal(client.register("demo/waiting"));
    client.ping();
    let first = client.publish(topic, AT_LEAST_ONCE, b"first");
    let second = client.publish(topic, EXACTLY_ONCE, b"second");
    client.expect_silence();
    client.ping();

    broker.start();
    client.expect_puback(topic, first, ReturnCode::Accepted);
    client.expect(Packet::Pubrec(second));
    client.send(Packet::Pubrel(second));
    client.expect(Packet::Pubcomp(second));

    let mut observer = broker.subscribe_as(OBSERVER, "demo/#", &["-c", "-q", "1"]);
    observer.expect(Message::new("demo/waiting", "first", 1));
    observer.expect(Message::new("demo/waiting", "second", 1));
    observer.expect_silence();
    gateway.stop();
}

#[test]
fn only_a_full_queue_answers_congestion() {
    let mut broker = broker_with_kept_subscription("demo/#");
    let gateway = in_memory(&broker).toml("limits.queue_messages = 2").start();
    let client = gateway.connected_client("sensor-1");
    let topic = TopicRef::Normal(client.register("demo/full"));

    let waiting = [b"first ", b"second"].map(|data| client.publish(topic, AT_LEAST_ONCE, data));
    client.expect_silence();
    for qos in [AT_LEAST_ONCE, EXACTLY_ONCE] {
        let refused = client.publish(topic, qos, b"refused");
        client.expect_puback(topic, refused, ReturnCode::Congestion);
    }
    client.ping();

    broker.start();
    for msg_id in waiting {
        client.expect_puback(topic, msg_id, ReturnCode::Accepted);
    }
    // There is room again.
    client.publish_acknowledged(topic, b"third");

    let mut observer = broker.subscribe_as(OBSERVER, "demo/#", &["-c", "-q", "1"]);
    for data in ["first ", "second", "third"] {
        observer.expect(Message::new("demo/full", data, 1));
    }
    observer.expect_silence();
    gateway.stop();
}

#[test]
fn a_queue_bound_in_octets_holds_too() {
    let broker = Broker::stopped();
    let gateway = in_memory(&broker).toml("limits.queue_bytes = '2 KiB'").start();
    let client = gateway.connected_client("sensor-1");
    let topic = TopicRef::Normal(client.register("demo/large"));

    client.publish(topic, AT_LEAST_ONCE, &[b'x'; 1200]);
    client.expect_silence();
    let refused = client.publish(topic, AT_LEAST_ONCE, &[b'x'; 1200]);
    client.expect_puback(topic, refused, ReturnCode::Congestion);
    gateway.stop();
}

#[test]
fn refuse_answers_congestion_at_once() {
    let broker = Broker::stopped();
    let gateway = Setup::beside(&broker).toml("broker.when_down = 'refuse'").start();
    let client = gateway.connected_client("sensor-1");
    let topic = TopicRef::Normal(client.register("demo/refused"));

    let refused = client.publish(topic, AT_LEAST_ONCE, b"now or never");
    client.expect_puback(topic, refused, ReturnCode::Congestion);
    gateway.stop();
}

#[test]
fn no_acknowledgement_before_the_brokers() {
    let broker = Broker::mosquitto();
    let relay = Relay::start(broker.port());
    let mut observer = broker.subscribe("demo/#");
    let gateway = Setup::new(&format!("mqtt://127.0.0.1:{}", relay.port())).start();
    let client = gateway.connected_client("sensor-1");
    let topic = TopicRef::Normal(client.register("demo/order"));
    client.publish_acknowledged(topic, b"warm");
    observer.expect(Message::new("demo/order", "warm", 1));
    // QoS 2 has a connection of its own, made when it is needed.
    let msg_id = client.publish(topic, EXACTLY_ONCE, b"warm");
    client.expect(Packet::Pubrec(msg_id));
    client.send(Packet::Pubrel(msg_id));
    client.expect(Packet::Pubcomp(msg_id));
    observer.expect(Message::new("demo/order", "warm", 2));

    relay.hold_answers();
    let msg_id = client.publish(topic, AT_LEAST_ONCE, b"one");
    // The broker has it, the gateway does not know that yet, the sensor is not told.
    observer.expect(Message::new("demo/order", "one", 1));
    client.expect_silence();
    relay.release_answers();
    client.expect_puback(topic, msg_id, ReturnCode::Accepted);

    relay.hold_answers();
    let msg_id = client.publish(topic, EXACTLY_ONCE, b"two");
    client.expect_silence();
    relay.release_answers();
    client.expect(Packet::Pubrec(msg_id));
    observer.expect(Message::new("demo/order", "two", 2));
    gateway.stop();
}

#[test]
fn a_broker_that_hangs_stops_nothing_but_its_own_acknowledgements() {
    let broker = Broker::mosquitto();
    let gateway = Setup::beside(&broker).start();
    let client = gateway.connected_client("sensor-1");
    let topic = TopicRef::Normal(client.register("demo/hang"));

    broker.log().signal(Signal::STOP);
    let msg_id = client.publish(topic, AT_LEAST_ONCE, b"waits");
    client.expect_silence();
    gateway.connected_client("sensor-2").register("demo/other");
    client.ping();

    broker.log().signal(Signal::CONT);
    client.expect_puback(topic, msg_id, ReturnCode::Accepted);
    gateway.stop();
}

#[test]
fn a_connection_that_breaks_with_messages_in_flight_loses_none_of_them() {
    for protocol in [3, 5] {
        let broker = Broker::mosquitto();
        let relay = Relay::start(broker.port());
        let mut observer = broker.subscribe("demo/#");
        let gateway = Setup::new(&format!("mqtt://127.0.0.1:{}", relay.port()))
            .toml(&format!("broker.protocol = {protocol}"))
            .start();
        let client = gateway.connected_client("sensor-1");
        let topic = TopicRef::Normal(client.register("demo/cut"));
        client.publish_acknowledged(topic, b"warm");
        observer.expect(Message::new("demo/cut", "warm", 1));

        relay.hold_answers();
        let open: Vec<_> = (0..10)
            .map(|n| client.publish(topic, AT_LEAST_ONCE, &[b'0' + n]))
            .collect();
        // All are at the broker, none is acknowledged; now everything in between is lost.
        observer.receive_many(10);
        relay.cut();
        relay.release_answers();

        for msg_id in open {
            client.expect_puback(topic, msg_id, ReturnCode::Accepted);
        }
        client.publish_acknowledged(topic, b"after");
        let mut seen: Vec<_> = (0..)
            .map(|_| observer.receive())
            .take_while(|m| m.payload != b"after")
            .collect();
        // QoS 1: what is sent again may arrive again, and only that.
        seen.retain(|message| !(message.payload.len() == 1 && message.payload[0].is_ascii_digit()));
        assert_eq!(seen, []);
        gateway.stop();
    }
}

#[test]
fn a_broker_that_restarts_with_its_sessions_finds_everything_as_it_was() {
    outage_later(Broker::stop);
}

#[test]
fn a_broker_that_forgot_everything_gets_subscriptions_and_messages_again() {
    outage_later(Broker::kill);
}

/// The broker ends by `end` and comes back: sensors notice nothing.
fn outage_later(end: fn(&mut Broker)) {
    for protocol in [3, 5] {
        let mut broker = Broker::mosquitto();
        let gateway = Setup::beside(&broker)
            .toml(&format!("broker.protocol = {protocol}"))
            .start();
        let client = gateway.connected_client("sensor-1");
        let topic = TopicRef::Normal(client.register("up/state"));
        let shown = TopicRef::Normal(client.subscribe(TopicFilter::Name("down/command"), QoS::AtLeastOnce));
        client.publish_acknowledged(topic, b"before");
        delivers(&broker, &client, shown, "before");

        end(&mut broker);
        client.ping();
        gateway.connected_client("sensor-2").register("up/other");
        // It is safe on disk.
        client.publish_acknowledged(topic, b"meanwhile");

        broker.start();
        broker.wait_for_log("what waited", |line| {
            line.contains("Received PUBLISH from snipe") && line.contains("up/state")
        });
        let mut observer = broker.subscribe("up/#");
        client.publish_acknowledged(topic, b"after");
        observer.expect(Message::new("up/state", "after", 1));
        delivers(&broker, &client, shown, "after");
        gateway.stop();
    }
}

/// Commands reach the client once its subscription stands at the broker.
#[track_caller]
fn delivers(broker: &Broker, client: &Client, topic: TopicRef, command: &str) {
    let datagram = poll_until("the subscription to stand again", PATIENCE, || {
        broker.publish("down/command", command, 1);
        client.receive_within(SILENCE)
    });
    let Packet::Publish(publish) = datagram.packet() else {
        panic!("expected PUBLISH, got {datagram:?}")
    };
    assert_eq!((publish.topic, publish.data), (topic, command.as_bytes()));
    client.acknowledge(&datagram);
    // A repetition of ours that came through late.
    while let Some(datagram) = client.receive_within(SILENCE) {
        client.acknowledge(&datagram);
    }
}

#[test]
fn subscriptions_made_while_the_broker_is_away_are_carried_out_when_it_returns() {
    let mut broker = Broker::stopped();
    let gateway = Setup::beside(&broker).start();
    let client = gateway.connected_client("display");
    let topic = TopicRef::Normal(client.subscribe(TopicFilter::Name("down/command"), QoS::AtLeastOnce));

    broker.start();
    delivers(&broker, &client, topic, "open");
    gateway.stop();
}

#[test]
fn what_waited_reaches_the_subscribers_of_the_same_gateway() {
    let mut broker = Broker::stopped();
    let gateway = Setup::beside(&broker).start();
    let display = gateway.connected_client("display");
    let shown = TopicRef::Normal(display.subscribe(TopicFilter::Name("away/1"), QoS::AtLeastOnce));
    let sensor = gateway.connected_client("sensor-1");
    let topic = TopicRef::Normal(sensor.register("away/1"));
    sensor.publish_acknowledged(topic, b"waited");

    broker.start();
    let datagram = display.receive();
    let Packet::Publish(publish) = datagram.packet() else {
        panic!("expected PUBLISH, got {datagram:?}")
    };
    assert_eq!((publish.topic, publish.data), (shown, &b"waited"[..]));
    display.acknowledge(&datagram);
    gateway.stop();
}
