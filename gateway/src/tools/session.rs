//! An MQTT-SN client as a state machine without I/O: one request at a time (§6.6), retransmission (§6.13),
//! keep-alive (§6.11), and the answers that deliveries need.
//!
//! The caller hands in datagrams and the time, sends what [`Session::poll_transmit`] gives, and learns from
//! [`Session::poll_event`] what came of it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use sn_codec::{
    Connect, DecodeError, Disconnect, MsgId, Packet, Pingreq, Puback, Publish, PublishQoS, QoS, Regack,
    Register, ReturnCode, SearchGw, ShortTopic, Subscribe, TopicFilter, TopicId, TopicRef, WillMsg,
    WillTopic, topic,
};

use super::describe::reason;

/// The client's side of one session with a gateway.
#[derive(Debug)]
pub(crate) struct Session {
    options: Options,
    connected: bool,
    exchange: Option<Exchange>,
    last_msg_id: u16,
    /// Names of normal ids, from REGACK, SUBACK and REGISTER.
    topics: HashMap<TopicId, String>,
    /// QoS 2 deliveries that were taken and wait for PUBREL: a repeated PUBLISH is not a new message.
    unreleased: HashSet<MsgId>,
    last_sent: Instant,
    transmit: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
}

/// How a session is opened and how patient it is.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Its name at the gateway.
    pub(crate) client_id: String,
    /// Seconds, 0 for no supervision.
    pub(crate) keep_alive: u16,
    /// Begin without what the gateway kept.
    pub(crate) clean: bool,
    /// Published by the gateway if this client is lost.
    pub(crate) will: Option<Will>,
    /// T_retry: how long an answer is waited for.
    pub(crate) retry: Duration,
    /// N_retry: how often an unanswered request is repeated.
    pub(crate) retries: u32,
}

/// A will (§6.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
}

/// A topic as it is named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Topic {
    /// A name or, for a subscription, a filter.
    Name(String),
    /// A predefined id.
    Predefined(TopicId),
    /// A name of two octets, sent in the place of an id.
    Short(ShortTopic),
}

/// What a client asks of its gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Connect,
    Register {
        name: String,
    },
    Publish {
        topic: TopicRef,
        qos: PublishQoS,
        retain: bool,
        data: Vec<u8>,
    },
    Subscribe {
        topic: Topic,
        qos: QoS,
    },
    Ping,
    Disconnect,
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Connected,
    Registered(TopicId),
    /// Acknowledged as far as its QoS goes; for QoS 0 and −1: sent.
    Published,
    /// With the QoS that was granted.
    Subscribed(QoS),
    Pong,
    Disconnected,
}

/// Why a request, or the session, failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the gateway rejected {request}: {}", reason(*.code))]
    Rejected { request: &'static str, code: ReturnCode },
    #[error("no answer to {request}, sent {sends}")]
    NoAnswer { request: &'static str, sends: Times },
    #[error("the gateway ended the session (DISCONNECT)")]
    Closed,
}

/// A number of attempts, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times(pub(crate) u32);

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            1 => f.write_str("once"),
            2 => f.write_str("twice"),
            n => write!(f, "{n} times"),
        }
    }
}

/// What the caller should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The request is finished.
    Done(Result<Outcome, Failure>),
    /// A delivery.
    Message(Message),
    /// A gateway answered SEARCHGW.
    Gateway(u8),
    /// The session ended, or a PUBLISH of QoS 0 was rejected, without a request waiting for it.
    Failed(Failure),
}

/// A delivery from the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// The full name; `#17` for the predefined id 17, whose name only the configurations know.
    pub(crate) topic: String,
    /// As it was on the wire.
    pub(crate) topic_ref: TopicRef,
    pub(crate) msg_id: MsgId,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) payload: Vec<u8>,
}

/// The request that waits for an answer.
#[derive(Debug)]
struct Exchange {
    request: Request,
    step: Step,
    msg_id: MsgId,
    /// The session's own ping; nobody is told when it succeeds.
    keep_alive: bool,
    /// How often the present step was sent.
    sends: u32,
    /// When it is sent again.
    due: Instant,
}

