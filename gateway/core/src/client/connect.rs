//! CONNECT with its will handshake, will updates and DISCONNECT (§6.2–6.4, §6.12).

use core::time::Duration;
use std::sync::Arc;

use bytes::Bytes;
use sn_codec::{Connect, Disconnect, QoS, ReturnCode, WillMsg, WillTopic};

use super::{Client, Reply, State};
use crate::clients::{ClientIx, Peer};
use crate::config::{AddressChange, Retry, UnknownSender};
use crate::context::Context;
use crate::gateway::Gateway;
use crate::io::Notice;
use crate::links::Via;
use crate::peer::LinkId;
use crate::time::Instant;

/// A will handshake under way.
#[derive(Debug)]
pub(crate) struct Setup {
    stage: Stage,
    connect: Parameters,
    /// The will so far; its payload is still missing.
    will: Option<StoredWill>,
    sends: u8,
    retry_at: Instant,
    give_up_at: Instant,
    /// The session goes on (reading A18, A20): what the client was before.
    resumes: Option<Resumed>,
}

/// What is to be published when the client is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredWill {
    /// Without one nothing is published: the client gave a will message and no topic yet (reading A25).
    pub(crate) topic: Option<Arc<str>>,
    pub(crate) payload: Bytes,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// Seconds after which a later life would publish it, by what is stored of the client; 0 is never.
    pub(crate) published_after: u16,
}

/// The prompt the client was last given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    WillTopic,
    WillMsg,
}

/// What the client was before its CONNECT resumed the session.
#[derive(Debug, Clone, Copy)]
enum Resumed {
    Active,
    Asleep { duration: u16 },
}

/// What a CONNECT asks for, apart from the client id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parameters {
    will: bool,
    clean_session: bool,
    duration: u16,
}

/// A CONNECT from a new address that waits for whether the client still answers at its old one (reading A11).
#[derive(Debug)]
pub(crate) struct Challenge {
    via: Via,
    connect: Parameters,
    /// The next PINGREQ to the old address, or the end.
    at: Instant,
    pings_left: u8,
}

/// PINGREQs to the old address within one Tretry: the newcomer must not repeat its CONNECT without an answer for long,
/// and one lost datagram must not give a client away.
const CHALLENGE_PINGS: u8 = 3;

impl Challenge {
    pub(crate) fn deadline(&self) -> Instant {
        self.at
    }
}

impl Setup {
    pub(crate) fn deadline(&self) -> Instant {
        self.retry_at.min(self.give_up_at)
    }
}

impl Gateway {
    /// ```text
    /// C→G CONNECT(will=1)  G→C WILLTOPICREQ  C→G WILLTOPIC  G→C WILLMSGREQ  C→G WILLMSG  G→C CONNACK
    /// C→G CONNECT(will=0)                                                                G→C CONNACK
    /// ```
    pub(crate) fn on_connect(
        &mut self,
        now: Instant,
        via: Via,
        bound: Option<ClientIx>,
        connect: Connect<'_>,
    ) {
        let parameters = Parameters {
            will: connect.will,
            clean_session: connect.clean_session,
            duration: connect.duration,
        };
        let id = match self.accepted_id(connect, bound) {
            Ok(id) => id,
            Err(reason) => return self.refuse(via, connect.client_id, ReturnCode::NotSupported, reason),
        };
        let known = self.clients.by_id(&id);
        // What is bound to this node already makes room for what comes.
        if bound.is_none()
            && let Some(reason) = self.no_place(now, known, &via)
        {
            return self.refuse(via, &id, ReturnCode::Congestion, reason);
        }
        let in_setup = known.is_some_and(|ix| self.is_in_setup(ix));
        if connect.will && !in_setup && self.cx.pending_connects >= self.cx.config.limits.pending_connects {
            return self.refuse(via, &id, ReturnCode::Congestion, "too many will handshakes");
        }
        if let Some(ix) = known
            && !self.may_move(now, ix, &via, parameters)
        {
            return;
        }
        let ix = match known {
            Some(ix) => ix,
            None => match self.admit(now, &id) {
                Some(ix) => ix,
                None => return self.refuse(via, &id, ReturnCode::Congestion, "no capacity"),
            },
        };
        // Another client of this address stays alive until its own timer ends (reading A12); another address of this
        // client is forgotten (reading A11).
        // What is still owed to it as a stranger, or from before, would end the session that begins now.
        self.cx.links.forget_disconnects(&via);
        self.bind(ix, via);
        let same_address = bound == Some(ix);
        if let Some(client) = self.clients.get_mut(ix) {
            client.on_connect(&mut self.cx, now, parameters, known.is_some(), same_address);
        }
        self.after(now, ix);
    }

