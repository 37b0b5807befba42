//! Parameters of the driver.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use longshore_driver::params::{ParamError, duration};
use serde_json::Value;

/// Parameters of the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoopbackParams {
    /// Directory of the VMs; created if absent, for the current user only (`StateDir`).
    pub state_dir: PathBuf,
    /// Program of a VM.
    pub program: VmProgram,
    /// Maximum number of VMs, over all instance sets of the state directory; a create above the
    /// maximum is a quota error (`MaxInstances`).
    pub instances_max: u32,
    /// Time from the creation of a VM until the VM opens its SSH port and has an address
    /// (`BootDelay`).
    pub boot_delay: Duration,
    /// Time a terminated VM stays listed (`TerminatedShown`).
    pub terminated_shown: Duration,
}

/// Program of a VM: must pass its last argument, a directory, to [`run_vm`](crate::run_vm).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmProgram {
    /// Path of the executable.
    pub path: PathBuf,
    /// Arguments before the directory of the VM.
    pub args: Vec<OsString>,
}

const KEYS: &str = "one of StateDir, MaxInstances, BootDelay, TerminatedShown";

impl LoopbackParams {
    /// Defaults: 8 VMs, no boot delay, terminated VMs listed for a minute.
    #[must_use]
    pub fn new(state_dir: PathBuf, program: VmProgram) -> Self {
        Self {
            state_dir,
            program,
            instances_max: 8,
            boot_delay: Duration::ZERO,
            terminated_shown: Duration::from_secs(60),
        }
    }

    /// Parses `DriverParameters`; `null` means defaults.
    ///
    /// # Errors
    /// The first key with an invalid value, or the first unknown key.
    pub fn from_json(
        value: &Value,
        default_state_dir: &Path,
        program: VmProgram,
    ) -> Result<Self, ParamError> {
        let mut params = Self::new(default_state_dir.to_owned(), program);
        let entries = match value {
            Value::Null => return Ok(params),
            Value::Object(entries) => entries,
            other => return Err(ParamError::new("", "an object", other)),
        };
        for (key, value) in entries {
            match key.as_str() {
                "StateDir" => {
                    params.state_dir = value
                        .as_str()
                        .map(PathBuf::from)
                        .filter(|dir| dir.is_absolute())
                        .ok_or_else(|| ParamError::new(key, "an absolute path", value))?;
                }
                "MaxInstances" => {
                    params.instances_max = value
                        .as_u64()
                        .and_then(|count| u32::try_from(count).ok())
                        .filter(|count| *count > 0)
                        .ok_or_else(|| ParamError::new(key, "a whole number from 1 on", value))?;
                }
                "BootDelay" => params.boot_delay = duration(key, value)?,
                "TerminatedShown" => params.terminated_shown = duration(key, value)?,
                _ => {
                    return Err(ParamError::unknown_key(key, KEYS));
                }
            }
        }
        Ok(params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: &Value) -> Result<LoopbackParams, ParamError> {
        let program = VmProgram {
            path: PathBuf::from("/bin/vm"),
            args: Vec::new(),
        };
        LoopbackParams::from_json(value, Path::new("/var/lib/x"), program)
    }

    #[test]
    fn params_every_key_is_parsed() {
        let params = read(&json!({
            "StateDir": "/tmp/y", "MaxInstances": 3, "BootDelay": "1m30s", "TerminatedShown": "500ms",
        }))
        .unwrap();
        assert_eq!(params.state_dir, Path::new("/tmp/y"));
        assert_eq!(params.instances_max, 3);
        assert_eq!(params.boot_delay, Duration::from_secs(90));
        assert_eq!(params.terminated_shown, Duration::from_millis(500));
        assert_eq!(
            read(&Value::Null).unwrap().state_dir,
            Path::new("/var/lib/x")
        );
    }

    #[test]
    fn params_invalid_value_names_key() {
        for (value, path, found) in [
            (json!([]), "DriverParameters", "[]"),
            (json!({"StateDir": 5}), "DriverParameters.StateDir", "5"),
            (
                json!({"StateDir": "x"}),
                "DriverParameters.StateDir",
                "\"x\"",
            ),
            (
                json!({"MaxInstances": 0}),
                "DriverParameters.MaxInstances",
                "0",
            ),
            (
                json!({"MaxInstances": 1.5}),
                "DriverParameters.MaxInstances",
                "1.5",
            ),
            (
                json!({"MaxInstances": 1_u64 << 32}),
                "DriverParameters.MaxInstances",
                "4294967296",
            ),
            (json!({"BootDelay": 5}), "DriverParameters.BootDelay", "5"),
            (
                json!({"TerminatedShown": "5 s"}),
                "DriverParameters.TerminatedShown",
                "\"5 s\"",
            ),
            (
                json!({"Bootdelay": "5s"}),
                "DriverParameters.Bootdelay",
                "an unknown key",
            ),
        ] {
            let error = read(&value).unwrap_err();
            assert_eq!((error.path.as_str(), error.found.as_str()), (path, found));
            assert!(error.to_string().starts_with(path), "{error}");
        }
    }
}
