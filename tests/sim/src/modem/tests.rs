//! What the modems say, by their makers' pages.

use core::time::Duration;

use gateway_core::time::Instant;

use super::rak::rak4270::{Rak4270, Rak4270Config};
use super::rak::{Firmware, Rak3172, Rak3172Config};
use super::rn::{Rn, RnConfig, RnModel};
use super::rylr::{Rylr, RylrConfig, RylrModel};
use super::{Fault, Mishap, SimModem, Uart, UartOutput};
use crate::ether::{AirRequest, Ether, EtherConfig, LoraTuning, Path, StationId, Tuning};

mod rak3172;
mod rak4270;
mod rn;
mod rylr;
mod uart;

/// The channel of most tests.
const SF7: LoraTuning = LoraTuning {
    frequency_hz: 868_100_000,
    spreading_factor: 7,
    bandwidth_hz: 125_000,
    coding_rate: 5,
    preamble: 8,
    sync: 0x1424,
    inverted_iq: false,
};

/// A modem on its line, a peer in its air, and a person at a terminal.
struct Desk {
    uart: Uart,
    ether: Ether,
    modem: StationId,
    peer: StationId,
    now: Instant,
    screen: Vec<u8>,
    /// What the peer heard.
    heard: Vec<Vec<u8>>,
    plugged: Vec<bool>,
}

impl Desk {
    /// The modem has started, and what it said then was read.
    fn new(modem: Box<dyn SimModem>) -> Desk {
        let mut desk = Desk::switched_off(modem);
        desk.uart.power_on(desk.now);
        desk.pass(2_000);
        desk.read();
        desk
    }

    fn switched_off(modem: Box<dyn SimModem>) -> Desk {
        let mut ether = Ether::new(EtherConfig {
            path: Path {
                rssi_dbm: -61,
                snr_db: 11,
                loss: 0.0,
            },
            ..EtherConfig::default()
        });
        Desk {
            uart: Uart::new(modem, 0, 1),
            modem: ether.join(),
            peer: ether.join(),
            ether,
            now: Instant::START,
            screen: Vec::new(),
            heard: Vec::new(),
            plugged: Vec::new(),
        }
        .at_baud(115_200)
    }

    fn at_baud(mut self, baud: u32) -> Desk {
        self.uart.set_host_baud(baud);
        self
    }

    /// Types a line and reads what is said within 50 ms.
    fn say(&mut self, line: &str) -> String {
        self.type_octets(format!("{line}\r\n").as_bytes());
        self.pass(50);
        self.read()
    }

    /// Types lines whose answers do not matter but for that they are no errors.
    fn set_up(&mut self, lines: &[&str]) {
        for line in lines {
            let answer = self.say(line).to_ascii_lowercase();
            let refused = answer.is_empty() || answer.contains("err") || answer.contains("invalid");
            assert!(!refused, "{line}: {answer}");
        }
    }

    fn type_octets(&mut self, octets: &[u8]) {
        self.uart.handle_octets(self.now, octets);
    }

    fn fault(&mut self, fault: Fault) {
        self.uart.fault(self.now, fault);
        self.settle();
    }

    /// The peer sends.
    fn peer_sends(&mut self, tuning: LoraTuning, payload: &[u8]) {
        let request = AirRequest::Send {
            tuning: Tuning::Lora(tuning),
            payload: payload.to_vec(),
        };
        self.ether.handle_request(self.now, self.peer, request);
    }

    fn peer_listens(&mut self, tuning: LoraTuning) {
        let request = AirRequest::Listen(Some(Tuning::Lora(tuning)));
        self.ether.handle_request(self.now, self.peer, request);
    }

    /// What was on the screen since the last look.
    fn read(&mut self) -> String {
        String::from_utf8(core::mem::take(&mut self.screen)).unwrap()
    }

    fn pass(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        loop {
            self.settle();
            let next = self
                .uart
                .poll_timeout()
                .into_iter()
                .chain(self.ether.poll_timeout())
                .min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            self.uart.handle_timeout(self.now);
            self.ether.handle_timeout(self.now);
        }
        self.now = end;
    }

    fn settle(&mut self) {
        loop {
            if let Some(output) = self.uart.poll_output() {
                match output {
                    UartOutput::ToHost(octets) => self.screen.extend(octets),
                    UartOutput::Unplugged => self.plugged.push(false),
                    UartOutput::Replugged => self.plugged.push(true),
                    UartOutput::Air(request) => self.ether.handle_request(self.now, self.modem, request),
                    UartOutput::Note(_) => {}
                }
            } else if let Some((station, event)) = self.ether.poll_event() {
                if station == self.modem {
                    self.uart.handle_air(self.now, event);
                } else if let crate::ether::AirEvent::Frame { payload, .. } = event {
                    self.heard.push(payload);
                }
            } else {
                return;
            }
        }
    }
}
