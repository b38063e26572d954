//! Named scenarios.

use core::time::Duration;

use bytes::Bytes;
use gateway_core::config::{GatewayConfig, Limits, PredefinedTopic};
use gateway_core::io::{ConnId, Notice, Refusal};
use sn_codec::{
    Connect, MsgId, Packet, Publish, PublishQoS, QoS, ReturnCode, ShortTopic, Subscribe, TopicFilter,
    TopicId, TopicRef, WillTopic,
};
use snipe_sim::net::{Burst, PathConfig};
use snipe_sim::sim_broker::{BrokerConfig, Overlap};
use snipe_sim::sim_client::{Action, ClientConfig, Outcome, TopicForm};
use snipe_sim::{ClientIx, World, WorldConfig, will};

const QOS0: QoS = QoS::AtMostOnce;
const QOS1: QoS = QoS::AtLeastOnce;
const QOS2: QoS = QoS::ExactlyOnce;

// Loss.

#[test]
fn thirty_percent_loss_qos_1_up_all_arrive() {
    uplinks_survive(lossy(), QOS1, 40);
}

#[test]
fn thirty_percent_loss_qos_2_up_all_arrive_once() {
    uplinks_survive(lossy(), QOS2, 40);
}

#[test]
fn thirty_percent_loss_qos_1_down_all_arrive() {
    downlinks_survive(lossy(), QOS1, 40);
}

#[test]
fn thirty_percent_loss_qos_2_down_all_arrive_once() {
    downlinks_survive(lossy(), QOS2, 40);
}

#[test]
fn bursts_of_loss_qos_1_both_ways_all_arrive() {
    let burst = Burst {
        enter: 0.05,
        leave: 0.2,
        loss: 0.9,
    };
    let path = PathConfig {
        burst: Some(burst),
        ..PathConfig::CLEAN
    };
    uplinks_survive(path, QOS1, 40);
    downlinks_survive(path, QOS1, 40);
}

#[test]
fn duplicates_and_reordering_keep_qos_2_exactly_once() {
    let path = PathConfig {
        duplicate: 0.3,
        reorder: 0.3,
        // Shorter than an exchange is remembered: what is held back past a PUBREL is a new message by the protocol.
        reorder_by: Duration::from_millis(15),
        ..PathConfig::CLEAN
    };
    uplinks_survive(path, QOS2, 100);
    downlinks_survive(path, QOS2, 100);
}

#[test]
fn duplicates_and_reordering_over_many_seconds_lose_nothing() {
    let path = PathConfig {
        duplicate: 0.2,
        reorder: 0.2,
        reorder_by: Duration::from_secs(12),
        loss: 0.1,
        ..PathConfig::CLEAN
    };
    for seed in 1..=5 {
        let mut world = world(WorldConfig {
            seed,
            up: path,
            down: path,
            ..WorldConfig::default()
        });
        let sensor = world.add_connected(kept("sensor"));
        let panel = world.add_connected(kept("panel"));
        subscribe_and_wait(&mut world, panel, "a/b", QOS1);
        let sent: Vec<Bytes> = (0..20).map(|_| world.publish(sensor, "a/b", QOS1)).collect();
        world.settle();
        for payload in &sent {
            assert_eq!(outcome(&world, sensor, payload), Some(Outcome::Acknowledged));
            assert!(received(&world, panel, payload) >= 1, "{payload:?}");
        }
    }
}

// The broker.

#[test]
fn broker_down_at_start_messages_wait_unacknowledged() {
    let mut world = world(WorldConfig {
        broker: BrokerConfig {
            up_at_start: false,
            ..BrokerConfig::default()
        },
        ..WorldConfig::default()
    });
    let sensor = world.add_connected(ClientConfig::new("sensor"));
    let panel = world.add_connected(ClientConfig::new("panel"));
    world.subscribe(panel, "a/b", QOS1);
    let one = world.publish(sensor, "a/b", QOS1);
    world.act(sensor, Action::Ping);
    world.run_for(Duration::from_secs(25));
    assert_eq!(
        outcome(&world, sensor, &one),
        None,
        "no PUBACK before the broker's"
    );
    assert_eq!(
        world.client(panel).subscribed.len(),
        1,
        "subscribing works meanwhile (A31)"
    );
    assert_eq!(world.client(sensor).kicked, 0);
    world.broker_up();
    world.run_for(Duration::from_secs(25));
    assert_eq!(outcome(&world, sensor, &one), Some(Outcome::Acknowledged));
    assert_eq!(world.broker.count(&one), 1);
    let two = world.external("a/b", QOS1, false);
    world.settle();
    assert_eq!(
        received(&world, panel, &two),
        1,
        "the subscription was carried out"
    );
}

#[test]
fn broker_drops_the_connection_in_flight_and_keeps_the_session() {
    broker_drops(true);
}

#[test]
fn broker_drops_the_connection_in_flight_and_loses_the_session() {
    broker_drops(false);
}

