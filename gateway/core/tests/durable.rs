//! What survives the end of the process, and what waits until it would.

mod common;

use std::collections::BTreeSet;

use bytes::Bytes;
use common::*;
use gateway_core::SpoolDrop;
use gateway_core::config::{Durability, GatewayConfig, SpoolFull, UpstreamConfig, WhenDown};
use gateway_core::io::{
    BrokerEvent, BrokerRequest, ConnId, DeliveryId, Notice, Refusal, StoreEvent, StoreRequest,
};
use sn_codec::{Disconnect, MsgId, Packet, PublishQoS, QoS, ReturnCode, TopicId, TopicRef};

const A: u16 = 5001;
const B: u16 = 5002;

fn config() -> GatewayConfig {
    GatewayConfig {
        upstream: UpstreamConfig {
            when_down: WhenDown::Spool,
            ..UpstreamConfig::default()
        },
        durability: Some(Durability::default()),
        ..GatewayConfig::default()
    }
}

fn bounded(spool_messages: usize, when_full: SpoolFull) -> GatewayConfig {
    GatewayConfig {
        durability: Some(Durability {
            spool_messages,
            when_full,
            ..Durability::default()
        }),
        ..config()
    }
}

/// The connection that QoS 2 has for itself.
const EXACT: ConnId = ConnId(1);

fn up() -> Bench {
    let mut bench = Bench::up(config());
    exact_up(&mut bench, false);
    bench.requests.clear();
    bench
}

fn exact_up(bench: &mut Bench, session_present: bool) {
    bench.broker(BrokerEvent::Up {
        conn: EXACT,
        session_present,
        window: 20,
        forgets: false,
    });
    bench.broker(BrokerEvent::Credit {
        conn: EXACT,
        requests: 1000,
    });
}

fn all_down(bench: &mut Bench) {
    for conn in [CONN, EXACT] {
        let reason = "test".into();
        bench.broker(BrokerEvent::Down { conn, reason });
    }
}

fn publish1(id: TopicId, msg_id: u16, data: &[u8]) -> Packet<'_> {
    publish(TopicRef::Normal(id), QoS::AtLeastOnce, msg_id, data)
}

fn publish2(id: TopicId, msg_id: u16, data: &[u8]) -> Packet<'_> {
    publish(TopicRef::Normal(id), QoS::ExactlyOnce, msg_id, data)
}

fn accepted(id: TopicId, msg_id: u16) -> Packet<'static> {
    puback(id, msg_id, ReturnCode::Accepted)
}

fn payloads(bench: &mut Bench) -> Vec<Vec<u8>> {
    let publishes = bench.publishes().into_iter();
    publishes.map(|(_, _, payload)| payload).collect()
}

/// A message of the broker that waits for its acknowledgement.
fn deliver(bench: &mut Bench, topic: &str, qos: QoS, delivery: u64, payload: &[u8]) {
    bench.broker(BrokerEvent::Message {
        conn: CONN,
        delivery: Some(DeliveryId(delivery)),
        filters: Box::default(),
        topic: topic.into(),
        qos,
        retain: false,
        payload: Bytes::copy_from_slice(payload),
    });
}

fn acks(bench: &mut Bench) -> Vec<u64> {
    let requests = bench.requests.drain(..);
    requests
        .filter_map(|request| match request {
            BrokerRequest::Ack { delivery, .. } => Some(delivery.0),
            _ => None,
        })
        .collect()
}

#[test]
fn nothing_is_stored_where_nothing_shall_survive() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    let id = bench.register(A, "t");
    bench.packet(A, publish2(id, 7, b"x"));
    bench.subscribe(A, "c", QoS::ExactlyOnce);
    bench.message(&[], "c", QoS::ExactlyOnce, false, b"y");
    assert_eq!(bench.writes, []);
    assert_eq!(bench.stored.len(), 0);
}

#[test]
fn with_the_broker_there_qos_1_is_not_stored() {
    let mut bench = up();
    bench.connect(A, "a");
    let id = bench.register(A, "t");
    bench.commit();
    bench.packet(A, publish1(id, 7, b"x"));
    bench.settle();
    bench.expect(A, &[accepted(id, 7)]);
    assert_eq!(bench.writes, []);
}

#[test]
fn without_the_broker_qos_1_is_acknowledged_once_it_is_durable() {
    let mut bench = up();
    bench.connect(A, "a");
    let id = bench.register(A, "t");
    bench.broker_down();
    bench.packet(A, publish1(id, 7, b"x"));
    bench.expect(A, &[]);
    bench.commit();
    bench.expect(A, &[accepted(id, 7)]);
    assert_eq!(payloads(&mut bench).len(), 0);
    bench.broker_up(false);
    assert_eq!(payloads(&mut bench), [b"x"]);
}

#[test]
fn what_the_broker_may_not_have_is_stored_when_its_connection_breaks() {
    let mut bench = up();
    bench.connect(A, "a");
    let id = bench.register(A, "t");
    bench.packet(A, publish1(id, 7, b"x"));
    bench.expect(A, &[]);
    bench.broker_down();
    bench.commit();
    bench.expect(A, &[accepted(id, 7)]);
}

#[test]
fn spooled_messages_reach_the_broker_after_a_restart_in_their_order() {
    let mut bench = up();
    bench.connect(A, "a");
    let id = bench.register(A, "t");
    bench.broker_down();
    for msg_id in 1..=5 {
        bench.packet(A, publish1(id, msg_id, &[msg_id as u8]));
    }
    bench.commit();
    assert_eq!(bench.heard(A).len(), 5);

    let mut bench = bench.restart(config());
    bench.broker_up(false);
    assert_eq!(payloads(&mut bench), [[1], [2], [3], [4], [5]]);
}

