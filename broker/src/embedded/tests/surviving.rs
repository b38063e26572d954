//! Sessions that survive a restart.

use std::collections::BTreeMap;

use gateway_core::io::{StoreChange, StoreKey};

use super::*;
use crate::embedded::kept::PATIENCE;

type Store = BTreeMap<StoreKey, Bytes>;

fn restarted(store: &Store) -> Broker {
    let mut broker = Broker::new();
    let values = store.iter().map(|(key, value)| (*key, value.clone())).collect();
    broker.router.keep_sessions(broker.now, values);
    broker
}

/// What is to be written; nothing of it is durable.
fn changes(broker: &mut Broker) -> Option<(u64, Vec<StoreChange>)> {
    broker.router.poll_changes()
}

/// Writes everything; returns the number of changes.
fn write(broker: &mut Broker, store: &mut Store) -> usize {
    let mut count = 0;
    while let Some((number, changes)) = changes(broker) {
        count += changes.len();
        for change in changes {
            match change {
                StoreChange::Put(key, value) => store.insert(key, value),
                StoreChange::Delete(key) => store.remove(&key),
            };
        }
        broker.router.on_durable(number);
        broker.drain();
    }
    count
}

/// A session with subscriptions, written.
fn kept(broker: &mut Broker, store: &mut Store, id: &str, filters: &[(&str, QoS)]) -> ClientKey {
    let client = broker.connect(resume(id, 100));
    let filters = filters
        .iter()
        .map(|(filter, qos)| subscription(filter, *qos))
        .collect();
    broker.subscribe_with(client, None, filters);
    write(broker, store);
    broker.take(client);
    client
}

fn subscribed(replies: &[Reply]) -> bool {
    replies.iter().any(|reply| matches!(reply, Reply::SubAck { .. }))
}

#[test]
fn suback_waits_until_it_would_survive_and_nobody_else_does() {
    let mut broker = restarted(&Store::new());
    let client = broker.connect(resume("a", 100));
    assert_eq!(broker.take(client), connack(false));
    let filters = || vec![subscription("t", AtLeastOnce)];
    assert_eq!(broker.subscribe_with(client, None, filters()), []);
    let (first, _) = changes(&mut broker).unwrap();

    let other = broker.client("b");
    assert!(
        subscribed(&broker.subscribe_with(other, None, filters())),
        "it ends with its connection"
    );
    broker.publish(other, 7, message("t", AtLeastOnce, "x"));
    assert_eq!(broker.payloads(client), ["x"], "the subscription is there");
    assert_eq!(
        broker.subscribe_with(client, None, filters()),
        [],
        "nothing new, but not written either"
    );

    assert_eq!(changes(&mut broker), None, "one at a time, and nothing changed");
    broker.router.on_durable(first);
    broker.drain();
    let replies = broker.take(client);
    assert_eq!(replies.len(), 2);
    assert!(subscribed(&replies));
    assert!(subscribed(&broker.subscribe_with(client, None, filters())));
    assert_eq!(changes(&mut broker), None);
}

#[test]
fn answers_wait_for_a_disk_that_fails_only_so_long() {
    let mut broker = restarted(&Store::new());
    let client = broker.connect(resume("a", 100));
    broker.take(client);
    assert_eq!(
        broker.subscribe_with(client, None, vec![subscription("t", AtLeastOnce)]),
        []
    );
    broker.wait(PATIENCE - Duration::from_micros(1));
    assert_eq!(broker.take(client), []);
    broker.wait(Duration::from_micros(1));
    assert!(subscribed(&broker.take(client)));
    // And not without end.
    for round in 0..2_000 {
        let filter = if round % 2 == 0 { AtMostOnce } else { AtLeastOnce };
        broker.subscribe_with(client, None, vec![subscription("t", filter)]);
    }
    broker.wait(PATIENCE);
    assert_eq!(changes(&mut broker).unwrap().1.len(), 1, "gathered by session");
}

