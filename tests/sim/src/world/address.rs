//! Where a client or forwarder is.

use core::fmt;

use gateway_core::peer::LinkAddr;

/// Where a client's messages come from, as the gateway sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// The client, or the forwarder in front of it.
    pub addr: LinkAddr,
    /// The wireless node id behind a forwarder (§5.5).
    pub node: Option<Box<[u8]>>,
}

impl Address {
    /// An address, behind a forwarder or not.
    pub fn new(addr: LinkAddr, node: Option<&[u8]>) -> Address {
        Address {
            addr,
            node: node.map(Box::from),
        }
    }

    /// Octets that the encapsulation takes from each datagram.
    pub fn overhead(&self) -> usize {
        self.node.as_ref().map_or(0, |node| 3 + node.len())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr.fmt(f)?;
        match &self.node {
            Some(node) => write!(f, " node {node:02x?}"),
            None => Ok(()),
        }
    }
}
