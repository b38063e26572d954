//! The embedded MQTT broker.
//!
//! The [`router`] holds everything that MQTT calls a server's state: sessions, subscriptions, retained messages. It does
//! no I/O and knows no wire format; `packet` is what it and its clients say to each other. Its clients are the
//! connections that the listener accepted and the gateway in the same process ([`local`]). One task owns the router and
//! carries inputs and outputs.
//!
//! The rules of flow, so that nothing blocks and everything is bounded:
//! - A connection is sent as many PUBLISH as it granted credit for, and as many unacknowledged QoS 1 and 2 messages as
//!   its receive maximum allows. What is beyond that waits in the session, in order.
//! - A session holds `queue_messages` and `queue_bytes`, waiting and in flight. QoS 0 beyond that is dropped.
//! - QoS 1 and 2 for a connected session beyond that are taken up to twice the bound, but their publishers wait for
//!   their acknowledgement until the session is within its bound again. So a fast publisher is slowed by its own window
//!   and loses nothing, and nobody else's delivery waits. Beyond twice the bound the publisher is refused (0x97).
//! - The gateway acknowledges what is durable. A client's QoS 1 or 2 message for it is answered when it has acknowledged its
//!   copy ([`awaited`]), however long that takes, and refused (0x97) if its session ends before. So it is without a store
//!   too, where the gateway acknowledges what it has in memory.
//! - Its own session makes no publisher wait: its acknowledgements may stand behind what is not read before its own
//!   messages are acknowledged.
//! - A session that stays over its bound for [`session::TOO_SLOW`], on one connection or several, loses its connection, and
//!   the publishers are answered. So nobody waits for longer at a time, and two that make each other wait cannot lock up.
//! - A session whose connection ends without DISCONNECT counts as connected for as long, or until its time to be too slow
//!   is over: who comes back at once misses nothing.
//! - QoS 1 and 2 for any other session without a connection beyond its bound: the newest is dropped.
//! - What the gateway has in its store ([`receipt`]) is never refused and never dropped for a bound: its sensor may have
//!   been told that it is safe. A session that takes messages slows the gateway down as it does others. Beyond twice
//!   its bound, and while its client is away beyond its bound, messages are held over: taken, settled, and left in the
//!   gateway's store, whose limits bound them, until the client has them or its session ends.
//!
//! With a store ([`kept`]) sessions that outlive their connection survive a restart, with their subscriptions and without
//! their messages. The gateway publishes again what it was not told that everybody has.
//!
//! Where MQTT leaves the choice:
//! - The gateway's client id is its own: an MQTT client that comes with it is refused (0x85).
//! - When there are too many sessions, a new client is refused (0x97); none is ended to make place.
//! - Clients cannot publish below `$SYS` (0x87, as mosquitto has it); other topics that begin with `$` are ordinary ones.
//! - A retained message beyond the limit is delivered but not kept. Those a subscription brings are fetched as the client
//!   takes them, so that there may be more of them than its queue holds.
//! - What waits for a member of a shared subscription goes to a connected one when its connection ends, and what it was
//!   sent with QoS 1 when its session ends; what it was sent with QoS 2 goes to nobody else (MQTT-4.8.2-5).
//! - QoS 0 and messages of a shared subscription that nobody can take are dropped and counted.

mod awaited;
mod channel;
mod connection;
mod exact;
mod filters;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod kept;
mod listener;
mod local;
mod packet;
mod receipt;
mod retained;
mod router;
mod session;
mod shared;
mod stats;
mod sys;
mod task;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{SocketAddr, TcpListener};

use bytes::Bytes;
use gateway_core::io::{Input, StoreKey};
use gateway_core::time::Instant;
use socket2::{Domain, Socket, Type};
use tokio::sync::mpsc::{Sender, unbounded_channel};
use tokio::sync::oneshot;

use self::listener::Listening;
use self::router::{Router, RouterLimits};
pub use self::stats::Stats as EmbeddedStats;
use self::task::Task;
use crate::pool::RequestSender;
use crate::stages::Journal;

/// The embedded broker's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedConfig {
    /// Addresses to listen on.
    pub bind: Vec<SocketAddr>,
    /// What it holds at most.
    pub limits: EmbeddedLimits,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        EmbeddedConfig {
            bind: vec![SocketAddr::from(([127, 0, 0, 1], 1883))],
            limits: EmbeddedLimits::default(),
        }
    }
}

