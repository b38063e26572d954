//! Sessions that outlive their connection, in the gateway's store: a value each, under a number.
//!
//! What stands there is who it is and what it is subscribed to; so after a restart what is published is queued for
//! clients that are not back yet. Its messages are not there: those of the gateway are in the gateway's part of the
//! store until everybody has them.
//!
//! One batch of changes is being written at a time, and what changes meanwhile is gathered by session. So what waits to
//! be written is bounded by the number of sessions, however slow the disk. SUBACK and UNSUBACK wait for the batch with
//! their change; since a disk may fail for long, not for ever: [`PATIENCE`], then the answer promises less. So does PUBREL
//! for a message of the gateway ([`exact`](super::exact)), whose value is written again with the same batches.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use gateway_core::io::{StoreChange, StoreKey};
use gateway_core::time::Instant;
use sn_codec::QoS;

use super::filters::Filter;
use super::packet::{ClientKey, Reply};
use super::receipt::Receipt;

/// How long an answer waits for the disk. Clients give up after about as long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Answers that wait for the disk at most; beyond that the oldest waits no longer.
const WAITING_MAX: usize = 1024;

/// The longest value that the store takes.
pub(crate) const VALUE_MAX: usize = 1 << 20;

/// Of the layout.
const VERSION: u8 = 1;

/// Writes down sessions.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    /// `false`: nothing survives.
    on: bool,
    /// The last number given.
    last: u64,
    /// Numbers of sessions that are not what is written of them, and where they are. `None`: gone.
    changed: BTreeMap<u64, Option<u32>>,
    /// Messages that were taken by sessions of which their values do not tell, by number. Each is held, so that it is
    /// not deleted before it is written.
    taken: BTreeMap<u64, Receipt>,
    /// Where the sessions are that wait for a batch to say PUBREL, by its number.
    releasing: BTreeMap<u64, Releasing>,
    /// Batches begun.
    batch: u64,
    /// Up to here they are durable.
    durable: u64,
    waiting: VecDeque<Waiting>,
}

/// What is written together.
#[derive(Debug)]
pub(crate) struct Batch {
    /// Numbers of sessions, and where they are.
    pub(crate) sessions: BTreeMap<u64, Option<u32>>,
    pub(crate) messages: Vec<StoreChange>,
}

/// What is known of a session that is to survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    number: u64,
    /// Seconds that it outlives its connection; `u32::MAX` is for ever.
    pub(crate) expiry: u32,
    /// The batch with its last change.
    batch: u64,
    /// There may be something of it in the store.
    written: bool,
}

#[derive(Debug)]
struct Releasing {
    until: Instant,
    sessions: BTreeSet<u32>,
}

/// An answer that is due when something is durable.
#[derive(Debug)]
struct Waiting {
    batch: u64,
    until: Instant,
    client: ClientKey,
    reply: Reply,
}

