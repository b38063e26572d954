//! A simulated world around the gateway core.
//!
//! A [`World`] holds one [`Gateway`], simulated clients ([`SimClient`]), a lossy network between them ([`net`]) and a
//! broker ([`SimBroker`]). Its clock jumps from event to event and everything random comes from one seed, so the same
//! seed gives the same history, octet by octet. Every input and output of the gateway passes the [`Reference`], which
//! knows what must hold and names the rule that an output breaks.
//!
//! Write a scenario by calling `World`'s verbs and letting time pass ([`World::run_for`]); end it with
//! [`World::settle`], which heals everything and checks that what was promised came true and that the gateway becomes
//! quiet. Random scenarios are in [`history`].

use core::fmt;
use core::hash::Hasher;
use core::time::Duration;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use gateway_core::Gateway;
use gateway_core::admin::{AdminCommand, AdminReply};
use gateway_core::config::GatewayConfig;
use gateway_core::io::{
    BrokerEvent, ConnId, Destination, LinkEvent, LinkProfile, Notice, Output, RadioFacts, StoreChange,
    StoreKey, StoreRequest, TxTicket, Will,
};
use gateway_core::peer::{LinkAddr, LinkId, LocalEnd, Route};
use gateway_core::time::Instant;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rustc_hash::{FxHashMap, FxHasher};
use sn_codec::{Encapsulation, MsgType, Packet, PublishQoS, QoS, TopicId};

pub mod admission;
pub mod agenda;
pub mod ether;
pub mod families;
pub mod field;
pub mod history;
pub mod modem;
pub mod net;
pub mod noise;
#[cfg(unix)]
pub mod pty;
pub mod reference;
pub mod saved;
pub mod sensor;
pub mod sim_broker;
pub mod sim_client;
pub mod sim_store;
pub mod site;
pub mod virtual_line;

use admission::Verdict;
use net::{Path, PathConfig, between};
use reference::{Check, Reference, Violation};
use sim_broker::{BrokerAction, BrokerConfig, Origin, SimBroker};
use sim_client::{Action, ClientConfig, Outcome, Presence, SimClient, TopicForm, Uplink};
use sim_store::{DiskConfig, End, Found, SimStore, StoreAction, StoreNews};

/// The one link of the world.
pub const LINK: LinkId = LinkId(0);

/// Outputs of one drain beyond which the gateway is taken to loop.
const MAX_OUTPUTS_PER_DRAIN: usize = 100_000;

/// Timeouts at one instant beyond which the gateway is taken to spin (it works off 1,024 expiries per call).
const MAX_TIMEOUTS_PER_INSTANT: usize = 200;

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

/// Where a client's messages come from, as the gateway sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// The client, or the forwarder in front of it.
    pub addr: LinkAddr,
    /// The wireless node id behind a forwarder (§5.5).
    pub node: Option<Box<[u8]>>,
}

impl Address {
    /// An address, behind a forwarder or not.
    pub fn new(addr: LinkAddr, node: Option<&[u8]>) -> Address {
        Address {
            addr,
            node: node.map(Box::from),
        }
    }

    /// Octets that the encapsulation takes from each datagram.
    pub fn overhead(&self) -> usize {
        self.node.as_ref().map_or(0, |node| 3 + node.len())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr.fmt(f)?;
        match &self.node {
            Some(node) => write!(f, " node {node:02x?}"),
            None => Ok(()),
        }
    }
}

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

#[derive(Debug)]
enum Event {
    ToGateway {
        from: Route,
        datagram: Vec<u8>,
    },
    ToClient {
        client: usize,
        addr: Address,
        datagram: Vec<u8>,
    },
    ClientTimer(usize),
    Broker(BrokerAction),
    /// The broker has something to tell.
    BrokerSpeaks,
    Link(LinkEvent),
    Store(StoreAction),
    /// The gateway starts again.
    Start,
    ShutDown,
}

impl Event {
    fn is_datagram(&self) -> bool {
        matches!(self, Event::ToGateway { .. } | Event::ToClient { .. })
    }
}

#[derive(Debug)]
struct Scheduled {
    at: Instant,
    order: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
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

    fn link_up(&mut self) {
        let profile = LinkProfile {
            mtu: self.config.mtu,
            credit: self.link_credit,
            ..LinkProfile::default()
        };
        self.schedule(self.now, Event::Link(LinkEvent::Up(profile)));
    }

    // Clients.

    /// Adds a client that is on and does nothing yet.
    pub fn add_client(&mut self, mut config: ClientConfig) -> ClientIx {
        let ix = ClientIx(self.clients.len());
        for entry in &self.config.gateway.predefined {
            let name = entry.topic.replace("{client_id}", &config.id);
            config.predefined.entry(entry.id).or_insert(name);
        }
        self.reference.add_client(ix, &config);
        if let Some(will) = &config.will {
            self.reference.add_will(ix, will.payload.clone());
        }
        let (up, down) = (Path::new(self.config.up), Path::new(self.config.down));
        let client = SimClient::new(config);
        let route = self.new_route();
        self.clients.push(Station {
            client,
            route,
            behind: None,
            up,
            down,
            wakes_at: None,
            submitted: Vec::new(),
            retired: false,
        });
        self.announce(ix.0);
        ix
    }

    /// Adds a client and connects it.
    pub fn add_connected(&mut self, config: ClientConfig) -> ClientIx {
        let ix = self.add_client(config);
        self.connect(ix);
        self.run_until(Duration::from_secs(300), |world| world.client(ix).is_active());
        ix
    }

    /// A client, to look at.
    pub fn client(&self, ix: ClientIx) -> &SimClient {
        &self.clients[ix.0].client
    }

