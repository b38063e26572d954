//! PUBLISH towards the broker.

use super::wire::{each_ends_the_connection, no_props};
use crate::mqtt::{Broker, Packet, Publish, frame, text};

pub(crate) fn qos_3_ends_the_connection(b: &Broker) {
    let none = no_props(b.version);
    each_ends_the_connection(
        b,
        &[0x36, 0x37, 0x3e].map(|first| frame(first, &[&text("a"), &[0, 1], none, b"x"])),
    );
}

pub(crate) fn wildcards_in_a_topic_end_the_connection(b: &Broker) {
    let mut observer = b.client("observer");
    observer.subscribe("#", 0);
    let cases: Vec<Vec<u8>> = ["#", "+", "a/#", "a/+", "+/a", "a#", "a+b"]
        .into_iter()
        .map(|topic| Publish::new(topic, "x").encode(b.version))
        .collect();
    each_ends_the_connection(b, &cases);
    observer.expect_nothing();
}

pub(crate) fn topic_is_the_first_field(b: &Broker) {
    let mut client = b.client("c");
    client.subscribe("#", 1);
    client.publish(Publish::new("a/é/☂", "x").qos(1, 7));
    client.receive("a/é/☂", "x");
    each_ends_the_connection(b, &[frame(0x30, &[&text(b"a\xff"), no_props(b.version), b"x"])]);
}

pub(crate) fn each_qos_has_its_answer(b: &Broker) {
    let mut client = b.client("c");
    client.send(&Packet::Publish(Publish::new("a", "0")));
    client.expect_nothing();
    client.send(&Packet::Publish(Publish::new("a", "1").qos(1, 11)));
    client.find("PUBACK", |packet| {
        matches!(packet, Packet::PubAck(ack) if ack.id == 11).then_some(())
    });
    client.send(&Packet::Publish(Publish::new("a", "2").qos(2, 12)));
    client.pub_rec(12);
    // PUBREL is answered with PUBCOMP, and only then.
    client.expect_nothing();
    client.send(&Packet::pub_rel(12));
    client.expect(Packet::pub_comp(12));
}

pub(crate) fn answers_carry_the_id_they_answer(b: &Broker) {
    let mut client = b.client("c");
    for id in [1, 255, 256, 65_535] {
        assert!(client.publish(Publish::new("a", "x").qos(1, id)) < 0x80);
        assert!(client.publish(Publish::new("a", "x").qos(2, id)) < 0x80);
    }
}

pub(crate) fn qos_1_id_is_free_after_puback(b: &Broker) {
    let mut client = b.client("c");
    let mut observer = b.client("observer");
    observer.subscribe("a", 1);
    // A PUBLISH with the same id is a new message, whatever its DUP flag says.
    client.publish(Publish::new("a", "first").qos(1, 5));
    client.publish(Publish::new("a", "second").qos(1, 5));
    client.publish(Publish::new("a", "third").qos(1, 5).dup());
    for payload in ["first", "second", "third"] {
        observer.receive("a", payload);
    }
}

pub(crate) fn qos_2_copies_before_pubrel_are_not_delivered(b: &Broker) {
    let mut client = b.client("c");
    let mut observer = b.client("observer");
    observer.subscribe("a", 2);
    let publish = Publish::new("a", "once").qos(2, 5);
    client.send(&Packet::Publish(publish.clone()));
    client.pub_rec(5);
    for _ in 0..3 {
        client.send(&Packet::Publish(publish.clone().dup()));
        client.pub_rec(5);
    }
    client.release(5);
    observer.receive("a", "once");
    observer.expect_nothing();
}

/// Over a connection that breaks, too.
pub(crate) fn qos_2_copies_on_the_next_connection_are_not_delivered(b: &Broker) {
    let mut observer = b.client("observer");
    observer.subscribe("a", 2);
    let publish = Publish::new("a", "once").qos(2, 5);
    let mut client = b.kept("c");
    client.send(&Packet::Publish(publish.clone()));
    client.pub_rec(5);
    client.vanish();
    let mut client = b.kept("c");
    client.send(&Packet::Publish(publish.dup()));
    client.pub_rec(5);
    client.vanish();
    let mut client = b.kept("c");
    client.release(5);
    observer.receive("a", "once");
    observer.expect_nothing();
}

pub(crate) fn qos_2_id_is_free_after_pubcomp(b: &Broker) {
    let mut client = b.client("c");
    let mut observer = b.client("observer");
    observer.subscribe("a", 2);
    client.publish(Publish::new("a", "first").qos(2, 5));
    client.publish(Publish::new("a", "second").qos(2, 5));
    observer.receive("a", "first");
    observer.receive("a", "second");
    observer.expect_nothing();
}

/// Also when nothing with that id is under way: a PUBCOMP may have been lost.
pub(crate) fn pubrel_is_always_answered(b: &Broker) {
    let mut client = b.client("c");
    client.publish(Publish::new("a", "x").qos(2, 5));
    client.release(5);
    client.release(77);
}

pub(crate) fn qos_2_ids_are_told_apart(b: &Broker) {
    let mut client = b.client("c");
    let mut observer = b.client("observer");
    observer.subscribe("a", 2);
    for id in [3, 1, 2] {
        client.send(&Packet::Publish(Publish::new("a", id.to_string()).qos(2, id)));
        client.pub_rec(id);
    }
    for id in [2, 3, 1] {
        client.release(id);
    }
    let mut payloads: Vec<String> = (0..3).map(|_| observer.accept().text()).collect();
    payloads.sort();
    assert_eq!(payloads, ["1", "2", "3"]);
}

pub(crate) fn empty_topic_ends_the_connection(b: &Broker) {
    each_ends_the_connection(b, &[Publish::new("", "x").encode(b.version)]);
}

pub(crate) fn payload_may_be_empty_or_anything(b: &Broker) {
    let mut client = b.client("c");
    client.subscribe("a", 1);
    let large: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    for payload in [vec![], vec![0], vec![0xff; 200], large] {
        client.publish(Publish::new("a", &payload).qos(1, 0));
        assert_eq!(client.accept().payload, payload);
    }
}
