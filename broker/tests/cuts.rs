//! Connections that break, subscribers that are slow or dead: nothing acknowledged is lost, nothing of QoS 2 comes twice,
//! and nobody waits for another.
//!
//! `SNIPE_MQTT_CUTS=N` multiplies the numbers of messages by N.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(unused_macros, reason = "of no use here")]
mod mqtt;

use std::collections::{BTreeSet, VecDeque};
use std::env;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use broker::EmbeddedLimits;
use mqtt::Version::{V3, V5};
use mqtt::{Broker, Client, Connect, Event, Kind, Packet, Publish, Version};
use rand::RngExt;

/// Unacknowledged at once; fewer than any broker's Receive Maximum here.
const WINDOW: usize = 40;

fn scale() -> u32 {
    env::var("SNIPE_MQTT_CUTS").map_or(1, |times| times.parse().expect("SNIPE_MQTT_CUTS is a number"))
}

#[test]
fn qos_1_loses_nothing_over_cut_connections_3_1_1() {
    over_cuts(V3, 1, 20_000 * scale());
}

#[test]
fn qos_1_loses_nothing_over_cut_connections_5() {
    over_cuts(V5, 1, 20_000 * scale());
}

#[test]
fn qos_2_is_exact_over_cut_connections_3_1_1() {
    over_cuts(V3, 2, 10_000 * scale());
}

#[test]
fn qos_2_is_exact_over_cut_connections_5() {
    over_cuts(V5, 2, 10_000 * scale());
}

/// `count` numbered messages from a publisher to a subscriber, both behind a relay that cuts.
fn over_cuts(version: Version, qos: u8, count: u32) {
    let broker = Broker::start(&Kind::chosen(), version);
    // The subscription exists before the first message, and the client is not away.
    let mut first = broker.kept("subscriber");
    first.subscribe("a", qos);
    drop(first);
    let relay = Relay::start(broker.address);
    let address = relay.address;

    let publisher = thread::spawn(move || Publisher::new(version, qos).run(address, count));
    let seen = subscribe_over_cuts(version, address, count);
    publisher.join().unwrap();
    let cuts = relay.stop();
    println!(
        "{count} messages of QoS {qos}, {} deliveries, {cuts} connections cut",
        seen.len()
    );
    let arrived: BTreeSet<u32> = seen.iter().copied().collect();
    let missing: Vec<u32> = (0..count).filter(|n| !arrived.contains(n)).collect();
    if !missing.is_empty() {
        let dropped = broker.retained("$SYS/broker/publish/messages/dropped");
        panic!(
            "{} are missing, the broker knows of {dropped:?}: {missing:?}",
            missing.len()
        );
    }
    assert!(cuts > 10, "only {cuts} connections were cut");

    let mut last = broker.kept("subscriber");
    assert!(last.session_present);
    if qos == 2 {
        // A PUBCOMP may have been lost, a message not.
        while let Event::Packet(Packet::PubRel(ack)) = last.event(Duration::from_millis(300)) {
            last.send(&Packet::pub_comp(ack.id));
        }
        last.expect_nothing();
        assert!(seen.iter().copied().eq(0..count), "exactly once, and in order");
    } else {
        let distinct: BTreeSet<u32> = seen.iter().copied().collect();
        assert!(distinct.into_iter().eq(0..count), "each at least once");
        // What comes for the first time comes in order.
        let mut next = 0;
        for n in seen {
            assert!(n <= next, "{n} before {next}");
            next = next.max(n + 1);
        }
    }
}

