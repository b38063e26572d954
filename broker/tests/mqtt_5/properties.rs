//! Properties of messages, and how properties are written.

use crate::mqtt::common::wire::each_ends_the_connection;
use crate::mqtt::{Ack, Broker, Connect, Packet, Prop, Publish, Version, frame, text};

fn user(name: &str, value: &str) -> Prop {
    Prop::User(name.into(), value.into())
}

/// The decoder takes no other.
pub(crate) fn lengths_take_the_fewest_octets(b: &Broker) {
    let mut client = b.client("c");
    client.subscribe("a", 0);
    for length in [0, 100, 122, 123, 124, 127, 128, 16_378, 16_379, 16_380, 16_384] {
        client.publish(Publish::new("a", vec![b'x'; length]));
        assert_eq!(client.accept().payload.len(), length);
    }
    for length in [118, 119, 120, 121, 122, 16_000] {
        client.publish(Publish::new("a", "x").prop(user("k", &"v".repeat(length))));
        assert_eq!(client.accept().props, [user("k", &"v".repeat(length))]);
    }
}

pub(crate) fn no_properties_are_a_length_of_0(b: &Broker) {
    let mut client = b.client("c");
    client.send(&Packet::subscribe(1, "a", 1));
    client.expect(Packet::SubAck {
        id: 1,
        codes: vec![1],
        props: Vec::new(),
    });
    client.publish(Publish::new("a", "\u{0}").qos(1, 1));
    // Without a length of 0 before it, the payload would be taken for one.
    let publish = client.accept();
    assert_eq!((publish.payload, publish.props), (vec![0], Vec::new()));
    client.send(&Packet::unsubscribe(2, "a"));
    client.expect(Packet::UnsubAck {
        id: 2,
        codes: vec![0],
        props: Vec::new(),
    });
}

pub(crate) fn user_properties_are_utf8(b: &Broker) {
    let with = |name: &[u8], value: &[u8]| {
        let prop = [vec![0x26], text(name), text(value)].concat();
        frame(0x30, &[&text("a"), &[prop.len() as u8], &prop, b"x"])
    };
    each_ends_the_connection(
        b,
        &[
            with(b"a\xff", b"v"),
            with(b"k", b"\xed\xa0\x80"),
            with(b"k\0", b"v"),
            with(b"k", b"\0"),
        ],
    );
}

pub(crate) fn strings_of_properties_are_utf8(b: &Broker) {
    let cases: Vec<Vec<u8>> = [0x03, 0x08]
        .into_iter()
        .flat_map(|number| [b"a\xff".as_slice(), b"\xed\xa0\x80", b"a\0"].map(|octets| (number, octets)))
        .map(|(number, octets)| {
            let prop = [vec![number], text(octets)].concat();
            frame(0x30, &[&text("a"), &[prop.len() as u8], &prop, b"x"])
        })
        .collect();
    each_ends_the_connection(b, &cases);
}

pub(crate) fn response_topic_has_no_wildcards(b: &Broker) {
    let cases = ["+", "#", "a/+", "a/#"].map(|topic| {
        Publish::new("a", "x")
            .prop(Prop::ResponseTopic(topic.into()))
            .encode(Version::V5)
    });
    each_ends_the_connection(b, &cases);
}

pub(crate) fn message_properties_are_handed_on_unaltered(b: &Broker) {
    let mut client = b.client("c");
    client.subscribe("a", 2);
    let mut late = b.kept("late");
    late.subscribe("a", 2);
    late.disconnect();
    let props = vec![
        Prop::PayloadFormat(1),
        Prop::ContentType("text/plain; charset=utf-8".into()),
        Prop::ResponseTopic("answer/here".into()),
        Prop::CorrelationData(vec![0, 1, 2, 0xff]),
        user("k", "v"),
    ];
    for qos in 0..=2 {
        b.publish(Publish {
            props: props.clone(),
            ..Publish::new("a", "x").qos(qos, 1).retain()
        });
        assert_same(client.receive("a", "x").props, &props);
    }
    b.publish(
        Publish::new("a", "none")
            .prop(Prop::PayloadFormat(0))
            .prop(Prop::CorrelationData(Vec::new())),
    );
    let unusual = client.receive("a", "none").props;
    assert!(
        unusual.contains(&Prop::CorrelationData(Vec::new())),
        "{unusual:?}"
    );

    // Those that waited, and those that are retained.
    let mut late = b.kept("late");
    for _ in 0..2 {
        assert_same(late.accept().props, &props);
    }
    let mut retained = b.client("retained");
    retained.subscribe("a", 0);
    assert_same(retained.receive("a", "x").props, &props);
}

