//! PUBLISH from the client, QoS −1, 0, 1 and 2 (§6.6, §6.8).

use core::num::NonZeroU32;
use core::time::Duration;
use std::sync::Arc;

use arrayvec::ArrayVec;
use bytes::Bytes;
use rustc_hash::FxHasher;
use sn_codec::{MsgId, Publish, PublishQoS, QoS, ReturnCode, TopicId, TopicRef};

use super::{Client, Reply};
use crate::context::Context;
use crate::durable::records::ReceivingRecord;
use crate::durable::{Waiting, receiving_key};
use crate::io::{Notice, Refusal};
use crate::subscriptions::FilterKey;
use crate::time::Instant;
use crate::upstream::{Origin, Uplink};

/// Requests of a client that are not finished, and the last one that was.
#[derive(Debug, Default)]
pub(crate) struct OpenRequests {
    requests: Vec<OpenRequest>,
    /// Its id and digest. A digest of 0, one in four thousand million, is not remembered: so this takes 8 octets.
    last_done: Option<(MsgId, NonZeroU32)>,
    /// The last QoS 2 publishes that were released: a late repeat of one is not another message (reading A46).
    released: Option<Box<ArrayVec<Released, RELEASED_MAX>>>,
}

fn done(msg_id: MsgId, digest: u32) -> Option<(MsgId, NonZeroU32)> {
    Some((msg_id, NonZeroU32::new(digest)?))
}

/// How many released QoS 2 publishes are remembered; a client has one under way, Zephyr up to five.
const RELEASED_MAX: usize = 8;

/// A QoS 2 publish after its PUBREL.
#[derive(Debug, Clone, Copy)]
struct Released {
    msg_id: MsgId,
    digest: u32,
    at: Instant,
}

/// One unfinished request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenRequest {
    pub(crate) kind: RequestKind,
    pub(crate) msg_id: MsgId,
    /// What the answer echoes.
    pub(crate) topic_id: TopicId,
    /// Tells a repeat from another message under the same id, and a SUBSCRIBE from another by its filter. Any id will
    /// do, 0 too (reading A45).
    digest: u32,
    /// QoS 2: the number of the message in the store; 0 if it has none.
    stored: u64,
    /// SUBSCRIBE: which of all it is. Four octets, so that a request takes 24.
    pub(crate) number: u32,
    /// It came in an earlier connection and not again in this one, so it is not answered: the answer would pass for
    /// that to another message under the same id, which may be on its way.
    earlier: bool,
}

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// QoS 1, with the broker.
    Publish1,
    /// QoS 2, with the broker.
    Publish2,
    /// QoS 2, settled and answered with PUBREC: the id is held until PUBREL (reading A46).
    Received,
    /// SUBSCRIBE, with the broker.
    Subscribe,
}

impl OpenRequests {
    /// Requests that wait for the broker.
    pub(crate) fn waiting(&self) -> usize {
        self.requests
            .iter()
            .filter(|request| request.kind != RequestKind::Received)
            .count()
    }

    pub(crate) fn is_subscribing(&self, msg_id: MsgId) -> bool {
        self.requests
            .iter()
            .any(|request| request.kind == RequestKind::Subscribe && request.msg_id == msg_id)
    }

    pub(crate) fn any_subscribe(&self) -> bool {
        self.requests
            .iter()
            .any(|request| request.kind == RequestKind::Subscribe)
    }

    pub(crate) fn open_subscribe(
        &mut self,
        msg_id: MsgId,
        topic_id: TopicId,
        filter: FilterKey,
        number: u32,
    ) {
        self.requests.push(OpenRequest {
            kind: RequestKind::Subscribe,
            msg_id,
            topic_id,
            digest: filter,
            stored: 0,
            number,
            earlier: false,
        });
    }

