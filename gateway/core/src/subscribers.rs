//! The clients of one filter: found, added and taken off in constant time, however many there are.

use foldhash::HashMap;
use smallvec::SmallVec;
use sn_codec::QoS;

use crate::clients::ClientIx;

/// Up to so many are simply looked through.
const FEW: usize = 16;

/// A client with a filter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subscriber {
    pub(crate) client: ClientIx,
    /// QoS asked for, capped by the client's rule.
    pub(crate) asked: QoS,
    /// QoS that messages are delivered with at most.
    pub(crate) granted: QoS,
}

/// All clients of a filter. Nearly every filter has one or two.
#[derive(Debug, Default)]
pub(crate) struct Subscribers {
    list: SmallVec<[Subscriber; 2]>,
    many: Option<Box<Many>>,
}

/// What is kept beside the list of many.
#[derive(Debug, Default)]
struct Many {
    places: HashMap<ClientIx, u32>,
    /// How many asked for each QoS.
    asked: [u32; 3],
}

impl Subscribers {
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Subscriber> {
        self.list.iter()
    }

    /// In no order that means anything, but the same for the same history.
    pub(crate) fn at(&self, at: usize) -> Option<Subscriber> {
        self.list.get(at).copied()
    }

    pub(crate) fn get(&self, client: ClientIx) -> Option<Subscriber> {
        self.at(self.place(client)?)
    }

    fn place(&self, client: ClientIx) -> Option<usize> {
        match &self.many {
            Some(many) => many.places.get(&client).map(|at| *at as usize),
            None => self.list.iter().position(|entry| entry.client == client),
        }
    }

    /// The highest QoS that any asked for.
    pub(crate) fn highest_asked(&self) -> Option<QoS> {
        match &self.many {
            Some(many) => [QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::AtMostOnce]
                .into_iter()
                .find(|qos| many.asked[*qos as usize] > 0),
            None => self.list.iter().map(|entry| entry.asked).max(),
        }
    }

    /// Adds a client, or replaces what it asked for before.
    pub(crate) fn set(&mut self, entry: Subscriber) {
        match self.place(entry.client) {
            Some(at) => {
                let before = core::mem::replace(&mut self.list[at], entry);
                if let Some(many) = &mut self.many {
                    many.asked[before.asked as usize] -= 1;
                    many.asked[entry.asked as usize] += 1;
                }
            }
            None => {
                self.list.push(entry);
                match &mut self.many {
                    Some(many) => many.add(self.list.len() - 1, &entry),
                    None if self.list.len() > FEW => {
                        let mut many = Box::<Many>::default();
                        for (at, entry) in self.list.iter().enumerate() {
                            many.add(at, entry);
                        }
                        self.many = Some(many);
                    }
                    None => {}
                }
            }
        }
    }

    /// Takes a client off; the last one takes its place.
    pub(crate) fn remove(&mut self, client: ClientIx) {
        let Some(at) = self.place(client) else { return };
        let gone = self.list.swap_remove(at);
        let Some(many) = &mut self.many else { return };
        many.places.remove(&client);
        many.asked[gone.asked as usize] -= 1;
        if let Some(moved) = self.list.get(at) {
            many.places.insert(moved.client, at as u32);
        }
        if self.list.len() <= FEW / 2 {
            self.many = None;
            self.list.shrink_to_fit();
        }
    }

    /// Changes what one client is granted.
    pub(crate) fn grant(&mut self, client: ClientIx, grant: impl FnOnce(Subscriber) -> QoS) {
        if let Some(at) = self.place(client) {
            self.list[at].granted = grant(self.list[at]);
        }
    }

    /// Changes what all are granted.
    pub(crate) fn grant_all(&mut self, mut grant: impl FnMut(Subscriber) -> QoS) {
        for entry in &mut self.list {
            entry.granted = grant(*entry);
        }
    }
}

impl Many {
    fn add(&mut self, at: usize, entry: &Subscriber) {
        self.places.insert(entry.client, at as u32);
        self.asked[entry.asked as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::SmallRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    #[test]
    fn few_and_many_are_kept_alike() {
        let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
        let mut rng = SmallRng::seed_from_u64(1);
        let mut subscribers = Subscribers::default();
        let mut model = BTreeMap::new();
        let mut longest = 0;
        for step in 0..20_000 {
            let client = ClientIx(rng.random_range(0..60));
            // By turns more and fewer, so that the list grows and shrinks past the border between the two.
            let adds = rng.random_range(0..10) < if step / 500 % 2 == 0 { 7 } else { 2 };
            if adds {
                let asked = qos[rng.random_range(0..3)];
                let granted = QoS::AtMostOnce;
                subscribers.set(Subscriber {
                    client,
                    asked,
                    granted,
                });
                model.insert(client, asked);
            } else {
                subscribers.remove(client);
                model.remove(&client);
            }
            longest = longest.max(model.len());
            assert_eq!(subscribers.len(), model.len());
            assert_eq!(subscribers.highest_asked(), model.values().max().copied());
            for n in 0..60 {
                let own = subscribers.get(ClientIx(n)).map(|own| own.asked);
                assert_eq!(own, model.get(&ClientIx(n)).copied());
            }
        }
        assert!(longest > 2 * FEW, "{longest}");
    }
}
