//! A UDP radio whose addresses are not to be had yet: another program has the port, an interface is not up.

use core::time::Duration;
use std::sync::Arc;

use gateway_core::io::TxBatch;
use gateway_core::peer::LinkId;
use tokio::sync::mpsc;
use tokio::time::{self, Instant};
use tracing::{debug, info, warn};

use super::{OpenError, UdpConfig, UdpLink, UdpStats};
use crate::{InputSender, LinkSender};

/// Waits between two attempts, as serial ports have them by default.
const WAIT_FIRST: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(30);

/// A UDP radio that could not be opened.
#[derive(Debug)]
pub struct AbsentUdpLink {
    /// Its name in logs.
    pub name: String,
    /// What is to be opened.
    pub config: UdpConfig,
    /// Why it could not be.
    pub error: OpenError,
}

impl AbsentUdpLink {
    /// Spawns a task that tries to open the link again, with growing waits, and then runs it as [`UdpLink::spawn`] does.
    ///
    /// The reason is logged once until it is another one. Nothing comes before the link is up.
    pub fn spawn(self, link: LinkId, inputs: InputSender) -> (LinkSender, Arc<UdpStats>) {
        let (sender, batches) = mpsc::unbounded_channel();
        let stats = Arc::new(UdpStats::default());
        let counted = stats.clone();
        tokio::spawn(async move {
            let mut batches = batches;
            if let Some(opened) = self.open(&mut batches, counted).await {
                opened.run(link, inputs, batches).await;
            }
        });
        (sender, stats)
    }

    /// Tries until it is open; `None` if the gateway stops before.
    async fn open(
        self,
        batches: &mut mpsc::UnboundedReceiver<TxBatch>,
        stats: Arc<UdpStats>,
    ) -> Option<UdpLink> {
        let radio = self.name;
        let mut wait = WAIT_FIRST;
        let mut reason = self.error.to_string();
        warn!(target: "radio", %radio, error = %reason, again_in = ?wait, "not listening");
        loop {
            let until = Instant::now() + wait;
            // The core sends nothing before the link is up; what is dropped here nobody waits for.
            while let Ok(batch) = time::timeout_at(until, batches.recv()).await {
                batch?;
            }
            wait = (wait * 2).min(WAIT_MAX);
            match UdpLink::open_counting(&self.config, stats.clone()) {
                Ok(link) => {
                    info!(target: "radio", %radio, addrs = ?link.local_addrs(), "listening");
                    return Some(link);
                }
                Err(error) => {
                    let now = error.to_string();
                    if now == reason {
                        debug!(target: "radio", %radio, %error, again_in = ?wait, "not listening");
                    } else {
                        warn!(target: "radio", %radio, %error, again_in = ?wait, "not listening");
                        reason = now;
                    }
                }
            }
        }
    }
}
