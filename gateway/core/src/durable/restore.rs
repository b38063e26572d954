//! The beginning of another life: what the last one stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use rand::RngExt as _;
use rustc_hash::FxHashMap;
use sn_codec::QoS;

use super::records::{
    MessageRecord, Place, Progress, ReceivingRecord, SavedState, SessionRecord, UplinkRecord,
};
use super::{
    Waiting, kind, leaving_key, message_key, progress_key, receiving_key, released_key, session_key,
    uplink_key,
};
use crate::client::connect::StoredWill;
use crate::client::downlink::{Message, Stored};
use crate::client::subscribe::Subscription;
use crate::client::uplink::RequestKind;
use crate::client::{Client, State};
use crate::clients::ClientIx;
use crate::gateway::Gateway;
use crate::io::{FilterId, StoreKey};
use crate::links::Via;
use crate::peer::{LocalEnd, Route};
use crate::registry::ClientTopics;
use crate::subscribers::Subscriber;
use crate::time::Instant;
use crate::upstream::Origin;

/// What was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restored {
    /// Sessions.
    pub sessions: usize,
    /// Messages that wait for clients, once for each.
    pub messages: usize,
    /// Messages that wait for the broker.
    pub spooled: usize,
    /// Values that mean nothing to this version.
    pub unreadable: usize,
}

/// The values by kind, each kind in the order of its ids.
#[derive(Default)]
struct Values(BTreeMap<StoreKey, Bytes>);

impl Values {
    fn of(&self, kind: u8) -> impl Iterator<Item = (u64, &Bytes)> {
        let all = StoreKey { kind, id: 0 }..=StoreKey { kind, id: u64::MAX };
        self.0.range(all).map(|(key, value)| (key.id, value))
    }

    fn get(&self, key: StoreKey) -> Option<&Bytes> {
        self.0.get(&key)
    }
}

impl Gateway {
    /// Takes what an earlier life stored, in the order in which it was written last, before anything else is handed in.
    /// `unix_ms` is the time since 1970, in milliseconds, at `now`.
    ///
    /// Clients go on where they were: none is told anything, and whoever was connected has its whole keep-alive or sleep
    /// duration from now on to be heard of.
    pub fn restore(&mut self, now: Instant, unix_ms: u64, values: Vec<(StoreKey, Bytes)>) -> Restored {
        self.cx.journal.start(now, unix_ms);
        let written: FxHashMap<StoreKey, usize> = values.iter().map(|(key, _)| *key).zip(0..).collect();
        let values = Values(values.into_iter().collect());
        let mut restored = Restored::default();
        let mut places = FxHashMap::default();
        for (id, value) in values.of(kind::SESSION) {
            match SessionRecord::decode(value) {
                Some(record) => {
                    places.insert(id as u32, self.restore_session(now, id as u32, record));
                    restored.sessions += 1;
                }
                None => self.drop_unreadable(&mut restored, session_key(id as u32)),
            }
        }
        for (id, value) in values.of(kind::LEAVING) {
            match core::str::from_utf8(value) {
                Ok(name) => {
                    let name = self.cx.names.intern(name);
                    self.cx.subscriptions.restore(&name, FilterId(id as u32));
                }
                Err(_) => self.drop_unreadable(&mut restored, leaving_key(FilterId(id as u32))),
            }
        }
        self.restore_uplinks(now, &values, &places, &mut restored);
        self.cx.upstream.order_restored(|key| written.get(&key).copied());
        self.restore_messages(now, &values, &places, &mut restored);
        self.cx.upstream.order_restored(|key| written.get(&key).copied());
        self.cx.upstream.stored_until(self.cx.journal.last_id());
        if restored.sessions + restored.messages + restored.spooled > 0 {
            self.cx.upstream.resume_sessions();
        }
        self.cx.subscriptions.skip_ids(self.cx.rng.random());
        let clients: Vec<ClientIx> = self.clients.iter().map(|(ix, _)| ix).collect();
        for ix in clients {
            self.after(now, ix);
        }
        self.cx.metrics.sessions_restored_total = restored.sessions as u64;
        restored
    }

