//! Every state × every message × {valid, malformed, stale, duplicate}: what is answered, which state follows, and what
//! the broker hears.
//!
//! [`TABLE`] is read off the specification and the readings of it (docs/reading-of-the-spec.md), row by row; the last
//! column says where from. The test fails if a combination is missing or stands there twice.
//!
//! | state | how the client came there |
//! |---|---|
//! | `None` | nobody with that id or address was ever heard of |
//! | `Kept` | said goodbye; CleanSession 0, so its session is kept |
//! | `Lost` | was silent for longer than its keep-alive allows; CleanSession 0 |
//! | `W1` | sent CONNECT with Will; the gateway waits for WILLTOPIC |
//! | `W2` | sent WILLTOPIC too; the gateway waits for WILLMSG |
//! | `Active` | connected without Will, registered `t/up`, subscribed to `t/down` and to `w/+` |
//! | `Asleep` | the same, then DISCONNECT with 600 s |
//! | `Awake` | the same, then a message came and PINGREQ: the message is on its way |
//!
//! In the last three a broker message is on its way to the client when the row is about its acknowledgement: one that
//! this acknowledgement answers. `Kept`, `Lost`, `W1` and `W2` had such a session before. The whole table holds for
//! CleanSession 0 and 1; with 1 there is no `Kept` and no `Lost`, but `None`.
//!
//! | variant | what is sent |
//! |---|---|
//! | `valid` | the message as it should be, an acknowledgement for what is on its way |
//! | `malformed` | a value that has no meaning where the message can have one, else a wrong layout |
//! | `stale` | left over from another time: an id that is not known (any more), a name that has its id already, a CONNECT with another duration; where there is nothing of that kind, the valid message |
//! | `duplicate` | the valid message again, right after the first was answered; only the second is looked at. A PUBLISH and SUBSCRIBE carry DUP |

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use common::{Bench, connack, seconds};
use gateway_core::config::{GatewayConfig, PredefinedTopic};
use gateway_core::io::{BrokerEvent, BrokerRequest, FilterId};
use sn_codec::{
    Connect, Disconnect, MsgId, MsgType, Packet, Pingreq, Publish, PublishQoS, QoS, ReturnCode, TopicId,
    TopicRef, WillTopic,
};

/// `message | variants | states | answer | next state | at the broker | where it says so`.
///
/// `*` is every variant or state. Groups of states: `Away` is `None Kept Lost`, `Setup` is `W1 W2`, `Connected` is
/// `Active Asleep Awake`. An answer of `-` is silence, a next state of `=` the same as before. `ends` at the broker is
/// the end of the session: with CleanSession 1 both subscriptions are given up, with 0 nothing happens.
const TABLE: &str = "
ADVERTISE       | *         | *                | -                     | =      | -           | A81: other gateways, overheard
GWINFO          | *         | *                | -                     | =      | -           | A81
SEARCHGW        | valid     | Away Connected   | GWINFO                | =      | -           | 6.1, A79
SEARCHGW        | stale     | Away Connected   | GWINFO                | =      | -           | 6.1, A79
SEARCHGW        | duplicate | Away Connected   | -                     | =      | -           | A79: once a second for each
SEARCHGW        | malformed | *                | -                     | =      | -           | A1
SEARCHGW        | valid stale duplicate | Setup | -                    | =      | -           | 6.2: nothing else before CONNACK

CONNECT         | valid     | Away             | CONNACK(0)            | Active | -           | 6.2
CONNECT         | valid     | Setup            | CONNACK(0)            | Active | -           | A21: begins anew
CONNECT         | valid     | Active           | CONNACK(0)            | Active | ends        | A19
CONNECT         | valid     | Asleep           | CONNACK(0)            | Active | -           | 6.14, A20
CONNECT         | valid     | Awake            | CONNACK(0) PUBLISH+DUP | Active | -          | 6.14, A20: what waits is delivered
CONNECT         | malformed | *                | CONNACK(3)            | =      | -           | A7: ProtocolId 2
CONNECT         | stale     | Away             | CONNACK(0)            | Active | -           | 6.2
CONNECT         | stale     | Setup            | CONNACK(0)            | Active | -           | A21
CONNECT         | stale     | Active           | CONNACK(0)            | Active | ends        | A19
CONNECT         | stale     | Asleep           | CONNACK(0)            | Active | -           | A20: the duration is taken over
CONNECT         | stale     | Awake            | CONNACK(0) PUBLISH+DUP | Active | -          | A20
CONNECT         | duplicate | Away Setup Active Asleep | CONNACK(0)    | Active | -           | A18
CONNECT         | duplicate | Awake            | CONNACK(0) PUBLISH+DUP | Active | -          | A18

CONNECT+WILL    | valid     | Away Setup       | WILLTOPICREQ          | W1     | -           | 6.3, A21
CONNECT+WILL    | valid     | Active           | WILLTOPICREQ          | W1     | ends        | A19
CONNECT+WILL    | valid     | Asleep Awake     | WILLTOPICREQ          | W1     | ends        | A20: other flags, a new session
CONNECT+WILL    | malformed | *                | CONNACK(3)            | =      | -           | A7
CONNECT+WILL    | stale     | Away Setup       | WILLTOPICREQ          | W1     | -           | 6.3, A21
CONNECT+WILL    | stale     | Connected        | WILLTOPICREQ          | W1     | ends        | A19, A20
CONNECT+WILL    | duplicate | *                | WILLTOPICREQ          | W1     | -           | A21

