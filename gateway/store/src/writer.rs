//! A thread that owns a store: many changes, one sync.

use core::time::Duration;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::disk::Disk;
use crate::store::{Store, Usage};
use crate::{Change, Key, OWN_KIND};

/// Octets gathered that end the wait for more.
const GROUP_BYTES: usize = 64 << 10;

/// Waits between attempts while the disk does not work: doubling, from the first to the last.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// Changes nobody waits for are written after this at the latest: what a client acknowledged so long before a crash may
/// come again.
const LAZY: Duration = Duration::from_secs(10);

/// Over the day's budget, changes are gathered for this long.
const FRUGAL: Duration = Duration::from_secs(1);

/// The counter of the day.
const BUDGET: Key = Key {
    kind: OWN_KIND,
    id: 0,
};

/// When changes are synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Together with those that come within this time.
    Group(Duration),
    /// As soon as possible.
    Each,
    /// When the system wants to: a power cut loses what was acknowledged.
    Never,
}

/// What is called, on the writer's thread, once changes are durable.
pub type Done = Box<dyn FnOnce() + Send>;

/// What a writer reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The disk does not work or is full; what was submitted is kept and tried again. Told once until it works.
    Failed(String),
    /// It works again.
    Works,
    /// 80 % of what may be written in a day is written, or (`true`) all of it: from now on changes wait longer for each
    /// other.
    Budget(bool),
}

/// The submitting end. When the last clone is dropped, everything is made durable and the thread ends.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: Sender<Command>,
    usage: Arc<Mutex<Seen>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    usage: Usage,
    today: u64,
    syncs: SyncTimes,
}

/// How long it took to make changes durable: writing them and the sync, all that came together as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SyncTimes {
    /// How many took up to each of [`SyncTimes::BOUNDS`] and longer than the one before; the last took longer than all.
    pub counts: [u64; SyncTimes::BOUNDS.len() + 1],
    /// All of them together.
    pub sum: Duration,
}

impl SyncTimes {
    /// Upper bounds, included: from a fast disk to a card that cleans up.
    pub const BOUNDS: [Duration; 9] = [
        Duration::from_millis(1),
        Duration::from_micros(2_500),
        Duration::from_millis(5),
        Duration::from_millis(10),
        Duration::from_millis(25),
        Duration::from_millis(50),
        Duration::from_millis(100),
        Duration::from_millis(500),
        Duration::from_millis(2_500),
    ];

    fn add(&mut self, took: Duration) {
        let at = SyncTimes::BOUNDS.partition_point(|bound| *bound < took);
        self.counts[at] += 1;
        self.sum += took;
    }
}

struct Command {
    changes: Vec<Change>,
    done: Option<Done>,
}

impl Handle {
    /// Submits changes. If somebody wants to know, they are written soon and `done` is called when they are durable, in
    /// the order of submission; else they are written with the next such ones, or when ten minutes are over.
    pub fn submit(&self, changes: Vec<Change>, done: Option<Done>) {
        // The thread ends only when all handles are gone.
        let _ = self.commands.send(Command { changes, done });
    }

    /// What the store uses, and the octets that the disk was made to write today.
    pub fn usage(&self) -> (Usage, u64) {
        let seen = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.usage, seen.today)
    }

    /// How long syncs took that worked, since the start.
    pub fn sync_times(&self) -> SyncTimes {
        let seen = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        seen.syncs
    }
}

/// The thread.
#[derive(Debug)]
pub struct Writer {
    thread: JoinHandle<()>,
}

