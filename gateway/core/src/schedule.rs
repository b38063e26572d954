//! Who sends next on a link.
//!
//! Clients are not given datagrams to keep: they stand in line with what they owe, and a datagram is made when its
//! link takes it. Answers go before clients that are awake, those before exchanges, those before QoS 0, and beacons
//! come last. Within a class clients take turns; where datagrams cost airtime, the one whose turn it is has had the
//! least of it.

use core::time::Duration;
use std::collections::VecDeque;

use rustc_hash::FxHashMap;
use sn_codec::Packet;

use crate::budget::Share;
use crate::client::Reply;
use crate::clients::ClientIx;
use crate::link_metrics::Class;
use crate::links::Via;
use crate::time::Instant;

/// Answers to peers without a session that may wait on one link.
const STRAYS_MAX: usize = 1024;

/// Clients whose airtime is remembered in one class.
const SHARES_MAX: usize = 4096;

/// Stands for all peers without a session.
const STRANGERS: ClientIx = ClientIx(u32::MAX);

/// How long airtime is remembered. An even share of a crowded link may be one answer an hour: it takes many hours until
/// shares can be even.
const PERIOD: Duration = Duration::from_secs(HOURS * 3600);
const HOURS: u64 = 12;

/// Answers that a client with a session may be ahead of one that asks for it, before CONNACK goes first. Found in the
/// simulated field: with it a link at 80 % of what it can carry recovers from a restart, and one at 800 % shares evenly.
const LEAD: u64 = 8;

/// What waits on a link.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// Answers owed to clients.
    pub(crate) replies: VecDeque<Owed>,
    /// Answers to peers without a session.
    pub(crate) strays: VecDeque<Stray>,
    /// Clients with something to deliver, by [`Line`].
    clients: [VecDeque<ClientIx>; 3],
    /// Answers with and without a session take turns.
    stray_next: bool,
    reply_turns: Turns,
    client_turns: [Turns; 3],
}

/// A line of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Line {
    Awake,
    Exchange,
    Qos0,
}

/// An answer owed to a client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owed {
    pub(crate) client: ClientIx,
    /// Which record, so that a later one in the same place does not get it.
    pub(crate) serial: u32,
    pub(crate) reply: Reply,
    /// When the client asked for it last.
    pub(crate) since: Instant,
}

/// An answer to a peer without a session.
#[derive(Debug, Clone)]
pub(crate) struct Stray {
    pub(crate) via: Via,
    pub(crate) answer: Packet<'static>,
    /// For the forwarder in between: how far to broadcast it, 0–3; 0 for what is meant for one node.
    pub(crate) radius: u8,
    pub(crate) since: Instant,
}

/// Whose turn it is, and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Stray,
    Reply(usize),
    Client(Line, usize),
    /// Answers wait, and each of the clients has had its share.
    Enough,
}

/// Turns go by airtime.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fair {
    /// What there is for all in an hour; `None` is no limit.
    pub(crate) all: Option<Duration>,
    /// What a usual answer takes.
    pub(crate) answer: Duration,
}

impl Fair {
    /// µs of airtime that a client with a session may be ahead.
    fn lead(self) -> u64 {
        LEAD * self.answer.as_micros() as u64
    }
}

impl Lines {
    /// Queues an answer; false if too many wait.
    pub(crate) fn push_stray(&mut self, stray: Stray) -> bool {
        if self.strays.len() >= STRAYS_MAX {
            return false;
        }
        self.strays.push_back(stray);
        true
    }

    /// DISCONNECTs that wait for a peer are not sent any more.
    pub(crate) fn forget_disconnects(&mut self, via: &Via) {
        self.strays
            .retain(|stray| !matches!(stray.answer, Packet::Disconnect(_)) || stray.via != *via);
    }

    /// True if the client is owed this answer already. It waits as from now: its client has asked again.
    pub(crate) fn is_owed_already(&mut self, owed: &Owed) -> bool {
        let same = self.replies.iter_mut().find(|other| other.is_same(owed));
        let is = same.is_some();
        same.into_iter().for_each(|same| same.since = owed.since);
        is
    }

    /// Takes the newest refusal that the client is owed out of the line; false if there is none.
    pub(crate) fn drop_refusal(&mut self, client: ClientIx) -> bool {
        let refusal = |owed: &Owed| owed.client == client && owed.reply.is_refusal();
        let at = self.replies.iter().rposition(refusal);
        at.is_some_and(|at| self.replies.remove(at).is_some())
    }

    pub(crate) fn line_mut(&mut self, line: Line) -> &mut VecDeque<ClientIx> {
        &mut self.clients[line as usize]
    }

    /// Takes a client out of a line.
    pub(crate) fn leave(&mut self, line: Line, client: ClientIx) {
        self.clients[line as usize].retain(|other| *other != client);
    }