/// What the embedded broker holds at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedLimits {
    /// MQTT connections.
    pub connections_max: usize,
    /// Octets of one MQTT packet; a connection that exceeds it is closed.
    pub packet_bytes: u32,
    /// Messages of one session, waiting and in flight.
    pub queue_messages: usize,
    /// Octets of these.
    pub queue_bytes: usize,
    /// Retained messages.
    pub retained_max: usize,
    /// Subscriptions of one session.
    pub subscriptions_max: usize,
    /// Sessions, connected or not.
    pub sessions_max: usize,
}

impl Default for EmbeddedLimits {
    fn default() -> Self {
        EmbeddedLimits {
            connections_max: 1000,
            packet_bytes: 262_144,
            queue_messages: 1000,
            queue_bytes: 1024 * 1024,
            retained_max: 10_000,
            subscriptions_max: 1000,
            sessions_max: 10_000,
        }
    }
}

/// The embedded broker, its addresses bound.
///
/// Connections wait in the system's queue until [`Embedded::spawn`].
#[derive(Debug)]
pub struct Embedded {
    limits: EmbeddedLimits,
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    holds_back: bool,
}

/// An address that could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}")]
pub struct OpenError {
    /// Which.
    pub address: SocketAddr,
    /// Why; its kind tells an address in use from one that is not ours or not allowed.
    #[source]
    pub error: io::Error,
}

impl Embedded {
    /// Binds all addresses.
    ///
    /// # Errors
    ///
    /// [`OpenError`] for the first that cannot be bound.
    pub fn open(config: &EmbeddedConfig) -> Result<Self, OpenError> {
        let mut listeners = Vec::with_capacity(config.bind.len());
        let mut addresses = Vec::with_capacity(config.bind.len());
        for &address in &config.bind {
            let bound = bind(address).map_err(|error| OpenError { address, error })?;
            addresses.push(bound.1);
            listeners.push(bound.0);
        }
        Ok(Embedded {
            limits: config.limits.clone(),
            listeners,
            addresses,
            holds_back: false,
        })
    }

    /// MQTT clients wait until [`RequestSender::let_clients_in`], for 5 s at most: their connections are made, and
    /// nobody answers them yet. So nothing that they publish goes before the gateway's subscriptions.
    #[must_use]
    pub fn hold_clients_back(self) -> Self {
        Embedded {
            holds_back: true,
            ..self
        }
    }

    /// The addresses, with the ports that the system chose where the configuration has port 0.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Starts to serve, MQTT clients and the gateway, whose requests the sender takes; what happens is sent to `inputs`.
    ///
    /// With a journal the sessions of MQTT clients that outlive their connection are kept there with their
    /// subscriptions, and `sessions`, what it kept of an earlier life under keys of the kind
    /// [`StoreKey::BROKER_SESSION`], goes on. Then each publish of the gateway that was settled is followed by
    /// [`BrokerEvent::Delivered`](gateway_core::io::BrokerEvent::Delivered).
    ///
    /// Closing or dropping the sender ends all connections and the broker.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn spawn(
        self,
        inputs: Sender<Input>,
        journal: Option<Journal>,
        sessions: Vec<(StoreKey, Bytes)>,
    ) -> RequestSender {
        let (broker, from_connections) = unbounded_channel();
        let (requests, from_gateway) = unbounded_channel();
        let (opener, door) = self.holds_back.then(oneshot::channel).unzip();
        let listening = Listening::start(self.listeners, &self.limits, door, broker);
        let mut router = Router::new(RouterLimits::from(&self.limits), rand::random());
        if journal.is_some() {
            router.keep_sessions(Instant::START, sessions);
        }
        let task = Task::new(router, from_connections, from_gateway, inputs, journal);
        let stats = task.stats();
        let task = tokio::spawn(task.run(Some(listening)));
        RequestSender::embedded(requests, task, stats, opener)
    }
}

/// Connections that may wait to be accepted: all sensors of a site after a power cut, say.
const BACKLOG: i32 = 1024;

fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    if address.is_ipv6() {
        // So that 0.0.0.0 and [::] can be listened on side by side.
        socket.set_only_v6(true)?;
    }
    // A restart need not wait for old connections to time out.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener = TcpListener::from(socket);
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}
