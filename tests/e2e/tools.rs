//! The commands of the binary, as a person or a script uses them.

use std::time::Duration;

use sn_codec::TopicRef;
use system_tests::{
    Broker, BrokerKind, Message, PATIENCE, Process, Setup, free_port, snipe_finishes, with_each_broker,
};

with_each_broker![
    pub_reaches_mosquitto_sub,
    pub_with_an_id_that_nobody_knows_fails_whatever_the_qos,
    mosquitto_pub_reaches_sub_with_each_qos_and_wildcards,
    sub_gets_what_was_retained,
    sub_that_waits_in_vain_says_so_by_its_exit_code,
    ping_tells_whether_a_gateway_is_there,
    topics_prints_the_registry,
    names_from_the_network_forge_no_line_and_move_no_cursor,
    many_publishes_in_a_script_all_arrive,
];

fn pub_reaches_mosquitto_sub(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let mut observer = broker.subscribe("demo/#");

    for (qos, options) in [
        (0, vec![]),
        (0, vec!["-q", "0"]),
        (1, vec!["-q", "1"]),
        (2, vec!["-q", "2"]),
    ] {
        let mut arguments = vec!["pub", "-t", "demo/hello", "-m", "21.5"];
        arguments.extend(options);
        let published = gateway.tool(&arguments);
        assert_eq!(published.code(), Some(0), "{published:?}");
        observer.expect(Message::new("demo/hello", "21.5", qos));
    }

    let published = gateway.tool(&["pub", "-t", "demo/empty", "-n", "-q", "1"]);
    assert_eq!(published.code(), Some(0), "{published:?}");
    observer.expect(Message::new("demo/empty", "", 1));

    let published = gateway.tool(&["pub", "-t", "demo/kept", "-m", "kept", "-r", "-q", "1"]);
    assert_eq!(published.code(), Some(0), "{published:?}");
    observer.expect(Message::new("demo/kept", "kept", 1));
    broker.subscribe("demo/kept").expect(Message {
        retain: true,
        ..Message::new("demo/kept", "kept", 1)
    });
    gateway.stop();
}

fn pub_with_an_id_that_nobody_knows_fails_whatever_the_qos(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    for qos in ["0", "1", "2"] {
        let published = gateway.tool(&["pub", "--topic-id", "999", "-m", "x", "-q", qos]);
        assert_eq!(published.code(), Some(1), "{published:?}");
        assert!(
            published.stderr.contains("rejected PUBLISH: invalid topic id"),
            "{published:?}"
        );
    }
    gateway.stop();
}

fn mosquitto_pub_reaches_sub_with_each_qos_and_wildcards(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();

    for (qos, subscriptions) in [("0", 1), ("1", 2), ("2", 3)] {
        let filter = format!("q{qos}/+/temp");
        let mut sub = gateway.tool_started(&["sub", "-t", &filter, "-q", qos, "-C", "2", "-v"]);
        gateway.wait_for_subacks(subscriptions);
        broker.publish(&format!("q{qos}/1/temp"), "21.5", 2);
        broker.publish(&format!("q{qos}/2/temp"), "19", 2);

        let exit = sub.wait_for_exit(PATIENCE);
        assert_eq!(exit.code(), Some(0), "{}", sub.transcript());
        assert_eq!(
            output(&sub),
            [format!("q{qos}/1/temp 21.5"), format!("q{qos}/2/temp 19")]
        );
    }
    gateway.stop();
}

fn sub_gets_what_was_retained(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    broker.publish_with("state/door", "open", &["-r", "-q", "1"]);

    let received = gateway.tool(&["sub", "-t", "state/door", "-C", "1", "-v"]);

    assert_eq!(
        (received.code(), received.stdout.as_str()),
        (Some(0), "state/door open\n")
    );
    gateway.stop();
}

fn sub_that_waits_in_vain_says_so_by_its_exit_code(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();

    let received = gateway.tool(&["sub", "-t", "state/door", "-C", "1", "-W", "1"]);

    assert_ne!(received.code(), Some(0));
    assert_eq!(received.stdout, "");
    gateway.stop();
}

