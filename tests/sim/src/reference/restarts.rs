//! Lives of the gateway: what it stores, what the next one must find there, and what may come again because the last one
//! ended before it could note that it was done.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use gateway_core::config::WhenDown;
use gateway_core::io::{ConnId, DeliveryId, StoreEvent, StoreKey, Ticket, Will};
use gateway_core::time::Instant;
use rustc_hash::FxHashSet;
use sn_codec::{MsgId, MsgType, QoS, TopicId, topic};

use super::Reference;
use super::client::{ClientModel, Phase};
use super::subscriptions::Sub;
use super::uplinks::UpExchange;
use super::violation::{Check, Violation, ensure};
use crate::Address;
use crate::admission::ForwarderLimits;
use crate::saved::{SavedPhase, SavedSession, SavedUplink, kind, message_from, message_payload};

/// What a record in the store stands for.
#[derive(Debug, Clone)]
pub(super) struct SavedModel {
    bound: Option<Address>,
    parameters: Option<(bool, bool, u16)>,
    will: Option<Will>,
    subs: BTreeMap<String, Sub>,
    maybe: BTreeSet<String>,
    names: BTreeMap<TopicId, String>,
    confirmed: BTreeSet<TopicId>,
    refused_names: BTreeSet<String>,
    ignores_register: bool,
    answers_register: bool,
    no_dup: bool,
    losses: u32,
}

/// Whether what is promised is durable by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskModel {
    /// It is.
    Works,
    /// It is not.
    Fails,
    /// It works again, and what was promised before is durable with this ticket, the first since then.
    Mends(Option<Ticket>),
}

impl Reference {
    /// The gateway ended without a word, and another one is in its place that knows nothing.
    pub fn restart(&mut self) {
        self.forwarders = ForwarderLimits::new(&self.config);
        self.conns.clear();
        self.tokens.clear();
        self.filters.clear();
        for uplink in self.uplinks.values_mut() {
            uplink.order = None;
        }
        for client in &mut self.clients {
            client.restart();
        }
    }

    /// The gateway writes a client's record.
    pub fn on_saved(&mut self, value: &Bytes) {
        let id = SavedSession::decode(value).map(|session| session.id);
        if let Some(client) = self.clients.iter_mut().find(|c| id.as_deref() == Some(&*c.id)) {
            let saved = SavedModel {
                bound: client.bound.clone(),
                parameters: client.parameters,
                will: client.will.clone(),
                subs: client.subs.clone(),
                maybe: client.maybe.clone(),
                names: client.names.clone(),
                confirmed: client.confirmed.clone(),
                refused_names: client.refused_names.clone(),
                ignores_register: client.ignores_register,
                answers_register: client.answers_register,
                no_dup: client.no_dup,
                losses: client.losses,
            };
            client.saved.insert(value.clone(), saved);
        }
    }

    /// The gateway is about to be told something of its disk.
    pub fn on_store(&mut self, event: &StoreEvent) {
        match event {
            StoreEvent::Failed => {
                (self.disk, self.disk_failed) = (DiskModel::Fails, true);
                self.disk_failed_since_start = true;
            }
            StoreEvent::Works => self.disk = DiskModel::Mends(None),
            StoreEvent::Durable(ticket) => {
                if self.disk == DiskModel::Mends(Some(*ticket)) {
                    self.disk = DiskModel::Works;
                }
                self.unsaid_subacks(|asked| asked.broker_was_away);
            }
            _ => {}
        }
    }

    /// The gateway writes something, and wants to know when that is durable.
    pub fn on_written(&mut self, ticket: Ticket) {
        if self.disk == DiskModel::Mends(None) {
            self.disk = DiskModel::Mends(Some(ticket));
        }
    }

    /// Another life begins, with a disk that may not work.
    pub fn on_start(&mut self, disk_fails: bool) {
        if disk_fails {
            self.disk = DiskModel::Fails;
        }
        self.disk_failed_since_start = disk_fails;
    }

    pub(super) fn is_weak(&self) -> bool {
        self.disk != DiskModel::Works
    }

    /// A message for the broker is durable, and the gateway is about to be told.
    pub fn on_spooled(&mut self, saved: &SavedUplink) {
        let payload = &saved.payload;
        self.spooled.insert(payload.clone());
        if saved.qos == QoS::AtLeastOnce as u8
            && let Some(uplink) = self.uplinks.get(payload)
        {
            let client = &mut self.clients[uplink.client];
            let open = |(_, e): &(&MsgId, &UpExchange)| e.payload == *payload && !e.finished;
            let msg_id = client.up.iter().find(open).map(|(id, _)| *id);
            client.settled(msg_id, payload);
        }
    }

