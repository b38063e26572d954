use core::time::Duration;

use gateway_core::time::Instant;

use super::{Ebyte, EbyteFrame, EbyteKind, Pins};
use crate::ether::{AirEvent, AirRequest, Tuning};
use crate::modem::{ModemOutput, SimModem};

struct Bench {
    modem: Ebyte,
    now: Instant,
    sent: Vec<(Tuning, EbyteFrame)>,
    line: Vec<u8>,
}

impl Bench {
    fn new(modem: Ebyte) -> Bench {
        let mut bench = Bench {
            modem,
            now: Instant::START,
            sent: Vec::new(),
            line: Vec::new(),
        };
        bench.modem.power_on(bench.now);
        bench.run(1_000);
        bench
    }

    fn run(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        self.drain();
        while let Some(at) = self.modem.poll_timeout().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.modem.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn drain(&mut self) {
        while let Some(output) = self.modem.poll_output() {
            match output {
                ModemOutput::Reply(octets) | ModemOutput::Event(octets) => self.line.extend(octets),
                ModemOutput::Air(AirRequest::Send { tuning, payload }) => {
                    let frame = EbyteFrame::decode(&payload).expect("what a module sends is a packet");
                    self.sent.push((tuning, frame));
                    self.modem.handle_air(self.now, AirEvent::Sent);
                }
                _ => {}
            }
        }
    }

    fn write(&mut self, octets: &[u8]) {
        self.modem.handle_octets(self.now, octets);
    }

    fn hear(&mut self, network: u8, to: u16, data: &[u8]) {
        let frame = EbyteFrame {
            network,
            to,
            data: data.to_vec(),
        };
        let event = AirEvent::Frame {
            payload: frame.encode(),
            rssi_dbm: -91,
            snr_db: 0,
        };
        self.modem.handle_air(self.now, event);
        self.run(10);
    }

    fn configure(&mut self, octets: &[u8]) -> Vec<u8> {
        self.line.clear();
        self.modem.set_pins(self.now, Pins::Configuration);
        self.write(octets);
        self.run(100);
        self.modem.set_pins(self.now, Pins::Normal);
        self.line.clone()
    }
}

#[test]
fn three_characters_of_silence_end_a_packet() {
    let mut bench = Bench::new(Ebyte::new(EbyteKind::E22));
    bench.write(b"abc");
    bench.run(2);
    bench.write(b"def");
    bench.run(2);
    assert!(bench.sent.is_empty());
    assert!(!bench.modem.aux());
    bench.run(10);
    // A pause in between makes it two.
    bench.write(b"gh");
    bench.run(4);
    bench.write(b"i");
    bench.run(10);
    let sent: Vec<&[u8]> = bench.sent.iter().map(|(_, frame)| &frame.data[..]).collect();
    assert_eq!(sent, [&b"abcdef"[..], b"gh", b"i"]);
    assert!(bench.modem.aux());
}

#[test]
fn long_writes_are_split_into_sub_packets() {
    for (modem, sizes) in [
        (Ebyte::new(EbyteKind::E22), vec![240, 10]),
        (
            Ebyte::new(EbyteKind::E22).with_register(4, 0b1000_0000),
            vec![64, 64, 64, 58],
        ),
        (Ebyte::new(EbyteKind::E32), vec![58, 58, 58, 58, 18]),
    ] {
        let mut bench = Bench::new(modem);
        bench.write(&[0x55; 250]);
        bench.run(100);
        let sent: Vec<usize> = bench.sent.iter().map(|(_, frame)| frame.data.len()).collect();
        assert_eq!(sent, sizes);
    }
}

#[test]
fn fixed_transmission_takes_address_and_channel_from_the_front() {
    let mut bench = Bench::new(Ebyte::new(EbyteKind::E22).with_fixed_transmission());
    bench.write(&[0x00, 0x05, 0x12, 3, 5, 0]);
    bench.run(10);
    let (tuning, frame) = &bench.sent[0];
    assert_eq!((frame.to, &frame.data[..]), (5, &[3, 5, 0][..]));
    assert!(matches!(
        tuning,
        Tuning::Packet {
            channel: 18,
            bits_per_second: 2_400,
            ..
        }
    ));
}

#[test]
fn packets_for_others_are_not_heard_and_nobody_says_who_sent_one() {
    let mut bench = Bench::new(Ebyte::new(EbyteKind::E22).with_address(7).with_rssi());
    bench.hear(0, 7, &[3, 1, 1]);
    assert_eq!(bench.line, [3, 1, 1, 0xA5]);
    bench.hear(0, 8, &[3, 1, 1]);
    bench.hear(1, 7, &[3, 1, 1]);
    assert_eq!(bench.line.len(), 4);
    bench.hear(0, 0xFFFF, &[2, 0x17]);
    assert_eq!(bench.line[4..], [2, 0x17, 0xA5]);
}

#[test]
fn full_buffer_loses_octets_without_a_word() {
    let mut bench = Bench::new(Ebyte::new(EbyteKind::E32));
    // The radio is taken, so that nothing leaves the buffer.
    bench.modem.set_busy(bench.now + Duration::from_secs(10));
    bench.write(&[0x55; 600]);
    bench.run(100);
    assert_eq!(bench.modem.overflowed, 88);
    bench.run(20_000);
    let sent: usize = bench.sent.iter().map(|(_, frame)| frame.data.len()).sum();
    assert_eq!((sent, bench.line.len()), (512, 0));
}

#[test]
fn e22_registers_are_read_and_written_in_configuration_mode_only() {
    let mut bench = Bench::new(Ebyte::new(EbyteKind::E22));
    assert_eq!(bench.modem.baud(), 9600);
    assert_eq!(bench.configure(&[0xC1, 5, 1]), [0xC1, 5, 1, 18]);
    let set = [0xC2, 0, 4, 0x12, 0x34, 0, 0xE1];
    assert_eq!(bench.configure(&set), [0xC1, 0, 4, 0x12, 0x34, 0, 0xE1]);
    assert_eq!(bench.modem.baud(), 115_200);
    assert_eq!(bench.configure(&[0xC1, 5]), [0xFF, 0xFF, 0xFF]);
    assert_eq!(bench.configure(&[0xC1, 5, 9]), [0xFF, 0xFF, 0xFF]);
    // What was written with C2 is gone with the power.
    bench.modem.power_on(bench.now);
    bench.run(1_000);
    assert_eq!(bench.modem.baud(), 9600);
    bench.write(&[0xC1, 5, 1]);
    bench.run(10);
    assert_eq!(bench.sent[0].1.data, [0xC1, 5, 1]);
}

#[test]
fn e32_settings_version_and_reset() {
    let mut bench = Bench::new(Ebyte::new(EbyteKind::E32));
    let set = [0xC0, 0, 0, 0x1A, 0x17, 0x44];
    assert_eq!(bench.configure(&set), set);
    assert_eq!(
        bench.configure(&[0xC1, 0xC1, 0xC1]),
        [0xC0, 0, 0, 0x1A, 0x17, 0x44]
    );
    assert_eq!(bench.configure(&[0xC3, 0xC3, 0xC3])[..2], [0xC3, 0x32]);
    assert_eq!(bench.configure(&[1]), [0xFF, 0xFF, 0xFF]);
    assert!(bench.configure(&[0xC4, 0xC4, 0xC4]).is_empty());
}

#[test]
fn noise_and_strength_may_be_asked_for_in_between() {
    let mut bench = Bench::new(Ebyte::new(EbyteKind::E22).with_register(4, 0x20));
    bench.hear(0, 0, &[3, 1, 1]);
    bench.line.clear();
    bench.write(&[0xC0, 0xC1, 0xC2, 0xC3, 0, 2]);
    bench.run(10);
    assert_eq!(bench.line, [0xC1, 0, 2, 0x9B, 0xA5]);
    assert!(bench.sent.is_empty());
}
