//! Checksums after a frame, low octet first.

use crc::{CRC_16_IBM_SDLC, CRC_16_XMODEM, Table};

use crate::driver::DropReason;
use crate::settings::Crc;

static X25: crc::Crc<u16, Table<1>> = crc::Crc::<u16, Table<1>>::new(&CRC_16_IBM_SDLC);
static XMODEM: crc::Crc<u16, Table<1>> = crc::Crc::<u16, Table<1>>::new(&CRC_16_XMODEM);

/// The checksum of some octets, or `None` if there is none.
pub fn of(crc: Crc, octets: &[u8]) -> Option<u16> {
    match crc {
        Crc::None => None,
        Crc::X25 => Some(X25.checksum(octets)),
        Crc::Xmodem => Some(XMODEM.checksum(octets)),
    }
}

/// Appends the checksum of what is there.
pub fn append(crc: Crc, frame: &mut Vec<u8>) {
    if let Some(checksum) = of(crc, frame) {
        frame.extend(checksum.to_le_bytes());
    }
}

/// The frame without its checksum.
///
/// # Errors
/// The checksum does not fit, or there is nothing but a checksum.
pub fn strip(crc: Crc, frame: &[u8]) -> Result<&[u8], DropReason> {
    if crc == Crc::None {
        return Ok(frame);
    }
    match frame.split_last_chunk() {
        Some((content, sum)) if !content.is_empty() => {
            if of(crc, content) == Some(u16::from_le_bytes(*sum)) {
                Ok(content)
            } else {
                Err(DropReason::Checksum)
            }
        }
        _ => Err(DropReason::Length),
    }
}
