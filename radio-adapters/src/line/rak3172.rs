//! RAKwireless modems with RUI3 firmware (RAK3172, RAK3272, RAK4630, RAK11720), and RAK3172 with firmware 1.0.
//!
//! Reception goes on by itself with `AT+PRECV=65533`; firmware that does not know that value must be stopped before
//! each transmission. Settings are written to flash unless the seventh parameter of `AT+P2P` says otherwise, so they
//! are asked for first.

use core::time::Duration;

use super::dialect::{BeforeSend, Completion, Dialect, Meaning, Otherwise, Reception, Step, Table};
use super::text::{from_hex, hex, number, snr};
use crate::settings::LoraSettings;

const FOR_EVER: &str = "AT+PRECV=65533";
const FOR_EVER_BUT_SENDING: &str = "AT+PRECV=65534";
const STOP: &str = "AT+PRECV=0";
const IS_LISTENING: &str = "AT+PRECV=?";
const VERSION: &str = "AT+VER=?";
const MODE: &str = "AT+NWM=?";
const SETTINGS: &str = "AT+P2P=?";

/// Bandwidths in Hz, by the index that newer firmware gives for them.
const BANDWIDTHS: [u32; 10] = [
    125_000, 250_000, 500_000, 7_800, 10_400, 15_630, 20_830, 31_250, 41_670, 62_500,
];

#[derive(Debug)]
struct Rak3172 {
    table: Table,
    /// Frequency, spreading factor, bandwidth, coding rate, preamble, power, as `AT+P2P` counts them.
    wanted: [u32; 6],
    /// The first of the two lines that old firmware writes for a reception.
    signal: Option<(Option<i16>, Option<i8>)>,
}

pub(super) fn dialect(settings: &LoraSettings) -> Box<dyn Dialect> {
    let modulation = &settings.modulation;
    let wanted = [
        settings.frequency_hz,
        modulation.spreading_factor.into(),
        modulation.bandwidth_hz,
        u32::from(modulation.coding_rate.saturating_sub(5)),
        modulation.preamble.into(),
        settings.tx_power_dbm.unsigned_abs().into(),
    ];
    Box::new(Rak3172 {
        table: table(&wanted, settings.sync_word),
        wanted,
        signal: None,
    })
}

fn table(wanted: &[u32; 6], sync_word: u8) -> Table {
    let [frequency, sf, bandwidth, cr, preamble, power] = wanted;
    let set = format!(
        "AT+P2P={frequency}:{sf}:{}:{cr}:{preamble}:{power}",
        bandwidth / 1000
    );
    // Without the flash first, which older firmware does not know.
    let set = Step::must(format!("{set}:1")).or(Otherwise::Try(vec![Step::must(set)]));
    let to_p2p = Step::must("AT+NWM=0").restarting(Duration::from_secs(5));
    // The form of an SX126x: 0x12 is 0x1424.
    let sync_word = format!("{:X}4{:X}4", sync_word >> 4, sync_word & 0x0F);
    Table {
        name: "RAK3172",
        identity: "RAK3172".into(),
        firmware: String::new(),
        autobaud: false,
        caveat: None,
        probe: Step::must("AT"),
        setup: vec![
            Step::may(VERSION),
            Step::must(MODE).or(Otherwise::Try(vec![to_p2p])),
            Step::must(STOP),
            Step::must(SETTINGS).or(Otherwise::Try(vec![set])),
            // Left by somebody else, either would make it speak another language than its nodes.
            Step::may("AT+ENCRY=0"),
            Step::may("AT+CAD=0"),
            Step::may("AT+IQINVER=0"),
            Step::must(format!("AT+SYNCWORD={sync_word}"))
                .or(Otherwise::Degrade("the modem has a sync word of its own")),
        ],
        listen: vec![Step::must(FOR_EVER).or(Otherwise::Try(vec![Step::must(FOR_EVER_BUT_SENDING)]))],
        stop: vec![Step::may(STOP)],
        before_send: BeforeSend::Nothing,
        deaf_after_reception: false,
        deaf_after_send: false,
        signal: Vec::new(),
        completion: Completion::Line(Duration::from_millis(500)),
        reset: ("ATZ", Duration::from_secs(3)),
        check: vec![Step::must(IS_LISTENING).or(Otherwise::SetUp)],
        daily: Vec::new(),
    }
}

