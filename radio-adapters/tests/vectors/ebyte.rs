//! Ebyte modems: what they put around frames goes through the raw driver. Their registers are set before the modem
//! comes to the gateway, so those octets are only put together and taken apart here, by the manual.

use core::time::Duration;
use std::path::PathBuf;

use gateway_core::io::{Destination, TxTicket};
use gateway_core::time::Instant;
use radio_adapters::driver::{Driver, DriverOutput};
use radio_adapters::raw::RawSerial;
use radio_adapters::settings::{Crc, Framing, LinkHeader, Metadata, PortSettings, RawSettings};
use serde_json::Value;

use crate::Vector;

const READ: u8 = 0xC1;
const WRITE_VOLATILE: u8 = 0xC2;

pub(crate) fn check(vector: &Vector) {
    let wire = vector.wire();
    match vector.id.as_str() {
        "e22-fixed-tx" | "e22-fixed-broadcast" => {
            let mut prefix = vector.octets("dest");
            prefix.push(vector.number("channel") as u8);
            assert_eq!(written(prefix, &vector.octets("payload")), wire);
        }
        "e22-rx-with-rssi" => {
            let (datagram, rssi_dbm) = received(&wire);
            assert_eq!(datagram, vector.octets("payload"));
            assert_eq!(rssi_dbm, Some(vector.number("rssi_dbm") as i16));
        }
        "e22-wrong-format" => {
            assert_eq!(vector.text("error"), "format");
            assert_eq!(wire, [0xFF; 3]);
        }
        "e22-read-rssi" => assert_eq!(wire, [0xC0, 0xC1, 0xC2, 0xC3, 0x00, 0x02]),
        "e22-read-rssi-rsp" => {
            let dbm = |octet: u8| i64::from(octet) - 256;
            assert_eq!(wire[..3], [READ, 0x00, 0x02]);
            assert_eq!(dbm(wire[3]), vector.number("noise_dbm"));
            assert_eq!(dbm(wire[4]), vector.number("last_dbm"));
        }
        "e32-read-rsp" => {
            assert!(matches!(wire[0], 0xC0 | WRITE_VOLATILE));
            let registers = ["addr", "sped", "chan", "option"];
            let fields: Vec<u8> = registers.iter().flat_map(|field| vector.octets(field)).collect();
            assert_eq!(wire[1..], fields);
        }
        "e32-read" | "e32-version" | "e32-reset" => {
            let head = match vector.text("cmd") {
                "read" => 0xC1,
                "version" => 0xC3,
                "reset" => 0xC4,
                other => panic!("unknown command {other}"),
            };
            assert_eq!(wire, [head; 3]);
        }
        _ => check_registers(vector),
    }
}

/// E22: command, first register, how many, and their values where there are any.
fn check_registers(vector: &Vector) {
    let command = match vector.fields["cmd"].as_str() {
        Some("set-temporary") => WRITE_VOLATILE,
        Some("read") | None => READ,
        Some(other) => panic!("unknown command {other}"),
    };
    let mut octets = vec![command, vector.number("start") as u8, vector.number("len") as u8];
    if let Value::String(_) = vector.fields["value"] {
        let value = vector.octets("value");
        assert_eq!(value.len(), usize::from(octets[2]));
        octets.extend(value);
    }
    assert_eq!(octets, vector.wire());
}

/// What the driver writes for a broadcast.
fn written(fixed_prefix: Vec<u8>, datagram: &[u8]) -> Vec<u8> {
    let mut driver = driver(fixed_prefix);
    driver.transmit(Instant::START, &Destination::Broadcast, datagram, TxTicket(0));
    match driver.poll_output() {
        Some(DriverOutput::Write(octets)) => octets,
        other => panic!("{other:?}"),
    }
}

/// What the driver makes of octets of the modem.
fn received(octets: &[u8]) -> (Vec<u8>, Option<i16>) {
    let mut driver = driver(Vec::new());
    driver.received(Instant::START, octets);
    match driver.poll_output() {
        Some(DriverOutput::Received { datagram, facts, .. }) => (datagram, facts.rssi_dbm),
        other => panic!("{other:?}"),
    }
}

fn driver(fixed_prefix: Vec<u8>) -> RawSerial {
    let mut driver = RawSerial::new(RawSettings {
        port: PortSettings {
            path: PathBuf::new(),
            baud: 9600,
            hardware_flow: false,
            reopen_first: Duration::from_secs(1),
            reopen_max: Duration::from_secs(30),
        },
        framing: Framing::LengthPrefix,
        crc: Crc::None,
        header: LinkHeader::None,
        metadata: Metadata::RssiAfter,
        fixed_prefix,
        air_rate: Some(2400),
        mtu: 222,
        settle: Duration::ZERO,
        turnaround: Duration::ZERO,
        echo: false,
        duty_cycle_ppm: None,
    });
    driver.opened(Instant::START);
    while driver.poll_output().is_some() {}
    driver
}
