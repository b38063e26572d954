//! Sessions and wills: who keeps what over which CONNECT, whose address is whose, and when a will is published.

#![allow(clippy::unwrap_used)]

mod common;

use common::{
    Bench, LINK, connack, connect, disconnect, puback, publish, route, seconds, topic_id, will_topic,
};
use gateway_core::config::{AddressChange, ClientRule, GatewayConfig, UnknownSender};
use gateway_core::io::{BrokerRequest, LinkEvent, LinkProfile, Notice};
use sn_codec::{Connect, Packet, Pingreq, QoS, ReturnCode, TopicRef, WillMsg, WillTopic};

const A: u16 = 1;
const B: u16 = 2;
const C: u16 = 3;
const QOS1: QoS = QoS::AtLeastOnce;

impl Bench {
    /// The wills published since the last look: topic and message.
    fn wills(&mut self) -> Vec<(String, String)> {
        let published = self.publishes().into_iter();
        let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
        published
            .map(|(_, topic, payload)| (topic, text(payload)))
            .collect()
    }

    #[track_caller]
    fn will_topic_upd(&mut self, topic: Option<&str>) {
        let will = topic.map(|topic| WillTopic {
            qos: QOS1,
            retain: true,
            topic,
        });
        self.packet(A, Packet::WillTopicUpd(will));
        self.expect(A, &[Packet::WillTopicResp(ReturnCode::Accepted)]);
    }

    #[track_caller]
    fn will_msg_upd(&mut self, message: &[u8]) {
        self.packet(A, Packet::WillMsgUpd(WillMsg { message }));
        self.expect(A, &[Packet::WillMsgResp(ReturnCode::Accepted)]);
    }

    fn congestion(&mut self, port: u16) {
        self.expect(port, &[connack(ReturnCode::Congestion)]);
    }
}

fn will(topic: &str, message: &str) -> (String, String) {
    (topic.into(), message.into())
}

fn with_address_change(address_change: AddressChange) -> GatewayConfig {
    GatewayConfig {
        address_change,
        ..GatewayConfig::default()
    }
}

// What a CONNECT keeps (the table of section 4.2 of the protocol page, readings A19, A22, A23).

#[test]
fn clean_session_deletes_subscriptions_ids_messages_and_will() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with_will(A, "a", false, 60);
    let id = bench.register(A, "t/up");
    let (_, filter) = bench.subscribe(A, "cmd", QOS1);
    bench.packet(A, disconnect());
    bench.take(A);
    bench.message(&[filter], "cmd", QOS1, false, b"1");
    bench.requests.clear();
    bench.connect_with(A, connect("a", true, 60));
    assert!(matches!(&bench.requests[..], [BrokerRequest::Unsubscribe { .. }]));
    bench.packet(A, publish(TopicRef::Normal(id), QOS1, 1, b"x"));
    bench.expect(A, &[puback(id, 1, ReturnCode::InvalidTopicId)]);
    bench.pass(seconds(100));
    assert_eq!(bench.wills(), []);
    assert_eq!(bench.gateway.metrics().buffer_messages, 0);
}

/// A19, A20: whether the client was connected, slept or was in the middle of its will.
#[test]
fn clean_session_ends_with_its_connection_even_without_a_goodbye() {
    for (asleep, will) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut bench = Bench::up(GatewayConfig::default());
        bench.connect_with_will(A, "a", true, 60);
        let id = bench.register(A, "t/up");
        let (_, filter) = bench.subscribe(A, "cmd", QOS1);
        if asleep {
            bench.sleep(A, 600);
        }
        bench.message(&[filter], "cmd", QOS1, false, b"1");
        bench.take(A);
        bench.requests.clear();
        if will {
            let connect = Connect {
                will: true,
                ..connect("a", false, 60)
            };
            bench.packet(A, Packet::Connect(connect));
            bench.expect(A, &[Packet::WillTopicReq]);
            bench.packet(A, Packet::WillTopic(None));
            bench.expect(A, &[connack(ReturnCode::Accepted)]);
        } else {
            bench.connect_with(A, connect("a", false, 60));
        }
        assert!(matches!(&bench.requests[..], [BrokerRequest::Unsubscribe { .. }]));
        bench.packet(A, publish(TopicRef::Normal(id), QOS1, 1, b"x"));
        bench.expect(A, &[puback(id, 1, ReturnCode::InvalidTopicId)]);
        let connected = bench.notices.iter().rev().find_map(|notice| match notice {
            Notice::Connected {
                resumed, buffered, ..
            } => Some((*resumed, *buffered)),
            _ => None,
        });
        assert_eq!(connected, Some((false, 0)));
        bench.pass(seconds(100));
        assert_eq!(bench.wills(), []);
        assert_eq!(bench.gateway.metrics().buffer_messages, 0);
    }
}

