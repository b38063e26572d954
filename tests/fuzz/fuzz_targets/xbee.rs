//! Any octets, times and datagrams for the XBee driver.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    radio_adapters::fuzz::xbee(octets);
});
