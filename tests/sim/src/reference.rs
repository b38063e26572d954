//! The model of what must hold, watching everything that passes the gateway's borders.
//!
//! It sees each datagram and broker event before the gateway does, and each output after. It keeps what a client and a
//! broker could know, not what the gateway does inside, and says which rule an output breaks. References such as `A46` are
//! the readings of the specification in `docs/reading-of-the-spec.md`.

use core::fmt;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use gateway_core::config::{
    AddressChange, ClientRule, Durability, GatewayConfig, Limits, SleepRules, WhenDown, WhenFull,
};
use gateway_core::io::{
    BrokerEvent, BrokerRequest, ConnId, DeliveryId, Destination, FilterId, Notice, Refusal, StoreKey, Token,
    Will,
};
use gateway_core::peer::LinkAddr;
use gateway_core::time::Instant;
use rustc_hash::{FxHashMap, FxHashSet};
use sn_codec::{
    Connect, Direction, Disconnect, Encapsulation, MsgId, MsgType, Packet, Puback, Publish, PublishQoS, QoS,
    Regack, Register, ReturnCode, Suback, TopicFilter, TopicId, TopicRef, WillTopic, topic,
};

use crate::admission::{Challenge, ForwarderLimits, Verdict};
use crate::saved::{SavedPhase, SavedSession, SavedUplink, kind, message_from, message_payload};
use crate::sim_broker::{Publication, as_request, came_before};
use crate::sim_client::{ClientConfig, Presence, Quirks, Uplink, encode};
use crate::{Address, ClientIx};

/// Reading A60: rounds of sends after which a message is dropped.
const ROUNDS: u32 = 6;

/// Reading A16: PINGREQs in a row whose answer waits for a message.
const PINGS_PUT_OFF: usize = 2;
const ROW_OF_PINGS: Duration = Duration::from_secs(60);

/// Reading A71: longest time and most messages of one wake-up.
const WAKE_TIME: Duration = Duration::from_secs(60);
const WAKE_MESSAGES: usize = 100;

/// Longest wake-up with the exchange that is open when the first time is over.
const WAKE_TIME_MAX: Duration = Duration::from_secs(240);

/// How late a timer may be: inputs are handed over in batches.
const LATE: Duration = Duration::from_secs(1);

/// A broken rule.
#[derive(Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which one, in a few words that stay the same.
    pub rule: &'static str,
    /// What happened.
    pub detail: String,
}

impl Violation {
    /// A broken rule.
    pub fn new(rule: &'static str, detail: impl Into<String>) -> Violation {
        Violation {
            rule,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.detail)
    }
}

impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::error::Error for Violation {}

/// Passes if the rule holds.
pub type Check = Result<(), Violation>;

fn ensure(holds: bool, rule: &'static str, detail: impl FnOnce() -> String) -> Check {
    if holds {
        Ok(())
    } else {
        Err(Violation::new(rule, detail()))
    }
}

/// Everything that the outputs are compared with.
#[derive(Debug)]
pub struct Reference {
    config: GatewayConfig,
    mtu: usize,
    shutting_down: bool,
    clients: Vec<ClientModel>,
    /// Which of them each client of the world is; several may have one id.
    models: Vec<usize>,
    forwarders: ForwarderLimits,
    by_addr: FxHashMap<Address, usize>,
    uplinks: FxHashMap<Bytes, UplinkModel>,
    wills: FxHashMap<Bytes, usize>,
    messages: FxHashMap<Bytes, MessageModel>,
    tokens: FxHashMap<Token, TokenModel>,
    filters: FxHashMap<FilterId, Arc<str>>,
    /// The broker refused a filter, in whichever life of the gateway: who sleeps learns of it when it wakes.
    refused_filter: bool,
    /// Under which number each was asked for last.
    numbers: FxHashMap<Arc<str>, FilterId>,
    conns: BTreeMap<ConnId, ConnModel>,
    published: u64,
    ingress: u64,
    /// What is to survive does.
    durable: bool,
    /// Messages for the broker that were durable here at some time.
    spooled: FxHashSet<Bytes>,
    /// Deliveries that the broker has no acknowledgement for.
    unacknowledged: FxHashMap<(ConnId, DeliveryId), Bytes>,
    /// What they brought when the gateway ended: the broker sends it again, if it keeps the session.
    orphans: FxHashSet<Bytes>,
    /// Messages that may have been taken for released ones.
    pub taken_for_another: usize,
    /// What the broker forgot before it had an acknowledgement.
    fragile: FxHashSet<Bytes>,
    /// A session at the broker was lost at some time: then exactly once is not promised.
    pub sessions_lost: bool,
    /// The disk did not work at some time: nor is it then.
    pub disk_failed: bool,
    /// The disk does not work at the moment.
    pub disk_fails: bool,
    /// It did not work at some time in this life of the gateway: the next one may have forgotten.
    pub disk_failed_since_start: bool,
    /// Messages given up by rule: unanswered REGISTER (A40), poison (A60), full buffer (A70), too large (A63).
    pub given_up: usize,
}

/// What is known of one client.
#[derive(Debug)]
struct ClientModel {
    id: Arc<str>,
    quirks: Quirks,
    sends_per_round: u32,
    bound: Option<Address>,
    challenge: Option<Challenge>,
    phase: Phase,
    /// How long it said it would sleep.
    sleep: Duration,
    /// A DISCONNECT with a duration has not been answered.
    sleep_answer_due: bool,
    /// The PINGREQ that began this wake-up.
    woken: Instant,
    /// The PINGREQ before it, if this one may as well be a repeat of that.
    woken_first: Instant,
    /// PINGREQs with its id while active, within a minute and since it last took a message (A16).
    named_pings: Vec<Instant>,
    /// When the last of them came, if its PINGRESP follows what waited then.
    ping_put_off: Option<Instant>,
    /// PUBLISHes begun in this wake-up.
    wake_messages: usize,
    /// The last PINGRESP that ended a wake-up: its sleep timer starts there (§6.14).
    asleep_since: Instant,
    clean: bool,
    keep_alive: Duration,
    last_heard: Instant,
    connacks_due: u32,
    /// CONNECTs with a value that cannot be used, not answered yet.
    bad_connects: u32,
    /// Nothing of the handshake is missing: what follows counts, even if the CONNACK has not left yet.
    handshake_done: bool,
    will_topic_given: bool,
    /// Nothing was received since the CONNACK (A18).
    fresh: bool,
    /// Since when the CONNECT of a connected client that was fresh is being handled: given up, it is as before.
    resumes_since: Option<Instant>,
    /// What it was before that.
    resumed: Phase,
    /// Will, CleanSession and Duration of the last CONNECT.
    parameters: Option<(bool, bool, u16)>,
    said_goodbye: bool,
    /// Nothing has come since its DISCONNECT that begins another session.
    gone: bool,
    sent_away: bool,
    /// The answer to a DISCONNECT has not left yet, and the next CONNECT is here.
    late_goodbye: bool,
    /// Something else than CONNECT came from there without a session, so a DISCONNECT may be on its way.
    stray: Option<Address>,
    /// PUBLISHes received, by message id.
    up: BTreeMap<MsgId, UpExchange>,
    /// How often each message that a clean session gave up is still to be handed to the broker.
    abandoned: FxHashMap<Bytes, u32>,
    last_finished: Option<(MsgId, Bytes)>,
    /// Answers that requests allow, by type of the answer.
    due: BTreeMap<(MsgType, MsgId), u32>,
    registers: BTreeMap<MsgId, String>,
    subscribes: BTreeMap<MsgId, Asked>,
    /// Accepted towards the client and not given back.
    subs: BTreeMap<String, Sub>,
    /// Asked for in this session and not refused or given back, acknowledged or not.
    maybe: BTreeSet<String>,
    /// Every filter ever asked for, with the highest QoS.
    ever: BTreeMap<String, QoS>,
    /// Every normal id this client was ever told.
    names: BTreeMap<TopicId, String>,
    /// Names the client refused in this connection (A40).
    refused_names: BTreeSet<String>,
    /// Names whose id it was told in this session (A40).
    told: BTreeSet<String>,
    /// Those told before the gateway was restarted.
    stale_names: BTreeMap<TopicId, String>,
    /// An id of an earlier record came again for another name: without persistence that is left to chance (A35).
    ids_collided: bool,
    /// Those confirmed in this connection (A39).
    confirmed: BTreeSet<TopicId>,
    ignores_register: bool,
    /// It answered one, so an unanswered one was lost.
    answers_register: bool,
    no_dup: bool,
    down: Option<DownExchange>,
    started: FxHashMap<Bytes, Started>,
    owed: BTreeMap<Bytes, Owed>,
    will: Option<Will>,
    /// Those that the gateway owes the broker since it said that the client is lost.
    wills_due: Vec<Will>,
    /// Those that it has handed over.
    wills_emitted: Vec<Will>,
    /// Those that may come again, since the gateway ended before it could note that they went.
    wills_again: Vec<Will>,
    /// How often a will was due.
    losses: u32,
    emitted_order: [u64; 3],
    /// QoS 2 messages that it has, by message id.
    received: BTreeSet<MsgId>,
    /// Its session went on in another life of the gateway.
    restored: bool,
    /// That one takes it for asleep, since the power went before its return was durable.
    thought_asleep: bool,
    /// What it was when its record was written, by the value in the store.
    saved: FxHashMap<Bytes, SavedModel>,
}

/// What a record in the store stands for.
#[derive(Debug, Clone)]
struct SavedModel {
    bound: Option<Address>,
    parameters: Option<(bool, bool, u16)>,
    will: Option<Will>,
    subs: BTreeMap<String, Sub>,
    maybe: BTreeSet<String>,
    names: BTreeMap<TopicId, String>,
    confirmed: BTreeSet<TopicId>,
    ignores_register: bool,
    no_dup: bool,
    losses: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No session, as far as outputs tell.
    None,
    /// Between CONNECT and CONNACK.
    Setup,
    Active,
    /// After DISCONNECT with a duration: answers only.
    Asleep,
    /// From PINGREQ to PINGRESP.
    Awake,
    /// The gateway said that it lost the client.
    Lost,
}

impl Phase {
    fn is_connected(self) -> bool {
        matches!(self, Phase::Active | Phase::Asleep | Phase::Awake)
    }
}

/// A SUBSCRIBE that was received.
#[derive(Debug, Clone)]
struct Asked {
    filter: String,
    qos: QoS,
    /// By name, so that the SUBACK assigns an id; predefined and short ones are echoed (4.7).
    named: bool,
    broker_was_away: bool,
    /// What the client held before, which an answer of congestion leaves to it.
    before: Option<Sub>,
    /// It had asked for it before, acknowledged or not.
    asked_before: bool,
    answered: bool,
    /// UNSUBSCRIBE came before the answer.
    given_back: bool,
}

#[derive(Debug, Clone)]
struct Sub {
    granted: QoS,
}

#[derive(Debug)]
struct UpExchange {
    payload: Bytes,
    /// Messages that had the id before; the answer to one may be on its way.
    previous: Vec<Bytes>,
    qos: QoS,
    /// Handed to the broker.
    sent: bool,
    finished: bool,
}

#[derive(Debug)]
struct DownExchange {
    kind: DownKind,
    msg_id: MsgId,
    payload: Option<Bytes>,
    topic: String,
    /// When it was first sent.
    began: Instant,
    sends: u32,
    /// Sends since the client was last heard.
    unheard: u32,
    last_sent: Instant,
    /// The last PUBLISH had it.
    dup: bool,
    /// Something the client sent asks for a repeat at once.
    due: bool,
    closed: bool,
    /// From before the last CONNECT: may be continued or not.
    stale: bool,
    /// Which round it is in cannot be told.
    unsure: bool,
    /// Back in the queue it is too old to be begun again from then on (A70).
    expires: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DownKind {
    Register,
    Publish(QoS),
    /// After PUBREC.
    Pubrel,
}

#[derive(Debug, Default)]
struct Started {
    exchanges: usize,
    msg_id: Option<MsgId>,
    /// Exchanges that a new session interrupted.
    interrupted: usize,
    acknowledged: bool,
    /// PUBREL was sent.
    released: bool,
    /// The client did not know its topic id, so it came again under another message id (A41).
    unknown_topic: bool,
    /// That topic's name.
    refused_as: String,
    /// It was on its way when the client began a clean session that looked like the repeat of its last CONNECT (A18).
    resumed: bool,
}

#[derive(Debug, Clone)]
struct Owed {
    topic: String,
    since: Instant,
}

/// A message of a client's application.
#[derive(Debug)]
struct UplinkModel {
    client: usize,
    topic: String,
    qos: PublishQoS,
    retain: bool,
    /// How often the datagrams received allow it to be published.
    allowed: u32,
    /// The same, not counting what restarts of the gateway explain.
    meant: u32,
    emitted: u32,
    settled_ok: u32,
    /// Its client has an acknowledgement.
    answered: bool,
    refused: Option<Refusal>,
    /// When it was first received; another time counts if that was refused.
    order: Option<u64>,
    /// One copy was refused and another may be queued, so any order is right.
    any_order: bool,
}

/// A message from the broker.
#[derive(Debug, Default)]
struct MessageModel {
    topic: String,
    /// When it came last.
    since: Instant,
    publications: BTreeSet<Publication>,
    /// Further copies, one per filter, of which it is not sure whether they are for the same clients.
    uncertain_copies: usize,
    highest: QoS,
    retain_seen: [bool; 2],
}

#[derive(Debug)]
struct TokenModel {
    conn: ConnId,
    request: BrokerRequest,
    order: u64,
    state: TokenState,
    /// Which PUBLISH of its client it carries.
    msg_id: Option<MsgId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenState {
    Open,
    Lost,
}

#[derive(Debug, Default)]
struct ConnModel {
    up: bool,
    /// Counts disconnections, so that "was away meanwhile" can be told.
    subscribed: BTreeSet<Arc<str>>,
    /// Order of the last resubmission in this connection; of each client, where what is stored has a lane of its own.
    resubmitted: BTreeMap<usize, u64>,
}

impl Reference {
    /// A model of a gateway that has this configuration and one link.
    pub fn new(config: GatewayConfig, mtu: usize) -> Reference {
        let config_durable = config.durability.is_some();
        Reference {
            forwarders: ForwarderLimits::new(&config),
            config,
            mtu,
            shutting_down: false,
            clients: Vec::new(),
            models: Vec::new(),
            by_addr: FxHashMap::default(),
            uplinks: FxHashMap::default(),
            wills: FxHashMap::default(),
            messages: FxHashMap::default(),
            tokens: FxHashMap::default(),
            filters: FxHashMap::default(),
            refused_filter: false,
            numbers: FxHashMap::default(),
            conns: BTreeMap::new(),
            published: 0,
            ingress: 0,
            durable: config_durable,
            spooled: FxHashSet::default(),
            unacknowledged: FxHashMap::default(),
            orphans: FxHashSet::default(),
            taken_for_another: 0,
            fragile: FxHashSet::default(),
            sessions_lost: false,
            disk_failed: false,
            disk_fails: false,
            disk_failed_since_start: false,
            given_up: 0,
        }
    }