fn broker_drops(keep_sessions: bool) {
    for qos in [QOS1, QOS2] {
        let mut world = world(WorldConfig::default());
        let sensors: Vec<ClientIx> = (0..8)
            .map(|n| world.add_connected(ClientConfig::new(&format!("sensor-{n}"))))
            .collect();
        let panel = world.add_connected(ClientConfig::new("panel"));
        subscribe_and_wait(&mut world, panel, "s/#", qos);
        let mut sent = Vec::new();
        for _ in 0..10 {
            for (n, sensor) in sensors.iter().enumerate() {
                sent.push((*sensor, world.publish(*sensor, format!("s/{n}").as_str(), qos)));
            }
            world.run_for(Duration::from_millis(30));
            world.broker_down(keep_sessions);
            world.run_for(Duration::from_secs(3));
            world.broker_up();
            world.run_for(Duration::from_secs(3));
        }
        world.settle();
        for (sensor, payload) in &sent {
            assert_eq!(outcome(&world, *sensor, payload), Some(Outcome::Acknowledged));
            assert!(world.broker.count(payload) >= 1);
            if qos == QOS2 && keep_sessions {
                assert_eq!(world.broker.count(payload), 1, "exactly once: {payload:?}");
                assert_eq!(received(&world, panel, payload), 1, "exactly once: {payload:?}");
            }
        }
        for (n, sensor) in sensors.iter().enumerate() {
            let mine: Vec<&Bytes> = sent
                .iter()
                .filter(|(s, _)| s == sensor)
                .map(|(_, payload)| payload)
                .collect();
            assert_eq!(
                first_arrivals(&world, &format!("s/{n}")),
                mine,
                "in the order sent"
            );
        }
        // The gateway subscribed again where it had to.
        let after = world.external("s/after", qos, false);
        world.settle();
        assert_eq!(received(&world, panel, &after), 1);
    }
}

#[test]
fn qos_2_acknowledgement_outlives_a_broken_connection() {
    // One request at a time, so that the Ack still waits when the connection breaks.
    let broker = BrokerConfig {
        credit: 1,
        latency_min: Duration::from_millis(200),
        latency_max: Duration::from_millis(200),
        ..BrokerConfig::default()
    };
    let mut world = world(WorldConfig {
        broker,
        ..WorldConfig::default()
    });
    let panel = world.add_connected(ClientConfig::new("panel"));
    subscribe_and_wait(&mut world, panel, "a/b", QOS2);
    let sent: Vec<Bytes> = (0..5).map(|_| world.external("a/b", QOS2, false)).collect();
    world.run_for(Duration::from_millis(250));
    world.broker_down(true);
    world.run_for(Duration::from_secs(2));
    // The broker's receive window is given back: `settle` waits until nothing is unacknowledged there.
    world.settle();
    for payload in &sent {
        assert_eq!(received(&world, panel, payload), 1);
    }
}

#[test]
fn subscription_accepted_while_away_is_carried_out_over_a_kept_session() {
    for overlap in [
        Overlap::OneCopyWithIds,
        Overlap::CopyPerFilter,
        Overlap::OneCopyWithoutIds,
    ] {
        let broker = BrokerConfig {
            overlap,
            ..BrokerConfig::default()
        };
        let mut world = world(WorldConfig {
            broker,
            ..WorldConfig::default()
        });
        let early = world.add_connected(ClientConfig::new("early"));
        let late = world.add_connected(ClientConfig::new("late"));
        subscribe_and_wait(&mut world, early, "a/b", QOS0);
        subscribe_and_wait(&mut world, late, "#", QOS1);
        let retained = world.external("a/c", QOS1, true);
        world.run_for(Duration::from_secs(20));
        world.broker_down(true);
        // The filter stands at the broker with QoS 0 and without the late one's retained message.
        subscribe_and_wait(&mut world, early, "a/+", QOS1);
        subscribe_and_wait(&mut world, late, "a/b", QOS1);
        let missed = world.external("a/b", QOS1, false);
        world.broker_up();
        world.run_for(Duration::from_secs(10));
        let next = world.external("a/b", QOS1, false);
        world.settle();
        assert_eq!(received(&world, early, &retained), 1, "{overlap:?}");
        assert_eq!(received(&world, late, &missed), 1, "{overlap:?}");
        let qos_of_next = world
            .client(late)
            .delivered
            .iter()
            .find(|d| d.payload == next)
            .map(|d| d.qos);
        assert_eq!(qos_of_next, Some(QOS1), "{overlap:?}");
    }
}

#[test]
fn qos_2_exchange_is_not_ended_by_an_earlier_copy() {
    for seed in 1..=10 {
        let broker = BrokerConfig {
            settle_max: Duration::from_secs(2),
            ..BrokerConfig::default()
        };
        let mut world = world(WorldConfig {
            seed,
            broker,
            ..WorldConfig::default()
        });
        let sensor = world.add_connected(ClientConfig::new("sensor"));
        let payload = world.publish(sensor, TopicForm::Short(*b"xy"), QOS2);
        world.run_for(Duration::from_millis(50));
        // The network repeats its CONNECT, and then the PUBLISH under the same message id.
        let route = world.route(sensor).clone();
        let connect = Connect {
            will: false,
            clean_session: true,
            duration: 60,
            client_id: "sensor",
        };
        let publish = Publish {
            dup: false,
            qos: PublishQoS::Level(QOS2),
            retain: false,
            topic: TopicRef::Short(ShortTopic(*b"xy")),
            msg_id: MsgId(1),
            data: &payload,
        };
        world.inject(&route, &encoded(&Packet::Connect(connect)));
        world.inject(&route, &encoded(&Packet::Publish(publish)));
        // Both outcomes come before the client has heard of the first. The world knows that no PUBACK without error
        // answers QoS 2.
        world.set_paths(sensor, PathConfig::CLEAN, PathConfig::lossy(1.0));
        world.run_for(Duration::from_secs(5));
        world.settle();
        assert_eq!(outcome(&world, sensor, &payload), Some(Outcome::Acknowledged));
    }
}

