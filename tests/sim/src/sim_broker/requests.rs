//! What the core asks for: taken by the port, carried out by the broker a while later, and answered.

use core::time::Duration;

use gateway_core::io::{BrokerEvent, BrokerRequest, ConnId, Refusal, Token};
use gateway_core::time::Instant;
use rand::RngExt;
use rand::rngs::SmallRng;
use sn_codec::{QoS, topic};

use super::exactly_once::{Exact, ExactStage};
use super::{Accepted, BrokerAction, Life, Misuse, Origin, Packet, SimBroker, Stage, Unsettled};
use crate::net::between;

fn conn_of(request: &BrokerRequest) -> ConnId {
    match request {
        BrokerRequest::Open { conn, .. }
        | BrokerRequest::Close { conn }
        | BrokerRequest::Publish { conn, .. }
        | BrokerRequest::Subscribe { conn, .. }
        | BrokerRequest::Unsubscribe { conn, .. }
        | BrokerRequest::Ack { conn, .. }
        | BrokerRequest::Complete { conn, .. } => *conn,
    }
}

/// The token of a request whose outcome is reported.
fn token_of(request: &BrokerRequest) -> Option<Token> {
    match request {
        BrokerRequest::Publish { token, .. } => *token,
        BrokerRequest::Subscribe { token, .. } | BrokerRequest::Unsubscribe { token, .. } => Some(*token),
        BrokerRequest::Open { .. }
        | BrokerRequest::Close { .. }
        | BrokerRequest::Ack { .. }
        | BrokerRequest::Complete { .. } => None,
    }
}

impl SimBroker {
    pub(super) fn accept(
        &mut self,
        now: Instant,
        request: BrokerRequest,
        rng: &mut SmallRng,
    ) -> Result<(), Misuse> {
        let conn_id = conn_of(&request);
        let window = usize::from(self.config.window);
        let Some(conn) = self.conns.get_mut(&conn_id) else {
            return Err(format!("{conn_id:?} was never opened: {request:?}"));
        };
        if !conn.up {
            return Err(format!("{conn_id:?} is down: {request:?}"));
        }
        if conn.credit == 0 {
            return Err(format!("{conn_id:?} has no credit: {request:?}"));
        }
        conn.credit -= 1;
        if let Some(token) = token_of(&request) {
            if conn.unsettled.contains_key(&token) {
                return Err(format!("{token:?} is still unsettled: {request:?}"));
            }
            if matches!(request, BrokerRequest::Publish { .. }) {
                let open = conn
                    .unsettled
                    .values()
                    .filter(|u| matches!(u.request, BrokerRequest::Publish { .. }));
                if open.count() >= window {
                    return Err(format!("the window of {window} is full: {request:?}"));
                }
            }
            conn.accepted += 1;
            let entry = Unsettled {
                request: request.clone(),
                order: conn.accepted,
                stage: Stage::Waiting,
            };
            conn.unsettled.insert(token, entry);
        }
        match &request {
            BrokerRequest::Publish { token, qos, .. } if token.is_some() != (*qos != QoS::AtMostOnce) => {
                return Err(format!(
                    "a token goes with QoS 1 and 2 and only with them: {request:?}"
                ));
            }
            BrokerRequest::Publish { topic, .. } if !topic::is_valid_name(topic) => {
                return Err(format!("not a topic name: {request:?}"));
            }
            BrokerRequest::Subscribe { filter, .. } | BrokerRequest::Unsubscribe { filter, .. }
                if !topic::is_valid_filter(filter) =>
            {
                return Err(format!("not a topic filter: {request:?}"));
            }
            _ => {}
        }
        if let BrokerRequest::Ack { delivery, .. } = &request
            && let Some(arrived) = conn.deliveries.get_mut(&(delivery.0 as u16))
            && arrived.delivery == *delivery
        {
            // From now on the port answers by itself, whatever becomes of this connection.
            arrived.acknowledged = true;
        }
        if let BrokerRequest::Complete { delivery, .. } = &request {
            // From now on as well.
            let packet_id = delivery.0 as u16;
            let arrived = conn.deliveries.get(&packet_id);
            if !arrived.is_some_and(|arrived| arrived.delivery == *delivery && arrived.releasing) {
                return Err(format!("nothing waits for this: {request:?}"));
            }
            conn.deliveries.remove(&packet_id);
        }
        if matches!(request, BrokerRequest::Publish { stored: Some(_), .. }) {
            // The port stores that it will send it as soon as it has it.
            self.begin(conn_id, request);
            self.give_back(conn_id);
            return Ok(());
        }
        conn.inbox.push_back(Accepted { request, paid: true });
        self.schedule_execution(now, conn_id, rng);
        Ok(())
    }

    /// TCP keeps the order of requests, so executions do too.
    pub(super) fn schedule_execution(&mut self, now: Instant, conn_id: ConnId, rng: &mut SmallRng) {
        let at = self.next_execution(now, conn_id, rng);
        let life = self.conn(conn_id).life;
        self.schedule(at, BrokerAction::Execute(conn_id, life));
    }

