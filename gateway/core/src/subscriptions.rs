//! The aggregated filter table: many subscribers, one subscription at the broker.

use core::num::NonZeroU32;
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use core::hash::BuildHasher as _;
use foldhash::fast::RandomState;
use foldhash::{HashMap, HashSet};
use hashbrown::HashTable;
use slab::Slab;
use sn_codec::{MsgId, QoS, topic};

use crate::clients::ClientIx;
use crate::io::FilterId;
use crate::overlap::overlap;
use crate::subscribers::{Subscriber, Subscribers};
use crate::time::Instant;

/// The highest number of a filter: it has to fit an MQTT 5 subscription identifier.
const FILTER_ID_MAX: u32 = 0x0FFF_FFFF;

/// How long after a SUBACK its retained messages are still told from others'. A broker sends them at once.
const RETAINED_WINDOW: Duration = Duration::from_secs(10);

/// Messages that are remembered while filters are vague: more than brokers leave in flight.
const COUNTED_MAX: usize = 65_536;

/// How long they are after that: the other copies are on their way.
const COUNTED: Duration = Duration::from_secs(10);

/// Index of a filter in the table.
pub(crate) type FilterKey = u32;

/// Every filter that clients subscribed to.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    filters: Slab<Filter>,
    /// Keys only: the names are read from the filters.
    by_name: HashTable<u32>,
    hasher: RandomState,
    by_id: HashMap<FilterId, u32>,
    /// Filters with wildcards; the others are found by their name.
    trie: Trie,
    last_id: u32,
    /// Counts filters that came to stand at the broker.
    stands: u32,
    /// Counts filters that messages came for.
    seen: u32,
    /// Counts what clients asked for.
    asked: u32,
    /// When the retained messages of a filter are no longer told from others', in order of time.
    windows: VecDeque<(Instant, FilterKey)>,
    /// How many filters are [`Filter::vague`].
    vague: usize,
    /// QoS 1 messages that came while some were, by client and digest: the filter whose copy counted.
    counted: HashMap<(ClientIx, NonZeroU32), FilterKey>,
    /// When those are not needed any more, once no filter is vague.
    counted_until: Option<Instant>,
}

/// One filter and what the broker knows of it. There may be one for every client, so it is small.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(crate) name: Arc<str>,
    pub(crate) id: FilterId,
    /// It stands at the broker, with this QoS.
    pub(crate) active: Option<QoS>,
    pub(crate) pending: Pending,
    /// Which of all filters it was to come to stand at the broker.
    stands_since: u32,
    /// Digest of the first message that came for it since then: what comes later, but for copies of this one, was routed
    /// when the filter stood.
    proof: Option<NonZeroU32>,
    /// Which of all filters it was that a message came for since then.
    seen: Option<NonZeroU32>,
    /// From an earlier life, and the broker has not answered in this one: whether it stands, and with which QoS, is not
    /// known.
    vague: bool,
    /// A client was accepted while the broker was away (reading A31): one more SUBSCRIBE is owed, for its QoS and for
    /// the retained messages.
    pub(crate) ask_again: bool,
    /// Some clients were accepted so, or asked for more than the broker has answered yet.
    unsettled: bool,
    /// The highest QoS that one of its clients asked for another filter that overlaps with it, until nobody holds it.
    beside: QoS,
    pub(crate) subscribers: Subscribers,
    /// What is under way; seldom anything.
    busy: Option<Box<Busy>>,
}

/// What is under way for a filter.
#[derive(Debug, Default)]
struct Busy {
    /// Clients whose SUBACK waits for the SUBSCRIBE under way.
    asking: Vec<Asker>,
    /// Clients that came after it was sent: they need one more, for the retained messages.
    asking_next: Vec<Asker>,
    /// Clients that are to be given the retained messages.
    retained_for: HashMap<ClientIx, RetainedFor>,
    /// The filter stands in the line of windows.
    window: bool,
}

/// What is under way at the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pending {
    Nothing,
    /// With this QoS.
    Subscribe(QoS),
    Unsubscribe,
}

/// A message from the broker, as far as it decides who gets it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival<'a> {
    /// The subscriptions it came for, if the broker says so.
    pub(crate) ids: &'a [FilterId],
    pub(crate) topic: &'a Arc<str>,
    pub(crate) retain: bool,
    /// Almost surely another one for another topic or payload.
    pub(crate) digest: NonZeroU32,
    pub(crate) qos: QoS,
    /// The gateway tells of itself: filters that begin with a wildcard do not match, as with topics of the broker's own
    /// (MQTT 5 §4.7.2), so that who subscribes to everything is not sent that over the air.
    pub(crate) is_status: bool,
}

