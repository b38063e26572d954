//! Nodes behind forwarders (§5.5): one, many, roaming, restarted, listed or not.

use sn_codec::{
    Connack, Disconnect, Packet, Pingreq, PublishQoS, QoS, ReturnCode, TopicFilter, TopicId, TopicRef,
};
use system_tests::{
    Broker, BrokerKind, Client, Forwarder, Gateway, Message, PATIENCE, Setup, poll_until, with_each_broker,
};

with_each_broker![
    fifty_nodes_share_a_forwarder,
    a_node_roams_with_its_session,
    nodes_of_a_restarted_forwarder_come_back,
    publishes_without_a_session_pass_a_forwarder,
];

const ROOF: [u8; 4] = [127, 0, 0, 7];
const CELLAR: [u8; 4] = [127, 0, 0, 8];

const DISCONNECT: Packet<'_> = Packet::Disconnect(Disconnect { duration: None });

fn node(forwarder: &Forwarder, gateway: &Gateway, id: &str) -> Client {
    Client::new(id, forwarder.address(), gateway.capture())
}

/// The next message, acknowledged.
#[track_caller]
fn receive(client: &Client) -> Vec<u8> {
    let (_, datagram) = client.receive_publish();
    client.acknowledge(&datagram);
    let Packet::Publish(publish) = datagram.packet() else {
        panic!("checked by receive_publish");
    };
    publish.data.to_vec()
}

fn fifty_nodes_share_a_forwarder(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let mut observer = broker.subscribe("plant/#");
    let forwarder = gateway.forwarder(ROOF);
    let nodes: Vec<Client> = (0..50)
        .map(|n| {
            let node = node(&forwarder, &gateway, &format!("node-{n}"));
            node.connect();
            node.subscribe(TopicFilter::Name(&format!("cmd/{n}")), QoS::AtLeastOnce);
            node
        })
        .collect();
    // All at once, so that the answers have to find their way.
    let sent: Vec<_> = (0..50)
        .zip(&nodes)
        .map(|(n, node)| {
            let topic = TopicRef::Normal(node.register(&format!("plant/{n}")));
            let qos = PublishQoS::Level(QoS::AtLeastOnce);
            (topic, node.publish(topic, qos, format!("from {n}").as_bytes()))
        })
        .collect();
    for (node, (topic, msg_id)) in nodes.iter().zip(sent) {
        node.expect_puback(topic, msg_id, ReturnCode::Accepted);
    }

    let mut arrived = observer.receive_many(50);
    arrived.sort();
    let mut expected: Vec<Message> = (0..50)
        .map(|n| Message::new(&format!("plant/{n}"), format!("from {n}"), 1))
        .collect();
    expected.sort();
    assert_eq!(arrived, expected);
    for n in [0, 7, 49] {
        broker.publish(&format!("cmd/{n}"), &format!("to {n}"), 1);
        assert_eq!(receive(&nodes[n]), format!("to {n}").into_bytes());
    }
    for node in &nodes {
        node.ping();
    }
    drop(forwarder);
    gateway.stop();
}

fn a_node_roams_with_its_session(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let (roof, cellar) = (gateway.forwarder(ROOF), gateway.forwarder(CELLAR));
    let mut mobile = node(&roof, &gateway, "mobile");
    mobile.connect_again();
    mobile.subscribe(TopicFilter::Name("cmd"), QoS::AtLeastOnce);

    // Active: the gateway does not know it there, and it connects again (readings A11, A13).
    mobile.move_to(cellar.address());
    mobile.send(Packet::Pingreq(Pingreq { client_id: None }));
    mobile.expect(DISCONNECT);
    mobile.connect_again();
    broker.publish("cmd", "in the cellar", 1);
    assert_eq!(receive(&mobile), b"in the cellar");

    // Asleep: found by its id.
    mobile.sleep(60);
    broker.publish("cmd", "on the roof", 1);
    gateway.wait_for_buffered(1);
    mobile.move_to(roof.address());
    mobile.wake();
    assert_eq!(mobile.receive_until_pingresp(), [b"on the roof"]);

    // And without a forwarder.
    mobile.move_to(gateway.address());
    mobile.connect_again();
    mobile.ping();
    assert_eq!(gateway.metric("snipe_clients"), 1);
    gateway.stop();
}

