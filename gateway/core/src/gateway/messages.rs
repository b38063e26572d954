//! A message of the broker: to everyone it is for, and into the store.

use core::hash::{Hash as _, Hasher as _};
use core::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use sn_codec::QoS;

use super::Gateway;
use crate::client::downlink::{Message, Stored};
use crate::clients::ClientIx;
use crate::durable::records::{MessageRecord, Recipient};
use crate::durable::{RECIPIENTS_MAX, Waiting, message_key};
use crate::io::{ConnId, DeliveryId, FilterId};
use crate::subscriptions::Arrival;
use crate::time::Instant;

impl Gateway {
    /// True if something of it is stored.
    #[expect(clippy::too_many_arguments, reason = "the fields of one event")]
    pub(super) fn on_message(
        &mut self,
        now: Instant,
        filters: &[FilterId],
        topic: &Arc<str>,
        qos: QoS,
        retain: bool,
        payload: Bytes,
        from: Option<(ConnId, DeliveryId)>,
    ) -> bool {
        self.cx.metrics.messages_total += 1;
        let mut hasher = rustc_hash::FxHasher::default();
        (topic, &payload).hash(&mut hasher);
        let arrival = Arrival {
            ids: filters,
            topic,
            retain,
            digest: NonZeroU32::MIN | hasher.finish() as u32,
            qos,
            is_status: self.status.is_own_topic(topic),
        };
        let mut recipients = core::mem::take(&mut self.recipients);
        self.cx.subscriptions.recipients(now, arrival, &mut recipients);
        if recipients.is_empty() {
            self.cx.metrics.messages_unmatched_total += 1;
        }
        // A payload may be a part of what the broker's port has read. Who waits for long keeps only his own.
        let waits = |ix: &ClientIx| self.clients.get(*ix).is_some_and(|client| !client.may_deliver());
        let payload = match recipients.iter().any(|(ix, _)| waits(ix)) {
            true => Bytes::copy_from_slice(&payload),
            false => payload,
        };
        let mut any_stored = false;
        let unsure = from.is_some() && self.cx.journal.works();
        for recipients in recipients.chunks(RECIPIENTS_MAX) {
            let id = self.cx.journal.is_on().then(|| self.cx.journal.new_id());
            let message = Arc::new(Message {
                topic: topic.clone(),
                payload: payload.clone(),
                retain,
                stored: id.map(|id| Stored::new(id, from, unsure)),
            });
            let mut places = Vec::new();
            for &(ix, granted) in recipients {
                if let Some(client) = self.clients.get_mut(ix) {
                    places.extend(client.deliver(&mut self.cx, now, &message, qos.min(granted)));
                }
                self.after(now, ix);
            }
            if let (Some(id), false) = (id, places.is_empty()) {
                any_stored = true;
                self.store_message(now, id, &message, places);
                if from.is_some() {
                    self.send_when_durable(message, recipients);
                }
            }
        }
        self.recipients = recipients;
        any_stored
    }

    /// Whoever gets it with QoS 2 does so when it is durable.
    fn send_when_durable(&mut self, message: Arc<Message>, recipients: &[(ClientIx, QoS)]) {
        let exactly_once = recipients
            .iter()
            .filter(|(_, granted)| *granted == QoS::ExactlyOnce);
        let clients = exactly_once.filter_map(|(ix, _)| Some((*ix, self.clients.get(*ix)?.serial)));
        let clients: Vec<(ClientIx, u32)> = clients.collect();
        if !clients.is_empty() {
            // Without a disk that works it was not held back.
            let _ = self.cx.journal.wait(Waiting::Message(message, clients));
        }
    }

    fn store_message(&mut self, now: Instant, id: u64, message: &Message, recipients: Vec<Recipient>) {
        let from = message.stored.as_ref().and_then(|stored| stored.from);
        let record = MessageRecord {
            from,
            since_ms: self.cx.journal.unix_ms(now),
            retain: message.retain,
            topic: message.topic.clone(),
            payload: message.payload.clone(),
            recipients,
        };
        self.cx.journal.put(message_key(id), record.encode());
        if let Some((conn, delivery)) = from {
            self.cx.journal.receive(conn, delivery, id);
        }
    }
}
