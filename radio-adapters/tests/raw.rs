//! The raw serial driver, octet by octet and without a clock.

use core::time::Duration;
use std::path::PathBuf;

use gateway_core::airtime::Airtime;
use gateway_core::io::{Destination, LinkEvent, RadioFacts, TxTicket};
use gateway_core::peer::{LinkAddr, LocalEnd, Route};
use gateway_core::time::Instant;
use radio_adapters::driver::{Driver, DriverOutput, DropReason, Report};
use radio_adapters::framing::{checksum, encode};
use radio_adapters::raw::RawSerial;
use radio_adapters::settings::{Crc, Framing, LinkHeader, Metadata, PortSettings, RawSettings};

const SEARCHGW: &[u8] = &[3, 1, 1];
const CONNACK: &[u8] = &[3, 5, 0];
const TICKET: TxTicket = TxTicket(7);

/// One octet at 9600 baud, a little more than that.
const OCTET: Duration = Duration::from_micros(1042);

#[test]
fn a_line_is_up_when_it_has_settled_and_boot_messages_are_no_frames() {
    let mut rig = Rig::new(RawSettings {
        settle: Duration::from_secs(2),
        ..wire()
    });

    rig.hear(b"Bridge v1.0\r\n\0");
    assert_eq!(rig.outputs(), []);
    rig.pass(Duration::from_secs(2));

    let outputs = rig.outputs();
    assert!(
        matches!(
            &outputs[..],
            [
                DriverOutput::Report(Report::Ready { .. }),
                DriverOutput::Link(LinkEvent::Up(_))
            ]
        ),
        "{outputs:?}"
    );
}

#[test]
fn a_datagram_is_sent_when_the_line_has_carried_it() {
    let mut rig = Rig::up(wire());
    rig.send(CONNACK);
    assert_eq!(rig.written(), encode(Framing::Cobs, CONNACK));

    rig.pass(OCTET * 5);
    assert_eq!(rig.outputs(), []);
    rig.pass(OCTET * 2);
    assert_eq!(rig.outputs(), sent());
}

#[test]
fn an_ebyte_modem_holds_the_channel_for_as_long_as_it_may_transmit() {
    let settings = RawSettings {
        crc: Crc::X25,
        header: LinkHeader::RadioHead {
            address: 0,
            acks: false,
        },
        fixed_prefix: vec![0xFF, 0xFF, 18],
        air_rate: Some(2400),
        ..wire()
    };
    let Airtime::ByteRate {
        bits_per_second: 2400,
        bits_per_octet: 12,
        ..
    } = RawSerial::profile(&settings).airtime
    else {
        panic!("12 bits an octet at the rate of the air");
    };
    let budgeted = RawSerial::profile(&settings).airtime.of(CONNACK.len());
    let mut rig = Rig::up(settings);
    rig.send_to(node(5), CONNACK);

    let mut content = vec![5, 0, 0, 0, 3, 5, 0];
    checksum::append(Crc::X25, &mut content);
    let mut expected = vec![0xFF, 0xFF, 18];
    expected.extend(encode(Framing::Cobs, &content));
    assert_eq!(rig.written(), expected);
    let on_the_air = expected.len() - 3;
    assert!(
        budgeted >= Duration::from_micros(on_the_air as u64 * 8 * 1_000_000 / 2400 * 3 / 2),
        "{budgeted:?}"
    );

    rig.pass(budgeted);
    assert_eq!(
        rig.outputs(),
        [],
        "the line took its time before the modem could begin"
    );
    rig.pass(OCTET * expected.len() as u32);
    assert_eq!(rig.outputs(), sent());
}

#[test]
fn what_is_larger_than_the_mtu_is_refused_and_the_credit_returned() {
    let mut rig = Rig::up(RawSettings { mtu: 20, ..wire() });

    rig.send(&[0; 21]);

    assert_eq!(
        rig.outputs(),
        [
            DriverOutput::Report(Report::Dropped(DropReason::TooLong)),
            DriverOutput::Link(LinkEvent::Unsent(TICKET)),
            DriverOutput::Link(LinkEvent::Credit(1)),
        ]
    );
}

