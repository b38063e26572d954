//! Digi XBee modems in API mode: Zigbee, 802.15.4 and DigiMesh behind one frame format.
//!
//! Section names are those of Digi's user guides (90001539 for Zigbee, 90002273 for 802.15.4, 90002277 for DigiMesh).
//! [`framing`] finds frames in the octets of the line, [`frame`] says what they mean, and the driver sets the modem
//! up, keeps several transmissions under way and tells what became of each.

pub mod frame;
pub mod framing;

mod at;
mod bring_up;
mod driver;
mod link;
mod modem;
mod peers;
mod status;
mod transmit;
mod window;

use crate::driver::Driver;
use crate::settings::XbeeSettings;

/// A driver for an XBee, which finds out by itself what firmware the modem has.
pub fn driver(settings: &XbeeSettings) -> Box<dyn Driver> {
    Box::new(driver::Xbee::new(settings))
}