/// A SUBSCRIBE of a client that waits for its SUBACK.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker {
    pub(crate) client: ClientIx,
    /// Which record, so that a later one in the same place is not answered.
    pub(crate) serial: u32,
    pub(crate) msg_id: MsgId,
    /// QoS asked for: another SUBSCRIBE of the client for the same filter may ask for more meanwhile.
    pub(crate) asked: QoS,
}

#[derive(Debug, Default)]
struct RetainedFor {
    /// End of the window; `None` until the SUBACK came.
    until: Option<Instant>,
    seen: HashSet<Arc<str>>,
}

impl Filter {
    /// The QoS to ask the broker for: the highest any subscriber asked for, here or for a filter that overlaps with this.
    pub(crate) fn wanted_qos(&self) -> QoS {
        let asked = self.subscribers.highest_asked().unwrap_or_default();
        asked.max(self.beside)
    }

    /// A client that has this filter asked for this QoS beside it. True if that is more than the broker was asked for.
    fn want_beside(&mut self, qos: QoS) -> bool {
        let more = self.wanted_qos() < qos;
        self.beside = self.beside.max(qos);
        more
    }

    /// The broker answered what was under way, for which these waited. True if it concerns all who have the filter, and
    /// not these alone.
    fn granted(&mut self, granted: QoS, pending: Pending, askers: &[Asker]) -> bool {
        let before = self.active.replace(granted);
        // Who asked for more since then is not answered yet, unless the broker gives less than it was asked for.
        let asked_since = |own: &Subscriber| pending == Pending::Subscribe(granted) && granted < own.asked;
        let grant = |own: Subscriber| match asked_since(&own) {
            true => own.granted,
            false => own.asked.min(granted),
        };
        let all = before != Some(granted) || self.unsettled;
        if all {
            self.unsettled = false;
            self.subscribers.grant_all(|own| {
                self.unsettled |= asked_since(&own);
                grant(own)
            });
        } else {
            let next = self.busy.iter().flat_map(|busy| &busy.asking_next);
            for asker in askers.iter().chain(next) {
                self.subscribers.grant(asker.client, grant);
            }
        }
        all
    }

    /// Adds a client, or replaces what it asked for before.
    pub(crate) fn subscribe(&mut self, entry: Subscriber) {
        self.subscribers.set(entry);
    }

    /// A client was accepted although the broker is away (reading A31).
    pub(crate) fn accepted_for_now(&mut self) {
        self.ask_again = true;
        self.unsettled = true;
    }

    /// The client waits for the SUBACK of the next SUBSCRIBE.
    pub(crate) fn ask(&mut self, asker: Asker) {
        self.busy.get_or_insert_default().asking_next.push(asker);
    }

    pub(crate) fn asks_next(&self) -> bool {
        self.busy
            .as_ref()
            .is_some_and(|busy| !busy.asking_next.is_empty())
    }

    /// The SUBSCRIBE for those who ask goes out.
    pub(crate) fn asked(&mut self) {
        if let Some(busy) = &mut self.busy {
            busy.asking = core::mem::take(&mut busy.asking_next);
        }
    }

    /// Those whose SUBACK waits for the SUBSCRIBE under way.
    pub(crate) fn take_asking(&mut self) -> Vec<Asker> {
        self.busy
            .as_mut()
            .map(|busy| core::mem::take(&mut busy.asking))
            .unwrap_or_default()
    }

    /// Those who wait for a SUBACK at all.
    pub(crate) fn take_askers(&mut self) -> Vec<Asker> {
        let mut askers = self.take_asking();
        if let Some(busy) = &mut self.busy {
            askers.append(&mut busy.asking_next);
        }
        askers
    }

    /// The SUBSCRIBE under way is lost: who waited for it waits for the next.
    pub(crate) fn ask_once_more(&mut self) {
        if let Some(busy) = &mut self.busy {
            let mut asking = core::mem::take(&mut busy.asking);
            busy.asking_next.append(&mut asking);
        }
    }

    /// The broker has it, and is not about to be told that nobody wants it.
    fn stands(&self) -> bool {
        self.active.is_some() && self.pending != Pending::Unsubscribe
    }

