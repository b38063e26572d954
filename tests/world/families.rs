//! What clients in the field do unlike others, and that they are served all the same.

use core::time::Duration;

use bytes::Bytes;
use gateway_core::config::{ClientRule, GatewayConfig, PredefinedTopic};
use sn_codec::{QoS, ReturnCode, TopicId};
use snipe_sim::families::Family;
use snipe_sim::net::PathConfig;
use snipe_sim::sim_client::{ClientConfig, Outcome, Presence, TopicForm};
use snipe_sim::{ClientIx, World, WorldConfig, will};

const QOS0: QoS = QoS::AtMostOnce;
const QOS1: QoS = QoS::AtLeastOnce;
const QOS2: QoS = QoS::ExactlyOnce;

// RIOT emcute.

#[test]
fn emcute_refuses_dup_and_gets_the_repeat_without() {
    let mut world = world();
    let node = connected(&mut world, Family::Emcute);
    subscribe(&mut world, node, "a/b", QOS1);
    // The first copy and its acknowledgement are lost, so the next one would have DUP.
    world.set_paths(node, PathConfig::CLEAN, PathConfig::lossy(1.0));
    let message = world.external("a/b", QOS1, false);
    world.run_for(Duration::from_secs(5));
    world.set_paths(node, PathConfig::CLEAN, PathConfig::CLEAN);
    let next = world.external("a/b", QOS1, false);
    world.settle();
    assert_eq!(received(&world, node), [&message, &next], "reading A61");
}

#[test]
fn emcute_never_answers_register_and_gets_what_it_subscribed_to_by_name() {
    let mut world = world();
    let node = world.add_connected(ClientConfig {
        clean: false,
        ..Family::Emcute.client("emcute")
    });
    subscribe(&mut world, node, "a/b", QOS1);
    // In its next connection the id counts as unconfirmed (A39), and the REGISTER is not answered (A40).
    world.roam(node);
    let message = world.external("a/b", QOS1, false);
    world.settle();
    assert_eq!(received(&world, node), [&message]);
}

#[test]
fn emcute_overlooks_a_disconnect_and_comes_back_by_itself() {
    let mut world = world();
    let node = connected(&mut world, Family::Emcute);
    world.restart_gateway();
    let sent = world.publish(node, "a/b", QOS1);
    world.settle();
    assert_eq!(world.client(node).kicked, 0);
    assert_eq!(outcome(&world, node, &sent), Some(Outcome::Acknowledged));
}

#[test]
fn emcute_counts_its_message_ids_through_zero() {
    let mut world = world();
    let node = world.add_connected(ClientConfig {
        first_msg_id: 0xFFFE,
        ..Family::Emcute.client("emcute")
    });
    let sent: Vec<Bytes> = (0..5).map(|_| world.publish(node, "a/b", QOS1)).collect();
    world.settle();
    assert!(
        sent.iter()
            .all(|sent| outcome(&world, node, sent) == Some(Outcome::Acknowledged)),
        "reading A45"
    );
}

// RIOT asymcute.

#[test]
fn asymcute_uses_the_long_form_where_the_short_one_would_do() {
    let mut world = world();
    let node = connected(&mut world, Family::Asymcute);
    for octets in [241, 242, 248, 249, 400] {
        let sent = world.publish_as(
            node,
            "a/b".into(),
            sn_codec::PublishQoS::Level(QOS1),
            false,
            octets,
        );
        world.run_for(Duration::from_secs(2));
        assert_eq!(
            outcome(&world, node, &sent),
            Some(Outcome::Acknowledged),
            "{octets}"
        );
        assert_eq!(world.broker.count(&sent), 1, "{octets}");
    }
    world.settle();
}

#[test]
fn asymcute_gets_qos_2_messages_as_qos_1_where_the_configuration_says_so() {
    let rule = ClientRule {
        pattern: "asymcute*".into(),
        max_qos: Some(QOS1),
        ..ClientRule::default()
    };
    let mut world = world_with(GatewayConfig {
        clients: vec![rule],
        ..quiet()
    });
    let node = connected(&mut world, Family::Asymcute);
    subscribe(&mut world, node, "a/b", QOS2);
    let messages = [QOS2, QOS2, QOS1].map(|qos| world.external("a/b", qos, false));
    world.settle();
    assert_eq!(received(&world, node), messages.iter().collect::<Vec<_>>());
    assert!(world.client(node).delivered.iter().all(|d| d.qos == QOS1));
}

