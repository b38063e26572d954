//! PUBLISH: a message to everyone who gets it.

use core::time::Duration;
use std::sync::Arc;

use gateway_core::time::Instant;
use sn_codec::QoS;

use super::Router;
use super::settle::Pending;
use crate::embedded::awaited::Awaited;
use crate::embedded::filters::{Filter, Match, is_sys, is_topic_name};
use crate::embedded::packet::{ClientKey, Message, reason};
use crate::embedded::session::{Entry, Session, Taken};
use crate::embedded::shared::{Fitness, Subscriber};

/// QoS 2 messages of one session that wait for their PUBREL, at most. Well above the receive maximum that connections
/// announce, and what 3.1.1 clients, which know none, keep open.
const INBOUND_MAX: usize = 1024;

/// A session that gets the message being routed.
#[derive(Debug)]
pub(super) struct Target {
    session: u32,
    /// Granted.
    qos: QoS,
    retain_as_published: bool,
    ids: Box<[u32]>,
    share: Option<Arc<str>>,
}

impl Target {
    fn new(subscriber: &Subscriber, share: Option<Arc<str>>) -> Self {
        Target {
            session: subscriber.session,
            qos: subscriber.qos,
            retain_as_published: subscriber.retain_as_published,
            ids: subscriber.id.into_iter().collect(),
            share,
        }
    }

    /// Another subscription of the session matches (§3.3.4): one message, at the highest QoS, with all identifiers.
    fn merge(&mut self, subscriber: &Subscriber) {
        self.qos = self.qos.max(subscriber.qos);
        self.retain_as_published |= subscriber.retain_as_published;
        self.ids = self.ids.iter().copied().chain(subscriber.id).collect();
    }

    fn entry(self, message: &Arc<Message>, expires: Option<Instant>) -> Entry {
        Entry {
            qos: message.qos.min(self.qos),
            retain: message.retain && self.retain_as_published,
            message: message.clone(),
            ids: self.ids,
            expires,
            share: self.share,
            held_over: false,
            awaited: None,
        }
    }
}

/// What became of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Published {
    /// To be acknowledged now, with this reason code.
    Settled(u8),
    /// Acknowledged under this number when the sessions have taken it.
    Withheld(u64),
    /// Nobody got it.
    Refused,
}

impl Router {
    pub(super) fn on_publish(&mut self, client: ClientKey, session: u32, packet_id: u16, message: Message) {
        self.out.stats.publish_received += 1;
        self.out.stats.bytes_received += message.payload.len() as u64;
        let qos = message.qos;
        if qos > QoS::AtMostOnce && packet_id == 0 {
            // MQTT-2.2.1-3
            return self.end(client, reason::PROTOCOL_ERROR);
        }
        if !is_topic_name(&message.topic) {
            // MQTT-3.3.2-2
            return self.end(client, reason::TOPIC_NAME_INVALID);
        }
        if qos == QoS::ExactlyOnce {
            // MQTT-4.3.3-10: it is the same message until PUBREL.
            let inbound = &self.sessions[session as usize].inbound;
            if let Some(withheld) = inbound.get(&packet_id) {
                match withheld.and_then(|number| self.pending.get_mut(&number)) {
                    Some(pending) => pending.client = client,
                    None => self.answer(client, packet_id, qos, reason::SUCCESS),
                }
                return;
            }
            if inbound.len() >= INBOUND_MAX {
                return self.end(client, reason::RECEIVE_MAXIMUM_EXCEEDED);
            }
        }
        if is_sys(&message.topic) {
            // Not forwarded (§4.7.2); mosquitto answers alike.
            return self.answer(client, packet_id, qos, reason::NOT_AUTHORIZED);
        }
        let publisher = (qos > QoS::AtMostOnce).then_some((client, packet_id));
        let published = self.route(Some(session), message, publisher);
        // Routing a message ends no connection, so the session is still the client's.
        let withheld = match published {
            Published::Settled(reason) => {
                self.answer(client, packet_id, qos, reason);
                None
            }
            Published::Withheld(number) => Some(number),
            Published::Refused => {
                self.out.stats.refused_full += 1;
                return self.answer(client, packet_id, qos, reason::QUOTA_EXCEEDED);
            }
        };
        if qos == QoS::ExactlyOnce {
            self.sessions[session as usize]
                .inbound
                .insert(packet_id, withheld);
        }
    }

