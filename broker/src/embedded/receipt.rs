//! When everybody has a message of the gateway.
//!
//! What the gateway's clients were promised stands in its store until then. So such a message carries a receipt, and
//! wherever a copy of it goes, waits, is in flight to a client or is being written, the receipt is there too. When the
//! last copy is gone, however it went, everybody has it; nothing else keeps count.

use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use gateway_core::io::Token;
use tokio::sync::mpsc::UnboundedSender;

use super::exact::Exact;

/// One copy of a message's receipt.
#[derive(Debug, Clone)]
pub(crate) struct Receipt(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    token: Token,
    /// Of a QoS 2 message.
    exact: Option<Exact>,
    /// The publish was settled: only then does the end of the last copy say something.
    settled: AtomicBool,
    delivered: UnboundedSender<Token>,
}

impl Receipt {
    /// `delivered` gets the token when the publish was settled and the last copy is gone.
    pub(crate) fn new(token: Token, exact: Option<Exact>, delivered: UnboundedSender<Token>) -> Self {
        Receipt(Arc::new(Shared {
            token,
            exact,
            settled: AtomicBool::new(false),
            delivered,
        }))
    }

    /// How the message reaches sessions once; of one with QoS 2.
    pub(crate) fn exact(&self) -> Option<&Exact> {
        self.0.exact.as_ref()
    }

    /// The publish was settled. A publish that was refused or lost is not: its copies end unheard.
    pub(crate) fn settle(self) {
        // Dropping the Arc orders this before the end of the last copy.
        self.0.settled.store(true, Ordering::Relaxed);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if *self.settled.get_mut() {
            // Nobody listens any more when the broker ends.
            let _ = self.delivered.send(self.token);
        }
    }
}

/// Of the same publish.
impl PartialEq for Receipt {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Receipt {}
