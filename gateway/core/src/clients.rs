//! The client table: records by place, by address and by client id.

use core::hash::BuildHasher;
use std::collections::VecDeque;
use std::net::SocketAddr;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use slab::Slab;

use crate::client::{Client, State, StateKind};
use crate::forwarder::Forwarders;
use crate::links::Via;
use crate::peer::{LinkAddr, LinkId};
use crate::sources::Sources;

/// The place of a client record in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ClientIx(pub(crate) u32);

/// All client records: found by the address they are bound to, or by client id (reading A10). The two indexes hold
/// places only: keys are read from the records.
#[derive(Debug)]
pub(crate) struct ClientTable {
    /// Counts the clients behind each.
    pub(crate) forwarders: Forwarders,
    /// Counts the clients at each address.
    pub(crate) sources: Sources,
    records: Slab<Client>,
    by_peer: HashTable<ClientIx>,
    by_id: HashTable<ClientIx>,
    /// Records that nobody is connected to, roughly in the order they became so.
    resting: VecDeque<(ClientIx, u32)>,
    next_serial: u32,
    /// Records in each state, by [`State::kind`].
    states: [u64; StateKind::COUNT],
    /// Seeded, so that nobody outside can choose addresses or ids that collide.
    hasher: FixedState,
}

/// What identifies a peer: link, address, and the node id behind a forwarder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer<'a> {
    pub(crate) link: LinkId,
    pub(crate) addr: &'a LinkAddr,
    pub(crate) node: Option<&'a [u8]>,
}

impl Peer<'_> {
    pub(crate) fn hash(&self, hasher: &FixedState) -> u64 {
        match (self.addr, self.node) {
            // The usual peer, in one go.
            (LinkAddr::Udp(SocketAddr::V4(addr)), None) => hasher.hash_one(
                u64::from(addr.ip().to_bits()) << 32 | u64::from(addr.port()) << 16 | u64::from(self.link.0),
            ),
            (addr, node) => hasher.hash_one((self.link, addr, node)),
        }
    }

    fn is(&self, via: &Via) -> bool {
        self.link == via.link && *self.addr == via.route.addr && self.node == via.node.as_deref()
    }
}

impl<'a> From<&'a Via> for Peer<'a> {
    fn from(via: &'a Via) -> Self {
        Peer {
            link: via.link,
            addr: &via.route.addr,
            node: via.node.as_deref(),
        }
    }
}

impl ClientTable {
    pub(crate) fn new(seed: u64, forwarders: Forwarders, sources: Sources) -> Self {
        ClientTable {
            forwarders,
            sources,
            records: Slab::new(),
            by_peer: HashTable::new(),
            by_id: HashTable::new(),
            resting: VecDeque::new(),
            next_serial: 0,
            states: [0; StateKind::COUNT],
            hasher: FixedState::with_seed(seed),
        }
    }

    /// The hash of a client id; it also decides which broker connection the client publishes on.
    pub(crate) fn id_hash(&self, id: &str) -> u64 {
        self.hasher.hash_one(id)
    }

