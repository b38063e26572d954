//! A [`Session`] on a UDP socket, and how a tool ends.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use sn_codec::{MsgId, Packet, Publish, PublishQoS, TopicRef};
use tokio::{
    net::{UdpSocket, lookup_host},
    signal::unix::{SignalKind, signal},
    time::{sleep_until, timeout},
};

use crate::printable::printable;

use super::{
    args::LinkArgs,
    describe::OneLine,
    session::{Event, Failure, Message, Options, Outcome, Request, Session},
};

/// The largest payload of a UDP datagram over IPv4: 65,535 − 20 − 8.
const UDP_MAX: usize = 65_507;

/// How long a farewell waits for its answer when the user wants to leave.
const FAREWELL: Duration = Duration::from_secs(1);

/// One client and its gateway.
#[derive(Debug)]
pub(crate) struct Client {
    socket: UdpSocket,
    /// Where the socket is connected to.
    gateway: SocketAddr,
    /// Further addresses of the same name.
    others: VecDeque<SocketAddr>,
    session: Session,
    /// Deliveries that came while a request was open.
    inbox: VecDeque<Message>,
    gateway_id: Option<u8>,
    debug: bool,
    quiet: bool,
    buffer: Vec<u8>,
}

/// Why a tool ends other than well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    /// The protocol's side.
    #[error("{gateway}: {failure}")]
    Failed { gateway: SocketAddr, failure: Failure },
    /// The host answers that the port is closed.
    #[error("{0}: no gateway listens there (UDP)")]
    Refused(SocketAddr),
    /// Name resolution.
    #[error("cannot resolve {host:?}: {error}")]
    Resolve { host: String, error: io::Error },
    /// The payload does not fit a datagram.
    #[error("the message is too long: {len} octets with its header, a UDP datagram holds {UDP_MAX}")]
    TooLong { len: usize },
    /// The network.
    #[error("{gateway}: {error}")]
    Network { gateway: SocketAddr, error: io::Error },
    /// The payload cannot be read.
    #[error("cannot read {what}: {error}")]
    Input { what: String, error: io::Error },
    /// Messages cannot be printed.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    /// The runtime or signal handling.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// The time of `-W` is over.
    #[error("timed out")]
    TimedOut,
    /// SIGINT or SIGTERM.
    #[error("interrupted")]
    Interrupted,
}

impl ToolError {
    /// The exit code, as documented in `--help`.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            // mosquitto_sub's code for the same.
            ToolError::TimedOut => 27,
            ToolError::Interrupted => 130,
            ToolError::Failed { .. }
            | ToolError::Refused(_)
            | ToolError::Resolve { .. }
            | ToolError::TooLong { .. }
            | ToolError::Network { .. }
            | ToolError::Input { .. }
            | ToolError::Output(_)
            | ToolError::Start(_) => 1,
        }
    }

    /// True for an end that needs no explanation: the user asked for it, or `| head` has read enough.
    pub(crate) fn is_expected(&self) -> bool {
        match self {
            ToolError::Interrupted => true,
            ToolError::Output(error) => error.kind() == io::ErrorKind::BrokenPipe,
            _ => false,
        }
    }
}

impl Client {
    /// Resolves the gateway and opens a socket for it; nothing is sent yet.
    ///
    /// # Errors
    /// The name is unknown, or there is no socket.
    pub(crate) async fn open(link: &LinkArgs, options: Options) -> Result<Client, ToolError> {
        let resolve = |error| ToolError::Resolve {
            host: link.host.clone(),
            error,
        };
        let mut others: VecDeque<_> = lookup_host((link.host.as_str(), link.port))
            .await
            .map_err(resolve)?
            .collect();
        let gateway = others
            .pop_front()
            .ok_or_else(|| resolve(io::Error::other("the name has no address")))?;
        Ok(Client {
            socket: socket_to(gateway).await?,
            gateway,
            others,
            session: Session::new(options, Instant::now()),
            inbox: VecDeque::new(),
            gateway_id: None,
            debug: link.debug,
            quiet: link.quiet,
            buffer: vec![0; UDP_MAX],
        })
    }

    /// The gateway's address.
    pub(crate) fn gateway(&self) -> SocketAddr {
        self.gateway
    }

    /// The gateway's id, once it has answered [`Client::search`].
    pub(crate) fn gateway_id(&self) -> Option<u8> {
        self.gateway_id
    }

    /// True from CONNACK to the end of the session.
    pub(crate) fn is_connected(&self) -> bool {
        self.session.is_connected()
    }

    /// Sends SEARCHGW; the answer may come at any time.
    pub(crate) fn search(&mut self) {
        self.session.search();
    }

    /// Connects; at a name with several addresses, to the first that has a gateway.
    ///
    /// # Errors
    /// Rejected, not answered, or nothing there.
    pub(crate) async fn connect(&mut self) -> Result<(), ToolError> {
        loop {
            match (self.request(Request::Connect).await, self.others.pop_front()) {
                (Err(ToolError::Refused(_) | ToolError::Network { .. }), Some(next)) => {
                    self.socket = socket_to(next).await?;
                    self.gateway = next;
                }
                (result, _) => {
                    self.others.clear();
                    return result.map(|_| ());
                }
            }
        }
    }

