//! Airtime of acknowledgements of the link header: the core knows nothing of them, so their limit is kept here.

use core::time::Duration;

use gateway_core::io::DutyCycle;
use gateway_core::time::Instant;

use crate::settings::LinkHeader;

/// The time over which a duty cycle is observed (EN 300 220-2).
pub(crate) const WINDOW: Duration = Duration::from_secs(60 * 60);

/// The part of a duty cycle that acknowledgements of the link header have: a quarter. `None` is no limit.
pub(crate) fn acks_ppm(header: LinkHeader, duty_cycle_ppm: Option<u32>) -> Option<u32> {
    match header {
        LinkHeader::RadioHead { acks: true, .. } => duty_cycle_ppm.map(|ppm| ppm / 4),
        LinkHeader::RadioHead { acks: false, .. } | LinkHeader::Forwarder | LinkHeader::None => None,
    }
}

/// What acknowledgements leave for the datagrams of the core.
pub(crate) fn duty_cycle(header: LinkHeader, duty_cycle_ppm: Option<u32>) -> Option<DutyCycle> {
    duty_cycle_ppm.map(|ppm| DutyCycle {
        ppm: ppm - acks_ppm(header, duty_cycle_ppm).unwrap_or(0),
        window: WINDOW,
    })
}

/// A bucket that begins empty, so that nothing need be remembered over a restart: what flows in within any window and
/// what it holds at most are together no more than the limit.
#[derive(Debug)]
pub(crate) struct AckAirtime {
    /// `None` is no limit.
    ppm: Option<u32>,
    left: Duration,
    filled: Instant,
}

impl AckAirtime {
    pub(crate) fn new(header: LinkHeader, duty_cycle_ppm: Option<u32>) -> AckAirtime {
        AckAirtime {
            ppm: acks_ppm(header, duty_cycle_ppm),
            left: Duration::ZERO,
            filled: Instant::START,
        }
    }

    /// Takes airtime for one; false if there is not enough.
    pub(crate) fn take(&mut self, now: Instant, airtime: Duration) -> bool {
        let Some(ppm) = self.ppm else {
            return true;
        };
        // A tenth of the limit can be held, nine tenths flow in.
        let most = share(WINDOW, ppm) / 10;
        self.left = (self.left + share(now.since(self.filled).min(WINDOW), ppm) * 9 / 10).min(most);
        self.filled = now;
        let enough = self.left >= airtime;
        if enough {
            self.left -= airtime;
        }
        enough
    }
}

/// So many millionths of a time.
fn share(time: Duration, ppm: u32) -> Duration {
    Duration::from_nanos((time.as_micros() as u64).saturating_mul(u64::from(ppm)) / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 %, of which acknowledgements have a quarter: 9 s.
    fn bucket() -> AckAirtime {
        AckAirtime {
            ppm: Some(2_500),
            left: Duration::ZERO,
            filled: Instant::START,
        }
    }

    #[test]
    fn no_window_holds_more_than_the_limit() {
        let mut bucket = bucket();
        let airtime = Duration::from_millis(124);
        let mut sent = Vec::new();
        for second in 0..4 * 3600 {
            let now = Instant::from_micros(second * 1_000_000);
            // Nodes are quiet for an hour, then more speak than can be answered.
            while second > 3600 && bucket.take(now, airtime) {
                sent.push(second);
            }
        }
        let worst =
            (0..4 * 3600).map(|from| sent.iter().filter(|at| (from..from + 3600).contains(*at)).count());
        let worst = airtime * worst.max().unwrap() as u32;
        assert!(
            (Duration::from_secs(8)..Duration::from_secs(9)).contains(&worst),
            "{worst:?}"
        );
    }

    #[test]
    fn start_grants_nothing() {
        let mut bucket = bucket();
        assert!(!bucket.take(Instant::START, Duration::from_micros(1)));
        assert!(bucket.take(Instant::from_micros(60_000_000), Duration::from_millis(124)));
    }
}
