//! The links: whether they work, what they take, and what they have used.

use core::time::Duration;
use std::collections::VecDeque;

use rand::RngExt as _;
use rand::rngs::SmallRng;

use crate::airtime::Airtime;
use crate::budget::{Budget, Ready, Share};
use crate::client::downlink::Queued;
use crate::clients::ClientIx;
use crate::discovery::Beacons;
use crate::io::{
    AirtimeFound, DutyCycle, LinkProfile, Notice, RadioFacts, StoreEvent, StoreRequest, TxTicket,
};
use crate::limiter::Seldom;
use crate::link_metrics::{Class, Histogram, LinkMetrics, NotSent};
use crate::peer::{LinkAddr, LinkId, PeerAddr, Route};
use crate::schedule::{Fair, Lines, Owed, Stray};
use crate::time::Instant;

/// Octets of the usual answer: PUBACK and REGACK.
const ANSWER_LEN: usize = 7;

/// Datagrams of a link that are followed until it reports them; beyond that the oldest counts as sent. No modem takes
/// that many at once.
const IN_FLIGHT_MAX: usize = 256;

/// Datagrams in a row that a link took and did not send, before it is given a rest; taste.
const UNSENT_MAX: u32 = 16;

/// The rest.
const REST: Duration = Duration::from_secs(1);

/// Until answers to clients that have had their share are looked at again; taste.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Between two notices of a link about its duty cycle; taste.
const DUTY_CYCLE_NOTICE: Duration = Duration::from_secs(600);

/// Between two notices of a link about answers that do not fit; taste.
const TOO_LARGE_NOTICE: Duration = Duration::from_secs(60);

/// All links, by [`LinkId`].
#[derive(Debug, Default)]
pub(crate) struct Links {
    links: Vec<Link>,
    next_ticket: u32,
    /// Records that are to be made durable.
    stores: VecDeque<StoreRequest>,
    /// The time of the input at hand.
    pub(crate) now: Instant,
    /// What links use is recorded.
    keep_airtime: bool,
}

/// One link.
#[derive(Debug)]
pub(crate) struct Link {
    profile: Option<LinkProfile>,
    credit: u32,
    /// Datagrams take time that counts.
    costs: bool,
    was_up: bool,
    down_since: Option<Instant>,
    pub(crate) lines: Lines,
    /// What goes to everyone.
    pub(crate) beacons: Beacons,
    budget: Option<Budget>,
    found: Option<AirtimeFound>,
    not_stored: bool,
    in_flight: VecDeque<InFlight>,
    /// Datagrams in a row that were not sent, and until when the link rests for it.
    unsent: u32,
    rests_until: Option<Instant>,
    /// It has something to send, and its duty cycle says no.
    blocked_since: Option<Instant>,
    wake_at: Option<Instant>,
    duty_cycle_notice: Seldom,
    too_large_notice: Seldom,
    counts: LinkMetrics,
}

/// A datagram that the link will report.
#[derive(Debug)]
struct InFlight {
    ticket: TxTicket,
    airtime: Duration,
    len: usize,
    what: What,
}

/// What a datagram was, so that it can be sent again.
#[derive(Debug, Clone)]
pub(crate) enum What {
    /// A step of an exchange.
    Exchange {
        client: ClientIx,
        serial: u32,
    },
    /// A PUBLISH with QoS 0.
    Qos0 {
        client: ClientIx,
        serial: u32,
        item: Queued,
    },
    Reply(Owed),
    Stray(Stray),
    Advertise,
    GwInfo,
}

/// What the link says to a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    Go,
    /// Not now: the duty cycle.
    Wait,
    /// Never.
    Refused(NotSent),
}

/// The way to a client: link, route, and the node id behind a forwarder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Via {
    pub(crate) link: LinkId,
    pub(crate) route: Route,
    pub(crate) node: Option<Box<[u8]>>,
}

impl From<&Via> for PeerAddr {
    fn from(via: &Via) -> Self {
        PeerAddr {
            addr: via.route.addr.clone(),
            node: via.node.clone(),
        }
    }
}

impl Via {
    /// Octets that the frame of a forwarder takes (§5.5).
    pub(crate) fn overhead(&self) -> usize {
        self.node.as_ref().map_or(0, |node| 3 + node.len())
    }
}

