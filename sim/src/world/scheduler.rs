//! State shared by all parts of the world: clock, event heap, faults, marks and trace.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use longshore_core::ids::CommandId;
use longshore_core::input::{Answer, Input};
use longshore_core::time::Timestamp;

use crate::world::coverage::{Coverage, CoverageMark};
use crate::world::events::{Happening, Origin, START};
use crate::world::faults::Faults;
use crate::world::trace::{Line, Trace};

#[derive(Clone, Debug)]
struct Slot {
    at: Timestamp,
    sequence: u64,
    what: Happening,
}

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl Eq for Slot {}

impl PartialOrd for Slot {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Slot {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// Violation of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Name of the rule.
    pub rule: &'static str,
    /// Time since the start of the run.
    pub after: Duration,
    /// Description of the violation.
    pub what: String,
}

/// State shared by all parts.
#[derive(Debug)]
pub(crate) struct Scheduler {
    pub(crate) now: Timestamp,
    sequence: u64,
    heap: BinaryHeap<Reverse<Slot>>,
    pub(crate) faults: Faults,
    pub(crate) marks: Coverage,
    pub(crate) trace: Trace,
    pub(crate) violations: Vec<Violation>,
}

/// Maximum number of violations kept per run; the first matters most.
const VIOLATIONS_MAX: usize = 20;

impl Scheduler {
    pub(crate) fn new(faults: Faults, trace: Trace) -> Self {
        Self {
            now: START,
            sequence: 0,
            heap: BinaryHeap::new(),
            faults,
            marks: Coverage::default(),
            trace,
            violations: Vec::new(),
        }
    }

    pub(crate) fn at(&mut self, at: Timestamp, what: Happening) {
        self.sequence += 1;
        let (at, sequence) = (at.max(self.now), self.sequence);
        self.heap.push(Reverse(Slot { at, sequence, what }));
    }

    pub(crate) fn after(&mut self, pause: Duration, what: Happening) {
        self.at(self.now + pause, what);
    }

    /// Time of the next event.
    pub(crate) fn next_at(&self) -> Option<Timestamp> {
        self.heap.peek().map(|Reverse(slot)| slot.at)
    }

    /// Takes the next event and moves the clock to its time.
    pub(crate) fn pop(&mut self) -> Option<Happening> {
        let Reverse(slot) = self.heap.pop()?;
        self.now = slot.at;
        Some(slot.what)
    }

    /// Schedules the delivery of an answer.
    pub(crate) fn answer(&mut self, to: Origin, id: CommandId, answer: Answer, after: Duration) {
        let input = Box::new(Input::Answer { id, answer });
        self.after(after, Happening::Deliver(to, input));
    }

    pub(crate) fn mark(&mut self, mark: CoverageMark) {
        self.marks.reach(mark);
    }

    /// Adds a note to the trace; the text is built only if the trace keeps lines.
    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        self.trace.line(self.now, || Line::Note(text()));
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now.since(START)
    }

    pub(crate) fn violate(&mut self, rule: &'static str, what: String) {
        let text = format!("VIOLATION {rule}: {what}");
        self.note(|| text);
        if self.violations.len() < VIOLATIONS_MAX {
            let after = self.elapsed();
            self.violations.push(Violation { rule, after, what });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_size_is_bounded() {
        assert!(std::mem::size_of::<Slot>() <= 48);
    }
}