    /// When the broker has what the port sends now.
    pub(super) fn next_execution(&mut self, now: Instant, conn_id: ConnId, rng: &mut SmallRng) -> Instant {
        let delay = between(rng, self.config.latency_min, self.config.latency_max);
        let conn = self.conn(conn_id);
        conn.last_execution = conn.last_execution.max(now + delay);
        conn.last_execution
    }

    pub(super) fn execute(&mut self, now: Instant, conn_id: ConnId, rng: &mut SmallRng) {
        let Some(Accepted { request, paid }) = self.conn(conn_id).inbox.pop_front() else {
            return;
        };
        match request {
            request @ BrokerRequest::Publish { stored: Some(_), .. } => self.begin(conn_id, request),
            BrokerRequest::Publish {
                token,
                topic,
                qos,
                retain,
                payload,
                ..
            } => {
                let refusal = self.publish_refusal(now, &topic);
                if refusal.is_none() {
                    self.route(now, Origin::Gateway(conn_id), topic, qos, retain, payload, rng);
                }
                if let Some(token) = token {
                    self.answer(now, conn_id, token, refusal.map_or(Ok(None), Err), rng);
                }
            }
            BrokerRequest::Subscribe {
                token,
                filter,
                id,
                qos,
                ..
            } => {
                let refusal = self.refusal(&filter);
                let granted = qos.min(self.config.max_granted);
                if refusal.is_none() {
                    self.conn(conn_id)
                        .session
                        .filters
                        .insert(filter.clone(), (id, granted));
                }
                let retained_first = rng.random_bool(self.config.retained_first);
                if !retained_first {
                    self.answer(now, conn_id, token, refusal.map_or(Ok(Some(granted)), Err), rng);
                }
                if refusal.is_none() {
                    self.replay_retained(now, conn_id, &filter, id, granted, rng);
                }
                if retained_first {
                    self.answer(now, conn_id, token, refusal.map_or(Ok(Some(granted)), Err), rng);
                }
            }
            BrokerRequest::Unsubscribe { token, filter, .. } => {
                self.conn(conn_id).session.filters.remove(&filter);
                self.answer(now, conn_id, token, Ok(None), rng);
            }
            BrokerRequest::Ack { delivery, .. } => self.acknowledged(now, conn_id, delivery, rng),
            BrokerRequest::Complete { delivery, .. } => {
                self.send_delivery(now, conn_id, delivery.0 as u16, Packet::Pubcomp, rng);
            }
            BrokerRequest::Open { .. } | BrokerRequest::Close { .. } => {}
        }
        if paid {
            self.give_back(conn_id);
        }
    }

    fn give_back(&mut self, conn: ConnId) {
        self.conn(conn).credit += 1;
        self.tell(BrokerEvent::Credit { conn, requests: 1 });
    }

    fn begin(&mut self, conn: ConnId, request: BrokerRequest) {
        if let BrokerRequest::Publish {
            token: Some(token),
            topic,
            retain,
            payload,
            stored: Some(stored),
            ..
        } = request
        {
            let stage = ExactStage::Sent;
            let exact = Exact {
                token,
                stored,
                topic,
                retain,
                payload,
                stage,
            };
            self.begin_exact(conn, exact);
        }
    }

    fn refusal(&self, name: &str) -> Option<Refusal> {
        self.config
            .refuse
            .iter()
            .find(|(prefix, _)| name.starts_with(prefix.as_str()))
            .map(|(_, r)| *r)
    }

    pub(super) fn publish_refusal(&self, now: Instant, topic: &str) -> Option<Refusal> {
        let shortage = self
            .config
            .shortage
            .filter(|shortage| shortage.refuses(now, topic));
        self.refusal(topic).or(shortage.map(|_| Refusal::QUOTA_EXCEEDED))
    }

    fn answer(
        &mut self,
        now: Instant,
        conn_id: ConnId,
        token: Token,
        result: Result<Option<QoS>, Refusal>,
        rng: &mut SmallRng,
    ) {
        let at = now + between(rng, Duration::ZERO, self.config.settle_max);
        let conn = self.conn(conn_id);
        let life = conn.life;
        if let Some(unsettled) = conn.unsettled.get_mut(&token) {
            unsettled.stage = Stage::Executed(result);
        }
        self.schedule(at, BrokerAction::Settle(token, life));
    }

    pub(super) fn settle(&mut self, token: Token, life: Life) {
        let found = self
            .conns
            .values_mut()
            .find(|c| c.life == life && c.up && c.unsettled.contains_key(&token));
        let Some(conn) = found else { return };
        if let Some(Unsettled {
            stage: Stage::Executed(result),
            ..
        }) = conn.unsettled.remove(&token)
        {
            self.tell(BrokerEvent::Settled { token, result });
        }
    }

    pub(super) fn tell_settled(&mut self, tokens: Vec<Token>) {
        for token in tokens {
            self.tell(BrokerEvent::Settled {
                token,
                result: Ok(None),
            });
        }
    }
}
