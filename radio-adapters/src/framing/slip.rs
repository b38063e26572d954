//! SLIP, RFC 1055: frames end with 0xC0.

use super::{Collected, Deliver};
use crate::driver::DropReason;

const END: u8 = 0xC0;
const ESC: u8 = 0xDB;
const ESC_END: u8 = 0xDC;
const ESC_ESC: u8 = 0xDD;

/// Takes SLIP apart.
#[derive(Debug)]
pub struct Slip {
    frame: Collected,
    escaped: bool,
}

impl Slip {
    /// For frames of up to `max` octets.
    pub fn new(max: usize) -> Slip {
        Slip {
            frame: Collected::new(max),
            escaped: false,
        }
    }

    /// The next octets of the stream.
    pub fn push(&mut self, octets: &[u8], deliver: Deliver<'_>) {
        for &octet in octets {
            match octet {
                END => {
                    if self.escaped {
                        self.frame.spoil(DropReason::Escape);
                    }
                    self.escaped = false;
                    self.frame.finish(deliver);
                }
                _ if self.frame.is_bad() => {}
                _ if self.escaped => {
                    self.escaped = false;
                    match octet {
                        ESC_END => self.frame.push(END),
                        ESC_ESC => self.frame.push(ESC),
                        // The RFC's sample takes the octet as it is; a frame with an error in it is worth nothing.
                        _ => self.frame.spoil(DropReason::Escape),
                    }
                }
                ESC => self.escaped = true,
                _ => self.frame.push(octet),
            }
        }
    }
}

/// The frame between two delimiters: the first ends whatever noise stood before it.
pub fn encode(frame: &[u8]) -> Vec<u8> {
    let mut line = Vec::with_capacity(frame.len() + 8);
    line.push(END);
    for &octet in frame {
        match octet {
            END => line.extend([ESC, ESC_END]),
            ESC => line.extend([ESC, ESC_ESC]),
            _ => line.push(octet),
        }
    }
    line.push(END);
    line
}
