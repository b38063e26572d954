//! One connection to a broker, from the core's Open to its Close.
//!
//! One task owns both halves of the MQTT client. It waits for four things at once, in this order:
//! 1. notices: outcomes of requests, which the driver resolves, before it goes on to what came after them;
//! 2. the driver: packets from the broker, connecting, writing what was requested;
//! 3. requests of the core;
//! 4. when none of these is ready, what was gathered goes to the core as one batch.
//!
//! So everything that one wake-up brings costs one write to the broker and one message to the core. Waiting for the core
//! to take a batch stops the reading from the broker: that is the back-pressure. It cannot lock up, since the core never
//! waits for the port.

use core::future::poll_fn;
use core::pin::pin;
use core::str;
use core::task::Poll;
use core::time::Duration;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use gateway_core::io::{BrokerEvent, BrokerRequest, ConnId, ConnectOptions, Input, Refusal, Token};
use sn_codec::QoS;
use tokio::sync::mpsc::{Sender, UnboundedReceiver};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use crate::RemoteConfig;
use crate::backoff::Backoff;
use crate::deliveries::{Arrival, Deliveries, packet_id};
use crate::mqtt::{Broken, Happening, Loss, Message, Mqtt, Outcome, Remedy, Terms, reason};
use crate::stages::Stages;

/// Requests of one connection that may be on their way: enough for several rounds of the largest batches of the core.
pub const CREDIT: u32 = 1024;

/// The longest packet taken from an MQTT 5 broker; four times what fits an MQTT-SN message.
pub const MAX_PACKET_BYTES: u32 = 256 * 1024;

/// Credit is given back with other events, and alone only when this much of it is owed: a batch of its own for each
/// batch of requests would wake the core for nothing.
const CREDIT_OWED_AT_MOST: u32 = CREDIT / 2;

/// Events that make a batch worth sending although more is ready.
const BATCH: usize = 256;

/// How long Close waits for what is unsettled, and then for DISCONNECT to be written. Together below the second in which
/// the gateway has to stop.
const CLOSE_WAITS: [Duration; 2] = [Duration::from_millis(400), Duration::from_millis(300)];

/// One connection.
pub(crate) struct Port<M> {
    conn: ConnId,
    config: Arc<RemoteConfig>,
    options: ConnectOptions,
    mqtt: M,
    stages: Arc<Stages>,
    inputs: Sender<Input>,
    /// What the next batch for the core holds.
    events: Vec<BrokerEvent>,
    /// Requests taken for which no credit was given back.
    owed: u32,
    link: Link,
    /// The highest packet id that may be in flight, from the last connection or an earlier life; 0 if there was none.
    packet_ids: u16,
    /// Requests that the core sent before it knew that the connection is down, in their order.
    held: Vec<BrokerRequest>,
    deliveries: Deliveries,
    backoff: Backoff,
    /// The remedy that the log has told last.
    told: Option<Remedy>,
}

/// State of the network connection.
enum Link {
    /// Never connected, or not any more; `reported` once the core knows.
    Down {
        since: Instant,
        reported: bool,
    },
    Up {
        since: Instant,
        terms: Terms,
    },
}

/// What the task woke up for.
enum Wake {
    Driver(Result<Happening, Broken>),
    Outcome(BrokerEvent),
    /// QoS 2 deliveries with these packet ids are released.
    Released(Vec<u16>),
    Requests(usize),
    Idle,
    Timer,
}

/// How far Close has come.
enum Closing {
    No,
    /// Waiting for what is unsettled.
    Draining,
    /// Waiting for DISCONNECT to be written.
    Disconnecting,
}

impl<M: Mqtt> Port<M> {
    pub(crate) fn new(
        conn: ConnId,
        config: Arc<RemoteConfig>,
        options: ConnectOptions,
        (mqtt, stages): (M, Arc<Stages>),
        inputs: Sender<Input>,
    ) -> Self {
        let packet_ids = stages.highest_restored();
        Port {
            deliveries: Deliveries::restored(&options.received),
            conn,
            backoff: Backoff::new(config.reconnect),
            config,
            options,
            mqtt,
            stages,
            inputs,
            events: Vec::new(),
            owed: 0,
            link: Link::Down {
                since: Instant::now(),
                reported: false,
            },
            packet_ids,
            held: Vec::new(),
            told: None,
        }
    }

