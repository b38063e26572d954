//! Messages to the sessions whose filters they match.

use std::sync::Arc;

use bytes::Bytes;
use gateway_core::io::{BrokerEvent, ConnId, DeliveryId, FilterId};
use gateway_core::time::Instant;
use rand::rngs::SmallRng;
use sn_codec::{QoS, topic};

use super::{Arrived, BrokerAction, Delivery, Origin, Overlap, Packet, Publication, Routed, SimBroker};
use crate::net::between;

/// Set in the name of a QoS 2 delivery.
const EXACTLY_ONCE: u64 = 1 << 16;

/// How a port names a delivery.
fn delivery_id(connection: u32, qos: QoS, packet_id: u16) -> DeliveryId {
    let exactly_once = if qos == QoS::ExactlyOnce { EXACTLY_ONCE } else { 0 };
    DeliveryId(u64::from(connection) << 32 | exactly_once | u64::from(packet_id))
}

/// Both with QoS 1, and the one over an earlier connection than the other.
pub(crate) fn came_before(one: DeliveryId, other: DeliveryId) -> bool {
    (one.0 | other.0) & EXACTLY_ONCE == 0 && one.0 >> 32 < other.0 >> 32
}

impl SimBroker {
    /// When the port has what the broker sends now.
    fn next_delivery(&mut self, now: Instant, conn_id: ConnId, rng: &mut SmallRng) -> Instant {
        let delay = between(rng, self.config.latency_min, self.config.latency_max);
        let conn = self.conn(conn_id);
        conn.last_delivery = conn.last_delivery.max(now + delay);
        conn.last_delivery
    }

    #[allow(clippy::too_many_arguments)] // A PUBLISH has that many fields.
    pub(super) fn route(
        &mut self,
        now: Instant,
        origin: Origin,
        topic: Arc<str>,
        qos: QoS,
        retain: bool,
        payload: Bytes,
        rng: &mut SmallRng,
    ) {
        *self.counts.entry(payload.clone()).or_default() += 1;
        self.log.push(Routed {
            at: now,
            origin,
            topic: topic.clone(),
            qos,
            retain,
            payload: payload.clone(),
        });
        if retain && payload.is_empty() {
            self.retained.remove(&topic);
        } else if retain {
            self.retained.insert(topic.clone(), (payload.clone(), qos));
        }
        let publication = self.new_publication();
        let ids: Vec<ConnId> = self.conns.keys().copied().collect();
        for conn_id in ids {
            let overlap = self.config.overlap;
            let conn = self.conn(conn_id);
            if !conn.has_session {
                continue;
            }
            let matching: Vec<(FilterId, QoS)> = conn
                .session
                .filters
                .iter()
                .filter(|(filter, _)| topic::matches(filter, &topic))
                .map(|(_, entry)| *entry)
                .collect();
            if matching.is_empty() {
                continue;
            }
            let highest = matching
                .iter()
                .map(|(_, granted)| *granted)
                .max()
                .unwrap_or_default();
            let ids: Box<[FilterId]> = matching.iter().map(|(id, _)| *id).collect();
            let copies: Vec<(Box<[FilterId]>, QoS)> = match overlap {
                Overlap::OneCopyWithIds => vec![(ids, highest)],
                Overlap::OneCopyWithoutIds => vec![(Box::default(), highest)],
                Overlap::CopyPerFilter => matching
                    .iter()
                    .map(|(id, granted)| ([*id].into(), *granted))
                    .collect(),
            };
            for (filters, granted) in copies {
                let (topic, payload) = (topic.clone(), payload.clone());
                let qos = qos.min(granted);
                let copy = Delivery {
                    publication,
                    received: false,
                    filters,
                    topic,
                    qos,
                    retain: false,
                    payload,
                };
                self.enqueue(now, conn_id, copy, rng);
            }
        }
    }

