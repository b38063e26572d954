//! The modems there are drivers for, each with its configuration and its sensors.

use std::{path::Path, time::Duration};

use snipe_sim::{
    ether::{LoraTuning, Tuning},
    modem::{
        SimModem,
        ebyte::{Ebyte, EbyteKind},
        framing::{Checksum, Framing},
        rak::{
            Firmware, Rak3172, Rak3172Config,
            rak4270::{Rak4270, Rak4270Config},
        },
        raw::{RawBridge, RawConfig},
        rn::{Rn, RnConfig, RnModel},
        rylr::{Rylr, RylrConfig, RylrModel},
        xbee::{Radio, Xbee, XbeeConfig, peer_address},
    },
    sensor::{Carriage, Carrier, Header, Sensor, SensorConfig},
    sim_client::ClientConfig,
};

/// A modem and how it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Rak3172,
    Rak4270,
    Rn2483,
    Rylr998,
    Zigbee,
    Ieee802154,
    DigiMesh,
    /// An Arduino with a radio: SLIP, CRC-16/X-25, forwarder encapsulation.
    Bridge,
    /// A single sensor on a wire: MQTT-SN's own length and nothing else.
    Wire,
    E22,
}

/// The REYAX address of the gateway.
const REYAX_GATEWAY: u16 = 1;

impl Kind {
    /// The modem as it is delivered.
    pub(crate) fn modem(self) -> Box<dyn SimModem> {
        match self {
            Kind::Rak3172 => Box::new(Rak3172::new(Rak3172Config::new(Firmware::Rui5))),
            Kind::Rak4270 => Box::new(Rak4270::new(Rak4270Config {
                baud: 115_200,
                factory: false,
                ok_when_sent: false,
            })),
            Kind::Rn2483 => Box::new(Rn::new(RnConfig::new(RnModel::Rn2483))),
            Kind::Rylr998 => Box::new(Rylr::new(RylrConfig::new(RylrModel::Rylr998))),
            Kind::Zigbee => xbee(Radio::Zigbee),
            Kind::Ieee802154 => xbee(Radio::Ieee802154),
            Kind::DigiMesh => xbee(Radio::DigiMesh),
            Kind::Bridge | Kind::Wire => Box::new(RawBridge::new(self.bridge())),
            Kind::E22 => Box::new(
                Ebyte::new(EbyteKind::E22)
                    .with_fixed_transmission()
                    .with_rssi()
                    .with_register(3, 0x67),
            ),
        }
    }

    fn bridge(self) -> RawConfig {
        let mut config = match self {
            Kind::Wire => RawConfig::new(Framing::LengthPrefix),
            _ => RawConfig {
                checksum: Checksum::X25,
                rssi_before: true,
                ..RawConfig::new(Framing::Slip)
            },
        };
        config.baud = 57_600;
        config.boot = Duration::from_millis(300);
        config
    }

    /// Its `[[radio]]`.
    pub(crate) fn toml(self, name: &str, port: &Path) -> String {
        let lora = |driver| {
            format!(
                "kind = 'lora'\ndriver = '{driver}'\nregion = 'EU868'\nfrequency = 868_100_000\nspreading_factor = 7"
            )
        };
        let settings = match self {
            Kind::Rak3172 => lora("rak3172"),
            Kind::Rak4270 => lora("rak4270"),
            Kind::Rn2483 => lora("rn2483"),
            Kind::Rylr998 => format!("{}\naddress = {REYAX_GATEWAY}\nnetwork_id = 18", lora("rylr998")),
            Kind::Zigbee | Kind::Ieee802154 | Kind::DigiMesh => "kind = 'xbee'\nbaud = 38_400".into(),
            Kind::Bridge => "kind = 'serial'\nbaud = 57_600\nframing = 'slip'\ncrc = 'crc16-x25'\nheader = 'none'\n\
                             metadata = 'rssi'\nsettle = '400ms'"
                .into(),
            Kind::Wire => "kind = 'serial'\nbaud = 57_600\nframing = 'length-prefix'\nheader = 'none'\n\
                           settle = '400ms'"
                .into(),
            Kind::E22 => "kind = 'serial'\nbaud = 9600\nframing = 'cobs'\ncrc = 'crc16-x25'\nheader = 'radiohead'\n\
                          fixed_prefix = 'ffff12'\nmetadata = 'rssi-after'\nair_rate = 62_500\nduty_cycle = 0.01\n\
                          turnaround = '50ms'\nsettle = '200ms'"
                .into(),
        };
        // Sooner than a person would have it, or each frame that is lost costs ten seconds.
        let retry = "retry = { first = '2s' }";
        let port = port.display();
        format!("[[radio]]\nname = '{name}'\nport = '{port}'\n{retry}\n{settings}\n")
    }

