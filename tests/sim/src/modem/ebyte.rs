//! Ebyte E22 and E32: octets in, octets out, and packets in between that nobody is told of.

use core::time::Duration;
use std::collections::VecDeque;

use gateway_core::time::Instant;

use super::{ModemOutput, SimModem};
use crate::agenda::Agenda;
use crate::ether::{AirEvent, AirRequest, Tuning};

/// Receives everything and is received by everyone.
const EVERYONE: u16 = 0xFFFF;

/// Octets on the air for each packet besides its payload: preamble, header and checksum of the maker, and what
/// spreading takes; twice the payload's own time for a short packet.
const OVERHEAD: u16 = 16;

/// The speed of the line while it is configured.
const CONFIGURATION_BAUD: u32 = 9600;

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EbyteKind {
    /// SX126x: registers, network ids, sub-packets of up to 240 octets.
    E22,
    /// SX127x: six octets of settings, packets of 58 octets.
    E32,
}

/// What the pins M0 and M1 say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pins {
    /// Both low: octets are for the radio.
    Normal,
    /// Octets are for the registers, at 9600 baud.
    Configuration,
}

/// A simulated module.
#[derive(Debug)]
pub struct Ebyte {
    kind: EbyteKind,
    /// E22: registers 0 to 8. E32: the octets after the head of a read, in the first five.
    registers: [u8; 9],
    stored: [u8; 9],
    pins: Pins,
    running: bool,
    agenda: Agenda<Event>,
    /// From the line, not yet a packet.
    input: Vec<u8>,
    last_octet: Instant,
    /// Packets for the radio.
    queue: VecDeque<Vec<u8>>,
    sending: bool,
    last_rssi: u8,
    busy_until: Instant,
    /// Octets that were lost because the buffer was full.
    pub overflowed: usize,
    output: VecDeque<ModemOutput>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Booted,
    Output(Vec<u8>),
    GoOn,
}

impl Ebyte {
    /// A module without power, as it leaves the factory: address 0, 9600 baud, 2.4 kbit/s, transparent.
    pub fn new(kind: EbyteKind) -> Ebyte {
        let registers = match kind {
            // ADDH ADDL NETID REG0 REG1 REG2 REG3 CRYPT.
            EbyteKind::E22 => [0, 0, 0, 0x62, 0, 18, 0, 0, 0],
            // ADDH ADDL SPED CHAN OPTION.
            EbyteKind::E32 => [0, 0, 0x1A, 6, 0x44, 0, 0, 0, 0],
        };
        Ebyte {
            kind,
            registers,
            stored: registers,
            pins: Pins::Normal,
            running: false,
            agenda: Agenda::default(),
            input: Vec::new(),
            last_octet: Instant::START,
            queue: VecDeque::new(),
            sending: false,
            last_rssi: 0,
            busy_until: Instant::START,
            overflowed: 0,
            output: VecDeque::new(),
        }
    }

    /// Sets a register as `C0` does, for tests that begin with a configured module.
    #[must_use]
    pub fn with_register(mut self, register: usize, value: u8) -> Ebyte {
        self.registers[register] = value;
        self.stored = self.registers;
        self
    }

    /// With this address.
    #[must_use]
    pub fn with_address(self, address: u16) -> Ebyte {
        let [high, low] = address.to_be_bytes();
        self.with_register(0, high).with_register(1, low)
    }

    /// In fixed transmission: the first three octets of what is written are address and channel.
    #[must_use]
    pub fn with_fixed_transmission(self) -> Ebyte {
        match self.kind {
            EbyteKind::E22 => {
                let register = self.registers[6] | 0x40;
                self.with_register(6, register)
            }
            EbyteKind::E32 => {
                let register = self.registers[4] | 0x80;
                self.with_register(4, register)
            }
        }
    }

    /// E22: an octet of signal strength follows each packet.
    #[must_use]
    pub fn with_rssi(self) -> Ebyte {
        let register = self.registers[6] | 0x80;
        self.with_register(6, register)
    }

    /// Somebody sets M0 and M1.
    pub fn set_pins(&mut self, now: Instant, pins: Pins) {
        self.flush(now);
        self.pins = pins;
        self.input.clear();
    }

    /// AUX: high while nothing waits for the radio or for the host. High does not say that a packet has been sent.
    pub fn aux(&self) -> bool {
        self.running && self.queue.is_empty() && self.input.is_empty() && self.agenda.is_empty()
    }

    /// How its radio is set.
    pub fn tuning(&self) -> Tuning {
        let (channel, rate) = match self.kind {
            EbyteKind::E22 => (
                self.registers[5],
                [300, 1_200, 2_400, 4_800, 9_600, 19_200, 38_400, 62_500][usize::from(self.registers[3] & 7)],
            ),
            EbyteKind::E32 => (
                self.registers[3],
                [300, 1_200, 2_400, 4_800, 9_600, 19_200, 19_200, 19_200][usize::from(self.registers[2] & 7)],
            ),
        };
        self.tuned(channel, rate)
    }

