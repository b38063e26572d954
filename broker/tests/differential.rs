//! The same sequences at the embedded broker and at a mosquitto: what clients see is the same, but for the differences
//! of [`explain`], each with its reason.
//!
//! Two clients, each 3.1.1 or 5, connect, go, subscribe, publish, and hold their acknowledgements back. What they get is
//! compared after every step, without packet ids, which are a broker's own business, and without the order of messages
//! that come in one step for several reasons. `SNIPE_MQTT_SEED=N` runs one sequence, `SNIPE_MQTT_SEQUENCES=N` so many.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(unused_macros, reason = "of no use here")]
mod mqtt;

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use broker::EmbeddedLimits;
use mqtt::Version::{V3, V5};
use mqtt::{
    Broker, Client, Connect, Event, Mosquitto, NO_LOCAL, Packet, Prop, Publish, RETAIN_AS_PUBLISHED,
    RETAINED_IF_NEW, RETAINED_NEVER, Version,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// One thing that one of the two clients does; nothing if its connection does not allow it.
#[derive(Debug, Clone)]
enum Step {
    Connect {
        client: usize,
        clean: bool,
        will: Option<(usize, u8, bool)>,
    },
    Disconnect {
        client: usize,
    },
    Vanish {
        client: usize,
    },
    Subscribe {
        client: usize,
        filter: usize,
        options: u8,
        id: Option<u32>,
    },
    Unsubscribe {
        client: usize,
        filter: usize,
    },
    Publish {
        client: usize,
        topic: usize,
        qos: u8,
        retain: bool,
        empty: bool,
        props: bool,
    },
    /// Acknowledges nothing from now on, or all of it.
    Hold {
        client: usize,
        hold: bool,
    },
}

const TOPICS: &[&str] = &["a", "a/b", "a/b/c", "a//c", "b", "/b"];
/// The first [`APART`] have no topic in common.
const FILTERS: &[&str] = &["a", "a/+", "a/+/c", "b", "a/#", "+/b", "#", "a/b"];
const APART: usize = 4;

/// What a client saw in one step, in words.
type Seen = Vec<String>;

/// What a sequence has had so far.
struct History {
    /// Subscriptions with topics in common.
    overlapping: bool,
    /// A client took its own connection over.
    taken_over: bool,
    /// A subscription was replaced by one with other options.
    replaced: bool,
}

/// Why mosquitto 2.0.11 differs where it does. What follows in such a sequence is not compared.
fn explain(history: &History, ours: &[Seen; 2], theirs: &[Seen; 2]) -> Option<&'static str> {
    let will = |line: &String| line.contains("\"will ");
    let without_wills = |seen: &[Seen; 2]| {
        seen.clone().map(|mut seen| {
            seen.retain(|line| !will(line));
            seen
        })
    };
    if history.taken_over
        && ours.iter().flatten().any(will)
        && !theirs.iter().flatten().any(will)
        && without_wills(ours) == *theirs
    {
        return Some(
            "a client that is taken over: its will is published (MQTT 5 section 3.1.4), by mosquitto only if \
                     the session ends",
        );
    }
    // Topic and payload alone, each once.
    let merged = |seen: &[Seen; 2]| {
        seen.clone().map(|seen| {
            let mut lines: Vec<String> = seen
                .into_iter()
                .map(|line| {
                    line.split_once(" qos ")
                        .map_or(line.clone(), |(message, _)| message.into())
                })
                .collect();
            lines.dedup();
            lines
        })
    };
    if history.overlapping && merged(ours) == merged(theirs) {
        return Some(
            "several matching subscriptions: mosquitto sends a copy for each in MQTT 5, and one with the QoS \
                     of any of them in 3.1.1; we send one with the highest",
        );
    }
    let same_but_one = |n: usize| {
        let plain = |seen: &Seen| -> Seen { seen.iter().map(|line| line.replace(" retain", "")).collect() };
        let (ours, theirs) = (plain(&ours[n]), plain(&theirs[n]));
        let (longer, shorter) = if ours.len() > theirs.len() {
            (ours, theirs)
        } else {
            (theirs, ours)
        };
        longer.len() - shorter.len() <= 1 && shorter.iter().all(|line| longer.contains(line))
    };
    if history.replaced && same_but_one(0) && same_but_one(1) {
        return Some(
            "a subscription replaced by another: mosquitto keeps No Local and Retain As Published of the first",
        );
    }
    None
}