impl Default for Link {
    fn default() -> Self {
        Link {
            profile: None,
            credit: 0,
            costs: false,
            was_up: false,
            down_since: None,
            lines: Lines::default(),
            beacons: Beacons::default(),
            budget: None,
            found: None,
            not_stored: false,
            in_flight: VecDeque::new(),
            unsent: 0,
            rests_until: None,
            blocked_since: None,
            wake_at: None,
            duty_cycle_notice: Seldom::new(DUTY_CYCLE_NOTICE),
            too_large_notice: Seldom::new(TOO_LARGE_NOTICE),
            counts: LinkMetrics {
                rssi_dbm: Histogram::rssi(),
                snr_db: Histogram::snr(),
                ..LinkMetrics::default()
            },
        }
    }
}

impl Links {
    pub(crate) fn new(keep_airtime: bool) -> Self {
        Links {
            keep_airtime,
            ..Links::default()
        }
    }

    /// The link works.
    pub(crate) fn up(&mut self, now: Instant, id: LinkId, profile: LinkProfile) -> Outage {
        let keep = self.keep_airtime;
        let link = self.get_or_insert(id);
        link.credit = profile.credit;
        let mut lost = false;
        match (&mut link.budget, profile.duty_cycle) {
            (Some(budget), Some(duty_cycle)) => budget.adopt(duty_cycle),
            (none, Some(duty_cycle)) => {
                let unknown = match keep {
                    true => AirtimeFound::Lost,
                    false => AirtimeFound::FirstStart,
                };
                let found = link.found.take().unwrap_or(unknown);
                lost = found == AirtimeFound::Lost;
                *none = Some(Budget::new(now, duty_cycle, keep, &found));
            }
            (_, None) => {}
        }
        link.costs = link.budget.is_some() || profile.airtime != Airtime::Free;
        link.profile = Some(profile);
        // At once, so that the first answer need not wait for it, and what was lost is lost only once.
        let store = link.ask(now, id, Duration::ZERO);
        let first = !core::mem::replace(&mut link.was_up, true);
        let after = link.down_since.take().map(|since| now.since(since));
        self.stores.extend(store);
        Outage { first, after, lost }
    }

    /// The link does not work for now; what clients were owed, and what was under way, comes back. False if it did not
    /// work before.
    pub(crate) fn down(&mut self, now: Instant, id: LinkId) -> Option<(VecDeque<Owed>, Vec<What>)> {
        let link = self.get_mut(id)?;
        link.profile.take()?;
        link.credit = 0;
        link.down_since = Some(now);
        link.blocked_since = None;
        link.wake_at = None;
        link.lines.strays.clear();
        link.beacons.stop();
        if let Some(budget) = &mut link.budget {
            budget.lose_reports(now);
        }
        let under_way = link.in_flight.drain(..).map(|sent| sent.what).collect();
        Some((core::mem::take(&mut link.lines.replies), under_way))
    }

    pub(crate) fn credit(&mut self, link: LinkId, datagrams: u32) {
        if let Some(link) = self.get_mut(link) {
            link.credit = link.credit.saturating_add(datagrams);
        }
    }

    /// The link, which may come up later.
    pub(crate) fn get_or_insert(&mut self, id: LinkId) -> &mut Link {
        let at = usize::from(id.0);
        if self.links.len() <= at {
            self.links.resize_with(at + 1, Link::default);
        }
        &mut self.links[at]
    }

    pub(crate) fn get(&self, link: LinkId) -> Option<&Link> {
        self.links.get(usize::from(link.0))
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
        let profile = self.get(link).and_then(|link| link.profile.as_ref());
        profile.map_or(0, |profile| profile.mtu)
    }

    /// Queues an answer to a peer without a session; false if too many wait.
    pub(crate) fn answer_stranger(&mut self, via: Via, answer: sn_codec::Packet<'static>) -> bool {
        self.send_stray(via, answer, 0)
    }

    /// DISCONNECTs that wait for a peer are not sent any more.
    pub(crate) fn forget_disconnects(&mut self, via: &Via) {
        if let Some(link) = self.get_mut(via.link) {
            link.lines.forget_disconnects(via);
        }
    }

