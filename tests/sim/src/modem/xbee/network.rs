//! The mesh behind an XBee: its peers, and what becomes of what is sent to them.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use gateway_core::time::Instant;
use rand::{RngExt, rngs::SmallRng};

use super::Radio;
use crate::net::between;

/// No 16-bit address, or none known.
pub const UNKNOWN_16: u16 = 0xFFFE;
/// The 16-bit address in a status frame when sending failed.
const FAILED_16: u16 = 0xFFFD;
/// No 64-bit address known.
const UNKNOWN_64: u64 = u64::MAX;

/// Entries of the table in which every router remembers broadcasts, and how long each stays there.
const BROADCASTS: usize = 8;
const BROADCAST_LIFETIME: Duration = Duration::from_secs(8);

/// Attempts of the network layer.
const ATTEMPTS: u32 = 3;
/// MAC attempts of 802.15.4, each with its acknowledgement waited for.
const MAC_ATTEMPTS: u32 = 4;

/// Delivery status of a transmission.
pub mod delivery {
    /// Delivered, or a broadcast.
    pub const SUCCESS: u8 = 0x00;
    /// 802.15.4: no acknowledgement.
    pub const NO_ACK: u8 = 0x01;
    /// Nobody asked for it in time.
    pub const PURGED: u8 = 0x03;
    /// No acknowledgement from the far end.
    pub const NETWORK_NO_ACK: u8 = 0x21;
    /// The module has no network.
    pub const NOT_JOINED: u8 = 0x22;
    /// Sent to itself.
    pub const SELF_ADDRESSED: u8 = 0x23;
    /// Nobody has this 64-bit address.
    pub const ADDRESS_NOT_FOUND: u8 = 0x24;
    /// No way to this 16-bit address.
    pub const ROUTE_NOT_FOUND: u8 = 0x25;
    /// No neighbour repeated the broadcast.
    pub const BROADCAST_NOT_HEARD: u8 = 0x26;
    /// APS encryption without encryption.
    pub const APS_WITHOUT_EE: u8 = 0x2E;
    /// No buffer is free.
    pub const OUT_OF_BUFFERS: u8 = 0x32;
    /// More than can be carried.
    pub const TOO_LARGE: u8 = 0x74;
}

/// A module somewhere in the network.
#[derive(Debug, Clone, PartialEq)]
pub struct Peer {
    /// Its 64-bit address.
    pub address: u64,
    /// Its 16-bit address: given by the network, on 802.15.4 its MY, from 0xFFFE on it has none.
    pub network: u16,
    /// How many hops away it is, at least 1.
    pub hops: u8,
    /// How strong it is received, in dBm.
    pub rssi_dbm: i16,
    /// Share of single attempts that are lost.
    pub loss: f64,
    /// When it listens; `None` is always.
    pub sleep: Option<Nap>,
    /// It is on and in range.
    pub present: bool,
    awake_until: Instant,
}

/// The rhythm of an end device that sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nap {
    /// Between two polls of its parent.
    pub period: Duration,
    /// How long it listens after it sent something.
    pub awake: Duration,
}

impl Peer {
    /// A router one hop away that always listens.
    pub fn new(address: u64, network: u16) -> Peer {
        Peer {
            address,
            network,
            hops: 1,
            rssi_dbm: -60,
            loss: 0.0,
            sleep: None,
            present: true,
            awake_until: Instant::START,
        }
    }

    /// When it listens next, from now on.
    fn listens_at(&self, now: Instant) -> Instant {
        match self.sleep {
            Some(nap) if now >= self.awake_until => {
                let period = (nap.period.as_micros() as u64).max(1);
                Instant::from_micros((now.as_micros() / period + 1) * period)
            }
            Some(_) | None => now,
        }
    }
}

