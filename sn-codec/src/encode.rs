//! From a [`Packet`] to a datagram.

use crate::packet::Packet;
use bytes::BufMut;

impl Packet<'_> {
    /// Appends the message in its shortest form.
    pub fn encode(&self, _buf: &mut impl BufMut) {
        unimplemented!()
    }

    /// How many octets [`Packet::encode`] appends.
    pub fn encoded_len(&self) -> usize {
        unimplemented!()
    }
}