#[test]
fn each_layer_is_taken_off() {
    let mut content = vec![0xA5, 0, 5, 42, 0, 3, 1, 1];
    for crc in [Crc::None, Crc::X25, Crc::Xmodem] {
        for framing in [Framing::Slip, Framing::Cobs, Framing::Kiss] {
            let mut rig = Rig::up(RawSettings {
                framing,
                crc,
                header: LinkHeader::RadioHead {
                    address: 0,
                    acks: false,
                },
                metadata: Metadata::RssiBefore,
                ..wire()
            });
            let mut frame = content.clone();
            checksum::append(crc, &mut frame);

            rig.hear(&encode(framing, &frame));

            assert_eq!(rig.outputs(), [received(node(5), Some(-91), SEARCHGW)]);
        }
    }
    // Without a delimiter too: it is known how many octets stand before the message.
    let mut rig = Rig::up(RawSettings {
        framing: Framing::LengthPrefix,
        header: LinkHeader::RadioHead {
            address: 0,
            acks: false,
        },
        metadata: Metadata::RssiBefore,
        ..wire()
    });
    content.extend(content.clone());
    rig.hear(&content);
    assert_eq!(rig.outputs(), vec![received(node(5), Some(-91), SEARCHGW); 2]);
}

#[test]
fn signal_strength_may_follow_a_frame_or_be_missing() {
    let mut rig = Rig::up(RawSettings {
        metadata: Metadata::RssiAfter,
        ..wire()
    });
    let mut octets = encode(Framing::Cobs, SEARCHGW);
    rig.hear(&octets);
    assert_eq!(rig.outputs(), [], "it comes with its signal strength");
    rig.hear(&[0xA5]);
    assert_eq!(rig.outputs(), [received(LinkAddr::Wire, Some(-91), SEARCHGW)]);

    octets.push(0xA0);
    octets.extend(octets.clone());
    rig.hear(&octets);
    let both = received(LinkAddr::Wire, Some(-96), SEARCHGW);
    assert_eq!(rig.outputs(), [both.clone(), both]);

    rig.hear(&encode(Framing::Cobs, SEARCHGW));
    rig.pass(Duration::from_millis(30));
    assert_eq!(rig.outputs(), [received(LinkAddr::Wire, None, SEARCHGW)]);
}

#[test]
fn reliable_nodes_are_acknowledged_before_they_are_answered() {
    let mut rig = Rig::up(reliable());
    rig.hear(&encode(Framing::Cobs, &[0, 5, 42, 0, 3, 1, 1]));
    assert_eq!(rig.received(), [SEARCHGW.to_vec()]);
    rig.send_to(node(5), CONNACK);
    assert_eq!(rig.written(), Vec::<u8>::new(), "the node turns round");

    rig.pass(Duration::from_millis(20));
    assert_eq!(rig.written(), encode(Framing::Cobs, &[5, 0, 42, 0x80, b'!']));
    rig.pass(OCTET * 8);
    assert_eq!(rig.written(), encode(Framing::Cobs, &[5, 0, 0, 0, 3, 5, 0]));

    // It repeats, because our acknowledgement was lost.
    rig.hear(&encode(Framing::Cobs, &[0, 5, 42, 0, 3, 1, 1]));
    let mut expected = sent().to_vec();
    expected.push(DriverOutput::Report(Report::Dropped(DropReason::Duplicate)));
    assert_eq!(rig.outputs(), expected);
    rig.pass(Duration::from_millis(40));
    assert_eq!(
        rig.outputs().last(),
        Some(&DriverOutput::Write(encode(
            Framing::Cobs,
            &[5, 0, 42, 0x80, b'!']
        )))
    );
}

#[test]
fn acknowledgements_keep_to_their_quarter_of_the_duty_cycle() {
    let limit_ppm = 10_000;
    let settings = RawSettings {
        air_rate: Some(2400),
        duty_cycle_ppm: Some(limit_ppm),
        turnaround: Duration::ZERO,
        ..reliable()
    };
    let ours = RawSerial::profile(&settings).duty_cycle.unwrap();
    assert_eq!(ours.ppm, limit_ppm / 4 * 3, "the core has the rest");
    let ack = encode(Framing::Cobs, &[5, 0, 0, 0x80, b'!']);
    let mut rig = Rig::up(settings);

    // A frame every two seconds for an hour, which is far more than can be acknowledged.
    let (mut written, mut dropped) = (0, 0);
    for id in 0..1800_u32 {
        rig.hear(&encode(Framing::Cobs, &[0, 5, id as u8, 0, 3, 1, 1]));
        rig.pass(Duration::from_secs(2));
        for output in rig.outputs() {
            match output {
                DriverOutput::Write(octets) => written += octets.len(),
                DriverOutput::Report(Report::Dropped(DropReason::DutyCycle)) => dropped += 1,
                _ => {}
            }
        }
    }

    let acks = written / ack.len();
    // 16 octets of overhead, 12 bits each: as the modem is expected to send them at the most.
    let airtime = Duration::from_secs_f64((ack.len() + 16) as f64 * 12.0 / 2400.0) * acks as u32;
    let quarter = Duration::from_secs(9);
    assert!(airtime <= quarter, "{airtime:?} for {acks} acknowledgements");
    assert!(
        airtime > quarter * 3 / 4,
        "{airtime:?} for {acks} acknowledgements"
    );
    assert_eq!(acks + dropped, 1800);
}

