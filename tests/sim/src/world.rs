//! One gateway and everything around it.

mod address;
mod clients;
mod events;
mod forwarders;
mod lives;
mod outputs;
mod quiet;

use core::hash::Hasher;
use core::time::Duration;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::SocketAddr;

use bytes::Bytes;
use gateway_core::Gateway;
use gateway_core::admin::{AdminCommand, AdminReply};
use gateway_core::config::GatewayConfig;
use gateway_core::io::{Destination, LinkProfile, Notice};
use gateway_core::peer::{LinkAddr, LinkId, LocalEnd, Route};
use gateway_core::time::Instant;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rustc_hash::{FxHashMap, FxHasher};
use sn_codec::{MsgType, QoS};

use self::events::{Event, Scheduled};
use self::lives::unix_ms;
use crate::admission;
use crate::net::{Path, PathConfig};
use crate::reference::{Check, Reference, Violation};
use crate::sim_broker::{BrokerConfig, SimBroker};
use crate::sim_client::SimClient;
use crate::sim_store::{DiskConfig, Found, SimStore};

pub use self::address::Address;
pub use self::clients::{Level, will};

/// The one link of the world.
pub const LINK: LinkId = LinkId(0);

/// What a world is made of.
#[derive(Debug, Clone)]
pub struct WorldConfig {
    /// Everything random follows from it.
    pub seed: u64,
    /// The gateway's configuration.
    pub gateway: GatewayConfig,
    /// The broker's.
    pub broker: BrokerConfig,
    /// From clients to the gateway.
    pub up: PathConfig,
    /// From the gateway to clients.
    pub down: PathConfig,
    /// The largest datagram of the link, in octets.
    pub mtu: usize,
    /// Datagrams the link takes at once, each returned after a few milliseconds; `None` for any number.
    pub link_credit: Option<u32>,
    /// Inputs within this time of the first are handed over before outputs are drained.
    pub batch: Duration,
    /// The disk of a gateway whose configuration says that something survives.
    pub disk: DiskConfig,
    /// Write down what happens, for a report.
    pub trace: bool,
}

impl Default for WorldConfig {
    fn default() -> Self {
        WorldConfig {
            seed: 1,
            gateway: GatewayConfig {
                advertise_interval: None,
                ..GatewayConfig::default()
            },
            broker: BrokerConfig::default(),
            up: PathConfig::CLEAN,
            down: PathConfig::CLEAN,
            mtu: 1400,
            link_credit: None,
            batch: Duration::ZERO,
            disk: DiskConfig::default(),
            trace: false,
        }
    }
}

/// Names a client of a world: the order in which it was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientIx(pub usize);

/// Names a forwarder of a world: the order in which it was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ForwarderIx(pub usize);

/// A gateway and everything around it.
pub struct World {
    /// The broker, to look at.
    pub broker: SimBroker,
    /// The model, to look at.
    pub reference: Reference,
    /// What the gateway told for the log, in order.
    pub notices: Vec<(Instant, Notice)>,
    /// Datagrams the gateway sent, in order, if [`WorldConfig::trace`] is set.
    pub sent: Vec<(Instant, Destination, Vec<u8>)>,
    config: WorldConfig,
    now: Instant,
    rng: SmallRng,
    gateway: Gateway,
    store: Option<SimStore>,
    /// The gateway has ended, and this is what the next one will find.
    found: Option<Found>,
    /// Its disk did not work then.
    fails_at_start: bool,
    clients: Vec<Station>,
    forwarders: Vec<Forwarder>,
    by_addr: FxHashMap<Address, usize>,
    /// Gateways so far.
    lives: u64,
    events: BinaryHeap<Reverse<Scheduled>>,
    next_event: u64,
    /// Datagrams on the network.
    under_way: usize,
    link_credit: u32,
    counter: u64,
    external: Vec<Bytes>,
    transmits: usize,
    sent_counts: BTreeMap<MsgType, usize>,
    timeouts: usize,
    timeouts_now: usize,
    hash: FxHasher,
    trace: VecDeque<String>,
    settling: bool,
    /// The gateway keeps some clients out.
    selective: bool,
}

/// A client and its link.
struct Station {
    client: SimClient,
    /// Its own, or that of the forwarder when it was last behind it.
    route: Route,
    /// The forwarder it is behind, and its node id.
    behind: Option<(usize, Box<[u8]>)>,
    up: Path,
    down: Path,
    wakes_at: Option<Instant>,
    /// QoS 1 and 2 messages of its application since it last had power.
    submitted: Vec<Bytes>,
    /// It will not come back, and another device may go on with its session.
    retired: bool,
}

/// A forwarder and its link to the gateway.
struct Forwarder {
    route: Route,
    up: Path,
    down: Path,
    on: bool,
}

