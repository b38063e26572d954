//! Durations, sizes and networks as people write them.

use core::time::Duration;
use std::net::IpAddr;

use ipnet::IpNet;

/// Units of time in microseconds, the longest first.
const TIMES: [(&str, u64); 7] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
    ("µs", 1),
];

/// Units of size in octets: binary ones, decimal ones.
const SIZES: [(&str, u64); 8] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
];

/// The time in `"10s"`, `"1h 30m"`, `"250ms"`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let micros = parse_sum(text, &TIMES)?;
    Some(Duration::from_micros(micros))
}

/// The octets in `"64 KiB"`, `"8MB"`, `"100 B"`.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    parse_sum(text, &SIZES)
}

/// The network in `"10.20.0.0/16"`, or of the one address in `"10.20.0.7"`.
pub(super) fn parse_network(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse().ok().or_else(address)
}

/// Adds up numbers with units, one or more.
fn parse_sum(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let mut rest = text.trim();
    let mut sum = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '_')?;
        let number: u64 = rest[..digits].replace('_', "").parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
        let (_, factor) = units.iter().find(|(name, _)| *name == &rest[..letters])?;
        sum = sum.checked_add(number.checked_mul(*factor)?)?;
        rest = rest[letters..].trim_start();
    }
    (!text.trim().is_empty()).then_some(sum)
}

/// `"1m30s"`: the shortest text that [`parse_duration`] gives the same time for.
pub(crate) fn show_duration(duration: Duration) -> String {
    let mut micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (name, factor) in &TIMES[..6] {
        if micros >= *factor {
            text += &format!("{}{name}", micros / factor);
            micros %= factor;
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

/// `"64 KiB"`: the octets in the largest binary unit that divides them.
pub(super) fn show_size(octets: u64) -> String {
    let fits = |factor: u64| octets >= factor && octets.is_multiple_of(factor);
    let (name, factor) = SIZES[..3]
        .iter()
        .copied()
        .find(|(_, factor)| fits(*factor))
        .unwrap_or(("B", 1));
    format!("{} {name}", octets / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        assert_eq!(parse_duration("10s"), Some(Duration::from_secs(10)));
        assert_eq!(parse_duration("1h 30m"), Some(Duration::from_secs(5400)));
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("0s"), Some(Duration::ZERO));
        for wrong in [
            "",
            "10",
            "s",
            "10 parsecs",
            "-1s",
            "1.5s",
            "99999999999999999999s",
            "99999999999999d",
        ] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_are_binary_or_decimal() {
        assert_eq!(parse_size("64 KiB"), Some(65_536));
        assert_eq!(parse_size("8MB"), Some(8_000_000));
        assert_eq!(parse_size("100"), None);
        assert_eq!(parse_size("1 kb"), None);
    }

    #[test]
    fn networks_are_prefixes_or_addresses() {
        assert_eq!(parse_network("10.20.0.7"), parse_network("10.20.0.7/32"));
        assert_eq!(parse_network("fd00::7"), parse_network("fd00::7/128"));
        assert!(parse_network("0.0.0.0/0").is_some());
        for wrong in [
            "",
            "10.20.0.0/33",
            "10.20.0/24",
            "10.20.0.0/",
            "host",
            "10.20.0.7:1883",
            "/8",
        ] {
            assert_eq!(parse_network(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn shown_values_parse_to_themselves() {
        for seconds in [0, 1, 59, 60, 90, 3600, 960, 86_400, 2_592_000, 100_001] {
            let duration = Duration::from_secs(seconds);
            assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
        }
        for octets in [0, 1, 1023, 1024, 65_536, 1_000_000, 16 << 20, 3 << 30] {
            assert_eq!(parse_size(&show_size(octets)), Some(octets));
        }
        assert_eq!(show_duration(Duration::from_secs(960)), "16m");
        assert_eq!(show_size(16 << 20), "16 MiB");
    }
}