    pub(super) fn replay_retained(
        &mut self,
        now: Instant,
        conn_id: ConnId,
        filter: &str,
        id: FilterId,
        granted: QoS,
        rng: &mut SmallRng,
    ) {
        let with_ids = self.config.overlap != Overlap::OneCopyWithoutIds;
        let found: Vec<Delivery> = self
            .retained
            .iter()
            .filter(|(topic, _)| topic::matches(filter, topic))
            .map(|(topic, (payload, qos))| Delivery {
                publication: Publication(0),
                received: false,
                filters: if with_ids { [id].into() } else { Box::default() },
                topic: topic.clone(),
                qos: (*qos).min(granted),
                retain: true,
                payload: payload.clone(),
            })
            .collect();
        for mut delivery in found {
            delivery.publication = self.new_publication();
            self.enqueue(now, conn_id, delivery, rng);
        }
    }

    fn enqueue(&mut self, now: Instant, conn_id: ConnId, delivery: Delivery, rng: &mut SmallRng) {
        let conn = self.conn(conn_id);
        // MQTT 3.1.1 §3.1.2.4: QoS 0 need not be kept for a client that is away.
        if !conn.up && delivery.qos == QoS::AtMostOnce {
            return;
        }
        conn.session.waiting.push_back(delivery);
        self.schedule_deliveries(now, conn_id, rng);
    }

    pub(super) fn schedule_deliveries(&mut self, now: Instant, conn_id: ConnId, rng: &mut SmallRng) {
        loop {
            let conn = self.conn(conn_id);
            if !conn.up || conn.deliveries_scheduled >= conn.session.waiting.len() {
                return;
            }
            conn.deliveries_scheduled += 1;
            let life = conn.life;
            let at = self.next_delivery(now, conn_id, rng);
            self.schedule(at, BrokerAction::Deliver(conn_id, life));
        }
    }

    pub(super) fn deliver(&mut self, _now: Instant, conn_id: ConnId, _rng: &mut SmallRng) {
        let (receive_max, lowest) = (self.config.receive_max, self.config.lowest_packet_ids);
        let conn = self.conn(conn_id);
        conn.deliveries_scheduled -= 1;
        let Some(next) = conn.session.waiting.front() else {
            return;
        };
        if next.qos != QoS::AtMostOnce && conn.session.unacked.len() >= receive_max {
            // It stays in line; the next acknowledgement schedules it again.
            return;
        }
        let Some(delivery) = conn.session.waiting.pop_front() else {
            return;
        };
        let mut name = None;
        if delivery.qos != QoS::AtMostOnce {
            let last = if lowest { 0 } else { conn.session.last_packet_id };
            let after = |step: u16| (u32::from(last) + u32::from(step) - 1) % u32::from(u16::MAX) + 1;
            let ids = (1..=u16::MAX).map(|step| after(step) as u16);
            let unused = ids.into_iter().find(|id| !conn.session.unacked.contains_key(id));
            let Some(packet_id) = unused else { return };
            conn.session.last_packet_id = packet_id;
            conn.session.unacked.insert(packet_id, delivery.clone());
            match delivery.qos {
                QoS::ExactlyOnce => {
                    let arrived = Arrived {
                        delivery: delivery_id(conn.connection, QoS::ExactlyOnce, packet_id),
                        acknowledged: false,
                        here: true,
                        releasing: false,
                    };
                    name = Some(arrived.delivery);
                    conn.deliveries.insert(packet_id, arrived);
                }
                QoS::AtMostOnce | QoS::AtLeastOnce => {
                    name = Some(delivery_id(conn.connection, QoS::AtLeastOnce, packet_id));
                }
            }
        }
        self.tell_message(conn_id, name, delivery);
    }

    fn tell_message(&mut self, conn: ConnId, name: Option<DeliveryId>, delivery: Delivery) {
        let message = BrokerEvent::Message {
            conn,
            delivery: name,
            filters: delivery.filters,
            topic: delivery.topic,
            qos: delivery.qos,
            retain: delivery.retain,
            payload: delivery.payload,
        };
        self.events.push_back((message, Some(delivery.publication)));
    }

