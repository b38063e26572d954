//! Changes as octets, and how changes are found again among damage.
//!
//! ```text
//! offset  octets
//!      0       2  0xA5 0x5E: here a record may begin
//!      2       4  length of the value
//!      6       4  CRC-32C of everything that follows, the length first; begun with the segment's nonce
//!     10       8  sequence number
//!     18       1  1 put, 2 delete, 3 a batch begins; 0x80 more: one of a batch
//!     19       1  kind of the key
//!     20       8  id of the key; of a batch, the octets of its records, which follow
//!     28       …  value
//! ```
//! Changes that are committed together are a batch, unless it is one alone. Numbers are big endian. The nonce is random and stands in the name of the file, so that no value, wherever it comes
//! from, can hold octets that count as a record when the record around it is damaged.

use core::ops::Range;

use bytes::Bytes;
use crc::{CRC_32_ISCSI, Crc, Table};

use crate::{Change, Key};

/// The longest value.
pub const VALUE_MAX: usize = 1 << 20;

/// Octets of a record beside its value.
pub const OVERHEAD: usize = 28;

const MARK: [u8; 2] = [0xA5, 0x5E];
const PUT: u8 = 1;
const DELETE: u8 = 2;
const BATCH: u8 = 3;
const IN_BATCH: u8 = 0x80;

static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// Appends a record.
///
/// A value that is longer than [`VALUE_MAX`] cannot be found again; callers check.
pub fn encode(nonce: u32, sequence: u64, change: &Change, in_batch: bool, buf: &mut Vec<u8>) {
    let (operation, value) = match change {
        Change::Put(_, value) => (PUT, &value[..]),
        Change::Delete(_) => (DELETE, &[][..]),
    };
    let flag = if in_batch { IN_BATCH } else { 0 };
    append(nonce, sequence, operation | flag, change.key(), value, buf);
}

/// Appends what begins a batch: its records follow and have so many octets altogether.
pub fn encode_batch(nonce: u32, sequence: u64, len: usize, buf: &mut Vec<u8>) {
    let id = len as u64;
    append(nonce, sequence, BATCH, Key { kind: 0, id }, &[], buf);
}

fn append(nonce: u32, sequence: u64, operation: u8, key: Key, value: &[u8], buf: &mut Vec<u8>) {
    let start = buf.len();
    buf.extend_from_slice(&MARK);
    buf.extend_from_slice(&(value.len() as u32).to_be_bytes());
    buf.extend_from_slice(&[0; 4]);
    buf.extend_from_slice(&sequence.to_be_bytes());
    buf.push(operation);
    buf.push(key.kind);
    buf.extend_from_slice(&key.id.to_be_bytes());
    buf.extend_from_slice(value);
    let crc = checksum(nonce, &buf[start + 2..start + 6], &buf[start + 10..]);
    buf[start + 6..start + 10].copy_from_slice(&crc.to_be_bytes());
}

/// A record that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its sequence number.
    pub sequence: u64,
    /// What it says.
    pub change: Change,
    /// Where it begins.
    pub offset: usize,
    /// Its length.
    pub len: usize,
    /// It counts together with others.
    pub in_batch: bool,
}

/// What [`Scan`] finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A record.
    Record(Record),
    /// What begins a batch.
    Batch {
        /// Where it begins.
        offset: usize,
        /// Octets of its records, which follow.
        len: usize,
    },
    /// Octets that are no record, followed by one.
    Damage {
        /// Where they begin.
        offset: usize,
        /// How many.
        len: usize,
    },
    /// Octets that are no record, and nothing but zeros after them: a write that was cut off, or damage to the last
    /// records, as [`Scan`] cannot tell.
    Tail {
        /// Where they begin.
        offset: usize,
        /// How many, up to the last that is not zero.
        len: usize,
    },
}

impl Found {
    /// Where it is; of a batch, only its beginning.
    pub fn octets(&self) -> Range<usize> {
        let (offset, len) = match self {
            Found::Record(record) => (record.offset, record.len),
            Found::Batch { offset, .. } => (*offset, OVERHEAD),
            Found::Damage { offset, len } | Found::Tail { offset, len } => (*offset, *len),
        };
        offset..offset + len
    }
}

/// Walks through a segment.
#[derive(Debug)]
pub struct Scan<'a> {
    nonce: u32,
    octets: &'a Bytes,
    at: usize,
    next: Option<Found>,
    /// The tail was found: nothing follows.
    done: bool,
}

impl<'a> Scan<'a> {
    /// Begins at the first octet of a segment.
    pub fn new(nonce: u32, octets: &'a Bytes) -> Self {
        Scan {
            nonce,
            octets,
            at: 0,
            next: None,
            done: false,
        }
    }

    /// Where the last whole record ended: where to go on writing.
    pub fn end(&self) -> usize {
        self.at
    }

    fn take(&mut self, whole: Found) -> Found {
        self.at = whole.octets().end;
        whole
    }
}

impl Iterator for Scan<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if self.done {
            return None;
        }
        if let Some(whole) = self.next.take() {
            return Some(self.take(whole));
        }
        if let Some(whole) = decode(self.nonce, self.octets, self.at) {
            return Some(self.take(whole));
        }
        let offset = self.at;
        let rest = &self.octets[offset..];
        let used = rest.iter().rposition(|octet| *octet != 0)? + 1;
        let whole = (1..used).find_map(|at| {
            let marked = rest[at..].starts_with(&MARK);
            marked
                .then(|| decode(self.nonce, self.octets, offset + at))
                .flatten()
        });
        match whole {
            Some(whole) => {
                let len = whole.octets().start - offset;
                self.next = Some(whole);
                Some(Found::Damage { offset, len })
            }
            None => {
                self.done = true;
                Some(Found::Tail { offset, len: used })
            }
        }
    }
}

