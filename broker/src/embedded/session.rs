//! What the broker keeps for one client id, and how messages leave it.
//!
//! A message waits, is sent, and with QoS 1 and 2 stays in flight until the client acknowledged it:
//!
//! ```text
//! waiting --PUBLISH--> Sent --PUBACK--> gone                      QoS 1
//!                      Sent --PUBREC--> Released --PUBCOMP--> gone  QoS 2
//! ```
//!
//! Between PUBREC and Released a QoS 2 message of the gateway is Taken until that will survive ([`exact`](super::exact)).
//!
//! After a new connection everything in flight is said again, in its order (§4.4).

mod answers;
mod entry;
mod queue;
mod retained_messages;
mod sending;

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use gateway_core::time::Instant;
use rustc_hash::{FxHashMap, FxHashSet};
use sn_codec::QoS;

use self::retained_messages::Scan;
use super::exact::ORDINARY_IDS;
use super::kept::Kept;
use super::packet::{ClientKey, Reply, Will};
use super::receipt::Receipt;
use super::stats::Stats;

pub(crate) use self::answers::ProtocolError;
pub(crate) use self::entry::Entry;
pub(crate) use self::queue::Taken;

/// How long a session may stay over its bound before its connection is ended, and how long publishers wait for one whose
/// connection was lost.
pub(crate) const TOO_SLOW: Duration = Duration::from_secs(10);

/// Places that empty queues keep, so that a session that once was busy does not stay large.
const KEPT_CAPACITY: usize = 64;

/// What a session holds at most, waiting and in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

impl Bound {
    pub(crate) fn times(self, factor: usize) -> Self {
        Bound {
            messages: self.messages.saturating_mul(factor),
            bytes: self.bytes.saturating_mul(factor),
        }
    }
}

/// Where outputs and counts go.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) replies: VecDeque<(ClientKey, Reply)>,
    pub(crate) stats: Stats,
}

impl Outbox {
    pub(crate) fn push(&mut self, client: ClientKey, reply: Reply) {
        self.stats.packets_sent += 1;
        self.replies.push_back((client, reply));
    }
}

/// The state of one client id, connected or not.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client_id: Arc<str>,
    pub(crate) attached: Option<Attached>,
    /// The gateway's own: no MQTT client may take it over.
    pub(crate) local: bool,
    /// Filters of its subscriptions, as sent.
    pub(crate) filters: Vec<Box<str>>,
    /// QoS 2 messages received whose PUBREL has not come (§4.3.3), and for each the withheld acknowledgement if there
    /// is one.
    pub(crate) inbound: FxHashMap<u16, Option<u64>>,
    /// Acknowledgements of others that wait for this session to be within its bound.
    pub(crate) withheld: Vec<u64>,
    /// Published unless the client comes back before.
    pub(crate) will: Option<(Will, Instant)>,
    /// When it ends unless the client comes back.
    pub(crate) expires: Option<Instant>,
    /// It is to survive a restart.
    pub(crate) kept: Option<Kept>,
    /// When the router looks at it next.
    pub(crate) timer: Option<Instant>,
    mark: Mark,
    bound: Bound,
    /// Of all that waits and is in flight, but what is held over.
    messages: usize,
    bytes: usize,
    /// Messages beyond the bound that stay in the gateway's store until the client has them.
    held_over: usize,
    /// Kept over a lost connection, so that a client that comes and goes and takes nothing is too slow all the same.
    over_since: Option<Instant>,
    /// It lost its connection and is expected back: until then the bounds are those of a connected one.
    awaited_until: Option<Instant>,
    /// A message was dropped since it lost its connection.
    dropped: bool,
    waiting: VecDeque<Entry>,
    /// When the first of the waiting expires, or earlier.
    waiting_expires: Option<Instant>,
    in_flight: VecDeque<InFlight>,
    /// How many of these, from the front, were said on this connection.
    said: usize,
    /// Retained messages still to be fetched for new subscriptions.
    scans: VecDeque<Scan>,
    next_id: u16,
    /// How often the packet ids began anew.
    lap: u32,
    /// Packet ids in flight that are not ordinary ones.
    exact_ids: FxHashSet<u16>,
    /// PUBREL waits for this batch, unless that is over.
    taken_until: Option<u64>,
    /// It is of an earlier life, of which the client may still hold QoS 2 messages under any packet id.
    restored: bool,
}

/// A session's connection.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) key: ClientKey,
    /// PUBLISH it takes.
    pub(crate) credit: u32,
    /// QoS 1 and 2 messages it takes unacknowledged.
    pub(crate) receive_maximum: usize,
}

