//! CONNECT, CONNACK, and what ends a connection.

use std::time::{Duration, Instant};

use super::wire::{each_ends_the_connection, each_is_refused, no_props, raw_connect};
use crate::mqtt::{Broker, Client, Connect, Event, Packet, Publish, Version, frame, text};

pub(crate) fn first_packet_is_connect(b: &Broker) {
    let none = no_props(b.version);
    let mut observer = b.client("observer");
    observer.subscribe("a", 0);
    for packet in [
        frame(0x30, &[&text("a"), none, b"x"]),
        frame(0x40, &[&[0, 1]]),
        frame(0x82, &[&[0, 1], none, &text("a"), &[0]]),
        frame(0xc0, &[]),
        frame(0xe0, &[]),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ] {
        let mut client = b.open();
        client.send_raw(&packet);
        match client.event(crate::mqtt::PATIENCE) {
            Event::Closed => {}
            other => panic!("{other:?} to {packet:02x?}"),
        }
    }
    observer.expect_nothing();
}

pub(crate) fn second_connect_ends_the_connection(b: &Broker) {
    let mut client = b.client("c");
    client.send(&Packet::Connect(Connect::new("c")));
    client.expect_closed();
}

pub(crate) fn other_protocol_names_are_refused(b: &Broker) {
    let level = if b.version == Version::V3 { 4 } else { 5 };
    for name in ["MQTX", "mqtt", "MQTTT", "", "HTTP"] {
        let mut client = b.open();
        client.send_raw(frame(
            0x10,
            &[&text(name), &[level, 2, 0, 0], no_props(b.version), &text("c")],
        ));
        client.expect_refused();
    }
}

pub(crate) fn reserved_connect_flag_is_refused(b: &Broker) {
    each_is_refused(b, &[raw_connect(b.version, 0x03, &[&text("c")])]);
}

pub(crate) fn malformed_connects_are_refused(b: &Broker) {
    let version = b.version;
    let whole = Connect::new("client").encode(version);
    let mut cases: Vec<Vec<u8>> = vec![
        // No client id at all, and one that is shorter than it says.
        raw_connect(version, 2, &[]),
        raw_connect(version, 2, &[&[0, 9], b"short"]),
        // Octets left over.
        raw_connect(version, 2, &[&text("c"), b"more"]),
    ];
    // Cut off at any place, with the length that is left.
    cases.extend((2..whole.len()).map(|end| frame(0x10, &[&whole[2..end]])));
    each_is_refused(b, &cases);
}

pub(crate) fn will_flag_and_will_fields_agree(b: &Broker) {
    let none = no_props(b.version);
    let will = [none, &text("will"), &text("gone")].concat();
    each_is_refused(
        b,
        &[
            // Flag, no fields; flag, topic alone.
            raw_connect(b.version, 0x06, &[&text("c")]),
            raw_connect(b.version, 0x06, &[&text("c"), none, &text("will")]),
            // Fields, no flag.
            raw_connect(b.version, 0x02, &[&text("c"), &will]),
        ],
    );
}

pub(crate) fn will_qos_without_a_will_is_refused(b: &Broker) {
    each_is_refused(
        b,
        &[0x0a, 0x12].map(|flags| raw_connect(b.version, flags, &[&text("c")])),
    );
}

pub(crate) fn will_retain_without_a_will_is_refused(b: &Broker) {
    each_is_refused(b, &[raw_connect(b.version, 0x22, &[&text("c")])]);
}

pub(crate) fn will_qos_is_0_1_or_2(b: &Broker) {
    let will = [no_props(b.version), &text("will"), &text("gone")].concat();
    for qos in 0..=2 {
        let mut client = b.open();
        client.send_raw(raw_connect(b.version, 0x06 | qos << 3, &[&text("c"), &will]));
        assert!(matches!(client.next(), Packet::ConnAck { code: 0, .. }));
    }
    each_is_refused(b, &[raw_connect(b.version, 0x1e, &[&text("c"), &will])]);
}

pub(crate) fn will_topic_is_utf8(b: &Broker) {
    let none = no_props(b.version);
    each_is_refused(
        b,
        &[raw_connect(
            b.version,
            0x06,
            &[&text("c"), none, &text(b"w\xff"), &text("gone")],
        )],
    );
}

