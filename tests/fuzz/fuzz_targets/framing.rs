//! Any octets through the deframers: the same frames however they are cut, and the next one arrives.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| radio_adapters::fuzz::framing(octets));
