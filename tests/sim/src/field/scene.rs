//! A field of nodes that tell a value now and then, and what they do all day.

use core::time::Duration;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use bytes::Bytes;
use gateway_core::config::{GatewayConfig, LinkSettings, PredefinedTopic, Retry};
use gateway_core::peer::LinkId;
use gateway_core::time::Instant;
use radio_adapters::line;
use radio_adapters::modems::modulation;
use radio_adapters::settings::{LinkHeader, LoraDriver, LoraSettings, PortSettings};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use sn_codec::{PublishQoS, QoS, TopicId};

use super::{Chore, Field, FieldConfig, FieldRadio, SensorIx};
use crate::ether::{LoraTuning, Path, Tuning};
use crate::modem::SimModem;
use crate::modem::rak::{Firmware, Rak3172, Rak3172Config};
use crate::modem::rn::{Rn, RnConfig, RnModel};
use crate::sensor::{Carriage, SensorConfig};
use crate::sim_broker::BrokerConfig;
use crate::sim_client::{Action, ClientConfig, Outcome, TopicForm, Uplink};

/// Topic ids that everyone knows.
const LEVEL: TopicId = TopicId(1);
const COMMAND: TopicId = TopicId(2);

/// Tretry of the nodes, as it is advised where the gateway has 1 %.
const NODE_RETRY: Duration = Duration::from_secs(60);

/// Tretry and Nretry of the gateway. It takes its Tretry for theirs, and what is older is not sent any more: a little
/// less, or answers reach nodes that have just given up.
const RETRY: Retry = Retry {
    first: Duration::from_secs(45),
    max: Duration::from_secs(240),
    count: 3,
};

/// Messages that a node keeps while nobody takes them.
const BACKLOG: usize = 3;

/// Octets of the shortest message: an id of four characters, and a number that makes it unique.
pub const PAYLOAD_LEAST: usize = 12;

/// A modem of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldModem {
    /// RAKwireless RAK3172, which listens whenever it does not send.
    Rak3172,
    /// Microchip RN2483, which is deaf after each frame until it is told to listen again.
    Rn2483,
}

/// A radio of the gateway, and the nodes in its reach.
#[derive(Debug, Clone)]
pub struct Group {
    /// What the ids of its nodes begin with.
    pub letter: char,
    /// The gateway's modem.
    pub modem: FieldModem,
    /// Carrier, in Hz.
    pub frequency_hz: u32,
    /// Spreading factor, 7 to 12.
    pub spreading_factor: u8,
    /// Bandwidth, in Hz.
    pub bandwidth_hz: u32,
    /// How much of the time the gateway may send, in millionths; `None` is no limit.
    pub duty_cycle_ppm: Option<u32>,
    /// Nodes, 254 at most: so many addresses there are.
    pub nodes: usize,
    /// How long a node waits at most before it repeats a frame that was lost.
    pub back_off: Duration,
}

/// Who lives in the field.
#[derive(Debug, Clone)]
pub struct Population {
    /// Everything random follows from it.
    pub seed: u64,
    /// The gateway's radios, in the order of their [`LinkId`]s, and the nodes around them.
    pub groups: Vec<Group>,
    /// Between two messages of a node.
    pub interval: Duration,
    /// QoS of these messages.
    pub qos: QoS,
    /// Their length, in octets; [`PAYLOAD_LEAST`] at least.
    pub payload: usize,
    /// Keep-alive of the nodes, in seconds.
    pub keep_alive: u16,
    /// Share of frames that are lost on the way, from 0 to 1.
    pub loss: f64,
    /// Nodes name their topic, instead of its predefined id.
    pub registers: bool,
    /// Nodes look for a gateway before they connect.
    pub searches: bool,
    /// Of so many nodes of the first radio one takes commands; 0 for none.
    pub commanded: usize,
}

/// A field with its nodes, and what they have to say.
pub struct Scene {
    /// The field.
    pub field: Field,
    population: Population,
    rng: SmallRng,
    /// When which node has something to say.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Messages of each node, and when it said them.
    pub said: Vec<Vec<(Instant, Bytes)>>,
    /// Messages that a node threw away, because too many waited.
    pub thrown_away: usize,
}

