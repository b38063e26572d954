//! How far the QoS 2 publishes of a connection are, for a later life of the process.
//!
//! The client library shows what it has in flight before every packet that it sends. What changed since the last time
//! is stored then, and the packet waits until that is durable: the packet id before PUBLISH leaves, that PUBREC came
//! before PUBREL leaves. So a later life knows every packet id that the broker may know.
//!
//! The same serves a connection that breaks: another client begins with what is in flight here. The one before would
//! forget a PUBREL if the connection broke a second time before it was sent again (rumqttc 0.34), and does not keep the
//! order of QoS 2.

use core::fmt;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use gateway_core::io::{ConnectOptions, Refusal, RestoredPublish, StoreChange, StoredUplink, Token};
use tokio::sync::oneshot;

use crate::releases::Releases;

/// Where changes of the store go. What is called back is called when they are durable. After a power cut those that were
/// submitted together are there or not, and never without what was submitted before.
#[derive(Clone)]
pub struct Journal(Arc<Submit>);

type Submit = dyn Fn(Vec<StoreChange>, Box<dyn FnOnce() + Send>) + Send + Sync;

impl Journal {
    /// `submit` carries out changes and calls back when they are durable.
    pub fn new(submit: impl Fn(Vec<StoreChange>, Box<dyn FnOnce() + Send>) + Send + Sync + 'static) -> Self {
        Journal(Arc::new(submit))
    }

    pub(crate) fn submit(&self, changes: Vec<StoreChange>, done: Box<dyn FnOnce() + Send>) {
        (self.0)(changes, done);
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Journal")
    }
}

/// The QoS 2 publishes of one connection that are in the store.
#[derive(Debug)]
pub(crate) struct Stages {
    journal: Option<Journal>,
    state: Mutex<State>,
    /// The other direction.
    pub(crate) releases: Releases,
}

#[derive(Debug, Default)]
struct State {
    /// Handed to the client library, without a packet id yet.
    expected: Vec<(Option<Token>, Publish)>,
    /// By packet id.
    open: HashMap<u16, Open>,
    /// Handed to the client library, which has not reported the outcome.
    handed: BTreeSet<Token>,
    /// Refused, which the client library does not report; the reason follows. By packet id.
    refused: HashMap<u16, Token>,
    /// Done, which the client library does not report.
    settled: Vec<(Token, Result<(), Refusal>)>,
}

#[derive(Debug)]
struct Open {
    publish: Publish,
    released: bool,
    token: Option<Token>,
    /// Present if it is of an earlier client, so that this one reports no outcome.
    orphan: Option<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Publish {
    content: Content,
    stored: StoredUplink,
}

/// What a publish says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) topic: Bytes,
    pub(crate) retain: bool,
    pub(crate) payload: Bytes,
}

/// One publish that is in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InFlight {
    pub(crate) packet_id: u16,
    /// `None`: only PUBREL is left.
    pub(crate) content: Option<Content>,
}

impl Stages {
    pub(crate) fn new(journal: Option<Journal>, options: &ConnectOptions) -> Self {
        let mut state = State::default();
        for restored in &options.restored {
            // A packet id that was given again proves that the publish it was for is done; the later one comes later.
            let open = Open::from(restored);
            if let Some(earlier) = state.open.insert(restored.packet_id, open) {
                state.settled.extend(earlier.orphan.map(|token| (token, Ok(()))));
            }
        }
        Stages {
            journal: journal.filter(|_| options.exactly_once),
            state: Mutex::new(state),
            releases: Releases::new(options),
        }
    }

    /// Whether anything is stored.
    pub(crate) fn are_kept(&self) -> bool {
        self.journal.is_some()
    }

    /// A publish is about to be handed to the client library.
    pub(crate) fn expect(
        &self,
        token: Option<Token>,
        stored: StoredUplink,
        topic: &str,
        retain: bool,
        payload: &Bytes,
    ) {
        if self.journal.is_none() {
            return;
        }
        let content = Content {
            topic: Bytes::copy_from_slice(topic.as_bytes()),
            retain,
            payload: payload.clone(),
        };
        let mut state = self.state();
        // Submitted before, and lost with a session before it had a packet id.
        state
            .expected
            .retain(|(_, publish)| publish.stored.key != stored.key);
        state.expected.push((token, Publish { content, stored }));
        state.handed.extend(token);
    }

