//! Noise on a serial line: what bad cables, wrong speeds, modems that start and cut-off frames leave there.

use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};

/// The longest piece.
const PIECE_MAX: usize = 1500;

/// Octets that mean something on one line or another.
const SPECIAL: &[u8] = b"\x00\x01\x02\x0c\x11\x13\x7d\x7e\xc0\xdb\xdc\xdd\xfe\xff\r\n+:,=";

/// Noise that follows from a seed.
#[derive(Debug, Clone)]
pub struct Noise {
    rng: SmallRng,
}

impl Noise {
    /// The noise of this seed.
    pub fn new(seed: u64) -> Noise {
        Noise {
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// The next piece: octets, text, silence of a broken line, or what is left of `sample`.
    pub fn piece(&mut self, sample: &[u8]) -> Vec<u8> {
        let len = self.rng.random_range(1..=PIECE_MAX);
        match self.rng.random_range(0..10) {
            0..=3 => self.octets(len),
            4 => self.text(len),
            5 => {
                let octet = SPECIAL[self.rng.random_range(0..SPECIAL.len())];
                vec![octet; len]
            }
            6 => (0..len)
                .map(|_| SPECIAL[self.rng.random_range(0..SPECIAL.len())])
                .collect(),
            7 => self.cut(sample),
            _ => self.damage(sample),
        }
    }

    /// Where to cut so many octets in two.
    pub fn split(&mut self, len: usize) -> usize {
        self.rng.random_range(0..=len)
    }

    fn octets(&mut self, len: usize) -> Vec<u8> {
        let mut octets = vec![0; len];
        self.rng.fill_bytes(&mut octets);
        octets
    }

    fn text(&mut self, len: usize) -> Vec<u8> {
        let mut text = self.octets(len);
        for octet in &mut text {
            *octet = match *octet {
                0..=7 => b'\n',
                other => b' ' + other % 95,
            };
        }
        text
    }

    /// The beginning or the end of it.
    fn cut(&mut self, sample: &[u8]) -> Vec<u8> {
        let (head, tail) = sample.split_at(self.split(sample.len()));
        if self.rng.random() { head } else { tail }.to_vec()
    }

    /// It, with a few octets changed, missing or doubled.
    fn damage(&mut self, sample: &[u8]) -> Vec<u8> {
        let mut octets = sample.to_vec();
        for _ in 0..self.rng.random_range(1..4) {
            if octets.is_empty() {
                break;
            }
            let at = self.rng.random_range(0..octets.len());
            match self.rng.random_range(0..3) {
                0 => octets[at] ^= 1 << self.rng.random_range(0..8),
                1 => {
                    octets.remove(at);
                }
                _ => octets.insert(at, octets[at]),
            }
        }
        octets
    }
}
