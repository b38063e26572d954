//! RAK4270 and RAK811: the firmware before RUI3 that these have, in P2P mode.

use core::time::Duration;
use std::collections::VecDeque;

use gateway_core::time::Instant;

use crate::agenda::Agenda;
use crate::ether::{AirEvent, AirRequest, LoraTuning, Tuning};
use crate::modem::text::{CommandLine, from_hex, number, to_hex};
use crate::modem::{Mishap, ModemOutput, SimModem};

/// Characters of a command with its CR LF.
const MAX_COMMAND: usize = 255;
/// Octets of a frame, which the longest command cannot reach.
const MAX_PAYLOAD: usize = 255;
/// From the end of a command to its answer: taste.
const ANSWER: Duration = Duration::from_millis(5);
/// From a reset to the banner.
const BOOT: Duration = Duration::from_millis(700);

/// What kind of RAK4270 it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rak4270Config {
    /// Its speed, 115,200 from the factory.
    pub baud: u32,
    /// It comes as from the factory, in LoRaWAN mode.
    pub factory: bool,
    /// Firmware differs: `OK` to a frame that is to be sent comes when it has been sent, not when it was taken.
    pub ok_when_sent: bool,
}

/// A RAK4270.
#[derive(Debug)]
pub struct Rak4270 {
    config: Rak4270Config,
    p2p: bool,
    tuning: LoraTuning,
    receiver: bool,
    sending: bool,
    pending: Option<Vec<u8>>,
    booting: bool,
    lose_sent: bool,
    busy_until: Instant,
    line: CommandLine,
    agenda: Agenda<Step>,
    output: VecDeque<ModemOutput>,
}

#[derive(Debug)]
enum Step {
    Answer(String),
    Transmit,
    Restart,
    Booted,
}

/// The codes of its manual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Error {
    Unsupported = 1,
    Parameter = 2,
    Line = 5,
    Busy = 80,
    Service = 81,
    Length = 87,
}

impl Default for Rak4270Config {
    fn default() -> Self {
        Rak4270Config {
            baud: 115_200,
            factory: false,
            ok_when_sent: false,
        }
    }
}

impl Rak4270 {
    /// A modem as it left the shop, or the hands of who set it up.
    pub fn new(config: Rak4270Config) -> Rak4270 {
        Rak4270 {
            config,
            p2p: !config.factory,
            tuning: LoraTuning {
                frequency_hz: 869_525_000,
                spreading_factor: 12,
                bandwidth_hz: 125_000,
                coding_rate: 5,
                preamble: 8,
                sync: 0x1424,
                inverted_iq: false,
            },
            receiver: false,
            sending: false,
            pending: None,
            booting: false,
            lose_sent: false,
            busy_until: Instant::START,
            line: CommandLine::new(MAX_COMMAND),
            agenda: Agenda::default(),
            output: VecDeque::new(),
        }
    }

    fn on_octet(&mut self, now: Instant, octet: u8) {
        if octet != b'\n' || !self.line.ends_with(b'\r') {
            return self.line.push(octet);
        }
        let answer = match self.line.take() {
            // The buffer holds CR LF too.
            Some(line) if line.len() < MAX_COMMAND => {
                let text = String::from_utf8_lossy(&line[..line.len() - 1]).to_ascii_lowercase();
                self.execute(now, &text)
            }
            _ => Err(Error::Line),
        };
        match answer {
            Ok(None) => {}
            Ok(Some(text)) => self.agenda.add(now + ANSWER, Step::Answer(text)),
            Err(error) => {
                let text = format!("ERROR: {}\r\n", error as u8);
                self.agenda.add(now + ANSWER, Step::Answer(text));
            }
        }
    }

    /// The answer, if there is one now.
    fn execute(&mut self, now: Instant, command: &str) -> Result<Option<String>, Error> {
        let ok = Ok(Some("OK\r\n".into()));
        if command == "at+version" {
            return Ok(Some("OK V3.3.0.14\r\n".into()));
        }
        if command == "at+get_config=device:status" {
            return Ok(Some(
                "OK Board Core:RAK4270\r\nMCU:STM32L071KB\r\nLoRa chip:SX1262\r\n".into(),
            ));
        }
        if command == "at+set_config=device:restart" {
            self.agenda.add(now + ANSWER, Step::Restart);
            return Ok(None);
        }
        if let Some(mode) = command.strip_prefix("at+set_config=lora:work_mode:") {
            self.p2p = match mode {
                "0" => false,
                "1" => true,
                _ => return Err(Error::Parameter),
            };
            // It starts again whatever mode it is in; the banner is the answer.
            self.agenda.add(now + ANSWER, Step::Restart);
            return Ok(None);
        }
        let settings = command.strip_prefix("at+set_config=lorap2p:");
        let data = command.strip_prefix("at+send=lorap2p:");
        if settings.is_none() && data.is_none() {
            return Err(Error::Unsupported);
        }
        if !self.p2p {
            return Err(Error::Service);
        }
        if self.sending || self.pending.is_some() || now < self.busy_until {
            return Err(Error::Busy);
        }
        if let Some(hex) = data {
            return self.send(now, hex);
        }
        match settings {
            Some("transfer_mode:1") => self.set_receiver(true),
            Some("transfer_mode:2") => self.set_receiver(false),
            Some(fields) => {
                self.tuning = parameters(fields).ok_or(Error::Parameter)?;
                self.set_receiver(self.receiver);
            }
            None => {}
        }
        ok
    }

