//! From the command line to a modem and its sensors.

use std::time::Duration;

use sn_codec::{PublishQoS, QoS};
use snipe_sim::{
    ether::{EtherConfig, LoraTuning, Path, Tuning},
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
        xbee::{Radio, Xbee, XbeeConfig},
    },
    sensor::{Carriage, Carrier, Header, SensorConfig},
    sim_client::ClientConfig,
    site::{Habits, Site},
};

use super::args::{CrcName, FramingName, HeaderName, ModemArgs, ModemKind};

/// The channel of an XBee network that nobody configured.
const XBEE_CHANNEL: u8 = 0x0F;
/// The first sensor's 64-bit address, in Digi's range.
const XBEE_SENSORS: u64 = 0x0013_A200_4100_0001;
/// The address of the gateway's E22, and the first sensor's.
const E22_GATEWAY: u16 = 0;
const E22_SENSORS: u16 = 100;
/// The first sensor's address in a REYAX network.
const REYAX_SENSORS: u16 = 10;

/// A modem, and the sensors' way to be carried to it.
struct Kind {
    modem: Box<dyn SimModem>,
    tuning: Tuning,
}

/// The site that the options describe.
pub(super) fn site(args: &ModemArgs) -> Result<Site, String> {
    check_options(args)?;
    let kind = kind(args)?;
    if args.header() == Some(HeaderName::None) && args.nodes > 1 {
        return Err("without a header (--header none) there can be one sensor: --nodes 1".to_owned());
    }
    let ether = EtherConfig {
        seed: args.seed,
        path: Path {
            rssi_dbm: args.rssi,
            // The distance from the noise of a LoRa channel of 125 kHz, as far as receivers tell it.
            snr_db: (args.rssi + 117).clamp(-20, 12) as i8,
            loss: args.loss,
        },
        speed_up: args.time_scale,
    };
    let exchange = (kind.tuning.time_on_air(40) * 4) / args.time_scale;
    let habits = Habits {
        interval: args.interval,
        qos: PublishQoS::Level(match args.qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        }),
        sleep: args.sleep,
        // All are there within an interval, and not all at once.
        stagger: (args.interval / u32::from(args.nodes.max(1))).min(exchange.max(Duration::from_secs(1)) * 2),
    };
    let tuning = kind.tuning;
    let mut site = Site::new(kind.modem, 0, ether, habits);
    for index in 0..args.nodes {
        let carriage = carriage(args, tuning, index);
        let mut sensor = SensorConfig::new(args.seed.wrapping_add(u64::from(index)), carriage);
        sensor.speed_up = args.time_scale;
        sensor.back_off = exchange / 4;
        if args.kind == ModemKind::Raw {
            // An nRF24 hears 130 µs after it sent.
            sensor.turnaround = Duration::from_micros(200);
        }
        let mut client = ClientConfig::new(&format!("sensor-{}", index + 1));
        client.keep_alive = keep_alive(args);
        client.retry = exchange.max(Duration::from_secs(1)) * 3;
        client.wait = exchange.max(Duration::from_secs(1)) * 5;
        site.add_sensor(client, sensor);
    }
    Ok(site)
}

/// Three messages may be missed, or three wake-ups.
fn keep_alive(args: &ModemArgs) -> u16 {
    let seconds = args.sleep.unwrap_or(args.interval).as_secs() * 3;
    u16::try_from(seconds).unwrap_or(u16::MAX).max(60)
}

fn kind(args: &ModemArgs) -> Result<Kind, String> {
    let variant = &args.modem;
    let lora = |modem| Kind {
        modem,
        tuning: Tuning::Lora(lora_tuning(args, args.radio.sync_word)),
    };
    Ok(match args.kind {
        ModemKind::Rak3172 => {
            let mut config = Rak3172Config::new(match variant.firmware.as_deref() {
                None | Some("rui5") => Firmware::Rui5,
                Some("rui3") => Firmware::Rui3Manual,
                Some("1.0.4") => Firmware::V1_0_4,
                Some(other) => return Err(format!("no such firmware: {other} (rui5, rui3, 1.0.4)")),
            });
            config.factory = variant.factory;
            config.own_usb = variant.own_usb;
            config.baud = variant.baud.unwrap_or(config.baud);
            lora(Box::new(Rak3172::new(config)))
        }
        ModemKind::Rak4270 => lora(Box::new(Rak4270::new(Rak4270Config {
            baud: variant.baud.unwrap_or(115_200),
            factory: variant.factory,
            ok_when_sent: variant.ok_when_sent,
        }))),
        ModemKind::Rn2483 => lora(rn(args, RnModel::Rn2483)?),
        ModemKind::Rn2903 => lora(rn(args, RnModel::Rn2903)?),
        ModemKind::Rylr998 => rylr(args, RylrModel::Rylr998),
        ModemKind::Rylr896 => rylr(args, RylrModel::Rylr896),
        ModemKind::Xbee => xbee(args, Radio::Zigbee),
        ModemKind::Xbee802154 => xbee(args, Radio::Ieee802154),
        ModemKind::XbeeDigimesh => xbee(args, Radio::DigiMesh),
        ModemKind::Raw => {
            let mut config = RawConfig::new(framing(variant.framing));
            config.baud = variant.baud.unwrap_or(115_200);
            config.checksum = checksum(variant.crc.unwrap_or(CrcName::None));
            Kind {
                tuning: config.tuning,
                modem: Box::new(RawBridge::new(config)),
            }
        }
        ModemKind::E22 => {
            let modem = Ebyte::new(EbyteKind::E22)
                .with_address(E22_GATEWAY)
                .with_fixed_transmission()
                .with_rssi();
            Kind {
                tuning: modem.tuning(),
                modem: Box::new(modem),
            }
        }
    })
}

