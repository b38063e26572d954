//! An honest MQTT broker and the port in front of it, as one value behind the seam.
//!
//! It takes [`BrokerRequest`]s and reports [`BrokerEvent`]s like the real ports: requests need credit, QoS 1 and 2
//! publishes a place in the window, outcomes come after a while and in any order, and a connection may go down with or
//! without its session. It routes to the sessions of the gateway and writes down everything that was published, which is
//! what an external subscriber to `#` would see.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use gateway_core::io::{
    BrokerEvent, BrokerRequest, ConnId, ConnectOptions, DeliveryId, FilterId, Refusal, RestoredPublish,
    StoreChange, StoredUplink, Token,
};
use gateway_core::time::Instant;
use rand::{RngExt, rngs::SmallRng, seq::SliceRandom};
use rustc_hash::FxHashMap;
use sn_codec::{QoS, topic};

use crate::net::between;

/// How the broker and its port behave.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Reachable when the world begins.
    pub up_at_start: bool,
    /// Shortest time from a request to its execution.
    pub latency_min: Duration,
    /// Longest time from a request to its execution.
    pub latency_max: Duration,
    /// Longest time from the execution to the answer; answers overtake each other.
    pub settle_max: Duration,
    /// QoS 1 and 2 publishes taken unsettled.
    pub window: u16,
    /// Requests the port takes ahead of their execution.
    pub credit: u32,
    /// Deliveries sent to the gateway unacknowledged.
    pub receive_max: usize,
    /// How one message that matches several subscriptions of a connection arrives.
    pub overlap: Overlap,
    /// Highest QoS granted to a subscription.
    pub max_granted: QoS,
    /// Publishes to topics and subscriptions to filters that begin so are refused, with this reason.
    pub refuse: Vec<(String, Refusal)>,
    /// Publishes to some topics are refused for now (0x97), for a few seconds at a time.
    pub shortage: Option<Shortage>,
    /// A packet id of a delivery is given again at once, the lowest first; else they count up.
    pub lowest_packet_ids: bool,
    /// Share of subscriptions whose retained messages overtake the SUBACK (reading A57).
    pub retained_first: f64,
    /// Share of session losses in which [`BrokerEvent::Lost`] comes before [`BrokerEvent::Up`].
    pub lost_before_up: f64,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        BrokerConfig {
            up_at_start: true,
            latency_min: Duration::from_millis(1),
            latency_max: Duration::from_millis(5),
            settle_max: Duration::from_millis(20),
            window: 20,
            credit: 64,
            receive_max: 20,
            overlap: Overlap::OneCopyWithIds,
            max_granted: QoS::ExactlyOnce,
            refuse: Vec::new(),
            shortage: None,
            lowest_packet_ids: false,
            retained_first: 0.5,
            lost_before_up: 0.5,
        }
    }
}

/// When the broker is short of something. It follows from the time and the topic, so that nothing else that happens by
/// chance depends on it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shortage {
    /// Tells worlds apart.
    pub seed: u64,
    /// How long it is short of the same.
    pub period: Duration,
    /// Share of the topics that it does not take.
    pub share: f64,
}

impl Shortage {
    fn refuses(&self, now: Instant, topic: &str) -> bool {
        use core::hash::{Hash as _, Hasher as _};
        let period = u64::try_from(self.period.as_micros()).unwrap_or(u64::MAX).max(1);
        let mut hasher = rustc_hash::FxHasher::default();
        (self.seed, now.as_micros() / period, topic).hash(&mut hasher);
        (hasher.finish() >> 32) as f64 / f64::from(u32::MAX) < self.share
    }
}

/// How one message that matches several subscriptions of a connection arrives (MQTT 5 §3.3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// Once, with every subscription id.
    OneCopyWithIds,
    /// Once per subscription, each with its id.
    CopyPerFilter,
    /// Once, without ids (MQTT 3.1.1).
    OneCopyWithoutIds,
}

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

/// Set in the name of a QoS 2 delivery.
const EXACTLY_ONCE: u64 = 1 << 16;

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

