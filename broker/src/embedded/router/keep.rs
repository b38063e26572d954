//! Sessions in the store: taken from it, written to it, and who waits for that.

use bytes::Bytes;
use gateway_core::io::{StoreChange, StoreKey};
use gateway_core::time::Instant;

use super::Router;
use crate::embedded::filters::{Filter, Filters};
use crate::embedded::kept::{Batch, KeptSubscription, SessionRecord, key};
use crate::embedded::packet::{ClientKey, Reply};
use crate::embedded::session::Session;
use crate::embedded::shared::Subscriber;

impl Router {
    /// From now on sessions that outlive their connection are kept; those of an earlier life go on, and expire as if
    /// their connections ended now.
    pub(crate) fn keep_sessions(&mut self, now: Instant, mut values: Vec<(StoreKey, Bytes)>) {
        self.advance(now);
        self.keeper.start();
        // The later ones first: of two under one client id the deletion of the earlier was not written.
        values.sort_unstable_by_key(|(key, _)| core::cmp::Reverse(key.id));
        let mut unreadable = 0;
        for (StoreKey { id: number, .. }, value) in values {
            self.keeper.used(number);
            let record = SessionRecord::decode(&value);
            let known = |record: &SessionRecord| self.by_id.contains_key(&record.client_id);
            match record {
                Some(record) if known(&record) => self.keeper.forget(number),
                Some(record) if self.sessions.len() < self.limits.sessions_max => {
                    self.restore(number, record);
                }
                Some(_) | None => {
                    unreadable += 1;
                    self.keeper.forget(number);
                }
            }
        }
        if unreadable > 0 {
            self.out.stats.sessions_not_restored += unreadable;
            tracing::warn!(
                target: "broker", sessions = unreadable,
                "sessions of before the restart dropped: unreadable, or more than may be"
            );
        }
    }

    fn restore(&mut self, number: u64, record: SessionRecord) {
        let session = self.new_session(&record.client_id, false);
        let kept = self.keeper.resume(number, record.expiry);
        self.restored.insert(number, session);
        for subscription in record.subscriptions.iter().take(self.limits.subscriptions_max) {
            let Some(filter) = Filter::parse(&subscription.filter) else {
                continue;
            };
            let subscriber = Subscriber {
                session,
                qos: subscription.qos,
                no_local: subscription.no_local,
                retain_as_published: subscription.retain_as_published,
                id: subscription.id,
            };
            if self.filters.subscribe(&filter, subscriber).is_none() {
                self.sessions[session as usize].filters.push(filter.text.into());
                self.count_subscription(&filter, true);
            }
        }
        let restored = &mut self.sessions[session as usize];
        restored.kept = Some(kept);
        restored.restored(self.now);
        restored.expire_after(self.now, record.expiry);
        self.arm(session);
    }

    /// What to write to the store, under the number to call [`Router::on_durable`] with. `None` while something is being
    /// written.
    pub(crate) fn poll_changes(&mut self) -> Option<(u64, Vec<StoreChange>)> {
        let changed = self.keeper.begin_batch()?;
        Some((self.keeper.batch(), self.changes(changed)))
    }

    /// What is not written yet, whatever is being written: the last there is.
    pub(crate) fn last_changes(&mut self) -> Vec<StoreChange> {
        let changed = self.keeper.begin_last_batch();
        self.changes(changed)
    }

    /// These changes are in the store.
    pub(crate) fn on_durable(&mut self, number: u64) {
        self.keeper.on_durable(number);
        self.answer_kept();
    }

    fn changes(&mut self, batch: Batch) -> Vec<StoreChange> {
        let Router {
            sessions,
            filters,
            out,
            ..
        } = self;
        let change = |(number, session): (u64, Option<u32>)| {
            let Some(session) = session else {
                return StoreChange::Delete(key(number));
            };
            let record = record(filters, session, &sessions[session as usize]);
            let kept = sessions[session as usize].kept.as_mut();
            match kept.and_then(|kept| kept.put(&record)) {
                Some(put) => put,
                None => {
                    out.stats.sessions_not_kept += 1;
                    tracing::warn!(
                        target: "broker", client = %record.client_id,
                        "session has too many subscriptions to be kept over a restart"
                    );
                    StoreChange::Delete(key(number))
                }
            }
        };
        let sessions = batch.sessions.into_iter().map(change);
        sessions.chain(batch.messages).collect()
    }

    /// A session outlives its connection by that many seconds.
    pub(super) fn keep(&mut self, session: u32, expiry: u32) {
        let Router { sessions, keeper, .. } = self;
        let known = &mut sessions[session as usize];
        if !keeper.is_on() || known.local {
            return;
        }
        match &mut known.kept {
            Some(kept) if kept.expiry == expiry => {}
            Some(kept) if expiry > 0 => {
                kept.expiry = expiry;
                keeper.change(session, kept);
            }
            Some(kept) => {
                keeper.end(*kept);
                known.kept = None;
            }
            None if expiry > 0 => known.kept = Some(keeper.begin(session, expiry)),
            None => {}
        }
    }

    /// A session's subscriptions changed.
    pub(super) fn changed(&mut self, session: u32) {
        if let Some(kept) = &mut self.sessions[session as usize].kept {
            self.keeper.change(session, kept);
        }
    }

    /// Answers what changed a session, when that will survive.
    pub(super) fn answer_when_kept(&mut self, client: ClientKey, session: u32, reply: Reply) {
        let kept = self.sessions[session as usize].kept.as_ref();
        match self.keeper.wait(self.now, kept, client, reply) {
            Some(reply) => self.out.push(client, reply),
            None => self.answer_kept(),
        }
    }

    pub(super) fn answer_kept(&mut self) {
        while let Some((client, reply)) = self.keeper.next_answer(self.now) {
            if self.session_of(client).is_some() {
                self.out.push(client, reply);
            }
        }
        while let Some((batch, sessions)) = self.keeper.next_releasing(self.now) {
            for session in sessions {
                if let Some(session) = self.sessions.get_mut(session as usize) {
                    session.release(batch, &mut self.out);
                }
            }
        }
    }
}

/// What is to be written of a session.
fn record(filters: &Filters, number: u32, session: &Session) -> SessionRecord {
    let subscription = |text: &str| {
        let subscriber = filters.get(&Filter::parse(text)?, number)?;
        Some(KeptSubscription {
            filter: text.into(),
            qos: subscriber.qos,
            no_local: subscriber.no_local,
            retain_as_published: subscriber.retain_as_published,
            id: subscriber.id,
        })
    };
    SessionRecord {
        client_id: session.client_id.clone(),
        expiry: session.kept.map_or(0, |kept| kept.expiry),
        subscriptions: session
            .filters
            .iter()
            .filter_map(|text| subscription(text))
            .collect(),
    }
}
