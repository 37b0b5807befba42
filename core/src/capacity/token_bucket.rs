//! Token buckets for configured rate limits.

use crate::config::Rate;
use crate::time::Timestamp;

/// Token bucket, stored as the time at which the bucket is full again. O(1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct TokenBucket {
    full_at: Timestamp,
}

impl TokenBucket {
    /// Time of the next token: `now` or earlier if available.
    pub(crate) fn next_at(&self, now: Timestamp, rate: Rate) -> Timestamp {
        let depth = rate.interval * rate.burst.saturating_sub(1);
        if self.full_at <= now + depth {
            now
        } else {
            self.full_at - depth
        }
    }

    /// Takes a token, even if none is available; see [`TokenBucket::next_at`].
    pub(crate) fn take(&mut self, now: Timestamp, rate: Rate) {
        self.full_at = self.full_at.max(now) + rate.interval;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn token_bucket_burst_then_refill() {
        let rate = Rate {
            interval: Duration::from_secs(1),
            burst: 3,
        };
        let start = Timestamp::from_nanos(7);
        let mut token_bucket = TokenBucket::default();
        for _ in 0..3 {
            assert_eq!(token_bucket.next_at(start, rate), start);
            token_bucket.take(start, rate);
        }
        assert_eq!(token_bucket.next_at(start, rate), start + rate.interval);
    }

    proptest! {
        #[test]
        fn token_bucket_never_exceeds_burst_plus_refill(
            gaps in proptest::collection::vec(0u64..3000, 1..200), burst in 1u32..6,
        ) {
            let rate = Rate { interval: Duration::from_millis(500), burst };
            let (mut token_bucket, mut now, mut taken) = (TokenBucket::default(), Timestamp::EPOCH, Vec::new());
            for gap in gaps {
                now = now + Duration::from_millis(gap);
                if token_bucket.next_at(now, rate) <= now {
                    token_bucket.take(now, rate);
                    taken.push(now);
                }
            }
            for (i, first) in taken.iter().enumerate() {
                for (n, last) in taken[i..].iter().enumerate() {
                    let window = last.since(*first).as_millis();
                    prop_assert!((n as u128) < u128::from(burst) + window / 500 + 1);
                }
            }
        }
    }
}
