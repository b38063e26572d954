//! What LoRa modems can do, by their manuals: for the rules of the configuration, its defaults, and the profile.

use gateway_core::airtime::{Lora, Payload};

use crate::settings::{LinkHeader, LoraDriver};

/// Octets that a RadioHead header takes.
pub const RADIOHEAD_OCTETS: u8 = 4;

/// What a modem can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// Who makes it, and what it is called.
    pub title: &'static str,
    /// The speeds of its line, in bits a second; the first is how it is delivered.
    pub bauds: &'static [u32],
    /// Where it can tune to, in Hz; none given: its manual names several variants.
    pub frequencies: &'static [(u32, u32)],
    /// Least and most transmit power, in dBm.
    pub power_dbm: (i8, i8),
    /// Octets that it modulates at most: a LoRa payload, or less where its line is shorter.
    pub payload_max: usize,
    /// Symbols of the preamble that we set.
    pub preamble: u16,
    /// The link addresses are its own.
    pub addresses: bool,
}

const UP_TO_115200: &[u32] = &[115_200, 57_600, 38_400, 19_200, 9_600, 4_800];

impl LoraDriver {
    /// Every driver, with its name in configurations.
    pub const ALL: [(&'static str, LoraDriver); 6] = [
        ("rak3172", LoraDriver::Rak3172),
        ("rak4270", LoraDriver::Rak4270),
        ("rn2483", LoraDriver::Rn2483),
        ("rn2903", LoraDriver::Rn2903),
        ("rylr998", LoraDriver::Rylr998),
        ("rylr896", LoraDriver::Rylr896),
    ];

    /// The driver of this name.
    pub fn named(name: &str) -> Option<LoraDriver> {
        let (_, driver) = LoraDriver::ALL.into_iter().find(|(known, _)| *known == name)?;
        Some(driver)
    }

    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            LoraDriver::Rak3172 => "rak3172",
            LoraDriver::Rak4270 => "rak4270",
            LoraDriver::Rn2483 => "rn2483",
            LoraDriver::Rn2903 => "rn2903",
            LoraDriver::Rylr998 => "rylr998",
            LoraDriver::Rylr896 => "rylr896",
        }
    }

    /// What it can do.
    pub fn abilities(self) -> Abilities {
        match self {
            LoraDriver::Rak3172 => Abilities {
                title: "RAKwireless RAK3172",
                bauds: UP_TO_115200,
                frequencies: &[],
                power_dbm: (5, 22),
                // 478 hex digits.
                payload_max: 239,
                preamble: 8,
                addresses: false,
            },
            LoraDriver::Rak4270 => Abilities {
                title: "RAKwireless RAK4270",
                bauds: UP_TO_115200,
                frequencies: &[],
                // `lorap2p` of its AT manual; the chip could do 22.
                power_dbm: (5, 20),
                // A line of 255 characters, less the command and its end.
                payload_max: 118,
                preamble: 8,
                addresses: false,
            },
            LoraDriver::Rn2483 => Abilities {
                title: "Microchip RN2483",
                bauds: &[57_600, 115_200, 38_400, 19_200, 9_600],
                frequencies: &[(433_050_000, 434_790_000), (863_000_000, 870_000_000)],
                power_dbm: (-3, 15),
                payload_max: 255,
                preamble: 8,
                addresses: false,
            },
            LoraDriver::Rn2903 => Abilities {
                title: "Microchip RN2903",
                bauds: &[57_600, 115_200, 38_400, 19_200, 9_600],
                frequencies: &[(902_000_000, 928_000_000)],
                power_dbm: (2, 20),
                payload_max: 255,
                preamble: 8,
                addresses: false,
            },
            LoraDriver::Rylr998 => Abilities {
                title: "REYAX RYLR998",
                bauds: &[115_200, 57_600, 38_400, 28_800, 19_200, 9_600, 4_800, 1_200, 300],
                frequencies: &[],
                power_dbm: (0, 22),
                payload_max: 240,
                // Fixed, but in network 18.
                preamble: 12,
                addresses: true,
            },
            LoraDriver::Rylr896 => Abilities {
                title: "REYAX RYLR896",
                bauds: &[115_200, 57_600, 38_400, 28_800, 19_200, 9_600, 4_800, 1_200, 300],
                frequencies: &[],
                power_dbm: (0, 15),
                payload_max: 240,
                // The most it takes.
                preamble: 7,
                addresses: true,
            },
        }
    }

    /// The largest spreading factor at a bandwidth.
    pub fn spreading_factor_max(self, bandwidth_hz: u32) -> u8 {
        match self {
            // AT+PARAMETER of its manual: 7–9 at 125 kHz, to 10 at 250 kHz, to 11 at 500 kHz.
            LoraDriver::Rylr998 => match bandwidth_hz {
                ..250_000 => 9,
                250_000..500_000 => 10,
                500_000.. => 11,
            },
            LoraDriver::Rak3172
            | LoraDriver::Rak4270
            | LoraDriver::Rn2483
            | LoraDriver::Rn2903
            | LoraDriver::Rylr896 => 12,
        }
    }

    /// Whether it takes this network id: REYAX modems have them.
    pub fn takes_network_id(self, id: u8) -> bool {
        match self {
            LoraDriver::Rylr998 => matches!(id, 3..=15 | 18),
            LoraDriver::Rylr896 => id <= 16,
            LoraDriver::Rak3172 | LoraDriver::Rak4270 | LoraDriver::Rn2483 | LoraDriver::Rn2903 => false,
        }
    }

    /// The network id with which it is delivered, if it has one.
    pub fn network_id_delivered(self) -> Option<u8> {
        match self {
            LoraDriver::Rylr998 => Some(18),
            LoraDriver::Rylr896 => Some(0),
            LoraDriver::Rak3172 | LoraDriver::Rak4270 | LoraDriver::Rn2483 | LoraDriver::Rn2903 => None,
        }
    }

    /// Whether it listens for energy on the channel before it transmits. RAK's AT+CAD finds preambles only.
    pub fn listens_before_talk(self) -> bool {
        match self {
            LoraDriver::Rak3172
            | LoraDriver::Rak4270
            | LoraDriver::Rn2483
            | LoraDriver::Rn2903
            | LoraDriver::Rylr998
            | LoraDriver::Rylr896 => false,
        }
    }

    /// What becomes of a datagram before it is modulated.
    pub fn payload(self, header: LinkHeader) -> Payload {
        if self.abilities().addresses {
            // Text only, and eight octets of its own.
            return Payload {
                overhead: 8,
                base64: true,
            };
        }
        Payload {
            overhead: match header {
                LinkHeader::RadioHead { .. } => RADIOHEAD_OCTETS,
                LinkHeader::Forwarder | LinkHeader::None => 0,
            },
            base64: false,
        }
    }

    /// The largest datagram that it takes, whatever the law.
    pub fn datagram_max(self, header: LinkHeader) -> usize {
        let most = self.abilities().payload_max;
        if self.abilities().addresses {
            most / 4 * 3
        } else {
            most - usize::from(self.payload(header).overhead)
        }
    }
}

