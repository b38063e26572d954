//! QoS −1: who may publish without a session, and as which client.

use core::time::Duration;
use std::sync::Arc;

use sn_codec::{QoS, TopicRef, topic};

use super::Gateway;
use crate::config::QosMinusOneRule;
use crate::io::Notice;
use crate::links::Via;
use crate::peer::LinkAddr;
use crate::time::Instant;
use crate::upstream::{Author, Origin, Uplink};

/// Between two notices about publishes with QoS −1 that no rule allows; taste.
pub(super) const MINUS_ONE_NOTICE: Duration = Duration::from_secs(60);

impl Gateway {
    /// QoS −1 from a peer without a session (§6.8, reading A48).
    pub(super) fn on_publish_minus_one(&mut self, now: Instant, from: &Via, publish: sn_codec::Publish<'_>) {
        let rules = &self.cx.config.qos_minus_one;
        let rule = rules
            .iter()
            .find(|rule| rule.peers.covers(from.link, &from.route.addr));
        let name = match (publish.topic, rule) {
            (TopicRef::Predefined(id), Some(rule)) => {
                self.cx.predefined.resolve_for(&client_id(rule, from), id)
            }
            (TopicRef::Predefined(id), None) => self.cx.predefined.anonymous(id).cloned(),
            (TopicRef::Short(name), Some(_)) => core::str::from_utf8(&name.0).ok().map(Arc::from),
            (TopicRef::Normal(_) | TopicRef::Short(_), _) => None,
        };
        let refused = match (rule, &name) {
            (Some(rule), Some(name)) => !rule.topics.iter().any(|filter| topic::matches(filter, name)),
            (Some(_), None) => false,
            (None, _) => !rules.is_empty(),
        };
        if refused {
            return self.refuse_minus_one(now, from);
        }
        let Some(name) = name else {
            self.cx.metrics.publish_unknown_topic_total += 1;
            if let TopicRef::Predefined(id) = publish.topic {
                let predefined = &self.cx.predefined;
                let reason = match rule {
                    Some(rule) => predefined.why_none(predefined.rule_for(&client_id(rule, from)), id),
                    None => predefined.why_none_without_client(id),
                };
                self.cx.notice(Notice::UnknownTopic {
                    client: None,
                    addr: from.route.addr.clone(),
                    topic_id: id.0,
                    reason,
                });
            }
            return;
        };
        if !self.cx.may_publish(&name) {
            self.cx.metrics.publish_refused_total += 1;
            return;
        }
        let message = Uplink {
            topic: self
                .cx
                .names
                .with_prefix(&self.cx.config.upstream.topic_prefix, &name),
            qos: QoS::AtMostOnce,
            retain: publish.retain,
            payload: self.cx.payloads.keep(publish.data),
        };
        let allowed = self.cx.qos_minus_one.allow(now);
        if !allowed
            || self
                .cx
                .publish(now, Author::NONE, Origin::Gateway, message)
                .is_err()
        {
            self.cx.metrics.publish_dropped_total += 1;
        }
    }

    fn refuse_minus_one(&mut self, now: Instant, from: &Via) {
        self.cx.metrics.publish_dropped_total += 1;
        if let Some(suppressed) = self.cx.minus_one_refused.allow(now) {
            self.cx.notice(Notice::PublishMinusOneRefused {
                link: from.link,
                addr: from.route.addr.clone(),
                suppressed,
            });
        }
    }
}

/// The client id that a peer without a session counts as.
fn client_id(rule: &QosMinusOneRule, from: &Via) -> String {
    if !rule.client_id.contains("{address}") {
        return rule.client_id.clone();
    }
    let mut address = match &from.route.addr {
        LinkAddr::Udp(addr) => addr.ip().to_string(),
        other => other.to_string(),
    };
    if let Some(node) = &from.node {
        address.push('-');
        node.iter()
            .for_each(|octet| address.push_str(&format!("{octet:02x}")));
    }
    rule.client_id.replace("{address}", &address)
}