    fn tuned(&self, channel: u8, bits_per_second: u32) -> Tuning {
        Tuning::Packet {
            channel: u16::from(channel),
            bits_per_second,
            overhead: OVERHEAD,
        }
    }

    fn address(&self) -> u16 {
        u16::from_be_bytes([self.registers[0], self.registers[1]])
    }

    /// E22: modules of other networks do not hear it.
    fn network(&self) -> u8 {
        match self.kind {
            EbyteKind::E22 => self.registers[2],
            EbyteKind::E32 => 0,
        }
    }

    fn is_fixed(&self) -> bool {
        match self.kind {
            EbyteKind::E22 => self.registers[6] & 0x40 != 0,
            EbyteKind::E32 => self.registers[4] & 0x80 != 0,
        }
    }

    fn appends_rssi(&self) -> bool {
        self.kind == EbyteKind::E22 && self.registers[6] & 0x80 != 0
    }

    fn packet_max(&self) -> usize {
        match self.kind {
            EbyteKind::E22 => [240, 128, 64, 32][usize::from(self.registers[4] >> 6)],
            EbyteKind::E32 => 58,
        }
    }

    fn buffer_max(&self) -> usize {
        match self.kind {
            EbyteKind::E22 => 1000,
            EbyteKind::E32 => 512,
        }
    }

    /// Three characters of silence end a packet.
    fn silence(&self) -> Duration {
        Duration::from_micros(30_000_000 / u64::from(self.baud().max(1)))
    }

    // Normal mode: the line.

    fn on_data(&mut self, now: Instant, octet: u8) {
        let waiting: usize = self.queue.iter().map(Vec::len).sum();
        if waiting + self.input.len() >= self.buffer_max() {
            // Without a word.
            self.overflowed += 1;
            return;
        }
        self.input.push(octet);
        self.last_octet = now;
        let head = if self.is_fixed() { 3 } else { 0 };
        if self.input.len() == self.packet_max() + head {
            self.flush(now);
        }
    }

    /// What was written becomes a packet.
    fn flush(&mut self, now: Instant) {
        if self.pins != Pins::Normal || self.input.is_empty() {
            return;
        }
        let input = core::mem::take(&mut self.input);
        if self.is_signal_request(&input) {
            let reply = vec![0xC1, 0x00, 0x02, 0x9B, self.last_rssi];
            self.output.push_back(ModemOutput::Reply(reply));
            return;
        }
        self.queue.push_back(input);
        self.go_on(now);
    }

    /// E22 with REG1 bit 5: noise and strength may be asked for in between.
    fn is_signal_request(&self, input: &[u8]) -> bool {
        self.kind == EbyteKind::E22
            && self.registers[4] & 0x20 != 0
            && input == [0xC0, 0xC1, 0xC2, 0xC3, 0x00, 0x02]
    }

    fn go_on(&mut self, now: Instant) {
        if self.sending || now < self.busy_until {
            return;
        }
        let Some(packet) = self.queue.pop_front() else {
            return;
        };
        let (to, channel, data) = match (self.is_fixed(), &packet[..]) {
            (true, [high, low, channel, data @ ..]) => {
                (u16::from_be_bytes([*high, *low]), Some(*channel), data)
            }
            // Too short for an address: nothing is sent.
            (true, _) => return self.go_on(now),
            (false, data) => (self.address(), None, data),
        };
        let frame = EbyteFrame {
            network: self.network(),
            to,
            data: data.to_vec(),
        };
        let tuning = match (channel, self.tuning()) {
            (Some(channel), Tuning::Packet { bits_per_second, .. }) => self.tuned(channel, bits_per_second),
            (_, tuning) => tuning,
        };
        self.sending = true;
        self.output.push_back(ModemOutput::Air(AirRequest::Send {
            tuning,
            payload: frame.encode(),
        }));
    }

    fn on_packet(&mut self, now: Instant, payload: &[u8], rssi_dbm: i16) {
        let Some(frame) = EbyteFrame::decode(payload) else {
            return;
        };
        let own = self.address();
        let for_us = frame.to == own || frame.to == EVERYONE || own == EVERYONE;
        if !for_us || frame.network != self.network() {
            return;
        }
        self.last_rssi = rssi_dbm.clamp(-128, 127) as i8 as u8;
        let mut octets = frame.data;
        if self.appends_rssi() {
            octets.push(self.last_rssi);
        }
        // AUX falls some milliseconds before the octets come.
        let head_start = match self.kind {
            EbyteKind::E22 => Duration::from_millis(3),
            EbyteKind::E32 => Duration::from_millis(5),
        };
        self.agenda.add(now + head_start, Event::Output(octets));
    }

    // Configuration mode.

    fn configure(&mut self, now: Instant) {
        let input = core::mem::take(&mut self.input);
        let answer = match self.kind {
            EbyteKind::E22 => self.configure_e22(&input),
            EbyteKind::E32 => self.configure_e32(now, &input),
        };
        if !answer.is_empty() {
            self.output.push_back(ModemOutput::Reply(answer));
        }
    }

