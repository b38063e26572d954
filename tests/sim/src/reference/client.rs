//! What is known of one client, what it sends, and which answers it may expect.
//!
//! Each thing a client does has a module of its own; here it is told which one.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use gateway_core::io::Will;
use gateway_core::time::Instant;
use rustc_hash::FxHashMap;
use sn_codec::{Disconnect, MsgId, MsgType, Packet, QoS, TopicId};

use super::downlinks::Started;
use super::exchanges::{DownExchange, DownKind};
use super::owed::Owed;
use super::restarts::SavedModel;
use super::subscriptions::{Asked, Sub};
use super::topic_ids::Names;
use super::uplinks::UpExchange;
use super::violation::{Check, ensure};
use crate::Address;
use crate::admission::Challenge;
use crate::sim_client::{ClientConfig, Quirks};

/// What is known of one client.
#[derive(Debug)]
pub(super) struct ClientModel {
    pub(super) id: Arc<str>,
    pub(super) quirks: Quirks,
    pub(super) sends_per_round: u32,
    pub(super) bound: Option<Address>,
    pub(super) challenge: Option<Challenge>,
    pub(super) phase: Phase,
    /// How long it said it would sleep.
    pub(super) sleep: Duration,
    /// A DISCONNECT with a duration has not been answered.
    pub(super) sleep_answer_due: bool,
    /// The PINGREQ that began this wake-up.
    pub(super) woken: Instant,
    /// The PINGREQ before it, if this one may as well be a repeat of that.
    pub(super) woken_first: Instant,
    /// PINGREQs with its id while active, within a minute and since it last took a message (A16).
    pub(super) named_pings: Vec<Instant>,
    /// When the last of them came, if its PINGRESP follows what waited then.
    pub(super) ping_put_off: Option<Instant>,
    /// PUBLISHes begun in this wake-up.
    pub(super) wake_messages: usize,
    /// The last PINGRESP that ended a wake-up: its sleep timer starts there (§6.14).
    pub(super) asleep_since: Instant,
    pub(super) clean: bool,
    pub(super) keep_alive: Duration,
    pub(super) last_heard: Instant,
    pub(super) connacks_due: u32,
    /// CONNECTs with a value that cannot be used, not answered yet.
    pub(super) bad_connects: u32,
    /// Nothing of the handshake is missing: what follows counts, even if the CONNACK has not left yet.
    pub(super) handshake_done: bool,
    pub(super) will_topic_given: bool,
    /// Nothing was received since the CONNACK (A18).
    pub(super) fresh: bool,
    /// Since when the CONNECT of a connected client that was fresh is being handled: given up, it is as before.
    pub(super) resumes_since: Option<Instant>,
    /// What it was before that.
    pub(super) resumed: Phase,
    /// Will, CleanSession and Duration of the last CONNECT.
    pub(super) parameters: Option<(bool, bool, u16)>,
    pub(super) said_goodbye: bool,
    /// Nothing has come since its DISCONNECT that begins another session.
    pub(super) gone: bool,
    pub(super) sent_away: bool,
    /// The answer to a DISCONNECT has not left yet, and the next CONNECT is here.
    pub(super) late_goodbye: bool,
    /// Something else than CONNECT came from there without a session, so a DISCONNECT may be on its way.
    pub(super) stray: Option<Address>,
    /// PUBLISHes received, by message id.
    pub(super) up: BTreeMap<MsgId, UpExchange>,
    /// How often each message that a clean session gave up is still to be handed to the broker.
    pub(super) abandoned: FxHashMap<Bytes, u32>,
    pub(super) last_finished: Option<(MsgId, Bytes)>,
    /// Answers that requests allow, by type of the answer.
    pub(super) due: BTreeMap<(MsgType, MsgId), u32>,
    pub(super) registers: BTreeMap<MsgId, String>,
    pub(super) subscribes: BTreeMap<MsgId, Asked>,
    /// How many SUBSCRIBEs came.
    pub(super) asked: u64,
    /// Accepted towards the client and not given back.
    pub(super) subs: BTreeMap<String, Sub>,
    /// Asked for in this session and not refused or given back, acknowledged or not.
    pub(super) maybe: BTreeSet<String>,
    /// Every filter ever asked for, with the highest QoS.
    pub(super) ever: BTreeMap<String, QoS>,
    /// Every normal id this client was ever told.
    pub(super) names: BTreeMap<TopicId, String>,
    /// Names the client refused in this connection (A40).
    pub(super) refused_names: BTreeSet<String>,
    /// Names whose id it was told in this session (A40).
    pub(super) told: BTreeSet<String>,
    /// Those told before the gateway was restarted.
    pub(super) stale_names: BTreeMap<TopicId, String>,
    /// An id of an earlier record came again for another name: without persistence that is left to chance (A35).
    pub(super) ids_collided: bool,
    /// Those confirmed in this connection (A39).
    pub(super) confirmed: BTreeSet<TopicId>,
    pub(super) ignores_register: bool,
    /// It answered one, so an unanswered one was lost.
    pub(super) answers_register: bool,
    pub(super) no_dup: bool,
    pub(super) down: Option<DownExchange>,
    pub(super) started: FxHashMap<Bytes, Started>,
    pub(super) owed: BTreeMap<Bytes, Owed>,
    pub(super) will: Option<Will>,
    /// Those that the gateway owes the broker since it said that the client is lost.
    pub(super) wills_due: Vec<Will>,
    /// Those that it has handed over.
    pub(super) wills_emitted: Vec<Will>,
    /// Those that may come again, since the gateway ended before it could note that they went.
    pub(super) wills_again: Vec<Will>,
    /// How often a will was due.
    pub(super) losses: u32,
    pub(super) emitted_order: [u64; 3],
    /// QoS 2 messages that it has, by message id.
    pub(super) received: BTreeSet<MsgId>,
    /// Its session went on in another life of the gateway.
    pub(super) restored: bool,
    /// That one takes it for asleep, since the power went before its return was durable.
    pub(super) thought_asleep: bool,
    /// What it was when its record was written, by the value in the store.
    pub(super) saved: FxHashMap<Bytes, SavedModel>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
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
    pub(super) fn is_connected(self) -> bool {
        matches!(self, Phase::Active | Phase::Asleep | Phase::Awake)
    }
}

