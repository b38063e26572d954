//! Time on air against worked examples: Semtech AN1200.13 and the calculators of two other projects.

use core::time::Duration;

use gateway_core::airtime::{Airtime, Lora, Payload};

/// Spreading factor, bandwidth, octets, denominator of the coding rate, preamble; µs.
const LORA: &[(u8, u32, usize, u8, u16, u64)] = &[
    (7, 125000, 11, 5, 8, 41216),
    (7, 125000, 64, 5, 8, 118016),
    (8, 125000, 31, 5, 8, 133632),
    (9, 125000, 31, 5, 8, 246784),
    (10, 125000, 31, 5, 8, 452608),
    (11, 125000, 31, 5, 8, 905216),
    (12, 125000, 11, 5, 8, 1155072),
    (12, 125000, 31, 5, 8, 1810432),
    (12, 125000, 64, 5, 8, 2793472),
    (12, 250000, 31, 5, 8, 905216),
    (12, 500000, 31, 5, 8, 411648),
    (9, 125000, 35, 5, 12, 263168),
    (10, 125000, 51, 8, 8, 886784),
    (7, 125000, 255, 5, 8, 399616),
    (12, 125000, 255, 5, 8, 9019392),
    (7, 500000, 31, 5, 8, 17984),
    (8, 62500, 31, 5, 8, 267264),
    (9, 500000, 20, 6, 8, 51456),
];

/// Octets of a message, and the µs it takes at SF7 to SF12 with four octets of link header, 125 kHz and 4/5.
const MESSAGES: &[(usize, [u64; 6])] = &[
    (2, [36_096, 61_952, 123_904, 247_808, 495_616, 991_232]),
    (3, [36_096, 72_192, 123_904, 247_808, 495_616, 991_232]),
    (5, [41_216, 72_192, 144_384, 247_808, 495_616, 991_232]),
    (7, [41_216, 82_432, 144_384, 288_768, 577_536, 1_155_072]),
    (10, [46_336, 82_432, 164_864, 288_768, 659_456, 1_155_072]),
    (27, [71_936, 133_632, 246_784, 452_608, 905_216, 1_810_432]),
    (107, [189_696, 338_432, 594_944, 1_107_968, 2_379_776, 4_431_872]),
];

fn lora(spreading_factor: u8, bandwidth_hz: u32, coding_rate: u8, preamble: u16) -> Lora {
    Lora {
        spreading_factor,
        bandwidth_hz,
        coding_rate,
        preamble,
    }
}

#[test]
fn lora_takes_what_the_examples_say() {
    for &(spreading_factor, bandwidth, octets, coding_rate, preamble, micros) in LORA {
        let lora = lora(spreading_factor, bandwidth, coding_rate, preamble);
        assert_eq!(
            lora.time_on_air(octets),
            Duration::from_micros(micros),
            "{lora:?}, {octets} octets"
        );
    }
}

#[test]
fn messages_take_what_the_table_says() {
    for &(octets, row) in MESSAGES {
        for (spreading_factor, micros) in (7..).zip(row) {
            let airtime = Airtime::Lora {
                modulation: lora(spreading_factor, 125_000, 5, 8),
                payload: Payload {
                    overhead: 4,
                    base64: false,
                },
            };
            assert_eq!(
                airtime.of(octets),
                Duration::from_micros(micros),
                "{octets} octets at SF{spreading_factor}"
            );
        }
    }
}

/// The formula of the application note as it stands there, in floating point.
#[test]
fn lora_is_the_formula_of_the_application_note() {
    for spreading_factor in 7..=12 {
        for bandwidth in [62_500, 125_000, 250_000, 500_000] {
            for coding_rate in 5..=8 {
                for preamble in [6, 8, 12] {
                    for octets in 0..=255 {
                        let symbol_ms =
                            f64::from(1_u32 << spreading_factor) / (f64::from(bandwidth) / 1000.0);
                        let optimised = f64::from(u8::from(symbol_ms > 16.0));
                        let (sf, pl) = (f64::from(spreading_factor), f64::from(octets));
                        let blocks =
                            ((8.0 * pl - 4.0 * sf + 28.0 + 16.0) / (4.0 * (sf - 2.0 * optimised))).ceil();
                        let payload = 8.0 + (blocks * f64::from(coding_rate)).max(0.0);
                        let ms = (f64::from(preamble) + 4.25 + payload) * symbol_ms;
                        let lora = lora(spreading_factor, bandwidth, coding_rate, preamble);
                        let ours = lora.time_on_air(octets as usize).as_secs_f64() * 1000.0;
                        assert!(
                            (0.0..0.001).contains(&(ours - ms + 1e-9)),
                            "{lora:?}, {octets}: {ours} and {ms} ms"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn text_only_modems_take_a_third_more() {
    let payload = Payload {
        overhead: 8,
        base64: true,
    };
    assert_eq!(
        [0, 1, 2, 3, 4].map(|octets| payload.len(octets)),
        [8, 10, 11, 12, 14]
    );
}

#[test]
fn other_radios_go_by_octets() {
    // 32 µs an octet; an acknowledgement has 5 octets behind 6 of synchronisation.
    let zigbee = Airtime::Ieee802154 { overhead: 0 };
    assert_eq!(zigbee.of(5), Duration::from_micros(352));
    assert_eq!(zigbee.of(127), Duration::from_micros(4_256));
    let serial = Airtime::ByteRate {
        bits_per_second: 9600,
        bits_per_octet: 10,
        overhead: 0,
    };
    assert_eq!(serial.of(96), Duration::from_millis(100));
    assert_eq!(Airtime::Free.of(1_000_000), Duration::ZERO);
}
