//! MQTT-SN 1.2 on the wire.

mod decode;
mod encapsulation;
mod encode;
mod error;
mod packet;
pub mod topic;
mod types;

pub use encapsulation::Encapsulation;
pub use error::{DecodeError, ErrorKind};
pub use packet::{
    Advertise, Connack, Connect, Disconnect, GwInfo, Packet, Pingreq, Puback, Publish, Regack, Register,
    SearchGw, Suback, Subscribe, Unsubscribe, WillMsg, WillTopic,
};
pub use types::{MsgId, MsgType, PublishQoS, QoS, ReturnCode, ShortTopic, TopicFilter, TopicId, TopicRef};
