//! A scripted MQTT-SN client: a UDP socket, the codec, and opinions about what must arrive next.

use std::{
    cell::Cell,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use sn_codec::{
    Connack, Connect, Disconnect, MsgId, Packet, Pingreq, Puback, Publish, PublishQoS, QoS, Regack, Register,
    ReturnCode, Suback, Subscribe, TopicFilter, TopicId, TopicRef,
};

use crate::capture::{Capture, Sent};

/// How long to wait for what must come. Long, because a busy machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long to listen for what must not come.
pub const SILENCE: Duration = Duration::from_millis(300);

/// An MQTT-SN client that does exactly what the test says: no retransmissions, no keep-alive.
pub struct Client {
    id: String,
    socket: UdpSocket,
    gateway: SocketAddr,
    capture: Capture,
    last_msg_id: Cell<u16>,
}

/// One datagram from the gateway.
#[derive(Clone, PartialEq, Eq)]
pub struct Datagram(pub Vec<u8>);

impl Datagram {
    /// What it says.
    ///
    /// # Panics
    /// If it is no MQTT-SN message: the gateway never sends such a thing.
    #[track_caller]
    pub fn packet(&self) -> Packet<'_> {
        Packet::decode(&self.0).unwrap_or_else(|error| panic!("the gateway sent {:02x?}: {error}", self.0))
    }
}

impl std::fmt::Debug for Datagram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match Packet::decode(&self.0) {
            Ok(packet) => packet.fmt(f),
            Err(_) => write!(f, "{:02x?}", self.0),
        }
    }
}

impl Client {
    /// A client on a socket of its own that talks to `gateway`; nothing is sent yet.
    ///
    /// # Panics
    /// If no socket can be opened.
    pub fn new(id: &str, gateway: SocketAddr, capture: &Capture) -> Client {
        let local: SocketAddr = match gateway.ip() {
            IpAddr::V4(_) => (Ipv4Addr::LOCALHOST, 0).into(),
            IpAddr::V6(_) => (Ipv6Addr::LOCALHOST, 0).into(),
        };
        let socket = UdpSocket::bind(local).expect("a free port");
        Client {
            id: id.to_owned(),
            socket,
            gateway,
            capture: capture.clone(),
            last_msg_id: Cell::new(0),
        }
    }

    /// Gets another port, as from a NAT that forgot the last one, and does not know.
    ///
    /// # Panics
    /// If no socket can be opened.
    pub fn rebind(&mut self) {
        let ip = self.address().ip();
        self.socket = UdpSocket::bind((ip, 0)).expect("a free port");
    }

    /// Talks to the gateway at another address from now on: directly, or through another forwarder.
    pub fn move_to(&mut self, gateway: SocketAddr) {
        self.gateway = gateway;
    }

