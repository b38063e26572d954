//! ADVERTISE, SEARCHGW and GWINFO (§6.1).

use core::time::Duration;

use sn_codec::{Advertise, GwInfo, Packet};

use crate::budget::Share;
use crate::clients::Peer;
use crate::config::SearchReply;
use crate::gateway::Gateway;
use crate::io::{Destination, Notice, Output};
use crate::limiter::Seldom;
use crate::links::{Admission, Via, What};
use crate::peer::{LinkAddr, LinkId};
use crate::time::Instant;

/// Between two ADVERTISEs of a link, however often link and broker come and go; taste.
const ADVERTISE_LEAST: Duration = Duration::from_secs(60);

/// What is heard on one link within this time of its sending on another may be its echo; taste.
const ECHO: Duration = Duration::from_secs(2);

/// How often others are expected to advertise if nothing says so (§7.2).
const ADVERTISE_USUAL: Duration = Duration::from_secs(960);

/// A stand-by gateway misses this many of the other's ADVERTISEs before it takes its place: "a couple" (§6.1).
const MISSED: u32 = 2;

/// Between two notices of a link about another gateway with our id; taste.
const SAME_ID_NOTICE: Duration = Duration::from_secs(600);

/// What a link broadcasts, and what it hears of other gateways.
#[derive(Debug)]
pub(crate) struct Beacons {
    /// An ADVERTISE is to be sent.
    advertise: bool,
    /// When the next one is due; only on links that can broadcast.
    next_advertise: Option<Instant>,
    last_advertise: Option<Instant>,
    /// A GWINFO is to be sent.
    gw_info: bool,
    last_gw_info: Option<Instant>,
    last_sent: Option<Instant>,
    same_id: Seldom,
    /// A stand-by gateway keeps silent until then.
    stands_by: Option<Instant>,
}

impl Default for Beacons {
    fn default() -> Self {
        Beacons {
            advertise: false,
            next_advertise: None,
            last_advertise: None,
            gw_info: false,
            last_gw_info: None,
            last_sent: None,
            same_id: Seldom::new(SAME_ID_NOTICE),
            stands_by: None,
        }
    }
}

impl Beacons {
    /// The link went down: nothing is sent, and nothing becomes due.
    pub(crate) fn stop(&mut self) {
        self.advertise = false;
        self.next_advertise = None;
        self.gw_info = false;
    }

    /// One that never left is to be sent again.
    pub(crate) fn again(&mut self, advertise: bool) {
        self.advertise |= advertise;
        self.gw_info |= !advertise;
    }

    /// The gateway in whose place this one stands ready is there, or may be, and says so again within `interval`: nothing
    /// is broadcast until it has been missed. Half an interval is left for a broadcast that comes late.
    fn stand_by(&mut self, now: Instant, interval: Duration) {
        let until = now + interval * MISSED + interval / 2;
        self.stands_by = Some(until);
        self.advertise = false;
        self.gw_info = false;
        if let Some(next) = &mut self.next_advertise {
            *next = until;
        }
    }

    /// True while it is another gateway's turn to be found here.
    fn silent(&self, now: Instant) -> bool {
        self.stands_by.is_some_and(|until| now < until)
    }

    /// Beacons that are to be sent.
    pub(crate) fn waiting(&self) -> u64 {
        u64::from(self.advertise) + u64::from(self.gw_info)
    }
}

impl Gateway {
    /// SEARCHGW is answered at once and to its sender, through a forwarder with the radius of the search (reading A79);
    /// if so configured, everyone else is told too.
    pub(crate) fn on_search_gw(&mut self, now: Instant, via: Via, radius: u8) {
        if self
            .cx
            .links
            .get(via.link)
            .is_some_and(|link| link.beacons.silent(now))
        {
            self.cx.metrics.stand_by_searches_total += 1;
            return;
        }
        let peer_hash = self.clients.peer_hash(Peer::from(&via));
        if !self.cx.searches.allow(now, peer_hash) {
            self.cx.metrics.rate_limited_total += 1;
            return;
        }
        if self.cx.config.search_reply == SearchReply::UnicastAndBroadcast {
            let interval = self.cx.config.search_reply_interval;
            let link = self.cx.links.get_mut(via.link);
            if let Some(link) = link.filter(|link| link.can_broadcast())
                && link
                    .beacons
                    .last_gw_info
                    .is_none_or(|last| now.since(last) >= interval)
            {
                link.beacons.last_gw_info = Some(now);
                link.beacons.gw_info = true;
            }
        }
        let answer = Packet::GwInfo(GwInfo {
            gw_id: self.cx.config.gateway_id,
            gw_add: &[],
        });
        // The control octet of a forwarder has two bits for it (§5.5).
        let radius = radius.min(3);
        if !self.cx.links.send_stray(via, answer, radius) {
            self.cx.metrics.rate_limited_total += 1;
        }
    }

    /// ADVERTISE and GWINFO of others are never answered.
    pub(crate) fn on_other_gateway(&mut self, now: Instant, link: LinkId, from: &LinkAddr, gateway_id: u8) {
        let own_id = gateway_id == self.cx.config.gateway_id;
        if own_id && self.was_sent_on_another(now, link) {
            return;
        }
        self.cx.metrics.gateways_heard_total += 1;
        if !own_id {
            return;
        }
        self.cx.metrics.same_gateway_id_total += 1;
        let seldom = self.cx.links.get_mut(link).map(|link| &mut link.beacons.same_id);
        if seldom.is_some_and(|seldom| seldom.allow(now).is_some()) {
            self.cx.notice(Notice::SameGatewayId {
                link,
                addr: from.clone(),
                gateway_id,
            });
        }
    }