/// All payloads in the order of their first or every arrival (QoS 2 or 1), until the last.
fn subscribe_over_cuts(version: Version, address: SocketAddr, count: u32) -> Vec<u32> {
    let mut seen = Vec::new();
    // QoS 2 messages whose PUBREL has not come yet.
    let mut unreleased = BTreeSet::new();
    let started = Instant::now();
    loop {
        if started.elapsed() > Duration::from_secs(60) * scale() {
            println!("waiting in vain; PUBREL is due for {unreleased:?}");
            return seen;
        }
        let mut client = Client::open(address, version);
        if !client.try_connect(&Connect::kept(version, "subscriber")) {
            continue;
        }
        assert!(client.session_present, "the broker lost the session");
        loop {
            match client.event(mqtt::PATIENCE) {
                Event::Packet(Packet::Publish(publish)) => {
                    let n = publish.text().parse().unwrap();
                    if publish.qos == 1 {
                        seen.push(n);
                        client.send(&Packet::pub_ack(publish.id));
                        if n == count - 1
                            && seen.iter().copied().collect::<BTreeSet<u32>>().len() as u32 == count
                        {
                            return seen;
                        }
                    } else {
                        if unreleased.insert(publish.id) {
                            seen.push(n);
                        }
                        client.send(&Packet::pub_rec(publish.id));
                    }
                }
                Event::Packet(Packet::PubRel(ack)) => {
                    unreleased.remove(&ack.id);
                    client.send(&Packet::pub_comp(ack.id));
                    if seen.len() as u32 >= count && unreleased.is_empty() {
                        return seen;
                    }
                }
                Event::Closed => break,
                other => panic!("{other:?} after {} messages", seen.len()),
            }
        }
    }
}

/// A client that keeps its side of the session.
struct Publisher {
    version: Version,
    qos: u8,
    /// The next message.
    next: u32,
    /// Those on their way, in order; `true` after PUBREC.
    unacknowledged: VecDeque<(u16, u32, bool)>,
}

impl Publisher {
    fn new(version: Version, qos: u8) -> Self {
        Publisher {
            version,
            qos,
            next: 0,
            unacknowledged: VecDeque::new(),
        }
    }

    fn run(mut self, address: SocketAddr, count: u32) {
        let mut connected_before = false;
        while self.next < count || !self.unacknowledged.is_empty() {
            let mut client = Client::open(address, self.version);
            if !client.try_connect(&Connect::kept(self.version, "publisher")) {
                continue;
            }
            assert!(
                client.session_present || !connected_before,
                "the broker lost the session"
            );
            connected_before = true;
            let again: Vec<u8> = self
                .unacknowledged
                .iter()
                .flat_map(|&(id, n, received)| {
                    if received {
                        Packet::pub_rel(id).encode(self.version)
                    } else {
                        self.publish(id, n, true)
                    }
                })
                .collect();
            client.send_raw(again);
            self.work(&mut client, count);
        }
    }

    fn publish(&self, id: u16, n: u32, dup: bool) -> Vec<u8> {
        let publish = Publish {
            dup,
            ..Publish::new("a", n.to_string()).qos(self.qos, id)
        };
        publish.encode(self.version)
    }

    /// Until all is done or the connection breaks.
    fn work(&mut self, client: &mut Client, count: u32) {
        while self.next < count || !self.unacknowledged.is_empty() {
            while self.next < count && self.unacknowledged.len() < WINDOW {
                let id = (self.next % 60_000) as u16 + 1;
                client.send_raw(self.publish(id, self.next, false));
                self.unacknowledged.push_back((id, self.next, false));
                self.next += 1;
            }
            match client.event(mqtt::PATIENCE) {
                Event::Packet(Packet::PubAck(ack) | Packet::PubComp(ack)) => {
                    self.unacknowledged.retain(|(id, ..)| *id != ack.id);
                }
                Event::Packet(Packet::PubRec(ack)) => {
                    for entry in &mut self.unacknowledged {
                        if entry.0 == ack.id {
                            entry.2 = true;
                        }
                    }
                    client.send(&Packet::pub_rel(ack.id));
                }
                Event::Closed => return,
                other => panic!("{other:?} with {:?} unacknowledged", self.unacknowledged),
            }
        }
    }
}

#[test]
fn what_comes_for_a_full_queue_while_its_connection_is_broken_waits_3_1_1() {
    to_a_broken_connection(V3);
}

#[test]
fn what_comes_for_a_full_queue_while_its_connection_is_broken_waits_5() {
    to_a_broken_connection(V5);
}