impl Scene {
    /// Everyone connects within the first hour.
    ///
    /// # Panics
    /// If a modem does not take the settings of its group: RN2483 tune to 433 and 868 MHz only.
    pub fn new(population: Population) -> Scene {
        let mut rng = SmallRng::seed_from_u64(population.seed);
        let mut scene = Scene {
            field: Field::new(field_config(&population)),
            due: BinaryHeap::new(),
            said: Vec::new(),
            thrown_away: 0,
            rng: SmallRng::seed_from_u64(rng.random()),
            population: population.clone(),
        };
        for (at, group) in population.groups.iter().enumerate() {
            for number in 0..group.nodes {
                scene.add_node(LinkId(at as u16), group, number);
            }
        }
        scene
    }

    fn add_node(&mut self, link: LinkId, group: &Group, number: usize) {
        let id = node_id(group, number);
        let client = ClientConfig {
            keep_alive: self.population.keep_alive,
            // At 1 % the gateway may have to wait: an impatient client costs more than it gains.
            retry: NODE_RETRY,
            wait: Duration::from_secs(self.rng.random_range(300..900)),
            predefined: [
                (LEVEL, format!("field/{id}/level")),
                (COMMAND, format!("field/{id}/command")),
            ]
            .into(),
            first_msg_id: self.rng.random_range(1..60_000),
            ..ClientConfig::new(&id)
        };
        let carriage = Carriage::radiohead(tuning(group), number as u8 + 1);
        let sensor = SensorConfig {
            back_off: group.back_off,
            ..SensorConfig::new(self.rng.random(), carriage)
        };
        let path = Path {
            rssi_dbm: self.rng.random_range(-115..-70),
            snr_db: self.rng.random_range(-5..10),
            loss: self.population.loss,
        };
        let ix = self.field.add_sensor(link, client, sensor, path);
        self.said.push(Vec::new());
        let first = Instant::START + Duration::from_millis(self.rng.random_range(5_000..3_600_000));
        let chore = if self.population.searches {
            Chore::Search(ix)
        } else {
            Chore::Connect(ix)
        };
        self.field.plan(first, chore);
        if self.population.commanded > 0 && number.is_multiple_of(self.population.commanded) {
            let topic = TopicForm::Predefined(COMMAND);
            let qos = QoS::AtLeastOnce;
            let later = first + Duration::from_secs(30);
            self.field
                .plan(later, Chore::Act(ix, Action::Subscribe { topic, qos }));
        }
        let offset = Duration::from_millis(
            self.rng
                .random_range(0..self.population.interval.as_millis() as u64),
        );
        self.due
            .push(Reverse((first + Duration::from_secs(10) + offset, ix.0)));
    }

    /// Somebody commands the nodes that take commands, one after the other, this often.
    pub fn plan_commands(&mut self, until: Instant, every: Duration) {
        let Some(group) = self.population.groups.first() else {
            return;
        };
        let takers: Vec<String> = (0..group.nodes)
            .filter(|number| {
                self.population.commanded > 0 && number.is_multiple_of(self.population.commanded)
            })
            .map(|number| format!("field/{}/command", node_id(group, number)))
            .collect();
        let mut at = Instant::START + Duration::from_secs(2 * 3600);
        for topic in takers.iter().cycle() {
            if at > until {
                return;
            }
            let payload = Bytes::from(format!("valve {}", at.as_micros()));
            let (topic, qos) = (topic.clone(), QoS::AtLeastOnce);
            self.field.plan(at, Chore::External { topic, qos, payload });
            at = at + every;
        }
    }

    /// Lets time pass; nodes say what they have to say.
    pub fn run_until(&mut self, until: Instant) {
        while let Some(Reverse((at, node))) = self.due.peek().copied().filter(|Reverse((at, _))| *at <= until)
        {
            self.due.pop();
            self.field.run_until(at);
            self.say(node);
            // Clocks of nodes differ, and so no two of them meet every hour.
            let interval = self.population.interval.as_millis() as u64;
            let next =
                Duration::from_millis(self.rng.random_range(interval * 98 / 100..interval * 102 / 100));
            self.due.push(Reverse((at + next, node)));
        }
        self.field.run_until(until);
    }

