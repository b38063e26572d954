//! Messages for the application (§6.10).

use bytes::Bytes;
use gateway_core::time::Instant;
use sn_codec::{
    MsgId, Packet, Puback, Publish, PublishQoS, QoS, Regack, Register, ReturnCode, TopicId, TopicRef,
};

use super::{Delivered, SimClient, TopicForm};

impl SimClient {
    pub(super) fn on_register(&mut self, now: Instant, register: Register<'_>) {
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

    pub(super) fn on_publish(&mut self, now: Instant, publish: Publish<'_>) {
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

    pub(super) fn on_pubrel(&mut self, now: Instant, msg_id: MsgId) {
        if self.received.remove(&msg_id) {
            self.released.push_back(msg_id);
            if self.released.len() > 64 {
                self.released.pop_front();
            }
        }
        self.send(now, Packet::Pubcomp(msg_id));
    }

    pub(super) fn learn(&mut self, id: TopicId, name: String) {
        if let Some(old) = self.names.insert(id, name.clone()) {
            self.ids.remove(&old);
        }
        self.ids.insert(name, id);
    }
}