    /// Whose turn it is. With `fair` it goes by the airtime that clients have had; all peers without a session together
    /// count as one client.
    pub(crate) fn next(&self, now: Instant, fair: Option<Fair>) -> Option<Turn> {
        if !self.strays.is_empty() {
            let first = match fair {
                None => self.stray_next,
                Some(fair) => {
                    let strangers = self.reply_turns.had(now, STRANGERS) + fair.lead();
                    let least = self.replies.iter().map(|owed| self.key(now, fair, owed)).min();
                    least.is_none_or(|least| strangers <= least)
                }
            };
            if first && self.has_enough(now, fair, STRANGERS) {
                return Some(Turn::Enough);
            }
            if first || self.replies.is_empty() {
                return Some(Turn::Stray);
            }
        }
        if let Some(reply) = self.next_reply(now, fair, |_| true) {
            return Some(reply);
        }
        let line = [Line::Awake, Line::Exchange, Line::Qos0]
            .into_iter()
            .find(|line| !self.clients[*line as usize].is_empty())?;
        let waiting = &self.clients[line as usize];
        let at = match fair {
            Some(_) => {
                let turns = &self.client_turns[line as usize];
                turns.least(now, waiting.iter().copied())?.0
            }
            None => 0,
        };
        Some(Turn::Client(line, at))
    }

    /// The answer, among those that are `eligible`, to a client whose turn it is.
    pub(crate) fn next_reply(
        &self,
        now: Instant,
        fair: Option<Fair>,
        eligible: impl Fn(&Owed) -> bool,
    ) -> Option<Turn> {
        let mut replies = self.replies.iter().enumerate().filter(|(_, owed)| eligible(owed));
        let Some(shares) = fair else {
            return replies.next().map(|(at, _)| Turn::Reply(at));
        };
        let (at, owed) = replies.min_by_key(|(_, owed)| self.key(now, shares, owed))?;
        let enough = self.has_enough(now, fair, owed.client);
        Some(if enough { Turn::Enough } else { Turn::Reply(at) })
    }

    /// Who has had the least comes first, but an answer within a session goes before CONNACK until its client is some
    /// answers ahead. A client whose PUBACK comes too late gives up and asks for a CONNACK, and a link that sends
    /// CONNACKs has even less for PUBACKs: once short of airtime, it would be for ever.
    fn key(&self, now: Instant, fair: Fair, owed: &Owed) -> u64 {
        let lead = if owed.opens_session() { fair.lead() } else { 0 };
        self.reply_turns.had(now, owed.client) + lead
    }

    fn has_enough(&self, now: Instant, fair: Option<Fair>, client: ClientIx) -> bool {
        let all = fair.and_then(|fair| fair.all);
        all.is_some_and(|all| self.reply_turns.had(now, client) >= self.reply_turns.even_share(now, all))
    }

    /// Takes an answer out of its line; the first is taken out faster than any.
    pub(crate) fn remove_reply(&mut self, at: usize) {
        self.stray_next = true;
        let _ = match at {
            0 => self.replies.pop_front(),
            _ => self.replies.remove(at),
        };
    }

    pub(crate) fn pop_stray(&mut self) -> Option<Stray> {
        self.stray_next = false;
        self.strays.pop_front()
    }

    /// A client, or for `None` a peer without a session, was answered.
    pub(crate) fn answered(&mut self, now: Instant, client: Option<ClientIx>, airtime: Duration) {
        if !airtime.is_zero() {
            self.reply_turns.add(now, client.unwrap_or(STRANGERS), airtime);
        }
    }

    /// It was not, after all.
    pub(crate) fn not_answered(&mut self, now: Instant, client: ClientIx, airtime: Duration) {
        self.reply_turns.take_back(now, client, airtime);
    }

    /// A client was sent something.
    pub(crate) fn served(&mut self, now: Instant, line: Line, client: ClientIx, airtime: Duration) {
        self.client_turns[line as usize].add(now, client, airtime);
    }

    /// It was not, after all.
    pub(crate) fn not_served(&mut self, now: Instant, line: Line, client: ClientIx, airtime: Duration) {
        self.client_turns[line as usize].take_back(now, client, airtime);
    }

    /// Takes out the answers to clients that would come too late.
    pub(crate) fn drop_late_replies(&mut self, now: Instant, patience: Duration, mut late: impl FnMut(Owed)) {
        let turns = &mut self.reply_turns;
        self.replies.retain(|owed| {
            let in_time = now < owed.since + patience;
            if !in_time {
                turns.went_without(now, owed.client);
                late(*owed);
            }
            in_time
        });
    }

