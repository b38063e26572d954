//! What stands in a segment, when its last commit may have been cut off.
//!
//! The records of one commit count together or not at all. Commits before the last were synced before the next was
//! written, so what is wrong in them is damage, and costs the records it hits. The last one may have been cut off by a
//! power cut. A disk that loses power leaves whole sectors as they were, and what was not written yet is zero. So the
//! last commit is dropped if a sector of it holds nothing but zeros where no record stands; any other octets that are
//! no record are damage there too, and what they held may have been promised.

use core::ops::Range;

use bytes::Bytes;

use crate::OWN_KIND;
use crate::record::{self, Found, OVERHEAD, Scan};

/// The unit that disks write whole or not at all.
pub(crate) const SECTOR: usize = 512;

/// What stands in a segment.
#[derive(Debug)]
pub(crate) struct Contents {
    /// Records and damage, in their order; no batches.
    pub(crate) found: Vec<Found>,
    /// Where to go on writing.
    pub(crate) end: usize,
    /// Octets from there on, to be overwritten before anything follows them: of a commit that was cut off they would
    /// count else, and others be found once more.
    pub(crate) rest: Range<usize>,
    /// A commit of what was asked for stands there, and not the store's own values alone.
    pub(crate) has_commit: bool,
}

/// Reads a segment.
pub(crate) fn read(nonce: u32, octets: &Bytes) -> Contents {
    let mut scan = Scan::new(nonce, octets);
    let mut found: Vec<Found> = scan.by_ref().collect();
    let mut end = scan.end();
    if let Some(start) = cut_off_at(&found, end, octets) {
        found.retain(|found| found.octets().start < start);
        end = start;
        let used = octets.iter().rposition(|octet| *octet != 0);
        found.push(Found::Tail {
            offset: start,
            len: used.map_or(0, |used| (used + 1).saturating_sub(start)),
        });
    } else if let Some(Found::Tail { offset, len }) = found.last().cloned()
        && !is_cut_off(&found, offset..offset + len, octets)
    {
        found.pop();
        found.push(Found::Damage { offset, len });
    }
    let last = found.last().map_or(end, |found| found.octets().end);
    let rest = end..last.max(end);
    found.retain(|found| !matches!(found, Found::Batch { .. }));
    let has_commit = found
        .iter()
        .any(|found| matches!(found, Found::Record(record) if record.change.key().kind != OWN_KIND));
    Contents {
        found,
        end,
        rest,
        has_commit,
    }
}

/// Where the last commit begins, if it was cut off and anything of it would count.
fn cut_off_at(found: &[Found], end: usize, octets: &[u8]) -> Option<usize> {
    let commit = last_commit(found, end);
    let whole = |found: &&Found| !matches!(found, Found::Damage { .. } | Found::Tail { .. });
    let mut at = commit.start;
    let mut counts = false;
    let mut hole = false;
    for found in found.iter().filter(whole) {
        let place = found.octets();
        if place.start < commit.start || place.start >= commit.end {
            continue;
        }
        counts = true;
        hole |= has_empty_sector(octets, at..place.start, &commit);
        at = place.end;
    }
    hole |= has_empty_sector(octets, at..commit.end, &commit);
    (counts && hole).then_some(commit.start)
}

/// Whether what stands after all records is a write of which sectors are missing. As far as can be told: how long it was
/// to be is known from its first octets alone.
fn is_cut_off(found: &[Found], tail: Range<usize>, octets: &[u8]) -> bool {
    let rest = &octets[tail.start..];
    let commit = last_commit(found, tail.start);
    let record = tail.start + record::claimed_len(rest);
    let whole = tail.start..tail.end.max(commit.end).max(record);
    // Or the file ends in its first octets.
    rest.len() < OVERHEAD || has_empty_sector(octets, whole.clone(), &whole)
}

/// The octets of the last commit of which a whole record stands; of several records, it begins with their number.
fn last_commit(found: &[Found], end: usize) -> Range<usize> {
    let mut commit = 0..end;
    let mut known = false;
    for found in found {
        match found {
            Found::Batch { offset, len } => {
                commit = *offset..found.octets().end + len;
                known = true;
            }
            Found::Record(record) if !record.in_batch => {
                commit = record.offset + record.len..end;
                known = false;
            }
            Found::Record(record) if known && record.offset >= commit.end => {
                // One of a batch whose beginning does not stand.
                commit = commit.end..end;
                known = false;
            }
            Found::Record(_) | Found::Damage { .. } | Found::Tail { .. } => {}
        }
    }
    commit
}

