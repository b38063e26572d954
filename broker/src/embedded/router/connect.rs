//! CONNECT, and how connections and sessions end.

use core::time::Duration;
use std::sync::Arc;

use gateway_core::time::Instant;
use rand::RngExt;

use super::Router;
use crate::embedded::filters::{Filter, is_sys, is_topic_name};
use crate::embedded::packet::{ClientKey, Connect, Reply, Will, reason};
use crate::embedded::session::{Bound, Session};
use crate::embedded::shared::Fitness;

/// The gateway's bounds are that many times those of other clients: all sensors are behind it.
const GATEWAY_FACTOR: usize = 10;

/// One attachment.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) serial: u64,
    /// `None` when its last reply waits to be taken.
    pub(super) session: Option<u32>,
    pub(super) session_expiry: u32,
    pub(super) will: Option<Will>,
}

impl Router {
    pub(super) fn attach(&mut self, now: Instant, mut connect: Connect, gateway: bool) -> ClientKey {
        self.advance(now);
        let key = ClientKey {
            slot: self.clients.vacant_key() as u32,
            serial: self.next_serial,
        };
        self.next_serial += 1;
        self.clients.insert(Client {
            serial: key.serial,
            session: None,
            session_expiry: connect.session_expiry,
            will: None,
        });
        self.out.stats.packets_received += 1;
        if let Err(reason) = self.admit(&connect, gateway) {
            self.out.push(
                key,
                Reply::ConnAck {
                    session_present: false,
                    reason,
                    assigned_client_id: None,
                },
            );
            return key;
        }

        let assigned_client_id = connect.client_id.is_empty().then(|| {
            connect.client_id = self.unused_client_id();
            connect.client_id.clone()
        });
        let kept = self.take_over(&connect);
        let session = kept.unwrap_or_else(|| self.new_session(&connect.client_id, gateway));
        self.out.push(
            key,
            Reply::ConnAck {
                session_present: kept.is_some(),
                reason: reason::SUCCESS,
                assigned_client_id,
            },
        );
        self.sessions[session as usize].attach(key, connect.receive_maximum);
        let client = &mut self.clients[key.slot()];
        client.session = Some(session);
        client.will = connect.will;
        self.keep(session, connect.session_expiry);
        let stats = &mut self.out.stats;
        stats.clients_connected += 1;
        stats.clients_maximum = stats.clients_maximum.max(stats.clients_connected);
        key
    }

    /// Decides on a CONNECT.
    ///
    /// # Errors
    ///
    /// The reason code to refuse it with.
    fn admit(&self, connect: &Connect, gateway: bool) -> Result<(), u8> {
        let session = self
            .by_id
            .get(connect.client_id.as_str())
            .map(|session| &self.sessions[*session as usize]);
        if connect.client_id.contains('\0') || connect.client_id.len() > usize::from(u16::MAX) {
            return Err(reason::CLIENT_ID_NOT_VALID);
        }
        if session.is_some_and(|session| session.local) && !gateway {
            tracing::warn!(
                target: "broker", client = %connect.client_id,
                "client refused: it uses the client id of the gateway"
            );
            return Err(reason::CLIENT_ID_NOT_VALID);
        }
        if let Some(will) = &connect.will {
            if !is_topic_name(&will.message.topic) {
                return Err(reason::TOPIC_NAME_INVALID);
            }
            if is_sys(&will.message.topic) {
                return Err(reason::NOT_AUTHORIZED);
            }
        }
        // None is ended to make place: it may hold messages that were acknowledged to their publishers.
        if session.is_none() && !gateway && self.sessions.len() >= self.limits.sessions_max {
            return Err(reason::QUOTA_EXCEEDED);
        }
        Ok(())
    }

    /// Ends an earlier connection under the same client id, and its session if it is not to go on (MQTT-3.1.4-3,
    /// MQTT-3.1.2-4); returns the session if it goes on.
    fn take_over(&mut self, connect: &Connect) -> Option<u32> {
        let session = *self.by_id.get(connect.client_id.as_str())?;
        if let Some(attached) = &self.sessions[session as usize].attached {
            let earlier = attached.key;
            self.end(earlier, reason::SESSION_TAKEN_OVER);
        }
        // One that lasts as long as its connection is gone by now.
        let session = *self.by_id.get(connect.client_id.as_str())?;
        if connect.clean_start {
            self.end_session(session);
            return None;
        }
        Some(session)
    }

