//! What the gateway keeps in its store until everybody has it.

use gateway_core::io::{BrokerEvent, BrokerRequest, Token};

use super::gateway::{Attached, CONN, publish, settled};
use super::*;

fn delivered(token: u64) -> BrokerEvent {
    BrokerEvent::Delivered { token: Token(token) }
}

/// Takes what a client got and answers it, until nothing comes any more.
fn answer_all(gateway: &mut Attached, client: ClientKey) -> Vec<String> {
    let mut payloads = Vec::new();
    loop {
        let replies = gateway.broker.take(client);
        if replies.is_empty() {
            return payloads;
        }
        for reply in replies {
            match reply {
                Reply::Publish(delivery) => {
                    payloads.push(payload(&delivery));
                    match delivery.qos {
                        AtMostOnce => {}
                        AtLeastOnce => gateway.say(client, puback(delivery.packet_id)),
                        ExactlyOnce => gateway.say(client, pubrec(delivery.packet_id)),
                    }
                }
                Reply::PubRel { packet_id, .. } => gateway.say(client, Received::PubComp { packet_id }),
                _ => {}
            }
        }
    }
}

/// A session that outlives its connection, subscribed to `t`.
fn kept(gateway: &mut Attached, id: &str) -> ClientKey {
    let client = gateway.broker.connect(resume(id, 100));
    gateway.broker.take(client);
    gateway.broker.subscribe(client, &[("t", AtLeastOnce)]);
    client
}

fn publish_all(gateway: &mut Attached, count: u64) {
    gateway.request((0..count).map(|token| publish(token, "t", AtLeastOnce)).collect());
}

#[test]
fn publish_for_nobody_is_delivered_when_it_is_settled() {
    let mut gateway = Attached::storing();
    gateway.request(vec![publish(1, "t", AtLeastOnce), publish(2, "t", AtMostOnce)]);
    assert_eq!(gateway.news(), [settled(1, Ok(None)), delivered(1)]);
    gateway.request(vec![publish(3, "t", ExactlyOnce)]);
    assert_eq!(gateway.news(), [settled(3, Ok(None)), delivered(3)]);
}

#[test]
fn delivered_comes_when_the_last_subscriber_has_it() {
    let mut gateway = Attached::storing();
    let zero = gateway.broker.subscriber("zero", &[("t", AtMostOnce)]);
    let one = gateway.broker.subscriber("one", &[("t", AtLeastOnce)]);
    let two = gateway.broker.subscriber("two", &[("t", ExactlyOnce)]);
    gateway.request(vec![publish(1, "t", ExactlyOnce)]);
    assert_eq!(gateway.news(), [settled(1, Ok(None))]);
    let packet_id = |deliveries: Vec<Delivery>| deliveries[0].packet_id;

    let first = packet_id(gateway.broker.deliveries(one));
    gateway.say(one, puback(first));
    let second = packet_id(gateway.broker.deliveries(two));
    gateway.say(two, pubrec(second));
    let written = gateway.broker.take(zero);
    assert_eq!(gateway.news(), [], "QoS 2 is not over before PUBCOMP");
    gateway.say(two, Received::PubComp { packet_id: second });
    assert_eq!(gateway.news(), [], "QoS 0 is being written");
    drop(written);
    assert_eq!(gateway.news(), [delivered(1)]);
}

#[test]
fn what_is_retained_keeps_nothing_in_the_store() {
    let mut gateway = Attached::storing();
    let mut request = publish(1, "t", AtLeastOnce);
    if let BrokerRequest::Publish { retain, .. } = &mut request {
        *retain = true;
    }
    gateway.request(vec![request]);
    assert_eq!(gateway.news(), [settled(1, Ok(None)), delivered(1)]);
    let late = gateway.broker.subscriber("late", &[("t", AtLeastOnce)]);
    assert_eq!(gateway.broker.payloads(late), ["1"]);
}

#[test]
fn end_of_a_session_leaves_nobody_to_wait_for() {
    let mut gateway = Attached::storing();
    let clean = gateway.broker.subscriber("clean", &[("t", AtLeastOnce)]);
    let expires = kept(&mut gateway, "expires");
    gateway.request(vec![publish(1, "t", AtLeastOnce)]);
    gateway.broker.take(clean);
    gateway.broker.take(expires);
    gateway.broker.close(clean);
    gateway.broker.close(expires);
    assert_eq!(gateway.news(), [settled(1, Ok(None))]);
    gateway.wait_secs(99);
    assert_eq!(gateway.news(), []);
    gateway.wait_secs(1);
    assert_eq!(gateway.news(), [delivered(1)]);
}

