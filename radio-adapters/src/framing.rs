//! Where frames begin and end in a stream of octets, and whether they are whole.
//!
//! A [`Deframer`] gives the same frames however the stream is cut, keeps no more than the largest frame, and finds its
//! way back after anything: at the next delimiter, or with [`Framing::LengthPrefix`] when the line was silent for a
//! while ([`Deframer::gap`]). What it drops it names; empty frames are nothing.

pub mod checksum;
pub mod cobs;
pub mod hdlc;
pub mod kiss;
pub mod length_prefix;
pub mod slip;

use crate::driver::DropReason;
use crate::settings::Framing;

/// Takes a frame, or hears why one was dropped.
pub type Deliver<'a> = &'a mut dyn FnMut(Result<&[u8], DropReason>);

/// Cuts a stream of octets into frames.
#[derive(Debug)]
pub enum Deframer {
    /// By MQTT-SN's own length field.
    LengthPrefix(length_prefix::LengthPrefix),
    /// RFC 1055.
    Slip(slip::Slip),
    /// Consistent overhead byte stuffing.
    Cobs(cobs::Cobs),
    /// RFC 1662.
    Hdlc(hdlc::Hdlc),
    /// Data frames of a terminal node controller.
    Kiss(kiss::Kiss),
}

impl Deframer {
    /// A deframer at the beginning of a stream, for frames of up to `max` octets.
    ///
    /// With [`Framing::LengthPrefix`] there are `before` octets before the message's length; the other framings do
    /// not need to know.
    pub fn new(framing: Framing, max: usize, before: usize) -> Deframer {
        match framing {
            Framing::LengthPrefix => Deframer::LengthPrefix(length_prefix::LengthPrefix::new(max, before)),
            Framing::Slip => Deframer::Slip(slip::Slip::new(max)),
            Framing::Cobs => Deframer::Cobs(cobs::Cobs::new(max)),
            Framing::Hdlc => Deframer::Hdlc(hdlc::Hdlc::new(max)),
            Framing::Kiss => Deframer::Kiss(kiss::Kiss::new(max)),
        }
    }

    /// The next octets of the stream.
    pub fn push(&mut self, octets: &[u8], deliver: Deliver<'_>) {
        match self {
            Deframer::LengthPrefix(deframer) => deframer.push(octets, deliver),
            Deframer::Slip(deframer) => deframer.push(octets, deliver),
            Deframer::Cobs(deframer) => deframer.push(octets, deliver),
            Deframer::Hdlc(deframer) => deframer.push(octets, deliver),
            Deframer::Kiss(deframer) => deframer.push(octets, deliver),
        }
    }

    /// The line was silent: with [`Framing::LengthPrefix`] a frame begins with the next octet, and what was left of
    /// the last one is dropped. The other framings do not care.
    pub fn gap(&mut self) -> Option<DropReason> {
        match self {
            Deframer::LengthPrefix(deframer) => deframer.gap(),
            Deframer::Slip(_) | Deframer::Cobs(_) | Deframer::Hdlc(_) | Deframer::Kiss(_) => None,
        }
    }

    /// Silence would change something.
    pub fn wants_gap(&self) -> bool {
        matches!(self, Deframer::LengthPrefix(deframer) if deframer.wants_gap())
    }
}

/// The frame as it goes over the line.
pub fn encode(framing: Framing, frame: &[u8]) -> Vec<u8> {
    match framing {
        Framing::LengthPrefix => frame.to_vec(),
        Framing::Slip => slip::encode(frame),
        Framing::Cobs => cobs::encode(frame),
        Framing::Hdlc => hdlc::encode(frame),
        Framing::Kiss => kiss::encode(kiss::DATA, frame),
    }
}

/// What was collected of a frame between two delimiters.
#[derive(Debug)]
struct Collected {
    octets: Vec<u8>,
    max: usize,
    /// It cannot become a frame any more.
    bad: Option<DropReason>,
}

impl Collected {
    fn new(max: usize) -> Collected {
        Collected {
            octets: Vec::new(),
            max,
            bad: None,
        }
    }

    fn push(&mut self, octet: u8) {
        if self.octets.len() < self.max {
            self.octets.push(octet);
        } else {
            self.spoil(DropReason::Overrun);
        }
    }

    /// The first reason is the one that counts.
    fn spoil(&mut self, reason: DropReason) {
        self.bad.get_or_insert(reason);
    }

    fn is_bad(&self) -> bool {
        self.bad.is_some()
    }

    /// A delimiter: what was collected, unless it is nothing, and begins anew.
    fn finish(&mut self, deliver: Deliver<'_>) {
        if let Some(reason) = self.bad.take() {
            deliver(Err(reason));
        } else if !self.octets.is_empty() {
            deliver(Ok(&self.octets));
        }
        self.octets.clear();
    }
}
