//! The end: everything heals, what was promised came true, and the gateway becomes quiet.

use core::time::Duration;
use std::collections::BTreeSet;

use bytes::Bytes;
use gateway_core::io::{ConnId, StoreKey};
use sn_codec::QoS;

use super::{ClientIx, ForwarderIx, Station, World};
use crate::net::PathConfig;
use crate::reference::{Check, Violation};
use crate::saved;
use crate::sim_broker::Origin;
use crate::sim_client::{Outcome, Presence, SimClient};

impl World {
    /// Heals the network, brings the broker back, and waits until nothing is left to do; then checks what must hold at
    /// the end.
    ///
    /// # Panics
    /// With a report, if a rule is broken.
    pub fn settle(&mut self) {
        if let Err(violation) = self.try_settle() {
            self.fail(&violation);
        }
    }

    /// As [`World::settle`].
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn try_settle(&mut self) -> Check {
        self.note(|_| "settling".into());
        self.settling = true;
        self.set_all_paths(PathConfig::CLEAN, PathConfig::CLEAN);
        for forwarder in 0..self.forwarders.len() {
            self.switch_forwarder(ForwarderIx(forwarder), true);
        }
        if !self.config.gateway.forwarders.is_empty() {
            // Those that a forwarder has no room for would ask for ever.
            for ix in 0..self.clients.len() {
                if self.clients[ix].behind.is_some() {
                    self.rebind(ClientIx(ix));
                }
            }
        }
        if !self.broker.is_reachable() {
            self.broker_up();
        }
        self.heal_disk();
        // Longer than any pause, keep-alive tolerance and series of retries of these worlds.
        let end = self.now + Duration::from_secs(4 * 3600);
        loop {
            self.wake_the_overlooked();
            let checked_again = self.now + Duration::from_secs(5);
            self.advance(checked_again)?;
            let left = self.left_to_do();
            if left.is_empty() {
                break;
            }
            if self.now >= end {
                return Err(Violation::new("a healed world comes to rest", left.join("; ")));
            }
        }
        // QoS 0 messages, to which nobody has a claim, wait for the next wake-up or sign of life too.
        let naps = self.clients.iter().filter_map(|station| station.client.nap());
        let longest = naps.max().unwrap_or_default().max(Duration::from_secs(300));
        // To who never answers REGISTER it is sent in six rounds, each after a sign of life (A40, A60).
        let silent = |station: &Station| station.client.config.quirks.ignores_register;
        let times = if self.clients.iter().any(silent) { 12 } else { 2 };
        self.advance(self.now + longest * times)?;
        self.check_quiet()?;
        self.check_end()
    }

    /// A client sleeps, and the gateway takes it for active: its DISCONNECT with a duration was lost and not repeated, or
    /// a copy of its CONNECT came later. Who names itself when it wakes gets its messages all the same (A16). The
    /// PINGREQs of others are those of an active client, so they miss what is sent to them, and nobody finds out. Here
    /// somebody looks at the device.
    fn wake_the_overlooked(&mut self) {
        for ix in 0..self.clients.len() {
            let there = self.reference.presence(ClientIx(ix));
            let unnamed = self.clients[ix].client.config.quirks.wakes_without_id;
            let asleep = self.clients[ix].client.presence() == Presence::Asleep;
            if unnamed && asleep && there == Presence::Active {
                self.clients[ix].client.reconnect(self.now);
                self.after_client(ix);
            }
        }
    }

    /// What is not at rest.
    fn left_to_do(&self) -> Vec<String> {
        let busy = self
            .clients
            .iter()
            .map(|s| &s.client)
            .filter(|c| !c.is_idle())
            .map(SimClient::describe);
        let mut left: Vec<String> = busy.collect();
        left.extend(self.reference.open_exchanges(self.now));
        left.extend(self.reference.undelivered());
        left.extend(self.reference.missing_wills());
        // One side knows of a session, and the other will find out: by a ping, or by silence.
        let at_odds = self.clients().filter(|(ix, client)| {
            let unsupervised = client.config.keep_alive == 0;
            let (here, there) = (client.presence(), self.reference.presence(*ix));
            let moved = here != Presence::Away && !self.reference.is_bound(*ix, &self.address(*ix));
            // A late copy of a DISCONNECT with a duration, whose answer was lost: each PINGREQ is a wake-up (A69). Or a
            // DISCONNECT that was lost: each is answered as one (A16).
            let overlooked = matches!(
                (here, there),
                (Presence::Active, Presence::Asleep) | (Presence::Asleep, Presence::Active)
            );
            ((here != there && !overlooked) || moved) && !unsupervised && !self.clients[ix.0].retired
        });
        left.extend(at_odds.map(|(_, client)| format!("{} is at odds with the gateway", client.config.id)));
        let open = self.reference.open_tokens();
        if open > 0 {
            left.push(format!("{open} requests to the broker are open"));
        }
        if self.reference.orphans() > 0 {
            left.push(format!(
                "{} messages were not sent again",
                self.reference.orphans()
            ));
        }
        if self.found.is_some() {
            left.push("the gateway is away".into());
        }
        if let Some(store) = &self.store {
            if !store.is_idle() {
                left.push("something is being written".into());
            }
            let spooled = store
                .promised()
                .keys()
                .filter(|key| key.kind == saved::kind::UPLINK);
            let spooled = spooled.count();
            if spooled > 0 {
                left.push(format!("{spooled} messages for the broker are stored"));
            }
        }
        if self.under_way > 0 {
            left.push(format!("{} datagrams are under way", self.under_way));
        }
        if !self.broker.is_idle() {
            left.push("the broker is not idle".into());
        }
        left
    }

