//! Messages of clients: which PUBLISH is a new one and which a repeat (A46), that nothing is acknowledged before the broker
//! has it, and that they reach the broker in order, unchanged and no more often than they were received.

use bytes::Bytes;
use gateway_core::io::{BrokerRequest, Refusal, StoredUplink, Token};
use sn_codec::{MsgId, MsgType, Puback, Publish, PublishQoS, QoS, ReturnCode};

use super::Reference;
use super::client::ClientModel;
use super::requests::TokenState;
use super::violation::{Check, Violation, ensure};
use crate::ClientIx;
use crate::sim_client::Uplink;

/// A message of a client's application.
#[derive(Debug)]
pub(super) struct UplinkModel {
    pub(super) client: usize,
    topic: String,
    qos: PublishQoS,
    retain: bool,
    /// How often the datagrams received allow it to be published.
    pub(super) allowed: u32,
    /// The same, not counting what restarts of the gateway explain.
    meant: u32,
    emitted: u32,
    settled_ok: u32,
    /// Its client has an acknowledgement.
    pub(super) answered: bool,
    refused: Option<Refusal>,
    /// When it was first received; another time counts if that was refused.
    pub(super) order: Option<u64>,
    /// One copy was refused and another may be queued, so any order is right.
    any_order: bool,
}

#[derive(Debug)]
pub(super) struct UpExchange {
    pub(super) payload: Bytes,
    /// Messages that had the id before; the answer to one may be on its way.
    previous: Vec<Bytes>,
    pub(super) qos: QoS,
    /// Handed to the broker.
    pub(super) sent: bool,
    pub(super) finished: bool,
}

impl Reference {
    /// A client's application has a message.
    pub fn add_uplink(&mut self, client: ClientIx, uplink: &Uplink, topic: String) {
        let model = UplinkModel {
            client: self.models[client.0],
            topic,
            qos: uplink.qos,
            retain: uplink.retain,
            allowed: 0,
            meant: 0,
            emitted: 0,
            settled_ok: 0,
            answered: false,
            refused: None,
            order: None,
            any_order: false,
        };
        self.uplinks.insert(uplink.payload.clone(), model);
    }

    /// A PUBLISH came.
    pub(super) fn on_client_publish(&mut self, ix: usize, bound: bool, publish: Publish<'_>) {
        let client = &mut self.clients[ix];
        let Some(uplink) = self.uplinks.get_mut(publish.data) else {
            return;
        };
        let PublishQoS::Level(qos) = publish.qos else {
            uplink.allowed += 1;
            uplink.meant += 1;
            return;
        };
        if !bound || !client.accepts() {
            return;
        }
        *client.due.entry((MsgType::Puback, publish.msg_id)).or_insert(0) += 1;
        let same = client
            .up
            .get(&publish.msg_id)
            .filter(|open| open.payload == publish.data);
        let known = match (qos, same) {
            (QoS::AtMostOnce, _) => false,
            // A46: what waits for the broker is swallowed, and a repeat of the last one only acknowledged.
            (QoS::AtLeastOnce, Some(open)) if !open.finished => true,
            (QoS::AtLeastOnce, _) => {
                publish.dup
                    && client
                        .last_finished
                        .as_ref()
                        .is_some_and(|(id, payload)| *id == publish.msg_id && payload == publish.data)
            }
            // A46: held until PUBREL.
            (QoS::ExactlyOnce, Some(open)) => !open.finished,
            (QoS::ExactlyOnce, None) => false,
        };
        // A life that did not find the message takes a repeat for it.
        uplink.order.get_or_insert(self.ingress);
        if known {
            return;
        }
        uplink.allowed += 1;
        uplink.meant += 1;
        if qos != QoS::AtMostOnce {
            let payload = Bytes::copy_from_slice(publish.data);
            let before = client.up.remove(&publish.msg_id);
            let previous = before.map(|before| [before.previous, vec![before.payload]].concat());
            let previous = previous.unwrap_or_default();
            client.up.insert(
                publish.msg_id,
                UpExchange {
                    payload,
                    previous,
                    qos,
                    sent: false,
                    finished: false,
                },
            );
        }
    }

