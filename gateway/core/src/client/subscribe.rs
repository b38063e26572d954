//! SUBSCRIBE and UNSUBSCRIBE (§6.9).

use std::sync::Arc;

use bytes::Bytes;
use sn_codec::{MsgId, QoS, ReturnCode, Subscribe, TopicFilter, TopicId, Unsubscribe, topic};

use super::{Client, Reply};
use crate::config::WhenDown;
use crate::context::Context;
use crate::durable::{Waiting, leaving_key};
use crate::subscribers::Subscriber;
use crate::subscriptions::{Asker, FilterKey, Pending, is_exact};
use crate::time::Instant;
use crate::upstream::SUBSCRIPTIONS;

/// A filter of a client, and how the client named it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subscription {
    pub(crate) filter: FilterKey,
    pub(crate) form: Form,
}

/// How a subscription named its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Name,
    Predefined(TopicId),
    Short,
}

impl Form {
    /// What a SUBACK carries that refuses (reading A53).
    fn refused_id(self, topic_id: TopicId) -> TopicId {
        match self {
            Form::Name => TopicId::NONE,
            Form::Predefined(_) | Form::Short => topic_id,
        }
    }
}

/// A filter as a client asked for it.
struct Wanted {
    name: Arc<str>,
    form: Form,
    /// What a SUBACK carries (reading A53): Zephyr and emcute depend on it.
    topic_id: TopicId,
}

impl Client {
    /// C→G SUBSCRIBE(m)   G→C SUBACK(m, granted QoS), once the broker has answered.
    pub(crate) fn on_subscribe(&mut self, cx: &mut Context, now: Instant, subscribe: Subscribe<'_>) {
        let msg_id = subscribe.msg_id;
        if self.open.is_subscribing(msg_id) {
            cx.metrics.duplicates_suppressed_total += 1;
            return;
        }
        let wanted = match self.wanted(cx, subscribe.topic) {
            Ok(wanted) => wanted,
            Err((topic_id, code)) => return self.reply(cx, Reply::SubackRefused(topic_id, msg_id, code)),
        };
        let refused = |code| Reply::SubackRefused(wanted.form.refused_id(wanted.topic_id), msg_id, code);
        let up = cx.upstream.is_up(SUBSCRIPTIONS);
        let busy = self.open.waiting() >= cx.config.limits.open_requests_per_client;
        if busy || (!up && cx.config.upstream.when_down == WhenDown::Refuse) {
            return self.reply(cx, refused(ReturnCode::Congestion));
        }
        let known = cx.subscriptions.find(&wanted.name);
        let held = self.subscriptions.len();
        let mine = self
            .subscriptions
            .iter_mut()
            .find(|mine| Some(mine.filter) == known);
        if mine.is_none() && held >= cx.config.limits.subscriptions_per_client {
            return self.reply(cx, refused(ReturnCode::NotSupported));
        }
        let key = cx.subscriptions.entry(&wanted.name);
        match mine {
            Some(mine) => mine.form = wanted.form,
            None => self.subscriptions.push(Subscription {
                filter: key,
                form: wanted.form,
            }),
        }
        let asked = subscribe.qos.min(cx.predefined.max_qos(self.rule));
        let number = cx.subscriptions.number();
        let Some(filter) = cx.subscriptions.get_mut(key) else {
            return;
        };
        filter.subscribe(Subscriber {
            client: self.ix,
            asked,
            granted: asked,
        });
        filter.want_retained(self.ix);
        // The broker keeps the order: once it has answered for this one, the others are as they should be.
        let held = self.subscriptions.iter().map(|mine| mine.filter);
        for overlapping in cx.subscriptions.level(self.ix, key, held) {
            drive(cx, overlapping);
        }
        let Some(filter) = cx.subscriptions.get_mut(key) else {
            return;
        };
        self.touch();
        self.open.open_subscribe(msg_id, wanted.topic_id, key, number);
        if up {
            // Even where the filter stands already: only a SUBSCRIBE makes the broker send its retained messages.
            filter.ask(Asker {
                client: self.ix,
                serial: self.serial,
                msg_id,
                asked,
            });
            // Messages that overtake the SUBACK wait for it (reading A57).
            self.down.hold(now, &cx.config.timers);
            drive(cx, key);
        } else {
            // Accepted and carried out when the broker returns (reading A31).
            filter.accepted_for_now();
            self.on_subscribed(cx, key, msg_id, Ok(asked));
        }
    }