#[derive(Debug)]
struct InFlight {
    packet_id: u16,
    lap: u32,
    held_over: bool,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// PUBREL was said for whatever the client holds under the packet id. It has credit.
    Clearing(Entry),
    Sent(Entry),
    /// The client has it: PUBREL is said when a later life will know, after this batch.
    Taken(Option<Receipt>, u64),
    /// The client has it: PUBREL was said.
    Released(
        /// Some clients make use of a message only when PUBREL comes, so until PUBCOMP its publisher keeps it.
        #[expect(dead_code, reason = "what matters is how long it is held")]
        Option<Receipt>,
    ),
}

impl Stage {
    /// The client has the message.
    fn settle(self) {
        match self {
            Stage::Clearing(mut entry) | Stage::Sent(mut entry) => entry.settle(),
            Stage::Taken(..) | Stage::Released(_) => {}
        }
    }
}

/// What a session has to do with the message being routed.
#[derive(Debug, Default)]
pub(crate) struct Mark {
    /// Which message this is about.
    routed: u64,
    /// Its place among the targets, but for shared subscriptions.
    pub(crate) target: Option<usize>,
    /// How often it gets the message: once, and once for each shared subscription.
    pub(crate) copies: usize,
}

impl Session {
    pub(crate) fn new(client_id: Arc<str>, bound: Bound, local: bool) -> Self {
        Session {
            client_id,
            attached: None,
            local,
            filters: Vec::new(),
            inbound: FxHashMap::default(),
            withheld: Vec::new(),
            will: None,
            expires: None,
            kept: None,
            timer: None,
            mark: Mark::default(),
            bound,
            messages: 0,
            bytes: 0,
            held_over: 0,
            over_since: None,
            awaited_until: None,
            dropped: false,
            waiting: VecDeque::new(),
            waiting_expires: None,
            in_flight: VecDeque::new(),
            said: 0,
            scans: VecDeque::new(),
            next_id: 0,
            lap: 0,
            exact_ids: FxHashSet::default(),
            taken_until: None,
            restored: false,
        }
    }

    /// It goes on after a restart: for its client that was the loss of a connection.
    pub(crate) fn restored(&mut self, now: Instant) {
        self.restored = true;
        self.awaited_until = Some(now + TOO_SLOW);
    }

    /// It ends so many seconds from now unless the client comes back.
    pub(crate) fn expire_after(&mut self, now: Instant, seconds: u32) {
        // §3.1.2.11.2: does not expire.
        self.expires = (seconds < u32::MAX).then(|| now + Duration::from_secs(seconds.into()));
    }

    /// The client is back, or here for the first time: everything in flight is to be said again.
    pub(crate) fn attach(&mut self, key: ClientKey, receive_maximum: u16) {
        self.attached = Some(Attached {
            key,
            credit: 0,
            // More would leave no packet id for the next.
            receive_maximum: usize::from(receive_maximum.clamp(1, *ORDINARY_IDS.end() - 1)),
        });
        self.will = None;
        self.expires = None;
        self.awaited_until = None;
        self.dropped = false;
    }

    /// The connection is gone. QoS 0 does not outlive it (§4.1: state kept is that of QoS 1 and 2). `awaited`: the
    /// client did not say that it goes, and the session stays.
    pub(crate) fn detach(&mut self, now: Instant, awaited: bool, out: &mut Outbox) {
        self.attached = None;
        self.said = 0;
        let (mut messages, mut bytes) = (0, 0);
        self.waiting.retain(|entry| {
            let keep = entry.qos > QoS::AtMostOnce;
            if !keep {
                messages += 1;
                bytes += entry.message.size();
            }
            keep
        });
        self.messages -= messages;
        self.bytes -= bytes;
        out.stats.dropped_disconnected += messages as u64;
        self.over_since = self.over_since.filter(|_| self.is_over());
        let until = self.over_since.unwrap_or(now) + TOO_SLOW;
        self.awaited_until = Some(until).filter(|until| awaited && *until > now);
    }

    /// Stops to expect the client back, if it is time.
    pub(crate) fn await_no_longer(&mut self, now: Instant) {
        self.awaited_until.take_if(|until| *until <= now);
    }

    /// Whether its client is connected, or lost its connection a moment ago.
    fn counts_as_connected(&self) -> bool {
        self.attached.is_some() || self.awaited_until.is_some()
    }

    /// What it has to do with a message being routed: nothing if it was not marked for it.
    pub(crate) fn mark(&mut self, routed: u64) -> &mut Mark {
        if self.mark.routed != routed {
            self.mark = Mark {
                routed,
                ..Mark::default()
            };
        }
        &mut self.mark
    }

    /// When the router must look at it.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let slow = self.over_since.map(|since| since + TOO_SLOW);
        let will = self.will.as_ref().map(|(_, due)| *due);
        [slow, self.awaited_until, will, self.expires]
            .into_iter()
            .flatten()
            .min()
    }
}