    /// §10 of the architecture: every closed scenario becomes quiet. Only keep-alives go on.
    fn check_quiet(&mut self) -> Check {
        let quiet_for = Duration::from_secs(600);
        // Each client pings after 3/4 of its keep-alive, or wakes up, and is answered once.
        let pings: usize = self
            .clients
            .iter()
            .map(|station| station.client.pings_within(quiet_for))
            .sum();
        let (transmits, timeouts) = (self.transmits, self.timeouts);
        self.advance(self.now + quiet_for)?;
        let sent = self.transmits - transmits;
        if sent > pings {
            return Err(Violation::new(
                "quiet at the end",
                format!("{sent} datagrams for {pings} pings"),
            ));
        }
        // One look at each client per keep-alive, and some for the rest.
        let wakes = self.timeouts - timeouts;
        let enough = 4 * pings + 20 * self.clients.len() + 100;
        if wakes > enough {
            return Err(Violation::new(
                "quiet at the end",
                format!("{wakes} timeouts in {quiet_for:?}"),
            ));
        }
        Ok(())
    }

    /// What was promised has come true.
    fn check_end(&mut self) -> Check {
        for (ix, station) in self.clients.iter().enumerate() {
            let client = &station.client;
            // What has one id is one client.
            let same = self
                .clients
                .iter()
                .filter(|other| other.client.config.id == client.config.id);
            let has = |payload: &Bytes| {
                same.clone()
                    .any(|s| s.client.delivered.iter().any(|d| d.payload == *payload))
            };
            let missing = self
                .reference
                .acknowledged_by(ClientIx(ix))
                .find(|payload| !has(payload));
            if let Some(payload) = missing {
                let detail = format!("{payload:?} at {}", client.config.id);
                return Err(Violation::new(
                    "what a client acknowledged reached its application",
                    detail,
                ));
            }
            for payload in &station.submitted {
                let Some(outcome) = client.outcomes.get(payload) else {
                    // Told to, but never connected or disconnected before its turn came.
                    if client.is_active() {
                        return Err(Violation::new(
                            "every message has an outcome",
                            format!("{payload:?}"),
                        ));
                    }
                    continue;
                };
                let refused = self.store.is_some() && self.reference.was_refused(payload);
                if *outcome == Outcome::Acknowledged && self.broker.count(payload) == 0 && !refused {
                    return Err(Violation::new(
                        "what was acknowledged arrived",
                        format!("{payload:?}"),
                    ));
                }
            }
            let mut seen = BTreeSet::new();
            for delivered in client
                .delivered
                .iter()
                .filter(|d| d.qos == QoS::ExactlyOnce && !d.payload.is_empty())
            {
                let again = !seen.insert(delivered.payload.clone());
                let routed = self.broker.count(&delivered.payload);
                // Without power it forgets what it had between PUBLISH and PUBREL.
                let certain = !self.reference.has_uncertain_copies(&delivered.payload)
                    && !self.reference.may_look_new(ClientIx(ix), &delivered.payload);
                let remembers =
                    client.power_losses == 0 && client.forgot_asleep == 0 && !self.reference.disk_failed;
                if again && certain && routed == 1 && !delivered.retain && remembers {
                    let detail = format!("{:?} at {}", delivered.payload, client.config.id);
                    return Err(Violation::new("QoS 2 reaches the application once", detail));
                }
            }
        }
        if self.store.is_some() && !self.reference.sessions_lost && !self.reference.disk_failed {
            for (payload, meant) in self.reference.exactly_once() {
                let routed = self.broker.count(payload);
                if routed > meant as usize {
                    let detail = format!("{payload:?} {routed} times, sent {meant} times");
                    return Err(Violation::new("QoS 2 reaches the broker once", detail));
                }
            }
        }
        self.check_leftovers()?;
        let (held, asked) = (self.reference.held_filters(), self.reference.asked_filters());
        let subscribed = self.broker.filters(ConnId(0));
        // What was asked for while the disk did not work a later life does not know, and cannot give back.
        let more = self.reference.disk_failed;
        if !(held.is_subset(&subscribed) && (more || subscribed.is_subset(&asked))) {
            let detail = format!("clients hold {held:?}, asked for {asked:?}, the gateway {subscribed:?}");
            return Err(Violation::new("subscribed upstream to what clients hold", detail));
        }
        for routed in &self.broker.log {
            let known = routed.origin == Origin::External || self.reference.knows(&routed.payload);
            if !known {
                return Err(Violation::new(
                    "nothing arrives that was not sent",
                    format!("{routed:?}"),
                ));
            }
        }
        Ok(())
    }

    /// The store keeps nothing of what is done.
    fn check_leftovers(&self) -> Check {
        let Some(store) = self.store.as_ref().filter(|_| !self.reference.disk_failed) else {
            return Ok(());
        };
        let all = store.expected();
        let has = |kind: u8, id: u64| all.contains_key(&StoreKey { kind, id });
        let mut progress = all.keys().filter(|key| key.kind == saved::kind::PROGRESS);
        let lonely = progress.find(|key| !has(saved::kind::MESSAGE, key.id >> 24 << 24));
        match lonely {
            None => Ok(()),
            Some(key) => Err(Violation::new(
                "nothing is kept of what is done",
                format!("{key:?}"),
            )),
        }
    }
}
