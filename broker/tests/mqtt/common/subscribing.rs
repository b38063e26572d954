//! SUBSCRIBE, UNSUBSCRIBE, filters.

use super::wire::{each_ends_the_connection, no_props};
use crate::mqtt::{Broker, Event, PATIENCE, Packet, Publish, Version, frame, text};

/// SUBSCRIBE with several filters; the codes of its SUBACK.
#[track_caller]
pub(crate) fn subscribe_all(client: &mut crate::mqtt::Client, filters: &[(&str, u8)]) -> Vec<u8> {
    let id = client.new_id();
    let filters = filters
        .iter()
        .map(|(filter, options)| ((*filter).into(), *options))
        .collect();
    client.send(&Packet::Subscribe {
        id,
        filters,
        props: Vec::new(),
    });
    client.find("SUBACK", |packet| match packet {
        Packet::SubAck {
            id: theirs, codes, ..
        } if *theirs == id => Some(codes.clone()),
        _ => None,
    })
}

pub(crate) fn subscribe_is_answered_with_its_id(b: &Broker) {
    let mut client = b.client("c");
    for id in [1, 255, 256, 65_535] {
        client.send(&Packet::subscribe(id, "a", 1));
        client.expect(Packet::SubAck {
            id,
            codes: vec![1],
            props: Vec::new(),
        });
    }
}

pub(crate) fn suback_and_unsuback_carry_the_id_they_answer(b: &Broker) {
    let mut client = b.client("c");
    client.send(&Packet::subscribe(300, "a", 0));
    client.expect(Packet::SubAck {
        id: 300,
        codes: vec![0],
        props: Vec::new(),
    });
    client.send(&Packet::unsubscribe(299, "a"));
    let codes = if b.version == Version::V5 {
        vec![0]
    } else {
        Vec::new()
    };
    client.expect(Packet::UnsubAck {
        id: 299,
        codes,
        props: Vec::new(),
    });
}

pub(crate) fn subscription_shows_the_granted_qos(b: &Broker) {
    let mut client = b.client("c");
    for qos in 0..=2 {
        let granted = client.subscribe("a", qos);
        assert!(granted <= qos, "{granted} for {qos}");
    }
}

pub(crate) fn codes_come_in_the_order_of_the_filters(b: &Broker) {
    let mut client = b.client("c");
    assert_eq!(
        subscribe_all(&mut client, &[("a", 2), ("b", 0), ("c", 1), ("d", 0)]),
        [2, 0, 1, 0]
    );
}

pub(crate) fn many_filters_are_as_many_subscriptions(b: &Broker) {
    let mut client = b.client("c");
    let codes = subscribe_all(&mut client, &[("a", 1), ("b/+", 0), ("a", 0), ("c/#", 2)]);
    assert_eq!(codes, [1, 0, 0, 2]);
    for topic in ["a", "b/1", "c/1/2", "d"] {
        b.publish(Publish::new(topic, topic).qos(2, 1));
    }
    // The later of two equal filters counts.
    assert_eq!(client.receive("a", "a").qos, 0);
    assert_eq!(client.receive("b/1", "b/1").qos, 0);
    assert_eq!(client.receive("c/1/2", "c/1/2").qos, 2);
    client.expect_nothing();
}

pub(crate) fn same_filter_replaces_the_subscription(b: &Broker) {
    let mut client = b.client("c");
    client.subscribe("a", 0);
    client.subscribe("a", 2);
    b.publish(Publish::new("a", "x").qos(2, 1));
    assert_eq!(client.receive("a", "x").qos, 2);
    client.subscribe("a", 1);
    b.publish(Publish::new("a", "y").qos(2, 1));
    assert_eq!(client.receive("a", "y").qos, 1);
    client.expect_nothing();
    // One UNSUBSCRIBE ends it.
    client.unsubscribe("a");
    b.publish(Publish::new("a", "z").qos(2, 1));
    client.expect_nothing();
}

pub(crate) fn subscribing_again_brings_the_retained_message_again(b: &Broker) {
    b.publish(Publish::new("a", "kept").qos(1, 1).retain());
    let mut client = b.client("c");
    for _ in 0..3 {
        client.subscribe("a", 1);
        assert!(client.receive("a", "kept").retain);
    }
}

/// Messages come while the same filter is subscribed over and over.
pub(crate) fn replacing_a_subscription_loses_nothing(b: &Broker) {
    let mut client = b.client("c");
    client.subscribe("a", 1);
    let mut publisher = b.client("publisher");
    for n in 1..=40 {
        publisher.send(&Packet::Publish(Publish::new("a", n.to_string()).qos(1, n)));
        client.send(&Packet::subscribe(n, "a", 1));
    }
    for n in 1..=40 {
        client.receive("a", &n.to_string());
    }
}