/// What becomes of one unicast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fate {
    /// When the module knows.
    pub known_at: Instant,
    /// The delivery status.
    pub status: u8,
    /// The discovery status: 0 none, 1 address, 2 route, 3 both.
    pub discovery: u8,
    /// Attempts after the first.
    pub retries: u8,
    /// The destination's 16-bit address, as the module knows it then.
    pub network: u16,
    /// Whom it reached, and when.
    pub delivered: Option<(u64, Instant)>,
}

/// How the module was told to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Send {
    /// The destination's 64-bit address.
    pub address: u64,
    /// Its 16-bit address, as the host knows it.
    pub network: u16,
    /// Packets that it takes.
    pub packets: u32,
    /// Longest wait for an acknowledgement of one attempt.
    pub attempt: Duration,
    /// How long a parent holds a message for an end device.
    pub hold: Duration,
    /// Wait for end devices that sleep.
    pub extended: bool,
}

/// Everyone but the module itself.
#[derive(Debug, Default)]
pub struct Network {
    peers: BTreeMap<u64, Peer>,
    /// When the last broadcasts of the whole network were.
    broadcasts: VecDeque<Instant>,
}

impl Network {
    /// Adds a peer, in the place of one with the same address.
    pub fn add(&mut self, peer: Peer) {
        self.peers.insert(peer.address, peer);
    }

    /// A peer, to look at or to change.
    pub fn peer_mut(&mut self, address: u64) -> Option<&mut Peer> {
        self.peers.get_mut(&address)
    }

    /// Everyone.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    /// A peer sends: when the module hears it.
    pub(super) fn uplink(
        &mut self,
        now: Instant,
        address: u64,
        packets: u32,
        rng: &mut SmallRng,
    ) -> Option<(Peer, Instant)> {
        let peer = self.peers.get_mut(&address).filter(|peer| peer.present)?;
        if let Some(nap) = peer.sleep {
            peer.awake_until = now + nap.awake;
        }
        let peer = peer.clone();
        let arrived = (0..packets).all(|_| self_heals(&peer, rng, ATTEMPTS).is_some());
        arrived.then(|| {
            let way = way(&peer, packets, rng);
            (peer, now + way)
        })
    }

    /// True if the network has room for a further broadcast, which is counted.
    pub(super) fn admits_broadcast(&mut self, now: Instant) -> bool {
        self.broadcasts.retain(|at| now.since(*at) < BROADCAST_LIFETIME);
        let room = self.broadcasts.len() < BROADCASTS;
        if room {
            self.broadcasts.push_back(now);
        }
        room
    }

    /// Whom a broadcast reaches, and when.
    pub(super) fn broadcast(
        &mut self,
        now: Instant,
        hold: Duration,
        rng: &mut SmallRng,
    ) -> Vec<(u64, Instant)> {
        let mut reached = Vec::new();
        for peer in self.peers.values().filter(|peer| peer.present) {
            let listens = peer.listens_at(now);
            // Each router repeats it twice, and nobody acknowledges it.
            let heard = self_heals(peer, rng, ATTEMPTS).is_some();
            if heard && listens.since(now) <= hold {
                reached.push((peer.address, listens.max(now + way(peer, 1, rng))));
            }
        }
        reached
    }

