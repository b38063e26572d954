//! Requests to transmit, and what the module says about them.

use core::time::Duration;

use gateway_core::time::Instant;

use super::network::{Fate, Send, delivery};
use super::{AirFrame, BROADCAST_64, BUFFERS, Event, Radio, UNKNOWN_16, Xbee};
use crate::net::between;

/// The most that is carried in fragments.
const FRAGMENTED_MAX: usize = 255;
/// Transmit option: APS encryption.
const APS: u8 = 0x20;
/// Transmit option: wait for an end device that sleeps.
const EXTENDED: u8 = 0x40;

/// A request of the host to transmit.
struct Request<'a> {
    id: u8,
    to: u64,
    network: u16,
    options: u8,
    data: &'a [u8],
}

impl Xbee {
    /// Carries out a frame if it is a request to transmit that this firmware has.
    pub(super) fn on_transmit(&mut self, now: Instant, data: &[u8]) -> bool {
        match (self.config.radio, data) {
            (Radio::Ieee802154, [0x00, id, rest @ ..]) => {
                if let Some((to, [options, data @ ..])) = rest.split_first_chunk() {
                    let to = u64::from_be_bytes(*to);
                    let (id, options) = (*id, *options);
                    let network = UNKNOWN_16;
                    self.send_to_neighbour(
                        now,
                        &Request {
                            id,
                            to,
                            network,
                            options,
                            data,
                        },
                    );
                }
            }
            (Radio::Ieee802154, [0x01, id, high, low, options, data @ ..]) => {
                let (id, options) = (*id, *options);
                let network = u16::from_be_bytes([*high, *low]);
                let to = if network == 0xFFFF { BROADCAST_64 } else { u64::MAX };
                self.send_to_neighbour(
                    now,
                    &Request {
                        id,
                        to,
                        network,
                        options,
                        data,
                    },
                );
            }
            (Radio::Zigbee | Radio::DigiMesh, [0x10, id, rest @ ..]) => {
                if let Some((to, [high, low, _radius, options, data @ ..])) = rest.split_first_chunk() {
                    let to = u64::from_be_bytes(*to);
                    let (id, options) = (*id, *options);
                    let network = u16::from_be_bytes([*high, *low]);
                    self.send_to_mesh(
                        now,
                        &Request {
                            id,
                            to,
                            network,
                            options,
                            data,
                        },
                    );
                }
            }
            (Radio::Zigbee | Radio::DigiMesh, [0x11, id, rest @ ..]) => {
                if let Some((to, [high, low, _, _, _, _, _, _, _radius, options, data @ ..])) =
                    rest.split_first_chunk()
                {
                    let to = u64::from_be_bytes(*to);
                    let (id, options) = (*id, *options);
                    let network = u16::from_be_bytes([*high, *low]);
                    self.send_to_mesh(
                        now,
                        &Request {
                            id,
                            to,
                            network,
                            options,
                            data,
                        },
                    );
                }
            }
            _ => return false,
        }
        true
    }

    /// Octets of one packet.
    pub(super) fn packet_limit(&self, broadcast: bool) -> usize {
        let encrypted = self.number(b"EE") == 1;
        match (self.config.radio, broadcast, encrypted) {
            (Radio::Zigbee, false, false) => 84,
            (Radio::Zigbee, false, true) => 66,
            // Of the two limits that Digi states, the one that is always right.
            (Radio::Zigbee, true, false) => 84,
            (Radio::Zigbee, true, true) => 74,
            (Radio::Ieee802154 | Radio::DigiMesh, _, _) => self.number(b"NP") as usize,
        }
    }

    /// A packet of the transparent mode; nobody is told what becomes of it.
    pub(super) fn send_transparently(&mut self, now: Instant, to: u64, data: &[u8]) {
        let request = Request {
            id: 0,
            to,
            network: UNKNOWN_16,
            options: 0,
            data,
        };
        match self.config.radio {
            Radio::Ieee802154 => self.send_to_neighbour(now, &request),
            Radio::Zigbee | Radio::DigiMesh => self.send_to_mesh(now, &request),
        }
    }

