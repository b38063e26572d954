//! One client: its record, its state, and what it is owed.
//!
//! A client's code sees its own record and the [`Context`], never another client.

pub(crate) mod connect;
pub(crate) mod downlink;
pub(crate) mod register;
pub(crate) mod sleep;
pub(crate) mod subscribe;
pub(crate) mod uplink;

use core::time::Duration;
use std::sync::Arc;

use smallvec::SmallVec;
use sn_codec::{
    Connack, Disconnect, MsgId, Packet, Pingreq, Puback, QoS, Regack, ReturnCode, Suback, TopicId,
};

use self::connect::{Challenge, Setup, StoredWill};
use self::downlink::Downlink;
use self::subscribe::Subscription;
use self::uplink::OpenRequests;
use crate::clients::ClientIx;
use crate::context::Context;
use crate::durable::Waiting;
use crate::io::{Notice, RadioFacts};
use crate::link_metrics::NotSent;
use crate::links::Via;
use crate::registry::{ClientTopics, RuleIx};
use crate::schedule::{Line, Owed};
use crate::time::Instant;
use crate::upstream::{Author, Origin, Uplink};

/// Answers that one client may be owed at once (architecture: as many as requests are accepted).
const REPLIES_MAX: u8 = 16;

/// After an outage of its link a client is given at least this long to be heard of, or all of its keep-alive if that is
/// shorter: what it sent meanwhile was lost, and it repeats itself once its own Tretry is over.
const OUTAGE_GRACE: Duration = Duration::from_secs(120);

/// A client record.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) ix: ClientIx,
    /// Tells this record from earlier ones in the same place.
    pub(crate) serial: u32,
    pub(crate) id: Arc<str>,
    /// What it publishes keeps its order.
    pub(crate) author: Author,
    pub(crate) via: Option<Via>,
    pub(crate) rule: RuleIx,
    pub(crate) state: State,
    /// The state it is counted in.
    pub(crate) counted: StateKind,
    /// The flags of its CONNECT.
    pub(crate) clean: bool,
    pub(crate) asked_for_will: bool,
    /// The broker refused a subscription that the client counts on while it slept: its wake-up ends with DISCONNECT
    /// (reading A78).
    pub(crate) misled: bool,
    /// Seconds; 0 is no supervision.
    pub(crate) keep_alive: u16,
    /// Nothing was received since our CONNACK (reading A18).
    pub(crate) fresh: bool,
    pub(crate) last_seen: Instant,
    /// The timer entry that counts; others are stale.
    pub(crate) armed: Option<Instant>,
    pub(crate) will: Option<Box<StoredWill>>,
    /// Somebody else says to be this client.
    pub(crate) challenge: Option<Box<Challenge>>,
    pub(crate) topics: ClientTopics,
    pub(crate) subscriptions: SmallVec<[Subscription; 2]>,
    pub(crate) open: OpenRequests,
    /// Answers that wait in the line of its link.
    pub(crate) owed: u8,
    /// Counts how often answers were taken back: those that wait for the disk since before are not given.
    pub(crate) taken_back: u8,
    pub(crate) down: Downlink,
    /// Stands in the table's line of records that may make room.
    pub(crate) resting: bool,
    /// Whether what is stored of it is out of date.
    pub(crate) unsaved: Unsaved,
    /// Something is stored of it.
    pub(crate) saved: bool,
    /// Where it stands in line on its link.
    pub(crate) line: Option<Line>,
    /// Its link is down: it cannot be heard of, and is not expired.
    pub(crate) cut_off: bool,
    /// How it was received last.
    pub(crate) facts: LastFacts,
}

/// How far what is stored of a client is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unsaved {
    /// Not at all.
    No,
    /// By what can be found out again: it is written when something else is, so that sleeping and waking wears no
    /// card out.
    Lazy,
    /// As [`Unsaved::Lazy`], and it stands in the line for that.
    InLine,
    /// By what the client counts on.
    Urgent,
}

