//! Numbers and octets as the modems write them.

use core::str::FromStr;

use data_encoding::{BASE64_NOPAD, HEXUPPER, HEXUPPER_PERMISSIVE};

/// Octets as hexadecimal digits.
pub(super) fn hex(octets: &[u8]) -> String {
    HEXUPPER.encode(octets)
}

/// Octets from hexadecimal digits of either case.
pub(super) fn from_hex(digits: &str) -> Option<Vec<u8>> {
    HEXUPPER_PERMISSIVE.decode(digits.as_bytes()).ok()
}

/// Octets as base64 without padding.
pub(super) fn base64(octets: &[u8]) -> String {
    BASE64_NOPAD.encode(octets)
}

/// Octets from base64, with or without padding.
pub(super) fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text
        .iter()
        .rev()
        .take(2)
        .take_while(|octet| **octet == b'=')
        .count();
    BASE64_NOPAD.decode(&text[..text.len() - padding]).ok()
}

/// A number with blanks around it.
pub(super) fn number<T: FromStr>(text: &str) -> Option<T> {
    text.trim().parse().ok()
}

/// A signal to noise ratio. A few modems write impossible ones; they are cut to the range of the type.
pub(super) fn snr(text: &str) -> Option<i8> {
    number::<i32>(text).map(|snr| snr.clamp(i32::from(i8::MIN), i32::from(i8::MAX)) as i8)
}
