//! Connections come and go, with their sessions or without.

use core::time::Duration;
use std::collections::BTreeSet;

use gateway_core::io::{BrokerEvent, BrokerRequest, ConnId, ConnectOptions, StoreChange, Token};
use gateway_core::time::Instant;
use rand::RngExt;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use sn_codec::QoS;

use super::exactly_once::{Exact, ExactStage};
use super::{
    Accepted, Arrived, BrokerAction, Conn, Life, Packet, PortWrite, Session, SimBroker, Stage, Unsettled,
    as_request,
};
use crate::net::between;

impl Conn {
    /// A new process opens the connection: what it was told of an earlier one goes on.
    pub(super) fn open(&mut self, conn: ConnId, options: ConnectOptions) {
        self.holds_pubcomp = options.holds_pubcomp;
        for restored in options.restored {
            self.accepted += 1;
            let entry = Unsettled {
                request: as_request(conn, &restored),
                order: self.accepted,
                stage: Stage::Waiting,
            };
            self.unsettled.insert(restored.token, entry);
            let exact = Exact {
                token: restored.token,
                stored: restored.stored,
                topic: restored.topic,
                retain: restored.retain,
                payload: restored.payload,
                stage: match restored.released {
                    true => ExactStage::Released,
                    false => ExactStage::Sent,
                },
            };
            // A packet id that was given again proves that the publish it was for is done.
            if let Some(earlier) = self.exact.insert(restored.packet_id, exact) {
                self.unsettled.remove(&earlier.token);
                self.settled_before.push(earlier.token);
            }
        }
        for delivery in options.received {
            let arrived = Arrived {
                delivery,
                acknowledged: true,
                here: false,
                releasing: false,
            };
            self.deliveries.insert(delivery.0 as u16, arrived);
        }
    }
}

impl SimBroker {
    pub(super) fn connect(&mut self, now: Instant, conn_id: ConnId, rng: &mut SmallRng) {
        if !self.reachable {
            return;
        }
        let (window, credit) = (self.config.window, self.config.credit);
        let lost_first = rng.random_bool(self.config.lost_before_up);
        // Ports collect outcomes from several places, so losses are told in any order.
        let shuffled: bool = rng.random();
        let conn = self.conn(conn_id);
        if !conn.wanted || conn.up {
            return;
        }
        conn.up = true;
        conn.life += 1;
        conn.credit = credit;
        conn.deliveries_scheduled = 0;
        let session_present = conn.has_session;
        conn.has_session = true;
        let life = conn.life;
        conn.connection = conn.connection.wrapping_add(1);
        for arrived in conn.deliveries.values_mut() {
            arrived.here = false;
        }
        let settled_before = core::mem::take(&mut conn.settled_before);
        let up = BrokerEvent::Up {
            conn: conn_id,
            session_present,
            window,
            forgets: false,
        };
        let credit = BrokerEvent::Credit {
            conn: conn_id,
            requests: credit,
        };
        if session_present {
            self.tell_settled(settled_before);
            self.tell(up);
            self.tell(credit);
            self.resume(now, conn_id, life, rng);
            return;
        }
        conn.session = Session::default();
        conn.inbox.clear();
        // Their packet ids are theirs no more, before the gateway hears of it.
        let reset: Vec<(u16, StoreChange)> = core::mem::take(&mut conn.exact)
            .into_iter()
            .map(|(id, Exact { stored, .. })| (id, StoreChange::Put(stored.key, stored.pending())))
            .collect();
        conn.deliveries.clear();
        let mut lost: Vec<(u64, Token)> = conn
            .unsettled
            .iter()
            .map(|(token, unsettled)| (unsettled.order, *token))
            .collect();
        lost.sort_unstable();
        if shuffled {
            lost.shuffle(rng);
        }
        conn.unsettled.clear();
        let mut events: Vec<BrokerEvent> = lost
            .into_iter()
            .map(|(_, token)| BrokerEvent::Lost { token })
            .collect();
        let up_at = if lost_first { events.len() } else { 0 };
        events.insert(up_at, up);
        events.push(credit);
        for (packet_id, change) in reset {
            self.next_write += 1;
            self.writes.push_back(PortWrite {
                conn: conn_id,
                number: self.next_write,
                packet_id,
                change,
            });
        }
        self.tell_settled(settled_before);
        events.into_iter().for_each(|event| self.tell(event));
    }