    fn configure_e22(&mut self, input: &[u8]) -> Vec<u8> {
        let wrong = vec![0xFF, 0xFF, 0xFF];
        let [command, start, length, data @ ..] = input else {
            return wrong;
        };
        let (from, to) = (usize::from(*start), usize::from(*start) + usize::from(*length));
        if *length == 0 || to > self.registers.len() {
            return wrong;
        }
        match command {
            0xC0 | 0xC2 if data.len() == usize::from(*length) => {
                self.registers[from..to].copy_from_slice(data);
                if *command == 0xC0 {
                    self.stored = self.registers;
                }
            }
            0xC1 if data.is_empty() => {}
            _ => return wrong,
        }
        let mut answer = vec![0xC1, *start, *length];
        // CRYPT can only be written.
        answer.extend((from..to).map(|register| {
            if register >= 7 {
                0
            } else {
                self.registers[register]
            }
        }));
        answer
    }

    fn configure_e32(&mut self, now: Instant, input: &[u8]) -> Vec<u8> {
        match input {
            [head @ (0xC0 | 0xC2), settings @ ..] if settings.len() == 5 => {
                self.registers[..5].copy_from_slice(settings);
                if *head == 0xC0 {
                    self.stored = self.registers;
                }
                input.to_vec()
            }
            [0xC1, 0xC1, 0xC1] => [&[0xC0], &self.registers[..5]].concat(),
            [0xC3, 0xC3, 0xC3] => vec![0xC3, 0x32, 0x10, 0x14],
            [0xC4, 0xC4, 0xC4] => {
                self.power_on(now);
                Vec::new()
            }
            _ => vec![0xFF, 0xFF, 0xFF],
        }
    }
}

impl SimModem for Ebyte {
    fn baud(&self) -> u32 {
        if self.pins == Pins::Configuration {
            return CONFIGURATION_BAUD;
        }
        let code = match self.kind {
            EbyteKind::E22 => self.registers[3] >> 5,
            EbyteKind::E32 => self.registers[2] >> 3 & 7,
        };
        [1200, 2400, 4800, 9600, 19_200, 38_400, 57_600, 115_200][usize::from(code)]
    }

    fn power_on(&mut self, now: Instant) {
        self.registers = self.stored;
        self.running = false;
        self.agenda.clear();
        self.input.clear();
        self.queue.clear();
        self.sending = false;
        self.busy_until = Instant::START;
        self.agenda.add(now + Duration::from_millis(100), Event::Booted);
    }

    fn handle_octets(&mut self, now: Instant, octets: &[u8]) {
        if !self.running {
            return;
        }
        for octet in octets {
            match self.pins {
                Pins::Normal => self.on_data(now, *octet),
                Pins::Configuration => {
                    self.last_octet = now;
                    if self.input.len() < 16 {
                        self.input.push(*octet);
                    }
                }
            }
        }
    }

    fn handle_air(&mut self, now: Instant, event: AirEvent) {
        match event {
            AirEvent::Frame {
                payload, rssi_dbm, ..
            } if self.running => {
                self.on_packet(now, &payload, rssi_dbm);
            }
            AirEvent::Frame { .. } | AirEvent::Damaged { .. } | AirEvent::Sensed { .. } => {}
            AirEvent::Sent => {
                self.sending = false;
                self.go_on(now);
            }
        }
    }

    fn set_busy(&mut self, until: Instant) {
        self.busy_until = until;
        self.agenda.add(until, Event::GoOn);
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, event)) = self.agenda.pop_due(now) {
            match event {
                Event::Booted => {
                    self.running = true;
                    let tuning = self.tuning();
                    self.output
                        .push_back(ModemOutput::Air(AirRequest::Listen(Some(tuning))));
                }
                Event::Output(octets) => self.output.push_back(ModemOutput::Event(octets)),
                Event::GoOn => self.go_on(at),
            }
        }
        if !self.input.is_empty() && self.last_octet + self.silence() <= now {
            match self.pins {
                Pins::Normal => self.flush(now),
                Pins::Configuration => self.configure(now),
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let silence = (!self.input.is_empty()).then(|| self.last_octet + self.silence());
        self.agenda.next().into_iter().chain(silence).min()
    }

    fn poll_output(&mut self) -> Option<ModemOutput> {
        self.output.pop_front()
    }
}

/// A packet on the air: whom it is for, and not who sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EbyteFrame {
    /// E22: the network of sender and receiver; 0 for E32.
    pub network: u8,
    /// The receiver's address; 0xFFFF is everyone.
    pub to: u16,
    /// What was written into the sender.
    pub data: Vec<u8>,
}

impl EbyteFrame {
    /// As it is carried.
    pub fn encode(&self) -> Vec<u8> {
        let [high, low] = self.to.to_be_bytes();
        [&[self.network, high, low], &self.data[..]].concat()
    }

    /// The packet in a payload; `None` if it is none.
    pub fn decode(payload: &[u8]) -> Option<EbyteFrame> {
        let [network, high, low, data @ ..] = payload else {
            return None;
        };
        Some(EbyteFrame {
            network: *network,
            to: u16::from_be_bytes([*high, *low]),
            data: data.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests;