fn ping_tells_whether_a_gateway_is_there(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let answered = gateway.tool(&["ping", "-C", "1"]);
    assert_eq!(answered.code(), Some(0), "{answered:?}");
    gateway.stop();

    let nobody = free_port().to_string();
    let unanswered = snipe_finishes(&["ping", "-h", "127.0.0.1", "-p", &nobody, "-C", "1", "-W", "1"]);
    assert!(
        matches!(unanswered.code(), Some(code) if code != 0),
        "{unanswered:?}"
    );
}

fn names_from_the_network_forge_no_line_and_move_no_cursor(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let mut gateway = Setup::beside(&broker).start();
    let client = gateway.connected_client("evil\n2026-01-01T00:00:00Z ERROR gateway: forged \u{1b}[31m");
    // What turns the direction of a line is no control character, so brokers take it.
    client.register("demo/a\u{202e}b");

    gateway
        .process()
        .wait_for_line("the log to name the client", 0, PATIENCE, |line| {
            line.contains(r"client=evil\n2026-01-01T00:00:00Z ERROR gateway: forged \u{1b}[31m")
        });
    let printed = gateway.ask(&["topics"]);
    assert!(printed.stdout.contains(r"demo/a\u{202e}b"), "{}", printed.stdout);
    gateway.stop();
}

fn topics_prints_the_registry(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker)
        .toml(
            r#"
            [[predefined]]
            id = 1
            topic = "plant/status"
            [[client]]
            match = "pump-*"
            predefined = [{ id = 10, topic = "pump/{client_id}/set" }]
            "#,
        )
        .start();
    let client = gateway.connected_client("sensor-1");
    let id = client.register("demo/registered");
    client.publish_acknowledged(TopicRef::Normal(id), b"x");

    let printed = gateway.ask(&["topics"]);

    assert_eq!(printed.code(), Some(0), "{printed:?}");
    let row = |parts: &[&str]| {
        printed
            .stdout
            .lines()
            .any(|line| parts.iter().all(|part| line.contains(part)))
    };
    assert!(row(&["1", "predefined", "plant/status"]), "{}", printed.stdout);
    assert!(
        row(&["10", "predefined", "pump-*", "pump/{client_id}/set"]),
        "{}",
        printed.stdout
    );
    assert!(
        row(&[&id.to_string(), "registered", "sensor-1", "demo/registered"]),
        "{}",
        printed.stdout
    );
    gateway.stop();
}

#[test]
fn topics_without_a_gateway_exits_with_4() {
    let printed = snipe_finishes(&["topics", "--socket", "/nonexistent/control.sock"]);
    assert_eq!(printed.code(), Some(4), "{printed:?}");
    assert!(!printed.stderr.is_empty());
}

#[test]
fn decode_explains_a_datagram() {
    let explained = snipe_finishes(&["decode", "0b0c226162010232312e35"]);
    assert_eq!(explained.code(), Some(0), "{explained:?}");
    for part in ["11", "PUBLISH", "qos=1", "\"ab\"", "258", "\"21.5\""] {
        assert!(
            explained.stdout.contains(part),
            "no {part} in\n{}",
            explained.stdout
        );
    }

    let refused = snipe_finishes(&["decode", "0216ff"]);
    assert!(matches!(refused.code(), Some(code) if code != 0), "{refused:?}");
}

fn many_publishes_in_a_script_all_arrive(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let mut observer = broker.subscribe("demo/#");
    let running: Vec<_> = (0..20)
        .map(|n| gateway.tool_started(&["pub", "-t", &format!("demo/{n}"), "-m", "x", "-q", "1"]))
        .collect();
    for mut publisher in running {
        assert_eq!(
            publisher.wait_for_exit(Duration::from_secs(20)).code(),
            Some(0),
            "{}",
            publisher.transcript()
        );
    }
    let mut topics: Vec<_> = observer
        .receive_many(20)
        .into_iter()
        .map(|message| message.topic)
        .collect();
    topics.sort();
    topics.dedup();
    assert_eq!(topics.len(), 20);
    gateway.stop();
}

/// The lines on standard output.
fn output(process: &Process) -> Vec<String> {
    process
        .lines()
        .into_iter()
        .filter(|line| !line.is_error)
        .map(|line| line.text)
        .collect()
}
