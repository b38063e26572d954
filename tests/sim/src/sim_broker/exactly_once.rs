//! The port's QoS 2 publishes, whose stages it stores.

use core::time::Duration;
use std::sync::Arc;

use bytes::Bytes;
use gateway_core::io::{
    BrokerEvent, BrokerRequest, ConnId, Refusal, RestoredPublish, StoreChange, StoredUplink, Token,
};
use gateway_core::time::Instant;
use rand::rngs::SmallRng;
use sn_codec::QoS;

use super::{BrokerAction, Origin, Packet, PortWrite, SimBroker};
use crate::net::between;

/// A publish of QoS 2 whose stages the port stores.
#[derive(Debug)]
pub(super) struct Exact {
    pub(super) token: Token,
    pub(super) stored: StoredUplink,
    pub(super) topic: Arc<str>,
    pub(super) retain: bool,
    pub(super) payload: Bytes,
    pub(super) stage: ExactStage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExactStage {
    /// PUBLISH leaves when this write is durable.
    Sending(u64),
    Sent,
    /// PUBREL leaves when this write is durable.
    Releasing(u64),
    Released,
}

/// A publish of an earlier life, as it was asked for then.
pub(crate) fn as_request(conn: ConnId, restored: &RestoredPublish) -> BrokerRequest {
    BrokerRequest::Publish {
        conn,
        token: Some(restored.token),
        topic: restored.topic.clone(),
        qos: QoS::ExactlyOnce,
        retain: restored.retain,
        payload: restored.payload.clone(),
        stored: Some(restored.stored.clone()),
    }
}

impl SimBroker {
    /// The port gives a publish a packet id and stores that, before it sends it.
    pub(super) fn begin_exact(&mut self, conn_id: ConnId, mut exact: Exact) {
        let window = self.config.window;
        self.next_write += 1;
        let number = self.next_write;
        let conn = self.conn(conn_id);
        let after = |step: u16| (conn.last_packet_id % window + step - 1) % window + 1;
        let Some(packet_id) = (1..=window).map(after).find(|id| !conn.exact.contains_key(id)) else {
            return;
        };
        conn.last_packet_id = packet_id;
        exact.stage = ExactStage::Sending(number);
        let change = StoreChange::Put(exact.stored.key, exact.stored.at(packet_id, false));
        conn.exact.insert(packet_id, exact);
        self.writes.push_back(PortWrite {
            conn: conn_id,
            number,
            packet_id,
            change,
        });
    }

    /// A packet of a QoS 2 publish arrives, at the broker or at the port.
    pub(super) fn exact(
        &mut self,
        now: Instant,
        conn_id: ConnId,
        packet_id: u16,
        packet: Packet,
        rng: &mut SmallRng,
    ) {
        self.next_write += 1;
        let number = self.next_write;
        let conn = self.conn(conn_id);
        let Some(exact) = conn.exact.get_mut(&packet_id) else {
            return;
        };
        match packet {
            Packet::Publish => {
                let (topic, retain, payload) = (exact.topic.clone(), exact.retain, exact.payload.clone());
                let token = exact.token;
                // What came under this packet id and was not released is the same message.
                let again = conn.session.received.contains(&packet_id);
                if let Some(refusal) = self.publish_refusal(now, &topic).filter(|_| !again) {
                    let conn = self.conn(conn_id);
                    conn.unsettled.remove(&token);
                    let refused = conn.exact.remove(&packet_id);
                    // Its packet id is its no more, before the gateway hears of it and keeps it.
                    if let Some(Exact { stored, .. }) = refused.filter(|_| refusal == Refusal::QUOTA_EXCEEDED)
                    {
                        self.writes.push_back(PortWrite {
                            conn: conn_id,
                            number,
                            packet_id,
                            change: StoreChange::Put(stored.key, stored.pending()),
                        });
                    }
                    return self.tell(BrokerEvent::Settled {
                        token,
                        result: Err(refusal),
                    });
                }
                if !again {
                    self.conn(conn_id).session.received.insert(packet_id);
                    let origin = Origin::Gateway(conn_id);
                    self.route(now, origin, topic, QoS::ExactlyOnce, retain, payload, rng);
                }
                self.send_exact(now, conn_id, packet_id, Packet::Pubrec, rng);
            }
            Packet::Pubrec => {
                exact.stage = ExactStage::Releasing(number);
                let change = StoreChange::Put(exact.stored.key, exact.stored.at(packet_id, true));
                self.writes.push_back(PortWrite {
                    conn: conn_id,
                    number,
                    packet_id,
                    change,
                });
            }
            Packet::Pubrel => {
                conn.session.received.remove(&packet_id);
                self.send_exact(now, conn_id, packet_id, Packet::Pubcomp, rng);
            }
            Packet::Pubcomp => {
                let token = exact.token;
                conn.exact.remove(&packet_id);
                conn.unsettled.remove(&token);
                self.tell(BrokerEvent::Settled {
                    token,
                    result: Ok(None),
                });
            }
        }
    }

    /// TCP keeps the order of what the port sends; answers take their time.
    pub(super) fn send_exact(
        &mut self,
        now: Instant,
        conn_id: ConnId,
        id: u16,
        packet: Packet,
        rng: &mut SmallRng,
    ) {
        let at = match packet {
            Packet::Publish | Packet::Pubrel => self.next_execution(now, conn_id, rng),
            Packet::Pubrec | Packet::Pubcomp => now + between(rng, Duration::ZERO, self.config.settle_max),
        };
        let life = self.conn(conn_id).life;
        self.schedule(at, BrokerAction::Exact(conn_id, life, id, packet));
    }
}
