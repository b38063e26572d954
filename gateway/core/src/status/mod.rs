//! What the gateway tells of itself: retained messages at the broker, with a will.
//!
//! It has a connection of its own, opened once that of the clients works: a will belongs to a connection, a broker that
//! refuses it must not refuse the clients' messages with it, and nothing here takes of the credit of those.
//!
//! A topic is looked at when something happened to what it is about, and all of them once an interval. At such a look
//! it is published only if it differs from what was published last; between the intervals only if what differs is worth
//! telling at once: that a client sleeps, not that it was heard. Looks and publishes are rationed, so that a million
//! clients cost no more than the first [`StatusConfig::clients`] of them, and those no more than [`PER_TICK`] messages
//! at a time; while messages of clients wait for the broker, topics about clients wait too.

mod look;
mod payload;

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use sn_codec::QoS;

use self::payload::{OFFLINE, level, name};
use crate::config::StatusConfig;
use crate::io::{BrokerRequest, ConnId, ConnectOptions, FilterId, Token, Will};
use crate::peer::LinkId;
use crate::time::Instant;

/// From a change to its message, so that changes that come together are one; taste.
const COALESCE: Duration = Duration::from_millis(500);

/// Between two looks, as long as there is more to look at.
const TICK: Duration = Duration::from_millis(100);

/// Messages published at one look: 100 a second.
const PER_TICK: usize = 10;

/// Clients looked at in one look: the whole of the largest table within a minute.
const LOOKS_PER_TICK: usize = 256;

/// Messages unsettled at once.
const IN_FLIGHT: usize = 16;

/// The clock is set anew when it is off by more: what is less would only change every time that is told.
const CLOCK_OFF: u64 = 2_000;

/// In the place of the number in a table, which never gets there: tokens of status messages.
const TOKENS: u64 = u32::MAX as u64;

/// All that is told, and what was told last.
#[derive(Debug, Default)]
pub(crate) struct Status {
    /// `None`: nothing is told (any more).
    on: Option<On>,
}

#[derive(Debug)]
struct On {
    config: StatusConfig,
    conn: ConnId,
    client_id: Arc<str>,
    opened: bool,
    /// The broker does not want it: the connection is being closed, and what it still reports means nothing.
    refused: bool,
    /// How to publish; `None` while there is no connection.
    up: Option<QoS>,
    credit: u32,
    window: usize,
    in_flight: FxHashMap<Token, Arc<str>>,
    next_token: u32,
    own: Vec<OwnTopic>,
    clients: FxHashMap<Arc<str>, Shown>,
    /// Clients to look at, each once.
    line: VecDeque<Arc<str>>,
    requests: VecDeque<BrokerRequest>,
    /// The next look.
    look_at: Option<Instant>,
    last_look: Instant,
    /// It ended before everything was looked at.
    cut_short: bool,
    /// When all of it is looked at.
    whole_at: Instant,
    sweep: Sweep,
    clock: Option<Clock>,
    started: Instant,
}

/// How the core's time relates to that of people.
#[derive(Debug, Clone, Copy)]
struct Clock {
    at: Instant,
    unix_ms: u64,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Gateway,
    Broker,
    Spool,
    Radio(LinkId),
}

#[derive(Debug)]
struct OwnTopic {
    what: What,
    topic: Arc<str>,
    said: Option<Said>,
    /// Any difference counts at the next look.
    whole: bool,
}

/// What was published last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Said {
    telling: u64,
    all: u64,
}

/// A client that has a topic.
#[derive(Debug, Default)]
struct Shown {
    said: Option<Said>,
    in_line: bool,
    whole: bool,
    /// The broker may retain something of it.
    retained: bool,
}

/// Topics of clients that an earlier life left, and nobody is here to correct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sweep {
    /// Not asked for yet.
    Due,
    /// The broker was asked for them; they come until this subscription is given back.
    Asked(Token),
    Done,
}

