//! Container logs: appended by the runner, stored in pieces in the database.
//!
//! Offsets count the bytes of both streams together, in the order of arrival, so one number is
//! enough to resume a read. A writer may give the position of its bytes in its stream; a request
//! repeated after a lost answer then adds no byte twice.

use rusqlite::types::Value as Sql;
use rusqlite::{OptionalExtension as _, Transaction, params, params_from_iter};
use serde_json::{Value, json};

use crate::containers;
use crate::error::ApiError;
use crate::events::Change;
use crate::params::wrong;
use crate::rules;
use crate::token::{Caller, Scope};

/// Maximum size of a piece, used to find the piece of an offset.
const PIECE_BYTES_MAX: usize = 64 << 10;
/// Size below which a piece grows in place, so that line-by-line writes make few rows.
const PIECE_BYTES_SMALL: usize = 8 << 10;

/// Output stream of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Stdout,
    Stderr,
}

impl Output {
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        match text {
            "stdout" => Ok(Self::Stdout),
            "stderr" => Ok(Self::Stderr),
            other => Err(wrong("stream", "stdout or stderr", &Value::from(other))),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    bytes: u64,
    stdout_received: u64,
    stderr_received: u64,
    is_truncated: bool,
}

/// Part of a log.
#[derive(Debug)]
pub(crate) struct Slice {
    pub(crate) data: Vec<u8>,
    /// Offset of the next read.
    pub(crate) next_offset: u64,
    /// True at the end: all bytes are read, and the container is final.
    pub(crate) is_end: bool,
}

/// Appends bytes to a log. Bytes above the limit are dropped, after one note in the log.
pub(crate) fn append(
    tx: &Transaction<'_>,
    changes: &mut Vec<Change>,
    caller: &Caller,
    uuid: &str,
    (output, position): (Output, Option<u64>),
    data: &[u8],
    max_log_bytes: u64,
) -> Result<Value, ApiError> {
    let record = containers::load(tx, caller, uuid)?;
    if !record.state.is_held() {
        return Err(ApiError::transition(format!(
            "cannot write the log when {}: only when Locked or Running",
            record.state.name()
        )));
    }
    if !matches!(caller.scope, Scope::Container(_)) && !rules::is_holder(&record, caller) {
        return Err(ApiError::forbidden(
            "only the token that locked the container, or the container's own, may write its log",
        ));
    }
    let mut totals = load_totals(tx, uuid)?;
    let received = match output {
        Output::Stdout => &mut totals.stdout_received,
        Output::Stderr => &mut totals.stderr_received,
    };
    let begin = position.unwrap_or(*received);
    let Some(known) = received.checked_sub(begin) else {
        return Err(ApiError::invalid(format!(
            "position: expected at most {received}, the bytes of {} received so far, got {begin}",
            output.name()
        )));
    };
    let data = data
        .get(usize::try_from(known).unwrap_or(usize::MAX)..)
        .unwrap_or_default();
    *received += data.len() as u64;
    let next_position = *received;
    if !data.is_empty() {
        let room =
            usize::try_from(max_log_bytes.saturating_sub(totals.bytes)).unwrap_or(usize::MAX);
        let kept = if totals.is_truncated {
            &[][..]
        } else {
            &data[..data.len().min(room)]
        };
        add(tx, uuid, output, kept, &mut totals.bytes)?;
        if kept.len() < data.len() && !totals.is_truncated {
            let note =
                format!("\n[log truncated: only its first {max_log_bytes} bytes are kept]\n");
            add(tx, uuid, output, note.as_bytes(), &mut totals.bytes)?;
            totals.is_truncated = true;
        }
        save_totals(tx, uuid, totals)?;
        changes.push(Change::Log { uuid: uuid.into() });
    }
    Ok(json!({
        "next_offset": totals.bytes,
        "next_position": next_position,
        "truncated": totals.is_truncated,
    }))
}

/// Reads at most `limit` bytes from `offset` on, of one stream or of both.
pub(crate) fn read(
    tx: &Transaction<'_>,
    caller: &Caller,
    uuid: &str,
    output: Option<Output>,
    offset: u64,
    limit: usize,
) -> Result<Slice, ApiError> {
    let record = containers::load(tx, caller, uuid)?;
    let total = load_totals(tx, uuid)?.bytes;
    let begin = i64::try_from(offset).unwrap_or(i64::MAX);
    let mut sql = "SELECT start, data FROM log_chunks \
                   WHERE container_uuid = ? AND start > ? AND start + length(data) > ?"
        .to_owned();
    let mut values = vec![
        Sql::Text(uuid.to_owned()),
        Sql::Integer(begin.saturating_sub(PIECE_BYTES_MAX as i64)),
        Sql::Integer(begin),
    ];
    if let Some(output) = output {
        sql.push_str(" AND stream = ?");
        values.push(Sql::Text(output.name().to_owned()));
    }
    sql.push_str(" ORDER BY start");
    let mut statement = tx.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut data = Vec::new();
    let mut next_offset = total.max(offset);
    while let Some(row) = rows.next()? {
        let (start, piece): (u64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let skipped = usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX);
        let fresh = piece.get(skipped..).unwrap_or_default();
        let taken = fresh.len().min(limit - data.len());
        data.extend_from_slice(&fresh[..taken]);
        if data.len() == limit {
            next_offset = start + (skipped + taken) as u64;
            break;
        }
    }
    let is_end = record.state.is_final() && next_offset >= total;
    Ok(Slice {
        data,
        next_offset,
        is_end,
    })
}

/// Stores bytes after the last piece, or in it while it is small.
fn add(
    tx: &Transaction<'_>,
    uuid: &str,
    output: Output,
    data: &[u8],
    total: &mut u64,
) -> Result<(), ApiError> {
    if data.is_empty() {
        return Ok(());
    }
    let sql = "SELECT id, stream, data FROM log_chunks WHERE container_uuid = ?1 AND start >= ?2 \
               ORDER BY start DESC LIMIT 1";
    // Only a small piece can grow, and it starts close to the end.
    let near = total.saturating_sub(PIECE_BYTES_SMALL as u64);
    let last: Option<(i64, String, Vec<u8>)> = tx
        .prepare_cached(sql)?
        .query_row(params![uuid, near], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    if let Some((id, stream, mut piece)) = last
        && stream == output.name()
        && piece.len() + data.len() <= PIECE_BYTES_MAX
    {
        piece.extend_from_slice(data);
        let sql = "UPDATE log_chunks SET data = ?2 WHERE id = ?1";
        tx.prepare_cached(sql)?.execute(params![id, piece])?;
        *total += data.len() as u64;
        return Ok(());
    }
    let sql =
        "INSERT INTO log_chunks (container_uuid, start, stream, data) VALUES (?1, ?2, ?3, ?4)";
    let mut statement = tx.prepare_cached(sql)?;
    for piece in data.chunks(PIECE_BYTES_MAX) {
        statement.execute(params![uuid, *total, output.name(), piece])?;
        *total += piece.len() as u64;
    }
    Ok(())
}

fn load_totals(tx: &Transaction<'_>, uuid: &str) -> Result<Totals, ApiError> {
    let sql = "SELECT bytes, stdout_received, stderr_received, truncated FROM log_totals WHERE container_uuid = ?1";
    let totals = tx
        .prepare_cached(sql)?
        .query_row([uuid], |row| {
            Ok(Totals {
                bytes: row.get(0)?,
                stdout_received: row.get(1)?,
                stderr_received: row.get(2)?,
                is_truncated: row.get(3)?,
            })
        })
        .optional()?;
    Ok(totals.unwrap_or_default())
}

fn save_totals(tx: &Transaction<'_>, uuid: &str, totals: Totals) -> Result<(), ApiError> {
    let sql = "INSERT OR REPLACE INTO log_totals VALUES (?1, ?2, ?3, ?4, ?5)";
    let Totals {
        bytes,
        stdout_received,
        stderr_received,
        is_truncated,
    } = totals;
    let values = params![uuid, bytes, stdout_received, stderr_received, is_truncated];
    tx.prepare_cached(sql)?.execute(values)?;
    Ok(())
}
