//! The topic registry: which id stands for which name, and for whom.
//!
//! Normal ids, predefined ids and short names are three separate spaces (reading A34): there is no fall-through
//! from one to another.

use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use sn_codec::{QoS, TopicId};

use crate::config::{ClientRule, PredefinedTopic};
use crate::io::NoTopic;

/// The first normal id handed out, so that numbers of the two id spaces do not overlap in practice (reading A34).
const FIRST_NORMAL_ID: u16 = 0x0401;

/// Names that are kept once however many clients use them.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: HashSet<Arc<str>>,
    purge_at: usize,
    /// Name without and with the topic prefix; only filled when there is one.
    prefixed: HashMap<Arc<str>, Arc<str>>,
}

impl Names {
    /// The shared copy of `name`.
    pub(crate) fn intern(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        if self.known.len() >= self.purge_at {
            self.known.retain(|name| Arc::strong_count(name) > 1);
            self.purge_at = (self.known.len() * 2).max(1024);
        }
        let name: Arc<str> = name.into();
        self.known.insert(name.clone());
        name
    }

    /// `name` with the topic prefix in front.
    pub(crate) fn with_prefix(&mut self, prefix: &str, name: &Arc<str>) -> Arc<str> {
        if prefix.is_empty() {
            return name.clone();
        }
        if let Some(known) = self.prefixed.get(name) {
            return known.clone();
        }
        if self.prefixed.len() >= 65_536 {
            self.prefixed.clear();
        }
        let prefixed: Arc<str> = format!("{prefix}{name}").into();
        self.prefixed.insert(name.clone(), prefixed.clone());
        prefixed
    }
}

/// A rule of the configuration, or the absence of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RuleIx(u16);

const NO_RULE: RuleIx = RuleIx(u16::MAX);

impl RuleIx {
    /// The rule itself.
    pub(crate) fn of(self, rules: &[ClientRule]) -> Option<&ClientRule> {
        rules.get(usize::from(self.0))
    }
}

/// The predefined ids of the configuration.
#[derive(Debug)]
pub(crate) struct Predefined {
    global: HashMap<u16, Arc<str>>,
    rules: Vec<CompiledRule>,
}

#[derive(Debug)]
struct CompiledRule {
    pattern: Arc<str>,
    topics: HashMap<u16, Arc<str>>,
    max_qos: QoS,
}

impl Predefined {
    pub(crate) fn new(global: &[PredefinedTopic], rules: &[ClientRule]) -> Self {
        let table = |topics: &[PredefinedTopic]| {
            topics
                .iter()
                .map(|topic| (topic.id.0, topic.topic.as_str().into()))
                .collect()
        };
        Predefined {
            global: table(global),
            rules: rules
                .iter()
                .map(|rule| CompiledRule {
                    pattern: rule.pattern.as_str().into(),
                    topics: table(&rule.predefined),
                    max_qos: rule.max_qos.unwrap_or(QoS::ExactlyOnce),
                })
                .collect(),
        }
    }

    /// The rule for a client: the first whose pattern matches.
    pub(crate) fn rule_for(&self, client_id: &str) -> RuleIx {
        let found = self.rules.iter().position(|rule| glob(&rule.pattern, client_id));
        found
            .and_then(|at| u16::try_from(at).ok())
            .map_or(NO_RULE, RuleIx)
    }

    /// The highest QoS granted under a rule (reading A54).
    pub(crate) fn max_qos(&self, rule: RuleIx) -> QoS {
        self.rules
            .get(usize::from(rule.0))
            .map_or(QoS::ExactlyOnce, |rule| rule.max_qos)
    }

    /// The name or template of an id: the rule's own goes before the global one.
    fn template(&self, rule: RuleIx, id: TopicId) -> Option<&Arc<str>> {
        let own = self
            .rules
            .get(usize::from(rule.0))
            .and_then(|rule| rule.topics.get(&id.0));
        own.or_else(|| self.global.get(&id.0))
    }

    /// The name of a global id that is the same for every client.
    pub(crate) fn anonymous(&self, id: TopicId) -> Option<&Arc<str>> {
        self.global.get(&id.0).filter(|name| !is_template(name))
    }

