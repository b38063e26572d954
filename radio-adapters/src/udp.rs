//! MQTT-SN over UDP, IPv4 and IPv6, with multicast for discovery (Linux).
//!
//! A link has one socket per address of [`UdpConfig::bind`], the *listeners*, and one per group it joined. Every
//! datagram leaves from a listener, so what a client learns from an ADVERTISE or a GWINFO is an address it can
//! connect to; the sockets of the groups only receive. Where a listener has the address `0.0.0.0` or `::`, an answer
//! leaves from the address the request was sent to ([`LocalEnd::ip`](gateway_core::peer::LocalEnd::ip)): clients take
//! nothing from strangers.
//!
//! Whoever runs the gateway decides these three things by configuration:
//! * A group needs a listener of its family. With several listeners of one family on different interfaces the group
//!   is joined on, and ADVERTISE sent from, each of them, unless [`UdpConfig::interface`] names one.
//! * A group that cannot be joined is no reason not to serve those who know our address: it is logged, listed by
//!   [`UdpLink::not_joined`] and tried again every ten seconds, so that a Wi-Fi that comes up late is found.
//! * Linux does not loop IPv6 multicast on `lo`; only on a real interface (or a veth pair) does discovery by IPv6 work
//!   between programs of one machine. IPv4 multicast works on `lo`.
//!
//! Multicast is looped back for clients on the same machine. What came from a listener of the link itself is left out:
//! another gateway's ADVERTISE is news, our own is not.

mod absent;
mod buffers;
mod error;
mod receive;
mod send;
mod socket;
mod stats;

use std::net::SocketAddr;
use std::sync::Arc;

use gateway_core::io::{Input, LinkEvent, LinkProfile, TxBatch};
use gateway_core::peer::LinkId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, warn};

pub use self::absent::AbsentUdpLink;
pub use self::error::{JoinError, OpenError};
pub use self::stats::UdpStats;

use self::receive::{receive_group, receive_unicast};
use self::send::Sender;
use self::socket::{Group, Listener, NotJoined};
use crate::{InputSender, LinkSender};

/// One UDP radio of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpConfig {
    /// Addresses to listen on; IPv6 sockets do not take IPv4.
    pub bind: Vec<SocketAddr>,
    /// Groups to join for discovery.
    pub multicast: Vec<SocketAddr>,
    /// The interface to join them on; `None` leaves it to the system.
    pub interface: Option<String>,
    /// Largest datagram sent, in octets.
    pub mtu: usize,
}

/// The open sockets of one UDP radio.
#[derive(Debug)]
pub struct UdpLink {
    listeners: Arc<[Listener]>,
    groups: Arc<[Group]>,
    not_joined: NotJoined,
    stats: Arc<UdpStats>,
    mtu: usize,
}

impl UdpLink {
    /// Binds every socket and joins the groups; nothing is received yet.
    ///
    /// A listener on `::` is left out with a warning where the system has no IPv6, if another listener remains.
    ///
    /// # Errors
    /// The configuration names no listener, more than 256, a group that is none or an interface that is not there,
    /// or a listener cannot be bound.
    ///
    /// # Panics
    /// Outside of a Tokio runtime with I/O and time enabled.
    pub fn open(config: &UdpConfig) -> Result<UdpLink, OpenError> {
        UdpLink::open_counting(config, Arc::default())
    }

    /// The same, counting in what somebody has already.
    fn open_counting(config: &UdpConfig, stats: Arc<UdpStats>) -> Result<UdpLink, OpenError> {
        let listeners = socket::open_listeners(config)?;
        let (groups, not_joined) = socket::open_groups(config, &listeners)?;
        for (group, error) in &not_joined {
            warn!(target: "radio", %group, %error, "multicast group not joined: no discovery there");
        }
        stats.count_drops_of(listeners.iter().map(|listener| &listener.socket));
        Ok(UdpLink {
            listeners: listeners.into(),
            groups: groups.into(),
            not_joined,
            stats,
            mtu: config.mtu,
        })
    }

    /// The addresses of the listeners, in the order they were configured; a port 0 is replaced by the one it became.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|listener| listener.addr).collect()
    }

    /// The groups joined on at least one interface.
    pub fn joined(&self) -> Vec<SocketAddr> {
        let mut joined = Vec::new();
        for group in self.groups.iter().filter(|group| group.joined) {
            if !joined.contains(&group.addr) {
                joined.push(group.addr);
            }
        }
        joined
    }

    /// The groups that could not be joined (on one of the interfaces), and why.
    pub fn not_joined(&self) -> &[(SocketAddr, JoinError)] {
        &self.not_joined
    }

    /// What was received, sent and lost, counted while the link runs.
    pub fn stats(&self) -> Arc<UdpStats> {
        self.stats.clone()
    }

    /// Spawns the tasks that receive and send; the first input is [`LinkEvent::Up`].
    ///
    /// When the last clone of the returned sender is dropped, what it was given is sent, the sockets close and the
    /// link's clones of `inputs` are dropped.
    pub fn spawn(self, link: LinkId, inputs: InputSender) -> LinkSender {
        let (sender, batches) = mpsc::unbounded_channel();
        tokio::spawn(self.run(link, inputs, batches));
        sender
    }

    /// Receives and sends until nobody is left who could hand over more.
    async fn run(self, link: LinkId, inputs: InputSender, batches: mpsc::UnboundedReceiver<TxBatch>) {
        let up = LinkProfile {
            mtu: self.mtu,
            // A group that waits to be joined can be sent to as soon as it has a route.
            broadcast_mtu: if self.groups.is_empty() { 0 } else { self.mtu },
            ..LinkProfile::default()
        };
        if inputs.send(Input::Link(link, LinkEvent::Up(up))).await.is_err() {
            return;
        }
        let mut receivers = JoinSet::new();
        for index in 0..self.listeners.len() {
            let (listeners, stats) = (self.listeners.clone(), self.stats.clone());
            receivers.spawn(receive_unicast(link, listeners, index, inputs.clone(), stats));
        }
        for index in 0..self.groups.len() {
            let (listeners, groups) = (self.listeners.clone(), self.groups.clone());
            let (inputs, stats) = (inputs.clone(), self.stats.clone());
            receivers.spawn(receive_group(link, listeners, groups, index, inputs, stats));
        }
        drop(inputs);
        Sender::new(batches, self.listeners, self.groups, self.stats)
            .run()
            .await;
        receivers.shutdown().await;
        debug!(target: "radio", link = link.0, "link closed");
    }
}
