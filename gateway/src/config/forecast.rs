//! What the law leaves room for on a LoRa radio, for those who plan a network: the gateway's own airtime is what runs
//! out first.

use core::time::Duration;

use gateway_core::airtime::Payload;
use radio_adapters::regions::mhz;
use radio_adapters::settings::LoraSettings;

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
        RadioKind::Udp(_) | RadioKind::Xbee(_) | RadioKind::Serial(_) => None,
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
    let Some(ppm) = lora.duty_cycle_ppm else {
        return format!("{radio}; no limit to its airtime");
    };
    let payload = lora.driver.payload(lora.header);
    let acknowledged = clients(lora, payload, ppm, PUBACK_OCTETS, QUARTER);
    let alive = clients(lora, payload, ppm, PINGRESP_OCTETS, MINUTE);
    format!(
        "{radio}; {} % are {:.1} s of airtime an hour: {} with a QoS 1 message every 15 min, or {} with a keep-alive of 60 s",
        f64::from(ppm) / 1e4,
        share(ppm, HOUR).as_secs_f64(),
        counted(acknowledged),
        counted(alive),
    )
}

/// How many clients can be answered with so many octets once in each `period`.
fn clients(lora: &LoraSettings, payload: Payload, ppm: u32, octets: usize, period: Duration) -> u128 {
    let answer = lora.modulation.time_on_air(payload.len(octets));
    share(ppm, period).as_micros() / answer.as_micros().max(1)
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
    use radio_adapters::settings::{LinkHeader, LoraDriver, PortSettings};

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
    fn no_limit_is_said() {
        assert!(lora_line(&lora(9, None)).ends_with("no limit to its airtime"));
    }
}
