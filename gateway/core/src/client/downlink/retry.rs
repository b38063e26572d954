//! When the open exchange is sent again, and when it is given up (reading A60).

use super::Downlink;
use super::exchange::Step;
use crate::client::{Client, State};
use crate::context::Context;
use crate::peer::LinkId;
use crate::time::Instant;

/// Rounds of sends after which a message that is never acknowledged is given up (reading A60).
pub(super) const ROUNDS_MAX: u8 = 6;

impl Downlink {
    /// Sends the open exchange again, as a new round; what is on its way has not been sent yet.
    pub(crate) fn repeat_now(&mut self) {
        if let Some(exchange) = self.exchange_mut() {
            exchange.due = exchange.in_flight.is_none() && !exchange.held;
            exchange.sends = 0;
        }
    }

    /// The client is there again: a parked exchange goes on with a new round.
    pub(crate) fn resume(&mut self) {
        if self.parked {
            self.parked = false;
            self.repeat_now();
        }
    }

    /// The client was heard: the next repeat comes Tretry after the last, for the longer waits are for those that are
    /// silent (reading A60).
    pub(crate) fn end_silence(&mut self) {
        if let Some(exchange) = self.exchange_mut() {
            exchange.retry_at = exchange.retry_at.map(|at| at.min(exchange.soonest));
            exchange.unheard = 0;
        }
    }

    /// The link is down: the open exchange goes on when it is back, as if it had not been sent.
    pub(crate) fn on_link_down(&mut self) {
        if self.parked {
            return;
        }
        if let Some(exchange) = self.exchange_mut()
            && !exchange.due
            && !exchange.held
        {
            exchange.due = true;
            exchange.sends = exchange.sends.saturating_sub(1);
            exchange.unheard = exchange.unheard.saturating_sub(1);
            (exchange.in_flight, exchange.retry_at) = (None, None);
        }
    }
}

impl Client {
    /// A datagram has left, and its answer is waited for: Tretry, or as long as the link needs (three round trips and
    /// what goes out meanwhile), and twice as long each time it is repeated.
    pub(super) fn wait_for_answer(&mut self, cx: &mut Context, now: Instant, link: LinkId, len: usize) {
        let needed = cx.links.answer_wait(now, link, len, &mut cx.rng);
        let retry = cx.config.retry(link);
        let Some(exchange) = self.down.exchange_mut() else {
            return;
        };
        let factor = 1_u32 << exchange.unheard.saturating_sub(1).min(16);
        let first = retry.first.max(needed);
        exchange.soonest = now + first;
        let wait = first.saturating_mul(factor);
        exchange.retry_at = Some(now + wait.min(retry.max.max(needed)));
    }

    /// Nretry is spent: the client is left alone until it is heard of again (reading A60).
    pub(super) fn end_round(&mut self, cx: &mut Context) {
        let Some(exchange) = self.down.exchange_mut() else {
            return;
        };
        exchange.item.rounds += 1;
        exchange.retry_at = None;
        let told = match exchange.step {
            Step::Register(id) => self.topics.by_id(id).is_some_and(|topic| topic.told),
            Step::Publish | Step::Pubrel => false,
        };
        if told {
            // Reading A40: emcute never answers REGISTER but knows the ids it asked for.
            self.down.no_register = !self.down.answers_register;
            self.publish_now();
            return;
        }
        if exchange.item.rounds >= ROUNDS_MAX {
            if matches!(exchange.step, Step::Register(_)) {
                self.down.no_register = !self.down.answers_register;
            }
            cx.metrics.poison_total += 1;
            self.finish_exchange(cx);
            return;
        }
        self.down.parked = true;
        if matches!(self.state, State::Awake(_)) {
            self.give_up_wake();
        }
    }
}
