//! Adaptive concurrency limit (AIMD) for containers, for a queue of unknown capacity.
//!
//! The limit begins at `InitialQuotaEstimate`, if set, and falls below the number of running
//! containers at every overload of the queue. The limit grows by a tenth, at least by one, with
//! each minute without overload.

use std::time::Duration;

use crate::config::Limits;
use crate::time::Timestamp;

/// Time without overload before the limit grows.
const QUIET: Duration = Duration::from_secs(60);
/// A limit grown this far counts as none.
const NO_LIMIT: u32 = 1_000_000;
const PPM: u128 = 1_000_000;

/// State of the limit. Queries cost O(log limit), about 150 steps at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Concurrency {
    /// Limit at a time, growing from there.
    limit: Option<(u32, Timestamp)>,
}

impl Concurrency {
    /// Starts afresh after the gain of leadership, and keeps the effect of an overload.
    pub(crate) fn begin(&mut self, now: Timestamp, limits: &Limits) {
        let estimate = limits.initial_quota.map(|limit| limit.max(1));
        let least = [self.max(now), estimate].into_iter().flatten().min();
        self.limit = least.map(|limit| (limit, now));
    }

    /// Lowers the limit after an overload.
    pub(crate) fn overloaded(&mut self, now: Timestamp, running: usize) {
        let running = u32::try_from(running).unwrap_or(u32::MAX);
        let fewer = running.saturating_sub(1).max(1);
        let limit = self.max(now).map_or(fewer, |max| max.min(fewer));
        self.limit = Some((limit, now));
    }

    /// True if certainly unlimited.
    pub(crate) fn is_unlimited(&self) -> bool {
        self.limit.is_none()
    }

    /// Current limit, if any.
    pub(crate) fn max(&self, now: Timestamp) -> Option<u32> {
        let (mut max, since) = self.limit?;
        for _ in 0..self.quiet_minutes(now, since) {
            max = max.saturating_add((max / 10).max(1));
            if max >= NO_LIMIT {
                return None;
            }
        }
        Some(max)
    }

    /// Time of the next increase.
    pub(crate) fn grows_at(&self, now: Timestamp) -> Option<Timestamp> {
        let (_, since) = self.limit?;
        let minutes = self.quiet_minutes(now, since).saturating_add(1);
        Some(since + QUIET * u32::try_from(minutes).unwrap_or(u32::MAX))
    }

    fn quiet_minutes(&self, now: Timestamp, since: Timestamp) -> u64 {
        now.since(since).as_secs() / QUIET.as_secs()
    }

    /// Limit on supervisors: a fraction of all limits, at least one, so that the children of
    /// supervisors find room. `instances` is the limit on instances, if known.
    pub(crate) fn supervisors(
        &self,
        now: Timestamp,
        limits: &Limits,
        instances: Option<usize>,
    ) -> Option<u32> {
        let fraction = limits.supervisor_fraction_ppm?;
        let instances = instances.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        let bounds = [self.max(now), limits.instances, instances];
        let all = bounds.into_iter().flatten().min()?;
        let part = u128::from(all) * u128::from(fraction) / PPM;
        Some(u32::try_from(part).unwrap_or(u32::MAX).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(secs: u64) -> Timestamp {
        Timestamp::EPOCH + Duration::from_secs(secs)
    }

    #[test]
    fn concurrency_limit_drops_and_grows_back() {
        let mut concurrency = Concurrency::default();
        assert_eq!(concurrency.max(after(0)), None);
        concurrency.overloaded(after(0), 21);
        let maxima = [0, 59, 60, 120, 180].map(|secs| concurrency.max(after(secs)));
        assert_eq!(maxima, [20, 20, 22, 24, 26].map(Some));
        assert_eq!(concurrency.grows_at(after(61)), Some(after(120)));
        concurrency.overloaded(after(130), 30);
        assert_eq!(
            concurrency.max(after(130)),
            Some(24),
            "the limit never jumps up"
        );
        assert_eq!(concurrency.max(after(189)), Some(24));
        concurrency.overloaded(after(200), 0);
        assert_eq!(
            concurrency.max(after(200)),
            Some(1),
            "the limit is at least one"
        );
        assert_eq!(concurrency.max(after(320)), Some(3));
        assert_eq!(
            concurrency.max(after(50_000)),
            None,
            "the limit ends after a long time"
        );
    }

    #[test]
    fn concurrency_limit_starts_at_estimate() {
        let limits = Limits {
            initial_quota: Some(40),
            ..Limits::default()
        };
        let mut concurrency = Concurrency::default();
        concurrency.begin(after(0), &limits);
        assert_eq!(concurrency.max(after(0)), Some(40));
        concurrency.overloaded(after(10), 6);
        concurrency.begin(after(20), &limits);
        assert_eq!(
            concurrency.max(after(20)),
            Some(5),
            "the effect of the overload persists"
        );
    }

    #[test]
    fn supervisor_limit_fraction_of_smallest_limit() {
        let mut limits = Limits {
            instances: Some(9),
            supervisor_fraction_ppm: Some(500_000),
            ..Limits::default()
        };
        let mut concurrency = Concurrency::default();
        assert_eq!(concurrency.supervisors(after(0), &limits, None), Some(4));
        assert_eq!(concurrency.supervisors(after(0), &limits, Some(1)), Some(1));
        concurrency.overloaded(after(0), 7);
        assert_eq!(concurrency.supervisors(after(0), &limits, None), Some(3));
        limits.supervisor_fraction_ppm = None;
        assert_eq!(concurrency.supervisors(after(0), &limits, None), None);
    }
}