#[test]
fn the_channel_is_left_to_the_acknowledgement_of_the_node() {
    let mut rig = Rig::up(reliable());
    rig.send_to(node(5), CONNACK);
    rig.outputs();
    rig.pass(OCTET * 20);
    assert_eq!(rig.outputs(), sent());

    rig.send_to(node(6), CONNACK);
    assert_eq!(rig.outputs(), []);
    rig.hear(&encode(Framing::Cobs, &[0, 5, 0, 0x80, b'!']));
    rig.pass(Duration::from_millis(30));
    assert_eq!(rig.written(), encode(Framing::Cobs, &[6, 0, 1, 0, 3, 5, 0]));
}

#[test]
fn length_prefix_finds_back_after_silence_and_not_before() {
    let mut rig = Rig::up(RawSettings {
        framing: Framing::LengthPrefix,
        ..wire()
    });
    rig.hear(&[14, 4, 4, 1, 0]);
    rig.pass(Duration::from_millis(19));
    rig.hear(&[60, b's', b'e', b'n', b's', b'o', b'r', b'-', b'1']);
    assert_eq!(rig.received().len(), 1, "19 ms are no silence");

    rig.hear(&[14, 4, 4]);
    rig.pass(Duration::from_millis(20) + OCTET);
    assert_eq!(
        rig.outputs(),
        [DriverOutput::Report(Report::Dropped(DropReason::Gap))]
    );
    rig.hear(SEARCHGW);
    assert_eq!(rig.received(), [SEARCHGW.to_vec()]);
}

#[test]
fn a_reader_that_is_late_does_not_make_silence() {
    let mut rig = Rig::up(RawSettings {
        framing: Framing::LengthPrefix,
        ..wire()
    });
    let publish: Vec<u8> = [40, 12].into_iter().chain([0; 38]).collect();
    rig.hear(&publish[..5]);

    // The line brought the rest meanwhile; nobody looked.
    rig.now = rig.now + OCTET * 35;
    rig.driver.received(rig.now, &publish[5..]);

    assert_eq!(rig.received(), [publish]);
}

#[test]
fn forwarders_need_no_delimiter() {
    let mut rig = Rig::up(RawSettings {
        framing: Framing::LengthPrefix,
        header: LinkHeader::Forwarder,
        ..wire()
    });
    let encapsulated = [5, 0xFE, 1, 0x12, 0x34, 3, 1, 1];
    rig.hear(&encapsulated);
    assert_eq!(rig.outputs(), [received(LinkAddr::Wire, None, &encapsulated)]);
}

#[test]
fn what_a_transceiver_gives_back_is_not_received() {
    let mut rig = Rig::up(RawSettings { echo: true, ..wire() });
    rig.send(CONNACK);
    let written = rig.written();

    let mut line = written.clone();
    line.extend(encode(Framing::Cobs, SEARCHGW));
    rig.hear(&line[..4]);
    rig.hear(&line[4..]);
    assert_eq!(rig.received(), [SEARCHGW.to_vec()]);

    rig.hear(&written);
    assert_eq!(rig.received(), [CONNACK.to_vec()], "only once");
}

#[test]
fn a_port_that_goes_away_returns_what_was_not_sent() {
    let mut rig = Rig::up(reliable());
    rig.hear(&encode(Framing::Cobs, &[0, 5, 42, 0, 3, 1, 1]));
    rig.send_to(node(5), CONNACK);
    rig.outputs();

    rig.driver.closed(rig.now);

    assert_eq!(
        rig.outputs(),
        [
            DriverOutput::Link(LinkEvent::Unsent(TICKET)),
            DriverOutput::Link(LinkEvent::Down),
        ]
    );
    assert_eq!(rig.driver.poll_timeout(), None);
    rig.send_to(node(5), CONNACK);
    assert_eq!(rig.outputs(), [DriverOutput::Link(LinkEvent::Unsent(TICKET))]);

    rig.driver.opened(rig.now);
    rig.outputs();
    rig.send_to(node(5), CONNACK);
    assert_eq!(rig.outputs().len(), 1, "it works as on the first day");
}

