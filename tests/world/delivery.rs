//! How many messages arrive over a lossy network, and at what cost.
//!
//! A transmission is a datagram that its sender put on the air: what the network doubles counts once, what it loses
//! counts, and so does what is sent again after the client gave up and connected anew. Counted are the PUBLISHes and
//! PUBRELs of whoever sends the message: the client for messages up, the gateway for messages down. They are divided by
//! the number of messages.

use core::time::Duration;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;
use gateway_core::config::{GatewayConfig, Limits, SleepRules, Timers};
use gateway_core::io::Notice;
use sn_codec::{MsgType, PublishQoS, QoS};
use snipe_sim::net::PathConfig;
use snipe_sim::sim_client::{ClientConfig, Outcome, TopicForm};
use snipe_sim::{ClientIx, World, WorldConfig};

/// Which way messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// What a run came to.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    messages: usize,
    /// Messages that arrived at least once.
    arrived: usize,
    /// Arrivals beyond the first.
    again: usize,
    publishes: usize,
    pubrels: usize,
    /// Sessions that the gateway lost or ended.
    sessions_lost: usize,
    /// Times a client gave up and connected anew.
    gave_up: usize,
}

impl Tally {
    fn per_message(&self, count: usize) -> f64 {
        count as f64 / self.messages as f64
    }
}

/// Messages at one a minute and client, for some time, over paths like this.
fn run(way: Way, qos: QoS, path: PathConfig, clients: usize, hours: u64, seed: u64) -> Tally {
    let gateway = GatewayConfig {
        advertise_interval: None,
        timers: Timers {
            retry_count: 5,
            ..Timers::default()
        },
        limits: Limits::default(),
        sleep: SleepRules::default(),
        ..GatewayConfig::default()
    };
    let mut world = World::new(WorldConfig {
        seed,
        gateway,
        ..WorldConfig::default()
    });
    let clients: Vec<ClientIx> = (0..clients)
        .map(|n| {
            world.add_connected(ClientConfig {
                clean: false,
                keep_alive: 300,
                retry_count: 5,
                ..ClientConfig::new(&format!("node-{n}"))
            })
        })
        .collect();
    for (n, client) in clients.iter().enumerate() {
        let topic = format!("node/{n}");
        match way {
            Way::Up => world.act(*client, snipe_sim::sim_client::Action::Register(topic)),
            Way::Down => world.subscribe(*client, topic.as_str(), qos),
        }
    }
    world.run_for(Duration::from_secs(30));
    world.set_all_paths(path, path);
    let before = counts(&world, way, &clients);

    let mut sent: Vec<(ClientIx, Bytes)> = Vec::new();
    let pause = Duration::from_secs(60) / clients.len() as u32;
    for _ in 0..hours * 60 {
        for (n, client) in clients.iter().enumerate() {
            let topic = format!("node/{n}");
            let payload = match way {
                Way::Up => {
                    world.publish_as(*client, TopicForm::Name(topic), PublishQoS::Level(qos), false, 0)
                }
                Way::Down => world.external(&topic, qos, false),
            };
            sent.push((*client, payload));
            world.run_for(pause);
        }
    }
    // What is still under way is brought to its end over the same network.
    world.run_for(Duration::from_secs(1800));
    let after = counts(&world, way, &clients);

    let mut arrivals: BTreeMap<&Bytes, usize> = BTreeMap::new();
    match way {
        Way::Up => world
            .broker
            .log
            .iter()
            .for_each(|routed| *arrivals.entry(&routed.payload).or_default() += 1),
        Way::Down => clients
            .iter()
            .flat_map(|client| &world.client(*client).delivered)
            .for_each(|delivered| *arrivals.entry(&delivered.payload).or_default() += 1),
    }
    let of = |payload: &Bytes| arrivals.get(payload).copied().unwrap_or(0);
    let ended = |notice: &Notice| matches!(notice, Notice::Lost { .. } | Notice::Disconnected { .. });
    let tally = Tally {
        messages: sent.len(),
        arrived: sent.iter().filter(|(_, payload)| of(payload) > 0).count(),
        again: sent
            .iter()
            .map(|(_, payload)| of(payload).saturating_sub(1))
            .sum(),
        publishes: after.0 - before.0,
        pubrels: after.1 - before.1,
        sessions_lost: world.notices.iter().filter(|(_, notice)| ended(notice)).count(),
        gave_up: clients.iter().map(|client| world.client(*client).gave_up).sum(),
    };
    if way == Way::Up && qos != QoS::AtMostOnce {
        for (client, payload) in &sent {
            let outcome = world.client(*client).outcomes.get(payload);
            assert_eq!(outcome, Some(&Outcome::Acknowledged), "{payload:?}");
        }
    }
    world.settle();
    tally
}

