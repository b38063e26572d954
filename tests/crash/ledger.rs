//! What the outer ends wrote down, and what it must add up to.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

/// A message: whose, with which QoS, its number. The numbers of one client rise.
pub(crate) type Key = (String, u8, u64);

/// The books of one campaign.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// From sensors to the MQTT subscriber.
    pub(crate) up: Direction,
    /// From the MQTT publisher to sleepers.
    pub(crate) down: Direction,
    /// Everything else that happened to them, and how often.
    pub(crate) notes: BTreeMap<String, u64>,
    /// From when to when the gateway was connected to its broker and nothing else broke either, in milliseconds since
    /// 1970; in order.
    pub(crate) calm: Vec<RangeInclusive<u64>>,
    /// How often the broker sent a QoS 2 command again that it must not send again, by sleeper.
    sent_again: BTreeMap<String, u64>,
}

/// The messages in one direction.
#[derive(Debug, Default)]
pub(crate) struct Direction {
    sent: BTreeSet<Key>,
    acked: BTreeSet<Key>,
    /// How often each arrived.
    arrived: BTreeMap<Key, u64>,
    /// How many are acknowledged and have not arrived: counted, since that is asked often.
    owed: usize,
    /// The number that arrived last for the first time, by client and QoS.
    newest: BTreeMap<(String, u8), u64>,
    /// First arrivals that came after a later message.
    late: Vec<Key>,
    /// First arrivals in their order.
    order: Vec<Key>,
    /// When a message was sent and when it was acknowledged, where that is written down.
    times: BTreeMap<Key, (u64, u64)>,
}

impl Ledger {
    /// Takes a line of a ledger.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn enter(&mut self, line: &str) -> Result<(), String> {
        let (entry, rest) = line.split_once(' ').ok_or_else(|| bad(line))?;
        if entry == "note" {
            let what = rest.split(' ').next().unwrap_or_default();
            *self.notes.entry(what.to_owned()).or_default() += 1;
            return Ok(());
        }
        let (direction, event) = entry.split_once('-').ok_or_else(|| bad(line))?;
        let direction = match direction {
            "up" => &mut self.up,
            "down" => &mut self.down,
            _ => return Err(bad(line)),
        };
        let (key, time) = key(rest).ok_or_else(|| bad(line))?;
        match (event, time) {
            ("sent" | "acked", Some(time)) => {
                let times = direction.times.entry(key.clone()).or_insert((time, u64::MAX));
                times.1 = if event == "acked" { time } else { times.1 };
            }
            (_, Some(_)) => return Err(bad(line)),
            (_, None) => {}
        }
        match event {
            "sent" => direction.sent.insert(key),
            "acked" => direction.acknowledge(key),
            "arrived" => direction.arrive(key),
            _ => return Err(bad(line)),
        };
        Ok(())
    }

    /// The broker sent a QoS 2 command for this sleeper again that it must not send again.
    pub(crate) fn excuse(&mut self, sleeper: String) {
        *self.sent_again.entry(sleeper).or_default() += 1;
    }

    /// How many repeats the broker answers for, of how many that it sent.
    pub(crate) fn excused(&self) -> (u64, u64) {
        let repeats = |(sleeper, sent): (&String, &u64)| self.down.repeats_to(sleeper).min(*sent);
        (
            self.sent_again.iter().map(repeats).sum(),
            self.sent_again.values().sum(),
        )
    }

    /// What was promised and is not there yet.
    pub(crate) fn outstanding(&self) -> usize {
        self.up.owed + self.down.owed
    }

    /// What was begun and is not acknowledged, or has not arrived.
    pub(crate) fn under_way(&self) -> usize {
        let unacknowledged = |way: &Direction| way.sent.len() - way.acked.len();
        unacknowledged(&self.up) + unacknowledged(&self.down) + self.outstanding()
    }

    /// What went wrong; empty is what a campaign is for.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        self.up.faults("up", &BTreeMap::new(), &mut faults);
        self.down.faults("down", &self.sent_again, &mut faults);
        let late = self.up.late.iter().map(|key| ("up", key));
        let late = late.chain(
            self.down
                .overtaken(&self.calm)
                .1
                .into_iter()
                .map(|key| ("down", key)),
        );
        faults.extend(late.map(|(way, key)| fault(way, key, "overtaken by a later one")));
        // A restart is invisible: nobody is told to go, topic ids stay what they were, and the broker that is stopped
        // in good order has its sessions.
        for note in ["disconnected", "refused", "unknown-topic", "forgotten"] {
            if let Some(count) = self.notes.get(note) {
                faults.push(format!("noted {count} times: {note}"));
            }
        }
        faults
    }
}