/// A publish of QoS 2 whose stages the port stores.
#[derive(Debug)]
struct Exact {
    token: Token,
    stored: StoredUplink,
    topic: Arc<str>,
    retain: bool,
    payload: Bytes,
    stage: ExactStage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExactStage {
    /// PUBLISH leaves when this write is durable.
    Sending(u64),
    Sent,
    /// PUBREL leaves when this write is durable.
    Releasing(u64),
    Released,
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

    fn accept(&mut self, now: Instant, request: BrokerRequest, rng: &mut SmallRng) -> Result<(), Misuse> {
        let conn_id = conn_of(&request);
        let window = usize::from(self.config.window);
        let Some(conn) = self.conns.get_mut(&conn_id) else {
            return Err(format!("{conn_id:?} was never opened: {request:?}"));
        };
        if !conn.up {
            return Err(format!("{conn_id:?} is down: {request:?}"));
        }
        if conn.credit == 0 {
            return Err(format!("{conn_id:?} has no credit: {request:?}"));
        }
        conn.credit -= 1;
        if let Some(token) = token_of(&request) {
            if conn.unsettled.contains_key(&token) {
                return Err(format!("{token:?} is still unsettled: {request:?}"));
            }
            if matches!(request, BrokerRequest::Publish { .. }) {
                let open = conn
                    .unsettled
                    .values()
                    .filter(|u| matches!(u.request, BrokerRequest::Publish { .. }));
                if open.count() >= window {
                    return Err(format!("the window of {window} is full: {request:?}"));
                }
            }
            conn.accepted += 1;
            let entry = Unsettled {
                request: request.clone(),
                order: conn.accepted,
                stage: Stage::Waiting,
            };
            conn.unsettled.insert(token, entry);
        }
        match &request {
            BrokerRequest::Publish { token, qos, .. } if token.is_some() != (*qos != QoS::AtMostOnce) => {
                return Err(format!(
                    "a token goes with QoS 1 and 2 and only with them: {request:?}"
                ));
            }
            BrokerRequest::Publish { topic, .. } if !topic::is_valid_name(topic) => {
                return Err(format!("not a topic name: {request:?}"));
            }
            BrokerRequest::Subscribe { filter, .. } | BrokerRequest::Unsubscribe { filter, .. }
                if !topic::is_valid_filter(filter) =>
            {
                return Err(format!("not a topic filter: {request:?}"));
            }
            _ => {}
        }
        if let BrokerRequest::Ack { delivery, .. } = &request
            && let Some(arrived) = conn.deliveries.get_mut(&(delivery.0 as u16))
            && arrived.delivery == *delivery
        {
            // From now on the port answers by itself, whatever becomes of this connection.
            arrived.acknowledged = true;
        }
        if let BrokerRequest::Complete { delivery, .. } = &request {
            // From now on as well.
            let packet_id = delivery.0 as u16;
            let arrived = conn.deliveries.get(&packet_id);
            if !arrived.is_some_and(|arrived| arrived.delivery == *delivery && arrived.releasing) {
                return Err(format!("nothing waits for this: {request:?}"));
            }
            conn.deliveries.remove(&packet_id);
        }
        if matches!(request, BrokerRequest::Publish { stored: Some(_), .. }) {
            // The port stores that it will send it as soon as it has it.
            self.begin(conn_id, request);
            self.give_back(conn_id);
            return Ok(());
        }
        conn.inbox.push_back(Accepted { request, paid: true });
        self.schedule_execution(now, conn_id, rng);
        Ok(())
    }

    /// TCP keeps the order of requests, so executions do too.
    fn schedule_execution(&mut self, now: Instant, conn_id: ConnId, rng: &mut SmallRng) {
        let at = self.next_execution(now, conn_id, rng);
        let life = self.conn(conn_id).life;
        self.schedule(at, BrokerAction::Execute(conn_id, life));
    }

    /// When the broker has what the port sends now.
    fn next_execution(&mut self, now: Instant, conn_id: ConnId, rng: &mut SmallRng) -> Instant {
        let delay = between(rng, self.config.latency_min, self.config.latency_max);
        let conn = self.conn(conn_id);
        conn.last_execution = conn.last_execution.max(now + delay);
        conn.last_execution
    }

    /// When the port has what the broker sends now.
    fn next_delivery(&mut self, now: Instant, conn_id: ConnId, rng: &mut SmallRng) -> Instant {
        let delay = between(rng, self.config.latency_min, self.config.latency_max);
        let conn = self.conn(conn_id);
        conn.last_delivery = conn.last_delivery.max(now + delay);
        conn.last_delivery
    }

    fn execute(&mut self, now: Instant, conn_id: ConnId, rng: &mut SmallRng) {
        let Some(Accepted { request, paid }) = self.conn(conn_id).inbox.pop_front() else {
            return;
        };
        match request {
            request @ BrokerRequest::Publish { stored: Some(_), .. } => self.begin(conn_id, request),
            BrokerRequest::Publish {
                token,
                topic,
                qos,
                retain,
                payload,
                ..
            } => {
                let refusal = self.publish_refusal(now, &topic);
                if refusal.is_none() {
                    self.route(now, Origin::Gateway(conn_id), topic, qos, retain, payload, rng);
                }
                if let Some(token) = token {
                    self.answer(now, conn_id, token, refusal.map_or(Ok(None), Err), rng);
                }
            }
            BrokerRequest::Subscribe {
                token,
                filter,
                id,
                qos,
                ..
            } => {
                let refusal = self.refusal(&filter);
                let granted = qos.min(self.config.max_granted);
                if refusal.is_none() {
                    self.conn(conn_id)
                        .session
                        .filters
                        .insert(filter.clone(), (id, granted));
                }
                let retained_first = rng.random_bool(self.config.retained_first);
                if !retained_first {
                    self.answer(now, conn_id, token, refusal.map_or(Ok(Some(granted)), Err), rng);
                }
                if refusal.is_none() {
                    self.replay_retained(now, conn_id, &filter, id, granted, rng);
                }
                if retained_first {
                    self.answer(now, conn_id, token, refusal.map_or(Ok(Some(granted)), Err), rng);
                }
            }
            BrokerRequest::Unsubscribe { token, filter, .. } => {
                self.conn(conn_id).session.filters.remove(&filter);
                self.answer(now, conn_id, token, Ok(None), rng);
            }
            BrokerRequest::Ack { delivery, .. } => self.acknowledged(now, conn_id, delivery, rng),
            BrokerRequest::Complete { delivery, .. } => {
                self.send_delivery(now, conn_id, delivery.0 as u16, Packet::Pubcomp, rng);
            }
            BrokerRequest::Open { .. } | BrokerRequest::Close { .. } => {}
        }
        if paid {
            self.give_back(conn_id);
        }
    }

    fn give_back(&mut self, conn: ConnId) {
        self.conn(conn).credit += 1;
        self.tell(BrokerEvent::Credit { conn, requests: 1 });
    }

    fn begin(&mut self, conn: ConnId, request: BrokerRequest) {
        if let BrokerRequest::Publish {
            token: Some(token),
            topic,
            retain,
            payload,
            stored: Some(stored),
            ..
        } = request
        {
            let stage = ExactStage::Sent;
            let exact = Exact {
                token,
                stored,
                topic,
                retain,
                payload,
                stage,
            };
            self.begin_exact(conn, exact);
        }
    }

    fn refusal(&self, name: &str) -> Option<Refusal> {
        self.config
            .refuse
            .iter()
            .find(|(prefix, _)| name.starts_with(prefix.as_str()))
            .map(|(_, r)| *r)
    }

    fn publish_refusal(&self, now: Instant, topic: &str) -> Option<Refusal> {
        let shortage = self
            .config
            .shortage
            .filter(|shortage| shortage.refuses(now, topic));
        self.refusal(topic).or(shortage.map(|_| Refusal::QUOTA_EXCEEDED))
    }

    fn answer(
        &mut self,
        now: Instant,
        conn_id: ConnId,
        token: Token,
        result: Result<Option<QoS>, Refusal>,
        rng: &mut SmallRng,
    ) {
        let at = now + between(rng, Duration::ZERO, self.config.settle_max);
        let conn = self.conn(conn_id);
        let life = conn.life;
        if let Some(unsettled) = conn.unsettled.get_mut(&token) {
            unsettled.stage = Stage::Executed(result);
        }
        self.schedule(at, BrokerAction::Settle(token, life));
    }

    fn settle(&mut self, token: Token, life: Life) {
        let found = self
            .conns
            .values_mut()
            .find(|c| c.life == life && c.up && c.unsettled.contains_key(&token));
        let Some(conn) = found else { return };
        if let Some(Unsettled {
            stage: Stage::Executed(result),
            ..
        }) = conn.unsettled.remove(&token)
        {
            self.tell(BrokerEvent::Settled { token, result });
        }
    }

    #[allow(clippy::too_many_arguments)] // A PUBLISH has that many fields.
    fn route(
        &mut self,
        now: Instant,
        origin: Origin,
        topic: Arc<str>,
        qos: QoS,
        retain: bool,
        payload: Bytes,
        rng: &mut SmallRng,
    ) {
        *self.counts.entry(payload.clone()).or_default() += 1;
        self.log.push(Routed {
            at: now,
            origin,
            topic: topic.clone(),
            qos,
            retain,
            payload: payload.clone(),
        });
        if retain && payload.is_empty() {
            self.retained.remove(&topic);
        } else if retain {
            self.retained.insert(topic.clone(), (payload.clone(), qos));
        }
        let publication = self.new_publication();
        let ids: Vec<ConnId> = self.conns.keys().copied().collect();
        for conn_id in ids {
            let overlap = self.config.overlap;
            let conn = self.conn(conn_id);
            if !conn.has_session {
                continue;
            }
            let matching: Vec<(FilterId, QoS)> = conn
                .session
                .filters
                .iter()
                .filter(|(filter, _)| topic::matches(filter, &topic))
                .map(|(_, entry)| *entry)
                .collect();
            if matching.is_empty() {
                continue;
            }
            let highest = matching
                .iter()
                .map(|(_, granted)| *granted)
                .max()
                .unwrap_or_default();
            let ids: Box<[FilterId]> = matching.iter().map(|(id, _)| *id).collect();
            let copies: Vec<(Box<[FilterId]>, QoS)> = match overlap {
                Overlap::OneCopyWithIds => vec![(ids, highest)],
                Overlap::OneCopyWithoutIds => vec![(Box::default(), highest)],
                Overlap::CopyPerFilter => matching
                    .iter()
                    .map(|(id, granted)| ([*id].into(), *granted))
                    .collect(),
            };
            for (filters, granted) in copies {
                let (topic, payload) = (topic.clone(), payload.clone());
                let qos = qos.min(granted);
                let copy = Delivery {
                    publication,
                    received: false,
                    filters,
                    topic,
                    qos,
                    retain: false,
                    payload,
                };
                self.enqueue(now, conn_id, copy, rng);
            }
        }
    }

    fn replay_retained(
        &mut self,
        now: Instant,
        conn_id: ConnId,
        filter: &str,
        id: FilterId,
        granted: QoS,
        rng: &mut SmallRng,
    ) {
        let with_ids = self.config.overlap != Overlap::OneCopyWithoutIds;
        let found: Vec<Delivery> = self
            .retained
            .iter()
            .filter(|(topic, _)| topic::matches(filter, topic))
            .map(|(topic, (payload, qos))| Delivery {
                publication: Publication(0),
                received: false,
                filters: if with_ids { [id].into() } else { Box::default() },
                topic: topic.clone(),
                qos: (*qos).min(granted),
                retain: true,
                payload: payload.clone(),
            })
            .collect();
        for mut delivery in found {
            delivery.publication = self.new_publication();
            self.enqueue(now, conn_id, delivery, rng);
        }
    }

    fn enqueue(&mut self, now: Instant, conn_id: ConnId, delivery: Delivery, rng: &mut SmallRng) {
        let conn = self.conn(conn_id);
        // MQTT 3.1.1 §3.1.2.4: QoS 0 need not be kept for a client that is away.
        if !conn.up && delivery.qos == QoS::AtMostOnce {
            return;
        }
        conn.session.waiting.push_back(delivery);
        self.schedule_deliveries(now, conn_id, rng);
    }

    fn schedule_deliveries(&mut self, now: Instant, conn_id: ConnId, rng: &mut SmallRng) {
        loop {
            let conn = self.conn(conn_id);
            if !conn.up || conn.deliveries_scheduled >= conn.session.waiting.len() {
                return;
            }
            conn.deliveries_scheduled += 1;
            let life = conn.life;
            let at = self.next_delivery(now, conn_id, rng);
            self.schedule(at, BrokerAction::Deliver(conn_id, life));
        }
    }

    fn deliver(&mut self, _now: Instant, conn_id: ConnId, _rng: &mut SmallRng) {
        let (receive_max, lowest) = (self.config.receive_max, self.config.lowest_packet_ids);
        let conn = self.conn(conn_id);
        conn.deliveries_scheduled -= 1;
        let Some(next) = conn.session.waiting.front() else {
            return;
        };
        if next.qos != QoS::AtMostOnce && conn.session.unacked.len() >= receive_max {
            // It stays in line; the next acknowledgement schedules it again.
            return;
        }
        let Some(delivery) = conn.session.waiting.pop_front() else {
            return;
        };
        let mut name = None;
        if delivery.qos != QoS::AtMostOnce {
            let last = if lowest { 0 } else { conn.session.last_packet_id };
            let after = |step: u16| (u32::from(last) + u32::from(step) - 1) % u32::from(u16::MAX) + 1;
            let ids = (1..=u16::MAX).map(|step| after(step) as u16);
            let unused = ids.into_iter().find(|id| !conn.session.unacked.contains_key(id));
            let Some(packet_id) = unused else { return };
            conn.session.last_packet_id = packet_id;
            conn.session.unacked.insert(packet_id, delivery.clone());
            match delivery.qos {
                QoS::ExactlyOnce => {
                    let arrived = Arrived {
                        delivery: delivery_id(conn.connection, QoS::ExactlyOnce, packet_id),
                        acknowledged: false,
                        here: true,
                        releasing: false,
                    };
                    name = Some(arrived.delivery);
                    conn.deliveries.insert(packet_id, arrived);
                }
                QoS::AtMostOnce | QoS::AtLeastOnce => {
                    name = Some(delivery_id(conn.connection, QoS::AtLeastOnce, packet_id));
                }
            }
        }
        self.tell_message(conn_id, name, delivery);
    }

    fn tell_message(&mut self, conn: ConnId, name: Option<DeliveryId>, delivery: Delivery) {
        let message = BrokerEvent::Message {
            conn,
            delivery: name,
            filters: delivery.filters,
            topic: delivery.topic,
            qos: delivery.qos,
            retain: delivery.retain,
            payload: delivery.payload,
        };
        self.events.push_back((message, Some(delivery.publication)));
    }

    /// The core took a delivery: the port writes PUBACK, or PUBREC if it may in this connection.
    fn acknowledged(&mut self, now: Instant, conn_id: ConnId, delivery: DeliveryId, rng: &mut SmallRng) {
        let conn = self.conn(conn_id);
        let packet_id = delivery.0 as u16;
        if delivery.0 & EXACTLY_ONCE == 0 {
            let current = delivery.0 >> 32 == u64::from(conn.connection);
            let is = |delivery: &Delivery| delivery.qos == QoS::AtLeastOnce;
            if current && conn.session.unacked.get(&packet_id).is_some_and(is) {
                conn.session.unacked.remove(&packet_id);
                self.schedule_deliveries(now, conn_id, rng);
            }
            return;
        }
        let arrived = conn.deliveries.get(&packet_id);
        if arrived.is_some_and(|arrived| arrived.delivery == delivery && arrived.here) {
            self.send_delivery(now, conn_id, packet_id, Packet::Pubrec, rng);
        }
    }

    /// A packet of a QoS 2 delivery arrives, at the broker or at the port.
    fn delivery(
        &mut self,
        now: Instant,
        conn_id: ConnId,
        packet_id: u16,
        packet: Packet,
        rng: &mut SmallRng,
    ) {
        let conn = self.conn(conn_id);
        match packet {
            // It is the same message again, in a resumed session.
            Packet::Publish => {
                let Some(delivery) = conn.session.unacked.get(&packet_id).cloned() else {
                    return;
                };
                let name = delivery_id(conn.connection, QoS::ExactlyOnce, packet_id);
                match conn.deliveries.get_mut(&packet_id) {
                    Some(arrived) => {
                        arrived.here = true;
                        if arrived.acknowledged {
                            self.send_delivery(now, conn_id, packet_id, Packet::Pubrec, rng);
                        }
                    }
                    None => {
                        let arrived = Arrived {
                            delivery: name,
                            acknowledged: false,
                            here: true,
                            releasing: false,
                        };
                        conn.deliveries.insert(packet_id, arrived);
                        self.tell_message(conn_id, Some(name), delivery);
                    }
                }
            }
            Packet::Pubrec => {
                if let Some(delivery) = conn.session.unacked.get_mut(&packet_id) {
                    delivery.received = true;
                    self.send_delivery(now, conn_id, packet_id, Packet::Pubrel, rng);
                }
            }
            Packet::Pubrel => {
                let holds = conn.holds_pubcomp;
                if let Some(arrived) = conn.deliveries.get_mut(&packet_id) {
                    let delivery = arrived.delivery;
                    let told = core::mem::replace(&mut arrived.releasing, true);
                    if !holds {
                        conn.deliveries.remove(&packet_id);
                    }
                    if !told {
                        let conn = conn_id;
                        self.tell(BrokerEvent::Released { conn, delivery });
                    }
                    if holds {
                        return;
                    }
                }
                self.send_delivery(now, conn_id, packet_id, Packet::Pubcomp, rng);
            }
            Packet::Pubcomp => {
                conn.session.unacked.remove(&packet_id);
                self.schedule_deliveries(now, conn_id, rng);
            }
        }
    }

    /// The port gives a publish a packet id and stores that, before it sends it.
    fn begin_exact(&mut self, conn_id: ConnId, mut exact: Exact) {
        let window = self.config.window;
        self.next_write += 1;
        let number = self.next_write;
        let conn = self.conn(conn_id);
        let after = |step: u16| (conn.last_packet_id % window + step - 1) % window + 1;
        let Some(packet_id) = (1..=window).map(after).find(|id| !conn.exact.contains_key(id)) else {
            return;
        };
        conn.last_packet_id = packet_id;
        exact.stage = ExactStage::Sending(number);
        let change = StoreChange::Put(exact.stored.key, exact.stored.at(packet_id, false));
        conn.exact.insert(packet_id, exact);
        self.writes.push_back(PortWrite {
            conn: conn_id,
            number,
            packet_id,
            change,
        });
    }

    /// A packet of a QoS 2 publish arrives, at the broker or at the port.
    fn exact(&mut self, now: Instant, conn_id: ConnId, packet_id: u16, packet: Packet, rng: &mut SmallRng) {
        self.next_write += 1;
        let number = self.next_write;
        let conn = self.conn(conn_id);
        let Some(exact) = conn.exact.get_mut(&packet_id) else {
            return;
        };
        match packet {
            Packet::Publish => {
                let (topic, retain, payload) = (exact.topic.clone(), exact.retain, exact.payload.clone());
                let token = exact.token;
                // What came under this packet id and was not released is the same message.
                let again = conn.session.received.contains(&packet_id);
                if let Some(refusal) = self.publish_refusal(now, &topic).filter(|_| !again) {
                    let conn = self.conn(conn_id);
                    conn.unsettled.remove(&token);
                    let refused = conn.exact.remove(&packet_id);
                    // Its packet id is its no more, before the gateway hears of it and keeps it.
                    if let Some(Exact { stored, .. }) = refused.filter(|_| refusal == Refusal::QUOTA_EXCEEDED)
                    {
                        self.writes.push_back(PortWrite {
                            conn: conn_id,
                            number,
                            packet_id,
                            change: StoreChange::Put(stored.key, stored.pending()),
                        });
                    }
                    return self.tell(BrokerEvent::Settled {
                        token,
                        result: Err(refusal),
                    });
                }
                if !again {
                    self.conn(conn_id).session.received.insert(packet_id);
                    let origin = Origin::Gateway(conn_id);
                    self.route(now, origin, topic, QoS::ExactlyOnce, retain, payload, rng);
                }
                self.send_exact(now, conn_id, packet_id, Packet::Pubrec, rng);
            }
            Packet::Pubrec => {
                exact.stage = ExactStage::Releasing(number);
                let change = StoreChange::Put(exact.stored.key, exact.stored.at(packet_id, true));
                self.writes.push_back(PortWrite {
                    conn: conn_id,
                    number,
                    packet_id,
                    change,
                });
            }
            Packet::Pubrel => {
                conn.session.received.remove(&packet_id);
                self.send_exact(now, conn_id, packet_id, Packet::Pubcomp, rng);
            }
            Packet::Pubcomp => {
                let token = exact.token;
                conn.exact.remove(&packet_id);
                conn.unsettled.remove(&token);
                self.tell(BrokerEvent::Settled {
                    token,
                    result: Ok(None),
                });
            }
        }
    }

    /// TCP keeps the order of what the port sends; answers take their time.
    fn send_exact(&mut self, now: Instant, conn_id: ConnId, id: u16, packet: Packet, rng: &mut SmallRng) {
        let at = match packet {
            Packet::Publish | Packet::Pubrel => self.next_execution(now, conn_id, rng),
            Packet::Pubrec | Packet::Pubcomp => now + between(rng, Duration::ZERO, self.config.settle_max),
        };
        let life = self.conn(conn_id).life;
        self.schedule(at, BrokerAction::Exact(conn_id, life, id, packet));
    }

    fn send_delivery(&mut self, now: Instant, conn_id: ConnId, id: u16, packet: Packet, rng: &mut SmallRng) {
        let at = match packet {
            Packet::Pubrec | Packet::Pubcomp => self.next_execution(now, conn_id, rng),
            Packet::Publish | Packet::Pubrel => self.next_delivery(now, conn_id, rng),
        };
        let life = self.conn(conn_id).life;
        self.schedule(at, BrokerAction::Delivery(conn_id, life, id, packet));
    }

    fn connect(&mut self, now: Instant, conn_id: ConnId, rng: &mut SmallRng) {
        if !self.reachable {
            return;
        }
        let (window, credit) = (self.config.window, self.config.credit);
        let lost_first = rng.random_bool(self.config.lost_before_up);
        // Ports collect outcomes from several places, so losses are told in any order.
        let shuffled: bool = rng.random();
        let conn = self.conn(conn_id);
        if !conn.wanted || conn.up {
            return;
        }
        conn.up = true;
        conn.life += 1;
        conn.credit = credit;
        conn.deliveries_scheduled = 0;
        let session_present = conn.has_session;
        conn.has_session = true;
        let life = conn.life;
        conn.connection = conn.connection.wrapping_add(1);
        for arrived in conn.deliveries.values_mut() {
            arrived.here = false;
        }
        let settled_before = core::mem::take(&mut conn.settled_before);
        let up = BrokerEvent::Up {
            conn: conn_id,
            session_present,
            window,
            forgets: false,
        };
        let credit = BrokerEvent::Credit {
            conn: conn_id,
            requests: credit,
        };
        if session_present {
            self.tell_settled(settled_before);
            self.tell(up);
            self.tell(credit);
            self.resume(now, conn_id, life, rng);
            return;
        }
        conn.session = Session::default();
        conn.inbox.clear();
        // Their packet ids are theirs no more, before the gateway hears of it.
        let reset: Vec<(u16, StoreChange)> = core::mem::take(&mut conn.exact)
            .into_iter()
            .map(|(id, Exact { stored, .. })| (id, StoreChange::Put(stored.key, stored.pending())))
            .collect();
        conn.deliveries.clear();
        let mut lost: Vec<(u64, Token)> = conn
            .unsettled
            .iter()
            .map(|(token, unsettled)| (unsettled.order, *token))
            .collect();
        lost.sort_unstable();
        if shuffled {
            lost.shuffle(rng);
        }
        conn.unsettled.clear();
        let mut events: Vec<BrokerEvent> = lost
            .into_iter()
            .map(|(_, token)| BrokerEvent::Lost { token })
            .collect();
        let up_at = if lost_first { events.len() } else { 0 };
        events.insert(up_at, up);
        events.push(credit);
        for (packet_id, change) in reset {
            self.next_write += 1;
            self.writes.push_back(PortWrite {
                conn: conn_id,
                number: self.next_write,
                packet_id,
                change,
            });
        }
        self.tell_settled(settled_before);
        events.into_iter().for_each(|event| self.tell(event));
    }

    fn tell_settled(&mut self, tokens: Vec<Token>) {
        for token in tokens {
            self.tell(BrokerEvent::Settled {
                token,
                result: Ok(None),
            });
        }
    }

    /// The session goes on: what was not settled is sent again by the port, what was not acknowledged by the broker.
    fn resume(&mut self, now: Instant, conn_id: ConnId, life: Life, rng: &mut SmallRng) {
        let settle_max = self.config.settle_max;
        let conn = self.conn(conn_id);
        conn.inbox.clear();
        let begun: BTreeSet<Token> = conn.exact.values().map(|exact| exact.token).collect();
        let exact: Vec<(u16, ExactStage)> = conn.exact.iter().map(|(id, e)| (*id, e.stage)).collect();
        let unsettled = conn.unsettled.iter().filter(|(token, _)| !begun.contains(token));
        let mut again: Vec<(u64, Token)> = unsettled.map(|(t, u)| (u.order, *t)).collect();
        again.sort_unstable();
        let mut settle = Vec::new();
        let mut executions = 0;
        for (_, token) in again {
            let Some(unsettled) = conn.unsettled.get_mut(&token) else {
                continue;
            };
            let exactly_once = matches!(
                unsettled.request,
                BrokerRequest::Publish {
                    qos: QoS::ExactlyOnce,
                    ..
                }
            );
            if exactly_once && unsettled.stage != Stage::Waiting {
                // The broker knows its packet id and does not publish it again.
                settle.push((now + between(rng, Duration::ZERO, settle_max), token));
            } else {
                unsettled.stage = Stage::Waiting;
                conn.inbox.push_back(Accepted {
                    request: unsettled.request.clone(),
                    paid: false,
                });
                executions += 1;
            }
        }
        let redelivered = core::mem::take(&mut conn.session.unacked);
        let mut first = Vec::new();
        let mut exchanges = Vec::new();
        for (packet_id, mut delivery) in redelivered {
            match delivery.qos {
                // The broker sends it again, or that it is released; the port knows it by its packet id.
                QoS::ExactlyOnce => {
                    let packet = match delivery.received {
                        true => Packet::Pubrel,
                        false => Packet::Publish,
                    };
                    exchanges.push((packet_id, packet));
                    self.conn(conn_id).session.unacked.insert(packet_id, delivery);
                }
                QoS::AtMostOnce | QoS::AtLeastOnce => {
                    delivery.publication = self.new_publication();
                    first.push(delivery);
                }
            }
        }
        let waiting = &mut self.conn(conn_id).session.waiting;
        first
            .into_iter()
            .rev()
            .for_each(|delivery| waiting.push_front(delivery));
        self.scheduled.extend(
            settle
                .into_iter()
                .map(|(at, token)| (at, BrokerAction::Settle(token, life))),
        );
        for (packet_id, stage) in exact {
            match stage {
                ExactStage::Sent => self.send_exact(now, conn_id, packet_id, Packet::Publish, rng),
                ExactStage::Released => self.send_exact(now, conn_id, packet_id, Packet::Pubrel, rng),
                // It leaves when that is durable.
                ExactStage::Sending(_) | ExactStage::Releasing(_) => {}
            }
        }
        for _ in 0..executions {
            self.schedule_execution(now, conn_id, rng);
        }
        for (packet_id, packet) in exchanges {
            self.send_delivery(now, conn_id, packet_id, packet, rng);
        }
        self.schedule_deliveries(now, conn_id, rng);
    }

    fn drop_conn(&mut self, conn_id: ConnId, keep_session: bool) {
        let conn = self.conn(conn_id);
        if !keep_session {
            conn.has_session = false;
        }
        if !conn.up {
            return;
        }
        conn.up = false;
        conn.life += 1;
        conn.credit = 0;
        // What the port took and did not write yet: without a token nobody waits for it.
        conn.session
            .waiting
            .retain(|delivery| delivery.qos != QoS::AtMostOnce);
        self.tell(BrokerEvent::Down {
            conn: conn_id,
            reason: "simulated".into(),
        });
    }
}

impl Conn {
    /// A new process opens the connection: what it was told of an earlier one goes on.
    fn open(&mut self, conn: ConnId, options: ConnectOptions) {
        self.holds_pubcomp = options.holds_pubcomp;
        for restored in options.restored {
            self.accepted += 1;
            let entry = Unsettled {
                request: as_request(conn, &restored),
                order: self.accepted,
                stage: Stage::Waiting,
            };
            self.unsettled.insert(restored.token, entry);
            let exact = Exact {
                token: restored.token,
                stored: restored.stored,
                topic: restored.topic,
                retain: restored.retain,
                payload: restored.payload,
                stage: match restored.released {
                    true => ExactStage::Released,
                    false => ExactStage::Sent,
                },
            };
            // A packet id that was given again proves that the publish it was for is done.
            if let Some(earlier) = self.exact.insert(restored.packet_id, exact) {
                self.unsettled.remove(&earlier.token);
                self.settled_before.push(earlier.token);
            }
        }
        for delivery in options.received {
            let arrived = Arrived {
                delivery,
                acknowledged: true,
                here: false,
                releasing: false,
            };
            self.deliveries.insert(delivery.0 as u16, arrived);
        }
    }
}

/// A publish of an earlier life, as it was asked for then.
pub(crate) fn as_request(conn: ConnId, restored: &RestoredPublish) -> BrokerRequest {
    BrokerRequest::Publish {
        conn,
        token: Some(restored.token),
        topic: restored.topic.clone(),
        qos: QoS::ExactlyOnce,
        retain: restored.retain,
        payload: restored.payload.clone(),
        stored: Some(restored.stored.clone()),
    }
}

/// How a port names a delivery.
fn delivery_id(connection: u32, qos: QoS, packet_id: u16) -> DeliveryId {
    let exactly_once = if qos == QoS::ExactlyOnce { EXACTLY_ONCE } else { 0 };
    DeliveryId(u64::from(connection) << 32 | exactly_once | u64::from(packet_id))
}

/// Both with QoS 1, and the one over an earlier connection than the other.
pub(crate) fn came_before(one: DeliveryId, other: DeliveryId) -> bool {
    (one.0 | other.0) & EXACTLY_ONCE == 0 && one.0 >> 32 < other.0 >> 32
}

fn conn_of(request: &BrokerRequest) -> ConnId {
    match request {
        BrokerRequest::Open { conn, .. }
        | BrokerRequest::Close { conn }
        | BrokerRequest::Publish { conn, .. }
        | BrokerRequest::Subscribe { conn, .. }
        | BrokerRequest::Unsubscribe { conn, .. }
        | BrokerRequest::Ack { conn, .. }
        | BrokerRequest::Complete { conn, .. } => *conn,
    }
}

/// The token of a request whose outcome is reported.
pub(crate) fn token_of(request: &BrokerRequest) -> Option<Token> {
    match request {
        BrokerRequest::Publish { token, .. } => *token,
        BrokerRequest::Subscribe { token, .. } | BrokerRequest::Unsubscribe { token, .. } => Some(*token),
        BrokerRequest::Open { .. }
        | BrokerRequest::Close { .. }
        | BrokerRequest::Ack { .. }
        | BrokerRequest::Complete { .. } => None,
    }
}
