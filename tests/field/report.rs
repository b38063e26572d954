//! What is asked of the record of the air.

use core::fmt::Write as _;
use core::time::Duration;
use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use gateway_core::peer::LinkId;
use gateway_core::time::Instant;
use sn_codec::{MsgId, Packet, PublishQoS, QoS};
use snipe_sim::field::airtime::worst_window;
use snipe_sim::field::scene::Scene;
use snipe_sim::field::{Aired, Field, SensorIx};

use crate::population::{FAR, HOUR, LEGAL, NEAR};

/// From the arrival of a PUBLISH until its answer can be at the front: the broker's answer, and the frame that the
/// modem has.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

/// No stretch of an hour, wherever it begins, has more of either radio than the law allows; the worst of each.
///
/// # Panics
/// If one has.
pub(crate) fn assert_lawful(field: &Field) -> [Duration; 2] {
    [NEAR, FAR].map(|link| {
        let (worst, from) = worst_window(&field.on_air(link), HOUR);
        assert!(
            worst <= LEGAL,
            "{worst:?} on air in the hour from {from} on {link:?}"
        );
        worst
    })
}

/// No PUBLISH of the gateway is on the air while an answer that it owes waits; how many there were.
///
/// # Panics
/// If one is.
pub(crate) fn assert_answers_first(field: &Field) -> usize {
    let mut asked: HashMap<(SensorIx, MsgId), Vec<Instant>> = HashMap::new();
    for arrived in &field.arrived {
        if let Some(msg_id) = qos_1(&arrived.datagram).map(|(msg_id, _)| msg_id) {
            asked
                .entry((arrived.sensor, msg_id))
                .or_default()
                .push(arrived.at);
        }
    }
    let mut answered: HashMap<(SensorIx, MsgId), Vec<Instant>> = HashMap::new();
    for (aired, sensor) in down(field) {
        if let Ok(Packet::Puback(puback)) = Packet::decode(&aired.datagram) {
            let starts = answered.entry((sensor, puback.msg_id)).or_default();
            starts.push(aired.on_air.start);
        }
    }
    let mut data = 0;
    for (aired, _) in down(field) {
        if !matches!(Packet::decode(&aired.datagram), Ok(Packet::Publish(_))) {
            continue;
        }
        data += 1;
        let start = aired.on_air.start;
        for ((sensor, msg_id), asked) in &asked {
            if field.link_of(*sensor) != aired.link {
                continue;
            }
            let answers = answered.get(&(*sensor, *msg_id)).map_or(&[][..], |at| at);
            let Some(answer) = answers.iter().find(|at| **at > start) else {
                continue;
            };
            // The answer is to the last copy that came before it.
            let cause = asked.iter().rev().find(|at| *at < answer);
            let before = answers.iter().rev().find(|at| **at <= start);
            if let Some(cause) = cause {
                let waited = *cause + ON_ITS_WAY < start && before.is_none_or(|before| before < cause);
                assert!(
                    !waited,
                    "a PUBLISH at {start} went before the PUBACK for {sensor:?} {msg_id}, asked for at {cause}"
                );
            }
        }
    }
    data
}

/// The longest time that any node was without an answer to its messages while it had some, and which.
pub(crate) fn longest_drought(scene: &Scene) -> (Duration, SensorIx) {
    let mut last: Vec<Instant> = vec![Instant::START + HOUR; scene.said.len()];
    let mut longest = (Duration::ZERO, SensorIx(0));
    let mut consider = |node: usize, from: Instant, to: Instant| {
        if to.since(from) > longest.0 {
            longest = (to.since(from), SensorIx(node));
        }
    };
    for (aired, SensorIx(node)) in down(&scene.field) {
        if let Ok(Packet::Puback(_)) = Packet::decode(&aired.datagram) {
            consider(node, last[node], aired.on_air.end);
            last[node] = aired.on_air.end;
        }
    }
    for (node, last) in last.into_iter().enumerate() {
        consider(node, last, scene.field.now());
    }
    longest
}

/// What the gateway sent to single nodes.
fn down(field: &Field) -> impl Iterator<Item = (&Aired, SensorIx)> {
    let down = field.aired.iter().filter(|aired| !aired.up);
    down.filter_map(|aired| Some((aired, aired.sensor?)))
}

