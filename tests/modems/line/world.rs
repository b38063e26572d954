//! Two modems of a kind, their drivers, and the air between them.

use core::time::Duration;
use std::collections::{BTreeSet, VecDeque};

use gateway_core::airtime::Lora;
use gateway_core::io::{Destination, LinkEvent, LinkProfile, RadioFacts, TxTicket};
use gateway_core::peer::{LinkAddr, LocalEnd, Route};
use gateway_core::time::Instant;
use radio_adapters::driver::{Driver, DriverOutput, Report};
use radio_adapters::line;
use radio_adapters::settings::{LinkHeader, LoraDriver, LoraSettings, PortSettings};
use snipe_sim::ether::{Ether, EtherConfig, StationId};
use snipe_sim::modem::rak::rak4270::{Rak4270, Rak4270Config};
use snipe_sim::modem::rak::{Firmware, Rak3172, Rak3172Config};
use snipe_sim::modem::rn::{Rn, RnConfig, RnModel};
use snipe_sim::modem::rylr::{Rylr, RylrConfig, RylrModel};
use snipe_sim::modem::{Fault, SimModem};
use snipe_sim::virtual_line::{LineEvent, VirtualLine};

/// Modems that differ in what they make a driver do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Rak(Firmware),
    /// With USB of its own, in LoRaWAN mode.
    RakFactory,
    /// `OK` when taken, or when sent.
    Rak4270 {
        ok_when_sent: bool,
    },
    Rn2483([u8; 3]),
    /// Without MAC, and with a watchdog that cannot be off.
    Rn2903,
    Rylr998 {
        ok_when_sent: bool,
    },
    Rylr896,
}

/// It cannot stop a reception.
pub(crate) const OLD_RN2483: Kind = Kind::Rn2483([1, 0, 1]);

pub(crate) const KINDS: [Kind; 12] = [
    Kind::Rak(Firmware::Rui5),
    Kind::Rak(Firmware::Rui3Manual),
    Kind::Rak(Firmware::V1_0_4),
    Kind::RakFactory,
    Kind::Rak4270 { ok_when_sent: false },
    Kind::Rak4270 { ok_when_sent: true },
    Kind::Rn2483([1, 0, 5]),
    OLD_RN2483,
    Kind::Rn2903,
    Kind::Rylr998 { ok_when_sent: false },
    Kind::Rylr998 { ok_when_sent: true },
    Kind::Rylr896,
];

impl Kind {
    pub(crate) fn driver(self) -> LoraDriver {
        match self {
            Kind::Rak(_) | Kind::RakFactory => LoraDriver::Rak3172,
            Kind::Rak4270 { .. } => LoraDriver::Rak4270,
            Kind::Rn2483(_) => LoraDriver::Rn2483,
            Kind::Rn2903 => LoraDriver::Rn2903,
            Kind::Rylr998 { .. } => LoraDriver::Rylr998,
            Kind::Rylr896 => LoraDriver::Rylr896,
        }
    }

    fn usual_baud(self) -> u32 {
        match self {
            Kind::Rak(Firmware::V1_0_4) => 9_600,
            Kind::Rn2483(_) | Kind::Rn2903 => 57_600,
            Kind::Rak(_) | Kind::RakFactory | Kind::Rak4270 { .. } | Kind::Rylr998 { .. } | Kind::Rylr896 => {
                115_200
            }
        }
    }

    fn modem(self, baud: u32) -> Box<dyn SimModem> {
        match self {
            Kind::Rak(firmware) => Box::new(Rak3172::new(Rak3172Config {
                baud,
                ..Rak3172Config::new(firmware)
            })),
            Kind::RakFactory => Box::new(Rak3172::new(Rak3172Config {
                own_usb: true,
                factory: true,
                baud,
                ..Rak3172Config::new(Firmware::Rui5)
            })),
            Kind::Rak4270 { ok_when_sent } => Box::new(Rak4270::new(Rak4270Config {
                baud,
                factory: true,
                ok_when_sent,
            })),
            Kind::Rn2483([major, minor, patch]) => Box::new(Rn::new(RnConfig {
                firmware: (major, minor, patch),
                baud,
                ..RnConfig::new(RnModel::Rn2483)
            })),
            Kind::Rn2903 => Box::new(Rn::new(RnConfig {
                has_mac: false,
                refuses_wdt_0: true,
                baud,
                ..RnConfig::new(RnModel::Rn2903)
            })),
            Kind::Rylr998 { ok_when_sent } => Box::new(Rylr::new(RylrConfig {
                ok_when_sent,
                baud,
                ..RylrConfig::new(RylrModel::Rylr998)
            })),
            Kind::Rylr896 => Box::new(Rylr::new(RylrConfig {
                baud,
                ..RylrConfig::new(RylrModel::Rylr896)
            })),
        }
    }

