//! Replays the fuzzing corpus with the stable compiler, and keeps it complete.
//!
//! `SN_CODEC_WRITE_CORPUS=1 cargo test -p sn-codec --test corpus` writes the vectors into it, when they have changed.

#![allow(clippy::unwrap_used)] // The helpers are part of the tests.

use serde_json::Value;
use sn_codec::{Packet, decode_for_gateway, decode_message, encode_message};
use std::{
    fs,
    path::{Path, PathBuf},
};

const TARGETS: [&str; 2] = ["sn_decode", "sn_roundtrip"];

#[test]
fn the_corpus_has_every_vector() {
    let Some(corpus) = corpus() else { return };
    for target in TARGETS {
        for (name, datagram) in vectors() {
            let path = corpus.join(target).join(&name);
            if std::env::var_os("SN_CODEC_WRITE_CORPUS").is_some() {
                fs::write(&path, &datagram).unwrap();
            }
            let seed = fs::read(&path)
                .unwrap_or_else(|e| panic!("{}: {e}; see the top of this file", path.display()));
            assert_eq!(seed, datagram, "{target}/{name}");
        }
    }
}

#[test]
fn the_corpus_holds_what_the_fuzz_targets_check() {
    let Some(corpus) = corpus() else { return };
    for target in TARGETS {
        let mut seeds = 0;
        for entry in fs::read_dir(corpus.join(target)).unwrap() {
            replay(&fs::read(entry.unwrap().path()).unwrap());
            seeds += 1;
        }
        assert!(seeds >= vectors().len(), "{target} has {seeds} seeds");
    }
}

/// The checks of both targets.
fn replay(octets: &[u8]) {
    let mut encoded = Vec::new();
    match decode_message(octets) {
        Ok((encapsulation, packet)) => {
            encode_message(encapsulation.as_ref(), &packet, &mut encoded);
            assert!(encoded.len() <= octets.len());
            assert_eq!(decode_message(&encoded), Ok((encapsulation, packet)));
        }
        Err(error) => {
            assert!(error.offset <= octets.len());
            assert_eq!(decode_for_gateway(octets), Err(error));
            if let Some(answer) = error.answer {
                answer.encode(&mut encoded);
                assert_eq!(Packet::decode(&encoded), Ok(answer));
            }
        }
    }
}

/// Where the corpus is; `None` for the crate without its repository.
fn corpus() -> Option<PathBuf> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz");
    fuzz.is_dir().then(|| fuzz.join("corpus"))
}

fn vectors() -> Vec<(String, Vec<u8>)> {
    let entries: Vec<Value> = serde_json::from_str(include_str!("vectors-1.2.json")).unwrap();
    let vector = |entry: &Value| {
        let hex = entry["hex"].as_str().unwrap();
        let octet = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (
            entry["name"].as_str().unwrap().to_owned(),
            (0..hex.len()).step_by(2).map(octet).collect(),
        )
    };
    entries.iter().map(vector).collect()
}