/// [`RadioFacts`] in half the room: the end of each range stands for "not known".
#[derive(Debug, Clone, Copy)]
pub(crate) struct LastFacts {
    rssi_dbm: i16,
    snr_db: i8,
    hops: u8,
}

impl From<RadioFacts> for LastFacts {
    fn from(facts: RadioFacts) -> Self {
        LastFacts {
            rssi_dbm: facts.rssi_dbm.unwrap_or(i16::MIN),
            snr_db: facts.snr_db.unwrap_or(i8::MIN),
            hops: facts.hops.unwrap_or(u8::MAX),
        }
    }
}

impl From<LastFacts> for RadioFacts {
    fn from(last: LastFacts) -> Self {
        RadioFacts {
            rssi_dbm: Some(last.rssi_dbm).filter(|rssi| *rssi != i16::MIN),
            snr_db: Some(last.snr_db).filter(|snr| *snr != i8::MIN),
            hops: Some(last.hops).filter(|hops| *hops != u8::MAX),
        }
    }
}

/// The states of §6.14, Figure 4, and those of a handshake.
#[derive(Debug)]
pub(crate) enum State {
    /// CONNECT with Will was received; the will is being asked for.
    Setup(Box<Setup>),
    /// Connected.
    Active,
    /// Asleep for this many seconds since it was last seen.
    Asleep { duration: u16 },
    /// Awake for its messages.
    Awake(sleep::Wake),
    /// Said goodbye; the session is kept.
    Disconnected,
    /// Was silent for too long; the session is kept.
    Lost,
    /// The record is to be removed.
    Gone,
}

/// A state without what belongs to it; a record that is to be removed counts as disconnected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StateKind {
    Active,
    Asleep,
    Awake,
    Setup,
    Disconnected,
    Lost,
}

impl StateKind {
    pub(crate) const COUNT: usize = 6;
}

impl State {
    pub(crate) fn kind(&self) -> StateKind {
        match self {
            State::Active => StateKind::Active,
            State::Asleep { .. } => StateKind::Asleep,
            State::Awake(_) => StateKind::Awake,
            State::Setup(_) => StateKind::Setup,
            State::Disconnected | State::Gone => StateKind::Disconnected,
            State::Lost => StateKind::Lost,
        }
    }

    /// Active, asleep or awake: messages of the client are processed and answered (reading A49).
    pub(crate) fn is_connected(&self) -> bool {
        matches!(self, State::Active | State::Asleep { .. } | State::Awake(_))
    }
}

/// An answer the client is owed, as small as can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    Connack(ReturnCode),
    WillTopicReq,
    WillMsgReq,
    WillTopicResp(ReturnCode),
    WillMsgResp(ReturnCode),
    Regack(TopicId, MsgId, ReturnCode),
    Puback(TopicId, MsgId, ReturnCode),
    Pubrec(MsgId),
    Pubrel(MsgId),
    Pubcomp(MsgId),
    /// Granted QoS, and what is echoed.
    Suback(QoS, TopicId, MsgId),
    SubackRefused(TopicId, MsgId, ReturnCode),
    Unsuback(MsgId),
    /// Only to ask at an address that somebody else says to have left (readings A11, A76).
    Pingreq,
    Pingresp,
    Disconnect,
}

impl Reply {
    /// Says no: nothing was done.
    pub(crate) fn is_refusal(self) -> bool {
        match self {
            Reply::Connack(code)
            | Reply::WillTopicResp(code)
            | Reply::WillMsgResp(code)
            | Reply::Regack(_, _, code)
            | Reply::Puback(_, _, code)
            | Reply::SubackRefused(_, _, code) => code != ReturnCode::Accepted,
            Reply::WillTopicReq
            | Reply::WillMsgReq
            | Reply::Pubrec(_)
            | Reply::Pubrel(_)
            | Reply::Pubcomp(_)
            | Reply::Suback(..)
            | Reply::Unsuback(_)
            | Reply::Pingreq
            | Reply::Pingresp
            | Reply::Disconnect => false,
        }
    }
}

