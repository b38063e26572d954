//! What waits on disk for the broker: who may be dropped, what is listed, and what a person may do.

mod common;

use common::*;
use gateway_core::SpoolDrop;
use gateway_core::admin::{AdminCommand, AdminReply, SpoolRow, SpoolState};
use gateway_core::config::{Durability, GatewayConfig, SpoolFull, UpstreamConfig, WhenDown};
use gateway_core::io::{BrokerEvent, BrokerRequest, Notice, Token};
use sn_codec::{Packet, QoS, ReturnCode, TopicId, TopicRef};

const A: u16 = 5001;
const B: u16 = 5002;

fn spooling(durability: Durability) -> GatewayConfig {
    GatewayConfig {
        upstream: UpstreamConfig {
            when_down: WhenDown::Spool,
            ..UpstreamConfig::default()
        },
        durability: Some(durability),
        ..GatewayConfig::default()
    }
}

/// One message, then the oldest goes.
fn room_for_one() -> GatewayConfig {
    spooling(Durability {
        spool_messages: 1,
        when_full: SpoolFull::DropOldest,
        ..Durability::default()
    })
}

fn publish1(id: TopicId, msg_id: u16, data: &[u8]) -> Packet<'_> {
    publish(TopicRef::Normal(id), QoS::AtLeastOnce, msg_id, data)
}

fn spool(bench: &mut Bench, after: u64, limit: usize) -> (Vec<SpoolRow>, bool) {
    match bench
        .gateway
        .handle_admin(bench.now, AdminCommand::Spool { after, limit })
    {
        AdminReply::Spool { rows, more } => (rows, more),
        other => panic!("{other:?}"),
    }
}

fn drop_spooled(bench: &mut Bench, id: Option<u64>) -> usize {
    let reply = bench
        .gateway
        .handle_admin(bench.now, AdminCommand::SpoolDrop { id });
    bench.drain();
    bench.commit();
    match reply {
        AdminReply::SpoolDropped(messages) => messages,
        other => panic!("{other:?}"),
    }
}

fn dropped(bench: &mut Bench, reason: SpoolDrop) -> u64 {
    bench.gateway.metrics().spool_dropped[reason as usize]
}

fn stored(bench: &Bench) -> usize {
    bench.stored.keys().filter(|key| key.kind == 2).count()
}

fn payloads(bench: &mut Bench) -> Vec<Vec<u8>> {
    let publishes = bench.publishes().into_iter();
    publishes.map(|(_, _, payload)| payload).collect()
}

fn token(bench: &Bench) -> Token {
    let last = bench.requests.iter().rev().find_map(|request| match request {
        BrokerRequest::Publish { token, .. } => *token,
        _ => None,
    });
    last.expect("a publish")
}

#[test]
fn what_the_broker_has_and_only_keeps_for_absent_subscribers_makes_room_for_new_messages() {
    let mut bench = Bench::embedded(room_for_one());
    bench.connect(A, "a");
    let id = bench.register(A, "t");
    bench.commit();
    bench.packet(A, publish1(id, 1, b"1"));
    bench.commit();
    let first = token(&bench);
    bench.settle();
    bench.expect(A, &[puback(id, 1, ReturnCode::Accepted)]);
    assert_eq!(spool(&mut bench, 0, 10).0[0].state, SpoolState::Held);
    bench.requests.clear();

    bench.packet(A, publish1(id, 2, b"2"));
    bench.commit();

    assert_eq!(payloads(&mut bench), [b"2"]);
    assert_eq!((dropped(&mut bench, SpoolDrop::Full), stored(&bench)), (1, 1));
    // Its subscriber came after all.
    bench.broker(BrokerEvent::Delivered { token: first });
    bench.settle();
    bench.commit();
    assert_eq!(bench.gateway.metrics().spool_messages, 1);
}

#[test]
fn a_message_whose_client_waits_for_an_answer_is_not_dropped_for_another() {
    let mut bench = Bench::up(room_for_one());
    bench.connect(A, "a");
    bench.connect(B, "b");
    let (a, b) = (bench.register(A, "a"), bench.register(B, "b"));
    bench.broker_down();
    // Both within one sync.
    bench.packet(A, publish1(a, 1, b"a"));
    bench.packet(B, publish1(b, 1, b"b"));
    bench.commit();
    bench.expect(A, &[puback(a, 1, ReturnCode::Accepted)]);
    bench.expect(B, &[puback(b, 1, ReturnCode::Congestion)]);
    // Now nobody waits for it any more.
    bench.packet(B, publish1(b, 2, b"b"));
    bench.commit();
    bench.expect(B, &[puback(b, 2, ReturnCode::Accepted)]);
    assert_eq!(dropped(&mut bench, SpoolDrop::Full), 1);
}

#[test]
fn a_full_spool_is_told_once_a_minute() {
    let mut bench = Bench::up(spooling(Durability {
        spool_messages: 1,
        ..Durability::default()
    }));
    bench.connect(A, "a");
    let id = bench.register(A, "t");
    bench.broker_down();
    let told = |bench: &mut Bench| -> Vec<u64> {
        let notices = bench.notices.drain(..);
        notices
            .filter_map(|notice| match notice {
                Notice::SpoolFull { suppressed, .. } => Some(suppressed),
                _ => None,
            })
            .collect()
    };
    for msg_id in 1..=4 {
        bench.packet(A, publish1(id, msg_id, b"x"));
        bench.commit();
    }
    assert_eq!(told(&mut bench), [0]);
    bench.pass(seconds(60));
    bench.packet(A, publish1(id, 5, b"x"));
    assert_eq!(told(&mut bench), [2]);
}