pub(crate) fn qos_is_the_lower_of_published_and_granted(b: &Broker) {
    let mut clients: Vec<_> = (0..=2).map(|qos| (qos, b.client(&format!("c{qos}")))).collect();
    for (granted, client) in &mut clients {
        client.subscribe("a", *granted);
    }
    for published in 0..=2 {
        b.publish(Publish::new("a", published.to_string()).qos(published, 1));
    }
    for (granted, client) in &mut clients {
        for published in 0..=2 {
            let publish = client.receive("a", &published.to_string());
            assert_eq!(publish.qos, published.min(*granted));
        }
    }
}

pub(crate) fn overlapping_subscriptions_give_the_highest_qos(b: &Broker) {
    let mut client = b.client("c");
    client.subscribe("a/#", 0);
    client.subscribe("a/+", 2);
    client.subscribe("a/b", 1);
    b.publish(Publish::new("a/b", "x").qos(2, 1));
    let mut copies = vec![client.receive("a/b", "x").qos];
    // A copy for each subscription is allowed too.
    client.barrier();
    while let Event::Packet(Packet::Publish(publish)) = client.event(std::time::Duration::ZERO) {
        client.acknowledge(&publish);
        copies.push(publish.qos);
    }
    assert_eq!(copies.iter().max(), Some(&2), "{copies:?}");
}

pub(crate) fn subscribe_without_a_filter_ends_the_connection(b: &Broker) {
    each_ends_the_connection(b, &[frame(0x82, &[&[0, 1], no_props(b.version)])]);
}

pub(crate) fn unsubscribe_without_a_filter_ends_the_connection(b: &Broker) {
    each_ends_the_connection(b, &[frame(0xa2, &[&[0, 1], no_props(b.version)])]);
}

pub(crate) fn filters_are_utf8(b: &Broker) {
    let none = no_props(b.version);
    each_ends_the_connection(b, &[frame(0x82, &[&[0, 1], none, &text(b"a/\xff"), &[0]])]);
}

pub(crate) fn filters_of_unsubscribe_are_utf8(b: &Broker) {
    let none = no_props(b.version);
    each_ends_the_connection(b, &[frame(0xa2, &[&[0, 1], none, &text(b"a/\xff")])]);
}

pub(crate) fn unsubscribe_compares_character_by_character(b: &Broker) {
    let mut client = b.client("c");
    client.subscribe("a/+", 0);
    client.subscribe("b/#", 0);
    for filter in ["a/b", "a/#", "A/+", "b/+", "#", "/a/+"] {
        client.unsubscribe(filter);
    }
    b.publish(Publish::new("a/b", "1"));
    client.receive("a/b", "1");
    client.unsubscribe("a/+");
    b.publish(Publish::new("a/b", "2"));
    b.publish(Publish::new("b/c", "3"));
    client.receive("b/c", "3");
    client.expect_nothing();
}

pub(crate) fn unsubscribe_stops_new_messages(b: &Broker) {
    let mut client = b.client("c");
    client.subscribe("a", 1);
    b.publish(Publish::new("a", "before").qos(1, 1));
    client.receive("a", "before");
    client.unsubscribe("a");
    b.publish(Publish::new("a", "after").qos(1, 1));
    client.expect_nothing();
}

pub(crate) fn unsubscribe_lets_started_deliveries_finish(b: &Broker) {
    let mut client = b.kept("c");
    client.subscribe("a", 2);
    b.publish(Publish::new("a", "one").qos(1, 1));
    b.publish(Publish::new("a", "two").qos(2, 1));
    let one = client.next_publish();
    let two = client.next_publish();
    client.unsubscribe("a");
    client.acknowledge(&one);
    client.send(&Packet::pub_rec(two.id));
    client.find("PUBREL", |packet| {
        (*packet == Packet::pub_rel(two.id)).then_some(())
    });
    client.vanish();
    // Half done, it goes on where it stood, subscribed or not.
    let mut client = b.kept("c");
    client.expect(Packet::pub_rel(two.id));
    client.send(&Packet::pub_comp(two.id));
    client.expect_nothing();
}

pub(crate) fn unsubscribe_is_answered_with_its_id(b: &Broker) {
    let mut client = b.client("c");
    client.subscribe("a", 0);
    client.send(&Packet::unsubscribe(515, "a"));
    match client.next() {
        Packet::UnsubAck { id: 515, .. } => {}
        other => panic!("{other:?}"),
    }
}

pub(crate) fn unsubscribe_of_nothing_is_answered(b: &Broker) {
    let mut client = b.client("c");
    client.send(&Packet::unsubscribe(9, "never"));
    match client.event(PATIENCE) {
        Event::Packet(Packet::UnsubAck { id: 9, .. }) => {}
        other => panic!("{other:?}"),
    }
}

pub(crate) fn unsubscribe_of_many_filters_has_one_answer(b: &Broker) {
    let mut client = b.client("c");
    subscribe_all(&mut client, &[("a", 0), ("b", 0), ("c", 0)]);
    let filters = ["a", "never", "b"].map(String::from).to_vec();
    client.send(&Packet::Unsubscribe {
        id: 9,
        filters,
        props: Vec::new(),
    });
    assert!(matches!(client.next(), Packet::UnsubAck { id: 9, .. }));
    for topic in ["a", "b", "c"] {
        b.publish(Publish::new(topic, "x"));
    }
    client.receive("c", "x");
    client.expect_nothing();
}

