//! Time as the core sees it: handed in, never read.

use core::{fmt, num::NonZeroU64, ops, time::Duration};

/// Microseconds since the gateway started, on the monotonic clock of whoever drives the core.
///
/// There is no `now()`: the core cannot read a clock, so everything it does can be replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(NonZeroU64); // One more than the microseconds, so that an optional one takes no more room.

impl Instant {
    /// The moment the gateway started.
    pub const START: Instant = Instant(NonZeroU64::MIN);

    /// The instant `micros` µs after the start.
    pub const fn from_micros(micros: u64) -> Self {
        Instant(NonZeroU64::MIN.saturating_add(micros))
    }

    /// Microseconds since the start.
    pub const fn as_micros(self) -> u64 {
        self.0.get() - 1
    }

    /// Time since `earlier`, zero if that is later.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_micros(self.as_micros().saturating_sub(earlier.as_micros()))
    }

    /// The instant so long before, the start at the earliest.
    pub fn before(self, duration: Duration) -> Instant {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Instant::from_micros(self.as_micros().saturating_sub(micros))
    }
}

impl Default for Instant {
    fn default() -> Self {
        Instant::START
    }
}

impl ops::Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, duration: Duration) -> Instant {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(micros))
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.as_micros();
        write!(f, "{}.{:06}s", micros / 1_000_000, micros % 1_000_000)
    }
}
