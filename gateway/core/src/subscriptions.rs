//! The aggregated filter table: many subscribers, one subscription at the broker.

use core::time::Duration;
use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use slab::Slab;
use sn_codec::{MsgId, QoS, topic};

use crate::clients::ClientIx;
use crate::io::{FilterId, Token};
use crate::time::Instant;

/// How long after a SUBACK its retained messages are still told from others'. A broker sends them at once.
const RETAINED_WINDOW: Duration = Duration::from_secs(10);

/// Index of a filter in the table.
pub(crate) type FilterKey = usize;

/// Every filter that clients subscribed to.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    filters: Slab<Filter>,
    by_name: HashMap<Arc<str>, FilterKey>,
    by_id: HashMap<FilterId, FilterKey>,
    trie: Trie,
    last_id: u32,
}

/// One filter and what the broker knows of it.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(crate) name: Arc<str>,
    pub(crate) id: FilterId,
    /// It stands at the broker, with this QoS.
    pub(crate) active: Option<QoS>,
    pub(crate) pending: Pending,
    pub(crate) subscribers: Vec<Subscriber>,
    /// Clients whose SUBACK waits for the SUBSCRIBE under way.
    pub(crate) asking: Vec<Asker>,
    /// Clients that came after it was sent: they need one more, for the retained messages.
    pub(crate) asking_next: Vec<Asker>,
    /// A client was accepted while the broker was away (reading A31): one more SUBSCRIBE is owed, for its QoS and for
    /// the retained messages.
    pub(crate) ask_again: bool,
    /// Clients that are to be given the retained messages.
    retained_for: Vec<RetainedFor>,
}

/// What is under way at the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pending {
    Nothing,
    Subscribe(Token),
    Unsubscribe(Token),
}

/// A client with a filter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subscriber {
    pub(crate) client: ClientIx,
    /// QoS asked for, capped by the client's rule.
    pub(crate) asked: QoS,
    /// QoS that messages are delivered with at most.
    pub(crate) granted: QoS,
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

#[derive(Debug)]
struct RetainedFor {
    client: ClientIx,
    /// End of the window; `None` until the SUBACK came.
    until: Option<Instant>,
    seen: HashSet<Arc<str>>,
}

impl Filter {
    /// The QoS to ask the broker for: the highest any subscriber asked for.
    pub(crate) fn wanted_qos(&self) -> QoS {
        self.subscribers
            .iter()
            .map(|subscriber| subscriber.asked)
            .max()
            .unwrap_or_default()
    }

    /// The broker answered with SUBACK: the retained messages follow at once, or came already.
    pub(crate) fn start_retained_window(&mut self, now: Instant) {
        self.retained_for
            .retain(|waiting| waiting.until.is_none_or(|until| until > now));
        for waiting in &mut self.retained_for {
            waiting.until.get_or_insert(now + RETAINED_WINDOW);
        }
    }

    /// The client is to be given retained messages.
    pub(crate) fn want_retained(&mut self, client: ClientIx) {
        self.retained_for.retain(|waiting| waiting.client != client);
        self.retained_for.push(RetainedFor {
            client,
            until: None,
            seen: HashSet::default(),
        });
    }

    /// A live message: what is retained under its topic has passed for those who have their SUBACK.
    ///
    /// Brokers send retained messages ahead of later live ones, so what comes with RETAIN set from now on was asked
    /// for by somebody else.
    fn pass_live(&mut self, topic: &Arc<str>, now: Instant) {
        for waiting in &mut self.retained_for {
            if waiting.until.is_some_and(|until| now < until) {
                waiting.seen.insert(topic.clone());
            }
        }
    }

    /// True if this retained message is for the client and it has not had it from this subscription.
    fn take_retained(&mut self, client: ClientIx, topic: &Arc<str>, now: Instant) -> bool {
        self.retained_for.iter_mut().any(|waiting| {
            waiting.client == client
                && waiting.until.is_none_or(|until| now < until)
                && waiting.seen.insert(topic.clone())
        })
    }
}

impl Subscriptions {
    pub(crate) fn len(&self) -> usize {
        self.filters.len()
    }

    pub(crate) fn get_mut(&mut self, key: FilterKey) -> Option<&mut Filter> {
        self.filters.get_mut(key)
    }

    pub(crate) fn find(&self, name: &str) -> Option<FilterKey> {
        self.by_name.get(name).copied()
    }

    /// Keys of all filters, in an order that depends on nothing but the history.
    pub(crate) fn keys(&self) -> Vec<FilterKey> {
        self.filters.iter().map(|(key, _)| key).collect()
    }

