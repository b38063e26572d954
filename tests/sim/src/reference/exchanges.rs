//! Exchanges towards a client: one at a time (A59), how often and when they are repeated (A60, A61), and what a client's
//! acknowledgement, refusal (A41, A62) or acknowledgement with swapped octets (A64) makes of the open one.

use core::time::Duration;

use bytes::Bytes;
use gateway_core::time::Instant;
use sn_codec::{MsgId, MsgType, Puback, QoS, ReturnCode, TopicId};

use super::Reference;
use super::client::{ClientModel, Phase};
use super::downlinks::Started;
use super::violation::{Check, Violation, ensure};

/// Reading A60: rounds of sends after which a message is dropped.
pub(super) const ROUNDS: u32 = 6;

#[derive(Debug)]
pub(super) struct DownExchange {
    pub(super) kind: DownKind,
    pub(super) msg_id: MsgId,
    pub(super) payload: Option<Bytes>,
    pub(super) topic: String,
    /// When it was first sent.
    pub(super) began: Instant,
    pub(super) sends: u32,
    /// Sends since the client was last heard.
    pub(super) unheard: u32,
    pub(super) last_sent: Instant,
    /// The last PUBLISH had it.
    dup: bool,
    /// Something the client sent asks for a repeat at once.
    pub(super) due: bool,
    pub(super) closed: bool,
    /// From before the last CONNECT: may be continued or not.
    pub(super) stale: bool,
    /// Which round it is in cannot be told.
    pub(super) unsure: bool,
    /// Back in the queue it is too old to be begun again from then on (A70).
    expires: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DownKind {
    Register,
    Publish(QoS),
    /// After PUBREC.
    Pubrel,
}

/// An output that may continue an exchange or begin one.
pub(super) struct Next<'a> {
    pub(super) kind: DownKind,
    pub(super) msg_id: MsgId,
    pub(super) payload: Option<Bytes>,
    pub(super) topic: &'a str,
    pub(super) dup: Option<bool>,
    /// When the message is too old, as far as it is known which one it is.
    pub(super) expires: Instant,
}

impl DownExchange {
    /// Certain to be under way.
    pub(super) fn is_open(&self, now: Instant, sends_per_round: u32) -> bool {
        !self.closed && !self.stale && !self.given_up(sends_per_round) && now < self.expires
    }

    pub(super) fn given_up(&self, sends_per_round: u32) -> bool {
        match self.kind {
            DownKind::Register => self.sends >= sends_per_round || self.unsure,
            DownKind::Publish(_) | DownKind::Pubrel => self.sends >= sends_per_round * ROUNDS,
        }
    }
}

impl Reference {
    /// The gateway sends a PUBREL.
    pub(super) fn on_pubrel(&mut self, now: Instant, ix: usize, msg_id: MsgId) -> Check {
        let first_retry = self.config.timers.retry_first;
        let sends_per_round = u32::from(self.config.timers.retry_count) + 1;
        let client = &mut self.clients[ix];
        let own = client
            .down
            .as_ref()
            .is_some_and(|d| d.msg_id == msg_id && d.kind == DownKind::Pubrel && !d.closed);
        let due = client
            .due
            .get(&(MsgType::Pubrel, msg_id))
            .is_some_and(|due| *due > 0);
        if self.durable && own && due {
            // Each PUBREC is answered, if only when that is durable.
            client.down.iter_mut().for_each(|down| down.due = true);
        }
        // Where it came under two ids (A41) the store has the first.
        let renamed = client.started.values().any(|started| started.unknown_topic);
        if !own && client.restored && (renamed || client.received.contains(&msg_id)) {
            return Ok(());
        }
        if !own || client.phase == Phase::Asleep {
            // A51: a PUBREC that belongs to nothing is answered too.
            return client.pay(MsgType::Pubrel, msg_id);
        }
        let down = client.down.as_ref();
        let waits = down.is_some_and(|down| down.stale);
        if let Some(payload) = down.and_then(|down| down.payload.clone()) {
            client.started.entry(payload).or_default().released = true;
        }
        if waits && due {
            // So is one to a message that is back in the queue, whose exchange begins when it may.
            return client.pay(MsgType::Pubrel, msg_id);
        }
        let next = Next {
            kind: DownKind::Pubrel,
            msg_id,
            payload: None,
            topic: "",
            dup: None,
            expires: now + self.config.sleep.max_age,
        };
        self.given_up += client.exchange(now, &next, first_retry, sends_per_round)?;
        Ok(())
    }

    /// Exchanges towards clients, and handshakes, in which the gateway may send again by itself.
    pub fn open_exchanges(&self, now: Instant) -> Vec<String> {
        let timers = &self.config.timers;
        let sends = u32::from(timers.retry_count) + 1;
        let open = |d: &DownExchange| {
            // After the last repeat of a round it waits once more, then for a sign of life (A60).
            let parked = d.unheard >= sends && now.since(d.last_sent) > timers.retry_max;
            !d.closed && !d.stale && !parked && !d.given_up(sends)
        };
        let exchanges = self
            .clients
            .iter()
            .filter(|c| matches!(c.phase, Phase::Active | Phase::Awake))
            .filter_map(|c| Some((c, c.down.as_ref().filter(|d| open(d))?)))
            .map(|(c, d)| format!("{:?} {} to {}", d.kind, d.msg_id, c.id));
        let handshakes = self
            .clients
            .iter()
            .filter(|c| c.phase == Phase::Setup && now.since(c.last_heard) <= timers.will_handshake)
            .map(|c| format!("{} is in its handshake", c.id));
        exchanges.chain(handshakes).collect()
    }
}

