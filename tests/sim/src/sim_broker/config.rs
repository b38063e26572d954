//! How the broker and its port behave.

use core::time::Duration;

use gateway_core::io::Refusal;
use gateway_core::time::Instant;
use sn_codec::QoS;

/// How the broker and its port behave.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Reachable when the world begins.
    pub up_at_start: bool,
    /// Shortest time from a request to its execution.
    pub latency_min: Duration,
    /// Longest time from a request to its execution.
    pub latency_max: Duration,
    /// Longest time from the execution to the answer; answers overtake each other.
    pub settle_max: Duration,
    /// QoS 1 and 2 publishes taken unsettled.
    pub window: u16,
    /// Requests the port takes ahead of their execution.
    pub credit: u32,
    /// Deliveries sent to the gateway unacknowledged.
    pub receive_max: usize,
    /// How one message that matches several subscriptions of a connection arrives.
    pub overlap: Overlap,
    /// Highest QoS granted to a subscription.
    pub max_granted: QoS,
    /// Publishes to topics and subscriptions to filters that begin so are refused, with this reason.
    pub refuse: Vec<(String, Refusal)>,
    /// Publishes to some topics are refused for now (0x97), for a few seconds at a time.
    pub shortage: Option<Shortage>,
    /// A packet id of a delivery is given again at once, the lowest first; else they count up.
    pub lowest_packet_ids: bool,
    /// Share of subscriptions whose retained messages overtake the SUBACK (reading A57).
    pub retained_first: f64,
    /// Share of session losses in which `Lost` comes before `Up`.
    pub lost_before_up: f64,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        BrokerConfig {
            up_at_start: true,
            latency_min: Duration::from_millis(1),
            latency_max: Duration::from_millis(5),
            settle_max: Duration::from_millis(20),
            window: 20,
            credit: 64,
            receive_max: 20,
            overlap: Overlap::OneCopyWithIds,
            max_granted: QoS::ExactlyOnce,
            refuse: Vec::new(),
            shortage: None,
            lowest_packet_ids: false,
            retained_first: 0.5,
            lost_before_up: 0.5,
        }
    }
}

/// When the broker is short of something. It follows from the time and the topic, so that nothing else that happens by
/// chance depends on it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shortage {
    /// Tells worlds apart.
    pub seed: u64,
    /// How long it is short of the same.
    pub period: Duration,
    /// Share of the topics that it does not take.
    pub share: f64,
}

impl Shortage {
    pub(super) fn refuses(&self, now: Instant, topic: &str) -> bool {
        use core::hash::{Hash as _, Hasher as _};
        let period = u64::try_from(self.period.as_micros()).unwrap_or(u64::MAX).max(1);
        let mut hasher = rustc_hash::FxHasher::default();
        (self.seed, now.as_micros() / period, topic).hash(&mut hasher);
        (hasher.finish() >> 32) as f64 / f64::from(u32::MAX) < self.share
    }
}

/// How one message that matches several subscriptions of a connection arrives (MQTT 5 §3.3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// Once, with every subscription id.
    OneCopyWithIds,
    /// Once per subscription, each with its id.
    CopyPerFilter,
    /// Once, without ids (MQTT 3.1.1).
    OneCopyWithoutIds,
}