#[test]
fn a_message_that_never_fits_drops_no_other() {
    let mut bench = Bench::up(spooling(Durability {
        spool_bytes: 20,
        when_full: SpoolFull::DropOldest,
        ..Durability::default()
    }));
    bench.connect(A, "a");
    let id = bench.register(A, "t");
    bench.broker_down();
    bench.packet(A, publish1(id, 1, b"fits"));
    bench.commit();
    bench.packet(A, publish1(id, 2, &[0; 20]));
    bench.commit();
    bench.expect(
        A,
        &[
            puback(id, 1, ReturnCode::Accepted),
            puback(id, 2, ReturnCode::Congestion),
        ],
    );
    assert_eq!(bench.gateway.metrics().spool_messages, 1);
}

#[test]
fn qos_0_that_was_spooled_is_forgotten_once_it_is_sent() {
    let mut bench = Bench::up(spooling(Durability {
        qos0: true,
        ..Durability::default()
    }));
    bench.connect(A, "a");
    let id = bench.register(A, "t");
    bench.broker_down();
    bench.packet(A, publish(TopicRef::Normal(id), QoS::AtMostOnce, 0, b"x"));
    bench.commit();
    assert_eq!(stored(&bench), 1);
    bench.requests.clear();

    bench.broker_up(false);
    bench.commit();

    assert_eq!(payloads(&mut bench), [b"x"]);
    assert_eq!((stored(&bench), bench.gateway.metrics().spool_messages), (0, 0));
    // The client is not behind anything any more: the next goes out at once, and nothing of it is stored.
    bench.requests.clear();
    bench.packet(A, publish1(id, 1, b"y"));
    assert_eq!(payloads(&mut bench), [b"y"]);
    assert_eq!(stored(&bench), 0);
}

/// Three spooled messages of two clients.
fn three() -> Bench {
    let mut bench = Bench::up(spooling(Durability::default()));
    bench.connect(A, "a");
    bench.connect(B, "b");
    let (a, b) = (bench.register(A, "ta"), bench.register(B, "tb"));
    bench.broker_down();
    for (port, id, data) in [(A, a, b"1"), (B, b, b"2"), (A, a, b"3")] {
        bench.packet(port, publish1(id, u16::from(data[0]), data));
        bench.commit();
        bench.pass(seconds(1));
    }
    bench
}

#[test]
fn the_spool_is_listed_page_by_page_with_senders_and_ages() {
    let mut bench = three();

    let (first, more) = spool(&mut bench, 0, 2);
    assert!(more);
    let (rest, more) = spool(&mut bench, first[1].id, 2);
    assert!(!more);

    let shown: Vec<_> = first
        .iter()
        .chain(&rest)
        .map(|row| {
            let client = row.client.as_deref().unwrap_or("?");
            (client, &*row.topic, row.payload.to_vec(), row.age, row.state)
        })
        .collect();
    let row =
        |client, topic, data: &[u8], age| (client, topic, data.to_vec(), seconds(age), SpoolState::Waiting);
    assert_eq!(
        shown,
        [
            row("a", "ta", b"1", 3),
            row("b", "tb", b"2", 2),
            row("a", "ta", b"3", 1)
        ]
    );
    let AdminReply::Metrics(metrics) = bench.gateway.handle_admin(bench.now, AdminCommand::Metrics) else {
        panic!("metrics");
    };
    assert!(metrics.contains(&("snipe_spool_oldest_seconds".to_owned(), 3)));
}

#[test]
fn what_a_person_drops_is_gone_for_good_and_counted() {
    let mut bench = three();
    let (rows, _) = spool(&mut bench, 0, 10);
    assert_eq!(drop_spooled(&mut bench, Some(rows[1].id)), 1);
    assert_eq!(drop_spooled(&mut bench, Some(rows[1].id)), 0);
    assert_eq!(dropped(&mut bench, SpoolDrop::Command), 1);

    let mut bench = bench.restart(spooling(Durability::default()));
    bench.requests.clear();
    bench.broker_up(false);
    assert_eq!(payloads(&mut bench), [b"1", b"3"]);
}

#[test]
fn everything_is_dropped_but_what_is_on_its_way_to_the_broker() {
    let mut bench = three();
    bench.broker(BrokerEvent::Up {
        conn: CONN,
        session_present: true,
        window: 1,
        forgets: false,
    });
    bench.broker(BrokerEvent::Credit {
        conn: CONN,
        requests: 10,
    });
    assert_eq!(drop_spooled(&mut bench, None), 2);
    let (rows, _) = spool(&mut bench, 0, 10);
    let left: Vec<_> = rows.iter().map(|row| (&row.payload[..], row.state)).collect();
    assert_eq!(left, [(&b"1"[..], SpoolState::Sent)]);
    bench.settle();
    bench.commit();
    assert_eq!((stored(&bench), bench.gateway.metrics().spool_messages), (0, 0));
}
