//! The core's configuration: validated values, units in the names.

use core::time::Duration;

use ipnet::IpNet;
use sn_codec::{QoS, TopicId};

use crate::peer::{LinkAddr, LinkId};

/// Everything the core wants to know. Build one from [`GatewayConfig::default`].
#[derive(Debug, Clone, PartialEq)]
pub struct GatewayConfig {
    /// `GwId` in ADVERTISE and GWINFO, 1..=255.
    pub gateway_id: u8,
    /// Time between two ADVERTISEs on links that can broadcast; `None` switches them off (§7.2).
    pub advertise_interval: Option<Duration>,
    /// The gateway in whose place this one stands ready: while its ADVERTISE is heard on a link, this one neither
    /// advertises nor answers searches there (§6.1, reading A80).
    pub stand_by_for: Option<u8>,
    /// Whom GWINFO is sent to (reading A79).
    pub search_reply: SearchReply,
    /// Time between two answers to the SEARCHGWs of one peer, and between two GWINFOs broadcast on a link.
    pub search_reply_interval: Duration,
    /// The broker side.
    pub upstream: UpstreamConfig,
    /// Topic ids that every client knows.
    pub predefined: Vec<PredefinedTopic>,
    /// What holds for some clients only: first match wins.
    pub clients: Vec<ClientRule>,
    /// Who may forward: first match wins. On a link that no rule is for, everyone may (reading A82).
    pub forwarders: Vec<ForwarderRule>,
    /// Who may publish without a session: first match wins. Without any rule everyone may, under predefined ids that
    /// are the same for all clients (reading A48).
    pub qos_minus_one: Vec<QosMinusOneRule>,
    /// Timers and counters of the protocol.
    pub timers: Timers,
    /// What holds for one link only, by [`LinkId`]; a link that is not in the list has nothing of its own.
    pub links: Vec<LinkSettings>,
    /// What was sent is kept by [`StoreRequest::Airtime`](crate::io::StoreRequest::Airtime), so that a restart does
    /// not give a link with a duty cycle more than the law does. Without it every start counts as the first.
    pub keep_airtime: bool,
    /// Bounds on everything that peers can make grow.
    pub limits: Limits,
    /// What is kept for a client until it can take it.
    pub sleep: SleepRules,
    /// Whether a client may turn up under another address.
    pub address_change: AddressChange,
    /// What survives the end of the process; `None` is nothing.
    pub durability: Option<Durability>,
    /// What a peer without a session meets (reading A13).
    pub unknown_sender: UnknownSender,
    /// What the gateway tells of itself at the broker; `None` is nothing.
    pub status: Option<StatusConfig>,
}

/// State of the gateway, its radios, clients and broker connections as retained messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusConfig {
    /// All topics begin with this and a slash: a topic name, without one at its end.
    pub topic: String,
    /// What is not worth telling at once is told that often, if it changed.
    pub interval: Duration,
    /// Clients that have a topic of their own.
    pub clients: usize,
    /// The radios, by [`LinkId`].
    pub radios: Vec<StatusRadio>,
    /// The version of the gateway.
    pub version: String,
}

/// What a radio is called in status messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusRadio {
    /// Its name.
    pub name: String,
    /// Its kind: `udp`, `lora`.
    pub kind: String,
}

/// What survives the end of the process, and how much may wait for the broker on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durability {
    /// The names of the links, by number: a client's address is stored with the name.
    pub links: Vec<String>,
    /// Messages that may wait for the broker.
    pub spool_messages: usize,
    /// Octets of their topics and payloads.
    pub spool_bytes: usize,
    /// A message that waited this long is dropped.
    pub spool_age: Duration,
    /// What happens when a bound is reached.
    pub when_full: SpoolFull,
    /// QoS 0 publishes wait for the broker too.
    pub qos0: bool,
}

impl Default for Durability {
    fn default() -> Self {
        Durability {
            links: Vec::new(),
            spool_messages: 1_000_000,
            spool_bytes: 64 << 20,
            spool_age: Duration::from_secs(7 * 24 * 3600),
            when_full: SpoolFull::Refuse,
            qos0: false,
        }
    }
}

/// What happens to a publish when as many wait for the broker as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpoolFull {
    /// It is answered with congestion.
    Refuse,
    /// The one that waits longest is dropped.
    DropOldest,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        GatewayConfig {
            gateway_id: 1,
            advertise_interval: Some(Duration::from_secs(960)),
            stand_by_for: None,
            search_reply: SearchReply::Unicast,
            search_reply_interval: Duration::from_secs(1),
            upstream: UpstreamConfig::default(),
            predefined: Vec::new(),
            clients: Vec::new(),
            forwarders: Vec::new(),
            qos_minus_one: Vec::new(),
            timers: Timers::default(),
            links: Vec::new(),
            keep_airtime: false,
            limits: Limits::default(),
            sleep: SleepRules::default(),
            address_change: AddressChange::Open,
            durability: None,
            unknown_sender: UnknownSender::Disconnect,
            status: None,
        }
    }
}