    /// What stands for everything, the first level included.
    fn begins_with_wildcard(&self) -> bool {
        self.name.starts_with(['#', '+'])
    }

    /// The client is to be given retained messages.
    pub(crate) fn want_retained(&mut self, client: ClientIx) {
        let busy = self.busy.get_or_insert_default();
        busy.retained_for.insert(client, RetainedFor::default());
    }

    /// Takes the client off.
    fn unsubscribe(&mut self, client: ClientIx) {
        self.subscribers.remove(client);
        if self.subscribers.is_empty() {
            self.beside = QoS::AtMostOnce;
        }
        if let Some(busy) = &mut self.busy {
            busy.asking.retain(|asker| asker.client != client);
            busy.asking_next.retain(|asker| asker.client != client);
            busy.retained_for.remove(&client);
        }
    }

    /// Frees what is not used any more. True if there will be more.
    fn tidy(&mut self, now: Instant) -> bool {
        let Some(busy) = &mut self.busy else { return false };
        busy.retained_for
            .retain(|_, waiting| waiting.until.is_none_or(|until| until > now));
        busy.window = busy.retained_for.values().any(|waiting| waiting.until.is_some());
        if busy.window {
            return true;
        }
        if busy.retained_for.is_empty() && busy.asking.is_empty() && busy.asking_next.is_empty() {
            self.busy = None;
        }
        false
    }

    /// A live message: what is retained under its topic has passed for those who have their SUBACK.
    ///
    /// Brokers send retained messages ahead of later live ones, so what comes with RETAIN set from now on was asked
    /// for by somebody else.
    fn pass_live(&mut self, topic: &Arc<str>, now: Instant) {
        for waiting in self
            .busy
            .iter_mut()
            .flat_map(|busy| busy.retained_for.values_mut())
        {
            if waiting.until.is_some_and(|until| now < until) {
                waiting.seen.insert(topic.clone());
            }
        }
    }

    /// True if this retained message is for the client and it has not had it from this subscription.
    fn take_retained(&mut self, client: ClientIx, topic: &Arc<str>, now: Instant) -> bool {
        let waiting = self
            .busy
            .as_mut()
            .and_then(|busy| busy.retained_for.get_mut(&client));
        waiting.is_some_and(|waiting| {
            waiting.until.is_none_or(|until| now < until) && waiting.seen.insert(topic.clone())
        })
    }
}

impl Subscriptions {
    pub(crate) fn len(&self) -> usize {
        self.filters.len()
    }

    pub(crate) fn get_mut(&mut self, key: FilterKey) -> Option<&mut Filter> {
        self.filters.get_mut(key as usize)
    }

    pub(crate) fn find(&self, name: &str) -> Option<FilterKey> {
        let is = |key: &u32| {
            let filter = self.filters.get(*key as usize);
            filter.is_some_and(|filter| &*filter.name == name)
        };
        self.by_name.find(self.hasher.hash_one(name), is).copied()
    }

    /// The number of the next SUBSCRIBE.
    pub(crate) fn number(&mut self) -> u32 {
        self.asked = self.asked.wrapping_add(1);
        self.asked
    }

    /// Forgets who waited for retained messages that do not come any more.
    pub(crate) fn close_windows(&mut self, now: Instant) {
        while let Some(&(_, key)) = self.windows.front().filter(|(until, _)| *until <= now) {
            self.windows.pop_front();
            let filter = self.filters.get_mut(key as usize);
            if filter.is_some_and(|filter| filter.tidy(now)) {
                // Those who came since the window was opened, all at once.
                self.windows.push_back((now + RETAINED_WINDOW, key));
            }
        }
    }

    /// The broker answered the SUBSCRIBE under way for a filter: for these, who waited for their SUBACK. The retained
    /// messages follow at once, or came already.
    pub(crate) fn granted(
        &mut self,
        now: Instant,
        key: FilterKey,
        granted: QoS,
        pending: Pending,
        askers: &[Asker],
    ) {
        self.close_windows(now);
        let Some(filter) = self.filters.get_mut(key as usize) else {
            return;
        };
        let vague = core::mem::take(&mut filter.vague);
        if vague {
            self.vague -= 1;
            self.counted_until = (self.vague == 0).then_some(now + COUNTED);
        }
        if filter.active.is_none() {
            self.stands = self.stands.wrapping_add(1);
            (filter.stands_since, filter.proof, filter.seen) = (self.stands, None, None);
        } else if vague {
            // Which copies count does not change between those of one message.
            filter.proof = None;
        }
        let all = filter.granted(granted, pending, askers);
        let Some(busy) = &mut filter.busy else { return };
        let until = now + RETAINED_WINDOW;
        if all {
            for waiting in busy.retained_for.values_mut() {
                waiting.until.get_or_insert(until);
            }
        } else {
            for asker in askers {
                if let Some(waiting) = busy.retained_for.get_mut(&asker.client) {
                    waiting.until.get_or_insert(until);
                }
            }
        }
        if !core::mem::replace(&mut busy.window, true) {
            self.windows.push_back((until, key));
        }
    }

