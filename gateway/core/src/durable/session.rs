//! What is stored of a client, and when.

use super::records::{Place, SavedState, SavedSubscription, SessionRecord};
use super::session_key;
use crate::client::{Client, State, Unsaved};
use crate::context::Context;
use crate::time::Instant;

impl Client {
    /// Stores the client as it is now. Within a will handshake it is stored afterwards.
    pub(crate) fn save(&mut self, cx: &mut Context) {
        if !cx.journal.is_on() {
            self.unsaved = Unsaved::No;
            return;
        }
        let Some(state) = self.saved_state() else { return };
        let record = self.record(cx, state);
        if let Some(will) = &mut self.will {
            will.published_after = record.supervision();
        }
        cx.journal.put(session_key(self.serial), record.encode());
        (self.unsaved, self.saved) = (Unsaved::No, true);
    }

    /// Stores it now or puts it into the line of those that have time.
    pub(crate) fn save_if_due(&mut self, cx: &mut Context, now: Instant) {
        match self.unsaved {
            Unsaved::Urgent => {
                self.save(cx);
                cx.journal.hurry();
            }
            Unsaved::Lazy if cx.journal.is_on() => {
                self.unsaved = Unsaved::InLine;
                cx.journal.lazy.push((self.ix, self.serial));
                cx.journal.lazy_since.get_or_insert(now);
            }
            Unsaved::Lazy => self.unsaved = Unsaved::No,
            Unsaved::InLine | Unsaved::No => {}
        }
    }

    /// The record is removed: nothing of it stays stored.
    pub(crate) fn forget_saved(&mut self, cx: &mut Context) {
        if self.saved {
            cx.journal.delete(session_key(self.serial));
            cx.journal.hurry();
        }
    }

    fn saved_state(&self) -> Option<SavedState> {
        Some(match &self.state {
            State::Active => SavedState::Active,
            State::Asleep { duration } => SavedState::Asleep { duration: *duration },
            State::Awake(wake) => SavedState::Asleep {
                duration: wake.duration,
            },
            State::Disconnected => SavedState::Disconnected,
            State::Lost => SavedState::Lost,
            State::Setup(_) | State::Gone => return None,
        })
    }

    fn record(&self, cx: &mut Context, state: SavedState) -> SessionRecord {
        let place = self.via.as_ref().map(|via| Place {
            link: cx.journal.link_name(via.link),
            addr: via.route.addr.clone(),
            socket: via.route.local.socket,
            node: via.node.clone(),
        });
        let subscriptions = self.subscriptions.iter().filter_map(|mine| {
            let filter = cx.subscriptions.get_mut(mine.filter)?;
            let own = filter.subscribers.get(self.ix)?;
            Some(SavedSubscription {
                filter: filter.name.clone(),
                id: filter.id,
                form: mine.form,
                asked: own.asked,
            })
        });
        let subscriptions = subscriptions.collect();
        SessionRecord {
            id: self.id.clone(),
            clean: self.clean,
            asked_for_will: self.asked_for_will,
            misled: self.misled,
            no_dup: self.down.no_dup,
            no_register: self.down.no_register,
            answers_register: self.down.answers_register,
            keep_alive: self.keep_alive,
            state,
            seen_ms: cx.journal.unix_ms(self.last_seen),
            place,
            will: self.will.as_deref().cloned(),
            next_topic_id: self.topics.stored_next(),
            topics: self.topics.normal().to_vec(),
            subscriptions,
        }
    }
}
