//! What is durable by now, and what nobody waits for that is written with something else.

use core::sync::atomic::Ordering;
use core::time::Duration;

use super::Gateway;
use crate::client::Unsaved;
use crate::durable::{Waiting, progress_key};
use crate::io::StoreEvent;
use crate::time::Instant;
use crate::upstream::Settled;

/// Changes that nobody waits for are written after this at the latest: a client that fell asleep is taken for one that is
/// there, and the other way round, for that long after a power cut; both put themselves right.
const LAZY: Duration = Duration::from_secs(600);

impl Gateway {
    /// The store reports.
    pub fn handle_store(&mut self, now: Instant, event: StoreEvent) {
        self.cx.links.now = now;
        match event {
            StoreEvent::Durable(ticket) => {
                while let Some(waiting) = self.cx.journal.next_durable(ticket) {
                    self.on_durable(now, waiting);
                }
            }
            StoreEvent::Failed => {
                self.status.changed(now);
                for waiting in self.cx.journal.fail() {
                    self.on_durable(now, waiting);
                }
                self.cx.upstream.on_store_failed();
            }
            StoreEvent::Works => {
                self.status.changed(now);
                self.cx.journal.recover();
                self.cx.upstream.on_store_works(&mut self.cx.journal, now);
            }
            event @ (StoreEvent::AirtimeStored(_)
            | StoreEvent::AirtimeNotStored(_)
            | StoreEvent::AirtimeFound(..)) => {
                if let Some(notice) = self.cx.links.on_store(now, event) {
                    self.cx.notice(notice);
                }
            }
        }
    }

    fn on_durable(&mut self, now: Instant, waiting: Waiting) {
        let (ix, serial) = match waiting {
            Waiting::Ack { conn, delivery } => return self.cx.upstream.acknowledge(conn, delivery),
            Waiting::Complete { conn, delivery } => return self.cx.upstream.complete(conn, delivery),
            Waiting::Subscription(token) => return self.cx.upstream.release_subscription(token),
            Waiting::Uplink(token) => {
                if let Some(Settled::Publish { origin, topic, .. }) = self.cx.upstream.on_durable(token) {
                    self.cx.metrics.publish_spooled_total += 1;
                    self.answer_publisher(now, origin, topic, Ok(()));
                }
                return;
            }
            Waiting::Message(message, clients) => {
                if let Some(stored) = &message.stored {
                    stored.unsure.store(false, Ordering::Relaxed);
                }
                for (ix, serial) in clients {
                    if self.clients.get(ix).is_some_and(|client| client.serial == serial) {
                        self.after(now, ix);
                    }
                }
                return;
            }
            Waiting::Forget(key, then) => {
                self.cx.journal.delete(key);
                if let Some(then) = then {
                    // If the disk does not work, later.
                    let _ = self.cx.journal.wait(Waiting::Forget(then, None));
                }
                return;
            }
            Waiting::ForgetProgress(id, recipients) => {
                for recipient in 0..recipients {
                    self.cx.journal.delete(progress_key(id, recipient));
                }
                return;
            }
            Waiting::Reply { client, serial, .. }
            | Waiting::Suback { client, serial, .. }
            | Waiting::Exchange { client, serial, .. } => (client, serial),
        };
        let Some(client) = self.clients.get_mut(ix).filter(|client| client.serial == serial) else {
            return;
        };
        match waiting {
            Waiting::Reply {
                reply, taken_back, ..
            } if client.state.is_connected() && client.taken_back == taken_back => {
                client.reply_promised(&mut self.cx, reply);
            }
            Waiting::Suback {
                number,
                filter,
                msg_id,
                granted,
                ..
            } if client.open.has_subscribe(number) => {
                client.suback(&mut self.cx, filter, msg_id, Ok(granted));
            }
            Waiting::Exchange { msg_id, .. } => client.release_exchange(msg_id),
            _ => {}
        }
        self.after(now, ix);
    }

    /// Before a commit: what had time goes with it.
    pub(super) fn save_lazily_changed(&mut self) {
        if !self.cx.journal.is_urgent() {
            return;
        }
        self.cx.journal.lazy_since = None;
        for (ix, serial) in core::mem::take(&mut self.cx.journal.lazy) {
            if let Some(client) = self.clients.get_mut(ix)
                && client.serial == serial
                && client.unsaved == Unsaved::InLine
            {
                client.unsaved = Unsaved::Lazy;
                client.save(&mut self.cx);
            }
        }
    }

    /// When what nobody waits for is written at the latest.
    pub(super) fn lazy_at(&self) -> Option<Instant> {
        let since = self.cx.journal.lazy_since?;
        Some(since + LAZY)
    }
}