impl Keeper {
    /// From now on sessions are written down.
    pub(crate) fn start(&mut self) {
        self.on = true;
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// A session is to survive that was not.
    pub(crate) fn begin(&mut self, session: u32, expiry: u32) -> Kept {
        self.last += 1;
        let mut kept = Kept {
            number: self.last,
            expiry,
            batch: 0,
            written: false,
        };
        self.change(session, &mut kept);
        kept
    }

    /// A session of an earlier life goes on.
    pub(crate) fn resume(&mut self, number: u64, expiry: u32) -> Kept {
        Kept {
            number,
            expiry,
            batch: 0,
            written: true,
        }
    }

    /// This number was used in an earlier life.
    pub(crate) fn used(&mut self, number: u64) {
        self.last = self.last.max(number);
    }

    /// It is not what is written of it any more.
    pub(crate) fn change(&mut self, session: u32, kept: &mut Kept) {
        kept.batch = self.batch + 1;
        self.changed.insert(kept.number, Some(session));
    }

    /// It need not survive any more.
    pub(crate) fn end(&mut self, kept: Kept) {
        if kept.written {
            self.forget(kept.number);
        } else {
            self.changed.remove(&kept.number);
        }
    }

    /// Nothing is to stand under this number.
    pub(crate) fn forget(&mut self, number: u64) {
        self.changed.insert(number, None);
    }

    /// A session takes a message of the gateway. Returns the batch after which a later life knows.
    pub(crate) fn take(&mut self, now: Instant, session: u32, kept: Kept, receipt: &Receipt) -> u64 {
        let batch = self.batch + 1;
        if let Some(exact) = receipt.exact() {
            exact.take(kept.number);
            self.taken.insert(exact.number(), receipt.clone());
        }
        let releasing = self.releasing.entry(batch).or_insert_with(|| Releasing {
            until: now + PATIENCE,
            sessions: BTreeSet::new(),
        });
        releasing.sessions.insert(session);
        batch
    }

    /// What to write next, if nothing is being written: numbers and where their sessions are, and messages.
    pub(crate) fn begin_batch(&mut self) -> Option<Batch> {
        if self.changed.is_empty() && self.taken.is_empty() || self.durable < self.batch {
            return None;
        }
        Some(self.begin_last_batch())
    }

    /// What is not written yet, even though something is being written.
    pub(crate) fn begin_last_batch(&mut self) -> Batch {
        self.batch += 1;
        let taken = core::mem::take(&mut self.taken).into_values();
        Batch {
            sessions: core::mem::take(&mut self.changed),
            messages: taken.filter_map(|receipt| receipt.exact()?.change()).collect(),
        }
    }

    /// The number of the batch begun last.
    pub(crate) fn batch(&self) -> u64 {
        self.batch
    }

    /// This batch, and so what came before it, is durable.
    pub(crate) fn on_durable(&mut self, batch: u64) {
        self.durable = self.durable.max(batch);
    }

    /// An answer to be given when the session is written as it is now. Given back if that is so already.
    pub(crate) fn wait(
        &mut self,
        now: Instant,
        kept: Option<&Kept>,
        client: ClientKey,
        reply: Reply,
    ) -> Option<Reply> {
        let Some(kept) = kept.filter(|kept| kept.batch > self.durable) else {
            return Some(reply);
        };
        self.waiting.push_back(Waiting {
            batch: kept.batch,
            until: now + PATIENCE,
            client,
            reply,
        });
        None
    }

    /// The next answer that need not wait any more.
    pub(crate) fn next_answer(&mut self, now: Instant) -> Option<(ClientKey, Reply)> {
        let first = self.waiting.front()?;
        if first.batch > self.durable && first.until > now && self.waiting.len() <= WAITING_MAX {
            return None;
        }
        let first = self.waiting.pop_front()?;
        Some((first.client, first.reply))
    }

    /// A batch that need not be waited for any more, and where the sessions are that do.
    pub(crate) fn next_releasing(&mut self, now: Instant) -> Option<(u64, BTreeSet<u32>)> {
        let first = self.releasing.first_entry()?;
        if *first.key() > self.durable && first.get().until > now {
            return None;
        }
        let (batch, releasing) = first.remove_entry();
        Some((batch, releasing.sessions))
    }

    /// When the next answer waits no longer.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let answer = self.waiting.front().map(|first| first.until);
        let releasing = self.releasing.first_key_value().map(|(_, first)| first.until);
        answer.into_iter().chain(releasing).min()
    }
}

impl Kept {
    /// What it stands under in the store.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The change that writes it down; `None` if it is too long for the store.
    pub(crate) fn put(&mut self, record: &SessionRecord) -> Option<StoreChange> {
        let value = record.encode().filter(|value| value.len() <= VALUE_MAX)?;
        self.written = true;
        Some(StoreChange::Put(key(self.number), value))
    }
}

/// Where a session's value stands.
pub(crate) fn key(number: u64) -> StoreKey {
    StoreKey {
        kind: StoreKey::BROKER_SESSION,
        id: number,
    }
}

/// What is written of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionRecord {
    pub(crate) client_id: Arc<str>,
    /// Seconds; never 0, since such a session ends with its connection.
    pub(crate) expiry: u32,
    pub(crate) subscriptions: Vec<KeptSubscription>,
}

/// One subscription of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptSubscription {
    /// As sent, `$share/…` included.
    pub(crate) filter: Box<str>,
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    /// Subscription identifier.
    pub(crate) id: Option<u32>,
}

const NO_LOCAL: u8 = 1 << 2;
const RETAIN_AS_PUBLISHED: u8 = 1 << 3;
const HAS_ID: u8 = 1 << 4;

impl SessionRecord {
    /// Version, expiry, client id, and each subscription: options, identifier if it has one, filter. Numbers are big
    /// endian, strings have their length in two octets in front. `None`: a string is longer than MQTT has them.
    fn encode(&self) -> Option<Bytes> {
        let mut out = Vec::with_capacity(64);
        out.put_u8(VERSION);
        out.put_u32(self.expiry);
        put_string(&mut out, &self.client_id)?;
        for subscription in &self.subscriptions {
            let flag = |set: bool, flag: u8| if set { flag } else { 0 };
            out.put_u8(
                subscription.qos as u8
                    | flag(subscription.no_local, NO_LOCAL)
                    | flag(subscription.retain_as_published, RETAIN_AS_PUBLISHED)
                    | flag(subscription.id.is_some(), HAS_ID),
            );
            if let Some(id) = subscription.id {
                out.put_u32(id);
            }
            put_string(&mut out, &subscription.filter)?;
        }
        Some(out.into())
    }

