//! The broker is away for an hour, and comes back.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use gateway_core::SpoolDrop;
use gateway_core::config::{Durability, SpoolFull};
use sn_codec::QoS;
use snipe_sim::sim_broker::BrokerConfig;
use snipe_sim::sim_client::{ClientConfig, Outcome};
use snipe_sim::sim_store::DiskConfig;
use snipe_sim::{ClientIx, World, WorldConfig};

use crate::power_cuts::durable;

const CLIENTS: usize = 1_000;
const WINDOW: u16 = 20;
const ROUND_TRIP: Duration = Duration::from_millis(50);
/// Clients that have nothing in the spool.
const NEWCOMERS: usize = 20;

fn world(durability: Durability) -> World {
    World::new(WorldConfig {
        gateway: durable(durability),
        broker: BrokerConfig {
            latency_min: ROUND_TRIP,
            latency_max: ROUND_TRIP,
            settle_max: Duration::ZERO,
            window: WINDOW,
            ..BrokerConfig::default()
        },
        disk: DiskConfig {
            sync_min: Duration::from_millis(2),
            sync_max: Duration::from_millis(8),
            capacity: 256 << 20,
            segment: 4 << 20,
        },
        ..WorldConfig::default()
    })
}

fn add(world: &mut World, name: &str, count: usize) -> Vec<ClientIx> {
    let client = |at| ClientConfig {
        clean: false,
        keep_alive: 600,
        ..ClientConfig::new(&format!("{name}-{at}"))
    };
    let all: Vec<ClientIx> = (0..count).map(|at| world.add_client(client(at))).collect();
    all.iter().for_each(|ix| world.connect(*ix));
    world.run_for(Duration::from_secs(30));
    all
}

fn qos_of(at: usize) -> QoS {
    if at.is_multiple_of(2) {
        QoS::AtLeastOnce
    } else {
        QoS::ExactlyOnce
    }
}

#[test]
fn after_an_hour_without_the_broker_everything_arrives_at_its_speed() {
    let mut world = world(Durability::default());
    let clients = add(&mut world, "sensor", CLIENTS);
    let newcomers = add(&mut world, "late", NEWCOMERS);
    world.broker_down(true);
    world.run_for(Duration::from_secs(1));
    let tick = Duration::from_secs(60) / CLIENTS as u32;
    let mut published: Vec<(QoS, Bytes)> = Vec::new();
    for _ in 0..60 {
        for (at, client) in clients.iter().enumerate() {
            let qos = qos_of(at);
            published.push((qos, world.publish(*client, format!("data/{at}").as_str(), qos)));
            world.run_for(tick);
        }
    }
    world.run_for(Duration::from_secs(10));
    let spooled = world.gateway().metrics().spool_messages;
    assert_eq!(spooled as usize, published.len());
    world.broker_up();
    world.run_until(Duration::from_secs(10), |world| {
        world.broker.is_up(gateway_core::io::ConnId(0))
    });
    let back = world.now();

    // Live traffic goes on: of those who wait in the spool, and of those who do not.
    let mut live: BTreeMap<Bytes, (QoS, gateway_core::time::Instant)> = BTreeMap::new();
    let mut drained = [None; 3];
    let mut open: Vec<(QoS, Bytes)> = published.clone();
    for second in 0.. {
        for step in 0..20 {
            let at = second * 20 + step;
            let client = clients[at % CLIENTS];
            let qos = qos_of(at % CLIENTS);
            published.push((
                qos,
                world.publish(client, format!("data/{}", at % CLIENTS).as_str(), qos),
            ));
            if step < 2 {
                let at = second * 2 + step;
                let payload = world.publish(newcomers[at % NEWCOMERS], "late", qos_of(at));
                live.insert(payload, (qos_of(at), world.now()));
            }
            world.run_for(Duration::from_millis(50));
        }
        open.retain(|(_, payload)| world.broker.count(payload) == 0);
        let waiting = |qos: QoS| open.iter().filter(|(of, _)| *of == qos).count();
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            if drained[qos as usize].is_none() && waiting(qos) == 0 {
                drained[qos as usize] = Some(world.now());
            }
        }
        if drained[1].is_some() && drained[2].is_some() {
            break;
        }
        assert!(second < 1_000, "not drained: {drained:?}");
    }
    world.settle();

    let mut table = String::from(
        "| | messages | drained in s | a second | window / round trip | live at most ms |\n|---|---|---|---|---|---|\n",
    );
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let end = drained[qos as usize].unwrap();
        let routed = world.broker.log.iter();
        let count = routed
            .filter(|r| r.qos == qos && r.at > back && r.at <= end)
            .count();
        let seconds = end.since(back).as_secs_f64();
        // QoS 2 takes two round trips, and a sync before each.
        let trips = qos as u32;
        let best = f64::from(WINDOW) / (ROUND_TRIP * trips).as_secs_f64();
        let slowest = live
            .iter()
            .filter(|(_, (of, _))| *of == qos)
            .map(|(payload, (_, since))| {
                let routed = world.broker.log.iter().find(|routed| routed.payload == *payload);
                routed.map_or(Duration::MAX, |routed| routed.at.since(*since))
            });
        let slowest = slowest.max().unwrap_or(Duration::MAX);
        let rate = count as f64 / seconds;
        let _ = writeln!(
            table,
            "| QoS {} | {count} | {seconds:.0} | {rate:.0} | {best:.0} | {} |",
            qos as u8,
            slowest.as_millis()
        );
        let least = if qos == QoS::AtLeastOnce { 0.95 } else { 0.75 };
        assert!(rate > best * least && rate < best * 1.02, "{table}");
        assert!(slowest < Duration::from_millis(500), "{table}");
    }
    let lost = published
        .iter()
        .filter(|(_, payload)| world.broker.count(payload) == 0)
        .count();
    let twice = published
        .iter()
        .filter(|(_, payload)| world.broker.count(payload) > 1)
        .count();
    let _ = writeln!(table, "lost {lost}, twice {twice}");
    assert_eq!((lost, twice), (0, 0));
    insta::assert_snapshot!(table);
}

