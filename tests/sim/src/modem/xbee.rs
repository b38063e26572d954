//! Digi XBee modules, with the network behind them.
//!
//! The module speaks API frames (AP 1 and 2), transparently (AP 0) and, after `+++`, AT commands, as Digi's manuals of
//! the S2C have it. What becomes of a transmission is decided by the model of the [`Network`]; what reaches a peer goes
//! to the ether as an [`AirFrame`], and peers send the same way.

mod air;
mod command_mode;
mod frame;
mod network;
mod registers;
mod transmit;

use core::time::Duration;
use std::collections::VecDeque;

use gateway_core::time::Instant;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use self::command_mode::{Heard, Terminal};
use self::registers::{Name, Registers, Status};
use super::{ModemOutput, SimModem};
use crate::agenda::Agenda;
use crate::ether::{AirEvent, AirRequest, Tuning};
use crate::net::between;

pub use self::air::AirFrame;
pub use self::network::{Nap, Network, Peer, UNKNOWN_16, delivery};

/// Messages that a module takes before the first is acknowledged.
const BUFFERS: usize = 8;

/// The broadcast address.
const BROADCAST_64: u64 = 0xFFFF;

/// Which firmware runs on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Radio {
    /// Zigbee (S2C, XBee 3).
    Zigbee,
    /// 802.15.4 (S1), with frames of its own.
    Ieee802154,
    /// DigiMesh 2.4.
    DigiMesh,
}

/// How a module was configured before it was plugged in.
#[derive(Debug, Clone, PartialEq)]
pub struct XbeeConfig {
    /// Everything random follows from it.
    pub seed: u64,
    /// Its firmware.
    pub radio: Radio,
    /// Its 64-bit address.
    pub address: u64,
    /// BD: its speed.
    pub baud: u32,
    /// AP: 0 transparent, 1 plain frames, 2 escaped ones.
    pub api_mode: u8,
    /// CE: it forms the network.
    pub coordinator: bool,
    /// EE: the network is encrypted.
    pub encrypted: bool,
    /// NI.
    pub node_identifier: String,
    /// What AI says in the end: 0 for a module that finds its network.
    pub association: u8,
    /// Everyone it can reach; whoever sends is added.
    pub peers: Vec<Peer>,
}

impl XbeeConfig {
    /// A coordinator with escaped frames at 9600 baud.
    pub fn new(radio: Radio) -> XbeeConfig {
        XbeeConfig {
            seed: 1,
            radio,
            address: 0x0013_A200_40A1_0000,
            baud: 9600,
            api_mode: 2,
            coordinator: true,
            encrypted: false,
            node_identifier: "gateway".into(),
            association: 0,
            peers: Vec::new(),
        }
    }
}

/// A simulated XBee.
#[derive(Debug)]
pub struct Xbee {
    config: XbeeConfig,
    rng: SmallRng,
    registers: Registers,
    /// The network; peers may be changed at any time.
    pub network: Network,
    state: State,
    reader: frame::Reader,
    terminal: Terminal,
    agenda: Agenda<Event>,
    /// Transmissions whose fate is not known yet.
    open: usize,
    /// Frames for the ether, one at a time.
    to_air: VecDeque<AirFrame>,
    sending: bool,
    /// Who answers everything with "out of buffers" until then.
    busy_until: Instant,
    output: VecDeque<ModemOutput>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No power yet.
    Off,
    /// It starts.
    Booting,
    Running,
}

#[derive(Debug, Clone)]
enum Event {
    /// The firmware runs.
    Booted,
    /// The network was found, or is not to be found.
    Associated,
    /// A frame for the host.
    ToHost { data: Vec<u8>, reply: bool },
    /// A transmission ends, and this frame says how.
    Ended { status: Option<Vec<u8>> },
    /// Something reaches a peer.
    Delivered(AirFrame),
    /// A peer's message has come through the network.
    Heard {
        from: u64,
        broadcast: bool,
        data: Vec<u8>,
        rssi_dbm: i16,
    },
    /// FR.
    Restart,
    /// The channel may be free.
    Sense,
}