    /// The name of an id for a peer without a session that counts as this client.
    pub(crate) fn resolve_for(&self, client_id: &str, id: TopicId) -> Option<Arc<str>> {
        let template = self.template(self.rule_for(client_id), id)?;
        if !is_template(template) {
            return Some(template.clone());
        }
        let name = expand(template, client_id);
        sn_codec::topic::is_valid_name(&name).then(|| name.into())
    }

    /// Why an id has no name for a client under this rule.
    pub(crate) fn why_none(&self, rule: RuleIx, id: TopicId) -> NoTopic {
        match self.template(rule, id) {
            None => NoTopic::NotConfigured,
            Some(_) => NoTopic::InvalidName,
        }
    }

    /// Why an id has no name for a peer that counts as no client.
    pub(crate) fn why_none_without_client(&self, id: TopicId) -> NoTopic {
        let of_clients = self.rules.iter().any(|rule| rule.topics.contains_key(&id.0));
        match of_clients || self.global.contains_key(&id.0) {
            true => NoTopic::NeedsClient,
            false => NoTopic::NotConfigured,
        }
    }

    /// The name of an id for one client.
    pub(crate) fn resolve(
        &self,
        rule: RuleIx,
        client: &mut ClientTopics,
        client_id: &str,
        id: TopicId,
    ) -> Option<Arc<str>> {
        let template = self.template(rule, id)?;
        if !is_template(template) {
            return Some(template.clone());
        }
        let mut expanded = client.expanded.iter().flat_map(|expanded| &expanded.names);
        if let Some((_, name)) = expanded.find(|(expanded, _)| *expanded == id) {
            return Some(name.clone());
        }
        let name: Arc<str> = expand(template, client_id).into();
        if !sn_codec::topic::is_valid_name(&name) {
            return None; // A client id with a wildcard must not smuggle one into a topic name.
        }
        let expanded = client.expanded.get_or_insert_default();
        expanded.names.push((id, name.clone()));
        Some(name)
    }

    /// The predefined id that stands for `name` for one client, the lowest if there are several.
    pub(crate) fn id_of(&self, rule: RuleIx, client_id: &str, name: &str) -> Option<TopicId> {
        let own = self.rules.get(usize::from(rule.0)).map(|rule| &rule.topics);
        let matching = |(id, template): (&u16, &Arc<str>)| {
            let matches = if is_template(template) {
                expand(template, client_id) == name
            } else {
                &**template == name
            };
            matches.then_some(*id)
        };
        let own_id = own.and_then(|topics| topics.iter().filter_map(matching).min());
        let hidden = |id: &u16| own.is_some_and(|topics| topics.contains_key(id));
        own_id
            .or_else(|| {
                self.global
                    .iter()
                    .filter(|(id, _)| !hidden(id))
                    .filter_map(matching)
                    .min()
            })
            .map(TopicId)
    }

    /// Every predefined id: number, pattern of the clients, name or template; sorted.
    pub(crate) fn rows(&self) -> Vec<(u16, Arc<str>, Arc<str>)> {
        let everyone: Arc<str> = "*".into();
        let mut rows: Vec<_> = self
            .global
            .iter()
            .map(|(id, topic)| (*id, everyone.clone(), topic.clone()))
            .collect();
        for rule in &self.rules {
            rows.extend(
                rule.topics
                    .iter()
                    .map(|(id, topic)| (*id, rule.pattern.clone(), topic.clone())),
            );
        }
        rows.sort();
        rows
    }
}

fn is_template(topic: &str) -> bool {
    topic.contains("{client_id}")
}

fn expand(template: &str, client_id: &str) -> String {
    template.replace("{client_id}", client_id)
}

/// True if `text` matches `pattern`, in which `*` stands for any number of characters and `?` for one.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                // Let the last star take one character more.
                let Some((star_p, star_t)) = star else {
                    return false;
                };
                star = Some((star_p, star_t + 1));
                p = star_p + 1;
                t = star_t + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Ids that are reserved at a time, so that not each new name is written at once.
const RESERVED: u8 = 16;