fn rn(args: &ModemArgs, model: RnModel) -> Result<Box<dyn SimModem>, String> {
    let mut config = RnConfig::new(model);
    if let Some(version) = &args.modem.firmware {
        let numbers: Option<Vec<u8>> = version.split('.').map(|number| number.parse().ok()).collect();
        let Some([major, minor, patch]) = numbers.as_deref() else {
            return Err(format!(
                "no such firmware: {version} (three numbers, such as 1.0.5)"
            ));
        };
        config.firmware = (*major, *minor, *patch);
    }
    config.baud = args.modem.baud.unwrap_or(config.baud);
    Ok(Box::new(Rn::new(config)))
}

fn rylr(args: &ModemArgs, model: RylrModel) -> Kind {
    let mut config = RylrConfig::new(model);
    config.ok_when_sent = args.modem.ok_when_sent;
    config.baud = args.modem.baud.unwrap_or(config.baud);
    let network = args.radio.network_id.unwrap_or(match model {
        RylrModel::Rylr998 => 18,
        RylrModel::Rylr896 => 0,
    });
    let tuning = LoraTuning {
        preamble: match model {
            RylrModel::Rylr998 => 12,
            RylrModel::Rylr896 => 4,
        },
        sync: model.sync(network),
        ..lora_tuning(args, 0)
    };
    Kind {
        modem: Box::new(Rylr::new(config)),
        tuning: Tuning::Lora(tuning),
    }
}

fn xbee(args: &ModemArgs, radio: Radio) -> Kind {
    let mut config = XbeeConfig::new(radio);
    config.seed = args.seed;
    config.baud = args.modem.baud.unwrap_or(config.baud);
    Kind {
        modem: Box::new(Xbee::new(config)),
        tuning: Tuning::Ieee802154 {
            channel: match radio {
                Radio::Zigbee => XBEE_CHANNEL,
                Radio::Ieee802154 | Radio::DigiMesh => 0x0C,
            },
        },
    }
}

fn lora_tuning(args: &ModemArgs, sync_word: u8) -> LoraTuning {
    LoraTuning {
        frequency_hz: args.radio.frequency,
        spreading_factor: args.radio.sf,
        bandwidth_hz: args.radio.bandwidth,
        coding_rate: 5,
        preamble: 8,
        // As an SX126x has it: a 4 after each half.
        sync: u16::from(sync_word & 0xF0) << 8 | u16::from(sync_word & 0x0F) << 4 | 0x0404,
        inverted_iq: false,
    }
}

fn carriage(args: &ModemArgs, tuning: Tuning, index: u16) -> Carriage {
    let carrier = match args.kind {
        ModemKind::Rak3172 | ModemKind::Rak4270 | ModemKind::Rn2483 | ModemKind::Rn2903 | ModemKind::Raw => {
            Carrier::Plain
        }
        ModemKind::Rylr998 | ModemKind::Rylr896 => Carrier::Reyax {
            own: REYAX_SENSORS + index,
            gateway: args.radio.address,
        },
        ModemKind::Xbee | ModemKind::Xbee802154 | ModemKind::XbeeDigimesh => Carrier::Xbee {
            own: XBEE_SENSORS + u64::from(index),
            network: 0x1000 + index,
            sleep: None,
        },
        ModemKind::E22 => Carrier::Ebyte {
            own: E22_SENSORS + index,
            gateway: E22_GATEWAY,
            network: 0,
            framing: framing(args.modem.framing),
            checksum: checksum(args.modem.crc.unwrap_or(CrcName::X25)),
        },
    };
    let header = match args.header() {
        Some(HeaderName::Radiohead) => Header::RadioHead {
            own: radiohead_address(args.radio.header_address, index),
            gateway: args.radio.header_address,
            reliable: args.radio.header_acks,
        },
        Some(HeaderName::Forwarder) => Header::Forwarder((index + 1).to_be_bytes().to_vec()),
        Some(HeaderName::None) | None => Header::None,
    };
    Carriage {
        tuning,
        carrier,
        header,
    }
}