WILLTOPIC       | valid     | Away             | DISCONNECT            | =      | -           | A13
WILLTOPIC       | valid     | Setup            | WILLMSGREQ            | W2     | -           | 6.3, A21
WILLTOPIC       | valid     | Connected        | -                     | =      | -           | state table: not listed
WILLTOPIC       | malformed | Away             | DISCONNECT            | =      | -           | A13
WILLTOPIC       | malformed | Setup            | CONNACK(3)            | Kept   | -           | A24
WILLTOPIC       | malformed | Connected        | -                     | =      | -           | state table: not listed
WILLTOPIC       | stale     | Away             | DISCONNECT            | =      | -           | A13
WILLTOPIC       | stale     | Setup            | WILLMSGREQ            | W2     | -           | A21
WILLTOPIC       | stale     | Connected        | -                     | =      | -           | state table: not listed
WILLTOPIC       | duplicate | Away             | -                     | =      | -           | A13: once a second for each
WILLTOPIC       | duplicate | Setup            | WILLMSGREQ            | W2     | -           | A21
WILLTOPIC       | duplicate | Connected        | -                     | =      | -           | state table: not listed

WILLMSG         | valid stale | Away           | DISCONNECT            | =      | -           | A13
WILLMSG         | valid stale | W1             | -                     | =      | -           | A21: anything else is ignored
WILLMSG         | valid stale | W2             | CONNACK(0)            | Active | -           | 6.3
WILLMSG         | valid stale | Connected      | -                     | =      | -           | state table: not listed
WILLMSG         | malformed | *                | -                     | =      | -           | A1
WILLMSG         | duplicate | Away             | -                     | =      | -           | A13
WILLMSG         | duplicate | W1               | -                     | =      | -           | A21
WILLMSG         | duplicate | W2               | CONNACK(0)            | Active | -           | A18: the CONNACK was lost
WILLMSG         | duplicate | Connected        | -                     | =      | -           | state table: not listed

REGISTER        | valid     | Away             | DISCONNECT            | =      | -           | A13
REGISTER        | valid     | Setup            | -                     | =      | -           | 6.2: nothing else before CONNACK
REGISTER        | valid     | Connected        | REGACK(0)             | =      | -           | 6.5, A49
REGISTER        | malformed | Away             | DISCONNECT            | =      | -           | A13
REGISTER        | malformed | Setup            | -                     | =      | -           | 6.2
REGISTER        | malformed | Connected        | REGACK(3)             | =      | -           | A37: a wildcard
REGISTER        | stale     | Away             | DISCONNECT            | =      | -           | A13
REGISTER        | stale     | Setup            | -                     | =      | -           | 6.2
REGISTER        | stale     | Connected        | REGACK(0)             | =      | -           | A36: the id it has
REGISTER        | duplicate | Away             | -                     | =      | -           | A13
REGISTER        | duplicate | Setup            | -                     | =      | -           | 6.2
REGISTER        | duplicate | Connected        | REGACK(0)             | =      | -           | A36, A46

REGACK          | valid     | Away Setup       | -                     | =      | -           | A13: a late acknowledgement
REGACK          | valid     | Active Awake     | PUBLISH               | =      | -           | 6.10
REGACK          | valid     | Asleep           | -                     | =      | -           | A73: nothing is delivered before PINGREQ
REGACK          | malformed stale | *          | -                     | =      | -           | A1, A13: dropped
REGACK          | duplicate | *                | -                     | =      | -           | state table: answers nothing any more

PUBLISH-1       | valid     | Away             | -                     | =      | publish     | 6.8, A48
PUBLISH-1       | valid     | Setup            | -                     | =      | -           | state table: Setup drops PUBLISH
PUBLISH-1       | valid     | Connected        | -                     | =      | publish     | A48: as QoS 0 of the client
PUBLISH-1       | malformed | *                | -                     | =      | -           | 6.8: a normal topic id; never answered
PUBLISH-1       | stale     | *                | -                     | =      | -           | A43: unknown predefined id; never answered
PUBLISH-1       | duplicate | Away Connected   | -                     | =      | publish     | 6.8: nothing tells it from another
PUBLISH-1       | duplicate | Setup            | -                     | =      | -           | state table: Setup drops PUBLISH

PUBLISH0        | valid     | Away             | DISCONNECT            | =      | -           | A13
PUBLISH0        | valid     | Setup            | -                     | =      | -           | 6.2
PUBLISH0        | valid     | Connected        | -                     | =      | publish     | 6.6, A49
PUBLISH0        | malformed | Away             | DISCONNECT            | =      | -           | A13
PUBLISH0        | malformed | Setup            | -                     | =      | -           | 6.2
PUBLISH0        | malformed | Connected        | PUBACK(3)             | =      | -           | A56: reserved topic id type
PUBLISH0        | stale     | Away             | DISCONNECT            | =      | -           | A13
PUBLISH0        | stale     | Setup            | -                     | =      | -           | 6.2
PUBLISH0        | stale     | Connected        | PUBACK(2)             | =      | -           | 6.6, A43
PUBLISH0        | duplicate | Away             | -                     | =      | -           | A13
PUBLISH0        | duplicate | Setup            | -                     | =      | -           | 6.2
PUBLISH0        | duplicate | Connected        | -                     | =      | publish     | QoS 0 has no repeats

