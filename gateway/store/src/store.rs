//! The segments and what stands in them.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;
use rand::RngExt as _;
use rand::rngs::SmallRng;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::disk::{Disk, DiskFile};
use crate::record::{self, Found, OVERHEAD, Scan, VALUE_MAX};
use crate::segment::{self, Contents};
use crate::{Change, Key, OWN_KIND};

/// A page of the system and a block of most file systems: what a sync writes at least.
const PAGE: u64 = 4096;

/// How a store keeps its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Octets of a segment.
    pub segment_bytes: usize,
}

/// 4 MiB: a segment is filled with zeros at once, which an SD card takes in less than half a second.
impl Default for Options {
    fn default() -> Self {
        Options {
            segment_bytes: 4 << 20,
        }
    }
}

/// What [`Store::open`] found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Every value that stands, in the order in which they were written last.
    pub values: Vec<(Key, Bytes)>,
    /// What could not be read.
    pub damage: Vec<Damage>,
    /// Segments read.
    pub segments: usize,
}

/// A place that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The segment's file.
    pub file: String,
    /// Where.
    pub offset: usize,
    /// How many octets.
    pub len: usize,
    /// What is wrong there.
    pub kind: DamageKind,
}

/// What is wrong with a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DamageKind {
    /// The file cannot be read at all.
    Unreadable,
    /// Octets that are no record where one should be.
    Records,
    /// The last commit is not whole, as a power cut in the middle of it leaves it.
    CutOff,
    /// The file is shorter than it was made; what stood at its end is not there.
    Short,
}

/// What a store uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Octets of all segments.
    pub file_bytes: u64,
    /// Values that stand.
    pub values: u64,
    /// Octets of the records that hold them.
    pub live_bytes: u64,
    /// Octets that the disk was made to write since the start, in whole pages.
    pub written_bytes: u64,
    /// Syncs since the start.
    pub syncs: u64,
    /// Writes and syncs that failed since the start.
    pub failures: u64,
    /// Values that could no longer be read when they were to be copied to a newer segment.
    pub unreadable: u64,
}

/// Values under keys, on a disk.
#[derive(Debug)]
pub struct Store<D: Disk> {
    disk: D,
    options: Options,
    index: FxHashMap<Key, Place>,
    /// Oldest first.
    segments: VecDeque<Segment>,
    /// Open while the newest segment is written to.
    active: Option<Active<D::File>>,
    /// Not durable yet.
    pending: Vec<(u64, Change)>,
    /// Keys of changes that may or may not have reached a segment given up since.
    uncertain: FxHashSet<Key>,
    sequence: u64,
    nonces: SmallRng,
    buf: Vec<u8>,
    usage: Usage,
}

/// Where the record of a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    segment: u64,
    offset: u32,
    len: u32,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    number: u64,
    nonce: u32,
    bytes: usize,
}

#[derive(Debug)]
struct Active<F> {
    file: F,
    /// Where the next record goes.
    end: usize,
}

impl Segment {
    fn name(&self) -> String {
        format!("{:010}-{:08x}.log", self.number, self.nonce)
    }

    fn parse(name: &str) -> Option<Segment> {
        let (number, nonce) = name.strip_suffix(".log")?.split_once('-')?;
        Some(Segment {
            number: number.parse().ok()?,
            nonce: u32::from_str_radix(nonce, 16).ok()?,
            bytes: 0,
        })
    }
}

