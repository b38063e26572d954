//! An honest MQTT broker and the port in front of it, as one value behind the seam.
//!
//! It takes [`BrokerRequest`]s and reports [`BrokerEvent`]s like the real ports: requests need credit, QoS 1 and 2
//! publishes a place in the window, outcomes come after a while and in any order, and a connection may go down with or
//! without its session. It routes to the sessions of the gateway and writes down everything that was published, which is
//! what an external subscriber to `#` would see.

mod config;
mod connections;
mod exactly_once;
mod requests;
mod routing;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use gateway_core::io::{
    BrokerEvent, BrokerRequest, ConnId, DeliveryId, FilterId, Refusal, StoreChange, Token,
};
use gateway_core::time::Instant;
use rand::rngs::SmallRng;
use rustc_hash::FxHashMap;
use sn_codec::QoS;

use self::exactly_once::{Exact, ExactStage};
use crate::net::between;

pub use self::config::{BrokerConfig, Overlap, Shortage};
pub(crate) use self::exactly_once::as_request;
pub(crate) use self::routing::came_before;

/// Who published a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A connection of the gateway.
    Gateway(ConnId),
    /// Somebody else at the broker.
    External,
}

/// One message that the broker took and routed.
#[derive(Debug, Clone)]
pub struct Routed {
    /// When.
    pub at: Instant,
    /// By whom.
    pub origin: Origin,
    /// Topic name.
    pub topic: Arc<str>,
    /// QoS it was published with.
    pub qos: QoS,
    /// To be retained.
    pub retain: bool,
    /// The payload.
    pub payload: Bytes,
}

/// Something the broker has to do later; the world hands it back at its time.
#[derive(Debug, Clone)]
pub enum BrokerAction {
    /// Connect, if the broker is reachable.
    Connect(ConnId),
    /// Execute the oldest request of this connection.
    Execute(ConnId, Life),
    /// Answer a request.
    Settle(Token, Life),
    /// Hand over the oldest message waiting for this connection.
    Deliver(ConnId, Life),
    /// A packet of a QoS 2 exchange arrives.
    Exact(ConnId, Life, u16, Packet),
    /// A packet of a QoS 2 delivery arrives.
    Delivery(ConnId, Life, u16, Packet),
}

/// A packet of MQTT that ends a step of QoS 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet {
    /// The message itself.
    Publish,
    /// It is received.
    Pubrec,
    /// It is released.
    Pubrel,
    /// It is done with.
    Pubcomp,
}

/// A change of the store that a port waits for before it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortWrite {
    conn: ConnId,
    /// Of which process, and which step of it.
    number: u64,
    packet_id: u16,
    /// The change.
    pub change: StoreChange,
}

/// Numbers the lives of a connection, so that what belongs to an earlier one is recognised.
pub type Life = u64;

/// Tells copies of one message from messages that look alike.
///
/// What comes again may be a new one: a retained message replayed, or QoS 1 repeated over a resumed session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Publication(pub u64);

/// A broken promise of the core towards the port.
pub type Misuse = String;

/// The broker and the ports of all connections.
#[derive(Debug)]
pub struct SimBroker {
    /// May be changed at any time.
    pub config: BrokerConfig,
    /// Everything routed so far, in order.
    pub log: Vec<Routed>,
    counts: FxHashMap<Bytes, usize>,
    reachable: bool,
    conns: BTreeMap<ConnId, Conn>,
    retained: BTreeMap<Arc<str>, (Bytes, QoS)>,
    scheduled: Vec<(Instant, BrokerAction)>,
    events: VecDeque<(BrokerEvent, Option<Publication>)>,
    writes: VecDeque<PortWrite>,
    next_write: u64,
    next_publication: u64,
}

#[derive(Debug, Default)]
struct Conn {
    wanted: bool,
    up: bool,
    life: Life,
    credit: u32,
    /// Accepted by the port, not executed by the broker.
    inbox: VecDeque<Accepted>,
    last_execution: Instant,
    /// Every request whose outcome is owed, oldest first by token order of acceptance.
    unsettled: BTreeMap<Token, Unsettled>,
    accepted: u64,
    session: Session,
    has_session: bool,
    last_delivery: Instant,
    deliveries_scheduled: usize,
    /// The port's publishes that are to reach the broker exactly once, by packet id.
    exact: BTreeMap<u16, Exact>,
    last_packet_id: u16,
    /// Of an earlier life, and done: another has its packet id.
    settled_before: Vec<Token>,
    /// The port's QoS 2 deliveries that the broker has not released, by packet id.
    deliveries: BTreeMap<u16, Arrived>,
    /// Counts the port's connections.
    connection: u32,
    /// PUBCOMP waits for the gateway.
    holds_pubcomp: bool,
}

