//! A scriptable MQTT-SN client that behaves by the specification, as one value without I/O.
//!
//! It has a list of things to do and does them in order, repeats requests by Tretry and Nretry (§6.13), then takes itself
//! for disconnected and connects again, repeating what was not acknowledged. What differs between real clients is in
//! [`Quirks`].

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use gateway_core::io::Will;
use gateway_core::time::Instant;
use sn_codec::{
    Connect, Disconnect, MsgId, Packet, Pingreq, Puback, Publish, PublishQoS, QoS, Regack, Register,
    ReturnCode, ShortTopic, Subscribe, TopicFilter, TopicId, TopicRef, Unsubscribe, WillMsg, WillTopic,
};

/// Who a client is and how it behaves.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Its id.
    pub id: String,
    /// CleanSession of every CONNECT.
    pub clean: bool,
    /// Keep-alive in seconds, 0 for none.
    pub keep_alive: u16,
    /// Its will, given at every CONNECT.
    pub will: Option<Will>,
    /// Topic ids it knows by configuration, with their full names.
    pub predefined: BTreeMap<TopicId, String>,
    /// Tretry.
    pub retry: Duration,
    /// Nretry.
    pub retry_count: u32,
    /// Pause after an answer of congestion, and before connecting again.
    pub wait: Duration,
    /// Requests it keeps open at once; the specification says one of a kind.
    pub max_open: usize,
    /// First message id of each life of the device.
    pub first_msg_id: u16,
    /// What it does unlike others.
    pub quirks: Quirks,
}

impl ClientConfig {
    /// A clean client with a keep-alive of a minute and no will.
    pub fn new(id: &str) -> ClientConfig {
        ClientConfig {
            id: id.into(),
            clean: true,
            keep_alive: 60,
            will: None,
            predefined: BTreeMap::new(),
            retry: Duration::from_secs(10),
            retry_count: 3,
            wait: Duration::from_secs(30),
            max_open: 1,
            first_msg_id: 1,
            quirks: Quirks::default(),
        }
    }
}

/// What some clients in the field do differently; the default is the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quirks {
    /// Repeats are sent without DUP (RIOT emcute).
    pub no_dup: bool,
    /// A REGISTER of the gateway is never answered (RIOT emcute, asymcute).
    pub ignores_register: bool,
    /// A PUBLISH without payload is never answered (Zephyr).
    pub ignores_empty_publish: bool,
}

/// How a client names a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicForm {
    /// In full; registered before it is published to. A filter in subscriptions.
    Name(String),
    /// By an id of the configuration.
    Predefined(TopicId),
    /// Two octets.
    Short([u8; 2]),
}

impl From<&str> for TopicForm {
    fn from(name: &str) -> TopicForm {
        TopicForm::Name(name.into())
    }
}

/// Something a client is told to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Publish, for QoS 1 and 2 until it is acknowledged.
    Publish(Uplink),
    /// Register a topic name.
    Register(String),
    /// Subscribe, and again whenever a session began clean.
    Subscribe {
        /// What to.
        topic: TopicForm,
        /// QoS asked for.
        qos: QoS,
    },
    /// Unsubscribe.
    Unsubscribe {
        /// What from.
        topic: TopicForm,
    },
    /// PINGREQ.
    Ping,
    /// Set another will topic (WILLTOPICUPD) and keep it for later CONNECTs; `None` deletes the will.
    UpdateWillTopic(Option<Will>),
    /// Set another will message (WILLMSGUPD) and keep it for later CONNECTs.
    UpdateWillMessage(Bytes),
    /// DISCONNECT, and stay away until told to connect.
    Disconnect,
}

/// One message of a client's application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// How the topic is named.
    pub topic: TopicForm,
    /// −1, 0, 1 or 2.
    pub qos: PublishQoS,
    /// To be retained.
    pub retain: bool,
    /// The payload, by which the simulation knows it again.
    pub payload: Bytes,
}

/// What became of a message of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// QoS −1 or 0: sent once.
    Sent,
    /// Acknowledged.
    Acknowledged,
    /// Refused for good.
    Rejected(ReturnCode),
}

/// A message that reached the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// When.
    pub at: Instant,
    /// Full topic name.
    pub topic: String,
    /// With which QoS.
    pub qos: QoS,
    /// The Retain bit.
    pub retain: bool,
    /// The payload.
    pub payload: Bytes,
}