    fn say(&mut self, node: usize) {
        if self.waiting(node) >= BACKLOG {
            self.thrown_away += 1;
            return;
        }
        let id = &self.field.sensors[node].client.config.id;
        let mut payload = format!("{id} {:07}", self.said[node].len());
        while payload.len() < self.population.payload {
            payload.push('.');
        }
        let payload = Bytes::from(payload);
        self.said[node].push((self.field.now(), payload.clone()));
        let topic = match self.population.registers {
            true => TopicForm::Name(format!("field/{id}/level")),
            false => TopicForm::Predefined(LEVEL),
        };
        let uplink = Uplink {
            topic,
            qos: PublishQoS::Level(self.population.qos),
            retain: false,
            payload,
        };
        let chore = Chore::Act(SensorIx(node), Action::Publish(uplink));
        self.field.plan(self.field.now(), chore);
    }

    /// Messages of a node that nobody has acknowledged, if they ask for that, or that it has still to send.
    pub fn waiting(&self, node: usize) -> usize {
        self.said[node].len() - self.delivered(node)
    }

    /// Messages of a node that were acknowledged; with QoS 0 those that it sent.
    pub fn delivered(&self, node: usize) -> usize {
        let outcomes = self.field.sensors[node].client.outcomes.values();
        outcomes
            .filter(|outcome| matches!(outcome, Outcome::Acknowledged | Outcome::Sent))
            .count()
    }

    /// Messages of nodes that the broker has.
    pub fn at_the_broker(&self) -> BTreeSet<Bytes> {
        let routed = self.field.broker.log.iter();
        routed.map(|routed| routed.payload.clone()).collect()
    }
}

fn field_config(population: &Population) -> FieldConfig {
    let predefined = [
        (LEVEL, "field/{client_id}/level"),
        (COMMAND, "field/{client_id}/command"),
    ];
    let gateway = GatewayConfig {
        advertise_interval: population.searches.then_some(Duration::from_secs(3600)),
        predefined: predefined
            .into_iter()
            .map(|(id, topic)| PredefinedTopic {
                id,
                topic: topic.into(),
            })
            .collect(),
        links: vec![LinkSettings { retry: Some(RETRY) }; population.groups.len()],
        keep_airtime: true,
        ..GatewayConfig::default()
    };
    FieldConfig {
        seed: population.seed,
        gateway,
        broker: BrokerConfig::default(),
        radios: population.groups.iter().map(radio).collect(),
        // Nodes near the ground hear each other badly.
        path: Path {
            rssi_dbm: -128,
            snr_db: -12,
            loss: 0.0,
        },
    }
}

fn node_id(group: &Group, number: usize) -> String {
    format!("{}{number:03}", group.letter)
}

fn tuning(group: &Group) -> Tuning {
    Tuning::Lora(LoraTuning {
        frequency_hz: group.frequency_hz,
        spreading_factor: group.spreading_factor,
        bandwidth_hz: group.bandwidth_hz,
        coding_rate: 5,
        preamble: 8,
        // 0x12, as an SX126x has it.
        sync: 0x1424,
        inverted_iq: false,
    })
}

fn radio(group: &Group) -> FieldRadio {
    let (driver, baud) = match group.modem {
        FieldModem::Rak3172 => (LoraDriver::Rak3172, 115_200),
        FieldModem::Rn2483 => (LoraDriver::Rn2483, 57_600),
    };
    let settings = LoraSettings {
        driver,
        port: PortSettings {
            path: "/dev/serial/by-id/lora".into(),
            baud,
            hardware_flow: false,
            reopen_first: Duration::from_millis(500),
            reopen_max: Duration::from_secs(5),
        },
        header: LinkHeader::RadioHead {
            address: 0,
            acks: false,
        },
        frequency_hz: group.frequency_hz,
        modulation: modulation(driver, group.spreading_factor, group.bandwidth_hz, 5),
        sync_word: 0x12,
        tx_power_dbm: 14,
        network_id: 18,
        address: 0,
        turnaround: Duration::from_millis(50),
        ask_signal: false,
        mtu: None,
        duty_cycle_ppm: group.duty_cycle_ppm,
    };
    let modem: Box<dyn SimModem> = match group.modem {
        FieldModem::Rak3172 => Box::new(Rak3172::new(Rak3172Config::new(Firmware::Rui5))),
        FieldModem::Rn2483 => Box::new(Rn::new(RnConfig::new(RnModel::Rn2483))),
    };
    FieldRadio {
        driver: Box::new(move || line::driver(&settings).expect("the modem takes these settings")),
        modem,
        baud,
    }
}
