//! Messages that come: what there is room for, what is dropped, and who waits.

use gateway_core::time::Instant;
use sn_codec::QoS;

use super::{Bound, Entry, Outbox, Session, Stage, TOO_SLOW};
use crate::embedded::retained::Retained;
use crate::embedded::shared::Fitness;

/// How a session took a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Taken, or dropped as the rules say.
    Settled,
    /// Taken, but the publisher should wait.
    Withheld,
}

impl Session {
    /// What it takes of QoS 1 and 2.
    fn tracked_bound(&self) -> Bound {
        if self.counts_as_connected() {
            self.bound.times(2)
        } else {
            self.bound
        }
    }

    /// Whether there is place for one more message within a bound. A message too large for any bound needs an empty
    /// queue.
    pub(super) fn has_room(&self, bound: Bound, size: usize) -> bool {
        self.messages < bound.messages && (self.bytes + size <= bound.bytes || self.messages == 0)
    }

    /// Whether the QoS 1 or 2 message it is marked for must be refused.
    pub(crate) fn refuses(&self, size: usize) -> bool {
        let bound = self.bound.times(2);
        let copies = self.mark.copies;
        self.counts_as_connected()
            && (self.messages + copies > bound.messages
                || (self.bytes + copies * size > bound.bytes && self.messages > 0))
    }

    /// As a member of a shared subscription.
    pub(crate) fn fitness(&self, size: usize) -> Fitness {
        match &self.attached {
            Some(_) if self.has_room(self.bound, size) => Fitness::Ready,
            Some(_) if self.has_room(self.tracked_bound(), size) => Fitness::Slow,
            None if self.has_room(self.tracked_bound(), size) => Fitness::Away,
            Some(_) | None => Fitness::Full,
        }
    }

    /// Takes a message back into the queue.
    pub(crate) fn keep(&mut self, entry: Entry) {
        self.push(entry);
    }

    pub(super) fn is_over(&self) -> bool {
        self.messages > self.bound.messages || (self.bytes > self.bound.bytes && self.messages > 1)
    }

    /// Takes a message for the client by the rules of flow, and sends what can be sent. `promised`: the publisher will
    /// be told that it was taken, since [`Session::refuses`] said no.
    pub(crate) fn offer(
        &mut self,
        now: Instant,
        entry: Entry,
        promised: bool,
        retained: &Retained,
        out: &mut Outbox,
    ) -> Taken {
        let size = entry.message.size();
        let connected = self.counts_as_connected();
        if self.holds_over(&entry, promised) {
            out.stats.held_over += 1;
            self.push(Entry {
                held_over: true,
                ..entry
            });
            self.pump(now, retained, out);
            return Taken::Settled;
        }
        match entry.qos {
            QoS::AtMostOnce if self.attached.is_none() => return Taken::Settled,
            QoS::AtMostOnce => {
                if !self.has_room(self.bound, size) {
                    out.stats.dropped_qos0 += 1;
                    return Taken::Settled;
                }
            }
            QoS::AtLeastOnce | QoS::ExactlyOnce if connected => {
                if !promised && !self.has_room(self.tracked_bound(), size) {
                    out.stats.dropped_full += 1;
                    return Taken::Settled;
                }
            }
            QoS::AtLeastOnce | QoS::ExactlyOnce => {
                if !self.has_room(self.bound, size) {
                    self.drop_expired(now, out);
                }
                if !self.has_room(self.bound, size) {
                    out.stats.dropped_offline += 1;
                    if !core::mem::replace(&mut self.dropped, true) {
                        tracing::warn!(
                            target: "broker", client = %self.client_id,
                            queued = self.messages,
                            "queue of a disconnected client is full, new messages for it are dropped"
                        );
                    }
                    return Taken::Settled;
                }
            }
        }
        let tracked = entry.qos > QoS::AtMostOnce;
        self.push(entry);
        self.pump(now, retained, out);
        if tracked && connected && self.is_over() {
            self.over_since.get_or_insert(now);
            Taken::Withheld
        } else {
            Taken::Settled
        }
    }

