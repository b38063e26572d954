//! Every octet string of `data/vectors.json` through whoever speaks it.
//!
//! A family of vectors belongs to one module of `vectors/`, which says how each of them is checked. A vector that
//! nobody claims fails the test; what no driver speaks is named, with the reason.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

#[path = "vectors/airtime.rs"]
mod airtime;
#[path = "vectors/aquila.rs"]
mod aquila;
#[path = "line/bench.rs"]
#[allow(dead_code)] // Each test binary uses its part of it.
mod bench;
#[path = "vectors/ebyte.rs"]
mod ebyte;
#[path = "vectors/framing.rs"]
mod framing;
#[path = "vectors/header.rs"]
mod header;
#[path = "vectors/line.rs"]
mod line;
#[path = "vectors/others.rs"]
mod others;
#[path = "vectors/xbee.rs"]
mod xbee;

/// Checks one vector, and panics if it fails.
type Check = fn(&Vector);

/// Who checks which family.
const FAMILIES: &[(&str, Check)] = &[
    ("airtime", airtime::check),
    ("aquila", aquila::check),
    ("cobs", framing::check_cobs),
    ("ebyte", ebyte::check),
    ("forwarder-encapsulation", header::check_forwarder),
    ("hdlc", framing::check_hdlc),
    ("kiss", framing::check_kiss),
    ("la66", others::check_la66),
    ("lora-e5", others::check_lora_e5),
    ("loralink", others::check_loralink),
    ("radiohead", header::check_radiohead),
    ("rak-old", line::check_rak3172),
    ("rak-rui3", line::check_rak3172),
    ("rak4270", line::check_rak4270),
    ("raw-length-prefix", framing::check_length_prefix),
    ("rn2xx3", line::check_rn2xx3),
    ("rylr", line::check_rylr),
    ("slip", framing::check_slip),
    ("xbee", xbee::check),
];

/// Families that no driver speaks, how many vectors they have, and why.
const UNSPOKEN: &[(&str, usize, &str)] = &[
    (
        "meshtastic",
        1,
        "MQTT-SN over Meshtastic's stream protocol is not offered",
    ),
    (
        "semtech-udp",
        4,
        "LoRaWAN concentrators are reached through ChirpStack, not by their own protocol",
    ),
];

const ALL: usize = 178;

#[test]
fn every_vector_passes_where_it_belongs() {
    let mut checked = 0;
    let mut unspoken = BTreeMap::<&str, usize>::new();
    let vectors = Vector::all();
    for vector in &vectors {
        let family = FAMILIES.iter().find(|(family, _)| *family == vector.family);
        if let Some((_, check)) = family {
            println!("{}", vector.id); // Shown only if the check fails.
            check(vector);
            checked += 1;
        } else {
            *unspoken.entry(&vector.family).or_default() += 1;
        }
    }

    let named: BTreeMap<&str, usize> = UNSPOKEN
        .iter()
        .map(|(family, vectors, _)| (*family, *vectors))
        .collect();
    assert_eq!(
        unspoken, named,
        "vectors that nobody checks, and those that are named"
    );
    assert_eq!(checked + unspoken.values().sum::<usize>(), ALL);
    assert_eq!(vectors.len(), ALL);
}

/// One entry of the file.
#[derive(Debug, Deserialize)]
struct Vector {
    id: String,
    family: String,
    kind: String,
    wire_hex: String,
    fields: Value,
}

impl Vector {
    fn all() -> Vec<Vector> {
        #[derive(Deserialize)]
        struct File {
            vectors: Vec<Vector>,
        }
        let file: File = serde_json::from_str(include_str!("data/vectors.json")).unwrap();
        file.vectors
    }

    /// The octets on the line.
    fn wire(&self) -> Vec<u8> {
        unhex(&self.wire_hex)
    }

    /// A field that holds octets.
    fn octets(&self, field: &str) -> Vec<u8> {
        unhex(self.text(field))
    }

    fn text(&self, field: &str) -> &str {
        self.fields[field]
            .as_str()
            .unwrap_or_else(|| panic!("no text {field}"))
    }

    fn number(&self, field: &str) -> i64 {
        self.fields[field]
            .as_i64()
            .unwrap_or_else(|| panic!("no number {field}"))
    }

    fn has(&self, field: &str) -> bool {
        !self.fields[field].is_null()
    }
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "{text}");
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}
