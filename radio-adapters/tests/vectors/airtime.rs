//! LoRa time on air.

use gateway_core::airtime::Lora;

use crate::Vector;

pub(crate) fn check(vector: &Vector) {
    assert_eq!(vector.number("implicit_header"), 0, "modems here send the header");
    assert_eq!(vector.number("crc"), 1, "modems here send a checksum");
    let denominator = vector.text("cr").strip_prefix("4/").unwrap();
    let lora = Lora {
        spreading_factor: vector.number("sf") as u8,
        bandwidth_hz: vector.number("bw_hz") as u32,
        coding_rate: denominator.parse().unwrap(),
        preamble: vector.number("preamble") as u16,
    };

    let time = lora.time_on_air(vector.number("payload") as usize);

    assert_eq!(time.as_micros() as i64, vector.number("toa_us"));
}
