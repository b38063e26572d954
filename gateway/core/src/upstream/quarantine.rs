//! Requests that the broker cannot stand (reading A84).
//!
//! All clients share a connection, and a request over which the broker closes it is sent again with the next. Who it is
//! cannot be seen from outside, since others are under way at the same time. So when the connection has broken several
//! times with the same request, everything that was under way is sent one at a time, until the one is found.

use core::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

use super::connection::Connection;
use super::request::waits_for_disk;
use super::{RequestKind, SUBSCRIPTIONS, Upstream};
use crate::durable::Journal;
use crate::io::{BrokerRequest, ConnId, Notice, Token};
use crate::metrics::Metrics;
use crate::subscriptions::FilterKey;
use crate::time::Instant;

/// Times that a connection breaks with a request until that is suspected; taste. Waits between attempts to connect
/// double, so that this takes about a quarter of a minute.
const SUSPECTED_AFTER: u8 = 5;

/// For so long it goes on at least until anybody is suspected; taste.
const PATIENCE: Duration = Duration::from_secs(5);

/// A break counts that comes so soon after the connection came up, or after the only request was sent: later the broker
/// is not closing over it, but is silent.
const SILENCE: Duration = Duration::from_secs(10);

/// What a connection must stand without a request before one is tried, else it breaks by itself.
const QUIET: Duration = Duration::from_secs(1);

/// Breaks with a request alone until it counts as refused; and breaks in the quiet until none is suspected any more.
const CONVINCED_AFTER: u8 = 3;

/// A connection whose requests go one at a time.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    phase: Phase,
    /// Breaks with a request alone.
    alone: FxHashMap<Suspect, u8>,
    /// Breaks in a row with none.
    in_quiet: u8,
    /// One was found to be the reason.
    found: bool,
}

#[derive(Debug, Default)]
enum Phase {
    /// It is not up.
    #[default]
    Down,
    /// Up, and nothing is sent until then.
    Quiet(Instant),
    /// The next may go.
    Ready,
    /// One is under way, since then.
    Trying(Token, Instant),
}

/// A request as it is known over broken connections: one for a subscription is made anew each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Suspect {
    Publish(Token),
    Filter(FilterKey),
}

/// How often a connection breaks.
#[derive(Debug, Default)]
pub(super) struct Breaks {
    up_since: Option<Instant>,
    /// The first of those in a row that came soon.
    since: Option<Instant>,
}

