//! The connections to an MQTT broker.
//!
//! [`spawn`] returns a [`RequestSender`]. The core's requests go in there; what happens comes back as
//! [`Input::Broker`](gateway_core::io::Input::Broker) batches. Each connection that the core opens is one task, which
//! connects, reconnects and keeps the MQTT session until the core closes it.
//!
//! What a caller can rely on:
//! - A token gets exactly one outcome, `Settled` or `Lost`, unless the core stops listening.
//! - After `Down` the connection comes back by itself. `Lost` tokens of a session that the broker no longer has are
//!   reported before the `Up` that follows, so that the core can submit them again in their order.
//! - A QoS 2 message from the broker reaches the core once per session, however often the connection breaks. So the core
//!   owes its acknowledgement over `Down` and `Up` too: nothing reminds it, and the broker's place for the message stays
//!   taken. An acknowledgement of a QoS 1 delivery made over an earlier connection is ignored, since the broker sends
//!   the message again; there is no need to tell the two apart.
//! - A request that MQTT cannot carry (topic, size) is refused here, with the reason code a broker would give.
//! - After Close, what was requested before it is still written, and settled if the broker answers soon.

#![forbid(unsafe_code)]

mod backoff;
mod deliveries;
mod embedded;
mod mqtt;
mod pool;
mod port;
mod releases;
mod stages;
mod v3;
mod v5;

use core::time::Duration;

#[cfg(any(test, feature = "fuzzing"))]
pub use embedded::fuzz::mqtt_session;
pub use embedded::{Embedded, EmbeddedConfig, EmbeddedLimits, EmbeddedStats, OpenError};
pub use pool::{RequestSender, spawn};
pub use port::{CREDIT, MAX_PACKET_BYTES};
pub use stages::Journal;

/// An external broker.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteConfig {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// How the bytes travel.
    pub transport: Transport,
    /// MQTT version.
    pub protocol: Protocol,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// MQTT keep-alive.
    pub keep_alive: Duration,
    /// QoS 1 and 2 publishes unsettled at once, at most.
    pub in_flight: u16,
    /// Limit for connecting, TCP and CONNACK together.
    pub connect_timeout: Duration,
    /// Waits between attempts.
    pub reconnect: Reconnect,
}

/// How the bytes travel to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Plain TCP.
    Tcp,
}

/// MQTT version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// 3.1.1
    V3,
    /// 5
    V5,
}

/// Waits between attempts to connect: doubling from `first` to `max`, each varied by ± `jitter`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reconnect {
    /// The first wait.
    pub first: Duration,
    /// The longest wait.
    pub max: Duration,
    /// Share of the wait by which it varies, 0.0..=1.0.
    pub jitter: f64,
}
