//! MQTT-SN's own length field as framing (§5.2.1): nothing but messages, one after the other.
//!
//! There is no delimiter, so a lost octet leaves the deframer in the wrong place. It finds the next message when the
//! line was silent for a while; whoever reads the line tells it ([`LengthPrefix::gap`]). Lengths and message types
//! that cannot be right are noticed at once, and then nothing is believed until the next silence.

use super::Deliver;
use crate::driver::DropReason;

/// §5.2.2: the last message type of the specification, and the type of the forwarder encapsulation.
const LAST_TYPE: u8 = 0x1D;
const ENCAPSULATION: u8 = 0xFE;

/// Takes a stream of MQTT-SN messages apart. A forwarder's encapsulation (§5.5) and the message in it are one frame.
#[derive(Debug)]
pub struct LengthPrefix {
    frame: Vec<u8>,
    max: usize,
    before: usize,
    /// Octets that the frame has at least, by what is known of it.
    wanted: usize,
    /// Nothing is believed until the line is silent.
    lost: bool,
}

/// What the beginning of a frame says.
enum Length {
    /// The frame has this many octets, or at least as many.
    Wanted(usize),
    Bad(DropReason),
}

impl LengthPrefix {
    /// For frames of up to `max` octets, with `before` octets before the length of their message.
    pub fn new(max: usize, before: usize) -> LengthPrefix {
        LengthPrefix {
            frame: Vec::new(),
            max,
            before,
            wanted: before + 1,
            lost: false,
        }
    }

    /// The next octets of the stream.
    pub fn push(&mut self, octets: &[u8], deliver: Deliver<'_>) {
        let mut rest = octets;
        while !self.lost && !rest.is_empty() {
            let (next, after) = rest.split_at(rest.len().min(self.wanted - self.frame.len()));
            self.frame.extend(next);
            rest = after;
            if self.frame.len() < self.wanted {
                return;
            }
            match self.length() {
                Length::Wanted(wanted) if wanted > self.max => self.lose(DropReason::Length, deliver),
                Length::Wanted(wanted) if wanted > self.wanted => self.wanted = wanted,
                Length::Wanted(_) => {
                    deliver(Ok(&self.frame));
                    self.begin();
                }
                Length::Bad(reason) => self.lose(reason, deliver),
            }
        }
    }

    /// The line was silent: a frame begins with the next octet. Tells what was left of the last one.
    pub fn gap(&mut self) -> Option<DropReason> {
        let cut_off = !self.frame.is_empty();
        self.begin();
        self.lost = false;
        cut_off.then_some(DropReason::Gap)
    }

    /// It is inside of a frame, or lost.
    pub fn wants_gap(&self) -> bool {
        self.lost || !self.frame.is_empty()
    }

    fn begin(&mut self) {
        self.frame.clear();
        self.wanted = self.before + 1;
    }

    fn lose(&mut self, reason: DropReason, deliver: Deliver<'_>) {
        deliver(Err(reason));
        self.begin();
        self.lost = true;
    }

    /// What the octets at hand say of the frame's length.
    fn length(&self) -> Length {
        let mut at = self.before;
        for encapsulated in [false, true] {
            let (head, len) = match &self.frame[at.min(self.frame.len())..] {
                [] => return Length::Wanted(at + 1),
                [0x01] => return Length::Wanted(at + 4),
                [0x01, high, low, ..] => (4, usize::from(u16::from_be_bytes([*high, *low]))),
                [0x01, _] => return Length::Wanted(at + 4),
                [len, ..] => (2, usize::from(*len)),
            };
            if len < head {
                return Length::Bad(DropReason::Length);
            }
            match self.frame.get(at + head - 1) {
                None => return Length::Wanted(at + head),
                Some(0..=LAST_TYPE) => return Length::Wanted(at + len),
                // The wrapper has its own length, the message in it follows; no wrapper stands in another.
                Some(&ENCAPSULATION) if !encapsulated && len > head => at += len,
                Some(_) => return Length::Bad(DropReason::Noise),
            }
        }
        Length::Bad(DropReason::Noise)
    }
}
