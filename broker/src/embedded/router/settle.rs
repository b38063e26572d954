//! Who is answered for a publish, and when: once the sessions that it waits for have taken it.

use sn_codec::QoS;

use super::Router;
use crate::embedded::packet::{ClientKey, Reply, reason};
use crate::embedded::session::ProtocolError;

/// A publisher that waits for its acknowledgement.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) client: ClientKey,
    pub(super) packet_id: u16,
    pub(super) qos: QoS,
    /// Sessions it waits for.
    pub(super) sessions: usize,
}

impl Router {
    /// PUBACK or PUBREC for a publish; nothing with QoS 0.
    pub(super) fn answer(&mut self, client: ClientKey, packet_id: u16, qos: QoS, reason: u8) {
        if self.session_of(client).is_none() {
            return;
        }
        match qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.out.push(client, Reply::PubAck { packet_id, reason }),
            QoS::ExactlyOnce => self.out.push(client, Reply::PubRec { packet_id, reason }),
        }
    }

    pub(super) fn on_pubrel(&mut self, client: ClientKey, session: u32, packet_id: u16) {
        let reason = match self.sessions[session as usize].inbound.remove(&packet_id) {
            Some(withheld) => {
                if let Some(number) = withheld {
                    self.pending.remove(&number);
                }
                reason::SUCCESS
            }
            None => reason::PACKET_ID_NOT_FOUND,
        };
        self.out.push(client, Reply::PubComp { packet_id, reason });
    }

    /// A client's word on something in flight to it.
    pub(super) fn acknowledged(
        &mut self,
        client: ClientKey,
        session: u32,
        result: Result<(), ProtocolError>,
    ) {
        match result {
            Ok(()) => self.pump(session),
            Err(ProtocolError) => self.end(client, reason::PROTOCOL_ERROR),
        }
    }

    pub(super) fn pump(&mut self, session: u32) {
        self.sessions[session as usize].pump(self.now, &self.retained, &mut self.out);
        self.relieve(session);
    }

    /// Acknowledges what waited for this session, if it is within its bound.
    pub(super) fn relieve(&mut self, session: u32) {
        if self.sessions[session as usize].is_relieved() {
            self.release(session);
        }
    }

    /// Acknowledges what waited for this session.
    pub(super) fn release(&mut self, session: u32) {
        for number in core::mem::take(&mut self.sessions[session as usize].withheld) {
            let Some(pending) = self.pending.get_mut(&number) else {
                continue;
            };
            pending.sessions -= 1;
            if pending.sessions == 0
                && let Some(pending) = self.pending.remove(&number)
            {
                self.answer(pending.client, pending.packet_id, pending.qos, reason::SUCCESS);
            }
        }
    }
}
