//! The store on a disk that loses power, tears writes, fails, fills up and rots.

// In helpers too, a failure is the test's failure.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use gateway_store::{Change, Directory, Disk, Event, Handle, Key, Options, SimDisk, Store, Sync, Writer};
use proptest::prelude::*;

const SMALL: Options = Options { segment_bytes: 2048 };

/// Room for several commits of several sectors.
const MIDDLE: Options = Options {
    segment_bytes: 64 << 10,
};

fn key(id: u64) -> Key {
    Key { kind: 1, id }
}

fn put(id: u64, value: &str) -> Change {
    Change::Put(key(id), Bytes::copy_from_slice(value.as_bytes()))
}

fn disk() -> SimDisk {
    SimDisk::new(1, usize::MAX)
}

fn open(disk: &SimDisk) -> (Store<SimDisk>, BTreeMap<Key, Bytes>) {
    let (store, recovered) = Store::open(disk.clone(), SMALL).unwrap();
    (store, recovered.values.into_iter().collect())
}

fn newest(disk: &SimDisk) -> String {
    disk.list().unwrap().into_iter().max().unwrap()
}

#[test]
fn what_was_committed_is_there_after_a_power_cut() {
    let disk = disk();
    let (mut store, _) = open(&disk);
    store.apply(put(1, "one"));
    store.apply(put(2, "two"));
    store.apply(Change::Delete(key(1)));
    store.commit(true).unwrap();
    disk.lose_power();
    let (_, values) = open(&disk);
    assert_eq!(values, BTreeMap::from([(key(2), Bytes::from_static(b"two"))]));
}

#[test]
fn what_stands_comes_back_in_the_order_of_its_writing_although_it_was_copied() {
    let disk = disk();
    let (mut store, _) = open(&disk);
    store.apply(put(1, "old"));
    store.commit(true).unwrap();
    store.apply(put(3, "older than 2"));
    store.apply(put(2, "new"));
    for n in 0..1000 {
        store.apply(put(9, &n.to_string()));
        store.commit(true).unwrap();
    }
    let first = disk.list().unwrap().into_iter().min().unwrap();
    assert!(!first.starts_with("0000000001"), "nothing was copied: {first}");
    let (_, recovered) = Store::open(disk, SMALL).unwrap();
    let ids: Vec<u64> = recovered.values.iter().map(|(key, _)| key.id).collect();
    assert_eq!(ids, [1, 3, 2, 9]);
}

#[test]
fn what_comes_and_goes_between_two_commits_is_never_written() {
    let disk = disk();
    let (mut store, _) = open(&disk);
    let before = disk.traffic();
    store.apply(put(1, "one"));
    store.apply(Change::Delete(key(1)));
    store.commit(true).unwrap();
    assert_eq!(disk.traffic(), before);
}

#[test]
fn files_do_not_grow_with_changes_of_the_same_keys() {
    let disk = disk();
    let (mut store, _) = open(&disk);
    for round in 0..10_000 {
        store.apply(put(round % 10, &format!("value {round}")));
        store.commit(true).unwrap();
    }
    assert!(store.usage().file_bytes <= 4 * 2048, "{:?}", store.usage());
    let (_, values) = open(&disk);
    assert_eq!(values.len(), 10);
    assert_eq!(values[&key(9)], "value 9999");
}

#[test]
fn values_survive_many_moves_to_newer_segments() {
    let disk = disk();
    let (mut store, _) = open(&disk);
    store.apply(put(1000, "old"));
    for round in 0..2_000 {
        store.apply(put(round % 7, "young"));
        store.commit(true).unwrap();
    }
    disk.lose_power();
    let (_, values) = open(&disk);
    assert_eq!(values[&key(1000)], "old");
}

#[test]
fn what_a_failed_sync_left_in_memory_is_durable_once_it_is_read_again() {
    let disk = disk();
    let (mut store, _) = open(&disk);
    store.apply(put(1, "before"));
    store.commit(true).unwrap();
    store.apply(put(2, "written, and not synced"));
    disk.fail_after(1);
    store.commit(true).unwrap_err();
    disk.heal();
    // The process ends, and the next one reads it.
    drop(store);
    let (store, values) = open(&disk);
    assert_eq!(values.len(), 2);
    drop(store);
    disk.lose_power();
    assert_eq!(open(&disk).1.len(), 2);
}

#[test]
fn what_is_read_from_a_disk_that_does_not_work_is_written_again() {
    let disk = disk();
    let (mut store, _) = open(&disk);
    store.apply(put(1, "before"));
    store.commit(true).unwrap();
    store.apply(put(2, "written, and not synced"));
    disk.fail_after(1);
    store.commit(true).unwrap_err();
    drop(store);
    let (mut store, values) = open(&disk);
    assert_eq!(values.len(), 2);
    assert!(store.has_pending());
    disk.heal();
    store.commit(true).unwrap();
    disk.lose_power();
    assert_eq!(open(&disk).1.len(), 2);
}

