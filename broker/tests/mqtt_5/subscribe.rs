//! Subscription options and identifiers.

use crate::mqtt::common::subscribing::subscribe_all;
use crate::mqtt::{
    Broker, Event, NO_LOCAL, PATIENCE, Packet, Prop, Publish, RETAIN_AS_PUBLISHED, RETAINED_IF_NEW,
    RETAINED_NEVER,
};

pub(crate) fn retain_handling_0_sends_always(b: &Broker) {
    b.publish(Publish::new("a", "kept").qos(1, 1).retain());
    let mut client = b.client("c");
    for _ in 0..2 {
        client.subscribe("a", 1);
        assert!(client.receive("a", "kept").retain);
        client.expect_nothing();
    }
}

pub(crate) fn retain_handling_1_sends_if_new(b: &Broker) {
    b.publish(Publish::new("a", "kept").qos(1, 1).retain());
    let mut client = b.kept("c");
    client.subscribe("a", 1 | RETAINED_IF_NEW);
    assert!(client.receive("a", "kept").retain);
    client.subscribe("a", 1 | RETAINED_IF_NEW);
    client.expect_nothing();
    client.disconnect();
    let mut client = b.kept("c");
    client.subscribe("a", 1 | RETAINED_IF_NEW);
    client.expect_nothing();
    client.unsubscribe("a");
    client.subscribe("a", 1 | RETAINED_IF_NEW);
    client.receive("a", "kept");
}

pub(crate) fn retain_handling_2_sends_nothing(b: &Broker) {
    b.publish(Publish::new("a", "kept").qos(1, 1).retain());
    let mut client = b.client("c");
    client.subscribe("a", 1 | RETAINED_NEVER);
    client.subscribe("a", 1 | RETAINED_NEVER);
    client.expect_nothing();
    b.publish(Publish::new("a", "new").qos(1, 1).retain());
    client.receive("a", "new");
}

pub(crate) fn retain_as_published_keeps_the_flag(b: &Broker) {
    let mut client = b.client("c");
    client.subscribe("a", RETAIN_AS_PUBLISHED);
    b.publish(Publish::new("a", "kept").retain());
    assert!(client.receive("a", "kept").retain);
    b.publish(Publish::new("a", "passing"));
    assert!(!client.receive("a", "passing").retain);
}

pub(crate) fn no_local_gives_nothing_of_ones_own(b: &Broker) {
    let mut client = b.client("c");
    let mut other = b.client("other");
    for client in [&mut client, &mut other] {
        client.subscribe("a", 1 | NO_LOCAL);
    }
    client.publish(Publish::new("a", "mine").qos(1, 1));
    other.publish(Publish::new("a", "its").qos(1, 1));
    client.receive("a", "its");
    other.receive("a", "mine");
    client.expect_nothing();
    other.expect_nothing();
    // Of two subscriptions that match, one without the option is enough.
    client.subscribe("+", 0);
    client.publish(Publish::new("a", "mine").qos(1, 1));
    client.receive("a", "mine");
}

pub(crate) fn replacing_a_subscription_replaces_its_options(b: &Broker) {
    let mut client = b.client("c");
    client.subscribe_with("a", RETAIN_AS_PUBLISHED | NO_LOCAL, vec![Prop::SubscriptionId(7)]);
    client.subscribe("a", 1);
    client.publish(Publish::new("a", "x").qos(1, 1).retain());
    let publish = client.receive("a", "x");
    assert_eq!(
        (publish.retain, publish.qos, publish.props),
        (false, 1, Vec::new())
    );
}

pub(crate) fn subscription_ids_of_all_matching_subscriptions(b: &Broker) {
    let mut client = b.client("c");
    for (filter, id) in [
        ("a/b", Some(1)),
        ("a/+", Some(268_435_455)),
        ("a/#", None),
        ("x", Some(9)),
    ] {
        client.subscribe_with(filter, 1, id.map(Prop::SubscriptionId).into_iter().collect());
    }
    b.publish(Publish::new("a/b", "x").qos(1, 1));
    let mut ids = client.receive("a/b", "x").subscription_ids();
    client.barrier();
    // Or a copy for each subscription.
    while let Event::Packet(Packet::Publish(copy)) = client.event(std::time::Duration::ZERO) {
        client.acknowledge(&copy);
        ids.extend(copy.subscription_ids());
    }
    ids.sort_unstable();
    assert_eq!(ids, [1, 268_435_455]);
    b.publish(Publish::new("a/c", "x").qos(1, 1).retain());
    client.barrier();
    assert!(
        client
            .accept()
            .subscription_ids()
            .iter()
            .all(|id| *id == 268_435_455)
    );
    // With a retained message, too.
    let mut late = b.client("late");
    late.subscribe_with("a/+", 0, vec![Prop::SubscriptionId(5)]);
    assert_eq!(late.receive("a/c", "x").subscription_ids(), [5]);
}

pub(crate) fn a_bad_filter_does_not_spoil_the_others(b: &Broker) {
    let mut client = b.client("c");
    client.send(&Packet::Subscribe {
        id: 1,
        filters: vec![("a".into(), 1), ("b/#/c".into(), 1), ("d".into(), 0)],
        props: Vec::new(),
    });
    match client.event(PATIENCE) {
        Event::Packet(Packet::SubAck { codes, .. }) => assert_eq!(codes, [1, 0x8f, 0]),
        // It may be taken for a malformed packet instead.
        Event::Packet(Packet::Disconnect { .. }) => {
            client = b.client("c");
            assert_eq!(subscribe_all(&mut client, &[("a", 1), ("d", 0)]), [1, 0]);
        }
        other => panic!("{other:?}"),
    }
    b.publish(Publish::new("d", "x"));
    client.receive("d", "x");
}

pub(crate) fn unsuback_has_a_code_for_each_filter(b: &Broker) {
    let mut client = b.client("c");
    subscribe_all(&mut client, &[("a", 0), ("b", 0)]);
    let filters = ["never", "b", "a", "a"].map(String::from).to_vec();
    client.send(&Packet::Unsubscribe {
        id: 9,
        filters,
        props: Vec::new(),
    });
    client.expect(Packet::UnsubAck {
        id: 9,
        codes: vec![0x11, 0, 0, 0x11],
        props: Vec::new(),
    });
}
