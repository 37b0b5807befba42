//! Container record: fields, conversion of rows to JSON, and field selection.

use rusqlite::types::ValueRef;
use rusqlite::{OptionalExtension as _, Row, Transaction};
use serde_json::{Map, Value};

use crate::clock;
use crate::error::ApiError;
use crate::params::wrong;

/// Storage and presentation of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Integer,
    Real,
    /// Nanoseconds in the database, RFC 3339 outside.
    Time,
    /// JSON text in the database.
    Json,
}

/// Field of the record; the column has the same name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
}

const fn field(name: &'static str, kind: Kind) -> Field {
    Field { name, kind }
}

/// All fields, in the order of the answers.
pub(crate) const FIELDS: &[Field] = &[
    field("uuid", Kind::Text),
    field("owner", Kind::Text),
    field("name", Kind::Text),
    field("state", Kind::Text),
    field("priority", Kind::Integer),
    field("locked_by_uuid", Kind::Text),
    field("auth_uuid", Kind::Text),
    field("lock_count", Kind::Integer),
    field("created_at", Kind::Time),
    field("modified_at", Kind::Time),
    field("started_at", Kind::Time),
    field("finished_at", Kind::Time),
    field("command", Kind::Json),
    field("environment", Kind::Json),
    field("cwd", Kind::Text),
    field("output_path", Kind::Text),
    field("mounts", Kind::Json),
    field("container_image", Kind::Text),
    field("runtime_constraints", Kind::Json),
    field("scheduling_parameters", Kind::Json),
    field("runtime_status", Kind::Json),
    field("exit_code", Kind::Integer),
    field("output", Kind::Text),
    field("log", Kind::Text),
    field("gateway_address", Kind::Text),
    field("cost", Kind::Real),
];

pub(crate) fn find_field(name: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.name == name)
}

/// States of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Queued,
    Locked,
    Running,
    Complete,
    Cancelled,
}

impl State {
    pub(crate) const ALL: [Self; 5] = [
        Self::Queued,
        Self::Locked,
        Self::Running,
        Self::Complete,
        Self::Cancelled,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Queued => "Queued",
            Self::Locked => "Locked",
            Self::Running => "Running",
            Self::Complete => "Complete",
            Self::Cancelled => "Cancelled",
        }
    }

    pub(crate) fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// True for Locked and Running: a token holds the lock.
    pub(crate) fn is_held(self) -> bool {
        matches!(self, Self::Locked | Self::Running)
    }

    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Complete | Self::Cancelled)
    }
}

