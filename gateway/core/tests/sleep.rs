//! Sleeping clients (§6.14): what waits for them, how they get it, and when they count as lost.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{
    Bench, LINK, connack, connect, disconnect, puback, publish, route, seconds, subscribe, topic_id,
};
use gateway_core::config::{AddressChange, ClientRule, GatewayConfig, SleepQos0, SleepRules, WhenFull};
use gateway_core::io::{
    BrokerEvent, BrokerRequest, DropReason, FilterId, LinkEvent, LinkProfile, Notice, Output, Refusal,
};
use sn_codec::{
    Connect, Disconnect, MsgId, Packet, Pingreq, PublishQoS, QoS, Regack, Register, ReturnCode, TopicId,
    TopicRef,
};

const A: u16 = 1;
const B: u16 = 2;
const QOS0: QoS = QoS::AtMostOnce;
const QOS1: QoS = QoS::AtLeastOnce;
const QOS2: QoS = QoS::ExactlyOnce;

/// Client `a` at port A, subscribed to `cmd/#` and knowing `cmd/a`, sleeps for 600 s.
fn sleeper(config: GatewayConfig) -> (Bench, FilterId) {
    let mut bench = Bench::up(config);
    bench.connect_with(A, connect("a", false, 60));
    bench.register(A, "cmd/a");
    bench.register(A, "cmd/b");
    let (_, filter) = bench.subscribe(A, "cmd/#", QOS2);
    bench.sleep(A, 600);
    bench.requests.clear();
    (bench, filter)
}

fn rules(change: impl FnOnce(&mut SleepRules)) -> GatewayConfig {
    let mut config = GatewayConfig::default();
    change(&mut config.sleep);
    config
}

impl Bench {
    fn cmd(&mut self, filter: FilterId, qos: QoS, payload: &str) {
        self.message(&[filter], "cmd/a", qos, false, payload.as_bytes());
    }

