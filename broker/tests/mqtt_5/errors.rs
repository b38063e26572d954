//! Protocol errors, malformed packets, AUTH.

use crate::mqtt::common::wire::{each_ends_the_connection, each_is_refused, raw_connect};
use crate::mqtt::{Broker, Connect, Event, PATIENCE, Packet, Prop, Publish, Version, frame, text};

pub(crate) fn subscription_id_from_a_client_ends_the_connection(b: &Broker) {
    let mut client = b.client("c");
    client.send(&Packet::Publish(
        Publish::new("a", "x").prop(Prop::SubscriptionId(1)),
    ));
    client.expect_closed_with(&[0x81, 0x82]);
}

pub(crate) fn pubrec_for_nothing_is_answered_with_not_found(b: &Broker) {
    let mut client = b.client("c");
    client.send(&Packet::pub_rec(77));
    match client.event(PATIENCE) {
        Event::Packet(Packet::PubRel(ack)) => assert_eq!((ack.id, ack.code), (77, 0x92)),
        // Or it is a protocol error.
        Event::Packet(Packet::Disconnect { .. }) | Event::Closed => {}
        other => panic!("{other:?}"),
    }
}

pub(crate) fn pubrel_for_nothing_is_answered_with_not_found(b: &Broker) {
    let mut client = b.client("c");
    assert_eq!(client.release(77), 0x92);
    assert_eq!(client.publish(Publish::new("a", "x").qos(2, 77)) & 0x80, 0);
    assert_eq!(client.release(77), 0x92);
}

pub(crate) fn auth_with_wrong_flags_ends_the_connection(b: &Broker) {
    each_ends_the_connection(b, &[frame(0xf1, &[]), frame(0xff, &[&[0x18, 0]])]);
}

pub(crate) fn auth_ends_the_connection(b: &Broker) {
    let mut client = b.client("c");
    let props = vec![Prop::AuthMethod("SCRAM-SHA-1".into())];
    client.send(&Packet::Auth { code: 0x19, props });
    client.expect_closed_with(&[0x82]);
}

pub(crate) fn authentication_methods_are_refused(b: &Broker) {
    let mut client = b.open();
    let connect = Connect::new("c")
        .prop(Prop::AuthMethod("SCRAM-SHA-1".into()))
        .prop(Prop::AuthData(vec![1]));
    client.send(&Packet::Connect(connect));
    client.expect_refused_with(&[0x8c, 0x87]);
}

/// Properties out of place, twice, or with a value they cannot have.
pub(crate) fn protocol_errors_in_properties_end_the_connection(b: &Broker) {
    let publish = |props: &[Prop]| {
        Publish {
            props: props.to_vec(),
            ..Publish::new("a", "x")
        }
        .encode(Version::V5)
    };
    let subscribe = |props: &[Prop]| {
        Packet::Subscribe {
            id: 1,
            filters: vec![("a".into(), 0)],
            props: props.to_vec(),
        }
        .encode(Version::V5)
    };
    let disconnect = |props: &[Prop]| {
        Packet::Disconnect {
            code: 0,
            props: props.to_vec(),
        }
        .encode(Version::V5)
    };
    each_ends_the_connection(
        b,
        &[
            publish(&[Prop::PayloadFormat(2)]),
            publish(&[Prop::PayloadFormat(1), Prop::PayloadFormat(1)]),
            publish(&[Prop::MessageExpiry(1), Prop::MessageExpiry(1)]),
            publish(&[Prop::ContentType("a".into()), Prop::ContentType("a".into())]),
            publish(&[Prop::ResponseTopic("a".into()), Prop::ResponseTopic("a".into())]),
            publish(&[Prop::CorrelationData(vec![1]), Prop::CorrelationData(vec![1])]),
            publish(&[Prop::TopicAlias(1), Prop::TopicAlias(1)]),
            publish(&[Prop::SessionExpiry(1)]),
            publish(&[Prop::ReceiveMaximum(1)]),
            publish(&[Prop::Reason("a".into())]),
            Publish::new("", "neither topic nor alias").encode(Version::V5),
            subscribe(&[Prop::SubscriptionId(0)]),
            subscribe(&[Prop::SubscriptionId(1), Prop::SubscriptionId(2)]),
            subscribe(&[Prop::MessageExpiry(1)]),
            disconnect(&[Prop::SessionExpiry(0), Prop::SessionExpiry(0)]),
            disconnect(&[Prop::ReceiveMaximum(1)]),
        ],
    );
}