    /// The broker answered a SUBSCRIBE of this client, or accepted itself: `Err` is its no.
    pub(crate) fn on_subscribed(
        &mut self,
        cx: &mut Context,
        filter: FilterKey,
        msg_id: MsgId,
        granted: Result<QoS, ()>,
    ) {
        if let Ok(granted) = granted {
            let open = self.open.subscribing_to(msg_id, filter);
            let number = open.map_or(0, |request| request.number);
            if let Some(request) = open {
                self.topics.tell(request.topic_id);
            }
            self.save(cx);
            let waiting = Waiting::Suback {
                client: self.ix,
                serial: self.serial,
                number,
                filter,
                msg_id,
                granted,
            };
            if cx.journal.wait(waiting).is_none() {
                return;
            }
        }
        self.suback(cx, filter, msg_id, granted);
    }

    /// The SUBACK is due.
    pub(crate) fn suback(
        &mut self,
        cx: &mut Context,
        filter: FilterKey,
        msg_id: MsgId,
        granted: Result<QoS, ()>,
    ) {
        let Some(request) = self.open.close_subscribe(msg_id, filter) else {
            return;
        };
        if !self.open.any_subscribe() {
            self.down.release_hold();
        }
        let answer = match granted {
            Ok(qos) => {
                // In the middle of a handshake the answer is not sent, and the client not told the id.
                if self.state.is_connected() && self.topics.by_id(request.topic_id).is_some() {
                    self.topics.confirm(request.topic_id);
                    self.touch_lazily();
                }
                Reply::Suback(qos, request.topic_id, msg_id)
            }
            // Reading A55: an invalid topic id would make the client register and ask again for ever.
            Err(()) => {
                let mine = self.subscriptions.iter().find(|mine| mine.filter == filter);
                let form = mine.map_or(Form::Name, |mine| mine.form);
                Reply::SubackRefused(
                    form.refused_id(request.topic_id),
                    msg_id,
                    ReturnCode::NotSupported,
                )
            }
        };
        if self.state.is_connected() {
            self.reply(cx, answer);
        }
    }

    /// C→G UNSUBSCRIBE(m)   G→C UNSUBACK(m), whatever was subscribed (reading A58).
    pub(crate) fn on_unsubscribe(&mut self, cx: &mut Context, unsubscribe: Unsubscribe<'_>) {
        let name = match unsubscribe.topic {
            TopicFilter::Name(name) => Some(Arc::from(name)),
            TopicFilter::Short(short) => short.as_str().map(Arc::from),
            TopicFilter::Predefined(id) => cx.predefined.resolve(self.rule, &mut self.topics, &self.id, id),
        };
        if let Some(key) = name.and_then(|name| cx.subscriptions.find(&name)) {
            self.drop_subscription(cx, key);
        }
        self.reply(cx, Reply::Unsuback(unsubscribe.msg_id));
    }

    /// Takes the client off one filter.
    pub(crate) fn drop_subscription(&mut self, cx: &mut Context, key: FilterKey) {
        self.subscriptions.retain(|mine| mine.filter != key);
        self.touch();
        cx.subscriptions.unsubscribe(key, self.ix);
        drive(cx, key);
    }