    /// Its client id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its own address.
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("bound")
    }

    /// A message id not used before.
    pub fn next_msg_id(&self) -> MsgId {
        self.last_msg_id.set(self.last_msg_id.get() + 1);
        MsgId(self.last_msg_id.get())
    }

    /// Sends a message.
    #[track_caller]
    pub fn send(&self, packet: Packet<'_>) {
        let mut datagram = Vec::with_capacity(packet.encoded_len());
        packet.encode(&mut datagram);
        self.send_bytes(&datagram);
    }

    /// Sends whatever it is given.
    ///
    /// # Panics
    /// If the system refuses to send.
    #[track_caller]
    pub fn send_bytes(&self, datagram: &[u8]) {
        self.capture
            .note(Sent::ToGateway, self.address(), self.gateway, datagram);
        self.socket
            .send_to(datagram, self.gateway)
            .expect("the datagram can be sent");
    }

    /// The next datagram, if one comes in time.
    ///
    /// # Panics
    /// If it comes from another address than this client writes to: clients drop such datagrams.
    #[track_caller]
    pub fn receive_within(&self, patience: Duration) -> Option<Datagram> {
        let mut buf = [0; 65_536];
        self.socket
            .set_read_timeout(Some(patience))
            .expect("a timeout above zero");
        match self.socket.recv_from(&mut buf) {
            Ok((len, from)) => {
                assert_eq!(
                    from, self.gateway,
                    "{}: the answer comes from a stranger",
                    self.id
                );
                self.capture
                    .note(Sent::ByGateway, from, self.address(), &buf[..len]);
                Some(Datagram(buf[..len].to_vec()))
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(error) => panic!("{}: cannot receive: {error}", self.id),
        }
    }

    /// The next datagram.
    ///
    /// # Panics
    /// If none comes.
    #[track_caller]
    pub fn receive(&self) -> Datagram {
        self.receive_within(PATIENCE)
            .unwrap_or_else(|| panic!("{}: nothing came within {PATIENCE:?}", self.id))
    }

    /// Checks that the next datagram is this one.
    #[track_caller]
    pub fn expect(&self, expected: Packet<'_>) {
        let datagram = self.receive();
        assert_eq!(datagram.packet(), expected, "{}", self.id);
    }

    /// Checks that no datagram comes for a while.
    #[track_caller]
    pub fn expect_silence(&self) {
        if let Some(datagram) = self.receive_within(SILENCE) {
            panic!("{}: expected silence, got {datagram:?}", self.id);
        }
    }

    /// A `CONNECT` of this client, without will.
    pub fn connect_packet(&self, clean_session: bool, keep_alive: u16) -> Packet<'_> {
        Packet::Connect(Connect {
            will: false,
            clean_session,
            duration: keep_alive,
            client_id: &self.id,
        })
    }

    /// Connects with a clean session and a minute of keep-alive.
    #[track_caller]
    pub fn connect(&self) {
        self.send(self.connect_packet(true, 60));
        self.expect(Packet::Connack(Connack {
            return_code: ReturnCode::Accepted,
        }));
    }

    /// Connects with a session that is kept and a minute of keep-alive.
    #[track_caller]
    pub fn connect_again(&self) {
        self.send(self.connect_packet(false, 60));
        self.expect(Packet::Connack(Connack {
            return_code: ReturnCode::Accepted,
        }));
    }

    /// Falls asleep for so many seconds.
    #[track_caller]
    pub fn sleep(&self, seconds: u16) {
        self.send(Packet::Disconnect(Disconnect {
            duration: Some(seconds),
        }));
        self.expect(Packet::Disconnect(Disconnect { duration: None }));
    }

    /// Says that it is awake; what follows is for the test to receive.
    #[track_caller]
    pub fn wake(&self) {
        self.send(Packet::Pingreq(Pingreq {
            client_id: Some(&self.id),
        }));
    }

    /// Receives and acknowledges messages until `PINGRESP`: their payloads in order, a repetition once.
    #[track_caller]
    pub fn receive_until_pingresp(&self) -> Vec<Vec<u8>> {
        let mut payloads = vec![];
        let mut last = None;
        loop {
            let datagram = self.receive();
            match datagram.packet() {
                Packet::Register(Register { topic_id, msg_id, .. }) => {
                    let return_code = ReturnCode::Accepted;
                    self.send(Packet::Regack(Regack {
                        topic_id,
                        msg_id,
                        return_code,
                    }));
                }
                Packet::Publish(Publish {
                    qos, msg_id, data, ..
                }) => {
                    match qos {
                        PublishQoS::Level(QoS::AtLeastOnce) => self.acknowledge(&datagram),
                        PublishQoS::Level(QoS::ExactlyOnce) => self.send(Packet::Pubrec(msg_id)),
                        PublishQoS::Level(QoS::AtMostOnce) | PublishQoS::MinusOne => {}
                    }
                    if msg_id == MsgId(0) || last != Some(msg_id) {
                        payloads.push(data.to_vec());
                    }
                    last = Some(msg_id);
                }
                Packet::Pubrel(msg_id) => {
                    self.send(Packet::Pubcomp(msg_id));
                    // The id is free for the next message.
                    last = None;
                }
                Packet::Pingresp => return payloads,
                other => panic!("{}: {other:?} in a wake-up", self.id),
            }
        }
    }

    /// Registers a topic name and returns its id.
    #[track_caller]
    pub fn register(&self, topic_name: &str) -> TopicId {
        let msg_id = self.next_msg_id();
        self.send(Packet::Register(Register {
            topic_id: TopicId::NONE,
            msg_id,
            topic_name,
        }));
        let datagram = self.receive();
        let Packet::Regack(Regack {
            topic_id,
            msg_id: acknowledged,
            return_code,
        }) = datagram.packet()
        else {
            panic!("{}: expected REGACK, got {datagram:?}", self.id);
        };
        assert_eq!((acknowledged, return_code), (msg_id, ReturnCode::Accepted));
        assert!(!topic_id.is_reserved(), "a registered id is never {topic_id}");
        topic_id
    }

    /// Sends a `PUBLISH` and returns its message id: 0 for QoS 0 and −1.
    #[track_caller]
    pub fn publish(&self, topic: TopicRef, qos: PublishQoS, data: &[u8]) -> MsgId {
        let msg_id = match qos {
            PublishQoS::Level(QoS::AtLeastOnce | QoS::ExactlyOnce) => self.next_msg_id(),
            PublishQoS::Level(QoS::AtMostOnce) | PublishQoS::MinusOne => MsgId(0),
        };
        self.send(Packet::Publish(Publish {
            dup: false,
            qos,
            retain: false,
            topic,
            msg_id,
            data,
        }));
        msg_id
    }

    /// Publishes with QoS 1 and waits for the acknowledgement.
    #[track_caller]
    pub fn publish_acknowledged(&self, topic: TopicRef, data: &[u8]) {
        let msg_id = self.publish(topic, PublishQoS::Level(QoS::AtLeastOnce), data);
        self.expect_puback(topic, msg_id, ReturnCode::Accepted);
    }

    /// Checks that the next datagram is the `PUBACK` of such a publish.
    #[track_caller]
    pub fn expect_puback(&self, topic: TopicRef, msg_id: MsgId, return_code: ReturnCode) {
        let topic_id = match topic {
            TopicRef::Normal(id) | TopicRef::Predefined(id) => id,
            TopicRef::Short(name) => TopicId(u16::from_be_bytes(name.0)),
        };
        self.expect(Packet::Puback(Puback {
            topic_id,
            msg_id,
            return_code,
        }));
    }

    /// Subscribes, checks that the QoS asked for is granted, and returns the topic id of the `SUBACK`.
    #[track_caller]
    pub fn subscribe(&self, topic: TopicFilter<'_>, qos: QoS) -> TopicId {
        let msg_id = self.next_msg_id();
        self.send(Packet::Subscribe(Subscribe {
            dup: false,
            qos,
            msg_id,
            topic,
        }));
        let datagram = self.receive();
        let Packet::Suback(Suback {
            qos: granted,
            topic_id,
            msg_id: acknowledged,
            return_code,
        }) = datagram.packet()
        else {
            panic!("{}: expected SUBACK, got {datagram:?}", self.id);
        };
        assert_eq!(
            (granted, acknowledged, return_code),
            (qos, msg_id, ReturnCode::Accepted)
        );
        topic_id
    }

    /// The next datagram, which must be a `PUBLISH`; the gateway's `REGISTER`s before it are answered and checked.
    ///
    /// Returns the topic name it was registered under, if it was, and the message. QoS 1 and 2 are left to the
    /// caller to acknowledge.
    #[track_caller]
    pub fn receive_publish(&self) -> (Option<String>, Datagram) {
        let mut name = None;
        loop {
            let datagram = self.receive();
            match datagram.packet() {
                Packet::Register(Register {
                    topic_id,
                    msg_id,
                    topic_name,
                }) => {
                    name = Some(topic_name.to_owned());
                    let return_code = ReturnCode::Accepted;
                    self.send(Packet::Regack(Regack {
                        topic_id,
                        msg_id,
                        return_code,
                    }));
                }
                Packet::Publish(_) => return (name, datagram),
                other => panic!("{}: expected PUBLISH, got {other:?}", self.id),
            }
        }
    }

    /// Acknowledges a QoS 1 `PUBLISH` from the gateway.
    #[track_caller]
    pub fn acknowledge(&self, publish: &Datagram) {
        let Packet::Publish(Publish { topic, msg_id, .. }) = publish.packet() else {
            panic!("{publish:?} is no PUBLISH");
        };
        let topic_id = match topic {
            TopicRef::Normal(id) | TopicRef::Predefined(id) => id,
            TopicRef::Short(name) => TopicId(u16::from_be_bytes(name.0)),
        };
        self.send(Packet::Puback(Puback {
            topic_id,
            msg_id,
            return_code: ReturnCode::Accepted,
        }));
    }

    /// Pings and waits for the answer.
    #[track_caller]
    pub fn ping(&self) {
        self.send(Packet::Pingreq(Pingreq { client_id: None }));
        self.expect(Packet::Pingresp);
    }

    /// Disconnects and waits for the answer.
    #[track_caller]
    pub fn disconnect(&self) {
        self.send(Packet::Disconnect(Disconnect { duration: None }));
        self.expect(Packet::Disconnect(Disconnect { duration: None }));
    }

    /// How long until the next datagram, and what it is.
    #[track_caller]
    pub fn receive_timed(&self) -> (Duration, Datagram) {
        let start = Instant::now();
        let datagram = self.receive();
        (start.elapsed(), datagram)
    }
}
