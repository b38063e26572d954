//! What is accepted is encoded to a message that is no longer and decodes to the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sn_codec::{decode_message, encode_message};

fuzz_target!(|octets: &[u8]| {
    let Ok((encapsulation, packet)) = decode_message(octets) else {
        return;
    };
    let mut encoded = Vec::new();
    encode_message(encapsulation.as_ref(), &packet, &mut encoded);

    let header_len = encapsulation.map_or(0, |header| header.encoded_len());
    assert_eq!(encoded.len(), header_len + packet.encoded_len());
    assert!(encoded.len() <= octets.len());
    assert_eq!(decode_message(&encoded), Ok((encapsulation, packet)));
});