/// A QoS 2 message of the broker, as its port knows it.
#[derive(Debug)]
struct Arrived {
    delivery: DeliveryId,
    acknowledged: bool,
    /// PUBLISH was seen in this connection.
    here: bool,
    /// The broker has forgotten it: PUBCOMP leaves when the gateway would know in another life.
    releasing: bool,
}

#[derive(Debug)]
struct Accepted {
    request: BrokerRequest,
    /// It used up credit; what the port repeats by itself does not.
    paid: bool,
}

#[derive(Debug)]
struct Unsettled {
    request: BrokerRequest,
    order: u64,
    stage: Stage,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// With the port.
    Waiting,
    /// The broker did it; this answer is on its way.
    Executed(Result<Option<QoS>, Refusal>),
}

#[derive(Debug, Default)]
struct Session {
    filters: BTreeMap<Arc<str>, (FilterId, QoS)>,
    /// Not handed over yet.
    waiting: VecDeque<Delivery>,
    /// Handed over and not acknowledged, by packet id.
    unacked: BTreeMap<u16, Delivery>,
    last_packet_id: u16,
    /// Packet ids of QoS 2 publishes that the port has not released.
    received: BTreeSet<u16>,
}

#[derive(Debug, Clone)]
struct Delivery {
    publication: Publication,
    /// QoS 2: PUBREC came, and what is left is to release it.
    received: bool,
    filters: Box<[FilterId]>,
    topic: Arc<str>,
    qos: QoS,
    retain: bool,
    payload: Bytes,
}

impl SimBroker {
    /// A broker without sessions and retained messages.
    pub fn new(config: BrokerConfig) -> SimBroker {
        SimBroker {
            reachable: config.up_at_start,
            config,
            log: Vec::new(),
            counts: FxHashMap::default(),
            conns: BTreeMap::new(),
            retained: BTreeMap::new(),
            scheduled: Vec::new(),
            events: VecDeque::new(),
            writes: VecDeque::new(),
            next_write: 0,
            next_publication: 1,
        }
    }

    /// The core asks for something.
    ///
    /// # Errors
    /// The request breaks a rule of the seam: no credit, no place in the window, not connected, token in use.
    pub fn handle_request(
        &mut self,
        now: Instant,
        request: BrokerRequest,
        rng: &mut SmallRng,
    ) -> Result<(), Misuse> {
        match request {
            BrokerRequest::Open { conn, options } => {
                let state = self.conns.entry(conn).or_default();
                if state.wanted {
                    return Err(format!("{conn:?} is opened twice"));
                }
                state.wanted = true;
                if options.clean_start {
                    state.has_session = false;
                }
                state.open(conn, options);
                self.schedule(now + Duration::from_millis(1), BrokerAction::Connect(conn));
                Ok(())
            }
            BrokerRequest::Close { conn } => {
                let state = self.conns.entry(conn).or_default();
                if !state.wanted {
                    return Err(format!("{conn:?} is closed but not open"));
                }
                // A request that the port holds when it is told to close is still written before DISCONNECT.
                while !self.conn(conn).inbox.is_empty() && self.conn(conn).up {
                    self.execute(now, conn, rng);
                }
                let state = self.conn(conn);
                state.wanted = false;
                state.up = false;
                state.life += 1;
                Ok(())
            }
            request => self.accept(now, request, rng),
        }
    }

    /// Does what was scheduled earlier.
    pub fn handle_action(&mut self, now: Instant, action: BrokerAction, rng: &mut SmallRng) {
        match action {
            BrokerAction::Connect(conn) => self.connect(now, conn, rng),
            BrokerAction::Execute(conn, life) if self.alive(conn, life) => self.execute(now, conn, rng),
            BrokerAction::Settle(token, life) => self.settle(token, life),
            BrokerAction::Deliver(conn, life) if self.alive(conn, life) => self.deliver(now, conn, rng),
            BrokerAction::Exact(conn, life, id, packet) if self.alive(conn, life) => {
                self.exact(now, conn, id, packet, rng);
            }
            BrokerAction::Delivery(conn, life, id, packet) if self.alive(conn, life) => {
                self.delivery(now, conn, id, packet, rng);
            }
            // The connection it was meant for is gone.
            BrokerAction::Execute(..)
            | BrokerAction::Deliver(..)
            | BrokerAction::Exact(..)
            | BrokerAction::Delivery(..) => {}
        }
    }

    /// What to do later, and when.
    pub fn poll_action(&mut self) -> Option<(Instant, BrokerAction)> {
        self.scheduled.pop()
    }