    /// The broker does not take a publish for now, and the core, which is about to hear of it, may keep it: its packet id
    /// is its no more, and that stands before the next that gets it.
    pub(crate) fn postponed(&self, token: Token) {
        let mut state = self.state();
        let is = |open: &Open| open.token == Some(token) && !open.released;
        let packet_id = state.open.iter().find_map(|(id, open)| is(open).then_some(*id));
        let stored = packet_id.and_then(|id| Some(state.open.remove(&id)?.publish.stored));
        drop(state);
        if let (Some(journal), Some(stored)) = (&self.journal, stored) {
            let change = StoreChange::Put(stored.key, stored.pending());
            journal.submit(vec![change], Box::new(|| ()));
        }
    }

    /// A publish has its outcome: if it has no packet id by now, it gets none.
    pub(crate) fn ended(&self, token: Token) {
        let mut state = self.state();
        state.expected.retain(|(of, _)| *of != Some(token));
        state.handed.remove(&token);
    }

    /// Another client goes on with what is in flight; the outcomes that the one before did not report come from here.
    /// Returns what has no packet id yet, to be handed over again in this order.
    pub(crate) fn begin_again(&self) -> Vec<(Option<Token>, Content)> {
        let mut state = self.state();
        let State {
            expected,
            open,
            handed,
            refused,
            settled,
            ..
        } = &mut *state;
        // The connection broke before the reason was seen: it may have been this, and asking again tells.
        let refusals = refused
            .drain()
            .map(|(_, token)| (token, Err(Refusal::QUOTA_EXCEEDED)));
        settled.extend(refusals);
        for open in open.values_mut() {
            open.orphan = open.orphan.or(open.token);
        }
        let mut known: BTreeSet<Token> = expected.iter().filter_map(|(token, _)| *token).collect();
        known.extend(open.values().filter_map(|open| open.token));
        // Not in flight any more: its end was noticed, but not told.
        settled.extend(handed.difference(&known).map(|token| (*token, Ok(()))));
        *handed = expected.iter().filter_map(|(token, _)| *token).collect();
        let again = expected.iter();
        again
            .map(|(token, publish)| (*token, publish.content.clone()))
            .collect()
    }

    /// The broker said no to the publish with this packet id; returns whom to tell.
    pub(crate) fn refused(&self, packet_id: u16) -> Option<Token> {
        self.state().refused.remove(&packet_id)
    }

    /// The highest packet id of an earlier life, 0 if there is none.
    pub(crate) fn highest_restored(&self) -> u16 {
        self.state().open.keys().copied().max().unwrap_or(0)
    }

    /// What was in flight in an earlier life, in the order in which it was submitted.
    pub(crate) fn restored(&self) -> Vec<InFlight> {
        let state = self.state();
        let mut all: Vec<(u16, &Open)> = state.open.iter().map(|(id, open)| (*id, open)).collect();
        all.sort_unstable_by_key(|(_, open)| open.publish.stored.key);
        let in_flight = |(packet_id, open): (u16, &Open)| InFlight {
            packet_id,
            content: (!open.released).then(|| open.publish.content.clone()),
        };
        all.into_iter().map(in_flight).collect()
    }

    /// This, and nothing else, is in flight; returns when a later life would know.
    pub(crate) async fn save(&self, in_flight: Vec<InFlight>) {
        if !self.are_kept() {
            return;
        }
        let changes = self.state().compare(in_flight);
        if !changes.is_empty() {
            self.write(changes).await;
        }
    }

    /// Returns when the changes are durable.
    async fn write(&self, changes: Vec<StoreChange>) {
        let Some(journal) = &self.journal else { return };
        let (done, durable) = oneshot::channel();
        let done = move || {
            // Whoever waited may have gone.
            let _ = done.send(());
        };
        journal.submit(changes, Box::new(done));
        if durable.await.is_err() {
            // Nobody stores any more, so nothing leaves that a later life must know of.
            core::future::pending::<()>().await;
        }
    }

    /// Publishes that are done and of which the client library reports no outcome.
    pub(crate) fn take_settled(&self) -> Vec<(Token, Result<(), Refusal>)> {
        core::mem::take(&mut self.state().settled)
    }

