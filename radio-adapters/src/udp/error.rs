//! Why a UDP link does not open, and what to do about it.

use std::io;
use std::net::SocketAddr;

use rustix::io::Errno;

/// A UDP radio cannot be opened as configured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// `bind` is empty.
    #[error("no address to listen on: give `bind` at least one, such as \"0.0.0.0:1883\"")]
    NoListener,
    /// More listeners than a route can tell apart.
    #[error("{0} addresses to listen on: a radio takes up to 256, use several radios")]
    TooManyListeners(usize),
    /// A listener has the address of a group.
    #[error("cannot listen on {0}: it is a multicast group, name it in `multicast`")]
    ListenerIsGroup(SocketAddr),
    /// A group is not a multicast address.
    #[error("{0} is not a multicast group: groups are 224.0.0.0/4 and ff00::/8")]
    NotMulticast(SocketAddr),
    /// A group has port 0.
    #[error("multicast group {0} needs the port that clients search on, such as 1883")]
    GroupWithoutPort(SocketAddr),
    /// The interface for multicast does not exist.
    #[error("no network interface \"{0}\": `ip link` lists those that there are")]
    NoSuchInterface(String),
    /// A listener could not be opened.
    #[error("cannot listen on {addr}/udp: {source}{}", hint(source))]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

impl OpenError {
    /// It may work later without any change to the configuration: a port becomes free, an interface comes up.
    pub fn may_pass(&self) -> bool {
        match self {
            OpenError::NoSuchInterface(_) | OpenError::Listen { .. } => true,
            OpenError::NoListener
            | OpenError::TooManyListeners(_)
            | OpenError::ListenerIsGroup(_)
            | OpenError::NotMulticast(_)
            | OpenError::GroupWithoutPort(_) => false,
        }
    }
}

/// A multicast group is not joined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// No listener has the family of the group.
    #[error("no listener could answer: add an {0} address to `bind`")]
    NoListener(&'static str),
    /// The system refuses.
    #[error("{0}{hint}", hint = join_hint(.0))]
    System(#[from] io::Error),
}

fn hint(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::ADDRINUSE) => {
            "; another program, perhaps another gateway, has this port: stop it, or choose another (key `bind` of the radio)"
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE: choose another port or grant it"
        }
        Some(Errno::ADDRNOTAVAIL) => {
            "; no interface has this address (yet): `ip address` lists those that there are"
        }
        Some(Errno::AFNOSUPPORT) => "; this system has no IPv6: leave the address out",
        Some(Errno::INVAL) => "; a link-local address needs its interface's number, as in [fe80::1%2]:1883",
        _ => "",
    }
}

fn join_hint(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::NODEV | Errno::NETUNREACH | Errno::ADDRNOTAVAIL | Errno::INVAL) => {
            "; no interface leads there: name one in `interface`"
        }
        Some(Errno::ADDRINUSE) => "; another program has this port for itself",
        _ => "",
    }
}
