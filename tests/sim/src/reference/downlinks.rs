//! Messages to clients: what a PUBLISH may bring to whom. It was sent, under this topic and with this Retain (A66), to a
//! subscriber, at no higher QoS than its own and the subscription's (A54), once, and not too late (A70).

use core::time::Duration;
use std::collections::BTreeSet;

use bytes::Bytes;
use gateway_core::io::{BrokerEvent, BrokerRequest, ConnId, DeliveryId};
use gateway_core::time::Instant;
use sn_codec::{MsgId, Publish, PublishQoS, QoS, TopicRef, topic};

use super::exchanges::{DownKind, Next};
use super::topic_ids::Names;
use super::violation::{Check, Violation, ensure};
use super::{LATE, Reference};
use crate::ClientIx;
use crate::sim_broker::{Publication, came_before};

/// A message from the broker.
#[derive(Debug, Default)]
pub(super) struct MessageModel {
    pub(super) topic: String,
    /// When it came last.
    since: Instant,
    publications: BTreeSet<Publication>,
    /// Further copies, one per filter, of which it is not sure whether they are for the same clients.
    uncertain_copies: usize,
    highest: QoS,
    retain_seen: [bool; 2],
}

#[derive(Debug, Default)]
pub(super) struct Started {
    pub(super) exchanges: usize,
    pub(super) msg_id: Option<MsgId>,
    /// Exchanges that a new session interrupted.
    pub(super) interrupted: usize,
    pub(super) acknowledged: bool,
    /// PUBREL was sent.
    pub(super) released: bool,
    /// The client did not know its topic id, so it came again under another message id (A41).
    pub(super) unknown_topic: bool,
    /// That topic's name.
    pub(super) refused_as: String,
    /// It was on its way when the client began a clean session that looked like the repeat of its last CONNECT (A18).
    pub(super) resumed: bool,
}

impl Reference {
    /// The broker sends a message.
    pub(super) fn on_message(&mut self, now: Instant, event: &BrokerEvent, publication: Option<Publication>) {
        let BrokerEvent::Message {
            conn,
            delivery,
            filters,
            topic,
            qos,
            retain,
            payload,
        } = event
        else {
            return;
        };
        if let Some(delivery) = delivery {
            // With QoS 1 what comes again over another connection has another name.
            let before = |((of, name), known): (&(ConnId, DeliveryId), &Bytes)| {
                let earlier = of == conn && known == payload && came_before(*name, *delivery);
                earlier.then_some((*of, *name))
            };
            if let Some(before) = self.unacknowledged.iter().find_map(before) {
                self.unacknowledged.remove(&before);
            }
            self.unacknowledged.insert((*conn, *delivery), payload.clone());
        }
        let again = self.orphans.remove(payload);
        let message = self.messages.entry(payload.clone()).or_default();
        message.topic = topic.to_string();
        message.since = now;
        message.highest = message.highest.max(*qos);
        message.retain_seen[usize::from(*retain)] = true;
        let new = publication.is_none_or(|p| message.publications.insert(p)) || again;
        // While a SUBSCRIBE is unanswered nobody can tell whether another copy comes for its filter.
        let unanswered = self.tokens.values().any(|model| match &model.request {
            BrokerRequest::Subscribe { filter, .. } => topic::matches(filter, topic),
            _ => false,
        });
        // Nor may a life know the number of a filter that the disk did not keep.
        message.uncertain_copies += usize::from(!new && (unanswered || self.disk_failed));
        if new && !retain {
            self.owe(now, filters, topic, *qos, payload);
        }
    }

    /// The gateway sends a PUBLISH.
    pub(super) fn on_publish(&mut self, now: Instant, ix: usize, publish: Publish<'_>) -> Check {
        let names = Names {
            rules: &self.config.clients,
            config: &self.config,
        };
        let first_retry = self.config.timers.retry_first;
        let sends_per_round = u32::from(self.config.timers.retry_count) + 1;
        let client = &self.clients[ix];
        let PublishQoS::Level(qos) = publish.qos else {
            return Err(Violation::new(
                "no QoS -1 towards clients",
                format!("{publish:?}"),
            ));
        };
        let id = client.id.clone();
        let told = || format!("{publish:?} to {id}");
        let name = match publish.topic {
            TopicRef::Normal(id) => client.names.get(&id).cloned(),
            TopicRef::Predefined(id) => names.predefined(&client.id, id),
            TopicRef::Short(short) => short.as_str().map(String::from),
        };
        let name = name.ok_or_else(|| Violation::new("the client knows the topic id", told()))?;
        if let TopicRef::Normal(id) = publish.topic {
            ensure(
                client.may_be_sent(id, &name, publish.msg_id),
                "an id is confirmed in this connection before it is used (A39)",
                told,
            )?;
        }
        self.is_as_sent(ix, &publish, qos, &name)?;

        let payload = Bytes::copy_from_slice(publish.data);
        let client = &mut self.clients[ix];
        let same = client
            .down
            .as_ref()
            .is_some_and(|d| !d.closed && d.msg_id == publish.msg_id);
        let repeat = qos != QoS::AtMostOnce && same;
        let registered = client.down.as_ref().is_some_and(|d| d.kind == DownKind::Register);
        let released = same
            && client
                .down
                .as_ref()
                .is_some_and(|d| d.kind == DownKind::Pubrel && d.payload.as_ref() == Some(&payload));
        let done = client
            .started
            .get(&payload)
            .is_some_and(|started| started.released);
        let released = released && (done || !client.restored);
        ensure(!released, "QoS 2 is not delivered again after PUBREC", told)?;
        if qos == QoS::AtMostOnce {
            ensure(
                publish.msg_id == MsgId(0) && !publish.dup,
                "QoS 0 has no message id and no DUP",
                told,
            )?;
            let open = client
                .down
                .as_ref()
                .is_some_and(|d| d.is_open(now, sends_per_round));
            ensure(!open, "nothing overtakes an open exchange (A59)", told)?;
            if let Some(down) = client.down.as_mut().filter(|d| d.kind == DownKind::Register) {
                let unanswered = !down.closed && !down.stale;
                down.closed = true;
                if unanswered {
                    self.given_up += client.register_unanswered(None);
                }
            }
        } else {
            let [high, low] = publish.msg_id.0.to_be_bytes();
            ensure(
                high != 0 && high != low,
                "message ids can be told from their mirror (A64)",
                told,
            )?;
            let since = self.messages.get(&payload).map_or(now, |message| message.since);
            let next = Next {
                kind: DownKind::Publish(qos),
                msg_id: publish.msg_id,
                payload: Some(payload.clone()),
                topic: &name,
                dup: Some(publish.dup),
                expires: since + self.config.sleep.max_age,
            };
            self.given_up += client.exchange(now, &next, first_retry, sends_per_round)?;
        }
        client.wake_messages += usize::from(!repeat);
        if !repeat && !payload.is_empty() {
            self.on_delivery(now, ix, &publish, registered)?;
        }
        Ok(())
    }