#[test]
fn airtime_of_a_frame_that_may_be_on_the_air_is_not_given_back() {
    let mut rig = Rig::up(RawSettings {
        air_rate: Some(2400),
        ..wire()
    });
    rig.send(CONNACK);
    rig.outputs();

    rig.driver.closed(rig.now);

    assert_eq!(
        rig.outputs(),
        [
            DriverOutput::Link(LinkEvent::Sent(TICKET)),
            DriverOutput::Link(LinkEvent::Down),
        ]
    );
}

/// A driver and the time.
struct Rig {
    driver: RawSerial,
    now: Instant,
}

impl Rig {
    fn new(settings: RawSettings) -> Rig {
        let mut rig = Rig {
            driver: RawSerial::new(settings),
            now: Instant::from_micros(5_000_000),
        };
        rig.driver.opened(rig.now);
        rig
    }

    fn up(settings: RawSettings) -> Rig {
        let mut rig = Rig::new(settings);
        rig.outputs();
        rig
    }

    /// Octets that the line brings, in its time.
    fn hear(&mut self, octets: &[u8]) {
        for octet in octets {
            self.pass(OCTET);
            self.driver.received(self.now, &[*octet]);
        }
    }

    fn send(&mut self, datagram: &[u8]) {
        self.send_to(LinkAddr::Wire, datagram);
    }

    fn send_to(&mut self, addr: LinkAddr, datagram: &[u8]) {
        let route = Route {
            addr,
            local: LocalEnd::default(),
        };
        self.driver
            .transmit(self.now, &Destination::Peer(route), datagram, TICKET);
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.driver.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.driver.handle_timeout(self.now);
        }
        self.now = end;
    }

    fn outputs(&mut self) -> Vec<DriverOutput> {
        core::iter::from_fn(|| self.driver.poll_output()).collect()
    }

    /// The octets among the outputs.
    fn written(&mut self) -> Vec<u8> {
        let outputs = self.outputs().into_iter();
        outputs
            .filter_map(|output| match output {
                DriverOutput::Write(octets) => Some(octets),
                _ => None,
            })
            .flatten()
            .collect()
    }

    /// The datagrams among the outputs.
    fn received(&mut self) -> Vec<Vec<u8>> {
        let outputs = self.outputs().into_iter();
        outputs
            .filter_map(|output| match output {
                DriverOutput::Received { datagram, .. } => Some(datagram),
                _ => None,
            })
            .collect()
    }
}

fn sent() -> [DriverOutput; 2] {
    [
        DriverOutput::Link(LinkEvent::Sent(TICKET)),
        DriverOutput::Link(LinkEvent::Credit(1)),
    ]
}

fn received(from: LinkAddr, rssi_dbm: Option<i16>, datagram: &[u8]) -> DriverOutput {
    DriverOutput::Received {
        from,
        facts: RadioFacts {
            rssi_dbm,
            ..RadioFacts::default()
        },
        datagram: datagram.to_vec(),
    }
}

fn node(address: u8) -> LinkAddr {
    LinkAddr::Radio([address].into_iter().collect())
}

fn reliable() -> RawSettings {
    RawSettings {
        header: LinkHeader::RadioHead {
            address: 0,
            acks: true,
        },
        turnaround: Duration::from_millis(20),
        ..wire()
    }
}

fn wire() -> RawSettings {
    RawSettings {
        port: PortSettings {
            path: PathBuf::new(),
            baud: 9600,
            hardware_flow: false,
            reopen_first: Duration::from_secs(1),
            reopen_max: Duration::from_secs(30),
        },
        framing: Framing::Cobs,
        crc: Crc::None,
        header: LinkHeader::None,
        metadata: Metadata::None,
        fixed_prefix: Vec::new(),
        air_rate: None,
        mtu: 222,
        settle: Duration::ZERO,
        turnaround: Duration::ZERO,
        echo: false,
        duty_cycle_ppm: None,
    }
}
