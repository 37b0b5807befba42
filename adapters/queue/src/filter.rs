//! Filters and orders: from the caller's JSON to SQL with bound values.
//!
//! The SQL text contains only column names from the field table; all values of the caller are
//! bound.

use rusqlite::types::Value as Sql;
use serde_json::Value;

use crate::clock;
use crate::error::ApiError;
use crate::params::{shown, wrong};
use crate::record::{Field, Kind, find_field};

const FILTERS_MAX: usize = 64;
const OPERANDS_MAX: usize = 1000;
const PATTERN_BYTES_MAX: usize = 256;
/// Maximum number of `%` in a pattern: each multiplies the cost of a match.
const PATTERN_WILDCARDS_MAX: usize = 8;
const OPERATORS: &str = "one of =, !=, <, <=, >, >=, in, not in, like, ilike";

/// Conditions and their bound values.
#[derive(Debug, Default)]
pub(crate) struct Where {
    terms: Vec<String>,
    pub(crate) values: Vec<Sql>,
}

impl Where {
    /// Adds `column = value`.
    pub(crate) fn equals(&mut self, column: &'static str, value: &str) {
        self.terms.push(format!("{column} = ?"));
        self.values.push(Sql::Text(value.to_owned()));
    }

    /// Adds the `filters` parameter: an array of `[attribute, operator, operand]`.
    pub(crate) fn add_filters(&mut self, filters: &Value) -> Result<(), ApiError> {
        let Value::Array(items) = filters else {
            return Err(wrong(
                "filters",
                "an array of [attribute, operator, operand]",
                filters,
            ));
        };
        if items.len() > FILTERS_MAX {
            return Err(wrong(
                "filters",
                &format!("at most {FILTERS_MAX} filters"),
                filters,
            ));
        }
        for (at, item) in items.iter().enumerate() {
            self.add_filter(&format!("filters[{at}]"), item)?;
        }
        Ok(())
    }

    /// Returns ` WHERE …`, or an empty text.
    pub(crate) fn sql(&self) -> String {
        if self.terms.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", self.terms.join(" AND "))
        }
    }

    fn add_filter(&mut self, path: &str, item: &Value) -> Result<(), ApiError> {
        let Some([attribute, operator, operand]) = item.as_array().map(Vec::as_slice) else {
            return Err(wrong(path, "[attribute, operator, operand]", item));
        };
        let field = attribute.as_str().and_then(filterable).ok_or_else(|| {
            wrong(
                &format!("{path}[0]"),
                "a filterable field, for example \"uuid\" or \"state\"",
                attribute,
            )
        })?;
        let name = field.name;
        let bad_operator = || wrong(&format!("{path}[1]"), OPERATORS, operator);
        let operator = operator
            .as_str()
            .ok_or_else(bad_operator)?
            .to_ascii_lowercase();
        let operand_path = format!("{path}[2]");
        match operator.as_str() {
            "=" if operand.is_null() => self.terms.push(format!("{name} IS NULL")),
            "!=" | "<>" if operand.is_null() => self.terms.push(format!("{name} IS NOT NULL")),
            "=" | "<" | "<=" | ">" | ">=" => {
                self.compare(field, &operator, &operand_path, operand)?
            }
            // A column without a value differs from every value.
            "!=" | "<>" => self.compare(field, "IS NOT", &operand_path, operand)?,
            "in" | "not in" => self.contains(field, operator == "in", &operand_path, operand)?,
            "like" | "ilike" => self.matches(field, operator == "ilike", &operand_path, operand)?,
            _ => return Err(bad_operator()),
        }
        Ok(())
    }

    fn compare(
        &mut self,
        field: &Field,
        operator: &str,
        path: &str,
        operand: &Value,
    ) -> Result<(), ApiError> {
        self.values.push(bound(field, path, operand)?);
        self.terms.push(format!("{} {operator} ?", field.name));
        Ok(())
    }

    fn contains(
        &mut self,
        field: &Field,
        within: bool,
        path: &str,
        operand: &Value,
    ) -> Result<(), ApiError> {
        let items = operand
            .as_array()
            .filter(|items| items.len() <= OPERANDS_MAX)
            .ok_or_else(|| {
                wrong(
                    path,
                    &format!("an array of at most {OPERANDS_MAX} values"),
                    operand,
                )
            })?;
        for (at, item) in items.iter().enumerate() {
            self.values
                .push(bound(field, &format!("{path}[{at}]"), item)?);
        }
        let marks = vec!["?"; items.len()].join(", ");
        let name = field.name;
        self.terms.push(if within {
            format!("{name} IN ({marks})")
        } else {
            format!("({name} NOT IN ({marks}) OR {name} IS NULL)")
        });
        Ok(())
    }

    fn matches(
        &mut self,
        field: &Field,
        any_case: bool,
        path: &str,
        operand: &Value,
    ) -> Result<(), ApiError> {
        let pattern = operand
            .as_str()
            .filter(|text| {
                text.len() <= PATTERN_BYTES_MAX
                    && text.matches('%').count() <= PATTERN_WILDCARDS_MAX
            })
            .ok_or_else(|| {
                let expected = format!(
                    "a pattern of at most {PATTERN_BYTES_MAX} bytes and {PATTERN_WILDCARDS_MAX} '%'"
                );
                wrong(path, &expected, operand)
            })?;
        if field.kind != Kind::Text {
            return Err(ApiError::invalid(format!(
                "{path}: {} is no text: like does not apply",
                field.name
            )));
        }
        if any_case {
            self.terms
                .push(format!("{} LIKE ? ESCAPE '\\'", field.name));
            self.values.push(Sql::Text(pattern.to_owned()));
        } else {
            // SQLite's LIKE ignores case, its GLOB does not.
            self.terms.push(format!("{} GLOB ?", field.name));
            self.values.push(Sql::Text(glob_of(pattern)));
        }
        Ok(())
    }
}