PUBLISH1        | valid     | Away             | DISCONNECT            | =      | -           | A13
PUBLISH1        | valid     | Setup            | -                     | =      | -           | 6.2
PUBLISH1        | valid     | Connected        | PUBACK(0)             | =      | publish     | 6.6, A49
PUBLISH1        | malformed | Away             | DISCONNECT            | =      | -           | A13
PUBLISH1        | malformed | Setup            | -                     | =      | -           | 6.2
PUBLISH1        | malformed | Connected        | PUBACK(3)             | =      | -           | A56
PUBLISH1        | stale     | Away             | DISCONNECT            | =      | -           | A13
PUBLISH1        | stale     | Setup            | -                     | =      | -           | 6.2
PUBLISH1        | stale     | Connected        | PUBACK(2)             | =      | -           | A43
PUBLISH1        | duplicate | Away             | -                     | =      | -           | A13
PUBLISH1        | duplicate | Setup            | -                     | =      | -           | 6.2
PUBLISH1        | duplicate | Connected        | PUBACK(0)             | =      | -           | A46: only its PUBACK was lost

PUBLISH2        | valid     | Away             | DISCONNECT            | =      | -           | A13
PUBLISH2        | valid     | Setup            | -                     | =      | -           | 6.2
PUBLISH2        | valid     | Connected        | PUBREC                | =      | publish     | 6.6, A49
PUBLISH2        | malformed | Away             | DISCONNECT            | =      | -           | A13
PUBLISH2        | malformed | Setup            | -                     | =      | -           | 6.2
PUBLISH2        | malformed | Connected        | PUBACK(3)             | =      | -           | A51, A56
PUBLISH2        | stale     | Away             | DISCONNECT            | =      | -           | A13
PUBLISH2        | stale     | Setup            | -                     | =      | -           | 6.2
PUBLISH2        | stale     | Connected        | PUBACK(2)             | =      | -           | A43, A51
PUBLISH2        | duplicate | Away             | -                     | =      | -           | A13
PUBLISH2        | duplicate | Setup            | -                     | =      | -           | 6.2
PUBLISH2        | duplicate | Connected        | PUBREC                | =      | -           | A46: the id is held until PUBREL

PUBACK          | valid     | Away Setup Active Asleep | -             | =      | -           | 6.10, A13
PUBACK          | valid     | Awake            | PINGRESP              | Asleep | -           | 6.14: all is acknowledged
PUBACK          | malformed stale | *          | -                     | =      | -           | A1: dropped; unknown MsgId
PUBACK          | duplicate | Away Setup Active Asleep | -             | =      | -           | state table: answers nothing any more
PUBACK          | duplicate | Awake            | -                     | Asleep | -           | state table

PUBREC          | valid     | Away Setup       | -                     | =      | -           | A13
PUBREC          | valid     | Connected        | PUBREL                | =      | -           | 6.10; late, A51
PUBREC          | malformed | *                | -                     | =      | -           | A1
PUBREC          | stale     | Away Setup       | -                     | =      | -           | A13
PUBREC          | stale     | Connected        | PUBREL                | =      | -           | A51: unknown id
PUBREC          | duplicate | Away Setup       | -                     | =      | -           | A13
PUBREC          | duplicate | Connected        | PUBREL                | =      | -           | A51

PUBCOMP         | valid     | Away Setup Active Asleep | -             | =      | -           | 6.10, A13
PUBCOMP         | valid     | Awake            | PINGRESP              | Asleep | -           | 6.14: all is acknowledged
PUBCOMP         | malformed stale | *          | -                     | =      | -           | A1: dropped; unknown MsgId
PUBCOMP         | duplicate | Away Setup Active Asleep | -             | =      | -           | state table: answers nothing any more
PUBCOMP         | duplicate | Awake            | -                     | Asleep | -           | state table

PUBREL          | valid     | Away             | DISCONNECT            | =      | -           | A13
PUBREL          | valid     | Setup            | -                     | =      | -           | 6.2
PUBREL          | valid     | Connected        | PUBCOMP               | =      | -           | 6.6
PUBREL          | malformed | *                | -                     | =      | -           | A1
PUBREL          | stale     | Away             | DISCONNECT            | =      | -           | A13
PUBREL          | stale     | Setup            | -                     | =      | -           | 6.2
PUBREL          | stale     | Connected        | PUBCOMP               | =      | -           | A51: unknown id
PUBREL          | duplicate | Away             | -                     | =      | -           | A13
PUBREL          | duplicate | Setup            | -                     | =      | -           | 6.2
PUBREL          | duplicate | Connected        | PUBCOMP               | =      | -           | A51

SUBSCRIBE       | valid     | Away             | DISCONNECT            | =      | -           | A13
SUBSCRIBE       | valid     | Setup            | -                     | =      | -           | 6.2
SUBSCRIBE       | valid     | Connected        | SUBACK(0)             | =      | subscribe   | 6.9, A49
SUBSCRIBE       | malformed | Away             | DISCONNECT            | =      | -           | A13
SUBSCRIBE       | malformed | Setup            | -                     | =      | -           | 6.2
SUBSCRIBE       | malformed | Connected        | SUBACK(3)             | =      | -           | A54: QoS 3
SUBSCRIBE       | stale     | Away             | DISCONNECT            | =      | -           | A13
SUBSCRIBE       | stale     | Setup            | -                     | =      | -           | 6.2
SUBSCRIBE       | stale     | Connected        | SUBACK(2)             | =      | -           | A56: unknown predefined id
SUBSCRIBE       | duplicate | Away             | -                     | =      | -           | A13
SUBSCRIBE       | duplicate | Setup            | -                     | =      | -           | 6.2
SUBSCRIBE       | duplicate | Connected        | SUBACK(0)             | =      | subscribe   | A46: idempotent; retained messages come again

