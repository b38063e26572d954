//! Retained messages.

use crate::mqtt::{Broker, Publish};

pub(crate) fn retained_message_and_its_qos_are_kept(b: &Broker) {
    for qos in 0..=2 {
        b.publish(
            Publish::new(&format!("a/{qos}"), "kept")
                .qos(qos, u16::from(qos))
                .retain(),
        );
    }
    let mut client = b.client("late");
    client.subscribe("a/#", 2);
    let mut seen: Vec<(String, u8, bool)> = (0..3)
        .map(|_| client.accept())
        .map(|publish| (publish.topic, publish.qos, publish.retain))
        .collect();
    seen.sort();
    assert_eq!(
        seen,
        [
            ("a/0".into(), 0, true),
            ("a/1".into(), 1, true),
            ("a/2".into(), 2, true)
        ]
    );
    client.expect_nothing();
}

pub(crate) fn last_retained_message_replaces_the_one_before(b: &Broker) {
    b.publish(Publish::new("a", "first").qos(1, 1).retain());
    b.publish(Publish::new("a", "second").qos(0, 0).retain());
    assert_eq!(b.retained("a"), [("a".into(), "second".into())]);
}

pub(crate) fn new_subscription_brings_each_matching_topic(b: &Broker) {
    for topic in ["a", "a/b", "a/b/c", "x"] {
        b.publish(Publish::new(topic, topic).qos(1, 1).retain());
    }
    let found =
        |filter: &str| -> Vec<String> { b.retained(filter).into_iter().map(|(topic, _)| topic).collect() };
    assert_eq!(found("a"), ["a"]);
    assert_eq!(found("a/+"), ["a/b"]);
    assert_eq!(found("a/#"), ["a", "a/b", "a/b/c"]);
    assert_eq!(found("+/b/#"), ["a/b", "a/b/c"]);
    assert_eq!(found("#"), ["a", "a/b", "a/b/c", "x"]);
    assert_eq!(found("y"), [""; 0]);
}

pub(crate) fn qos_0_retained_message_discards_the_one_before(b: &Broker) {
    b.publish(Publish::new("a", "qos 1").qos(1, 1).retain());
    b.publish(Publish::new("a", "qos 0").retain());
    // It may be forgotten at any time; the one before may not come back.
    assert!(b.retained("a").iter().all(|(_, payload)| payload == "qos 0"));
}

pub(crate) fn retain_flag_is_set_for_a_new_subscription(b: &Broker) {
    b.publish(Publish::new("a", "kept").qos(1, 1).retain());
    let mut client = b.client("c");
    client.subscribe("a", 1);
    assert!(client.receive("a", "kept").retain);
}

pub(crate) fn retain_flag_is_clear_for_an_established_subscription(b: &Broker) {
    let mut client = b.client("c");
    client.subscribe("a", 1);
    b.publish(Publish::new("a", "kept").qos(1, 1).retain());
    assert!(!client.receive("a", "kept").retain);
}

pub(crate) fn empty_retained_message_is_delivered_and_removes(b: &Broker) {
    b.publish(Publish::new("a", "kept").qos(1, 1).retain());
    b.publish(Publish::new("b", "kept").qos(1, 1).retain());
    let mut client = b.client("c");
    client.subscribe("a", 1);
    client.receive("a", "kept");
    b.publish(Publish::new("a", "").qos(1, 1).retain());
    let empty = client.receive("a", "");
    assert!(!empty.retain);
    assert_eq!(b.retained("#"), [("b".into(), "kept".into())]);
}

pub(crate) fn empty_retained_message_is_not_kept(b: &Broker) {
    b.publish(Publish::new("a", "").qos(1, 1).retain());
    assert!(b.retained("#").is_empty());
}

pub(crate) fn message_without_retain_changes_nothing_kept(b: &Broker) {
    b.publish(Publish::new("new", "x").qos(1, 1));
    b.publish(Publish::new("a", "kept").qos(1, 1).retain());
    b.publish(Publish::new("a", "passing").qos(1, 1));
    b.publish(Publish::new("a", "").qos(1, 1));
    assert_eq!(b.retained("#"), [("a".into(), "kept".into())]);
}

pub(crate) fn retained_messages_outlive_the_session(b: &Broker) {
    let mut client = b.client("c");
    client.publish(Publish::new("a", "kept").qos(1, 1).retain());
    client.disconnect();
    b.client("c").vanish();
    assert_eq!(b.retained("a"), [("a".into(), "kept".into())]);
}

/// With the QoS of the subscription if that is lower.
pub(crate) fn retained_message_respects_the_granted_qos(b: &Broker) {
    b.publish(Publish::new("a", "kept").qos(2, 1).retain());
    for granted in 0..=2 {
        let mut client = b.client("c");
        assert_eq!(client.subscribe("a", granted), granted);
        assert_eq!(client.receive("a", "kept").qos, granted);
    }
}