#[test]
fn random_sequences_look_the_same() {
    let (first, count) = match (env::var("SNIPE_MQTT_SEED"), env::var("SNIPE_MQTT_SEQUENCES")) {
        (Ok(seed), _) => (seed.parse().unwrap(), 1),
        (_, Ok(count)) => (0, count.parse().unwrap()),
        _ => (0, 300),
    };
    let mut pair = Pair::start();
    let mut explained: BTreeMap<&str, u32> = BTreeMap::new();
    let (mut steps, mut unexplained) = (0, Vec::new());
    for seed in first..first + count {
        let mut random = SmallRng::seed_from_u64(seed);
        let versions = [0, 1].map(|_| if random.random() { V5 } else { V3 });
        let filters = if random.random_bool(0.8) {
            APART
        } else {
            FILTERS.len()
        };
        let sequence: Vec<Step> = (0..30).map(|n| any_step(&mut random, n, filters)).collect();
        match pair.run(&format!("s{seed}"), versions, &sequence, filters > APART) {
            Outcome::Same => {}
            Outcome::Explained(reason) => *explained.entry(reason).or_default() += 1,
            Outcome::Different(text) => unexplained.push(format!("SNIPE_MQTT_SEED={seed}\n{text}")),
        }
        steps += sequence.len();
    }
    println!("{count} sequences, {steps} steps; differences with a reason: {explained:#?}");
    assert!(
        unexplained.is_empty(),
        "{} differ:\n{}",
        unexplained.len(),
        unexplained[0]
    );
    if count >= 300 {
        let all: u32 = explained.values().sum();
        assert!(u64::from(all) < count / 2, "hardly anything was compared");
    }
}

#[test]
fn chosen_sequences_look_the_same() {
    let connect = |client, clean| Step::Connect {
        client,
        clean,
        will: None,
    };
    let subscribe = |client, filter, options| Step::Subscribe {
        client,
        filter,
        options,
        id: None,
    };
    let publish = |topic, qos, retain, empty| Step::Publish {
        client: 1,
        topic,
        qos,
        retain,
        empty,
        props: true,
    };
    let hold = |hold| Step::Hold { client: 0, hold };
    let vanish = Step::Vanish { client: 0 };
    let sequences: &[(&str, Vec<Step>)] = &[
        (
            "what is held comes again, then what came meanwhile",
            vec![
                connect(0, false),
                connect(1, true),
                subscribe(0, 0, 2),
                hold(true),
                publish(0, 1, false, false),
                publish(0, 2, false, false),
                publish(0, 0, false, false),
                vanish.clone(),
                publish(0, 1, false, false),
                publish(0, 0, false, false),
                publish(0, 2, false, false),
                connect(0, false),
                vanish.clone(),
                connect(0, false),
                connect(0, true),
                publish(0, 2, false, false),
            ],
        ),
        (
            "retained messages and every way to ask for them",
            vec![
                connect(0, false),
                connect(1, true),
                publish(0, 2, true, false),
                publish(1, 0, true, false),
                subscribe(0, 0, 1),
                subscribe(0, 0, 1 | RETAINED_IF_NEW),
                subscribe(0, 0, 1 | RETAINED_NEVER),
                subscribe(0, 1, 2 | RETAINED_IF_NEW),
                publish(0, 1, true, true),
                subscribe(0, 0, 1),
                Step::Disconnect { client: 0 },
                publish(1, 1, true, false),
                connect(0, false),
                subscribe(0, 1, 0),
                publish(1, 0, true, true),
            ],
        ),
        (
            "wills of each kind",
            vec![
                connect(1, true),
                subscribe(1, 0, 2),
                Step::Connect {
                    client: 0,
                    clean: true,
                    will: Some((0, 2, false)),
                },
                vanish.clone(),
                Step::Connect {
                    client: 0,
                    clean: false,
                    will: Some((0, 1, true)),
                },
                vanish.clone(),
                Step::Connect {
                    client: 0,
                    clean: false,
                    will: Some((0, 0, false)),
                },
                Step::Disconnect { client: 0 },
                subscribe(1, 0, 1),
                connect(0, false),
                vanish,
            ],
        ),
        (
            "an unsubscribed filter and its late acknowledgements",
            vec![
                connect(0, false),
                connect(1, true),
                subscribe(0, 3, 2),
                hold(true),
                publish(4, 2, false, false),
                publish(4, 1, false, false),
                Step::Unsubscribe { client: 0, filter: 3 },
                Step::Unsubscribe { client: 0, filter: 3 },
                publish(4, 1, false, false),
                hold(false),
                Step::Vanish { client: 0 },
                connect(0, false),
            ],
        ),
    ];
    let mut pair = Pair::start();
    for (n, (name, sequence)) in sequences.iter().enumerate() {
        for (m, versions) in [[V3, V3], [V5, V5], [V3, V5], [V5, V3]].into_iter().enumerate() {
            match pair.run(&format!("h{n}{m}"), versions, sequence, false) {
                Outcome::Same => {}
                Outcome::Explained(reason) => panic!("{name}: {reason}"),
                Outcome::Different(text) => panic!("{name}\n{text}"),
            }
        }
    }
}