/// A simulated client.
#[derive(Debug)]
pub struct SimClient {
    /// Who it is.
    pub config: ClientConfig,
    /// Messages that reached the application, in order.
    pub delivered: Vec<Delivered>,
    /// What became of its own messages, by payload.
    pub outcomes: BTreeMap<Bytes, Outcome>,
    /// Subscriptions that the gateway accepted, with the granted QoS.
    pub subscribed: BTreeMap<TopicForm, QoS>,
    /// Answers other than "accepted" that it got, in order: message type of the answer and the code.
    pub rejections: Vec<(&'static str, ReturnCode)>,
    /// DISCONNECTs of the gateway that it had not asked for.
    pub kicked: usize,
    /// Requests it gave up after Nretry repetitions.
    pub gave_up: usize,
    /// Times it lost power.
    pub power_losses: usize,
    state: State,
    todo: VecDeque<Action>,
    open: Vec<Exchange>,
    next_msg_id: u16,
    ids: BTreeMap<String, TopicId>,
    names: BTreeMap<TopicId, String>,
    wanted: BTreeMap<TopicForm, QoS>,
    /// QoS 2 messages between PUBLISH and PUBREL.
    received: BTreeSet<MsgId>,
    /// QoS 2 messages after PUBREL: a copy that the network held back must not count as a new one.
    released: VecDeque<MsgId>,
    paused_until: Instant,
    last_sent: Instant,
    outbox: VecDeque<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Without power: neither sends nor receives.
    Off,
    /// Has no session and wants none.
    Idle,
    /// Will connect then.
    Waiting(Instant),
    /// CONNECT, WILLTOPIC or WILLMSG was sent.
    Connecting {
        last: Vec<u8>,
        sends: u32,
        deadline: Instant,
    },
    Active,
}

#[derive(Debug, Clone)]
struct Exchange {
    action: Action,
    kind: Kind,
    msg_id: MsgId,
    sends: u32,
    deadline: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Register,
    Publish,
    Pubrel,
    Subscribe,
    Unsubscribe,
    Ping,
    WillTopicUpd,
    WillMsgUpd,
    Disconnect,
}

impl SimClient {
    /// A client that is on and does nothing yet.
    pub fn new(config: ClientConfig) -> SimClient {
        SimClient {
            next_msg_id: config.first_msg_id,
            config,
            delivered: Vec::new(),
            outcomes: BTreeMap::new(),
            subscribed: BTreeMap::new(),
            rejections: Vec::new(),
            kicked: 0,
            gave_up: 0,
            power_losses: 0,
            state: State::Idle,
            todo: VecDeque::new(),
            open: Vec::new(),
            ids: BTreeMap::new(),
            names: BTreeMap::new(),
            wanted: BTreeMap::new(),
            received: BTreeSet::new(),
            released: VecDeque::new(),
            paused_until: Instant::START,
            last_sent: Instant::START,
            outbox: VecDeque::new(),
        }
    }

    /// Connects now, unless it is connected or about to.
    pub fn connect(&mut self, now: Instant) {
        if matches!(self.state, State::Off | State::Idle | State::Waiting(_)) {
            self.send_connect(now);
        }
    }

    /// Adds something to do; it is done once connected (QoS −1 at once).
    pub fn act(&mut self, now: Instant, action: Action) {
        match action {
            Action::Publish(uplink) if uplink.qos == PublishQoS::MinusOne => {
                if self.state != State::Off {
                    self.send_publish_once(now, &uplink);
                    self.outcomes.insert(uplink.payload, Outcome::Sent);
                }
            }
            action => self.todo.push_back(action),
        }
        self.go_on(now);
    }

    /// Loses power: everything in its memory is gone, nothing is said to anyone.
    pub fn vanish(&mut self) {
        self.state = State::Off;
        self.power_losses += 1;
        self.todo.clear();
        self.open.clear();
        self.ids.clear();
        self.names.clear();
        self.subscribed.clear();
        self.received.clear();
        self.released.clear();
        self.outbox.clear();
        if self.config.clean {
            // Who keeps a session must keep its message ids apart too; others start anew.
            self.next_msg_id = self.config.first_msg_id;
        }
    }