    /// Carries out one request; deliveries that come meanwhile wait for [`Client::next_message`].
    ///
    /// # Errors
    /// Rejected, not answered, or the session is over.
    pub(crate) async fn request(&mut self, request: Request) -> Result<Outcome, ToolError> {
        if let Request::Publish {
            topic,
            qos,
            retain,
            data,
        } = &request
        {
            fits(*topic, *qos, *retain, data)?;
        }
        self.session.request(request, Instant::now());
        let error = loop {
            match self.next_event().await {
                Ok(Event::Done(Ok(outcome))) => return Ok(outcome),
                Ok(Event::Done(Err(failure)) | Event::Failed(failure)) => break self.failed(failure),
                Ok(Event::Message(message)) => self.inbox.push_back(message),
                Ok(Event::Gateway(id)) => self.gateway_id = Some(id),
                Err(error) => break error,
            }
        };
        self.session.abandon();
        Err(error)
    }

    /// Waits for the next delivery and keeps the session alive.
    ///
    /// # Errors
    /// The session is over.
    pub(crate) async fn next_message(&mut self) -> Result<Message, ToolError> {
        loop {
            if let Some(message) = self.inbox.pop_front() {
                return Ok(message);
            }
            match self.next_event().await? {
                Event::Message(message) => return Ok(message),
                Event::Gateway(id) => self.gateway_id = Some(id),
                Event::Failed(failure) | Event::Done(Err(failure)) => return Err(self.failed(failure)),
                Event::Done(Ok(_)) => {}
            }
        }
    }

    /// Keeps the session alive and discards deliveries, until it fails.
    pub(crate) async fn idle(&mut self) -> ToolError {
        loop {
            if let Err(error) = self.next_message().await {
                return error;
            }
        }
    }

    /// Says goodbye after the work is done; a missing answer is worth a word, not a failure.
    ///
    /// # Errors
    /// A PUBLISH of QoS 0 was rejected before the answer came.
    pub(crate) async fn disconnect(&mut self) -> Result<(), ToolError> {
        match self.request(Request::Disconnect).await {
            Ok(_) => Ok(()),
            Err(
                error @ ToolError::Failed {
                    failure: Failure::Rejected { .. },
                    ..
                },
            ) => Err(error),
            Err(error) => {
                self.complain(&format!("DISCONNECT: {error}"));
                Ok(())
            }
        }
    }

    /// Says goodbye because the user does not want to wait any longer.
    pub(crate) async fn farewell(&mut self) {
        self.session.abandon();
        if self.session.is_connected() {
            // Whatever comes of it: there is nobody to tell.
            let _ = timeout(FAREWELL, self.request(Request::Disconnect)).await;
        }
    }

    /// Prints on stderr, unless the user wants quiet.
    pub(crate) fn complain(&self, message: &str) {
        if !self.quiet {
            eprintln!("snipe: {}", printable(message));
        }
    }

    fn failed(&self, failure: Failure) -> ToolError {
        ToolError::Failed {
            gateway: self.gateway,
            failure,
        }
    }

    /// Sends what is to be sent, then waits for the network or the clock until something happens.
    async fn next_event(&mut self) -> Result<Event, ToolError> {
        loop {
            while let Some(datagram) = self.session.poll_transmit() {
                self.trace("sending", &datagram);
                self.socket
                    .send(&datagram)
                    .await
                    .map_err(|error| self.network(error))?;
            }
            if let Some(event) = self.session.poll_event() {
                return Ok(event);
            }
            let due = self.session.poll_timeout();
            tokio::select! {
                received = self.socket.recv(&mut self.buffer) => {
                    let len = received.map_err(|error| self.network(error))?;
                    let datagram = &self.buffer[..len];
                    match self.session.handle_datagram(datagram, Instant::now()) {
                        Ok(()) => self.trace("received", &self.buffer[..len]),
                        Err(error) => self.complain(&format!("ignored {len} octets from the gateway: {error}")),
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                    self.session.handle_timeout(Instant::now());
                }
            }
        }
    }

    fn network(&self, error: io::Error) -> ToolError {
        match error.kind() {
            // ICMP "port unreachable", which a connected UDP socket reports.
            io::ErrorKind::ConnectionRefused => ToolError::Refused(self.gateway),
            _ => ToolError::Network {
                gateway: self.gateway,
                error,
            },
        }
    }

    fn trace(&self, verb: &str, datagram: &[u8]) {
        if !self.debug {
            return;
        }
        if let Ok(packet) = Packet::decode(datagram) {
            let id = printable(self.session.client_id());
            eprintln!("Client {id} {verb} {}", OneLine(&packet));
        }
    }
}

/// Ends when the time of `-W` is over or the user interrupts.
pub(crate) async fn stop(limit: Option<Duration>) -> ToolError {
    let (mut interrupt, mut terminate) =
        match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
            (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
            (Err(error), _) | (_, Err(error)) => return ToolError::Start(error),
        };
    tokio::select! {
        _ = interrupt.recv() => ToolError::Interrupted,
        _ = terminate.recv() => ToolError::Interrupted,
        () = tokio::time::sleep(limit.unwrap_or_default()), if limit.is_some() => ToolError::TimedOut,
    }
}

async fn socket_to(gateway: SocketAddr) -> Result<UdpSocket, ToolError> {
    let any: SocketAddr = match gateway {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let open = async {
        let socket = UdpSocket::bind(any).await?;
        socket.connect(gateway).await?;
        Ok(socket)
    };
    open.await.map_err(|error| ToolError::Network { gateway, error })
}

fn fits(topic: TopicRef, qos: PublishQoS, retain: bool, data: &[u8]) -> Result<(), ToolError> {
    let publish = Publish {
        dup: false,
        qos,
        retain,
        topic,
        msg_id: MsgId(0),
        data,
    };
    // The codec's length field is 16 bits; compare the data before it is asked for a length.
    let len = if data.len() > UDP_MAX {
        data.len()
    } else {
        Packet::Publish(publish).encoded_len()
    };
    if len > UDP_MAX {
        Err(ToolError::TooLong { len })
    } else {
        Ok(())
    }
}
