//! Containers of the demo, with their expected results.

use serde_json::{Value, json};

use super::chaos::Ledger;
use crate::client::Client;
use crate::commands::containers::stop;
use crate::error::{CliError, CliResult};

const CONTAINERS: &str = "/arvados/v1/containers";
const MIB: u64 = 1 << 20;
/// Page size of lists, the maximum of the demo's queue.
const PAGE: usize = 1000;

/// Purpose of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Works for a few seconds and succeeds.
    Plain,
    /// Exits with 3.
    Fails,
    /// Needs more cores than any instance type has.
    TooBig,
    /// Is cancelled by the user while running.
    CancelledRunning,
    /// Is cancelled while running, and ignores TERM.
    IgnoresTerm,
}

impl Kind {
    /// Expected state, and exit code if the container has an exit code.
    fn expected(self) -> (&'static str, Option<i64>) {
        match self {
            Self::Plain => ("Complete", Some(0)),
            Self::Fails => ("Complete", Some(3)),
            Self::TooBig | Self::CancelledRunning | Self::IgnoresTerm => ("Cancelled", None),
        }
    }

    fn to_be_cancelled(self) -> bool {
        matches!(self, Self::CancelledRunning | Self::IgnoresTerm)
    }
}

/// Container of the demo.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) kind: Kind,
    spec: Value,
    pub(super) uuid: String,
    /// Record as last listed by the queue.
    pub(super) record: Value,
    cancelled: bool,
}

impl Item {
    pub(super) fn state(&self) -> &str {
        self.record["state"].as_str().unwrap_or("Queued")
    }

    fn is_over(&self) -> bool {
        matches!(self.state(), "Complete" | "Cancelled")
    }

    /// Error of the record: reason for a result other than success.
    pub(super) fn error(&self) -> &str {
        self.record["runtime_status"]["error"]
            .as_str()
            .unwrap_or_default()
    }

    pub(super) fn as_expected(&self) -> bool {
        let (state, exit) = self.kind.expected();
        self.state() == state && (exit.is_none() || self.record["exit_code"].as_i64() == exit)
    }
}

/// All containers of the demo.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    pub(super) items: Vec<Item>,
}

impl Workload {
    /// Creates the containers; with a ledger, plain containers record begin and end.
    pub(super) fn new(count: u32, ledger: Option<&Ledger>) -> Self {
        let item = Item {
            kind: Kind::Plain,
            spec: Value::Null,
            uuid: String::new(),
            record: Value::Null,
            cancelled: false,
        };
        let mut items = vec![item; count as usize];
        let special = [
            Kind::CancelledRunning,
            Kind::IgnoresTerm,
            Kind::Fails,
            Kind::TooBig,
        ];
        // Spread evenly, so that special containers share VMs with others.
        let stride = items.len() / special.len();
        for (i, kind) in special.into_iter().enumerate() {
            items[i * stride].kind = kind;
        }
        for (number, item) in (0..).zip(&mut items) {
            item.spec = spec(number, item.kind, ledger);
        }
        Self { items }
    }

    pub(super) async fn submit(&mut self, client: &Client) -> CliResult {
        for item in &mut self.items {
            let body = json!({ "container": item.spec });
            item.record = client.post(CONTAINERS, &body).await?;
            let uuid = item.record["uuid"].as_str();
            let missing = || CliError::failed("the queue returned no uuid".to_owned());
            item.uuid = uuid.ok_or_else(missing)?.to_owned();
        }
        Ok(())
    }

    /// Reads the records of unfinished containers, and cancels running containers due for
    /// cancellation.
    pub(super) async fn poll(&mut self, client: &Client) -> CliResult {
        let open: Vec<usize> = (0..self.items.len())
            .filter(|i| !self.items[*i].is_over())
            .collect();
        for chunk in open.chunks(PAGE) {
            let uuids: Vec<&str> = chunk.iter().map(|i| &*self.items[*i].uuid).collect();
            let params = [
                ("filters", json!([["uuid", "in", uuids]]).to_string()),
                ("limit", PAGE.to_string()),
                ("count", "none".to_owned()),
            ];
            let page = client.get(CONTAINERS, &params).await?;
            for record in page["items"].as_array().into_iter().flatten() {
                let same = |i: &&usize| self.items[**i].uuid == record["uuid"];
                if let Some(i) = chunk.iter().find(same) {
                    self.items[*i].record = record.clone();
                }
            }
        }
        for item in &mut self.items {
            let due = item.kind.to_be_cancelled() && item.state() == "Running";
            if due && !std::mem::replace(&mut item.cancelled, true) {
                stop(client, &item.uuid).await?;
            }
        }
        Ok(())
    }

    pub(super) fn is_over(&self) -> bool {
        self.items.iter().all(Item::is_over)
    }

    pub(super) fn over(&self) -> u64 {
        self.items.iter().filter(|item| item.is_over()).count() as u64
    }

    pub(super) fn progress(&self) -> String {
        let count = |state| self.items.iter().filter(|i| i.state() == state).count();
        let states = ["Queued", "Locked", "Running", "Complete", "Cancelled"];
        let counts = states.map(|state| format!("{} {}", count(state), state.to_lowercase()));
        counts.join(", ")
    }
}

/// Container record to submit. Sizes and times are mixed, and the same in each run.
fn spec(number: u32, kind: Kind, ledger: Option<&Ledger>) -> Value {
    let (vcpus, ram) = match number % 10 {
        0..=5 => (1, 256 * MIB),
        6 | 7 => (2, 700 * MIB),
        8 => (1, 800 * MIB),
        _ => (4, 2000 * MIB),
    };
    let steps = 1 + number * 7 % 4;
    let script = match kind {
        Kind::Plain | Kind::TooBig => format!(
            "for step in $(seq {steps}); do echo \"step $step of {steps}\"; sleep 1; done; echo done"
        ),
        Kind::Fails => "echo 'something is wrong' >&2; exit 3".to_owned(),
        Kind::CancelledRunning => "echo 'begun'; sleep 300; echo 'never reached'".to_owned(),
        Kind::IgnoresTerm => {
            "trap '' TERM; echo 'not listening'; while :; do sleep 1; done".to_owned()
        }
    };
    let script = match (kind, ledger) {
        (Kind::Plain | Kind::Fails, Some(ledger)) => ledger.wrap(number, &script),
        _ => script,
    };
    let vcpus = if kind == Kind::TooBig { 64 } else { vcpus };
    json!({
        "name": format!("demo {number}"),
        "command": ["sh", "-c", script],
        "environment": { "LANG": "C" },
        "cwd": ".",
        "priority": 500 + number % 3 * 100,
        "runtime_constraints": { "vcpus": vcpus, "ram": ram },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workload_contains_every_kind_at_any_size() {
        for count in [4, 5, 60, 61] {
            let workload = Workload::new(count, None);
            assert_eq!(workload.items.len(), count as usize);
            for kind in [
                Kind::Fails,
                Kind::TooBig,
                Kind::CancelledRunning,
                Kind::IgnoresTerm,
            ] {
                let of_kind = workload.items.iter().filter(|item| item.kind == kind);
                assert_eq!(of_kind.count(), 1, "{kind:?} of {count}");
            }
        }
    }
}
