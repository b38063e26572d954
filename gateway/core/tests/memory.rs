//! What a sleeping client costs. One test in a binary of its own: it reads the resident set of the process.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::{Bench, publish, seconds};
use gateway_core::config::{Durability, GatewayConfig};
use gateway_core::io::{BrokerEvent, BrokerRequest};
use sn_codec::{Connect, Disconnect, MsgId, Packet, QoS, Subscribe, TopicFilter, TopicRef};

const CLIENTS: u16 = 25_000;

/// Octets per client beside its messages.
const MOST: usize = 700;

#[test]
fn a_sleeping_client_costs_at_most_700_octets() {
    // Both stay, so that neither uses memory that the other gave back.
    let (ephemeral, _one) = cost(None);
    let (durable, _other) = cost(Some(Durability::default()));
    println!("{ephemeral} octets per sleeping client, {durable} where it survives");
    for each in [ephemeral, durable] {
        assert!(each <= MOST, "{each} octets per sleeping client, at most {MOST}");
    }
}

fn cost(durability: Option<Durability>) -> (usize, Bench) {
    let mut config = GatewayConfig {
        durability,
        ..GatewayConfig::default()
    };
    config.limits.new_sessions_per_second = 0;
    let mut bench = Bench::up(config);
    bench.broker(BrokerEvent::Credit {
        conn: common::CONN,
        requests: 1_000_000,
    });
    let before = resident();
    for port in 1..=CLIENTS {
        sleeper(&mut bench, port);
        // The disk is somebody else's memory.
        bench.stored.clear();
        if port % 100 == 0 {
            // What a SUBSCRIBE needs is freed after a while, and is used for others then.
            bench.pass(seconds(11));
        }
    }
    let each = (resident() - before) / usize::from(CLIENTS);
    assert_eq!(bench.gateway.metrics().clients_asleep, u64::from(CLIENTS));
    (each, bench)
}

/// Publishes under one name, is subscribed to a topic of its own, and sleeps.
fn sleeper(bench: &mut Bench, port: u16) {
    let (id, up, down) = (
        format!("sensor-{port}"),
        format!("plant/sensor-{port}/t"),
        format!("plant/sensor-{port}/set"),
    );
    bench.connect_with(
        port,
        Connect {
            will: false,
            clean_session: false,
            duration: 3600,
            client_id: &id,
        },
    );
    let topic = bench.register(port, &up);
    bench.packet(
        port,
        publish(TopicRef::Normal(topic), QoS::AtLeastOnce, 2, b"21.5"),
    );
    bench.packet(
        port,
        Packet::Subscribe(Subscribe {
            dup: false,
            qos: QoS::AtLeastOnce,
            msg_id: MsgId(3),
            topic: TopicFilter::Name(&down),
        }),
    );
    bench.commit();
    for request in std::mem::take(&mut bench.requests) {
        let token = match request {
            BrokerRequest::Publish { token, .. } => token.unwrap(),
            BrokerRequest::Subscribe { token, .. } => token,
            other => panic!("{other:?}"),
        };
        bench.broker(BrokerEvent::Settled {
            token,
            result: Ok(None),
        });
    }
    bench.commit();
    bench.packet(
        port,
        Packet::Disconnect(Disconnect {
            duration: Some(u16::MAX),
        }),
    );
    bench.sent.clear();
    bench.notices.clear();
    bench.tickets.clear();
}

fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
