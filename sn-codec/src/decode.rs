//! From a datagram to a [`Packet`].

use crate::{error::DecodeError, packet::Packet};

impl<'a> Packet<'a> {
    /// Decodes one datagram that holds exactly one message, without encapsulation.
    ///
    /// # Errors
    /// What was wrong, where, and the answer if the message parses but carries a bad value.
    pub fn decode(_datagram: &'a [u8]) -> Result<Packet<'a>, DecodeError> {
        unimplemented!()
    }
}
