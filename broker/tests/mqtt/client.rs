//! A client that does nothing by itself: it sends what it is told and shows what it gets.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::packet::{Ack, Connect, Packet, Props, Publish, Version, take};

/// Far longer than any answer takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Subscription option: nothing that this client published itself.
pub(crate) const NO_LOCAL: u8 = 0x04;
/// Subscription option: the RETAIN flag as the publisher set it.
pub(crate) const RETAIN_AS_PUBLISHED: u8 = 0x08;
/// Subscription option: retained messages only if the subscription is new.
pub(crate) const RETAINED_IF_NEW: u8 = 0x10;
/// Subscription option: no retained messages.
pub(crate) const RETAINED_NEVER: u8 = 0x20;

/// A filter to which nothing is ever published and nobody subscribes.
const NOWHERE: &str = "~/nowhere";

/// One connection.
pub(crate) struct Client {
    pub(crate) version: Version,
    /// Of its CONNACK.
    pub(crate) session_present: bool,
    /// Of its CONNACK.
    pub(crate) props: Props,
    stream: TcpStream,
    /// Read, not yet a packet.
    octets: Vec<u8>,
    /// Packets that came while another was waited for.
    queue: VecDeque<Packet>,
    last_id: u16,
}

/// What the next look at a connection gives.
#[derive(Debug)]
pub(crate) enum Event {
    Packet(Packet),
    Closed,
    Silence,
}

