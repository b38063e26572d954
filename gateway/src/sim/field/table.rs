//! What became of a field, as people read it.

use core::fmt::Write as _;
use core::time::Duration;
use std::collections::HashMap;

use gateway_core::peer::LinkId;
use gateway_core::time::Instant;
use sn_codec::Packet;
use snipe_sim::field::airtime::{jain, worst_window};
use snipe_sim::field::scene::Scene;

use super::args::FieldArgs;

const LINK: LinkId = LinkId(0);
const HOUR: Duration = Duration::from_secs(3600);

/// A share of its limit from which on a gateway has no airtime left for those who come next.
const USED_UP: f64 = 0.9;

/// Rows of one field, each about what came since the one before.
#[derive(Debug)]
pub(super) struct Table {
    title: String,
    length: Duration,
    /// What the gateway may send of any hour.
    limit: Option<Duration>,
    /// Up to where the last row went.
    at: Instant,
    said: usize,
    aired: usize,
    routed: usize,
    /// When each message reached the broker for the first time.
    arrived: HashMap<Vec<u8>, Instant>,
}

impl Table {
    pub(super) fn new(args: &FieldArgs) -> Table {
        let limit = (args.duty_cycle < 1.0).then(|| HOUR.mul_f64(args.duty_cycle));
        let modem = clap::ValueEnum::to_possible_value(&args.modem);
        let modem = modem.map_or_else(String::new, |modem| modem.get_name().to_owned());
        let may = match limit {
            Some(limit) => format!("which may send {:.1} s of an hour", limit.as_secs_f64()),
            None => "without a limit".to_owned(),
        };
        Table {
            title: format!(
                "{} at SF{}, {} kHz, each with a message of {} octets every {}, QoS {}; a {modem}, {may}",
                counted(args.nodes.into(), "node"),
                args.sf,
                args.bandwidth / 1000,
                args.payload,
                crate::config::show_duration(args.interval),
                args.qos,
            ),
            length: args.length(),
            limit,
            at: Instant::START,
            said: 0,
            aired: 0,
            routed: 0,
            arrived: HashMap::new(),
        }
    }

    pub(super) fn title(&self) -> &str {
        &self.title
    }

    /// How long a row is: there are two dozen of them, or a few more.
    pub(super) fn stretch(&self) -> Duration {
        match self.length.as_secs() / 86_400 {
            0..=2 => HOUR,
            3..=14 => 6 * HOUR,
            _ => 24 * HOUR,
        }
    }

    pub(super) fn head() -> String {
        format!(
            "{:>7} {:>8} {:>8} {:>8} {:>9} {:>10} {:>7} {:>8}",
            "hour", "said", "arrived", "missing", "repeated", "gateway", "", "channel"
        )
    }

    /// What came since the last row.
    pub(super) fn row(&mut self, scene: &Scene) -> String {
        let (said, arrived) = (self.said, self.arrived.len());
        self.said = scene.said.iter().map(Vec::len).sum::<usize>() + scene.thrown_away;
        for routed in &scene.field.broker.log[self.routed..] {
            if routed.topic.ends_with("/level") {
                self.arrived.entry(routed.payload.to_vec()).or_insert(routed.at);
            }
        }
        self.routed = scene.field.broker.log.len();
        let (mut gateway, mut nodes, mut repeated) = (Duration::ZERO, Duration::ZERO, 0_usize);
        for aired in &scene.field.aired[self.aired..] {
            if aired.up {
                nodes += aired.on_air.time();
                let again =
                    matches!(Packet::decode(&aired.datagram), Ok(Packet::Publish(publish)) if publish.dup);
                repeated += usize::from(again);
            } else {
                gateway += aired.on_air.time();
            }
        }
        self.aired = scene.field.aired.len();
        let stretch = scene.field.now().since(self.at);
        self.at = scene.field.now();
        let may = self
            .limit
            .map(|limit| limit.mul_f64(stretch.div_duration_f64(HOUR)));
        format!(
            "{:>7} {:>8} {:>8} {:>8} {repeated:>9} {:>8.1} s {:>7} {:>8}",
            hours(self.at.since(Instant::START)),
            self.said - said,
            self.arrived.len() - arrived,
            self.said - self.arrived.len(),
            gateway.as_secs_f64(),
            may.map_or_else(String::new, |may| percent(gateway.div_duration_f64(may))),
            percent((gateway + nodes).div_duration_f64(stretch)),
        )
    }

