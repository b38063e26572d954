//! What a modem said about itself, and what follows for the link.

use core::time::Duration;
use std::collections::BTreeMap;

use gateway_core::airtime::Airtime;
use gateway_core::io::LinkProfile;

use super::frame::At;
use super::status::association;
use crate::driver::printable;

/// What is asked of every modem once; what its firmware does not know it refuses.
pub(super) const QUERIES: [At; 17] = [
    At(*b"VR"),
    At(*b"HV"),
    At(*b"SH"),
    At(*b"SL"),
    At(*b"MY"),
    At(*b"NP"),
    At(*b"AO"),
    At(*b"OP"),
    At(*b"NI"),
    At(*b"CE"),
    At(*b"EE"),
    At(*b"SP"),
    At(*b"NH"),
    At(*b"AR"),
    At(*b"BR"),
    At(*b"MM"),
    At(*b"AI"),
];

/// Octets of a physical frame of IEEE 802.15.4.
const PHY_PAYLOAD: u16 = 127;

/// A datagram that Zigbee carries in up to five fragments; one lost fragment loses it.
const ZIGBEE_FRAGMENTED: usize = 255;

/// Room for a source route in each packet to one peer: its header and four hops. Longer ways are cut in fragments.
const SOURCE_ROUTE: usize = 2 + 2 * 4;

/// The networks that the firmware of an XBee speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    Zigbee,
    Ieee802154,
    /// At 2.4 GHz.
    DigiMesh,
    /// DigiMesh or point to multipoint below 1 GHz.
    SubGhz,
}

/// The answers of one modem to AT queries.
#[derive(Debug, Default)]
pub(super) struct Modem {
    answers: BTreeMap<At, Vec<u8>>,
}

impl Modem {
    pub(super) fn learn(&mut self, command: At, value: &[u8]) {
        self.answers.insert(command, value.to_vec());
    }

    fn text(&self, command: &[u8; 2]) -> Option<&[u8]> {
        self.answers.get(&At(*command)).map(Vec::as_slice)
    }

    /// A register of up to eight octets.
    pub(super) fn number(&self, command: &[u8; 2]) -> Option<u64> {
        let value = self.text(command)?;
        if value.is_empty() || value.len() > 8 {
            return None;
        }
        Some(
            value
                .iter()
                .fold(0, |number, octet| number << 8 | u64::from(*octet)),
        )
    }

