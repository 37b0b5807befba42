//! Container record: the part needed by a runner.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

/// Container with a valid record.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Container {
    pub(crate) command: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) environment: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) cwd: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) runtime_constraints: Constraints,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) scheduling_parameters: Scheduling,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) runtime_status: Map<String, Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Constraints {
    /// True if the container gets its own API token.
    #[serde(rename = "API", default, deserialize_with = "or_default")]
    pub(crate) api: bool,
    /// Memory in bytes; 0 means no limit.
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) ram: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Scheduling {
    /// Time limit in seconds; 0 means no limit.
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) max_run_time: u64,
}

/// Deserializes `null` as a missing key.
fn or_default<'de, D, T>(decoder: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(decoder)?.unwrap_or_default())
}

impl Container {
    /// Parses a record. Returns a message if the record is permanently invalid.
    pub(crate) fn from_record(record: Value) -> Result<Self, String> {
        let container: Self = serde_json::from_value(record)
            .map_err(|e| format!("malformed container record: {e}"))?;
        let bad_name = |name: &&String| name.is_empty() || name.contains(['=', '\0']);
        let bad_value = |value: &&String| value.contains('\0');
        if container.command.is_empty() || container.command[0].is_empty() {
            return Err("malformed container record: command is empty".to_owned());
        }
        if let Some(word) = container.command.iter().find(bad_value) {
            return Err(format!(
                "malformed container record: command holds a NUL byte in {word:?}"
            ));
        }
        if let Some(name) = container.environment.keys().find(bad_name) {
            return Err(format!(
                "malformed container record: environment has the impossible name {name:?}"
            ));
        }
        if container
            .environment
            .values()
            .any(|value| bad_value(&value))
        {
            return Err("malformed container record: environment holds a NUL byte".to_owned());
        }
        Ok(container)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nulls_and_unknown_keys_are_accepted() -> Result<(), String> {
        let container = Container::from_record(json!({
            "command": ["true"], "environment": null, "cwd": null, "runtime_constraints": {"ram": null, "vcpus": 1},
            "scheduling_parameters": {"max_run_time": 5}, "runtime_status": null, "priority": 562_948_375_092_493_200_u64,
        }))?;
        assert_eq!(
            (
                container.runtime_constraints.ram,
                container.scheduling_parameters.max_run_time
            ),
            (0, 5)
        );
        Ok(())
    }

    #[test]
    fn invalid_record_names_reason() {
        for (record, why) in [
            (json!({"command": []}), "command is empty"),
            (json!({"command": "ls"}), "expected a sequence"),
            (json!({"command": ["a\u{0}"]}), "NUL"),
            (
                json!({"command": ["a"], "environment": {"A=B": "x"}}),
                "impossible name",
            ),
        ] {
            assert!(
                Container::from_record(record).is_err_and(|e| e.contains(why)),
                "{why}"
            );
        }
    }
}
