//! Retained messages for new subscriptions.

use std::sync::Arc;

use gateway_core::time::Instant;
use sn_codec::QoS;

use super::{Entry, Session};
use crate::embedded::filters::Filter;
use crate::embedded::retained::Retained;
use crate::embedded::shared::Subscriber;

/// Retained messages for a new subscription are fetched when less than this waits, so that they need no place of their
/// own, however many they are.
pub(super) const REFILL_BELOW: usize = 64;

/// A new subscription that has not got all its retained messages.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) filter: Box<str>,
    pub(super) qos: QoS,
    pub(super) id: Option<u32>,
    /// The topic it has come to.
    pub(super) after: Option<Arc<str>>,
}

impl Session {
    /// A subscription that wants retained messages.
    pub(crate) fn want_retained(&mut self, filter: &Filter<'_>, subscriber: &Subscriber) {
        self.forget_retained(filter.text);
        self.scans.push_back(Scan {
            filter: filter.text.into(),
            qos: subscriber.qos,
            id: subscriber.id,
            after: None,
        });
    }

    /// The subscription is gone or made anew.
    pub(crate) fn forget_retained(&mut self, filter: &str) {
        self.scans.retain(|scan| *scan.filter != *filter);
    }

    /// Puts retained messages into the queue while there is place.
    pub(super) fn fetch_retained(&mut self, now: Instant, retained: &Retained) {
        while let Some(scan) = self.scans.front_mut() {
            let kept = Filter::parse(&scan.filter)
                .and_then(|filter| retained.next(now, &filter, scan.after.as_ref()));
            let Some(kept) = kept else {
                self.scans.pop_front();
                continue;
            };
            let entry = Entry {
                message: kept.message.clone(),
                qos: kept.message.qos.min(scan.qos),
                retain: true,
                ids: scan.id.into_iter().collect(),
                expires: kept.expires,
                share: None,
                held_over: false,
                awaited: None,
            };
            if !self.has_room(self.bound, entry.message.size()) {
                return;
            }
            if let Some(scan) = self.scans.front_mut() {
                scan.after = Some(entry.message.topic.clone());
            }
            self.push(entry);
            if self.messages >= REFILL_BELOW {
                return;
            }
        }
    }
}
