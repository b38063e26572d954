//! Receive Maximum, Maximum Packet Size, Topic Alias Maximum.

use crate::mqtt::{Ack, Broker, Client, Connect, Event, Packet, Prop, Publish, Version};

/// What the broker announces, or its default.
fn receive_maximum(client: &Client) -> u16 {
    let announced = client.props.iter().find_map(|prop| match prop {
        Prop::ReceiveMaximum(maximum) => Some(*maximum),
        _ => None,
    });
    announced.unwrap_or(u16::MAX)
}

fn topic_alias_maximum(client: &Client) -> u16 {
    let announced = client.props.iter().find_map(|prop| match prop {
        Prop::TopicAliasMaximum(maximum) => Some(*maximum),
        _ => None,
    });
    announced.unwrap_or(0)
}

fn limited(b: &Broker, receive_maximum: u16) -> Client {
    b.connect(
        Connect {
            clean: false,
            ..Connect::new("c").prop(Prop::SessionExpiry(60))
        }
        .prop(Prop::ReceiveMaximum(receive_maximum)),
    )
}

pub(crate) fn receive_maximum_is_respected(b: &Broker) {
    let mut client = limited(b, 2);
    client.subscribe("a", 2);
    for n in 0..6_u16 {
        b.publish(Publish::new("a", n.to_string()).qos(1 + (n % 2) as u8, 1));
    }
    let mut unacknowledged = vec![client.next_publish(), client.next_publish()];
    client.expect_nothing();
    for n in 2..6_u16 {
        let done = unacknowledged.remove(0);
        client.acknowledge(&done);
        let next = client.next_publish();
        assert_eq!(next.text(), n.to_string());
        unacknowledged.push(next);
        client.expect_nothing();
    }
    // After reconnecting it holds for what is sent again, too.
    client.vanish();
    let mut client = limited(b, 1);
    let first = client.next_publish();
    assert_eq!((first.text().as_str(), first.dup), ("4", true));
    client.expect_nothing();
    client.acknowledge(&first);
    client.receive("a", "5");
}

pub(crate) fn a_small_receive_maximum_drains_a_long_queue(b: &Broker) {
    let mut client = limited(b, 1);
    client.subscribe("a", 2);
    client.disconnect();
    let mut publisher = b.client("publisher");
    for n in 0..200_u16 {
        publisher.publish(Publish::new("a", n.to_string()).qos(1 + (n % 2) as u8, 0));
    }
    let mut client = limited(b, 1);
    for n in 0..200 {
        client.receive("a", &n.to_string());
    }
}

pub(crate) fn other_packets_do_not_wait_for_the_quota(b: &Broker) {
    let mut client = limited(b, 1);
    client.subscribe("a", 2);
    for n in 0..3 {
        b.publish(Publish::new("a", n.to_string()).qos(2, 1));
    }
    let publish = client.next_publish();
    // SUBACK, UNSUBACK, PUBACK, PUBREC, PUBCOMP, PINGRESP
    client.subscribe("b", 0);
    client.unsubscribe("b");
    client.publish(Publish::new("c", "x").qos(1, 1));
    client.publish(Publish::new("c", "x").qos(2, 1));
    client.ping();
    client.send(&Packet::pub_rec(publish.id));
    client.expect(Packet::pub_rel(publish.id));
    client.expect_nothing();
    client.send(&Packet::pub_comp(publish.id));
    client.receive("a", "1");
}

pub(crate) fn more_than_the_receive_maximum_ends_the_connection(b: &Broker) {
    let mut client = b.client("c");
    let maximum = receive_maximum(&client);
    // QoS 2 messages whose PUBREL does not come.
    for n in 1..=maximum {
        client.send(&Packet::Publish(Publish::new("a", "x").qos(2, n)));
    }
    for n in 1..=maximum {
        client.pub_rec(n);
    }
    client.ping();
    if maximum < u16::MAX {
        client.send(&Packet::Publish(Publish::new("a", "x").qos(1, maximum + 1)));
        assert_eq!(client.expect_closed(), Some(0x93));
    }
}

