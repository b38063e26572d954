//! Nodes behind forwarders (§5.5): frames both ways, who may forward, and within which limits.

mod common;

use std::net::IpAddr;

use common::{Bench, LINK, connack, disconnect, publish, seconds};
use gateway_core::config::{
    AddressChange, ClientRule, ForwarderRule, GatewayConfig, PeerMatch, PredefinedTopic, QosMinusOneRule,
};
use gateway_core::io::{
    BrokerEvent, BrokerRequest, ForwarderRefusal, LinkEvent, LinkProfile, NoTopic, Notice,
};
use gateway_core::peer::{LinkAddr, LinkId, LocalEnd, Route};
use sn_codec::{
    Connect, Disconnect, Encapsulation, GwInfo, MsgId, Packet, Pingreq, Puback, Publish, PublishQoS, QoS,
    Regack, Register, ReturnCode, SearchGw, ShortTopic, TopicId, TopicRef,
};

/// A forwarder: its address decides who it is, its port where answers go.
#[derive(Clone, Copy)]
struct Forwarder {
    link: LinkId,
    ip: [u8; 4],
    port: u16,
}

const ROOF: Forwarder = Forwarder {
    link: LINK,
    ip: [10, 20, 0, 7],
    port: 7000,
};
const CELLAR: Forwarder = Forwarder {
    link: LINK,
    ip: [10, 20, 0, 8],
    port: 8000,
};

impl Forwarder {
    fn send(self, bench: &mut Bench, node: &[u8], packet: Packet<'_>) {
        self.send_frame(bench, &frame(node, packet));
    }

    fn send_frame(self, bench: &mut Bench, frame: &[u8]) {
        let route = Route {
            addr: LinkAddr::Udp((IpAddr::from(self.ip), self.port).into()),
            local: LocalEnd::default(),
        };
        bench.hand_in(self.link, &route, frame);
        bench.drain();
    }

    #[track_caller]
    fn expect(self, bench: &mut Bench, node: &[u8], expected: &[Packet<'_>]) {
        let expected: Vec<_> = expected.iter().map(|packet| frame(node, *packet)).collect();
        assert_eq!(bench.take(self.port), expected);
    }

    #[track_caller]
    fn connect(self, bench: &mut Bench, node: &[u8], id: &str) {
        self.send(bench, node, connect(id));
        self.expect(bench, node, &[connack(ReturnCode::Accepted)]);
    }
}

fn connect(id: &str) -> Packet<'_> {
    Packet::Connect(Connect {
        will: false,
        clean_session: false,
        duration: 60,
        client_id: id,
    })
}

fn frame(node: &[u8], packet: Packet<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    Encapsulation {
        radius: 0,
        wireless_node_id: node,
    }
    .encode(&mut frame);
    packet.encode(&mut frame);
    frame
}

fn rule(name: &str, ip: [u8; 4]) -> ForwarderRule {
    ForwarderRule {
        name: name.into(),
        peers: PeerMatch {
            link: Some(LINK),
            source: Some(IpAddr::from(ip).into()),
        },
        max_nodes: 0,
        packets_per_second: 0,
    }
}

fn listed(rules: &[ForwarderRule]) -> GatewayConfig {
    GatewayConfig {
        forwarders: rules.to_vec(),
        ..GatewayConfig::default()
    }
}

/// Refusals told since the last look: forwarder, reason, suppressed.
fn refusals(bench: &mut Bench) -> Vec<(Option<String>, ForwarderRefusal, u64)> {
    let told = bench.notices.drain(..).filter_map(|notice| match notice {
        Notice::ForwarderRefused {
            forwarder,
            reason,
            suppressed,
            ..
        } => Some((forwarder.map(|name| name.to_string()), reason, suppressed)),
        _ => None,
    });
    told.collect()
}

fn refused(bench: &mut Bench, reason: ForwarderRefusal) -> u64 {
    bench.gateway.metrics().forwarder_refused[reason as usize]
}

// Frames.

