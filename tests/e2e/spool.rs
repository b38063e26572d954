//! `snipe spool`: a person looks at what waits for the broker, takes it away, drops it.

use std::fs;

use sn_codec::TopicRef;
use system_tests::{Broker, Gateway, Setup, snipe_finishes};

/// Three messages of two clients wait for a broker that is away.
fn three_wait() -> Gateway {
    let broker = Broker::stopped();
    let gateway = Setup::beside(&broker).start();
    let pump = gateway.connected_client("pump-7");
    let topic = TopicRef::Normal(pump.register("pump/7/state"));
    pump.publish_acknowledged(topic, b"21.5");
    pump.publish_acknowledged(topic, &[0xFF, 0x00]);
    let meter = gateway.connected_client("meter-1");
    meter.publish_acknowledged(TopicRef::Normal(meter.register("meter/1")), b"7");
    gateway
}

fn listed(gateway: &Gateway) -> Vec<serde_json::Value> {
    let listed = gateway.ask(&["spool", "ls", "--json"]);
    assert_eq!(listed.code(), Some(0), "{listed:?}");
    let rows = listed.stdout.lines();
    rows.map(|row| serde_json::from_str(row).expect("a JSON object a line"))
        .collect()
}

#[test]
fn what_waits_is_listed_with_sender_topic_and_state() {
    let gateway = three_wait();

    let table = gateway.ask(&["spool", "ls"]);
    let rows = listed(&gateway);

    assert_eq!(table.stdout.lines().count(), 4, "{table:?}");
    for word in ["pump-7", "pump/7/state", "meter-1", "meter/1", "waiting"] {
        assert!(table.stdout.contains(word), "{word} in {table:?}");
    }
    assert_eq!(rows[0]["payload"], "21.5");
    assert_eq!(rows[1]["payload_hex"], "ff00");
    assert_eq!(
        (&rows[2]["client"], &rows[2]["qos"], &rows[2]["retain"]),
        (&"meter-1".into(), &1.into(), &false.into())
    );
    let shown = gateway.ask(&["spool", "show", &rows[0]["id"].to_string()]);
    assert!(shown.stdout.contains("21.5"), "{shown:?}");
    let unknown = gateway.ask(&["spool", "show", "999"]);
    assert_eq!(unknown.code(), Some(1), "{unknown:?}");
    assert_eq!(gateway.metric("snipe_spool_messages"), 3);
    gateway.stop();
}

#[test]
fn an_export_is_a_line_for_each_message_and_never_replaces_another() {
    let gateway = three_wait();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("spool.jsonl");
    let path = file.to_str().expect("a plain name");

    let exported = gateway.ask(&["spool", "export", path]);
    assert_eq!(exported.code(), Some(0), "{exported:?}");
    let again = gateway.ask(&["spool", "export", path]);
    assert_eq!(again.code(), Some(1), "{again:?}");
    assert!(again.stderr.contains("give another name"), "{again:?}");

    let text = fs::read_to_string(&file).expect("it was written");
    let topics: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .map(|row| row["topic"].as_str().expect("a topic").to_owned())
        .collect();
    assert_eq!(topics, ["pump/7/state", "pump/7/state", "meter/1"]);
    gateway.stop();
}

#[test]
fn what_is_dropped_does_not_come_back() {
    let gateway = three_wait();
    let first = listed(&gateway)[0]["id"].to_string();

    let one = gateway.ask(&["spool", "drop", &first]);
    assert_eq!((one.code(), &*one.stdout), (Some(0), "dropped 1\n"));
    let again = gateway.ask(&["spool", "drop", &first]);
    assert_eq!(again.code(), Some(1), "{again:?}");
    let neither = gateway.ask(&["spool", "drop"]);
    assert_eq!(neither.code(), Some(2), "{neither:?}");
    let rest = gateway.ask(&["spool", "drop", "--all", "--json"]);
    assert_eq!(rest.stdout, "{\"dropped\":2}\n");

    assert_eq!(gateway.metric("snipe_spool_dropped_total{reason=\"command\"}"), 3);
    let gateway = gateway.pause().start();
    assert_eq!(listed(&gateway), Vec::<serde_json::Value>::new());
    gateway.stop();
}

#[test]
fn without_a_gateway_the_exit_code_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("control.sock");
    let asked = snipe_finishes(&["spool", "ls", "--socket", socket.to_str().expect("a plain name")]);
    assert_eq!(asked.code(), Some(4), "{asked:?}");
    assert!(asked.stderr.contains("is it running?"), "{asked:?}");
}
