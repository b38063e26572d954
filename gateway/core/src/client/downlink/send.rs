//! The next datagram of a delivery, and what became of it on the link.

use core::time::Duration;

use sn_codec::QoS;

use super::Queued;
use super::exchange::Step;
use super::retry::ROUNDS_MAX;
use crate::budget::Share;
use crate::client::{Client, State};
use crate::context::Context;
use crate::io::{Notice, TxTicket};
use crate::links::{Link, What};
use crate::schedule::Line;
use crate::time::Instant;

/// Times in a row that a link may refuse the same datagram before that counts as sent in vain; taste.
const UNSENT_MAX: u8 = 16;

/// The next datagram for a client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Next {
    /// Octets of the message, without the frame of a forwarder.
    pub(crate) len: usize,
    pub(crate) share: Share,
}

impl Client {
    /// Which line the next datagram is for.
    pub(crate) fn next_line(&self) -> Line {
        if matches!(self.state, State::Awake(_)) {
            return Line::Awake;
        }
        let qos0 = match self.down.exchange() {
            Some(exchange) => exchange.is_qos0_publish(),
            None => self
                .down
                .queue()
                .next()
                .is_some_and(|item| item.qos == QoS::AtMostOnce),
        };
        if qos0 { Line::Qos0 } else { Line::Exchange }
    }

    /// The next datagram of the delivery, which [`Client::send`] then makes; `None` if there is nothing to send after
    /// all.
    pub(crate) fn prepare(&mut self, cx: &mut Context, now: Instant) -> Option<Next> {
        let mtu = self.mtu(cx);
        while self.wants_to_deliver(now) {
            if !self.down.has_exchange() {
                self.drop_expired(cx, now);
                self.begin(cx);
            }
            let Some(exchange) = self.down.exchange().filter(|exchange| exchange.due) else {
                continue;
            };
            let len = exchange.packet(false).encoded_len();
            if len <= mtu {
                let share = match exchange.step {
                    Step::Publish => Share::Data,
                    Step::Register(_) | Step::Pubrel => Share::Control,
                };
                return Some(Next { len, share });
            }
            cx.links.count_too_long(self.via.as_ref());
            self.too_large(cx, len);
        }
        None
    }

    /// §6.10, reading A63: a message that does not fit is given up without telling the client, never truncated.
    pub(crate) fn too_large(&mut self, cx: &mut Context, len: usize) {
        cx.metrics.too_large_total += 1;
        if let Some(exchange) = self.down.exchange() {
            cx.notice(Notice::TooLarge {
                client: self.id.clone(),
                topic: exchange.item.message.topic.clone(),
                len,
            });
        }
        self.finish_exchange(cx);
    }

    /// Encodes what the open exchange is at. `len` is that of the whole datagram. Returns what is to be remembered of
    /// it if the link will report it.
    pub(crate) fn send(
        &mut self,
        cx: &mut Context,
        now: Instant,
        ticket: TxTicket,
        len: usize,
        buf: &mut Vec<u8>,
    ) -> Option<What> {
        let no_dup = self.down.no_dup;
        let link = self.via.as_ref().map(|via| via.link)?;
        let confirms = cx.links.get(link).is_some_and(Link::confirms);
        let (client, serial) = (self.ix, self.serial);
        let exchange = self.down.exchange_mut()?;
        let again = exchange.sends > 0 || exchange.item.rounds > 0;
        let dup = exchange.published && !no_dup;
        let packet = exchange.packet(dup);
        packet.encode(buf);
        cx.metrics.count_sent(packet.msg_type());
        cx.metrics.retransmissions_total += u64::from(again);
        if exchange.is_qos0_publish() {
            let item = confirms.then(|| exchange.item.clone());
            self.finish_delivered(cx);
            return item.map(|item| What::Qos0 { client, serial, item });
        }
        exchange.published_before = exchange.published;
        if exchange.step == Step::Publish {
            (exchange.published, exchange.sent_dup) = (true, dup);
        }
        exchange.due = false;
        exchange.sends += 1;
        exchange.unheard = exchange.unheard.saturating_add(1);
        if confirms {
            // Its answer is waited for once it has left.
            (exchange.in_flight, exchange.retry_at) = (Some(ticket), None);
            return Some(What::Exchange { client, serial });
        }
        let airtime = cx
            .links
            .get(link)
            .map_or(Duration::ZERO, |link| link.airtime(len));
        self.wait_for_answer(cx, now + airtime, link, len);
        None
    }

    /// A step of the exchange left the antenna.
    pub(crate) fn on_sent(&mut self, cx: &mut Context, now: Instant, ticket: TxTicket, len: usize) {
        let Some(link) = self.via.as_ref().map(|via| via.link) else {
            return;
        };
        let exchange = self.down.exchange_mut();
        let Some(exchange) = exchange.filter(|exchange| exchange.in_flight == Some(ticket)) else {
            return;
        };
        exchange.in_flight = None;
        exchange.unsent = 0;
        if !exchange.due {
            self.wait_for_answer(cx, now, link, len);
        }
    }

    /// It never left: it is due again, and was not sent in vain. `None` is whatever was on its way.
    pub(crate) fn on_unsent(&mut self, ticket: Option<TxTicket>) {
        let Some(exchange) = self.down.exchange_mut() else {
            return;
        };
        if exchange.in_flight.is_none() || ticket.is_some_and(|ticket| exchange.in_flight != Some(ticket)) {
            return;
        }
        exchange.in_flight = None;
        exchange.unsent = exchange.unsent.saturating_add(1);
        exchange.published = exchange.published_before;
        exchange.due = true;
        // What the link refuses again and again must not stay in front for ever.
        if exchange.unsent < UNSENT_MAX {
            exchange.sends = exchange.sends.saturating_sub(1);
            exchange.unheard = exchange.unheard.saturating_sub(1);
        }
    }

    /// A QoS 0 message that never left: it is the next one again.
    pub(crate) fn take_back(&mut self, cx: &mut Context, mut item: Queued) {
        item.rounds += 1;
        if item.rounds > ROUNDS_MAX || !self.state.is_connected() {
            cx.metrics.buffer_qos0_dropped_total += 1;
            return;
        }
        cx.metrics.delivered_total -= 1;
        cx.metrics.buffer_messages += 1;
        cx.metrics.buffer_bytes += item.message.size() as u64;
        let work = self.down.work.get_or_insert_default();
        work.bytes += item.message.size();
        work.queue.push_front(item);
    }
}
