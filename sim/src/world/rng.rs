//! Random streams: a stream per part of the world, seeded by name, so that an extra draw in a part
//! never shifts the draws of another part.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// Probability as an integer ratio. `0/n` never happens and costs no draw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ratio {
    /// Numerator.
    pub times: u32,
    /// Denominator.
    pub of: u32,
}

impl Ratio {
    /// Probability 0.
    pub const NEVER: Self = Self { times: 0, of: 1 };

    /// Creates the ratio `times` out of `of`.
    #[must_use]
    pub const fn new(times: u32, of: u32) -> Self {
        Self { times, of }
    }
}

/// Stream of random draws.
#[derive(Clone, Debug)]
pub(crate) struct Rng(ChaCha8Rng);

impl Rng {
    /// Creates the stream for `name` under `seed`.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(fnv(name.as_bytes()));
        Self(rng)
    }

    /// Draws from 0 to `n` - 1; 0 if `n` is 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        let wide = u128::from(self.0.next_u64()) * u128::from(n);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// Draws from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// Draws from `low` to `high` on a roughly logarithmic scale: a random bit width, then a value
    /// within the width.
    pub(crate) fn uneven(&mut self, low: u64, high: u64) -> u64 {
        let bits = |n: u64| 64 - n.leading_zeros();
        let width = self.between(bits(low).into(), bits(high).into());
        let top = 1_u64.checked_shl(u32::try_from(width).unwrap_or(63));
        let top = top.unwrap_or(u64::MAX).saturating_sub(1);
        self.between(low, top.clamp(low, high))
    }

    pub(crate) fn span(&mut self, low: Duration, high: Duration) -> Duration {
        let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.between(nanos(low), nanos(high)))
    }

    /// Draws from `low` to `high` milliseconds.
    pub(crate) fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_micros(self.between(low * 1000, high * 1000))
    }

    /// Draws from `low` to `high` seconds.
    pub(crate) fn secs(&mut self, low: u64, high: u64) -> Duration {
        self.millis(low * 1000, high * 1000)
    }

    pub(crate) fn happens(&mut self, ratio: Ratio) -> bool {
        ratio.times > 0 && self.below(ratio.of.into()) < u64::from(ratio.times)
    }

    /// True with probability 1/`n`.
    pub(crate) fn one_in(&mut self, n: u32) -> bool {
        self.happens(Ratio::new(1, n))
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let index = usize::try_from(self.below(from.len() as u64)).ok()?;
        from.get(index)
    }

    /// Draws a seed for the core.
    pub(crate) fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.0.fill_bytes(&mut seed);
        seed
    }
}

/// Returns the FNV-1a hash: the same on every machine.
pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    fnv_on(0xcbf2_9ce4_8422_2325, bytes)
}

/// Continues an FNV-1a hash.
pub(crate) fn fnv_on(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rng_draws_in_bounds_streams_differ() {
        let (mut a, mut b) = (Rng::new(1, "a"), Rng::new(1, "b"));
        assert_ne!(a.seed(), b.seed());
        for _ in 0..1000 {
            assert!((3..=5).contains(&a.between(3, 5)));
            assert!((1..=1000).contains(&a.uneven(1, 1000)));
            assert!(!a.happens(Ratio::NEVER));
            assert!(a.happens(Ratio::new(1, 1)));
        }
    }
}
