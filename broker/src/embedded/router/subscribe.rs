//! SUBSCRIBE and UNSUBSCRIBE.

use sn_codec::QoS;

use super::Router;
use crate::embedded::filters::{Filter, is_sys};
use crate::embedded::packet::{ClientKey, Reply, RetainHandling, Subscription, reason};
use crate::embedded::session::Entry;
use crate::embedded::shared::Subscriber;
use crate::embedded::sys;

impl Router {
    pub(super) fn on_subscribe(
        &mut self,
        client: ClientKey,
        session: u32,
        packet_id: u16,
        id: Option<u32>,
        filters: Vec<Subscription>,
    ) {
        // MQTT-3.8.3-2, MQTT-3.8.3-4
        let local_shared = |asked: &Subscription| asked.no_local && asked.filter.starts_with("$share/");
        if filters.is_empty() || filters.iter().any(local_shared) {
            return self.end(client, reason::PROTOCOL_ERROR);
        }
        let mut sys = Vec::new();
        let reasons = filters
            .iter()
            .map(|asked| match self.subscribe(session, id, asked, &mut sys) {
                Ok(granted) => granted as u8,
                Err(reason) => reason,
            })
            .collect();
        self.answer_when_kept(client, session, Reply::SubAck { packet_id, reasons });
        for entry in sys {
            self.offer(session, entry, false);
        }
        self.pump(session);
    }

    fn subscribe(
        &mut self,
        session: u32,
        id: Option<u32>,
        asked: &Subscription,
        sys: &mut Vec<Entry>,
    ) -> Result<QoS, u8> {
        let filter = Filter::parse(&asked.filter).ok_or(reason::TOPIC_FILTER_INVALID)?;
        let known = &mut self.sessions[session as usize];
        if !known.filters.iter().any(|known| **known == *filter.text) {
            if known.filters.len() >= self.limits.subscriptions_max {
                return Err(reason::QUOTA_EXCEEDED);
            }
            known.filters.push(filter.text.into());
        }
        let subscriber = Subscriber {
            session,
            qos: asked.qos,
            no_local: asked.no_local,
            retain_as_published: asked.retain_as_published,
            id,
        };
        let earlier = self.filters.subscribe(&filter, subscriber.clone());
        if earlier.as_ref() != Some(&subscriber) {
            self.changed(session);
        }
        let existed = earlier.is_some();
        if !existed {
            self.count_subscription(&filter, true);
        }
        let wanted = match asked.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => !existed,
            RetainHandling::DoNotSend => false,
        };
        // §4.8.2: none for shared subscriptions.
        if wanted && !filter.shared {
            if is_sys(filter.pattern) {
                sys.extend(self.sys_values(&filter, &subscriber));
            } else {
                self.sessions[session as usize].want_retained(&filter, &subscriber);
            }
        }
        Ok(asked.qos)
    }

    pub(super) fn on_unsubscribe(
        &mut self,
        client: ClientKey,
        session: u32,
        packet_id: u16,
        filters: &[String],
    ) {
        if filters.is_empty() {
            // MQTT-3.10.3-2
            return self.end(client, reason::PROTOCOL_ERROR);
        }
        let reasons = filters
            .iter()
            .map(|filter| self.unsubscribe(session, filter))
            .collect();
        self.answer_when_kept(client, session, Reply::UnsubAck { packet_id, reasons });
    }

    fn unsubscribe(&mut self, session: u32, filter: &str) -> u8 {
        let Some(filter) = Filter::parse(filter) else {
            return reason::TOPIC_FILTER_INVALID;
        };
        if !self.filters.unsubscribe(&filter, session) {
            return reason::NO_SUBSCRIPTION_EXISTED;
        }
        self.count_subscription(&filter, false);
        let known = &mut self.sessions[session as usize];
        known.filters.retain(|known| **known != *filter.text);
        known.forget_retained(filter.text);
        self.changed(session);
        reason::SUCCESS
    }

    pub(super) fn count_subscription(&mut self, filter: &Filter<'_>, new: bool) {
        let stats = &mut self.out.stats;
        if new {
            stats.subscriptions += 1;
            stats.shared_subscriptions += usize::from(filter.shared);
        } else {
            stats.subscriptions -= 1;
            stats.shared_subscriptions -= usize::from(filter.shared);
        }
        // Published only while someone listens.
        if self.filters.sys == 0 {
            self.sys_due = None;
        } else if self.sys_due.is_none() {
            self.sys_due = Some(self.now + sys::INTERVAL);
            self.sys_last.clear();
        }
    }
}