    /// The gateway hands a message to the broker.
    pub(super) fn on_published(&mut self, request: &BrokerRequest) -> Check {
        let BrokerRequest::Publish {
            conn,
            token,
            topic,
            qos,
            retain,
            payload,
            stored,
            ..
        } = request
        else {
            return Ok(());
        };
        let told = || format!("{request:?}");
        let token = *token;
        self.track(*conn, token, request)?;
        if let Some(&ix) = self.wills.get(payload) {
            let lost = token.is_some_and(|t| self.tokens[&t].state == TokenState::Lost);
            return if lost {
                self.reopen(token)
            } else {
                self.on_will(ix, topic, *qos, *retain, payload)
            };
        }
        if payload.is_empty() {
            return Ok(());
        }
        let resubmitted = token.is_some_and(|t| self.tokens[&t].state == TokenState::Lost);
        let Some(uplink) = self.uplinks.get_mut(payload) else {
            return Err(Violation::new("nothing arrives that was not sent", told()));
        };
        let expected = format!("{}{}", self.config.upstream.topic_prefix, uplink.topic);
        let by_chance = self.clients[uplink.client].ids_collided;
        ensure(
            **topic == *expected || by_chance,
            "a message keeps its topic",
            || format!("{expected}: {}", told()),
        )?;
        let level = match uplink.qos {
            PublishQoS::MinusOne => QoS::AtMostOnce,
            PublishQoS::Level(level) => level,
        };
        ensure(
            *qos == level && *retain == uplink.retain,
            "a message keeps QoS and Retain",
            told,
        )?;
        if resubmitted {
            return self.reopen(token);
        }
        let author = uplink.client;
        // One that was refused for now may have been sent before what was lost (A50), maybe in an earlier life.
        let order = token
            .and_then(|token| self.tokens.get(&token))
            .map(|own| own.order);
        let number = |stored: &Option<StoredUplink>| stored.as_ref().map(|stored| stored.key.id);
        let overtaken = self.tokens.values().find(|model| match &model.request {
            BrokerRequest::Publish {
                payload,
                conn: on,
                stored: lost,
                ..
            } if model.state == TokenState::Lost
                && on == conn
                && order.is_none_or(|order| model.order < order)
                && (number(stored).is_none() || number(lost) <= number(stored)) =>
            {
                self.uplinks
                    .get(payload)
                    .is_some_and(|lost| lost.client == author)
            }
            _ => false,
        });
        ensure(
            overtaken.is_none() || *qos == QoS::AtMostOnce,
            "nothing overtakes what was lost",
            || format!("{:?}: {}", overtaken.map(|model| &model.request), told()),
        )?;
        let Some(uplink) = self.uplinks.get_mut(payload) else {
            return Ok(());
        };
        uplink.emitted += 1;
        if let Some(model) = token.and_then(|t| self.tokens.get_mut(&t)) {
            model.msg_id = self.clients[uplink.client].next_unsent(payload);
        }
        ensure(
            uplink.emitted <= uplink.allowed,
            "published no more often than received (A46)",
            || format!("{} times, {} allowed: {}", uplink.emitted, uplink.allowed, told()),
        )?;
        let class = match self.durable {
            // QoS 2 has a connection of its own then.
            true => level as usize,
            false => usize::from(level != QoS::AtMostOnce),
        };
        let last = &mut self.clients[uplink.client].emitted_order[class];
        // Spooled or not, QoS 0 goes when it can.
        let spooled = self.config.durability.as_ref().is_some_and(|rules| rules.qos0);
        let any_order = uplink.any_order || (spooled && level == QoS::AtMostOnce);
        if uplink.emitted == 1
            && !any_order
            && let Some(order) = uplink.order
        {
            ensure(order > *last, "a client's messages keep their order", told)?;
            *last = order;
        }
        Ok(())
    }

