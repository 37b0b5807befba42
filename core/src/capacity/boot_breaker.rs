//! Circuit breaker for boots: after failed boots in a row, the type backs off exponentially; then a
//! half-open trial with a single boot decides.

use std::collections::BTreeMap;
use std::time::Duration;

use super::CreateBlocked;
use crate::backoff::{Backoff, BackoffState, Readiness};
use crate::ids::{ImageId, TypeName, VmKey};
use crate::time::Timestamp;

/// Type and image: either may be the cause of a failed boot.
pub(crate) type Kind = (TypeName, ImageId);

const BACKOFF: Backoff = Backoff {
    min: Duration::from_secs(5 * 60),
    max: Duration::from_secs(60 * 60),
};

/// Consecutive failed boots for each type and image. Every query costs O(log kinds).
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct BootBreaker(BTreeMap<Kind, Failing>);

/// Type and image with a failed last boot.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Failing {
    /// Number of consecutive failed boots.
    pub(crate) failures: u32,
    /// Back-off, after too many failures.
    pub(crate) pause: Option<BackoffState>,
}

impl BootBreaker {
    /// Counts a failed boot; true at the start of a back-off, after `max` consecutive failures.
    pub(crate) fn failed(
        &mut self,
        now: Timestamp,
        max: Option<u32>,
        kind: Kind,
        jitter: u32,
        why: String,
    ) -> bool {
        let failing = self.0.entry(kind).or_insert(Failing {
            failures: 0,
            pause: None,
        });
        failing.failures = failing.failures.saturating_add(1);
        if max.is_none_or(|max| failing.failures < max) {
            return false;
        }
        let before = failing.pause.as_ref();
        let paused = before.is_some_and(|pause| now < pause.until);
        let next = BackoffState::after_failure(before, now, BACKOFF, jitter, why, 0);
        failing.pause = Some(next);
        !paused
    }

    /// Counts a successful boot; true at the end of a back-off.
    pub(crate) fn succeeded(&mut self, kind: &Kind) -> bool {
        let failing = self.0.remove(kind);
        failing.is_some_and(|failing| failing.pause.is_some())
    }

    /// Checks the back-off of a boot. `booting` is true for an instance without a boot outcome.
    pub(crate) fn may_boot(
        &self,
        now: Timestamp,
        kind: &Kind,
        booting: impl Fn(VmKey) -> bool,
    ) -> Result<(), CreateBlocked> {
        let Some(failing) = self.0.get(kind) else {
            return Ok(());
        };
        let Some(pause) = &failing.pause else {
            return Ok(());
        };
        match pause.readiness(now, booting) {
            Readiness::Wait(until) => Err(CreateBlocked::BootsFail {
                until,
                failures: failing.failures,
                why: pause.why.clone(),
            }),
            Readiness::Trying => Err(CreateBlocked::Canary),
            Readiness::Canary => Ok(()),
        }
    }

    /// Notes a create request: after a back-off, the canary.
    pub(crate) fn begin(&mut self, kind: &Kind, key: VmKey) {
        if let Some(pause) = self.0.get_mut(kind).and_then(|f| f.pause.as_mut()) {
            pause.begin_canary(key);
        }
    }

    /// Number of types and images with a failed last boot.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Types and images in back-off, or with a canary in flight.
    pub(crate) fn paused(&self) -> impl Iterator<Item = (&Kind, u32, &BackoffState)> {
        self.0.iter().filter_map(|(kind, failing)| {
            let pause = failing.pause.as_ref()?;
            Some((kind, failing.failures, pause))
        })
    }

    /// Forgets unconfigured types, and all back-offs if back-offs are no longer configured.
    pub(crate) fn reconfigure(&mut self, configured: impl Fn(&TypeName) -> bool, pauses: bool) {
        self.0.retain(|(name, _), _| configured(name));
        for failing in self.0.values_mut().filter(|_| !pauses) {
            failing.pause = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind() -> Kind {
        (TypeName::from("small"), ImageId::from("image"))
    }

    fn fail(boot_breaker: &mut BootBreaker, now: Timestamp) -> bool {
        boot_breaker.failed(now, Some(3), kind(), 0, "no answer".to_owned())
    }

    #[test]
    fn boot_breaker_repeated_failure_backs_off() {
        let (mut boot_breaker, now) = (BootBreaker::default(), Timestamp::EPOCH);
        assert!(!fail(&mut boot_breaker, now) && !fail(&mut boot_breaker, now));
        assert_eq!(boot_breaker.may_boot(now, &kind(), |_| true), Ok(()));
        assert!(fail(&mut boot_breaker, now));
        let until = now + BACKOFF.min;
        let blocked = CreateBlocked::BootsFail {
            until,
            failures: 3,
            why: "no answer".to_owned(),
        };
        assert_eq!(boot_breaker.may_boot(now, &kind(), |_| true), Err(blocked));
        boot_breaker.begin(&kind(), VmKey(7));
        let canary = |key| key == VmKey(7);
        let trying = boot_breaker.may_boot(until, &kind(), canary);
        assert_eq!(trying, Err(CreateBlocked::Canary));
        assert_eq!(boot_breaker.may_boot(until, &kind(), |_| false), Ok(()));
        assert!(boot_breaker.succeeded(&kind()));
        assert!(!boot_breaker.succeeded(&kind()));
        assert_eq!(boot_breaker.may_boot(now, &kind(), |_| true), Ok(()));
    }

    #[test]
    fn boot_breaker_failed_canary_doubles_backoff() {
        let (mut boot_breaker, now) = (BootBreaker::default(), Timestamp::EPOCH);
        for _ in 0..3 {
            fail(&mut boot_breaker, now);
        }
        // Boots begun before the back-off do not escalate.
        assert!(!fail(&mut boot_breaker, now + Duration::from_secs(1)));
        let later = now + BACKOFF.min + Duration::from_secs(60);
        assert!(fail(&mut boot_breaker, later));
        let (_, failures, pause) = boot_breaker.paused().next().unwrap();
        assert_eq!((failures, pause.until), (5, later + BACKOFF.min * 2));
    }

    #[test]
    fn boot_breaker_without_limit_never_opens() {
        let (mut boot_breaker, now) = (BootBreaker::default(), Timestamp::EPOCH);
        for _ in 0..100 {
            assert!(!boot_breaker.failed(now, None, kind(), 0, String::new()));
        }
        assert_eq!(boot_breaker.may_boot(now, &kind(), |_| true), Ok(()));
    }
}