impl ClientModel {
    pub(super) fn new(config: &ClientConfig, sends_per_round: u32) -> ClientModel {
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
            asked: 0,
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

    /// A datagram of the client came.
    pub(super) fn heard(&mut self, now: Instant) {
        self.last_heard = now;
        if let Some(down) = &mut self.down {
            down.unheard = 0;
        }
    }

    /// What the client sends is processed.
    pub(super) fn accepts(&self) -> bool {
        !self.gone && (self.phase.is_connected() || (self.phase == Phase::Setup && self.handshake_done))
    }

    /// A datagram of the client came that its record is to take note of.
    pub(super) fn on_packet(&mut self, now: Instant, packet: Packet<'_>, names: &Names<'_>) {
        let active = self.accepts();
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
                self.owe_answer(MsgType::WillTopicResp, MsgId(0));
                self.set_will_topic(body);
            }
            Packet::WillMsgUpd(body) if active => {
                self.owe_answer(MsgType::WillMsgResp, MsgId(0));
                self.set_will_message(body.message);
            }
            Packet::Register(register) => {
                self.owe_answer(MsgType::Regack, register.msg_id);
                self.registers.insert(register.msg_id, register.topic_name.into());
            }
            Packet::Subscribe(subscribe) if active => self.on_subscribe(subscribe, names),
            Packet::Unsubscribe(unsubscribe) if active => self.on_unsubscribe(unsubscribe, names),
            Packet::Pingreq(ping) => self.on_pingreq(now, ping),
            Packet::Pubrel(msg_id) => self.on_client_pubrel(msg_id),
            Packet::Pubrec(msg_id) if active => self.on_client_pubrec(msg_id),
            Packet::Pubcomp(msg_id) if active => self.close(DownKind::Pubrel, msg_id),
            Packet::Puback(puback) if active => self.on_client_puback(puback),
            Packet::Regack(regack) if active => self.on_client_regack(regack),
            Packet::Disconnect(Disconnect {
                duration: Some(seconds),
            }) if active && seconds > 0 => self.on_sleep(now, seconds),
            Packet::Disconnect(_) => self.on_goodbye(),
            _ => {}
        }
    }

    /// A request of the client: if it is processed, one such answer may follow.
    pub(super) fn owe_answer(&mut self, kind: MsgType, msg_id: MsgId) {
        if self.accepts() {
            *self.due.entry((kind, msg_id)).or_insert(0) += 1;
        }
    }

    /// An answer: a request must allow it.
    pub(super) fn pay(&mut self, kind: MsgType, msg_id: MsgId) -> Check {
        let due = self.due.entry((kind, msg_id)).or_insert(0);
        ensure(*due > 0, "no answer without a request", || {
            format!("{kind:?} {msg_id} to {}", self.id)
        })?;
        *due -= 1;
        Ok(())
    }
}
