//! The gateway as a client in the same process.
//!
//! Each connection that the core opens is one client of the router: same rules, a larger queue, nothing serialised.
//! What the [crate] promises of a connection holds here too. The connection lasts as long as the process, so nothing is
//! lost but what is unsettled when the router ends it.
//!
//! Neither side waits for the other: a request is worked off when it comes and its credit given back with the next
//! batch, whatever is withheld; so acknowledgements always get through. Events are bounded by credit in both directions:
//! as many messages as [`CREDIT`], and one outcome for each request.

use gateway_core::io::{
    BrokerEvent, BrokerRequest, ConnId, ConnectOptions, DeliveryId, FilterId, Refusal, StoredUplink, Token,
};
use gateway_core::time::Instant;
use rustc_hash::FxHashMap;
use slab::Slab;
use sn_codec::QoS;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::exact::Exact;
use super::filters::is_topic_name;
use super::packet::{
    ClientKey, Connect, Delivery, Message, Received, Reply, RetainHandling, Subscription, Will, reason,
};
use super::receipt::Receipt;
use super::router::Router;
use crate::port::CREDIT;

/// QoS 1 and 2 publishes that the core may leave unsettled.
const WINDOW: u16 = 1024;

/// Credit is given back with other events, and alone only when this much of it is owed: a batch of its own for each
/// batch of requests would wake the core for nothing.
const CREDIT_OWED_AT_MOST: u32 = CREDIT / 2;

/// Set in the [`DeliveryId`] of a QoS 2 message, above the packet id and below the attachment's number.
const EXACTLY_ONCE: u64 = 1 << 16;

/// The gateway's attachments to the router: requests in, events out.
///
/// After each batch of inputs, give every output of the router to [`Local::take`] first; once there are none left and
/// the gateway has room for a batch, hand it what [`Local::poll_events`] returns. Both may bring new outputs.
#[derive(Debug)]
pub(crate) struct Local {
    connections: FxHashMap<ConnId, Connection>,
    by_key: FxHashMap<ClientKey, ConnId>,
    /// What the next batch for the gateway holds.
    events: Vec<BrokerEvent>,
    /// Connections to which credit is owed, of either kind.
    owing: Vec<ConnId>,
    /// One of them is owed enough for a batch of its own.
    urgent: bool,
    /// Counts attachments, for delivery ids.
    attachments: u32,
    /// It closed them all, because it stops or begins anew.
    away: bool,
    /// The gateway has a store: it keeps a publish there until it is told that everybody has it.
    stores: bool,
    /// For receipts.
    delivered: UnboundedSender<Token>,
    receipts: UnboundedReceiver<Token>,
}

#[derive(Debug)]
struct Connection {
    options: ConnectOptions,
    /// `None` when the router ended it for good: nothing but Close follows.
    key: Option<ClientKey>,
    attachment: u32,
    /// It is among [`Local::owing`].
    owing: bool,
    /// Requests taken for which no credit was given back.
    requests: u32,
    /// Messages among the events for which the router got no credit back.
    messages: u32,
    /// Requests that wait for the router's answer, by packet id less one.
    unsettled: Slab<Unsettled>,
}

#[derive(Debug)]
struct Unsettled {
    token: Option<Token>,
    /// So that nobody's word that he has it goes before the word that it was settled.
    receipt: Option<Receipt>,
}

impl Local {
    /// `stores`: each publish with QoS 1 or 2 that was settled is followed by [`BrokerEvent::Delivered`] when everybody
    /// it is for has it.
    pub(crate) fn new(stores: bool) -> Self {
        let (delivered, receipts) = unbounded_channel();
        Local {
            connections: FxHashMap::default(),
            by_key: FxHashMap::default(),
            events: Vec::new(),
            owing: Vec::new(),
            urgent: false,
            attachments: 0,
            away: false,
            stores,
            delivered,
            receipts,
        }
    }

    /// Requests of the gateway, in order.
    pub(crate) fn requests(&mut self, now: Instant, router: &mut Router, requests: Vec<BrokerRequest>) {
        for request in requests {
            match request {
                BrokerRequest::Open { conn, options } => self.open(now, router, conn, options),
                BrokerRequest::Close { conn } => self.close_one(now, router, conn),
                BrokerRequest::Publish {
                    conn,
                    token,
                    topic,
                    qos,
                    retain,
                    payload,
                    stored,
                } => {
                    let message = Message {
                        topic,
                        payload,
                        qos,
                        retain,
                        expiry: None,
                        properties: None,
                        receipt: None,
                    };
                    self.publish(now, router, conn, token, stored, message);
                }
                BrokerRequest::Subscribe {
                    conn,
                    token,
                    filter,
                    id,
                    qos,
                } => {
                    let subscription = Subscription {
                        filter: filter.as_ref().into(),
                        qos,
                        no_local: false,
                        retain_as_published: false,
                        retain_handling: RetainHandling::Send,
                    };
                    self.request(now, router, conn, token.into(), |packet_id| Received::Subscribe {
                        packet_id,
                        id: Some(id.0),
                        filters: vec![subscription],
                    });
                }
                BrokerRequest::Unsubscribe { conn, token, filter } => {
                    self.request(now, router, conn, token.into(), |packet_id| {
                        Received::Unsubscribe {
                            packet_id,
                            filters: vec![filter.as_ref().into()],
                        }
                    });
                }
                BrokerRequest::Ack { conn, delivery } => self.acknowledge(now, router, conn, delivery),
                // What is released here is forgotten with this process.
                BrokerRequest::Complete { .. } => {}
            }
        }
    }

