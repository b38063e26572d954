//! PUBLISH from the broker: ids, DUP, order, what is sent again.

use std::collections::BTreeSet;

use crate::mqtt::{Broker, Connect, Event, Packet, Publish};

pub(crate) fn unacknowledged_messages_have_ids_of_their_own(b: &Broker) {
    let mut client = b.client("c");
    client.subscribe("a", 2);
    for n in 0..12_u16 {
        b.publish(Publish::new("a", n.to_string()).qos(1 + (n % 2) as u8, 1));
    }
    // The decoder does not take id 0.
    let ids: BTreeSet<u16> = (0..12).map(|_| client.next_publish().id).collect();
    assert_eq!(ids.len(), 12);
}

pub(crate) fn qos_0_has_neither_id_nor_dup(b: &Broker) {
    let mut client = b.client("c");
    client.subscribe("a", 0);
    for qos in 0..=2 {
        b.publish(Publish::new("a", "payload").qos(qos, 1));
        // With an id the payload would begin with it.
        let publish = client.receive("a", "payload");
        assert_eq!((publish.qos, publish.dup), (0, false));
    }
}

pub(crate) fn first_transmission_has_no_dup(b: &Broker) {
    let mut client = b.client("c");
    client.subscribe("a", 2);
    for qos in 0..=2 {
        b.publish(Publish::new("a", "x").qos(qos, 1));
        let publish = client.receive("a", "x");
        assert_eq!((publish.qos, publish.dup), (qos, false));
    }
}

pub(crate) fn dup_of_the_publisher_is_not_passed_on(b: &Broker) {
    let mut client = b.client("c");
    client.subscribe("a", 2);
    for qos in 1..=2 {
        b.publish(Publish::new("a", "x").qos(qos, 1).dup());
        assert!(!client.receive("a", "x").dup);
    }
}

pub(crate) fn unacknowledged_messages_come_again_with_dup_and_their_ids(b: &Broker) {
    let mut client = b.kept("c");
    client.subscribe("a", 2);
    for (payload, qos) in [("1", 1), ("2", 2), ("3", 1), ("4", 2)] {
        b.publish(Publish::new("a", payload).qos(qos, 1));
    }
    let sent: Vec<Publish> = (0..4).map(|_| client.next_publish()).collect();
    client.vanish();
    let mut client = b.kept("c");
    for first in &sent {
        let again = client.next_publish();
        assert_eq!(again, first.clone().dup(), "the same but for DUP");
    }
    for publish in &sent {
        client.acknowledge(publish);
    }
    client.expect_nothing();
    client.vanish();
    b.kept("c").expect_nothing();
}

pub(crate) fn messages_come_again_only_after_reconnecting(b: &Broker) {
    let mut client = b.kept("c");
    client.subscribe("a", 1);
    b.publish(Publish::new("a", "x").qos(1, 1));
    let first = client.next_publish();
    assert!(matches!(
        client.event(std::time::Duration::from_millis(1200)),
        Event::Silence
    ));
    client.acknowledge(&first);
    client.expect_nothing();
}

pub(crate) fn pubrel_comes_again_with_its_id_and_the_message_does_not(b: &Broker) {
    let mut client = b.kept("c");
    client.subscribe("a", 2);
    b.publish(Publish::new("a", "x").qos(2, 1));
    let publish = client.next_publish();
    client.send(&Packet::pub_rec(publish.id));
    client.expect(Packet::pub_rel(publish.id));
    for _ in 0..2 {
        client.vanish();
        client = b.kept("c");
        client.expect(Packet::pub_rel(publish.id));
        client.expect_nothing();
    }
    client.send(&Packet::pub_comp(publish.id));
    client.barrier();
    client.vanish();
    b.kept("c").expect_nothing();
}

pub(crate) fn qos_1_message_is_unacknowledged_until_puback(b: &Broker) {
    let mut client = b.kept("c");
    client.subscribe("a", 1);
    b.publish(Publish::new("a", "x").qos(1, 1));
    for n in 0..3 {
        let publish = client.next_publish();
        assert_eq!((publish.text().as_str(), publish.dup), ("x", n > 0));
        client.vanish();
        client = b.kept("c");
    }
    client.receive("a", "x");
    client.barrier();
    client.vanish();
    b.kept("c").expect_nothing();
}

pub(crate) fn qos_2_message_is_unacknowledged_until_pubrec(b: &Broker) {
    let mut client = b.kept("c");
    client.subscribe("a", 2);
    b.publish(Publish::new("a", "x").qos(2, 1));
    for n in 0..3 {
        let publish = client.next_publish();
        assert_eq!((publish.text().as_str(), publish.dup), ("x", n > 0));
        client.vanish();
        client = b.kept("c");
    }
    client.receive("a", "x");
    client.expect_nothing();
}

