//! Whether every container of `demo --chaos` is accounted for.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use super::chaos::{Damage, Fault, Ledger};
use super::record::Record;
use super::workload::{Item, Kind, Workload};

/// What became of the containers, and which faults struck.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    seed: u64,
    struck: BTreeMap<Fault, u64>,
    /// They ended as they would have without a storm.
    as_expected: usize,
    /// Their VM vanished or froze while they ran, and their record says so.
    lost: usize,
    /// Everything else; empty if all is well.
    unaccounted: Vec<String>,
}

impl Verdict {
    pub(super) fn new(
        seed: u64,
        workload: &Workload,
        record: &Record,
        damage: &Damage,
        ledger: &Ledger,
    ) -> Self {
        let mut verdict = Self {
            seed,
            struck: damage.struck.clone(),
            as_expected: 0,
            lost: 0,
            unaccounted: Vec::new(),
        };
        for (number, item) in (0..).zip(&workload.items) {
            let ran = ledger.of(number);
            match judge(item, record, damage, ran) {
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
            let count = self.struck.get(fault).copied().unwrap_or_default();
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

/// Whether a container ended as it would have without faults, or was lost with its VM.
fn judge(
    item: &Item,
    record: &Record,
    damage: &Damage,
    (begun, ended): (usize, usize),
) -> Result<bool, &'static str> {
    let id = item.uuid.parse().ok();
    let ends = id.and_then(|id| record.ends.get(&id)).copied();
    if ends.unwrap_or_default() > 1 {
        return Err("it ended more than once");
    }
    if begun > 1 {
        return Err("its command was begun more than once");
    }
    if item.as_expected() {
        let ran = matches!(item.kind, Kind::Plain | Kind::Fails);
        return match (ran, begun, ended) {
            (true, 1, 1) | (false, _, _) => Ok(true),
            _ => Err("it has a result, and its command did not run once to its end"),
        };
    }
    let way = id.and_then(|id| record.ways.get(&id));
    let fault = way.and_then(|way| damage.vms.get(&way.instance));
    if item.state() != "Cancelled" {
        return Err("it has not ended as it should");
    }
    if item.error().is_empty() {
        return Err("it was cancelled and nobody says why");
    }
    match fault {
        Some(fault) if fault.may_end_containers() => Ok(false),
        _ => Err("it was cancelled, and no fault of its VM explains that"),
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
            let count = self.struck.get(&fault).copied().unwrap_or_default();
            writeln!(f, "{:30}  {count:>6}", fault.name())?;
        }
        write!(
            f,
            "{} containers ended as if nothing had happened, {} were lost with their VM, {} are not \
             accounted for",
            self.as_expected,
            self.lost,
            self.unaccounted.len()
        )
    }
}
