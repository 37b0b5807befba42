//! Lists of containers: filters, order and pages, bounded by count and by size.

use rusqlite::types::Value as Sql;
use rusqlite::{Transaction, params_from_iter};
use serde_json::Value;

use crate::error::ApiError;
use crate::filter::{Where, order_by};
use crate::params::{Params, wrong};
use crate::record::Select;
use crate::token::{Caller, Scope};

/// Default number of records.
const LIMIT_DEFAULT: u64 = 100;

/// Validated list request.
#[derive(Debug)]
pub(crate) struct Query {
    condition: Where,
    order: String,
    select: Select,
    limit: u64,
    offset: u64,
    with_count: bool,
}

impl Query {
    pub(crate) fn parse(
        params: &Params,
        caller: &Caller,
        max_items: u32,
    ) -> Result<Self, ApiError> {
        let mut condition = Where::default();
        match &caller.scope {
            Scope::Container(uuid) => condition.equals("uuid", uuid),
            Scope::Person(_) if caller.is_user() => condition.equals("owner", &caller.owner),
            Scope::Person(_) => {}
        }
        if let Some(filters) = params.json("filters")? {
            condition.add_filters(&filters)?;
        }
        let with_count = match params.text("count")? {
            None | Some("" | "exact") => true,
            Some("none") => false,
            Some(other) => return Err(wrong("count", "none or exact", &Value::from(other))),
        };
        Ok(Self {
            condition,
            order: order_by(params.array_or_text("order")?.as_ref())?,
            select: params
                .json("select")?
                .map_or_else(|| Ok(Select::all()), |v| Select::parse(&v))?,
            limit: params
                .count("limit")?
                .unwrap_or(LIMIT_DEFAULT)
                .min(u64::from(max_items)),
            offset: params.count("offset")?.unwrap_or(0),
            with_count,
        })
    }

    /// Runs the query and writes the JSON of the answer. A page may be short: it ends with the
    /// record that exceeds `max_bytes`.
    pub(crate) fn run(&self, tx: &Transaction<'_>, max_bytes: usize) -> Result<Vec<u8>, ApiError> {
        let mut body = br#"{"items":["#.to_vec();
        let clause = self.condition.sql();
        let sql = format!(
            "SELECT {} FROM containers{clause} ORDER BY {} LIMIT ? OFFSET ?",
            self.select.columns(),
            self.order
        );
        let mut values = self.condition.values.clone();
        values.push(Sql::Integer(i64::try_from(self.limit).unwrap_or(i64::MAX)));
        values.push(Sql::Integer(i64::try_from(self.offset).unwrap_or(i64::MAX)));
        let mut statement = tx.prepare_cached(&sql)?;
        let mut rows = statement.query(params_from_iter(values))?;
        let mut is_first = true;
        while let Some(row) = rows.next()? {
            if !is_first {
                body.push(b',');
            }
            is_first = false;
            serde_json::to_writer(&mut body, &self.select.to_json(row)?)
                .map_err(|e| ApiError::internal(format!("writing JSON: {e}")))?;
            if body.len() > max_bytes {
                break;
            }
        }
        body.extend_from_slice(
            format!(r#"],"limit":{},"offset":{}"#, self.limit, self.offset).as_bytes(),
        );
        if self.with_count {
            let sql = format!("SELECT count(*) FROM containers{clause}");
            let count: i64 = tx
                .prepare_cached(&sql)?
                .query_row(params_from_iter(self.condition.values.iter()), |row| {
                    row.get(0)
                })?;
            body.extend_from_slice(format!(r#","items_available":{count}"#).as_bytes());
        }
        body.push(b'}');
        Ok(body)
    }
}