#[test]
fn a_spool_that_is_full_refuses_or_drops_the_oldest_and_says_so() {
    for when_full in [SpoolFull::Refuse, SpoolFull::DropOldest] {
        let mut world = world(Durability {
            spool_messages: 100,
            when_full,
            ..Durability::default()
        });
        let clients = add(&mut world, "sensor", 15);
        world.broker_down(true);
        world.run_for(Duration::from_secs(1));
        let mut published = Vec::new();
        for _ in 0..10 {
            for client in &clients {
                published.push((*client, world.publish(*client, "t", QoS::AtLeastOnce)));
                world.run_for(Duration::from_millis(100));
            }
        }
        let metrics = world.gateway().metrics();
        let (kept, dropped) = (
            metrics.spool_messages,
            metrics.spool_dropped[SpoolDrop::Full as usize],
        );
        assert_eq!(kept, 100);
        let acknowledged = |world: &World| {
            let outcome = |(client, payload): &&(ClientIx, Bytes)| {
                world.client(*client).outcomes.get(payload) == Some(&Outcome::Acknowledged)
            };
            published.iter().filter(outcome).count()
        };
        let (told, congestion) = (
            acknowledged(&world),
            world.gateway().metrics().publish_congestion_total,
        );
        match when_full {
            SpoolFull::Refuse => {
                assert_eq!((told, dropped), (100, 0));
                assert!(congestion >= 15, "{congestion}");
                // Whoever was refused tries again.
                world.settle();
                assert!(
                    published
                        .iter()
                        .all(|(_, payload)| world.broker.count(payload) == 1)
                );
            }
            SpoolFull::DropOldest => {
                assert_eq!((told, dropped, congestion), (150, 50, 0));
                world.broker_up();
                world.run_for(Duration::from_secs(30));
                let arrived = published.iter().map(|(_, payload)| world.broker.count(payload));
                let arrived: Vec<usize> = arrived.collect();
                assert_eq!(arrived, [vec![0; 50], vec![1; 100]].concat());
            }
        }
    }
}