#[test]
fn nodes_of_one_forwarder_are_clients_of_their_own() {
    let mut bench = Bench::up(GatewayConfig::default());
    // As many as the broker takes publishes at once.
    let nodes: Vec<[u8; 2]> = (0..20_u16).map(u16::to_be_bytes).collect();
    let mut topics = vec![];
    for node in &nodes {
        ROOF.connect(&mut bench, node, &format!("node-{}", node[1]));
        let topic_name = format!("plant/{}", node[1]);
        let register = Register {
            topic_id: TopicId::NONE,
            msg_id: MsgId(1),
            topic_name: &topic_name,
        };
        ROOF.send(&mut bench, node, Packet::Register(register));
        let sent = bench.take(ROOF.port);
        let (encapsulation, message) = Encapsulation::split(&sent[0]).unwrap();
        assert_eq!(encapsulation.unwrap().wireless_node_id, node);
        let Ok(Packet::Regack(Regack { topic_id, .. })) = Packet::decode(message) else {
            panic!("{sent:?}");
        };
        topics.push(topic_id);
    }
    for (node, topic) in nodes.iter().zip(&topics) {
        let message = publish(TopicRef::Normal(*topic), QoS::AtLeastOnce, 7, node);
        ROOF.send(&mut bench, node, message);
    }
    let publishes = bench.publishes();
    assert_eq!(publishes.len(), 20);
    // The broker answers in another order; each PUBACK finds its node.
    for (node, (token, topic, payload)) in nodes.iter().zip(&publishes).rev() {
        assert_eq!((topic, payload), (&format!("plant/{}", node[1]), &node.to_vec()));
        bench.broker(BrokerEvent::Settled {
            token: token.unwrap(),
            result: Ok(None),
        });
        let puback = Packet::Puback(Puback {
            topic_id: topics[usize::from(node[1])],
            msg_id: MsgId(7),
            return_code: ReturnCode::Accepted,
        });
        ROOF.expect(&mut bench, node, &[puback]);
    }
    assert_eq!(bench.gateway.metrics().clients_active, 20);
}

#[test]
fn control_octet_from_the_forwarder_is_ignored() {
    let mut bench = Bench::up(GatewayConfig::default());
    for (at, control) in [0x00, 0x03, 0x55, 0xFF].into_iter().enumerate() {
        let node = [at as u8];
        let mut datagram = frame(&node, connect("a"));
        datagram[2] = control;
        ROOF.send_frame(&mut bench, &datagram);
        // Towards one node there is nothing to broadcast: 0.
        ROOF.expect(&mut bench, &node, &[connack(ReturnCode::Accepted)]);
    }
}

#[test]
fn node_ids_of_every_length_come_back_unchanged() {
    let mut bench = Bench::up(GatewayConfig::default());
    for length in [1, 2, 4, 8, 252] {
        let node = vec![0xFE; length];
        ROOF.connect(&mut bench, &node, &format!("n{length}"));
    }
}

#[test]
fn nested_and_broken_frames_are_counted_and_not_answered() {
    let mut bench = Bench::up(GatewayConfig::default());
    let nested = {
        let mut outer = vec![0x04, 0xFE, 0x00, 0x01];
        outer.extend(frame(&[2], connect("nested")));
        outer
    };
    let with_more_behind = {
        let mut frame = frame(&[1], connect("a"));
        frame.push(0);
        frame
    };
    for bad in [
        nested,
        with_more_behind,
        vec![0x03, 0xFE, 0x00, 0x02, 0x17],                   // no node id
        vec![0x04, 0xFE, 0x00, 0x01],                         // nothing inside
        vec![0x06, 0xFE, 0x00, 0x01, 0x02, 0x17],             // a length that covers all, as in 2.0
        vec![0x01, 0x00, 0x06, 0xFE, 0x00, 0x01, 0x02, 0x17], // the long form
    ] {
        let before: u64 = bench.gateway.metrics().malformed.iter().sum();
        ROOF.send_frame(&mut bench, &bad);
        let after: u64 = bench.gateway.metrics().malformed.iter().sum();
        assert_eq!(after, before + 1, "{bad:02x?}");
        assert!(bench.sent.is_empty(), "{bad:02x?}");
    }
    assert_eq!(bench.gateway.metrics().clients, 0);
}

