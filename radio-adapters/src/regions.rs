//! What the law allows on the air, by region: bands, transmit power, duty cycle, dwell time.
//!
//! Sources: for Europe ETSI EN 300 220-2 V3.2.1 annex B without the sub-bands for alarms, for the United States 47 CFR
//! 15.247, for the others the regional parameters that LoRaWAN RP002 quotes from national rules. Rules differ between
//! countries of a region and change; who operates a gateway answers for what it sends. The table is data so that it
//! can be corrected.

use core::time::Duration;
use std::fmt;

use gateway_core::airtime::{Lora, Payload};

/// The names of [`REGIONS`], in their order: what a configuration may say.
pub const NAMES: [&str; 9] = [
    "EU868", "EU433", "US915", "AU915", "AS923", "AS923-JP", "KR920", "IN865", "other",
];

/// The law of a part of the world.
#[derive(Debug, PartialEq)]
pub struct Region {
    /// Its name in configurations.
    pub name: &'static str,
    /// Where one may transmit, by rising frequency. None: nothing is known, and nothing is checked.
    pub bands: &'static [Band],
    /// A single channel must be at least this wide.
    pub bandwidth_least_hz: Option<u32>,
    /// The longest transmission on a channel that is narrower than [`WIDE_HZ`].
    pub dwell: Option<Duration>,
    /// One must hear that the channel is free before each transmission.
    pub listen_before_talk: bool,
    /// Where a gateway starts if nobody says otherwise.
    pub default: Defaults,
}

/// Settings of a region that are legal and usual there.
#[derive(Debug, PartialEq)]
pub struct Defaults {
    /// Carrier, in Hz; `None` where somebody must decide.
    pub frequency_hz: Option<u32>,
    /// Bandwidth, in Hz.
    pub bandwidth_hz: u32,
    /// Transmit power, in dBm, with an antenna of 2.15 dBi.
    pub tx_power_dbm: i8,
}

/// A part of the spectrum with a law of its own.
#[derive(Debug, PartialEq)]
pub struct Band {
    /// What it is called.
    pub name: &'static str,
    /// Its lower edge, in Hz.
    pub from_hz: u32,
    /// Its upper edge, in Hz.
    pub to_hz: u32,
    /// What one may do there: more power on stricter terms.
    pub terms: &'static [Terms],
}

/// What is allowed up to a certain power.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// The most that may be radiated.
    pub power: Power,
    /// Parts per million of any hour that may be used; `None` is no limit.
    pub duty_cycle_ppm: Option<u32>,
}

/// Radiated power, in dBm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Power {
    /// Over a dipole, e.r.p.
    Erp(f64),
    /// Over an isotropic radiator, e.i.r.p.: 2.15 dB more than e.r.p.
    Eirp(f64),
}

/// The gain of a dipole over an isotropic radiator, in dB.
pub const DIPOLE_DBI: f64 = 2.15;

/// 47 CFR 15.247(a)(2): from this bandwidth on a signal is "digital modulation", without a limit to its dwell time.
pub const WIDE_HZ: u32 = 500_000;

/// LoRa payloads have a length of one octet.
const PAYLOAD_MAX: usize = 255;

const fn erp(dbm: f64, duty_cycle_ppm: Option<u32>) -> Terms {
    Terms {
        power: Power::Erp(dbm),
        duty_cycle_ppm,
    }
}

const fn eirp(dbm: f64, duty_cycle_ppm: Option<u32>) -> Terms {
    Terms {
        power: Power::Eirp(dbm),
        duty_cycle_ppm,
    }
}

const fn band(name: &'static str, from_hz: u32, to_hz: u32, terms: &'static [Terms]) -> Band {
    Band {
        name,
        from_hz,
        to_hz,
        terms,
    }
}

/// 25 mW and one per mille, one percent.
const PER_MILLE: Option<u32> = Some(1_000);
const PERCENT: Option<u32> = Some(10_000);
const TEN_PERCENT: Option<u32> = Some(100_000);

