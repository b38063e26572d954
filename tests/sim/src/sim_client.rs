//! A scriptable MQTT-SN client that behaves by the specification, as one value without I/O.
//!
//! It has a list of things to do and does them in order, repeats requests by Tretry and Nretry (§6.13), then takes itself
//! for disconnected and connects again, repeating what was not acknowledged. What differs between real clients is in
//! [`Quirks`].

mod answers;
mod config;
mod connecting;
mod deliveries;
mod requests;
mod sleeping;
mod wire;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use gateway_core::time::Instant;
use sn_codec::{MsgId, Packet, PublishQoS, QoS, ReturnCode, TopicId};

pub use self::config::{Action, ClientConfig, Quirks, TopicForm, Uplink};
pub(crate) use self::wire::encode;

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
}
