//! When the gateway has a message of an MQTT client.
//!
//! It acknowledges its copy once that is durable, and only then may the publisher be answered. So each such copy carries
//! the number of the answer that waits for it, wherever it goes, and says when it ends and how; nothing else keeps count.

use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;

/// That the publisher of one copy waits.
#[derive(Debug)]
pub(crate) struct Awaited {
    shared: Arc<Shared>,
    settled: bool,
}

/// All copies of a message have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Of the answer.
    pub(crate) number: u64,
    /// One of them was not taken.
    pub(crate) lost: bool,
}

#[derive(Debug)]
struct Shared {
    number: u64,
    lost: AtomicBool,
    ended: UnboundedSender<Ended>,
}

impl Awaited {
    /// `ended` is told when this and all that were made from it are gone.
    pub(crate) fn new(number: u64, ended: UnboundedSender<Ended>) -> Self {
        Awaited {
            shared: Arc::new(Shared {
                number,
                lost: AtomicBool::new(false),
                ended,
            }),
            settled: false,
        }
    }

    /// For one more copy.
    pub(crate) fn another(&self) -> Self {
        Awaited {
            shared: self.shared.clone(),
            settled: false,
        }
    }

    /// The copy was taken, or nobody is to get it any more. One that ends without is lost.
    pub(crate) fn settle(mut self) {
        self.settled = true;
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        if !self.settled {
            // Dropping the Arc orders this before the end of the last copy.
            self.shared.lost.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let ended = Ended {
            number: self.number,
            lost: *self.lost.get_mut(),
        };
        // Nobody listens any more when the broker ends.
        let _ = self.ended.send(ended);
    }
}