#[test]
fn a_frame_leaves_less_room_for_the_message() {
    let mut bench = Bench::up(GatewayConfig::default());
    let profile = LinkProfile {
        mtu: 40,
        ..LinkProfile::default()
    };
    bench.gateway.handle_link(bench.now, LINK, LinkEvent::Up(profile));
    bench.connect(1, "direct");
    ROOF.connect(&mut bench, &[1, 2, 3, 4], "node");
    bench.subscribe(1, "t/t", QoS::AtMostOnce);
    ROOF.send(
        &mut bench,
        &[1, 2, 3, 4],
        common::subscribe(MsgId(9), "t/t", QoS::AtMostOnce),
    );
    let (token, filter) = bench.subscribe_request();
    bench.broker(BrokerEvent::Settled {
        token,
        result: Ok(Some(QoS::AtMostOnce)),
    });
    bench.sent.clear();

    // PUBLISH takes 7 octets: 33 octets of data fill the link, the frame of 7 is too much then.
    bench.message(&[filter], "t/t", QoS::AtMostOnce, false, &[b'x'; 33]);
    assert_eq!(bench.take(1).len(), 1);
    assert_eq!(bench.take(ROOF.port).len(), 0);
    assert_eq!(bench.gateway.metrics().too_large_total, 1);
    bench.message(&[filter], "t/t", QoS::AtMostOnce, false, &[b'x'; 26]);
    let sent = bench.take(ROOF.port);
    assert_eq!((sent.len(), sent[0].len()), (1, 40));
}

#[test]
fn search_through_a_forwarder_is_answered_with_its_radius() {
    for (radius, control) in [(0, 0), (1, 1), (3, 3), (200, 3)] {
        let mut bench = Bench::up(GatewayConfig::default());
        ROOF.send(&mut bench, &[5], Packet::SearchGw(SearchGw { radius }));
        let mut expected = frame(
            &[5],
            Packet::GwInfo(GwInfo {
                gw_id: 1,
                gw_add: &[],
            }),
        );
        expected[2] = control;
        assert_eq!(bench.take(ROOF.port), [expected]);
    }
}

// Roaming.

#[test]
fn node_that_roams_is_answered_through_the_forwarder_it_came_by() {
    let mut bench = Bench::up(GatewayConfig::default());
    ROOF.connect(&mut bench, &[1], "mobile");
    // A message by the new way before CONNECT: told to connect again (reading A13).
    CELLAR.send(&mut bench, &[1], Packet::Pingreq(Pingreq { client_id: None }));
    CELLAR.expect(&mut bench, &[1], &[disconnect()]);
    CELLAR.connect(&mut bench, &[1], "mobile");
    CELLAR.send(&mut bench, &[1], Packet::Pingreq(Pingreq { client_id: None }));
    CELLAR.expect(&mut bench, &[1], &[Packet::Pingresp]);
    assert!(bench.take(ROOF.port).is_empty());
    assert_eq!(bench.gateway.metrics().clients, 1);
    assert_eq!(bench.gateway.metrics().takeovers_total, 1);
}

#[test]
fn sleeper_that_wakes_behind_another_forwarder_gets_its_messages_there() {
    let mut bench = Bench::up(GatewayConfig::default());
    ROOF.connect(&mut bench, &[1], "sleeper");
    ROOF.send(
        &mut bench,
        &[1],
        common::subscribe(MsgId(9), "t/t", QoS::AtLeastOnce),
    );
    let (token, filter) = bench.subscribe_request();
    bench.broker(BrokerEvent::Settled {
        token,
        result: Ok(Some(QoS::AtLeastOnce)),
    });
    ROOF.send(
        &mut bench,
        &[1],
        Packet::Disconnect(Disconnect { duration: Some(60) }),
    );
    bench.sent.clear();
    bench.message(&[filter], "t/t", QoS::AtLeastOnce, false, b"one");
    assert!(bench.sent.is_empty());

    let wakes = Packet::Pingreq(Pingreq {
        client_id: Some("sleeper"),
    });
    CELLAR.send(&mut bench, &[9], wakes);
    let sent = bench.take(CELLAR.port);
    let (_, message) = Encapsulation::split(&sent[0]).unwrap();
    let Ok(Packet::Publish(message)) = Packet::decode(message) else {
        panic!("{sent:?}");
    };
    let TopicRef::Normal(topic_id) = message.topic else {
        panic!("{message:?}");
    };
    let puback = Packet::Puback(Puback {
        topic_id,
        msg_id: message.msg_id,
        return_code: ReturnCode::Accepted,
    });
    CELLAR.send(&mut bench, &[9], puback);
    CELLAR.expect(&mut bench, &[9], &[Packet::Pingresp]);
    assert!(bench.take(ROOF.port).is_empty());
}