UNSUBSCRIBE     | valid     | Away             | DISCONNECT            | =      | -           | A13
UNSUBSCRIBE     | valid     | Setup            | -                     | =      | -           | 6.2
UNSUBSCRIBE     | valid     | Connected        | UNSUBACK              | =      | unsubscribe | 6.9, A49
UNSUBSCRIBE     | malformed | Away             | DISCONNECT            | =      | -           | A13
UNSUBSCRIBE     | malformed | Setup            | -                     | =      | -           | 6.2
UNSUBSCRIBE     | malformed | Connected        | UNSUBACK              | =      | -           | A8: a malformed filter
UNSUBSCRIBE     | stale     | Away             | DISCONNECT            | =      | -           | A13
UNSUBSCRIBE     | stale     | Setup            | -                     | =      | -           | 6.2
UNSUBSCRIBE     | stale     | Connected        | UNSUBACK              | =      | -           | A58: was not subscribed
UNSUBSCRIBE     | duplicate | Away             | -                     | =      | -           | A13
UNSUBSCRIBE     | duplicate | Setup            | -                     | =      | -           | 6.2
UNSUBSCRIBE     | duplicate | Connected        | UNSUBACK              | =      | -           | A58

PINGREQ         | valid stale | Away           | DISCONNECT            | =      | -           | A13
PINGREQ         | duplicate | Away             | -                     | =      | -           | A13
PINGREQ         | valid stale duplicate | Setup | -                    | =      | -           | 6.2
PINGREQ         | valid stale duplicate | Active | PINGRESP            | =      | -           | 6.11, A75
PINGREQ         | valid stale duplicate | Asleep | PINGRESP            | =      | -           | 6.14, A69: nothing waits
PINGREQ         | valid stale duplicate | Awake | PUBLISH+DUP          | =      | -           | state table: repeats what is on its way
PINGREQ         | malformed | *                | -                     | =      | -           | A8: text that is not UTF-8

PINGREQ+ID      | valid     | Away             | DISCONNECT            | =      | -           | A16: nobody of that id sleeps
PINGREQ+ID      | duplicate | Away             | -                     | =      | -           | A13
PINGREQ+ID      | valid duplicate | Setup      | -                     | =      | -           | 6.2
PINGREQ+ID      | valid duplicate | Active     | PINGRESP              | =      | -           | A16: nothing waits
PINGREQ+ID      | valid duplicate | Asleep     | PINGRESP              | =      | -           | 6.14
PINGREQ+ID      | valid duplicate | Awake      | PUBLISH+DUP           | =      | -           | state table
PINGREQ+ID      | malformed | *                | -                     | =      | -           | A8
PINGREQ+ID      | stale     | Away Connected   | DISCONNECT            | =      | -           | A16: an id that is not known
PINGREQ+ID      | stale     | Setup            | -                     | =      | -           | 6.2

PINGRESP        | *         | *                | -                     | =      | -           | 6.11, A13

DISCONNECT      | valid stale | Away           | DISCONNECT            | =      | -           | A77
DISCONNECT      | valid stale | Setup          | DISCONNECT            | Kept   | -           | state table: the handshake is given up
DISCONNECT      | valid stale | Connected      | DISCONNECT            | Kept   | ends        | 6.12
DISCONNECT      | malformed | *                | -                     | =      | -           | A9: one octet of duration
DISCONNECT      | duplicate | Away             | DISCONNECT            | =      | -           | A77: each time
DISCONNECT      | duplicate | Setup Connected  | DISCONNECT            | Kept   | -           | A77

SLEEP           | valid stale | Away           | DISCONNECT            | =      | -           | A77
SLEEP           | valid stale | Setup          | DISCONNECT            | Kept   | -           | state table: Setup has nothing to sleep with
SLEEP           | valid stale | Connected      | DISCONNECT            | Asleep | -           | 6.14, A68
SLEEP           | malformed | *                | -                     | =      | -           | A9: three octets of duration
SLEEP           | duplicate | Away             | DISCONNECT            | =      | -           | A77
SLEEP           | duplicate | Setup            | DISCONNECT            | Kept   | -           | A77
SLEEP           | duplicate | Connected        | DISCONNECT            | Asleep | -           | A68, A73

WILLTOPICUPD    | valid stale | Away           | DISCONNECT            | =      | -           | A13
WILLTOPICUPD    | valid stale duplicate | Setup | -                    | =      | -           | 6.2
WILLTOPICUPD    | valid stale duplicate | Connected | WILLTOPICRESP(0) | =      | -           | 6.4, A25
WILLTOPICUPD    | malformed | Away             | DISCONNECT            | =      | -           | A13
WILLTOPICUPD    | malformed | Setup            | -                     | =      | -           | 6.2
WILLTOPICUPD    | malformed | Connected        | WILLTOPICRESP(3)      | =      | -           | A24: a wildcard
WILLTOPICUPD    | duplicate | Away             | -                     | =      | -           | A13

WILLMSGUPD      | valid stale | Away           | DISCONNECT            | =      | -           | A13
WILLMSGUPD      | duplicate | Away             | -                     | =      | -           | A13
WILLMSGUPD      | valid stale duplicate | Setup | -                    | =      | -           | 6.2
WILLMSGUPD      | valid stale duplicate | Connected | WILLMSGRESP(0)   | =      | -           | 6.4, A25
WILLMSGUPD      | malformed | *                | -                     | =      | -           | A1

CONNACK         | *         | *                | -                     | =      | -           | only a gateway sends it
WILLTOPICREQ    | *         | *                | -                     | =      | -           | only a gateway sends it
WILLMSGREQ      | *         | *                | -                     | =      | -           | only a gateway sends it
SUBACK          | *         | *                | -                     | =      | -           | only a gateway sends it
UNSUBACK        | *         | *                | -                     | =      | -           | only a gateway sends it
WILLTOPICRESP   | *         | *                | -                     | =      | -           | only a gateway sends it
WILLMSGRESP     | *         | *                | -                     | =      | -           | only a gateway sends it
ENCAPSULATED    | *         | *                | -                     | =      | -           | A82: within encapsulation
RESERVED        | *         | *                | -                     | =      | -           | A6
";

