//! API frames in the octets of a serial line ("API frame format").
//!
//! ```text
//! 7E | length, 2 octets | data | 0xFF − sum of data
//! ```
//!
//! In mode 2 every octet after the delimiter that is 7E, 7D, 11 or 13 is sent as 7D and itself XOR 20. Other modems
//! with this framing differ in what `data` means alone.

use crate::driver::DropReason;

/// Begins a frame.
const DELIMITER: u8 = 0x7E;
/// Mode 2: the next octet is changed.
const ESCAPE: u8 = 0x7D;
/// What an escaped octet is changed by.
const ESCAPE_XOR: u8 = 0x20;

/// The longest data that any XBee sends: an IP packet of the cellular ones.
pub const DATA_MAX: usize = 1600;

/// How frames stand on the line: register AP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// AP = 1: octets as they are.
    Plain,
    /// AP = 2: special octets escaped.
    Escaped,
}

/// Appends one frame. `data` is at most [`DATA_MAX`] octets.
pub fn encode(mode: Mode, data: &[u8], out: &mut Vec<u8>) {
    debug_assert!(data.len() <= DATA_MAX);
    let checksum = 0xFF - sum(data);
    let length = (data.len() as u16).to_be_bytes();
    let body = length.iter().chain(data).chain(core::iter::once(&checksum));
    out.push(DELIMITER);
    match mode {
        Mode::Plain => out.extend(body),
        Mode::Escaped => {
            for &octet in body {
                if is_special(octet) {
                    out.extend([ESCAPE, octet ^ ESCAPE_XOR]);
                } else {
                    out.push(octet);
                }
            }
        }
    }
}

/// Finds frames in a stream, however it is cut, and finds back into it after anything.
///
/// It keeps no more than one frame of the longest kind.
#[derive(Debug)]
pub struct Deframer {
    mode: Mode,
    data_max: usize,
    /// Length, data and checksum of the frame that is arriving, unescaped; in plain mode led by the delimiter,
    /// because from there a false one is searched again.
    partial: Vec<u8>,
    state: State,
}

/// Where in the stream we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between frames, where nothing should be.
    Idle,
    /// Lost, and said so.
    Hunting,
    /// In a frame.
    Frame,
    /// In a frame, after an escape.
    Escaped,
}

/// What the beginning of a buffer is.
enum Candidate {
    Incomplete { missing: usize },
    Frame { end: usize },
    Bad(DropReason),
}

impl Deframer {
    /// For a line in `mode` whose frames hold at most `data_max` octets of data.
    pub fn new(mode: Mode, data_max: usize) -> Self {
        Deframer {
            mode,
            data_max: data_max.min(DATA_MAX),
            partial: Vec::new(),
            state: State::Idle,
        }
    }

    /// Takes octets of the line; hands out the data of each frame, and the reason of each failure.
    pub fn feed(&mut self, octets: &[u8], mut each: impl FnMut(Result<&[u8], DropReason>)) {
        match self.mode {
            Mode::Plain => self.feed_plain(octets, &mut each),
            Mode::Escaped => octets
                .iter()
                .for_each(|&octet| self.feed_escaped(octet, &mut each)),
        }
    }

    /// Whether a frame has begun and not ended.
    pub fn is_partial(&self) -> bool {
        matches!(self.state, State::Frame | State::Escaped)
    }

    /// The line was silent for longer than a modem pauses within a frame: what has begun will not end. A false
    /// delimiter in plain mode would otherwise keep back up to [`DATA_MAX`] octets of good frames.
    pub fn gap(&mut self, mut each: impl FnMut(Result<&[u8], DropReason>)) {
        if !self.is_partial() {
            return;
        }
        match self.mode {
            Mode::Plain => {
                while !self.partial.is_empty() {
                    self.lose(DropReason::Gap, &mut each);
                    self.scan(&mut each);
                }
            }
            Mode::Escaped => {
                self.partial.clear();
                each(Err(DropReason::Gap));
            }
        }
        self.state = State::Idle;
    }

