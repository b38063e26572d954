//! What the gateway asks of the broker: each request has a token until it is settled, and what a lost connection took along
//! is submitted again under its token, in the order sent (A31).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_core::io::{BrokerRequest, ConnId, ConnectOptions, Refusal, Token};
use sn_codec::{MsgId, QoS};

use super::Reference;
use super::violation::{Check, ensure};
use crate::sim_broker::as_request;

#[derive(Debug)]
pub(super) struct TokenModel {
    conn: ConnId,
    pub(super) request: BrokerRequest,
    pub(super) order: u64,
    pub(super) state: TokenState,
    /// Which PUBLISH of its client it carries.
    pub(super) msg_id: Option<MsgId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenState {
    Open,
    Lost,
}

#[derive(Debug, Default)]
pub(super) struct ConnModel {
    pub(super) up: bool,
    /// Filters that it has acknowledged and keeps.
    pub(super) subscribed: BTreeSet<Arc<str>>,
    /// Order of the last resubmission in this connection; of each client, where what is stored has a lane of its own.
    resubmitted: BTreeMap<usize, u64>,
}

impl Reference {
    /// A connection to the broker stands.
    pub(super) fn on_up(&mut self, conn: ConnId, session_present: bool) {
        let model = self.conns.entry(conn).or_default();
        model.up = true;
        model.resubmitted.clear();
        if !session_present {
            model.subscribed.clear();
            if conn == ConnId(0) {
                // The broker forgot what it had not been answered for, and so did the gateway.
                self.given_up += self.orphans.drain().count();
                // As long as the gateway lives it has the rest.
                self.fragile
                    .extend(self.unacknowledged.drain().map(|(_, payload)| payload));
            }
        }
    }

    /// The broker answers a request.
    pub(super) fn on_settled(&mut self, token: Token, result: Result<Option<QoS>, Refusal>) {
        let Some(model) = self.tokens.remove(&token) else {
            return;
        };
        match model.request {
            BrokerRequest::Publish { payload, .. } => {
                self.on_publish_settled(model.msg_id, &payload, result.err());
                if result == Err(Refusal::QUOTA_EXCEEDED) {
                    self.on_postponed(token, model.order, &payload);
                }
            }
            BrokerRequest::Subscribe { conn, filter, .. } => {
                self.on_filter_settled(conn, filter, result.is_ok());
            }
            BrokerRequest::Unsubscribe { conn, filter, .. } => {
                self.conns.entry(conn).or_default().subscribed.remove(&filter);
            }
            BrokerRequest::Open { .. }
            | BrokerRequest::Close { .. }
            | BrokerRequest::Ack { .. }
            | BrokerRequest::Complete { .. } => {}
        }
    }

    /// The connection ended before the broker had answered.
    pub(super) fn on_lost_request(&mut self, token: Token) {
        // A publish comes again under its token; subscriptions may be asked for anew.
        self.tokens
            .retain(|t, model| *t != token || matches!(model.request, BrokerRequest::Publish { .. }));
        if let Some(model) = self.tokens.get_mut(&token) {
            model.state = TokenState::Lost;
        }
    }

    /// The gateway asks for a connection.
    pub(super) fn on_open(&mut self, conn: ConnId, options: &ConnectOptions) {
        // What an earlier life left to the port is settled or lost in this one.
        let mut restored: Vec<_> = options.restored.iter().collect();
        // In the order in which they came from clients.
        restored.sort_by_key(|restored| restored.stored.key);
        for restored in restored {
            self.published += 1;
            let model = TokenModel {
                conn,
                request: as_request(conn, restored),
                order: self.published,
                state: TokenState::Open,
                msg_id: None,
            };
            self.tokens.insert(restored.token, model);
        }
    }

    /// A request has a token, which is new or that of the same request that was lost.
    pub(super) fn track(&mut self, conn: ConnId, token: Option<Token>, request: &BrokerRequest) -> Check {
        let Some(token) = token else { return Ok(()) };
        let told = || format!("{token:?}: {request:?}");
        if let Some(known) = self.tokens.get(&token) {
            ensure(
                known.state == TokenState::Lost,
                "a token is not used again before it is settled or lost",
                told,
            )?;
            ensure(known.conn == conn, "a token stays on its connection", told)?;
            let same = match (&known.request, request) {
                (
                    BrokerRequest::Publish {
                        payload: a, topic: b, ..
                    },
                    BrokerRequest::Publish { payload, topic, .. },
                ) => a == payload && b == topic,
                (BrokerRequest::Publish { .. }, _) | (_, BrokerRequest::Publish { .. }) => false,
                _ => true,
            };
            return ensure(same, "what was lost is submitted again under its token", told);
        }
        let state = TokenState::Open;
        self.tokens.insert(
            token,
            TokenModel {
                conn,
                request: request.clone(),
                order: self.postponed.remove(&token).unwrap_or(self.published),
                state,
                msg_id: None,
            },
        );
        Ok(())
    }

    /// A lost request was submitted again.
    pub(super) fn reopen(&mut self, token: Option<Token>) -> Check {
        let Some(model) = token.and_then(|token| self.tokens.get_mut(&token)) else {
            return Ok(());
        };
        if model.state != TokenState::Lost {
            return Ok(());
        }
        model.state = TokenState::Open;
        if let BrokerRequest::Publish { payload, .. } = &model.request {
            let author = self.uplinks.get(payload).map(|uplink| uplink.client);
            let line = author.filter(|_| self.durable).unwrap_or_default();
            let conn = self.conns.entry(model.conn).or_default();
            let last = conn.resubmitted.entry(line).or_default();
            let in_order = model.order > *last;
            *last = model.order;
            return ensure(
                in_order,
                "lost publishes are submitted again in the order sent",
                || format!("{:?}", model.request),
            );
        }
        Ok(())
    }

    /// Requests to the broker whose outcome is open.
    pub fn open_tokens(&self) -> usize {
        self.tokens.len()
    }
}
