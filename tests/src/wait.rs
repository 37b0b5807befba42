//! Polling for conditions without notification.

use std::time::{Duration, Instant};

/// Timeout of all conditions.
pub const TIMEOUT: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// Waits until the condition holds.
///
/// # Panics
///
/// After [`TIMEOUT`].
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    until_some(what, || holds().then_some(()));
}

/// Waits until `look` returns a value.
///
/// # Panics
///
/// After [`TIMEOUT`].
pub fn until_some<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_some_within(TIMEOUT, what, look)
}

/// Waits until `look` returns a value, with another timeout.
///
/// # Panics
///
/// After the timeout.
pub(crate) fn until_some_within<T>(
    timeout: Duration,
    what: &str,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "timeout after {timeout:?}: {what}"
        );
        std::thread::sleep(POLL_INTERVAL);
    }
}