#[test]
fn with_several_connections_each_client_goes_on_upon_its_own_after_a_restart() {
    let several = || {
        let mut config = config();
        config.upstream.connections = 3;
        config
    };
    let all_up = |bench: &mut Bench| {
        for conn in (0..4).map(ConnId) {
            bench.broker(BrokerEvent::Up {
                conn,
                session_present: false,
                window: 20,
                forgets: false,
            });
            bench.broker(BrokerEvent::Credit { conn, requests: 1000 });
        }
    };
    let mut bench = Bench::new(several());
    let clients = ["a", "b", "c", "d", "e", "f"];
    for (port, client) in (A..).zip(clients) {
        bench.connect_with(port, connect(client, false, 600));
        let id = bench.register(port, client);
        bench.commit();
        for (msg_id, text) in [(1, "1"), (2, "2"), (3, "3")] {
            bench.packet(port, publish1(id, msg_id, text.as_bytes()));
        }
        bench.packet(port, publish2(id, 4, b"exact"));
        bench.commit();
    }

    let mut bench = bench.restart(several());
    bench.requests.clear();
    all_up(&mut bench);
    let mut connections = BTreeSet::new();
    for client in clients {
        let sent = bench.requests.iter().filter_map(|request| match request {
            BrokerRequest::Publish {
                conn, topic, payload, ..
            } if &**topic == client => Some((*conn, payload.clone())),
            _ => None,
        });
        let (exact, shared): (Vec<_>, Vec<_>) = sent.partition(|(conn, _)| *conn == ConnId(3));
        assert_eq!(exact, [(ConnId(3), Bytes::from_static(b"exact"))]);
        let payloads: Vec<&[u8]> = shared.iter().map(|(_, payload)| &payload[..]).collect();
        assert_eq!(payloads, [b"1", b"2", b"3"]);
        assert!(
            shared.iter().all(|(conn, _)| *conn == shared[0].0),
            "one connection"
        );
        connections.insert(shared[0].0);
    }
    assert!(connections.len() > 1, "all on one connection");
}

#[test]
fn settled_messages_do_not_come_again_after_a_restart() {
    let mut bench = up();
    bench.connect(A, "a");
    let id = bench.register(A, "t");
    bench.broker_down();
    bench.packet(A, publish1(id, 7, b"x"));
    bench.commit();
    bench.broker_up(false);
    bench.settle();
    bench.commit();

    let mut bench = bench.restart(config());
    bench.broker_up(true);
    assert_eq!(payloads(&mut bench).len(), 0);
}

#[test]
fn new_messages_and_spooled_ones_take_turns_and_each_client_keeps_its_order() {
    let mut bench = up();
    bench.connect(A, "a");
    bench.connect(B, "b");
    let (a, b) = (bench.register(A, "a"), bench.register(B, "b"));
    bench.broker_down();
    for msg_id in 1..=40 {
        bench.packet(A, publish1(a, msg_id, &[msg_id as u8]));
        bench.commit();
    }
    bench.broker(BrokerEvent::Up {
        conn: CONN,
        session_present: false,
        window: 10,
        forgets: false,
    });
    bench.packet(A, publish1(a, 41, &[41]));
    bench.packet(B, publish1(b, 1, &[101]));
    bench.packet(B, publish1(b, 2, &[102]));
    bench.commit();
    bench.broker(BrokerEvent::Credit {
        conn: CONN,
        requests: 1000,
    });
    let mut sent: Vec<u8> = Vec::new();
    while !bench.requests.is_empty() {
        let requests = bench.requests.clone();
        sent.extend(payloads(&mut bench).into_iter().map(|payload| payload[0]));
        bench.requests = requests;
        bench.settle();
        bench.commit();
    }
    let at = |payload: u8| sent.iter().position(|sent| *sent == payload).unwrap();
    assert!(
        at(101) < 5 && at(102) < 5,
        "a new client does not wait for the spool: {sent:?}"
    );
    let own: Vec<u8> = sent.iter().copied().filter(|payload| *payload <= 41).collect();
    assert_eq!(own, (1..=41).collect::<Vec<u8>>());
}

#[test]
fn a_full_spool_refuses_or_drops_the_oldest() {
    for (when_full, answers, kept) in [
        (
            SpoolFull::Refuse,
            [ReturnCode::Accepted, ReturnCode::Congestion],
            [1],
        ),
        (
            SpoolFull::DropOldest,
            [ReturnCode::Accepted, ReturnCode::Accepted],
            [2],
        ),
    ] {
        let mut bench = Bench::up(bounded(1, when_full));
        bench.connect(A, "a");
        let id = bench.register(A, "t");
        bench.broker_down();
        for msg_id in 1..=2 {
            bench.packet(A, publish1(id, msg_id, &[msg_id as u8]));
            bench.commit();
        }
        let [first, second] = answers;
        bench.expect(A, &[puback(id, 1, first), puback(id, 2, second)]);
        bench.requests.clear();
        bench.broker_up(false);
        assert_eq!(payloads(&mut bench), [kept]);
        let dropped = bench.gateway.metrics().spool_dropped[SpoolDrop::Full as usize];
        assert_eq!(dropped, u64::from(when_full == SpoolFull::DropOldest));
    }
}

#[test]
fn messages_that_waited_too_long_are_dropped_and_counted() {
    let mut bench = up();
    bench.connect_with(A, connect("a", false, 0));
    let id = bench.register(A, "t");
    bench.broker_down();
    bench.packet(A, publish1(id, 1, b"old"));
    bench.commit();
    bench.pass(seconds(7 * 24 * 3600 + 1));
    assert_eq!(bench.gateway.metrics().spool_dropped[SpoolDrop::Age as usize], 1);
    assert_eq!(bench.gateway.metrics().spool_messages, 0);
}

#[test]
fn while_the_disk_fails_publishes_are_refused_and_sessions_go_on() {
    let mut bench = up();
    bench.connect(A, "a");
    let id = bench.register(A, "t");
    bench.gateway.handle_store(bench.now, StoreEvent::Failed);
    bench.subscribe(A, "c", QoS::AtLeastOnce);
    bench.broker_down();
    bench.packet(A, publish1(id, 1, b"x"));
    bench.expect(A, &[puback(id, 1, ReturnCode::Congestion)]);
    bench.gateway.handle_store(bench.now, StoreEvent::Works);
    bench.packet(A, publish1(id, 2, b"x"));
    bench.commit();
    bench.expect(A, &[accepted(id, 2)]);
}

#[test]
fn what_was_promised_while_the_disk_failed_is_made_durable_when_it_works() {
    let mut bench = up();
    bench.connect(A, "a");
    bench.commit();
    bench.gateway.handle_store(bench.now, StoreEvent::Failed);
    bench.subscribe(A, "c", QoS::AtLeastOnce);
    assert!(bench.writes.iter().all(|request| !waited_for(request)));
    bench.gateway.handle_store(bench.now, StoreEvent::Works);
    bench.drain();
    assert!(bench.writes.iter().any(waited_for), "{:?}", bench.writes);
}

fn waited_for(request: &StoreRequest) -> bool {
    matches!(request, StoreRequest::Write { ticket: Some(_), .. })
}