    /// The gateway ended, and another one is in its place that found these values.
    ///
    /// # Errors
    /// Something that was promised is not among them.
    pub fn restore(&mut self, now: Instant, values: &BTreeMap<StoreKey, Bytes>) -> Check {
        self.forwarders = ForwarderLimits::new(&self.config);
        self.conns.clear();
        self.tokens.clear();
        self.postponed.clear();
        // Between PUBREL and the moment when that is durable a message may come under the name of the one that was
        // released. If the gateway ends then, the next takes it for that one: the port has answered PUBREL at once.
        let released = |id: u64| StoreKey {
            kind: kind::RELEASED,
            id: id >> 24,
        };
        let known: FxHashSet<(ConnId, DeliveryId)> = values
            .iter()
            .filter(|(key, _)| key.kind == kind::MESSAGE && !values.contains_key(&released(key.id)))
            .filter_map(|(_, value)| message_from(value))
            .map(|(conn, delivery)| (ConnId(conn), DeliveryId(delivery)))
            .collect();
        for (name, payload) in self.unacknowledged.drain() {
            match known.contains(&name) {
                true => {
                    self.taken_for_another += 1;
                    self.fragile.insert(payload);
                }
                false => {
                    self.orphans.insert(payload);
                }
            }
        }
        let stored: FxHashSet<Bytes> = values
            .iter()
            .filter(|(key, _)| key.kind == kind::MESSAGE)
            .filter_map(|(_, value)| message_payload(value))
            .collect();
        // What neither the broker nor the store was sure of: the broker sends it again.
        self.orphans.retain(|payload| !stored.contains(payload));
        self.fragile.retain(|payload| !stored.contains(payload));
        for client in &mut self.clients {
            let gone = |payload: &Bytes| self.orphans.contains(payload) || self.fragile.contains(payload);
            client.owed.retain(|payload, _| !gone(payload));
        }
        self.fragile.clear();
        let of = |kind: u8| {
            values
                .iter()
                .filter(move |(key, _)| key.kind == kind)
                .map(|(_, value)| value)
        };
        let spooled: FxHashSet<Bytes> = of(kind::UPLINK)
            .filter_map(|value| Some(SavedUplink::decode(value)?.payload))
            .collect();
        self.spooled.extend(spooled.iter().cloned());
        for uplink in self.uplinks.values_mut() {
            // What is in the store may be sent again.
            uplink.allowed = uplink.allowed.saturating_mul(2);
        }
        for (payload, uplink) in &mut self.uplinks {
            // What is not there and was not acknowledged comes again from its client.
            if !uplink.answered && !spooled.contains(payload) {
                uplink.order = None;
            }
        }
        let mut sessions: BTreeMap<String, (SavedSession, &Bytes)> = BTreeMap::new();
        for value in of(kind::SESSION) {
            if let Some(session) = SavedSession::decode(value) {
                sessions.insert(session.id.clone(), (session, value));
            }
        }
        let failed = core::mem::take(&mut self.disk_failed_since_start);
        let weak = self.is_weak();
        if failed {
            // Under which numbers the broker has the filters may be forgotten.
            self.numbers.clear();
        }
        for client in &mut self.clients {
            let found = sessions.remove(&*client.id);
            // Else nothing waits on the disk for the broker.
            let spooled = (self.config.upstream.when_down == WhenDown::Spool).then_some(&spooled);
            client.restore(now, found, spooled, weak, failed)?;
        }
        self.disk = DiskModel::Works;
        Ok(())
    }

    /// What the broker has to send again since the gateway may have forgotten it.
    pub fn orphans(&self) -> usize {
        self.orphans.len()
    }
}

impl ClientModel {
    /// Everything the gateway knew is gone.
    fn restart(&mut self) {
        self.record_gone();
        self.abandoned.clear();
        self.stale_names.append(&mut self.names);
        self.bound = None;
        self.challenge = None;
        self.phase = Phase::None;
        self.parameters = None;
        self.connacks_due = 0;
        self.resumes_since = None;
        (self.said_goodbye, self.sent_away, self.late_goodbye) = (false, false, false);
        self.sleep_answer_due = false;
        self.last_finished = None;
        self.due.clear();
        self.registers.clear();
        self.subscribes.clear();
        self.interrupt();
        self.will = None;
        self.wills_due.clear();
        self.emitted_order = [0; 3];
    }