    /// Wakes up as `a` at this port and acknowledges everything, to the PINGRESP.
    #[track_caller]
    fn wake_and_take_all(&mut self, port: u16) -> Vec<String> {
        self.pingreq(port, Some("a"));
        let mut payloads = Vec::new();
        loop {
            let heard = self.heard(port);
            assert!(
                !heard.is_empty(),
                "neither a message nor PINGRESP after {payloads:?}"
            );
            for packet in heard {
                match packet {
                    Packet::Pingresp => {
                        assert!(self.heard(port).is_empty(), "something after PINGRESP");
                        return payloads;
                    }
                    Packet::Register(register) => self.packet(port, regack(register)),
                    Packet::Publish(publish) => {
                        payloads.push(String::from_utf8(publish.data.to_vec()).unwrap());
                        match publish.qos {
                            PublishQoS::Level(QoS::AtLeastOnce) => self.puback(port, publish),
                            PublishQoS::Level(QoS::ExactlyOnce) => {
                                self.packet(port, Packet::Pubrec(publish.msg_id));
                            }
                            _ => {}
                        }
                    }
                    Packet::Pubrel(msg_id) => self.packet(port, Packet::Pubcomp(msg_id)),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

fn regack(register: Register<'_>) -> Packet<'static> {
    Packet::Regack(Regack {
        topic_id: register.topic_id,
        msg_id: register.msg_id,
        return_code: ReturnCode::Accepted,
    })
}

// What waits.

#[test]
fn order_is_kept_over_all_qos_and_retain() {
    let (mut bench, filter) = sleeper(GatewayConfig::default());
    for (qos, payload) in [(QOS1, "1"), (QOS0, "2"), (QOS2, "3"), (QOS0, "4"), (QOS1, "5")] {
        bench.cmd(filter, qos, payload);
    }
    assert!(bench.take(A).is_empty(), "nothing before PINGREQ");
    assert_eq!(bench.wake_and_take_all(A), ["1", "2", "3", "4", "5"]);
    assert_eq!(bench.gateway.metrics().buffer_messages, 0);
    assert_eq!(bench.gateway.metrics().buffer_bytes, 0);
}

#[test]
fn full_buffer_drops_the_oldest_qos_0_then_what_comes_new() {
    for when_full in [WhenFull::Refuse, WhenFull::DropNewest] {
        let (mut bench, filter) = sleeper(rules(|rules| {
            rules.max_messages = 3;
            rules.when_full = when_full;
        }));
        for (qos, payload) in [
            (QOS1, "1"),
            (QOS0, "2"),
            (QOS0, "3"),
            (QOS1, "4"),
            (QOS0, "5"),
            (QOS2, "6"),
        ] {
            bench.cmd(filter, qos, payload);
        }
        bench.cmd(filter, QOS1, "7");
        assert_eq!(bench.gateway.metrics().buffer_dropped_total, 4);
        assert_eq!(bench.wake_and_take_all(A), ["1", "4", "6"], "{when_full:?}");
    }
}

#[test]
fn drop_oldest_takes_the_oldest_once_no_qos_0_is_left() {
    let (mut bench, filter) = sleeper(rules(|rules| {
        rules.max_messages = 3;
        rules.when_full = WhenFull::DropOldest;
    }));
    for (qos, payload) in [(QOS1, "1"), (QOS0, "2"), (QOS1, "3"), (QOS1, "4"), (QOS2, "5")] {
        bench.cmd(filter, qos, payload);
    }
    bench.cmd(filter, QOS0, "6");
    assert_eq!(bench.gateway.metrics().buffer_dropped_total, 3);
    assert_eq!(
        bench.wake_and_take_all(A),
        ["3", "4", "5"],
        "QoS 0 pushes no other QoS out"
    );
}

#[test]
fn buffer_is_bounded_in_octets() {
    let size = "cmd/a".len() + 1;
    let (mut bench, filter) = sleeper(rules(|rules| rules.max_bytes = 2 * size));
    for payload in ["1", "2", "3"] {
        bench.cmd(filter, QOS1, payload);
    }
    bench.cmd(filter, QOS1, &"x".repeat(2 * size));
    assert_eq!(bench.gateway.metrics().buffer_bytes, 2 * size as u64);
    assert_eq!(bench.gateway.metrics().buffer_dropped_total, 2);
    assert_eq!(bench.wake_and_take_all(A), ["1", "2"]);
}

#[test]
fn all_buffers_together_are_bounded_in_octets() {
    let mut config = GatewayConfig::default();
    config.limits.buffer_bytes = 3 * ("cmd/a".len() + 1);
    let mut bench = Bench::up(config);
    let mut filters = Vec::new();
    for (port, id) in [(A, "a"), (B, "b")] {
        bench.connect(port, id);
        filters.push(bench.subscribe(port, "cmd/a", QOS1).1);
        bench.sleep(port, 600);
    }
    bench.cmd(filters[0], QOS1, "1");
    bench.cmd(filters[0], QOS1, "2");
    assert_eq!(bench.gateway.metrics().buffer_messages, 3);
    assert_eq!(bench.gateway.metrics().buffer_dropped_total, 1);
    assert_eq!(bench.wake_and_take_all(A), ["1", "2"]);
}

#[test]
fn rules_of_the_client_go_before_the_global_ones() {
    let mut config = rules(|rules| rules.max_messages = 5);
    config.clients = vec![ClientRule {
        pattern: "a*".into(),
        sleep: Some(SleepRules {
            max_messages: 1,
            ..SleepRules::default()
        }),
        ..ClientRule::default()
    }];
    let (mut bench, filter) = sleeper(config);
    bench.cmd(filter, QOS1, "1");
    bench.cmd(filter, QOS1, "2");
    assert_eq!(bench.wake_and_take_all(A), ["1"]);
}

#[test]
fn message_that_waited_too_long_is_dropped_without_anybody_asking() {
    let (mut bench, filter) = sleeper(rules(|rules| rules.max_age = seconds(100)));
    bench.cmd(filter, QOS1, "old");
    bench.pass(seconds(50));
    bench.cmd(filter, QOS1, "new");
    bench.pass(seconds(49));
    assert_eq!(bench.gateway.metrics().buffer_messages, 2);
    bench.pass(seconds(2));
    assert_eq!(bench.gateway.metrics().buffer_messages, 1);
    assert_eq!(bench.gateway.metrics().buffer_expired_total, 1);
    assert_eq!(bench.wake_and_take_all(A), ["new"]);
}

#[test]
fn age_counts_for_sessions_that_are_away_too() {
    let (mut bench, filter) = sleeper(rules(|rules| rules.max_age = seconds(100)));
    bench.packet(A, disconnect());
    bench.cmd(filter, QOS1, "1");
    bench.pass(seconds(101));
    assert_eq!(bench.gateway.metrics().buffer_expired_total, 1);
    assert_eq!(bench.gateway.metrics().buffer_bytes, 0);
}

#[test]
fn qos_0_latest_per_topic_keeps_one_of_each_at_its_place() {
    let (mut bench, filter) = sleeper(rules(|rules| rules.qos0 = SleepQos0::LatestPerTopic));
    bench.cmd(filter, QOS0, "a1");
    bench.message(&[filter], "cmd/b", QOS0, false, b"b1");
    bench.cmd(filter, QOS1, "kept");
    bench.cmd(filter, QOS0, "a2");
    assert_eq!(bench.gateway.metrics().buffer_superseded_total, 1);
    assert_eq!(bench.wake_and_take_all(A), ["b1", "kept", "a2"]);
}

#[test]
fn qos_0_drop_keeps_none_while_asleep_and_delivers_while_active() {
    let (mut bench, filter) = sleeper(rules(|rules| rules.qos0 = SleepQos0::Drop));
    bench.cmd(filter, QOS0, "lost");
    bench.cmd(filter, QOS1, "kept");
    assert_eq!(bench.gateway.metrics().buffer_qos0_dropped_total, 1);
    assert_eq!(bench.wake_and_take_all(A), ["kept"]);
    bench.connect_with(A, connect("a", false, 60));
    bench.cmd(filter, QOS0, "now");
    assert_eq!(bench.heard_publish(A).data, b"now");
}

// Waking up.

#[test]
fn pingresp_only_when_all_is_acknowledged_also_of_qos_2() {
    let (mut bench, filter) = sleeper(GatewayConfig::default());
    bench.cmd(filter, QOS2, "1");
    bench.pingreq(A, Some("a"));
    let message = bench.heard_publish(A);
    bench.pass(seconds(1));
    bench.expect(A, &[]);
    bench.packet(A, Packet::Pubrec(message.msg_id));
    bench.expect(A, &[Packet::Pubrel(message.msg_id)]);
    bench.packet(A, Packet::Pubcomp(message.msg_id));
    bench.expect(A, &[Packet::Pingresp]);
}

#[test]
fn wildcard_match_is_registered_while_awake() {
    let (mut bench, filter) = sleeper(GatewayConfig::default());
    bench.message(&[filter], "cmd/new/name", QOS1, false, b"1");
    bench.pingreq(A, None);
    let [Packet::Register(register)] = bench.heard(A)[..] else {
        panic!("REGISTER comes first")
    };
    assert_eq!(register.topic_name, "cmd/new/name");
    bench.packet(A, regack(register));
    let message = bench.heard_publish(A);
    assert_eq!(topic_id(message.topic), register.topic_id);
    bench.puback(A, message);
    bench.expect(A, &[Packet::Pingresp]);
}

#[test]
fn message_that_comes_while_awake_goes_out_in_the_same_wake_up() {
    let (mut bench, filter) = sleeper(GatewayConfig::default());
    bench.cmd(filter, QOS1, "1");
    bench.pingreq(A, Some("a"));
    let first = bench.heard_publish(A);
    bench.cmd(filter, QOS1, "2");
    bench.puback(A, first);
    let second = bench.heard_publish(A);
    assert_eq!(second.data, b"2");
    bench.puback(A, second);
    bench.expect(A, &[Packet::Pingresp]);
}

#[test]
fn repeated_pingreq_repeats_the_message_under_way() {
    let (mut bench, filter) = sleeper(GatewayConfig::default());
    bench.cmd(filter, QOS1, "1");
    bench.pingreq(A, Some("a"));
    let first = bench.heard_publish(A);
    bench.pingreq(A, Some("a"));
    let again = bench.heard_publish(A);
    assert_eq!((again.msg_id, again.dup), (first.msg_id, true));
    bench.puback(A, again);
    bench.expect(A, &[Packet::Pingresp]);
    bench.pingreq(A, Some("a"));
    bench.expect(A, &[Packet::Pingresp]);
}

#[test]
fn pingreq_from_a_new_address_wakes_the_client_there() {
    for address_change in [AddressChange::Open, AddressChange::Guarded] {
        let (mut bench, filter) = sleeper(GatewayConfig {
            address_change,
            ..GatewayConfig::default()
        });
        bench.cmd(filter, QOS1, "1");
        assert_eq!(bench.wake_and_take_all(B), ["1"]);
        assert_eq!(bench.gateway.metrics().takeovers_total, 1);
        bench.pingreq(A, None);
        bench.expect(A, &[disconnect()]);
    }
}

#[test]
fn pingreq_from_a_new_address_is_refused_where_addresses_are_fixed() {
    let (mut bench, filter) = sleeper(GatewayConfig {
        address_change: AddressChange::Strict,
        ..GatewayConfig::default()
    });
    bench.cmd(filter, QOS1, "1");
    bench.pingreq(B, Some("a"));
    bench.expect(B, &[disconnect()]);
    assert_eq!(bench.wake_and_take_all(A), ["1"]);
}

#[test]
fn wake_up_ends_after_a_hundred_messages_and_the_rest_waits() {
    let (mut bench, filter) = sleeper(rules(|rules| rules.max_messages = 200));
    for n in 0..120 {
        bench.cmd(filter, QOS1, &n.to_string());
    }
    assert_eq!(bench.wake_and_take_all(A).len(), 100);
    assert_eq!(bench.gateway.metrics().clients_asleep, 1);
    let rest = bench.wake_and_take_all(A);
    assert_eq!((rest.len(), rest[0].as_str()), (20, "100"));
}

#[test]
fn silence_sends_the_client_back_to_sleep_with_the_message_first_in_line() {
    let (mut bench, filter) = sleeper(GatewayConfig::default());
    bench.cmd(filter, QOS1, "1");
    bench.cmd(filter, QOS1, "2");
    bench.pingreq(A, Some("a"));
    let first = bench.heard_publish(A);
    let before = bench.now;
    let mut looks = 0;
    while let Some(at) = bench
        .gateway
        .poll_timeout()
        .filter(|at| at.since(before) < seconds(200))
    {
        looks += 1;
        bench.now = bench.now.max(at);
        bench.gateway.handle_timeout(bench.now);
        bench.drain();
    }
    assert!(
        looks < 20,
        "{looks} looks at a client that only has to be repeated to"
    );
    let repeats = bench.heard(A);
    assert_eq!(repeats.len(), 3, "Nretry, and no PINGRESP: {repeats:?}");
    assert_eq!(bench.gateway.metrics().clients_asleep, 1);
    bench.pingreq(A, Some("a"));
    let again = bench.heard_publish(A);
    assert_eq!(
        (again.msg_id, again.dup, again.data),
        (first.msg_id, true, first.data)
    );
    bench.puback(A, again);
    assert_eq!(bench.heard_publish(A).data, b"2");
}

#[test]
fn sleep_timer_runs_from_the_last_packet_when_a_wake_up_fails() {
    let (mut bench, filter) = sleeper(GatewayConfig::default());
    bench.cmd(filter, QOS1, "1");
    bench.pingreq(A, Some("a"));
    bench.pass(seconds(899));
    assert_eq!(
        bench.gateway.metrics().clients_asleep,
        1,
        "600 s, and half as much again"
    );
    bench.pass(seconds(2));
    assert_eq!(bench.gateway.metrics().clients_lost, 1);
}

#[test]
fn radio_that_fails_puts_the_message_back_to_the_front() {
    let (mut bench, filter) = sleeper(GatewayConfig::default());
    bench.cmd(filter, QOS2, "1");
    bench.cmd(filter, QOS1, "2");
    bench.pingreq(A, Some("a"));
    let first = bench.heard_publish(A);
    bench.gateway.handle_link(bench.now, LINK, LinkEvent::Down);
    bench.drain();
    assert_eq!(bench.gateway.metrics().clients_asleep, 1);
    assert_eq!(bench.gateway.metrics().buffer_messages, 2);
    link_up(&mut bench, LinkProfile::UNLIMITED);
    bench.expect(A, &[]);
    bench.pingreq(A, Some("a"));
    let again = bench.heard_publish(A);
    assert_eq!(
        (again.msg_id, again.dup, again.data),
        (first.msg_id, true, first.data)
    );
}

#[test]
fn radio_that_takes_nothing_does_not_keep_the_client_awake() {
    let (mut bench, filter) = sleeper(GatewayConfig::default());
    bench.cmd(filter, QOS1, "1");
    link_up(&mut bench, 0);
    bench.pingreq(A, Some("a"));
    assert_eq!(bench.gateway.metrics().clients_awake, 1);
    bench.pass(seconds(61));
    assert_eq!(bench.gateway.metrics().clients_asleep, 1);
    bench.expect(A, &[]);
    bench.pass(seconds(900));
    assert_eq!(bench.gateway.metrics().clients_lost, 1, "supervised again");
    assert_eq!(bench.gateway.metrics().buffer_messages, 1);
}

#[test]
fn radio_that_stops_taking_in_the_middle_does_not_keep_the_client_awake() {
    let (mut bench, filter) = sleeper(GatewayConfig::default());
    bench.cmd(filter, QOS1, "1");
    link_up(&mut bench, 1);
    bench.pingreq(A, Some("a"));
    bench.heard_publish(A);
    bench.pass(seconds(200));
    assert_eq!(bench.gateway.metrics().clients_awake, 1);
    bench.pass(seconds(50));
    assert_eq!(bench.gateway.metrics().clients_asleep, 1);
    bench.pass(seconds(655));
    assert_eq!(
        bench.gateway.metrics().clients_lost,
        1,
        "900 s after it was heard of"
    );
    assert_eq!(bench.gateway.metrics().buffer_messages, 1);
}

#[test]
fn congestion_from_an_awake_client_ends_with_its_next_pingreq() {
    let (mut bench, filter) = sleeper(GatewayConfig::default());
    bench.cmd(filter, QOS1, "1");
    bench.pingreq(A, Some("a"));
    let message = bench.heard_publish(A);
    bench.packet(
        A,
        puback(topic_id(message.topic), message.msg_id.0, ReturnCode::Congestion),
    );
    bench.pass(seconds(50));
    bench.expect(A, &[]);
    bench.pingreq(A, Some("a"));
    let again = bench.heard_publish(A);
    bench.puback(A, again);
    bench.expect(A, &[Packet::Pingresp]);
}

#[test]
fn late_answers_of_a_sleeper_still_count() {
    let (mut bench, filter) = sleeper(GatewayConfig::default());
    bench.cmd(filter, QOS1, "1");
    bench.cmd(filter, QOS2, "2");
    bench.pingreq(A, Some("a"));
    let first = bench.heard_publish(A);
    bench.sleep(A, 600);
    bench.puback(A, first);
    bench.expect(A, &[]);
    bench.pingreq(A, Some("a"));
    let second = bench.heard_publish(A);
    assert_eq!(second.data, b"2", "the first was acknowledged");
    bench.sleep(A, 600);
    bench.packet(A, Packet::Pubrec(second.msg_id));
    bench.expect(A, &[Packet::Pubrel(second.msg_id)]);
    // Its PUBCOMP is lost; the message must not come again under an id that the client has released.
    bench.pingreq(A, Some("a"));
    bench.expect(A, &[Packet::Pubrel(second.msg_id)]);
    bench.packet(A, Packet::Pubcomp(second.msg_id));
    bench.expect(A, &[Packet::Pingresp]);
    assert_eq!(bench.gateway.metrics().delivered_total, 2);
}

// Staying asleep, and leaving it.

#[test]
fn requests_of_a_sleeper_are_answered_and_deliver_nothing() {
    let (mut bench, filter) = sleeper(GatewayConfig::default());
    bench.cmd(filter, QOS1, "waits");
    let id = bench.register(A, "t/up");
    bench.packet(A, publish(TopicRef::Normal(id), QOS1, 7, b"x"));
    bench.settle();
    bench.expect(A, &[puback(id, 7, ReturnCode::Accepted)]);
    assert_eq!(bench.gateway.metrics().clients_asleep, 1);
    assert_eq!(bench.wake_and_take_all(A), ["waits"]);
}

#[test]
fn any_packet_starts_the_sleep_timer_again() {
    let (mut bench, _) = sleeper(GatewayConfig::default());
    for _ in 0..5 {
        bench.pass(seconds(800));
        bench.packet(A, Packet::Pingresp);
    }
    assert_eq!(bench.gateway.metrics().clients_asleep, 1);
    bench.pass(seconds(901));
    assert_eq!(bench.gateway.metrics().clients_lost, 1);
}

#[test]
fn disconnect_with_another_duration_replaces_the_first_and_is_answered_each_time() {
    let (mut bench, filter) = sleeper(GatewayConfig::default());
    bench.cmd(filter, QOS1, "1");
    bench.sleep(A, 6000);
    bench.sleep(A, 6000);
    bench.pass(seconds(8990));
    assert_eq!(bench.gateway.metrics().clients_asleep, 1);
    bench.pingreq(A, Some("a"));
    bench.heard_publish(A);
    bench.sleep(A, 10);
    assert_eq!(bench.gateway.metrics().buffer_messages, 1, "back in line");
    bench.pass(seconds(16));
    assert_eq!(bench.gateway.metrics().clients_lost, 1);
}

#[test]
fn long_sleep_publishes_no_will_before_its_time() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with_will(A, "a", true, 10);
    bench.sleep(A, u16::MAX);
    let allowed = u64::from(u16::MAX) * 3 / 2;
    bench.pass(seconds(allowed - 1));
    assert!(
        bench.publishes().is_empty(),
        "a sleep may be longer than the keep-alive"
    );
    assert_eq!(bench.gateway.metrics().clients_asleep, 1);
    bench.pass(seconds(2));
    assert_eq!(bench.publishes().len(), 1);
    assert_eq!(
        bench.gateway.metrics().clients,
        0,
        "a clean session ends with its client"
    );
}

#[test]
fn return_by_connect_keeps_subscriptions_and_messages_whatever_clean_says() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    let (id, filter) = bench.subscribe(A, "cmd/a", QOS1);
    bench.sleep(A, 600);
    bench.cmd(filter, QOS1, "1");
    bench.requests.clear();
    bench.packet(B, Packet::Connect(connect("a", true, 300)));
    let heard = bench.heard(B);
    assert_eq!(heard[0], connack(ReturnCode::Accepted));
    let Packet::Publish(message) = heard[1] else {
        panic!("{heard:?}")
    };
    assert_eq!((topic_id(message.topic), message.data), (id, &b"1"[..]));
    assert!(bench.requests.is_empty(), "the subscription stands");
    bench.puback(B, message);
    bench.pass(seconds(449));
    assert_eq!(
        bench.gateway.metrics().clients_active,
        1,
        "the new duration counts"
    );
    bench.pass(seconds(2));
    assert_eq!(bench.gateway.metrics().clients, 0);
}

#[test]
fn return_by_connect_with_will_asks_for_the_will_first() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with_will(A, "a", true, 60);
    let (_, filter) = bench.subscribe(A, "cmd/a", QOS1);
    bench.sleep(A, 600);
    bench.cmd(filter, QOS1, "1");
    let again = Connect {
        will: true,
        ..connect("a", true, 60)
    };
    bench.packet(A, Packet::Connect(again));
    bench.expect(A, &[Packet::WillTopicReq]);
    bench.packet(A, common::will_topic("will/t"));
    bench.expect(A, &[Packet::WillMsgReq]);
    bench.packet(A, Packet::WillMsg(sn_codec::WillMsg { message: b"new" }));
    let heard = bench.heard(A);
    assert_eq!((heard.len(), heard[0]), (2, connack(ReturnCode::Accepted)));
    assert!(matches!(heard[1], Packet::Publish(_)));
}

#[test]
fn return_by_connect_that_is_not_finished_leaves_the_client_asleep() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with_will(A, "a", true, 60);
    let (_, filter) = bench.subscribe(A, "cmd/a", QOS1);
    bench.sleep(A, 600);
    bench.cmd(filter, QOS1, "1");
    let again = Connect {
        will: true,
        ..connect("a", true, 60)
    };
    bench.packet(A, Packet::Connect(again));
    bench.pass(seconds(60));
    bench.take(A);
    assert_eq!(bench.gateway.metrics().clients_asleep, 1);
    assert_eq!(bench.wake_and_take_all(A), ["1"]);
}

#[test]
fn connect_of_a_sleeper_with_another_clean_flag_is_a_new_session() {
    let (mut bench, filter) = sleeper(GatewayConfig::default());
    bench.cmd(filter, QOS1, "1");
    bench.connect_with(A, connect("a", true, 60));
    bench.expect(A, &[]);
    assert_eq!(bench.gateway.metrics().buffer_messages, 0);
    assert_eq!(bench.gateway.metrics().buffer_cleared_total, 1);
    assert_eq!(
        bench.requests.len(),
        1,
        "the subscription is given up: {:?}",
        bench.requests
    );
}

#[test]
fn sleep_for_no_time_is_a_goodbye() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    bench.packet(A, Packet::Disconnect(Disconnect { duration: Some(0) }));
    bench.expect(A, &[disconnect()]);
    assert_eq!(bench.gateway.metrics().clients, 0);
}

#[test]
fn ten_thousand_sleepers_wake_up_within_a_minute_and_get_everything_in_order() {
    const SLEEPERS: u16 = 10_000;
    let mut config = GatewayConfig::default();
    config.limits.new_sessions_per_second = 0;
    let mut bench = Bench::up(config);
    bench.broker(BrokerEvent::Credit {
        conn: common::CONN,
        requests: u32::from(SLEEPERS),
    });
    let mut filters = Vec::new();
    for port in 1..=SLEEPERS {
        bench.connect_with(port, connect(&format!("s{port}"), true, 60));
        bench.packet(port, subscribe(MsgId(1), &format!("cmd/{port}"), QOS1));
        filters.push(bench.subscribe_request().1);
        bench.settle();
        bench.take(port);
        bench.sleep(port, 600);
    }
    for payload in [b"1", b"2", b"3"] {
        for port in 1..=SLEEPERS {
            let filter = filters[usize::from(port) - 1];
            bench.message(&[filter], &format!("cmd/{port}"), QOS1, false, payload);
        }
    }
    for port in 1..=SLEEPERS {
        bench.pingreq(port, Some(&format!("s{port}")));
        for expected in ["1", "2", "3"] {
            let message = bench.heard_publish(port);
            assert_eq!(message.data, expected.as_bytes());
            bench.puback(port, message);
        }
        bench.expect(port, &[Packet::Pingresp]);
        bench.pass(std::time::Duration::from_millis(6));
    }
    assert_eq!(bench.gateway.metrics().clients_asleep, u64::from(SLEEPERS));
    assert_eq!(bench.gateway.metrics().buffer_messages, 0);
}

fn link_up(bench: &mut Bench, credit: u32) {
    let profile = LinkProfile {
        credit,
        ..LinkProfile::default()
    };
    bench.gateway.handle_link(bench.now, LINK, LinkEvent::Up(profile));
    bench.drain();
}

// A DISCONNECT that was lost: the client sleeps, and the gateway does not know.

/// Client `a` at port A, as [`sleeper`] makes it, but the gateway has not heard that it sleeps; one message was sent to
/// it in vain.
fn overlooked_sleeper() -> (Bench, FilterId) {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with(A, connect("a", false, 600));
    bench.register(A, "cmd/a");
    let (_, filter) = bench.subscribe(A, "cmd/#", QOS2);
    bench.cmd(filter, QOS1, "1");
    bench.pass(seconds(300));
    bench.take(A);
    (bench, filter)
}

#[test]
fn active_client_that_names_itself_gets_what_waits_before_pingresp() {
    let (mut bench, filter) = overlooked_sleeper();
    bench.cmd(filter, QOS2, "2");
    bench.cmd(filter, QOS0, "3");
    bench.expect(A, &[]);
    assert_eq!(bench.wake_and_take_all(A), ["1", "2", "3"]);
    // It is active all the same: what comes now goes out at once.
    bench.cmd(filter, QOS1, "4");
    assert_eq!(bench.heard_publish(A).data, b"4");
}

#[test]
fn pingresp_waits_for_what_waited_at_the_ping_and_not_for_what_came_since() {
    let (mut bench, filter) = overlooked_sleeper();
    bench.pingreq(A, Some("a"));
    let first = bench.heard_publish(A);
    bench.cmd(filter, QOS1, "2");
    bench.puback(A, first);
    let heard = bench.heard(A);
    assert!(
        matches!(heard[..], [Packet::Pingresp, Packet::Publish(_)]),
        "{heard:?}"
    );
}

#[test]
fn pingresp_does_not_come_sooner_when_what_came_since_the_ping_is_dropped() {
    let mut bench = Bench::up(rules(|sleep| sleep.max_messages = 2));
    bench.connect_with(A, connect("a", false, 600));
    bench.register(A, "cmd/a");
    let (_, filter) = bench.subscribe(A, "cmd/#", QOS2);
    bench.cmd(filter, QOS1, "1");
    bench.pass(seconds(300));
    bench.take(A);
    bench.pingreq(A, Some("a"));
    let first = bench.heard_publish(A);
    bench.cmd(filter, QOS0, "2");
    bench.cmd(filter, QOS1, "3");
    bench.expect(A, &[]);
    bench.puback(A, first);
    let heard = bench.heard(A);
    assert!(
        matches!(heard[..], [Packet::Pingresp, Packet::Publish(_)]),
        "{heard:?}"
    );
}

#[test]
fn pingresp_is_put_off_twice_for_a_message_that_the_client_cannot_take() {
    let (mut bench, _) = overlooked_sleeper();
    for _ in 0..2 {
        bench.pingreq(A, Some("a"));
        assert_eq!(bench.heard_publish(A).data, b"1");
    }
    for _ in 0..2 {
        bench.pingreq(A, Some("a"));
        bench.expect(A, &[Packet::Pingresp]);
    }
    // Its next wake-up may go better.
    bench.pass(seconds(60));
    bench.take(A);
    bench.pingreq(A, Some("a"));
    let message = bench.heard_publish(A);
    bench.puback(A, message);
    bench.expect(A, &[Packet::Pingresp]);
}

#[test]
fn sleeper_whose_accepted_subscription_is_refused_gets_its_messages_and_disconnect() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    let (_, ours) = bench.subscribe(A, "kept", QoS::AtLeastOnce);
    bench.broker_down();
    bench.packet(A, subscribe(MsgId(9), "secret/#", QoS::AtLeastOnce));
    bench.take(A);
    bench.sleep(A, 600);
    bench.take(A);
    bench.broker_up(true);
    bench.message(&[ours], "kept", QoS::AtLeastOnce, false, b"x");
    let (token, _) = bench.subscribe_request();
    bench.broker(BrokerEvent::Settled {
        token,
        result: Err(Refusal(0x87)),
    });
    bench.expect(A, &[]);