#[test]
fn what_came_while_the_disk_failed_goes_after_what_its_client_has_in_the_store() {
    let mut bench = Bench::up(GatewayConfig {
        upstream: UpstreamConfig::default(),
        ..config()
    });
    exact_up(&mut bench, false);
    bench.connect_with(A, connect("a", false, 600));
    let id = bench.register(A, "t");
    let tokens = |bench: &mut Bench| -> Vec<_> {
        let publishes = bench.publishes().into_iter();
        publishes.map(|(token, _, _)| token.unwrap()).collect()
    };
    let mut sent = Vec::new();
    for msg_id in 1..=4 {
        if msg_id == 3 {
            bench.gateway.handle_store(bench.now, StoreEvent::Failed);
        }
        bench.packet(A, publish2(id, msg_id, b"x"));
        bench.commit();
        sent.extend(tokens(&mut bench));
    }
    assert_eq!(sent.len(), 4);
    let reason = "test".into();
    bench.broker(BrokerEvent::Down { conn: EXACT, reason });
    bench.gateway.handle_store(bench.now, StoreEvent::Works);
    bench.commit();
    exact_up(&mut bench, false);
    for token in sent.iter().rev() {
        bench.broker(BrokerEvent::Lost { token: *token });
    }
    assert_eq!(tokens(&mut bench), sent);
}

#[test]
fn answers_that_waited_for_the_disk_are_given_when_it_fails_and_others_are_not() {
    let mut bench = up();
    bench.connect(A, "a");
    bench.subscribe(A, "c", QoS::AtLeastOnce);
    deliver(&mut bench, "c", QoS::AtLeastOnce, 9, b"x");
    bench.requests.clear();
    bench.packet(
        A,
        Packet::Register(sn_codec::Register {
            topic_id: TopicId::NONE,
            msg_id: MsgId(3),
            topic_name: "u",
        }),
    );
    bench.sent.clear();
    bench.gateway.handle_store(bench.now, StoreEvent::Failed);
    bench.drain();
    assert!(matches!(bench.heard(A)[..], [Packet::Regack(_)]));
    assert_eq!(
        acks(&mut bench).len(),
        0,
        "the broker keeps what is not durable here"
    );
    bench.commit();
    assert_eq!(acks(&mut bench), [9]);
}

#[test]
fn a_restart_is_invisible_to_clients() {
    let mut bench = up();
    bench.connect_with(A, connect("a", false, 60));
    let id = bench.register(A, "t");
    bench.subscribe(A, "cmd/+", QoS::AtLeastOnce);
    bench.commit();

    let mut bench = bench.restart(config());
    bench.broker_up(true);
    let (token, _) = bench.subscribe_request();
    bench.broker(BrokerEvent::Settled {
        token,
        result: Ok(Some(QoS::AtLeastOnce)),
    });
    bench.requests.clear();
    bench.packet(A, publish1(id, 2, b"x"));
    bench.settle();
    bench.expect(A, &[accepted(id, 2)]);
    bench.message(&[], "cmd/1", QoS::AtLeastOnce, false, b"on");
    bench.commit();
    assert!(matches!(bench.heard(A)[..], [Packet::Register(_)]));
    assert_eq!(bench.gateway.metrics().sessions_restored_total, 1);
}

#[test]
fn an_orderly_stop_says_nothing_to_clients() {
    let mut bench = up();
    bench.connect(A, "a");
    bench.gateway.handle_shutdown(bench.now);
    bench.drain();
    bench.expect(A, &[]);
}

#[test]
fn sleepers_messages_are_acknowledged_to_the_broker_when_durable_and_survive() {
    let mut bench = up();
    bench.connect_with(A, connect("a", false, 60));
    bench.subscribe(A, "c", QoS::AtLeastOnce);
    bench.sleep(A, 600);
    bench.requests.clear();
    for delivery in 1..=3 {
        deliver(&mut bench, "c", QoS::AtLeastOnce, delivery, &[delivery as u8]);
    }
    assert_eq!(acks(&mut bench).len(), 0);
    bench.commit();
    assert_eq!(acks(&mut bench), [1, 2, 3]);

    let mut bench = bench.restart(config());
    bench.pingreq(A, Some("a"));
    for payload in 1..=3 {
        let publish = bench.heard_publish(A);
        assert_eq!(publish.data, [payload]);
        bench.puback(A, publish);
    }
    bench.expect(A, &[Packet::Pingresp]);
    bench.commit();
    let restored = bench.restart(config());
    assert_eq!(
        restored.stored.len(),
        1,
        "the session alone: {:?}",
        restored.stored.keys()
    );
}

#[test]
fn a_qos_2_delivery_goes_on_under_its_message_id_at_each_step() {
    for steps in 0..3 {
        let mut bench = up();
        bench.connect_with(A, connect("a", false, 600));
        bench.subscribe(A, "c", QoS::ExactlyOnce);
        bench.requests.clear();
        deliver(&mut bench, "c", QoS::ExactlyOnce, 77, b"x");
        bench.expect(A, &[]);
        bench.commit();
        let publish = bench.heard_publish(A);
        let id = publish.msg_id;
        if steps >= 1 {
            bench.packet(A, Packet::Pubrec(id));
            bench.expect(A, &[]);
            bench.commit();
            bench.expect(A, &[Packet::Pubrel(id)]);
        }
        if steps >= 2 {
            bench.packet(A, Packet::Pubcomp(id));
            bench.commit();
        }

        let mut bench = bench.restart(config());
        bench.commit();
        let heard = bench.heard(A);
        match (steps, &heard[..]) {
            (0, [Packet::Publish(again)]) => {
                assert_eq!((again.msg_id, again.dup, again.data), (id, true, &b"x"[..]));
            }
            (1, [Packet::Pubrel(again)]) => assert_eq!(*again, id),
            (2, []) => {}
            _ => panic!("after {steps} steps: {heard:?}"),
        }
        // The broker may send it again until it is released: the port is told.
        let options = bench.requests.iter().find_map(|request| match request {
            BrokerRequest::Open { options, .. } => Some(options.clone()),
            _ => None,
        });
        assert_eq!(options.unwrap().received, [DeliveryId(77)]);
        bench.broker_up(true);
        bench.broker(BrokerEvent::Released {
            conn: CONN,
            delivery: DeliveryId(77),
        });
        if steps == 2 {
            bench.commit();
            assert!(bench.stored.keys().all(|key| key.kind == 1), "{:?}", bench.stored);
        }
    }
}

