//! Catalogue of known failures as scenarios: test scenarios of the peer, tickets of the peer, pain
//! points of users. `SCENARIOS.md` maps each item to tests.

mod index;
mod items;
mod pain_points;
mod rules;
mod tickets;
mod upstream_dispatcher;
mod upstream_pool;
mod upstream_queue;
mod upstream_worker;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs the scenario of a rule not built yet: passes while the story fails.
///
/// # Panics
/// If the story passes: the entry in the list of expected failures is out of date.
#[track_caller]
fn expected_to_fail(reason: &str, story: impl FnOnce()) {
    let failed = catch_unwind(AssertUnwindSafe(story)).is_err();
    assert!(
        failed,
        "passes now ({reason}): remove `expected_to_fail` and the row in SCENARIOS.md"
    );
}

#[test]
fn expected_failure_passing_panics() {
    expected_to_fail("failing story", || panic!("expected panic"));
    let panic = catch_unwind(|| expected_to_fail("passing story", || {}));
    let panic = panic.expect_err("a panic about the outdated list");
    let words = panic.downcast_ref::<String>().expect("a panic message");
    assert!(words.starts_with("passes now (passing story)"), "{words}");
}
