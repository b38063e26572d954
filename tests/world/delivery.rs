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
use gateway_core::io::Notice;
use sn_codec::{MsgType, QoS};
use snipe_sim::net::PathConfig;
use snipe_sim::sim_client::{Action, ClientConfig};
use snipe_sim::{ClientIx, World, WorldConfig};

/// Which way messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// What a run came to, one way.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    messages: usize,
    /// Messages that arrived at least once.
    arrived: usize,
    /// Arrivals beyond the first.
    again: usize,
    publishes: usize,
    pubrels: usize,
}

impl Tally {
    fn per_message(&self, count: usize) -> f64 {
        count as f64 / self.messages as f64
    }
}

/// A number of clients that publish, or are sent, a message a minute each.
struct Traffic {
    ways: &'static [Way],
    qos: QoS,
    path: PathConfig,
    clients: usize,
    hours: u64,
}

/// What a run came to.
struct Outcomes {
    /// By way, in the order asked for.
    tallies: Vec<Tally>,
    /// Sessions that the gateway lost or ended.
    sessions_lost: usize,
    /// Times a client gave up and connected anew.
    gave_up: usize,
}

impl Traffic {
    fn run(&self, seed: u64) -> Outcomes {
        let mut world = World::new(WorldConfig {
            seed,
            ..WorldConfig::default()
        });
        let config = |n| ClientConfig {
            clean: false,
            keep_alive: 300,
            retry_count: 5,
            ..ClientConfig::new(&format!("node-{n}"))
        };
        let clients: Vec<ClientIx> = (0..self.clients)
            .map(|n| world.add_connected(config(n)))
            .collect();
        for (n, client) in clients.iter().enumerate() {
            world.act(*client, Action::Register(format!("up/{n}")));
            world.subscribe(*client, format!("down/{n}").as_str(), self.qos);
        }
        world.run_for(Duration::from_secs(30));
        world.set_all_paths(self.path, self.path);
        let before: Vec<_> = self
            .ways
            .iter()
            .map(|way| sent_so_far(&world, *way, &clients))
            .collect();

        let mut messages: Vec<Vec<(ClientIx, Bytes)>> = vec![Vec::new(); self.ways.len()];
        let pause = Duration::from_secs(60) / (self.clients * self.ways.len()) as u32;
        for _ in 0..self.hours * 60 {
            for (n, client) in clients.iter().enumerate() {
                for (way, messages) in self.ways.iter().zip(&mut messages) {
                    let payload = match way {
                        Way::Up => world.publish(*client, format!("up/{n}").as_str(), self.qos),
                        Way::Down => world.external(&format!("down/{n}"), self.qos, false),
                    };
                    messages.push((*client, payload));
                    world.run_for(pause);
                }
            }
        }
        // What is still under way is brought to its end over the same network.
        world.run_for(Duration::from_secs(3600));

        let tally = |(at, way): (usize, &Way)| {
            let after = sent_so_far(&world, *way, &clients);
            let arrivals = arrivals(&world, *way, &clients);
            let of = |payload: &Bytes| arrivals.get(payload).copied().unwrap_or(0);
            let counts = messages[at].iter().map(|(_, payload)| of(payload));
            Tally {
                messages: messages[at].len(),
                arrived: counts.clone().filter(|count| *count > 0).count(),
                again: counts.map(|count| count.saturating_sub(1)).sum(),
                publishes: after.0 - before[at].0,
                pubrels: after.1 - before[at].1,
            }
        };
        let tallies = self.ways.iter().enumerate().map(tally).collect();
        let ended = |notice: &Notice| matches!(notice, Notice::Lost { .. } | Notice::Disconnected { .. });
        let outcomes = Outcomes {
            tallies,
            sessions_lost: world.notices.iter().filter(|(_, notice)| ended(notice)).count(),
            gave_up: clients.iter().map(|client| world.client(*client).gave_up).sum(),
        };
        world.settle();
        outcomes
    }
}

/// PUBLISHes and PUBRELs that senders of messages sent so far.
fn sent_so_far(world: &World, way: Way, clients: &[ClientIx]) -> (usize, usize) {
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

/// How often each payload arrived.
fn arrivals<'a>(world: &'a World, way: Way, clients: &[ClientIx]) -> BTreeMap<&'a Bytes, usize> {
    let payloads: Vec<&Bytes> = match way {
        Way::Up => world.broker.log.iter().map(|routed| &routed.payload).collect(),
        Way::Down => clients
            .iter()
            .flat_map(|client| &world.client(*client).delivered)
            .map(|delivered| &delivered.payload)
            .collect(),
    };
    let mut counts = BTreeMap::new();
    payloads
        .into_iter()
        .for_each(|payload| *counts.entry(payload).or_default() += 1);
    counts
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

/// A day of clients with a keep-alive of 300 s that publish a message a minute and are sent one, Tretry 10 s, Nretry 5,
/// and that connect again with their session and repeat when they give up.
fn keeps_the_promise(qos: QoS) {
    let traffic = Traffic {
        ways: &[Way::Up, Way::Down],
        qos,
        path: promised(),
        clients: 4,
        hours: 24,
    };
    let outcomes = traffic.run(1);
    for (way, tally) in traffic.ways.iter().zip(&outcomes.tallies) {
        let publishes = tally.per_message(tally.publishes);
        let pubrels = tally.per_message(tally.pubrels);
        println!("{qos:?} {way:?}: {tally:?}, {publishes:.3} PUBLISH and {pubrels:.3} PUBREL each");
        assert_eq!(tally.arrived, tally.messages, "{way:?}: every message arrives");
        assert!(publishes <= 2.2, "{way:?}: {publishes} PUBLISH per message");
        if qos == QoS::ExactlyOnce {
            assert_eq!(tally.again, 0, "{way:?}: exactly once");
            assert!(pubrels <= 2.2, "{way:?}: {pubrels} PUBREL per message");
        }
    }
    assert!(outcomes.gave_up > 0, "clients that never give up would show less");
    assert_eq!(outcomes.sessions_lost, 0, "no session is lost at the gateway");
}

#[test]
fn a_day_at_thirty_percent_loss_qos_1() {
    keeps_the_promise(QoS::AtLeastOnce);
}

#[test]
fn a_day_at_thirty_percent_loss_qos_2() {
    keeps_the_promise(QoS::ExactlyOnce);
}

/// Delivery and cost over loss, QoS and direction: 1,440 messages each, of the clients of the promise.
#[test]
fn table_of_delivery_and_transmissions() {
    let mut table = String::from("loss  QoS  way   arrived  more than once  PUBLISH each  PUBREL each\n");
    for loss in [0, 1, 5, 10, 20, 30, 40] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let traffic = Traffic {
                ways: &[Way::Up, Way::Down],
                qos,
                path: PathConfig::lossy(f64::from(loss) / 100.0),
                clients: 4,
                hours: 6,
            };
            for (way, tally) in traffic.ways.iter().zip(traffic.run(1).tallies) {
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