/// With the first `filters` of [`FILTERS`].
fn any_step(random: &mut SmallRng, n: usize, filters: usize) -> Step {
    let client = random.random_range(0..2);
    if n < 2 {
        return Step::Connect {
            client: n,
            clean: random.random(),
            will: None,
        };
    }
    match random.random_range(0..100) {
        0..10 => {
            let will = random.random_bool(0.3).then(|| {
                (
                    random.random_range(0..TOPICS.len()),
                    random.random_range(0..3),
                    random.random_bool(0.3),
                )
            });
            Step::Connect {
                client,
                clean: random.random_bool(0.3),
                will,
            }
        }
        10..14 => Step::Disconnect { client },
        14..20 => Step::Vanish { client },
        20..45 => {
            let mut options = random.random_range(0..3);
            for (flag, odds) in [(NO_LOCAL, 0.1), (RETAIN_AS_PUBLISHED, 0.2)] {
                if random.random_bool(odds) {
                    options |= flag;
                }
            }
            if random.random_bool(0.3) {
                options |= if random.random() {
                    RETAINED_IF_NEW
                } else {
                    RETAINED_NEVER
                };
            }
            let id = random.random_bool(0.3).then(|| random.random_range(1..1000));
            Step::Subscribe {
                client,
                filter: random.random_range(0..filters),
                options,
                id,
            }
        }
        45..52 => Step::Unsubscribe {
            client,
            filter: random.random_range(0..filters),
        },
        52..60 => Step::Hold {
            client,
            hold: random.random(),
        },
        _ => Step::Publish {
            client,
            topic: random.random_range(0..TOPICS.len()),
            qos: random.random_range(0..3),
            retain: random.random_bool(0.3),
            empty: random.random_bool(0.1),
            props: random.random_bool(0.2),
        },
    }
}

enum Outcome {
    Same,
    Explained(&'static str),
    Different(String),
}

struct Pair {
    /// Kept for its life.
    _embedded: Broker,
    _mosquitto: Mosquitto,
    addresses: [SocketAddr; 2],
}

impl Pair {
    fn start() -> Self {
        let embedded = Broker::embedded(V5, EmbeddedLimits::default());
        let mosquitto = Mosquitto::with("max_inflight_messages 0\n");
        Pair {
            addresses: [embedded.address, mosquitto.address],
            _embedded: embedded,
            _mosquitto: mosquitto,
        }
    }

