//! Random scenarios: a seed becomes a world, clients and steps; a failing one is made small.

use core::time::Duration;
use std::panic::{AssertUnwindSafe, catch_unwind};

use gateway_core::config::{
    AddressChange, Durability, ForwarderRule, PeerMatch, PredefinedTopic, SleepQos0, WhenDown, WhenFull,
};
use gateway_core::io::Refusal;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use sn_codec::{MsgType, PublishQoS, QoS, TopicId};

use crate::families::Family;
use crate::net::{Burst, PathConfig};
use crate::reference::Violation;
use crate::sim_broker::{BrokerConfig, Overlap, Shortage};
use crate::sim_client::{Action, ClientConfig, TopicForm};
use crate::sim_store::{DiskConfig, End};
use crate::{ClientIx, ForwarderIx, World, WorldConfig, will};

/// A scenario that can be run again and again.
#[derive(Debug, Clone)]
pub struct History {
    /// The world.
    pub world: WorldConfig,
    /// Its clients.
    pub clients: Vec<ClientConfig>,
    /// How many forwarders it has.
    pub forwarders: usize,
    /// A device that has the id of another, and is switched off in the end: two that fight over a session never rest.
    pub twin: Option<usize>,
    /// What happens, each after a pause.
    pub steps: Vec<(Duration, Step)>,
}

/// One thing that happens.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // The fields are those of the world's verbs.
pub enum Step {
    Connect(usize),
    Publish {
        client: usize,
        topic: TopicForm,
        qos: PublishQoS,
        retain: bool,
        octets: usize,
    },
    Subscribe {
        client: usize,
        topic: TopicForm,
        qos: QoS,
    },
    Unsubscribe {
        client: usize,
        topic: TopicForm,
    },
    External {
        topic: String,
        qos: QoS,
        retain: bool,
    },
    UpdateWill {
        client: usize,
        number: usize,
    },
    Disconnect(usize),
    Vanish(usize),
    Reboot(usize),
    /// It gets another program, which wants the other kind of session.
    Reflash(usize),
    Roam(usize),
    Rebind(usize),
    Sleep {
        client: usize,
        duration: u16,
        naps: u32,
    },
    MoveBehind {
        client: usize,
        forwarder: usize,
    },
    SwitchForwarder {
        forwarder: usize,
        on: bool,
    },
    RestartForwarder(usize),
    RestartGateway,
    /// The process ends and starts again.
    EndGateway {
        end: End,
        away: Duration,
    },
    /// After so many more writes.
    DiskFails(u32),
    DiskHasRoom(usize),
    DiskHeals,
    BrokerDown {
        keep_sessions: bool,
    },
    BrokerUp,
    Paths {
        client: usize,
        up: PathConfig,
        down: PathConfig,
    },
    /// From a client's own address, or from a stranger's.
    Garbage {
        client: Option<usize>,
        datagram: Vec<u8>,
    },
}

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// [`World::output_hash`] at the end.
    pub output_hash: u64,
    /// Datagrams the gateway sent.
    pub transmits: usize,
    /// Messages the broker took.
    pub routed: usize,
    /// Messages that reached applications.
    pub delivered: usize,
    /// Requests that clients gave up.
    pub gave_up: usize,
    /// Messages the gateway gave up by rule.
    pub given_up: usize,
}

/// A run that broke a rule.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Which.
    pub violation: Violation,
    /// The last things that happened, if the run was traced.
    pub trace: Vec<String>,
}

const TOPICS: [&str; 6] = [
    "a/b",
    "a/c",
    "s/1/temp",
    "s/2/temp",
    "long/topic/name/of/many/levels",
    "forbidden/x",
];
const FILTERS: [&str; 9] = [
    "a/b",
    "a/+",
    "a/c",
    "#",
    "s/+/temp",
    "s/#",
    "long/#",
    "s/1/temp",
    "forbidden/x",
];

