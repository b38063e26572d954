//! What the law leaves room for on a LoRa radio, or one behind a serial line, for those who plan a network: the gateway's own airtime is what runs
//! out first.

use core::time::Duration;

use gateway_core::io::LinkProfile;
use radio_adapters::line;
use radio_adapters::raw::RawSerial;
use radio_adapters::regions::mhz;
use radio_adapters::settings::{LoraSettings, RawSettings};

use super::{derive::PUBACK_OCTETS, settings::Radio, settings::RadioKind};

/// PINGRESP.
const PINGRESP_OCTETS: usize = 2;

const HOUR: Duration = Duration::from_secs(3600);
const QUARTER: Duration = Duration::from_secs(900);
const MINUTE: Duration = Duration::from_secs(60);

/// A line about the radio, if there is something to say.
pub(super) fn of(radio: &Radio) -> Option<String> {
    match &radio.kind {
        RadioKind::Lora(lora) => Some(format!("{}: {}", radio.name, lora_line(lora))),
        RadioKind::Serial(raw) => Some(format!("{}: {}", radio.name, behind_the_line(raw)?)),
        RadioKind::Udp(_) | RadioKind::Xbee(_) => None,
    }
}

fn lora_line(lora: &LoraSettings) -> String {
    let modulation = &lora.modulation;
    let mtu = lora
        .mtu
        .map_or_else(String::new, |mtu| format!(", datagrams up to {mtu} octets"));
    let radio = format!(
        "{} MHz SF{} {} kHz{mtu}",
        mhz(lora.frequency_hz),
        modulation.spreading_factor,
        modulation.bandwidth_hz / 1000,
    );
    // Settings that the modem does not take are reported elsewhere.
    match line::profile(lora) {
        Ok(profile) => format!("{radio}; {}", room(&profile, lora.duty_cycle_ppm)),
        Err(_) => radio,
    }
}

/// A radio behind a serial line; nothing for a plain wire.
fn behind_the_line(raw: &RawSettings) -> Option<String> {
    let rate = raw.air_rate?;
    Some(format!(
        "{rate} bit/s on the air, datagrams up to {} octets; {}",
        raw.mtu,
        room(&RawSerial::profile(raw), raw.duty_cycle_ppm)
    ))
}

/// Clients that there is airtime for, of a radio that may send so much and leaves the core a part of it.
fn room(profile: &LinkProfile, duty_cycle_ppm: Option<u32>) -> String {
    let (Some(ppm), Some(left)) = (duty_cycle_ppm, profile.duty_cycle) else {
        return "no limit to its airtime".into();
    };
    let clients =
        |octets, period| share(left.ppm, period).as_micros() / profile.airtime.of(octets).as_micros().max(1);
    format!(
        "{} % are {:.1} s of airtime an hour: {} with a QoS 1 message every 15 min, or {} with a keep-alive of 60 s",
        f64::from(ppm) / 1e4,
        share(ppm, HOUR).as_secs_f64(),
        counted(clients(PUBACK_OCTETS, QUARTER)),
        counted(clients(PINGRESP_OCTETS, MINUTE)),
    )
}

fn share(ppm: u32, period: Duration) -> Duration {
    Duration::from_micros(u64::from(ppm) * period.as_secs())
}

fn counted(clients: u128) -> String {
    match clients {
        0 => "no client".into(),
        1 => "1 client".into(),
        more => format!("{more} clients"),
    }
}

#[cfg(test)]
mod tests {
    use radio_adapters::modems::modulation;
    use radio_adapters::settings::{Crc, Framing, LinkHeader, LoraDriver, Metadata, PortSettings};

    use super::*;

    fn lora(spreading_factor: u8, duty_cycle_ppm: Option<u32>) -> LoraSettings {
        LoraSettings {
            driver: LoraDriver::Rak3172,
            port: PortSettings {
                path: "p".into(),
                baud: 115_200,
                hardware_flow: false,
                reopen_first: Duration::from_secs(1),
                reopen_max: Duration::from_secs(30),
            },
            header: LinkHeader::RadioHead {
                address: 0,
                acks: false,
            },
            frequency_hz: 868_100_000,
            modulation: modulation(LoraDriver::Rak3172, spreading_factor, 125_000, 5),
            sync_word: 0x12,
            tx_power_dbm: 14,
            network_id: 0,
            address: 0,
            turnaround: Duration::ZERO,
            ask_signal: false,
            mtu: Some(235),
            duty_cycle_ppm,
        }
    }

    #[test]
    fn the_gateways_own_airtime_is_what_runs_out() {
        let line = |factor, ppm| lora_line(&lora(factor, Some(ppm)));
        assert_eq!(
            line(9, 10_000),
            "868.1 MHz SF9 125 kHz, datagrams up to 235 octets; 1 % are 36.0 s of airtime an hour: 62 clients with a \
             QoS 1 message every 15 min, or 4 clients with a keep-alive of 60 s"
        );
        assert!(line(7, 10_000).contains(": 218 clients with"));
        assert!(line(12, 100_000).contains(": 77 clients with"));
        assert!(line(12, 10_000).contains(": 7 clients with"));
        assert!(line(12, 10_000).ends_with("or no client with a keep-alive of 60 s"));
        assert!(line(7, 1_000).contains(": 21 clients with"));
    }

    #[test]
    fn acknowledgements_of_the_link_header_take_their_part() {
        let mut acks = lora(9, Some(10_000));
        acks.header = LinkHeader::RadioHead {
            address: 0,
            acks: true,
        };
        let line = lora_line(&acks);
        assert!(
            line.contains("1 % are 36.0 s of airtime an hour: 46 clients"),
            "{line}"
        );
    }

    #[test]
    fn radio_behind_a_line_has_room_for_so_many_and_a_wire_for_all() {
        let e22 = RawSettings {
            port: lora(9, None).port,
            framing: Framing::Cobs,
            crc: Crc::X25,
            header: LinkHeader::RadioHead {
                address: 0,
                acks: false,
            },
            metadata: Metadata::None,
            fixed_prefix: vec![0xff, 0xff, 0x12],
            air_rate: Some(2400),
            mtu: 229,
            settle: Duration::ZERO,
            turnaround: Duration::ZERO,
            echo: false,
            duty_cycle_ppm: Some(10_000),
        };
        let line = behind_the_line(&e22).unwrap();
        assert_eq!(
            line,
            "2400 bit/s on the air, datagrams up to 229 octets; 1 % are 36.0 s of airtime an hour: 56 clients with a \
             QoS 1 message every 15 min, or 4 clients with a keep-alive of 60 s"
        );
        let wire = RawSettings {
            air_rate: None,
            duty_cycle_ppm: None,
            ..e22
        };
        assert_eq!(behind_the_line(&wire), None);
    }

    #[test]
    fn no_limit_is_said() {
        assert!(lora_line(&lora(9, None)).ends_with("no limit to its airtime"));
    }
}