    fn drop_unreadable(&mut self, restored: &mut Restored, key: StoreKey) {
        restored.unreadable += 1;
        self.cx.journal.delete(key);
    }

    fn restore_session(&mut self, now: Instant, serial: u32, record: SessionRecord) -> ClientIx {
        let id = self.cx.names.intern(&record.id);
        if let Some(older) = self.clients.by_id(&id) {
            // The deletion of an older record was lost.
            if let Some(client) = self.clients.get_mut(older) {
                client.state = State::Gone;
            }
            self.after(now, older);
        }
        let mut client = Client::new(&mut self.cx, now, id);
        client.clean = record.clean;
        client.asked_for_will = record.asked_for_will;
        client.misled = record.misled;
        client.keep_alive = record.keep_alive;
        client.down.no_dup = record.no_dup;
        client.down.no_register = record.no_register;
        client.down.answers_register = record.answers_register;
        let published_after = record.supervision();
        client.will = record.will.map(|will| {
            Box::new(StoredWill {
                published_after,
                ..will
            })
        });
        client.topics = ClientTopics::restored(record.next_topic_id, self.cx.rng.random(), record.topics);
        client.saved = true;
        client.state = match record.state {
            SavedState::Active => State::Active,
            SavedState::Asleep { duration } => State::Asleep { duration },
            SavedState::Disconnected => State::Disconnected,
            SavedState::Lost => State::Lost,
        };
        if !client.state.is_connected() {
            client.last_seen = self.cx.journal.instant(record.seen_ms, now);
        }
        let ix = self.clients.insert_restored(client, serial);
        if let Some(via) = record.place.and_then(|place| self.via(place)) {
            self.cx.links.get_or_insert(via.link);
            self.clients.bind(ix, via);
        }
        for saved in record.subscriptions {
            let name = self.cx.names.intern(&saved.filter);
            let key = self.cx.subscriptions.restore(&name, saved.id);
            if let Some(filter) = self.cx.subscriptions.get_mut(key) {
                filter.subscribe(Subscriber {
                    client: ix,
                    asked: saved.asked,
                    granted: saved.asked,
                });
            }
            if let Some(client) = self.clients.get_mut(ix) {
                client.subscriptions.push(Subscription {
                    filter: key,
                    form: saved.form,
                });
                // The broker will be asked for all of them.
                let held = client.subscriptions.iter().map(|mine| mine.filter);
                self.cx.subscriptions.level(ix, key, held);
            }
        }
        ix
    }

    /// The way to a client; `None` if its radio is not configured any more.
    fn via(&self, place: Place) -> Option<Via> {
        Some(Via {
            link: self.cx.journal.link_named(&place.link)?,
            route: Route {
                addr: place.addr,
                local: LocalEnd {
                    socket: place.socket,
                    ip: None,
                },
            },
            node: place.node,
        })
    }

