//! Containers API in this process, and a simulated VM.

mod server;
mod vm;

pub(crate) use server::{ApiState, Server};
pub(crate) use vm::{Vm, finish, groups_of, processes_of};

use std::time::{Duration, Instant};

/// Timeout for steps that normally take milliseconds, for a loaded host.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Polls a condition until true.
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "timeout while waiting for: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
