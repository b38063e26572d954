//! What an RS-485 transceiver gives back of what was written.

use gateway_core::time::Instant;

/// Leaves the echo of what was written out of what was read.
#[derive(Debug, Default)]
pub(super) struct Echo {
    /// Written, and not yet come back.
    expected: Vec<u8>,
    /// So many of its octets have.
    matched: usize,
    /// It does not come back later.
    until: Instant,
}

impl Echo {
    /// Octets are written and come back until then.
    pub(super) fn expect(&mut self, octets: &[u8], until: Instant) {
        self.expected.clear();
        self.expected.extend(octets);
        self.matched = 0;
        self.until = until;
    }

    /// What was read, without the echo. What looks like the beginning of one is kept back.
    pub(super) fn remove(&mut self, octets: &[u8]) -> Vec<u8> {
        let mut rest = Vec::with_capacity(octets.len());
        for &octet in octets {
            if self.expected.is_empty() {
                rest.push(octet);
                continue;
            }
            if self.expected[self.matched] != octet {
                rest.extend(&self.expected[..self.matched]);
                self.matched = 0;
            }
            if self.expected[self.matched] == octet {
                self.matched += 1;
            } else {
                rest.push(octet);
            }
            if self.matched == self.expected.len() {
                self.expected.clear();
                self.matched = 0;
            }
        }
        rest
    }

    /// It is too late for an echo: what was kept back.
    pub(super) fn give_up(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.expected.is_empty() || now < self.until {
            return None;
        }
        let mut octets = core::mem::take(&mut self.expected);
        octets.truncate(self.matched);
        self.matched = 0;
        (!octets.is_empty()).then_some(octets)
    }

    /// When [`Echo::give_up`] is wanted.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.expected.is_empty()).then_some(self.until)
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    const NOW: Instant = Instant::START;

    fn expecting() -> Echo {
        let mut echo = Echo::default();
        echo.expect(&[1, 2, 3], NOW + Duration::from_millis(50));
        echo
    }

    #[test]
    fn an_echo_is_left_out_however_it_is_cut() {
        for cut in 1..=5 {
            let mut echo = expecting();
            let rest: Vec<u8> = [9, 1, 2, 3, 1]
                .chunks(cut)
                .flat_map(|piece| echo.remove(piece))
                .collect();
            assert_eq!(rest, [9, 1]);
            assert_eq!(echo.deadline(), None);
        }
    }

    #[test]
    fn what_only_began_like_an_echo_is_not_lost() {
        let mut echo = expecting();
        assert_eq!(echo.remove(&[1, 2]), []);
        assert_eq!(echo.remove(&[4]), [1, 2, 4]);
        assert_eq!(echo.remove(&[1, 1, 2, 3]), [1]);
    }

    #[test]
    fn an_echo_that_does_not_come_gives_back_what_was_kept() {
        let mut echo = expecting();
        assert_eq!(echo.remove(&[1, 2]), []);
        assert_eq!(echo.give_up(NOW), None);
        assert_eq!(echo.deadline(), Some(NOW + Duration::from_millis(50)));
        assert_eq!(echo.give_up(NOW + Duration::from_millis(50)), Some(vec![1, 2]));
        assert_eq!(echo.deadline(), None);
        assert_eq!(echo.remove(&[1, 2, 3]), [1, 2, 3]);
    }
}