impl History {
    /// The scenario of a seed.
    pub fn random(seed: u64) -> History {
        let rng = &mut SmallRng::seed_from_u64(seed ^ 0x5EED);
        let mut world = random_world(seed, rng);
        let mut clients: Vec<ClientConfig> = Vec::new();
        let mut families = Vec::new();
        for ix in 0..rng.random_range(1..=6) {
            let family = rng
                .random_bool(0.4)
                .then(|| Family::ALL[rng.random_range(0..Family::ALL.len())]);
            clients.push(random_client(ix, family, rng));
            families.push(family);
        }
        let plan = Plan {
            families,
            forwarders: if rng.random_bool(0.4) {
                rng.random_range(1..=2)
            } else {
                0
            },
            gateway_restarts: rng.random_bool(0.15),
        };
        vary_sleep_rules(&mut world, rng);
        vary_admission(&mut world, plan.forwarders > 0, rng);
        let twin = (clients.len() > 1 && rng.random_bool(0.1)).then(|| clients.len() - 1);
        let mut plan = plan;
        if let Some(twin) = twin {
            clients[twin] = clients[0].clone();
            plan.families[twin] = plan.families[0];
        }
        let mut steps: Vec<(Duration, Step)> = (0..clients.len())
            .map(|ix| (pause(rng), Step::Connect(ix)))
            .collect();
        for _ in 0..rng.random_range(10..=70) {
            steps.push((pause(rng), random_step(&plan, rng)));
        }
        let mut history = History {
            world,
            clients,
            forwarders: plan.forwarders,
            twin,
            steps,
        };
        // Choices of their own, so that the rest of the history is the same with a disk and without.
        let rng = &mut SmallRng::seed_from_u64(seed ^ 0xD15C);
        if rng.random() {
            history.give_disk(rng);
        }
        let rng = &mut SmallRng::seed_from_u64(seed ^ 0x97);
        if rng.random_bool(0.25) {
            history.world.broker.shortage = Some(Shortage {
                seed,
                period: Duration::from_secs(rng.random_range(1..=60)),
                share: rng.random_range(0.1..0.7),
            });
        }
        let rng = &mut SmallRng::seed_from_u64(seed ^ 0xF1A5);
        if rng.random_bool(0.15) {
            for _ in 0..rng.random_range(1..=3) {
                let client = rng.random_range(0..history.clients.len());
                history.insert(Step::Reflash(client), rng);
            }
        }
        history
    }

    /// The gateway has a disk, and ends now and then.
    fn give_disk(&mut self, rng: &mut SmallRng) {
        let gateway = &mut self.world.gateway;
        if gateway.upstream.when_down != WhenDown::Refuse && rng.random_bool(0.9) {
            gateway.upstream.when_down = WhenDown::Spool;
        }
        let mut rules = Durability {
            qos0: rng.random_bool(0.2),
            ..Durability::default()
        };
        if rng.random_bool(0.1) {
            rules.spool_messages = rng.random_range(1..=5);
        }
        gateway.durability = Some(rules);
        self.world.batch = Duration::ZERO;
        self.world.broker.lowest_packet_ids = rng.random();
        let sync_max = Duration::from_millis(rng.random_range(1..=300));
        self.world.disk = DiskConfig {
            sync_min: sync_max / 10,
            sync_max,
            capacity: 16 << 20,
            segment: 1 << rng.random_range(11..=15),
        };
        for (_, step) in &mut self.steps {
            if *step == Step::RestartGateway {
                *step = random_end(rng);
            }
        }
        if rng.random_bool(0.7) {
            for _ in 0..rng.random_range(1..=6) {
                let end = random_end(rng);
                self.insert(end, rng);
            }
        }
        if rng.random_bool(0.15) {
            for _ in 0..rng.random_range(1..=3) {
                let trouble = match rng.random_range(0..3) {
                    0 => Step::DiskHasRoom(rng.random_range(0..1 << 16)),
                    _ => Step::DiskFails(rng.random_range(0..10)),
                };
                self.insert(trouble, rng);
                self.insert(Step::DiskHeals, rng);
            }
        }
    }

    /// Something more happens, mostly soon after something else.
    fn insert(&mut self, step: Step, rng: &mut SmallRng) {
        let at = rng.random_range(0..=self.steps.len());
        let pause = match rng.random_range(0..3) {
            0 => pause(rng),
            _ => Duration::from_millis(rng.random_range(0..300)),
        };
        self.steps.insert(at, (pause, step));
    }

