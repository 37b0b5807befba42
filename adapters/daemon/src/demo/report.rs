//! Table and totals at the end of the demo.

use std::fmt;
use std::time::{Duration, Instant};

use longshore_core::resources::MicroDollars;
use serde_json::{Value, json};

use super::record::Record;
use super::verdict::Verdict;
use super::workload::{Item, Workload};

/// Row of the table.
#[derive(Clone, Debug)]
struct Row {
    uuid: String,
    instance: Option<String>,
    waited: Option<Duration>,
    ran: Option<Duration>,
    end: String,
    /// Cost in dollars, as reported by the runner.
    cost: f64,
}

/// Output at the end of the demo.
#[derive(Clone, Debug)]
pub(super) struct Report {
    rows: Vec<Row>,
    surprises: Vec<String>,
    took: Duration,
    /// Dispatch latencies (queued to started on a ready VM), sorted.
    dispatch: Vec<Duration>,
    vms: usize,
    vm_time: Duration,
    vm_cost: MicroDollars,
    lost: u64,
    chaos: Option<Verdict>,
}

impl Report {
    pub(super) fn new(
        workload: &Workload,
        record: Record,
        took: Duration,
        chaos: Option<Verdict>,
    ) -> Self {
        let now = Instant::now();
        let rows = workload.items.iter().map(|item| row(item, &record));
        let odd = workload.items.iter().filter(|item| !item.as_expected());
        let mut dispatch: Vec<_> = record
            .dispatches
            .values()
            .filter_map(|d| d.latency)
            .collect();
        dispatch.sort_unstable();
        let lasted = || {
            record
                .lifetimes
                .values()
                .map(|lifetime| lifetime.lasted(now))
        };
        let costs = record.lifetimes.values().map(|lifetime| {
            let nanos = u64::try_from(lifetime.lasted(now).as_nanos()).unwrap_or(u64::MAX);
            price(lifetime.instance_type.as_str()).for_nanos(nanos).0
        });
        Self {
            rows: rows.collect(),
            surprises: match &chaos {
                Some(verdict) => verdict.unaccounted().to_vec(),
                None => odd
                    .map(|item| format!("{} ({})", item.uuid, item.state()))
                    .collect(),
            },
            chaos,
            took,
            dispatch,
            vms: record.lifetimes.len(),
            vm_time: lasted().sum(),
            vm_cost: MicroDollars(costs.sum()),
            lost: record.lost,
        }
    }

    pub(super) fn surprises(&self) -> &[String] {
        &self.surprises
    }

    pub(super) fn json(&self) -> Value {
        let seconds = |d: Option<Duration>| d.map(|d| d.as_secs_f64());
        let rows = self.rows.iter().map(|row| {
            json!({
                "container": row.uuid, "instance": row.instance, "waited_s": seconds(row.waited),
                "ran_s": seconds(row.ran), "end": row.end, "cost": row.cost,
            })
        });
        json!({
            "containers": rows.collect::<Vec<_>>(),
            "unexpected": self.surprises,
            "took_s": self.took.as_secs_f64(),
            "dispatch_p50_s": seconds(self.percentile(50)),
            "dispatch_p99_s": seconds(self.percentile(99)),
            "vms": self.vms,
            "vm_hours": self.vm_time.as_secs_f64() / 3600.0,
            "vm_cost": self.vm_cost.0 as f64 / 1e6,
            "chaos": self.chaos.as_ref().map(Verdict::json),
        })
    }

    fn percentile(&self, percent: usize) -> Option<Duration> {
        let last = self.dispatch.len().checked_sub(1)?;
        self.dispatch.get((last * percent).div_ceil(100)).copied()
    }
}

/// Price of an instance type in the demo's configuration.
fn price(instance_type: &str) -> MicroDollars {
    MicroDollars(match instance_type {
        "small" => 50_000,
        "medium" => 100_000,
        _ => 200_000,
    })
}

fn row(item: &Item, record: &Record) -> Row {
    let id = item.uuid.parse().ok();
    let dispatch = id.and_then(|id| record.dispatches.get(&id));
    let end = match (item.state(), item.record["exit_code"].as_i64()) {
        ("Complete", Some(code)) => code.to_string(),
        (state, _) => state.to_lowercase(),
    };
    Row {
        uuid: item.uuid.clone(),
        instance: dispatch.map(|dispatch| dispatch.instance.clone()),
        waited: dispatch.map(|dispatch| dispatch.waited),
        ran: ran(&item.record),
        end,
        cost: item.record["cost"].as_f64().unwrap_or(0.0),
    }
}

/// Run time by the queue's own timestamps.
fn ran(record: &Value) -> Option<Duration> {
    let nanos = |key: &str| {
        let text = record[key].as_str()?;
        longshore_queue_client::parse_time(text)
    };
    let (from, to) = (nanos("started_at")?, nanos("finished_at")?);
    Some(to.since(from))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |d: Option<Duration>| match d {
            Some(d) => format!("{:.2} s", d.as_secs_f64()),
            None => "-".to_owned(),
        };
        writeln!(
            f,
            "{:27}  {:20}  {:>9}  {:>9}  {:>9}  {:>10}",
            "CONTAINER", "VM", "WAITED", "RAN", "EXIT", "COST"
        )?;
        for row in &self.rows {
            writeln!(
                f,
                "{:27}  {:20}  {:>9}  {:>9}  {:>9}  {:>10}",
                row.uuid,
                row.instance.as_deref().unwrap_or("-"),
                seconds(row.waited),
                seconds(row.ran),
                row.end,
                format!("${:.6}", row.cost),
            )?;
        }
        let millis = |percent| match self.percentile(percent) {
            Some(d) => format!("{:.0} ms", d.as_secs_f64() * 1e3),
            None => "-".to_owned(),
        };
        writeln!(f)?;
        writeln!(
            f,
            "{} containers in {:.1} s on {} VMs, {:.4} VM hours, {}",
            self.rows.len(),
            self.took.as_secs_f64(),
            self.vms,
            self.vm_time.as_secs_f64() / 3600.0,
            self.vm_cost,
        )?;
        write!(
            f,
            "queued to started on a ready VM: p50 {}, p99 {}",
            millis(50),
            millis(99)
        )?;
        if self.lost > 0 {
            write!(
                f,
                "\n{} events were lost and are not counted here",
                self.lost
            )?;
        }
        match &self.chaos {
            Some(verdict) => write!(f, "\n\n{verdict}"),
            None => Ok(()),
        }
    }
}
