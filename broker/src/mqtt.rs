//! What the port needs of an MQTT client, whatever the version.

use std::sync::Arc;

use bytes::Bytes;
use gateway_core::io::{ConnectOptions, FilterId, Refusal};
use sn_codec::QoS;

use crate::RemoteConfig;
use crate::stages::Stages;

/// Seconds that the broker keeps the session of a lost connection (MQTT 5): long enough for a night without network.
pub(crate) const SESSION_EXPIRY: u32 = 24 * 60 * 60;

/// Unacknowledged QoS 1 and 2 messages that the broker may send (MQTT 5); well above what the core leaves open.
pub(crate) const RECEIVE_MAXIMUM: u16 = 1024;

/// The longest packet there is: a remaining length of 268,435,455 and its fixed header.
pub(crate) const LARGEST_PACKET: usize = 268_435_455 + 5;

/// A client of one MQTT version. The value takes requests; its `Driver` does the work when polled.
///
/// The client library keeps unsettled requests over a reconnect and sends them again if the broker has the session.
pub(crate) trait Mqtt: Sized + Send + Sync + 'static {
    /// Reads, writes, connects.
    type Driver: Send + 'static;
    /// Resolves to the outcome of one request.
    type Notice: Send + 'static;

    /// Makes a client that is not connected; polling its driver connects it.
    /// `stages` says what is in flight from an earlier life, and is told what is.
    fn new(config: &RemoteConfig, options: &ConnectOptions, stages: &Arc<Stages>) -> (Self, Self::Driver);

    /// Makes the broker forget the session of an earlier life, on a connection of its own.
    fn discard_session(
        config: &RemoteConfig,
        options: &ConnectOptions,
    ) -> impl Future<Output = Result<(), Loss>> + Send;

    /// Connects if necessary and waits for the next thing to happen. Must not be dropped before it is ready: a packet
    /// could be lost.
    fn poll(driver: &mut Self::Driver) -> impl Future<Output = Result<Happening, Broken>> + Send;

    /// Whether the client shows its state to its stages before every packet that it sends, which takes time.
    fn show_state(driver: &mut Self::Driver, shows: bool);

    /// Gives up connection and session; unsettled requests are lost. The broker has the session still.
    fn start_over(driver: &mut Self::Driver);

    /// Publishes; there is a notice for QoS 1 and 2.
    fn publish(
        &self,
        topic: &str,
        qos: QoS,
        retain: bool,
        payload: Bytes,
    ) -> Result<Option<Self::Notice>, Refusal>;

    /// Subscribes, with a subscription identifier if the version has them.
    fn subscribe(&self, filter: &str, qos: QoS, id: Option<FilterId>) -> Result<Self::Notice, Refusal>;

    /// Unsubscribes.
    fn unsubscribe(&self, filter: &str) -> Result<Self::Notice, Refusal>;

    /// Acknowledges a message from the broker: PUBACK or PUBREC.
    fn acknowledge(&self, packet_id: u16, qos: QoS);

    /// Sends DISCONNECT after everything requested before; waits for acknowledgements first.
    fn disconnect(&self);

    /// Sends DISCONNECT before anything not yet written.
    fn disconnect_now(&self);

    /// Waits for the outcome.
    fn outcome(notice: Self::Notice) -> impl Future<Output = Outcome> + Send;

    /// Octets of a PUBLISH.
    fn publish_len(topic: &str, payload: &[u8]) -> usize;
}

/// What [`Mqtt::poll`] found.
#[derive(Debug)]
pub(crate) enum Happening {
    /// CONNACK.
    Connected(Terms),
    /// PUBLISH.
    Message(Message),
    /// PUBREL for this packet id.
    Released(u16),
    /// PUBREC that says no to the publish with this packet id.
    Refused(u16, Refusal),
    /// Nothing that concerns the port: notices may be ready.
    Progress,
}

/// What the broker offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) session_present: bool,
    /// QoS 1 and 2 publishes it takes at once.
    pub(crate) receive_maximum: u16,
    /// The longest packet it takes.
    pub(crate) packet_bytes: usize,
    /// The highest QoS that it takes publishes with.
    pub(crate) maximum_qos: QoS,
    /// It knows subscription identifiers.
    pub(crate) subscription_ids: bool,
}

/// A PUBLISH of the broker.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) packet_id: u16,
    pub(crate) dup: bool,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) topic: Bytes,
    pub(crate) payload: Bytes,
    pub(crate) filters: Box<[FilterId]>,
}

/// Why [`Mqtt::poll`] failed.
#[derive(Debug)]
pub(crate) enum Broken {
    /// Our DISCONNECT is out.
    Closed,
    /// Connecting failed or the connection broke; polling again connects.
    Lost(Loss),
}

/// How a connection was lost or not made.
#[derive(Debug)]
pub(crate) struct Loss {
    /// In words.
    pub(crate) reason: String,
    /// What a person can do about it, where that is known.
    pub(crate) remedy: Option<Remedy>,
}

impl From<String> for Loss {
    fn from(reason: String) -> Self {
        Loss { reason, remedy: None }
    }
}

/// What a person can do about a broker that does not want us, which will not pass by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// The client id is refused, or somebody else connects under it.
    ClientId,
    /// The broker does not know us.
    Login,
    /// It does not take the will.
    Will,
}

impl Remedy {
    /// For the log.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Remedy::ClientId => {
                "another gateway may use this client id: give this one another gateway.id and gateway.name, or a \
                 broker.client_id of its own"
            }
            Remedy::Login => "see broker.username and broker.password_file",
            Remedy::Will => "the broker must allow retained messages and wills with QoS 1",
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done; a SUBACK says with which QoS.
    Done(Option<QoS>),
    /// The broker said no.
    Refused(Refusal),
    /// Its session is gone.
    Lost,
}

impl Outcome {
    /// From the reason code of an acknowledgement: no matching subscribers (0x10) and the like are fine.
    pub(crate) fn from_reason(code: u8) -> Self {
        if code < 0x80 {
            Outcome::Done(None)
        } else {
            Outcome::Refused(Refusal(code))
        }
    }
}

/// Reason codes for requests that MQTT cannot carry.
pub(crate) mod reason {
    use gateway_core::io::Refusal;

    pub(crate) const UNSPECIFIED: Refusal = Refusal(0x80);
    pub(crate) const IMPLEMENTATION_SPECIFIC: Refusal = Refusal(0x83);
    pub(crate) const FILTER_INVALID: Refusal = Refusal(0x8F);
    pub(crate) const TOPIC_INVALID: Refusal = Refusal(0x90);
    pub(crate) const PACKET_TOO_LARGE: Refusal = Refusal(0x95);
    pub(crate) const RETAIN_NOT_SUPPORTED: Refusal = Refusal(0x9A);
    pub(crate) const QOS_NOT_SUPPORTED: Refusal = Refusal(0x9B);
}