    /// Plays it to the end.
    ///
    /// # Errors
    /// The first rule that is broken; a panic of the gateway is one.
    pub fn run(&self, trace: bool) -> Result<Summary, Box<Failure>> {
        let mut world = World::new(WorldConfig {
            trace,
            ..self.world.clone()
        });
        let played = catch_unwind(AssertUnwindSafe(|| self.play(&mut world)));
        let result = played.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text
                .or(panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(Violation::new("nothing panics", text))
        });
        let trace = world.trace().map(String::from).collect();
        result.map_err(|violation| Box::new(Failure { violation, trace }))?;
        Ok(Summary {
            output_hash: world.output_hash(),
            transmits: world.transmits(),
            routed: world.broker.log.len(),
            delivered: world.clients().map(|(_, client)| client.delivered.len()).sum(),
            gave_up: world.clients().map(|(_, client)| client.gave_up).sum(),
            given_up: world.reference.given_up,
        })
    }

    fn play(&self, world: &mut World) -> Result<(), Violation> {
        for client in &self.clients {
            world.add_client(client.clone());
        }
        for _ in 0..self.forwarders {
            world.add_forwarder();
        }
        for (pause, step) in &self.steps {
            world.advance(world.now() + *pause)?;
            step.apply(world);
        }
        if let Some(twin) = self.twin {
            world.retire(ClientIx(twin));
        }
        world.try_settle()
    }

    /// Leaves out steps and troubles of the network as long as the same rule is still broken.
    pub fn shrink(&self, rule: &str) -> History {
        let breaks = |history: &History| history.run(false).is_err_and(|f| f.violation.rule == rule);
        let mut smallest = self.clone();
        let mut calmer = smallest.clone();
        (calmer.world.up, calmer.world.down) = (PathConfig::CLEAN, PathConfig::CLEAN);
        for candidate in [
            calmer,
            History {
                steps: without_paths(&smallest.steps),
                ..smallest.clone()
            },
        ] {
            if breaks(&candidate) {
                smallest = candidate;
            }
        }
        let mut chunk = smallest.steps.len().div_ceil(2);
        while chunk > 0 {
            let mut at = 0;
            while at < smallest.steps.len() {
                let mut candidate = smallest.clone();
                let end = (at + chunk).min(candidate.steps.len());
                // Time passes all the same.
                let pause: Duration = candidate.steps[at..end].iter().map(|(pause, _)| *pause).sum();
                candidate.steps.drain(at..end);
                if let Some((next, _)) = candidate.steps.get_mut(at) {
                    *next += pause;
                }
                if breaks(&candidate) {
                    smallest = candidate;
                } else {
                    at += chunk;
                }
            }
            chunk /= 2;
        }
        smallest
    }
}

impl Step {
    /// Makes it happen.
    pub fn apply(&self, world: &mut World) {
        match self.clone() {
            Step::Connect(client) => world.connect(ClientIx(client)),
            Step::Publish {
                client,
                topic,
                qos,
                retain,
                octets,
            } => {
                world.publish_as(ClientIx(client), topic, qos, retain, octets);
            }
            Step::Subscribe { client, topic, qos } => world.subscribe(ClientIx(client), topic, qos),
            Step::Unsubscribe { client, topic } => world.unsubscribe(ClientIx(client), topic),
            Step::External { topic, qos, retain } => {
                world.external(&topic, qos, retain);
            }
            Step::UpdateWill { client, number } => {
                let id = world.client(ClientIx(client)).config.id.clone();
                if world.client(ClientIx(client)).config.will.is_some() {
                    let will = will(&format!("wills/{id}"), &format!("updated will {number} of {id}"));
                    world.act(ClientIx(client), Action::UpdateWillMessage(will.payload));
                }
            }
            Step::Disconnect(client) => world.disconnect(ClientIx(client)),
            Step::Vanish(client) => world.vanish(ClientIx(client)),
            Step::Reboot(client) => world.reboot(ClientIx(client)),
            Step::Reflash(client) => world.reflash(ClientIx(client)),
            Step::Roam(client) => world.roam(ClientIx(client)),
            Step::Rebind(client) => world.rebind(ClientIx(client)),
            Step::Sleep {
                client,
                duration,
                naps,
            } => world.sleep(ClientIx(client), duration, naps),
            Step::MoveBehind { client, forwarder } => {
                world.move_behind(ClientIx(client), ForwarderIx(forwarder));
            }
            Step::SwitchForwarder { forwarder, on } => world.switch_forwarder(ForwarderIx(forwarder), on),
            Step::RestartForwarder(forwarder) => world.restart_forwarder(ForwarderIx(forwarder)),
            Step::RestartGateway => world.restart_gateway(),
            Step::EndGateway { end, away } => world.end_gateway(end, away),
            Step::DiskFails(count) => world.fail_disk(count),
            Step::DiskHasRoom(octets) => world.resize_disk(octets),
            Step::DiskHeals => world.heal_disk(),
            Step::BrokerDown { keep_sessions } => world.broker_down(keep_sessions),
            Step::BrokerUp => world.broker_up(),
            Step::Paths { client, up, down } => world.set_paths(ClientIx(client), up, down),
            Step::Garbage { client, datagram } => {
                let from = match client {
                    Some(client) => world.route(ClientIx(client)).clone(),
                    None => world.stranger(7),
                };
                world.inject(&from, &datagram);
            }
        }
    }
}

