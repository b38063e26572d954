//! The port beside a real mosquitto, and beside a broker that misbehaves on command.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "not all of it is used here")]
mod common;

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker::Protocol::{self, V3, V5};
use broker::{Journal, Reconnect, RemoteConfig};
use bytes::Bytes;
use common::{
    CONN, Core, FakeBroker, Mosquitto, Proxy, Subscriber, config, free_port, leave_session, options, publish,
    publish_lines,
};
use gateway_core::io::{
    BrokerEvent, BrokerRequest, ConnId, ConnectOptions, DeliveryId, FilterId, Refusal, RestoredPublish,
    StoreChange, StoreKey, StoredUplink, Token, Will,
};
use sn_codec::QoS::{self, AtLeastOnce, AtMostOnce, ExactlyOnce};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::time::timeout;

fn publication(token: u64, topic: &str, qos: QoS, payload: &str) -> BrokerRequest {
    BrokerRequest::Publish {
        conn: CONN,
        token: (qos != AtMostOnce).then_some(Token(token)),
        topic: topic.into(),
        qos,
        retain: false,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        stored: None,
    }
}

fn subscription(token: u64, filter: &str, id: u32, qos: QoS) -> BrokerRequest {
    BrokerRequest::Subscribe {
        conn: CONN,
        token: Token(token),
        filter: filter.into(),
        id: FilterId(id),
        qos,
    }
}

fn done(token: u64) -> BrokerEvent {
    BrokerEvent::Settled {
        token: Token(token),
        result: Ok(None),
    }
}

fn granted(token: u64, qos: QoS) -> BrokerEvent {
    BrokerEvent::Settled {
        token: Token(token),
        result: Ok(Some(qos)),
    }
}

fn refused(token: u64, code: u8) -> BrokerEvent {
    BrokerEvent::Settled {
        token: Token(token),
        result: Err(Refusal(code)),
    }
}

struct Received {
    delivery: Option<DeliveryId>,
    filters: Vec<FilterId>,
    topic: String,
    qos: QoS,
    retain: bool,
    payload: Bytes,
}

/// The next message; the end of an earlier QoS 2 delivery may come before it.
async fn received(core: &mut Core) -> Received {
    let event = loop {
        match core.event().await {
            BrokerEvent::Released { conn: CONN, .. } => {}
            event => break event,
        }
    };
    match event {
        BrokerEvent::Message {
            conn: CONN,
            delivery,
            filters,
            topic,
            qos,
            retain,
            payload,
        } => Received {
            delivery,
            filters: filters.into(),
            topic: topic.to_string(),
            qos,
            retain,
            payload,
        },
        event => panic!("{event:?}"),
    }
}

fn ack(core: &mut Core, delivery: DeliveryId) {
    core.send(BrokerRequest::Ack { conn: CONN, delivery });
}