#[test]
fn a_qos_2_publish_is_durable_before_the_broker_gets_it_and_while_its_client_waits() {
    let mut bench = up();
    bench.connect_with(A, connect("a", false, 600));
    let id = bench.register(A, "t");
    bench.commit();
    bench.requests.clear();
    bench.packet(A, publish2(id, 7, b"x"));
    assert_eq!(payloads(&mut bench).len(), 0);
    bench.commit();
    let [
        BrokerRequest::Publish {
            token: Some(token),
            stored: Some(stored),
            ..
        },
    ] = &bench.requests[..]
    else {
        panic!("{:?}", bench.requests);
    };
    let (token, stored) = (*token, stored.clone());
    // The port is about to send it.
    bench.stored.insert(stored.key, stored.at(11, false));

    // Killed here: the port goes on with the packet id, and the client gets its answer.
    let mut again = up();
    again.stored = bench.stored.clone();
    again.now = bench.now;
    let mut again = again.restart(config());
    let restored = again.requests.iter().find_map(|request| match request {
        BrokerRequest::Open { options, .. } => options.restored.first().cloned(),
        _ => None,
    });
    let restored = restored.expect("a publish that goes on");
    assert_eq!((restored.packet_id, restored.released), (11, false));
    again.broker_up(true);
    exact_up(&mut again, true);
    assert_eq!(payloads(&mut again).len(), 0, "the port has it");
    again.packet(A, publish2(id, 7, b"x"));
    again.expect(A, &[]);
    again.broker(BrokerEvent::Settled {
        token: restored.token,
        result: Ok(None),
    });
    again.expect(A, &[Packet::Pubrec(MsgId(7))]);

    // Not killed: the same to its end, and nothing is left.
    bench.broker(BrokerEvent::Settled {
        token,
        result: Ok(None),
    });
    bench.expect(A, &[Packet::Pubrec(MsgId(7))]);
    bench.commit();
    bench.packet(A, Packet::Pubrel(MsgId(7)));
    bench.expect(A, &[]);
    bench.commit();
    bench.expect(A, &[Packet::Pubcomp(MsgId(7))]);
    assert!(bench.stored.keys().all(|key| key.kind == 1), "{:?}", bench.stored);
}

#[test]
fn a_qos_2_publish_is_answered_and_released_while_the_broker_is_away_and_sent_once() {
    let mut bench = up();
    bench.connect_with(A, connect("a", false, 600));
    let id = bench.register(A, "t");
    all_down(&mut bench);
    bench.packet(A, publish2(id, 7, b"x"));
    bench.commit();
    bench.expect(A, &[Packet::Pubrec(MsgId(7))]);
    bench.packet(A, Packet::Pubrel(MsgId(7)));
    bench.commit();
    bench.expect(A, &[Packet::Pubcomp(MsgId(7))]);

    let mut bench = bench.restart(config());
    let opened = |request: &BrokerRequest| matches!(request, BrokerRequest::Open { conn: EXACT, .. });
    assert!(bench.requests.iter().any(opened), "{:?}", bench.requests);
    // The same id, the same content, and another message.
    bench.packet(A, publish2(id, 7, b"x"));
    bench.commit();
    bench.expect(A, &[Packet::Pubrec(MsgId(7))]);
    bench.requests.clear();
    exact_up(&mut bench, false);
    assert_eq!(payloads(&mut bench), [b"x", b"x"]);
}

#[test]
fn of_two_publishes_with_one_packet_id_the_one_written_later_goes_on() {
    for first in [0, 1] {
        let mut bench = up();
        for (port, client, msg_id) in [(A, "a", 7), (B, "b", 8)] {
            bench.connect_with(port, connect(client, false, 600));
            let id = bench.register(port, "t");
            bench.commit();
            bench.packet(port, publish2(id, msg_id, client.as_bytes()));
            bench.commit();
        }
        let stored: Vec<_> = bench
            .requests
            .iter()
            .filter_map(|request| match request {
                BrokerRequest::Publish { stored, .. } => stored.clone(),
                _ => None,
            })
            .collect();
        assert_eq!(stored.len(), 2);
        // A packet id is given again when its exchange is over, which is not known of the first here.
        for (stored, released) in [(&stored[first], true), (&stored[1 - first], false)] {
            bench.stored.insert(stored.key, stored.at(11, released));
            bench.written_last.push(stored.key);
        }
        let bench = bench.restart(config());
        let restored = bench.requests.iter().find_map(|request| match request {
            BrokerRequest::Open { options, .. } if !options.restored.is_empty() => Some(&options.restored),
            _ => None,
        });
        let keys: Vec<_> = restored
            .unwrap()
            .iter()
            .map(|restored| restored.stored.key)
            .collect();
        assert_eq!(keys, [stored[first].key, stored[1 - first].key]);
    }
}

#[test]
fn a_lost_broker_session_sends_a_restored_publish_again() {
    let mut bench = up();
    bench.connect_with(A, connect("a", false, 600));
    let id = bench.register(A, "t");
    bench.packet(A, publish2(id, 7, b"x"));
    bench.commit();
    let Some(BrokerRequest::Publish {
        stored: Some(stored), ..
    }) = bench.requests.last()
    else {
        panic!("{:?}", bench.requests);
    };
    let (key, value) = (stored.key, stored.at(11, false));
    bench.stored.insert(key, value);
    let mut bench = bench.restart(config());
    let token = bench.requests.iter().find_map(|request| match request {
        BrokerRequest::Open { options, .. } => options.restored.first().map(|restored| restored.token),
        _ => None,
    });
    bench.requests.clear();
    bench.broker(BrokerEvent::Lost {
        token: token.unwrap(),
    });
    exact_up(&mut bench, false);
    assert_eq!(payloads(&mut bench), [b"x"]);
}

#[test]
fn a_will_whose_client_vanished_while_the_gateway_was_away_is_published_once() {
    let mut bench = up();
    bench.connect_with_will(A, "a", false, 60);
    bench.commit();

    let mut bench = bench.restart(config());
    bench.broker_up(true);
    bench.requests.clear();
    bench.pass(seconds(89));
    assert_eq!(
        payloads(&mut bench).len(),
        0,
        "it has its whole time from the restart on"
    );
    bench.pass(seconds(2));
    assert_eq!(payloads(&mut bench), [b"gone"]);
    bench.commit();

    let mut bench = bench.restart(config());
    bench.broker_up(true);
    bench.requests.clear();
    bench.pass(seconds(1000));
    assert_eq!(payloads(&mut bench).len(), 0);
}

