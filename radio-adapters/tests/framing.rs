//! What must hold for every framing, whatever the line brings.

use proptest::collection::vec;
use proptest::prelude::*;
use radio_adapters::driver::DropReason;
use radio_adapters::framing::{Deframer, encode};
use radio_adapters::settings::Framing;

const MAX: usize = 300;

const ALL: [Framing; 5] = [
    Framing::LengthPrefix,
    Framing::Slip,
    Framing::Cobs,
    Framing::Hdlc,
    Framing::Kiss,
];

const DELIMITED: [Framing; 4] = [Framing::Slip, Framing::Cobs, Framing::Hdlc, Framing::Kiss];

type Frames = Vec<Result<Vec<u8>, DropReason>>;

proptest! {
    #[test]
    fn frames_are_the_same_however_the_stream_is_cut(
        stream in line(),
        cuts in vec(1_usize..40, 1..40),
        before in 0_usize..6,
    ) {
        for framing in ALL {
            let mut deframer = Deframer::new(framing, MAX, before);
            let mut whole = Frames::new();
            push(&mut deframer, &stream, &mut whole);

            let mut deframer = Deframer::new(framing, MAX, before);
            let mut pieces = Frames::new();
            let mut rest = &stream[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(rest.len().min(*cut));
                push(&mut deframer, piece, &mut pieces);
                rest = after;
            }
            prop_assert_eq!(&whole, &pieces, "{:?}", framing);
        }
    }

    #[test]
    fn no_frame_is_empty_or_larger_than_allowed(stream in line(), max in 1_usize..40) {
        for framing in ALL {
            let mut frames = Frames::new();
            push(&mut Deframer::new(framing, max, 0), &stream, &mut frames);
            for frame in frames.into_iter().flatten() {
                prop_assert!((1..=max).contains(&frame.len()), "{:?}: {} octets", framing, frame.len());
            }
        }
    }

    #[test]
    fn a_frame_after_anything_is_delivered(garbage in line(), frame in vec(any::<u8>(), 1..=MAX)) {
        for framing in DELIMITED {
            let mut deframer = Deframer::new(framing, MAX, 0);
            push(&mut deframer, &garbage, &mut Frames::new());
            let mut frames = Frames::new();
            // The first delimiter ends the garbage, whatever that is worth.
            push(&mut deframer, &encode(framing, &frame), &mut frames);
            prop_assert_eq!(frames.pop(), Some(Ok(frame.clone())), "{:?}", framing);
            prop_assert!(frames.len() <= 1, "{:?}", framing);
        }
    }

    #[test]
    fn a_message_after_anything_and_silence_is_delivered(garbage in line(), message in message()) {
        let mut deframer = Deframer::new(Framing::LengthPrefix, MAX, 0);
        push(&mut deframer, &garbage, &mut Frames::new());
        deframer.gap();
        prop_assert!(!deframer.wants_gap());

        let mut frames = Frames::new();
        push(&mut deframer, &message, &mut frames);
        push(&mut deframer, &message, &mut frames);

        prop_assert_eq!(frames, vec![Ok(message.clone()), Ok(message)]);
    }

    #[test]
    fn frames_in_a_row_are_all_delivered(frames in vec(vec(any::<u8>(), 1..=MAX), 1..10)) {
        for framing in DELIMITED {
            let stream: Vec<u8> = frames.iter().flat_map(|frame| encode(framing, frame)).collect();
            let mut found = Frames::new();
            push(&mut Deframer::new(framing, MAX, 0), &stream, &mut found);
            let expected: Frames = frames.iter().cloned().map(Ok).collect();
            prop_assert_eq!(found, expected, "{:?}", framing);
        }
    }

    #[test]
    fn a_damaged_hdlc_frame_is_never_delivered(
        frame in vec(any::<u8>(), 1..60),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u32,
    ) {
        let mut line = encode(Framing::Hdlc, &frame);
        let inside = 1..line.len() - 1;
        let escapes = |line: &[u8]| line[inside.clone()].iter().any(|octet| matches!(octet, 0x7D | 0x7E));
        prop_assume!(!escapes(&line));
        line[1 + at.index(inside.len())] ^= 1 << bit;
        // Damage that makes a flag or an escape is found by the checksum nearly always, this one always.
        prop_assume!(!escapes(&line));
        let mut found = Frames::new();
        push(&mut Deframer::new(Framing::Hdlc, MAX, 0), &line, &mut found);
        prop_assert!(found.iter().all(Result::is_err), "{:?}", found);
    }
}

