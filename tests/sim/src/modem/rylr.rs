//! REYAX RYLR998 and RYLR498, RYLR896 and RYLR406.

use core::time::Duration;
use std::collections::VecDeque;

use gateway_core::time::Instant;

use super::text::{CommandLine, number};
use super::{Mishap, ModemOutput, SimModem};
use crate::agenda::Agenda;
use crate::ether::{AirEvent, AirRequest, LoraTuning, Tuning};

/// Characters of a command: 240 octets of data and what stands before them.
const MAX_COMMAND: usize = 280;
/// Octets of data in a frame.
const MAX_DATA: usize = 240;
/// Octets that the module puts before the data on the air.
const HEADER: usize = 8;
/// From the end of a command to its answer: taste.
const ANSWER: Duration = Duration::from_millis(4);
/// From a reset to `+READY`.
const BOOT: Duration = Duration::from_millis(300);
/// `AT+PARAMETER`: by index, in Hz.
const BANDWIDTHS: [u32; 10] = [
    7_800, 10_400, 15_600, 20_800, 31_250, 41_700, 62_500, 125_000, 250_000, 500_000,
];

/// What kind of RYLR it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RylrConfig {
    /// Which series.
    pub model: RylrModel,
    /// Firmware differs: `+OK` to a frame comes when it has been sent, not when it was taken.
    pub ok_when_sent: bool,
    /// Its speed, 115,200.
    pub baud: u32,
}

/// Which series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RylrModel {
    /// RYLR998 and RYLR498.
    Rylr998,
    /// RYLR896 and RYLR406.
    Rylr896,
}

impl RylrModel {
    /// The sync word of a network: not documented; different for each, and for the two series, which do not hear each
    /// other.
    pub fn sync(self, network: u8) -> u16 {
        let series = match self {
            RylrModel::Rylr998 => 0x5000,
            RylrModel::Rylr896 => 0x6000,
        };
        series + u16::from(network)
    }
}

impl RylrConfig {
    /// One as sold, which says `+OK` when it takes a frame.
    pub fn new(model: RylrModel) -> RylrConfig {
        RylrConfig {
            model,
            ok_when_sent: false,
            baud: 115_200,
        }
    }
}

/// A RYLR.
#[derive(Debug)]
pub struct Rylr {
    config: RylrConfig,
    baud: u32,
    flash: Settings,
    settings: Settings,
    asleep: bool,
    sending: bool,
    pending: Option<Vec<u8>>,
    booting: bool,
    busy_until: Instant,
    lose_sent: bool,
    line: CommandLine,
    agenda: Agenda<Step>,
    output: VecDeque<ModemOutput>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Settings {
    address: u16,
    network: u8,
    band_hz: u32,
    spreading_factor: u8,
    /// Index in [`BANDWIDTHS`].
    bandwidth: u8,
    /// 1 to 4.
    coding_rate: u8,
    preamble: u8,
    power_dbm: u8,
    /// Empty for none.
    password: String,
}

#[derive(Debug)]
enum Step {
    Answer(String),
    Transmit,
    Restart,
    Booted,
    Baud(u32),
}

/// `+ERR=`, with the numbers of its guide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Error {
    NoLineEnd = 1,
    NotAt = 2,
    Unknown = 4,
    Length = 5,
    Crc = 12,
    TooMuch = 13,
    Failure = 15,
    StillSending = 17,
    Preamble = 18,
}

impl Settings {
    fn new(model: RylrModel) -> Settings {
        let (network, spreading_factor, preamble, power_dbm) = match model {
            RylrModel::Rylr998 => (18, 9, 12, 22),
            RylrModel::Rylr896 => (0, 12, 4, 15),
        };
        Settings {
            address: 0,
            network,
            band_hz: 915_000_000,
            spreading_factor,
            bandwidth: 7,
            coding_rate: 1,
            preamble,
            power_dbm,
            password: String::new(),
        }
    }

    fn tuning(&self, model: RylrModel) -> Tuning {
        Tuning::Lora(LoraTuning {
            frequency_hz: self.band_hz,
            spreading_factor: self.spreading_factor,
            bandwidth_hz: BANDWIDTHS[usize::from(self.bandwidth)],
            coding_rate: self.coding_rate + 4,
            preamble: self.preamble.into(),
            sync: model.sync(self.network),
            inverted_iq: false,
        })
    }

