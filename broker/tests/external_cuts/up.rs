//! Publishes.

use std::collections::HashSet;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::sync::{Arc, atomic::AtomicU64};

use broker::Journal;
use broker::Protocol::{self, V3, V5};
use bytes::Bytes;
use gateway_core::io::{BrokerEvent, BrokerRequest, StoreKey, StoredUplink, Token};
use sn_codec::QoS::{self, AtLeastOnce, ExactlyOnce};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use super::Session::{self, Clean, Resumed};
use super::common::{CONN, Core, Mosquitto, PATIENCE, Proxy, Subscriber, leave_session, publish};
use super::{CLIENT_ID, Cutter, check, messages, open, pause, relay_to};

for_each_exchange!(through_cuts);

async fn through_cuts(protocol: Protocol, session: Session, qos: QoS) {
    let messages = messages(3_000);
    let broker = Mosquitto::persistent().await;
    let mut subscriber = Subscriber::start_v3(broker.port, "up").await;
    let received = tokio::spawn(async move { subscriber.payloads_until("last").await });
    let relay = relay_to(broker.port).await;
    // With a store QoS 2 has a connection of its own.
    let journal = (qos == ExactlyOnce).then(|| Journal::new(|_, done| done()));
    let mut core = open(broker.port, &relay, protocol, session, "nothing", journal).await;
    core.expect_up(session == Resumed).await;

    let started = std::time::Instant::now();
    let cutter = Cutter::start(&relay);
    let mut publisher = Publisher::new(qos, messages);
    while !publisher.is_done() {
        publisher.step(&mut core).await;
        assert!(publisher.lost.is_empty(), "lost although the session stands");
    }
    let cuts = cutter.cuts();
    let seconds = started.elapsed().as_secs_f32();
    drop(cutter);
    publish(broker.port, &["-t", "up", "-m", "last", "-q", "2"]).await;
    let payloads = timeout(PATIENCE, received).await.unwrap().unwrap();

    let repeats = check(&payloads, messages, qos);
    println!(
        "up, {protocol:?} {session:?} {qos:?}: {messages} messages, {cuts} cuts, {repeats} repeats, {seconds:.1} s"
    );
    assert!(cuts > 3, "only {cuts} cuts");
}

#[tokio::test]
async fn qos_1_is_whole_although_the_broker_stops_and_starts_v3() {
    with_broker_restarts(V3).await;
}

#[tokio::test]
async fn qos_1_is_whole_although_the_broker_stops_and_starts_v5() {
    with_broker_restarts(V5).await;
}

/// Besides, mosquitto ends in good order and begins again with what it kept, three times. Of QoS 2 it does not keep how
/// far it is, and the order of what waits for a client that comes back is its own.
async fn with_broker_restarts(protocol: Protocol) {
    let messages = messages(3_000);
    let mut broker = Mosquitto::persistent().await;
    leave_session(broker.port, V3, "observer", "up").await;
    let relay = relay_to(broker.port).await;
    let mut core = open(broker.port, &relay, protocol, Resumed, "nothing", None).await;
    core.expect_up(true).await;

    let cutter = Cutter::start(&relay);
    let mut publisher = Publisher::new(AtLeastOnce, messages);
    for quarter in 1..=3 {
        // It ends with something under way.
        while publisher.next < messages * quarter / 4 || publisher.open.is_empty() {
            publisher.step(&mut core).await;
        }
        broker.stop_and_start().await;
    }
    while !publisher.is_done() {
        publisher.step(&mut core).await;
    }
    assert!(publisher.lost.is_empty(), "lost although the session stands");
    let cuts = cutter.cuts();
    drop(cutter);
    assert!(cuts > 3, "only {cuts} cuts");
    expect_waiting(broker.port, messages).await;
}