    /// Settings of the station with this address, SF7.
    pub(crate) fn settings(self, address: u8) -> LoraSettings {
        let driver = self.driver();
        LoraSettings {
            driver,
            port: PortSettings {
                path: "/dev/null".into(),
                baud: self.usual_baud(),
                hardware_flow: false,
                reopen_first: Duration::from_secs(1),
                reopen_max: Duration::from_secs(30),
            },
            header: LinkHeader::RadioHead { address, acks: false },
            frequency_hz: match self {
                Kind::Rn2903 => 915_000_000,
                _ => 868_100_000,
            },
            modulation: Lora {
                spreading_factor: 7,
                bandwidth_hz: 125_000,
                coding_rate: 5,
                preamble: driver.abilities().preamble,
            },
            sync_word: 0x12,
            tx_power_dbm: 14,
            network_id: match self {
                Kind::Rylr896 => 6,
                _ => 18,
            },
            address: address.into(),
            turnaround: Duration::from_millis(100),
            ask_signal: true,
            mtu: None,
            duty_cycle_ppm: None,
        }
    }

    fn addr(self, address: u8) -> LinkAddr {
        let octets: &[u8] = match self {
            Kind::Rylr998 { .. } | Kind::Rylr896 => &[0, address],
            Kind::Rak(_) | Kind::RakFactory | Kind::Rak4270 { .. } | Kind::Rn2483(_) | Kind::Rn2903 => {
                &[address]
            }
        };
        LinkAddr::Radio(octets.iter().copied().collect())
    }
}

/// A driver whose port is closed and opened once, while its modem goes on.
#[derive(Debug)]
pub(crate) struct Reopening {
    driver: Box<dyn Driver>,
    at: Instant,
    done: bool,
}

impl Driver for Reopening {
    fn opened(&mut self, now: Instant) {
        self.driver.opened(now);
    }

    fn closed(&mut self, now: Instant) {
        self.driver.closed(now);
    }

    fn received(&mut self, now: Instant, octets: &[u8]) {
        self.driver.received(now, octets);
    }

    fn transmit(&mut self, now: Instant, to: &Destination, datagram: &[u8], ticket: TxTicket) {
        self.driver.transmit(now, to, datagram, ticket);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.done |= now >= self.at;
        self.driver.handle_timeout(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let at = (!self.done).then_some(self.at);
        self.driver.poll_timeout().into_iter().chain(at).min()
    }

    fn poll_output(&mut self) -> Option<DriverOutput> {
        if self.done && self.at != Instant::START {
            self.at = Instant::START;
            return Some(DriverOutput::Reopen);
        }
        self.driver.poll_output()
    }
}

/// A modem with its driver, and what they told the core.
pub(crate) struct Node {
    pub(crate) line: VirtualLine,
    station: StationId,
    pub(crate) addr: LinkAddr,
    pub(crate) profile: Option<LinkProfile>,
    pub(crate) up: bool,
    pub(crate) ups: u32,
    pub(crate) credit: u32,
    pub(crate) received: Vec<(LinkAddr, RadioFacts, Vec<u8>)>,
    pub(crate) reports: Vec<Report>,
    pub(crate) sent: u32,
    pub(crate) unsent: u32,
    unsettled: BTreeSet<u32>,
    next_ticket: u32,
    /// What the core has to send.
    pub(crate) queue: VecDeque<Vec<u8>>,
}

/// Two of them in an air of their own.
pub(crate) struct World {
    pub(crate) now: Instant,
    ether: Ether,
    pub(crate) nodes: Vec<Node>,
    pub(crate) kind: Kind,
}

impl World {
    /// Powered for some time, ports about to be opened.
    pub(crate) fn new(kind: Kind) -> World {
        World::with(kind, Duration::from_secs(10), kind.usual_baud(), None)
    }

    /// With ports opened so long after power came, modems at some speed, and the first port opened again at some time.
    pub(crate) fn with(kind: Kind, ahead: Duration, modem_baud: u32, reopen: Option<Duration>) -> World {
        let mut world = World {
            now: Instant::from_micros(1_000_000),
            ether: Ether::new(EtherConfig::default()),
            nodes: Vec::new(),
            kind,
        };
        for address in 1..=2 {
            let settings = kind.settings(address);
            let mut driver = line::driver(&settings).expect("settings that it takes");
            if let (1, Some(after)) = (address, reopen) {
                driver = Box::new(Reopening {
                    driver,
                    at: world.now + after,
                    done: false,
                });
            }
            let baud = settings.port.baud;
            let mut line = VirtualLine::new(driver, kind.modem(modem_baud), baud, Duration::from_secs(1));
            line.trace = Some(Vec::new());
            line.plug_in(world.now, ahead);
            world.nodes.push(Node {
                line,
                station: world.ether.join(),
                addr: kind.addr(address),
                profile: None,
                up: false,
                ups: 0,
                credit: 0,
                received: Vec::new(),
                reports: Vec::new(),
                sent: 0,
                unsent: 0,
                unsettled: BTreeSet::new(),
                next_ticket: 1,
                queue: VecDeque::new(),
            });
        }
        world.settle();
        world
    }

    /// Both are up.
    pub(crate) fn ready(kind: Kind) -> World {
        let mut world = World::new(kind);
        world.run_until_up(Duration::from_secs(40));
        for node in &mut world.nodes {
            node.reports.clear();
        }
        world
    }

