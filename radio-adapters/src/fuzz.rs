//! What the fuzz targets run, for any octets: sessions of drivers, and deframers.
//!
//! An input of a driver's target is a list of steps, after one octet that chooses the settings:
//!
//! | First octet | Step |
//! |---|---|
//! | 0x00..=0x7F | the line brings the octets that follow, one more than this says |
//! | 0x80..=0x9F | two to the power of the low five bits in microseconds pass |
//! | 0xA0..=0xAF | a datagram is sent if there is credit, of 20 times the low four bits octets |
//! | 0xB0..=0xBF | the port goes away and comes back |
//! | others | one of a modem's usual answers |

use core::time::Duration;
use std::collections::HashSet;

use gateway_core::airtime::Lora;
use gateway_core::io::{Destination, LinkEvent, LinkProfile, TxTicket};
use gateway_core::peer::{LinkAddr, LocalEnd, Route};
use gateway_core::time::Instant;

use crate::driver::{Driver, DriverOutput, DropReason};
use crate::framing::{Deframer, encode};
use crate::raw::RawSerial;
use crate::settings::{
    Crc, Framing, LinkHeader, LoraDriver, LoraSettings, Metadata, PortSettings, RawSettings, XbeeSettings,
};
use crate::{line, xbee};

/// Outputs of one call beyond which a driver is taken to loop.
const OUTPUTS_MAX: usize = 10_000;

/// Time-outs at one instant beyond which it is taken to spin.
const TIMEOUTS_MAX: usize = 200;

/// The longest thing that a driver may make of a line or for it.
const OCTETS_MAX: usize = 4096;

const FRAMINGS: [Framing; 5] = [
    Framing::LengthPrefix,
    Framing::Slip,
    Framing::Cobs,
    Framing::Hdlc,
    Framing::Kiss,
];

const ANSWERS: [&[u8]; 16] = [
    b"OK\r\n",
    b"ok\r\n",
    b"+OK\r\n",
    b"busy\r\n",
    b"invalid_param\r\n",
    b"radio_err\r\n",
    b"radio_tx_ok\r\n",
    b"4294967245\r\n",
    b"RN2483 1.0.5 Oct 31 2018 15:06:52\r\n",
    b"+EVT:TXP2P DONE\r\n",
    b"AT_BUSY_ERROR\r\n",
    b"AT_PARAM_ERROR\r\n",
    b"+EVT:RXP2P:-61:11:0005000003",
    b"+RCV=5,4,AwUA,-47,12\r\n",
    b"+ERR=4\r\n",
    b"\r\n",
];

/// A stream of octets gives the same frames however it is cut, none too large, and a frame after it arrives.
///
/// The first octet chooses the framing, the second where the stream is cut.
pub fn framing(input: &[u8]) {
    const MAX: usize = 64;
    const NEXT: &[u8] = &[3, 1, 1];
    let (&[kind, cut], stream) = input.split_first_chunk().unwrap_or((&[0, 0], input));
    let framing = FRAMINGS[usize::from(kind) % FRAMINGS.len()];
    let mut whole = Vec::new();
    let mut deframer = Deframer::new(framing, MAX, 0);
    push(&mut deframer, stream, &mut whole);
    let mut pieces = Vec::new();
    let mut again = Deframer::new(framing, MAX, 0);
    for piece in stream.chunks(usize::from(cut).max(1)) {
        push(&mut again, piece, &mut pieces);
    }
    assert_eq!(whole, pieces, "{framing:?}");
    let sizes = whole.iter().flatten().map(Vec::len);
    assert!(sizes.into_iter().all(|len| (1..=MAX).contains(&len)));

    deframer.gap();
    let mut last = Vec::new();
    push(&mut deframer, &encode(framing, NEXT), &mut last);
    assert_eq!(last.pop(), Some(Ok(NEXT.to_vec())), "{framing:?}");
}

/// A session of the raw serial driver; true if the link was up at some time.
pub fn raw_serial(input: &[u8]) -> bool {
    let (&kind, steps) = input.split_first().unwrap_or((&0, input));
    let header = match kind / 5 % 3 {
        0 => LinkHeader::None,
        1 => LinkHeader::Forwarder,
        _ => LinkHeader::RadioHead {
            address: 0,
            acks: true,
        },
    };
    let metadata = match kind / 15 % 3 {
        0 => Metadata::None,
        1 => Metadata::RssiBefore,
        _ => Metadata::RssiAfter,
    };
    let driver = RawSerial::new(RawSettings {
        port: port(9600),
        framing: FRAMINGS[usize::from(kind) % FRAMINGS.len()],
        crc: if kind & 1 == 0 { Crc::None } else { Crc::Xmodem },
        header,
        metadata,
        fixed_prefix: vec![0xFF; usize::from(kind / 45 % 4)],
        air_rate: (kind & 2 == 0).then_some(2400),
        mtu: 222,
        settle: Duration::from_millis(u64::from(kind & 4) * 500),
        turnaround: Duration::from_millis(u64::from(kind & 8)),
        echo: kind & 16 != 0,
        duty_cycle_ppm: None,
    });
    Session::new(Box::new(driver), &[5]).run(steps)
}