#[test]
fn kept_session_has_subscriptions_ids_messages_and_will() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with_will(A, "a", false, 60);
    let id = bench.register(A, "t/up");
    let (_, filter) = bench.subscribe(A, "cmd", QOS1);
    bench.packet(A, disconnect());
    bench.take(A);
    bench.message(&[filter], "cmd", QOS1, false, b"1");
    bench.requests.clear();
    bench.packet(A, Packet::Connect(connect("a", false, 60)));
    let heard = bench.heard(A);
    assert_eq!(heard[0], connack(ReturnCode::Accepted));
    let Packet::Register(register) = heard[1] else {
        panic!("known names are registered again (reading A39): {heard:?}")
    };
    assert_eq!(register.topic_name, "cmd");
    assert!(bench.requests.is_empty());
    bench.packet(A, publish(TopicRef::Normal(id), QOS1, 1, b"x"));
    assert_eq!(bench.publishes()[0].1, "t/up");
    bench.pass(seconds(100));
    assert_eq!(bench.wills(), [will("will/t", "gone")]);
}

#[test]
fn new_will_replaces_the_stored_one_and_an_empty_one_deletes_it() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with_will(A, "a", false, 60);
    bench.packet(A, disconnect());
    bench.take(A);
    let with_will = Packet::Connect(Connect {
        will: true,
        ..connect("a", false, 60)
    });
    bench.packet(A, with_will);
    bench.packet(A, will_topic("other/t"));
    bench.packet(A, Packet::WillMsg(WillMsg { message: b"" }));
    bench.pass(seconds(100));
    assert_eq!(
        bench.wills(),
        [will("other/t", "")],
        "an empty message is one (reading A24)"
    );
    bench.packet(A, with_will);
    bench.packet(A, Packet::WillTopic(None));
    bench.pass(seconds(100));
    assert_eq!(bench.gateway.metrics().clients_lost, 1);
    assert_eq!(bench.wills(), []);
}

#[test]
fn session_that_nobody_returns_to_ends_after_its_time() {
    let mut config = GatewayConfig::default();
    config.timers.session_expiry = seconds(3600);
    let mut bench = Bench::up(config);
    bench.connect_with(A, connect("a", false, 60));
    bench.subscribe(A, "cmd", QOS1);
    bench.packet(A, disconnect());
    bench.requests.clear();
    bench.pass(seconds(3599));
    assert_eq!(bench.gateway.metrics().clients_disconnected, 1);
    bench.pass(seconds(2));
    assert_eq!(bench.gateway.metrics().clients, 0);
    assert!(matches!(&bench.requests[..], [BrokerRequest::Unsubscribe { .. }]));
}

#[test]
fn other_parameters_count_from_the_new_connect_on() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with_will(A, "a", false, 60);
    bench.connect_with(A, connect("a", false, 600));
    assert_eq!(bench.wills(), [], "the device is alive (reading A19)");
    bench.pass(seconds(899));
    assert_eq!(bench.gateway.metrics().clients_active, 1);
    bench.pass(seconds(2));
    assert_eq!(bench.wills(), [will("will/t", "gone")]);
}

