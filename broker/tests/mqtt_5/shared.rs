//! Shared subscriptions.

use std::time::Duration;

use crate::mqtt::{Ack, Broker, Client, Event, NO_LOCAL, PATIENCE, Packet, Prop, Publish};

/// The payloads there are now, acknowledged.
#[track_caller]
fn payloads(client: &mut Client) -> Vec<String> {
    let mut payloads = Vec::new();
    loop {
        // An acknowledgement may make room for more.
        client.barrier();
        let before = payloads.len();
        while let Event::Packet(Packet::Publish(publish)) = client.event(Duration::ZERO) {
            client.acknowledge(&publish);
            payloads.push(publish.text());
        }
        if payloads.len() == before {
            return payloads;
        }
    }
}

pub(crate) fn a_message_goes_to_one_of_the_group(b: &Broker) {
    let mut group: Vec<Client> = (0..3).map(|n| b.client(&format!("member{n}"))).collect();
    for member in &mut group {
        assert_eq!(member.subscribe("$share/g/a/+", 1), 1);
    }
    let mut expected: Vec<String> = (0..30).map(|n| n.to_string()).collect();
    for payload in &expected {
        b.publish(Publish::new("a/b", payload).qos(1, 1));
    }
    let shares: Vec<Vec<String>> = group.iter_mut().map(payloads).collect();
    let mut seen = shares.concat();
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
    assert!(
        shares.iter().all(|share| !share.is_empty()),
        "nobody is left out: {shares:?}"
    );

    // Who leaves the group leaves its share to the others.
    group[0].unsubscribe("$share/g/a/+");
    group.remove(1).vanish();
    for payload in &expected {
        b.publish(Publish::new("a/b", payload).qos(1, 1));
    }
    group[0].expect_nothing();
    assert_eq!(payloads(&mut group[1]).len(), 30);
}

pub(crate) fn groups_and_plain_subscriptions_are_independent(b: &Broker) {
    let mut both = b.client("both");
    both.subscribe_with("$share/g/a", 0, vec![Prop::SubscriptionId(1)]);
    both.subscribe_with("a", 0, vec![Prop::SubscriptionId(2)]);
    let mut other_group = b.client("other group");
    other_group.subscribe("$share/h/a", 0);
    let mut other_filter = b.client("other filter");
    other_filter.subscribe("$share/g/+", 0);
    b.publish(Publish::new("a", "x"));
    other_group.receive("a", "x");
    other_filter.receive("a", "x");
    // One copy with both identifiers, or two.
    let mut ids = both.receive("a", "x").subscription_ids();
    both.barrier();
    while let Event::Packet(Packet::Publish(copy)) = both.event(Duration::ZERO) {
        ids.extend(copy.subscription_ids());
    }
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
}

pub(crate) fn no_retained_messages_for_shared_subscriptions(b: &Broker) {
    b.publish(Publish::new("a", "kept").qos(1, 1).retain());
    let mut client = b.client("c");
    client.subscribe("$share/g/a", 1);
    client.expect_nothing();
}

/// While no member is connected.
pub(crate) fn messages_for_an_absent_group_are_kept(b: &Broker) {
    let mut client = b.kept("c");
    client.subscribe("$share/g/a", 1);
    client.disconnect();
    for n in 0..5 {
        b.publish(Publish::new("a", n.to_string()).qos(1, 1));
    }
    let mut client = b.kept("c");
    for n in 0..5 {
        client.receive("a", &n.to_string());
    }
}

#[track_caller]
fn each_is_rejected(b: &Broker, filters: &[&str]) {
    for filter in filters {
        let mut client = b.client("c");
        client.send(&Packet::subscribe(1, filter, 0));
        match client.event(PATIENCE) {
            Event::Packet(Packet::SubAck { codes, .. }) => assert!(codes[0] >= 0x80, "{filter}"),
            Event::Packet(Packet::Disconnect { code, .. }) => assert!(code >= 0x80, "{filter}"),
            Event::Closed => {}
            other => panic!("{other:?} to {filter}"),
        }
    }
}

pub(crate) fn share_name_is_needed(b: &Broker) {
    each_is_rejected(b, &["$share//a", "$share/", "$share//"]);
}

pub(crate) fn share_name_has_no_wildcards_and_a_filter_follows(b: &Broker) {
    each_is_rejected(
        b,
        &[
            "$share/g+/a",
            "$share/#/a",
            "$share/+/a",
            "$share/g",
            "$share/g/",
            "$share/g/a#",
        ],
    );
    // What only looks alike is an ordinary filter.
    let mut client = b.client("c");
    assert_eq!(client.subscribe("$shared/g/a", 0), 0);
    client.publish(Publish::new("$shared/g/a", "x"));
    client.receive("$shared/g/a", "x");
}

pub(crate) fn no_local_on_a_shared_subscription_ends_the_connection(b: &Broker) {
    let mut client = b.client("c");
    client.send(&Packet::subscribe(1, "$share/g/a", NO_LOCAL));
    client.expect_closed_with(&[0x82]);
}

pub(crate) fn granted_qos_is_respected(b: &Broker) {
    for granted in 0..=2 {
        let mut client = b.client("c");
        client.subscribe("$share/g/a", granted);
        for published in 0..=2 {
            b.publish(Publish::new("a", "x").qos(published, 1));
            assert_eq!(client.receive("a", "x").qos, published.min(granted));
        }
    }
}

/// Two members of a group; the one that got the QoS 2 message, the other, and the message, unacknowledged.
fn started(b: &Broker) -> (Client, String, Client, Publish) {
    let mut first = b.kept("first");
    let mut second = b.kept("second");
    for client in [&mut first, &mut second] {
        client.subscribe("$share/g/a", 2);
    }
    b.publish(Publish::new("a", "x").qos(2, 1));
    first.barrier();
    match first.event(Duration::ZERO) {
        Event::Packet(Packet::Publish(publish)) => (first, "first".into(), second, publish),
        _ => {
            let publish = second.next_publish();
            (second, "second".into(), first, publish)
        }
    }
}

pub(crate) fn a_started_delivery_is_finished_after_reconnecting(b: &Broker) {
    let (client, id, mut other, publish) = started(b);
    client.vanish();
    let mut client = b.kept(&id);
    let again = client.next_publish();
    assert_eq!(again, publish.dup());
    client.acknowledge(&again);
    other.expect_nothing();
}

pub(crate) fn a_started_delivery_dies_with_its_session(b: &Broker) {
    let (client, id, mut other, _) = started(b);
    client.vanish();
    b.client(&id).expect_nothing();
    other.expect_nothing();
}

pub(crate) fn a_refused_message_goes_to_nobody_else(b: &Broker) {
    let (mut client, _, mut other, publish) = started(b);
    client.send(&Packet::PubRec(Ack::code(publish.id, 0x97)));
    client.expect_nothing();
    other.expect_nothing();
}
