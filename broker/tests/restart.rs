//! The embedded broker ends without a word and begins again with what its journal has.

#![allow(clippy::unwrap_used)] // The helpers are part of the tests.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use broker::{Embedded, EmbeddedConfig, EmbeddedLimits, Journal, RequestSender};
use bytes::Bytes;
use gateway_core::io::{
    BrokerEvent, BrokerRequest, ConnId, ConnectOptions, Input, StoreChange, StoreKey, Token,
};
use sn_codec::QoS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

const CONN: ConnId = ConnId(0);

/// MQTT 3.1.1 without clean session, client id `s`.
const CONNECT: &[u8] = b"\x10\x0d\0\x04MQTT\x04\0\0\0\0\x01s";
const SUBSCRIBE: &[u8] = b"\x82\x09\0\x01\0\x04up/#\x01";
const SUBACK: &[u8] = b"\x90\x03\0\x01\x01";

#[tokio::test]
async fn uplinks_wait_for_a_subscriber_over_a_restart() {
    let store = Store::default();
    let mut broker = Broker::start(&store, true).await;
    let mut subscriber = Client::to(broker.address).await;
    subscriber.send(CONNECT).await;
    subscriber.expect(b"\x20\x02\0\0").await;
    subscriber.send(SUBSCRIBE).await;
    subscriber.expect(SUBACK).await;

    broker.publish(1, b"a");
    subscriber.expect(b"\x32\x09\0\x04up/x\0\x01a").await;
    broker.expect(settled(1)).await;
    subscriber.send(b"\x40\x02\0\x01").await;
    broker.expect(BrokerEvent::Delivered { token: Token(1) }).await;
    // This one it gets and does not acknowledge.
    broker.publish(2, b"b");
    subscriber.expect(b"\x32\x09\0\x04up/x\0\x02b").await;
    broker.expect(settled(2)).await;
    drop(subscriber);
    assert_eq!(broker.kill().await, []);

    let mut broker = Broker::start(&store, true).await;
    // More than its queue holds, before it is back.
    let all = 3 * QUEUE as u64;
    (2..all).for_each(|token| broker.publish(token, b"b"));
    for token in 2..all {
        broker.expect(settled(token)).await;
    }
    let mut subscriber = Client::to(broker.address).await;
    subscriber.send(CONNECT).await;
    subscriber.expect(b"\x20\x02\x01\0").await;
    for token in 2..all {
        let id = (token - 1) as u8;
        subscriber
            .expect(&[b"\x32\x09\0\x04up/x\0", &[id, b'b'][..]].concat())
            .await;
        subscriber.send(&[0x40, 2, 0, id]).await;
        broker
            .expect(BrokerEvent::Delivered { token: Token(token) })
            .await;
    }

    // It begins anew and leaves for good.
    drop(subscriber);
    let mut subscriber = Client::to(broker.address).await;
    subscriber.send(b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01s").await;
    subscriber.expect(b"\x20\x02\0\0").await;
    broker.stop().await;
    assert_eq!(store.values(), []);
}

#[tokio::test]
async fn suback_waits_for_the_disk_and_others_do_not() {
    let store = Store::default();
    let mut broker = Broker::start(&store, false).await;
    let mut slow = Client::to(broker.address).await;
    slow.send(CONNECT).await;
    slow.expect(b"\x20\x02\0\0").await;
    slow.send(SUBSCRIBE).await;
    slow.send(b"\xc0\0").await;
    // The answer to what it said later comes first, and the subscription is there.
    slow.expect(b"\xd0\0").await;
    let mut clean = Client::to(broker.address).await;
    clean.send(b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01c").await;
    clean.expect(b"\x20\x02\0\0").await;
    clean.send(SUBSCRIBE).await;
    clean.expect(SUBACK).await;
    broker.publish(1, b"a");
    slow.expect(b"\x32\x09\0\x04up/x\0\x01a").await;
    broker.expect(settled(1)).await;
    assert_eq!(store.values(), []);
    store.sync();
    slow.expect(SUBACK).await;
    let values = store.values();
    assert!(values.len() == 1 && values[0].1.ends_with(b"up/#"), "{values:?}");
    broker.stop().await;
}

#[tokio::test]
async fn without_a_journal_nothing_survives_and_nothing_is_reported() {
    let store = Store::default();
    let mut broker = Broker::spawn(None, Vec::new()).await;
    broker.up(false).await;
    let mut subscriber = Client::to(broker.address).await;
    subscriber.send(CONNECT).await;
    subscriber.expect(b"\x20\x02\0\0").await;
    broker.publish(1, b"a");
    broker.expect(settled(1)).await;
    broker.publish(2, b"a");
    broker.expect(settled(2)).await;
    assert_eq!(broker.kill().await, []);
    assert_eq!(store.values(), []);
}

const QUEUE: usize = 10;

type Done = Box<dyn FnOnce() + Send>;

/// The gateway's store, in memory.
#[derive(Clone, Default)]
struct Store(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    synced: bool,
    values: BTreeMap<StoreKey, Bytes>,
    unsynced: Vec<(Vec<StoreChange>, Done)>,
}

impl Store {
    /// `synced`: everything is durable at once, not only from [`Store::sync`] on.
    fn journal(&self, synced: bool) -> Journal {
        self.0.lock().unwrap().synced = synced;
        let store = self.clone();
        Journal::new(move |changes, done| {
            let mut inner = store.0.lock().unwrap();
            inner.unsynced.push((changes, done));
            if inner.synced {
                drop(inner);
                store.sync();
            }
        })
    }

    fn sync(&self) {
        let mut inner = self.0.lock().unwrap();
        inner.synced = true;
        for (changes, done) in std::mem::take(&mut inner.unsynced) {
            for change in changes {
                match change {
                    StoreChange::Put(key, value) => inner.values.insert(key, value),
                    StoreChange::Delete(key) => inner.values.remove(&key),
                };
            }
            done();
        }
    }

    fn values(&self) -> Vec<(StoreKey, Bytes)> {
        let inner = self.0.lock().unwrap();
        inner
            .values
            .iter()
            .map(|(key, value)| (*key, value.clone()))
            .collect()
    }
}

fn settled(token: u64) -> BrokerEvent {
    BrokerEvent::Settled {
        token: Token(token),
        result: Ok(None),
    }
}

struct Broker {
    address: SocketAddr,
    /// Kills the thread that it runs on.
    end: oneshot::Sender<()>,
    requests: RequestSender,
    inputs: Receiver<Input>,
    events: Vec<BrokerEvent>,
}

impl Broker {
    /// With what the store has, and the gateway connected.
    async fn start(store: &Store, synced: bool) -> Self {
        let mut broker = Broker::spawn(Some(store.journal(synced)), store.values()).await;
        broker.up(true).await;
        broker
    }

    async fn spawn(journal: Option<Journal>, sessions: Vec<(StoreKey, Bytes)>) -> Self {
        let config = EmbeddedConfig {
            bind: vec![(Ipv4Addr::LOCALHOST, 0).into()],
            limits: EmbeddedLimits {
                queue_messages: QUEUE,
                ..EmbeddedLimits::default()
            },
        };
        let embedded = Embedded::open(&config).unwrap();
        let address = embedded.local_addrs()[0];
        let (sender, inputs) = channel(1024);
        let (handed, requests) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        thread::spawn(move || {
            runtime.block_on(async {
                let requests = embedded.spawn(sender, journal, sessions);
                assert!(handed.send(requests).is_ok());
                let _: Result<(), _> = ended.await;
            });
        });
        let requests = requests.await.unwrap();
        Broker {
            address,
            end,
            requests,
            inputs,
            events: Vec::new(),
        }
    }

    async fn up(&mut self, forgets: bool) {
        let options = ConnectOptions {
            client_id: "gateway".into(),
            clean_start: true,
            ..ConnectOptions::default()
        };
        self.requests
            .send(vec![BrokerRequest::Open { conn: CONN, options }]);
        self.expect(BrokerEvent::Up {
            conn: CONN,
            session_present: false,
            window: 1024,
            forgets,
        })
        .await;
    }

    fn publish(&mut self, token: u64, payload: &'static [u8]) {
        self.requests.send(vec![BrokerRequest::Publish {
            conn: CONN,
            token: Some(Token(token)),
            topic: "up/x".into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            payload: Bytes::from_static(payload),
            stored: None,
        }]);
    }

    /// The next event but for credit.
    async fn expect(&mut self, event: BrokerEvent) {
        while self.events.is_empty() {
            let input = timeout(PATIENCE, self.inputs.recv()).await.expect("no event");
            self.events.extend(news(input.unwrap()));
        }
        assert_eq!(self.events.remove(0), event);
    }

    /// Ends it in good order.
    async fn stop(self) {
        self.requests.close().await;
    }

    /// Ends it in the middle of whatever it does; returns what it said that nobody expected.
    async fn kill(mut self) -> Vec<BrokerEvent> {
        self.end.send(()).unwrap();
        let mut unexpected = self.events;
        while let Some(input) = timeout(PATIENCE, self.inputs.recv()).await.expect("it ends") {
            unexpected.extend(news(input));
        }
        unexpected
    }
}

/// All but credit.
fn news(input: Input) -> Vec<BrokerEvent> {
    let Input::Broker(mut events) = input else {
        panic!("{input:?}");
    };
    events.retain(|event| !matches!(event, BrokerEvent::Credit { .. }));
    events
}

struct Client(TcpStream);

impl Client {
    async fn to(address: SocketAddr) -> Self {
        Client(TcpStream::connect(address).await.unwrap())
    }

    async fn send(&mut self, octets: &[u8]) {
        timeout(PATIENCE, self.0.write_all(octets))
            .await
            .unwrap()
            .unwrap();
    }

    async fn expect(&mut self, octets: &[u8]) {
        let mut found = vec![0; octets.len()];
        let read = timeout(PATIENCE, self.0.read_exact(&mut found)).await;
        read.expect("no packet").unwrap();
        assert_eq!(found, octets);
    }
}
