//! When status messages are made: what the gateway's events mean for them, and the looks at what may have changed.

use std::sync::Arc;

use bytes::Bytes;

use super::payload::{self, Payload, digest};
use super::{CLOCK_OFF, Clock, LOOKS_PER_TICK, PER_TICK, Said, TOKENS, What};
use crate::gateway::Gateway;
use crate::io::{BrokerEvent, BrokerRequest, ConnId, Notice, Refusal};
use crate::time::Instant;
use crate::upstream::SUBSCRIPTIONS;

impl Gateway {
    /// What time it is for people, in milliseconds since 1970: it stands in status messages. Needed once, and then from
    /// time to time, since clocks are set.
    pub fn handle_clock(&mut self, now: Instant, unix_ms: u64) {
        if let Some(on) = &mut self.status.on {
            let expected = on
                .clock
                .map(|clock| clock.unix_ms + now.since(clock.at).as_millis() as u64);
            if expected.is_none_or(|expected| expected.abs_diff(unix_ms) > CLOCK_OFF) {
                on.clock = Some(Clock { at: now, unix_ms });
            }
        }
    }

    /// The connection that carries status messages and nothing of clients.
    pub fn status_connection(&self) -> Option<ConnId> {
        self.status.on.as_ref().map(|on| on.conn)
    }

    /// True if the event is about status messages alone.
    pub(crate) fn on_status_event(&mut self, now: Instant, event: &BrokerEvent) -> bool {
        let Some(on) = &mut self.status.on else {
            return false;
        };
        if on.refused {
            return is_for(on.conn, event);
        }
        match event {
            BrokerEvent::Up {
                conn,
                window,
                forgets,
                ..
            } if *conn == on.conn => {
                on.on_up(now, *window, *forgets);
                self.line_up_all();
            }
            BrokerEvent::Down { conn, .. } if *conn == on.conn => on.on_down(),
            BrokerEvent::Credit { conn, requests } if *conn == on.conn => {
                on.credit = on.credit.saturating_add(*requests);
                on.go_on(now);
            }
            BrokerEvent::Message {
                conn,
                topic,
                retain,
                payload,
                ..
            } if *conn == on.conn => {
                on.on_swept(now, topic, *retain, payload);
            }
            BrokerEvent::Released { conn, .. } => return *conn == on.conn,
            BrokerEvent::Settled { token, result } if token.0 & TOKENS == TOKENS => {
                let topic = on.in_flight.remove(token);
                match (topic, result) {
                    (Some(topic), Err(refusal)) if *refusal != Refusal::QUOTA_EXCEEDED => {
                        self.switch_status_off(topic, *refusal);
                    }
                    // Not to be allowed to look is no reason to be silent.
                    (Some(_), Ok(_) | Err(_)) | (None, _) => on.go_on(now),
                }
            }
            BrokerEvent::Lost { token } | BrokerEvent::Delivered { token } if token.0 & TOKENS == TOKENS => {
                on.in_flight.remove(token);
                on.go_on(now);
            }
            BrokerEvent::Up { conn, .. } => {
                if *conn == SUBSCRIPTIONS {
                    on.open();
                }
                on.look_soon(now);
                return false;
            }
            BrokerEvent::Down { .. } => {
                on.look_soon(now);
                return false;
            }
            BrokerEvent::Credit { .. }
            | BrokerEvent::Settled { .. }
            | BrokerEvent::Lost { .. }
            | BrokerEvent::Delivered { .. }
            | BrokerEvent::Message { .. } => return false,
        }
        true
    }

    /// As many clients as may have topics, those that have one already first.
    fn line_up_all(&mut self) {
        let Some(on) = &mut self.status.on else { return };
        let shown: Vec<Arc<str>> = on.clients.keys().cloned().collect();
        for id in &shown {
            on.line_up(id, true);
        }
        for (_, client) in self.clients.iter() {
            if on.clients.len() >= on.config.clients {
                return;
            }
            on.line_up(&client.id, true);
        }
    }

    /// The broker does not want it: that is said once.
    fn switch_status_off(&mut self, topic: Arc<str>, refusal: Refusal) {
        if let Some(on) = &mut self.status.on {
            let conn = on.conn;
            on.refused = true;
            on.on_down();
            on.requests.push_back(BrokerRequest::Close { conn });
            self.cx.notice(Notice::StatusRefused { topic, refusal });
        }
    }