#[test]
fn refused_and_lost_publishes_are_never_delivered() {
    let mut gateway = Attached::storing();
    let slow = gateway.broker.connect_without_credit(connect("slow"));
    gateway.broker.subscribe(slow, &[("t", AtLeastOnce)]);
    gateway.request(vec![
        publish(100, "$SYS/x", AtLeastOnce),
        publish(101, "a/+", ExactlyOnce),
    ]);
    assert_eq!(gateway.news(), [settled(101, Err(0x90)), settled(100, Err(0x87))]);
    let count = LIMITS.queue_messages as u64 + 1;
    publish_all(&mut gateway, count);
    gateway.request(vec![BrokerRequest::Close { conn: CONN }]);
    let lost = BrokerEvent::Lost {
        token: Token(count - 1),
    };
    assert_eq!(gateway.news().pop(), Some(lost));
    gateway.broker.credit(slow, 100);
    assert_eq!(answer_all(&mut gateway, slow).len() as u64, count);
    let all: Vec<_> = (0..count - 1).map(delivered).collect();
    assert_eq!(gateway.news(), all);
}

#[test]
fn messages_beyond_the_bound_of_a_client_that_is_away_are_held_over() {
    let mut gateway = Attached::storing();
    let client = kept(&mut gateway, "away");
    gateway.broker.disconnect(client);
    let count = 5 * LIMITS.queue_messages as u64;
    publish_all(&mut gateway, count);
    let all: Vec<_> = (0..count).map(|token| settled(token, Ok(None))).collect();
    assert_eq!(gateway.news(), all, "nobody waits for one that is away");
    // Others' messages are bounded as ever.
    let publisher = gateway.broker.client("p");
    gateway.publish(publisher, 1, message("t", AtLeastOnce, "other"));
    let stats = gateway.broker.router.stats();
    assert_eq!(
        (stats.dropped_offline, stats.held_over),
        (1, count - LIMITS.queue_messages as u64)
    );

    let client = gateway.broker.connect(resume("away", 100));
    let expected: Vec<_> = (0..count).map(|token| token.to_string()).collect();
    assert_eq!(answer_all(&mut gateway, client), expected);
    let all: Vec<_> = (0..count).map(delivered).collect();
    assert_eq!(gateway.news(), all);
    assert_eq!(gateway.broker.router.held("away"), 0);
}

#[test]
fn client_with_messages_held_over_has_time_to_take_them() {
    let mut gateway = Attached::storing();
    let client = kept(&mut gateway, "away");
    gateway.broker.disconnect(client);
    let bound = LIMITS.queue_messages as u64;
    publish_all(&mut gateway, 5 * bound);
    gateway.news();
    let client = gateway.broker.connect_without_credit(resume("away", 100));
    gateway.broker.take(client);
    gateway.request(vec![publish(1000, "t", AtLeastOnce)]);
    assert_eq!(gateway.news(), [settled(1000, Ok(None))], "behind the others");
    gateway.wait_secs(60);
    gateway.broker.credit(client, 1000);
    assert_eq!(answer_all(&mut gateway, client).len() as u64, 5 * bound + 1);
}

#[test]
fn slow_client_slows_the_gateway_and_refuses_it_nothing() {
    let mut gateway = Attached::storing();
    let slow = gateway.broker.connect_without_credit(resume("slow", 100));
    gateway.broker.subscribe(slow, &[("t", AtLeastOnce)]);
    let bound = LIMITS.queue_messages as u64;
    publish_all(&mut gateway, 3 * bound);
    // Those in the queue, and those beyond twice its bound, which are held over.
    let settled_now = (0..bound).chain(2 * bound..3 * bound);
    let expected: Vec<_> = settled_now.map(|token| settled(token, Ok(None))).collect();
    assert_eq!(gateway.news(), expected);
    gateway.wait_secs(10);
    let rest: Vec<_> = (bound..2 * bound).map(|token| settled(token, Ok(None))).collect();
    assert_eq!(gateway.news(), rest, "too slow");
    let slow = gateway.broker.connect(resume("slow", 100));
    assert_eq!(answer_all(&mut gateway, slow).len() as u64, 3 * bound);
}

#[test]
fn publishes_that_another_broker_had_are_lost_before_the_connection_is_up() {
    use gateway_core::io::{ConnectOptions, RestoredPublish, StoreKey, StoredUplink};
    let mut gateway = Attached::storing();
    let restored = RestoredPublish {
        token: Token(5),
        packet_id: 3,
        released: false,
        topic: "t".into(),
        retain: false,
        payload: Bytes::new(),
        stored: StoredUplink {
            key: StoreKey { kind: 2, id: 1 },
            value: Bytes::new(),
        },
    };
    let options = ConnectOptions {
        client_id: "exact".into(),
        restored: vec![restored],
        ..ConnectOptions::default()
    };
    let conn = gateway_core::io::ConnId(1);
    gateway.request(vec![BrokerRequest::Open { conn, options }]);
    let news = gateway.news();
    assert!(
        matches!(
            &news[..],
            [BrokerEvent::Lost { token: Token(5) }, BrokerEvent::Up { .. }]
        ),
        "{news:?}"
    );
}