    /// The filter of that name, a new one if there is none.
    pub(crate) fn entry(&mut self, name: &Arc<str>) -> FilterKey {
        if let Some(key) = self.find(name) {
            return key;
        }
        // An id is not used again: a late message must not find another filter. 28 bits last for years.
        self.last_id = self.last_id % 0x0FFF_FFFF + 1;
        let id = FilterId(self.last_id);
        let key = self.filters.insert(Filter {
            name: name.clone(),
            id,
            active: None,
            pending: Pending::Nothing,
            subscribers: Vec::new(),
            asking: Vec::new(),
            asking_next: Vec::new(),
            ask_again: false,
            retained_for: Vec::new(),
        });
        self.by_name.insert(name.clone(), key);
        self.by_id.insert(id, key);
        self.trie.insert(name, key);
        key
    }

    /// Forgets a filter without subscribers.
    pub(crate) fn remove(&mut self, key: FilterKey) {
        if let Some(filter) = self.filters.try_remove(key) {
            self.by_name.remove(&filter.name);
            self.by_id.remove(&filter.id);
            self.trie.remove(&filter.name);
        }
    }

    /// Takes the client off the filter.
    pub(crate) fn unsubscribe(&mut self, key: FilterKey, client: ClientIx) {
        if let Some(filter) = self.filters.get_mut(key) {
            filter
                .subscribers
                .retain(|subscriber| subscriber.client != client);
            filter.asking.retain(|asker| asker.client != client);
            filter.asking_next.retain(|asker| asker.client != client);
            filter.retained_for.retain(|waiting| waiting.client != client);
        }
    }

    /// Who gets a message, each client once, at the highest QoS granted.
    ///
    /// With subscription identifiers the broker may send one copy per filter: then the copy that counts for a
    /// client is the one of its best filter. Messages with RETAIN set are the answer to a SUBSCRIBE and go to the
    /// clients that wait for it.
    pub(crate) fn recipients(
        &mut self,
        now: Instant,
        ids: &[FilterId],
        name: &Arc<str>,
        retain: bool,
        into: &mut Vec<(ClientIx, QoS)>,
    ) {
        into.clear();
        let mut keys: Vec<FilterKey> = Vec::new();
        if ids.is_empty() {
            self.trie.matching(name, &mut keys);
        } else {
            keys.extend(ids.iter().filter_map(|id| self.by_id.get(id).copied()));
        }
        // One identifier: the broker sends a copy per filter, if several of ours match.
        let mut matching: Vec<FilterKey> = Vec::new();
        if ids.len() == 1 && !retain && self.filters.len() > 1 {
            self.trie.matching(name, &mut matching);
        }
        for &key in &keys {
            if !retain {
                self.filters[key].pass_live(name, now);
            }
            let count = self.filters[key].subscribers.len();
            for at in 0..count {
                let Subscriber { client, granted, .. } = self.filters[key].subscribers[at];
                let wanted = if retain {
                    self.filters[key].take_retained(client, name, now)
                } else {
                    matching.len() < 2 || self.best_filter(client, &matching, key) == key
                };
                if wanted {
                    into.push((client, granted));
                }
            }
        }
        if keys.len() > 1 {
            into.sort_by_key(|(client, qos)| (*client, core::cmp::Reverse(*qos)));
            into.dedup_by_key(|(client, _)| *client);
        }
    }

    /// Of the client's filters that match and stand at the broker, the one with the highest QoS.
    ///
    /// One that is being given back may get no copy any more, even if the client wants it again by now.
    fn best_filter(&self, client: ClientIx, matching: &[FilterKey], of: FilterKey) -> FilterKey {
        let granted = |key: FilterKey| {
            let filter = &self.filters[key];
            let own = filter
                .subscribers
                .iter()
                .find(|subscriber| subscriber.client == client)?;
            // A client accepted while the broker was away may count on more than the broker gives yet.
            Some(
                filter
                    .active
                    .map_or(own.granted, |active| own.granted.min(active)),
            )
        };
        matching
            .iter()
            .copied()
            .filter(|&key| {
                let filter = &self.filters[key];
                let leaving = matches!(filter.pending, Pending::Unsubscribe(_));
                (key == of || filter.active.is_some()) && !leaving
            })
            .filter_map(|key| Some((granted(key)?, core::cmp::Reverse(key))))
            .max()
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

    /// Appends the keys of every filter that matches `name`, in key order.
    fn matching(&self, name: &str, keys: &mut Vec<FilterKey>) {
        self.descend(self.root, Some(name), name.starts_with('$'), keys);
        keys.sort_unstable();
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
            trie.insert(filter, key);
        }
        let mut keys = Vec::new();
        trie.matching(name, &mut keys);
        keys.into_iter().map(|key| filters[key].to_owned()).collect()
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