    /// The hash of a peer, for limits.
    pub(crate) fn peer_hash(&self, peer: Peer<'_>) -> u64 {
        peer.hash(&self.hasher)
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn get(&self, ix: ClientIx) -> Option<&Client> {
        self.records.get(ix.0 as usize)
    }

    pub(crate) fn get_mut(&mut self, ix: ClientIx) -> Option<&mut Client> {
        self.records.get_mut(ix.0 as usize)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ClientIx, &Client)> {
        self.records
            .iter()
            .map(|(at, client)| (ClientIx(at as u32), client))
    }

    /// The client bound to an address.
    pub(crate) fn by_peer(&self, peer: Peer<'_>) -> Option<ClientIx> {
        let records = &self.records;
        let is = |ix: &ClientIx| {
            records
                .get(ix.0 as usize)
                .and_then(|client| client.via.as_ref())
                .is_some_and(|via| peer.is(via))
        };
        self.by_peer.find(peer.hash(&self.hasher), is).copied()
    }

    /// The client of that id.
    pub(crate) fn by_id(&self, id: &str) -> Option<ClientIx> {
        let records = &self.records;
        self.by_id
            .find(self.id_hash(id), |ix| {
                records.get(ix.0 as usize).is_some_and(|client| &*client.id == id)
            })
            .copied()
    }

    /// Adds a record that is bound to no address yet.
    pub(crate) fn insert(&mut self, client: Client) -> ClientIx {
        let serial = self.next_serial.wrapping_add(1);
        self.insert_restored(client, serial)
    }

    /// Adds one that has its serial number from an earlier life.
    pub(crate) fn insert_restored(&mut self, mut client: Client, serial: u32) -> ClientIx {
        self.next_serial = match serial {
            u32::MAX => 0, // 0 is nobody's.
            serial => serial.max(self.next_serial),
        };
        client.serial = serial;
        let id_hash = self.id_hash(&client.id);
        let entry = self.records.vacant_entry();
        let ix = ClientIx(entry.key() as u32);
        client.ix = ix;
        client.counted = client.state.kind();
        self.states[client.counted as usize] += 1;
        entry.insert(client);
        let (records, hasher) = (&self.records, &self.hasher);
        self.by_id.insert_unique(id_hash, ix, |ix| {
            records
                .get(ix.0 as usize)
                .map_or(0, |client| hasher.hash_one(&*client.id))
        });
        ix
    }

    /// Binds a record to an address, which no other record is bound to any more.
    pub(crate) fn bind(&mut self, ix: ClientIx, via: Via) {
        self.unbind(ix);
        if let Some(other) = self.by_peer(Peer::from(&via)) {
            self.unbind(other);
        }
        let peer_hash = Peer::from(&via).hash(&self.hasher);
        let Some(client) = self.records.get_mut(ix.0 as usize) else {
            return;
        };
        self.forwarders.bound(&via);
        self.sources.bound(&via);
        client.via = Some(via);
        let (records, hasher) = (&self.records, &self.hasher);
        self.by_peer.insert_unique(peer_hash, ix, |ix| {
            let via = records.get(ix.0 as usize).and_then(|client| client.via.as_ref());
            via.map_or(0, |via| Peer::from(via).hash(hasher))
        });
    }

    /// Takes the address off a record.
    pub(crate) fn unbind(&mut self, ix: ClientIx) {
        let Some(via) = self
            .records
            .get_mut(ix.0 as usize)
            .and_then(|client| client.via.take())
        else {
            return;
        };
        self.forwarders.unbound(&via);
        self.sources.unbound(&via);
        if let Ok(entry) = self
            .by_peer
            .find_entry(Peer::from(&via).hash(&self.hasher), |entry| *entry == ix)
        {
            entry.remove();
        }
    }

    /// The client is not connected any more: its address is taken off, and its record may make room for another.
    pub(crate) fn rest(&mut self, ix: ClientIx) {
        self.unbind(ix);
        if let Some(client) = self.records.get_mut(ix.0 as usize)
            && !client.resting
        {
            client.resting = true;
            self.resting.push_back((ix, client.serial));
        }
        if self.resting.len() > 2 * self.records.len() + 1024 {
            // Mostly records that are gone.
            let records = &self.records;
            self.resting.retain(|(ix, serial)| {
                records
                    .get(ix.0 as usize)
                    .is_some_and(|client| client.serial == *serial)
            });
        }
    }

    /// A record that nobody is connected to, one of those longest so.
    pub(crate) fn pop_resting(&mut self) -> Option<ClientIx> {
        loop {
            let (ix, serial) = self.resting.pop_front()?;
            let Some(client) = self
                .records
                .get_mut(ix.0 as usize)
                .filter(|client| client.serial == serial)
            else {
                continue;
            };
            client.resting = false;
            if matches!(client.state, State::Disconnected | State::Lost) {
                return Some(ix);
            }
        }
    }

    /// Counts a record in the state that it is in now.
    pub(crate) fn recount(&mut self, ix: ClientIx) {
        if let Some(client) = self.records.get_mut(ix.0 as usize) {
            let kind = client.state.kind();
            self.states[client.counted as usize] -= 1;
            self.states[kind as usize] += 1;
            client.counted = kind;
        }
    }

    /// Records in each state.
    pub(crate) fn states(&self) -> [u64; StateKind::COUNT] {
        debug_assert!(self.len() > 64 || self.states == self.count_states());
        self.states
    }

    fn count_states(&self) -> [u64; StateKind::COUNT] {
        let mut states = [0; StateKind::COUNT];
        for (_, client) in self.iter() {
            states[client.state.kind() as usize] += 1;
        }
        states
    }

    /// Removes a record.
    pub(crate) fn remove(&mut self, ix: ClientIx) -> Option<Client> {
        self.unbind(ix);
        let client = self.records.try_remove(ix.0 as usize)?;
        self.states[client.counted as usize] -= 1;
        if let Ok(entry) = self
            .by_id
            .find_entry(self.id_hash(&client.id), |entry| *entry == ix)
        {
            entry.remove();
        }
        Some(client)
    }
}
