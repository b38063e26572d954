//! The frame a forwarder puts around a client's message (§5.5).

use crate::{
    decode::LONG_FORM,
    error::{DecodeError, ErrorKind},
    types::MsgType,
};
use bytes::BufMut;
use nom::{IResult, bytes::complete::take, number::complete::be_u8};

/// Length, MsgType and Ctrl come before the wireless node id.
const FIXED_LEN: usize = 3;

/// The lower two bits of Ctrl; the others are reserved, ignored on receipt and sent as 0.
const RADIUS: u8 = 0x03;

/// The header of an encapsulated message: control octet and wireless node id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encapsulation<'a> {
    /// Broadcast radius, 0–3, meaningful from gateway to forwarder.
    pub radius: u8,
    /// Which node, opaque, 1–252 octets.
    pub wireless_node_id: &'a [u8],
}

impl<'a> Encapsulation<'a> {
    /// The longest wireless node id: the header's length has one octet and counts itself.
    pub const MAX_NODE_ID_LEN: usize = 255 - FIXED_LEN;

    /// Splits a datagram into its encapsulation header, if it has one, and the MQTT-SN message inside.
    ///
    /// The message is not decoded yet. A datagram that does not begin as an encapsulation is handed back as
    /// it is, however malformed.
    ///
    /// # Errors
    /// A header that is malformed, nested or leaves nothing inside.
    pub fn split(datagram: &'a [u8]) -> Result<(Option<Encapsulation<'a>>, &'a [u8]), DecodeError> {
        if !is_encapsulated(datagram) {
            return Ok((None, datagram));
        }
        // §5.5 gives this header one octet of Length, unlike every message.
        if datagram.first() == Some(&LONG_FORM) {
            return Err(DecodeError::new(ErrorKind::ReservedLengthForm, 0));
        }
        let (encapsulation, message) = header(datagram)?;
        if message.is_empty() {
            return Err(DecodeError::new(ErrorKind::TruncatedHeader, datagram.len()));
        }
        if is_encapsulated(message) {
            return Err(DecodeError::new(
                ErrorKind::NestedEncapsulation,
                encapsulation.encoded_len(),
            ));
        }
        Ok((Some(encapsulation), message))
    }

    /// Appends the header; the encoded message follows it.
    ///
    /// Appends nothing if the node id cannot be sent: it has to have 1 to
    /// [`MAX_NODE_ID_LEN`](Self::MAX_NODE_ID_LEN) octets. Every header from [`split`](Self::split) has.
    pub fn encode(&self, buf: &mut impl BufMut) {
        if !self.is_encodable() {
            return;
        }
        // At most 255: is_encodable() was asked.
        buf.put_slice(&[
            self.encoded_len() as u8,
            MsgType::Encapsulated as u8,
            self.radius & RADIUS,
        ]);
        buf.put_slice(self.wireless_node_id);
    }

    /// How many octets [`Encapsulation::encode`] appends.
    pub fn encoded_len(&self) -> usize {
        FIXED_LEN + self.wireless_node_id.len()
    }

    /// True if the node id is neither empty nor too long for the header.
    pub fn is_encodable(&self) -> bool {
        (1..=Self::MAX_NODE_ID_LEN).contains(&self.wireless_node_id.len())
    }
}

/// Reads MsgType where the length form puts it.
fn is_encapsulated(octets: &[u8]) -> bool {
    let msg_type = match octets {
        [LONG_FORM, _, _, msg_type, ..] => *msg_type,
        [LONG_FORM, ..] => return false,
        [_, msg_type, ..] => *msg_type,
        _ => return false,
    };
    msg_type == MsgType::Encapsulated as u8
}

/// The header in front of `datagram` and what follows it.
fn header(datagram: &[u8]) -> Result<(Encapsulation<'_>, &[u8]), DecodeError> {
    let length = datagram.first().map_or(0, |length| usize::from(*length));
    if length < 2 {
        return Err(DecodeError::new(ErrorKind::LengthTooSmall, 0));
    }
    if length > datagram.len() {
        return Err(DecodeError::new(ErrorKind::LengthMismatch, 0));
    }
    let Some(node_id_len) = length.checked_sub(FIXED_LEN) else {
        return Err(DecodeError::new(ErrorKind::BodyTooShort, length));
    };
    if node_id_len == 0 {
        return Err(DecodeError::new(ErrorKind::EmptyNodeId, length));
    }
    match fields(datagram, node_id_len) {
        Ok((message, encapsulation)) => Ok((encapsulation, message)),
        Err(_) => Err(DecodeError::new(ErrorKind::LengthMismatch, 0)),
    }
}

/// Length, MsgType, Ctrl and wireless node id.
fn fields(i: &[u8], node_id_len: usize) -> IResult<&[u8], Encapsulation<'_>, ()> {
    let (i, _length) = be_u8(i)?;
    let (i, _msg_type) = be_u8(i)?;
    let (i, ctrl) = be_u8(i)?;
    let (i, wireless_node_id) = take(node_id_len)(i)?;
    Ok((
        i,
        Encapsulation {
            radius: ctrl & RADIUS,
            wireless_node_id,
        },
    ))
}
