//! The line in front of a modem: its pace, its speed, its plug.

use core::time::Duration;
use std::collections::VecDeque;

use gateway_core::time::Instant;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{Fault, ModemOutput, SimModem};
use crate::ether::{AirEvent, AirRequest};

/// Octets that are on their way in one direction; a host that sends more to a modem than this loses the rest, as it does
/// without flow control.
const MAX_ON_THE_WAY: usize = 64 * 1024;

/// A modem with its line: 10 bits for each octet, nonsense if the host speaks at another speed, and what [`Fault`] names.
#[derive(Debug)]
pub struct Uart {
    modem: Box<dyn SimModem>,
    host_baud: u32,
    power: Power,
    /// The pace that [`Fault::Slow`] set.
    slow: Option<u32>,
    split: bool,
    drop_replies: u32,
    dup_events: u32,
    to_modem: Pipe,
    to_host: Pipe,
    output: VecDeque<UartOutput>,
    rng: SmallRng,
}

/// What comes out of the line on the host's side, and out of the modem on the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UartOutput {
    /// Octets for the host.
    ToHost(Vec<u8>),
    /// The port is gone.
    Unplugged,
    /// The port is back, perhaps under another name.
    Replugged,
    /// For the modem's radio.
    Air(AirRequest),
    /// What a person watching would like to know.
    Note(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    On,
    /// On and dead.
    Hung,
    /// The plug is out; with or without power until then.
    Unplugged {
        until: Instant,
        powered: bool,
    },
}

/// Octets on their way: each piece arrives when its last octet does.
#[derive(Debug, Default)]
struct Pipe {
    pieces: VecDeque<(Instant, Vec<u8>)>,
    octets: usize,
    free_at: Instant,
}

impl Uart {
    /// A modem on a line whose host speaks at `host_baud`. It has no power before [`Uart::power_on`].
    pub fn new(modem: Box<dyn SimModem>, host_baud: u32, seed: u64) -> Uart {
        Uart {
            modem,
            host_baud,
            power: Power::On,
            slow: None,
            split: false,
            drop_replies: 0,
            dup_events: 0,
            to_modem: Pipe::default(),
            to_host: Pipe::default(),
            output: VecDeque::new(),
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// The plug is put in for the first time.
    pub fn power_on(&mut self, now: Instant) {
        self.power = Power::On;
        self.modem.power_on(now);
        self.collect(now);
    }

    /// The port is there to be opened.
    pub fn is_plugged(&self) -> bool {
        !matches!(self.power, Power::Unplugged { .. })
    }

    /// The host speaks at this speed from now on.
    pub fn set_host_baud(&mut self, baud: u32) {
        self.host_baud = baud;
    }

    /// The host closed the port: what it has not read is gone. The modem does not notice.
    pub fn host_closed(&mut self) {
        self.to_host.clear();
    }

    /// The host wrote.
    pub fn handle_octets(&mut self, now: Instant, octets: &[u8]) {
        if self.is_plugged() {
            let octets = self.distorted(octets.to_vec());
            let pace = self.pace(self.host_baud);
            self.to_modem.push(now, octets, pace);
        }
    }

    /// The host held the line low.
    pub fn handle_break(&mut self, now: Instant) {
        if self.power == Power::On {
            self.modem.handle_break(now, self.host_baud);
            self.collect(now);
        }
    }

    /// Something happened on the air.
    pub fn handle_air(&mut self, now: Instant, event: AirEvent) {
        let powered = match self.power {
            Power::On => true,
            Power::Hung => false,
            Power::Unplugged { powered, .. } => powered,
        };
        if powered {
            self.modem.handle_air(now, event);
            self.collect(now);
        }
    }

    /// Something goes wrong, or right again.
    pub fn fault(&mut self, now: Instant, fault: Fault) {
        match fault {
            Fault::Unplug(time) => self.unplug(now, time, false),
            Fault::Reboot => {
                if self.is_plugged() {
                    self.power = Power::On;
                    self.switch_radio_off();
                    self.to_modem.clear();
                    self.modem.power_on(now);
                    self.collect(now);
                }
            }
            Fault::Hang => {
                if self.is_plugged() {
                    self.power = Power::Hung;
                    self.switch_radio_off();
                }
            }
            Fault::Garbage(octets) => {
                let noise = (0..octets.min(MAX_ON_THE_WAY))
                    .map(|_| self.rng.random())
                    .collect();
                self.write(now, noise);
            }
            Fault::DropReply => self.drop_replies += 1,
            Fault::DupEvent => self.dup_events += 1,
            Fault::SplitWrites(split) => self.split = split,
            Fault::Slow(pace) => self.slow = pace,
            Fault::Busy(time) => {
                self.modem.set_busy(now + time);
                self.collect(now);
            }
            Fault::Mishap(mishap) => {
                if self.power == Power::On {
                    self.modem.provoke(now, mishap);
                    self.collect(now);
                }
            }
        }
    }

    /// When [`Uart::handle_timeout`] is wanted.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let pipes = self.to_modem.next().into_iter().chain(self.to_host.next());
        let modem = match self.power {
            Power::On => self.modem.poll_timeout(),
            Power::Hung => None,
            Power::Unplugged { until, powered } => powered
                .then(|| self.modem.poll_timeout())
                .flatten()
                .into_iter()
                .chain([until])
                .min(),
        };
        pipes.chain(modem).min()
    }

    /// Moves octets that have arrived, and the modem.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Power::Unplugged { until, powered } = self.power
            && until <= now
        {
            self.power = Power::On;
            self.output.push_back(UartOutput::Replugged);
            if !powered {
                self.modem.power_on(now);
                self.collect(now);
            }
        }
        while let Some(octets) = self.to_modem.pop(now) {
            if self.power == Power::On {
                self.modem.handle_octets(now, &octets);
                self.collect(now);
            }
        }
        let powered = matches!(self.power, Power::On | Power::Unplugged { powered: true, .. });
        if powered && self.modem.poll_timeout().is_some_and(|at| at <= now) {
            self.modem.handle_timeout(now);
            self.collect(now);
        }
        while let Some(octets) = self.to_host.pop(now) {
            self.output.push_back(UartOutput::ToHost(octets));
        }
    }