#[test]
fn what_stands_before_segments_without_a_commit_is_durable_once_it_is_read_again() {
    for healed in [false, true] {
        let disk = disk();
        let (mut store, _) = open(&disk);
        store.apply(put(1, "before"));
        store.commit(true).unwrap();
        store.apply(put(2, "written, and not synced"));
        disk.fail_after(1);
        store.commit(true).unwrap_err();
        // The next segment is begun, and nothing is written to it.
        disk.fail_after(1);
        store.commit(true).unwrap_err();
        if healed {
            disk.heal();
        }
        drop(store);
        let (mut store, values) = open(&disk);
        assert_eq!(values.len(), 2);
        assert_eq!(store.has_pending(), !healed);
        disk.heal();
        store.commit(true).unwrap();
        disk.lose_power();
        assert_eq!(open(&disk).1.len(), 2, "healed before the end: {healed}");
    }
}

#[test]
fn a_disk_that_is_full_refuses_and_works_again_when_there_is_room() {
    let disk = SimDisk::new(1, 2048);
    let (mut store, _) = open(&disk);
    store.apply(put(1, "before"));
    store.commit(true).unwrap();
    store.apply(put(2, &"x".repeat(2000)));
    assert!(store.commit(true).is_err());
    store.apply(put(3, "also kept"));
    assert!(store.commit(true).is_err());
    disk.resize(usize::MAX);
    store.commit(true).unwrap();
    disk.lose_power();
    let (_, values) = open(&disk);
    assert_eq!(values.len(), 3);
}

#[test]
fn after_a_failed_sync_everything_pending_goes_to_a_new_segment() {
    let disk = disk();
    let (mut store, _) = open(&disk);
    store.apply(put(1, "one"));
    store.commit(true).unwrap();
    let first = newest(&disk);
    store.apply(put(2, "two"));
    disk.fail_after(1);
    assert!(store.commit(true).is_err(), "the write works, the sync does not");
    disk.heal();
    store.commit(true).unwrap();
    assert_ne!(newest(&disk), first);
    disk.lose_power();
    assert_eq!(open(&disk).1.len(), 2);
}

#[test]
fn what_was_deleted_while_the_disk_failed_does_not_come_back() {
    let disk = disk();
    let (mut store, _) = open(&disk);
    store.apply(put(0, "zero"));
    store.commit(true).unwrap();
    store.apply(put(1, "one"));
    disk.fail_after(1);
    store.commit(true).unwrap_err();
    disk.heal();
    store.apply(Change::Delete(key(1)));
    store.commit(true).unwrap();
    // Without a power cut the write that was not synced stands in the segment that was given up.
    assert_eq!(open(&disk).1.len(), 1);
}

#[test]
fn each_flipped_octet_of_a_segment_costs_its_record_alone() {
    let disk = disk();
    let (mut store, _) = open(&disk);
    for id in 0..40 {
        store.apply(put(id, &format!("the value of {id}")));
        store.commit(true).unwrap();
    }
    let name = newest(&disk);
    let whole = disk.read(&name).unwrap();
    let used = whole.iter().rposition(|octet| *octet != 0).unwrap() + 1;
    for at in 0..used {
        disk.damage(&name, |octets| octets[at] ^= 0x41);
        let (_, recovered) = Store::open(disk.clone(), SMALL).unwrap();
        assert_eq!(recovered.values.len(), 39, "octet {at}");
        assert_eq!(recovered.damage.len(), 1, "octet {at}");
        assert_eq!(recovered.damage[0].file, name);
        disk.damage(&name, |octets| octets[at] ^= 0x41);
    }
}

#[test]
fn each_truncation_costs_only_what_was_cut_off() {
    let disk = disk();
    let (mut store, _) = open(&disk);
    let mut ends = Vec::new();
    for id in 1..=30 {
        store.apply(put(id, &"v".repeat(id as usize)));
        store.commit(true).unwrap();
        let octets = disk.read(&newest(&disk)).unwrap();
        ends.push(octets.iter().rposition(|octet| *octet != 0).unwrap() + 1);
    }
    let name = newest(&disk);
    let whole = disk.read(&name).unwrap();
    for len in 0..whole.len() {
        disk.damage(&name, |octets| octets.truncate(len));
        let (mut store, values) = open(&disk);
        let expected = ends.iter().filter(|end| **end <= len).count();
        assert_eq!(
            disk.read(&name).unwrap().len(),
            whole.len(),
            "it has its length again"
        );
        assert!(
            values.len() >= expected,
            "cut to {len}: {} of {expected}",
            values.len()
        );
        // It goes on from there.
        store.apply(put(1000, "new"));
        store.commit(true).unwrap();
        assert!(open(&disk).1.len() > expected);
        for file in disk.list().unwrap() {
            if file == name {
                disk.damage(&file, |octets| octets.clone_from(&whole));
            } else {
                disk.clone().remove(&file).unwrap();
            }
        }
    }
}

