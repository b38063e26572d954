//! A driver on a line that brings what a test wants, and what its modem says.

use core::time::Duration;

use gateway_core::io::{Destination, LinkEvent, TxTicket};
use gateway_core::peer::{LocalEnd, Route};
use gateway_core::time::Instant;
use radio_adapters::driver::{Driver, DriverOutput};
use snipe_sim::ether::{AirEvent, AirRequest};
use snipe_sim::modem::{ModemOutput, SimModem};

use crate::kinds::Kind;

/// Octets of a datagram after which its number stands.
const HEAD: [u8; 7] = [15, 0x0C, 0x61, 0, 1, 0, 0];

/// Steps that are kept: enough for the beginning of a session.
const RECORDED_MAX: usize = 8192;

/// When the port is opened.
const START: Instant = Instant::from_micros(1_000_000);

pub(crate) struct Rig {
    kind: Kind,
    driver: Box<dyn Driver>,
    modem: Option<Box<dyn SimModem>>,
    now: Instant,
    /// The line's speed on our side.
    baud: u32,
    up: bool,
    /// It takes a datagram.
    credit: bool,
    /// When what the modem sends has left its antenna.
    sent: Option<Instant>,
    /// What the modem has said unasked since it was last looked at.
    said: Vec<u8>,
    /// A bit for each datagram that arrived.
    arrived: Vec<u64>,
    /// One more than the last number.
    offered: u64,
    pub(crate) reopens: u64,
    record: Record,
}

/// What the driver was told, as the steps of a fuzz target (`radio-adapters/src/fuzz.rs`).
struct Record {
    steps: Vec<u8>,
    until: Instant,
}

impl Record {
    fn octets(&mut self, now: Instant, octets: &[u8]) {
        self.time(now);
        for piece in octets.chunks(0x80) {
            self.steps.push(piece.len() as u8 - 1);
            self.steps.extend(piece);
        }
    }

    fn datagram(&mut self, now: Instant, twenties: u8) {
        self.time(now);
        self.steps.push(0xA0 | twenties);
    }

    /// In powers of two of microseconds.
    fn time(&mut self, now: Instant) {
        let micros = now.since(self.until).as_micros();
        let powers = (0..32).filter(|power| micros >> power & 1 == 1);
        self.steps.extend(powers.map(|power| 0x80 | power));
        self.until = now;
    }
}

impl Rig {
    pub(crate) fn new(kind: Kind) -> Rig {
        let mut rig = Rig {
            kind,
            driver: kind.driver(),
            modem: kind.modem(),
            now: START,
            baud: kind.baud(),
            up: false,
            credit: false,
            sent: None,
            said: Vec::new(),
            arrived: Vec::new(),
            offered: 0,
            reopens: 0,
            record: Record {
                steps: Vec::new(),
                until: START,
            },
        };
        if let Some(modem) = &mut rig.modem {
            modem.power_on(rig.now);
        }
        rig.settle();
        rig.driver.opened(rig.now);
        rig.settle();
        rig
    }

    /// Waits until the modem is set up, if noise has made its driver doubt it.
    pub(crate) fn come_up(&mut self) {
        for _ in 0..600 {
            if self.up {
                return;
            }
            self.pass(Duration::from_millis(100));
        }
        panic!("{:?} does not come up: {:?}", self.kind, self.driver);
    }

    /// The line brings octets, in the time that they take.
    pub(crate) fn line_brings(&mut self, octets: &[u8]) {
        let time = octets.len() as u64 * 10_000_000 / u64::from(self.kind.baud());
        self.now = self.now + Duration::from_micros(time);
        self.driver_hears(octets);
        self.settle();
        self.pass(Duration::ZERO);
    }

    fn driver_hears(&mut self, octets: &[u8]) {
        if RECORDED_MAX > self.record.steps.len() {
            self.record.octets(self.now, octets);
        }
        self.driver.received(self.now, octets);
    }

    /// Sends a datagram of so many times twenty octets to the node.
    pub(crate) fn transmit(&mut self, twenties: u8) {
        self.record.datagram(self.now, twenties);
        let node = Destination::Peer(Route {
            addr: self.kind.node(),
            local: LocalEnd::default(),
        });
        self.credit = false;
        let datagram = vec![1; usize::from(twenties) * 20];
        self.driver.transmit(self.now, &node, &datagram, TxTicket(0));
        self.settle();
    }

    /// The datagram has left, and another may be sent.
    pub(crate) fn is_idle(&self) -> bool {
        self.credit
    }

    /// What the driver was told.
    pub(crate) fn recorded(&self) -> &[u8] {
        &self.record.steps
    }

