//! Filters of one client that match the same message, where the broker sends a copy for each: across restarts, and while
//! subscriptions come and go.

mod common;

use bytes::Bytes;
use common::*;
use gateway_core::config::{Durability, GatewayConfig};
use gateway_core::io::{BrokerEvent, BrokerRequest, DeliveryId, FilterId, Token};
use sn_codec::{MsgId, Packet, PublishQoS, QoS, TopicFilter, Unsubscribe};

const A: u16 = 5001;
const B: u16 = 5002;

fn config() -> GatewayConfig {
    GatewayConfig {
        durability: Some(Durability::default()),
        ..GatewayConfig::default()
    }
}

/// A client with these subscriptions after a restart over which the broker kept its session.
fn restarted<const N: usize>(filters: [&str; N]) -> (Bench, [FilterId; N]) {
    let mut bench = Bench::up(config());
    bench.connect_with(A, connect("a", false, 600));
    bench.register(A, "room/1");
    let ids = filters.map(|filter| bench.subscribe(A, filter, QoS::AtLeastOnce).1);
    bench.commit();
    let mut bench = bench.restart(config());
    bench.requests.clear();
    bench.broker_up(true);
    (bench, ids)
}

fn unsubscribe(filter: &str) -> Packet<'_> {
    Packet::Unsubscribe(Unsubscribe {
        msg_id: MsgId(20),
        topic: TopicFilter::Name(filter),
    })
}

/// The SUBSCRIBE for this filter that the broker was asked for.
fn asked(bench: &Bench, filter: FilterId) -> Token {
    let token = bench.requests.iter().find_map(|request| match request {
        BrokerRequest::Subscribe { token, id, .. } if *id == filter => Some(*token),
        _ => None,
    });
    token.expect("asked for again")
}

fn grant(bench: &mut Bench, filter: FilterId) {
    let token = asked(bench, filter);
    let result = Ok(Some(QoS::AtLeastOnce));
    bench.broker(BrokerEvent::Settled { token, result });
    bench.commit();
}

fn asked_at(filter: &str, qos: QoS) -> (String, QoS) {
    (filter.to_owned(), qos)
}

/// The filters that the broker was asked for, and with which QoS.
fn asked_for(bench: &Bench) -> Vec<(String, QoS)> {
    let asked_for = |request: &BrokerRequest| match request {
        BrokerRequest::Subscribe { filter, qos, .. } => Some(asked_at(filter, *qos)),
        _ => None,
    };
    bench.requests.iter().filter_map(asked_for).collect()
}

/// Subscribes; the broker grants whatever it is asked for, and that is returned.
fn hold(bench: &mut Bench, filter: &str, qos: QoS) -> Vec<(String, QoS)> {
    bench.requests.clear();
    bench.packet(A, subscribe(MsgId(9), filter, qos));
    for request in bench.requests.clone() {
        if let BrokerRequest::Subscribe { token, qos, .. } = request {
            let result = Ok(Some(qos));
            bench.broker(BrokerEvent::Settled { token, result });
        }
    }
    asked_for(bench)
}

/// What the SUBACK says.
fn granted(bench: &mut Bench) -> QoS {
    match bench.heard(A)[..] {
        [.., Packet::Suback(suback)] => suback.qos,
        ref other => panic!("{other:?}"),
    }
}

fn copy(bench: &mut Bench, filter: FilterId, payload: &[u8]) {
    bench.broker(BrokerEvent::Message {
        conn: CONN,
        delivery: Some(DeliveryId(7)),
        filters: [filter].into(),
        topic: "room/1".into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        payload: Bytes::copy_from_slice(payload),
    });
    bench.commit();
}

