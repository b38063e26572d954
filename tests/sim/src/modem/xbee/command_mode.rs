//! Transparent mode, and the AT commands behind `+++`.

use core::time::Duration;

use gateway_core::time::Instant;

use super::registers::Name;

/// Data for the radio in transparent mode; a module that gets more without pause sends it.
const PACKET_MAX: usize = 255;
/// A command line; longer ones are none.
const LINE_MAX: usize = 64;

/// What was heard on the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    Nothing,
    /// Command mode begins.
    Opened,
    /// Command mode ends because nobody says anything.
    Closed,
    /// A command.
    Line(Vec<u8>),
    /// Data for the radio.
    Data(Vec<u8>),
}

/// Watches a line for data, guard times and commands.
#[derive(Debug, Default)]
pub(super) struct Terminal {
    pending: Vec<u8>,
    last_octet: Option<Instant>,
    /// Escape characters so far, after enough silence.
    escapes: usize,
    guard: Duration,
    /// In command mode, until then.
    open_until: Option<Instant>,
}

impl Terminal {
    pub(super) fn is_open(&self) -> bool {
        self.open_until.is_some()
    }

    pub(super) fn close(&mut self) {
        *self = Terminal::default();
    }

    pub(super) fn push(
        &mut self,
        now: Instant,
        octet: u8,
        escape: u8,
        guard: Duration,
        time_out: Duration,
    ) -> Heard {
        let silence = self.last_octet.is_none_or(|last| now.since(last) >= guard);
        self.last_octet = Some(now);
        self.guard = guard;
        if self.open_until.is_some() {
            self.open_until = Some(now + time_out);
            if octet == b'\r' {
                return Heard::Line(core::mem::take(&mut self.pending));
            }
            if self.pending.len() < LINE_MAX {
                self.pending.push(octet);
            }
            return Heard::Nothing;
        }
        let goes_on = self.escapes > 0 || silence;
        self.escapes = match octet == escape && goes_on && self.escapes < 3 {
            true => self.escapes + 1,
            false => 0,
        };
        self.pending.push(octet);
        if self.pending.len() > PACKET_MAX {
            self.pending.remove(0);
        }
        Heard::Nothing
    }

    /// When silence means something.
    pub(super) fn deadline(&self, packet: Duration) -> Option<Instant> {
        let last = self.last_octet?;
        if let Some(until) = self.open_until {
            return Some(until);
        }
        if self.pending.is_empty() {
            return None;
        }
        // One or two escape characters may become three, and three are a command after as much silence again.
        Some(last + if self.escapes > 0 { self.guard } else { packet })
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, packet: Duration) -> Heard {
        if self.deadline(packet).is_none_or(|at| at > now) {
            return Heard::Nothing;
        }
        if self.open_until.is_some() {
            self.close();
            return Heard::Closed;
        }
        if self.escapes == 3 {
            self.pending.clear();
            self.escapes = 0;
            // CT runs from here: 10 s by default, and anew with every character.
            self.open_until = Some(now + Duration::from_secs(10));
            return Heard::Opened;
        }
        self.escapes = 0;
        Heard::Data(core::mem::take(&mut self.pending))
    }
}

/// `ATxx` or `ATxxvalue`; the value as octets.
pub(super) fn parse(line: &[u8]) -> Option<(Name, Option<Vec<u8>>)> {
    let [a, t, first, second, rest @ ..] = line else {
        return None;
    };
    if !a.eq_ignore_ascii_case(&b'A') || !t.eq_ignore_ascii_case(&b'T') {
        return None;
    }
    let name = [first.to_ascii_uppercase(), second.to_ascii_uppercase()];
    let text = rest.trim_ascii();
    if text.is_empty() {
        return Some((name, None));
    }
    if name == *b"NI" {
        return Some((name, Some(text.to_vec())));
    }
    let number = u64::from_str_radix(core::str::from_utf8(text).ok()?, 16).ok()?;
    Some((name, Some(number.to_be_bytes().to_vec())))
}