pub(crate) fn pubrec_is_answered_with_pubrel(b: &Broker) {
    let mut client = b.client("c");
    client.subscribe("a", 2);
    b.publish(Publish::new("a", "x").qos(2, 1));
    let publish = client.next_publish();
    client.expect_nothing();
    client.send(&Packet::pub_rec(publish.id));
    client.expect(Packet::pub_rel(publish.id));
    client.send(&Packet::pub_comp(publish.id));
    client.expect_nothing();
}

pub(crate) fn messages_keep_their_order(b: &Broker) {
    for qos in 0..=2 {
        let mut client = b.client("c");
        client.subscribe("a/+", qos);
        let mut publisher = b.client("publisher");
        for n in 1..=50_u16 {
            publisher.send(&Packet::Publish(Publish::new("a/b", n.to_string()).qos(qos, n)));
            if qos == 2 {
                publisher.pub_rec(n);
                publisher.send(&Packet::pub_rel(n));
            }
        }
        for n in 1..=50 {
            client.receive("a/b", &n.to_string());
        }
    }
}

/// In the order they were sent first, before what came meanwhile.
pub(crate) fn messages_sent_again_keep_their_order(b: &Broker) {
    let mut client = b.kept("c");
    client.subscribe("a", 1);
    for n in 1..=5 {
        b.publish(Publish::new("a", n.to_string()).qos(1, 1));
    }
    for _ in 0..5 {
        client.next_publish();
    }
    client.vanish();
    for n in 6..=10 {
        b.publish(Publish::new("a", n.to_string()).qos(1, 1));
    }
    let mut client = b.kept("c");
    for n in 1..=10 {
        assert_eq!(client.receive("a", &n.to_string()).dup, n <= 5);
    }
    client.expect_nothing();
}

/// Each acknowledgement in the order of the messages, PUBREL in the order of the PUBRECs.
pub(crate) fn acknowledgements_keep_the_order_of_messages(b: &Broker) {
    let mut client = b.client("c");
    for n in 1..=20 {
        client.send(&Packet::Publish(Publish::new("a", "x").qos(1, n)));
    }
    for n in 1..=20 {
        assert!(matches!(client.next(), Packet::PubAck(ack) if ack.id == n));
    }
    for n in 1..=20 {
        client.send(&Packet::Publish(Publish::new("a", "x").qos(2, n)));
    }
    for n in 1..=20 {
        assert!(matches!(client.next(), Packet::PubRec(ack) if ack.id == n));
    }
}

pub(crate) fn pubrels_keep_the_order_of_pubrecs(b: &Broker) {
    let mut client = b.client("c");
    client.subscribe("a", 2);
    for _ in 0..5 {
        b.publish(Publish::new("a", "x").qos(2, 1));
    }
    let mut ids: Vec<u16> = (0..5).map(|_| client.next_publish().id).collect();
    ids.reverse();
    for id in &ids {
        client.send(&Packet::pub_rec(*id));
    }
    for id in ids {
        client.expect(Packet::pub_rel(id));
    }
}

pub(crate) fn accepted_message_goes_to_every_matching_session(b: &Broker) {
    let mut connected = b.client("connected");
    connected.subscribe("a/+", 1);
    let mut away = b.kept("away");
    away.subscribe("a/b", 1);
    away.disconnect();
    let mut other = b.client("other");
    other.subscribe("b/#", 1);
    let mut itself = b.client("itself");
    itself.subscribe("#", 1);

    itself.publish(Publish::new("a/b", "x").qos(1, 1));

    connected.receive("a/b", "x");
    itself.receive("a/b", "x");
    b.kept("away").receive("a/b", "x");
    other.expect_nothing();
}

/// The packet ids of both directions have nothing to do with each other.
pub(crate) fn ids_of_the_two_directions_are_independent(b: &Broker) {
    let mut client = b.client("c");
    client.subscribe("down", 2);
    b.publish(Publish::new("down", "x").qos(2, 1));
    let down = client.next_publish();
    client.send(&Packet::Publish(Publish::new("up", "y").qos(2, down.id)));
    client.pub_rec(down.id);
    client.send(&Packet::pub_rec(down.id));
    client.expect(Packet::pub_rel(down.id));
    client.release(down.id);
    client.send(&Packet::pub_comp(down.id));
    client.expect_nothing();
}

/// An id is given again once its exchange is over: many more messages than there are ids for.
pub(crate) fn ids_are_used_again(b: &Broker) {
    let mut client = b.connect(Connect::new("c"));
    client.subscribe("a", 1);
    let mut publisher = b.client("publisher");
    for round in 0..1400 {
        for n in 1..=50 {
            publisher.send(&Packet::Publish(Publish::new("a", "x").qos(1, n)));
        }
        for _ in 0..50 {
            let publish = client.next_publish();
            assert_eq!(
                (publish.topic.as_str(), publish.dup),
                ("a", false),
                "round {round}"
            );
            client.acknowledge(&publish);
        }
        for n in 1..=50 {
            publisher.find("PUBACK", |packet| {
                matches!(packet, Packet::PubAck(ack) if ack.id == n).then_some(())
            });
        }
    }
}
