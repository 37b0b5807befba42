//! What is submitted.

use serde_json::{Value, json};

/// A container to be.
#[derive(Clone, Debug)]
pub struct Container {
    record: Value,
}

impl Container {
    /// Runs a script by `sh`, on one core and 64 MiB.
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

    /// With so many cores.
    #[must_use]
    pub fn vcpus(mut self, count: u32) -> Self {
        self.record["runtime_constraints"]["vcpus"] = count.into();
        self
    }

    /// With another attribute.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.record[name] = value.into();
        self
    }

    /// As the API takes it.
    #[must_use]
    pub fn body(&self) -> Value {
        json!({ "container": self.record })
    }
}
