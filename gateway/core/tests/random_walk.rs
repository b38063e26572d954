//! Random messages, outages and silences, in any state: the gateway never spins, keeps its bounds, and ends quiet.
//!
//! The simulated world checks that what happens is right; here clients are as senseless as can be.

#![allow(clippy::unwrap_used)]

mod common;

use core::time::Duration;

use common::{Bench, LINK};
use gateway_core::Metrics;
use gateway_core::config::{AddressChange, GatewayConfig, PredefinedTopic, SleepQos0, WhenFull};
use gateway_core::io::{BrokerEvent, BrokerRequest, FilterId, LinkEvent, LinkProfile, Refusal};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use sn_codec::{MsgType, QoS, TopicId};

const WALKS: u64 = 200;
const STEPS: usize = 400;
const PORTS: u16 = 3;
const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// What clients mostly say.
const USUAL: [MsgType; 12] = [
    MsgType::Connect,
    MsgType::Connect,
    MsgType::Connect,
    MsgType::Subscribe,
    MsgType::Subscribe,
    MsgType::Subscribe,
    MsgType::Publish,
    MsgType::Publish,
    MsgType::Register,
    MsgType::Pingreq,
    MsgType::Pingreq,
    MsgType::Disconnect,
];

#[test]
fn senseless_clients_leave_nothing_behind() {
    let mut reached = Metrics::default();
    for seed in 0..WALKS {
        let metrics = walk(seed);
        reached.delivered_total += metrics.delivered_total;
        reached.lost_total += metrics.lost_total;
        reached.takeovers_total += metrics.takeovers_total;
        reached.takeovers_refused_total += metrics.takeovers_refused_total;
        reached.publish_settled_total += metrics.publish_settled_total;
        reached.buffer_dropped_total += metrics.buffer_dropped_total;
        reached.buffer_expired_total += metrics.buffer_expired_total;
    }
    for (what, count) in [
        ("delivered", reached.delivered_total),
        ("lost", reached.lost_total),
        ("moved", reached.takeovers_total),
        ("kept where they were", reached.takeovers_refused_total),
        ("published", reached.publish_settled_total),
        ("dropped", reached.buffer_dropped_total),
        ("expired", reached.buffer_expired_total),
    ] {
        assert!(count >= WALKS / 4, "the walks go nowhere: {count} {what}");
    }
}

fn walk(seed: u64) -> Metrics {
    let mut rng = SmallRng::seed_from_u64(seed);
    let config = config(&mut rng);
    let (max_messages, max_bytes) = (config.sleep.max_messages, config.limits.buffer_bytes);
    let mut bench = Bench::new(config);
    for step in 0..STEPS {
        one_step(&mut bench, &mut rng);
        assert!(
            bench.sent.len() < 200,
            "seed {seed} step {step}: {} datagrams",
            bench.sent.len()
        );
        let metrics = bench.gateway.metrics();
        let states = metrics.clients_active
            + metrics.clients_asleep
            + metrics.clients_awake
            + metrics.clients_connecting
            + metrics.clients_disconnected
            + metrics.clients_lost;
        assert_eq!(states, metrics.clients, "seed {seed} step {step}");
        assert!(
            metrics.buffer_messages <= metrics.clients * max_messages as u64,
            "seed {seed} step {step}"
        );
        assert!(
            metrics.buffer_bytes <= max_bytes as u64,
            "seed {seed} step {step}"
        );
        remember(&mut bench);
    }
    // Everybody is silent from now on; the longest sleep is 27 hours, the longest session 30 days.
    link(&mut bench, LinkProfile::UNLIMITED);
    bench.broker_up(true);
    for _ in 0..3 {
        pass(&mut bench, Duration::from_secs(20 * 24 * 3600), seed);
        bench.settle();
    }
    let metrics = bench.gateway.metrics().clone();
    assert_eq!(
        (metrics.clients, metrics.buffer_messages, metrics.buffer_bytes),
        (0, 0, 0),
        "seed {seed}"
    );
    assert_eq!(
        (metrics.filters, metrics.queue_messages, metrics.in_flight),
        (0, 0, 0),
        "seed {seed}"
    );
    let next = bench.gateway.poll_timeout();
    assert_eq!(next, None, "seed {seed}: something is still waited for");
    metrics
}

