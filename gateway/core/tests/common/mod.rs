//! A gateway with one link, driven by hand in virtual time.

#![allow(dead_code)] // Each test binary uses its own share.
#![allow(clippy::unwrap_used, unreachable_pub)]

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use gateway_core::Gateway;
use gateway_core::config::GatewayConfig;
use gateway_core::io::{
    BrokerEvent, BrokerRequest, ConnId, Destination, FilterId, LinkEvent, LinkProfile, Notice, Output,
    RadioFacts, StoreChange, StoreEvent, StoreKey, StoreRequest, Token, TxTicket,
};
use gateway_core::peer::{LinkAddr, LinkId, LocalEnd, Route};
use gateway_core::time::Instant;
use sn_codec::{
    Connack, Connect, Disconnect, Encapsulation, MsgId, Packet, Pingreq, Puback, Publish, PublishQoS, QoS,
    Regack, Register, ReturnCode, Subscribe, TopicFilter, TopicId, TopicRef, WillMsg, WillTopic,
};

pub const LINK: LinkId = LinkId(0);
pub const CONN: ConnId = ConnId(0);

/// A client by its port.
pub fn route(port: u16) -> Route {
    Route {
        addr: LinkAddr::Udp(([10, 0, 0, 1], port).into()),
        local: LocalEnd::default(),
    }
}

/// The gateway under test and what it said so far.
pub struct Bench {
    pub gateway: Gateway,
    pub now: Instant,
    /// Datagrams sent, with their receiver's port; 0 for broadcasts.
    pub sent: Vec<(u16, Vec<u8>)>,
    pub requests: Vec<BrokerRequest>,
    pub stores: Vec<StoreRequest>,
    /// Of the datagrams sent, in order.
    pub tickets: Vec<TxTicket>,
    pub notices: Vec<Notice>,
    /// What was to be stored and is not durable yet.
    pub writes: Vec<StoreRequest>,
    /// What is durable.
    pub stored: BTreeMap<StoreKey, Bytes>,
    /// Keys that a test wrote by itself, in the order of their last writing; all others were written before them.
    pub written_last: Vec<StoreKey>,
}

impl Bench {
    pub fn new(config: GatewayConfig) -> Bench {
        Bench::with_link(config, LinkProfile::default())
    }

    pub fn with_link(config: GatewayConfig, profile: LinkProfile) -> Bench {
        let now = Instant::from_micros(1_000_000);
        let mut bench = Bench {
            gateway: Gateway::new(config, 7, now),
            now,
            sent: vec![],
            requests: vec![],
            stores: vec![],
            tickets: vec![],
            notices: vec![],
            writes: vec![],
            stored: BTreeMap::new(),
            written_last: vec![],
        };
        bench.link_up(profile);
        bench.requests.clear();
        bench.notices.clear();
        bench
    }

    fn link_up(&mut self, profile: LinkProfile) {
        self.gateway.handle_link(self.now, LINK, LinkEvent::Up(profile));
        self.drain();
    }

    /// The process ends, and another begins with what was durable. Its clock goes on where this one's was.
    pub fn restart(self, config: GatewayConfig) -> Bench {
        let mut bench = Bench {
            gateway: Gateway::new(config, 8, self.now),
            sent: vec![],
            requests: vec![],
            notices: vec![],
            writes: vec![],
            ..self
        };
        let unix_ms = 1_795_000_000_000 + bench.now.as_micros() / 1000;
        let mut values: Vec<_> = bench.stored.clone().into_iter().collect();
        values.sort_by_key(|(key, _)| bench.written_last.iter().position(|last| last == key));
        bench.gateway.restore(bench.now, unix_ms, values);
        bench.link_up(LinkProfile::default());
        bench
    }

    /// Everything that was to be stored is durable, and what follows from that.
    pub fn commit(&mut self) {
        while !self.writes.is_empty() {
            self.commit_one();
        }
    }

