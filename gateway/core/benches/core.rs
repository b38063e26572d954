//! What the core costs: CPU per PUBLISH QoS 1 and its PUBACK, and memory per idle and per sleeping client.
//!
//! `cargo bench -p gateway-core`. Time goes by the CPU clock of the one thread; memory by the resident set of the
//! process.

#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gateway_core::Gateway;
use gateway_core::config::GatewayConfig;
use gateway_core::io::{
    BrokerEvent, BrokerRequest, ConnId, LinkEvent, LinkProfile, Output, RadioFacts, Token,
};
use gateway_core::peer::{LinkAddr, LinkId, LocalEnd, Route};
use gateway_core::time::Instant;
use sn_codec::{
    Connect, Disconnect, MsgId, Packet, Pingreq, Publish, PublishQoS, QoS, Register, Subscribe, TopicFilter,
    TopicId, TopicRef,
};

const LINK: LinkId = LinkId(0);
const CONN: ConnId = ConnId(0);
const PAYLOAD: [u8; 64] = [b'x'; 64];

/// Datagrams handed in between two drains, as one batched receive does.
const BATCH: usize = 32;

struct World {
    gateway: Gateway,
    routes: Vec<Route>,
    topics: Vec<TopicId>,
    now: Instant,
    buf: Vec<u8>,
    tokens: Vec<Token>,
    next: usize,
    msg_id: u16,
}

impl World {
    fn new(clients: usize) -> World {
        let mut config = GatewayConfig::default();
        config.limits.clients = clients;
        config.limits.new_sessions_per_second = 0;
        let now = Instant::from_micros(1);
        let mut gateway = Gateway::new(config, 1, now);
        let profile = LinkProfile::default();
        gateway.handle_link(now, LINK, LinkEvent::Up(profile));
        let route = |at: usize| Route {
            addr: LinkAddr::Udp(([10, (at >> 16) as u8, (at >> 8) as u8, at as u8], 40_000).into()),
            local: LocalEnd::default(),
        };
        let routes = (0..clients).map(route).collect();
        let mut world = World {
            gateway,
            routes,
            topics: Vec::new(),
            now,
            buf: Vec::new(),
            tokens: Vec::new(),
            next: 0,
            msg_id: 0,
        };
        world.gateway.handle_broker(
            now,
            BrokerEvent::Up {
                conn: CONN,
                session_present: false,
                window: u16::MAX,
                forgets: false,
            },
        );
        for at in 0..clients {
            world.client(at);
        }
        world
    }

    fn client(&mut self, at: usize) {
        let id = format!("sensor-{at}");
        let topic_name = format!("plant/sensor-{at}/t");
        self.packet(
            at,
            Packet::Connect(Connect {
                will: false,
                clean_session: true,
                duration: 600,
                client_id: &id,
            }),
        );
        self.drain();
        let register = Register {
            topic_id: TopicId::NONE,
            msg_id: MsgId(1),
            topic_name: &topic_name,
        };
        self.packet(at, Packet::Register(register));
        let start = self.buf.len();
        self.drain();
        let sent = self.buf.split_off(start);
        let Ok(Packet::Regack(regack)) = Packet::decode(&sent) else {
            panic!("{sent:?}")
        };
        self.topics.push(regack.topic_id);
        self.buf.clear();
    }

    /// The client subscribes to a topic of its own, sleeps and wakes up once.
    fn sleeper(&mut self, at: usize) {
        let filter = format!("plant/sensor-{at}/set");
        self.packet(
            at,
            Packet::Subscribe(Subscribe {
                dup: false,
                qos: QoS::AtLeastOnce,
                msg_id: MsgId(2),
                topic: TopicFilter::Name(&filter),
            }),
        );
        self.gateway.handle_broker(
            self.now,
            BrokerEvent::Credit {
                conn: CONN,
                requests: 1,
            },
        );
        let mut asked = None;
        while let Some(output) = self.gateway.poll_output(self.now, &mut self.buf) {
            if let Output::Broker(BrokerRequest::Subscribe { token, .. }) = output {
                asked = Some(token);
            }
        }
        self.gateway.handle_broker(
            self.now,
            BrokerEvent::Settled {
                token: asked.unwrap(),
                result: Ok(Some(QoS::AtLeastOnce)),
            },
        );
        let duration = Some(u16::MAX);
        self.packet(at, Packet::Disconnect(Disconnect { duration }));
        self.packet(at, Packet::Pingreq(Pingreq { client_id: None }));
        self.drain();
        self.buf.clear();
    }