#[test]
fn late_copy_of_a_released_qos_2_message_is_not_published_again() {
    let mut world = world(WorldConfig::default());
    let sensor = world.add_connected(ClientConfig::new("sensor"));
    let payload = world.publish(sensor, TopicForm::Short(*b"xy"), QOS2);
    world.run_for(Duration::from_secs(2));
    assert_eq!(outcome(&world, sensor, &payload), Some(Outcome::Acknowledged));
    let route = world.route(sensor).clone();
    for dup in [false, true] {
        let publish = Publish {
            dup,
            qos: PublishQoS::Level(QOS2),
            retain: false,
            topic: TopicRef::Short(ShortTopic(*b"xy")),
            msg_id: MsgId(1),
            data: &payload,
        };
        world.inject(&route, &encoded(&Packet::Publish(publish)));
    }
    world.settle();
    assert_eq!(world.broker.count(&payload), 1);
}

#[test]
fn full_queue_answers_congestion_and_nothing_is_lost() {
    let mut world = world(WorldConfig {
        gateway: GatewayConfig {
            limits: Limits {
                queue_messages: 4,
                ..Limits::default()
            },
            advertise_interval: None,
            ..GatewayConfig::default()
        },
        broker: BrokerConfig {
            up_at_start: false,
            ..BrokerConfig::default()
        },
        ..WorldConfig::default()
    });
    let sensors: Vec<ClientIx> = (0..10)
        .map(|n| world.add_connected(ClientConfig::new(&format!("sensor-{n}"))))
        .collect();
    let sent: Vec<(ClientIx, Bytes)> = sensors
        .iter()
        .map(|s| (*s, world.publish(*s, "a/b", QOS1)))
        .collect();
    world.run_for(Duration::from_secs(5));
    let refused = sensors
        .iter()
        .filter(|s| {
            world
                .client(**s)
                .rejections
                .contains(&("PUBACK", ReturnCode::Congestion))
        })
        .count();
    assert_eq!(refused, 6, "four wait, the others are told");
    world.settle();
    for (sensor, payload) in &sent {
        assert_eq!(outcome(&world, *sensor, payload), Some(Outcome::Acknowledged));
        assert_eq!(world.broker.count(payload), 1);
    }
}

#[test]
fn narrow_window_and_credit_are_respected_by_many_clients() {
    let mut world = world(WorldConfig {
        broker: BrokerConfig {
            window: 3,
            credit: 2,
            settle_max: Duration::from_millis(300),
            ..BrokerConfig::default()
        },
        ..WorldConfig::default()
    });
    let sensors: Vec<ClientIx> = (0..50)
        .map(|n| world.add_connected(ClientConfig::new(&format!("sensor-{n}"))))
        .collect();
    let sent: Vec<(ClientIx, Bytes)> = sensors
        .iter()
        .flat_map(|s| [*s; 4])
        .map(|s| (s, world.publish(s, "a/b", QOS1)))
        .collect();
    world.settle();
    for (sensor, payload) in &sent {
        assert_eq!(outcome(&world, *sensor, payload), Some(Outcome::Acknowledged));
        assert_eq!(world.broker.count(payload), 1);
    }
}

#[test]
fn a_thousand_clients_publish_at_once() {
    let mut world = world(WorldConfig {
        up: PathConfig::lossy(0.05),
        down: PathConfig::lossy(0.05),
        ..WorldConfig::default()
    });
    let sensors: Vec<ClientIx> = (0..1000)
        .map(|n| world.add_client(ClientConfig::new(&format!("sensor-{n}"))))
        .collect();
    sensors.iter().for_each(|sensor| world.connect(*sensor));
    let sent: Vec<(ClientIx, Bytes)> = sensors
        .iter()
        .map(|s| (*s, world.publish(*s, "a/b", QOS1)))
        .collect();
    world.settle();
    for (sensor, payload) in &sent {
        assert_eq!(outcome(&world, *sensor, payload), Some(Outcome::Acknowledged));
        assert!(world.broker.count(payload) >= 1);
    }
}

#[test]
fn refused_publish_and_subscription_are_refused_to_the_client() {
    let mut world = world(WorldConfig {
        broker: BrokerConfig {
            refuse: vec![
                ("secret/".into(), Refusal(0x87)),
                ("busy/".into(), Refusal::QUOTA_EXCEEDED),
            ],
            ..BrokerConfig::default()
        },
        ..WorldConfig::default()
    });
    let sensor = world.add_connected(ClientConfig::new("sensor"));
    let refused: Vec<Bytes> = [QOS1, QOS2]
        .map(|qos| world.publish(sensor, "secret/x", qos))
        .into();
    world.subscribe(sensor, "secret/#", QOS1);
    world.run_for(Duration::from_secs(5));
    for payload in &refused {
        assert_eq!(
            outcome(&world, sensor, payload),
            Some(Outcome::Rejected(ReturnCode::NotSupported))
        );
    }
    assert!(
        world
            .client(sensor)
            .rejections
            .contains(&("SUBACK", ReturnCode::NotSupported))
    );
    assert!(world.client(sensor).subscribed.is_empty());
    world.publish(sensor, "busy/x", QOS1);
    world.run_for(Duration::from_secs(5));
    assert_eq!(
        world.client(sensor).rejections.last(),
        Some(&("PUBACK", ReturnCode::Congestion))
    );
}

