//! A disk in memory that loses power, tears writes and fails on request.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::disk::{Disk, DiskFile};
use crate::segment::SECTOR;

/// A simulated disk; clones are the same disk. What was not synced when the power went is lost in part, in any order
/// and cut at sectors.
#[derive(Debug, Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    rng: SmallRng,
    files: BTreeMap<String, Content>,
    /// Octets that files may have altogether.
    capacity: usize,
    /// Syncs and writes that still succeed; `None` is all of them.
    fails_in: Option<u32>,
    written: u64,
    syncs: u64,
    /// Counts power cuts: a file opened before one is of no use after it.
    life: u32,
}

#[derive(Debug, Default, Clone)]
struct Content {
    /// As it is read.
    now: Vec<u8>,
    /// As it is after a power cut, but for what follows.
    durable: Vec<u8>,
    /// Written and not synced: where, and how much.
    unsynced: Vec<(usize, usize)>,
}

/// An open file of a [`SimDisk`].
#[derive(Debug)]
pub struct SimFile {
    disk: SimDisk,
    name: String,
    life: u32,
}

impl SimDisk {
    /// An empty disk of so many octets; the seed decides what power cuts leave.
    pub fn new(seed: u64, capacity: usize) -> Self {
        SimDisk(Arc::new(Mutex::new(State {
            rng: SmallRng::seed_from_u64(seed),
            files: BTreeMap::new(),
            capacity,
            fails_in: None,
            written: 0,
            syncs: 0,
            life: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power goes and comes back: of what was not synced, each sector is there or not.
    pub fn lose_power(&self) {
        let mut state = self.state();
        let State { rng, files, life, .. } = &mut *state;
        *life += 1;
        for content in files.values_mut() {
            for (offset, len) in core::mem::take(&mut content.unsynced) {
                let mut at = offset;
                while at < offset + len {
                    let end = (at / SECTOR + 1) * SECTOR;
                    let end = end.min(offset + len);
                    if rng.random_bool(0.5) {
                        content.durable[at..end].copy_from_slice(&content.now[at..end]);
                    }
                    at = end;
                }
            }
            content.now.clone_from(&content.durable);
        }
    }

    /// Writes and syncs fail from the one after `count` more on, until [`SimDisk::heal`].
    pub fn fail_after(&self, count: u32) {
        self.state().fails_in = Some(count);
    }

    /// Writes and syncs succeed again.
    pub fn heal(&self) {
        self.state().fails_in = None;
    }

    /// Changes the octets that files may have altogether.
    pub fn resize(&self, capacity: usize) {
        self.state().capacity = capacity;
    }

    /// Changes the content of a file behind the back of whoever uses it.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        if let Some(content) = state.files.get_mut(name) {
            change(&mut content.durable);
            content.now.clone_from(&content.durable);
            content.unsynced.clear();
        }
    }

    /// Octets written and syncs made so far.
    pub fn traffic(&self) -> (u64, u64) {
        let state = self.state();
        (state.written, state.syncs)
    }
}

impl State {
    fn attempt(&mut self) -> io::Result<()> {
        match &mut self.fails_in {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the disk does not work")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn file(&mut self, name: &str) -> io::Result<&mut Content> {
        self.files.get_mut(name).ok_or(io::ErrorKind::NotFound.into())
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().files.keys().cloned().collect())
    }

    fn create(&mut self, name: &str, len: usize) -> io::Result<SimFile> {
        let mut state = self.state();
        state.attempt()?;
        if state.files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let used: usize = state.files.values().map(|content| content.now.len()).sum();
        if used + len > state.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let content = Content {
            now: vec![0; len],
            durable: vec![0; len],
            unsynced: Vec::new(),
        };
        state.files.insert(name.to_owned(), content);
        state.written += len as u64;
        state.syncs += 1;
        let life = state.life;
        drop(state);
        Ok(SimFile {
            disk: self.clone(),
            name: name.to_owned(),
            life,
        })
    }

    fn open(&mut self, name: &str) -> io::Result<SimFile> {
        let mut state = self.state();
        state.file(name)?;
        let life = state.life;
        drop(state);
        Ok(SimFile {
            disk: self.clone(),
            name: name.to_owned(),
            life,
        })
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        Ok(self.state().file(name)?.now.clone())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.attempt()?;
        state.files.remove(name);
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn write_at(&mut self, offset: u64, octets: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.life != self.life {
            return Err(io::ErrorKind::NotConnected.into());
        }
        state.attempt()?;
        state.written += octets.len() as u64;
        let content = state.file(&self.name)?;
        let (start, end) = (offset as usize, offset as usize + octets.len());
        if content.now.len() < end {
            content.now.resize(end, 0);
            content.durable.resize(end, 0);
        }
        content.now[start..end].copy_from_slice(octets);
        content.unsynced.push((start, octets.len()));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.life != self.life {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let outcome = state.attempt();
        state.syncs += 1;
        let content = state.file(&self.name)?;
        if outcome.is_ok() {
            for (start, len) in content.unsynced.drain(..) {
                content.durable[start..start + len].copy_from_slice(&content.now[start..start + len]);
            }
        } else {
            // As Linux does: what could not be written counts as clean and is forgotten.
            content.unsynced.clear();
        }
        outcome
    }
}
