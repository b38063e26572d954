//! API frames on the wire: `7E`, length, data, checksum, escaped or not.

/// Begins every frame.
const DELIMITER: u8 = 0x7E;
/// Announces an escaped octet.
const ESCAPE: u8 = 0x7D;
const XON: u8 = 0x11;
const XOFF: u8 = 0x13;

/// The longest data of a frame that a Zigbee, 802.15.4 or DigiMesh module takes.
const DATA_MAX: usize = 300;

/// A frame as the module puts it on the line.
pub(super) fn encode(data: &[u8], escaped: bool) -> Vec<u8> {
    let length = (data.len() as u16).to_be_bytes();
    let mut wire = vec![DELIMITER];
    for octet in length.iter().chain(data).chain([&checksum(data)]) {
        if escaped && matches!(*octet, DELIMITER | ESCAPE | XON | XOFF) {
            wire.extend([ESCAPE, octet ^ 0x20]);
        } else {
            wire.push(*octet);
        }
    }
    wire
}

/// What brings the sum of the data to 0xFF.
fn checksum(data: &[u8]) -> u8 {
    !data.iter().fold(0_u8, |sum, octet| sum.wrapping_add(*octet))
}

/// Finds frames in what the host writes.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// From a delimiter on, without escapes.
    window: Vec<u8>,
    /// The last octet was an escape.
    escape: bool,
    /// Frames with a wrong checksum: the module says nothing about them.
    pub bad_checksums: usize,
}

impl Reader {
    /// One octet from the line; the data of a frame when it is complete.
    pub(super) fn push(&mut self, octet: u8, escaped: bool) -> Option<Vec<u8>> {
        let mut octet = octet;
        if escaped {
            if octet == DELIMITER {
                self.clear();
            } else if octet == ESCAPE {
                self.escape = true;
                return None;
            } else if core::mem::take(&mut self.escape) {
                octet ^= 0x20;
            }
        }
        if self.window.is_empty() && octet != DELIMITER {
            return None;
        }
        self.window.push(octet);
        self.complete(escaped)
    }

    /// Forgets what was begun.
    pub(super) fn clear(&mut self) {
        self.window.clear();
        self.escape = false;
    }

    fn complete(&mut self, escaped: bool) -> Option<Vec<u8>> {
        loop {
            let [_, high, low, ..] = self.window[..] else {
                return None;
            };
            let length = usize::from(u16::from_be_bytes([high, low]));
            let plausible = (1..=DATA_MAX).contains(&length);
            if plausible && self.window.len() < 3 + length + 1 {
                return None;
            }
            if plausible {
                let data = self.window[3..3 + length].to_vec();
                if checksum(&data) == self.window[3 + length] {
                    self.window.drain(..3 + length + 1);
                    return Some(data);
                }
                self.bad_checksums += 1;
            }
            if escaped {
                self.window.clear();
                return None;
            }
            // A delimiter may stand anywhere: the next one in the window may be the true one.
            let next = self.window[1..].iter().position(|octet| *octet == DELIMITER);
            match next {
                Some(at) => self.window.drain(..=at),
                None => self.window.drain(..),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Reader, encode};

    fn read(wire: &[u8], escaped: bool) -> Vec<Vec<u8>> {
        let mut reader = Reader::default();
        wire.iter()
            .filter_map(|octet| reader.push(*octet, escaped))
            .collect()
    }

    #[test]
    fn frames_are_as_the_manual_writes_them() {
        assert_eq!(encode(&[0x23, 0x11], false), [0x7E, 0, 2, 0x23, 0x11, 0xCB]);
        assert_eq!(encode(&[0x23, 0x11], true), [0x7E, 0, 2, 0x23, 0x7D, 0x31, 0xCB]);
        assert_eq!(encode(&[0x8A, 6], false), [0x7E, 0, 2, 0x8A, 6, 0x6F]);
    }

    #[test]
    fn every_special_octet_survives_both_modes() {
        let data: Vec<u8> = (0..=255).collect();
        for escaped in [false, true] {
            assert_eq!(
                read(&encode(&data, escaped), escaped),
                core::slice::from_ref(&data)
            );
        }
    }

    #[test]
    fn bad_checksum_is_dropped_and_the_next_frame_found() {
        let wire = [&[0x7E, 0, 2, 0x8A, 0, 0x74][..], &encode(&[0x8A, 6], false)].concat();
        assert_eq!(read(&wire, false), [[0x8A, 6]]);
    }

    #[test]
    fn unescaped_delimiter_starts_anew() {
        let wire = [&[0x7E, 0, 0x10, 0x90, 0][..], &encode(&[0x8A, 6], true)].concat();
        assert_eq!(read(&wire, true), [[0x8A, 6]]);
    }

    #[test]
    fn false_delimiter_hides_no_frame_without_escapes() {
        let wire = [&[0x7E, 0, 4, 1, 2][..], &encode(&[0x8A, 6], false)].concat();
        assert_eq!(read(&wire, false), [[0x8A, 6]]);
    }
}
