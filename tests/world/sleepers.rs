//! Many sleeping clients at once, and nodes behind forwarders that come, go and restart.

use core::time::Duration;

use bytes::Bytes;
use gateway_core::config::{ForwarderRule, GatewayConfig, Limits, PeerMatch};
use sn_codec::QoS;
use snipe_sim::net::PathConfig;
use snipe_sim::sim_client::{ClientConfig, TopicForm};
use snipe_sim::{ClientIx, ForwarderIx, World, WorldConfig};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Room for so many clients that all come at once.
fn roomy(clients: usize) -> GatewayConfig {
    GatewayConfig {
        advertise_interval: None,
        limits: Limits {
            clients,
            new_sessions_per_second: 0,
            ..Limits::default()
        },
        ..GatewayConfig::default()
    }
}

fn add_clients(world: &mut World, count: usize, config: impl Fn(String) -> ClientConfig) -> Vec<ClientIx> {
    let clients = (0..count).map(|n| world.add_client(config(format!("node-{n}"))));
    clients.collect()
}

fn all_subscribe(world: &mut World, clients: &[ClientIx], filter: &str, qos: QoS) {
    for client in clients {
        world.subscribe(*client, filter, qos);
    }
    world.run_for(MINUTE);
    let topic = TopicForm::Name(filter.to_owned());
    for client in clients {
        assert!(world.client(*client).subscribed.contains_key(&topic));
    }
}

fn payloads(world: &World, client: ClientIx) -> Vec<&Bytes> {
    let delivered = &world.client(client).delivered;
    delivered.iter().map(|message| &message.payload).collect()
}

#[test]
fn ten_thousand_sleepers_wake_within_a_minute_and_get_their_messages_in_order_before_pingresp() {
    const SLEEPERS: usize = 10_000;
    let mut world = World::new(WorldConfig {
        gateway: roomy(SLEEPERS),
        link_credit: Some(64),
        // As the gateway takes them under load; and the world looks at everybody at every step.
        batch: Duration::from_millis(10),
        ..WorldConfig::default()
    });
    let sleepers = add_clients(&mut world, SLEEPERS, |id| ClientConfig::new(&id));
    for sleeper in &sleepers {
        world.connect(*sleeper);
    }
    world.run_for(SECOND * 30);
    // A wildcard: each has to be told the names of what it gets.
    all_subscribe(&mut world, &sleepers, "notice/+", QoS::ExactlyOnce);

    // They fall asleep one by one in the course of a minute, and so they wake.
    for sleeper in &sleepers {
        world.sleep(*sleeper, 600, u32::MAX);
        world.run_for(MINUTE / SLEEPERS as u32);
    }
    let sent: Vec<Bytes> = [
        ("notice/a", QoS::AtLeastOnce),
        ("notice/b", QoS::AtMostOnce),
        ("notice/a", QoS::ExactlyOnce),
        ("notice/c", QoS::AtLeastOnce),
        ("notice/b", QoS::ExactlyOnce),
    ]
    .into_iter()
    .map(|(topic, qos)| world.external(topic, qos, false))
    .collect();
    world.run_for(SECOND * 530);
    for sleeper in &sleepers {
        assert_eq!(world.client(*sleeper).delivered.len(), 0, "all sleep");
    }
    let row = |world: &mut World, name: &str| {
        let rows = world.metrics();
        rows.iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| *value)
    };
    assert_eq!(row(&mut world, "snipe_clients_asleep"), Some(SLEEPERS as u64));
    assert_eq!(
        row(&mut world, "snipe_buffer_messages"),
        Some((SLEEPERS * sent.len()) as u64)
    );

    world.run_for(SECOND * 80);

    // That PINGRESP came last and nothing outside of a wake-up is checked at every step by the world.
    let expected: Vec<&Bytes> = sent.iter().collect();
    for sleeper in &sleepers {
        assert_eq!(payloads(&world, *sleeper), expected);
        let client = world.client(*sleeper);
        assert_eq!(
            (client.wakes, client.missed_wakes),
            (1, 0),
            "{}",
            client.config.id
        );
    }
    assert_eq!(row(&mut world, "snipe_buffer_messages"), Some(0));
    assert_eq!(row(&mut world, "snipe_buffer_bytes"), Some(0));
    assert_eq!(row(&mut world, "snipe_retransmissions_total"), Some(0));
}

#[test]
fn sleepers_with_poor_radios_get_everything_in_order_within_a_few_wake_ups() {
    for seed in 1..=3 {
        let mut world = World::new(WorldConfig {
            seed,
            gateway: roomy(100),
            ..WorldConfig::default()
        });
        let sleepers = add_clients(&mut world, 50, |id| ClientConfig {
            clean: false,
            ..ClientConfig::new(&id)
        });
        for sleeper in &sleepers {
            world.connect(*sleeper);
        }
        world.run_for(MINUTE);
        all_subscribe(&mut world, &sleepers, "notice/#", QoS::AtLeastOnce);
        for sleeper in &sleepers {
            world.sleep(*sleeper, 120, u32::MAX);
        }
        world.run_for(MINUTE);
        world.set_all_paths(PathConfig::lossy(0.2), PathConfig::lossy(0.2));

        let mut sent = vec![];
        for round in 0..5 {
            sent.push(world.external(&format!("notice/{round}"), QoS::AtLeastOnce, false));
            world.run_for(MINUTE * 4);
            // Network address translation forgets who sleeps that long.
            for sleeper in sleepers.iter().skip(round).step_by(5) {
                world.rebind(*sleeper);
            }
        }
        world.run_for(MINUTE * 30);

        for sleeper in &sleepers {
            let mut got = payloads(&world, *sleeper);
            got.dedup(); // QoS 1 may come twice, and then at once.
            assert_eq!(got, sent.iter().collect::<Vec<_>>(), "seed {seed}");
        }
        world.settle();
    }
}