impl Writer {
    /// Starts a thread that owns the store. `day_budget` is how many octets may be written in a day, 0 for any number;
    /// `values` are those that [`Store::open`] returned, from which the day's counter is taken.
    ///
    /// # Errors
    /// The system has no thread for us.
    pub fn spawn<D: Disk + 'static>(
        store: Store<D>,
        sync: Sync,
        day_budget: u64,
        values: &[(Key, Bytes)],
        on_event: impl FnMut(Event) + Send + 'static,
    ) -> io::Result<(Writer, Handle)>
    where
        D::File: 'static,
    {
        let (commands, receiver) = channel();
        let usage = Arc::new(Mutex::new(Seen::default()));
        let unsure = store.has_pending();
        let stored = values.iter().find(|(key, _)| *key == BUDGET);
        let task = Task {
            base: store.usage().written_bytes,
            store,
            sync,
            budget: Budget::new(day_budget, stored.map(|(_, value)| value)),
            syncs: SyncTimes::default(),
            seen: usage.clone(),
            on_event: Box::new(on_event),
            waiting: Vec::new(),
            gathered: 0,
            lazy_since: None,
            // What could not be synced when the store was opened is written as soon as it can be.
            failing: unsure.then(|| (Instant::now(), RETRY[0])),
        };
        let thread = thread::Builder::new()
            .name("store".into())
            .spawn(move || task.run(&receiver))?;
        Ok((Writer { thread }, Handle { commands, usage }))
    }

    /// Waits until everything is written, after the last handle is dropped.
    pub fn join(self) {
        // A panic there has been reported by itself.
        let _ = self.thread.join();
    }
}

struct Task<D: Disk> {
    store: Store<D>,
    sync: Sync,
    budget: Budget,
    syncs: SyncTimes,
    /// Octets written when the budget was last told.
    base: u64,
    seen: Arc<Mutex<Seen>>,
    on_event: Box<dyn FnMut(Event) + Send>,
    /// Who wants to know when everything is durable.
    waiting: Vec<Done>,
    /// Octets of changes since the last commit.
    gathered: usize,
    /// When the oldest change came that nobody waits for.
    lazy_since: Option<Instant>,
    /// The disk does not work: when to try again, and how long to wait after that.
    failing: Option<(Instant, Duration)>,
}