    /// Keys of all filters, in an order that depends on nothing but the history.
    pub(crate) fn keys(&self) -> Vec<FilterKey> {
        self.filters.iter().map(|(key, _)| key as FilterKey).collect()
    }

    /// The filter of that name, a new one if there is none.
    pub(crate) fn entry(&mut self, name: &Arc<str>) -> FilterKey {
        if let Some(key) = self.find(name) {
            return key;
        }
        // An id is not used again: a late message must not find another filter. 28 bits last for years.
        loop {
            self.last_id = self.last_id % FILTER_ID_MAX + 1;
            if !self.by_id.contains_key(&FilterId(self.last_id)) {
                return self.insert(name, FilterId(self.last_id));
            }
        }
    }

    /// New numbers begin somewhere else from now on: the broker may know those of an earlier life.
    pub(crate) fn skip_ids(&mut self, to: u32) {
        self.last_id = to % FILTER_ID_MAX;
    }

    /// The filter of that name from an earlier life, with the number that the broker knows.
    pub(crate) fn restore(&mut self, name: &Arc<str>, id: FilterId) -> FilterKey {
        if let Some(key) = self.find(name) {
            return key;
        }
        let key = self.insert(name, id);
        if let Some(filter) = self.get_mut(key) {
            // If the broker kept the session it stands there, and has to be given back when nobody wants it.
            (filter.active, filter.ask_again) = (Some(QoS::AtMostOnce), true);
            (filter.stands_since, filter.vague) = (0, true);
            self.vague += 1;
        }
        key
    }

    fn insert(&mut self, name: &Arc<str>, id: FilterId) -> FilterKey {
        let key = self.filters.insert(Filter {
            name: name.clone(),
            id,
            active: None,
            pending: Pending::Nothing,
            stands_since: u32::MAX,
            proof: None,
            seen: None,
            vague: false,
            ask_again: false,
            unsettled: false,
            beside: QoS::AtMostOnce,
            subscribers: Subscribers::default(),
            busy: None,
        }) as FilterKey;
        let (filters, hasher) = (&self.filters, &self.hasher);
        self.by_name.insert_unique(hasher.hash_one(&**name), key, |key| {
            let filter = filters.get(*key as usize);
            filter.map_or(0, |filter| hasher.hash_one(&*filter.name))
        });
        self.by_id.insert(id, key);
        if !is_exact(name) {
            self.trie.insert(name, key);
        }
        key
    }

    /// Forgets a filter without subscribers.
    pub(crate) fn remove(&mut self, key: FilterKey) {
        if let Some(filter) = self.filters.try_remove(key as usize) {
            self.vague -= usize::from(filter.vague);
            if self.vague == 0 && self.counted_until.is_none() {
                self.counted = HashMap::default();
            }
            let hash = self.hasher.hash_one(&*filter.name);
            if let Ok(entry) = self.by_name.find_entry(hash, |entry| *entry == key) {
                entry.remove();
            }
            self.by_id.remove(&filter.id);
            if !is_exact(&filter.name) {
                self.trie.remove(&filter.name);
            }
        }
    }

    /// Takes the client off the filter.
    pub(crate) fn unsubscribe(&mut self, key: FilterKey, client: ClientIx) {
        if let Some(filter) = self.filters.get_mut(key as usize) {
            filter.unsubscribe(client);
        }
    }

