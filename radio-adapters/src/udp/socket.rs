//! Opening the sockets with the options they need.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use rustix::io::Errno;
use rustix::net::netdevice;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::{debug, warn};

use super::UdpConfig;
use super::error::{JoinError, OpenError};

/// Asked for, and granted as far as `net.core.rmem_max` allows. The kernel counts 500 to 800 octets for a small
/// datagram, so its usual 208 KiB hold only a few hundred: less than the clients that start at once after an outage.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Discovery stays on the link.
const MULTICAST_HOPS: u32 = 1;

/// A socket and what is needed to use it with addresses per datagram.
///
/// It is registered for reading alone: the kernel reports "writable" whenever a datagram has left, which would wake the
/// runtime once more for each one sent.
#[derive(Debug)]
pub(super) struct Socket {
    io: AsyncFd<UdpSocket>,
    state: UdpSocketState,
}

/// A socket that takes unicast and that everything is sent from.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: Socket,
    /// As bound.
    pub(super) addr: SocketAddr,
    /// Its place in the link's routes.
    pub(super) index: u8,
}

impl Listener {
    /// True if a datagram from `source` left from this socket.
    pub(super) fn is_at(&self, source: SocketAddr) -> bool {
        if source.port() != self.addr.port() || source.is_ipv4() != self.addr.is_ipv4() {
            return false;
        }
        if !self.addr.ip().is_unspecified() {
            return source.ip() == self.addr.ip();
        }
        // The port is ours at every address of this machine, and only its own addresses can be bound to.
        let mut address = source;
        address.set_port(0);
        UdpSocket::bind(address).is_ok()
    }
}

/// A socket that takes what is sent to a group on one interface.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) socket: Socket,
    /// The group.
    pub(super) addr: SocketAddr,
    /// The listener that answers and that ADVERTISE leaves from.
    pub(super) listener: u8,
    /// It could be joined at once.
    pub(super) joined: bool,
    place: Place,
}

/// Groups that are not joined (on one of the interfaces), and why.
pub(super) type NotJoined = Vec<(SocketAddr, JoinError)>;

/// Where to join a group.
#[derive(Debug, Clone)]
enum Place {
    /// On the interface of this name.
    Named(String),
    /// On the interface with this IPv4 address; the unspecified one leaves it to the system.
    Address(Ipv4Addr),
    /// On the interface of this number; 0 leaves it to the system.
    Index(u32),
}

impl Socket {
    fn new(socket: socket2::Socket) -> io::Result<Socket> {
        socket.set_nonblocking(true)?;
        let io = UdpSocket::from(socket);
        let state = UdpSocketState::new((&io).into())?;
        if io.local_addr()?.is_ipv4() {
            // The state forbids fragmentation, as QUIC wants it. MQTT-SN does not probe for the path's MTU: a PUBLISH
            // that fits the configured `mtu` but not some tunnel on the way has to arrive in fragments.
            sockopt::set_ip_mtu_discover(&io, Ipv4PathMtuDiscovery::DONT)?;
        }
        Ok(Socket {
            io: register(io, Interest::READABLE)?,
            state,
        })
    }

    /// The socket itself.
    pub(super) fn get_ref(&self) -> &UdpSocket {
        self.io.get_ref()
    }

    /// Waits until there may be something to receive.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.io.readable().await.map(drop)
    }

    /// Runs one receive call if the runtime thinks there is something.
    pub(super) fn try_receive<R>(
        &self,
        call: impl FnOnce(&dyn Fn(&mut [IoSliceMut<'_>], &mut [RecvMeta]) -> io::Result<usize>) -> io::Result<R>,
    ) -> io::Result<R> {
        let receive = |slices: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]| {
            self.state.recv(self.get_ref().into(), slices, metas)
        };
        self.io.try_io(Interest::READABLE, |_| call(&receive))
    }

    /// Sends at once or says that it would block.
    pub(super) fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.state.try_send(self.get_ref().into(), transmit)
    }

    /// Runs `send` when the socket can be written to, again and again as long as it says that it would block.
    pub(super) async fn send_when_writable(
        &self,
        mut send: impl FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        let writable = register(self.get_ref().try_clone()?, Interest::WRITABLE)?;
        writable.async_io(Interest::WRITABLE, |_| send()).await
    }
}