    // What the world announces.

    /// A client exists. One with the id of another is the same to the gateway.
    pub fn add_client(&mut self, client: ClientIx, config: &ClientConfig) {
        assert_eq!(client.0, self.models.len(), "clients are added in order");
        let same = self.clients.iter().position(|model| *model.id == *config.id);
        self.models.push(same.unwrap_or(self.clients.len()));
        if same.is_none() {
            let sends_per_round = u32::from(self.config.timers.retry_count) + 1;
            self.clients.push(ClientModel::new(config, sends_per_round));
        }
    }

    /// A client may send from this address from now on; no other client ever does.
    pub fn add_address(&mut self, client: ClientIx, addr: Address) {
        self.by_addr.insert(addr, self.models[client.0]);
    }

    fn model(&self, client: ClientIx) -> &ClientModel {
        &self.clients[self.models[client.0]]
    }

    /// A client's application has a message.
    pub fn add_uplink(&mut self, client: ClientIx, uplink: &Uplink, topic: String) {
        let model = UplinkModel {
            client: self.models[client.0],
            topic,
            qos: uplink.qos,
            retain: uplink.retain,
            allowed: 0,
            meant: 0,
            emitted: 0,
            settled_ok: 0,
            answered: false,
            refused: None,
            order: None,
            any_order: false,
        };
        self.uplinks.insert(uplink.payload.clone(), model);
    }

    /// A client has a will with this message.
    pub fn add_will(&mut self, client: ClientIx, message: Bytes) {
        self.wills.insert(message, self.models[client.0]);
    }

    /// From now on a client may take the id of one topic for that of another.
    pub fn confuse_ids(&mut self, client: ClientIx) {
        self.clients[self.models[client.0]].ids_collided = true;
    }

    /// The gateway ended without a word, and another one is in its place that knows nothing.
    pub fn restart(&mut self) {
        self.forwarders = ForwarderLimits::new(&self.config);
        self.conns.clear();
        self.tokens.clear();
        self.filters.clear();
        for uplink in self.uplinks.values_mut() {
            uplink.order = None;
        }
        for client in &mut self.clients {
            client.restart();
        }
    }

    /// The gateway writes a client's record.
    pub fn on_saved(&mut self, value: &Bytes) {
        let id = SavedSession::decode(value).map(|session| session.id);
        if let Some(client) = self.clients.iter_mut().find(|c| id.as_deref() == Some(&*c.id)) {
            let saved = SavedModel {
                bound: client.bound.clone(),
                parameters: client.parameters,
                will: client.will.clone(),
                subs: client.subs.clone(),
                maybe: client.maybe.clone(),
                names: client.names.clone(),
                confirmed: client.confirmed.clone(),
                ignores_register: client.ignores_register,
                no_dup: client.no_dup,
                losses: client.losses,
            };
            client.saved.insert(value.clone(), saved);
        }
    }

    /// Something is durable, and the gateway is about to be told.
    pub fn on_durable(&mut self) {
        self.unsaid_subacks(|asked| asked.broker_was_away);
    }

    /// SUBACKs that are due now. In the middle of a handshake they are not sent: the client asks again.
    fn unsaid_subacks(&mut self, due: impl Fn(&Asked) -> bool) {
        for client in &mut self.clients {
            if client.phase == Phase::Setup && !client.handshake_done {
                let asked = client.subscribes.values_mut();
                asked
                    .filter(|asked| due(asked))
                    .for_each(|asked| asked.answered = true);
            }
        }
    }

    /// A message for the broker is durable, and the gateway is about to be told.
    pub fn on_spooled(&mut self, saved: &SavedUplink) {
        let payload = &saved.payload;
        self.spooled.insert(payload.clone());
        if saved.qos == QoS::AtLeastOnce as u8
            && let Some(uplink) = self.uplinks.get(payload)
        {
            let client = &mut self.clients[uplink.client];
            let open = |(_, e): &(&MsgId, &UpExchange)| e.payload == *payload && !e.finished;
            let msg_id = client.up.iter().find(open).map(|(id, _)| *id);
            client.settled(msg_id, payload);
        }
    }

    /// The gateway ended, and another one is in its place that found these values.
    ///
    /// # Errors
    /// Something that was promised is not among them.
    pub fn restore(&mut self, now: Instant, values: &BTreeMap<StoreKey, Bytes>) -> Check {
        self.forwarders = ForwarderLimits::new(&self.config);
        self.conns.clear();
        self.tokens.clear();
        // Between PUBREL and the moment when that is durable a message may come under the name of the one that was
        // released. If the gateway ends then, the next takes it for that one: the port has answered PUBREL at once.
        let released = |id: u64| StoreKey {
            kind: kind::RELEASED,
            id: id >> 24,
        };
        let known: FxHashSet<(ConnId, DeliveryId)> = values
            .iter()
            .filter(|(key, _)| key.kind == kind::MESSAGE && !values.contains_key(&released(key.id)))
            .filter_map(|(_, value)| message_from(value))
            .map(|(conn, delivery)| (ConnId(conn), DeliveryId(delivery)))
            .collect();
        for (name, payload) in self.unacknowledged.drain() {
            match known.contains(&name) {
                true => {
                    self.taken_for_another += 1;
                    self.fragile.insert(payload);
                }
                false => {
                    self.orphans.insert(payload);
                }
            }
        }
        let stored: FxHashSet<Bytes> = values
            .iter()
            .filter(|(key, _)| key.kind == kind::MESSAGE)
            .filter_map(|(_, value)| message_payload(value))
            .collect();
        // What neither the broker nor the store was sure of: the broker sends it again.
        self.orphans.retain(|payload| !stored.contains(payload));
        self.fragile.retain(|payload| !stored.contains(payload));
        for client in &mut self.clients {
            let gone = |payload: &Bytes| self.orphans.contains(payload) || self.fragile.contains(payload);
            client.owed.retain(|payload, _| !gone(payload));
        }
        self.fragile.clear();
        let of = |kind: u8| {
            values
                .iter()
                .filter(move |(key, _)| key.kind == kind)
                .map(|(_, value)| value)
        };
        let spooled: FxHashSet<Bytes> = of(kind::UPLINK)
            .filter_map(|value| Some(SavedUplink::decode(value)?.payload))
            .collect();
        for uplink in self.uplinks.values_mut() {
            // What is in the store may be sent again.
            uplink.allowed = uplink.allowed.saturating_mul(2);
        }
        for (payload, uplink) in &mut self.uplinks {
            // What is not there and was not acknowledged comes again from its client.
            if !uplink.answered && !spooled.contains(payload) {
                uplink.order = None;
            }
        }
        let mut sessions: BTreeMap<String, (SavedSession, &Bytes)> = BTreeMap::new();
        for value in of(kind::SESSION) {
            if let Some(session) = SavedSession::decode(value) {
                sessions.insert(session.id.clone(), (session, value));
            }
        }
        let failed = core::mem::take(&mut self.disk_failed_since_start);
        for client in &mut self.clients {
            let found = sessions.remove(&*client.id);
            // Else nothing waits on the disk for the broker.
            let spooled = (self.config.upstream.when_down == WhenDown::Spool).then_some(&spooled);
            client.restore(now, found, spooled, self.disk_fails, failed)?;
        }
        self.disk_fails = false;
        Ok(())
    }

    /// The gateway was told to stop.
    pub fn shut_down(&mut self) {
        self.shutting_down = true;
    }

    // Inputs of the gateway.

    /// A datagram was handed to the gateway, and nothing taken from it since.
    ///
    /// # Errors
    /// What the gateway made of it was not its to decide.
    pub fn on_datagram(&mut self, now: Instant, from: &LinkAddr, datagram: &[u8], verdict: Verdict) -> Check {
        self.pass_time(now);
        let framed = Encapsulation::split(datagram).is_ok_and(|(encapsulation, _)| encapsulation.is_some());
        if framed && !self.forwarders.takes_frame(now) {
            return Ok(());
        }
        let (encapsulation, packet) = match sn_codec::decode_for_gateway(datagram) {
            Ok(decoded) => decoded,
            Err(error) => {
                if let Some(answer) = error.answer {
                    self.on_bad_value(now, from, datagram, &answer);
                }
                return Ok(());
            }
        };
        let node = encapsulation.map(|encapsulation| encapsulation.wireless_node_id);
        let from = &Address::new(from.clone(), node);
        let Some(&ix) = self.by_addr.get(from) else {
            return Ok(());
        };
        self.ingress += 1;
        self.clients[ix].end_of_setup(now, &self.config);
        if let Packet::Connect(connect) = packet
            && !self.lets_connect(now, ix, from, connect, verdict)?
        {
            return Ok(());
        }
        if let Packet::Pingreq(ping) = packet
            && ping.client_id == Some(&self.clients[ix].id)
        {
            self.lets_wake(ix, from, verdict)?;
        }
        let client = &mut self.clients[ix];
        let bound = client.bound.as_ref() == Some(from);
        if let Packet::Pingreq(ping) = packet
            && ping.client_id.is_some_and(|id| *id != *client.id)
        {
            // A16: whoever that is, it has no session here.
            client.stray = Some(from.clone());
            return Ok(());
        }
        let nowhere = !bound || matches!(client.phase, Phase::None | Phase::Lost);
        if nowhere && answered_by_disconnect(&packet) {
            client.stray = Some(from.clone());
        }
        if bound {
            if !matches!(
                packet,
                Packet::SearchGw(_) | Packet::Advertise(_) | Packet::GwInfo(_)
            ) {
                client.challenge = None;
            }
            let setting_up = client.phase == Phase::Setup && !client.handshake_done;
            client.fresh = match packet {
                Packet::Connect(_) => true,
                Packet::WillTopic(_) | Packet::WillMsg(_) if setting_up => true,
                Packet::WillMsg(_) => client.fresh,
                _ => client.fresh && setting_up,
            };
            client.heard(now);
        }
        if let Packet::Publish(publish) = packet {
            self.on_client_publish(ix, bound, publish);
            return Ok(());
        }
        if bound {
            let names = Names {
                rules: &self.config.clients,
                config: &self.config,
            };
            client.on_packet(now, packet, &names);
            if let Packet::Subscribe(subscribe) = packet
                && let Some(asked) = client.subscribes.get_mut(&subscribe.msg_id)
            {
                asked.broker_was_away |= self.conns.get(&ConnId(0)).is_none_or(|conn| !conn.up);
            }
        }
        Ok(())
    }

    /// What becomes true by time alone.
    fn pass_time(&mut self, now: Instant) {
        let max_age = self.config.sleep.max_age;
        let guarded = self.config.address_change == AddressChange::Guarded;
        // Looking at all clients each time would be slow where there are many.
        if !guarded && max_age >= SleepRules::default().max_age {
            return;
        }
        for client in &mut self.clients {
            // A70: what waited too long is dropped.
            let before = client.owed.len();
            client.owed.retain(|_, owed| now < owed.since + max_age);
            self.given_up += before - client.owed.len();
            // A11: no answer from the old address.
            if let Some(challenge) = client.challenge.take_if(|challenge| now >= challenge.until) {
                let id = client.id.clone();
                client.on_connect(challenge.until, &challenge.from, challenge.connect(&id));
                client.heard(challenge.until);
                client.fresh = true;
            }
        }
    }

    /// A CONNECT: true if the client is there from now on.
    fn lets_connect(
        &mut self,
        now: Instant,
        ix: usize,
        from: &Address,
        connect: Connect<'_>,
        verdict: Verdict,
    ) -> Result<bool, Violation> {
        let (certain, possible) = self.nodes_besides(ix);
        let max_nodes = self.forwarders.max_nodes().filter(|_| from.node.is_some());
        let client = &mut self.clients[ix];
        let behind = client.bound.as_ref().is_some_and(|bound| bound.node.is_some());
        let elsewhere = client.bound.as_ref().is_some_and(|bound| bound != from);
        let connected = elsewhere && client.phase.is_connected() && !client.gone;
        let maybe_connected = elsewhere && !matches!(client.phase, Phase::None | Phase::Lost);
        let told = || {
            format!(
                "{connect:?} from {from}, {:?} at {:?}, {possible} other nodes, {max_nodes:?} allowed",
                client.phase, client.bound
            )
        };
        let full = max_nodes.is_some_and(|max| possible >= max);
        let (may_refuse, must_refuse) = match self.config.address_change {
            AddressChange::Strict => (maybe_connected, connected),
            AddressChange::Guarded => {
                let other = client
                    .challenge
                    .as_ref()
                    .is_some_and(|challenge| challenge.from != *from);
                (other && elsewhere, other && elsewhere)
            }
            AddressChange::Open => (false, false),
        };
        if verdict.refused {
            // A node that makes room by moving within the forwarder is let in.
            ensure(may_refuse || full, "nobody is refused without a reason", told)?;
            client.bad_connects += u32::from(!elsewhere);
            return Ok(false);
        }
        ensure(!must_refuse, "a session stays where it is (A11)", told)?;
        let crowded = max_nodes.is_some_and(|max| certain >= max) && !behind;
        ensure(!crowded, "a forwarder has no more nodes than allowed (A82)", told)?;
        if self.config.address_change == AddressChange::Guarded && connected && client.phase == Phase::Active
        {
            match &mut client.challenge {
                Some(challenge) => {
                    (challenge.will, challenge.clean_session) = (connect.will, connect.clean_session);
                    challenge.duration = connect.duration;
                }
                None => client.challenge = Some(Challenge::new(now, from, connect, &self.config)),
            }
            return Ok(false);
        }
        client.challenge = None;
        client.on_connect(now, from, connect);
        Ok(true)
    }

    /// A PINGREQ with the client's id: its network may have given it another address while it slept (A16).
    fn lets_wake(&mut self, ix: usize, from: &Address, verdict: Verdict) -> Check {
        let (_, possible) = self.nodes_besides(ix);
        let max_nodes = self.forwarders.max_nodes().filter(|_| from.node.is_some());
        let client = &mut self.clients[ix];
        let sleeps = matches!(client.phase, Phase::Asleep | Phase::Awake) && !client.gone;
        if !sleeps || client.bound.as_ref() == Some(from) {
            return Ok(());
        }
        let strict = self.config.address_change == AddressChange::Strict;
        let full = max_nodes.is_some_and(|max| possible >= max);
        let right = if verdict.moved { !strict } else { strict || full };
        ensure(right, "a sleeper wakes where it is (A16)", || {
            format!("{} at {from}: {verdict:?}", client.id)
        })?;
        if verdict.moved {
            client.bound = Some(from.clone());
        }
        Ok(())
    }