/// Requests of several steps: what was sent last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The request itself.
    Ask,
    /// WILLTOPIC, within CONNECT.
    WillTopic,
    /// WILLMSG, within CONNECT.
    WillMsg,
    /// PUBREL, within PUBLISH QoS 2.
    Release,
}

impl Session {
    /// A session that is not connected yet.
    pub(crate) fn new(options: Options, now: Instant) -> Session {
        Session {
            options,
            connected: false,
            exchange: None,
            last_msg_id: 0,
            topics: HashMap::new(),
            unreleased: HashSet::new(),
            last_sent: now,
            transmit: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The name at the gateway.
    pub(crate) fn client_id(&self) -> &str {
        &self.options.client_id
    }

    /// True from CONNACK to the end of the session.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    /// Begins a request; [`Event::Done`] ends it. One that is still open is abandoned.
    pub(crate) fn request(&mut self, request: Request, now: Instant) {
        let msg_id = match &request {
            // §5.4.12: MsgId is 0x0000 for QoS 0 and −1.
            Request::Publish {
                qos: PublishQoS::MinusOne | PublishQoS::Level(QoS::AtMostOnce),
                ..
            } => MsgId(0),
            Request::Publish { .. } | Request::Register { .. } | Request::Subscribe { .. } => {
                self.new_msg_id()
            }
            Request::Connect | Request::Ping | Request::Disconnect => MsgId(0),
        };
        if let Request::Connect = request {
            self.connected = false;
            self.topics.clear();
            self.unreleased.clear();
        }
        let unanswered = matches!(
            request,
            Request::Publish {
                qos: PublishQoS::MinusOne | PublishQoS::Level(QoS::AtMostOnce),
                ..
            }
        );
        self.begin(request, msg_id, false, now);
        if unanswered {
            self.finish(Ok(Outcome::Published));
        }
    }

    /// Gives up the open request; what comes for it is ignored.
    pub(crate) fn abandon(&mut self) {
        self.exchange = None;
    }

    /// Asks which gateway is there; [`Event::Gateway`] answers.
    pub(crate) fn search(&mut self) {
        self.send(&Packet::SearchGw(SearchGw { radius: 0 }));
    }

    /// Takes a datagram from the gateway.
    ///
    /// # Errors
    /// It is not a message; the session goes on.
    pub(crate) fn handle_datagram(&mut self, datagram: &[u8], now: Instant) -> Result<(), DecodeError> {
        let packet = Packet::decode(datagram)?;
        self.on_packet(&packet, now);
        Ok(())
    }

    /// Repeats what was not answered, or keeps the session alive.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let Some(exchange) = &mut self.exchange else {
            if self.keep_alive_due().is_some_and(|due| now >= due) {
                self.begin(Request::Ping, MsgId(0), true, now);
            }
            return;
        };
        if now < exchange.due {
            return;
        }
        if exchange.sends > self.options.retries {
            let failure = Failure::NoAnswer {
                request: exchange.name(),
                sends: Times(exchange.sends),
            };
            // §6.13: the client considers itself disconnected. Only a ping on request is lost alone: it
            // measures, and the next one may arrive.
            if exchange.request != Request::Ping || exchange.keep_alive {
                self.connected = false;
            }
            self.finish(Err(failure));
        } else {
            exchange.sends += 1;
            self.send_step(now);
        }
    }

