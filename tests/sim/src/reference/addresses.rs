//! The address a client is at: who may take a session elsewhere (A11, A16), and how many nodes a forwarder may have (A82).

use gateway_core::config::AddressChange;
use gateway_core::time::Instant;
use sn_codec::Connect;

use super::Reference;
use super::client::{ClientModel, Phase};
use super::violation::{Check, Violation, ensure};
use crate::admission::{Challenge, Verdict};
use crate::{Address, ClientIx};

impl Reference {
    /// A CONNECT: true if the client is there from now on.
    pub(super) fn lets_connect(
        &mut self,
        now: Instant,
        ix: usize,
        from: &Address,
        connect: Connect<'_>,
        verdict: Verdict,
    ) -> Result<bool, Violation> {
        let (certain, possible) = self.nodes_besides(ix);
        let max_nodes = self.forwarders.max_nodes().filter(|_| from.node.is_some());
        let client = &mut self.clients[ix];
        let behind = client.bound.as_ref().is_some_and(|bound| bound.node.is_some());
        let elsewhere = client.bound.as_ref().is_some_and(|bound| bound != from);
        let connected = elsewhere && client.phase.is_connected() && !client.gone;
        let maybe_connected = elsewhere && !matches!(client.phase, Phase::None | Phase::Lost);
        let told = || {
            format!(
                "{connect:?} from {from}, {:?} at {:?}, {possible} other nodes, {max_nodes:?} allowed",
                client.phase, client.bound
            )
        };
        let full = max_nodes.is_some_and(|max| possible >= max);
        let (may_refuse, must_refuse) = match self.config.address_change {
            AddressChange::Strict => (maybe_connected, connected),
            AddressChange::Guarded => {
                let other = client
                    .challenge
                    .as_ref()
                    .is_some_and(|challenge| challenge.from != *from);
                (other && elsewhere, other && elsewhere)
            }
            AddressChange::Open => (false, false),
        };
        if verdict.refused {
            // A node that makes room by moving within the forwarder is let in.
            ensure(may_refuse || full, "nobody is refused without a reason", told)?;
            client.bad_connects += u32::from(!elsewhere);
            return Ok(false);
        }
        ensure(!must_refuse, "a session stays where it is (A11)", told)?;
        let crowded = max_nodes.is_some_and(|max| certain >= max) && !behind;
        ensure(!crowded, "a forwarder has no more nodes than allowed (A82)", told)?;
        if self.config.address_change == AddressChange::Guarded && connected && client.phase == Phase::Active
        {
            match &mut client.challenge {
                Some(challenge) => {
                    (challenge.will, challenge.clean_session) = (connect.will, connect.clean_session);
                    challenge.duration = connect.duration;
                }
                None => client.challenge = Some(Challenge::new(now, from, connect, &self.config)),
            }
            return Ok(false);
        }
        client.challenge = None;
        client.on_connect(now, from, connect);
        Ok(true)
    }

    /// A PINGREQ with the client's id: its network may have given it another address while it slept (A16).
    pub(super) fn lets_wake(&mut self, ix: usize, from: &Address, verdict: Verdict) -> Check {
        let (_, possible) = self.nodes_besides(ix);
        let max_nodes = self.forwarders.max_nodes().filter(|_| from.node.is_some());
        let client = &mut self.clients[ix];
        let sleeps = matches!(client.phase, Phase::Asleep | Phase::Awake) && !client.gone;
        if !sleeps || client.bound.as_ref() == Some(from) {
            return Ok(());
        }
        let strict = self.config.address_change == AddressChange::Strict;
        let full = max_nodes.is_some_and(|max| possible >= max);
        let right = if verdict.moved { !strict } else { strict || full };
        ensure(right, "a sleeper wakes where it is (A16)", || {
            format!("{} at {from}: {verdict:?}", client.id)
        })?;
        if verdict.moved {
            client.bound = Some(from.clone());
        }
        Ok(())
    }

    /// Other clients behind forwarders: those that are connected, and those whose record may still be bound there.
    fn nodes_besides(&self, ix: usize) -> (usize, usize) {
        let others = self.clients.iter().enumerate().filter(|(at, _)| *at != ix);
        let behind = others
            .map(|(_, client)| client)
            .filter(|client| client.bound.as_ref().is_some_and(|bound| bound.node.is_some()));
        let connected = |client: &&ClientModel| client.phase.is_connected() && !client.gone;
        (behind.clone().filter(connected).count(), behind.count())
    }

    /// The gateway sends to a client there.
    pub fn is_bound(&self, client: ClientIx, address: &Address) -> bool {
        self.model(client).bound.as_ref() == Some(address)
    }
}

impl ClientModel {
    /// A guarded session moves in time if the old address does not answer (A11).
    pub(super) fn end_challenge(&mut self, now: Instant) {
        // A11: no answer from the old address.
        if let Some(challenge) = self.challenge.take_if(|challenge| now >= challenge.until) {
            let id = self.id.clone();
            self.on_connect(challenge.until, &challenge.from, challenge.connect(&id));
            self.heard(challenge.until);
            self.fresh = true;
        }
    }
}