#[test]
fn subscription_accepted_while_away_and_then_refused_ends_the_session() {
    let mut world = world(WorldConfig {
        broker: BrokerConfig {
            up_at_start: false,
            refuse: vec![("secret/".into(), Refusal(0x87))],
            ..BrokerConfig::default()
        },
        ..WorldConfig::default()
    });
    let panel = world.add_connected(ClientConfig::new("panel"));
    world.subscribe(panel, "secret/#", QOS1);
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.client(panel).subscribed.len(), 1);
    world.broker_up();
    world.settle();
    assert_eq!(world.client(panel).kicked, 1, "A31, A78");
    assert!(world.client(panel).subscribed.is_empty());
    assert!(
        world
            .client(panel)
            .rejections
            .contains(&("SUBACK", ReturnCode::NotSupported))
    );
}

// Wills.

#[test]
fn will_of_a_lost_client_is_published_exactly_once() {
    for path in [PathConfig::CLEAN, lossy()] {
        let mut world = world(WorldConfig {
            up: path,
            down: path,
            ..WorldConfig::default()
        });
        let config = ClientConfig {
            will: Some(will("wills/sensor", "gone")),
            ..ClientConfig::new("sensor")
        };
        let sensor = world.add_connected(config);
        world.vanish(sensor);
        world.run_for(Duration::from_secs(300));
        assert_eq!(world.broker.count(b"gone"), 1);
        assert!(
            world
                .notices
                .iter()
                .any(|(_, n)| matches!(n, Notice::Lost { will: true, .. }))
        );
        world.settle();
        assert_eq!(world.broker.count(b"gone"), 1);
    }
}

#[test]
fn no_will_after_disconnect() {
    let mut world = world(WorldConfig::default());
    let config = ClientConfig {
        will: Some(will("wills/sensor", "gone")),
        ..ClientConfig::new("sensor")
    };
    let sensor = world.add_connected(config);
    world.disconnect(sensor);
    world.run_for(Duration::from_secs(10));
    world.vanish(sensor);
    world.run_for(Duration::from_secs(600));
    assert_eq!(world.broker.count(b"gone"), 0);
    world.settle();
}

#[test]
fn updated_will_is_the_one_published() {
    let mut world = world(WorldConfig::default());
    let config = ClientConfig {
        will: Some(will("wills/sensor", "first")),
        ..ClientConfig::new("sensor")
    };
    let sensor = world.add_connected(config);
    world.act(
        sensor,
        Action::UpdateWillTopic(Some(will("wills/other", "first"))),
    );
    world.act(sensor, Action::UpdateWillMessage(Bytes::from_static(b"second")));
    world.run_for(Duration::from_secs(5));
    world.vanish(sensor);
    world.run_for(Duration::from_secs(300));
    assert_eq!(world.broker.count(b"first"), 0);
    assert_eq!(world.broker.count(b"second"), 1);
    let routed = world
        .broker
        .log
        .iter()
        .find(|r| r.payload == "second")
        .expect("counted above");
    assert_eq!(&*routed.topic, "wills/other");
    world.settle();
}

#[test]
fn will_of_a_client_lost_while_the_broker_is_away_comes_when_it_is_back() {
    let mut world = world(WorldConfig::default());
    let config = ClientConfig {
        will: Some(will("wills/sensor", "gone")),
        ..ClientConfig::new("sensor")
    };
    let sensor = world.add_connected(config);
    world.broker_down(false);
    world.vanish(sensor);
    world.run_for(Duration::from_secs(300));
    assert_eq!(world.broker.count(b"gone"), 0);
    world.settle();
    assert_eq!(world.broker.count(b"gone"), 1);
}

#[test]
fn will_that_finds_no_place_is_not_told_as_published() {
    let limits = Limits {
        queue_messages: 1,
        ..Limits::default()
    };
    let gateway = GatewayConfig {
        limits,
        advertise_interval: None,
        ..GatewayConfig::default()
    };
    let broker = BrokerConfig {
        up_at_start: false,
        ..BrokerConfig::default()
    };
    let mut world = world(WorldConfig {
        gateway,
        broker,
        ..WorldConfig::default()
    });
    let clients = ["one", "two"].map(|id| {
        let config = ClientConfig {
            will: Some(will("wills", id)),
            ..ClientConfig::new(id)
        };
        world.add_connected(config)
    });
    clients.into_iter().for_each(|client| world.vanish(client));
    world.run_for(Duration::from_secs(300));
    let told = |expected| {
        world
            .notices
            .iter()
            .filter(|(_, n)| matches!(n, Notice::Lost { will, .. } if *will == expected))
            .count()
    };
    assert_eq!((told(true), told(false)), (1, 1));
    world.settle();
    assert_eq!(world.broker.log.len(), 1);
}

// Subscriptions.

#[test]
fn late_subscriber_gets_the_retained_message_and_others_do_not_again() {
    for overlap in [
        Overlap::OneCopyWithIds,
        Overlap::CopyPerFilter,
        Overlap::OneCopyWithoutIds,
    ] {
        let broker = BrokerConfig {
            overlap,
            ..BrokerConfig::default()
        };
        let mut world = world(WorldConfig {
            broker,
            ..WorldConfig::default()
        });
        let early = world.add_connected(ClientConfig::new("early"));
        subscribe_and_wait(&mut world, early, "s/+", QOS1);
        let retained = world.external("s/1", QOS1, true);
        world.run_for(Duration::from_secs(2));
        let late = world.add_connected(ClientConfig::new("late"));
        world.subscribe(late, "s/+", QOS1);
        world.settle();
        assert_eq!(received(&world, late, &retained), 1);
        assert!(
            world.client(late).delivered[0].retain,
            "retained for a late subscriber"
        );
        assert_eq!(received(&world, early, &retained), 1);
        assert!(!world.client(early).delivered[0].retain, "live for an early one");
    }
}

