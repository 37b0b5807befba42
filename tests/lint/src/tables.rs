//! Tables for people.

use std::cmp::Reverse;
use std::fmt::{self, Write as _};

use longshore_lint::circles::CrateCircles;
use longshore_lint::prose::{self, Comment, CrateProse, Kind};
use longshore_lint::{Crate, LintError};

/// Number of characters shown of a comment.
const SHOWN: usize = 160;

/// Table of the prose, and whether all goals are met.
pub(crate) fn prose(crates: &[Crate], worst: Option<usize>) -> Result<(String, bool), LintError> {
    let measured: Result<Vec<CrateProse>, LintError> = crates.iter().map(CrateProse::of).collect();
    let measured = measured?;
    let violations = prose::violations(&measured);
    let mut out = String::new();
    write_prose(&mut out, &measured, worst, &violations).expect("a string takes all text");
    Ok((out, violations.is_empty()))
}

fn write_prose(
    out: &mut String,
    crates: &[CrateProse],
    worst: Option<usize>,
    violations: &[String],
) -> fmt::Result {
    writeln!(
        out,
        "{:22} {:>6} {:>8} {:>8} {:>8} {:>8} {:>6} {:>5} {:>4}",
        "crate", "words", "pronouns", "in plain", "comments", "openings", "tests", "mean", "max"
    )?;
    let whole = CrateProse::sum("all", crates);
    for prose in crates.iter().chain([&whole]) {
        let (docs, openings) = (prose.doc_pronouns(), prose.interrogatives());
        writeln!(
            out,
            "{:22} {:6} {:6.1} % {:6.1} % {:8} {:6.1} % {:6} {:5.1} {:4}",
            prose.name,
            docs.total,
            docs.percent(),
            prose.plain_pronouns().percent(),
            openings.total,
            openings.percent(),
            prose.tests.len(),
            prose.mean_name_words(),
            prose.longest_names().0
        )?;
    }
    if let Some(count) = worst {
        write_worst(out, &whole, count)?;
    }
    if !violations.is_empty() {
        writeln!(out, "\nGoals missed:")?;
    }
    violations
        .iter()
        .try_for_each(|line| writeln!(out, "{line}"))
}

fn write_worst(out: &mut String, whole: &CrateProse, count: usize) -> fmt::Result {
    let docs = || whole.comments.iter().filter(|one| one.kind == Kind::Doc);
    let mut worst: Vec<&Comment> = docs().filter(|one| one.pronouns > 0).collect();
    worst.sort_by_key(|comment| Reverse(comment.pronouns));
    writeln!(out, "\nDoc comments with most pronouns:")?;
    for comment in worst.into_iter().take(count) {
        let (pronouns, words) = (comment.pronouns, comment.words);
        writeln!(out, "{} ({pronouns} of {words} words)", shown(comment))?;
    }
    writeln!(out, "\nInterrogative openings:")?;
    for comment in docs().filter(|one| one.interrogative) {
        writeln!(out, "{}", shown(comment))?;
    }
    let (most, names) = whole.longest_names();
    writeln!(out, "\nLongest test names, {most} words:")?;
    for test in names {
        writeln!(out, "{}:{}: {}", test.path.display(), test.line, test.name)?;
    }
    Ok(())
}

/// Place and start of a comment on one line.
fn shown(comment: &Comment) -> String {
    let text = comment.text.replace('\n', " ");
    let mut start: String = text.chars().take(SHOWN).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    format!("{}:{}: {start}", comment.path.display(), comment.line)
}

/// Table of modules and circles, and whether there is no circle.
pub(crate) fn circles(crates: &[Crate], depth: Option<usize>) -> Result<(String, bool), LintError> {
    let found: Result<Vec<CrateCircles>, LintError> = crates
        .iter()
        .map(|krate| CrateCircles::of(krate, depth))
        .collect();
    let found = found?;
    let mut out = String::new();
    write_circles(&mut out, &found).expect("a string takes all text");
    Ok((out, found.iter().all(|one| one.circles.is_empty())))
}

fn write_circles(out: &mut String, crates: &[CrateCircles]) -> fmt::Result {
    writeln!(
        out,
        "{:22} {:>8} {:>7} {:>7} {:>8}",
        "crate", "modules", "arrows", "to kin", "circles"
    )?;
    for krate in crates {
        let arrows = krate.arrows;
        writeln!(
            out,
            "{:22} {:8} {:7} {:7} {:8}",
            krate.name,
            arrows.modules,
            arrows.edges,
            arrows.kin,
            krate.circles.len()
        )?;
    }
    for krate in crates {
        for circle in &krate.circles {
            writeln!(out, "\n{}: {circle}", krate.name)?;
        }
    }
    Ok(())
}
