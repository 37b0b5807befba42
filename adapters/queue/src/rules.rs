//! State machine of container records: permitted changes by caller and state, and their
//! consequences.
//!
//! Pure functions: from a record, a caller and a request to the columns to change, or an error.

use rusqlite::types::Value as Sql;
use serde_json::{Map, Value, json};

use crate::clock;
use crate::error::ApiError;
use crate::params::wrong;
use crate::record::{Record, State, find_field};
use crate::token::{Caller, Scope};
use crate::validate::{PRIORITY_MAX_USER, priority_value, text_value};

/// Maximum bytes of JSON in `runtime_status`.
const RUNTIME_STATUS_BYTES_MAX: usize = 64 << 10;

const QUEUED: &[&str] = &["priority"];
const LOCKED: &[&str] = &["priority", "runtime_status", "log"];
const RUNNING: &[&str] = &[
    "priority",
    "gateway_address",
    "runtime_status",
    "cost",
    "log",
    "output",
    "exit_code",
];
const COMPLETE: &[&str] = &[
    "finished_at",
    "runtime_status",
    "cost",
    "log",
    "output",
    "exit_code",
];
const CANCELLED: &[&str] = &["priority", "finished_at", "runtime_status", "cost", "log"];
const CANCELLED_RUNNING: &[&str] = &[
    "priority",
    "finished_at",
    "runtime_status",
    "cost",
    "log",
    "output",
    "exit_code",
];

/// Change of the container's own token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TokenChange {
    Keep,
    /// Opens a new token with this uuid, for the new holder of the lock.
    Open(String),
    Expire,
}

/// Columns to write, and the change of the token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Patch {
    pub(crate) set: Vec<(&'static str, Sql)>,
    pub(crate) token: TokenChange,
}

impl Patch {
    fn keep() -> Self {
        Self {
            set: Vec::new(),
            token: TokenChange::Keep,
        }
    }

    fn put(&mut self, column: &'static str, value: impl Into<Sql>) {
        self.set.retain(|(name, _)| *name != column);
        self.set.push((column, value.into()));
    }
}

/// Context of a rule beside the record.
pub(crate) struct Context<'a> {
    pub(crate) now_ns: i64,
    pub(crate) max_dispatch_attempts: u32,
    /// Uuid for a new container token.
    pub(crate) fresh_token_uuid: &'a str,
}

/// Queued → Locked.
pub(crate) fn lock(
    record: &Record,
    caller: &Caller,
    context: &Context<'_>,
) -> Result<Patch, ApiError> {
    lock_at(record, caller, context, record.priority)
}

fn lock_at(
    record: &Record,
    caller: &Caller,
    context: &Context<'_>,
    priority: i64,
) -> Result<Patch, ApiError> {
    dispatchers_only(caller, "lock")?;
    if record.state != State::Queued {
        return Err(ApiError::lock_failed(format!(
            "cannot lock when {}",
            record.state.name()
        )));
    }
    if priority <= 0 {
        return Err(ApiError::lock_failed("cannot lock when priority<=0"));
    }
    let mut patch = Patch {
        set: Vec::new(),
        token: TokenChange::Open(context.fresh_token_uuid.to_owned()),
    };
    patch.put("state", State::Locked.name().to_owned());
    patch.put("locked_by_uuid", caller.token_uuid.clone());
    patch.put("auth_uuid", context.fresh_token_uuid.to_owned());
    patch.put("lock_count", record.lock_count.saturating_add(1));
    Ok(patch)
}

/// Locked → Queued, or → Cancelled after the maximum number of attempts.
pub(crate) fn unlock(
    record: &Record,
    caller: &Caller,
    context: &Context<'_>,
) -> Result<Patch, ApiError> {
    dispatchers_only(caller, "unlock")?;
    if record.state != State::Locked {
        return Err(ApiError::lock_failed(format!(
            "cannot unlock when {}",
            record.state.name()
        )));
    }
    holders_only(record, caller)?;
    Ok(give_back(record, Map::new(), context))
}