#[test]
fn overlapping_filters_deliver_once_at_the_highest_qos() {
    for overlap in [
        Overlap::OneCopyWithIds,
        Overlap::CopyPerFilter,
        Overlap::OneCopyWithoutIds,
    ] {
        let broker = BrokerConfig {
            overlap,
            ..BrokerConfig::default()
        };
        let mut world = world(WorldConfig {
            broker,
            ..WorldConfig::default()
        });
        let both = world.add_connected(ClientConfig::new("both"));
        let wild = world.add_connected(ClientConfig::new("wild"));
        subscribe_and_wait(&mut world, both, "s/#", QOS0);
        subscribe_and_wait(&mut world, both, "s/1", QOS2);
        subscribe_and_wait(&mut world, both, "s/+", QOS1);
        subscribe_and_wait(&mut world, wild, "s/#", QOS1);
        let message = world.external("s/1", QOS2, false);
        world.settle();
        assert_eq!(received(&world, both, &message), 1, "{overlap:?}");
        assert_eq!(received(&world, wild, &message), 1, "{overlap:?}");
        assert_eq!(world.client(both).delivered[0].qos, QOS2, "{overlap:?}");
        assert_eq!(world.client(wild).delivered[0].qos, QOS1, "{overlap:?}");
    }
}

#[test]
fn filter_that_is_being_given_back_takes_no_message_from_another() {
    let broker = BrokerConfig {
        settle_max: Duration::from_secs(4),
        ..BrokerConfig::default()
    };
    for seed in 1..=10 {
        let broker = broker.clone();
        let mut world = world(WorldConfig {
            seed,
            broker,
            ..WorldConfig::default()
        });
        let panel = world.add_connected(ClientConfig::new("panel"));
        subscribe_and_wait(&mut world, panel, "#", QOS1);
        subscribe_and_wait(&mut world, panel, "a/b", QOS2);
        world.unsubscribe(panel, "a/b");
        world.run_for(Duration::from_millis(100));
        // The broker has dropped the filter and not said so.
        world.subscribe(panel, "a/b", QOS2);
        world.run_for(Duration::from_millis(100));
        let message = world.external("a/b", QOS2, false);
        world.settle();
        assert_eq!(received(&world, panel, &message), 1);
    }
}

#[test]
fn each_suback_grants_no_more_than_its_subscribe_asked_for() {
    let broker = BrokerConfig {
        settle_max: Duration::from_secs(2),
        ..BrokerConfig::default()
    };
    for seed in 1..=5 {
        let broker = broker.clone();
        let mut world = world(WorldConfig {
            seed,
            broker,
            ..WorldConfig::default()
        });
        let hasty = world.add_connected(ClientConfig {
            max_open: 5,
            ..ClientConfig::new("hasty")
        });
        // The world itself compares each SUBACK with its SUBSCRIBE.
        world.subscribe(hasty, "a/b", QOS0);
        world.subscribe(hasty, "a/b", QOS2);
        world.settle();
        assert_eq!(world.client(hasty).delivered.len(), 0);
        let message = world.external("a/b", QOS2, false);
        world.settle();
        assert_eq!(received(&world, hasty, &message), 1);
    }
}

#[test]
fn shared_subscription_is_given_back_when_the_last_one_leaves() {
    let mut world = world(WorldConfig::default());
    let one = world.add_connected(ClientConfig::new("one"));
    let two = world.add_connected(ClientConfig::new("two"));
    for client in [one, two] {
        subscribe_and_wait(&mut world, client, "s/#", QOS1);
    }
    world.unsubscribe(one, "s/#");
    world.run_for(Duration::from_secs(5));
    assert_eq!(upstream_filters(&world), ["s/#"], "two still holds it");
    let message = world.external("s/1", QOS1, false);
    world.run_for(Duration::from_secs(5));
    assert_eq!(received(&world, one, &message), 0);
    assert_eq!(received(&world, two, &message), 1);
    world.disconnect(two);
    world.run_for(Duration::from_secs(5));
    assert!(
        upstream_filters(&world).is_empty(),
        "two was clean, so its subscriptions end with it"
    );
    world.settle();
}

#[test]
fn every_form_of_topic_works_both_ways() {
    let predefined = vec![
        PredefinedTopic {
            id: TopicId(1),
            topic: "plain/topic".into(),
        },
        PredefinedTopic {
            id: TopicId(2),
            topic: "own/{client_id}/x".into(),
        },
    ];
    let gateway = GatewayConfig {
        predefined,
        advertise_interval: None,
        ..GatewayConfig::default()
    };
    let mut world = world(WorldConfig {
        gateway,
        ..WorldConfig::default()
    });
    let client = world.add_connected(ClientConfig::new("c"));
    let forms = [
        (TopicForm::from("some/name"), "some/name"),
        (TopicForm::Predefined(TopicId(1)), "plain/topic"),
        (TopicForm::Predefined(TopicId(2)), "own/c/x"),
        (TopicForm::Short(*b"xy"), "xy"),
    ];
    for (form, name) in forms {
        subscribe_and_wait(&mut world, client, form.clone(), QOS2);
        for qos in [QOS0, QOS1, QOS2] {
            let up = world.publish(client, form.clone(), qos);
            world.run_for(Duration::from_secs(2));
            assert_eq!(world.broker.count(&up), 1, "{form:?} {qos:?}");
            assert_eq!(received(&world, client, &up), 1, "{form:?} {qos:?}");
            let routed = world.broker.log.last().expect("counted above");
            assert_eq!(&*routed.topic, name);
        }
        if !matches!(form, TopicForm::Name(_)) {
            let up = world.publish(client, form.clone(), PublishQoS::MinusOne);
            world.run_for(Duration::from_secs(2));
            assert_eq!(world.broker.count(&up), 1, "{form:?} QoS -1");
        }
    }
    subscribe_and_wait(&mut world, client, "wild/+/card", QOS1);
    let down = world.external("wild/any/card", QOS1, false);
    world.settle();
    assert_eq!(received(&world, client, &down), 1);
}