    /// This SUBSCRIBE is not answered yet, and of this connection.
    pub(crate) fn has_subscribe(&self, number: u32) -> bool {
        self.requests
            .iter()
            .any(|request| request.kind == RequestKind::Subscribe && request.number == number)
    }

    /// The SUBSCRIBE that is open for a filter.
    pub(crate) fn subscribing_to(&self, msg_id: MsgId, filter: FilterKey) -> Option<OpenRequest> {
        let is = |request: &&OpenRequest| {
            request.kind == RequestKind::Subscribe && request.msg_id == msg_id && request.digest == filter
        };
        self.requests.iter().find(is).copied()
    }

    /// The answer may be to a SUBSCRIBE of an earlier connection: then none, or another, is open under its id.
    pub(crate) fn close_subscribe(&mut self, msg_id: MsgId, filter: FilterKey) -> Option<OpenRequest> {
        let is = |request: &OpenRequest| {
            request.kind == RequestKind::Subscribe && request.msg_id == msg_id && request.digest == filter
        };
        self.requests
            .iter()
            .position(is)
            .map(|at| self.requests.remove(at))
    }

    /// The client waits for the outcome of a publish, as far as is known: of one of an earlier connection, or another life
    /// of the gateway, it may have the answer.
    pub(crate) fn awaits(&self, msg_id: MsgId, digest: u32) -> bool {
        let request = self.publish_position(msg_id).map(|at| &self.requests[at]);
        request.is_some_and(|request| {
            request.digest == digest && request.kind != RequestKind::Received && !request.earlier
        })
    }

    fn publish_position(&self, msg_id: MsgId) -> Option<usize> {
        let is = |request: &OpenRequest| request.kind != RequestKind::Subscribe && request.msg_id == msg_id;
        self.requests.iter().position(is)
    }

    /// The id of a QoS 2 publish is free again, for another message.
    fn release(&mut self, at: usize, now: Instant) {
        let OpenRequest { msg_id, digest, .. } = self.requests.remove(at);
        let released = self.released.get_or_insert_default();
        if released.is_full() {
            released.remove(0);
        }
        released.push(Released {
            msg_id,
            digest,
            at: now,
        });
    }

    /// What a PUBLISH is answered that was carried out before; otherwise it is a new message under an id that is free
    /// again.
    fn answer_to_finished(
        &self,
        now: Instant,
        publish: &Publish<'_>,
        digest: u32,
        copies_until: Duration,
    ) -> Option<Reply> {
        let msg_id = publish.msg_id;
        match publish.qos {
            PublishQoS::Level(QoS::AtLeastOnce)
                if publish.dup && self.last_done.is_some() && self.last_done == done(msg_id, digest) =>
            {
                let topic_id = echoed(publish.topic);
                Some(Reply::Puback(topic_id, msg_id, ReturnCode::Accepted))
            }
            PublishQoS::Level(QoS::ExactlyOnce) => {
                let at = self.released_at(msg_id, digest)?;
                // Without DUP it may be a copy that the network held back, if it is soon after.
                (publish.dup || now < at + copies_until).then_some(Reply::Pubrec(msg_id))
            }
            _ => None,
        }
    }

    /// When the same message was released last under the same id.
    fn released_at(&self, msg_id: MsgId, digest: u32) -> Option<Instant> {
        let same = |released: &&Released| released.msg_id == msg_id && released.digest == digest;
        self.released
            .as_ref()?
            .iter()
            .rfind(same)
            .map(|released| released.at)
    }

    /// Frees memory that the client does not need for now.
    pub(crate) fn shrink(&mut self) {
        self.requests.shrink_to_fit();
    }

    /// An exchange of an earlier life: with the broker, or answered with PUBREC.
    pub(crate) fn restore(&mut self, kind: RequestKind, msg_id: MsgId, digest: u32, stored: u64) {
        self.requests.push(OpenRequest {
            kind,
            msg_id,
            topic_id: TopicId::NONE,
            digest,
            stored,
            number: 0,
            earlier: true,
        });
    }

