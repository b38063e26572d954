//! The tasks that receive, one for each socket.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use gateway_core::io::Input;
use gateway_core::peer::{LinkId, LocalEnd};
use quinn_udp::{BATCH_SIZE, RecvMeta};
use tokio::time::{self, Instant, MissedTickBehavior};
use tracing::{debug, info};

use super::buffers::{BUFFER_LEN, Buffers};
use super::socket::{Group, Listener, Socket};
use super::stats::UdpStats;
use crate::InputSender;

/// Discovery is rare: a SEARCHGW per client that starts.
const GROUP_BATCH: usize = 4;

/// How often membership is asked for again. Taste: a client searches for longer.
const REJOIN: Duration = Duration::from_secs(10);

/// Failed calls in a row after which receiving pauses, so that a broken socket does not take a whole core.
const ERRORS_BEFORE_PAUSE: u32 = 16;
const PAUSE: Duration = Duration::from_millis(100);

/// Receives on a listener until nobody takes the inputs.
pub(super) async fn receive_unicast(
    link: LinkId,
    listeners: Arc<[Listener]>,
    index: usize,
    inputs: InputSender,
    stats: Arc<UdpStats>,
) {
    let listener = &listeners[index];
    let mut receiver = Receiver::new(&listener.socket, BATCH_SIZE, link, inputs, stats);
    let local = |meta: &RecvMeta| {
        Some(LocalEnd {
            socket: listener.index,
            ip: answerable(meta.dst_ip),
        })
    };
    while receiver.receive(local).await {}
}

/// Receives on a group's socket until nobody takes the inputs; the group's listener will answer.
pub(super) async fn receive_group(
    link: LinkId,
    listeners: Arc<[Listener]>,
    groups: Arc<[Group]>,
    index: usize,
    inputs: InputSender,
    stats: Arc<UdpStats>,
) {
    let group = &groups[index];
    // Multicast is looped back, and what we said to everyone is no news to us.
    let local = |meta: &RecvMeta| {
        let ours = listeners.iter().any(|listener| listener.is_at(meta.addr));
        (!ours).then_some(LocalEnd {
            socket: group.listener,
            ip: None,
        })
    };
    let mut receiver = Receiver::new(&group.socket, GROUP_BATCH, link, inputs, stats);
    let mut rejoin = time::interval_at(Instant::now() + REJOIN, REJOIN);
    rejoin.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // Only waiting for a datagram may be cut short: a batch that is handed over would be lost.
            ready = receiver.ready() => {
                if !ready || !receiver.receive(local).await {
                    return;
                }
            }
            _ = rejoin.tick() => {
                // An interface that came up, came back under another number, or took over the route.
                if group.join().is_ok_and(|news| news) {
                    info!(target: "radio", group = %group.addr, "multicast group joined");
                }
            }
        }
    }
}

/// The address a datagram was sent to, if an answer can leave from it: nothing leaves from a broadcast address.
fn answerable(ip: Option<IpAddr>) -> Option<IpAddr> {
    ip.map(|ip| ip.to_canonical()).filter(|ip| match ip {
        IpAddr::V4(v4) => !v4.is_multicast() && !v4.is_broadcast(),
        IpAddr::V6(v6) => !v6.is_multicast(),
    })
}

struct Receiver<'a> {
    socket: &'a Socket,
    buffers: Buffers,
    link: LinkId,
    inputs: InputSender,
    stats: Arc<UdpStats>,
    errors_in_a_row: u32,
}

impl<'a> Receiver<'a> {
    fn new(
        socket: &'a Socket,
        batch: usize,
        link: LinkId,
        inputs: InputSender,
        stats: Arc<UdpStats>,
    ) -> Receiver<'a> {
        let buffers = Buffers::new(batch, BUFFER_LEN);
        Receiver {
            socket,
            buffers,
            link,
            inputs,
            stats,
            errors_in_a_row: 0,
        }
    }

    /// Waits for a datagram; false when the runtime ends.
    async fn ready(&self) -> bool {
        self.socket.readable().await.is_ok()
    }

    /// Waits for datagrams and hands them over; false when nobody takes them any more.
    async fn receive(&mut self, local: impl Fn(&RecvMeta) -> Option<LocalEnd>) -> bool {
        if !self.ready().await {
            return false;
        }
        let Some(full) = self.fill().await else {
            return !self.inputs.is_closed();
        };
        let (batch, truncated) = self.buffers.take(local);
        if truncated > 0 {
            UdpStats::add(&self.stats.truncated, truncated);
        }
        if !batch.datagrams.is_empty() {
            UdpStats::add(&self.stats.received, batch.datagrams.len());
            // With the channel full this waits and the kernel drops what its buffer cannot hold: UDP's own way.
            if self
                .inputs
                .send(Input::Datagrams(self.link, batch))
                .await
                .is_err()
            {
                return false;
            }
        }
        if full {
            // More waits in the kernel: the core and the other sockets have their turn first.
            tokio::task::yield_now().await;
        }
        true
    }

    /// One receive call; `None` if it brought nothing, else whether every buffer was filled.
    ///
    /// When fewer datagrams came than there are buffers, the queue was empty at that moment. Answering "would block"
    /// to the runtime then clears its readiness as the system call we save would have done. No wake-up is lost: the
    /// runtime clears only the readiness it saw *before* the call (it compares its tick), and a datagram that comes
    /// after the call is a new edge of the edge-triggered epoll, which sets readiness again. Only an error pending on
    /// the socket could end a call early; unconnected sockets that did not ask for errors (IP_RECVERR) have none.
    async fn fill(&mut self) -> Option<bool> {
        let mut filled = None;
        let Receiver { socket, buffers, .. } = self;
        let result = socket.try_receive(|receive| {
            let full = buffers.fill(receive)?;
            filled = Some(full);
            if full {
                Ok(())
            } else {
                Err(ErrorKind::WouldBlock.into())
            }
        });
        match result {
            Err(error) if error.kind() != ErrorKind::WouldBlock => {
                // Whatever one peer or interface caused, the others are still there.
                debug!(target: "radio", %error, "receive failed");
                UdpStats::add(&self.stats.receive_errors, 1);
                self.errors_in_a_row += 1;
                if self.errors_in_a_row >= ERRORS_BEFORE_PAUSE {
                    time::sleep(PAUSE).await;
                }
            }
            _ => self.errors_in_a_row = 0,
        }
        filled
    }
}