    /// Takes the client off all its filters.
    pub(crate) fn drop_subscriptions(&mut self, cx: &mut Context) {
        for mine in core::mem::take(&mut self.subscriptions) {
            cx.subscriptions.unsubscribe(mine.filter, self.ix);
            drive(cx, mine.filter);
        }
    }

    fn wanted(&mut self, cx: &mut Context, filter: TopicFilter<'_>) -> Result<Wanted, (TopicId, ReturnCode)> {
        match filter {
            TopicFilter::Predefined(id) => {
                match cx.predefined.resolve(self.rule, &mut self.topics, &self.id, id) {
                    Some(name) => Ok(Wanted {
                        name,
                        form: Form::Predefined(id),
                        topic_id: id,
                    }),
                    None => Err((id, ReturnCode::InvalidTopicId)), // Reading A56.
                }
            }
            TopicFilter::Short(short) => {
                let topic_id = TopicId(u16::from_be_bytes(short.0));
                match short.as_str().filter(|name| topic::is_valid_filter(name)) {
                    Some(name) => Ok(Wanted {
                        name: cx.names.intern(name),
                        form: Form::Short,
                        topic_id,
                    }),
                    None => Err((topic_id, ReturnCode::NotSupported)),
                }
            }
            // A shared subscription hands each message to one of a group: the gateway is one subscriber at the
            // broker and cannot stand for several of the group.
            TopicFilter::Name(name) if name.starts_with("$share/") => {
                Err((TopicId::NONE, ReturnCode::NotSupported))
            }
            TopicFilter::Name(name) => {
                let name = cx.names.intern(name);
                let topic_id = match is_exact(&name) {
                    true => self
                        .topics
                        .assign(&name, cx.config.limits.topics_per_client)
                        .map_err(|_| (TopicId::NONE, ReturnCode::NotSupported))?,
                    false => TopicId::NONE,
                };
                Ok(Wanted {
                    name,
                    form: Form::Name,
                    topic_id,
                })
            }
        }
    }
}

/// Brings the broker's side of a filter closer to what its subscribers want; one request at a time.
pub(crate) fn drive(cx: &mut Context, key: FilterKey) {
    let up = cx.upstream.is_up(SUBSCRIPTIONS);
    let Some(filter) = cx.subscriptions.get_mut(key) else {
        return;
    };
    let unwanted = filter.subscribers.is_empty();
    let may_stand = match filter.pending {
        Pending::Nothing => filter.active.is_some(),
        Pending::Subscribe(_) => true,
        Pending::Unsubscribe => false, // That was stored when it was asked for.
    };
    if unwanted && may_stand {
        // A later life has to give it back too, if this one cannot.
        let name = Bytes::copy_from_slice(filter.name.as_bytes());
        cx.journal.put(leaving_key(filter.id), name);
    }
    // Somebody wants it again before the broker was told that nobody does.
    if !unwanted && filter.pending == Pending::Unsubscribe && cx.upstream.take_back_unsubscribe(key) {
        filter.pending = Pending::Nothing;
    }
    if filter.pending != Pending::Nothing {
        return;
    }
    if unwanted {
        match filter.active {
            None => {
                cx.journal.delete(leaving_key(filter.id));
                cx.subscriptions.remove(key);
            }
            Some(_) if up => {
                cx.upstream.unsubscribe(key, filter.name.clone());
                filter.pending = Pending::Unsubscribe;
            }
            Some(_) => {}
        }
    } else if up && (filter.active.is_none() || filter.ask_again || filter.asks_next()) {
        filter.ask_again = false;
        let qos = filter.wanted_qos();
        // A broker that knows of it before the store does would keep it if this life ended now.
        let durable = filter.active.is_some();
        cx.journal.delete(leaving_key(filter.id));
        cx.upstream.subscribe(
            &mut cx.journal,
            key,
            filter.name.clone(),
            (filter.id, qos),
            durable,
        );
        filter.asked();
        filter.pending = Pending::Subscribe(qos);
    }
}