#[test]
fn too_many_will_handshakes_change_nothing_for_who_is_refused() {
    let mut config = GatewayConfig::default();
    config.limits.pending_connects = 1;
    let mut bench = Bench::up(config);
    bench.connect_with(A, connect("a", false, 60));
    bench.subscribe(A, "cmd", QOS1);
    let with_will = |id| Connect {
        will: true,
        ..connect(id, true, 60)
    };
    bench.packet(B, Packet::Connect(with_will("b")));
    bench.expect(B, &[Packet::WillTopicReq]);
    bench.requests.clear();
    bench.packet(A, Packet::Connect(with_will("a")));
    bench.congestion(A);
    assert!(bench.requests.is_empty(), "its session is as it was");
    bench.pingreq(A, None);
    bench.expect(A, &[Packet::Pingresp]);
    bench.packet(B, Packet::Connect(with_will("b")));
    bench.finish_will_handshake(B);
}

// A lost CONNACK (reading A18).

#[test]
fn repeated_connect_keeps_what_was_there() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with(A, connect("a", false, 60));
    bench.subscribe(A, "cmd", QOS1);
    bench.packet(A, disconnect());
    bench.take(A);
    bench.requests.clear();
    for _ in 0..3 {
        bench.connect_with(A, connect("a", false, 60));
        bench.pass(seconds(10));
    }
    assert!(bench.requests.is_empty());
}

#[test]
fn repeated_connect_with_will_is_prompted_again_and_keeps_the_session() {
    let mut bench = Bench::up(GatewayConfig::default());
    for _ in 0..3 {
        bench.connect_with_will(A, "a", true, 60);
        bench.pass(seconds(10));
    }
    bench.packet(A, Packet::WillMsg(WillMsg { message: b"gone" }));
    bench.expect(A, &[connack(ReturnCode::Accepted)]);
    bench.packet(A, Packet::WillMsg(WillMsg { message: b"gone" }));
    bench.expect(A, &[connack(ReturnCode::Accepted)]);
    bench.pingreq(A, None);
    bench.expect(A, &[Packet::Pingresp]);
    bench.packet(A, Packet::WillMsg(WillMsg { message: b"gone" }));
    bench.expect(A, &[]);
}

// Wills: when, and which (readings A25, A26).

#[test]
fn updated_will_is_published_in_the_place_of_the_first() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with_will(A, "a", true, 60);
    bench.will_topic_upd(Some("will/new"));
    bench.will_msg_upd(b"updated");
    bench.pass(seconds(100));
    assert!(matches!(
        &bench.requests[..],
        [BrokerRequest::Publish { topic, payload, retain: true, qos: QoS::AtLeastOnce, .. }]
            if &**topic == "will/new" && &payload[..] == b"updated"
    ));
}

#[test]
fn each_half_of_a_will_can_be_updated_alone() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with_will(A, "a", false, 60);
    bench.will_topic_upd(Some("will/new"));
    bench.pass(seconds(100));
    assert_eq!(bench.wills(), [will("will/new", "gone")]);
    bench.connect_with(A, connect("a", false, 60));
    bench.will_msg_upd(b"updated");
    bench.pass(seconds(100));
    assert_eq!(bench.wills(), [will("will/new", "updated")]);
}

#[test]
fn will_message_without_a_topic_waits_for_one() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with(A, connect("a", false, 60));
    bench.will_msg_upd(b"first the message");
    bench.pass(seconds(100));
    assert_eq!(bench.wills(), [], "nowhere to publish it");
    bench.connect_with(A, connect("a", false, 60));
    bench.will_topic_upd(Some("will/late"));
    bench.pass(seconds(100));
    assert_eq!(bench.wills(), [will("will/late", "first the message")]);
}

#[test]
fn empty_will_topic_update_deletes_topic_and_message() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with_will(A, "a", false, 60);
    bench.will_topic_upd(None);
    bench.will_topic_upd(Some("will/t"));
    bench.pass(seconds(100));
    assert_eq!(bench.wills(), [will("will/t", "")]);
}

#[test]
fn will_is_not_published_for_who_says_goodbye_moves_connects_again_or_is_shut_down() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with_will(A, "a", true, 60);
    bench.connect_with(A, connect("a", true, 60));
    bench.connect_with_will(A, "a", true, 60);
    bench.connect_with_will(B, "a", true, 60);
    bench.packet(B, disconnect());
    bench.take(B);
    bench.connect_with_will(A, "a", true, 60);
    bench.gateway.handle_shutdown(bench.now);
    bench.drain();
    bench.pass(seconds(1000));
    assert_eq!(bench.wills(), []);
    assert_eq!(bench.gateway.metrics().lost_total, 0);
}