impl Status {
    /// `conn` is not used by anybody else.
    pub(crate) fn new(config: Option<&StatusConfig>, conn: ConnId, client_id: &str, now: Instant) -> Self {
        let on = config.map(|config| On {
            own: own_topics(config),
            config: config.clone(),
            conn,
            client_id: format!("{client_id}-status").into(),
            opened: false,
            refused: false,
            up: None,
            credit: 0,
            window: 0,
            in_flight: FxHashMap::default(),
            next_token: 0,
            clients: FxHashMap::default(),
            line: VecDeque::new(),
            requests: VecDeque::new(),
            look_at: None,
            last_look: now,
            cut_short: false,
            whole_at: now,
            sweep: Sweep::Due,
            clock: None,
            started: now,
        });
        Status { on }
    }

    /// True for what this gateway tells of itself: who subscribes to everything does not mean that.
    pub(crate) fn is_own_topic(&self, topic: &str) -> bool {
        let rest = self
            .on
            .as_ref()
            .and_then(|on| topic.strip_prefix(&*on.config.topic));
        rest.is_some_and(|rest| rest.starts_with('/'))
    }

    /// Something happened to a client, or there is no such client any more.
    pub(crate) fn client_changed(&mut self, now: Instant, id: &Arc<str>) {
        if let Some(on) = &mut self.on
            && on.up.is_some()
            && on.line_up(id, false)
        {
            on.look_soon(now);
        }
    }

    /// Something happened to a radio, a broker connection or the disk.
    pub(crate) fn changed(&mut self, now: Instant) {
        if let Some(on) = &mut self.on {
            on.look_soon(now);
        }
    }

    pub(crate) fn poll(&mut self) -> Option<BrokerRequest> {
        self.on.as_mut()?.requests.pop_front()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let on = self.on.as_ref()?;
        on.up?;
        Some(on.look_at.map_or(on.whole_at, |at| at.min(on.whole_at)))
    }

    /// Says goodbye, and closes the connection.
    pub(crate) fn stop(&mut self) {
        let Some(on) = self.on.as_mut().filter(|on| on.opened) else {
            return;
        };
        on.requests.clear();
        if on.up.is_some()
            && let Some(topic) = on.own.first().map(|own| own.topic.clone())
        {
            on.publish(topic, OFFLINE.into());
        }
        on.requests.push_back(BrokerRequest::Close { conn: on.conn });
        // Nothing but these requests leaves any more.
        on.up = None;
    }
}

fn own_topics(config: &StatusConfig) -> Vec<OwnTopic> {
    let base = &config.topic;
    let fixed = [
        (What::Gateway, format!("{base}/state")),
        (What::Broker, format!("{base}/broker")),
        (What::Spool, format!("{base}/spool")),
    ];
    let radios = config.radios.iter().zip(0..).map(|(radio, link)| {
        let topic = format!("{base}/radios/{}", level(&radio.name));
        (What::Radio(LinkId(link)), topic)
    });
    let own = |(what, topic): (What, String)| OwnTopic {
        what,
        topic: topic.into(),
        said: None,
        whole: false,
    };
    fixed.into_iter().chain(radios).map(own).collect()
}

impl On {
    /// False if the client has no topic and there is no place for one more.
    fn line_up(&mut self, id: &Arc<str>, whole: bool) -> bool {
        if self.clients.len() >= self.config.clients && !self.clients.contains_key(id) {
            return false;
        }
        let shown = self.clients.entry(id.clone()).or_default();
        shown.whole |= whole;
        if !core::mem::replace(&mut shown.in_line, true) {
            self.line.push_back(id.clone());
        }
        true
    }

    /// There is room again: what the last look left is looked at.
    fn go_on(&mut self, now: Instant) {
        if (self.cut_short || !self.line.is_empty()) && self.look_at.is_none() {
            self.look_at = Some(now.max(self.last_look + TICK));
        }
    }

    fn look_soon(&mut self, now: Instant) {
        if self.look_at.is_none() {
            self.look_at = Some((now + COALESCE).max(self.last_look + TICK));
        }
    }

    /// Messages that may leave now.
    fn room(&self) -> usize {
        let window = match self.up {
            None => return 0,
            Some(QoS::AtMostOnce) => usize::MAX,
            Some(_) => self.window.saturating_sub(self.in_flight.len()),
        };
        window.min(self.credit as usize)
    }