fn nodes_of_a_restarted_forwarder_come_back(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let mut forwarder = gateway.forwarder(ROOF);
    let (active, asleep) = (
        node(&forwarder, &gateway, "active"),
        node(&forwarder, &gateway, "asleep"),
    );
    for node in [&active, &asleep] {
        node.connect_again();
        node.subscribe(TopicFilter::Name("cmd"), QoS::AtLeastOnce);
    }
    asleep.sleep(60);
    let before = forwarder.uplink_address();

    forwarder.restart();
    assert_ne!(forwarder.uplink_address(), before);

    active.send(Packet::Pingreq(Pingreq { client_id: None }));
    active.expect(DISCONNECT);
    active.connect_again();
    broker.publish("cmd", "still subscribed", 1);
    assert_eq!(receive(&active), b"still subscribed");
    asleep.wake();
    assert_eq!(asleep.receive_until_pingresp(), [b"still subscribed"]);
    gateway.stop();
}

fn publishes_without_a_session_pass_a_forwarder(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker)
        .toml(
            r#"
            predefined = [
                { id = 1, topic = "sensors/{client_id}/event" },
                { id = 2, topic = "secret" },
            ]
            [[qos_minus_one]]
            source = "127.0.0.7"
            client_id = "anon-{address}"
            topics = ["sensors/+/event"]
            "#,
        )
        .start();
    let mut observer = broker.subscribe("#");
    let (roof, cellar) = (gateway.forwarder(ROOF), gateway.forwarder(CELLAR));
    let button = node(&roof, &gateway, "button");
    let elsewhere = node(&cellar, &gateway, "elsewhere");

    for id in [2, 1] {
        for node in [&elsewhere, &button] {
            node.publish(
                TopicRef::Predefined(TopicId(id)),
                PublishQoS::MinusOne,
                b"pressed",
            );
        }
    }

    let topic = format!("sensors/anon-127.0.0.7-{:04x}/event", button.address().port());
    observer.expect(Message::new(&topic, "pressed", 0));
    button.expect_silence();
    observer.expect_nothing_more();
    poll_until("three publishes to be dropped", PATIENCE, || {
        (gateway.metric("snipe_publish_dropped_total") == 3).then_some(())
    });
    gateway.stop();
}

/// Before anything reaches a broker: one is enough.
#[test]
fn once_there_is_a_list_only_listed_forwarders_are_heard() {
    let broker = Broker::mosquitto();
    let mut gateway = Setup::beside(&broker)
        .toml(
            r#"
            [[forwarder]]
            name = "roof"
            radio = "udp0"
            source = "127.0.0.7/32"
            "#,
        )
        .start();
    let (roof, cellar) = (gateway.forwarder(ROOF), gateway.forwarder(CELLAR));
    let unlisted = node(&cellar, &gateway, "unlisted");

    for _ in 0..3 {
        unlisted.send(unlisted.connect_packet(true, 60));
    }
    let refused = "snipe_forwarder_refused_total{reason=\"not_listed\"}";
    poll_until("three frames to be refused", PATIENCE, || {
        (gateway.metric(refused) == 3).then_some(())
    });
    unlisted.expect_silence();
    let address = cellar.uplink_address().to_string();
    let told = |line: &str| line.contains("add it to [[forwarder]]") && line.contains(&address);
    let (_, line) = gateway
        .process()
        .wait_for_line("the log to tell of it", 0, PATIENCE, told);
    assert!(line.text.contains("radio=\"udp0\""), "{}", line.text);
    let lines = gateway.process().lines();
    let lines = lines.iter().filter(|line| told(&line.text));
    assert_eq!(lines.count(), 1, "once a minute");

    node(&roof, &gateway, "listed").connect();
    gateway.connected_client("no-forwarder").ping();
    gateway.stop();
}

#[test]
fn a_listed_forwarder_has_so_many_nodes_and_no_more() {
    let broker = Broker::mosquitto();
    let mut gateway = Setup::beside(&broker)
        .toml("[[forwarder]]\nname = 'roof'\nsource = '127.0.0.7'\nmax_nodes = 2")
        .start();
    let roof = gateway.forwarder(ROOF);
    let [first, second, third] = ["a", "b", "c"].map(|id| node(&roof, &gateway, id));
    first.connect();
    second.connect();

    third.send(third.connect_packet(true, 60));
    third.expect(Packet::Connack(Connack {
        return_code: ReturnCode::Congestion,
    }));
    gateway
        .process()
        .wait_for_line("the log to tell of it", 0, PATIENCE, |line| {
            line.contains("more than its max_nodes") && line.contains("roof")
        });
    first.disconnect();
    third.connect();
    gateway.stop();
}