    bench.pingreq(A, Some("a"));
    let publish = bench.heard_publish(A);
    bench.puback(A, publish);
    bench.expect(A, &[disconnect()]);
    // It begins anew, and sleeps in peace from then on.
    bench.connect(A, "a");
    bench.sleep(A, 600);
    bench.take(A);
    bench.pingreq(A, Some("a"));
    bench.expect(A, &[Packet::Pingresp]);
}

#[test]
fn active_client_that_does_not_name_itself_is_answered_at_once() {
    let (mut bench, _) = overlooked_sleeper();
    bench.pingreq(A, None);
    let heard = bench.heard(A);
    assert!(
        matches!(heard[..], [Packet::Pingresp, Packet::Publish(_)]),
        "{heard:?}"
    );
}

#[test]
fn message_of_a_silent_client_waits_until_it_is_lost_and_in_its_session_afterwards() {
    let (mut bench, _) = overlooked_sleeper();
    bench.pass(seconds(900));
    assert_eq!(bench.gateway.metrics().lost_total, 1);
    bench.take(A);
    bench.packet(A, Packet::Connect(connect("a", false, 600)));
    let heard = bench.heard(A);
    let [_, Packet::Register(register)] = heard[..] else {
        panic!("{heard:?}")
    };
    bench.packet(A, regack(register));
    let message = bench.heard_publish(A);
    assert_eq!((message.data, message.dup), (&b"1"[..], true));
}