pub(crate) fn protocol_errors_in_connect_are_refused(b: &Broker) {
    let twice = |prop: Prop| {
        Connect::new("c")
            .prop(prop.clone())
            .prop(prop)
            .encode(Version::V5)
    };
    let one = |prop: Prop| Connect::new("c").prop(prop).encode(Version::V5);
    let will = |prop: Prop| {
        Connect::new("c")
            .will("w", "x")
            .will_prop(prop.clone())
            .will_prop(prop)
    };
    each_is_refused(
        b,
        &[
            one(Prop::ReceiveMaximum(0)),
            one(Prop::MaximumPacketSize(0)),
            one(Prop::RequestProblemInfo(2)),
            one(Prop::RequestResponseInfo(2)),
            one(Prop::AuthData(vec![1])),
            one(Prop::TopicAlias(1)),
            one(Prop::ServerKeepAlive(1)),
            twice(Prop::SessionExpiry(1)),
            twice(Prop::ReceiveMaximum(1)),
            twice(Prop::MaximumPacketSize(100)),
            twice(Prop::TopicAliasMaximum(1)),
            twice(Prop::RequestProblemInfo(1)),
            twice(Prop::RequestResponseInfo(1)),
            will(Prop::WillDelay(1)).encode(Version::V5),
            will(Prop::MessageExpiry(1)).encode(Version::V5),
            Connect::new("c")
                .will("w", "x")
                .will_prop(Prop::TopicAlias(1))
                .encode(Version::V5),
            Connect::new("c")
                .will("w", "x")
                .will_prop(Prop::PayloadFormat(2))
                .encode(Version::V5),
            Connect::new("c").will("w/#", "x").encode(Version::V5),
        ],
    );
    // And no alias at all is no mistake.
    b.connect(Connect::new("c").prop(Prop::TopicAliasMaximum(0)))
        .ping();
}

/// Lengths that lie, properties that do not exist.
pub(crate) fn malformed_properties_end_the_connection(b: &Broker) {
    each_ends_the_connection(
        b,
        &[
            frame(0x30, &[&text("a"), &[0x7f]]),
            frame(0x30, &[&text("a"), &[0x80]]),
            frame(0x30, &[&text("a"), &[0xff, 0xff, 0xff, 0xff, 0x01]]),
            frame(0x30, &[&text("a"), &[2, 0x02, 0]]),
            frame(0x30, &[&text("a"), &[1, 0x26]]),
            frame(0x30, &[&text("a"), &[2, 0x00, 0x00]]),
            frame(0x30, &[&text("a"), &[2, 0x7e, 0x00]]),
            frame(0x30, &[&text("a"), &[5, 0x03, 0, 9, b'a', b'b']]),
            frame(0x82, &[&[0, 1], &[5], &text("a"), &[0]]),
            frame(
                0x82,
                &[&[0, 1], &[5, 0x0b, 0xff, 0xff, 0xff, 0xff], &text("a"), &[0]],
            ),
            frame(0x40, &[&[0, 1, 0, 9]]),
            frame(0xe0, &[&[0, 9]]),
        ],
    );
    each_is_refused(
        b,
        &[
            frame(0x10, &[&text("MQTT"), &[5, 2, 0, 0], &[0x7f], &text("c")]),
            frame(
                0x10,
                &[&text("MQTT"), &[5, 2, 0, 0], &[3, 0x11, 0, 0], &text("c")],
            ),
            frame(0x10, &[&text("MQTT"), &[5, 2, 0, 0], &[2, 0x7e, 0], &text("c")]),
            raw_connect(
                Version::V5,
                0x06,
                &[&text("c"), &[9, 0x18, 0], &text("w"), &text("x")],
            ),
        ],
    );
}

/// The broker's own topics are nobody else's.
pub(crate) fn a_refused_qos_2_id_is_free(b: &Broker) {
    let mut observer = b.client("observer");
    observer.subscribe("$SYS/broker/made/up", 2);
    observer.subscribe("a", 2);
    let mut client = b.client("c");
    for _ in 0..2 {
        assert_eq!(
            client.publish(Publish::new("$SYS/broker/made/up", "x").qos(1, 5)),
            0x87
        );
        assert_eq!(
            client.publish(Publish::new("$SYS/broker/made/up", "x").qos(2, 5)),
            0x87
        );
    }
    // Without a PUBREL.
    client.publish(Publish::new("a", "new").qos(2, 5));
    observer.receive("a", "new");
    observer.expect_nothing();
}