    /// A client that holds these filters asked for one of them: where two overlap, the broker is asked for the higher QoS
    /// with both. Returns those that it has to be asked for again, before the new one.
    ///
    /// What comes for either is then of the right QoS, whichever copy counts, and also where the broker sends but one
    /// and takes the QoS of any of them (mosquitto with MQTT 3.1.1).
    pub(crate) fn level(
        &mut self,
        client: ClientIx,
        new: FilterKey,
        held: impl Iterator<Item = FilterKey>,
    ) -> Vec<FilterKey> {
        let mut again = Vec::new();
        for key in held.filter(|key| *key != new) {
            let Ok([new, old]) = self.filters.get_disjoint_mut([new as usize, key as usize]) else {
                continue;
            };
            let asked = |filter: &Filter| filter.subscribers.get(client).map(|own| own.asked);
            let (Some(asked_new), Some(asked_old)) = (asked(new), asked(old)) else {
                continue;
            };
            if asked_new == asked_old || !overlap(&new.name, &old.name) {
                continue;
            }
            new.want_beside(asked_old);
            if old.want_beside(asked_new) {
                old.ask_again = true;
                again.push(key);
            }
        }
        again
    }

    /// The filters that match a name, in key order.
    fn matching(&self, name: &str, keys: &mut Vec<FilterKey>) {
        self.trie.matching(name, keys);
        keys.extend(self.find(name));
        keys.sort_unstable();
    }

    /// Who gets a message, each client once, at the highest QoS granted.
    ///
    /// With subscription identifiers the broker may send one copy per filter: then the copy that counts for a
    /// client is the one of its best filter. Messages with RETAIN set are the answer to a SUBSCRIBE and go to the
    /// clients that wait for it.
    pub(crate) fn recipients(&mut self, now: Instant, arrival: Arrival<'_>, into: &mut Vec<(ClientIx, QoS)>) {
        let Arrival {
            ids,
            topic: name,
            retain,
            digest,
            is_status,
            ..
        } = arrival;
        into.clear();
        self.close_windows(now);
        let mut keys: Vec<FilterKey> = Vec::new();
        keys.extend(ids.iter().filter_map(|id| self.by_id.get(id).copied()));
        // It came for a filter that nobody holds any more, or for one under a number of a life that nothing is known of.
        let stray = keys.is_empty() && !ids.is_empty();
        if keys.is_empty() {
            self.matching(name, &mut keys);
        }
        // One identifier: the broker sends a copy per filter, if several of ours match.
        let mut matching: Vec<FilterKey> = Vec::new();
        if ids.len() == 1 && !retain && self.filters.len() > 1 {
            self.matching(name, &mut matching);
        }
        if is_status {
            matching.retain(|key| !self.filters[*key as usize].begins_with_wildcard());
        }
        for &key in &keys {
            let hidden = is_status && self.filters[key as usize].begins_with_wildcard();
            if !retain {
                let filter = &mut self.filters[key as usize];
                filter.pass_live(name, now);
                if !ids.is_empty()
                    && !stray
                    && let Some(active) = &mut filter.active
                {
                    // What is more than was known to be granted shows it: the answer to the SUBSCRIBE is under way.
                    *active = (*active).max(arrival.qos);
                    // What came before it was routed before; QoS 0 may overtake.
                    if arrival.qos > QoS::AtMostOnce {
                        filter.proof.get_or_insert(digest);
                        if filter.seen.is_none() {
                            self.seen = self.seen.wrapping_add(1);
                            filter.seen = NonZeroU32::new(self.seen);
                        }
                    }
                }
            }
            let count = self.filters[key as usize].subscribers.len();
            for at in 0..count {
                let Some(Subscriber { client, granted, .. }) = self.filters[key as usize].subscribers.at(at)
                else {
                    break;
                };
                let overlaps = matching.len() > 1;
                let wanted = if retain {
                    self.filters[key as usize].take_retained(client, name, now)
                } else if stray {
                    !self.has_own_copy(client, &keys)
                } else {
                    !overlaps || self.counts(now, client, &matching, key, arrival)
                };
                if wanted && !hidden {
                    let granted = match overlaps {
                        true => granted.max(self.highest_granted(client, &matching)),
                        false => granted,
                    };
                    into.push((client, granted));
                }
            }
        }
        if keys.len() > 1 {
            into.sort_by_key(|(client, qos)| (*client, core::cmp::Reverse(*qos)));
            into.dedup_by_key(|(client, _)| *client);
        }
    }

    /// True if one of the client's filters among these surely stands at the broker.
    fn has_own_copy(&self, client: ClientIx, matching: &[FilterKey]) -> bool {
        let stands = |filter: &Filter| filter.active.is_some() && !filter.vague;
        let filters = matching.iter().map(|key| &self.filters[*key as usize]);
        filters
            .filter(|filter| stands(filter))
            .any(|filter| filter.subscribers.get(client).is_some())
    }

