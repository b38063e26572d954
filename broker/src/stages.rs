//! How far the QoS 2 publishes of a connection are, for a later life of the process.
//!
//! The client library shows what it has in flight before every packet that it sends. What changed since the last time
//! is stored then, and the packet waits until that is durable: the packet id before PUBLISH leaves, that PUBREC came
//! before PUBREL leaves. So a later life knows every packet id that the broker may know.

use core::fmt;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use gateway_core::io::{ConnectOptions, RestoredPublish, StoreChange, StoredUplink, Token};
use tokio::sync::oneshot;

/// Where changes of the store go. What is called back is called when they are durable.
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
    /// Packet ids of QoS 2 deliveries that were taken in an earlier life.
    received: Vec<u16>,
}

#[derive(Debug, Default)]
struct State {
    /// Handed to the client library, without a packet id yet.
    expected: Vec<Publish>,
    /// By packet id.
    open: HashMap<u16, Open>,
    /// Of an earlier life, and done.
    settled: Vec<Token>,
}

#[derive(Debug)]
struct Open {
    publish: Publish,
    released: bool,
    /// Present if it is of an earlier life, of which the client library reports no outcome.
    restored: Option<Token>,
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
    pub(crate) fn new(journal: Option<Journal>, options: &ConnectOptions, window: u16) -> Self {
        let mut state = State::default();
        for restored in &options.restored {
            // A packet id that was given again proves that the publish it was for is done; the later one comes later.
            let open = Open::from(restored);
            if let Some(earlier) = state.open.insert(restored.packet_id, open) {
                state.settled.extend(earlier.restored);
            }
        }
        // With a smaller window the client library cannot go on with higher packet ids: then nothing is in flight.
        if state.open.keys().any(|packet_id| *packet_id > window) {
            tracing::warn!(
                target: "broker",
                "publishes of before the restart are sent again, since broker.in_flight is smaller than it was"
            );
            state.open.clear();
        }
        Stages {
            journal: journal.filter(|_| options.exactly_once),
            state: Mutex::new(state),
            received: options
                .received
                .iter()
                .map(|delivery| crate::deliveries::packet_id(*delivery))
                .collect(),
        }
    }

    /// Whether anything is stored.
    pub(crate) fn are_kept(&self) -> bool {
        self.journal.is_some()
    }

    /// Packet ids of deliveries taken in an earlier life.
    pub(crate) fn received(&self) -> &[u16] {
        &self.received
    }

    /// A publish is about to be handed to the client library.
    pub(crate) fn expect(&self, stored: StoredUplink, topic: &str, retain: bool, payload: &Bytes) {
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
        state.expected.retain(|publish| publish.stored.key != stored.key);
        state.expected.push(Publish { content, stored });
    }

    /// What was in flight in an earlier life, in the order of packet ids.
    pub(crate) fn restored(&self) -> Vec<InFlight> {
        let state = self.state();
        let mut all: Vec<InFlight> = state
            .open
            .iter()
            .map(|(packet_id, open)| InFlight {
                packet_id: *packet_id,
                content: (!open.released).then(|| open.publish.content.clone()),
            })
            .collect();
        all.sort_unstable_by_key(|publish| publish.packet_id);
        all
    }

    /// This, and nothing else, is in flight; returns when a later life would know.
    pub(crate) async fn save(&self, in_flight: Vec<InFlight>) {
        let changes = self.state().compare(in_flight);
        let Some(journal) = self.journal.as_ref().filter(|_| !changes.is_empty()) else {
            return;
        };
        let (done, durable) = oneshot::channel();
        (journal.0)(
            changes,
            Box::new(move || {
                // Whoever waited may have gone.
                let _ = done.send(());
            }),
        );
        // Without a store there is nobody to wait for; the process is about to end.
        let _ = durable.await;
    }

    /// Publishes of an earlier life that are done.
    pub(crate) fn take_settled(&self) -> Vec<Token> {
        core::mem::take(&mut self.state().settled)
    }

    /// The session is gone: those of an earlier life that were lost with it.
    pub(crate) fn lose(&self) -> Vec<Token> {
        let mut state = self.state();
        let mut lost: Vec<Token> = state.open.drain().filter_map(|(_, open)| open.restored).collect();
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
        let State { open, settled, .. } = self;
        open.retain(|packet_id, open| {
            let stays = seen.contains(packet_id);
            settled.extend(open.restored.filter(|_| !stays));
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
            .position(|publish| publish.content == content)?;
        let publish = self.expected.remove(at);
        let value = publish.stored.at(packet_id, false);
        let change = StoreChange::Put(publish.stored.key, value);
        let open = Open {
            publish,
            released: false,
            restored: None,
        };
        if let Some(done) = self.open.insert(packet_id, open) {
            self.settled.extend(done.restored);
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
            restored: Some(restored.token),
        }
    }
}

#[cfg(test)]
mod tests {
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
        Stages::new(Some(journal), &options, 20)
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
        stages.expect(stored(5), "t", false, &Bytes::from_static(b"x"));
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
            stages.expect(stored(id), "t", false, &Bytes::from_static(b"x"));
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
        stages.state().compare(vec![publish(3, b"x")]);
        assert_eq!(stages.take_settled(), [Token(2)]);
        assert_eq!(stages.lose(), [Token(1)]);
    }

    #[test]
    fn of_two_of_an_earlier_life_with_one_packet_id_the_later_goes_on() {
        let stages = stages(vec![restored(1, 3), restored(2, 3)]);
        assert_eq!(stages.take_settled(), [Token(1)]);
        assert_eq!(stages.lose(), [Token(2)]);
    }
}