/// What the client is given, one after the other.
fn taken(bench: &mut Bench) -> Vec<Vec<u8>> {
    let mut taken = Vec::new();
    loop {
        match bench.heard(A)[..] {
            [] => return taken,
            [Packet::Publish(publish)] => {
                taken.push(publish.data.to_vec());
                bench.puback(A, publish);
            }
            [Packet::Register(register)] => bench.packet(
                A,
                Packet::Regack(sn_codec::Regack {
                    topic_id: register.topic_id,
                    msg_id: register.msg_id,
                    return_code: sn_codec::ReturnCode::Accepted,
                }),
            ),
            ref other => panic!("{other:?}"),
        }
        bench.commit();
    }
}

#[test]
fn copies_on_both_sides_of_the_first_answers_after_a_restart_are_delivered_once() {
    for first in [0, 1] {
        for answered in [0, 1, 2] {
            let (mut bench, ids) = restarted(["room/+", "#"]);
            let answers =
                |bench: &mut Bench, which: &[usize]| which.iter().for_each(|at| grant(bench, ids[*at]));
            for payload in [b"1", b"2"] {
                copy(&mut bench, ids[first], payload);
                if payload == b"2" {
                    answers(&mut bench, &[1, 0][..answered]);
                }
                copy(&mut bench, ids[1 - first], payload);
            }
            answers(&mut bench, &[1, 0][answered..]);
            for payload in [b"3", b"4"] {
                copy(&mut bench, ids[first], payload);
                copy(&mut bench, ids[1 - first], payload);
            }
            assert_eq!(taken(&mut bench), [b"1", b"2", b"3", b"4"], "{first} {answered}");
        }
    }
}

#[test]
fn copy_that_alone_was_left_unacknowledged_counts_whichever_came_first_of_others() {
    for alone in [0, 1] {
        let (mut bench, ids) = restarted(["room/+", "#"]);
        for id in [ids[1 - alone], ids[alone]] {
            copy(&mut bench, id, b"1");
        }
        copy(&mut bench, ids[alone], b"2");
        for id in ids {
            copy(&mut bench, id, b"3");
        }
        assert_eq!(taken(&mut bench), [b"1", b"2", b"3"], "{alone}");
    }
}

#[test]
fn first_message_comes_at_the_highest_qos_although_another_copy_comes_first() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    bench.register(A, "room/1");
    let (_, room) = bench.subscribe(A, "room/+", QoS::ExactlyOnce);
    let (_, all) = bench.subscribe(A, "#", QoS::AtLeastOnce);
    for (filter, qos) in [(all, QoS::AtLeastOnce), (room, QoS::ExactlyOnce)] {
        bench.message(&[filter], "room/1", qos, false, b"1");
    }
    let message = bench.heard_publish(A);
    assert_eq!(message.qos, PublishQoS::Level(QoS::ExactlyOnce));
    bench.packet(A, Packet::Pubrec(message.msg_id));
    bench.packet(A, Packet::Pubcomp(message.msg_id));
    assert!(matches!(bench.heard(A)[..], [Packet::Pubrel(_)]));
}

#[test]
fn overlapping_filters_are_asked_for_at_the_higher_qos_and_granted_as_asked() {
    let orders = [
        [("room/+", QoS::AtLeastOnce), ("#", QoS::ExactlyOnce)],
        [("#", QoS::ExactlyOnce), ("room/+", QoS::AtLeastOnce)],
    ];
    for [first, second] in orders {
        let mut bench = Bench::up(GatewayConfig::default());
        bench.connect(A, "a");
        hold(&mut bench, "hall", QoS::AtMostOnce);
        assert_eq!(
            hold(&mut bench, first.0, first.1),
            match first.0 {
                // It overlaps with the one for the hall as well.
                "#" => vec![asked_at("hall", first.1), asked_at(first.0, first.1)],
                _ => vec![asked_at(first.0, first.1)],
            }
        );
        assert_eq!(granted(&mut bench), first.1);
        let mut expected = vec![asked_at(second.0, QoS::ExactlyOnce)];
        if second.0 == "#" {
            // Before the new one: when that is answered the broker has both.
            expected.insert(0, asked_at("room/+", QoS::ExactlyOnce));
            expected.insert(0, asked_at("hall", QoS::ExactlyOnce));
        }
        assert_eq!(hold(&mut bench, second.0, second.1), expected);
        assert_eq!(granted(&mut bench), second.1);
        // It is so already.
        let again = hold(&mut bench, second.0, second.1);
        assert_eq!(again, [asked_at(second.0, QoS::ExactlyOnce)]);
    }
}

