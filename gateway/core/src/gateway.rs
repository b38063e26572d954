//! The gateway: dispatch of inputs, drain of outputs.

use core::hash::{Hash as _, Hasher as _};
use core::num::NonZeroU32;
use core::sync::atomic::Ordering;
use core::time::Duration;
use std::sync::Arc;

use bytes::Bytes;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use rustc_hash::{FxHashMap, FxHashSet};
use sn_codec::{DecodeError, Encapsulation, ErrorKind, MsgType, Packet, PublishQoS, QoS, TopicRef, topic};

use crate::admin::{AdminCommand, AdminReply, SpoolRow, TopicRow};
use crate::client::downlink::{Message, Stored};
use crate::client::subscribe::drive;
use crate::client::{Client, State, Unsaved};
use crate::clients::{ClientIx, ClientTable, Peer};
use crate::config::{AddressChange, GatewayConfig, QosMinusOneRule, UnknownSender};
use crate::context::{Context, Payloads};
use crate::durable::records::{MessageRecord, Recipient};
use crate::durable::{Journal, RECIPIENTS_MAX, Waiting, message_key, progress_key};
use crate::forwarder::Forwarders;
use crate::io::{
    BrokerEvent, ConnId, DeliveryId, FilterId, LinkEvent, LinkProfile, Notice, Output, RadioFacts, Refusal,
    StoreEvent, Token,
};
use crate::limiter::{RateLimit, SearchLimit, Seldom, StrangerLimit};
use crate::link_metrics::LinkMetrics;
use crate::links::{Links, Via};
use crate::metrics::{Metrics, SpoolDrop};
use crate::peer::{LinkAddr, LinkId, LocalEnd, Route};
use crate::registry::{IdTrails, Names, Predefined};
use crate::sources::Sources;
use crate::status::Status;
use crate::subscriptions::{Arrival, Asker, FilterKey, Pending, Subscriptions};
use crate::time::Instant;
use crate::timers::Timers;
use crate::upstream::spooled::Spooled;
use crate::upstream::{Author, Origin, SUBSCRIPTIONS, Settled, Uplink, Upstream};

/// Expiries worked off in one call, so that a resumed laptop does not freeze the loop.
const EXPIRIES_PER_CALL: usize = 1024;

/// Rows of one admin answer.
const ADMIN_ROWS_MAX: usize = 1000;

/// Between two notices about publishes with QoS −1 that no rule allows; taste.
const MINUS_ONE_NOTICE: Duration = Duration::from_secs(60);

/// Changes that nobody waits for are written after this at the latest: a client that fell asleep is taken for one that is
/// there, and the other way round, for that long after a power cut; both put themselves right.
const LAZY: Duration = Duration::from_secs(600);

/// Between two clients that are named in notices of refused messages; a broker may refuse all that waited. Taste.
const NAMING: Duration = Duration::from_millis(100);

/// The whole gateway as a state machine. See the crate documentation for who calls what in which order.
#[derive(Debug)]
pub struct Gateway {
    pub(crate) clients: ClientTable,
    pub(crate) cx: Context,
    pub(crate) status: Status,
    /// Looking for a client by what it published takes as long as there are clients.
    naming: Seldom,
    /// Kept for its memory.
    recipients: Vec<(ClientIx, QoS)>,
    /// The link that may send next.
    pub(crate) next_link: u16,
}

impl Gateway {
    /// A gateway without clients. The same seed and the same inputs give the same outputs.
    pub fn new(config: GatewayConfig, seed: u64, now: Instant) -> Self {
        let cx = Context {
            predefined: Predefined::new(&config.predefined, &config.clients),
            id_trails: IdTrails::default(),
            names: Names::default(),
            payloads: Payloads::default(),
            upstream: Upstream::new(&config.upstream, &config.limits, config.durability.is_some()),
            journal: Journal::new(config.durability.clone()),
            subscriptions: Subscriptions::default(),
            links: Links::new(config.keep_airtime),
            facts: RadioFacts::default(),
            timers: Timers::default(),
            metrics: Metrics::default(),
            rng: SmallRng::seed_from_u64(seed),
            notices: std::collections::VecDeque::new(),
            strangers: StrangerLimit::new(config.limits.unknown_sender_answers_per_second),
            searches: SearchLimit::new(
                config.search_reply_interval,
                config.limits.unknown_sender_answers_per_second,
            ),
            new_sessions: RateLimit::new(config.limits.new_sessions_per_second),
            qos_minus_one: RateLimit::new(config.limits.qos_minus_one_per_second),
            minus_one_refused: Seldom::new(MINUS_ONE_NOTICE),
            pending_connects: 0,
            config,
        };
        Gateway {
            clients: ClientTable::new(
                seed,
                Forwarders::new(&cx.config.forwarders),
                Sources::new(cx.config.limits.per_source_sessions),
            ),
            naming: Seldom::new(NAMING),
            status: Status::new(
                cx.config.status.as_ref(),
                cx.upstream.spare_connection(),
                &cx.config.upstream.client_id,
                now,
            ),
            cx,
            recipients: Vec::new(),
            next_link: 0,
        }
    }

    /// A link changed or grants credit.
    pub fn handle_link(&mut self, now: Instant, link: LinkId, event: LinkEvent) {
        self.cx.links.now = now;
        match event {
            LinkEvent::Up(profile) => self.on_link_up(now, link, profile),
            LinkEvent::Down => self.on_link_down(now, link),
            LinkEvent::Credit(datagrams) => self.cx.links.credit(link, datagrams),
            LinkEvent::Sent(ticket) => self.on_sent(now, link, ticket),
            LinkEvent::Unsent(ticket) => self.on_unsent(now, link, ticket),
            // Peers are known by their addresses alone.
            LinkEvent::PeerIdentified { .. } | LinkEvent::PeerGone { .. } => {}
        }
    }