    /// The clients, in the order they were added.
    pub fn clients(&self) -> impl Iterator<Item = (ClientIx, &SimClient)> {
        self.clients
            .iter()
            .enumerate()
            .map(|(ix, station)| (ClientIx(ix), &station.client))
    }

    /// Where a client sends from.
    pub fn route(&self, ix: ClientIx) -> &Route {
        &self.clients[ix.0].route
    }

    /// Makes a client connect.
    pub fn connect(&mut self, ix: ClientIx) {
        self.note(|world| format!("{} is told to connect", world.client(ix).config.id));
        self.clients[ix.0].client.connect(self.now);
        self.after_client(ix.0);
    }

    /// Makes a client publish a small message that exists once in the world, and returns the payload.
    pub fn publish(&mut self, ix: ClientIx, topic: impl Into<TopicForm>, qos: impl Into<Level>) -> Bytes {
        self.publish_as(ix, topic.into(), qos.into().0, false, 0)
    }

    /// As [`World::publish`], retained or not, padded to at least so many octets.
    pub fn publish_as(
        &mut self,
        ix: ClientIx,
        topic: TopicForm,
        qos: PublishQoS,
        retain: bool,
        octets: usize,
    ) -> Bytes {
        let id = self.client(ix).config.id.clone();
        let payload = self.new_payload(&id, octets);
        let name = match &topic {
            TopicForm::Name(name) => name.clone(),
            TopicForm::Predefined(id) => self.predefined_name(ix, *id),
            TopicForm::Short([a, b]) => {
                let swaps = self.client(ix).config.quirks.swaps_topics;
                let octets = if swaps { [*b, *a] } else { [*a, *b] };
                String::from_utf8_lossy(&octets).into_owned()
            }
        };
        let uplink = Uplink {
            topic,
            qos,
            retain,
            payload: payload.clone(),
        };
        let (qos_sent, retain_sent) = self.client(ix).on_the_wire(qos, retain);
        let sent = Uplink {
            qos: qos_sent,
            retain: retain_sent,
            ..uplink.clone()
        };
        self.reference.add_uplink(ix, &sent, name);
        if matches!(qos, PublishQoS::Level(QoS::AtLeastOnce | QoS::ExactlyOnce)) {
            self.clients[ix.0].submitted.push(payload.clone());
        }
        self.act(ix, Action::Publish(uplink));
        payload
    }

    /// Makes a client subscribe.
    pub fn subscribe(&mut self, ix: ClientIx, topic: impl Into<TopicForm>, qos: QoS) {
        self.act(
            ix,
            Action::Subscribe {
                topic: topic.into(),
                qos,
            },
        );
    }

    /// Makes a client unsubscribe.
    pub fn unsubscribe(&mut self, ix: ClientIx, topic: impl Into<TopicForm>) {
        self.act(ix, Action::Unsubscribe { topic: topic.into() });
    }

    /// Makes a client disconnect once it has done what it was told before.
    pub fn disconnect(&mut self, ix: ClientIx) {
        self.act(ix, Action::Disconnect);
    }

    /// Makes a client sleep: that long between two wake-ups, and so many of them (`u32::MAX` for ever).
    pub fn sleep(&mut self, ix: ClientIx, duration: u16, naps: u32) {
        self.act(ix, Action::Sleep { duration, naps });
    }

    /// Makes a client do something. Publish by [`World::publish`], which tells the reference.
    pub fn act(&mut self, ix: ClientIx, action: Action) {
        self.note(|world| format!("{} is told to {action:?}", world.client(ix).config.id));
        if let Action::UpdateWillTopic(Some(Will { payload, .. })) | Action::UpdateWillMessage(payload) =
            &action
        {
            self.reference.add_will(ix, payload.clone());
        }
        self.clients[ix.0].client.act(self.now, action);
        self.after_client(ix.0);
    }

    /// A client loses power.
    pub fn vanish(&mut self, ix: ClientIx) {
        self.note(|world| format!("{} vanishes", world.client(ix).config.id));
        self.clients[ix.0].client.vanish();
        self.clients[ix.0].submitted.clear();
        self.forget_ids(ix);
    }

    /// A client loses power for good.
    pub fn retire(&mut self, ix: ClientIx) {
        self.vanish(ix);
        self.clients[ix.0].retired = true;
    }

    /// A client loses power for a moment and connects again.
    pub fn reboot(&mut self, ix: ClientIx) {
        self.note(|world| format!("{} reboots", world.client(ix).config.id));
        self.clients[ix.0].submitted.clear();
        self.forget_ids(ix);
        self.clients[ix.0].client.reboot(self.now);
        self.after_client(ix.0);
    }

    /// A client gets another program, which wants the other kind of session, and reboots.
    pub fn reflash(&mut self, ix: ClientIx) {
        let config = &mut self.clients[ix.0].client.config;
        config.clean = !config.clean;
        // It may take a CONNACK for the program of before for its own, and a REGACK that follows it too.
        self.reference.confuse_ids(ix);
        self.reboot(ix);
    }

    /// A REGISTER that the network still holds back has a message id that the device uses anew, and REGACK has no name
    /// in it: which id belongs to which name is then left to chance.
    fn forget_ids(&mut self, ix: ClientIx) {
        if self.clients[ix.0].up.config.reorder > 0.0 {
            self.reference.confuse_ids(ix);
        }
    }

    /// A client gets another address and connects from there, its memory intact.
    pub fn roam(&mut self, ix: ClientIx) {
        self.rebind(ix);
        self.clients[ix.0].client.reconnect(self.now);
        self.after_client(ix.0);
    }

    /// A client gets another address of its own, as by network address translation, and does not know.
    pub fn rebind(&mut self, ix: ClientIx) {
        let route = self.new_route();
        self.clients[ix.0].route = route;
        self.clients[ix.0].behind = None;
        self.announce(ix.0);
    }

