//! Check that every container of `demo --chaos` is accounted for.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use super::chaos::{Fault, InjectedFaults, Ledger};
use super::record::Record;
use super::workload::{Item, Kind, Workload};

/// Results of the containers, and counts of injected faults.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    seed: u64,
    injected: BTreeMap<Fault, u64>,
    /// Number of containers with the same result as without faults.
    as_expected: usize,
    /// Number of containers lost with a VM that vanished or froze, with a reason in the record.
    lost: usize,
    /// Containers with any other result; empty if the check passes.
    unaccounted: Vec<String>,
}

impl Verdict {
    pub(super) fn new(
        seed: u64,
        workload: &Workload,
        record: &Record,
        faults: &InjectedFaults,
        ledger: &Ledger,
    ) -> Self {
        let mut verdict = Self {
            seed,
            injected: faults.injected.clone(),
            as_expected: 0,
            lost: 0,
            unaccounted: Vec::new(),
        };
        for (number, item) in (0..).zip(&workload.items) {
            let ran = ledger.of(number);
            match judge(item, record, faults, ran) {
                Ok(true) => verdict.as_expected += 1,
                Ok(false) => verdict.lost += 1,
                Err(why) => {
                    let (state, error) = (item.state(), item.error());
                    let line = format!("{} ({state}, {ran:?}): {why}: {error}", item.uuid);
                    verdict.unaccounted.push(line);
                }
            }
        }
        verdict
    }

    pub(super) fn unaccounted(&self) -> &[String] {
        &self.unaccounted
    }

    pub(super) fn json(&self) -> Value {
        let faults = Fault::ALL.iter().map(|fault| {
            let count = self.injected.get(fault).copied().unwrap_or_default();
            (fault.name().to_owned(), json!(count))
        });
        json!({
            "seed": self.seed,
            "faults": faults.collect::<serde_json::Map<_, _>>(),
            "as_expected": self.as_expected,
            "lost_with_their_vm": self.lost,
            "unaccounted": self.unaccounted,
        })
    }
}

/// True if a container ended as without faults, false if the container was lost with the VM.
fn judge(
    item: &Item,
    record: &Record,
    faults: &InjectedFaults,
    (begun, ended): (usize, usize),
) -> Result<bool, &'static str> {
    let id = item.uuid.parse().ok();
    let ends = id.and_then(|id| record.ends.get(&id)).copied();
    if ends.unwrap_or_default() > 1 {
        return Err("it ended more than once");
    }
    if begun > 1 {
        return Err("its command was started more than once");
    }
    if item.as_expected() {
        let ran = matches!(item.kind, Kind::Plain | Kind::Fails);
        return match (ran, begun, ended) {
            (true, 1, 1) | (false, _, _) => Ok(true),
            _ => Err("it has a result, although the command did not run to the end exactly once"),
        };
    }
    let dispatch = id.and_then(|id| record.dispatches.get(&id));
    let fault = dispatch.and_then(|dispatch| faults.vms.get(&dispatch.instance));
    if item.state() != "Cancelled" {
        return Err("it did not end as expected");
    }
    if item.error().is_empty() {
        return Err("it was cancelled without an error in the record");
    }
    match fault {
        Some(fault) if fault.may_end_containers() => Ok(false),
        _ => Err("it was cancelled without a fault of the VM that explains the cancellation"),
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:30}  {:>6}",
            format!("FAULT (seed {})", self.seed),
            "STRUCK"
        )?;
        for fault in Fault::ALL {
            let count = self.injected.get(&fault).copied().unwrap_or_default();
            writeln!(f, "{:30}  {count:>6}", fault.name())?;
        }
        write!(
            f,
            "{} containers ended as without faults, {} were lost with their VM, {} are not \
             accounted for",
            self.as_expected,
            self.lost,
            self.unaccounted.len()
        )
    }
}
