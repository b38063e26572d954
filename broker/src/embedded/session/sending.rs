//! Messages that leave, in order, as far as credit and receive maximum go.

use gateway_core::time::Instant;
use sn_codec::QoS;

use super::entry::pubrel;
use super::retained_messages::REFILL_BELOW;
use super::{Attached, InFlight, Outbox, Session, Stage};
use crate::embedded::exact::{Holds, ORDINARY_IDS};
use crate::embedded::packet::Reply;
use crate::embedded::retained::Retained;

impl Session {
    /// Says what the connection takes: first again what is in flight, then what waits.
    pub(crate) fn pump(&mut self, now: Instant, retained: &Retained, out: &mut Outbox) {
        let Some(mut attached) = self.attached.take() else {
            return;
        };
        while self.said < self.in_flight.len() && self.say_again(now, &mut attached, out) {}
        if self.said == self.in_flight.len() {
            while self.say_next(now, &mut attached, retained, out) {}
        }
        self.attached = Some(attached);
    }

    /// Returns whether something was said.
    fn say_again(&mut self, now: Instant, attached: &mut Attached, out: &mut Outbox) -> bool {
        if self.said >= attached.receive_maximum {
            return false;
        }
        let InFlight { packet_id, stage, .. } = &self.in_flight[self.said];
        let packet_id = *packet_id;
        match stage {
            Stage::Clearing(_) | Stage::Sent(_) if attached.credit == 0 => return false,
            Stage::Clearing(_) => {
                attached.credit -= 1;
                out.push(attached.key, pubrel(packet_id));
            }
            Stage::Sent(entry) => {
                attached.credit -= 1;
                let delivery = entry.delivery(now, packet_id, true);
                out.stats.publish_sent += 1;
                out.push(attached.key, Reply::Publish(delivery));
            }
            Stage::Taken(..) => {}
            Stage::Released(_) => out.push(attached.key, pubrel(packet_id)),
        }
        self.said += 1;
        true
    }

    /// Returns whether there may be more to say.
    fn say_next(
        &mut self,
        now: Instant,
        attached: &mut Attached,
        retained: &Retained,
        out: &mut Outbox,
    ) -> bool {
        if !self.scans.is_empty() && self.messages < REFILL_BELOW.min(self.bound.messages) {
            self.fetch_retained(now, retained);
        }
        let Some(front) = self.waiting.front() else {
            return false;
        };
        if front.has_expired(now) {
            if let Some(mut entry) = self.forget_front() {
                entry.settle();
            }
            out.stats.dropped_expired += 1;
            return true;
        }
        let tracked = front.qos > QoS::AtMostOnce;
        let exact = front.exact().filter(|_| self.kept.is_some());
        let exact = exact.map(|exact| (exact.packet_id(), exact.client_holds()));
        if attached.credit == 0
            || (tracked && self.in_flight.len() >= attached.receive_maximum)
            || exact.is_some_and(|(packet_id, _)| self.exact_ids.contains(&packet_id))
        {
            return false;
        }
        attached.credit -= 1;
        if !tracked {
            out.stats.publish_sent += 1;
            if let Some(entry) = self.forget_front() {
                out.push(attached.key, Reply::Publish(entry.into_delivery(now)));
            }
            return true;
        }
        let first_time = self.lap == 0 && front.qos == QoS::ExactlyOnce;
        let (packet_id, holds) = match exact {
            Some(exact) => exact,
            None if first_time => (self.next_packet_id(), Holds::Another),
            None => (self.next_packet_id(), Holds::Nothing),
        };
        self.exact_ids.extend(exact.map(|(packet_id, _)| packet_id));
        if let Some(entry) = self.waiting.pop_front() {
            let held_over = entry.held_over;
            // The client would take a QoS 2 message for that of an earlier life which it holds under the packet id.
            let stage = if self.restored && holds == Holds::Another {
                out.push(attached.key, pubrel(packet_id));
                Stage::Clearing(entry)
            } else {
                out.stats.publish_sent += 1;
                let delivery = entry.delivery(now, packet_id, self.restored && holds == Holds::It);
                out.push(attached.key, Reply::Publish(delivery));
                Stage::Sent(entry)
            };
            self.in_flight.push_back(InFlight {
                packet_id,
                lap: self.lap,
                held_over,
                stage,
            });
            self.said += 1;
        }
        true
    }

    /// A packet id that no exchange in flight uses. There are fewer exchanges than ids, by the receive maximum.
    fn next_packet_id(&mut self) -> u16 {
        loop {
            if self.next_id == *ORDINARY_IDS.end() {
                self.next_id = 0;
                self.lap = self.lap.wrapping_add(1);
            }
            self.next_id += 1;
            // In flight is in the order of sending: if the first is of this lap, no id ahead is taken.
            let free = match self.in_flight.front() {
                Some(first) if first.lap != self.lap => !self
                    .in_flight
                    .iter()
                    .any(|exchange| exchange.packet_id == self.next_id),
                Some(_) | None => true,
            };
            if free {
                return self.next_id;
            }
        }
    }

    /// The client holds nothing under the packet id any more: now the message.
    pub(super) fn say_cleared(&mut self, now: Instant, at: usize, out: &mut Outbox) {
        let Some(exchange) = self.in_flight.get_mut(at) else {
            return;
        };
        let stage = core::mem::replace(&mut exchange.stage, Stage::Released(None));
        let Stage::Clearing(entry) = stage else {
            exchange.stage = stage;
            return;
        };
        let expired = entry.has_expired(now);
        if let Some(attached) = &mut self.attached {
            if expired {
                attached.credit += 1;
            } else {
                out.stats.publish_sent += 1;
                let delivery = entry.delivery(now, exchange.packet_id, false);
                out.push(attached.key, Reply::Publish(delivery));
            }
        }
        exchange.stage = Stage::Sent(entry);
        if expired {
            out.stats.dropped_expired += 1;
            self.finish(at);
        }
    }
}