    /// Clients of the link were not expired while it was down, and are given time to be heard of again. Who had a
    /// message under way comes first.
    fn on_link_up(&mut self, now: Instant, link: LinkId, profile: LinkProfile) {
        let outage = self.cx.links.up(now, link, profile);
        if outage.lost {
            self.cx.notice(Notice::AirtimeLost { link });
        }
        if outage.first {
            self.listen_first(now, link);
        }
        self.start_advertising(now, link);
        if !outage.first && outage.after.is_none() {
            return; // Another profile, and no outage.
        }
        let after = outage.after;
        self.cx.notice(Notice::LinkUp { link, after });
        self.status.changed(now);
        let Some(after) = after else { return };
        // Who lost its address meanwhile was on some link that is down.
        let mut clients = self
            .clients_where(|client| client.cut_off && client.via.as_ref().is_none_or(|via| via.link == link));
        let busy = |ix: &ClientIx| {
            self.clients
                .get(*ix)
                .is_some_and(|client| client.down.has_exchange())
        };
        clients.sort_by_key(|ix| !busy(ix));
        for ix in clients {
            if let Some(client) = self.clients.get_mut(ix) {
                client.on_link_up(&self.cx, now, after);
            }
            self.after(now, ix);
        }
    }

    fn clients_where(&self, is: impl Fn(&Client) -> bool) -> Vec<ClientIx> {
        self.clients
            .iter()
            .filter(|(_, client)| is(client))
            .map(|(ix, _)| ix)
            .collect()
    }

    /// What was owed is lost with the radio, as if it had been sent: clients ask again. Who was awake for its messages
    /// is asleep, with the message under way at the front. No client is expired before the link is back, and nothing
    /// counts as sent in vain.
    fn on_link_down(&mut self, now: Instant, link: LinkId) {
        let Some((replies, under_way)) = self.cx.links.down(now, link) else {
            return;
        };
        for owed in replies {
            if let Some(client) = self.clients.get_mut(owed.client)
                && client.serial == owed.serial
            {
                client.owed = client.owed.saturating_sub(1);
            }
        }
        for what in under_way {
            self.take_back(now, link, None, what);
        }
        let clients = self.clients_where(|client| client.via.as_ref().is_some_and(|via| via.link == link));
        self.cx.notice(Notice::LinkDown {
            link,
            clients: clients.len(),
        });
        self.status.changed(now);
        for ix in clients {
            if let Some(client) = self.clients.get_mut(ix) {
                client.on_link_down();
            }
            self.after(now, ix);
        }
    }

