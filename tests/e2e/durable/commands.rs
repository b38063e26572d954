//! MQTT clients that command sleeping sensors over the broker inside the gateway, which is killed as soon as it said
//! that it has the command.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpStream},
};

use sn_codec::{Packet, QoS, TopicFilter};
use system_tests::{Broker, BrokerKind, Capture, Client, PATIENCE, Setup, free_port};

use super::from_the_first_moment::{connected, packet, string};
use super::{FULL, make_room, with_state_on};

/// Each ends with a kill.
const ROUNDS: u8 = 20;

#[test]
fn what_a_client_was_acknowledged_for_a_sleeping_sensor_survives_a_kill_at_that_moment() {
    for (granted, head, answer) in [(QoS::AtLeastOnce, 0x32, 0x40), (QoS::ExactlyOnce, 0x34, 0x50)] {
        let broker = Broker::start_new(BrokerKind::Embedded);
        let mut gateway = Setup::beside(&broker).start();
        let sleeper = gateway.connected_client("sleeper");
        sleeper.subscribe(TopicFilter::Name("cmd/set"), granted);
        sleeper.sleep(600);

        for number in 0..ROUNDS {
            let mut publisher = connected(broker.port());
            send(&mut publisher, "commander", "cmd/set", head, number);
            receive(&mut publisher, &CONNACK);
            receive(&mut publisher, &[answer, 2, 0, 1]);
            gateway = gateway.kill().start();
        }

        sleeper.wake();
        let received = sleeper.receive_until_pingresp();
        let sent: Vec<_> = (0..ROUNDS).map(|number| [number]).collect();
        assert_eq!(received, sent, "acknowledged with 0x{answer:02x}");
        gateway.stop();
    }
}

#[test]
fn while_the_disk_is_full_commands_wait_for_their_acknowledgement_and_nobody_else_does() {
    let dir = tempfile::tempdir().expect("a directory");
    let (port, mqtt) = (free_port(), free_port());
    let bind = format!("broker.embedded.bind=[\"127.0.0.1:{mqtt}\"]");
    let gateway = with_state_on(dir.path(), FULL, port, &["--broker", "embedded", "--set", &bind]);
    gateway.wait_for_line("the gateway to be ready", 0, PATIENCE, |line| {
        line.starts_with("ready")
    });
    let sensor = Client::new("sensor", (Ipv4Addr::LOCALHOST, port).into(), &Capture::default());
    sensor.connect();
    sensor.subscribe(TopicFilter::Name("cmd/set"), QoS::AtLeastOnce);
    gateway.wait_for_line("a disk that is full", 0, PATIENCE, |line| {
        line.contains("the disk does not take what is written")
    });

    let mut commander = connected(mqtt);
    send(&mut commander, "commander", "cmd/set", 0x32, 7);
    receive(&mut commander, &CONNACK);
    for _ in 0..3 {
        let mut other = connected(mqtt);
        send(&mut other, "other", "demo/other", 0x32, 0);
        receive(&mut other, &CONNACK);
        receive(&mut other, &[0x40, 2, 0, 1]);
    }
    commander.set_nonblocking(true).expect("a socket");
    let early = commander.read(&mut [0; 4]).map_err(|error| error.kind());
    assert_eq!(early, Err(ErrorKind::WouldBlock), "acknowledged without a disk");
    commander.set_nonblocking(false).expect("a socket");

    make_room(&gateway, dir.path());
    receive(&mut commander, &[0x40, 2, 0, 1]);
    let (_, command) = sensor.receive_publish();
    let Packet::Publish(publish) = command.packet() else {
        panic!("checked by receive_publish");
    };
    assert_eq!(publish.data, [7]);
    sensor.acknowledge(&command);
}

const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

/// MQTT 3.1.1: CONNECT and PUBLISH with packet id 1. `head` says with which QoS.
#[track_caller]
fn send(stream: &mut TcpStream, id: &str, topic: &str, head: u8, number: u8) {
    let connect = [b"\0\x04MQTT\x04\x02\0\x3c", &string(id)[..]].concat();
    let publish = [&string(topic)[..], b"\0\x01", &[number]].concat();
    let both = [packet(0x10, &connect), packet(head, &publish)].concat();
    stream.write_all(&both).expect("who is connected is served");
}

#[track_caller]
fn receive(stream: &mut TcpStream, expected: &[u8; 4]) {
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout above zero");
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, *expected);
}