    /// Other clients behind forwarders: those that are connected, and those whose record may still be bound there.
    fn nodes_besides(&self, ix: usize) -> (usize, usize) {
        let others = self.clients.iter().enumerate().filter(|(at, _)| *at != ix);
        let behind = others
            .map(|(_, client)| client)
            .filter(|client| client.bound.as_ref().is_some_and(|bound| bound.node.is_some()));
        let connected = |client: &&ClientModel| client.phase.is_connected() && !client.gone;
        (behind.clone().filter(connected).count(), behind.count())
    }

    /// The layout of a message and a value that is none: its sender was heard all the same.
    fn on_bad_value(&mut self, now: Instant, from: &LinkAddr, datagram: &[u8], answer: &Packet<'_>) {
        let Ok((encapsulation, _)) = Encapsulation::split(datagram) else {
            return;
        };
        let node = encapsulation.map(|encapsulation| encapsulation.wireless_node_id);
        let from = Address::new(from.clone(), node);
        if let Some(client) = self.by_addr.get(&from).map(|ix| &mut self.clients[*ix])
            && client.bound.as_ref() == Some(&from)
        {
            let msg_id = match answer {
                // A CONNECT that cannot be used changes nothing for who is connected.
                Packet::Connack(_) => return client.bad_connects += 1,
                Packet::Regack(regack) => regack.msg_id,
                Packet::Puback(puback) => puback.msg_id,
                Packet::Suback(suback) => suback.msg_id,
                Packet::Unsuback(msg_id) => *msg_id,
                _ => MsgId(0),
            };
            *client.due.entry((answer.msg_type(), msg_id)).or_insert(0) += 1;
            client.last_heard = now;
            client.fresh = false;
            client.challenge = None;
        }
    }

    fn on_client_publish(&mut self, ix: usize, bound: bool, publish: Publish<'_>) {
        let client = &mut self.clients[ix];
        let Some(uplink) = self.uplinks.get_mut(publish.data) else {
            return;
        };
        let PublishQoS::Level(qos) = publish.qos else {
            uplink.allowed += 1;
            uplink.meant += 1;
            return;
        };
        if !bound || !client.accepts() {
            return;
        }
        *client.due.entry((MsgType::Puback, publish.msg_id)).or_insert(0) += 1;
        let same = client
            .up
            .get(&publish.msg_id)
            .filter(|open| open.payload == publish.data);
        let known = match (qos, same) {
            (QoS::AtMostOnce, _) => false,
            // A46: what waits for the broker is swallowed, and a repeat of the last one only acknowledged.
            (QoS::AtLeastOnce, Some(open)) if !open.finished => true,
            (QoS::AtLeastOnce, _) => {
                publish.dup
                    && client
                        .last_finished
                        .as_ref()
                        .is_some_and(|(id, payload)| *id == publish.msg_id && payload == publish.data)
            }
            // A46: held until PUBREL.
            (QoS::ExactlyOnce, Some(open)) => !open.finished,
            (QoS::ExactlyOnce, None) => false,
        };
        if known {
            return;
        }
        uplink.allowed += 1;
        uplink.meant += 1;
        uplink.order.get_or_insert(self.ingress);
        if qos != QoS::AtMostOnce {
            let payload = Bytes::copy_from_slice(publish.data);
            let before = client.up.remove(&publish.msg_id);
            let previous = before.map(|before| [before.previous, vec![before.payload]].concat());
            let previous = previous.unwrap_or_default();
            client.up.insert(
                publish.msg_id,
                UpExchange {
                    payload,
                    previous,
                    qos,
                    sent: false,
                    finished: false,
                },
            );
        }
    }

    /// An event is about to be handed to the gateway.
    pub fn on_broker_event(&mut self, now: Instant, event: &BrokerEvent, publication: Option<Publication>) {
        match event {
            BrokerEvent::Up {
                conn,
                session_present,
                ..
            } => {
                let model = self.conns.entry(*conn).or_default();
                model.up = true;
                model.resubmitted.clear();
                if !session_present {
                    model.subscribed.clear();
                    if *conn == ConnId(0) {
                        // The broker forgot what it had not been answered for, and so did the gateway.
                        self.given_up += self.orphans.drain().count();
                        // As long as the gateway lives it has the rest.
                        self.fragile
                            .extend(self.unacknowledged.drain().map(|(_, payload)| payload));
                    }
                }
            }
            BrokerEvent::Down { conn, .. } => {
                self.conns.entry(*conn).or_default().up = false;
                // A31: what is asked for meanwhile, or was and is not answered yet, is answered at once.
                for client in &mut self.clients {
                    client
                        .subscribes
                        .values_mut()
                        .for_each(|asked| asked.broker_was_away = true);
                }
            }
            BrokerEvent::Credit { .. } | BrokerEvent::Delivered { .. } | BrokerEvent::Released { .. } => {}
            BrokerEvent::Settled { token, result } => self.on_settled(*token, *result),
            BrokerEvent::Lost { token } => {
                // A publish comes again under its token; subscriptions may be asked for anew.
                self.tokens
                    .retain(|t, model| t != token || matches!(model.request, BrokerRequest::Publish { .. }));
                if let Some(model) = self.tokens.get_mut(token) {
                    model.state = TokenState::Lost;
                }
            }
            BrokerEvent::Message {
                conn,
                delivery,
                filters,
                topic,
                qos,
                retain,
                payload,
            } => {
                if let Some(delivery) = delivery {
                    // With QoS 1 what comes again over another connection has another name.
                    let before = |((of, name), known): (&(ConnId, DeliveryId), &Bytes)| {
                        let earlier = of == conn && known == payload && came_before(*name, *delivery);
                        earlier.then_some((*of, *name))
                    };
                    if let Some(before) = self.unacknowledged.iter().find_map(before) {
                        self.unacknowledged.remove(&before);
                    }
                    self.unacknowledged.insert((*conn, *delivery), payload.clone());
                }
                let again = self.orphans.remove(payload);
                let message = self.messages.entry(payload.clone()).or_default();
                message.topic = topic.to_string();
                message.since = now;
                message.highest = message.highest.max(*qos);
                message.retain_seen[usize::from(*retain)] = true;
                let new = publication.is_none_or(|p| message.publications.insert(p)) || again;
                // While a SUBSCRIBE is unanswered nobody can tell whether another copy comes for its filter.
                let unanswered = self.tokens.values().any(|model| match &model.request {
                    BrokerRequest::Subscribe { filter, .. } => topic::matches(filter, topic),
                    _ => false,
                });
                message.uncertain_copies += usize::from(!new && unanswered);
                if new && !retain {
                    self.owe(now, filters, topic, *qos, payload);
                }
            }
        }
    }

    fn on_settled(&mut self, token: Token, result: Result<Option<QoS>, Refusal>) {
        let Some(model) = self.tokens.remove(&token) else {
            return;
        };
        match model.request {
            BrokerRequest::Publish { payload, .. } => {
                if let Some(uplink) = self.uplinks.get_mut(&payload) {
                    match result {
                        Ok(_) => {
                            uplink.settled_ok += 1;
                            self.clients[uplink.client].settled(model.msg_id, &payload);
                        }
                        Err(refusal) => {
                            uplink.refused = Some(refusal);
                            // Over, whether or not its client is there to be told: a repeat is a new attempt.
                            let client = &mut self.clients[uplink.client];
                            let open = client.up.values_mut().filter(|e| e.payload == payload);
                            open.for_each(|exchange| exchange.finished = true);
                        }
                    }
                }
            }
            BrokerRequest::Subscribe { conn, filter, .. } => {
                self.unsaid_subacks(|asked| *asked.filter == *filter);
                let conn = self.conns.entry(conn).or_default();
                match result {
                    Ok(_) => {
                        conn.subscribed.insert(filter);
                    }
                    Err(_) => {
                        self.refused_filter = true;
                        // A31: it is taken away from clients that were told otherwise.
                        self.clients.iter_mut().for_each(|client| {
                            client.subs.remove(&*filter);
                            client.maybe.remove(&*filter);
                        });
                    }
                }
            }
            BrokerRequest::Unsubscribe { conn, filter, .. } => {
                self.conns.entry(conn).or_default().subscribed.remove(&filter);
            }
            BrokerRequest::Open { .. }
            | BrokerRequest::Close { .. }
            | BrokerRequest::Ack { .. }
            | BrokerRequest::Complete { .. } => {}
        }
    }

    /// The gateway dropped messages for clients while it took this one: nobody has a claim to it (A70), nor to what
    /// may have had to make room.
    pub fn on_overflow(&mut self, payload: &Bytes) {
        let drops_oldest = self.config.sleep.when_full == WhenFull::DropOldest;
        let topic = self.messages.get(payload).map_or("", |message| &message.topic);
        for client in &mut self.clients {
            self.given_up += usize::from(client.owed.remove(payload).is_some());
            if drops_oldest && client.maybe.iter().any(|filter| topic::matches(filter, topic)) {
                self.given_up += client.owed.len();
                client.owed.clear();
            }
        }
    }

    /// Every client with a standing subscription that this message came for has a claim to it.
    fn owe(&mut self, now: Instant, filters: &[FilterId], topic: &str, qos: QoS, payload: &Bytes) {
        if qos == QoS::AtMostOnce || payload.is_empty() {
            return;
        }
        let limit = self.config.sleep.max_messages;
        for client in &mut self.clients {
            let claimed = client.subs.iter().any(|(filter, sub)| {
                // Under an older number it came for a subscription that was given back.
                let number = self.numbers.get(filter.as_str());
                let came_for = filters.is_empty() || number.is_some_and(|id| filters.contains(id));
                came_for && sub.granted != QoS::AtMostOnce && topic::matches(filter, topic)
            });
            // A broker that repeats it does so for each filter, and for another than the client was served by.
            let served = client
                .started
                .get(payload)
                .is_some_and(|started| started.acknowledged);
            if !claimed || served || client.phase == Phase::Setup {
                continue;
            }
            // PUBLISH header and REGISTER with the whole name are the largest datagrams this can take (A63).
            let room = self.mtu - client.bound.as_ref().map_or(0, Address::overhead);
            if payload.len() + 9 > room || topic.len() + 8 > room {
                self.given_up += 1;
                continue;
            }
            let quirks = client.quirks;
            if qos == QoS::ExactlyOnce && (quirks.never_pubrec || quirks.refuses_unusual_publish) {
                // It may be granted QoS 1 only, and then gets it.
                self.given_up += 1;
                continue;
            }
            if client.ignores_register || client.refused_names.contains(topic) {
                // A40: an id it was never told cannot be used, so what needs a new one is dropped.
                self.given_up += 1;
                continue;
            }
            if client.owed.len() + 1 > limit {
                // A70: full, so what is new is dropped, and what follows it may be.
                self.given_up += 1;
                continue;
            }
            client.owed.insert(
                payload.clone(),
                Owed {
                    topic: topic.into(),
                    since: now,
                },
            );
        }
    }

    // Outputs of the gateway.

