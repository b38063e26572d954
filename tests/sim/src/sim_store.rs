//! The gateway's disk, as the thread that writes to it would use it, in virtual time.
//!
//! It is a real [`Store`] on a [`SimDisk`]: what waits is written together, what nobody waits for goes with the next
//! that somebody waits for, and each commit takes a while. The power may go at any moment of it.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use gateway_core::io::{StoreChange, StoreEvent, StoreKey, Ticket};
use gateway_core::time::Instant;
use gateway_store::{Change, Damage, Key, Options, SimDisk, Store};
use rand::{RngExt, rngs::SmallRng};

use crate::net::between;
use crate::sim_broker::PortWrite;

/// What nobody waits for is written after this at the latest: much later than the gateway's own store does it, so that a
/// power cut finds more of it undone.
const LAZY: Duration = Duration::from_secs(600);

/// Between attempts while the disk does not work.
const RETRY: Duration = Duration::from_secs(1);

/// How the disk behaves.
#[derive(Debug, Clone)]
pub struct DiskConfig {
    /// Shortest time of a commit.
    pub sync_min: Duration,
    /// Longest time of a commit.
    pub sync_max: Duration,
    /// Octets of the disk.
    pub capacity: usize,
    /// Octets of a segment of the store.
    pub segment: usize,
}

impl Default for DiskConfig {
    fn default() -> Self {
        DiskConfig {
            sync_min: Duration::from_millis(1),
            sync_max: Duration::from_millis(30),
            capacity: 16 << 20,
            segment: 16 << 10,
        }
    }
}

/// How the gateway's process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By SIGKILL: what was handed to the system stays.
    Killed,
    /// With the power: what was not synced stays in part.
    PowerCut,
}

/// What the store has to do later; the world hands it back at its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreAction {
    /// A commit is over, one way or the other.
    Committed(u64),
    /// Time to write what nobody waits for, or to try again.
    Look(u64),
}

/// What the store tells.
#[derive(Debug)]
pub enum StoreNews {
    /// The gateway.
    Gateway(StoreEvent),
    /// The broker's port: what it wanted to write is durable.
    Port(PortWrite),
}

/// What stands on the disk when the gateway starts again.
#[derive(Debug)]
pub struct Found {
    /// The values, in the order in which they were written.
    pub values: Vec<(StoreKey, Bytes)>,
    /// What cannot be read.
    pub damage: Vec<Damage>,
    /// What was reported durable and is not there, although nothing was about to change it.
    pub missing: Vec<StoreKey>,
}

/// The store and the disk below it.
#[derive(Debug)]
pub struct SimStore {
    /// The disk, to make it fail or to damage it.
    pub disk: SimDisk,
    config: DiskConfig,
    store: Store<SimDisk>,
    /// Counts the gateway's lives: what was scheduled for an earlier one does not happen.
    life: u64,
    /// Who waits for the next commit, and for the one that is under way.
    waiting: Vec<Waiting>,
    committing: Option<Vec<Waiting>>,
    lazy_since: Option<Instant>,
    failing: bool,
    look_at: Option<Instant>,
    scheduled: Vec<(Instant, StoreAction)>,
    /// What a disk that keeps its word must have: by key, the value that was reported durable.
    promised: BTreeMap<StoreKey, Bytes>,
    /// Read when the disk did not work.
    unsure: Vec<(StoreKey, Bytes)>,
    /// Not handed to the store yet.
    queued: Vec<StoreChange>,
    /// Handed to the store and not durable for certain.
    written: Vec<StoreChange>,
    /// Became durable and was not asked for yet.
    news: Vec<(StoreKey, Bytes)>,
}

#[derive(Debug)]
enum Waiting {
    Core(Ticket),
    Port(PortWrite),
}