/// The modulation that a receiver on this channel hears, with the modem's own preamble.
pub fn modulation(driver: LoraDriver, spreading_factor: u8, bandwidth_hz: u32, coding_rate: u8) -> Lora {
    Lora {
        spreading_factor,
        bandwidth_hz,
        coding_rate,
        preamble: driver.abilities().preamble,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_their_drivers() {
        for (name, driver) in LoraDriver::ALL {
            assert_eq!((LoraDriver::named(name), driver.name()), (Some(driver), name));
        }
        assert_eq!(LoraDriver::named("rak"), None);
    }

    #[test]
    fn datagrams_leave_room_for_header_and_text() {
        let header = LinkHeader::RadioHead {
            address: 0,
            acks: false,
        };
        assert_eq!(LoraDriver::Rak3172.datagram_max(header), 235);
        assert_eq!(LoraDriver::Rn2483.datagram_max(LinkHeader::None), 255);
        assert_eq!(LoraDriver::Rylr998.datagram_max(header), 180);
        assert_eq!(LoraDriver::Rylr998.payload(header).len(27), 36 + 8);
    }

    #[test]
    fn rylr998_narrows_spreading_factors_with_the_bandwidth() {
        let most = |bandwidth| LoraDriver::Rylr998.spreading_factor_max(bandwidth);
        assert_eq!([most(125_000), most(250_000), most(500_000)], [9, 10, 11]);
    }
}