fn config(rng: &mut SmallRng) -> GatewayConfig {
    let mut config = GatewayConfig {
        advertise_interval: None,
        predefined: vec![PredefinedTopic {
            id: TopicId(1),
            topic: "t/1".into(),
        }],
        address_change: *[AddressChange::Open, AddressChange::Guarded, AddressChange::Strict]
            .choose(rng)
            .unwrap(),
        ..GatewayConfig::default()
    };
    config.sleep.max_messages = rng.random_range(1..8);
    config.sleep.max_age = Duration::from_secs(rng.random_range(10..1000));
    config.sleep.when_full = *[WhenFull::Refuse, WhenFull::DropOldest, WhenFull::DropNewest]
        .choose(rng)
        .unwrap();
    config.sleep.qos0 = *[SleepQos0::KeepAll, SleepQos0::LatestPerTopic, SleepQos0::Drop]
        .choose(rng)
        .unwrap();
    config.limits.buffer_bytes = rng.random_range(20..200);
    config.limits.clients = rng.random_range(1..5);
    config.limits.pending_connects = rng.random_range(1..3);
    config.limits.queue_messages = rng.random_range(1..10);
    config.limits.topics_per_client = rng.random_range(1..4);
    config
}

fn one_step(bench: &mut Bench, rng: &mut SmallRng) {
    let port = rng.random_range(1..=PORTS);
    match rng.random_range(0..20) {
        0..11 => {
            let datagram = datagram(bench, rng, port);
            bench.raw(port, &datagram);
        }
        11..13 => {
            let filters: Vec<FilterId> = match rng.random_bool(0.5) {
                true => vec![FilterId(rng.random_range(1..6))],
                false => vec![],
            };
            let topic = *["t/1", "t/1", "t/2", "w/x", "ab"].choose(rng).unwrap();
            let qos = *QOS.choose(rng).unwrap();
            bench.message(&filters, topic, qos, rng.random_bool(0.2), b"payload");
        }
        13..15 => {
            for _ in 0..3 {
                answer_one(bench, rng);
            }
        }
        15 => bench.broker_up(rng.random_bool(0.8)),
        16 if rng.random_bool(0.2) => bench.broker_down(),
        16 if rng.random_bool(0.2) => link(bench, rng.random_range(0..4)),
        17 if rng.random_bool(0.1) => {
            bench.gateway.handle_link(bench.now, LINK, LinkEvent::Down);
            bench.drain();
        }
        16 | 17 => link(bench, LinkProfile::UNLIMITED),
        18 if rng.random_bool(0.5) => {
            let seconds = *[1, 1, 1, 1, 5, 5, 10, 10, 10, 30, 100, 1000].choose(rng).unwrap();
            pass(bench, Duration::from_secs(seconds), 0);
        }
        _ => pass(bench, Duration::from_millis(100), 0),
    }
}

/// The broker answers something it was asked, or loses it.
fn answer_one(bench: &mut Bench, rng: &mut SmallRng) {
    if bench.requests.is_empty() {
        return;
    }
    let at = rng.random_range(0..bench.requests.len());
    let token = match bench.requests.swap_remove(at) {
        BrokerRequest::Publish { token, .. } => token,
        BrokerRequest::Subscribe { token, .. } | BrokerRequest::Unsubscribe { token, .. } => Some(token),
        _ => None,
    };
    let Some(token) = token else { return };
    let event = match rng.random_range(0..10) {
        0 => BrokerEvent::Lost { token },
        1 => BrokerEvent::Settled {
            token,
            result: Err(Refusal(0x87)),
        },
        _ => BrokerEvent::Settled {
            token,
            result: Ok(Some(QoS::AtLeastOnce)),
        },
    };
    bench.broker(event);
}

/// Keeps only the last datagrams: they have ids that answers may use.
fn remember(bench: &mut Bench) {
    let old = bench.sent.len().saturating_sub(4);
    bench.sent.drain(..old);
    bench.notices.clear();
}