impl Direction {
    /// Messages whose sender was told that they are safe.
    pub(crate) fn acked(&self) -> usize {
        self.acked.len()
    }

    fn acknowledge(&mut self, key: Key) -> bool {
        let arrived = self.arrived.contains_key(&key);
        let first = self.acked.insert(key);
        self.owed += usize::from(first && !arrived);
        first
    }

    fn arrive(&mut self, key: Key) -> bool {
        let count = self.arrived.entry(key.clone()).or_default();
        *count += 1;
        if *count > 1 {
            return false;
        }
        self.owed -= usize::from(self.acked.contains(&key));
        let newest = self.newest.entry((key.0.clone(), key.1)).or_default();
        if key.2 < *newest {
            self.late.push(key.clone());
        } else {
            *newest = key.2;
        }
        self.order.push(key);
        true
    }

    /// The order of messages that were sent and acknowledged in the same calm time, whatever happened before they
    /// arrived: of how many that can be said, and those that came after a later one.
    ///
    /// The others may have changed places before the gateway: paho sends what it kept while the broker was away beside
    /// what is new, and mosquitto lets new messages overtake those that wait for a client that comes back.
    pub(crate) fn overtaken(&self, calm: &[RangeInclusive<u64>]) -> (usize, Vec<&Key>) {
        let mut newest = BTreeMap::new();
        let (mut compared, mut late) = (0, Vec::new());
        for key in &self.order {
            let Some((sent, acked)) = self.times.get(key) else {
                continue;
            };
            let at = calm.partition_point(|time| time.end() < sent);
            if !calm
                .get(at)
                .is_some_and(|time| time.contains(sent) && time.contains(acked))
            {
                continue;
            }
            let newest = newest.entry((at, &key.0, key.1)).or_insert(key.2);
            compared += usize::from(*newest != key.2);
            if key.2 < *newest {
                late.push(key);
            }
            *newest = key.2.max(*newest);
        }
        (compared, late)
    }

    fn missing(&self) -> impl Iterator<Item = &Key> {
        self.acked.iter().filter(|key| !self.arrived.contains_key(*key))
    }

    /// Arrivals beyond the first of each message.
    fn repeats(&self, qos: u8) -> u64 {
        let of_qos = self.arrived.iter().filter(|(key, _)| key.1 == qos);
        of_qos.map(|(_, count)| count - 1).sum()
    }

    /// Arrivals of QoS 2 messages of one client beyond the first of each.
    fn repeats_to(&self, client: &str) -> u64 {
        let own = self
            .arrived
            .iter()
            .filter(|(key, _)| key.0 == client && key.1 == 2);
        own.map(|(_, count)| count - 1).sum()
    }

