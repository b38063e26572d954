//! Duty cycle: what a link has used of its airtime, exact over every window, restarts included.
//!
//! A log of what was sent, as long as it counts. A transmission is charged when its datagram is handed over and counts
//! until a whole window after it has left the antenna: whenever in between it was on the air, no window of that length
//! ever holds more than the limit. (A token bucket, or a counter that begins anew every hour, lets twice the limit
//! into the window across two hours.)

use core::time::Duration;
use std::collections::VecDeque;

use crate::io::{AirtimeFound, AirtimeRecord, AirtimeUsed, DutyCycle, TxTicket};
use crate::time::Instant;

/// What a datagram may use of the budget: shares are nested, so that acknowledgements always find what nothing else may
/// use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Share {
    /// Answers within a session: all of it.
    Ack,
    /// CONNACK, REGISTER, PUBREL, GWINFO and answers to strangers, together with what follows: 80 %.
    Control,
    /// PUBLISH, together with what follows: 60 %.
    Data,
    /// Beacons: 20 %.
    Bulk,
}

impl Share {
    /// Every share, in declaration order: `share as usize` is its index here.
    pub const ALL: [Share; 4] = [Share::Ack, Share::Control, Share::Data, Share::Bulk];

    fn percent(self) -> u64 {
        match self {
            Share::Ack => 100,
            Share::Control => 80,
            Share::Data => 60,
            Share::Bulk => 20,
        }
    }
}

/// One part of so many of the limit is for answers within sessions alone, however much of it they used before: else
/// there may be nothing left when they are asked for, and their clients give up and must be let in again.
const RESERVE: u64 = 10;

/// Parts of a window in which what ended together is kept as one entry.
const GRAINS: u64 = 3600;

/// The same in a record.
const RECORD_GRAINS: u64 = 100;

/// Parts of the budget that are reserved at once: a crash costs one of them, and a store is written as many times in a
/// window.
const SLICES: u64 = 36;

/// Wait after a record could not be written; taste.
const STORE_RETRY: Duration = Duration::from_secs(10);

/// Time that a modem which reports nothing may take to begin sending; taste.
const UNCONFIRMED_DELAY: Duration = Duration::from_secs(2);

/// The budget of one link. Times on air are in microseconds.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    window: Duration,
    /// What left the antenna, in the order in which it stops to count.
    ended: VecDeque<Ended>,
    /// What was handed over and is not known to have left.
    under_way: VecDeque<UnderWay>,
    /// What counts now, by [`Share`].
    used: [u64; 4],
    kept: Option<Kept>,
}

#[derive(Debug, Clone, Copy)]
struct Ended {
    /// When the first of them would stop to count, and when all do.
    first: Instant,
    until: Instant,
    airtime: [u64; 4],
}

#[derive(Debug, Clone, Copy)]
struct UnderWay {
    ticket: TxTicket,
    share: Share,
    airtime: u64,
    /// Records asked for when it was charged.
    records: u64,
}

/// What makes the log survive a restart: a record of it with a slice for what follows is durable before the slice is
/// used.
#[derive(Debug, Default)]
struct Kept {
    /// May be charged within the last durable record.
    granted: u64,
    asked: Option<Asked>,
    /// Records asked for so far.
    records: u64,
    retry_at: Option<Instant>,
}

/// A record on its way to the store.
#[derive(Debug, Clone, Copy)]
struct Asked {
    reserved: u64,
    /// Charged since.
    charged: u64,
}

/// Whether a datagram may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ready {
    Now,
    /// Not before this.
    At(Instant),
    /// Once something under way has left, or a record is durable.
    Later,
    /// It is longer than the whole budget.
    Never,
}

impl Budget {
    /// A budget of which this much was used before; with `keep`, what is used is recorded.
    pub(crate) fn new(now: Instant, duty_cycle: DutyCycle, keep: bool, found: &AirtimeFound) -> Self {
        let mut budget = Budget {
            limit: 0,
            window: Duration::ZERO,
            ended: VecDeque::new(),
            under_way: VecDeque::new(),
            used: [0; 4],
            kept: keep.then(Kept::default),
        };
        budget.adopt(duty_cycle);
        match found {
            AirtimeFound::FirstStart => {}
            AirtimeFound::Record(record) => {
                let mut used = record.used.clone();
                used.sort_by_key(|used| core::cmp::Reverse(used.age));
                for used in used {
                    if let Some(left) = budget.window.checked_sub(used.age) {
                        budget.end(now + left, used.airtime.map(micros));
                    }
                }
                // Nobody knows when it was sent, so it was just now.
                budget.end(now + budget.window, [micros(record.reserved), 0, 0, 0]);
            }
            AirtimeFound::Lost => budget.end(now + budget.window, [budget.limit, 0, 0, 0]),
        }
        budget.expire(now);
        budget
    }

