//! Networks that change under their clients, forwarders, and a gateway that starts anew.

use core::time::Duration;

use bytes::Bytes;
use sn_codec::{
    Connect, MsgId, MsgType, Packet, QoS, Register, Subscribe, TopicFilter, TopicId, WillMsg, WillTopic,
};
use snipe_sim::net::{Burst, PathConfig};
use snipe_sim::sim_broker::BrokerConfig;
use snipe_sim::sim_client::{ClientConfig, Outcome, Presence, TopicForm};
use snipe_sim::{ClientIx, ForwarderIx, World, WorldConfig, will};

const QOS1: QoS = QoS::AtLeastOnce;
const QOS2: QoS = QoS::ExactlyOnce;

// Network address translation.

#[test]
fn sleeper_with_another_address_at_its_wake_up_gets_its_messages_there() {
    let mut world = world();
    let node = sleeper(&mut world, ClientConfig::new("node"), QOS2);
    for _ in 0..3 {
        let before = received(&world, node).len();
        world.rebind(node);
        let message = world.external("a/b", QOS2, false);
        world.run_for(Duration::from_secs(70));
        assert_eq!(received(&world, node).get(before), Some(&&message));
    }
    assert_eq!(world.client(node).kicked, 0);
    world.settle();
}

#[test]
fn active_client_with_another_address_is_told_and_begins_again_there() {
    let mut world = world();
    let node = world.add_connected(kept("node"));
    subscribe(&mut world, node, "a/b", QOS1);
    world.rebind(node);
    let message = world.external("a/b", QOS1, false);
    let sent = world.publish(node, "a/c", QOS1);
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.client(node).kicked, 1, "reading A13");
    assert_eq!(outcome(&world, node, &sent), Some(Outcome::Acknowledged));
    assert_eq!(received(&world, node), [&message]);
    world.settle();
}

// Sleep over bad networks.

#[test]
fn sleepers_get_everything_once_and_in_order_through_bursts_of_loss() {
    let path = PathConfig {
        burst: Some(Burst {
            enter: 0.1,
            leave: 0.3,
            loss: 0.9,
        }),
        duplicate: 0.1,
        ..PathConfig::lossy(0.1)
    };
    for seed in 1..=5 {
        let mut world = world_of(seed);
        // It may be lost at the gateway meanwhile, so it keeps its session.
        let node = sleeper(&mut world, kept("node"), QOS2);
        world.set_all_paths(path, path);
        let mut messages = Vec::new();
        for _ in 0..30 {
            messages.push(world.external("a/b", QOS2, false));
            world.run_for(Duration::from_secs(50));
        }
        world.settle();
        assert_eq!(received(&world, node), messages.iter().collect::<Vec<_>>());
        assert!(world.client(node).missed_wakes > 0, "the network was that bad");
    }
}

#[test]
fn will_of_a_sleeper_is_published_when_it_does_not_wake_and_not_before() {
    let mut world = world();
    let node = world.add_connected(ClientConfig {
        will: Some(will("wills/node", "gone")),
        keep_alive: 20,
        ..ClientConfig::new("node")
    });
    // Longer than its keep-alive.
    world.sleep(node, 600, u32::MAX);
    world.run_for(Duration::from_secs(3600));
    assert_eq!(world.broker.count(b"gone"), 0, "reading A72");
    world.vanish(node);
    let last_heard = world.now();
    world.run_until(Duration::from_secs(901), |world| world.broker.count(b"gone") == 1);
    assert!(world.now().since(last_heard) >= Duration::from_secs(300));
    world.settle();
    assert_eq!(world.broker.count(b"gone"), 1);
}

#[test]
fn broker_that_forgets_everything_costs_a_sleeper_nothing_that_came_before_or_after() {
    for keep_sessions in [true, false] {
        let mut world = world();
        let node = sleeper(&mut world, ClientConfig::new("node"), QOS2);
        let before = world.external("a/b", QOS2, false);
        world.run_for(Duration::from_secs(5));
        world.broker_down(keep_sessions);
        world.run_for(Duration::from_secs(5));
        world.broker_up();
        world.run_for(Duration::from_secs(5));
        let after = world.external("a/b", QOS2, false);
        world.settle();
        assert_eq!(received(&world, node), [&before, &after]);
    }
}

