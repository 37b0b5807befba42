//! Exponential backoff, and the half-open trial at the end.

use std::time::Duration;

use crate::ids::VmKey;
use crate::time::Timestamp;

/// Back-off after failures, followed by a canary.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BackoffState {
    pub(crate) until: Timestamp,
    /// Start of consecutive failures, with a try soon after each back-off.
    pub(crate) since: Timestamp,
    /// Number of consecutive failures.
    step: u32,
    /// Instance of the canary.
    canary: Option<VmKey>,
    /// Last error, for views.
    pub(crate) why: String,
    /// Number of instances at the time of a quota error.
    pub(crate) count_at_error: usize,
}

/// Time after the end of a back-off in which a canary has ended, if any container needs one.
const STALE_AFTER: Duration = Duration::from_secs(600);

/// Maximal number of doublings.
const DOUBLINGS_MAX: u32 = 16;

/// Readiness for the next try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Not before this time.
    Wait(Timestamp),
    /// Canary in flight.
    Trying,
    /// One try, now.
    Canary,
}

/// Shortest and longest delay of an exponential backoff.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

impl Backoff {
    /// Delay after `step` doublings, without jitter.
    pub(crate) fn delay(self, step: u32) -> Duration {
        let doubled = self.min.saturating_mul(2_u32.pow(step.min(DOUBLINGS_MAX)));
        doubled.min(self.max)
    }
}

/// Part of `span`, in 256 steps, drawn by `jitter`.
pub(crate) fn jittered(span: Duration, jitter: u32) -> Duration {
    span * (jitter % 256) / 256
}

impl BackoffState {
    /// Escalates from `before`: doubles the delay up to the longest, and adds up to an eighth by
    /// chance (`jitter`), so that several tries spread out.
    pub(crate) fn after_failure(
        before: Option<&Self>,
        now: Timestamp,
        pauses: Backoff,
        jitter: u32,
        why: String,
        count_at_error: usize,
    ) -> Self {
        // A failure within the back-off, of a create in flight before, does not escalate, and
        // extends the back-off to at least the shortest delay.
        let known = before.filter(|b| now < b.until);
        let step = known.map_or(before.map_or(0, |b| b.step + 1), |b| b.step);
        let pause = pauses.delay(step);
        let until = now + pause + jittered(pause / 8, jitter);
        let ongoing = before.filter(|b| b.is_recent(now));
        Self {
            since: ongoing.map_or(now, |b| b.since),
            until: known.map_or(until, |b| b.until.max(now + pauses.min)),
            step,
            // The failure of an older create does not end the canary.
            canary: before.and_then(|b| b.canary),
            why,
            count_at_error,
        }
    }

    /// True unless the back-off ended long ago without another try.
    pub(crate) fn is_recent(&self, now: Timestamp) -> bool {
        now < self.until + STALE_AFTER
    }

    /// Readiness at a time. `under_way` is true for an instance with an unanswered create; a canary
    /// without a known instance has ended.
    pub(crate) fn readiness(&self, now: Timestamp, under_way: impl Fn(VmKey) -> bool) -> Readiness {
        if now < self.until {
            Readiness::Wait(self.until)
        } else if self.canary.is_some_and(under_way) {
            Readiness::Trying
        } else {
            Readiness::Canary
        }
    }

    pub(crate) fn begin_canary(&mut self, key: VmKey) {
        self.canary = Some(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        min: Duration::from_secs(60),
        max: Duration::from_secs(900),
    };

    #[test]
    fn backoff_doubles_up_to_longest() {
        let mut now = Timestamp::EPOCH;
        let mut backoff: Option<BackoffState> = None;
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let next =
                BackoffState::after_failure(backoff.as_ref(), now, BACKOFF, 0, String::new(), 0);
            pauses.push(next.until.since(now).as_secs());
            now = next.until;
            backoff = Some(next);
        }
        assert_eq!(pauses, [60, 120, 240, 480, 900, 900]);
    }

    #[test]
    fn backoff_failure_within_does_not_escalate() {
        let first =
            BackoffState::after_failure(None, Timestamp::EPOCH, BACKOFF, 0, String::new(), 0);
        let now = Timestamp::EPOCH + Duration::from_secs(30);
        let second = BackoffState::after_failure(Some(&first), now, BACKOFF, 0, String::new(), 0);
        assert_eq!(second.until, now + BACKOFF.min);
        assert_eq!(second.step, first.step);
    }

    #[test]
    fn backoff_single_canary() {
        let mut backoff =
            BackoffState::after_failure(None, Timestamp::EPOCH, BACKOFF, 0, String::new(), 0);
        let end = backoff.until;
        let at = |now, open: bool| backoff.readiness(now, |_| open);
        assert_eq!(at(Timestamp::EPOCH, true), Readiness::Wait(end));
        assert_eq!(at(end, true), Readiness::Canary);
        backoff.begin_canary(VmKey(1));
        assert_eq!(
            backoff.readiness(end, |key| key == VmKey(1)),
            Readiness::Trying
        );
        assert_eq!(backoff.readiness(end, |_| false), Readiness::Canary);
    }
}
