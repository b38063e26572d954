//! What the code of one client may touch: everything but the other clients.

use std::collections::VecDeque;

use rand::rngs::SmallRng;

use crate::config::GatewayConfig;
use crate::io::Notice;
use crate::limiter::{RateLimit, StrangerLimit};
use crate::links::Links;
use crate::metrics::Metrics;
use crate::registry::{Names, Predefined};
use crate::subscriptions::Subscriptions;
use crate::timers::Timers;
use crate::upstream::Upstream;

/// The gateway without its clients.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: GatewayConfig,
    pub(crate) predefined: Predefined,
    pub(crate) names: Names,
    pub(crate) upstream: Upstream,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) links: Links,
    pub(crate) timers: Timers,
    pub(crate) metrics: Metrics,
    pub(crate) rng: SmallRng,
    pub(crate) notices: VecDeque<Notice>,
    pub(crate) strangers: StrangerLimit,
    pub(crate) new_sessions: RateLimit,
    pub(crate) qos_minus_one: RateLimit,
    /// Clients within a will handshake.
    pub(crate) pending_connects: usize,
}

/// Notices kept for the shell; beyond that the oldest are forgotten.
const NOTICES_MAX: usize = 4096;

impl Context {
    /// Tells the shell something.
    pub(crate) fn notice(&mut self, notice: Notice) {
        if self.notices.len() >= NOTICES_MAX {
            self.notices.pop_front();
        }
        self.notices.push_back(notice);
    }
}