impl From<Reply> for Packet<'static> {
    fn from(reply: Reply) -> Self {
        match reply {
            Reply::Connack(return_code) => Packet::Connack(Connack { return_code }),
            Reply::WillTopicReq => Packet::WillTopicReq,
            Reply::WillMsgReq => Packet::WillMsgReq,
            Reply::WillTopicResp(return_code) => Packet::WillTopicResp(return_code),
            Reply::WillMsgResp(return_code) => Packet::WillMsgResp(return_code),
            Reply::Regack(topic_id, msg_id, return_code) => Packet::Regack(Regack {
                topic_id,
                msg_id,
                return_code,
            }),
            Reply::Puback(topic_id, msg_id, return_code) => Packet::Puback(Puback {
                topic_id,
                msg_id,
                return_code,
            }),
            Reply::Pubrec(msg_id) => Packet::Pubrec(msg_id),
            Reply::Pubrel(msg_id) => Packet::Pubrel(msg_id),
            Reply::Pubcomp(msg_id) => Packet::Pubcomp(msg_id),
            Reply::Suback(qos, topic_id, msg_id) => Packet::Suback(Suback {
                qos,
                topic_id,
                msg_id,
                return_code: ReturnCode::Accepted,
            }),
            Reply::SubackRefused(topic_id, msg_id, return_code) => Packet::Suback(Suback {
                qos: QoS::AtMostOnce,
                topic_id,
                msg_id,
                return_code,
            }),
            Reply::Unsuback(msg_id) => Packet::Unsuback(msg_id),
            Reply::Pingreq => Packet::Pingreq(Pingreq { client_id: None }),
            Reply::Pingresp => Packet::Pingresp,
            Reply::Disconnect => Packet::Disconnect(Disconnect { duration: None }),
        }
    }
}

impl Client {
    /// A record without a session.
    pub(crate) fn new(cx: &mut Context, now: Instant, id: Arc<str>) -> Self {
        use rand::RngExt as _;
        // The next life must not give a message an id that this one gave another just now. Four a second are more than
        // a client gets.
        let first_msg_id = match cx.journal.is_on() {
            true => (0x0100 + cx.journal.unix_ms(now) / 250 % 0x7F00) as u16,
            false => cx.rng.random(),
        };
        let author = Author::of(&id);
        Client {
            ix: ClientIx(0),
            serial: 0,
            rule: cx.predefined.rule_for(&id),
            author,
            id,
            via: None,
            state: State::Disconnected,
            counted: StateKind::Disconnected,
            clean: true,
            asked_for_will: false,
            misled: false,
            keep_alive: 0,
            fresh: false,
            last_seen: now,
            armed: None,
            will: None,
            challenge: None,
            topics: ClientTopics::new(cx.id_trails.start(author.0), cx.rng.random()),
            subscriptions: SmallVec::new(),
            open: OpenRequests::default(),
            owed: 0,
            taken_back: 0,
            down: Downlink::new(first_msg_id),
            resting: false,
            unsaved: Unsaved::No,
            saved: false,
            line: None,
            cut_off: false,
            facts: LastFacts::from(RadioFacts::default()),
        }
    }

    /// In a handshake or connected: what comes from its address is the client's.
    pub(crate) fn has_session(&self) -> bool {
        matches!(self.state, State::Setup(_)) || self.state.is_connected()
    }