/// Each of `0..messages` waits at the broker for the observer.
async fn expect_waiting(broker: u16, messages: u64) {
    let mut process = Command::new("stdbuf")
        .args([
            "-oL",
            "mosquitto_sub",
            "-h",
            "127.0.0.1",
            "-p",
            &broker.to_string(),
        ])
        .args(["-c", "-i", "observer", "-V", "311", "-q", "1", "-t", "up"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("these tests need mosquitto_sub");
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut missing: HashSet<u64> = (0..messages).collect();
    while !missing.is_empty() {
        let line = timeout(PATIENCE, lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("{} missing: {missing:?}", missing.len()));
        missing.remove(&line.unwrap().unwrap().parse().unwrap());
    }
}

#[tokio::test]
async fn qos_1_is_whole_although_the_broker_forgets_sessions_v3() {
    with_lost_sessions(V3, AtLeastOnce, Broker::Forgets).await;
}

#[tokio::test]
async fn qos_1_is_whole_although_the_broker_forgets_sessions_v5() {
    with_lost_sessions(V5, AtLeastOnce, Broker::Forgets).await;
}

#[tokio::test]
async fn qos_2_is_whole_but_may_come_twice_where_the_broker_forgets_sessions_v3() {
    with_lost_sessions(V3, ExactlyOnce, Broker::Forgets).await;
}

#[tokio::test]
async fn qos_2_is_whole_but_may_come_twice_where_the_broker_forgets_sessions_v5() {
    with_lost_sessions(V5, ExactlyOnce, Broker::Forgets).await;
}

#[tokio::test]
async fn qos_2_without_a_store_is_whole_but_what_is_lost_may_come_twice_v3() {
    with_lost_sessions(V3, ExactlyOnce, Broker::Remembers).await;
}

#[tokio::test]
async fn qos_2_without_a_store_is_whole_but_what_is_lost_may_come_twice_v5() {
    with_lost_sessions(V5, ExactlyOnce, Broker::Remembers).await;
}

/// What becomes of the session at a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broker {
    Remembers,
    Forgets,
}

/// Where the broker loses the session with all that it knew of packet ids, what was not settled is reported lost and
/// submitted again. Nobody can know then whether it had arrived. Without a store the same becomes of a PUBREL that was not
/// repeated yet when the connection breaks a second time (rumqttc 0.34).
async fn with_lost_sessions(protocol: Protocol, qos: QoS, kind: Broker) {
    let messages = messages(1_000);
    let broker = Mosquitto::persistent().await;
    let mut subscriber = Subscriber::start_v3(broker.port, "up").await;
    let received = tokio::spawn(async move { subscriber.payloads_until("last").await });
    let relay = relay_to(broker.port).await;
    let mut core = open(broker.port, &relay, protocol, Clean, "nothing", None).await;
    core.expect_up(false).await;

    let cuts = Arc::new(AtomicU64::new(0));
    let thief = tokio::spawn(cut(relay, broker.port, kind, cuts.clone()));
    let mut publisher = Publisher::new(qos, messages);
    while !publisher.is_done() {
        publisher.step(&mut core).await;
    }
    thief.abort();
    publish(broker.port, &["-t", "up", "-m", "last", "-q", "2"]).await;
    let payloads = timeout(PATIENCE, received).await.unwrap().unwrap();

    let mut seen = HashSet::new();
    let mut repeats = 0;
    for payload in &payloads {
        let n: u64 = payload.parse().unwrap();
        if !seen.insert(n) {
            repeats += 1;
            let excused = qos == AtLeastOnce || publisher.lost.contains(&n);
            assert!(excused, "{n} came twice and its session was never lost");
        }
    }
    assert_eq!(seen.len() as u64, messages);
    let (cuts, lost) = (cuts.load(Ordering::Relaxed), publisher.lost.len());
    println!(
        "up, {protocol:?} {qos:?}, broker {kind:?}: {messages} messages, {cuts} cuts, {lost} lost, {repeats} repeats"
    );
    assert!(
        lost > 0 || kind == Broker::Remembers,
        "no session was lost in the middle of anything"
    );
}

/// Cuts, and may have somebody else take the session and throw it away.
async fn cut(relay: Arc<Proxy>, broker: u16, kind: Broker, cuts: Arc<AtomicU64>) {
    loop {
        tokio::time::sleep(pause()).await;
        relay.admit(false);
        relay.break_all();
        if kind == Broker::Forgets {
            publish(broker, &["-i", CLIENT_ID, "-t", "thief", "-m", "x"]).await;
        }
        relay.admit(true);
        cuts.fetch_add(1, Ordering::Relaxed);
    }
}

/// Publishes `0..messages`, and what is lost again, as the core does.
struct Publisher {
    qos: QoS,
    messages: u64,
    next: u64,
    open: HashSet<u64>,
    /// Those to submit again when the connection is up, in order.
    again: Vec<u64>,
    /// Those ever reported lost.
    lost: HashSet<u64>,
    window: usize,
    up: bool,
}

impl Publisher {
    fn new(qos: QoS, messages: u64) -> Self {
        Publisher {
            qos,
            messages,
            next: 0,
            open: HashSet::new(),
            again: Vec::new(),
            lost: HashSet::new(),
            window: 20,
            up: true,
        }
    }

    fn is_done(&self) -> bool {
        self.next == self.messages && self.open.is_empty() && self.again.is_empty()
    }

    /// Publishes what the window has room for, and takes what the port says.
    async fn step(&mut self, core: &mut Core) {
        let mut requests = Vec::new();
        while self.up && self.open.len() < self.window {
            let n = if !self.again.is_empty() {
                self.again.remove(0)
            } else if self.next < self.messages {
                self.next += 1;
                self.next - 1
            } else {
                break;
            };
            assert!(self.open.insert(n));
            requests.push(BrokerRequest::Publish {
                conn: CONN,
                token: Some(Token(n)),
                topic: "up".into(),
                qos: self.qos,
                retain: false,
                payload: Bytes::from(n.to_string()),
                stored: Some(StoredUplink {
                    key: StoreKey { kind: 2, id: n },
                    value: Bytes::from_static(&[1, 0, 0, 0]),
                }),
            });
        }
        core.requests.send(requests);
        for event in core.batch().await {
            match event {
                BrokerEvent::Settled { token, result } => {
                    assert_eq!(result, Ok(None));
                    assert!(self.open.remove(&token.0), "{token:?} has two outcomes");
                }
                BrokerEvent::Lost { token } => {
                    assert!(self.open.remove(&token.0), "{token:?} has two outcomes");
                    self.lost.insert(token.0);
                    let at = self.again.partition_point(|n| *n < token.0);
                    self.again.insert(at, token.0);
                }
                BrokerEvent::Up { window, .. } => {
                    self.window = usize::from(window);
                    self.up = true;
                }
                BrokerEvent::Down { .. } => self.up = false,
                BrokerEvent::Credit { .. } => {}
                BrokerEvent::Message { .. }
                | BrokerEvent::Delivered { .. }
                | BrokerEvent::Released { .. } => panic!("{event:?}"),
            }
        }
    }
}
