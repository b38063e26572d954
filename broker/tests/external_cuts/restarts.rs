//! Ports that end without a word at random moments, on a disk that loses power with them. The next one begins with what
//! the disk has, and nothing else: what was called back durable, and any part of what was not.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use broker::Journal;
use broker::Protocol::{self, V3, V5};
use bytes::Bytes;
use gateway_core::io::{
    BrokerEvent, BrokerRequest, ConnectOptions, RestoredPublish, StoreChange, StoreKey, StoredUplink, Token,
};
use gateway_store::{Change, Key, Options, SimDisk, Store};
use rand::RngExt;
use sn_codec::QoS::ExactlyOnce;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::common::{CONN, Core, Mosquitto, PATIENCE, Subscriber, config, options, publish};
use super::{CLIENT_ID, Cutter, messages, relay_to};

#[tokio::test]
async fn qos_2_is_exact_over_restarts_v3() {
    over_restarts(V3).await;
}

#[tokio::test]
async fn qos_2_is_exact_over_restarts_v5() {
    over_restarts(V5).await;
}

async fn over_restarts(protocol: Protocol) {
    let messages = messages(1_000);
    let broker = Mosquitto::persistent().await;
    let mut subscriber = Subscriber::start_v3(broker.port, "up").await;
    let received = tokio::spawn(async move { subscriber.payloads_until("last").await });
    let relay = relay_to(broker.port).await;
    let started = Instant::now();
    let cutter = Cutter::start(&relay);

    let disk = SimDisk::new(rand::rng().random(), 64 << 20);
    let mut sensor = Sensor::new(messages);
    let (mut restarts, mut restored) = (0, 0);
    loop {
        let mut life = Life::begin(&disk, config(relay.port, protocol), &mut sensor);
        restored += life.restored;
        let length = Duration::from_millis(rand::rng().random_range(20..400));
        let done = timeout(length, life.run(&mut sensor)).await.is_ok();
        if done {
            break;
        }
        life.end(&disk);
        restarts += 1;
    }
    let (cuts, seconds) = (cutter.cuts(), started.elapsed().as_secs_f32());
    drop(cutter);
    publish(broker.port, &["-t", "up", "-m", "last", "-q", "2"]).await;
    let payloads = timeout(PATIENCE, received).await.unwrap().unwrap();

    println!(
        "restarts, {protocol:?}: {messages} messages, {restarts} restarts, {cuts} cuts, {restored} exchanges \
         restored, {seconds:.1} s"
    );
    let payloads: Vec<u64> = payloads.iter().map(|payload| payload.parse().unwrap()).collect();
    let distinct: BTreeSet<u64> = payloads.iter().copied().collect();
    let missing: Vec<u64> = (0..messages).filter(|n| !distinct.contains(n)).collect();
    assert!(missing.is_empty(), "{missing:?} are missing");
    assert_eq!(payloads.len() as u64, messages, "some came twice");
    let in_order = payloads.iter().filter(|n| !sensor.delayed.contains(n));
    assert!(in_order.is_sorted(), "out of order");
    assert!(restarts > 3, "only {restarts} restarts");
    assert!(restored > 3, "only {restored} exchanges restored");
}

/// Where messages come from: the only one that knows what happened before a restart.
struct Sensor {
    messages: u64,
    /// The next to offer.
    next: u64,
    /// Offered, and not said to be durable.
    offered: BTreeSet<u64>,
    /// To be offered again, since the disk lost them.
    again: BTreeSet<u64>,
    /// Those for which that was so: others may go before them.
    delayed: HashSet<u64>,
    /// Called back durable.
    durable: Arc<Mutex<Vec<u64>>>,
}

impl Sensor {
    fn new(messages: u64) -> Self {
        Sensor {
            messages,
            next: 0,
            offered: BTreeSet::new(),
            again: BTreeSet::new(),
            delayed: HashSet::new(),
            durable: Arc::default(),
        }
    }

    fn is_done(&self) -> bool {
        self.next == self.messages && self.again.is_empty()
    }