    /// What was to be stored so far is durable, and what follows is under way.
    pub fn commit_one(&mut self) {
        for request in core::mem::take(&mut self.writes) {
            let StoreRequest::Write { changes, ticket } = request else {
                continue;
            };
            for change in changes {
                match change {
                    StoreChange::Put(key, value) => self.stored.insert(key, value),
                    StoreChange::Delete(key) => self.stored.remove(&key),
                };
            }
            if let Some(ticket) = ticket {
                self.gateway.handle_store(self.now, StoreEvent::Durable(ticket));
            }
        }
        self.drain();
    }

    pub fn link(&mut self, event: LinkEvent) {
        self.gateway.handle_link(self.now, LINK, event);
        self.drain();
    }

    /// With the broker inside connected: it loses everything with the process.
    pub fn embedded(config: GatewayConfig) -> Bench {
        let mut bench = Bench::new(config);
        bench.broker(BrokerEvent::Up {
            conn: CONN,
            session_present: false,
            window: 20,
            forgets: true,
        });
        bench.broker(BrokerEvent::Credit {
            conn: CONN,
            requests: 1000,
        });
        bench
    }

    /// With the broker connected.
    pub fn up(config: GatewayConfig) -> Bench {
        let mut bench = Bench::new(config);
        bench.broker_up(false);
        bench
    }

    pub fn broker_up(&mut self, session_present: bool) {
        self.broker(BrokerEvent::Up {
            conn: CONN,
            session_present,
            window: 20,
            forgets: false,
        });
        self.broker(BrokerEvent::Credit {
            conn: CONN,
            requests: 1000,
        });
    }

    pub fn broker_down(&mut self) {
        self.broker(BrokerEvent::Down {
            conn: CONN,
            reason: "test".into(),
        });
    }

    pub fn broker(&mut self, event: BrokerEvent) {
        self.gateway.handle_broker(self.now, event);
        self.drain();
    }

    pub fn packet(&mut self, port: u16, packet: Packet<'_>) {
        let mut buf = Vec::new();
        packet.encode(&mut buf);
        self.raw(port, &buf);
    }

    pub fn raw(&mut self, port: u16, datagram: &[u8]) {
        self.hand_in(LINK, &route(port), datagram);
        self.drain();
    }

    /// A datagram of which no more is known than where it came from; nothing is taken from the gateway.
    pub fn hand_in(&mut self, link: LinkId, from: &Route, datagram: &[u8]) {
        self.gateway
            .handle_datagram(self.now, link, from, RadioFacts::default(), datagram);
    }

    /// Lets time pass, with every timer at its moment.
    pub fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.gateway.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.gateway.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    pub fn drain(&mut self) {
        let mut buf = Vec::new();
        while let Some(output) = self.gateway.poll_output(self.now, &mut buf) {
            match output {
                Output::Transmit { to, len, ticket, .. } => {
                    self.tickets.push(ticket);
                    let port = match to {
                        Destination::Peer(Route {
                            addr: LinkAddr::Udp(addr),
                            ..
                        }) => addr.port(),
                        _ => 0,
                    };
                    let datagram = buf.split_off(buf.len() - len);
                    let (_, message) =
                        Encapsulation::split(&datagram).expect("the gateway sends what decodes");
                    Packet::decode(message).expect("the gateway sends what decodes");
                    self.sent.push((port, datagram));
                }
                Output::Broker(request) => self.requests.push(request),
                Output::Store(request @ StoreRequest::Write { .. }) => self.writes.push(request),
                Output::Store(request) => self.stores.push(request),
                Output::Notice(notice) => self.notices.push(notice),
            }
        }
    }

    /// What was sent to a client since the last look.
    pub fn take(&mut self, port: u16) -> Vec<Vec<u8>> {
        let (own, other) = self.sent.drain(..).partition(|(to, _)| *to == port);
        self.sent = other;
        let own: Vec<(u16, Vec<u8>)> = own;
        own.into_iter().map(|(_, datagram)| datagram).collect()
    }

