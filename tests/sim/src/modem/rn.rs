//! Microchip RN2483 and RN2903, LoStik included, in radio mode.

use core::time::Duration;
use std::collections::VecDeque;

use gateway_core::time::Instant;

use super::text::{CommandLine, from_hex, number, to_hex};
use super::{Mishap, ModemOutput, SimModem};
use crate::agenda::Agenda;
use crate::ether::{AirEvent, AirRequest, LoraTuning, Tuning};

/// Characters of a command: 255 octets in hexadecimal and room for the rest.
const MAX_COMMAND: usize = 540;
/// From the end of a command to its answer: taste, with what a PIC of its age needs.
const ANSWER: Duration = Duration::from_millis(8);
/// From the answer to `radio tx` to the first symbol.
const SEND: Duration = Duration::from_millis(10);
/// From a reset to the version.
const BOOT: Duration = Duration::from_millis(700);
/// How long its MAC can pause: 2³² − 51 ms.
const LONGEST_PAUSE: u32 = 4_294_967_245;

/// What kind of RN2483 it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RnConfig {
    /// Which of the two.
    pub model: RnModel,
    /// Its firmware, whose number decides what it can.
    pub firmware: (u8, u8, u8),
    /// It has the LoRaWAN stack, which must be paused. Some LoStiks come without.
    pub has_mac: bool,
    /// `radio set wdt 0` is refused.
    pub refuses_wdt_0: bool,
    /// Its speed, 57,600.
    pub baud: u32,
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RnModel {
    /// For 433 and 868 MHz.
    Rn2483,
    /// For 915 MHz.
    Rn2903,
}

impl RnConfig {
    /// One with firmware 1.0.5, as sold.
    pub fn new(model: RnModel) -> RnConfig {
        RnConfig {
            model,
            firmware: (1, 0, 5),
            has_mac: true,
            refuses_wdt_0: false,
            baud: 57_600,
        }
    }
}

/// An RN2483 or RN2903.
#[derive(Debug)]
pub struct Rn {
    config: RnConfig,
    baud: u32,
    settings: Settings,
    radio: Radio,
    /// Counts what the radio does, so that a watchdog bites nothing but what it was set for.
    turn: u64,
    pending: Option<Vec<u8>>,
    mac_paused_until: Option<Instant>,
    /// Of the last frame.
    rssi_dbm: i16,
    snr_db: i8,
    booting: bool,
    /// A break was seen: the next octet is 0x55, by which it finds the speed.
    measuring: bool,
    busy_until: Instant,
    lose_sent: bool,
    stale_error: bool,
    race: Race,
    line: CommandLine,
    agenda: Agenda<Step>,
    output: VecDeque<ModemOutput>,
}

/// Lost at every reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Settings {
    frequency_hz: u32,
    power_dbm: i8,
    spreading_factor: u8,
    bandwidth_khz: u16,
    coding_rate: u8,
    preamble: u16,
    crc: bool,
    inverted_iq: bool,
    sync: u8,
    watchdog_ms: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Radio {
    Idle,
    Receiving,
    Sending,
}

/// A frame that is told at the moment when reception is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Race {
    None,
    /// The next frame is kept.
    Armed,
    /// Until the host stops reception.
    Kept(String),
}

#[derive(Debug)]
enum Step {
    Answer(String),
    Transmit,
    Booted,
    /// The watchdog, or the end of a reception with a length; of which turn.
    Over(u64),
}

const OK: &str = "ok";
const BUSY: &str = "busy";
const INVALID: &str = "invalid_param";

impl Settings {
    fn new(model: RnModel) -> Settings {
        Settings {
            frequency_hz: match model {
                RnModel::Rn2483 => 868_100_000,
                RnModel::Rn2903 => 923_300_000,
            },
            power_dbm: match model {
                RnModel::Rn2483 => 1,
                RnModel::Rn2903 => 2,
            },
            spreading_factor: 12,
            bandwidth_khz: 125,
            coding_rate: 5,
            preamble: 8,
            crc: true,
            inverted_iq: false,
            sync: 0x34,
            watchdog_ms: 15_000,
        }
    }

    fn tuning(&self) -> LoraTuning {
        LoraTuning {
            frequency_hz: self.frequency_hz,
            spreading_factor: self.spreading_factor,
            bandwidth_hz: u32::from(self.bandwidth_khz) * 1000,
            coding_rate: self.coding_rate,
            preamble: self.preamble,
            // 0x34 reads 0x3444 on radios of the next generation.
            sync: u16::from(self.sync & 0xF0) << 8 | u16::from(self.sync & 0x0F) << 4 | 0x0404,
            inverted_iq: self.inverted_iq,
        }
    }
}