    /// Gives a message to all who subscribe to its topic, and keeps it if it is to be retained. With a `publisher`,
    /// who waits for an acknowledgement, it is all or nothing. This is where a message is settled: when all sessions
    /// have taken it, and those of the gateway have acknowledged it.
    pub(super) fn route(
        &mut self,
        from: Option<u32>,
        message: Message,
        publisher: Option<(ClientKey, u16)>,
    ) -> Published {
        let now = self.now;
        let expires = message
            .expiry
            .map(|seconds| now + Duration::from_secs(seconds.into()));
        let message = Arc::new(message);
        let size = message.size();
        let mut targets = core::mem::take(&mut self.targets);
        self.find_targets(from, &message, size, &mut targets);

        // What the gateway has stored it may have promised: who has no room for it gets it later.
        let refused = publisher.is_some()
            && !message.is_stored()
            && targets.iter().any(|target| {
                target.qos > QoS::AtMostOnce && self.sessions[target.session as usize].refuses(size)
            });
        if refused {
            targets.clear();
            self.targets = targets;
            return Published::Refused;
        }
        if message.retain {
            self.retain(&message, expires);
        }

        let nobody = targets.is_empty();
        self.go_on(&message, &mut targets);
        let number = self.next_pending;
        let mut waits_for = 0;
        // What the gateway publishes is in its own store, or nothing survives.
        let by_client = from.is_some_and(|from| !self.sessions[from as usize].local);
        let mut awaited = None;
        for target in targets.drain(..) {
            let session = target.session;
            let mut entry = target.entry(&message, expires);
            if publisher.is_some()
                && by_client
                && entry.qos > QoS::AtMostOnce
                && self.sessions[session as usize].local
            {
                let first = || Awaited::new(number, self.end.clone());
                entry.awaited = Some(awaited.get_or_insert_with(first).another());
            }
            let taken = self.offer(session, entry, publisher.is_some());
            // Not by the publisher's own session: what makes room there, its acknowledgements, may stand behind more
            // publishes, which are not read while too many are unacknowledged.
            let waits = publisher.is_some() && from != Some(session);
            if taken == Taken::Withheld && waits {
                self.sessions[session as usize].withheld.push(number);
                waits_for += 1;
            }
        }
        self.targets = targets;
        if let Some(awaited) = awaited {
            // All its copies count as one.
            waits_for += 1;
            awaited.settle();
        }

        match publisher {
            Some((client, packet_id)) if waits_for > 0 => {
                self.next_pending += 1;
                self.pending.insert(
                    number,
                    Pending {
                        client,
                        session: from,
                        packet_id,
                        qos: message.qos,
                        waits_for,
                        reason: reason::SUCCESS,
                    },
                );
                Published::Withheld(number)
            }
            _ if nobody => Published::Settled(reason::NO_MATCHING_SUBSCRIBERS),
            _ => Published::Settled(reason::SUCCESS),
        }
    }

    fn find_targets(&mut self, from: Option<u32>, message: &Message, size: usize, targets: &mut Vec<Target>) {
        self.routed += 1;
        let Router {
            filters,
            sessions,
            routed,
            ..
        } = self;
        filters.matching(&message.topic, |found| match found {
            // MQTT-3.8.3-3
            Match::Subscriber(subscriber) if subscriber.no_local && from == Some(subscriber.session) => {}
            Match::Subscriber(subscriber) => {
                let mark = sessions[subscriber.session as usize].mark(*routed);
                if let Some(at) = mark.target {
                    targets[at].merge(subscriber);
                } else {
                    mark.target = Some(targets.len());
                    mark.copies += 1;
                    targets.push(Target::new(subscriber, None));
                }
            }
            Match::Group(group) => {
                let filter = group.filter.clone();
                let fitness = |member: &Subscriber| sessions[member.session as usize].fitness(size);
                if let Some(member) = group.choose(Fitness::Full, fitness) {
                    sessions[member.session as usize].mark(*routed).copies += 1;
                    targets.push(Target::new(member, Some(filter)));
                }
            }
        });
    }

    /// The sessions that took a message of the gateway in an earlier life are not sent it again; PUBREL is due.
    fn go_on(&mut self, message: &Message, targets: &mut Vec<Target>) {
        let Some((exact, receipt)) = message.exact().zip(message.receipt.as_ref()) else {
            return;
        };
        for number in exact.taken() {
            let Some(session) = self.restored.get(&number).copied() else {
                continue;
            };
            let known = self.sessions.get_mut(session as usize);
            let kept = |session: &Session| session.kept.is_some_and(|kept| kept.number() == number);
            let Some(known) = known.filter(|session| kept(session)) else {
                continue;
            };
            known.go_on(exact.packet_id(), receipt.clone());
            targets.retain(|target| target.session != session || target.share.is_some());
            self.pump(session);
        }
    }

    fn retain(&mut self, message: &Arc<Message>, expires: Option<Instant>) {
        // What is retained is nobody's yet.
        let kept = match message.is_stored() {
            true => &Arc::new(Message {
                receipt: None,
                ..Message::clone(message)
            }),
            false => message,
        };
        if self.retained.set(self.now, kept, expires).is_err() {
            if self.out.stats.dropped_retained == 0 {
                tracing::warn!(
                    target: "broker", topic = %message.topic,
                    retained = self.retained.len(),
                    "too many retained messages: those on new topics are delivered but not kept"
                );
            }
            self.out.stats.dropped_retained += 1;
        }
        self.out.stats.retained = self.retained.len();
    }

    pub(super) fn offer(&mut self, session: u32, entry: Entry, promised: bool) -> Taken {
        let taken =
            self.sessions[session as usize].offer(self.now, entry, promised, &self.retained, &mut self.out);
        match taken {
            Taken::Withheld => self.arm(session),
            Taken::Settled => self.relieve(session),
        }
        taken
    }

    /// Gives a message of a shared subscription to another member.
    pub(super) fn share(&mut self, mut entry: Entry, least: Fitness) -> Result<(), Entry> {
        let Router {
            filters, sessions, ..
        } = self;
        let size = entry.message.size();
        let filter = entry.share.as_deref().and_then(Filter::parse);
        let group = filter.and_then(|filter| filters.group(&filter));
        let member = group
            .and_then(|group| group.choose(least, |member| sessions[member.session as usize].fitness(size)));
        let Some(member) = member else {
            return Err(entry);
        };
        entry.qos = entry.message.qos.min(member.qos);
        entry.retain = entry.message.retain && member.retain_as_published;
        entry.ids = member.id.into_iter().collect();
        entry.held_over = false;
        let session = member.session;
        if !sessions[session as usize].local || entry.qos == QoS::AtMostOnce {
            entry.settle();
        }
        self.offer(session, entry, false);
        Ok(())
    }
}