    /// The session goes on: what was not settled is sent again by the port, what was not acknowledged by the broker.
    fn resume(&mut self, now: Instant, conn_id: ConnId, life: Life, rng: &mut SmallRng) {
        let settle_max = self.config.settle_max;
        let conn = self.conn(conn_id);
        conn.inbox.clear();
        let begun: BTreeSet<Token> = conn.exact.values().map(|exact| exact.token).collect();
        let exact: Vec<(u16, ExactStage)> = conn.exact.iter().map(|(id, e)| (*id, e.stage)).collect();
        let unsettled = conn.unsettled.iter().filter(|(token, _)| !begun.contains(token));
        let mut again: Vec<(u64, Token)> = unsettled.map(|(t, u)| (u.order, *t)).collect();
        again.sort_unstable();
        let mut settle = Vec::new();
        let mut executions = 0;
        for (_, token) in again {
            let Some(unsettled) = conn.unsettled.get_mut(&token) else {
                continue;
            };
            let exactly_once = matches!(
                unsettled.request,
                BrokerRequest::Publish {
                    qos: QoS::ExactlyOnce,
                    ..
                }
            );
            if exactly_once && unsettled.stage != Stage::Waiting {
                // The broker knows its packet id and does not publish it again.
                settle.push((now + between(rng, Duration::ZERO, settle_max), token));
            } else {
                unsettled.stage = Stage::Waiting;
                conn.inbox.push_back(Accepted {
                    request: unsettled.request.clone(),
                    paid: false,
                });
                executions += 1;
            }
        }
        let redelivered = core::mem::take(&mut conn.session.unacked);
        let mut first = Vec::new();
        let mut exchanges = Vec::new();
        for (packet_id, mut delivery) in redelivered {
            match delivery.qos {
                // The broker sends it again, or that it is released; the port knows it by its packet id.
                QoS::ExactlyOnce => {
                    let packet = match delivery.received {
                        true => Packet::Pubrel,
                        false => Packet::Publish,
                    };
                    exchanges.push((packet_id, packet));
                    self.conn(conn_id).session.unacked.insert(packet_id, delivery);
                }
                QoS::AtMostOnce | QoS::AtLeastOnce => {
                    delivery.publication = self.new_publication();
                    first.push(delivery);
                }
            }
        }
        let waiting = &mut self.conn(conn_id).session.waiting;
        first
            .into_iter()
            .rev()
            .for_each(|delivery| waiting.push_front(delivery));
        self.scheduled.extend(
            settle
                .into_iter()
                .map(|(at, token)| (at, BrokerAction::Settle(token, life))),
        );
        for (packet_id, stage) in exact {
            match stage {
                ExactStage::Sent => self.send_exact(now, conn_id, packet_id, Packet::Publish, rng),
                ExactStage::Released => self.send_exact(now, conn_id, packet_id, Packet::Pubrel, rng),
                // It leaves when that is durable.
                ExactStage::Sending(_) | ExactStage::Releasing(_) => {}
            }
        }
        for _ in 0..executions {
            self.schedule_execution(now, conn_id, rng);
        }
        for (packet_id, packet) in exchanges {
            self.send_delivery(now, conn_id, packet_id, packet, rng);
        }
        self.schedule_deliveries(now, conn_id, rng);
    }

    pub(super) fn drop_conn(&mut self, conn_id: ConnId, keep_session: bool) {
        let conn = self.conn(conn_id);
        if !keep_session {
            conn.has_session = false;
        }
        if !conn.up {
            return;
        }
        conn.up = false;
        conn.life += 1;
        conn.credit = 0;
        // What the port took and did not write yet: without a token nobody waits for it.
        conn.session
            .waiting
            .retain(|delivery| delivery.qos != QoS::AtMostOnce);
        self.tell(BrokerEvent::Down {
            conn: conn_id,
            reason: "simulated".into(),
        });
    }
}