    /// The gateway sends a datagram.
    ///
    /// # Errors
    /// The rule it breaks.
    pub fn on_transmit(&mut self, now: Instant, to: &Destination, datagram: &[u8]) -> Check {
        self.pass_time(now);
        let (encapsulation, packet) = sn_codec::decode_message(datagram)
            .map_err(|error| Violation::new("datagrams decode", format!("{error}: {datagram:02x?}")))?;
        let header = encapsulation.map_or(0, |e| e.encoded_len());
        ensure(encode(&packet) == datagram[header..], "shortest form", || {
            format!("{packet:?} as {datagram:02x?}")
        })?;
        ensure(
            encapsulation.is_none_or(|e| e.radius == 0),
            "no radius to one node (A82)",
            || format!("{encapsulation:?}"),
        )?;
        ensure(
            packet.direction() != Direction::ToGateway,
            "only what gateways send",
            || format!("{packet:?}"),
        )?;
        ensure(datagram.len() <= self.mtu, "fits the link", || {
            format!("{} octets, at most {}", datagram.len(), self.mtu)
        })?;
        let addr = match to {
            Destination::Broadcast => {
                let may = matches!(packet, Packet::Advertise(_) | Packet::GwInfo(_));
                return ensure(may, "only discovery is broadcast", || format!("{packet:?}"));
            }
            Destination::Peer(route) => &Address::new(
                route.addr.clone(),
                encapsulation.map(|encapsulation| encapsulation.wireless_node_id),
            ),
        };
        never_sent(&packet)?;
        let Some(&ix) = self.by_addr.get(addr) else {
            // Somebody who is no client of this world.
            let may = matches!(
                packet,
                Packet::Disconnect(_) | Packet::GwInfo(_) | Packet::Connack(_)
            );
            return ensure(
                may || answers_parse_error(&packet),
                "strangers get no more than DISCONNECT",
                || format!("{packet:?} to {addr}"),
            );
        };
        let client = &mut self.clients[ix];
        client.end_of_setup(now, &self.config);
        let what =
            |client: &ClientModel| format!("{packet:?} to {} at {addr}, {:?}", client.id, client.phase);
        let session = client.bound.as_ref() == Some(addr) && client.phase.is_connected();
        match packet {
            Packet::GwInfo(_) => return Ok(()),
            Packet::Disconnect(_) => return self.on_disconnect(now, ix, addr),
            Packet::Connack(connack) => return self.on_connack(ix, addr, connack.return_code),
            Packet::WillTopicReq | Packet::WillMsgReq => {
                let may = client.phase == Phase::Setup && client.bound.as_ref() == Some(addr);
                return ensure(may, "will prompts only during CONNECT", || what(client));
            }
            _ => {}
        }
        if !session {
            let rule = match client.phase {
                Phase::Setup => "nothing but prompts between CONNECT and CONNACK",
                Phase::None | Phase::Lost | Phase::Active | Phase::Asleep | Phase::Awake => {
                    "no session, no messages"
                }
            };
            return Err(Violation::new(rule, what(client)));
        }
        let delivery = matches!(packet, Packet::Register(_) | Packet::Publish(_));
        ensure(
            client.phase != Phase::Asleep || !delivery,
            "nothing for a sleeper outside its wake-ups (§6.14)",
            || what(client),
        )?;
        match packet {
            Packet::Register(register) => self.on_register(now, ix, register),
            Packet::Publish(publish) => self.on_publish(now, ix, publish),
            Packet::Pubrel(msg_id) => self.on_pubrel(now, ix, msg_id),
            Packet::Puback(puback) => self.on_puback(ix, puback),
            Packet::Pubrec(msg_id) => self.on_pubrec(ix, msg_id),
            Packet::Pubcomp(msg_id) => client.pay(MsgType::Pubcomp, msg_id),
            Packet::Regack(regack) => client.on_regack(regack),
            Packet::Suback(suback) => self.on_suback(ix, suback),
            Packet::Unsuback(msg_id) => client.pay(MsgType::Unsuback, msg_id),
            Packet::Pingresp => {
                client.pay(MsgType::Pingresp, MsgId(0))?;
                let room = self.mtu - client.bound.as_ref().map_or(0, Address::overhead);
                self.given_up += client.drop_too_large(room);
                client.end_ping(now)?;
                client.end_wake(now)
            }
            Packet::WillTopicResp(_) => client.pay(MsgType::WillTopicResp, MsgId(0)),
            Packet::WillMsgResp(_) => client.pay(MsgType::WillMsgResp, MsgId(0)),
            // §6.11 allows it, A76 keeps it for one purpose.
            Packet::Pingreq(_) => ensure(client.challenge.is_some(), "the gateway does not ping", || {
                what(client)
            }),
            Packet::Connack(_)
            | Packet::Disconnect(_)
            | Packet::GwInfo(_)
            | Packet::WillTopicReq
            | Packet::WillMsgReq
            | Packet::Advertise(_)
            | Packet::SearchGw(_)
            | Packet::Connect(_)
            | Packet::WillTopic(_)
            | Packet::WillMsg(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::WillTopicUpd(_)
            | Packet::WillMsgUpd(_) => Err(Violation::new(
                "only what gateways send to a client",
                what(client),
            )),
        }
    }

    fn on_connack(&mut self, ix: usize, addr: &Address, code: ReturnCode) -> Check {
        let client = &mut self.clients[ix];
        if client.bound.as_ref() != Some(addr) {
            return ensure(
                code != ReturnCode::Accepted,
                "CONNACK goes where CONNECT came from",
                || format!("{} at {addr}", client.id),
            );
        }
        if code != ReturnCode::Accepted && client.bad_connects > 0 {
            client.bad_connects -= 1;
            return Ok(());
        }
        ensure(client.connacks_due > 0, "CONNACK answers CONNECT", || {
            client.id.to_string()
        })?;
        client.connacks_due -= 1;
        if code == ReturnCode::Accepted {
            client.phase = Phase::Active;
            client.said_goodbye = false;
            client.sent_away = false;
            client.resumes_since = None;
        } else {
            client.phase = Phase::None;
        }
        Ok(())
    }

    fn on_disconnect(&mut self, now: Instant, ix: usize, addr: &Address) -> Check {
        let client = &mut self.clients[ix];
        let strayed = client.stray.take_if(|stray| stray == addr).is_some();
        // A sleeper may have woken there since.
        if client.bound.as_ref() != Some(addr)
            || (strayed && client.phase.is_connected() && !client.said_goodbye)
        {
            return Ok(());
        }
        if client.phase == Phase::Setup && client.late_goodbye {
            return Ok(());
        }
        // One answer is for all that came before it.
        if core::mem::take(&mut client.sleep_answer_due) && !client.said_goodbye {
            return Ok(());
        }
        let silent = now.since(client.last_heard) >= client.tolerated(&self.config);
        let asked = client.said_goodbye || client.sent_away;
        ensure(
            !client.phase.is_connected() || asked || silent,
            "no unasked DISCONNECT",
            || client.id.to_string(),
        )?;
        client.end();
        Ok(())
    }

    fn on_register(&mut self, now: Instant, ix: usize, register: Register<'_>) -> Check {
        let first_retry = self.config.timers.retry_first;
        let sends_per_round = u32::from(self.config.timers.retry_count) + 1;
        let client = &mut self.clients[ix];
        ensure(!register.topic_id.is_reserved(), "REGISTER has an id", || {
            format!("{register:?}")
        })?;
        let known = client
            .names
            .entry(register.topic_id)
            .or_insert_with(|| register.topic_name.into());
        ensure(
            known == register.topic_name,
            "an id never changes its name (A35)",
            || {
                format!(
                    "{} of {} was {known}, now {}",
                    register.topic_id, client.id, register.topic_name
                )
            },
        )?;
        let next = Next {
            kind: DownKind::Register,
            msg_id: register.msg_id,
            payload: None,
            topic: register.topic_name,
            dup: None,
            expires: now + self.config.sleep.max_age,
        };
        self.given_up += client.exchange(now, &next, first_retry, sends_per_round)?;
        Ok(())
    }

    fn on_publish(&mut self, now: Instant, ix: usize, publish: Publish<'_>) -> Check {
        let names = Names {
            rules: &self.config.clients,
            config: &self.config,
        };
        let first_retry = self.config.timers.retry_first;
        let sends_per_round = u32::from(self.config.timers.retry_count) + 1;
        let client = &mut self.clients[ix];
        let PublishQoS::Level(qos) = publish.qos else {
            return Err(Violation::new(
                "no QoS -1 towards clients",
                format!("{publish:?}"),
            ));
        };
        let told = |publish: &Publish<'_>| format!("{publish:?} to {}", client.id);
        let name = match publish.topic {
            TopicRef::Normal(id) => client.names.get(&id).cloned(),
            TopicRef::Predefined(id) => names.predefined(&client.id, id),
            TopicRef::Short(short) => short.as_str().map(String::from),
        };
        let name = name.ok_or_else(|| Violation::new("the client knows the topic id", told(&publish)))?;
        if let TopicRef::Normal(id) = publish.topic {
            // A40: after Nretry an id that the client was ever told is used all the same.
            let unanswered = client.down.as_ref().is_some_and(|d| {
                let silent = d.kind == DownKind::Register && !d.closed && d.given_up(sends_per_round);
                silent && (d.topic == name || !client.answers_register)
            });
            let repeated = client
                .down
                .as_ref()
                .is_some_and(|d| !d.closed && !d.stale && d.payload.is_some() && d.msg_id == publish.msg_id);
            let known = client.confirmed.contains(&id) || client.ignores_register || unanswered || repeated;
            ensure(
                known,
                "an id is confirmed in this connection before it is used (A39)",
                || told(&publish),
            )?;
        }
        let payload = Bytes::copy_from_slice(publish.data);
        let message = self.messages.get(&payload);
        if !payload.is_empty() {
            let message =
                message.ok_or_else(|| Violation::new("nothing arrives that was not sent", told(&publish)))?;
            ensure(message.topic == name, "a message keeps its topic", || {
                format!("{} sent as {name}: {}", message.topic, told(&publish))
            })?;
            ensure(qos <= message.highest, "QoS is not raised", || told(&publish))?;
            ensure(
                message.retain_seen[usize::from(publish.retain)],
                "Retain as delivered (A66)",
                || told(&publish),
            )?;
        }
        let asked = client
            .ever
            .iter()
            .filter(|(filter, _)| topic::matches(filter, &name))
            .map(|(_, qos)| *qos)
            .max();
        let asked = asked.ok_or_else(|| Violation::new("only to subscribers", told(&publish)))?;
        ensure(qos <= asked, "QoS is not above the subscription's", || {
            told(&publish)
        })?;

        let same = client
            .down
            .as_ref()
            .is_some_and(|d| !d.closed && d.msg_id == publish.msg_id);
        let repeat = qos != QoS::AtMostOnce && same;
        let registered = client.down.as_ref().is_some_and(|d| d.kind == DownKind::Register);
        let released = same
            && client
                .down
                .as_ref()
                .is_some_and(|d| d.kind == DownKind::Pubrel && d.payload.as_ref() == Some(&payload));
        let done = client
            .started
            .get(&payload)
            .is_some_and(|started| started.released);
        let released = released && (done || !client.restored);
        ensure(!released, "QoS 2 is not delivered again after PUBREC", || {
            told(&publish)
        })?;
        if qos == QoS::AtMostOnce {
            ensure(
                publish.msg_id == MsgId(0) && !publish.dup,
                "QoS 0 has no message id and no DUP",
                || told(&publish),
            )?;
            let open = client
                .down
                .as_ref()
                .is_some_and(|d| d.is_open(now, sends_per_round));
            ensure(!open, "nothing overtakes an open exchange (A59)", || {
                told(&publish)
            })?;
            if let Some(down) = client.down.as_mut().filter(|d| d.kind == DownKind::Register) {
                let unanswered = !down.closed && !down.stale;
                down.closed = true;
                if unanswered {
                    self.given_up += client.register_unanswered(None);
                }
            }
        } else {
            let [high, low] = publish.msg_id.0.to_be_bytes();
            ensure(
                high != 0 && high != low,
                "message ids can be told from their mirror (A64)",
                || told(&publish),
            )?;
            let next = Next {
                kind: DownKind::Publish(qos),
                msg_id: publish.msg_id,
                payload: Some(payload.clone()),
                topic: &name,
                dup: Some(publish.dup),
                expires: message.map_or(now, |message| message.since) + self.config.sleep.max_age,
            };
            self.given_up += client.exchange(now, &next, first_retry, sends_per_round)?;
        }
        client.wake_messages += usize::from(!repeat);
        if !repeat && !payload.is_empty() {
            let publications = message.map_or(0, |m| m.publications.len() + m.uncertain_copies);
            let started = client.started.entry(payload.clone()).or_default();
            let age = message.map_or(Duration::ZERO, |message| now.since(message.since));
            ensure(
                age < self.config.sleep.max_age + LATE || registered || started.exchanges > 0,
                "nothing too old is delivered (A70)",
                || format!("{age:?}: {publish:?} to {}", client.id),
            )?;
            started.exchanges += 1;
            // A subscription that the disk did not keep may still stand at the broker.
            let lost = if self.disk_failed { publications } else { 0 };
            let allowed = publications + started.interrupted + lost;
            ensure(
                started.exchanges <= allowed,
                "one delivery per client and message",
                || {
                    format!(
                        "{} exchanges, {allowed} allowed: {publish:?} to {}",
                        started.exchanges, client.id
                    )
                },
            )?;
            let again = qos == QoS::ExactlyOnce && started.acknowledged && publications == 1;
            // Until PUBREL a later life may not know of its PUBREC, and the client knows it by its message id.
            let again = again && (started.released || !client.restored);
            ensure(!again, "QoS 2 is not delivered again after PUBREC", || {
                format!("{publish:?} to {}", client.id)
            })?;
            if publications > 1 {
                // What was released may have been another.
                started.released = false;
            }
        }
        Ok(())
    }

    fn on_pubrel(&mut self, now: Instant, ix: usize, msg_id: MsgId) -> Check {
        let first_retry = self.config.timers.retry_first;
        let sends_per_round = u32::from(self.config.timers.retry_count) + 1;
        let client = &mut self.clients[ix];
        let own = client
            .down
            .as_ref()
            .is_some_and(|d| d.msg_id == msg_id && d.kind == DownKind::Pubrel && !d.closed);
        let due = client
            .due
            .get(&(MsgType::Pubrel, msg_id))
            .is_some_and(|due| *due > 0);
        if self.durable && own && due {
            // Each PUBREC is answered, if only when that is durable.
            client.down.iter_mut().for_each(|down| down.due = true);
        }
        // Where it came under two ids (A41) the store has the first.
        let renamed = client.started.values().any(|started| started.unknown_topic);
        if !own && client.restored && (renamed || client.received.contains(&msg_id)) {
            return Ok(());
        }
        if !own || client.phase == Phase::Asleep {
            // A51: a PUBREC that belongs to nothing is answered too.
            return client.pay(MsgType::Pubrel, msg_id);
        }
        let payload = client.down.as_ref().and_then(|down| down.payload.clone());
        if let Some(payload) = payload {
            client.started.entry(payload).or_default().released = true;
        }
        let next = Next {
            kind: DownKind::Pubrel,
            msg_id,
            payload: None,
            topic: "",
            dup: None,
            expires: now + self.config.sleep.max_age,
        };
        self.given_up += client.exchange(now, &next, first_retry, sends_per_round)?;
        Ok(())
    }

    fn on_puback(&mut self, ix: usize, puback: Puback) -> Check {
        let client = &mut self.clients[ix];
        let refused = puback.return_code != ReturnCode::Accepted;
        let exactly_once = client
            .up
            .get(&puback.msg_id)
            .is_some_and(|e| e.qos == QoS::ExactlyOnce);
        let due = client
            .due
            .get(&(MsgType::Puback, puback.msg_id))
            .is_some_and(|due| *due > 0);
        if client.restored && refused && exactly_once && !due {
            // An earlier life was told so, and its successor, which may not know, is told so again.
            return Ok(());
        }
        client.pay(MsgType::Puback, puback.msg_id)?;
        let Some(exchange) = client.up.get_mut(&puback.msg_id) else {
            return ensure(
                puback.return_code != ReturnCode::Accepted,
                "PUBACK answers a PUBLISH",
                || format!("{puback:?} to {}", client.id),
            );
        };
        let settled = |payload: &Bytes| {
            let uplink = self.uplinks.get(payload);
            uplink.is_some_and(|uplink| uplink.settled_ok > 0) || self.spooled.contains(payload)
        };
        let late = exchange.previous.iter().any(settled);
        let unclear = late && (exchange.qos != QoS::AtLeastOnce || !settled(&exchange.payload));
        if puback.return_code != ReturnCode::Accepted && !exchange.previous.is_empty() {
            // Of the messages that had this id it may be about any.
            for payload in exchange.previous.iter().chain([&exchange.payload]) {
                if let Some(uplink) = self.uplinks.get_mut(payload) {
                    uplink.any_order |= uplink.settled_ok == 0;
                }
            }
        }
        if unclear {
            return Ok(());
        }
        exchange.finished = true;
        let Some(uplink) = self.uplinks.get_mut(&exchange.payload) else {
            return Ok(());
        };
        if puback.return_code != ReturnCode::Accepted {
            uplink.order = None;
            uplink.any_order |= uplink.allowed > 1;
            return Ok(());
        }
        ensure(
            exchange.qos == QoS::AtLeastOnce,
            "a PUBACK without error answers QoS 1 only",
            || format!("{puback:?} to {}", client.id),
        )?;
        uplink.answered = true;
        let spooled = self.spooled.contains(&exchange.payload);
        ensure(
            uplink.settled_ok > 0 || spooled,
            "no PUBACK before the broker's",
            || {
                format!(
                    "{puback:?} to {} for {:?}, refused {:?}",
                    client.id, exchange.payload, uplink.refused
                )
            },
        )
    }

    fn on_pubrec(&mut self, ix: usize, msg_id: MsgId) -> Check {
        let client = &mut self.clients[ix];
        let exchange = client.up.get(&msg_id).filter(|e| e.qos == QoS::ExactlyOnce);
        let exchange = exchange.ok_or_else(|| {
            Violation::new("PUBREC answers a PUBLISH", format!("{msg_id} to {}", client.id))
        })?;
        let uplink = self.uplinks.get_mut(&exchange.payload);
        let spooled = self.spooled.contains(&exchange.payload);
        let settled = uplink.is_none_or(|uplink| {
            uplink.answered = true;
            uplink.settled_ok > 0
        });
        ensure(settled || spooled, "no PUBREC before the broker's", || {
            format!("{msg_id} to {}", client.id)
        })
    }

    fn on_suback(&mut self, ix: usize, suback: Suback) -> Check {
        let aggregate = self.conns.get(&ConnId(0));
        let client = &mut self.clients[ix];
        client.pay(MsgType::Suback, suback.msg_id)?;
        let Some(asked) = client.subscribes.get_mut(&suback.msg_id) else {
            return ensure(
                suback.return_code != ReturnCode::Accepted,
                "SUBACK answers a SUBSCRIBE",
                || format!("{suback:?} to {}", client.id),
            );
        };
        asked.answered = true;
        let Asked {
            filter,
            qos,
            named,
            broker_was_away,
            before,
            asked_before,
            given_back,
            ..
        } = asked.clone();
        if suback.return_code != ReturnCode::Accepted {
            ensure(
                !named || suback.topic_id == TopicId::NONE,
                "a refused name has no topic id (A53)",
                || format!("{suback:?} to {}", client.id),
            )?;
            let for_now = suback.return_code == ReturnCode::Congestion;
            match before.filter(|_| for_now && !given_back) {
                Some(before) => {
                    client.maybe.insert(filter.clone());
                    client.subs.insert(filter, before);
                }
                None if client.subs.contains_key(&filter) || (for_now && asked_before) => {}
                None => {
                    client.maybe.remove(&filter);
                }
            }
            return Ok(());
        }
        ensure(suback.qos <= qos, "no more granted than asked for", || {
            format!("{suback:?} for {filter}")
        })?;
        let late = self.durable && given_back;
        let settled = late || aggregate.is_some_and(|conn| conn.up && conn.subscribed.contains(&*filter));
        let away = aggregate.is_none_or(|conn| !conn.up) || broker_was_away;
        ensure(settled || away, "no SUBACK before the broker's (A31)", || {
            format!("{filter} to {}", client.id)
        })?;
        if named && topic::has_wildcard(&filter) {
            ensure(
                suback.topic_id == TopicId::NONE,
                "a wildcard has no topic id (4.7)",
                || format!("{suback:?}"),
            )?;
        } else if named {
            client.learn(suback.topic_id, &filter)?;
        }
        if given_back {
            return Ok(());
        }
        client.maybe.insert(filter.clone());
        client.subs.insert(filter, Sub { granted: suback.qos });
        Ok(())
    }

    /// The gateway asks the broker for something.
    ///
    /// Credit and window are checked by the broker itself.
    ///
    /// # Errors
    /// The rule it breaks.
    pub fn on_request(&mut self, now: Instant, request: &BrokerRequest) -> Check {
        self.pass_time(now);
        self.published += 1;
        let told = || format!("{request:?}");
        match request {
            BrokerRequest::Publish {
                conn,
                token,
                topic,
                qos,
                retain,
                payload,
                ..
            } => {
                let token = *token;
                self.track(*conn, token, request)?;
                if let Some(&ix) = self.wills.get(payload) {
                    let lost = token.is_some_and(|t| self.tokens[&t].state == TokenState::Lost);
                    return if lost {
                        self.reopen(token)
                    } else {
                        self.on_will(ix, topic, *qos, *retain, payload)
                    };
                }
                if payload.is_empty() {
                    return Ok(());
                }
                let resubmitted = token.is_some_and(|t| self.tokens[&t].state == TokenState::Lost);
                let Some(uplink) = self.uplinks.get_mut(payload) else {
                    return Err(Violation::new("nothing arrives that was not sent", told()));
                };
                let expected = format!("{}{}", self.config.upstream.topic_prefix, uplink.topic);
                let by_chance = self.clients[uplink.client].ids_collided;
                ensure(
                    **topic == *expected || by_chance,
                    "a message keeps its topic",
                    || format!("{expected}: {}", told()),
                )?;
                let level = match uplink.qos {
                    PublishQoS::MinusOne => QoS::AtMostOnce,
                    PublishQoS::Level(level) => level,
                };
                ensure(
                    *qos == level && *retain == uplink.retain,
                    "a message keeps QoS and Retain",
                    told,
                )?;
                if resubmitted {
                    return self.reopen(token);
                }
                let author = uplink.client;
                let overtaken = self.tokens.values().find(|model| match &model.request {
                    BrokerRequest::Publish {
                        payload, conn: on, ..
                    } if model.state == TokenState::Lost && on == conn => self
                        .uplinks
                        .get(payload)
                        .is_some_and(|lost| lost.client == author),
                    _ => false,
                });
                ensure(
                    overtaken.is_none() || *qos == QoS::AtMostOnce,
                    "nothing overtakes what was lost",
                    || format!("{:?}: {}", overtaken.map(|model| &model.request), told()),
                )?;
                let Some(uplink) = self.uplinks.get_mut(payload) else {
                    return Ok(());
                };
                uplink.emitted += 1;
                if let Some(model) = token.and_then(|t| self.tokens.get_mut(&t)) {
                    model.msg_id = self.clients[uplink.client].next_unsent(payload);
                }
                ensure(
                    uplink.emitted <= uplink.allowed,
                    "published no more often than received (A46)",
                    || format!("{} times, {} allowed: {}", uplink.emitted, uplink.allowed, told()),
                )?;
                let class = match self.durable {
                    // QoS 2 has a connection of its own then.
                    true => level as usize,
                    false => usize::from(level != QoS::AtMostOnce),
                };
                let last = &mut self.clients[uplink.client].emitted_order[class];
                // Spooled or not, QoS 0 goes when it can.
                let spooled = self.config.durability.as_ref().is_some_and(|rules| rules.qos0);
                let any_order = uplink.any_order || (spooled && level == QoS::AtMostOnce);
                if uplink.emitted == 1
                    && !any_order
                    && let Some(order) = uplink.order
                {
                    ensure(order > *last, "a client's messages keep their order", told)?;
                    *last = order;
                }
                Ok(())
            }
            BrokerRequest::Subscribe {
                conn,
                token,
                filter,
                id,
                ..
            } => {
                self.track(*conn, Some(*token), request)?;
                self.numbers.insert(filter.clone(), *id);
                let known = self.filters.entry(*id).or_insert_with(|| filter.clone());
                ensure(
                    *id != FilterId(0) && known == filter,
                    "a subscription id stays with its filter",
                    told,
                )?;
                self.reopen(Some(*token))
            }
            BrokerRequest::Unsubscribe { conn, token, filter } => {
                self.track(*conn, Some(*token), request)?;
                let holder = self.clients.iter().find(|c| c.subs.contains_key(&**filter));
                ensure(
                    holder.is_none(),
                    "UNSUBSCRIBE only when the last one left",
                    || format!("{filter} is held by {}", holder.map_or("", |c| &c.id)),
                )?;
                self.reopen(Some(*token))
            }
            BrokerRequest::Open { conn, options } => {
                // What an earlier life left to the port is settled or lost in this one.
                let mut restored: Vec<_> = options.restored.iter().collect();
                // In the order in which they came from clients.
                restored.sort_by_key(|restored| restored.stored.key);
                for restored in restored {
                    self.published += 1;
                    let model = TokenModel {
                        conn: *conn,
                        request: as_request(*conn, restored),
                        order: self.published,
                        state: TokenState::Open,
                        msg_id: None,
                    };
                    self.tokens.insert(restored.token, model);
                }
                Ok(())
            }
            BrokerRequest::Ack { conn, delivery } => {
                self.unacknowledged.remove(&(*conn, *delivery));
                Ok(())
            }
            BrokerRequest::Close { .. } | BrokerRequest::Complete { .. } => Ok(()),
        }
    }

    fn track(&mut self, conn: ConnId, token: Option<Token>, request: &BrokerRequest) -> Check {
        let Some(token) = token else { return Ok(()) };
        let told = || format!("{token:?}: {request:?}");
        if let Some(known) = self.tokens.get(&token) {
            ensure(
                known.state == TokenState::Lost,
                "a token is not used again before it is settled or lost",
                told,
            )?;
            ensure(known.conn == conn, "a token stays on its connection", told)?;
            let same = match (&known.request, request) {
                (
                    BrokerRequest::Publish {
                        payload: a, topic: b, ..
                    },
                    BrokerRequest::Publish { payload, topic, .. },
                ) => a == payload && b == topic,
                (BrokerRequest::Publish { .. }, _) | (_, BrokerRequest::Publish { .. }) => false,
                _ => true,
            };
            return ensure(same, "what was lost is submitted again under its token", told);
        }
        let state = TokenState::Open;
        self.tokens.insert(
            token,
            TokenModel {
                conn,
                request: request.clone(),
                order: self.published,
                state,
                msg_id: None,
            },
        );
        Ok(())
    }

    /// A lost request was submitted again.
    fn reopen(&mut self, token: Option<Token>) -> Check {
        let Some(model) = token.and_then(|token| self.tokens.get_mut(&token)) else {
            return Ok(());
        };
        if model.state != TokenState::Lost {
            return Ok(());
        }
        model.state = TokenState::Open;
        if let BrokerRequest::Publish { payload, .. } = &model.request {
            let author = self.uplinks.get(payload).map(|uplink| uplink.client);
            let line = author.filter(|_| self.durable).unwrap_or_default();
            let conn = self.conns.entry(model.conn).or_default();
            let last = conn.resubmitted.entry(line).or_default();
            let in_order = model.order > *last;
            *last = model.order;
            return ensure(
                in_order,
                "lost publishes are submitted again in the order sent",
                || format!("{:?}", model.request),
            );
        }
        Ok(())
    }

    fn on_will(&mut self, ix: usize, topic: &str, qos: QoS, retain: bool, payload: &Bytes) -> Check {
        let prefix = &self.config.upstream.topic_prefix;
        let client = &mut self.clients[ix];
        let is = |will: &Will| {
            *topic == format!("{prefix}{}", will.topic)
                && will.qos == qos
                && will.retain == retain
                && will.payload == payload
        };
        let due = client.wills_due.iter().position(is);
        if due.is_none() && client.wills_again.iter().any(is) {
            return Ok(());
        }
        let due = due.ok_or_else(|| {
            let detail = format!(
                "{payload:?} on {topic} of {}, due {:?}",
                client.id, client.wills_due
            );
            Violation::new("a will is published once for each loss (A26)", detail)
        })?;
        let will = client.wills_due.remove(due);
        if self.durable {
            client.wills_emitted.push(will);
        }
        Ok(())
    }

    /// The gateway tells something for the log.
    ///
    /// # Errors
    /// The rule it breaks.
    pub fn on_notice(&mut self, now: Instant, notice: &Notice) -> Check {
        self.pass_time(now);
        match notice {
            Notice::Lost { client, will } => {
                let Some(model) = self.clients.iter_mut().find(|c| c.id == *client) else {
                    return Ok(());
                };
                let silence = now.since(model.last_heard);
                ensure(
                    silence >= model.tolerated(&self.config),
                    "lost only after silence (A28)",
                    || format!("{client} after {silence:?}"),
                )?;
                ensure(!model.said_goodbye, "not lost after DISCONNECT (A26)", || {
                    client.to_string()
                })?;
                let known = model.will.is_some();
                ensure(known || !will, "the will is known", || {
                    format!("none of {client}")
                })?;
                // A26: nothing but a full queue keeps a will of QoS 1 or 2 from being published.
                let by_limit = self.config.limits.queue_messages < Limits::default().queue_messages
                    || self.disk_fails
                    || self
                        .config
                        .durability
                        .as_ref()
                        .is_some_and(|rules| rules.spool_messages < Durability::default().spool_messages);
                ensure(*will || !known || by_limit, "a will is published", || {
                    format!("{:?} of {client}", model.will)
                })?;
                model.phase = Phase::Lost;
                model.challenge = None;
                model.interrupt();
                model.wills_due.extend(model.will.clone().filter(|_| *will));
                model.losses += 1;
                if model.clean {
                    model.record_gone();
                }
                Ok(())
            }
            Notice::Disconnected { client, .. } => {
                let refused = self.refused_filter;
                let Some(model) = self.clients.iter_mut().find(|c| c.id == *client) else {
                    return Ok(());
                };
                // A78: only when the broker took a subscription back, or the gateway stops.
                model.challenge = None;
                model.sent_away = !model.said_goodbye && (refused || self.shutting_down);
                ensure(
                    model.said_goodbye || model.sent_away,
                    "nobody is sent away (A78)",
                    || client.to_string(),
                )?;
                if model.clean {
                    model.record_gone();
                }
                Ok(())
            }
            // A63: it moved behind a forwarder, which leaves less room, after the message came.
            Notice::TooLarge { client, topic, len } => {
                if let Some(model) = self.clients.iter_mut().find(|c| c.id == *client) {
                    let is = |payload: &Bytes, owed: &Owed| {
                        owed.topic == **topic && (payload.len() + 7 == *len || topic.len() + 6 == *len)
                    };
                    model.owed.retain(|payload, owed| !is(payload, owed));
                }
                Ok(())
            }
            Notice::Connected { .. }
            | Notice::Asleep { .. }
            | Notice::Awake { .. }
            | Notice::Delivered { .. }
            | Notice::Dropped { .. }
            | Notice::AddressChanged { .. }
            | Notice::Refused { .. }
            | Notice::SubscriptionRefused { .. }
            | Notice::PublishRefused { .. }
            | Notice::UnheardRefused { .. }
            | Notice::PublishPostponed { .. }
            | Notice::SpoolDropped { .. }
            | Notice::OneAtATime { .. }
            | Notice::NoneToBlame { .. }
            | Notice::StatusRefused { .. }
            | Notice::UnknownTopic { .. }
            | Notice::ForwarderRefused { .. }
            | Notice::PublishMinusOneRefused { .. }
            | Notice::SameGatewayId { .. }
            | Notice::AnswerTooLarge { .. }
            | Notice::LinkUp { .. }
            | Notice::LinkDown { .. }
            | Notice::DutyCycle { .. }
            | Notice::AirtimeLost { .. }
            | Notice::AirtimeNotStored { .. }
            | Notice::StandBy { .. } => Ok(()),
        }
    }

    // The end of a scenario.

    /// Exchanges towards clients, and handshakes, in which the gateway may send again by itself.
    pub fn open_exchanges(&self, now: Instant) -> Vec<String> {
        let timers = &self.config.timers;
        let sends = u32::from(timers.retry_count) + 1;
        let open = |d: &DownExchange| {
            // After the last repeat of a round it waits once more, then for a sign of life (A60).
            let parked = d.unheard >= sends && now.since(d.last_sent) > timers.retry_max;
            !d.closed && !d.stale && !parked && !d.given_up(sends)
        };
        let exchanges = self
            .clients
            .iter()
            .filter(|c| matches!(c.phase, Phase::Active | Phase::Awake))
            .filter_map(|c| Some((c, c.down.as_ref().filter(|d| open(d))?)))
            .map(|(c, d)| format!("{:?} {} to {}", d.kind, d.msg_id, c.id));
        let handshakes = self
            .clients
            .iter()
            .filter(|c| c.phase == Phase::Setup && now.since(c.last_heard) <= timers.will_handshake)
            .map(|c| format!("{} is in its handshake", c.id));
        exchanges.chain(handshakes).collect()
    }

    /// QoS 1 and 2 messages that connected clients have not got yet.
    pub fn undelivered(&self) -> Vec<String> {
        self.clients
            .iter()
            .filter(|c| c.phase.is_connected())
            .flat_map(|c| {
                // A60: dropped after so many sends, with nothing said.
                let all_sends = c.sends_per_round * ROUNDS;
                let given_up = c.down.as_ref().filter(|d| !d.closed && d.sends >= all_sends);
                let dropped = move |(payload, owed): &(&Bytes, &Owed)| {
                    given_up.is_some_and(|d| match d.kind {
                        DownKind::Register => d.topic == owed.topic,
                        DownKind::Publish(_) | DownKind::Pubrel => d.payload.as_ref() == Some(*payload),
                    })
                };
                c.owed
                    .iter()
                    .filter(move |owed| !dropped(owed))
                    .map(|(p, o)| format!("{p:?} on {} to {} since {}", o.topic, c.id, o.since))
            })
            .collect()
    }

    /// Wills that were due and not handed to the broker.
    pub fn missing_wills(&self) -> Vec<String> {
        let due = |c: &ClientModel| -> Vec<String> {
            c.wills_due
                .iter()
                .map(|will| format!("{will:?} of {}", c.id))
                .collect()
        };
        self.clients.iter().flat_map(due).collect()
    }

    /// Where a client is in its session, as far as the gateway can know.
    pub fn presence(&self, client: ClientIx) -> Presence {
        match self.model(client).phase {
            Phase::None | Phase::Setup | Phase::Lost => Presence::Away,
            Phase::Active => Presence::Active,
            Phase::Asleep | Phase::Awake => Presence::Asleep,
        }
    }

    /// The gateway sends to a client there.
    pub fn is_bound(&self, client: ClientIx, address: &Address) -> bool {
        self.model(client).bound.as_ref() == Some(address)
    }

    /// Whoever was silent for too long is lost by now, so that its will is published when it should be.
    ///
    /// # Errors
    /// That is not so.
    pub fn check_silence(&mut self, now: Instant) -> Check {
        self.pass_time(now);
        let overdue = self.clients.iter().find(|c| {
            let since = match c.phase {
                Phase::Active => c.last_heard,
                Phase::Asleep => c.last_heard.max(c.asleep_since),
                // A wake-up ends by itself, and what follows counts from the last message all the same.
                Phase::Awake => c.last_heard.max(c.woken) + WAKE_TIME_MAX,
                Phase::None | Phase::Setup | Phase::Lost => return false,
            };
            now > since + c.tolerated(&self.config) + LATE
        });
        ensure(overdue.is_none(), "a silent client is lost in time (A28)", || {
            let of = |c: &ClientModel| format!("{} {:?}, last heard at {}", c.id, c.phase, c.last_heard);
            overdue.map(of).unwrap_or_default()
        })
    }

    /// The filters that clients hold, so that the gateway must be subscribed to them.
    pub fn held_filters(&self) -> BTreeSet<Arc<str>> {
        self.clients
            .iter()
            .flat_map(|c| c.subs.keys().map(|f| Arc::from(f.as_str())))
            .collect()
    }

    /// The filters that clients asked for, acknowledged or not: the gateway may be subscribed to nothing else.
    pub fn asked_filters(&self) -> BTreeSet<Arc<str>> {
        self.clients
            .iter()
            .flat_map(|c| c.maybe.iter().map(|f| Arc::from(f.as_str())))
            .collect()
    }

    /// A message may look new to a client that has it: it came again under another message id, or to a client that had
    /// begun a clean session and forgotten it, which the gateway could not know.
    pub fn may_look_new(&self, client: ClientIx, payload: &[u8]) -> bool {
        let model = self.model(client);
        let started = model.started.get(payload);
        started.is_some_and(|started| started.unknown_topic || (started.resumed && model.clean))
    }

    /// The messages that a client acknowledged.
    pub fn acknowledged_by(&self, client: ClientIx) -> impl Iterator<Item = &Bytes> {
        let started = self.model(client).started.iter();
        started
            .filter(|(_, started)| started.acknowledged)
            .map(|(payload, _)| payload)
    }

    /// True for the message of a client or of a will, and for the empty one.
    pub fn knows(&self, payload: &[u8]) -> bool {
        payload.is_empty() || self.uplinks.contains_key(payload) || self.wills.contains_key(payload)
    }

    /// The broker sent copies of this message per filter while it was unknown which filters stood (A57).
    pub fn has_uncertain_copies(&self, payload: &[u8]) -> bool {
        self.messages
            .get(payload)
            .is_some_and(|message| message.uncertain_copies > 0)
    }

    /// The broker did not want a message; its client may have been answered before.
    pub fn was_refused(&self, payload: &[u8]) -> bool {
        self.uplinks
            .get(payload)
            .is_some_and(|uplink| uplink.refused.is_some())
    }

    /// QoS 2 messages of clients, and how often they may reach the broker.
    pub fn exactly_once(&self) -> impl Iterator<Item = (&Bytes, u32)> {
        let exactly_once = PublishQoS::Level(QoS::ExactlyOnce);
        let uplinks = self
            .uplinks
            .iter()
            .filter(move |(_, uplink)| uplink.qos == exactly_once);
        uplinks.map(|(payload, uplink)| (payload, uplink.meant))
    }

    /// How often a client's message was published, beyond what a lost session explains.
    pub fn emitted(&self, payload: &[u8]) -> u32 {
        self.uplinks.get(payload).map_or(0, |uplink| uplink.emitted)
    }

    /// How often the datagrams received allow a client's message to be published.
    pub fn allowed(&self, payload: &[u8]) -> u32 {
        self.uplinks.get(payload).map_or(0, |uplink| uplink.allowed)
    }

    /// What the broker has to send again since the gateway may have forgotten it.
    pub fn orphans(&self) -> usize {
        self.orphans.len()
    }

    /// Requests to the broker whose outcome is open.
    pub fn open_tokens(&self) -> usize {
        self.tokens.len()
    }
}

/// An output that may continue an exchange or begin one.
struct Next<'a> {
    kind: DownKind,
    msg_id: MsgId,
    payload: Option<Bytes>,
    topic: &'a str,
    dup: Option<bool>,
    /// When the message is too old, as far as it is known which one it is.
    expires: Instant,
}

impl DownExchange {
    /// Certain to be under way.
    fn is_open(&self, now: Instant, sends_per_round: u32) -> bool {
        !self.closed && !self.stale && !self.given_up(sends_per_round) && now < self.expires
    }

