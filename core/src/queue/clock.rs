//! Stoppable clock.

use std::time::Duration;

use crate::time::Timestamp;

/// Accumulated time; stopped at first.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub(crate) struct Clock {
    total: Duration,
    since: Option<Timestamp>,
}

impl Clock {
    /// Starts or stops the clock.
    pub(crate) fn run(&mut self, now: Timestamp, goes: bool) {
        self.total = self.read(now);
        self.since = goes.then_some(now);
    }

    pub(crate) fn goes(&self) -> bool {
        self.since.is_some()
    }

    /// Accumulated running time.
    pub(crate) fn read(&self, now: Timestamp) -> Duration {
        let more = self.since.map(|since| now.since(since));
        self.total.saturating_add(more.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_only_while_it_goes() {
        let at = |secs| Timestamp::EPOCH + Duration::from_secs(secs);
        let mut clock = Clock::default();
        assert_eq!(clock.read(at(5)), Duration::ZERO);
        for (secs, goes) in [(10, true), (12, true), (15, false), (30, true)] {
            clock.run(at(secs), goes);
        }
        assert_eq!(clock.read(at(32)).as_secs(), 7);
        assert!(clock.goes());
    }
}