    /// Another limit from now on; what was used stays used.
    pub(crate) fn adopt(&mut self, duty_cycle: DutyCycle) {
        let longer = duty_cycle.window.saturating_sub(self.window);
        for ended in &mut self.ended {
            ended.until = ended.until + longer;
        }
        self.window = duty_cycle.window;
        let limit = duty_cycle.window.as_micros() * u128::from(duty_cycle.ppm) / 1_000_000;
        self.limit = u64::try_from(limit).unwrap_or(u64::MAX);
    }

    /// Whether a datagram that takes `airtime` may be sent.
    pub(crate) fn ready_at(&mut self, now: Instant, share: Share, airtime: Duration) -> Ready {
        self.expire(now);
        let airtime = micros(airtime);
        if airtime > self.limit {
            return Ready::Never;
        }
        if !self.fits(self.used, share, airtime) {
            let mut used = self.used;
            for ended in &self.ended {
                subtract(&mut used, ended.airtime);
                if self.fits(used, share, airtime) {
                    return Ready::At(ended.until);
                }
            }
            return Ready::Later;
        }
        match &self.kept {
            Some(kept) if kept.granted < airtime => kept
                .retry_at
                .filter(|at| now < *at)
                .map_or(Ready::Later, Ready::At),
            _ => Ready::Now,
        }
    }

    /// True if it fits into its own share and each share around that one.
    fn fits(&self, used: [u64; 4], share: Share, airtime: u64) -> bool {
        let all: u64 = used.iter().sum();
        if share != Share::Ack && all > 0 && all.saturating_add(airtime) > self.limit - self.limit / RESERVE {
            return false;
        }
        Share::ALL[..=share as usize].iter().all(|outer| {
            let taken: u64 = used[*outer as usize..].iter().sum();
            let most = u64::try_from(u128::from(self.limit) * u128::from(outer.percent()) / 100);
            // What is alone longer than its share goes when nothing else used it, within the whole.
            let alone = taken == 0 && *outer != Share::Ack;
            alone || taken.saturating_add(airtime) <= most.unwrap_or(u64::MAX)
        })
    }

    /// A datagram is handed over. Unless the link says when it has left, it is taken to leave soon.
    pub(crate) fn charge(
        &mut self,
        now: Instant,
        ticket: TxTicket,
        share: Share,
        airtime: Duration,
        confirmed: bool,
    ) {
        let airtime = micros(airtime);
        let mut records = 0;
        if let Some(kept) = &mut self.kept {
            kept.granted = kept.granted.saturating_sub(airtime);
            records = kept.records;
            if let Some(asked) = &mut kept.asked {
                asked.charged += airtime;
            }
        }
        if !confirmed {
            let left = now + Duration::from_micros(airtime) + UNCONFIRMED_DELAY;
            return self.end(left + self.window, alone(share, airtime));
        }
        self.used[share as usize] += airtime;
        self.under_way.push_back(UnderWay {
            ticket,
            share,
            airtime,
            records,
        });
    }

    /// It has left the antenna.
    pub(crate) fn sent(&mut self, now: Instant, ticket: TxTicket) {
        if let Some(sent) = self.take(ticket) {
            self.end(now + self.window, alone(sent.share, sent.airtime));
        }
    }

    /// It never left: nothing was used.
    pub(crate) fn refund(&mut self, ticket: TxTicket) {
        let Some(unsent) = self.take(ticket) else { return };
        let Some(kept) = &mut self.kept else { return };
        // A record that was made meanwhile has it as used, and is not made again for it.
        if unsent.records == kept.records {
            kept.granted += unsent.airtime;
            if let Some(asked) = &mut kept.asked {
                asked.charged -= unsent.airtime;
            }
        }
    }

    /// The link is gone and does not report any more: what was under way may be on the air for its length still.
    pub(crate) fn lose_reports(&mut self, now: Instant) {
        while let Some(UnderWay { ticket, airtime, .. }) = self.under_way.front().copied() {
            self.sent(now + Duration::from_micros(airtime), ticket);
        }
    }

    fn take(&mut self, ticket: TxTicket) -> Option<UnderWay> {
        let at = self.under_way.iter().position(|other| other.ticket == ticket)?;
        let taken = self.under_way.remove(at)?;
        self.used[taken.share as usize] -= taken.airtime;
        Some(taken)
    }

