//! `docs/radios.md` against the code: its numbers are those that the gateway reckons with, its log lines exist.
#![allow(clippy::unwrap_used, reason = "the helpers are test code too")]

use std::{fs, path::Path};

use gateway_core::airtime::Lora;

/// Of the RadioHead header, as the page says.
const HEADER: usize = 4;

#[test]
fn milliseconds_on_the_air_are_those_of_the_airtime_model() {
    let page = page();
    for (row, octets) in [
        ("PINGREQ, PINGRESP, DISCONNECT", 2),
        ("PUBACK, REGACK", 7),
        ("CONNECT, client id of 8 characters", 14),
        ("REGISTER, SUBSCRIBE, topic of 20 characters", 26),
        ("PUBLISH, 20 octets", 27),
        ("PUBLISH, 100 octets", 107),
    ] {
        let expected: Vec<String> = (7..=12)
            .map(|factor| {
                let micros = lora(factor).time_on_air(octets + HEADER).as_micros();
                ((micros + 500) / 1000).to_string()
            })
            .collect();
        assert_eq!(cells(&page, row), expected, "{row}");
    }
}

#[test]
fn clients_that_can_be_answered_are_those_of_the_airtime_model() {
    let page = page();
    for (row, ppm) in [("0.1 %", 1_000), ("1 %", 10_000), ("10 %", 100_000)] {
        let expected: Vec<String> = (7..=12)
            .map(|factor| {
                let puback = lora(factor).time_on_air(7 + HEADER).as_micros();
                // A quarter of an hour.
                (u128::from(900_u32 * ppm) / puback).to_string()
            })
            .collect();
        assert_eq!(cells(&page, row), expected, "{row}");
    }
}

#[test]
fn log_lines_that_are_explained_are_written() {
    let sources: String = [
        "radio-adapters/src/serial/log.rs",
        "radio-adapters/src/serial/port.rs",
        "radio-adapters/src/udp/absent.rs",
        "gateway/src/telemetry/notices.rs",
    ]
    .map(read)
    .concat();
    let page = page();
    let (_, section) = page.split_once("\n## Troubleshooting\n").unwrap();
    let mut lines = 0;
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cell = row.split('|').nth(1).unwrap();
        for quoted in cell.split('`').skip(1).step_by(2) {
            assert!(sources.contains(quoted), "nothing logs {quoted:?}");
            lines += 1;
        }
    }
    assert!(lines >= 12, "only {lines} were found");
}

#[test]
fn every_modem_and_region_has_its_place() {
    let page = page();
    for (name, _) in radio_adapters::settings::LoraDriver::ALL {
        let named = fs::read_dir(repository().join("configs/examples"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                fs::read_to_string(path)
                    .unwrap()
                    .contains(&format!("driver = \"{name}\""))
            })
            .any(|path| page.contains(path.file_name().unwrap().to_str().unwrap()));
        assert!(named, "no example for {name} on the page");
    }
    for region in radio_adapters::regions::NAMES {
        assert!(page.contains(&format!("`{region}`")), "{region}");
    }
}

/// The cells of a row of a table behind its first.
fn cells(page: &str, first: &str) -> Vec<String> {
    let row = page
        .lines()
        .find(|line| line.starts_with(&format!("| {first} |")))
        .unwrap_or_else(|| panic!("no row {first}"));
    row.trim_matches('|')
        .split('|')
        .skip(1)
        .map(|cell| cell.trim().to_owned())
        .collect()
}

fn lora(spreading_factor: u8) -> Lora {
    Lora {
        spreading_factor,
        bandwidth_hz: 125_000,
        coding_rate: 5,
        preamble: 8,
    }
}

fn page() -> String {
    read("docs/radios.md")
}

fn read(file: &str) -> String {
    fs::read_to_string(repository().join(file)).unwrap()
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}
