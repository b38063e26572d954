//! What a configuration comes to.

use core::time::Duration;
use std::path::PathBuf;

use broker::{EmbeddedConfig, RemoteConfig};
use gateway_core::config::{GatewayConfig, Retry};
use gateway_store::Sync;
use radio_adapters::settings::{LoraSettings, PortSettings, RawSettings, XbeeSettings};
use radio_adapters::udp::UdpConfig;
use tracing::level_filters::LevelFilter;

/// Everything `snipe run` needs to know.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// The core's part.
    pub(crate) gateway: GatewayConfig,
    /// What people call this gateway; its id in digits if nobody named it.
    pub(crate) name: String,
    /// Where the gateway keeps what must outlive it. It need not exist yet.
    pub(crate) state_dir: PathBuf,
    /// How that is written; `None`: nothing outlives it.
    pub(crate) store: Option<StoreSettings>,
    /// Under load wait at most this long for more to do at once; zero is never.
    pub(crate) gather: Duration,
    /// The radios to open, at least one unless all of them are of kinds that this version does not drive.
    pub(crate) radios: Vec<Radio>,
    /// Where the messages go.
    pub(crate) broker: Broker,
    /// What is logged.
    pub(crate) log: LogSettings,
}

/// How the disk is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreSettings {
    /// When changes are synced.
    pub(crate) sync: Sync,
    /// Octets that may be written in a day before changes wait longer for each other; 0 is any number.
    pub(crate) day_budget: u64,
}

/// A radio.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Radio {
    /// Its name in logs, unique.
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: RadioKind,
    /// The gateway does not start without it.
    pub(crate) required: bool,
    /// Waits for acknowledgements here; `None`: those of all radios.
    pub(crate) retry: Option<Retry>,
}

/// What a radio is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RadioKind {
    /// MQTT-SN over UDP.
    Udp(UdpConfig),
    /// A LoRa modem on a serial port.
    Lora(LoraSettings),
    /// An XBee on a serial port.
    Xbee(XbeeSettings),
    /// MQTT-SN over a serial line.
    Serial(RawSettings),
}

impl RadioKind {
    /// Its name in the configuration.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            RadioKind::Udp(_) => "udp",
            RadioKind::Lora(_) => "lora",
            RadioKind::Xbee(_) => "xbee",
            RadioKind::Serial(_) => "serial",
        }
    }

    /// Whether the law limits its airtime.
    pub(crate) fn has_duty_cycle(&self) -> bool {
        match self {
            RadioKind::Udp(_) | RadioKind::Xbee(_) => false,
            RadioKind::Lora(lora) => lora.duty_cycle_ppm.is_some(),
            RadioKind::Serial(serial) => serial.duty_cycle_ppm.is_some(),
        }
    }

    /// Its serial port; none for UDP.
    pub(crate) fn port(&self) -> Option<&PortSettings> {
        match self {
            RadioKind::Udp(_) => None,
            RadioKind::Lora(lora) => Some(&lora.port),
            RadioKind::Xbee(xbee) => Some(&xbee.port),
            RadioKind::Serial(serial) => Some(&serial.port),
        }
    }
}

/// Where the messages go.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Broker {
    /// The broker inside the gateway was asked for, by `kind` or by addresses of its own.
    Embedded(EmbeddedConfig),
    /// A broker elsewhere was named.
    External(RemoteConfig),
    /// Nobody named a broker: the one inside, or what has its port already.
    Unnamed {
        /// At the usual address.
        embedded: EmbeddedConfig,
        /// How to connect to another at that address, with the keys of `[broker]` that were given.
        taken: RemoteConfig,
    },
}

/// What is logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogSettings {
    /// Least severe level logged.
    pub(crate) level: LevelFilter,
    /// How a line looks.
    pub(crate) format: LogFormat,
    /// Other levels for parts, by their names (`radio.udp0`), in the order of the names.
    pub(crate) targets: Vec<(String, LevelFilter)>,
    /// A file to append to; `None` is standard error.
    pub(crate) file: Option<PathBuf>,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// What suits the place the log goes to.
    Auto,
    /// For people.
    Text,
    /// `key=value` pairs.
    Logfmt,
    /// One JSON object a line.
    Json,
}