/// Running → Queued after a preemption of the container's VM: the runner is gone through no fault
/// of its own. Cancelled after the maximum number of attempts. The peer's API has no such call.
pub(crate) fn requeue(
    record: &Record,
    caller: &Caller,
    why: &str,
    context: &Context<'_>,
) -> Result<Patch, ApiError> {
    dispatchers_only(caller, "requeue")?;
    if record.state != State::Running {
        return Err(ApiError::transition(format!(
            "cannot requeue when {}",
            record.state.name()
        )));
    }
    holders_only(record, caller)?;
    let mut status = Map::new();
    status.insert("warning".to_owned(), json!("interrupted"));
    status.insert("warningDetail".to_owned(), json!(why));
    let mut patch = give_back(record, status, context);
    // The report of the last attempt does not apply to the next.
    patch.put("started_at", Sql::Null);
    patch.put("gateway_address", String::new());
    Ok(patch)
}

/// Ends an attempt without a result, with `status` in place of the attempt's own status.
fn give_back(record: &Record, mut status: Map<String, Value>, context: &Context<'_>) -> Patch {
    let mut patch = Patch {
        set: Vec::new(),
        token: TokenChange::Expire,
    };
    patch.put("locked_by_uuid", Sql::Null);
    patch.put("auth_uuid", Sql::Null);
    if record.lock_count >= i64::from(context.max_dispatch_attempts) {
        if let Some(Value::Object(before)) = record.json.get("runtime_status") {
            let why = std::mem::replace(&mut status, before.clone());
            status.extend(why);
        }
        status.insert(
            "error".to_owned(),
            json!(attempts_exceeded(record.lock_count)),
        );
        patch.put("state", State::Cancelled.name().to_owned());
        patch.put("finished_at", context.now_ns);
    } else {
        patch.put("state", State::Queued.name().to_owned());
    }
    patch.put("runtime_status", Value::Object(status).to_string());
    patch
}

/// Cancel request of a user: a Queued container is cancelled at once, a held container gets
/// priority 0 for the dispatcher to act on, a Cancelled container stays as it is.
pub(crate) fn cancel(
    record: &Record,
    caller: &Caller,
    context: &Context<'_>,
) -> Result<Patch, ApiError> {
    if matches!(caller.scope, Scope::Container(_)) {
        return Err(ApiError::forbidden(
            "a container's own token may not cancel it",
        ));
    }
    let mut patch = Patch::keep();
    match record.state {
        State::Queued => {
            patch.put("state", State::Cancelled.name().to_owned());
            patch.put("finished_at", context.now_ns);
        }
        State::Locked | State::Running => patch.put("priority", 0),
        State::Cancelled => {}
        State::Complete => return Err(ApiError::transition("cannot cancel when Complete")),
    }
    Ok(patch)
}

/// PUT request: changes of the state and of other attributes together.
pub(crate) fn update(
    record: &Record,
    caller: &Caller,
    wish: &Map<String, Value>,
    context: &Context<'_>,
) -> Result<Patch, ApiError> {
    let target = match wish.get("state") {
        None => record.state,
        Some(value) => value.as_str().and_then(State::find).ok_or_else(|| {
            wrong(
                "container.state",
                "Queued, Locked, Running, Complete or Cancelled",
                value,
            )
        })?,
    };
    check_reach(record, caller, wish, target)?;
    let mut patch = if wish.contains_key("state") {
        transition(record, caller, wish, target, context)?
    } else {
        Patch::keep()
    };
    for (name, value) in wish.iter().filter(|(name, _)| *name != "state") {
        let path = format!("container.{name}");
        let Some(field) = find_field(name) else {
            return Err(ApiError::invalid(format!(
                "{path}: there is no such attribute"
            )));
        };
        if record.json.get(name) == Some(value) {
            continue;
        }
        if !writable(record.state, target).contains(&field.name) {
            return Err(not_writable(&path, record.state, target));
        }
        check_progress_right(record, caller, field.name, target)?;
        patch.put(
            field.name,
            attribute_value(&path, field.name, value, caller)?,
        );
    }
    Ok(patch)
}

/// True if the caller is the token with the lock.
pub(crate) fn is_holder(record: &Record, caller: &Caller) -> bool {
    record.locked_by_uuid.as_deref() == Some(caller.token_uuid.as_str())
}

