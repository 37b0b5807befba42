//! Goals of the prose, and messages about missed ones.

use super::{CrateProse, Share};

/// Largest share of pronouns among the words of comments, in percent.
pub const MAX_PRONOUN_PERCENT: usize = 5;

/// Largest share of doc comments with an interrogative as first word, in percent.
pub const MAX_INTERROGATIVE_PERCENT: usize = 7;

/// Largest mean number of words in the test names of a crate.
pub const MAX_MEAN_NAME_WORDS: f64 = 6.0;

/// Largest number of words in a test name.
pub const MAX_NAME_WORDS: usize = 9;

/// Smallest number of comment words for a share of pronouns. A crate with fewer words is judged as
/// if filled up to this number with other words: 5 pronouns are always allowed.
pub const MIN_WORDS: usize = 100;

/// Smallest number of doc comments for a share of interrogative openings, with the same rule as
/// for [`MIN_WORDS`]: 2 interrogative openings are always allowed.
pub const MIN_COMMENTS: usize = 30;

/// Smallest number of tests for a mean. In a crate with fewer tests only single names are judged.
pub const MIN_NAMES: usize = 5;

/// Messages about missed goals, with crate, value and goal; empty where all goals are met.
#[must_use]
pub fn violations(crates: &[CrateProse]) -> Vec<String> {
    crates.iter().flat_map(of_crate).collect()
}

fn of_crate(prose: &CrateProse) -> Vec<String> {
    let name = &prose.name;
    let mut found = Vec::new();
    let shares = [
        ("doc comments", "words are pronouns", prose.doc_pronouns()),
        ("all comments", "words are pronouns", prose.all_pronouns()),
        (
            "doc comments",
            "open with an interrogative",
            prose.interrogatives(),
        ),
    ];
    let limits = [
        (MAX_PRONOUN_PERCENT, MIN_WORDS),
        (MAX_PRONOUN_PERCENT, MIN_WORDS),
        (MAX_INTERROGATIVE_PERCENT, MIN_COMMENTS),
    ];
    for ((place, what, share), (percent, min)) in shares.into_iter().zip(limits) {
        if exceeds(share, percent, min) {
            let Share { count, total } = share;
            let value = share.percent();
            found.push(format!(
                "{name}: {place}: {count} of {total} {what}, {value:.1} %, goal {percent} %"
            ));
        }
    }
    let mean = prose.mean_name_words();
    if prose.tests.len() >= MIN_NAMES && mean > MAX_MEAN_NAME_WORDS {
        found.push(format!(
            "{name}: test names: {mean:.1} words in the mean of {}, goal {MAX_MEAN_NAME_WORDS}",
            prose.tests.len()
        ));
    }
    for test in &prose.tests {
        let words = test.words();
        if words > MAX_NAME_WORDS {
            found.push(format!(
                "{name}: {}:{}: {words} words in a test name, goal {MAX_NAME_WORDS}: {}",
                test.path.display(),
                test.line,
                test.name
            ));
        }
    }
    found
}

/// Compares a share with a limit in percent, with the total raised to at least `min`.
fn exceeds(share: Share, percent: usize, min: usize) -> bool {
    share.count * 100 > percent * share.total.max(min)
}