    /// What stands before the data on the air: to, from, and what tells passwords apart. The module's own is secret.
    fn header(&self, to: u16) -> [u8; HEADER] {
        let [t1, t0] = to.to_be_bytes();
        let [f1, f0] = self.address.to_be_bytes();
        let key = self
            .password
            .bytes()
            .fold(0_u32, |key, octet| key.rotate_left(5) ^ u32::from(octet));
        let [k3, k2, k1, k0] = key.to_be_bytes();
        [t1, t0, f1, f0, k3, k2, k1, k0]
    }
}

impl Rylr {
    /// A module as it left the shop.
    pub fn new(config: RylrConfig) -> Rylr {
        let settings = Settings::new(config.model);
        Rylr {
            baud: config.baud,
            flash: settings.clone(),
            settings,
            config,
            asleep: false,
            sending: false,
            pending: None,
            booting: false,
            busy_until: Instant::START,
            lose_sent: false,
            line: CommandLine::new(MAX_COMMAND),
            agenda: Agenda::default(),
            output: VecDeque::new(),
        }
    }

    fn on_octet(&mut self, now: Instant, octet: u8) {
        if octet != b'\n' {
            return self.line.push(octet);
        }
        let ended_well = self.line.ends_with(b'\r');
        let answer = match self.line.take() {
            Some(line) if ended_well => self.execute(now, &line[..line.len() - 1]),
            Some(_) => Err(Error::NoLineEnd),
            None => Err(Error::TooMuch),
        };
        match answer {
            Ok(text) if text.is_empty() => {}
            Ok(text) => self.agenda.add(now + ANSWER, Step::Answer(text)),
            Err(error) => {
                let text = format!("+ERR={}", error as u8);
                self.agenda.add(now + ANSWER, Step::Answer(text));
            }
        }
    }

    /// The answer, empty if there is none yet.
    fn execute(&mut self, now: Instant, line: &[u8]) -> Result<String, Error> {
        // Data may be anything; the rest is text.
        if let Some(rest) = line.strip_prefix(b"AT+SEND=") {
            return self.send(now, rest);
        }
        let text = String::from_utf8_lossy(line);
        let rest = text.strip_prefix("AT").ok_or(Error::NotAt)?;
        match rest {
            "" => return Ok("+OK".into()),
            "+RESET" => {
                self.agenda.add(now + ANSWER * 2, Step::Restart);
                return Ok("+RESET".into());
            }
            "+FACTORY" => {
                self.flash = Settings::new(self.config.model);
                self.settings = self.flash.clone();
                self.listen();
                return Ok("+FACTORY".into());
            }
            _ => {}
        }
        let command = rest.strip_prefix('+').ok_or(Error::Unknown)?;
        if let Some(name) = command.strip_suffix('?') {
            return self.query(name);
        }
        let (name, value) = command.split_once('=').ok_or(Error::Unknown)?;
        if now < self.busy_until {
            return Err(Error::Failure);
        }
        self.set(now, name, value)
    }

    fn query(&self, name: &str) -> Result<String, Error> {
        let s = &self.settings;
        let value = match name {
            "VER" => match self.config.model {
                RylrModel::Rylr998 => "RYLR998_REYAX_V1.2.2".into(),
                RylrModel::Rylr896 => "RYLR89C_V1.2.7".into(),
            },
            "UID" => "104737333437353600170029".into(),
            "MODE" => u8::from(self.asleep).to_string(),
            "IPR" => self.baud.to_string(),
            "ADDRESS" => s.address.to_string(),
            "NETWORKID" => s.network.to_string(),
            "BAND" => s.band_hz.to_string(),
            "PARAMETER" => {
                let (sf, bw, cr, preamble) = (s.spreading_factor, s.bandwidth, s.coding_rate, s.preamble);
                format!("{sf},{bw},{cr},{preamble}")
            }
            "CRFOP" => s.power_dbm.to_string(),
            "CPIN" if s.password.is_empty() => "No Password!".into(),
            "CPIN" => s.password.clone(),
            _ => return Err(Error::Unknown),
        };
        Ok(format!("+{name}={value}"))
    }