    /// The gateway ended, and another one found this of the client. What was promised while the disk did not work may be
    /// lost.
    fn restore(
        &mut self,
        now: Instant,
        found: Option<(SavedSession, &Bytes)>,
        spooled: Option<&FxHashSet<Bytes>>,
        weak: bool,
        failed: bool,
    ) -> Check {
        let stored = |will: &Will| spooled.is_none_or(|spooled| spooled.contains(&will.payload));
        let due = core::mem::take(&mut self.wills_due);
        let emitted = core::mem::take(&mut self.wills_emitted);
        let losses = self.losses;
        let names = self.names.clone();
        let saved = match &found {
            Some((_, value)) => Some(self.saved.get(*value).cloned().ok_or_else(|| {
                Violation::new("what is restored was stored", format!("{} {value:?}", self.id))
            })?),
            None => None,
        };
        let noted = saved.as_ref().is_none_or(|saved| saved.losses == losses);
        for will in &due {
            // A26: it is published or the client is lost once more.
            let kept = stored(will) || !noted || weak || will.qos == QoS::AtMostOnce;
            ensure(kept, "a will that is due survives", || {
                format!("{will:?} of {}", self.id)
            })?;
        }
        let again = |will: &Will| self.wills_again.iter().any(|known| known == will);
        let more: Vec<Will> = due
            .iter()
            .chain(&emitted)
            .filter(|will| !again(will))
            .cloned()
            .collect();
        let Some((session, saved)) = found.map(|(session, _)| session).zip(saved) else {
            ensure(weak || self.subs.is_empty(), "a session survives", || {
                format!("{} with {:?}", self.id, self.subs)
            })?;
            self.restart();
            self.wills_again.extend(more);
            return Ok(());
        };
        self.wills_again.extend(more);
        self.wills_due = due;
        self.wills_due
            .retain(|will| noted && spooled.is_some() && stored(will));
        let slept = matches!(self.phase, Phase::Asleep | Phase::Awake);
        self.thought_asleep = (self.thought_asleep || !slept) && session.phase == SavedPhase::Asleep;
        self.phase = match session.phase {
            SavedPhase::Active => Phase::Active,
            SavedPhase::Asleep => Phase::Asleep,
            SavedPhase::Disconnected => Phase::None,
            SavedPhase::Lost => Phase::Lost,
        };
        self.sleep = Duration::from_secs(u64::from(session.sleep));
        self.keep_alive = Duration::from_secs(u64::from(session.keep_alive));
        self.clean = session.clean;
        self.bound = saved.bound;
        self.parameters = saved.parameters;
        self.will = saved.will;
        self.names = names;
        if weak {
            self.subs = saved.subs;
            let subs = &self.subs;
            let claimed = |topic: &str| subs.keys().any(|filter| topic::matches(filter, topic));
            self.owed.retain(|_, owed| claimed(&owed.topic));
        }
        self.maybe.extend(saved.maybe);
        self.confirmed.extend(saved.confirmed);
        // What was learned of it, although the CONNECT that ended that connection may not be stored.
        self.ignores_register |= saved.ignores_register;
        self.refused_names.extend(saved.refused_names);
        // What it did since it was stored is not known any more.
        self.answers_register = saved.answers_register;
        self.no_dup |= saved.no_dup;
        if failed {
            // Ids that it was told while the disk did not work may come again for other names (A35).
            let stored = |id: &TopicId| saved.names.contains_key(id);
            let unsure = self.names.iter().filter(|(id, _)| !stored(id));
            let unsure = unsure.map(|(id, name)| (*id, name.clone()));
            self.stale_names.extend(unsure);
            // Nor is it sure that the next life knows what was sent: then it comes under another message id.
            if let Some(down) = &mut self.down {
                down.closed = true;
            }
            // Nor what was released.
            for started in self.started.values_mut() {
                started.released = false;
            }
        }
        for (id, name) in saved.names {
            self.names.entry(id).or_insert(name);
        }
        (self.last_heard, self.asleep_since, self.woken, self.woken_first) = (now, now, now, now);
        self.challenge = None;
        self.named_pings.clear();
        self.ping_put_off = None;
        (self.connacks_due, self.bad_connects) = (0, 0);
        (self.handshake_done, self.fresh, self.resumes_since) = (true, false, None);
        (self.said_goodbye, self.gone, self.sent_away, self.late_goodbye) = (false, false, false, false);
        (self.sleep_answer_due, self.stray) = (false, None);
        self.last_finished = None;
        self.restored = true;
        // A QoS 2 publish that goes on may be refused.
        self.due.retain(|(kind, _), _| *kind == MsgType::Puback);
        self.registers.clear();
        self.subscribes.clear();
        self.abandoned.clear();
        self.up.retain(|_, exchange| exchange.qos == QoS::ExactlyOnce);
        self.up.values_mut().for_each(|exchange| exchange.sent = false);
        self.interrupt();
        if let Some(down) = &mut self.down {
            (down.sends, down.unheard) = (0, 0);
        }
        self.started
            .values_mut()
            .for_each(|started| started.interrupted += started.exchanges.max(1));
        Ok(())
    }
}
