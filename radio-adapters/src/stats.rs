//! Counters and state of a radio on a serial line.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::driver::{DropReason, Recovery};

/// What a modem says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// What it calls itself.
    pub identity: String,
    /// Its firmware, as it says; empty if it has none to speak of.
    pub firmware: String,
}

/// What a radio on a serial line received, sent and lost since the gateway started.
#[derive(Debug, Default)]
pub struct RadioStats {
    up: AtomicBool,
    identity: Mutex<Option<Identity>>,
    /// Datagrams received and handed to the core.
    pub received: AtomicU64,
    /// Octets in them.
    pub received_octets: AtomicU64,
    /// Datagrams that left the antenna.
    pub sent: AtomicU64,
    /// Octets in them.
    pub sent_octets: AtomicU64,
    /// Datagrams taken from the core that never left.
    pub unsent: AtomicU64,
    /// Datagrams that the peer's radio did not confirm.
    pub not_heard: AtomicU64,
    /// Octets read from the line, whatever they were.
    pub line_received_octets: AtomicU64,
    /// Octets written to the line.
    pub line_sent_octets: AtomicU64,
    /// Times the port was opened again.
    pub reopens: AtomicU64,
    /// Times the modem started again by itself.
    pub reboots: AtomicU64,
    /// Times the modem refused its configuration.
    pub refusals: AtomicU64,
    dropped: [AtomicU64; DropReason::ALL.len()],
    recoveries: [AtomicU64; Recovery::ALL.len()],
}

impl RadioStats {
    /// Datagrams can be sent.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// What the modem said about itself when it was last set up.
    pub fn identity(&self) -> Option<Identity> {
        self.identity
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How often something was dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize].load(Ordering::Relaxed)
    }

    /// How often the modem was brought back in this way.
    pub fn recoveries(&self, recovery: Recovery) -> u64 {
        self.recoveries[recovery as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
    }

    pub(crate) fn set_identity(&self, identity: Identity) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity);
    }

    pub(crate) fn count_dropped(&self, reason: DropReason) {
        add(&self.dropped[reason as usize], 1);
    }

    pub(crate) fn count_recovery(&self, recovery: Recovery) {
        add(&self.recoveries[recovery as usize], 1);
    }
}

pub(crate) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}
