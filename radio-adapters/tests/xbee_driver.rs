//! The XBee driver, step by step, on a modem that says what the test wants.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use gateway_core::io::{Destination, LinkEvent, LinkProfile, RadioFacts, TxTicket};
use gateway_core::peer::{LinkAddr, LocalEnd, Route};
use gateway_core::time::Instant;
use proptest::collection::vec;
use proptest::prelude::*;
use radio_adapters::driver::{Driver, DriverOutput, DropReason, Recovery, Report};
use radio_adapters::settings::{PortSettings, XbeeSettings};
use radio_adapters::xbee::frame::{Addr16, Addr64, At, Frame, FrameId};
use radio_adapters::xbee::framing::{DATA_MAX, Deframer, Mode, encode};

const NODE: u64 = 0x0013_A200_40A1_B2C3;

#[test]
fn every_delivery_status_has_its_outcome() {
    // The status, whether the datagram left the antenna, and what is told.
    let outcomes: &[(u8, bool, Option<Report>)] = &[
        (0x00, true, None),
        (0x01, true, Some(Report::NotHeard)),
        (0x03, true, Some(Report::NotHeard)),
        (0x15, false, Some(Report::Dropped(DropReason::Refused))),
        (0x21, true, Some(Report::NotHeard)),
        (0x23, false, Some(Report::Dropped(DropReason::Refused))),
        (0x24, true, Some(Report::NotHeard)),
        (0x25, true, Some(Report::NotHeard)),
        (0x26, true, Some(Report::NotHeard)),
        (0x2E, false, Some(Report::Dropped(DropReason::Refused))),
        (0x34, false, Some(Report::Dropped(DropReason::Refused))),
        (0x35, false, Some(Report::Dropped(DropReason::Refused))),
        (0x74, false, Some(Report::Dropped(DropReason::TooLong))),
        (0x75, true, Some(Report::NotHeard)),
    ];
    let mut desk = Desk::up(ZIGBEE);
    for (status, left, report) in outcomes {
        let ticket = desk.transmit(NODE, &[3, 5, 0]);
        let id = desk.last_transmit().0;
        desk.status(id, Addr16::NOBODY, *status);
        let end = if *left {
            LinkEvent::Sent(ticket)
        } else {
            LinkEvent::Unsent(ticket)
        };
        assert_eq!(desk.link, [end, LinkEvent::Credit(1)], "{status:02x}");
        assert_eq!(
            desk.take_reports(),
            Vec::from_iter(report.clone()),
            "{status:02x}"
        );
        desk.link.clear();
    }
}

#[test]
fn a_busy_modem_gets_the_datagram_again_after_a_pause_and_less_of_them() {
    for status in [0x02, 0x2C, 0x32] {
        let mut desk = Desk::up(ZIGBEE);
        let tickets: Vec<_> = (0..4)
            .map(|number| desk.transmit(NODE, &[3, 5, number]))
            .collect();
        for (id, _) in desk.take_transmits() {
            desk.status(id, Addr16::NOBODY, status);
        }
        assert_eq!((desk.link.len(), desk.transmits.len()), (0, 0));

        desk.pass(Duration::from_millis(500));
        assert_eq!(desk.transmits.len(), 2, "the window is half as large");
        for _ in 0..2 {
            for (id, _) in desk.take_transmits() {
                desk.status(id, Addr16(0x1234), 0);
            }
        }
        let mut ends = desk.sent();
        ends.sort_by_key(|ticket| ticket.0);
        assert_eq!(ends, tickets);
        assert_eq!(desk.granted, 2);
    }
}

#[test]
fn a_modem_that_is_always_busy_does_not_keep_a_datagram() {
    let mut desk = Desk::up(ZIGBEE);
    let ticket = desk.transmit(NODE, &[3, 5, 0]);
    let mut tries = 0;
    while desk.link.is_empty() {
        for (id, _) in desk.take_transmits() {
            tries += 1;
            desk.status(id, Addr16::NOBODY, 0x32);
        }
        desk.pass(Duration::from_millis(500));
    }
    assert_eq!(tries, 6);
    assert_eq!(desk.link[0], LinkEvent::Unsent(ticket));
    assert_eq!(desk.take_reports(), [Report::Dropped(DropReason::Refused)]);
}

