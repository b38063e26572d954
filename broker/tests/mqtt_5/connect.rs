//! CONNECT and CONNACK.

use std::time::{Duration, Instant};

use crate::mqtt::common::wire::raw_connect;
use crate::mqtt::{Broker, Client, Connect, Event, PATIENCE, Packet, Prop, Publish, Version, frame, text};

pub(crate) fn other_versions_are_refused(b: &Broker) {
    for level in [6, 7, 0x7f, 0xff] {
        let mut client = b.open();
        client.send_raw(frame(0x10, &[&text("MQTT"), &[level, 2, 0, 0, 0], &text("c")]));
        client.expect_refused_with(&[0x84, 1]);
    }
}

pub(crate) fn no_response_information_unasked(b: &Broker) {
    for connect in [
        Connect::new("c"),
        Connect::new("c").prop(Prop::RequestResponseInfo(0)),
    ] {
        let client = b.connect(connect);
        assert!(
            !client
                .props
                .iter()
                .any(|prop| matches!(prop, Prop::ResponseInfo(_)))
        );
    }
    // Nor is asking a mistake.
    b.connect(Connect::new("c").prop(Prop::RequestResponseInfo(1)))
        .ping();
}

pub(crate) fn no_problem_information_if_not_wanted(b: &Broker) {
    let mut client = b.connect(Connect::new("c").prop(Prop::RequestProblemInfo(0)));
    let id = client.new_id();
    client.send(&Packet::subscribe(id, "a/#/b", 0));
    let silent = |packet: &Packet| match packet {
        Packet::SubAck { props, .. } | Packet::UnsubAck { props, .. } => Some(props.is_empty()),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubComp(ack) => Some(ack.props.is_empty()),
        _ => None,
    };
    match client.event(PATIENCE) {
        Event::Packet(Packet::SubAck { props, codes, .. }) => {
            assert_eq!((codes[0] >= 0x80, props.is_empty()), (true, true));
        }
        // In a DISCONNECT it may say more.
        Event::Packet(Packet::Disconnect { .. }) => client = b.client("c"),
        other => panic!("{other:?}"),
    }
    client.send(&Packet::unsubscribe(2, "never"));
    assert_eq!(silent(&client.next()), Some(true));
    client.send(&Packet::Publish(Publish::new("nobody", "x").qos(1, 3)));
    assert_eq!(silent(&client.next()), Some(true));
    client.send(&Packet::pub_rel(4));
    assert_eq!(silent(&client.next()), Some(true));
}

pub(crate) fn a_client_without_an_id_is_given_one(b: &Broker) {
    let given = |client: &Client| {
        client.props.iter().find_map(|prop| match prop {
            Prop::AssignedClientId(id) => Some(id.clone()),
            _ => None,
        })
    };
    let mut first = b.connect(Connect {
        clean: false,
        ..Connect::new("").prop(Prop::SessionExpiry(3600))
    });
    let second = b.client("");
    let id = given(&first).expect("an assigned client id");
    assert!(!id.is_empty());
    assert_ne!(Some(&id), given(&second).as_ref());
    assert_eq!(given(&b.client("named")), None);
    // It is an id like any other.
    first.subscribe("a", 1);
    first.disconnect();
    b.publish(Publish::new("a", "x").qos(1, 1));
    let mut again = b.kept(&id);
    assert!(again.session_present);
    again.receive("a", "x");
}

pub(crate) fn taking_over_is_reported(b: &Broker) {
    let mut first = b.client("c");
    first.subscribe("a", 0);
    let mut second = b.client("c");
    assert_eq!(first.expect_closed(), Some(0x8e));
    second.ping();
}