/// Every region that is known.
pub static REGIONS: [Region; 9] = [
    Region {
        name: "EU868",
        bands: &[
            band("K", 863_000_000, 865_000_000, &[erp(14.0, PER_MILLE)]),
            band("L", 865_000_000, 868_000_000, &[erp(14.0, PERCENT)]),
            band("M", 868_000_000, 868_600_000, &[erp(14.0, PERCENT)]),
            band("N", 868_700_000, 869_200_000, &[erp(14.0, PER_MILLE)]),
            band("P", 869_400_000, 869_650_000, &[erp(27.0, TEN_PERCENT)]),
            band(
                "Q",
                869_700_000,
                870_000_000,
                &[erp(7.0, None), erp(14.0, PERCENT)],
            ),
        ],
        bandwidth_least_hz: None,
        dwell: None,
        listen_before_talk: false,
        default: Defaults {
            frequency_hz: Some(868_100_000),
            bandwidth_hz: 125_000,
            tx_power_dbm: 14,
        },
    },
    Region {
        name: "EU433",
        bands: &[band(
            "ISM 433",
            433_050_000,
            434_790_000,
            &[erp(10.0, TEN_PERCENT)],
        )],
        bandwidth_least_hz: None,
        dwell: None,
        listen_before_talk: false,
        default: Defaults {
            frequency_hz: Some(433_175_000),
            bandwidth_hz: 125_000,
            tx_power_dbm: 10,
        },
    },
    Region {
        name: "US915",
        bands: &[band("ISM 902–928", 902_000_000, 928_000_000, &[eirp(36.0, None)])],
        bandwidth_least_hz: Some(WIDE_HZ),
        dwell: Some(Duration::from_millis(400)),
        listen_before_talk: false,
        default: Defaults {
            frequency_hz: Some(903_000_000),
            bandwidth_hz: 500_000,
            tx_power_dbm: 20,
        },
    },
    Region {
        name: "AU915",
        bands: &[band("ISM 915–928", 915_000_000, 928_000_000, &[eirp(30.0, None)])],
        bandwidth_least_hz: None,
        dwell: Some(Duration::from_millis(400)),
        listen_before_talk: false,
        default: Defaults {
            frequency_hz: Some(915_900_000),
            bandwidth_hz: 500_000,
            tx_power_dbm: 20,
        },
    },
    Region {
        name: "AS923",
        bands: &[band("920–925", 920_000_000, 925_000_000, &[eirp(16.0, PERCENT)])],
        bandwidth_least_hz: None,
        dwell: Some(Duration::from_millis(400)),
        listen_before_talk: false,
        default: Defaults {
            frequency_hz: Some(923_200_000),
            bandwidth_hz: 125_000,
            tx_power_dbm: 13,
        },
    },
    Region {
        name: "AS923-JP",
        bands: &[band("920–928", 920_500_000, 928_000_000, &[eirp(16.0, PERCENT)])],
        bandwidth_least_hz: None,
        dwell: Some(Duration::from_millis(400)),
        listen_before_talk: true,
        default: Defaults {
            frequency_hz: Some(923_200_000),
            bandwidth_hz: 125_000,
            tx_power_dbm: 13,
        },
    },
    Region {
        name: "KR920",
        bands: &[band("920–923", 920_900_000, 923_300_000, &[eirp(14.0, None)])],
        bandwidth_least_hz: None,
        dwell: None,
        listen_before_talk: true,
        default: Defaults {
            frequency_hz: Some(922_100_000),
            bandwidth_hz: 125_000,
            tx_power_dbm: 11,
        },
    },
    Region {
        name: "IN865",
        bands: &[band("865–867", 865_000_000, 867_000_000, &[eirp(30.0, None)])],
        bandwidth_least_hz: None,
        dwell: None,
        listen_before_talk: false,
        default: Defaults {
            frequency_hz: Some(865_402_500),
            bandwidth_hz: 125_000,
            tx_power_dbm: 20,
        },
    },
    Region {
        name: "other",
        bands: &[],
        bandwidth_least_hz: None,
        dwell: None,
        listen_before_talk: false,
        default: Defaults {
            frequency_hz: None,
            bandwidth_hz: 125_000,
            tx_power_dbm: 14,
        },
    },
];