#[test]
fn network_addresses_are_remembered_until_they_fail() {
    let mut desk = Desk::up(ZIGBEE);
    // Unknown at first; the status tells it.
    desk.transmit(NODE, &[3, 5, 0]);
    let (id, frame) = desk.last_transmit();
    assert_eq!(dest(&frame), (Addr64(NODE), Addr16::UNKNOWN));
    desk.status(id, Addr16(0x1111), 0);
    desk.transmit(NODE, &[3, 5, 0]);
    assert_eq!(dest(&desk.last_transmit().1).1, Addr16(0x1111));

    // A packet tells the new one, a node identification as well.
    desk.packet(NODE, 0x2222, 0, &[2, 0x16]);
    desk.transmit(NODE, &[3, 5, 0]);
    assert_eq!(dest(&desk.last_transmit().1).1, Addr16(0x2222));
    desk.say(&Frame::NodeIdentification {
        sender64: Addr64(NODE),
        sender16: Addr16(0x3333),
        options: 0xC2,
        node16: Addr16(0x3333),
        node64: Addr64(NODE),
        details: b" \0\xFF\xFE\x01\x01\xC1\x05\x10\x1E",
    });
    desk.transmit(NODE, &[3, 5, 0]);
    let (id, frame) = desk.last_transmit();
    assert_eq!(dest(&frame).1, Addr16(0x3333));

    // Nobody has it any more: the modem searches.
    desk.status(id, Addr16::NOBODY, 0x24);
    let (id, frame) = desk.last_transmit();
    assert_eq!(dest(&frame).1, Addr16::UNKNOWN);
    assert_eq!(desk.sent().len(), 1, "the first");
    // Once.
    desk.status(id, Addr16::NOBODY, 0x24);
    assert_eq!(desk.take_reports(), [Report::NotHeard]);
    assert_eq!(desk.sent().len(), 2);
}

#[test]
fn routes_are_used_by_a_modem_that_collects_them() {
    for (aggregator, mtu) in [(0xFF, 84), (0x10, 74)] {
        let mut desk = Desk::up(&[ZIGBEE, &[(*b"AR", &[aggregator])]].concat());
        assert_eq!(desk.profile.as_ref().unwrap().mtu, mtu);
        let hops = vec![Addr16(0xEEFF), Addr16(0xCCDD), Addr16(0xAABB)];
        desk.say(&Frame::RouteRecord {
            source64: Addr64(NODE),
            source16: Addr16(0x3344),
            options: 1,
            hops: hops.clone(),
        });
        desk.packet(NODE, 0x3344, 1, &[2, 0x16]);
        assert_eq!(desk.received.pop().unwrap().1.hops, Some(4));

        desk.transmit(NODE, &[3, 5, 0]);
        let route = desk.others.pop();
        if aggregator == 0xFF {
            assert_eq!(route, None);
        } else {
            let expected = Frame::CreateSourceRoute {
                id: FrameId::NONE,
                dest64: Addr64(NODE),
                dest16: Addr16(0x3344),
                options: 0,
                hops,
            };
            assert_eq!(route, Some(expected.encode()));
        }
        // A way that failed is not tried again.
        let (id, _) = desk.last_transmit();
        desk.status(id, Addr16::NOBODY, 0x25);
        assert_eq!(dest(&desk.last_transmit().1).1, Addr16::UNKNOWN);
        assert_eq!(desk.others.pop(), None);
    }
}

#[test]
fn three_transmissions_without_a_status_reset_the_modem() {
    let mut desk = Desk::up(ZIGBEE);
    for number in 0..3 {
        desk.transmit(NODE, &[3, 5, number]);
    }
    desk.pass(Duration::from_secs(11));
    assert_eq!(desk.sent().len(), 3, "nobody knows that they were not");
    let reports = desk.take_reports();
    assert_eq!(
        reports[..3],
        [Report::NotHeard, Report::NotHeard, Report::NotHeard]
    );
    assert_eq!(reports[3], Report::Recovering(Recovery::Reset));
    assert!(desk.profile.is_none());
    assert_eq!(desk.asked.last(), Some(&At(*b"FR")));

    desk.say(&Frame::ModemStatus { status: 0 });
    desk.pass(Duration::from_secs(5));
    assert!(desk.profile.is_some());
}