    /// What to tell the core now; with a message, which publication it is a copy of.
    pub fn poll_event(&mut self) -> Option<(BrokerEvent, Option<Publication>)> {
        self.events.pop_front()
    }

    /// What a port wants to be durable before it goes on.
    pub fn poll_write(&mut self) -> Option<PortWrite> {
        self.writes.pop_front()
    }

    /// What a port wanted to write is durable.
    pub fn handle_durable(&mut self, now: Instant, write: &PortWrite, rng: &mut SmallRng) {
        let conn = self.conn(write.conn);
        let Some(exact) = conn.exact.get_mut(&write.packet_id) else {
            return;
        };
        let packet = match exact.stage {
            ExactStage::Sending(number) if number == write.number => {
                exact.stage = ExactStage::Sent;
                Packet::Publish
            }
            ExactStage::Releasing(number) if number == write.number => {
                exact.stage = ExactStage::Released;
                Packet::Pubrel
            }
            // Its session is lost, and another has its packet id.
            ExactStage::Sending(_) | ExactStage::Sent | ExactStage::Releasing(_) | ExactStage::Released => {
                return;
            }
        };
        if conn.up {
            self.send_exact(now, write.conn, write.packet_id, packet, rng);
        }
    }

    /// There is something to tell the core.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Somebody else publishes.
    pub fn publish(
        &mut self,
        now: Instant,
        topic: &str,
        qos: QoS,
        retain: bool,
        payload: Bytes,
        rng: &mut SmallRng,
    ) {
        self.route(now, Origin::External, topic.into(), qos, retain, payload, rng);
    }

    /// The broker becomes unreachable; without `keep_sessions` it forgets them.
    ///
    /// Retained messages stay.
    pub fn go_down(&mut self, keep_sessions: bool) {
        self.reachable = false;
        let ids: Vec<ConnId> = self.conns.keys().copied().collect();
        for conn in ids {
            self.drop_conn(conn, keep_sessions);
        }
    }

    /// The gateway's process is gone, and with it its ports: connections break, and what the ports held is forgotten.
    pub fn gateway_died(&mut self) {
        self.events.clear();
        self.writes.clear();
        for conn in self.conns.values_mut() {
            conn.wanted = false;
            conn.up = false;
            conn.life += 1;
            conn.credit = 0;
            conn.inbox.clear();
            conn.unsettled.clear();
            conn.exact.clear();
            conn.deliveries.clear();
            conn.settled_before.clear();
            conn.connection = 0;
            conn.session
                .waiting
                .retain(|delivery| delivery.qos != QoS::AtMostOnce);
        }
    }

    /// The broker can be reached again; the ports connect after a while.
    pub fn come_up(&mut self, now: Instant, rng: &mut SmallRng) {
        self.reachable = true;
        let wanted: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, c)| c.wanted && !c.up)
            .map(|(id, _)| *id)
            .collect();
        for conn in wanted {
            let delay = between(rng, Duration::from_millis(1), Duration::from_secs(2));
            self.schedule(now + delay, BrokerAction::Connect(conn));
        }
    }

    /// Reachable at the moment.
    pub fn is_reachable(&self) -> bool {
        self.reachable
    }

    /// Connected at the moment.
    pub fn is_up(&self, conn: ConnId) -> bool {
        self.conns.get(&conn).is_some_and(|c| c.up)
    }

    /// The filters that a connection is subscribed to.
    pub fn filters(&self, conn: ConnId) -> BTreeSet<Arc<str>> {
        self.conns
            .get(&conn)
            .map(|c| c.session.filters.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// Nothing is on its way in either direction.
    pub fn is_idle(&self) -> bool {
        self.conns.values().all(|c| {
            c.inbox.is_empty()
                && c.unsettled.is_empty()
                && c.session.waiting.is_empty()
                && c.session.unacked.is_empty()
        })
    }

    /// How often a payload was routed.
    pub fn count(&self, payload: &[u8]) -> usize {
        self.counts.get(payload).copied().unwrap_or_default()
    }

    fn conn(&mut self, conn: ConnId) -> &mut Conn {
        self.conns.entry(conn).or_default()
    }

    fn tell(&mut self, event: BrokerEvent) {
        self.events.push_back((event, None));
    }

    fn new_publication(&mut self) -> Publication {
        self.next_publication += 1;
        Publication(self.next_publication)
    }

    fn alive(&self, conn: ConnId, life: Life) -> bool {
        self.conns.get(&conn).is_some_and(|c| c.up && c.life == life)
    }

    fn schedule(&mut self, at: Instant, action: BrokerAction) {
        self.scheduled.push((at, action));
    }
}
