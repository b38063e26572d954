//! Transmissions that the modem has, and those that wait for it.

use core::time::Duration;
use std::collections::VecDeque;

use gateway_core::io::TxTicket;
use gateway_core::time::Instant;

use super::frame::{Addr16, Addr64, FrameId};

/// Transmissions under way at first, and at most: modems buffer a handful of packets.
const SIZE_FIRST: usize = 4;
const SIZE_MAX: usize = 8;

/// Transmissions to sleeping nodes that do not count: they wait for minutes, at the node's parent.
const SLEEPERS_MAX: usize = 4;

/// Successes before one more is tried.
const GROW_AFTER: u8 = 32;

/// How long a modem without buffers is left alone.
const HOLD: Duration = Duration::from_millis(500);

/// Routers repeat a broadcast three times and keep a table of eight for 8 s: more than one a second, network-wide, is
/// not carried ("Broadcast transmissions"). The line and the modem take a little more for one than for the next.
const BROADCAST_INTERVAL: Duration = Duration::from_millis(1100);

/// Whom a datagram is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Everyone,
    Long(Addr64),
    /// A node that hides its 64-bit address.
    Short(Addr16),
}

/// A datagram on its way.
#[derive(Debug, Clone)]
pub(super) struct Transmission {
    pub(super) ticket: TxTicket,
    pub(super) to: Target,
    pub(super) datagram: Vec<u8>,
    /// Times the modem was too busy.
    pub(super) refusals: u8,
    /// It was sent to a network address that nobody had any more.
    pub(super) searched: bool,
}

/// A datagram that the modem has.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) id: FrameId,
    pub(super) transmission: Transmission,
    /// It went to a network address that we remembered.
    pub(super) remembered: bool,
    /// The peer may sleep.
    pub(super) sleeper: bool,
    pub(super) deadline: Instant,
}

#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    /// Credit that the core has.
    granted: usize,
    successes: u8,
    waiting: VecDeque<Transmission>,
    broadcasts: VecDeque<Transmission>,
    flights: Vec<Flight>,
    hold_until: Option<Instant>,
    next_broadcast: Instant,
}

impl Window {
    pub(super) fn new() -> Self {
        Window {
            size: SIZE_FIRST,
            granted: 0,
            successes: 0,
            waiting: VecDeque::new(),
            broadcasts: VecDeque::new(),
            flights: Vec::new(),
            hold_until: None,
            next_broadcast: Instant::START,
        }
    }

    /// The link is up: the credit it begins with.
    pub(super) fn open(&mut self) -> u32 {
        self.size = SIZE_FIRST;
        self.successes = 0;
        self.hold_until = None;
        self.granted = self.size;
        self.size as u32
    }

    /// The link is down: what was on its way, in the order it was handed over as far as that matters.
    pub(super) fn close(&mut self) -> impl Iterator<Item = TxTicket> + use<> {
        self.granted = 0;
        let flights = core::mem::take(&mut self.flights).into_iter();
        let waiting = core::mem::take(&mut self.waiting);
        let broadcasts = core::mem::take(&mut self.broadcasts);
        flights
            .map(|flight| flight.transmission)
            .chain(waiting)
            .chain(broadcasts)
            .map(|transmission| transmission.ticket)
    }

    /// The core uses up credit; false if it has none.
    pub(super) fn spend(&mut self) -> bool {
        let had = self.granted > 0;
        self.granted = self.granted.saturating_sub(1);
        had
    }

    /// A datagram to send.
    pub(super) fn queue(&mut self, transmission: Transmission) {
        match transmission.to {
            Target::Everyone => self.broadcasts.push_back(transmission),
            Target::Long(_) | Target::Short(_) => self.waiting.push_back(transmission),
        }
    }

    /// The next datagram for the modem.
    pub(super) fn next(&mut self, now: Instant) -> Option<Transmission> {
        if self.holds(now) || self.counted() >= self.size {
            return None;
        }
        if now >= self.next_broadcast
            && let Some(transmission) = self.broadcasts.pop_front()
        {
            self.next_broadcast = now + BROADCAST_INTERVAL;
            return Some(transmission);
        }
        self.waiting.pop_front()
    }

    /// The modem has it.
    pub(super) fn sent(&mut self, flight: Flight) {
        self.flights.push(flight);
    }

    /// Octets that the modem has and did not report on.
    pub(super) fn octets(&self) -> usize {
        let datagrams = self.flights.iter().map(|flight| &flight.transmission.datagram);
        datagrams.map(Vec::len).sum()
    }

    /// The modem reported on one.
    pub(super) fn landed(&mut self, id: FrameId) -> Option<Flight> {
        let at = self.flights.iter().position(|flight| flight.id == id)?;
        Some(self.flights.remove(at))
    }

    /// The modem should have reported on one.
    pub(super) fn expired(&mut self, now: Instant) -> Option<Flight> {
        let at = self.flights.iter().position(|flight| flight.deadline <= now)?;
        Some(self.flights.remove(at))
    }

    /// One arrived: after enough of them the modem is trusted with more.
    pub(super) fn succeeded(&mut self) {
        self.successes += 1;
        if self.successes >= GROW_AFTER {
            self.successes = 0;
            self.size = (self.size + 1).min(SIZE_MAX);
        }
    }

    /// The modem was too busy for one: it gets less, and that one again after a pause.
    pub(super) fn again_later(&mut self, now: Instant, transmission: Transmission) {
        // All that were refused at once count as one sign.
        if !self.holds(now) {
            self.size = (self.size / 2).max(1);
            self.successes = 0;
            self.hold_until = Some(now + HOLD);
        }
        match transmission.to {
            Target::Everyone => self.broadcasts.push_front(transmission),
            Target::Long(_) | Target::Short(_) => self.waiting.push_front(transmission),
        }
    }

    /// One goes out again, in another way.
    pub(super) fn again(&mut self, transmission: Transmission) {
        self.waiting.push_front(transmission);
    }

    /// Credit that can be given now.
    pub(super) fn grant(&mut self, now: Instant) -> Option<u32> {
        if self.holds(now) {
            return None;
        }
        let used = self.granted + self.waiting.len() + self.broadcasts.len() + self.counted();
        let more = self.size.saturating_sub(used);
        self.granted += more;
        (more > 0).then_some(more as u32)
    }

    /// When something is to be done.
    pub(super) fn wake(&self) -> Option<Instant> {
        let mut wake = self.flights.iter().map(|flight| flight.deadline).min();
        let mut at = |time: Instant| wake = Some(wake.map_or(time, |wake| wake.min(time)));
        match self.hold_until {
            Some(until) => at(until),
            None if !self.broadcasts.is_empty() && self.counted() < self.size => at(self.next_broadcast),
            None => {}
        }
        wake
    }

    /// Whether the modem is left alone for now.
    fn holds(&mut self, now: Instant) -> bool {
        self.hold_until = self.hold_until.filter(|until| now < *until);
        self.hold_until.is_some()
    }

    /// Transmissions that take room in the modem.
    fn counted(&self) -> usize {
        let sleepers = self.flights.iter().filter(|flight| flight.sleeper).count();
        self.flights.len() - sleepers.min(SLEEPERS_MAX)
    }
}