impl Region {
    /// The region of this name.
    pub fn named(name: &str) -> Option<&'static Region> {
        REGIONS.iter().find(|region| region.name == name)
    }

    /// The band that all of a signal lies in; `None` between bands, across their edges and beyond them.
    pub fn band(&self, frequency_hz: u32, bandwidth_hz: u32) -> Option<&'static Band> {
        let half = bandwidth_hz / 2;
        self.bands
            .iter()
            .find(|band| band.from_hz + half <= frequency_hz && frequency_hz + half <= band.to_hz)
    }

    /// The longest transmission with this bandwidth; `None` is no limit.
    pub fn dwell_of(&self, bandwidth_hz: u32) -> Option<Duration> {
        self.dwell.filter(|_| bandwidth_hz < WIDE_HZ)
    }

    /// The largest datagram that stays within the dwell time, with what the link puts around it; `None` if not even an
    /// empty one does. Without a limit it is what a LoRa frame holds.
    pub fn datagram_max(&self, modulation: &Lora, payload: Payload) -> Option<usize> {
        let dwell = self.dwell_of(modulation.bandwidth_hz);
        let fits = |octets: &usize| {
            let modulated = payload.len(*octets);
            modulated <= PAYLOAD_MAX && dwell.is_none_or(|most| modulation.time_on_air(modulated) <= most)
        };
        (0..=PAYLOAD_MAX).rev().find(fits)
    }
}

impl Band {
    /// The mildest terms under which this may be radiated: transmit power and antenna gain, in dBm and dBi.
    pub fn terms_for(&self, tx_power_dbm: f64, antenna_gain_dbi: f64) -> Option<&'static Terms> {
        self.terms
            .iter()
            .find(|terms| terms.power.allows(tx_power_dbm, antenna_gain_dbi))
    }

    /// The most that may be radiated at all.
    pub fn power_max(&self) -> Option<Power> {
        self.terms.last().map(|terms| terms.power)
    }
}

impl Power {
    /// Whether a transmitter of this power with this antenna stays within.
    pub fn allows(self, tx_power_dbm: f64, antenna_gain_dbi: f64) -> bool {
        // A hundredth of a decibel is no excess: 14 dBm and 2.15 dBi are 14.0 dBm e.r.p. only in decimal.
        self.radiated(tx_power_dbm, antenna_gain_dbi) <= self.dbm() + 0.01
    }

    /// What a transmitter with an antenna radiates, over the same reference as this limit.
    pub fn radiated(self, tx_power_dbm: f64, antenna_gain_dbi: f64) -> f64 {
        match self {
            Power::Erp(_) => tx_power_dbm + antenna_gain_dbi - DIPOLE_DBI,
            Power::Eirp(_) => tx_power_dbm + antenna_gain_dbi,
        }
    }

    /// The limit itself.
    pub fn dbm(self) -> f64 {
        match self {
            Power::Erp(dbm) | Power::Eirp(dbm) => dbm,
        }
    }
}

impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Power::Erp(dbm) => write!(f, "{dbm} dBm e.r.p."),
            Power::Eirp(dbm) => write!(f, "{dbm} dBm e.i.r.p."),
        }
    }
}

impl fmt::Display for Band {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}–{} MHz)", self.name, mhz(self.from_hz), mhz(self.to_hz))
    }
}

