//! Topic names, topic filters and the tree that finds the subscriptions to a topic (MQTT 5 §4.7).

use foldhash::fast::RandomState;
use hashbrown::{Equivalent, HashMap};
use slab::Slab;

use super::shared::{Group, Subscriber};

/// Levels of a filter at most, so that no filter fills the memory with empty levels. Mosquitto has the same limit.
pub(crate) const LEVELS_MAX: usize = 200;

/// What MQTT can carry as a string (§1.5.4) and is not empty (§4.7.3).
fn is_string(text: &str) -> bool {
    !text.is_empty() && text.len() <= usize::from(u16::MAX) && !text.contains('\0')
}

/// What one can publish to (§4.7.1: no wildcards).
pub(crate) fn is_topic_name(topic: &str) -> bool {
    is_string(topic) && !topic.bytes().any(|byte| byte == b'+' || byte == b'#')
}

/// The server's own topics.
pub(crate) fn is_sys(topic: &str) -> bool {
    topic
        .strip_prefix("$SYS")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A valid topic filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Filter<'a> {
    /// As sent.
    pub(crate) text: &'a str,
    /// Of a shared subscription.
    pub(crate) shared: bool,
    /// What topics are compared with: without `$share/name/`.
    pub(crate) pattern: &'a str,
}

impl<'a> Filter<'a> {
    /// `None` if it is not valid (§4.7.1, §4.7.3, §4.8.2) or has too many levels.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        if !is_string(text) {
            return None;
        }
        let shared = text == "$share" || text.starts_with("$share/");
        let pattern = if shared {
            let (name, pattern) = text.strip_prefix("$share/")?.split_once('/')?;
            if name.is_empty() || name.contains(['+', '#']) || pattern.is_empty() {
                return None;
            }
            pattern
        } else {
            text
        };
        let mut levels = pattern.split('/').peekable();
        let mut count = 0;
        while let Some(level) = levels.next() {
            count += 1;
            let last = levels.peek().is_none();
            let wildcard = level == "+" || (level == "#" && last);
            if count > LEVELS_MAX || (!wildcard && level.contains(['+', '#'])) {
                return None;
            }
        }
        Some(Filter {
            text,
            shared,
            pattern,
        })
    }

    /// Whether a topic matches (§4.7.1, §4.7.2).
    pub(crate) fn matches(&self, topic: &str) -> bool {
        if topic.starts_with('$') && self.pattern.starts_with(['+', '#']) {
            return false;
        }
        let mut levels = topic.split('/');
        for wanted in self.pattern.split('/') {
            match (wanted, levels.next()) {
                ("#", _) => return true,
                ("+", Some(_)) => {}
                (wanted, Some(level)) if wanted == level => {}
                (_, Some(_) | None) => return false,
            }
        }
        levels.next().is_none()
    }

    /// What every matching topic begins with.
    pub(crate) fn prefix(&self) -> &'a str {
        match self.pattern.find(['+', '#']) {
            // `a/#` matches `a` too.
            Some(at) if self.pattern[at..].starts_with('#') => self.pattern[..at].trim_end_matches('/'),
            Some(at) => &self.pattern[..at],
            None => self.pattern,
        }
    }

    pub(crate) fn has_wildcard(&self) -> bool {
        self.pattern.contains(['+', '#'])
    }
}

/// What [`Filters::matching`] finds.
pub(crate) enum Match<'a> {
    Subscriber(&'a Subscriber),
    Group(&'a mut Group),
}

/// All subscriptions, as a tree of levels.
#[derive(Debug)]
pub(crate) struct Filters {
    nodes: Slab<Node>,
    /// Children by parent and level: one table, so that a node without children costs little. The hasher has a random
    /// seed against chosen collisions; nothing depends on the order of the table.
    edges: HashMap<Edge, u32, RandomState>,
    /// Subscriptions to `$SYS`.
    pub(crate) sys: usize,
}

const ROOT: u32 = 0;

#[derive(Debug, Default)]
struct Node {
    children: u32,
    /// The child for `+`, which is in the table too.
    plus: Option<u32>,
    /// Of the filter that ends here.
    exact: Subscribers,
    /// Of the filter that goes on with `/#`.
    below: Subscribers,
}

#[derive(Debug, Default)]
struct Subscribers {
    single: Vec<Subscriber>,
    groups: Vec<Group>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Edge {
    parent: u32,
    level: Box<str>,
}

/// An [`Edge`] to look for; hashed alike.
#[derive(Hash)]
struct EdgeRef<'a> {
    parent: u32,
    level: &'a str,
}

impl Equivalent<Edge> for EdgeRef<'_> {
    fn equivalent(&self, edge: &Edge) -> bool {
        self.parent == edge.parent && *self.level == *edge.level
    }
}