    /// `None` if this is no session that could have been written.
    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let mut from = value;
        if from.try_get_u8().ok()? != VERSION {
            return None;
        }
        let expiry = from.try_get_u32().ok()?;
        let client_id = string(&mut from)?;
        if expiry == 0 || client_id.is_empty() || client_id.contains('\0') {
            return None;
        }
        let mut subscriptions = Vec::new();
        while !from.is_empty() {
            subscriptions.push(KeptSubscription::decode(&mut from)?);
        }
        Some(SessionRecord {
            client_id: client_id.into(),
            expiry,
            subscriptions,
        })
    }
}

impl KeptSubscription {
    fn decode(from: &mut &[u8]) -> Option<Self> {
        let options = from.try_get_u8().ok()?;
        let qos = match options & 0b11 {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            2 => QoS::ExactlyOnce,
            _ => return None,
        };
        let id = match options & HAS_ID {
            0 => None,
            _ => Some(from.try_get_u32().ok()?),
        };
        let subscription = KeptSubscription {
            filter: string(from)?.into(),
            qos,
            no_local: options & NO_LOCAL != 0,
            retain_as_published: options & RETAIN_AS_PUBLISHED != 0,
            id,
        };
        let filter = Filter::parse(&subscription.filter)?;
        let known = NO_LOCAL | RETAIN_AS_PUBLISHED | HAS_ID | 0b11;
        // MQTT-3.8.3-4
        let allowed = options & !known == 0 && !(filter.shared && subscription.no_local);
        allowed.then_some(subscription)
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) -> Option<()> {
    out.put_u16(u16::try_from(text.len()).ok()?);
    out.extend_from_slice(text.as_bytes());
    Some(())
}

fn string<'a>(from: &mut &'a [u8]) -> Option<&'a str> {
    let len = usize::from(from.try_get_u16().ok()?);
    let (text, rest) = from.split_at_checked(len)?;
    *from = rest;
    str::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn subscription() -> impl Strategy<Value = KeptSubscription> {
        let filter = prop_oneof![
            "[a-c+]{1}(/[a-c]{0,3}){0,3}",
            Just("#".to_owned()),
            Just("é/#".to_owned())
        ];
        let qos = prop::sample::select(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][..]);
        (
            filter,
            any::<bool>(),
            qos,
            any::<[bool; 2]>(),
            any::<Option<u32>>(),
        )
            .prop_map(|(filter, shared, qos, [no_local, retain_as_published], id)| {
                KeptSubscription {
                    filter: match shared {
                        true => format!("$share/g/{filter}").into(),
                        false => filter.into(),
                    },
                    qos,
                    no_local: no_local && !shared,
                    retain_as_published,
                    id,
                }
            })
    }

    fn record() -> impl Strategy<Value = SessionRecord> {
        ("[a-zé]{1,9}", 1_u32.., vec(subscription(), 0..5)).prop_map(|(client_id, expiry, subscriptions)| {
            SessionRecord {
                client_id: client_id.into(),
                expiry,
                subscriptions,
            }
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(record in record()) {
            let value = record.encode().unwrap();
            prop_assert_eq!(SessionRecord::decode(&value), Some(record));
        }

        #[test]
        fn damage_is_found_or_makes_another_valid_session(
            record in record(),
            at in any::<prop::sample::Index>(),
            octet in any::<u8>(),
        ) {
            let value = record.encode().unwrap();
            let mut changed = value.to_vec();
            let at = at.index(changed.len());
            changed[at] = octet;
            if let Some(read) = SessionRecord::decode(&changed) {
                prop_assert_eq!(read.encode().unwrap(), changed);
            }
            // Cut between two subscriptions it is a session with fewer.
            if let Some(read) = SessionRecord::decode(&value[..at]) {
                prop_assert!(record.subscriptions.starts_with(&read.subscriptions));
            }
        }
    }

    #[test]
    fn value_that_is_too_long_for_the_store_is_not_written() {
        let filter = |number: usize| format!("{number:05}{}", "x".repeat(60_000)).into();
        let subscriptions = (0..20).map(|number| KeptSubscription {
            filter: filter(number),
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            id: None,
        });
        let mut record = SessionRecord {
            client_id: "a".into(),
            expiry: 1,
            subscriptions: subscriptions.collect(),
        };
        let mut keeper = Keeper::default();
        keeper.start();
        let mut kept = keeper.begin(0, 1);
        assert_eq!(kept.put(&record), None);
        record.subscriptions.truncate(10);
        assert!(kept.put(&record).is_some());
    }
}