/// Filter, topics that match, topics that do not.
const MATCHES: &[(&str, &[&str], &[&str])] = &[
    (
        "sport/tennis",
        &["sport/tennis"],
        &[
            "sport",
            "sport/tennis/",
            "/sport/tennis",
            "Sport/tennis",
            "sport/tennis/p",
        ],
    ),
    (
        "sport/#",
        &["sport", "sport/", "sport/tennis", "sport/tennis/player1/ranking"],
        &["sports", "/sport", "a/sport"],
    ),
    (
        "#",
        &["sport", "/", "/finance", "a//b", "a/$b"],
        &["$data", "$data/a"],
    ),
    ("+", &["sport", "a b"], &["/finance", "sport/", "$data"]),
    (
        "+/+",
        &["/finance", "sport/", "/", "a/b"],
        &["sport", "a/b/c", "//", "$data/a"],
    ),
    ("/+", &["/finance", "/"], &["finance", "/a/b"]),
    (
        "sport/+",
        &["sport/", "sport/tennis"],
        &["sport", "sport/tennis/player1"],
    ),
    (
        "sport/+/player1",
        &["sport/tennis/player1", "sport//player1"],
        &["sport/player1", "sport/a/b/player1"],
    ),
    (
        "+/tennis/#",
        &["sport/tennis", "/tennis/a", "a/tennis/b/c"],
        &["tennis", "a/b/tennis", "$data/tennis"],
    ),
    ("$data/#", &["$data", "$data/a/b"], &["data", "a/$data"]),
    ("$data/+", &["$data/a", "$data/"], &["$data", "$data/a/b"]),
    ("/", &["/"], &["", "a/", "/a", "//"]),
    ("a//b", &["a//b"], &["a/b", "a/ /b", "a///b"]),
    ("a/$b/+", &["a/$b/c"], &["a/b/c"]),
    ("ä/☂", &["ä/☂"], &["a\u{308}/☂", "Ä/☂"]),
];

#[track_caller]
fn check_matches(b: &Broker, relevant: impl Fn(&str) -> bool) {
    let mut publisher = b.client("publisher");
    for (filter, matching, other) in MATCHES.iter().filter(|(filter, ..)| relevant(filter)) {
        let mut client = b.client("subscriber");
        client.subscribe(filter, 0);
        for topic in other.iter().chain(*matching).filter(|topic| !topic.is_empty()) {
            publisher.publish(Publish::new(topic, *topic));
        }
        client.barrier();
        let mut seen = Vec::new();
        while let Event::Packet(Packet::Publish(publish)) = client.event(std::time::Duration::ZERO) {
            seen.push(publish.topic);
        }
        assert_eq!(seen, *matching, "{filter}");
    }
}

pub(crate) fn multi_level_wildcard_matches_the_parent_and_all_below(b: &Broker) {
    check_matches(b, |filter| filter.contains('#'));
}

pub(crate) fn single_level_wildcard_matches_one_level(b: &Broker) {
    check_matches(b, |filter| filter.contains('+'));
}

pub(crate) fn wildcards_first_do_not_match_dollar_topics(b: &Broker) {
    check_matches(b, |filter| filter.starts_with(['#', '+', '$']));
}

pub(crate) fn matching_normalises_nothing(b: &Broker) {
    check_matches(b, |filter| !filter.contains(['#', '+']));
}

pub(crate) fn a_message_matches_the_subscription_it_comes_for(b: &Broker) {
    check_matches(b, |_| true);
}

/// Rejected as a subscription or as a violation.
#[track_caller]
fn each_filter_is_rejected(b: &Broker, filters: &[&str]) {
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

pub(crate) fn multi_level_wildcard_elsewhere_is_rejected(b: &Broker) {
    each_filter_is_rejected(b, &["sport/tennis#", "sport/#/ranking", "#a", "#/", "##", "a/#b"]);
}

pub(crate) fn single_level_wildcard_beside_others_is_rejected(b: &Broker) {
    each_filter_is_rejected(b, &["sport+", "+a", "a/b+/c", "++", "a/+b"]);
}

pub(crate) fn empty_filter_is_rejected(b: &Broker) {
    each_filter_is_rejected(b, &[""]);
    each_ends_the_connection(b, &[Publish::new("", "x").encode(b.version)]);
}

/// Reserved bits of the options, and QoS 3.
pub(crate) fn reserved_subscription_options_end_the_connection(b: &Broker) {
    let options: &[u8] = match b.version {
        Version::V3 => &[0x03, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80],
        Version::V5 => &[0x03, 0x30, 0x40, 0x80],
    };
    for options in options {
        each_ends_the_connection(b, &[Packet::subscribe(1, "a", *options).encode(b.version)]);
    }
}