    /// The session is gone: those of an earlier life that were lost with it.
    ///
    /// Their packet ids may soon be others'. That they are theirs no more stands before anything that is stored later
    /// of this connection, and before the core learns of it and changes their records.
    pub(crate) fn lose(&self) -> Vec<Token> {
        let mut lost = Vec::new();
        let mut reset = Vec::new();
        for (_, Open { publish, orphan, .. }) in self.state().open.drain() {
            lost.extend(orphan);
            let stored = publish.stored;
            reset.push(StoreChange::Put(stored.key, stored.pending()));
        }
        if let Some(journal) = self.journal.as_ref().filter(|_| !reset.is_empty()) {
            journal.submit(reset, Box::new(|| ()));
        }
        lost.sort_unstable();
        lost
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn compare(&mut self, in_flight: Vec<InFlight>) -> Vec<StoreChange> {
        let mut changes = Vec::new();
        let mut seen = HashSet::new();
        for InFlight { packet_id, content } in in_flight {
            seen.insert(packet_id);
            let change = match content {
                Some(content) => self.publish(packet_id, content),
                None => self.release(packet_id),
            };
            changes.extend(change);
        }
        let State {
            open,
            handed,
            refused,
            settled,
            ..
        } = self;
        open.retain(|packet_id, open| {
            let stays = seen.contains(packet_id);
            let untold = open.orphan.or(open.token.filter(|token| handed.contains(token)));
            if !stays && !open.released && untold.is_some() {
                // Refused. If that was for now, the core keeps it; else it deletes this when it hears of it.
                let stored = &open.publish.stored;
                changes.push(StoreChange::Put(stored.key, stored.pending()));
            }
            if let Some(token) = open.orphan.filter(|_| !stays) {
                // What the broker took was released before it was done.
                match open.released {
                    true => settled.push((token, Ok(()))),
                    false => refused.extend([(*packet_id, token)]),
                }
            }
            stays
        });
        changes
    }

    /// PUBLISH is in flight under this packet id.
    fn publish(&mut self, packet_id: u16, content: Content) -> Option<StoreChange> {
        if let Some(open) = self.open.get(&packet_id)
            && !open.released
            && open.publish.content == content
        {
            return None;
        }
        // Publishes that say the same stand for each other: which of them has which packet id makes no difference.
        let at = self
            .expected
            .iter()
            .position(|(_, publish)| publish.content == content)?;
        let (token, publish) = self.expected.remove(at);
        let value = publish.stored.at(packet_id, false);
        let change = StoreChange::Put(publish.stored.key, value);
        let open = Open {
            publish,
            released: false,
            token,
            orphan: None,
        };
        if let Some(done) = self.open.insert(packet_id, open) {
            self.settled.extend(done.orphan.map(|token| (token, Ok(()))));
        }
        Some(change)
    }

    /// PUBREL is in flight under this packet id.
    fn release(&mut self, packet_id: u16) -> Option<StoreChange> {
        let open = self.open.get_mut(&packet_id).filter(|open| !open.released)?;
        open.released = true;
        let value = open.publish.stored.at(packet_id, true);
        Some(StoreChange::Put(open.publish.stored.key, value))
    }
}

impl From<&RestoredPublish> for Open {
    fn from(restored: &RestoredPublish) -> Self {
        Open {
            publish: Publish {
                content: Content {
                    topic: Bytes::copy_from_slice(restored.topic.as_bytes()),
                    retain: restored.retain,
                    payload: restored.payload.clone(),
                },
                stored: restored.stored.clone(),
            },
            released: restored.released,
            token: Some(restored.token),
            orphan: Some(restored.token),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use gateway_core::io::StoreKey;

    use super::*;

    fn stored(id: u64) -> StoredUplink {
        StoredUplink {
            key: StoreKey { kind: 2, id },
            value: Bytes::from_static(&[1, 0, 0, 0, 7]),
        }
    }

    fn content(payload: &'static [u8]) -> Content {
        Content {
            topic: Bytes::from_static(b"t"),
            retain: false,
            payload: Bytes::from_static(payload),
        }
    }

    fn publish(packet_id: u16, payload: &'static [u8]) -> InFlight {
        InFlight {
            packet_id,
            content: Some(content(payload)),
        }
    }

    fn release(packet_id: u16) -> InFlight {
        InFlight {
            packet_id,
            content: None,
        }
    }

    fn stages(restored: Vec<RestoredPublish>) -> Stages {
        let options = ConnectOptions {
            exactly_once: true,
            restored,
            ..ConnectOptions::default()
        };
        let journal = Journal::new(|_, done| done());
        Stages::new(Some(journal), &options)
    }

    fn restored(token: u64, packet_id: u16) -> RestoredPublish {
        RestoredPublish {
            token: Token(token),
            packet_id,
            released: false,
            topic: "t".into(),
            retain: false,
            payload: Bytes::from_static(b"x"),
            stored: stored(token),
        }
    }

    fn keys(changes: &[StoreChange]) -> Vec<(u64, u8)> {
        let key = |change: &StoreChange| match change {
            StoreChange::Put(key, value) => (key.id, value[1]),
            StoreChange::Delete(key) => (key.id, 0xFF),
        };
        changes.iter().map(key).collect()
    }

    #[test]
    fn each_step_is_a_change_once() {
        let stages = stages(vec![]);
        stages.expect(None, stored(5), "t", false, &Bytes::from_static(b"x"));
        let step = |in_flight: Vec<InFlight>| keys(&stages.state().compare(in_flight));
        assert_eq!(step(vec![publish(1, b"x")]), [(5, 1)]);
        assert_eq!(step(vec![publish(1, b"x")]), []);
        assert_eq!(step(vec![release(1)]), [(5, 2)]);
        assert_eq!(step(vec![release(1)]), []);
        assert_eq!(step(vec![]), []);
        assert!(stages.restored().is_empty());
    }

    #[test]
    fn a_packet_id_that_is_given_again_belongs_to_the_new_publish() {
        let stages = stages(vec![]);
        for id in [5, 6] {
            stages.expect(None, stored(id), "t", false, &Bytes::from_static(b"x"));
        }
        let step = |in_flight: Vec<InFlight>| keys(&stages.state().compare(in_flight));
        assert_eq!(step(vec![publish(1, b"x")]), [(5, 1)]);
        step(vec![release(1)]);
        assert_eq!(step(vec![publish(1, b"x")]), [(6, 1)]);
    }

    #[test]
    fn publishes_of_an_earlier_life_are_settled_when_they_are_gone() {
        let stages = stages(vec![restored(1, 3), restored(2, 4)]);
        assert_eq!(stages.restored(), [publish(3, b"x"), publish(4, b"x")]);
        stages.state().compare(vec![publish(3, b"x"), release(4)]);
        stages.state().compare(vec![publish(3, b"x")]);
        assert_eq!(stages.take_settled(), [(Token(2), Ok(()))]);
        assert_eq!(stages.lose(), [Token(1)]);
    }

    #[test]
    fn what_an_earlier_life_submitted_goes_on_in_its_order() {
        let stages = stages(vec![restored(2, 4), restored(1, 7)]);
        assert_eq!(stages.restored(), [publish(7, b"x"), publish(4, b"x")]);
        assert_eq!(stages.highest_restored(), 7);
    }

    #[test]
    fn another_client_goes_on_with_what_the_one_before_did_not_end() {
        let stages = stages(vec![]);
        for id in 1..=4 {
            let payload = Bytes::from(id.to_string());
            stages.expect(Some(Token(id)), stored(id), "t", false, &payload);
        }
        stages.ended(Token(1));
        let step = |in_flight: Vec<InFlight>| stages.state().compare(in_flight);
        step(vec![publish(1, b"2"), publish(2, b"3")]);
        step(vec![release(1), publish(2, b"3")]);
        let again: Vec<_> = stages.begin_again().into_iter().map(|(token, _)| token).collect();
        assert_eq!(again, [Some(Token(4))]);
        assert_eq!(stages.restored(), [release(1), publish(2, b"3")]);
        step(vec![]);
        assert_eq!(stages.take_settled(), [(Token(2), Ok(()))]);
        // Never released; the connection breaks before it is known why.
        stages.begin_again();
        assert_eq!(stages.take_settled(), [(Token(3), Err(Refusal::QUOTA_EXCEEDED))]);
    }

    #[test]
    fn a_packet_id_under_which_the_broker_refused_is_taken_back_before_another_gets_it() {
        let (stages, written) = written(vec![restored(1, 3)]);
        // The client library shows it to be gone before it says why.
        for id in [2, 4] {
            stages.expect(Some(Token(id)), stored(id), "t", false, &Bytes::from_static(b"y"));
        }
        stages
            .save(vec![publish(3, b"x"), publish(4, b"y")])
            .now_or_never()
            .unwrap();
        stages.save(vec![publish(5, b"y")]).now_or_never().unwrap();
        assert_eq!(stages.refused(3), Some(Token(1)));
        let mut last = written.lock().unwrap().pop().unwrap();
        last.sort_unstable();
        assert_eq!(last, [(1, 0), (2, 0), (4, 1)]);
        stages.postponed(Token(2));
        stages.ended(Token(2));
        assert_eq!(*written.lock().unwrap(), [[(2, 1)]]);
    }

    #[test]
    fn a_packet_id_is_taken_back_as_soon_as_the_broker_refuses_for_now() {
        let (stages, written) = written(vec![restored(1, 3)]);
        stages.expect(Some(Token(2)), stored(2), "t", false, &Bytes::from_static(b"y"));
        stages
            .save(vec![publish(3, b"x"), publish(4, b"y")])
            .now_or_never()
            .unwrap();
        for id in [1, 2] {
            stages.postponed(Token(id));
            stages.ended(Token(id));
        }
        // It comes again, under another packet id.
        stages.expect(Some(Token(2)), stored(2), "t", false, &Bytes::from_static(b"y"));
        stages.save(vec![publish(5, b"y")]).now_or_never().unwrap();
        assert_eq!(*written.lock().unwrap(), [[(2, 1)], [(1, 0)], [(2, 0)], [(2, 1)]]);
        // One that is refused for good the core deletes, and nothing is written after that.
        stages.ended(Token(2));
        stages.save(vec![]).now_or_never().unwrap();
        assert_eq!(written.lock().unwrap().len(), 4);
    }

    #[test]
    fn what_the_client_before_ended_without_a_word_is_settled() {
        let stages = stages(vec![]);
        stages.expect(Some(Token(1)), stored(1), "t", false, &Bytes::from_static(b"x"));
        for in_flight in [vec![publish(1, b"x")], vec![release(1)], vec![]] {
            stages.state().compare(in_flight);
        }
        assert!(stages.begin_again().is_empty());
        assert_eq!(stages.take_settled(), [(Token(1), Ok(()))]);
    }

    type Written = Arc<Mutex<Vec<Vec<(u64, u8)>>>>;

    /// With what it writes.
    fn written(restored: Vec<RestoredPublish>) -> (Stages, Written) {
        let written = Written::default();
        let journal = Journal::new({
            let written = written.clone();
            move |changes, done| {
                written.lock().unwrap().push(keys(&changes));
                done();
            }
        });
        let options = ConnectOptions {
            exactly_once: true,
            restored,
            ..ConnectOptions::default()
        };
        (Stages::new(Some(journal), &options), written)
    }

    #[test]
    fn packet_ids_of_a_lost_session_are_taken_back_before_anybody_hears_of_it() {
        let (stages, written) = written(vec![restored(1, 3)]);
        assert_eq!(stages.lose(), [Token(1)]);
        assert_eq!(*written.lock().unwrap(), [[(1, 0)]]);
        stages.expect(None, stored(2), "t", false, &Bytes::from_static(b"x"));
        stages.save(vec![publish(3, b"x")]).now_or_never().unwrap();
        assert_eq!(*written.lock().unwrap(), [[(1, 0)], [(2, 1)]]);
    }

    #[test]
    fn nothing_leaves_when_nobody_stores_any_more() {
        let options = ConnectOptions {
            exactly_once: true,
            ..ConnectOptions::default()
        };
        let stages = Stages::new(Some(Journal::new(|_, done| drop(done))), &options);
        stages.expect(None, stored(1), "t", false, &Bytes::from_static(b"x"));
        assert!(stages.save(vec![publish(1, b"x")]).now_or_never().is_none());
    }

    #[test]
    fn of_two_of_an_earlier_life_with_one_packet_id_the_later_goes_on() {
        let stages = stages(vec![restored(1, 3), restored(2, 3)]);
        assert_eq!(stages.take_settled(), [(Token(1), Ok(()))]);
        assert_eq!(stages.lose(), [Token(2)]);
    }
}
