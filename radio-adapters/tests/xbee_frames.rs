//! API frames: what was written is read, however it is cut, and whatever stood before it.

use proptest::collection::vec;
use proptest::prelude::*;
use radio_adapters::driver::DropReason;
use radio_adapters::xbee::frame::{Addr16, Addr64, At, Endpoints, Frame, FrameId};
use radio_adapters::xbee::framing::{DATA_MAX, Deframer, Mode, encode};

const MODES: [Mode; 2] = [Mode::Plain, Mode::Escaped];

/// The limit that the tests of lost frames use.
const LIMIT: usize = 300;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn frames_are_read_as_written_however_they_are_cut(
        frames in vec(data(), 1..5),
        cuts in vec(1_usize..40, 1..20),
    ) {
        for mode in MODES {
            let stream = wire(mode, &frames);
            prop_assert_eq!(deframe(mode, &stream, &cuts), (frames.clone(), vec![]));
        }
    }

    #[test]
    fn cutting_changes_nothing_about_any_stream(
        stream in vec(line_octet(), 0..800),
        cuts in vec(1_usize..40, 1..20),
    ) {
        for mode in MODES {
            prop_assert_eq!(deframe(mode, &stream, &cuts), deframe(mode, &stream, &[usize::MAX]));
        }
    }

    #[test]
    fn frames_after_garbage_are_found(garbage in vec(line_octet(), 0..600), frames in vec(data(), 1..4)) {
        // The line is quiet for a moment: a false beginning could otherwise wait for what comes after the frames.
        for mode in MODES {
            let mut deframer = Deframer::new(mode, LIMIT);
            let mut found = Vec::new();
            deframer.feed(&garbage, |_| {});
            deframer.gap(|_| {});
            deframer.feed(&wire(mode, &frames), |frame| found.extend(frame.map(<[u8]>::to_vec)));
            prop_assert_eq!(&found, &frames);
        }
    }

    #[test]
    fn the_beginning_of_a_frame_in_escaped_mode_ends_any_other(
        garbage in vec(line_octet(), 0..600),
        frames in vec(data(), 1..4),
    ) {
        let stream = [garbage, wire(Mode::Escaped, &frames)].concat();
        let (found, _) = deframe(Mode::Escaped, &stream, &[7]);
        prop_assert!(found.ends_with(&frames));
    }

    #[test]
    fn a_false_beginning_in_plain_mode_costs_no_frame_that_ends_within_it(
        length in 1_u16..LIMIT as u16,
        frame in data(),
    ) {
        // Octets that can be no beginning of their own fill what the false length promises.
        let mut stream = vec![0x7E];
        stream.extend(length.to_be_bytes());
        stream.extend(wire(Mode::Plain, core::slice::from_ref(&frame)));
        stream.resize(stream.len() + LIMIT, 0x00);
        // Octets that happen to fit the false frame's checksum are taken for it, as they must.
        let end = 3 + usize::from(length) + 1;
        let sum = stream[3..end].iter().fold(0_u8, |sum, octet| sum.wrapping_add(*octet));
        prop_assume!(sum != 0xFF);
        let (found, dropped) = deframe(Mode::Plain, &stream, &[11]);
        prop_assert!(found.contains(&frame));
        prop_assert_eq!(dropped[0], DropReason::Checksum);
    }

    #[test]
    fn every_frame_is_read_as_written(frame in fields()) {
        let frame = frame.frame();
        let data = frame.encode();
        prop_assert_eq!(Frame::decode(&data), Some(frame));
    }

    #[test]
    fn any_data_is_a_frame_that_is_written_the_same_or_none(data in vec(any::<u8>(), 0..300)) {
        if let Some(frame) = Frame::decode(&data) {
            let encoded = frame.encode();
            // What follows a frame of fixed length is ignored.
            prop_assert!(data.starts_with(&encoded));
        }
    }
}

#[test]
fn a_frame_cut_off_by_silence_is_told_and_forgotten() {
    for mode in MODES {
        let mut deframer = Deframer::new(mode, LIMIT);
        let mut events = Vec::new();
        deframer.feed(&[0x7E, 0x00, 0x10, 0x90, 0x00], |event| {
            events.push(event.map(<[u8]>::to_vec));
        });
        assert!(deframer.is_partial());
        deframer.gap(|event| events.push(event.map(<[u8]>::to_vec)));
        assert!(!deframer.is_partial());
        deframer.feed(&[0x7E, 0x00, 0x02, 0x8A, 0x06, 0x6F], |event| {
            events.push(event.map(<[u8]>::to_vec));
        });
        assert_eq!(events, [Err(DropReason::Gap), Ok(vec![0x8A, 0x06])]);
    }
}

#[test]
fn frames_behind_a_false_beginning_come_out_when_the_line_falls_silent() {
    let mut deframer = Deframer::new(Mode::Plain, LIMIT);
    let mut found = Vec::new();
    let stream = [0x7E, 0x00, 0x40, 0x7E, 0x00, 0x02, 0x8A, 0x06, 0x6F];
    deframer.feed(&stream, |event| found.push(event.map(<[u8]>::to_vec)));
    assert_eq!(found, []);
    deframer.gap(|event| found.push(event.map(<[u8]>::to_vec)));
    assert_eq!(found, [Err(DropReason::Gap), Ok(vec![0x8A, 0x06])]);
}

#[test]
fn an_escape_that_does_not_exist_ends_the_frame() {
    let stream = [
        0x7E, 0x00, 0x02, 0x8A, 0x7D, 0x41, 0x7E, 0x00, 0x02, 0x8A, 0x06, 0x6F,
    ];
    let (frames, dropped) = deframe(Mode::Escaped, &stream, &[1]);
    assert_eq!(
        (frames, dropped),
        (vec![vec![0x8A, 0x06]], vec![DropReason::Escape])
    );
}