    /// The broker answers the message of a client.
    pub(super) fn on_publish_settled(
        &mut self,
        msg_id: Option<MsgId>,
        payload: &Bytes,
        refused: Option<Refusal>,
    ) {
        if let Some(uplink) = self.uplinks.get_mut(payload) {
            match refused {
                None => {
                    uplink.settled_ok += 1;
                    self.clients[uplink.client].settled(msg_id, payload);
                }
                Some(refusal) => {
                    if refusal != Refusal::QUOTA_EXCEEDED {
                        uplink.refused = Some(refusal);
                    }
                    // Over, whether or not its client is there to be told: a repeat is a new attempt.
                    let client = &mut self.clients[uplink.client];
                    let open = client.up.values_mut().filter(|e| e.payload == *payload);
                    open.for_each(|exchange| exchange.finished = true);
                }
            }
        }
    }

    /// A50: what the broker refuses for now may be sent again, and has to arrive if its client has the answer.
    pub(super) fn on_postponed(&mut self, token: Token, order: u64, payload: &Bytes) {
        if let Some(uplink) = self.uplinks.get_mut(payload) {
            // What a disk in trouble was given may be durable without a word.
            let kept = self.spooled.contains(payload) || self.disk_failed_since_start;
            uplink.allowed += u32::from(kept);
        } else if let Some(&ix) = self.wills.get(payload) {
            let client = &mut self.clients[ix];
            let emitted = client.wills_emitted.iter();
            let again = emitted.filter(|will| will.payload == *payload).cloned();
            client.wills_again.extend(again);
        } else {
            return;
        }
        self.postponed.insert(token, order);
    }

    /// The gateway acknowledges a QoS 1 message, or refuses one of any QoS.
    pub(super) fn on_puback(&mut self, ix: usize, puback: Puback) -> Check {
        let client = &mut self.clients[ix];
        let refused = puback.return_code != ReturnCode::Accepted;
        let exactly_once = client
            .up
            .get(&puback.msg_id)
            .is_some_and(|e| e.qos == QoS::ExactlyOnce);
        let due = client
            .due
            .get(&(MsgType::Puback, puback.msg_id))
            .is_some_and(|due| *due > 0);
        if client.restored && refused && exactly_once && !due {
            // An earlier life was told so, and its successor, which may not know, is told so again.
            return Ok(());
        }
        client.pay(MsgType::Puback, puback.msg_id)?;
        let Some(exchange) = client.up.get_mut(&puback.msg_id) else {
            return ensure(
                puback.return_code != ReturnCode::Accepted,
                "PUBACK answers a PUBLISH",
                || format!("{puback:?} to {}", client.id),
            );
        };
        let settled = |payload: &Bytes| {
            let uplink = self.uplinks.get(payload);
            uplink.is_some_and(|uplink| uplink.settled_ok > 0) || self.spooled.contains(payload)
        };
        let late = exchange.previous.iter().any(settled);
        let unclear = late && (exchange.qos != QoS::AtLeastOnce || !settled(&exchange.payload));
        if puback.return_code != ReturnCode::Accepted && !exchange.previous.is_empty() {
            // Of the messages that had this id it may be about any.
            for payload in exchange.previous.iter().chain([&exchange.payload]) {
                if let Some(uplink) = self.uplinks.get_mut(payload) {
                    uplink.any_order |= uplink.settled_ok == 0;
                }
            }
        }
        if unclear {
            return Ok(());
        }
        exchange.finished = true;
        let Some(uplink) = self.uplinks.get_mut(&exchange.payload) else {
            return Ok(());
        };
        if puback.return_code != ReturnCode::Accepted {
            uplink.order = None;
            uplink.any_order |= uplink.allowed > 1;
            return Ok(());
        }
        ensure(
            exchange.qos == QoS::AtLeastOnce,
            "a PUBACK without error answers QoS 1 only",
            || format!("{puback:?} to {}", client.id),
        )?;
        uplink.answered = true;
        let spooled = self.spooled.contains(&exchange.payload);
        ensure(
            uplink.settled_ok > 0 || spooled,
            "no PUBACK before the broker's",
            || {
                format!(
                    "{puback:?} to {} for {:?}, refused {:?}",
                    client.id, exchange.payload, uplink.refused
                )
            },
        )
    }

