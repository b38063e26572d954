//! Gathering: under load, wait a little for more to do at once.
//!
//! At thousands of messages a second the cost is in the wake-ups: every wait of the only thread in `epoll_wait` ends
//! with a turn for what is there, often one datagram. Sleeping for a moment before the thread parks lets a few
//! datagrams and acknowledgements come together, which then share one turn: one wake-up, one write to the broker.
//!
//! A fixed wait would double the cost of a slow trickle and throttle clients that wait for their answers. So it is
//! taken only while enough arrives, and given up when it turns out to slow the arrivals themselves down.

use core::time::Duration;

/// Messages that must arrive within one wait for it to pay.
const WORTHWHILE: f64 = 4.0;

/// How long the rate of arrivals is measured before it decides anything.
const WINDOW: Duration = Duration::from_millis(20);

/// Gathering may cost so much of the rate that was there without it; a closed loop loses far more.
const RATE_KEPT: f64 = 0.7;

/// Windows in a row with a lower rate that show it.
const SLOW_WINDOWS: u32 = 4;

/// Windows after which one without waiting shows how much arrives then.
const PROBE_WINDOWS: u32 = 25;

/// After gathering slowed the arrivals down it is not tried again for this long; doubled each time in a row.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(64);

/// Decides before each park whether to wait.
#[derive(Debug)]
pub(crate) struct Gather {
    wait: Duration,
    window_start: Duration,
    window_messages: u64,
    /// Messages a second in the last window without waiting.
    rate_before: f64,
    state: State,
    rest: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Off,
    /// Waiting for so many windows, the last so many of them at a lower rate than before.
    On {
        windows: u32,
        slow: u32,
    },
    Resting {
        until: Duration,
    },
}

impl Gather {
    /// Waits of at most `wait`; zero never waits.
    pub(crate) fn new(wait: Duration) -> Self {
        Gather {
            wait,
            window_start: Duration::ZERO,
            window_messages: 0,
            rate_before: 0.0,
            state: State::Off,
            rest: REST_MIN,
        }
    }

    /// How long to wait before the next park, at `now` since the start, `messages` being all counted so far.
    pub(crate) fn before_park(&mut self, now: Duration, messages: u64) -> Duration {
        if self.wait.is_zero() {
            return Duration::ZERO;
        }
        let elapsed = now.saturating_sub(self.window_start);
        if elapsed >= WINDOW {
            let rate = (messages - self.window_messages) as f64 / elapsed.as_secs_f64();
            self.window_start = now;
            self.window_messages = messages;
            self.decide(now, rate);
        }
        match self.state {
            State::On { .. } => self.wait,
            State::Off | State::Resting { .. } => Duration::ZERO,
        }
    }

    fn decide(&mut self, now: Duration, rate: f64) {
        let worthwhile = rate * self.wait.as_secs_f64() >= WORTHWHILE;
        match self.state {
            State::Resting { until } if now < until => {}
            State::Off | State::Resting { .. } => {
                self.state = if worthwhile {
                    State::On { windows: 0, slow: 0 }
                } else {
                    State::Off
                };
                self.rate_before = rate;
            }
            State::On { .. } if !worthwhile && rate >= self.rate_before * RATE_KEPT => {
                self.state = State::Off;
            }
            State::On { windows, slow } if rate < self.rate_before * RATE_KEPT => {
                // Less arrives than before: whoever sends waits for our answers, or has less to say. Either way the
                // wait does not pay now. One window may be a hiccup of the machine.
                self.state = State::On {
                    windows: windows + 1,
                    slow: slow + 1,
                };
                if slow + 1 == SLOW_WINDOWS {
                    self.state = State::Resting {
                        until: now + self.rest,
                    };
                    self.rest = (self.rest * 2).min(REST_MAX);
                }
            }
            // The rate without waiting is measured anew: it may have been that of a load that had just begun.
            State::On {
                windows: PROBE_WINDOWS..,
                ..
            } => self.state = State::Off,
            State::On { windows, .. } => {
                self.state = State::On {
                    windows: windows + 1,
                    slow: 0,
                };
                if windows + 1 == PROBE_WINDOWS {
                    self.rest = REST_MIN;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Runs for a while, one park every `step`, with `rate` depending on whether the gateway waits; returns the share
    /// of parks with a wait.
    fn share_of_waits(gather: &mut Gather, from: Duration, rate: impl Fn(bool) -> f64) -> f64 {
        let (parks, mut waits, mut messages) = (2000, 0, 0.0);
        let mut waiting = false;
        for park in 0..parks {
            messages += rate(waiting) / 1000.0;
            waiting = !gather.before_park(from + MS * park, messages as u64).is_zero();
            waits += u32::from(waiting);
        }
        f64::from(waits) / f64::from(parks)
    }

    #[test]
    fn steady_load_is_gathered() {
        assert!(share_of_waits(&mut Gather::new(MS), MS, |_| 5000.0) > 0.95);
    }

    #[test]
    fn hiccups_do_not_end_it() {
        let mut gather = Gather::new(MS);
        let mut messages = 0;
        let mut waits = 0;
        for park in 0..2000 {
            // Every 200 ms nothing arrives for 30 ms.
            messages += if park % 200 < 30 { 0 } else { 6 };
            waits += u32::from(!gather.before_park(MS * park, messages).is_zero());
        }
        assert!(waits > 1800, "{waits} of 2000");
    }

    #[test]
    fn trickle_is_not() {
        assert!(share_of_waits(&mut Gather::new(MS), MS, |_| 1000.0) < 0.01);
    }

    #[test]
    fn closed_loop_is_left_alone() {
        // Four clients that wait for their answers: fast, unless the gateway dawdles.
        let rate = |waiting: bool| if waiting { 4000.0 } else { 20_000.0 };
        assert!(share_of_waits(&mut Gather::new(MS), MS, rate) < 0.1);
    }

    #[test]
    fn closed_loop_that_begins_within_a_window_is_left_alone_too() {
        let mut gather = Gather::new(MS);
        let (mut messages, mut waiting, mut waits) = (0.0, false, 0);
        for park in 0..10_000 {
            // The first window sees only its last quarter of the load.
            messages += match (park < 15, waiting) {
                (true, _) => 0.0,
                (_, true) => 13.0,
                (_, false) => 60.0,
            };
            waiting = !gather.before_park(MS * park, messages as u64).is_zero();
            waits += u32::from(waiting);
        }
        assert!(waits < 1500, "{waits} of 10000");
    }

    #[test]
    fn switched_off_never_waits() {
        assert!(share_of_waits(&mut Gather::new(Duration::ZERO), MS, |_| 1e6) < f64::EPSILON);
    }
}