    /// Whether a CONNECT from `via` may take the record (reading A11). If not, it was answered or is put off.
    fn may_move(&mut self, now: Instant, ix: ClientIx, via: &Via, connect: Parameters) -> bool {
        let Some(client) = self.clients.get_mut(ix) else {
            return true;
        };
        let elsewhere = client
            .via
            .as_ref()
            .is_some_and(|own| Peer::from(own) != Peer::from(via));
        if !elsewhere || !client.has_session() {
            return true;
        }
        let refused = match self.cx.address_change(client.rule) {
            AddressChange::Open => return true,
            // Where it sleeps it cannot be asked, and NAT forgets it meanwhile.
            AddressChange::Guarded if !matches!(client.state, State::Active) => return true,
            AddressChange::Guarded => match &mut client.challenge {
                None => {
                    client.challenge(&mut self.cx, now, via.clone(), connect);
                    self.after(now, ix);
                    return false;
                }
                // Its repeat; it is still being asked for.
                Some(challenge) if Peer::from(&challenge.via) == Peer::from(via) => {
                    challenge.connect = connect;
                    return false;
                }
                Some(_) => "another address is being checked",
            },
            AddressChange::Strict => "connected at another address",
        };
        let id = client.id.clone();
        self.cx.metrics.takeovers_refused_total += 1;
        self.refuse(via.clone(), &id, ReturnCode::Congestion, refused);
        false
    }

    /// The client did not answer at its old address: it is at the new one (reading A11).
    pub(crate) fn take_over(&mut self, now: Instant, ix: ClientIx) {
        let Some(client) = self.clients.get_mut(ix) else {
            return;
        };
        let Some(Challenge { via, connect, .. }) = client.challenge.take().map(|challenge| *challenge) else {
            return;
        };
        let id = client.id.clone();
        if let Some(reason) = self.no_place(now, Some(ix), &via) {
            return self.refuse(via, &id, ReturnCode::Congestion, reason);
        }
        self.cx.links.forget_disconnects(&via);
        self.bind(ix, via);
        if let Some(client) = self.clients.get_mut(ix) {
            client.on_connect(&mut self.cx, now, connect, true, false);
        }
        self.after(now, ix);
    }

    /// The id to use: as given, or made up for an empty one (readings A14, A15).
    fn accepted_id(
        &mut self,
        connect: Connect<'_>,
        bound: Option<ClientIx>,
    ) -> Result<Arc<str>, &'static str> {
        use rand::RngExt as _;
        let id = connect.client_id;
        if id.len() > self.cx.config.limits.client_id_bytes {
            return Err("client id too long");
        }
        if !id.is_empty() {
            let known = self.clients.by_id(id).and_then(|ix| self.clients.get(ix));
            return Ok(known.map_or_else(|| Arc::from(id), |client| client.id.clone()));
        }
        if !connect.clean_session {
            return Err("an empty client id needs a clean session");
        }
        // A repeated CONNECT is found by its address, the only thing such a client can be found by.
        let repeated = bound
            .and_then(|ix| self.clients.get(ix))
            .filter(|client| client.id.starts_with("auto-"));
        Ok(match repeated {
            Some(client) => client.id.clone(),
            None => format!("auto-{:016x}", self.cx.rng.random::<u64>()).into(),
        })
    }

    /// A record for a new client, or `None` if there is no place.
    fn admit(&mut self, now: Instant, id: &Arc<str>) -> Option<ClientIx> {
        if !self.cx.new_sessions.allow(now) {
            return None;
        }
        if self.clients.len() >= self.cx.config.limits.clients {
            self.evict(now)?;
        }
        let client = Client::new(&mut self.cx, now, id.clone());
        Some(self.clients.insert(client))
    }

    /// Makes room: a session that nobody is connected to goes.
    fn evict(&mut self, now: Instant) -> Option<()> {
        let ix = self.clients.pop_resting()?;
        if let Some(client) = self.clients.get_mut(ix) {
            client.state = State::Gone;
        }
        self.after(now, ix);
        Some(())
    }

    fn refuse(&mut self, via: Via, id: &str, code: ReturnCode, reason: &'static str) {
        match code {
            ReturnCode::Congestion => self.cx.metrics.connects_congestion_total += 1,
            _ => self.cx.metrics.connects_refused_total += 1,
        }
        self.cx.notice(Notice::Refused {
            client: id.into(),
            reason,
        });
        let answer = sn_codec::Packet::Connack(sn_codec::Connack { return_code: code });
        self.answer_stranger(via, answer);
    }

    /// A message that only a connected client may send, from a peer that is not: it is told to connect again (§6.12,
    /// reading A13).
    pub(crate) fn on_stranger(&mut self, now: Instant, via: Via) {
        self.cx.metrics.unknown_sender_total += 1;
        if self.cx.config.unknown_sender == UnknownSender::Ignore {
            return;
        }
        let peer_hash = self.clients.peer_hash(Peer::from(&via));
        if self.cx.strangers.allow(now, peer_hash) {
            self.answer_stranger(via, Reply::Disconnect.into());
        } else {
            self.cx.metrics.rate_limited_total += 1;
        }
    }
}