impl GatewayConfig {
    /// How often and when something is repeated on a link.
    pub fn retry(&self, link: LinkId) -> Retry {
        let own = self.links.get(usize::from(link.0)).and_then(|link| link.retry);
        own.unwrap_or(Retry {
            first: self.timers.retry_first,
            max: self.timers.retry_max,
            count: self.timers.retry_count,
        })
    }
}

/// What holds for one link.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LinkSettings {
    /// Goes in the place of the retry settings of [`Timers`].
    pub retry: Option<Retry>,
}

/// Tretry and Nretry of the gateway's own messages (§7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Wait before the first retransmission. Links that know their airtime wait longer where the answer takes longer.
    pub first: Duration,
    /// Each further wait is twice the last, up to this.
    pub max: Duration,
    /// Retransmissions before the gateway gives up for now.
    pub count: u8,
}

/// How clients share connections to the broker.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamConfig {
    /// MQTT client id of connection 0; the others append `-1`, `-2`, ….
    pub client_id: String,
    /// Connections to the broker, 1..=64; a client always uses the same one.
    pub connections: u32,
    /// Put in front of every topic that clients publish to; empty for none.
    pub topic_prefix: String,
    /// What happens to QoS 1 and 2 publishes while the broker is away.
    pub when_down: WhenDown,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        UpstreamConfig {
            client_id: "snipe".into(),
            connections: 1,
            topic_prefix: String::new(),
            when_down: WhenDown::Queue,
        }
    }
}

/// What a client's QoS 1 or 2 PUBLISH meets while the broker is away (reading A31).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenDown {
    /// It is stored and acknowledged once that is durable, within the bounds of [`Durability`]; without one, as
    /// [`WhenDown::Queue`].
    Spool,
    /// It waits in memory, unacknowledged, up to [`Limits::queue_messages`] and [`Limits::queue_bytes`].
    Queue,
    /// It is answered with congestion at once.
    Refuse,
}

/// A topic id known in advance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PredefinedTopic {
    /// Not 0 or 65535.
    pub id: TopicId,
    /// Topic name without wildcards; `{client_id}` stands for the client's id.
    pub topic: String,
}

/// What holds for the clients whose id matches.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ClientRule {
    /// An exact client id, or a pattern in which `*` stands for any number of characters and `?` for one.
    pub pattern: String,
    /// Topic ids that only these clients know; they go before the global ones.
    pub predefined: Vec<PredefinedTopic>,
    /// The highest QoS granted to a subscription; `None` is 2.
    pub max_qos: Option<QoS>,
    /// Goes in the place of [`GatewayConfig::sleep`], as a whole.
    pub sleep: Option<SleepRules>,
    /// Goes in the place of [`GatewayConfig::address_change`].
    pub address_change: Option<AddressChange>,
}

/// What is kept for one client until it can take it: while it sleeps, and while it is away with its session kept
/// (§6.14, reading A70). [`Limits::buffer_bytes`] bounds all clients together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SleepRules {
    /// Messages, the one on its way to the client included; at least 1.
    pub max_messages: usize,
    /// Octets of their topics and payloads. A message that is larger reaches no client, asleep or not.
    pub max_bytes: usize,
    /// A message that waited this long is dropped.
    pub max_age: Duration,
    /// What goes when a bound is reached and no QoS 0 message is there to go.
    pub when_full: WhenFull,
    /// What becomes of QoS 0 messages while the client sleeps.
    pub qos0: SleepQos0,
    /// A client that says it sleeps for longer is lost as if it had said this (reading A68).
    pub max_sleep: Duration,
}

impl Default for SleepRules {
    fn default() -> Self {
        SleepRules {
            max_messages: 100,
            max_bytes: 64 << 10,
            max_age: Duration::from_secs(7 * 24 * 3600),
            when_full: WhenFull::Refuse,
            qos0: SleepQos0::KeepAll,
            max_sleep: Duration::from_secs(48 * 3600),
        }
    }
}

/// What goes when a buffer is full; the oldest QoS 0 message always goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The broker keeps the message where it can; where all clients share a connection it cannot, and the message is
    /// dropped as by [`WhenFull::DropNewest`].
    Refuse,
    /// The oldest message.
    DropOldest,
    /// The message that just came.
    DropNewest,
}

/// QoS 0 messages for a client that sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SleepQos0 {
    /// All wait, in order.
    KeepAll,
    /// Of each topic only the latest waits.
    LatestPerTopic,
    /// None waits.
    Drop,
}

/// What a CONNECT or PINGREQ of a connected client from another address meets (readings A11, A16; A17 for what an address
/// is worth).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressChange {
    /// The client is there from now on.
    Open,
    /// The same, unless the client still answers at its old address; a sleeping client may always move.
    Guarded,
    /// Congestion, until the client is lost at its old address.
    Strict,
}