impl Xbee {
    /// A module without power.
    pub fn new(config: XbeeConfig) -> Xbee {
        let mut network = Network::default();
        for peer in &config.peers {
            network.add(peer.clone());
        }
        Xbee {
            rng: SmallRng::seed_from_u64(config.seed),
            registers: Registers::new(&config),
            network,
            state: State::Off,
            reader: frame::Reader::default(),
            terminal: Terminal::default(),
            agenda: Agenda::default(),
            open: 0,
            to_air: VecDeque::new(),
            sending: false,
            busy_until: Instant::START,
            output: VecDeque::new(),
            config,
        }
    }

    /// A peer's commissioning button is pressed: the module tells the host who it is (frame 95).
    pub fn press_button(&mut self, now: Instant, address: u64) {
        let Some(peer) = self.network.peer_mut(address) else {
            return;
        };
        let (network, address) = (peer.network.to_be_bytes(), address.to_be_bytes());
        let mut data = vec![0x95];
        data.extend(address);
        data.extend(network);
        data.push(0xC2);
        data.extend(network);
        data.extend(address);
        // Name, parent, router, button, Digi's profile and manufacturer.
        data.extend(b" \0\xFF\xFE\x01\x01\xC1\x05\x10\x1E");
        self.tell(now, data, false);
    }

    fn number(&self, name: &Name) -> u64 {
        self.registers.number(name)
    }

    fn mode(&self) -> u64 {
        self.number(b"AP")
    }

    fn tuning(&self) -> Tuning {
        Tuning::Ieee802154 {
            channel: self.number(b"CH") as u8,
        }
    }

    // Starting: 8A 00, then the network.

    fn boot(&mut self, now: Instant) {
        self.agenda.retain(|event| matches!(event, Event::Delivered(_)));
        self.reader.clear();
        self.terminal = Terminal::default();
        self.open = 0;
        self.busy_until = Instant::START;
        self.state = State::Booting;
        self.registers.restart();
        self.registers.set_number(*b"AI", 0xFF);
        let time = between(
            &mut self.rng,
            Duration::from_millis(500),
            Duration::from_millis(1500),
        );
        self.agenda.add(now + time, Event::Booted);
    }

    fn on_booted(&mut self, now: Instant) {
        self.state = State::Running;
        self.tell(now, vec![0x8A, 0x00], false);
        let time = between(
            &mut self.rng,
            Duration::from_millis(50),
            Duration::from_millis(400),
        );
        self.agenda.add(now + time, Event::Associated);
        let tuning = self.tuning();
        self.output
            .push_back(ModemOutput::Air(AirRequest::Listen(Some(tuning))));
    }

    fn on_associated(&mut self, now: Instant) {
        let association = self.config.association;
        self.registers.set_number(*b"AI", u64::from(association));
        if association != 0 {
            return;
        }
        match (self.config.radio, self.number(b"CE") == 1) {
            (Radio::Zigbee | Radio::Ieee802154, true) => self.tell(now, vec![0x8A, 0x06], false),
            (Radio::Zigbee, false) => {
                let network = self.rng.random_range(1..0xFFF0);
                self.registers.set_number(*b"MY", network);
                self.tell(now, vec![0x8A, 0x02], false);
            }
            (Radio::Ieee802154, false) | (Radio::DigiMesh, _) => {}
        }
    }

    /// The network is gone, or back.
    pub fn set_association(&mut self, now: Instant, association: u8) {
        self.config.association = association;
        self.registers.set_number(*b"AI", u64::from(association));
        let status = if association == 0 { 0x02 } else { 0x03 };
        self.tell(now, vec![0x8A, status], false);
    }

    // From the host.