#[test]
fn a_reset_that_does_not_happen_reopens_the_port() {
    let mut desk = Desk::up(ZIGBEE);
    desk.dead = true;
    for number in 0..3 {
        desk.transmit(NODE, &[3, 5, number]);
    }
    desk.pass(Duration::from_secs(17));
    assert_eq!(desk.reopens, 1);
    assert_eq!(
        desk.driver.poll_timeout(),
        None,
        "the rest is up to the serial port"
    );
}

#[test]
fn a_status_without_network_takes_the_link_down() {
    let mut desk = Desk::up(ZIGBEE);
    let first = desk.transmit(NODE, &[3, 5, 0]);
    let second = desk.transmit(NODE, &[3, 5, 1]);
    let (id, _) = desk.transmits[0].clone();
    desk.registers.insert(*b"AI", vec![0x21]);
    desk.status(id, Addr16::NOBODY, 0x22);
    assert_eq!(
        desk.link,
        [
            LinkEvent::Unsent(first),
            LinkEvent::Unsent(second),
            LinkEvent::Down
        ]
    );
    desk.pass(Duration::from_secs(30));
    assert!(desk.profile.is_none());

    desk.registers.insert(*b"AI", vec![0]);
    desk.pass(Duration::from_secs(10));
    assert!(desk.profile.is_some());
}

#[test]
fn ids_are_not_used_while_a_status_may_come() {
    let mut desk = Desk::up(ZIGBEE);
    desk.transmit(NODE, &[3, 5, 0]);
    let (open, _) = desk.last_transmit();
    for _ in 0..600 {
        desk.transmit(NODE, &[3, 5, 1]);
        let (id, _) = desk.last_transmit();
        assert_ne!(id, open);
        assert_ne!(id, FrameId::NONE);
        desk.status(id, Addr16(0x1111), 0);
    }
}

#[test]
fn the_window_grows_to_eight() {
    let mut desk = Desk::up(ZIGBEE);
    assert_eq!(desk.granted, 4);
    for _ in 0..500 {
        desk.transmit(NODE, &[3, 5, 1]);
        let (id, _) = desk.last_transmit();
        desk.status(id, Addr16(0x1111), 0);
    }
    assert_eq!(desk.granted, 8);
}

#[test]
fn a_datagram_without_credit_or_link_is_not_sent() {
    let mut desk = Desk::up(ZIGBEE);
    for number in 0..4 {
        desk.transmit(NODE, &[3, 5, number]);
    }
    desk.link.clear();
    let ticket = TxTicket(99);
    desk.hand_over(&peer(NODE), &[3, 5, 9], ticket);
    assert_eq!(desk.link, [LinkEvent::Unsent(ticket)]);

    desk.driver.closed(desk.now);
    desk.drain();
    desk.link.clear();
    desk.hand_over(&peer(NODE), &[3, 5, 9], ticket);
    assert_eq!(desk.link, [LinkEvent::Unsent(ticket)]);
}

#[test]
fn the_strength_of_the_last_hop_is_asked_for_where_it_is_wanted() {
    let mut desk = Desk::up_with(&[ZIGBEE, &[(*b"DB", &[0x30])]].concat(), |settings| {
        settings.last_hop_rssi = true;
    });
    desk.packet(NODE, 0x1111, 1, &[2, 0x16]);
    desk.packet(NODE, 0x1111, 1, &[2, 0x16]);
    let strengths: Vec<_> = desk.received.iter().map(|(_, facts, _)| facts.rssi_dbm).collect();
    assert_eq!(strengths, [None, Some(-48)]);

    let mut desk = Desk::up(&[ZIGBEE, &[(*b"DB", &[0x30])]].concat());
    desk.packet(NODE, 0x1111, 1, &[2, 0x16]);
    assert!(!desk.asked.contains(&At(*b"DB")));
}

#[test]
fn packets_of_endpoints_that_are_not_for_data_are_left_out() {
    let mut desk = Desk::up(ZIGBEE);
    let mut endpoints = radio_adapters::xbee::frame::Endpoints::DATA;
    for expected in [1, 1] {
        desk.say(&Frame::ReceiveExplicit {
            source64: Addr64(NODE),
            source16: Addr16(0x1111),
            endpoints,
            options: 1,
            data: &[2, 0x16],
        });
        assert_eq!(desk.received.len(), expected);
        endpoints.cluster = 0x0013;
        endpoints.profile = 0;
    }
    assert_eq!(desk.take_reports(), [Report::Dropped(DropReason::NotForUs)]);
}