impl Upstream {
    /// The connection works. What is in quarantine waits for a while whether it goes on to.
    pub(super) fn watch_up(&mut self, now: Instant, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn.0 as usize) else {
            return;
        };
        connection.breaks.up_since = Some(now);
        if let Some(quarantine) = &mut connection.quarantine {
            quarantine.phase = Phase::Quiet(now + QUIET);
        }
    }

    /// The connection broke. Returns the request that is found to be the reason.
    pub(super) fn watch_down(&mut self, now: Instant, conn: ConnId) -> Option<Token> {
        let connection = self.connections.get_mut(conn.0 as usize)?;
        let Some(quarantine) = &mut connection.quarantine else {
            let up_since = connection.breaks.up_since?;
            self.count_break(now, up_since, conn);
            return None;
        };
        match core::mem::take(&mut quarantine.phase) {
            Phase::Trying(token, since) if now.since(since) < SILENCE => self.blame(conn, token),
            _ => {
                quarantine.in_quiet += 1;
                if quarantine.in_quiet >= CONVINCED_AFTER {
                    // It breaks without any of them: an ordinary outage.
                    self.lose_all(conn);
                    self.end_quarantine(conn);
                }
                None
            }
        }
    }

    fn count_break(&mut self, now: Instant, up_since: Instant, conn: ConnId) {
        let under_way = self.under_way(conn);
        let breaks = &mut self.connections[conn.0 as usize].breaks;
        if now.since(up_since) >= SILENCE || under_way.is_empty() {
            breaks.since = None;
            return;
        }
        let since = *breaks.since.get_or_insert(now);
        let mut most = 0;
        let requests = under_way.len();
        for key in under_way {
            let count = match &self.requests[key].kind {
                RequestKind::Subscribe { filter, .. } | RequestKind::Unsubscribe { filter, .. } => {
                    self.filter_breaks.entry(*filter).or_default()
                }
                RequestKind::Publish { .. } | RequestKind::Settled { .. } => &mut self.requests[key].breaks,
            };
            *count = count.saturating_add(1);
            most = most.max(*count);
        }
        if most >= SUSPECTED_AFTER && now.since(since) >= PATIENCE && !self.closing {
            self.connections[conn.0 as usize].quarantine = Some(Box::default());
            self.untold.notices.push_back(Notice::OneAtATime {
                conn,
                client_id: self.options[conn.0 as usize].client_id.clone(),
                breaks: most,
                requests,
            });
            self.open_anew(conn);
        }
    }

    /// Requests that the port has.
    fn under_way(&self, conn: ConnId) -> Vec<usize> {
        let line = &self.connections[conn.0 as usize].subscriptions;
        let waiting: FxHashSet<usize> = line.iter().copied().collect();
        let is = |key: usize, kind: &RequestKind| match kind {
            RequestKind::Publish { conn: of, sent, .. } => *sent && *of == conn,
            RequestKind::Subscribe { .. } | RequestKind::Unsubscribe { .. } => {
                conn == SUBSCRIPTIONS && !waiting.contains(&key)
            }
            RequestKind::Settled { .. } => false,
        };
        let requests = self.requests.iter();
        requests
            .filter(|(key, request)| is(*key, &request.kind))
            .map(|(key, _)| key)
            .collect()
    }

    /// The connection broke with this request alone.
    fn blame(&mut self, conn: ConnId, token: Token) -> Option<Token> {
        let suspect = self.suspect(token)?;
        if self.closing {
            return None;
        }
        // Else the port would send it again at once.
        self.open_anew(conn);
        let quarantine = self.connections[conn.0 as usize].quarantine.as_mut()?;
        quarantine.in_quiet = 0;
        let breaks = quarantine.alone.entry(suspect).or_default();
        *breaks += 1;
        let convinced = *breaks >= CONVINCED_AFTER;
        if convinced {
            quarantine.alone.remove(&suspect);
            quarantine.found = true;
        }
        convinced.then_some(token)
    }

    fn suspect(&self, token: Token) -> Option<Suspect> {
        Some(match &self.requests[self.key_of(token)?].kind {
            RequestKind::Publish { .. } => Suspect::Publish(token),
            RequestKind::Subscribe { filter, .. } | RequestKind::Unsubscribe { filter, .. } => {
                Suspect::Filter(*filter)
            }
            RequestKind::Settled { .. } => return None,
        })
    }

    /// Another connection with another session takes its place, so that its port has nothing to send again.
    fn open_anew(&mut self, conn: ConnId) {
        let at = conn.0 as usize;
        self.connections[at].acks.clear();
        let options = self.options[at].clone();
        self.control.push_back(BrokerRequest::Close { conn });
        self.control.push_back(BrokerRequest::Open { conn, options });
    }

    /// What the port of a closed connection has not reported lost is lost as well.
    fn lose_all(&mut self, conn: ConnId) {
        let publishes = |key: &usize| matches!(self.requests[*key].kind, RequestKind::Publish { .. });
        let lost: Vec<usize> = self.under_way(conn).into_iter().filter(publishes).collect();
        for key in lost {
            let _ = self.lost(self.token(key));
        }
    }

    fn end_quarantine(&mut self, conn: ConnId) {
        let connection = &mut self.connections[conn.0 as usize];
        let ended = connection.quarantine.take();
        connection.breaks.since = None;
        if ended.is_some_and(|quarantine| !quarantine.found) {
            self.untold.notices.push_back(Notice::NoneToBlame {
                conn,
                client_id: self.options[conn.0 as usize].client_id.clone(),
            });
        }
        if conn == SUBSCRIPTIONS {
            self.filter_breaks.clear();
        }
        for (_, request) in &mut self.requests {
            if matches!(request.kind, RequestKind::Publish { conn: of, .. } if of == conn) {
                request.breaks = 0;
            }
        }
    }

    /// The broker answered: it can stand this request.
    pub(crate) fn on_outcome(&mut self, token: Token) {
        match self.suspect(token) {
            Some(Suspect::Filter(filter)) => drop(self.filter_breaks.remove(&filter)),
            Some(Suspect::Publish(_)) => {}
            None => return,
        }
        for quarantine in self.connections.iter_mut().filter_map(|c| c.quarantine.as_mut()) {
            if matches!(quarantine.phase, Phase::Trying(of, _) if of == token) {
                quarantine.phase = Phase::Ready;
                quarantine.in_quiet = 0;
            }
        }
    }

    /// When [`Upstream::look_at_quarantine`] is wanted.
    pub(crate) fn quarantine_at(&self) -> Option<Instant> {
        let of = |connection: &Connection| match connection.quarantine.as_ref()?.phase {
            Phase::Quiet(until) => Some(until),
            Phase::Trying(_, since) => Some(since + SILENCE),
            Phase::Down | Phase::Ready => None,
        };
        self.connections.iter().filter_map(of).min()
    }

    /// The quiet may be over, or the broker silent for so long that the next has its turn.
    pub(crate) fn look_at_quarantine(&mut self, now: Instant) {
        for at in 0..self.connections.len() {
            let Some(quarantine) = &mut self.connections[at].quarantine else {
                continue;
            };
            match quarantine.phase {
                Phase::Quiet(until) if now >= until => {
                    quarantine.phase = Phase::Ready;
                    self.lose_all(ConnId(at as u32));
                }
                Phase::Trying(token, since) if now >= since + SILENCE => {
                    quarantine.phase = Phase::Ready;
                    if let Some(key) = self.key_of(token) {
                        self.requests[key].breaks = 0;
                    }
                }
                _ => {}
            }
        }
    }

    /// The next request of a connection in quarantine, if none is under way. What nobody suspects waits until it is over.
    pub(super) fn next_alone(
        &mut self,
        at: usize,
        now: Instant,
        journal: &mut Journal,
        metrics: &mut Metrics,
    ) -> Option<BrokerRequest> {
        let connection = &mut self.connections[at];
        if !matches!(connection.quarantine.as_ref()?.phase, Phase::Ready) {
            return None;
        }
        let conn = ConnId(at as u32);
        if let Some(key) = connection.subscriptions.front().copied() {
            if waits_for_disk(&self.requests, key) {
                return None;
            }
            connection.subscriptions.pop_front();
            connection.credit -= 1;
            self.try_alone(at, now, self.token(key));
            return self.subscription_request(conn, key);
        }
        if self.restoring > 0 {
            return None;
        }
        let connection = &self.connections[at];
        let backlog = connection.backlog.free().chain(connection.backlog.held());
        let waiting = connection.waiting.iter().copied().chain(backlog);
        let suspects = waiting.filter(|key| self.requests[*key].breaks > 0);
        let Some(key) = suspects.min_by_key(|key| self.seq_of(*key)) else {
            self.end_quarantine(conn);
            return self.poll(now, journal, metrics);
        };
        self.try_alone(at, now, self.token(key));
        self.send(at, key, journal, metrics)
    }

    fn try_alone(&mut self, at: usize, now: Instant, token: Token) {
        if let Some(quarantine) = &mut self.connections[at].quarantine {
            quarantine.phase = Phase::Trying(token, now);
        }
    }
}
