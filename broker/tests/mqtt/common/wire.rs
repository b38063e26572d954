//! Strings, flags, packets that are none.

use crate::mqtt::{Broker, Connect, Packet, Publish, Version, frame, text};

/// Octets that are no UTF-8: a surrogate, an overlong form, a code point beyond the last, a cut sequence, plain noise.
const ILL_FORMED: [&[u8]; 5] = [
    b"a\xed\xa0\x80",
    b"a\xc0\xaf",
    b"a\xf4\x90\x80\x80",
    b"a\xe2\x82",
    b"a\xff\xfe",
];

/// Nothing, or the empty properties that MQTT 5 wants here.
pub(crate) fn no_props(version: Version) -> &'static [u8] {
    match version {
        Version::V3 => &[],
        Version::V5 => &[0],
    }
}

/// Each of these, sent by a connected client, ends its connection; the broker serves others as before.
#[track_caller]
pub(crate) fn each_ends_the_connection(b: &Broker, cases: &[Vec<u8>]) {
    for (n, case) in cases.iter().enumerate() {
        let mut client = b.client(&format!("case{n}"));
        client.send_raw(case);
        let shown = case.get(..20).unwrap_or(case);
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.expect_closed()))
            .map_err(|_| panic!("not closed after {shown:02x?}"));
    }
    b.client("after").ping();
}

/// Each of these in the place of a CONNECT is refused.
#[track_caller]
pub(crate) fn each_is_refused(b: &Broker, cases: &[Vec<u8>]) {
    for case in cases {
        let mut client = b.open();
        client.send_raw(case);
        let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.expect_refused()));
        match (answer, b.version) {
            // 3.1.1 has no code that says "malformed".
            (Ok(None), _) | (Ok(Some(_)), Version::V5) => {}
            (answer, _) => panic!("{answer:?} to {case:02x?}"),
        }
    }
    b.client("after").ping();
}

/// A CONNECT out of parts, valid or not.
pub(crate) fn raw_connect(version: Version, flags: u8, payload: &[&[u8]]) -> Vec<u8> {
    let level = match version {
        Version::V3 => 4,
        Version::V5 => 5,
    };
    frame(
        0x10,
        &[
            &text("MQTT"),
            &[level, flags, 0, 0],
            no_props(version),
            &payload.concat(),
        ],
    )
}

pub(crate) fn ill_formed_utf8_ends_the_connection(b: &Broker) {
    let none = no_props(b.version);
    for string in ILL_FORMED.map(text) {
        each_ends_the_connection(
            b,
            &[
                frame(0x30, &[&string, none, b"x"]),
                frame(0x82, &[&[0, 1], none, &string, &[0]]),
                frame(0xa2, &[&[0, 1], none, &string]),
            ],
        );
        each_is_refused(b, &[raw_connect(b.version, 2, &[&string])]);
    }
}

pub(crate) fn null_character_ends_the_connection(b: &Broker) {
    let (none, string) = (no_props(b.version), text("a\0b"));
    each_ends_the_connection(
        b,
        &[
            frame(0x30, &[&string, none, b"x"]),
            frame(0x82, &[&[0, 1], none, &string, &[0]]),
            frame(0xa2, &[&[0, 1], none, &string]),
        ],
    );
    each_is_refused(b, &[raw_connect(b.version, 2, &[&string])]);
}

pub(crate) fn byte_order_mark_is_a_character(b: &Broker) {
    let mut client = b.client("c");
    client.subscribe("\u{feff}a", 0);
    client.publish(Publish::new("a", "without"));
    client.publish(Publish::new("\u{feff}a", "with"));
    client.receive("\u{feff}a", "with");
    client.expect_nothing();
}

pub(crate) fn reserved_flags_end_the_connection(b: &Broker) {
    let none = no_props(b.version);
    each_ends_the_connection(
        b,
        &[
            frame(0x41, &[&[0, 1]]),
            frame(0x52, &[&[0, 1]]),
            frame(0x60, &[&[0, 1]]),
            frame(0x63, &[&[0, 1]]),
            frame(0x78, &[&[0, 1]]),
            frame(0x80, &[&[0, 1], none, &text("a"), &[0]]),
            frame(0x8a, &[&[0, 1], none, &text("a"), &[0]]),
            frame(0xa0, &[&[0, 1], none, &text("a")]),
            frame(0xc1, &[]),
            frame(0xe1, &[]),
        ],
    );
    let mut connect = Connect::new("c").encode(b.version);
    connect[0] = 0x11;
    each_is_refused(b, &[connect]);
}

pub(crate) fn pubrel_with_wrong_flags_ends_the_connection(b: &Broker) {
    for flags in [0x60, 0x61, 0x63, 0x64, 0x6a] {
        let mut client = b.client("c");
        client.send(&Packet::Publish(Publish::new("a", "x").qos(2, 1)));
        client.pub_rec(1);
        client.send_raw(frame(flags, &[&[0, 1]]));
        client.expect_closed();
    }
}

pub(crate) fn subscribe_with_wrong_flags_ends_the_connection(b: &Broker) {
    let none = no_props(b.version);
    let cases = [0x80, 0x81, 0x83, 0x86, 0x8a].map(|first| frame(first, &[&[0, 1], none, &text("a"), &[0]]));
    each_ends_the_connection(b, &cases);
}

pub(crate) fn unsubscribe_with_wrong_flags_ends_the_connection(b: &Broker) {
    let none = no_props(b.version);
    let cases = [0xa0, 0xa1, 0xa3, 0xa6, 0xaa].map(|first| frame(first, &[&[0, 1], none, &text("a")]));
    each_ends_the_connection(b, &cases);
}

pub(crate) fn disconnect_with_wrong_flags_ends_the_connection_and_is_none(b: &Broker) {
    let mut observer = b.client("observer");
    observer.subscribe("will", 0);
    let mut client = b.connect(Connect::new("c").will("will", "not a DISCONNECT"));
    client.send_raw([0xe1, 0]);
    client.expect_closed();
    observer.receive("will", "not a DISCONNECT");
}

pub(crate) fn packet_id_0_ends_the_connection(b: &Broker) {
    let none = no_props(b.version);
    each_ends_the_connection(
        b,
        &[
            frame(0x32, &[&text("a"), &[0, 0], none, b"x"]),
            frame(0x34, &[&text("a"), &[0, 0], none, b"x"]),
            frame(0x82, &[&[0, 0], none, &text("a"), &[0]]),
            frame(0xa2, &[&[0, 0], none, &text("a")]),
        ],
    );
}

pub(crate) fn what_is_no_packet_of_a_client_ends_the_connection(b: &Broker) {
    let none = no_props(b.version);
    each_ends_the_connection(
        b,
        &[
            frame(0x00, &[]),
            frame(0x20, &[&[0, 0], none]),
            frame(0x90, &[&[0, 1], none, &[0]]),
            frame(0xb0, &[&[0, 1], none]),
            frame(0xd0, &[]),
            // Too short for what it has to hold.
            frame(0x30, &[&[0]]),
            frame(0x30, &[&[0, 9], b"short"]),
            frame(0x32, &[&text("a"), &[0]]),
            frame(0x40, &[&[1]]),
            frame(0x62, &[]),
            frame(0x82, &[&[0]]),
            frame(0x82, &[&[0, 1], none, &[0, 9], b"short"]),
            frame(0xa2, &[&[0, 1], none, &[0]]),
            // A remaining length of five octets.
            vec![0x30, 0xff, 0xff, 0xff, 0xff, 0x01],
        ],
    );
}