/// 255 is everyone's, and one is the gateway's.
fn radiohead_address(gateway: u8, index: u16) -> u8 {
    let own = (index + 1) as u8;
    if gateway != 0 && own >= gateway {
        own + 1
    } else {
        own
    }
}

/// Options that say nothing about this kind of modem are mistakes.
fn check_options(args: &ModemArgs) -> Result<(), String> {
    let kind = args.kind;
    let rak3172 = kind == ModemKind::Rak3172;
    let rak4270 = kind == ModemKind::Rak4270;
    let rn = matches!(kind, ModemKind::Rn2483 | ModemKind::Rn2903);
    let rylr = matches!(kind, ModemKind::Rylr998 | ModemKind::Rylr896);
    let framed = matches!(kind, ModemKind::Raw | ModemKind::E22);
    let variant = &args.modem;
    for (given, fits, option) in [
        (variant.firmware.is_some(), rak3172 || rn, "--firmware"),
        (variant.factory, rak3172 || rak4270, "--factory"),
        (variant.own_usb, rak3172, "--own-usb"),
        (variant.ok_when_sent, rak4270 || rylr, "--ok-when-sent"),
        (variant.framing.is_some(), framed, "--framing"),
        (variant.crc.is_some(), framed, "--crc"),
        (variant.baud.is_some(), kind != ModemKind::E22, "--baud"),
        (args.radio.network_id.is_some(), rylr, "--network-id"),
        (
            args.radio.header.is_some(),
            framed || rak3172 || rak4270 || rn,
            "--header",
        ),
    ] {
        if given && !fits {
            return Err(format!("{option} is not for this kind of modem"));
        }
    }
    Ok(())
}

fn framing(name: Option<FramingName>) -> Framing {
    match name.unwrap_or(FramingName::Cobs) {
        FramingName::Cobs => Framing::Cobs,
        FramingName::Slip => Framing::Slip,
        FramingName::Hdlc => Framing::Hdlc,
        FramingName::Kiss => Framing::Kiss,
        FramingName::LengthPrefix => Framing::LengthPrefix,
    }
}

fn checksum(name: CrcName) -> Checksum {
    match name {
        CrcName::None => Checksum::None,
        CrcName::X25 => Checksum::X25,
        CrcName::Xmodem => Checksum::Xmodem,
    }
}

#[cfg(test)]
mod tests {
    use clap::{Parser, ValueEnum};

    use super::*;
    use crate::sim::args::{SimArgs, SimCommand};

    #[test]
    fn every_kind_of_modem_starts_with_its_sensors() {
        for kind in ModemKind::value_variants() {
            let name = kind.to_possible_value().unwrap();
            let site = built(&format!("--kind {}", name.get_name())).unwrap();
            assert_eq!(site.sensors().count(), 3, "{kind:?}");
        }
    }

    #[test]
    fn options_that_do_not_fit_are_refused() {
        for (options, reason) in [
            (
                "--kind rak3172 --firmware 9",
                "no such firmware: 9 (rui5, rui3, 1.0.4)",
            ),
            (
                "--kind rn2483 --firmware 1.0",
                "no such firmware: 1.0 (three numbers, such as 1.0.5)",
            ),
            (
                "--kind xbee --firmware 1",
                "--firmware is not for this kind of modem",
            ),
            ("--kind e22 --baud 9600", "--baud is not for this kind of modem"),
            (
                "--kind rylr998 --header none",
                "--header is not for this kind of modem",
            ),
            (
                "--kind rak3172 --header none",
                "without a header (--header none) there can be one sensor: --nodes 1",
            ),
        ] {
            assert_eq!(built(options).map(|_| ()), Err(reason.to_owned()), "{options}");
        }
        assert!(built("--kind rak3172 --header none --nodes 1").is_ok());
    }

    #[test]
    fn no_sensor_has_the_gateways_address() {
        for gateway in [0, 1, 7, 254] {
            let own: Vec<u8> = (0..250).map(|index| radiohead_address(gateway, index)).collect();
            assert!(
                !own.contains(&gateway) && !own.contains(&255),
                "{gateway}: {own:?}"
            );
            assert!(own.is_sorted_by(|a, b| a < b));
        }
    }

    #[derive(Debug, Parser)]
    struct TestCli {
        #[command(flatten)]
        sim: SimArgs,
    }

    fn built(options: &str) -> Result<Site, String> {
        let line = format!("snipe modem --pty /dev/null {options}");
        let cli = TestCli::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?;
        let SimCommand::Modem(args) = &cli.sim.command else {
            return Err(line);
        };
        site(args)
    }
}
