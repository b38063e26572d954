//! QoS 2 deliveries that the broker has released, and the PUBCOMPs that wait for the store.
//!
//! The client library answers PUBREL by itself, but shows what it has received before anything leaves that it wrote. A
//! packet id that is gone then was released: everything is held back until a later life would know that too. With
//! PUBCOMP the broker may give the packet id to another message.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gateway_core::io::ConnectOptions;
use tokio::sync::oneshot;

use crate::deliveries::packet_id;

/// The released deliveries of one connection.
#[derive(Debug)]
pub(crate) struct Releases {
    holds: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Packet ids with a PUBREC and without a PUBREL, as the client library showed them last.
    received: BTreeSet<u16>,
    /// Released, and nobody was told.
    untold: Vec<u16>,
    /// Released, and a later life would not know.
    unknown: BTreeSet<u16>,
    /// Told when there are none of these.
    done: Option<oneshot::Sender<()>>,
}

impl Releases {
    pub(crate) fn new(options: &ConnectOptions) -> Self {
        let state = State {
            received: options.received.iter().copied().map(packet_id).collect(),
            ..State::default()
        };
        Releases {
            holds: options.holds_pubcomp,
            state: Mutex::new(state),
        }
    }

    /// Whether PUBCOMP waits.
    pub(crate) fn hold(&self) -> bool {
        self.holds
    }

    /// Packet ids of deliveries that were taken and are not released.
    pub(crate) fn received(&self) -> Vec<u16> {
        self.state().received.iter().copied().collect()
    }

    /// These are received and not released; returns when all that are released are known to a later life.
    pub(crate) async fn save(&self, received: impl Iterator<Item = u16>) {
        let wait = self.state().show(received.collect(), self.holds);
        if let Some(known) = wait {
            // The sender lives as long as this does, or until a later call takes its place.
            let _ = known.await;
        }
    }

    /// Released since the last call.
    pub(crate) fn take_untold(&self) -> Vec<u16> {
        core::mem::take(&mut self.state().untold)
    }

    /// A later life would know.
    pub(crate) fn complete(&self, packet_id: u16) {
        let mut state = self.state();
        state.unknown.remove(&packet_id);
        if state.unknown.is_empty()
            && let Some(done) = state.done.take()
        {
            // Whoever waited may have gone.
            let _ = done.send(());
        }
    }

    /// The session is gone, and its packet ids with it.
    pub(crate) fn lose(&self) {
        *self.state() = State::default();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn show(&mut self, received: BTreeSet<u16>, holds: bool) -> Option<oneshot::Receiver<()>> {
        if holds {
            let released = self.received.difference(&received);
            self.untold.extend(released.clone());
            self.unknown.extend(released);
        }
        self.received = received;
        if self.unknown.is_empty() {
            return None;
        }
        let (done, known) = oneshot::channel();
        self.done = Some(done);
        Some(known)
    }
}

#[cfg(test)]
mod tests {
    use core::pin::pin;

    use futures_util::FutureExt;
    use gateway_core::io::DeliveryId;

    use super::*;

    fn releases(holds_pubcomp: bool) -> Releases {
        Releases::new(&ConnectOptions {
            holds_pubcomp,
            received: vec![DeliveryId(1 << 16 | 3)],
            ..ConnectOptions::default()
        })
    }

    #[test]
    fn what_is_released_leaves_when_a_later_life_would_know() {
        let releases = releases(true);
        assert_eq!(releases.save([3, 4].into_iter()).now_or_never(), Some(()));
        assert_eq!(releases.received(), [3, 4]);
        let mut saved = pin!(releases.save(core::iter::empty()));
        assert_eq!(saved.as_mut().now_or_never(), None);
        assert_eq!(releases.take_untold(), [3, 4]);
        assert!(releases.take_untold().is_empty());
        releases.complete(4);
        assert_eq!(saved.as_mut().now_or_never(), None);
        releases.complete(3);
        assert_eq!(saved.as_mut().now_or_never(), Some(()));
    }

    #[test]
    fn nothing_waits_where_nothing_survives_or_the_session_is_lost() {
        let none = releases(false);
        assert_eq!(none.save(core::iter::empty()).now_or_never(), Some(()));
        assert!(none.take_untold().is_empty());
        let lost = releases(true);
        lost.lose();
        assert_eq!(lost.save(core::iter::empty()).now_or_never(), Some(()));
        assert!(lost.take_untold().is_empty());
    }
}