#[test]
fn regack_that_comes_after_falling_asleep_shows_that_the_client_answers() {
    let (mut bench, filter) = sleeper(GatewayConfig::default());
    bench.packet(A, Packet::Connect(connect("a", false, 60)));
    bench.take(A);
    bench.message(&[filter], "cmd/new", QOS1, false, b"1");
    let heard = bench.heard(A);
    let [Packet::Register(register)] = heard[..] else {
        panic!("{heard:?}")
    };
    bench.sleep(A, 600);
    bench.packet(A, regack(register));
    // Awake again, its answers are lost for a whole round: that is loss and no habit, so names are still registered.
    bench.pingreq(A, Some("a"));
    bench.pass(seconds(200));
    bench.take(A);
    bench.message(&[filter], "cmd/newer", QOS1, false, b"2");
    assert_eq!(bench.wake_and_take_all(A), ["1", "2"]);
}

#[test]
fn name_whose_regack_was_taken_back_by_a_return_is_registered_before_its_use() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with(A, connect("a", false, 60));
    let (_, filter) = bench.subscribe(A, "cmd/+", QOS1);
    bench.sleep(A, 600);
    // Both arrive before the gateway is asked what to send.
    for packet in [
        Packet::Register(Register {
            topic_id: TopicId::NONE,
            msg_id: MsgId(5),
            topic_name: "cmd/x",
        }),
        Packet::Connect(connect("a", false, 60)),
    ] {
        let mut datagram = Vec::new();
        packet.encode(&mut datagram);
        bench.hand_in(LINK, &route(A), &datagram);
    }
    bench.drain();
    bench.expect(A, &[connack(ReturnCode::Accepted)]);
    bench.message(&[filter], "cmd/x", QOS1, false, b"go");
    assert!(matches!(bench.heard(A)[..], [Packet::Register(_)]));
}

