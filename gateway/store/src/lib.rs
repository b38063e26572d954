//! What must survive a power cut: values under keys, as changes appended to segment files and synced in groups.
//!
//! [`Store::open`] reads what is there, skips what is damaged, says so, and gives back every value that stands.
//! [`Store::apply`] takes changes; they are durable once [`Store::commit`] returned `Ok`. [`Writer`] does both on a
//! thread of its own, several changes to one sync.
//!
//! - What one commit writes is there after a power cut as a whole or not at all, and not without what was committed
//!   before ([`record`] has the marks, a commit of one change needs none). Since a [`Writer`] commits what was submitted
//!   in its order, the changes of one request stand or fall together, and no request stands without those before it.
//! - A record holds one change: octets that mark its beginning, length, checksum, sequence number, key, value. Damage
//!   costs the records it hits: reading goes on at the next record that is whole ([`record`]). What was cut off is told
//!   from what is damaged by its sectors that are still zero; on a disk that leaves anything else in their place, the
//!   last commit before a power cut may be there in part.
//! - Segments are filled with zeros when they are made, so that a sync writes what changed and no metadata: 4.1 KB for
//!   one small record on ext4, 5.1 KB for ten together, where a growing file costs 16.7 KB for each sync.
//! - A deleted value stays in its segment until the oldest segments hold mostly such; then what still stands is copied
//!   forward and the oldest is unlinked.
//! - When writing or syncing fails nothing is tried again on that file, since the system may have forgotten what it
//!   did not write: the next commit begins a new segment with everything that is not durable yet.
//!
//! The disk is behind a trait with two implementations: a directory, and one in memory that loses power
//! ([`SimDisk`]), tears writes and fails on request.

#![forbid(unsafe_code)]

mod directory;
mod disk;
pub mod record;
mod segment;
mod sim_disk;
mod store;
mod writer;

use bytes::Bytes;

pub use directory::{Directory, OpenError};
pub use disk::{Disk, DiskFile};
pub use sim_disk::SimDisk;
pub use store::{Damage, DamageKind, Options, Recovered, Store, Usage};
pub use writer::{Done, Event, Handle, Sync, SyncTimes, Writer};

/// The kind of the store's own values.
const OWN_KIND: u8 = 0;

/// Names a value. The kind tells what it is, the id which one; neither means anything to the store, but kind 0 is its
/// own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// What it is.
    pub kind: u8,
    /// Which one.
    pub id: u64,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The key has this value from now on; at most [`record::VALUE_MAX`] octets.
    Put(Key, Bytes),
    /// The key has no value any more.
    Delete(Key),
}

impl Change {
    /// What it is about.
    pub fn key(&self) -> Key {
        match self {
            Change::Put(key, _) | Change::Delete(key) => *key,
        }
    }
}