    /// The gateway acknowledges a QoS 2 message.
    pub(super) fn on_pubrec(&mut self, ix: usize, msg_id: MsgId) -> Check {
        let client = &mut self.clients[ix];
        let exchange = client.up.get(&msg_id).filter(|e| e.qos == QoS::ExactlyOnce);
        let exchange = exchange.ok_or_else(|| {
            Violation::new("PUBREC answers a PUBLISH", format!("{msg_id} to {}", client.id))
        })?;
        let uplink = self.uplinks.get_mut(&exchange.payload);
        let spooled = self.spooled.contains(&exchange.payload);
        let settled = uplink.is_none_or(|uplink| {
            uplink.answered = true;
            uplink.settled_ok > 0
        });
        ensure(settled || spooled, "no PUBREC before the broker's", || {
            format!("{msg_id} to {}", client.id)
        })
    }

    /// The broker did not want a message; its client may have been answered before.
    pub fn was_refused(&self, payload: &[u8]) -> bool {
        self.uplinks
            .get(payload)
            .is_some_and(|uplink| uplink.refused.is_some())
    }

    /// QoS 2 messages of clients, and how often they may reach the broker.
    pub fn exactly_once(&self) -> impl Iterator<Item = (&Bytes, u32)> {
        let exactly_once = PublishQoS::Level(QoS::ExactlyOnce);
        let uplinks = self
            .uplinks
            .iter()
            .filter(move |(_, uplink)| uplink.qos == exactly_once);
        uplinks.map(|(payload, uplink)| (payload, uplink.meant))
    }

    /// How often a client's message was published, beyond what a lost session explains.
    pub fn emitted(&self, payload: &[u8]) -> u32 {
        self.uplinks.get(payload).map_or(0, |uplink| uplink.emitted)
    }

    /// How often the datagrams received allow a client's message to be published.
    pub fn allowed(&self, payload: &[u8]) -> u32 {
        self.uplinks.get(payload).map_or(0, |uplink| uplink.allowed)
    }
}

impl ClientModel {
    /// The oldest PUBLISH with this payload that was not handed to the broker.
    fn next_unsent(&mut self, payload: &Bytes) -> Option<MsgId> {
        if let Some(count) = self.abandoned.get_mut(payload).filter(|count| **count > 0) {
            *count -= 1;
            return None;
        }
        let unsent = |e: &UpExchange| e.payload == *payload && !e.finished && !e.sent;
        let (msg_id, exchange) = self.up.iter_mut().find(|(_, exchange)| unsent(exchange))?;
        exchange.sent = true;
        Some(*msg_id)
    }

    /// The broker has a QoS 1 message: over, whether or not the client is there to be told.
    pub(super) fn settled(&mut self, msg_id: Option<MsgId>, payload: &Bytes) {
        let open = |e: &&mut UpExchange| e.payload == *payload && e.qos == QoS::AtLeastOnce && !e.finished;
        let exchange = msg_id.and_then(|id| self.up.get_mut(&id)).filter(open);
        // Whatever else it answers may be the last one finished as the gateway sees it.
        self.last_finished = exchange.and_then(|exchange| {
            exchange.finished = true;
            Some((msg_id?, payload.clone()))
        });
    }

    /// The client releases a QoS 2 message.
    pub(super) fn on_client_pubrel(&mut self, msg_id: MsgId) {
        self.owe_answer(MsgType::Pubcomp, msg_id);
        if let Some(exchange) = self.up.get_mut(&msg_id) {
            exchange.finished = true;
        }
    }
}