    fn given_up(&self, sends_per_round: u32) -> bool {
        match self.kind {
            DownKind::Register => self.sends >= sends_per_round || self.unsure,
            DownKind::Publish(_) | DownKind::Pubrel => self.sends >= sends_per_round * ROUNDS,
        }
    }
}

impl ClientModel {
    fn new(config: &ClientConfig, sends_per_round: u32) -> ClientModel {
        ClientModel {
            id: config.id.as_str().into(),
            quirks: config.quirks,
            sends_per_round,
            bound: None,
            challenge: None,
            phase: Phase::None,
            sleep: Duration::ZERO,
            sleep_answer_due: false,
            woken: Instant::START,
            woken_first: Instant::START,
            named_pings: Vec::new(),
            ping_put_off: None,
            wake_messages: 0,
            asleep_since: Instant::START,
            clean: config.clean,
            keep_alive: Duration::ZERO,
            last_heard: Instant::START,
            connacks_due: 0,
            bad_connects: 0,
            handshake_done: false,
            will_topic_given: false,
            fresh: false,
            resumes_since: None,
            resumed: Phase::None,
            parameters: None,
            said_goodbye: false,
            gone: false,
            sent_away: false,
            late_goodbye: false,
            stray: None,
            up: BTreeMap::new(),
            abandoned: FxHashMap::default(),
            last_finished: None,
            due: BTreeMap::new(),
            registers: BTreeMap::new(),
            subscribes: BTreeMap::new(),
            subs: BTreeMap::new(),
            maybe: BTreeSet::new(),
            ever: BTreeMap::new(),
            names: BTreeMap::new(),
            refused_names: BTreeSet::new(),
            told: BTreeSet::new(),
            stale_names: BTreeMap::new(),
            ids_collided: false,
            confirmed: BTreeSet::new(),
            ignores_register: false,
            answers_register: false,
            no_dup: false,
            down: None,
            started: FxHashMap::default(),
            owed: BTreeMap::new(),
            will: None,
            wills_due: Vec::new(),
            wills_emitted: Vec::new(),
            wills_again: Vec::new(),
            losses: 0,
            emitted_order: [0; 3],
            received: BTreeSet::new(),
            restored: false,
            thought_asleep: false,
            saved: FxHashMap::default(),
        }
    }