    /// What it all came to.
    pub(super) fn sum(&self, scene: &Scene) -> String {
        let mut text = String::new();
        let mut line = |what: &str, told: String| {
            let _ = writeln!(text, "{what:<9} {told}");
        };
        let thrown_away = match scene.thrown_away {
            0 => String::new(),
            many => format!("; {many} were thrown away by nodes that had too many waiting"),
        };
        let share = self.arrived.len() as f64 / self.said.max(1) as f64;
        line(
            "messages",
            format!(
                "{} of {} arrived, {}{thrown_away}",
                self.arrived.len(),
                self.said,
                percent(share)
            ),
        );
        let mut delays = self.delays(scene);
        delays.sort_unstable();
        if let (Some(last), Some(middle)) = (delays.last(), delays.get(delays.len() / 2)) {
            let late = delays[(delays.len() * 95 / 100).min(delays.len() - 1)];
            line(
                "delay",
                format!(
                    "half of them within {}, 95 % within {}, the last within {}",
                    seconds(*middle),
                    seconds(late),
                    seconds(*last)
                ),
            );
        }
        let (commands, obeyed) = commands(scene);
        if commands > 0 {
            line("commands", format!("{obeyed} of {commands} arrived"));
        }
        let shares: Vec<u64> = scene
            .said
            .iter()
            .map(|said| {
                let arrived = said
                    .iter()
                    .filter(|(_, payload)| self.arrived.contains_key(payload.as_ref()));
                arrived.count() as u64
            })
            .collect();
        if let (Some(least), Some(most)) = (shares.iter().min(), shares.iter().max()) {
            line(
                "nodes",
                format!(
                    "{least} messages of the one that fared worst arrived, {most} of the one that fared best (Jain's \
                     index {:.3})",
                    jain(&shares)
                ),
            );
        }
        let (worst, _) = worst_window(&scene.field.on_air(LINK), HOUR);
        let used = self.limit.map(|limit| worst.div_duration_f64(limit));
        let of_limit = match (self.limit, used) {
            (Some(limit), Some(used)) => {
                format!(", of {:.1} s that it may: {}", limit.as_secs_f64(), percent(used))
            }
            _ => String::new(),
        };
        line(
            "gateway",
            format!(
                "{:.1} s on the air in its busiest hour{of_limit}",
                worst.as_secs_f64()
            ),
        );
        if used.is_some_and(|used| used >= USED_UP) {
            line(
                "",
                "the gateway's airtime is used up at times: fewer nodes or messages, predefined topics, QoS 0, a lower \
                 spreading factor (docs/radios.md)"
                    .to_owned(),
            );
        }
        text.truncate(text.trim_end().len());
        text
    }

    /// From a node that has something to say to the broker that has it.
    fn delays(&self, scene: &Scene) -> Vec<Duration> {
        let said = scene.said.iter().flatten();
        said.filter_map(|(at, payload)| Some(self.arrived.get(payload.as_ref())?.since(*at)))
            .collect()
    }
}

/// Commands that were sent, and those that reached their nodes.
fn commands(scene: &Scene) -> (usize, usize) {
    let sent = scene.field.broker.log.iter();
    let sent = sent.filter(|routed| routed.topic.ends_with("/command")).count();
    let got = scene
        .field
        .sensors
        .iter()
        .map(|sensor| sensor.client.delivered.len())
        .sum();
    (sent, got)
}

fn counted(many: usize, what: &str) -> String {
    match many {
        1 => format!("1 {what}"),
        many => format!("{many} {what}s"),
    }
}

/// `7`, or `4.8` where it is no whole number of them.
fn hours(time: Duration) -> String {
    match (time.as_secs() / 3600, time.as_secs() % 3600) {
        (hours, 0) => hours.to_string(),
        _ => format!("{:.1}", time.div_duration_f64(HOUR)),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