    /// The same with a radius for the forwarder.
    pub(crate) fn send_stray(&mut self, via: Via, answer: sn_codec::Packet<'static>, radius: u8) -> bool {
        let since = self.now;
        let Some(link) = self.get_mut(via.link) else {
            return false;
        };
        let queued = link.lines.push_stray(Stray {
            via,
            answer,
            radius,
            since,
        });
        link.counts.dropped[NotSent::QueueFull as usize] += u64::from(!queued);
        queued
    }

    /// A message for a client does not fit its link.
    pub(crate) fn count_too_long(&mut self, via: Option<&Via>) {
        if let Some(link) = via.and_then(|via| self.get_mut(via.link)) {
            link.count_dropped(NotSent::TooLong, 1);
        }
    }

    /// A datagram was received.
    pub(crate) fn received(&mut self, id: LinkId, facts: RadioFacts, len: usize) {
        let Some(link) = self.get_mut(id) else { return };
        if facts == RadioFacts::default() && !link.costs() {
            return;
        }
        link.counts.rx_airtime_us += link.airtime(len).as_micros() as u64;
        if let Some(rssi) = facts.rssi_dbm {
            link.counts.rssi_dbm.add(rssi);
        }
        if let Some(snr) = facts.snr_db {
            link.counts.snr_db.add(i16::from(snr));
        }
    }

    /// Whether a datagram to one peer may go out now; if not, the link remembers when it may.
    pub(crate) fn admit(&mut self, now: Instant, id: LinkId, len: usize, share: Share) -> Admission {
        let Some(link) = self.get_mut(id) else {
            return Admission::Wait;
        };
        if link.profile.as_ref().is_none_or(|profile| len > profile.mtu) {
            link.counts.dropped[NotSent::TooLong as usize] += 1;
            return Admission::Refused(NotSent::TooLong);
        }
        if !link.costs {
            return Admission::Go;
        }
        let (admission, store) = link.admit_airtime(now, id, len, share);
        self.stores.extend(store);
        admission
    }

    /// The same for a datagram to everyone.
    pub(crate) fn admit_broadcast(
        &mut self,
        now: Instant,
        id: LinkId,
        len: usize,
        share: Share,
    ) -> Admission {
        let Some(link) = self.get_mut(id) else {
            return Admission::Wait;
        };
        if link
            .profile
            .as_ref()
            .is_none_or(|profile| len > profile.broadcast_mtu)
        {
            link.counts.dropped[NotSent::TooLong as usize] += 1;
            return Admission::Refused(NotSent::TooLong);
        }
        if !link.costs {
            return Admission::Go;
        }
        let (admission, store) = link.admit_airtime(now, id, len, share);
        self.stores.extend(store);
        admission
    }

    /// Uses up one credit and the airtime of a datagram, and names it.
    pub(crate) fn spend(&mut self, now: Instant, id: LinkId, len: usize, share: Share) -> TxTicket {
        self.next_ticket = self.next_ticket.wrapping_add(1);
        let ticket = TxTicket(self.next_ticket);
        let Some(link) = self.get_mut(id) else {
            return ticket;
        };
        if link.credit != LinkProfile::UNLIMITED {
            link.credit = link.credit.saturating_sub(1);
        }
        link.blocked_since = None;
        // What waited for the duty cycle is looked at again once this has left.
        link.wake_at = None;
        if !link.costs() {
            return ticket;
        }
        let (airtime, confirmed) = (link.airtime(len), link.confirms());
        link.counts.tx_airtime_us += airtime.as_micros() as u64;
        if let Some(budget) = &mut link.budget {
            budget.charge(now, ticket, share, airtime, confirmed);
            let store = link.ask(now, id, Duration::ZERO);
            self.stores.extend(store);
        }
        ticket
    }

    /// The link will report this datagram: what it was is remembered until then.
    pub(crate) fn follow(&mut self, now: Instant, id: LinkId, ticket: TxTicket, len: usize, what: What) {
        let Some(link) = self.get_mut(id) else { return };
        if link.in_flight.len() >= IN_FLIGHT_MAX
            && let Some(oldest) = link.in_flight.pop_front()
            && let Some(budget) = &mut link.budget
        {
            budget.sent(now, oldest.ticket);
        }
        let airtime = link.airtime(len);
        link.in_flight.push_back(InFlight {
            ticket,
            airtime,
            len,
            what,
        });
    }

