//! What is going to happen, in the order of time.

use std::collections::BTreeMap;

use gateway_core::time::Instant;

/// Events that wait for their time; those of one instant come in the order they were added.
#[derive(Debug, Clone)]
pub struct Agenda<T> {
    events: BTreeMap<(Instant, u64), T>,
    added: u64,
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Agenda {
            events: BTreeMap::new(),
            added: 0,
        }
    }
}

impl<T> Agenda<T> {
    /// Adds an event.
    pub fn add(&mut self, at: Instant, event: T) {
        self.added += 1;
        self.events.insert((at, self.added), event);
    }

    /// When the next event is.
    pub fn next(&self) -> Option<Instant> {
        self.events.keys().next().map(|(at, _)| *at)
    }

    /// The next event, if its time has come.
    pub fn pop_due(&mut self, now: Instant) -> Option<(Instant, T)> {
        let entry = self.events.first_entry()?;
        let at = entry.key().0;
        (at <= now).then(|| (at, entry.remove()))
    }

    /// Leaves out events for which this is false.
    pub fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.events.retain(|_, event| keep(event));
    }

    /// Nothing is going to happen any more.
    pub fn clear(&mut self) {
        self.events.clear();
    }

    /// How many events wait.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// True if none waits.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}
