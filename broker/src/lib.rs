//! The connections to an MQTT broker.

use core::time::Duration;

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