/// What steps may be about.
struct Plan {
    families: Vec<Option<Family>>,
    forwarders: usize,
    gateway_restarts: bool,
}

fn without_paths(steps: &[(Duration, Step)]) -> Vec<(Duration, Step)> {
    steps
        .iter()
        .filter(|(_, step)| !matches!(step, Step::Paths { .. }))
        .cloned()
        .collect()
}

fn random_end(rng: &mut SmallRng) -> Step {
    Step::EndGateway {
        end: match rng.random_bool(0.3) {
            true => End::Killed,
            false => End::PowerCut,
        },
        away: match rng.random_range(0..4) {
            0 => Duration::ZERO,
            1 => Duration::from_secs(rng.random_range(10..=200)),
            _ => Duration::from_millis(rng.random_range(10..=3_000)),
        },
    }
}

fn pause(rng: &mut SmallRng) -> Duration {
    let millis = match rng.random_range(0..10) {
        0..=3 => rng.random_range(0..100),
        4..=7 => rng.random_range(100..5_000),
        8 => rng.random_range(5_000..30_000),
        _ => rng.random_range(30_000..150_000),
    };
    Duration::from_millis(millis)
}

fn random_world(seed: u64, rng: &mut SmallRng) -> WorldConfig {
    let mut world = WorldConfig {
        seed,
        ..WorldConfig::default()
    };
    world.gateway.predefined = vec![
        PredefinedTopic {
            id: TopicId(1),
            topic: "a/b".into(),
        },
        PredefinedTopic {
            id: TopicId(2),
            topic: "own/{client_id}".into(),
        },
    ];
    if rng.random_bool(0.2) {
        world.gateway.sleep.max_messages = rng.random_range(2..=6);
        world.gateway.sleep.when_full = match rng.random_range(0..3) {
            0 => WhenFull::Refuse,
            1 => WhenFull::DropOldest,
            _ => WhenFull::DropNewest,
        };
    }
    world.gateway.clients = Family::ALL.into_iter().filter_map(Family::rule).collect();
    if rng.random_bool(0.2) {
        world.gateway.limits.queue_messages = rng.random_range(1..=4);
    }
    if rng.random_bool(0.1) {
        world.gateway.upstream.when_down = WhenDown::Refuse;
    }
    if rng.random_bool(0.1) {
        world.gateway.upstream.topic_prefix = "site/".into();
    }
    if rng.random_bool(0.2) {
        world.gateway.upstream.connections = rng.random_range(2..=3);
    }
    if rng.random_bool(0.3) {
        world.link_credit = Some(rng.random_range(1..=4));
    }
    if rng.random_bool(0.3) {
        world.batch = Duration::from_millis(rng.random_range(1..=20));
    }
    if rng.random_bool(0.15) {
        world.mtu = 80;
    }
    let trouble = rng.random_range(0..4);
    world.up = random_path(trouble, rng);
    world.down = random_path(trouble, rng);
    world.broker = BrokerConfig {
        up_at_start: rng.random_bool(0.8),
        settle_max: Duration::from_millis(rng.random_range(0..=2_000)),
        window: rng.random_range(1..=20),
        credit: rng.random_range(1..=32),
        receive_max: rng.random_range(1..=20),
        overlap: match rng.random_range(0..3) {
            0 => Overlap::OneCopyWithIds,
            1 => Overlap::CopyPerFilter,
            _ => Overlap::OneCopyWithoutIds,
        },
        max_granted: if rng.random_bool(0.1) {
            QoS::AtLeastOnce
        } else {
            QoS::ExactlyOnce
        },
        refuse: if rng.random_bool(0.5) {
            vec![("forbidden/".into(), Refusal(0x87))]
        } else {
            Vec::new()
        },
        ..BrokerConfig::default()
    };
    world
}