/// A message of any type, mostly well-formed, with ids that may mean something.
fn datagram(bench: &Bench, rng: &mut SmallRng, port: u16) -> Vec<u8> {
    let octet = |rng: &mut SmallRng, of: &[u8]| *of.choose(rng).unwrap();
    // An answer to what the gateway sent last.
    if rng.random_bool(0.4)
        && let Some((_, sent)) = bench.sent.iter().rev().find(|(to, _)| *to == port)
    {
        let code = octet(rng, &[0, 0, 0, 1, 2, 3]);
        match *sent.as_slice() {
            [_, 0x0A, t0, t1, m0, m1, ..] => return vec![7, 0x0B, t0, t1, m0, m1, code],
            [_, 0x0C, _, t0, t1, m0, m1, ..] if rng.random_bool(0.5) => {
                return vec![7, 0x0D, t0, t1, m0, m1, code];
            }
            [_, 0x0C, _, _, _, m0, m1, ..] => return vec![4, 0x0F, m0, m1],
            [_, 0x10, m0, m1] => return vec![4, 0x0E, m0, m1],
            [_, 0x06] => return b"\x08\x07\x20t/wil".to_vec(),
            [_, 0x08] => return b"\x03\x09x".to_vec(),
            _ => {}
        }
    }
    let own = b'a' + port as u8 - 1;
    let [id, duration, msg_id] = [
        octet(rng, &[own, own, own, own, b'a', b'b']),
        octet(rng, &[0, 1, 60, 255, 255, 255]),
        octet(rng, &[0, 1, 2]),
    ];
    let qos = octet(rng, &[0, 1, 2, 3]) << 5;
    let topic: &[u8] = [&b"t/1"[..], b"t/2", b"t/1", b"w/+", b"#", b"ab", b""]
        .choose(rng)
        .unwrap();
    let flags = octet(rng, &[0x00, 0x00, 0x00, 0x04, 0x08, 0x0C]);
    let msg_type = match rng.random_bool(0.8) {
        true => USUAL.choose(rng).unwrap(),
        false => MsgType::ALL.choose(rng).unwrap(),
    };
    let body: Vec<u8> = match msg_type {
        MsgType::Connect => vec![flags, 1, 0, duration, id],
        MsgType::WillTopic | MsgType::WillTopicUpd => [&[qos], topic].concat(),
        MsgType::WillMsg | MsgType::WillMsgUpd => b"bye".to_vec(),
        MsgType::Register => [&[0, 0, 0, msg_id], topic].concat(),
        MsgType::Publish => {
            let id_type = octet(rng, &[0, 1, 2, 3]);
            let id = if id_type == 1 { 0 } else { 4 };
            vec![octet(rng, &[0, 0x80]) | qos | id_type, id, 1, 0, msg_id, b'x']
        }
        MsgType::Subscribe | MsgType::Unsubscribe if rng.random_bool(0.3) => vec![qos | 1, 0, msg_id, 0, 1],
        MsgType::Subscribe | MsgType::Unsubscribe => [&[qos, 0, msg_id], topic].concat(),
        MsgType::Pubrel | MsgType::Pubrec | MsgType::Pubcomp => vec![0, msg_id],
        MsgType::Pingreq => [&b""[..], &[id]].choose(rng).unwrap().to_vec(),
        MsgType::Disconnect => [&b""[..], &[0, duration]].choose(rng).unwrap().to_vec(),
        _ => (0..rng.random_range(0..6)).map(|_| rng.random()).collect(),
    };
    let mut datagram = vec![body.len() as u8 + 2, *msg_type as u8];
    datagram.extend_from_slice(&body);
    if rng.random_bool(0.05) {
        let at = rng.random_range(0..datagram.len());
        datagram[at] = rng.random();
    }
    datagram
}

fn link(bench: &mut Bench, credit: u32) {
    let profile = LinkProfile {
        mtu: 64,
        credit,
        ..LinkProfile::default()
    };
    bench.gateway.handle_link(bench.now, LINK, LinkEvent::Up(profile));
    bench.drain();
}

/// Lets time pass, and asserts that it does: a deadline that stays in the past would never let the loop sleep.
fn pass(bench: &mut Bench, duration: Duration, seed: u64) {
    let end = bench.now + duration;
    let mut without_progress = 0;
    while let Some(at) = bench.gateway.poll_timeout().filter(|at| *at <= end) {
        without_progress = if at > bench.now { 0 } else { without_progress + 1 };
        assert!(
            without_progress < 10,
            "seed {seed}: the gateway spins at {}",
            bench.now
        );
        bench.now = bench.now.max(at);
        bench.gateway.handle_timeout(bench.now);
        bench.drain();
        remember(bench);
    }
    bench.now = end;
}