/// Whatever sectors a power cut leaves, and however many changes are committed together.
#[test]
fn a_commit_is_there_as_a_whole_or_not_at_all() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..600 {
        let disk = SimDisk::new(seed, usize::MAX);
        let (mut store, _) = Store::open(disk.clone(), MIDDLE).unwrap();
        let sizes = 1 + seed % 40;
        for (round, syncs) in [(0, true), (1, true), (2, false)] {
            for id in 0..=seed % 6 {
                let value = format!("{round}{}", "x".repeat((sizes * (id + 7) * 11 % 900) as usize));
                store.apply(put(id, &value));
            }
            if round == 2 {
                store.apply(Change::Delete(key(0)));
                store.apply(put(1, "2"));
            }
            store.commit(syncs).unwrap();
        }
        disk.lose_power();
        for life in 0..3 {
            let (mut store, recovered) = Store::open(disk.clone(), MIDDLE).unwrap();
            let values: BTreeMap<Key, Bytes> = recovered.values.into_iter().collect();
            let mut rounds: BTreeSet<u8> = (1..=seed % 6)
                .filter_map(|id| values.get(&key(id)).map(|value| value[0] - b'0'))
                .collect();
            rounds.insert(if values.contains_key(&key(0)) { 1 } else { 2 });
            assert_eq!(rounds.len(), 1, "seed {seed}, life {life}: {rounds:?}");
            outcomes.extend(rounds);
            // What was cut off does not count once something follows it.
            store.apply(put(100 + life, "after"));
            store.commit(true).unwrap();
            disk.lose_power();
        }
    }
    assert_eq!(outcomes, BTreeSet::from([1, 2]));
}

#[test]
fn a_change_alone_costs_nothing_for_being_atomic() {
    let disk = disk();
    let (mut store, _) = open(&disk);
    store.apply(put(1, "one"));
    store.commit(true).unwrap();
    let octets = disk.read(&newest(&disk)).unwrap();
    let used = octets.iter().rposition(|octet| *octet != 0).unwrap() + 1;
    assert_eq!(used, gateway_store::record::OVERHEAD + 3);
}

#[derive(Debug, Clone)]
enum Step {
    Put(u64, usize),
    Delete(u64),
    Commit,
    PowerCut,
    Reopen,
    Fail(u32),
    Heal,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..12_u64, 0..300_usize).prop_map(|(id, len)| Step::Put(id, len)),
        4 => (0..12_u64).prop_map(Step::Delete),
        8 => Just(Step::Commit),
        1 => Just(Step::PowerCut),
        1 => Just(Step::Reopen),
        1 => (0..3_u32).prop_map(Step::Fail),
        2 => Just(Step::Heal),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// After each power cut every key has its last committed value or one given later, and nothing else.
    #[test]
    fn nothing_committed_is_lost_and_nothing_deleted_returns(seed: u64, steps in prop::collection::vec(step(), 1..200)) {
        let disk = SimDisk::new(seed, usize::MAX);
        let (mut store, _) = open(&disk);
        // What each key may hold: the committed value first, then what was asked for since.
        let mut possible: BTreeMap<u64, Vec<Option<String>>> = (0..12).map(|id| (id, vec![None])).collect();
        let mut failed = false;
        for (at, step) in steps.into_iter().enumerate() {
            match step {
                Step::Put(id, len) => {
                    let value = format!("{at}-{}", "x".repeat(len));
                    store.apply(put(id, &value));
                    possible.get_mut(&id).unwrap().push(Some(value));
                }
                Step::Delete(id) => {
                    store.apply(Change::Delete(key(id)));
                    possible.get_mut(&id).unwrap().push(None);
                }
                Step::Commit => {
                    if store.commit(true).is_ok() {
                        for values in possible.values_mut() {
                            values.drain(..values.len() - 1);
                        }
                    }
                }
                Step::PowerCut | Step::Reopen => {
                    // A system that failed to write and goes on shows what the disk has not.
                    if failed || matches!(step, Step::PowerCut) {
                        disk.lose_power();
                    }
                    failed = false;
                    disk.heal();
                    let found;
                    (store, found) = open(&disk);
                    prop_assert!(found.keys().all(|key| key.id < 12));
                    for (id, values) in &mut possible {
                        let now = found.get(&key(*id)).map(|value| String::from_utf8(value.to_vec()).unwrap());
                        prop_assert!(values.contains(&now), "key {id}: {now:?} is none of {values:?}");
                        *values = vec![now];
                    }
                }
                Step::Fail(count) => {
                    failed = true;
                    disk.fail_after(count);
                }
                Step::Heal => disk.heal(),
            }
        }
    }

    #[test]
    fn any_file_content_opens(octets in prop::collection::vec(any::<u8>(), 0..4000)) {
        let disk = disk();
        let (mut store, _) = open(&disk);
        store.apply(put(1, "one"));
        store.commit(true).unwrap();
        disk.damage(&newest(&disk), |content| content.splice(..octets.len().min(2048), octets).for_each(drop));
        let (mut store, _) = open(&disk);
        store.apply(put(2, "two"));
        store.commit(true).unwrap();
        disk.lose_power();
        prop_assert!(open(&disk).1.contains_key(&key(2)));
    }
}

