//! ADVERTISE, SEARCHGW and GWINFO (§6.1).

use sn_codec::{Advertise, GwInfo, Packet};

use crate::clients::Peer;
use crate::gateway::Gateway;
use crate::io::{Destination, Output};
use crate::links::Via;
use crate::peer::LinkId;
use crate::time::Instant;

impl Gateway {
    /// SEARCHGW is answered at once and to its sender (reading A79), at most once a second each.
    pub(crate) fn on_search_gw(&mut self, now: Instant, via: Via) {
        let peer_hash = self.clients.peer_hash(Peer::from(&via));
        if self.cx.strangers.allow(now, peer_hash) {
            let gw_id = self.cx.config.gateway_id;
            self.answer_stranger(via, Packet::GwInfo(GwInfo { gw_id, gw_add: &[] }));
        } else {
            self.cx.metrics.rate_limited_total += 1;
        }
    }

    /// The first ADVERTISE of a link, once a broker can be reached (reading A80).
    pub(crate) fn start_advertising(&mut self, now: Instant, link: LinkId) {
        if self.cx.config.advertise_interval.is_none() || !self.cx.upstream.any_up() {
            return;
        }
        if let Some(link) = self.cx.links.get_mut(link).filter(|link| link.can_broadcast()) {
            link.next_advertise = Some(now);
        }
        self.advertise_due(now);
    }

    /// Puts the beacons that are due in line.
    pub(crate) fn advertise_due(&mut self, now: Instant) {
        let Some(interval) = self.cx.config.advertise_interval else {
            return;
        };
        let reachable = self.cx.upstream.any_up();
        for id in self.cx.links.ids() {
            let Some(link) = self.cx.links.get_mut(id) else {
                continue;
            };
            if link.next_advertise.is_some_and(|at| at <= now) {
                link.advertise = reachable;
                link.next_advertise = Some(now + interval);
            }
        }
    }

    pub(crate) fn next_advertise(&self) -> Option<Instant> {
        self.cx.links.iter().filter_map(|link| link.next_advertise).min()
    }

    /// Makes the ADVERTISE that a link is due.
    pub(crate) fn transmit_advertise(&mut self, id: LinkId, buf: &mut Vec<u8>) -> Option<Output> {
        let link = self.cx.links.get_mut(id).filter(|link| link.advertise)?;
        link.advertise = false;
        let interval = self.cx.config.advertise_interval?;
        let duration = u16::try_from(interval.as_secs()).unwrap_or(u16::MAX);
        let packet = Packet::Advertise(Advertise {
            gw_id: self.cx.config.gateway_id,
            duration,
        });
        let start = buf.len();
        packet.encode(buf);
        self.cx.metrics.count_sent(packet.msg_type());
        let ticket = self.cx.links.spend(id);
        Some(Output::Transmit {
            link: id,
            to: Destination::Broadcast,
            len: buf.len() - start,
            ticket,
        })
    }
}