impl Client {
    /// Asks at the old address whether the client is still there.
    fn challenge(&mut self, cx: &mut Context, now: Instant, via: Via, connect: Parameters) {
        self.challenge = Some(Box::new(Challenge {
            via,
            connect,
            at: now + cx.config.timers.retry_first / u32::from(CHALLENGE_PINGS),
            pings_left: CHALLENGE_PINGS - 1,
        }));
        self.reply(cx, Reply::Pingreq);
    }

    /// True if the old address was asked often enough and did not answer.
    pub(crate) fn on_challenge_deadline(&mut self, cx: &mut Context, now: Instant) -> bool {
        let Some(challenge) = self.challenge.as_mut().filter(|challenge| now >= challenge.at) else {
            return false;
        };
        let Some(left) = challenge.pings_left.checked_sub(1) else {
            return true;
        };
        challenge.pings_left = left;
        challenge.at = now + cx.config.timers.retry_first / u32::from(CHALLENGE_PINGS);
        self.reply(cx, Reply::Pingreq);
        false
    }

    /// The client is still at its old address: the newcomer is refused.
    pub(crate) fn answers_challenge(&mut self, cx: &mut Context) {
        let Some(challenge) = self.challenge.take() else {
            return;
        };
        cx.metrics.takeovers_refused_total += 1;
        cx.metrics.connects_congestion_total += 1;
        cx.notice(Notice::Refused {
            client: self.id.clone(),
            reason: "its old address still answers",
        });
        cx.links
            .answer_stranger(challenge.via, Reply::Connack(ReturnCode::Congestion).into());
    }

    fn on_connect(
        &mut self,
        cx: &mut Context,
        now: Instant,
        connect: Parameters,
        known: bool,
        same_address: bool,
    ) {
        let same_flags = self.clean == connect.clean_session && self.asked_for_will == connect.will;
        let repeated = self.fresh && same_address && same_flags && self.keep_alive == connect.duration;
        let resumes = match &self.state {
            // Our CONNACK was lost: the client has done nothing since (reading A18).
            State::Active if repeated => Some(Resumed::Active),
            // The return from sleep keeps everything, whatever Clean says (reading A20).
            State::Asleep { duration } if same_flags => Some(Resumed::Asleep { duration: *duration }),
            State::Awake(wake) if same_flags => Some(Resumed::Asleep {
                duration: wake.duration,
            }),
            // The CONNECT of a handshake under way starts it again.
            State::Setup(setup) if same_flags => setup.resumes,
            State::Setup(_) => None,
            // A device that starts anew, or wants something else (reading A19).
            State::Active | State::Asleep { .. } | State::Awake(_) => None,
            State::Disconnected | State::Lost | State::Gone => None,
        };
        self.last_seen = now;
        self.facts = cx.facts.into();
        self.leave_setup(cx);
        self.end_connection(cx);
        let kept = known && !self.clean && !connect.clean_session;
        if resumes.is_none() {
            self.start_session(cx, connect, kept);
        }
        if !connect.will {
            return self.accept(cx, now, connect, resumes.is_some() || kept);
        }
        cx.pending_connects += 1;
        self.state = State::Setup(Box::new(Setup {
            stage: Stage::WillTopic,
            connect,
            will: None,
            sends: 1,
            retry_at: now + self.retry(cx).first,
            give_up_at: now + self.handshake_time(cx),
            resumes,
        }));
        self.reply(cx, Reply::WillTopicReq);
    }

