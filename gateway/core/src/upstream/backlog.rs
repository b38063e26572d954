//! The lane of spooled publishes of one connection: what is to be sent next, and whose messages wait since the broker
//! said "later" (reading A50).
//!
//! A client whose message the broker did not take for now is *held*: all it has here waits for a while, which doubles
//! with every attempt, and then goes one at a time until nothing is left, so that its order holds. The others go on.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rustc_hash::FxHashMap;

use super::Author;
use crate::time::Instant;

/// The first wait, and that after a success; taste.
const WAIT_MIN: Duration = Duration::from_secs(1);

/// The longest wait; taste.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A publish in a lane: its `seq`, which lanes are ordered by, and the key of its request.
pub(super) type Place = (u64, usize);

/// Spooled publishes that are not sent, in order.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// All of them, by client.
    lines: FxHashMap<Author, Line>,
    /// Those of clients that are not held, by `seq`.
    free: BTreeMap<u64, (usize, Author)>,
    /// Those of clients that are, by `seq`.
    held: BTreeMap<u64, usize>,
    /// Clients in [`Turn::Waiting`].
    due: BTreeSet<(Instant, Author)>,
    /// Clients in [`Turn::Ready`].
    ready: VecDeque<Author>,
}

/// What a client has here.
#[derive(Debug, Default)]
struct Line {
    /// By `seq`. Empty only while the client is held and its only one is under way.
    places: BTreeMap<u64, usize>,
    held: Option<Held>,
}

/// A client whose message the broker did not take.
#[derive(Debug, Clone, Copy)]
struct Held {
    turn: Turn,
    /// How long it waits when its next message is not taken.
    wait: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Nothing of it is sent before this.
    Waiting(Instant),
    /// Its first may be sent.
    Ready,
    /// The one with this `seq` is under way.
    Trying(u64),
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.free.is_empty() && self.held.is_empty()
    }

    /// Something of it does not have to wait.
    pub(super) fn wants_to_leave(&self) -> bool {
        !self.free.is_empty() || !self.ready.is_empty()
    }

    /// The one that came first.
    pub(super) fn oldest(&self) -> Option<usize> {
        let free = self.free.first_key_value().map(|(seq, (key, _))| (*seq, *key));
        let held = self.held.first_key_value().map(|(seq, key)| (*seq, *key));
        let (_, key) = free.into_iter().chain(held).min()?;
        Some(key)
    }

    /// Those that do not wait for a held client's turn, in order.
    pub(super) fn free(&self) -> impl Iterator<Item = usize> {
        self.free.values().map(|(key, _)| *key)
    }

    /// Those that do, in order.
    pub(super) fn held(&self) -> impl Iterator<Item = usize> {
        self.held.values().copied()
    }

    /// Puts one in its place.
    pub(super) fn insert(&mut self, (seq, key): Place, author: Author) {
        let line = self.lines.entry(author).or_default();
        line.places.insert(seq, key);
        match line.held {
            Some(_) => drop(self.held.insert(seq, key)),
            None => drop(self.free.insert(seq, (key, author))),
        }
    }

    /// One is not to be sent any more.
    pub(super) fn remove(&mut self, (seq, _): Place, author: Author) {
        let Some(line) = self.lines.get_mut(&author) else {
            return;
        };
        line.places.remove(&seq);
        if self.free.remove(&seq).is_none() {
            self.held.remove(&seq);
        }
        let under_way = line.held.is_some_and(|held| matches!(held.turn, Turn::Trying(_)));
        if line.places.is_empty() && !under_way {
            self.let_go(author);
        }
    }

    /// The next that may be sent: of a held client whose wait is over, else the first of the others.
    pub(super) fn next(&self) -> Option<usize> {
        let ready = self.ready.front().and_then(|author| self.lines.get(author));
        match ready.and_then(|line| line.places.first_key_value()) {
            Some((_, key)) => Some(*key),
            None => self.free.first_key_value().map(|(_, (key, _))| *key),
        }
    }

    /// One is sent. With `tracked` its outcome comes.
    pub(super) fn send(&mut self, place: Place, author: Author, tracked: bool) {
        if tracked && self.held.contains_key(&place.0) {
            self.turn(author, Turn::Trying(place.0));
        }
        self.remove(place, author);
    }

    /// The broker decided about one that was sent.
    pub(super) fn settled(&mut self, seq: u64, author: Author) {
        if let Some(held) = self
            .held_mut(author)
            .filter(|held| held.turn == Turn::Trying(seq))
        {
            held.wait = WAIT_MIN;
            self.ready_or_gone(author);
        }
    }

    /// One that was sent is lost: it goes out again, in its old place.
    pub(super) fn lost(&mut self, place: Place, author: Author) {
        self.insert(place, author);
        if self
            .held_mut(author)
            .is_some_and(|held| held.turn == Turn::Trying(place.0))
        {
            self.ready_or_gone(author);
        }
    }

    /// The broker does not take one for now that was sent: it goes out again later, in its old place, and what its client
    /// has here after it.
    pub(super) fn postpone(&mut self, now: Instant, place: Place, author: Author) {
        let line = self.lines.entry(author).or_default();
        let held = *line.held.get_or_insert_with(|| {
            for (seq, key) in &line.places {
                self.free.remove(seq);
                self.held.insert(*seq, *key);
            }
            Held {
                turn: Turn::Trying(place.0),
                wait: WAIT_MIN,
            }
        });
        self.insert(place, author);
        // Else it was under way together with the one that began the wait.
        if held.turn == Turn::Trying(place.0) {
            self.turn(author, Turn::Waiting(now + held.wait));
            if let Some(own) = self.held_mut(author) {
                own.wait = (2 * held.wait).min(WAIT_MAX);
            }
        }
    }

    /// When [`Backlog::look_at_held`] is wanted.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The wait of some may be over.
    pub(super) fn look_at_held(&mut self, now: Instant) {
        while let Some((at, author)) = self.due.first().copied()
            && now >= at
        {
            self.turn(author, Turn::Ready);
        }
    }

    fn held_mut(&mut self, author: Author) -> Option<&mut Held> {
        self.lines.get_mut(&author)?.held.as_mut()
    }

    fn ready_or_gone(&mut self, author: Author) {
        match self.lines.get(&author).is_some_and(|line| line.places.is_empty()) {
            true => self.let_go(author),
            false => self.turn(author, Turn::Ready),
        }
    }

    /// Nothing is left of it.
    fn let_go(&mut self, author: Author) {
        if let Some(held) = self.lines.remove(&author).and_then(|line| line.held) {
            self.leave(author, held.turn);
        }
    }

    fn turn(&mut self, author: Author, turn: Turn) {
        let Some(held) = self.held_mut(author) else {
            return;
        };
        let before = core::mem::replace(&mut held.turn, turn);
        self.leave(author, before);
        match turn {
            Turn::Waiting(until) => drop(self.due.insert((until, author))),
            Turn::Ready => self.ready.push_back(author),
            Turn::Trying(_) => {}
        }
    }

    fn leave(&mut self, author: Author, turn: Turn) {
        match turn {
            Turn::Waiting(until) => drop(self.due.remove(&(until, author))),
            Turn::Ready if self.ready.front() == Some(&author) => drop(self.ready.pop_front()),
            Turn::Ready => self.ready.retain(|other| *other != author),
            Turn::Trying(_) => {}
        }
    }
}
