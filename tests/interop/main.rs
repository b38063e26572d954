//! The gateway and an MQTT-SN client that nobody here wrote: `mqtt-sn-12` from PyPI.
//!
//! Everything passes a tap, so that tshark reads it too.

use std::{env, path::PathBuf, process::Command, time::Duration};

use system_tests::{
    Broker, BrokerKind, Finished, Gateway, Message, PATIENCE, Process, Setup, Tap, repository,
    with_each_broker,
};

with_each_broker![
    foreign_publisher_reaches_the_broker_with_each_qos_and_kind_of_topic,
    foreign_subscriber_gets_names_wildcards_predefined_ids_and_retained_messages,
    a_foreign_client_gets_through_a_whole_session,
    the_will_of_a_foreign_client_that_vanishes_is_published,
];

/// A gateway with two predefined topics, behind a tap.
fn gateway(broker: &Broker) -> (Gateway, Tap) {
    let predefined =
        "[[predefined]]\nid = 1\ntopic = 'plant/status'\n[[predefined]]\nid = 2\ntopic = 'plant/command'";
    let gateway = Setup::beside(broker).toml(predefined).start();
    let tap = Tap::start(gateway.address(), gateway.capture());
    (gateway, tap)
}

fn foreign_publisher_reaches_the_broker_with_each_qos_and_kind_of_topic(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let (gateway, tap) = gateway(&broker);
    let mut observer = broker.subscribe("#");
    let long = "x".repeat(200);

    let cases: [(&[&str], Message); 7] = [
        (
            &["-t", "foreign/hello", "-m", "21.5"],
            Message::new("foreign/hello", "21.5", 0),
        ),
        (
            &["-t", "foreign/hello", "-m", "21.5", "-q", "1"],
            Message::new("foreign/hello", "21.5", 1),
        ),
        (
            &["-t", "foreign/hello", "-m", "21.5", "-q", "2"],
            Message::new("foreign/hello", "21.5", 2),
        ),
        (
            &["-t", "foreign/long", "-m", &long, "-q", "1"],
            Message::new("foreign/long", &long, 1),
        ),
        (
            &["-t", "ab", "-m", "short", "-q", "1"],
            Message::new("ab", "short", 1),
        ),
        (
            &["-T", "1", "-m", "predefined", "-q", "1"],
            Message::new("plant/status", "predefined", 1),
        ),
        (
            &["-T", "1", "-m", "no session", "-q", "-1"],
            Message::new("plant/status", "no session", 0),
        ),
    ];
    for (arguments, message) in cases {
        let published = foreign("mqtt_sn_pub", &tap, arguments);
        assert_eq!(published.code(), Some(0), "{arguments:?}: {published:?}");
        observer.expect(message);
    }

    let published = foreign(
        "mqtt_sn_pub",
        &tap,
        &["-t", "foreign/kept", "-m", "kept", "-r", "-q", "1"],
    );
    assert_eq!(published.code(), Some(0), "{published:?}");
    observer.expect(Message::new("foreign/kept", "kept", 1));
    broker.subscribe("foreign/kept").expect(Message {
        retain: true,
        ..Message::new("foreign/kept", "kept", 1)
    });
    gateway.stop();
}

fn foreign_subscriber_gets_names_wildcards_predefined_ids_and_retained_messages(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let (gateway, tap) = gateway(&broker);
    broker.publish_with("kept/door", "open", &["-r"]);

    let cases: [(&[&str], &str); 3] = [
        (&["-t", "down/named"], "down/named"),
        (&["-t", "wild/+/temp"], "wild/7/temp"),
        (&["-T", "2"], "plant/command"),
    ];
    for (subscribed, (arguments, topic)) in (1..).zip(cases) {
        let mut subscriber = foreign_started("mqtt_sn_sub", &tap, &[arguments, &["-1"]].concat());
        gateway.wait_for_subacks(subscribed);
        broker.publish(topic, "21.5", 0);
        let exit = subscriber.wait_for_exit(PATIENCE);
        assert_eq!(exit.code(), Some(0), "{arguments:?}: {}", subscriber.transcript());
        assert_eq!(printed(&subscriber), ["21.5"], "{arguments:?}");
    }

    let received = foreign("mqtt_sn_sub", &tap, &["-t", "kept/door", "-1"]);
    assert_eq!(
        (received.code(), received.stdout.as_str()),
        (Some(0), "open\n"),
        "{received:?}"
    );
    gateway.stop();
}

fn a_foreign_client_gets_through_a_whole_session(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let (gateway, tap) = gateway(&broker);
    let mut observer = broker.subscribe("up/#");

    let mut command = Command::new(interop().join("bin/python"));
    command
        .arg(repository().join("tests/interop/session.py"))
        .arg(tap.port().to_string());
    let mut session = Process::spawn("tests/interop/session.py", command);
    let exit = session.wait_for_exit(Duration::from_secs(30));

    assert_eq!(exit.code(), Some(0), "{}", session.transcript());
    // Only messages of one QoS have an order: a subscriber hands on one of QoS 2 at its PUBREL.
    let mut received = observer.receive_many(10);
    received.sort_by_key(|message| message.qos);
    let sent = (0..3).flat_map(|qos| (qos..10).step_by(3).map(move |n| (n, qos)));
    let sent: Vec<_> = sent
        .map(|(n, qos)| Message::new("up/count", n.to_string(), qos))
        .collect();
    assert_eq!(received, sent);
    observer.expect_silence();
    gateway.stop();
}

fn the_will_of_a_foreign_client_that_vanishes_is_published(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let (gateway, tap) = gateway(&broker);
    let mut observer = broker.subscribe("state/#");

    let will = [
        "-k",
        "1",
        "--will-topic",
        "state/foreign",
        "--will-payload",
        "gone",
        "--will-qos",
        "1",
    ];
    let vanishing = foreign_started(
        "mqtt_sn_sub",
        &tap,
        &[&["-t", "down/named"], will.as_slice()].concat(),
    );
    gateway.wait_for_subacks(1);
    drop(vanishing);

    observer.expect(Message::new("state/foreign", "gone", 1));
    gateway.stop();
}

#[track_caller]
fn foreign(tool: &str, tap: &Tap, arguments: &[&str]) -> Finished {
    foreign_started(tool, tap, arguments).finish(PATIENCE)
}

#[track_caller]
fn foreign_started(tool: &str, tap: &Tap, arguments: &[&str]) -> Process {
    let mut command = Command::new(interop().join("bin").join(tool));
    command
        .args(["-h", "127.0.0.1", "-p", &tap.port().to_string()])
        .args(arguments);
    Process::spawn(&format!("{tool} {}", arguments.join(" ")), command)
}

/// Where `tests/run.sh` put the client: `target/interop`, three levels above this executable's directory.
fn interop() -> PathBuf {
    let executable = env::current_exe().expect("the system knows what it runs");
    let target = executable.ancestors().nth(3).expect("target/<profile>/deps/test");
    let interop = target.join("interop");
    assert!(
        interop.join("installed.txt").is_file(),
        "the foreign MQTT-SN client is not installed in {}\nrun tests/run.sh setup",
        interop.display()
    );
    interop
}

fn printed(process: &Process) -> Vec<String> {
    process
        .lines()
        .into_iter()
        .filter(|line| !line.is_error)
        .map(|line| line.text)
        .collect()
}
