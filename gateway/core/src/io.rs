//! The seam's vocabulary: what goes into the core and what comes out of it.
//!
//! Adapters and broker ports use these types and nothing else of the core.

use core::fmt;
use core::time::Duration;
use std::sync::Arc;

use bytes::Bytes;
use sn_codec::QoS;

use crate::airtime::Airtime;
use crate::budget::Share;
use crate::metrics::SpoolDrop;
use crate::peer::{LinkAddr, LinkId, PeerAddr, Route};

/// Everything that can happen outside the core, as one ordered stream.
#[derive(Debug)]
pub enum Input {
    /// A link changed or grants credit.
    Link(LinkId, LinkEvent),
    /// Datagrams arrived.
    Datagrams(LinkId, RxBatch),
    /// A broker port reports.
    Broker(Vec<BrokerEvent>),
    /// The store reports.
    Store(StoreEvent),
}

/// Datagrams received together: one buffer, and where each ends.
#[derive(Debug, Default)]
pub struct RxBatch {
    /// The datagrams, one after the other.
    pub bytes: Vec<u8>,
    /// Sender, length and circumstances of each, in order.
    pub datagrams: Vec<RxDatagram>,
}

/// One datagram of an [`RxBatch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RxDatagram {
    /// Who sent it, and where to.
    pub from: Route,
    /// Its length in octets.
    pub len: u32,
    /// How it was received.
    pub facts: RadioFacts,
}

/// How a datagram was received, as far as the radio says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RadioFacts {
    /// Received signal strength, in dBm.
    pub rssi_dbm: Option<i16>,
    /// Signal to noise ratio, in dB.
    pub snr_db: Option<i8>,
    /// Hops that it took.
    pub hops: Option<u8>,
}

impl RxBatch {
    /// Appends one datagram.
    pub fn push(&mut self, from: Route, facts: RadioFacts, datagram: &[u8]) {
        self.bytes.extend_from_slice(datagram);
        self.datagrams.push(RxDatagram {
            from,
            len: datagram.len() as u32,
            facts,
        });
    }

    /// The datagrams in the order they arrived.
    pub fn iter(&self) -> impl Iterator<Item = (&RxDatagram, &[u8])> {
        let mut at = 0;
        self.datagrams.iter().map(move |datagram| {
            let start = at;
            at += datagram.len as usize;
            (datagram, &self.bytes[start..at])
        })
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.datagrams.clear();
    }
}

/// Datagrams to send together.
#[derive(Debug, Default)]
pub struct TxBatch {
    /// The datagrams, one after the other.
    pub bytes: Vec<u8>,
    /// Destination, length and ticket of each, in order.
    pub datagrams: Vec<TxDatagram>,
}

/// One datagram of a [`TxBatch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxDatagram {
    /// Where to.
    pub to: Destination,
    /// Its length in octets.
    pub len: u32,
    /// Returned in [`LinkEvent::Sent`] by links that confirm transmission.
    pub ticket: TxTicket,
}

impl TxBatch {
    /// The datagrams in the order to send them.
    pub fn iter(&self) -> impl Iterator<Item = (&TxDatagram, &[u8])> {
        let mut at = 0;
        self.datagrams.iter().map(move |datagram| {
            let start = at;
            at += datagram.len as usize;
            (datagram, &self.bytes[start..at])
        })
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.datagrams.clear();
    }
}

/// Where a datagram goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// One peer.
    Peer(Route),
    /// Everyone on the link (multicast, radio broadcast).
    Broadcast,
}

/// Names one transmission until it left the antenna.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TxTicket(pub u32);

/// What a link can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkProfile {
    /// The largest datagram it carries to one peer, in octets.
    pub mtu: usize,
    /// The largest datagram it carries to everyone; 0 if it cannot reach everyone at once.
    pub broadcast_mtu: usize,
    /// It reports [`LinkEvent::Sent`] or [`LinkEvent::Unsent`] for every datagram it took.
    pub confirms_tx: bool,
    /// Datagrams it takes at first; [`LinkProfile::UNLIMITED`] for a link that never has to wait.
    pub credit: u32,
    /// How long a datagram takes.
    pub airtime: Airtime,
    /// The share of the time it may transmit.
    pub duty_cycle: Option<DutyCycle>,
}