/// Whether a sector's part of a commit, where nothing stands, was not written.
fn has_empty_sector(octets: &[u8], gap: Range<usize>, commit: &Range<usize>) -> bool {
    if gap.is_empty() {
        return false;
    }
    if gap.end > octets.len() {
        return true;
    }
    (gap.start / SECTOR..=(gap.end - 1) / SECTOR).any(|sector| {
        let part = (sector * SECTOR).max(commit.start)..((sector + 1) * SECTOR).min(commit.end);
        octets
            .get(part)
            .is_none_or(|part| part.iter().all(|octet| *octet == 0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Change, Key};

    const NONCE: u32 = 7;

    /// Two records alone, and three of some sectors in one commit; where that begins.
    fn segment() -> (Vec<u8>, usize) {
        let put = |id, len| Change::Put(Key { kind: 1, id }, vec![0x77; len].into());
        let mut octets = Vec::new();
        record::encode(NONCE, 1, &put(1, 100), false, &mut octets);
        record::encode(NONCE, 2, &put(2, 150), false, &mut octets);
        let begin = octets.len();
        let batch = [put(3, 500), put(4, 10), put(5, 700)];
        record::encode_batch(NONCE, 3, 3 * OVERHEAD + 1210, &mut octets);
        for (at, change) in batch.iter().enumerate() {
            record::encode(NONCE, 3 + at as u64, change, true, &mut octets);
        }
        (octets, begin)
    }

    fn ids(octets: &[u8]) -> Vec<u64> {
        let mut octets = octets.to_vec();
        octets.resize(4096, 0);
        ids_of(octets)
    }

    fn ids_of(octets: Vec<u8>) -> Vec<u64> {
        let record = |found| match found {
            Found::Record(record) => Some(record.change.key().id),
            _ => None,
        };
        let found = read(NONCE, &octets.into()).found;
        found.into_iter().filter_map(record).collect()
    }

    #[test]
    fn a_commit_of_which_any_sectors_are_missing_does_not_count_and_a_whole_one_does() {
        let (octets, begin) = segment();
        let sectors: Vec<usize> = (begin / SECTOR..=(octets.len() - 1) / SECTOR).collect();
        assert!(sectors.len() > 2);
        for missing in 0..1_u32 << sectors.len() {
            let mut torn = octets.clone();
            for (bit, sector) in sectors.iter().enumerate() {
                let part = (sector * SECTOR).max(begin)..((sector + 1) * SECTOR).min(octets.len());
                if missing & (1 << bit) != 0 {
                    torn[part].fill(0);
                }
            }
            let expected: &[u64] = if missing == 0 { &[1, 2, 3, 4, 5] } else { &[1, 2] };
            assert_eq!(ids(&torn), expected, "without sectors {missing:b}");
        }
    }

    #[test]
    fn a_commit_that_is_cut_off_at_any_octet_does_not_count() {
        let (octets, begin) = segment();
        for len in begin..octets.len() {
            assert_eq!(ids_of(octets[..len].to_vec()), [1, 2], "cut to {len}");
        }
        assert_eq!(ids_of(octets), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn each_flipped_octet_of_a_commit_costs_one_record_at_most() {
        let (octets, begin) = segment();
        for at in begin..octets.len() {
            let mut flipped = octets.clone();
            flipped[at] ^= 0x41;
            // The octets that begin a batch hold no value.
            let cost = usize::from(at >= begin + OVERHEAD);
            assert_eq!(ids(&flipped).len(), 5 - cost, "octet {at}");
        }
    }

    #[test]
    fn a_last_record_that_is_whole_but_for_a_flipped_bit_is_damage_and_one_of_which_a_sector_is_missing_is_cut_off()
     {
        let (mut octets, _) = segment();
        let begin = octets.len();
        let change = Change::Put(Key { kind: 1, id: 6 }, vec![0x77; 900].into());
        record::encode(NONCE, 9, &change, false, &mut octets);
        let end = octets.len();
        octets.resize(8192, 0);
        let last = |octets: Vec<u8>| read(NONCE, &octets.into());
        for at in begin..end {
            // A length that is wrong says that something is missing.
            let says_length = (begin + 2..begin + 6).contains(&at);
            let mut flipped = octets.clone();
            flipped[at] ^= 0x01;
            let contents = last(flipped);
            let found = contents.found.last().unwrap();
            assert_eq!(found.octets(), begin..end, "octet {at}");
            assert_eq!((contents.end, contents.rest), (begin, begin..end));
            assert!(says_length || matches!(found, Found::Damage { .. }), "octet {at}");
        }
        for len in begin + 1..end {
            let contents = last(octets[..len].to_vec());
            assert!(
                matches!(contents.found.last(), Some(Found::Tail { .. })),
                "cut to {len}"
            );
        }
        for sector in begin / SECTOR..=(end - 1) / SECTOR {
            let part = (sector * SECTOR).max(begin)..((sector + 1) * SECTOR).min(end);
            let mut torn = octets.clone();
            torn[part].fill(0);
            let contents = last(torn);
            assert!(
                matches!(contents.found.last(), Some(Found::Tail { .. })),
                "sector {sector}"
            );
        }
    }

    #[test]
    fn a_sector_that_is_lost_in_a_commit_before_the_last_costs_what_stood_there() {
        let (mut octets, begin) = segment();
        let change = Change::Delete(Key { kind: 1, id: 6 });
        record::encode(NONCE, 9, &change, false, &mut octets);
        let lost = begin / SECTOR + 2;
        octets[lost * SECTOR..(lost + 1) * SECTOR].fill(0);
        assert_eq!(ids(&octets), [1, 2, 3, 4, 6]);
    }
}