#[test]
fn a_message_for_many_is_stored_once_and_each_has_it_once() {
    let mut bench = up();
    for (port, id) in [(A, "a"), (B, "b")] {
        bench.connect_with(port, connect(id, false, 60));
        bench.subscribe(port, "c", QoS::AtLeastOnce);
        bench.sleep(port, 600);
    }
    bench.commit();
    let before = bench.stored.len();
    deliver(&mut bench, "c", QoS::AtLeastOnce, 1, b"x");
    bench.commit();
    assert_eq!(bench.stored.len(), before + 1);
    bench.pingreq(A, Some("a"));
    let publish = bench.heard_publish(A);
    bench.puback(A, publish);
    bench.expect(A, &[Packet::Pingresp]);
    bench.commit();

    let mut bench = bench.restart(config());
    bench.pingreq(A, Some("a"));
    bench.expect(A, &[Packet::Pingresp]);
    bench.pingreq(B, Some("b"));
    let publish = bench.heard_publish(B);
    assert_eq!(publish.qos, PublishQoS::Level(QoS::AtLeastOnce));
    bench.puback(B, publish);
    bench.commit();
    assert_eq!(
        bench.stored.len(),
        2,
        "the sessions alone: {:?}",
        bench.stored.keys()
    );
}

#[test]
fn sleeping_and_waking_alone_writes_nothing_for_ten_minutes() {
    let mut bench = up();
    bench.connect_with(A, connect("a", false, 600));
    bench.commit();
    for _ in 0..5 {
        bench.sleep(A, 100);
        bench.pingreq(A, Some("a"));
        bench.expect(A, &[Packet::Pingresp]);
        bench.pass(seconds(60));
        assert_eq!(bench.writes, []);
    }
    bench.pass(seconds(400));
    assert_eq!(bench.writes.len(), 1);
}

#[test]
fn values_that_mean_nothing_are_dropped_and_counted() {
    let mut bench = up();
    bench.connect_with(A, connect("a", false, 60));
    bench.commit();
    let (&key, _) = bench.stored.first_key_value().unwrap();
    bench.stored.insert(key, Bytes::from_static(b"\xffnonsense"));
    let mut bench = bench.restart(config());
    bench.commit();
    assert_eq!(bench.stored.len(), 0);
    assert_eq!(bench.gateway.metrics().sessions_restored_total, 0);
}

#[test]
fn a_clean_session_leaves_nothing_of_the_old_one() {
    let mut bench = up();
    bench.connect_with(A, connect("a", false, 60));
    bench.subscribe(A, "c", QoS::AtLeastOnce);
    bench.sleep(A, 600);
    deliver(&mut bench, "c", QoS::AtLeastOnce, 1, b"x");
    bench.commit();
    bench.connect_with(A, connect("a", true, 60));
    bench.commit();
    let mut bench = bench.restart(config());
    bench.broker_up(true);
    assert!(
        !bench
            .requests
            .iter()
            .any(|request| matches!(request, BrokerRequest::Subscribe { .. }))
    );
    // What it was subscribed to still stands at the broker, until that has taken it back.
    assert!(
        bench
            .requests
            .iter()
            .any(|request| matches!(request, BrokerRequest::Unsubscribe { filter, .. } if &**filter == "c"))
    );
    bench.settle();
    bench.commit();
    assert_eq!(bench.stored.len(), 1, "{:?}", bench.stored.keys());
}

#[test]
fn a_port_that_forgets_gets_nothing_while_the_disk_fails() {
    let mut bench = Bench::embedded(config());
    bench.connect(A, "a");
    let id = bench.register(A, "t");
    bench.commit();
    bench.requests.clear();
    bench.packet(A, publish1(id, 1, b"under way"));
    bench.gateway.handle_store(bench.now, StoreEvent::Failed);
    bench.packet(A, publish1(id, 2, b"x"));
    bench.packet(A, publish2(id, 3, b"x"));
    let congestion = [2, 3].map(|msg_id| puback(id, msg_id, ReturnCode::Congestion));
    bench.expect(A, &congestion);
    assert_eq!(payloads(&mut bench), Vec::<Vec<u8>>::new());
    // Whose own write did not get through waits for that.
    bench.gateway.handle_store(bench.now, StoreEvent::Works);
    bench.commit();
    assert_eq!(bench.requests.len(), 1);
    bench.settle();
    bench.expect(A, &[accepted(id, 1)]);
}

#[test]
fn a_will_is_published_although_the_disk_fails() {
    let mut bench = Bench::embedded(config());
    bench.connect_with_will(A, "a", true, 60);
    bench.commit();
    bench.gateway.handle_store(bench.now, StoreEvent::Failed);
    bench.requests.clear();
    bench.pass(seconds(600));
    assert_eq!(payloads(&mut bench), [b"gone"]);
}

#[test]
fn a_port_that_forgets_gets_what_is_durable_and_its_record_stays_until_everybody_has_it() {
    let mut bench = Bench::embedded(config());
    bench.connect(A, "a");
    let id = bench.register(A, "t");
    bench.commit();
    bench.requests.clear();
    bench.packet(A, publish1(id, 7, b"x"));
    assert_eq!(bench.requests, []);
    bench.commit();
    let [
        BrokerRequest::Publish {
            token: Some(token), ..
        },
    ] = bench.requests[..]
    else {
        panic!("{:?}", bench.requests);
    };
    bench.settle();
    bench.expect(A, &[accepted(id, 7)]);
    bench.commit();
    let kept = |bench: &Bench| bench.stored.keys().filter(|key| key.kind == 2).count();
    assert_eq!(kept(&bench), 1);
    bench.broker(BrokerEvent::Delivered { token });
    bench.commit();
    assert_eq!(kept(&bench), 0);
}