/// A legal limit to transmitting: never more than `ppm` of any `window`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DutyCycle {
    /// Parts per million: 10,000 is 1 %.
    pub ppm: u32,
    /// The time over which it is observed: one hour in EN 300 220-2.
    pub window: Duration,
}

impl LinkProfile {
    /// Credit that is never used up.
    pub const UNLIMITED: u32 = u32::MAX;
}

/// A link that never has to wait and reaches one peer at a time, such as UDP without a group.
impl Default for LinkProfile {
    fn default() -> Self {
        LinkProfile {
            mtu: 1400,
            broadcast_mtu: 0,
            confirms_tx: false,
            credit: LinkProfile::UNLIMITED,
            airtime: Airtime::Free,
            duty_cycle: None,
        }
    }
}

/// What a link reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// It works, with this profile.
    Up(LinkProfile),
    /// It does not work for now; nothing is sent to it.
    Down,
    /// It takes that many more datagrams.
    Credit(u32),
    /// The datagram left the antenna.
    Sent(TxTicket),
    /// The datagram never left the antenna and never will: its airtime was not used.
    Unsent(TxTicket),
    /// The link knows who is behind an address (DTLS).
    PeerIdentified {
        /// The peer.
        addr: LinkAddr,
        /// Its proven identity.
        identity: Arc<str>,
    },
    /// The link forgot a peer (DTLS session closed).
    PeerGone {
        /// The peer.
        addr: LinkAddr,
    },
}

/// One connection to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u32);

/// Names a request to a broker until it is settled; unique among the unsettled ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// Names a subscription at a broker; 1..=268,435,455 so that it fits an MQTT 5 subscription identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilterId(pub u32);

/// Names a delivery from a broker that waits for [`BrokerRequest::Ack`]; chosen by the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(pub u64);

/// How a connection is opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnectOptions {
    /// The MQTT client id.
    pub client_id: Arc<str>,
    /// Begin without what the broker kept of an earlier life; reconnects of this port resume.
    pub clean_start: bool,
    /// The will of this connection.
    pub will: Option<Will>,
    /// Publishes of an earlier life that the broker may have: with their packet ids they go on where they were. If two
    /// have the same, the broker is done with the first of them.
    pub restored: Vec<RestoredPublish>,
    /// QoS 2 deliveries of an earlier life that the core took and the broker has not released.
    pub received: Vec<DeliveryId>,
    /// Its QoS 2 publishes are to be sent exactly once, also if this process ends: the port stores their stages.
    pub exactly_once: bool,
    /// PUBCOMP for a QoS 2 delivery waits for [`BrokerRequest::Complete`]: with it the broker may give the packet id to
    /// another message, which a later life would take for the old one.
    pub holds_pubcomp: bool,
    /// Of publishes in the store those with numbers up to this one are of an earlier life.
    pub stored_until: u64,
    /// The gateway works without it: if the broker refuses it, the port says so once and does not try again.
    pub optional: bool,
    /// Whether what is published while it is down waits on disk, for the log; `None` if clients publish nothing over it.
    pub spools: Option<bool>,
}

/// A QoS 2 publish that was under way when the gateway ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredPublish {
    /// For its outcome.
    pub token: Token,
    /// Its packet id in the MQTT session.
    pub packet_id: u16,
    /// PUBREC came: only PUBREL is left.
    pub released: bool,
    /// Full topic name.
    pub topic: Arc<str>,
    /// Retained or not.
    pub retain: bool,
    /// The payload.
    pub payload: Bytes,
    /// Where its stages are kept.
    pub stored: StoredUplink,
}

/// The record of a QoS 2 publish in the store. The port writes it again, with [`StoredUplink::at`] or
/// [`StoredUplink::taken_by`], whenever a packet is about to leave that a later life must know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredUplink {
    /// Its key.
    pub key: StoreKey,
    /// Its value.
    pub value: Bytes,
}

/// A message to publish when a client is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// Where.
    pub topic: Arc<str>,
    /// What.
    pub payload: Bytes,
    /// With which QoS.
    pub qos: QoS,
    /// Retained or not.
    pub retain: bool,
}

