//! Whatever an XBee, its line and the clock do, the driver stays in bounds and every datagram has one end.
//!
//! An input is a list of pieces: what happens, a length, and so many octets.

#![no_main]

use core::time::Duration;
use std::collections::BTreeSet;

use gateway_core::io::{Destination, LinkEvent, TxTicket};
use gateway_core::peer::{LinkAddr, LocalEnd, Route};
use gateway_core::time::Instant;
use libfuzzer_sys::fuzz_target;
use radio_adapters::driver::{Driver, DriverOutput};
use radio_adapters::settings::{PortSettings, XbeeSettings};
use radio_adapters::xbee::frame::{At, Frame, FrameId};
use radio_adapters::xbee::framing::{DATA_MAX, Deframer, Mode, encode};

fuzz_target!(|input: &[u8]| {
    let mut site = Site::new();
    let mut rest = input;
    while let [kind, len, octets @ ..] = rest {
        let (piece, later) = octets.split_at(usize::from(*len).min(octets.len()));
        rest = later;
        site.take(*kind, piece);
    }
    site.driver.closed(site.now);
    site.drain();
    assert!(site.under_way.is_empty());
    assert!(!site.up);
});

struct Site {
    now: Instant,
    driver: Box<dyn Driver>,
    /// The question that waits for an answer.
    asked: Option<(FrameId, At)>,
    /// The last transmission.
    transmitted: FrameId,
    mode: Mode,
    up: bool,
    credit: u32,
    tickets: u32,
    under_way: BTreeSet<u32>,
}

impl Site {
    fn new() -> Site {
        let settings = XbeeSettings {
            port: PortSettings {
                path: "unused".into(),
                baud: 9600,
                hardware_flow: true,
                reopen_first: Duration::from_millis(500),
                reopen_max: Duration::from_secs(5),
            },
            api_mode: 2,
            mtu: None,
            last_hop_rssi: true,
        };
        let mut site = Site {
            now: Instant::START,
            driver: radio_adapters::xbee::driver(&settings),
            asked: None,
            transmitted: FrameId::NONE,
            mode: Mode::Escaped,
            up: false,
            credit: 0,
            tickets: 0,
            under_way: BTreeSet::new(),
        };
        site.driver.opened(site.now);
        site.drain();
        site
    }

    fn take(&mut self, kind: u8, piece: &[u8]) {
        match kind % 8 {
            0 => self.receive(piece),
            1 => self.say(piece),
            2 => {
                let Some((id, command)) = self.asked.take() else {
                    return;
                };
                let (status, value) = piece.split_first().unwrap_or((&0, &[]));
                self.say(
                    &Frame::AtResponse {
                        id,
                        command,
                        status: *status,
                        value,
                    }
                    .encode(),
                );
            }
            3 => self.answer_all(),
            4 => self.transmit(piece),
            5 => {
                let delivery = piece.first().copied().unwrap_or(0);
                self.say(&[0x8B, self.transmitted.0, 0x12, 0x34, 0, delivery, 0]);
            }
            6 => {
                let millis = piece
                    .iter()
                    .fold(0_u64, |millis, octet| millis << 8 | u64::from(*octet));
                self.pass(Duration::from_millis(millis % 100_000));
            }
            _ => {
                self.driver.closed(self.now);
                self.drain();
                self.driver.opened(self.now);
                self.drain();
            }
        }
    }

    /// Answers like a modem that is in a network and knows little.
    fn answer_all(&mut self) {
        self.pass(Duration::from_millis(100));
        for _ in 0..40 {
            let Some((id, command)) = self.asked.take() else {
                return;
            };
            let value: &[u8] = match &command.0 {
                b"AP" => &[2],
                b"AI" | b"AR" => &[0],
                _ => &[],
            };
            let status = if value.is_empty() { 2 } else { 0 };
            self.say(
                &Frame::AtResponse {
                    id,
                    command,
                    status,
                    value,
                }
                .encode(),
            );
        }
    }

    fn transmit(&mut self, piece: &[u8]) {
        let Some((to, datagram)) = piece.split_first().filter(|_| self.credit > 0) else {
            return;
        };
        self.credit -= 1;
        self.tickets += 1;
        self.under_way.insert(self.tickets);
        let to = match to % 4 {
            0 => Destination::Broadcast,
            short_or_long => Destination::Peer(Route {
                addr: LinkAddr::Radio(
                    core::iter::repeat_n(*to, if short_or_long == 1 { 2 } else { 8 }).collect(),
                ),
                local: LocalEnd::default(),
            }),
        };
        self.driver
            .transmit(self.now, &to, datagram, TxTicket(self.tickets));
        self.drain();
    }

    fn say(&mut self, data: &[u8]) {
        let mut wire = Vec::new();
        encode(self.mode, data, &mut wire);
        self.receive(&wire);
    }

    fn receive(&mut self, octets: &[u8]) {
        self.driver.received(self.now, octets);
        self.drain();
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut steps = 0;
        while let Some(at) = self.driver.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.driver.handle_timeout(self.now);
            self.drain();
            steps += 1;
            assert!(steps < 10_000, "it never rests: {:?}", self.driver);
        }
        self.now = end;
    }

    fn drain(&mut self) {
        while let Some(output) = self.driver.poll_output() {
            match output {
                DriverOutput::Write(octets) => self.read(&octets),
                DriverOutput::Link(event) => self.on_link(event),
                DriverOutput::SetBaud(_)
                | DriverOutput::Break(_)
                | DriverOutput::Received { .. }
                | DriverOutput::Reopen
                | DriverOutput::Report(_) => {}
            }
        }
    }

    fn read(&mut self, octets: &[u8]) {
        for mode in [Mode::Escaped, Mode::Plain] {
            Deframer::new(mode, DATA_MAX).feed(octets, |frame| match frame.ok().and_then(Frame::decode) {
                Some(Frame::AtCommand { id, command, .. }) => self.asked = Some((id, command)),
                Some(Frame::Transmit { id, .. }) => self.transmitted = id,
                _ => {}
            });
        }
    }

    fn on_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up(profile) => {
                assert!(!self.up && self.under_way.is_empty());
                (self.up, self.credit) = (true, profile.credit);
            }
            LinkEvent::Down => {
                assert!(self.up && self.under_way.is_empty());
                (self.up, self.credit) = (false, 0);
            }
            LinkEvent::Credit(more) => {
                self.credit += more;
                assert!(self.up && self.credit <= 12);
            }
            LinkEvent::Sent(ticket) | LinkEvent::Unsent(ticket) => {
                assert!(self.under_way.remove(&ticket.0), "{ticket:?} ended twice");
            }
            LinkEvent::PeerIdentified { .. } | LinkEvent::PeerGone { .. } => {}
        }
    }
}