impl Filters {
    pub(crate) fn new() -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::default());
        Filters {
            nodes,
            edges: HashMap::default(),
            sys: 0,
        }
    }

    /// Adds a subscription or replaces the session's earlier one, which it returns.
    pub(crate) fn subscribe(&mut self, filter: &Filter<'_>, subscriber: Subscriber) -> Option<Subscriber> {
        let (levels, below) = levels(filter.pattern);
        let mut node = ROOT;
        for level in levels {
            node = self.child_or_new(node, level);
        }
        let subscribers = self.nodes[node as usize].subscribers(below);
        let list = if filter.shared {
            let at = subscribers
                .groups
                .iter()
                .position(|group| *group.filter == *filter.text)
                .unwrap_or_else(|| {
                    subscribers.groups.push(Group::new(filter.text));
                    subscribers.groups.len() - 1
                });
            &mut subscribers.groups[at].members
        } else {
            &mut subscribers.single
        };
        match list.iter_mut().find(|known| known.session == subscriber.session) {
            Some(known) => Some(core::mem::replace(known, subscriber)),
            None => {
                list.push(subscriber);
                self.sys += usize::from(is_sys(filter.pattern));
                None
            }
        }
    }

    /// A session's subscription.
    pub(crate) fn get(&self, filter: &Filter<'_>, session: u32) -> Option<&Subscriber> {
        let (levels, below) = levels(filter.pattern);
        let mut node = ROOT;
        for level in levels {
            node = self.child(node, level)?;
        }
        let node = &self.nodes[node as usize];
        let subscribers = if below { &node.below } else { &node.exact };
        let list = match filter.shared {
            true => {
                let mut groups = subscribers.groups.iter();
                &groups.find(|group| *group.filter == *filter.text)?.members
            }
            false => &subscribers.single,
        };
        list.iter().find(|known| known.session == session)
    }

    /// Removes a subscription; returns whether there was one.
    pub(crate) fn unsubscribe(&mut self, filter: &Filter<'_>, session: u32) -> bool {
        let (levels, below) = levels(filter.pattern);
        let mut path = vec![(ROOT, "")];
        let mut node = ROOT;
        for level in levels {
            let Some(child) = self.child(node, level) else {
                return false;
            };
            node = child;
            path.push((node, level));
        }
        let subscribers = self.nodes[node as usize].subscribers(below);
        let found = if filter.shared {
            let group = subscribers
                .groups
                .iter_mut()
                .find(|group| *group.filter == *filter.text);
            let found = group.is_some_and(|group| group.remove(session));
            subscribers.groups.retain(|group| !group.members.is_empty());
            found
        } else {
            let at = subscribers
                .single
                .iter()
                .position(|known| known.session == session);
            at.map(|at| subscribers.single.remove(at)).is_some()
        };
        if found {
            self.sys -= usize::from(is_sys(filter.pattern));
        }
        self.prune(&path);
        found
    }

    /// Tells of every subscription and group that a topic matches.
    pub(crate) fn matching(&mut self, topic: &str, mut each: impl FnMut(Match<'_>)) {
        let Filters { nodes, edges, .. } = self;
        visit(
            nodes,
            edges,
            ROOT,
            Some(topic),
            !topic.starts_with('$'),
            &mut each,
        );
    }

    /// The group of a shared subscription.
    pub(crate) fn group(&mut self, filter: &Filter<'_>) -> Option<&mut Group> {
        let (levels, below) = levels(filter.pattern);
        let mut node = ROOT;
        for level in levels {
            node = self.child(node, level)?;
        }
        let subscribers = self.nodes[node as usize].subscribers(below);
        subscribers
            .groups
            .iter_mut()
            .find(|group| *group.filter == *filter.text)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.len() == 1 && self.edges.is_empty() && self.sys == 0
    }

    fn child(&self, parent: u32, level: &str) -> Option<u32> {
        self.edges.get(&EdgeRef { parent, level }).copied()
    }

    fn child_or_new(&mut self, parent: u32, level: &str) -> u32 {
        if let Some(child) = self.child(parent, level) {
            return child;
        }
        let child = self.nodes.insert(Node::default()) as u32;
        let level = Box::from(level);
        let node = &mut self.nodes[parent as usize];
        node.children += 1;
        if *level == *"+" {
            node.plus = Some(child);
        }
        self.edges.insert(Edge { parent, level }, child);
        child
    }

    /// Removes the nodes at the end of a path that stand for nothing any more.
    fn prune(&mut self, path: &[(u32, &str)]) {
        for step in path.windows(2).rev() {
            let [(parent, _), (node, level)] = *step else {
                return;
            };
            if !self.nodes[node as usize].is_empty() {
                return;
            }
            self.nodes.remove(node as usize);
            self.edges.remove(&EdgeRef { parent, level });
            let parent = &mut self.nodes[parent as usize];
            parent.children -= 1;
            if level == "+" {
                parent.plus = None;
            }
        }
    }
}