fn to_a_broken_connection(version: Version) {
    if Kind::chosen() != Kind::Embedded {
        return;
    }
    let limits = EmbeddedLimits {
        queue_messages: 10,
        ..EmbeddedLimits::default()
    };
    let broker = Broker::embedded(version, limits);
    let mut subscriber = broker.kept("subscriber");
    subscriber.subscribe("a", 1);
    drop(subscriber);

    let mut publisher = broker.client("publisher");
    for n in 1..=20 {
        publisher.send(&Packet::Publish(Publish::new("a", n.to_string()).qos(1, n)));
    }
    let mut acknowledgement = |expected: u16| match publisher.next() {
        Packet::PubAck(ack) => assert_eq!((ack.id, ack.code), (expected, 0)),
        other => panic!("{other:?}"),
    };
    (1..=10).for_each(&mut acknowledgement);
    let mut subscriber = broker.kept("subscriber");
    for n in 1..=20 {
        let publish = subscriber.next_publish();
        assert_eq!(publish.text(), n.to_string());
        subscriber.acknowledge(&publish);
    }
    (11..=20).for_each(acknowledgement);
}

#[test]
fn a_slow_subscriber_gets_all_that_was_acknowledged_3_1_1() {
    to_a_slow_subscriber(V3, 100_000 * scale());
}

#[test]
fn a_slow_subscriber_gets_all_that_was_acknowledged_5() {
    to_a_slow_subscriber(V5, 100_000 * scale());
}

/// At full speed to a subscriber that stands still again and again.
fn to_a_slow_subscriber(version: Version, count: u32) {
    let broker = Broker::start(&Kind::chosen(), version);
    let mut subscriber = broker.client("subscriber");
    subscriber.subscribe("a", 1);
    let acknowledged = Arc::new(AtomicU32::new(0));

    let publisher = thread::spawn({
        let acknowledged = Arc::clone(&acknowledged);
        let mut client = broker.client("publisher");
        move || {
            let (mut next, mut done) = (0, 0);
            while done < count {
                let mut batch = Vec::new();
                while next < count && next - done < WINDOW as u32 {
                    batch.extend(
                        Publish::new("a", next.to_string())
                            .qos(1, (next % 60_000) as u16 + 1)
                            .encode(version),
                    );
                    next += 1;
                }
                client.send_raw(batch);
                match client.event(mqtt::PATIENCE) {
                    Event::Packet(Packet::PubAck(ack)) => {
                        assert_eq!((ack.id, ack.code), ((done % 60_000) as u16 + 1, 0));
                        done += 1;
                        acknowledged.store(done, Ordering::Relaxed);
                    }
                    other => panic!("{other:?} after {done}"),
                }
            }
        }
    });

    let mut furthest_ahead = 0;
    for n in 0..count {
        if n % 10_000 == 5_000 {
            thread::sleep(Duration::from_millis(200));
            furthest_ahead = furthest_ahead.max(acknowledged.load(Ordering::Relaxed).saturating_sub(n));
        }
        let publish = subscriber.next_publish();
        assert_eq!(publish.text(), n.to_string());
        subscriber.acknowledge(&publish);
    }
    publisher.join().unwrap();
    println!("the publisher was {furthest_ahead} messages ahead at most");
    if Kind::chosen() == Kind::Embedded {
        // queue_messages, and what was read but not yet acknowledged when the subscriber stood still.
        assert!(
            furthest_ahead <= 1000 + 2 * WINDOW as u32,
            "{furthest_ahead} messages ahead"
        );
        assert!(
            furthest_ahead > 500,
            "the subscriber was not slow: {furthest_ahead} messages ahead"
        );
    }
}

