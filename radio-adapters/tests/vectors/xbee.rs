//! API frames of Digi XBee modems, in both modes.

use radio_adapters::driver::DropReason;
use radio_adapters::xbee::frame::{Addr16, Addr64, At, Endpoints, Frame, FrameId};
use radio_adapters::xbee::framing::{DATA_MAX, Deframer, Mode, encode};

use crate::{Vector, unhex};

/// What must come through after a frame that does not: 8A 06.
const NEXT: &[u8] = &[0x7E, 0x00, 0x02, 0x8A, 0x06, 0x6F];

pub(crate) fn check(vector: &Vector) {
    let wire = vector.wire();
    match vector.kind.as_str() {
        "frame-ap1" => check_frame(vector, Mode::Plain, &wire),
        "frame-ap2" => check_frame(vector, Mode::Escaped, &wire),
        "decode-error-ap1" => {
            let reason = match vector.text("error") {
                "checksum" => DropReason::Checksum,
                "length" => DropReason::Length,
                other => panic!("no reason {other}"),
            };
            let stream = [&wire, NEXT].concat();
            for cut in [1, 3, usize::MAX] {
                let (frames, dropped) = deframe(Mode::Plain, &stream, cut);
                assert_eq!(frames, [[0x8A, 0x06]]);
                assert_eq!(dropped.first(), Some(&reason));
            }
        }
        "decode-stream-ap1" => check_stream(vector, Mode::Plain, &wire),
        "decode-stream-ap2" => check_stream(vector, Mode::Escaped, &wire),
        other => panic!("no way to check {other}"),
    }
}

fn check_frame(vector: &Vector, mode: Mode, wire: &[u8]) {
    if vector.has("data") && !vector.has("frame_type") {
        // Digi's example of escaping, which is no frame of any type.
        let data = vector.octets("data");
        return check_wire(mode, wire, &data);
    }
    let expected = Expected::of(vector);
    let frame = expected.frame(vector);
    let data = frame.encode();
    assert_eq!(Frame::decode(&data).as_ref(), Some(&frame));
    check_wire(mode, wire, &data);
}

fn check_wire(mode: Mode, wire: &[u8], data: &[u8]) {
    let mut encoded = Vec::new();
    encode(mode, data, &mut encoded);
    assert_eq!(encoded, wire);
    for cut in [1, 3, usize::MAX] {
        assert_eq!(deframe(mode, wire, cut), (vec![data.to_vec()], vec![]));
    }
}

fn check_stream(vector: &Vector, mode: Mode, wire: &[u8]) {
    let expected: Vec<_> = vector.fields["frames"]
        .as_array()
        .unwrap()
        .iter()
        .map(|frame| {
            let wire = unhex(frame.as_str().unwrap());
            wire[3..wire.len() - 1].to_vec()
        })
        .collect();
    for cut in [1, 3, usize::MAX] {
        let (frames, dropped) = deframe(mode, wire, cut);
        assert_eq!(frames, expected);
        if vector.has("dropped") {
            assert_eq!(dropped.len() as i64, vector.number("dropped"));
        }
    }
}

fn deframe(mode: Mode, stream: &[u8], cut: usize) -> (Vec<Vec<u8>>, Vec<DropReason>) {
    let mut deframer = Deframer::new(mode, DATA_MAX);
    let (mut frames, mut dropped) = (Vec::new(), Vec::new());
    for piece in stream.chunks(cut.min(stream.len())) {
        deframer.feed(piece, |frame| match frame {
            Ok(data) => frames.push(data.to_vec()),
            Err(reason) => dropped.push(reason),
        });
    }
    (frames, dropped)
}

/// The octets that a frame of the vector refers to.
struct Expected {
    data: Vec<u8>,
    command: At,
}

