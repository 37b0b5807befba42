//! Validation of new containers; each error has the path, the expected and the given value.

use rusqlite::types::Value as Sql;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::params::{shown, wrong};
use crate::token::Caller;

/// Highest priority for users.
pub(crate) const PRIORITY_MAX_USER: i64 = 1000;
/// Default priority.
const PRIORITY_DEFAULT: i64 = 500;
/// Bytes of RAM above which a request without any CPU is refused as malformed.
const RAM_WITHOUT_CPU_MAX: i64 = 1 << 60;

const ATTRIBUTES: &str = "name, owner, state, priority, command, environment, cwd, output_path, mounts, container_image, runtime_constraints, scheduling_parameters";
const CONSTRAINTS: &str =
    "vcpus, ram, keep_cache_ram, keep_cache_disk, API, gpu, instance_image_id";
const GPU: &str = "stack, driver_version, hardware_target, device_count, vram";
const SCHEDULING: &str = "partitions, preemptible, max_run_time, supervisor";

/// Checked columns of a new container.
pub(crate) fn new_container(
    wish: &Map<String, Value>,
    caller: &Caller,
) -> Result<Vec<(&'static str, Sql)>, ApiError> {
    known_keys("container", wish, ATTRIBUTES)?;
    if let Some(state) = wish.get("state").filter(|state| *state != "Queued") {
        return Err(wrong(
            "container.state",
            "\"Queued\", or no state at all",
            state,
        ));
    }
    let required = |name: &str| {
        wish.get(name)
            .ok_or_else(|| ApiError::invalid(format!("container.{name}: is required")))
    };
    let most = if caller.is_admin() {
        i64::MAX
    } else {
        PRIORITY_MAX_USER
    };
    let priority = match wish.get("priority") {
        None => PRIORITY_DEFAULT,
        Some(value) => priority_value("container.priority", value, most)?,
    };
    let command = required("command")?;
    check_command(command)?;
    let constraints = required("runtime_constraints")?;
    check_constraints(constraints, caller)?;
    let text = |name: &str| optional_text(wish, name);
    Ok(vec![
        ("owner", Sql::Text(owner(wish, caller)?)),
        ("name", Sql::Text(text("name")?)),
        ("priority", Sql::Integer(priority)),
        ("command", Sql::Text(command.to_string())),
        (
            "environment",
            object(wish, "environment", check_environment)?,
        ),
        ("cwd", Sql::Text(text("cwd")?)),
        ("output_path", Sql::Text(text("output_path")?)),
        ("mounts", object(wish, "mounts", check_mounts)?),
        ("container_image", Sql::Text(text("container_image")?)),
        ("runtime_constraints", Sql::Text(constraints.to_string())),
        (
            "scheduling_parameters",
            object(wish, "scheduling_parameters", check_scheduling)?,
        ),
    ])
}

/// Integer from 0 to `most`.
pub(crate) fn priority_value(path: &str, value: &Value, most: i64) -> Result<i64, ApiError> {
    value
        .as_i64()
        .filter(|priority| (0..=most).contains(priority))
        .ok_or_else(|| wrong(path, &format!("an integer of 0 to {most}"), value))
}

/// String acceptable for a system call (no NUL byte).
pub(crate) fn text_value(path: &str, value: &Value) -> Result<String, ApiError> {
    match value {
        Value::String(text) if text.contains('\0') => Err(ApiError::invalid(format!(
            "{path}: expected a string without the character NUL"
        ))),
        Value::String(text) => Ok(text.clone()),
        other => Err(wrong(path, "a string", other)),
    }
}

fn owner(wish: &Map<String, Value>, caller: &Caller) -> Result<String, ApiError> {
    match wish.get("owner") {
        None => Ok(caller.owner.clone()),
        Some(value) => {
            let name = text_value("container.owner", value)?;
            if name.is_empty() {
                return Err(wrong("container.owner", "a name", value));
            }
            if name != caller.owner && !caller.is_admin() {
                return Err(ApiError::forbidden(format!(
                    "container.owner: only an admin may create containers of another owner than {:?}",
                    caller.owner
                )));
            }
            Ok(name)
        }
    }
}

fn check_command(value: &Value) -> Result<(), ApiError> {
    let path = "container.command";
    let words = value
        .as_array()
        .filter(|words| !words.is_empty())
        .ok_or_else(|| {
            wrong(
                path,
                "a non-empty array of strings, for example [\"echo\", \"hello\"]",
                value,
            )
        })?;
    for (at, word) in words.iter().enumerate() {
        let path = format!("{path}[{at}]");
        let text = text_value(&path, word)?;
        if at == 0 && text.is_empty() {
            return Err(wrong(&path, "the name of a program", word));
        }
    }
    Ok(())
}

fn check_environment(path: &str, environment: &Map<String, Value>) -> Result<(), ApiError> {
    for (name, value) in environment {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(ApiError::invalid(format!(
                "{path}: expected names of variables without '=' and NUL, got {}",
                shown(&Value::from(name.as_str()))
            )));
        }
        text_value(&format!("{path}.{name}"), value)?;
    }
    Ok(())
}

fn check_mounts(path: &str, mounts: &Map<String, Value>) -> Result<(), ApiError> {
    for (place, mount) in mounts {
        let at = format!("{path}[{}]", shown(&Value::from(place.as_str())));
        let is_stream = matches!(place.as_str(), "stdin" | "stdout" | "stderr");
        if !is_stream && (!place.starts_with('/') || place.contains('\0')) {
            return Err(ApiError::invalid(format!(
                "{at}: expected an absolute path, stdin, stdout or stderr"
            )));
        }
        let Value::Object(mount) = mount else {
            return Err(wrong(
                &at,
                "an object like {\"kind\": \"tmp\", \"capacity\": 1000000000}",
                mount,
            ));
        };
        let kind = mount.get("kind").unwrap_or(&Value::Null);
        if kind.as_str().is_none_or(str::is_empty) {
            return Err(wrong(
                &format!("{at}.kind"),
                "the kind of the mount, for example \"tmp\"",
                kind,
            ));
        }
        integer(&at, mount, "capacity", 0)?;
    }
    Ok(())
}

