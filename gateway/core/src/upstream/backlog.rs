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
    /// Of clients that were not held when they came here. What one of them has was here before what is held of it.
    line: VecDeque<Place>,
    held: FxHashMap<Author, Held>,
    /// All that is held, by `seq`.
    all_held: BTreeMap<u64, usize>,
    /// Clients in [`Turn::Waiting`].
    due: BTreeSet<(Instant, Author)>,
    /// Clients in [`Turn::Ready`].
    ready: VecDeque<Author>,
}

/// What a client has that is held.
#[derive(Debug)]
struct Held {
    /// By `seq`. Empty only while one is under way.
    line: BTreeMap<u64, usize>,
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
        self.line.is_empty() && self.all_held.is_empty()
    }

    /// Something of it does not have to wait.
    pub(super) fn wants_to_leave(&self) -> bool {
        !self.line.is_empty() || !self.ready.is_empty()
    }

    /// The one that came first.
    pub(super) fn oldest(&self) -> Option<usize> {
        let in_line = self.line.front().copied();
        let held = self.all_held.first_key_value().map(|(seq, key)| (*seq, *key));
        let (_, key) = in_line.into_iter().chain(held).min()?;
        Some(key)
    }

    /// Those that do not wait for a held client's turn, in order.
    pub(super) fn in_line(&self) -> impl Iterator<Item = usize> {
        self.line.iter().map(|(_, key)| *key)
    }

    /// Those that do, in order.
    pub(super) fn held(&self) -> impl Iterator<Item = usize> {
        self.all_held.values().copied()
    }

    /// Puts one in its place.
    pub(super) fn insert(&mut self, place: Place, author: Author) {
        if self.held.contains_key(&author) {
            return self.hold(place, author);
        }
        match self.line.back() {
            Some(last) if *last > place => {
                let at = self.line.partition_point(|other| *other < place);
                self.line.insert(at, place);
            }
            _ => self.line.push_back(place),
        }
    }

    /// Puts many in their places.
    pub(super) fn extend(&mut self, places: impl IntoIterator<Item = (Place, Author)>) {
        for (place, author) in places {
            match self.held.contains_key(&author) {
                true => self.hold(place, author),
                false => self.line.push_back(place),
            }
        }
        self.line.make_contiguous().sort();
    }

    /// One is not to be sent any more.
    pub(super) fn remove(&mut self, place: Place, author: Author) {
        if self.all_held.remove(&place.0).is_none() {
            return self.remove_from_line(place);
        }
        let Some(held) = self.held.get_mut(&author) else {
            return;
        };
        held.line.remove(&place.0);
        if held.line.is_empty() && !matches!(held.turn, Turn::Trying(_)) {
            self.let_go(author);
        }
    }

    /// Many are not to be sent any more. Those that are held stay, and are removed one by one.
    pub(super) fn retain_in_line(&mut self, stays: impl Fn(usize) -> bool) {
        self.line.retain(|(_, key)| stays(*key));
    }

    /// The next that may be sent: of a held client whose wait is over, else the first of the others.
    pub(super) fn next(&mut self, author_of: impl Fn(usize) -> Author) -> Option<usize> {
        while let Some(front) = self.line.front().copied()
            && !self.held.is_empty()
            && let author = author_of(front.1)
            && self.held.contains_key(&author)
        {
            self.line.pop_front();
            self.hold(front, author);
        }
        let ready = self.ready.front().and_then(|author| self.held.get(author));
        match ready.and_then(|held| held.line.first_key_value()) {
            Some((_, key)) => Some(*key),
            None => self.line.front().map(|(_, key)| *key),
        }
    }

    /// One is sent. With `tracked` its outcome comes.
    pub(super) fn send(&mut self, place: Place, author: Author, tracked: bool) {
        if tracked && self.all_held.contains_key(&place.0) {
            self.turn(author, Turn::Trying(place.0));
        }
        self.remove(place, author);
    }

    /// The broker decided about one that was sent.
    pub(super) fn settled(&mut self, seq: u64, author: Author) {
        if let Some(held) = self
            .held
            .get_mut(&author)
            .filter(|held| held.turn == Turn::Trying(seq))
        {
            held.wait = WAIT_MIN;
            self.ready_or_gone(author);
        }
    }

    /// One that was sent is lost: it goes out again, in its old place.
    pub(super) fn lost(&mut self, place: Place, author: Author) {
        self.insert(place, author);
        if self.is_trying(place.0, author) {
            self.ready_or_gone(author);
        }
    }

    /// The broker does not take one for now that was sent: it goes out again later, in its old place, and what its client
    /// has here after it.
    pub(super) fn postpone(&mut self, now: Instant, place: Place, author: Author) {
        let held = self.held.entry(author).or_insert(Held {
            line: BTreeMap::new(),
            turn: Turn::Trying(place.0),
            wait: WAIT_MIN,
        });
        // Else it was under way together with the one that began the wait.
        if held.turn == Turn::Trying(place.0) {
            let until = now + held.wait;
            held.wait = (2 * held.wait).min(WAIT_MAX);
            self.turn(author, Turn::Waiting(until));
        }
        self.hold(place, author);
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

    fn hold(&mut self, (seq, key): Place, author: Author) {
        if let Some(held) = self.held.get_mut(&author) {
            held.line.insert(seq, key);
            self.all_held.insert(seq, key);
        }
    }

    fn remove_from_line(&mut self, place: Place) {
        if self.line.front() == Some(&place) {
            self.line.pop_front();
        } else if let Ok(at) = self.line.binary_search(&place) {
            self.line.remove(at);
        }
    }

    fn is_trying(&self, seq: u64, author: Author) -> bool {
        let held = self.held.get(&author);
        held.is_some_and(|held| held.turn == Turn::Trying(seq))
    }

    fn ready_or_gone(&mut self, author: Author) {
        match self.held.get(&author).is_some_and(|held| held.line.is_empty()) {
            true => self.let_go(author),
            false => self.turn(author, Turn::Ready),
        }
    }

    /// Nothing is held of it any more.
    fn let_go(&mut self, author: Author) {
        if let Some(held) = self.held.remove(&author) {
            self.leave(author, held.turn);
        }
    }

    fn turn(&mut self, author: Author, turn: Turn) {
        let Some(held) = self.held.get_mut(&author) else {
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