#[test]
fn topic_id_of_a_suback_that_was_never_sent_is_registered_before_its_use() {
    let second = Duration::from_secs(1);
    let mut world = World::new(WorldConfig {
        broker: BrokerConfig {
            latency_min: second,
            latency_max: second,
            ..BrokerConfig::default()
        },
        trace: true,
        ..WorldConfig::default()
    });
    let node = world.add_connected(ClientConfig {
        will: Some(will("wills/node", "gone")),
        ..ClientConfig::new("node")
    });
    world.sleep(node, 60, u32::MAX);
    world.run_for(second * 5);
    // It asks while asleep and returns at once, so the broker answers in the middle of its handshake (§6.14).
    let subscribe = Subscribe {
        dup: false,
        qos: QOS1,
        msg_id: MsgId(500),
        topic: TopicFilter::Name("a/b"),
    };
    let connect = Connect {
        will: true,
        clean_session: true,
        duration: 60,
        client_id: "node",
    };
    let topic = WillTopic {
        qos: QOS1,
        retain: false,
        topic: "wills/node",
    };
    inject(&mut world, node, Packet::Subscribe(subscribe));
    inject(&mut world, node, Packet::Connect(connect));
    world.run_for(second * 3);
    inject(&mut world, node, Packet::WillTopic(Some(topic)));
    inject(&mut world, node, Packet::WillMsg(WillMsg { message: b"gone" }));
    world.run_for(second);
    world.external("a/b", QOS1, false);
    // The world knows which ids the client was told.
    world.run_for(second * 5);
    let registers = world.sent_count(MsgType::Register);
    assert_eq!(registers, 1);
}

#[test]
fn topic_id_of_a_regack_that_was_taken_back_is_registered_before_its_use() {
    let mut world = World::new(WorldConfig {
        batch: Duration::from_millis(50),
        trace: true,
        ..WorldConfig::default()
    });
    let node = world.add_connected(ClientConfig::new("node"));
    subscribe(&mut world, node, "a/+", QOS1);
    world.sleep(node, 60, u32::MAX);
    world.run_for(Duration::from_secs(5));
    // The CONNECT comes before the REGACK has left, and answers of before are not sent after it.
    let register = Register {
        topic_id: TopicId::NONE,
        msg_id: MsgId(500),
        topic_name: "a/b",
    };
    let connect = Connect {
        will: false,
        clean_session: true,
        duration: 60,
        client_id: "node",
    };
    inject(&mut world, node, Packet::Register(register));
    inject(&mut world, node, Packet::Connect(connect));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.sent_count(MsgType::Regack), 0);
    world.external("a/b", QOS1, false);
    // The world knows which ids the client was told.
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.sent_count(MsgType::Register), 1);
}

// Forwarders.

#[test]
fn nodes_behind_one_forwarder_are_told_apart() {
    let mut world = world();
    let (forwarder, nodes) = behind(&mut world, 5);
    let sent: Vec<Bytes> = nodes
        .iter()
        .map(|node| world.publish(*node, "up", QOS2))
        .collect();
    let messages: Vec<Bytes> = (0..nodes.len())
        .map(|n| world.external(&format!("down/{n}"), QOS2, false))
        .collect();
    world.settle();
    for (n, node) in nodes.iter().enumerate() {
        assert_eq!(outcome(&world, *node, &sent[n]), Some(Outcome::Acknowledged));
        assert_eq!(world.broker.count(&sent[n]), 1);
        assert_eq!(received(&world, *node), [&messages[n]]);
    }
    assert!(world.address(nodes[0]).node.is_some(), "behind {forwarder:?}");
}

#[test]
fn forwarder_that_restarts_with_another_address_keeps_its_sleepers() {
    let mut world = world();
    let (forwarder, nodes) = behind(&mut world, 5);
    for node in &nodes {
        world.sleep(*node, 60, u32::MAX);
    }
    world.run_for(Duration::from_secs(10));
    let messages: Vec<Bytes> = (0..nodes.len())
        .map(|n| world.external(&format!("down/{n}"), QOS1, false))
        .collect();
    world.restart_forwarder(forwarder);
    world.run_for(Duration::from_secs(70));
    for (n, node) in nodes.iter().enumerate() {
        assert_eq!(received(&world, *node), [&messages[n]]);
        assert_eq!(world.client(*node).kicked, 0);
    }
    world.settle();
}

#[test]
fn forwarder_that_is_off_for_a_while_costs_no_message() {
    let mut world = world();
    let (forwarder, nodes) = behind(&mut world, 3);
    world.switch_forwarder(forwarder, false);
    let sent: Vec<Bytes> = nodes
        .iter()
        .map(|node| world.publish(*node, "up", QOS1))
        .collect();
    let messages: Vec<Bytes> = (0..nodes.len())
        .map(|n| world.external(&format!("down/{n}"), QOS1, false))
        .collect();
    // Longer than their keep-alive: the gateway loses them, and keeps what is theirs.
    world.run_for(Duration::from_secs(300));
    world.switch_forwarder(forwarder, true);
    world.settle();
    for (n, node) in nodes.iter().enumerate() {
        assert_eq!(outcome(&world, *node, &sent[n]), Some(Outcome::Acknowledged));
        assert_eq!(received(&world, *node), [&messages[n]]);
    }
}

#[test]
fn sleeper_roams_between_forwarders_and_out_of_them() {
    let mut world = world();
    let (one, nodes) = behind(&mut world, 1);
    let other = world.add_forwarder();
    let node = nodes[0];
    world.sleep(node, 60, u32::MAX);
    world.run_for(Duration::from_secs(10));
    let mut messages = Vec::new();
    for place in [Some(other), None, Some(one), Some(other)] {
        match place {
            Some(forwarder) => world.move_behind(node, forwarder),
            None => world.rebind(node),
        }
        messages.push(world.external("down/0", QOS2, false));
        world.run_for(Duration::from_secs(65));
    }
    assert_eq!(received(&world, node), messages.iter().collect::<Vec<_>>());
    assert_eq!(world.client(node).kicked, 0);
    world.settle();
}