    /// `name` keeps the sequences apart.
    fn run(&mut self, name: &str, versions: [Version; 2], sequence: &[Step], overlapping: bool) -> Outcome {
        let mut sides = self.addresses.map(|address| Side::new(address, name, versions));
        let mut told = String::new();
        let mut options_of = BTreeMap::new();
        let mut history = History {
            overlapping,
            taken_over: false,
            replaced: false,
        };
        for (n, step) in sequence.iter().enumerate() {
            if let Step::Connect { client, .. } = step {
                history.taken_over |= sides[0].clients[*client].is_some();
            }
            if let Step::Subscribe {
                client,
                filter,
                options,
                ..
            } = step
            {
                let others = NO_LOCAL | RETAIN_AS_PUBLISHED;
                let before = options_of.insert((*client, *filter), options & others);
                history.replaced |= before.is_some_and(|before| before != options & others);
            }
            for side in &mut sides {
                side.perform(step, n);
                side.settle();
            }
            // What follows from a broken connection may come a moment later.
            let deadline = Instant::now() + Duration::from_millis(300);
            while sides[0].shown() != sides[1].shown() && Instant::now() < deadline {
                for side in &mut sides {
                    side.wait();
                }
            }
            let [ours, theirs] = sides.each_mut().map(Side::take);
            let _ = writeln!(told, "{n:2} {step:?}\n   {ours:?}");
            if ours != theirs {
                return match explain(&history, &ours, &theirs) {
                    Some(reason) => Outcome::Explained(reason),
                    None => Outcome::Different(format!("{versions:?}\n{told}   mosquitto: {theirs:?}")),
                };
            }
        }
        // Nothing is left behind for the next sequence.
        for side in &mut sides {
            side.clean();
        }
        Outcome::Same
    }
}

/// One broker's two clients.
struct Side {
    address: SocketAddr,
    name: String,
    versions: [Version; 2],
    clients: [Option<Client>; 2],
    hold: [bool; 2],
    seen: [Seen; 2],
}

impl Side {
    fn new(address: SocketAddr, name: &str, versions: [Version; 2]) -> Self {
        Side {
            address,
            name: name.into(),
            versions,
            clients: [None, None],
            hold: [false; 2],
            seen: [Vec::new(), Vec::new()],
        }
    }

    fn topic(&self, topic: usize) -> String {
        format!("{}/{}", self.name, TOPICS[topic])
    }

    fn filter(&self, filter: usize) -> String {
        format!("{}/{}", self.name, FILTERS[filter])
    }

    fn perform(&mut self, step: &Step, n: usize) {
        match *step {
            Step::Connect { client, clean, will } => {
                let version = self.versions[client];
                let id = format!("{}-{client}", self.name);
                let mut connect = Connect {
                    clean,
                    ..Connect::kept(version, &id)
                };
                if let Some((topic, qos, retain)) = will {
                    connect = connect
                        .will(&self.topic(topic), &format!("will {n}"))
                        .will_qos(qos);
                    if retain {
                        connect = connect.will_retain();
                    }
                }
                let earlier = self.clients[client].take();
                let mut connection = Client::open(self.address, version);
                connection.connect(&connect);
                if let Some(mut earlier) = earlier {
                    while let Event::Packet(_) = earlier.event(mqtt::PATIENCE) {}
                }
                self.hold[client] = false;
                self.seen[client].push(format!("connected, session {}", connection.session_present));
                self.clients[client] = Some(connection);
            }
            Step::Disconnect { client } => {
                if let Some(connection) = self.clients[client].take() {
                    connection.disconnect();
                }
            }
            Step::Vanish { client } => {
                if let Some(connection) = self.clients[client].take() {
                    connection.vanish();
                }
            }
            Step::Subscribe {
                client,
                filter,
                options,
                id,
            } => {
                let filter = self.filter(filter);
                let Some(connection) = &mut self.clients[client] else {
                    return;
                };
                let (options, props) = match connection.version {
                    V3 => (options & 3, Vec::new()),
                    V5 => (options, id.map(Prop::SubscriptionId).into_iter().collect()),
                };
                let code = connection.subscribe_with(&filter, options, props);
                self.seen[client].push(format!("SUBACK {code:#04x}"));
            }
            Step::Unsubscribe { client, filter } => {
                let filter = self.filter(filter);
                let Some(connection) = &mut self.clients[client] else {
                    return;
                };
                let code = connection.unsubscribe(&filter);
                self.seen[client].push(format!("UNSUBACK {code:#04x}"));
            }
            Step::Publish {
                client,
                topic,
                qos,
                retain,
                empty,
                props,
            } => {
                let topic = self.topic(topic);
                let Some(connection) = &mut self.clients[client] else {
                    return;
                };
                let payload = if empty {
                    String::new()
                } else {
                    format!("message {n}")
                };
                let mut publish = Publish {
                    qos,
                    retain,
                    ..Publish::new(&topic, payload)
                };
                if props && connection.version == V5 {
                    publish = publish
                        .prop(Prop::ContentType("text".into()))
                        .prop(Prop::User("k".into(), n.to_string()))
                        .prop(Prop::User("k".into(), "again".into()));
                }
                let code = connection.publish(publish);
                // That nobody subscribed (0x10) a server may say or not.
                let outcome = if code < 0x80 { "taken" } else { "refused" };
                self.seen[client].push(outcome.into());
            }
            Step::Hold { client, hold } => self.hold[client] = hold,
        }
    }

