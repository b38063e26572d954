//! HDLC-like framing, RFC 1662: between flags, with escapes and a checksum (FCS-16).

use super::{Collected, Deliver, checksum};
use crate::driver::DropReason;
use crate::settings::Crc;

const FLAG: u8 = 0x7E;
const ESC: u8 = 0x7D;
const FLIP: u8 = 0x20;

/// Octets of the checksum.
const FCS: usize = 2;

/// Takes HDLC-like framing apart.
#[derive(Debug)]
pub struct Hdlc {
    frame: Collected,
    escaped: bool,
}

impl Hdlc {
    /// For frames of up to `max` octets, checksum not counted.
    pub fn new(max: usize) -> Hdlc {
        Hdlc {
            frame: Collected::new(max + FCS),
            escaped: false,
        }
    }

    /// The next octets of the stream.
    pub fn push(&mut self, octets: &[u8], deliver: Deliver<'_>) {
        for &octet in octets {
            match octet {
                FLAG => {
                    // §4.3: an escape before the flag is the sender's way to abort.
                    if self.escaped {
                        self.frame.spoil(DropReason::Escape);
                    }
                    self.escaped = false;
                    self.frame.finish(&mut |frame| {
                        deliver(frame.and_then(|frame| checksum::strip(Crc::X25, frame)));
                    });
                }
                _ if self.frame.is_bad() => {}
                _ if self.escaped => {
                    self.escaped = false;
                    self.frame.push(octet ^ FLIP);
                }
                ESC => self.escaped = true,
                _ => self.frame.push(octet),
            }
        }
    }
}

/// The frame and its checksum between two flags.
pub fn encode(frame: &[u8]) -> Vec<u8> {
    let mut content = frame.to_vec();
    checksum::append(Crc::X25, &mut content);
    let mut line = Vec::with_capacity(content.len() + 8);
    line.push(FLAG);
    for octet in content {
        match octet {
            FLAG | ESC => line.extend([ESC, octet ^ FLIP]),
            _ => line.push(octet),
        }
    }
    line.push(FLAG);
    line
}