#[test]
fn will_is_published_once_for_each_loss_and_by_the_second() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with_will(A, "a", false, 60);
    for _ in 0..3 {
        bench.pass(seconds(89));
        assert_eq!(bench.wills(), []);
        bench.pass(seconds(2));
        assert_eq!(bench.wills(), [will("will/t", "gone")]);
        bench.pass(seconds(1000));
        assert_eq!(bench.wills(), []);
        bench.connect_with(A, connect("a", false, 60));
    }
}

#[test]
fn every_message_puts_the_loss_off_acknowledgements_too() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with_will(A, "a", true, 60);
    for packet in [
        Packet::Pingresp,
        puback(sn_codec::TopicId(1), 1, ReturnCode::Accepted),
        Packet::Pingreq(Pingreq { client_id: Some("a") }),
        Packet::WillMsg(WillMsg { message: b"" }),
    ] {
        bench.pass(seconds(89));
        bench.packet(A, packet);
    }
    bench.pass(seconds(89));
    assert_eq!(bench.wills(), []);
}

// Keep-alive 0 (reading A27), empty client id (A15).

#[test]
fn keep_alive_0_is_lost_after_a_day_of_silence_only() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with_will(A, "a", true, 0);
    bench.pass(seconds(24 * 3600 - 10));
    bench.pingreq(A, None);
    bench.expect(A, &[Packet::Pingresp]);
    bench.pass(seconds(24 * 3600 - 10));
    assert_eq!(bench.wills(), []);
    bench.pass(seconds(20));
    assert_eq!(bench.wills(), [will("will/t", "gone")]);
    assert_eq!(bench.gateway.metrics().clients, 0);
}

#[test]
fn empty_client_id_is_served_with_a_clean_session_and_found_by_its_address() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.packet(A, Packet::Connect(connect("", false, 60)));
    bench.expect(A, &[connack(ReturnCode::NotSupported)]);
    bench.connect_with(A, connect("", true, 60));
    bench.connect_with(A, connect("", true, 60));
    assert_eq!(bench.gateway.metrics().clients, 1, "its repeat");
    bench.connect_with(B, connect("", true, 60));
    assert_eq!(bench.gateway.metrics().clients, 2, "another client");
    bench.sleep(A, 600);
    bench.pingreq(A, None);
    bench.expect(A, &[Packet::Pingresp]);
}

#[test]
fn client_id_as_long_as_the_limit_is_taken_and_one_octet_more_refused() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with(A, connect(&"x".repeat(128), true, 60));
    bench.packet(B, Packet::Connect(connect(&"x".repeat(129), true, 60)));
    bench.expect(B, &[connack(ReturnCode::NotSupported)]);
}

// Addresses (readings A10 to A13, A16).

#[test]
fn device_flashed_anew_is_served_and_its_old_self_ends_in_its_own_time() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with_will(A, "old", true, 60);
    let id = bench.register(A, "t/up");
    bench.connect_with(A, connect("new", true, 600));
    bench.packet(A, publish(TopicRef::Normal(id), QOS1, 1, b"x"));
    bench.expect(A, &[puback(id, 1, ReturnCode::InvalidTopicId)]);
    assert_eq!(bench.gateway.metrics().clients_active, 2);
    bench.pass(seconds(91));
    assert_eq!(bench.wills(), [will("will/t", "gone")]);
    bench.pingreq(A, None);
    bench.expect(A, &[Packet::Pingresp]);
}

#[test]
fn client_whose_address_went_to_another_returns_from_a_new_one() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with(A, connect("a", false, 60));
    let (_, filter) = bench.subscribe(A, "cmd", QOS1);
    bench.sleep(A, 600);
    bench.connect_with(A, connect("b", true, 60));
    bench.message(&[filter], "cmd", QOS1, false, b"1");
    bench.expect(A, &[]);
    bench.pingreq(B, Some("a"));
    let message = bench.heard_publish(B);
    bench.puback(B, message);
    bench.expect(B, &[Packet::Pingresp]);
}

