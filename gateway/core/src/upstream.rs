//! The policy file: how clients share the connections to the broker.
//!
//! Aggregating (reading A83): all clients share a few connections; a client always publishes on the same one, so its order holds,
//! and all subscriptions live on the first, so nothing arrives twice. Every request waits here until its connection
//! has credit, and every QoS 1 or 2 publish stays here until the broker settled it, so that it can be sent again.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use slab::Slab;
use sn_codec::{MsgId, QoS};

use crate::clients::ClientIx;
use crate::config::{Limits, UpstreamConfig, WhenDown};
use crate::io::{BrokerRequest, ConnId, ConnectOptions, DeliveryId, FilterId, Token};
use crate::metrics::Metrics;
use crate::subscriptions::FilterKey;

/// The connection that carries all subscriptions.
pub(crate) const SUBSCRIPTIONS: ConnId = ConnId(0);

/// All connections to the broker and what waits for them.
#[derive(Debug)]
pub(crate) struct Upstream {
    connections: Vec<Connection>,
    requests: Slab<Request>,
    /// Counts up with every token, so that a late answer does not find another request.
    generation: u32,
    next_seq: u64,
    waiting_messages: usize,
    waiting_bytes: usize,
    queue_messages: usize,
    queue_bytes: usize,
    when_down: WhenDown,
    /// Subscriptions under way since the broker came back: what waited is published after them, so that it reaches
    /// the clients that are subscribed to it.
    restoring: usize,
    /// Opens and closes, which need no credit.
    pub(crate) control: VecDeque<BrokerRequest>,
}

#[derive(Debug)]
struct Connection {
    up: bool,
    credit: u32,
    window: u32,
    /// QoS 1 and 2 publishes sent and unsettled.
    in_flight: u32,
    /// Publishes not sent yet, in order of `seq`.
    waiting: VecDeque<usize>,
    /// Subscriptions and unsubscriptions not sent yet.
    subscriptions: VecDeque<usize>,
    acks: VecDeque<DeliveryId>,
    /// Publishes of a lost session that the port has not reported yet: nothing overtakes them.
    unreported: u32,
}

#[derive(Debug)]
struct Request {
    generation: u32,
    /// A subscription that must stand again before anything is published.
    restores: bool,
    kind: RequestKind,
}

#[derive(Debug)]
enum RequestKind {
    Publish {
        conn: ConnId,
        seq: u64,
        sent: bool,
        origin: Origin,
        message: Uplink,
    },
    Subscribe {
        filter: FilterKey,
        name: Arc<str>,
        id: FilterId,
        qos: QoS,
    },
    Unsubscribe {
        filter: FilterKey,
        name: Arc<str>,
    },
}

/// A message for the broker.
#[derive(Debug, Clone)]
pub(crate) struct Uplink {
    pub(crate) topic: Arc<str>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) payload: Bytes,
}

impl Uplink {
    fn size(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

/// Who waits for the outcome of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A client, by place and serial number of its record.
    Client {
        client: ClientIx,
        serial: u32,
        msg_id: MsgId,
        digest: u32,
    },
    /// Nobody: a will, or QoS −1.
    Gateway,
}

/// What a settled token stood for.
#[derive(Debug)]
pub(crate) enum Settled {
    Publish { origin: Origin, topic: Arc<str> },
    Subscribe { filter: FilterKey },
    Unsubscribe { filter: FilterKey },
}

/// There is no place for a publish: congestion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl Upstream {
    pub(crate) fn new(config: &UpstreamConfig, limits: &Limits) -> Self {
        let count = config.connections.clamp(1, 64);
        let name = |conn: u32| match conn {
            0 => config.client_id.clone(),
            conn => format!("{}-{conn}", config.client_id),
        };
        Upstream {
            connections: (0..count).map(|_| Connection::new()).collect(),
            requests: Slab::new(),
            generation: 0,
            next_seq: 0,
            waiting_messages: 0,
            waiting_bytes: 0,
            queue_messages: limits.queue_messages,
            queue_bytes: limits.queue_bytes,
            when_down: config.when_down,
            restoring: 0,
            control: (0..count)
                .map(|conn| BrokerRequest::Open {
                    conn: ConnId(conn),
                    options: ConnectOptions {
                        client_id: name(conn).into(),
                        clean_start: true,
                        will: None,
                    },
                })
                .collect(),
        }
    }