    /// Takes an output of the router that is for the gateway, and gives back any other.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        router: &mut Router,
        client: ClientKey,
        reply: Reply,
    ) -> Option<Reply> {
        let Some(conn) = self.by_key.get(&client).copied() else {
            return Some(reply);
        };
        match reply {
            Reply::ConnAck { reason, .. } => self.on_connack(conn, client, reason),
            Reply::Publish(delivery) => self.on_message(conn, delivery),
            Reply::PubAck { packet_id, reason } => self.settle(conn, packet_id, outcome(reason)),
            Reply::PubRec { packet_id, reason } if reason >= 0x80 => {
                self.settle(conn, packet_id, outcome(reason));
            }
            Reply::PubRec { packet_id, .. } => router.received(now, client, Received::PubRel { packet_id }),
            Reply::PubRel { packet_id, .. } => router.received(now, client, Received::PubComp { packet_id }),
            // Whatever it says: the message was taken with PUBREC.
            Reply::PubComp { packet_id, .. } => self.settle(conn, packet_id, Ok(None)),
            Reply::SubAck { packet_id, reasons } => {
                let granted = match reasons.first() {
                    Some(0) => Ok(Some(QoS::AtMostOnce)),
                    Some(1) => Ok(Some(QoS::AtLeastOnce)),
                    Some(2) => Ok(Some(QoS::ExactlyOnce)),
                    Some(reason) => Err(Refusal(*reason)),
                    None => Err(Refusal(reason::PROTOCOL_ERROR)),
                };
                self.settle(conn, packet_id, granted);
            }
            Reply::UnsubAck { packet_id, reasons } => {
                let reason = reasons.first().copied().unwrap_or(reason::SUCCESS);
                self.settle(conn, packet_id, outcome(reason));
            }
            Reply::Disconnect { reason } => self.on_disconnect(now, router, conn, reason),
        }
        None
    }

    /// The next batch for the gateway, if there is something worth one. Call it when it can be handed over at once.
    pub(crate) fn poll_events(&mut self, now: Instant, router: &mut Router) -> Option<Vec<BrokerEvent>> {
        while self.stores
            && let Ok(token) = self.receipts.try_recv()
        {
            self.events.push(BrokerEvent::Delivered { token });
        }
        if self.events.is_empty() && !self.urgent {
            return None;
        }
        self.urgent = false;
        for conn in self.owing.drain(..) {
            let Some(connection) = self.connections.get_mut(&conn) else {
                continue;
            };
            connection.owing = false;
            // Messages handed over make place for others.
            let messages = core::mem::take(&mut connection.messages);
            if let Some(key) = connection.key {
                router.credit(now, key, messages);
            }
            let requests = core::mem::take(&mut connection.requests);
            if requests > 0 {
                self.events.push(BrokerEvent::Credit { conn, requests });
            }
        }
        Some(core::mem::take(&mut self.events))
    }

    /// Returns when somebody took the last copy of a message meanwhile: then there are events.
    pub(crate) async fn delivered(&mut self) {
        // The other end is held here too.
        if let Some(token) = self.receipts.recv().await {
            self.events.push(BrokerEvent::Delivered { token });
        }
    }

    /// Closes everything in good order: what is unsettled is lost.
    pub(crate) fn close(&mut self, now: Instant, router: &mut Router) {
        let mut open: Vec<ConnId> = self.connections.keys().copied().collect();
        open.sort_unstable();
        for conn in open {
            self.close_one(now, router, conn);
        }
    }

    /// The gateway has closed all its connections: what is published now would pass its clients by.
    pub(crate) fn is_away(&self) -> bool {
        self.away
    }

    fn open(&mut self, now: Instant, router: &mut Router, conn: ConnId, options: ConnectOptions) {
        self.away = false;
        if self.connections.contains_key(&conn) {
            tracing::debug!(target: "broker", conn = conn.0, "connection is open already");
            return;
        }
        // Publishes of an earlier life that another broker had: this one knows nothing of them.
        let restored = options.restored.iter().map(|publish| publish.token);
        self.events
            .extend(restored.map(|token| BrokerEvent::Lost { token }));
        let key = router.connect_gateway(now, connect(&options));
        self.attachments = self.attachments.wrapping_add(1);
        self.by_key.insert(key, conn);
        self.connections.insert(
            conn,
            Connection {
                options,
                key: Some(key),
                attachment: self.attachments,
                owing: false,
                requests: 0,
                messages: 0,
                unsettled: Slab::new(),
            },
        );
        router.credit(now, key, CREDIT);
    }

    fn close_one(&mut self, now: Instant, router: &mut Router, conn: ConnId) {
        let Some(connection) = self.connections.remove(&conn) else {
            return;
        };
        self.away = self.connections.is_empty();
        self.lose(connection.unsettled);
        let Some(key) = connection.key else {
            return;
        };
        self.by_key.remove(&key);
        router.received(
            now,
            key,
            Received::Disconnect {
                with_will: false,
                session_expiry: None,
            },
        );
    }

    fn on_connack(&mut self, conn: ConnId, client: ClientKey, reason: u8) {
        if reason >= 0x80 {
            // It would be refused again.
            self.by_key.remove(&client);
            if let Some(connection) = self.connections.get_mut(&conn) {
                connection.key = None;
            }
            self.events.push(BrokerEvent::Down {
                conn,
                reason: format!("refused by the embedded broker (0x{reason:02x})"),
            });
            return;
        }
        // Sessions last as long as their connection, so there never is one.
        self.events.push(BrokerEvent::Up {
            conn,
            session_present: false,
            window: WINDOW,
            forgets: self.stores,
        });
        self.events.push(BrokerEvent::Credit {
            conn,
            requests: CREDIT,
        });
    }

    /// The router ended the connection: it is opened again at once.
    fn on_disconnect(&mut self, now: Instant, router: &mut Router, conn: ConnId, reason: u8) {
        let Some(connection) = self.connections.get_mut(&conn) else {
            return;
        };
        if let Some(key) = connection.key.take() {
            self.by_key.remove(&key);
        }
        let unsettled = core::mem::take(&mut connection.unsettled);
        connection.requests = 0;
        self.events.push(BrokerEvent::Down {
            conn,
            reason: format!("disconnected by the embedded broker (0x{reason:02x})"),
        });
        // The broker stops, or another connection of the gateway uses the same client id: they would go on taking over
        // from each other.
        if reason != reason::SERVER_SHUTTING_DOWN && reason != reason::SESSION_TAKEN_OVER {
            let key = router.connect_gateway(now, connect(&connection.options));
            self.attachments = self.attachments.wrapping_add(1);
            connection.key = Some(key);
            connection.attachment = self.attachments;
            self.by_key.insert(key, conn);
            // Credit for messages that are still to be handed over comes with that.
            router.credit(now, key, CREDIT.saturating_sub(connection.messages));
        }
        self.lose(unsettled);
    }

    fn on_message(&mut self, conn: ConnId, delivery: Delivery) {
        let Some(connection) = self.connections.get_mut(&conn) else {
            return;
        };
        connection.messages += 1;
        if !core::mem::replace(&mut connection.owing, true) {
            self.owing.push(conn);
        }
        let id = u64::from(connection.attachment) << 32 | u64::from(delivery.packet_id);
        let Message { topic, payload, .. } = &*delivery.message;
        self.events.push(BrokerEvent::Message {
            conn,
            delivery: match delivery.qos {
                QoS::AtMostOnce => None,
                QoS::AtLeastOnce => Some(DeliveryId(id)),
                QoS::ExactlyOnce => Some(DeliveryId(id | EXACTLY_ONCE)),
            },
            filters: delivery.ids.iter().copied().map(FilterId).collect(),
            topic: topic.clone(),
            qos: delivery.qos,
            retain: delivery.retain,
            payload: payload.clone(),
        });
    }

    fn acknowledge(&mut self, now: Instant, router: &mut Router, conn: ConnId, delivery: DeliveryId) {
        let Some(connection) = self.taken(conn) else {
            return;
        };
        // One of an earlier attachment is over: its session is gone.
        if delivery.0 >> 32 != u64::from(connection.attachment) {
            return;
        }
        let Some(key) = connection.key else {
            return;
        };
        let packet_id = delivery.0 as u16;
        let packet = if delivery.0 & EXACTLY_ONCE == 0 {
            Received::PubAck { packet_id }
        } else {
            Received::PubRec {
                packet_id,
                refused: false,
            }
        };
        router.received(now, key, packet);
    }

    fn publish(
        &mut self,
        now: Instant,
        router: &mut Router,
        conn: ConnId,
        token: Option<Token>,
        stored: Option<StoredUplink>,
        mut message: Message,
    ) {
        if !is_topic_name(&message.topic) {
            // The router would end the connection.
            self.taken(conn);
            match token {
                Some(token) => self.settled(token, outcome(reason::TOPIC_NAME_INVALID)),
                None => tracing::debug!(
                    target: "broker", conn = conn.0, topic = %message.topic,
                    "publish without an answer refused"
                ),
            }
            return;
        }
        if message.qos == QoS::AtMostOnce {
            let Some(connection) = self.taken(conn) else {
                return;
            };
            if let Some(key) = connection.key {
                let publish = Received::Publish {
                    packet_id: 0,
                    dup: false,
                    message,
                };
                router.received(now, key, publish);
            }
            if let Some(token) = token {
                self.settled(token, Ok(None));
            }
            return;
        }
        let until = self.connections.get(&conn).map(|open| open.options.stored_until);
        let exact = stored.zip(until).map(|(stored, until)| Exact::new(stored, until));
        message.receipt = token
            .filter(|_| self.stores)
            .map(|token| Receipt::new(token, exact, self.delivered.clone()));
        let receipt = message.receipt.clone();
        self.request(now, router, conn, Unsettled { token, receipt }, |packet_id| {
            Received::Publish {
                packet_id,
                dup: false,
                message,
            }
        });
    }

    /// Hands on a request that the router answers under a packet id.
    fn request(
        &mut self,
        now: Instant,
        router: &mut Router,
        conn: ConnId,
        unsettled: Unsettled,
        packet: impl FnOnce(u16) -> Received,
    ) {
        let Some(connection) = self.taken(conn) else {
            return;
        };
        let packet_id = u16::try_from(connection.unsettled.vacant_key() + 1);
        match (connection.key, packet_id) {
            (Some(key), Ok(packet_id)) => {
                connection.unsettled.insert(unsettled);
                router.received(now, key, packet(packet_id));
            }
            (None, _) => {
                let token = unsettled.token;
                self.events.extend(token.map(|token| BrokerEvent::Lost { token }));
            }
            (Some(_), Err(_)) => {
                if let Some(token) = unsettled.token {
                    self.settled(token, Err(Refusal::QUOTA_EXCEEDED));
                }
            }
        }
    }

    /// The connection of a request, for which credit is owed now.
    fn taken(&mut self, conn: ConnId) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(&conn)?;
        connection.requests += 1;
        self.urgent |= connection.requests >= CREDIT_OWED_AT_MOST;
        if !core::mem::replace(&mut connection.owing, true) {
            self.owing.push(conn);
        }
        Some(connection)
    }

    /// The router answered a request.
    fn settle(&mut self, conn: ConnId, packet_id: u16, result: Result<Option<QoS>, Refusal>) {
        let unsettled = self
            .connections
            .get_mut(&conn)
            .map(|connection| &mut connection.unsettled);
        let place = usize::from(packet_id).checked_sub(1);
        let request = unsettled
            .zip(place)
            .and_then(|(unsettled, place)| unsettled.try_remove(place));
        let Some(Unsettled { token, receipt }) = request else {
            return;
        };
        if let Some(token) = token {
            self.settled(token, result);
        }
        if let (Some(receipt), Ok(_)) = (receipt, result) {
            receipt.settle();
        }
    }

    fn settled(&mut self, token: Token, result: Result<Option<QoS>, Refusal>) {
        self.events.push(BrokerEvent::Settled { token, result });
    }

    fn lose(&mut self, unsettled: Slab<Unsettled>) {
        let tokens = unsettled.into_iter().filter_map(|(_, request)| request.token);
        self.events
            .extend(tokens.map(|token| BrokerEvent::Lost { token }));
    }
}

impl From<Token> for Unsettled {
    fn from(token: Token) -> Self {
        Unsettled {
            token: Some(token),
            receipt: None,
        }
    }
}

fn connect(options: &ConnectOptions) -> Connect {
    Connect {
        client_id: options.client_id.as_ref().into(),
        // There is none of an earlier life but what an MQTT client may have left under the id.
        clean_start: true,
        session_expiry: 0,
        receive_maximum: WINDOW,
        will: options.will.as_ref().map(|will| Will {
            message: Message {
                topic: will.topic.clone(),
                payload: will.payload.clone(),
                qos: will.qos,
                retain: will.retain,
                expiry: None,
                properties: None,
                receipt: None,
            },
            delay: 0,
        }),
    }
}

/// From the reason code of an acknowledgement: no matching subscribers (0x10) and the like are fine.
fn outcome(reason: u8) -> Result<Option<QoS>, Refusal> {
    if reason < 0x80 {
        Ok(None)
    } else {
        Err(Refusal(reason))
    }
}