    /// A sensor of that radio, switched off.
    pub(crate) fn sensor(self, index: u8) -> Sensor {
        let mut client = ClientConfig::new(&format!("sensor-{index}"));
        // A gateway that has given up for now goes on at the next sign of life, and keeps the session of a client that
        // it has not heard for too long.
        client.keep_alive = 12;
        client.clean = false;
        // As patient as it takes to plug a modem in again.
        client.retry = Duration::from_millis(1_500 + 400 * u64::from(index));
        client.retry_count = 20;
        client.wait = Duration::from_secs(1);
        let mut config = SensorConfig::new(u64::from(index) + 1, self.carriage(index));
        // Two that always send at once would take long to be done: they look whether the channel is free.
        config.back_off = Duration::from_millis(100);
        config.listens_first = true;
        // A RAK4270 hears 65 ms after it sent, later where the machine is busy.
        config.pause = Duration::from_millis(150);
        if matches!(self, Kind::Bridge | Kind::Wire) {
            // An nRF24 hears 130 µs after it sent.
            config.turnaround = Duration::from_micros(200);
        }
        Sensor::new(client, config)
    }

    fn carriage(self, index: u8) -> Carriage {
        let lora = |preamble, sync| {
            Tuning::Lora(LoraTuning {
                frequency_hz: 868_100_000,
                spreading_factor: 7,
                bandwidth_hz: 125_000,
                coding_rate: 5,
                preamble,
                sync,
                inverted_iq: false,
            })
        };
        let carried = |tuning, carrier, header| Carriage {
            tuning,
            carrier,
            header,
        };
        match self {
            Kind::Rak3172 | Kind::Rak4270 | Kind::Rn2483 => Carriage::radiohead(lora(8, 0x1424), index + 1),
            Kind::Rylr998 => {
                let own = u16::from(index) + 10;
                let gateway = REYAX_GATEWAY;
                let tuning = lora(12, RylrModel::Rylr998.sync(18));
                carried(tuning, Carrier::Reyax { own, gateway }, Header::None)
            }
            Kind::Zigbee => Carriage::xbee(0x0F, peer_address(index.into()), 0x7D84 + u16::from(index)),
            Kind::Ieee802154 => Carriage::xbee(0x0C, peer_address(index.into()), 0xFFFF),
            Kind::DigiMesh => Carriage::xbee(0x0C, peer_address(index.into()), 0xFFFE),
            Kind::Bridge => carried(
                self.bridge().tuning,
                Carrier::Plain,
                Header::Forwarder(vec![0xA0, index]),
            ),
            Kind::Wire => carried(self.bridge().tuning, Carrier::Plain, Header::None),
            Kind::E22 => {
                let header = Header::RadioHead {
                    own: index + 1,
                    gateway: 0,
                    reliable: false,
                };
                let carrier = Carrier::Ebyte {
                    own: 100 + u16::from(index),
                    gateway: 0,
                    network: 0,
                    framing: Framing::Cobs,
                    checksum: Checksum::X25,
                };
                carried(
                    Ebyte::new(EbyteKind::E22).with_register(3, 0x67).tuning(),
                    carrier,
                    header,
                )
            }
        }
    }
}

/// A coordinator at 38,400 baud with escaped frames.
fn xbee(radio: Radio) -> Box<dyn SimModem> {
    Box::new(Xbee::new(XbeeConfig {
        baud: 38_400,
        ..XbeeConfig::new(radio)
    }))
}