    /// The client was sent exactly these packets since the last look.
    #[track_caller]
    pub fn expect(&mut self, port: u16, expected: &[Packet<'_>]) {
        let sent = self.take(port);
        let sent: Vec<Packet<'_>> = sent
            .iter()
            .map(|datagram| Packet::decode(datagram).unwrap())
            .collect();
        assert_eq!(sent, expected);
    }

    /// What was sent to the client since the last look, decoded; payloads are in `data`.
    #[track_caller]
    pub fn heard(&mut self, port: u16) -> Vec<Packet<'static>> {
        let datagrams = self.take(port);
        datagrams
            .into_iter()
            .map(|datagram| Packet::decode(datagram.leak()).unwrap())
            .collect()
    }

    /// The one PUBLISH that was sent to the client since the last look.
    #[track_caller]
    pub fn heard_publish(&mut self, port: u16) -> Publish<'static> {
        match self.heard(port)[..] {
            [Packet::Publish(publish)] => publish,
            ref other => panic!("{other:?}"),
        }
    }

    /// The client acknowledges a PUBLISH of QoS 1.
    pub fn puback(&mut self, port: u16, publish: Publish<'_>) {
        self.packet(
            port,
            puback(topic_id(publish.topic), publish.msg_id.0, ReturnCode::Accepted),
        );
    }

    /// DISCONNECT with a duration; the gateway answers.
    #[track_caller]
    pub fn sleep(&mut self, port: u16, seconds: u16) {
        let duration = Some(seconds);
        self.packet(port, Packet::Disconnect(Disconnect { duration }));
        self.expect(port, &[disconnect()]);
    }

    pub fn pingreq(&mut self, port: u16, client_id: Option<&str>) {
        self.packet(port, Packet::Pingreq(Pingreq { client_id }));
    }

    /// The broker accepts what it was asked for since the last look.
    pub fn settle(&mut self) {
        for request in std::mem::take(&mut self.requests) {
            let (token, granted) = match request {
                BrokerRequest::Publish {
                    token: Some(token), ..
                } => (token, None),
                BrokerRequest::Subscribe { token, qos, .. } => (token, Some(qos)),
                BrokerRequest::Unsubscribe { token, .. } => (token, None),
                _ => continue,
            };
            self.broker(BrokerEvent::Settled {
                token,
                result: Ok(granted),
            });
        }
    }

    /// Connects with a will: topic `will/t`, message `gone`, QoS 1.
    #[track_caller]
    pub fn connect_with_will(&mut self, port: u16, id: &str, clean_session: bool, duration: u16) {
        let connect = Connect {
            will: true,
            clean_session,
            duration,
            client_id: id,
        };
        self.packet(port, Packet::Connect(connect));
        self.finish_will_handshake(port);
    }

    /// Answers the prompts for a will.
    #[track_caller]
    pub fn finish_will_handshake(&mut self, port: u16) {
        self.expect(port, &[Packet::WillTopicReq]);
        self.packet(port, will_topic("will/t"));
        self.expect(port, &[Packet::WillMsgReq]);
        self.packet(port, Packet::WillMsg(WillMsg { message: b"gone" }));
        self.expect(port, &[connack(ReturnCode::Accepted)]);
    }

    pub fn connect(&mut self, port: u16, id: &str) {
        self.connect_with(
            port,
            Connect {
                will: false,
                clean_session: true,
                duration: 60,
                client_id: id,
            },
        );
    }

    #[track_caller]
    pub fn connect_with(&mut self, port: u16, connect: Connect<'_>) {
        self.packet(port, Packet::Connect(connect));
        self.expect(port, &[connack(ReturnCode::Accepted)]);
    }

    /// Registers a name and returns its id.
    #[track_caller]
    pub fn register(&mut self, port: u16, topic_name: &str) -> TopicId {
        self.packet(
            port,
            Packet::Register(Register {
                topic_id: TopicId::NONE,
                msg_id: MsgId(1),
                topic_name,
            }),
        );
        self.commit();
        let sent = self.take(port);
        match Packet::decode(&sent[0]).unwrap() {
            Packet::Regack(Regack {
                topic_id,
                return_code: ReturnCode::Accepted,
                ..
            }) => topic_id,
            other => panic!("{other:?}"),
        }
    }

    /// Subscribes by name; the broker accepts. Returns what the SUBACK carried and the filter's id.
    #[track_caller]
    pub fn subscribe(&mut self, port: u16, filter: &str, qos: QoS) -> (TopicId, FilterId) {
        self.requests.clear();
        self.packet(port, subscribe(MsgId(9), filter, qos));
        self.commit();
        let (token, id) = self.subscribe_request();
        self.broker(BrokerEvent::Settled {
            token,
            result: Ok(Some(qos)),
        });
        self.commit();
        let sent = self.take(port);
        match Packet::decode(&sent[0]).unwrap() {
            Packet::Suback(suback) if suback.return_code == ReturnCode::Accepted => (suback.topic_id, id),
            other => panic!("{other:?}"),
        }
    }

    /// The SUBSCRIBE that the broker was asked for last.
    #[track_caller]
    pub fn subscribe_request(&self) -> (Token, FilterId) {
        match self.requests.last() {
            Some(BrokerRequest::Subscribe { token, id, .. }) => (*token, *id),
            other => panic!("{other:?}"),
        }
    }

    /// The PUBLISHes that the broker was asked for since the last look: token, topic, payload.
    pub fn publishes(&mut self) -> Vec<(Option<Token>, String, Vec<u8>)> {
        self.requests
            .drain(..)
            .filter_map(|request| match request {
                BrokerRequest::Publish {
                    token,
                    topic,
                    payload,
                    ..
                } => Some((token, topic.to_string(), payload.to_vec())),
                _ => None,
            })
            .collect()
    }

    pub fn message(&mut self, filters: &[FilterId], topic: &str, qos: QoS, retain: bool, payload: &[u8]) {
        self.broker(BrokerEvent::Message {
            conn: CONN,
            delivery: None,
            filters: filters.into(),
            topic: Arc::from(topic),
            qos,
            retain,
            payload: Bytes::copy_from_slice(payload),
        });
    }
}