    /// A well-formed message of the client, other than CONNECT.
    pub(crate) fn on_packet(&mut self, cx: &mut Context, now: Instant, packet: Packet<'_>) {
        if matches!(self.state, State::Setup(_)) {
            // A connection that this handshake resumes was heard of too, should the handshake be given up.
            self.last_seen = now;
            self.facts = cx.facts.into();
            return match packet {
                Packet::WillTopic(topic) => self.on_will_topic(cx, now, topic),
                Packet::WillMsg(message) => self.on_will_msg(cx, now, message),
                Packet::Disconnect(disconnect) => self.on_disconnect(cx, disconnect),
                _ => cx.metrics.unexpected_total += 1,
            };
        }
        let was_fresh = self.fresh;
        self.seen(cx, now);
        self.answers_challenge(cx);
        match packet {
            Packet::Publish(publish) => self.on_publish(cx, now, publish),
            Packet::Puback(puback) => self.on_puback(cx, now, puback),
            Packet::Pubrec(msg_id) => self.on_pubrec(cx, now, msg_id),
            Packet::Pubrel(msg_id) => self.on_pubrel(cx, now, msg_id),
            Packet::Pubcomp(msg_id) => self.on_pubcomp(cx, msg_id),
            Packet::Register(register) => self.on_register(cx, register),
            Packet::Regack(regack) => self.on_regack(cx, now, regack),
            Packet::Subscribe(subscribe) => self.on_subscribe(cx, now, subscribe),
            Packet::Unsubscribe(unsubscribe) => self.on_unsubscribe(cx, unsubscribe),
            Packet::WillTopicUpd(topic) => self.on_will_topic_upd(cx, topic),
            Packet::WillMsgUpd(message) => self.on_will_msg_upd(cx, message),
            // Answered here whatever the broker does (reading A75).
            Packet::Pingreq(ping) if matches!(self.state, State::Active) => self.on_ping(cx, now, ping),
            Packet::Pingreq(_) => self.wake(cx, now),
            Packet::Pingresp => {}
            Packet::Disconnect(disconnect) => self.on_disconnect(cx, disconnect),
            // Our CONNACK was lost: this is how ty4tw asks for it again (reading A18).
            Packet::WillMsg(_) if was_fresh && self.asked_for_will => {
                self.fresh = true;
                self.reply(cx, Reply::Connack(ReturnCode::Accepted));
            }
            _ => cx.metrics.unexpected_total += 1,
        }
        if is_request(&packet) {
            self.down.unpause();
        }
        self.down.end_silence();
        self.down.resume();
    }

    /// Takes its place in the lines of its link, if it has something to send.
    pub(crate) fn line_up(&mut self, cx: &mut Context, now: Instant) {
        if !self.wants_to_deliver(now) {
            return;
        }
        let line = self.next_line();
        if self.line == Some(line) {
            return;
        }
        let Some(link) = self.via.as_ref().and_then(|via| cx.links.get_mut(via.link)) else {
            return;
        };
        if let Some(other) = self.line.replace(line) {
            link.lines.leave(other, self.ix);
        }
        link.lines.line_mut(line).push_back(self.ix);
    }

    /// Owes the client an answer; the same answer is not owed twice.
    pub(crate) fn reply(&mut self, cx: &mut Context, reply: Reply) {
        let since = cx.links.now;
        let Some(link) = self.via.as_ref().and_then(|via| cx.links.get_mut(via.link)) else {
            return; // Another client has its address now.
        };
        let own = Owed {
            client: self.ix,
            serial: self.serial,
            reply,
            since,
        };
        if self.owed > 0 && link.lines.is_owed_already(&own) {
            return;
        }
        if self.owed >= REPLIES_MAX {
            cx.metrics.rate_limited_total += 1;
            link.count_dropped(NotSent::QueueFull, 1);
            // What was refused is asked for again and loses nothing; what was taken would be published twice.
            if reply.is_refusal() || !link.lines.drop_refusal(self.ix) {
                return;
            }
            self.owed -= 1;
        }
        self.owed += 1;
        link.lines.replies.push_back(own);
    }

    /// Owes the client an answer once what it promises is durable.
    pub(crate) fn reply_durably(&mut self, cx: &mut Context, reply: Reply) {
        if self.unsaved > Unsaved::No {
            self.save(cx);
        }
        let waiting = Waiting::Reply {
            client: self.ix,
            serial: self.serial,
            taken_back: self.taken_back,
            reply,
        };
        if cx.journal.wait(waiting).is_some() {
            self.reply_promised(cx, reply);
        }
    }

    /// Owes the client an answer that waited for what it promises. Not before it leaves does the client know an id.
    pub(crate) fn reply_promised(&mut self, cx: &mut Context, reply: Reply) {
        if let Reply::Regack(id, _, ReturnCode::Accepted) = reply {
            self.topics.confirm(id);
        }
        self.reply(cx, reply);
    }