    fn on_octet(&mut self, now: Instant, octet: u8) {
        let mode = self.mode();
        if mode == 0 || self.terminal.is_open() {
            self.on_terminal_octet(now, octet);
        } else if let Some(data) = self.reader.push(octet, mode == 2) {
            self.on_frame(now, &data);
        }
    }

    fn on_terminal_octet(&mut self, now: Instant, octet: u8) {
        let guard = Duration::from_millis(self.number(b"GT"));
        let time_out = Duration::from_millis(100) * self.number(b"CT") as u32;
        let escape = self.number(b"CC") as u8;
        if let Heard::Line(line) = self.terminal.push(now, octet, escape, guard, time_out) {
            self.on_line(now, &line);
        }
    }

    /// When silence ends a packet, a guard time or the command mode.
    fn silence_ends(&self) -> Option<Instant> {
        let watched = self.mode() == 0 || self.terminal.is_open();
        watched
            .then(|| self.terminal.deadline(self.packet_gap()))
            .flatten()
    }

    /// RO: characters of silence that end a packet of the transparent mode.
    fn packet_gap(&self) -> Duration {
        let character = Duration::from_micros(10_000_000 / u64::from(self.baud().max(1)));
        character * self.number(b"RO").max(1) as u32
    }

    fn on_silence(&mut self, now: Instant) {
        match self.terminal.handle_timeout(now, self.packet_gap()) {
            Heard::Nothing | Heard::Line(_) => {}
            Heard::Opened => self.output.push_back(ModemOutput::Reply(b"OK\r".to_vec())),
            Heard::Closed => self.registers.apply(),
            Heard::Data(data) => {
                let to = self.number(b"DH") << 32 | self.number(b"DL");
                for packet in data.chunks(self.packet_limit(to == BROADCAST_64)) {
                    self.send_transparently(now, to, packet);
                }
            }
        }
    }

    /// An AT command on a line of its own.
    fn on_line(&mut self, now: Instant, line: &[u8]) {
        let answer = match command_mode::parse(line) {
            None => b"ERROR\r".to_vec(),
            Some((name, None)) => match self.execute(now, name) {
                Some(Status::Ok) => b"OK\r".to_vec(),
                Some(_) => b"ERROR\r".to_vec(),
                None if name == *b"CN" => {
                    self.registers.apply();
                    self.terminal.close();
                    b"OK\r".to_vec()
                }
                None => match self.registers.read(name) {
                    Some(text) if name == *b"NI" => [text, b"\r"].concat(),
                    Some(_) => format!("{:X}\r", self.number(&name)).into_bytes(),
                    None => b"ERROR\r".to_vec(),
                },
            },
            Some((name, Some(value))) => match self.registers.write(name, &value, false) {
                Status::Ok => b"OK\r".to_vec(),
                _ => b"ERROR\r".to_vec(),
            },
        };
        self.output.push_back(ModemOutput::Reply(answer));
    }

    fn on_frame(&mut self, now: Instant, data: &[u8]) {
        match data {
            [0x08, id, a, b, value @ ..] => self.on_command(now, *id, [*a, *b], value, true),
            [0x09, id, a, b, value @ ..] => self.on_command(now, *id, [*a, *b], value, false),
            [kind, ..] => {
                if !self.on_transmit(now, data) {
                    let note = format!("frame type {kind:02x} is not supported");
                    self.output.push_back(ModemOutput::Note(note));
                }
            }
            [] => {}
        }
    }

    fn on_command(&mut self, now: Instant, id: u8, name: Name, value: &[u8], at_once: bool) {
        let (status, value) = if !value.is_empty() {
            (self.registers.write(name, value, at_once), Vec::new())
        } else if let Some(status) = self.execute(now, name) {
            (status, Vec::new())
        } else if let Some(value) = self.registers.read(name) {
            (Status::Ok, value.to_vec())
        } else {
            (Status::InvalidCommand, Vec::new())
        };
        if id != 0 {
            let mut answer = vec![0x88, id, name[0], name[1], status as u8];
            answer.extend(value);
            self.tell(now, answer, true);
        }
    }

