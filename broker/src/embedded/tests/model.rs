//! Random sequences of what clients do, against a model of what they must see.
//!
//! The model knows who subscribes to what at each publish, and so who must get it. It checks every output as it comes,
//! and at the end, when everybody came back and answered everything, that nothing is missing and nothing is kept:
//! - QoS 1 arrives at least once and QoS 2 exactly once per session, while the session lives;
//! - first arrivals are in order per publisher, topic and QoS;
//! - nothing is dropped for a session whose connection was lost within its bound less than ten seconds ago;
//! - credit, receive maximum and the bounds of queues hold; a message comes again only with DUP and on a new connection;
//! - a client's publish is answered when the gateway has acknowledged its copy, and not before;
//! - nothing is said under a key that has ended.
//!
//! With a store, the broker ends without a word now and then and begins again with what is there. The gateway publishes
//! again what it was not told that everybody has. Then also:
//! - the store has exactly the sessions that outlive their connection, with their subscriptions;
//! - what the gateway was told that everybody has, everybody has, and in the end it is told so of everything settled;
//! - nothing that the gateway published is missing over a restart, though it may come twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use gateway_core::io::{
    BrokerEvent, BrokerRequest, ConnId, ConnectOptions, DeliveryId, FilterId, StoreChange, StoreKey, Token,
};
use proptest::prelude::*;

use super::*;
use crate::embedded::filters::Filter;
use crate::embedded::kept::SessionRecord;
use crate::embedded::local::Local;
use crate::embedded::session::TOO_SLOW;

const BOUND: usize = 4;
const MODEL_LIMITS: RouterLimits = RouterLimits {
    queue_messages: BOUND,
    queue_bytes: 1_000_000,
    retained_max: 10,
    subscriptions_max: 10,
    sessions_max: 10,
};
const IDS: [&str; 3] = ["c0", "c1", "c2"];
const GATEWAY: usize = IDS.len();
const CONN: ConnId = ConnId(0);
const TOPICS: [&str; 4] = ["a", "a/b", "c/b", SHARED_TOPIC];
const SHARED_TOPIC: &str = "s";
/// No plain one matches the shared topic.
const FILTERS: [&str; 6] = ["a", "a/b", "a/#", "+/b", "$share/g/s", "$share/h/s/#"];

#[derive(Debug, Clone)]
enum Step {
    Connect {
        client: usize,
        clean: bool,
        expiry: u32,
        receive_maximum: u16,
        credit: u32,
        will: bool,
    },
    Close(usize),
    Disconnect(usize),
    Subscribe {
        who: usize,
        filter: usize,
        qos: QoS,
        no_local: bool,
    },
    Unsubscribe {
        who: usize,
        filter: usize,
    },
    Publish {
        who: usize,
        topic: usize,
        qos: QoS,
        retain: bool,
        expiry: Option<u32>,
        times: usize,
    },
    Credit(usize, u32),
    /// Say so many of the answers that are due.
    Answer(usize, usize),
    Wait(u64),
    /// Kill the broker and start it again.
    Restart,
}