    /// Both clients have all that there is for them.
    fn settle(&mut self) {
        loop {
            for client in self.clients.iter_mut().flatten() {
                client.barrier();
            }
            if !self.look(Duration::ZERO) {
                return;
            }
        }
    }

    fn wait(&mut self) {
        if self.look(Duration::from_millis(5)) {
            self.settle();
        }
    }

    /// Notes what came, and whether an answer to it may bring more.
    fn look(&mut self, patience: Duration) -> bool {
        let mut answered = false;
        for n in 0..2 {
            let Some(client) = &mut self.clients[n] else {
                continue;
            };
            while let Event::Packet(packet) = client.event(patience) {
                match packet {
                    Packet::Publish(publish) => {
                        self.seen[n].push(words(&publish));
                        if !self.hold[n] && publish.qos > 0 {
                            client.send(&if publish.qos == 1 {
                                Packet::pub_ack(publish.id)
                            } else {
                                Packet::pub_rec(publish.id)
                            });
                            answered = true;
                        }
                    }
                    Packet::PubRel(ack) => {
                        client.send(&Packet::pub_comp(ack.id));
                        answered = true;
                    }
                    other => self.seen[n].push(format!("{other:?}")),
                }
            }
        }
        answered
    }

    fn shown(&self) -> [Seen; 2] {
        self.seen.clone().map(|mut seen| {
            seen.sort();
            seen
        })
    }

    fn take(&mut self) -> [Seen; 2] {
        let shown = self.shown();
        self.seen = [Vec::new(), Vec::new()];
        shown
    }

    /// Ends sessions and removes retained messages.
    fn clean(&mut self) {
        for client in self.clients.iter_mut().filter_map(Option::take) {
            client.disconnect();
        }
        for client in 0..2 {
            let mut connection = Client::open(self.address, V3);
            connection.connect(&Connect::new(&format!("{}-{client}", self.name)));
            if client == 0 {
                for topic in 0..TOPICS.len() {
                    connection.publish(Publish::new(&self.topic(topic), "").retain());
                }
            }
            connection.disconnect();
        }
    }
}

/// A message as it is compared.
fn words(publish: &Publish) -> String {
    let mut props: Vec<String> = publish.props.iter().map(|prop| format!("{prop:?}")).collect();
    props.sort();
    format!(
        "{:?} {:?} qos {}{}{} {}",
        publish.topic,
        publish.text(),
        publish.qos,
        if publish.retain { " retain" } else { "" },
        if publish.dup { " dup" } else { "" },
        props.join(" ")
    )
}