/// The same properties, in any order (that of user properties is another matter).
#[track_caller]
fn assert_same(mut actual: Vec<Prop>, expected: &[Prop]) {
    let mut expected = expected.to_vec();
    for props in [&mut actual, &mut expected] {
        props.sort_by_key(Prop::encode);
    }
    assert_eq!(actual, expected);
}

pub(crate) fn user_properties_keep_their_order(b: &Broker) {
    let props = vec![
        user("z", "1"),
        user("a", "2"),
        user("z", "1"),
        user("", ""),
        user("a", "1"),
    ];
    let mut client = b.client("c");
    client.subscribe("a", 1);
    b.publish(Publish {
        props: props.clone(),
        ..Publish::new("a", "x").qos(1, 1).retain()
    });
    assert_eq!(client.receive("a", "x").props, props);
    client.subscribe("a", 1);
    assert_eq!(client.receive("a", "x").props, props);
}

pub(crate) fn will_keeps_its_properties_in_order(b: &Broker) {
    let mut observer = b.client("observer");
    observer.subscribe("will", 1);
    let connect = Connect::new("c")
        .will("will", "gone")
        .will_qos(1)
        .will_prop(user("b", "1"))
        .will_prop(Prop::ContentType("text/plain".into()))
        .will_prop(user("a", "2"))
        .will_prop(Prop::PayloadFormat(1))
        .will_prop(Prop::ResponseTopic("answer".into()))
        .will_prop(Prop::CorrelationData(vec![7]))
        .will_prop(Prop::MessageExpiry(60))
        .will_prop(user("b", "1"));
    let expected = connect.will.clone().unwrap().props;
    b.connect(connect).vanish();
    let will = observer.receive("will", "gone");
    assert!(matches!(will.expiry(), Some(59..=60)));
    let without_expiry = |props: &[Prop]| -> Vec<Prop> {
        props
            .iter()
            .filter(|prop| !matches!(prop, Prop::MessageExpiry(_)))
            .cloned()
            .collect()
    };
    assert_same(without_expiry(&will.props), &without_expiry(&expected));
    let users: Vec<&Prop> = will
        .props
        .iter()
        .filter(|prop| matches!(prop, Prop::User(..)))
        .collect();
    assert_eq!(users, [&user("b", "1"), &user("a", "2"), &user("b", "1")]);
}

/// 0x10 where nobody subscribed (a server may), 0 where somebody did.
pub(crate) fn acknowledgements_tell_that_nobody_subscribed(b: &Broker) {
    let mut client = b.client("c");
    for qos in 1..=2 {
        let code = client.publish(Publish::new("a", "x").qos(qos, 1));
        assert!(matches!(code, 0x00 | 0x10), "{code:#04x}");
    }
    client.subscribe("a", 0);
    for qos in 1..=2 {
        assert_eq!(client.publish(Publish::new("a", "x").qos(qos, 1)), 0);
    }
}

/// The long forms of the acknowledgements, from a client.
pub(crate) fn acknowledgement_may_carry_reason_and_properties(b: &Broker) {
    let long = |id| Ack {
        id,
        code: 0,
        props: vec![Prop::Reason("fine".into()), user("k", "v"), user("k", "v")],
    };
    let mut client = b.client("c");
    client.subscribe("a", 2);
    client.send(&Packet::Publish(Publish::new("a", "x").qos(2, 9)));
    client.pub_rec(9);
    client.send(&Packet::PubRel(long(9)));
    client.find("PUBCOMP", |packet| {
        matches!(packet, Packet::PubComp(ack) if ack.id == 9).then_some(())
    });
    let publish = client.next_publish();
    client.send(&Packet::PubRec(long(publish.id)));
    client.find("PUBREL", |packet| {
        (*packet == Packet::pub_rel(publish.id)).then_some(())
    });
    client.send(&Packet::PubComp(long(publish.id)));
    client.send(&Packet::Publish(Publish::new("a", "y").qos(1, 9)));
    let publish = client.next_publish();
    // With a code and no properties: a remaining length of 3.
    client.send_raw([0x40, 3, (publish.id >> 8) as u8, publish.id as u8, 0]);
    client.find("PUBACK", |packet| {
        matches!(packet, Packet::PubAck(ack) if ack.id == 9).then_some(())
    });
    client.expect_nothing();
    client.disconnect_with(&Packet::Disconnect {
        code: 0,
        props: vec![Prop::Reason("bye".into())],
    });
}
