//! One direction of a link between a client and the gateway: latency, loss, duplicates, reordering.

use core::time::Duration;

use gateway_core::time::Instant;
use rand::{RngExt, rngs::SmallRng};

/// How one direction of a link treats datagrams. Shares are probabilities, 0.0..=1.0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathConfig {
    /// Shortest time on the way.
    pub latency_min: Duration,
    /// Longest time on the way, unless reordered.
    pub latency_max: Duration,
    /// Share that is lost, independently of each other.
    pub loss: f64,
    /// Share that arrives twice.
    pub duplicate: f64,
    /// Share that is held back and so overtaken by later datagrams.
    pub reorder: f64,
    /// How long those are held back at most.
    pub reorder_by: Duration,
    /// Loss in bursts, on top of `loss`.
    pub burst: Option<Burst>,
}

impl PathConfig {
    /// Quick, in order, without loss.
    pub const CLEAN: PathConfig = PathConfig {
        latency_min: Duration::from_millis(5),
        latency_max: Duration::from_millis(20),
        loss: 0.0,
        duplicate: 0.0,
        reorder: 0.0,
        reorder_by: Duration::ZERO,
        burst: None,
    };

    /// As [`PathConfig::CLEAN`], but this share is lost.
    pub const fn lossy(loss: f64) -> PathConfig {
        PathConfig {
            loss,
            ..PathConfig::CLEAN
        }
    }
}

impl Default for PathConfig {
    fn default() -> Self {
        PathConfig::CLEAN
    }
}

/// The Gilbert-Elliott model: a channel that is good or bad, and loses more while it is bad.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Burst {
    /// Probability per datagram that a good channel turns bad.
    pub enter: f64,
    /// Probability per datagram that a bad channel turns good.
    pub leave: f64,
    /// Share that a bad channel loses.
    pub loss: f64,
}

/// One direction of one client's link.
#[derive(Debug, Clone)]
pub struct Path {
    /// May be changed at any time.
    pub config: PathConfig,
    bad: bool,
    last_arrival: Instant,
}

impl Path {
    /// A path in its good state.
    pub fn new(config: PathConfig) -> Path {
        Path {
            config,
            bad: false,
            last_arrival: Instant::START,
        }
    }

    /// Sends one datagram: when its copies arrive, none if it is lost.
    pub fn send(&mut self, now: Instant, rng: &mut SmallRng) -> Vec<Instant> {
        if let Some(burst) = self.config.burst {
            let turn = if self.bad { burst.leave } else { burst.enter };
            self.bad ^= rng.random_bool(turn);
            if self.bad && rng.random_bool(burst.loss) {
                return Vec::new();
            }
        }
        if rng.random_bool(self.config.loss) {
            return Vec::new();
        }
        let mut arrivals = vec![self.arrival(now, rng)];
        if rng.random_bool(self.config.duplicate) {
            arrivals.push(self.arrival(now, rng));
        }
        arrivals
    }

    fn arrival(&mut self, now: Instant, rng: &mut SmallRng) -> Instant {
        let on_time = now + between(rng, self.config.latency_min, self.config.latency_max);
        if rng.random_bool(self.config.reorder) {
            return on_time + between(rng, Duration::ZERO, self.config.reorder_by);
        }
        // What is not held back keeps its order.
        self.last_arrival = self.last_arrival.max(on_time);
        self.last_arrival
    }
}

/// A duration from `min` to `max`, both included.
pub(crate) fn between(rng: &mut SmallRng, min: Duration, max: Duration) -> Duration {
    let (min, max) = (min.as_micros() as u64, max.as_micros() as u64);
    Duration::from_micros(rng.random_range(min..=max.max(min)))
}

#[cfg(test)]
mod tests {
    use super::{Burst, Path, PathConfig};
    use core::time::Duration;
    use gateway_core::time::Instant;
    use rand::{SeedableRng, rngs::SmallRng};

    fn arrivals(config: PathConfig, count: u64) -> Vec<(u64, Instant)> {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut path = Path::new(config);
        let sent = |n| Instant::from_micros(n * 1_000);
        (0..count)
            .flat_map(|n| {
                path.send(sent(n), &mut rng)
                    .into_iter()
                    .map(move |at| (n, at))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn clean_path_keeps_order_and_loses_nothing() {
        let arrivals = arrivals(PathConfig::CLEAN, 1_000);
        assert_eq!(arrivals.len(), 1_000);
        assert!(arrivals.windows(2).all(|pair| pair[0].1 <= pair[1].1));
    }

    #[test]
    fn loss_and_duplicates_are_near_their_shares() {
        let lost = 10_000 - arrivals(PathConfig::lossy(0.3), 10_000).len();
        assert!((2_800..3_200).contains(&lost), "{lost}");
        let doubled = arrivals(
            PathConfig {
                duplicate: 0.1,
                ..PathConfig::CLEAN
            },
            10_000,
        )
        .len()
            - 10_000;
        assert!((900..1_100).contains(&doubled), "{doubled}");
    }

    #[test]
    fn held_back_datagrams_are_overtaken() {
        let config = PathConfig {
            reorder: 0.2,
            reorder_by: Duration::from_millis(200),
            ..PathConfig::CLEAN
        };
        let mut arrivals = arrivals(config, 1_000);
        arrivals.sort_by_key(|(_, at)| *at);
        assert!(arrivals.windows(2).any(|pair| pair[0].0 > pair[1].0));
    }

    #[test]
    fn bursts_lose_neighbours() {
        let burst = Burst {
            enter: 0.02,
            leave: 0.2,
            loss: 1.0,
        };
        let arrived = arrivals(
            PathConfig {
                burst: Some(burst),
                ..PathConfig::CLEAN
            },
            10_000,
        );
        let gaps: Vec<u64> = arrived
            .windows(2)
            .map(|pair| pair[1].0 - pair[0].0 - 1)
            .filter(|gap| *gap > 0)
            .collect();
        let mean = gaps.iter().sum::<u64>() as f64 / gaps.len() as f64;
        // A bad spell lasts 1 / leave = 5 datagrams on average.
        assert!((4.0..6.0).contains(&mean), "{mean}");
    }
}
