//! What a durable acknowledgement costs: the core and the store on a real directory, group commit, the broker away.
//!
//! `cargo bench -p gateway-core --bench durable -- [DIRECTORY]`. Each of 2,000 clients publishes QoS 1, and again as
//! soon as it has its PUBACK. Beside it the same number of messages in memory, with the broker there.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant as Clock};

use gateway_core::Gateway;
use gateway_core::config::{Durability, GatewayConfig, WhenDown};
use gateway_core::io::{
    BrokerEvent, BrokerRequest, ConnId, Destination, LinkEvent, LinkProfile, Output, RadioFacts, StoreChange,
    StoreEvent, StoreRequest, Ticket,
};
use gateway_core::peer::{LinkAddr, LinkId, LocalEnd, Route};
use gateway_core::time::Instant;
use gateway_store::{Change, Directory, Handle, Key, Options, Store, Sync, Writer};
use sn_codec::{Connect, MsgId, Packet, Publish, PublishQoS, QoS, Register, TopicId, TopicRef};

const LINK: LinkId = LinkId(0);
const CONN: ConnId = ConnId(0);
const CLIENTS: usize = 2_000;
const MESSAGES: usize = 100_000;
const PAYLOAD: [u8; 100] = [b'x'; 100];

struct World {
    gateway: Gateway,
    now: Instant,
    topics: Vec<TopicId>,
    /// Clients that have their PUBACK.
    idle: Vec<usize>,
    acknowledged: usize,
    store: Option<(Handle, Sender<Ticket>)>,
    buf: Vec<u8>,
}

fn main() {
    let at = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let temporary = tempfile::tempdir().unwrap();
    let directory = at.map_or(temporary.path().to_path_buf(), PathBuf::from);
    let (wall, cpu) = in_memory();
    report("in memory, the broker there", wall, cpu);
    let (wall, cpu, written, syncs) = durable(&directory.join("bench-store"));
    report("durable, the broker away", wall, cpu);
    println!(
        "  {:.0} octets written a message, {:.1} messages a sync",
        written as f64 / MESSAGES as f64,
        MESSAGES as f64 / syncs as f64
    );
}

fn report(what: &str, wall: Duration, cpu: Duration) {
    println!(
        "{what}: {:.0} QoS 1 messages/s, {:.2} µs CPU a message",
        MESSAGES as f64 / wall.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / MESSAGES as f64
    );
}

fn in_memory() -> (Duration, Duration) {
    let mut world = World::new(None, None);
    world.gateway.handle_broker(
        world.now,
        BrokerEvent::Up {
            conn: CONN,
            session_present: false,
            window: u16::MAX,
            forgets: false,
        },
    );
    let requests = u32::MAX;
    world
        .gateway
        .handle_broker(world.now, BrokerEvent::Credit { conn: CONN, requests });
    world.connect(None);
    world.run(None)
}

/// Wall time, CPU time of the whole process, octets written and syncs.
fn durable(directory: &std::path::Path) -> (Duration, Duration, u64, u64) {
    std::fs::create_dir_all(directory).unwrap();
    let (store, recovered) = Store::open(Directory::open(directory).unwrap(), Options::default()).unwrap();
    let group = Sync::Group(Duration::from_millis(5));
    let (writer, handle) = Writer::spawn(store, group, 0, &recovered.values, |_| {}).unwrap();
    let (sender, durable) = channel();
    let mut world = World::new(Some(Durability::default()), Some((handle.clone(), sender)));
    world.gateway.restore(world.now, 1_795_000_000_000, Vec::new());
    world.connect(Some(&durable));
    let before = handle.usage().0;
    let (wall, cpu) = world.run(Some(&durable));
    let after = handle.usage().0;
    drop((world, handle));
    writer.join();
    let written = after.written_bytes - before.written_bytes;
    (wall, cpu, written, after.syncs - before.syncs)
}

impl World {
    fn new(durability: Option<Durability>, store: Option<(Handle, Sender<Ticket>)>) -> World {
        let mut config = GatewayConfig {
            durability,
            ..GatewayConfig::default()
        };
        config.upstream.when_down = WhenDown::Spool;
        config.limits.new_sessions_per_second = 0;
        let now = Instant::from_micros(1);
        let mut gateway = Gateway::new(config, 1, now);
        gateway.handle_link(now, LINK, LinkEvent::Up(LinkProfile::default()));
        World {
            gateway,
            now,
            topics: Vec::new(),
            idle: Vec::new(),
            acknowledged: 0,
            store,
            buf: Vec::new(),
        }
    }