#[test]
fn sleeper_that_says_too_much_is_lost_after_the_longest_sleep() {
    let mut config = GatewayConfig::default();
    config.sleep.max_sleep = seconds(600);
    let mut bench = Bench::up(config);
    bench.connect_with(A, connect("a", false, 60));
    bench.sleep(A, 3600);
    bench.pass(seconds(899));
    assert_eq!(bench.gateway.metrics().clients_asleep, 1);
    bench.pass(seconds(1));
    assert_eq!(bench.gateway.metrics().clients_lost, 1);
}

#[test]
fn what_a_sleeper_gets_and_loses_is_told() {
    let mut config = GatewayConfig::default();
    config.sleep.max_messages = 2;
    config.sleep.max_age = seconds(3000);
    let mut bench = Bench::up(config);
    bench.connect_with(A, connect("a", false, 60));
    let (_, filter) = bench.subscribe(A, "cmd", QOS1);
    bench.sleep(A, 3600);
    bench.notices.clear();
    for payload in [&b"one"[..], b"second", b"dropped"] {
        bench.message(&[filter], "cmd", QOS1, false, payload);
        bench.pass(seconds(60));
    }
    let client = || Arc::from("a");
    let dropped = |reason| Notice::Dropped {
        client: client(),
        topic: "cmd".into(),
        reason,
    };
    assert_eq!(core::mem::take(&mut bench.notices), [dropped(DropReason::Full)]);
    bench.pingreq(B, Some("a"));
    for _ in 0..2 {
        let message = bench.heard_publish(B);
        bench.puback(B, message);
    }
    bench.expect(B, &[Packet::Pingresp]);
    let told = [
        Notice::AddressChanged {
            client: client(),
            link: LINK,
            old: route(A).addr.into(),
            new: route(B).addr.into(),
        },
        Notice::Awake {
            client: client(),
            buffered: 2,
        },
        Notice::Delivered {
            client: client(),
            messages: 2,
            bytes: 9,
            waited: seconds(180),
        },
    ];
    assert_eq!(core::mem::take(&mut bench.notices), told);
    bench.message(&[filter], "cmd", QOS1, false, b"old");
    bench.pass(seconds(3000));
    assert_eq!(
        core::mem::take(&mut bench.notices),
        [dropped(DropReason::Expired)]
    );
    // Back by CONNECT: told once nothing waits any more.
    bench.message(&[filter], "cmd", QOS1, false, b"last");
    bench.connect_with_told(B);
    let message = bench.heard_publish(B);
    bench.puback(B, message);
    let delivered = |notice: &Notice| {
        matches!(
            notice,
            Notice::Delivered {
                messages: 1,
                bytes: 4,
                ..
            }
        )
    };
    assert_eq!(bench.notices.iter().filter(|notice| delivered(notice)).count(), 1);
    bench.message(&[filter], "cmd", QOS1, false, b"at once");
    let message = bench.heard_publish(B);
    bench.puback(B, message);
    let told = |notice: &&Notice| matches!(notice, Notice::Delivered { .. });
    assert_eq!(bench.notices.iter().filter(told).count(), 1, "it did not wait");
}