pub(crate) fn no_packet_exceeds_the_maximum_packet_size(b: &Broker) {
    let mut client = b.connect(Connect::new("c").prop(Prop::MaximumPacketSize(100)));
    client.subscribe("a", 1);
    for length in [50, 200, 93, 1000] {
        b.publish(Publish::new("a", "x".repeat(length)).qos(1, 1));
    }
    b.publish(Publish::new("a", "last").qos(1, 1));
    let mut lengths = Vec::new();
    loop {
        let publish = client.accept();
        assert!(publish.encode(Version::V5).len() <= 100);
        if publish.text() == "last" {
            break;
        }
        lengths.push(publish.payload.len());
    }
    // 93 octets and 7 of PUBLISH: exactly as much as there may be.
    assert_eq!(
        Publish::new("a", "x".repeat(92))
            .qos(1, 1)
            .encode(Version::V5)
            .len(),
        100
    );
    assert_eq!(lengths, [50]);
    b.publish(Publish::new("a", "x".repeat(92)).qos(1, 1));
    assert_eq!(client.accept().payload.len(), 92);
}

/// Neither a place of the receive maximum nor the order suffers.
pub(crate) fn a_message_too_large_counts_as_delivered(b: &Broker) {
    let connect = |size| {
        b.connect(
            Connect {
                clean: false,
                ..Connect::new("c").prop(Prop::SessionExpiry(60))
            }
            .prop(Prop::MaximumPacketSize(size))
            .prop(Prop::ReceiveMaximum(1)),
        )
    };
    let mut client = connect(100);
    client.subscribe("a", 2);
    for n in 0..5 {
        b.publish(Publish::new("a", "x".repeat(500)).qos(1 + n % 2, 1));
        b.publish(Publish::new("a", n.to_string()).qos(2 - n % 2, 1));
    }
    for n in 0..5 {
        client.receive("a", &n.to_string());
    }
    client.expect_nothing();
    client.vanish();
    // It is not kept for a time with more room.
    connect(10_000).expect_nothing();
}

pub(crate) fn no_topic_alias_unasked(b: &Broker) {
    for connect in [
        Connect::new("c"),
        Connect::new("c").prop(Prop::TopicAliasMaximum(0)),
    ] {
        let mut client = b.connect(connect);
        client.subscribe("a", 0);
        for _ in 0..5 {
            b.publish(Publish::new("a", "x"));
            assert!(client.receive("a", "x").props.is_empty());
        }
    }
}

pub(crate) fn topic_aliases_stay_within_the_maximum(b: &Broker) {
    let mut client = b.connect(Connect::new("c").prop(Prop::TopicAliasMaximum(2)));
    client.subscribe("#", 0);
    let mut known: [Option<String>; 2] = [None, None];
    for topic in ["a", "b", "c", "a", "b", "c", "a", "a"] {
        b.publish(Publish::new(topic, topic));
        let publish = client.accept();
        let alias = publish.props.iter().find_map(|prop| match prop {
            Prop::TopicAlias(alias) => Some(*alias),
            _ => None,
        });
        let named = match (alias, publish.topic.as_str()) {
            (None, topic) => topic.to_owned(),
            (Some(alias @ 1..=2), "") => known[usize::from(alias) - 1].clone().expect("a known alias"),
            (Some(alias @ 1..=2), topic) => {
                known[usize::from(alias) - 1] = Some(topic.into());
                topic.to_owned()
            }
            (Some(alias), _) => panic!("alias {alias}"),
        };
        assert_eq!(named, topic);
    }
}

fn with_alias(topic: &str, payload: &str, alias: u16) -> Publish {
    Publish::new(topic, payload).prop(Prop::TopicAlias(alias))
}

pub(crate) fn topic_aliases_up_to_the_maximum_are_accepted(b: &Broker) {
    let mut client = b.client("c");
    let maximum = topic_alias_maximum(&client);
    client.subscribe("a/+", 0);
    for alias in 1..=maximum {
        let topic = format!("a/{alias}");
        client.publish(with_alias(&topic, "named", alias));
        let publish = client.receive(&topic, "named");
        assert!(
            publish.props.is_empty(),
            "the alias is for this connection alone: {publish:?}"
        );
    }
    for alias in (1..=maximum).rev() {
        client.publish(with_alias("", "by alias", alias));
        client.receive(&format!("a/{alias}"), "by alias");
    }
}

