//! The broker answered a subscription, or went away before it did: what its clients are told.

use sn_codec::QoS;

use super::Gateway;
use crate::client::State;
use crate::client::subscribe::drive;
use crate::clients::ClientIx;
use crate::io::{Notice, Refusal};
use crate::subscriptions::{Asker, FilterKey, Pending};
use crate::time::Instant;

impl Gateway {
    /// The broker is there, and has answered for all subscriptions that clients had when it came: what is published
    /// there from now on reaches them. An earlier life's clients are among these
    /// ([`Gateway::restore`]).
    pub fn subscriptions_stand(&self) -> bool {
        self.cx.upstream.subscriptions_stand()
    }

    pub(super) fn on_subscribed(
        &mut self,
        now: Instant,
        key: FilterKey,
        result: Result<Option<QoS>, Refusal>,
    ) {
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
    pub(super) fn answer_askers(
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
}
