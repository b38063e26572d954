//! What the broker refuses for now (reading A50): a message whose client has its answer goes out again later.

use core::time::Duration;
use std::sync::Arc;

use super::{Origin, RequestKind, Upstream};
use crate::config::WhenDown;
use crate::durable::Journal;
use crate::gateway::Gateway;
use crate::io::{Notice, Token};
use crate::time::Instant;

/// Between two notices about it; taste.
pub(super) const NOTICE: Duration = Duration::from_secs(60);

impl Gateway {
    /// The broker does not take a publish for now. False if it is for its client to send it again.
    pub(crate) fn postpone(&mut self, now: Instant, token: Token) -> bool {
        let origin = self.cx.upstream.origin_of(token);
        if origin.is_none_or(|origin| self.is_awaited(origin)) {
            return false;
        }
        let cx = &mut self.cx;
        let Some(topic) = cx.upstream.postpone(&mut cx.journal, now, token) else {
            return false;
        };
        cx.metrics.publish_postponed_total += 1;
        if let Some(suppressed) = cx.upstream.postponed.allow(now) {
            cx.notice(Notice::PublishPostponed { topic, suppressed });
        }
        true
    }

    fn is_awaited(&self, origin: Origin) -> bool {
        let Origin::Client {
            client,
            serial,
            msg_id,
            digest,
        } = origin
        else {
            return false;
        };
        let client = self.clients.get(client).filter(|client| client.serial == serial);
        client.is_some_and(|client| client.open.awaits(msg_id, digest))
    }
}

impl Upstream {
    /// Who waits for the outcome of a publish.
    fn origin_of(&self, token: Token) -> Option<Origin> {
        match self.requests.get(self.key_of(token)?)?.kind {
            RequestKind::Publish { origin, .. } => Some(origin),
            _ => None,
        }
    }

    /// Puts a publish back in its lane, which is in the store or can be, and returns its topic.
    fn postpone(&mut self, journal: &mut Journal, now: Instant, token: Token) -> Option<Arc<str>> {
        let key = self.key_of(token)?;
        let RequestKind::Publish {
            origin,
            sent,
            stored,
            message,
            ..
        } = &self.requests.get(key)?.kind
        else {
            return None;
        };
        let topic = message.topic.clone();
        // Reported lost before, so it waits already.
        if !sent {
            return Some(topic);
        }
        if stored.is_none() {
            // A will: from now on it is kept as if the broker had been away.
            let (size, spools) = (message.size(), self.when_down == WhenDown::Spool);
            let will = *origin == Origin::Gateway;
            if !will || !spools || !journal.works() || self.make_room(journal, size).is_err() {
                return None;
            }
            self.spool_old(journal, now, key);
        }
        let request = self.requests.get_mut(key)?;
        // It was answered, so it is not over this that the connection breaks (reading A84).
        request.breaks = 0;
        let RequestKind::Publish {
            conn,
            seq,
            sent,
            author,
            backlog,
            ..
        } = &mut request.kind
        else {
            return None;
        };
        *sent = false;
        let (conn, seq, author) = (*conn, *seq, *author);
        if !core::mem::replace(backlog, true) {
            self.enter_backlog(conn, author);
        }
        let connection = &mut self.connections[conn.0 as usize];
        connection.answered();
        connection.backlog.postpone(now, (seq, key), author);
        Some(topic)
    }

    /// When [`Upstream::look_at_held`] is wanted.
    pub(crate) fn held_until(&self) -> Option<Instant> {
        let connections = self.connections.iter();
        connections
            .filter_map(|connection| connection.backlog.due_at())
            .min()
    }

    /// What waited since the broker did not take it may go out again.
    pub(crate) fn look_at_held(&mut self, now: Instant) {
        for connection in &mut self.connections {
            connection.backlog.look_at_held(now);
        }
    }
}
