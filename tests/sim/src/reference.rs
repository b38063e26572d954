//! The model of what must hold, watching everything that passes the gateway's borders.
//!
//! It sees each datagram and broker event before the gateway does, and each output after. It keeps what a client and a
//! broker could know, not what the gateway does inside, and says which rule an output breaks. References such as `A46` are
//! the readings of the specification in `docs/reading-of-the-spec.md`.
//!
//! Here each input and output finds those whom it concerns. The rules are with the ideas that they are about:
//!
//! * `datagrams`: how every datagram looks, and what strangers get (A13)
//! * `addresses`: where a client is, and who may take its session elsewhere (A11, A16, A82)
//! * `connections`: from CONNECT to goodbye or silence (A18 to A21, A28, A78)
//! * `wills`: what is published for a lost client, once (A26)
//! * `topic_ids`: which id stands for which name, and who knows it (A35, A39, A40)
//! * `subscriptions`: what a client asked for and was granted, and who waits for the broker (A31, A46, A53, A54)
//! * `uplinks`: messages of clients, from PUBLISH to the broker and the acknowledgement (A46)
//! * `requests`: what the broker was asked and has not answered, over lost connections (A31)
//! * `owed`: messages to which a client has a claim, and when it loses that (A40, A63, A70)
//! * `downlinks`: what a PUBLISH to a client may bring, and how often (A54, A57, A66, A70)
//! * `exchanges`: one at a time, its repeats, and what the client says to it (A41, A51, A59 to A62, A64)
//! * `sleep`: when a client may be sent anything, and what a wake-up must bring (A16, A71)
//! * `restarts`: what survives the end of the gateway
//!
//! `client` is what is known of one client, for all of them.

mod addresses;
mod client;
mod connections;
mod datagrams;
mod downlinks;
mod exchanges;
mod owed;
mod requests;
mod restarts;
mod sleep;
mod subscriptions;
mod topic_ids;
mod uplinks;
mod violation;
mod wills;

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use gateway_core::config::{AddressChange, GatewayConfig, SleepRules};
use gateway_core::io::{
    BrokerEvent, BrokerRequest, ConnId, DeliveryId, Destination, FilterId, Notice, Token,
};
use gateway_core::peer::LinkAddr;
use gateway_core::time::Instant;
use rustc_hash::{FxHashMap, FxHashSet};
use sn_codec::{Encapsulation, MsgId, MsgType, Packet};

use crate::admission::{ForwarderLimits, Verdict};
use crate::sim_broker::Publication;
use crate::sim_client::ClientConfig;
use crate::{Address, ClientIx};

use client::{ClientModel, Phase};
use datagrams::{answered_by_disconnect, never_sent, to_stranger, well_formed};
use downlinks::MessageModel;
use requests::{ConnModel, TokenModel};
use restarts::DiskModel;
use topic_ids::Names;
use uplinks::UplinkModel;
use violation::ensure;

pub use violation::{Check, Violation};

/// How late a timer may be: inputs are handed over in batches.
const LATE: Duration = Duration::from_secs(1);

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
    /// Publishes refused for now, by the order in which they were sent first.
    postponed: FxHashMap<Token, u64>,
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
    /// How the disk is at the moment.
    pub disk: DiskModel,
    /// It did not work at some time in this life of the gateway: the next one may have forgotten.
    pub disk_failed_since_start: bool,
    /// Messages given up by rule: unanswered REGISTER (A40), poison (A60), full buffer (A70), too large (A63).
    pub given_up: usize,
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
            postponed: FxHashMap::default(),
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
            disk: DiskModel::Works,
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

    /// The gateway was told to stop.
    pub fn shut_down(&mut self) {
        self.shutting_down = true;
    }

    /// True for the message of a client or of a will, and for the empty one.
    pub fn knows(&self, payload: &[u8]) -> bool {
        payload.is_empty() || self.uplinks.contains_key(payload) || self.wills.contains_key(payload)
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
            client.note_fresh(&packet);
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
            if let Packet::Subscribe(subscribe) = packet {
                self.note_outage(ix, subscribe.msg_id);
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
            self.given_up += client.drop_too_old(now, max_age);
            client.end_challenge(now);
        }
    }

    /// An event is about to be handed to the gateway.
    pub fn on_broker_event(&mut self, now: Instant, event: &BrokerEvent, publication: Option<Publication>) {
        match event {
            BrokerEvent::Up {
                conn,
                session_present,
                ..
            } => self.on_up(*conn, *session_present),
            BrokerEvent::Down { conn, .. } => {
                self.conns.entry(*conn).or_default().up = false;
                self.on_broker_away();
            }
            BrokerEvent::Credit { .. } | BrokerEvent::Delivered { .. } | BrokerEvent::Released { .. } => {}
            BrokerEvent::Settled { token, result } => self.on_settled(*token, *result),
            BrokerEvent::Lost { token } => self.on_lost_request(*token),
            BrokerEvent::Message { .. } => self.on_message(now, event, publication),
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
        well_formed(&packet, encapsulation, datagram, self.mtu)?;
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
            return to_stranger(&packet, addr);
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
            Packet::Pingresp => self.on_pingresp(now, ix),
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

    /// The gateway asks the broker for something.
    ///
    /// Credit and window are checked by the broker itself.
    ///
    /// # Errors
    /// The rule it breaks.
    pub fn on_request(&mut self, now: Instant, request: &BrokerRequest) -> Check {
        self.pass_time(now);
        self.published += 1;
        match request {
            BrokerRequest::Publish { .. } => self.on_published(request),
            BrokerRequest::Subscribe {
                conn,
                token,
                filter,
                id,
                ..
            } => {
                self.track(*conn, Some(*token), request)?;
                self.on_filter_asked(*id, filter, request)?;
                self.reopen(Some(*token))
            }
            BrokerRequest::Unsubscribe { conn, token, filter } => {
                self.track(*conn, Some(*token), request)?;
                self.on_filter_given_back(filter)?;
                self.reopen(Some(*token))
            }
            BrokerRequest::Open { conn, options } => {
                self.on_open(*conn, options);
                Ok(())
            }
            BrokerRequest::Ack { conn, delivery } => {
                self.unacknowledged.remove(&(*conn, *delivery));
                Ok(())
            }
            BrokerRequest::Close { .. } | BrokerRequest::Complete { .. } => Ok(()),
        }
    }

    /// The gateway tells something for the log.
    ///
    /// # Errors
    /// The rule it breaks.
    pub fn on_notice(&mut self, now: Instant, notice: &Notice) -> Check {
        self.pass_time(now);
        match notice {
            Notice::Lost { client, will } => self.on_lost_client(now, client, *will),
            Notice::Disconnected { client, .. } => self.on_sent_away(client),
            Notice::TooLarge { client, topic, len } => {
                self.on_too_large(client, topic, *len);
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
            | Notice::SpoolFull { .. }
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
}