/// Runs a test for both versions.
macro_rules! both_versions {
    ($($(#[$attribute:meta])* async fn $name:ident($protocol:ident) $body:block)*) => {$(
        mod $name {
            use super::*;

            async fn test($protocol: Protocol) $body

            $(#[$attribute])*
            #[tokio::test]
            async fn v3() {
                test(V3).await;
            }

            $(#[$attribute])*
            #[tokio::test]
            async fn v5() {
                test(V5).await;
            }
        }
    )*};
}

both_versions! {
    async fn publishes_of_every_qos_arrive_and_settle(protocol) {
        let broker = Mosquitto::start().await;
        let mut subscriber = Subscriber::start(broker.port, "a/#").await;
        let mut core = Core::up(config(broker.port, protocol)).await;

        core.send(publication(0, "a/0", AtMostOnce, "zero"));
        core.send(publication(1, "a/1", AtLeastOnce, "one"));
        core.send(publication(2, "a/2", ExactlyOnce, "two"));

        assert_eq!(core.event().await, done(1));
        assert_eq!(core.event().await, done(2));
        assert_eq!(subscriber.next().await, "0 0 a/0 zero");
        assert_eq!(subscriber.next().await, "1 0 a/1 one");
        assert_eq!(subscriber.next().await, "2 0 a/2 two");
    }

    async fn retain_travels_up_and_comes_down_to_a_late_subscriber(protocol) {
        let broker = Mosquitto::start().await;
        let mut core = Core::up(config(broker.port, protocol)).await;

        core.send(BrokerRequest::Publish {
            conn: CONN,
            token: Some(Token(1)),
            topic: "state".into(),
            qos: AtLeastOnce,
            retain: true,
            payload: Bytes::from_static(b"on"), stored: None,
        });
        assert_eq!(core.event().await, done(1));
        core.send(subscription(2, "state", 1, AtMostOnce));
        assert_eq!(core.event().await, granted(2, AtMostOnce));
        assert!(received(&mut core).await.retain);

        // The same filter again: the retained message again. A live one comes without the bit.
        core.send(subscription(3, "state", 1, AtMostOnce));
        assert_eq!(core.event().await, granted(3, AtMostOnce));
        assert!(received(&mut core).await.retain);
        publish(broker.port, &["-t", "state", "-m", "off", "-r"]).await;
        let live = received(&mut core).await;
        assert!(!live.retain);
        assert_eq!(live.payload, "off");
    }

    async fn messages_carry_a_delivery_until_acknowledged(protocol) {
        // With one message in flight, the second comes only after the first is acknowledged.
        let broker = Mosquitto::with(free_port(), "allow_anonymous true\nmax_inflight_messages 1\n").await;
        let mut core = Core::up(config(broker.port, protocol)).await;
        core.send(subscription(1, "x/#", 5, ExactlyOnce));
        assert_eq!(core.event().await, granted(1, ExactlyOnce));

        for (qos, text) in [("0", "zero"), ("1", "one"), ("2", "two"), ("1", "three")] {
            publish(broker.port, &["-t", "x/y", "-q", qos, "-m", text]).await;
        }

        let zero = received(&mut core).await;
        assert_eq!((zero.qos, zero.delivery, &*zero.payload), (AtMostOnce, None, &b"zero"[..]));
        for (qos, text) in [(AtLeastOnce, "one"), (ExactlyOnce, "two"), (AtLeastOnce, "three")] {
            let message = received(&mut core).await;
            assert_eq!((message.qos, &*message.payload), (qos, text.as_bytes()));
            assert_eq!(message.topic, "x/y");
            assert_eq!(message.filters, if protocol == V5 { vec![FilterId(5)] } else { vec![] });
            // Twice does no harm.
            ack(&mut core, message.delivery.unwrap());
            ack(&mut core, message.delivery.unwrap());
        }
    }

    async fn window_is_the_smaller_of_ours_and_the_brokers(protocol) {
        let broker = Mosquitto::with(free_port(), "allow_anonymous true\nmax_inflight_messages 5\n").await;
        for (ours, window) in [(3, 3), (9, if protocol == V5 { 5 } else { 9 })] {
            let mut core = Core::open(RemoteConfig { in_flight: ours, ..config(broker.port, protocol) });
            assert_eq!(core.expect_up(false).await, window);
            core.requests.close().await;
        }
    }

    async fn unsubscribed_filter_brings_nothing_more(protocol) {
        let broker = Mosquitto::start().await;
        let mut core = Core::up(config(broker.port, protocol)).await;
        core.send(subscription(1, "gone", 1, AtMostOnce));
        core.send(subscription(2, "stays", 2, AtMostOnce));
        assert_eq!(core.event().await, granted(1, AtMostOnce));
        assert_eq!(core.event().await, granted(2, AtMostOnce));

        core.send(BrokerRequest::Unsubscribe { conn: CONN, token: Token(3), filter: "gone".into() });
        assert_eq!(core.event().await, done(3));

        publish(broker.port, &["-t", "gone", "-m", "1"]).await;
        publish(broker.port, &["-t", "stays", "-m", "2"]).await;
        assert_eq!(received(&mut core).await.topic, "stays");
    }

    async fn what_mqtt_cannot_carry_is_refused_and_the_link_stays(protocol) {
        let broker = Mosquitto::start().await;
        let mut core = Core::up(config(broker.port, protocol)).await;

        let long = "x".repeat(65_536);
        for (token, topic) in [(1, ""), (2, "a/+"), (3, "a\0b"), (4, long.as_str())] {
            core.send(publication(token, topic, AtLeastOnce, "m"));
            assert_eq!(core.event().await, refused(token, 0x90), "{topic:.10?}");
        }
        for (token, filter) in [(5, ""), (6, "a/#/b"), (7, "a\0b"), (8, long.as_str())] {
            core.send(subscription(token, filter, 1, AtMostOnce));
            assert_eq!(core.event().await, refused(token, 0x8F), "{filter:.10?}");
        }
        core.send(publication(9, "fine", AtLeastOnce, "m"));
        assert_eq!(core.event().await, done(9));
    }

    async fn credit_comes_back_in_full(protocol) {
        let broker = Mosquitto::start().await;
        let mut core = Core::up(config(broker.port, protocol)).await;
        let requests = (0..u64::from(broker::CREDIT)).map(|n| publication(0, "t", AtMostOnce, &n.to_string()));

        core.requests.send(requests.collect());

        let mut credit = 0;
        while credit < broker::CREDIT {
            match core.next().await {
                BrokerEvent::Credit { conn: CONN, requests } => credit += requests,
                event => panic!("{event:?}"),
            }
        }
        assert_eq!(credit, broker::CREDIT);
    }

    async fn absent_broker_is_reported_once_and_found_later(protocol) {
        let port = free_port();
        let mut core = Core::open(config(port, protocol));

        let reason = core.expect_down().await;
        assert!(reason.contains("refused"), "{reason}");

        let _broker = Mosquitto::with(port, "allow_anonymous true\n").await;
        core.expect_up(false).await;
    }

    async fn restarted_broker_has_no_session_and_unsettled_is_lost(protocol) {
        let mut broker = Mosquitto::start().await;
        let proxy = Proxy::start(broker.port, Duration::ZERO).await;
        let mut core = Core::up(config(proxy.port, protocol)).await;
        core.send(publication(1, "t", AtLeastOnce, "settled"));
        assert_eq!(core.event().await, done(1));

        proxy.hold(true);
        core.requests.send(vec![
            publication(2, "t", AtLeastOnce, "two"),
            publication(3, "t", ExactlyOnce, "three"),
            subscription(4, "t", 1, AtMostOnce),
        ]);
        broker.restart().await;
        proxy.cut().await;
        proxy.hold(false);

        core.expect_down().await;
        let mut lost = HashSet::new();
        for _ in 0..3 {
            match core.event().await {
                BrokerEvent::Lost { token } => lost.insert(token),
                event => panic!("{event:?}"),
            };
        }
        assert_eq!(lost, HashSet::from([Token(2), Token(3), Token(4)]));
        core.expect_up(false).await;
        core.send(publication(2, "t", AtLeastOnce, "two"));
        assert_eq!(core.event().await, done(2));
    }

    async fn broken_connection_resumes_and_settles_what_was_open(protocol) {
        let broker = Mosquitto::start().await;
        let mut subscriber = Subscriber::start(broker.port, "#").await;
        let proxy = Proxy::start(broker.port, Duration::ZERO).await;
        let mut core = Core::up(config(proxy.port, protocol)).await;
        core.send(subscription(1, "down", 9, AtLeastOnce));
        assert_eq!(core.event().await, granted(1, AtLeastOnce));

        proxy.hold(true);
        core.requests.send(vec![
            publication(2, "up", ExactlyOnce, "exact"),
            publication(3, "up", AtLeastOnce, "least"),
        ]);
        // The broker has both; that it has answered them stays unknown here.
        assert_eq!(subscriber.next().await, "1 0 up least");
        proxy.cut().await;
        proxy.hold(false);

        core.expect_down().await;
        core.expect_up(true).await;
        let settled = HashSet::from([format!("{:?}", core.event().await), format!("{:?}", core.event().await)]);
        assert_eq!(settled, HashSet::from([format!("{:?}", done(2)), format!("{:?}", done(3))]));

        core.send(publication(4, "up", ExactlyOnce, "last"));
        assert_eq!(core.event().await, done(4));
        let payloads = subscriber.payloads_until("last").await;
        assert_eq!(payloads.iter().filter(|payload| *payload == "exact").count(), 1);

        // The subscription stands.
        publish(broker.port, &["-t", "down", "-q", "1", "-m", "hello"]).await;
        assert_eq!(received(&mut core).await.payload, "hello");
    }

    async fn qos_2_delivery_reaches_the_core_once_over_a_break(protocol) {
        let broker = Mosquitto::start().await;
        let proxy = Proxy::start(broker.port, Duration::ZERO).await;
        let mut core = Core::up(config(proxy.port, protocol)).await;
        core.send(subscription(1, "d", 1, ExactlyOnce));
        assert_eq!(core.event().await, granted(1, ExactlyOnce));
        publish(broker.port, &["-t", "d", "-q", "2", "-m", "twice?"]).await;
        publish(broker.port, &["-t", "d", "-q", "1", "-m", "again"]).await;
        let exact = received(&mut core).await.delivery.unwrap();
        let least = received(&mut core).await.delivery.unwrap();

        proxy.cut().await;
        core.expect_down().await;
        core.expect_up(true).await;

        // QoS 1 comes again under another name; the old one is worth nothing any more.
        let again = received(&mut core).await;
        assert_eq!(again.payload, "again");
        assert_ne!(again.delivery, Some(least));
        ack(&mut core, least);
        ack(&mut core, again.delivery.unwrap());
        ack(&mut core, exact);
        assert_eq!(core.event().await, BrokerEvent::Released { conn: CONN, delivery: exact });
        publish(broker.port, &["-t", "d", "-q", "2", "-m", "next"]).await;
        assert_eq!(received(&mut core).await.payload, "next");
    }

    async fn requests_sent_into_a_break_are_kept_or_lost_with_the_session(protocol) {
        let mut broker = Mosquitto::start().await;
        let mut core = Core::up(config(broker.port, protocol)).await;
        broker.kill().await;
        core.expect_down().await;

        core.send(publication(1, "t", AtLeastOnce, "late"));
        broker.restart().await;

        assert_eq!(core.event().await, BrokerEvent::Lost { token: Token(1) });
        core.expect_up(false).await;
    }

    async fn bad_credentials_are_told_in_words_and_retried(protocol) {
        let broker = Mosquitto::with(free_port(), "allow_anonymous false\n").await;
        let mut core = Core::open(config(broker.port, protocol));

        let reason = core.expect_down().await;
        assert!(reason.starts_with("refused by the broker: not authorized"), "{reason}");
    }

    async fn close_disconnects_in_good_order_and_will_stays_unpublished(protocol) {
        let broker = Mosquitto::start().await;
        let mut subscriber = Subscriber::start(broker.port, "#").await;
        let mut core = Core::new(config(broker.port, protocol));
        let will = Will { topic: "will".into(), payload: "gone".into(), qos: AtLeastOnce, retain: false };
        core.send(BrokerRequest::Open {
            conn: CONN,
            options: ConnectOptions { will: Some(will), ..options("with-will") },
        });
        core.expect_up(false).await;

        // What was requested before Close goes first.
        core.requests.send(vec![
            publication(0, "t", AtMostOnce, "zero"),
            publication(1, "t", ExactlyOnce, "before"),
            BrokerRequest::Close { conn: CONN },
        ]);
        assert_eq!(core.event().await, done(1));
        timeout(Duration::from_secs(1), core.requests.close()).await.expect("close takes too long");

        publish(broker.port, &["-t", "t", "-q", "2", "-m", "last"]).await;
        assert_eq!(subscriber.payloads_until("last").await, ["zero", "before"]);
    }

    async fn qos_0_and_acknowledgements_requested_before_close_are_written(protocol) {
        let broker = Mosquitto::start().await;
        let mut subscriber = Subscriber::start(broker.port, "t").await;
        let mut core = Core::up(config(broker.port, protocol)).await;
        core.send(subscription(1, "down", 1, AtLeastOnce));
        assert_eq!(core.event().await, granted(1, AtLeastOnce));
        publish(broker.port, &["-t", "down", "-q", "1", "-m", "m"]).await;
        let delivery = received(&mut core).await.delivery.unwrap();

        core.requests.send(vec![
            BrokerRequest::Ack { conn: CONN, delivery },
            publication(0, "t", AtMostOnce, "zero"),
            BrokerRequest::Close { conn: CONN },
        ]);
        core.requests.close().await;

        assert_eq!(subscriber.next().await, "0 0 t zero");
        // The session is kept, and in it nothing is left to deliver.
        let mut core = Core::new(config(broker.port, protocol));
        let options = ConnectOptions { clean_start: false, ..options("port-under-test") };
        core.send(BrokerRequest::Open { conn: CONN, options });
        core.expect_up(true).await;
        core.send(publication(2, "t", AtLeastOnce, "m"));
        assert_eq!(core.event().await, done(2));
    }

    async fn connections_are_independent(protocol) {
        let broker = Mosquitto::start().await;
        let proxy = Proxy::start(broker.port, Duration::ZERO).await;
        let mut core = Core::up(config(proxy.port, protocol)).await;
        let other = ConnId(8);
        core.send(BrokerRequest::Open { conn: other, options: options("other") });
        match core.event().await {
            BrokerEvent::Up { conn, .. } => assert_eq!(conn, other),
            event => panic!("{event:?}"),
        }

        core.send(BrokerRequest::Close { conn: CONN });
        // Nobody is there to take this.
        core.send(publication(1, "t", AtLeastOnce, "m"));
        core.send(BrokerRequest::Publish {
            conn: other,
            token: Some(Token(2)),
            topic: "t".into(),
            qos: AtLeastOnce,
            retain: false,
            payload: Bytes::new(), stored: None,
        });

        assert_eq!(core.event().await, done(2));
    }

    async fn flood_from_the_broker_arrives_whole_and_in_order(protocol) {
        let broker = Mosquitto::start().await;
        let mut core = Core::up(config(broker.port, protocol)).await;
        core.send(subscription(1, "flood", 1, AtLeastOnce));
        assert_eq!(core.event().await, granted(1, AtLeastOnce));

        let lines: String = (0..3_000).map(|n| format!("{n}\n")).collect();
        publish_lines(broker.port, &["-t", "flood", "-q", "1", "-l"], lines).await;

        for n in 0..3_000 {
            let message = received(&mut core).await;
            assert_eq!(message.payload, n.to_string());
            ack(&mut core, message.delivery.unwrap());
        }
    }

    async fn will_is_published_when_the_connection_dies(protocol) {
        let broker = Mosquitto::start().await;
        let mut subscriber = Subscriber::start(broker.port, "#").await;
        let proxy = Proxy::start(broker.port, Duration::ZERO).await;
        let mut core = Core::new(config(proxy.port, protocol));
        let will = Will { topic: "will".into(), payload: "gone".into(), qos: AtLeastOnce, retain: false };
        core.send(BrokerRequest::Open {
            conn: CONN,
            options: ConnectOptions { will: Some(will), ..options("with-will") },
        });
        core.expect_up(false).await;

        proxy.cut().await;

        assert_eq!(subscriber.next().await, "1 0 will gone");
    }

    async fn dropped_sender_ends_every_connection_and_settles_every_token(protocol) {
        let broker = Mosquitto::start().await;
        let proxy = Proxy::start(broker.port, Duration::ZERO).await;
        let mut core = Core::up(config(proxy.port, protocol)).await;
        proxy.hold(true);
        core.send(publication(1, "t", AtLeastOnce, "never answered"));
        core.send(subscription(2, "t", 1, AtMostOnce));

        let events = timeout(Duration::from_secs(2), core.remaining()).await.expect("port hangs");

        let lost: HashSet<_> = events
            .into_iter()
            .filter_map(|event| match event {
                BrokerEvent::Lost { token } => Some(token),
                _ => None,
            })
            .collect();
        assert_eq!(lost, HashSet::from([Token(1), Token(2)]));
    }

    async fn new_process_begins_with_a_clean_session(protocol) {
        let broker = Mosquitto::start().await;
        leave_session(broker.port, protocol, "port-under-test", "old").await;
        let mut core = Core::up(config(broker.port, protocol)).await;

        core.send(subscription(2, "new", 1, AtLeastOnce));
        assert_eq!(core.event().await, granted(2, AtLeastOnce));
        publish(broker.port, &["-t", "old", "-q", "1", "-m", "1"]).await;
        publish(broker.port, &["-t", "new", "-q", "1", "-m", "2"]).await;

        assert_eq!(received(&mut core).await.topic, "new");
    }

    async fn without_clean_start_the_session_of_an_earlier_process_goes_on(protocol) {
        let broker = Mosquitto::start().await;
        leave_session(broker.port, protocol, "port-under-test", "kept").await;
        publish(broker.port, &["-t", "kept", "-q", "1", "-m", "meanwhile"]).await;

        let mut core = Core::new(config(broker.port, protocol));
        core.send(BrokerRequest::Open {
            conn: CONN,
            options: ConnectOptions { clean_start: false, ..options("port-under-test") },
        });
        core.expect_up(true).await;

        let message = received(&mut core).await;
        assert_eq!(message.payload, "meanwhile");
        ack(&mut core, message.delivery.unwrap());
        core.send(publication(2, "t", ExactlyOnce, "works"));
        assert_eq!(core.event().await, done(2));
    }
}

/// An MQTT 5 CONNACK without properties.
const ACCEPTED: &[u8] = &[0, 0, 0];

#[tokio::test]
async fn puback_and_pubrec_reasons_are_refusals_and_return_their_place() {
    let broker = FakeBroker::start().await;
    let mut core = Core::open(RemoteConfig {
        in_flight: 1,
        ..config(broker.port, V5)
    });
    let (mut connection, _) = broker.accept(ACCEPTED).await;
    core.expect_up(false).await;

    let cases = [
        (AtLeastOnce, 0x40, 0x00, Ok(None)),
        (AtLeastOnce, 0x40, 0x10, Ok(None)),
        (AtLeastOnce, 0x40, 0x87, Err(Refusal(0x87))),
        (AtLeastOnce, 0x40, 0x97, Err(Refusal::QUOTA_EXCEEDED)),
        (ExactlyOnce, 0x50, 0x87, Err(Refusal(0x87))),
        (ExactlyOnce, 0x50, 0x97, Err(Refusal::QUOTA_EXCEEDED)),
    ];
    for (token, (qos, answer, reason, result)) in (1..).zip(cases) {
        core.send(publication(token, "t", qos, "m"));
        let (first, body) = connection.read().await.unwrap();
        assert_eq!(first >> 4, 3);
        // Topic "t" is three octets, then the packet id.
        connection.write(answer, &[body[3], body[4], reason]).await;
        assert_eq!(
            core.event().await,
            BrokerEvent::Settled {
                token: Token(token),
                result
            }
        );
    }
}

#[tokio::test]
async fn suback_and_unsuback_reasons_are_refusals() {
    let broker = FakeBroker::start().await;
    let mut core = Core::open(config(broker.port, V5));
    let (mut connection, _) = broker.accept(ACCEPTED).await;
    core.expect_up(false).await;

    for (token, reason) in (1..).zip([0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2]) {
        core.send(subscription(token, "f", 1, AtLeastOnce));
        let (_, body) = connection.read().await.unwrap();
        connection.write(0x90, &[body[0], body[1], 0, reason]).await;
        assert_eq!(core.event().await, refused(token, reason));
    }
    for (token, reason, expected) in [(20, 0x11, done(20)), (21, 0x87, refused(21, 0x87))] {
        core.send(BrokerRequest::Unsubscribe {
            conn: CONN,
            token: Token(token),
            filter: "f".into(),
        });
        let (_, body) = connection.read().await.unwrap();
        connection.write(0xB0, &[body[0], body[1], 0, reason]).await;
        assert_eq!(core.event().await, expected);
    }
}

#[tokio::test]
async fn subscription_identifier_is_left_out_where_the_broker_has_none() {
    let broker = FakeBroker::start().await;
    let mut core = Core::open(config(broker.port, V5));
    // Property 0x29, subscription identifier available: no.
    let (mut connection, _) = broker.accept(&[0, 0, 2, 0x29, 0]).await;
    core.expect_up(false).await;

    core.send(subscription(1, "f", 77, AtLeastOnce));

    let (_, body) = connection.read().await.unwrap();
    // Packet id, no properties, filter, and plain options: no local, retain as published and retain handling are 0.
    assert_eq!(body[2..], [0, 0, 1, b'f', 0x01]);
}

/// mosquitto 2.0 writes to its disk only sessions whose last CONNECT was not for a new one.
#[tokio::test]
async fn session_of_before_is_discarded_once_and_the_one_to_keep_begins_on_the_next_connection() {
    let broker = FakeBroker::start().await;
    let mut core = Core::open(config(broker.port, V5));
    let (mut connection, connect) = broker.accept_one(ACCEPTED).await;
    // Connect flags: clean start.
    assert_eq!(connect[7], 0x02);
    assert_eq!(connection.read().await.unwrap().0, 0xE0);

    let (connection, connect) = broker.accept_one(ACCEPTED).await;
    core.expect_up(false).await;
    assert_eq!(connect[7], 0x00);
    let properties = &connect[11..][..usize::from(connect[10])];
    // Session expiry interval (0x11): a day. Maximum packet size (0x27): 256 KiB.
    assert!(
        properties.windows(5).any(|p| p == [0x11, 0x00, 0x01, 0x51, 0x80]),
        "{properties:02x?}"
    );
    assert!(
        properties.windows(5).any(|p| p == [0x27, 0x00, 0x04, 0x00, 0x00]),
        "{properties:02x?}"
    );

    drop(connection);
    core.expect_down().await;
    let (_connection, connect) = broker.accept_one(&[1, 0, 0]).await;
    core.expect_up(true).await;
    assert_eq!(connect[7], 0x00);
}

#[tokio::test]
async fn limits_of_the_broker_are_kept_by_refusing() {
    let broker = FakeBroker::start().await;
    let mut core = Core::open(config(broker.port, V5));
    // Maximum packet size (0x27) 64, maximum QoS (0x24) 1, retain available (0x25) no.
    let (mut connection, _) = broker
        .accept(&[0, 0, 9, 0x27, 0, 0, 0, 64, 0x24, 1, 0x25, 0])
        .await;
    core.expect_up(false).await;

    core.send(publication(1, "t", AtLeastOnce, &"x".repeat(100)));
    assert_eq!(core.event().await, refused(1, 0x95));
    core.send(publication(2, "t", ExactlyOnce, "m"));
    assert_eq!(core.event().await, refused(2, 0x9B));
    core.send(BrokerRequest::Publish {
        conn: CONN,
        token: Some(Token(3)),
        topic: "t".into(),
        qos: AtLeastOnce,
        retain: true,
        payload: Bytes::from_static(b"m"),
        stored: None,
    });
    assert_eq!(core.event().await, refused(3, 0x9A));

    core.send(publication(4, "t", AtLeastOnce, "fits"));
    let (_, body) = connection.read().await.unwrap();
    assert_eq!(&body[6..], b"fits");
}

#[tokio::test]
async fn sixty_refused_qos_2_publishes_leave_the_window_as_it_was() {
    let broker = FakeBroker::start().await;
    let mut core = Core::open(config(broker.port, V5));
    // Receive maximum (0x21) 20.
    let (mut connection, _) = broker.accept(&[0, 0, 3, 0x21, 0, 20]).await;
    assert_eq!(core.expect_up(false).await, 20);
    for round in 0..3 {
        let tokens = round * 20 + 1..=round * 20 + 20;
        core.requests.send(
            tokens
                .clone()
                .map(|token| publication(token, "t", ExactlyOnce, "m"))
                .collect(),
        );
        for token in tokens {
            let (_, body) = connection.read().await.unwrap();
            connection.write(0x50, &[body[3], body[4], 0x87]).await;
            assert_eq!(core.event().await, refused(token, 0x87));
        }
    }
    // As many as the window holds go out without any answer.
    let last = (100..120).map(|token| publication(token, "t", ExactlyOnce, "m"));
    core.requests.send(last.collect());
    for _ in 0..20 {
        let (first, _) = connection.read().await.unwrap();
        assert_eq!(first >> 4, 3);
    }
}

/// What an earlier life had in flight: one publish under this packet id.
fn with_restored(packet_id: u16) -> ConnectOptions {
    let payload = Bytes::from_static(b"m");
    let key = StoreKey { kind: 2, id: 1 };
    let mut value = vec![1, 1];
    value.extend_from_slice(&packet_id.to_be_bytes());
    ConnectOptions {
        clean_start: false,
        exactly_once: true,
        restored: vec![RestoredPublish {
            token: Token(1),
            packet_id,
            released: false,
            topic: "t".into(),
            retain: false,
            payload,
            stored: StoredUplink {
                key,
                value: value.into(),
            },
        }],
        ..options("restored")
    }
}

/// The broker releases a QoS 2 delivery, and hears PUBCOMP only when the core is ready to see its packet id again.
#[tokio::test]
async fn pubcomp_waits_until_a_later_life_would_know_of_the_release() {
    for (protocol, clean_start) in [(V3, true), (V3, false), (V5, true), (V5, false)] {
        let broker = FakeBroker::start().await;
        let mut core = Core::with_journal(
            config(broker.port, protocol),
            Some(Journal::new(|_, done| done())),
        );
        let exact = DeliveryId(1 << 16 | 9);
        core.send(BrokerRequest::Open {
            conn: CONN,
            options: ConnectOptions {
                clean_start,
                holds_pubcomp: true,
                received: if clean_start { vec![] } else { vec![exact] },
                ..options("port-under-test")
            },
        });
        let flags = u8::from(!clean_start);
        let connack: &[u8] = if protocol == V5 {
            &[flags, 0, 0]
        } else {
            &[flags, 0]
        };
        let (mut connection, _) = broker.accept(connack).await;
        core.expect_up(!clean_start).await;
        let mut publish = vec![0, 1, b't', 0, 9];
        publish.extend((protocol == V5).then_some(0));
        // Twice: what is shown of the first exchange does not stand for the second.
        for round in 0..2 {
            let mut delivery = exact;
            if clean_start || round > 0 {
                connection.write(0x34, &publish).await;
                delivery = received(&mut core).await.delivery.unwrap();
                ack(&mut core, delivery);
                assert_eq!(connection.read().await.unwrap(), (0x50, vec![0, 9]));
            }
            connection.write(0x62, &[0, 9]).await;
            assert_eq!(core.event().await, BrokerEvent::Released { conn: CONN, delivery });
            let early = timeout(Duration::from_millis(50), connection.read()).await;
            assert!(early.is_err(), "{protocol:?}: {early:?}");
            core.send(BrokerRequest::Complete { conn: CONN, delivery });
            assert_eq!(connection.read().await.unwrap(), (0x70, vec![0, 9]));
        }
    }
}

#[tokio::test]
async fn packet_id_of_an_earlier_life_goes_on_although_the_window_is_smaller_now() {
    let broker = FakeBroker::start().await;
    let journal = Journal::new(|_, done| done());
    let small = RemoteConfig {
        in_flight: 5,
        ..config(broker.port, V5)
    };
    let mut core = Core::with_journal(small, Some(journal));
    core.send(BrokerRequest::Open {
        conn: CONN,
        options: with_restored(15),
    });
    let (mut connection, _) = broker.accept(&[1, 0, 0]).await;
    assert_eq!(core.expect_up(true).await, 5);
    let (first, body) = connection.read().await.unwrap();
    // PUBLISH with DUP and QoS 2 under the packet id of then.
    assert_eq!((first, body[3..5].to_vec()), (0x3C, vec![0, 15]));
    connection.write(0x50, &[0, 15]).await;
    assert_eq!(connection.read().await.unwrap(), (0x62, vec![0, 15]));
    connection.write(0x70, &[0, 15]).await;
    assert_eq!(core.event().await, done(1));
}

#[tokio::test]
async fn packet_id_of_an_earlier_life_that_is_beyond_the_receive_maximum_is_lost_with_the_session() {
    let broker = FakeBroker::start().await;
    let written = Arc::new(Mutex::new(Vec::new()));
    let journal = Journal::new({
        let written = written.clone();
        move |changes, done| {
            written.lock().unwrap().extend(changes);
            done();
        }
    });
    let mut core = Core::with_journal(config(broker.port, V5), Some(journal));
    core.send(BrokerRequest::Open {
        conn: CONN,
        options: with_restored(15),
    });
    // Session present, but receive maximum (0x21) 10.
    let (_connection, _) = broker.accept(&[1, 0, 3, 0x21, 0, 10]).await;
    // The next attempt breaks as well: what was lost stays lost.
    broker.hang_up().await;
    let (mut connection, connect) = broker.accept_one(&[0, 0, 3, 0x21, 0, 10]).await;
    assert_eq!(connect[7], 0x02, "clean start");
    assert_eq!(connection.read().await.unwrap().0, 0xE0);
    let (_connection, _) = broker.accept_one(&[0, 0, 3, 0x21, 0, 10]).await;
    assert_eq!(core.event().await, BrokerEvent::Lost { token: Token(1) });
    core.expect_down().await;
    assert_eq!(core.expect_up(false).await, 10);
    // A later life does not take another publish under this packet id for it.
    let key = StoreKey { kind: 2, id: 1 };
    match &written.lock().unwrap()[..] {
        [StoreChange::Put(of, value)] => assert_eq!((*of, value[1]), (key, 0), "pending"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn refusal_of_what_an_earlier_life_had_in_flight_is_a_refusal() {
    let broker = FakeBroker::start().await;
    let journal = Journal::new(|_, done| done());
    let mut core = Core::with_journal(config(broker.port, V5), Some(journal));
    core.send(BrokerRequest::Open {
        conn: CONN,
        options: with_restored(3),
    });
    let (mut connection, _) = broker.accept(&[1, 0, 0]).await;
    core.expect_up(true).await;
    connection.read().await.unwrap();
    connection.write(0x50, &[0, 3, 0x97]).await;
    assert_eq!(core.event().await, refused(1, 0x97));
}

#[tokio::test]
async fn pubrel_that_waits_to_be_repeated_outlives_a_second_break() {
    for protocol in [V3, V5] {
        let broker = FakeBroker::start().await;
        let journal = Journal::new(|_, done| done());
        let mut core = Core::with_journal(config(broker.port, protocol), Some(journal));
        let mut options = with_restored(3);
        options.restored[0].released = true;
        core.send(BrokerRequest::Open { conn: CONN, options });
        let connack: &[u8] = if protocol == V5 { &[1, 0, 0] } else { &[1, 0] };
        for _ in 0..4 {
            let (connection, _) = broker.accept(connack).await;
            drop(connection);
        }
        let (mut connection, _) = broker.accept(connack).await;
        assert_eq!(connection.read().await.unwrap(), (0x62, vec![0, 3]));
        connection.write(0x70, &[0, 3]).await;
        loop {
            match core.event().await {
                BrokerEvent::Up { .. } | BrokerEvent::Down { .. } => {}
                event => break assert_eq!(event, done(1)),
            }
        }
    }
}

#[tokio::test]
async fn smaller_receive_maximum_after_a_break_ends_the_session_instead_of_standing_still() {
    let broker = FakeBroker::start().await;
    let mut core = Core::open(config(broker.port, V5));
    let (mut connection, _) = broker.accept(ACCEPTED).await;
    core.expect_up(false).await;
    core.requests.send(
        (1..=3)
            .map(|token| publication(token, "t", AtLeastOnce, "m"))
            .collect(),
    );
    for _ in 0..3 {
        connection.read().await.unwrap();
    }
    drop(connection);
    core.expect_down().await;

    // Session present, but receive maximum (0x21) 1.
    let (_connection, _) = broker.accept(&[1, 0, 3, 0x21, 0, 1]).await;
    let (mut connection, connect) = broker.accept_one(&[0, 0, 3, 0x21, 0, 1]).await;
    assert_eq!(connect[7], 0x02, "clean start");
    assert_eq!(connection.read().await.unwrap().0, 0xE0);
    let (_connection, _) = broker.accept_one(&[0, 0, 3, 0x21, 0, 1]).await;

    for token in 1..=3 {
        assert_eq!(core.event().await, BrokerEvent::Lost { token: Token(token) });
    }
    assert_eq!(core.expect_up(false).await, 1);
}

#[tokio::test]
async fn broker_that_accepts_and_hangs_up_is_not_hammered() {
    let broker = FakeBroker::start().await;
    let reconnect = Reconnect {
        first: Duration::from_millis(50),
        max: Duration::from_millis(200),
        jitter: 0.0,
    };
    let mut core = Core::open(RemoteConfig {
        reconnect,
        ..config(broker.port, V5)
    });
    let begin = std::time::Instant::now();

    for _ in 0..4 {
        broker.accept(ACCEPTED).await;
        core.expect_up(false).await;
        core.expect_down().await;
    }

    // 50, 100 and 200 ms lie between the four.
    assert!(
        begin.elapsed() >= Duration::from_millis(350),
        "{:?}",
        begin.elapsed()
    );
}

#[tokio::test]
async fn connection_that_need_not_be_is_not_tried_again_once_it_is_refused() {
    // Not authorized, client identifier not valid, retain not supported.
    for (reason, optional) in [(0x87, true), (0x85, true), (0x9A, true), (0x87, false)] {
        let broker = FakeBroker::start().await;
        let reconnect = Reconnect {
            first: Duration::from_millis(50),
            max: Duration::from_millis(50),
            jitter: 0.0,
        };
        let mut core = Core::new(RemoteConfig {
            reconnect,
            ..config(broker.port, V5)
        });
        core.send(BrokerRequest::Open {
            conn: CONN,
            options: ConnectOptions {
                optional,
                ..options("optional")
            },
        });

        broker.accept(&[0, reason, 0]).await;

        let said = core.expect_down().await;
        assert!(said.starts_with("refused by the broker"), "{said}");
        match optional {
            true => broker.expect_nobody().await,
            false => drop(broker.accept(ACCEPTED).await),
        }
    }
}

#[tokio::test]
async fn peer_that_is_no_broker_is_said_to_be_none() {
    for protocol in [V3, V5] {
        for greeting in ["HTTP/1.1 400 Bad Request\r\n", "SSH-2.0-OpenSSH_9.2\r\n"] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let mut core = Core::open(config(port, protocol));

            let (mut peer, _) = listener.accept().await.unwrap();
            peer.write_all(greeting.repeat(8).as_bytes()).await.unwrap();

            let said = core.expect_down().await;
            assert!(
                said.starts_with("it does not speak MQTT ("),
                "{greeting:?}: {said}"
            );
        }
    }
}

#[tokio::test]
async fn silent_broker_runs_into_the_connect_timeout() {
    for protocol in [V3, V5] {
        let broker = FakeBroker::start().await;
        let connect_timeout = Duration::from_millis(200);
        let mut core = Core::open(RemoteConfig {
            connect_timeout,
            ..config(broker.port, protocol)
        });

        assert_eq!(core.expect_down().await, "no answer within the connect timeout");
    }
}

#[tokio::test]
async fn requests_of_one_batch_leave_in_one_write() {
    let broker = FakeBroker::start().await;
    let mut core = Core::open(config(broker.port, V5));
    let (mut connection, _) = broker.accept(ACCEPTED).await;
    core.expect_up(false).await;

    core.requests.send(
        (1..=20)
            .map(|token| publication(token, "t", AtLeastOnce, "m"))
            .collect(),
    );

    // One read takes what one write sent: twenty PUBLISH of nine octets.
    assert_eq!(connection.read_some().await, 20 * 9);
}
