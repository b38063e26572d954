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

/// Clients whose share is remembered in one class, before those are forgotten that have less than their share.
const SHARES_MAX: usize = 1024;

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

    /// True if the client is owed this answer already. It waits as from now: its client has asked again.
    pub(crate) fn is_owed_already(&mut self, owed: &Owed) -> bool {
        let same = self.replies.iter_mut().find(|other| other.is_same(owed));
        let is = same.is_some();
        same.into_iter().for_each(|same| same.since = owed.since);
        is
    }

    pub(crate) fn line_mut(&mut self, line: Line) -> &mut VecDeque<ClientIx> {
        &mut self.clients[line as usize]
    }

    /// Takes a client out of a line.
    pub(crate) fn leave(&mut self, line: Line, client: ClientIx) {
        self.clients[line as usize].retain(|other| *other != client);
    }

    /// Whose turn it is. With `fair` it goes by the airtime that clients have had.
    pub(crate) fn next(&self, fair: bool) -> Option<Turn> {
        if !self.strays.is_empty() && (self.stray_next || self.replies.is_empty()) {
            return Some(Turn::Stray);
        }
        if let Some(reply) = self.next_reply(fair) {
            return Some(reply);
        }
        let line = [Line::Awake, Line::Exchange, Line::Qos0]
            .into_iter()
            .find(|line| !self.clients[*line as usize].is_empty())?;
        let waiting = &self.clients[line as usize];
        let at = match fair {
            true => self.client_turns[line as usize].least(waiting.iter().copied())?,
            false => 0,
        };
        Some(Turn::Client(line, at))
    }

    /// The answer to a client whose turn it is.
    pub(crate) fn next_reply(&self, fair: bool) -> Option<Turn> {
        if self.replies.is_empty() {
            return None;
        }
        let at = match fair {
            true => self
                .reply_turns
                .least(self.replies.iter().map(|owed| owed.client))?,
            false => 0,
        };
        Some(Turn::Reply(at))
    }

    /// An answer to a peer without a session, or to a client, had its turn.
    pub(crate) fn took_turn(&mut self, stray: bool) {
        self.stray_next = !stray;
    }

    /// A client was answered.
    pub(crate) fn answered(&mut self, client: ClientIx, airtime: Duration) {
        self.reply_turns.had(client, airtime);
    }

    /// A client was sent something.
    pub(crate) fn served(&mut self, line: Line, client: ClientIx, airtime: Duration) {
        self.client_turns[line as usize].had(client, airtime);
    }

    /// Takes out the answers to peers without a session that would come too late, and says how many.
    pub(crate) fn drop_late_strays(&mut self, now: Instant, patience: Duration) -> usize {
        let before = self.strays.len();
        self.strays.retain(|stray| now < stray.since + patience);
        before - self.strays.len()
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
}

impl Stray {
    /// Octets of the datagram.
    pub(crate) fn len(&self) -> usize {
        self.answer.encoded_len() + self.via.overhead()
    }

    pub(crate) fn share(&self) -> Share {
        match self.answer {
            Packet::GwInfo(_) => Share::Control,
            _ => Share::Ack,
        }
    }
}

/// Turns by airtime: who has had the least goes next. Who waited for nothing does not save it up: he begins where the
/// others are (start-time fair queueing).
#[derive(Debug, Default)]
struct Turns {
    /// Where each client would begin, in µs of airtime.
    begins: FxHashMap<ClientIx, u64>,
    /// Where the last one began.
    at: u64,
}

impl Turns {
    fn begin(&self, client: ClientIx) -> u64 {
        self.begins.get(&client).copied().unwrap_or_default().max(self.at)
    }

    /// The place of the first client that has had the least.
    fn least(&self, clients: impl Iterator<Item = ClientIx>) -> Option<usize> {
        let places = clients.enumerate();
        places
            .min_by_key(|(_, client)| self.begin(*client))
            .map(|(at, _)| at)
    }

    fn had(&mut self, client: ClientIx, airtime: Duration) {
        let begin = self.begin(client);
        self.at = begin;
        if self.begins.len() >= SHARES_MAX {
            self.begins.retain(|_, other| *other > begin);
        }
        let micros = airtime.as_micros() as u64;
        self.begins.insert(client, begin.saturating_add(micros));
    }
}
