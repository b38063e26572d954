//! What is spooled, seen from outside: listed, counted, and dropped by rule or by hand.

use std::collections::BinaryHeap;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::request::Stored;
use super::{Author, Origin, RequestKind, Uplink, Upstream};
use crate::admin::SpoolState;
use crate::durable::Journal;
use crate::metrics::SpoolDrop;
use crate::time::Instant;

/// A publish in the store.
#[derive(Debug)]
pub(crate) struct Spooled {
    pub(crate) id: u64,
    pub(crate) author: Author,
    pub(crate) message: Uplink,
    pub(crate) since: Instant,
    pub(crate) state: SpoolState,
}

impl Upstream {
    /// Those with a number above `after`, the lowest first, at most so many, and whether there are more.
    pub(crate) fn spooled(&self, after: u64, limit: usize) -> (Vec<Spooled>, bool) {
        // The highest of the lowest on top.
        let mut lowest: BinaryHeap<(u64, usize)> = BinaryHeap::with_capacity(limit + 1);
        for (key, request) in &self.requests {
            let Some(id) = request.kind.stored_id().filter(|id| *id > after) else {
                continue;
            };
            lowest.push((id, key));
            if lowest.len() > limit + 1 {
                lowest.pop();
            }
        }
        let mut found = lowest.into_sorted_vec();
        let more = found.len() > limit;
        found.truncate(limit);
        let rows = found.into_iter().filter_map(|(id, key)| self.row(id, key));
        (rows.collect(), more)
    }

    fn row(&self, id: u64, key: usize) -> Option<Spooled> {
        match &self.requests.get(key)?.kind {
            RequestKind::Publish {
                sent,
                message,
                author,
                since,
                ..
            } => Some(Spooled {
                id,
                author: *author,
                message: message.clone(),
                since: *since,
                state: match sent {
                    true => SpoolState::Sent,
                    false => SpoolState::Waiting,
                },
            }),
            RequestKind::Settled {
                message,
                since,
                author,
                ..
            } => Some(Spooled {
                id,
                author: *author,
                message: message.clone(),
                since: *since,
                state: SpoolState::Held,
            }),
            RequestKind::Subscribe { .. } | RequestKind::Unsubscribe { .. } => None,
        }
    }

    /// When the message came that waits longest in the lanes of spooled ones.
    pub(crate) fn oldest_spooled(&self) -> Option<Instant> {
        let fronts = self
            .connections
            .iter()
            .filter_map(|connection| connection.backlog.oldest());
        fronts
            .filter_map(|key| match &self.requests.get(key)?.kind {
                RequestKind::Publish { since, .. } => Some(*since),
                _ => None,
            })
            .min()
    }

    /// Drops the message that waits longest of those that nobody waits for: its client was answered, and the broker
    /// does not have it, or has it and only keeps it here for subscribers that are away. False if there is none.
    pub(super) fn drop_oldest(&mut self, journal: &mut Journal) -> bool {
        // Those before it are few: messages that came within one sync, or whose QoS 2 client has not been answered.
        let droppable = |key: usize| Some((self.droppable(key)?, key));
        let waiting = self.connections.iter().flat_map(|connection| {
            let free = connection.backlog.free().find_map(droppable);
            let held = connection.backlog.held().find_map(droppable);
            free.into_iter().chain(held)
        });
        let held = self.held.first_key_value().map(|(id, key)| (*id, *key));
        match waiting.chain(held).min_by_key(|(id, _)| *id) {
            Some((_, key)) => {
                self.drop_stored(journal, key, SpoolDrop::Full);
                true
            }
            None => false,
        }
    }

    /// Drops the message with this number. False if there is none, or it is on its way to the broker, or its client
    /// still waits for an answer.
    pub(crate) fn drop_by_hand(&mut self, journal: &mut Journal, id: u64) -> bool {
        let found = self
            .requests
            .iter()
            .find(|(_, request)| request.kind.stored_id() == Some(id));
        match found
            .map(|(key, _)| key)
            .filter(|key| self.droppable(*key).is_some())
        {
            Some(key) => {
                self.drop_stored(journal, key, SpoolDrop::Command);
                true
            }
            None => false,
        }
    }