#[test]
fn a_spooled_qos_2_publish_goes_out_after_a_restart_without_another() {
    let mut bench = up();
    bench.connect_with(A, connect("a", false, 600));
    let id = bench.register(A, "t");
    all_down(&mut bench);
    bench.packet(A, publish2(id, 7, b"x"));
    bench.commit();
    bench.expect(A, &[Packet::Pubrec(MsgId(7))]);

    let mut bench = bench.restart(config());
    let opened = bench.requests.iter().find_map(|request| match request {
        BrokerRequest::Open { conn: EXACT, options } => Some(options.clone()),
        _ => None,
    });
    let opened = opened.expect("there is something to publish");
    assert!(opened.clean_start, "the broker knows no packet id of it");
    bench.requests.clear();
    exact_up(&mut bench, false);
    assert_eq!(payloads(&mut bench), [b"x"]);
    // What this life stores has higher numbers than what the last one did.
    bench.packet(A, publish2(id, 8, b"y"));
    bench.commit();
    let numbers = bench.stored.keys().filter(|key| key.kind == 2).map(|key| key.id);
    let numbers: Vec<u64> = numbers.collect();
    assert_eq!(numbers.len(), 2);
    assert_eq!(
        numbers
            .iter()
            .filter(|number| **number <= opened.stored_until)
            .count(),
        1
    );
}

#[test]
fn a_qos_0_publish_that_was_spooled_leaves_nothing_behind() {
    let mut bench = Bench::up(GatewayConfig {
        durability: Some(Durability {
            qos0: true,
            ..Durability::default()
        }),
        ..config()
    });
    bench.connect(A, "a");
    let id = bench.register(A, "t");
    bench.broker_down();
    bench.packet(A, publish(TopicRef::Normal(id), QoS::AtMostOnce, 0, b"x"));
    bench.commit();
    bench.requests.clear();
    bench.broker_up(false);
    assert_eq!(payloads(&mut bench), [b"x"]);
    bench.commit();
    assert!(bench.stored.keys().all(|key| key.kind == 1), "{:?}", bench.stored);
    assert_eq!(bench.gateway.metrics().spool_messages, 0);
}

#[test]
fn an_id_is_used_only_after_the_answer_that_tells_it() {
    let mut bench = up();
    bench.connect(A, "a");
    bench.subscribe(A, "#", QoS::AtLeastOnce);
    bench.packet(
        A,
        Packet::Register(sn_codec::Register {
            topic_id: TopicId::NONE,
            msg_id: MsgId(3),
            topic_name: "t",
        }),
    );
    // REGACK waits for the disk, and a message comes under that name: so does it.
    deliver(&mut bench, "t", QoS::AtLeastOnce, 1, b"x");
    bench.expect(A, &[]);
    bench.commit();
    let heard = bench.heard(A);
    assert!(
        matches!(heard[..], [Packet::Regack(_), Packet::Register(_)]),
        "{heard:?}"
    );
}

#[test]
fn a_repeated_register_is_answered_when_the_first_is() {
    let mut bench = up();
    bench.connect(A, "a");
    bench.commit();
    let register = Packet::Register(sn_codec::Register {
        topic_id: TopicId::NONE,
        msg_id: MsgId(3),
        topic_name: "t",
    });
    // If the power goes now, the next life may give the id to another name.
    bench.packet(A, register);
    bench.packet(A, register);
    bench.expect(A, &[]);
    bench.commit();
    let heard = bench.heard(A);
    assert!(matches!(heard[..], [Packet::Regack(_)]), "{heard:?}");
    // With nothing under way it does not wait.
    bench.packet(A, register);
    assert!(matches!(bench.heard(A)[..], [Packet::Regack(_)]));
}

#[test]
fn a_name_that_a_client_refused_and_asks_for_itself_is_delivered_by_the_next_life_too() {
    let mut bench = up();
    bench.connect_with(A, connect("a", false, 600));
    bench.subscribe(A, "#", QoS::AtLeastOnce);
    deliver(&mut bench, "t", QoS::AtLeastOnce, 1, b"x");
    bench.commit();
    let refusal = match bench.heard(A)[..] {
        [Packet::Register(register)] => sn_codec::Regack {
            topic_id: register.topic_id,
            msg_id: register.msg_id,
            return_code: ReturnCode::InvalidTopicId,
        },
        ref other => panic!("{other:?}"),
    };
    bench.packet(A, Packet::Regack(refusal));
    bench.register(A, "t");
    let mut bench = bench.restart(config());
    bench.broker_up(true);
    deliver(&mut bench, "t", QoS::AtLeastOnce, 2, b"y");
    bench.commit();
    let heard = bench.heard(A);
    assert!(matches!(heard[..], [Packet::Register(_)]), "{heard:?}");
}

#[test]
fn a_topic_id_that_was_told_is_not_given_to_another_name_after_any_number_of_restarts() {
    let mut bench = up();
    bench.connect_with(A, connect("a", false, 600));
    bench.subscribe(A, "#", QoS::AtMostOnce);
    let mut told = BTreeSet::new();
    for life in 0..10 {
        for n in 0..3 {
            bench.message(&[], &format!("{life}/{n}"), QoS::AtMostOnce, false, b"x");
            if n == 0 {
                bench.expect(A, &[]);
                bench.commit();
            }
            let register = match bench.heard(A)[..] {
                [Packet::Register(register)] => register,
                ref other => panic!("{other:?}"),
            };
            assert!(told.insert(register.topic_id), "{register:?}");
            bench.packet(
                A,
                Packet::Regack(sn_codec::Regack {
                    topic_id: register.topic_id,
                    msg_id: register.msg_id,
                    return_code: ReturnCode::Accepted,
                }),
            );
            bench.heard_publish(A);
        }
        // What was not durable by then is lost.
        bench = bench.restart(config());
        bench.broker_up(true);
    }
}

#[test]
fn an_answer_to_the_register_of_an_earlier_life_does_not_confirm_one_that_waits_for_the_disk() {
    let registered = |bench: &mut Bench| match bench.heard(A)[..] {
        [Packet::Register(register)] => register,
        ref other => panic!("{other:?}"),
    };
    let regack = |register: sn_codec::Register<'_>| {
        Packet::Regack(sn_codec::Regack {
            topic_id: register.topic_id,
            msg_id: register.msg_id,
            return_code: ReturnCode::Accepted,
        })
    };
    let mut bench = up();
    bench.connect_with(A, connect("a", false, 600));
    bench.subscribe(A, "#", QoS::ExactlyOnce);
    bench.message(&[], "s", QoS::AtMostOnce, false, b"x");
    bench.commit();
    let reserves = registered(&mut bench);
    bench.packet(A, regack(reserves));
    bench.heard_publish(A);
    deliver(&mut bench, "t", QoS::ExactlyOnce, 1, b"x");
    bench.commit_one();
    let first = registered(&mut bench);

    let mut bench = bench.restart(config());
    bench.packet(A, regack(first));
    bench.expect(A, &[]);
    bench.commit();
    let second = registered(&mut bench);
    assert_eq!(second.msg_id, first.msg_id, "a QoS 2 message keeps it");
    assert_ne!(second.topic_id, first.topic_id);
    bench.packet(A, regack(second));
    let message = bench.heard_publish(A);
    assert_eq!(topic_id(message.topic), second.topic_id);
}

