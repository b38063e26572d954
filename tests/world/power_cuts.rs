//! The campaign of power cuts: the disk forgets what was not synced, a thousand times.

use std::time::Duration;

use gateway_core::config::{Durability, GatewayConfig, UpstreamConfig, WhenDown};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use sn_codec::QoS;
use snipe_sim::sim_broker::{BrokerConfig, Origin};
use snipe_sim::sim_client::{ClientConfig, Outcome};
use snipe_sim::sim_store::End;
use snipe_sim::{ClientIx, World, WorldConfig};

const CUTS: usize = 1_000;
const PUBLISHERS: usize = 50;
const SLEEPERS: usize = 50;

pub(crate) fn durable(durability: Durability) -> GatewayConfig {
    GatewayConfig {
        advertise_interval: None,
        upstream: UpstreamConfig {
            when_down: WhenDown::Spool,
            ..UpstreamConfig::default()
        },
        durability: Some(durability),
        ..GatewayConfig::default()
    }
}

/// Messages of one kind, from one end to the other.
#[derive(Default)]
struct Row {
    sent: usize,
    acknowledged: usize,
    arrived: usize,
    lost: usize,
    twice: usize,
}

impl Row {
    fn show(&self, name: &str) -> String {
        format!(
            "| {name} | {} | {} | {} | {} | {} |",
            self.sent, self.acknowledged, self.arrived, self.lost, self.twice
        )
    }
}

#[test]
fn a_thousand_power_cuts_lose_nothing_and_double_no_qos_2() {
    campaign(false);
}

/// Such a broker may give a packet id to another message as soon as it has PUBCOMP.
#[test]
fn a_thousand_power_cuts_before_a_broker_that_uses_packet_ids_again_at_once() {
    campaign(true);
}

fn campaign(lowest_packet_ids: bool) {
    let mut world = World::new(WorldConfig {
        gateway: durable(Durability::default()),
        broker: BrokerConfig {
            lowest_packet_ids,
            ..BrokerConfig::default()
        },
        ..WorldConfig::default()
    });
    let rng = &mut SmallRng::seed_from_u64(2026);
    let client = |id: String| ClientConfig {
        clean: false,
        keep_alive: 120,
        ..ClientConfig::new(&id)
    };
    let publishers: Vec<ClientIx> = (0..PUBLISHERS)
        .map(|at| world.add_connected(client(format!("sensor-{at}"))))
        .collect();
    let mut sleepers = Vec::new();
    for at in 0..SLEEPERS {
        let sleeper = world.add_connected(client(format!("valve-{at}")));
        world.subscribe(sleeper, format!("cmd/{at}").as_str(), QoS::ExactlyOnce);
        world.run_for(Duration::from_secs(1));
        world.sleep(sleeper, rng.random_range(10..60), u32::MAX);
        sleepers.push(sleeper);
    }
    world.run_for(Duration::from_secs(5));

    let mut cuts = 0;
    let mut up = [const { Vec::new() }; 3];
    let mut down = [const { Vec::new() }; 3];
    while cuts < CUTS {
        for _ in 0..rng.random_range(1..12) {
            let qos = if rng.random() {
                QoS::AtLeastOnce
            } else {
                QoS::ExactlyOnce
            };
            if rng.random() {
                let at = rng.random_range(0..PUBLISHERS);
                let payload = world.publish(publishers[at], format!("data/{at}").as_str(), qos);
                up[qos as usize].push((publishers[at], payload));
            } else {
                let at = rng.random_range(0..SLEEPERS);
                let payload = world.external(&format!("cmd/{at}"), qos, false);
                down[qos as usize].push((sleepers[at], payload));
            }
            world.run_for(Duration::from_millis(rng.random_range(0..200)));
        }
        world.end_gateway(End::PowerCut, Duration::from_millis(rng.random_range(1..500)));
        cuts += 1;
        world.run_for(Duration::from_millis(rng.random_range(0..3_000)));
        if cuts.is_multiple_of(100) {
            world.broker_down(true);
            world.run_for(Duration::from_secs(rng.random_range(1..20)));
            world.broker_up();
        }
    }
    world.settle();

    let mut table = vec![
        format!("{cuts} power cuts in {}", world.now()),
        "| | sent | acknowledged | arrived | lost | twice |".into(),
        "|---|---|---|---|---|---|".into(),
    ];
    let mut rows = Vec::new();
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut row = Row::default();
        for (client, payload) in &up[qos as usize] {
            let routed =
                world.broker.log.iter().filter(|routed| {
                    routed.payload == *payload && matches!(routed.origin, Origin::Gateway(_))
                });
            row.count(
                world.client(*client).outcomes.get(payload) == Some(&Outcome::Acknowledged),
                routed.count(),
            );
        }
        table.push(row.show(&format!("QoS {} up", qos as u8)));
        rows.push((qos, row));
        let mut row = Row::default();
        for (client, payload) in &down[qos as usize] {
            let delivered = world.client(*client).delivered.iter();
            // The broker took it, so it is acknowledged.
            row.count(
                true,
                delivered
                    .filter(|delivered| delivered.payload == *payload)
                    .count(),
            );
        }
        table.push(row.show(&format!("QoS {} down", qos as u8)));
        rows.push((qos, row));
    }
    println!("{}", table.join("\n"));
    for (qos, row) in rows {
        assert!(
            row.sent > 1_000 && row.acknowledged * 100 > row.sent * 99,
            "{}",
            row.show("")
        );
        assert_eq!(row.lost, 0, "{}", row.show(""));
        if qos == QoS::ExactlyOnce {
            assert_eq!(row.twice, 0, "{}", row.show(""));
        }
    }
}

impl Row {
    fn count(&mut self, acknowledged: bool, arrived: usize) {
        self.sent += 1;
        self.acknowledged += usize::from(acknowledged);
        self.arrived += usize::from(arrived > 0);
        self.lost += usize::from(acknowledged && arrived == 0);
        self.twice += usize::from(arrived > 1);
    }
}
