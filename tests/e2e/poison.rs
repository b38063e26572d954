//! What a mosquitto closes the connection of all clients over.

use core::time::Duration;

use sn_codec::{MsgId, Packet, PublishQoS, QoS, ReturnCode, Suback, TopicFilter, TopicId, TopicRef};
use system_tests::{Broker, Message, Setup};

const AT_LEAST_ONCE: PublishQoS = PublishQoS::Level(QoS::AtLeastOnce);

/// Until the culprit is found out: the waits between attempts to connect, and a second of quiet for each trial.
const FOUND_WITHIN: Duration = Duration::from_secs(60);

/// One client's message is too long for the broker, which closes the connection over it; those of another arrive.
fn too_long_for_the_broker(protocol: u8, line: &str) {
    let mut broker = Broker::stopped().with_line(line);
    broker.start();
    let mut observer = broker.subscribe("demo/#");
    let mut gateway = Setup::beside(&broker)
        .toml(&format!("broker.protocol = {protocol}"))
        .start();
    gateway.wait_for_broker();
    let (culprit, other) = (
        gateway.connected_client("culprit"),
        gateway.connected_client("other"),
    );
    let long = TopicRef::Normal(culprit.register("demo/long"));
    let short = TopicRef::Normal(other.register("demo/short"));

    culprit.publish(long, AT_LEAST_ONCE, &[b'x'; 400]);
    other.publish(short, AT_LEAST_ONCE, b"let me through");
    let what = "the culprit to be named";
    gateway.process().wait_for_line(what, 0, FOUND_WITHIN, |line| {
        line.contains("demo/long") && line.contains("the broker closes the connection over it")
    });
    observer.expect(Message::new("demo/short", "let me through", 1));

    // It goes on as if nothing had been.
    other.publish(short, AT_LEAST_ONCE, b"and me");
    observer.expect(Message::new("demo/short", "and me", 1));
    gateway.stop();
}

#[test]
fn a_packet_too_long_for_a_broker_of_mqtt_3_does_not_stop_the_others() {
    too_long_for_the_broker(3, "max_packet_size 300");
}

#[test]
fn a_message_too_long_for_a_broker_of_mqtt_5_does_not_stop_the_others() {
    too_long_for_the_broker(5, "message_size_limit 300");
}

#[test]
fn names_that_a_broker_closes_over_do_not_reach_it() {
    let broker = Broker::mosquitto();
    let mut observer = broker.subscribe("demo/#");
    let gateway = Setup::beside(&broker).start();
    gateway.wait_for_broker();
    let (culprit, other) = (
        gateway.connected_client("culprit"),
        gateway.connected_client("other"),
    );
    for (msg_id, filter) in (1..).zip(["demo/\u{1}", "demo/\u{85}", "demo/\u{FFFE}", "$share"]) {
        let subscribe = sn_codec::Subscribe {
            dup: false,
            qos: QoS::AtLeastOnce,
            msg_id: MsgId(msg_id),
            topic: TopicFilter::Name(filter),
        };
        culprit.send(Packet::Subscribe(subscribe));
        culprit.expect(Packet::Suback(Suback {
            qos: QoS::AtMostOnce,
            topic_id: TopicId::NONE,
            msg_id: MsgId(msg_id),
            return_code: ReturnCode::NotSupported,
        }));
    }
    let system = TopicRef::Normal(culprit.register("$SYS/x"));
    let msg_id = culprit.publish(system, AT_LEAST_ONCE, b"x");
    culprit.expect_puback(system, msg_id, ReturnCode::NotSupported);

    let topic = TopicRef::Normal(other.register("demo/short"));
    other.publish_acknowledged(topic, b"through");
    observer.expect(Message::new("demo/short", "through", 1));
    assert_eq!(gateway.metric("snipe_broker_down_total"), 0);
    gateway.stop();
}
