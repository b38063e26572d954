//! Nodes and what they do all day.

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
use snipe_sim::ether::{LoraTuning, Path, Tuning};
use snipe_sim::field::{Chore, Field, FieldConfig, FieldRadio, SensorIx};
use snipe_sim::modem::SimModem;
use snipe_sim::modem::rak::{Firmware, Rak3172, Rak3172Config};
use snipe_sim::modem::rn::{Rn, RnConfig, RnModel};
use snipe_sim::sensor::{Carriage, SensorConfig};
use snipe_sim::sim_broker::BrokerConfig;
use snipe_sim::sim_client::{Action, ClientConfig, Outcome, TopicForm, Uplink};

/// The radio of the nodes nearby, and that of those far away.
pub(crate) const NEAR: LinkId = LinkId(0);
pub(crate) const FAR: LinkId = LinkId(1);

/// 1 % of an hour: EN 300 220-2, band M.
pub(crate) const LEGAL: Duration = Duration::from_secs(36);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

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

/// Who lives in the field.
#[derive(Debug, Clone)]
pub(crate) struct Population {
    pub(crate) seed: u64,
    /// Nodes at SF9.
    pub(crate) near: usize,
    /// Nodes at SF12.
    pub(crate) far: usize,
    /// Between two messages of a node.
    pub(crate) interval: Duration,
    /// Nodes name their topic, instead of its predefined id.
    pub(crate) registers: bool,
    /// Nodes look for a gateway before they connect.
    pub(crate) searches: bool,
    /// Of so many nodes one takes commands; 0 for none.
    pub(crate) commanded: usize,
}

impl Population {
    /// 80 % of what 1 % of airtime can acknowledge at one message an hour: 200 nodes at SF9, 20 at SF12.
    pub(crate) fn of_the_issue() -> Population {
        Population {
            seed: 1,
            near: 200,
            far: 20,
            interval: HOUR,
            registers: false,
            searches: false,
            commanded: 0,
        }
    }
}

/// A field with its nodes, and what they have to say.
pub(crate) struct Scene {
    pub(crate) field: Field,
    population: Population,
    rng: SmallRng,
    /// When which node has something to say.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Messages of each node.
    pub(crate) said: Vec<Vec<Bytes>>,
    /// Messages that a node threw away, because too many waited.
    pub(crate) thrown_away: usize,
}

impl Scene {
    /// Everyone connects within the first hour.
    pub(crate) fn new(population: Population) -> Scene {
        let mut rng = SmallRng::seed_from_u64(population.seed);
        let mut scene = Scene {
            field: Field::new(field_config(&population)),
            due: BinaryHeap::new(),
            said: Vec::new(),
            thrown_away: 0,
            rng: SmallRng::seed_from_u64(rng.random()),
            population: population.clone(),
        };
        for number in 0..population.near {
            scene.add_node(NEAR, number);
        }
        for number in 0..population.far {
            scene.add_node(FAR, number);
        }
        scene
    }

    fn add_node(&mut self, link: LinkId, number: usize) {
        let letter = if link == NEAR { 'n' } else { 'f' };
        let id = format!("{letter}{number:03}");
        let client = ClientConfig {
            keep_alive: 7200,
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
        let carriage = Carriage::radiohead(tuning(link), number as u8 + 1);
        let sensor = SensorConfig {
            back_off: if link == NEAR {
                Duration::from_secs(1)
            } else {
                Duration::from_secs(6)
            },
            ..SensorConfig::new(self.rng.random(), carriage)
        };
        let path = Path {
            rssi_dbm: self.rng.random_range(-115..-70),
            snr_db: self.rng.random_range(-5..10),
            loss: 0.01,
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
    pub(crate) fn plan_commands(&mut self, until: Instant, every: Duration) {
        let takers: Vec<String> = (0..self.population.near)
            .filter(|number| {
                self.population.commanded > 0 && number.is_multiple_of(self.population.commanded)
            })
            .map(|number| format!("field/n{number:03}/command"))
            .collect();
        let mut at = Instant::START + 2 * HOUR;
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
    pub(crate) fn run_until(&mut self, until: Instant) {
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
        // 12 octets: what a level and its unit take.
        let payload = Bytes::from(format!("{id} {:07}", self.said[node].len()));
        self.said[node].push(payload.clone());
        let topic = match self.population.registers {
            true => TopicForm::Name(format!("field/{id}/level")),
            false => TopicForm::Predefined(LEVEL),
        };
        let uplink = Uplink {
            topic,
            qos: PublishQoS::Level(QoS::AtLeastOnce),
            retain: false,
            payload,
        };
        let chore = Chore::Act(SensorIx(node), Action::Publish(uplink));
        self.field.plan(self.field.now(), chore);
    }

    /// Messages of a node that nobody has acknowledged.
    pub(crate) fn waiting(&self, node: usize) -> usize {
        self.said[node].len() - self.delivered(node)
    }

    /// Messages of a node that were acknowledged.
    pub(crate) fn delivered(&self, node: usize) -> usize {
        let outcomes = self.field.sensors[node].client.outcomes.values();
        outcomes
            .filter(|outcome| **outcome == Outcome::Acknowledged)
            .count()
    }

    /// Messages of nodes that the broker has.
    pub(crate) fn at_the_broker(&self) -> BTreeSet<Bytes> {
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
        links: vec![LinkSettings { retry: Some(RETRY) }; 2],
        keep_airtime: true,
        ..GatewayConfig::default()
    };
    FieldConfig {
        seed: population.seed,
        gateway,
        broker: BrokerConfig::default(),
        radios: vec![radio(NEAR), radio(FAR)],
        // Nodes near the ground hear each other badly.
        path: Path {
            rssi_dbm: -128,
            snr_db: -12,
            loss: 0.0,
        },
    }
}

fn tuning(link: LinkId) -> Tuning {
    let (frequency_hz, spreading_factor) = if link == NEAR {
        (868_100_000, 9)
    } else {
        (868_300_000, 12)
    };
    Tuning::Lora(LoraTuning {
        frequency_hz,
        spreading_factor,
        bandwidth_hz: 125_000,
        coding_rate: 5,
        preamble: 8,
        // 0x12, as an SX126x has it.
        sync: 0x1424,
        inverted_iq: false,
    })
}

/// A RAK3172 at SF9 for the near ones, an RN2483 at SF12 for the others.
fn radio(link: LinkId) -> FieldRadio {
    let near = link == NEAR;
    let (driver, baud) = if near {
        (LoraDriver::Rak3172, 115_200)
    } else {
        (LoraDriver::Rn2483, 57_600)
    };
    let (frequency_hz, spreading_factor) = if near { (868_100_000, 9) } else { (868_300_000, 12) };
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
        frequency_hz,
        modulation: modulation(driver, spreading_factor, 125_000, 5),
        sync_word: 0x12,
        tx_power_dbm: 14,
        network_id: 18,
        address: 0,
        turnaround: Duration::from_millis(50),
        ask_signal: false,
        mtu: None,
        duty_cycle_ppm: Some(10_000),
    };
    let modem: Box<dyn SimModem> = match near {
        true => Box::new(Rak3172::new(Rak3172Config::new(Firmware::Rui5))),
        false => Box::new(Rn::new(RnConfig::new(RnModel::Rn2483))),
    };
    FieldRadio {
        driver: Box::new(move || line::driver(&settings).expect("the modem takes these settings")),
        modem,
        baud,
    }
}