fn vary_sleep_rules(world: &mut WorldConfig, rng: &mut SmallRng) {
    let rules = &mut world.gateway.sleep;
    rules.qos0 = match rng.random_range(0..3) {
        0 => SleepQos0::KeepAll,
        1 => SleepQos0::LatestPerTopic,
        _ => SleepQos0::Drop,
    };
    if rng.random_bool(0.15) {
        rules.max_age = Duration::from_secs(rng.random_range(30..=900));
    }
}

/// Who may have a session where.
fn vary_admission(world: &mut WorldConfig, forwarders: bool, rng: &mut SmallRng) {
    world.gateway.address_change = match rng.random_range(0..10) {
        0 => AddressChange::Guarded,
        1 => AddressChange::Strict,
        _ => AddressChange::Open,
    };
    if world.gateway.address_change != AddressChange::Open {
        // Who is let in depends on what the gateway has sent so far, so nothing may be held back.
        world.link_credit = None;
        world.batch = Duration::ZERO;
    } else if forwarders && rng.random_bool(0.4) {
        world.batch = Duration::ZERO;
        world.link_credit = None;
        world.gateway.forwarders = vec![ForwarderRule {
            name: "every forwarder".into(),
            peers: PeerMatch::default(),
            max_nodes: rng.random_range(0..=3),
            packets_per_second: rng.random_range(0..=8),
        }];
    }
}

/// From a clean one (0) to one that does everything at once (3).
fn random_path(trouble: u32, rng: &mut SmallRng) -> PathConfig {
    let latency_max = Duration::from_millis(rng.random_range(10..=1_500));
    let mut path = PathConfig {
        latency_max,
        ..PathConfig::CLEAN
    };
    if trouble >= 1 {
        path.loss = rng.random_range(0.0..0.3);
    }
    if trouble >= 2 {
        path.duplicate = rng.random_range(0.0..0.2);
        path.reorder = rng.random_range(0.0..0.2);
        path.reorder_by = Duration::from_millis(rng.random_range(100..=15_000));
    }
    if trouble >= 3 {
        path.burst = Some(Burst {
            enter: 0.05,
            leave: 0.3,
            loss: rng.random_range(0.5..1.0),
        });
    }
    path
}

fn random_client(ix: usize, family: Option<Family>, rng: &mut SmallRng) -> ClientConfig {
    let id = format!("{}-{ix}", family.map_or("client", Family::prefix));
    let will = (family.is_none_or(Family::has_wills) && rng.random_bool(0.4))
        .then(|| will(&format!("wills/{id}"), &format!("will of {id}")));
    if let Some(family) = family {
        return ClientConfig {
            clean: rng.random_bool(0.7),
            will,
            ..family.client(&id)
        };
    }
    let mut config = ClientConfig {
        clean: rng.random_bool(0.6),
        keep_alive: rng.random_range(20..=120),
        will,
        max_open: if rng.random_bool(0.2) { 5 } else { 1 },
        // Some begin just before the wrap, so that 0 is used too (A45).
        first_msg_id: if rng.random_bool(0.2) {
            0xFFFD
        } else {
            rng.random()
        },
        ..ClientConfig::new(&id)
    };
    config.quirks.talks_asleep = rng.random_bool(0.3);
    config
}

