//! One MQTT connection: octets in and out, and when it ends.
//!
//! Polled by hand, since all of it waits for the same few things at once: replies of the router, room in the socket,
//! octets of the client, one timer. What it holds while nothing happens is this struct, and no buffer: octets are read
//! into one that all connections of a thread share, from which packets are taken before the next may use it; only the
//! beginning of a packet is copied. What one wake-up brings is sent with one write.
//!
//! Packets go to the router in batches. While it has one, nothing is read; so a client that sends without end is slowed
//! by TCP, and holds no more here than one read and one packet. While octets wait to be written nothing is read either,
//! beyond a few acknowledgements.
//!
//! A connection ends for DISCONNECT, a fault in what came, its keep-alive, and for what a client may do to hold a place
//! without being one: no CONNECT, a packet that does not get ready, octets that it does not take. A panic in the parsers
//! ends the one connection whose octets caused it.

mod decode;
mod encode;
mod protocol;
#[cfg(test)]
mod tests;

use core::cell::RefCell;
use core::fmt;
use core::future::poll_fn;
use core::mem;
use core::pin::{Pin, pin};
use core::task::{Context, Poll};
use core::time::Duration;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::{debug, error, info};

use self::protocol::{End, Opened, Protocol, Sent};
use super::channel::{Batch, CREDIT, FromConnection};
use super::packet::{ClientKey, Reply, reason};

/// From TCP connection to CONNECT.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// From a packet's first octet to its last. What is larger than a minute takes on a slow line is no MQTT message.
const PACKET_LIMIT: Duration = Duration::from_secs(60);

/// How long a client may take none of what is sent to it.
const STALL_LIMIT: Duration = Duration::from_secs(30);

/// From the last thing said to the end of the connection: so long its client may take to close it. Closing it first
/// with octets unread would reset it, and the last packet might not arrive.
const LINGER: Duration = Duration::from_millis(500);

/// Octets read at once.
const READ_BYTES: usize = 16 * 1024;

/// Octets made ready to be written before more replies are turned into some.
const WRITE_BYTES: usize = 64 * 1024;

/// Credit is given back with packets, and alone when this much of it is owed.
const CREDIT_OWED_AT_MOST: u32 = CREDIT / 2;