/// PUBLISHes and PUBRELs that were sent so far.
fn counts(world: &World, way: Way, clients: &[ClientIx]) -> (usize, usize) {
    match way {
        Way::Up => clients.iter().fold((0, 0), |(publishes, pubrels), client| {
            let sent = world.client(*client).sent;
            (publishes + sent.publishes, pubrels + sent.pubrels)
        }),
        Way::Down => (
            world.sent_count(MsgType::Publish),
            world.sent_count(MsgType::Pubrel),
        ),
    }
}

/// The network of the promise: 30 % loss each way, 10 % doubled, 10 % held back by up to two seconds.
fn promised() -> PathConfig {
    PathConfig {
        duplicate: 0.1,
        reorder: 0.1,
        reorder_by: Duration::from_secs(2),
        ..PathConfig::lossy(0.3)
    }
}

fn keeps_the_promise(way: Way, qos: QoS) {
    let tally = run(way, qos, promised(), 4, 24, 1);
    let (publishes, pubrels) = (
        tally.per_message(tally.publishes),
        tally.per_message(tally.pubrels),
    );
    println!("{way:?} {qos:?}: {tally:?}, {publishes:.3} PUBLISH and {pubrels:.3} PUBREL each");
    assert_eq!(tally.arrived, tally.messages, "every message arrives");
    assert_eq!(tally.sessions_lost, 0, "no session is lost at the gateway");
    assert!(publishes <= 2.2, "{publishes} PUBLISH per message");
    if qos == QoS::ExactlyOnce {
        assert_eq!(tally.again, 0, "exactly once");
        assert!(pubrels <= 2.2, "{pubrels} PUBREL per message");
    }
}

#[test]
fn a_day_at_thirty_percent_loss_qos_1_up() {
    keeps_the_promise(Way::Up, QoS::AtLeastOnce);
}

#[test]
fn a_day_at_thirty_percent_loss_qos_2_up() {
    keeps_the_promise(Way::Up, QoS::ExactlyOnce);
}

#[test]
fn a_day_at_thirty_percent_loss_qos_1_down() {
    keeps_the_promise(Way::Down, QoS::AtLeastOnce);
}

#[test]
fn a_day_at_thirty_percent_loss_qos_2_down() {
    keeps_the_promise(Way::Down, QoS::ExactlyOnce);
}

/// Delivery and cost over loss, QoS and direction; 1,440 messages each.
#[test]
fn table_of_delivery_and_transmissions() {
    let mut table = String::from(
        "loss  QoS  way   arrived  more than once  PUBLISH each  PUBREL each\n",
    );
    for loss in [0, 1, 5, 10, 20, 30, 40] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for way in [Way::Up, Way::Down] {
                let path = PathConfig::lossy(f64::from(loss) / 100.0);
                let tally = run(way, qos, path, 4, 6, 1);
                let arrived = 100.0 * tally.per_message(tally.arrived);
                let again = 100.0 * tally.per_message(tally.again);
                let _ = writeln!(
                    table,
                    "{loss:>3} %  {:>3}  {:<4}  {arrived:>5.1} %  {again:>12.1} %  {:>12.1}  {:>11.1}",
                    qos as u8,
                    format!("{way:?}").to_lowercase(),
                    tally.per_message(tally.publishes),
                    tally.per_message(tally.pubrels),
                );
            }
        }
    }
    insta::assert_snapshot!(table);
}