#[test]
fn nodes_of_a_forwarder_that_restarts_connect_again_and_keep_their_sessions() {
    let mut rules = [rule("roof", ROOF.ip)];
    rules[0].max_nodes = 20;
    let mut bench = Bench::up(listed(&rules));
    for node in 0..20 {
        ROOF.connect(&mut bench, &[node], &format!("node-{node}"));
    }
    // The same host, another port; every place is taken by the same nodes.
    let restarted = Forwarder { port: 7001, ..ROOF };
    for node in 0..20 {
        restarted.send(&mut bench, &[node], Packet::Pingreq(Pingreq { client_id: None }));
        restarted.expect(&mut bench, &[node], &[disconnect()]);
        restarted.connect(&mut bench, &[node], &format!("node-{node}"));
    }
    assert_eq!(bench.gateway.metrics().clients_active, 20);
    assert_eq!(refusals(&mut bench), []);
    restarted.send(&mut bench, &[99], connect("one-more"));
    restarted.expect(&mut bench, &[99], &[connack(ReturnCode::Congestion)]);
}

// Who may forward.

#[test]
fn without_a_list_everyone_may_forward() {
    let mut bench = Bench::up(GatewayConfig::default());
    ROOF.connect(&mut bench, &[1], "a");
    CELLAR.connect(&mut bench, &[1], "b");
    assert_eq!(bench.gateway.metrics().clients_active, 2);
}

#[test]
fn unlisted_forwarder_is_dropped_counted_and_told_once() {
    let mut bench = Bench::up(listed(&[rule("roof", ROOF.ip)]));
    ROOF.connect(&mut bench, &[1], "a");
    for _ in 0..100 {
        CELLAR.send(&mut bench, &[1], connect("b"));
        CELLAR.send(&mut bench, &[1], Packet::SearchGw(SearchGw { radius: 0 }));
    }
    assert!(bench.sent.is_empty(), "nothing is said to it");
    assert_eq!(refused(&mut bench, ForwarderRefusal::NotListed), 200);
    assert_eq!(refusals(&mut bench), [(None, ForwarderRefusal::NotListed, 0)]);
    bench.pass(seconds(60));
    CELLAR.send(&mut bench, &[1], connect("b"));
    assert_eq!(refusals(&mut bench), [(None, ForwarderRefusal::NotListed, 199)]);
    // It may still be a client itself: what it sends without a frame is its own.
    bench.connect(1, "not-a-node");
}

#[test]
fn list_of_one_link_says_nothing_about_another() {
    let mut bench = Bench::up(listed(&[rule("roof", ROOF.ip)]));
    let other = LinkId(1);
    let profile = LinkProfile::default();
    bench
        .gateway
        .handle_link(bench.now, other, LinkEvent::Up(profile));
    let elsewhere = Forwarder {
        link: other,
        ..CELLAR
    };
    elsewhere.connect(&mut bench, &[1], "b");

    let everywhere = ForwarderRule {
        peers: PeerMatch {
            link: None,
            ..rule("roof", ROOF.ip).peers
        },
        ..rule("roof", ROOF.ip)
    };
    let mut bench = Bench::up(listed(&[everywhere]));
    elsewhere.send(&mut bench, &[1], connect("b"));
    assert_eq!(refused(&mut bench, ForwarderRefusal::NotListed), 1);
}