fn qos_1(datagram: &[u8]) -> Option<(MsgId, &[u8])> {
    match Packet::decode(datagram) {
        Ok(Packet::Publish(publish)) if publish.qos == PublishQoS::Level(QoS::AtLeastOnce) => {
            Some((publish.msg_id, publish.data))
        }
        _ => None,
    }
}

/// What airtime was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// The message, or its acknowledgement, for the first time.
    Message,
    /// The same once more.
    Again,
    /// REGISTER and REGACK.
    Register,
    /// ADVERTISE, SEARCHGW and GWINFO.
    Discovery,
    /// CONNECT, DISCONNECT, PINGREQ and their answers.
    Session,
}

const PURPOSES: [Purpose; 5] = [
    Purpose::Message,
    Purpose::Again,
    Purpose::Register,
    Purpose::Discovery,
    Purpose::Session,
];

/// Airtime of one direction of one radio.
#[derive(Debug, Default)]
struct Costs([Duration; 5]);

impl Costs {
    fn total(&self) -> Duration {
        self.0.iter().sum()
    }

    fn percent(&self, purpose: Purpose) -> f64 {
        self.0[purpose as usize].as_secs_f64() * 100.0 / self.total().as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// The rows of the table for one scene: what a delivered message costs on the air.
pub(crate) fn cost_rows(name: &str, scene: &Scene) -> String {
    let mut rows = String::new();
    let at_the_broker = scene.at_the_broker();
    for (link, sf) in [(NEAR, "SF9"), (FAR, "SF12")] {
        let nodes = (0..scene.said.len()).filter(|node| scene.field.link_of(SensorIx(*node)) == link);
        let (mut said, mut delivered) = (0, 0);
        for node in nodes {
            said += scene.said[node].len();
            delivered += scene.said[node]
                .iter()
                .filter(|(_, payload)| at_the_broker.contains(payload))
                .count();
        }
        for (direction, up) in [("gateway", false), ("nodes", true)] {
            let costs = costs(&scene.field, link, up);
            let each = costs.total().as_secs_f64() * 1000.0 / delivered.max(1) as f64;
            let shares = PURPOSES.map(|purpose| format!("{:>9.1} %", costs.percent(purpose)));
            let _ = writeln!(
                rows,
                "{name:<12} {sf:<5} {direction:<8} {said:>6} {delivered:>9} {each:>10.1} {}",
                shares.concat()
            );
        }
    }
    rows
}

/// The head of that table.
pub(crate) fn cost_head() -> String {
    format!(
        "{:<12} {:<5} {:<8} {:>6} {:>9} {:>10} {:>11}{:>11}{:>11}{:>11}{:>11}\n",
        "topics",
        "radio",
        "airtime",
        "said",
        "delivered",
        "ms/message",
        "message",
        "again",
        "register",
        "discovery",
        "session"
    )
}

fn costs(field: &Field, link: LinkId, up: bool) -> Costs {
    let mut in_order: Vec<&Aired> = field.aired.iter().filter(|aired| aired.link == link).collect();
    in_order.sort_by_key(|aired| aired.on_air.start);
    let mut costs = Costs::default();
    let mut said: HashSet<Bytes> = HashSet::new();
    let mut acknowledged: HashSet<Bytes> = HashSet::new();
    let mut ids: HashMap<(SensorIx, MsgId), Bytes> = HashMap::new();
    for aired in in_order {
        let purpose = match (Packet::decode(&aired.datagram), aired.sensor) {
            (Ok(Packet::Publish(publish)), Some(sensor)) => {
                let payload = Bytes::copy_from_slice(publish.data);
                ids.insert((sensor, publish.msg_id), payload.clone());
                if said.insert(payload) {
                    Purpose::Message
                } else {
                    Purpose::Again
                }
            }
            (Ok(Packet::Puback(puback)), Some(sensor)) => match ids.get(&(sensor, puback.msg_id)) {
                Some(payload) if acknowledged.insert(payload.clone()) => Purpose::Message,
                _ => Purpose::Again,
            },
            (Ok(Packet::Register(_) | Packet::Regack(_)), _) => Purpose::Register,
            (Ok(Packet::Advertise(_) | Packet::SearchGw(_) | Packet::GwInfo(_)), _) => Purpose::Discovery,
            _ => Purpose::Session,
        };
        if aired.up == up {
            costs.0[purpose as usize] += aired.on_air.time();
        }
    }
    costs
}
