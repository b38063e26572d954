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