/// Parses the `order` parameter ("priority desc", "a, b desc" or an array of such texts) into an
/// ORDER BY list. The uuid comes last, so that equal rows have one order on every page.
pub(crate) fn order_by(order: Option<&Value>) -> Result<String, ApiError> {
    let items: Vec<Value> = match order {
        None => return Ok("created_at DESC, uuid".to_owned()),
        Some(Value::Array(items)) => items.clone(),
        Some(Value::String(text)) => text
            .split(',')
            .map(|item| Value::from(item.trim()))
            .collect(),
        Some(other) => return Err(wrong("order", "a string or an array of strings", other)),
    };
    if items.len() > 8 {
        return Err(ApiError::invalid("order: expected at most 8 fields"));
    }
    let mut parts: Vec<String> = Vec::new();
    let mut has_uuid = false;
    for (at, item) in items.iter().enumerate() {
        let expected = "a sortable field, with asc or desc behind it if you like";
        let bad = || wrong(&format!("order[{at}]"), expected, item);
        let words: Vec<&str> = item.as_str().ok_or_else(bad)?.split_whitespace().collect();
        let (name, descending) = match *words.as_slice() {
            [name] => (name, false),
            [name, way] if way.eq_ignore_ascii_case("asc") => (name, false),
            [name, way] if way.eq_ignore_ascii_case("desc") => (name, true),
            _ => return Err(bad()),
        };
        let field = filterable(name).ok_or_else(bad)?;
        has_uuid |= field.name == "uuid";
        parts.push(format!(
            "{}{}",
            field.name,
            if descending { " DESC" } else { "" }
        ));
    }
    if !has_uuid {
        parts.push("uuid".to_owned());
    }
    Ok(parts.join(", "))
}

/// Field for a filter; structured fields are readable but not comparable.
fn filterable(name: &str) -> Option<&'static Field> {
    find_field(name).filter(|field| field.kind != Kind::Json)
}

/// Operand in the form of the column. Numbers may come as text.
fn bound(field: &Field, path: &str, operand: &Value) -> Result<Sql, ApiError> {
    let converted = match (field.kind, operand) {
        (Kind::Text, Value::String(text)) => Some(Sql::Text(text.clone())),
        (Kind::Integer, Value::String(text)) => text.parse().ok().map(Sql::Integer),
        (Kind::Integer, Value::Number(number)) => number.as_i64().map(Sql::Integer),
        (Kind::Real, Value::String(text)) => text
            .parse()
            .ok()
            .filter(|n: &f64| n.is_finite())
            .map(Sql::Real),
        (Kind::Real, Value::Number(number)) => number.as_f64().map(Sql::Real),
        (Kind::Time, Value::String(text)) => clock::parse(text).map(Sql::Integer),
        _ => None,
    };
    converted.ok_or_else(|| {
        let expected = match field.kind {
            Kind::Integer => "an integer",
            Kind::Real => "a number",
            Kind::Time => "a time like 2026-08-07T12:00:00Z",
            Kind::Text | Kind::Json => "a string",
        };
        ApiError::invalid(format!(
            "{path}: expected {expected} for {}, got {}",
            field.name,
            shown(operand)
        ))
    })
}