/// Registers a socket with the runtime for one direction only, which tokio's own `UdpSocket` cannot.
///
/// Measured: registered for both, every datagram sent ends one more `epoll_wait`. With QoS 1 at 5,000/s, one message at
/// a time, that is one of three waits per message.
#[expect(
    unsafe_code,
    reason = "the only way to register for one direction; measured above"
)]
fn register(socket: UdpSocket, interest: Interest) -> io::Result<AsyncFd<UdpSocket>> {
    // SAFETY: a std socket owns its descriptor and gives the same one as long as it lives; it moves into the `AsyncFd`,
    // which deregisters it before it is dropped, and nothing here takes it out or replaces it.
    unsafe { AsyncFd::register_with_interest(socket, interest) }.map_err(io::Error::from)
}

impl Group {
    /// Joins the group; false if this socket is a member already.
    pub(super) fn join(&self) -> io::Result<bool> {
        join(&SockRef::from(self.socket.get_ref()), self.addr.ip(), &self.place)
    }
}

/// Opens a socket for each address to listen on.
pub(super) fn open_listeners(config: &UdpConfig) -> Result<Vec<Listener>, OpenError> {
    if config.bind.len() > usize::from(u8::MAX) + 1 {
        return Err(OpenError::TooManyListeners(config.bind.len()));
    }
    let mut listeners = Vec::with_capacity(config.bind.len());
    let mut without_ipv6 = None;
    for &addr in &config.bind {
        if addr.ip().is_multicast() {
            return Err(OpenError::ListenerIsGroup(addr));
        }
        // `multicast` may name the port that this listener will have.
        let shared = config
            .multicast
            .iter()
            .any(|g| g.port() == addr.port() && g.is_ipv4() == addr.is_ipv4());
        let index = listeners.len() as u8;
        match open_listener(addr, shared, config.interface.as_deref(), index) {
            Ok(listener) => listeners.push(listener),
            Err(error) if addr.ip().is_unspecified() && is(&error, Errno::AFNOSUPPORT) => {
                warn!(target: "radio", %addr, "not listening: this system has no IPv6");
                without_ipv6 = Some(OpenError::Listen { addr, source: error });
            }
            Err(source) => return Err(OpenError::Listen { addr, source }),
        }
    }
    if listeners.is_empty() {
        return Err(without_ipv6.unwrap_or(OpenError::NoListener));
    }
    Ok(listeners)
}

fn open_listener(addr: SocketAddr, shared: bool, interface: Option<&str>, index: u8) -> io::Result<Listener> {
    let socket = new_socket(addr)?;
    socket.bind(&addr.into())?;
    if shared {
        // Only after binding, so that another program on our port is an error rather than a thief of datagrams. From
        // now on sockets for groups may have the port too: ours, and those of clients on this machine that wait for
        // ADVERTISE.
        socket.set_reuse_address(true)?;
    }
    if let Err(error) = socket.set_recv_buffer_size(RECEIVE_BUFFER) {
        debug!(target: "radio", %addr, %error, "receive buffer stays small");
    }
    let interface = interface
        .map(|name| netdevice::name_to_index(&socket, name))
        .transpose()
        .ok()
        .flatten();
    if addr.is_ipv4() {
        socket.set_multicast_ttl_v4(MULTICAST_HOPS)?;
        socket.set_multicast_loop_v4(true)?;
        if let Some(interface) = interface {
            let any = Ipv4Addr::UNSPECIFIED;
            sockopt::set_ip_multicast_if_with_ifindex(&socket, &any, &any, interface)?;
        }
    } else {
        socket.set_multicast_hops_v6(MULTICAST_HOPS)?;
        socket.set_multicast_loop_v6(true)?;
        if let Some(interface) = interface {
            socket.set_multicast_if_v6(interface)?;
        }
    }
    let socket = Socket::new(socket)?;
    let addr = socket.get_ref().local_addr()?;
    Ok(Listener { socket, addr, index })
}

