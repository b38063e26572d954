//! MQTT-SN over UDP.

use std::net::SocketAddr;

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