    /// When [`Session::handle_timeout`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match &self.exchange {
            Some(exchange) => Some(exchange.due),
            None => self.keep_alive_due(),
        }
    }

    /// The next datagram to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmit.pop_front()
    }

    /// The next thing to know.
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn on_packet(&mut self, packet: &Packet<'_>, now: Instant) {
        match packet {
            Packet::GwInfo(info) => self.events.push_back(Event::Gateway(info.gw_id)),
            Packet::Connack(connack) => {
                if self.waits_for(|request| *request == Request::Connect) {
                    self.connected = connack.return_code == ReturnCode::Accepted;
                    self.settle(connack.return_code, Outcome::Connected);
                }
            }
            Packet::WillTopicReq => self.on_will_prompt(Step::WillTopic, now),
            Packet::WillMsgReq => self.on_will_prompt(Step::WillMsg, now),
            Packet::Register(register) => self.on_register(register, now),
            Packet::Regack(regack) => self.on_regack(regack),
            Packet::Publish(publish) => self.on_publish(publish, now),
            Packet::Puback(puback) => self.on_puback(puback),
            Packet::Pubrec(msg_id) => {
                let qos2 = PublishQoS::Level(QoS::ExactlyOnce);
                if self.waits_for_id(
                    *msg_id,
                    |r| matches!(r, Request::Publish { qos, .. } if *qos == qos2),
                ) {
                    self.next_step(Step::Release, now);
                }
            }
            Packet::Pubcomp(msg_id) => {
                let released = self.exchange.as_ref().is_some_and(|e| e.step == Step::Release);
                if released && self.waits_for_id(*msg_id, |_| true) {
                    self.finish(Ok(Outcome::Published));
                }
            }
            Packet::Pubrel(msg_id) => {
                self.unreleased.remove(msg_id);
                self.reply(&Packet::Pubcomp(*msg_id), now);
            }
            Packet::Suback(suback) => {
                if !self.waits_for_id(suback.msg_id, |r| matches!(r, Request::Subscribe { .. })) {
                    return;
                }
                if let Some(Exchange {
                    request:
                        Request::Subscribe {
                            topic: Topic::Name(name),
                            ..
                        },
                    ..
                }) = &self.exchange
                    && suback.return_code == ReturnCode::Accepted
                    && suback.topic_id != TopicId::NONE
                    && !topic::has_wildcard(name)
                {
                    self.topics.insert(suback.topic_id, name.clone());
                }
                self.settle(suback.return_code, Outcome::Subscribed(suback.qos));
            }
            Packet::Pingreq(_) => self.reply(&Packet::Pingresp, now),
            Packet::Pingresp => {
                if self.waits_for(|request| *request == Request::Ping) {
                    self.finish(Ok(Outcome::Pong));
                }
            }
            Packet::Disconnect(_) => self.on_disconnect(),
            // Nothing here subscribes to advertisements, unsubscribes or updates a will, and the rest is a
            // client's to send.
            Packet::Advertise(_)
            | Packet::SearchGw(_)
            | Packet::Connect(_)
            | Packet::WillTopic(_)
            | Packet::WillMsg(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::Unsuback(_)
            | Packet::WillTopicUpd(_)
            | Packet::WillTopicResp(_)
            | Packet::WillMsgUpd(_)
            | Packet::WillMsgResp(_) => {}
        }
    }

    fn on_will_prompt(&mut self, step: Step, now: Instant) {
        if self.options.will.is_some() && self.waits_for(|request| *request == Request::Connect) {
            self.next_step(step, now);
        }
    }

    fn on_register(&mut self, register: &Register<'_>, now: Instant) {
        if !self.connected {
            return;
        }
        self.topics
            .insert(register.topic_id, register.topic_name.to_owned());
        let regack = Regack {
            topic_id: register.topic_id,
            msg_id: register.msg_id,
            return_code: ReturnCode::Accepted,
        };
        self.reply(&Packet::Regack(regack), now);
    }

    fn on_regack(&mut self, regack: &Regack) {
        if !self.waits_for_id(regack.msg_id, |r| matches!(r, Request::Register { .. })) {
            return;
        }
        if let Some(Exchange {
            request: Request::Register { name },
            ..
        }) = &self.exchange
            && regack.return_code == ReturnCode::Accepted
        {
            self.topics.insert(regack.topic_id, name.clone());
        }
        self.settle(regack.return_code, Outcome::Registered(regack.topic_id));
    }

    fn on_publish(&mut self, publish: &Publish<'_>, now: Instant) {
        // QoS −1 goes only towards a gateway.
        let PublishQoS::Level(qos) = publish.qos else {
            return;
        };
        if !self.connected {
            return;
        }
        let (name, topic_id) = match publish.topic {
            TopicRef::Normal(id) => (self.topics.get(&id).cloned(), id),
            TopicRef::Predefined(id) => (Some(format!("#{id}")), id),
            TopicRef::Short(short) => (
                short.as_str().map(str::to_owned),
                TopicId(u16::from_be_bytes(short.0)),
            ),
        };
        let ack = |return_code| {
            Packet::Puback(Puback {
                topic_id,
                msg_id: publish.msg_id,
                return_code,
            })
        };
        let Some(name) = name else {
            // §6.6 and §6.10: an unknown id is answered for every QoS, so that the sender registers it again.
            return self.reply(&ack(ReturnCode::InvalidTopicId), now);
        };
        let is_new = match qos {
            QoS::AtMostOnce => true,
            QoS::AtLeastOnce => {
                self.reply(&ack(ReturnCode::Accepted), now);
                true
            }
            QoS::ExactlyOnce => {
                self.reply(&Packet::Pubrec(publish.msg_id), now);
                self.unreleased.insert(publish.msg_id)
            }
        };
        if is_new {
            self.events.push_back(Event::Message(Message {
                topic: name,
                topic_ref: publish.topic,
                msg_id: publish.msg_id,
                qos,
                retain: publish.retain,
                payload: publish.data.to_vec(),
            }));
        }
    }

    fn on_puback(&mut self, puback: &Puback) {
        let acknowledged = |request: &Request| match request {
            Request::Publish {
                qos: PublishQoS::Level(QoS::AtLeastOnce),
                ..
            } => true,
            // §6.6: a PUBACK answers QoS 2 only to reject it.
            Request::Publish {
                qos: PublishQoS::Level(QoS::ExactlyOnce),
                ..
            } => puback.return_code != ReturnCode::Accepted,
            _ => false,
        };
        if self.waits_for_id(puback.msg_id, acknowledged) {
            self.settle(puback.return_code, Outcome::Published);
        } else if puback.return_code != ReturnCode::Accepted && puback.msg_id == MsgId(0) {
            let failure = Failure::Rejected {
                request: "PUBLISH",
                code: puback.return_code,
            };
            self.events.push_back(Event::Failed(failure));
        }
    }

    fn on_disconnect(&mut self) {
        match &self.exchange {
            Some(exchange) if exchange.request == Request::Disconnect => {
                self.connected = false;
                self.finish(Ok(Outcome::Disconnected));
            }
            // Meant for an earlier session at this address: the gateway answers CONNECT with CONNACK.
            Some(exchange) if exchange.request == Request::Connect => {}
            Some(_) => {
                self.connected = false;
                self.finish(Err(Failure::Closed));
            }
            None if self.connected => {
                self.connected = false;
                self.events.push_back(Event::Failed(Failure::Closed));
            }
            None => {}
        }
    }

    fn waits_for(&self, is_it: impl FnOnce(&Request) -> bool) -> bool {
        self.exchange
            .as_ref()
            .is_some_and(|exchange| is_it(&exchange.request))
    }

    fn waits_for_id(&self, msg_id: MsgId, is_it: impl FnOnce(&Request) -> bool) -> bool {
        self.exchange
            .as_ref()
            .is_some_and(|exchange| exchange.msg_id == msg_id && is_it(&exchange.request))
    }

    fn begin(&mut self, request: Request, msg_id: MsgId, keep_alive: bool, now: Instant) {
        self.exchange = Some(Exchange {
            request,
            step: Step::Ask,
            msg_id,
            keep_alive,
            sends: 1,
            due: now,
        });
        self.send_step(now);
    }

    fn next_step(&mut self, step: Step, now: Instant) {
        if let Some(exchange) = &mut self.exchange {
            exchange.step = step;
            exchange.sends = 1;
            self.send_step(now);
        }
    }

    fn settle(&mut self, code: ReturnCode, outcome: Outcome) {
        let Some(exchange) = &self.exchange else { return };
        let result = match code {
            ReturnCode::Accepted => Ok(outcome),
            code => Err(Failure::Rejected {
                request: exchange.name(),
                code,
            }),
        };
        self.finish(result);
    }

    fn finish(&mut self, result: Result<Outcome, Failure>) {
        let Some(exchange) = self.exchange.take() else {
            return;
        };
        match (exchange.keep_alive, result) {
            (false, result) => self.events.push_back(Event::Done(result)),
            (true, Ok(_)) => {}
            (true, Err(failure)) => self.events.push_back(Event::Failed(failure)),
        }
    }

    fn keep_alive_due(&self) -> Option<Instant> {
        let keep_alive = Duration::from_secs(self.options.keep_alive.into());
        (self.connected && !keep_alive.is_zero()).then(|| self.last_sent + keep_alive)
    }

    fn new_msg_id(&mut self) -> MsgId {
        // 0 is left to messages that need no id.
        self.last_msg_id = self.last_msg_id.checked_add(1).unwrap_or(1);
        MsgId(self.last_msg_id)
    }

    fn reply(&mut self, packet: &Packet<'_>, now: Instant) {
        self.last_sent = now;
        self.send(packet);
    }

    fn send(&mut self, packet: &Packet<'_>) {
        let mut datagram = Vec::with_capacity(packet.encoded_len());
        packet.encode(&mut datagram);
        self.transmit.push_back(datagram);
    }

    fn send_step(&mut self, now: Instant) {
        let Some(exchange) = &mut self.exchange else {
            return;
        };
        exchange.due = now + self.options.retry;
        self.last_sent = now;
        let packet = exchange.packet(&self.options);
        let mut datagram = Vec::with_capacity(packet.encoded_len());
        packet.encode(&mut datagram);
        self.transmit.push_back(datagram);
    }
}