    /// Carries out a command that is no parameter; `None` if it is none.
    fn execute(&mut self, now: Instant, name: Name) -> Option<Status> {
        match &name {
            b"AC" => self.registers.apply(),
            b"WR" => self.registers.store(),
            b"RE" => self.registers.restore_defaults(),
            // The answer is out before it restarts.
            b"FR" => self.agenda.add(now + Duration::from_millis(60), Event::Restart),
            _ => return None,
        }
        Some(Status::Ok)
    }

    // To the host.

    /// Writes a frame after the time it takes the module to make it.
    fn tell(&mut self, now: Instant, data: Vec<u8>, reply: bool) {
        let time = between(&mut self.rng, Duration::from_millis(1), Duration::from_millis(4));
        self.agenda.add(now + time, Event::ToHost { data, reply });
    }

    fn write(&mut self, data: &[u8], reply: bool) {
        let mode = self.mode();
        if mode == 0 || self.terminal.is_open() || self.state != State::Running {
            return;
        }
        let wire = frame::encode(data, mode == 2);
        self.output.push_back(match reply {
            true => ModemOutput::Reply(wire),
            false => ModemOutput::Event(wire),
        });
    }

    fn on_heard(&mut self, from: u64, broadcast: bool, data: &[u8], rssi_dbm: i16) {
        if self.mode() == 0 {
            if !self.terminal.is_open() {
                self.output.push_back(ModemOutput::Event(data.to_vec()));
            }
            return;
        }
        let Some(peer) = self.network.peer_mut(from).map(|peer| peer.clone()) else {
            return;
        };
        let head = self.receive_header(&peer, broadcast, rssi_dbm);
        self.write(&[&head[..], data].concat(), false);
    }

    /// What stands before the data in a receive frame.
    fn receive_header(&self, peer: &Peer, broadcast: bool, rssi_dbm: i16) -> Vec<u8> {
        let (long, short) = (peer.address.to_be_bytes(), peer.network.to_be_bytes());
        let rssi = rssi_dbm.unsigned_abs().min(255) as u8;
        let mut options = if broadcast { 0x02 } else { 0x01 };
        match self.config.radio {
            Radio::Ieee802154 => {
                let options = if broadcast { 0x02 } else { 0x00 };
                if peer.network < UNKNOWN_16 {
                    return [&[0x81][..], &short, &[rssi, options]].concat();
                }
                return [&[0x80][..], &long, &[rssi, options]].concat();
            }
            Radio::Zigbee if peer.sleep.is_some() => options |= 0x40,
            Radio::Zigbee => {}
            Radio::DigiMesh => options |= 0xC0,
        }
        let short = match self.config.radio {
            Radio::DigiMesh => UNKNOWN_16.to_be_bytes(),
            Radio::Zigbee | Radio::Ieee802154 => short,
        };
        if self.number(b"AO") == 0 {
            [&[0x90][..], &long, &short, &[options]].concat()
        } else {
            let explicit = [0xE8, 0xE8, 0x00, 0x11, 0xC1, 0x05, options];
            [&[0x91][..], &long, &short, &explicit].concat()
        }
    }

    // The ether, which carries one frame at a time.

    fn go_on_air(&mut self) {
        if !self.sending && !self.to_air.is_empty() {
            let tuning = self.tuning();
            self.output.push_back(ModemOutput::Air(AirRequest::Sense(tuning)));
        }
    }