#[test]
fn first_message_comes_at_the_higher_qos_whichever_filter_is_older_and_whichever_copy_comes_first() {
    let filters = [("room/+", QoS::AtLeastOnce), ("#", QoS::ExactlyOnce)];
    for (older, first) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut bench = Bench::up(GatewayConfig::default());
        bench.connect(A, "a");
        bench.register(A, "room/1");
        let mut ids = [FilterId(0); 2];
        for at in [older, 1 - older] {
            hold(&mut bench, filters[at].0, filters[at].1);
            ids[at] = bench.subscribe_request().1;
        }
        bench.take(A);
        for payload in [b"1", b"2"] {
            for copy in [first, 1 - first] {
                bench.message(&[ids[copy]], "room/1", QoS::ExactlyOnce, false, payload);
            }
            let publish = bench.heard_publish(A);
            assert_eq!(
                (publish.qos, publish.data),
                (PublishQoS::Level(QoS::ExactlyOnce), &payload[..])
            );
            let msg_id = publish.msg_id;
            bench.packet(A, Packet::Pubrec(msg_id));
            bench.packet(A, Packet::Pubcomp(msg_id));
            assert_eq!(bench.heard(A), [Packet::Pubrel(msg_id)]);
        }
    }
}

#[test]
fn others_with_a_filter_get_what_they_asked_for_and_so_does_who_gives_the_better_one_back() {
    let mut bench = Bench::up(GatewayConfig::default());
    for (client, id) in [(A, "a"), (B, "b")] {
        bench.connect(client, id);
        bench.register(client, "room/1");
    }
    bench.subscribe(B, "room/+", QoS::AtMostOnce);
    hold(&mut bench, "room/+", QoS::AtLeastOnce);
    let (_, room) = bench.subscribe_request();
    hold(&mut bench, "#", QoS::ExactlyOnce);
    let (_, all) = bench.subscribe_request();
    bench.take(A);
    bench.message(&[room, all], "room/1", QoS::ExactlyOnce, false, b"1");
    assert_eq!(bench.heard_publish(B).qos, PublishQoS::Level(QoS::AtMostOnce));
    let publish = bench.heard_publish(A);
    assert_eq!(publish.qos, PublishQoS::Level(QoS::ExactlyOnce));
    let msg_id = publish.msg_id;
    bench.packet(A, Packet::Pubrec(msg_id));
    bench.packet(A, Packet::Pubcomp(msg_id));
    bench.packet(A, unsubscribe("#"));
    bench.take(A);
    bench.message(&[room], "room/1", QoS::ExactlyOnce, false, b"2");
    assert_eq!(bench.heard_publish(B).qos, PublishQoS::Level(QoS::AtMostOnce));
    assert_eq!(bench.heard_publish(A).qos, PublishQoS::Level(QoS::AtLeastOnce));
}

#[test]
fn overlapping_filters_are_asked_for_at_the_higher_qos_after_a_restart() {
    let mut bench = Bench::up(config());
    bench.connect_with(A, connect("a", false, 600));
    bench.subscribe(A, "room/+", QoS::AtLeastOnce);
    bench.subscribe(A, "#", QoS::ExactlyOnce);
    bench.subscribe(A, "$SYS/+", QoS::AtMostOnce);
    bench.commit();
    let mut bench = bench.restart(config());
    bench.requests.clear();
    bench.broker_up(true);
    let mut asked = asked_for(&bench);
    asked.sort();
    let expected = [
        asked_at("#", QoS::ExactlyOnce),
        asked_at("$SYS/+", QoS::AtMostOnce),
        asked_at("room/+", QoS::ExactlyOnce),
    ];
    assert_eq!(asked, expected);
}