impl Rn {
    /// A modem without power.
    pub fn new(config: RnConfig) -> Rn {
        Rn {
            baud: config.baud,
            settings: Settings::new(config.model),
            config,
            radio: Radio::Idle,
            turn: 0,
            pending: None,
            mac_paused_until: None,
            rssi_dbm: 0,
            snr_db: -128,
            booting: false,
            measuring: false,
            busy_until: Instant::START,
            lose_sent: false,
            stale_error: false,
            race: Race::None,
            line: CommandLine::new(MAX_COMMAND),
            agenda: Agenda::default(),
            output: VecDeque::new(),
        }
    }

    fn version(&self) -> String {
        let model = match self.config.model {
            RnModel::Rn2483 => "RN2483",
            RnModel::Rn2903 => "RN2903",
        };
        let (major, minor, patch) = self.config.firmware;
        format!("{model} {major}.{minor}.{patch} Oct 31 2018 15:06:52")
    }

    fn on_octet(&mut self, now: Instant, octet: u8) {
        if core::mem::take(&mut self.measuring) && octet == 0x55 {
            return;
        }
        if octet != b'\n' || !self.line.ends_with(b'\r') {
            return self.line.push(octet);
        }
        let answer = match self.line.take() {
            Some(line) => match core::str::from_utf8(&line[..line.len() - 1]) {
                Ok(text) => self.execute(now, text),
                Err(_) => Some(INVALID.into()),
            },
            None => Some(INVALID.into()),
        };
        if let Some(answer) = answer {
            let stale = answer == OK && self.radio_was_told() && core::mem::take(&mut self.stale_error);
            if stale {
                self.event("radio_err");
            }
            self.agenda.add(now + ANSWER, Step::Answer(answer));
        }
    }

    /// The last command was for reception or transmission.
    fn radio_was_told(&self) -> bool {
        self.radio != Radio::Idle || self.pending.is_some()
    }