    /// What a PUBLISH says is what the broker sent, and the client asked for its topic and QoS (A54).
    fn is_as_sent(&self, ix: usize, publish: &Publish<'_>, qos: QoS, name: &str) -> Check {
        let client = &self.clients[ix];
        let told = || format!("{publish:?} to {}", client.id);
        if !publish.data.is_empty() {
            let message = self.messages.get(publish.data);
            let message =
                message.ok_or_else(|| Violation::new("nothing arrives that was not sent", told()))?;
            ensure(message.topic == name, "a message keeps its topic", || {
                format!("{} sent as {name}: {}", message.topic, told())
            })?;
            ensure(qos <= message.highest, "QoS is not raised", told)?;
            ensure(
                message.retain_seen[usize::from(publish.retain)],
                "Retain as delivered (A66)",
                told,
            )?;
        }
        let asked = client
            .ever
            .iter()
            .filter(|(filter, _)| topic::matches(filter, name))
            .map(|(_, qos)| *qos)
            .max();
        let asked = asked.ok_or_else(|| Violation::new("only to subscribers", told()))?;
        ensure(qos <= asked, "QoS is not above the subscription's", told)
    }

    /// An exchange with a message begins: not too late (A70), and no more often than the broker sent it.
    fn on_delivery(&mut self, now: Instant, ix: usize, publish: &Publish<'_>, registered: bool) -> Check {
        let client = &mut self.clients[ix];
        let payload = Bytes::copy_from_slice(publish.data);
        let message = self.messages.get(&payload);
        let publications = message.map_or(0, |m| m.publications.len() + m.uncertain_copies);
        let started = client.started.entry(payload).or_default();
        let age = message.map_or(Duration::ZERO, |message| now.since(message.since));
        ensure(
            age < self.config.sleep.max_age + LATE || registered || started.exchanges > 0,
            "nothing too old is delivered (A70)",
            || format!("{age:?}: {publish:?} to {}", client.id),
        )?;
        started.exchanges += 1;
        // A subscription that the disk did not keep may still stand at the broker.
        let lost = if self.disk_failed { publications } else { 0 };
        let allowed = publications + started.interrupted + lost;
        ensure(
            started.exchanges <= allowed,
            "one delivery per client and message",
            || {
                format!(
                    "{} exchanges, {allowed} allowed: {publish:?} to {}",
                    started.exchanges, client.id
                )
            },
        )?;
        let again =
            publish.qos == PublishQoS::Level(QoS::ExactlyOnce) && started.acknowledged && publications == 1;
        // Until PUBREL a later life may not know of its PUBREC, and the client knows it by its message id.
        let again = again && (started.released || !client.restored);
        ensure(!again, "QoS 2 is not delivered again after PUBREC", || {
            format!("{publish:?} to {}", client.id)
        })?;
        if publications > 1 {
            // What was released may have been another.
            started.released = false;
        }
        Ok(())
    }

    /// A message may look new to a client that has it: it came again under another message id, or to a client that had
    /// begun a clean session and forgotten it, which the gateway could not know.
    pub fn may_look_new(&self, client: ClientIx, payload: &[u8]) -> bool {
        let model = self.model(client);
        let started = model.started.get(payload);
        started.is_some_and(|started| started.unknown_topic || (started.resumed && model.clean))
    }

    /// The messages that a client acknowledged.
    pub fn acknowledged_by(&self, client: ClientIx) -> impl Iterator<Item = &Bytes> {
        let started = self.model(client).started.iter();
        started
            .filter(|(_, started)| started.acknowledged)
            .map(|(payload, _)| payload)
    }

    /// The broker sent copies of this message per filter while it was unknown which filters stood (A57).
    pub fn has_uncertain_copies(&self, payload: &[u8]) -> bool {
        self.messages
            .get(payload)
            .is_some_and(|message| message.uncertain_copies > 0)
    }
}
