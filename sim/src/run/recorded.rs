//! Reader of recorded workloads: JSON lines, one container per line.
//!
//! ```
//! use longshore_sim::read_workload;
//!
//! let text = r#"{"at": 0, "vcpus": 2, "ram": 4000000000, "duration": 300}"#;
//! assert_eq!(read_workload(text).unwrap().len(), 1);
//! let error = read_workload(r#"{"at": 0, "vcpus": 2, "ram": 1, "duratoin": 300}"#).unwrap_err();
//! assert!(error.to_string().starts_with("line 1: \"duratoin\" is not known"));
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use longshore_core::ids::{ContainerId, ImageId};
use longshore_core::resources::{Demand, GpuDemand};
use serde_json::{Map, Value};

use crate::world::workload::Arrival;

/// Error in a workload file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct WorkloadError {
    /// Line number, from 1.
    pub line: usize,
    /// Field, found value and expected value.
    pub what: String,
}

/// Known fields of a line.
const FIELDS: &[&str] = &[
    "at",
    "uuid",
    "vcpus",
    "ram",
    "keep_cache_ram",
    "keep_cache_disk",
    "tmp",
    "image_size",
    "gpu",
    "preemptible",
    "supervisor",
    "vm_image",
    "priority",
    "duration",
    "cancel_after",
    "parent",
];

/// Upper bound of times, ten years: free of overflow in all time arithmetic.
const SECONDS_MAX: f64 = 10.0 * 365.0 * 86_400.0;

/// Reads a workload; empty lines are skipped.
///
/// Each line is an object with `at` (seconds since the beginning), `vcpus`, `ram` (bytes) and
/// `duration` (run time of the program in seconds). Optional fields: `uuid`, `priority` (500),
/// `preemptible` and `supervisor` (false), `tmp`, `keep_cache_ram`, `keep_cache_disk` and
/// `image_size` (bytes, 0), `gpu` (an object with `stack`, `driver`, `targets`, `count` and
/// `vram`), `vm_image`, `cancel_after` (seconds after `at`) and `parent` (the `uuid` of an earlier
/// line; the parent ends after all its children).
///
/// # Errors
/// An error for the first invalid line.
pub fn read_workload(text: &str) -> Result<Vec<Arrival>, WorkloadError> {
    let mut arrivals = Vec::new();
    let mut names = BTreeSet::new();
    for (index, row) in text.lines().enumerate() {
        if row.trim().is_empty() {
            continue;
        }
        let line = index + 1;
        let arrival = read_line(row).and_then(|arrival| check_names(arrival, &mut names));
        arrivals.push(arrival.map_err(|what| WorkloadError { line, what })?);
    }
    Ok(arrivals)
}

fn check_names(arrival: Arrival, names: &mut BTreeSet<ContainerId>) -> Result<Arrival, String> {
    if let Some(parent) = arrival.parent
        && !names.contains(&parent)
    {
        return Err(format!(
            "parent: no earlier line has the uuid {parent}: put the parent before its children"
        ));
    }
    match arrival.id {
        Some(id) if !names.insert(id) => Err(format!("uuid: {id} stands twice")),
        _ => Ok(arrival),
    }
}

fn read_line(row: &str) -> Result<Arrival, String> {
    let value: Value = serde_json::from_str(row).map_err(|e| format!("not JSON: {e}"))?;
    let Value::Object(fields) = value else {
        return Err(format!("expected an object, found {value}"));
    };
    if let Some(name) = fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        let known = FIELDS.join(", ");
        return Err(format!("{name:?} is not known: expected one of {known}"));
    }
    let fields = Fields(fields);
    let demand = Demand {
        vcpus: u32::try_from(fields.number("vcpus", None)?)
            .map_err(|_| "vcpus: expected at most 4294967295".to_owned())?,
        ram: fields.number("ram", None)?,
        keep_cache_ram: fields.number("keep_cache_ram", Some(0))?,
        keep_cache_disk: fields.number("keep_cache_disk", Some(0))?,
        tmp: fields.number("tmp", Some(0))?,
        image_size: fields.number("image_size", Some(0))?,
        gpu: fields.gpu()?,
        preemptible: fields.flag("preemptible")?,
        supervisor: fields.flag("supervisor")?,
        vm_image: fields.text("vm_image")?.map(ImageId::from),
    };
    let at = fields.seconds("at")?;
    let runs_for = fields.seconds("duration")?;
    Ok(Arrival {
        at: at.ok_or("at: is missing: the seconds since the beginning")?,
        id: fields.uuid("uuid")?,
        demand,
        priority: fields.number("priority", Some(500))?,
        runs_for: runs_for.ok_or("duration: is missing: the seconds that it runs")?,
        cancel_after: fields.seconds("cancel_after")?,
        parent: fields.uuid("parent")?,
    })
}

/// Fields of one line; null counts as absent.
struct Fields(Map<String, Value>);

impl Fields {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn number(&self, name: &str, default: Option<u64>) -> Result<u64, String> {
        let Some(value) = self.get(name) else {
            return default.ok_or_else(|| format!("{name}: is missing: a whole number"));
        };
        let wrong = || format!("{name}: expected a whole number of at least 0, found {value}");
        value.as_u64().ok_or_else(wrong)
    }