impl Bench {
    #[track_caller]
    fn connect_with_told(&mut self, port: u16) {
        self.packet(port, Packet::Connect(connect("a", false, 60)));
        let at = self.sent.iter().position(|(to, _)| *to == port).unwrap();
        let (_, first) = self.sent.remove(at);
        assert_eq!(Packet::decode(&first).unwrap(), connack(ReturnCode::Accepted));
    }
}

#[test]
fn the_end_of_a_session_is_told_before_its_disconnect_is_sent() {
    let profile = LinkProfile {
        mtu: 40,
        ..LinkProfile::default()
    };
    let mut bench = Bench::with_link(GatewayConfig::default(), profile);
    bench.connect_with(A, connect("a", false, 60));
    bench.register(A, "cmd/a");
    bench.packet(A, subscribe(MsgId(7), "cmd/a", QOS1));
    bench.packet(A, subscribe(MsgId(8), "no", QOS1));
    bench.take(A);
    bench.sleep(A, 600);
    bench.broker_up(false);
    for request in core::mem::take(&mut bench.requests) {
        if let BrokerRequest::Subscribe { token, filter, .. } = request {
            let result = match &*filter {
                "no" => Err(Refusal(135)),
                _ => Ok(Some(QOS1)),
            };
            bench.broker(BrokerEvent::Settled { token, result });
        }
    }
    // It does not fit, so the wake-up ends without it.
    bench.message(&[], "cmd/a", QOS1, false, &[b'x'; 60]);
    bench.take(A);
    let mut wake = Vec::new();
    Packet::Pingreq(Pingreq { client_id: Some("a") }).encode(&mut wake);
    bench.hand_in(LINK, &route(A), &wake);
    let mut outputs = Vec::new();
    let mut buf = Vec::new();
    while let Some(output) = bench.gateway.poll_output(bench.now, &mut buf) {
        match output {
            Output::Notice(Notice::Disconnected { .. }) => outputs.push("told"),
            Output::Transmit { .. } => outputs.push("sent"),
            _ => {}
        }
    }
    assert_eq!(outputs, ["told", "sent"]);
}