    /// Messages for the broker, and how far their clients are with them.
    fn restore_uplinks(
        &mut self,
        now: Instant,
        values: &Values,
        places: &FxHashMap<u32, ClientIx>,
        restored: &mut Restored,
    ) {
        for (id, value) in values.of(kind::UPLINK) {
            self.cx.journal.used(id);
            let Some(record) = UplinkRecord::decode(value) else {
                self.drop_unreadable(restored, uplink_key(id));
                continue;
            };
            restored.spooled += 1;
            let receiving = values.get(receiving_key(id)).and_then(ReceivingRecord::decode);
            let client = record
                .client
                .and_then(|(serial, msg_id, digest)| Some((*places.get(&serial)?, serial, msg_id, digest)));
            let released = receiving.is_some_and(|receiving| receiving.released);
            let mut origin = Origin::Gateway;
            if let (Some((ix, serial, msg_id, digest)), QoS::ExactlyOnce, false) =
                (client, record.qos, released)
                && let Some(client) = self.clients.get_mut(ix)
            {
                let kind = match receiving {
                    Some(_) => RequestKind::Received,
                    None => RequestKind::Publish2,
                };
                client.open.restore(kind, msg_id, digest, id);
                if receiving.is_none() {
                    origin = Origin::Client {
                        client: ix,
                        serial,
                        msg_id,
                        digest,
                    };
                }
            }
            let since = self.cx.journal.instant(record.since_ms, now);
            self.cx
                .upstream
                .restore(id, value.clone(), record, origin, since, released);
        }
        for (id, value) in values.of(kind::RECEIVING) {
            self.cx.journal.used(id);
            if values.get(uplink_key(id)).is_some() {
                continue;
            }
            let record = ReceivingRecord::decode(value).filter(|record| !record.released);
            let place = record.and_then(|record| places.get(&record.serial).copied());
            match (record, place.and_then(|ix| self.clients.get_mut(ix))) {
                (Some(record), Some(client)) => {
                    client
                        .open
                        .restore(RequestKind::Received, record.msg_id, record.digest, id);
                }
                _ => self.cx.journal.delete(receiving_key(id)),
            }
        }
    }

    /// Messages for clients, in their order, to those that do not have them yet.
    fn restore_messages(
        &mut self,
        now: Instant,
        values: &Values,
        places: &FxHashMap<u32, ClientIx>,
        restored: &mut Restored,
    ) {
        for (key, value) in values.of(kind::MESSAGE) {
            let id = key >> 24;
            self.cx.journal.used(id);
            let Some(record) = MessageRecord::decode(value) else {
                self.drop_unreadable(restored, message_key(id));
                continue;
            };
            let released = values.get(released_key(id)).is_some();
            if let Some((conn, delivery)) = record.from.filter(|_| !released) {
                self.cx.journal.receive(conn, delivery, id);
                self.cx.upstream.restore_received(conn, delivery);
            }
            let message = Arc::new(Message {
                topic: self.cx.names.intern(&record.topic),
                payload: record.payload,
                retain: record.retain,
                stored: Some(Stored::restored(id, record.from, record.recipients.len() as u32)),
            });
            let since = self.cx.journal.instant(record.since_ms, now);
            let mut waits = 0;
            for (place, recipient) in record.recipients.iter().enumerate() {
                let place = place as u32;
                let progress = values.get(progress_key(id, place)).and_then(Progress::decode);
                let client = places
                    .get(&recipient.serial)
                    .and_then(|ix| self.clients.get_mut(*ix));
                let Some(client) = client.filter(|_| progress != Some(Progress::Done)) else {
                    continue;
                };
                let received = progress == Some(Progress::Received);
                client.restore_queued(&mut self.cx, &message, *recipient, place, since, received);
                waits += 1;
            }
            restored.messages += waits;
            if waits == 0 {
                self.cx.journal.message_done(id, record.from);
                let recipients = record.recipients.len() as u32;
                // If the disk does not work, later.
                let _ = self.cx.journal.wait(Waiting::ForgetProgress(id, recipients));
            }
        }
        for (id, _) in values.of(kind::RELEASED) {
            if values.get(message_key(id)).is_none() {
                self.cx.journal.delete(released_key(id));
            }
        }
        for (key, _) in values.of(kind::PROGRESS) {
            // It goes after what it is about, and that may have been all there was time for.
            let place = (key & 0x00FF_FFFF) as usize;
            let message = values.get(message_key(key >> 24)).and_then(MessageRecord::decode);
            if message.is_none_or(|message| message.recipients.len() <= place) {
                self.cx.journal.delete(StoreKey {
                    kind: kind::PROGRESS,
                    id: key,
                });
            }
        }
    }
}