pub(crate) fn client_id_is_utf8(b: &Broker) {
    each_is_refused(b, &[raw_connect(b.version, 0x02, &[&text(b"c\xff")])]);
}

pub(crate) fn user_name_is_utf8(b: &Broker) {
    each_is_refused(b, &[raw_connect(b.version, 0x82, &[&text("c"), &text(b"u\xff")])]);
}

pub(crate) fn user_name_only_with_its_flag(b: &Broker) {
    each_is_refused(b, &[raw_connect(b.version, 0x02, &[&text("c"), &text("user")])]);
}

pub(crate) fn user_name_flag_needs_one(b: &Broker) {
    each_is_refused(b, &[raw_connect(b.version, 0x82, &[&text("c")])]);
    b.connect(Connect {
        user_name: Some("user".into()),
        ..Connect::new("c")
    })
    .ping();
}

pub(crate) fn password_only_with_its_flag(b: &Broker) {
    each_is_refused(
        b,
        &[raw_connect(
            b.version,
            0x82,
            &[&text("c"), &text("user"), &text("secret")],
        )],
    );
}

pub(crate) fn password_flag_needs_one(b: &Broker) {
    each_is_refused(b, &[raw_connect(b.version, 0xc2, &[&text("c"), &text("user")])]);
    let both = Connect {
        user_name: Some("user".into()),
        password: Some(vec![0, 0xff]),
        ..Connect::new("c")
    };
    b.connect(both).ping();
}

/// Client id, will, user name, password, each found where it belongs.
pub(crate) fn connect_fields_come_in_order(b: &Broker) {
    let mut observer = b.client("observer");
    observer.subscribe("#", 0);
    let connect = Connect {
        user_name: Some("user".into()),
        password: Some(b"password".to_vec()),
        ..Connect::kept(b.version, "id").will("will/topic", "will payload")
    };
    b.connect(connect).vanish();
    observer.receive("will/topic", "will payload");
    assert!(b.kept("id").session_present);
}

pub(crate) fn client_ids_of_23_letters_and_digits_are_allowed(b: &Broker) {
    for id in [
        "0",
        "0123456789abcdefghijklm",
        "nopqrstuvwxyzABCDEFGHIJ",
        "KLMNOPQRSTUVWXYZ0123456",
        "zzzzzzzzzzzzzzzzzzzzzzz",
    ] {
        b.client(id).ping();
    }
}

pub(crate) fn clients_without_an_id_are_strangers(b: &Broker) {
    let mut first = b.client("");
    first.subscribe("a", 0);
    let mut second = b.client("");
    second.subscribe("a", 0);
    second.publish(Publish::new("a", "x"));
    // Neither took the other's connection over.
    first.receive("a", "x");
    second.receive("a", "x");
    first.ping();
}

pub(crate) fn same_client_id_takes_over(b: &Broker) {
    let mut first = b.client("c");
    let mut second = b.client("c");
    first.expect_closed();
    second.ping();
}

pub(crate) fn after_a_refused_connect_nothing_is_processed(b: &Broker) {
    let mut observer = b.client("observer");
    observer.subscribe("a", 0);
    let mut client = b.open();
    let publish = Publish::new("a", "x").encode(b.version);
    client.send_raw([raw_connect(b.version, 0x03, &[&text("c")]), publish.clone()].concat());
    client.expect_refused();
    observer.expect_nothing();

    // The same behind a CONNECT that is accepted is: a client need not wait.
    let mut client = b.open();
    client.send_raw([Connect::new("c").encode(b.version), publish].concat());
    assert!(matches!(client.next(), Packet::ConnAck { code: 0, .. }));
    observer.receive("a", "x");
}

/// Even where a session has messages ready.
pub(crate) fn connack_is_the_first_packet(b: &Broker) {
    let mut client = b.kept("c");
    client.subscribe("a", 1);
    client.disconnect();
    for payload in ["1", "2", "3"] {
        b.publish(Publish::new("a", payload).qos(1, 0));
    }
    let mut client = b.open();
    client.send_raw(Connect::kept(b.version, "c").encode(b.version));
    assert!(matches!(
        client.next(),
        Packet::ConnAck {
            session_present: true,
            code: 0,
            ..
        }
    ));
    for payload in ["1", "2", "3"] {
        client.receive("a", payload);
    }
    // And the only one of its kind.
    client.expect_nothing();
}

