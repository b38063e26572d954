//! The command line of `snipe sim`.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use snipe_sim::modem::Fault;

use super::field::FieldArgs;

/// Arguments of `snipe sim`.
#[derive(Debug, Args)]
pub(crate) struct SimArgs {
    #[command(subcommand)]
    pub(crate) command: SimCommand,
}

/// What is simulated.
#[derive(Debug, Subcommand)]
pub(crate) enum SimCommand {
    /// A modem on a serial port that is not there, with sensors in the air around it
    Modem(Box<ModemArgs>),
    /// Days of a LoRa network in seconds: what its nodes say and what arrives, as a table
    Field(Box<FieldArgs>),
}

const AFTER_HELP: &str = "\
The modem appears as a serial port at PATH. Give that path to the gateway, and it finds a modem
there that behaves by its maker's manual: it takes its time, answers with errors, is deaf while
it sends. Around it are sensors, each an MQTT-SN client that connects, subscribes to sim/ID/set
and publishes to sim/ID/value. They share one air: frames that overlap are lost, as in the field.
Each event is a line: what a sensor sends (->) and gets (<-), with its time on air.

Try a LoRa gateway without hardware, in three terminals:
  snipe sim modem --kind rak3172 --pty ./lora0 --nodes 5
  snipe --config configs/examples/lora-rak3172.toml --set radio.lora0.port=./lora0
  mosquitto_sub -t 'sim/#' -v      and: mosquitto_pub -t sim/sensor-1/set -m on
(snipe sub and snipe pub speak UDP: they need a [[radio]] of kind udp in the configuration.)

What the sensors are set to must be what the gateway's configuration says. The radio options have
the same defaults; if they differ, nobody hears anybody, as in the field, and a line says which
options there are to be. The gateway counts every frame against its duty cycle, and remembers it:
--set gateway.state_dir=./trial keeps that out of the real one's books.

Commands, typed while it runs (or --fault with a time, to repeat it exactly):
  unplug 5s      the plug is pulled, and put back after 5 s
  reboot         the modem starts again
  hang           it is silent until reboot or unplug
  busy 2s        it says that it is busy
  garbage 300    300 random octets reach the gateway
  slow 1200      the line runs at 1200 baud; slow off ends it
  split on       octets arrive one by one; split off ends it
  drop-reply     its next answer is lost
  dup-event      its next event comes twice
  lose-sent      it forgets to say that a frame is out
  bad-frame      a damaged frame is reported
  stale-error    rn2483: an error that is none comes before the next ok
  race-stop      rn2483: the next frame is told when reception is stopped
  status         what became of each sensor and of the frames
  quit

Examples:
  snipe sim modem --kind rn2483 --pty /tmp/lora0 --sf 12 --time-scale 10
                                   SF12 without the wait
  snipe sim modem --kind rylr998 --pty /tmp/lora0 --loss 20% --seed 7
                                   one frame in five is lost
  snipe sim modem --kind rak3172 --pty /tmp/lora0 --fault unplug=10s@30s
                                   30 s after the start the plug is pulled
  snipe sim modem --kind xbee --pty /tmp/xbee0 --nodes 20 --sleep 30s
                                   sleeping clients on XBee
  snipe sim modem --kind e22 --pty /tmp/e22
                                   for configs/examples/serial-e22.toml
  snipe sim modem --kind raw --pty /tmp/kiss0 --framing kiss --header radiohead
                                   for configs/examples/serial-kiss.toml
  snipe sim modem --kind raw --pty /tmp/uart0 --framing slip
                                   an Arduino with a radio behind it";

