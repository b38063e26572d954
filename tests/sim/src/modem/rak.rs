//! RAK3172 and its kin with RUI3 firmware or the firmware before it, in P2P mode.
//!
//! [`rak4270`] is the older family, whose commands are others.

pub mod rak4270;

use core::time::Duration;
use std::collections::VecDeque;

use gateway_core::time::Instant;

use super::text::{CommandLine, from_hex, number, to_hex};
use super::{Mishap, ModemOutput, SimModem};
use crate::agenda::Agenda;
use crate::ether::{AirEvent, AirRequest, LoraTuning, Tuning};

/// Characters of a command (RUI3).
const MAX_COMMAND: usize = 2047;
/// Octets of a frame (RUI3).
const MAX_PAYLOAD: usize = 239;
/// From the end of a command to its answer: taste, within the 100 ms that the manual grants.
const ANSWER: Duration = Duration::from_millis(3);
/// From PSEND to the first symbol.
const SEND: Duration = Duration::from_millis(12);
/// From a reset to the banner.
const BOOT: Duration = Duration::from_millis(900);
/// A board whose USB is in the modem leaves the bus for so long.
const OFF_THE_BUS: Duration = Duration::from_millis(1500);

/// `AT+PRECV=`: until one frame arrived.
const UNTIL_ONE: u16 = 65535;
/// `AT+PRECV=`: for ever, and nothing can be sent.
const DEAF_TO_SEND: u16 = 65534;
/// `AT+PRECV=`: for ever, and what is sent interrupts it.
const CONTINUOUS: u16 = 65533;

/// What kind of RAK3172 it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rak3172Config {
    /// Its firmware.
    pub firmware: Firmware,
    /// Its USB is its own: each start takes it off the bus. Otherwise a converter stands in front.
    pub own_usb: bool,
    /// It comes as from the factory, in LoRaWAN mode.
    pub factory: bool,
    /// Its speed; 115,200 with RUI3, 9,600 with firmware 1.0.4.
    pub baud: u32,
}

/// Firmware of a RAK3172.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Firmware {
    /// RUI3 5.0.0 as its source has it: status lines without an empty one before, bandwidth by index, P2P parameters that
    /// need not be stored.
    Rui5,
    /// RUI3 as its manual has it: an empty line before each status, bandwidth in kHz, six P2P parameters.
    Rui3Manual,
    /// The firmware before RUI3: bare values, frames on two lines, no reception that allows to send.
    V1_0_4,
}

impl Firmware {
    fn version(self) -> &'static str {
        match self {
            Firmware::Rui5 => "RUI_5.0.0_RAK3172",
            Firmware::Rui3Manual => "RUI_4.0.6_RAK3172-E",
            Firmware::V1_0_4 => "V1.0.4",
        }
    }
}

impl Rak3172Config {
    /// A modem with this firmware on a converter, in P2P mode.
    pub fn new(firmware: Firmware) -> Rak3172Config {
        Rak3172Config {
            firmware,
            own_usb: false,
            factory: false,
            baud: if firmware == Firmware::V1_0_4 {
                9_600
            } else {
                115_200
            },
        }
    }
}

