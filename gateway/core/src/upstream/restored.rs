//! What an earlier life of the gateway left, and the sessions at the broker that go on with it.

use bytes::Bytes;
use sn_codec::QoS;

use super::{Author, Origin, RequestKind, SUBSCRIPTIONS, Uplink, Upstream};
use crate::durable::records::{Stage, UplinkRecord};
use crate::durable::uplink_key;
use crate::io::{BrokerRequest, ConnId, ConnectOptions, DeliveryId, RestoredPublish, StoreKey, StoredUplink};
use crate::time::Instant;

impl Upstream {
    /// A publish of an earlier life. With a packet id the broker may have it; the port is told when it is opened.
    pub(crate) fn restore(
        &mut self,
        id: u64,
        value: Bytes,
        record: UplinkRecord,
        origin: Origin,
        since: Instant,
        released: bool,
    ) {
        let author = Author(record.author);
        let conn = self.connection_for(author, record.qos);
        let message = Uplink {
            topic: record.topic,
            qos: record.qos,
            retain: record.retain,
            payload: record.payload,
        };
        self.spooled_messages += 1;
        self.spooled_bytes += message.size();
        let key = self.insert_publish(
            (conn, author),
            origin,
            message.clone(),
            since,
            Some(id),
            true,
            true,
        );
        if message.qos == QoS::ExactlyOnce {
            self.keep_record(key, value.clone());
            if released {
                self.release(id);
            }
        }
        let (packet_id, released) = match record.stage {
            Stage::Pending => return self.line_up(key),
            Stage::Sent(packet_id) => (packet_id, false),
            Stage::Released(packet_id) => (packet_id, true),
        };
        let token = self.token(key);
        if let RequestKind::Publish { sent, .. } = &mut self.requests[key].kind {
            *sent = true;
        }
        self.connections[conn.0 as usize].in_flight += 1;
        let restored = RestoredPublish {
            token,
            packet_id,
            released,
            topic: message.topic,
            retain: message.retain,
            payload: message.payload,
            stored: StoredUplink {
                key: uplink_key(id),
                value,
            },
        };
        if let Some(options) = self.open_options(conn) {
            options.restored.push(restored);
        }
    }

    /// Puts the publishes that have packet ids in the order in which that was written: of two with the same, the broker
    /// is done with the earlier. It need not be the older, since spooled and new ones take turns.
    pub(crate) fn order_restored(&mut self, written: impl Fn(StoreKey) -> Option<usize>) {
        if let Some(options) = self.options.get_mut(self.shared as usize) {
            options
                .restored
                .sort_by_key(|restored| written(restored.stored.key));
        }
    }

    /// What is stored from now on has higher numbers.
    pub(crate) fn stored_until(&mut self, id: u64) {
        if let Some(options) = self.options.get_mut(self.shared as usize) {
            options.stored_until = id;
        }
    }

    /// Something of an earlier life is restored: the broker is asked for the session with the subscriptions, and for
    /// that with the QoS 2 publishes if it may know any. What it cannot know waits for that connection too.
    pub(crate) fn resume_sessions(&mut self) {
        if let Some(options) = self.open_options(SUBSCRIPTIONS) {
            options.clean_start = false;
        }
        let waits = (self.connections.last()).is_some_and(|connection| !connection.backlog.is_empty());
        let known = (self.options.last()).is_some_and(|options| !options.restored.is_empty());
        if self.exact_unopened && (waits || known) {
            self.open_exact();
        }
    }

    /// Opens the connection for QoS 2 with what is restored for it; without that the broker knows no session worth keeping.
    pub(super) fn open_exact(&mut self) {
        self.exact_unopened = false;
        let conn = ConnId(self.shared);
        let Some(options) = self.options.get_mut(conn.0 as usize) else {
            return;
        };
        let restored = core::mem::take(&mut options.restored);
        let received = core::mem::take(&mut options.received);
        let options = ConnectOptions {
            clean_start: restored.is_empty(),
            restored,
            received,
            ..options.clone()
        };
        self.control.push_back(BrokerRequest::Open { conn, options });
    }

    /// A delivery of an earlier life that the broker has not released.
    pub(crate) fn restore_received(&mut self, conn: ConnId, delivery: DeliveryId) {
        if let Some(options) = self.open_options(conn) {
            options.received.push(delivery);
        }
    }

    fn open_options(&mut self, conn: ConnId) -> Option<&mut ConnectOptions> {
        if conn.0 == self.shared {
            let unopened = self.exact_unopened;
            return self.options.last_mut().filter(|_| unopened);
        }
        self.control.iter_mut().find_map(|request| match request {
            BrokerRequest::Open { conn: of, options } if *of == conn => Some(options),
            _ => None,
        })
    }
}