    /// Takes out the answers to peers without a session that would come too late, and says how many.
    pub(crate) fn drop_late_strays(&mut self, now: Instant, patience: Duration) -> usize {
        let before = self.strays.len();
        self.strays.retain(|stray| now < stray.since + patience);
        let late = before - self.strays.len();
        if late > 0 {
            self.reply_turns.went_without(now, STRANGERS);
        }
        late
    }

    pub(crate) fn clients_waiting(&self) -> usize {
        self.clients.iter().map(VecDeque::len).sum()
    }

    /// Since when the first answer waits.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        let replies = self.replies.iter().map(|owed| owed.since);
        replies.chain(self.strays.front().map(|stray| stray.since)).min()
    }

    /// What waits, by [`Class`]; the lines know nothing of beacons.
    pub(crate) fn queued(&self) -> [u64; Class::ALL.len()] {
        let [awake, exchange, qos0] = [0, 1, 2].map(|line: usize| self.clients[line].len() as u64);
        let replies = (self.replies.len() + self.strays.len()) as u64;
        [replies, awake, exchange, qos0, 0]
    }
}

impl Owed {
    fn is_same(&self, other: &Owed) -> bool {
        self.client == other.client && self.serial == other.serial && self.reply == other.reply
    }

    /// It begins a session, or leads to one.
    fn opens_session(&self) -> bool {
        matches!(
            self.reply,
            Reply::Connack(_) | Reply::WillTopicReq | Reply::WillMsgReq
        )
    }

    /// Only answers within a session may use all of the duty cycle.
    pub(crate) fn share(&self) -> Share {
        match self.opens_session() {
            true => Share::Control,
            false => Share::Ack,
        }
    }
}

impl Stray {
    /// Octets of the datagram.
    pub(crate) fn len(&self) -> usize {
        self.answer.encoded_len() + self.via.overhead()
    }
}

/// Turns by airtime: who has had the least of it lately goes next.
#[derive(Debug, Default)]
struct Turns {
    had: FxHashMap<ClientIx, Had>,
    /// Somebody went without an answer then.
    short_since: Option<Instant>,
}

/// The airtime of one client, in µs, in this period and the one before.
#[derive(Debug, Clone, Copy, Default)]
struct Had {
    period: u64,
    now: u64,
    before: u64,
}

impl Had {
    fn roll(&mut self, period: u64) {
        if period != self.period {
            let before = if period == self.period + 1 { self.now } else { 0 };
            *self = Had {
                period,
                now: 0,
                before,
            };
        }
    }
}

/// Number of the period, and how much of it is over in 1/1024.
fn period(now: Instant) -> (u64, u64) {
    let length = PERIOD.as_micros() as u64;
    let micros = now.as_micros();
    (micros / length, (micros % length) * 1024 / length)
}

impl Turns {
    /// What the client has had within about the last period.
    fn had(&self, now: Instant, client: ClientIx) -> u64 {
        let (period, over) = period(now);
        let mut had = self.had.get(&client).copied().unwrap_or_default();
        had.roll(period);
        had.now + had.before / 1024 * (1024 - over)
    }

    /// The place of the first client that has had the least.
    fn least(&self, now: Instant, clients: impl Iterator<Item = ClientIx>) -> Option<(usize, u64)> {
        let places = clients.map(|client| self.had(now, client)).enumerate();
        places.min_by_key(|(_, had)| *had)
    }

    fn entry(&mut self, now: Instant, client: ClientIx) -> &mut Had {
        let (period, _) = period(now);
        if self.had.len() >= SHARES_MAX && !self.had.contains_key(&client) {
            self.had
                .retain(|_, had| had.period + 1 >= period && had.now + had.before > 0);
            if self.had.len() >= SHARES_MAX {
                self.had.clear(); // They begin anew, all of them.
            }
        }
        let had = self.had.entry(client).or_default();
        had.roll(period);
        had
    }

    fn add(&mut self, now: Instant, client: ClientIx, airtime: Duration) {
        self.entry(now, client).now += airtime.as_micros() as u64;
    }

    fn take_back(&mut self, now: Instant, client: ClientIx, airtime: Duration) {
        let had = self.entry(now, client);
        had.now = had.now.saturating_sub(airtime.as_micros() as u64);
    }

    /// A client went without: it counts as one of those that share.
    fn went_without(&mut self, now: Instant, client: ClientIx) {
        self.entry(now, client);
        self.short_since = Some(now);
    }

    /// Where some go without, nobody has more than an even share of `all`, even if nobody else asks at the moment: who
    /// asks often would have it all.
    fn even_share(&self, now: Instant, all: Duration) -> u64 {
        let short = self.short_since.is_some_and(|since| now.since(since) < PERIOD);
        let among = self.had.len().max(1) as u64;
        if short {
            HOURS * all.as_micros() as u64 / among
        } else {
            u64::MAX
        }
    }
}
