//! Chance as a value.
//!
//! Owns the stream of numbers that make ids hard to guess. It is seeded once, by whoever starts the daemon, and asks
//! nobody afterwards: the same seed gives the same ids, which is what a simulation needs.

use sha2::{Digest, Sha256};

/// SHA-256 in counter mode over a secret seed.
pub struct Chance {
    seed: [u8; 32],
    counter: u64,
}

impl Chance {
    /// A stream that only this seed gives.
    pub fn new(seed: [u8; 32]) -> Self {
        Chance { seed, counter: 0 }
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        self.counter += 1;
        let block = Sha256::new().chain_update(self.seed).chain_update(self.counter.to_le_bytes()).finalize();
        u32::from_le_bytes([block[0], block[1], block[2], block[3]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_its_own_stream() {
        let draw = |seed| (0..8).map(move |_| 0).scan(Chance::new([seed; 32]), |c, _: u8| Some(c.next_u32()));
        assert_eq!(draw(1).collect::<Vec<_>>(), draw(1).collect::<Vec<_>>());
        assert_ne!(draw(1).collect::<Vec<_>>(), draw(2).collect::<Vec<_>>());
    }
}
