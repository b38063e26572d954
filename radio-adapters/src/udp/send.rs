//! The task that sends.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use gateway_core::io::{Destination, TxBatch};
use gateway_core::peer::{LinkAddr, LocalEnd};
use quinn_udp::Transmit;
use rustix::io::Errno;
use tokio::sync::mpsc;
use tracing::debug;

use super::socket::{Group, Listener, Socket};
use super::stats::UdpStats;

/// Datagrams kept while the network takes none (a Wi-Fi that lost its access point), beyond what the socket's own
/// buffer holds. Taste: later ones would come so late that their senders had sent again.
const BACKLOG: usize = 4_096;

/// Sends the core's batches, one datagram after the other, from the sockets their routes name.
pub(super) struct Sender {
    batches: mpsc::UnboundedReceiver<TxBatch>,
    backlog: Backlog,
    listeners: Arc<[Listener]>,
    groups: Arc<[Group]>,
    stats: Arc<UdpStats>,
}

impl Sender {
    pub(super) fn new(
        batches: mpsc::UnboundedReceiver<TxBatch>,
        listeners: Arc<[Listener]>,
        groups: Arc<[Group]>,
        stats: Arc<UdpStats>,
    ) -> Sender {
        Sender {
            batches,
            backlog: Backlog::default(),
            listeners,
            groups,
            stats,
        }
    }

    /// Sends until there is nobody left who could hand over more.
    pub(super) async fn run(mut self) {
        loop {
            let batch = match self.backlog.pop() {
                Some(batch) => batch,
                None => match self.batches.recv().await {
                    Some(batch) => batch,
                    None => return,
                },
            };
            for (datagram, octets) in batch.iter() {
                match &datagram.to {
                    Destination::Peer(route) => {
                        let LinkAddr::Udp(addr) = route.addr else {
                            debug!(target: "radio", peer = %route.addr, "not an address of this link");
                            UdpStats::add(&self.stats.send_errors, 1);
                            continue;
                        };
                        self.send(route.local, addr, octets).await;
                    }
                    Destination::Broadcast => {
                        for index in 0..self.groups.len() {
                            let Group { addr, listener, .. } = self.groups[index];
                            self.send(
                                LocalEnd {
                                    socket: listener,
                                    ip: None,
                                },
                                addr,
                                octets,
                            )
                            .await;
                        }
                    }
                }
            }
        }
    }

    async fn send(&mut self, from: LocalEnd, to: SocketAddr, octets: &[u8]) {
        let result = match self.try_send(from, to, octets) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.send_later(from, to, octets).await,
            result => result,
        };
        match result {
            Ok(()) => UdpStats::add(&self.stats.sent, 1),
            Err(error) => {
                debug!(target: "radio", peer = %to, len = octets.len(), %error, "not sent");
                UdpStats::add(&self.stats.send_errors, 1);
            }
        }
    }

    fn try_send(&self, from: LocalEnd, to: SocketAddr, octets: &[u8]) -> io::Result<()> {
        let listener = self
            .listeners
            .get(usize::from(from.socket))
            .ok_or(ErrorKind::NotFound)?;
        try_send(&listener.socket, from, to, octets)
    }

    /// Waits until the socket takes the datagram. Meanwhile the core goes on: its batches are kept as far as
    /// [`BACKLOG`] goes and then dropped, as a full socket buffer would drop them.
    async fn send_later(&mut self, from: LocalEnd, to: SocketAddr, octets: &[u8]) -> io::Result<()> {
        let Sender {
            batches,
            backlog,
            listeners,
            stats,
            ..
        } = self;
        let socket = &listeners[usize::from(from.socket)].socket;
        let mut sent = pin!(socket.send_when_writable(|| try_send(socket, from, to, octets)));
        loop {
            tokio::select! {
                biased;
                result = &mut sent => return result,
                Some(batch) = batches.recv() => UdpStats::add(&stats.backlog_dropped, backlog.push(batch)),
            }
        }
    }
}

fn try_send(socket: &Socket, from: LocalEnd, to: SocketAddr, octets: &[u8]) -> io::Result<()> {
    let mut transmit = Transmit {
        destination: to,
        ecn: None,
        contents: octets,
        segment_size: None,
        src_ip: from.ip,
    };
    match socket.try_send(&transmit) {
        // Our address is gone (DHCP gave another), or was a subnet's broadcast address: any other of ours is better
        // than silence.
        Err(error) if from.ip.is_some() && is_foreign(&error) => {
            transmit.src_ip = None;
            socket.try_send(&transmit)
        }
        result => result,
    }
}

/// What Linux answers to a source address that is not ours: "unreachable" for IPv4, "invalid" for IPv6.
fn is_foreign(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NETUNREACH | Errno::INVAL | Errno::ADDRNOTAVAIL)
    )
}

/// What waits for a network that takes nothing.
#[derive(Default)]
struct Backlog {
    batches: VecDeque<TxBatch>,
    datagrams: usize,
}

impl Backlog {
    /// Keeps a batch if there is room; else says how many datagrams are lost with it.
    fn push(&mut self, batch: TxBatch) -> usize {
        let len = batch.datagrams.len();
        if self.datagrams + len > BACKLOG {
            return len;
        }
        self.datagrams += len;
        self.batches.push_back(batch);
        0
    }

    fn pop(&mut self) -> Option<TxBatch> {
        let batch = self.batches.pop_front()?;
        self.datagrams -= batch.datagrams.len();
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use gateway_core::io::{TxDatagram, TxTicket};

    use super::*;

    #[test]
    fn backlog_is_bounded_and_keeps_the_order() {
        let mut backlog = Backlog::default();
        assert_eq!(backlog.push(batch(1)), 0);
        assert_eq!(backlog.push(batch(BACKLOG)), BACKLOG);
        assert_eq!(backlog.push(batch(BACKLOG - 1)), 0);
        assert_eq!(backlog.push(batch(1)), 1);
        assert_eq!(backlog.pop().unwrap().datagrams.len(), 1);
        assert_eq!(backlog.push(batch(1)), 0);
        assert_eq!(backlog.pop().unwrap().datagrams.len(), BACKLOG - 1);
        assert_eq!(backlog.pop().unwrap().datagrams.len(), 1);
        assert!(backlog.pop().is_none());
    }

    fn batch(len: usize) -> TxBatch {
        let datagram = TxDatagram {
            to: Destination::Broadcast,
            len: 0,
            ticket: TxTicket::default(),
        };
        TxBatch {
            bytes: Vec::new(),
            datagrams: vec![datagram; len],
        }
    }
}