    fn send_to_mesh(&mut self, now: Instant, request: &Request) {
        let quickly = now + between(&mut self.rng, Duration::from_millis(2), Duration::from_millis(8));
        let status = |status, network: u16| {
            let [high, low] = network.to_be_bytes();
            vec![0x8B, request.id, high, low, 0, status, 0]
        };
        if let Some(refusal) = self.refusal(now, request) {
            return self.end(quickly, request.id, status(refusal, 0xFFFD));
        }
        let hold = self.hold();
        if request.to == BROADCAST_64 {
            if self.config.radio == Radio::Zigbee && !self.network.admits_broadcast(now) {
                return self.end(
                    quickly,
                    request.id,
                    status(delivery::BROADCAST_NOT_HEARD, UNKNOWN_16),
                );
            }
            for (peer, at) in self.network.broadcast(now, hold, &mut self.rng) {
                self.deliver(at, peer, true, request.data);
            }
            let known = now + between(&mut self.rng, Duration::from_millis(5), Duration::from_millis(40));
            return self.end(known, request.id, status(delivery::SUCCESS, UNKNOWN_16));
        }
        let aps = if request.options & APS != 0 { 9 } else { 0 };
        let limit = self.packet_limit(false) - aps;
        let send = Send {
            address: request.to,
            network: request.network,
            packets: request.data.len().max(1).div_ceil(limit) as u32,
            // Digi: 50 ms for each of NH hops, and 100.
            attempt: Duration::from_millis(50 * self.number(b"NH") + 100),
            hold,
            extended: request.options & EXTENDED != 0,
        };
        let fate = self.network.unicast(now, self.config.radio, send, &mut self.rng);
        let Fate {
            known_at,
            status,
            discovery,
            retries,
            network,
            delivered,
        } = fate;
        let [high, low] = network.to_be_bytes();
        let answer = vec![0x8B, request.id, high, low, retries, status, discovery];
        if let Some((peer, at)) = delivered {
            self.deliver(at, peer, false, request.data);
        }
        self.end(known_at, request.id, answer);
    }

    fn send_to_neighbour(&mut self, now: Instant, request: &Request) {
        let quickly = now + between(&mut self.rng, Duration::from_millis(1), Duration::from_millis(4));
        if let Some(refusal) = self.refusal(now, request) {
            return self.end(quickly, request.id, vec![0x89, request.id, refusal]);
        }
        let hold = self.hold();
        if request.to == BROADCAST_64 {
            for (peer, at) in self.network.broadcast(now, hold, &mut self.rng) {
                self.deliver(at, peer, true, request.data);
            }
            return self.end(quickly, request.id, vec![0x89, request.id, delivery::SUCCESS]);
        }
        let send = Send {
            address: request.to,
            network: request.network,
            packets: 1,
            attempt: Duration::from_millis(4),
            hold,
            extended: false,
        };
        let fate = self.network.neighbour(now, send, &mut self.rng);
        if let Some((peer, at)) = fate.delivered {
            self.deliver(at, peer, false, request.data);
        }
        self.end(fate.known_at, request.id, vec![0x89, request.id, fate.status]);
    }

    /// Why a request is not even tried.
    fn refusal(&self, now: Instant, request: &Request) -> Option<u8> {
        let broadcast = request.to == BROADCAST_64;
        let fragments = self.config.radio == Radio::Zigbee && !broadcast;
        let limit = if fragments {
            FRAGMENTED_MAX
        } else {
            self.packet_limit(broadcast)
        };
        let own = request.to == self.config.address;
        let own_by_role = request.to == 0 && self.number(b"CE") == 1 && self.config.radio == Radio::Zigbee;
        if self.number(b"AI") != 0 && self.config.radio == Radio::Zigbee {
            Some(delivery::NOT_JOINED)
        } else if own || own_by_role {
            Some(delivery::SELF_ADDRESSED)
        } else if request.data.len() > limit {
            Some(delivery::TOO_LARGE)
        } else if request.options & APS != 0 && self.number(b"EE") == 0 && self.config.radio == Radio::Zigbee
        {
            Some(delivery::APS_WITHOUT_EE)
        } else if self.open >= BUFFERS || self.busy_until > now {
            Some(delivery::OUT_OF_BUFFERS)
        } else {
            None
        }
    }

    /// How long a message is held for an end device: 1.2 times SP, which counts in tens of milliseconds.
    fn hold(&self) -> Duration {
        match self.config.radio {
            Radio::Zigbee => Duration::from_millis(self.number(b"SP") * 12),
            Radio::Ieee802154 => Duration::from_millis(2_500),
            Radio::DigiMesh => Duration::ZERO,
        }
    }

    fn deliver(&mut self, at: Instant, to: u64, broadcast: bool, data: &[u8]) {
        let frame = AirFrame {
            to,
            from: self.config.address,
            network: self.number(b"MY") as u16,
            sleep: None,
            broadcast,
            data: data.to_vec(),
        };
        self.agenda.add(at, Event::Delivered(frame));
    }

    fn end(&mut self, at: Instant, id: u8, status: Vec<u8>) {
        self.open += 1;
        self.agenda.add(
            at,
            Event::Ended {
                status: (id != 0).then_some(status),
            },
        );
    }
}
