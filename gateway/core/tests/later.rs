//! The broker refuses "for now" (0x97) what its client has the answer for: it is sent again later (reading A50).

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use common::*;
use gateway_core::SpoolDrop;
use gateway_core::config::{Durability, GatewayConfig, SpoolFull, UpstreamConfig, WhenDown};
use gateway_core::io::{BrokerEvent, BrokerRequest, ConnId, Notice, Refusal, Token};
use sn_codec::{MsgId, Packet, QoS, ReturnCode, ShortTopic, TopicId, TopicRef};

const A: u16 = 5001;
const B: u16 = 5002;
const EXACT: ConnId = ConnId(1);

#[test]
fn a_message_that_is_refused_for_now_goes_out_again_after_a_second_then_two_up_to_a_minute() {
    let mut bench = spooled(&[(A, "1")]);
    bench.broker_up(false);
    let mut waits = vec![];
    let mut refused = bench.now;
    bench.refuse();
    for _ in 0..8 {
        let again = bench.until_published();
        waits.push(again.since(refused).as_secs());
        refused = again;
        bench.refuse();
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    bench.pass(seconds(60));
    bench.settle();
    bench.commit();
    assert_eq!((bench.stored(), bench.gateway.metrics().spool_messages), (0, 0));
    let metrics = bench.gateway.metrics();
    assert_eq!(metrics.publish_postponed_total, 9);
    assert_eq!(
        (metrics.publish_refused_total, metrics.publish_settled_total),
        (0, 1)
    );
    assert_eq!(metrics.spool_dropped, [0; SpoolDrop::ALL.len()]);
    bench.pass(seconds(600));
    assert_eq!(bench.payloads(), [""; 0]);
}

#[test]
fn after_a_success_the_wait_is_a_second_again() {
    let mut bench = spooled(&[(A, "1"), (A, "2")]);
    bench.broker_up(false);
    bench.refuse();
    bench.pass(seconds(1));
    bench.refuse();
    bench.pass(seconds(2));
    bench.settle();
    assert_eq!(bench.payloads(), ["2"]);
    let refused = bench.now;
    bench.refuse();
    assert_eq!(bench.until_published().since(refused).as_secs(), 1);
}

#[test]
fn a_client_whose_message_waits_keeps_its_order_one_at_a_time() {
    let mut bench = spooled(&[(A, "1"), (A, "2"), (A, "3")]);
    bench.broker_up(false);
    assert_eq!(bench.payloads(), ["1", "2", "3"]);
    bench.refuse();
    // New ones of the same client come after them, and are answered from the disk.
    bench.publish1(A, 4, "4");
    bench.expect_accepted(A, 4);
    assert_eq!(bench.payloads(), [""; 0]);
    let mut arrived = vec![];
    bench.pass(seconds(1));
    while let [payload] = &bench.payloads()[..] {
        arrived.push(payload.clone());
        bench.settle();
        bench.commit();
    }
    assert_eq!(arrived, ["1", "2", "3", "4"]);
    assert_eq!(bench.stored(), 0);
    // And then it is as ever.
    bench.publish1(A, 5, "5");
    bench.publish1(A, 6, "6");
    assert_eq!(bench.payloads(), ["5", "6"]);
}

#[test]
fn what_a_held_client_had_in_line_goes_before_what_came_since() {
    // "b" keeps "2" from the front of the line, and one at a time is under way.
    let mut bench = spooled(&[(A, "1"), (B, "b"), (A, "2")]);
    bench.broker_up_with(CONN, false, 1, false);
    assert_eq!(bench.payloads(), ["1"]);
    bench.refuse();
    assert_eq!(bench.payloads(), ["b"]);
    bench.publish1(A, 4, "3");
    bench.pass(seconds(1));
    bench.settle();
    let mut arrived = vec![];
    while let [payload] = &bench.payloads()[..] {
        arrived.push(payload.clone());
        bench.settle();
    }
    assert_eq!(arrived, ["1", "2", "3"]);
}

#[test]
fn others_do_not_wait_for_a_client_whose_messages_are_refused_for_now() {
    let mut bench = spooled(&[[(A, "a"), (B, "b")]; 20].concat());
    // One at a time.
    bench.broker_up_with(CONN, false, 1, false);
    let mut of: BTreeMap<String, u32> = BTreeMap::new();
    while let [(Some(token), topic, _)] = &bench.publishes()[..] {
        *of.entry(topic.clone()).or_default() += 1;
        let result = match topic.as_str() {
            "ta" => Err(Refusal::QUOTA_EXCEEDED),
            _ => Ok(None),
        };
        bench.answer(*token, result);
    }
    assert_eq!(of, [("ta".into(), 1), ("tb".into(), 20)].into());
    bench.requests.clear();
    // Live traffic goes on too.
    bench.publish1(B, 50, "live");
    assert_eq!(bench.payloads(), ["live"]);
    bench.expect(B, &[]);
    bench.settle();
    bench.expect_accepted(B, 50);
    // And of the one that waits one goes out at a time.
    bench.pass(seconds(1));
    assert_eq!(bench.payloads(), ["a"]);
}

#[test]
fn whose_client_waits_for_an_answer_gets_congestion_as_ever() {
    let mut bench = Bench::up(config(Durability::default()));
    bench.connect(A, "a");
    let id = bench.register(A, "t");
    bench.requests.clear();
    bench.packet(A, publish(TopicRef::Normal(id), QoS::AtLeastOnce, 1, b"x"));
    bench.refuse();
    bench.expect(A, &[puback(id, 1, ReturnCode::Congestion)]);
    // QoS 2 is in the store from the beginning, and its client has no PUBREC yet.
    bench.packet(A, publish(TopicRef::Normal(id), QoS::ExactlyOnce, 2, b"y"));
    bench.broker_up_with(EXACT, false, 20, false);
    bench.commit();
    bench.refuse();
    bench.commit();
    bench.expect(A, &[puback(id, 2, ReturnCode::Congestion)]);
    bench.pass(seconds(600));
    assert_eq!((bench.payloads(), bench.stored()), (vec![], 0));
    assert_eq!(bench.gateway.metrics().publish_postponed_total, 0);
}

#[test]
fn a_qos_2_message_that_its_client_has_released_goes_out_again_once() {
    let mut bench = Bench::up(config(Durability::default()));
    bench.broker_up_with(EXACT, false, 20, false);
    bench.connect(A, "a");
    let id = bench.register(A, "t");
    bench.requests.clear();
    bench.broker_down();
    bench.broker(down(EXACT));
    bench.packet(A, publish(TopicRef::Normal(id), QoS::ExactlyOnce, 7, b"x"));
    bench.commit();
    bench.expect(A, &[Packet::Pubrec(MsgId(7))]);
    bench.packet(A, Packet::Pubrel(MsgId(7)));
    bench.commit();
    bench.expect(A, &[Packet::Pubcomp(MsgId(7))]);

    bench.broker_up_with(EXACT, true, 20, false);
    bench.refuse();
    bench.commit();
    assert!(bench.stored() > 0);

    bench.pass(seconds(1));
    assert_eq!(bench.payloads(), ["x"]);
    bench.settle();
    bench.commit();
    assert_eq!(bench.stored(), 0);
    bench.pass(seconds(600));
    assert_eq!(bench.payloads(), [""; 0]);
}

#[test]
fn what_a_client_of_an_earlier_life_may_have_the_answer_for_goes_out_again() {
    let mut bench = Bench::up(config(Durability::default()));
    bench.connect(A, "a");
    let id = bench.register(A, "t");
    bench.broker_down();
    bench.packet(A, publish(TopicRef::Normal(id), QoS::ExactlyOnce, 7, b"x"));
    bench.commit_one();
    bench.expect(A, &[Packet::Pubrec(MsgId(7))]);
    // The power fails before it is durable that this was said.
    let mut bench = bench.restart(config(Durability::default()));
    bench.broker_up_with(EXACT, false, 20, false);
    bench.packet(A, Packet::Pubrel(MsgId(7)));
    bench.commit();
    bench.expect(A, &[Packet::Pubcomp(MsgId(7))]);
    bench.refuse();
    bench.commit();

    bench.pass(seconds(1));

    assert_eq!(bench.payloads(), ["x"]);
    bench.settle();
    bench.commit();
    assert_eq!(bench.stored(), 0);
}

#[test]
fn a_restart_keeps_what_waits_and_begins_at_once() {
    let mut bench = spooled(&[(A, "1"), (A, "2")]);
    bench.broker_up(false);
    bench.refuse();
    bench.commit();
    bench.gateway.handle_shutdown(bench.now);
    bench.drain();
    bench.commit();

    let mut bench = bench.restart(config(Durability::default()));
    bench.requests.clear();
    bench.broker_up(true);
    assert_eq!(bench.payloads(), ["1", "2"]);
}

#[test]
fn what_waits_for_too_long_is_dropped_and_counted_and_so_is_what_has_no_room() {
    let rules = Durability {
        spool_age: seconds(30),
        ..Durability::default()
    };
    let mut bench = spooled_with(rules, &[(A, "1"), (B, "2")]);
    bench.broker_up(false);
    bench.refuse();
    let age = |bench: &mut Bench| bench.dropped(SpoolDrop::Age);
    while bench.now.as_micros() < 25_000_000 {
        bench.pass(seconds(1));
        bench.refuse();
    }
    assert_eq!(age(&mut bench), 0);
    bench.pass(seconds(10));
    bench.commit();
    assert_eq!((age(&mut bench), bench.stored()), (2, 0));
    bench.requests.clear();
    bench.pass(seconds(600));
    assert_eq!(bench.payloads(), [""; 0]);

    let rules = Durability {
        spool_messages: 1,
        when_full: SpoolFull::DropOldest,
        ..Durability::default()
    };
    let mut bench = spooled_with(rules, &[(A, "1")]);
    bench.broker_up(false);
    bench.refuse();
    bench.publish1(A, 2, "2");
    bench.expect_accepted(A, 2);
    assert_eq!((bench.dropped(SpoolDrop::Full), bench.stored()), (1, 1));
    bench.pass(seconds(60));
    assert_eq!(bench.payloads(), ["2"]);
}

#[test]
fn a_connection_that_is_lost_meanwhile_takes_nothing_along() {
    let mut bench = spooled(&[(A, "1"), (A, "2")]);
    bench.broker_up(false);
    bench.refuse();
    bench.pass(seconds(1));
    let (token, ..) = bench.publishes().remove(0);
    // The only one that is under way is lost with the session.
    bench.broker_down();
    bench.broker_up(false);
    bench.broker(BrokerEvent::Lost {
        token: token.unwrap(),
    });
    assert_eq!(bench.payloads(), ["1"]);
    bench.settle();
    assert_eq!(bench.payloads(), ["2"]);
    // A late refusal of what is known to be lost changes nothing.
    bench.answer(token.unwrap(), Err(Refusal::QUOTA_EXCEEDED));
    bench.settle();
    bench.commit();
    assert_eq!(bench.stored(), 0);
}

#[test]
fn the_broker_inside_gets_a_will_again_that_it_had_no_room_for() {
    let mut bench = Bench::new(config(Durability::default()));
    bench.broker_up_with(CONN, false, 20, true);
    bench.connect_with_will(A, "a", true, 10);
    bench.requests.clear();
    bench.pass(seconds(60));
    bench.commit();
    assert_eq!(bench.payloads(), ["gone"]);
    bench.refuse();
    bench.pass(seconds(1));
    assert_eq!(bench.payloads(), ["gone"]);
}

#[test]
fn a_will_that_was_not_stored_is_stored_when_it_is_refused_for_now() {
    let mut bench = Bench::up(config(Durability::default()));
    bench.connect_with_will(A, "a", true, 10);
    bench.requests.clear();
    bench.pass(seconds(60));
    assert_eq!((bench.payloads(), bench.stored()), (vec!["gone".to_owned()], 0));
    bench.refuse();
    bench.commit();
    assert_eq!(bench.stored(), 1);

    let mut bench = bench.restart(config(Durability::default()));
    bench.requests.clear();
    bench.broker_up(true);
    assert_eq!(bench.payloads(), ["gone"]);
    bench.settle();
    bench.commit();
    assert_eq!(bench.stored(), 0);
}

#[test]
fn it_is_told_once_a_minute() {
    let mut bench = spooled(&[(A, "1"), (B, "2")]);
    bench.broker_up(false);
    bench.notices.clear();
    bench.refuse();
    let told = |topic: &str, suppressed| Notice::PublishPostponed {
        topic: topic.into(),
        suppressed,
    };
    assert_eq!(bench.notices, [told("ta", 0)]);
    bench.notices.clear();
    while bench.notices.is_empty() {
        bench.pass(seconds(1));
        bench.refuse();
    }
    // At 1, 3, 7, 15 and 31 seconds, and the first at 63.
    assert_eq!(bench.notices, [told("ta", 11)]);
}

fn config(durability: Durability) -> GatewayConfig {
    GatewayConfig {
        upstream: UpstreamConfig {
            when_down: WhenDown::Spool,
            ..UpstreamConfig::default()
        },
        durability: Some(durability),
        ..GatewayConfig::default()
    }
}

/// Messages of QoS 1 that their clients have the answers for, and the broker is away.
fn spooled(messages: &[(u16, &str)]) -> Bench {
    spooled_with(Durability::default(), messages)
}

fn spooled_with(durability: Durability, messages: &[(u16, &str)]) -> Bench {
    let mut bench = Bench::up(config(durability));
    for port in [A, B] {
        bench.connect_with(port, connect(&port.to_string(), true, 0));
    }
    bench.broker_down();
    for (msg_id, (port, payload)) in (1..).zip(messages) {
        bench.publish1(*port, msg_id, payload);
        bench.expect_accepted(*port, msg_id);
    }
    bench.requests.clear();
    bench
}

/// Each client has a topic.
fn topic_of(port: u16) -> ShortTopic {
    ShortTopic(if port == A { *b"ta" } else { *b"tb" })
}

fn down(conn: ConnId) -> BrokerEvent {
    BrokerEvent::Down {
        conn,
        reason: "test".into(),
    }
}

trait Quota {
    fn answer(&mut self, token: Token, result: Result<Option<QoS>, Refusal>);
    fn refuse(&mut self);
    fn until_published(&mut self) -> gateway_core::time::Instant;
    fn payloads(&self) -> Vec<String>;
    fn stored(&self) -> usize;
    fn dropped(&mut self, reason: SpoolDrop) -> u64;
    fn publish1(&mut self, port: u16, msg_id: u16, payload: &str);
    fn expect_accepted(&mut self, port: u16, msg_id: u16);
    fn broker_up_with(&mut self, conn: ConnId, session_present: bool, window: u16, forgets: bool);
}

impl Quota for Bench {
    fn answer(&mut self, token: Token, result: Result<Option<QoS>, Refusal>) {
        self.broker(BrokerEvent::Settled { token, result });
    }

    /// The broker refuses for now what it was asked for since the last look.
    fn refuse(&mut self) {
        for (token, ..) in self.publishes() {
            self.answer(token.unwrap(), Err(Refusal::QUOTA_EXCEEDED));
        }
    }

    /// When the next publish goes out, which is within two minutes.
    fn until_published(&mut self) -> gateway_core::time::Instant {
        let end = self.now + seconds(120);
        while self.payloads().is_empty() {
            let at = self.gateway.poll_timeout().filter(|at| *at <= end).unwrap();
            self.pass(at.since(self.now));
        }
        self.now
    }

    /// What was published since the last look, which this is not.
    fn payloads(&self) -> Vec<String> {
        let publishes = self.requests.iter().filter_map(|request| match request {
            BrokerRequest::Publish { payload, .. } => Some(String::from_utf8(payload.to_vec()).unwrap()),
            _ => None,
        });
        publishes.collect()
    }

    /// Messages for the broker.
    fn stored(&self) -> usize {
        self.stored.keys().filter(|key| key.kind == 2).count()
    }

    fn dropped(&mut self, reason: SpoolDrop) -> u64 {
        self.gateway.metrics().spool_dropped[reason as usize]
    }

    fn publish1(&mut self, port: u16, msg_id: u16, payload: &str) {
        let topic = TopicRef::Short(topic_of(port));
        self.packet(port, publish(topic, QoS::AtLeastOnce, msg_id, payload.as_bytes()));
        self.commit();
    }

    #[track_caller]
    fn expect_accepted(&mut self, port: u16, msg_id: u16) {
        let echoed = TopicId(u16::from_be_bytes(topic_of(port).0));
        self.expect(port, &[puback(echoed, msg_id, ReturnCode::Accepted)]);
    }

    fn broker_up_with(&mut self, conn: ConnId, session_present: bool, window: u16, forgets: bool) {
        self.broker(BrokerEvent::Up {
            conn,
            session_present,
            window,
            forgets,
        });
        self.broker(BrokerEvent::Credit { conn, requests: 1000 });
    }
}
