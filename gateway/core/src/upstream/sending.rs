//! What leaves next: each connection in turn, while it has credit and room for what is unsettled.

use sn_codec::QoS;

use super::connection::Ack;
use super::request::{Stored, token, waits_for_disk};
use super::{RequestKind, Upstream};
use crate::durable::{Journal, uplink_key};
use crate::io::{BrokerRequest, ConnId, StoredUplink};
use crate::metrics::Metrics;
use crate::time::Instant;

impl Upstream {
    /// The next request that its connection has room for.
    pub(crate) fn poll(
        &mut self,
        now: Instant,
        journal: &mut Journal,
        metrics: &mut Metrics,
    ) -> Option<BrokerRequest> {
        if let Some(request) = self.control.pop_front() {
            return Some(request);
        }
        for at in 0..self.connections.len() {
            let connection = &mut self.connections[at];
            if !connection.up || connection.credit == 0 {
                continue;
            }
            let conn = ConnId(at as u32);
            if let Some((ack, delivery)) = connection.acks.pop_front() {
                connection.credit -= 1;
                return Some(match ack {
                    Ack::Taken => BrokerRequest::Ack { conn, delivery },
                    Ack::Released => BrokerRequest::Complete { conn, delivery },
                });
            }
            if connection.quarantine.is_some() {
                match self.next_alone(at, now, journal, metrics) {
                    Some(request) => return Some(request),
                    None => continue,
                }
            }
            if let Some(key) = connection.subscriptions.front().copied()
                && !waits_for_disk(&self.requests, key)
            {
                connection.subscriptions.pop_front();
                connection.credit -= 1;
                return self.subscription_request(conn, key);
            }
            if connection.unreported == 0
                && self.restoring == 0
                && let Some(request) = self.next_publish(at, journal, metrics)
            {
                return Some(request);
            }
        }
        None
    }

    fn next_publish(
        &mut self,
        at: usize,
        journal: &mut Journal,
        metrics: &mut Metrics,
    ) -> Option<BrokerRequest> {
        let spooled_first = self.connections[at].backlog_next;
        for spooled in [spooled_first, !spooled_first] {
            if let Some(request) = self.next_of_line(at, spooled, journal, metrics) {
                self.connections[at].backlog_next = !spooled;
                return Some(request);
            }
        }
        None
    }

    fn next_of_line(
        &mut self,
        at: usize,
        spooled: bool,
        journal: &mut Journal,
        metrics: &mut Metrics,
    ) -> Option<BrokerRequest> {
        let Upstream {
            connections,
            requests,
            ..
        } = self;
        let connection = &mut connections[at];
        let key = match spooled {
            true => connection.backlog.next()?,
            false => *connection.waiting.front()?,
        };
        let RequestKind::Publish { message, ready, .. } = &requests[key].kind else {
            return None;
        };
        let tracked = message.qos > QoS::AtMostOnce;
        if !*ready || tracked && connection.in_flight >= connection.window {
            return None;
        }
        self.send(at, key, journal, metrics)
    }

    /// Hands a publish that waits to its connection, which has room for it.
    pub(super) fn send(
        &mut self,
        at: usize,
        key: usize,
        journal: &mut Journal,
        metrics: &mut Metrics,
    ) -> Option<BrokerRequest> {
        let Upstream {
            connections,
            requests,
            waiting_messages,
            waiting_bytes,
            ..
        } = self;
        let connection = &mut connections[at];
        let generation = requests[key].generation;
        let RequestKind::Publish {
            conn,
            seq,
            sent,
            message,
            stored,
            author,
            backlog,
            ..
        } = &mut requests[key].kind
        else {
            return None;
        };
        let tracked = message.qos > QoS::AtMostOnce;
        match backlog {
            true => connection.backlog.send((*seq, key), *author, tracked),
            false => connection.take_out(key),
        }
        connection.credit -= 1;
        connection.in_flight += u32::from(tracked);
        *sent = true;
        match message.qos {
            QoS::AtMostOnce => metrics.publish_up_qos0_total += 1,
            QoS::AtLeastOnce => metrics.publish_up_qos1_total += 1,
            QoS::ExactlyOnce => metrics.publish_up_qos2_total += 1,
        }
        if stored.is_none() {
            *waiting_messages -= 1;
            *waiting_bytes -= message.size();
        }
        let (conn, message, stored) = (*conn, message.clone(), *stored);
        let kept = stored.filter(|_| message.qos == QoS::ExactlyOnce);
        let size = message.size();
        let request = BrokerRequest::Publish {
            conn,
            token: tracked.then(|| token(generation, key)),
            topic: message.topic,
            qos: message.qos,
            retain: message.retain,
            payload: message.payload,
            stored: kept.and_then(|id| self.stored_uplink(id, key)),
        };
        if !tracked {
            self.finish_untracked(journal, key, stored, size);
        }
        Some(request)
    }

    /// A QoS 0 publish has left, and nobody will say what became of it.
    fn finish_untracked(&mut self, journal: &mut Journal, key: usize, stored: Option<u64>, size: usize) {
        if let RequestKind::Publish {
            conn,
            author,
            backlog: true,
            ..
        } = self.requests.remove(key).kind
        {
            self.leave_backlog(conn, author);
        }
        if let Some(id) = stored {
            let qos = QoS::AtMostOnce;
            self.forget_stored(
                journal,
                Stored {
                    id,
                    size,
                    qos,
                    released: false,
                },
            );
        }
    }

    /// The record of a publish, as its port writes it again.
    fn stored_uplink(&self, id: u64, key: usize) -> Option<StoredUplink> {
        let RequestKind::Publish { record, .. } = &self.requests.get(key)?.kind else {
            return None;
        };
        Some(StoredUplink {
            key: uplink_key(id),
            value: record.clone()?,
        })
    }

    pub(super) fn subscription_request(&self, conn: ConnId, key: usize) -> Option<BrokerRequest> {
        let token = self.token(key);
        match &self.requests.get(key)?.kind {
            RequestKind::Subscribe { name, id, qos, .. } => Some(BrokerRequest::Subscribe {
                conn,
                token,
                filter: name.clone(),
                id: *id,
                qos: *qos,
            }),
            RequestKind::Unsubscribe { name, .. } => Some(BrokerRequest::Unsubscribe {
                conn,
                token,
                filter: name.clone(),
            }),
            RequestKind::Publish { .. } | RequestKind::Settled { .. } => None,
        }
    }
}
