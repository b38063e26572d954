//! A driver on the bench: the test is its modem, its core and its clock.

use core::time::Duration;
use std::collections::VecDeque;

use gateway_core::airtime::Lora;
use gateway_core::io::{Destination, LinkEvent, LinkProfile, RadioFacts, TxTicket};
use gateway_core::peer::{LinkAddr, LocalEnd, Route};
use gateway_core::time::Instant;
use radio_adapters::driver::{Driver, DriverOutput, Report};
use radio_adapters::line;
use radio_adapters::settings::{LinkHeader, LoraDriver, LoraSettings, PortSettings};

pub(crate) struct Bench {
    pub(crate) driver: Box<dyn Driver>,
    pub(crate) now: Instant,
    pub(crate) outputs: VecDeque<DriverOutput>,
    pub(crate) reports: Vec<Report>,
    pub(crate) profile: Option<LinkProfile>,
}

/// 868.1 MHz, SF9, 125 kHz, 4/5, no link header: as in the transcripts.
pub(crate) fn settings(driver: LoraDriver) -> LoraSettings {
    LoraSettings {
        driver,
        port: PortSettings {
            path: "/dev/null".into(),
            baud: match driver {
                LoraDriver::Rn2483 | LoraDriver::Rn2903 => 57_600,
                _ => 115_200,
            },
            hardware_flow: false,
            reopen_first: Duration::from_secs(1),
            reopen_max: Duration::from_secs(30),
        },
        header: LinkHeader::None,
        frequency_hz: match driver {
            LoraDriver::Rn2903 => 915_000_000,
            _ => 868_100_000,
        },
        modulation: Lora {
            spreading_factor: 9,
            bandwidth_hz: 125_000,
            coding_rate: 5,
            preamble: driver.abilities().preamble,
        },
        sync_word: 0x12,
        tx_power_dbm: 14,
        network_id: match driver {
            LoraDriver::Rylr896 => 6,
            _ => 18,
        },
        address: 1,
        turnaround: Duration::from_millis(20),
        ask_signal: false,
        mtu: None,
        duty_cycle_ppm: Some(10_000),
    }
}

impl Bench {
    /// The port is open, the modem not asked yet.
    pub(crate) fn open(settings: &LoraSettings) -> Bench {
        let mut bench = Bench {
            driver: line::driver(settings).expect("settings that it takes"),
            now: Instant::from_micros(1_000_000),
            outputs: VecDeque::new(),
            reports: Vec::new(),
            profile: None,
        };
        bench.driver.opened(bench.now);
        bench.drain();
        bench
    }

    /// Set up by these commands and their answers, and ready.
    pub(crate) fn ready(settings: &LoraSettings, talk: &[(&str, &str)]) -> Bench {
        let mut bench = Bench::open(settings);
        bench.expect_write("\r\n");
        bench.talk(talk);
        bench.expect_up();
        bench
    }

    pub(crate) fn drain(&mut self) {
        while let Some(output) = self.driver.poll_output() {
            match output {
                DriverOutput::Report(report) => self.reports.push(report),
                DriverOutput::Link(LinkEvent::Up(profile)) => {
                    self.profile = Some(profile.clone());
                    self.outputs.push_back(DriverOutput::Link(LinkEvent::Up(profile)));
                }
                output => self.outputs.push_back(output),
            }
        }
    }

    pub(crate) fn advance_to(&mut self, now: Instant) {
        assert!(now >= self.now, "time goes on");
        self.now = now;
        self.driver.handle_timeout(now);
        self.drain();
    }

    /// The next output but reports; lets time pass until there is one.
    pub(crate) fn next(&mut self) -> DriverOutput {
        for _ in 0..100 {
            if let Some(output) = self.outputs.pop_front() {
                return output;
            }
            let due = self.driver.poll_timeout().expect("something to wait for");
            self.advance_to(due.max(self.now));
        }
        panic!("nothing happens");
    }

    pub(crate) fn expect_write(&mut self, octets: &str) {
        match self.next() {
            DriverOutput::Write(written) => {
                assert_eq!(String::from_utf8_lossy(&written), octets, "at {}", self.now);
            }
            other => panic!("instead of writing {octets:?}: {other:?} at {}", self.now),
        }
    }

    /// A command, with its line end.
    pub(crate) fn expect(&mut self, command: &str) {
        self.expect_write(&format!("{command}\r\n"));
    }

    pub(crate) fn send(&mut self, octets: impl AsRef<[u8]>) {
        // Some time for the line, so that no two things happen at once.
        self.now = self.now + Duration::from_millis(2);
        self.driver.received(self.now, octets.as_ref());
        self.drain();
    }

    /// The modem writes a line.
    pub(crate) fn line(&mut self, line: &str) {
        self.send(format!("{line}\r\n"));
    }

    /// Commands, and what the modem answers to each: lines between `|`.
    pub(crate) fn talk(&mut self, talk: &[(&str, &str)]) {
        for (command, answer) in talk {
            self.expect(command);
            for line in answer.split('|').filter(|line| !line.is_empty()) {
                self.line(line);
            }
        }
    }

