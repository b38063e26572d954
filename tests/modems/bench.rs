//! One driver, one modem, and nobody else on its air.

use core::time::Duration;
use std::collections::{BTreeSet, VecDeque};

use gateway_core::io::{Destination, LinkEvent, LinkProfile, RadioFacts, TxTicket};
use gateway_core::peer::{LinkAddr, LocalEnd, Route};
use gateway_core::time::Instant;
use radio_adapters::driver::{Driver, Report};
use snipe_sim::ether::{AirEvent, AirRequest};
use snipe_sim::modem::{Fault, SimModem};
use snipe_sim::virtual_line::{LineEvent, VirtualLine};

/// Before a port that is gone is tried again.
const REOPEN: Duration = Duration::from_millis(500);

/// A driver on the line of a simulated modem.
///
/// It checks what a driver owes at all times: credit that adds up, and one end for each datagram.
pub(crate) struct Bench {
    pub(crate) now: Instant,
    line: VirtualLine,
    /// How long a frame is on the air.
    airtime: Duration,
    air: VecDeque<(Instant, AirEvent)>,
    /// Of the link, while it is up.
    pub(crate) profile: Option<LinkProfile>,
    pub(crate) credit: u32,
    next_ticket: u32,
    under_way: BTreeSet<u32>,
    pub(crate) sent: Vec<(Instant, TxTicket)>,
    pub(crate) unsent: Vec<TxTicket>,
    pub(crate) received: Vec<(LinkAddr, RadioFacts, Vec<u8>)>,
    pub(crate) reports: Vec<Report>,
    /// Frames that left the modem's antenna.
    pub(crate) aired: Vec<(Instant, Vec<u8>)>,
}

impl Bench {
    /// A modem that gets power now, and a port that is opened at the same time.
    pub(crate) fn new(
        driver: Box<dyn Driver>,
        modem: Box<dyn SimModem>,
        baud: u32,
        airtime: Duration,
    ) -> Bench {
        let mut bench = Bench {
            now: Instant::from_micros(1_000_000),
            line: VirtualLine::new(driver, modem, baud, REOPEN),
            airtime,
            air: VecDeque::new(),
            profile: None,
            credit: 0,
            next_ticket: 0,
            under_way: BTreeSet::new(),
            sent: Vec::new(),
            unsent: Vec::new(),
            received: Vec::new(),
            reports: Vec::new(),
            aired: Vec::new(),
        };
        bench.line.plug_in(bench.now, Duration::ZERO);
        bench
    }

    /// Times the port was opened after the first.
    pub(crate) fn reopened(&self) -> u64 {
        self.line.opens.saturating_sub(1)
    }

    /// Hands a datagram over, for which there must be credit.
    pub(crate) fn transmit(&mut self, to: &Destination, datagram: &[u8]) -> TxTicket {
        self.credit = self.credit.checked_sub(1).expect("no credit");
        let ticket = TxTicket(self.next_ticket);
        self.next_ticket += 1;
        self.under_way.insert(ticket.0);
        self.line.transmit(self.now, to, datagram, ticket);
        self.collect();
        ticket
    }

    /// Something goes wrong with the modem or its line.
    pub(crate) fn fault(&mut self, fault: Fault) {
        self.line.fault(self.now, fault);
        self.collect();
    }

    /// A frame reaches the modem's antenna.
    pub(crate) fn hear(&mut self, payload: Vec<u8>) {
        let event = AirEvent::Frame {
            payload,
            rssi_dbm: -70,
            snr_db: 9,
        };
        self.line.handle_air(self.now, event);
        self.collect();
    }

    /// Lets time pass until `done`, which must happen within `limit`.
    #[track_caller]
    pub(crate) fn until(&mut self, limit: Duration, mut done: impl FnMut(&Bench) -> bool) {
        let end = self.now + limit;
        while !done(self) {
            assert!(
                self.step(end),
                "it did not happen: {:?}, credit {}, {:?} under way, {:#?}",
                self.reports,
                self.credit,
                self.under_way,
                self.line
            );
        }
    }

    /// Lets so much time pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Waits until the link is up.
    #[track_caller]
    pub(crate) fn come_up(&mut self, limit: Duration) -> LinkProfile {
        self.until(limit, |bench| bench.profile.is_some());
        self.profile.clone().unwrap()
    }

    /// Waits until every datagram has its end.
    #[track_caller]
    pub(crate) fn settle(&mut self, limit: Duration) {
        self.until(limit, |bench| bench.under_way.is_empty());
    }

    /// Whether a datagram was reported as sent.
    pub(crate) fn is_sent(&self, ticket: TxTicket) -> bool {
        self.sent.iter().any(|(_, sent)| *sent == ticket)
    }

    /// Goes to the next thing to do before `end`; false if there is none.
    fn step(&mut self, end: Instant) -> bool {
        let air = self.air.front().map(|(at, _)| *at);
        let next = self.line.poll_timeout().into_iter().chain(air).min();
        let Some(next) = next.filter(|next| *next <= end) else {
            return false;
        };
        self.now = self.now.max(next);
        while self.air.front().is_some_and(|(at, _)| *at <= self.now) {
            if let Some((_, event)) = self.air.pop_front() {
                self.line.handle_air(self.now, event);
            }
        }
        self.line.handle_timeout(self.now);
        self.collect();
        true
    }

    fn collect(&mut self) {
        while let Some(event) = self.line.poll_event() {
            match event {
                LineEvent::Received {
                    from,
                    facts,
                    datagram,
                } => self.received.push((from, facts, datagram)),
                LineEvent::Link(event) => self.on_link(event),
                LineEvent::Report(report) => self.reports.push(report),
                LineEvent::Air(request) => self.on_air(request),
                LineEvent::Note(_) => {}
            }
        }
    }

    fn on_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up(profile) => {
                assert!(
                    self.under_way.is_empty(),
                    "up with {:?} under way",
                    self.under_way
                );
                self.credit = profile.credit;
                assert!(self.profile.replace(profile).is_none(), "up twice");
            }
            LinkEvent::Down => {
                assert!(
                    self.under_way.is_empty(),
                    "down with {:?} under way",
                    self.under_way
                );
                self.credit = 0;
                assert!(self.profile.take().is_some(), "down twice");
            }
            LinkEvent::Credit(more) => {
                assert!(self.profile.is_some(), "credit for a link that is down");
                self.credit += more;
            }
            LinkEvent::Sent(ticket) => {
                assert!(self.under_way.remove(&ticket.0), "{ticket:?} ended twice");
                self.sent.push((self.now, ticket));
            }
            LinkEvent::Unsent(ticket) => {
                assert!(self.under_way.remove(&ticket.0), "{ticket:?} ended twice");
                self.unsent.push(ticket);
            }
            LinkEvent::PeerIdentified { .. } | LinkEvent::PeerGone { .. } => {}
        }
    }

    fn on_air(&mut self, request: AirRequest) {
        match request {
            AirRequest::Listen(_) => {}
            AirRequest::Sense(_) => self.air.push_front((self.now, AirEvent::Sensed { busy: false })),
            AirRequest::Send { payload, .. } => {
                self.aired.push((self.now, payload));
                self.air.push_back((self.now + self.airtime, AirEvent::Sent));
            }
            AirRequest::Abort => self.air.retain(|(_, event)| *event != AirEvent::Sent),
        }
    }
}

/// The way to a peer with a radio address.
pub(crate) fn peer(addr: &[u8]) -> Destination {
    Destination::Peer(Route {
        addr: LinkAddr::Radio(addr.iter().copied().collect()),
        local: LocalEnd::default(),
    })
}