#[test]
fn subscriptions_and_sessions_survive() {
    let mut store = Store::new();
    let mut broker = restarted(&store);
    kept(
        &mut broker,
        &mut store,
        "a",
        &[
            ("a/#", AtLeastOnce),
            ("$share/g/s", ExactlyOnce),
            ("gone", AtLeastOnce),
        ],
    );
    let client = broker.connect(resume("b", u32::MAX));
    let filters = vec![Subscription {
        no_local: true,
        retain_as_published: true,
        ..subscription("b", ExactlyOnce)
    }];
    broker.subscribe_with(client, Some(77), filters);
    let a = broker.connect(resume("a", 100));
    let filters = vec!["gone".into()];
    broker.say(
        a,
        Received::Unsubscribe {
            packet_id: 3,
            filters,
        },
    );
    broker.client("clean");
    write(&mut broker, &mut store);
    assert_eq!(store.len(), 2);

    let mut broker = restarted(&store);
    let stats = broker.router.stats();
    assert_eq!(
        (stats.sessions, stats.subscriptions, stats.shared_subscriptions),
        (2, 3, 1)
    );
    assert_eq!(changes(&mut broker), None);
    let publisher = broker.client("p");
    for (packet_id, topic) in (1..).zip(["a/b", "s", "gone", "b"]) {
        broker.publish(publisher, packet_id, retained(topic, ExactlyOnce, topic));
    }
    let client = broker.connect(resume("a", 100));
    assert_eq!(broker.take(client)[..1], connack(true));
    assert_eq!(broker.router.held("a"), 2);
    let client = broker.connect(resume("b", u32::MAX));
    let replies = broker.take(client);
    assert_eq!(replies[..1], connack(true));
    assert_eq!(broker.router.held("b"), 1);
    let Reply::PubRel { packet_id, .. } = replies[1] else {
        panic!("{replies:?}");
    };
    broker.say(client, Received::PubComp { packet_id });
    let deliveries = broker.deliveries(client);
    assert_eq!((&deliveries[0].ids[..], deliveries[0].retain), (&[77][..], true));
    broker.publish(client, 9, message("b", AtLeastOnce, "own"));
    assert_eq!(broker.payloads(client), [""; 0], "No Local survived");
    assert_eq!(write(&mut broker, &mut store), 0, "coming back changes nothing");
}

#[test]
fn expiry_begins_anew_with_the_restart_and_its_end_is_written() {
    let mut store = Store::new();
    let mut broker = restarted(&store);
    let client = kept(&mut broker, &mut store, "a", &[("t", AtLeastOnce)]);
    broker.close(client);
    broker.wait_secs(60);

    let mut broker = restarted(&store);
    broker.wait_secs(99);
    assert_eq!(broker.router.stats().sessions, 1);
    broker.wait_secs(1);
    assert_eq!(broker.router.stats().sessions, 0);
    write(&mut broker, &mut store);
    assert_eq!(store, Store::new());
}

#[test]
fn what_ends_leaves_nothing_in_the_store() {
    let mut store = Store::new();
    let mut broker = restarted(&store);
    let until = |broker: &mut Broker, id: &str, end: &dyn Fn(&mut Broker, ClientKey)| {
        let client = broker.connect(resume(id, 100));
        end(broker, client);
    };
    kept(&mut broker, &mut store, "a", &[("t", AtLeastOnce)]);
    kept(&mut broker, &mut store, "b", &[("t", AtLeastOnce)]);
    kept(&mut broker, &mut store, "c", &[("t", AtLeastOnce)]);
    assert_eq!(store.len(), 3);
    broker.client("a");
    until(&mut broker, "b", &|broker, client| {
        broker.say(
            client,
            Received::Disconnect {
                with_will: false,
                session_expiry: Some(0),
            },
        );
    });
    broker.connect(resume("c", 0));
    assert_eq!(write(&mut broker, &mut store), 3);
    assert_eq!(store, Store::new());
    until(&mut broker, "d", &|broker, _| {
        broker.client("d");
    });
    assert_eq!(write(&mut broker, &mut store), 0, "it was never written");
}