/// What the core asks of a broker port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerRequest {
    /// Connect, and stay connected until [`BrokerRequest::Close`].
    Open {
        /// The connection.
        conn: ConnId,
        /// How.
        options: ConnectOptions,
    },
    /// Disconnect in good order, so that no will is published.
    Close {
        /// The connection.
        conn: ConnId,
    },
    /// Publish; with a token the outcome is reported.
    Publish {
        /// The connection.
        conn: ConnId,
        /// Present for QoS 1 and 2.
        token: Option<Token>,
        /// Full topic name.
        topic: Arc<str>,
        /// With which QoS.
        qos: QoS,
        /// Retained or not.
        retain: bool,
        /// The payload.
        payload: Bytes,
        /// Present for QoS 2 if it is to survive this life.
        stored: Option<StoredUplink>,
    },
    /// Subscribe; the outcome is reported.
    Subscribe {
        /// The connection.
        conn: ConnId,
        /// For the outcome.
        token: Token,
        /// Topic filter.
        filter: Arc<str>,
        /// The MQTT 5 subscription identifier.
        id: FilterId,
        /// QoS asked for.
        qos: QoS,
    },
    /// Unsubscribe; the outcome is reported.
    Unsubscribe {
        /// The connection.
        conn: ConnId,
        /// For the outcome.
        token: Token,
        /// Topic filter.
        filter: Arc<str>,
    },
    /// A delivery was taken: acknowledge it to the broker.
    Ack {
        /// The connection.
        conn: ConnId,
        /// Which delivery.
        delivery: DeliveryId,
    },
    /// A later life knows that a delivery is released: PUBCOMP may leave. Answers [`BrokerEvent::Released`] where
    /// [`ConnectOptions::holds_pubcomp`] says so.
    Complete {
        /// The connection.
        conn: ConnId,
        /// Which delivery.
        delivery: DeliveryId,
    },
}

/// What a broker port reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerEvent {
    /// Connected. Credit of the last connection is void: [`BrokerEvent::Credit`] follows.
    Up {
        /// The connection.
        conn: ConnId,
        /// The broker kept the session: its subscriptions stand, unsettled tokens stay open.
        session_present: bool,
        /// QoS 1 and 2 publishes it takes unsettled at once.
        window: u16,
        /// It loses what it settled if this process ends: each settled publish is followed by
        /// [`BrokerEvent::Delivered`] when it is safe to forget it.
        forgets: bool,
    },
    /// Not connected (any more); the port tries again by itself.
    Down {
        /// The connection.
        conn: ConnId,
        /// Why, for the log.
        reason: String,
    },
    /// It takes that many more requests, whatever their kind.
    Credit {
        /// The connection.
        conn: ConnId,
        /// How many more.
        requests: u32,
    },
    /// The broker answered; `Some` is the QoS that a SUBACK granted.
    Settled {
        /// Which request.
        token: Token,
        /// What it said.
        result: Result<Option<QoS>, Refusal>,
    },
    /// The connection's session is gone and with it this request: submit it again.
    Lost {
        /// Which request.
        token: Token,
    },
    /// Everyone a settled publish is for has acknowledged it. Only of ports that settle before that, see
    /// [`BrokerEvent::Up`].
    Delivered {
        /// Which request.
        token: Token,
    },
    /// The broker has forgotten a QoS 2 delivery: it does not come again.
    Released {
        /// The connection.
        conn: ConnId,
        /// Which delivery.
        delivery: DeliveryId,
    },
    /// A message for us.
    Message {
        /// The connection.
        conn: ConnId,
        /// Present for QoS 1 and 2: answer with [`BrokerRequest::Ack`].
        delivery: Option<DeliveryId>,
        /// The subscriptions it came for (MQTT 5); empty if the broker does not say.
        filters: Box<[FilterId]>,
        /// Topic name.
        topic: Arc<str>,
        /// QoS it was delivered with.
        qos: QoS,
        /// The retain bit as delivered.
        retain: bool,
        /// The payload.
        payload: Bytes,
    },
}

/// A broker's no: an MQTT 5 reason code from 0x80 (an MQTT 3.1.1 SUBACK failure is 0x80).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Refusal(pub u8);

impl Refusal {
    /// 0x90: no broker takes this topic name.
    pub const TOPIC_INVALID: Refusal = Refusal(0x90);

    /// No reason of the broker: it closes the connection over the request, again and again (reading A84).
    pub const CONNECTION_CLOSED: Refusal = Refusal(0);

