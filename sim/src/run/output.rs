//! Helpers of the subcommands: arguments, files, printed lines and exit codes.

use std::io::Write;
use std::path::Path;

use crate::run::Verdict;
use crate::run::recorded::read_workload;
use crate::world::workload::Arrival;

/// Exit code: wrong usage, an unreadable file or an unwritable file.
pub(crate) const USAGE: u8 = 4;
/// Exit code: two runs of the same seed differ.
pub(crate) const NONDETERMINISM: u8 = 3;

pub(crate) fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let wrong = || format!("expected a range like 0..1000, found {text:?}");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let from = from.parse().map_err(|_| wrong())?;
    let to = to.parse().map_err(|_| wrong())?;
    if from < to {
        Ok((from, to))
    } else {
        Err(format!(
            "{text:?} is empty: the second number must be greater"
        ))
    }
}

/// Prints a line; ignores a closed pipe.
pub(crate) fn say(out: &mut impl Write, text: &str) {
    let _closed = writeln!(out, "{text}");
}

pub(crate) fn read_work(path: &Path) -> Result<Vec<Arrival>, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    read_workload(&text).map_err(|error| format!("{}: {error}", path.display()))
}

pub(crate) fn code_of(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Ok => 0,
        Verdict::Safety => 1,
        Verdict::Liveness => 2,
    }
}