const MESSAGES: [&str; 35] = [
    "ADVERTISE",
    "SEARCHGW",
    "GWINFO",
    "CONNECT",
    "CONNECT+WILL",
    "CONNACK",
    "WILLTOPICREQ",
    "WILLTOPIC",
    "WILLMSGREQ",
    "WILLMSG",
    "REGISTER",
    "REGACK",
    "PUBLISH-1",
    "PUBLISH0",
    "PUBLISH1",
    "PUBLISH2",
    "PUBACK",
    "PUBCOMP",
    "PUBREC",
    "PUBREL",
    "SUBSCRIBE",
    "SUBACK",
    "UNSUBSCRIBE",
    "UNSUBACK",
    "PINGREQ",
    "PINGREQ+ID",
    "PINGRESP",
    "DISCONNECT",
    "SLEEP",
    "WILLTOPICUPD",
    "WILLTOPICRESP",
    "WILLMSGUPD",
    "WILLMSGRESP",
    "ENCAPSULATED",
    "RESERVED",
];
const VARIANTS: [&str; 4] = ["valid", "malformed", "stale", "duplicate"];
const STATES: [&str; 8] = ["None", "Kept", "Lost", "W1", "W2", "Active", "Asleep", "Awake"];

const CLIENT: u16 = 1;

/// MsgId of the client's requests.
const REQUEST: u16 = 0x0007;