    fn execute(&mut self, now: Instant, command: &str) -> Option<String> {
        let words: Vec<&str> = command.split(' ').collect();
        let answer = match words[..] {
            ["sys", "get", "ver"] => self.version(),
            ["sys", "get", "vdd"] => "3300".into(),
            ["sys", "get", "hweui"] => "0004A30B001A2B3C".into(),
            ["sys", "reset" | "factoryRESET"] => {
                self.restart(now);
                return None;
            }
            ["sys", "set", "pindig", pin, "0" | "1"] if is_pin(pin) => OK.into(),
            ["mac", "pause"] if self.config.has_mac => {
                if now < self.busy_until {
                    "0".into()
                } else {
                    self.mac_paused_until = Some(now + Duration::from_millis(u64::from(LONGEST_PAUSE)));
                    LONGEST_PAUSE.to_string()
                }
            }
            ["mac", "resume"] if self.config.has_mac => {
                self.mac_paused_until = None;
                OK.into()
            }
            ["radio", "set", name, value] => self.set(name, value).map_or(INVALID, |()| OK).into(),
            ["radio", "get", name] => self.get(name).unwrap_or_else(|| INVALID.into()),
            ["radio", "rx", window] => self.receive(now, window).into(),
            ["radio", "rxstop"] => self.stop_reception().into(),
            ["radio", "tx", hex] => self.send(now, hex).into(),
            _ => INVALID.into(),
        };
        Some(answer)
    }

    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        let flag = match value {
            "on" => Some(true),
            "off" => Some(false),
            _ => None,
        };
        let s = &mut self.settings;
        match name {
            "mod" => return (value == "lora").then_some(()),
            "freq" => {
                let frequency_hz: u32 = number(value)?;
                let bands: &[core::ops::RangeInclusive<u32>] = match self.config.model {
                    RnModel::Rn2483 => &[433_050_000..=434_790_000, 863_000_000..=870_000_000],
                    RnModel::Rn2903 => &[902_000_000..=928_000_000],
                };
                s.frequency_hz = bands
                    .iter()
                    .any(|band| band.contains(&frequency_hz))
                    .then_some(frequency_hz)?;
            }
            "pwr" => {
                let range = match self.config.model {
                    RnModel::Rn2483 => -3..=15,
                    RnModel::Rn2903 => 2..=20,
                };
                s.power_dbm = number(value).filter(|power| range.contains(power))?;
            }
            "sf" => {
                let sf = value.strip_prefix("sf").and_then(number)?;
                s.spreading_factor = Some(sf).filter(|sf| (7..=12).contains(sf))?;
            }
            "bw" => s.bandwidth_khz = number(value).filter(|bw| matches!(bw, 125 | 250 | 500))?,
            "cr" => {
                let rate = value.strip_prefix("4/").and_then(number)?;
                s.coding_rate = Some(rate).filter(|rate| (5..=8).contains(rate))?;
            }
            "prlen" => s.preamble = number(value)?,
            "crc" => s.crc = flag?,
            "iqi" => s.inverted_iq = flag?,
            "sync" => {
                let [sync] = from_hex(value)?[..] else { return None };
                s.sync = sync;
            }
            "wdt" => {
                let watchdog = number(value)?;
                if watchdog == 0 && self.config.refuses_wdt_0 {
                    return None;
                }
                s.watchdog_ms = watchdog;
            }
            _ => return None,
        }
        Some(())
    }

    fn get(&self, name: &str) -> Option<String> {
        let on_off = |flag| if flag { "on" } else { "off" };
        let s = &self.settings;
        Some(match name {
            "snr" => self.snr_db.to_string(),
            "rssi" if self.config.firmware >= (1, 0, 5) => self.rssi_dbm.to_string(),
            "mod" => "lora".into(),
            "freq" => s.frequency_hz.to_string(),
            "pwr" => s.power_dbm.to_string(),
            "sf" => format!("sf{}", s.spreading_factor),
            "bw" => s.bandwidth_khz.to_string(),
            "cr" => format!("4/{}", s.coding_rate),
            "prlen" => s.preamble.to_string(),
            "crc" => on_off(s.crc).into(),
            "iqi" => on_off(s.inverted_iq).into(),
            "sync" => format!("{:X}", s.sync),
            "wdt" => s.watchdog_ms.to_string(),
            _ => return None,
        })
    }

    /// The MAC has the radio, or it is said to be busy.
    fn is_taken(&self, now: Instant) -> bool {
        let mac = self.config.has_mac && self.mac_paused_until.is_none_or(|until| until <= now);
        mac || now < self.busy_until
    }

    fn receive(&mut self, now: Instant, window: &str) -> &'static str {
        let Some(symbols) = number::<u16>(window) else {
            return INVALID;
        };
        if self.is_taken(now) || self.radio != Radio::Idle || self.pending.is_some() {
            return BUSY;
        }
        self.radio = Radio::Receiving;
        self.turn += 1;
        let tuning = Tuning::Lora(self.settings.tuning());
        self.request(AirRequest::Listen(Some(tuning)));
        if symbols > 0 {
            let symbol = (1_000_000 << self.settings.spreading_factor)
                / (u64::from(self.settings.bandwidth_khz) * 1000);
            let window = Duration::from_micros(symbol * u64::from(symbols));
            self.agenda.add(now + window, Step::Over(self.turn));
        }
        self.set_watchdog(now);
        OK
    }

    fn stop_reception(&mut self) -> &'static str {
        if self.config.firmware < (1, 0, 5) {
            return INVALID;
        }
        if self.radio == Radio::Sending {
            return BUSY;
        }
        if let Race::Kept(line) = core::mem::replace(&mut self.race, Race::None) {
            self.event(&line);
        }
        self.be_idle();
        OK
    }

    fn send(&mut self, now: Instant, hex: &str) -> &'static str {
        let Some(payload) = from_hex(hex).filter(|payload| payload.len() <= 255) else {
            return INVALID;
        };
        if self.is_taken(now) || self.radio != Radio::Idle || self.pending.is_some() {
            return BUSY;
        }
        self.pending = Some(payload);
        self.agenda.add(now + ANSWER + SEND, Step::Transmit);
        OK
    }

    fn transmit(&mut self, now: Instant) {
        let Some(payload) = self.pending.take() else {
            return;
        };
        self.radio = Radio::Sending;
        self.turn += 1;
        let tuning = Tuning::Lora(self.settings.tuning());
        self.request(AirRequest::Send { tuning, payload });
        self.set_watchdog(now);
    }

    fn set_watchdog(&mut self, now: Instant) {
        if self.settings.watchdog_ms > 0 {
            let time = Duration::from_millis(self.settings.watchdog_ms.into());
            self.agenda.add(now + time, Step::Over(self.turn));
        }
    }

    fn be_idle(&mut self) {
        self.radio = Radio::Idle;
        self.turn += 1;
        self.request(AirRequest::Listen(None));
    }

    fn on_air(&mut self, event: AirEvent) {
        match event {
            AirEvent::Frame {
                payload,
                rssi_dbm,
                snr_db,
            } if self.radio == Radio::Receiving => {
                (self.rssi_dbm, self.snr_db) = (rssi_dbm, snr_db);
                let line = format!("radio_rx  {}", to_hex(&payload));
                if self.race == Race::Armed {
                    // The receiver has stopped, but the host has not been told.
                    self.race = Race::Kept(line);
                    self.request(AirRequest::Listen(None));
                    return;
                }
                // One frame, and reception is over.
                self.be_idle();
                self.event(&line);
            }
            AirEvent::Damaged { rssi_dbm, snr_db } if self.radio == Radio::Receiving => {
                (self.rssi_dbm, self.snr_db) = (rssi_dbm, snr_db);
                self.be_idle();
                self.event("radio_err");
            }
            AirEvent::Sent if self.radio == Radio::Sending => {
                self.be_idle();
                if !core::mem::take(&mut self.lose_sent) {
                    self.event("radio_tx_ok");
                }
            }
            AirEvent::Frame { .. } | AirEvent::Damaged { .. } | AirEvent::Sent | AirEvent::Sensed { .. } => {}
        }
    }

    fn restart(&mut self, now: Instant) {
        self.booting = true;
        self.settings = Settings::new(self.config.model);
        self.mac_paused_until = None;
        self.pending = None;
        self.race = Race::None;
        self.measuring = false;
        self.line.take();
        self.agenda.clear();
        self.request(AirRequest::Abort);
        self.be_idle();
        self.agenda.add(now + BOOT, Step::Booted);
    }

    fn request(&mut self, request: AirRequest) {
        self.output.push_back(ModemOutput::Air(request));
    }

    fn event(&mut self, line: &str) {
        let octets = format!("{line}\r\n").into_bytes();
        self.output.push_back(ModemOutput::Event(octets));
    }
}