#[test]
fn asymcute_swaps_a_predefined_id_and_one_that_reads_the_same_both_ways_helps() {
    let topic = |id, topic: &str| PredefinedTopic {
        id: TopicId(id),
        topic: topic.into(),
    };
    let mut world = world_with(GatewayConfig {
        predefined: vec![topic(0x0001, "one"), topic(0x0202, "two")],
        ..quiet()
    });
    let node = connected(&mut world, Family::Asymcute);
    world.subscribe(node, TopicForm::Predefined(TopicId(0x0001)), QOS1);
    world.subscribe(node, TopicForm::Predefined(TopicId(0x0202)), QOS1);
    world.run_for(Duration::from_secs(5));
    assert_eq!(
        world.client(node).rejections,
        [("SUBACK", ReturnCode::InvalidTopicId)],
        "reading A56"
    );
    world.external("one", QOS1, false);
    let message = world.external("two", QOS1, false);
    world.settle();
    assert_eq!(received(&world, node), [&message]);
}

// mqtt-sn-tools.

#[test]
fn mqtt_sn_tools_hears_nothing_before_its_connack() {
    let mut world = world();
    let node = world.add_connected(ClientConfig {
        clean: false,
        ..Family::MqttSnTools.client("tools")
    });
    subscribe(&mut world, node, "a/+", QOS1);
    world.disconnect(node);
    world.run_for(Duration::from_secs(5));
    let messages: Vec<Bytes> = (0..5).map(|_| world.external("a/b", QOS1, false)).collect();
    // The program is started again, by a network that keeps order; anything but CONNACK ends it.
    world.connect(node);
    world.settle();
    assert_eq!(world.client(node).power_losses, 0);
    assert_eq!(received(&world, node), messages.iter().collect::<Vec<_>>());
}

#[test]
fn mqtt_sn_tools_without_keep_alive_is_not_taken_for_lost() {
    let mut world = world();
    let node = world.add_connected(ClientConfig {
        keep_alive: 0,
        ..Family::MqttSnTools.client("tools")
    });
    subscribe(&mut world, node, "a/b", QOS1);
    world.run_for(Duration::from_secs(20 * 3600));
    let message = world.external("a/b", QOS1, false);
    world.run_for(Duration::from_secs(5));
    assert_eq!(received(&world, node), [&message], "reading A27");
    assert_eq!(
        world.client(node).power_losses,
        0,
        "no DISCONNECT, which would end it"
    );
}

// Zephyr.

#[test]
fn zephyr_has_five_requests_open_at_once() {
    let mut world = world();
    let node = connected(&mut world, Family::Zephyr);
    for n in 0..3 {
        world.subscribe(node, format!("s/{n}").as_str(), QOS1);
    }
    let sent: Vec<Bytes> = (0..5).map(|_| world.publish(node, "a/b", QOS2)).collect();
    // As fast as one request alone, so they did go together.
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.client(node).subscribed.len(), 3);
    assert!(
        sent.iter()
            .all(|sent| outcome(&world, node, sent) == Some(Outcome::Acknowledged)),
        "reading A52"
    );
    world.settle();
}

#[test]
fn zephyr_knows_predefined_and_short_topics_by_what_the_suback_carried() {
    let mut world = world_with(GatewayConfig {
        predefined: vec![PredefinedTopic {
            id: TopicId(5),
            topic: "five".into(),
        }],
        ..quiet()
    });
    let node = connected(&mut world, Family::Zephyr);
    subscribe(&mut world, node, TopicForm::Predefined(TopicId(5)), QOS1);
    subscribe(&mut world, node, TopicForm::Short(*b"xy"), QOS1);
    let messages = ["five", "xy"].map(|topic| world.external(topic, QOS1, false));
    world.settle();
    assert_eq!(
        received(&world, node),
        messages.iter().collect::<Vec<_>>(),
        "reading A53"
    );
}

#[test]
fn zephyr_without_a_place_for_another_topic_keeps_its_session_and_its_other_topics() {
    let mut config = Family::Zephyr.client("zephyr");
    config.quirks.register_slots = Some(2);
    let mut world = world();
    let node = world.add_connected(config);
    subscribe(&mut world, node, "s/#", QOS1);
    let known = ["s/1", "s/2"].map(|topic| world.external(topic, QOS1, false));
    world.run_for(Duration::from_secs(5));
    world.external("s/3", QOS1, false);
    let after = world.external("s/1", QOS1, false);
    world.settle();
    assert_eq!(
        received(&world, node),
        [&known[0], &known[1], &after],
        "reading A40"
    );
    assert_eq!(world.client(node).kicked, 0);
}