#[test]
fn a_qos_2_delivery_leaves_when_its_message_id_is_durable() {
    let mut bench = up();
    bench.connect_with(A, connect("a", false, 600));
    bench.subscribe(A, "c", QoS::ExactlyOnce);
    deliver(&mut bench, "c", QoS::ExactlyOnce, 77, b"x");
    bench.expect(A, &[]);
    bench.commit();
    assert_eq!(bench.heard_publish(A).data, b"x");
}

#[test]
fn the_port_hears_that_a_release_is_known_once_it_is_durable() {
    let mut bench = up();
    bench.connect_with(A, connect("a", false, 600));
    bench.subscribe(A, "c", QoS::ExactlyOnce);
    bench.sleep(A, 600);
    deliver(&mut bench, "c", QoS::ExactlyOnce, 77, b"x");
    bench.commit();
    bench.requests.clear();
    let complete = |delivery| BrokerRequest::Complete {
        conn: CONN,
        delivery: DeliveryId(delivery),
    };
    let released = |delivery| BrokerEvent::Released {
        conn: CONN,
        delivery: DeliveryId(delivery),
    };
    bench.broker(released(77));
    assert_eq!(bench.requests, []);
    bench.commit();
    assert_eq!(bench.requests, [complete(77)]);
    // Of this one nothing was stored.
    bench.broker(released(78));
    assert_eq!(bench.requests, [complete(77), complete(78)]);
}

#[test]
fn the_port_hears_nothing_of_the_deliveries_of_a_session_that_the_broker_lost() {
    for durable_while_down in [false, true] {
        let mut bench = up();
        bench.connect_with(A, connect("a", false, 600));
        bench.subscribe(A, "c", QoS::ExactlyOnce);
        bench.sleep(A, 600);
        deliver(&mut bench, "c", QoS::ExactlyOnce, 77, b"x");
        bench.commit();
        let (conn, delivery) = (CONN, DeliveryId(77));
        bench.broker(BrokerEvent::Released { conn, delivery });
        // Taken, and not durable yet.
        deliver(&mut bench, "c", QoS::ExactlyOnce, 78, b"y");
        bench.broker_down();
        if durable_while_down {
            bench.commit();
        }
        bench.requests.clear();
        bench.broker_up(false);
        bench.commit();
        let of_deliveries = |request: &&BrokerRequest| {
            matches!(
                request,
                BrokerRequest::Ack { .. } | BrokerRequest::Complete { .. }
            )
        };
        assert_eq!(bench.requests.iter().find(of_deliveries), None);
    }
}

#[test]
fn a_new_session_is_subscribed_when_the_deliveries_of_the_lost_one_are_released_for_good() {
    let mut bench = up();
    bench.connect_with(A, connect("a", false, 600));
    bench.subscribe(A, "c", QoS::ExactlyOnce);
    bench.sleep(A, 600);
    deliver(&mut bench, "c", QoS::ExactlyOnce, 77, b"x");
    bench.commit();
    bench.broker_down();
    bench.requests.clear();
    let subscribes = |bench: &Bench| {
        let requests = bench.requests.iter();
        requests
            .filter(|request| matches!(request, BrokerRequest::Subscribe { .. }))
            .count()
    };
    bench.broker_up(false);
    assert_eq!(subscribes(&bench), 0);
    bench.commit();
    assert_eq!(subscribes(&bench), 1);
}

#[test]
fn a_sleeper_with_a_will_may_sleep_once_another_life_would_let_it() {
    let mut bench = up();
    let asleep = |seconds| {
        let duration = Some(seconds);
        Packet::Disconnect(Disconnect { duration })
    };
    bench.connect_with_will(A, "a", false, 60);
    bench.commit();
    bench.packet(A, asleep(3600));
    bench.expect(A, &[]);
    // Said again before that is durable, it is answered no sooner.
    bench.packet(A, asleep(3600));
    bench.expect(A, &[]);
    bench.commit();
    bench.expect(A, &[disconnect()]);
    // What is stored already, or lasts longer, costs no write.
    for seconds in [3600, 600] {
        bench.packet(A, asleep(seconds));
        bench.pingreq(A, Some("a"));
        bench.expect(A, &[disconnect(), Packet::Pingresp]);
    }
    bench.packet(A, asleep(3600));
    bench.expect(A, &[disconnect()]);
    assert_eq!(bench.writes, []);
    bench.packet(A, asleep(7200));
    bench.expect(A, &[]);
    bench.commit();
    bench.expect(A, &[disconnect()]);
    // Without a will there is nothing to be wrong about.
    bench.connect_with(B, connect("b", false, 60));
    bench.commit();
    bench.sleep(B, 3600);
    assert_eq!(bench.writes, []);

    let mut bench = bench.restart(config());
    bench.broker_up(true);
    bench.requests.clear();
    bench.pass(seconds(7200));
    assert_eq!(payloads(&mut bench).len(), 0, "it sleeps as long as it said");
    bench.pass(seconds(7200));
    assert_eq!(payloads(&mut bench), [b"gone"]);
}

#[test]
fn a_sleeper_whose_subscription_was_refused_learns_it_after_a_restart_too() {
    let mut bench = up();
    bench.connect_with(A, connect("a", false, 600));
    bench.broker_down();
    bench.packet(A, subscribe(MsgId(5), "c", QoS::AtLeastOnce));
    bench.commit();
    assert_eq!(bench.heard(A).len(), 1, "accepted for now");
    bench.sleep(A, 600);
    bench.requests.clear();
    bench.broker_up(true);
    bench.commit();
    let (token, _) = bench.subscribe_request();
    bench.broker(BrokerEvent::Settled {
        token,
        result: Err(Refusal(0x87)),
    });
    bench.commit();

    let mut bench = bench.restart(config());
    bench.broker_up(true);
    bench.pingreq(A, Some("a"));
    bench.expect(A, &[disconnect()]);
}

