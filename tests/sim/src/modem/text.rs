//! What modems that speak in lines of text have in common, on the modem's side.

use core::fmt::Write as _;

/// A command that is being typed; one that grows beyond the limit is remembered as too long.
#[derive(Debug)]
pub(super) struct CommandLine {
    octets: Vec<u8>,
    limit: usize,
    too_long: bool,
}

impl CommandLine {
    pub(super) fn new(limit: usize) -> CommandLine {
        CommandLine {
            octets: Vec::new(),
            limit,
            too_long: false,
        }
    }

    pub(super) fn push(&mut self, octet: u8) {
        if self.octets.len() < self.limit {
            self.octets.push(octet);
        } else {
            self.too_long = true;
        }
    }

    pub(super) fn erase(&mut self) {
        self.octets.pop();
    }

    pub(super) fn ends_with(&self, octet: u8) -> bool {
        self.octets.last() == Some(&octet)
    }

    /// The command, `None` if it was too long. What follows is a new one.
    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        let octets = core::mem::take(&mut self.octets);
        (!core::mem::take(&mut self.too_long)).then_some(octets)
    }
}

/// Pairs of hexadecimal digits, large or small, and nothing else.
pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(
        digits
            .chunks_exact(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect(),
    )
}

pub(super) fn to_hex(octets: &[u8]) -> String {
    octets
        .iter()
        .fold(String::with_capacity(2 * octets.len()), |mut text, octet| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{octet:02X}");
            text
        })
}

/// A plain decimal number, as firmware takes it: digits, perhaps with a minus, no plus and no spaces.
pub(super) fn number<T: core::str::FromStr>(text: &str) -> Option<T> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}