    fn feed_plain(&mut self, mut octets: &[u8], each: &mut impl FnMut(Result<&[u8], DropReason>)) {
        while !octets.is_empty() {
            let missing = if self.partial.is_empty() {
                let noise = octets.iter().position(|&octet| octet == DELIMITER);
                if noise != Some(0) {
                    self.noise(each);
                }
                octets = &octets[noise.unwrap_or(octets.len())..];
                1
            } else {
                match candidate(&self.partial[1..], self.data_max) {
                    Candidate::Incomplete { missing } => missing,
                    // `scan` left nothing else.
                    Candidate::Frame { .. } | Candidate::Bad(_) => 0,
                }
            };
            let (now, later) = octets.split_at(missing.min(octets.len()));
            self.partial.extend_from_slice(now);
            octets = later;
            self.scan(each);
        }
    }

    /// Takes from `partial` all that can be decided.
    fn scan(&mut self, each: &mut impl FnMut(Result<&[u8], DropReason>)) {
        while let Some((_, rest)) = self.partial.split_first() {
            match candidate(rest, self.data_max) {
                Candidate::Incomplete { .. } => {
                    self.state = State::Frame;
                    return;
                }
                Candidate::Frame { end } => {
                    each(Ok(&rest[2..end - 1]));
                    self.partial.drain(..=end);
                    self.state = State::Idle;
                    if self.partial.first().is_some_and(|&octet| octet != DELIMITER) {
                        self.noise(each);
                        self.skip_to_delimiter(0);
                    }
                }
                Candidate::Bad(reason) => self.lose(reason, each),
            }
        }
    }

    /// The first delimiter of `partial` was none: goes on after it.
    fn lose(&mut self, reason: DropReason, each: &mut impl FnMut(Result<&[u8], DropReason>)) {
        each(Err(reason));
        self.state = State::Hunting;
        self.skip_to_delimiter(1);
    }

    fn skip_to_delimiter(&mut self, from: usize) {
        let next = self.partial[from..].iter().position(|&octet| octet == DELIMITER);
        self.partial
            .drain(..next.map_or(self.partial.len(), |next| from + next));
    }

    fn feed_escaped(&mut self, octet: u8, each: &mut impl FnMut(Result<&[u8], DropReason>)) {
        if octet == DELIMITER {
            // Never within a frame, not even after an escape: what was there is cut off.
            if self.is_partial() {
                each(Err(DropReason::Length));
            }
            self.partial.clear();
            self.state = State::Frame;
            return;
        }
        match self.state {
            State::Idle | State::Hunting => return self.noise(each),
            State::Frame if octet == ESCAPE => {
                self.state = State::Escaped;
                return;
            }
            State::Frame => self.partial.push(octet),
            State::Escaped if is_special(octet ^ ESCAPE_XOR) => {
                self.state = State::Frame;
                self.partial.push(octet ^ ESCAPE_XOR);
            }
            State::Escaped => {
                self.state = State::Hunting;
                return each(Err(DropReason::Escape));
            }
        }
        match candidate(&self.partial, self.data_max) {
            Candidate::Incomplete { .. } => {}
            Candidate::Frame { end } => {
                each(Ok(&self.partial[2..end - 1]));
                self.state = State::Idle;
            }
            Candidate::Bad(reason) => {
                each(Err(reason));
                self.state = State::Hunting;
            }
        }
    }

    /// Octets outside of any frame: told once for each run of them.
    fn noise(&mut self, each: &mut impl FnMut(Result<&[u8], DropReason>)) {
        if self.state != State::Hunting {
            self.state = State::Hunting;
            each(Err(DropReason::Noise));
        }
    }
}

/// Judges what follows a delimiter: length, data, checksum.
fn candidate(octets: &[u8], data_max: usize) -> Candidate {
    let Some((length, rest)) = octets.split_first_chunk() else {
        return Candidate::Incomplete {
            missing: 2 - octets.len(),
        };
    };
    let length = usize::from(u16::from_be_bytes(*length));
    // Data holds at least the frame type.
    if length == 0 || length > data_max {
        return Candidate::Bad(DropReason::Length);
    }
    match rest.get(..=length) {
        None => Candidate::Incomplete {
            missing: length + 1 - rest.len(),
        },
        Some(checked) if sum(checked) == 0xFF => Candidate::Frame { end: 2 + length + 1 },
        Some(_) => Candidate::Bad(DropReason::Checksum),
    }
}

fn sum(octets: &[u8]) -> u8 {
    octets.iter().fold(0, |sum, octet| sum.wrapping_add(*octet))
}

/// Delimiter, escape, XON and XOFF.
fn is_special(octet: u8) -> bool {
    matches!(octet, DELIMITER | ESCAPE | 0x11 | 0x13)
}
