//! The known failures of this field, each as a story: the peer's test scenarios, its tickets, the
//! pains of its users. `SCENARIOS.md` says which story shows what.

mod index;
mod items;
mod pains;
mod rules;
mod tickets;
mod upstream_dispatcher;
mod upstream_pool;
mod upstream_queue;
mod upstream_worker;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// A scenario of a rule that is not built yet: it passes while the story fails.
///
/// # Panics
/// If the story passes: then it is to be taken off the list.
#[track_caller]
fn expected_to_fail(reason: &str, story: impl FnOnce()) {
    let failed = catch_unwind(AssertUnwindSafe(story)).is_err();
    assert!(
        failed,
        "it passes now ({reason}): take `expected_to_fail` off and its line out of SCENARIOS.md"
    );
}

#[test]
fn a_story_that_passes_against_expectation_is_told_of() {
    expected_to_fail("it fails", || panic!("as expected"));
    let told = catch_unwind(|| expected_to_fail("it does not", || {}));
    let told = told.expect_err("the list is out of date");
    let words = told.downcast_ref::<String>().expect("a sentence");
    assert!(words.starts_with("it passes now (it does not)"), "{words}");
}
