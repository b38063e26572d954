//! Who is on the other side of a link.

use core::fmt;
use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;

/// One radio of the configuration: the order in which they stand there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u16);

/// The address of a peer on its link, as far as it identifies the peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LinkAddr {
    /// IP; an IPv4-mapped IPv6 address is written as IPv4.
    Udp(SocketAddr),
    /// A radio address of up to eight octets.
    Radio(ArrayVec<u8, 8>),
    /// The only peer on a wire.
    Wire,
}

impl fmt::Display for LinkAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkAddr::Udp(addr) => addr.fmt(f),
            LinkAddr::Radio(octets) => {
                f.write_str("0x")?;
                octets.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
            }
            LinkAddr::Wire => f.write_str("wire"),
        }
    }
}

/// Our own end of a path, so that the answer leaves from where the request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LocalEnd {
    /// Which socket of the link.
    pub socket: u8,
    /// Our address the datagram was sent to, where the system tells.
    pub ip: Option<IpAddr>,
}

/// A way to a peer: whom, and from which of our own addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The peer.
    pub addr: LinkAddr,
    /// Our end.
    pub local: LocalEnd,
}

/// Where a client is: an address, and which node behind it if a forwarder is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddr {
    /// The client, or its forwarder.
    pub addr: LinkAddr,
    /// The wireless node id.
    pub node: Option<Box<[u8]>>,
}

impl From<LinkAddr> for PeerAddr {
    fn from(addr: LinkAddr) -> Self {
        PeerAddr { addr, node: None }
    }
}

/// `address`, or `address/node` with the node id in hexadecimal.
impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr.fmt(f)?;
        let Some(node) = &self.node else { return Ok(()) };
        f.write_str("/")?;
        node.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_behind_a_forwarder_is_part_of_the_address() {
        let forwarder = LinkAddr::Udp(([10, 20, 0, 7], 2000).into());
        let mut peer = PeerAddr::from(forwarder);
        assert_eq!(peer.to_string(), "10.20.0.7:2000");
        peer.node = Some([0x00, 0x0f].into());
        assert_eq!(peer.to_string(), "10.20.0.7:2000/000f");
    }
}