    /// Runs until the sender of `requests` is dropped, and closes the connection then.
    pub(crate) async fn run(mut self, mut driver: M::Driver, mut requests: UnboundedReceiver<BrokerRequest>) {
        let mut notices = FuturesUnordered::new();
        let mut taken = Vec::new();
        let mut wait = Duration::ZERO;
        let mut discard_session = self.options.clean_start;
        let mut closing = Closing::No;
        let mut timer = pin!(sleep(Duration::ZERO));

        'connection: loop {
            let result = {
                // Made anew only when it is through: a poll that is dropped may take a packet with it.
                let step = next::<M>(
                    &mut driver,
                    wait,
                    discard_session.then(|| (self.config.clone(), self.options.clone())),
                );
                let mut step = pin!(step);

                loop {
                    if self.events.len() >= BATCH {
                        self.flush().await;
                    }
                    if matches!(closing, Closing::Draining) && notices.is_empty() {
                        self.mqtt.disconnect();
                        closing = Closing::Disconnecting;
                        timer.as_mut().reset(Instant::now() + CLOSE_WAITS[1]);
                    }

                    let wake = poll_fn(|cx| {
                        if let Poll::Ready(Some(event)) = notices.poll_next_unpin(cx) {
                            return Poll::Ready(Wake::Outcome(event));
                        }
                        if let Poll::Ready(result) = step.as_mut().poll(cx) {
                            return Poll::Ready(Wake::Driver(result));
                        }
                        let released = self.stages.releases.take_untold();
                        if !released.is_empty() {
                            return Poll::Ready(Wake::Released(released));
                        }
                        if matches!(closing, Closing::No) {
                            if let Poll::Ready(n) = requests.poll_recv_many(cx, &mut taken, CREDIT as usize) {
                                return Poll::Ready(Wake::Requests(n));
                            }
                        } else if timer.as_mut().poll(cx).is_ready() {
                            return Poll::Ready(Wake::Timer);
                        }
                        if self.events.is_empty() && self.owed < CREDIT_OWED_AT_MOST {
                            Poll::Pending
                        } else {
                            Poll::Ready(Wake::Idle)
                        }
                    });

                    match wake.await {
                        Wake::Driver(result) => break result,
                        Wake::Outcome(event) => self.on_outcome(event),
                        Wake::Released(packet_ids) => {
                            for packet_id in packet_ids {
                                self.on_held_release(packet_id);
                            }
                        }
                        Wake::Requests(0) => {
                            let Link::Up { .. } = self.link else {
                                break 'connection;
                            };
                            closing = Closing::Draining;
                            timer.as_mut().reset(Instant::now() + CLOSE_WAITS[0]);
                        }
                        Wake::Requests(_) => {
                            for request in taken.drain(..) {
                                if let Some((token, notice)) = self.take(request) {
                                    notices.push(settle::<M>(token, notice));
                                }
                            }
                        }
                        Wake::Idle => self.flush().await,
                        Wake::Timer => match closing {
                            Closing::No | Closing::Draining => {
                                self.mqtt.disconnect_now();
                                closing = Closing::Disconnecting;
                                timer.as_mut().reset(Instant::now() + CLOSE_WAITS[1]);
                            }
                            Closing::Disconnecting => break 'connection,
                        },
                    }
                }
            };
            wait = Duration::ZERO;
            for (token, result) in self.stages.take_settled() {
                let result = result.map(|()| None);
                self.events.push(BrokerEvent::Settled { token, result });
            }

            match result {
                Ok(Happening::Progress) => {}
                Ok(Happening::Refused(packet_id, refusal)) => {
                    if let Some(token) = self.stages.refused(packet_id) {
                        let result = Err(refusal);
                        self.on_outcome(BrokerEvent::Settled { token, result });
                    }
                }
                Ok(Happening::Message(message)) => {
                    let exactly_once = message.qos == QoS::ExactlyOnce;
                    self.on_message(message);
                    if exactly_once {
                        M::show_state(&mut driver, self.shows_state());
                    }
                }
                Ok(Happening::Released(packet_id)) => {
                    self.on_released(packet_id);
                    M::show_state(&mut driver, self.shows_state());
                }
                Ok(Happening::Connected(terms)) if self.cannot_resume(terms) => {
                    self.lose_session();
                    discard_session = true;
                    M::start_over(&mut driver);
                }
                Ok(Happening::Connected(terms)) => {
                    discard_session = false;
                    // What a lost session took along is known by now, and told before Up.
                    while let Some(Some(event)) = notices.next().now_or_never() {
                        self.on_outcome(event);
                    }
                    for (token, notice) in self.on_connected(terms) {
                        notices.push(settle::<M>(token, notice));
                    }
                    M::show_state(&mut driver, self.shows_state());
                }
                Err(Broken::Closed) => break 'connection,
                Err(Broken::Lost(loss)) => {
                    if !matches!(closing, Closing::No) {
                        break 'connection;
                    }
                    while let Some(Some(event)) = notices.next().now_or_never() {
                        self.on_outcome(event);
                    }
                    if self.is_unwanted(&loss) {
                        self.give_up(loss.reason);
                        break 'connection;
                    }
                    if self.stages.are_kept() && !discard_session {
                        let again;
                        (driver, again) = self.begin_again();
                        notices = again
                            .into_iter()
                            .map(|(token, notice)| settle::<M>(token, notice))
                            .collect();
                    }
                    wait = self.on_lost(loss);
                }
            }
        }

