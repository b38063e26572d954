//! The open exchange with the client: opened for the first message that waits, ended, or put back.

use sn_codec::{MsgId, Packet, Puback, Publish, PublishQoS, QoS, Register, TopicId, TopicRef};

use super::{Downlink, Queued};
use crate::client::{Client, State};
use crate::context::Context;
use crate::io::TxTicket;
use crate::time::Instant;

/// One open exchange of ours with the client.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) step: Step,
    pub(super) msg_id: MsgId,
    pub(super) item: Queued,
    pub(super) topic: TopicRef,
    /// Sends of the current step in the current round.
    pub(super) sends: u8,
    /// Those since the client was last heard.
    pub(super) unheard: u8,
    /// Tretry after the last send: the earliest time to repeat it, if the client is heard meanwhile.
    pub(super) soonest: Instant,
    /// The PUBLISH went out at least once under this message id.
    pub(super) published: bool,
    /// The last PUBLISH carried DUP.
    pub(super) sent_dup: bool,
    /// Send now; else at `retry_at`.
    pub(super) due: bool,
    pub(super) retry_at: Option<Instant>,
    /// The link has it and has not said what became of it.
    pub(super) in_flight: Option<TxTicket>,
    /// Times in a row that the link did not send it.
    pub(super) unsent: u8,
    /// What `published` was before the last send.
    pub(super) published_before: bool,
    /// PUBACK "invalid topic id" was answered with REGISTER already (reading A41).
    pub(super) tried_register: bool,
    /// PUBREL waits until it is durable that PUBREC came, and REGISTER until it is that the id is taken.
    pub(super) held: bool,
    /// The message id under which a QoS 2 message was refused by that.
    pub(super) refused_id: Option<MsgId>,
}

/// What the client must answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// REGISTER, answered by REGACK.
    Register(TopicId),
    /// PUBLISH, answered by PUBACK or PUBREC.
    Publish,
    /// PUBREL, answered by PUBCOMP.
    Pubrel,
}

impl Exchange {
    /// What it is at.
    pub(super) fn packet(&self, dup: bool) -> Packet<'_> {
        let item = &self.item;
        match self.step {
            Step::Register(topic_id) => Packet::Register(Register {
                topic_id,
                msg_id: self.msg_id,
                topic_name: &item.message.topic,
            }),
            Step::Publish => Packet::Publish(Publish {
                dup,
                qos: PublishQoS::Level(item.qos),
                retain: item.message.retain,
                topic: self.topic,
                msg_id: if item.qos == QoS::AtMostOnce {
                    MsgId(0)
                } else {
                    self.msg_id
                },
                data: &item.message.payload,
            }),
            Step::Pubrel => Packet::Pubrel(self.msg_id),
        }
    }

    pub(super) fn is_qos0_publish(&self) -> bool {
        self.step == Step::Publish && self.item.qos == QoS::AtMostOnce
    }

    /// True if a PUBACK answers our PUBLISH, also with both ids byte-swapped (reading A64).
    pub(super) fn answers(&self, cx: &mut Context, puback: &Puback) -> bool {
        if self.step != Step::Publish || !self.published {
            return false;
        }
        let topic_id = match self.topic {
            TopicRef::Normal(id) | TopicRef::Predefined(id) => id.0,
            TopicRef::Short(short) => u16::from_be_bytes(short.0),
        };
        if puback.msg_id == self.msg_id {
            return true;
        }
        let swapped =
            puback.msg_id.0.swap_bytes() == self.msg_id.0 && puback.topic_id.0.swap_bytes() == topic_id;
        cx.metrics.swapped_acks_total += u64::from(swapped);
        swapped
    }
}

impl Downlink {
    /// True if a message is on its way.
    pub(crate) fn has_exchange(&self) -> bool {
        self.exchange().is_some()
    }

    pub(super) fn exchange(&self) -> Option<&Exchange> {
        self.work.as_ref()?.exchange.as_ref()
    }

    pub(super) fn exchange_mut(&mut self) -> Option<&mut Exchange> {
        self.work.as_mut()?.exchange.as_mut()
    }

    /// Puts the message of the open exchange back to the front.
    pub(crate) fn requeue(&mut self) {
        let Some(work) = &mut self.work else { return };
        (work.pingresp_after, work.pings_put_off) = (None, 0);
        if let Some(exchange) = work.exchange.take() {
            let mut item = exchange.item;
            // An answer to a copy of what was refused may still come.
            let known = exchange.published.then_some(exchange.msg_id);
            item.msg_id = known.or(exchange.refused_id);
            item.received = exchange.step == Step::Pubrel;
            work.queue.push_front(item);
        }
    }

    /// The message that was sent under this id and went back into the queue, when its answer comes late.
    pub(super) fn requeued(&mut self, msg_id: MsgId, qos: QoS) -> Option<&mut Queued> {
        self.work
            .as_mut()?
            .queue
            .front_mut()
            .filter(|item| item.msg_id == Some(msg_id) && item.qos == qos)
    }
}

impl Client {
    /// Takes the next message from the queue and opens its exchange.
    pub(super) fn begin(&mut self, cx: &mut Context) {
        let next = self.down.work.as_mut().and_then(|work| work.queue.pop_front());
        let Some(item) = next else { return };
        if let State::Awake(wake) = &mut self.state {
            wake.left = wake.left.saturating_sub(1);
        }
        let known = item.msg_id;
        let new_id = self.topics.is_spent() && self.topics.by_name(&item.message.topic).is_none();
        let Some((step, topic)) = self.topic_for(cx, &item.message.topic) else {
            cx.metrics.rejected_by_client_total += 1;
            return self.forget(cx, &item);
        };
        let step = if item.received { Step::Pubrel } else { step };
        let msg_id = known.or(item.reserved).unwrap_or_else(|| self.down.next_msg_id());
        self.down.work.get_or_insert_default().exchange = Some(Exchange {
            step,
            msg_id,
            topic,
            sends: 0,
            unheard: 0,
            soonest: Instant::START,
            published: known.is_some(),
            sent_dup: false,
            due: true,
            retry_at: None,
            in_flight: None,
            unsent: 0,
            published_before: known.is_some(),
            tried_register: false,
            held: false,
            refused_id: None,
            item,
        });
        match step {
            Step::Pubrel => self.hold_pubrel(cx),
            Step::Register(_) if new_id => self.hold_register(cx),
            // The client may have asked for the id itself just now.
            Step::Register(_) if cx.journal.is_busy() => self.hold_exchange(cx),
            Step::Register(_) | Step::Publish => {}
        }
    }

    /// The id is known: the PUBLISH itself goes out.
    pub(crate) fn publish_now(&mut self) {
        if let Some(exchange) = self.down.exchange_mut() {
            exchange.step = Step::Publish;
            exchange.due = true;
            exchange.sends = 0;
            self.down.parked = false;
        }
    }

    /// The message is done with, delivered or not.
    pub(crate) fn finish_exchange(&mut self, cx: &mut Context) -> Option<Queued> {
        let done = self.down.work.as_mut().and_then(|work| work.exchange.take());
        self.down.parked = false;
        let item = done?.item;
        self.forget(cx, &item);
        Some(item)
    }

    /// The message is with the client.
    pub(super) fn finish_delivered(&mut self, cx: &mut Context) {
        if let Some(item) = self.finish_exchange(cx) {
            self.took(cx, &item);
        }
    }

    /// The message at the front of the queue was acknowledged after all.
    pub(super) fn finish_requeued(&mut self, cx: &mut Context) {
        if let Some(item) = self.drop_queued(cx, 0) {
            self.took(cx, &item);
        }
    }
}