#[test]
fn kept_session_gets_what_came_while_it_was_away() {
    let mut world = world(WorldConfig::default());
    let panel = world.add_connected(kept("panel"));
    subscribe_and_wait(&mut world, panel, "a/+", QOS1);
    world.disconnect(panel);
    world.run_for(Duration::from_secs(5));
    let sent: Vec<Bytes> = (0..5).map(|_| world.external("a/b", QOS1, false)).collect();
    world.run_for(Duration::from_secs(60));
    assert!(world.client(panel).delivered.is_empty());
    world.connect(panel);
    world.settle();
    let got: Vec<&Bytes> = world.client(panel).delivered.iter().map(|d| &d.payload).collect();
    assert_eq!(got, sent.iter().collect::<Vec<_>>(), "all, in order");
}

#[test]
fn clean_session_leaves_nothing_behind() {
    let mut world = world(WorldConfig::default());
    let panel = world.add_connected(ClientConfig::new("panel"));
    subscribe_and_wait(&mut world, panel, "a/+", QOS1);
    world.disconnect(panel);
    world.run_for(Duration::from_secs(5));
    assert!(upstream_filters(&world).is_empty());
    world.settle();
}

// Clients that come and go.

#[test]
fn takeover_from_a_new_address_goes_on_there() {
    let mut world = world(WorldConfig::default());
    let panel = world.add_connected(kept("panel"));
    subscribe_and_wait(&mut world, panel, "a/b", QOS1);
    let old = world.route(panel).clone();
    world.roam(panel);
    world.run_for(Duration::from_secs(5));
    let message = world.external("a/b", QOS1, false);
    world.run_for(Duration::from_secs(5));
    assert_eq!(received(&world, panel, &message), 1);
    // The old address speaks again: it is told that it has no session (A11, A13).
    let before = world.transmits();
    world.inject(&old, &[0x02, 0x16]);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.transmits(), before + 1);
    assert_eq!(world.client(panel).kicked, 0);
    world.settle();
}

#[test]
fn client_that_restarts_mid_exchange_is_served_again() {
    for clean in [true, false] {
        for qos in [QOS1, QOS2] {
            let broker = BrokerConfig {
                settle_max: Duration::from_secs(2),
                ..BrokerConfig::default()
            };
            let mut world = world(WorldConfig {
                broker,
                ..WorldConfig::default()
            });
            let config = ClientConfig {
                clean,
                ..ClientConfig::new("sensor")
            };
            let sensor = world.add_connected(config);
            world.subscribe(sensor, "a/b", qos);
            for n in 0..20 {
                world.publish(sensor, "a/c", qos);
                world.external("a/b", qos, false);
                world.run_for(Duration::from_millis(20 * n));
                world.reboot(sensor);
                world.run_for(Duration::from_millis(37 * n));
            }
            let last = world.publish(sensor, "a/c", qos);
            world.settle();
            assert_eq!(outcome(&world, sensor, &last), Some(Outcome::Acknowledged));
        }
    }
}

#[test]
fn shutdown_tells_connected_clients() {
    let mut world = world(WorldConfig::default());
    let here = world.add_connected(ClientConfig::new("here"));
    let gone = world.add_connected(ClientConfig::new("gone"));
    world.disconnect(gone);
    world.run_for(Duration::from_secs(2));
    world.shut_down();
    world.run_for(Duration::from_millis(100));
    assert_eq!(world.client(here).kicked, 1);
    assert_eq!(world.client(gone).kicked, 0);
    assert!(!world.broker.is_up(ConnId(0)), "closed in good order");
}

#[test]
fn qos_0_and_qos_1_reach_a_client_that_never_answers_register() {
    let mut world = world(WorldConfig::default());
    let mut config = ClientConfig::new("emcute");
    config.quirks.ignores_register = true;
    let client = world.add_connected(config);
    subscribe_and_wait(&mut world, client, "a/b", QOS1);
    let named = world.external("a/b", QOS1, false);
    world.settle();
    assert_eq!(received(&world, client, &named), 1, "its id came with the SUBACK");
}

#[test]
fn one_register_lost_for_good_does_not_end_deliveries_under_new_names() {
    let mut world = world(WorldConfig::default());
    let panel = world.add_connected(ClientConfig {
        keep_alive: 300,
        ..ClientConfig::new("panel")
    });
    subscribe_and_wait(&mut world, panel, "s/#", QOS1);
    let one = world.external("s/1", QOS1, false);
    world.run_for(Duration::from_secs(5));
    // All its answers are lost for longer than the REGISTER is repeated.
    world.set_paths(panel, PathConfig::lossy(1.0), PathConfig::CLEAN);
    let two = world.external("s/2", QOS1, false);
    world.run_for(Duration::from_secs(140));
    world.set_paths(panel, PathConfig::CLEAN, PathConfig::CLEAN);
    let three = world.external("s/3", QOS1, false);
    world.settle();
    for payload in [one, two, three] {
        assert!(received(&world, panel, &payload) >= 1, "{payload:?}");
    }
}