#[test]
fn hardware_decides_what_network_it_is_and_new_hardware_by_what_it_knows() {
    let firmware = |registers: &[([u8; 2], &[u8])]| {
        let mut desk = Desk::open(registers, |_| {});
        desk.pass(Duration::from_secs(30));
        let ready = desk.reports.iter().find_map(|report| match report {
            Report::Ready { firmware, .. } => firmware.split_whitespace().next().map(str::to_owned),
            Report::Refused(reason) => Some(reason.clone()),
            _ => None,
        });
        ready.unwrap()
    };
    let of = |hv: &[u8], vr: &[u8]| firmware(&[(*b"HV", hv), (*b"VR", vr)]);
    assert_eq!(of(&[0x17, 0x44], &[0x10, 0xEC]), "802.15.4");
    assert_eq!(of(&[0x19, 0x43], &[0x21, 0xA7]), "Zigbee");
    assert_eq!(of(&[0x22, 0x48], &[0x20, 0x03]), "802.15.4");
    assert_eq!(of(&[0x22, 0x48], &[0x90, 0x02]), "DigiMesh");
    assert_eq!(of(&[0x41, 0x11], &[0x10, 0x0D]), "Zigbee");
    assert_eq!(of(&[0x42, 0x11], &[0x20, 0x0D]), "802.15.4");
    assert_eq!(of(&[0x42, 0x11], &[0x30, 0x0D]), "DigiMesh");
    assert_eq!(of(&[0x23, 0x57], &[0x80, 0x71]), "DigiMesh");
    assert!(of(&[0x27, 0x46], &[0x20, 0x24]).contains("Wi-Fi"));
    assert!(of(&[0x48, 0x01], &[0x11, 0x4E]).contains("cellular"));
    assert_eq!(firmware(&[(*b"HV", &[0x7F, 0]), (*b"OP", &[0; 8])]), "Zigbee");
    assert_eq!(firmware(&[(*b"HV", &[0x7F, 0]), (*b"MM", &[0])]), "802.15.4");
    assert_eq!(firmware(&[(*b"HV", &[0x7F, 0])]), "DigiMesh");
}

#[test]
fn settings_decide_the_largest_datagram_as_far_as_the_network_lets_them() {
    let sizes = |registers: &[([u8; 2], &[u8])], mtu: usize| {
        let desk = Desk::up_with(registers, |settings| settings.mtu = Some(mtu));
        let profile = desk.profile.unwrap();
        (profile.mtu, profile.broadcast_mtu)
    };
    assert_eq!(sizes(ZIGBEE, 40), (40, 40));
    assert_eq!(sizes(ZIGBEE, 200), (200, 84));
    assert_eq!(sizes(ZIGBEE, 1000), (255, 84));
    let ieee802154: &[([u8; 2], &[u8])] = &[(*b"HV", &[0x22, 0]), (*b"VR", &[0x20, 3]), (*b"NP", &[0, 0x74])];
    assert_eq!(sizes(ieee802154, 200), (116, 116));
}

#[test]
fn outputs_and_flow_control_are_set_where_they_must_be() {
    let mut desk = Desk::up_with(
        &[ZIGBEE, &[(*b"AO", &[1]), (*b"D6", &[0]), (*b"D7", &[0])]].concat(),
        |settings| {
            settings.port.hardware_flow = true;
        },
    );
    let value = |name: &[u8; 2]| desk.registers[name][0];
    assert_eq!((value(b"AO"), value(b"D6"), value(b"D7")), (0, 1, 1));
    assert_eq!(desk.take_reports(), [], "nothing was refused");

    let desk = Desk::up(&[(*b"HV", &[0x42, 0]), (*b"VR", &[0x20, 3]), (*b"AO", &[0])]);
    assert_eq!(desk.registers[b"AO"][0], 2, "the frames with the signal strength");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_datagram_has_one_end_whatever_happens(steps in vec(step(), 1..120), plain in any::<bool>()) {
        let mut desk = Desk::open(ZIGBEE, |_| {});
        desk.mode = if plain { Mode::Plain } else { Mode::Escaped };
        desk.registers.insert(*b"AP", vec![if plain { 1 } else { 2 }]);
        for step in steps {
            desk.take(step);
        }
        desk.driver.closed(desk.now);
        desk.drain();
        prop_assert!(desk.under_way.is_empty(), "{:?}", desk.under_way);
        prop_assert!(desk.profile.is_none());
    }
}

