//! Which id stands for which name: an id never changes its name (A35), it is confirmed in each connection before it is used
//! (A39), and what follows when a client refuses or does not answer a REGISTER (A40).

use gateway_core::config::{ClientRule, GatewayConfig};
use gateway_core::time::Instant;
use sn_codec::{MsgId, MsgType, Regack, Register, ReturnCode, TopicFilter, TopicId};

use super::Reference;
use super::client::ClientModel;
use super::exchanges::{DownKind, Next, swapped};
use super::violation::{Check, ensure};
use crate::ClientIx;

impl Reference {
    /// The gateway sends a REGISTER.
    pub(super) fn on_register(&mut self, now: Instant, ix: usize, register: Register<'_>) -> Check {
        let first_retry = self.config.timers.retry_first;
        let sends_per_round = u32::from(self.config.timers.retry_count) + 1;
        let client = &mut self.clients[ix];
        ensure(!register.topic_id.is_reserved(), "REGISTER has an id", || {
            format!("{register:?}")
        })?;
        let known = client
            .names
            .entry(register.topic_id)
            .or_insert_with(|| register.topic_name.into());
        ensure(
            known == register.topic_name,
            "an id never changes its name (A35)",
            || {
                format!(
                    "{} of {} was {known}, now {}",
                    register.topic_id, client.id, register.topic_name
                )
            },
        )?;
        let next = Next {
            kind: DownKind::Register,
            msg_id: register.msg_id,
            payload: None,
            topic: register.topic_name,
            dup: None,
            expires: now + self.config.sleep.max_age,
        };
        self.given_up += client.exchange(now, &next, first_retry, sends_per_round)?;
        Ok(())
    }

    /// From now on a client may take the id of one topic for that of another.
    pub fn confuse_ids(&mut self, client: ClientIx) {
        self.clients[self.models[client.0]].ids_collided = true;
    }
}

impl ClientModel {
    /// The gateway answers a REGISTER.
    pub(super) fn on_regack(&mut self, regack: Regack) -> Check {
        self.pay(MsgType::Regack, regack.msg_id)?;
        if regack.return_code != ReturnCode::Accepted {
            return Ok(());
        }
        let Some(name) = self.registers.get(&regack.msg_id).cloned() else {
            return Ok(());
        };
        self.learn(regack.topic_id, &name)
    }

    /// The client is told an id.
    pub(super) fn learn(&mut self, id: TopicId, name: &str) -> Check {
        ensure(!id.is_reserved(), "an id is not reserved", || {
            format!("{id} for {name}")
        })?;
        let stale = self.stale_names.get(&id).filter(|old| *old != name);
        self.ids_collided |= stale.is_some();
        if stale.is_some() && stale == self.names.get(&id) {
            self.names.remove(&id);
        }
        let known = self.names.entry(id).or_insert_with(|| name.into());
        ensure(known == name, "an id never changes its name (A35)", || {
            format!("{id} of {} was {known}, now {name}", self.id)
        })?;
        self.confirmed.insert(id);
        self.told.insert(name.into());
        Ok(())
    }

    /// The client answers a REGISTER.
    pub(super) fn on_client_regack(&mut self, mut regack: Regack) {
        self.answers_register = true;
        self.ignores_register = false;
        if self.quirks.swaps_acks {
            (regack.topic_id, regack.msg_id) = swapped(regack.topic_id, regack.msg_id);
        }
        if let Some(down) = &self.down
            && down.kind == DownKind::Register
            && down.msg_id == regack.msg_id
            && !down.closed
        {
            let topic = down.topic.clone();
            if regack.return_code == ReturnCode::Accepted {
                self.confirmed.insert(regack.topic_id);
                // What the last life asked under this message id may be answered only now.
                let named = self
                    .names
                    .iter()
                    .filter(|(_, name)| **name == topic && self.restored);
                self.confirmed.extend(named.map(|(id, _)| *id));
                self.told.insert(topic);
            } else {
                self.owed.retain(|_, owed| owed.topic != topic);
                self.refused_names.insert(topic);
            }
            self.close(DownKind::Register, regack.msg_id);
        }
    }

    /// Whether a PUBLISH may name an id: it is confirmed in this connection (A39), or will not be.
    pub(super) fn may_be_sent(&self, id: TopicId, name: &str, msg_id: MsgId) -> bool {
        // A40: after Nretry an id that the client was ever told is used all the same.
        let unanswered = self.down.as_ref().is_some_and(|d| {
            let silent = d.kind == DownKind::Register && !d.closed && d.given_up(self.sends_per_round);
            silent && (d.topic == name || !self.answers_register)
        });
        let repeated = self
            .down
            .as_ref()
            .is_some_and(|d| !d.closed && !d.stale && d.payload.is_some() && d.msg_id == msg_id);
        self.confirmed.contains(&id) || self.ignores_register || unanswered || repeated
    }

    /// A REGISTER was given up. Who never answered one is sent none any more, so what needs one is dropped (A40), and
    /// perhaps what the REGISTER was for. Returns how many messages.
    pub(super) fn register_unanswered(&mut self, topic: Option<&str>) -> usize {
        self.ignores_register |= !self.answers_register;
        let skips = self.ignores_register;
        let unknown = |topic: &String| !self.told.contains(topic);
        let before = self.owed.len();
        self.owed.retain(|_, owed| {
            let needs_register = skips && unknown(&owed.topic);
            Some(owed.topic.as_str()) != topic && !needs_register
        });
        before - self.owed.len()
    }
}

/// Full names behind predefined ids and short names.
pub(super) struct Names<'a> {
    pub(super) rules: &'a [ClientRule],
    pub(super) config: &'a GatewayConfig,
}

impl Names<'_> {
    pub(super) fn predefined(&self, client: &str, id: TopicId) -> Option<String> {
        let of_rule = self
            .rules
            .iter()
            .find(|rule| glob(&rule.pattern, client))
            .map(|rule| &rule.predefined);
        of_rule
            .into_iter()
            .flatten()
            .chain(&self.config.predefined)
            .find(|entry| entry.id == id)
            .map(|entry| entry.topic.replace("{client_id}", client))
    }

    pub(super) fn filter(&self, client: &str, topic: TopicFilter<'_>) -> Option<String> {
        match topic {
            TopicFilter::Name(name) => Some(name.into()),
            TopicFilter::Predefined(id) => self.predefined(client, id),
            TopicFilter::Short(short) => short.as_str().map(String::from),
        }
    }
}

/// `*` for any number of characters, `?` for one.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.chars().next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = &pattern[1..];
            text.char_indices()
                .map(|(at, _)| at)
                .chain([text.len()])
                .any(|at| glob(rest, &text[at..]))
        }
        Some(first) => {
            let mut chars = text.chars();
            chars.next().is_some_and(|c| first == '?' || c == first)
                && glob(&pattern[first.len_utf8()..], chars.as_str())
        }
    }
}
