//! MQTT-SN 1.2 on the wire: borrowed decoding, encoding into [`bytes::BufMut`], no I/O.
//!
//! A gateway calls [`decode_for_gateway`] for each datagram, a client or a tool [`decode_message`]. The
//! [`Packet`] that comes back borrows its text and payload from the datagram. For a datagram that is refused,
//! [`DecodeError`] says why, where, and which message answers it, if any does. [`encode_message`] is the way
//! back; without forwarders [`Packet::decode`] and [`Packet::encode`] are enough.
//!
//! What is guaranteed: decoding never panics and never allocates, whatever the octets are; a decoded packet
//! can be encoded and decodes to the same; encoding uses the shortest form and sets no reserved bit.
//!
//! ```
//! use sn_codec::{Connack, Packet, ReturnCode, decode_for_gateway, encode_message};
//!
//! // A forwarder hands on the CONNECT of the wireless node 0x0007.
//! let datagram = b"\x05\xFE\x00\x00\x07\x0A\x04\x04\x01\x00\x3Czb-7";
//! let (forwarder, packet) = decode_for_gateway(datagram)?;
//! let Packet::Connect(connect) = packet else { panic!("not a CONNECT") };
//! assert_eq!(connect.client_id, "zb-7");
//! assert_eq!(connect.duration, 60);
//!
//! // The answer goes back in the same frame.
//! let connack = Packet::Connack(Connack { return_code: ReturnCode::Accepted });
//! let mut buf = Vec::new();
//! encode_message(forwarder.as_ref(), &connack, &mut buf);
//! assert_eq!(buf, b"\x05\xFE\x00\x00\x07\x03\x05\x00");
//!
//! // A REGISTER with a wildcard is refused with the message that says so to its sender.
//! let error = decode_for_gateway(b"\x09\x0A\x00\x00\x00\x04a/+").unwrap_err();
//! assert_eq!(error.to_string(), "a wildcard where a topic name is needed at octet 8");
//! assert!(matches!(error.answer, Some(Packet::Regack(regack)) if regack.msg_id.0 == 4));
//! # Ok::<(), sn_codec::DecodeError>(())
//! ```

#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod decode;
mod encapsulation;
mod encode;
mod error;
mod flags;
mod packet;
pub mod topic;
mod types;

pub use decode::{decode_for_gateway, decode_message};
pub use encapsulation::Encapsulation;
pub use encode::encode_message;
pub use error::{DecodeError, ErrorKind};
pub use packet::{
    Advertise, Connack, Connect, Direction, Disconnect, GwInfo, Packet, Pingreq, Puback, Publish, Regack,
    Register, SearchGw, Suback, Subscribe, Unsubscribe, WillMsg, WillTopic,
};
pub use types::{MsgId, MsgType, PublishQoS, QoS, ReturnCode, ShortTopic, TopicFilter, TopicId, TopicRef};