/// Something that happens.
#[derive(Debug, Clone)]
enum Step {
    Transmit(bool, u8),
    Status(u8, u8),
    AnyStatus(u8, u8),
    ModemStatus(u8),
    Packet(u8, Vec<u8>),
    Noise(Vec<u8>),
    Cut(Vec<u8>),
    Pass(u64),
    Dead(bool),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let status = prop::sample::select(vec![
        0x00, 0x01, 0x02, 0x21, 0x22, 0x24, 0x25, 0x2C, 0x32, 0x74, 0x99,
    ]);
    let event = prop::sample::select(vec![0_u8, 1, 2, 3, 6, 0x3E, 0x80]);
    prop_oneof![
        8 => (any::<bool>(), any::<u8>()).prop_map(|(broadcast, len)| Step::Transmit(broadcast, len)),
        8 => (any::<u8>(), status).prop_map(|(which, status)| Step::Status(which, status)),
        1 => any::<(u8, u8)>().prop_map(|(id, status)| Step::AnyStatus(id, status)),
        1 => event.prop_map(Step::ModemStatus),
        3 => (any::<u8>(), vec(any::<u8>(), 0..40)).prop_map(|(from, data)| Step::Packet(from, data)),
        1 => vec(any::<u8>(), 0..200).prop_map(Step::Noise),
        1 => vec(any::<u8>(), 1..40).prop_map(Step::Cut),
        6 => (0_u64..3_000).prop_map(Step::Pass),
        1 => (0_u64..70_000).prop_map(Step::Pass),
        1 => any::<bool>().prop_map(Step::Dead),
        1 => Just(Step::Reopen),
    ]
}

/// Registers of a coordinator.
const ZIGBEE: &[([u8; 2], &[u8])] = &[
    (*b"VR", &[0x40, 0x5F]),
    (*b"HV", &[0x2E, 0x46]),
    (*b"SH", &[0, 0x13, 0xA2, 0]),
    (*b"SL", &[0x40, 0xA1, 0, 0]),
    (*b"NP", &[0, 0xFF]),
    (*b"AO", &[0]),
    (*b"OP", &[0; 8]),
    (*b"AI", &[0]),
];

/// A driver, a modem that answers AT commands at once, and a clock.
struct Desk {
    now: Instant,
    driver: Box<dyn Driver>,
    mode: Mode,
    line: Deframer,
    registers: BTreeMap<[u8; 2], Vec<u8>>,
    /// It answers nothing.
    dead: bool,
    /// AT commands that came.
    asked: Vec<At>,
    /// Requests to transmit that came and have no status.
    transmits: Vec<(FrameId, Vec<u8>)>,
    /// Other frames that came.
    others: Vec<Vec<u8>>,
    profile: Option<LinkProfile>,
    granted: u32,
    under_way: BTreeSet<u32>,
    next_ticket: u32,
    link: Vec<LinkEvent>,
    received: Vec<(LinkAddr, RadioFacts, Vec<u8>)>,
    reports: Vec<Report>,
    reopens: usize,
}

impl Desk {
    fn up(registers: &[([u8; 2], &[u8])]) -> Desk {
        Desk::up_with(registers, |_| {})
    }

    fn up_with(registers: &[([u8; 2], &[u8])], set: impl FnOnce(&mut XbeeSettings)) -> Desk {
        let mut desk = Desk::open(registers, set);
        desk.pass(Duration::from_secs(1));
        assert!(desk.profile.is_some(), "{:?}", desk.reports);
        desk.link.clear();
        if desk.reports.len() == 1 {
            desk.reports.clear();
        }
        desk
    }

