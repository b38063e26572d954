//! What clients have a claim to: QoS 1 and 2 messages for a standing subscription, until acknowledged or dropped by rule,
//! because the queue is full or they are too old (A70), or too large (A63).

use core::time::Duration;

use bytes::Bytes;
use gateway_core::config::WhenFull;
use gateway_core::io::FilterId;
use gateway_core::time::Instant;
use sn_codec::{QoS, topic};

use super::Reference;
use super::client::{ClientModel, Phase};
use super::exchanges::{DownKind, ROUNDS};
use crate::Address;

#[derive(Debug, Clone)]
pub(super) struct Owed {
    pub(super) topic: String,
    pub(super) since: Instant,
}

impl Reference {
    /// Every client with a standing subscription that this message came for has a claim to it.
    pub(super) fn owe(&mut self, now: Instant, filters: &[FilterId], topic: &str, qos: QoS, payload: &Bytes) {
        if qos == QoS::AtMostOnce || payload.is_empty() {
            return;
        }
        let limit = self.config.sleep.max_messages;
        for client in &mut self.clients {
            let claimed = client.subs.iter().any(|(filter, sub)| {
                // Under an older number it came for a subscription that was given back.
                let number = self.numbers.get(filter.as_str());
                let came_for = filters.is_empty() || number.is_some_and(|id| filters.contains(id));
                came_for && sub.granted != QoS::AtMostOnce && topic::matches(filter, topic)
            });
            // A broker that repeats it does so for each filter, and for another than the client was served by.
            let served = client
                .started
                .get(payload)
                .is_some_and(|started| started.acknowledged);
            if !claimed || served || client.phase == Phase::Setup {
                continue;
            }
            // PUBLISH header and REGISTER with the whole name are the largest datagrams this can take (A63).
            let room = self.mtu - client.bound.as_ref().map_or(0, Address::overhead);
            if payload.len() + 9 > room || topic.len() + 8 > room {
                self.given_up += 1;
                continue;
            }
            let quirks = client.quirks;
            if qos == QoS::ExactlyOnce && (quirks.never_pubrec || quirks.refuses_unusual_publish) {
                // It may be granted QoS 1 only, and then gets it.
                self.given_up += 1;
                continue;
            }
            if client.ignores_register || client.refused_names.contains(topic) {
                // A40: an id it was never told cannot be used, so what needs a new one is dropped.
                self.given_up += 1;
                continue;
            }
            if client.owed.len() + 1 > limit {
                // A70: full, so what is new is dropped, and what follows it may be.
                self.given_up += 1;
                continue;
            }
            client.owed.insert(
                payload.clone(),
                Owed {
                    topic: topic.into(),
                    since: now,
                },
            );
        }
    }

    /// The gateway dropped messages for clients while it took this one: nobody has a claim to it (A70), nor to what
    /// may have had to make room.
    pub fn on_overflow(&mut self, payload: &Bytes) {
        let drops_oldest = self.config.sleep.when_full == WhenFull::DropOldest;
        let topic = self.messages.get(payload).map_or("", |message| &message.topic);
        for client in &mut self.clients {
            self.given_up += usize::from(client.owed.remove(payload).is_some());
            if drops_oldest && client.maybe.iter().any(|filter| topic::matches(filter, topic)) {
                self.given_up += client.owed.len();
                client.owed.clear();
            }
        }
    }

    /// A63: it moved behind a forwarder, which leaves less room, after the message came.
    pub(super) fn on_too_large(&mut self, client: &str, topic: &str, len: usize) {
        if let Some(model) = self.clients.iter_mut().find(|c| *c.id == *client) {
            let is = |payload: &Bytes, owed: &Owed| {
                owed.topic == *topic && (payload.len() + 7 == len || topic.len() + 6 == len)
            };
            model.owed.retain(|payload, owed| !is(payload, owed));
        }
    }

    /// QoS 1 and 2 messages that connected clients have not got yet.
    pub fn undelivered(&self) -> Vec<String> {
        self.clients
            .iter()
            .filter(|c| c.phase.is_connected())
            .flat_map(|c| {
                // A60: dropped after so many sends, with nothing said.
                let all_sends = c.sends_per_round * ROUNDS;
                let given_up = c.down.as_ref().filter(|d| !d.closed && d.sends >= all_sends);
                let dropped = move |(payload, owed): &(&Bytes, &Owed)| {
                    given_up.is_some_and(|d| match d.kind {
                        DownKind::Register => d.topic == owed.topic,
                        DownKind::Publish(_) | DownKind::Pubrel => d.payload.as_ref() == Some(*payload),
                    })
                };
                c.owed
                    .iter()
                    .filter(move |owed| !dropped(owed))
                    .map(|(p, o)| format!("{p:?} on {} to {} since {}", o.topic, c.id, o.since))
            })
            .collect()
    }
}

impl ClientModel {
    /// A70: what waited too long is dropped. Returns how many messages.
    pub(super) fn drop_too_old(&mut self, now: Instant, max_age: Duration) -> usize {
        let before = self.owed.len();
        self.owed.retain(|_, owed| now < owed.since + max_age);
        before - self.owed.len()
    }

    /// A63: it moved behind a forwarder, which leaves less room, after the message came. The notice of that may follow
    /// later. Returns how many messages.
    pub(super) fn drop_too_large(&mut self, room: usize) -> usize {
        let before = self.owed.len();
        self.owed
            .retain(|payload, owed| payload.len() + 7 <= room && owed.topic.len() + 6 <= room);
        before - self.owed.len()
    }
}