    fn set(&mut self, now: Instant, name: &str, value: &str) -> Result<String, Error> {
        let is_998 = self.config.model == RylrModel::Rylr998;
        match name {
            "MODE" => {
                self.asleep = match value {
                    "0" => false,
                    "1" => true,
                    _ => return Err(Error::Failure),
                };
            }
            "ADDRESS" => {
                self.settings.address = number(value).ok_or(Error::Failure)?;
                self.flash.address = self.settings.address;
            }
            "NETWORKID" => {
                let right = |network: &u8| match is_998 {
                    true => matches!(network, 3..=15 | 18),
                    false => *network <= 16,
                };
                self.settings.network = number(value).filter(right).ok_or(Error::Failure)?;
                self.flash.network = self.settings.network;
            }
            "BAND" => {
                let (value, store) = match value.strip_suffix(",M") {
                    Some(value) if is_998 => (value, true),
                    Some(_) => return Err(Error::Failure),
                    None => (value, !is_998),
                };
                let right = |band: &u32| (410_000_000..=1_020_000_000).contains(band);
                self.settings.band_hz = number(value).filter(right).ok_or(Error::Failure)?;
                if store {
                    self.flash.band_hz = self.settings.band_hz;
                }
            }
            "PARAMETER" => self.set_parameter(value)?,
            "CRFOP" => {
                let most = if is_998 { 22 } else { 15 };
                let right = |power: &u8| *power <= most;
                self.settings.power_dbm = number(value).filter(right).ok_or(Error::Failure)?;
                self.flash.power_dbm = self.settings.power_dbm;
            }
            "CPIN" => {
                let digits = if is_998 { 8 } else { 32 };
                if value.len() != digits || !value.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(Error::Failure);
                }
                self.settings.password = value.into();
                self.flash.password = value.into();
            }
            "IPR" => {
                let rates = [300, 1200, 4800, 9600, 19_200, 28_800, 38_400, 57_600, 115_200];
                let rate = number(value).filter(|rate| rates.contains(rate));
                let rate = rate.ok_or(Error::Failure)?;
                self.agenda.add(now + ANSWER * 2, Step::Baud(rate));
                return Ok(format!("+IPR={rate}"));
            }
            _ => return Err(Error::Unknown),
        }
        self.listen();
        Ok("+OK".into())
    }

    fn set_parameter(&mut self, value: &str) -> Result<(), Error> {
        let fields: Option<Vec<u8>> = value.split(',').map(number).collect();
        let Some([sf, bandwidth, coding_rate, preamble]) = fields.as_deref() else {
            return Err(Error::Failure);
        };
        let right = (1..=4).contains(coding_rate)
            && match (self.config.model, bandwidth) {
                // The lowest spreading factors of the SX126x, and the highest that a bandwidth bears.
                (RylrModel::Rylr998, 7) => (7..=9).contains(sf),
                (RylrModel::Rylr998, 8) => (7..=10).contains(sf),
                (RylrModel::Rylr998, 9) => (7..=11).contains(sf),
                (RylrModel::Rylr998, _) => false,
                (RylrModel::Rylr896, 0..=9) => (7..=12).contains(sf),
                (RylrModel::Rylr896, _) => false,
            };
        if !right {
            return Err(Error::Failure);
        }
        let preambles = match (self.config.model, self.settings.network) {
            (RylrModel::Rylr998, 18) => 4..=24,
            (RylrModel::Rylr998, _) => 12..=12,
            (RylrModel::Rylr896, _) => 4..=7,
        };
        if !preambles.contains(preamble) {
            return Err(Error::Preamble);
        }
        let settings = &mut self.settings;
        settings.spreading_factor = *sf;
        settings.bandwidth = *bandwidth;
        settings.coding_rate = *coding_rate;
        settings.preamble = *preamble;
        if self.config.model == RylrModel::Rylr998 {
            let flash = &mut self.flash;
            flash.spreading_factor = *sf;
            flash.bandwidth = *bandwidth;
            flash.coding_rate = *coding_rate;
            flash.preamble = *preamble;
        }
        Ok(())
    }

    fn send(&mut self, now: Instant, rest: &[u8]) -> Result<String, Error> {
        let mut fields = rest.splitn(3, |octet| *octet == b',');
        let mut text = || fields.next().and_then(|field| core::str::from_utf8(field).ok());
        let to: u16 = text().and_then(number).ok_or(Error::Failure)?;
        let len: usize = text().and_then(number).ok_or(Error::Length)?;
        let data = fields.next().unwrap_or_default();
        if len > MAX_DATA {
            return Err(Error::TooMuch);
        }
        // Data with CR LF in it ends there.
        if data.len() != len {
            return Err(Error::Length);
        }
        if self.sending || self.pending.is_some() || now < self.busy_until {
            return Err(Error::StillSending);
        }
        if self.asleep {
            return Err(Error::Failure);
        }
        let mut payload = self.settings.header(to).to_vec();
        payload.extend_from_slice(data);
        self.pending = Some(payload);
        self.agenda.add(now + ANSWER, Step::Transmit);
        Ok(if self.config.ok_when_sent { "" } else { "+OK" }.into())
    }

    fn on_frame(&mut self, payload: &[u8], rssi_dbm: i16, snr_db: i8) {
        let Some((header, data)) = payload.split_at_checked(HEADER) else {
            return;
        };
        let [t1, t0, f1, f0, key @ ..] = header else {
            return;
        };
        let to = u16::from_be_bytes([*t1, *t0]);
        let for_us = to == 0 || to == self.settings.address;
        if !for_us || *key != self.settings.header(0)[4..] {
            return;
        }
        let from = u16::from_be_bytes([*f1, *f0]);
        let mut line = format!("+RCV={from},{},", data.len()).into_bytes();
        line.extend_from_slice(data);
        line.extend_from_slice(format!(",{rssi_dbm},{snr_db}\r\n").as_bytes());
        self.output.push_back(ModemOutput::Event(line));
    }

    fn on_sent(&mut self) {
        self.sending = false;
        if self.config.ok_when_sent && !core::mem::take(&mut self.lose_sent) {
            self.output.push_back(ModemOutput::Reply(b"+OK\r\n".to_vec()));
        }
    }

    fn listen(&mut self) {
        let tuning = (!self.asleep).then(|| self.settings.tuning(self.config.model));
        self.request(AirRequest::Listen(tuning));
    }

    fn restart(&mut self, now: Instant) {
        self.booting = true;
        self.settings = self.flash.clone();
        self.asleep = false;
        self.sending = false;
        self.pending = None;
        self.line.take();
        self.agenda.clear();
        self.request(AirRequest::Abort);
        self.request(AirRequest::Listen(None));
        self.agenda.add(now + BOOT, Step::Booted);
    }

    fn request(&mut self, request: AirRequest) {
        self.output.push_back(ModemOutput::Air(request));
    }
}