pub(crate) fn a_good_connect_is_answered_with_success(b: &Broker) {
    for connect in [
        Connect::new("c"),
        Connect::new("c")
            .prop(Prop::SessionExpiry(5))
            .prop(Prop::ReceiveMaximum(1))
            .prop(Prop::MaximumPacketSize(500))
            .prop(Prop::TopicAliasMaximum(3))
            .prop(Prop::RequestProblemInfo(1))
            .prop(Prop::User("a".into(), "b".into()))
            .prop(Prop::User("a".into(), "b".into())),
        Connect {
            clean: false,
            ..Connect::new("other")
        },
    ] {
        let client = b.connect(connect);
        assert!(!client.session_present);
        assert!(
            !client
                .props
                .iter()
                .any(|prop| matches!(prop, Prop::AuthMethod(_) | Prop::AuthData(_)))
        );
    }
}

/// The decoder takes neither a session nor an unknown reason with it.
pub(crate) fn a_refusal_has_a_reason_no_session_and_ends_the_connection(b: &Broker) {
    b.kept("c").disconnect();
    let mut client = b.open();
    client.send_raw(
        Connect::kept(Version::V5, "c")
            .prop(Prop::ReceiveMaximum(0))
            .encode(Version::V5),
    );
    client.expect_refused_with(&[0x82]);
    let mut client = b.open();
    client.send_raw(raw_connect(Version::V5, 0x01, &[&text("c")]));
    client.expect_refused_with(&[0x81, 0x82]);
    assert!(b.kept("c").session_present);
}

pub(crate) fn keep_alive_is_the_clients(b: &Broker) {
    let started = Instant::now();
    let mut client = b.connect(Connect {
        keep_alive: 2,
        ..Connect::new("c")
    });
    assert!(
        !client
            .props
            .iter()
            .any(|prop| matches!(prop, Prop::ServerKeepAlive(_)))
    );
    match client.expect_closed() {
        None | Some(0x8d) => {}
        other => panic!("{other:?}"),
    }
    let took = started.elapsed();
    assert!(took > Duration::from_millis(2900), "{took:?}");
    assert!(took < Duration::from_millis(5000), "{took:?}");
}

/// What is not said counts as allowed, and all of it is.
pub(crate) fn connack_tells_what_the_server_can(b: &Broker) {
    let client = b.client("c");
    for prop in &client.props {
        match prop {
            Prop::MaximumQos(_) => panic!("QoS 2 is supported"),
            Prop::RetainAvailable(yes)
            | Prop::WildcardAvailable(yes)
            | Prop::SubscriptionIdAvailable(yes)
            | Prop::SharedAvailable(yes) => assert_eq!(*yes, 1, "{prop:?}"),
            Prop::ReceiveMaximum(count) => assert_ne!(*count, 0),
            Prop::MaximumPacketSize(size) => assert_ne!(*size, 0),
            _ => {}
        }
    }
}

/// One broker, whatever its clients speak.
pub(crate) fn version_3_and_5_share_sessions_and_messages(b: &Broker) {
    let v3 = |connect: Connect| {
        let mut client = Client::open(b.address, Version::V3);
        client.connect(&connect);
        client
    };
    let mut old = v3(Connect::new("old"));
    let mut new = b.client("new");
    for client in [&mut old, &mut new] {
        client.subscribe("a", 2);
    }
    new.publish(
        Publish::new("a", "from 5")
            .qos(2, 1)
            .prop(Prop::User("k".into(), "v".into())),
    );
    old.publish(Publish::new("a", "from 3").qos(2, 1));
    for client in [&mut old, &mut new] {
        client.receive("a", "from 5");
        client.receive("a", "from 3");
    }
    // A session goes from one version to the other, with what is unacknowledged in it.
    let mut kept = v3(Connect::kept(Version::V3, "kept"));
    kept.subscribe("a", 1);
    new.publish(Publish::new("a", "first").qos(1, 1));
    let first = kept.next_publish();
    kept.vanish();
    new.publish(
        Publish::new("a", "second")
            .qos(1, 1)
            .prop(Prop::ContentType("text".into())),
    );
    let mut kept = b.kept("kept");
    assert!(kept.session_present);
    assert_eq!(kept.receive("a", "first"), first.dup());
    assert_eq!(
        kept.receive("a", "second").props,
        [Prop::ContentType("text".into())]
    );
}