impl<D: Disk> Task<D> {
    fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let wait = self.wait();
            let next = match wait {
                Some(wait) => commands.recv_timeout(wait),
                None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match next {
                Ok(command) => {
                    self.take(command);
                    self.gather(commands);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let _ = self.store.commit(true);
                    return;
                }
            }
            if self.is_due() {
                self.commit();
            }
        }
    }

    /// How long to wait for a command; `None` without end.
    fn wait(&self) -> Option<Duration> {
        if let Some((at, _)) = self.failing {
            return Some(at.saturating_duration_since(Instant::now()));
        }
        self.lazy_since
            .map(|since| (since + LAZY).saturating_duration_since(Instant::now()))
    }

    fn is_due(&self) -> bool {
        let now = Instant::now();
        match self.failing {
            Some((at, _)) => now >= at,
            None => !self.waiting.is_empty() || self.lazy_since.is_some_and(|since| now >= since + LAZY),
        }
    }

    fn take(&mut self, command: Command) {
        for change in command.changes {
            self.gathered += match &change {
                Change::Put(_, value) => value.len(),
                Change::Delete(_) => 0,
            };
            self.store.apply(change);
        }
        match command.done {
            Some(done) => self.waiting.push(done),
            None => {
                self.lazy_since.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Takes what comes within the group's time.
    fn gather(&mut self, commands: &Receiver<Command>) {
        if self.waiting.is_empty() || self.failing.is_some() {
            return;
        }
        let wait = match self.sync {
            Sync::Each | Sync::Never => Duration::ZERO,
            Sync::Group(_) if self.budget.is_spent() => FRUGAL,
            Sync::Group(wait) => wait,
        };
        let end = Instant::now() + wait;
        while self.gathered < GROUP_BYTES {
            let left = end.saturating_duration_since(Instant::now());
            match commands.recv_timeout(left) {
                Ok(command) => self.take(command),
                Err(_) => return,
            }
        }
    }

    fn commit(&mut self) {
        self.count();
        if let Some(change) = self.budget.record() {
            self.store.apply(change);
        }
        let begin = Instant::now();
        match self.store.commit(self.sync != Sync::Never) {
            Ok(()) => {
                if self.sync != Sync::Never {
                    self.syncs.add(begin.elapsed());
                }
                self.gathered = 0;
                self.lazy_since = None;
                if self.failing.take().is_some() {
                    (self.on_event)(Event::Works);
                }
                for done in self.waiting.drain(..) {
                    done();
                }
            }
            Err(error) => {
                let wait = match self.failing {
                    Some((_, wait)) => (wait * 2).min(RETRY[1]),
                    None => {
                        (self.on_event)(Event::Failed(error.to_string()));
                        RETRY[0]
                    }
                };
                self.failing = Some((Instant::now() + wait, wait));
            }
        }
        self.count();
    }

    fn count(&mut self) {
        let usage = self.store.usage();
        let written = usage.written_bytes - self.base;
        self.base = usage.written_bytes;
        if let Some(spent) = self.budget.add(today(), written) {
            (self.on_event)(Event::Budget(spent));
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Seen {
            usage,
            today: self.budget.written,
            syncs: self.syncs,
        };
    }
}

/// Days since 1970.
fn today() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs() / 86_400)
}

/// What may be written in a day.
#[derive(Debug)]
struct Budget {
    /// 0: any number.
    bytes: u64,
    day: u64,
    written: u64,
    stored: u64,
}

impl Budget {
    fn new(bytes: u64, stored: Option<&Bytes>) -> Self {
        let numbers = stored.and_then(|value| {
            let (day, written) = value.split_first_chunk::<8>()?;
            Some((
                u64::from_be_bytes(*day),
                u64::from_be_bytes(written.try_into().ok()?),
            ))
        });
        let (day, written) = numbers.unwrap_or_default();
        Budget {
            bytes,
            day,
            written,
            stored: written,
        }
    }

    fn is_spent(&self) -> bool {
        self.bytes > 0 && self.written >= self.bytes
    }

    /// Counts; says when 80 % (`false`) or everything (`true`) is reached.
    fn add(&mut self, day: u64, written: u64) -> Option<bool> {
        if day != self.day {
            (self.day, self.written) = (day, 0);
        }
        let before = self.written;
        self.written += written;
        let crosses = |limit: u64| before < limit && self.written >= limit;
        match self.bytes {
            0 => None,
            bytes if crosses(bytes) => Some(true),
            bytes if crosses(bytes / 5 * 4) => Some(false),
            _ => None,
        }
    }

    /// The counter as a change, if it grew.
    fn record(&mut self) -> Option<Change> {
        if self.written == self.stored {
            return None;
        }
        self.stored = self.written;
        let mut value = Vec::with_capacity(16);
        value.extend_from_slice(&self.day.to_be_bytes());
        value.extend_from_slice(&self.written.to_be_bytes());
        Some(Change::Put(BUDGET, value.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_is_told_at_four_fifths_and_at_its_end_and_begins_anew_each_day() {
        let mut budget = Budget::new(1000, None);
        assert_eq!(budget.add(1, 700), None);
        assert_eq!(budget.add(1, 100), Some(false));
        assert_eq!(budget.add(1, 150), None);
        assert!(!budget.is_spent());
        assert_eq!(budget.add(1, 50), Some(true));
        assert!(budget.is_spent());
        assert_eq!(budget.add(2, 10), None);
        assert!(!budget.is_spent());
    }

    #[test]
    fn sync_of_exactly_a_bound_counts_as_within_it() {
        let mut times = SyncTimes::default();
        for millis in [1, 2, 2_500, 2_501] {
            times.add(Duration::from_millis(millis));
        }
        assert_eq!(times.counts, [1, 1, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(times.sum, Duration::from_millis(5_004));
    }

    #[test]
    fn counter_of_the_day_goes_on_after_a_restart() {
        let mut budget = Budget::new(1000, None);
        budget.add(5, 400);
        let Some(Change::Put(BUDGET, value)) = budget.record() else {
            panic!("a record");
        };
        assert_eq!(budget.record(), None);
        let mut again = Budget::new(1000, Some(&value));
        assert_eq!(again.add(5, 400), Some(false));
    }
}
