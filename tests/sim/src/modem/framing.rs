//! Where a firmware says that a frame begins and ends, and its checksums.
//!
//! Written for the far end of the line: nothing here is shared with what the gateway does on its own.

use core::time::Duration;

use gateway_core::time::Instant;

/// The longest frame that a firmware has memory for.
const FRAME_MAX: usize = 1024;

/// Forwarder encapsulation, in the place of a message type (§5.5).
const FORWARDER: u8 = 0xFE;

/// How frames are told apart on a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Framing {
    /// By MQTT-SN's own length, and silence after a mishap.
    LengthPrefix,
    /// RFC 1055.
    Slip,
    /// Consistent overhead byte stuffing, ended by 0x00.
    Cobs,
    /// RFC 1662 with FCS-16.
    Hdlc,
    /// Data frames of port 0 of a terminal node controller.
    Kiss,
}

/// What follows the content of a frame, low octet first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Checksum {
    /// Nothing.
    None,
    /// CRC-16/X-25.
    X25,
    /// CRC-16/XMODEM.
    Xmodem,
}

impl Checksum {
    /// The content with its checksum.
    pub fn append(self, content: &[u8]) -> Vec<u8> {
        let sum: &[u8] = match self {
            Checksum::None => &[],
            Checksum::X25 => &x25(content).to_le_bytes(),
            Checksum::Xmodem => &xmodem(content).to_le_bytes(),
        };
        [content, sum].concat()
    }

    /// The content without its checksum, if that is right.
    pub fn strip(self, content: &[u8]) -> Option<&[u8]> {
        let sum_of = match self {
            Checksum::None => return Some(content),
            Checksum::X25 => x25,
            Checksum::Xmodem => xmodem,
        };
        let (content, sum) = content.split_last_chunk()?;
        (sum_of(content) == u16::from_le_bytes(*sum)).then_some(content)
    }
}

/// CRC-16/X-25: 0x906E for `123456789`.
fn x25(octets: &[u8]) -> u16 {
    let mut sum = 0xFFFF_u16;
    for octet in octets {
        sum ^= u16::from(*octet);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0x8408 } else { sum >> 1 };
        }
    }
    !sum
}

/// CRC-16/XMODEM: 0x31C3 for `123456789`.
fn xmodem(octets: &[u8]) -> u16 {
    let mut sum = 0_u16;
    for octet in octets {
        sum ^= u16::from(*octet) << 8;
        for _ in 0..8 {
            sum = if sum >> 15 == 1 {
                sum << 1 ^ 0x1021
            } else {
                sum << 1
            };
        }
    }
    sum
}

const SLIP_END: u8 = 0xC0;
const SLIP_ESC: u8 = 0xDB;
const HDLC_FLAG: u8 = 0x7E;
const HDLC_ESC: u8 = 0x7D;

impl Framing {
    /// A frame as it is written.
    pub fn encode(self, content: &[u8]) -> Vec<u8> {
        match self {
            Framing::LengthPrefix => content.to_vec(),
            Framing::Slip => stuffed_slip(content),
            Framing::Kiss => stuffed_slip(&[&[0x00], content].concat()),
            Framing::Cobs => {
                let mut wire = Vec::new();
                let mut runs = content.split(|octet| *octet == 0).peekable();
                while let Some(run) = runs.next() {
                    let (full, rest) = run.as_chunks::<254>();
                    for block in full {
                        wire.push(255);
                        wire.extend(block);
                    }
                    // A full block stands for no zero; at the end there is none.
                    if full.is_empty() || !rest.is_empty() || runs.peek().is_some() {
                        wire.push(rest.len() as u8 + 1);
                        wire.extend(rest);
                    }
                }
                wire.push(0);
                wire
            }
            Framing::Hdlc => {
                let mut wire = vec![HDLC_FLAG];
                for octet in Checksum::X25.append(content) {
                    match octet {
                        HDLC_FLAG | HDLC_ESC => wire.extend([HDLC_ESC, octet ^ 0x20]),
                        _ => wire.push(octet),
                    }
                }
                wire.push(HDLC_FLAG);
                wire
            }
        }
    }

    /// The content of the one frame that these octets are, delimiters included.
    pub fn decode_one(self, wire: &[u8]) -> Option<Vec<u8>> {
        let Some(delimiter) = self.delimiter() else {
            return Some(wire.to_vec());
        };
        let between = wire.strip_suffix(&[delimiter])?;
        self.decode(between.strip_prefix(&[delimiter]).unwrap_or(between))
    }

