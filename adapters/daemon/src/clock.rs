//! Clock of the timestamps of inputs.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use longshore_core::time::Timestamp;

/// Wall time at the start plus monotonic time since: never goes back, even if the host's clock is
/// set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    wall: Timestamp,
    anchor: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            wall: Timestamp::EPOCH + since_epoch.unwrap_or(Duration::ZERO),
            anchor: Instant::now(),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.wall + self.anchor.elapsed()
    }

    /// Same moment for timers of the runtime; one year ahead at most, also for
    /// [`Timestamp::NEVER`].
    pub(crate) fn instant(&self, at: Timestamp) -> tokio::time::Instant {
        let ahead = at.since(self.wall).min(Duration::from_secs(86_400 * 365));
        (self.anchor + ahead).into()
    }
}