    /// The oldest PUBLISH with this payload that was not handed to the broker.
    fn next_unsent(&mut self, payload: &Bytes) -> Option<MsgId> {
        if let Some(count) = self.abandoned.get_mut(payload).filter(|count| **count > 0) {
            *count -= 1;
            return None;
        }
        let unsent = |e: &UpExchange| e.payload == *payload && !e.finished && !e.sent;
        let (msg_id, exchange) = self.up.iter_mut().find(|(_, exchange)| unsent(exchange))?;
        exchange.sent = true;
        Some(*msg_id)
    }

    /// The broker has a QoS 1 message: over, whether or not the client is there to be told.
    fn settled(&mut self, msg_id: Option<MsgId>, payload: &Bytes) {
        let open = |e: &&mut UpExchange| e.payload == *payload && e.qos == QoS::AtLeastOnce && !e.finished;
        let exchange = msg_id.and_then(|id| self.up.get_mut(&id)).filter(open);
        // Whatever else it answers may be the last one finished as the gateway sees it.
        self.last_finished = exchange.and_then(|exchange| {
            exchange.finished = true;
            Some((msg_id?, payload.clone()))
        });
    }

    /// A datagram of the client came.
    fn heard(&mut self, now: Instant) {
        self.last_heard = now;
        if let Some(down) = &mut self.down {
            down.unheard = 0;
        }
    }

    /// What the client sends is processed.
    fn accepts(&self) -> bool {
        !self.gone && (self.phase.is_connected() || (self.phase == Phase::Setup && self.handshake_done))
    }

    /// Silence after which the client may be taken for lost; for ever without keep-alive.
    fn tolerated(&self, config: &GatewayConfig) -> Duration {
        // Until its return from sleep is complete a client is asleep.
        let returning = self.resumes_since.is_some() && self.resumed == Phase::Asleep;
        let every = match self.phase {
            Phase::Asleep | Phase::Awake => self.sleep,
            Phase::Setup if returning => self.sleep,
            Phase::None | Phase::Setup | Phase::Active | Phase::Lost => self.keep_alive,
        };
        if every.is_zero() {
            config.timers.idle_eviction
        } else {
            every * config.timers.keep_alive_tolerance_percent / 100
        }
    }

    fn on_connect(&mut self, now: Instant, from: &Address, connect: Connect<'_>) {
        let parameters = (connect.will, connect.clean_session, connect.duration);
        let repeated = self.bound.as_ref() == Some(from) && self.parameters == Some(parameters);
        let flags = |(will, clean, _): (bool, bool, u16)| (will, clean);
        let same_flags = self.parameters.map(flags) == Some(flags(parameters));
        let resumes = match self.phase {
            // It is connected, even if the CONNACK has not left yet.
            Phase::Setup if self.handshake_done => repeated && self.fresh,
            // A18: our CONNACK was lost, and the client has done nothing since.
            Phase::Active => repeated && self.fresh,
            // A20: the return from sleep keeps everything, whatever Clean says.
            Phase::Asleep | Phase::Awake => same_flags,
            Phase::Setup => self.resumes_since.is_some() && same_flags,
            Phase::None | Phase::Lost => false,
        };
        match self.phase {
            Phase::Active => self.resumed = Phase::Active,
            Phase::Asleep | Phase::Awake => self.resumed = Phase::Asleep,
            Phase::None | Phase::Setup | Phase::Lost => {}
        }
        self.sleep_answer_due = false;
        self.ping_put_off = None;
        self.resumes_since = resumes.then_some(now);
        let strayed = self.stray.take().as_ref() == Some(from);
        let still_due = self.late_goodbye && self.phase == Phase::Setup;
        self.late_goodbye = strayed || still_due || (self.said_goodbye && self.phase != Phase::None);
        self.gone = false;
        self.parameters = Some(parameters);
        self.bound = Some(from.clone());
        self.phase = Phase::Setup;
        // A19, A20: a clean session ends with its connection.
        let anew = connect.clean_session || self.clean;
        self.clean = connect.clean_session;
        self.keep_alive = Duration::from_secs(u64::from(connect.duration));
        self.connacks_due += 1;
        self.handshake_done = !connect.will;
        self.will_topic_given = false;
        self.ignores_register = false;
        self.no_dup = false;
        self.interrupt();
        if resumes {
            if (self.resumed == Phase::Active || core::mem::take(&mut self.thought_asleep))
                && let Some(payload) = self.down.as_ref().and_then(|down| down.payload.clone())
            {
                self.started.entry(payload).or_default().resumed = true;
            }
            return;
        }
        self.confirmed.clear();
        self.refused_names.clear();
        self.subscribes.clear();
        if anew {
            self.last_finished = None;
            self.forget();
            self.will = None;
        }
    }

    /// A21: a handshake that is not finished is given up silently, and a session that it resumed is as before.
    fn end_of_setup(&mut self, now: Instant, config: &GatewayConfig) {
        let over = self
            .resumes_since
            .is_some_and(|since| now.since(since) >= config.timers.will_handshake);
        if self.phase == Phase::Setup && over {
            // Or it was lost between: then the client is told to connect again.
            self.sent_away = true;
            self.phase = self.resumed;
        }
    }

    /// The session is over for good.
    fn forget(&mut self) {
        self.subs.clear();
        self.maybe.clear();
        self.owed.clear();
        for exchange in core::mem::take(&mut self.up).into_values() {
            if !exchange.sent && !exchange.finished {
                *self.abandoned.entry(exchange.payload).or_default() += 1;
            }
        }
        self.confirmed.clear();
        self.told.clear();
        if let Some(down) = &mut self.down {
            down.closed = true;
        }
    }

