//! A publish comes: it is refused, waits for its connection, or is stored first.

use core::time::Duration;

use bytes::Bytes;
use sn_codec::QoS;

use super::{Author, Origin, RequestKind, SUBSCRIPTIONS, Uplink, Upstream};
use crate::config::{Durability, SpoolFull, WhenDown};
use crate::durable::records::{Stage, UplinkRecord};
use crate::durable::{Journal, Waiting, uplink_key};
use crate::io::{ConnId, Notice};
use crate::time::Instant;

/// How long the first QoS 2 publishes wait for their connection before they count as spooled: their clients are told by
/// PUBREC that all is well, and cannot be told any more that the broker refuses them. Taste.
const OPENING: Duration = Duration::from_secs(2);

/// Between two notices about a full spool; taste.
pub(super) const FULL: Duration = Duration::from_secs(60);

/// There is no place for a publish: congestion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl Upstream {
    /// Takes a publish of a client, or says that there is no place for it. Returns its number in the store, if it has
    /// one.
    pub(crate) fn publish(
        &mut self,
        journal: &mut Journal,
        now: Instant,
        author: Author,
        origin: Origin,
        message: Uplink,
    ) -> Result<Option<u64>, Full> {
        let conn = self.connection_for(author, message.qos);
        if conn.0 == self.shared && self.exact_unopened {
            self.open_exact();
            let opening = self.is_up(SUBSCRIPTIONS).then_some(now + OPENING);
            self.connections[conn.0 as usize].opening = opening;
        }
        let up = self.connections[conn.0 as usize].is_there();
        let forgets = self.forgets();
        let backlogged = self.backlog_of.contains_key(&(conn, author));
        let tracked = message.qos > QoS::AtMostOnce;
        let spools = self.when_down == WhenDown::Spool && journal.is_on();
        let qos0 = journal.rules().is_some_and(|rules| rules.qos0);
        let refused = match tracked {
            // The connection for QoS 2 may be about to be opened.
            true => {
                let away = !up && !self.is_up(SUBSCRIPTIONS);
                away && self.when_down == WhenDown::Refuse && origin != Origin::Gateway
            }
            false => {
                let kept = spools && qos0;
                !up && !kept
            }
        };
        if refused {
            return Err(Full);
        }
        let wanted = match message.qos {
            QoS::AtMostOnce => spools && qos0 && (!up || backlogged),
            QoS::AtLeastOnce => spools && (!up || backlogged || forgets),
            // Exactly once, also over a restart: the broker is told under which packet id (durable/mod.rs).
            QoS::ExactlyOnce => journal.is_on(),
        };
        if wanted && journal.works() {
            return self.spool(journal, now, (conn, author), origin, message, !up || backlogged);
        }
        // While the disk does not work, what a broker does not have at once or may forget is not taken: nobody could be
        // answered for it. A will has nobody to answer.
        let unsafe_there = !up || forgets && origin != Origin::Gateway;
        let full = wanted && unsafe_there
            || self.waiting_messages >= self.queue_messages
            || self.waiting_bytes + message.size() > self.queue_bytes;
        if full {
            return Err(Full);
        }
        self.waiting_messages += 1;
        self.waiting_bytes += message.size();
        let key = self.insert_publish((conn, author), origin, message, now, None, true, backlogged);
        self.line_up(key);
        Ok(None)
    }

    /// Stores a publish. It is sent, or its client answered, once it is durable.
    fn spool(
        &mut self,
        journal: &mut Journal,
        now: Instant,
        (conn, author): (ConnId, Author),
        origin: Origin,
        message: Uplink,
        backlog: bool,
    ) -> Result<Option<u64>, Full> {
        if let Err(full) = self.make_room(journal, message.size()) {
            if let Some(suppressed) = self.full.allow(now) {
                let topic = message.topic;
                self.untold
                    .notices
                    .push_back(Notice::SpoolFull { topic, suppressed });
            }
            return Err(full);
        }
        let id = journal.new_id();
        let value = record(journal, author, &origin, &message, now).encode();
        journal.put(uplink_key(id), value.clone());
        self.spooled_messages += 1;
        self.spooled_bytes += message.size();
        let qos = message.qos;
        let key = self.insert_publish((conn, author), origin, message, now, Some(id), false, backlog);
        if qos == QoS::ExactlyOnce {
            self.keep_record(key, value);
        }
        self.line_up(key);
        // The journal works, so this waits.
        let _ = journal.wait(Waiting::Uplink(self.token(key)));
        Ok(Some(id))
    }

    /// Room in the store for one more, if there is any by its rules.
    pub(super) fn make_room(&mut self, journal: &mut Journal, size: usize) -> Result<(), Full> {
        let Some(rules) = journal.rules().cloned() else {
            return Ok(());
        };
        // Dropping others would not help.
        if size > rules.spool_bytes {
            return Err(Full);
        }
        while !self.has_room(&rules, size) {
            let dropped = rules.when_full == SpoolFull::DropOldest && self.drop_oldest(journal);
            if !dropped {
                return Err(Full);
            }
        }
        Ok(())
    }

    fn has_room(&self, rules: &Durability, size: usize) -> bool {
        self.spooled_messages < rules.spool_messages && self.spooled_bytes + size <= rules.spool_bytes
    }

    #[expect(clippy::too_many_arguments, reason = "one place that makes the entry")]
    pub(super) fn insert_publish(
        &mut self,
        (conn, author): (ConnId, Author),
        origin: Origin,
        message: Uplink,
        since: Instant,
        stored: Option<u64>,
        ready: bool,
        backlog: bool,
    ) -> usize {
        let seq = self.next_seq;
        self.next_seq += 1;
        if backlog {
            self.enter_backlog(conn, author);
        }
        let qos = message.qos;
        let key = self.insert(RequestKind::Publish {
            conn,
            seq,
            sent: false,
            origin,
            message,
            stored,
            ready,
            author,
            backlog,
            since,
            released: false,
            record: None,
        });
        if let (Some(id), QoS::ExactlyOnce) = (stored, qos) {
            self.exactly_once.insert(id, key);
        }
        key
    }

    pub(super) fn keep_record(&mut self, key: usize, value: Bytes) {
        if let RequestKind::Publish { record, .. } = &mut self.requests[key].kind {
            *record = Some(value);
        }
    }
}

/// A publish as it is stored before it is sent.
pub(super) fn record(
    journal: &Journal,
    author: Author,
    origin: &Origin,
    message: &Uplink,
    now: Instant,
) -> UplinkRecord {
    let client = match *origin {
        Origin::Client {
            serial,
            msg_id,
            digest,
            ..
        } => Some((serial, msg_id, digest)),
        Origin::Gateway => None,
    };
    UplinkRecord {
        stage: Stage::Pending,
        author: author.0,
        client,
        since_ms: journal.unix_ms(now),
        qos: message.qos,
        retain: message.retain,
        topic: message.topic.clone(),
        payload: message.payload.clone(),
    }
}