    fn packet(&mut self, at: usize, packet: Packet<'_>) {
        let mut datagram = [0_u8; 256];
        let len = packet.encoded_len();
        packet.encode(&mut &mut datagram[..]);
        self.gateway.handle_datagram(
            self.now,
            LINK,
            &self.routes[at],
            RadioFacts::default(),
            &datagram[..len],
        );
    }

    fn drain(&mut self) {
        while let Some(output) = self.gateway.poll_output(self.now, &mut self.buf) {
            if let Output::Broker(BrokerRequest::Publish {
                token: Some(token), ..
            }) = output
            {
                self.tokens.push(token);
            }
        }
    }

    /// `count` clients publish and are acknowledged, in batches, each client at its turn.
    fn publish(&mut self, count: usize) {
        for _ in 0..count / BATCH {
            self.now = self.now + Duration::from_micros(100);
            self.gateway.handle_broker(
                self.now,
                BrokerEvent::Credit {
                    conn: CONN,
                    requests: BATCH as u32,
                },
            );
            for _ in 0..BATCH {
                // A stride that visits all clients and no two neighbours in a row.
                self.next = (self.next + 7919) % self.routes.len();
                self.msg_id = self.msg_id.wrapping_add(1);
                let publish = Publish {
                    dup: false,
                    qos: PublishQoS::Level(QoS::AtLeastOnce),
                    retain: false,
                    topic: TopicRef::Normal(self.topics[self.next]),
                    msg_id: MsgId(self.msg_id),
                    data: &PAYLOAD,
                };
                self.packet(self.next, Packet::Publish(publish));
            }
            self.drain();
            for token in std::mem::take(&mut self.tokens) {
                self.gateway.handle_broker(
                    self.now,
                    BrokerEvent::Settled {
                        token,
                        result: Ok(None),
                    },
                );
            }
            self.drain();
            black_box(&self.buf);
            self.buf.clear();
        }
    }
}

fn publish(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish_qos1_and_puback");
    group.throughput(Throughput::Elements(BATCH as u64 * 32));
    for clients in [1, 10_000, 100_000] {
        let mut world = World::new(clients);
        group.bench_function(BenchmarkId::from_parameter(clients), |bencher| {
            bencher.iter(|| world.publish(BATCH * 32));
        });
    }
    group.finish();
}

/// Octets of resident memory of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn memory(_: &mut Criterion) {
    const CLIENTS: usize = 100_000;
    let before = resident();
    let mut world = World::new(CLIENTS);
    let own = world.routes.capacity() * size_of::<Route>() + world.topics.capacity() * size_of::<TopicId>();
    let per_client = (resident() - before - own) / CLIENTS;
    println!("memory: {per_client} octets per idle client of {CLIENTS}, with one registered topic each");
    for at in 0..CLIENTS {
        world.sleeper(at);
        if at % 2000 == 0 {
            // What a SUBSCRIBE needs is freed after 10 s, and is used for others then.
            world.now = world.now + Duration::from_secs(11);
        }
    }
    let per_client = (resident() - before - own) / CLIENTS;
    println!(
        "memory: {per_client} octets per sleeping client of {CLIENTS}, which also subscribed to one topic"
    );
    black_box(world);
}

criterion_group! {
    name = core;
    config = Criterion::default().measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500));
    // Memory first: what a later benchmark frees would be used again.
    targets = memory, publish
}
criterion_main!(core);