    pub(super) fn new_session(&mut self, client_id: &str, gateway: bool) -> u32 {
        let bound = Bound {
            messages: self.limits.queue_messages,
            bytes: self.limits.queue_bytes,
        };
        let bound = if gateway {
            bound.times(GATEWAY_FACTOR)
        } else {
            bound
        };
        let client_id: Arc<str> = client_id.into();
        let session = self
            .sessions
            .insert(Session::new(client_id.clone(), bound, gateway)) as u32;
        self.by_id.insert(client_id, session);
        self.out.stats.sessions = self.sessions.len();
        session
    }

    fn unused_client_id(&mut self) -> String {
        loop {
            let id = format!("auto-{:016x}", self.random.random::<u64>());
            if !self.by_id.contains_key(id.as_str()) {
                return id;
            }
        }
    }

    pub(super) fn on_disconnect(&mut self, client: ClientKey, with_will: bool, session_expiry: Option<u32>) {
        let found = &mut self.clients[client.slot()];
        if let Some(expiry) = session_expiry {
            // §3.14.2.2.2
            if found.session_expiry == 0 && expiry != 0 {
                self.end(client, reason::PROTOCOL_ERROR);
                return;
            }
            found.session_expiry = expiry;
            if let Some(session) = found.session {
                self.keep(session, expiry);
            }
        }
        self.detach(client, with_will, false);
        self.clients.remove(client.slot());
    }

    /// Ends a connection from our side.
    pub(super) fn end(&mut self, client: ClientKey, reason: u8) {
        if let Some(session) = self.session_of(client) {
            tracing::debug!(
                target: "broker", client = %self.sessions[session as usize].client_id,
                rc = reason,
                "client disconnected by the broker"
            );
        }
        self.out.push(client, Reply::Disconnect { reason });
        self.detach(client, true, true);
    }

    /// A connection ended; nothing more is said on it. `lost`: without a word of the client.
    pub(super) fn detach(&mut self, client: ClientKey, with_will: bool, lost: bool) {
        let found = &mut self.clients[client.slot()];
        let Some(session) = found.session.take() else {
            return;
        };
        let expiry = found.session_expiry;
        let will = found.will.take().filter(|_| with_will);
        self.out.stats.clients_connected -= 1;
        // A session that was too slow is not awaited: its time is over.
        self.sessions[session as usize].detach(self.now, lost && expiry > 0, &mut self.out);
        // §3.1.3.2.2: published when the delay has passed or the session ends, whichever is first.
        match will {
            Some(will) if will.delay > 0 && expiry > 0 => {
                let due = self.now + Duration::from_secs(will.delay.into());
                self.sessions[session as usize].will = Some((will, due));
            }
            Some(will) => {
                self.route(Some(session), will.message, None);
            }
            None => {}
        }
        if expiry == 0 {
            self.end_session(session);
            return;
        }
        self.sessions[session as usize].expire_after(self.now, expiry);
        for entry in self.sessions[session as usize].take_shared_waiting() {
            if let Err(entry) = self.share(entry, Fitness::Slow) {
                self.sessions[session as usize].keep(entry);
            }
        }
        self.relieve(session);
        self.arm(session);
    }

    /// A session without a connection ends.
    pub(super) fn end_session(&mut self, session: u32) {
        self.release(session);
        let mut ended = self.sessions.remove(session as usize);
        self.by_id.remove(&ended.client_id);
        if let Some(kept) = ended.kept {
            self.keeper.end(kept);
        }
        if let Some(due) = ended.timer {
            self.timers.remove(&(due, session));
        }
        for filter in &ended.filters {
            if let Some(filter) = Filter::parse(filter)
                && self.filters.unsubscribe(&filter, session)
            {
                self.count_subscription(&filter, false);
            }
        }
        self.out.stats.sessions = self.sessions.len();
        let will = ended.will.take();
        for entry in ended.into_shared() {
            if self.share(entry, Fitness::Full).is_err() {
                self.out.stats.dropped_unshared += 1;
            }
        }
        if let Some((will, _)) = will {
            self.route(None, will.message, None);
        }
    }
}