#[test]
fn what_cannot_be_read_or_is_too_much_is_dropped_and_counted() {
    let mut store = Store::new();
    let mut broker = restarted(&store);
    kept(&mut broker, &mut store, "twice", &[("old", AtLeastOnce)]);
    let (first, value) = store
        .first_key_value()
        .map(|(key, value)| (*key, value.clone()))
        .unwrap();
    // It began anew, and the power went before the deletion of the earlier one was written.
    broker.client("twice");
    kept(&mut broker, &mut store, "twice", &[("new", AtLeastOnce)]);
    store.insert(first, value.clone());
    let key = |id| StoreKey { id, ..first };
    store.insert(key(1000), value.slice(..value.len() - 1));
    store.insert(key(1001), Bytes::new());

    let mut broker = restarted(&store);
    let stats = broker.router.stats();
    assert_eq!((stats.sessions, stats.sessions_not_restored), (1, 2));
    let publisher = broker.client("p");
    broker.publish(publisher, 1, message("new", AtLeastOnce, "x"));
    broker.publish(publisher, 2, message("old", AtLeastOnce, "x"));
    assert_eq!(broker.router.held("twice"), 1);
    write(&mut broker, &mut store);
    assert_eq!(store.len(), 1);

    for id in 0..2 * LIMITS.sessions_max {
        let client = broker.connect(resume(&format!("c{id}"), 100));
        broker.take(client);
        write(&mut broker, &mut store);
    }
    // From a time with a higher limit.
    let (_, last) = store.pop_first().unwrap();
    store.insert(key(2000), last);
    let few = RouterLimits {
        sessions_max: 5,
        ..LIMITS
    };
    let mut broker = Broker::with(few);
    let values: Vec<_> = store.clone().into_iter().collect();
    let count = values.len();
    broker.router.keep_sessions(broker.now, values);
    let stats = broker.router.stats();
    assert_eq!(
        (stats.sessions, stats.sessions_not_restored),
        (5, count as u64 - 5)
    );
    write(&mut broker, &mut store);
    assert_eq!(store.len(), 5);
}

#[test]
fn packet_ids_are_cleared_before_they_carry_qos_2_to_a_client_of_an_earlier_life() {
    let mut store = Store::new();
    let mut broker = restarted(&store);
    kept(&mut broker, &mut store, "a", &[("t", ExactlyOnce)]);
    let mut broker = restarted(&store);
    let publisher = broker.client("p");
    broker.publish(publisher, 1, message("t", ExactlyOnce, "first"));
    broker.publish(publisher, 2, message("t", AtLeastOnce, "second"));
    let pubrel = vec![Reply::PubRel {
        packet_id: 1,
        reason: reason::SUCCESS,
    }];
    for _ in 0..2 {
        // Again on each connection until the client said that it holds nothing.
        let client = broker.connect(resume("a", 100));
        let replies = broker.take(client);
        assert_eq!(replies[..2], [connack(true), pubrel.clone()].concat());
        assert!(matches!(&replies[2], Reply::Publish(delivery) if payload(delivery) == "second"));
        broker.close(client);
    }
    let client = broker.connect(resume("a", 100));
    broker.take(client);
    broker.say(client, Received::PubComp { packet_id: 1 });
    let first = broker.deliveries(client);
    assert_eq!(
        (first[0].packet_id, first[0].dup, payload(&first[0])),
        (1, false, "first".into())
    );
    broker.say(client, pubrec(1));
    assert_eq!(broker.take(client), pubrel);
    broker.say(client, Received::PubComp { packet_id: 1 });
    broker.say(client, puback(2));
    assert_eq!(broker.router.held("a"), 0);
    // A client that acknowledges what it did not get breaks the protocol.
    broker.publish(publisher, 3, message("t", ExactlyOnce, "third"));
    broker.take(client);
    broker.say(client, pubrec(3));
    assert_eq!(broker.take(client), disconnected(reason::PROTOCOL_ERROR));
}

#[test]
fn what_expires_while_its_packet_id_is_cleared_is_not_sent() {
    let mut store = Store::new();
    let mut broker = restarted(&store);
    kept(&mut broker, &mut store, "a", &[("t", ExactlyOnce)]);
    let mut broker = restarted(&store);
    let publisher = broker.client("p");
    let client = broker.connect_without_credit(resume("a", 100));
    broker.credit(client, 1);
    broker.take(client);
    let short = Message {
        expiry: Some(1),
        ..message("t", ExactlyOnce, "short")
    };
    broker.publish(publisher, 1, short);
    let pubrel = Reply::PubRel {
        packet_id: 1,
        reason: reason::SUCCESS,
    };
    assert_eq!(broker.take(client), [pubrel]);
    broker.wait_secs(1);
    broker.say(client, Received::PubComp { packet_id: 1 });
    assert_eq!(broker.take(client), []);
    assert_eq!(broker.router.held("a"), 0);
    assert_eq!(broker.router.stats().dropped_expired, 1);
    // The credit is for the next.
    broker.publish(publisher, 2, message("t", AtLeastOnce, "next"));
    assert_eq!(broker.payloads(client), ["next"]);
}

#[test]
fn without_a_store_nothing_is_written() {
    let mut broker = Broker::new();
    let client = broker.connect(resume("a", 100));
    broker.take(client);
    assert!(subscribed(&broker.subscribe_with(
        client,
        None,
        vec![subscription("t", AtLeastOnce)]
    )));
    assert_eq!(changes(&mut broker), None);
}
