//! Datagrams to the modem, and what became of each.

use core::time::Duration;

use arrayvec::ArrayVec;
use gateway_core::io::{LinkEvent, TxTicket};
use gateway_core::peer::LinkAddr;
use gateway_core::time::Instant;

use super::driver::{Phase, Xbee};
use super::frame::{Addr16, Addr64, Frame, FrameId};
use super::link::JOIN_POLL_FIRST;
use super::modem::Network;
use super::peers::Peer;
use super::status::{Delivery, EXTENDED_TIMEOUT};
use super::window::{Flight, Target, Transmission};
use crate::driver::{DropReason, Report};

/// A transmission takes 4.8 s at worst, three attempts of 1.6 s, and the discovery of an address and a route.
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);

/// Transmissions in a row without a status before the modem is told to start again.
const STATUS_MISSED_MAX: u8 = 3;

/// Times that a transmission is tried on a busy channel or modem.
const REFUSALS_MAX: u8 = 5;

impl Xbee {
    /// Gives the modem what it takes, and the core credit for more.
    pub(super) fn pump(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Running) {
            return;
        }
        while let Some(transmission) = self.window.next(now) {
            self.send(now, transmission);
        }
        if let Some(credit) = self.window.grant(now) {
            self.link(LinkEvent::Credit(credit));
        }
    }

    fn send(&mut self, now: Instant, transmission: Transmission) {
        let id = self.ids.take();
        let data = transmission.datagram.as_slice();
        let mut remembered = false;
        let mut sleeper = false;
        let mut route = None;
        let frame = match (self.network, transmission.to) {
            (Network::Ieee802154, Target::Everyone) => Frame::Tx16 {
                id,
                dest: Addr16::BROADCAST,
                options: 0,
                data,
            },
            (Network::Ieee802154, Target::Long(dest)) => Frame::Tx64 {
                id,
                dest,
                options: 0,
                data,
            },
            (Network::Ieee802154, Target::Short(dest)) => Frame::Tx16 {
                id,
                dest,
                options: 0,
                data,
            },
            (_, to) => {
                let nobody = Peer::default();
                let (dest64, peer) = match to {
                    Target::Everyone => (Addr64::BROADCAST, &nobody),
                    Target::Long(addr) => (addr, self.peers.get(addr).unwrap_or(&nobody)),
                    Target::Short(_) => (Addr64::UNKNOWN, &nobody),
                };
                let dest16 = match to {
                    Target::Short(addr) => addr,
                    Target::Everyone | Target::Long(_) => peer.short.unwrap_or(Addr16::UNKNOWN),
                };
                remembered = peer.short.is_some();
                sleeper = peer.end_device;
                if remembered && !peer.route.is_empty() && self.modem.is_aggregator(self.network) {
                    route = Some(Frame::CreateSourceRoute {
                        id: FrameId::NONE,
                        dest64,
                        dest16,
                        options: 0,
                        hops: peer.route.clone(),
                    });
                }
                Frame::Transmit {
                    id,
                    dest64,
                    dest16,
                    radius: 0,
                    options: if sleeper { EXTENDED_TIMEOUT } else { 0 },
                    data,
                }
            }
        };
        let frames: ArrayVec<_, 2> = route.iter().chain([&frame]).map(Frame::encode).collect();
        for frame in frames {
            self.write(&frame);
        }
        let patience = if sleeper {
            self.modem.sleeper_timeout(STATUS_TIMEOUT)
        } else {
            STATUS_TIMEOUT
        };
        let line = Duration::from_secs(10 * self.window.octets() as u64) / self.baud.max(1);
        self.window.sent(Flight {
            id,
            transmission,
            remembered,
            sleeper,
            deadline: now + patience + line,
        });
    }

    pub(super) fn on_status(&mut self, now: Instant, id: FrameId, dest16: Addr16, code: u8) {
        // The status of one that we gave up already.
        let Some(flight) = self.window.landed(id) else {
            return;
        };
        self.ids.give_back(id);
        self.missed = 0;
        let mut transmission = flight.transmission;
        let ticket = transmission.ticket;
        match Delivery::from_code(code) {
            Delivery::Done => {
                if let Target::Long(addr) = transmission.to {
                    self.peers.learn(addr, dest16);
                }
                self.window.succeeded();
                self.sent(ticket);
            }
            Delivery::NotHeard => self.not_heard(ticket),
            Delivery::Lost => {
                self.forget_way(transmission.to);
                self.not_heard(ticket);
            }
            Delivery::NoWay => {
                self.forget_way(transmission.to);
                if flight.remembered && !transmission.searched {
                    // It may have joined again under another address, which the modem can find out.
                    transmission.searched = true;
                    self.window.again(transmission);
                } else {
                    self.not_heard(ticket);
                }
            }
            Delivery::Busy if transmission.refusals < REFUSALS_MAX => {
                transmission.refusals += 1;
                self.window.again_later(now, transmission);
            }
            Delivery::Busy | Delivery::Refused => {
                self.dropped(DropReason::Refused);
                self.unsent(ticket);
            }
            Delivery::TooLong => {
                self.dropped(DropReason::TooLong);
                self.unsent(ticket);
            }
            Delivery::NotJoined => {
                self.unsent(ticket);
                self.left(now, JOIN_POLL_FIRST);
            }
        }
    }

    /// Gives up transmissions whose status did not come.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(flight) = self.window.expired(now) {
            self.ids.give_back(flight.id);
            self.not_heard(flight.transmission.ticket);
            self.missed += 1;
            if self.missed >= STATUS_MISSED_MAX {
                return self.reset(now);
            }
        }
    }

    fn forget_way(&mut self, to: Target) {
        if let Target::Long(addr) = to {
            self.peers.forget_way(addr);
        }
    }

    fn sent(&mut self, ticket: TxTicket) {
        self.link(LinkEvent::Sent(ticket));
    }

    pub(super) fn unsent(&mut self, ticket: TxTicket) {
        self.link(LinkEvent::Unsent(ticket));
    }

    fn not_heard(&mut self, ticket: TxTicket) {
        self.report(Report::NotHeard);
        self.sent(ticket);
    }
}

/// The peer behind an address, if it is one of this kind of link.
pub(super) fn target(addr: &LinkAddr) -> Option<Target> {
    let LinkAddr::Radio(octets) = addr else {
        return None;
    };
    if let Ok(long) = <[u8; 8]>::try_from(octets.as_slice()) {
        return Some(Target::Long(Addr64(u64::from_be_bytes(long))));
    }
    let short = <[u8; 2]>::try_from(octets.as_slice()).ok()?;
    Some(Target::Short(Addr16(u16::from_be_bytes(short))))
}