/// A frequency in MHz, without needless zeros.
pub fn mhz(frequency_hz: u32) -> f64 {
    f64::from(frequency_hz) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eu868() -> &'static Region {
        Region::named("EU868").unwrap()
    }

    fn plain(spreading_factor: u8, bandwidth_hz: u32) -> Lora {
        Lora {
            spreading_factor,
            bandwidth_hz,
            coding_rate: 5,
            preamble: 8,
        }
    }

    #[test]
    fn names_are_those_of_the_table() {
        assert_eq!(NAMES, REGIONS.each_ref().map(|region| region.name));
    }

    #[test]
    fn bands_rise_and_do_not_overlap() {
        for region in &REGIONS {
            for band in region.bands {
                assert!(band.from_hz < band.to_hz && !band.terms.is_empty(), "{band}");
                let stricter = band
                    .terms
                    .windows(2)
                    .all(|pair| pair[0].power.dbm() < pair[1].power.dbm());
                assert!(stricter, "{band}");
            }
            assert!(
                region
                    .bands
                    .windows(2)
                    .all(|pair| pair[0].to_hz <= pair[1].from_hz)
            );
        }
    }

    #[test]
    fn a_signal_lies_in_one_band_with_all_its_width() {
        let name = |mhz: f64, bandwidth| eu868().band((mhz * 1e6) as u32, bandwidth).map(|band| band.name);
        assert_eq!(name(868.1, 125_000), Some("M"));
        assert_eq!(name(868.3, 500_000), Some("M"));
        assert_eq!(name(869.525, 125_000), Some("P"));
        assert_eq!(name(869.525, 250_000), Some("P"));
        assert_eq!(name(869.525, 500_000), None);
        assert_eq!(name(868.0, 125_000), None); // Across the edge of L and M.
        assert_eq!(name(868.65, 125_000), None); // Alarms.
        assert_eq!(name(870.5, 125_000), None);
        assert_eq!(name(863.0625, 125_000), Some("K"));
    }

    #[test]
    fn more_power_has_stricter_terms() {
        let q = eu868().band(869_850_000, 125_000).unwrap();
        let duty = |power, gain| q.terms_for(power, gain).map(|terms| terms.duty_cycle_ppm);
        assert_eq!(duty(7.0, 2.15), Some(None));
        assert_eq!(duty(8.0, 2.15), Some(Some(10_000)));
        assert_eq!(duty(14.0, 2.15), Some(Some(10_000)));
        assert_eq!(duty(14.0, 3.0), None);
        // A cable that loses 6 dB.
        assert_eq!(duty(13.0, -6.0), Some(None));
    }

    #[test]
    fn defaults_are_legal() {
        for region in &REGIONS {
            let default = &region.default;
            let Some(frequency) = default.frequency_hz else {
                continue;
            };
            let band = region.band(frequency, default.bandwidth_hz).unwrap();
            let terms = band.terms_for(f64::from(default.tx_power_dbm), DIPOLE_DBI);
            assert!(terms.is_some(), "{}", region.name);
            assert!(
                region
                    .bandwidth_least_hz
                    .is_none_or(|least| default.bandwidth_hz >= least)
            );
        }
    }

    /// The figures of the regional parameters for 400 ms, which are those of LoRaWAN plus its 13 octets of header.
    #[test]
    fn dwell_time_bounds_the_payload() {
        let most = |region: &str, sf, bandwidth| {
            let region = Region::named(region).unwrap();
            region.datagram_max(&plain(sf, bandwidth), Payload::default())
        };
        let of = |bandwidth| {
            (7..=12)
                .map(move |sf| most("AS923", sf, bandwidth))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            of(125_000),
            [Some(255), Some(138), Some(66), Some(24), Some(0), None]
        );
        assert_eq!(
            of(250_000),
            [Some(255), Some(255), Some(156), Some(74), Some(27), Some(0)]
        );
        assert_eq!(most("US915", 12, 500_000), Some(255));
        assert_eq!(most("EU868", 12, 125_000), Some(255));
    }

    #[test]
    fn what_the_link_adds_counts() {
        let region = Region::named("AS923").unwrap();
        let header = Payload {
            overhead: 4,
            base64: false,
        };
        assert_eq!(region.datagram_max(&plain(9, 125_000), header), Some(62));
        let reyax = Payload {
            overhead: 8,
            base64: true,
        };
        let most = region.datagram_max(&plain(9, 125_000), reyax).unwrap();
        assert!(reyax.len(most) <= 66 && reyax.len(most + 1) > 66, "{most}");
    }
}
