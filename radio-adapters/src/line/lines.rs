//! Octets of a serial line to lines of text.

use core::ops::Range;
use core::time::Duration;

use gateway_core::time::Instant;

use super::dialect::Cut;

/// The longest line that is kept. A reception of 255 octets takes some 540.
pub(super) const LONGEST: usize = 1100;

/// A line that waits for more octets than came within this time has lost some: it ends at its LF then.
const STALL: Duration = Duration::from_millis(500);

/// Collects octets until a line is complete.
#[derive(Debug, Default)]
pub(super) struct Lines {
    octets: Vec<u8>,
    /// The line is too long: everything up to the next LF belongs to it.
    discarding: bool,
    /// So many octets are cut at LF only.
    plain: usize,
    last: Instant,
}

/// A line, or that one was too long.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// The octets, with their LF.
    Whole(Vec<u8>),
    /// It is gone.
    TooLong,
}

impl Lines {
    /// Adds octets that arrived `now`.
    pub(super) fn push(&mut self, now: Instant, octets: &[u8]) {
        if now.since(self.last) > STALL {
            self.plain = self.octets.len();
        }
        self.last = now;
        self.octets.extend_from_slice(octets);
    }

    /// Forgets what is incomplete.
    pub(super) fn clear(&mut self) {
        self.octets.clear();
        self.discarding = false;
        self.plain = 0;
    }

    /// The next complete line.
    pub(super) fn next(&mut self, cut: impl Fn(&[u8]) -> Cut) -> Option<Line> {
        if self.discarding {
            let Some(end) = self.line_feed() else {
                self.clear();
                self.discarding = true;
                return None;
            };
            self.remove(0..end);
            self.discarding = false;
        }
        let cut = if self.plain > 0 {
            Cut::LineFeed
        } else {
            cut(&self.octets)
        };
        let line = match cut {
            Cut::LineFeed => self.line_feed().map(|end| 0..end),
            Cut::At(range) => Some(range),
            Cut::More => None,
        };
        match line {
            Some(line) if line.len() <= LONGEST => Some(Line::Whole(self.remove(line))),
            Some(line) => {
                self.remove(line);
                Some(Line::TooLong)
            }
            None if self.octets.len() > LONGEST => {
                self.clear();
                self.discarding = true;
                Some(Line::TooLong)
            }
            None => None,
        }
    }

    fn line_feed(&self) -> Option<usize> {
        self.octets
            .iter()
            .position(|octet| *octet == b'\n')
            .map(|at| at + 1)
    }

    /// Removes everything up to the end of the range, and gives the range.
    fn remove(&mut self, range: Range<usize>) -> Vec<u8> {
        let line = self.octets[range.clone()].to_vec();
        self.octets.drain(..range.end);
        self.plain = self.plain.saturating_sub(range.end);
        line
    }
}

/// A line without what cannot be text before and behind it: line ends, blanks, and what a disturbed line adds.
pub(super) fn trimmed(line: &[u8]) -> &[u8] {
    let text = |octet: &u8| octet.is_ascii_graphic();
    match (line.iter().position(text), line.iter().rposition(text)) {
        (Some(first), Some(last)) => &line[first..=last],
        (Some(_), None) | (None, Some(_)) | (None, None) => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &mut Lines, octets: &[u8]) -> Vec<Line> {
        lines.push(Instant::START, octets);
        core::iter::from_fn(|| lines.next(|_| Cut::LineFeed)).collect()
    }

    #[test]
    fn line_is_complete_with_its_line_feed() {
        let mut buffer = Lines::default();
        assert_eq!(lines(&mut buffer, b"o"), []);
        assert_eq!(lines(&mut buffer, b"k\r\nbu"), [Line::Whole(b"ok\r\n".to_vec())]);
        assert_eq!(lines(&mut buffer, b"sy\n"), [Line::Whole(b"busy\n".to_vec())]);
    }

    #[test]
    fn too_long_line_is_dropped_up_to_its_end() {
        let mut buffer = Lines::default();
        assert_eq!(lines(&mut buffer, &[b'x'; LONGEST + 1]), [Line::TooLong]);
        assert_eq!(lines(&mut buffer, &[b'x'; 100_000]), []);
        assert!(buffer.octets.capacity() < 200_000);
        assert_eq!(lines(&mut buffer, b"x\nok\n"), [Line::Whole(b"ok\n".to_vec())]);
    }

    #[test]
    fn line_that_is_too_long_in_one_piece_does_not_take_the_next_along() {
        let mut octets = vec![b'x'; LONGEST + 10];
        octets.extend(b"\nok\n");
        let found = lines(&mut Lines::default(), &octets);
        assert_eq!(found, [Line::TooLong, Line::Whole(b"ok\n".to_vec())]);
    }

    #[test]
    fn text_is_what_remains_between_garbage() {
        assert_eq!(trimmed(b"\0\xFF \nOK\r\n\x80"), b"OK");
        assert_eq!(trimmed(b"radio_rx  AB\r\n"), b"radio_rx  AB");
        assert_eq!(trimmed(b"\r\n"), b"");
    }
}