/// Refuses attributes beyond the reach of users and containers, in any state.
fn check_reach(
    record: &Record,
    caller: &Caller,
    wish: &Map<String, Value>,
    target: State,
) -> Result<(), ApiError> {
    match &caller.scope {
        Scope::Container(_) => {
            if target != record.state || wish.contains_key("priority") {
                return Err(ApiError::forbidden(
                    "a container's own token may report progress, not change state or priority",
                ));
            }
        }
        Scope::Person(_) if caller.is_user() => {
            let reached = wish
                .keys()
                .all(|name| name == "priority" || name == "state");
            if !reached || (target != record.state && target != State::Cancelled) {
                return Err(ApiError::forbidden(
                    "a user may change the priority, or cancel, and nothing else",
                ));
            }
        }
        Scope::Person(_) => {}
    }
    Ok(())
}

fn transition(
    record: &Record,
    caller: &Caller,
    wish: &Map<String, Value>,
    target: State,
    context: &Context<'_>,
) -> Result<Patch, ApiError> {
    use State::{Cancelled, Complete, Locked, Queued, Running};
    let mut patch = Patch::keep();
    match (record.state, target) {
        (Queued, Locked) => {
            let priority = wish
                .get("priority")
                .and_then(Value::as_i64)
                .unwrap_or(record.priority);
            return lock_at(record, caller, context, priority);
        }
        (Locked, Queued) => return unlock(record, caller, context),
        (Locked, Running) => {
            holders_only(record, caller)?;
            patch.put("started_at", context.now_ns);
        }
        (Running, Complete) => holders_only(record, caller)?,
        (Queued, Cancelled) => {}
        (Locked | Running, Cancelled) if caller.is_user() => {
            return Err(ApiError::forbidden(format!(
                "a user cannot cancel at once when {}: set the priority to 0, or POST to .../cancel",
                record.state.name()
            )));
        }
        (Locked, Cancelled) if !caller.is_admin() => holders_only(record, caller)?,
        (Locked | Running, Cancelled) => {}
        (Complete, Cancelled) if caller.is_admin() => {}
        (Complete, Cancelled) => {
            return Err(ApiError::forbidden(
                "only an admin may cancel a container that is Complete",
            ));
        }
        (Locked, Locked) if !is_holder(record, caller) => {
            return Err(ApiError::lock_failed("cannot lock when Locked"));
        }
        (Running, Running) if !repeats_start(record, caller, wish) => {
            return Err(ApiError::transition(
                "cannot change state from Running to Running: a runner has started this container before",
            ));
        }
        (from, to) if from == to => return Ok(patch),
        (from, to) => {
            return Err(ApiError::transition(format!(
                "cannot change state from {} to {}",
                from.name(),
                to.name()
            )));
        }
    }
    patch.put("state", target.name().to_owned());
    if target.is_final() {
        patch.put("finished_at", context.now_ns);
        patch.put("locked_by_uuid", Sql::Null);
        patch.put("auth_uuid", Sql::Null);
        patch.token = TokenChange::Expire;
    }
    Ok(patch)
}

/// True for a repeated start report of the same runner after a lost answer. Another runner is
/// refused, which prevents a second run of user code. The gateway address tells two runners apart.
fn repeats_start(record: &Record, caller: &Caller, wish: &Map<String, Value>) -> bool {
    let address = wish
        .get("gateway_address")
        .and_then(Value::as_str)
        .unwrap_or_default();
    is_holder(record, caller)
        && !address.is_empty()
        && record.json.get("gateway_address").and_then(Value::as_str) == Some(address)
}

fn writable(from: State, to: State) -> &'static [&'static str] {
    use State::{Cancelled, Complete, Locked, Queued, Running};
    match (from, to) {
        (Queued | Locked, Queued) => QUEUED,
        (Queued | Locked, Locked) => LOCKED,
        (Locked | Running, Running) => RUNNING,
        (Running, Complete) => COMPLETE,
        (Running, Cancelled) => CANCELLED_RUNNING,
        (Queued | Locked | Complete, Cancelled) => CANCELLED,
        _ => &[],
    }
}

