//! What radios have used of their duty cycle, kept over restarts in the state directory.
//!
//! The core decides what is written and when (its module `budget`); here it becomes a file. Each record carries the
//! time at which it was made, twice: by the clock of this boot, which nobody sets, and by the wall clock, which is all
//! there is after another boot. If that went back in between (a Pi has no battery for its clock), no time counts as
//! passed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc as blocking;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gateway_core::io::{AirtimeFound, AirtimeRecord, AirtimeUsed, Input, StoreEvent};
use gateway_core::peer::LinkId;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

/// The records.
const FILE: &str = "airtime.json";

/// Says that there was a start before: without records they were lost then.
const MARKER: &str = "airtime.started";

const MARKER_TEXT: &[u8] =
    b"Tells a first start from one that lost airtime.json. Without both, duty cycles begin anew.\n";

/// A file of ours is far smaller.
const FILE_MAX: u64 = 1 << 20;

/// Records of radios that are not configured any more are forgotten after this; no law looks back further.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// Writes records on a thread of its own, for a disk may take its time.
#[derive(Debug)]
pub(crate) struct AirtimeLog {
    requests: blocking::Sender<(LinkId, AirtimeRecord, Moment)>,
}

impl AirtimeLog {
    /// Looks for the records of an earlier start, and for each radio says what was found. What becomes of a record goes
    /// to `inputs`, as long as anybody else sends there.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub(crate) fn open(
        directory: &Path,
        radios: &[String],
        inputs: mpsc::WeakSender<Input>,
    ) -> io::Result<(AirtimeLog, Vec<AirtimeFound>)> {
        let now = Moment::now();
        fs::create_dir_all(directory)?;
        let mut records = Records::open(directory, radios, &now)?;
        let found = records.found(radios, &now);
        let (requests, incoming) = blocking::channel();
        let radios = radios.to_vec();
        std::thread::Builder::new()
            .name("airtime".into())
            .spawn(move || write_all(&mut records, &radios, &incoming, &inputs))?;
        Ok((AirtimeLog { requests }, found))
    }

    /// Has a record written.
    pub(crate) fn store(&self, link: LinkId, record: AirtimeRecord) {
        // The thread ends after this value does.
        let _ = self.requests.send((link, record, Moment::now()));
    }
}

/// Writes what comes, all that waits at once.
fn write_all(
    records: &mut Records,
    radios: &[String],
    incoming: &blocking::Receiver<(LinkId, AirtimeRecord, Moment)>,
    inputs: &mpsc::WeakSender<Input>,
) {
    while let Ok(first) = incoming.recv() {
        let mut links = Vec::new();
        for (link, record, at) in std::iter::once(first).chain(incoming.try_iter()) {
            if let Some(radio) = radios.get(usize::from(link.0)) {
                records
                    .file
                    .radios
                    .insert(radio.clone(), Some(Record::new(&record, at)));
                links.push(link);
            }
        }
        let written = records.write();
        if let Err(error) = &written {
            error!(target: "gateway", file = %records.path().display(), %error, "airtime cannot be recorded");
        }
        let Some(inputs) = inputs.upgrade() else { return };
        for link in links {
            let event = match written {
                Ok(()) => StoreEvent::AirtimeStored(link),
                Err(_) => StoreEvent::AirtimeNotStored(link),
            };
            if inputs.blocking_send(Input::Store(event)).is_err() {
                return;
            }
        }
    }
}

/// The file and what is in it.
#[derive(Debug)]
struct Records {
    directory: PathBuf,
    file: Contents,
    /// Nothing was ever recorded here.
    first_start: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    version: u32,
    /// `None` for one of which nothing is known since the file was lost.
    radios: BTreeMap<String, Option<Record>>,
}

impl Default for Contents {
    fn default() -> Self {
        Contents {
            version: 1,
            radios: BTreeMap::new(),
        }
    }
}

