//! Modems that no driver speaks yet. What their octets say is held against the fields, by the makers' manuals, so that
//! a driver can begin from vectors that are right.

use radio_adapters::xbee::framing::{DATA_MAX, Deframer, Mode, encode};

use crate::Vector;

/// Seeed LoRa-E5 in test mode: text, with payloads as hexadecimal in quotes.
pub(crate) fn check_lora_e5(vector: &Vector) {
    check_text(vector);
    let text = vector.text("text");
    if vector.has("payload") {
        let quoted = text.split('"').nth(1).unwrap();
        assert_eq!(crate::unhex(quoted), vector.octets("payload"));
    }
    if vector.has("rssi") {
        let said = format!(
            "LEN:{}, RSSI:{}, SNR:{}",
            vector.octets("payload").len(),
            vector.number("rssi"),
            vector.number("snr")
        );
        assert!(text.contains(&said));
        assert_eq!(vector.octets("payload").len() as i64, vector.number("length"));
    }
    if vector.has("freq_hz") {
        let said = format!(
            "F:{}, SF{}, BW{}K,",
            vector.number("freq_hz"),
            vector.number("sf"),
            vector.number("bw_khz")
        );
        assert!(text.contains(&said));
    }
}

/// Dragino LA66: payloads as hexadecimal with spaces.
pub(crate) fn check_la66(vector: &Vector) {
    check_text(vector);
    let octets = vector.text("text").trim_end().strip_prefix("Data: (HEX:) ");
    let hex: String = octets.unwrap().split(' ').collect();
    assert_eq!(crate::unhex(&hex), vector.octets("payload"));
}

/// ty4tw's LoRaLink: the frames of an XBee in mode 2 with contents of their own.
pub(crate) fn check_loralink(vector: &Vector) {
    let mut data = if vector.has("dest") {
        vec![vector.number("dest") as u8]
    } else {
        let mut head = vec![vector.number("src") as u8];
        head.extend((vector.number("rssi") as i16).to_be_bytes());
        head.extend((vector.number("snr") as i16).to_be_bytes());
        head
    };
    data.push(vector.number("type") as u8);
    data.extend(vector.octets("payload"));
    // Its length counts the checksum, an XBee's does not.
    let mut wire = Vec::new();
    encode(Mode::Escaped, &data, &mut wire);
    wire[2] += 1;
    assert_eq!(wire, vector.wire());

    let mut stream = vector.wire();
    stream[2] -= 1;
    let mut found = Vec::new();
    Deframer::new(Mode::Escaped, DATA_MAX).feed(&stream, |frame| found.push(frame.map(<[u8]>::to_vec)));
    assert_eq!(found, [Ok(data)]);
}

fn check_text(vector: &Vector) {
    assert_eq!(String::from_utf8(vector.wire()).unwrap(), vector.text("text"));
}
