//! A client that subscribes to everything, at a broker that has much.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use sn_codec::{PublishQoS, QoS, TopicFilter, TopicRef};
use system_tests::{Broker, BrokerKind, Message, PATIENCE, Setup, poll_until, with_each_broker};

with_each_broker![retained_messages_by_the_thousand_stay_within_bounds_and_hold_up_nobody];

const RETAINED: usize = 5_000;

/// One line of standard input is one retained message.
fn retain_many(broker: &Broker) {
    // A client id in each topic keeps the names from being short ids.
    let mut publisher = Command::new("python3")
        .args(["-c", RETAIN, &broker.port().to_string()])
        .stdin(Stdio::piped())
        .spawn()
        .expect("python3 is there");
    let mut input = publisher.stdin.take().expect("it is piped");
    for number in 0..RETAINED {
        writeln!(input, "storm/{number}/state").expect("it reads");
    }
    drop(input);
    let exit = publisher.wait().expect("it ends");
    assert!(exit.success(), "{exit}");
}

/// MQTT 3.1.1 by hand: CONNECT, a retained PUBLISH of QoS 0 for each line, then one of QoS 1, whose PUBACK says that all
/// of them arrived.
const RETAIN: &str = r#"
import socket, struct, sys
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def text(s): return struct.pack(">H", len(s)) + s
link.sendall(b"\x10" + bytes([10 + 2 + 5]) + text(b"MQTT") + b"\x04\x02\x00\x3c" + text(b"storm"))
assert link.recv(4)[3] == 0
for line in sys.stdin:
    body = text(line.strip().encode()) + b"0123456789"
    link.sendall(b"\x31" + bytes([len(body)]) + body)
body = text(b"storm/done") + b"\x00\x01"
link.sendall(b"\x32" + bytes([len(body)]) + body)
assert link.recv(4) == b"\x40\x02\x00\x01"
link.sendall(b"\xe0\x00")
"#;

fn retained_messages_by_the_thousand_stay_within_bounds_and_hold_up_nobody(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    retain_many(&broker);
    let worker = gateway.connected_client("worker");
    worker.subscribe(TopicFilter::Name("work/set"), QoS::AtLeastOnce);
    let topic = TopicRef::Normal(worker.register("work/done"));
    let mut observer = broker.subscribe("work/done");

    // It never answers, so that what it is sent waits.
    let greedy = gateway.connected_client("greedy");
    greedy.sleep(600);
    greedy.send(sn_codec::Packet::Subscribe(sn_codec::Subscribe {
        dup: false,
        qos: QoS::AtLeastOnce,
        msg_id: greedy.next_msg_id(),
        topic: TopicFilter::Name("#"),
    }));

    // Meanwhile others are served.
    for number in 0..20_u8 {
        let msg_id = worker.publish(topic, PublishQoS::Level(QoS::AtLeastOnce), &[number]);
        worker.expect_puback(topic, msg_id, sn_codec::ReturnCode::Accepted);
        observer.expect(Message::new("work/done", [number], 1));
        broker.publish("work/set", &number.to_string(), 1);
        let (_, datagram) = worker.receive_publish();
        worker.acknowledge(&datagram);
    }

    // Every one of them came, and was kept or dropped and counted.
    let arrived = || (gateway.metric("snipe_messages_total") >= RETAINED as u64).then_some(());
    poll_until("the retained messages to arrive", PATIENCE, arrived);
    let [kept, octets, dropped] = [
        "snipe_buffer_messages",
        "snipe_buffer_bytes",
        "snipe_buffer_dropped_total",
    ]
    .map(|name| gateway.metric(name));
    assert!(kept <= 100, "{kept} wait: more than sleep.max_messages");
    assert!(
        octets <= 64 << 10,
        "{octets} octets wait: more than sleep.max_bytes"
    );
    assert!(
        kept + dropped >= RETAINED as u64,
        "{kept} kept, {dropped} dropped"
    );
    gateway.stop();
}
