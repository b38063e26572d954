//! One heap of deadlines for all clients, looked at only when one fires.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::clients::ClientIx;
use crate::time::Instant;

/// Deadlines by time. A client knows which of its entries counts; the others are taken for what they are when they
/// fire.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, ClientIx)>>,
}

impl Timers {
    /// Asks for the client to be looked at, at or after `at`.
    pub(crate) fn arm(&mut self, at: Instant, client: ClientIx) {
        self.heap.push(Reverse((at, client)));
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Keeps the entries that still count.
    pub(crate) fn retain(&mut self, mut counts: impl FnMut(Instant, ClientIx) -> bool) {
        self.heap.retain(|Reverse((at, client))| counts(*at, *client));
    }

    /// The earliest entry, stale or not: a late or needless wake-up does no harm.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes the earliest entry that is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<(Instant, ClientIx)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}