    /// Adds a forwarder (§5.5) with its own link to the gateway.
    pub fn add_forwarder(&mut self) -> ForwarderIx {
        let route = self.new_route();
        let (up, down) = (Path::new(self.config.up), Path::new(self.config.down));
        self.forwarders.push(Forwarder {
            route,
            up,
            down,
            on: true,
        });
        ForwarderIx(self.forwarders.len() - 1)
    }

    /// A client's messages go through a forwarder from now on; it does not know.
    pub fn move_behind(&mut self, ix: ClientIx, forwarder: ForwarderIx) {
        self.counter += 1;
        // Of several lengths, and another one each time.
        let length = 2 + (self.counter % 7) as usize;
        let node: Box<[u8]> = self.counter.to_be_bytes()[8 - length..].into();
        self.clients[ix.0].behind = Some((forwarder.0, node));
        self.clients[ix.0].route = self.forwarders[forwarder.0].route.clone();
        self.announce(ix.0);
    }

    /// A forwarder is on or off; off, it forwards nothing.
    pub fn switch_forwarder(&mut self, forwarder: ForwarderIx, on: bool) {
        self.note(|_| format!("forwarder {} is on: {on}", forwarder.0));
        self.forwarders[forwarder.0].on = on;
    }

    /// A forwarder restarts and has another address; the node ids behind it stay.
    pub fn restart_forwarder(&mut self, forwarder: ForwarderIx) {
        let route = self.new_route();
        self.note(|_| format!("forwarder {} restarts as {}", forwarder.0, route.addr));
        self.forwarders[forwarder.0].route = route.clone();
        for ix in 0..self.clients.len() {
            if self.clients[ix]
                .behind
                .as_ref()
                .is_some_and(|(behind, _)| *behind == forwarder.0)
            {
                self.clients[ix].route = route.clone();
                self.announce(ix);
            }
        }
    }

    /// How a forwarder's datagrams travel from now on.
    pub fn set_forwarder_paths(&mut self, forwarder: ForwarderIx, up: PathConfig, down: PathConfig) {
        self.forwarders[forwarder.0].up.config = up;
        self.forwarders[forwarder.0].down.config = down;
    }

    /// Where a client's messages come from at the moment.
    pub fn address(&self, ix: ClientIx) -> Address {
        let station = &self.clients[ix.0];
        let node = station.behind.as_ref().map(|(_, node)| &**node);
        Address::new(station.route.addr.clone(), node)
    }

    /// Makes a client's address known to everybody who must tell it from a stranger's.
    fn announce(&mut self, ix: usize) {
        let address = self.address(ClientIx(ix));
        self.note(|world| format!("{} is at {address}", world.clients[ix].client.config.id));
        self.by_addr.insert(address.clone(), ix);
        self.reference.add_address(ClientIx(ix), address);
    }

    /// The gateway dies without a word, and starts again knowing nothing. Clients keep what they know.
    pub fn restart_gateway(&mut self) {
        self.note(|_| "gateway restarts".into());
        self.lives += 1;
        let seed = self.config.seed.wrapping_add(self.lives << 32);
        self.gateway = Gateway::new(self.config.gateway.clone(), seed, self.now);
        self.reference.restart();
        self.broker.gateway_died();
        self.events
            .retain(|Reverse(scheduled)| !matches!(scheduled.event, Event::Link(_)));
        self.link_credit = self.config.link_credit.unwrap_or(LinkProfile::UNLIMITED);
        self.link_up();
    }

    /// The gateway's process ends without a word, and another one starts after a while and finds what is on the disk.
    /// Without a disk it starts at once, knowing nothing.
    pub fn end_gateway(&mut self, end: End, away: Duration) {
        let Some(store) = &mut self.store else {
            return self.restart_gateway();
        };
        if self.found.is_some() {
            return;
        }
        self.lives += 1;
        self.found = Some(store.end(self.now, end, &mut self.rng));
        let fails = store.is_failing();
        self.note(|_| format!("gateway ends: {end:?}"));
        self.after_store();
        self.fails_at_start = fails;
        self.broker.gateway_died();
        self.events
            .retain(|Reverse(scheduled)| !matches!(scheduled.event, Event::Link(_)));
        self.schedule(self.now + away, Event::Start);
    }

    /// The gateway starts again.
    fn start_gateway(&mut self) -> Check {
        let Some(found) = self.found.take() else {
            return Ok(());
        };
        if let [first, ..] = &found.missing[..] {
            let detail = format!("{first:?} and {} more", found.missing.len() - 1);
            return Err(Violation::new("what is durable survives", detail));
        }
        let values: BTreeMap<StoreKey, Bytes> = found.values.iter().cloned().collect();
        let seed = self.config.seed.wrapping_add(self.lives << 32);
        self.gateway = Gateway::new(self.config.gateway.clone(), seed, self.now);
        let restored = self.gateway.restore(self.now, unix_ms(self.now), found.values);
        self.note(|_| format!("gateway starts: {restored:?}"));
        if restored.unreadable > 0 {
            return Err(Violation::new(
                "what was stored is understood",
                format!("{restored:?}"),
            ));
        }
        self.reference.restore(self.now, &values)?;
        self.reference.on_start(self.fails_at_start);
        self.link_credit = self.config.link_credit.unwrap_or(LinkProfile::UNLIMITED);
        self.link_up();
        Ok(())
    }

    /// The disk fails from the write after `count` more on, until it is healed.
    pub fn fail_disk(&mut self, count: u32) {
        self.note(|_| format!("the disk fails after {count} writes"));
        if let Some(store) = &self.store {
            store.disk.fail_after(count);
        }
    }

    /// The disk has room for so many octets.
    pub fn resize_disk(&mut self, octets: usize) {
        self.note(|_| format!("the disk has {octets} octets"));
        if let Some(store) = &self.store {
            store.disk.resize(octets);
        }
    }