#[test]
fn zephyr_sleeps_at_once_and_gets_everything_when_it_wakes() {
    let mut world = world();
    let node = connected(&mut world, Family::Zephyr);
    subscribe(&mut world, node, "a/+", QOS2);
    world.sleep(node, 60, u32::MAX);
    world.run_for(Duration::from_millis(1));
    assert_eq!(
        world.client(node).presence(),
        Presence::Asleep,
        "before any answer"
    );
    world.run_for(Duration::from_secs(5));
    let messages: Vec<Bytes> = [QOS1, QOS2, QOS0, QOS2]
        .map(|qos| world.external("a/b", qos, false))
        .into();
    world.run_for(Duration::from_secs(30));
    assert!(received(&world, node).is_empty(), "reading A73");
    world.run_for(Duration::from_secs(60));
    assert_eq!(received(&world, node), messages.iter().collect::<Vec<_>>());
    assert_eq!(world.client(node).wakes, 1);
    world.settle();
}

// cc.mqttsn.

#[test]
fn cc_mqttsn_matches_a_puback_by_both_ids_whatever_the_form_of_the_topic() {
    let mut world = world_with(GatewayConfig {
        predefined: vec![PredefinedTopic {
            id: TopicId(5),
            topic: "five".into(),
        }],
        ..quiet()
    });
    let node = connected(&mut world, Family::CcMqttsn);
    let forms = [
        TopicForm::from("a/b"),
        TopicForm::Predefined(TopicId(5)),
        TopicForm::Short(*b"xy"),
    ];
    let sent = forms.map(|form| world.publish(node, form, QOS1));
    world.settle();
    for sent in &sent {
        assert_eq!(outcome(&world, node, sent), Some(Outcome::Acknowledged));
        assert_eq!(world.broker.count(sent), 1, "no repeat was needed");
    }
}

#[test]
fn cc_mqttsn_answers_the_repeat_of_a_qos_2_message_because_it_has_dup() {
    let mut world = world();
    let node = connected(&mut world, Family::CcMqttsn);
    subscribe(&mut world, node, "a/b", QOS2);
    // Its PUBREC is lost.
    world.set_paths(node, PathConfig::lossy(1.0), PathConfig::CLEAN);
    let message = world.external("a/b", QOS2, false);
    world.run_for(Duration::from_secs(5));
    world.set_paths(node, PathConfig::CLEAN, PathConfig::CLEAN);
    world.settle();
    assert_eq!(received(&world, node), [&message]);
}

#[test]
fn cc_mqttsn_is_registered_a_topic_it_does_not_know_any_more() {
    let mut world = world();
    let node = world.add_connected(ClientConfig {
        clean: false,
        ..Family::CcMqttsn.client("cc")
    });
    subscribe(&mut world, node, "a/b", QOS1);
    let one = world.external("a/b", QOS1, false);
    world.run_for(Duration::from_secs(5));
    // It forgot everything, and its session is kept.
    world.reboot(node);
    world.run_for(Duration::from_secs(5));
    let two = world.external("a/b", QOS1, false);
    world.settle();
    assert_eq!(received(&world, node), [&one, &two], "readings A39, A41");
}

// ty4tw's client for Arduino.

#[test]
fn ty4tw_wakes_by_connect_with_its_clean_flag_and_finds_its_subscriptions() {
    for will in [None, Some(will("wills/ty4tw", "gone"))] {
        let mut world = world();
        let node = world.add_connected(ClientConfig {
            will,
            ..Family::Ty4tw.client("ty4tw")
        });
        assert!(world.client(node).config.clean);
        subscribe(&mut world, node, "a/b", QOS1);
        world.sleep(node, 30, 0);
        world.run_for(Duration::from_secs(10));
        let asleep = world.external("a/b", QOS1, false);
        // With a will it ignores a CONNACK that no prompt came before (A20).
        world.run_for(Duration::from_secs(60));
        assert_eq!(world.client(node).presence(), Presence::Active);
        let awake = world.external("a/b", QOS1, false);
        world.settle();
        assert_eq!(received(&world, node), [&asleep, &awake]);
        assert_eq!(world.broker.count(b"gone"), 0);
    }
}

#[test]
fn ty4tw_wakes_without_its_id_and_is_known_by_its_address() {
    let mut world = world();
    let node = connected(&mut world, Family::Ty4tw);
    subscribe(&mut world, node, "a/b", QOS1);
    world.sleep(node, 30, u32::MAX);
    world.run_for(Duration::from_secs(10));
    let message = world.external("a/b", QOS1, false);
    world.run_for(Duration::from_secs(40));
    assert_eq!(received(&world, node), [&message], "reading A69");
    assert_eq!(world.client(node).wakes, 1);
    world.settle();
}