        // Without its driver, what is still unsettled ends as lost.
        drop(driver);
        while let Some(Some(event)) = notices.next().now_or_never() {
            self.events.push(event);
        }
        for request in core::mem::take(&mut self.held) {
            self.lose(&request);
        }
        self.owed = 0;
        // The core may have stopped reading.
        let _ = tokio::time::timeout(CLOSE_WAITS[1], self.flush()).await;
        debug!(target: "broker", conn = self.conn.0, client_id = %self.options.client_id, "link closed");
    }

    /// The broker has the session but takes fewer publishes at once than before. The client resends with the packet ids
    /// of old and holds back those above the receive maximum, for ever.
    fn cannot_resume(&self, terms: Terms) -> bool {
        let smaller = terms.session_present && terms.receive_maximum < self.packet_ids;
        if smaller {
            warn!(
                target: "broker", conn = self.conn.0,
                url = %Url(&self.config),
                client_id = %self.options.client_id,
                receive_maximum = terms.receive_maximum,
                "session given up, since the broker takes less than before"
            );
        }
        smaller
    }

    fn window_of(&self, terms: Terms) -> u16 {
        terms.receive_maximum.min(self.config.in_flight.max(1))
    }

    fn on_connected(&mut self, terms: Terms) -> Vec<(Token, M::Notice)> {
        let now = Instant::now();
        let window = self.window_of(terms);
        if !terms.session_present {
            self.packet_ids = 0;
        }
        self.packet_ids = self.packet_ids.max(window);
        let outage = match self.link {
            Link::Down {
                since,
                reported: true,
            } => Some(now - since),
            Link::Down { reported: false, .. } | Link::Up { .. } => None,
        };
        info!(
            target: "broker", conn = self.conn.0,
            url = %Url(&self.config),
            client_id = %self.options.client_id,
            session_present = terms.session_present,
            window,
            outage = outage.map(|outage| tracing::field::display(format!("{:.1}s", outage.as_secs_f32()))),
            "link up"
        );
        self.link = Link::Up { since: now, terms };
        if !terms.session_present {
            self.deliveries.session_lost();
            self.lose_session();
        }
        self.owed = 0;

        let held = core::mem::take(&mut self.held);
        if !terms.session_present {
            for request in &held {
                self.lose(request);
            }
        }
        self.events.push(BrokerEvent::Up {
            conn: self.conn,
            session_present: terms.session_present,
            window,
            forgets: false,
        });
        self.events.push(BrokerEvent::Credit {
            conn: self.conn,
            requests: CREDIT,
        });
        let kept = held
            .into_iter()
            .filter(|request| terms.session_present || token(request).is_none());
        kept.filter_map(|request| self.submit(request, terms)).collect()
    }

    /// Returns how long to wait before the next attempt.
    fn on_lost(&mut self, Loss { reason, remedy }: Loss) -> Duration {
        let now = Instant::now();
        let (since, reported) = match self.link {
            Link::Up { since, .. } => {
                self.deliveries.disconnected();
                self.backoff.lost_after(now - since);
                (now, false)
            }
            Link::Down { since, reported } => (since, reported),
        };
        let wait = self.backoff.next_wait();
        // Once: the same at each attempt would only fill the log.
        let hint = remedy.filter(|remedy| self.told.replace(*remedy) != Some(*remedy));
        warn!(
            target: "broker", conn = self.conn.0,
            url = %Url(&self.config),
            error = %reason,
            retry_in = format_args!("{:.1}s", wait.as_secs_f32()),
            client_id = %self.options.client_id,
            spooling = self.options.spools,
            hint = hint.map(Remedy::words),
            "link down"
        );
        if !reported {
            self.events.push(BrokerEvent::Down {
                conn: self.conn,
                reason,
            });
        }
        self.link = Link::Down {
            since,
            reported: true,
        };
        wait
    }

    /// What was under way in a session that is gone.
    fn lose_session(&mut self) {
        self.stages.releases.lose();
        let lost = self.stages.lose().into_iter();
        self.events.extend(lost.map(|token| BrokerEvent::Lost { token }));
    }

    /// The client's state is of interest: to publishes whose stages are stored, and to releases that hold PUBCOMP back.
    fn shows_state(&self) -> bool {
        let holds = self.stages.releases.hold() && self.deliveries.has_exactly_once();
        self.stages.are_kept() || holds
    }

    /// The broker released a delivery; false if that is known.
    fn on_released(&mut self, packet_id: u16) -> bool {
        let delivery = self.deliveries.released(packet_id);
        let conn = self.conn;
        let event = delivery.map(|delivery| BrokerEvent::Released { conn, delivery });
        self.events.extend(event);
        delivery.is_some()
    }

    /// The broker released a delivery, and PUBCOMP waits until a later life would know.
    fn on_held_release(&mut self, packet_id: u16) {
        if !self.on_released(packet_id) {
            self.stages.releases.complete(packet_id);
        }
    }

    /// The broker refused a connection that need not be.
    fn is_unwanted(&self, loss: &Loss) -> bool {
        self.options.optional && loss.remedy.is_some() && matches!(self.link, Link::Down { .. })
    }

    fn give_up(&mut self, reason: String) {
        warn!(
            target: "broker", conn = self.conn.0,
            url = %Url(&self.config),
            error = %reason,
            client_id = %self.options.client_id,
            "the broker does not take this connection: it is left out until the gateway is restarted"
        );
        self.events.push(BrokerEvent::Down {
            conn: self.conn,
            reason,
        });
    }

    fn on_outcome(&mut self, event: BrokerEvent) {
        if let BrokerEvent::Settled {
            token,
            result: Err(Refusal::QUOTA_EXCEEDED),
        } = &event
        {
            self.stages.postponed(*token);
        }
        if let BrokerEvent::Settled { token, .. } | BrokerEvent::Lost { token } = &event {
            self.stages.ended(*token);
        }
        self.events.push(event);
    }

    fn on_message(&mut self, message: Message) {
        let delivery = match message.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(self.deliveries.at_least_once(message.packet_id)),
            QoS::ExactlyOnce => match self.deliveries.exactly_once(message.packet_id, message.dup) {
                Arrival::New(delivery) => Some(delivery),
                Arrival::Known => return,
                Arrival::Acknowledged => {
                    self.mqtt.acknowledge(message.packet_id, message.qos);
                    return;
                }
            },
        };
        let Ok(topic) = str::from_utf8(&message.topic) else {
            // MQTT 5 §3.3.2.1: topic names are UTF-8. It must not come again.
            debug!(
                target: "broker", conn = self.conn.0,
                len = message.topic.len(),
                "topic is not UTF-8, message dropped"
            );
            if let Some((packet_id, qos)) =
                delivery.and_then(|delivery| self.deliveries.acknowledge(delivery))
            {
                self.mqtt.acknowledge(packet_id, qos);
            }
            return;
        };
        self.events.push(BrokerEvent::Message {
            conn: self.conn,
            delivery,
            filters: message.filters,
            topic: topic.into(),
            qos: message.qos,
            retain: message.retain,
            payload: message.payload,
        });
    }

    /// Takes one request of the core; returns the notice to wait for.
    fn take(&mut self, request: BrokerRequest) -> Option<(Token, M::Notice)> {
        self.owed += 1;
        match (&self.link, request) {
            (_, BrokerRequest::Ack { delivery, .. }) => {
                if let Some((packet_id, qos)) = self.deliveries.acknowledge(delivery) {
                    self.mqtt.acknowledge(packet_id, qos);
                }
                None
            }
            (_, BrokerRequest::Complete { delivery, .. }) => {
                self.stages.releases.complete(packet_id(delivery));
                None
            }
            (Link::Up { terms, .. }, request) => self.submit(request, *terms),
            (Link::Down { .. }, request) => {
                self.held.push(request);
                None
            }
        }
    }

    /// Another client takes the place of the one whose connection broke, and goes on with what is in flight.
    fn begin_again(&mut self) -> (M::Driver, Vec<(Token, M::Notice)>) {
        self.options.clean_start = false;
        let driver;
        (self.mqtt, driver) = M::new(&self.config, &self.options, &self.stages);
        let mut notices = Vec::new();
        for (token, content) in self.stages.begin_again() {
            // It was accepted before.
            let Ok(topic) = str::from_utf8(&content.topic) else {
                continue;
            };
            let notice = self
                .mqtt
                .publish(topic, QoS::ExactlyOnce, content.retain, content.payload);
            match (token, notice) {
                (Some(token), Ok(Some(notice))) => notices.push((token, notice)),
                (Some(token), Err(refusal)) => self.on_outcome(BrokerEvent::Settled {
                    token,
                    result: Err(refusal),
                }),
                (_, Ok(_) | Err(_)) => {}
            }
        }
        (driver, notices)
    }

    fn submit(&mut self, request: BrokerRequest, terms: Terms) -> Option<(Token, M::Notice)> {
        match request {
            BrokerRequest::Publish {
                token,
                topic,
                qos,
                retain,
                payload,
                stored,
                ..
            } => {
                let notice = if !is_topic_name(&topic) {
                    Err(reason::TOPIC_INVALID)
                } else if M::publish_len(&topic, &payload) > terms.packet_bytes {
                    Err(reason::PACKET_TOO_LARGE)
                } else if qos > terms.maximum_qos {
                    Err(reason::QOS_NOT_SUPPORTED)
                } else {
                    if let Some(stored) = stored {
                        self.stages.expect(token, stored, &topic, retain, &payload);
                    }
                    self.mqtt.publish(&topic, qos, retain, payload)
                };
                match (token, notice) {
                    (Some(token), Ok(Some(notice))) => Some((token, notice)),
                    (Some(token), Ok(None)) => self.settled(token, Ok(None)),
                    (Some(token), Err(refusal)) => self.settled(token, Err(refusal)),
                    (None, Ok(_)) => None,
                    (None, Err(refusal)) => {
                        debug!(target: "broker", conn = self.conn.0, %topic, rc = refusal.0, "publish without an answer refused");
                        None
                    }
                }
            }
            BrokerRequest::Subscribe {
                token,
                filter,
                id,
                qos,
                ..
            } => {
                let notice = if is_string(&filter) {
                    self.mqtt
                        .subscribe(&filter, qos, terms.subscription_ids.then_some(id))
                } else {
                    Err(reason::FILTER_INVALID)
                };
                match notice {
                    Ok(notice) => Some((token, notice)),
                    Err(refusal) => self.settled(token, Err(refusal)),
                }
            }
            BrokerRequest::Unsubscribe { token, filter, .. } => {
                let notice = if is_string(&filter) {
                    self.mqtt.unsubscribe(&filter)
                } else {
                    Err(reason::FILTER_INVALID)
                };
                match notice {
                    Ok(notice) => Some((token, notice)),
                    Err(refusal) => self.settled(token, Err(refusal)),
                }
            }
            // The pool and `take` have handled these.
            BrokerRequest::Open { .. }
            | BrokerRequest::Close { .. }
            | BrokerRequest::Ack { .. }
            | BrokerRequest::Complete { .. } => None,
        }
    }

    fn settled<T>(&mut self, token: Token, result: Result<Option<QoS>, Refusal>) -> Option<T> {
        self.on_outcome(BrokerEvent::Settled { token, result });
        None
    }

    fn lose(&mut self, request: &BrokerRequest) {
        if let Some(token) = token(request) {
            self.events.push(BrokerEvent::Lost { token });
        }
    }

    /// Sends what was gathered. When nobody listens any more, what remains is to be told to close.
    async fn flush(&mut self) {
        if let Link::Up { .. } = self.link
            && self.owed > 0
        {
            self.events.push(BrokerEvent::Credit {
                conn: self.conn,
                requests: self.owed,
            });
        }
        self.owed = 0;
        if !self.events.is_empty() {
            let events = core::mem::take(&mut self.events);
            let _ = self.inputs.send(Input::Broker(events)).await;
        }
    }
}