    fn decode(self, between: &[u8]) -> Option<Vec<u8>> {
        match self {
            Framing::LengthPrefix => Some(between.to_vec()),
            Framing::Slip => unstuffed_slip(between),
            Framing::Kiss => {
                let frame = unstuffed_slip(between)?;
                let (kind, content) = frame.split_first()?;
                // Only data; parameters of the radio are not for it.
                (kind & 0x0F == 0).then(|| content.to_vec())
            }
            Framing::Cobs => {
                let mut content = Vec::new();
                let mut rest = between;
                while let Some((code, after)) = rest.split_first() {
                    let run = after.get(..usize::from(*code).checked_sub(1)?)?;
                    content.extend(run);
                    rest = &after[run.len()..];
                    if *code != 255 && !rest.is_empty() {
                        content.push(0);
                    }
                }
                Some(content)
            }
            Framing::Hdlc => {
                let mut content = Vec::new();
                let mut octets = between.iter();
                while let Some(octet) = octets.next() {
                    content.push(match *octet {
                        HDLC_ESC => octets.next()? ^ 0x20,
                        octet => octet,
                    });
                }
                Some(Checksum::X25.strip(&content)?.to_vec())
            }
        }
    }

    fn delimiter(self) -> Option<u8> {
        match self {
            Framing::LengthPrefix => None,
            Framing::Slip | Framing::Kiss => Some(SLIP_END),
            Framing::Cobs => Some(0),
            Framing::Hdlc => Some(HDLC_FLAG),
        }
    }
}

fn stuffed_slip(content: &[u8]) -> Vec<u8> {
    let mut wire = vec![SLIP_END];
    for octet in content {
        match *octet {
            SLIP_END => wire.extend([SLIP_ESC, 0xDC]),
            SLIP_ESC => wire.extend([SLIP_ESC, 0xDD]),
            octet => wire.push(octet),
        }
    }
    wire.push(SLIP_END);
    wire
}

fn unstuffed_slip(between: &[u8]) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    let mut octets = between.iter();
    while let Some(octet) = octets.next() {
        content.push(match *octet {
            SLIP_ESC => match octets.next()? {
                0xDC => SLIP_END,
                0xDD => SLIP_ESC,
                _ => return None,
            },
            octet => octet,
        });
    }
    Some(content)
}

/// Finds frames in what the host writes.
#[derive(Debug)]
pub struct Deframer {
    framing: Framing,
    checksum: Checksum,
    /// Longer silence in a frame without delimiters means that it was cut off.
    gap: Duration,
    window: Vec<u8>,
    last: Instant,
    /// Frames that were none.
    pub dropped: usize,
}

impl Deframer {
    /// For a line of this speed.
    pub fn new(framing: Framing, checksum: Checksum, baud: u32) -> Deframer {
        let character = Duration::from_micros(10_000_000 / u64::from(baud.max(1)));
        Deframer {
            framing,
            checksum,
            gap: (5 * character).max(Duration::from_millis(20)),
            window: Vec::new(),
            last: Instant::START,
            dropped: 0,
        }
    }

    /// One octet more; the content of a frame that it ends.
    pub fn push(&mut self, now: Instant, octet: u8) -> Option<Vec<u8>> {
        let silence = now.since(self.last);
        self.last = now;
        let Some(delimiter) = self.framing.delimiter() else {
            if silence > self.gap && !self.window.is_empty() {
                self.dropped += 1;
                self.window.clear();
            }
            self.window.push(octet);
            return self.whole_message();
        };
        if octet != delimiter {
            if self.window.len() <= 2 * FRAME_MAX {
                self.window.push(octet);
            }
            return None;
        }
        let between = core::mem::take(&mut self.window);
        if between.is_empty() {
            return None;
        }
        let frame = self.framing.decode(&between);
        let content = frame.and_then(|frame| self.checksum.strip(&frame).map(<[u8]>::to_vec));
        match content {
            Some(content) if content.is_empty() => None,
            Some(content) if content.len() <= FRAME_MAX => Some(content),
            _ => {
                self.dropped += 1;
                None
            }
        }
    }