#[test]
fn empty_publish_that_is_never_acknowledged_does_not_cost_the_session() {
    let mut world = world(WorldConfig::default());
    let mut config = ClientConfig::new("zephyr");
    config.quirks.ignores_empty_publish = true;
    let client = world.add_connected(config);
    subscribe_and_wait(&mut world, client, "a/b", QOS1);
    world.external_payload("a/b", QOS1, false, Bytes::new());
    let next = world.external("a/b", QOS1, false);
    world.settle();
    assert_eq!(world.client(client).kicked, 0, "A60: never disconnected for it");
    assert_eq!(
        received(&world, client, &next),
        1,
        "A60: dropped after six rounds, the next one comes"
    );
}

// Malformed datagrams.

#[test]
fn malformed_datagrams_change_nothing_for_clients() {
    let run = |garbage: bool| {
        let mut world = world(WorldConfig {
            trace: true,
            ..WorldConfig::default()
        });
        let sensor = world.add_connected(ClientConfig::new("sensor"));
        let panel = world.add_connected(ClientConfig::new("panel"));
        subscribe_and_wait(&mut world, panel, "a/b", QOS1);
        for (n, datagram) in MALFORMED.iter().enumerate() {
            world.publish(sensor, "a/b", QOS1);
            if garbage {
                // From an unknown sender, and from a client's own address.
                let stranger = world.stranger(n as u16);
                world.inject(&stranger, datagram);
                let own = world.route(panel).clone();
                world.inject(&own, datagram);
            }
            world.run_for(Duration::from_secs(1));
        }
        let metrics = world.metrics();
        world.settle();
        let to_clients: Vec<Vec<u8>> = world
            .sent
            .iter()
            .map(|(_, _, datagram)| datagram.clone())
            .collect();
        (to_clients, metrics)
    };
    let ((without, quiet), (with, noisy)) = (run(false), run(true));
    assert_eq!(without, with, "not one datagram differs");
    let counted: u64 = noisy
        .iter()
        .zip(&quiet)
        .filter(|((name, _), _)| name.contains("malformed"))
        .map(|((_, a), (_, b))| a - b)
        .sum();
    assert_eq!(counted, 2 * MALFORMED.len() as u64, "each counted by reason");
}

/// Datagrams that are dropped without an answer, one of every kind.
const MALFORMED: &[&[u8]] = &[
    &[],
    &[0x02],
    &[0x00, 0x16],
    &[0x01, 0x16],
    &[0x01, 0x00, 0x03],
    // Length too short, too long, two messages in one.
    &[0x02, 0x16, 0x00],
    &[0x05, 0x16],
    &[0x02, 0x16, 0x02, 0x16],
    // Reserved types.
    &[0x02, 0x03],
    &[0x02, 0x11],
    &[0x02, 0x1E],
    &[0x02, 0xFF],
    // Fixed-size messages of another size.
    &[0x03, 0x17, 0x00],
    &[0x05, 0x18, 0x00, 0x00, 0x00],
    &[0x06, 0x0D, 0x00, 0x01, 0x00, 0x01],
    &[0x03, 0x0C, 0x00],
    // What only gateways send.
    &[0x03, 0x05, 0x00],
    &[0x02, 0x06],
    // A forwarder's frame around nothing.
    &[0x04, 0xFE, 0x00, 0x01],
];

#[test]
fn unknown_senders_are_told_to_connect_and_get_nothing_else() {
    let mut world = world(WorldConfig {
        trace: true,
        ..WorldConfig::default()
    });
    let stranger = world.stranger(9);
    let mut datagram = Vec::new();
    Packet::Pubrel(MsgId(1)).encode(&mut datagram);
    world.inject(&stranger, &datagram);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.sent.len(), 1);
    assert_eq!(world.sent[0].2, [0x02, 0x18], "DISCONNECT (A13)");
    // Late acknowledgements of a finished session get no answer.
    world.inject(&stranger, &[0x04, 0x0E, 0x00, 0x01]);
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.sent.len(), 1);
}

#[test]
fn repeated_connect_is_acknowledged_again_and_costs_nothing() {
    let mut world = world(WorldConfig {
        trace: true,
        ..WorldConfig::default()
    });
    let client = world.add_connected(ClientConfig::new("c"));
    let connect = Packet::Connect(Connect {
        will: false,
        clean_session: true,
        duration: 60,
        client_id: "c",
    });
    let mut datagram = Vec::new();
    connect.encode(&mut datagram);
    let route = world.route(client).clone();
    world.inject(&route, &datagram);
    world.run_for(Duration::from_secs(1));
    assert_eq!(
        world
            .sent
            .iter()
            .filter(|(_, _, d)| d[..] == [0x03, 0x05, 0x00])
            .count(),
        2,
        "A18"
    );
    world.settle();
}

#[test]
fn connect_with_other_flags_during_a_resumed_handshake_is_a_new_session() {
    let mut world = world(WorldConfig::default());
    let config = ClientConfig {
        will: Some(will("wills/c", "gone")),
        ..ClientConfig::new("c")
    };
    let client = world.add_connected(config);
    let route = world.route(client).clone();
    let connect = |will, clean_session| {
        Packet::Connect(Connect {
            will,
            clean_session,
            duration: 60,
            client_id: "c",
        })
    };
    let filter = TopicFilter::Name("a/b");
    let subscribe = Packet::Subscribe(Subscribe {
        dup: false,
        qos: QOS1,
        msg_id: MsgId(500),
        topic: filter,
    });
    // Repeated, so the session goes on (A18), and then asked for differently.
    for packet in [connect(true, true), connect(false, false), subscribe] {
        world.inject(&route, &encoded(&packet));
    }
    world.run_for(Duration::from_secs(1));
    world.vanish(client);
    world.inject(&route, &[0x02, 0x18]);
    world.run_for(Duration::from_secs(1));
    assert_eq!(upstream_filters(&world), ["a/b"], "it is kept now");
}