    /// Loses power for a moment and connects; its program subscribes again.
    pub fn reboot(&mut self, now: Instant) {
        self.vanish();
        self.send_connect(now);
    }

    /// Connects from where it is, its memory intact: the network under it changed.
    pub fn reconnect(&mut self, now: Instant) {
        if self.state != State::Off {
            self.send_connect(now);
        }
    }

    /// True without power.
    pub fn is_off(&self) -> bool {
        self.state == State::Off
    }

    /// True with a session, as far as the client knows.
    pub fn is_active(&self) -> bool {
        self.state == State::Active
    }

    /// Nothing to do and nothing open.
    pub fn is_idle(&self) -> bool {
        match self.state {
            State::Off => true,
            State::Idle => self.open.is_empty(),
            State::Active => self.open.is_empty() && self.todo.is_empty(),
            State::Waiting(_) | State::Connecting { .. } => false,
        }
    }

    /// What it is at, for a report.
    pub fn describe(&self) -> String {
        let open: Vec<String> = self
            .open
            .iter()
            .map(|e| format!("{:?} {} sent {}x", e.kind, e.msg_id, e.sends))
            .collect();
        let state = match &self.state {
            State::Connecting { sends, .. } => format!("Connecting, sent {sends}x"),
            state => format!("{state:?}"),
        };
        format!(
            "{} {state}, open [{}], {} to do",
            self.config.id,
            open.join(", "),
            self.todo.len()
        )
    }

    /// The next datagram to send.
    pub fn poll_output(&mut self) -> Option<Vec<u8>> {
        self.outbox.pop_front()
    }