    /// Drops all that can be dropped by hand; how many.
    pub(crate) fn drop_all_by_hand(&mut self, journal: &mut Journal) -> usize {
        let all: FxHashSet<usize> = self
            .requests
            .iter()
            .map(|(key, _)| key)
            .filter(|key| self.droppable(*key).is_some())
            .collect();
        // All at once out of lines that may be long.
        for connection in &mut self.connections {
            connection.waiting.retain(|key| !all.contains(key));
        }
        let dropped = all.len();
        for key in all {
            self.drop_stored(journal, key, SpoolDrop::Command);
        }
        dropped
    }

    /// Drops the spooled messages that waited for too long.
    pub(crate) fn drop_expired(&mut self, journal: &mut Journal, now: Instant) {
        let Some(age) = journal.rules().map(|rules| rules.spool_age) else {
            return;
        };
        for at in 0..self.connections.len() {
            while let Some(key) = self.connections[at].backlog.oldest()
                && let RequestKind::Publish { since, message, .. } = &self.requests[key].kind
                && now >= *since + age
            {
                let topic = message.topic.clone();
                self.drop_spooled(journal, key);
                self.count_dropped(SpoolDrop::Age, topic);
            }
        }
    }

    /// When the spooled message that waits longest has waited for too long.
    pub(crate) fn expires_at(&self, journal: &Journal) -> Option<Instant> {
        let age = journal.rules()?.spool_age;
        let oldest = self.connections.iter().filter_map(|connection| {
            match &self.requests[connection.backlog.oldest()?].kind {
                RequestKind::Publish { since, .. } => Some(*since),
                _ => None,
            }
        });
        Some(oldest.min()? + age)
    }

    /// The number in the store of a message that can go without anybody waiting for ever.
    fn droppable(&self, key: usize) -> Option<u64> {
        match &self.requests.get(key)?.kind {
            RequestKind::Publish {
                sent: false,
                ready: true,
                origin: Origin::Gateway,
                stored,
                ..
            } => *stored,
            RequestKind::Settled { stored, .. } => Some(stored.id),
            RequestKind::Publish { .. } | RequestKind::Subscribe { .. } | RequestKind::Unsubscribe { .. } => {
                None
            }
        }
    }

    fn drop_stored(&mut self, journal: &mut Journal, key: usize, reason: SpoolDrop) {
        if let RequestKind::Settled { message, .. } | RequestKind::Publish { message, .. } =
            &self.requests[key].kind
        {
            let topic = message.topic.clone();
            self.count_dropped(reason, topic);
        }
        match &self.requests[key].kind {
            RequestKind::Settled { stored, .. } => {
                let stored = *stored;
                self.requests.remove(key);
                self.held.remove(&stored.id);
                self.forget_stored(journal, stored);
            }
            RequestKind::Publish { .. } | RequestKind::Subscribe { .. } | RequestKind::Unsubscribe { .. } => {
                self.drop_spooled(journal, key);
            }
        }
    }

    /// A message is lost that its client had the answer for.
    pub(crate) fn count_dropped(&mut self, reason: SpoolDrop, topic: Arc<str>) {
        self.dropped[reason as usize] += 1;
        match reason {
            // Who said so knows, and a refusal is told with what the broker said.
            SpoolDrop::Command | SpoolDrop::Refused => return,
            SpoolDrop::Full | SpoolDrop::Age => {}
        }
        self.untold.count(reason, topic);
    }

    fn drop_spooled(&mut self, journal: &mut Journal, key: usize) {
        let request = self.requests.remove(key);
        let RequestKind::Publish {
            conn,
            seq,
            message,
            stored,
            author,
            backlog,
            released,
            ..
        } = request.kind
        else {
            return;
        };
        self.take_out(conn, backlog, (seq, key), author);
        if backlog {
            self.leave_backlog(conn, author);
        }
        match stored {
            Some(id) => self.forget_stored(
                journal,
                Stored {
                    id,
                    size: message.size(),
                    qos: message.qos,
                    released,
                },
            ),
            None => self.forget_waiting(&message),
        }
    }
}

impl RequestKind {
    fn stored_id(&self) -> Option<u64> {
        match self {
            RequestKind::Publish { stored, .. } => *stored,
            RequestKind::Settled { stored, .. } => Some(stored.id),
            RequestKind::Subscribe { .. } | RequestKind::Unsubscribe { .. } => None,
        }
    }
}
