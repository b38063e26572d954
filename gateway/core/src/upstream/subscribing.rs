//! Subscriptions and their ends, asked for on the one connection that carries them.

use std::sync::Arc;

use sn_codec::QoS;

use super::{RequestKind, SUBSCRIPTIONS, Upstream};
use crate::durable::{Journal, Waiting};
use crate::io::{FilterId, Token};
use crate::subscriptions::FilterKey;

impl Upstream {
    /// Asks for a subscription at the broker, once it is durable that somebody wants it if it is not yet.
    pub(crate) fn subscribe(
        &mut self,
        journal: &mut Journal,
        filter: FilterKey,
        name: Arc<str>,
        (id, qos): (FilterId, QoS),
        durable: bool,
    ) {
        // The first subscription brings the first delivery.
        let durable = durable && !journal.mistakes_deliveries();
        let key = self.insert(RequestKind::Subscribe {
            filter,
            name,
            id,
            qos,
            ready: durable,
        });
        if !durable && journal.wait(Waiting::Subscription(self.token(key))).is_some() {
            self.release_subscription(self.token(key));
        }
        self.connections[SUBSCRIPTIONS.0 as usize]
            .subscriptions
            .push_back(key);
    }

    /// A subscription may be asked for.
    pub(crate) fn release_subscription(&mut self, token: Token) {
        let key = self.key_of(token);
        let request = key.and_then(|key| self.requests.get_mut(key));
        if let Some(RequestKind::Subscribe { ready, .. }) = request.map(|request| &mut request.kind) {
            *ready = true;
        }
    }

    /// Asks for the end of a subscription.
    pub(crate) fn unsubscribe(&mut self, filter: FilterKey, name: Arc<str>) {
        let key = self.insert(RequestKind::Unsubscribe { filter, name });
        self.connections[SUBSCRIPTIONS.0 as usize]
            .subscriptions
            .push_back(key);
    }

    /// The end of a subscription is not wanted any more. False if the broker was asked for it.
    pub(crate) fn take_back_unsubscribe(&mut self, filter: FilterKey) -> bool {
        let Upstream {
            connections,
            requests,
            ..
        } = self;
        let line = &mut connections[SUBSCRIPTIONS.0 as usize].subscriptions;
        let is = |key: &usize| match requests.get(*key).map(|request| &request.kind) {
            Some(RequestKind::Unsubscribe { filter: of, .. }) => *of == filter,
            _ => false,
        };
        let Some(key) = line.iter().position(is).and_then(|at| line.remove(at)) else {
            return false;
        };
        requests.remove(key);
        true
    }

    /// The subscriptions asked for just now go before everything that is to be published.
    pub(crate) fn restore_first(&mut self) {
        for (_, request) in &mut self.requests {
            let subscribes = matches!(request.kind, RequestKind::Subscribe { .. });
            self.restoring += usize::from(subscribes && !request.restores);
            request.restores |= subscribes;
        }
    }

    /// None of those is under way any more, and the broker is there.
    pub(crate) fn subscriptions_stand(&self) -> bool {
        self.is_up(SUBSCRIPTIONS) && self.restoring == 0
    }

    /// Drops requests for subscriptions, sent or not: the filter table will ask anew.
    pub(crate) fn forget_subscriptions(&mut self) {
        self.connections[SUBSCRIPTIONS.0 as usize].subscriptions.clear();
        self.restoring = 0;
        self.requests.retain(|_, request| match request.kind {
            RequestKind::Publish { .. } | RequestKind::Settled { .. } => true,
            RequestKind::Subscribe { .. } | RequestKind::Unsubscribe { .. } => false,
        });
    }
}