    /// What is stored of the client is out of date; it is written soon.
    pub(crate) fn touch(&mut self) {
        self.unsaved = Unsaved::Urgent;
    }

    /// The same, and there is no hurry.
    pub(crate) fn touch_lazily(&mut self) {
        self.unsaved = self.unsaved.max(Unsaved::Lazy);
    }

    /// Takes back what was not sent yet.
    pub(crate) fn clear_replies(&mut self, cx: &mut Context) {
        self.taken_back = self.taken_back.wrapping_add(1);
        if self.owed > 0
            && let Some(link) = self.via.as_ref().and_then(|via| cx.links.get_mut(via.link))
        {
            let (ix, topics) = (self.ix, &mut self.topics);
            link.lines.replies.retain(|owed| {
                if owed.client != ix {
                    return true;
                }
                // An id in an answer that was not sent is registered before its use (reading A39).
                if let Reply::Regack(id, ..) | Reply::Suback(_, id, _) = owed.reply
                    && let Some(topic) = topics.by_id_mut(id)
                {
                    topic.confirmed = false;
                }
                false
            });
        }
        self.owed = 0;
    }

    /// Answers not sent yet that refuse a PUBLISH.
    pub(crate) fn refused_publishes(&self, cx: &Context) -> Vec<Reply> {
        let link = self.via.as_ref().and_then(|via| cx.links.get(via.link));
        let owed = link
            .filter(|_| self.owed > 0)
            .map(|link| link.lines.replies.iter());
        owed.into_iter()
            .flatten()
            .filter(|owed| owed.client == self.ix && owed.reply.is_refusal())
            .map(|owed| owed.reply)
            .filter(|reply| matches!(reply, Reply::Puback(..)))
            .collect()
    }

    /// A well-formed message came from the client: its timers start again.
    pub(crate) fn seen(&mut self, cx: &Context, now: Instant) {
        self.last_seen = now;
        self.facts = cx.facts.into();
        self.fresh = false;
        self.cut_off = false;
    }

    /// A message of the client that had its layout and a bad value.
    pub(crate) fn heard(&mut self, cx: &mut Context, now: Instant) {
        self.seen(cx, now);
        self.answers_challenge(cx);
        self.down.resume();
    }

    /// A message that is not for the session, but shows that the client is there (reading A28).
    pub(crate) fn heard_aside(&mut self, cx: &Context, now: Instant) {
        match self.state {
            State::Setup(_) => self.last_seen = now,
            State::Active | State::Asleep { .. } | State::Awake(_) => {
                self.seen(cx, now);
                self.down.end_silence();
                self.down.resume();
            }
            State::Disconnected | State::Lost | State::Gone => {}
        }
    }

    /// Its link is down. Silence says nothing until it is back, and nothing was sent in vain.
    pub(crate) fn on_link_down(&mut self) {
        self.cut_off = self.state.is_connected();
        if matches!(self.state, State::Awake(_)) {
            self.give_up_wake();
        }
        self.down.on_link_down();
    }

    /// Its link is back after so long: it has as much time left as it had, and enough to be heard of at least.
    pub(crate) fn on_link_up(&mut self, cx: &Context, now: Instant, outage: Duration) {
        if !core::mem::take(&mut self.cut_off) {
            return;
        }
        let seconds = match &self.state {
            State::Active => self.keep_alive,
            State::Asleep { duration } => *duration,
            State::Setup(_) | State::Awake(_) | State::Disconnected | State::Lost | State::Gone => return,
        };
        let allowed = self.silence_allowed(cx, seconds);
        let silent = now
            .since(self.last_seen + outage)
            .min(allowed.saturating_sub(OUTAGE_GRACE.min(allowed)));
        self.last_seen = now.before(silent);
    }