impl Node {
    fn subscribers(&mut self, below: bool) -> &mut Subscribers {
        if below { &mut self.below } else { &mut self.exact }
    }

    fn is_empty(&self) -> bool {
        let none = |subscribers: &Subscribers| subscribers.single.is_empty() && subscribers.groups.is_empty();
        self.children == 0 && none(&self.exact) && none(&self.below)
    }
}

impl Subscribers {
    fn tell(&mut self, each: &mut impl FnMut(Match<'_>)) {
        self.single
            .iter()
            .for_each(|subscriber| each(Match::Subscriber(subscriber)));
        self.groups.iter_mut().for_each(|group| each(Match::Group(group)));
    }
}

/// The levels of a pattern before `/#`, and whether it ends with that.
fn levels(pattern: &str) -> (impl Iterator<Item = &str>, bool) {
    let below = pattern == "#" || pattern.ends_with("/#");
    (
        pattern.split('/').filter(move |level| !below || *level != "#"),
        below,
    )
}

/// Goes down the tree as far as the topic goes. `wildcards`: they count at this level (§4.7.2). As deep as the tree,
/// which is [`LEVELS_MAX`] at most.
fn visit(
    nodes: &mut Slab<Node>,
    edges: &HashMap<Edge, u32, RandomState>,
    node: u32,
    rest: Option<&str>,
    wildcards: bool,
    each: &mut impl FnMut(Match<'_>),
) {
    let here = &mut nodes[node as usize];
    if wildcards {
        here.below.tell(each);
    }
    let Some(rest) = rest else {
        here.exact.tell(each);
        return;
    };
    if here.children == 0 {
        return;
    }
    let (level, rest) = match rest.split_once('/') {
        Some((level, rest)) => (level, Some(rest)),
        None => (rest, None),
    };
    if wildcards && let Some(plus) = here.plus {
        visit(nodes, edges, plus, rest, true, each);
    }
    if let Some(child) = edges.get(&EdgeRef { parent: node, level }) {
        visit(nodes, edges, *child, rest, true, each);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use sn_codec::QoS;

    use super::*;

    fn subscriber(session: u32) -> Subscriber {
        Subscriber {
            session,
            qos: QoS::AtMostOnce,
            no_local: false,
            retain_as_published: false,
            id: None,
        }
    }

    /// Sessions found, those of groups too, in order.
    fn found(filters: &mut Filters, topic: &str) -> Vec<u32> {
        let mut sessions = Vec::new();
        filters.matching(topic, |found| match found {
            Match::Subscriber(subscriber) => sessions.push(subscriber.session),
            Match::Group(group) => sessions.extend(group.members.iter().map(|member| member.session)),
        });
        sessions.sort_unstable();
        sessions
    }

    #[test]
    fn mqtt_4_7_1_filters_match_topics() {
        let matches = |filter: &str, topic: &str| Filter::parse(filter).unwrap().matches(topic);
        for (filter, topic) in [
            ("sport/tennis/player1/#", "sport/tennis/player1"),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking"),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
            ("sport/#", "sport"),
            ("#", "a/b"),
            ("sport/tennis/+", "sport/tennis/player1"),
            ("sport/+", "sport/"),
            ("+/+", "/finance"),
            ("/+", "/finance"),
            ("$SYS/#", "$SYS/x"),
            ("$SYS/monitor/+", "$SYS/monitor/clients"),
            ("$share/g/a/+", "a/b"),
            ("a//b", "a//b"),
            ("+//#", "a//b/c"),
        ] {
            assert!(matches(filter, topic), "{filter} {topic}");
        }
        for (filter, topic) in [
            ("sport/tennis/+", "sport/tennis/player1/ranking"),
            ("sport/+", "sport"),
            ("+", "/finance"),
            ("#", "$SYS/x"),
            ("+/monitor/clients", "$SYS/monitor/clients"),
            ("a", "A"),
            ("/a", "a"),
            ("a/#", "ab"),
            ("a", "a/"),
        ] {
            assert!(!matches(filter, topic), "{filter} {topic}");
        }
    }

    #[test]
    fn mqtt_4_7_and_4_8_2_filters_that_are_not_valid() {
        let deepest = vec!["a"; LEVELS_MAX].join("/");
        assert!(Filter::parse(&deepest).is_some());
        let deep = deepest + "/a";
        let long = "a".repeat(65_536);
        for filter in [
            "",
            "a#",
            "#/a",
            "a/#/b",
            "a+",
            "a/+b",
            "++",
            "##",
            "a\0",
            "$share",
            "$share/",
            "$share/g",
            "$share/g/",
            "$share//a",
            "$share/+/a",
            "$share/g#/a",
            "$share/g/a#",
            &deep,
            &long,
        ] {
            assert_eq!(Filter::parse(filter), None, "{filter:?}");
        }
        for filter in [
            "$share/g//",
            "$shared/a",
            "/",
            "//",
            "+",
            "#",
            "+/#",
            "$share/g/#",
        ] {
            assert!(Filter::parse(filter).is_some(), "{filter:?}");
        }
    }

    #[test]
    fn prefix_is_what_every_matching_topic_begins_with() {
        for (filter, prefix) in [
            ("a/b", "a/b"),
            ("a/+", "a/"),
            ("a/#", "a"),
            ("#", ""),
            ("+/a", ""),
            ("$share/g/a/+", "a/"),
        ] {
            assert_eq!(Filter::parse(filter).unwrap().prefix(), prefix, "{filter}");
        }
    }

    /// Filters and topics of few levels and words, so that they often meet.
    fn levels(words: &'static [&'static str]) -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(words), 1..5).prop_map(|levels| levels.join("/"))
    }

