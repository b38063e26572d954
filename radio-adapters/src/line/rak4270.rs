//! RAKwireless RAK4270 and RAK811, in their LoRa P2P mode.
//!
//! They either listen or send, and are told which each time. Nothing says when something was sent.

use core::time::Duration;

use super::dialect::{BeforeSend, Completion, Dialect, Meaning, Otherwise, Reception, Step, Table};
use super::text::{from_hex, hex, number, snr};
use crate::settings::LoraSettings;

const VERSION: &str = "at+version";
const TO_LISTEN: &str = "at+set_config=lorap2p:transfer_mode:1";
const TO_SEND: &str = "at+set_config=lorap2p:transfer_mode:2";

/// The transceiver is busy.
const ERROR_BUSY: &str = "ERROR: 80";

#[derive(Debug)]
struct Rak4270 {
    table: Table,
}

pub(super) fn dialect(settings: &LoraSettings) -> Box<dyn Dialect> {
    let modulation = &settings.modulation;
    let radio = format!(
        "at+set_config=lorap2p:{}:{}:{}:{}:{}:{}",
        settings.frequency_hz,
        modulation.spreading_factor,
        match modulation.bandwidth_hz {
            500_000 => 2,
            250_000 => 1,
            _ => 0,
        },
        modulation.coding_rate.saturating_sub(4),
        modulation.preamble,
        settings.tx_power_dbm,
    );
    let table = Table {
        name: "RAK4270",
        identity: "RAK4270".into(),
        firmware: String::new(),
        autobaud: false,
        caveat: None,
        probe: Step::must(VERSION),
        setup: vec![
            Step::may(VERSION),
            Step::must("at+set_config=lora:work_mode:1").restarting(Duration::from_secs(3)),
            Step::must(radio),
        ],
        listen: vec![Step::must(TO_LISTEN)],
        stop: vec![Step::must(TO_SEND).or(Otherwise::Skip)],
        before_send: BeforeSend::Stop,
        deaf_after_reception: false,
        deaf_after_send: true,
        signal: Vec::new(),
        completion: Completion::Airtime(Duration::from_millis(50)),
        reset: ("at+set_config=device:restart", Duration::from_secs(3)),
        check: vec![Step::must(VERSION).or(Otherwise::SetUp)],
        daily: Vec::new(),
    };
    Box::new(Rak4270 { table })
}

impl Dialect for Rak4270 {
    fn table(&self) -> &Table {
        &self.table
    }

    fn send(&self, _to: u16, octets: &[u8]) -> String {
        format!("at+send=lorap2p:{}", hex(octets))
    }

    fn learned(&mut self, command: &str, value: Option<&str>) {
        if let (VERSION, Some(version)) = (command, value) {
            self.table.firmware = version.into();
        }
    }

    fn read(&mut self, line: &[u8], _asked: Option<&str>) -> Meaning {
        let Ok(line) = str::from_utf8(line) else {
            return Meaning::Noise;
        };
        if let Some(reception) = line.strip_prefix("at+recv=") {
            return received(reception).map_or(Meaning::Noise, Meaning::Received);
        }
        if let Some(text) = line.strip_prefix("OK") {
            // `OK V3.2.0.16` or `OK.V3.0.0.14.H`.
            return Meaning::DoneWith(text.trim_start_matches([' ', '.']).into());
        }
        match line {
            ERROR_BUSY => Meaning::Busy,
            _ if line.starts_with("ERROR") => Meaning::Refused,
            _ if line.contains("Initialization OK") || line.contains("RAKwireless") => Meaning::Started,
            // The rest of what it writes when it starts.
            _ if line.contains("work mode") || line.contains("work_mode") => Meaning::Known,
            _ => Meaning::Noise,
        }
    }
}

/// `-30,7,3:030101`: signal strength, noise, octets, the octets.
fn received(text: &str) -> Option<Reception> {
    let (head, digits) = text.split_once(':')?;
    let mut fields = head.split(',');
    let rssi_dbm = fields.next().and_then(number);
    let snr_db = fields.next().and_then(snr);
    let len: usize = fields.next().and_then(number)?;
    let octets = from_hex(digits)?;
    (octets.len() == len).then_some(Reception {
        from: None,
        rssi_dbm,
        snr_db,
        octets,
    })
}
