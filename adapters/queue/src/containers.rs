//! Calls on one container, each inside the caller's transaction.

use rusqlite::types::Value as Sql;
use rusqlite::{Transaction, params_from_iter};
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::events::Change;
use crate::record::{Record, Select, State};
use crate::rules::{self, Context, Patch, TokenChange};
use crate::token::{self, Caller, Scope};
use crate::{clock, ids, validate};

/// Actions on one container.
#[derive(Debug)]
pub(crate) enum Action {
    Lock,
    Unlock,
    Cancel,
    /// Return to the queue, with the reason for the owner.
    Requeue(String),
    Update(Map<String, Value>),
}

/// Limits and names for changes.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) cluster_id: String,
    pub(crate) max_dispatch_attempts: u32,
}

/// Adds a container to the queue and returns its full record.
pub(crate) fn create(
    tx: &Transaction<'_>,
    changes: &mut Vec<Change>,
    caller: &Caller,
    wish: &Map<String, Value>,
    setup: &Setup,
) -> Result<Map<String, Value>, ApiError> {
    if matches!(caller.scope, Scope::Container(_)) {
        return Err(ApiError::forbidden(
            "a container's own token may not create containers",
        ));
    }
    let mut columns = validate::new_container(wish, caller)?;
    let (uuid, now) = (ids::container_uuid(&setup.cluster_id)?, clock::now_ns());
    columns.push(("uuid", Sql::Text(uuid.clone())));
    columns.push(("state", Sql::Text(State::Queued.name().to_owned())));
    columns.push(("created_at", Sql::Integer(now)));
    columns.push(("modified_at", Sql::Integer(now)));
    let (names, values): (Vec<&str>, Vec<Sql>) = columns.into_iter().unzip();
    let marks = vec!["?"; names.len()].join(", ");
    let sql = format!(
        "INSERT INTO containers ({}) VALUES ({marks})",
        names.join(", ")
    );
    tx.prepare_cached(&sql)?.execute(params_from_iter(values))?;
    let record = load(tx, caller, &uuid)?;
    announce(&record, changes);
    Ok(record.json)
}

/// Selected fields of one container.
pub(crate) fn get(
    tx: &Transaction<'_>,
    caller: &Caller,
    uuid: &str,
    select: &Select,
) -> Result<Map<String, Value>, ApiError> {
    Ok(select.pick(&load(tx, caller, uuid)?.json))
}

/// Applies an action and returns the full record after it.
pub(crate) fn act(
    tx: &Transaction<'_>,
    changes: &mut Vec<Change>,
    caller: &Caller,
    uuid: &str,
    action: &Action,
    setup: &Setup,
) -> Result<Map<String, Value>, ApiError> {
    let record = load(tx, caller, uuid)?;
    let fresh_token_uuid = ids::token_uuid(&setup.cluster_id)?;
    let context = Context {
        now_ns: clock::now_ns(),
        max_dispatch_attempts: setup.max_dispatch_attempts,
        fresh_token_uuid: &fresh_token_uuid,
    };
    let patch = match action {
        Action::Lock => rules::lock(&record, caller, &context)?,
        Action::Unlock => rules::unlock(&record, caller, &context)?,
        Action::Cancel => rules::cancel(&record, caller, &context)?,
        Action::Requeue(why) => rules::requeue(&record, caller, why, &context)?,
        Action::Update(wish) => rules::update(&record, caller, wish, &context)?,
    };
    if patch.set.is_empty() {
        return Ok(record.json);
    }
    apply(tx, &record, patch, context.now_ns)?;
    let after = load(tx, caller, uuid)?;
    announce(&after, changes);
    Ok(after.json)
}

/// Removes a container, its log and its tokens; returns the last record. For admins.
pub(crate) fn delete(
    tx: &Transaction<'_>,
    changes: &mut Vec<Change>,
    caller: &Caller,
    uuid: &str,
) -> Result<Map<String, Value>, ApiError> {
    let record = load(tx, caller, uuid)?;
    if !caller.is_admin() {
        return Err(ApiError::forbidden("only an admin may delete containers"));
    }
    tx.execute("DELETE FROM containers WHERE uuid = ?1", [uuid])?;
    changes.push(Change::Deleted {
        uuid: record.uuid.into(),
        owner: record.owner.into(),
    });
    Ok(record.json)
}

/// Container token with a new secret, for the holder of the lock.
pub(crate) fn auth(tx: &Transaction<'_>, caller: &Caller, uuid: &str) -> Result<Value, ApiError> {
    let record = load(tx, caller, uuid)?;
    if !rules::is_holder(&record, caller) {
        return Err(ApiError::forbidden(
            "only the token that locked the container may get its token",
        ));
    }
    let auth_uuid = record
        .auth_uuid
        .ok_or_else(|| ApiError::internal("a locked container has no token"))?;
    let secret = token::issue_container_secret(tx, &auth_uuid)?;
    Ok(json!({
        "uuid": auth_uuid,
        "api_token": secret.expose(),
        "container_uuid": record.uuid,
        "owner": record.owner,
        "scopes": ["all"],
        "expires_at": null,
    }))
}

/// Record, if visible to the caller.
pub(crate) fn load(tx: &Transaction<'_>, caller: &Caller, uuid: &str) -> Result<Record, ApiError> {
    Record::load(tx, uuid)?
        .filter(|record| caller.may_see(&record.uuid, &record.owner))
        .ok_or_else(|| ApiError::no_container(uuid))
}

fn apply(tx: &Transaction<'_>, record: &Record, patch: Patch, now_ns: i64) -> Result<(), ApiError> {
    let (mut names, mut values): (Vec<String>, Vec<Sql>) = patch
        .set
        .into_iter()
        .map(|(name, value)| (format!("{name} = ?"), value))
        .unzip();
    names.push("modified_at = ?".to_owned());
    values.push(Sql::Integer(now_ns));
    values.push(Sql::Text(record.uuid.clone()));
    let sql = format!("UPDATE containers SET {} WHERE uuid = ?", names.join(", "));
    tx.prepare_cached(&sql)?.execute(params_from_iter(values))?;
    match patch.token {
        TokenChange::Keep => {}
        TokenChange::Open(token_uuid) => {
            token::open_container_token(tx, &token_uuid, &record.uuid, &record.owner)?;
        }
        TokenChange::Expire => token::expire_container_tokens(tx, &record.uuid)?,
    }
    Ok(())
}

fn announce(record: &Record, changes: &mut Vec<Change>) {
    changes.push(Change::Record {
        uuid: record.uuid.as_str().into(),
        owner: record.owner.as_str().into(),
        state: record.state.name(),
        priority: record.priority,
    });
}
