//! Decodes datagrams given in hexadecimal: `cargo run -p sn-codec --example decode -- 0b0c226162010232312e35`.

use sn_codec::{Packet, decode_message};
use std::process::ExitCode;

fn main() -> ExitCode {
    let datagrams: Vec<String> = std::env::args().skip(1).collect();
    if datagrams.is_empty() {
        eprintln!("usage: decode HEX...");
        return ExitCode::from(2);
    }
    let mut all_decoded = true;
    for hex in datagrams {
        match octets(&hex) {
            Some(datagram) => all_decoded &= explain(&datagram),
            None => {
                eprintln!("{hex}: not an even number of hexadecimal digits");
                all_decoded = false;
            }
        }
    }
    if all_decoded {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Prints what the datagram says; false if it is refused.
fn explain(datagram: &[u8]) -> bool {
    match decode_message(datagram) {
        Ok((encapsulation, packet)) => {
            if let Some(header) = encapsulation {
                println!("{header:02x?}");
            }
            println!("{} {packet:02x?}", packet.msg_type());
            true
        }
        Err(error) => {
            println!("refused: {error} ({})", error.kind.name());
            if let Some(answer) = error.answer {
                println!("answer:  {answer:?}, on the wire {}", hex(&answer));
            }
            false
        }
    }
}

fn hex(packet: &Packet<'_>) -> String {
    let mut datagram = Vec::new();
    packet.encode(&mut datagram);
    datagram.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn octets(hex: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = hex
        .chars()
        .map(|digit| digit.to_digit(16))
        .collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    let octets = pairs
        .iter()
        .map(|[high, low]| u8::try_from(high * 16 + low).ok())
        .collect();
    if rest.is_empty() { octets } else { None }
}