    /// The next thing that comes out.
    pub fn poll_output(&mut self) -> Option<UartOutput> {
        self.output.pop_front()
    }

    /// Takes what the modem did.
    fn collect(&mut self, now: Instant) {
        while let Some(output) = self.modem.poll_output() {
            match output {
                ModemOutput::Reply(_) if self.drop_replies > 0 => self.drop_replies -= 1,
                ModemOutput::Reply(octets) => self.write(now, octets),
                ModemOutput::Event(octets) => {
                    if self.dup_events > 0 {
                        self.dup_events -= 1;
                        self.write(now, octets.clone());
                    }
                    self.write(now, octets);
                }
                ModemOutput::Air(request) => self.output.push_back(UartOutput::Air(request)),
                ModemOutput::Vanish(time) => self.unplug(now, time, true),
                ModemOutput::Note(text) => self.output.push_back(UartOutput::Note(text)),
            }
        }
    }

    fn write(&mut self, now: Instant, octets: Vec<u8>) {
        if !self.is_plugged() {
            return;
        }
        let octets = self.distorted(octets);
        let pace = self.pace(self.modem.baud());
        if self.split {
            for octet in octets {
                self.to_host.push(now, vec![octet], pace);
            }
        } else {
            self.to_host.push(now, octets, pace);
        }
    }

    fn unplug(&mut self, now: Instant, time: Duration, powered: bool) {
        let was_plugged = self.is_plugged();
        self.power = Power::Unplugged {
            until: now + time,
            powered,
        };
        self.to_modem.clear();
        self.to_host.clear();
        if !powered {
            self.switch_radio_off();
        }
        if was_plugged {
            self.output.push_back(UartOutput::Unplugged);
        }
    }

    fn switch_radio_off(&mut self) {
        for request in [AirRequest::Abort, AirRequest::Listen(None)] {
            self.output.push_back(UartOutput::Air(request));
        }
    }

    fn pace(&self, baud: u32) -> u32 {
        self.slow.map_or(baud, |slow| slow.min(baud)).max(1)
    }

    /// What arrives of octets sent at another speed than they are read at.
    fn distorted(&mut self, mut octets: Vec<u8>) -> Vec<u8> {
        if self.modem.baud() != self.host_baud {
            octets.fill_with(|| self.rng.random());
        }
        octets
    }
}

impl Pipe {
    fn push(&mut self, now: Instant, octets: Vec<u8>, baud: u32) {
        if octets.is_empty() || self.octets + octets.len() > MAX_ON_THE_WAY {
            return;
        }
        let time = Duration::from_micros(octets.len() as u64 * 10_000_000 / u64::from(baud));
        self.free_at = self.free_at.max(now) + time;
        self.octets += octets.len();
        self.pieces.push_back((self.free_at, octets));
    }

    fn next(&self) -> Option<Instant> {
        self.pieces.front().map(|(at, _)| *at)
    }

    fn pop(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.next().filter(|at| *at <= now)?;
        let (_, octets) = self.pieces.pop_front()?;
        self.octets -= octets.len();
        Some(octets)
    }

    fn clear(&mut self) {
        *self = Pipe::default();
    }
}
