//! What is configured, what is refused, and what happens when the surroundings are not as configured.

use std::{fs, net::UdpSocket, time::Duration};

use sn_codec::{TopicId, TopicRef};
use system_tests::{
    Broker, BrokerKind, Message, PATIENCE, Setup, free_port, repository, snipe_finishes, with_each_broker,
};
use tempfile::TempDir;

with_each_broker![
    nothing_configured_but_the_broker_is_enough,
    predefined_ids_of_the_example_reach_their_full_topics,
    it_is_ready_soon,
];

fn nothing_configured_but_the_broker_is_enough(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::without_config().option_broker(&broker).start();
    gateway.wait_for_broker();
    let mut observer = broker.subscribe("demo/#");

    let published = gateway.tool(&["pub", "-t", "demo/hello", "-m", "21.5"]);

    assert_eq!(published.code(), Some(0), "{published:?}");
    observer.expect(Message::new("demo/hello", "21.5", 0));
    gateway.stop();
}

#[test]
fn the_broker_of_the_command_line_goes_before_the_configured_one() {
    let (configured, named) = (Broker::mosquitto(), Broker::mosquitto());
    let mut observer = named.subscribe("demo/#");
    let gateway = Setup::beside(&configured)
        .args(&["--broker", &named.url()])
        .start();
    gateway.wait_for_broker();

    gateway.tool(&["pub", "-t", "demo/hello", "-m", "21.5"]);

    observer.expect(Message::new("demo/hello", "21.5", 0));
    gateway.stop();
}

#[test]
fn a_bad_configuration_is_reported_whole_and_exits_with_78() {
    let broker = Broker::stopped();
    let refused = Setup::beside(&broker)
        .toml("gateway.nmae = 'x'\ngateway.id = 0\n[[predefined]]\nid = 65535\ntopic = 'plant/+/temp'")
        .start_in_vain();

    assert_eq!(refused.code(), Some(78), "{refused:?}");
    for part in ["snipe.toml:", "nmae", "name", "65535", "wildcard"] {
        assert!(refused.stderr.contains(part), "no {part} in\n{}", refused.stderr);
    }
}

#[test]
fn the_default_configuration_loads_without_a_word() {
    let printed = snipe_finishes(&["config", "default"]);
    assert_eq!(printed.code(), Some(0), "{printed:?}");
    let dir = TempDir::new().expect("a temporary directory");
    let file = dir.path().join("snipe.toml");
    fs::write(&file, &printed.stdout).expect("the directory is ours");

    let checked = snipe_finishes(&["check", file.to_str().expect("a plain name")]);

    assert_eq!(checked.code(), Some(0), "{checked:?}");
    assert!(!checked.stderr.contains("warning"), "{}", checked.stderr);
}

#[test]
fn a_port_in_use_is_named_and_ends_the_start() {
    let broker = Broker::stopped();
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port();

    let refused = Setup::beside(&broker).at_port(port).start_in_vain();

    assert!(matches!(refused.code(), Some(1 | 69)), "{refused:?}");
    let said = refused.stdout + &refused.stderr;
    assert!(
        said.contains(&port.to_string()) && said.contains("in use"),
        "{said}"
    );
}

#[test]
fn a_broker_that_does_not_answer_is_named_and_waited_for() {
    let url = format!("mqtt://127.0.0.1:{}", free_port());
    let mut gateway = Setup::without_config().args(&["--broker", &url]).start();
    let client = gateway.connected_client("sensor-1");

    let (_, line) = gateway
        .process()
        .wait_for_line("word of the broker", 0, PATIENCE, |line| {
            line.contains("broker") && line.contains("refused")
        });
    assert!(line.text.contains(&url), "{}", line.text);
    client.ping();
    assert!(gateway.process().is_running());
    gateway.stop();
}

fn predefined_ids_of_the_example_reach_their_full_topics(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let file = repository().join("configs/examples/predefined-topics.toml");
    let file = file.to_str().expect("a plain path");
    let gateway = Setup::without_config()
        .option_broker(&broker)
        .args(&["--config", file])
        .start();
    gateway.wait_for_broker();
    let mut observer = broker.subscribe("#");

    for (client_id, topic_id, topic) in [
        ("bed-3", 1, "greenhouse/bed-3/temperature"),
        ("bed-3", 100, "greenhouse/door"),
        ("pump-7", 1, "greenhouse/pump-7/flow"),
    ] {
        let client = gateway.connected_client(client_id);
        client.publish_acknowledged(TopicRef::Predefined(TopicId(topic_id)), b"21.5");
        observer.expect(Message::new(topic, "21.5", 1));
    }

    let published = gateway.tool(&["pub", "--topic-id", "100", "-m", "ring", "-q", "-1"]);
    assert_eq!(published.code(), Some(0), "{published:?}");
    observer.expect(Message::new("greenhouse/door", "ring", 0));
    gateway.stop();
}

fn it_is_ready_soon(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    // The aim is 50 ms on an idle machine; here it is shared with the other tests.
    let ready_after = gateway.ready_after();
    assert!(
        ready_after < Duration::from_secs(1),
        "ready after {ready_after:?}"
    );
    gateway.stop();
}
