//! Retained messages (MQTT 5 §3.3.1.3).

use core::ops::Bound;
use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_core::time::Instant;

use super::filters::Filter;
use super::packet::Message;

/// The last message of each topic that was published to be kept, in the order of the topics.
#[derive(Debug)]
pub(crate) struct Retained {
    messages: BTreeMap<Arc<str>, Kept>,
    max: usize,
    /// When the first of them expires, or earlier.
    expires: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) message: Arc<Message>,
    pub(crate) expires: Option<Instant>,
}

/// There are too many already.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Retained {
    pub(crate) fn new(max: usize) -> Self {
        Retained {
            messages: BTreeMap::new(),
            max,
            expires: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Replaces the topic's message; one without a payload removes it (MQTT-3.3.1-6, MQTT-3.3.1-7).
    pub(crate) fn set(
        &mut self,
        now: Instant,
        message: &Arc<Message>,
        expires: Option<Instant>,
    ) -> Result<(), Full> {
        if message.payload.is_empty() {
            self.messages.remove(&message.topic);
            return Ok(());
        }
        if self.messages.len() >= self.max && !self.messages.contains_key(&message.topic) {
            self.purge(now);
            if self.messages.len() >= self.max {
                return Err(Full);
            }
        }
        if let Some(at) = expires {
            self.expires = Some(self.expires.map_or(at, |first| first.min(at)));
        }
        let message = message.clone();
        self.messages
            .insert(message.topic.clone(), Kept { message, expires });
        Ok(())
    }

    /// The next message that a filter matches, by topic, after that of an earlier call.
    pub(crate) fn next(&self, now: Instant, filter: &Filter<'_>, after: Option<&Arc<str>>) -> Option<&Kept> {
        let live = |kept: &&Kept| kept.expires.is_none_or(|expires| expires > now);
        if !filter.has_wildcard() {
            let kept = after.is_none().then(|| self.messages.get(filter.pattern))??;
            return Some(kept).filter(live);
        }
        let prefix = filter.prefix();
        let from = after.map_or(Bound::Included(prefix), |topic| Bound::Excluded(&**topic));
        self.messages
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(topic, _)| topic.starts_with(prefix))
            .filter(|(topic, _)| filter.matches(topic))
            .map(|(_, kept)| kept)
            .find(live)
    }

    fn purge(&mut self, now: Instant) {
        if self.expires.is_none_or(|expires| expires > now) {
            return;
        }
        self.messages
            .retain(|_, kept| kept.expires.is_none_or(|expires| expires > now));
        self.expires = self.messages.values().filter_map(|kept| kept.expires).min();
    }
}