    /// Whether to take a message beyond the bound: its publisher, the gateway, keeps it until the client has it, and
    /// may have promised as much. A client that takes its messages slows the gateway down instead, unless older ones
    /// are held over.
    fn holds_over(&self, entry: &Entry, promised: bool) -> bool {
        let size = entry.message.size();
        let waits = promised
            && self.attached.is_some()
            && self.held_over == 0
            && self.has_room(self.tracked_bound(), size);
        entry.message.is_stored() && entry.qos > QoS::AtMostOnce && !waits && !self.has_room(self.bound, size)
    }

    pub(super) fn push(&mut self, entry: Entry) {
        if entry.held_over {
            self.held_over += 1;
        } else {
            self.messages += 1;
            self.bytes += entry.message.size();
        }
        if let Some(at) = entry.expires {
            self.waiting_expires = Some(self.waiting_expires.map_or(at, |first| first.min(at)));
        }
        self.waiting.push_back(entry);
    }

    /// Takes the first that waits out of the queue and its bound.
    pub(super) fn forget_front(&mut self) -> Option<Entry> {
        let entry = self.waiting.pop_front()?;
        self.uncount(&entry);
        Some(entry)
    }

    /// A message leaves the queue.
    fn uncount(&mut self, entry: &Entry) {
        if entry.held_over {
            self.held_over -= 1;
        } else {
            self.messages -= 1;
            self.bytes -= entry.message.size();
        }
    }

    /// Removes expired messages from the queue.
    fn drop_expired(&mut self, now: Instant, out: &mut Outbox) {
        if self.waiting_expires.is_none_or(|expires| expires > now) {
            return;
        }
        let (mut messages, mut bytes, mut first) = (0, 0, None::<Instant>);
        self.waiting.retain(|entry| {
            let keep = !entry.has_expired(now);
            if !keep {
                messages += 1;
                bytes += entry.message.size();
            } else if let Some(at) = entry.expires {
                first = Some(first.map_or(at, |first| first.min(at)));
            }
            keep
        });
        self.messages -= messages;
        self.bytes -= bytes;
        self.waiting_expires = first;
        out.stats.dropped_expired += messages as u64;
    }

    /// Whether what others wait for may be acknowledged, now that something left.
    pub(crate) fn is_relieved(&mut self) -> bool {
        if self.is_over() && self.counts_as_connected() {
            return false;
        }
        self.over_since = None;
        !self.withheld.is_empty()
    }

    /// Since when it is over its bound and too slow for its publishers, for too long.
    pub(crate) fn is_too_slow(&self, now: Instant) -> bool {
        self.over_since.is_some_and(|since| now >= since + TOO_SLOW)
    }

    /// Takes out what waits for shared subscriptions, to be given to other members.
    pub(crate) fn take_shared_waiting(&mut self) -> Vec<Entry> {
        let mut taken = Vec::new();
        for entry in core::mem::take(&mut self.waiting) {
            if entry.share.is_some() {
                self.uncount(&entry);
                taken.push(entry);
            } else {
                self.waiting.push_back(entry);
            }
        }
        taken
    }

    /// What the end of the session leaves to other members of shared subscriptions: all but QoS 2 messages that were
    /// sent (MQTT-4.8.2-5).
    pub(crate) fn into_shared(self) -> impl Iterator<Item = Entry> {
        let sent = self
            .in_flight
            .into_iter()
            .filter_map(|exchange| match exchange.stage {
                Stage::Sent(entry) if entry.qos == QoS::AtLeastOnce => Some(entry),
                // Not sent yet.
                Stage::Clearing(entry) => Some(entry),
                Stage::Sent(_) | Stage::Taken(..) | Stage::Released(_) => None,
            });
        sent.chain(self.waiting).filter(|entry| entry.share.is_some())
    }

    /// Messages and octets held.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.messages, self.bytes)
    }
}