impl SimStore {
    /// An empty disk.
    ///
    /// # Panics
    /// Never: an empty disk can be opened.
    pub fn new(seed: u64, config: DiskConfig) -> SimStore {
        let disk = SimDisk::new(seed, config.capacity);
        let (store, _) = open(&disk, &config);
        SimStore {
            disk,
            config,
            store,
            life: 0,
            waiting: Vec::new(),
            committing: None,
            lazy_since: None,
            failing: false,
            look_at: None,
            scheduled: Vec::new(),
            promised: BTreeMap::new(),
            unsure: Vec::new(),
            queued: Vec::new(),
            written: Vec::new(),
            news: Vec::new(),
        }
    }

    /// The gateway or a port wants something written.
    pub fn submit(
        &mut self,
        now: Instant,
        changes: Vec<StoreChange>,
        ticket: Option<Ticket>,
        rng: &mut SmallRng,
    ) {
        self.queued.extend(changes);
        match ticket {
            Some(ticket) => self.waiting.push(Waiting::Core(ticket)),
            None => {
                self.lazy_since.get_or_insert(now);
            }
        }
        self.work(now, rng);
    }

    /// The broker's port wants something written.
    pub fn submit_port(&mut self, now: Instant, write: PortWrite, rng: &mut SmallRng) {
        self.queued.push(write.change.clone());
        self.waiting.push(Waiting::Port(write));
        self.work(now, rng);
    }

    /// Begins a commit if there is reason to.
    fn work(&mut self, now: Instant, rng: &mut SmallRng) {
        if self.committing.is_some() || self.failing {
            return;
        }
        let lazy = self.lazy_since.is_some_and(|since| now >= since + LAZY);
        if self.waiting.is_empty() && !lazy {
            if let Some(since) = self.lazy_since {
                self.look(since + LAZY);
            }
            return;
        }
        self.begin(now, rng);
    }

    fn begin(&mut self, now: Instant, rng: &mut SmallRng) {
        self.lazy_since = None;
        for change in &self.queued {
            self.store.apply(for_store(change));
        }
        self.written.append(&mut self.queued);
        self.committing = Some(core::mem::take(&mut self.waiting));
        let at = now + between(rng, self.config.sync_min, self.config.sync_max);
        self.scheduled.push((at, StoreAction::Committed(self.life)));
    }

    fn look(&mut self, at: Instant) {
        if self.look_at != Some(at) {
            self.look_at = Some(at);
            self.scheduled.push((at, StoreAction::Look(self.life)));
        }
    }

    /// What to do later, and when.
    pub fn poll_action(&mut self) -> Option<(Instant, StoreAction)> {
        self.scheduled.pop()
    }

    /// Does what was scheduled earlier; returns what there is to tell.
    pub fn handle_action(&mut self, now: Instant, action: StoreAction, rng: &mut SmallRng) -> Vec<StoreNews> {
        let mut news = Vec::new();
        match action {
            StoreAction::Committed(life) if life == self.life => self.committed(now, &mut news),
            StoreAction::Look(life) if life == self.life => {
                self.look_at = None;
                if self.failing && self.committing.is_none() {
                    self.begin(now, rng);
                }
            }
            // Of another life.
            StoreAction::Committed(_) | StoreAction::Look(_) => return news,
        }
        self.work(now, rng);
        news
    }

    fn committed(&mut self, now: Instant, news: &mut Vec<StoreNews>) {
        let Some(waiting) = self.committing.take() else {
            return;
        };
        if self.store.commit(true).is_err() {
            if !core::mem::replace(&mut self.failing, true) {
                news.push(StoreNews::Gateway(StoreEvent::Failed));
            }
            self.waiting.splice(0..0, waiting);
            self.look(now + RETRY);
            return;
        }
        if core::mem::take(&mut self.failing) {
            news.push(StoreNews::Gateway(StoreEvent::Works));
        }
        if self.promised.is_empty() {
            self.promised.extend(self.unsure.drain(..));
        }
        for change in self.written.drain(..) {
            match change {
                StoreChange::Put(key, value) => {
                    self.news.push((key, value.clone()));
                    self.promised.insert(key, value);
                }
                StoreChange::Delete(key) => {
                    self.promised.remove(&key);
                }
            }
        }
        for waiting in waiting {
            news.push(match waiting {
                Waiting::Core(ticket) => StoreNews::Gateway(StoreEvent::Durable(ticket)),
                Waiting::Port(write) => StoreNews::Port(write),
            });
        }
    }

