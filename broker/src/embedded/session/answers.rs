//! What the client says to messages in flight.

use gateway_core::time::Instant;
use sn_codec::QoS;

use super::entry::pubrel;
use super::{InFlight, KEPT_CAPACITY, Outbox, Session, Stage};
use crate::embedded::kept::Kept;
use crate::embedded::packet::reason;
use crate::embedded::receipt::Receipt;

/// The client did what MQTT does not allow.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ProtocolError;

impl Session {
    fn position(&self, packet_id: u16) -> Option<usize> {
        // Nearly always the first, since clients answer in order (§4.6).
        self.in_flight
            .iter()
            .position(|exchange| exchange.packet_id == packet_id)
    }

    /// PUBACK. An unknown packet id is ignored: §4.13 has no answer to it.
    ///
    /// # Errors
    ///
    /// The exchange is one of QoS 2.
    pub(crate) fn on_puback(&mut self, packet_id: u16) -> Result<(), ProtocolError> {
        let Some(at) = self.position(packet_id) else {
            return Ok(());
        };
        match &self.in_flight[at].stage {
            Stage::Sent(entry) if entry.qos == QoS::AtLeastOnce => self.finish(at),
            Stage::Clearing(_) | Stage::Sent(_) | Stage::Taken(..) | Stage::Released(_) => {
                return Err(ProtocolError);
            }
        }
        Ok(())
    }

    /// PUBREC (§4.3.3); returns the reason code of the PUBREL to answer with, if any. `take` sees to it that a later life
    /// will know, and says after which batch.
    ///
    /// # Errors
    ///
    /// The exchange is one of QoS 1.
    pub(crate) fn on_pubrec(
        &mut self,
        packet_id: u16,
        refused: bool,
        take: impl FnOnce(Kept, &Receipt) -> u64,
    ) -> Result<Option<u8>, ProtocolError> {
        let Some(at) = self.position(packet_id) else {
            return Ok((!refused).then_some(reason::PACKET_ID_NOT_FOUND));
        };
        match &self.in_flight[at].stage {
            Stage::Clearing(_) => return Err(ProtocolError),
            Stage::Sent(entry) if entry.qos == QoS::AtLeastOnce => return Err(ProtocolError),
            Stage::Sent(_) if refused => {
                self.finish(at);
                return Ok(None);
            }
            Stage::Sent(entry) => {
                if !entry.held_over {
                    self.bytes -= entry.message.size();
                }
                let receipt = entry.message.receipt.clone();
                let exact = receipt
                    .as_ref()
                    .filter(|_| self.exact_ids.contains(&packet_id))
                    .zip(self.kept);
                if let Some((receipt, kept)) = exact {
                    self.taken_until = Some(take(kept, receipt));
                }
                // MQTT-4.6.0-4: PUBREL goes in the order of PUBREC.
                if let Some(batch) = self.taken_until {
                    self.in_flight[at].stage = Stage::Taken(receipt, batch);
                    return Ok(None);
                }
                let sent = core::mem::replace(&mut self.in_flight[at].stage, Stage::Released(receipt));
                sent.settle();
            }
            Stage::Taken(..) => return Ok(None),
            Stage::Released(_) => {}
        }
        Ok(Some(reason::SUCCESS))
    }

    /// A later life will know what was taken up to this batch, or that was waited for long enough.
    pub(crate) fn release(&mut self, batch: u64, out: &mut Outbox) {
        self.taken_until.take_if(|until| *until <= batch);
        for (at, exchange) in self.in_flight.iter_mut().enumerate() {
            if let Stage::Taken(receipt, until) = &mut exchange.stage
                && *until <= batch
            {
                exchange.stage = Stage::Released(receipt.take());
                if let Some(attached) = self.attached.as_ref().filter(|_| at < self.said) {
                    out.push(attached.key, pubrel(exchange.packet_id));
                }
            }
        }
    }

    /// The client took this message in an earlier life: PUBREL is due, unless that went before another one under the
    /// packet id.
    pub(crate) fn go_on(&mut self, packet_id: u16, receipt: Receipt) {
        if self.exact_ids.insert(packet_id) {
            self.held_over += 1;
            self.in_flight.push_back(InFlight {
                packet_id,
                lap: self.lap,
                held_over: true,
                stage: Stage::Released(Some(receipt)),
            });
        }
    }

    /// PUBCOMP. An unknown packet id is ignored.
    ///
    /// # Errors
    ///
    /// There was no PUBREL before.
    pub(crate) fn on_pubcomp(
        &mut self,
        now: Instant,
        packet_id: u16,
        out: &mut Outbox,
    ) -> Result<(), ProtocolError> {
        let Some(at) = self.position(packet_id) else {
            return Ok(());
        };
        match &self.in_flight[at].stage {
            Stage::Released(_) => self.finish(at),
            // One of an earlier connection cannot come, so PUBREL was said on this one, and has credit.
            Stage::Clearing(_) => self.say_cleared(now, at, out),
            Stage::Sent(_) | Stage::Taken(..) => return Err(ProtocolError),
        }
        Ok(())
    }

    /// The client cannot take this message: it counts as delivered (§3.1.2.11.4).
    pub(crate) fn on_too_large(&mut self, packet_id: u16) {
        if let Some(at) = self.position(packet_id) {
            self.finish(at);
        }
    }

    pub(super) fn finish(&mut self, at: usize) {
        let Some(exchange) = self.in_flight.remove(at) else {
            return;
        };
        self.said -= usize::from(at < self.said);
        self.exact_ids.remove(&exchange.packet_id);
        if exchange.held_over {
            self.held_over -= 1;
        } else {
            self.messages -= 1;
            if let Stage::Clearing(entry) | Stage::Sent(entry) = &exchange.stage {
                self.bytes -= entry.message.size();
            }
        }
        exchange.stage.settle();
        if self.messages == 0 && self.held_over == 0 {
            self.waiting.shrink_to(KEPT_CAPACITY);
            self.in_flight.shrink_to(KEPT_CAPACITY);
        }
    }
}
