//! How a QoS 2 message of the gateway reaches a session once, also if the process ends in between.
//!
//! A later life gets the message from the gateway's store and has to go on with the exchange where it was, under its
//! packet id. Two things make that possible, and cost one write for each session and message:
//!
//! - The packet id follows from the message's number in the store, in the upper half of all ids; other messages have the
//!   lower half. So it is the same in the next life, and need not be written. If it is still in use, the message waits.
//! - That a session has taken the message (PUBREC) is written into the message's own value before PUBREL leaves. A later
//!   life says PUBREL then and not PUBLISH. The value goes when everybody has the message, and the note with it.
//!
//! What a client holds under these ids need not be what the store still has: an operator may have dropped it, or the
//! client left the subscription meanwhile. So the first time that a life comes to an id, PUBREL goes before a message
//! that cannot have been sent before.

use core::ops::RangeInclusive;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use gateway_core::io::{StoreChange, StoredUplink};

use super::kept::VALUE_MAX;

/// Packet ids of all other messages.
pub(crate) const ORDINARY_IDS: RangeInclusive<u16> = 1..=0x7FFF;

/// As many ids are above these.
const IDS: u64 = 0x8000;

/// A QoS 2 message in the gateway's store.
#[derive(Debug)]
pub(crate) struct Exact {
    stored: StoredUplink,
    /// The last number that an earlier life gave.
    until: u64,
    /// Sessions that have taken it, by the numbers they are kept under.
    taken: Mutex<BTreeSet<u64>>,
}

/// What a later life's client may hold under the message's packet id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    /// This message.
    It,
    /// Another one.
    Another,
    Nothing,
}

impl Exact {
    /// `until`: see [`ConnectOptions::stored_until`](gateway_core::io::ConnectOptions::stored_until).
    pub(crate) fn new(stored: StoredUplink, until: u64) -> Self {
        Exact {
            taken: Mutex::new(stored.taken()),
            stored,
            until,
        }
    }

    /// Its number in the store.
    pub(crate) fn number(&self) -> u64 {
        self.stored.key.id
    }

    pub(crate) fn packet_id(&self) -> u16 {
        *ORDINARY_IDS.end() + 1 + (self.number() % IDS) as u16
    }

    /// For clients of sessions of an earlier life.
    pub(crate) fn client_holds(&self) -> Holds {
        match self.number().checked_sub(self.until) {
            None | Some(0) => Holds::It,
            Some(..=IDS) => Holds::Another,
            Some(_) => Holds::Nothing,
        }
    }

    /// A session has it now.
    pub(crate) fn take(&self, session: u64) {
        self.taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(session);
    }

    /// Who has taken it.
    pub(crate) fn taken(&self) -> BTreeSet<u64> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes down who has taken it; `None` if that is too much for the store.
    pub(crate) fn change(&self) -> Option<StoreChange> {
        let value: Bytes = self.stored.taken_by(&self.taken());
        (value.len() <= VALUE_MAX).then(|| StoreChange::Put(self.stored.key, value))
    }
}