    fn next(&mut self) -> Option<u64> {
        let new = || (self.next < self.messages).then_some(self.next);
        let n = self.again.pop_first().or_else(new)?;
        self.next = self.next.max(n + 1);
        Some(n)
    }

    fn take_durable(&mut self) -> Vec<u64> {
        let durable = core::mem::take(&mut *self.durable.lock().unwrap());
        for n in &durable {
            self.offered.remove(n);
        }
        durable
    }
}

/// One life of the process: a port on a runtime of its own, and a disk's writer.
struct Life {
    core: Core,
    process: Process,
    writer: Writer,
    /// Durable and not handed to the port.
    waiting: BTreeSet<u64>,
    /// At the port.
    open: HashSet<u64>,
    /// Settled, and whether the deletion is durable.
    deleting: Arc<Mutex<HashSet<u64>>>,
    restored: u64,
    up: bool,
}

const UPLINK: u8 = 2;

fn key(n: u64) -> StoreKey {
    StoreKey { kind: UPLINK, id: n }
}

/// The record of a publish: version, stage, packet id, and what says which it is.
fn pending(n: u64) -> Bytes {
    let mut value = vec![1, 0, 0, 0];
    value.extend_from_slice(&n.to_be_bytes());
    value.into()
}

impl Life {
    fn begin(disk: &SimDisk, config: broker::RemoteConfig, sensor: &mut Sensor) -> Self {
        let options_of_store = Options {
            segment_bytes: 16 << 10,
        };
        let (store, recovered) = Store::open(disk.clone(), options_of_store).unwrap();
        sensor.take_durable();
        let mut waiting = BTreeSet::new();
        let mut open = HashSet::new();
        let mut restored = Vec::new();
        for (Key { id: n, .. }, value) in recovered.values {
            let (stage, packet_id) = (value[1], u16::from_be_bytes([value[2], value[3]]));
            assert_eq!(value[4..], n.to_be_bytes());
            sensor.offered.remove(&n);
            if stage == 0 {
                waiting.insert(n);
                continue;
            }
            open.insert(n);
            restored.push(RestoredPublish {
                token: Token(n),
                packet_id,
                released: stage == 2,
                topic: "up".into(),
                retain: false,
                payload: Bytes::from(n.to_string()),
                stored: StoredUplink { key: key(n), value },
            });
        }
        // What was offered and is not there was never taken.
        let never_taken = core::mem::take(&mut sensor.offered);
        sensor.delayed.extend(&never_taken);
        sensor.again.extend(never_taken);

        let writer = Writer::start(store);
        let handle = writer.commands.clone();
        let journal = Journal::new(move |changes, done| {
            // Nobody writes any more once the life is over.
            let _ = handle.send((changes, done));
        });
        let (process, mut core) = Process::start(|| Core::with_journal(config, Some(journal)));
        let count = restored.len() as u64;
        core.send(BrokerRequest::Open {
            conn: CONN,
            options: ConnectOptions {
                clean_start: restored.is_empty(),
                exactly_once: true,
                restored,
                ..options(CLIENT_ID)
            },
        });
        Life {
            core,
            process,
            writer,
            waiting,
            open,
            deleting: Arc::default(),
            restored: count,
            up: false,
        }
    }

    /// Until everything is at the broker and nothing in the store.
    async fn run(&mut self, sensor: &mut Sensor) {
        let mut pulse = tokio::time::interval(Duration::from_millis(1));
        loop {
            self.waiting.extend(sensor.take_durable());
            self.offer(sensor);
            let idle = self.waiting.is_empty() && self.open.is_empty() && sensor.offered.is_empty();
            if idle && sensor.is_done() && self.deleting.lock().unwrap().is_empty() {
                return;
            }
            self.hand_over();
            tokio::select! {
                events = self.core.batch() => self.take(events),
                _ = pulse.tick() => {}
            }
        }
    }

    /// New messages go to the store first.
    fn offer(&mut self, sensor: &mut Sensor) {
        while self.waiting.len() + sensor.offered.len() < 30
            && let Some(n) = sensor.next()
        {
            sensor.offered.insert(n);
            let durable = sensor.durable.clone();
            let done = Box::new(move || durable.lock().unwrap().push(n));
            self.writer
                .submit(vec![StoreChange::Put(key(n), pending(n))], done);
        }
    }

