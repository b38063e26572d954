//! Any octets decode or are refused; a refusal lies within them and its answer can be sent.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sn_codec::{Packet, decode_for_gateway, decode_message, topic};

fuzz_target!(|octets: &[u8]| {
    let decoded = decode_message(octets);
    if let Err(error) = decoded {
        assert!(error.offset <= octets.len());
        assert_eq!(decode_for_gateway(octets), Err(error));
        if let Some(answer) = error.answer {
            let mut encoded = Vec::new();
            answer.encode(&mut encoded);
            assert_eq!(Packet::decode(&encoded), Ok(answer));
        }
    }
    if let Ok((_, Packet::Register(register))) = decoded {
        assert!(topic::is_valid_name(register.topic_name));
        assert!(topic::matches(register.topic_name, register.topic_name));
    }
});