    /// A new connection of the same session: subscriptions are asked for again, publishes go on. A device that starts
    /// anew may begin with the ids it used last.
    pub(crate) fn end_connection(&mut self) {
        self.released = None;
        self.requests
            .retain(|request| request.kind != RequestKind::Subscribe);
        for request in &mut self.requests {
            request.earlier = true;
        }
    }
}

impl Client {
    /// QoS 1: C→G PUBLISH(m)   G→C PUBACK(m), once the broker has acknowledged.
    /// QoS 2: C→G PUBLISH(m)   G→C PUBREC(m), once the broker has; then PUBREL, PUBCOMP.
    pub(crate) fn on_publish(&mut self, cx: &mut Context, now: Instant, publish: Publish<'_>) {
        let topic_id = echoed(publish.topic);
        let Some(name) = self.resolve(cx, publish.topic) else {
            cx.metrics.publish_unknown_topic_total += 1;
            if let (TopicRef::Predefined(id), Some(via)) = (publish.topic, &self.via) {
                let (client, addr) = (Some(self.id.clone()), via.route.addr.clone());
                cx.notice(Notice::UnknownTopic {
                    client,
                    addr,
                    topic_id: id.0,
                    reason: cx.predefined.why_none(self.rule, id),
                });
            }
            // §6.6, reading A43: whatever the QoS, so that a client that missed our restart registers again.
            if publish.qos != PublishQoS::MinusOne {
                self.reply(
                    cx,
                    Reply::Puback(topic_id, publish.msg_id, ReturnCode::InvalidTopicId),
                );
            }
            return;
        };
        if !cx.may_publish(&name) {
            return self.refuse_publish(cx, publish, name);
        }
        // From a connected client QoS −1 is QoS 0 under its own name (reading A48).
        let (kind, qos) = match publish.qos {
            PublishQoS::MinusOne | PublishQoS::Level(QoS::AtMostOnce) => {
                // A message id that it carries says nothing (reading A44).
                let message = self.uplink(cx, &name, QoS::AtMostOnce, publish);
                let origin = self.origin(publish.msg_id, 0);
                if cx.publish(now, self.author, origin, message).is_err() {
                    cx.metrics.publish_dropped_total += 1;
                }
                return;
            }
            PublishQoS::Level(QoS::AtLeastOnce) => (RequestKind::Publish1, QoS::AtLeastOnce),
            PublishQoS::Level(QoS::ExactlyOnce) => (RequestKind::Publish2, QoS::ExactlyOnce),
        };
        let digest = digest(publish);
        if self.is_repeat(cx, now, &publish, digest) {
            cx.metrics.duplicates_suppressed_total += 1;
            return;
        }
        let congestion = Reply::Puback(topic_id, publish.msg_id, ReturnCode::Congestion);
        if self.open.waiting() >= cx.config.limits.open_requests_per_client {
            cx.metrics.publish_congestion_total += 1;
            return self.reply(cx, congestion);
        }
        let message = self.uplink(cx, &name, qos, publish);
        let origin = self.origin(publish.msg_id, digest);
        let Ok(stored) = cx.publish(now, self.author, origin, message) else {
            cx.metrics.publish_congestion_total += 1;
            return self.reply(cx, congestion);
        };
        self.make_room_for_received(cx);
        self.open.requests.push(OpenRequest {
            kind,
            msg_id: publish.msg_id,
            topic_id,
            digest,
            stored: stored
                .filter(|_| kind == RequestKind::Publish2)
                .unwrap_or_default(),
            number: 0,
            earlier: false,
        });
    }

