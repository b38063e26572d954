//! What the client says to the open exchange, or to one that went back into the queue.

use std::sync::Arc;

use sn_codec::{MsgId, Puback, QoS, ReturnCode, TopicId};

use super::Downlink;
use super::durable::save_received;
use super::exchange::Step;
use crate::client::{Client, Reply};
use crate::context::Context;
use crate::time::Instant;

impl Downlink {
    /// The topic id of the REGISTER that a REGACK answers, also if its ids are byte-swapped (reading A64).
    pub(crate) fn registering(
        &mut self,
        cx: &mut Context,
        topic_id: TopicId,
        msg_id: MsgId,
    ) -> Option<TopicId> {
        let exchange = self.exchange()?;
        let Step::Register(ours) = exchange.step else {
            return None;
        };
        // Not sent yet, so this answers an earlier life's under the same message id.
        if exchange.held {
            return None;
        }
        // A rejection may carry any id.
        if exchange.msg_id == msg_id {
            return Some(ours);
        }
        let swapped = msg_id.0.swap_bytes() == exchange.msg_id.0 && topic_id.0.swap_bytes() == ours.0;
        cx.metrics.swapped_acks_total += u64::from(swapped);
        swapped.then_some(ours)
    }

    /// The client answered a REGISTER: later silence does not make it one that never does (reading A40).
    pub(crate) fn answers_register(&mut self) {
        self.answers_register = true;
        self.no_register = false;
    }
}

impl Client {
    /// QoS 1: G→C PUBLISH(m)   C→G PUBACK(m). With another code it is an error for any QoS.
    pub(crate) fn on_puback(&mut self, cx: &mut Context, now: Instant, puback: Puback) {
        let code = puback.return_code;
        if puback.msg_id == MsgId(0) && code == ReturnCode::InvalidTopicId {
            // A QoS 0 message under an id the client does not know: register before the next one (reading A41).
            if let Some(topic) = self.topics.by_id_mut(puback.topic_id) {
                topic.confirmed = false;
            }
            return;
        }
        let Some(exchange) = self
            .down
            .exchange_mut()
            .filter(|exchange| exchange.answers(cx, &puback))
        else {
            let late =
                code == ReturnCode::Accepted && self.down.requeued(puback.msg_id, QoS::AtLeastOnce).is_some();
            match late {
                true => self.finish_requeued(cx),
                false => cx.metrics.unexpected_total += 1,
            }
            return;
        };
        let qos = exchange.item.qos;
        match code {
            ReturnCode::Accepted if qos == QoS::AtLeastOnce => {
                self.finish_delivered(cx);
            }
            ReturnCode::Accepted => cx.metrics.unexpected_total += 1,
            ReturnCode::Congestion => self.pause_deliveries(now),
            ReturnCode::InvalidTopicId => {
                let tried = core::mem::replace(&mut exchange.tried_register, true);
                let name = exchange.item.message.topic.clone();
                self.topics.unconfirm(&name);
                match tried {
                    false => self.register_again(cx, &name),
                    true => self.reject(cx),
                }
            }
            // Reading A61: emcute refuses any PUBLISH with DUP.
            ReturnCode::NotSupported if exchange.sent_dup => {
                self.down.no_dup = true;
                self.publish_now();
            }
            ReturnCode::NotSupported | ReturnCode::Reserved(_) => self.reject(cx),
        }
    }

    /// The client does not want the message.
    fn reject(&mut self, cx: &mut Context) {
        cx.metrics.rejected_by_client_total += 1;
        self.finish_exchange(cx);
    }

    /// The client does not know the id: the same id is registered again, and the message sent once more (A41).
    fn register_again(&mut self, cx: &mut Context, name: &Arc<str>) {
        match self.register_for(cx, name) {
            Some((step, topic)) => {
                let msg_id = self.down.next_msg_id();
                if let Some(exchange) = self.down.exchange_mut() {
                    exchange.refused_id = (exchange.item.qos == QoS::ExactlyOnce).then_some(exchange.msg_id);
                    (exchange.step, exchange.topic, exchange.msg_id) = (step, topic, msg_id);
                    (exchange.due, exchange.sends, exchange.published) = (true, 0, false);
                }
            }
            None => self.reject(cx),
        }
    }

    /// QoS 2: G→C PUBLISH(m)   C→G PUBREC(m)   G→C PUBREL(m)   C→G PUBCOMP(m).
    pub(crate) fn on_pubrec(&mut self, cx: &mut Context, now: Instant, msg_id: MsgId) {
        match self.down.exchange_mut() {
            Some(exchange) if exchange.msg_id == msg_id && exchange.item.qos == QoS::ExactlyOnce => {
                if exchange.held {
                    return;
                }
                let again = exchange.step == Step::Pubrel;
                exchange.step = Step::Pubrel;
                exchange.due = true;
                exchange.sends = 0;
                if !again {
                    // A step further: what it took to get here does not count against PUBREL.
                    exchange.item.rounds = 0;
                    self.hold_pubrel(cx);
                }
                self.down.parked = false;
            }
            // It refused a copy whose topic id it did not know, and had taken another before (reading A41).
            Some(exchange)
                if exchange.refused_id == Some(msg_id) && matches!(exchange.step, Step::Register(_)) =>
            {
                (exchange.step, exchange.msg_id) = (Step::Pubrel, msg_id);
                exchange.published = true;
                exchange.due = true;
                exchange.sends = 0;
                self.down.parked = false;
                self.hold_pubrel(cx);
            }
            _ => {
                // Late, but the client has the message: sent again under a released id, it would be another one.
                if let Some(item) = self.down.requeued(msg_id, QoS::ExactlyOnce) {
                    item.received = true;
                    let item = item.clone();
                    save_received(cx, &item);
                    if self.wants_to_deliver(now) {
                        return; // The PUBREL is what goes out next.
                    }
                    return self.reply_durably(cx, Reply::Pubrel(msg_id));
                }
                // Reading A51: an id we do not know is released all the same, else its sender repeats for ever.
                self.reply(cx, Reply::Pubrel(msg_id));
            }
        }
    }

    /// The last step of QoS 2.
    pub(crate) fn on_pubcomp(&mut self, cx: &mut Context, msg_id: MsgId) {
        match self.down.exchange() {
            Some(exchange) if exchange.msg_id == msg_id && exchange.step == Step::Pubrel => {
                self.finish_delivered(cx);
            }
            _ => {
                let late = self.down.requeued(msg_id, QoS::ExactlyOnce);
                match late.is_some_and(|item| item.received) {
                    true => self.finish_requeued(cx),
                    false => cx.metrics.unexpected_total += 1,
                }
            }
        }
    }
}