    pub(crate) fn expect_link(&mut self, event: LinkEvent) {
        assert_eq!(self.next(), DriverOutput::Link(event), "at {}", self.now);
    }

    pub(crate) fn expect_up(&mut self) {
        let output = self.next();
        assert!(
            matches!(output, DriverOutput::Link(LinkEvent::Up(_))),
            "{output:?}"
        );
    }

    pub(crate) fn expect_received(&mut self) -> (LinkAddr, RadioFacts, Vec<u8>) {
        match self.next() {
            DriverOutput::Received {
                from,
                facts,
                datagram,
            } => (from, facts, datagram),
            other => panic!("instead of a datagram: {other:?}"),
        }
    }

    /// Nothing was output but reports.
    pub(crate) fn expect_nothing(&mut self) {
        assert_eq!(self.outputs, []);
    }

    /// The core hands over a datagram.
    pub(crate) fn transmit(&mut self, ticket: u32, to: &Destination, datagram: &[u8]) {
        self.driver.transmit(self.now, to, datagram, TxTicket(ticket));
        self.drain();
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        self.advance_to(self.now + time);
    }
}

pub(crate) fn wire() -> Destination {
    peer(LinkAddr::Wire)
}

pub(crate) fn radio(octets: &[u8]) -> LinkAddr {
    LinkAddr::Radio(octets.iter().copied().collect())
}

pub(crate) fn peer(addr: LinkAddr) -> Destination {
    let local = LocalEnd::default();
    Destination::Peer(Route { addr, local })
}

pub(crate) fn sent(ticket: u32) -> LinkEvent {
    LinkEvent::Sent(TxTicket(ticket))
}

pub(crate) fn unsent(ticket: u32) -> LinkEvent {
    LinkEvent::Unsent(TxTicket(ticket))
}

pub(crate) const RAK3172: &[(&str, &str)] = &[
    ("AT", "OK"),
    ("AT+PRECV=0", "OK"),
    ("AT+VER=?", "AT+VER=RUI_4.0.6_RAK3172-E|OK"),
    ("AT+NWM=?", "AT+NWM=0|OK"),
    ("AT+PRECV=0", "OK"),
    ("AT+P2P=?", "AT+P2P=868000000:7:0:0:8:14|OK"),
    ("AT+P2P=868100000:9:125:0:8:14:1", "OK"),
    ("AT+ENCRY=0", "OK"),
    ("AT+CAD=0", "OK"),
    ("AT+IQINVER=0", "OK"),
    ("AT+SYNCWORD=1424", "OK"),
    ("AT+PRECV=65533", "OK"),
];

/// The answers of [`RAK3172`] up to the last command.
pub(crate) fn rak3172_until_listening() -> &'static [(&'static str, &'static str)] {
    &RAK3172[..RAK3172.len() - 1]
}

pub(crate) const RAK4270: &[(&str, &str)] = &[
    ("at+version", "OK V3.2.0.16.LoRaNode"),
    ("at+set_config=lorap2p:transfer_mode:2", "OK"),
    ("at+version", "OK V3.2.0.16.LoRaNode"),
    ("at+set_config=lora:work_mode:1", "OK|Initialization OK"),
    ("at+set_config=lorap2p:868100000:9:0:1:8:14", "OK"),
    ("at+set_config=lorap2p:transfer_mode:1", "OK"),
];

pub(crate) const RN2483: &[(&str, &str)] = &[
    ("sys get ver", "RN2483 1.0.5 Oct 31 2018 15:06:52"),
    ("radio rxstop", "ok"),
    ("sys get ver", "RN2483 1.0.5 Oct 31 2018 15:06:52"),
    ("mac pause", "4294967245"),
    ("radio set mod lora", "ok"),
    ("radio set freq 868100000", "ok"),
    ("radio set pwr 14", "ok"),
    ("radio set sf sf9", "ok"),
    ("radio set bw 125", "ok"),
    ("radio set cr 4/5", "ok"),
    ("radio set prlen 8", "ok"),
    ("radio set crc on", "ok"),
    ("radio set iqi off", "ok"),
    ("radio set sync 12", "ok"),
    ("radio set wdt 0", "ok"),
    ("radio rx 0", "ok"),
];

pub(crate) const RYLR998: &[(&str, &str)] = &[
    ("AT", "+OK"),
    ("AT+VER?", "+VER=RYLR998_REYAX_V1.2.2"),
    ("AT+MODE=0", "+OK"),
    ("AT+ADDRESS=1", "+OK"),
    ("AT+NETWORKID=18", "+OK"),
    ("AT+BAND=868100000", "+OK"),
    ("AT+PARAMETER=9,7,1,12", "+OK"),
    ("AT+CRFOP=14", "+OK"),
    ("AT+ADDRESS?", "+ADDRESS=1"),
    ("AT+NETWORKID?", "+NETWORKID=18"),
    ("AT+BAND?", "+BAND=868100000"),
    ("AT+PARAMETER?", "+PARAMETER=9,7,1,12"),
    ("AT+CRFOP?", "+CRFOP=14"),
];