const UNSPECIFIED: u8 = 0x80;
const KEEP_ALIVE_TIMEOUT: u8 = 0x8D;

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// One connection. `S` is what carries the octets.
#[derive(Debug)]
pub(crate) struct Connection<S> {
    stream: S,
    peer: SocketAddr,
    protocol: Protocol,
    attachment: Attachment,
    /// Empty until CONNECT, or until one is assigned.
    client_id: Box<str>,
    mailbox: Option<UnboundedReceiver<Batch>>,
    /// The router has packets of this connection that are not worked off.
    underway: bool,
    /// To be sent, in order.
    replies: VecDeque<Reply>,
    /// To be written from `out_at`.
    out: Vec<u8>,
    out_at: usize,
    /// PUBLISH among `out`.
    publishes: u32,
    /// PUBLISH written that the router does not know of.
    credit: u32,
    phase: Phase,
    /// In the last two phases.
    ending: Option<Ending>,
    /// Once and a half the keep-alive.
    silence_limit: Option<Duration>,
    /// When the client was last known not to be silent: a packet came, or reading began again.
    heard: Instant,
    /// When the packet began that is not complete yet.
    packet_begun: Option<Instant>,
    /// Since when the client has taken nothing.
    stalled: Option<Instant>,
    reading: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Until CONNACK.
    Opening {
        limit: Instant,
    },
    Open,
    /// The last is said; then the client may close the connection.
    Ending {
        limit: Instant,
    },
    Ended,
}

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The client said DISCONNECT.
    Disconnect,
    /// The client closed it, or the network did.
    Lost(io::Error),
    /// What it sent was wrong, or it was told to go; with an MQTT 5 reason code.
    Reason(u8),
    /// No CONNECT in time.
    NoConnect,
    /// Longer silent than its keep-alive allows.
    Silent,
    /// A packet did not get complete.
    SlowPacket,
    /// It did not take what was sent to it.
    Stalled,
    /// The broker is gone.
    Abandoned,
    /// A fault in a parser.
    Panic,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Disconnect => f.write_str("disconnect"),
            Ending::Lost(error) => write!(f, "connection lost: {error}"),
            Ending::Reason(code) => match reason::name(*code) {
                Some(name) => write!(f, "{name} (0x{code:02x})"),
                None => write!(f, "0x{code:02x}"),
            },
            Ending::NoConnect => f.write_str("no CONNECT in time"),
            Ending::Silent => f.write_str("keep-alive exceeded"),
            Ending::SlowPacket => f.write_str("packet not completed in time"),
            Ending::Stalled => f.write_str("client does not read"),
            Ending::Abandoned => f.write_str("broker stopped"),
            Ending::Panic => f.write_str("fault in a parser"),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// `refuse`: the reason for which its CONNECT is refused.
    pub(crate) fn new(
        stream: S,
        peer: SocketAddr,
        packet_bytes: u32,
        refuse: Option<u8>,
        broker: UnboundedSender<FromConnection>,
    ) -> Self {
        let now = Instant::now();
        Connection {
            stream,
            peer,
            protocol: Protocol::new(packet_bytes, refuse),
            attachment: Attachment { broker, client: None },
            client_id: Box::default(),
            mailbox: None,
            underway: false,
            replies: VecDeque::new(),
            out: Vec::new(),
            out_at: 0,
            publishes: 0,
            credit: 0,
            phase: Phase::Opening {
                limit: now + CONNECT_LIMIT,
            },
            ending: None,
            silence_limit: None,
            heard: now,
            packet_begun: None,
            stalled: None,
            reading: false,
        }
    }

    /// Runs until the connection has ended.
    #[expect(clippy::manual_async_fn, reason = "that would have room for `self` twice")]
    pub(crate) fn run(mut self) -> impl Future<Output = Ending> {
        async move {
            let mut timer = pin!(sleep_until(self.heard + CONNECT_LIMIT));
            let ending = poll_fn(|cx| self.poll(cx, timer.as_mut())).await;
            self.report(&ending);
            ending
        }
    }

    fn report(&self, ending: &Ending) {
        let (peer, client) = (self.peer, &*self.client_id);
        match ending {
            Ending::Panic => error!(
                target: "broker", %peer, client,
                "a packet broke its parser, its connection was closed: please report this"
            ),
            _ if client.is_empty() => {
                debug!(target: "broker", %peer, reason = %ending, "mqtt connection ended");
            }
            _ => info!(target: "broker", %peer, client, reason = %ending, "mqtt client disconnected"),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<Ending> {
        loop {
            let mut progress = self.poll_mailbox(cx);
            self.encode();
            progress |= self.poll_write(cx);
            progress |= match self.phase {
                Phase::Opening { .. } | Phase::Open => self.poll_read(cx),
                Phase::Ending { .. } => self.poll_linger(cx),
                Phase::Ended => false,
            };
            self.hand_on();
            progress |= self.poll_timer(cx, timer.as_mut());
            if let Phase::Ended = self.phase {
                return Poll::Ready(self.ending.take().unwrap_or(Ending::Abandoned));
            }
            if !progress {
                return Poll::Pending;
            }
        }
    }

    fn poll_mailbox(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(mailbox) = &mut self.mailbox else {
            return false;
        };
        match mailbox.poll_recv(cx) {
            Poll::Ready(Some(batch)) => {
                self.attachment.client = Some(batch.client);
                if batch.worked_off {
                    self.underway = false;
                }
                if self.replies.is_empty() {
                    self.replies = batch.replies.into();
                } else {
                    self.replies.extend(batch.replies);
                }
                true
            }
            // The last reply is here, though the client may not take it.
            Poll::Ready(None) => {
                self.attachment.client = None;
                self.conclude(Ending::Abandoned);
                true
            }
            Poll::Pending => false,
        }
    }

    /// Replies into octets, but not more than are written soon.
    fn encode(&mut self) {
        while self.out.len() - self.out_at < WRITE_BYTES {
            let Some(reply) = self.replies.pop_front() else {
                // Its room is not needed until the next batch, which brings its own.
                self.replies = VecDeque::new();
                return;
            };
            match &reply {
                Reply::Publish(_) => self.publishes += 1,
                Reply::ConnAck {
                    reason: 0..0x80,
                    session_present,
                    assigned_client_id,
                } => {
                    self.phase = Phase::Open;
                    if let Some(client_id) = assigned_client_id {
                        self.client_id = client_id.as_str().into();
                    }
                    let (peer, client) = (self.peer, &*self.client_id);
                    info!(target: "broker", %peer, client, session_present, "mqtt client connected");
                }
                _ => {}
            }
            if let Sent::Last(reason) = self.protocol.send(&reply, &mut self.out) {
                self.replies = VecDeque::new();
                if let None | Some(Ending::Abandoned) = self.ending {
                    self.conclude(Ending::Reason(reason));
                    self.ending = Some(Ending::Reason(reason));
                }
                return;
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> bool {
        if self.out.is_empty() {
            return false;
        }
        while self.out_at < self.out.len() {
            let written = Pin::new(&mut self.stream).poll_write(cx, &self.out[self.out_at..]);
            match written {
                Poll::Ready(Ok(octets @ 1..)) => {
                    self.out_at += octets;
                    self.stalled = None;
                }
                Poll::Ready(Ok(0)) => return self.lose(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Err(error)) => return self.lose(error),
                Poll::Pending => {
                    self.stalled.get_or_insert_with(Instant::now);
                    if self.out_at > self.out.len() / 2 {
                        self.out.drain(..self.out_at);
                        self.out_at = 0;
                    }
                    return false;
                }
            }
        }
        // TCP has nothing to flush; what wraps it may, and goes on with it whenever it is polled.
        if let Poll::Ready(Err(error)) = Pin::new(&mut self.stream).poll_flush(cx) {
            return self.lose(error);
        }
        self.out = Vec::new();
        self.out_at = 0;
        self.credit += mem::take(&mut self.publishes);
        true
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> bool {
        let may_read = !self.underway
            && self.replies.is_empty()
            && self.out.len() - self.out_at < WRITE_BYTES
            && self.protocol.is_ready();
        if !may_read {
            self.reading = false;
            return false;
        }
        if !self.reading {
            // Nobody was listening until now.
            self.reading = true;
            self.heard = Instant::now();
            self.packet_begun = self.packet_begun.and(Some(self.heard));
        }
        if self.protocol.has_more() {
            self.take(&[]);
            return true;
        }
        READ_BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    self.lose(io::ErrorKind::UnexpectedEof.into());
                }
                Poll::Ready(Ok(())) => self.take(buffer.filled()),
                Poll::Ready(Err(error)) => {
                    self.lose(error);
                }
                Poll::Pending => return false,
            }
            true
        })
    }

    /// Octets into packets.
    fn take(&mut self, octets: &[u8]) {
        let mut opened = None;
        let received = catch_unwind(AssertUnwindSafe(|| {
            self.protocol.receive(octets, &mut opened, &mut self.out)
        }));
        match received {
            Ok(Ok(packets)) => {
                if packets > 0 {
                    self.heard = Instant::now();
                    self.packet_begun = None;
                }
                if self.protocol.is_amid_packet() {
                    self.packet_begun.get_or_insert_with(Instant::now);
                }
            }
            Ok(Err(End::Client)) => self.conclude(Ending::Disconnect),
            Ok(Err(End::Fault(reason))) => self.conclude(Ending::Reason(reason)),
            Err(_) => self.conclude(Ending::Panic),
        }
        if let Some(Opened { connect, keep_alive }) = opened {
            // §3.1.2.10
            self.silence_limit =
                (keep_alive > 0).then(|| Duration::from_millis(u64::from(keep_alive) * 1500));
            self.client_id = connect.client_id.as_str().into();
            let (mailbox, replies) = unbounded_channel();
            self.mailbox = Some(replies);
            self.underway = true;
            self.attachment.tell(FromConnection::Connect { connect, mailbox });
        }
    }

    /// To the router, what is ready for it.
    fn hand_on(&mut self) {
        let Some(client) = self.attachment.client else {
            return;
        };
        let packets = if self.underway {
            Vec::new()
        } else {
            self.protocol.take_inbox()
        };
        if packets.is_empty() && self.credit < CREDIT_OWED_AT_MOST {
            return;
        }
        self.underway |= !packets.is_empty();
        let credit = mem::take(&mut self.credit);
        self.attachment.tell(FromConnection::Packets {
            client,
            packets,
            credit,
        });
    }

    /// After the last octet: waits for the client to close the connection.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.out.is_empty() || !self.replies.is_empty() {
            return false;
        }
        if let Poll::Ready(Err(error)) = Pin::new(&mut self.stream).poll_shutdown(cx) {
            return self.lose(error);
        }
        READ_BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => true,
                Poll::Ready(_) => {
                    self.phase = Phase::Ended;
                    true
                }
                Poll::Pending => false,
            }
        })
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> bool {
        let Some(deadline) = self.deadline() else {
            return false;
        };
        // It is not put off with each packet: it may fire early, and is set anew then.
        if deadline < timer.deadline() || timer.is_elapsed() {
            timer.as_mut().reset(deadline);
        }
        if timer.poll(cx).is_pending() {
            return false;
        }
        let now = Instant::now();
        if let Phase::Ending { limit } = self.phase {
            if limit <= now {
                self.phase = Phase::Ended;
            }
        } else if deadline <= now {
            self.time_out(now);
        }
        true
    }

    fn deadline(&self) -> Option<Instant> {
        let limit = match self.phase {
            Phase::Opening { limit } => Some(limit),
            // Nothing else counts any more.
            Phase::Ending { limit } => return Some(limit),
            Phase::Open | Phase::Ended => None,
        };
        let silent = self
            .silence_limit
            .filter(|_| self.reading)
            .map(|limit| self.heard + limit);
        let packet = self
            .packet_begun
            .filter(|_| self.reading)
            .map(|begun| begun + PACKET_LIMIT);
        let stalled = self.stalled.map(|since| since + STALL_LIMIT);
        [limit, silent, packet, stalled].into_iter().flatten().min()
    }

    fn time_out(&mut self, now: Instant) {
        if self.stalled.is_some_and(|since| since + STALL_LIMIT <= now) {
            self.conclude(Ending::Stalled);
        } else if let Phase::Opening { .. } = self.phase {
            self.conclude(Ending::NoConnect);
        } else if self.packet_begun.is_some_and(|begun| begun + PACKET_LIMIT <= now) {
            self.protocol.close(UNSPECIFIED, &mut self.out);
            self.conclude(Ending::SlowPacket);
        } else {
            self.protocol.close(KEEP_ALIVE_TIMEOUT, &mut self.out);
            self.conclude(Ending::Silent);
        }
    }

    /// The connection is of no more use.
    fn lose(&mut self, error: io::Error) -> bool {
        self.conclude(Ending::Lost(error));
        self.phase = Phase::Ended;
        true
    }

    /// Nothing more is taken from the client or the router; what there is goes out, in time.
    fn conclude(&mut self, ending: Ending) {
        if self.ending.is_some() {
            return;
        }
        // What came before the end counts.
        self.underway = false;
        self.hand_on();
        self.mailbox = None;
        if let Ending::Disconnect = ending {
            self.attachment.client = None;
        }
        self.attachment.detach();
        self.ending = Some(ending);
        self.phase = Phase::Ending {
            limit: Instant::now() + LINGER,
        };
    }
}

/// A place at the router, given up with this value whatever happens.
#[derive(Debug)]
struct Attachment {
    broker: UnboundedSender<FromConnection>,
    client: Option<ClientKey>,
}

impl Attachment {
    fn tell(&self, message: FromConnection) {
        // Without the task the mailbox ends, which says the same.
        let _ = self.broker.send(message);
    }

    fn detach(&mut self) {
        if let Some(client) = self.client.take() {
            self.tell(FromConnection::Closed { client });
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.detach();
    }
}