    fn on_air_frame(&mut self, now: Instant, payload: &[u8], rssi_dbm: i16) {
        let Some(frame) = AirFrame::decode(payload) else {
            return;
        };
        // Whoever is heard is there, and where it says.
        match self.network.peer_mut(frame.from) {
            Some(peer) => {
                peer.network = frame.network;
                peer.sleep = frame.sleep;
                peer.present = true;
            }
            None => {
                let mut peer = Peer::new(frame.from, frame.network);
                peer.sleep = frame.sleep;
                self.network.add(peer);
            }
        }
        let for_us = frame.to == self.config.address || frame.to == BROADCAST_64 || frame.to == 0;
        if !for_us || frame.data.is_empty() {
            return;
        }
        let broadcast = frame.to == BROADCAST_64;
        if broadcast && self.config.radio == Radio::Zigbee && !self.network.admits_broadcast(now) {
            return;
        }
        let packets = frame.data.len().div_ceil(self.packet_limit(broadcast)) as u32;
        if let Some((_, at)) = self.network.uplink(now, frame.from, packets, &mut self.rng) {
            self.agenda.add(
                at,
                Event::Heard {
                    from: frame.from,
                    broadcast,
                    data: frame.data,
                    rssi_dbm,
                },
            );
        }
    }

    fn handle_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Booted => self.on_booted(now),
            Event::Associated => self.on_associated(now),
            Event::ToHost { data, reply } => self.write(&data, reply),
            Event::Ended { status } => {
                self.open = self.open.saturating_sub(1);
                if let Some(status) = status {
                    self.write(&status, true);
                }
            }
            Event::Delivered(frame) => {
                self.to_air.push_back(frame);
                self.go_on_air();
            }
            Event::Heard {
                from,
                broadcast,
                data,
                rssi_dbm,
            } => self.on_heard(from, broadcast, &data, rssi_dbm),
            Event::Restart => self.boot(now),
            Event::Sense => self.go_on_air(),
        }
    }
}

impl SimModem for Xbee {
    fn baud(&self) -> u32 {
        registers::baud_of(self.number(b"BD"))
    }

    fn power_on(&mut self, now: Instant) {
        self.to_air.clear();
        self.sending = false;
        self.agenda.clear();
        self.boot(now);
    }

    fn handle_octets(&mut self, now: Instant, octets: &[u8]) {
        for octet in octets {
            if self.state == State::Running {
                self.on_octet(now, *octet);
            }
        }
    }

    fn handle_air(&mut self, now: Instant, event: AirEvent) {
        match event {
            AirEvent::Frame {
                payload, rssi_dbm, ..
            } if self.state == State::Running => {
                self.on_air_frame(now, &payload, rssi_dbm);
            }
            AirEvent::Frame { .. } | AirEvent::Damaged { .. } => {}
            AirEvent::Sent => {
                self.sending = false;
                self.go_on_air();
            }
            AirEvent::Sensed { busy: true } => {
                let back_off = between(&mut self.rng, Duration::from_millis(1), Duration::from_millis(5));
                self.agenda.add(now + back_off, Event::Sense);
            }
            AirEvent::Sensed { busy: false } => {
                if !self.sending
                    && let Some(frame) = self.to_air.pop_front()
                {
                    self.sending = true;
                    let tuning = self.tuning();
                    self.output.push_back(ModemOutput::Air(AirRequest::Send {
                        tuning,
                        payload: frame.encode(),
                    }));
                }
            }
        }
    }

    fn set_busy(&mut self, until: Instant) {
        self.busy_until = until;
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, event)) = self.agenda.pop_due(now) {
            self.handle_event(at, event);
        }
        if self.silence_ends().is_some_and(|at| at <= now) {
            self.on_silence(now);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.agenda.next().into_iter().chain(self.silence_ends()).min()
    }

    fn poll_output(&mut self) -> Option<ModemOutput> {
        self.output.pop_front()
    }
}

/// The addresses that peers of a simulated network have: the first of them for `0`.
pub fn peer_address(number: u16) -> u64 {
    0x0013_A200_4100_0000 + u64::from(number)
}

#[cfg(test)]
mod tests;