pub fn will_topic(topic: &str) -> Packet<'_> {
    Packet::WillTopic(Some(WillTopic {
        qos: QoS::AtLeastOnce,
        retain: false,
        topic,
    }))
}

pub fn connect(id: &str, clean_session: bool, duration: u16) -> Connect<'_> {
    Connect {
        will: false,
        clean_session,
        duration,
        client_id: id,
    }
}

pub fn puback(topic_id: TopicId, msg_id: u16, return_code: ReturnCode) -> Packet<'static> {
    Packet::Puback(Puback {
        topic_id,
        msg_id: MsgId(msg_id),
        return_code,
    })
}

/// The topic field as a number.
pub fn topic_id(topic: TopicRef) -> TopicId {
    match topic {
        TopicRef::Normal(id) | TopicRef::Predefined(id) => id,
        TopicRef::Short(short) => TopicId(u16::from_be_bytes(short.0)),
    }
}

pub fn connack(return_code: ReturnCode) -> Packet<'static> {
    Packet::Connack(Connack { return_code })
}

pub fn disconnect() -> Packet<'static> {
    Packet::Disconnect(Disconnect { duration: None })
}

pub fn subscribe(msg_id: MsgId, filter: &str, qos: QoS) -> Packet<'_> {
    Packet::Subscribe(Subscribe {
        dup: false,
        qos,
        msg_id,
        topic: TopicFilter::Name(filter),
    })
}

pub fn publish(topic: TopicRef, qos: QoS, msg_id: u16, data: &[u8]) -> Packet<'_> {
    let qos = PublishQoS::Level(qos);
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic,
        msg_id: MsgId(msg_id),
        data,
    })
}

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
