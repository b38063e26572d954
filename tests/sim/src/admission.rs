//! What may keep a client from the address it comes from: limits of forwarders (A82), and a session at another address
//! (A11).

use core::time::Duration;

use gateway_core::config::{AddressChange, ForwarderRule, GatewayConfig};
use gateway_core::time::Instant;
use sn_codec::Connect;

use crate::Address;

/// PINGREQs to the old address within one Tretry, with `address_change = "guarded"`.
const CHALLENGE_PINGS: u32 = 3;

/// What the gateway made of a datagram, as its counters show. The reference says whether it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// A CONNECT was refused for now.
    pub refused: bool,
    /// A client is at another address from now on.
    pub moved: bool,
}

impl Verdict {
    /// Of a gateway that lets everybody in.
    pub const OPEN: Verdict = Verdict {
        refused: false,
        moved: true,
    };
}

/// True if a gateway with this configuration keeps anybody out.
pub fn is_selective(config: &GatewayConfig) -> bool {
    config.address_change != AddressChange::Open || !config.forwarders.is_empty()
}

/// The forwarders of the world, which share the limits of one rule.
#[derive(Debug)]
pub(crate) struct ForwarderLimits {
    rule: Option<ForwarderRule>,
    window_start: Instant,
    used: u32,
}

impl ForwarderLimits {
    pub(crate) fn new(config: &GatewayConfig) -> ForwarderLimits {
        assert!(config.forwarders.len() <= 1, "one rule for all forwarders");
        ForwarderLimits {
            rule: config.forwarders.first().cloned(),
            window_start: Instant::START,
            used: 0,
        }
    }

    /// True if one more frame is taken in this second.
    pub(crate) fn takes_frame(&mut self, now: Instant) -> bool {
        let limit = self.rule.as_ref().map_or(0, |rule| rule.packets_per_second);
        if now.since(self.window_start) >= Duration::from_secs(1) {
            (self.window_start, self.used) = (now, 0);
        }
        self.used += 1;
        limit == 0 || self.used <= limit
    }

    /// Nodes that may have a session at once.
    pub(crate) fn max_nodes(&self) -> Option<usize> {
        let max = self.rule.as_ref().map_or(0, |rule| rule.max_nodes as usize);
        (max > 0).then_some(max)
    }
}

/// A CONNECT from another address that waits for whether the client answers at its old one.
#[derive(Debug)]
pub(crate) struct Challenge {
    pub(crate) from: Address,
    pub(crate) will: bool,
    pub(crate) clean_session: bool,
    pub(crate) duration: u16,
    /// Unanswered until then, the client has moved.
    pub(crate) until: Instant,
}

impl Challenge {
    pub(crate) fn new(
        now: Instant,
        from: &Address,
        connect: Connect<'_>,
        config: &GatewayConfig,
    ) -> Challenge {
        let pause = config.timers.retry_first / CHALLENGE_PINGS;
        Challenge {
            from: from.clone(),
            will: connect.will,
            clean_session: connect.clean_session,
            duration: connect.duration,
            until: (0..CHALLENGE_PINGS).fold(now, |at, _| at + pause),
        }
    }

    /// What the CONNECT asked for last.
    pub(crate) fn connect<'a>(&self, client_id: &'a str) -> Connect<'a> {
        Connect {
            will: self.will,
            clean_session: self.clean_session,
            duration: self.duration,
            client_id,
        }
    }
}
