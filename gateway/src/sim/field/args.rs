//! The command line of `snipe sim field`, and the field it describes.

use std::time::Duration;

use clap::{Args, ValueEnum};
use sn_codec::QoS;
use snipe_sim::field::scene::{FieldModem, Group, PAYLOAD_LEAST, Population};

use crate::sim::args::{bandwidth, percent, time};

/// More messages than this take minutes, and gigabytes to remember.
const MESSAGES_MOST: f64 = 2_000_000.0;

const AFTER_HELP: &str = "\
Days pass in seconds: the gateway is the one that `snipe run` runs, with its driver and its duty
cycle, on a simulated modem; around it are LoRa nodes that connect within the first hour and then
publish. Frames that overlap are lost, and repeated by those who miss an answer.

Each row is a stretch of time:
  said       messages that nodes had to publish
  arrived    messages that reached the broker
  missing    said so far and not arrived: on their way, waiting, lost (QoS 0), or thrown away by
             nodes that had too many waiting
  repeated   messages that nodes sent once more, for want of an answer
  gateway    seconds that the gateway was on the air, and how much that is of what it may
  channel    how much of the time anybody was on the air

Examples:
  snipe sim field --nodes 200 --sf 9 --interval 1h
                                   200 nodes with a message an hour
  snipe sim field --nodes 200 --sf 9 --interval 1h --register
                                   the same, with topics by name instead of predefined ids
  snipe sim field --nodes 60 --sf 12 --duty-cycle 10% --modem rn2483
                                   far away, in a band with more airtime
  snipe sim field --nodes 20 --days 7 --commands 5m
                                   a week, with a command to one of them every five minutes";

/// Arguments of `snipe sim field`.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct FieldArgs {
    /// Nodes in reach of the gateway
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u8).range(1..=254))]
    pub(crate) nodes: u8,

    /// How long
    #[arg(long, value_name = "DAYS", default_value = "1", value_parser = days)]
    pub(crate) days: f64,

    /// From one message of a node to the next
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = time)]
    pub(crate) interval: Duration,

    /// QoS of these messages: 0 or 1
    #[arg(long, value_name = "QOS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub(crate) qos: u8,

    /// Octets in each of them
    #[arg(long, value_name = "OCTETS", default_value_t = PAYLOAD_LEAST as u8, value_parser = clap::value_parser!(u8).range(PAYLOAD_LEAST as i64..=200))]
    pub(crate) payload: u8,

    /// Keep-alive of the nodes; a shorter one than the interval costs pings
    #[arg(long, value_name = "TIME", default_value = "2h", value_parser = keep_alive)]
    pub(crate) keep_alive: u16,

    /// Nodes register their topic by name, instead of using a predefined id
    #[arg(long)]
    pub(crate) register: bool,

    /// Somebody sends one node after the other a command with QoS 1, this often
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) commands: Option<Duration>,

    /// Spreading factor
    #[arg(long, value_name = "SF", default_value_t = 9, value_parser = clap::value_parser!(u8).range(7..=12))]
    pub(crate) sf: u8,

    /// Bandwidth, in Hz: 125000, 250000 or 500000
    #[arg(long, value_name = "HZ", default_value_t = 125_000, value_parser = bandwidth)]
    pub(crate) bandwidth: u32,

    /// How much of the time the gateway may send; 100% is no limit
    #[arg(long, value_name = "PERCENT", default_value = "1%", value_parser = duty_cycle)]
    pub(crate) duty_cycle: f64,

    /// The gateway's modem
    #[arg(long, value_enum, default_value_t = ModemName::Rak3172)]
    pub(crate) modem: ModemName,

    /// Share of frames that are lost on the way, besides collisions
    #[arg(long, value_name = "PERCENT", default_value = "1%", value_parser = percent)]
    pub(crate) loss: f64,

    /// The same seed gives the same field
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

/// The modems that a field may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModemName {
    /// It listens whenever it does not send
    Rak3172,
    /// It is deaf for a moment after each frame
    Rn2483,
}

impl FieldArgs {
    /// The field that is described.
    ///
    /// # Errors
    /// It is too much to simulate.
    pub(super) fn population(&self) -> Result<Population, String> {
        let messages = f64::from(self.nodes) * self.length().as_secs_f64() / self.interval.as_secs_f64();
        if messages > MESSAGES_MOST {
            return Err(format!(
                "{messages:.0} messages are too many to simulate: fewer --days or --nodes, or a longer --interval"
            ));
        }
        let group = Group {
            letter: 'n',
            modem: match self.modem {
                ModemName::Rak3172 => FieldModem::Rak3172,
                ModemName::Rn2483 => FieldModem::Rn2483,
            },
            frequency_hz: 868_100_000,
            spreading_factor: self.sf,
            bandwidth_hz: self.bandwidth,
            duty_cycle_ppm: (self.duty_cycle < 1.0).then_some((self.duty_cycle * 1e6) as u32),
            nodes: self.nodes.into(),
            back_off: self.back_off(),
        };
        Ok(Population {
            seed: self.seed,
            groups: vec![group],
            interval: self.interval,
            qos: match self.qos {
                0 => QoS::AtMostOnce,
                _ => QoS::AtLeastOnce,
            },
            payload: self.payload.into(),
            keep_alive: self.keep_alive,
            loss: self.loss,
            registers: self.register,
            searches: false,
            commanded: usize::from(self.commands.is_some()),
        })
    }

    /// How long it is simulated.
    pub(super) fn length(&self) -> Duration {
        Duration::from_secs((self.days * 86_400.0) as u64)
    }

    /// A few frames long, so that two that collided do not meet again: a second at SF9 and 125 kHz.
    fn back_off(&self) -> Duration {
        Duration::from_secs(1) * (1 << self.sf) / (1 << 9) * 125_000 / self.bandwidth
    }
}

fn days(text: &str) -> Result<f64, String> {
    let days = text.parse().ok();
    days.filter(|days| (0.1..=366.0).contains(days))
        .ok_or_else(|| "expected a number of days from 0.1 to 366".to_owned())
}

fn keep_alive(text: &str) -> Result<u16, String> {
    let time = crate::config::parse_duration(text);
    time.and_then(|time| u16::try_from(time.as_secs()).ok())
        .filter(|seconds| *seconds > 0)
        .ok_or_else(|| "expected a time such as 1h, from 1s to 18h".to_owned())
}

fn duty_cycle(text: &str) -> Result<f64, String> {
    percent(text).and_then(|share| match share {
        0.0 => Err("the gateway could never send".to_owned()),
        share => Ok(share),
    })
}