impl Records {
    /// Writes the file and the marker too: what cannot be written must show now, and not when the first datagram is to
    /// be sent.
    fn open(directory: &Path, radios: &[String], now: &Moment) -> io::Result<Records> {
        let path = directory.join(FILE);
        let read = read(&path);
        let first_start = matches!(&read, Err(error) if error.kind() == io::ErrorKind::NotFound)
            && !directory.join(MARKER).try_exists()?;
        let file = match read {
            Ok(mut file) => {
                let counts = |record: &Record| now.since(&record.at) < KEPT_FOR;
                file.radios
                    .retain(|name, record| radios.contains(name) || record.as_ref().is_some_and(counts));
                file
            }
            Err(_) if first_start => Contents::default(),
            Err(error) => {
                warn!(target: "gateway", file = %path.display(), %error, "airtime of earlier starts is not known");
                let mut file = Contents::default();
                file.radios
                    .extend(radios.iter().map(|radio| (radio.clone(), None)));
                file
            }
        };
        let mut records = Records {
            directory: directory.to_owned(),
            file,
            first_start,
        };
        if !first_start {
            records.take_over(radios, now);
        }
        // In this order: a marker without a file means that the file was lost.
        records.write()?;
        write_durably(directory, MARKER, MARKER_TEXT)?;
        Ok(records)
    }

    /// A radio that is not in the file may be one that was renamed: it takes over what those have used that are
    /// configured no more. They stay in the file, for they may come back, but nobody counts them twice: what one of
    /// them has passed on to another is in the record of that one.
    fn take_over(&mut self, radios: &[String], now: &Moment) {
        let known = &self.file.radios;
        let new: Vec<&String> = radios
            .iter()
            .filter(|radio| !known.contains_key(*radio))
            .collect();
        let gone = |name: &String| known.contains_key(name) && !radios.contains(name);
        let mut sum = AirtimeRecord::default();
        let mut from = Vec::new();
        for (name, record) in known {
            let Some(record) = record else { continue };
            if !gone(name) || record.heirs.iter().any(gone) {
                continue;
            }
            let record = record.as_of(now);
            sum.used.extend(record.used);
            sum.reserved += record.reserved;
            from.push(name.clone());
        }
        if new.is_empty() || from.is_empty() {
            return;
        }
        let airtime: Duration = sum.used.iter().flat_map(|used| used.airtime).sum();
        for radio in new {
            info!(
                target: "gateway", radio, ?airtime, from = from.join(", "),
                "a new radio, for which counts what those have sent that are configured no more"
            );
            let record = Record::new(&sum, now.clone());
            self.file.radios.insert(radio.clone(), Some(record));
            for name in &from {
                if let Some(Some(record)) = self.file.radios.get_mut(name) {
                    record.heirs.push(radio.clone());
                }
            }
        }
    }

    /// What was found of each radio.
    fn found(&self, radios: &[String], now: &Moment) -> Vec<AirtimeFound> {
        let find = |radio: &String| {
            if self.first_start {
                return AirtimeFound::FirstStart;
            }
            match self.file.radios.get(radio) {
                Some(Some(record)) => AirtimeFound::Record(record.as_of(now)),
                Some(None) => AirtimeFound::Lost,
                None => AirtimeFound::Record(AirtimeRecord::default()),
            }
        };
        radios.iter().map(find).collect()
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    fn write(&self) -> io::Result<()> {
        let text = serde_json::to_vec(&self.file).map_err(io::Error::other)?;
        write_durably(&self.directory, FILE, &text)
    }
}

fn read(path: &Path) -> io::Result<Contents> {
    let mut text = Vec::new();
    File::open(path)?.take(FILE_MAX).read_to_end(&mut text)?;
    let contents: Contents = serde_json::from_slice(&text).map_err(io::Error::other)?;
    if contents.version == 1 {
        Ok(contents)
    } else {
        Err(io::Error::other(format!(
            "version {} is not known",
            contents.version
        )))
    }
}

/// Puts a file in place of another, at once and for good: whatever happens, one of the two is there.
fn write_durably(directory: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
}

/// What a radio has used, and when that was written down.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    at: Moment,
    reserved_us: u64,
    /// Age in ms, then µs on the air by share.
    used: Vec<(u64, [u64; 4])>,
    /// Radios that took this over when it was configured no more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    heirs: Vec<String>,
}