/// GLOB pattern with the matches of a LIKE pattern (backslash as escape).
fn glob_of(like: &str) -> String {
    let mut glob = String::with_capacity(like.len() + 8);
    let mut letters = like.chars();
    let literal = |glob: &mut String, letter: char| match letter {
        '*' | '?' | '[' => glob.extend(['[', letter, ']']),
        _ => glob.push(letter),
    };
    while let Some(letter) = letters.next() {
        match letter {
            '%' => glob.push('*'),
            '_' => glob.push('?'),
            '\\' => literal(&mut glob, letters.next().unwrap_or('\\')),
            other => literal(&mut glob, other),
        }
    }
    glob
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn compile(filters: &Value) -> Result<(String, Vec<Sql>), String> {
        let mut condition = Where::default();
        condition.add_filters(filters).map_err(|e| e.message)?;
        Ok((condition.sql(), condition.values))
    }

    #[test]
    fn the_dispatchers_filters_compile() {
        let (sql, values) =
            compile(&json!([["state", "=", "Queued"], ["priority", ">", "0"]])).unwrap();
        assert_eq!(sql, " WHERE state = ? AND priority > ?");
        assert_eq!(values, [Sql::Text("Queued".into()), Sql::Integer(0)]);
        let (sql, _) = compile(&json!([
            ["uuid", "in", ["a", "b"]],
            ["locked_by_uuid", "=", null]
        ]))
        .unwrap();
        assert_eq!(sql, " WHERE uuid IN (?, ?) AND locked_by_uuid IS NULL");
        assert_eq!(compile(&json!([])).unwrap().0, "");
    }

    #[test]
    fn each_wrong_filter_is_named() {
        let cases = [
            (json!({}), "filters: expected an array"),
            (json!([["state", "="]]), "filters[0]: expected [attribute"),
            (
                json!([["state", "=", "Queued"], ["nope", "=", 1]]),
                "filters[1][0]: expected a filterable",
            ),
            (json!([["mounts", "=", "x"]]), "filters[0][0]"),
            (
                json!([["state", "~", "x"]]),
                "filters[0][1]: expected one of",
            ),
            (
                json!([["priority", "=", "many"]]),
                "filters[0][2]: expected an integer for priority",
            ),
            (json!([["priority", ">", 1.5]]), "filters[0][2]"),
            (
                json!([["state", "in", "Queued"]]),
                "filters[0][2]: expected an array",
            ),
            (json!([["state", "in", [1]]]), "filters[0][2][0]"),
            (
                json!([["created_at", ">", "now"]]),
                "filters[0][2]: expected a time",
            ),
            (
                json!([["priority", "like", "1%"]]),
                "filters[0][2]: priority is no text",
            ),
            (
                json!([["name", "like", "%%%%%%%%%"]]),
                "filters[0][2]: expected a pattern",
            ),
            (json!([["uuid", "<", null]]), "filters[0][2]"),
        ];
        for (filters, expected) in cases {
            let message = compile(&filters).unwrap_err();
            assert!(message.starts_with(expected), "{filters}: {message}");
        }
    }

    #[test]
    fn orders_end_with_the_uuid() {
        assert_eq!(
            order_by(Some(&json!("priority desc"))).unwrap(),
            "priority DESC, uuid"
        );
        assert_eq!(order_by(Some(&json!("uuid"))).unwrap(), "uuid");
        assert_eq!(
            order_by(Some(&json!("name, uuid desc"))).unwrap(),
            "name, uuid DESC"
        );
        assert_eq!(
            order_by(Some(&json!(["state asc", "priority DESC"]))).unwrap(),
            "state, priority DESC, uuid"
        );
        for bad in [
            json!("priority down"),
            json!("1; DROP TABLE containers"),
            json!([1]),
            json!(""),
        ] {
            assert!(order_by(Some(&bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn like_becomes_glob() {
        assert_eq!(glob_of("a%b_c"), "a*b?c");
        assert_eq!(glob_of("100\\%[*]?"), "100%[[][*]][?]");
    }
}