/// It reads nothing, its acknowledgements included, before all is written; so they stand behind it all.
#[test]
fn a_client_far_ahead_of_its_own_subscription_gets_it_all_3_1_1() {
    if Kind::chosen() != Kind::Embedded {
        return;
    }
    let limits = EmbeddedLimits {
        queue_messages: 300,
        ..EmbeddedLimits::default()
    };
    let broker = Broker::embedded(V3, limits);
    let mut client = broker.client("c");
    client.subscribe("own", 1);
    let all: Vec<u8> = (1..=500)
        .flat_map(|n: u16| Publish::new("own", n.to_string()).qos(1, n).encode(V3))
        .collect();
    client.send_raw(all);
    let (mut acknowledged, mut seen) = (Vec::new(), Vec::<u16>::new());
    while acknowledged.len() < 500 || seen.len() < 500 {
        match client.next() {
            Packet::PubAck(ack) => acknowledged.push(ack.id),
            Packet::Publish(publish) => {
                seen.push(publish.text().parse().unwrap());
                client.acknowledge(&publish);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(acknowledged.into_iter().eq(1..=500));
    assert!(seen.into_iter().eq(1..=500));
    client.expect_nothing();
}

#[test]
fn a_dead_subscriber_delays_nobody_else() {
    if Kind::chosen() != Kind::Embedded {
        return;
    }
    let broker = Broker::start(&Kind::Embedded, V5);
    // Subscribed to everything, and it never reads.
    let mut dead = broker.client("dead");
    dead.send(&Packet::subscribe(1, "flood", 1));
    dead.barrier();
    let mut live = broker.client("live");
    live.subscribe("flood", 1);
    let mut other = broker.client("other");
    other.subscribe("other", 1);

    let flooded = Arc::new(AtomicBool::new(false));
    let flood = thread::spawn({
        let flooded = Arc::clone(&flooded);
        let mut client = broker.client("flood");
        move || {
            // QoS 0 first, more than sockets hold, and then what is not to be lost.
            for n in 0..6_000_u32 {
                client.send(&Packet::Publish(Publish::new(
                    "flood",
                    vec![b'0' + (n % 10) as u8; 2_000],
                )));
            }
            for n in 0..3_000_u32 {
                client.publish(Publish::new("flood", format!("{n}")).qos(1, 0));
            }
            flooded.store(true, Ordering::Relaxed);
        }
    });
    let reader = thread::spawn(move || {
        for expected in 0..3_000 {
            let publish = loop {
                let publish = live.accept();
                if publish.qos == 1 {
                    break publish;
                }
            };
            assert_eq!(publish.text(), expected.to_string());
        }
    });

    let (mut slowest, mut rounds) = (Duration::ZERO, 0);
    while !flooded.load(Ordering::Relaxed) {
        let sent = Instant::now();
        other.publish(Publish::new("other", "x").qos(1, 0));
        other.receive("other", "x");
        slowest = slowest.max(sent.elapsed());
        rounds += 1;
        thread::sleep(Duration::from_millis(5));
    }
    flood.join().unwrap();
    reader.join().unwrap();
    println!("slowest of {rounds} round trips beside it: {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

/// A TCP relay that cuts all its connections every 30 to 180 ms.
struct Relay {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    cutter: thread::JoinHandle<u32>,
}

impl Relay {
    fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let open: Arc<Mutex<Vec<[TcpStream; 2]>>> = Arc::default();

        let connections = Arc::clone(&open);
        let end = Arc::clone(&stopped);
        thread::spawn(move || {
            for client in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let (client, server) = (client.unwrap(), TcpStream::connect(to).unwrap());
                for stream in [&client, &server] {
                    stream.set_nodelay(true).unwrap();
                }
                pass(client.try_clone().unwrap(), server.try_clone().unwrap());
                pass(server.try_clone().unwrap(), client.try_clone().unwrap());
                connections.lock().unwrap().push([client, server]);
            }
        });
        let end = Arc::clone(&stopped);
        let cutter = thread::spawn(move || {
            let (mut random, mut cuts) = (rand::rng(), 0);
            while !end.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(random.random_range(30..=180)));
                for pair in open.lock().unwrap().drain(..) {
                    for stream in &pair {
                        let _ = stream.shutdown(Shutdown::Both);
                    }
                    cuts += 1;
                }
            }
            cuts
        });
        Relay {
            address,
            stopped,
            cutter,
        }
    }

    /// The number of connections it cut.
    fn stop(self) -> u32 {
        self.stopped.store(true, Ordering::Relaxed);
        let cuts = self.cutter.join().unwrap();
        // It looks when somebody comes.
        let _ = TcpStream::connect(self.address);
        cuts
    }
}

/// Octets go from one to the other, a little later: so there is something to cut.
fn pass(mut from: TcpStream, mut to: TcpStream) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            thread::sleep(Duration::from_millis(1));
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    });
}