    fn send(&mut self, now: Instant, hex: &str) -> Result<Option<String>, Error> {
        if self.receiver {
            return Err(Error::Busy);
        }
        let payload = from_hex(hex).filter(|payload| !payload.is_empty());
        let payload = payload.ok_or(Error::Parameter)?;
        if payload.len() > MAX_PAYLOAD {
            return Err(Error::Length);
        }
        self.pending = Some(payload);
        self.agenda.add(now + ANSWER, Step::Transmit);
        Ok((!self.config.ok_when_sent).then(|| "OK\r\n".into()))
    }

    fn set_receiver(&mut self, receiver: bool) {
        self.receiver = receiver;
        let tuning = receiver.then_some(Tuning::Lora(self.tuning));
        self.request(AirRequest::Listen(tuning));
    }

    fn restart(&mut self, now: Instant) {
        self.booting = true;
        self.receiver = false;
        self.sending = false;
        self.pending = None;
        self.line.take();
        self.agenda.clear();
        self.request(AirRequest::Abort);
        self.request(AirRequest::Listen(None));
        self.agenda.add(now + BOOT, Step::Booted);
    }

    fn on_booted(&mut self) {
        self.booting = false;
        let mode = if self.p2p {
            "P2P"
        } else {
            "LoRaWAN, join_mode:OTAA, Class: A"
        };
        self.event(format!(
            "UART1 work mode: RUI_UART_NORMAL\r\nCurrent work_mode:{mode}\r\nInitialization OK\r\n"
        ));
    }

    fn on_sent(&mut self) {
        self.sending = false;
        if core::mem::take(&mut self.lose_sent) {
            return;
        }
        if self.config.ok_when_sent {
            self.output.push_back(ModemOutput::Reply(b"OK\r\n".to_vec()));
        }
    }

    fn request(&mut self, request: AirRequest) {
        self.output.push_back(ModemOutput::Air(request));
    }

    fn event(&mut self, text: String) {
        self.output.push_back(ModemOutput::Event(text.into_bytes()));
    }
}

/// Frequency, spreading factor, bandwidth by index, coding rate, preamble, power.
fn parameters(fields: &str) -> Option<LoraTuning> {
    let fields: Vec<u32> = fields.split(':').map(number).collect::<Option<_>>()?;
    let [frequency_hz, sf, bandwidth, coding_rate, preamble, power] = fields[..] else {
        return None;
    };
    let right = (150_000_000..=960_000_000).contains(&frequency_hz)
        && (6..=12).contains(&sf)
        && (1..=4).contains(&coding_rate)
        && (5..=65_535).contains(&preamble)
        && (5..=20).contains(&power);
    let bandwidth_hz = *[125_000, 250_000, 500_000].get(bandwidth as usize)?;
    right.then_some(LoraTuning {
        frequency_hz,
        spreading_factor: sf as u8,
        bandwidth_hz,
        coding_rate: coding_rate as u8 + 4,
        preamble: preamble as u16,
        sync: 0x1424,
        inverted_iq: false,
    })
}

impl SimModem for Rak4270 {
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

    fn handle_air(&mut self, _now: Instant, event: AirEvent) {
        match event {
            _ if self.booting => {}
            AirEvent::Frame {
                payload,
                rssi_dbm,
                snr_db,
            } => {
                let (len, hex) = (payload.len(), to_hex(&payload));
                self.event(format!("at+recv={rssi_dbm},{snr_db},{len}:{hex}\r\n"));
            }
            AirEvent::Sent => self.on_sent(),
            // What is damaged it keeps to itself.
            AirEvent::Damaged { .. } | AirEvent::Sensed { .. } => {}
        }
    }

    fn set_busy(&mut self, until: Instant) {
        self.busy_until = until;
    }

    fn provoke(&mut self, _now: Instant, mishap: Mishap) {
        match mishap {
            Mishap::LoseSent => self.lose_sent = true,
            Mishap::BadFrame | Mishap::StaleError | Mishap::RaceStop => {}
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, step)) = self.agenda.pop_due(now) {
            match step {
                Step::Answer(text) => self.output.push_back(ModemOutput::Reply(text.into_bytes())),
                Step::Transmit => {
                    if let Some(payload) = self.pending.take() {
                        self.sending = true;
                        let tuning = Tuning::Lora(self.tuning);
                        self.request(AirRequest::Send { tuning, payload });
                    }
                }
                Step::Restart => self.restart(now),
                Step::Booted => self.on_booted(),
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