    /// The datagram left the antenna. Returns what it was and its length.
    pub(crate) fn sent(&mut self, now: Instant, id: LinkId, ticket: TxTicket) -> Option<(What, usize)> {
        let link = self.get_mut(id)?;
        link.unsent = 0;
        if let Some(budget) = &mut link.budget {
            budget.sent(now, ticket);
        }
        let sent = link.land(ticket)?;
        Some((sent.what, sent.len))
    }

    /// It never did. Returns what it was and its time on air.
    pub(crate) fn unsent(&mut self, now: Instant, id: LinkId, ticket: TxTicket) -> Option<(What, Duration)> {
        let link = self.get_mut(id)?;
        let unsent = link.land(ticket)?;
        if let Some(budget) = &mut link.budget {
            budget.refund(ticket);
        }
        link.counts.unsent_total += 1;
        link.counts.tx_airtime_us -= unsent.airtime.as_micros() as u64;
        link.unsent += 1;
        if link.unsent >= UNSENT_MAX {
            link.unsent = 0;
            link.rests_until = Some(now + REST);
        }
        Some((unsent.what, unsent.airtime))
    }

    /// How long to wait for an answer to a datagram that has just left, beyond what is configured: three round trips,
    /// what else goes out meanwhile, and a random part so that not all clients are asked again at once.
    pub(crate) fn answer_wait(
        &mut self,
        now: Instant,
        id: LinkId,
        len: usize,
        rng: &mut SmallRng,
    ) -> Duration {
        let Some(link) = self.get_mut(id).filter(|link| link.costs()) else {
            return Duration::ZERO;
        };
        let round_trip = link.airtime(len) + link.airtime(ANSWER_LEN);
        let answers = link.lines.replies.len() + link.lines.strays.len();
        let mut queue = link
            .airtime(ANSWER_LEN)
            .saturating_mul(answers as u32)
            .saturating_add(
                link.airtime(len)
                    .saturating_mul(link.lines.clients_waiting() as u32),
            );
        if let Some(budget) = &mut link.budget {
            queue = queue.min(budget.left(now)); // More than that does not go out meanwhile.
        }
        let jitter = rng.random_range(0..=round_trip.as_micros() as u64);
        3 * round_trip + queue + Duration::from_micros(jitter)
    }

    /// The store reports.
    pub(crate) fn on_store(&mut self, now: Instant, event: StoreEvent) -> Option<Notice> {
        match event {
            StoreEvent::AirtimeStored(id) => {
                let link = self.get_mut(id)?;
                link.not_stored = false;
                link.budget.as_mut()?.stored();
                None
            }
            StoreEvent::AirtimeNotStored(id) => {
                let link = self.get_mut(id)?;
                link.budget.as_mut()?.not_stored(now);
                let told = core::mem::replace(&mut link.not_stored, true);
                (!told).then_some(Notice::AirtimeNotStored { link: id })
            }
            StoreEvent::AirtimeFound(id, found) => {
                self.get_or_insert(id).found = Some(found);
                None
            }
            // Not about links.
            StoreEvent::Durable(_) | StoreEvent::Failed | StoreEvent::Works => None,
        }
    }

    /// A record that is to be made durable.
    pub(crate) fn poll_store(&mut self) -> Option<StoreRequest> {
        self.stores.pop_front()
    }

    /// When a link that waits for its duty cycle may send again.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        self.links.iter().filter_map(|link| link.wake_at).min()
    }

    /// What was counted, and what waits.
    pub(crate) fn metrics(&self, now: Instant, id: LinkId) -> Option<LinkMetrics> {
        let link = self.get(id)?;
        let mut metrics = link.counts.clone();
        metrics.up = link.profile.is_some();
        let limit = link.profile.as_ref().and_then(|profile| profile.duty_cycle);
        metrics.duty_cycle_limit_ppm = limit.map(|limit| limit.ppm);
        metrics.duty_cycle_used_ppm = link.budget.as_ref().map_or(0, |budget| budget.used_ppm(now));
        metrics.queued = link.lines.queued();
        metrics.queued[Class::Beacon as usize] = link.beacons.waiting();
        Some(metrics)
    }
}

/// What a link that is up again was.
#[derive(Debug)]
pub(crate) struct Outage {
    pub(crate) first: bool,
    pub(crate) after: Option<Duration>,
    /// What it used is not known.
    pub(crate) lost: bool,
}