    /// Which network it is for; the `Err` names a modem this driver is not for.
    ///
    /// The upper octet of HV is the hardware; hardware that takes several kinds of firmware tells them by the first
    /// digit of VR (Digi, "XBee hardware and firmware compatibility"). Hardware that came later tells by what it
    /// knows: only Zigbee has an operating extended PAN id (OP), only 802.15.4 a MAC mode (MM). On Zigbee NP is the
    /// size of a fragmented datagram and so tells the kind as well as nothing.
    pub(super) fn network(&self) -> Result<Network, &'static str> {
        let hardware = self.number(b"HV").unwrap_or(0) >> 8;
        let firmware = self.number(b"VR").unwrap_or(0);
        // The first of four digits; XBee 3 may put a fifth in front.
        let series = firmware >> 12 & 0xF;
        Ok(match (hardware, series) {
            // S1
            (0x17 | 0x18, 0x8) => Network::DigiMesh,
            (0x17 | 0x18, _) => Network::Ieee802154,
            // S2, S2B, S2D
            (0x19 | 0x1A | 0x1E | 0x32..=0x35, _) => Network::Zigbee,
            // S2C
            (0x21 | 0x22 | 0x2D | 0x2E | 0x30, 0x2) => Network::Ieee802154,
            (0x21 | 0x22 | 0x2D | 0x2E | 0x30, 0x9) => Network::DigiMesh,
            (0x21 | 0x22 | 0x2D | 0x2E | 0x30, _) => Network::Zigbee,
            (0x53, 0xC) => Network::Ieee802154,
            (0x53, 0xB) => Network::DigiMesh,
            (0x53, _) => Network::Zigbee,
            // XBee 3 and XBee RR
            (0x41..=0x43 | 0x52 | 0x57, 0x2) => Network::Ieee802154,
            (0x41..=0x43 | 0x52 | 0x57, 0x3) => Network::DigiMesh,
            (0x41..=0x43 | 0x52 | 0x57, _) => Network::Zigbee,
            // 900HP, 868, SX, XTend DigiMesh, 8X, XR
            (0x1B | 0x1D | 0x23 | 0x24 | 0x26 | 0x2C | 0x31 | 0x3E | 0x3F | 0x45, _) => Network::SubGhz,
            (0x50 | 0x51 | 0x5A | 0x5B, _) => Network::SubGhz,
            (0x1F | 0x27 | 0x28, _) => return Err("a Wi-Fi XBee: let its nodes use UDP"),
            (0x2A | 0x40 | 0x44 | 0x46..=0x4E | 0x54..=0x56 | 0x58 | 0x59, _) => {
                return Err("a cellular XBee: let its nodes use UDP");
            }
            (0x5C | 0x5D, _) => return Err("a Bluetooth XBee"),
            _ if self.answers.contains_key(&At(*b"OP")) => Network::Zigbee,
            _ if self.answers.contains_key(&At(*b"MM")) => Network::Ieee802154,
            _ if self.answers.contains_key(&At(*b"MY")) => Network::Ieee802154,
            _ if self.answers.contains_key(&At(*b"BR")) => Network::SubGhz,
            _ => Network::DigiMesh,
        })
    }

    /// The value of AO that lets packets come in frames that tell most: those of old on 802.15.4 have the signal
    /// strength, the others none.
    pub(super) fn wanted_output(&self, network: Network) -> Option<u8> {
        let wanted = match network {
            Network::Ieee802154 => 2,
            Network::Zigbee | Network::DigiMesh | Network::SubGhz => 0,
        };
        // S1 has no AO and nothing to choose.
        (self.number(b"AO")? != wanted).then_some(wanted as u8)
    }

    /// Its 64-bit address.
    pub(super) fn identity(&self) -> String {
        let high = self.number(b"SH").unwrap_or(0);
        let low = self.number(b"SL").unwrap_or(0);
        let name = printable(self.text(b"NI").unwrap_or_default());
        match name.trim() {
            "" => format!("{high:08X}{low:08X}"),
            name => format!("{high:08X}{low:08X} {name}"),
        }
    }

    /// Its firmware and hardware versions, in the digits that Digi prints.
    pub(super) fn firmware(&self, network: Network) -> String {
        let name = match network {
            Network::Zigbee => "Zigbee",
            Network::Ieee802154 => "802.15.4",
            Network::DigiMesh => "DigiMesh",
            Network::SubGhz => "DigiMesh below 1 GHz",
        };
        let firmware = self.number(b"VR").unwrap_or(0);
        let hardware = self.number(b"HV").unwrap_or(0);
        format!("{name} {firmware:04X}, hardware {hardware:04X}")
    }

    /// Whether it collects the routes of its network (AR is the interval of its many-to-one broadcasts).
    pub(super) fn is_aggregator(&self, network: Network) -> bool {
        network == Network::Zigbee && self.number(b"AR").is_some_and(|interval| interval < 0xFF)
    }

    /// How long a transmission to a node that may sleep takes at most: parents keep packets for 1.2 · SP, and there
    /// are three attempts.
    pub(super) fn sleeper_timeout(&self, router: Duration) -> Duration {
        // SP is in hundredths of a second, up to 28 s.
        let period = self.number(b"SP").unwrap_or(0).min(2800);
        let sleeper = Duration::from_millis(period * 10 * 36 / 10) + Duration::from_secs(5);
        sleeper.max(router)
    }

    /// The profile of the link: one packet for each datagram, unless `mtu` asks for other sizes.
    pub(super) fn profile(&self, network: Network, mtu: Option<usize>, credit: u32) -> LinkProfile {
        let encrypted = self.number(b"EE").is_some_and(|enabled| enabled != 0);
        let reported = self.number(b"NP").map(|octets| octets.clamp(1, 256) as usize);
        let (packet, broadcast) = match network {
            // Two pages of the manual differ on broadcasts: this is the smaller.
            Network::Zigbee if encrypted => (66, 74),
            Network::Zigbee => (84, 84),
            Network::Ieee802154 => {
                let packet = reported.unwrap_or(if encrypted { 95 } else { 100 });
                (packet, packet)
            }
            Network::DigiMesh => {
                let packet = reported.unwrap_or(73);
                (packet, packet)
            }
            Network::SubGhz => {
                let packet = reported.unwrap_or(100);
                (packet, packet)
            }
        };
        let routed = if self.is_aggregator(network) {
            packet - SOURCE_ROUTE
        } else {
            packet
        };
        let most = if network == Network::Zigbee {
            ZIGBEE_FRAGMENTED
        } else {
            packet
        };
        LinkProfile {
            mtu: mtu.map_or(routed, |mtu| mtu.min(most)),
            broadcast_mtu: mtu.map_or(broadcast, |mtu| mtu.min(broadcast)),
            confirms_tx: true,
            credit,
            airtime: match network {
                Network::Zigbee | Network::Ieee802154 | Network::DigiMesh => Airtime::Ieee802154 {
                    overhead: PHY_PAYLOAD.saturating_sub(packet as u16),
                },
                // BR = 0 is 10 kbit/s; the faster rates differ from product to product, none is slower than 80.
                Network::SubGhz => Airtime::ByteRate {
                    bits_per_second: if self.number(b"BR") == Some(0) {
                        10_000
                    } else {
                        80_000
                    },
                    bits_per_octet: 8,
                    overhead: 40,
                },
            },
            duty_cycle: None,
        }
    }

    /// Why it is in no network, if it is in none. Firmware without AI needs none.
    pub(super) fn not_joined(&self) -> Option<&'static str> {
        let state = self.number(b"AI").unwrap_or(0) as u8;
        (state != 0).then(|| association(state))
    }
}