impl Client {
    /// A TCP connection, and not a word of MQTT.
    pub(crate) fn open(address: SocketAddr, version: Version) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Client {
            version,
            session_present: false,
            props: Vec::new(),
            stream,
            octets: Vec::new(),
            queue: VecDeque::new(),
            last_id: 0,
        }
    }

    // Octets and packets

    pub(crate) fn send(&mut self, packet: &Packet) {
        self.send_raw(packet.encode(self.version));
    }

    /// Any octets. Whether the other end still takes them is not looked at: closing shows when reading.
    pub(crate) fn send_raw(&mut self, octets: impl AsRef<[u8]>) {
        self.stream.set_nonblocking(false).unwrap();
        let _ = self.stream.write_all(octets.as_ref());
    }

    /// The oldest packet not yet looked at, or what there is instead when `patience` ends.
    #[track_caller]
    pub(crate) fn event(&mut self, patience: Duration) -> Event {
        match self.queue.pop_front() {
            Some(packet) => Event::Packet(packet),
            None => self.read(Instant::now() + patience),
        }
    }

    /// From the connection, past the queue.
    #[track_caller]
    fn read(&mut self, deadline: Instant) -> Event {
        loop {
            match take(self.version, &mut self.octets) {
                Ok(Some(packet)) => return Event::Packet(packet),
                Ok(None) => {}
                Err(error) => panic!("the broker sent what is not MQTT: {error}"),
            }
            // What is there already is read whatever the deadline; a timeout of the socket would take milliseconds.
            let patience = deadline.saturating_duration_since(Instant::now());
            self.stream.set_nonblocking(patience.is_zero()).unwrap();
            if !patience.is_zero() {
                self.stream.set_read_timeout(Some(patience)).unwrap();
            }
            let mut buffer = [0; 16_384];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Event::Closed,
                Ok(count) => self.octets.extend(&buffer[..count]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Event::Silence,
                    ErrorKind::Interrupted => {}
                    // The broker closed with octets of ours unread.
                    ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
                        return Event::Closed;
                    }
                    _ => panic!("{error}"),
                },
            }
        }
    }

    #[track_caller]
    pub(crate) fn next(&mut self) -> Packet {
        match self.event(PATIENCE) {
            Event::Packet(packet) => packet,
            other => panic!("a packet was due: {other:?}"),
        }
    }

    /// The first packet that `pick` takes; what comes before it waits in the queue.
    #[track_caller]
    pub(crate) fn find<T>(&mut self, what: &str, mut pick: impl FnMut(&Packet) -> Option<T>) -> T {
        for n in 0..self.queue.len() {
            if let Some(found) = pick(&self.queue[n]) {
                self.queue.remove(n);
                return found;
            }
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.read(deadline) {
                Event::Packet(packet) => match pick(&packet) {
                    Some(found) => return found,
                    None => self.queue.push_back(packet),
                },
                other => panic!("{what} was due: {other:?}; before it came {:?}", self.queue),
            }
        }
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, packet: Packet) {
        assert_eq!(self.next(), packet);
    }

    /// Nothing is there that was not looked at, and the broker has handled all that this client sent before.
    ///
    /// UNSUBSCRIBE is answered by the same part of a broker that delivers messages, so its answer comes after them.
    #[track_caller]
    pub(crate) fn expect_nothing(&mut self) {
        self.barrier();
        assert!(self.queue.is_empty(), "nothing was due: {:?}", self.queue);
    }

    /// The broker has handled all that this client sent before.
    #[track_caller]
    pub(crate) fn barrier(&mut self) {
        self.unsubscribe(NOWHERE);
    }

    /// The broker ends the connection, in MQTT 5 perhaps with a DISCONNECT whose reason is returned.
    #[track_caller]
    pub(crate) fn expect_closed(&mut self) -> Option<u8> {
        let reason = match self.event(PATIENCE) {
            Event::Closed => return None,
            Event::Packet(Packet::Disconnect { code, .. }) => code,
            other => panic!("the connection should have been closed: {other:?}"),
        };
        assert!(
            reason >= 0x80,
            "a server ends a connection with reason {reason:#04x}"
        );
        match self.event(PATIENCE) {
            Event::Closed => Some(reason),
            other => panic!("after DISCONNECT {reason:#04x}: {other:?}"),
        }
    }

    /// As [`Client::expect_closed`], without a reason or with one of these.
    #[track_caller]
    pub(crate) fn expect_closed_with(&mut self, reasons: &[u8]) {
        if let Some(reason) = self.expect_closed() {
            assert!(reasons.contains(&reason), "closed with reason {reason:#04x}");
        }
    }

    /// As [`Client::expect_refused`], without a code or with one of these.
    #[track_caller]
    pub(crate) fn expect_refused_with(&mut self, codes: &[u8]) {
        if let Some(code) = self.expect_refused() {
            assert!(codes.contains(&code), "refused with code {code:#04x}");
        }
    }

    /// The broker refuses the CONNECT: its connection is closed, perhaps after a CONNACK whose code is returned.
    #[track_caller]
    pub(crate) fn expect_refused(&mut self) -> Option<u8> {
        let code = match self.event(PATIENCE) {
            Event::Closed => return None,
            Event::Packet(Packet::ConnAck { code, .. }) => code,
            other => panic!("the connection should have been refused: {other:?}"),
        };
        assert_ne!(code, 0, "the connection should have been refused");
        match self.event(PATIENCE) {
            Event::Closed => Some(code),
            other => panic!("after CONNACK {code:#04x}: {other:?}"),
        }
    }

    // Exchanges

    /// An id that no exchange of this client uses.
    pub(crate) fn new_id(&mut self) -> u16 {
        self.last_id = self.last_id % 60_000 + 1;
        // Tests choose small ones themselves.
        1000 + self.last_id
    }

    /// CONNECT, and the CONNACK accepts it.
    #[track_caller]
    pub(crate) fn connect(&mut self, connect: &Connect) {
        self.send_raw(connect.encode(self.version));
        match self.next() {
            Packet::ConnAck {
                session_present,
                code: 0,
                props,
            } => {
                self.session_present = session_present;
                self.props = props;
            }
            other => panic!("CONNACK 0 was due: {other:?}"),
        }
    }

    /// CONNECT on a connection that may break at any moment; `false` if it did.
    #[track_caller]
    pub(crate) fn try_connect(&mut self, connect: &Connect) -> bool {
        self.send_raw(connect.encode(self.version));
        match self.event(PATIENCE) {
            Event::Packet(Packet::ConnAck {
                session_present,
                code: 0,
                props,
            }) => {
                self.session_present = session_present;
                self.props = props;
                true
            }
            Event::Closed => false,
            other => panic!("CONNACK 0 was due: {other:?}"),
        }
    }

    /// The code in SUBACK.
    #[track_caller]
    pub(crate) fn subscribe(&mut self, filter: &str, options: u8) -> u8 {
        self.subscribe_with(filter, options, Vec::new())
    }

    #[track_caller]
    pub(crate) fn subscribe_with(&mut self, filter: &str, options: u8, props: Props) -> u8 {
        let id = self.new_id();
        self.send(&Packet::Subscribe {
            id,
            filters: vec![(filter.into(), options)],
            props,
        });
        self.find("SUBACK", |packet| match packet {
            Packet::SubAck {
                id: theirs, codes, ..
            } if *theirs == id => {
                assert_eq!(codes.len(), 1);
                Some(codes[0])
            }
            _ => None,
        })
    }

    /// The code in UNSUBACK; 0 in 3.1.1.
    #[track_caller]
    pub(crate) fn unsubscribe(&mut self, filter: &str) -> u8 {
        let id = self.new_id();
        self.send(&Packet::unsubscribe(id, filter));
        self.find("UNSUBACK", |packet| match packet {
            Packet::UnsubAck {
                id: theirs, codes, ..
            } if *theirs == id => Some(codes.first().copied().unwrap_or_default()),
            _ => None,
        })
    }

    /// Publishes with the whole exchange that its QoS has; returns the reason code.
    #[track_caller]
    pub(crate) fn publish(&mut self, mut publish: Publish) -> u8 {
        if publish.qos > 0 && publish.id == 0 {
            publish.id = self.new_id();
        }
        let (qos, id) = (publish.qos, publish.id);
        self.send(&Packet::Publish(publish));
        match qos {
            0 => {
                self.barrier();
                0
            }
            1 => self.find("PUBACK", |packet| match packet {
                Packet::PubAck(ack) if ack.id == id => Some(ack.code),
                _ => None,
            }),
            _ => {
                let code = self.pub_rec(id).code;
                if code < 0x80 {
                    self.release(id);
                }
                code
            }
        }
    }

    #[track_caller]
    pub(crate) fn pub_rec(&mut self, id: u16) -> Ack {
        self.find("PUBREC", |packet| match packet {
            Packet::PubRec(ack) if ack.id == id => Some(ack.clone()),
            _ => None,
        })
    }

    /// PUBREL and its PUBCOMP, whose reason code is returned.
    #[track_caller]
    pub(crate) fn release(&mut self, id: u16) -> u8 {
        self.send(&Packet::pub_rel(id));
        self.find("PUBCOMP", |packet| match packet {
            Packet::PubComp(ack) if ack.id == id => Some(ack.code),
            _ => None,
        })
    }

    /// The next message; it is not acknowledged.
    #[track_caller]
    pub(crate) fn next_publish(&mut self) -> Publish {
        self.find("PUBLISH", |packet| match packet {
            Packet::Publish(publish) => Some(publish.clone()),
            _ => None,
        })
    }

    /// Acknowledges a message with the whole exchange that its QoS has.
    #[track_caller]
    pub(crate) fn acknowledge(&mut self, publish: &Publish) {
        let id = publish.id;
        match publish.qos {
            0 => {}
            1 => self.send(&Packet::pub_ack(id)),
            _ => {
                self.send(&Packet::pub_rec(id));
                self.find("PUBREL", |packet| (*packet == Packet::pub_rel(id)).then_some(()));
                self.send(&Packet::pub_comp(id));
            }
        }
    }

    /// The next message, acknowledged.
    #[track_caller]
    pub(crate) fn accept(&mut self) -> Publish {
        let publish = self.next_publish();
        self.acknowledge(&publish);
        publish
    }

    /// The next message, acknowledged, is this one.
    #[track_caller]
    pub(crate) fn receive(&mut self, topic: &str, payload: &str) -> Publish {
        let publish = self.accept();
        assert_eq!(
            (publish.topic.as_str(), publish.text().as_str()),
            (topic, payload),
            "{publish:?}"
        );
        publish
    }

    #[track_caller]
    pub(crate) fn ping(&mut self) {
        self.send(&Packet::PingReq);
        self.find("PINGRESP", |packet| (*packet == Packet::PingResp).then_some(()));
    }

    // Ends

    /// DISCONNECT; the broker has handled it when this returns.
    #[track_caller]
    pub(crate) fn disconnect(self) {
        self.disconnect_with(&Packet::disconnect());
    }

    #[track_caller]
    pub(crate) fn disconnect_with(mut self, packet: &Packet) {
        self.send(packet);
        self.end();
    }

    /// The connection breaks; the broker has seen it when this returns.
    #[track_caller]
    pub(crate) fn vanish(mut self) {
        self.end();
    }

    #[track_caller]
    fn end(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.read(deadline) {
                Event::Packet(_) => {}
                Event::Closed => return,
                Event::Silence => panic!("the broker keeps its side of a closed connection open"),
            }
        }
    }
}