fn qos() -> impl Strategy<Value = QoS> {
    prop::sample::select(&[AtMostOnce, AtLeastOnce, ExactlyOnce][..])
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..IDS.len();
    let who = 0..=GATEWAY;
    let connect = (
        client.clone(),
        any::<bool>(),
        prop::sample::select(&[0, 30, u32::MAX][..]),
        prop::sample::select(&[1, 3, u16::MAX][..]),
        0..20_u32,
        any::<bool>(),
    )
        .prop_map(
            |(client, clean, expiry, receive_maximum, credit, will)| Step::Connect {
                client,
                clean,
                expiry,
                receive_maximum,
                credit,
                will,
            },
        );
    let subscribe =
        (who.clone(), 0..FILTERS.len(), qos(), any::<bool>()).prop_map(|(who, filter, qos, no_local)| {
            Step::Subscribe {
                who,
                filter,
                qos,
                no_local,
            }
        });
    let publish = (
        who.clone(),
        0..TOPICS.len(),
        qos(),
        prop::bool::weighted(0.1),
        prop::option::weighted(0.1, 1..20_u32),
        1..6_usize,
    )
        .prop_map(|(who, topic, qos, retain, expiry, times)| Step::Publish {
            who,
            topic,
            qos,
            retain,
            expiry,
            times,
        });
    prop_oneof![
        4 => connect,
        1 => client.clone().prop_map(Step::Close),
        1 => client.clone().prop_map(Step::Disconnect),
        4 => subscribe,
        1 => (who.clone(), 0..FILTERS.len()).prop_map(|(who, filter)| Step::Unsubscribe { who, filter }),
        10 => publish,
        3 => (client, 1..10_u32).prop_map(|(client, credit)| Step::Credit(client, credit)),
        6 => (who, 1..10_usize).prop_map(|(who, count)| Step::Answer(who, count)),
        2 => (1..20_u64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

/// A message, by its number.
struct Sent {
    publisher: usize,
    topic: &'static str,
    qos: QoS,
    retain: bool,
    expires: Option<Instant>,
    /// Came to the router twice, or at a time that does not follow from its number.
    resent: bool,
    /// There was somebody in the group.
    shared: bool,
    /// It was under way when the broker was killed or the gateway's session ended, and is published again.
    republished: bool,
    /// The gateway was told that it is lost. This one does not publish it again.
    lost: bool,
}

/// What a session must see, while it lives.
#[derive(Default)]
struct Session {
    subscriptions: BTreeMap<&'static str, (QoS, bool)>,
    ends: Option<Instant>,
    /// It lost its connection: until then nothing for it may be dropped.
    awaited: Option<Instant>,
    expected: BTreeSet<u64>,
    allowed: BTreeMap<u64, QoS>,
    seen: BTreeMap<u64, usize>,
    last: BTreeMap<(usize, &'static str, QoS), u64>,
    /// Messages not acknowledged, by packet id: number and connection it came on.
    unfinished: BTreeMap<u16, (Option<u64>, u32)>,
    /// QoS 2 messages before PUBREL.
    recorded: BTreeSet<u16>,
    /// Own publishes: number and whether PUBREC came.
    unsettled: BTreeMap<u16, (u64, bool)>,
}

struct Connection {
    key: ClientKey,
    number: u32,
    expiry: u32,
    credit: u32,
    receive_maximum: usize,
    /// Answers due.
    todo: VecDeque<Received>,
}

struct World {
    router: Router,
    local: Local,
    now: Instant,
    messages: Vec<Sent>,
    sessions: [Option<Session>; IDS.len() + 1],
    connections: [Option<Connection>; IDS.len()],
    connections_made: u32,
    /// CONNACK or acknowledgement that the step at hand waits for.
    connack: Option<bool>,
    /// Messages of shared subscriptions: who saw them.
    shared: BTreeMap<u64, BTreeSet<usize>>,
    tokens: BTreeSet<Token>,
    answered: BTreeMap<Token, Result<(), u8>>,
    gateway_todo: VecDeque<(DeliveryId, Option<u64>)>,
    gateway_credit: u32,
    gateway_next: u64,
    gateway_up: bool,
    /// What the broker keeps, if anything survives.
    store: Option<BTreeMap<StoreKey, Bytes>>,
    /// Publishes of the gateway of which it was not told that everybody has them.
    undelivered: BTreeMap<Token, u64>,
    /// Those of which it was told, to be looked at when whatever else happened at once is known.
    delivered: Vec<Token>,
}

impl World {
    fn new(store: bool) -> Self {
        let mut world = World {
            router: Router::new(MODEL_LIMITS, 1),
            local: Local::new(store),
            now: Instant::START,
            messages: Vec::new(),
            sessions: Default::default(),
            connections: Default::default(),
            connections_made: 0,
            connack: None,
            shared: BTreeMap::new(),
            tokens: BTreeSet::new(),
            answered: BTreeMap::new(),
            gateway_todo: VecDeque::new(),
            gateway_credit: 0,
            gateway_next: 0,
            gateway_up: false,
            store: store.then(BTreeMap::new),
            undelivered: BTreeMap::new(),
            delivered: Vec::new(),
        };
        if store {
            world.router.keep_sessions(world.now, Vec::new());
        }
        world.open_gateway();
        world
    }

    fn open_gateway(&mut self) {
        let options = ConnectOptions {
            client_id: "gateway".into(),
            clean_start: true,
            will: None,
            ..ConnectOptions::default()
        };
        self.gateway(vec![BrokerRequest::Open { conn: CONN, options }]);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Connect {
                client,
                clean,
                expiry,
                receive_maximum,
                credit,
                will,
            } => self.connect(client, clean, expiry, receive_maximum, credit, will),
            Step::Close(client) => {
                if let Some(connection) = self.connections[client].take() {
                    // Copies of shared subscriptions go to others now, which comes too late for one that was over it.
                    let within = self.router.held(IDS[client]) <= BOUND;
                    self.router.closed(self.now, connection.key);
                    self.detached(client, connection.expiry);
                    if let Some(session) = &mut self.sessions[client] {
                        session.awaited = within.then_some(self.now + TOO_SLOW);
                    }
                }
            }
            Step::Disconnect(client) => {
                if let Some(connection) = self.connections[client].take() {
                    let disconnect = Received::Disconnect {
                        with_will: false,
                        session_expiry: None,
                    };
                    self.router.received(self.now, connection.key, disconnect);
                    self.detached(client, connection.expiry);
                    if let Some(session) = &mut self.sessions[client] {
                        session.awaited = None;
                    }
                }
            }
            Step::Subscribe {
                who,
                filter,
                qos,
                no_local,
            } => self.subscribe(who, FILTERS[filter], qos, no_local),
            Step::Unsubscribe { who, filter } => self.unsubscribe(who, FILTERS[filter]),
            Step::Publish {
                who,
                topic,
                qos,
                retain,
                expiry,
                times,
            } => {
                for _ in 0..times {
                    self.publish(who, TOPICS[topic], qos, retain, expiry);
                }
            }
            Step::Credit(client, credit) => self.credit(client, credit),
            Step::Answer(GATEWAY, count) => self.gateway_answers(count),
            Step::Answer(client, count) => self.answer(client, count),
            Step::Wait(seconds) => self.wait(seconds),
            Step::Restart => self.restart(),
        }
        self.drain();
        for (who, id) in (0..).zip(IDS.into_iter().chain(["gateway"])) {
            let bound = if who == GATEWAY { 10 * BOUND } else { BOUND };
            assert!(self.router.held(id) <= 2 * bound, "{id}");
        }
    }

    fn connect(
        &mut self,
        client: usize,
        clean_start: bool,
        session_expiry: u32,
        receive_maximum: u16,
        credit: u32,
        with_will: bool,
    ) {
        let takes_over = self.connections[client].take();
        self.connections_made += 1;
        let key = self.router.connect(
            self.now,
            Connect {
                client_id: IDS[client].into(),
                clean_start,
                session_expiry,
                receive_maximum,
                will: if with_will { will("a", 5) } else { None },
            },
        );
        let connection = Connection {
            key,
            number: self.connections_made,
            expiry: session_expiry,
            credit: 0,
            receive_maximum: usize::from(receive_maximum),
            todo: VecDeque::new(),
        };
        if let Some(earlier) = takes_over {
            self.detached(client, earlier.expiry);
            let last = self.router.poll_output();
            let reason = reason::SESSION_TAKEN_OVER;
            assert_eq!(last, Some((earlier.key, Reply::Disconnect { reason })));
        }
        let kept = self.sessions[client].is_some() && !clean_start;
        if !kept {
            self.sessions[client] = Some(Session::default());
        }
        self.connections[client] = Some(connection);
        self.drain();
        assert_eq!(self.connack.take(), Some(kept));
        self.session(client).ends = None;
        self.credit(client, credit);

        // What was not settled comes again (§4.4).
        for (packet_id, (number, recorded)) in self.session(client).unsettled.clone() {
            let packet = if recorded {
                Received::PubRel { packet_id }
            } else {
                self.resend(number);
                Received::Publish {
                    packet_id,
                    dup: true,
                    message: self.message(number),
                }
            };
            self.say(client, packet);
        }
    }

    /// The router may take it for a new message, if it is QoS 1.
    fn resend(&mut self, number: u64) {
        let sent = &mut self.messages[number as usize];
        sent.resent = true;
        if sent.qos == AtLeastOnce || sent.republished {
            let (topic, publisher, qos) = (sent.topic, sent.publisher, sent.qos);
            for (who, qos) in self.targets(publisher, topic, qos) {
                self.session(who).allowed.insert(number, qos);
            }
        }
    }

    fn message(&self, number: u64) -> Message {
        let sent = &self.messages[number as usize];
        Message {
            retain: sent.retain,
            ..message(sent.topic, sent.qos, &number.to_string())
        }
    }

    fn session(&mut self, who: usize) -> &mut Session {
        self.sessions[who].as_mut().unwrap()
    }

    fn detached(&mut self, client: usize, expiry: u32) {
        match expiry {
            0 => self.sessions[client] = None,
            u32::MAX => {}
            seconds => {
                let ends = self.now + Duration::from_secs(seconds.into());
                self.session(client).ends = Some(ends);
            }
        }
    }

    fn is_connected(&self, who: usize) -> bool {
        match who {
            GATEWAY => self.gateway_up,
            client => self.connections[client].is_some(),
        }
    }

    fn is_awaited(&self, client: usize) -> bool {
        let session = self.sessions[client].as_ref();
        session
            .and_then(|session| session.awaited)
            .is_some_and(|until| self.now < until)
    }

    fn say(&mut self, client: usize, packet: Received) {
        if let Some(connection) = &self.connections[client] {
            self.router.received(self.now, connection.key, packet);
            self.drain();
        }
    }

    fn credit(&mut self, client: usize, credit: u32) {
        if let Some(connection) = &mut self.connections[client] {
            connection.credit += credit;
            self.router.credit(self.now, connection.key, credit);
            self.drain();
        }
    }

    fn wait(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while let Some(due) = self.router.poll_timeout()
            && due <= end
        {
            self.now = self.now.max(due);
            self.router.handle_timeout(self.now);
            self.end_sessions();
            self.drain();
        }
        self.now = end;
        self.end_sessions();
    }

    fn end_sessions(&mut self) {
        let now = self.now;
        for session in &mut self.sessions {
            session.take_if(|session| session.ends.is_some_and(|ends| ends <= now));
        }
    }

    fn subscribe(&mut self, who: usize, filter: &'static str, qos: QoS, no_local: bool) {
        if !self.is_connected(who) {
            return;
        }
        let shared = filter.starts_with("$share");
        // All of a group alike, so that it does not matter who gets a message.
        let qos = if shared { ExactlyOnce } else { qos };
        let no_local = no_local && !shared && who != GATEWAY;
        self.session(who).subscriptions.insert(filter, (qos, no_local));
        if who == GATEWAY {
            let token = self.token();
            self.gateway(vec![BrokerRequest::Subscribe {
                conn: CONN,
                token,
                filter: filter.into(),
                id: FilterId(1),
                qos,
            }]);
        } else {
            let subscription = Subscription {
                no_local,
                ..subscription(filter, qos)
            };
            let subscribe = Received::Subscribe {
                packet_id: 1,
                id: None,
                filters: vec![subscription],
            };
            self.say(who, subscribe);
        }
    }

    fn unsubscribe(&mut self, who: usize, filter: &'static str) {
        if !self.is_connected(who) {
            return;
        }
        self.session(who).subscriptions.remove(filter);
        if who == GATEWAY {
            let token = self.token();
            self.gateway(vec![BrokerRequest::Unsubscribe {
                conn: CONN,
                token,
                filter: filter.into(),
            }]);
        } else {
            let filters = vec![filter.into()];
            self.say(
                who,
                Received::Unsubscribe {
                    packet_id: 1,
                    filters,
                },
            );
        }
    }

    /// Sessions that subscribe to a topic, but for shared subscriptions, and with which QoS they get the message.
    fn targets(&self, from: usize, topic: &str, qos: QoS) -> BTreeMap<usize, QoS> {
        let mut targets = BTreeMap::new();
        for (who, session) in self.sessions.iter().enumerate() {
            let granted = session.iter().flat_map(|session| &session.subscriptions);
            let matching = granted.filter(|(filter, (_, no_local))| {
                let filter = Filter::parse(filter).unwrap();
                !filter.shared && filter.matches(topic) && !(*no_local && who == from)
            });
            if let Some(granted) = matching.map(|(_, (granted, _))| *granted).max() {
                targets.insert(who, granted.min(qos));
            }
        }
        targets
    }

    fn members(&self) -> usize {
        let members = self
            .sessions
            .iter()
            .flatten()
            .flat_map(|session| session.subscriptions.keys());
        members.filter(|filter| filter.starts_with("$share")).count()
    }

    fn publish(&mut self, who: usize, topic: &'static str, qos: QoS, retain: bool, expiry: Option<u32>) {
        if !self.is_connected(who) {
            return;
        }
        let expiry = expiry.filter(|_| who != GATEWAY);
        let number = self.messages.len() as u64;
        let targets = self.targets(who, topic, qos);
        let shared = topic == SHARED_TOPIC && self.members() > 0;
        self.messages.push(Sent {
            publisher: who,
            topic,
            qos,
            retain,
            expires: expiry.map(|seconds| self.now + Duration::from_secs(seconds.into())),
            resent: false,
            shared,
            republished: false,
            lost: false,
        });
        // Allowed before it is published, since it may arrive at once.
        for (target, qos) in &targets {
            self.session(*target).allowed.insert(number, *qos);
        }
        let offline: Vec<usize> = targets
            .iter()
            .filter(|(target, qos)| **qos > AtMostOnce && !self.is_connected(**target))
            .map(|(target, _)| *target)
            .collect();
        let full = offline
            .iter()
            .filter(|target| self.router.held(IDS[**target]) >= BOUND && !self.is_awaited(**target))
            .count();
        let dropped = self.router.stats().dropped_offline;

        let outcome = self.hand_over(who, number, expiry);
        let dropped = (self.router.stats().dropped_offline - dropped) as usize;
        if topic != SHARED_TOPIC {
            assert!(dropped <= full, "dropped although there was place");
        }
        match outcome {
            Some(Ok(code)) if topic != SHARED_TOPIC => {
                let nobody = code == reason::NO_MATCHING_SUBSCRIBERS;
                assert!(who == GATEWAY || nobody == targets.is_empty());
            }
            Some(Err(code)) => {
                assert_eq!(code, reason::QUOTA_EXCEEDED);
                for target in targets.keys() {
                    self.session(*target).allowed.remove(&number);
                    assert!(!self.session(*target).seen.contains_key(&number));
                }
                self.messages[number as usize].shared = false;
                return;
            }
            Some(Ok(_)) | None => {}
        }
        for (target, qos) in targets {
            let optional = expiry.is_some() || (dropped > 0 && offline.contains(&target));
            if qos > AtMostOnce && !optional {
                // The session may have ended for being too slow, which a publish does not bring about.
                self.session(target).expected.insert(number);
            }
        }
    }

    /// Returns the answer if it came at once.
    fn hand_over(&mut self, who: usize, number: u64, expiry: Option<u32>) -> Option<Result<u8, u8>> {
        let message = Message {
            expiry,
            ..self.message(number)
        };
        let qos = message.qos;
        if who == GATEWAY {
            let token = (qos > AtMostOnce).then(|| self.token());
            self.undelivered.extend(token.map(|token| (token, number)));
            self.gateway(vec![BrokerRequest::Publish {
                conn: CONN,
                token,
                topic: message.topic,
                qos,
                retain: message.retain,
                payload: message.payload,
                stored: None,
            }]);
            let answer = self.answered.get(&token?).copied();
            return answer.map(|answer| answer.map(|()| reason::SUCCESS));
        }
        let unsettled = &self.session(who).unsettled;
        let packet_id = (1..).find(|id| !unsettled.contains_key(id)).unwrap();
        let packet_id = if qos == AtMostOnce { 0 } else { packet_id };
        if qos > AtMostOnce {
            self.session(who).unsettled.insert(packet_id, (number, false));
        }
        let key = self.connections[who].as_ref().unwrap().key;
        let publish = Received::Publish {
            packet_id,
            dup: false,
            message,
        };
        self.router.received(self.now, key, publish);
        let mut answer = None;
        while let Some((client, reply)) = self.router.poll_output() {
            if let Reply::PubAck {
                packet_id: id,
                reason,
            }
            | Reply::PubRec {
                packet_id: id,
                reason,
            } = &reply
                && (client, *id) == (key, packet_id)
            {
                answer = Some(if *reason < 0x80 { Ok(*reason) } else { Err(*reason) });
            }
            self.on_output(client, reply);
        }
        answer
    }

    fn answer(&mut self, client: usize, count: usize) {
        for _ in 0..count {
            let Some(connection) = &mut self.connections[client] else {
                return;
            };
            let Some(packet) = connection.todo.pop_front() else {
                return;
            };
            let session = self.sessions[client].as_mut().unwrap();
            match &packet {
                Received::PubAck { packet_id } | Received::PubComp { packet_id } => {
                    session.unfinished.remove(packet_id);
                }
                _ => {}
            }
            self.say(client, packet);
        }
    }

    fn drain(&mut self) {
        loop {
            while let Some((client, reply)) = self.router.poll_output() {
                self.on_output(client, reply);
            }
            for token in core::mem::take(&mut self.delivered) {
                self.on_delivered(token);
            }
            if !self.write() {
                return;
            }
        }
    }

    /// All changes are durable at once. Returns whether there were any.
    fn write(&mut self) -> bool {
        let Some((number, changes)) = self.router.poll_changes() else {
            return false;
        };
        let store = self.store.as_mut().unwrap();
        for change in changes {
            match change {
                StoreChange::Put(key, value) => store.insert(key, value),
                StoreChange::Delete(key) => store.remove(&key),
            };
        }
        self.router.on_durable(number);
        true
    }

    fn restart(&mut self) {
        self.drain();
        self.gateway_polls();
        let Some(store) = &self.store else {
            return;
        };
        let values: Vec<_> = store.iter().map(|(key, value)| (*key, value.clone())).collect();
        let records = values
            .iter()
            .map(|(_, value)| SessionRecord::decode(value).unwrap());
        let records: Vec<_> = records.collect();
        for (client, id) in IDS.into_iter().enumerate() {
            let connection = self.connections[client].take();
            let survives = match (&connection, &self.sessions[client]) {
                (Some(connection), _) => connection.expiry > 0,
                (None, session) => session.is_some(),
            };
            let mut found = records.iter().filter(|record| *record.client_id == *id);
            let record = found.next();
            assert_eq!(record.is_some(), survives, "{id}");
            assert_eq!(found.next(), None);
            let Some(record) = record else {
                self.sessions[client] = None;
                continue;
            };
            self.survives(client, record);
        }
        self.sessions[GATEWAY] = None;
        self.gateway_up = false;
        self.gateway_todo.clear();
        self.tokens.clear();
        self.answered.clear();
        self.router = Router::new(MODEL_LIMITS, 1);
        self.local = Local::new(true);
        self.router.keep_sessions(self.now, values);
        self.messages.iter_mut().for_each(|sent| sent.shared = false);
        self.open_gateway();
        self.publish_again();
    }

    /// A session that the new broker must know.
    fn survives(&mut self, client: usize, record: &SessionRecord) {
        let now = self.now;
        let session = self.sessions[client].as_mut().unwrap();
        let written: BTreeMap<_, _> = record
            .subscriptions
            .iter()
            .map(|subscription| (&*subscription.filter, (subscription.qos, subscription.no_local)))
            .collect();
        assert_eq!(written, session.subscriptions);
        let expiry = Duration::from_secs(record.expiry.into());
        session.ends = (record.expiry < u32::MAX).then_some(now + expiry);
        session.awaited = Some(now + TOO_SLOW);
        session.unfinished.clear();
        // Only what the gateway published is somebody's to publish again.
        let messages = &mut self.messages;
        session.expected.retain(|number| {
            let sent = &messages[*number as usize];
            (sent.publisher == GATEWAY && !sent.lost) || session.seen.contains_key(number)
        });
        for (number, _) in session.unsettled.values() {
            messages[*number as usize].republished = true;
        }
    }

    /// What stands in the gateway's store.
    fn publish_again(&mut self) {
        for number in core::mem::take(&mut self.undelivered).into_values() {
            let sent = &mut self.messages[number as usize];
            sent.republished = true;
            let (topic, qos) = (sent.topic, sent.qos);
            // Of who wanted it then, those that still do.
            let targets = self.targets(GATEWAY, topic, qos);
            for (who, session) in self.sessions.iter_mut().enumerate() {
                if let Some(session) = session
                    && targets.get(&who).is_none_or(|qos| *qos == AtMostOnce)
                {
                    session.expected.remove(&number);
                }
            }
            self.resend(number);
            self.hand_over(GATEWAY, number, None);
            self.drain();
        }
    }

    fn on_output(&mut self, key: ClientKey, reply: Reply) {
        let is_here =
            |connection: &Option<Connection>| connection.as_ref().is_some_and(|here| here.key == key);
        let Some(client) = self.connections.iter().position(is_here) else {
            return self.on_gateway_output(key, reply);
        };
        let todo = |world: &mut World, packet| {
            world.connections[client].as_mut().unwrap().todo.push_back(packet);
        };
        match reply {
            Reply::ConnAck {
                session_present,
                reason,
                ..
            } => {
                assert_eq!(reason, reason::SUCCESS);
                self.connack = Some(session_present);
            }
            Reply::Publish(delivery) => self.on_delivery(client, &delivery),
            Reply::PubAck { packet_id, reason } => {
                let settled = self.session(client).unsettled.remove(&packet_id);
                let (number, _) = settled.expect("acknowledged once");
                self.answered_publish(number, reason);
            }
            Reply::PubRec { packet_id, reason } if reason >= 0x80 => {
                self.session(client).unsettled.remove(&packet_id);
            }
            Reply::PubRec { packet_id, .. } => {
                let unsettled = self.session(client).unsettled.get_mut(&packet_id).unwrap();
                unsettled.1 = true;
                let number = unsettled.0;
                self.answered_publish(number, reason::SUCCESS);
                todo(self, Received::PubRel { packet_id });
            }
            Reply::PubRel { packet_id, reason } => {
                assert_eq!(reason, reason::SUCCESS);
                self.session(client).recorded.remove(&packet_id);
                todo(self, Received::PubComp { packet_id });
            }
            Reply::PubComp { packet_id, .. } => {
                self.session(client).unsettled.remove(&packet_id);
            }
            Reply::SubAck { .. } | Reply::UnsubAck { .. } => {}
            Reply::Disconnect { reason } => {
                assert_eq!(reason, reason::QUOTA_EXCEEDED, "too slow");
                let connection = self.connections[client].take().unwrap();
                self.detached(client, connection.expiry);
            }
        }
    }

    /// A client was told that its message is taken.
    fn answered_publish(&self, number: u64, reason: u8) {
        let sent = &self.messages[number as usize];
        // A copy of what is retained may come besides, that of a first try, and one that another member of a shared
        // subscription leaves to the gateway.
        if reason >= 0x80 || sent.retain || sent.resent || sent.topic == SHARED_TOPIC {
            return;
        }
        let open = self.gateway_todo.iter().any(|(_, open)| *open == Some(number));
        assert!(!open, "{number} answered before the gateway had it");
        let missing = self.sessions[GATEWAY].as_ref().is_some_and(|session| {
            let wanted = session.allowed.get(&number).is_some_and(|qos| *qos > AtMostOnce);
            wanted && !session.seen.contains_key(&number)
        });
        assert!(
            !missing || sent.expires.is_some(),
            "{number} answered before it was at the gateway"
        );
    }

    fn on_delivery(&mut self, client: usize, delivery: &Delivery) {
        let number = payload(delivery).parse().ok();
        let connection = self.connections[client].as_mut().unwrap();
        assert!(connection.credit > 0, "without credit");
        connection.credit -= 1;
        let Delivery { packet_id, qos, .. } = *delivery;
        let here = connection.number;
        match qos {
            AtMostOnce => assert_eq!((packet_id, delivery.dup), (0, false)),
            AtLeastOnce => connection.todo.push_back(puback(packet_id)),
            ExactlyOnce => connection.todo.push_back(pubrec(packet_id)),
        }
        let receive_maximum = connection.receive_maximum;
        let session = self.session(client);
        let mut again = false;
        if qos > AtMostOnce {
            assert_ne!(packet_id, 0);
            let earlier = session.unfinished.insert(packet_id, (number, here));
            again = earlier.is_some();
            assert_eq!(again, delivery.dup);
            assert!(
                earlier.is_none_or(|(known, connection)| known == number && connection < here),
                "packet id in use"
            );
            let open = session
                .unfinished
                .values()
                .filter(|(_, connection)| *connection == here);
            assert!(open.count() <= receive_maximum, "receive maximum");
        }
        let first = qos < ExactlyOnce || session.recorded.insert(packet_id);
        if first && let Some(number) = number {
            self.saw(client, number, delivery.qos, delivery.retain, again);
        }
    }

    /// A session got a message that its client does not know to be a repetition.
    fn saw(&mut self, who: usize, number: u64, qos: QoS, retain: bool, again: bool) {
        let sent = &self.messages[number as usize];
        // The gateway looks at what it was handed when it likes.
        let in_time = sent.expires.is_none_or(|expires| self.now < expires);
        assert!(in_time || again || sent.resent || who == GATEWAY, "expired");
        if retain {
            assert!(sent.retain);
            return;
        }
        let (publisher, topic, published, resent) = (sent.publisher, sent.topic, sent.qos, sent.resent);
        let republished = sent.republished;
        if topic == SHARED_TOPIC {
            let seen = self.shared.entry(number).or_default();
            seen.insert(who);
            return;
        }
        let session = self.sessions[who].as_mut().unwrap();
        let allowed = session.allowed.get(&number).copied();
        assert!(allowed.is_some(), "nobody asked for {number}");
        assert!(resent || allowed == Some(qos));
        let seen = session.seen.entry(number).or_default();
        *seen += 1;
        if *seen > 1 {
            let published_twice = republished || (resent && published == AtLeastOnce);
            assert!(
                published_twice || (again && qos == AtLeastOnce),
                "{number} came twice"
            );
        } else if !resent {
            let last = session.last.insert((publisher, topic, qos), number);
            assert!(last.is_none_or(|last| last < number), "{last:?} before {number}");
        }
    }

    fn token(&mut self) -> Token {
        self.gateway_next += 1;
        let token = Token(self.gateway_next);
        self.tokens.insert(token);
        token
    }

    fn gateway(&mut self, requests: Vec<BrokerRequest>) {
        self.local.requests(self.now, &mut self.router, requests);
        self.drain();
        self.gateway_polls();
    }

    fn on_gateway_output(&mut self, key: ClientKey, reply: Reply) {
        match &reply {
            Reply::ConnAck { .. } => {
                self.sessions[GATEWAY] = Some(Session::default());
                self.gateway_up = true;
            }
            // Too slow.
            Reply::Disconnect { .. } => {
                self.sessions[GATEWAY] = None;
                self.gateway_up = false;
                // What it was handed before is no news of the next session, and others may get it instead.
                self.gateway_todo.iter_mut().for_each(|(_, open)| *open = None);
                // What waited for it is refused, and a message again when it is repeated.
                let unsettled = self.sessions.iter().flatten();
                for (number, recorded) in unsettled.flat_map(|session| session.unsettled.values()) {
                    self.messages[*number as usize].republished |= !recorded;
                }
                self.gateway_polls();
            }
            _ => {}
        }
        let stale = self.local.take(self.now, &mut self.router, key, reply);
        assert_eq!(stale, None, "said under a key that has ended");
    }

    fn gateway_polls(&mut self) {
        while let Some(events) = self.local.poll_events(self.now, &mut self.router) {
            for event in events {
                self.on_event(event);
            }
            self.drain();
        }
    }

    fn on_event(&mut self, event: BrokerEvent) {
        match event {
            BrokerEvent::Up { session_present, .. } => assert!(!session_present),
            BrokerEvent::Down { .. } | BrokerEvent::Released { .. } => {}
            BrokerEvent::Delivered { token } => self.delivered.push(token),
            BrokerEvent::Credit { requests, .. } => self.gateway_credit += requests,
            BrokerEvent::Settled { token, result } => {
                assert!(self.tokens.remove(&token), "settled twice");
                let result = result.map(|_| ()).map_err(|refusal| refusal.0);
                if result.is_err() {
                    self.undelivered.remove(&token);
                }
                self.answered.insert(token, result);
            }
            BrokerEvent::Lost { token } => {
                assert!(self.tokens.remove(&token), "settled and lost");
                if let Some(number) = self.undelivered.remove(&token) {
                    self.messages[number as usize].lost = true;
                }
            }
            BrokerEvent::Message {
                delivery,
                qos,
                retain,
                payload,
                ..
            } => {
                assert_eq!(delivery.is_some(), qos > AtMostOnce);
                let number = str::from_utf8(&payload).unwrap().parse().ok();
                let number = number.filter(|_| self.sessions[GATEWAY].is_some());
                self.gateway_todo
                    .extend(delivery.map(|delivery| (delivery, number)));
                if let Some(number) = number {
                    self.saw(GATEWAY, number, qos, retain, false);
                }
            }
        }
    }

    fn on_delivered(&mut self, token: Token) {
        assert_eq!(
            self.answered.get(&token),
            Some(&Ok(())),
            "delivered before it was settled"
        );
        let number = self.undelivered.remove(&token).expect("delivered once");
        for (who, session) in self.sessions.iter().enumerate() {
            let Some(session) = session else {
                continue;
            };
            let missing = session.expected.contains(&number) && !session.seen.contains_key(&number);
            assert!(!missing, "{who} does not have {number}");
            let unfinished = session.unfinished.values();
            let open = unfinished.filter(|(open, _)| *open == Some(number)).count();
            // A copy of what is retained may come besides.
            let sent = &self.messages[number as usize];
            assert!(
                open == 0 || sent.republished || sent.retain,
                "{who} has not answered {number}"
            );
        }
    }

    fn gateway_answers(&mut self, count: usize) {
        let count = count.min(self.gateway_todo.len());
        let acks = self.gateway_todo.drain(..count);
        let acks = acks
            .map(|(delivery, _)| BrokerRequest::Ack { conn: CONN, delivery })
            .collect();
        self.gateway(acks);
    }

    /// Everybody comes back and answers everything.
    fn finish(mut self) {
        for client in 0..IDS.len() {
            if self.connections[client].is_none() {
                self.connect(client, false, u32::MAX, u16::MAX, 0, false);
            }
            self.credit(client, 1_000_000);
        }
        let busy = |world: &World| {
            let todo = world
                .connections
                .iter()
                .flatten()
                .any(|connection| !connection.todo.is_empty());
            todo || !world.gateway_todo.is_empty()
        };
        self.gateway_polls();
        while busy(&self) {
            (0..IDS.len()).for_each(|client| self.answer(client, 100));
            self.gateway_answers(100);
            self.gateway_polls();
        }
        assert!(self.router.owes_nothing());
        assert!(self.tokens.is_empty(), "{:?}", self.tokens);
        if self.store.is_some() {
            assert!(self.undelivered.is_empty(), "{:?}", self.undelivered);
        }
        for (who, id) in IDS.into_iter().chain(["gateway"]).enumerate() {
            assert_eq!(self.router.held(id), 0);
            let session = self.session(who);
            assert!(
                session.unfinished.is_empty() && session.unsettled.is_empty(),
                "{id}"
            );
            let missing: Vec<_> = session
                .expected
                .iter()
                .filter(|number| !session.seen.contains_key(number))
                .collect();
            assert!(missing.is_empty(), "{id} misses {missing:?}");
        }
        self.check_shared();

        for client in 0..IDS.len() {
            self.connections[client].as_mut().unwrap().expiry = 0;
            let connection = self.connections[client].take().unwrap();
            let disconnect = Received::Disconnect {
                with_will: false,
                session_expiry: Some(0),
            };
            self.router.received(self.now, connection.key, disconnect);
            self.sessions[client] = None;
        }
        self.local.close(self.now, &mut self.router);
        assert_eq!(self.router.poll_output(), None);
        self.wait(1_000);
        self.drain();
        assert!(self.store.is_none_or(|store| store.is_empty()));
        assert!(self.router.is_empty());
        assert_eq!(self.router.poll_timeout(), None);
    }

    fn check_shared(&self) {
        let stats = self.router.stats();
        let lossless = stats.dropped_offline + stats.dropped_full + stats.dropped_unshared == 0;
        for (number, sent) in self.messages.iter().enumerate() {
            let seen = self.shared.get(&(number as u64)).map_or(0, BTreeSet::len);
            if sent.topic == SHARED_TOPIC && sent.qos == ExactlyOnce && !sent.republished {
                // One for each of the groups.
                assert!(seen <= 2, "{number} went to {seen} members");
            }
            let lost = sent.expires.is_some() || sent.qos == AtMostOnce || sent.resent;
            if sent.shared && !lost && lossless && stats.clients_too_slow == 0 {
                assert!(seen > 0, "{number} went to nobody");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn clients_see_what_the_model_says(store in any::<bool>(), steps in prop::collection::vec(step(), 1..150)) {
        let mut world = World::new(store);
        for step in steps {
            world.step(step);
        }
        world.finish();
    }
}