/// Selected fields, in the requested order.
#[derive(Clone, Debug)]
pub(crate) struct Select(Vec<&'static Field>);

impl Select {
    pub(crate) fn all() -> Self {
        Self(FIELDS.iter().collect())
    }

    pub(crate) fn of(names: &[&str]) -> Self {
        Self(names.iter().filter_map(|name| find_field(name)).collect())
    }

    /// Parses the `select` parameter: an array of field names.
    pub(crate) fn parse(value: &Value) -> Result<Self, ApiError> {
        let Value::Array(names) = value else {
            return Err(wrong("select", "an array of field names", value));
        };
        let mut fields: Vec<&'static Field> = Vec::new();
        for (at, name) in names.iter().enumerate() {
            let path = format!("select[{at}]");
            let text = name
                .as_str()
                .ok_or_else(|| wrong(&path, "a field name", name))?;
            let field = find_field(text).ok_or_else(|| {
                wrong(&path, "a field of a container, for example \"uuid\"", name)
            })?;
            if !fields.contains(&field) {
                fields.push(field);
            }
        }
        if fields.is_empty() {
            return Err(wrong("select", "at least one field name", value));
        }
        Ok(Self(fields))
    }

    /// Column list for a SELECT.
    pub(crate) fn columns(&self) -> String {
        let names: Vec<&str> = self.0.iter().map(|field| field.name).collect();
        names.join(", ")
    }

    /// JSON of a row read with [`Self::columns`].
    pub(crate) fn to_json(&self, row: &Row<'_>) -> Result<Map<String, Value>, ApiError> {
        let mut map = Map::new();
        for (at, field) in self.0.iter().enumerate() {
            map.insert(field.name.to_owned(), shown_value(field, row.get_ref(at)?)?);
        }
        Ok(map)
    }

    /// Selected fields of a full record.
    pub(crate) fn pick(&self, full: &Map<String, Value>) -> Map<String, Value> {
        self.0
            .iter()
            .filter_map(|field| Some((field.name.to_owned(), full.get(field.name)?.clone())))
            .collect()
    }
}

fn shown_value(field: &Field, value: ValueRef<'_>) -> Result<Value, ApiError> {
    let broken = || {
        ApiError::internal(format!(
            "column {} holds a value of a wrong type",
            field.name
        ))
    };
    Ok(match (field.kind, value) {
        (_, ValueRef::Null) => Value::Null,
        (Kind::Time, ValueRef::Integer(ns)) => Value::String(clock::format(ns)),
        (Kind::Integer, ValueRef::Integer(number)) => Value::from(number),
        (Kind::Real, ValueRef::Real(number)) => Value::from(number),
        (Kind::Text, ValueRef::Text(text)) => {
            Value::String(std::str::from_utf8(text).map_err(|_| broken())?.to_owned())
        }
        (Kind::Json, ValueRef::Text(text)) => serde_json::from_slice(text).map_err(|_| broken())?,
        _ => return Err(broken()),
    })
}

/// Container before a change.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) uuid: String,
    pub(crate) owner: String,
    pub(crate) state: State,
    pub(crate) priority: i64,
    pub(crate) locked_by_uuid: Option<String>,
    pub(crate) auth_uuid: Option<String>,
    pub(crate) lock_count: i64,
    /// All fields in presentation form.
    pub(crate) json: Map<String, Value>,
}

impl Record {
    pub(crate) fn load(tx: &Transaction<'_>, uuid: &str) -> Result<Option<Self>, ApiError> {
        let select = Select::all();
        let sql = format!(
            "SELECT {} FROM containers WHERE uuid = ?1",
            select.columns()
        );
        let json = tx
            .prepare_cached(&sql)?
            .query_row([uuid], |row| Ok(select.to_json(row)))
            .optional()?;
        match json {
            None => Ok(None),
            Some(json) => Ok(Some(Self::from_json(json?)?)),
        }
    }

    fn from_json(json: Map<String, Value>) -> Result<Self, ApiError> {
        let text = |name: &str| json.get(name).and_then(Value::as_str).map(str::to_owned);
        let number = |name: &str| json.get(name).and_then(Value::as_i64);
        let parts = (
            text("uuid"),
            text("owner"),
            text("state").as_deref().and_then(State::find),
            number("priority"),
            number("lock_count"),
        );
        let (Some(uuid), Some(owner), Some(state), Some(priority), Some(lock_count)) = parts else {
            return Err(ApiError::internal(
                "a container record lacks its base fields",
            ));
        };
        let (locked_by_uuid, auth_uuid) = (text("locked_by_uuid"), text("auth_uuid"));
        Ok(Self {
            uuid,
            owner,
            state,
            priority,
            locked_by_uuid,
            auth_uuid,
            lock_count,
            json,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn select_names_the_unknown_field() {
        assert_eq!(
            Select::parse(&json!(["uuid", "state", "uuid"]))
                .unwrap()
                .columns(),
            "uuid, state"
        );
        let error = Select::parse(&json!(["uuid", "secret"])).unwrap_err();
        assert!(
            error.message.starts_with("select[1]: expected a field"),
            "{}",
            error.message
        );
        assert!(Select::parse(&json!([])).is_err());
        assert!(Select::parse(&json!("uuid")).is_err());
    }
}