/// The record or batch that begins here, if one does and is whole.
fn decode(nonce: u32, octets: &Bytes, offset: usize) -> Option<Found> {
    let header = octets.get(offset..)?.first_chunk::<OVERHEAD>()?;
    if header[..2] != MARK {
        return None;
    }
    let value_len = value_len(header);
    let end = offset + OVERHEAD + value_len;
    if value_len > VALUE_MAX || end > octets.len() {
        return None;
    }
    let crc = u32::from_be_bytes(*header[6..].first_chunk()?);
    if crc != checksum(nonce, &header[2..6], &octets[offset + 10..end]) {
        return None;
    }
    let key = Key {
        kind: header[19],
        id: u64::from_be_bytes(*header[20..].first_chunk()?),
    };
    let change = match header[18] & !IN_BATCH {
        BATCH if value_len == 0 => {
            let len = usize::try_from(key.id).ok()?;
            // More than a segment can hold is none of ours.
            return (len < u32::MAX as usize).then_some(Found::Batch { offset, len });
        }
        PUT => Change::Put(key, octets.slice(offset + OVERHEAD..end)),
        DELETE if value_len == 0 => Change::Delete(key),
        _ => return None,
    };
    Some(Found::Record(Record {
        sequence: u64::from_be_bytes(*header[10..].first_chunk()?),
        change,
        offset,
        len: OVERHEAD + value_len,
        in_batch: header[18] & IN_BATCH != 0,
    }))
}

/// How long a record is that begins like this, if it does.
pub(crate) fn claimed_len(octets: &[u8]) -> usize {
    let Some(header) = octets
        .first_chunk::<OVERHEAD>()
        .filter(|header| header[..2] == MARK)
    else {
        return 0;
    };
    let value = value_len(header);
    if value > VALUE_MAX { 0 } else { OVERHEAD + value }
}

fn value_len(header: &[u8; OVERHEAD]) -> usize {
    u32::from_be_bytes([header[2], header[3], header[4], header[5]]) as usize
}

fn checksum(nonce: u32, len: &[u8], rest: &[u8]) -> u32 {
    let mut digest = CRC.digest_with_initial(nonce);
    digest.update(len);
    digest.update(rest);
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: u32 = 0x1234_5678;
    const KEY: Key = Key { kind: 3, id: 77 };

    fn segment(values: &[&'static [u8]]) -> Vec<u8> {
        let mut octets = Vec::new();
        for (at, value) in values.iter().enumerate() {
            encode(
                NONCE,
                at as u64,
                &Change::Put(KEY, Bytes::from_static(value)),
                false,
                &mut octets,
            );
        }
        octets
    }

    fn scan(octets: Vec<u8>) -> Vec<Found> {
        Scan::new(NONCE, &octets.into()).collect()
    }

    fn values(found: &[Found]) -> Vec<&[u8]> {
        let value = |found: &Found| match found {
            Found::Record(Record {
                change: Change::Put(_, value),
                ..
            }) => Some(value.clone()),
            _ => None,
        };
        let values: Vec<Bytes> = found.iter().filter_map(value).collect();
        values.into_iter().map(|value| &*value.to_vec().leak()).collect()
    }

    #[test]
    fn records_come_back_in_order_and_zeros_end_them() {
        let mut octets = segment(&[b"one", b"", b"three"]);
        let end = octets.len();
        octets.extend([0; 100]);
        let octets = Bytes::from(octets);
        let mut scan = Scan::new(NONCE, &octets);
        let found: Vec<Found> = scan.by_ref().collect();
        assert_eq!(values(&found), [&b"one"[..], b"", b"three"]);
        assert_eq!(found.len(), 3);
        assert_eq!(scan.end(), end);
    }

    #[test]
    fn each_flipped_octet_costs_one_record() {
        let whole = segment(&[b"first value", b"second value", b"third value"]);
        let len = whole.len() / 3 + 1;
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut octets = whole.clone();
                octets[at] ^= 1 << bit;
                let found = scan(octets);
                let left = values(&found);
                assert_eq!(left.len(), 2, "octet {at}, bit {bit}: {found:?}");
                let damaged = found.iter().filter(|found| !matches!(found, Found::Record(_)));
                assert_eq!(damaged.count(), 1, "octet {at} of a record of some {len}");
            }
        }
    }

    #[test]
    fn each_truncation_costs_only_what_is_cut_off() {
        let whole = segment(&[b"first value", b"second", b"third value"]);
        let ends = [39, 73, whole.len()];
        for len in 0..whole.len() {
            let found = scan(whole[..len].to_vec());
            let expected = ends.iter().filter(|end| **end <= len).count();
            assert_eq!(values(&found).len(), expected, "cut to {len}");
        }
    }

    #[test]
    fn record_of_another_segment_does_not_count() {
        let octets = Bytes::from(segment(&[b"value"]));
        let found: Vec<Found> = Scan::new(NONCE + 1, &octets).collect();
        assert!(matches!(found[..], [Found::Tail { offset: 0, .. }]));
    }

    #[test]
    fn a_value_that_looks_like_a_record_is_none_when_its_own_is_damaged() {
        let mut forged = Vec::new();
        encode(0, 99, &Change::Delete(KEY), false, &mut forged);
        let mut octets = Vec::new();
        encode(NONCE, 1, &Change::Put(KEY, forged.into()), false, &mut octets);
        octets[3] ^= 1;
        assert_eq!(values(&scan(octets)).len(), 0);
    }
}
