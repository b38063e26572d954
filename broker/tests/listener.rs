//! The embedded broker over real sockets: what it does with the addresses, its limits, its end.
//!
//! What a connection does with its octets is tested beside it, over pipes and on paused time.

#![allow(clippy::unwrap_used)] // The helpers are part of the tests.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::{Embedded, EmbeddedConfig, EmbeddedLimits, RequestSender};
use bytes::Bytes;
use gateway_core::io::{BrokerEvent, BrokerRequest, ConnId, ConnectOptions, FilterId, Input, Token};
use sn_codec::QoS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::timeout;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

const PINGREQ: &[u8] = b"\xc0\0";
const PINGRESP: &[u8] = b"\xd0\0";

#[tokio::test]
async fn an_address_in_use_is_named_and_can_be_told() {
    let taken = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let config = EmbeddedConfig {
        bind: vec![(Ipv4Addr::LOCALHOST, 0).into(), address],
        ..EmbeddedConfig::default()
    };
    let error = Embedded::open(&config).unwrap_err();
    assert_eq!(error.address, address);
    assert_eq!(error.error.kind(), ErrorKind::AddrInUse);
    let text = error.to_string();
    assert!(
        text.contains(&address.to_string()) && text.contains("in use"),
        "{text}"
    );
}

#[tokio::test]
async fn it_listens_on_all_its_addresses() {
    let config = EmbeddedConfig {
        bind: vec![(Ipv4Addr::LOCALHOST, 0).into(), (Ipv4Addr::LOCALHOST, 0).into()],
        ..EmbeddedConfig::default()
    };
    let broker = Embedded::open(&config).unwrap();
    let addresses = broker.local_addrs().to_vec();
    assert!(addresses.iter().all(|address| address.port() != 0));
    let (inputs, _outcomes) = channel(16);
    let _requests = broker.spawn(inputs, None, Vec::new());
    for address in addresses {
        let mut client = Client::to(address).await;
        client.send(&connect_v5("a")).await;
        client.expect_connack_v5(0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn clients_that_are_held_back_wait_until_they_are_let_in() {
    let (addresses, mut broker) = held_back();
    let mut clients = Vec::new();
    for (address, id) in addresses.into_iter().zip(["a", "c"]) {
        let mut client = Client::to(address).await;
        client.send(&connect_v5(id)).await;
        clients.push(client);
    }
    let options = ConnectOptions::default();
    let conn = ConnId(1);
    broker.requests.send(vec![BrokerRequest::Open { conn, options }]);
    broker
        .event(|event| matches!(event, BrokerEvent::Up { .. }))
        .await;
    for client in &mut clients {
        client.hears_nothing_for(Duration::from_secs(2)).await;
    }

    let start = tokio::time::Instant::now();
    broker.requests.let_clients_in();
    for mut client in clients {
        client.expect_connack_v5(0).await;
    }
    assert!(start.elapsed() < Duration::from_secs(1));
    broker.requests.let_clients_in();
    broker.connect("b").await;
}

#[tokio::test(start_paused = true)]
async fn clients_are_not_held_back_for_ever() {
    let start = tokio::time::Instant::now();
    let (addresses, _broker) = held_back();
    let mut client = Client::to(addresses[0]).await;
    client.send(&connect_v5("a")).await;
    client.hears_nothing_for(Duration::from_millis(4900)).await;
    client.expect_connack_v5(0).await;
    assert!(start.elapsed() < Duration::from_millis(5100));
}

#[tokio::test(start_paused = true)]
async fn clients_that_are_held_back_lose_their_connection_at_the_end() {
    let (addresses, broker) = held_back();
    let mut client = Client::to(addresses[0]).await;
    client.send(&connect_v5("a")).await;
    broker.requests.close().await;
    assert_eq!(client.rest().await, b"");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_acknowledged_between_the_gateway_s_goodbye_and_the_end() {
    let mut broker = Broker::start(EmbeddedLimits::default());
    let conn = ConnId(0);
    let open = || BrokerRequest::Open {
        conn,
        options: ConnectOptions::default(),
    };
    broker.requests.send(vec![open()]);
    broker
        .event(|event| matches!(event, BrokerEvent::Up { .. }))
        .await;
    let mut client = broker.connect("a").await;
    broker.requests.send(vec![BrokerRequest::Close { conn }]);
    // QoS 1, packet id 1, without properties.
    client.send(b"\x32\x06\0\x01t\0\x01\0").await;
    client.hears_nothing_for(Duration::from_secs(2)).await;

    // It began anew: nobody there subscribed to that.
    broker.requests.send(vec![open()]);
    client.expect(b"\x40\x03\0\x01\x10").await;
}

#[tokio::test]
async fn a_stopped_broker_s_address_can_be_had_at_once() {
    let broker = Broker::start(EmbeddedLimits::default());
    let mut client = broker.connect("a").await;
    let address = broker.address;
    broker.requests.close().await;
    assert_eq!(client.rest().await, b"\xe0\x01\x8b");
    let config = EmbeddedConfig {
        bind: vec![address],
        ..EmbeddedConfig::default()
    };
    Embedded::open(&config).unwrap();
}

#[tokio::test]
async fn connections_beyond_the_limit_are_refused_in_their_version() {
    let broker = Broker::start(EmbeddedLimits {
        connections_max: 2,
        ..EmbeddedLimits::default()
    });
    let mut first = broker.connect("a").await;
    let _second = broker.connect("b").await;
    let mut client = broker.accept().await;
    client.send(&connect_v5("c")).await;
    assert_eq!(client.rest().await, b"\x20\x03\0\x97\0");
    let mut client = broker.accept().await;
    client.send(b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01c").await;
    assert_eq!(client.rest().await, b"\x20\x02\0\x03");

    // A place is free as soon as one has gone.
    first.send(b"\xe0\0").await;
    assert_eq!(first.rest().await, b"");
    drop(first);
    broker.eventually_connects("c").await;
}

#[tokio::test]
async fn connections_far_beyond_the_limit_are_dropped_at_once() {
    let broker = Broker::start(EmbeddedLimits {
        connections_max: 1,
        ..EmbeddedLimits::default()
    });
    let mut first = broker.connect("a").await;
    let mut waiting = Vec::new();
    for _ in 0..32 {
        waiting.push(broker.accept().await);
    }
    let mut client = broker.accept().await;
    assert_eq!(client.rest().await, b"");
    for mut client in waiting {
        client.send(&connect_v5("b")).await;
        assert_eq!(client.rest().await, b"\x20\x03\0\x97\0");
    }
    first.send(PINGREQ).await;
    first.expect(PINGRESP).await;
}

#[tokio::test]
async fn a_client_id_that_comes_again_takes_over() {
    let broker = Broker::start(EmbeddedLimits::default());
    let mut old = broker.connect("a").await;
    let mut new = broker.connect("a").await;
    assert_eq!(old.rest().await, b"\xe0\x01\x8e");
    // The end of the old connection is not that of the new one's session.
    drop(old);
    new.send(b"\x82\x07\0\x01\0\0\x01t\0").await;
    new.expect(b"\x90\x04\0\x01\0\0").await;
    new.send(b"\x30\x05\0\x01t\0x").await;
    new.expect(b"\x30\x05\0\x01t\0x").await;
}

#[tokio::test]
async fn the_end_comes_to_every_connection_within_a_second() {
    let broker = Broker::start(EmbeddedLimits::default());
    let mut v5 = broker.connect("a").await;
    let mut v3 = broker.accept().await;
    v3.send(b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01c").await;
    v3.expect(b"\x20\x02\0\0").await;
    let mut without_connect = broker.accept().await;
    let mut amid_packet = broker.connect("b").await;
    amid_packet.send(b"\x30\x7f\0").await;
    let mut deaf = broker.connect("d").await;
    deaf.send(b"\x82\x07\0\x01\0\0\x01t\0").await;
    deaf.expect(b"\x90\x04\0\x01\0\0").await;
    // More than sockets hold.
    let mut publisher = broker.connect("p").await;
    let mut message = b"\x30\x84\x80\x0c\0\x01t\0".to_vec();
    message.resize(8 + 196_608, b'x');
    for _ in 0..100 {
        publisher.send(&message).await;
    }
    publisher.send(PINGREQ).await;
    publisher.expect(PINGRESP).await;

    let start = Instant::now();
    broker.requests.close().await;
    assert!(
        start.elapsed() < Duration::from_millis(1200),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(v5.rest().await, b"\xe0\x01\x8b");
    assert_eq!(v3.rest().await, b"");
    assert_eq!(without_connect.rest().await, b"");
    assert_eq!(amid_packet.rest().await, b"\xe0\x01\x8b");
    // Messages, up to wherever it was cut off.
    assert_eq!(deaf.rest().await[0], 0x30);
    let refused = TcpStream::connect(broker.address).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn dropping_the_gateway_s_side_ends_it_too() {
    let broker = Broker::start(EmbeddedLimits::default());
    let mut client = broker.connect("a").await;
    drop(broker.requests);
    assert_eq!(client.rest().await, b"\xe0\x01\x8b");
}

#[tokio::test]
async fn the_gateway_and_an_mqtt_client_reach_each_other() {
    let mut broker = Broker::start(EmbeddedLimits::default());
    let mut client = broker.connect("a").await;
    client.send(b"\x82\x0a\0\x01\0\0\x04up/#\x01").await;
    client.expect(b"\x90\x04\0\x01\0\x01").await;

    const CONN: ConnId = ConnId(7);
    let options = ConnectOptions {
        client_id: "gateway".into(),
        clean_start: true,
        will: None,
        ..ConnectOptions::default()
    };
    broker
        .requests
        .send(vec![BrokerRequest::Open { conn: CONN, options }]);
    broker
        .event(|event| matches!(event, BrokerEvent::Up { conn: CONN, .. }))
        .await;
    broker.requests.send(vec![
        BrokerRequest::Subscribe {
            conn: CONN,
            token: Token(1),
            filter: "down/#".into(),
            id: FilterId(5),
            qos: QoS::AtLeastOnce,
        },
        BrokerRequest::Publish {
            conn: CONN,
            token: Some(Token(2)),
            topic: "up/x".into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            payload: Bytes::from_static(b"21.5"),
            stored: None,
        },
    ]);
    client.expect(b"\x32\x0d\0\x04up/x\0\x01\x0021.5").await;
    client.send(b"\x40\x02\0\x01").await;
    broker
        .event(|event| {
            matches!(
                event,
                BrokerEvent::Settled {
                    token: Token(2),
                    result: Ok(None)
                }
            )
        })
        .await;

    client.send(b"\x32\x0d\0\x06down/x\0\x09\0on").await;
    let delivery = broker
        .event(|event| matches!(event, BrokerEvent::Message { conn: CONN, .. }))
        .await;
    let BrokerEvent::Message {
        delivery: Some(delivery),
        filters,
        topic,
        payload,
        ..
    } = delivery
    else {
        panic!("{delivery:?}");
    };
    assert_eq!(
        (&*filters, &*topic, &payload[..]),
        (&[FilterId(5)][..], "down/x", &b"on"[..])
    );
    broker
        .requests
        .send(vec![BrokerRequest::Ack { conn: CONN, delivery }]);
    client.expect(b"\x40\x02\0\x09").await;
}

#[tokio::test]
async fn a_gateway_that_does_not_listen_holds_up_no_client() {
    let mut broker = Broker::start(EmbeddedLimits::default());
    let options = ConnectOptions {
        client_id: "gateway".into(),
        clean_start: true,
        will: None,
        ..ConnectOptions::default()
    };
    let conn = ConnId(1);
    let filter = Arc::from("#");
    broker.requests.send(vec![
        BrokerRequest::Open { conn, options },
        BrokerRequest::Subscribe {
            conn,
            token: Token(1),
            filter,
            id: FilterId(1),
            qos: QoS::AtMostOnce,
        },
    ]);
    broker
        .event(|event| matches!(event, BrokerEvent::Settled { .. }))
        .await;
    let mut client = broker.connect("a").await;
    client.send(b"\x82\x07\0\x01\0\0\x01t\0").await;
    client.expect(b"\x90\x04\0\x01\0\0").await;
    for _ in 0..5000 {
        client.send(b"\x30\x05\0\x01t\0x").await;
        client.expect(b"\x30\x05\0\x01t\0x").await;
    }
}

/// A broker with two addresses that lets nobody in yet.
fn held_back() -> (Vec<SocketAddr>, Broker) {
    let config = EmbeddedConfig {
        bind: vec![(Ipv4Addr::LOCALHOST, 0).into(), (Ipv4Addr::LOCALHOST, 0).into()],
        ..EmbeddedConfig::default()
    };
    let broker = Embedded::open(&config).unwrap().hold_clients_back();
    let addresses = broker.local_addrs().to_vec();
    let (sender, inputs) = channel(4);
    let broker = Broker {
        address: addresses[0],
        requests: broker.spawn(sender, None, Vec::new()),
        inputs,
    };
    (addresses, broker)
}

struct Broker {
    address: SocketAddr,
    requests: RequestSender,
    inputs: Receiver<Input>,
}

impl Broker {
    fn start(limits: EmbeddedLimits) -> Self {
        let config = EmbeddedConfig {
            bind: vec![(Ipv4Addr::LOCALHOST, 0).into()],
            limits,
        };
        let broker = Embedded::open(&config).unwrap();
        let address = broker.local_addrs()[0];
        let (sender, inputs) = channel(4);
        Broker {
            address,
            requests: broker.spawn(sender, None, Vec::new()),
            inputs,
        }
    }

    async fn accept(&self) -> Client {
        Client::to(self.address).await
    }

    async fn connect(&self, client_id: &str) -> Client {
        let mut client = self.accept().await;
        client.send(&connect_v5(client_id)).await;
        client.expect_connack_v5(0).await;
        client
    }

    async fn eventually_connects(&self, client_id: &str) {
        let attempts = async {
            loop {
                let mut client = self.accept().await;
                client.send(&connect_v5(client_id)).await;
                if client.connack_v5().await == 0 {
                    return;
                }
            }
        };
        timeout(PATIENCE, attempts).await.unwrap();
    }

    /// Waits for an event, over others.
    async fn event(&mut self, wanted: impl Fn(&BrokerEvent) -> bool) -> BrokerEvent {
        let found = async {
            loop {
                if let Input::Broker(events) = self.inputs.recv().await.unwrap()
                    && let Some(event) = events.into_iter().find(|event| wanted(event))
                {
                    return event;
                }
            }
        };
        timeout(PATIENCE, found).await.unwrap()
    }
}

struct Client {
    stream: TcpStream,
}

impl Client {
    async fn to(address: SocketAddr) -> Self {
        Client {
            stream: TcpStream::connect(address).await.unwrap(),
        }
    }

    async fn send(&mut self, octets: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(octets))
            .await
            .unwrap()
            .unwrap();
    }

    async fn expect(&mut self, octets: &[u8]) {
        let mut found = vec![0; octets.len()];
        timeout(PATIENCE, self.stream.read_exact(&mut found))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(found, octets);
    }

    async fn hears_nothing_for(&mut self, duration: Duration) {
        let heard = timeout(duration, self.stream.read_u8()).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    async fn expect_connack_v5(&mut self, reason: u8) {
        assert_eq!(self.connack_v5().await, reason);
    }

    /// Its reason.
    async fn connack_v5(&mut self) -> u8 {
        let mut head = [0; 4];
        timeout(PATIENCE, self.stream.read_exact(&mut head))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(head[0], 0x20);
        let mut properties = vec![0; usize::from(head[1]) - 2];
        timeout(PATIENCE, self.stream.read_exact(&mut properties))
            .await
            .unwrap()
            .unwrap();
        head[3]
    }

    /// Everything until the connection is closed, or reset after it was cut off.
    async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match timeout(PATIENCE, self.stream.read_to_end(&mut rest))
            .await
            .unwrap()
        {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("{error}"),
        }
        rest
    }
}

/// With clean start, without keep-alive.
fn connect_v5(client_id: &str) -> Vec<u8> {
    let mut connect = vec![0x10, 13 + client_id.len() as u8];
    connect.extend_from_slice(b"\0\x04MQTT\x05\x02\0\0\0\0");
    connect.push(client_id.len() as u8);
    connect.extend_from_slice(client_id.as_bytes());
    connect
}

#[test]
fn ipv4_and_ipv6_are_listened_on_side_by_side() {
    let open = |bind| {
        Embedded::open(&EmbeddedConfig {
            bind,
            limits: EmbeddedLimits::default(),
        })
    };
    // A port that is free now; another process may be quicker, so more than one try.
    let opened = (0..5).find_map(|_| {
        let free = open(vec![SocketAddr::from(([0, 0, 0, 0], 0))]).unwrap();
        let port = free.local_addrs()[0].port();
        drop(free);
        open(vec![
            SocketAddr::from(([0, 0, 0, 0], port)),
            SocketAddr::from(([0; 8], port)),
        ])
        .ok()
    });
    assert_eq!(opened.unwrap().local_addrs().len(), 2);
}