    /// 0x97: the one reason that means "later".
    pub const QUOTA_EXCEEDED: Refusal = Refusal(0x97);
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Refusal::CONNECTION_CLOSED => write!(f, "the broker closes the connection over it"),
            Refusal(reason) => write!(f, "reason 0x{reason:02x}"),
        }
    }
}

/// Names a value in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreKey {
    /// What it is; 0 is not used.
    pub kind: u8,
    /// Which one.
    pub id: u64,
}

impl StoreKey {
    /// The kind of the sessions that the embedded broker keeps for MQTT clients. The core writes and reads others.
    pub const BROKER_SESSION: u8 = 6;
}

/// A change of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreChange {
    /// The key has this value from now on.
    Put(StoreKey, Bytes),
    /// The key has no value any more.
    Delete(StoreKey),
}

/// Names what is to be durable; rising.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What the core wants of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreRequest {
    /// Carry out these changes in this order: after a power cut all are there or none, and none without those of earlier
    /// requests.
    Write {
        /// The changes.
        changes: Vec<StoreChange>,
        /// Report when they are durable; without it there is no hurry.
        ticket: Option<Ticket>,
    },
    /// What a link has used of its duty cycle, and is about to use. Takes the place of the link's last record; answered
    /// by [`StoreEvent::AirtimeStored`] or [`StoreEvent::AirtimeNotStored`]. There is one at a time for each link.
    Airtime {
        /// The link.
        link: LinkId,
        /// What to write. It must survive a loss of power before it is answered.
        record: AirtimeRecord,
    },
}

/// What the store reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreEvent {
    /// Everything up to this ticket is durable.
    Durable(Ticket),
    /// It cannot write for now; it keeps what it was given and tries again.
    Failed,
    /// It writes again.
    Works,
    /// The record of this link is durable.
    AirtimeStored(LinkId),
    /// It could not be written. The link sends within what it was granted before, and asks again after a while.
    AirtimeNotStored(LinkId),
    /// What was found at the start. Comes before the link is [`LinkEvent::Up`]; a link of which nothing was said when
    /// it comes up is taken for [`AirtimeFound::Lost`].
    AirtimeFound(LinkId, AirtimeFound),
}

/// What was known of a link's airtime when the gateway started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AirtimeFound {
    /// The gateway never ran before: nothing was used.
    FirstStart,
    /// The last record, its ages counted from now.
    Record(AirtimeRecord),
    /// It ran before, and what it used is not known: all of it counts as used now.
    Lost,
}

/// What a link used of its duty cycle, as far as it still counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AirtimeRecord {
    /// What was sent, the oldest first. At most 128 entries.
    pub used: Vec<AirtimeUsed>,
    /// May be sent, from the moment of the record on, before there is another one. When the record is read again,
    /// nobody knows whether it was: it counts as sent at that moment.
    pub reserved: Duration,
}

/// Time on air that counts against a duty cycle until its window is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AirtimeUsed {
    /// Time since it ended, or since later.
    pub age: Duration,
    /// How long it was, by [`Share`].
    pub airtime: [Duration; Share::ALL.len()],
}

/// What the core wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// `len` octets were appended to the buffer: one datagram.
    Transmit {
        /// The link.
        link: LinkId,
        /// Where to.
        to: Destination,
        /// Octets appended.
        len: usize,
        /// For [`LinkEvent::Sent`].
        ticket: TxTicket,
    },
    /// For a broker port.
    Broker(BrokerRequest),
    /// For the store.
    Store(StoreRequest),
    /// For logs and event streams.
    Notice(Notice),
}