#[test]
fn pingreq_that_names_somebody_else_is_no_ping() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    bench.connect(B, "b");
    bench.pingreq(A, Some("b"));
    bench.expect(A, &[disconnect()]);
    bench.pingreq(B, None);
    bench.expect(B, &[Packet::Pingresp]);
}

#[test]
fn guarded_client_that_still_answers_keeps_its_session() {
    let mut bench = Bench::up(with_address_change(AddressChange::Guarded));
    bench.connect_with(A, connect("a", false, 60));
    bench.packet(B, Packet::Connect(connect("a", true, 60)));
    bench.expect(A, &[Packet::Pingreq(Pingreq { client_id: None })]);
    bench.expect(B, &[]);
    bench.packet(B, Packet::Connect(connect("a", true, 60)));
    bench.packet(C, Packet::Connect(connect("a", true, 60)));
    bench.congestion(C);
    bench.packet(A, Packet::Pingresp);
    bench.congestion(B);
    assert!(bench.notices.iter().any(|notice| matches!(
        notice,
        Notice::Refused {
            reason: "its old address still answers",
            ..
        }
    )));
    assert_eq!(bench.gateway.metrics().takeovers_refused_total, 2);
    bench.pass(seconds(60));
    bench.expect(A, &[]);
    bench.pingreq(A, None);
    bench.expect(A, &[Packet::Pingresp]);
}

#[test]
fn guarded_client_that_is_silent_has_moved_after_one_tretry() {
    let mut bench = Bench::up(with_address_change(AddressChange::Guarded));
    bench.connect_with(A, connect("a", false, 600));
    let (_, filter) = bench.subscribe(A, "cmd", QOS1);
    bench.packet(B, Packet::Connect(connect("a", false, 600)));
    bench.pass(seconds(9));
    bench.expect(B, &[]);
    bench.pass(seconds(2));
    bench.expect(A, &[Packet::Pingreq(Pingreq { client_id: None }); 3]);
    bench.expect(B, &[connack(ReturnCode::Accepted)]);
    bench.message(&[filter], "cmd", QOS1, false, b"1");
    assert!(
        matches!(bench.heard(B)[..], [Packet::Register(_)]),
        "its session went with it"
    );
    assert_eq!(bench.gateway.metrics().takeovers_total, 1);
}

#[test]
fn guarded_client_that_is_lost_meanwhile_frees_its_id() {
    let mut bench = Bench::up(with_address_change(AddressChange::Guarded));
    bench.connect_with_will(A, "a", false, 60);
    bench.pass(seconds(85));
    bench.packet(B, Packet::Connect(connect("a", false, 60)));
    bench.pass(seconds(6));
    assert_eq!(bench.wills(), [will("will/t", "gone")]);
    bench.expect(B, &[]);
    bench.connect_with(B, connect("a", false, 60));
}

#[test]
fn strict_client_moves_only_once_it_is_lost() {
    let mut bench = Bench::up(GatewayConfig {
        clients: vec![ClientRule {
            pattern: "a".into(),
            address_change: Some(AddressChange::Strict),
            ..ClientRule::default()
        }],
        ..GatewayConfig::default()
    });
    bench.connect_with(A, connect("a", false, 60));
    bench.packet(B, Packet::Connect(connect("a", false, 60)));
    bench.congestion(B);
    bench.connect_with(A, connect("a", false, 30));
    bench.pass(seconds(46));
    bench.connect_with(B, connect("a", false, 60));
    bench.connect_with(A, connect("others", false, 60));
    bench.connect_with(C, connect("others", false, 60));
}

// The radio.

#[test]
fn what_was_owed_when_the_radio_failed_is_not_sent_later() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    let profile = |credit| {
        LinkEvent::Up(LinkProfile {
            credit,
            ..LinkProfile::default()
        })
    };
    bench.gateway.handle_link(bench.now, LINK, profile(0));
    for _ in 0..100 {
        bench.pingreq(A, None);
    }
    bench.gateway.handle_link(bench.now, LINK, LinkEvent::Down);
    bench
        .gateway
        .handle_link(bench.now, LINK, profile(LinkProfile::UNLIMITED));
    bench.drain();
    bench.expect(A, &[]);
    for _ in 0..20 {
        bench.pingreq(A, None);
        bench.expect(A, &[Packet::Pingresp]);
    }
}