impl ClientModel {
    /// Checks that at most one exchange is open, and how it is repeated. Returns messages given up by rule.
    pub(super) fn exchange(
        &mut self,
        now: Instant,
        next: &Next<'_>,
        first_retry: Duration,
        sends_per_round: u32,
    ) -> Result<usize, Violation> {
        let id = self.id.clone();
        let told = |down: &DownExchange| {
            format!(
                "{:?} {} to {id} while {:?} {} is open, sent {}x, last at {}",
                next.kind, next.msg_id, down.kind, down.msg_id, down.sends, down.last_sent
            )
        };
        let same = |d: &DownExchange| {
            // A new record counts its message ids from the start, so an interrupted exchange may only look the same.
            let about = next.payload.is_none() || d.payload == next.payload;
            !d.closed && d.kind == next.kind && d.msg_id == next.msg_id && about
        };
        if let Some(down) = self.down.as_mut().filter(|d| same(d)) {
            if !down.stale && down.sends > 0 {
                let waited = now.since(down.last_sent) >= first_retry;
                // A60: after a round the next packet from the client begins another.
                let new_round = down.sends % sends_per_round == 0 && down.unheard == 0;
                ensure(waited || new_round || down.due, "repeated after Tretry", || {
                    told(down)
                })?;
                ensure(
                    next.dup != Some(false) || self.no_dup,
                    "a repeat has DUP (A61)",
                    || told(down),
                )?;
                ensure(
                    down.unheard < sends_per_round,
                    "at most Nretry repeats without a sign of life",
                    || told(down),
                )?;
            }
            down.sends += 1;
            down.unheard += 1;
            ensure(
                down.sends <= sends_per_round * ROUNDS || down.stale,
                "given up after six rounds (A60)",
                || told(down),
            )?;
            down.last_sent = now;
            down.dup = next.dup == Some(true);
            (down.due, down.stale) = (false, false);
            return Ok(0);
        }
        let mut given_up = 0;
        if let Some(down) = self.down.as_ref().filter(|d| !d.closed && !d.stale) {
            let over = down.given_up(sends_per_round) || now >= down.expires;
            ensure(over, "one open exchange (A59)", || told(down))?;
            // A40, A60: without an answer the message is dropped.
            if down.kind == DownKind::Register {
                let topic = down.topic.clone();
                given_up = self.register_unanswered(Some(&topic));
            } else if let Some(payload) = &down.payload {
                given_up = usize::from(self.owed.remove(payload).is_some());
            }
        }
        // What an earlier connection began goes on under its message id, perhaps after a REGISTER.
        let repeated = next
            .payload
            .as_ref()
            .is_some_and(|p| self.started.get(p).is_some_and(|s| s.msg_id == Some(next.msg_id)));
        ensure(
            // An earlier life may have sent it.
            next.dup != Some(true) || repeated || self.restored,
            "the first sending has no DUP",
            || format!("{:?} {} to {id}", next.kind, next.msg_id),
        )?;
        if let Some(payload) = &next.payload {
            self.started.entry(payload.clone()).or_default().msg_id = Some(next.msg_id);
        }
        self.down = Some(DownExchange {
            kind: next.kind,
            msg_id: next.msg_id,
            payload: next.payload.clone(),
            topic: next.topic.into(),
            began: now,
            sends: 1,
            unheard: 1,
            last_sent: now,
            dup: next.dup == Some(true),
            due: false,
            closed: false,
            stale: false,
            unsure: false,
            expires: next.expires,
        });
        Ok(given_up)
    }

    /// The open exchange may be taken up again in another connection.
    pub(super) fn interrupt(&mut self) {
        let Some(down) = self.down.as_mut().filter(|d| !d.stale && !d.closed) else {
            return;
        };
        down.stale = true;
        // The round it was in begins again.
        down.sends -= down.sends % self.sends_per_round;
        if let Some(payload) = &down.payload {
            self.started.entry(payload.clone()).or_default().interrupted += 1;
        }
    }

