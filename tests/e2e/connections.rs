//! Several connections to the broker, where one is not enough. Only mosquitto's log tells what went over which.

use std::collections::{BTreeMap, BTreeSet};

use sn_codec::{Packet, QoS, TopicFilter, TopicRef};
use system_tests::{Broker, Client, Message, PATIENCE, Setup};

const CONNECTIONS: [&str; 4] = ["gw", "gw-1", "gw-2", "gw-3"];
const CLIENTS: usize = 24;

#[test]
fn clients_share_them_each_keeps_to_its_own_and_each_resumes_its_session() {
    let mut broker = Broker::mosquitto();
    broker.keep_subscription("observer", "many/#");
    let gateway = Setup::beside(&broker)
        .toml("broker.connections = 4")
        .toml("broker.client_id = 'gw'")
        .start();
    for connection in CONNECTIONS {
        broker.wait_for_log("each to be connected", |line| {
            line.contains(&format!("Sending CONNACK to {connection} (0, 0)"))
        });
    }
    let clients: Vec<(Client, TopicRef)> = (0..CLIENTS)
        .map(|n| {
            let client = gateway.connected_client(&format!("sensor-{n}"));
            let topic = TopicRef::Normal(client.register(&format!("many/{n}")));
            (client, topic)
        })
        .collect();
    let publish_all = |payload: &str| {
        for (client, topic) in &clients {
            client.publish_acknowledged(*topic, payload.as_bytes());
        }
    };
    let (first, _) = &clients[0];
    first.subscribe(TopicFilter::Name("cmd/0"), QoS::AtMostOnce);

    publish_all("first");
    let before = carried(&broker);
    // mosquitto 2.0 keeps a session on disk only if its last CONNECT was not for a new one.
    for payload in ["away once", "away again"] {
        broker.stop();
        publish_all(payload);
        broker.start();
        for connection in CONNECTIONS {
            broker.wait_for_log("each to be connected again", |line| {
                line.contains(&format!("Sending CONNACK to {connection} (1, 0)"))
            });
        }
    }
    publish_all("after");
    let after = carried(&broker);

    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        CONNECTIONS.iter().collect::<Vec<_>>()
    );
    assert_eq!(before, after, "each client stays where it was");
    assert_eq!(before.values().map(BTreeSet::len).sum::<usize>(), CLIENTS);
    // The subscription is on one of them alone, and stands.
    broker.publish("cmd/0", "on", 1);
    let (_, command) = first.receive_publish();
    assert!(matches!(command.packet(), Packet::Publish(publish) if publish.data == b"on"));
    first.expect_silence();

    let mut observer = broker.subscribe_as("observer", "many/#", &["-c", "-q", "1"]);
    let mut arrived: BTreeMap<String, Vec<Message>> = BTreeMap::new();
    for message in observer.receive_many(4 * CLIENTS) {
        arrived.entry(message.topic.clone()).or_default().push(message);
    }
    for n in 0..CLIENTS {
        let topic = format!("many/{n}");
        let expected = ["first", "away once", "away again", "after"];
        assert_eq!(
            arrived[&topic],
            expected.map(|payload| Message::new(&topic, payload, 1)),
            "once, and in order"
        );
    }
    observer.expect_silence();
    gateway.stop();
}

/// The topics that came over each connection since this mosquitto started, once all have.
#[track_caller]
fn carried(broker: &Broker) -> BTreeMap<String, BTreeSet<String>> {
    for n in 0..CLIENTS {
        broker.log().wait_for_line("all to arrive", 0, PATIENCE, |line| {
            line.contains("Received PUBLISH from gw") && line.contains(&format!("'many/{n}'"))
        });
    }
    let mut carried = BTreeMap::<String, BTreeSet<String>>::new();
    for line in broker.log().lines() {
        if let Some((_, publish)) = line.text.split_once("Received PUBLISH from ")
            && let Some((connection, rest)) = publish.split_once(' ')
            && let Some(topic) = rest.split('\'').nth(1)
            && topic.starts_with("many/")
        {
            carried.entry(connection.into()).or_default().insert(topic.into());
        }
    }
    carried
}
