//! Messages from the broker that wait to be acknowledged.
//!
//! The packet id names a delivery to the broker, and a [`DeliveryId`] names it to the core, which may answer after the
//! connection broke. What the broker does then depends on the QoS: a QoS 1 message simply comes again. A QoS 2 message
//! comes again too if its PUBREC was not sent, and is then the *same* message (MQTT 5 §4.3.3): the core has it already.

use std::collections::{HashMap, HashSet};

use gateway_core::io::DeliveryId;
use sn_codec::QoS;

/// Set in the [`DeliveryId`] of a QoS 2 message, above the packet id and below the connection's number.
const EXACTLY_ONCE: u64 = 1 << 16;

/// The packet id of a delivery.
pub(crate) fn packet_id(delivery: DeliveryId) -> u16 {
    delivery.0 as u16
}

/// The unacknowledged deliveries of one session.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    /// Number of the current network connection.
    connection: u32,
    /// QoS 1 packet ids of this network connection.
    at_least_once: HashSet<u16>,
    /// QoS 2 exchanges of this session that PUBREL has not ended.
    exactly_once: HashMap<u16, Exchange>,
}

/// A QoS 2 message on its way to us.
#[derive(Debug)]
struct Exchange {
    delivery: DeliveryId,
    /// The core has acknowledged it.
    acknowledged: bool,
    /// PUBLISH has been seen on this network connection, so PUBREC may be sent on it.
    here: bool,
}

/// What to do with a PUBLISH.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Give it to the core under this name.
    New(DeliveryId),
    /// The core has it and has not acknowledged it yet.
    Known,
    /// The core has it and has acknowledged it: acknowledge it to the broker.
    Acknowledged,
}

impl Deliveries {
    /// Those QoS 2 messages of an earlier life that the core has and the broker has not released.
    pub(crate) fn restored(received: &[DeliveryId]) -> Self {
        let exchange = |delivery: &DeliveryId| {
            let exchange = Exchange {
                delivery: *delivery,
                acknowledged: true,
                here: false,
            };
            (packet_id(*delivery), exchange)
        };
        Deliveries {
            exactly_once: received.iter().map(exchange).collect(),
            ..Deliveries::default()
        }
    }

    /// The network connection ended.
    pub(crate) fn disconnected(&mut self) {
        self.connection = self.connection.wrapping_add(1);
        self.at_least_once.clear();
        for exchange in self.exactly_once.values_mut() {
            exchange.here = false;
        }
    }

    /// The broker has no session: its packet ids begin anew.
    pub(crate) fn session_lost(&mut self) {
        self.exactly_once.clear();
    }

    /// Whether QoS 2 exchanges are open.
    pub(crate) fn has_exactly_once(&self) -> bool {
        !self.exactly_once.is_empty()
    }

    /// A QoS 1 PUBLISH arrived.
    pub(crate) fn at_least_once(&mut self, packet_id: u16) -> DeliveryId {
        self.at_least_once.insert(packet_id);
        DeliveryId(u64::from(self.connection) << 32 | u64::from(packet_id))
    }

    /// A QoS 2 PUBLISH arrived.
    pub(crate) fn exactly_once(&mut self, packet_id: u16, dup: bool) -> Arrival {
        if dup && let Some(exchange) = self.exactly_once.get_mut(&packet_id) {
            exchange.here = true;
            return if exchange.acknowledged {
                Arrival::Acknowledged
            } else {
                Arrival::Known
            };
        }
        let delivery = DeliveryId(u64::from(self.connection) << 32 | EXACTLY_ONCE | u64::from(packet_id));
        self.exactly_once.insert(
            packet_id,
            Exchange {
                delivery,
                acknowledged: false,
                here: true,
            },
        );
        Arrival::New(delivery)
    }

    /// PUBREL arrived: the broker has forgotten the QoS 2 message, its packet id is free.
    pub(crate) fn released(&mut self, packet_id: u16) -> Option<DeliveryId> {
        let exchange = self.exactly_once.remove(&packet_id)?;
        Some(exchange.delivery)
    }

    /// The core acknowledged a delivery: the packet to acknowledge on this network connection, if any.
    pub(crate) fn acknowledge(&mut self, delivery: DeliveryId) -> Option<(u16, QoS)> {
        let packet_id = delivery.0 as u16;
        if delivery.0 & EXACTLY_ONCE == 0 {
            let current = delivery.0 >> 32 == u64::from(self.connection);
            return (current && self.at_least_once.remove(&packet_id))
                .then_some((packet_id, QoS::AtLeastOnce));
        }
        let exchange = self
            .exactly_once
            .get_mut(&packet_id)
            .filter(|exchange| exchange.delivery == delivery)?;
        let first = !core::mem::replace(&mut exchange.acknowledged, true);
        (first && exchange.here).then_some((packet_id, QoS::ExactlyOnce))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(arrival: Arrival) -> DeliveryId {
        match arrival {
            Arrival::New(delivery) => delivery,
            Arrival::Known | Arrival::Acknowledged => panic!("{arrival:?}"),
        }
    }

    #[test]
    fn delivery_is_acknowledged_once() {
        let mut deliveries = Deliveries::default();
        let one = deliveries.at_least_once(7);
        let two = new(deliveries.exactly_once(7, false));
        assert_eq!(deliveries.acknowledge(one), Some((7, QoS::AtLeastOnce)));
        assert_eq!(deliveries.acknowledge(one), None);
        assert_eq!(deliveries.acknowledge(two), Some((7, QoS::ExactlyOnce)));
        assert_eq!(deliveries.acknowledge(two), None);
    }

    #[test]
    fn qos_1_of_an_earlier_connection_is_not_acknowledged() {
        let mut deliveries = Deliveries::default();
        let early = deliveries.at_least_once(7);
        deliveries.disconnected();
        assert_eq!(deliveries.acknowledge(early), None);
        deliveries.at_least_once(7);
        assert_eq!(deliveries.acknowledge(early), None);
    }

    #[test]
    fn qos_2_resent_after_a_break_is_known_and_keeps_its_name() {
        let mut deliveries = Deliveries::default();
        let delivery = new(deliveries.exactly_once(7, false));
        deliveries.disconnected();
        assert_eq!(deliveries.exactly_once(7, true), Arrival::Known);
        assert_eq!(deliveries.acknowledge(delivery), Some((7, QoS::ExactlyOnce)));
    }

    #[test]
    fn qos_2_acknowledged_during_a_break_is_answered_when_resent() {
        let mut deliveries = Deliveries::default();
        let delivery = new(deliveries.exactly_once(7, false));
        deliveries.disconnected();
        assert_eq!(deliveries.acknowledge(delivery), None);
        assert_eq!(deliveries.exactly_once(7, true), Arrival::Acknowledged);
    }

    #[test]
    fn released_packet_id_and_lost_session_begin_anew() {
        let mut deliveries = Deliveries::default();
        let first = new(deliveries.exactly_once(7, false));
        deliveries.released(7);
        assert_eq!(deliveries.acknowledge(first), None);
        let second = new(deliveries.exactly_once(7, true));
        deliveries.session_lost();
        deliveries.disconnected();
        assert_eq!(deliveries.acknowledge(second), None);
        let third = new(deliveries.exactly_once(7, true));
        assert_ne!(second, third);
    }
}