    /// What an earlier session leaves to this one, if it is `kept` (§6.3; readings A22, A23): a clean one ends with its
    /// connection, whatever this one asks for (readings A19, A20).
    fn start_session(&mut self, cx: &mut Context, connect: Parameters, kept: bool) {
        self.clean = connect.clean_session;
        self.asked_for_will = connect.will;
        if kept {
            self.topics.unconfirm_all();
            self.open.end_connection();
        } else {
            self.drop_subscriptions(cx);
            self.clear_queue(cx);
            self.topics.clear();
            self.forget_requests(cx);
            self.will = None;
        }
    }

    /// The session is the gateway's own, so the broker may be away (reading A29).
    fn accept(&mut self, cx: &mut Context, now: Instant, connect: Parameters, resumed: bool) {
        self.keep_alive = connect.duration;
        self.state = State::Active;
        self.misled = false;
        self.last_seen = now;
        self.fresh = true;
        self.touch();
        cx.metrics.connects_accepted_total += 1;
        if let Some(via) = &self.via {
            let notice = Notice::Connected {
                client: self.id.clone(),
                link: via.link,
                addr: via.into(),
                keep_alive: connect.duration,
                clean: connect.clean_session,
                resumed,
                buffered: self.down.len(),
                facts: self.facts.into(),
            };
            cx.notice(notice);
        }
        self.down.count_delivered();
        self.reply(cx, Reply::Connack(ReturnCode::Accepted));
    }

    /// C→G WILLTOPIC   G→C WILLMSGREQ; without a topic there is no will, and CONNACK follows.
    pub(crate) fn on_will_topic(&mut self, cx: &mut Context, now: Instant, topic: Option<WillTopic<'_>>) {
        let retry_first = self.retry(cx).first;
        let State::Setup(setup) = &mut self.state else {
            return;
        };
        let Some(topic) = topic else {
            self.will = None;
            return self.finish_setup(cx, now);
        };
        let retry_at = now + retry_first;
        setup.will = Some(StoredWill {
            topic: Some(topic.topic.into()),
            payload: Bytes::new(),
            qos: topic.qos,
            retain: topic.retain,
            published_after: 0,
        });
        setup.stage = Stage::WillMsg;
        setup.sends = 1;
        setup.retry_at = retry_at;
        self.reply(cx, Reply::WillMsgReq);
    }

    /// C→G WILLMSG   G→C CONNACK.
    pub(crate) fn on_will_msg(&mut self, cx: &mut Context, now: Instant, message: WillMsg<'_>) {
        let State::Setup(setup) = &mut self.state else {
            return;
        };
        if setup.stage != Stage::WillMsg {
            cx.metrics.unexpected_total += 1;
            return;
        }
        let payload = Bytes::copy_from_slice(message.message);
        self.will = setup
            .will
            .take()
            .map(|will| Box::new(StoredWill { payload, ..will }));
        self.finish_setup(cx, now);
    }

    fn finish_setup(&mut self, cx: &mut Context, now: Instant) {
        let State::Setup(setup) = &self.state else { return };
        let (connect, resumed) = (setup.connect, setup.resumes.is_some());
        self.leave_setup(cx);
        self.clear_replies(cx);
        self.accept(cx, now, connect, resumed);
    }

    /// The will that the client sent cannot be used (reading A24).
    pub(crate) fn abort_setup(&mut self, cx: &mut Context) {
        let State::Setup(setup) = &self.state else { return };
        let rest = self.resting_state(setup.resumes);
        self.leave_setup(cx);
        self.state = rest;
    }

    /// Prompts are repeated; after Nretry, or when its time is over, the handshake is given up silently (A21).
    pub(crate) fn on_setup_deadline(&mut self, cx: &mut Context, now: Instant) {
        let retry = self.retry(cx);
        let waits = self.owed > 0;
        let State::Setup(setup) = &mut self.state else {
            return;
        };
        if now >= setup.give_up_at || (now >= setup.retry_at && !waits && setup.sends > retry.count) {
            self.abort_setup(cx);
        } else if now >= setup.retry_at {
            setup.retry_at = now + retry.first;
            if waits {
                return; // The last prompt has not gone out yet.
            }
            setup.sends += 1;
            let prompt = match setup.stage {
                Stage::WillTopic => Reply::WillTopicReq,
                Stage::WillMsg => Reply::WillMsgReq,
            };
            cx.metrics.retransmissions_total += 1;
            self.reply(cx, prompt);
        }
    }

