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
    Connect, Disconnect, MsgId, MsgType, Packet, Pingreq, Puback, Publish, PublishQoS, QoS, Regack, Register,
    ReturnCode, ShortTopic, Suback, Subscribe, TopicFilter, TopicId, TopicRef, Unsubscribe, WillMsg,
    WillTopic,
};

/// Wake-ups in a row without an answer after which a sleeper connects anew.
const MISSED_WAKES: usize = 3;

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
///
/// [`crate::families`] has the sets that real clients come with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quirks {
    /// Repeats are sent without DUP.
    pub no_dup: bool,
    /// A REGISTER of the gateway is never answered.
    pub ignores_register: bool,
    /// A REGISTER for a name it did not ask for is answered with "invalid topic id".
    pub refuses_unknown_register: bool,
    /// REGISTERs of the gateway it has memory for; further ones are not answered.
    pub register_slots: Option<usize>,
    /// A PUBLISH without payload is never answered.
    pub ignores_empty_publish: bool,
    /// QoS 0 messages are not understood.
    pub ignores_qos0: bool,
    /// A PUBLISH with DUP, QoS 2 or a predefined id is refused with "not supported".
    pub refuses_unusual_publish: bool,
    /// QoS 2 messages are not answered.
    pub never_pubrec: bool,
    /// The repeat of a QoS 2 message is not answered unless it has DUP.
    pub needs_dup: bool,
    /// A message under a predefined id or short name counts only if a SUBACK carried it.
    pub keeps_suback_ids: bool,
    /// A PUBACK counts only if it carries the topic id too.
    pub checks_puback_topic: bool,
    /// Both ids of PUBACK and REGACK are sent with their octets swapped.
    pub swaps_acks: bool,
    /// After PUBREC the PUBLISH is repeated, not the PUBREL.
    pub publishes_after_pubrec: bool,
    /// QoS 0 messages have a message id.
    pub counts_qos0: bool,
    /// The flags octet is sent with its bits in reverse order, and PUBLISH with CleanSession: QoS 0 reads as QoS 1.
    pub reversed_flags: bool,
    /// Total length in the short form from which on the long form is used; 256 and more by the specification.
    pub long_form_from: Option<usize>,
    /// Predefined ids in SUBSCRIBE and short names in PUBLISH are sent with their octets swapped.
    pub swaps_topics: bool,
    /// Every PINGREQ names the client.
    pub pings_with_id: bool,
    /// The PINGREQ of a wake-up does not name the client.
    pub wakes_without_id: bool,
    /// Falls asleep without waiting for the answer.
    pub sleeps_at_once: bool,
    /// Its DISCONNECT with a duration has two octets too many.
    pub long_disconnect: bool,
    /// Asks and publishes while asleep, without returning to active.
    pub talks_asleep: bool,
    /// Does not subscribe again when it returns from sleep.
    pub trusts_session: bool,
    /// With a will, a CONNACK counts only after the prompts.
    pub waits_for_prompts: bool,
    /// Anything but CONNACK as the answer to its CONNECT ends it.
    pub exits_unless_connack: bool,
    /// A DISCONNECT it did not ask for ends it.
    pub exits_on_disconnect: bool,
    /// A DISCONNECT it did not ask for is overlooked.
    pub ignores_disconnect: bool,
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
    /// Sleep (§6.14): DISCONNECT with a duration, then a PINGREQ each time that has passed.
    Sleep {
        /// Seconds.
        duration: u16,
        /// Wake-ups before it returns to active; without end for `u32::MAX`.
        naps: u32,
    },
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
    /// Times it was told that it has no session while it slept, and forgot what it had of QoS 2 messages, as its clean
    /// session said. The gateway may know it at another address and take its CONNECT for the return from sleep (A20).
    pub forgot_asleep: usize,
    /// Wake-ups that PINGRESP ended.
    pub wakes: usize,
    /// Wake-ups that it gave up, and went back to sleep.
    pub missed_wakes: usize,
    missed_in_a_row: usize,
    /// Datagrams it sent, by what they were; what the network doubled counts once.
    pub sent: Sent,
    state: State,
    nap: Option<Nap>,
    /// The CONNECT on its way is a return from sleep, which keeps the session (reading A20).
    returning: bool,
    /// The gateway asked for the will since the last CONNECT.
    prompted: bool,
    /// Names that the gateway registered.
    registers: BTreeSet<String>,
    /// Topic fields that SUBACKs carried for predefined ids and short names.
    suback_ids: BTreeSet<TopicId>,
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

