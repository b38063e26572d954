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
use gateway_core::io::{BrokerEvent, BrokerRequest, ConnId, DeliveryId, FilterId, Refusal, Token};
use gateway_core::time::Instant;
use rand::{RngExt, rngs::SmallRng, seq::SliceRandom};
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
            retained_first: 0.5,
            lost_before_up: 0.5,
        }
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
    reachable: bool,
    conns: BTreeMap<ConnId, Conn>,
    retained: BTreeMap<Arc<str>, (Bytes, QoS)>,
    scheduled: Vec<(Instant, BrokerAction)>,
    events: VecDeque<(BrokerEvent, Option<Publication>)>,
    next_delivery: u64,
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
    /// Handed over and not acknowledged.
    unacked: BTreeMap<DeliveryId, Delivery>,
}

#[derive(Debug, Clone)]
struct Delivery {
    id: Option<DeliveryId>,
    publication: Publication,
    /// The core sent its Ack, which the broker may not have seen.
    taken: bool,
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
            conns: BTreeMap::new(),
            retained: BTreeMap::new(),
            scheduled: Vec::new(),
            events: VecDeque::new(),
            next_delivery: 1,
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
            // The connection it was meant for is gone.
            BrokerAction::Execute(..) | BrokerAction::Deliver(..) => {}
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
        for conn in self.conns.values_mut() {
            conn.wanted = false;
            conn.up = false;
            conn.life += 1;
            conn.credit = 0;
            conn.inbox.clear();
            conn.unsettled.clear();
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
        self.log.iter().filter(|routed| routed.payload == payload).count()
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
            && let Some(unacked) = conn.session.unacked.get_mut(delivery)
        {
            unacked.taken = true;
        }
        conn.inbox.push_back(Accepted { request, paid: true });
        self.schedule_execution(now, conn_id, rng);
        Ok(())
    }

    /// TCP keeps the order of requests, so executions do too.
    fn schedule_execution(&mut self, now: Instant, conn_id: ConnId, rng: &mut SmallRng) {
        let delay = between(rng, self.config.latency_min, self.config.latency_max);
        let conn = self.conn(conn_id);
        conn.last_execution = conn.last_execution.max(now + delay);
        let (at, life) = (conn.last_execution, conn.life);
        self.schedule(at, BrokerAction::Execute(conn_id, life));
    }

    fn execute(&mut self, now: Instant, conn_id: ConnId, rng: &mut SmallRng) {
        let Some(Accepted { request, paid }) = self.conn(conn_id).inbox.pop_front() else {
            return;
        };
        match request {
            BrokerRequest::Publish {
                token,
                topic,
                qos,
                retain,
                payload,
                ..
            } => {
                let refusal = self.refusal(&topic);
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
            BrokerRequest::Ack { delivery, .. } => {
                self.conn(conn_id).session.unacked.remove(&delivery);
                self.schedule_deliveries(now, conn_id, rng);
            }
            BrokerRequest::Open { .. } | BrokerRequest::Close { .. } => {}
        }
        if paid {
            self.conn(conn_id).credit += 1;
            self.tell(BrokerEvent::Credit {
                conn: conn_id,
                requests: 1,
            });
        }
    }

    fn refusal(&self, name: &str) -> Option<Refusal> {
        self.config
            .refuse
            .iter()
            .find(|(prefix, _)| name.starts_with(prefix.as_str()))
            .map(|(_, r)| *r)
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
                    id: None,
                    publication,
                    taken: false,
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
                id: None,
                publication: Publication(0),
                taken: false,
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
        let (min, max) = (self.config.latency_min, self.config.latency_max);
        loop {
            let delay = between(rng, min, max);
            let conn = self.conn(conn_id);
            if !conn.up || conn.deliveries_scheduled >= conn.session.waiting.len() {
                return;
            }
            conn.deliveries_scheduled += 1;
            conn.last_delivery = conn.last_delivery.max(now + delay);
            let (at, life) = (conn.last_delivery, conn.life);
            self.schedule(at, BrokerAction::Deliver(conn_id, life));
        }
    }

    fn deliver(&mut self, _now: Instant, conn_id: ConnId, _rng: &mut SmallRng) {
        let receive_max = self.config.receive_max;
        let id = DeliveryId(self.next_delivery);
        let conn = self.conn(conn_id);
        conn.deliveries_scheduled -= 1;
        let Some(next) = conn.session.waiting.front() else {
            return;
        };
        if next.qos != QoS::AtMostOnce && conn.session.unacked.len() >= receive_max {
            // It stays in line; the next acknowledgement schedules it again.
            return;
        }
        let Some(mut delivery) = conn.session.waiting.pop_front() else {
            return;
        };
        if delivery.qos != QoS::AtMostOnce {
            delivery.id = Some(id);
            conn.session.unacked.insert(id, delivery.clone());
        }
        self.next_delivery += 1;
        let message = BrokerEvent::Message {
            conn: conn_id,
            delivery: delivery.id,
            filters: delivery.filters,
            topic: delivery.topic,
            qos: delivery.qos,
            retain: delivery.retain,
            payload: delivery.payload,
        };
        self.events.push_back((message, Some(delivery.publication)));
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
            self.tell(up);
            self.tell(credit);
            self.resume(now, conn_id, life, rng);
            return;
        }
        conn.session = Session::default();
        conn.inbox.clear();
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
        events.into_iter().for_each(|event| self.tell(event));
    }

    /// The session goes on: what was not settled is sent again by the port, what was not acknowledged by the broker.
    fn resume(&mut self, now: Instant, conn_id: ConnId, life: Life, rng: &mut SmallRng) {
        let settle_max = self.config.settle_max;
        let conn = self.conn(conn_id);
        conn.inbox.clear();
        let mut again: Vec<(u64, Token)> = conn.unsettled.iter().map(|(t, u)| (u.order, *t)).collect();
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
        for (id, mut delivery) in redelivered {
            match delivery.qos {
                // The broker sends it again; the port knows it by its packet id and still waits for the Ack, or has it
                // and acknowledges by itself.
                QoS::ExactlyOnce => {
                    if !delivery.taken {
                        self.conn(conn_id).session.unacked.insert(id, delivery);
                    }
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
        for _ in 0..executions {
            self.schedule_execution(now, conn_id, rng);
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

fn conn_of(request: &BrokerRequest) -> ConnId {
    match request {
        BrokerRequest::Open { conn, .. }
        | BrokerRequest::Close { conn }
        | BrokerRequest::Publish { conn, .. }
        | BrokerRequest::Subscribe { conn, .. }
        | BrokerRequest::Unsubscribe { conn, .. }
        | BrokerRequest::Ack { conn, .. } => *conn,
    }
}

/// The token of a request whose outcome is reported.
pub(crate) fn token_of(request: &BrokerRequest) -> Option<Token> {
    match request {
        BrokerRequest::Publish { token, .. } => *token,
        BrokerRequest::Subscribe { token, .. } | BrokerRequest::Unsubscribe { token, .. } => Some(*token),
        BrokerRequest::Open { .. } | BrokerRequest::Close { .. } | BrokerRequest::Ack { .. } => None,
    }
}
