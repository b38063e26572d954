//! A thousand clients at once.

use std::{
    collections::BTreeSet,
    sync::{Arc, Barrier},
    thread,
    time::Duration,
};

use sn_codec::{Packet, Puback, Publish, PublishQoS, QoS, ReturnCode, TopicRef};
use system_tests::{Broker, BrokerKind, Client, Setup, allow_many_sockets, with_each_broker};

with_each_broker![a_thousand_clients_publish_at_once_and_every_acknowledged_message_arrives,];

const CLIENTS: usize = 1000;
const MESSAGES: usize = 5;
/// A sensor's Tretry, shortened.
const RETRY: Duration = Duration::from_secs(1);

fn a_thousand_clients_publish_at_once_and_every_acknowledged_message_arrives(kind: BrokerKind) {
    allow_many_sockets();
    let broker = Broker::start_new(kind);
    // All come from one machine within moments: the limits on newcomers are not what is tested here.
    let gateway = Setup::beside(&broker)
        .toml("limits.new_sessions_per_second = 100_000")
        .start();
    let mut observer = broker.subscribe("swarm/#");

    let start = Arc::new(Barrier::new(CLIENTS));
    let sensors: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let client = gateway.connected_client(&format!("sensor-{n}"));
            let topic = TopicRef::Normal(client.register(&format!("swarm/{n}")));
            let start = Arc::clone(&start);
            thread::spawn(move || {
                start.wait();
                let acknowledged = (0..MESSAGES).filter(|m| publish(&client, topic, &format!("{n} {m}")));
                let acknowledged: Vec<_> = acknowledged.map(|m| (n, m)).collect();
                (client, acknowledged)
            })
        })
        .collect();
    // The sockets stay open until the gateway is gone: its last words must not reach another test's client.
    let (_sensors, acknowledged): (Vec<_>, Vec<_>) = sensors
        .into_iter()
        .map(|sensor| sensor.join().expect("a sensor"))
        .unzip();
    let acknowledged: BTreeSet<_> = acknowledged.into_iter().flatten().collect();

    // Nothing is lost on loopback for long: with retransmissions all are acknowledged.
    assert_eq!(acknowledged.len(), CLIENTS * MESSAGES);
    let mut arrived = BTreeSet::new();
    while !acknowledged.is_subset(&arrived) {
        let message = observer.receive();
        let payload = String::from_utf8(message.payload).expect("we sent text");
        let (n, m) = payload.split_once(' ').expect("we sent two numbers");
        // What was sent under one client's topic id did not end up under another's name.
        assert_eq!(message.topic, format!("swarm/{n}"));
        let numbers: (usize, usize) = (n.parse().expect("a number"), m.parse().expect("a number"));
        assert!(
            numbers.0 < CLIENTS && numbers.1 < MESSAGES,
            "{numbers:?} was never sent"
        );
        arrived.insert(numbers);
    }
    gateway.stop();
}

/// Publishes with QoS 1 and repeats with DUP as a sensor does (§6.13); true once it is acknowledged.
fn publish(client: &Client, topic: TopicRef, data: &str) -> bool {
    let (qos, msg_id) = (PublishQoS::Level(QoS::AtLeastOnce), client.next_msg_id());
    for attempt in 0..10 {
        let publish = Publish {
            dup: attempt > 0,
            qos,
            retain: false,
            topic,
            msg_id,
            data: data.as_bytes(),
        };
        client.send(Packet::Publish(publish));
        while let Some(datagram) = client.receive_within(RETRY) {
            match datagram.packet() {
                Packet::Puback(Puback {
                    msg_id: answered,
                    return_code: ReturnCode::Accepted,
                    ..
                }) => {
                    // An older one is the second answer to a repetition.
                    if answered == msg_id {
                        return true;
                    }
                }
                other => panic!("{}: {other:?}", client.id()),
            }
        }
    }
    false
}