/// GPIO0 to GPIO13 and the UART's own.
fn is_pin(name: &str) -> bool {
    let gpio = name.strip_prefix("GPIO").and_then(number::<u8>);
    gpio.is_some_and(|pin| pin <= 13) || name == "UART_CTS" || name == "UART_RTS"
}

impl SimModem for Rn {
    fn baud(&self) -> u32 {
        self.baud
    }

    fn power_on(&mut self, now: Instant) {
        self.baud = self.config.baud;
        self.restart(now);
    }

    fn handle_octets(&mut self, now: Instant, octets: &[u8]) {
        for octet in octets {
            if !self.booting {
                self.on_octet(now, *octet);
            }
        }
    }

    fn handle_break(&mut self, _now: Instant, host_baud: u32) {
        if !self.booting {
            self.baud = host_baud;
            self.measuring = true;
            self.line.take();
        }
    }

    fn handle_air(&mut self, _now: Instant, event: AirEvent) {
        if !self.booting {
            self.on_air(event);
        }
    }

    fn set_busy(&mut self, until: Instant) {
        self.busy_until = until;
    }

    fn provoke(&mut self, _now: Instant, mishap: Mishap) {
        match mishap {
            Mishap::LoseSent => self.lose_sent = true,
            Mishap::StaleError => self.stale_error = true,
            Mishap::RaceStop => self.race = Race::Armed,
            Mishap::BadFrame => {
                if self.radio == Radio::Receiving {
                    self.be_idle();
                    self.event("radio_err");
                }
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, step)) = self.agenda.pop_due(now) {
            match step {
                Step::Answer(text) => {
                    let octets = format!("{text}\r\n").into_bytes();
                    self.output.push_back(ModemOutput::Reply(octets));
                }
                Step::Transmit => self.transmit(now),
                Step::Booted => {
                    self.booting = false;
                    let version = self.version();
                    self.event(&version);
                }
                Step::Over(turn) => {
                    if turn == self.turn && self.radio != Radio::Idle {
                        self.request(AirRequest::Abort);
                        self.be_idle();
                        self.event("radio_err");
                    }
                }
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.agenda.next()
    }

    fn poll_output(&mut self) -> Option<ModemOutput> {
        self.output.pop_front()
    }
}
