//! Two MQTT clients send any octets to the embedded broker: nothing breaks, and a third client is served.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| broker::mqtt_session(octets));
