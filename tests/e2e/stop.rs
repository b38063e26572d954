//! The end: quick, orderly, and no client is left to guess.

use std::time::{Duration, Instant};

use sn_codec::{Disconnect, Packet, PublishQoS, QoS, TopicRef};
use system_tests::{Broker, BrokerKind, Gateway, Setup, Signal, check_with_tshark, with_each_broker};

with_each_broker![
    sigterm_tells_connected_clients_and_exits_with_0,
    ctrl_c_does_the_same,
    a_clean_end_frees_the_port_for_the_next_start,
];

const A_SECOND: Duration = Duration::from_secs(1);

/// Sends the signal, checks that it ends within a second, and returns the exit code.
#[track_caller]
fn stops(mut gateway: Gateway, signal: Signal) -> Option<i32> {
    let since = Instant::now();
    gateway.process().signal(signal);
    let exit = gateway.process().wait_for_exit(Duration::from_secs(5));
    let took = since.elapsed();
    assert!(took < A_SECOND, "it took {took:?}");
    check_with_tshark(gateway.capture());
    exit.code()
}

/// One that will not know its clients after a restart, so that it has to tell them (reading A78).
fn forgetful(broker: &Broker) -> Setup {
    Setup::beside(broker).args(&["--ephemeral"])
}

fn sigterm_tells_connected_clients_and_exits_with_0(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = forgetful(&broker).start();
    let clients: Vec<_> = (0..50)
        .map(|n| gateway.connected_client(&format!("sensor-{n}")))
        .collect();
    let gone = gateway.connected_client("gone");
    gone.disconnect();
    let capture = gateway.capture().clone();

    assert_eq!(stops(gateway, Signal::TERM), Some(0));

    for client in &clients {
        client.expect(Packet::Disconnect(Disconnect { duration: None }));
    }
    gone.expect_silence();
    check_with_tshark(&capture);
}

/// MQTT DISCONNECT, not a broken connection: the broker publishes no will. Only mosquitto outlives the gateway and can
/// tell.
#[test]
fn the_broker_is_told_too() {
    let broker = Broker::mosquitto();
    let gateway = Setup::beside(&broker).start();
    assert_eq!(stops(gateway, Signal::TERM), Some(0));
    broker.wait_for_log("an orderly end", |line| {
        line.contains("Received DISCONNECT from snipe")
    });
}

fn ctrl_c_does_the_same(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = forgetful(&broker).start();
    let client = gateway.connected_client("sensor-1");

    let code = stops(gateway, Signal::INT);

    assert!(matches!(code, Some(0 | 130)), "exit code {code:?}");
    client.expect(Packet::Disconnect(Disconnect { duration: None }));
}

/// The broker inside the gateway is never away.
#[test]
fn neither_a_broker_that_is_away_nor_waiting_messages_delay_the_end() {
    let broker = Broker::stopped();
    let gateway = forgetful(&broker).start();
    let client = gateway.connected_client("sensor-1");
    let topic = TopicRef::Normal(client.register("demo/waiting"));
    client.publish(topic, PublishQoS::Level(QoS::AtLeastOnce), b"waits for ever");
    client.ping();

    assert_eq!(stops(gateway, Signal::TERM), Some(0));

    client.expect(Packet::Disconnect(Disconnect { duration: None }));
}

/// With everything on disk clients need not be told.
#[test]
fn neither_a_spool_nor_a_broker_that_is_away_delays_the_end() {
    let broker = Broker::stopped();
    let gateway = Setup::beside(&broker).start();
    let client = gateway.connected_client("sensor-1");
    let topic = TopicRef::Normal(client.register("demo/spooled"));
    for _ in 0..100 {
        client.publish_acknowledged(topic, b"waits for ever");
    }

    assert_eq!(stops(gateway, Signal::TERM), Some(0));

    client.expect_silence();
}

fn a_clean_end_frees_the_port_for_the_next_start(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let port = gateway.port();
    assert_eq!(stops(gateway, Signal::TERM), Some(0));

    let gateway = Setup::beside(&broker).at_port(port).start();
    gateway.connected_client("sensor-1").ping();
    gateway.stop();
}