#[test]
fn message_that_waited_at_the_broker_for_a_stored_filter_reaches_its_client_beside_a_new_one() {
    let (mut bench, [room]) = restarted(["room/+"]);
    bench.packet(A, subscribe(MsgId(11), "#", QoS::AtLeastOnce));
    bench.commit();
    let (_, all) = bench.subscribe_request();
    grant(&mut bench, room);
    grant(&mut bench, all);
    bench.take(A);
    // No copy for `#` comes: it was not subscribed then.
    copy(&mut bench, room, b"old");
    copy(&mut bench, room, b"new");
    copy(&mut bench, all, b"new");
    assert_eq!(taken(&mut bench), [b"old", b"new"]);
}

#[test]
fn copy_for_a_filter_that_was_given_back_meanwhile_is_not_a_second_message() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(A, "a");
    bench.register(A, "room/1");
    let (_, all) = bench.subscribe(A, "#", QoS::AtLeastOnce);
    let (_, room) = bench.subscribe(A, "room/+", QoS::AtLeastOnce);
    bench.packet(A, unsubscribe("room/+"));
    let Some(BrokerRequest::Unsubscribe { token, .. }) = bench.requests.last() else {
        panic!("{:?}", bench.requests)
    };
    let (token, result) = (*token, Ok(None));
    bench.broker(BrokerEvent::Settled { token, result });
    bench.take(A);
    copy(&mut bench, all, b"1");
    copy(&mut bench, room, b"1");
    assert_eq!(taken(&mut bench), [b"1"]);
}

#[test]
fn message_under_a_number_of_an_unknown_life_is_delivered_until_the_broker_has_the_new_one() {
    let unknown = FilterId(77);
    let (mut bench, [room]) = restarted(["room/+"]);
    copy(&mut bench, unknown, b"1");
    grant(&mut bench, room);
    copy(&mut bench, unknown, b"2");
    assert_eq!(taken(&mut bench), [b"1"]);
}

#[test]
fn subscription_under_way_that_nobody_holds_any_more_is_given_back_after_a_restart() {
    let mut bench = Bench::up(config());
    bench.connect(A, "a");
    bench.packet(A, subscribe(MsgId(9), "room/+", QoS::AtLeastOnce));
    bench.commit();
    bench.subscribe_request();
    bench.packet(A, unsubscribe("room/+"));
    bench.commit();
    let mut bench = bench.restart(config());
    bench.requests.clear();
    bench.broker_up(true);
    let given_back = bench
        .requests
        .iter()
        .any(|request| matches!(request, BrokerRequest::Unsubscribe { filter, .. } if &**filter == "room/+"));
    assert!(given_back, "{:?}", bench.requests);
}

#[test]
fn subscription_that_is_wanted_again_before_the_broker_was_told_otherwise_stays() {
    let mut bench = Bench::up(config());
    for (client, id) in [(A, "a"), (B, "b")] {
        bench.connect(client, id);
    }
    bench.subscribe(A, "room/+", QoS::AtLeastOnce);
    bench.requests.clear();
    // Until this is durable nothing behind it goes to the broker.
    bench.packet(B, subscribe(MsgId(9), "hall/+", QoS::AtLeastOnce));
    bench.packet(A, unsubscribe("room/+"));
    bench.packet(A, subscribe(MsgId(10), "room/+", QoS::AtLeastOnce));
    bench.commit();
    let asked_for = bench.requests.iter().map(|request| match request {
        BrokerRequest::Subscribe { filter, .. } => filter.to_string(),
        other => panic!("{other:?}"),
    });
    assert_eq!(asked_for.collect::<Vec<_>>(), ["hall/+", "room/+"]);
}