    /// The open exchange may be taken up again in another connection.
    fn interrupt(&mut self) {
        let Some(down) = self.down.as_mut().filter(|d| !d.stale && !d.closed) else {
            return;
        };
        down.stale = true;
        // The round it was in begins again.
        down.sends -= down.sends % self.sends_per_round;
        if let Some(payload) = &down.payload {
            self.started.entry(payload.clone()).or_default().interrupted += 1;
        }
    }

    /// The gateway said DISCONNECT.
    fn end(&mut self) {
        self.phase = Phase::None;
        // A kept session's publishes go on, and are answered in a later connection.
        self.due
            .retain(|(kind, _), _| !self.clean && *kind == MsgType::Puback);
        self.interrupt();
        if self.clean {
            self.forget();
        }
    }

    /// The gateway's record of the client is gone. A35 holds nevertheless.
    fn record_gone(&mut self) {
        self.forget();
        self.answers_register = false;
    }

    /// Everything the gateway knew is gone.
    fn restart(&mut self) {
        self.record_gone();
        self.abandoned.clear();
        self.stale_names.append(&mut self.names);
        self.bound = None;
        self.challenge = None;
        self.phase = Phase::None;
        self.parameters = None;
        self.connacks_due = 0;
        self.resumes_since = None;
        (self.said_goodbye, self.sent_away, self.late_goodbye) = (false, false, false);
        self.sleep_answer_due = false;
        self.last_finished = None;
        self.due.clear();
        self.registers.clear();
        self.subscribes.clear();
        self.interrupt();
        self.will = None;
        self.wills_due.clear();
        self.emitted_order = [0; 3];
    }

    /// The gateway ended, and another one found this of the client. What was promised while the disk did not work may be
    /// lost.
    fn restore(
        &mut self,
        now: Instant,
        found: Option<(SavedSession, &Bytes)>,
        spooled: Option<&FxHashSet<Bytes>>,
        weak: bool,
        failed: bool,
    ) -> Check {
        let stored = |will: &Will| spooled.is_none_or(|spooled| spooled.contains(&will.payload));
        let due = core::mem::take(&mut self.wills_due);
        let emitted = core::mem::take(&mut self.wills_emitted);
        let losses = self.losses;
        let names = self.names.clone();
        let saved = match &found {
            Some((_, value)) => Some(self.saved.get(*value).cloned().ok_or_else(|| {
                Violation::new("what is restored was stored", format!("{} {value:?}", self.id))
            })?),
            None => None,
        };
        let noted = saved.as_ref().is_none_or(|saved| saved.losses == losses);
        for will in &due {
            // A26: it is published or the client is lost once more.
            let kept = stored(will) || !noted || weak || will.qos == QoS::AtMostOnce;
            ensure(kept, "a will that is due survives", || {
                format!("{will:?} of {}", self.id)
            })?;
        }
        let again = |will: &Will| self.wills_again.iter().any(|known| known == will);
        let more: Vec<Will> = due
            .iter()
            .chain(&emitted)
            .filter(|will| !again(will))
            .cloned()
            .collect();
        let Some((session, saved)) = found.map(|(session, _)| session).zip(saved) else {
            ensure(weak || self.subs.is_empty(), "a session survives", || {
                format!("{} with {:?}", self.id, self.subs)
            })?;
            self.restart();
            self.wills_again.extend(more);
            return Ok(());
        };
        self.wills_again.extend(more);
        self.wills_due = due;
        self.wills_due
            .retain(|will| noted && spooled.is_some() && stored(will));
        let slept = matches!(self.phase, Phase::Asleep | Phase::Awake);
        self.thought_asleep = (self.thought_asleep || !slept) && session.phase == SavedPhase::Asleep;
        self.phase = match session.phase {
            SavedPhase::Active => Phase::Active,
            SavedPhase::Asleep => Phase::Asleep,
            SavedPhase::Disconnected => Phase::None,
            SavedPhase::Lost => Phase::Lost,
        };
        self.sleep = Duration::from_secs(u64::from(session.sleep));
        self.keep_alive = Duration::from_secs(u64::from(session.keep_alive));
        self.clean = session.clean;
        self.bound = saved.bound;
        self.parameters = saved.parameters;
        self.will = saved.will;
        self.names = names;
        if weak {
            self.subs = saved.subs;
            let subs = &self.subs;
            let claimed = |topic: &str| subs.keys().any(|filter| topic::matches(filter, topic));
            self.owed.retain(|_, owed| claimed(&owed.topic));
        }
        self.maybe.extend(saved.maybe);
        self.confirmed.extend(saved.confirmed);
        // What was learned of it, although the CONNECT that ended that connection may not be stored.
        self.ignores_register |= saved.ignores_register;
        self.no_dup |= saved.no_dup;
        if failed {
            // Ids that it was told while the disk did not work may come again for other names (A35).
            let stored = |id: &TopicId| saved.names.contains_key(id);
            let unsure = self.names.iter().filter(|(id, _)| !stored(id));
            let unsure = unsure.map(|(id, name)| (*id, name.clone()));
            self.stale_names.extend(unsure);
            // Nor is it sure that the next life knows what was sent: then it comes under another message id.
            if let Some(down) = &mut self.down {
                down.closed = true;
            }
            // Nor what was released.
            for started in self.started.values_mut() {
                started.released = false;
            }
        }
        for (id, name) in saved.names {
            self.names.entry(id).or_insert(name);
        }
        (self.last_heard, self.asleep_since, self.woken, self.woken_first) = (now, now, now, now);
        self.challenge = None;
        self.named_pings.clear();
        self.ping_put_off = None;
        (self.connacks_due, self.bad_connects) = (0, 0);
        (self.handshake_done, self.fresh, self.resumes_since) = (true, false, None);
        (self.said_goodbye, self.gone, self.sent_away, self.late_goodbye) = (false, false, false, false);
        (self.sleep_answer_due, self.stray) = (false, None);
        self.last_finished = None;
        self.restored = true;
        // A QoS 2 publish that goes on may be refused.
        self.due.retain(|(kind, _), _| *kind == MsgType::Puback);
        self.registers.clear();
        self.subscribes.clear();
        self.abandoned.clear();
        self.up.retain(|_, exchange| exchange.qos == QoS::ExactlyOnce);
        self.up.values_mut().for_each(|exchange| exchange.sent = false);
        self.interrupt();
        if let Some(down) = &mut self.down {
            (down.sends, down.unheard) = (0, 0);
        }
        self.started
            .values_mut()
            .for_each(|started| started.interrupted += started.exchanges.max(1));
        Ok(())
    }

    /// A REGISTER was given up. Who never answered one is sent none any more, so what needs one is dropped (A40), and
    /// perhaps what the REGISTER was for. Returns how many messages.
    fn register_unanswered(&mut self, topic: Option<&str>) -> usize {
        self.ignores_register |= !self.answers_register;
        let skips = self.ignores_register;
        let unknown = |topic: &String| !self.told.contains(topic);
        let before = self.owed.len();
        self.owed.retain(|_, owed| {
            let needs_register = skips && unknown(&owed.topic);
            Some(owed.topic.as_str()) != topic && !needs_register
        });
        before - self.owed.len()
    }

    /// A63: it moved behind a forwarder, which leaves less room, after the message came. The notice of that may follow
    /// later. Returns how many messages.
    fn drop_too_large(&mut self, room: usize) -> usize {
        let before = self.owed.len();
        self.owed
            .retain(|payload, owed| payload.len() + 7 <= room && owed.topic.len() + 6 <= room);
        before - self.owed.len()
    }

    /// PINGRESP to an active client that named itself: it may sleep now, so it has got what waited (A16).
    fn end_ping(&mut self, now: Instant) -> Check {
        let Some(asked) = self.ping_put_off.take() else {
            return Ok(());
        };
        let open = |d: &&DownExchange| d.began < asked && d.is_open(now, self.sends_per_round);
        ensure(
            self.down.as_ref().filter(open).is_none(),
            "PINGRESP when everything is acknowledged",
            || format!("{:?} to {}", self.down, self.id),
        )?;
        let kept = self.owed.iter().find(|(_, owed)| owed.since < asked);
        ensure(kept.is_none(), "PINGRESP when nothing waits (A16)", || {
            format!("{kept:?} for {}", self.id)
        })
    }

    /// PINGRESP: the client sleeps again, and has got everything that waited when it woke.
    fn end_wake(&mut self, now: Instant) -> Check {
        if self.phase != Phase::Awake {
            return Ok(());
        }
        self.phase = Phase::Asleep;
        self.asleep_since = now;
        let open = |d: &&DownExchange| d.is_open(now, self.sends_per_round);
        ensure(
            self.down.as_ref().filter(open).is_none(),
            "PINGRESP when everything is acknowledged",
            || format!("{:?} to {}", self.down, self.id),
        )?;
        // A40: what it cannot be told the name of was dropped, and is from now on if it never answers.
        if let Some(down) = self
            .down
            .as_ref()
            .filter(|d| d.kind == DownKind::Register && !d.closed)
        {
            let topic = down.topic.clone();
            self.register_unanswered(Some(&topic));
        }
        let long = now.since(self.woken_first) >= WAKE_TIME || self.wake_messages >= WAKE_MESSAGES;
        let kept = self.owed.iter().find(|(_, owed)| owed.since < self.woken);
        ensure(
            kept.is_none() || long,
            "PINGRESP when nothing waits (A71)",
            || format!("{kept:?} for {}", self.id),
        )
    }

    fn on_packet(&mut self, now: Instant, packet: Packet<'_>, names: &Names<'_>) {
        let active = self.accepts();
        let mut owe = |kind, msg_id| {
            if active {
                *self.due.entry((kind, msg_id)).or_insert(0) += 1;
            }
        };
        match packet {
            Packet::WillTopic(body) if self.phase == Phase::Setup && !self.handshake_done => {
                self.will_topic_given = body.is_some();
                self.handshake_done = body.is_none();
                self.set_will_topic(body);
            }
            Packet::WillMsg(body)
                if self.phase == Phase::Setup && !self.handshake_done && self.will_topic_given =>
            {
                self.set_will_message(body.message);
                self.handshake_done = true;
            }
            // A18: a repeated WILLMSG asks for the CONNACK again.
            Packet::WillMsg(_) if active => self.connacks_due += 1,
            Packet::WillTopicUpd(body) if active => {
                owe(MsgType::WillTopicResp, MsgId(0));
                self.set_will_topic(body);
            }
            Packet::WillMsgUpd(body) if active => {
                owe(MsgType::WillMsgResp, MsgId(0));
                self.set_will_message(body.message);
            }
            Packet::Register(register) => {
                owe(MsgType::Regack, register.msg_id);
                self.registers.insert(register.msg_id, register.topic_name.into());
            }
            Packet::Subscribe(subscribe) if active => {
                owe(MsgType::Suback, subscribe.msg_id);
                let open = self
                    .subscribes
                    .get(&subscribe.msg_id)
                    .is_some_and(|asked| !asked.answered);
                // A46: what waits for the broker is swallowed.
                if !open && let Some(filter) = names.filter(&self.id, subscribe.topic) {
                    let ever = self.ever.entry(filter.clone()).or_default();
                    *ever = (*ever).max(subscribe.qos);
                    // Another QoS may be granted from now on, so claims under the old one end.
                    let before = self.subs.remove(&filter);
                    let asked_before = !self.maybe.insert(filter.clone());
                    let named = matches!(subscribe.topic, TopicFilter::Name(_));
                    let asked = Asked {
                        filter,
                        qos: subscribe.qos,
                        named,
                        broker_was_away: false,
                        before,
                        asked_before,
                        answered: false,
                        given_back: false,
                    };
                    self.subscribes.insert(subscribe.msg_id, asked);
                }
            }
            Packet::Unsubscribe(unsubscribe) if active => {
                owe(MsgType::Unsuback, unsubscribe.msg_id);
                if let Some(filter) = names.filter(&self.id, unsubscribe.topic) {
                    self.subs.remove(&filter);
                    self.maybe.remove(&filter);
                    self.owed.retain(|_, owed| !topic::matches(&filter, &owed.topic));
                    let open = self
                        .subscribes
                        .values_mut()
                        .filter(|asked| asked.filter == filter);
                    open.for_each(|asked| asked.given_back = true);
                }
            }
            Packet::Pingreq(ping) => {
                owe(MsgType::Pingresp, MsgId(0));
                self.ping_put_off = None;
                match self.phase {
                    Phase::Active if ping.client_id.is_some() => {
                        self.named_pings.retain(|at| now.since(*at) < ROW_OF_PINGS);
                        let put_off = self.named_pings.len() < PINGS_PUT_OFF;
                        self.named_pings.push(now);
                        self.ping_put_off = put_off.then_some(now);
                        if let Some(down) = &mut self.down {
                            // With nothing waiting then, the earlier ones were not put off.
                            down.unsure |= !put_off;
                            down.due = true;
                            down.sends -= down.sends % self.sends_per_round;
                        }
                    }
                    Phase::Asleep => {
                        self.phase = Phase::Awake;
                        self.woken = now;
                        self.woken_first = now;
                        self.wake_messages = 0;
                    }
                    Phase::Awake => {
                        let spent = |d: &DownExchange| {
                            let round = d.sends > 0 && d.sends.is_multiple_of(self.sends_per_round);
                            round || now.since(d.last_sent) > WAKE_TIME
                        };
                        let over = now.since(self.woken) >= WAKE_TIME_MAX;
                        if over || self.down.as_ref().is_some_and(spent) {
                            // The wake-up may have been given up, and this begins another.
                            self.interrupt();
                            self.woken = now;
                        } else if let Some(down) = &mut self.down {
                            // Its way of saying that the last message did not arrive (section 5 of the page).
                            down.due = true;
                            down.sends -= down.sends % self.sends_per_round;
                        }
                    }
                    Phase::None | Phase::Setup | Phase::Active | Phase::Lost => {}
                }
            }
            Packet::Pubrel(msg_id) => {
                owe(MsgType::Pubcomp, msg_id);
                if let Some(exchange) = self.up.get_mut(&msg_id) {
                    exchange.finished = true;
                }
            }
            Packet::Pubrec(msg_id) if active => {
                self.received.insert(msg_id);
                owe(MsgType::Pubrel, msg_id);
                if let Some(down) = self.down.as_mut().filter(|d| d.msg_id == msg_id)
                    && down.kind == DownKind::Publish(QoS::ExactlyOnce)
                {
                    down.kind = DownKind::Pubrel;
                    self.acknowledged();
                }
                // Late, for a PUBLISH of an earlier connection whose REGISTER in this one is under way, or for a copy
                // of one that was refused for its topic id since (A41).
                let earlier = self.started.iter().find(|(_, s)| s.msg_id == Some(msg_id));
                let refused = earlier.filter(|(_, s)| s.unknown_topic && !s.released);
                let refused_as = refused.map(|(_, s)| s.refused_as.clone());
                let earlier = earlier.map(|(payload, _)| payload.clone());
                let continues = |d: &&mut DownExchange| {
                    let same = d.msg_id == msg_id || refused_as.as_ref() == Some(&d.topic);
                    same && d.kind == DownKind::Register && !d.closed
                };
                if let Some(down) = self.down.as_mut().filter(continues) {
                    (down.kind, down.msg_id) = (DownKind::Pubrel, msg_id);
                    down.payload = earlier;
                    self.acknowledged();
                } else if self.restored
                    && let Some(payload) = earlier
                {
                    // It took what an earlier life sent, whether or not this one sends something else before.
                    self.owed.remove(&payload);
                }
                // Each PUBREC is answered by a PUBREL at once.
                if let Some(down) = self
                    .down
                    .as_mut()
                    .filter(|d| d.msg_id == msg_id && d.kind == DownKind::Pubrel)
                {
                    down.sends = 0;
                }
            }
            Packet::Pubcomp(msg_id) if active => self.close(DownKind::Pubrel, msg_id),
            Packet::Puback(mut puback) if active => {
                if self.quirks.swaps_acks {
                    (puback.topic_id, puback.msg_id) = swapped(puback.topic_id, puback.msg_id);
                }
                self.on_client_puback(puback);
            }
            Packet::Regack(mut regack) if active => {
                self.answers_register = true;
                self.ignores_register = false;
                if self.quirks.swaps_acks {
                    (regack.topic_id, regack.msg_id) = swapped(regack.topic_id, regack.msg_id);
                }
                if let Some(down) = &self.down
                    && down.kind == DownKind::Register
                    && down.msg_id == regack.msg_id
                    && !down.closed
                {
                    let topic = down.topic.clone();
                    if regack.return_code == ReturnCode::Accepted {
                        self.confirmed.insert(regack.topic_id);
                        // What the last life asked under this message id may be answered only now.
                        let named = self
                            .names
                            .iter()
                            .filter(|(_, name)| **name == topic && self.restored);
                        self.confirmed.extend(named.map(|(id, _)| *id));
                        self.told.insert(topic);
                    } else {
                        self.owed.retain(|_, owed| owed.topic != topic);
                        self.refused_names.insert(topic);
                    }
                    self.close(DownKind::Register, regack.msg_id);
                }
            }
            Packet::Disconnect(Disconnect {
                duration: Some(seconds),
            }) if active && seconds > 0 => {
                self.phase = Phase::Asleep;
                self.thought_asleep = false;
                self.sleep = Duration::from_secs(u64::from(seconds));
                self.asleep_since = now;
                self.sleep_answer_due = true;
                self.ping_put_off = None;
                self.interrupt();
            }
            Packet::Disconnect(_) => {
                self.said_goodbye = true;
                self.gone = true;
                self.interrupt();
            }
            _ => {}
        }
    }

