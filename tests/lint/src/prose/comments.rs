//! Runs of comment lines within a file.

use std::collections::BTreeSet;

/// Kind of a comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Documentation: `///` or `//!`.
    Doc,
    /// A remark in code: `//` on a line without code.
    Plain,
}

/// A run of consecutive comment lines with one mark.
pub(super) struct Run {
    pub(super) line: usize,
    pub(super) kind: Kind,
    pub(super) text: String,
}

/// Runs in the order of lines. Lines in `quoted` lie within a string and are no comments.
pub(super) fn runs(text: &str, quoted: &BTreeSet<usize>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut open = None;
    for (line, content) in (1..).zip(text.lines()) {
        let Some((mark, rest)) = split(content).filter(|_| !quoted.contains(&line)) else {
            open = None;
            continue;
        };
        match runs.last_mut().filter(|_| open == Some(mark)) {
            Some(run) => {
                run.text.push('\n');
                run.text.push_str(rest);
            }
            None => runs.push(Run {
                line,
                kind: if mark == "//" { Kind::Plain } else { Kind::Doc },
                text: rest.to_owned(),
            }),
        }
        open = Some(mark);
    }
    runs
}

/// Mark and text of a comment line.
fn split(line: &str) -> Option<(&'static str, &str)> {
    let line = line.trim();
    let mark = match line {
        _ if line.starts_with("////") => "//",
        _ if line.starts_with("///") => "///",
        _ if line.starts_with("//!") => "//!",
        _ if line.starts_with("//") => "//",
        _ => return None,
    };
    let rest = &line[mark.len()..];
    Some((mark, rest.strip_prefix(' ').unwrap_or(rest)))
}