pub(crate) fn session_present_is_0_for_a_clean_one(b: &Broker) {
    b.kept("c").disconnect();
    assert!(!b.client("c").session_present);
}

pub(crate) fn session_present_tells_whether_there_is_one(b: &Broker) {
    let client = b.kept("c");
    assert!(!client.session_present);
    client.disconnect();
    let client = b.kept("c");
    assert!(client.session_present);
    client.vanish();
    assert!(b.kept("c").session_present);
    assert!(!b.kept("other").session_present);
}

pub(crate) fn silence_beyond_one_and_a_half_keep_alives_ends_the_connection(b: &Broker) {
    let mut observer = b.client("observer");
    observer.subscribe("will", 0);
    let started = Instant::now();
    let mut silent = b.connect(Connect {
        keep_alive: 1,
        ..Connect::new("silent").will("will", "gone")
    });
    let mut lively = b.connect(Connect {
        keep_alive: 1,
        ..Connect::new("lively")
    });
    let mut without = b.client("without");
    for _ in 0..6 {
        // What a client sends counts, PINGREQ or not.
        assert!(matches!(lively.event(Duration::from_millis(500)), Event::Silence));
        lively.publish(Publish::new("a", "x"));
    }
    assert!(matches!(
        silent.event(Duration::ZERO),
        Event::Packet(Packet::Disconnect { .. }) | Event::Closed
    ));
    observer.receive("will", "gone");
    let took = started.elapsed();
    assert!(took > Duration::from_millis(1500), "{took:?}");
    lively.ping();
    without.ping();
}

/// From 1.5 keep-alives on and not before.
pub(crate) fn keep_alive_is_not_enforced_early(b: &Broker) {
    let mut client = b.connect(Connect {
        keep_alive: 1,
        ..Connect::new("c")
    });
    assert!(matches!(
        client.event(Duration::from_millis(1300)),
        Event::Silence
    ));
    client.ping();
    let last = Instant::now();
    client.expect_closed();
    assert!(
        last.elapsed() > Duration::from_millis(1300),
        "{:?}",
        last.elapsed()
    );
}

pub(crate) fn pingreq_is_answered(b: &Broker) {
    let mut client = b.client("c");
    for _ in 0..3 {
        client.send(&Packet::PingReq);
        client.expect(Packet::PingResp);
    }
}

/// Packets that arrive an octet at a time, or many at once, are the same packets.
pub(crate) fn packets_need_not_arrive_whole(b: &Broker) {
    let mut client = b.open();
    let version = b.version;
    let packets = [
        Connect::new("c").encode(version),
        Packet::subscribe(1, "a", 1).encode(version),
        Publish::new("a", "x").qos(1, 2).encode(version),
        Packet::PingReq.encode(version),
    ];
    for octet in packets.concat() {
        client.send_raw([octet]);
    }
    check(&mut client);
    let mut client = b.open();
    client.send_raw(packets.concat());
    check(&mut client);

    fn check(client: &mut Client) {
        assert!(matches!(client.next(), Packet::ConnAck { code: 0, .. }));
        client.find("SUBACK", |packet| {
            matches!(packet, Packet::SubAck { id: 1, .. }).then_some(())
        });
        client.find("PUBACK", |packet| (*packet == Packet::pub_ack(2)).then_some(()));
        client.receive("a", "x");
        client.find("PINGRESP", |packet| (*packet == Packet::PingResp).then_some(()));
    }
}

pub(crate) fn violations_end_only_the_connection_they_came_from(b: &Broker) {
    let mut other = b.client("other");
    other.subscribe("a", 1);
    each_ends_the_connection(
        b,
        &[frame(0x36, &[&text("a"), &[0, 1], no_props(b.version), b"x"])],
    );
    b.publish(Publish::new("a", "x").qos(1, 0));
    other.receive("a", "x");
}
