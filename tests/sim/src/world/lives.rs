//! The gateway ends and starts again, and its disk.

use core::time::Duration;
use std::cmp::Reverse;
use std::collections::BTreeMap;

use bytes::Bytes;
use gateway_core::Gateway;
use gateway_core::io::{LinkEvent, LinkProfile, StoreKey};
use gateway_core::time::Instant;

use super::World;
use super::events::Event;
use crate::reference::{Check, Violation};
use crate::saved;
use crate::sim_store::{End, SimStore, StoreAction, StoreNews};

/// Some time in 2026, and as long after it as the world is old.
pub(super) fn unix_ms(now: Instant) -> u64 {
    1_790_000_000_000 + now.as_micros() / 1000
}

impl World {
    pub(super) fn link_up(&mut self) {
        let profile = LinkProfile {
            mtu: self.config.mtu,
            credit: self.link_credit,
            ..LinkProfile::default()
        };
        self.schedule(self.now, Event::Link(LinkEvent::Up(profile)));
    }

    /// The gateway dies without a word, and starts again knowing nothing. Clients keep what they know.
    pub fn restart_gateway(&mut self) {
        self.note(|_| "gateway restarts".into());
        self.lives += 1;
        let seed = self.config.seed.wrapping_add(self.lives << 32);
        self.gateway = Gateway::new(self.config.gateway.clone(), seed, self.now);
        self.reference.restart();
        self.broker.gateway_died();
        self.events
            .retain(|Reverse(scheduled)| !matches!(scheduled.event, Event::Link(_)));
        self.link_credit = self.config.link_credit.unwrap_or(LinkProfile::UNLIMITED);
        self.link_up();
    }

    /// The gateway's process ends without a word, and another one starts after a while and finds what is on the disk.
    /// Without a disk it starts at once, knowing nothing.
    pub fn end_gateway(&mut self, end: End, away: Duration) {
        let Some(store) = &mut self.store else {
            return self.restart_gateway();
        };
        if self.found.is_some() {
            return;
        }
        self.lives += 1;
        self.found = Some(store.end(self.now, end, &mut self.rng));
        let fails = store.is_failing();
        self.note(|_| format!("gateway ends: {end:?}"));
        self.after_store();
        self.fails_at_start = fails;
        self.broker.gateway_died();
        self.events
            .retain(|Reverse(scheduled)| !matches!(scheduled.event, Event::Link(_)));
        self.schedule(self.now + away, Event::Start);
    }

    /// The gateway starts again.
    pub(super) fn start_gateway(&mut self) -> Check {
        let Some(found) = self.found.take() else {
            return Ok(());
        };
        if let [first, ..] = &found.missing[..] {
            let detail = format!("{first:?} and {} more", found.missing.len() - 1);
            return Err(Violation::new("what is durable survives", detail));
        }
        let values: BTreeMap<StoreKey, Bytes> = found.values.iter().cloned().collect();
        let seed = self.config.seed.wrapping_add(self.lives << 32);
        self.gateway = Gateway::new(self.config.gateway.clone(), seed, self.now);
        let restored = self.gateway.restore(self.now, unix_ms(self.now), found.values);
        self.note(|_| format!("gateway starts: {restored:?}"));
        if restored.unreadable > 0 {
            return Err(Violation::new(
                "what was stored is understood",
                format!("{restored:?}"),
            ));
        }
        self.reference.restore(self.now, &values)?;
        self.reference.on_start(self.fails_at_start);
        self.link_credit = self.config.link_credit.unwrap_or(LinkProfile::UNLIMITED);
        self.link_up();
        Ok(())
    }

    /// The disk fails from the write after `count` more on, until it is healed.
    pub fn fail_disk(&mut self, count: u32) {
        self.note(|_| format!("the disk fails after {count} writes"));
        if let Some(store) = &self.store {
            store.disk.fail_after(count);
        }
    }

    /// The disk has room for so many octets.
    pub fn resize_disk(&mut self, octets: usize) {
        self.note(|_| format!("the disk has {octets} octets"));
        if let Some(store) = &self.store {
            store.disk.resize(octets);
        }
    }

    /// The disk works, and has the room that it had.
    pub fn heal_disk(&mut self) {
        self.note(|_| "the disk works".into());
        if let Some(store) = &mut self.store {
            store.heal();
        }
    }

    /// The gateway's disk, to look at; none if nothing survives.
    pub fn store(&self) -> Option<&SimStore> {
        self.store.as_ref()
    }

    pub(super) fn handle_store(&mut self, action: StoreAction) {
        let now = self.now;
        let Some(store) = &mut self.store else { return };
        let news = store.handle_action(now, action, &mut self.rng);
        self.fails_at_start &= store.is_failing();
        if self.found.is_some() {
            // Nobody is there to be told.
            store.take_durable();
            return self.after_store();
        }
        for (key, value) in store.take_durable() {
            if key.kind == saved::kind::UPLINK
                && let Some(uplink) = saved::SavedUplink::decode(&value)
            {
                self.reference.on_spooled(&uplink);
            }
        }
        for news in news {
            match news {
                StoreNews::Port(write) => self.broker.handle_durable(now, &write, &mut self.rng),
                StoreNews::Gateway(event) => {
                    self.note(|_| format!("store -> gateway {event:?}"));
                    self.reference.on_store(&event);
                    self.gateway.handle_store(now, event);
                }
            }
        }
        self.after_broker();
        self.after_store();
    }

    pub(super) fn after_store(&mut self) {
        while let Some((at, action)) = self.store.as_mut().and_then(SimStore::poll_action) {
            self.schedule(at, Event::Store(action));
        }
    }

    /// CONNECTs refused for now, and clients that moved, so far.
    pub(super) fn refusals(&mut self) -> (u64, u64) {
        let metrics = self.gateway.metrics();
        (metrics.connects_congestion_total, metrics.takeovers_total)
    }
}