    /// The client has a QoS 2 message.
    pub(super) fn on_client_pubrec(&mut self, msg_id: MsgId) {
        self.received.insert(msg_id);
        self.owe_answer(MsgType::Pubrel, msg_id);
        if let Some(down) = self.down.as_mut().filter(|d| d.msg_id == msg_id)
            && down.kind == DownKind::Publish(QoS::ExactlyOnce)
        {
            down.kind = DownKind::Pubrel;
            self.acknowledged();
        }
        // Late, for a PUBLISH of an earlier connection whose REGISTER in this one is under way, or for a copy of one that
        // was refused for its topic id since (A41).
        let earlier = self.started.iter().find(|(_, s)| s.msg_id == Some(msg_id));
        let refused = earlier.filter(|(_, s)| s.unknown_topic && !s.released);
        let refused_as = refused.map(|(_, s)| s.refused_as.clone());
        let earlier = earlier.map(|(payload, _)| payload.clone());
        let continues = |d: &&mut DownExchange| {
            let same = d.msg_id == msg_id || refused_as.as_ref() == Some(&d.topic);
            same && d.kind == DownKind::Register && !d.closed
        };
        if let Some(down) = self.down.as_mut().filter(continues) {
            (down.kind, down.msg_id) = (DownKind::Pubrel, msg_id);
            down.payload = earlier;
            self.acknowledged();
        } else if self.restored
            && let Some(payload) = earlier
        {
            // It took what an earlier life sent, whether or not this one sends something else before.
            self.owed.remove(&payload);
        }
        // Each PUBREC is answered by a PUBREL at once.
        if let Some(down) = self
            .down
            .as_mut()
            .filter(|d| d.msg_id == msg_id && d.kind == DownKind::Pubrel)
        {
            down.sends = 0;
        }
    }

    /// The client answers a PUBLISH.
    pub(super) fn on_client_puback(&mut self, mut puback: Puback) {
        if self.quirks.swaps_acks {
            (puback.topic_id, puback.msg_id) = swapped(puback.topic_id, puback.msg_id);
        }
        let Some(down) = self
            .down
            .as_ref()
            .filter(|d| d.msg_id == puback.msg_id && !d.closed)
        else {
            // A41: without a message id it is about a QoS 0 message.
            if puback.return_code == ReturnCode::InvalidTopicId && puback.msg_id == MsgId(0) {
                self.confirmed.remove(&puback.topic_id);
            }
            if puback.return_code == ReturnCode::Accepted {
                self.acknowledged_late(puback.msg_id);
            }
            return;
        };
        let DownKind::Publish(qos) = down.kind else {
            // Late, for a PUBLISH of an earlier connection whose REGISTER in this one was sent: if that is not under way
            // any more, the message is done with.
            if puback.return_code == ReturnCode::Accepted && down.kind == DownKind::Register {
                self.acknowledged_late(puback.msg_id);
            }
            return;
        };
        match puback.return_code {
            ReturnCode::Accepted if qos == QoS::AtLeastOnce => {
                self.acknowledged();
                self.close(DownKind::Publish(qos), puback.msg_id);
            }
            ReturnCode::Accepted => {}
            ReturnCode::InvalidTopicId => {
                // A41: REGISTER and once more; to who does not answer that it cannot be given. What comes late may be
                // overlooked, for it is said again.
                if !down.stale {
                    self.confirmed.remove(&puback.topic_id);
                }
                let topic = down.topic.clone();
                if let Some(payload) = down.payload.clone() {
                    let started = self.started.entry(payload.clone()).or_default();
                    // The second time it is dropped.
                    if started.unknown_topic || self.ignores_register {
                        self.owed.remove(&payload);
                    }
                    started.unknown_topic = true;
                    started.refused_as = topic;
                }
                self.interrupt();
            }
            ReturnCode::Congestion => {}
            ReturnCode::NotSupported | ReturnCode::Reserved(_) => {
                let Some(down) = &mut self.down else { return };
                if down.dup {
                    // A61: it may be refused for its DUP; then it comes once without.
                    self.no_dup = true;
                    down.due = true;
                    down.sends -= down.sends % self.sends_per_round;
                } else {
                    // A62: it is not wanted.
                    down.closed = true;
                    if let Some(payload) = &down.payload {
                        self.owed.remove(payload);
                    }
                }
            }
        }
    }

    /// What went back into the queue after it was sent under this message id is with the client.
    fn acknowledged_late(&mut self, msg_id: MsgId) {
        let is = |(_, started): &(&Bytes, &Started)| started.msg_id == Some(msg_id);
        let earlier = self.started.iter().find(is).map(|(payload, _)| payload.clone());
        earlier.and_then(|payload| self.owed.remove(&payload));
    }

    /// The open message is with the client.
    fn acknowledged(&mut self) {
        if let Some(payload) = self.down.as_ref().and_then(|d| d.payload.clone()) {
            self.owed.remove(&payload);
            self.started.entry(payload).or_default().acknowledged = true;
        }
    }

    pub(super) fn close(&mut self, kind: DownKind, msg_id: MsgId) {
        if let Some(down) = self
            .down
            .as_mut()
            .filter(|d| d.kind == kind && d.msg_id == msg_id)
        {
            down.closed = true;
            if kind != DownKind::Register {
                self.named_pings.clear();
            }
        }
    }
}

/// Both ids of an acknowledgement with their octets swapped (A64).
pub(super) fn swapped(topic_id: TopicId, msg_id: MsgId) -> (TopicId, MsgId) {
    (TopicId(topic_id.0.swap_bytes()), MsgId(msg_id.0.swap_bytes()))
}
