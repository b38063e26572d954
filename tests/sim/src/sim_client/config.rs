//! Who a client is, what it does unlike others, and what it can be told to do.

use core::time::Duration;
use std::collections::BTreeMap;

use bytes::Bytes;
use gateway_core::io::Will;
use sn_codec::{PublishQoS, QoS, TopicId};

/// Who a client is and how it behaves.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Its id.
    pub id: String,
    /// CleanSession of every CONNECT.
    pub clean: bool,
    /// Keep-alive in seconds, 0 for none.
    pub keep_alive: u16,
    /// Its will, given at every CONNECT.
    pub will: Option<Will>,
    /// Topic ids it knows by configuration, with their full names.
    pub predefined: BTreeMap<TopicId, String>,
    /// Tretry.
    pub retry: Duration,
    /// Nretry.
    pub retry_count: u32,
    /// Pause after an answer of congestion, and before connecting again.
    pub wait: Duration,
    /// Requests it keeps open at once; the specification says one of a kind.
    pub max_open: usize,
    /// First message id of each life of the device.
    pub first_msg_id: u16,
    /// What it does unlike others.
    pub quirks: Quirks,
}

impl ClientConfig {
    /// A clean client with a keep-alive of a minute and no will.
    pub fn new(id: &str) -> ClientConfig {
        ClientConfig {
            id: id.into(),
            clean: true,
            keep_alive: 60,
            will: None,
            predefined: BTreeMap::new(),
            retry: Duration::from_secs(10),
            retry_count: 3,
            wait: Duration::from_secs(30),
            max_open: 1,
            first_msg_id: 1,
            quirks: Quirks::default(),
        }
    }
}

/// What some clients in the field do differently; the default is the specification.
///
/// [`crate::families`] has the sets that real clients come with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quirks {
    /// Repeats are sent without DUP.
    pub no_dup: bool,
    /// A REGISTER of the gateway is never answered.
    pub ignores_register: bool,
    /// A REGISTER for a name it did not ask for is answered with "invalid topic id".
    pub refuses_unknown_register: bool,
    /// REGISTERs of the gateway it has memory for; further ones are not answered.
    pub register_slots: Option<usize>,
    /// A PUBLISH without payload is never answered.
    pub ignores_empty_publish: bool,
    /// QoS 0 messages are not understood.
    pub ignores_qos0: bool,
    /// A PUBLISH with DUP, QoS 2 or a predefined id is refused with "not supported".
    pub refuses_unusual_publish: bool,
    /// QoS 2 messages are not answered.
    pub never_pubrec: bool,
    /// The repeat of a QoS 2 message is not answered unless it has DUP.
    pub needs_dup: bool,
    /// A message under a predefined id or short name counts only if a SUBACK carried it.
    pub keeps_suback_ids: bool,
    /// A PUBACK counts only if it carries the topic id too.
    pub checks_puback_topic: bool,
    /// Both ids of PUBACK and REGACK are sent with their octets swapped.
    pub swaps_acks: bool,
    /// After PUBREC the PUBLISH is repeated, not the PUBREL.
    pub publishes_after_pubrec: bool,
    /// QoS 0 messages have a message id.
    pub counts_qos0: bool,
    /// The flags octet is sent with its bits in reverse order, and PUBLISH with CleanSession: QoS 0 reads as QoS 1.
    pub reversed_flags: bool,
    /// Total length in the short form from which on the long form is used; 256 and more by the specification.
    pub long_form_from: Option<usize>,
    /// Predefined ids in SUBSCRIBE and short names in PUBLISH are sent with their octets swapped.
    pub swaps_topics: bool,
    /// Every PINGREQ names the client.
    pub pings_with_id: bool,
    /// The PINGREQ of a wake-up does not name the client.
    pub wakes_without_id: bool,
    /// Falls asleep without waiting for the answer.
    pub sleeps_at_once: bool,
    /// Its DISCONNECT with a duration has two octets too many.
    pub long_disconnect: bool,
    /// Asks and publishes while asleep, without returning to active.
    pub talks_asleep: bool,
    /// Does not subscribe again when it returns from sleep.
    pub trusts_session: bool,
    /// With a will, a CONNACK counts only after the prompts.
    pub waits_for_prompts: bool,
    /// Anything but CONNACK as the answer to its CONNECT ends it.
    pub exits_unless_connack: bool,
    /// A DISCONNECT it did not ask for ends it.
    pub exits_on_disconnect: bool,
    /// A DISCONNECT it did not ask for is overlooked.
    pub ignores_disconnect: bool,
}

/// How a client names a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicForm {
    /// In full; registered before it is published to. A filter in subscriptions.
    Name(String),
    /// By an id of the configuration.
    Predefined(TopicId),
    /// Two octets.
    Short([u8; 2]),
}

impl From<&str> for TopicForm {
    fn from(name: &str) -> TopicForm {
        TopicForm::Name(name.into())
    }
}

/// Something a client is told to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Publish, for QoS 1 and 2 until it is acknowledged.
    Publish(Uplink),
    /// Register a topic name.
    Register(String),
    /// Subscribe, and again whenever a session began clean.
    Subscribe {
        /// What to.
        topic: TopicForm,
        /// QoS asked for.
        qos: QoS,
    },
    /// Unsubscribe.
    Unsubscribe {
        /// What from.
        topic: TopicForm,
    },
    /// PINGREQ.
    Ping,
    /// Set another will topic (WILLTOPICUPD) and keep it for later CONNECTs; `None` deletes the will.
    UpdateWillTopic(Option<Will>),
    /// Set another will message (WILLMSGUPD) and keep it for later CONNECTs.
    UpdateWillMessage(Bytes),
    /// DISCONNECT, and stay away until told to connect.
    Disconnect,
    /// Sleep (§6.14): DISCONNECT with a duration, then a PINGREQ each time that has passed.
    Sleep {
        /// Seconds.
        duration: u16,
        /// Wake-ups before it returns to active; without end for `u32::MAX`.
        naps: u32,
    },
}

/// One message of a client's application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// How the topic is named.
    pub topic: TopicForm,
    /// −1, 0, 1 or 2.
    pub qos: PublishQoS,
    /// To be retained.
    pub retain: bool,
    /// The payload, by which the simulation knows it again.
    pub payload: Bytes,
}