#[test]
fn every_message_in_every_state_gets_what_the_page_says() {
    let mut wrong = String::new();
    for clean in [false, true] {
        for ((message, variant, state), row) in table() {
            if clean && matches!(state, "Kept" | "Lost") {
                continue;
            }
            let next = match row.next {
                "=" => state,
                "Kept" if clean => "None",
                next => next,
            };
            let broker = match row.broker {
                "ends" if clean => "unsubscribe unsubscribe",
                "ends" => "-",
                broker => broker,
            };
            let expected = (row.answer, next, broker);
            let got = run(message, variant, state, clean);
            if (got.0.as_str(), got.1, got.2.as_str()) != expected {
                let clean = u8::from(clean);
                writeln!(
                    wrong,
                    "{message} {variant} in {state}, clean {clean} ({}): expected {expected:?}, got {got:?}",
                    row.why
                )
                .unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn no_combination_is_missing() {
    let table = table();
    let mut missing = Vec::new();
    for message in messages() {
        for variant in VARIANTS {
            for state in STATES {
                if !table.contains_key(&(message, variant, state)) {
                    missing.push(format!("{message} {variant} in {state}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert_eq!(table.len(), messages().count() * VARIANTS.len() * STATES.len());
}

#[test]
fn every_message_type_of_the_specification_is_in_the_table() {
    let types: BTreeSet<u8> = messages()
        .map(|message| {
            let (bench, ids) = prepared("Active", message, false);
            drop(bench);
            datagram(message, "valid", false, &ids)[1]
        })
        .collect();
    for msg_type in MsgType::ALL {
        assert!(types.contains(&(msg_type as u8)), "{msg_type:?}");
    }
}

/// Cut after every octet, or with one too many: silence, and nothing changes, whatever the state.
#[test]
fn datagrams_of_the_wrong_length_change_nothing_in_any_state() {
    for state in STATES {
        for message in messages() {
            let (mut bench, ids) = prepared(state, message, false);
            let whole = datagram(message, "valid", false, &ids);
            for len in 0..whole.len() {
                bench.raw(CLIENT, &whole[..len]);
            }
            bench.raw(CLIENT, &[&whole[..], b"x"].concat());
            let what = format!("{message} in {state}");
            assert!(bench.take(CLIENT).is_empty(), "{what}");
            assert!(bench.requests.is_empty(), "{what}");
            assert_eq!(state_of(&mut bench), state, "{what}");
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Row {
    answer: &'static str,
    next: &'static str,
    broker: &'static str,
    why: &'static str,
}

fn messages() -> impl Iterator<Item = &'static str> {
    MESSAGES.into_iter()
}

fn table() -> BTreeMap<(&'static str, &'static str, &'static str), Row> {
    let mut table = BTreeMap::new();
    for line in TABLE.lines().filter(|line| !line.is_empty()) {
        let columns: Vec<&'static str> = line.split('|').map(str::trim).collect();
        let [message, variants, states, answer, next, broker, why] = columns[..] else {
            panic!("not seven columns: {line}")
        };
        assert!(MESSAGES.contains(&message), "{line}");
        let variants: Vec<&str> = match variants {
            "*" => VARIANTS.to_vec(),
            variants => variants.split(' ').collect(),
        };
        let states: Vec<&str> = states.split(' ').flat_map(group).copied().collect();
        let row = Row {
            answer,
            next,
            broker,
            why,
        };
        for &variant in &variants {
            assert!(VARIANTS.contains(&variant), "{line}");
            for &state in &states {
                let twice = table.insert((message, variant, state), row);
                assert!(
                    twice.is_none(),
                    "{message} {variant} in {state} stands there twice"
                );
            }
        }
    }
    table
}

fn group(name: &'static str) -> &'static [&'static str] {
    match name {
        "*" => &STATES,
        "Away" => &["None", "Kept", "Lost"],
        "Setup" => &["W1", "W2"],
        "Connected" => &["Active", "Asleep", "Awake"],
        name => {
            let at = STATES.iter().position(|state| *state == name);
            let at = at.unwrap_or_else(|| panic!("no state {name}"));
            std::slice::from_ref(&STATES[at])
        }
    }
}

/// What a case makes of it: the answers, the state that follows, what the broker heard.
fn run(message: &'static str, variant: &str, state: &str, clean: bool) -> (String, &'static str, String) {
    let (mut bench, ids) = prepared(state, message, clean);
    let first = datagram(
        message,
        if variant == "duplicate" { "valid" } else { variant },
        clean,
        &ids,
    );
    bench.raw(CLIENT, &first);
    settle(&mut bench);
    if variant == "duplicate" {
        bench.take(CLIENT);
        bench.requests.clear();
        bench.raw(CLIENT, &datagram(message, "duplicate", clean, &ids));
        settle(&mut bench);
    }
    let answers: Vec<String> = bench
        .take(CLIENT)
        .iter()
        .map(|datagram| shown(datagram, &ids))
        .collect();
    assert!(bench.sent.is_empty(), "sent to somebody else: {:?}", bench.sent);
    let broker: Vec<&str> = bench.requests.drain(..).map(|request| heard(&request)).collect();
    let or_dash = |words: String| if words.is_empty() { "-".to_owned() } else { words };
    let answer = or_dash(answers.join(" "));
    let broker = or_dash(broker.join(" "));
    (answer, state_of(&mut bench), broker)
}

fn heard(request: &BrokerRequest) -> &'static str {
    match request {
        BrokerRequest::Publish { .. } => "publish",
        BrokerRequest::Subscribe { .. } => "subscribe",
        BrokerRequest::Unsubscribe { .. } => "unsubscribe",
        BrokerRequest::Open { .. } => "open",
        BrokerRequest::Close { .. } => "close",
        BrokerRequest::Ack { .. } => "ack",
        BrokerRequest::Complete { .. } => "complete",
    }
}

/// An answer by its name and return code; it must echo the ids of the request.
fn shown(datagram: &[u8], ids: &Ids) -> String {
    assert_ne!(datagram[0], 1, "the long form for a short message");
    let packet = Packet::decode(datagram).unwrap();
    let echoes = |msg_id: MsgId| {
        assert!(
            [MsgId(0), MsgId(REQUEST), MsgId(STALE), ids.down].contains(&msg_id),
            "{packet:?} echoes another id"
        );
    };
    match packet {
        Packet::GwInfo(_) => "GWINFO".into(),
        Packet::Connack(connack) => format!("CONNACK({})", u8::from(connack.return_code)),
        Packet::WillTopicReq => "WILLTOPICREQ".into(),
        Packet::WillMsgReq => "WILLMSGREQ".into(),
        Packet::WillTopicResp(code) => format!("WILLTOPICRESP({})", u8::from(code)),
        Packet::WillMsgResp(code) => format!("WILLMSGRESP({})", u8::from(code)),
        Packet::Register(_) => "REGISTER".into(),
        Packet::Regack(regack) => {
            echoes(regack.msg_id);
            format!("REGACK({})", u8::from(regack.return_code))
        }
        Packet::Publish(publish) => if publish.dup { "PUBLISH+DUP" } else { "PUBLISH" }.into(),
        Packet::Puback(puback) => {
            echoes(puback.msg_id);
            format!("PUBACK({})", u8::from(puback.return_code))
        }
        Packet::Pubrec(msg_id) => {
            echoes(msg_id);
            "PUBREC".into()
        }
        Packet::Pubrel(msg_id) => {
            echoes(msg_id);
            "PUBREL".into()
        }
        Packet::Pubcomp(msg_id) => {
            echoes(msg_id);
            "PUBCOMP".into()
        }
        Packet::Suback(suback) => {
            echoes(suback.msg_id);
            format!("SUBACK({})", u8::from(suback.return_code))
        }
        Packet::Unsuback(msg_id) => {
            echoes(msg_id);
            "UNSUBACK".into()
        }
        Packet::Pingreq(ping) => {
            assert_eq!(ping.client_id, None, "a client expects two octets");
            "PINGREQ".into()
        }
        Packet::Pingresp => "PINGRESP".into(),
        Packet::Disconnect(disconnect) => {
            assert_eq!(disconnect.duration, None, "only clients send a duration");
            "DISCONNECT".into()
        }
        other => panic!("the gateway never sends {other:?}"),
    }
}

/// The client's state, by the gateway's counts; of a handshake by the prompt it repeats.
fn state_of(bench: &mut Bench) -> &'static str {
    let metrics = bench.gateway.metrics();
    let counts = [
        (metrics.clients_active, "Active"),
        (metrics.clients_asleep, "Asleep"),
        (metrics.clients_awake, "Awake"),
        (metrics.clients_disconnected, "Kept"),
        (metrics.clients_lost, "Lost"),
        (metrics.clients_connecting, "Setup"),
        (u64::from(metrics.clients == 0), "None"),
    ];
    let mut states = counts.iter().filter(|(count, _)| *count > 0);
    let (count, state) = *states.next().unwrap();
    assert!(
        count == 1 && states.next().is_none(),
        "one client, one state: {counts:?}"
    );
    if state != "Setup" {
        return state;
    }
    bench.take(CLIENT);
    bench.pass(seconds(10));
    let repeated = bench.take(CLIENT);
    match Packet::decode(&repeated[0]).unwrap() {
        Packet::WillTopicReq => "W1",
        Packet::WillMsgReq => "W2",
        other => panic!("{other:?}"),
    }
}

/// What the client knows of its session.
#[derive(Debug)]
struct Ids {
    /// Topic id of `t/up`.
    up: TopicId,
    /// What the gateway sent that is to be acknowledged: topic id and MsgId.
    down_topic: TopicId,
    down: MsgId,
}

/// A MsgId that stands for nothing, on either side.
const STALE: u16 = 0x7F01;

/// A gateway with the client in this state, and on its way what `message` answers.
fn prepared(state: &str, message: &str, clean: bool) -> (Bench, Ids) {
    let mut bench = Bench::up(GatewayConfig {
        predefined: vec![PredefinedTopic {
            id: TopicId(1),
            topic: "pre/one".into(),
        }],
        ..GatewayConfig::default()
    });
    let mut ids = Ids {
        up: TopicId(0x0500),
        down_topic: TopicId(0x0501),
        down: MsgId(0x0102),
    };
    if state == "None" {
        return (bench, ids);
    }
    bench.packet(CLIENT, Packet::Connect(connect(false, clean, 60)));
    bench.expect(CLIENT, &[connack(ReturnCode::Accepted)]);
    ids.up = bench.register(CLIENT, "t/up");
    let (_, exact) = bench.subscribe(CLIENT, "t/down", QoS::ExactlyOnce);
    let (_, wildcard) = bench.subscribe(CLIENT, "w/+", QoS::ExactlyOnce);
    if message == "PUBREL" {
        bench.packet(CLIENT, publish(TopicRef::Normal(ids.up), 2, false));
        settle(&mut bench);
    }
    let opens = matches!(message, "REGACK" | "PUBACK" | "PUBREC" | "PUBCOMP");
    let sleeps = matches!(state, "Asleep" | "Awake");
    if opens || state == "Awake" {
        if sleeps && !(state == "Asleep" && opens) {
            sleep(&mut bench);
        }
        let (filter, topic, qos): (FilterId, _, _) = match message {
            "REGACK" => (wildcard, "w/x", QoS::AtLeastOnce),
            "PUBREC" | "PUBCOMP" => (exact, "t/down", QoS::ExactlyOnce),
            _ => (exact, "t/down", QoS::AtLeastOnce),
        };
        bench.message(&[filter], topic, qos, false, b"go");
        if state == "Awake" {
            bench.packet(CLIENT, Packet::Pingreq(Pingreq { client_id: None }));
        }
        let sent = bench.take(CLIENT);
        (ids.down_topic, ids.down) = match Packet::decode(sent.last().unwrap()).unwrap() {
            Packet::Register(register) => (register.topic_id, register.msg_id),
            Packet::Publish(publish) => (topic_id(publish.topic), publish.msg_id),
            other => panic!("{other:?}"),
        };
        if message == "PUBCOMP" {
            bench.packet(CLIENT, Packet::Pubrec(ids.down));
        }
    }
    match state {
        "Asleep" => sleep(&mut bench),
        "Lost" => bench.pass(seconds(100)),
        "Kept" | "W1" | "W2" => bench.packet(CLIENT, Packet::Disconnect(Disconnect { duration: None })),
        _ => {}
    }
    if matches!(state, "W1" | "W2") {
        bench.packet(CLIENT, Packet::Connect(connect(true, clean, 60)));
    }
    if state == "W2" {
        bench.packet(CLIENT, will_topic());
    }
    bench.take(CLIENT);
    bench.requests.clear();
    // What was answered within the last second counts for limits.
    bench.pass(seconds(2));
    (bench, ids)
}

fn sleep(bench: &mut Bench) {
    bench.packet(CLIENT, Packet::Disconnect(Disconnect { duration: Some(600) }));
}

/// The broker accepts everything at once.
fn settle(bench: &mut Bench) {
    let answers: Vec<_> = bench
        .requests
        .iter()
        .filter_map(|request| match request {
            BrokerRequest::Publish { token, .. } => Some(((*token)?, None)),
            BrokerRequest::Subscribe { token, qos, .. } => Some((*token, Some(*qos))),
            BrokerRequest::Unsubscribe { token, .. } => Some((*token, None)),
            _ => None,
        })
        .collect();
    for (token, granted) in answers {
        bench.broker(BrokerEvent::Settled {
            token,
            result: Ok(granted),
        });
    }
}

fn topic_id(topic: TopicRef) -> TopicId {
    match topic {
        TopicRef::Normal(id) | TopicRef::Predefined(id) => id,
        TopicRef::Short(short) => TopicId(u16::from_be_bytes(short.0)),
    }
}

fn connect(will: bool, clean_session: bool, duration: u16) -> Connect<'static> {
    Connect {
        will,
        clean_session,
        duration,
        client_id: "c",
    }
}

fn will_topic() -> Packet<'static> {
    Packet::WillTopic(Some(WillTopic {
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: "will/t",
    }))
}

fn publish(topic: TopicRef, qos: u8, dup: bool) -> Packet<'static> {
    let qos = match qos {
        0 => PublishQoS::Level(QoS::AtMostOnce),
        1 => PublishQoS::Level(QoS::AtLeastOnce),
        _ => PublishQoS::Level(QoS::ExactlyOnce),
    };
    Packet::Publish(Publish {
        dup,
        qos,
        retain: false,
        topic,
        msg_id: MsgId(REQUEST),
        data: b"21.5",
    })
}

/// The datagram of a message; see the tables above for what the variants are.
fn datagram(message: &str, variant: &str, clean: bool, ids: &Ids) -> Vec<u8> {
    let octets = |msg_type: u8, body: &[u8]| {
        let mut datagram = vec![body.len() as u8 + 2, msg_type];
        datagram.extend_from_slice(body);
        datagram
    };
    let [stale_high, stale_low] = STALE.to_be_bytes();
    let [up_high, up_low] = ids.up.0.to_be_bytes();
    let [down_high, down_low] = match variant {
        "stale" => [stale_high, stale_low],
        _ => ids.down.0.to_be_bytes(),
    };
    let [topic_high, topic_low] = ids.down_topic.0.to_be_bytes();
    let (bad, stale) = (variant == "malformed", variant == "stale");
    let dup = if variant == "duplicate" { 0x80 } else { 0 };
    let connect = |will: u8| {
        let flags = will << 3 | u8::from(clean) << 2;
        let duration = if stale { 30 } else { 60 };
        octets(0x04, &[flags, if bad { 2 } else { 1 }, 0, duration, b'c'])
    };
    // QoS 0 has no message id and no repeats.
    let publish = |qos: u8| {
        let dup = if qos == 0 { 0 } else { dup };
        let flags = dup | qos << 5 | if bad { 0x03 } else { 0 };
        let [high, low] = if stale { [0x03, 0x33] } else { [up_high, up_low] };
        let msg_id = if qos == 0 { 0 } else { REQUEST as u8 };
        octets(0x0C, &[flags, high, low, 0, msg_id, b'2', b'1'])
    };
    let one_short = |whole: Vec<u8>| {
        let body = &whole[2..whole.len() - usize::from(whole.len() > 2)];
        octets(whole[1], body)
    };
    let fixed = |msg_type: u8, body: &[u8]| {
        let whole = octets(msg_type, body);
        if bad { one_short(whole) } else { whole }
    };
    // A length that is not the datagram's, for messages whose layout takes any octets.
    let any_octets = |msg_type: u8, body: &[u8]| {
        let mut whole = octets(msg_type, body);
        whole[0] += u8::from(bad);
        whole
    };
    match message {
        "ADVERTISE" => fixed(0x00, &[9, 3, 0xC0]),
        "SEARCHGW" => fixed(0x01, &[0]),
        "GWINFO" => {
            if bad {
                octets(0x02, &[])
            } else {
                octets(0x02, &[9])
            }
        }
        "CONNECT" => connect(0),
        "CONNECT+WILL" => connect(1),
        "CONNACK" => fixed(0x05, &[0]),
        "WILLTOPICREQ" => any_octets(0x06, &[]),
        "WILLTOPIC" => octets(0x07, if bad { b"\x20will/#" } else { b"\x20will/t" }),
        "WILLMSGREQ" => any_octets(0x08, &[]),
        "WILLMSG" => any_octets(0x09, b"gone"),
        "REGISTER" => {
            let name: &[u8] = match variant {
                "malformed" => b"t/#",
                "stale" => b"t/up",
                _ => b"t/new",
            };
            octets(0x0A, &[&[0, 0, 0, REQUEST as u8], name].concat())
        }
        "REGACK" => fixed(0x0B, &[topic_high, topic_low, down_high, down_low, 0]),
        "PUBLISH-1" => {
            let (id_type, id) = if bad {
                (0, 1)
            } else {
                (1, if stale { 9 } else { 1 })
            };
            octets(0x0C, &[0x60 | id_type, 0, id, 0, 0, b'x'])
        }
        "PUBLISH0" => publish(0),
        "PUBLISH1" => publish(1),
        "PUBLISH2" => publish(2),
        "PUBACK" => fixed(0x0D, &[topic_high, topic_low, down_high, down_low, 0]),
        "PUBCOMP" => fixed(0x0E, &[down_high, down_low]),
        "PUBREC" => fixed(0x0F, &[down_high, down_low]),
        "PUBREL" if stale => octets(0x10, &[stale_high, stale_low]),
        "PUBREL" => fixed(0x10, &[0, REQUEST as u8]),
        "SUBSCRIBE" if stale => octets(0x12, &[0x21, 0, REQUEST as u8, 0, 9]),
        "SUBSCRIBE" => {
            let flags = dup | if bad { 0x60 } else { 0x20 };
            octets(0x12, &[&[flags, 0, REQUEST as u8], &b"t/sub"[..]].concat())
        }
        "SUBACK" => fixed(0x13, &[0, 5, 1, 0, REQUEST as u8, 0]),
        "UNSUBSCRIBE" => {
            let name: &[u8] = match variant {
                "malformed" => b"t/#/x",
                "stale" => b"t/never",
                _ => b"t/down",
            };
            octets(0x14, &[&[0, 0, REQUEST as u8], name].concat())
        }
        "UNSUBACK" => fixed(0x15, &[0, REQUEST as u8]),
        "PINGREQ" => octets(0x16, if bad { b"\xFF" } else { b"" }),
        "PINGREQ+ID" => octets(
            0x16,
            match variant {
                "malformed" => b"c\xFF",
                "stale" => b"other",
                _ => b"c",
            },
        ),
        "PINGRESP" => any_octets(0x17, &[]),
        "DISCONNECT" => octets(0x18, if bad { b"\x01" } else { b"" }),
        "SLEEP" => octets(0x18, if bad { b"\x01\x2C\x00" } else { b"\x01\x2C" }),
        "WILLTOPICUPD" => octets(0x1A, if bad { b"\x20will/#" } else { b"\x20will/u" }),
        "WILLTOPICRESP" => fixed(0x1B, &[0]),
        "WILLMSGUPD" => any_octets(0x1C, b"gone"),
        "WILLMSGRESP" => fixed(0x1D, &[0]),
        // Within a proper frame of a forwarder that has no client behind it.
        "ENCAPSULATED" => octets(0xFE, b"\x00\x01")
            .into_iter()
            .chain(octets(0xFE, b"\x00\x01"))
            .chain(octets(0x17, b""))
            .collect(),
        "RESERVED" => octets(0x03, b"x"),
        other => panic!("no message {other}"),
    }
}