/// Opens and joins each group on each interface that a listener stands for.
pub(super) fn open_groups(
    config: &UdpConfig,
    listeners: &[Listener],
) -> Result<(Vec<Group>, NotJoined), OpenError> {
    if let Some(name) = &config.interface {
        netdevice::name_to_index(listeners[0].socket.get_ref(), name)
            .map_err(|_| OpenError::NoSuchInterface(name.clone()))?;
    }
    let mut groups = Vec::new();
    let mut not_joined = Vec::new();
    for &addr in &config.multicast {
        if !addr.ip().is_multicast() {
            return Err(OpenError::NotMulticast(addr));
        }
        if addr.port() == 0 {
            return Err(OpenError::GroupWithoutPort(addr));
        }
        let places = places(addr, config.interface.as_deref(), listeners);
        if places.is_empty() {
            let family = if addr.is_ipv4() { "IPv4" } else { "IPv6" };
            not_joined.push((addr, JoinError::NoListener(family)));
            continue;
        }
        // Takes part only to find listeners that share an interface: a socket joins a group there once.
        let probe = new_socket(addr).ok();
        for (listener, place) in places {
            if probe
                .as_ref()
                .is_some_and(|probe| matches!(join(probe, addr.ip(), &place), Ok(false)))
            {
                continue;
            }
            match open_group(addr, listener, place) {
                Ok((group, error)) => {
                    groups.push(group);
                    not_joined.extend(error.map(|error| (addr, error.into())));
                }
                Err(error) => not_joined.push((addr, error.into())),
            }
        }
    }
    Ok((groups, not_joined))
}

/// The listeners a group is joined for, and where.
fn places(group: SocketAddr, interface: Option<&str>, listeners: &[Listener]) -> Vec<(u8, Place)> {
    let mut family = listeners
        .iter()
        .filter(|listener| listener.addr.is_ipv4() == group.is_ipv4());
    if let Some(name) = interface {
        return family
            .next()
            .map(|listener| (listener.index, Place::Named(name.to_owned())))
            .into_iter()
            .collect();
    }
    family
        .map(|listener| {
            let place = match (group, listener.addr) {
                (SocketAddr::V6(group), _) if group.scope_id() != 0 => Place::Index(group.scope_id()),
                (_, SocketAddr::V4(own)) => Place::Address(*own.ip()),
                (_, SocketAddr::V6(own)) => Place::Index(own.scope_id()),
            };
            (listener.index, place)
        })
        .collect()
}

/// A socket for a group, and why it is not a member yet.
fn open_group(mut addr: SocketAddr, listener: u8, place: Place) -> io::Result<(Group, Option<io::Error>)> {
    let socket = new_socket(addr)?;
    if let SocketAddr::V6(v6) = &mut addr {
        // ff02::1 and the like mean nothing without an interface, neither to bind nor to send to.
        v6.set_scope_id(index_of(&socket, &place)?);
    }
    socket.set_reuse_address(true)?;
    // Bound to the group's address: unicast to the same port goes to the listener alone.
    socket.bind(&addr.into())?;
    let socket = Socket::new(socket)?;
    let mut group = Group {
        socket,
        addr,
        listener,
        joined: false,
        place,
    };
    let error = group.join().err();
    group.joined = error.is_none();
    Ok((group, error))
}

/// A socket of the address's family that takes nothing but what is meant for it.
fn new_socket(addr: SocketAddr) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    // By default a socket gets what is sent to any group that any socket of the machine joined: each SEARCHGW would
    // come twice where a listener and a group share a port.
    if addr.is_ipv4() {
        socket.set_multicast_all_v4(false)?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_multicast_all_v6(false)?;
    }
    Ok(socket)
}

/// Joins a group; false if the socket is a member there already.
fn join(socket: &socket2::Socket, group: IpAddr, place: &Place) -> io::Result<bool> {
    let result = match (group, place) {
        (IpAddr::V4(group), Place::Address(own)) => socket.join_multicast_v4(&group, own),
        (IpAddr::V4(group), place) => {
            let interface = InterfaceIndexOrAddress::Index(index_of(socket, place)?);
            socket.join_multicast_v4_n(&group, &interface)
        }
        (IpAddr::V6(group), place) => socket.join_multicast_v6(&group, index_of(socket, place)?),
    };
    match result {
        Ok(()) => Ok(true),
        Err(error) if is(&error, Errno::ADDRINUSE) => Ok(false),
        Err(error) => Err(error),
    }
}

fn index_of(socket: &socket2::Socket, place: &Place) -> io::Result<u32> {
    match place {
        Place::Named(name) => Ok(netdevice::name_to_index(socket, name)?),
        Place::Address(_) => Ok(0),
        Place::Index(index) => Ok(*index),
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    Errno::from_io_error(error) == Some(errno)
}