/// Arguments of `snipe sim modem`.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct ModemArgs {
    /// Which modem
    #[arg(long, value_enum)]
    pub(crate) kind: ModemKind,

    /// Where the port appears: a link to a pseudo-terminal, made and removed by this program
    #[arg(long, value_name = "PATH")]
    pub(crate) pty: PathBuf,

    /// Sensors in the air around it
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(0..=250))]
    pub(crate) nodes: u16,

    /// From one message of a sensor to the next
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    pub(crate) interval: Duration,

    /// QoS of their messages: 0, 1 or 2
    #[arg(long, value_name = "QOS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: u8,

    /// They sleep, and wake up this often to fetch what waits for them
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) sleep: Option<Duration>,

    /// Share of frames that the air swallows
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = percent)]
    pub(crate) loss: f64,

    /// Signal strength of every frame, in dBm
    #[arg(long, value_name = "DBM", default_value_t = -80, allow_negative_numbers = true)]
    pub(crate) rssi: i16,

    /// The same seed gives the same losses and pauses
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    /// Something goes wrong at a time: FAULT@TIME, as often as you like
    #[arg(long, value_name = "FAULT@TIME")]
    pub(crate) fault: Vec<TimedFault>,

    /// Divide every time on air by this
    ///
    /// rak4270 and rylr do not tell when a frame is out, so that a gateway waits for the whole time all the same and
    /// may miss answers that come too soon. The duty cycle counts the whole time too: at SF12 it is used up soon.
    #[arg(long, value_name = "X", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) time_scale: u32,

    /// Print the octets on the line too
    #[arg(long, short)]
    pub(crate) verbose: bool,

    #[command(flatten)]
    pub(crate) modem: Variant,

    #[command(flatten)]
    pub(crate) radio: RadioArgs,
}

impl ModemArgs {
    /// How sensors are told apart; `None` where their modules do that themselves.
    pub(crate) fn header(&self) -> Option<HeaderName> {
        match self.kind {
            ModemKind::Rak3172
            | ModemKind::Rak4270
            | ModemKind::Rn2483
            | ModemKind::Rn2903
            | ModemKind::E22 => Some(self.radio.header.unwrap_or(HeaderName::Radiohead)),
            ModemKind::Raw => Some(self.radio.header.unwrap_or(HeaderName::Forwarder)),
            ModemKind::Rylr998
            | ModemKind::Rylr896
            | ModemKind::Xbee
            | ModemKind::Xbee802154
            | ModemKind::XbeeDigimesh => None,
        }
    }
}

/// Modems differ.
#[derive(Debug, Args)]
#[command(next_help_heading = "Modem")]
pub(crate) struct Variant {
    /// Its speed, if not as delivered
    #[arg(long, value_name = "BAUD", value_parser = clap::value_parser!(u32).range(300..=4_000_000))]
    pub(crate) baud: Option<u32>,

    /// Its firmware: rak3172 rui5, rui3 or 1.0.4; rn2483 and rn2903 a number such as 1.0.5
    #[arg(long, value_name = "VERSION")]
    pub(crate) firmware: Option<String>,

    /// rak3172, rak4270: in LoRaWAN mode, as delivered
    #[arg(long)]
    pub(crate) factory: bool,

    /// rak3172: the port vanishes while it restarts, as with USB of its own
    #[arg(long)]
    pub(crate) own_usb: bool,

    /// rak4270, rylr: OK comes when a frame is out, not when it was taken
    #[arg(long)]
    pub(crate) ok_when_sent: bool,

    /// raw, e22: where frames begin and end on the line (default: cobs)
    #[arg(long, value_enum)]
    pub(crate) framing: Option<FramingName>,

    /// raw, e22: checksum of each frame (default: none; e22 crc16-x25)
    #[arg(long, value_enum)]
    pub(crate) crc: Option<CrcName>,
}

/// How the sensors are set.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sensors' radio")]
pub(crate) struct RadioArgs {
    /// Carrier, in Hz
    #[arg(long, value_name = "HZ", default_value_t = 868_100_000, value_parser = clap::value_parser!(u32).range(100_000_000..=3_000_000_000))]
    pub(crate) frequency: u32,

    /// Spreading factor
    #[arg(long, value_name = "SF", default_value_t = 9, value_parser = clap::value_parser!(u8).range(7..=12))]
    pub(crate) sf: u8,

    /// Bandwidth, in Hz: 125000, 250000 or 500000
    #[arg(long, value_name = "HZ", default_value_t = 125_000, value_parser = bandwidth)]
    pub(crate) bandwidth: u32,

    /// Sync word: 0x12 private, 0x34 public
    #[arg(long, value_name = "OCTET", default_value = "0x12", value_parser = octet)]
    pub(crate) sync_word: u8,

    /// How sensors are told apart (default: radiohead; raw forwarder)
    #[arg(long, value_enum)]
    pub(crate) header: Option<HeaderName>,