    fn filter() -> impl Strategy<Value = String> {
        let plain = levels(&["a", "b", "", "+", "$x"]);
        let share = prop::sample::select(&["", "$share/g/", "$share/h/"][..]);
        (share, plain, any::<bool>())
            .prop_map(|(share, plain, below)| format!("{share}{plain}{}", if below { "/#" } else { "" }))
            .prop_filter("valid", |filter| Filter::parse(filter).is_some())
    }

    proptest! {
        #[test]
        fn tree_finds_what_matches_and_forgets_what_is_removed(
            filters in prop::collection::hash_set(filter(), 0..20),
            topics in prop::collection::vec(levels(&["a", "b", "", "$x"]), 1..10),
            removed in 0_usize..20,
        ) {
            let filters: Vec<_> = filters.into_iter().collect();
            let filters: Vec<_> = filters.iter().map(|filter| Filter::parse(filter).unwrap()).collect();
            let mut tree = Filters::new();
            for (session, filter) in (0..).zip(&filters) {
                prop_assert!(tree.subscribe(filter, subscriber(session)).is_none());
                prop_assert!(tree.subscribe(filter, subscriber(session)).is_some());
            }
            let gone = removed.min(filters.len());
            for (session, filter) in (0..).zip(&filters[..gone]) {
                prop_assert!(tree.unsubscribe(filter, session));
                prop_assert!(!tree.unsubscribe(filter, session));
            }
            for topic in &topics {
                let expected: Vec<u32> = (0..)
                    .zip(&filters)
                    .skip(gone)
                    .filter(|(_, filter)| filter.matches(topic))
                    .map(|(session, _)| session)
                    .collect();
                prop_assert_eq!(found(&mut tree, topic), expected);
            }
            for (session, filter) in (0..).zip(&filters).skip(gone) {
                prop_assert_eq!(tree.group(filter).is_some(), filter.shared);
                prop_assert!(tree.unsubscribe(filter, session));
            }
            prop_assert!(tree.is_empty());
        }
    }
}
