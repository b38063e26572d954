//! A message in a session, and how it is said.

use std::sync::Arc;

use gateway_core::time::Instant;
use sn_codec::QoS;

use crate::embedded::awaited::Awaited;
use crate::embedded::exact::Exact;
use crate::embedded::packet::{Delivery, Message, Reply, reason};

/// A message for one session.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) message: Arc<Message>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) ids: Box<[u32]>,
    pub(crate) expires: Option<Instant>,
    /// The filter of the shared subscription it came for.
    pub(crate) share: Option<Arc<str>>,
    /// It does not count for the bound of its session.
    pub(crate) held_over: bool,
    /// Its publisher waits until the session, one of the gateway, has taken it.
    pub(crate) awaited: Option<Awaited>,
}

pub(super) fn pubrel(packet_id: u16) -> Reply {
    Reply::PubRel {
        packet_id,
        reason: reason::SUCCESS,
    }
}

impl Entry {
    /// Its publisher waits no longer.
    pub(crate) fn settle(&mut self) {
        if let Some(awaited) = self.awaited.take() {
            awaited.settle();
        }
    }

    /// Of what a session gets for a subscription of its own. A member of a shared one may be another after a restart.
    pub(super) fn exact(&self) -> Option<&Exact> {
        self.message
            .exact()
            .filter(|_| self.qos == QoS::ExactlyOnce && self.share.is_none())
    }

    pub(super) fn delivery(&self, now: Instant, packet_id: u16, dup: bool) -> Delivery {
        Delivery {
            message: self.message.clone(),
            packet_id,
            dup,
            qos: self.qos,
            retain: self.retain,
            expiry: self.seconds_left(now),
            ids: self.ids.clone(),
        }
    }

    /// With QoS 0.
    pub(super) fn into_delivery(self, now: Instant) -> Delivery {
        Delivery {
            packet_id: 0,
            dup: false,
            qos: self.qos,
            retain: self.retain,
            expiry: self.seconds_left(now),
            ids: self.ids,
            message: self.message,
        }
    }

    /// §3.3.2.3.3: who has not been sent it by now must not get it any more.
    pub(super) fn has_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// §3.3.2.3.3: the time received less the time it waited here, in whole seconds.
    fn seconds_left(&self, now: Instant) -> Option<u32> {
        let left = self.expires?.since(now).as_micros().div_ceil(1_000_000);
        Some(u32::try_from(left).unwrap_or(u32::MAX))
    }
}