    fn on_client_puback(&mut self, puback: Puback) {
        let Some(down) = self
            .down
            .as_ref()
            .filter(|d| d.msg_id == puback.msg_id && !d.closed)
        else {
            // A41: without a message id it is about a QoS 0 message.
            if puback.return_code == ReturnCode::InvalidTopicId && puback.msg_id == MsgId(0) {
                self.confirmed.remove(&puback.topic_id);
            }
            return;
        };
        let DownKind::Publish(qos) = down.kind else {
            // Late, for a PUBLISH of an earlier connection whose REGISTER in this one was sent: if that is not under way
            // any more, the message is done with.
            if puback.return_code == ReturnCode::Accepted && down.kind == DownKind::Register {
                let is = |(_, started): &(&Bytes, &Started)| started.msg_id == Some(puback.msg_id);
                let earlier = self.started.iter().find(is).map(|(payload, _)| payload.clone());
                earlier.and_then(|payload| self.owed.remove(&payload));
            }
            return;
        };
        match puback.return_code {
            ReturnCode::Accepted if qos == QoS::AtLeastOnce => {
                self.acknowledged();
                self.close(DownKind::Publish(qos), puback.msg_id);
            }
            ReturnCode::Accepted => {}
            ReturnCode::InvalidTopicId => {
                // A41: REGISTER and once more; to who does not answer that it cannot be given. What comes late may be
                // overlooked, for it is said again.
                if !down.stale {
                    self.confirmed.remove(&puback.topic_id);
                }
                let topic = down.topic.clone();
                if let Some(payload) = down.payload.clone() {
                    let started = self.started.entry(payload.clone()).or_default();
                    // The second time it is dropped.
                    if started.unknown_topic || self.ignores_register {
                        self.owed.remove(&payload);
                    }
                    started.unknown_topic = true;
                    started.refused_as = topic;
                }
                self.interrupt();
            }
            ReturnCode::Congestion => {}
            ReturnCode::NotSupported | ReturnCode::Reserved(_) => {
                let Some(down) = &mut self.down else { return };
                if down.dup {
                    // A61: it may be refused for its DUP; then it comes once without.
                    self.no_dup = true;
                    down.due = true;
                    down.sends -= down.sends % self.sends_per_round;
                } else {
                    // A62: it is not wanted.
                    down.closed = true;
                    if let Some(payload) = &down.payload {
                        self.owed.remove(payload);
                    }
                }
            }
        }
    }

    /// The open message is with the client.
    fn acknowledged(&mut self) {
        if let Some(payload) = self.down.as_ref().and_then(|d| d.payload.clone()) {
            self.owed.remove(&payload);
            self.started.entry(payload).or_default().acknowledged = true;
        }
    }

    fn close(&mut self, kind: DownKind, msg_id: MsgId) {
        if let Some(down) = self
            .down
            .as_mut()
            .filter(|d| d.kind == kind && d.msg_id == msg_id)
        {
            down.closed = true;
            if kind != DownKind::Register {
                self.named_pings.clear();
            }
        }
    }

    fn set_will_topic(&mut self, body: Option<WillTopic<'_>>) {
        self.will = body.map(|body| Will {
            topic: body.topic.into(),
            payload: self.will.take().map(|will| will.payload).unwrap_or_default(),
            qos: body.qos,
            retain: body.retain,
        });
    }

    fn set_will_message(&mut self, message: &[u8]) {
        if let Some(will) = &mut self.will {
            will.payload = Bytes::copy_from_slice(message);
        }
    }

    fn pay(&mut self, kind: MsgType, msg_id: MsgId) -> Check {
        let due = self.due.entry((kind, msg_id)).or_insert(0);
        ensure(*due > 0, "no answer without a request", || {
            format!("{kind:?} {msg_id} to {}", self.id)
        })?;
        *due -= 1;
        Ok(())
    }

    fn on_regack(&mut self, regack: Regack) -> Check {
        self.pay(MsgType::Regack, regack.msg_id)?;
        if regack.return_code != ReturnCode::Accepted {
            return Ok(());
        }
        let Some(name) = self.registers.get(&regack.msg_id).cloned() else {
            return Ok(());
        };
        self.learn(regack.topic_id, &name)
    }

    fn learn(&mut self, id: TopicId, name: &str) -> Check {
        ensure(!id.is_reserved(), "an id is not reserved", || {
            format!("{id} for {name}")
        })?;
        let stale = self.stale_names.get(&id).filter(|old| *old != name);
        self.ids_collided |= stale.is_some();
        if stale.is_some() && stale == self.names.get(&id) {
            self.names.remove(&id);
        }
        let known = self.names.entry(id).or_insert_with(|| name.into());
        ensure(known == name, "an id never changes its name (A35)", || {
            format!("{id} of {} was {known}, now {name}", self.id)
        })?;
        self.confirmed.insert(id);
        self.told.insert(name.into());
        Ok(())
    }

    /// Checks that at most one exchange is open, and how it is repeated. Returns messages given up by rule.
    fn exchange(
        &mut self,
        now: Instant,
        next: &Next<'_>,
        first_retry: Duration,
        sends_per_round: u32,
    ) -> Result<usize, Violation> {
        let id = self.id.clone();
        let told = |down: &DownExchange| {
            format!(
                "{:?} {} to {id} while {:?} {} is open, sent {}x, last at {}",
                next.kind, next.msg_id, down.kind, down.msg_id, down.sends, down.last_sent
            )
        };
        let same = |d: &DownExchange| {
            // A new record counts its message ids from the start, so an interrupted exchange may only look the same.
            let about = next.payload.is_none() || d.payload == next.payload;
            !d.closed && d.kind == next.kind && d.msg_id == next.msg_id && about
        };
        if let Some(down) = self.down.as_mut().filter(|d| same(d)) {
            if !down.stale && down.sends > 0 {
                let waited = now.since(down.last_sent) >= first_retry;
                // A60: after a round the next packet from the client begins another.
                let new_round = down.sends % sends_per_round == 0 && down.unheard == 0;
                ensure(waited || new_round || down.due, "repeated after Tretry", || {
                    told(down)
                })?;
                ensure(
                    next.dup != Some(false) || self.no_dup,
                    "a repeat has DUP (A61)",
                    || told(down),
                )?;
                ensure(
                    down.unheard < sends_per_round,
                    "at most Nretry repeats without a sign of life",
                    || told(down),
                )?;
            }
            down.sends += 1;
            down.unheard += 1;
            ensure(
                down.sends <= sends_per_round * ROUNDS || down.stale,
                "given up after six rounds (A60)",
                || told(down),
            )?;
            down.last_sent = now;
            down.dup = next.dup == Some(true);
            (down.due, down.stale) = (false, false);
            return Ok(0);
        }
        let mut given_up = 0;
        if let Some(down) = self.down.as_ref().filter(|d| !d.closed && !d.stale) {
            let over = down.given_up(sends_per_round) || now >= down.expires;
            ensure(over, "one open exchange (A59)", || told(down))?;
            // A40, A60: without an answer the message is dropped.
            if down.kind == DownKind::Register {
                let topic = down.topic.clone();
                given_up = self.register_unanswered(Some(&topic));
            } else if let Some(payload) = &down.payload {
                given_up = usize::from(self.owed.remove(payload).is_some());
            }
        }
        // What an earlier connection began goes on under its message id, perhaps after a REGISTER.
        let repeated = next
            .payload
            .as_ref()
            .is_some_and(|p| self.started.get(p).is_some_and(|s| s.msg_id == Some(next.msg_id)));
        ensure(
            // An earlier life may have sent it.
            next.dup != Some(true) || repeated || self.restored,
            "the first sending has no DUP",
            || format!("{:?} {} to {id}", next.kind, next.msg_id),
        )?;
        if let Some(payload) = &next.payload {
            self.started.entry(payload.clone()).or_default().msg_id = Some(next.msg_id);
        }
        self.down = Some(DownExchange {
            kind: next.kind,
            msg_id: next.msg_id,
            payload: next.payload.clone(),
            topic: next.topic.into(),
            began: now,
            sends: 1,
            unheard: 1,
            last_sent: now,
            dup: next.dup == Some(true),
            due: false,
            closed: false,
            stale: false,
            unsure: false,
            expires: next.expires,
        });
        Ok(given_up)
    }
}

/// Both ids of an acknowledgement with their octets swapped (A64).
fn swapped(topic_id: TopicId, msg_id: MsgId) -> (TopicId, MsgId) {
    (TopicId(topic_id.0.swap_bytes()), MsgId(msg_id.0.swap_bytes()))
}

/// Full names behind predefined ids and short names.
struct Names<'a> {
    rules: &'a [ClientRule],
    config: &'a GatewayConfig,
}

impl Names<'_> {
    fn predefined(&self, client: &str, id: TopicId) -> Option<String> {
        let of_rule = self
            .rules
            .iter()
            .find(|rule| glob(&rule.pattern, client))
            .map(|rule| &rule.predefined);
        of_rule
            .into_iter()
            .flatten()
            .chain(&self.config.predefined)
            .find(|entry| entry.id == id)
            .map(|entry| entry.topic.replace("{client_id}", client))
    }

    fn filter(&self, client: &str, topic: TopicFilter<'_>) -> Option<String> {
        match topic {
            TopicFilter::Name(name) => Some(name.into()),
            TopicFilter::Predefined(id) => self.predefined(client, id),
            TopicFilter::Short(short) => short.as_str().map(String::from),
        }
    }
}

/// `*` for any number of characters, `?` for one.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.chars().next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = &pattern[1..];
            text.char_indices()
                .map(|(at, _)| at)
                .chain([text.len()])
                .any(|at| glob(rest, &text[at..]))
        }
        Some(first) => {
            let mut chars = text.chars();
            chars.next().is_some_and(|c| first == '?' || c == first)
                && glob(&pattern[first.len_utf8()..], chars.as_str())
        }
    }
}

/// Section 7 of the protocol page: what no gateway ever sends, beyond what does not decode.
fn never_sent(packet: &Packet<'_>) -> Check {
    let fine = match packet {
        Packet::Disconnect(disconnect) => disconnect.duration.is_none(),
        Packet::Pingreq(ping) => ping.client_id.is_none(),
        Packet::GwInfo(info) => info.gw_add.is_empty(),
        Packet::Register(register) => topic::is_valid_name(register.topic_name),
        Packet::Publish(publish) => match publish.topic {
            TopicRef::Normal(id) | TopicRef::Predefined(id) => !id.is_reserved(),
            TopicRef::Short(short) => short.as_str().is_some_and(topic::is_valid_name),
        },
        _ => true,
    };
    ensure(fine, "never sent to a client", || format!("{packet:?}"))
}

/// What is answered by DISCONNECT if its sender has no session (A13).
fn answered_by_disconnect(packet: &Packet<'_>) -> bool {
    match packet {
        Packet::Connect(_) | Packet::SearchGw(_) | Packet::Advertise(_) | Packet::GwInfo(_) => false,
        Packet::Publish(publish) => publish.qos != PublishQoS::MinusOne,
        Packet::Regack(_) | Packet::Puback(_) | Packet::Pubrec(_) | Packet::Pubcomp(_) => false,
        Packet::Pingresp => false,
        _ => true,
    }
}

/// A message that parses but carries a bad value is answered even to strangers (section 7).
fn answers_parse_error(packet: &Packet<'_>) -> bool {
    match packet {
        Packet::Regack(regack) => regack.return_code != ReturnCode::Accepted,
        Packet::Puback(puback) => puback.return_code != ReturnCode::Accepted,
        Packet::Suback(suback) => suback.return_code != ReturnCode::Accepted,
        Packet::WillTopicResp(code) | Packet::WillMsgResp(code) => *code != ReturnCode::Accepted,
        Packet::Unsuback(_) => true,
        _ => false,
    }
}
