//! The gateway: dispatch of inputs, drain of outputs.
//!
//! What the broker reports, time and the outputs are here; the other inputs have each a file of their own:
//! [`links`], [`datagrams`] (with [`minus_one`]), [`store`] and [`admin`]. [`messages`] come from the broker to
//! clients, and [`subscribed`] is what its answer to a subscription means to them.

mod admin;
mod datagrams;
mod links;
mod messages;
mod minus_one;
mod store;
mod subscribed;
#[cfg(test)]
mod tests;

use core::time::Duration;
use std::sync::Arc;

use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use sn_codec::{Packet, QoS};

use self::minus_one::MINUS_ONE_NOTICE;
use crate::client::subscribe::drive;
use crate::client::{State, Unsaved};
use crate::clients::{ClientIx, ClientTable};
use crate::config::GatewayConfig;
use crate::context::{Context, Payloads};
use crate::durable::{Journal, Waiting};
use crate::forwarder::Forwarders;
use crate::io::{BrokerEvent, ConnId, Notice, Output, RadioFacts, Refusal, Token};
use crate::limiter::{RateLimit, SearchLimit, Seldom, StrangerLimit};
use crate::links::{Links, Via};
use crate::metrics::{Metrics, SpoolDrop};
use crate::registry::{IdTrails, Names, Predefined};
use crate::sources::Sources;
use crate::status::Status;
use crate::subscriptions::{Pending, Subscriptions};
use crate::time::Instant;
use crate::timers::Timers;
use crate::upstream::{Author, Origin, SUBSCRIPTIONS, Settled, Upstream};

/// Expiries worked off in one call, so that a resumed laptop does not freeze the loop.
const EXPIRIES_PER_CALL: usize = 1024;

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
        if let Some(notice) = self.cx.upstream.poll_notice(now) {
            return Some(Output::Notice(notice));
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
            self.cx.upstream.notice_at(),
            self.cx.links.next_wake(),
            self.status.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
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
}
