//! What happened to the broker's connections, and to what waits for them, that is to be told.

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use super::Upstream;
use crate::io::Notice;
use crate::metrics::SpoolDrop;
use crate::time::Instant;

/// Between two notices about messages that the same bound of the spool dropped: a full one drops one for each that
/// comes. Taste.
const DROPS: Duration = Duration::from_secs(10);

/// Notices that nobody has taken yet.
#[derive(Debug, Default)]
pub(super) struct Untold {
    /// Told at once.
    pub(super) notices: VecDeque<Notice>,
    drops: Vec<Drops>,
}

/// Messages dropped for one reason.
#[derive(Debug)]
struct Drops {
    reason: SpoolDrop,
    /// Since they were last told.
    messages: u64,
    last_topic: Arc<str>,
    /// Not before.
    next: Option<Instant>,
}

impl Untold {
    /// One more was dropped.
    pub(super) fn count(&mut self, reason: SpoolDrop, topic: Arc<str>) {
        match self.drops.iter_mut().find(|drops| drops.reason == reason) {
            Some(drops) => {
                drops.messages += 1;
                drops.last_topic = topic;
            }
            None => self.drops.push(Drops {
                reason,
                messages: 1,
                last_topic: topic,
                next: None,
            }),
        }
    }
}

impl Upstream {
    /// The next thing that is to be told now; all that is left when the gateway stops.
    pub(crate) fn poll_notice(&mut self, now: Instant) -> Option<Notice> {
        if let Some(notice) = self.untold.notices.pop_front() {
            return Some(notice);
        }
        let due = |drops: &&mut Drops| {
            drops.messages > 0 && (self.closing || drops.next.is_none_or(|next| now >= next))
        };
        let drops = self.untold.drops.iter_mut().find(due)?;
        drops.next = Some(now + DROPS);
        Some(Notice::SpoolDropped {
            reason: drops.reason,
            messages: core::mem::take(&mut drops.messages),
            topic: drops.last_topic.clone(),
        })
    }

    /// When [`Upstream::poll_notice`] is wanted.
    pub(crate) fn notice_at(&self) -> Option<Instant> {
        let untold = self.untold.drops.iter().filter(|drops| drops.messages > 0);
        untold.filter_map(|drops| drops.next).min()
    }
}