    fn open(&mut self) {
        if self.opened {
            return;
        }
        self.opened = true;
        let will = self.own.first().map(|own| Will {
            topic: own.topic.clone(),
            payload: Bytes::from_static(OFFLINE.as_bytes()),
            qos: QoS::AtLeastOnce,
            retain: true,
        });
        self.requests.push_back(BrokerRequest::Open {
            conn: self.conn,
            options: ConnectOptions {
                client_id: self.client_id.clone(),
                clean_start: true,
                will,
                optional: true,
                ..ConnectOptions::default()
            },
        });
    }

    /// Everything is told anew: the broker may have lost it, or published the will.
    fn on_up(&mut self, now: Instant, window: u16, forgets: bool) {
        // In the process nothing is lost on the way, and a stored session of an MQTT client need not be written for it.
        self.up = Some(if forgets {
            QoS::AtMostOnce
        } else {
            QoS::AtLeastOnce
        });
        self.credit = 0;
        self.window = IN_FLIGHT.min(usize::from(window));
        for own in &mut self.own {
            own.said = None;
        }
        for shown in self.clients.values_mut() {
            shown.said = None;
        }
        // What the broker inside retains goes with the process.
        if forgets {
            self.sweep = Sweep::Done;
        }
        self.whole_at = now;
    }

    fn on_down(&mut self) {
        self.up = None;
        self.credit = 0;
        let in_flight = &mut self.in_flight;
        self.requests.retain(|request| match request {
            BrokerRequest::Open { .. } | BrokerRequest::Close { .. } => true,
            BrokerRequest::Publish { token, .. } => {
                if let Some(token) = token {
                    in_flight.remove(token);
                }
                false
            }
            _ => false,
        });
        if let Sweep::Asked(_) = self.sweep {
            self.sweep = Sweep::Due;
        }
    }

    fn new_token(&mut self) -> Token {
        self.next_token = self.next_token.wrapping_add(1);
        Token(u64::from(self.next_token) << 32 | TOKENS)
    }

    fn publish(&mut self, topic: Arc<str>, payload: Bytes) {
        let Some(qos) = self.up else { return };
        let token = (qos > QoS::AtMostOnce).then(|| self.new_token());
        if let Some(token) = token {
            self.in_flight.insert(token, topic.clone());
        }
        self.credit = self.credit.saturating_sub(1);
        self.requests.push_back(BrokerRequest::Publish {
            conn: self.conn,
            token,
            topic,
            qos,
            retain: true,
            payload,
            stored: None,
        });
    }

    fn client_topic(&self, id: &str) -> Arc<str> {
        format!("{}/clients/{}", self.config.topic, level(id)).into()
    }

    /// A message of the sweep: somebody who is shown as a client.
    fn on_swept(&mut self, now: Instant, topic: &str, retain: bool, payload: &[u8]) {
        if !retain || payload.is_empty() || !matches!(self.sweep, Sweep::Asked(_)) {
            return;
        }
        let level = topic
            .strip_prefix(&*self.config.topic)
            .and_then(|rest| rest.strip_prefix("/clients/"));
        let Some(id) = level.and_then(name).map(Arc::from) else {
            return;
        };
        if self.line_up(&id, false) {
            self.look_soon(now);
        }
        if let Some(shown) = self.clients.get_mut(&id) {
            shown.retained = true;
        }
    }

    /// Asks for what an earlier life left, and an interval later no more.
    fn sweep(&mut self) {
        if self.room() == 0 {
            return;
        }
        let (conn, filter) = (self.conn, format!("{}/clients/+", self.config.topic).into());
        match self.sweep {
            Sweep::Due => {
                let token = self.new_token();
                self.sweep = Sweep::Asked(token);
                self.requests.push_back(BrokerRequest::Subscribe {
                    conn,
                    token,
                    filter,
                    id: FilterId(1),
                    qos: QoS::AtMostOnce,
                });
            }
            Sweep::Asked(_) => {
                self.sweep = Sweep::Done;
                let token = self.new_token();
                self.requests
                    .push_back(BrokerRequest::Unsubscribe { conn, token, filter });
            }
            Sweep::Done => return,
        }
        self.credit -= 1;
    }
}