/// Ids that a later life leaves out, at most.
const LEFT_OUT: u16 = 0x0400;

/// The topic ids of one client (§7.3, reading A33: ids are the client's own).
#[derive(Debug)]
pub(crate) struct ClientTopics {
    normal: Vec<NormalTopic>,
    next_id: u16,
    /// So many ids a later life would not give to other names, even if it knew of nothing that follows.
    reserved: u8,
    /// Predefined templates filled in for this client, as they are used; few clients use any.
    expanded: Option<Box<Expanded>>,
}

#[derive(Debug, Default)]
struct Expanded {
    names: Vec<(TopicId, Arc<str>)>,
}

/// A normal topic id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NormalTopic {
    pub(crate) id: TopicId,
    pub(crate) name: Arc<str>,
    /// The client knows the id: it was told by REGACK or SUBACK, or answered our REGISTER, in this connection
    /// (reading A39).
    pub(crate) confirmed: bool,
    /// The client was told the id at some time (reading A40).
    pub(crate) told: bool,
    /// The client refused our REGISTER: nothing is delivered under this name in this connection (reading A40).
    pub(crate) rejected: bool,
}

/// Where the ids of records that are gone ended, by hash of the client id: those of the client's next record go on from
/// there (reading A35). Clients that share a place only leave out more ids than they must.
#[derive(Debug)]
pub(crate) struct IdTrails(Box<[u16]>);

/// 8 KiB.
const TRAILS: usize = 4096;

impl Default for IdTrails {
    fn default() -> Self {
        IdTrails(vec![0; TRAILS].into())
    }
}

impl IdTrails {
    /// Where the ids of a new record begin, if anything is known of earlier ones.
    pub(crate) fn start(&self, id_hash: u32) -> Option<u16> {
        Some(self.0[id_hash as usize % TRAILS]).filter(|next| *next != 0)
    }

    /// A record is gone.
    pub(crate) fn end(&mut self, id_hash: u32, topics: &ClientTopics) {
        let trail = &mut self.0[id_hash as usize % TRAILS];
        // A record that began before another ended may be behind it.
        let ahead = topics.next_id.wrapping_sub(*trail) < 0x8000;
        if *trail == 0 || ahead {
            *trail = topics.next_id;
        }
    }
}

/// No topic id could be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TopicsFull;

impl ClientTopics {
    /// The first id, if none `follows` from an earlier record, is derived from `random`, so that ids of a restarted
    /// gateway are not taken for those of its last life (reading A35). It is in the lower half: there are clients that
    /// read REGACK's id as a signed number.
    pub(crate) fn new(follows: Option<u16>, random: u16) -> Self {
        let next_id = match follows {
            Some(next) if next < 0x8000 => next,
            Some(_) => FIRST_NORMAL_ID,
            None => FIRST_NORMAL_ID + random % 0x7000,
        };
        ClientTopics {
            normal: Vec::new(),
            next_id,
            reserved: 0,
            expanded: None,
        }
    }

    /// Those of an earlier life, which gave no ids from `next` on. If its disk did not work it may have, so some `random`
    /// number of them is left out (reading A35).
    pub(crate) fn restored(next: u16, random: u16, normal: Vec<NormalTopic>) -> Self {
        ClientTopics {
            normal,
            ..ClientTopics::new(Some(next.saturating_add(random % LEFT_OUT)), 0)
        }
    }

    /// Where a later life begins to look for the next id.
    pub(crate) fn stored_next(&self) -> u16 {
        self.next_id.saturating_add(self.reserved.into())
    }

    /// True if the next new id is not reserved: before the client is told it that has to be stored.
    pub(crate) fn is_spent(&self) -> bool {
        self.reserved == 0
    }

    /// Reserves more ids; the client is stored next.
    pub(crate) fn reserve(&mut self) {
        self.reserved = RESERVED;
    }

    pub(crate) fn by_id(&self, id: TopicId) -> Option<&NormalTopic> {
        // Ids are handed out in rising order, so the list is nearly always sorted by id.
        match self.normal.binary_search_by_key(&id, |topic| topic.id) {
            Ok(at) => self.normal.get(at),
            Err(_) => self.normal.iter().find(|topic| topic.id == id),
        }
    }