#[test]
fn a_message_that_was_acknowledged_and_is_refused_later_is_told() {
    let mut bench = up();
    bench.connect(A, "a");
    let id = bench.register(A, "t");
    bench.broker_down();
    bench.packet(A, publish1(id, 7, b"x"));
    bench.commit();
    bench.expect(A, &[accepted(id, 7)]);
    bench.requests.clear();
    bench.broker_up(true);
    let (token, ..) = bench.publishes().remove(0);
    bench.notices.clear();
    let refusal = Refusal(0x87);
    bench.broker(BrokerEvent::Settled {
        token: token.unwrap(),
        result: Err(refusal),
    });
    let topic = "t".into();
    let client = Some("a".into());
    assert_eq!(
        bench.notices,
        [Notice::UnheardRefused {
            client,
            topic,
            refusal
        }]
    );
}

#[test]
fn a_released_delivery_is_not_named_to_the_port_after_a_restart() {
    let mut bench = up();
    bench.connect_with(A, connect("a", false, 600));
    bench.subscribe(A, "c", QoS::ExactlyOnce);
    bench.sleep(A, 600);
    deliver(&mut bench, "c", QoS::ExactlyOnce, 77, b"x");
    bench.commit();
    bench.broker(BrokerEvent::Released {
        conn: CONN,
        delivery: DeliveryId(77),
    });
    bench.commit();

    let mut bench = bench.restart(config());
    let received = bench.requests.iter().find_map(|request| match request {
        BrokerRequest::Open { options, .. } => Some(options.received.clone()),
        _ => None,
    });
    assert_eq!(received, Some(vec![]));
    bench.broker_up(true);
    bench.pingreq(A, Some("a"));
    let publish = bench.heard_publish(A);
    bench.packet(A, Packet::Pubrec(publish.msg_id));
    bench.commit();
    bench.packet(A, Packet::Pubcomp(publish.msg_id));
    bench.commit();
    bench.commit();
    let left = bench.restart(config()).stored;
    assert!(left.keys().all(|key| key.kind == 1), "{left:?}");
}

#[test]
fn what_is_in_flight_when_the_broker_goes_is_answered_and_keeps_its_place() {
    let mut bench = up();
    bench.connect_with(A, connect("a", false, 600));
    let id = bench.register(A, "t");
    bench.packet(A, publish2(id, 7, b"1"));
    bench.commit();
    assert_eq!(payloads(&mut bench), [b"1"]);
    all_down(&mut bench);
    bench.commit();
    // It is durable, and the broker away: nothing more to wait for.
    bench.expect(A, &[Packet::Pubrec(MsgId(7))]);
    bench.packet(A, Packet::Pubrel(MsgId(7)));
    bench.packet(A, publish2(id, 8, b"2"));
    bench.commit();
    bench.requests.clear();
    let token = bench.gateway.metrics().spool_messages;
    assert_eq!(token, 2);
}

#[test]
fn a_client_that_comes_back_with_another_session_does_not_overtake_what_it_left() {
    let mut bench = up();
    bench.connect(A, "a");
    let id = bench.register(A, "t");
    bench.broker_down();
    for msg_id in 1..=40 {
        bench.packet(A, publish1(id, msg_id, &[msg_id as u8]));
        bench.commit();
    }
    bench.packet(A, disconnect());
    bench.commit();
    let mut bench = bench.restart(config());
    bench.requests.clear();
    bench.broker_up(true);
    bench.connect(A, "a");
    let id = bench.register(A, "t");
    bench.packet(A, publish1(id, 1, &[99]));
    bench.commit();
    let mut seen = Vec::new();
    while seen.len() < 41 {
        let publishes = bench.publishes();
        assert!(!publishes.is_empty(), "{seen:?}");
        for (token, _, payload) in publishes {
            seen.extend(payload);
            bench.broker(BrokerEvent::Settled {
                token: token.unwrap(),
                result: Ok(None),
            });
        }
    }
    assert_eq!(seen, (1..=40).chain([99]).collect::<Vec<u8>>());
}

#[test]
fn a_filter_that_nobody_holds_is_given_back_after_a_restart() {
    let mut bench = up();
    bench.connect(A, "a");
    bench.subscribe(A, "c", QoS::AtLeastOnce);
    all_down(&mut bench);
    bench.packet(A, disconnect());
    bench.commit();
    let mut bench = bench.restart(config());
    bench.requests.clear();
    bench.broker_up(true);
    let unsubscribes = bench.requests.iter().filter_map(|request| match request {
        BrokerRequest::Unsubscribe { filter, .. } => Some(filter.to_string()),
        _ => None,
    });
    assert_eq!(unsubscribes.collect::<Vec<_>>(), ["c"]);
}

#[test]
fn an_answer_that_waits_for_the_disk_is_not_given_in_the_next_connection() {
    let mut bench = up();
    bench.connect(A, "a");
    let register = |topic_name| {
        Packet::Register(sn_codec::Register {
            topic_id: TopicId::NONE,
            msg_id: MsgId(3),
            topic_name,
        })
    };
    bench.packet(A, register("t"));
    // The device restarts and counts its message ids from the start.
    bench.connect(A, "a");
    bench.packet(A, register("u"));
    bench.commit();
    assert!(matches!(bench.heard(A)[..], [Packet::Regack(_)]), "for u alone");
}

#[test]
fn a_suback_that_waits_for_the_disk_is_not_given_in_the_next_connection() {
    let mut bench = up();
    all_down(&mut bench);
    bench.connect(A, "a");
    bench.packet(A, subscribe(MsgId(3), "c", QoS::ExactlyOnce));
    // The device restarts and counts its message ids from the start.
    bench.connect(A, "a");
    bench.packet(A, subscribe(MsgId(3), "c", QoS::AtMostOnce));
    bench.commit();
    let [Packet::Suback(suback)] = bench.heard(A)[..] else {
        panic!("one answer")
    };
    assert_eq!(suback.qos, QoS::AtMostOnce);
}

#[test]
fn pubrel_waits_for_the_disk_although_the_client_asks_for_a_repeat() {
    let mut bench = up();
    bench.connect_with(A, connect("a", false, 600));
    bench.subscribe(A, "c", QoS::ExactlyOnce);
    bench.sleep(A, 600);
    deliver(&mut bench, "c", QoS::ExactlyOnce, 77, b"x");
    bench.commit();
    bench.pingreq(A, Some("a"));
    let id = bench.heard_publish(A).msg_id;
    bench.packet(A, Packet::Pubrec(id));
    bench.pingreq(A, Some("a"));
    bench.expect(A, &[]);
    bench.commit();
    bench.expect(A, &[Packet::Pubrel(id)]);
}