impl Exchange {
    /// What the present step sends.
    fn packet<'a>(&'a self, options: &'a Options) -> Packet<'a> {
        // §6.13: a repetition has DUP set where the message has that flag.
        let dup = self.sends > 1;
        let msg_id = self.msg_id;
        match (self.step, &self.request) {
            (Step::WillTopic, _) => Packet::WillTopic(options.will.as_ref().map(|w| WillTopic {
                qos: w.qos,
                retain: w.retain,
                topic: &w.topic,
            })),
            (Step::WillMsg, _) => Packet::WillMsg(WillMsg {
                message: options.will.as_ref().map_or(&[], |w| &w.payload),
            }),
            (Step::Release, _) => Packet::Pubrel(msg_id),
            (Step::Ask, Request::Connect) => Packet::Connect(Connect {
                will: options.will.is_some(),
                clean_session: options.clean,
                duration: options.keep_alive,
                client_id: &options.client_id,
            }),
            (Step::Ask, Request::Register { name }) => Packet::Register(Register {
                topic_id: TopicId::NONE,
                msg_id,
                topic_name: name,
            }),
            (
                Step::Ask,
                Request::Publish {
                    topic,
                    qos,
                    retain,
                    data,
                },
            ) => Packet::Publish(Publish {
                dup,
                qos: *qos,
                retain: *retain,
                topic: *topic,
                msg_id,
                data,
            }),
            (Step::Ask, Request::Subscribe { topic, qos }) => {
                let topic = match topic {
                    Topic::Name(name) => TopicFilter::Name(name),
                    Topic::Predefined(id) => TopicFilter::Predefined(*id),
                    Topic::Short(short) => TopicFilter::Short(*short),
                };
                Packet::Subscribe(Subscribe {
                    dup,
                    qos: *qos,
                    msg_id,
                    topic,
                })
            }
            (Step::Ask, Request::Ping) => Packet::Pingreq(Pingreq { client_id: None }),
            (Step::Ask, Request::Disconnect) => Packet::Disconnect(Disconnect { duration: None }),
        }
    }

    /// The message that waits for an answer, for people.
    fn name(&self) -> &'static str {
        match (self.step, &self.request) {
            (Step::WillTopic, _) => "WILLTOPIC",
            (Step::WillMsg, _) => "WILLMSG",
            (Step::Release, _) => "PUBREL",
            (Step::Ask, Request::Connect) => "CONNECT",
            (Step::Ask, Request::Register { .. }) => "REGISTER",
            (Step::Ask, Request::Publish { .. }) => "PUBLISH",
            (Step::Ask, Request::Subscribe { .. }) => "SUBSCRIBE",
            (Step::Ask, Request::Ping) => "PINGREQ",
            (Step::Ask, Request::Disconnect) => "DISCONNECT",
        }
    }
}

#[cfg(test)]
mod tests;