/// The next thing that happens: after a wait, and after the session of an earlier life is discarded.
async fn next<M: Mqtt>(
    driver: &mut M::Driver,
    wait: Duration,
    discard_session: Option<(Arc<RemoteConfig>, ConnectOptions)>,
) -> Result<Happening, Broken> {
    if !wait.is_zero() {
        sleep_until(Instant::now() + wait).await;
    }
    if let Some((config, options)) = discard_session {
        M::discard_session(&config, &options)
            .await
            .map_err(Broken::Lost)?;
    }
    M::poll(driver).await
}

/// What the core is told of a request's outcome.
async fn settle<M: Mqtt>(token: Token, notice: M::Notice) -> BrokerEvent {
    match M::outcome(notice).await {
        Outcome::Done(granted) => BrokerEvent::Settled {
            token,
            result: Ok(granted),
        },
        Outcome::Refused(refusal) => BrokerEvent::Settled {
            token,
            result: Err(refusal),
        },
        Outcome::Lost => BrokerEvent::Lost { token },
    }
}

fn token(request: &BrokerRequest) -> Option<Token> {
    match request {
        BrokerRequest::Publish { token, .. } => *token,
        BrokerRequest::Subscribe { token, .. } | BrokerRequest::Unsubscribe { token, .. } => Some(*token),
        BrokerRequest::Open { .. }
        | BrokerRequest::Close { .. }
        | BrokerRequest::Ack { .. }
        | BrokerRequest::Complete { .. } => None,
    }
}

/// What MQTT can carry as a string (MQTT 5 §1.5.4). The client would break the connection over any other, again and
/// again.
fn is_string(text: &str) -> bool {
    !text.is_empty() && text.len() <= usize::from(u16::MAX) && !text.contains('\0')
}

fn is_topic_name(topic: &str) -> bool {
    is_string(topic) && !topic.contains(['+', '#'])
}

/// For the log.
struct Url<'a>(&'a RemoteConfig);

impl core::fmt::Display for Url<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let scheme = match self.0.transport {
            crate::Transport::Tcp => "mqtt",
        };
        write!(f, "{scheme}://{}:{}", self.0.host, self.0.port)
    }
}