    /// A stand-by gateway hears the one whose place it would take. One that says nothing of its next ADVERTISE is expected
    /// as often as this one would send its own.
    pub(crate) fn on_advertise(&mut self, now: Instant, link: LinkId, from: &LinkAddr, heard: Advertise) {
        self.on_other_gateway(now, link, from, heard.gw_id);
        if self.cx.config.stand_by_for != Some(heard.gw_id) {
            return;
        }
        let interval = match heard.duration {
            0 => self.own_interval(),
            seconds => Duration::from_secs(seconds.into()),
        };
        let Some(beacons) = self.cx.links.get_mut(link).map(|link| &mut link.beacons) else {
            return;
        };
        let back = beacons.stands_by.is_none();
        beacons.stand_by(now, interval);
        if back {
            self.cx.notice(Notice::StandBy {
                link,
                gateway_id: heard.gw_id,
                missed: false,
            });
        }
    }

    fn own_interval(&self) -> Duration {
        self.cx.config.advertise_interval.unwrap_or(ADVERTISE_USUAL)
    }

    /// A stand-by gateway listens first.
    pub(crate) fn listen_first(&mut self, now: Instant, link: LinkId) {
        let interval = self.own_interval();
        if self.cx.config.stand_by_for.is_some()
            && let Some(link) = self.cx.links.get_mut(link)
        {
            link.beacons.stand_by(now, interval);
        }
    }

    /// True if it may well be ours, sent on one link and heard on another of the same network. Adapters leave out what
    /// came from their own link.
    fn was_sent_on_another(&self, now: Instant, link: LinkId) -> bool {
        self.cx
            .links
            .ids()
            .zip(self.cx.links.iter())
            .filter(|(id, _)| *id != link)
            .filter_map(|(_, other)| other.beacons.last_sent)
            .any(|at| now.since(at) <= ECHO)
    }

    /// The first ADVERTISE of a link, once a broker can be reached (reading A80).
    pub(crate) fn start_advertising(&mut self, now: Instant, link: LinkId) {
        if self.cx.config.advertise_interval.is_none() || !self.cx.upstream.any_up() {
            return;
        }
        if let Some(link) = self.cx.links.get_mut(link).filter(|link| link.can_broadcast()) {
            let last = link.beacons.last_advertise;
            let first = last.map_or(now, |last| now.max(last + ADVERTISE_LEAST));
            link.beacons.next_advertise = Some(first.max(link.beacons.stands_by.unwrap_or(first)));
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
            let beacons = &mut link.beacons;
            if beacons.next_advertise.is_none_or(|at| now < at) {
                continue;
            }
            beacons.advertise = reachable;
            beacons.next_advertise = Some(now + interval);
            let missed = beacons.stands_by.take().and(self.cx.config.stand_by_for);
            if let Some(gateway_id) = missed {
                self.cx.notice(Notice::StandBy {
                    link: id,
                    gateway_id,
                    missed: true,
                });
            }
        }
    }

    pub(crate) fn next_advertise(&self) -> Option<Instant> {
        self.cx
            .links
            .iter()
            .filter_map(|link| link.beacons.next_advertise)
            .min()
    }

    /// Makes the beacon that a link is due.
    pub(crate) fn transmit_beacon(&mut self, now: Instant, id: LinkId, buf: &mut Vec<u8>) -> Option<Output> {
        let gw_id = self.cx.config.gateway_id;
        let beacons = &self.cx.links.get(id)?.beacons;
        let (packet, what, share) = if beacons.gw_info {
            let info = GwInfo { gw_id, gw_add: &[] };
            (Packet::GwInfo(info), What::GwInfo, Share::Control)
        } else if beacons.advertise {
            let interval = self.cx.config.advertise_interval?;
            let duration = u16::try_from(interval.as_secs()).unwrap_or(u16::MAX);
            let advertise = Advertise { gw_id, duration };
            (Packet::Advertise(advertise), What::Advertise, Share::Bulk)
        } else {
            return None;
        };
        let len = packet.encoded_len();
        let admission = self.cx.links.admit_broadcast(now, id, len, share);
        if admission == Admission::Wait {
            return None;
        }
        let link = self.cx.links.get_mut(id)?;
        match what {
            What::GwInfo => link.beacons.gw_info = false,
            _ => link.beacons.advertise = false,
        }
        if admission != Admission::Go {
            let notice = link.too_large(now, id, None, len);
            notice.into_iter().for_each(|notice| self.cx.notice(notice));
            return None;
        }
        if let What::Advertise = what {
            link.beacons.last_advertise = Some(now);
        }
        link.beacons.last_sent = Some(now);
        let confirms = link.confirms();
        packet.encode(buf);
        self.cx.metrics.count_sent(packet.msg_type());
        let ticket = self.cx.links.spend(now, id, len, share);
        if confirms {
            self.cx.links.follow(now, id, ticket, len, what);
        }
        Some(Output::Transmit {
            link: id,
            to: Destination::Broadcast,
            len,
            ticket,
        })
    }
}
