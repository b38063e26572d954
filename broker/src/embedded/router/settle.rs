//! Who is answered for a publish, and when: once the sessions that it waits for have taken it, and the gateway, which
//! acknowledges what is durable, has acknowledged each copy for its own.

use sn_codec::QoS;

use super::Router;
use crate::embedded::awaited::Ended;
use crate::embedded::packet::{ClientKey, Reply, reason};
use crate::embedded::session::ProtocolError;

/// A publisher that waits for its acknowledgement.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) client: ClientKey,
    /// Its own, if that has not ended.
    pub(super) session: Option<u32>,
    pub(super) packet_id: u16,
    pub(super) qos: QoS,
    /// Sessions that must get within their bounds, and one more for copies to be acknowledged by the gateway.
    pub(super) waits_for: usize,
    /// To be answered with.
    pub(super) reason: u8,
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
            self.wait_for_one_less(number, reason::SUCCESS);
        }
    }

    /// Answers for what the gateway has acknowledged.
    pub(super) fn answer_ended(&mut self) {
        while let Ok(Ended { number, lost }) = self.ended.try_recv() {
            // Its session ended with the message: who published it has to do so again.
            let reason = if lost {
                reason::QUOTA_EXCEEDED
            } else {
                reason::SUCCESS
            };
            self.wait_for_one_less(number, reason);
        }
    }

    fn wait_for_one_less(&mut self, number: u64, reason: u8) {
        // PUBREL may have come before PUBREC.
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        pending.reason = pending.reason.max(reason);
        pending.waits_for -= 1;
        if pending.waits_for > 0 {
            return;
        }
        let Some(pending) = self.pending.remove(&number) else {
            return;
        };
        if pending.reason >= 0x80 {
            self.out.stats.refused_full += 1;
            self.forget_inbound(&pending, number);
        }
        self.answer(pending.client, pending.packet_id, pending.qos, pending.reason);
    }

    /// A QoS 2 message that was refused: under its packet id comes another one (§4.3.3).
    fn forget_inbound(&mut self, pending: &Pending, number: u64) {
        let session = pending
            .session
            .and_then(|session| self.sessions.get_mut(session as usize));
        // The place may be another session's by now.
        if let Some(session) = session
            && session.inbound.get(&pending.packet_id) == Some(&Some(number))
        {
            session.inbound.remove(&pending.packet_id);
        }
    }
}
