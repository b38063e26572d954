//! Consistent overhead byte stuffing: frames have no zeros and end with one.

use cobs::{DecodeResult, DecoderState};

use super::{Collected, Deliver};
use crate::driver::DropReason;

const END: u8 = 0x00;

/// Takes COBS apart.
#[derive(Debug)]
pub struct Cobs {
    frame: Collected,
    decoder: DecoderState,
}

impl Cobs {
    /// For frames of up to `max` octets.
    pub fn new(max: usize) -> Cobs {
        Cobs {
            frame: Collected::new(max),
            decoder: DecoderState::default(),
        }
    }

    /// The next octets of the stream.
    pub fn push(&mut self, octets: &[u8], deliver: Deliver<'_>) {
        for &octet in octets {
            match self.decoder.feed(octet) {
                Ok(DecodeResult::DataContinue(decoded)) => self.frame.push(decoded),
                Ok(DecodeResult::NoData | DecodeResult::DataStart | DecodeResult::DataComplete) => {}
                // The delimiter came before the end of a block.
                Err(_) => self.frame.spoil(DropReason::Length),
            }
            if octet == END {
                self.frame.finish(deliver);
            }
        }
    }
}

/// The frame between two delimiters: the first ends whatever noise stood before it.
pub fn encode(frame: &[u8]) -> Vec<u8> {
    cobs::encode_vec_including_sentinels(frame)
}