    /// Which connection a client publishes on.
    pub(crate) fn connection_for(&self, client_hash: u32) -> ConnId {
        ConnId(client_hash % self.connections.len() as u32)
    }

    pub(crate) fn is_up(&self, conn: ConnId) -> bool {
        self.connections
            .get(conn.0 as usize)
            .is_some_and(|connection| connection.up)
    }

    pub(crate) fn any_up(&self) -> bool {
        self.connections.iter().any(|connection| connection.up)
    }

    /// Takes a publish of a client, or says that there is no place for it.
    pub(crate) fn publish(&mut self, conn: ConnId, origin: Origin, message: Uplink) -> Result<(), Full> {
        let up = self.is_up(conn);
        let refused = match message.qos {
            QoS::AtMostOnce => !up,
            QoS::AtLeastOnce | QoS::ExactlyOnce => {
                !up && self.when_down == WhenDown::Refuse && origin != Origin::Gateway
            }
        };
        let full = self.waiting_messages >= self.queue_messages
            || self.waiting_bytes + message.size() > self.queue_bytes;
        if refused || full {
            return Err(Full);
        }
        self.waiting_messages += 1;
        self.waiting_bytes += message.size();
        let seq = self.next_seq;
        self.next_seq += 1;
        let key = self.insert(RequestKind::Publish {
            conn,
            seq,
            sent: false,
            origin,
            message,
        });
        self.connections[conn.0 as usize].waiting.push_back(key);
        Ok(())
    }

    /// Asks for a subscription at the broker.
    pub(crate) fn subscribe(&mut self, filter: FilterKey, name: Arc<str>, id: FilterId, qos: QoS) {
        let key = self.insert(RequestKind::Subscribe {
            filter,
            name,
            id,
            qos,
        });
        self.connections[SUBSCRIPTIONS.0 as usize]
            .subscriptions
            .push_back(key);
    }

    /// Asks for the end of a subscription.
    pub(crate) fn unsubscribe(&mut self, filter: FilterKey, name: Arc<str>) {
        let key = self.insert(RequestKind::Unsubscribe { filter, name });
        self.connections[SUBSCRIPTIONS.0 as usize]
            .subscriptions
            .push_back(key);
    }

    /// A delivery was taken.
    pub(crate) fn acknowledge(&mut self, conn: ConnId, delivery: DeliveryId) {
        if let Some(connection) = self.connections.get_mut(conn.0 as usize) {
            connection.acks.push_back(delivery);
        }
    }

    /// The connection works; without its old session nothing new is sent before the old is reported lost.
    pub(crate) fn on_up(&mut self, conn: ConnId, session_present: bool, window: u16) {
        let Some(connection) = self.connections.get_mut(conn.0 as usize) else {
            return;
        };
        connection.up = true;
        connection.credit = 0;
        connection.window = u32::from(window);
        if !session_present {
            connection.unreported = connection.in_flight;
        }
    }

    pub(crate) fn on_down(&mut self, conn: ConnId) {
        if let Some(connection) = self.connections.get_mut(conn.0 as usize) {
            connection.up = false;
            connection.credit = 0;
            connection.unreported = 0;
            // Acknowledgements stay: a QoS 2 message does not come again over a kept session, so its port waits for
            // ours. Those of QoS 1 name a delivery of the last connection, which ports pass over.
        }
        if conn == SUBSCRIPTIONS {
            self.restoring = 0;
            self.requests
                .iter_mut()
                .for_each(|(_, request)| request.restores = false);
        }
    }