    /// Whatever the QoS, like an unknown topic id (readings A8, A43).
    fn refuse_publish(&mut self, cx: &mut Context, publish: Publish<'_>, topic: Arc<str>) {
        cx.metrics.publish_refused_total += 1;
        cx.notice(Notice::PublishRefused {
            client: self.id.clone(),
            topic,
            refusal: Refusal::TOPIC_INVALID,
        });
        if publish.qos != PublishQoS::MinusOne {
            let topic_id = echoed(publish.topic);
            self.reply(
                cx,
                Reply::Puback(topic_id, publish.msg_id, ReturnCode::NotSupported),
            );
        }
    }

    /// True if the request was carried out or is under way; then its answer is owed or will be (reading A46).
    fn is_repeat(&mut self, cx: &mut Context, now: Instant, publish: &Publish<'_>, digest: u32) -> bool {
        let open = self.open.publish_position(publish.msg_id);
        if let Some(at) = open
            && self.open.requests[at].digest == digest
        {
            self.open.requests[at].earlier = false;
            if self.open.requests[at].kind == RequestKind::Received {
                self.reply(cx, Reply::Pubrec(publish.msg_id));
            }
            return true;
        }
        let copies_until = cx.config.timers.retry_first;
        match (
            open,
            self.open.answer_to_finished(now, publish, digest, copies_until),
        ) {
            // Another message has the id now, and its sender would take the answer for that one's. That does no harm if
            // the broker has that one: a PUBACK is no answer to a message of QoS 2 that was accepted.
            (Some(at), Some(answer)) => {
                let settled = self.open.requests[at].kind == RequestKind::Received;
                if settled && publish.qos == PublishQoS::Level(QoS::AtLeastOnce) {
                    self.reply(cx, answer);
                }
                true
            }
            (None, Some(answer)) => {
                self.reply(cx, answer);
                true
            }
            // Another message under the same id: the client gave the old one up.
            (Some(at), None) => {
                let request = self.open.requests.remove(at);
                self.forget_receiving(cx, &request);
                false
            }
            (None, None) => false,
        }
    }

    /// A client that never sends PUBREL must not make its list grow: the oldest held id goes.
    fn make_room_for_received(&mut self, cx: &mut Context) {
        let requests = &mut self.open.requests;
        if requests.len() >= 2 * cx.config.limits.open_requests_per_client
            && let Some(at) = requests
                .iter()
                .position(|request| request.kind == RequestKind::Received)
        {
            let request = requests.remove(at);
            self.forget_receiving(cx, &request);
        }
    }

    /// A new session, or none: nothing of the old one is open any more.
    pub(crate) fn forget_requests(&mut self, cx: &mut Context) {
        for request in core::mem::take(&mut self.open).requests {
            self.forget_receiving(cx, &request);
        }
    }

    /// What is stored of a client's QoS 2 publish beside the message: that it may send another under the same id.
    fn forget_receiving(&self, cx: &mut Context, request: &OpenRequest) {
        if request.stored == 0 {
            return;
        }
        let key = receiving_key(request.stored);
        cx.journal.put(key, self.receiving(request, true));
        // With the message still here, it goes after that.
        if !cx.upstream.release(request.stored) {
            let _ = cx.journal.wait(Waiting::Forget(key, None));
        }
    }

    fn receiving(&self, request: &OpenRequest, released: bool) -> Bytes {
        let record = ReceivingRecord {
            serial: self.serial,
            msg_id: request.msg_id,
            digest: request.digest,
            released,
        };
        record.encode()
    }