/// Something a person may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A client is connected.
    Connected {
        /// Its id.
        client: Arc<str>,
        /// Where.
        link: LinkId,
        /// From.
        addr: PeerAddr,
        /// Seconds.
        keep_alive: u16,
        /// As asked for.
        clean: bool,
        /// An earlier session goes on.
        resumed: bool,
        /// Messages waiting for it.
        buffered: usize,
        /// How its CONNECT was received.
        facts: RadioFacts,
    },
    /// A client said goodbye or was told so.
    Disconnected {
        /// Its id.
        client: Arc<str>,
        /// Why.
        reason: &'static str,
    },
    /// A client sleeps.
    Asleep {
        /// Its id.
        client: Arc<str>,
        /// Seconds.
        duration: u16,
    },
    /// A sleeping client is awake for its messages.
    Awake {
        /// Its id.
        client: Arc<str>,
        /// Messages that wait for it.
        buffered: usize,
    },
    /// A client was given what had waited for it: in a wake-up, or after its return by CONNECT.
    Delivered {
        /// Its id.
        client: Arc<str>,
        /// How many messages it took.
        messages: u32,
        /// Octets of their payloads.
        bytes: u64,
        /// How long the oldest had waited.
        waited: Duration,
    },
    /// A message was dropped from what waits for a client, or was not put there.
    Dropped {
        /// The client.
        client: Arc<str>,
        /// Its topic.
        topic: Arc<str>,
        /// Why.
        reason: DropReason,
    },
    /// A client is at another address than before.
    AddressChanged {
        /// Its id.
        client: Arc<str>,
        /// Where it is now.
        link: LinkId,
        /// Where it was.
        old: PeerAddr,
        /// Where it is.
        new: PeerAddr,
    },
    /// A client was silent for too long.
    Lost {
        /// Its id.
        client: Arc<str>,
        /// It had a will, which was published.
        will: bool,
    },
    /// A client was refused.
    Refused {
        /// Its id.
        client: Arc<str>,
        /// Why.
        reason: &'static str,
    },
    /// The broker refused a subscription that the client already counted on.
    SubscriptionRefused {
        /// The topic filter.
        filter: Arc<str>,
        /// The broker's reason.
        refusal: Refusal,
    },
    /// A publish was refused by the broker.
    PublishRefused {
        /// The client.
        client: Arc<str>,
        /// The topic.
        topic: Arc<str>,
        /// The broker's reason.
        refusal: Refusal,
    },
    /// A publish was refused by the broker, and is lost, that nobody waits for any more: it was spooled and its client
    /// had its answer, or it is a will.
    UnheardRefused {
        /// Who published it; of many that come at once only some are named.
        client: Option<Arc<str>>,
        /// The topic.
        topic: Arc<str>,
        /// The broker's reason.
        refusal: Refusal,
    },
    /// The broker refuses a publish for now that nobody waits for any more: it stays in the spool and is sent again.
    /// Told at most once a minute.
    PublishPostponed {
        /// The topic.
        topic: Arc<str>,
        /// The same happened this many times more since it was last told.
        suppressed: u64,
    },
    /// There is no room in the spool for a publish, and nothing that may be dropped for it: its client gets congestion.
    /// Told at most once a minute.
    SpoolFull {
        /// The topic.
        topic: Arc<str>,
        /// The same happened this many times more since it was last told.
        suppressed: u64,
    },
    /// Publishes whose clients had their answers were dropped by a bound of the spool. Told at most once in ten seconds
    /// for each reason.
    SpoolDropped {
        /// Why.
        reason: SpoolDrop,
        /// How many since it was last told.
        messages: u64,
        /// The topic of the last of them.
        topic: Arc<str>,
    },
    /// A connection broke again and again with the same requests under way: those go one at a time now, on a new session,
    /// until the one is found over which the broker closes it (reading A84).
    OneAtATime {
        /// The connection.
        conn: ConnId,
        /// Its MQTT client id.
        client_id: Arc<str>,
        /// How often it broke with one of them.
        breaks: u8,
        /// How many they are.
        requests: usize,
    },
    /// The requests of a connection go together again, and none was found over which the broker closes it.
    NoneToBlame {
        /// The connection.
        conn: ConnId,
        /// Its MQTT client id.
        client_id: Arc<str>,
    },
    /// The broker refuses what the gateway tells of itself: it is silent from now on.
    StatusRefused {
        /// The topic.
        topic: Arc<str>,
        /// The broker's reason.
        refusal: Refusal,
    },
    /// A publish under a predefined topic id that stands for no topic here.
    UnknownTopic {
        /// The client; `None` for QoS −1 from a peer without a session.
        client: Option<Arc<str>>,
        /// From.
        addr: LinkAddr,
        /// The id.
        topic_id: u16,
        /// Why it stands for none.
        reason: NoTopic,
    },
    /// A message for a client does not fit its link (§6.10).
    TooLarge {
        /// The client.
        client: Arc<str>,
        /// The topic.
        topic: Arc<str>,
        /// Octets of the datagram it would take.
        len: usize,
    },
    /// An answer or a beacon does not fit the link. Told at most once a minute for each link.
    AnswerTooLarge {
        /// The link.
        link: LinkId,
        /// To whom; `None` is everyone.
        addr: Option<LinkAddr>,
        /// Octets of the datagram it would take.
        len: usize,
        /// The same happened this many times more since it was last told.
        suppressed: u64,
    },
    /// A link works, for the first time or again.
    LinkUp {
        /// The link.
        link: LinkId,
        /// How long it did not work; `None` at its first time.
        after: Option<Duration>,
    },
    /// A link does not work for now.
    LinkDown {
        /// The link.
        link: LinkId,
        /// Clients that have their session there and are not expired meanwhile.
        clients: usize,
    },
    /// A link waits for its duty cycle. Told at most once in ten minutes for each link.
    DutyCycle {
        /// The link.
        link: LinkId,
        /// Parts per million of the window that were used.
        used_ppm: u32,
        /// Parts per million that may be.
        limit_ppm: u32,
        /// Clients and answers that wait.
        queued: usize,
        /// How long the answer or client at the front has waited.
        oldest: Duration,
        /// When the next datagram can leave.
        wait: Duration,
    },
    /// What a link sent before this start is not known: its duty cycle counts as used up.
    AirtimeLost {
        /// The link.
        link: LinkId,
    },
    /// What a link sends cannot be recorded: it does not send until it can.
    AirtimeNotStored {
        /// The link.
        link: LinkId,
    },
    /// Frames of a forwarder were dropped, or a node behind it was refused. Told at most once a minute for each
    /// forwarder and reason.
    ForwarderRefused {
        /// The configured name; `None` if it is not listed.
        forwarder: Option<Arc<str>>,
        /// Where.
        link: LinkId,
        /// The forwarder.
        addr: LinkAddr,
        /// Why.
        reason: ForwarderRefusal,
        /// The same happened this many times more since it was last told.
        suppressed: u64,
    },
    /// A publish with QoS −1 that no rule allows. Told at most once a minute.
    PublishMinusOneRefused {
        /// Where.
        link: LinkId,
        /// From.
        addr: LinkAddr,
        /// The same happened this many times more since it was last told.
        suppressed: u64,
    },
    /// Another gateway on a link has our gateway id. Told at most once in ten minutes for each link.
    SameGatewayId {
        /// Where.
        link: LinkId,
        /// The other gateway.
        addr: LinkAddr,
        /// The id.
        gateway_id: u8,
    },
    /// A stand-by gateway takes the place of another on a link, or gives it back.
    StandBy {
        /// Where.
        link: LinkId,
        /// The other gateway.
        gateway_id: u8,
        /// True if it was missed, false if it is there again.
        missed: bool,
    },
}