#[test]
fn networks_are_listed_as_well_as_hosts() {
    let mut rules = [rule("all", ROOF.ip)];
    rules[0].peers.source = Some("10.20.0.0/24".parse().unwrap());
    let mut bench = Bench::up(listed(&rules));
    ROOF.connect(&mut bench, &[1], "a");
    CELLAR.connect(&mut bench, &[1], "b");
    let foreign = Forwarder {
        ip: [10, 20, 1, 7],
        ..ROOF
    };
    foreign.send(&mut bench, &[1], connect("c"));
    assert_eq!(refused(&mut bench, ForwarderRefusal::NotListed), 1);
}

// Limits.

#[test]
fn nodes_beyond_the_limit_get_congestion_and_places_come_back() {
    let mut rules = [rule("roof", ROOF.ip), rule("cellar", CELLAR.ip)];
    rules[0].max_nodes = 2;
    let mut bench = Bench::up(listed(&rules));
    ROOF.connect(&mut bench, &[1], "a");
    ROOF.connect(&mut bench, &[2], "b");
    for _ in 0..3 {
        ROOF.send(&mut bench, &[3], connect("c"));
        ROOF.expect(&mut bench, &[3], &[connack(ReturnCode::Congestion)]);
    }
    assert_eq!(refused(&mut bench, ForwarderRefusal::Nodes), 3);
    assert_eq!(
        refusals(&mut bench),
        [(Some("roof".into()), ForwarderRefusal::Nodes, 0)]
    );
    CELLAR.connect(&mut bench, &[3], "c");
    // Who has a place keeps it, under another id too.
    ROOF.connect(&mut bench, &[1], "a");
    ROOF.connect(&mut bench, &[2], "b2");
    // A node that roams in is one more; one that leaves makes room.
    ROOF.send(&mut bench, &[3], connect("c"));
    ROOF.expect(&mut bench, &[3], &[connack(ReturnCode::Congestion)]);
    ROOF.send(
        &mut bench,
        &[1],
        Packet::Disconnect(Disconnect { duration: None }),
    );
    ROOF.expect(&mut bench, &[1], &[disconnect()]);
    ROOF.connect(&mut bench, &[3], "c");
}

#[test]
fn nodes_that_are_lost_make_room() {
    let mut rules = [rule("roof", ROOF.ip)];
    rules[0].max_nodes = 1;
    let mut bench = Bench::up(listed(&rules));
    ROOF.connect(&mut bench, &[1], "a");
    bench.pass(seconds(100));
    assert_eq!(bench.gateway.metrics().lost_total, 1);
    ROOF.connect(&mut bench, &[2], "b");
}

#[test]
fn sleeper_does_not_wake_into_a_forwarder_that_is_full() {
    let mut rules = [rule("roof", ROOF.ip), rule("cellar", CELLAR.ip)];
    rules[1].max_nodes = 1;
    let mut bench = Bench::up(listed(&rules));
    ROOF.connect(&mut bench, &[1], "sleeper");
    ROOF.send(
        &mut bench,
        &[1],
        Packet::Disconnect(Disconnect { duration: Some(60) }),
    );
    CELLAR.connect(&mut bench, &[1], "resident");
    bench.sent.clear();
    let wakes = Packet::Pingreq(Pingreq {
        client_id: Some("sleeper"),
    });
    CELLAR.send(&mut bench, &[2], wakes);
    CELLAR.expect(&mut bench, &[2], &[disconnect()]);
    assert_eq!(refused(&mut bench, ForwarderRefusal::Nodes), 1);
    // Where it was, it still is.
    ROOF.send(&mut bench, &[1], wakes);
    ROOF.expect(&mut bench, &[1], &[Packet::Pingresp]);
}

