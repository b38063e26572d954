//! What is not sent before something is durable: a later life would send it otherwise.

use core::sync::atomic::Ordering;

use sn_codec::{MsgId, QoS};

use super::Queued;
use crate::client::Client;
use crate::context::Context;
use crate::durable::records::Progress;
use crate::durable::{Waiting, progress_key};

impl Queued {
    /// It is sent when it is durable.
    pub(super) fn waits_for_disk(&self) -> bool {
        let stored = self.message.stored.as_ref();
        self.qos == QoS::ExactlyOnce && stored.is_some_and(|stored| stored.unsure.load(Ordering::Relaxed))
    }
}

impl Client {
    /// PUBREL leaves when it is durable that the client has the message: a later life must not send it again.
    pub(super) fn hold_pubrel(&mut self, cx: &mut Context) {
        let exchange = self.down.exchange();
        if exchange.is_some_and(|exchange| save_received(cx, &exchange.item)) {
            self.hold_exchange(cx);
        }
    }

    /// REGISTER leaves when a later life would not give its id to another name (reading A35).
    pub(super) fn hold_register(&mut self, cx: &mut Context) {
        if cx.journal.is_on() {
            self.topics.reserve();
            self.save(cx);
            self.hold_exchange(cx);
        }
    }

    /// The exchange goes on once what was gathered so far is durable.
    pub(super) fn hold_exchange(&mut self, cx: &mut Context) {
        let (client, serial) = (self.ix, self.serial);
        let Some(exchange) = self.down.exchange_mut() else {
            return;
        };
        let waiting = Waiting::Exchange {
            client,
            serial,
            msg_id: exchange.msg_id,
        };
        if cx.journal.wait(waiting).is_none() {
            (exchange.held, exchange.due, exchange.retry_at) = (true, false, None);
        }
    }

    /// What the exchange waited for is durable.
    pub(crate) fn release_exchange(&mut self, msg_id: MsgId) {
        if let Some(exchange) = self.down.exchange_mut()
            && exchange.held
            && exchange.msg_id == msg_id
        {
            (exchange.held, exchange.due) = (false, true);
        }
    }
}

/// Stores that the client has a QoS 2 message; false if it is not stored at all.
pub(super) fn save_received(cx: &mut Context, item: &Queued) -> bool {
    let (Some(stored), Some(place)) = (&item.message.stored, item.place) else {
        return false;
    };
    cx.journal
        .put(progress_key(stored.id, place), Progress::Received.encode());
    true
}