    pub(crate) fn by_id_mut(&mut self, id: TopicId) -> Option<&mut NormalTopic> {
        self.normal.iter_mut().find(|topic| topic.id == id)
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<&NormalTopic> {
        self.normal.iter().find(|topic| &*topic.name == name)
    }

    /// The id for `name`, the old one if there is one (reading A36).
    pub(crate) fn assign(&mut self, name: &Arc<str>, limit: usize) -> Result<TopicId, TopicsFull> {
        if let Some(topic) = self.by_name(name) {
            return Ok(topic.id);
        }
        if self.normal.len() >= limit.min(0xF000) {
            return Err(TopicsFull);
        }
        let mut id = TopicId(self.next_id);
        while id.is_reserved() || id.0 < FIRST_NORMAL_ID || self.by_id(id).is_some() {
            id = TopicId(id.0.wrapping_add(1).max(FIRST_NORMAL_ID));
        }
        let skipped = id.0.wrapping_sub(self.next_id);
        let used = u8::try_from(skipped.saturating_add(1)).unwrap_or(u8::MAX);
        self.reserved = self.reserved.saturating_sub(used);
        self.next_id = id.0.wrapping_add(1);
        let topic = NormalTopic {
            id,
            name: name.clone(),
            confirmed: false,
            told: false,
            rejected: false,
        };
        if self.normal.len() < 4 {
            self.normal.reserve_exact(1); // Most clients have one or two names, and there may be a million of them.
        }
        self.normal.push(topic);
        Ok(id)
    }

    /// The client was told `id` by us, or confirmed it.
    pub(crate) fn confirm(&mut self, id: TopicId) {
        if let Some(topic) = self.by_id_mut(id) {
            topic.confirmed = true;
            topic.told = true;
            topic.rejected = false;
        }
    }

    /// The client does not know the id of `name`: it is registered again before its next use (reading A41).
    pub(crate) fn unconfirm(&mut self, name: &str) {
        if let Some(topic) = self.normal.iter_mut().find(|topic| &*topic.name == name) {
            topic.confirmed = false;
        }
    }

    /// The client asked for `id` itself and is about to be told, whatever it said to our REGISTER.
    pub(crate) fn tell(&mut self, id: TopicId) {
        if let Some(topic) = self.by_id_mut(id) {
            topic.told = true;
            topic.rejected = false;
        }
    }

    /// A new connection with the old session: names are registered again before their first use (reading A39).
    pub(crate) fn unconfirm_all(&mut self) {
        for topic in &mut self.normal {
            topic.confirmed = false;
            topic.rejected = false;
        }
    }

    /// A clean session: the names are forgotten, the counter goes on (reading A35).
    pub(crate) fn clear(&mut self) {
        self.normal = Vec::new();
    }

    pub(crate) fn normal(&self) -> &[NormalTopic] {
        &self.normal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn predefined() -> Predefined {
        let topic = |id, topic: &str| PredefinedTopic {
            id: TopicId(id),
            topic: topic.into(),
        };
        Predefined::new(
            &[
                topic(1, "plant/status"),
                topic(2, "plant/{client_id}/temperature"),
            ],
            &[
                ClientRule {
                    pattern: "pump-7".into(),
                    predefined: vec![topic(1, "pump/seven")],
                    ..ClientRule::default()
                },
                ClientRule {
                    pattern: "pump-*".into(),
                    predefined: vec![topic(10, "pump/{client_id}/set")],
                    max_qos: Some(QoS::AtLeastOnce),
                    ..ClientRule::default()
                },
            ],
        )
    }

    fn resolve(client: &str, id: u16) -> Option<String> {
        let table = predefined();
        let mut topics = ClientTopics::new(None, 0);
        table
            .resolve(table.rule_for(client), &mut topics, client, TopicId(id))
            .map(|name| name.to_string())
    }

    #[test]
    fn predefined_ids_are_global_or_of_the_first_matching_rule() {
        assert_eq!(resolve("anyone", 1).as_deref(), Some("plant/status"));
        assert_eq!(
            resolve("pump-7", 1).as_deref(),
            Some("pump/seven"),
            "the rule's own id hides the global one"
        );
        assert_eq!(resolve("pump-8", 1).as_deref(), Some("plant/status"));
        assert_eq!(resolve("pump-8", 10).as_deref(), Some("pump/pump-8/set"));
        assert_eq!(resolve("pump-7", 10), None, "only the first matching rule counts");
        assert_eq!(resolve("anyone", 3), None);
    }

    #[test]
    fn templates_are_filled_in_per_client() {
        assert_eq!(resolve("a", 2).as_deref(), Some("plant/a/temperature"));
        assert_eq!(resolve("b", 2).as_deref(), Some("plant/b/temperature"));
        assert_eq!(
            resolve("+", 2),
            None,
            "a wildcard in a client id does not become one in a topic"
        );
    }

    #[test]
    fn a_name_finds_its_predefined_id() {
        let table = predefined();
        let id_of = |client: &str, name: &str| table.id_of(table.rule_for(client), client, name);
        assert_eq!(id_of("x", "plant/x/temperature"), Some(TopicId(2)));
        assert_eq!(id_of("x", "plant/y/temperature"), None);
        assert_eq!(
            id_of("pump-7", "plant/status"),
            None,
            "hidden by the rule's own id 1"
        );
    }

    #[test]
    fn ids_keep_their_name_and_are_not_used_again() {
        let mut topics = ClientTopics::new(None, 0);
        let (a, b): (Arc<str>, Arc<str>) = ("a/b".into(), "b/c".into());
        let first = topics.assign(&a, 10).unwrap();
        assert_eq!(topics.assign(&a, 10), Ok(first));
        topics.clear();
        assert_ne!(
            topics.assign(&b, 10),
            Ok(first),
            "the counter goes on after a clean session"
        );
    }

    #[test]
    fn ids_of_a_clients_next_record_follow_those_of_the_last() {
        let mut trails = IdTrails::default();
        let name: Arc<str> = "a/b".into();
        assert_eq!(trails.start(7), None);
        let mut first = ClientTopics::new(None, 100);
        let mut behind = ClientTopics::new(None, 100);
        let told = first.assign(&name, 10).unwrap();
        trails.end(7, &first);
        assert_eq!(trails.start(7), Some(told.0 + 1));
        assert_eq!(trails.start(8), None, "another client");
        // Another client in the same place, that began with the same number and got further.
        for n in 0..3 {
            behind.assign(&format!("n/{n}").into(), 10).unwrap();
        }
        trails.end(7, &behind);
        trails.end(7, &first);
        assert_eq!(trails.start(7), Some(told.0 + 3));
        let begins = |next| ClientTopics::new(Some(next), 0).assign(&name, 10);
        assert_eq!(begins(0x7FFF), Ok(TopicId(0x7FFF)));
        assert_eq!(begins(0x8000), Ok(TopicId(FIRST_NORMAL_ID)), "the lower half");
    }

    #[test]
    fn ids_stay_off_the_reserved_ones_and_within_the_limit() {
        let mut topics = ClientTopics {
            normal: Vec::new(),
            next_id: 0xFFFE,
            reserved: 0,
            expanded: None,
        };
        let names: Vec<Arc<str>> = (0..4).map(|n| format!("n/{n}").into()).collect();
        assert_eq!(topics.assign(&names[0], 3), Ok(TopicId(0xFFFE)));
        assert_eq!(topics.assign(&names[1], 3), Ok(TopicId(FIRST_NORMAL_ID)));
        assert_eq!(topics.assign(&names[2], 3), Ok(TopicId(FIRST_NORMAL_ID + 1)));
        assert_eq!(topics.assign(&names[3], 3), Err(TopicsFull));
        assert_eq!(
            topics.by_id(TopicId(0xFFFE)).map(|topic| &*topic.name),
            Some("n/0")
        );
    }

    #[test]
    fn glob_patterns() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("pump-*", "pump-7", true),
            ("pump-*", "pump", false),
            ("*-7", "pump-7", true),
            ("p?mp", "pump", true),
            ("p?mp", "pmp", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}