    /// When the client wants to be looked at next.
    pub(crate) fn deadline(&self, cx: &Context) -> Option<Instant> {
        let state = match &self.state {
            _ if self.cut_off => {
                let challenge = self.challenge.as_ref().map(|challenge| challenge.deadline());
                return [self.expires_at(cx), challenge].into_iter().flatten().min();
            }
            State::Setup(setup) => setup.deadline(),
            State::Active => self.last_seen + self.silence_allowed(cx, self.keep_alive),
            State::Asleep { duration } => self.last_seen + self.silence_allowed(cx, *duration),
            State::Awake(wake) => wake.until,
            State::Disconnected | State::Lost => self.last_seen + cx.config.timers.session_expiry,
            State::Gone => return None,
        };
        let delivery = self.down.deadline().filter(|_| self.may_deliver());
        let challenge = self.challenge.as_ref().map(|challenge| challenge.deadline());
        [Some(state), delivery, self.expires_at(cx), challenge]
            .into_iter()
            .flatten()
            .min()
    }

    /// How long the client may be silent, awake (reading A28; A27 for Duration 0) or asleep (reading A72).
    fn silence_allowed(&self, cx: &Context, seconds: u16) -> Duration {
        let timers = &cx.config.timers;
        if seconds == 0 {
            return timers.idle_eviction;
        }
        Duration::from_millis(u64::from(seconds) * u64::from(timers.keep_alive_tolerance_percent) * 10)
    }

    /// A deadline may have passed: does what is due.
    pub(crate) fn on_deadline(&mut self, cx: &mut Context, now: Instant) {
        self.armed = None;
        self.drop_expired(cx, now);
        match &self.state {
            _ if self.cut_off => {}
            State::Setup(_) => self.on_setup_deadline(cx, now),
            State::Active if now >= self.last_seen + self.silence_allowed(cx, self.keep_alive) => {
                self.lose(cx, now);
            }
            State::Asleep { duration } if now >= self.last_seen + self.silence_allowed(cx, *duration) => {
                self.lose(cx, now);
            }
            State::Disconnected | State::Lost if now >= self.last_seen + cx.config.timers.session_expiry => {
                self.state = State::Gone;
            }
            State::Active | State::Awake(_) => self.on_delivery_deadline(cx, now),
            State::Asleep { .. } | State::Disconnected | State::Lost | State::Gone => {}
        }
    }

    /// The client is assumed unreachable: its will is published (reading A26).
    fn lose(&mut self, cx: &mut Context, now: Instant) {
        cx.metrics.lost_total += 1;
        let mut published = false;
        if let Some(will) = &self.will
            && let Some(topic) = &will.topic
            && cx.may_publish(topic)
        {
            let topic = cx.names.with_prefix(&cx.config.upstream.topic_prefix, topic);
            let message = Uplink {
                topic,
                qos: will.qos,
                retain: will.retain,
                payload: will.payload.clone(),
            };
            match cx.publish(now, self.author, Origin::Gateway, message) {
                Ok(_) => {
                    cx.metrics.wills_published_total += 1;
                    published = true;
                }
                Err(_) => cx.metrics.publish_dropped_total += 1,
            }
        }
        cx.notice(Notice::Lost {
            client: self.id.clone(),
            will: published,
        });
        self.end_connection(cx);
        self.unsaved = Unsaved::Urgent;
        // Until now a clean session lived through the sleep (reading A74).
        self.state = if self.clean { State::Gone } else { State::Lost };
    }

    /// What belongs to the connection and not to the session ends with it.
    pub(crate) fn end_connection(&mut self, cx: &mut Context) {
        self.challenge = None; // Its CONNECT comes again and is answered by what the client is then.
        self.clear_replies(cx);
        self.down.abort();
        self.cut_off = false;
        self.misled = false;
    }

    /// Room left in a datagram to this client, in octets.
    pub(crate) fn mtu(&self, cx: &Context) -> usize {
        let Some(via) = &self.via else { return 0 };
        cx.links.mtu(via.link).saturating_sub(via.overhead())
    }
}

/// Messages that ask for something, as opposed to acknowledgements.
fn is_request(packet: &Packet<'_>) -> bool {
    matches!(
        packet,
        Packet::Publish(_)
            | Packet::Pubrel(_)
            | Packet::Register(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::Pingreq(_)
            | Packet::WillTopicUpd(_)
            | Packet::WillMsgUpd(_)
    )
}