fn not_writable(path: &str, from: State, to: State) -> ApiError {
    let moment = if from == to {
        format!("when {}", from.name())
    } else {
        format!("when going from {} to {}", from.name(), to.name())
    };
    match writable(from, to) {
        [] => ApiError::invalid(format!("{path}: cannot be changed {moment}: nothing can")),
        names => ApiError::invalid(format!(
            "{path}: cannot be changed {moment}: only {} can",
            names.join(", ")
        )),
    }
}

/// Refuses progress reports except from the lock holder, the container itself, and callers with the
/// right to cancel.
fn check_progress_right(
    record: &Record,
    caller: &Caller,
    name: &str,
    target: State,
) -> Result<(), ApiError> {
    let is_own = matches!(caller.scope, Scope::Container(_));
    let cancels = target == State::Cancelled && record.state != State::Cancelled;
    let locks = target == State::Locked && record.state == State::Queued;
    if name == "priority" || is_own || cancels || locks || is_holder(record, caller) {
        Ok(())
    } else {
        Err(ApiError::forbidden("locked by a different token"))
    }
}

fn attribute_value(
    path: &str,
    name: &str,
    value: &Value,
    caller: &Caller,
) -> Result<Sql, ApiError> {
    match name {
        "priority" => {
            let most = if caller.is_user() {
                PRIORITY_MAX_USER
            } else {
                i64::MAX
            };
            priority_value(path, value, most).map(Sql::Integer)
        }
        "gateway_address" => text_value(path, value).map(Sql::Text),
        "log" | "output" if value.is_null() => Ok(Sql::Null),
        "log" | "output" => text_value(path, value).map(Sql::Text),
        "exit_code" if value.is_null() => Ok(Sql::Null),
        "exit_code" => value
            .as_i64()
            .map(Sql::Integer)
            .ok_or_else(|| wrong(path, "an integer or null", value)),
        "cost" => value
            .as_f64()
            .filter(|cost| cost.is_finite() && *cost >= 0.0)
            .map(Sql::Real)
            .ok_or_else(|| wrong(path, "a number of at least 0", value)),
        "finished_at" => value
            .as_str()
            .and_then(clock::parse)
            .map(Sql::Integer)
            .ok_or_else(|| wrong(path, "a time like 2026-08-07T12:00:00Z", value)),
        "runtime_status" => runtime_status(path, value),
        other => Err(ApiError::internal(format!(
            "attribute {other} is writable but has no reader"
        ))),
    }
}

fn runtime_status(path: &str, value: &Value) -> Result<Sql, ApiError> {
    const TEXTS: [&str; 6] = [
        "error",
        "errorDetail",
        "warning",
        "warningDetail",
        "activity",
        "preemptionNotice",
    ];
    let Value::Object(status) = value else {
        return Err(wrong(path, "an object", value));
    };
    for (key, value) in status
        .iter()
        .filter(|(key, _)| TEXTS.contains(&key.as_str()))
    {
        if !value.is_string() {
            return Err(wrong(&format!("{path}.{key}"), "a string", value));
        }
    }
    let text = value.to_string();
    if text.len() > RUNTIME_STATUS_BYTES_MAX {
        return Err(ApiError::invalid(format!(
            "{path}: expected at most {RUNTIME_STATUS_BYTES_MAX} bytes of JSON, got {}",
            text.len()
        )));
    }
    Ok(Sql::Text(text))
}

fn dispatchers_only(caller: &Caller, action: &str) -> Result<(), ApiError> {
    if caller.is_dispatcher() {
        Ok(())
    } else {
        Err(ApiError::forbidden(format!(
            "only a dispatcher or an admin may {action} containers, not role {}",
            caller.role_name()
        )))
    }
}

fn holders_only(record: &Record, caller: &Caller) -> Result<(), ApiError> {
    if is_holder(record, caller) {
        Ok(())
    } else {
        Err(ApiError::forbidden("locked by a different token"))
    }
}

fn attempts_exceeded(lock_count: i64) -> String {
    format!(
        "Failed to start container.  Cancelled after exceeding 'Containers.MaxDispatchAttempts' (lock_count={lock_count})"
    )
}