/// Why a predefined topic id stands for no topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoTopic {
    /// Nobody configured it, or not for this client.
    NotConfigured,
    /// Its topic depends on the client, and the publish is from a peer without a session that counts as none (reading
    /// A48).
    NeedsClient,
    /// With the client's id filled in, its topic is no valid name.
    InvalidName,
}

/// Why a message does not wait for a client any more (reading A70).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// A bound of the buffer was reached.
    Full,
    /// It waited too long.
    Expired,
    /// A later one of its topic took its place.
    Superseded,
    /// QoS 0 does not wait for this client.
    Qos0,
}

impl DropReason {
    /// The name used in logs.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::Full => "full",
            DropReason::Expired => "too old",
            DropReason::Superseded => "superseded",
            DropReason::Qos0 => "qos 0",
        }
    }
}

/// Why a forwarder, or a node behind it, was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ForwarderRefusal {
    /// There is a list of forwarders for its link, and it is not on it.
    NotListed,
    /// It sent more frames within a second than it may.
    Rate,
    /// As many nodes behind it have a session as may.
    Nodes,
}

impl ForwarderRefusal {
    /// Every reason, in declaration order: `reason as usize` is its index here.
    pub const ALL: [ForwarderRefusal; 3] = [
        ForwarderRefusal::NotListed,
        ForwarderRefusal::Rate,
        ForwarderRefusal::Nodes,
    ];

    /// The stable name used in counters and logs.
    pub fn name(self) -> &'static str {
        match self {
            ForwarderRefusal::NotListed => "not_listed",
            ForwarderRefusal::Rate => "rate",
            ForwarderRefusal::Nodes => "nodes",
        }
    }
}