#[test]
fn place_that_was_taken_while_the_old_address_was_asked_is_taken() {
    let mut rules = [rule("roof", ROOF.ip), rule("cellar", CELLAR.ip)];
    rules[1].max_nodes = 1;
    let mut bench = Bench::up(GatewayConfig {
        address_change: AddressChange::Guarded,
        ..listed(&rules)
    });
    ROOF.connect(&mut bench, &[1], "mobile");
    CELLAR.send(&mut bench, &[2], connect("mobile"));
    CELLAR.connect(&mut bench, &[1], "resident");
    // It does not answer the PINGREQ at its old address, so it may move; but where to?
    bench.pass(seconds(59));
    CELLAR.expect(&mut bench, &[2], &[connack(ReturnCode::Congestion)]);
    assert_eq!(bench.gateway.metrics().clients_active, 2);
    assert_eq!(bench.gateway.metrics().takeovers_total, 0);
}

#[test]
fn forwarder_that_sends_too_much_exhausts_only_itself() {
    let mut rules = [rule("roof", ROOF.ip), rule("cellar", CELLAR.ip)];
    rules[0].packets_per_second = 10;
    rules[0].max_nodes = 5;
    let mut bench = Bench::up(listed(&rules));
    let mut answered = 0;
    for node in 0..=u16::MAX {
        ROOF.send(&mut bench, &node.to_be_bytes(), connect(&format!("n{node}")));
        answered += bench.take(ROOF.port).len();
    }
    assert_eq!(answered, 10);
    assert_eq!(bench.gateway.metrics().clients, 5);
    assert_eq!(refused(&mut bench, ForwarderRefusal::Rate), 65_526);
    assert_eq!(refused(&mut bench, ForwarderRefusal::Nodes), 5);
    let told = refusals(&mut bench);
    assert_eq!(told.len(), 2, "{told:?}");
    CELLAR.connect(&mut bench, &[1], "neighbour");
    bench.pass(seconds(1));
    ROOF.send(
        &mut bench,
        &0_u16.to_be_bytes(),
        Packet::Pingreq(Pingreq { client_id: None }),
    );
    ROOF.expect(&mut bench, &0_u16.to_be_bytes(), &[Packet::Pingresp]);
}

// QoS −1.

fn minus_one(topic: TopicRef, data: &[u8]) -> Packet<'_> {
    Packet::Publish(Publish {
        dup: false,
        qos: PublishQoS::MinusOne,
        retain: false,
        topic,
        msg_id: MsgId(0),
        data,
    })
}

fn with_minus_one_rules(rules: &[QosMinusOneRule]) -> GatewayConfig {
    let topic = |id, topic: &str| PredefinedTopic {
        id: TopicId(id),
        topic: topic.into(),
    };
    GatewayConfig {
        predefined: vec![
            topic(1, "events"),
            topic(2, "sensors/{client_id}/event"),
            topic(3, "secret"),
        ],
        clients: vec![ClientRule {
            pattern: "anon-10.20.*".into(),
            predefined: vec![topic(4, "anonymous/{client_id}")],
            ..ClientRule::default()
        }],
        qos_minus_one: rules.to_vec(),
        ..GatewayConfig::default()
    }
}

fn minus_one_rule(source: &str, topics: &[&str]) -> QosMinusOneRule {
    QosMinusOneRule {
        peers: PeerMatch {
            link: Some(LINK),
            source: Some(source.parse().expect("a network")),
        },
        client_id: "anon-{address}".into(),
        topics: topics.iter().map(ToString::to_string).collect(),
    }
}

/// Topics published since the last look; nothing may have been answered.
#[track_caller]
fn published(bench: &mut Bench) -> Vec<String> {
    assert!(bench.sent.is_empty(), "QoS −1 is never answered");
    let published = bench.requests.drain(..).filter_map(|request| match request {
        BrokerRequest::Publish {
            topic,
            token: None,
            qos: QoS::AtMostOnce,
            ..
        } => Some(topic.to_string()),
        _ => None,
    });
    published.collect()
}

#[test]
fn qos_minus_one_through_a_forwarder_needs_no_session() {
    let mut bench = Bench::up(with_minus_one_rules(&[]));
    ROOF.send(
        &mut bench,
        &[1],
        minus_one(TopicRef::Predefined(TopicId(1)), b"x"),
    );
    ROOF.send(
        &mut bench,
        &[1],
        minus_one(TopicRef::Predefined(TopicId(2)), b"x"),
    );
    ROOF.send(
        &mut bench,
        &[1],
        minus_one(TopicRef::Short(ShortTopic(*b"ab")), b"x"),
    );
    assert_eq!(published(&mut bench), ["events"]);
}

