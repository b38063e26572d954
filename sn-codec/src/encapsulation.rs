//! The frame a forwarder puts around a client's message (§5.5).

use crate::error::DecodeError;
use bytes::BufMut;

/// The header of an encapsulated message: control octet and wireless node id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encapsulation<'a> {
    /// Broadcast radius, 0–3, meaningful from gateway to forwarder.
    pub radius: u8,
    /// Which node, opaque, 1–252 octets.
    pub wireless_node_id: &'a [u8],
}

impl<'a> Encapsulation<'a> {
    /// Splits a datagram into its encapsulation header, if it has one, and the MQTT-SN message inside.
    ///
    /// The message is not decoded yet.
    ///
    /// # Errors
    /// A header that is malformed, nested or leaves nothing inside.
    pub fn split(_datagram: &'a [u8]) -> Result<(Option<Encapsulation<'a>>, &'a [u8]), DecodeError> {
        unimplemented!()
    }

    /// Appends the header; the encoded message follows it.
    pub fn encode(&self, _buf: &mut impl BufMut) {
        unimplemented!()
    }

    /// How many octets [`Encapsulation::encode`] appends.
    pub fn encoded_len(&self) -> usize {
        3 + self.wireless_node_id.len()
    }
}