pub(crate) fn topic_aliases_are_changed_by_a_topic(b: &Broker) {
    let mut client = b.client("c");
    if topic_alias_maximum(&client) == 0 {
        return;
    }
    client.subscribe("#", 2);
    client.publish(with_alias("a", "1", 1).qos(1, 1));
    client.publish(with_alias("b", "2", 1).qos(2, 2));
    client.publish(with_alias("", "3", 1).qos(2, 3).retain());
    client.receive("a", "1");
    client.receive("b", "2");
    client.receive("b", "3");
    assert_eq!(b.retained("#"), [("b".into(), "3".into())]);
}

pub(crate) fn topic_alias_0_ends_the_connection(b: &Broker) {
    let mut client = b.client("c");
    client.send(&Packet::Publish(with_alias("a", "x", 0)));
    client.expect_closed_with(&[0x81, 0x82, 0x94]);
}

pub(crate) fn a_topic_alias_above_the_maximum_ends_the_connection(b: &Broker) {
    let mut client = b.client("c");
    let maximum = topic_alias_maximum(&client);
    for alias in [maximum + 1, u16::MAX] {
        let mut client = b.client("c");
        client.send(&Packet::Publish(with_alias("a", "x", alias)));
        client.expect_closed_with(&[0x94]);
    }
    client = b.client("c");
    client.ping();
}

pub(crate) fn topic_aliases_end_with_the_connection(b: &Broker) {
    let mut client = b.kept("c");
    client.publish(with_alias("a", "x", 1));
    client.disconnect();
    let mut client = b.kept("c");
    assert!(client.session_present);
    client.send(&Packet::Publish(with_alias("", "x", 1)));
    client.expect_closed_with(&[0x82, 0x94]);
    // Nor is it another client's.
    let mut other = b.client("other");
    other.send(&Packet::Publish(with_alias("", "x", 1)));
    other.expect_closed_with(&[0x82, 0x94]);
}

pub(crate) fn a_packet_too_large_ends_the_connection(b: &Broker) {
    let mut client = b.client("c");
    let announced = client.props.iter().find_map(|prop| match prop {
        Prop::MaximumPacketSize(size) => Some(*size as usize),
        _ => None,
    });
    let Some(maximum) = announced else {
        // Whoever announces nothing takes what MQTT can express; a taste of it.
        client.publish(Publish::new("a", vec![0; 2_000_000]).qos(1, 1));
        return;
    };
    client.subscribe("a", 0);
    let overhead = Publish::new("a", vec![0; maximum - 100])
        .encode(Version::V5)
        .len()
        - (maximum - 100);
    client.publish(Publish::new("a", vec![7; maximum - overhead]));
    assert_eq!(client.accept().payload.len(), maximum - overhead);
    client.send(&Packet::Publish(Publish::new(
        "a",
        vec![7; maximum - overhead + 1],
    )));
    client.expect_closed_with(&[0x95]);
}

/// PUBACK or PUBREC with a reason of 0x80 or more ends the exchange.
pub(crate) fn a_refused_message_is_acknowledged(b: &Broker) {
    let mut client = limited(b, 2);
    client.subscribe("a", 2);
    for qos in [1, 2, 1, 2] {
        b.publish(Publish::new("a", "x").qos(qos, 1));
    }
    for _ in 0..4 {
        let publish = client.next_publish();
        let refusal = Ack::code(publish.id, 0x97);
        client.send(&if publish.qos == 1 {
            Packet::PubAck(refusal)
        } else {
            Packet::PubRec(refusal)
        });
    }
    client.expect_nothing();
    client.vanish();
    let mut client = limited(b, 2);
    assert!(!matches!(
        client.event(std::time::Duration::ZERO),
        Event::Packet(_)
    ));
    client.expect_nothing();
}