#[test]
fn qos_0_for_who_is_away_is_dropped_and_counted() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with(A, connect("a", false, 60));
    let (_, filter) = bench.subscribe(A, "cmd", QOS1);
    bench.packet(A, disconnect());
    bench.take(A);
    bench.message(&[filter], "cmd", QoS::AtMostOnce, false, b"0");
    bench.message(&[filter], "cmd", QOS1, false, b"1");
    assert_eq!(bench.gateway.metrics().buffer_qos0_dropped_total, 1);
    bench.packet(A, Packet::Connect(connect("a", false, 60)));
    let heard = bench.heard(A);
    let Packet::Register(register) = heard[1] else {
        panic!("{heard:?}")
    };
    bench.packet(
        A,
        Packet::Regack(sn_codec::Regack {
            topic_id: register.topic_id,
            msg_id: register.msg_id,
            return_code: ReturnCode::Accepted,
        }),
    );
    let message = bench.heard_publish(A);
    assert_eq!(
        (message.data, topic_id(message.topic)),
        (&b"1"[..], register.topic_id)
    );
}

#[test]
fn no_disconnect_for_the_stranger_follows_the_connack() {
    let mut bench = Bench::up(GatewayConfig::default());
    let mut hand_in = |packet: Packet<'_>| {
        let mut datagram = Vec::new();
        packet.encode(&mut datagram);
        bench.hand_in(LINK, &route(1), &datagram);
    };
    // Both before anything is sent: the network held the first back.
    hand_in(Packet::Pingreq(Pingreq { client_id: None }));
    hand_in(Packet::Connect(connect("a", true, 60)));
    bench.drain();
    bench.expect(1, &[connack(ReturnCode::Accepted)]);
}

#[test]
fn ids_of_a_session_that_is_gone_are_not_given_to_other_names() {
    let mut bench = Bench::up(GatewayConfig::default());
    let mut told = Vec::new();
    for round in 0..50 {
        bench.connect_with(A, connect("a", true, 60));
        told.push(bench.register(A, &format!("t/{round}")));
        bench.pass(seconds(90));
        assert_eq!(bench.gateway.metrics().clients, 0, "its record is gone");
        bench.take(A);
    }
    let mut once = told.clone();
    once.sort_unstable_by_key(|id| id.0);
    once.dedup();
    assert_eq!(once.len(), told.len(), "{told:?} (reading A35)");
}

#[test]
fn one_address_has_no_more_sessions_than_allowed_and_places_come_back() {
    let mut config = GatewayConfig::default();
    config.limits.per_source_sessions = 2;
    let mut bench = Bench::up(config);
    bench.connect_with(A, connect("a", true, 60));
    bench.connect_with(B, connect("b", true, 60));
    bench.packet(C, Packet::Connect(connect("c", true, 60)));
    bench.expect(C, &[connack(ReturnCode::Congestion)]);
    // A client that is there already may come from another port.
    bench.connect_with(C, connect("b", true, 60));
    bench.packet(A, disconnect());
    bench.expect(A, &[disconnect()]);
    bench.connect_with(A, connect("c", true, 60));
    assert_eq!(bench.gateway.metrics().clients_active, 2);
}

#[test]
fn strangers_are_left_alone_if_so_configured() {
    let config = GatewayConfig {
        unknown_sender: UnknownSender::Ignore,
        ..GatewayConfig::default()
    };
    let mut bench = Bench::up(config);
    bench.packet(A, Packet::Pingreq(Pingreq { client_id: None }));
    bench.packet(A, disconnect());
    bench.raw(A, &[0x06, 0x12, 0x00, 0, 1, 0xFF]); // SUBSCRIBE to what is no UTF-8.
    bench.expect(A, &[]);
    assert_eq!(bench.gateway.metrics().unknown_sender_total, 3);
    bench.connect_with(A, connect("a", true, 60));
}