impl Link {
    /// True if it takes a datagram.
    pub(crate) fn ready(&mut self, now: Instant) -> bool {
        if self.profile.is_none() || self.credit == 0 {
            return false;
        }
        self.wake_at = self.rests_until.filter(|until| now < *until);
        self.wake_at.is_none()
    }

    pub(crate) fn is_up(&self) -> bool {
        self.profile.is_some()
    }

    pub(crate) fn can_broadcast(&self) -> bool {
        self.profile
            .as_ref()
            .is_some_and(|profile| profile.broadcast_mtu > 0)
    }

    /// True if datagrams take time that counts.
    pub(crate) fn costs(&self) -> bool {
        self.costs
    }

    /// Whether clients take turns by airtime.
    pub(crate) fn fair(&self) -> Option<Fair> {
        self.costs().then(|| Fair {
            all: self.budget.as_ref().map(Budget::per_hour),
            answer: self.airtime(ANSWER_LEN),
        })
    }

    /// True if it reports what it sent.
    pub(crate) fn confirms(&self) -> bool {
        self.profile.as_ref().is_some_and(|profile| profile.confirms_tx)
    }

    pub(crate) fn airtime(&self, len: usize) -> Duration {
        self.profile
            .as_ref()
            .map_or(Duration::ZERO, |profile| profile.airtime.of(len))
    }

    pub(crate) fn count_dropped(&mut self, reason: NotSent, count: usize) {
        self.counts.dropped[reason as usize] += count as u64;
    }

    fn admit_airtime(
        &mut self,
        now: Instant,
        id: LinkId,
        len: usize,
        share: Share,
    ) -> (Admission, Option<StoreRequest>) {
        let airtime = self.airtime(len);
        let store = self.ask(now, id, airtime);
        let Some(budget) = &mut self.budget else {
            return (Admission::Go, store);
        };
        let admission = match budget.ready_at(now, share, airtime) {
            Ready::Now => Admission::Go,
            Ready::At(at) => {
                self.wake_at = Some(at);
                Admission::Wait
            }
            Ready::Later => Admission::Wait,
            Ready::Never => {
                self.counts.dropped[NotSent::DutyCycle as usize] += 1;
                Admission::Refused(NotSent::DutyCycle)
            }
        };
        (admission, store)
    }

    /// Has what was used recorded, if the last record does not cover a datagram of that length.
    fn ask(&mut self, now: Instant, id: LinkId, airtime: Duration) -> Option<StoreRequest> {
        let record = self.budget.as_mut()?.ask(now, airtime)?;
        Some(StoreRequest::Airtime { link: id, record })
    }

    fn land(&mut self, ticket: TxTicket) -> Option<InFlight> {
        let at = self.in_flight.iter().position(|sent| sent.ticket == ticket)?;
        self.in_flight.remove(at)
    }

    /// Everyone has had its share: looks again before long.
    pub(crate) fn look_again(&mut self, now: Instant) {
        self.wake_at = Some(now + LOOK_AGAIN);
    }

    /// Something waits for the duty cycle: what is to be told, once in a while.
    pub(crate) fn blocked(&mut self, now: Instant, id: LinkId) -> Option<Notice> {
        let limit: DutyCycle = self.profile.as_ref()?.duty_cycle?;
        let since = *self.blocked_since.get_or_insert(now);
        let wait = self.wake_at?.since(now);
        self.duty_cycle_notice.allow(now)?;
        let oldest = self.lines.oldest().map_or(since, |oldest| oldest.min(since));
        Some(Notice::DutyCycle {
            link: id,
            used_ppm: self.budget.as_ref()?.used_ppm(now),
            limit_ppm: limit.ppm,
            queued: self.lines.queued().iter().sum::<u64>() as usize,
            oldest: now.since(oldest),
            wait,
        })
    }

    /// An answer or a beacon does not fit: what is to be told, once in a while.
    pub(crate) fn too_large(
        &mut self,
        now: Instant,
        id: LinkId,
        addr: Option<LinkAddr>,
        len: usize,
    ) -> Option<Notice> {
        let suppressed = self.too_large_notice.allow(now)?;
        Some(Notice::AnswerTooLarge {
            link: id,
            addr,
            len,
            suppressed,
        })
    }
}
