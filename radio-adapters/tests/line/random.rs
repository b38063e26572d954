//! Whatever the line brings and the clock does: nothing handed over is lost, no credit is given twice, nothing turns in
//! circles.

use core::time::Duration;
use std::collections::BTreeSet;

use gateway_core::io::{Destination, LinkEvent, TxTicket};
use proptest::collection::vec;
use proptest::prelude::*;
use radio_adapters::driver::DriverOutput;
use radio_adapters::settings::{LinkHeader, LoraDriver, LoraSettings};

use crate::bench::{Bench, RAK3172, RAK4270, RN2483, RYLR998, peer, radio, settings};

const KINDS: [(LoraDriver, &[(&str, &str)]); 4] = [
    (LoraDriver::Rak3172, RAK3172),
    (LoraDriver::Rak4270, RAK4270),
    (LoraDriver::Rn2483, RN2483),
    (LoraDriver::Rylr998, RYLR998),
];

/// Lines that mean something to one of them.
const LINES: &[&str] = &[
    "OK",
    "ok",
    "+OK",
    "busy",
    "AT_BUSY_ERROR",
    "+ERR=17",
    "ERROR: 80",
    "invalid_param",
    "AT_PARAM_ERROR",
    "+ERR=13",
    "ERROR: 2",
    "+ERR=12",
    "radio_err",
    "radio_tx_ok",
    "+EVT:TXP2P DONE",
    "radio_rx  0005070003",
    "+EVT:RXP2P:-61:11:0005070003",
    "+EVT:RXP2P, RSSI -60, SNR 11",
    "+EVT:0005070003",
    "+EVT:RXP2P RECEIVE ERROR",
    "at+recv=-30,7,5:0005070003",
    "+RCV=7,4,AwEB,-1,2",
    "+RCV=7,200,AwEB,-1,2",
    "RAKwireless",
    "Initialization OK",
    "+READY",
    "RN2483 1.0.5 Oct 31 2018 15:06:52",
    "RN2483 1.0.1 Dec 15 2015 09:38:09",
    "4294967245",
    "P2P_RX_OFF",
];

#[derive(Debug, Clone)]
enum Action {
    /// The modem answers as it does in its set-up.
    Answer,
    Line(usize),
    Octets(Vec<u8>),
    /// Time passes up to the next deadline.
    Deadline,
    Wait(u64),
    Transmit {
        len: usize,
        broadcast: bool,
    },
    Close,
    Open,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        12 => Just(Action::Answer),
        8 => (0..LINES.len()).prop_map(Action::Line),
        1 => vec(any::<u8>(), 0..1500).prop_map(Action::Octets),
        6 => Just(Action::Deadline),
        2 => (0_u64..5_000).prop_map(Action::Wait),
        6 => (0_usize..260, any::<bool>()).prop_map(|(len, broadcast)| Action::Transmit { len, broadcast }),
        1 => Just(Action::Close),
        1 => Just(Action::Open),
    ]
}

struct World {
    bench: Bench,
    driver: LoraDriver,
    talk: &'static [(&'static str, &'static str)],
    asked: Option<String>,
    open: bool,
    up: bool,
    credit: u32,
    next: u32,
    unsettled: BTreeSet<u32>,
}

