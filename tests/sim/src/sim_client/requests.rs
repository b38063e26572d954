//! What it asks for, one thing after the other, repeated until it is answered (§6.13).

use core::time::Duration;

use gateway_core::time::Instant;
use sn_codec::{
    Disconnect, MsgId, Packet, Pingreq, Publish, PublishQoS, QoS, Register, Subscribe, TopicId, Unsubscribe,
    WillMsg, WillTopic,
};

use super::wire::filter_of;
use super::{Action, Exchange, Kind, Nap, Outcome, Presence, SimClient, State, TopicForm, Uplink};

impl SimClient {
    /// When an exchange is repeated or can begin.
    pub(super) fn next_exchange(&self) -> Option<Instant> {
        let pause = (!self.todo.is_empty()).then_some(self.paused_until);
        let exchanges = self.open.iter().map(|e| e.deadline);
        exchanges.chain(pause.filter(|at| *at > Instant::START)).min()
    }

    /// Nretry is spent for a request: it considers itself disconnected (§6.13).
    pub(super) fn give_up_if_spent(&mut self, now: Instant) -> bool {
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

    pub(super) fn on_active_timeout(&mut self, now: Instant) {
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

    pub(super) fn ping_at(&self) -> Option<Instant> {
        let pinging = self.open.iter().any(|e| e.kind == Kind::Ping);
        (self.config.keep_alive > 0 && !pinging)
            .then(|| self.last_sent + Duration::from_secs(u64::from(self.config.keep_alive)) * 3 / 4)
    }

    pub(super) fn repeat_due(&mut self, now: Instant) {
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
    pub(super) fn go_on(&mut self, now: Instant) {
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

    pub(super) fn send_exchange(&mut self, now: Instant, exchange: &Exchange) {
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

    pub(super) fn send_publish_once(&mut self, now: Instant, uplink: &Uplink) {
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

    pub(super) fn close(&mut self, kind: Kind, msg_id: MsgId) -> Option<Exchange> {
        let at = self
            .open
            .iter()
            .position(|e| e.kind == kind && e.msg_id == msg_id)?;
        Some(self.open.remove(at))
    }

    pub(super) fn pause(&mut self, now: Instant) {
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
}
