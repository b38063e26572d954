//! How many sessions there are at each IP address.

use core::net::IpAddr;
use std::collections::hash_map::Entry;

use foldhash::HashMap;

use crate::links::Via;
use crate::peer::LinkAddr;

/// Counts sessions by IP address, if they are limited.
#[derive(Debug)]
pub(crate) struct Sources {
    limit: u32,
    sessions: HashMap<IpAddr, u32>,
}

impl Sources {
    /// A limit of 0 is none.
    pub(crate) fn new(limit: u32) -> Self {
        Sources {
            limit,
            sessions: HashMap::default(),
        }
    }

    /// What is counted: nothing without a limit, and nothing that has no IP address.
    fn source(&self, via: &Via) -> Option<IpAddr> {
        match &via.route.addr {
            LinkAddr::Udp(addr) if self.limit > 0 => Some(addr.ip()),
            LinkAddr::Udp(_) | LinkAddr::Radio(_) | LinkAddr::Wire => None,
        }
    }

    /// True if one more session may be there, or `from`, where the client is bound now, is the same source.
    pub(crate) fn has_room(&self, to: &Via, from: Option<&Via>) -> bool {
        let Some(source) = self.source(to) else {
            return true;
        };
        let known = self.sessions.get(&source).copied().unwrap_or_default();
        known < self.limit || from.and_then(|from| self.source(from)) == Some(source)
    }

    /// A client was bound there.
    pub(crate) fn bound(&mut self, via: &Via) {
        if let Some(source) = self.source(via) {
            *self.sessions.entry(source).or_default() += 1;
        }
    }

    /// A client is not bound there any more.
    pub(crate) fn unbound(&mut self, via: &Via) {
        let Some(source) = self.source(via) else { return };
        if let Entry::Occupied(mut entry) = self.sessions.entry(source) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}