    /// By MQTT-SN's length: one octet, or 1 and two; an encapsulation goes with what it encapsulates.
    fn whole_message(&mut self) -> Option<Vec<u8>> {
        let mut at = 0;
        loop {
            let rest = &self.window[at..];
            let (head, length) = match *rest {
                [] => return None,
                [1, high, low, ..] => (3, usize::from(u16::from_be_bytes([high, low]))),
                [1, ..] => return None,
                [length, ..] => (1, usize::from(length)),
            };
            if length <= head || length > FRAME_MAX {
                self.dropped += 1;
                self.window.clear();
                return None;
            }
            if rest.len() < length {
                return None;
            }
            at += length;
            if rest[head] != FORWARDER {
                return Some(core::mem::take(&mut self.window));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::{Checksum, Deframer, Framing, x25, xmodem};
    use gateway_core::time::Instant;

    const ALL: [Framing; 5] = [
        Framing::LengthPrefix,
        Framing::Slip,
        Framing::Cobs,
        Framing::Hdlc,
        Framing::Kiss,
    ];

    fn read(framing: Framing, wire: &[u8]) -> Vec<Vec<u8>> {
        let mut deframer = Deframer::new(framing, Checksum::None, 9600);
        wire.iter()
            .filter_map(|octet| deframer.push(Instant::START, *octet))
            .collect()
    }

    /// The published examples of each framing.
    #[test]
    fn frames_are_written_as_everyone_writes_them() {
        let publish = [0x0C, 0x0C, 0x20, 0, 1, 0, 0x11, 0x7E, 0x7D, 0x11, 0x13, 0];
        let cases: [(Framing, &[u8], &[u8]); 6] = [
            (
                Framing::Slip,
                &[0xC0, 0xDB, 0xDC, 0xDD, 0, 0xC0],
                &[0xC0, 0xDB, 0xDC, 0xDB, 0xDD, 0xDC, 0xDD, 0, 0xDB, 0xDC, 0xC0],
            ),
            (
                Framing::Cobs,
                &publish,
                &[4, 0x0C, 0x0C, 0x20, 2, 1, 6, 0x11, 0x7E, 0x7D, 0x11, 0x13, 1, 0],
            ),
            (Framing::Cobs, &[0], &[1, 1, 0]),
            (
                Framing::Hdlc,
                &publish,
                &[
                    0x7E, 0x0C, 0x0C, 0x20, 0, 1, 0, 0x11, 0x7D, 0x5E, 0x7D, 0x5D, 0x11, 0x13, 0, 0x1B, 0x23,
                    0x7E,
                ],
            ),
            (Framing::Kiss, &[3, 1, 1], &[0xC0, 0, 3, 1, 1, 0xC0]),
            (Framing::LengthPrefix, &[3, 1, 1], &[3, 1, 1]),
        ];
        for (framing, content, wire) in cases {
            assert_eq!(framing.encode(content), wire, "{framing:?}");
        }
        assert_eq!((x25(b"123456789"), xmodem(b"123456789")), (0x906E, 0x31C3));
    }

    #[test]
    fn every_content_comes_back() {
        for framing in ALL {
            for length in [2, 3, 20, 253, 254, 255] {
                for octet in [0, 1, 0x7D, 0x7E, 0xC0, 0xDB] {
                    let mut content = vec![octet; length];
                    content[0] = length as u8;
                    content[1] = 0x0C;
                    let wire = [framing.encode(&content), framing.encode(&content)].concat();
                    let frames = read(framing, &wire);
                    assert_eq!(frames, [content.clone(), content], "{framing:?} {octet}");
                }
            }
        }
    }

    #[test]
    fn cobs_blocks_of_254_are_written_as_the_paper_has_them() {
        let long: Vec<u8> = (1..=255).collect();
        let wire = Framing::Cobs.encode(&long);
        assert_eq!((wire[0], wire[255], wire[256], wire[257]), (255, 2, 255, 0));
        assert_eq!(Framing::Cobs.encode(&long[..254])[255..], [0]);
    }

    #[test]
    fn damaged_frame_is_dropped_and_the_next_found() {
        for framing in [Framing::Slip, Framing::Cobs, Framing::Hdlc, Framing::Kiss] {
            let mut deframer = Deframer::new(framing, Checksum::X25, 9600);
            let content = Checksum::X25.append(&[3, 1, 1]);
            let mut damaged = framing.encode(&content);
            damaged[3] ^= 4;
            let wire = [damaged, framing.encode(&content)].concat();
            let frames: Vec<Vec<u8>> = wire
                .iter()
                .filter_map(|octet| deframer.push(Instant::START, *octet))
                .collect();
            assert_eq!(frames, [[3, 1, 1]], "{framing:?}");
            assert!(deframer.dropped >= 1);
        }
    }

    #[test]
    fn silence_helps_where_there_is_no_delimiter() {
        let mut deframer = Deframer::new(Framing::LengthPrefix, Checksum::None, 9600);
        assert_eq!(deframer.push(Instant::START, 200), None);
        let later = Instant::START + Duration::from_millis(30);
        let frames: Vec<Vec<u8>> = [3, 1, 1]
            .into_iter()
            .filter_map(|octet| deframer.push(later, octet))
            .collect();
        assert_eq!(frames, [[3, 1, 1]]);
        assert_eq!(deframer.dropped, 1);
    }

    #[test]
    fn encapsulation_goes_with_its_message() {
        let frame = [5, 0xFE, 1, 0x12, 0x34, 3, 1, 1];
        assert_eq!(
            read(Framing::LengthPrefix, &[frame, frame].concat()),
            [frame, frame]
        );
    }
}