    /// `excuses` says how many QoS 2 messages of a client may have come twice.
    fn faults(&self, name: &str, excuses: &BTreeMap<String, u64>, faults: &mut Vec<String>) {
        let lost = self.missing().map(|key| (key, "acknowledged, and lost"));
        let twice = self
            .arrived
            .iter()
            .filter(|(key, count)| key.1 == 2 && **count > 1)
            .filter(|(key, _)| self.repeats_to(&key.0) > excuses.get(&key.0).copied().unwrap_or_default());
        let twice = twice.map(|(key, _)| (key, "arrived more than once"));
        let invented = self.arrived.keys().filter(|key| !self.sent.contains(*key));
        let invented = invented.map(|key| (key, "arrived, and was never sent"));
        for (key, what) in lost.chain(twice).chain(invented) {
            faults.push(fault(name, key, what));
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sent, {} acknowledged, {} arrived, arrived again: {} of QoS 1, {} of QoS 2",
            self.sent.len(),
            self.acked.len(),
            self.arrived.len(),
            self.repeats(1),
            self.repeats(2)
        )
    }
}

/// A file that grows, read as it does.
#[derive(Debug)]
pub(crate) struct Tail {
    path: PathBuf,
    at: u64,
}

impl Tail {
    pub(crate) fn new(path: &Path) -> Tail {
        Tail {
            path: path.to_owned(),
            at: 0,
        }
    }