/// What a message meets that only a connected client may send, from a peer that is not (reading A13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownSender {
    /// DISCONNECT, so that it connects again.
    Disconnect,
    /// Nothing. It finds out by itself that it has no session.
    Ignore,
}

/// Whom GWINFO is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchReply {
    /// The client that searches.
    Unicast,
    /// It, and everyone on a link that can broadcast: others that wait to search need not.
    UnicastAndBroadcast,
}

/// Which peers a rule is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerMatch {
    /// Those of this link; `None` is every link.
    pub link: Option<LinkId>,
    /// Those with an IP address of this network; `None` is any address.
    pub source: Option<IpNet>,
}

impl PeerMatch {
    /// True if the rule is for a peer at this address.
    pub fn covers(&self, link: LinkId, addr: &LinkAddr) -> bool {
        self.is_for_link(link)
            && self.source.is_none_or(|network| match addr {
                LinkAddr::Udp(addr) => network.contains(&addr.ip()),
                LinkAddr::Radio(_) | LinkAddr::Wire => false,
            })
    }

    /// True if the rule is for peers of this link.
    pub fn is_for_link(&self, link: LinkId) -> bool {
        self.link.is_none_or(|own| own == link)
    }
}

/// A forwarder, or several that share its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwarderRule {
    /// What people call it.
    pub name: String,
    /// Where it sends from.
    pub peers: PeerMatch,
    /// Nodes behind it that may have a session at once; 0 is no limit.
    pub max_nodes: u32,
    /// Frames taken from it per second; 0 is no limit.
    pub packets_per_second: u32,
}

/// Peers that may publish with QoS −1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QosMinusOneRule {
    /// Who.
    pub peers: PeerMatch,
    /// The client id they count as where a predefined topic or a [`ClientRule`] asks for one. `{address}` stands for
    /// the peer's address, without its port.
    pub client_id: String,
    /// Topic filters of what they may publish to.
    pub topics: Vec<String>,
}

/// Timers and counters (§7.2).
#[derive(Debug, Clone, PartialEq)]
pub struct Timers {
    /// Tretry: wait before the gateway's first retransmission.
    pub retry_first: Duration,
    /// Each further wait is twice the last, up to this.
    pub retry_max: Duration,
    /// Nretry: retransmissions before the gateway gives up for now.
    pub retry_count: u8,
    /// A client is lost after this many times its keep-alive, in percent (150 = 1.5).
    pub keep_alive_tolerance_percent: u32,
    /// How long the session of a client that is not connected is kept.
    pub session_expiry: Duration,
    /// A client that starts a will handshake must finish it within this time.
    pub will_handshake: Duration,
    /// A client with keep-alive 0 is forgotten after this silence (reading A27).
    pub idle_eviction: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Timers {
            retry_first: Duration::from_secs(10),
            retry_max: Duration::from_secs(60),
            retry_count: 3,
            keep_alive_tolerance_percent: 150,
            session_expiry: Duration::from_secs(30 * 24 * 3600),
            will_handshake: Duration::from_secs(40),
            idle_eviction: Duration::from_secs(24 * 3600),
        }
    }
}

/// Bounds on everything that peers can make grow.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Client records, connected or not.
    pub clients: usize,
    /// Clients within a will handshake.
    pub pending_connects: usize,
    /// Clients bound to one IP address at once, on any port and behind any forwarder there; 0 is no limit.
    pub per_source_sessions: u32,
    /// New sessions accepted per second; 0 is no limit.
    pub new_sessions_per_second: u32,
    /// Registered topic ids per client.
    pub topics_per_client: usize,
    /// Subscriptions per client.
    pub subscriptions_per_client: usize,
    /// Octets in a client id (1.2 says 23 characters; longer ones are common, reading A14).
    pub client_id_bytes: usize,
    /// Requests of one client that wait for an answer from the broker (reading A52).
    pub open_requests_per_client: usize,
    /// QoS 1 and 2 publishes that wait for the broker, all clients together.
    pub queue_messages: usize,
    /// Octets of topic and payload of those.
    pub queue_bytes: usize,
    /// Octets of topic and payload of the messages that wait for all clients together; [`SleepRules`] has the bounds of
    /// one client.
    pub buffer_bytes: usize,
    /// Answers to datagrams from unknown peers, per second in total (reading A13).
    pub unknown_sender_answers_per_second: u32,
    /// QoS −1 publishes per second, all links together; 0 is no limit.
    pub qos_minus_one_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            clients: 100_000,
            pending_connects: 1024,
            per_source_sessions: 0,
            new_sessions_per_second: 1000,
            topics_per_client: 1000,
            subscriptions_per_client: 32,
            client_id_bytes: 128,
            open_requests_per_client: 16,
            queue_messages: 10_000,
            queue_bytes: 16 << 20,
            buffer_bytes: 8 << 20,
            unknown_sender_answers_per_second: 100,
            qos_minus_one_per_second: 1000,
        }
    }
}