/// What a test hears of a writer.
#[derive(Debug, PartialEq)]
enum Heard {
    Durable(u64),
    Event(Event),
}

struct Bench {
    writer: Writer,
    handle: Handle,
    reports: mpsc::Sender<Heard>,
    heard: mpsc::Receiver<Heard>,
}

impl Bench {
    fn new(sync: Sync, disk: &SimDisk) -> Self {
        let (store, recovered) = Store::open(disk.clone(), Options::default()).unwrap();
        let (reports, heard) = mpsc::channel();
        let events = reports.clone();
        let report = move |event| events.send(Heard::Event(event)).unwrap_or_default();
        let (writer, handle) = Writer::spawn(store, sync, 0, &recovered.values, report).unwrap();
        Bench {
            writer,
            handle,
            reports,
            heard,
        }
    }

    fn submit(&self, id: u64) {
        let reports = self.reports.clone();
        let done = Box::new(move || reports.send(Heard::Durable(id)).unwrap_or_default());
        self.handle.submit(vec![put(id, "value")], Some(done));
    }

    fn next(&self) -> Heard {
        self.heard
            .recv_timeout(Duration::from_secs(20))
            .expect("a report in time")
    }

    fn end(self) {
        drop(self.handle);
        self.writer.join();
    }
}

#[test]
fn writer_syncs_many_changes_at_once() {
    let disk = disk();
    let bench = Bench::new(Sync::Group(Duration::from_millis(200)), &disk);
    let (_, before) = disk.traffic();
    for id in 1..=100 {
        bench.submit(id);
    }
    for id in 1..=100 {
        assert_eq!(bench.next(), Heard::Durable(id));
    }
    let (_, syncs) = disk.traffic();
    assert!(syncs - before <= 2, "one for the segment, one for the changes");
    bench.end();
}

#[test]
fn writer_reports_a_broken_disk_once_and_goes_on_when_it_works() {
    let disk = disk();
    let bench = Bench::new(Sync::Each, &disk);
    disk.fail_after(0);
    bench.submit(1);
    assert!(matches!(bench.next(), Heard::Event(Event::Failed(_))));
    bench.submit(2);
    disk.heal();
    assert_eq!(bench.next(), Heard::Event(Event::Works));
    assert_eq!(
        [bench.next(), bench.next()],
        [Heard::Durable(1), Heard::Durable(2)]
    );
    bench.end();
    assert_eq!(open(&disk).1.keys().filter(|key| key.kind == 1).count(), 2);
}

#[test]
fn writer_writes_what_nobody_waits_for_before_it_ends() {
    let disk = disk();
    let bench = Bench::new(Sync::Each, &disk);
    bench.handle.submit(vec![put(1, "one")], None);
    bench.end();
    assert!(open(&disk).1.contains_key(&key(1)));
}

#[test]
fn a_directory_belongs_to_one_store_and_keeps_what_it_got() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("store");
    let (mut store, _) = Store::open(Directory::open(&path).unwrap(), SMALL).unwrap();
    assert!(Directory::open(&path).is_err());
    let ids: BTreeSet<u64> = (0..500).collect();
    for id in &ids {
        store.apply(put(*id, "value"));
    }
    store.commit(true).unwrap();
    drop(store);
    let (_, recovered) = Store::open(Directory::open(&path).unwrap(), SMALL).unwrap();
    assert_eq!(
        recovered
            .values
            .iter()
            .map(|(key, _)| key.id)
            .collect::<BTreeSet<_>>(),
        ids
    );
    assert_eq!(recovered.damage, []);
}