    fn seconds(&self, name: &str) -> Result<Option<Duration>, String> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let seconds = value.as_f64().filter(|s| (0.0..=SECONDS_MAX).contains(s));
        let seconds = seconds.ok_or_else(|| {
            format!("{name}: expected seconds from 0 to ten years, found {value}")
        })?;
        Ok(Some(Duration::from_secs_f64(seconds)))
    }

    fn flag(&self, name: &str) -> Result<bool, String> {
        let Some(value) = self.get(name) else {
            return Ok(false);
        };
        let wrong = || format!("{name}: expected true or false, found {value}");
        value.as_bool().ok_or_else(wrong)
    }

    fn text(&self, name: &str) -> Result<Option<&str>, String> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let wrong = || format!("{name}: expected a string, found {value}");
        value.as_str().ok_or_else(wrong).map(Some)
    }

    fn uuid(&self, name: &str) -> Result<Option<ContainerId>, String> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let wrong = |_| {
            format!(
                "{name}: expected a container's uuid like zzzzz-dz642-0123456789abcde, found {text:?}"
            )
        };
        text.parse().map_err(wrong).map(Some)
    }

    fn gpu(&self) -> Result<Option<GpuDemand>, String> {
        let Some(value) = self.get("gpu") else {
            return Ok(None);
        };
        let read = serde_json::from_value(value.clone());
        read.map(Some).map_err(|error| format!("gpu: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(row: &str) -> String {
        let good = r#"{"at": 0, "vcpus": 1, "ram": 1, "duration": 1, "uuid": "zzzzz-dz642-000000000000001"}"#;
        read_workload(&format!("{good}\n\n{row}"))
            .expect_err("line is invalid")
            .to_string()
    }

    #[test]
    fn workload_all_fields_parsed() {
        let text = r#"
            {"at": 1.5, "uuid": "zzzzz-dz642-00000000000000a", "vcpus": 1, "ram": 1, "duration": 9, "supervisor": true}
            {"at": 2, "vcpus": 4, "ram": 8000000000, "tmp": 5, "keep_cache_ram": 6, "keep_cache_disk": 7, "image_size": 8, "preemptible": true, "priority": 3, "duration": 60.25, "cancel_after": 30, "parent": "zzzzz-dz642-00000000000000a", "vm_image": "image-2", "gpu": {"stack": "cuda", "driver": {"major": 12, "minor": 0}, "targets": ["8.0"], "count": 1, "vram": 9}}"#;
        let arrivals = read_workload(text).expect("workload is valid");
        let [parent, child] = arrivals.as_slice() else {
            panic!("{arrivals:?}");
        };
        assert!(parent.demand.supervisor);
        assert_eq!(parent.at, Duration::from_millis(1500));
        assert_eq!(parent.priority, 500);
        assert_eq!(child.parent, parent.id);
        assert_eq!(child.demand.vcpus, 4);
        assert_eq!(child.demand.image_size, 8);
        assert_eq!(child.demand.gpu.as_ref().map(|gpu| gpu.vram), Some(9));
        assert_eq!(child.runs_for, Duration::from_millis(60_250));
        assert_eq!(child.cancel_after, Some(Duration::from_secs(30)));
    }

    #[test]
    fn workload_error_names_line_and_field() {
        let cases = [
            (r#"{"at": 0"#, "line 3: not JSON"),
            (r#"[1]"#, "line 3: expected an object"),
            (
                r#"{"at": 0, "ram": 1, "duration": 1}"#,
                "line 3: vcpus: is missing",
            ),
            (
                r#"{"at": 0, "vcpus": 1.5, "ram": 1, "duration": 1}"#,
                "line 3: vcpus: expected a whole",
            ),
            (
                r#"{"vcpus": 1, "ram": 1, "duration": 1}"#,
                "line 3: at: is missing",
            ),
            (
                r#"{"at": -1, "vcpus": 1, "ram": 1, "duration": 1}"#,
                "line 3: at: expected seconds",
            ),
            (
                r#"{"at": 0, "vcpus": 1, "ram": 1, "duration": 1, "preemptible": 1}"#,
                "line 3: preemptible: expected true",
            ),
            (
                r#"{"at": 0, "vcpus": 1, "ram": 1, "duration": 1, "uuid": "x"}"#,
                "line 3: uuid: expected",
            ),
            (
                r#"{"at": 0, "vcpus": 1, "ram": 1, "duration": 1, "uuid": "zzzzz-dz642-000000000000001"}"#,
                "line 3: uuid: zzzzz-dz642-000000000000001 stands twice",
            ),
            (
                r#"{"at": 0, "vcpus": 1, "ram": 1, "duration": 1, "parent": "zzzzz-dz642-000000000000002"}"#,
                "line 3: parent: no earlier line",
            ),
            (
                r#"{"at": 0, "vcpus": 1, "ram": 1, "duration": 1, "gpu": {}}"#,
                "line 3: gpu: missing field",
            ),
        ];
        for (row, expected) in cases {
            let found = complaint(row);
            assert!(found.starts_with(expected), "{row}: {found}");
        }
    }
}