impl<D: Disk> Store<D> {
    /// Reads what is on the disk. Damage is reported and costs what it hit; no file is changed.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn open(disk: D, options: Options) -> io::Result<(Self, Recovered)> {
        let mut segments: Vec<Segment> = disk
            .list()?
            .iter()
            .filter_map(|name| Segment::parse(name))
            .collect();
        segments.sort_by_key(|segment| segment.number);
        let mut store = Store {
            disk,
            options,
            index: FxHashMap::default(),
            segments: VecDeque::new(),
            active: None,
            pending: Vec::new(),
            uncertain: FxHashSet::default(),
            sequence: 0,
            nonces: rand::make_rng(),
            buf: Vec::new(),
            usage: Usage::default(),
        };
        let mut recovered = Recovered {
            segments: segments.len(),
            ..Recovered::default()
        };
        let mut values: FxHashMap<Key, (u64, Bytes)> = FxHashMap::default();
        let mut doubtful: Vec<(Segment, Contents)> = Vec::new();
        for segment in segments {
            let Some(contents) = store.read_segment(segment, &mut values, &mut recovered.damage) else {
                continue;
            };
            if contents.has_commit {
                // What could not be synced before stands in it as well.
                doubtful.clear();
            }
            doubtful.extend(store.segments.back().map(|read| (*read, contents)));
        }
        let last = store.segments.back().map(|segment| segment.number);
        for (segment, contents) in doubtful {
            // What a process wrote that was killed before it synced counts from now on, so it must not go with the
            // power later. It is written once more, since a sync that failed in that process may have left it in the
            // system's memory alone, where nothing tells it from what is on the disk. If the file cannot be written
            // to, the first commit begins another.
            let end = contents.end;
            match store.make_durable(segment, &contents) {
                Ok(file) if last == Some(segment.number) => store.active = Some(Active { file, end }),
                Ok(_) => {}
                Err(_) => store.write_again(segment),
            }
        }
        let mut values: Vec<(Key, (u64, Bytes))> = values.into_iter().collect();
        values.sort_unstable_by_key(|(_, (sequence, _))| *sequence);
        recovered.values = values.into_iter().map(|(key, (_, value))| (key, value)).collect();
        Ok((store, recovered))
    }

    /// Reads one segment; returns what else is known of it.
    fn read_segment(
        &mut self,
        mut segment: Segment,
        values: &mut FxHashMap<Key, (u64, Bytes)>,
        damage: &mut Vec<Damage>,
    ) -> Option<Contents> {
        let file = segment.name();
        let octets = match self.disk.read(&file) {
            Ok(octets) => Bytes::from(octets),
            Err(_) => {
                damage.push(Damage {
                    file,
                    offset: 0,
                    len: 0,
                    kind: DamageKind::Unreadable,
                });
                self.segments.push_back(segment);
                return None;
            }
        };
        segment.bytes = octets.len();
        self.usage.file_bytes += octets.len() as u64;
        self.segments.push_back(segment);
        let mut contents = segment::read(segment.nonce, &octets);
        for found in core::mem::take(&mut contents.found) {
            let (offset, len, kind) = match found {
                Found::Batch { .. } => continue,
                Found::Record(found) => {
                    self.sequence = self.sequence.max(found.sequence + 1);
                    self.place(segment.number, &found.change, found.offset, found.len);
                    match found.change {
                        // A copy of its own: the segment is not kept in memory for the sake of a few values.
                        Change::Put(key, value) => {
                            values.insert(key, (found.sequence, Bytes::copy_from_slice(&value)));
                        }
                        Change::Delete(key) => {
                            values.remove(&key);
                        }
                    }
                    continue;
                }
                Found::Damage { offset, len } => (offset, len, DamageKind::Records),
                Found::Tail { offset, len } => (offset, len, DamageKind::CutOff),
            };
            damage.push(Damage {
                file: file.clone(),
                offset,
                len,
                kind,
            });
        }
        if octets.len() < self.options.segment_bytes {
            damage.push(Damage {
                file,
                offset: octets.len(),
                len: self.options.segment_bytes - octets.len(),
                kind: DamageKind::Short,
            });
        }
        Some(contents)
    }

    /// Writes what a segment says, up to where its records end, without what is no record there, and syncs. A file that
    /// is too short gets its length back.
    fn make_durable(&mut self, segment: Segment, contents: &Contents) -> io::Result<D::File> {
        let name = segment.name();
        let mut octets = self.disk.read(&name)?;
        let made = self.options.segment_bytes;
        let end = match octets.len() < made {
            true => made,
            false => contents.end.max(contents.rest.end),
        };
        octets.resize(end, 0);
        if let Some(rest) = octets.get_mut(contents.rest.clone()) {
            rest.fill(0);
        }
        let mut file = self.disk.open(&name)?;
        file.write_at(0, &octets)?;
        file.sync()?;
        if let Some(short) = made.checked_sub(segment.bytes).filter(|short| *short > 0) {
            self.usage.file_bytes += short as u64;
            let healed = self.segments.iter_mut().find(|of| of.number == segment.number);
            healed.into_iter().for_each(|healed| healed.bytes = made);
        }
        self.usage.written_bytes += (end as u64).div_ceil(PAGE) * PAGE;
        self.usage.syncs += 1;
        Ok(file)
    }

    /// What a segment says is not durable for certain: it is written again with the next commit.
    fn write_again(&mut self, segment: Segment) {
        let octets = Bytes::from(self.disk.read(&segment.name()).unwrap_or_default());
        for found in segment::read(segment.nonce, &octets).found {
            if let Found::Record(record) = found {
                self.uncertain.insert(record.change.key());
                self.pending.push((record.sequence, record.change));
            }
        }
    }

    /// Takes a change; it is durable once [`Store::commit`] returned `Ok`. A value that is longer than
    /// [`VALUE_MAX`] is not taken: false.
    pub fn apply(&mut self, change: Change) -> bool {
        if let Change::Put(_, value) = &change
            && value.len() > VALUE_MAX
        {
            return false;
        }
        self.pending.push((self.sequence, change));
        self.sequence += 1;
        true
    }

    /// True if something is not durable yet.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What is used.
    pub fn usage(&self) -> Usage {
        Usage {
            values: self.index.len() as u64,
            ..self.usage
        }
    }

    /// Makes every change durable that was taken so far: all of them together, or after a power cut none.
    ///
    /// # Errors
    /// The disk does not work or is full. The changes are kept, the last of each key, and written by the next commit,
    /// to a new segment.
    pub fn commit(&mut self, sync: bool) -> io::Result<()> {
        self.drop_superseded();
        if self.pending.is_empty() {
            return Ok(());
        }
        let mut pending = core::mem::take(&mut self.pending);
        // Nothing depends on the store's own values: they stand alone, before what belongs together.
        pending.sort_by_key(|(_, change)| change.key().kind != OWN_KIND);
        let written = self.write(&pending, sync);
        if let Err(error) = written {
            self.uncertain
                .extend(pending.iter().map(|(_, change)| change.key()));
            self.pending = pending;
            return Err(error);
        }
        self.uncertain.clear();
        // What was asked for is durable, whatever becomes of this.
        let _ = self.compact();
        Ok(())
    }

    /// Leaves out changes that a later one of the same key makes needless.
    fn drop_superseded(&mut self) {
        let mut last: FxHashMap<Key, u64> = FxHashMap::default();
        for (sequence, change) in &self.pending {
            last.insert(change.key(), *sequence);
        }
        let Store {
            pending,
            index,
            uncertain,
            ..
        } = self;
        pending.retain(|(sequence, change)| {
            let key = change.key();
            let needless =
                matches!(change, Change::Delete(_)) && !index.contains_key(&key) && !uncertain.contains(&key);
            last.get(&key) == Some(sequence) && !needless
        });
    }

    /// Writes changes and syncs.
    fn write(&mut self, changes: &[(u64, Change)], sync: bool) -> io::Result<()> {
        let written = self.try_write(changes, sync);
        if written.is_err() {
            self.usage.failures += 1;
            self.active = None;
        }
        written
    }

    fn try_write(&mut self, changes: &[(u64, Change)], sync: bool) -> io::Result<()> {
        let value = |change: &Change| match change {
            Change::Put(_, value) => value.len(),
            Change::Delete(_) => 0,
        };
        let records: usize = changes.iter().map(|(_, change)| OVERHEAD + value(change)).sum();
        let own = changes.partition_point(|(_, change)| change.key().kind == OWN_KIND);
        let batch = changes.len() - own > 1;
        let len = records + if batch { OVERHEAD } else { 0 };
        let room = match (&self.active, self.segments.back()) {
            (Some(active), Some(segment)) => segment.bytes.saturating_sub(active.end),
            _ => 0,
        };
        if room < len {
            self.begin_segment(len)?;
        }
        let (Some(active), Some(segment)) = (&mut self.active, self.segments.back().copied()) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        self.buf.clear();
        let mut places = Vec::with_capacity(changes.len());
        for (at, (sequence, change)) in changes.iter().enumerate() {
            if batch && at == own {
                let before = self.buf.len();
                let records = len - OVERHEAD - before;
                record::encode_batch(segment.nonce, *sequence, records, &mut self.buf);
            }
            places.push(active.end + self.buf.len());
            let in_batch = batch && at >= own;
            record::encode(segment.nonce, *sequence, change, in_batch, &mut self.buf);
        }
        active.file.write_at(active.end as u64, &self.buf)?;
        if sync {
            active.file.sync()?;
            self.usage.syncs += 1;
        }
        let begin = active.end as u64;
        active.end += self.buf.len();
        let pages = (active.end as u64).div_ceil(PAGE) - begin / PAGE;
        self.usage.written_bytes += pages * PAGE;
        for ((_, change), offset) in changes.iter().zip(places) {
            self.place(segment.number, change, offset, OVERHEAD + value(change));
        }
        Ok(())
    }

    /// Notes where the value of a key is now.
    fn place(&mut self, segment: u64, change: &Change, offset: usize, len: usize) {
        let before = match change {
            Change::Put(key, _) => {
                self.usage.live_bytes += len as u64;
                self.index.insert(
                    *key,
                    Place {
                        segment,
                        offset: offset as u32,
                        len: len as u32,
                    },
                )
            }
            Change::Delete(key) => self.index.remove(key),
        };
        self.usage.live_bytes -= before.map_or(0, |before| u64::from(before.len));
    }

    /// Begins a segment with room for so many octets.
    fn begin_segment(&mut self, len: usize) -> io::Result<()> {
        self.active = None;
        let segment = Segment {
            number: self.segments.back().map_or(1, |last| last.number + 1),
            nonce: self.nonces.random(),
            bytes: self.options.segment_bytes.max(len),
        };
        let file = self.disk.create(&segment.name(), segment.bytes)?;
        self.usage.file_bytes += segment.bytes as u64;
        self.usage.written_bytes += segment.bytes as u64;
        self.usage.syncs += 1;
        self.segments.push_back(segment);
        self.active = Some(Active { file, end: 0 });
        Ok(())
    }

    /// Copies what stands in the oldest segments forward and removes them, while less than half of what is stored
    /// stands, two segments aside.
    fn compact(&mut self) -> io::Result<()> {
        while self.segments.len() > 1
            && self.usage.file_bytes > 2 * self.usage.live_bytes + 2 * self.options.segment_bytes as u64
        {
            let Some(oldest) = self.segments.front().copied() else {
                break;
            };
            let changes = self.standing_in(oldest);
            if !changes.is_empty() {
                self.write(&changes, true)?;
            }
            self.disk.remove(&oldest.name())?;
            self.usage.file_bytes -= oldest.bytes as u64;
            self.segments.pop_front();
        }
        Ok(())
    }

    /// The values of a segment that stand, as changes.
    fn standing_in(&mut self, segment: Segment) -> Vec<(u64, Change)> {
        let octets = Bytes::from(self.disk.read(&segment.name()).unwrap_or_default());
        let mut changes = Vec::new();
        for found in Scan::new(segment.nonce, &octets) {
            let Found::Record(found) = found else { continue };
            let place = Place {
                segment: segment.number,
                offset: found.offset as u32,
                len: found.len as u32,
            };
            if matches!(found.change, Change::Put(..)) && self.index.get(&found.change.key()) == Some(&place)
            {
                // With its old number: a copy is not written later than what came after it.
                changes.push((found.sequence, found.change));
            }
        }
        let found: FxHashSet<Key> = changes.iter().map(|(_, change)| change.key()).collect();
        let Store { index, usage, .. } = self;
        index.retain(|key, place| {
            let lost = place.segment == segment.number && !found.contains(key);
            usage.unreadable += u64::from(lost);
            usage.live_bytes -= if lost { u64::from(place.len) } else { 0 };
            !lost
        });
        changes
    }
}
