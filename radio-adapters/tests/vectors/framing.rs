//! SLIP, COBS, HDLC, KISS and MQTT-SN's own length.

use radio_adapters::driver::DropReason;
use radio_adapters::framing::{Deframer, checksum, encode, kiss};
use radio_adapters::settings::{Crc, Framing};

use crate::{Vector, unhex};

/// SEARCHGW: what must come through after a frame that does not.
const NEXT: &[u8] = &[3, 1, 1];

pub(crate) fn check_slip(vector: &Vector) {
    check(vector, Framing::Slip, DropReason::Escape);
}

pub(crate) fn check_cobs(vector: &Vector) {
    check(vector, Framing::Cobs, DropReason::Length);
}

pub(crate) fn check_hdlc(vector: &Vector) {
    match vector.kind.as_str() {
        "crc" => check_crc(vector, Crc::X25),
        _ => {
            check(vector, Framing::Hdlc, DropReason::Checksum);
            let fcs = checksum::of(Crc::X25, &vector.octets("payload"));
            assert_eq!(format!("{:04x}", fcs.unwrap()), vector.text("fcs16"));
        }
    }
}

pub(crate) fn check_crc(vector: &Vector, crc: Crc) {
    let sum = checksum::of(crc, &vector.octets("input")).unwrap();
    assert_eq!(format!("{sum:04x}"), vector.text("crc"));
}

pub(crate) fn check_kiss(vector: &Vector) {
    let command = vector.number("command") as u8;
    let (kind, data) = if vector.has("payload") {
        let port = vector.number("port") as u8;
        (port << 4 | command, vector.octets("payload"))
    } else {
        (command, Vec::new())
    };
    assert_eq!(kiss::encode(kind, &data), vector.wire());

    let expected = if command == kiss::DATA {
        Ok(data)
    } else {
        Err(DropReason::NotForUs)
    };
    for cut in [1, 3, usize::MAX] {
        assert_eq!(
            deframe(Framing::Kiss, &vector.wire(), cut),
            vec![expected.clone()]
        );
    }
}

pub(crate) fn check_length_prefix(vector: &Vector) {
    match vector.kind.as_str() {
        // Only its length is given; the octets are the message itself.
        "frame" => {
            let wire = vector.wire();
            assert_eq!(wire.len() as i64, vector.number("payload_len"));
            assert_eq!(encode(Framing::LengthPrefix, &wire), wire);
            for cut in [1, 3, usize::MAX] {
                assert_eq!(deframe(Framing::LengthPrefix, &wire, cut), vec![Ok(wire.clone())]);
            }
        }
        "decode-error" => {
            let mut deframer = Deframer::new(Framing::LengthPrefix, 300, 0);
            assert_eq!(push(&mut deframer, &vector.wire()), vec![Err(DropReason::Length)]);
            assert_eq!(push(&mut deframer, NEXT), vec![], "nothing is believed yet");
            assert!(deframer.wants_gap());
            assert_eq!(deframer.gap(), None);
            assert_eq!(push(&mut deframer, NEXT), vec![Ok(NEXT.to_vec())]);
        }
        _ => check(vector, Framing::LengthPrefix, DropReason::Length),
    }
}

fn check(vector: &Vector, framing: Framing, error: DropReason) {
    let wire = vector.wire();
    match vector.kind.as_str() {
        "frame" => {
            let payload = vector.octets("payload");
            let encoded = encode(framing, &payload);
            // A delimiter before the frame is the sender's choice.
            let own = encoded.strip_prefix(&[0]).unwrap_or(&encoded);
            assert_eq!(own, wire);
            let expected = if payload.is_empty() {
                Vec::new()
            } else {
                vec![Ok(payload)]
            };
            for cut in [1, 3, usize::MAX] {
                assert_eq!(deframe(framing, &wire, cut), expected);
                assert_eq!(deframe(framing, &encoded, cut), expected);
            }
        }
        "decode-stream" => {
            let frames = vector.fields["frames"].as_array().unwrap();
            let expected: Vec<_> = frames
                .iter()
                .map(|frame| Ok(unhex(frame.as_str().unwrap())))
                .collect();
            for cut in [1, 3, usize::MAX] {
                assert_eq!(deframe(framing, &wire, cut), expected);
            }
        }
        "decode-error" => {
            let mut stream = wire;
            stream.extend(encode(framing, NEXT));
            for cut in [1, 3, usize::MAX] {
                assert_eq!(
                    deframe(framing, &stream, cut),
                    vec![Err(error), Ok(NEXT.to_vec())]
                );
            }
        }
        other => panic!("no way to check {other}"),
    }
}

/// What a deframer gives for a stream in pieces of `cut` octets.
fn deframe(framing: Framing, stream: &[u8], cut: usize) -> Vec<Result<Vec<u8>, DropReason>> {
    let mut deframer = Deframer::new(framing, 300, 0);
    stream
        .chunks(cut.min(stream.len()))
        .flat_map(|piece| push(&mut deframer, piece))
        .collect()
}

fn push(deframer: &mut Deframer, octets: &[u8]) -> Vec<Result<Vec<u8>, DropReason>> {
    let mut frames = Vec::new();
    deframer.push(octets, &mut |frame| frames.push(frame.map(<[u8]>::to_vec)));
    frames
}