impl Dialect for Rak3172 {
    fn table(&self) -> &Table {
        &self.table
    }

    fn send(&self, _to: u16, octets: &[u8]) -> String {
        format!("AT+PSEND={}", hex(octets))
    }

    fn fits(&self, command: &str, value: &str) -> bool {
        match command {
            MODE => value == "0",
            IS_LISTENING => value.contains("P2P_RX_ON"),
            SETTINGS => settings(value) == Some(self.wanted),
            _ => true,
        }
    }

    fn learned(&mut self, command: &str, value: Option<&str>) {
        match (command, value) {
            (VERSION, Some(version)) => self.table.firmware = version.into(),
            (FOR_EVER, None) => {
                self.table.listen = vec![Step::must(FOR_EVER_BUT_SENDING)];
                self.table.before_send = BeforeSend::Stop;
                self.table.deaf_after_send = true;
            }
            _ => {}
        }
    }

    fn read(&mut self, line: &[u8], asked: Option<&str>) -> Meaning {
        let Ok(line) = str::from_utf8(line) else {
            return Meaning::Noise;
        };
        if let Some(event) = line.strip_prefix("+EVT:") {
            return self.event(event);
        }
        match line {
            "OK" => Meaning::Done,
            "AT_BUSY_ERROR" => Meaning::Busy,
            "P2P_RX_ON" | "P2P_RX_OFF" => Meaning::Value(line.into()),
            _ if line.starts_with("P2P_RX_ON already") => Meaning::Known,
            _ if line.contains("RAKwireless") || line.starts_with("Current Work Mode") => Meaning::Started,
            _ if line.starts_with("AT_") => Meaning::Refused,
            _ => value(line, asked).map_or(Meaning::Noise, |value| Meaning::Value(value.into())),
        }
    }
}

impl Rak3172 {
    fn event(&mut self, event: &str) -> Meaning {
        match event {
            "TXP2P DONE" => return Meaning::Sent,
            "RXP2P RECEIVE ERROR" => return Meaning::Damaged,
            "RXP2P RECEIVE TIMEOUT" => return Meaning::Deaf,
            _ => {}
        }
        if let Some(reception) = event.strip_prefix("RXP2P:") {
            let mut fields = reception.splitn(3, ':');
            let (rssi, noise, digits) = (fields.next(), fields.next(), fields.next());
            return received(rssi.and_then(number), noise.and_then(snr), digits);
        }
        if let Some(signal) = event.strip_prefix("RXP2P, RSSI ") {
            let (rssi, noise) = signal.split_once(", SNR ").unwrap_or((signal, ""));
            self.signal = Some((number(rssi), snr(noise)));
            return Meaning::Known;
        }
        match self.signal.take() {
            Some((rssi, noise)) => received(rssi, noise, Some(event)),
            None => Meaning::Noise,
        }
    }
}

fn received(rssi_dbm: Option<i16>, snr_db: Option<i8>, digits: Option<&str>) -> Meaning {
    digits.and_then(from_hex).map_or(Meaning::Noise, |octets| {
        Meaning::Received(Reception {
            from: None,
            rssi_dbm,
            snr_db,
            octets,
        })
    })
}

/// The value of `AT+NAME=value`, if `AT+NAME=?` was asked. Firmware before RUI3 writes the value alone.
fn value<'a>(line: &'a str, asked: Option<&str>) -> Option<&'a str> {
    let name = asked?.strip_suffix('?')?;
    match line.split_at_checked(name.len()) {
        Some((head, value)) if head.eq_ignore_ascii_case(name) => Some(value),
        _ => line
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || ":._-".contains(c))
            .then_some(line),
    }
}

/// What `AT+P2P=?` gives; the bandwidth in kHz or as an index.
fn settings(value: &str) -> Option<[u32; 6]> {
    let mut fields = value.split(':').map(number::<u32>);
    let mut settings = [0; 6];
    for setting in &mut settings {
        *setting = fields.next()??;
    }
    let bandwidth = settings[2];
    settings[2] = match BANDWIDTHS.get(bandwidth as usize) {
        Some(hz) => *hz,
        None => bandwidth.checked_mul(1000)?,
    };
    Some(settings)
}