/// Datagrams of a kind that a client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// PUBLISH, of any QoS.
    pub publishes: usize,
    /// PUBREL.
    pub pubrels: usize,
}

/// Where a client is in its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It has none, as far as it knows.
    Away,
    /// It listens all the time.
    Active,
    /// It listens after its PINGREQ only.
    Asleep,
}

/// How it sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Nap {
    duration: u16,
    left: u32,
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
    /// Its radio is off, unless it waits for an answer.
    Asleep {
        wakes_at: Instant,
    },
    /// PINGREQ was sent, and PINGRESP has not come.
    Awake {
        sends: u32,
        deadline: Instant,
    },
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
    Sleep,
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
            forgot_asleep: 0,
            wakes: 0,
            missed_wakes: 0,
            missed_in_a_row: 0,
            sent: Sent::default(),
            state: State::Idle,
            nap: None,
            returning: false,
            prompted: false,
            registers: BTreeSet::new(),
            suback_ids: BTreeSet::new(),
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
        self.nap = None;
        self.returning = false;
        self.registers.clear();
        self.suback_ids.clear();
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

    /// True while it listens all the time.
    pub fn is_active(&self) -> bool {
        self.state == State::Active
    }

    /// Where it is in its session, as far as it knows.
    pub fn presence(&self) -> Presence {
        match self.state {
            State::Off | State::Idle | State::Waiting(_) | State::Connecting { .. } => Presence::Away,
            State::Active => Presence::Active,
            State::Asleep { .. } | State::Awake { .. } => Presence::Asleep,
        }
    }

    /// How long it sleeps between two wake-ups, if it does.
    pub fn nap(&self) -> Option<Duration> {
        let nap = self.nap.filter(|_| self.presence() == Presence::Asleep)?;
        Some(Duration::from_secs(u64::from(nap.duration)))
    }

    /// The datagrams it may be answered with in this time with nothing to do: one for each keep-alive or wake-up.
    pub fn pings_within(&self, time: Duration) -> usize {
        if self.presence() == Presence::Away {
            return 0;
        }
        let keep_alive = u64::from(self.config.keep_alive) * 3 / 4;
        let nap = self.nap.map_or(0, |nap| u64::from(nap.duration));
        let Some(every) = [keep_alive, nap].into_iter().filter(|every| *every > 0).min() else {
            return 0;
        };
        (time.as_secs() / every) as usize + 2
    }

    /// How a message of its application reads on the wire: QoS and Retain.
    pub fn on_the_wire(&self, qos: PublishQoS, retain: bool) -> (PublishQoS, bool) {
        match qos {
            PublishQoS::Level(QoS::AtMostOnce) if self.config.quirks.reversed_flags => {
                (PublishQoS::Level(QoS::AtLeastOnce), false)
            }
            _ => (qos, retain),
        }
    }

    fn has_session(&self) -> bool {
        self.presence() != Presence::Away
    }

    /// Nothing to do and nothing open; asleep only if for ever.
    pub fn is_idle(&self) -> bool {
        match self.state {
            State::Off => true,
            State::Idle => self.open.is_empty(),
            State::Active => self.open.is_empty() && self.todo.is_empty(),
            State::Asleep { .. } => {
                let returns = self.nap.is_none_or(|nap| nap.left != u32::MAX);
                self.open.is_empty() && self.todo.is_empty() && !returns
            }
            State::Waiting(_) | State::Connecting { .. } | State::Awake { .. } => false,
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
            State::Active => self.next_exchange().into_iter().chain(self.ping_at()).min(),
            State::Asleep { wakes_at: at } | State::Awake { deadline: at, .. } => {
                self.next_exchange().into_iter().chain([*at]).min()
            }
        }
    }

    /// When an exchange is repeated or can begin.
    fn next_exchange(&self) -> Option<Instant> {
        let pause = (!self.todo.is_empty()).then_some(self.paused_until);
        let exchanges = self.open.iter().map(|e| e.deadline);
        exchanges.chain(pause.filter(|at| *at > Instant::START)).min()
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
            State::Asleep { .. } | State::Awake { .. } => self.on_sleep_timeout(now),
        }
    }

    /// A datagram from the gateway arrived.
    ///
    /// # Panics
    /// If it does not decode: the reference checks every datagram before it is on its way.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) {
        let radio_off = matches!(self.state, State::Asleep { .. }) && self.open.is_empty();
        if self.state == State::Off || radio_off {
            return;
        }
        let packet = Packet::decode(datagram).expect("the gateway sends well-formed datagrams");
        let starting = matches!(self.state, State::Connecting { .. });
        if starting && self.config.quirks.exits_unless_connack && !matches!(packet, Packet::Connack(_)) {
            return self.vanish();
        }
        if let State::Awake { deadline, .. } = &mut self.state {
            // §6.14: every message restarts Tretry.
            *deadline = now + self.config.retry;
        }
        match packet {
            Packet::WillTopicReq => self.on_will_topic_req(now),
            Packet::WillMsgReq => self.on_will_msg_req(now),
            Packet::Connack(connack) => self.on_connack(now, connack.return_code),
            Packet::Disconnect(_) => self.on_disconnect(now),
            // Late packets of a finished session.
            _ if !self.has_session() => {}
            Packet::Register(register) => self.on_register(now, register),
            Packet::Publish(publish) => self.on_publish(now, publish),
            Packet::Pubrel(msg_id) => self.on_pubrel(now, msg_id),
            Packet::Pingreq(_) => self.send(now, Packet::Pingresp),
            Packet::Regack(regack) => self.on_regack(now, regack),
            Packet::Puback(puback) => self.on_puback(now, puback),
            Packet::Pubrec(msg_id) => self.on_pubrec(now, msg_id),
            Packet::Pubcomp(msg_id) => self.on_pubcomp(now, msg_id),
            Packet::Suback(suback) => {
                self.on_suback(now, suback);
            }
            Packet::Unsuback(msg_id) => {
                self.close(Kind::Unsubscribe, msg_id);
            }
            Packet::Pingresp => self.on_pingresp(now),
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
        // It may be asleep for the gateway before it hears so.
        let asleep = self.presence() == Presence::Asleep || self.open.iter().any(|e| e.kind == Kind::Sleep);
        self.returning |= asleep;
        self.prompted = false;
        let connect = Packet::Connect(Connect {
            will: self.config.will.is_some(),
            clean_session: self.config.clean,
            duration: self.config.keep_alive,
            client_id: &self.config.id,
        });
        let last = self.encode_own(&connect);
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
        self.prompted = true;
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
            State::Active | State::Asleep { .. } | State::Awake { .. } => {
                self.outbox.push_back(answer);
                self.last_sent = now;
            }
            State::Off | State::Idle | State::Waiting(_) => {}
        }
    }

    fn on_connack(&mut self, now: Instant, code: ReturnCode) {
        let unprompted = self.config.will.is_some() && !self.prompted;
        if self.config.quirks.waits_for_prompts && unprompted {
            return;
        }
        match self.state {
            State::Connecting { .. } if code == ReturnCode::Accepted => self.begin_session(now),
            State::Connecting { .. } => {
                self.rejections.push(("CONNACK", code));
                self.state = State::Waiting(now + self.config.wait);
            }
            // The network repeated our CONNECT: the session began anew.
            State::Active if code == ReturnCode::Accepted => self.begin_session(now),
            State::Off | State::Idle | State::Waiting(_) | State::Active => {}
            State::Asleep { .. } | State::Awake { .. } => {}
        }
    }

    fn begin_session(&mut self, now: Instant) {
        let again = self.state == State::Active;
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
                | Kind::Disconnect
                | Kind::Sleep => self.todo.push_front(exchange.action),
            }
        }
        self.missed_in_a_row = 0;
        let returning = core::mem::take(&mut self.returning);
        if self.config.clean && !returning {
            self.ids.clear();
            self.names.clear();
            if !again {
                self.received.clear();
                self.released.clear();
            }
        }
        if self.config.clean && !(returning && self.config.quirks.trusts_session) {
            self.subscribed.clear();
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
        // Back to sleep once everything is done.
        let nap = self.nap.take().filter(|nap| nap.left > 0);
        if let Some(Nap { duration, left: naps }) = nap
            && !self
                .todo
                .iter()
                .any(|action| matches!(action, Action::Sleep { .. }))
        {
            self.todo.push_back(Action::Sleep { duration, naps });
        }
        self.repeat_due(now);
    }

    fn on_disconnect(&mut self, now: Instant) {
        if self.open.iter().any(|e| e.kind == Kind::Disconnect) {
            self.open.clear();
            self.state = State::Idle;
            return;
        }
        if self.open.iter().any(|e| e.kind == Kind::Sleep) {
            return self.fall_asleep(now);
        }
        if !self.has_session() && !matches!(self.state, State::Connecting { .. }) {
            return;
        }
        let quirks = self.config.quirks;
        if quirks.ignores_disconnect {
            return;
        }
        self.kicked += 1;
        let half_received = !(self.received.is_empty() && self.released.is_empty());
        let asleep = self.presence() == Presence::Asleep || self.returning;
        self.forgot_asleep += usize::from(asleep && half_received && self.config.clean);
        self.returning = false;
        if quirks.exits_on_disconnect {
            self.vanish();
        } else {
            self.state = State::Waiting(now + Duration::from_millis(500));
        }
    }

    // Asleep: the radio is on from PINGREQ to PINGRESP, and while an answer is waited for (§6.14).

    fn fall_asleep(&mut self, now: Instant) {
        self.open.clear();
        self.rest(now);
    }

    fn rest(&mut self, now: Instant) {
        let duration = self.nap.map_or(0, |nap| nap.duration);
        self.state = State::Asleep {
            wakes_at: now + Duration::from_secs(u64::from(duration)),
        };
    }

    fn on_pingresp(&mut self, now: Instant) {
        if !matches!(self.state, State::Awake { .. }) {
            self.open.retain(|e| e.kind != Kind::Ping);
            return;
        }
        self.wakes += 1;
        self.missed_in_a_row = 0;
        if let Some(nap) = &mut self.nap
            && nap.left != u32::MAX
        {
            nap.left = nap.left.saturating_sub(1);
        }
        self.rest(now);
    }

    fn on_sleep_timeout(&mut self, now: Instant) {
        if self.give_up_if_spent(now) {
            return;
        }
        self.repeat_due(now);
        if self.paused_until <= now {
            self.paused_until = Instant::START;
        }
        match self.state {
            State::Asleep { wakes_at } if wakes_at <= now => {
                if self.nap.is_none_or(|nap| nap.left == 0) {
                    return self.send_connect(now);
                }
                self.send_wake_up(now, 1);
            }
            State::Awake { sends, deadline } if deadline <= now => {
                if sends <= self.config.retry_count {
                    self.send_wake_up(now, sends + 1);
                    return;
                }
                // §6.14: it gives up and goes back to sleep; when that has not helped it begins anew.
                self.missed_wakes += 1;
                self.missed_in_a_row += 1;
                if self.missed_in_a_row < MISSED_WAKES {
                    self.rest(now);
                } else {
                    return self.send_connect(now);
                }
            }
            _ => {}
        }
        self.go_on(now);
    }

    fn send_wake_up(&mut self, now: Instant, sends: u32) {
        self.state = State::Awake {
            sends,
            deadline: now + self.config.retry,
        };
        let id = self.config.id.clone();
        let client_id = (!self.config.quirks.wakes_without_id).then_some(id.as_str());
        self.send(now, Packet::Pingreq(Pingreq { client_id }));
    }

    // While active.

    /// Nretry is spent for a request: it considers itself disconnected (§6.13).
    fn give_up_if_spent(&mut self, now: Instant) -> bool {
        let spent = |e: &Exchange| e.deadline <= now && e.sends > self.config.retry_count;
        if !self.open.iter().any(spent) {
            return false;
        }
        self.gave_up += 1;
        if self.open.iter().any(|e| e.kind == Kind::Disconnect) {
            self.open.clear();
            self.state = State::Idle;
        } else if self.open.iter().any(|e| e.kind == Kind::Sleep) {
            self.fall_asleep(now);
        } else {
            self.returning |= self.presence() == Presence::Asleep;
            self.state = State::Waiting(now + self.config.retry);
        }
        true
    }

    fn on_active_timeout(&mut self, now: Instant) {
        if self.give_up_if_spent(now) {
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
        let asleep = self.presence() == Presence::Asleep;
        if asleep && !self.todo.is_empty() && !self.config.quirks.talks_asleep {
            // §6.14: to ask for something it returns to active; what it is being told now comes first.
            if matches!(self.state, State::Asleep { .. }) {
                self.send_connect(now);
            }
            return;
        }
        while self.has_session()
            && self.paused_until <= now
            && self.open.iter().filter(|e| e.kind != Kind::Ping).count() < self.config.max_open
        {
            let Some(action) = self.todo.front().cloned() else {
                return;
            };
            let leaving = |kind| matches!(kind, Kind::Disconnect | Kind::Sleep);
            let leaves = matches!(action, Action::Disconnect | Action::Sleep { .. });
            if self.open.iter().any(|e| leaving(e.kind)) || (leaves && !self.open.is_empty()) {
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
            Action::Sleep { duration, naps } => {
                self.nap = Some(Nap {
                    duration: *duration,
                    left: *naps,
                });
                Kind::Sleep
            }
        };
        let msg_id = match kind {
            Kind::Register | Kind::Publish | Kind::Pubrel | Kind::Subscribe | Kind::Unsubscribe => {
                self.new_msg_id()
            }
            Kind::Ping | Kind::WillTopicUpd | Kind::WillMsgUpd | Kind::Disconnect | Kind::Sleep => MsgId(0),
        };
        self.start(now, action, kind, msg_id);
        if kind == Kind::Sleep && self.config.quirks.sleeps_at_once {
            self.fall_asleep(now);
        }
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
            (Kind::Pubrel, _) if exchange.sends == 1 || !self.config.quirks.publishes_after_pubrec => {
                self.send(now, Packet::Pubrel(msg_id));
            }
            (_, Action::Publish(uplink)) => {
                let Some(topic) = self.topic_ref(&uplink.topic) else {
                    return;
                };
                let topic = self.sent_topic(topic);
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
                let topic = self.sent_filter(filter_of(topic));
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
            (_, Action::Ping) => {
                let id = self.config.id.clone();
                let client_id = self.config.quirks.pings_with_id.then_some(id.as_str());
                self.send(now, Packet::Pingreq(Pingreq { client_id }));
            }
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
            (_, Action::Sleep { duration, .. }) => {
                let duration = Some(*duration);
                self.send(now, Packet::Disconnect(Disconnect { duration }));
            }
        }
    }

    fn send_publish_once(&mut self, now: Instant, uplink: &Uplink) {
        let Some(topic) = self.topic_ref(&uplink.topic) else {
            return;
        };
        let topic = self.sent_topic(topic);
        let msg_id = if self.config.quirks.counts_qos0 {
            self.new_msg_id()
        } else {
            MsgId(0)
        };
        let (qos, retain, data) = (uplink.qos, uplink.retain, &uplink.payload[..]);
        self.send(
            now,
            Packet::Publish(Publish {
                dup: false,
                qos,
                retain,
                topic,
                msg_id,
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
        if self.config.quirks.checks_puback_topic && !self.is_topic_of(puback) {
            return;
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

    fn on_suback(&mut self, now: Instant, suback: Suback) {
        let Suback {
            msg_id,
            topic_id,
            qos: granted,
            return_code: code,
        } = suback;
        let Some(exchange) = self.close(Kind::Subscribe, msg_id) else {
            return;
        };
        let Action::Subscribe { topic, .. } = &exchange.action else {
            return;
        };
        match code {
            ReturnCode::Accepted => {
                match topic {
                    TopicForm::Name(name) if topic_id != TopicId::NONE => self.learn(topic_id, name.clone()),
                    TopicForm::Name(_) => {}
                    TopicForm::Predefined(_) | TopicForm::Short(_) => {
                        self.suback_ids.insert(topic_id);
                    }
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
        let quirks = self.config.quirks;
        self.registers.insert(register.topic_name.into());
        let full = quirks
            .register_slots
            .is_some_and(|slots| self.registers.len() > slots);
        if quirks.ignores_register || full {
            return;
        }
        let (topic_id, msg_id) = (register.topic_id, register.msg_id);
        let asked_for = self.wanted.contains_key(&TopicForm::from(register.topic_name))
            || self.ids.contains_key(register.topic_name);
        let return_code = if quirks.refuses_unknown_register && !asked_for {
            ReturnCode::InvalidTopicId
        } else {
            self.learn(topic_id, register.topic_name.into());
            ReturnCode::Accepted
        };
        let (topic_id, msg_id) = self.acked(topic_id, msg_id);
        self.send(
            now,
            Packet::Regack(Regack {
                topic_id,
                msg_id,
                return_code,
            }),
        );
    }

    fn on_publish(&mut self, now: Instant, publish: Publish<'_>) {
        let PublishQoS::Level(qos) = publish.qos else {
            return;
        };
        let quirks = self.config.quirks;
        let overlooked = (publish.data.is_empty() && quirks.ignores_empty_publish)
            || (qos == QoS::AtMostOnce && quirks.ignores_qos0)
            || (qos == QoS::ExactlyOnce && quirks.never_pubrec);
        if overlooked {
            return;
        }
        let predefined = matches!(publish.topic, TopicRef::Predefined(_));
        let unusual = publish.dup || qos == QoS::ExactlyOnce || predefined;
        let (topic, topic_id) = match publish.topic {
            TopicRef::Normal(id) => (self.names.get(&id).cloned(), id),
            TopicRef::Predefined(id) => (self.config.predefined.get(&id).cloned(), id),
            TopicRef::Short(short) => (
                short.as_str().map(String::from),
                TopicId(u16::from_be_bytes(short.0)),
            ),
        };
        let msg_id = publish.msg_id;
        let (acked_topic, acked_msg) = self.acked(topic_id, msg_id);
        if quirks.refuses_unusual_publish && unusual {
            let refusal = Puback {
                topic_id,
                msg_id,
                return_code: ReturnCode::NotSupported,
            };
            return self.send(now, Packet::Puback(refusal));
        }
        let normal = matches!(publish.topic, TopicRef::Normal(_));
        let heard_of = normal || !quirks.keeps_suback_ids || self.suback_ids.contains(&topic_id);
        let Some(topic) = topic.filter(|_| heard_of) else {
            let return_code = ReturnCode::InvalidTopicId;
            self.send(
                now,
                Packet::Puback(Puback {
                    topic_id: acked_topic,
                    msg_id: acked_msg,
                    return_code,
                }),
            );
            return;
        };
        let began = self.received.contains(&msg_id);
        if qos == QoS::ExactlyOnce && began && quirks.needs_dup && !publish.dup {
            return;
        }
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
                let accepted = Puback {
                    topic_id: acked_topic,
                    msg_id: acked_msg,
                    return_code: ReturnCode::Accepted,
                };
                self.send(now, Packet::Puback(accepted));
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

    /// The ids of an acknowledgement as this client sends them.
    fn acked(&self, topic_id: TopicId, msg_id: MsgId) -> (TopicId, MsgId) {
        if self.config.quirks.swaps_acks {
            (TopicId(topic_id.0.swap_bytes()), MsgId(msg_id.0.swap_bytes()))
        } else {
            (topic_id, msg_id)
        }
    }

    fn sent_topic(&self, topic: TopicRef) -> TopicRef {
        match topic {
            TopicRef::Short(ShortTopic([a, b])) if self.config.quirks.swaps_topics => {
                TopicRef::Short(ShortTopic([b, a]))
            }
            topic => topic,
        }
    }

    fn sent_filter<'a>(&self, filter: TopicFilter<'a>) -> TopicFilter<'a> {
        match filter {
            TopicFilter::Predefined(id) if self.config.quirks.swaps_topics => {
                TopicFilter::Predefined(TopicId(id.0.swap_bytes()))
            }
            filter => filter,
        }
    }

    /// True if the PUBACK carries the topic of the PUBLISH whose message id it has.
    fn is_topic_of(&self, puback: Puback) -> bool {
        let sent = self
            .open
            .iter()
            .find(|e| e.kind == Kind::Publish && e.msg_id == puback.msg_id);
        let topic = sent.and_then(|e| match &e.action {
            Action::Publish(uplink) => self.topic_ref(&uplink.topic),
            _ => None,
        });
        topic.is_some_and(|topic| match topic {
            TopicRef::Normal(id) | TopicRef::Predefined(id) => id == puback.topic_id,
            TopicRef::Short(short) => TopicId(u16::from_be_bytes(short.0)) == puback.topic_id,
        })
    }

    fn send(&mut self, now: Instant, packet: Packet<'_>) {
        match packet {
            Packet::Publish(_) => self.sent.publishes += 1,
            Packet::Pubrel(_) => self.sent.pubrels += 1,
            _ => {}
        }
        let datagram = self.encode_own(&packet);
        self.outbox.push_back(datagram);
        self.last_sent = now;
    }

    /// One datagram as this client writes it.
    fn encode_own(&self, packet: &Packet<'_>) -> Vec<u8> {
        let mut datagram = encode(packet);
        if self.config.quirks.long_disconnect
            && matches!(packet, Packet::Disconnect(d) if d.duration.is_some())
        {
            datagram.extend([0, 0]);
            datagram[0] += 2;
        }
        if self.config.quirks.reversed_flags {
            SimClient::reverse_flags(&mut datagram);
        }
        let short = datagram.first() != Some(&1);
        if short
            && self
                .config
                .quirks
                .long_form_from
                .is_some_and(|from| datagram.len() >= from)
        {
            let total = datagram.len() as u16 + 2;
            datagram.splice(..1, [&[1], &total.to_be_bytes()[..]].concat());
        }
        datagram
    }

    /// The flags octet with the first field in the lowest bit, as some compilers lay it out, and CleanSession in PUBLISH.
    fn reverse_flags(datagram: &mut [u8]) {
        let header = if datagram.first() == Some(&1) { 4 } else { 2 };
        let kind = datagram
            .get(header - 1)
            .and_then(|code| MsgType::from_octet(*code));
        let also = match kind {
            Some(MsgType::Publish) => 0x20,
            Some(MsgType::Connect | MsgType::Subscribe | MsgType::Unsubscribe) => 0,
            _ => return,
        };
        if let Some(flags) = datagram.get_mut(header) {
            *flags = flags.reverse_bits() | also;
        }
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
