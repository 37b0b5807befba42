//! Container records for submission.

use serde_json::{Value, json};

/// Container to submit.
#[derive(Clone, Debug)]
pub struct Container {
    record: Value,
}

impl Container {
    /// Container that runs a script with `sh`, on one core and 64 MiB.
    #[must_use]
    pub fn sh(script: impl AsRef<str>) -> Self {
        Self {
            record: json!({
                "command": ["sh", "-c", script.as_ref()],
                "priority": 500,
                "cwd": ".",
                "runtime_constraints": { "vcpus": 1, "ram": 64 << 20 },
            }),
        }
    }

    /// Sets the number of cores.
    #[must_use]
    pub fn vcpus(mut self, count: u32) -> Self {
        self.record["runtime_constraints"]["vcpus"] = count.into();
        self
    }

    /// Sets another attribute.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.record[name] = value.into();
        self
    }

    /// Body of the request to the API.
    #[must_use]
    pub fn body(&self) -> Value {
        json!({ "container": self.record })
    }
}