    /// Adds what counts until then.
    fn end(&mut self, until: Instant, airtime: [u64; 4]) {
        if airtime == [0; 4] {
            return;
        }
        for (used, more) in self.used.iter_mut().zip(airtime) {
            *used = used.saturating_add(more);
        }
        let grain = self.window / GRAINS as u32;
        match self.ended.back_mut() {
            // Neighbours count until the last of them does. In order, whatever was reported late.
            Some(last) if until.since(last.first) <= grain => {
                last.until = last.until.max(until);
                for (sum, more) in last.airtime.iter_mut().zip(airtime) {
                    *sum = sum.saturating_add(more);
                }
            }
            _ => self.ended.push_back(Ended {
                first: until,
                until,
                airtime,
            }),
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some(ended) = self.ended.front().filter(|ended| ended.until <= now) {
            subtract(&mut self.used, ended.airtime);
            self.ended.pop_front();
        }
    }

    /// A record to make durable, if one is wanted for a datagram of that length.
    pub(crate) fn ask(&mut self, now: Instant, airtime: Duration) -> Option<AirtimeRecord> {
        let slice = (self.limit / SLICES).max(1);
        let kept = self.kept.as_mut()?;
        let wanted = kept.granted < micros(airtime).max(slice / 4);
        if !wanted || kept.asked.is_some() || kept.retry_at.is_some_and(|at| now < at) {
            return None;
        }
        let reserved = kept.granted + slice.max(micros(airtime));
        kept.asked = Some(Asked { reserved, charged: 0 });
        kept.records += 1;
        kept.retry_at = None;
        Some(AirtimeRecord {
            used: self.entries(now),
            reserved: Duration::from_micros(reserved),
        })
    }

    /// What counts, for a record.
    fn entries(&self, now: Instant) -> Vec<AirtimeUsed> {
        let mut entries: Vec<Ended> = Vec::new();
        for ended in &self.ended {
            match entries.last_mut() {
                Some(last) if ended.until.since(last.first) <= self.window / RECORD_GRAINS as u32 => {
                    last.until = ended.until;
                    for (sum, more) in last.airtime.iter_mut().zip(ended.airtime) {
                        *sum = sum.saturating_add(more);
                    }
                }
                _ => entries.push(*ended),
            }
        }
        let mut under_way = [0; 4];
        for sent in &self.under_way {
            under_way[sent.share as usize] += sent.airtime;
        }
        let entries = entries.into_iter().map(|ended| AirtimeUsed {
            age: self.window.saturating_sub(ended.until.since(now)),
            airtime: ended.airtime.map(Duration::from_micros),
        });
        let under_way = (under_way != [0; 4]).then_some(AirtimeUsed {
            age: Duration::ZERO,
            airtime: under_way.map(Duration::from_micros),
        });
        entries.chain(under_way).collect()
    }

    /// The record that was asked for is durable.
    pub(crate) fn stored(&mut self) {
        if let Some(kept) = &mut self.kept
            && let Some(asked) = kept.asked.take()
        {
            kept.granted = asked.reserved.saturating_sub(asked.charged);
        }
    }

    /// It is not: the last one stands.
    pub(crate) fn not_stored(&mut self, now: Instant) {
        if let Some(kept) = &mut self.kept {
            kept.asked = None;
            kept.retry_at = Some(now + STORE_RETRY);
        }
    }

    /// What may be sent in an hour.
    pub(crate) fn per_hour(&self) -> Duration {
        let hours = self.window.as_micros().max(1);
        let micros = u128::from(self.limit) * 3_600_000_000 / hours;
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// Parts per million of the window that were used.
    pub(crate) fn used_ppm(&self, now: Instant) -> u32 {
        let over = self.ended.iter().take_while(|ended| ended.until <= now);
        let over: u64 = over.flat_map(|ended| ended.airtime).sum();
        let used = self.used.iter().sum::<u64>() - over;
        let window = self.window.as_micros().max(1);
        u32::try_from(u128::from(used) * 1_000_000 / window).unwrap_or(u32::MAX)
    }

    /// What may be sent before the limit is reached.
    pub(crate) fn left(&mut self, now: Instant) -> Duration {
        self.expire(now);
        Duration::from_micros(self.limit.saturating_sub(self.used.iter().sum()))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn alone(share: Share, airtime: u64) -> [u64; 4] {
    let mut all = [0; 4];
    all[share as usize] = airtime;
    all
}

fn subtract(from: &mut [u64; 4], airtime: [u64; 4]) {
    for (from, airtime) in from.iter_mut().zip(airtime) {
        *from = from.saturating_sub(airtime);
    }
}
