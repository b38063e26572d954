//! A disk that gives back something else than was written: the whole gateway on a sample of it.
//!
//! The store's own tests flip every octet and cut at every length. Here the binary starts on some of that, says what it
//! found, and publishes the rest.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use sn_codec::TopicRef;
use system_tests::{Broker, Client, PATIENCE, RUNNING};

use crate::campaign::{Evidence, Machine};

/// Messages that were acknowledged while the broker was away, some KB of them.
const MESSAGES: usize = 40;

/// Places of each kind of damage.
const PLACES: usize = 50;

/// What the start may cost, in time of the processor: the machine may have other things to do as well.
const START: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
enum Damage {
    /// A bit of the octet at this place.
    Flipped(usize),
    /// Nothing from this place on.
    Cut(usize),
}

#[test]
fn damage_costs_what_it_hits_and_is_told() {
    let dir = Evidence::new();
    let whole = segment_of_a_gateway_without_broker(dir.path());
    let used = whole.octets.len();
    let places = |from: usize| (0..PLACES).map(move |at| from + at * (used - 1 - from) / (PLACES - 1));
    // The last octet flipped is the end of the last record.
    let damages: Vec<Damage> = places(0)
        .map(Damage::Flipped)
        .chain(places(0).map(Damage::Cut))
        .collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let work = || {
            let mut broker = Broker::stopped().for_many_messages(|line| line.ends_with(RUNNING));
            broker.start();
            while let Some(damage) = damages.get(next.fetch_add(1, Ordering::Relaxed)) {
                start_on(&whole, *damage, &broker, dir.path());
            }
        };
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

/// What a gateway left behind.
struct Segment {
    /// The file, below the state directory.
    name: PathBuf,
    /// As far as it was written.
    octets: Vec<u8>,
    /// What it is filled up to.
    len: u64,
}

impl Segment {
    /// The messages of which nothing is beyond this place: each ends with its payload.
    fn messages_before(&self, end: usize) -> BTreeSet<String> {
        let all = (0..MESSAGES).map(payload);
        all.filter(|payload| {
            let places = self.octets.windows(payload.len());
            let at = places.clone().position(|octets| octets == payload.as_bytes());
            at.expect("every message is in it") + payload.len() <= end
        })
        .collect()
    }
}

fn payload(at: usize) -> String {
    format!("message {at:03} that was acknowledged and must be there")
}

fn segment_of_a_gateway_without_broker(dir: &Path) -> Segment {
    let mut machine = Machine::new(dir, &Broker::stopped());
    machine.start();
    machine.wait_until_ready();
    let client = Client::new(
        "sensor",
        ([127, 0, 0, 1], machine.port).into(),
        &system_tests::Capture::default(),
    );
    client.connect();
    let topic = TopicRef::Normal(client.register("damage/of/a/disk"));
    for at in 0..MESSAGES {
        client.publish_acknowledged(topic, payload(at).as_bytes());
    }
    machine.kill();
    let store = machine.state.join("store");
    let mut files: Vec<PathBuf> = fs::read_dir(store)
        .expect("there is a store")
        .map(|entry| entry.expect("it can be listed").path())
        .collect();
    files.sort();
    let newest = files.pop().expect("it has a segment");
    let mut octets = fs::read(&newest).expect("it is ours");
    let len = octets.len() as u64;
    let used = octets
        .iter()
        .rposition(|octet| *octet != 0)
        .expect("something was written")
        + 1;
    octets.truncate(used);
    Segment {
        name: newest
            .strip_prefix(&machine.state)
            .expect("it is below")
            .to_owned(),
        octets,
        len,
    }
}

#[track_caller]
fn start_on(whole: &Segment, damage: Damage, broker: &Broker, dir: &Path) {
    let dir = dir.join(format!("{damage:?}"));
    fs::create_dir(&dir).expect("the directory is ours");
    let mut machine = Machine::new(&dir, broker);
    let file = machine.state.join(&whole.name);
    fs::create_dir_all(file.parent().expect("it is below")).expect("the directory is ours");
    let mut octets = whole.octets.clone();
    match damage {
        Damage::Flipped(at) => octets[at] ^= 0x10,
        Damage::Cut(at) => octets.truncate(at),
    }
    fs::write(&file, octets).expect("the directory is ours");
    if let Damage::Flipped(_) = damage {
        let file = fs::File::options().write(true).open(&file).expect("it is ours");
        file.set_len(whole.len).expect("it is sparse");
    }

    let mut observer = broker.subscribe("damage/#");
    machine.start();
    machine.wait_until_ready();
    let took = processor_time(machine.gateway().id());
    assert!(took < START, "{damage:?}: ready after {took:?}");

    let expected = match damage {
        Damage::Flipped(_) => MESSAGES - 1,
        // What was written together with a message may be cut, and that message with it.
        Damage::Cut(at) => whole.messages_before(at).len().saturating_sub(1),
    };
    let arrived: BTreeSet<String> = observer
        .receive_many(expected)
        .into_iter()
        .map(|message| String::from_utf8(message.payload).expect("as it was sent"))
        .collect();
    match damage {
        // It hit one of the messages, or none.
        Damage::Flipped(_) => {
            assert!(
                arrived.is_subset(&whole.messages_before(whole.octets.len())),
                "{damage:?}"
            );
            assert_eq!(arrived.len(), expected, "{damage:?}");
            machine
                .gateway()
                .wait_for_line("word of the damage", 0, PATIENCE, |line| {
                    line.contains("spool")
                        && (line.contains("damaged: the records")
                            || line.contains("the last write is not whole"))
                });
        }
        Damage::Cut(at) => {
            assert!(arrived.is_subset(&whole.messages_before(at)), "{damage:?}");
            assert_eq!(arrived.len(), expected, "{damage:?}");
        }
    }
    machine.kill();
}

/// What a process has taken so far.
fn processor_time(id: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).expect("it runs");
    let (_, after_name) = stat.rsplit_once(')').expect("the name is in parentheses");
    let mut fields = after_name
        .split_whitespace()
        .skip(11)
        .map(|field| field.parse::<u64>());
    let mut ticks = || {
        fields
            .next()
            .and_then(Result::ok)
            .expect("utime and stime, in ticks")
    };
    // 100 a second on every Linux (proc(5)).
    Duration::from_millis((ticks() + ticks()) * 10)
}
