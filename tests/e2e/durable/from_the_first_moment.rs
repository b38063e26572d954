//! MQTT clients that wait for the broker inside the gateway to come back, and publish at once.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpStream},
    thread,
    time::Instant,
};

use sn_codec::{Packet, QoS, TopicFilter};
use system_tests::{Broker, BrokerKind, Client, PATIENCE, Setup};

const SENSORS: usize = 10;

/// Near what a client may hold; all together far more than the gateway asks the broker for at a time.
const FILTERS: usize = 30;

/// Messages to each sensor: the first of them are there before anybody is ready for them.
const MESSAGES: u8 = 20;

fn topic(sensor: usize, number: usize) -> String {
    format!("cmd/{sensor}/{number}")
}

#[test]
fn what_is_published_in_the_first_moment_after_a_restart_reaches_sensors() {
    let broker = Broker::start_new(BrokerKind::Embedded);
    let gateway = Setup::beside(&broker).start();
    let sensors: Vec<Client> = (0..SENSORS)
        .map(|sensor| {
            let client = gateway.connected_client(&format!("sensor-{sensor}"));
            for number in 0..FILTERS {
                client.subscribe(TopicFilter::Name(&topic(sensor, number)), QoS::AtLeastOnce);
            }
            client
        })
        .collect();

    let setup = gateway.kill();
    let port = broker.port();
    let publishers: Vec<_> = (0..SENSORS)
        .map(|sensor| thread::spawn(move || publish(port, sensor)))
        .collect();
    let gateway = setup.start();

    for (sensor, publisher) in publishers.into_iter().enumerate() {
        publisher.join().expect("the broker takes all of it");
        let received = receive(&sensors[sensor]);
        let lost: Vec<u8> = (0..MESSAGES)
            .filter(|number| !received.contains(number))
            .collect();
        assert!(
            lost.is_empty(),
            "acknowledged, and not there at sensor {sensor}: {lost:?}"
        );
    }
    gateway.stop();
}

/// Publishes numbers to one topic of the sensor after the other, each over a connection of its own, from before the
/// broker listens. Returns when all are acknowledged.
fn publish(port: u16, sensor: usize) {
    for number in 0..MESSAGES {
        // The last topics first: the gateway subscribes to them last.
        let topic = topic(sensor, FILTERS - 1 - usize::from(number) % FILTERS);
        publish_one(connected(port), &format!("publisher-{sensor}"), &topic, number);
    }
}

/// A connection, as soon as somebody listens.
pub(super) fn connected(port: u16) -> TcpStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            Ok(stream) => return stream,
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused),
        }
        assert!(Instant::now() < deadline, "nobody listens");
        thread::yield_now();
    }
}

/// MQTT 3.1.1: CONNECT and PUBLISH with QoS 1 in one segment, and their answers.
fn publish_one(mut stream: TcpStream, id: &str, topic: &str, number: u8) {
    let connect = [b"\0\x04MQTT\x04\x02\0\x3c", &string(id)[..]].concat();
    let publish = [&string(topic)[..], b"\0\x01", &[number]].concat();
    let both = [packet(0x10, &connect), packet(0x32, &publish)].concat();
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout above zero");
    let mut answers = [0; 8];
    let answered = stream
        .write_all(&both)
        .and_then(|()| stream.read_exact(&mut answers));
    answered.expect("who is connected is served");
    assert_eq!(answers, *b"\x20\x02\0\0\x40\x02\0\x01");
}

/// A string with its length.
pub(super) fn string(text: &str) -> Vec<u8> {
    [&[0, text.len() as u8], text.as_bytes()].concat()
}

/// A packet of less than 128 octets.
pub(super) fn packet(head: u8, body: &[u8]) -> Vec<u8> {
    [&[head, body.len() as u8], body].concat()
}

/// Receives and acknowledges messages until the last: all numbers that came.
fn receive(sensor: &Client) -> Vec<u8> {
    let mut received = vec![];
    while received.last() != Some(&(MESSAGES - 1)) {
        let (_, datagram) = sensor.receive_publish();
        let Packet::Publish(publish) = datagram.packet() else {
            panic!("checked by receive_publish");
        };
        received.extend_from_slice(publish.data);
        sensor.acknowledge(&datagram);
    }
    received
}