    /// The process ends. Returns what the next one finds.
    ///
    /// A commit that is under way may have been written by then, and only its sync be missing.
    pub fn end(&mut self, now: Instant, end: End, rng: &mut SmallRng) -> Found {
        self.life += 1;
        if self.committing.take().is_some() && rng.random() {
            // Fails if the disk does.
            let _ = self.store.commit(false);
        }
        if end == End::PowerCut {
            self.disk.lose_power();
        }
        self.waiting.clear();
        self.queued.clear();
        self.lazy_since = None;
        (self.failing, self.look_at) = (false, None);
        let (store, recovered) = open(&self.disk, &self.config);
        self.store = store;
        let key = |Key { kind, id }| StoreKey { kind, id };
        let values = recovered.values.into_iter();
        let values: Vec<(StoreKey, Bytes)> = values.map(|(at, value)| (key(at), value)).collect();
        let there: BTreeMap<StoreKey, Bytes> = values.iter().cloned().collect();
        let changing: BTreeSet<StoreKey> = self.written.drain(..).map(|change| key_of(&change)).collect();
        let missing = self
            .promised
            .iter()
            .filter(|(key, value)| there.get(key) != Some(value) && !changing.contains(key))
            .map(|(key, _)| *key)
            .collect();
        self.promised = there;
        self.unsure.clear();
        if self.store.has_pending() {
            // The disk did not work, so what is read may go with the power; it is written again as soon as it can be.
            self.unsure = core::mem::take(&mut self.promised).into_iter().collect();
            self.failing = true;
            self.look(now + RETRY);
        }
        Found {
            values,
            damage: recovered.damage,
            missing,
        }
    }

    /// What became durable since this was asked last.
    pub fn take_durable(&mut self) -> Vec<(StoreKey, Bytes)> {
        core::mem::take(&mut self.news)
    }

    /// The disk works again and is as large as it was.
    pub fn heal(&mut self) {
        self.disk.heal();
        self.disk.resize(self.config.capacity);
    }

    /// What will be durable once everything is written that was asked for.
    pub fn expected(&self) -> BTreeMap<StoreKey, Bytes> {
        let mut all = self.promised.clone();
        for change in self.written.iter().chain(&self.queued) {
            match change {
                StoreChange::Put(key, value) => all.insert(*key, value.clone()),
                StoreChange::Delete(key) => all.remove(key),
            };
        }
        all
    }

    /// What is durable.
    pub fn promised(&self) -> &BTreeMap<StoreKey, Bytes> {
        &self.promised
    }

    /// The disk does not work at the moment, as far as the store knows.
    pub fn is_failing(&self) -> bool {
        self.failing
    }

    /// Nobody waits for it.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.committing.is_none() && !self.failing
    }
}

fn for_store(change: &StoreChange) -> Change {
    let key = |StoreKey { kind, id }| Key { kind, id };
    match change {
        StoreChange::Put(at, value) => Change::Put(key(*at), value.clone()),
        StoreChange::Delete(at) => Change::Delete(key(*at)),
    }
}

fn key_of(change: &StoreChange) -> StoreKey {
    match change {
        StoreChange::Put(key, _) | StoreChange::Delete(key) => *key,
    }
}

fn open(disk: &SimDisk, config: &DiskConfig) -> (Store<SimDisk>, gateway_store::Recovered) {
    let options = Options {
        segment_bytes: config.segment,
    };
    Store::open(disk.clone(), options).unwrap_or_else(|error| panic!("a disk that can be listed: {error}"))
}