impl SimModem for Rylr {
    fn baud(&self) -> u32 {
        self.baud
    }

    fn power_on(&mut self, now: Instant) {
        self.restart(now);
    }

    fn handle_octets(&mut self, now: Instant, octets: &[u8]) {
        for octet in octets {
            if !self.booting {
                self.on_octet(now, *octet);
            }
        }
    }

    fn handle_air(&mut self, _now: Instant, event: AirEvent) {
        match event {
            _ if self.booting => {}
            AirEvent::Frame {
                payload,
                rssi_dbm,
                snr_db,
            } => self.on_frame(&payload, rssi_dbm, snr_db),
            AirEvent::Damaged { .. } => {
                let line = format!("+ERR={}\r\n", Error::Crc as u8).into_bytes();
                self.output.push_back(ModemOutput::Event(line));
            }
            AirEvent::Sent => self.on_sent(),
            AirEvent::Sensed { .. } => {}
        }
    }

    fn set_busy(&mut self, until: Instant) {
        self.busy_until = until;
    }

    fn provoke(&mut self, _now: Instant, mishap: Mishap) {
        match mishap {
            Mishap::LoseSent => self.lose_sent = true,
            Mishap::BadFrame => {
                let line = format!("+ERR={}\r\n", Error::Crc as u8).into_bytes();
                self.output.push_back(ModemOutput::Event(line));
            }
            Mishap::StaleError | Mishap::RaceStop => {}
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, step)) = self.agenda.pop_due(now) {
            match step {
                Step::Answer(text) => {
                    let octets = format!("{text}\r\n").into_bytes();
                    self.output.push_back(ModemOutput::Reply(octets));
                }
                Step::Transmit => {
                    if let Some(payload) = self.pending.take() {
                        self.sending = true;
                        let tuning = self.settings.tuning(self.config.model);
                        self.request(AirRequest::Send { tuning, payload });
                    }
                }
                Step::Restart => self.restart(now),
                Step::Booted => {
                    self.booting = false;
                    self.output.push_back(ModemOutput::Event(b"+READY\r\n".to_vec()));
                    self.listen();
                }
                Step::Baud(rate) => self.baud = rate,
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
