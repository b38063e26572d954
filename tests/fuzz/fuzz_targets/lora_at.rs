//! Any octets, times and datagrams for the drivers of LoRa modems.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    radio_adapters::fuzz::lora_at(octets);
});
