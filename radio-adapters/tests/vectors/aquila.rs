//! The Aquila bridge: SLIP with a CRC-16/XMODEM. Its own header (link quality, signal strength, and an encapsulation
//! whose length counts the message too) is nobody else's and stays with it: what is checked is what it shares.

use radio_adapters::framing::{Deframer, checksum, encode};
use radio_adapters::settings::{Crc, Framing};

use crate::{Vector, framing};

pub(crate) fn check(vector: &Vector) {
    if vector.kind == "crc" {
        framing::check_crc(vector, Crc::Xmodem);
        return;
    }
    let content = if vector.has("type") {
        let answer = match vector.text("type") {
            "ack" => 1,
            "nack" => 0,
            other => panic!("unknown answer {other}"),
        };
        vec![0, 0, 2, answer]
    } else {
        let message = vector.octets("message");
        let mut content = vec![vector.number("lqi") as u8, vector.number("rssi") as u8];
        content.extend([5 + message.len() as u8, 0xFE, 1]);
        content.extend((vector.number("node") as u16).to_le_bytes());
        content.extend(message);
        content
    };

    let mut frame = content.clone();
    checksum::append(Crc::Xmodem, &mut frame);
    assert_eq!(encode(Framing::Slip, &frame), vector.wire());

    let mut found = Vec::new();
    Deframer::new(Framing::Slip, 300, 0).push(&vector.wire(), &mut |frame| {
        found.push(frame.and_then(|frame| checksum::strip(Crc::Xmodem, frame).map(<[u8]>::to_vec)));
    });
    assert_eq!(found, vec![Ok(content)]);
}