/// A session of the XBee driver; true if the link was up at some time.
pub fn xbee(input: &[u8]) -> bool {
    let (&kind, steps) = input.split_first().unwrap_or((&0, input));
    let driver = xbee::driver(&XbeeSettings {
        port: port(9600),
        api_mode: 1 + kind % 2,
        mtu: None,
        last_hop_rssi: kind & 2 != 0,
    });
    Session::new(driver, &0x0013_A200_40B0_0001_u64.to_be_bytes()).run(steps)
}

/// A session of a LoRa modem's driver; true if the link was up at some time.
pub fn lora_at(input: &[u8]) -> bool {
    let (&kind, steps) = input.split_first().unwrap_or((&0, input));
    let (_, modem) = LoraDriver::ALL[usize::from(kind) % LoraDriver::ALL.len()];
    let settings = LoraSettings {
        driver: modem,
        port: port(match modem {
            LoraDriver::Rn2483 | LoraDriver::Rn2903 => 57_600,
            _ => 115_200,
        }),
        header: if kind & 0x80 == 0 {
            LinkHeader::RadioHead {
                address: 0,
                acks: false,
            }
        } else {
            LinkHeader::RadioHead {
                address: 0,
                acks: true,
            }
        },
        frequency_hz: match modem {
            LoraDriver::Rn2903 => 915_000_000,
            _ => 868_100_000,
        },
        modulation: Lora {
            spreading_factor: 7,
            bandwidth_hz: 125_000,
            coding_rate: 5,
            preamble: modem.abilities().preamble,
        },
        sync_word: 0x12,
        tx_power_dbm: 14,
        network_id: if modem == LoraDriver::Rylr896 { 6 } else { 18 },
        address: 1,
        turnaround: Duration::from_millis(20),
        ask_signal: kind & 0x40 != 0,
        mtu: None,
        duty_cycle_ppm: None,
    };
    let driver = line::driver(&settings).expect("settings that the modem can have");
    let addr: &[u8] = if modem.abilities().addresses {
        &[0, 5]
    } else {
        &[5]
    };
    Session::new(driver, addr).run(steps)
}

/// A driver, and what it owes.
struct Session {
    driver: Box<dyn Driver>,
    /// Of a node that datagrams are for.
    node: LinkAddr,
    now: Instant,
    up: bool,
    was_up: bool,
    credit: u32,
    next_ticket: u32,
    under_way: HashSet<TxTicket>,
    /// It wants the port opened again.
    reopen: bool,
}

impl Session {
    fn new(driver: Box<dyn Driver>, node: &[u8]) -> Session {
        Session {
            driver,
            node: LinkAddr::Radio(node.iter().copied().collect()),
            now: Instant::from_micros(1_000_000),
            up: false,
            was_up: false,
            credit: 0,
            next_ticket: 0,
            under_way: HashSet::new(),
            reopen: false,
        }
    }

    fn run(&mut self, steps: &[u8]) -> bool {
        self.driver.opened(self.now);
        self.drain();
        let mut rest = steps;
        while let Some((&step, after)) = rest.split_first() {
            rest = after;
            match step {
                0x00..=0x7F => {
                    let (octets, after) = rest.split_at(rest.len().min(usize::from(step) + 1));
                    rest = after;
                    self.receive(octets);
                }
                0x80..=0x9F => self.pass(Duration::from_micros(1 << (step & 0x1F))),
                0xA0..=0xAF => self.transmit(usize::from(step & 0x0F) * 20),
                0xB0..=0xBF => self.close(),
                0xC0..=0xFF => self.receive(ANSWERS[usize::from(step) % ANSWERS.len()]),
            }
            if self.reopen {
                self.close();
            }
        }
        self.close();
        self.was_up
    }

    fn receive(&mut self, octets: &[u8]) {
        self.driver.received(self.now, octets);
        self.drain();
    }

    fn transmit(&mut self, len: usize) {
        if !self.up || self.credit == 0 {
            return;
        }
        self.credit -= 1;
        let ticket = TxTicket(self.next_ticket);
        self.next_ticket += 1;
        self.under_way.insert(ticket);
        let to = match self.next_ticket % 3 {
            0 => Destination::Broadcast,
            1 => peer(self.node.clone()),
            _ => peer(LinkAddr::Wire),
        };
        let datagram = vec![self.next_ticket as u8; len];
        self.driver.transmit(self.now, &to, &datagram, ticket);
        self.drain();
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut at_once = 0;
        // A driver that tries again for ever may do so for this long.
        for _ in 0..OUTPUTS_MAX {
            let Some(at) = self.driver.poll_timeout().filter(|at| *at <= end) else {
                break;
            };
            at_once = if at <= self.now { at_once + 1 } else { 0 };
            assert!(at_once < TIMEOUTS_MAX, "it spins: {:?}", self.driver);
            self.now = self.now.max(at);
            self.driver.handle_timeout(self.now);
            self.drain();
            if self.reopen {
                self.close();
            }
        }
        self.now = end;
    }