/// Clients behind a new forwarder, connected and subscribed to `notice/+` with QoS 2.
fn behind_a_forwarder(world: &mut World, count: usize) -> (ForwarderIx, Vec<ClientIx>) {
    let forwarder = world.add_forwarder();
    let nodes = add_clients(world, count, |id| ClientConfig {
        clean: false,
        retry_count: 10,
        ..ClientConfig::new(&id)
    });
    for node in &nodes {
        world.move_behind(*node, forwarder);
        world.connect(*node);
    }
    world.run_for(MINUTE);
    all_subscribe(world, &nodes, "notice/+", QoS::ExactlyOnce);
    (forwarder, nodes)
}

#[test]
fn fifty_nodes_behind_a_lossy_forwarder_get_and_send_everything_once() {
    for seed in 1..=3 {
        let mut world = World::new(WorldConfig {
            seed,
            gateway: roomy(100),
            ..WorldConfig::default()
        });
        let (forwarder, nodes) = behind_a_forwarder(&mut world, 50);
        world.set_forwarder_paths(forwarder, PathConfig::lossy(0.2), PathConfig::lossy(0.2));
        let down = world.external("notice/all", QoS::ExactlyOnce, false);
        let up: Vec<Bytes> = nodes
            .iter()
            .map(|node| world.publish(*node, "up", QoS::ExactlyOnce))
            .collect();
        world.settle();
        for node in &nodes {
            assert_eq!(payloads(&world, *node), [&down], "seed {seed}");
        }
        for payload in &up {
            let taken = world.broker.log.iter().filter(|routed| routed.payload == payload);
            assert_eq!(taken.count(), 1, "seed {seed}");
        }
    }
}

#[test]
fn nodes_of_a_forwarder_that_restarts_come_back_by_themselves() {
    let mut world = World::new(WorldConfig {
        gateway: roomy(100),
        ..WorldConfig::default()
    });
    let (forwarder, nodes) = behind_a_forwarder(&mut world, 50);
    // Half of them sleep through it.
    for node in &nodes[..25] {
        world.sleep(*node, 120, u32::MAX);
    }
    world.run_for(SECOND * 30);
    world.switch_forwarder(forwarder, false);
    let meanwhile = world.external("notice/a", QoS::AtLeastOnce, false);
    world.run_for(SECOND * 20);
    world.restart_forwarder(forwarder);
    world.switch_forwarder(forwarder, true);
    world.run_for(MINUTE * 5);
    let after = world.external("notice/b", QoS::AtLeastOnce, false);
    world.run_for(MINUTE * 5);
    for node in &nodes {
        assert_eq!(
            payloads(&world, *node),
            [&meanwhile, &after],
            "{}",
            world.client(*node).config.id
        );
    }
    world.settle();
}

#[test]
fn nodes_roam_between_forwarders_and_keep_their_sessions() {
    let mut world = World::new(WorldConfig {
        gateway: roomy(100),
        ..WorldConfig::default()
    });
    let (_, nodes) = behind_a_forwarder(&mut world, 20);
    let other = world.add_forwarder();
    let mut sent = vec![];
    for round in 0..5 {
        for node in nodes.iter().skip(round % 2).step_by(2) {
            world.move_behind(*node, other);
        }
        world.run_for(MINUTE * 2);
        sent.push(world.external(&format!("notice/{round}"), QoS::ExactlyOnce, false));
        world.run_for(MINUTE);
    }
    for node in &nodes {
        assert_eq!(payloads(&world, *node), sent.iter().collect::<Vec<_>>());
    }
    world.settle();
}

#[test]
fn nodes_of_an_unlisted_forwarder_get_no_answer_and_those_of_a_listed_one_do() {
    let mut config = roomy(100);
    config.forwarders = vec![ForwarderRule {
        name: "nobody".into(),
        peers: PeerMatch {
            link: None,
            source: Some("192.0.2.99/32".parse().expect("an address")),
        },
        max_nodes: 0,
        packets_per_second: 0,
    }];
    let mut world = World::new(WorldConfig {
        gateway: config,
        ..WorldConfig::default()
    });
    let forwarder = world.add_forwarder();
    let node = world.add_client(ClientConfig::new("node"));
    world.move_behind(node, forwarder);
    world.connect(node);
    world.run_for(MINUTE * 10);
    assert!(!world.client(node).is_active());
    assert_eq!(world.transmits(), 0);
    // The radio is not the matter: without the forwarder the node is welcome.
    world.rebind(node);
    world.run_for(MINUTE);
    assert!(world.client(node).is_active());
}
