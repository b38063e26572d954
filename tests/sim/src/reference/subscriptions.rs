//! Subscriptions: which topic id a SUBACK has (A53), which QoS it grants (A54), that it waits for the broker's unless the
//! broker is away (A31), and which filters the gateway asks the broker for.

use std::collections::BTreeSet;
use std::sync::Arc;

use gateway_core::io::{BrokerRequest, ConnId, FilterId};
use sn_codec::{
    MsgId, MsgType, QoS, ReturnCode, Suback, Subscribe, TopicFilter, TopicId, Unsubscribe, topic,
};

use super::Reference;
use super::client::{ClientModel, Phase};
use super::topic_ids::Names;
use super::violation::{Check, ensure};

/// A SUBSCRIBE that was received.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// Counts the client's.
    number: u64,
    filter: String,
    qos: QoS,
    /// By name, so that the SUBACK assigns an id; predefined and short ones are echoed (4.7).
    named: bool,
    pub(super) broker_was_away: bool,
    /// What the client held before, which an answer of congestion leaves to it.
    before: Option<Sub>,
    /// It had asked for it before, acknowledged or not.
    asked_before: bool,
    answered: bool,
    /// UNSUBSCRIBE came before the answer.
    given_back: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Sub {
    pub(super) granted: QoS,
}

impl Reference {
    /// A31: a SUBSCRIBE that comes while the broker is away is answered at once.
    pub(super) fn note_outage(&mut self, ix: usize, msg_id: MsgId) {
        if let Some(asked) = self.clients[ix].subscribes.get_mut(&msg_id) {
            asked.broker_was_away |= self.conns.get(&ConnId(0)).is_none_or(|conn| !conn.up);
        }
    }

    /// A31: what is asked for meanwhile, or was and is not answered yet, is answered at once.
    pub(super) fn on_broker_away(&mut self) {
        for client in &mut self.clients {
            client
                .subscribes
                .values_mut()
                .for_each(|asked| asked.broker_was_away = true);
        }
    }

    /// SUBACKs that are due now. In the middle of a handshake they are not sent: the client asks again.
    pub(super) fn unsaid_subacks(&mut self, due: impl Fn(&Asked) -> bool) {
        for client in &mut self.clients {
            if client.phase == Phase::Setup && !client.handshake_done {
                let asked = client.subscribes.values_mut();
                asked
                    .filter(|asked| due(asked))
                    .for_each(|asked| asked.answered = true);
            }
        }
    }

    /// The broker answers a SUBSCRIBE.
    pub(super) fn on_filter_settled(&mut self, conn: ConnId, filter: Arc<str>, taken: bool) {
        self.unsaid_subacks(|asked| *asked.filter == *filter);
        let conn = self.conns.entry(conn).or_default();
        match taken {
            true => {
                conn.subscribed.insert(filter);
            }
            false => {
                self.refused_filter = true;
                // A31: it is taken away from clients that were told otherwise.
                self.clients.iter_mut().for_each(|client| {
                    client.subs.remove(&*filter);
                    client.maybe.remove(&*filter);
                });
            }
        }
    }

    /// The gateway answers a SUBSCRIBE.
    pub(super) fn on_suback(&mut self, ix: usize, suback: Suback) -> Check {
        let aggregate = self.conns.get(&ConnId(0));
        let client = &mut self.clients[ix];
        client.pay(MsgType::Suback, suback.msg_id)?;
        let Some(asked) = client.subscribes.get_mut(&suback.msg_id) else {
            return ensure(
                suback.return_code != ReturnCode::Accepted,
                "SUBACK answers a SUBSCRIBE",
                || format!("{suback:?} to {}", client.id),
            );
        };
        asked.answered = true;
        let Asked {
            number,
            filter,
            qos,
            named,
            broker_was_away,
            before,
            asked_before,
            given_back,
            ..
        } = asked.clone();
        if suback.return_code != ReturnCode::Accepted {
            ensure(
                !named || suback.topic_id == TopicId::NONE,
                "a refused name has no topic id (A53)",
                || format!("{suback:?} to {}", client.id),
            )?;
            let for_now = suback.return_code == ReturnCode::Congestion;
            match before.filter(|_| for_now && !given_back) {
                Some(before) => {
                    client.maybe.insert(filter.clone());
                    client.subs.insert(filter, before);
                }
                None if client.subs.contains_key(&filter) || (for_now && asked_before) => {}
                None => {
                    client.maybe.remove(&filter);
                }
            }
            return Ok(());
        }
        ensure(suback.qos <= qos, "no more granted than asked for", || {
            format!("{suback:?} for {filter}")
        })?;
        let late = self.durable && given_back;
        let settled = late || aggregate.is_some_and(|conn| conn.up && conn.subscribed.contains(&*filter));
        let away = aggregate.is_none_or(|conn| !conn.up) || broker_was_away;
        ensure(settled || away, "no SUBACK before the broker's (A31)", || {
            format!("{filter} to {}", client.id)
        })?;
        if named && topic::has_wildcard(&filter) {
            ensure(
                suback.topic_id == TopicId::NONE,
                "a wildcard has no topic id (4.7)",
                || format!("{suback:?}"),
            )?;
        } else if named {
            client.learn(suback.topic_id, &filter)?;
        }
        if given_back {
            return Ok(());
        }
        client.maybe.insert(filter.clone());
        // The one that came last decides.
        let same = |later: &&Asked| later.filter == filter && later.number > number;
        if !client.subscribes.values().any(|later| same(&later)) {
            client.subs.insert(filter, Sub { granted: suback.qos });
        }
        Ok(())
    }