    fn connect(&mut self, durable: Option<&Receiver<Ticket>>) {
        for at in 0..CLIENTS {
            let client_id = &format!("sensor-{at}");
            let connect = Connect {
                will: false,
                clean_session: true,
                duration: 600,
                client_id,
            };
            self.packet(at, Packet::Connect(connect));
            let register = Register {
                topic_id: TopicId::NONE,
                msg_id: MsgId(1),
                topic_name: &format!("plant/sensor-{at}/t"),
            };
            self.packet(at, Packet::Register(register));
        }
        self.topics = vec![TopicId::NONE; CLIENTS];
        while self.idle.len() < CLIENTS {
            self.drain();
            self.wait(durable);
        }
    }

    fn run(&mut self, durable: Option<&Receiver<Ticket>>) -> (Duration, Duration) {
        self.acknowledged = 0;
        let (begin, cpu) = (Clock::now(), cpu());
        let mut msg_id = 1_u16;
        while self.acknowledged < MESSAGES {
            for at in std::mem::take(&mut self.idle) {
                msg_id = msg_id.wrapping_add(1).max(1);
                let publish = Publish {
                    dup: false,
                    qos: PublishQoS::Level(QoS::AtLeastOnce),
                    retain: false,
                    topic: TopicRef::Normal(self.topics[at]),
                    msg_id: MsgId(msg_id),
                    data: &PAYLOAD,
                };
                self.packet(at, Packet::Publish(publish));
            }
            self.drain();
            self.wait(durable);
        }
        (begin.elapsed(), self::cpu() - cpu)
    }

    /// Waits for the disk, if there is anything to wait for.
    fn wait(&mut self, durable: Option<&Receiver<Ticket>>) {
        let Some(durable) = durable.filter(|_| self.idle.is_empty()) else {
            return;
        };
        let first = durable.recv().unwrap();
        let last = durable.try_iter().last().unwrap_or(first);
        self.now = self.now + Duration::from_millis(1);
        self.gateway.handle_store(self.now, StoreEvent::Durable(last));
        self.drain();
    }

    fn packet(&mut self, at: usize, packet: Packet<'_>) {
        let mut datagram = Vec::with_capacity(packet.encoded_len());
        packet.encode(&mut datagram);
        self.gateway
            .handle_datagram(self.now, LINK, &route(at), RadioFacts::default(), &datagram);
    }

    fn drain(&mut self) {
        let mut buf = std::mem::take(&mut self.buf);
        buf.clear();
        while let Some(output) = self.gateway.poll_output(self.now, &mut buf) {
            match output {
                Output::Transmit {
                    to: Destination::Peer(route),
                    ..
                } => {
                    self.answered(client_at(&route), &buf);
                    buf.clear();
                }
                Output::Store(StoreRequest::Write { changes, ticket }) => self.write(changes, ticket),
                Output::Broker(BrokerRequest::Publish {
                    token: Some(token), ..
                }) => self.gateway.handle_broker(
                    self.now,
                    BrokerEvent::Settled {
                        token,
                        result: Ok(None),
                    },
                ),
                _ => {}
            }
        }
        self.buf = buf;
    }

    fn answered(&mut self, at: usize, datagram: &[u8]) {
        match Packet::decode(datagram) {
            Ok(Packet::Regack(regack)) => self.topics[at] = regack.topic_id,
            Ok(Packet::Puback(_)) => self.acknowledged += 1,
            _ => return,
        }
        self.idle.push(at);
    }

    fn write(&mut self, changes: Vec<StoreChange>, ticket: Option<Ticket>) {
        let Some((handle, durable)) = &self.store else {
            return;
        };
        let key = |key: gateway_core::io::StoreKey| Key {
            kind: key.kind,
            id: key.id,
        };
        let changes = changes.into_iter().map(|change| match change {
            StoreChange::Put(at, value) => Change::Put(key(at), value),
            StoreChange::Delete(at) => Change::Delete(key(at)),
        });
        let done = ticket.map(|ticket| {
            let durable = durable.clone();
            let done: gateway_store::Done = Box::new(move || {
                // The bench may be over.
                let _ = durable.send(ticket);
            });
            done
        });
        handle.submit(changes.collect(), done);
    }
}

fn route(at: usize) -> Route {
    Route {
        addr: LinkAddr::Udp(([10, 0, (at >> 8) as u8, at as u8], 40_000).into()),
        local: LocalEnd::default(),
    }
}

fn client_at(route: &Route) -> usize {
    let LinkAddr::Udp(std::net::SocketAddr::V4(addr)) = &route.addr else {
        panic!("{route:?}")
    };
    let [_, _, high, low] = addr.ip().octets();
    usize::from(high) << 8 | usize::from(low)
}

/// CPU time of the process, in user and system mode.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    let ticks: u64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().unwrap())
        .sum();
    // Linux counts a hundred a second.
    Duration::from_millis(ticks * 10)
}
