//! What is configured, what is refused, and what happens when the surroundings are not as configured.

use std::{
    fs,
    net::{TcpStream, UdpSocket},
    time::Duration,
};

use sn_codec::{TopicId, TopicRef};
use system_tests::{Broker, Message, PATIENCE, Setup, free_port, repository, snipe_finishes};
use tempfile::TempDir;

#[test]
fn nothing_configured_but_the_broker_is_enough() {
    let broker = Broker::start_new();
    let mut observer = broker.subscribe("demo/#");
    let gateway = Setup::without_config().args(&["--broker", &broker.url()]).start();
    gateway.wait_for_broker();

    let published = gateway.tool(&["pub", "-t", "demo/hello", "-m", "21.5"]);

    assert_eq!(published.code(), Some(0), "{published:?}");
    observer.expect(Message::new("demo/hello", "21.5", 0));
    gateway.stop();
}

#[test]
fn the_broker_of_the_command_line_goes_before_the_configured_one() {
    let (configured, named) = (Broker::start_new(), Broker::start_new());
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

#[test]
fn without_a_word_about_a_broker_the_usual_one_is_used_and_its_absence_explained() {
    // Port 1883 is not ours: a mosquitto may be there or not. The name keeps its clients apart from ours.
    let listening = TcpStream::connect("127.0.0.1:1883").is_ok();
    let name = format!("gateway.name=\"e2e-{}\"", std::process::id());
    let mut gateway = Setup::without_config().args(&["--set", &name]).start();

    let said = gateway.process().transcript();

    assert!(said.contains("mqtt://127.0.0.1:1883"), "{said}");
    let explained = said.contains("sudo apt install mosquitto") && said.contains("--broker mqtt://");
    assert_eq!(explained, !listening, "{said}");
    gateway.connected_client("sensor-1").ping();
    gateway.stop();
}

#[test]
fn predefined_ids_of_the_example_reach_their_full_topics() {
    let broker = Broker::start_new();
    let mut observer = broker.subscribe("#");
    let file = repository().join("configs/examples/predefined-topics.toml");
    let file = file.to_str().expect("a plain path");
    let gateway = Setup::without_config()
        .args(&["--broker", &broker.url(), "--config", file])
        .start();
    gateway.wait_for_broker();

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

#[test]
fn it_is_ready_soon() {
    let broker = Broker::start_new();
    let gateway = Setup::beside(&broker).start();
    // The aim is 50 ms on an idle machine; here it is shared with the other tests.
    let ready_after = gateway.ready_after();
    assert!(
        ready_after < Duration::from_secs(1),
        "ready after {ready_after:?}"
    );
    gateway.stop();
}