    /// The gateway asks the broker for a filter, under this number.
    pub(super) fn on_filter_asked(
        &mut self,
        id: FilterId,
        filter: &Arc<str>,
        request: &BrokerRequest,
    ) -> Check {
        self.numbers.insert(filter.clone(), id);
        let known = self.filters.entry(id).or_insert_with(|| filter.clone());
        ensure(
            id != FilterId(0) && known == filter,
            "a subscription id stays with its filter",
            || format!("{request:?}"),
        )
    }

    /// The gateway gives a filter back to the broker.
    pub(super) fn on_filter_given_back(&self, filter: &str) -> Check {
        let holder = self.clients.iter().find(|c| c.subs.contains_key(filter));
        ensure(
            holder.is_none(),
            "UNSUBSCRIBE only when the last one left",
            || format!("{filter} is held by {}", holder.map_or("", |c| &c.id)),
        )
    }

    /// The filters that clients hold, so that the gateway must be subscribed to them.
    pub fn held_filters(&self) -> BTreeSet<Arc<str>> {
        self.clients
            .iter()
            .flat_map(|c| c.subs.keys().map(|f| Arc::from(f.as_str())))
            .collect()
    }

    /// The filters that clients asked for, acknowledged or not: the gateway may be subscribed to nothing else.
    pub fn asked_filters(&self) -> BTreeSet<Arc<str>> {
        self.clients
            .iter()
            .flat_map(|c| c.maybe.iter().map(|f| Arc::from(f.as_str())))
            .collect()
    }
}

impl ClientModel {
    /// A SUBSCRIBE came.
    pub(super) fn on_subscribe(&mut self, subscribe: Subscribe<'_>, names: &Names<'_>) {
        self.owe_answer(MsgType::Suback, subscribe.msg_id);
        let open = self
            .subscribes
            .get(&subscribe.msg_id)
            .is_some_and(|asked| !asked.answered);
        // A46: what waits for the broker is swallowed.
        if !open && let Some(filter) = names.filter(&self.id, subscribe.topic) {
            let ever = self.ever.entry(filter.clone()).or_default();
            *ever = (*ever).max(subscribe.qos);
            // Another QoS may be granted from now on, so claims under the old one end.
            let before = self.subs.remove(&filter);
            let asked_before = !self.maybe.insert(filter.clone());
            let named = matches!(subscribe.topic, TopicFilter::Name(_));
            self.asked += 1;
            let asked = Asked {
                number: self.asked,
                filter,
                qos: subscribe.qos,
                named,
                broker_was_away: false,
                before,
                asked_before,
                answered: false,
                given_back: false,
            };
            self.subscribes.insert(subscribe.msg_id, asked);
        }
    }

    /// An UNSUBSCRIBE came.
    pub(super) fn on_unsubscribe(&mut self, unsubscribe: Unsubscribe<'_>, names: &Names<'_>) {
        self.owe_answer(MsgType::Unsuback, unsubscribe.msg_id);
        if let Some(filter) = names.filter(&self.id, unsubscribe.topic) {
            self.subs.remove(&filter);
            self.maybe.remove(&filter);
            self.owed.retain(|_, owed| !topic::matches(&filter, &owed.topic));
            let open = self
                .subscribes
                .values_mut()
                .filter(|asked| asked.filter == filter);
            open.for_each(|asked| asked.given_back = true);
        }
    }
}