    /// The port goes away, and comes back.
    fn close(&mut self) {
        self.driver.closed(self.now);
        self.drain();
        assert!(!self.up, "a link without a port is down");
        assert!(
            self.under_way.is_empty(),
            "what was not sent is given back: {:?}",
            self.under_way
        );
        self.reopen = false;
        self.driver.opened(self.now);
        self.drain();
    }

    fn drain(&mut self) {
        for _ in 0..OUTPUTS_MAX {
            let Some(output) = self.driver.poll_output() else {
                return;
            };
            match output {
                DriverOutput::Write(octets) => assert!(octets.len() <= OCTETS_MAX),
                DriverOutput::Received { datagram, .. } => assert!(datagram.len() <= OCTETS_MAX),
                DriverOutput::Link(event) => self.link(event),
                DriverOutput::Reopen => self.reopen = true,
                DriverOutput::SetBaud(baud) => assert!(baud > 0),
                DriverOutput::Break(_) | DriverOutput::Report(_) => {}
            }
        }
        panic!("it never ends: {:?}", self.driver);
    }

    fn link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up(profile) => {
                assert!(!self.up, "it comes up once");
                assert_ne!(profile.credit, LinkProfile::UNLIMITED);
                self.up = true;
                self.was_up = true;
                self.credit = profile.credit;
            }
            LinkEvent::Down => {
                assert!(self.up, "it goes down once");
                self.up = false;
                self.credit = 0;
            }
            LinkEvent::Credit(datagrams) => {
                assert!(self.up, "credit of a link that is down");
                self.credit += datagrams;
                assert!(self.credit <= 64, "more credit than anything takes");
            }
            LinkEvent::Sent(ticket) | LinkEvent::Unsent(ticket) => {
                assert!(self.under_way.remove(&ticket), "{ticket:?} has ended before");
            }
            LinkEvent::PeerIdentified { .. } | LinkEvent::PeerGone { .. } => {}
        }
    }
}

fn push(deframer: &mut Deframer, octets: &[u8], frames: &mut Vec<Result<Vec<u8>, DropReason>>) {
    deframer.push(octets, &mut |frame| frames.push(frame.map(<[u8]>::to_vec)));
}

fn peer(addr: LinkAddr) -> Destination {
    Destination::Peer(Route {
        addr,
        local: LocalEnd::default(),
    })
}

fn port(baud: u32) -> PortSettings {
    PortSettings {
        path: "unused".into(),
        baud,
        hardware_flow: false,
        reopen_first: Duration::from_secs(1),
        reopen_max: Duration::from_secs(30),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    #[test]
    fn framing() {
        replay("framing", 10, |input| {
            super::framing(input);
            true
        });
    }

    #[test]
    fn raw_serial() {
        replay("raw_serial", 10, super::raw_serial);
    }

    #[test]
    fn xbee() {
        replay("xbee", 2, super::xbee);
    }

    #[test]
    fn lora_at() {
        replay("lora_at", 5, super::lora_at);
    }

    /// The corpus, in which so many links come up, and the fuzz target in small: it knows nothing of coverage, but goes
    /// on where sessions are right.
    fn replay(target: &str, up: usize, run: fn(&[u8]) -> bool) {
        let seeds = corpus(target);
        let came_up = seeds.iter().filter(|seed| run(seed)).count();
        assert!(came_up >= up, "{came_up} of {} came up", seeds.len());
        let change = (any::<Index>(), any::<u8>(), 0..4_u8);
        let changes = (any::<Index>(), vec(change, 1..8));
        proptest!(ProptestConfig::with_cases(3000), |((seed, changes) in changes)| {
            let mut octets = seed.get(&seeds).clone();
            for (at, value, kind) in changes {
                if octets.is_empty() {
                    break;
                }
                let at = at.index(octets.len());
                match kind {
                    0 => octets[at] = value,
                    1 => octets[at] ^= 1 << (value % 8),
                    2 => octets.insert(at, value),
                    _ => {
                        octets.remove(at);
                    }
                }
            }
            run(&octets);
        });
    }

    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/fuzz/corpus")
            .join(target);
        let mut seeds: Vec<_> = fs::read_dir(corpus)
            .unwrap()
            .map(|entry| fs::read(entry.unwrap().path()).unwrap())
            .collect();
        seeds.sort(); // A failing case names its seed by its place.
        seeds
    }
}