    /// When it wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Off | State::Idle => None,
            State::Waiting(until) => Some(*until),
            State::Connecting { deadline, .. } => Some(*deadline),
            State::Active => {
                let pause = (!self.todo.is_empty()).then_some(self.paused_until);
                let exchanges = self.open.iter().map(|e| e.deadline);
                exchanges
                    .chain(pause.filter(|at| *at > Instant::START))
                    .chain(self.ping_at())
                    .min()
            }
        }
    }

    /// Repeats what is due, pings, connects again, goes on after a pause.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &mut self.state {
            State::Off | State::Idle => {}
            State::Waiting(until) => {
                if *until <= now {
                    self.send_connect(now);
                }
            }
            State::Connecting {
                last,
                sends,
                deadline,
            } => {
                if *deadline > now {
                    return;
                }
                if *sends > self.config.retry_count {
                    self.gave_up += 1;
                    self.state = State::Waiting(now + self.config.wait);
                } else {
                    *sends += 1;
                    *deadline = now + self.config.retry;
                    let datagram = last.clone();
                    self.outbox.push_back(datagram);
                    self.last_sent = now;
                }
            }
            State::Active => self.on_active_timeout(now),
        }
    }

    /// A datagram from the gateway arrived.
    ///
    /// # Panics
    /// If it does not decode: the reference checks every datagram before it is on its way.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) {
        if self.state == State::Off {
            return;
        }
        let packet = Packet::decode(datagram).expect("the gateway sends well-formed datagrams");
        match packet {
            Packet::WillTopicReq => self.on_will_topic_req(now),
            Packet::WillMsgReq => self.on_will_msg_req(now),
            Packet::Connack(connack) => self.on_connack(now, connack.return_code),
            Packet::Disconnect(_) => self.on_disconnect(now),
            // Late packets of a finished session.
            _ if self.state != State::Active => {}
            Packet::Register(register) => self.on_register(now, register),
            Packet::Publish(publish) => self.on_publish(now, publish),
            Packet::Pubrel(msg_id) => self.on_pubrel(now, msg_id),
            Packet::Pingreq(_) => self.send(now, Packet::Pingresp),
            Packet::Regack(regack) => self.on_regack(now, regack),
            Packet::Puback(puback) => self.on_puback(now, puback),
            Packet::Pubrec(msg_id) => self.on_pubrec(now, msg_id),
            Packet::Pubcomp(msg_id) => self.on_pubcomp(now, msg_id),
            Packet::Suback(suback) => {
                self.on_suback(
                    now,
                    suback.msg_id,
                    suback.topic_id,
                    suback.qos,
                    suback.return_code,
                );
            }
            Packet::Unsuback(msg_id) => {
                self.close(Kind::Unsubscribe, msg_id);
            }
            Packet::Pingresp => self.open.retain(|e| e.kind != Kind::Ping),
            Packet::WillTopicResp(code) => self.on_will_resp(Kind::WillTopicUpd, "WILLTOPICRESP", code),
            Packet::WillMsgResp(code) => self.on_will_resp(Kind::WillMsgUpd, "WILLMSGRESP", code),
            Packet::Advertise(_) | Packet::GwInfo(_) => {}
            Packet::SearchGw(_)
            | Packet::Connect(_)
            | Packet::WillTopic(_)
            | Packet::WillMsg(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::WillTopicUpd(_)
            | Packet::WillMsgUpd(_) => {}
        }
        self.go_on(now);
    }

    // Connecting: CONNECT, [WILLTOPICREQ, WILLTOPIC, WILLMSGREQ, WILLMSG], CONNACK (§6.2, 6.3).

    fn send_connect(&mut self, now: Instant) {
        let connect = Packet::Connect(Connect {
            will: self.config.will.is_some(),
            clean_session: self.config.clean,
            duration: self.config.keep_alive,
            client_id: &self.config.id,
        });
        let last = encode(&connect);
        self.handshake(now, last);
    }

    fn handshake(&mut self, now: Instant, last: Vec<u8>) {
        self.outbox.push_back(last.clone());
        self.last_sent = now;
        self.state = State::Connecting {
            last,
            sends: 1,
            deadline: now + self.config.retry,
        };
    }

    fn on_will_topic_req(&mut self, now: Instant) {
        let topic = self.config.will.as_ref().map(|will| WillTopic {
            qos: will.qos,
            retain: will.retain,
            topic: &will.topic,
        });
        let answer = encode(&Packet::WillTopic(topic));
        self.answer_prompt(now, answer);
    }

    fn on_will_msg_req(&mut self, now: Instant) {
        let Some(will) = &self.config.will else { return };
        let answer = encode(&Packet::WillMsg(WillMsg {
            message: &will.payload,
        }));
        self.answer_prompt(now, answer);
    }

    fn answer_prompt(&mut self, now: Instant, answer: Vec<u8>) {
        match self.state {
            State::Connecting { .. } => self.handshake(now, answer),
            // The network repeated our CONNECT: go along, or the gateway waits for us in vain.
            State::Active => {
                self.outbox.push_back(answer);
                self.last_sent = now;
            }
            State::Off | State::Idle | State::Waiting(_) => {}
        }
    }

    fn on_connack(&mut self, now: Instant, code: ReturnCode) {
        match self.state {
            State::Connecting { .. } if code == ReturnCode::Accepted => self.begin_session(now),
            State::Connecting { .. } => {
                self.rejections.push(("CONNACK", code));
                self.state = State::Waiting(now + self.config.wait);
            }
            // The network repeated our CONNECT: the session began anew.
            State::Active if code == ReturnCode::Accepted => self.begin_session(now),
            State::Off | State::Idle | State::Waiting(_) | State::Active => {}
        }
    }

    fn begin_session(&mut self, now: Instant) {
        self.state = State::Active;
        self.paused_until = Instant::START;
        // Requests that were open come first again, in their order; answers to them may be lost for ever.
        for exchange in core::mem::take(&mut self.open).into_iter().rev() {
            match exchange.kind {
                Kind::Ping | Kind::Register => {}
                Kind::Pubrel => self.open.insert(
                    0,
                    Exchange {
                        sends: 0,
                        deadline: now,
                        ..exchange
                    },
                ),
                // MQTT 3.1.1 §4.4: with a kept session the same message id, so that the other side knows it again.
                Kind::Publish if !self.config.clean => {
                    self.open.insert(
                        0,
                        Exchange {
                            deadline: now,
                            sends: 1,
                            ..exchange
                        },
                    );
                }
                Kind::Publish
                | Kind::Subscribe
                | Kind::Unsubscribe
                | Kind::WillTopicUpd
                | Kind::WillMsgUpd
                | Kind::Disconnect => self.todo.push_front(exchange.action),
            }
        }
        if self.config.clean {
            self.ids.clear();
            self.names.clear();
            self.subscribed.clear();
            self.received.clear();
            self.released.clear();
            for (topic, qos) in self.wanted.iter().rev() {
                let again = Action::Subscribe {
                    topic: topic.clone(),
                    qos: *qos,
                };
                if !self.todo.contains(&again) {
                    self.todo.push_front(again);
                }
            }
        }
        self.repeat_due(now);
    }

    fn on_disconnect(&mut self, now: Instant) {
        if self.open.iter().any(|e| e.kind == Kind::Disconnect) {
            self.open.clear();
            self.state = State::Idle;
            return;
        }
        match self.state {
            State::Active | State::Connecting { .. } => {
                self.kicked += 1;
                self.state = State::Waiting(now + Duration::from_millis(500));
            }
            State::Off | State::Idle | State::Waiting(_) => {}
        }
    }

    // While active.

    fn on_active_timeout(&mut self, now: Instant) {
        if self
            .open
            .iter()
            .any(|e| e.deadline <= now && e.sends > self.config.retry_count)
        {
            self.gave_up += 1;
            if self.open.iter().any(|e| e.kind == Kind::Disconnect) {
                self.open.clear();
                self.state = State::Idle;
            } else {
                // §6.13: it considers itself disconnected.
                self.state = State::Waiting(now + self.config.retry);
            }
            return;
        }
        self.repeat_due(now);
        if self.paused_until <= now {
            self.paused_until = Instant::START;
        }
        if self.ping_at().is_some_and(|at| at <= now) && !self.open.iter().any(|e| e.kind == Kind::Ping) {
            self.start(now, Action::Ping, Kind::Ping, MsgId(0));
        }
        self.go_on(now);
    }

    fn ping_at(&self) -> Option<Instant> {
        let pinging = self.open.iter().any(|e| e.kind == Kind::Ping);
        (self.config.keep_alive > 0 && !pinging)
            .then(|| self.last_sent + Duration::from_secs(u64::from(self.config.keep_alive)) * 3 / 4)
    }

    fn repeat_due(&mut self, now: Instant) {
        // What lost its topic id through the answer to another PUBLISH is done from the start.
        for at in (0..self.open.len()).rev() {
            if let Exchange {
                kind: Kind::Publish,
                action: Action::Publish(uplink),
                ..
            } = &self.open[at]
                && self.topic_ref(&uplink.topic).is_none()
            {
                let exchange = self.open.remove(at);
                self.todo.push_front(exchange.action);
            }
        }
        for at in 0..self.open.len() {
            if self.open[at].deadline <= now {
                self.open[at].sends += 1;
                self.open[at].deadline = now + self.config.retry;
                let exchange = self.open[at].clone();
                self.send_exchange(now, &exchange);
            }
        }
    }

    /// Starts what can be started.
    fn go_on(&mut self, now: Instant) {
        while self.state == State::Active
            && self.paused_until <= now
            && self.open.iter().filter(|e| e.kind != Kind::Ping).count() < self.config.max_open
        {
            let Some(action) = self.todo.front().cloned() else {
                return;
            };
            if action == Action::Disconnect && !self.open.is_empty() {
                return;
            }
            if let Action::Publish(Uplink {
                topic: TopicForm::Name(name),
                ..
            }) = &action
                && !self.ids.contains_key(name)
            {
                // The PUBLISH stays in line until the REGACK.
                if self.open.iter().any(|e| e.kind == Kind::Register) {
                    return;
                }
                let msg_id = self.new_msg_id();
                self.start(now, Action::Register(name.clone()), Kind::Register, msg_id);
                return;
            }
            self.todo.pop_front();
            self.begin(now, action);
        }
    }

    fn begin(&mut self, now: Instant, action: Action) {
        let kind = match &action {
            Action::Publish(uplink) => match uplink.qos {
                PublishQoS::MinusOne | PublishQoS::Level(QoS::AtMostOnce) => {
                    self.send_publish_once(now, uplink);
                    self.outcomes.insert(uplink.payload.clone(), Outcome::Sent);
                    return;
                }
                PublishQoS::Level(QoS::AtLeastOnce | QoS::ExactlyOnce) => Kind::Publish,
            },
            Action::Register(_) => Kind::Register,
            Action::Subscribe { topic, qos } => {
                self.wanted.insert(topic.clone(), *qos);
                Kind::Subscribe
            }
            Action::Unsubscribe { topic } => {
                self.wanted.remove(topic);
                self.subscribed.remove(topic);
                Kind::Unsubscribe
            }
            Action::Ping => Kind::Ping,
            Action::UpdateWillTopic(will) => {
                self.config.will.clone_from(will);
                Kind::WillTopicUpd
            }
            Action::UpdateWillMessage(payload) => {
                if let Some(will) = &mut self.config.will {
                    will.payload = payload.clone();
                }
                Kind::WillMsgUpd
            }
            Action::Disconnect => Kind::Disconnect,
        };
        let msg_id = match kind {
            Kind::Register | Kind::Publish | Kind::Pubrel | Kind::Subscribe | Kind::Unsubscribe => {
                self.new_msg_id()
            }
            Kind::Ping | Kind::WillTopicUpd | Kind::WillMsgUpd | Kind::Disconnect => MsgId(0),
        };
        self.start(now, action, kind, msg_id);
    }

    fn start(&mut self, now: Instant, action: Action, kind: Kind, msg_id: MsgId) {
        let exchange = Exchange {
            action,
            kind,
            msg_id,
            sends: 1,
            deadline: now + self.config.retry,
        };
        self.send_exchange(now, &exchange);
        self.open.push(exchange);
    }

    fn send_exchange(&mut self, now: Instant, exchange: &Exchange) {
        let msg_id = exchange.msg_id;
        let dup = exchange.sends > 1 && !self.config.quirks.no_dup;
        match (exchange.kind, &exchange.action) {
            (Kind::Pubrel, _) => self.send(now, Packet::Pubrel(msg_id)),
            (_, Action::Publish(uplink)) => {
                let Some(topic) = self.topic_ref(&uplink.topic) else {
                    return;
                };
                let PublishQoS::Level(_) = uplink.qos else { return };
                let (qos, retain, data) = (uplink.qos, uplink.retain, &uplink.payload[..]);
                self.send(
                    now,
                    Packet::Publish(Publish {
                        dup,
                        qos,
                        retain,
                        topic,
                        msg_id,
                        data,
                    }),
                );
            }
            (_, Action::Register(name)) => {
                let topic_id = TopicId::NONE;
                self.send(
                    now,
                    Packet::Register(Register {
                        topic_id,
                        msg_id,
                        topic_name: name,
                    }),
                );
            }
            (_, Action::Subscribe { topic, qos }) => {
                let topic = filter_of(topic);
                self.send(
                    now,
                    Packet::Subscribe(Subscribe {
                        dup,
                        qos: *qos,
                        msg_id,
                        topic,
                    }),
                );
            }
            (_, Action::Unsubscribe { topic }) => {
                self.send(
                    now,
                    Packet::Unsubscribe(Unsubscribe {
                        msg_id,
                        topic: filter_of(topic),
                    }),
                );
            }
            (_, Action::Ping) => self.send(now, Packet::Pingreq(Pingreq { client_id: None })),
            (_, Action::UpdateWillTopic(will)) => {
                let body = will.as_ref().map(|will| WillTopic {
                    qos: will.qos,
                    retain: will.retain,
                    topic: &will.topic,
                });
                self.send(now, Packet::WillTopicUpd(body));
            }
            (_, Action::UpdateWillMessage(message)) => {
                self.send(now, Packet::WillMsgUpd(WillMsg { message }));
            }
            (_, Action::Disconnect) => self.send(now, Packet::Disconnect(Disconnect { duration: None })),
        }
    }

    fn send_publish_once(&mut self, now: Instant, uplink: &Uplink) {
        let Some(topic) = self.topic_ref(&uplink.topic) else {
            return;
        };
        let (qos, retain, data) = (uplink.qos, uplink.retain, &uplink.payload[..]);
        self.send(
            now,
            Packet::Publish(Publish {
                dup: false,
                qos,
                retain,
                topic,
                msg_id: MsgId(0),
                data,
            }),
        );
    }

    // Answers to its own requests.

    fn on_regack(&mut self, now: Instant, regack: Regack) {
        let Some(exchange) = self.close(Kind::Register, regack.msg_id) else {
            return;
        };
        let Action::Register(name) = exchange.action else {
            return;
        };
        match regack.return_code {
            ReturnCode::Accepted => self.learn(regack.topic_id, name),
            ReturnCode::Congestion => {
                self.rejections.push(("REGACK", regack.return_code));
                self.pause(now);
            }
            code => {
                self.rejections.push(("REGACK", code));
                // Nothing can be published there.
                let hopeless: Vec<Bytes> = self
                    .todo
                    .iter()
                    .filter_map(|action| match action {
                        Action::Publish(u) if u.topic == TopicForm::Name(name.clone()) => {
                            Some(u.payload.clone())
                        }
                        _ => None,
                    })
                    .collect();
                self.todo
                    .retain(|a| !matches!(a, Action::Publish(u) if hopeless.contains(&u.payload)));
                self.outcomes.extend(
                    hopeless
                        .into_iter()
                        .map(|payload| (payload, Outcome::Rejected(code))),
                );
            }
        }
    }

    fn on_puback(&mut self, now: Instant, puback: Puback) {
        if puback.return_code == ReturnCode::InvalidTopicId {
            // It may be for a QoS 0 PUBLISH too, so the id is forgotten in any case (§6.6).
            if let Some(name) = self.names.remove(&puback.topic_id) {
                self.ids.remove(&name);
            }
        }
        let Some(exchange) = self.close(Kind::Publish, puback.msg_id) else {
            return;
        };
        let Action::Publish(uplink) = &exchange.action else {
            return;
        };
        let by_name = matches!(uplink.topic, TopicForm::Name(_));
        match puback.return_code {
            ReturnCode::Accepted if uplink.qos == PublishQoS::Level(QoS::AtLeastOnce) => {
                self.outcomes
                    .insert(uplink.payload.clone(), Outcome::Acknowledged);
            }
            // A PUBACK without error does not answer QoS 2.
            ReturnCode::Accepted => self.open.push(exchange),
            ReturnCode::Congestion => {
                self.rejections.push(("PUBACK", puback.return_code));
                self.todo.push_front(exchange.action);
                self.pause(now);
            }
            ReturnCode::InvalidTopicId if by_name => {
                self.rejections.push(("PUBACK", puback.return_code));
                self.todo.push_front(exchange.action);
            }
            code => {
                self.rejections.push(("PUBACK", code));
                self.outcomes
                    .insert(uplink.payload.clone(), Outcome::Rejected(code));
            }
        }
    }

    fn on_pubrec(&mut self, now: Instant, msg_id: MsgId) {
        match self
            .open
            .iter_mut()
            .find(|e| e.msg_id == msg_id && matches!(e.kind, Kind::Publish | Kind::Pubrel))
        {
            Some(exchange) => {
                exchange.kind = Kind::Pubrel;
                exchange.sends = 1;
                exchange.deadline = now + self.config.retry;
                let exchange = exchange.clone();
                self.send_exchange(now, &exchange);
            }
            // PUBCOMP arrived already: answering ends a repetition of the gateway (reading A51).
            None => self.send(now, Packet::Pubrel(msg_id)),
        }
    }

    fn on_pubcomp(&mut self, _now: Instant, msg_id: MsgId) {
        if let Some(Exchange {
            action: Action::Publish(uplink),
            ..
        }) = self.close(Kind::Pubrel, msg_id)
        {
            self.outcomes.insert(uplink.payload, Outcome::Acknowledged);
        }
    }

    fn on_suback(&mut self, now: Instant, msg_id: MsgId, topic_id: TopicId, granted: QoS, code: ReturnCode) {
        let Some(exchange) = self.close(Kind::Subscribe, msg_id) else {
            return;
        };
        let Action::Subscribe { topic, .. } = &exchange.action else {
            return;
        };
        match code {
            ReturnCode::Accepted => {
                if let TopicForm::Name(name) = topic
                    && topic_id != TopicId::NONE
                {
                    self.learn(topic_id, name.clone());
                }
                self.subscribed.insert(topic.clone(), granted);
            }
            ReturnCode::Congestion => {
                self.rejections.push(("SUBACK", code));
                self.todo.push_front(exchange.action);
                self.pause(now);
            }
            code => {
                self.rejections.push(("SUBACK", code));
                self.wanted.remove(topic);
            }
        }
    }

    fn on_will_resp(&mut self, kind: Kind, name: &'static str, code: ReturnCode) {
        self.open.retain(|e| e.kind != kind);
        if code != ReturnCode::Accepted {
            self.rejections.push((name, code));
        }
    }

    // Messages for the application (§6.10).

    fn on_register(&mut self, now: Instant, register: Register<'_>) {
        if self.config.quirks.ignores_register {
            return;
        }
        let (topic_id, msg_id) = (register.topic_id, register.msg_id);
        self.learn(topic_id, register.topic_name.into());
        self.send(
            now,
            Packet::Regack(Regack {
                topic_id,
                msg_id,
                return_code: ReturnCode::Accepted,
            }),
        );
    }

    fn on_publish(&mut self, now: Instant, publish: Publish<'_>) {
        let PublishQoS::Level(qos) = publish.qos else {
            return;
        };
        if publish.data.is_empty() && self.config.quirks.ignores_empty_publish {
            return;
        }
        let (topic, topic_id) = match publish.topic {
            TopicRef::Normal(id) => (self.names.get(&id).cloned(), id),
            TopicRef::Predefined(id) => (self.config.predefined.get(&id).cloned(), id),
            TopicRef::Short(short) => (
                short.as_str().map(String::from),
                TopicId(u16::from_be_bytes(short.0)),
            ),
        };
        let msg_id = publish.msg_id;
        let Some(topic) = topic else {
            let return_code = ReturnCode::InvalidTopicId;
            self.send(
                now,
                Packet::Puback(Puback {
                    topic_id,
                    msg_id,
                    return_code,
                }),
            );
            return;
        };
        let new =
            qos != QoS::ExactlyOnce || !(self.received.contains(&msg_id) || self.released.contains(&msg_id));
        if new {
            let (retain, payload) = (publish.retain, Bytes::copy_from_slice(publish.data));
            self.delivered.push(Delivered {
                at: now,
                topic,
                qos,
                retain,
                payload,
            });
        }
        match qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => {
                let return_code = ReturnCode::Accepted;
                self.send(
                    now,
                    Packet::Puback(Puback {
                        topic_id,
                        msg_id,
                        return_code,
                    }),
                );
            }
            QoS::ExactlyOnce => {
                if new {
                    self.received.insert(msg_id);
                }
                self.send(now, Packet::Pubrec(msg_id));
            }
        }
    }

    fn on_pubrel(&mut self, now: Instant, msg_id: MsgId) {
        if self.received.remove(&msg_id) {
            self.released.push_back(msg_id);
            if self.released.len() > 64 {
                self.released.pop_front();
            }
        }
        self.send(now, Packet::Pubcomp(msg_id));
    }

    // Helpers.

    fn learn(&mut self, id: TopicId, name: String) {
        if let Some(old) = self.names.insert(id, name.clone()) {
            self.ids.remove(&old);
        }
        self.ids.insert(name, id);
    }

    fn topic_ref(&self, form: &TopicForm) -> Option<TopicRef> {
        Some(match form {
            TopicForm::Name(name) => TopicRef::Normal(*self.ids.get(name)?),
            TopicForm::Predefined(id) => TopicRef::Predefined(*id),
            TopicForm::Short(octets) => TopicRef::Short(ShortTopic(*octets)),
        })
    }

    fn close(&mut self, kind: Kind, msg_id: MsgId) -> Option<Exchange> {
        let at = self
            .open
            .iter()
            .position(|e| e.kind == kind && e.msg_id == msg_id)?;
        Some(self.open.remove(at))
    }

    fn pause(&mut self, now: Instant) {
        self.paused_until = now + self.config.wait;
    }

    /// Counts through 0 like clients in the field do (reading A45).
    fn new_msg_id(&mut self) -> MsgId {
        loop {
            let msg_id = MsgId(self.next_msg_id);
            self.next_msg_id = self.next_msg_id.wrapping_add(1);
            if !self.open.iter().any(|e| e.msg_id == msg_id) {
                return msg_id;
            }
        }
    }

    fn send(&mut self, now: Instant, packet: Packet<'_>) {
        self.outbox.push_back(encode(&packet));
        self.last_sent = now;
    }
}

/// One datagram.
pub(crate) fn encode(packet: &Packet<'_>) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(packet.encoded_len());
    packet.encode(&mut datagram);
    datagram
}

fn filter_of(topic: &TopicForm) -> TopicFilter<'_> {
    match topic {
        TopicForm::Name(name) => TopicFilter::Name(name),
        TopicForm::Predefined(id) => TopicFilter::Predefined(*id),
        TopicForm::Short(octets) => TopicFilter::Short(ShortTopic(*octets)),
    }
}