#[test]
fn ty4tw_repeats_its_publish_after_pubrec_and_it_counts_once() {
    for seed in 1..=5 {
        let mut world = World::new(WorldConfig {
            seed,
            gateway: quiet(),
            up: PathConfig::lossy(0.3),
            down: PathConfig::lossy(0.3),
            trace: true,
            ..WorldConfig::default()
        });
        let node = world.add_connected(ClientConfig {
            clean: false,
            retry_count: 15,
            ..Family::Ty4tw.client("ty4tw")
        });
        let sent: Vec<Bytes> = (0..20).map(|_| world.publish(node, "a/b", QOS2)).collect();
        world.run_until(Duration::from_secs(4 * 3600), |world| {
            world.client(node).is_idle()
        });
        world.settle();
        for sent in &sent {
            assert_eq!(outcome(&world, node, sent), Some(Outcome::Acknowledged));
            assert_eq!(world.broker.count(sent), 1, "reading A46");
        }
    }
}

// Donovan's library for Arduino.

#[test]
fn donovan_swaps_the_octets_of_its_acknowledgements_and_they_count() {
    let mut world = world();
    let node = connected(&mut world, Family::Donovan);
    subscribe(&mut world, node, "a/b", QOS1);
    let messages: Vec<Bytes> = (0..5).map(|_| world.external("a/b", QOS1, false)).collect();
    world.run_for(Duration::from_secs(5));
    assert_eq!(
        received(&world, node),
        messages.iter().collect::<Vec<_>>(),
        "reading A64"
    );
    assert_eq!(
        world.gateway().metrics().swapped_acks_total,
        5,
        "and nothing was repeated"
    );
    world.settle();
}

#[test]
fn donovan_sleeps_although_its_disconnect_is_too_long() {
    let mut world = world();
    let node = connected(&mut world, Family::Donovan);
    subscribe(&mut world, node, "a/b", QOS1);
    world.sleep(node, 60, u32::MAX);
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.reference.presence(node), Presence::Asleep, "reading A9");
    let message = world.external("a/b", QOS1, false);
    world.run_for(Duration::from_secs(40));
    assert!(received(&world, node).is_empty());
    world.run_for(Duration::from_secs(30));
    assert_eq!(received(&world, node), [&message]);
    world.settle();
}

#[test]
fn donovan_gives_qos_0_messages_an_id_and_names_itself_in_every_ping() {
    let mut world = world();
    let node = connected(&mut world, Family::Donovan);
    let sent = world.publish(node, "a/b", QOS0);
    world.run_for(Duration::from_secs(600));
    assert_eq!(world.broker.count(&sent), 1, "reading A44");
    assert_eq!(world.client(node).presence(), Presence::Active, "reading A16");
    assert_eq!(world.client(node).kicked, 0);
    world.settle();
}

#[test]
fn donovan_refuses_one_name_and_gets_the_others() {
    let mut world = world();
    let node = connected(&mut world, Family::Donovan);
    subscribe(&mut world, node, "s/#", QOS1);
    subscribe(&mut world, node, "s/1", QOS1);
    world.external("s/2", QOS1, false);
    let known = world.external("s/1", QOS1, false);
    world.settle();
    assert_eq!(received(&world, node), [&known], "reading A40");
    assert_eq!(world.client(node).kicked, 0);
}

// BtMqttSn.

#[test]
fn bt_mqtt_sn_turns_its_flags_around_counts_from_zero_and_is_heard() {
    let mut world = world();
    let node = connected(&mut world, Family::BtMqttSn);
    subscribe(&mut world, node, "a/+", QOS0);
    let sent = world.publish(node, "a/b", QOS0);
    world.run_for(Duration::from_secs(5));
    assert_eq!(
        world.broker.count(&sent),
        1,
        "QoS 1 by its flags, under message id 0"
    );
    let message = world.external("a/c", QOS1, false);
    world.settle();
    assert_eq!(
        received(&world, node),
        [&sent, &message],
        "its own message matches too"
    );
}

// Helpers.

fn quiet() -> GatewayConfig {
    GatewayConfig {
        advertise_interval: None,
        ..GatewayConfig::default()
    }
}

fn world() -> World {
    world_with(quiet())
}

fn world_with(gateway: GatewayConfig) -> World {
    World::new(WorldConfig {
        gateway,
        trace: true,
        ..WorldConfig::default()
    })
}

fn connected(world: &mut World, family: Family) -> ClientIx {
    world.add_connected(family.client(family.prefix()))
}

fn subscribe(world: &mut World, client: ClientIx, topic: impl Into<TopicForm>, qos: QoS) {
    let topic = topic.into();
    world.subscribe(client, topic.clone(), qos);
    world.run_until(Duration::from_secs(600), |world| {
        world.client(client).subscribed.contains_key(&topic)
    });
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
