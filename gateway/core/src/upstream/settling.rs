//! A request ends: the broker answered it, or the session it was sent in is lost. What is stored of it goes when
//! nobody needs it any more.

use sn_codec::QoS;

use super::request::Stored;
use super::{Author, Request, RequestKind, Settled, Uplink, Upstream};
use crate::durable::{Journal, Waiting, receiving_key, uplink_key};
use crate::io::Token;
use crate::time::Instant;

impl Upstream {
    /// The broker answered under `token`; `None` if nobody waits for that any more.
    pub(crate) fn settle(&mut self, token: Token, refused: bool) -> Option<Settled> {
        let key = self.key_of(token)?;
        if matches!(self.requests[key].kind, RequestKind::Settled { .. }) {
            return None;
        }
        let request = self.requests.remove(key);
        self.restoring -= usize::from(request.restores);
        Some(match request.kind {
            RequestKind::Publish {
                conn,
                seq,
                sent,
                origin,
                message,
                stored,
                author,
                backlog,
                since,
                released,
                ..
            } => {
                if sent {
                    let connection = &mut self.connections[conn.0 as usize];
                    connection.answered();
                    connection.backlog.settled(seq, author);
                } else {
                    // Reported lost and settled all the same: it must not go out again.
                    self.take_out(conn, backlog, (seq, key), author);
                    if stored.is_none() {
                        self.forget_waiting(&message);
                    }
                }
                if backlog {
                    self.leave_backlog(conn, author);
                }
                let stored = stored.map(|id| Stored {
                    id,
                    size: message.size(),
                    qos: message.qos,
                    released,
                });
                let done = refused || !self.connections[conn.0 as usize].forgets;
                if let (Some(stored), false) = (stored, done) {
                    self.keep_settled(token, key, stored, message.clone(), since, author);
                }
                Settled::Publish {
                    origin,
                    author,
                    topic: message.topic,
                    stored,
                    done,
                }
            }
            RequestKind::Subscribe { filter, .. } => Settled::Subscribe { filter },
            RequestKind::Unsubscribe { filter, .. } => Settled::Unsubscribe { filter },
            RequestKind::Settled { .. } => return None,
        })
    }

    /// Keeps the place of a settled publish, so that its token still names what is stored of it.
    fn keep_settled(
        &mut self,
        token: Token,
        key: usize,
        stored: Stored,
        message: Uplink,
        since: Instant,
        author: Author,
    ) {
        // It was removed just now, so it is the place that is filled next.
        let place = self.requests.insert(Request {
            generation: (token.0 >> 32) as u32,
            restores: false,
            breaks: 0,
            kind: RequestKind::Settled {
                stored,
                message,
                since,
                author,
            },
        });
        self.held.insert(stored.id, place);
        debug_assert_eq!(place, key, "the place that was freed last");
    }

    /// The session that carried this request is gone: a publish goes out again in its old place, under its old
    /// token; the rest is for the filter table to ask again.
    pub(crate) fn lost(&mut self, token: Token) -> Option<Settled> {
        let key = self.key_of(token)?;
        let RequestKind::Publish {
            conn,
            seq,
            sent,
            message,
            stored,
            author,
            backlog,
            ..
        } = &mut self.requests[key].kind
        else {
            return self.settle(token, false);
        };
        if !*sent {
            return None;
        }
        *sent = false;
        if stored.is_none() {
            self.waiting_messages += 1;
            self.waiting_bytes += message.size();
        }
        let connection = &mut self.connections[conn.0 as usize];
        connection.answered();
        match backlog {
            true => connection.backlog.lost((*seq, key), *author),
            false => self.line_up(key),
        }
        None
    }

    /// The client has released its QoS 2 publish. False if the broker has it and nothing of it is stored here: then
    /// what is kept of the client can go.
    pub(crate) fn release(&mut self, stored: u64) -> bool {
        let key = self.exactly_once.get(&stored).copied();
        match key
            .and_then(|key| self.requests.get_mut(key))
            .map(|request| &mut request.kind)
        {
            Some(RequestKind::Publish { released, .. }) => {
                *released = true;
                true
            }
            Some(RequestKind::Settled { stored, .. }) => {
                stored.released = true;
                true
            }
            _ => false,
        }
    }

    /// Everybody has a publish that was settled before.
    pub(crate) fn delivered(&mut self, journal: &mut Journal, token: Token) {
        if let Some(key) = self.key_of(token)
            && let RequestKind::Settled { stored, .. } = self.requests[key].kind
        {
            self.requests.remove(key);
            self.held.remove(&stored.id);
            self.forget_stored(journal, stored);
        }
    }

    /// A stored publish is done with. What is kept of its client goes after it, not before: else it would be sent again
    /// as another message.
    pub(crate) fn forget_stored(&mut self, journal: &mut Journal, stored: Stored) {
        self.spooled_messages -= 1;
        self.spooled_bytes -= stored.size;
        let key = uplink_key(stored.id);
        match stored.qos {
            QoS::AtMostOnce | QoS::AtLeastOnce => journal.delete(key),
            QoS::ExactlyOnce => {
                self.exactly_once.remove(&stored.id);
                let then = stored.released.then(|| receiving_key(stored.id));
                // What its client was told stands in the store first. If the disk does not work, later.
                let _ = journal.wait(Waiting::Forget(key, then));
            }
        }
    }

    pub(super) fn forget_waiting(&mut self, message: &Uplink) {
        self.waiting_messages -= 1;
        self.waiting_bytes -= message.size();
    }
}