#[test]
fn a_stream_without_delimiters_is_one_overrun() {
    for framing in DELIMITED {
        let mut deframer = Deframer::new(framing, MAX, 0);
        let mut frames = Frames::new();
        for _ in 0..1000 {
            push(&mut deframer, &[0x55; 1000], &mut frames);
        }
        assert_eq!(frames, []);
        push(&mut deframer, &encode(framing, &[3, 1, 1]), &mut frames);
        assert_eq!(
            frames,
            [Err(DropReason::Overrun), Ok(vec![3, 1, 1])],
            "{framing:?}"
        );
    }
}

#[test]
fn the_largest_frame_passes_and_one_octet_more_does_not() {
    for framing in DELIMITED {
        let mut frames = Frames::new();
        let mut deframer = Deframer::new(framing, MAX, 0);
        push(&mut deframer, &encode(framing, &[7; MAX]), &mut frames);
        push(&mut deframer, &encode(framing, &[7; MAX + 1]), &mut frames);
        assert_eq!(
            frames,
            [Ok(vec![7; MAX]), Err(DropReason::Overrun)],
            "{framing:?}"
        );
    }
}

#[test]
fn each_length_that_cannot_be_right_is_named() {
    let cases: [(&[u8], DropReason); 7] = [
        (&[0, 1], DropReason::Length),
        (&[1, 0, 3, 1], DropReason::Length),
        (&[1, 0xFF, 0xFF, 0x0C], DropReason::Length),
        (&[2, 0x1E], DropReason::Noise),
        // A wrapper that wraps nothing, without its control octet, and one in another.
        (&[2, 0xFE], DropReason::Noise),
        (&[4, 0xFE, 1, 9, 5, 0xFE, 1, 8, 8], DropReason::Noise),
        (&[4, 0xFE, 1, 9, 0], DropReason::Length),
    ];
    for (octets, reason) in cases {
        let mut frames = Frames::new();
        let mut deframer = Deframer::new(Framing::LengthPrefix, MAX, 0);
        push(&mut deframer, octets, &mut frames);
        assert_eq!(frames.first(), Some(&Err(reason)), "{octets:02x?}");
        assert_eq!(frames.len(), 1, "{octets:02x?}");
    }
}

fn push(deframer: &mut Deframer, octets: &[u8], frames: &mut Frames) {
    deframer.push(octets, &mut |frame| frames.push(frame.map(<[u8]>::to_vec)));
}

/// Octets as lines bring them: with delimiters and escapes, lengths and types that may be right.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let special = prop::sample::select(vec![
        0x00, 0x01, 0x02, 0x03, 0x04, 0x0C, 0x7D, 0x7E, 0xC0, 0xDB, 0xDC, 0xDD, 0xFE, 0xFF,
    ]);
    vec(prop_oneof![2 => special, 1 => any::<u8>()], 0..700)
}

/// A message of some type, with its length in one octet or three.
fn message() -> impl Strategy<Value = Vec<u8>> {
    (0_u8..=0x1D, vec(any::<u8>(), 0..MAX - 4), any::<bool>()).prop_map(|(kind, body, long)| {
        let mut message = if long || body.len() > 253 {
            let len = 4 + body.len() as u16;
            vec![1, len.to_be_bytes()[0], len.to_be_bytes()[1], kind]
        } else {
            vec![2 + body.len() as u8, kind]
        };
        message.extend(body);
        message
    })
}
