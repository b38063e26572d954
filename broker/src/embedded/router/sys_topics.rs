//! What the router publishes of itself below `$SYS`.

use std::sync::Arc;

use bytes::Bytes;
use sn_codec::QoS;

use super::Router;
use crate::embedded::filters::Filter;
use crate::embedded::packet::Message;
use crate::embedded::session::Entry;
use crate::embedded::shared::Subscriber;
use crate::embedded::sys;

impl Router {
    /// The values of this moment for a new subscription.
    pub(super) fn sys_values(&self, filter: &Filter<'_>, subscriber: &Subscriber) -> Vec<Entry> {
        let values = sys::values(self.now, self.stats()).into_iter();
        let matching = values.filter(|(topic, _)| filter.matches(topic));
        let entry = |(topic, value)| Entry {
            message: Arc::new(sys_message(topic, value)),
            qos: QoS::AtMostOnce,
            retain: true,
            ids: subscriber.id.into_iter().collect(),
            expires: None,
            share: None,
            held_over: false,
            awaited: None,
        };
        matching.map(entry).collect()
    }

    /// Publishes the values that changed.
    pub(super) fn publish_sys(&mut self) {
        self.sys_due = Some(self.now + sys::INTERVAL);
        let values = sys::values(self.now, self.stats());
        let last = core::mem::replace(&mut self.sys_last, values.clone());
        for (at, (topic, value)) in values.into_iter().enumerate() {
            if last.get(at).is_none_or(|(_, last)| *last != value) {
                self.route(None, sys_message(topic, value), None);
            }
        }
    }
}

fn sys_message(topic: &str, value: String) -> Message {
    Message {
        topic: topic.into(),
        payload: Bytes::from(value),
        qos: QoS::AtMostOnce,
        retain: false,
        expiry: None,
        properties: None,
        receipt: None,
    }
}