    /// The gateway's address in the RadioHead header
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) header_address: u8,

    /// The sensors use RHReliableDatagram: they repeat a frame until it is acknowledged
    #[arg(long)]
    pub(crate) header_acks: bool,

    /// rylr: the network (default: 18; rylr896 0)
    #[arg(long, value_name = "ID")]
    pub(crate) network_id: Option<u8>,

    /// rylr: the gateway's address
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) address: u16,
}

/// The modems there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModemKind {
    /// RAKwireless RAK3172
    Rak3172,
    /// RAKwireless RAK4270, RAK811
    Rak4270,
    /// Microchip RN2483, LoStik
    Rn2483,
    /// Microchip RN2903
    Rn2903,
    /// REYAX RYLR998, RYLR498
    Rylr998,
    /// REYAX RYLR896, RYLR406
    Rylr896,
    /// Digi XBee with Zigbee firmware
    Xbee,
    /// Digi XBee with 802.15.4 firmware
    #[value(name = "xbee-802154")]
    Xbee802154,
    /// Digi XBee with DigiMesh firmware
    XbeeDigimesh,
    /// A microcontroller with a radio on a plain serial line
    Raw,
    /// Ebyte E22, set up as in configs/examples/serial-e22.toml
    E22,
}

/// How frames are told apart on a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FramingName {
    Cobs,
    Slip,
    Hdlc,
    Kiss,
    LengthPrefix,
}

/// Checksums on a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CrcName {
    None,
    #[value(name = "crc16-x25")]
    X25,
    #[value(name = "crc16-xmodem")]
    Xmodem,
}

/// How sensors are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HeaderName {
    /// The four octets of the RadioHead library
    Radiohead,
    /// MQTT-SN's forwarder encapsulation
    Forwarder,
    /// Not at all: one sensor
    None,
}

/// Something that goes wrong at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimedFault {
    pub(crate) at: Duration,
    pub(crate) fault: Fault,
}

impl FromStr for TimedFault {
    type Err = String;

    fn from_str(text: &str) -> Result<TimedFault, String> {
        let (fault, at) = text
            .rsplit_once('@')
            .ok_or_else(|| format!("{text:?} lacks its time: reboot@30s"))?;
        Ok(TimedFault {
            at: time(at)?,
            fault: fault.parse().map_err(|error| format!("{error}"))?,
        })
    }
}

pub(super) fn time(text: &str) -> Result<Duration, String> {
    crate::config::parse_duration(text)
        .filter(|time| !time.is_zero() && *time <= Duration::from_secs(24 * 3600))
        .ok_or_else(|| "expected a time such as 30s or 5m, at most a day".to_owned())
}

pub(super) fn percent(text: &str) -> Result<f64, String> {
    let number = text
        .strip_suffix('%')
        .and_then(|number| number.trim().parse::<f64>().ok());
    number
        .filter(|percent| (0.0..=100.0).contains(percent))
        .map(|percent| percent / 100.0)
        .ok_or_else(|| "expected a percentage such as 10%".to_owned())
}

pub(super) fn bandwidth(text: &str) -> Result<u32, String> {
    let number = text.replace('_', "").parse().ok();
    number
        .filter(|hz| [125_000, 250_000, 500_000].contains(hz))
        .ok_or_else(|| "expected 125000, 250000 or 500000".to_owned())
}

fn octet(text: &str) -> Result<u8, String> {
    let value = match text.strip_prefix("0x") {
        Some(hex) => u8::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    value.ok_or_else(|| "expected an octet such as 0x12".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use snipe_sim::modem::Fault;

    #[test]
    fn faults_have_a_time() {
        let fault = "unplug=10s@30s".parse::<TimedFault>().unwrap();
        assert_eq!(fault.at, Duration::from_secs(30));
        assert_eq!(fault.fault, Fault::Unplug(Duration::from_secs(10)));
        for wrong in ["reboot", "reboot@", "reboot@0s", "explode@5s", "@5s"] {
            wrong.parse::<TimedFault>().expect_err(wrong);
        }
    }

    #[test]
    fn shares_are_percentages() {
        assert_eq!(percent("12.5%"), Ok(0.125));
        for wrong in ["5", "101%", "-1%", "NaN%", "%"] {
            percent(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn octets_are_decimal_or_hexadecimal() {
        assert_eq!((octet("0x34"), octet("18")), (Ok(0x34), Ok(18)));
        for wrong in ["0x", "0x100", "256", "-1", ""] {
            octet(wrong).expect_err(wrong);
        }
    }
}