    fn open(registers: &[([u8; 2], &[u8])], set: impl FnOnce(&mut XbeeSettings)) -> Desk {
        let mut settings = XbeeSettings {
            port: PortSettings {
                path: "unused".into(),
                baud: 9600,
                hardware_flow: false,
                reopen_first: Duration::from_millis(500),
                reopen_max: Duration::from_secs(5),
            },
            api_mode: 2,
            mtu: None,
            last_hop_rssi: false,
        };
        set(&mut settings);
        let registers = registers.iter().map(|(name, value)| (*name, value.to_vec()));
        let mut desk = Desk {
            now: Instant::from_micros(1_000_000),
            driver: radio_adapters::xbee::driver(&settings),
            mode: Mode::Escaped,
            line: Deframer::new(Mode::Escaped, DATA_MAX),
            registers: [(*b"AP", vec![2])].into_iter().chain(registers).collect(),
            dead: false,
            asked: Vec::new(),
            transmits: Vec::new(),
            others: Vec::new(),
            profile: None,
            granted: 0,
            under_way: BTreeSet::new(),
            next_ticket: 0,
            link: Vec::new(),
            received: Vec::new(),
            reports: Vec::new(),
            reopens: 0,
        };
        desk.driver.opened(desk.now);
        desk.drain();
        desk
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Transmit(broadcast, len) => {
                let datagram = vec![len; usize::from(len)];
                if self.granted == 0 {
                    return;
                }
                let to = if broadcast {
                    Destination::Broadcast
                } else {
                    peer(NODE + u64::from(len % 4))
                };
                let ticket = self.ticket();
                self.hand_over(&to, &datagram, ticket);
            }
            Step::Status(which, status) => {
                if self.transmits.is_empty() {
                    return;
                }
                let (id, _) = self.transmits.remove(usize::from(which) % self.transmits.len());
                self.status(id, Addr16(0x1111), status);
            }
            Step::AnyStatus(id, status) => self.status(FrameId(id), Addr16(0x1111), status),
            Step::ModemStatus(status) => self.say(&Frame::ModemStatus { status }),
            Step::Packet(from, data) => self.packet(NODE + u64::from(from % 4), 0x1111, from, &data),
            Step::Noise(octets) => self.octets(&octets),
            Step::Cut(octets) => {
                let mut wire = Vec::new();
                encode(self.mode, &octets, &mut wire);
                wire.truncate(wire.len() / 2);
                self.octets(&wire);
            }
            Step::Pass(millis) => self.pass(Duration::from_millis(millis)),
            Step::Dead(dead) => self.dead = dead,
            Step::Reopen => {
                self.driver.closed(self.now);
                self.drain();
                self.transmits.clear();
                self.line = Deframer::new(self.mode, DATA_MAX);
                self.driver.opened(self.now);
                self.drain();
            }
        }
    }

    fn transmit(&mut self, to: u64, datagram: &[u8]) -> TxTicket {
        let ticket = self.ticket();
        self.hand_over(&peer(to), datagram, ticket);
        ticket
    }

    fn ticket(&mut self) -> TxTicket {
        self.next_ticket += 1;
        self.under_way.insert(self.next_ticket);
        TxTicket(self.next_ticket)
    }

    fn hand_over(&mut self, to: &Destination, datagram: &[u8], ticket: TxTicket) {
        self.under_way.insert(ticket.0);
        self.granted = self.granted.saturating_sub(1);
        self.driver.transmit(self.now, to, datagram, ticket);
        self.drain();
    }

    fn status(&mut self, id: FrameId, dest16: Addr16, delivery: u8) {
        self.transmits.retain(|(open, _)| *open != id);
        self.say(&Frame::TransmitStatus {
            id,
            dest16,
            retries: 0,
            delivery,
            discovery: 0,
        });
    }

    fn packet(&mut self, from: u64, network: u16, options: u8, data: &[u8]) {
        self.say(&Frame::Receive {
            source64: Addr64(from),
            source16: Addr16(network),
            options,
            data,
        });
    }

    fn say(&mut self, frame: &Frame<'_>) {
        let mut wire = Vec::new();
        encode(self.mode, &frame.encode(), &mut wire);
        self.octets(&wire);
    }

    fn octets(&mut self, octets: &[u8]) {
        self.driver.received(self.now, octets);
        self.drain();
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..10_000 {
            let Some(at) = self.driver.poll_timeout().filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(at);
            self.driver.handle_timeout(self.now);
            self.drain();
        }
        panic!("it never rests: {:?}", self.driver);
    }

    fn drain(&mut self) {
        while let Some(output) = self.driver.poll_output() {
            match output {
                DriverOutput::Write(octets) => self.read(&octets),
                DriverOutput::SetBaud(_) | DriverOutput::Break(_) => {}
                DriverOutput::Received {
                    from,
                    facts,
                    datagram,
                } => self.received.push((from, facts, datagram)),
                DriverOutput::Link(event) => self.on_link(event),
                DriverOutput::Reopen => self.reopens += 1,
                DriverOutput::Report(report) => self.reports.push(report),
            }
        }
    }

    fn on_link(&mut self, event: LinkEvent) {
        match &event {
            LinkEvent::Up(profile) => {
                self.granted = profile.credit;
                assert!(
                    self.under_way.is_empty(),
                    "up with {:?} under way",
                    self.under_way
                );
                assert!(self.profile.replace(profile.clone()).is_none(), "up twice");
            }
            LinkEvent::Down => {
                self.granted = 0;
                self.transmits.clear();
                assert!(
                    self.under_way.is_empty(),
                    "down with {:?} under way",
                    self.under_way
                );
                assert!(self.profile.take().is_some(), "down twice");
            }
            LinkEvent::Credit(more) => {
                self.granted += more;
                assert!(self.granted <= 12, "more than a modem takes");
            }
            LinkEvent::Sent(ticket) | LinkEvent::Unsent(ticket) => {
                assert!(self.under_way.remove(&ticket.0), "{ticket:?} ended twice");
            }
            LinkEvent::PeerIdentified { .. } | LinkEvent::PeerGone { .. } => {}
        }
        self.link.push(event);
    }

    /// What the modem reads.
    fn read(&mut self, octets: &[u8]) {
        let mut frames = Vec::new();
        // A driver that asks for the mode writes what reads the same in both.
        let mut line = Deframer::new(self.mode, DATA_MAX);
        line.feed(octets, |frame| frames.extend(frame.map(<[u8]>::to_vec)));
        for data in frames {
            self.on_frame(data);
        }
    }

    fn on_frame(&mut self, data: Vec<u8>) {
        match Frame::decode(&data) {
            Some(Frame::AtCommand { id, command, value }) => {
                self.asked.push(command);
                if self.dead {
                    return;
                }
                if !value.is_empty() && self.registers.contains_key(&command.0) {
                    self.registers.insert(command.0, value.to_vec());
                }
                let known = self.registers.get(&command.0).cloned();
                let frame = Frame::AtResponse {
                    id,
                    command,
                    status: if known.is_some() { 0 } else { 2 },
                    value: known.as_deref().filter(|_| value.is_empty()).unwrap_or_default(),
                };
                let mut wire = Vec::new();
                encode(self.mode, &frame.encode(), &mut wire);
                self.driver.received(self.now, &wire);
            }
            Some(Frame::Transmit { id, .. }) => {
                assert!(self.transmits.iter().all(|(open, _)| *open != id), "{id:?} twice");
                self.transmits.push((id, data));
            }
            _ => self.others.push(data),
        }
    }

    fn last_transmit(&mut self) -> (FrameId, Vec<u8>) {
        self.transmits.last().cloned().expect("nothing was sent")
    }

    fn take_transmits(&mut self) -> Vec<(FrameId, Vec<u8>)> {
        core::mem::take(&mut self.transmits)
    }

    fn take_reports(&mut self) -> Vec<Report> {
        core::mem::take(&mut self.reports)
    }

    fn sent(&self) -> Vec<TxTicket> {
        let events = self.link.iter();
        events
            .filter_map(|event| match event {
                LinkEvent::Sent(ticket) => Some(*ticket),
                _ => None,
            })
            .collect()
    }
}

fn peer(addr: u64) -> Destination {
    Destination::Peer(Route {
        addr: LinkAddr::Radio(addr.to_be_bytes().into_iter().collect()),
        local: LocalEnd::default(),
    })
}

fn dest(frame: &[u8]) -> (Addr64, Addr16) {
    match Frame::decode(frame) {
        Some(Frame::Transmit { dest64, dest16, .. }) => (dest64, dest16),
        other => panic!("{other:?}"),
    }
}