fn random_step(plan: &Plan, rng: &mut SmallRng) -> Step {
    let client = rng.random_range(0..plan.families.len());
    // It knows full names and QoS 0 alone.
    let simple = plan.families[client] == Some(Family::BtMqttSn);
    // Who does not answer REGISTER gets nothing from wildcards, and each such message takes six wake-ups to give up.
    let exact = plan.families[client].is_some_and(|family| family.client("").quirks.ignores_register);
    let filters = if exact { &TOPICS[..] } else { &FILTERS[..] };
    let retain = rng.random_bool(0.1);
    match rng.random_range(0..120) {
        0..=34 => {
            let topic = random_form(&TOPICS, simple, rng);
            let named = matches!(topic, TopicForm::Name(_));
            let qos = match rng.random_range(0..10) {
                _ if simple => PublishQoS::Level(QoS::AtMostOnce),
                0 if !named => PublishQoS::MinusOne,
                0..=1 => PublishQoS::Level(QoS::AtMostOnce),
                2..=5 => PublishQoS::Level(QoS::AtLeastOnce),
                _ => PublishQoS::Level(QoS::ExactlyOnce),
            };
            let octets = if rng.random_bool(0.1) {
                rng.random_range(20..400)
            } else {
                0
            };
            Step::Publish {
                client,
                topic,
                qos,
                retain,
                octets,
            }
        }
        35..=49 => Step::Subscribe {
            client,
            topic: random_form(filters, simple, rng),
            qos: if simple { QoS::AtMostOnce } else { random_qos(rng) },
        },
        50..=54 => Step::Unsubscribe {
            client,
            topic: random_form(filters, simple, rng),
        },
        55..=74 => {
            let topic = match rng.random_range(0..8) {
                0 => "xy".into(),
                1 => format!("own/client-{client}"),
                _ => TOPICS[rng.random_range(0..TOPICS.len())].into(),
            };
            Step::External {
                topic,
                qos: random_qos(rng),
                retain,
            }
        }
        75..=76 => Step::UpdateWill {
            client,
            number: rng.random_range(0..1_000_000),
        },
        77..=79 => Step::Disconnect(client),
        80..=82 => Step::Vanish(client),
        83..=85 => Step::Reboot(client),
        86..=88 => Step::Connect(client),
        89..=90 => Step::Roam(client),
        91..=93 => Step::BrokerDown {
            keep_sessions: rng.random(),
        },
        94..=97 => Step::BrokerUp,
        98 => {
            let trouble = rng.random_range(0..4);
            Step::Paths {
                client,
                up: random_path(trouble, rng),
                down: random_path(trouble, rng),
            }
        }
        99..=108 if plan.families[client].is_none_or(Family::sleeps) => Step::Sleep {
            client,
            duration: rng.random_range(10..=300),
            naps: if rng.random_bool(0.3) {
                u32::MAX
            } else {
                rng.random_range(0..=5)
            },
        },
        109..=111 => Step::Rebind(client),
        112..=114 if plan.forwarders > 0 => Step::MoveBehind {
            client,
            forwarder: rng.random_range(0..plan.forwarders),
        },
        115 if plan.forwarders > 0 => Step::SwitchForwarder {
            forwarder: rng.random_range(0..plan.forwarders),
            on: rng.random(),
        },
        116 if plan.forwarders > 0 => Step::RestartForwarder(rng.random_range(0..plan.forwarders)),
        117 if plan.gateway_restarts => Step::RestartGateway,
        _ => {
            let mut datagram: Vec<u8> = (0..rng.random_range(0..12)).map(|_| rng.random()).collect();
            if let [_, msg_type, ..] = &mut datagram[..]
                && *msg_type == MsgType::Publish as u8
            {
                *msg_type = 0xFF; // What is a PUBLISH by chance is a message that nobody knows of.
            }
            Step::Garbage {
                client: rng.random_bool(0.5).then_some(client),
                datagram,
            }
        }
    }
}

fn random_form(names: &[&str], simple: bool, rng: &mut SmallRng) -> TopicForm {
    match rng.random_range(0..8) {
        _ if simple => names[rng.random_range(0..names.len())].into(),
        0 => TopicForm::Short(*b"xy"),
        1 => TopicForm::Predefined(TopicId(1)),
        2 => TopicForm::Predefined(TopicId(2)),
        _ => names[rng.random_range(0..names.len())].into(),
    }
}

fn random_qos(rng: &mut SmallRng) -> QoS {
    match rng.random_range(0..3) {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

#[cfg(test)]
mod tests {
    use super::History;

    #[test]
    fn the_same_seed_gives_the_same_history() {
        let (one, other) = (History::random(5), History::random(5));
        assert_eq!(one.steps, other.steps);
        assert_ne!(one.steps, History::random(6).steps);
    }
}
