//! Time on air: how long a datagram occupies its channel.

use core::time::Duration;

/// How long a datagram takes on a kind of link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Airtime {
    /// No time worth counting.
    #[default]
    Free,
    /// LoRa modulation.
    Lora {
        /// How it is modulated.
        modulation: Lora,
        /// How the modem carries the datagram.
        payload: Payload,
    },
    /// IEEE 802.15.4 at 2.4 GHz, 250 kbit/s: 32 µs an octet, 6 octets of preamble, delimiter and length (§6.1.3 of
    /// that standard).
    Ieee802154 {
        /// Octets around the datagram: headers of all layers and the checksum.
        overhead: u16,
    },
    /// A line or a radio of so many bits a second.
    ByteRate {
        /// Bits a second, at least 1.
        bits_per_second: u32,
        /// Bits for each octet: 10 on a serial line with start and stop bit, 8 in the air.
        bits_per_octet: u8,
        /// Octets around the datagram.
        overhead: u16,
    },
}

/// What becomes of a datagram before it is modulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Payload {
    /// Octets that the link and the modem put around it.
    pub overhead: u8,
    /// It is carried as base64 without padding, because the modem takes text only.
    pub base64: bool,
}

/// LoRa modulation with explicit header and checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lora {
    /// 7..=12.
    pub spreading_factor: u8,
    /// In Hz: 125,000, 250,000 or 500,000.
    pub bandwidth_hz: u32,
    /// The denominator of the coding rate: 5..=8 for 4/5 to 4/8.
    pub coding_rate: u8,
    /// Symbols of the preamble, as programmed: 8 unless the modem says otherwise.
    pub preamble: u16,
}

impl Airtime {
    /// Time on air of a datagram of so many octets.
    pub fn of(&self, octets: usize) -> Duration {
        match *self {
            Airtime::Free => Duration::ZERO,
            Airtime::Lora { modulation, payload } => modulation.time_on_air(payload.len(octets)),
            Airtime::Ieee802154 { overhead } => {
                Duration::from_micros(32 * (6 + octets as u64 + u64::from(overhead)))
            }
            Airtime::ByteRate {
                bits_per_second,
                bits_per_octet,
                overhead,
            } => {
                let bits = (octets as u64 + u64::from(overhead)) * u64::from(bits_per_octet);
                Duration::from_micros((bits * 1_000_000).div_ceil(u64::from(bits_per_second.max(1))))
            }
        }
    }
}

impl Payload {
    /// Octets that are modulated for a datagram of so many.
    pub fn len(&self, octets: usize) -> usize {
        let octets = if self.base64 {
            (octets * 4).div_ceil(3)
        } else {
            octets
        };
        octets + usize::from(self.overhead)
    }
}

impl Lora {
    /// Time on air of a payload of so many octets (Semtech AN1200.13, section 4).
    pub fn time_on_air(&self, octets: usize) -> Duration {
        let symbol = self.symbol().as_micros() as u64;
        let sf = i64::from(self.spreading_factor);
        // Low data rate optimisation where a symbol takes more than 16 ms.
        let optimised = i64::from(symbol > 16_000);
        let bits = 8 * octets as i64 - 4 * sf + 28 + 16;
        let blocks = (bits.max(0) as u64).div_ceil((4 * (sf - 2 * optimised)) as u64);
        let payload = 8 + blocks * u64::from(self.coding_rate);
        // 4.25 symbols of synchronisation: in quarters, so that nothing is rounded.
        let quarters = 4 * (u64::from(self.preamble) + payload) + 17;
        Duration::from_micros(
            (quarters * (1_000_000 << self.spreading_factor)).div_ceil(4 * u64::from(self.bandwidth_hz)),
        )
    }

    /// The duration of one symbol.
    pub fn symbol(&self) -> Duration {
        Duration::from_micros((1_000_000_u64 << self.spreading_factor) / u64::from(self.bandwidth_hz.max(1)))
    }
}
