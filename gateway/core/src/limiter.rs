//! Bounds on how often something may happen.

use core::time::Duration;

use rustc_hash::FxHashMap;

use crate::time::Instant;

/// At most so many events per second, in whole-second windows.
#[derive(Debug)]
pub(crate) struct RateLimit {
    per_second: u32,
    window_start: Instant,
    used: u32,
}

impl RateLimit {
    /// `per_second` of 0 is no limit.
    pub(crate) fn new(per_second: u32) -> Self {
        RateLimit {
            per_second,
            window_start: Instant::START,
            used: 0,
        }
    }

    /// Counts one event; false if it is one too many.
    pub(crate) fn allow(&mut self, now: Instant) -> bool {
        if self.per_second == 0 {
            return true;
        }
        if now.since(self.window_start) >= Duration::from_secs(1) {
            self.window_start = now;
            self.used = 0;
        }
        self.used += 1;
        self.used <= self.per_second
    }
}

/// Something that is done at most once in a while, and the rest counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seldom {
    interval: Duration,
    last: Option<Instant>,
    suppressed: u64,
}

impl Seldom {
    pub(crate) fn new(interval: Duration) -> Self {
        Seldom {
            interval,
            last: None,
            suppressed: 0,
        }
    }

    /// `Some` if it may be done now, with how often it was not since the last time.
    pub(crate) fn allow(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.since(last) < self.interval) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(core::mem::take(&mut self.suppressed))
    }
}

/// Peers remembered by [`SearchLimit`].
const SEARCHERS_MAX: usize = 4096;

/// Answers to SEARCHGW: one per peer and interval, and bounded in total.
#[derive(Debug)]
pub(crate) struct SearchLimit {
    interval: Duration,
    total: RateLimit,
    answered: FxHashMap<u64, Instant>,
    /// Forgetting the old ones takes a look at all of them, so it is done once a second at most.
    forget: Seldom,
}

impl SearchLimit {
    pub(crate) fn new(interval: Duration, per_second: u32) -> Self {
        SearchLimit {
            interval,
            total: RateLimit::new(per_second),
            answered: FxHashMap::default(),
            forget: Seldom::new(Duration::from_secs(1)),
        }
    }

    /// True if the peer with this hash may be answered now.
    pub(crate) fn allow(&mut self, now: Instant, peer_hash: u64) -> bool {
        let recent = |at: &Instant| now.since(*at) < self.interval;
        if self.answered.get(&peer_hash).is_some_and(recent) {
            return false;
        }
        if self.answered.len() >= SEARCHERS_MAX && self.forget.allow(now).is_some() {
            self.answered.retain(|_, at| recent(at));
        }
        if self.answered.len() >= SEARCHERS_MAX || !self.total.allow(now) {
            return false;
        }
        self.answered.insert(peer_hash, now);
        true
    }
}

/// Answers to peers that have no session: once a second per peer, and bounded in total (reading A13).
#[derive(Debug)]
pub(crate) struct StrangerLimit {
    total: RateLimit,
    window_start: Instant,
    seen: FxHashMap<u64, ()>,
}

impl StrangerLimit {
    pub(crate) fn new(per_second: u32) -> Self {
        StrangerLimit {
            total: RateLimit::new(per_second),
            window_start: Instant::START,
            seen: FxHashMap::default(),
        }
    }

    /// True if the peer with this hash may be answered now.
    pub(crate) fn allow(&mut self, now: Instant, peer_hash: u64) -> bool {
        if now.since(self.window_start) >= Duration::from_secs(1) {
            self.window_start = now;
            self.seen.clear();
        }
        // The map holds at most as many peers as were answered within the second.
        !self.seen.contains_key(&peer_hash)
            && self.total.allow(now)
            && self.seen.insert(peer_hash, ()).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_limit_refills_every_second() {
        let mut limit = RateLimit::new(2);
        let start = Instant::from_micros(5_000_000);
        assert!(limit.allow(start));
        assert!(limit.allow(start));
        assert!(!limit.allow(start));
        assert!(limit.allow(start + Duration::from_secs(1)));
    }

    #[test]
    fn what_is_done_seldom_counts_the_rest() {
        let mut seldom = Seldom::new(Duration::from_secs(60));
        let start = Instant::from_micros(5_000_000);
        assert_eq!(seldom.allow(start), Some(0));
        assert_eq!(seldom.allow(start), None);
        assert_eq!(seldom.allow(start + Duration::from_secs(59)), None);
        assert_eq!(seldom.allow(start + Duration::from_secs(60)), Some(2));
    }

    #[test]
    fn searchers_are_answered_once_in_an_interval_each() {
        let mut limit = SearchLimit::new(Duration::from_secs(5), 2);
        let start = Instant::from_micros(5_000_000);
        assert!(limit.allow(start, 1));
        assert!(!limit.allow(start + Duration::from_micros(4_999_999), 1));
        assert!(limit.allow(start, 2));
        assert!(!limit.allow(start, 3), "the total is used up");
        assert!(limit.allow(start + Duration::from_secs(5), 1));
    }

    #[test]
    fn searchers_remembered_are_bounded() {
        let mut limit = SearchLimit::new(Duration::from_secs(3600), 0);
        let start = Instant::from_micros(5_000_000);
        let answered = (0..100_000).filter(|peer| limit.allow(start, *peer)).count();
        assert_eq!((answered, limit.answered.len()), (SEARCHERS_MAX, SEARCHERS_MAX));
        assert!(limit.allow(start + Duration::from_secs(3600), 200_000));
    }

    #[test]
    fn strangers_are_answered_once_a_second_each() {
        let mut limit = StrangerLimit::new(2);
        let start = Instant::from_micros(5_000_000);
        assert!(limit.allow(start, 1));
        assert!(!limit.allow(start, 1));
        assert!(limit.allow(start, 2));
        assert!(!limit.allow(start, 3), "the total is used up");
        assert!(limit.allow(start + Duration::from_secs(1), 1));
    }
}
