//! What a radio had of the air: every transmission, and what may be asked of them.

use core::time::Duration;

use gateway_core::time::Instant;

/// The time from its start to its end that a transmission was on the air.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnAir {
    /// When it began.
    pub start: Instant,
    /// When it ended.
    pub end: Instant,
}

impl OnAir {
    /// How long it was.
    pub fn time(&self) -> Duration {
        self.end.since(self.start)
    }
}

/// The most that was on the air within any stretch of time of this length, and when that stretch began.
///
/// `used` is in the order of time and does not overlap, as with every single transmitter. The most is found in a
/// stretch that begins with a transmission or ends with one: any other can be moved until it does, without loss.
pub fn worst_window(used: &[OnAir], window: Duration) -> (Duration, Instant) {
    let mut worst = (Duration::ZERO, Instant::START);
    let mut consider = |from: Instant| {
        let until = from + window;
        let first = used.partition_point(|on| on.end <= from);
        let within = used[first..].iter().take_while(|on| on.start < until);
        let sum = within.map(|on| on.end.min(until).since(on.start.max(from))).sum();
        if sum > worst.0 {
            worst = (sum, from);
        }
    };
    for on in used {
        consider(on.start);
        let before_end = on.end.since(Instant::START + window);
        consider(Instant::START + before_end);
    }
    worst
}

/// Jain's index of shares: 1 if all are equal, 1/n if one has everything.
pub fn jain(shares: &[u64]) -> f64 {
    let sum: f64 = shares.iter().map(|share| *share as f64).sum();
    let squares: f64 = shares.iter().map(|share| (*share as f64).powi(2)).sum();
    if squares == 0.0 {
        return 1.0;
    }
    sum * sum / (shares.len() as f64 * squares)
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use gateway_core::time::Instant;

    use super::{OnAir, jain, worst_window};

    fn at(seconds: u64) -> Instant {
        Instant::START + Duration::from_secs(seconds)
    }

    fn on(start: u64, end: u64) -> OnAir {
        OnAir {
            start: at(start),
            end: at(end),
        }
    }

    #[test]
    fn worst_window_is_found_across_full_hours() {
        let used = [on(10, 20), on(3_000, 3_030), on(3_630, 3_660), on(9_000, 9_020)];
        let (worst, from) = worst_window(&used, Duration::from_secs(3_600));
        assert_eq!(worst, Duration::from_secs(60));
        assert!((at(60)..=at(3_000)).contains(&from), "{from}");
    }

    #[test]
    fn transmission_counts_as_far_as_it_is_within() {
        let used = [on(0, 10), on(105, 115)];
        let (worst, _) = worst_window(&used, Duration::from_secs(110));
        assert_eq!(worst, Duration::from_secs(15));
    }

    /// Against the sum over every second that a window may begin at.
    #[test]
    fn no_window_is_worse_than_the_worst() {
        use rand::{RngExt, SeedableRng, rngs::SmallRng};
        let mut rng = SmallRng::seed_from_u64(5);
        for _ in 0..50 {
            let mut used = Vec::new();
            let mut second = 200;
            for _ in 0..40 {
                second += rng.random_range(0..30);
                let length = rng.random_range(1..8);
                used.push(on(second, second + length));
                second += length;
            }
            let (worst, _) = worst_window(&used, Duration::from_secs(100));
            let brute = (0..second).map(|from| {
                (from..from + 100)
                    .filter(|s| used.iter().any(|on| on.start <= at(*s) && at(s + 1) <= on.end))
                    .count() as u64
            });
            assert_eq!(worst.as_secs(), brute.max().unwrap());
        }
    }

    #[test]
    fn jain_tells_even_from_uneven() {
        assert!((jain(&[7, 7, 7, 7]) - 1.0).abs() < 1e-9);
        assert!((jain(&[8, 0, 0, 0]) - 0.25).abs() < 1e-9);
        assert!((jain(&[]) - 1.0).abs() < 1e-9);
    }
}
