//! KISS, the protocol of terminal node controllers: SLIP with a type octet in each frame.

use super::{Deliver, slip};
use crate::driver::DropReason;

/// The type octet of data on the first port: port in the high half, command in the low one.
pub const DATA: u8 = 0x00;

const COMMAND: u8 = 0x0F;

/// Takes KISS apart and delivers the data of any port.
#[derive(Debug)]
pub struct Kiss(slip::Slip);

impl Kiss {
    /// For frames of up to `max` octets, type octet not counted.
    pub fn new(max: usize) -> Kiss {
        Kiss(slip::Slip::new(max + 1))
    }

    /// The next octets of the stream.
    pub fn push(&mut self, octets: &[u8], deliver: Deliver<'_>) {
        self.0
            .push(octets, &mut |frame| match frame.map(<[u8]>::split_first) {
                Ok(Some((kind, data))) if kind & COMMAND == DATA => {
                    if !data.is_empty() {
                        deliver(Ok(data));
                    }
                }
                // Settings, which no controller has a reason to send to us.
                Ok(_) => deliver(Err(DropReason::NotForUs)),
                Err(reason) => deliver(Err(reason)),
            });
    }
}

/// The frame with its type octet between two delimiters.
pub fn encode(kind: u8, data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(1 + data.len());
    frame.push(kind);
    frame.extend(data);
    slip::encode(&frame)
}
