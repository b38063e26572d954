//! Status codes of the modem and what they mean for us.

/// What became of a transmission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The peer's radio has it; after a broadcast, that it left the antenna.
    Done,
    /// It was sent, and nobody answered.
    NotHeard,
    /// The same, and the peer may be elsewhere in the network by now.
    Lost,
    /// Nobody has the network address it was sent to, or there is no way to it.
    NoWay,
    /// Not sent: the channel or the modem is busy.
    Busy,
    /// Not sent: the modem is in no network.
    NotJoined,
    /// Not sent: too much data.
    TooLong,
    /// Not sent, and it would not be sent next time either.
    Refused,
}

impl Delivery {
    /// From the delivery status of a transmit status ("Extended Transmit Status - 0x8B", "TX Status - 0x89").
    pub(super) fn from_code(code: u8) -> Delivery {
        match code {
            0x00 => Delivery::Done,
            // No MAC acknowledgement; purged or not asked for by a sleeping node; a broadcast that no router repeated.
            0x01 | 0x03 | 0x26 | 0x75 => Delivery::NotHeard,
            // No network acknowledgement.
            0x21 => Delivery::Lost,
            // Address not found, route not found.
            0x24 | 0x25 => Delivery::NoWay,
            // Clear channel assessment failed; resources, internal error, buffers.
            0x02 | 0x2C | 0x31 | 0x32 => Delivery::Busy,
            0x22 => Delivery::NotJoined,
            0x74 => Delivery::TooLong,
            // Endpoints, security, sockets, our own address.
            _ => Delivery::Refused,
        }
    }
}

/// Receive option of Zigbee: the sender is an end device, which may sleep.
pub(super) const FROM_END_DEVICE: u8 = 0x40;

/// Transmit option of Zigbee: wait longer, the receiver may sleep.
pub(super) const EXTENDED_TIMEOUT: u8 = 0x40;

/// Why a modem is in no network (register AI).
pub(super) fn association(code: u8) -> &'static str {
    match code {
        0x00 => "joined",
        0x02 | 0x21 => "no network found",
        0x03 => "the coordinator found does not allow association",
        0x05 | 0x22 => "no network found with this PAN id (ID) on these channels (SC)",
        0x07 => "energy scan timed out",
        0x08 | 0x2A => "the coordinator could not start a network",
        0x0C | 0x10 => "the coordinator did not answer",
        0x12 | 0x13 => "no longer associated",
        0x23 => "the network is closed to new nodes (NJ)",
        0x24 => "no network found that can be joined",
        0x25 => "should not join now",
        0x27 => "joining failed; do the security settings (EE, KY) match?",
        0x2B => "looking for a coordinator",
        0x2C => "leaving the network",
        0x40 => "waiting for a link key",
        0x44 | 0xAC | 0xAD | 0xAF => "no valid key from the trust center (KY)",
        0xAB => "the node to join did not answer",
        0xFF => "starting",
        _ => "not joined",
    }
}

/// What the modem says about itself at run time ("Modem Status - 0x8A").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// It started again.
    Rebooted,
    /// It is in a network.
    Joined,
    /// It is in none any more.
    Left,
    /// People should know.
    Warning(&'static str),
    /// Nothing that matters here.
    Other,
}

impl Event {
    pub(super) fn from_code(code: u8) -> Event {
        match code {
            0x00 | 0x01 => Event::Rebooted,
            0x02 | 0x06 => Event::Joined,
            0x03 => Event::Left,
            0x0D => Event::Warning("supply voltage too high"),
            0x3E | 0x3F => Event::Warning("another network uses the same PAN id"),
            0x42 => Event::Warning("its network watchdog expired"),
            0x80.. => Event::Warning("error in its radio stack"),
            _ => Event::Other,
        }
    }
}