    /// What becomes of a Zigbee or DigiMesh unicast.
    pub(super) fn unicast(&mut self, now: Instant, radio: Radio, send: Send, rng: &mut SmallRng) -> Fate {
        let timeout = send.attempt * ATTEMPTS;
        let failed = |known_at, status, discovery, retries| Fate {
            known_at,
            status,
            discovery,
            retries,
            network: FAILED_16,
            delivered: None,
        };
        let found = if send.address == UNKNOWN_64 {
            self.peers.values().find(|peer| peer.network == send.network)
        } else {
            self.peers.get(&send.address)
        };
        let addressed = radio != Radio::Zigbee || send.network != UNKNOWN_16;
        let Some(peer) = found.filter(|peer| peer.present || addressed) else {
            return failed(now + timeout, delivery::ADDRESS_NOT_FOUND, 0x03, 0);
        };
        if radio == Radio::Zigbee && addressed && peer.network != send.network {
            // It has another address since it joined again, and nobody answers under the old one.
            return failed(now + timeout, delivery::ROUTE_NOT_FOUND, 0x02, 0);
        }
        let retries_spent = (ATTEMPTS - 1) as u8;
        if !peer.present {
            return failed(now + timeout, delivery::NETWORK_NO_ACK, 0x00, retries_spent);
        }
        let (discovery, search) = if addressed {
            (0x00, Duration::ZERO)
        } else {
            (
                0x01,
                between(rng, Duration::from_millis(20), Duration::from_millis(80)),
            )
        };
        let begins = now + search;
        let mut repeats = 0;
        for _ in 0..send.packets {
            match self_heals(peer, rng, ATTEMPTS) {
                Some(lost) => repeats += lost,
                None => {
                    return failed(
                        begins + timeout,
                        delivery::NETWORK_NO_ACK,
                        discovery,
                        retries_spent,
                    );
                }
            }
        }
        let sent = begins + way(peer, send.packets, rng) + send.attempt * repeats;
        let listens = peer.listens_at(sent);
        if listens.since(sent) > send.hold {
            return failed(sent + timeout, delivery::NETWORK_NO_ACK, discovery, retries_spent);
        }
        let arrives = sent.max(listens);
        let patience = if send.extended {
            send.hold + timeout
        } else {
            timeout
        };
        let in_time = arrives.since(now) <= patience;
        Fate {
            known_at: if in_time {
                arrives + way(peer, 1, rng)
            } else {
                now + patience
            },
            // The parent delivers it all the same, but the acknowledgement comes too late.
            status: if in_time {
                delivery::SUCCESS
            } else {
                delivery::NETWORK_NO_ACK
            },
            discovery: if send.extended {
                discovery | 0x40
            } else {
                discovery
            },
            retries: repeats.min(255) as u8,
            network: match radio {
                Radio::Zigbee => peer.network,
                Radio::DigiMesh | Radio::Ieee802154 => UNKNOWN_16,
            },
            delivered: Some((peer.address, arrives)),
        }
    }

    /// What becomes of an 802.15.4 unicast: to a neighbour, or to nobody.
    pub(super) fn neighbour(&mut self, now: Instant, send: Send, rng: &mut SmallRng) -> Fate {
        let found = if send.address == UNKNOWN_64 {
            self.peers.values().find(|peer| peer.network == send.network)
        } else {
            self.peers.get(&send.address)
        };
        let attempt = || Duration::from_micros(4_000);
        let mut fate = Fate {
            known_at: now + attempt() * MAC_ATTEMPTS,
            status: delivery::NO_ACK,
            discovery: 0,
            retries: 0,
            network: send.network,
            delivered: None,
        };
        let Some(peer) = found.filter(|peer| peer.present) else {
            return fate;
        };
        let listens = peer.listens_at(now);
        if listens.since(now) > send.hold {
            fate.known_at = now + send.hold;
            fate.status = delivery::PURGED;
        } else if let Some(lost) = self_heals(peer, rng, MAC_ATTEMPTS) {
            let arrives =
                listens + between(rng, Duration::from_millis(2), Duration::from_millis(6)) * (lost + 1);
            fate.known_at = arrives + Duration::from_micros(600);
            fate.status = delivery::SUCCESS;
            fate.delivered = Some((peer.address, arrives));
        }
        fate
    }
}

/// Attempts that were lost before one arrived; `None` if none did.
fn self_heals(peer: &Peer, rng: &mut SmallRng, attempts: u32) -> Option<u32> {
    (0..attempts).find(|_| !rng.random_bool(peer.loss))
}

/// How long packets take to a peer, one after the other.
fn way(peer: &Peer, packets: u32, rng: &mut SmallRng) -> Duration {
    let hops = u32::from(peer.hops.max(1));
    between(rng, Duration::from_millis(5), Duration::from_millis(40)) * hops * packets.max(1)
}