impl Expected {
    fn of(vector: &Vector) -> Expected {
        let data = ["rf_data", "value", "data"]
            .into_iter()
            .find(|field| vector.has(field))
            .map(|field| match field {
                "value" => unhex(vector.text(field)),
                _ => vector.octets(field),
            });
        let command = if vector.has("command") {
            vector.text("command").as_bytes()
        } else {
            b"--"
        };
        Expected {
            data: data.unwrap_or_default(),
            command: At(command.try_into().unwrap()),
        }
    }

    fn frame<'a>(&'a self, vector: &Vector) -> Frame<'a> {
        let octet = |field: &str| u8::try_from(vector.number(field)).unwrap();
        let addr64 = |field: &str| Addr64(u64::from_str_radix(vector.text(field), 16).unwrap());
        let addr16 = |field: &str| Addr16(hex16(vector, field));
        let port = |field: &str| u16::try_from(vector.number(field)).unwrap();
        let ip = |field: &str| -> [u8; 4] {
            let octets = vector.text(field).split('.').map(|octet| octet.parse().unwrap());
            octets.collect::<Vec<u8>>().try_into().unwrap()
        };
        let minus_rssi_dbm = || u8::try_from(-vector.number("rssi_dbm")).unwrap();
        let data = &self.data[..];
        let command = self.command;
        match vector.number("frame_type") {
            0x00 => Frame::Tx64 {
                id: FrameId(octet("frame_id")),
                dest: addr64("dest64"),
                options: octet("options"),
                data,
            },
            0x01 => Frame::Tx16 {
                id: FrameId(octet("frame_id")),
                dest: addr16("dest16"),
                options: octet("options"),
                data,
            },
            0x08 => Frame::AtCommand {
                id: FrameId(octet("frame_id")),
                command,
                value: data,
            },
            0x10 => Frame::Transmit {
                id: FrameId(octet("frame_id")),
                dest64: addr64("dest64"),
                dest16: addr16("dest16"),
                radius: octet("radius"),
                options: octet("options"),
                data,
            },
            0x20 => Frame::TransmitIpv4 {
                id: FrameId(octet("frame_id")),
                dest: ip("dest_ip"),
                dest_port: port("dest_port"),
                source_port: port("src_port"),
                protocol: octet("protocol"),
                options: octet("options"),
                data,
            },
            0x80 => Frame::Rx64 {
                source: addr64("src64"),
                minus_rssi_dbm: minus_rssi_dbm(),
                options: octet("options"),
                data,
            },
            0x81 => Frame::Rx16 {
                source: addr16("src16"),
                minus_rssi_dbm: minus_rssi_dbm(),
                options: octet("options"),
                data,
            },
            0x88 => Frame::AtResponse {
                id: FrameId(octet("frame_id")),
                command,
                status: octet("status"),
                value: data,
            },
            0x89 => Frame::TxStatus {
                id: FrameId(octet("frame_id")),
                status: octet("status"),
            },
            0x8A => Frame::ModemStatus {
                status: octet("status"),
            },
            0x8B => Frame::TransmitStatus {
                id: FrameId(octet("frame_id")),
                dest16: addr16("dest16"),
                retries: octet("retries"),
                delivery: octet("delivery"),
                discovery: octet("discovery"),
            },
            0x90 => Frame::Receive {
                source64: addr64("src64"),
                source16: addr16("src16"),
                options: octet("options"),
                data,
            },
            0x91 => Frame::ReceiveExplicit {
                source64: addr64("src64"),
                source16: addr16("src16"),
                endpoints: Endpoints {
                    source: octet("src_ep"),
                    destination: octet("dst_ep"),
                    cluster: hex16(vector, "cluster"),
                    profile: hex16(vector, "profile"),
                },
                options: octet("options"),
                data,
            },
            0xB0 => Frame::ReceiveIpv4 {
                source: ip("src_ip"),
                dest_port: port("dest_port"),
                source_port: port("src_port"),
                protocol: octet("protocol"),
                status: octet("status"),
                data,
            },
            other => panic!("no frame {other:02x}"),
        }
    }
}

fn hex16(vector: &Vector, field: &str) -> u16 {
    u16::from_str_radix(vector.text(field), 16).unwrap()
}
