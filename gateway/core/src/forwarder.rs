//! Who may forward, how much, and for how many nodes (§5.5, reading A82).
//!
//! A node is known by its forwarder's address and its own node id. One that roams, and every node of a forwarder that
//! comes back under another address, is a peer we do not know yet: it is told to connect again, or found by its client
//! id when it wakes (readings A11, A13, A16).

use core::time::Duration;
use std::sync::Arc;

use crate::clients::ClientIx;
use crate::config::ForwarderRule;
use crate::gateway::Gateway;
use crate::io::{ForwarderRefusal, Notice};
use crate::limiter::{RateLimit, Seldom};
use crate::links::Via;
use crate::peer::{LinkAddr, LinkId};
use crate::time::Instant;

/// Between two notices of one kind about one forwarder; taste.
const NOTICE_INTERVAL: Duration = Duration::from_secs(60);

/// The configured forwarders and what they use of their limits.
#[derive(Debug)]
pub(crate) struct Forwarders {
    listed: Vec<Forwarder>,
    /// For those that are not listed.
    not_listed: Seldom,
}

#[derive(Debug)]
struct Forwarder {
    rule: ForwarderRule,
    name: Arc<str>,
    rate: RateLimit,
    /// Clients bound to a node behind it.
    nodes: u32,
    /// By [`ForwarderRefusal`].
    notices: [Seldom; ForwarderRefusal::ALL.len()],
}

impl Forwarders {
    pub(crate) fn new(rules: &[ForwarderRule]) -> Self {
        let listed = |rule: &ForwarderRule| Forwarder {
            rule: rule.clone(),
            name: rule.name.as_str().into(),
            rate: RateLimit::new(rule.packets_per_second),
            nodes: 0,
            notices: [Seldom::new(NOTICE_INTERVAL); ForwarderRefusal::ALL.len()],
        };
        Forwarders {
            listed: rules.iter().map(listed).collect(),
            not_listed: Seldom::new(NOTICE_INTERVAL),
        }
    }

    /// The place of a forwarder on the list.
    fn position(&self, link: LinkId, addr: &LinkAddr) -> Option<usize> {
        self.listed
            .iter()
            .position(|forwarder| forwarder.rule.peers.covers(link, addr))
    }

    fn behind(&self, via: &Via) -> Option<usize> {
        via.node.as_ref()?;
        self.position(via.link, &via.route.addr)
    }

    /// Counts a frame of a forwarder, and says whether it is taken.
    fn admit(&mut self, now: Instant, link: LinkId, addr: &LinkAddr) -> Result<(), ForwarderRefusal> {
        let Some(at) = self.position(link, addr) else {
            let any_listed = self.listed.iter().any(|other| other.rule.peers.is_for_link(link));
            return if any_listed {
                Err(ForwarderRefusal::NotListed)
            } else {
                Ok(())
            };
        };
        if self.listed[at].rate.allow(now) {
            Ok(())
        } else {
            Err(ForwarderRefusal::Rate)
        }
    }

    /// True if one more node may have a session there, or `from`, where the client is bound now, is behind the same
    /// forwarder.
    fn has_room(&self, to: &Via, from: Option<&Via>) -> bool {
        let Some(at) = self.behind(to) else { return true };
        let forwarder = &self.listed[at];
        let limit = forwarder.rule.max_nodes;
        limit == 0 || forwarder.nodes < limit || from.is_some_and(|from| self.behind(from) == Some(at))
    }

    /// A client was bound to a node.
    pub(crate) fn bound(&mut self, via: &Via) {
        if let Some(at) = self.behind(via) {
            self.listed[at].nodes += 1;
        }
    }

    /// A client is not bound to a node any more.
    pub(crate) fn unbound(&mut self, via: &Via) {
        if let Some(at) = self.behind(via) {
            self.listed[at].nodes = self.listed[at].nodes.saturating_sub(1);
        }
    }
}

impl Gateway {
    /// True if a frame of a forwarder is taken; else it is dropped, counted and perhaps told.
    pub(crate) fn admits_forwarder(&mut self, now: Instant, link: LinkId, addr: &LinkAddr) -> bool {
        match self.clients.forwarders.admit(now, link, addr) {
            Ok(()) => true,
            Err(reason) => {
                self.refuse_forwarder(now, link, addr, reason);
                false
            }
        }
    }

    /// Why a client may not have its session there, as far as its address and the forwarder in between have a say.
    pub(crate) fn no_place(
        &mut self,
        now: Instant,
        client: Option<ClientIx>,
        to: &Via,
    ) -> Option<&'static str> {
        let from = client.and_then(|ix| self.clients.get(ix)?.via.as_ref());
        if !self.clients.sources.has_room(to, from) {
            return Some("too many sessions at its address");
        }
        if !self.clients.forwarders.has_room(to, from) {
            self.refuse_forwarder(now, to.link, &to.route.addr, ForwarderRefusal::Nodes);
            return Some("too many nodes behind its forwarder");
        }
        None
    }

    fn refuse_forwarder(&mut self, now: Instant, link: LinkId, addr: &LinkAddr, reason: ForwarderRefusal) {
        self.cx.metrics.forwarder_refused[reason as usize] += 1;
        let forwarders = &mut self.clients.forwarders;
        let (name, seldom) = match forwarders.position(link, addr) {
            Some(at) => {
                let forwarder = &mut forwarders.listed[at];
                (
                    Some(forwarder.name.clone()),
                    &mut forwarder.notices[reason as usize],
                )
            }
            None => (None, &mut forwarders.not_listed),
        };
        if let Some(suppressed) = seldom.allow(now) {
            self.cx.notice(Notice::ForwarderRefused {
                forwarder: name,
                link,
                addr: addr.clone(),
                reason,
                suppressed,
            });
        }
    }
}