    /// A node's datagram of this number.
    pub(crate) fn frame(&mut self, number: u64) {
        self.offered = number + 1;
        let datagram = [&HEAD[..], &number.to_be_bytes()].concat();
        if let Some(octets) = self.kind.on_the_line(&datagram) {
            self.line_brings(&octets);
            self.said = octets;
            return;
        }
        let event = AirEvent::Frame {
            payload: self.kind.on_the_air(&datagram),
            rssi_dbm: -70,
            snr_db: 9,
        };
        if let Some(modem) = &mut self.modem {
            modem.handle_air(self.now, event);
        }
        self.settle();
    }

    /// How the last datagram stood on the line; nothing if the modem did not listen.
    pub(crate) fn said(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.said)
    }

    pub(crate) fn has_arrived(&self, number: u64) -> bool {
        let bits = self.arrived.get((number / 64) as usize);
        bits.is_some_and(|bits| bits >> (number % 64) & 1 == 1)
    }

    pub(crate) fn delivered(&self) -> u64 {
        self.arrived.iter().map(|bits| u64::from(bits.count_ones())).sum()
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let modem = self.modem.as_ref().and_then(|modem| modem.poll_timeout());
            let next = [self.driver.poll_timeout(), modem, self.sent]
                .into_iter()
                .flatten()
                .min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if let Some(modem) = &mut self.modem {
                if self.sent.take_if(|sent| *sent <= self.now).is_some() {
                    modem.handle_air(self.now, AirEvent::Sent);
                }
                modem.handle_timeout(self.now);
            }
            self.driver.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
    }

    /// Carries what driver and modem say to each other until they say nothing more.
    fn settle(&mut self) {
        loop {
            if let Some(output) = self.driver.poll_output() {
                self.carry_out(output);
            } else if let Some(output) = self.modem.as_mut().and_then(|modem| modem.poll_output()) {
                self.modem_does(output);
            } else {
                return;
            }
        }
    }

    fn carry_out(&mut self, output: DriverOutput) {
        match output {
            DriverOutput::Write(octets) => {
                if let Some(modem) = &mut self.modem
                    && modem.baud() == self.baud
                {
                    modem.handle_octets(self.now, &octets);
                }
            }
            DriverOutput::SetBaud(baud) => self.baud = baud,
            DriverOutput::Break(_) => {
                if let Some(modem) = &mut self.modem {
                    modem.handle_break(self.now, self.baud);
                }
            }
            DriverOutput::Received { datagram, .. } => self.arrived(&datagram),
            DriverOutput::Link(LinkEvent::Up(_)) => (self.up, self.credit) = (true, true),
            DriverOutput::Link(LinkEvent::Credit(_)) => self.credit = true,
            DriverOutput::Link(LinkEvent::Down) => self.up = false,
            DriverOutput::Reopen => {
                self.reopens += 1;
                self.baud = self.kind.baud();
                self.driver.closed(self.now);
                self.driver.opened(self.now);
            }
            DriverOutput::Link(_) | DriverOutput::Report(_) => {}
        }
    }

    fn modem_does(&mut self, output: ModemOutput) {
        let modem = self.modem.as_mut().expect("it just spoke");
        match output {
            ModemOutput::Reply(octets) => {
                if modem.baud() == self.baud {
                    self.driver_hears(&octets);
                }
            }
            ModemOutput::Event(octets) => {
                if modem.baud() == self.baud {
                    self.driver_hears(&octets);
                    self.said.extend(octets);
                }
            }
            ModemOutput::Air(AirRequest::Send { .. }) => {
                self.sent = Some(self.now + Duration::from_millis(20));
            }
            ModemOutput::Air(AirRequest::Abort) => self.sent = None,
            ModemOutput::Air(AirRequest::Sense(_)) => {
                modem.handle_air(self.now, AirEvent::Sensed { busy: false });
            }
            ModemOutput::Air(AirRequest::Listen(_)) | ModemOutput::Vanish(_) | ModemOutput::Note(_) => {}
        }
    }

    /// Noise may make a frame of its own, so only ours are counted, and each once.
    fn arrived(&mut self, datagram: &[u8]) {
        if let Some((&HEAD, number)) = datagram.split_first_chunk::<7>()
            && let Ok(number) = number.try_into().map(u64::from_be_bytes)
            && number < self.offered
        {
            let at = (number / 64) as usize;
            if self.arrived.len() <= at {
                self.arrived.resize(at + 1, 0);
            }
            self.arrived[at] |= 1 << (number % 64);
        }
    }
}
