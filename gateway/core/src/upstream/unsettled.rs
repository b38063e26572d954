//! What the disk and a lost connection mean for publishes that wait or are under way: which are stored after all, and
//! when their clients are answered.

use sn_codec::QoS;

use super::admission::record;
use super::request::Stored;
use super::{Origin, RequestKind, Settled, Upstream};
use crate::config::WhenDown;
use crate::durable::{Journal, Waiting, uplink_key};
use crate::io::{ConnId, Token};
use crate::time::Instant;

impl Upstream {
    /// A stored publish is durable: it may be sent. `Some`: the broker does not get it soon, so that its client is
    /// answered now.
    pub(crate) fn on_durable(&mut self, token: Token) -> Option<Settled> {
        let key = self.key_of(token)?;
        let RequestKind::Publish {
            conn,
            origin,
            message,
            stored,
            ready,
            backlog,
            author,
            ..
        } = &mut self.requests[key].kind
        else {
            return None;
        };
        *ready = true;
        let up = self.connections[conn.0 as usize].is_there();
        if up && !*backlog {
            return None;
        }
        let stored = stored.map(|id| Stored {
            id,
            size: message.size(),
            qos: message.qos,
            released: false,
        });
        Some(Settled::Publish {
            origin: core::mem::replace(origin, Origin::Gateway),
            author: *author,
            topic: message.topic.clone(),
            stored,
            done: false,
        })
    }

    /// The disk does not work: what waits for it and can go out all the same does. What a broker may forget cannot.
    pub(crate) fn on_store_failed(&mut self) {
        if self.forgets() {
            return;
        }
        for (_, request) in &mut self.requests {
            if let RequestKind::Publish { ready, .. } = &mut request.kind {
                *ready = true;
            }
        }
    }

    /// The disk works again: what waits for a broker that is away is spooled after all.
    pub(crate) fn on_store_works(&mut self, journal: &mut Journal, now: Instant) {
        for conn in (0..self.connections.len() as u32).map(ConnId) {
            if !self.is_up(conn) {
                self.spool_unsettled(journal, now, conn);
            }
        }
    }

    /// The connection broke: what the broker may not have is stored, so that its clients can be answered.
    pub(crate) fn spool_unsettled(&mut self, journal: &mut Journal, now: Instant, conn: ConnId) {
        if !journal.works() {
            return;
        }
        let spools = self.when_down == WhenDown::Spool;
        let mut keys: Vec<(u64, usize)> = Vec::new();
        for (key, request) in &self.requests {
            if let RequestKind::Publish {
                conn: of,
                seq,
                stored,
                backlog,
                message,
                ..
            } = &request.kind
                && *of == conn
                && (stored.is_some() && !*backlog || stored.is_none() && spools)
                && message.qos > QoS::AtMostOnce
            {
                keys.push((*seq, key));
            }
        }
        keys.sort_unstable();
        for (_, key) in keys {
            self.spool_old(journal, now, key);
        }
        self.follow_spooled(conn);
        let Upstream {
            connections,
            requests,
            ..
        } = self;
        let connection = &mut connections[conn.0 as usize];
        let mut moved = Vec::new();
        connection.waiting.retain(|key| match requests[*key].kind {
            RequestKind::Publish {
                seq,
                author,
                backlog: true,
                ..
            } => {
                moved.push(((seq, *key), author));
                false
            }
            _ => true,
        });
        for (place, author) in moved {
            connection.backlog.insert(place, author);
        }
    }

    /// What is not stored keeps to the lane of what its client has in the store, so that its order holds.
    fn follow_spooled(&mut self, conn: ConnId) {
        let Upstream {
            requests, backlog_of, ..
        } = self;
        for (_, request) in requests {
            if let RequestKind::Publish {
                conn: of,
                author,
                backlog: backlog @ false,
                message,
                ..
            } = &mut request.kind
                && *of == conn
                && message.qos > QoS::AtMostOnce
                && let Some(count) = backlog_of.get_mut(&(conn, *author))
            {
                *backlog = true;
                *count += 1;
            }
        }
    }

    /// Stores one that was sent, or waits, without being stored. What is stored is answered now, and goes before what
    /// its client sends from now on.
    pub(super) fn spool_old(&mut self, journal: &mut Journal, now: Instant, key: usize) {
        let token = self.token(key);
        let Some(RequestKind::Publish {
            conn,
            sent,
            origin,
            message,
            stored,
            author,
            backlog,
            ..
        }) = self.requests.get_mut(key).map(|request| &mut request.kind)
        else {
            return;
        };
        let (conn, author, size, waits) = (*conn, *author, message.size(), !*sent);
        let enters = !core::mem::replace(backlog, true);
        let is_stored = stored.is_some();
        if !is_stored {
            let id = journal.new_id();
            let value = record(journal, author, origin, message, now).encode();
            journal.put(uplink_key(id), value);
            *stored = Some(id);
        }
        if enters {
            self.enter_backlog(conn, author);
        }
        if is_stored {
            // The journal works, so this waits.
            let _ = journal.wait(Waiting::Uplink(token));
            return;
        }
        self.spooled_messages += 1;
        self.spooled_bytes += size;
        if waits {
            self.waiting_messages -= 1;
            self.waiting_bytes -= size;
        }
        // The journal works, so this waits.
        let _ = journal.wait(Waiting::Uplink(token));
    }
}
