//! Shared subscriptions (MQTT 5 §4.8.2): each message goes to one member of a group.

use std::sync::Arc;

use sn_codec::QoS;

/// One session's subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subscriber {
    pub(crate) session: u32,
    /// Granted.
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    /// Subscription identifier.
    pub(crate) id: Option<u32>,
}

/// How well a member can take a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fitness {
    /// It has no place for it.
    Full,
    /// It has no connection but place in its queue.
    Away,
    /// It is connected but over its bound.
    Slow,
    /// It is connected and within its bound.
    Ready,
}

/// The sessions that share one filter under one name.
#[derive(Debug)]
pub(crate) struct Group {
    /// `$share/name/filter`.
    pub(crate) filter: Arc<str>,
    pub(crate) members: Vec<Subscriber>,
    /// Whose turn it is.
    next: usize,
}

impl Group {
    pub(crate) fn new(filter: &str) -> Self {
        Group {
            filter: filter.into(),
            members: Vec::new(),
            next: 0,
        }
    }

    /// The member to take the next message: by turns among the fittest of those that are at least `least` fit.
    pub(crate) fn choose(
        &mut self,
        least: Fitness,
        mut fitness: impl FnMut(&Subscriber) -> Fitness,
    ) -> Option<&Subscriber> {
        let count = self.members.len();
        let mut best = None;
        for turn in 0..count {
            let at = (self.next + turn) % count;
            let fit = fitness(&self.members[at]);
            if fit >= least && best.is_none_or(|(found, _)| fit > found) {
                best = Some((fit, at));
                if fit == Fitness::Ready {
                    break;
                }
            }
        }
        let (_, at) = best?;
        self.next = (at + 1) % count;
        Some(&self.members[at])
    }

    pub(crate) fn remove(&mut self, session: u32) -> bool {
        let Some(at) = self.members.iter().position(|member| member.session == session) else {
            return false;
        };
        self.members.remove(at);
        // The turn stays with whom it was.
        if at < self.next {
            self.next -= 1;
        }
        true
    }
}