impl World {
    /// A world in which the gateway has just started and its link is up.
    pub fn new(config: WorldConfig) -> World {
        let now = Instant::START;
        let mut gateway = Gateway::new(config.gateway.clone(), config.seed, now);
        let durable = config.gateway.durability.is_some();
        let store = durable.then(|| {
            gateway.restore(now, unix_ms(now), Vec::new());
            SimStore::new(config.seed, config.disk.clone())
        });
        let mut world = World {
            broker: SimBroker::new(config.broker.clone()),
            reference: Reference::new(config.gateway.clone(), config.mtu),
            notices: Vec::new(),
            sent: Vec::new(),
            now,
            rng: SmallRng::seed_from_u64(config.seed),
            gateway,
            store,
            found: None,
            fails_at_start: false,
            clients: Vec::new(),
            forwarders: Vec::new(),
            lives: 0,
            by_addr: FxHashMap::default(),
            events: BinaryHeap::new(),
            next_event: 0,
            under_way: 0,
            link_credit: config.link_credit.unwrap_or(LinkProfile::UNLIMITED),
            counter: 0,
            external: Vec::new(),
            transmits: 0,
            sent_counts: BTreeMap::new(),
            timeouts: 0,
            timeouts_now: 0,
            hash: FxHasher::default(),
            trace: VecDeque::new(),
            settling: false,
            selective: admission::is_selective(&config.gateway),
            config,
        };
        world.link_up();
        world
    }

    // The broker.

    /// Somebody at the broker publishes a message that exists once in the world; returns its payload.
    pub fn external(&mut self, topic: &str, qos: QoS, retain: bool) -> Bytes {
        let payload = self.new_payload("external", 0);
        self.external_payload(topic, qos, retain, payload.clone());
        payload
    }

    /// As [`World::external`], with this payload.
    pub fn external_payload(&mut self, topic: &str, qos: QoS, retain: bool, payload: Bytes) {
        self.note(|_| format!("external {qos:?} {payload:?} on {topic} retain {retain}"));
        self.external.push(payload.clone());
        self.broker
            .publish(self.now, topic, qos, retain, payload, &mut self.rng);
        self.after_broker();
    }

    /// The broker goes away, with or without keeping sessions for when it is back.
    pub fn broker_down(&mut self, keep_sessions: bool) {
        self.note(|_| format!("broker goes down, keeps sessions: {keep_sessions}"));
        self.reference.sessions_lost |= !keep_sessions;
        self.broker.go_down(keep_sessions);
        self.after_broker();
    }

    /// The broker is back.
    pub fn broker_up(&mut self) {
        self.note(|_| "broker is reachable".into());
        self.broker.come_up(self.now, &mut self.rng);
        self.after_broker();
    }

    /// Tells the gateway to stop.
    pub fn shut_down(&mut self) {
        self.schedule(self.now, Event::ShutDown);
    }

    // Time.

    /// The virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Lets time pass.
    ///
    /// # Panics
    /// With a report, as soon as a rule is broken.
    pub fn run_for(&mut self, duration: Duration) {
        let until = self.now + duration;
        if let Err(violation) = self.advance(until) {
            self.fail(&violation);
        }
    }

    /// Lets time pass until something is true.
    ///
    /// # Panics
    /// With a report, if a rule is broken or the limit is reached.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&World) -> bool) {
        let end = self.now + limit;
        while !done(self) {
            match self.step(end) {
                Ok(true) => {}
                Ok(false) => self.fail(&Violation::new(
                    "happens in time",
                    format!("not within {limit:?}"),
                )),
                Err(violation) => self.fail(&violation),
            }
        }
    }

    /// Lets time pass up to this instant.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn advance(&mut self, until: Instant) -> Check {
        while self.step(until)? {}
        Ok(())
    }

    // What can be asked at any time.

    /// The gateway's counters by exported name.
    pub fn metrics(&mut self) -> Vec<(String, u64)> {
        match self.gateway.handle_admin(self.now, AdminCommand::Metrics) {
            AdminReply::Metrics(metrics) => metrics,
            AdminReply::Topics { .. } | AdminReply::Spool { .. } | AdminReply::SpoolDropped(_) => Vec::new(),
        }
    }

    /// The gateway, for questions this world has no word for.
    pub fn gateway(&mut self) -> &mut Gateway {
        &mut self.gateway
    }

    /// A number that differs if any output of the gateway differed in content, order or time.
    pub fn output_hash(&self) -> u64 {
        self.hash.finish()
    }

    /// Datagrams sent by the gateway.
    pub fn transmits(&self) -> usize {
        self.transmits
    }

    /// Datagrams of a kind that the gateway sent.
    pub fn sent_count(&self, kind: MsgType) -> usize {
        self.sent_counts.get(&kind).copied().unwrap_or(0)
    }

    /// The last things that happened, oldest first, if [`WorldConfig::trace`] is set.
    pub fn trace(&self) -> impl Iterator<Item = &str> {
        self.trace.iter().map(String::as_str)
    }

    fn fail(&self, violation: &Violation) -> ! {
        let trace: Vec<&str> = self.trace().collect();
        panic!(
            "{violation}\nat {} with seed {}\n{}",
            self.now,
            self.config.seed,
            trace.join("\n")
        );
    }

    fn note(&mut self, what: impl FnOnce(&World) -> String) {
        if self.config.trace {
            let line = format!("{} {}", self.now, what(self));
            // An hour of keep-alives would push everything else out.
            if self.settling && (line.contains("Pingre") || line.contains("Credit")) {
                return;
            }
            self.trace.push_back(line);
            if self.trace.len() > 400 {
                self.trace.pop_front();
            }
        }
    }
}

fn route_to(addr: SocketAddr) -> Route {
    Route {
        addr: LinkAddr::Udp(addr),
        local: LocalEnd::default(),
    }
}