    /// The highest QoS that the client is granted with one of these that stands at the broker.
    fn highest_granted(&self, client: ClientIx, matching: &[FilterKey]) -> QoS {
        let filters = matching.iter().map(|key| &self.filters[*key as usize]);
        let granted = filters
            .filter(|filter| filter.stands())
            .filter_map(|filter| filter.subscribers.get(client));
        granted.map(|own| own.granted).max().unwrap_or_default()
    }

    /// Whether this copy is the one that the client gets of a message.
    ///
    /// What an earlier life had not acknowledged when it ended comes again, and that may be one copy only: the one that
    /// counted then, or another. So while filters are vague the first copy of each QoS 1 message counts. Of those with
    /// QoS 2 that could be a second time.
    fn counts(
        &mut self,
        now: Instant,
        client: ClientIx,
        matching: &[FilterKey],
        of: FilterKey,
        arrival: Arrival<'_>,
    ) -> bool {
        if self.counted_until.is_some_and(|until| now >= until) {
            (self.counted, self.counted_until) = (HashMap::default(), None);
        }
        let digest = arrival.digest;
        let holds = |key: &&FilterKey| self.filters[**key as usize].subscribers.get(client).is_some();
        let uncertain = self.vague > 0 || self.counted_until.is_some();
        if arrival.qos == QoS::AtLeastOnce && uncertain {
            let counted = self.counted.get(&(client, digest)).copied();
            if let Some(counted) = matching.iter().filter(holds).find(|key| Some(**key) == counted) {
                return *counted == of;
            }
            let vague = |key: &FilterKey| self.filters[*key as usize].vague;
            if matching.iter().filter(holds).any(vague) && self.counted.len() < COUNTED_MAX {
                self.counted.insert((client, digest), of);
                return true;
            }
        }
        self.best_filter(client, matching, of, digest) == of
    }

    /// Of the client's filters that match and stand at the broker, the one whose copy counts: with the highest QoS.
    ///
    /// One that is being given back may get no copy any more, even if the client wants it again by now. Nor does one
    /// whose subscription is younger than the message, which may have waited at the broker. So until a filter has proved
    /// that what comes now is younger than itself, the oldest counts. Where some are from an earlier life, neither their
    /// age is known nor, before the broker's answer, whether they stand: then it is the one for which a message came
    /// first. Where some filters guarantee delivery, it is one of those.
    fn best_filter(
        &self,
        client: ClientIx,
        matching: &[FilterKey],
        of: FilterKey,
        digest: NonZeroU32,
    ) -> FilterKey {
        let granted = |key: FilterKey| {
            let filter = &self.filters[key as usize];
            let own = filter.subscribers.get(client)?;
            // A client accepted while the broker was away may count on more than the broker gives yet.
            let known = filter.active.filter(|_| !filter.vague);
            Some(known.map_or(own.granted, |active| own.granted.min(active)))
        };
        let candidates = || {
            let standing = matching.iter().copied().filter(|&key| {
                let filter = &self.filters[key as usize];
                let leaving = filter.pending == Pending::Unsubscribe;
                (key == of || filter.active.is_some()) && !leaving
            });
            standing.filter_map(|key| Some((granted(key)?, core::cmp::Reverse(key))))
        };
        let guaranteed = candidates().any(|(qos, _)| qos > QoS::AtMostOnce);
        let candidates = || candidates().filter(|(qos, _)| *qos > QoS::AtMostOnce || !guaranteed);
        let filter = |key: &core::cmp::Reverse<FilterKey>| &self.filters[key.0 as usize];
        let proven = candidates().filter(|(_, key)| {
            let proof = filter(key).proof.filter(|_| !filter(key).vague);
            proof.is_some_and(|proof| proof != digest)
        });
        // Of several from an earlier life the oldest is not known. QoS 0 may overtake, so what came first says nothing
        // there.
        let restored = candidates().any(|(_, key)| filter(&key).stands_since == 0);
        let first = || {
            let surely = candidates().filter(|_| guaranteed && restored);
            let seen = surely.filter_map(|(qos, key)| Some((filter(&key).seen?, (qos, key))));
            seen.min_by_key(|(seen, _)| *seen).map(|(_, it)| it)
        };
        let oldest = || candidates().min_by_key(|(_, key)| filter(key).stands_since);
        proven
            .max()
            .or_else(first)
            .or_else(oldest)
            .map_or(of, |(_, core::cmp::Reverse(key))| key)
    }
}