#[test]
fn qos_minus_one_from_an_unlisted_forwarder_is_dropped() {
    let mut config = with_minus_one_rules(&[]);
    config.forwarders = vec![rule("roof", ROOF.ip)];
    let mut bench = Bench::up(config);
    CELLAR.send(
        &mut bench,
        &[1],
        minus_one(TopicRef::Predefined(TopicId(1)), b"x"),
    );
    assert!(published(&mut bench).is_empty());
    ROOF.send(
        &mut bench,
        &[1],
        minus_one(TopicRef::Predefined(TopicId(1)), b"x"),
    );
    assert_eq!(published(&mut bench), ["events"]);
}

#[test]
fn rules_say_who_publishes_without_a_session_and_where() {
    let rules = [minus_one_rule(
        "10.20.0.0/16",
        &["sensors/+/event", "anonymous/#", "ab"],
    )];
    let mut bench = Bench::up(with_minus_one_rules(&rules));
    for id in 1..=4 {
        ROOF.send(
            &mut bench,
            &[0x0A, 0xFF],
            minus_one(TopicRef::Predefined(TopicId(id)), b"x"),
        );
    }
    // Each node is someone else.
    assert_eq!(
        published(&mut bench),
        [
            "sensors/anon-10.20.0.7-0aff/event",
            "anonymous/anon-10.20.0.7-0aff"
        ]
    );
    for name in [b"ab", b"ac", b"\xFF\xFF"] {
        ROOF.send(
            &mut bench,
            &[1],
            minus_one(TopicRef::Short(ShortTopic(*name)), b"x"),
        );
    }
    assert_eq!(published(&mut bench), ["ab"]);
    // 10.0.0.1 is in none of the rules.
    bench.packet(1, minus_one(TopicRef::Predefined(TopicId(2)), b"x"));
    assert!(published(&mut bench).is_empty());
    let told = |notice: &&Notice| matches!(notice, Notice::PublishMinusOneRefused { .. });
    assert_eq!(bench.notices.iter().filter(told).count(), 1);
    assert_eq!(bench.gateway.metrics().publish_dropped_total, 4);
}

#[test]
fn a_predefined_id_without_a_topic_is_told_with_its_reason() {
    let why = |bench: &mut Bench, ids: &[u16]| -> Vec<NoTopic> {
        bench.notices.clear();
        for id in ids {
            bench.packet(1, minus_one(TopicRef::Predefined(TopicId(*id)), b"x"));
        }
        let reasons = bench.notices.iter().filter_map(|notice| match notice {
            Notice::UnknownTopic { reason, .. } => Some(*reason),
            _ => None,
        });
        reasons.collect()
    };
    // 2 has {client_id}, 4 is that of some clients, 9 nobody has.
    let mut bench = Bench::up(with_minus_one_rules(&[]));
    assert_eq!(
        why(&mut bench, &[2, 4, 9]),
        [NoTopic::NeedsClient, NoTopic::NeedsClient, NoTopic::NotConfigured]
    );
    let rule = QosMinusOneRule {
        client_id: "a+b".into(),
        ..minus_one_rule("10.0.0.0/8", &["#"])
    };
    let mut bench = Bench::up(with_minus_one_rules(&[rule]));
    assert_eq!(
        why(&mut bench, &[2, 4]),
        [NoTopic::InvalidName, NoTopic::NotConfigured]
    );
}

#[test]
fn rule_without_topics_switches_qos_minus_one_off() {
    let mut bench = Bench::up(with_minus_one_rules(&[minus_one_rule("0.0.0.0/0", &[])]));
    bench.packet(1, minus_one(TopicRef::Predefined(TopicId(1)), b"x"));
    assert!(published(&mut bench).is_empty());
    // A connected client is no stranger: as QoS 0, under its own id.
    bench.connect(1, "a");
    bench.packet(1, minus_one(TopicRef::Predefined(TopicId(1)), b"x"));
    assert_eq!(published(&mut bench), ["events"]);
}
