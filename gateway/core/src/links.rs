//! What goes out on each link, and in which order.
//!
//! Clients are not given datagrams to keep: they stand in line with what they owe, and a datagram is made when its
//! link takes it. Answers go before deliveries; within a class clients take turns.

use std::collections::VecDeque;

use crate::client::Reply;
use crate::clients::ClientIx;
use crate::discovery::Beacons;
use crate::io::{LinkProfile, TxTicket};
use crate::peer::{LinkId, Route};

/// Answers to peers without a session that may wait on one link.
const STRAYS_MAX: usize = 1024;

/// All links, by [`LinkId`].
#[derive(Debug, Default)]
pub(crate) struct Links {
    links: Vec<Link>,
    next_ticket: u32,
}

/// One link.
#[derive(Debug, Default)]
pub(crate) struct Link {
    profile: Option<LinkProfile>,
    credit: u32,
    /// Answers owed to clients.
    pub(crate) replies: VecDeque<Owed>,
    /// Clients with something to deliver.
    pub(crate) deliveries: VecDeque<ClientIx>,
    /// Answers to peers without a session.
    pub(crate) strays: VecDeque<Stray>,
    /// What goes to everyone.
    pub(crate) beacons: Beacons,
}

/// An answer owed to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owed {
    pub(crate) client: ClientIx,
    /// Which record, so that a later one in the same place does not get it.
    pub(crate) serial: u32,
    pub(crate) reply: Reply,
}

/// An answer to a peer without a session.
#[derive(Debug, Clone)]
pub(crate) struct Stray {
    pub(crate) via: Via,
    pub(crate) answer: sn_codec::Packet<'static>,
    /// For the forwarder in between: how far to broadcast it, 0–3; 0 for what is meant for one node.
    pub(crate) radius: u8,
}

/// The way to a client: link, route, and the node id behind a forwarder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Via {
    pub(crate) link: LinkId,
    pub(crate) route: Route,
    pub(crate) node: Option<Box<[u8]>>,
}

impl Links {
    pub(crate) fn up(&mut self, link: LinkId, profile: LinkProfile) {
        self.expect(link);
        if let Some(link) = self.get_mut(link) {
            link.credit = profile.credit;
            link.profile = Some(profile);
        }
    }

    /// Makes the lines of a link that comes up later.
    pub(crate) fn expect(&mut self, link: LinkId) {
        let len = usize::from(link.0) + 1;
        if self.links.len() < len {
            self.links.resize_with(len, Link::default);
        }
    }

    /// The link does not work for now; what clients were owed comes back.
    pub(crate) fn down(&mut self, link: LinkId) -> VecDeque<Owed> {
        let Some(link) = self.get_mut(link) else {
            return VecDeque::new();
        };
        link.profile = None;
        link.credit = 0;
        link.strays.clear();
        link.beacons.stop();
        core::mem::take(&mut link.replies)
    }

    pub(crate) fn credit(&mut self, link: LinkId, datagrams: u32) {
        if let Some(link) = self.get_mut(link) {
            link.credit = link.credit.saturating_add(datagrams);
        }
    }

    pub(crate) fn get_mut(&mut self, link: LinkId) -> Option<&mut Link> {
        self.links.get_mut(usize::from(link.0))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Link> {
        self.links.iter()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = LinkId> + use<> {
        (0..self.links.len() as u16).map(LinkId)
    }

    /// The largest datagram a link carries; unknown links carry none.
    pub(crate) fn mtu(&self, link: LinkId) -> usize {
        let profile = self
            .links
            .get(usize::from(link.0))
            .and_then(|link| link.profile.as_ref());
        profile.map_or(0, |profile| profile.mtu)
    }

    /// Queues an answer to a peer without a session; false if too many wait.
    pub(crate) fn answer_stranger(&mut self, via: Via, answer: sn_codec::Packet<'static>) -> bool {
        self.send_stray(Stray {
            via,
            answer,
            radius: 0,
        })
    }

    /// The same with a radius for the forwarder.
    pub(crate) fn send_stray(&mut self, stray: Stray) -> bool {
        let Some(link) = self.get_mut(stray.via.link) else {
            return false;
        };
        if link.strays.len() >= STRAYS_MAX {
            return false;
        }
        link.strays.push_back(stray);
        true
    }

    /// Uses up one credit of a link and names the datagram.
    pub(crate) fn spend(&mut self, link: LinkId) -> TxTicket {
        if let Some(link) = self.get_mut(link)
            && link.credit != LinkProfile::UNLIMITED
        {
            link.credit = link.credit.saturating_sub(1);
        }
        self.next_ticket = self.next_ticket.wrapping_add(1);
        TxTicket(self.next_ticket)
    }
}

impl Link {
    pub(crate) fn ready(&self) -> bool {
        self.profile.is_some() && self.credit > 0
    }

    pub(crate) fn can_broadcast(&self) -> bool {
        self.profile
            .as_ref()
            .is_some_and(|profile| profile.broadcast_mtu > 0)
    }
}
