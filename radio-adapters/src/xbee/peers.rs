//! What is known of each peer by its 64-bit address, so that the modem need not search for it again.

use std::collections::HashMap;

use super::frame::{Addr16, Addr64};

/// Peers remembered; who was not heard for longest is forgotten first.
const PEERS_MAX: usize = 1024;

/// Hops of a source route that the modem takes ("Create Source Route - 0x21").
const ROUTE_MAX: usize = 11;

#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: HashMap<Addr64, Peer>,
    clock: u64,
}

/// One peer.
#[derive(Debug, Clone, Default)]
pub(super) struct Peer {
    /// Its network address, until it joins again.
    pub(super) short: Option<Addr16>,
    /// It is an end device, which may sleep.
    pub(super) end_device: bool,
    /// The way to it, from its neighbour to ours; empty if it is our neighbour or the modem knows better.
    pub(super) route: Vec<Addr16>,
    /// Hops of its last route record.
    pub(super) hops: Option<u8>,
    /// Strength of the last hop of an earlier packet, in dBm.
    pub(super) last_hop_rssi_dbm: Option<i16>,
    heard: u64,
}

impl Peers {
    pub(super) fn get(&self, addr: Addr64) -> Option<&Peer> {
        self.peers.get(&addr)
    }

    /// The record of a peer that was just heard of.
    pub(super) fn heard(&mut self, addr: Addr64) -> &mut Peer {
        self.clock += 1;
        if self.peers.len() >= PEERS_MAX
            && !self.peers.contains_key(&addr)
            && let Some(oldest) = self
                .peers
                .iter()
                .min_by_key(|(_, peer)| peer.heard)
                .map(|(addr, _)| *addr)
        {
            self.peers.remove(&oldest);
        }
        let peer = self.peers.entry(addr).or_default();
        peer.heard = self.clock;
        peer
    }

    /// A peer's network address, as far as it is one.
    pub(super) fn learn(&mut self, addr: Addr64, short: Addr16) {
        if short.is_node() {
            self.heard(addr).short = Some(short);
        }
    }

    /// The way a peer's packets took.
    pub(super) fn learn_route(&mut self, addr: Addr64, short: Addr16, hops: Vec<Addr16>) {
        self.learn(addr, short);
        let peer = self.heard(addr);
        peer.hops = u8::try_from(hops.len() + 1).ok();
        peer.route = if hops.len() <= ROUTE_MAX { hops } else { Vec::new() };
    }

    /// What was known of the way to a peer is wrong.
    pub(super) fn forget_way(&mut self, addr: Addr64) {
        if let Some(peer) = self.peers.get_mut(&addr) {
            peer.short = None;
            peer.route.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_who_was_not_heard_for_longest() {
        let mut peers = Peers::default();
        for node in 0..PEERS_MAX as u64 {
            peers.learn(Addr64(node), Addr16(1));
        }
        peers.learn(Addr64(0), Addr16(2));
        peers.learn(Addr64(9999), Addr16(3));
        assert_eq!(peers.peers.len(), PEERS_MAX);
        assert!(peers.get(Addr64(1)).is_none());
        assert_eq!(peers.get(Addr64(0)).unwrap().short, Some(Addr16(2)));
    }

    #[test]
    fn keeps_no_route_that_the_modem_would_discard() {
        let mut peers = Peers::default();
        peers.learn_route(Addr64(1), Addr16(1), vec![Addr16(9); ROUTE_MAX + 1]);
        let peer = peers.get(Addr64(1)).unwrap();
        assert_eq!((peer.hops, peer.route.len()), (Some(13), 0));
    }
}