    /// Looks at what may have changed, if it is time.
    pub(crate) fn look_at_status(&mut self, now: Instant) {
        let due = |at: Instant| now >= at;
        let Some(on) = &mut self.status.on else { return };
        if on.up.is_none() || !(on.look_at.is_some_and(due) || due(on.whole_at)) {
            return;
        }
        on.look_at = None;
        on.last_look = now;
        if due(on.whole_at) {
            on.whole_at = now + on.config.interval;
            on.own.iter_mut().for_each(|own| own.whole = true);
            let shown: Vec<Arc<str>> = on.clients.keys().cloned().collect();
            for id in &shown {
                on.line_up(id, true);
            }
            on.sweep();
        }
        let left = self.tell_own(now, PER_TICK);
        // What clients have to say goes before what there is to say about them.
        let left = match self.cx.upstream.is_busy() {
            true => left,
            false => self.tell_clients(left),
        };
        if let Some(on) = &mut self.status.on {
            on.cut_short = left == 0;
            if on.room() > 0 {
                on.go_on(now);
            }
        }
    }

    /// Returns how many more messages may leave at this look.
    fn tell_own(&mut self, now: Instant, mut left: usize) -> usize {
        self.metrics();
        let opened = self.cx.upstream.opened();
        let oldest = self.cx.upstream.oldest_spooled();
        let Some(on) = &mut self.status.on else { return 0 };
        for at in 0..on.own.len() {
            if left == 0 || on.room() == 0 {
                return 0;
            }
            let own = &mut on.own[at];
            let metrics = &self.cx.metrics;
            let seconds = |at: Instant| on.clock.map(|clock| clock.unix_seconds(at));
            let payload = match own.what {
                What::Gateway => {
                    let id = self.cx.config.gateway_id;
                    payload::online(&on.config, id, seconds(on.started), on.clients.len(), metrics)
                }
                What::Broker => payload::broker(opened, metrics),
                What::Spool => {
                    let journal = &self.cx.journal;
                    let disk = journal.is_on().then(|| journal.works());
                    payload::spool(disk, oldest.and_then(seconds), metrics)
                }
                What::Radio(link) => {
                    let counted = self.cx.links.metrics(now, link).unwrap_or_default();
                    payload::radio(&on.config, link, &counted)
                }
            };
            let whole = core::mem::take(&mut own.whole);
            if let Some(payload) = news(&mut own.said, whole, payload) {
                let topic = own.topic.clone();
                on.publish(topic, payload);
                left -= 1;
            }
        }
        left
    }

    fn tell_clients(&mut self, mut left: usize) -> usize {
        let Some(on) = &mut self.status.on else { return 0 };
        for _ in 0..LOOKS_PER_TICK {
            if left == 0 || on.room() == 0 {
                return 0;
            }
            let Some(id) = on.line.pop_front() else { break };
            let found = self.clients.by_id(&id).and_then(|ix| self.clients.get(ix));
            let Some(client) = found else {
                // Gone for good: so is what is retained.
                if on.clients.remove(&id).is_some_and(|shown| shown.retained) {
                    on.publish(on.client_topic(&id), Bytes::new());
                    left -= 1;
                }
                continue;
            };
            let Some(shown) = on.clients.get_mut(&id) else {
                continue;
            };
            shown.in_line = false;
            let whole = core::mem::take(&mut shown.whole);
            let payload = payload::client(&on.config, on.clock.as_ref(), client);
            if let Some(payload) = payload.and_then(|payload| news(&mut shown.said, whole, payload)) {
                shown.retained = true;
                on.publish(on.client_topic(&id), payload);
                left -= 1;
            }
        }
        left
    }
}

fn is_for(status: ConnId, event: &BrokerEvent) -> bool {
    match event {
        BrokerEvent::Up { conn, .. }
        | BrokerEvent::Down { conn, .. }
        | BrokerEvent::Credit { conn, .. }
        | BrokerEvent::Released { conn, .. }
        | BrokerEvent::Message { conn, .. } => *conn == status,
        BrokerEvent::Settled { token, .. }
        | BrokerEvent::Lost { token }
        | BrokerEvent::Delivered { token } => token.0 & TOKENS == TOKENS,
    }
}

/// What is to be published, if anything.
fn news(said: &mut Option<Said>, whole: bool, payload: Payload) -> Option<Bytes> {
    let now = Said {
        telling: payload.telling,
        all: digest(payload.text.as_bytes()),
    };
    let differs = match *said {
        None => true,
        Some(before) if whole => before != now,
        Some(before) => before.telling != now.telling,
    };
    if !differs {
        return None;
    }
    *said = Some(now);
    Some(payload.text.into())
}