/// Filters by topic level, so that a name finds its filters without looking at the others.
#[derive(Debug)]
struct Trie {
    nodes: Slab<Node>,
    root: usize,
}

#[derive(Debug, Default)]
struct Node {
    /// `+` and `#` are children like any other level.
    children: HashMap<Box<str>, usize>,
    filter: Option<FilterKey>,
}

impl Default for Trie {
    fn default() -> Self {
        let mut nodes = Slab::new();
        let root = nodes.insert(Node::default());
        Trie { nodes, root }
    }
}

impl Trie {
    fn insert(&mut self, filter: &str, key: FilterKey) {
        let mut at = self.root;
        for level in filter.split('/') {
            at = match self.nodes[at].children.get(level) {
                Some(&child) => child,
                None => {
                    let child = self.nodes.insert(Node::default());
                    self.nodes[at].children.insert(level.into(), child);
                    child
                }
            };
        }
        self.nodes[at].filter = Some(key);
    }

    fn remove(&mut self, filter: &str) {
        let mut path = vec![(self.root, "")];
        for level in filter.split('/') {
            let (at, _) = path[path.len() - 1];
            let Some(&child) = self.nodes[at].children.get(level) else {
                return;
            };
            path.push((child, level));
        }
        if let Some((leaf, _)) = path.last() {
            self.nodes[*leaf].filter = None;
        }
        while let Some((node, level)) = path.pop() {
            let Some((parent, _)) = path.last() else { break };
            if self.nodes[node].filter.is_some() || !self.nodes[node].children.is_empty() {
                break;
            }
            self.nodes[*parent].children.remove(level);
            self.nodes.remove(node);
        }
    }

    /// Appends the keys of every filter that matches `name`.
    fn matching(&self, name: &str, keys: &mut Vec<FilterKey>) {
        self.descend(self.root, Some(name), name.starts_with('$'), keys);
    }

    fn descend(&self, at: usize, rest: Option<&str>, system: bool, keys: &mut Vec<FilterKey>) {
        let node = &self.nodes[at];
        // MQTT 3.1.1 §4.7.2: a wildcard in the first level does not match `$…`.
        let wildcards = !(system && at == self.root);
        if wildcards && let Some(&child) = node.children.get("#") {
            keys.extend(self.nodes[child].filter);
        }
        let Some(rest) = rest else {
            keys.extend(node.filter);
            return;
        };
        let (level, rest) = match rest.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (rest, None),
        };
        if let Some(&child) = node.children.get(level) {
            self.descend(child, rest, system, keys);
        }
        if wildcards && let Some(&child) = node.children.get("+") {
            self.descend(child, rest, system, keys);
        }
    }
}

/// True if a filter names exactly one topic.
pub(crate) fn is_exact(filter: &str) -> bool {
    !topic::has_wildcard(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matching(filters: &[&str], name: &str) -> Vec<String> {
        let mut trie = Trie::default();
        for (key, filter) in filters.iter().enumerate() {
            trie.insert(filter, key as FilterKey);
        }
        let mut keys = Vec::new();
        trie.matching(name, &mut keys);
        keys.sort_unstable();
        keys.into_iter()
            .map(|key| filters[key as usize].to_owned())
            .collect()
    }

    #[test]
    fn trie_agrees_with_the_definition() {
        let filters = [
            "a", "a/b", "a/+", "a/#", "#", "+", "+/b", "a//b", "$SYS/#", "/a", "+/+", "a/b/#",
        ];
        for name in [
            "a", "a/b", "a/", "b", "a/b/c", "a//b", "$SYS", "$SYS/x", "/a", "x/b",
        ] {
            let expected: Vec<_> = filters
                .iter()
                .filter(|filter| topic::matches(filter, name))
                .map(ToString::to_string)
                .collect();
            assert_eq!(matching(&filters, name), expected, "{name}");
        }
    }

    #[test]
    fn trie_forgets_without_a_trace() {
        let mut trie = Trie::default();
        trie.insert("a/b/c", 0);
        trie.insert("a/b", 1);
        trie.remove("a/b/c");
        let mut keys = Vec::new();
        trie.matching("a/b/c", &mut keys);
        assert!(keys.is_empty());
        trie.remove("a/b");
        assert_eq!(trie.nodes.len(), 1, "only the root is left");
    }
}