#[test]
fn client_is_not_lost_sooner_because_a_repeated_handshake_was_given_up() {
    let mut world = world(WorldConfig::default());
    let config = ClientConfig {
        will: Some(will("wills/c", "gone")),
        ..ClientConfig::new("c")
    };
    let client = world.add_connected(config);
    let route = world.route(client).clone();
    world.vanish(client);
    let connect = Packet::Connect(Connect {
        will: true,
        clean_session: true,
        duration: 60,
        client_id: "c",
    });
    world.inject(&route, &encoded(&connect));
    world.run_for(Duration::from_secs(35));
    let topic = WillTopic {
        qos: QOS1,
        retain: false,
        topic: "wills/c",
    };
    world.inject(&route, &encoded(&Packet::WillTopic(Some(topic))));
    let last_heard = world.now();
    world.run_for(Duration::from_secs(300));
    let lost = world
        .notices
        .iter()
        .find(|(_, notice)| matches!(notice, Notice::Lost { .. }));
    let (lost_at, _) = lost.expect("silent for minutes");
    assert!(
        lost_at.since(last_heard) >= Duration::from_secs(90),
        "A28: 1.5 × Duration after its last message"
    );
}

// Helpers.

fn encoded(packet: &Packet<'_>) -> Vec<u8> {
    let mut datagram = Vec::new();
    packet.encode(&mut datagram);
    datagram
}

fn world(config: WorldConfig) -> World {
    World::new(WorldConfig {
        trace: true,
        ..config
    })
}

fn lossy() -> PathConfig {
    PathConfig::lossy(0.3)
}

fn kept(id: &str) -> ClientConfig {
    ClientConfig {
        clean: false,
        ..ClientConfig::new(id)
    }
}

fn uplinks_survive(path: PathConfig, qos: QoS, count: usize) {
    for seed in 1..=3 {
        let mut world = world(WorldConfig {
            seed,
            up: path,
            down: path,
            ..WorldConfig::default()
        });
        // Patient enough not to give up: a new session could repeat a QoS 2 message.
        let config = ClientConfig {
            retry_count: 15,
            ..kept("sensor")
        };
        let sensor = world.add_connected(config);
        let sent: Vec<Bytes> = (0..count).map(|_| world.publish(sensor, "a/b", qos)).collect();
        world.run_until(Duration::from_secs(4 * 3600), |world| {
            world.client(sensor).is_idle()
        });
        world.settle();
        for payload in &sent {
            assert_eq!(outcome(&world, sensor, payload), Some(Outcome::Acknowledged));
            assert!(world.broker.count(payload) >= 1);
            if qos == QOS2 {
                assert_eq!(world.broker.count(payload), 1, "exactly once: {payload:?}");
            }
        }
        assert_eq!(
            first_arrivals(&world, "a/b"),
            sent.iter().collect::<Vec<_>>(),
            "in the order sent"
        );
    }
}

fn downlinks_survive(path: PathConfig, qos: QoS, count: usize) {
    for seed in 1..=3 {
        let mut world = world(WorldConfig {
            seed,
            up: path,
            down: path,
            ..WorldConfig::default()
        });
        let panel = world.add_connected(ClientConfig {
            retry_count: 15,
            ..kept("panel")
        });
        subscribe_and_wait(&mut world, panel, "a/b", qos);
        let sent: Vec<Bytes> = (0..count)
            .map(|_| {
                world.run_for(Duration::from_secs(20));
                world.external("a/b", qos, false)
            })
            .collect();
        world.run_for(Duration::from_secs(3600));
        world.settle();
        let mut got: Vec<&Bytes> = world.client(panel).delivered.iter().map(|d| &d.payload).collect();
        if qos == QOS1 {
            got.dedup();
        }
        assert_eq!(got, sent.iter().collect::<Vec<_>>(), "all, in order");
    }
}

fn subscribe_and_wait(world: &mut World, client: ClientIx, topic: impl Into<TopicForm>, qos: QoS) {
    let topic = topic.into();
    world.subscribe(client, topic.clone(), qos);
    world.run_until(Duration::from_secs(600), |world| {
        world.client(client).subscribed.contains_key(&topic)
    });
}

fn outcome(world: &World, client: ClientIx, payload: &Bytes) -> Option<Outcome> {
    world.client(client).outcomes.get(payload).copied()
}

fn received(world: &World, client: ClientIx, payload: &Bytes) -> usize {
    world
        .client(client)
        .delivered
        .iter()
        .filter(|d| d.payload == payload)
        .count()
}

/// What the broker took under this topic, repeats left out.
fn first_arrivals<'a>(world: &'a World, topic: &str) -> Vec<&'a Bytes> {
    let mut arrivals: Vec<&Bytes> = Vec::new();
    for routed in world.broker.log.iter().filter(|routed| &*routed.topic == topic) {
        if !arrivals.contains(&&routed.payload) {
            arrivals.push(&routed.payload);
        }
    }
    arrivals
}

fn upstream_filters(world: &World) -> Vec<String> {
    world
        .broker
        .filters(ConnId(0))
        .iter()
        .map(|filter| filter.to_string())
        .collect()
}