    /// The disk works, and has the room that it had.
    pub fn heal_disk(&mut self) {
        self.note(|_| "the disk works".into());
        if let Some(store) = &mut self.store {
            store.heal();
        }
    }

    /// The gateway's disk, to look at; none if nothing survives.
    pub fn store(&self) -> Option<&SimStore> {
        self.store.as_ref()
    }

    /// Hands a datagram to the gateway as if it came from there.
    pub fn inject(&mut self, from: &Route, datagram: &[u8]) {
        self.schedule(
            self.now,
            Event::ToGateway {
                from: from.clone(),
                datagram: datagram.to_vec(),
            },
        );
    }

    /// An address that is no client's.
    pub fn stranger(&self, number: u16) -> Route {
        route_to(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), number)))
    }

    /// How a client's datagrams travel from now on.
    pub fn set_paths(&mut self, ix: ClientIx, up: PathConfig, down: PathConfig) {
        self.clients[ix.0].up.config = up;
        self.clients[ix.0].down.config = down;
    }

    /// As [`World::set_paths`], for all clients.
    pub fn set_all_paths(&mut self, up: PathConfig, down: PathConfig) {
        for ix in 0..self.clients.len() {
            self.set_paths(ClientIx(ix), up, down);
        }
        for forwarder in 0..self.forwarders.len() {
            self.set_forwarder_paths(ForwarderIx(forwarder), up, down);
        }
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

    /// Heals the network, brings the broker back, and waits until nothing is left to do; then checks what must hold at
    /// the end.
    ///
    /// # Panics
    /// With a report, if a rule is broken.
    pub fn settle(&mut self) {
        if let Err(violation) = self.try_settle() {
            self.fail(&violation);
        }
    }

    /// As [`World::settle`].
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn try_settle(&mut self) -> Check {
        self.note(|_| "settling".into());
        self.settling = true;
        self.set_all_paths(PathConfig::CLEAN, PathConfig::CLEAN);
        for forwarder in 0..self.forwarders.len() {
            self.switch_forwarder(ForwarderIx(forwarder), true);
        }
        if !self.config.gateway.forwarders.is_empty() {
            // Those that a forwarder has no room for would ask for ever.
            for ix in 0..self.clients.len() {
                if self.clients[ix].behind.is_some() {
                    self.rebind(ClientIx(ix));
                }
            }
        }
        if !self.broker.is_reachable() {
            self.broker_up();
        }
        self.heal_disk();
        // Longer than any pause, keep-alive tolerance and series of retries of these worlds.
        let end = self.now + Duration::from_secs(4 * 3600);
        loop {
            self.wake_the_overlooked();
            let checked_again = self.now + Duration::from_secs(5);
            self.advance(checked_again)?;
            let left = self.left_to_do();
            if left.is_empty() {
                break;
            }
            if self.now >= end {
                return Err(Violation::new("a healed world comes to rest", left.join("; ")));
            }
        }
        // QoS 0 messages, to which nobody has a claim, wait for the next wake-up or sign of life too.
        let naps = self.clients.iter().filter_map(|station| station.client.nap());
        let longest = naps.max().unwrap_or_default().max(Duration::from_secs(300));
        // To who never answers REGISTER it is sent in six rounds, each after a sign of life (A40, A60).
        let silent = |station: &Station| station.client.config.quirks.ignores_register;
        let times = if self.clients.iter().any(silent) { 12 } else { 2 };
        self.advance(self.now + longest * times)?;
        self.check_quiet()?;
        self.check_end()
    }

    /// A client sleeps, and the gateway takes it for active: its DISCONNECT with a duration was lost and not repeated, or
    /// a copy of its CONNECT came later. Who names itself when it wakes gets its messages all the same (A16). The
    /// PINGREQs of others are those of an active client, so they miss what is sent to them, and nobody finds out. Here
    /// somebody looks at the device.
    fn wake_the_overlooked(&mut self) {
        for ix in 0..self.clients.len() {
            let there = self.reference.presence(ClientIx(ix));
            let unnamed = self.clients[ix].client.config.quirks.wakes_without_id;
            let asleep = self.clients[ix].client.presence() == Presence::Asleep;
            if unnamed && asleep && there == Presence::Active {
                self.clients[ix].client.reconnect(self.now);
                self.after_client(ix);
            }
        }
    }

    /// What is not at rest.
    fn left_to_do(&self) -> Vec<String> {
        let busy = self
            .clients
            .iter()
            .map(|s| &s.client)
            .filter(|c| !c.is_idle())
            .map(SimClient::describe);
        let mut left: Vec<String> = busy.collect();
        left.extend(self.reference.open_exchanges(self.now));
        left.extend(self.reference.undelivered());
        left.extend(self.reference.missing_wills());
        // One side knows of a session, and the other will find out: by a ping, or by silence.
        let at_odds = self.clients().filter(|(ix, client)| {
            let unsupervised = client.config.keep_alive == 0;
            let (here, there) = (client.presence(), self.reference.presence(*ix));
            let moved = here != Presence::Away && !self.reference.is_bound(*ix, &self.address(*ix));
            // A late copy of a DISCONNECT with a duration, whose answer was lost: each PINGREQ is a wake-up (A69). Or a
            // DISCONNECT that was lost: each is answered as one (A16).
            let overlooked = matches!(
                (here, there),
                (Presence::Active, Presence::Asleep) | (Presence::Asleep, Presence::Active)
            );
            ((here != there && !overlooked) || moved) && !unsupervised && !self.clients[ix.0].retired
        });
        left.extend(at_odds.map(|(_, client)| format!("{} is at odds with the gateway", client.config.id)));
        let open = self.reference.open_tokens();
        if open > 0 {
            left.push(format!("{open} requests to the broker are open"));
        }
        if self.reference.orphans() > 0 {
            left.push(format!(
                "{} messages were not sent again",
                self.reference.orphans()
            ));
        }
        if self.found.is_some() {
            left.push("the gateway is away".into());
        }
        if let Some(store) = &self.store {
            if !store.is_idle() {
                left.push("something is being written".into());
            }
            let spooled = store
                .promised()
                .keys()
                .filter(|key| key.kind == saved::kind::UPLINK);
            let spooled = spooled.count();
            if spooled > 0 {
                left.push(format!("{spooled} messages for the broker are stored"));
            }
        }
        if self.under_way > 0 {
            left.push(format!("{} datagrams are under way", self.under_way));
        }
        if !self.broker.is_idle() {
            left.push("the broker is not idle".into());
        }
        left
    }

    /// §10 of the architecture: every closed scenario becomes quiet. Only keep-alives go on.
    fn check_quiet(&mut self) -> Check {
        let quiet_for = Duration::from_secs(600);
        // Each client pings after 3/4 of its keep-alive, or wakes up, and is answered once.
        let pings: usize = self
            .clients
            .iter()
            .map(|station| station.client.pings_within(quiet_for))
            .sum();
        let (transmits, timeouts) = (self.transmits, self.timeouts);
        self.advance(self.now + quiet_for)?;
        let sent = self.transmits - transmits;
        if sent > pings {
            return Err(Violation::new(
                "quiet at the end",
                format!("{sent} datagrams for {pings} pings"),
            ));
        }
        // One look at each client per keep-alive, and some for the rest.
        let wakes = self.timeouts - timeouts;
        let enough = 4 * pings + 20 * self.clients.len() + 100;
        if wakes > enough {
            return Err(Violation::new(
                "quiet at the end",
                format!("{wakes} timeouts in {quiet_for:?}"),
            ));
        }
        Ok(())
    }

    /// What was promised has come true.
    fn check_end(&mut self) -> Check {
        for (ix, station) in self.clients.iter().enumerate() {
            let client = &station.client;
            // What has one id is one client.
            let same = self
                .clients
                .iter()
                .filter(|other| other.client.config.id == client.config.id);
            let has = |payload: &Bytes| {
                same.clone()
                    .any(|s| s.client.delivered.iter().any(|d| d.payload == *payload))
            };
            let missing = self
                .reference
                .acknowledged_by(ClientIx(ix))
                .find(|payload| !has(payload));
            if let Some(payload) = missing {
                let detail = format!("{payload:?} at {}", client.config.id);
                return Err(Violation::new(
                    "what a client acknowledged reached its application",
                    detail,
                ));
            }
            for payload in &station.submitted {
                let Some(outcome) = client.outcomes.get(payload) else {
                    // Told to, but never connected or disconnected before its turn came.
                    if client.is_active() {
                        return Err(Violation::new(
                            "every message has an outcome",
                            format!("{payload:?}"),
                        ));
                    }
                    continue;
                };
                let refused = self.store.is_some() && self.reference.was_refused(payload);
                if *outcome == Outcome::Acknowledged && self.broker.count(payload) == 0 && !refused {
                    return Err(Violation::new(
                        "what was acknowledged arrived",
                        format!("{payload:?}"),
                    ));
                }
            }
            let mut seen = BTreeSet::new();
            for delivered in client
                .delivered
                .iter()
                .filter(|d| d.qos == QoS::ExactlyOnce && !d.payload.is_empty())
            {
                let again = !seen.insert(delivered.payload.clone());
                let routed = self.broker.count(&delivered.payload);
                // Without power it forgets what it had between PUBLISH and PUBREL.
                let certain = !self.reference.has_uncertain_copies(&delivered.payload)
                    && !self.reference.may_look_new(ClientIx(ix), &delivered.payload);
                let remembers =
                    client.power_losses == 0 && client.forgot_asleep == 0 && !self.reference.disk_failed;
                if again && certain && routed == 1 && !delivered.retain && remembers {
                    let detail = format!("{:?} at {}", delivered.payload, client.config.id);
                    return Err(Violation::new("QoS 2 reaches the application once", detail));
                }
            }
        }
        if self.store.is_some() && !self.reference.sessions_lost && !self.reference.disk_failed {
            for (payload, meant) in self.reference.exactly_once() {
                let routed = self.broker.count(payload);
                if routed > meant as usize {
                    let detail = format!("{payload:?} {routed} times, sent {meant} times");
                    return Err(Violation::new("QoS 2 reaches the broker once", detail));
                }
            }
        }
        self.check_leftovers()?;
        let (held, asked) = (self.reference.held_filters(), self.reference.asked_filters());
        let subscribed = self.broker.filters(ConnId(0));
        // What was asked for while the disk did not work a later life does not know, and cannot give back.
        let more = self.reference.disk_failed;
        if !(held.is_subset(&subscribed) && (more || subscribed.is_subset(&asked))) {
            let detail = format!("clients hold {held:?}, asked for {asked:?}, the gateway {subscribed:?}");
            return Err(Violation::new("subscribed upstream to what clients hold", detail));
        }
        for routed in &self.broker.log {
            let known = routed.origin == Origin::External || self.reference.knows(&routed.payload);
            if !known {
                return Err(Violation::new(
                    "nothing arrives that was not sent",
                    format!("{routed:?}"),
                ));
            }
        }
        Ok(())
    }

    /// The store keeps nothing of what is done.
    fn check_leftovers(&self) -> Check {
        let Some(store) = self.store.as_ref().filter(|_| !self.reference.disk_failed) else {
            return Ok(());
        };
        let all = store.expected();
        let has = |kind: u8, id: u64| all.contains_key(&StoreKey { kind, id });
        let mut progress = all.keys().filter(|key| key.kind == saved::kind::PROGRESS);
        let lonely = progress.find(|key| !has(saved::kind::MESSAGE, key.id >> 24 << 24));
        match lonely {
            None => Ok(()),
            Some(key) => Err(Violation::new(
                "nothing is kept of what is done",
                format!("{key:?}"),
            )),
        }
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

    // The machinery.

    /// Does what comes next, unless it is after `until`: then the clock is set there and the answer is false.
    fn step(&mut self, until: Instant) -> Result<bool, Violation> {
        let event_at = self.events.peek().map(|Reverse(scheduled)| scheduled.at);
        let timer_at = match self.found {
            None => self.gateway.poll_timeout().map(|at| at.max(self.now)),
            Some(_) => None,
        };
        let next = match (event_at, timer_at) {
            (None, None) => None,
            (Some(at), None) | (None, Some(at)) => Some(at),
            (Some(event), Some(timer)) => Some(event.min(timer)),
        };
        let Some(next) = next.filter(|at| *at <= until) else {
            self.move_clock(until);
            return Ok(false);
        };
        self.move_clock(next);
        if timer_at.is_some_and(|timer| timer <= next) {
            self.timeouts += 1;
            self.timeouts_now += 1;
            if self.timeouts_now > MAX_TIMEOUTS_PER_INSTANT {
                return Err(Violation::new(
                    "a handled timeout is gone",
                    format!("{:?}", self.gateway.poll_timeout()),
                ));
            }
            self.gateway.handle_timeout(self.now);
        } else {
            let gather_until = (self.now + self.config.batch).min(until);
            while let Some(Reverse(scheduled)) = self.events.peek()
                && scheduled.at <= gather_until
            {
                let Some(Reverse(Scheduled { at, event, .. })) = self.events.pop() else {
                    break;
                };
                self.move_clock(at);
                self.handle_event(event)?;
                if self.config.batch.is_zero() {
                    break;
                }
            }
        }
        self.drain()?;
        Ok(true)
    }

    fn move_clock(&mut self, to: Instant) {
        if to > self.now {
            self.now = to;
            self.timeouts_now = 0;
        }
    }

    fn handle_event(&mut self, event: Event) -> Check {
        let now = self.now;
        self.under_way -= usize::from(event.is_datagram());
        match event {
            Event::ToGateway { .. } | Event::BrokerSpeaks | Event::ShutDown if self.found.is_some() => {}
            Event::ToGateway { from, datagram } => {
                self.note(|_| format!("{} -> gateway {}", from.addr, show(&datagram)));
                // Counting takes time in proportion to the clients.
                let before = self.selective.then(|| self.refusals());
                let facts = RadioFacts::default();
                self.gateway.handle_datagram(now, LINK, &from, facts, &datagram);
                let verdict = before.map_or(Verdict::OPEN, |(refused, moved)| {
                    let after = self.refusals();
                    Verdict {
                        refused: after.0 > refused,
                        moved: after.1 > moved,
                    }
                });
                self.reference.on_datagram(now, &from.addr, &datagram, verdict)?;
            }
            Event::ToClient {
                client,
                addr,
                datagram,
            } => {
                if self.address(ClientIx(client)) == addr {
                    self.note(|_| format!("{addr} got {}", show(&datagram)));
                    self.clients[client].client.handle_datagram(now, &datagram);
                    self.after_client(client);
                }
            }
            Event::ClientTimer(client) => {
                if self.clients[client].wakes_at == Some(now) {
                    self.clients[client].wakes_at = None;
                    self.clients[client].client.handle_timeout(now);
                    self.after_client(client);
                }
            }
            Event::Broker(action) => {
                self.broker.handle_action(now, action, &mut self.rng);
                self.after_broker();
            }
            Event::BrokerSpeaks => {
                while let Some((event, publication)) = self.broker.poll_event() {
                    self.note(|_| format!("broker -> gateway {event:?}"));
                    self.reference.on_broker_event(now, &event, publication);
                    let payload = match &event {
                        BrokerEvent::Message { payload, .. } => Some(payload.clone()),
                        _ => None,
                    };
                    let dropped = self.gateway.metrics().buffer_dropped_total;
                    self.gateway.handle_broker(now, event);
                    if let Some(payload) = payload
                        && self.gateway.metrics().buffer_dropped_total > dropped
                    {
                        self.reference.on_overflow(&payload);
                    }
                }
            }
            Event::Link(event) => {
                if let LinkEvent::Credit(more) = event {
                    self.link_credit += more;
                }
                self.gateway.handle_link(now, LINK, event);
            }
            Event::Store(action) => self.handle_store(action),
            Event::Start => self.start_gateway()?,
            Event::ShutDown => {
                self.reference.shut_down();
                self.gateway.handle_shutdown(now);
            }
        }
        Ok(())
    }

    fn handle_store(&mut self, action: StoreAction) {
        let now = self.now;
        let Some(store) = &mut self.store else { return };
        let news = store.handle_action(now, action, &mut self.rng);
        self.fails_at_start &= store.is_failing();
        if self.found.is_some() {
            // Nobody is there to be told.
            store.take_durable();
            return self.after_store();
        }
        for (key, value) in store.take_durable() {
            if key.kind == saved::kind::UPLINK
                && let Some(uplink) = saved::SavedUplink::decode(&value)
            {
                self.reference.on_spooled(&uplink);
            }
        }
        for news in news {
            match news {
                StoreNews::Port(write) => self.broker.handle_durable(now, &write, &mut self.rng),
                StoreNews::Gateway(event) => {
                    self.note(|_| format!("store -> gateway {event:?}"));
                    self.reference.on_store(&event);
                    self.gateway.handle_store(now, event);
                }
            }
        }
        self.after_broker();
        self.after_store();
    }

    fn after_store(&mut self) {
        while let Some((at, action)) = self.store.as_mut().and_then(SimStore::poll_action) {
            self.schedule(at, Event::Store(action));
        }
    }

    /// CONNECTs refused for now, and clients that moved, so far.
    fn refusals(&mut self) -> (u64, u64) {
        let metrics = self.gateway.metrics();
        (metrics.connects_congestion_total, metrics.takeovers_total)
    }

    fn drain(&mut self) -> Check {
        if self.found.is_some() {
            return Ok(());
        }
        let mut buf = Vec::new();
        let mut sessions = Vec::new();
        for _ in 0..MAX_OUTPUTS_PER_DRAIN {
            let filled = buf.len();
            let Some(output) = self.gateway.poll_output(self.now, &mut buf) else {
                self.check_bounds()?;
                for value in sessions {
                    self.reference.on_saved(&value);
                }
                return self.reference.check_silence(self.now);
            };
            self.hash.write_u64(self.now.as_micros());
            match output {
                Output::Transmit {
                    link,
                    to,
                    len,
                    ticket,
                } => {
                    if link != LINK || buf.len() != filled + len {
                        let detail = format!("{link:?}, {len} octets said, {} given", buf.len() - filled);
                        return Err(Violation::new("an output says what it is", detail));
                    }
                    let datagram = buf.split_off(filled);
                    self.transmit(&to, &datagram, ticket)?;
                }
                Output::Broker(request) => {
                    self.note(|_| format!("gateway -> broker {request:?}"));
                    self.hash.write(format!("{request:?}").as_bytes());
                    self.reference.on_request(self.now, &request)?;
                    self.broker
                        .handle_request(self.now, request, &mut self.rng)
                        .map_err(|misuse| Violation::new("the seam's rules towards the broker", misuse))?;
                    self.after_broker();
                }
                Output::Store(request) => {
                    self.note(|_| format!("gateway -> store {request:?}"));
                    self.hash.write(format!("{request:?}").as_bytes());
                    let (StoreRequest::Write { changes, ticket }, Some(store)) = (&request, &mut self.store)
                    else {
                        let detail = format!("{request:?}");
                        return Err(Violation::new(
                            "nothing is stored unless it is configured",
                            detail,
                        ));
                    };
                    sessions.extend(changes.iter().filter_map(|change| match change {
                        StoreChange::Put(key, value) if key.kind == saved::kind::SESSION => {
                            Some(value.clone())
                        }
                        _ => None,
                    }));
                    store.submit(self.now, changes.clone(), *ticket, &mut self.rng);
                    ticket
                        .iter()
                        .for_each(|ticket| self.reference.on_written(*ticket));
                    self.after_store();
                }
                Output::Notice(notice) => {
                    self.note(|_| format!("gateway says {notice:?}"));
                    self.hash.write(format!("{notice:?}").as_bytes());
                    self.reference.on_notice(self.now, &notice)?;
                    self.notices.push((self.now, notice));
                }
            }
        }
        Err(Violation::new(
            "outputs end",
            format!("more than {MAX_OUTPUTS_PER_DRAIN} at once"),
        ))
    }

    /// What peers can make grow stays within the limits of the configuration.
    fn check_bounds(&mut self) -> Check {
        // Counting takes time in proportion to the clients.
        if self.clients.len() > 64 && !self.transmits.is_multiple_of(64) {
            return Ok(());
        }
        let (limits, clients) = (&self.config.gateway.limits, self.clients.len());
        let messages_per_client = self.config.gateway.sleep.max_messages;
        let connections =
            u64::from(self.config.gateway.upstream.connections) + u64::from(self.store.is_some());
        let window = u64::from(self.config.broker.window) * connections;
        let metrics = self.gateway.metrics();
        let bounds = [
            // What was in flight when a session was lost comes back into the queue.
            (
                "queue_messages",
                metrics.queue_messages,
                limits.queue_messages as u64 + window,
            ),
            (
                "queue_bytes",
                metrics.queue_bytes,
                limits.queue_bytes as u64 + window * 65_535,
            ),
            ("in_flight", metrics.in_flight, window),
            (
                "buffer_messages",
                metrics.buffer_messages,
                (messages_per_client * clients) as u64,
            ),
            ("buffer_bytes", metrics.buffer_bytes, limits.buffer_bytes as u64),
            ("clients", metrics.clients, limits.clients as u64),
            (
                "filters",
                metrics.filters,
                (limits.subscriptions_per_client * clients) as u64,
            ),
        ];
        match bounds.into_iter().find(|(_, value, bound)| value > bound) {
            None => Ok(()),
            Some((name, value, bound)) => Err(Violation::new(
                "limits hold",
                format!("{name} is {value}, at most {bound}"),
            )),
        }
    }

    fn transmit(&mut self, to: &Destination, datagram: &[u8], _ticket: TxTicket) -> Check {
        self.transmits += 1;
        self.note(|_| format!("gateway -> {} {}", show_destination(to), show(datagram)));
        self.hash.write(format!("{to:?}").as_bytes());
        self.hash.write(datagram);
        if self.config.trace {
            self.sent.push((self.now, to.clone(), datagram.to_vec()));
        }
        if self.config.link_credit.is_some() {
            if self.link_credit == 0 {
                return Err(Violation::new("no datagram without link credit", show(datagram)));
            }
            self.link_credit -= 1;
            let back = between(&mut self.rng, Duration::from_millis(1), Duration::from_millis(10));
            self.schedule(self.now + back, Event::Link(LinkEvent::Credit(1)));
        }
        self.reference.on_transmit(self.now, to, datagram)?;
        let Destination::Peer(route) = to else {
            return Ok(());
        };
        let Ok((encapsulation, message)) = Encapsulation::split(datagram) else {
            return Ok(());
        };
        if let Ok(packet) = Packet::decode(message) {
            *self.sent_counts.entry(packet.msg_type()).or_default() += 1;
        }
        let node = encapsulation.map(|encapsulation| encapsulation.wireless_node_id);
        let addr = Address::new(route.addr.clone(), node);
        // What goes to an address that nobody has any more arrives nowhere.
        let client = self.by_addr.get(&addr).copied();
        let Some(client) = client.filter(|ix| self.address(ClientIx(*ix)) == addr) else {
            return Ok(());
        };
        let rng = &mut self.rng;
        let station = &mut self.clients[client];
        let forwarder = station.behind.as_ref().map(|(ix, _)| *ix);
        let relayed = match forwarder.and_then(|ix| self.forwarders.get_mut(ix)) {
            Some(forwarder) if !forwarder.on => Vec::new(),
            Some(forwarder) => forwarder.down.send(self.now, rng),
            None => vec![self.now],
        };
        let arrivals: Vec<Instant> = relayed
            .into_iter()
            .flat_map(|at| station.down.send(at, rng))
            .collect();
        for at in arrivals {
            self.schedule(
                at,
                Event::ToClient {
                    client,
                    addr: addr.clone(),
                    datagram: message.to_vec(),
                },
            );
        }
        Ok(())
    }

    /// Sends what a client wants sent and notes when it wants to be called.
    fn after_client(&mut self, ix: usize) {
        while let Some(mut datagram) = self.clients[ix].client.poll_output() {
            let rng = &mut self.rng;
            let station = &mut self.clients[ix];
            let from = station.route.clone();
            let mut arrivals = station.up.send(self.now, rng);
            if let Some((forwarder, node)) = &station.behind {
                let forwarder = &mut self.forwarders[*forwarder];
                let mut encapsulated = Vec::new();
                let header = Encapsulation {
                    // Meaningless in this direction, so it must make no difference.
                    radius: (datagram.len() % 4) as u8,
                    wireless_node_id: node,
                };
                header.encode(&mut encapsulated);
                encapsulated.append(&mut datagram);
                datagram = encapsulated;
                arrivals = match forwarder.on {
                    true => arrivals
                        .into_iter()
                        .flat_map(|at| forwarder.up.send(at, rng))
                        .collect(),
                    false => Vec::new(),
                };
            }
            if arrivals.is_empty() {
                self.note(|_| format!("{} lost {}", from.addr, show(&datagram)));
            }
            for at in arrivals {
                self.schedule(
                    at,
                    Event::ToGateway {
                        from: from.clone(),
                        datagram: datagram.clone(),
                    },
                );
            }
        }
        if self.clients[ix].client.is_off() {
            self.clients[ix].submitted.clear();
        }
        let wakes_at = self.clients[ix].client.poll_timeout().map(|at| at.max(self.now));
        if wakes_at != self.clients[ix].wakes_at {
            self.clients[ix].wakes_at = wakes_at;
            if let Some(at) = wakes_at {
                self.schedule(at, Event::ClientTimer(ix));
            }
        }
    }

    fn after_broker(&mut self) {
        while let Some((at, action)) = self.broker.poll_action() {
            self.schedule(at, Event::Broker(action));
        }
        if self.broker.has_events() {
            self.schedule(self.now, Event::BrokerSpeaks);
        }
        while let Some(write) = self.broker.poll_write() {
            self.note(|_| format!("port -> store {:?}", write.change));
            if let Some(store) = &mut self.store {
                store.submit_port(self.now, write, &mut self.rng);
                self.after_store();
            }
        }
    }

    fn schedule(&mut self, at: Instant, event: Event) {
        self.next_event += 1;
        self.under_way += usize::from(event.is_datagram());
        self.events.push(Reverse(Scheduled {
            at,
            order: self.next_event,
            event,
        }));
    }

    fn new_route(&mut self) -> Route {
        self.counter += 1;
        route_to(SocketAddr::from((
            Ipv4Addr::new(10, 0, 0, 1),
            1024 + self.counter as u16,
        )))
    }

    fn new_payload(&mut self, who: &str, octets: usize) -> Bytes {
        self.counter += 1;
        let mut payload = format!("{who}/{}", self.counter).into_bytes();
        while payload.len() < octets {
            payload.push(b'a' + self.rng.random_range(0..26u8));
        }
        payload.into()
    }

    fn predefined_name(&self, ix: ClientIx, id: TopicId) -> String {
        self.client(ix)
            .config
            .predefined
            .get(&id)
            .cloned()
            .unwrap_or_default()
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

/// QoS as a number in scenarios: −1, 0, 1 or 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(pub PublishQoS);

impl From<QoS> for Level {
    fn from(qos: QoS) -> Level {
        Level(PublishQoS::Level(qos))
    }
}

impl From<PublishQoS> for Level {
    fn from(qos: PublishQoS) -> Level {
        Level(qos)
    }
}

/// A will for scenarios: QoS 1, not retained.
pub fn will(topic: &str, message: &str) -> Will {
    Will {
        topic: Arc::from(topic),
        payload: Bytes::copy_from_slice(message.as_bytes()),
        qos: QoS::AtLeastOnce,
        retain: false,
    }
}

/// Some time in 2026, and as long after it as the world is old.
fn unix_ms(now: Instant) -> u64 {
    1_790_000_000_000 + now.as_micros() / 1000
}

fn route_to(addr: SocketAddr) -> Route {
    Route {
        addr: LinkAddr::Udp(addr),
        local: LocalEnd::default(),
    }
}

fn show(datagram: &[u8]) -> String {
    match sn_codec::decode_message(datagram) {
        Ok((_, packet)) => format!("{packet:?}"),
        Err(error) => format!("{datagram:02x?} ({error})"),
    }
}

fn show_destination(to: &Destination) -> String {
    match to {
        Destination::Peer(route) => route.addr.to_string(),
        Destination::Broadcast => "everyone".into(),
    }
}