fn check_constraints(value: &Value, caller: &Caller) -> Result<(), ApiError> {
    let path = "container.runtime_constraints";
    let Value::Object(constraints) = value else {
        return Err(wrong(
            path,
            "an object like {\"vcpus\": 1, \"ram\": 1000000000}",
            value,
        ));
    };
    known_keys(path, constraints, CONSTRAINTS)?;
    let required = |name: &str, least: i64| {
        integer(path, constraints, name, least)?.ok_or_else(|| {
            ApiError::invalid(format!(
                "{path}.{name}: is required: an integer of at least {least}"
            ))
        })
    };
    let vcpus = required("vcpus", 0)?;
    let ram = required("ram", 1)?;
    if vcpus == 0 && ram > RAM_WITHOUT_CPU_MAX {
        return Err(ApiError::invalid(format!(
            "{path}.ram: expected at most {RAM_WITHOUT_CPU_MAX} bytes with vcpus 0, got {ram}"
        )));
    }
    integer(path, constraints, "keep_cache_ram", 0)?;
    integer(path, constraints, "keep_cache_disk", 0)?;
    boolean(path, constraints, "API")?;
    if let Some(image) = constraints.get("instance_image_id") {
        let path = format!("{path}.instance_image_id");
        if text_value(&path, image)?.is_empty() {
            return Err(wrong(&path, "the name of an image", image));
        }
        if !caller.is_admin() {
            return Err(ApiError::forbidden(format!(
                "{path}: only an admin may choose the image of the instance"
            )));
        }
    }
    match constraints.get("gpu") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Object(gpu)) => check_gpu(&format!("{path}.gpu"), gpu),
        Some(other) => Err(wrong(&format!("{path}.gpu"), "an object", other)),
    }
}

fn check_gpu(path: &str, gpu: &Map<String, Value>) -> Result<(), ApiError> {
    known_keys(path, gpu, GPU)?;
    for name in ["stack", "driver_version"] {
        if let Some(value) = gpu.get(name) {
            text_value(&format!("{path}.{name}"), value)?;
        }
    }
    if let Some(targets) = gpu.get("hardware_target") {
        texts(&format!("{path}.hardware_target"), targets)?;
    }
    integer(path, gpu, "device_count", 0)?;
    integer(path, gpu, "vram", 0)?;
    Ok(())
}

fn check_scheduling(path: &str, scheduling: &Map<String, Value>) -> Result<(), ApiError> {
    known_keys(path, scheduling, SCHEDULING)?;
    boolean(path, scheduling, "preemptible")?;
    boolean(path, scheduling, "supervisor")?;
    integer(path, scheduling, "max_run_time", 0)?;
    match scheduling.get("partitions") {
        None | Some(Value::Null) => Ok(()),
        Some(partitions) => texts(&format!("{path}.partitions"), partitions),
    }
}

fn known_keys(path: &str, map: &Map<String, Value>, known: &str) -> Result<(), ApiError> {
    match map
        .keys()
        .find(|key| !known.split(", ").any(|name| name == key.as_str()))
    {
        None => Ok(()),
        Some(key) => {
            let key: String = key.chars().take(80).collect();
            Err(ApiError::invalid(format!(
                "{path}.{key}: is not known here: expected {known}"
            )))
        }
    }
}

/// Optional integer of at least `least`.
fn integer(
    path: &str,
    map: &Map<String, Value>,
    name: &str,
    least: i64,
) -> Result<Option<i64>, ApiError> {
    match map.get(name) {
        None => Ok(None),
        Some(value) => match value.as_i64() {
            Some(number) if number >= least => Ok(Some(number)),
            _ => Err(wrong(
                &format!("{path}.{name}"),
                &format!("an integer of at least {least}"),
                value,
            )),
        },
    }
}

fn boolean(path: &str, map: &Map<String, Value>, name: &str) -> Result<(), ApiError> {
    match map.get(name) {
        None | Some(Value::Bool(_)) => Ok(()),
        Some(other) => Err(wrong(&format!("{path}.{name}"), "true or false", other)),
    }
}

fn texts(path: &str, value: &Value) -> Result<(), ApiError> {
    let items = value
        .as_array()
        .ok_or_else(|| wrong(path, "an array of strings", value))?;
    for (at, item) in items.iter().enumerate() {
        text_value(&format!("{path}[{at}]"), item)?;
    }
    Ok(())
}

fn optional_text(wish: &Map<String, Value>, name: &str) -> Result<String, ApiError> {
    match wish.get(name) {
        None => Ok(String::new()),
        Some(value) => text_value(&format!("container.{name}"), value),
    }
}

/// Optional object as JSON text; `{}` if absent.
fn object(
    wish: &Map<String, Value>,
    name: &str,
    check: fn(&str, &Map<String, Value>) -> Result<(), ApiError>,
) -> Result<Sql, ApiError> {
    let path = format!("container.{name}");
    match wish.get(name) {
        None => Ok(Sql::Text("{}".to_owned())),
        Some(value @ Value::Object(map)) => {
            check(&path, map)?;
            Ok(Sql::Text(value.to_string()))
        }
        Some(other) => Err(wrong(&path, "an object", other)),
    }
}