    pub(crate) fn run_until_up(&mut self, within: Duration) {
        self.run_while(within, |world| !world.nodes.iter().all(|node| node.up));
    }

    /// Everything that was handed over has been settled, and both may send again.
    pub(crate) fn run_until_quiet(&mut self, within: Duration) {
        self.run_while(within, |world| {
            !world
                .nodes
                .iter()
                .all(|node| node.up && node.queue.is_empty() && node.unsettled.is_empty() && node.credit == 1)
        });
    }

    /// Runs as long as a condition holds, which must end in time.
    pub(crate) fn run_while(&mut self, within: Duration, condition: impl Fn(&World) -> bool) {
        let end = self.now + within;
        while condition(self) {
            assert!(
                self.step(end),
                "{:?} within {within:?}:\n{}",
                self.kind,
                self.story()
            );
        }
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// The next thing that happens up to then.
    fn step(&mut self, end: Instant) -> bool {
        let lines = self.nodes.iter().filter_map(|node| node.line.poll_timeout());
        let Some(due) = lines
            .chain(self.ether.poll_timeout())
            .min()
            .filter(|due| *due <= end)
        else {
            return false;
        };
        self.now = self.now.max(due);
        self.ether.handle_timeout(self.now);
        self.settle();
        for at in 0..self.nodes.len() {
            if self.nodes[at]
                .line
                .poll_timeout()
                .is_some_and(|due| due <= self.now)
            {
                self.nodes[at].line.handle_timeout(self.now);
                self.settle();
            }
        }
        true
    }

    pub(crate) fn fault(&mut self, node: usize, fault: Fault) {
        self.nodes[node].line.fault(self.now, fault);
        self.settle();
    }

    /// Gives a node something to send, as soon as it may.
    pub(crate) fn send(&mut self, node: usize, datagram: &[u8]) {
        self.nodes[node].queue.push_back(datagram.to_vec());
        self.settle();
    }

    fn settle(&mut self) {
        loop {
            let mut idle = true;
            for at in 0..self.nodes.len() {
                while let Some(event) = self.nodes[at].line.poll_event() {
                    idle = false;
                    self.on_event(at, event);
                }
                let to = self.nodes[1 - at].addr.clone();
                let node = &mut self.nodes[at];
                if node.up
                    && node.credit > 0
                    && let Some(datagram) = node.queue.pop_front()
                {
                    idle = false;
                    node.credit -= 1;
                    let ticket = node.next_ticket;
                    node.next_ticket += 1;
                    node.unsettled.insert(ticket);
                    let local = LocalEnd::default();
                    let to = Destination::Peer(Route { addr: to, local });
                    node.line.transmit(self.now, &to, &datagram, TxTicket(ticket));
                }
            }
            while let Some((station, event)) = self.ether.poll_event() {
                idle = false;
                if let Some(node) = self.nodes.iter_mut().find(|node| node.station == station) {
                    node.line.handle_air(self.now, event);
                }
            }
            if idle {
                return;
            }
        }
    }

    fn on_event(&mut self, at: usize, event: LineEvent) {
        let node = &mut self.nodes[at];
        match event {
            LineEvent::Received {
                from,
                facts,
                datagram,
            } => node.received.push((from, facts, datagram)),
            LineEvent::Report(report) => node.reports.push(report),
            LineEvent::Air(request) => self.ether.handle_request(self.now, node.station, request),
            LineEvent::Note(_) => {}
            LineEvent::Link(LinkEvent::Up(profile)) => {
                assert!(!node.up);
                node.up = true;
                node.ups += 1;
                node.credit = profile.credit;
                node.profile = Some(profile);
            }
            LineEvent::Link(LinkEvent::Down) => {
                assert!(node.up);
                assert!(node.unsettled.is_empty(), "settled before the link is down");
                node.up = false;
                node.credit = 0;
            }
            LineEvent::Link(LinkEvent::Credit(credit)) => {
                node.credit += credit;
                assert_eq!(node.credit, 1);
            }
            LineEvent::Link(LinkEvent::Sent(ticket)) => {
                assert!(node.unsettled.remove(&ticket.0), "settled twice");
                node.sent += 1;
            }
            LineEvent::Link(LinkEvent::Unsent(ticket)) => {
                assert!(node.unsettled.remove(&ticket.0), "settled twice");
                node.unsent += 1;
            }
            LineEvent::Link(other) => panic!("{other:?}"),
        }
    }

    /// What passed over the lines lately.
    pub(crate) fn story(&self) -> String {
        let mut story = String::new();
        for (at, node) in self.nodes.iter().enumerate() {
            let trace = node.line.trace.as_deref().unwrap_or_default();
            for traced in trace.iter().rev().take(30).rev() {
                let arrow = if traced.to_modem { '>' } else { '<' };
                let text = String::from_utf8_lossy(&traced.octets);
                story += &format!("{at} {} {arrow} {text:?}\n", traced.at);
            }
            story += &format!("{at} up {} credit {} {:?}\n", node.up, node.credit, node.reports);
        }
        story
    }
}