impl Record {
    fn new(record: &AirtimeRecord, at: Moment) -> Self {
        let used = record.used.iter().map(|used| {
            // Younger rather than older.
            (used.age.as_millis() as u64, used.airtime.map(micros))
        });
        Record {
            at,
            reserved_us: micros(record.reserved),
            used: used.collect(),
            heirs: Vec::new(),
        }
    }

    /// With its ages counted from now. What was reserved may have been sent at any time since.
    fn as_of(&self, now: &Moment) -> AirtimeRecord {
        let passed = now.since(&self.at);
        let used = self.used.iter().map(|(age_ms, airtime)| AirtimeUsed {
            age: Duration::from_millis(*age_ms).saturating_add(passed),
            airtime: airtime.map(Duration::from_micros),
        });
        AirtimeRecord {
            used: used.collect(),
            reserved: Duration::from_micros(self.reserved_us),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

/// A point in time that can be compared after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Moment {
    /// Which boot of the machine.
    boot: Option<String>,
    /// Since that boot.
    uptime_ms: u64,
    /// Since 1970, as far as the machine knows.
    wall_ms: u64,
}

impl Moment {
    fn now() -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        let uptime = fs::read_to_string("/proc/uptime").ok();
        let uptime = uptime.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment {
            boot: boot
                .filter(|_| uptime.is_some())
                .map(|boot| boot.trim().to_owned()),
            uptime_ms: uptime.map_or(0, |seconds| (seconds * 1000.0) as u64),
            wall_ms: wall.as_millis() as u64,
        }
    }

    /// Time since an earlier moment, as far as it is certain.
    fn since(&self, earlier: &Moment) -> Duration {
        let passed = if self.boot.is_some() && self.boot == earlier.boot {
            self.uptime_ms.saturating_sub(earlier.uptime_ms)
        } else {
            self.wall_ms.saturating_sub(earlier.wall_ms)
        };
        Duration::from_millis(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn moment(boot: &str, uptime_ms: u64, wall_ms: u64) -> Moment {
        Moment {
            boot: Some(boot.into()),
            uptime_ms,
            wall_ms,
        }
    }

    fn record(age_s: u64, airtime_ms: u64, reserved_ms: u64) -> AirtimeRecord {
        let mut airtime = [Duration::ZERO; 4];
        airtime[2] = Duration::from_millis(airtime_ms);
        AirtimeRecord {
            used: vec![AirtimeUsed {
                age: Duration::from_secs(age_s),
                airtime,
            }],
            reserved: Duration::from_millis(reserved_ms),
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// A directory in which `lora0` was recorded at a moment.
    fn recorded(at: &Moment) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut records = Records::open(dir.path(), &names(&["lora0"]), at).unwrap();
        let record = Record::new(&record(10, 500, 1000), at.clone());
        records.file.radios.insert("lora0".into(), Some(record));
        records.write().unwrap();
        dir
    }

    fn found_after(dir: &Path, now: &Moment, radios: &[&str]) -> Vec<AirtimeFound> {
        let records = Records::open(dir, &names(radios), now).unwrap();
        records.found(&names(radios), now)
    }

    #[test]
    fn only_the_very_first_start_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let now = moment("a", 0, 0);
        assert_eq!(
            found_after(dir.path(), &now, &["lora0"]),
            [AirtimeFound::FirstStart]
        );
        assert_eq!(
            found_after(dir.path(), &now, &["lora0"]),
            [AirtimeFound::Record(AirtimeRecord::default())],
            "it sent nothing, for nothing was recorded"
        );
    }

    #[test]
    fn record_is_older_by_the_time_between() {
        let dir = recorded(&moment("a", 1000, 50_000));
        let again = found_after(dir.path(), &moment("a", 31_000, 80_000), &["lora0"]);
        assert_eq!(again, [AirtimeFound::Record(record(40, 500, 1000))]);
    }

    #[test]
    fn clock_that_was_set_forward_makes_nothing_older_within_a_boot() {
        let dir = recorded(&moment("a", 1000, 0));
        let again = found_after(dir.path(), &moment("a", 31_000, 9 * HOUR_MS), &["lora0"]);
        assert_eq!(again, [AirtimeFound::Record(record(40, 500, 1000))]);
    }

    #[test]
    fn after_another_boot_the_wall_clock_counts() {
        let dir = recorded(&moment("a", 5_000_000, 50_000));
        let again = found_after(dir.path(), &moment("b", 1000, 80_000), &["lora0"]);
        assert_eq!(again, [AirtimeFound::Record(record(40, 500, 1000))]);
    }

    #[test]
    fn clock_that_went_back_makes_nothing_older() {
        let dir = recorded(&moment("a", 1000, 9 * HOUR_MS));
        let again = found_after(dir.path(), &moment("b", 1000, 0), &["lora0"]);
        assert_eq!(again, [AirtimeFound::Record(record(10, 500, 1000))]);
    }

    #[test]
    fn file_that_is_lost_or_cannot_be_read_is_told() {
        let at = moment("a", 0, 0);
        for damage in ["", "{", "{\"version\":2,\"radios\":{}}", "[]"] {
            let dir = recorded(&at);
            fs::write(dir.path().join(FILE), damage).unwrap();
            assert_eq!(
                found_after(dir.path(), &at, &["lora0"]),
                [AirtimeFound::Lost],
                "{damage}"
            );
            assert_eq!(
                found_after(dir.path(), &at, &["lora0"]),
                [AirtimeFound::Lost],
                "until something is recorded"
            );
        }
        let dir = recorded(&at);
        fs::remove_file(dir.path().join(FILE)).unwrap();
        assert_eq!(found_after(dir.path(), &at, &["lora0"]), [AirtimeFound::Lost]);
    }

    #[test]
    fn radio_with_another_name_takes_over_what_is_nobodys_now() {
        let at = moment("a", 0, 0);
        let dir = recorded(&at);
        assert_eq!(
            found_after(dir.path(), &at, &["lora0", "west"])[1],
            AirtimeFound::Record(AirtimeRecord::default())
        );
        assert_eq!(
            found_after(dir.path(), &at, &["east"]),
            [AirtimeFound::Record(record(10, 500, 1000))]
        );
    }

    #[test]
    fn what_was_taken_over_is_counted_once() {
        let at = moment("a", 0, 0);
        let dir = recorded(&at);
        // Names of one modem, one after the other, and the first once more.
        for name in ["west", "east", "south", "lora0"] {
            assert_eq!(
                found_after(dir.path(), &at, &[name]),
                [AirtimeFound::Record(record(10, 500, 1000))],
                "{name}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_stored_is_confirmed_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let (inputs, mut receiver) = mpsc::channel(4);
        let radios = names(&["udp0", "lora0"]);
        let (log, found) = AirtimeLog::open(dir.path(), &radios, inputs.downgrade()).unwrap();
        assert_eq!(found, [AirtimeFound::FirstStart, AirtimeFound::FirstStart]);
        log.store(LinkId(1), record(1, 20, 30));
        let confirmed = receiver.recv().await;
        assert!(matches!(
            confirmed,
            Some(Input::Store(StoreEvent::AirtimeStored(LinkId(1))))
        ));
        let (_log, found) = AirtimeLog::open(dir.path(), &radios, inputs.downgrade()).unwrap();
        let AirtimeFound::Record(again) = &found[1] else {
            panic!("{found:?}")
        };
        assert_eq!(again.reserved, Duration::from_millis(30));
        assert!(again.used[0].age >= Duration::from_secs(1));
    }

    #[tokio::test]
    async fn record_that_cannot_be_written_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (inputs, mut receiver) = mpsc::channel(4);
        let (log, _) = AirtimeLog::open(dir.path(), &names(&["lora0"]), inputs.downgrade()).unwrap();
        fs::remove_dir_all(dir.path()).unwrap();
        log.store(LinkId(0), record(1, 20, 30));
        let told = receiver.recv().await;
        assert!(matches!(
            told,
            Some(Input::Store(StoreEvent::AirtimeNotStored(LinkId(0))))
        ));
    }

    #[test]
    fn moments_of_this_machine_are_of_one_boot_and_do_not_go_back() {
        let first = Moment::now();
        let second = Moment::now();
        assert_eq!(first.boot, second.boot);
        assert!(second.since(&first) < Duration::from_secs(60));
    }
}
