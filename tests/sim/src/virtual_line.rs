//! A driver and a modem on the two ends of a line, in virtual time.

use core::time::Duration;
use std::collections::VecDeque;

use gateway_core::io::{Destination, LinkEvent, RadioFacts, TxTicket};
use gateway_core::peer::LinkAddr;
use gateway_core::time::Instant;
use radio_adapters::driver::{Driver, DriverOutput, Report};

use crate::ether::{AirEvent, AirRequest};
use crate::modem::{Fault, SimModem, Uart, UartOutput};

/// Outputs of a driver without a breath, beyond which it is taken to loop.
const MAX_OUTPUTS: usize = 10_000;

/// A [`Driver`] with the port that it drives, and the modem there.
///
/// It does what the task of a real port does: opens it, opens it again when it went away, and carries octets. After every
/// call [`VirtualLine::poll_event`] is drained to `None`.
#[derive(Debug)]
pub struct VirtualLine {
    driver: Box<dyn Driver>,
    uart: Uart,
    port: Port,
    baud: u32,
    reopen: Duration,
    events: VecDeque<LineEvent>,
    /// Times the port was opened.
    pub opens: u64,
    /// What went over the line, if it is kept.
    pub trace: Option<Vec<Traced>>,
}

/// What comes out of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineEvent {
    /// The driver has a datagram for the core.
    Received {
        /// Who sent it.
        from: LinkAddr,
        /// How it was received.
        facts: RadioFacts,
        /// What it holds.
        datagram: Vec<u8>,
    },
    /// The driver has news for the core.
    Link(LinkEvent),
    /// The driver has something to tell people.
    Report(Report),
    /// The modem has something for the air.
    Air(AirRequest),
    /// The modem has something to tell people.
    Note(String),
}

/// Octets on a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced {
    /// When they were written, or arrived at the host.
    pub at: Instant,
    /// From the host to the modem.
    pub to_modem: bool,
    /// The octets.
    pub octets: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    /// Nothing was ever plugged in.
    Absent,
    Closed {
        open_at: Instant,
    },
    Open,
}

impl VirtualLine {
    /// A driver for a port of this speed, which is opened again after `reopen`, with a modem that is not plugged in.
    pub fn new(
        driver: Box<dyn Driver>,
        modem: Box<dyn SimModem>,
        baud: u32,
        reopen: Duration,
    ) -> VirtualLine {
        VirtualLine {
            driver,
            uart: Uart::new(modem, baud, 1),
            port: Port::Absent,
            baud,
            reopen,
            events: VecDeque::new(),
            opens: 0,
            trace: None,
        }
    }

    /// The modem gets power, and `ahead` later the port is opened: modems that were on all the time have long started.
    pub fn plug_in(&mut self, now: Instant, ahead: Duration) {
        self.uart.power_on(now);
        self.port = Port::Closed { open_at: now + ahead };
        self.settle(now);
    }

    /// The process that had the port open is gone without a word, and another one opens it after this time. The modem
    /// does not notice.
    pub fn replace_driver(&mut self, now: Instant, driver: Box<dyn Driver>, after: Duration) {
        self.uart.host_closed();
        self.driver = driver;
        if self.port != Port::Absent {
            self.port = Port::Closed { open_at: now + after };
        }
        self.settle(now);
    }

    /// Hands the driver a datagram.
    pub fn transmit(&mut self, now: Instant, to: &Destination, datagram: &[u8], ticket: TxTicket) {
        self.driver.transmit(now, to, datagram, ticket);
        self.settle(now);
    }

    /// Something happened on the air.
    pub fn handle_air(&mut self, now: Instant, event: AirEvent) {
        self.uart.handle_air(now, event);
        self.settle(now);
    }

    /// Something goes wrong.
    pub fn fault(&mut self, now: Instant, fault: Fault) {
        self.uart.fault(now, fault);
        self.settle(now);
    }

    /// When [`VirtualLine::handle_timeout`] is wanted.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let port = match self.port {
            Port::Absent => None,
            Port::Closed { open_at } => Some(open_at),
            Port::Open => self.driver.poll_timeout(),
        };
        self.uart.poll_timeout().into_iter().chain(port).min()
    }

    /// Moves everything whose time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.uart.handle_timeout(now);
        self.settle(now);
        match self.port {
            Port::Closed { open_at } if open_at <= now => self.open(now),
            Port::Open if self.driver.poll_timeout().is_some_and(|at| at <= now) => {
                self.driver.handle_timeout(now);
            }
            Port::Absent | Port::Closed { .. } | Port::Open => {}
        }
        self.settle(now);
    }

    /// The next thing that comes out.
    pub fn poll_event(&mut self) -> Option<LineEvent> {
        self.events.pop_front()
    }

    fn open(&mut self, now: Instant) {
        if !self.uart.is_plugged() {
            self.port = Port::Closed {
                open_at: now + self.reopen,
            };
            return;
        }
        self.port = Port::Open;
        self.opens += 1;
        // What the port had buffered is gone, and it opens at the speed of the configuration.
        self.uart.host_closed();
        self.uart.set_host_baud(self.baud);
        self.driver.opened(now);
    }

    fn close(&mut self, now: Instant) {
        if self.port == Port::Open {
            self.port = Port::Closed {
                open_at: now + self.reopen,
            };
            self.uart.host_closed();
            self.driver.closed(now);
        }
    }

    /// Carries things between the two until both are done.
    fn settle(&mut self, now: Instant) {
        let mut outputs = 0;
        loop {
            if let Some(output) = self.uart.poll_output() {
                self.on_modem_output(now, output);
            } else if let Some(output) = self.driver.poll_output() {
                self.on_driver_output(now, output);
            } else {
                return;
            }
            outputs += 1;
            assert!(outputs < MAX_OUTPUTS, "the driver loops: {:?}", self.driver);
        }
    }

    fn on_modem_output(&mut self, now: Instant, output: UartOutput) {
        match output {
            UartOutput::ToHost(octets) => {
                if self.port == Port::Open {
                    self.record(now, false, &octets);
                    self.driver.received(now, &octets);
                }
            }
            UartOutput::Unplugged => self.close(now),
            UartOutput::Replugged => {}
            UartOutput::Air(request) => self.events.push_back(LineEvent::Air(request)),
            UartOutput::Note(text) => self.events.push_back(LineEvent::Note(text)),
        }
    }

    fn on_driver_output(&mut self, now: Instant, output: DriverOutput) {
        match output {
            DriverOutput::Write(octets) => {
                if self.port == Port::Open {
                    self.record(now, true, &octets);
                    self.uart.handle_octets(now, &octets);
                }
            }
            DriverOutput::SetBaud(baud) => self.uart.set_host_baud(baud),
            DriverOutput::Break(_) => self.uart.handle_break(now),
            DriverOutput::Received {
                from,
                facts,
                datagram,
            } => self.events.push_back(LineEvent::Received {
                from,
                facts,
                datagram,
            }),
            DriverOutput::Link(event) => self.events.push_back(LineEvent::Link(event)),
            DriverOutput::Reopen => self.close(now),
            DriverOutput::Report(report) => self.events.push_back(LineEvent::Report(report)),
        }
    }

    fn record(&mut self, at: Instant, to_modem: bool, octets: &[u8]) {
        if let Some(trace) = &mut self.trace {
            trace.push(Traced {
                at,
                to_modem,
                octets: octets.to_vec(),
            });
        }
    }
}