#[test]
fn noise_between_frames_is_told_once() {
    let frame = [0x7E, 0x00, 0x02, 0x8A, 0x06, 0x6F];
    let stream = [&frame[..], b"garbage", &frame, b"OK\r"].concat();
    for mode in MODES {
        let (frames, dropped) = deframe(mode, &stream, &[5]);
        assert_eq!(frames.len(), 2);
        assert_eq!(dropped, [DropReason::Noise; 2]);
    }
}

/// Data of a frame.
fn data() -> impl Strategy<Value = Vec<u8>> {
    vec(line_octet(), 1..=LIMIT.min(DATA_MAX) - 20)
}

/// Octets of which many are special.
fn line_octet() -> impl Strategy<Value = u8> {
    prop_oneof![
        2 => prop::sample::select(vec![0x7E, 0x7D, 0x11, 0x13, 0x5E, 0x5D, 0x31, 0x33, 0x00, 0x01]),
        3 => any::<u8>(),
    ]
}

fn wire(mode: Mode, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut stream = Vec::new();
    frames.iter().for_each(|data| encode(mode, data, &mut stream));
    stream
}

/// Frames and failures of a stream that comes in pieces, whose lengths are repeated.
fn deframe(mode: Mode, stream: &[u8], cuts: &[usize]) -> (Vec<Vec<u8>>, Vec<DropReason>) {
    let mut deframer = Deframer::new(mode, LIMIT);
    let (mut frames, mut dropped) = (Vec::new(), Vec::new());
    let mut rest = stream;
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, later) = rest.split_at((*cut).min(rest.len()));
        rest = later;
        deframer.feed(piece, |frame| match frame {
            Ok(data) => frames.push(data.to_vec()),
            Err(reason) => dropped.push(reason),
        });
    }
    (frames, dropped)
}

/// What a frame of any type is made of.
#[derive(Debug)]
struct Fields {
    kind: usize,
    octets: [u8; 6],
    numbers: [u16; 3],
    addrs: [u64; 2],
    hops: Vec<u16>,
    data: Vec<u8>,
}

fn fields() -> impl Strategy<Value = Fields> {
    let octets = any::<[u8; 6]>();
    let hops = vec(any::<u16>(), 0..12);
    (
        0_usize..21,
        octets,
        any::<[u16; 3]>(),
        any::<[u64; 2]>(),
        hops,
        vec(any::<u8>(), 0..100),
    )
        .prop_map(|(kind, octets, numbers, addrs, hops, data)| Fields {
            kind,
            octets,
            numbers,
            addrs,
            hops,
            data,
        })
}

impl Fields {
    fn frame(&self) -> Frame<'_> {
        let [a, b, c, d, e, f] = self.octets;
        let [x, y, z] = self.numbers;
        let data = &self.data[..];
        let value = data;
        let (id, command) = (FrameId(a), At([b, c]));
        let (dest64, dest16) = (Addr64(self.addrs[0]), Addr16(x));
        let (source64, source16) = (dest64, dest16);
        let hops = self.hops.iter().copied().map(Addr16).collect();
        let endpoints = Endpoints {
            source: d,
            destination: e,
            cluster: y,
            profile: z,
        };
        match self.kind {
            0 => Frame::Tx64 {
                id,
                dest: dest64,
                options: b,
                data,
            },
            1 => Frame::Tx16 {
                id,
                dest: dest16,
                options: b,
                data,
            },
            2 => Frame::AtCommand { id, command, value },
            3 => Frame::AtQueued { id, command, value },
            4 => Frame::Transmit {
                id,
                dest64,
                dest16,
                radius: b,
                options: c,
                data,
            },
            5 => Frame::TransmitExplicit {
                id,
                dest64,
                dest16,
                endpoints,
                radius: b,
                options: c,
                data,
            },
            6 => Frame::RemoteAt {
                id,
                dest64,
                dest16,
                options: d,
                command,
                value,
            },
            7 => Frame::TransmitIpv4 {
                id,
                dest: [b, c, d, e],
                dest_port: x,
                source_port: y,
                protocol: f,
                options: 0,
                data,
            },
            8 => Frame::CreateSourceRoute {
                id,
                dest64,
                dest16,
                options: b,
                hops,
            },
            9 => Frame::Rx64 {
                source: source64,
                minus_rssi_dbm: a,
                options: b,
                data,
            },
            10 => Frame::Rx16 {
                source: source16,
                minus_rssi_dbm: a,
                options: b,
                data,
            },
            11 => Frame::AtResponse {
                id,
                command,
                status: d,
                value,
            },
            12 => Frame::TxStatus { id, status: b },
            13 => Frame::ModemStatus { status: b },
            14 => Frame::TransmitStatus {
                id,
                dest16,
                retries: b,
                delivery: c,
                discovery: d,
            },
            15 => Frame::Receive {
                source64,
                source16,
                options: b,
                data,
            },
            16 => Frame::ReceiveExplicit {
                source64,
                source16,
                endpoints,
                options: b,
                data,
            },
            17 => Frame::NodeIdentification {
                sender64: source64,
                sender16: source16,
                options: b,
                node16: Addr16(y),
                node64: Addr64(self.addrs[1]),
                details: data,
            },
            18 => Frame::RemoteAtResponse {
                id,
                source64,
                source16,
                command,
                status: d,
                value,
            },
            19 => Frame::RouteRecord {
                source64,
                source16,
                options: b,
                hops,
            },
            _ => Frame::ManyToOne {
                source64,
                source16,
                reserved: b,
            },
        }
    }
}