    /// The broker settled a publish of this client.
    pub(crate) fn on_settled(
        &mut self,
        cx: &mut Context,
        msg_id: MsgId,
        digest: u32,
        topic: Arc<str>,
        result: Result<(), Refusal>,
    ) {
        let Some(at) = self
            .open
            .publish_position(msg_id)
            .filter(|at| self.open.requests[*at].digest == digest)
        else {
            return; // Given up by the client meanwhile.
        };
        let request = self.open.requests[at];
        if request.kind == RequestKind::Received {
            return; // An earlier copy under the same id, published before the client began anew.
        }
        let answer = match (result, request.kind) {
            (Ok(()), RequestKind::Publish2) => {
                self.open.requests[at].kind = RequestKind::Received;
                if request.stored != 0 {
                    let value = self.receiving(&request, false);
                    cx.journal.put(receiving_key(request.stored), value);
                    cx.journal.hurry();
                }
                Reply::Pubrec(msg_id)
            }
            (Ok(()), _) => {
                self.open.requests.remove(at);
                self.open.last_done = done(msg_id, digest);
                Reply::Puback(request.topic_id, msg_id, ReturnCode::Accepted)
            }
            (Err(refusal), _) => {
                self.open.requests.remove(at);
                cx.notice(Notice::PublishRefused {
                    client: self.id.clone(),
                    topic,
                    refusal,
                });
                // Reading A50: only "quota exceeded" means "later".
                let code = match refusal {
                    Refusal::QUOTA_EXCEEDED => ReturnCode::Congestion,
                    _ => ReturnCode::NotSupported,
                };
                Reply::Puback(request.topic_id, msg_id, code)
            }
        };
        if self.state.is_connected() && !request.earlier {
            self.reply(cx, answer);
        }
    }

    /// C→G PUBREL(m)   G→C PUBCOMP(m), also for an id we do not know: its PUBCOMP was lost (reading A51).
    pub(crate) fn on_pubrel(&mut self, cx: &mut Context, now: Instant, msg_id: MsgId) {
        if let Some(at) = self.open.publish_position(msg_id)
            && self.open.requests[at].kind == RequestKind::Received
        {
            let request = self.open.requests[at];
            self.open.release(at, now);
            self.forget_receiving(cx, &request);
            if request.stored != 0 {
                // Not before: a later life would take the next message under this id for a repeat.
                return self.reply_durably(cx, Reply::Pubcomp(msg_id));
            }
        }
        self.reply(cx, Reply::Pubcomp(msg_id));
    }

    fn resolve(&mut self, cx: &mut Context, topic: TopicRef) -> Option<Arc<str>> {
        match topic {
            TopicRef::Normal(id) => self.topics.by_id(id).map(|topic| topic.name.clone()),
            TopicRef::Predefined(id) => cx.predefined.resolve(self.rule, &mut self.topics, &self.id, id),
            TopicRef::Short(short) => short.as_str().map(|name| cx.names.intern(name)),
        }
    }

    fn uplink(&self, cx: &mut Context, name: &Arc<str>, qos: QoS, publish: Publish<'_>) -> Uplink {
        Uplink {
            topic: cx.names.with_prefix(&cx.config.upstream.topic_prefix, name),
            qos,
            retain: publish.retain,
            payload: cx.payloads.keep(publish.data),
        }
    }

    fn origin(&self, msg_id: MsgId, digest: u32) -> Origin {
        Origin::Client {
            client: self.ix,
            serial: self.serial,
            msg_id,
            digest,
        }
    }
}

/// The two octets of the topic field, which a PUBACK echoes.
fn echoed(topic: TopicRef) -> TopicId {
    match topic {
        TopicRef::Normal(id) | TopicRef::Predefined(id) => id,
        TopicRef::Short(short) => TopicId(u16::from_be_bytes(short.0)),
    }
}

/// A number that is the same for a repeat of a PUBLISH and almost surely another for anything else.
fn digest(publish: Publish<'_>) -> u32 {
    use core::hash::Hasher;
    let mut hasher = FxHasher::default();
    let form = match publish.topic {
        TopicRef::Normal(_) => 0,
        TopicRef::Predefined(_) => 1,
        TopicRef::Short(_) => 2,
    };
    hasher.write_u32(u32::from(echoed(publish.topic).0) << 8 | form << 1 | u32::from(publish.retain));
    hasher.write(publish.data);
    let hash = hasher.finish();
    (hash >> 32) as u32 ^ hash as u32
}