    /// The core took a delivery: the port writes PUBACK, or PUBREC if it may in this connection.
    pub(super) fn acknowledged(
        &mut self,
        now: Instant,
        conn_id: ConnId,
        delivery: DeliveryId,
        rng: &mut SmallRng,
    ) {
        let conn = self.conn(conn_id);
        let packet_id = delivery.0 as u16;
        if delivery.0 & EXACTLY_ONCE == 0 {
            let current = delivery.0 >> 32 == u64::from(conn.connection);
            let is = |delivery: &Delivery| delivery.qos == QoS::AtLeastOnce;
            if current && conn.session.unacked.get(&packet_id).is_some_and(is) {
                conn.session.unacked.remove(&packet_id);
                self.schedule_deliveries(now, conn_id, rng);
            }
            return;
        }
        let arrived = conn.deliveries.get(&packet_id);
        if arrived.is_some_and(|arrived| arrived.delivery == delivery && arrived.here) {
            self.send_delivery(now, conn_id, packet_id, Packet::Pubrec, rng);
        }
    }

    /// A packet of a QoS 2 delivery arrives, at the broker or at the port.
    pub(super) fn delivery(
        &mut self,
        now: Instant,
        conn_id: ConnId,
        packet_id: u16,
        packet: Packet,
        rng: &mut SmallRng,
    ) {
        let conn = self.conn(conn_id);
        match packet {
            // It is the same message again, in a resumed session.
            Packet::Publish => {
                let Some(delivery) = conn.session.unacked.get(&packet_id).cloned() else {
                    return;
                };
                let name = delivery_id(conn.connection, QoS::ExactlyOnce, packet_id);
                match conn.deliveries.get_mut(&packet_id) {
                    Some(arrived) => {
                        arrived.here = true;
                        if arrived.acknowledged {
                            self.send_delivery(now, conn_id, packet_id, Packet::Pubrec, rng);
                        }
                    }
                    None => {
                        let arrived = Arrived {
                            delivery: name,
                            acknowledged: false,
                            here: true,
                            releasing: false,
                        };
                        conn.deliveries.insert(packet_id, arrived);
                        self.tell_message(conn_id, Some(name), delivery);
                    }
                }
            }
            Packet::Pubrec => {
                if let Some(delivery) = conn.session.unacked.get_mut(&packet_id) {
                    delivery.received = true;
                    self.send_delivery(now, conn_id, packet_id, Packet::Pubrel, rng);
                }
            }
            Packet::Pubrel => {
                let holds = conn.holds_pubcomp;
                if let Some(arrived) = conn.deliveries.get_mut(&packet_id) {
                    let delivery = arrived.delivery;
                    let told = core::mem::replace(&mut arrived.releasing, true);
                    if !holds {
                        conn.deliveries.remove(&packet_id);
                    }
                    if !told {
                        let conn = conn_id;
                        self.tell(BrokerEvent::Released { conn, delivery });
                    }
                    if holds {
                        return;
                    }
                }
                self.send_delivery(now, conn_id, packet_id, Packet::Pubcomp, rng);
            }
            Packet::Pubcomp => {
                conn.session.unacked.remove(&packet_id);
                self.schedule_deliveries(now, conn_id, rng);
            }
        }
    }

    pub(super) fn send_delivery(
        &mut self,
        now: Instant,
        conn_id: ConnId,
        id: u16,
        packet: Packet,
        rng: &mut SmallRng,
    ) {
        let at = match packet {
            Packet::Pubrec | Packet::Pubcomp => self.next_execution(now, conn_id, rng),
            Packet::Publish | Packet::Pubrel => self.next_delivery(now, conn_id, rng),
        };
        let life = self.conn(conn_id).life;
        self.schedule(at, BrokerAction::Delivery(conn_id, life, id, packet));
    }
}
