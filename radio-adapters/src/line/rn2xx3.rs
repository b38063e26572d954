//! Microchip RN2483 (433 and 868 MHz) and RN2903 (915 MHz): command reference DS40001784.
//!
//! Each reception ends listening, so listening is begun anew after each. It must be stopped before something is sent,
//! and what arrives in that moment is told before the answer. Firmware before 1.0.5 cannot stop: it listens for a
//! second at a time.

use core::time::Duration;

use super::dialect::{BeforeSend, Completion, Dialect, Meaning, Otherwise, Reception, Signal, Step, Table};
use super::text::{from_hex, hex, number};
use crate::settings::{LoraDriver, LoraSettings};

const VERSION: &str = "sys get ver";
const PAUSE: &str = "mac pause";
const SYNC_WORD: &str = "radio get sync";
const RSSI: &str = "radio get rssi";
const SNR: &str = "radio get snr";

/// The first firmware with `radio rxstop` and `radio get rssi`.
const CAN_STOP: [u16; 3] = [1, 0, 5];

/// How long old firmware listens at a time: nothing can be sent meanwhile.
const WINDOW: Duration = Duration::from_secs(1);

const CAVEAT: &str = "this firmware cannot stop a reception: it listens for a second at a time, is deaf in between, and sends \
    late; 1.0.5 can";

#[derive(Debug)]
struct Rn2xx3 {
    table: Table,
    sync_word: u8,
    /// Symbols in a [`WINDOW`].
    window: u128,
}

pub(super) fn dialect(settings: &LoraSettings) -> Box<dyn Dialect> {
    Box::new(Rn2xx3 {
        table: table(settings),
        sync_word: settings.sync_word,
        window: (WINDOW.as_micros() / settings.modulation.symbol().as_micros().max(1)).clamp(1, 65_535),
    })
}

fn table(settings: &LoraSettings) -> Table {
    let modulation = &settings.modulation;
    let name = match settings.driver {
        LoraDriver::Rn2903 => "RN2903",
        _ => "RN2483",
    };
    // The watchdog would end receptions too. Some firmware does not take 0, but the longest time.
    let no_watchdog =
        Step::must("radio set wdt 0").or(Otherwise::Try(vec![Step::may("radio set wdt 4294967295")]));
    let mut setup = vec![
        Step::must(VERSION),
        // Modems without a LoRaWAN part have nothing to pause.
        Step::may(PAUSE),
        Step::must("radio set mod lora"),
    ];
    setup.extend(
        [
            format!("freq {}", settings.frequency_hz),
            format!("pwr {}", settings.tx_power_dbm),
            format!("sf sf{}", modulation.spreading_factor),
            format!("bw {}", modulation.bandwidth_hz / 1000),
            format!("cr 4/{}", modulation.coding_rate),
            format!("prlen {}", modulation.preamble),
            "crc on".into(),
            "iqi off".into(),
            format!("sync {:02x}", settings.sync_word),
        ]
        .map(|setting| Step::must(format!("radio set {setting}"))),
    );
    setup.push(no_watchdog);
    Table {
        name,
        identity: name.into(),
        firmware: String::new(),
        autobaud: true,
        caveat: None,
        probe: Step::must(VERSION),
        setup,
        listen: vec![Step::must("radio rx 0")],
        stop: vec![Step::may("radio rxstop")],
        before_send: BeforeSend::Stop,
        deaf_after_reception: true,
        deaf_after_send: true,
        signal: vec![(Signal::Snr, Step::may(SNR)), (Signal::Rssi, Step::may(RSSI))],
        completion: Completion::Line(Duration::from_secs(1)),
        reset: ("sys reset", Duration::from_secs(3)),
        // After a restart that nobody saw, the sync word would be LoRaWAN's.
        check: vec![Step::must(SYNC_WORD).or(Otherwise::SetUp)],
        daily: vec![Step::may(PAUSE)],
    }
}

impl Dialect for Rn2xx3 {
    fn table(&self) -> &Table {
        &self.table
    }

    fn send(&self, _to: u16, octets: &[u8]) -> String {
        format!("radio tx {}", hex(octets))
    }

    fn fits(&self, command: &str, value: &str) -> bool {
        match command {
            VERSION => value.starts_with(self.table.name),
            SYNC_WORD => u8::from_str_radix(value, 16) == Ok(self.sync_word),
            _ => true,
        }
    }

    fn learned(&mut self, command: &str, value: Option<&str>) {
        let (VERSION, Some(version)) = (command, value) else {
            return;
        };
        let firmware = version.split_whitespace().nth(1).unwrap_or_default();
        self.table.firmware = firmware.into();
        if number_of(firmware) < CAN_STOP {
            self.table.listen = vec![Step::must(format!("radio rx {}", self.window))];
            self.table.caveat = Some(CAVEAT);
            self.table.stop = Vec::new();
            self.table.before_send = BeforeSend::Wait(WINDOW);
            self.table.signal.retain(|(signal, _)| *signal == Signal::Snr);
        }
    }

    fn read(&mut self, line: &[u8], asked: Option<&str>) -> Meaning {
        let Ok(line) = str::from_utf8(line) else {
            return Meaning::Noise;
        };
        if let Some(digits) = line.strip_prefix("radio_rx") {
            let octets = from_hex(digits.trim_start());
            // What cannot be read has ended listening all the same.
            return octets.map_or(Meaning::Failed, |octets| {
                Meaning::Received(Reception {
                    octets,
                    ..Reception::default()
                })
            });
        }
        match line {
            "ok" => Meaning::Done,
            "busy" => Meaning::Busy,
            "invalid_param" => Meaning::Refused,
            "radio_tx_ok" => Meaning::Sent,
            "radio_err" => Meaning::Failed,
            _ if line.starts_with("RN2483") || line.starts_with("RN2903") => match asked {
                Some(VERSION) => Meaning::DoneWith(line.into()),
                _ => Meaning::Started,
            },
            _ => match asked {
                Some(SYNC_WORD) if u8::from_str_radix(line, 16).is_ok() => Meaning::DoneWith(line.into()),
                Some(PAUSE | RSSI | SNR) if number::<i64>(line).is_some() => Meaning::DoneWith(line.into()),
                _ => Meaning::Noise,
            },
        }
    }
}

/// `1.0.5` as numbers; what is not one counts as 0.
fn number_of(firmware: &str) -> [u16; 3] {
    let mut parts = firmware.split('.').map(|part| number(part).unwrap_or(0));
    core::array::from_fn(|_| parts.next().unwrap_or(0))
}