// A gateway that starts anew, knowing nothing.

#[test]
fn clients_find_their_way_back_to_a_gateway_that_starts_anew() {
    for seed in 1..=5 {
        let mut world = world_of(seed);
        let sensor = world.add_connected(ClientConfig::new("sensor"));
        let panel = world.add_connected(ClientConfig::new("panel"));
        subscribe(&mut world, panel, "a/+", QOS1);
        let before = world.publish(sensor, "a/b", QOS2);
        world.run_for(Duration::from_secs(5));
        world.restart_gateway();
        let after = world.publish(sensor, "a/b", QOS2);
        world.run_for(Duration::from_secs(120));
        assert_eq!(world.client(panel).presence(), Presence::Active);
        let last = world.external("a/c", QOS1, false);
        world.settle();
        for sent in [&before, &after] {
            assert_eq!(outcome(&world, sensor, sent), Some(Outcome::Acknowledged));
            assert!(world.broker.count(sent) >= 1);
        }
        assert_eq!(received(&world, panel).last(), Some(&&last), "subscribed again");
    }
}

#[test]
fn what_a_client_was_never_acknowledged_survives_the_gateway() {
    let mut world = world();
    let sensor = world.add_connected(ClientConfig::new("sensor"));
    world.broker_down(true);
    let sent: Vec<Bytes> = (0..3).map(|_| world.publish(sensor, "a/b", QOS1)).collect();
    world.run_for(Duration::from_secs(5));
    assert_eq!(outcome(&world, sensor, &sent[0]), None, "it waits in memory");
    world.restart_gateway();
    world.settle();
    for sent in &sent {
        assert_eq!(outcome(&world, sensor, sent), Some(Outcome::Acknowledged));
        assert!(world.broker.count(sent) >= 1);
    }
}

#[test]
fn sleeper_of_an_earlier_gateway_is_told_and_connects() {
    let mut world = world();
    let node = sleeper(&mut world, ClientConfig::new("node"), QOS1);
    world.restart_gateway();
    world.run_for(Duration::from_secs(120));
    assert_eq!(
        world.client(node).kicked,
        1,
        "reading A16: no PINGRESP from a stranger"
    );
    assert_eq!(world.client(node).presence(), Presence::Asleep, "and sleeps on");
    let message = world.external("a/b", QOS1, false);
    world.run_for(Duration::from_secs(70));
    assert_eq!(received(&world, node), [&message]);
    world.settle();
}

// Helpers.

fn world() -> World {
    world_of(1)
}

fn world_of(seed: u64) -> World {
    World::new(WorldConfig {
        seed,
        trace: true,
        ..WorldConfig::default()
    })
}

fn kept(id: &str) -> ClientConfig {
    ClientConfig {
        clean: false,
        ..ClientConfig::new(id)
    }
}

/// A client that is subscribed to `a/b` and wakes every minute.
fn sleeper(world: &mut World, config: ClientConfig, qos: QoS) -> ClientIx {
    let node = world.add_connected(config);
    subscribe(world, node, "a/b", qos);
    world.sleep(node, 60, u32::MAX);
    world.run_for(Duration::from_secs(5));
    node
}

/// Clients with kept sessions behind one forwarder, each subscribed to a topic of its own.
fn behind(world: &mut World, count: usize) -> (ForwarderIx, Vec<ClientIx>) {
    let forwarder = world.add_forwarder();
    let nodes: Vec<ClientIx> = (0..count)
        .map(|n| {
            let node = world.add_client(kept(&format!("node-{n}")));
            world.move_behind(node, forwarder);
            world.connect(node);
            subscribe(world, node, format!("down/{n}").as_str(), QOS2);
            node
        })
        .collect();
    (forwarder, nodes)
}

fn subscribe(world: &mut World, client: ClientIx, topic: &str, qos: QoS) {
    world.subscribe(client, topic, qos);
    let form = TopicForm::from(topic);
    world.run_until(Duration::from_secs(600), |world| {
        world.client(client).subscribed.contains_key(&form)
    });
}

fn inject(world: &mut World, client: ClientIx, packet: Packet<'_>) {
    let mut datagram = Vec::new();
    packet.encode(&mut datagram);
    let route = world.route(client).clone();
    world.inject(&route, &datagram);
}

fn outcome(world: &World, client: ClientIx, payload: &Bytes) -> Option<Outcome> {
    world.client(client).outcomes.get(payload).copied()
}

fn received(world: &World, client: ClientIx) -> Vec<&Bytes> {
    world
        .client(client)
        .delivered
        .iter()
        .map(|d| &d.payload)
        .collect()
}
