//! When to try again.

use core::time::Duration;

use rand::RngExt;

use crate::Reconnect;

/// The waits between attempts to connect: none before the first, then doubling.
#[derive(Debug)]
pub(crate) struct Backoff {
    config: Reconnect,
    /// Without jitter; `None`: at once.
    next: Option<Duration>,
}

impl Backoff {
    /// For a connection whose first attempt is made at once, so that the first wait is already the configured one.
    pub(crate) fn new(config: Reconnect) -> Self {
        Backoff {
            config,
            next: Some(config.first),
        }
    }

    /// The wait before the next attempt.
    pub(crate) fn next_wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = Some(wait.map_or(self.config.first, |wait| {
            wait.saturating_mul(2).min(self.config.max)
        }));
        self.vary(wait.unwrap_or(Duration::ZERO))
    }

    /// A connection is lost that stood for this long. One that was up for a while is tried again at once; a broker that
    /// accepts and hangs up is not hammered.
    pub(crate) fn lost_after(&mut self, up: Duration) {
        if up >= self.config.first {
            self.next = None;
        }
    }

    fn vary(&self, wait: Duration) -> Duration {
        let jitter = self.config.jitter.clamp(0.0, 1.0);
        wait.mul_f64(1.0 + jitter * rand::rng().random_range(-1.0..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Reconnect = Reconnect {
        first: Duration::from_secs(1),
        max: Duration::from_secs(5),
        jitter: 0.0,
    };

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut backoff = Backoff::new(CONFIG);
        let waits: Vec<u64> = (0..5).map(|_| backoff.next_wait().as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
    }

    #[test]
    fn connection_that_stood_is_tried_again_at_once() {
        let mut backoff = Backoff::new(CONFIG);
        backoff.next_wait();
        backoff.lost_after(Duration::from_secs(1));
        assert_eq!(backoff.next_wait(), Duration::ZERO);
        assert_eq!(backoff.next_wait(), CONFIG.first);
    }

    #[test]
    fn connection_that_fell_at_once_waits_longer() {
        let mut backoff = Backoff::new(CONFIG);
        backoff.next_wait();
        backoff.lost_after(Duration::from_millis(10));
        assert_eq!(backoff.next_wait(), Duration::from_secs(2));
    }

    #[test]
    fn jitter_stays_within_its_share() {
        let mut seen_different = false;
        for _ in 0..100 {
            let mut backoff = Backoff::new(Reconnect {
                jitter: 0.3,
                ..CONFIG
            });
            let wait = backoff.next_wait().as_secs_f64();
            assert!((0.7..=1.3).contains(&wait), "{wait}");
            seen_different |= (wait - 1.0).abs() > 0.01;
        }
        assert!(seen_different);
    }
}
