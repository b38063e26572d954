//! What the code of one client may touch: everything but the other clients.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use rand::rngs::SmallRng;
use sn_codec::topic;

use crate::config::{AddressChange, GatewayConfig, SleepRules};
use crate::durable::Journal;
use crate::io::{Notice, RadioFacts};
use crate::limiter::{RateLimit, SearchLimit, Seldom, StrangerLimit};
use crate::links::Links;
use crate::metrics::Metrics;
use crate::registry::{IdTrails, Names, Predefined, RuleIx};
use crate::subscriptions::Subscriptions;
use crate::time::Instant;
use crate::timers::Timers;
use crate::upstream::{Author, Full, Origin, Uplink, Upstream};

/// The gateway without its clients.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: GatewayConfig,
    pub(crate) predefined: Predefined,
    pub(crate) id_trails: IdTrails,
    pub(crate) names: Names,
    pub(crate) payloads: Payloads,
    pub(crate) upstream: Upstream,
    pub(crate) journal: Journal,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) links: Links,
    /// How the datagram at hand was received.
    pub(crate) facts: RadioFacts,
    pub(crate) timers: Timers,
    pub(crate) metrics: Metrics,
    pub(crate) rng: SmallRng,
    pub(crate) notices: VecDeque<Notice>,
    pub(crate) strangers: StrangerLimit,
    pub(crate) searches: SearchLimit,
    pub(crate) new_sessions: RateLimit,
    pub(crate) qos_minus_one: RateLimit,
    /// Notices about publishes with QoS −1 that no rule allows.
    pub(crate) minus_one_refused: Seldom,
    /// Clients within a will handshake.
    pub(crate) pending_connects: usize,
}

/// Copies of payloads, several to one allocation.
///
/// A block stays as long as one payload in it does; it is small, so that a message that waits for long keeps little.
#[derive(Debug, Default)]
pub(crate) struct Payloads {
    block: BytesMut,
}

/// Octets of one block.
const BLOCK: usize = 4096;

impl Payloads {
    /// A copy that can be shared.
    pub(crate) fn keep(&mut self, payload: &[u8]) -> Bytes {
        if payload.len() > BLOCK / 4 {
            return Bytes::copy_from_slice(payload);
        }
        if self.block.capacity() < payload.len() {
            self.block = BytesMut::with_capacity(BLOCK);
        }
        self.block.extend_from_slice(payload);
        self.block.split().freeze()
    }
}

/// Notices kept for the shell; beyond that the oldest are forgotten.
const NOTICES_MAX: usize = 4096;

impl Context {
    /// What is kept for the clients of a rule.
    pub(crate) fn sleep_rules(&self, rule: RuleIx) -> &SleepRules {
        let own = rule.of(&self.config.clients).and_then(|rule| rule.sleep.as_ref());
        own.unwrap_or(&self.config.sleep)
    }

    /// Whether the clients of a rule may turn up under another address.
    pub(crate) fn address_change(&self, rule: RuleIx) -> AddressChange {
        let own = rule.of(&self.config.clients).and_then(|rule| rule.address_change);
        own.unwrap_or(self.config.address_change)
    }

    /// Takes a message for the broker, or says that there is no place for it. Returns its number in the store, if it
    /// has one.
    pub(crate) fn publish(
        &mut self,
        now: Instant,
        author: Author,
        origin: Origin,
        message: Uplink,
    ) -> Result<Option<u64>, Full> {
        self.upstream
            .publish(&mut self.journal, now, author, origin, message)
    }

    /// True if every broker takes a publish to this name with the configured prefix, and none closes the connection over
    /// it (reading A8).
    pub(crate) fn may_publish(&self, name: &str) -> bool {
        let prefix = &self.config.upstream.topic_prefix;
        match prefix.is_empty() {
            true => topic::is_open_to_clients(name),
            false => {
                let name = format!("{prefix}{name}");
                topic::is_open_to_clients(&name) && topic::is_valid_name(&name)
            }
        }
    }

    /// Tells the shell something.
    pub(crate) fn notice(&mut self, notice: Notice) {
        if self.notices.len() >= NOTICES_MAX {
            self.notices.pop_front();
        }
        self.notices.push_back(notice);
    }
}