    /// A prompt left the antenna: its answer is waited for from now on.
    pub(crate) fn on_prompt_sent(&mut self, cx: &mut Context, now: Instant, reply: Reply, len: usize) {
        if !matches!(reply, Reply::WillTopicReq | Reply::WillMsgReq) {
            return;
        }
        let Some(link) = self.via.as_ref().map(|via| via.link) else {
            return;
        };
        let needed = cx.links.answer_wait(now, link, len, &mut cx.rng);
        let wait = self.retry(cx).first.max(needed);
        if let State::Setup(setup) = &mut self.state {
            setup.retry_at = now + wait;
        }
    }

    fn retry(&self, cx: &Context) -> Retry {
        let link = self.via.as_ref().map_or(LinkId(0), |via| via.link);
        cx.config.retry(link)
    }

    /// A radio on which each prompt is waited for longer has more time for all of them.
    fn handshake_time(&self, cx: &Context) -> Duration {
        let Retry { first, count, .. } = self.retry(cx);
        cx.config
            .timers
            .will_handshake
            .max(first.saturating_mul(u32::from(count) + 1))
    }

    /// Ends the count of this handshake; the caller sets the next state.
    fn leave_setup(&mut self, cx: &mut Context) {
        if matches!(self.state, State::Setup(_)) {
            cx.pending_connects -= 1;
            self.state = State::Disconnected;
        }
    }

    /// Where a client is that does not finish its CONNECT.
    fn resting_state(&self, resumes: Option<Resumed>) -> State {
        match resumes {
            Some(Resumed::Asleep { duration }) => State::Asleep { duration },
            Some(Resumed::Active) => State::Active,
            None if self.clean => State::Gone,
            None => State::Disconnected,
        }
    }

    /// WILLTOPICUPD → WILLTOPICRESP; without a topic it deletes the will (§6.4, reading A25).
    pub(crate) fn on_will_topic_upd(&mut self, cx: &mut Context, topic: Option<WillTopic<'_>>) {
        match topic {
            None => self.will = None,
            Some(topic) => {
                let payload = self.will.take().map(|will| will.payload).unwrap_or_default();
                let (qos, retain) = (topic.qos, topic.retain);
                self.will = Some(Box::new(StoredWill {
                    topic: Some(topic.topic.into()),
                    payload,
                    qos,
                    retain,
                    published_after: 0,
                }));
            }
        }
        self.touch();
        self.reply_durably(cx, Reply::WillTopicResp(ReturnCode::Accepted));
    }

    /// WILLMSGUPD → WILLMSGRESP. Without a will topic the message is kept until there is one (reading A25).
    pub(crate) fn on_will_msg_upd(&mut self, cx: &mut Context, message: WillMsg<'_>) {
        let payload = Bytes::copy_from_slice(message.message);
        match &mut self.will {
            Some(will) => will.payload = payload,
            None => {
                self.will = Some(Box::new(StoredWill {
                    topic: None,
                    payload,
                    qos: QoS::AtMostOnce,
                    retain: false,
                    published_after: 0,
                }));
            }
        }
        self.touch();
        self.reply_durably(cx, Reply::WillMsgResp(ReturnCode::Accepted));
    }

    /// DISCONNECT with a duration is sleep, without one or with 0 (reading A67) goodbye: the will is not published.
    pub(crate) fn on_disconnect(&mut self, cx: &mut Context, disconnect: Disconnect) {
        match disconnect.duration.filter(|seconds| *seconds > 0) {
            Some(duration) if self.state.is_connected() => self.fall_asleep(cx, duration),
            _ => self.goodbye(cx, "client said goodbye"),
        }
    }

    /// Ends the connection with a DISCONNECT to the client; the will is not published.
    pub(crate) fn goodbye(&mut self, cx: &mut Context, reason: &'static str) {
        self.leave_setup(cx);
        let refused = self.refused_publishes(cx);
        self.end_connection(cx);
        if let Some(via) = self.via.clone() {
            for refusal in refused {
                cx.links.answer_stranger(via.clone(), refusal.into());
            }
            cx.links.answer_stranger(via, Reply::Disconnect.into());
        }
        cx.notice(Notice::Disconnected {
            client: self.id.clone(),
            reason,
        });
        self.touch();
        self.state = if self.clean {
            State::Gone
        } else {
            State::Disconnected
        };
    }
}