    /// One datagram arrived.
    ///
    /// The codec decides what can be read (readings A2 to A7, A9, A37), encapsulated or not (reading A82).
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        link: LinkId,
        from: &Route,
        facts: RadioFacts,
        datagram: &[u8],
    ) {
        self.cx.links.now = now;
        self.cx.facts = facts;
        self.cx.links.received(link, facts, datagram.len());
        let (encapsulation, message) = match Encapsulation::split(datagram) {
            Ok(split) => split,
            Err(error) => return self.count_malformed(error.kind),
        };
        let node = encapsulation.map(|encapsulation| encapsulation.wireless_node_id);
        if node.is_some() && !self.admits_forwarder(now, link, &from.addr) {
            return;
        }
        let bound = self.clients.by_peer(Peer {
            link,
            addr: &from.addr,
            node,
        });
        let via = || Via {
            link,
            route: from.clone(),
            node: node.map(Box::from),
        };
        match Packet::decode(message) {
            Ok(packet) => self.on_packet(now, bound, via, from.local, packet),
            Err(error) => self.on_malformed(now, bound, via, message, error),
        }
    }

    fn on_packet(
        &mut self,
        now: Instant,
        bound: Option<ClientIx>,
        via: impl Fn() -> Via,
        local: LocalEnd,
        packet: Packet<'_>,
    ) {
        self.cx.metrics.count_received(packet.msg_type());
        if let (Packet::SearchGw(_) | Packet::Advertise(_) | Packet::GwInfo(_), Some(ix)) = (packet, bound)
            && let Some(client) = self.clients.get_mut(ix)
        {
            client.heard_aside(&self.cx, now);
            self.after(now, ix);
        }
        match packet {
            // §6.2: before its CONNACK a client is sent prompts and nothing else.
            Packet::SearchGw(_) if bound.is_some_and(|ix| self.is_in_setup(ix)) => {
                self.cx.metrics.unexpected_total += 1;
                return;
            }
            Packet::SearchGw(search) => return self.on_search_gw(now, via(), search.radius),
            Packet::Advertise(heard) => {
                let from = via();
                return self.on_advertise(now, from.link, &from.route.addr, heard);
            }
            Packet::GwInfo(heard) if heard.gw_add.is_empty() => {
                let from = via();
                return self.on_other_gateway(now, from.link, &from.route.addr, heard.gw_id);
            }
            Packet::GwInfo(_) => return, // A client that knows a gateway tells one that searches (reading A81).
            Packet::Connect(connect) => return self.on_connect(now, via(), bound, connect),
            Packet::Connack(_)
            | Packet::WillTopicReq
            | Packet::WillMsgReq
            | Packet::Suback(_)
            | Packet::Unsuback(_)
            | Packet::WillTopicResp(_)
            | Packet::WillMsgResp(_) => return self.count_malformed(ErrorKind::WrongDirection),
            _ => {}
        }
        let session = bound.filter(|ix| self.clients.get(*ix).is_some_and(Client::has_session));
        if let Packet::Pingreq(ping) = packet
            && let Some(id) = ping.client_id
        {
            return self.on_pingreq_with_id(now, via, session, id);
        }
        let Some(ix) = session else {
            return self.on_packet_without_session(now, via, packet);
        };
        let Some(client) = self.clients.get_mut(ix) else {
            return;
        };
        if let Some(known) = &mut client.via {
            known.route.local = local; // Answers leave from where the client sends to now.
        }
        client.on_packet(&mut self.cx, now, packet);
        self.after(now, ix);
    }

    /// Binds a client to an address; if it was at another, that is told.
    pub(crate) fn bind(&mut self, ix: ClientIx, via: Via) {
        if let Some(client) = self.clients.get(ix)
            && let Some(old) = &client.via
            && Peer::from(old) != Peer::from(&via)
        {
            self.cx.metrics.takeovers_total += 1;
            let notice = Notice::AddressChanged {
                client: client.id.clone(),
                link: via.link,
                old: old.into(),
                new: (&via).into(),
            };
            self.cx.notice(notice);
        }
        self.clients.bind(ix, via);
    }

    /// Whether a PINGREQ from a new address wakes the client (reading A16).
    fn may_wake_elsewhere(&self, ix: ClientIx) -> bool {
        self.clients.get(ix).is_some_and(|client| {
            client.via.is_none() || self.cx.address_change(client.rule) != AddressChange::Strict
        })
    }

    pub(crate) fn is_in_setup(&self, ix: ClientIx) -> bool {
        let state = self.clients.get(ix).map(|client| &client.state);
        matches!(state, Some(State::Setup(_)))
    }

    /// A packet from a peer that has no session.
    fn on_packet_without_session(&mut self, now: Instant, via: impl Fn() -> Via, packet: Packet<'_>) {
        match packet {
            Packet::Publish(publish) if publish.qos == PublishQoS::MinusOne => {
                self.on_publish_minus_one(now, &via(), publish);
            }
            // Reading A77: else a client that lost our first answer retries and reports an error.
            Packet::Disconnect(_) if self.cx.config.unknown_sender == UnknownSender::Disconnect => {
                self.answer_stranger(via(), crate::client::Reply::Disconnect.into());
            }
            // Late packets of a finished session.
            Packet::Regack(_)
            | Packet::Puback(_)
            | Packet::Pubrec(_)
            | Packet::Pubcomp(_)
            | Packet::Pingresp => self.cx.metrics.unknown_sender_total += 1,
            _ => self.on_stranger(now, via()),
        }
    }

    /// PINGREQ with a client id: a ping, or a client that wakes up, perhaps from a new address (reading A16).
    fn on_pingreq_with_id(
        &mut self,
        now: Instant,
        via: impl Fn() -> Via,
        session: Option<ClientIx>,
        id: &str,
    ) {
        let named = self.clients.by_id(id);
        let sleeps = |ix: &ClientIx| {
            let state = self.clients.get(*ix).map(|client| &client.state);
            matches!(state, Some(State::Asleep { .. } | State::Awake(_)))
        };
        let ix = match (session, named) {
            (Some(own), Some(named)) if own == named => own,
            (_, Some(named))
                if sleeps(&named)
                    && self.may_wake_elsewhere(named)
                    && (session.is_some() || self.no_place(now, Some(named), &via()).is_none()) =>
            {
                self.bind(named, via());
                if let Some(client) = self.clients.get_mut(named) {
                    client.touch_lazily();
                }
                named
            }
            // §6.2: not before its CONNACK.
            (Some(own), _) if self.is_in_setup(own) => {
                self.cx.metrics.unexpected_total += 1;
                return;
            }
            _ => return self.on_stranger(now, via()),
        };
        if let Some(client) = self.clients.get_mut(ix) {
            let client_id = Some(id);
            client.on_packet(
                &mut self.cx,
                now,
                Packet::Pingreq(sn_codec::Pingreq { client_id }),
            );
        }
        self.after(now, ix);
    }

    /// QoS −1 from a peer without a session (§6.8, reading A48).
    fn on_publish_minus_one(&mut self, now: Instant, from: &Via, publish: sn_codec::Publish<'_>) {
        let rules = &self.cx.config.qos_minus_one;
        let rule = rules
            .iter()
            .find(|rule| rule.peers.covers(from.link, &from.route.addr));
        let name = match (publish.topic, rule) {
            (TopicRef::Predefined(id), Some(rule)) => {
                self.cx.predefined.resolve_for(&client_id(rule, from), id)
            }
            (TopicRef::Predefined(id), None) => self.cx.predefined.anonymous(id).cloned(),
            (TopicRef::Short(name), Some(_)) => core::str::from_utf8(&name.0).ok().map(Arc::from),
            (TopicRef::Normal(_) | TopicRef::Short(_), _) => None,
        };
        let refused = match (rule, &name) {
            (Some(rule), Some(name)) => !rule.topics.iter().any(|filter| topic::matches(filter, name)),
            (Some(_), None) => false,
            (None, _) => !rules.is_empty(),
        };
        if refused {
            return self.refuse_minus_one(now, from);
        }
        let Some(name) = name else {
            self.cx.metrics.publish_unknown_topic_total += 1;
            if let TopicRef::Predefined(id) = publish.topic {
                self.cx.notice(Notice::UnknownTopic {
                    client: None,
                    addr: from.route.addr.clone(),
                    topic_id: id.0,
                });
            }
            return;
        };
        if !self.cx.may_publish(&name) {
            self.cx.metrics.publish_refused_total += 1;
            return;
        }
        let message = Uplink {
            topic: self
                .cx
                .names
                .with_prefix(&self.cx.config.upstream.topic_prefix, &name),
            qos: QoS::AtMostOnce,
            retain: publish.retain,
            payload: self.cx.payloads.keep(publish.data),
        };
        let allowed = self.cx.qos_minus_one.allow(now);
        if !allowed
            || self
                .cx
                .publish(now, Author::NONE, Origin::Gateway, message)
                .is_err()
        {
            self.cx.metrics.publish_dropped_total += 1;
        }
    }

    fn refuse_minus_one(&mut self, now: Instant, from: &Via) {
        self.cx.metrics.publish_dropped_total += 1;
        if let Some(suppressed) = self.cx.minus_one_refused.allow(now) {
            self.cx.notice(Notice::PublishMinusOneRefused {
                link: from.link,
                addr: from.route.addr.clone(),
                suppressed,
            });
        }
    }

    /// A datagram that cannot be used. Its sender's session stays as it is (reading A1); where the layout is right and
    /// a value wrong, it is answered as its message would be (reading A8).
    fn on_malformed(
        &mut self,
        now: Instant,
        bound: Option<ClientIx>,
        via: impl Fn() -> Via,
        message: &[u8],
        error: DecodeError,
    ) {
        self.count_malformed(error.kind);
        let Some(answer) = error.answer else { return };
        let msg_type = type_octet(message).and_then(MsgType::from_octet);
        if msg_type == Some(MsgType::Connect) {
            self.cx.metrics.connects_refused_total += 1;
            return self.answer_stranger(via(), answer);
        }
        let session = bound.and_then(|ix| self.clients.get_mut(ix));
        let Some(client) = session.filter(|client| client.has_session()) else {
            return self.on_stranger(now, via());
        };
        let ix = client.ix;
        let in_setup = matches!(client.state, State::Setup(_));
        match msg_type {
            // The will cannot be used, so its handshake ends (reading A24).
            Some(MsgType::WillTopic) if in_setup => {
                client.abort_setup(&mut self.cx);
                self.answer_stranger(via(), answer);
            }
            Some(MsgType::WillTopic) => {}
            // §6.2: before its CONNACK a client is sent prompts and nothing else.
            _ if in_setup => {}
            _ => {
                client.heard(&mut self.cx, now);
                self.answer_stranger(via(), answer);
            }
        }
        self.after(now, ix);
    }

    /// A broker port reports.
    pub fn handle_broker(&mut self, now: Instant, event: BrokerEvent) {
        self.cx.links.now = now;
        if self.on_status_event(now, &event) {
            return;
        }
        match event {
            BrokerEvent::Up {
                conn,
                session_present,
                window,
                forgets,
            } => self.on_broker_up(now, conn, session_present, (window, forgets)),
            BrokerEvent::Down { conn, reason: _ } => self.on_broker_down(now, conn),
            BrokerEvent::Credit { conn, requests } => self.cx.upstream.on_credit(conn, requests),
            BrokerEvent::Settled { token, result } => {
                self.cx.upstream.on_outcome(token);
                self.on_settled(now, token, result);
            }
            BrokerEvent::Lost { token } => self.on_lost(token),
            BrokerEvent::Delivered { token } => self.cx.upstream.delivered(&mut self.cx.journal, token),
            BrokerEvent::Released { conn, delivery } => {
                let released = self.cx.journal.release(conn, delivery);
                let waiting = Waiting::Complete { conn, delivery };
                let waits = released && self.cx.journal.wait(waiting).is_none();
                if !waits && self.cx.journal.is_on() {
                    self.cx.upstream.complete(conn, delivery);
                }
            }
            BrokerEvent::Message {
                conn,
                delivery,
                filters,
                topic,
                qos,
                retain,
                payload,
            } => {
                let from = delivery.filter(|_| qos == QoS::ExactlyOnce);
                let from = from.map(|delivery| (conn, delivery));
                let stored = self.on_message(now, &filters, &topic, qos, retain, payload, from);
                // Reading A65: taken by every subscriber's queue, and durably so where anything is.
                if let Some(delivery) = delivery {
                    let waits = stored && self.cx.journal.wait(Waiting::Ack { conn, delivery }).is_none();
                    if !waits {
                        self.cx.upstream.acknowledge(conn, delivery);
                    }
                }
            }
        }
    }

    fn on_broker_up(
        &mut self,
        now: Instant,
        conn: ConnId,
        session_present: bool,
        (window, forgets): (u16, bool),
    ) {
        let first = !self.cx.upstream.any_up();
        self.cx
            .upstream
            .on_up(now, conn, session_present, window, forgets);
        if !session_present {
            self.cx.upstream.forget_deliveries(conn);
            self.cx.journal.release_all(conn);
        }
        if first {
            for link in self.cx.links.ids() {
                self.start_advertising(now, link);
            }
        }
        if conn != SUBSCRIPTIONS {
            return;
        }
        if !session_present {
            self.cx.upstream.forget_subscriptions();
        }
        for key in self.cx.subscriptions.keys() {
            let Some(filter) = self.cx.subscriptions.get_mut(key) else {
                continue;
            };
            if !session_present {
                // The broker forgot it; what it retains may have changed meanwhile.
                filter.active = None;
                filter.pending = Pending::Nothing;
                let subscribers: Vec<_> = filter
                    .subscribers
                    .iter()
                    .map(|subscriber| subscriber.client)
                    .collect();
                subscribers
                    .into_iter()
                    .for_each(|client| filter.want_retained(client));
            }
            drive(&mut self.cx, key);
        }
        self.cx.upstream.restore_first();
    }

    fn on_broker_down(&mut self, now: Instant, conn: ConnId) {
        if !self.cx.upstream.is_up(conn) {
            self.cx.upstream.end_opening(&mut self.cx.journal, now, conn);
            return;
        }
        if let Some(token) = self.cx.upstream.on_down(now, conn) {
            self.on_settled(now, token, Err(Refusal::CONNECTION_CLOSED));
        }
        self.cx.upstream.spool_unsettled(&mut self.cx.journal, now, conn);
        self.cx.metrics.broker_down_total += 1;
        if conn != SUBSCRIPTIONS {
            return;
        }
        // SUBACKs that were waited for: accepted now, carried out later (reading A31).
        for key in self.cx.subscriptions.keys() {
            let Some(filter) = self.cx.subscriptions.get_mut(key) else {
                continue;
            };
            let asks_again = filter.ask_again || filter.asks_next();
            let askers = filter.take_askers();
            if !askers.is_empty() {
                filter.accepted_for_now();
            }
            filter.ask_again = asks_again;
            self.answer_askers(now, key, askers, None);
        }
    }

    fn on_settled(&mut self, now: Instant, token: Token, result: Result<Option<QoS>, Refusal>) {
        if result == Err(Refusal::QUOTA_EXCEEDED) && self.postpone(now, token) {
            return;
        }
        match self.cx.upstream.settle(token, result.is_err()) {
            Some(Settled::Publish {
                origin,
                author,
                topic,
                stored,
                done,
            }) => {
                match result {
                    Ok(_) => self.cx.metrics.publish_settled_total += 1,
                    Err(_) => self.cx.metrics.publish_refused_total += 1,
                }
                if let (Err(refusal), Origin::Gateway) = (result, origin) {
                    if stored.is_some() {
                        self.cx.upstream.count_dropped(SpoolDrop::Refused, topic.clone());
                    }
                    let topic = topic.clone();
                    let client = self.client_of(now, author);
                    self.cx.notice(Notice::UnheardRefused {
                        client,
                        topic,
                        refusal,
                    });
                }
                self.answer_publisher(now, origin, topic, result.map(|_| ()));
                if let (Some(stored), true) = (stored, done) {
                    self.cx.upstream.forget_stored(&mut self.cx.journal, stored);
                }
            }
            Some(Settled::Subscribe { filter }) => self.on_subscribed(now, filter, result),
            Some(Settled::Unsubscribe { filter }) => {
                if let Some(filter) = self.cx.subscriptions.get_mut(filter) {
                    filter.pending = Pending::Nothing;
                    filter.active = None;
                }
                drive(&mut self.cx, filter);
            }
            None => {}
        }
    }

    /// Who publishes in this order, if that client has a session and few were asked for.
    fn client_of(&mut self, now: Instant, author: Author) -> Option<Arc<str>> {
        self.naming.allow(now)?;
        let mut clients = self.clients.iter().map(|(_, client)| client);
        let client = clients.find(|client| client.author == author)?;
        Some(client.id.clone())
    }

    /// The outcome of a publish is known, or it is durable and the broker does not get it soon.
    fn answer_publisher(
        &mut self,
        now: Instant,
        origin: Origin,
        topic: Arc<str>,
        result: Result<(), Refusal>,
    ) {
        let Origin::Client {
            client: ix,
            serial,
            msg_id,
            digest,
        } = origin
        else {
            return;
        };
        if let Some(client) = self.clients.get_mut(ix).filter(|client| client.serial == serial) {
            client.on_settled(&mut self.cx, msg_id, digest, topic, result);
            self.after(now, ix);
        }
    }

    fn on_subscribed(&mut self, now: Instant, key: FilterKey, result: Result<Option<QoS>, Refusal>) {
        let Some(filter) = self.cx.subscriptions.get_mut(key) else {
            return;
        };
        let pending = core::mem::replace(&mut filter.pending, Pending::Nothing);
        let askers = filter.take_asking();
        match result {
            Ok(granted) => {
                let granted = granted.unwrap_or(QoS::ExactlyOnce);
                let subscriptions = &mut self.cx.subscriptions;
                subscriptions.granted(now, key, granted, pending, &askers);
                self.answer_askers(now, key, askers, Some(Ok(())));
            }
            Err(refusal) => {
                let accepted_before: Vec<ClientIx> = match filter.active {
                    Some(_) => Vec::new(),
                    None => filter
                        .subscribers
                        .iter()
                        .map(|subscriber| subscriber.client)
                        .collect(),
                };
                let name = filter.name.clone();
                self.cx.notice(Notice::SubscriptionRefused {
                    filter: name,
                    refusal,
                });
                let asking: Vec<ClientIx> = askers.iter().map(|asker| asker.client).collect();
                self.answer_askers(now, key, askers, Some(Err(())));
                for ix in accepted_before.into_iter().filter(|ix| !asking.contains(ix)) {
                    // It was told that it is subscribed: it must learn that it is not (readings A31, A78).
                    let Some(client) = self.clients.get_mut(ix) else {
                        continue;
                    };
                    client.drop_subscription(&mut self.cx, key);
                    match client.state {
                        State::Active => client.goodbye(&mut self.cx, "broker refused a subscription"),
                        State::Asleep { .. } | State::Awake(_) => {
                            client.misled = true;
                            client.touch();
                        }
                        State::Setup(_) | State::Disconnected | State::Lost | State::Gone => {}
                    }
                    self.after(now, ix);
                }
            }
        }
        drive(&mut self.cx, key);
    }

    /// SUBACKs. `None`: the broker is away, and what was asked for is granted.
    fn answer_askers(
        &mut self,
        now: Instant,
        key: FilterKey,
        askers: Vec<Asker>,
        result: Option<Result<(), ()>>,
    ) {
        for asker in askers {
            let granted = self.cx.subscriptions.get_mut(key).and_then(|filter| {
                let own = filter.subscribers.get(asker.client)?;
                let granted = if result.is_none() { own.asked } else { own.granted };
                Some(granted.min(asker.asked))
            });
            let Some(client) = self
                .clients
                .get_mut(asker.client)
                .filter(|client| client.serial == asker.serial)
            else {
                continue;
            };
            match (result, granted) {
                (Some(Err(())), _) => {
                    client.on_subscribed(&mut self.cx, key, asker.msg_id, Err(()));
                    client.drop_subscription(&mut self.cx, key);
                }
                // Unsubscribed meanwhile: the SUBACK is owed all the same.
                (_, granted) => {
                    client.on_subscribed(&mut self.cx, key, asker.msg_id, Ok(granted.unwrap_or_default()));
                }
            }
            self.after(now, asker.client);
        }
    }

    fn on_lost(&mut self, token: Token) {
        match self.cx.upstream.lost(token) {
            Some(Settled::Subscribe { filter } | Settled::Unsubscribe { filter }) => {
                if let Some(filter) = self.cx.subscriptions.get_mut(filter) {
                    filter.pending = Pending::Nothing;
                    filter.ask_once_more();
                }
                drive(&mut self.cx, filter);
            }
            Some(Settled::Publish { .. }) | None => {}
        }
    }

    /// True if something of it is stored.
    #[expect(clippy::too_many_arguments, reason = "the fields of one event")]
    fn on_message(
        &mut self,
        now: Instant,
        filters: &[FilterId],
        topic: &Arc<str>,
        qos: QoS,
        retain: bool,
        payload: Bytes,
        from: Option<(ConnId, DeliveryId)>,
    ) -> bool {
        self.cx.metrics.messages_total += 1;
        let mut hasher = rustc_hash::FxHasher::default();
        (topic, &payload).hash(&mut hasher);
        let arrival = Arrival {
            ids: filters,
            topic,
            retain,
            digest: NonZeroU32::MIN | hasher.finish() as u32,
            qos,
            is_status: self.status.is_own_topic(topic),
        };
        let mut recipients = core::mem::take(&mut self.recipients);
        self.cx.subscriptions.recipients(now, arrival, &mut recipients);
        if recipients.is_empty() {
            self.cx.metrics.messages_unmatched_total += 1;
        }
        // A payload may be a part of what the broker's port has read. Who waits for long keeps only his own.
        let waits = |ix: &ClientIx| self.clients.get(*ix).is_some_and(|client| !client.may_deliver());
        let payload = match recipients.iter().any(|(ix, _)| waits(ix)) {
            true => Bytes::copy_from_slice(&payload),
            false => payload,
        };
        let mut any_stored = false;
        let unsure = from.is_some() && self.cx.journal.works();
        for recipients in recipients.chunks(RECIPIENTS_MAX) {
            let id = self.cx.journal.is_on().then(|| self.cx.journal.new_id());
            let message = Arc::new(Message {
                topic: topic.clone(),
                payload: payload.clone(),
                retain,
                stored: id.map(|id| Stored::new(id, from, unsure)),
            });
            let mut places = Vec::new();
            for &(ix, granted) in recipients {
                if let Some(client) = self.clients.get_mut(ix) {
                    places.extend(client.deliver(&mut self.cx, now, &message, qos.min(granted)));
                }
                self.after(now, ix);
            }
            if let (Some(id), false) = (id, places.is_empty()) {
                any_stored = true;
                self.store_message(now, id, &message, places);
                if from.is_some() {
                    self.send_when_durable(message, recipients);
                }
            }
        }
        self.recipients = recipients;
        any_stored
    }

    /// Whoever gets it with QoS 2 does so when it is durable.
    fn send_when_durable(&mut self, message: Arc<Message>, recipients: &[(ClientIx, QoS)]) {
        let exactly_once = recipients
            .iter()
            .filter(|(_, granted)| *granted == QoS::ExactlyOnce);
        let clients = exactly_once.filter_map(|(ix, _)| Some((*ix, self.clients.get(*ix)?.serial)));
        let clients: Vec<(ClientIx, u32)> = clients.collect();
        if !clients.is_empty() {
            // Without a disk that works it was not held back.
            let _ = self.cx.journal.wait(Waiting::Message(message, clients));
        }
    }

    fn store_message(&mut self, now: Instant, id: u64, message: &Message, recipients: Vec<Recipient>) {
        let from = message.stored.as_ref().and_then(|stored| stored.from);
        let record = MessageRecord {
            from,
            since_ms: self.cx.journal.unix_ms(now),
            retain: message.retain,
            topic: message.topic.clone(),
            payload: message.payload.clone(),
            recipients,
        };
        self.cx.journal.put(message_key(id), record.encode());
        if let Some((conn, delivery)) = from {
            self.cx.journal.receive(conn, delivery, id);
        }
    }

    /// The store reports.
    pub fn handle_store(&mut self, now: Instant, event: StoreEvent) {
        self.cx.links.now = now;
        match event {
            StoreEvent::Durable(ticket) => {
                while let Some(waiting) = self.cx.journal.next_durable(ticket) {
                    self.on_durable(now, waiting);
                }
            }
            StoreEvent::Failed => {
                self.status.changed(now);
                for waiting in self.cx.journal.fail() {
                    self.on_durable(now, waiting);
                }
                self.cx.upstream.on_store_failed();
            }
            StoreEvent::Works => {
                self.status.changed(now);
                self.cx.journal.recover();
                self.cx.upstream.on_store_works(&mut self.cx.journal, now);
            }
            event @ (StoreEvent::AirtimeStored(_)
            | StoreEvent::AirtimeNotStored(_)
            | StoreEvent::AirtimeFound(..)) => {
                if let Some(notice) = self.cx.links.on_store(now, event) {
                    self.cx.notice(notice);
                }
            }
        }
    }

    fn on_durable(&mut self, now: Instant, waiting: Waiting) {
        let (ix, serial) = match waiting {
            Waiting::Ack { conn, delivery } => return self.cx.upstream.acknowledge(conn, delivery),
            Waiting::Complete { conn, delivery } => return self.cx.upstream.complete(conn, delivery),
            Waiting::Subscription(token) => return self.cx.upstream.release_subscription(token),
            Waiting::Uplink(token) => {
                if let Some(Settled::Publish { origin, topic, .. }) = self.cx.upstream.on_durable(token) {
                    self.cx.metrics.publish_spooled_total += 1;
                    self.answer_publisher(now, origin, topic, Ok(()));
                }
                return;
            }
            Waiting::Message(message, clients) => {
                if let Some(stored) = &message.stored {
                    stored.unsure.store(false, Ordering::Relaxed);
                }
                for (ix, serial) in clients {
                    if self.clients.get(ix).is_some_and(|client| client.serial == serial) {
                        self.after(now, ix);
                    }
                }
                return;
            }
            Waiting::Forget(key, then) => {
                self.cx.journal.delete(key);
                if let Some(then) = then {
                    // If the disk does not work, later.
                    let _ = self.cx.journal.wait(Waiting::Forget(then, None));
                }
                return;
            }
            Waiting::ForgetProgress(id, recipients) => {
                for recipient in 0..recipients {
                    self.cx.journal.delete(progress_key(id, recipient));
                }
                return;
            }
            Waiting::Reply { client, serial, .. }
            | Waiting::Suback { client, serial, .. }
            | Waiting::Exchange { client, serial, .. } => (client, serial),
        };
        let Some(client) = self.clients.get_mut(ix).filter(|client| client.serial == serial) else {
            return;
        };
        match waiting {
            Waiting::Reply {
                reply, taken_back, ..
            } if client.state.is_connected() && client.taken_back == taken_back => {
                client.reply_promised(&mut self.cx, reply);
            }
            Waiting::Suback {
                number,
                filter,
                msg_id,
                granted,
                ..
            } if client.open.has_subscribe(number) => {
                client.suback(&mut self.cx, filter, msg_id, Ok(granted));
            }
            Waiting::Exchange { msg_id, .. } => client.release_exchange(msg_id),
            _ => {}
        }
        self.after(now, ix);
    }

    /// Timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.cx.links.now = now;
        for _ in 0..EXPIRIES_PER_CALL {
            let Some((at, ix)) = self.cx.timers.pop_due(now) else {
                break;
            };
            let Some(client) = self.clients.get_mut(ix).filter(|client| client.armed == Some(at)) else {
                continue;
            };
            client.on_deadline(&mut self.cx, now);
            if client.on_challenge_deadline(&mut self.cx, now) {
                self.take_over(now, ix);
            }
            self.after(now, ix);
        }
        self.cx.subscriptions.close_windows(now);
        self.cx.upstream.look_at_quarantine(now);
        self.cx.upstream.look_at_held(now);
        self.cx.upstream.look_at_opening(&mut self.cx.journal, now);
        self.cx.upstream.drop_expired(&mut self.cx.journal, now);
        if self.lazy_at().is_some_and(|at| now >= at) {
            self.cx.journal.hurry();
        }
        self.advertise_due(now);
        self.look_at_status(now);
    }

    /// Before a commit: what had time goes with it.
    fn save_lazily_changed(&mut self) {
        if !self.cx.journal.is_urgent() {
            return;
        }
        self.cx.journal.lazy_since = None;
        for (ix, serial) in core::mem::take(&mut self.cx.journal.lazy) {
            if let Some(client) = self.clients.get_mut(ix)
                && client.serial == serial
                && client.unsaved == Unsaved::InLine
            {
                client.unsaved = Unsaved::Lazy;
                client.save(&mut self.cx);
            }
        }
    }

    /// When what nobody waits for is written at the latest.
    fn lazy_at(&self) -> Option<Instant> {
        let since = self.cx.journal.lazy_since?;
        Some(since + LAZY)
    }

    /// The gateway stops: connected clients are told, and the broker connections closed in good order (reading A78).
    pub fn handle_shutdown(&mut self, now: Instant) {
        // With what it knows on disk, nobody notices that it was away (reading A78).
        let told = !self.cx.journal.is_on();
        self.cx.journal.hurry();
        self.cx.links.now = now;
        let connected: Vec<ClientIx> = self
            .clients
            .iter()
            .filter(|(_, client)| told && matches!(client.state, State::Active))
            .map(|(ix, _)| ix)
            .collect();
        for ix in connected {
            if let Some(client) = self.clients.get_mut(ix) {
                client.goodbye(&mut self.cx, "gateway stops");
            }
            self.after(now, ix);
        }
        self.cx.upstream.close();
        self.status.stop();
    }

    /// Answers a question, or does as it is told.
    pub fn handle_admin(&mut self, now: Instant, command: AdminCommand) -> AdminReply {
        match command {
            AdminCommand::Metrics => {
                let oldest = self.cx.upstream.oldest_spooled();
                self.cx.metrics.spool_oldest_seconds = oldest.map_or(0, |since| now.since(since).as_secs());
                AdminReply::Metrics(self.metrics().rows())
            }
            AdminCommand::Spool { after, limit } => self.spool_rows(now, after, limit.min(ADMIN_ROWS_MAX)),
            AdminCommand::SpoolDrop { id } => {
                let Context {
                    upstream, journal, ..
                } = &mut self.cx;
                let dropped = match id {
                    Some(id) => usize::from(upstream.drop_by_hand(journal, id)),
                    None => upstream.drop_all_by_hand(journal),
                };
                // Who said so does not want to see them again after a restart.
                journal.hurry();
                AdminReply::SpoolDropped(dropped)
            }
            AdminCommand::Topics { offset, limit } => self.topic_rows(offset, limit.min(ADMIN_ROWS_MAX)),
        }
    }

    fn spool_rows(&self, now: Instant, after: u64, limit: usize) -> AdminReply {
        let (spooled, more) = self.cx.upstream.spooled(after, limit);
        let wanted: FxHashSet<Author> = spooled.iter().map(|row| row.author).collect();
        let senders: FxHashMap<Author, Arc<str>> = self
            .clients
            .iter()
            .filter(|(_, client)| wanted.contains(&client.author))
            .map(|(_, client)| (client.author, client.id.clone()))
            .collect();
        let row = |row: Spooled| SpoolRow {
            id: row.id,
            client: senders.get(&row.author).cloned(),
            topic: row.message.topic,
            qos: row.message.qos,
            retain: row.message.retain,
            payload: row.message.payload,
            age: now.since(row.since),
            state: row.state,
        };
        AdminReply::Spool {
            rows: spooled.into_iter().map(row).collect(),
            more,
        }
    }

    fn topic_rows(&self, offset: usize, limit: usize) -> AdminReply {
        let predefined = self
            .cx
            .predefined
            .rows()
            .into_iter()
            .map(|(id, client, topic)| TopicRow {
                id,
                kind: "predefined",
                client,
                topic,
            });
        let registered = self.clients.iter().flat_map(|(_, client)| {
            client.topics.normal().iter().map(|topic| TopicRow {
                id: topic.id.0,
                kind: "registered",
                client: client.id.clone(),
                topic: topic.name.clone(),
            })
        });
        let mut rows: Vec<_> = predefined
            .chain(registered)
            .skip(offset)
            .take(limit + 1)
            .collect();
        let more = rows.len() > limit;
        rows.truncate(limit);
        AdminReply::Topics { rows, more }
    }

    /// The next output; drain to `None` after every batch of inputs.
    ///
    /// For [`Output::Transmit`] the datagram was appended to `buf`.
    pub fn poll_output(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Output> {
        if let Some(output) = self.poll_others(now) {
            return Some(output);
        }
        // What links could not send may be worth a notice.
        self.poll_links(now, buf).or_else(|| self.poll_others(now))
    }

    fn poll_others(&mut self, now: Instant) -> Option<Output> {
        if self.cx.journal.has_changes() {
            self.save_lazily_changed();
            if let Some(request) = self.cx.journal.poll() {
                return Some(Output::Store(request));
            }
        }
        if let Some((reason, messages, topic)) = self.cx.upstream.take_untold_drops() {
            return Some(Output::Notice(Notice::SpoolDropped {
                reason,
                messages,
                topic,
            }));
        }
        if let Some(notice) = self.cx.notices.pop_front() {
            return Some(Output::Notice(notice));
        }
        let Context {
            upstream,
            journal,
            metrics,
            ..
        } = &mut self.cx;
        if let Some(request) = upstream.poll(now, journal, metrics) {
            return Some(Output::Broker(request));
        }
        if let Some(request) = self.status.poll() {
            return Some(Output::Broker(request));
        }
        self.cx.links.poll_store().map(Output::Store)
    }

    /// When [`Gateway::handle_timeout`] is wanted; meaningful once the outputs are drained.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let spool = self.cx.upstream.expires_at(&self.cx.journal);
        [
            self.cx.timers.next(),
            self.next_advertise(),
            self.lazy_at(),
            spool,
            self.cx.upstream.quarantine_at(),
            self.cx.upstream.held_until(),
            self.cx.upstream.opening_until(),
            self.cx.links.next_wake(),
            self.status.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What was counted so far.
    pub fn metrics(&mut self) -> &Metrics {
        let metrics = &mut self.cx.metrics;
        self.cx.upstream.measure(metrics);
        metrics.filters = self.cx.subscriptions.len() as u64;
        metrics.clients = self.clients.len() as u64;
        [
            metrics.clients_active,
            metrics.clients_asleep,
            metrics.clients_awake,
            metrics.clients_connecting,
            metrics.clients_disconnected,
            metrics.clients_lost,
        ] = self.clients.states();
        metrics
    }

    /// What was counted on a link so far, and what waits there.
    pub fn link_metrics(&self, now: Instant, link: LinkId) -> Option<LinkMetrics> {
        self.cx.links.metrics(now, link)
    }

    /// After anything happened to a client: its place in the lines and its timer follow its state.
    pub(crate) fn after(&mut self, now: Instant, ix: ClientIx) {
        let Some(client) = self.clients.get_mut(ix) else {
            return;
        };
        client.end_wake_if_drained(&mut self.cx, now);
        let recount = client.state.kind() != client.counted;
        match client.state {
            State::Gone => {
                client.drop_subscriptions(&mut self.cx);
                client.clear_queue(&mut self.cx);
                client.forget_requests(&mut self.cx);
                client.forget_saved(&mut self.cx);
                self.cx.id_trails.end(client.author.0, &client.topics);
                self.status.client_changed(now, &client.id);
                self.clients.remove(ix);
                return;
            }
            State::Disconnected | State::Lost => self.clients.rest(ix),
            _ => {}
        }
        if recount {
            self.clients.recount(ix);
        }
        let Some(client) = self.clients.get_mut(ix) else {
            return;
        };
        if recount {
            self.status.client_changed(now, &client.id);
        }
        if client.unsaved > Unsaved::No {
            client.save_if_due(&mut self.cx, now);
        }
        client.line_up(&mut self.cx, now);
        if let Some(deadline) = client.deadline(&self.cx)
            && client.armed.is_none_or(|armed| deadline < armed)
        {
            client.armed = Some(deadline);
            self.cx.timers.arm(deadline, ix);
            if self.cx.timers.len() > 4 * self.clients.len() + 1024 {
                // Mostly entries that do not count: a client may bring its deadline forward again and again.
                let clients = &self.clients;
                self.cx
                    .timers
                    .retain(|at, ix| clients.get(ix).is_some_and(|client| client.armed == Some(at)));
            }
        }
    }

    /// Queues an answer to a peer, session or not.
    pub(crate) fn answer_stranger(&mut self, via: Via, answer: Packet<'static>) {
        if !self.cx.links.answer_stranger(via, answer) {
            self.cx.metrics.rate_limited_total += 1;
        }
    }

    fn count_malformed(&mut self, kind: ErrorKind) {
        self.cx.metrics.malformed[kind as usize] += 1;
    }
}

/// The message type of what could not be decoded (§5.2).
fn type_octet(message: &[u8]) -> Option<u8> {
    match *message {
        [0x01, _, _, octet, ..] => Some(octet),
        [_, octet, ..] => Some(octet),
        _ => None,
    }
}

/// The client id that a peer without a session counts as.
fn client_id(rule: &QosMinusOneRule, from: &Via) -> String {
    if !rule.client_id.contains("{address}") {
        return rule.client_id.clone();
    }
    let mut address = match &from.route.addr {
        LinkAddr::Udp(addr) => addr.ip().to_string(),
        other => other.to_string(),
    };
    if let Some(node) = &from.node {
        address.push('-');
        node.iter()
            .for_each(|octet| address.push_str(&format!("{octet:02x}")));
    }
    rule.client_id.replace("{address}", &address)
}

#[cfg(test)]
mod tests {
    use sn_codec::{Connect, Disconnect};

    use super::*;

    const NOW: Instant = Instant::START;

    fn gateway(links: u16) -> Gateway {
        let mut gateway = Gateway::new(GatewayConfig::default(), 1, NOW);
        for link in 0..links {
            gateway.handle_link(NOW, LinkId(link), LinkEvent::Up(profile(LinkProfile::UNLIMITED)));
        }
        gateway
    }

    fn profile(credit: u32) -> LinkProfile {
        LinkProfile {
            credit,
            ..LinkProfile::default()
        }
    }

    fn hand_in(gateway: &mut Gateway, link: u16, packet: Packet<'_>) {
        let from = Route {
            addr: LinkAddr::Wire,
            local: LocalEnd::default(),
        };
        let mut datagram = Vec::new();
        packet.encode(&mut datagram);
        gateway.handle_datagram(NOW, LinkId(link), &from, RadioFacts::default(), &datagram);
    }

    fn connect() -> Packet<'static> {
        Packet::Connect(Connect {
            will: false,
            clean_session: false,
            duration: 60,
            client_id: "a",
        })
    }

    /// What leaves: link and first octets.
    fn sent(gateway: &mut Gateway) -> Vec<(u16, Vec<u8>)> {
        let mut sent = Vec::new();
        let mut buf = Vec::new();
        while let Some(output) = gateway.poll_output(NOW, &mut buf) {
            if let Output::Transmit { link, len, .. } = output {
                sent.push((link.0, buf.split_off(buf.len() - len)));
            }
        }
        sent
    }

    #[test]
    fn deadlines_that_are_brought_forward_leave_no_trail() {
        let mut gateway = gateway(1);
        hand_in(&mut gateway, 0, connect());
        for duration in (1..=u16::MAX).rev() {
            let duration = Some(duration);
            hand_in(&mut gateway, 0, Packet::Disconnect(Disconnect { duration }));
            sent(&mut gateway);
        }
        assert!(
            gateway.cx.timers.len() <= 1100,
            "{} deadlines",
            gateway.cx.timers.len()
        );
        assert_eq!(gateway.poll_timeout(), Some(NOW + Duration::from_millis(1500)));
    }

    #[test]
    fn answers_owed_on_a_link_that_the_client_left_do_not_count_for_ever() {
        let mut gateway = gateway(2);
        hand_in(&mut gateway, 0, connect());
        hand_in(
            &mut gateway,
            0,
            Packet::Disconnect(Disconnect { duration: Some(60) }),
        );
        sent(&mut gateway);
        for link in [0, 1].into_iter().cycle().take(100) {
            // No drain in between: the first answer is still owed when the client is on the other link.
            hand_in(
                &mut gateway,
                link,
                Packet::Pingreq(sn_codec::Pingreq { client_id: Some("a") }),
            );
            hand_in(
                &mut gateway,
                1 - link,
                Packet::Pingreq(sn_codec::Pingreq { client_id: Some("a") }),
            );
            assert_eq!(sent(&mut gateway), [(1 - link, vec![0x02, 0x17])]);
        }
    }

    #[test]
    fn message_for_a_client_that_moved_leaves_on_its_new_link_and_its_credit() {
        let mut gateway = gateway(2);
        hand_in(&mut gateway, 0, connect());
        let subscribe = sn_codec::Subscribe {
            dup: false,
            qos: QoS::AtMostOnce,
            msg_id: sn_codec::MsgId(1),
            topic: sn_codec::TopicFilter::Name("ab"),
        };
        hand_in(&mut gateway, 0, Packet::Subscribe(subscribe));
        sent(&mut gateway);
        gateway.on_message(
            NOW,
            &[],
            &"ab".into(),
            QoS::AtMostOnce,
            false,
            Bytes::from_static(b"x"),
            None,
        );
        gateway.handle_link(NOW, LinkId(1), LinkEvent::Down);
        hand_in(&mut gateway, 1, connect());
        assert_eq!(sent(&mut gateway), [], "the link does not work");
        gateway.handle_link(NOW, LinkId(1), LinkEvent::Up(profile(1)));
        assert_eq!(sent(&mut gateway), [(1, vec![0x03, 0x05, 0x00])]);
        gateway.handle_link(NOW, LinkId(1), LinkEvent::Credit(1));
        assert!(matches!(&sent(&mut gateway)[..], [(1, _)]));
    }
}