/// A RAK3172.
#[derive(Debug)]
pub struct Rak3172 {
    config: Rak3172Config,
    /// What survives a reset.
    flash: Settings,
    settings: Settings,
    echo: bool,
    line: CommandLine,
    escape: bool,
    booting: bool,
    reception: Option<Reception>,
    /// Sending until the air says that it is done; the frame itself while the answer is on its way.
    sending: bool,
    pending: Option<Vec<u8>>,
    busy_until: Instant,
    lose_sent: bool,
    agenda: Agenda<Step>,
    output: VecDeque<ModemOutput>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Settings {
    /// 0 P2P, 1 LoRaWAN, 2 FSK.
    mode: u8,
    frequency_hz: u32,
    spreading_factor: u8,
    /// Index in [`BANDWIDTHS`].
    bandwidth: usize,
    /// 0 to 3.
    coding_rate: u8,
    preamble: u16,
    power_dbm: u8,
    inverted_iq: bool,
    sync: u16,
    cad: bool,
}

/// By index, with the name in kHz that commands take.
const BANDWIDTHS: [(u32, &str); 10] = [
    (125_000, "125"),
    (250_000, "250"),
    (500_000, "500"),
    (7_800, "7.8"),
    (10_400, "10.4"),
    (15_630, "15.63"),
    (20_830, "20.83"),
    (31_250, "31.25"),
    (41_670, "41.67"),
    (62_500, "62.5"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reception {
    window: u16,
    until: Option<Instant>,
}

#[derive(Debug)]
enum Step {
    /// Text that answers a command.
    Answer(String),
    /// The frame that was accepted goes out.
    Transmit,
    /// It starts again, off the bus for a while if its USB is its own.
    Restart,
    Booted,
    WindowOver(Instant),
}

/// What a command comes to: text before the status line, and the status line.
type Answer = Result<String, Status>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Error,
    Param,
    Busy,
    /// Told beforehand that reception is on.
    Receiving(&'static str),
    Overflow,
    ModeNoSupport,
    NotFound,
    /// Nothing is said, or not yet.
    Silent,
}

impl Settings {
    fn factory(firmware: Firmware, mode: u8) -> Settings {
        Settings {
            mode,
            frequency_hz: 868_000_000,
            spreading_factor: 7,
            bandwidth: 0,
            coding_rate: 0,
            preamble: 8,
            power_dbm: 14,
            inverted_iq: false,
            // Versions differ: who does not set it may hear nobody.
            sync: if firmware == Firmware::Rui5 {
                0x1424
            } else {
                0x3444
            },
            cad: false,
        }
    }

    fn tuning(&self) -> Tuning {
        Tuning::Lora(LoraTuning {
            frequency_hz: self.frequency_hz,
            spreading_factor: self.spreading_factor,
            bandwidth_hz: BANDWIDTHS[self.bandwidth].0,
            coding_rate: self.coding_rate + 5,
            preamble: self.preamble,
            sync: self.sync,
            inverted_iq: self.inverted_iq,
        })
    }
}

impl Rak3172 {
    /// A modem as it left the shop, or the hands of who set it up.
    pub fn new(config: Rak3172Config) -> Rak3172 {
        let flash = Settings::factory(config.firmware, u8::from(config.factory));
        Rak3172 {
            config,
            flash,
            settings: flash,
            echo: false,
            line: CommandLine::new(MAX_COMMAND),
            escape: false,
            booting: false,
            reception: None,
            sending: false,
            pending: None,
            busy_until: Instant::START,
            lose_sent: false,
            agenda: Agenda::default(),
            output: VecDeque::new(),
        }
    }

    fn on_octet(&mut self, now: Instant, octet: u8) {
        if self.echo {
            self.output.push_back(ModemOutput::Reply(vec![octet]));
        }
        match octet {
            // ESC and two more: a key of a terminal.
            0x1B => self.escape = true,
            b'[' if self.escape => {}
            _ if self.escape => self.escape = false,
            0x08 | 0x7F => self.line.erase(),
            b'\r' | b'\n' => self.on_command(now),
            _ => self.line.push(octet),
        }
    }

    fn on_command(&mut self, now: Instant) {
        let Some(line) = self.line.take() else {
            return self.answer(now, Err(Status::Overflow));
        };
        if line.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(&line).to_ascii_uppercase();
        let answer = self.execute(now, &text);
        self.answer(now, answer);
    }

    fn answer(&mut self, now: Instant, answer: Answer) {
        let before = match &answer {
            Ok(text) => text.clone(),
            Err(Status::Receiving(text)) => format!("{text}\r\n"),
            Err(_) => String::new(),
        };
        let status = match answer {
            Ok(_) => "OK",
            Err(Status::Error) => "AT_ERROR",
            Err(Status::Param) => "AT_PARAM_ERROR",
            Err(Status::Busy | Status::Receiving(_)) => "AT_BUSY_ERROR",
            Err(Status::Overflow) => "AT_TEST_PARAM_OVERFLOW",
            Err(Status::ModeNoSupport) => "AT_MODE_NO_SUPPORT",
            Err(Status::NotFound) => "AT_COMMAND_NOT_FOUND",
            Err(Status::Silent) => return,
        };
        let empty_line = match self.config.firmware {
            Firmware::Rui5 => "",
            Firmware::Rui3Manual | Firmware::V1_0_4 => "\r\n",
        };
        let echoed = if self.echo { "\n\r" } else { "" };
        let text = format!("{echoed}{before}{empty_line}{status}\r\n");
        self.agenda.add(now + ANSWER, Step::Answer(text));
    }

    fn execute(&mut self, now: Instant, command: &str) -> Answer {
        let Some(rest) = command.strip_prefix("AT") else {
            return Err(Status::NotFound);
        };
        match rest {
            "" => return Ok(String::new()),
            "E" => {
                self.echo = !self.echo;
                return Ok(String::new());
            }
            "Z" => {
                self.agenda.add(now + ANSWER, Step::Restart);
                return Err(Status::Silent);
            }
            _ => {}
        }
        let Some((name, value)) = rest.strip_prefix('+').and_then(|rest| rest.split_once('=')) else {
            return Err(Status::NotFound);
        };
        if value == "?" {
            return self.query(name);
        }
        self.set(now, name, value)
    }

    fn query(&self, name: &str) -> Answer {
        let s = &self.settings;
        let value = match name {
            "VER" => self.config.firmware.version().into(),
            "NWM" => s.mode.to_string(),
            "BAUD" => self.config.baud.to_string(),
            "PRECV" => match self.reception {
                Some(_) => "P2P_RX_ON".into(),
                None => "P2P_RX_OFF".into(),
            },
            "P2P" => {
                let bandwidth = match self.config.firmware {
                    Firmware::Rui5 => s.bandwidth.to_string(),
                    Firmware::Rui3Manual | Firmware::V1_0_4 => BANDWIDTHS[s.bandwidth].1.into(),
                };
                let (f, sf, cr) = (s.frequency_hz, s.spreading_factor, s.coding_rate);
                format!("{f}:{sf}:{bandwidth}:{cr}:{}:{}", s.preamble, s.power_dbm)
            }
            "IQINVER" => u8::from(s.inverted_iq).to_string(),
            "SYNCWORD" => format!("{:04X}", s.sync),
            "CAD" => u8::from(s.cad).to_string(),
            "ENCRY" => "0".into(),
            _ => return Err(Status::NotFound),
        };
        if name != "VER" && name != "NWM" && name != "BAUD" && s.mode != 0 {
            return Err(Status::ModeNoSupport);
        }
        Ok(match self.config.firmware {
            Firmware::Rui5 | Firmware::Rui3Manual => format!("AT+{name}={value}\r\n"),
            Firmware::V1_0_4 => format!("{value}\r\n"),
        })
    }

    fn set(&mut self, now: Instant, name: &str, value: &str) -> Answer {
        if !matches!(
            name,
            "NWM" | "P2P" | "PSEND" | "PRECV" | "CAD" | "IQINVER" | "SYNCWORD" | "ENCRY"
        ) {
            return Err(Status::NotFound);
        }
        if name != "NWM" && self.settings.mode != 0 {
            return Err(Status::ModeNoSupport);
        }
        if now < self.busy_until {
            return Err(Status::Busy);
        }
        match name {
            "PSEND" => return self.send(now, value),
            "PRECV" => return self.receive(now, value),
            _ if self.reception.is_some() => {
                return Err(Status::Receiving(
                    "P2P_RX_ON already, please disable P2P RX before setting.",
                ));
            }
            _ => {}
        }
        let flag = |value: &str| match value {
            "0" => Ok(false),
            "1" => Ok(true),
            _ => Err(Status::Param),
        };
        match name {
            "NWM" => {
                let mode = number(value).filter(|mode| *mode <= 2).ok_or(Status::Param)?;
                self.settings.mode = mode;
                self.flash.mode = mode;
                // Also where it is the mode that it is in.
                self.agenda.add(now + ANSWER * 3, Step::Restart);
            }
            "P2P" => self.set_p2p(value)?,
            "CAD" => self.settings.cad = flag(value)?,
            "IQINVER" => {
                self.settings.inverted_iq = flag(value)?;
                self.flash.inverted_iq = self.settings.inverted_iq;
            }
            "SYNCWORD" => {
                let four = value.len() == 4 && value.bytes().all(|b| b.is_ascii_hexdigit());
                let sync = u16::from_str_radix(value, 16).map_err(|_| Status::Param)?;
                if !four {
                    return Err(Status::Param);
                }
                self.settings.sync = sync;
                self.flash.sync = sync;
            }
            // Its encryption pads to 16 octets and proves nothing: not simulated, and nobody should use it.
            "ENCRY" => {
                if flag(value)? {
                    return Err(Status::Error);
                }
            }
            _ => return Err(Status::NotFound),
        }
        Ok(String::new())
    }

    fn set_p2p(&mut self, value: &str) -> Result<(), Status> {
        let fields: Vec<&str> = value.split(':').collect();
        let stored = match (fields.len(), self.config.firmware) {
            (6, _) => true,
            (7, Firmware::Rui5) => match fields[6] {
                "0" => true,
                "1" => false,
                _ => return Err(Status::Param),
            },
            _ => return Err(Status::Param),
        };
        let in_range = |text: &str, low: u32, high: u32| {
            number::<u32>(text)
                .filter(|value| (low..=high).contains(value))
                .ok_or(Status::Param)
        };
        let bandwidth = BANDWIDTHS
            .iter()
            .position(|(_, name)| *name == fields[2])
            .or_else(|| number(fields[2]).filter(|index| *index < BANDWIDTHS.len()))
            .ok_or(Status::Param)?;
        let settings = Settings {
            frequency_hz: in_range(fields[0], 150_000_000, 960_000_000)?,
            spreading_factor: in_range(fields[1], 5, 12)? as u8,
            bandwidth,
            coding_rate: in_range(fields[3], 0, 3)? as u8,
            preamble: in_range(fields[4], 5, 65535)? as u16,
            power_dbm: in_range(fields[5], 5, 22)? as u8,
            ..self.settings
        };
        self.settings = settings;
        if stored {
            self.flash = settings;
        }
        Ok(())
    }

    fn send(&mut self, now: Instant, value: &str) -> Answer {
        let payload = from_hex(value).filter(|payload| (1..=MAX_PAYLOAD).contains(&payload.len()));
        let payload = payload.ok_or(Status::Param)?;
        let continuous = self
            .reception
            .is_some_and(|reception| reception.window == CONTINUOUS);
        let sending = self.sending || self.pending.is_some();
        if !continuous && (sending || self.reception.is_some()) {
            return Err(Status::Busy);
        }
        // In continuous reception it does not look whether it is sending: what is on the air is broken off.
        if sending {
            self.note("PSEND broke off the frame on the air");
        }
        self.pending = Some(payload);
        if self.settings.cad {
            // Standby for the look at the channel: if that is taken, reception does not come back by itself.
            self.request(AirRequest::Listen(None));
            self.request(AirRequest::Sense(self.settings.tuning()));
            return Err(Status::Silent);
        }
        self.agenda.add(now + SEND, Step::Transmit);
        Ok(String::new())
    }

    fn on_sensed(&mut self, now: Instant, busy: bool) {
        if busy {
            self.pending = None;
            return self.answer(now, Err(Status::Busy));
        }
        self.answer(now, Ok(String::new()));
        self.agenda.add(now + SEND, Step::Transmit);
    }

    fn receive(&mut self, now: Instant, value: &str) -> Answer {
        let window: u16 = number(value).ok_or(Status::Param)?;
        if window == CONTINUOUS && self.config.firmware == Firmware::V1_0_4 {
            return Err(Status::Param);
        }
        if window == 0 {
            self.stop_reception();
            return Ok(String::new());
        }
        if self.reception.is_some() {
            return Err(Status::Receiving("P2P_RX_ON already"));
        }
        if self.sending {
            return Err(Status::Busy);
        }
        let until = match window {
            UNTIL_ONE | DEAF_TO_SEND | CONTINUOUS => None,
            1..15 => return Err(Status::Param),
            millis => Some(now + Duration::from_millis(millis.into())),
        };
        self.reception = Some(Reception { window, until });
        if let Some(until) = until {
            self.agenda.add(until, Step::WindowOver(until));
        }
        self.request(AirRequest::Listen(Some(self.settings.tuning())));
        Ok(String::new())
    }

    fn stop_reception(&mut self) {
        self.reception = None;
        self.request(AirRequest::Listen(None));
    }

    fn transmit(&mut self) {
        let Some(payload) = self.pending.take() else {
            return;
        };
        self.sending = true;
        let tuning = self.settings.tuning();
        self.request(AirRequest::Send { tuning, payload });
    }

    fn on_sent(&mut self) {
        self.sending = false;
        if core::mem::take(&mut self.lose_sent) {
            // As its time-out does: nothing is said, and reception does not come back.
            return self.request(AirRequest::Listen(None));
        }
        self.event("+EVT:TXP2P DONE\r\n".into());
        if self.reception.is_some() {
            self.request(AirRequest::Listen(Some(self.settings.tuning())));
        }
    }

    fn on_frame(&mut self, payload: &[u8], rssi_dbm: i16, snr_db: i8) {
        let Some(reception) = self.reception else { return };
        let hex = to_hex(payload);
        self.event(match self.config.firmware {
            Firmware::Rui5 | Firmware::Rui3Manual => format!("+EVT:RXP2P:{rssi_dbm}:{snr_db}:{hex}\r\n"),
            Firmware::V1_0_4 => {
                format!("+EVT:RXP2P, RSSI {rssi_dbm}, SNR {snr_db}\r\n+EVT:{hex}\r\n")
            }
        });
        if !matches!(reception.window, CONTINUOUS | DEAF_TO_SEND) {
            self.stop_reception();
        }
    }

    fn on_damaged(&mut self) {
        let Some(reception) = self.reception else { return };
        self.event("+EVT:RXP2P RECEIVE ERROR\r\n".into());
        if !matches!(reception.window, CONTINUOUS | DEAF_TO_SEND) {
            self.stop_reception();
        }
    }

    /// Between reset and banner it neither hears nor speaks.
    fn restart(&mut self, from: Instant) {
        self.booting = true;
        self.settings = self.flash;
        self.echo = false;
        self.reception = None;
        self.sending = false;
        self.pending = None;
        self.line.take();
        self.escape = false;
        self.agenda.clear();
        self.request(AirRequest::Abort);
        self.request(AirRequest::Listen(None));
        self.agenda.add(from + BOOT, Step::Booted);
    }

    fn on_booted(&mut self) {
        self.booting = false;
        let version = self.config.firmware.version();
        let mode = match self.settings.mode {
            0 => "LoRa P2P",
            1 => "LoRaWAN",
            _ => "FSK P2P",
        };
        let rule = "-".repeat(54);
        self.event(format!(
            "RAKwireless RAK3172\r\n{rule}\r\nVersion: {version}\r\nCurrent Work Mode: {mode}.\r\n"
        ));
    }

    fn request(&mut self, request: AirRequest) {
        self.output.push_back(ModemOutput::Air(request));
    }

    fn event(&mut self, text: String) {
        self.output.push_back(ModemOutput::Event(text.into_bytes()));
    }

    fn note(&mut self, text: &str) {
        self.output.push_back(ModemOutput::Note(text.into()));
    }
}

impl SimModem for Rak3172 {
    fn baud(&self) -> u32 {
        self.config.baud
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

    fn handle_air(&mut self, now: Instant, event: AirEvent) {
        match event {
            _ if self.booting => {}
            AirEvent::Frame {
                payload,
                rssi_dbm,
                snr_db,
            } => self.on_frame(&payload, rssi_dbm, snr_db),
            AirEvent::Damaged { .. } => self.on_damaged(),
            AirEvent::Sent => self.on_sent(),
            AirEvent::Sensed { busy } => self.on_sensed(now, busy),
        }
    }

    fn set_busy(&mut self, until: Instant) {
        self.busy_until = until;
    }

    fn provoke(&mut self, _now: Instant, mishap: Mishap) {
        match mishap {
            Mishap::LoseSent => self.lose_sent = true,
            Mishap::BadFrame => self.on_damaged(),
            Mishap::StaleError | Mishap::RaceStop => {}
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, step)) = self.agenda.pop_due(now) {
            match step {
                Step::Answer(text) => self.output.push_back(ModemOutput::Reply(text.into_bytes())),
                Step::Transmit => self.transmit(),
                Step::Restart => {
                    let off_the_bus = if self.config.own_usb {
                        OFF_THE_BUS
                    } else {
                        Duration::ZERO
                    };
                    if self.config.own_usb {
                        self.output.push_back(ModemOutput::Vanish(off_the_bus));
                    }
                    self.restart(now + off_the_bus);
                }
                Step::Booted => self.on_booted(),
                Step::WindowOver(at) => {
                    if self
                        .reception
                        .is_some_and(|reception| reception.until == Some(at))
                    {
                        self.event("+EVT:RXP2P RECEIVE TIMEOUT\r\n".into());
                        self.stop_reception();
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