    fn hand_over(&mut self) {
        while self.up
            && self.open.len() < 20
            && let Some(n) = self.waiting.pop_first()
        {
            assert!(self.open.insert(n));
            self.core.send(BrokerRequest::Publish {
                conn: CONN,
                token: Some(Token(n)),
                topic: "up".into(),
                qos: ExactlyOnce,
                retain: false,
                payload: Bytes::from(n.to_string()),
                stored: Some(StoredUplink {
                    key: key(n),
                    value: pending(n),
                }),
            });
        }
    }

    fn take(&mut self, events: Vec<BrokerEvent>) {
        for event in events {
            match event {
                BrokerEvent::Settled {
                    token: Token(n),
                    result,
                } => {
                    assert_eq!(result, Ok(None));
                    assert!(self.open.remove(&n), "{n} has two outcomes");
                    self.deleting.lock().unwrap().insert(n);
                    let deleting = self.deleting.clone();
                    let done = Box::new(move || {
                        deleting.lock().unwrap().remove(&n);
                    });
                    self.writer.submit(vec![StoreChange::Delete(key(n))], done);
                }
                BrokerEvent::Up { session_present, .. } => {
                    assert!(session_present || self.open.is_empty(), "the session is gone");
                    self.up = true;
                }
                BrokerEvent::Down { .. } => self.up = false,
                BrokerEvent::Credit { .. } => {}
                BrokerEvent::Lost { .. }
                | BrokerEvent::Message { .. }
                | BrokerEvent::Delivered { .. }
                | BrokerEvent::Released { .. } => panic!("{event:?}"),
            }
        }
    }

    /// The power goes.
    fn end(self, disk: &SimDisk) {
        disk.lose_power();
        self.process.end();
        drop(self.core);
        self.writer.end();
        // What it wrote after that to a file of its own.
        disk.lose_power();
    }
}

/// What runs the port's tasks, and ends them wherever they are.
struct Process {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Process {
    fn start(port: impl FnOnce() -> Core) -> (Self, Core) {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let core = {
            let _entered = runtime.enter();
            port()
        };
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let _ = runtime.block_on(stopped);
        });
        (Process { stop, thread }, core)
    }

    fn end(self) {
        let _ = self.stop.send(());
        self.thread.join().unwrap();
    }
}

type Command = (Vec<StoreChange>, Box<dyn FnOnce() + Send>);

/// Writes what is submitted meanwhile with one sync, a little later.
struct Writer {
    commands: mpsc::Sender<Command>,
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Writer {
    fn start(mut store: Store<SimDisk>) -> Self {
        let (commands, receiver) = mpsc::channel::<Command>();
        let over = Arc::new(AtomicBool::new(false));
        let stopped = over.clone();
        let thread = thread::spawn(move || {
            while let Ok(first) = receiver.recv() {
                thread::sleep(Duration::from_micros(rand::rng().random_range(0..600)));
                let mut waiting = Vec::new();
                for (changes, done) in core::iter::once(first).chain(receiver.try_iter()) {
                    waiting.push(done);
                    for change in changes {
                        store.apply(of_store(change));
                    }
                }
                if stopped.load(Ordering::Relaxed) || store.commit(true).is_err() {
                    return;
                }
                waiting.into_iter().for_each(|done| done());
            }
        });
        Writer {
            commands,
            over,
            thread,
        }
    }

    fn submit(&self, changes: Vec<StoreChange>, done: Box<dyn FnOnce() + Send>) {
        // Nobody writes any more once the life is over.
        let _ = self.commands.send((changes, done));
    }

    fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        drop(self.commands);
        self.thread.join().unwrap();
    }
}

fn of_store(change: StoreChange) -> Change {
    let key = |key: StoreKey| Key {
        kind: key.kind,
        id: key.id,
    };
    match change {
        StoreChange::Put(of, value) => Change::Put(key(of), value),
        StoreChange::Delete(of) => Change::Delete(key(of)),
    }
}