    pub(crate) fn on_credit(&mut self, conn: ConnId, requests: u32) {
        if let Some(connection) = self.connections.get_mut(conn.0 as usize) {
            connection.credit = connection.credit.saturating_add(requests);
        }
    }

    /// The broker answered under `token`; `None` if nobody waits for that any more.
    pub(crate) fn settle(&mut self, token: Token) -> Option<Settled> {
        let key = self.key_of(token)?;
        let request = self.requests.remove(key);
        self.restoring -= usize::from(request.restores);
        Some(match request.kind {
            RequestKind::Publish {
                conn,
                sent,
                origin,
                message,
                ..
            } => {
                if sent {
                    self.connections[conn.0 as usize].answered();
                } else {
                    // Reported lost and settled all the same: it must not go out again.
                    self.connections[conn.0 as usize]
                        .waiting
                        .retain(|waiting| *waiting != key);
                    self.forget_waiting(&message);
                }
                Settled::Publish {
                    origin,
                    topic: message.topic,
                }
            }
            RequestKind::Subscribe { filter, .. } => Settled::Subscribe { filter },
            RequestKind::Unsubscribe { filter, .. } => Settled::Unsubscribe { filter },
        })
    }

    /// The session that carried this request is gone: a publish goes out again in its old place, under its old
    /// token; the rest is for the filter table to ask again.
    pub(crate) fn lost(&mut self, token: Token) -> Option<Settled> {
        let key = self.key_of(token)?;
        let RequestKind::Publish {
            conn,
            seq,
            sent,
            message,
            ..
        } = &mut self.requests[key].kind
        else {
            return self.settle(token);
        };
        if !*sent {
            return None;
        }
        *sent = false;
        let (conn, seq, size) = (conn.0 as usize, *seq, message.size());
        self.waiting_messages += 1;
        self.waiting_bytes += size;
        let requests = &self.requests;
        let seq_of = |key: &usize| match &requests[*key].kind {
            RequestKind::Publish { seq, .. } => *seq,
            RequestKind::Subscribe { .. } | RequestKind::Unsubscribe { .. } => 0,
        };
        let connection = &mut self.connections[conn];
        connection.answered();
        let at = connection
            .waiting
            .partition_point(|waiting| seq_of(waiting) < seq);
        connection.waiting.insert(at, key);
        None
    }

    /// The subscriptions asked for just now go before everything that is to be published.
    pub(crate) fn restore_first(&mut self) {
        for (_, request) in &mut self.requests {
            let subscribes = matches!(request.kind, RequestKind::Subscribe { .. });
            self.restoring += usize::from(subscribes && !request.restores);
            request.restores |= subscribes;
        }
    }

    /// Drops requests for subscriptions, sent or not: the filter table will ask anew.
    pub(crate) fn forget_subscriptions(&mut self) {
        self.connections[SUBSCRIPTIONS.0 as usize].subscriptions.clear();
        self.restoring = 0;
        self.requests
            .retain(|_, request| matches!(request.kind, RequestKind::Publish { .. }));
    }

    /// The next request that its connection has room for.
    pub(crate) fn poll(&mut self, metrics: &mut Metrics) -> Option<BrokerRequest> {
        if let Some(request) = self.control.pop_front() {
            return Some(request);
        }
        for at in 0..self.connections.len() {
            let connection = &mut self.connections[at];
            if !connection.up || connection.credit == 0 {
                continue;
            }
            let conn = ConnId(at as u32);
            if let Some(delivery) = connection.acks.pop_front() {
                connection.credit -= 1;
                return Some(BrokerRequest::Ack { conn, delivery });
            }
            if let Some(key) = connection.subscriptions.pop_front() {
                connection.credit -= 1;
                return self.subscription_request(conn, key);
            }
            if connection.unreported == 0
                && self.restoring == 0
                && let Some(request) = self.next_publish(at, metrics)
            {
                return Some(request);
            }
        }
        None
    }

