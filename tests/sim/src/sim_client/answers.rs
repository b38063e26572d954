//! Answers to its own requests.

use bytes::Bytes;
use gateway_core::time::Instant;
use sn_codec::{MsgId, Packet, Puback, PublishQoS, QoS, Regack, ReturnCode, Suback, TopicId, TopicRef};

use super::{Action, Exchange, Kind, Outcome, SimClient, TopicForm};

impl SimClient {
    pub(super) fn on_regack(&mut self, now: Instant, regack: Regack) {
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

    pub(super) fn on_puback(&mut self, now: Instant, puback: Puback) {
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

    pub(super) fn on_pubrec(&mut self, now: Instant, msg_id: MsgId) {
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

    pub(super) fn on_pubcomp(&mut self, _now: Instant, msg_id: MsgId) {
        if let Some(Exchange {
            action: Action::Publish(uplink),
            ..
        }) = self.close(Kind::Pubrel, msg_id)
        {
            self.outcomes.insert(uplink.payload, Outcome::Acknowledged);
        }
    }

    pub(super) fn on_suback(&mut self, now: Instant, suback: Suback) {
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

    pub(super) fn on_will_resp(&mut self, kind: Kind, name: &'static str, code: ReturnCode) {
        self.open.retain(|e| e.kind != kind);
        if code != ReturnCode::Accepted {
            self.rejections.push((name, code));
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
}