    /// Of the file.
    pub(crate) fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Enters the lines that are new and whole.
    ///
    /// # Errors
    /// The file cannot be read, or a line of it is no entry.
    pub(crate) fn read_into(&mut self, ledger: &mut Ledger) -> io::Result<()> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.at))?;
        let mut new = String::new();
        file.read_to_string(&mut new)?;
        let whole = new.rfind('\n').map_or(0, |end| end + 1);
        self.at += whole as u64;
        for line in new[..whole].lines() {
            ledger.enter(line).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// A message, and a time if there is one.
fn key(words: &str) -> Option<(Key, Option<u64>)> {
    let mut words = words.split(' ');
    let key = (
        words.next()?.to_owned(),
        words.next()?.parse().ok()?,
        words.next()?.parse().ok()?,
    );
    let time = words.next().map(str::parse).transpose().ok()?;
    words.next().is_none().then_some((key, time))
}

fn fault(way: &str, key: &Key, what: &str) -> String {
    format!("{way}: message {} of {} with QoS {}: {what}", key.2, key.0, key.1)
}

fn bad(line: &str) -> String {
    format!("no entry of a ledger: {line}")
}

/// Books in which something is wrong are refused, each for its own reason.
mod verdict {
    use super::Ledger;

    fn ledger(lines: &str) -> Ledger {
        let mut ledger = Ledger::default();
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            ledger.enter(line).expect("an entry");
        }
        ledger
    }

    const GOOD: &str = "
        up-sent pub1 1 1
        up-acked pub1 1 1
        up-arrived pub1 1 1
        up-sent pub1 2 2
        up-arrived pub1 2 2
        up-acked pub1 2 2
        up-sent pub1 1 3
        up-arrived pub1 1 3
        up-arrived pub1 1 1
        down-sent sleeper1 2 1
        down-acked sleeper1 2 1
        down-arrived sleeper1 2 1
        down-sent sleeper1 1 2
        note woke sleeper1
    ";

    #[track_caller]
    fn expect(more: &str, faults: &[&str]) {
        assert_eq!(ledger(&format!("{GOOD}{more}")).faults(), faults);
    }

    #[test]
    fn good_books_have_no_faults() {
        // QoS 1 may come again, and what nobody acknowledged need not arrive.
        expect("", &[]);
        assert_eq!(ledger(GOOD).outstanding(), 0);
        let mut owing = ledger(&format!("{GOOD}down-acked sleeper1 1 2\ndown-acked sleeper1 1 2"));
        assert_eq!((owing.outstanding(), owing.down.missing().count()), (1, 1));
        owing.enter("down-arrived sleeper1 1 2").expect("an entry");
        owing.enter("down-arrived sleeper1 1 2").expect("an entry");
        assert_eq!((owing.outstanding(), owing.under_way()), (0, 1));
        assert_eq!(
            ledger(GOOD).up.to_string(),
            "3 sent, 2 acknowledged, 3 arrived, arrived again: 1 of QoS 1, 0 of QoS 2"
        );
    }

    #[test]
    fn a_lost_message_is_refused() {
        expect(
            "up-sent pub1 1 4\nup-acked pub1 1 4",
            &["up: message 4 of pub1 with QoS 1: acknowledged, and lost"],
        );
        expect(
            "down-acked sleeper1 1 2",
            &["down: message 2 of sleeper1 with QoS 1: acknowledged, and lost"],
        );
    }

    #[test]
    fn a_doubled_message_is_refused() {
        expect(
            "up-arrived pub1 2 2",
            &["up: message 2 of pub1 with QoS 2: arrived more than once"],
        );
        expect(
            "down-arrived sleeper1 2 1",
            &["down: message 1 of sleeper1 with QoS 2: arrived more than once"],
        );
    }

    #[test]
    fn a_doubled_command_is_the_brokers_fault_as_often_as_the_broker_sent_one_again() {
        let mut ledger = ledger(&format!(
            "{GOOD}down-arrived sleeper1 2 1\ndown-arrived sleeper1 2 1"
        ));
        ledger.excuse("sleeper2".to_owned());
        ledger.excuse("sleeper1".to_owned());
        assert_eq!((ledger.faults().len(), ledger.excused()), (1, (1, 2)));
        ledger.excuse("sleeper1".to_owned());
        assert_eq!((ledger.faults().len(), ledger.excused()), (0, (2, 3)));
    }

    #[test]
    fn a_message_that_was_overtaken_is_refused() {
        expect(
            "up-sent pub1 1 4\nup-sent pub1 1 5\nup-arrived pub1 1 5\nup-arrived pub1 1 4",
            &["up: message 4 of pub1 with QoS 1: overtaken by a later one"],
        );
    }

    #[test]
    fn commands_keep_the_order_of_a_calm_time() {
        let faults = |times: [u64; 4], calm: &[_]| {
            let [first_sent, first_acked, sent, acked] = times;
            let mut ledger = ledger(&format!(
                "down-sent sleeper1 1 1 {first_sent}
                 down-sent sleeper1 1 2 {sent}
                 down-acked sleeper1 1 2 {acked}
                 down-acked sleeper1 1 1 {first_acked}
                 down-arrived sleeper1 1 2
                 down-arrived sleeper1 1 1"
            ));
            ledger.calm = calm.to_vec();
            ledger.faults()
        };
        let overtaken = ["down: message 1 of sleeper1 with QoS 1: overtaken by a later one"];
        assert_eq!(faults([10, 12, 11, 19], &[0..=5, 10..=19]), overtaken);
        for calm in [vec![], vec![11..=19], vec![10..=18], vec![10..=10, 11..=19]] {
            assert_eq!(faults([10, 12, 11, 19], &calm), [""; 0], "{calm:?}");
        }
        assert_eq!(
            faults([10, 10, 11, 19], &[10..=10, 11..=19]),
            [""; 0],
            "another time each"
        );
    }

    #[test]
    fn a_message_that_nobody_sent_is_refused() {
        expect(
            "down-arrived sleeper1 1 9",
            &["down: message 9 of sleeper1 with QoS 1: arrived, and was never sent"],
        );
    }

    #[test]
    fn a_restart_that_sensors_see_is_refused() {
        expect("note disconnected pub1", &["noted 1 times: disconnected"]);
        expect("note unknown-topic sleeper1", &["noted 1 times: unknown-topic"]);
        expect("note refused pub1", &["noted 1 times: refused"]);
    }

    #[test]
    fn what_is_no_entry_is_no_entry() {
        for line in [
            "",
            "up-sent",
            "up-sent pub1 1",
            "up-sent pub1 1 1 1 1",
            "up-sent pub1 1 1 x",
            "up-arrived pub1 1 1 1",
            "up-lost pub1 1 1",
            "x-sent pub1 1 1",
        ] {
            Ledger::default().enter(line).unwrap_err();
        }
    }
}