impl World {
    fn observe(&mut self) {
        self.bench.drain();
        while let Some(output) = self.bench.outputs.pop_front() {
            match output {
                DriverOutput::Write(octets) => {
                    assert!(self.open, "writes to a closed port");
                    self.asked = Some(
                        String::from_utf8(octets)
                            .expect("commands are text")
                            .trim()
                            .into(),
                    );
                }
                DriverOutput::Link(LinkEvent::Up(profile)) => {
                    assert!(!self.up);
                    self.up = true;
                    self.credit = profile.credit;
                }
                DriverOutput::Link(LinkEvent::Down) => {
                    assert!(self.up);
                    assert_eq!(self.unsettled, BTreeSet::new(), "settled before the link is down");
                    self.up = false;
                    self.credit = 0;
                }
                DriverOutput::Link(LinkEvent::Credit(credit)) => {
                    assert!(self.up);
                    self.credit += credit;
                    assert_eq!(self.credit, 1);
                }
                DriverOutput::Link(LinkEvent::Sent(ticket) | LinkEvent::Unsent(ticket)) => {
                    assert!(self.unsettled.remove(&ticket.0), "settled twice");
                }
                DriverOutput::Link(other) => panic!("{other:?}"),
                DriverOutput::Reopen => self.close(),
                DriverOutput::Received { datagram, .. } => assert!(!datagram.is_empty()),
                DriverOutput::SetBaud(_) | DriverOutput::Break(_) => {}
                DriverOutput::Report(_) => unreachable!("kept by the bench"),
            }
        }
        // The clock stands still until everything due is done.
        for _ in 0..20 {
            match self.bench.driver.poll_timeout() {
                Some(due) if due <= self.bench.now => self.bench.driver.handle_timeout(self.bench.now),
                Some(_) | None => return,
            }
        }
        panic!("turns in circles");
    }

    fn close(&mut self) {
        self.open = false;
        self.bench.driver.closed(self.bench.now);
        self.bench.drain();
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Answer => {
                let asked = self.asked.take().unwrap_or_default();
                let known = self.talk.iter().find(|(command, _)| *command == asked);
                let answer = match (known, self.driver) {
                    (Some((_, answer)), _) => *answer,
                    (None, LoraDriver::Rn2483) => "ok",
                    (None, LoraDriver::Rylr998) => "+OK",
                    (None, _) => "OK",
                };
                for line in answer.split('|') {
                    self.bench.line(line);
                }
            }
            Action::Line(line) => self.bench.line(LINES[*line]),
            Action::Octets(octets) => self.bench.send(octets),
            Action::Deadline => {
                if let Some(due) = self.bench.driver.poll_timeout() {
                    self.bench.advance_to(due.max(self.bench.now));
                }
            }
            Action::Wait(ms) => self.bench.wait(Duration::from_millis(*ms)),
            Action::Transmit { len, broadcast } => {
                let ticket = self.next;
                self.next += 1;
                self.unsettled.insert(ticket);
                self.credit = self.credit.saturating_sub(1);
                let to = match (broadcast, self.driver) {
                    (true, _) => Destination::Broadcast,
                    (false, LoraDriver::Rylr998) => peer(radio(&[0, 5])),
                    (false, _) => peer(radio(&[5])),
                };
                self.bench
                    .driver
                    .transmit(self.bench.now, &to, &vec![7; *len], TxTicket(ticket));
            }
            Action::Close if self.open => self.close(),
            Action::Open if !self.open => {
                self.open = true;
                self.bench.driver.opened(self.bench.now);
            }
            Action::Close | Action::Open => {}
        }
        self.observe();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn everything_handed_over_is_settled_once(
        kind in 0..KINDS.len(),
        signal: bool,
        set_up: bool,
        actions in vec(action(), 1..150),
    ) {
        let (driver, talk) = KINDS[kind];
        let settings = LoraSettings {
            header: LinkHeader::RadioHead { address: 0, acks: true },
            ask_signal: signal,
            duty_cycle_ppm: None,
            ..settings(driver)
        };
        let mut world = World {
            bench: Bench::open(&settings),
            driver,
            talk,
            asked: None,
            open: true,
            up: false,
            credit: 0,
            next: 1,
            unsettled: BTreeSet::new(),
        };
        world.observe();
        if set_up {
            for _ in 0..2 * talk.len() {
                world.act(&Action::Deadline);
                world.act(&Action::Answer);
            }
        }

        for action in &actions {
            world.act(action);
        }

        world.act(&Action::Close);
        prop_assert_eq!(world.unsettled, BTreeSet::new());
        prop_assert!(!world.up);
    }
}