    fn next_publish(&mut self, at: usize, metrics: &mut Metrics) -> Option<BrokerRequest> {
        let connection = &mut self.connections[at];
        let key = *connection.waiting.front()?;
        let generation = self.requests[key].generation;
        let RequestKind::Publish {
            conn, sent, message, ..
        } = &mut self.requests[key].kind
        else {
            connection.waiting.pop_front();
            return None;
        };
        let tracked = message.qos > QoS::AtMostOnce;
        if tracked && connection.in_flight >= connection.window {
            return None;
        }
        connection.waiting.pop_front();
        connection.credit -= 1;
        connection.in_flight += u32::from(tracked);
        *sent = true;
        match message.qos {
            QoS::AtMostOnce => metrics.publish_up_qos0_total += 1,
            QoS::AtLeastOnce => metrics.publish_up_qos1_total += 1,
            QoS::ExactlyOnce => metrics.publish_up_qos2_total += 1,
        }
        self.waiting_messages -= 1;
        self.waiting_bytes -= message.size();
        let (conn, message) = (*conn, message.clone());
        if !tracked {
            self.requests.remove(key);
        }
        Some(BrokerRequest::Publish {
            conn,
            token: tracked.then(|| token(generation, key)),
            topic: message.topic,
            qos: message.qos,
            retain: message.retain,
            payload: message.payload,
        })
    }

    fn subscription_request(&self, conn: ConnId, key: usize) -> Option<BrokerRequest> {
        let token = self.token(key);
        match &self.requests.get(key)?.kind {
            RequestKind::Subscribe { name, id, qos, .. } => Some(BrokerRequest::Subscribe {
                conn,
                token,
                filter: name.clone(),
                id: *id,
                qos: *qos,
            }),
            RequestKind::Unsubscribe { name, .. } => Some(BrokerRequest::Unsubscribe {
                conn,
                token,
                filter: name.clone(),
            }),
            RequestKind::Publish { .. } => None,
        }
    }

    /// Writes the gauges.
    pub(crate) fn measure(&self, metrics: &mut Metrics) {
        metrics.queue_messages = self.waiting_messages as u64;
        metrics.queue_bytes = self.waiting_bytes as u64;
        metrics.in_flight = self
            .connections
            .iter()
            .map(|connection| u64::from(connection.in_flight))
            .sum();
        metrics.broker_up = self.connections.iter().filter(|connection| connection.up).count() as u64;
    }

    /// Closes every connection in good order.
    pub(crate) fn close(&mut self) {
        let conns = 0..self.connections.len() as u32;
        self.control
            .extend(conns.map(|conn| BrokerRequest::Close { conn: ConnId(conn) }));
    }

    fn insert(&mut self, kind: RequestKind) -> usize {
        self.generation = self.generation.wrapping_add(1);
        self.requests.insert(Request {
            generation: self.generation,
            restores: false,
            kind,
        })
    }

    fn token(&self, key: usize) -> Token {
        token(
            self.requests.get(key).map_or(0, |request| request.generation),
            key,
        )
    }

    fn key_of(&self, token: Token) -> Option<usize> {
        let key = (token.0 & 0xFFFF_FFFF) as usize;
        let request = self.requests.get(key)?;
        (u64::from(request.generation) == token.0 >> 32).then_some(key)
    }

    fn forget_waiting(&mut self, message: &Uplink) {
        self.waiting_messages -= 1;
        self.waiting_bytes -= message.size();
    }
}

impl Connection {
    fn new() -> Self {
        Connection {
            up: false,
            credit: 0,
            window: 0,
            in_flight: 0,
            waiting: VecDeque::new(),
            subscriptions: VecDeque::new(),
            acks: VecDeque::new(),
            unreported: 0,
        }
    }

    /// A publish in flight was settled or reported lost.
    fn answered(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.unreported = self.unreported.saturating_sub(1);
    }
}

fn token(generation: u32, key: usize) -> Token {
    Token(u64::from(generation) << 32 | key as u64)
}
