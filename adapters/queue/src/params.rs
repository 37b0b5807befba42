//! Request parameters from the query, a form body or a JSON body.
//!
//! In a query or a form every top-level value is text; objects and arrays are JSON text inside it.
//! In a JSON body the values have their own types. The readers here accept both.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::error::ApiError;

/// Parameters of one request; of a repeated name the last value counts.
#[derive(Debug, Default)]
pub(crate) struct Params(BTreeMap<String, Value>);

impl Params {
    pub(crate) fn from_query(query: &str) -> Self {
        let mut params = Self::default();
        params.add_form(query.as_bytes());
        params
    }

    /// Adds the parameters of the body, by its content type. An empty body adds none.
    pub(crate) fn add_body(
        &mut self,
        content_type: Option<&str>,
        body: &[u8],
    ) -> Result<(), ApiError> {
        if body.is_empty() {
            return Ok(());
        }
        let kind = content_type
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default()
            .trim();
        match kind.to_ascii_lowercase().as_str() {
            "application/x-www-form-urlencoded" => {
                self.add_form(body);
                Ok(())
            }
            "application/json" => match serde_json::from_slice(body) {
                Ok(Value::Object(object)) => {
                    self.0.extend(object);
                    Ok(())
                }
                Ok(other) => Err(ApiError::malformed(format!(
                    "request body: expected a JSON object, got {}",
                    shown(&other)
                ))),
                Err(error) => Err(ApiError::malformed(format!(
                    "request body: not valid JSON: {error}"
                ))),
            },
            _ => Err(ApiError::unsupported_body(format!(
                "Content-Type: expected application/json or application/x-www-form-urlencoded, got {:?}",
                content_type.unwrap_or_default()
            ))),
        }
    }

    /// Text; absent and null are the same.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, ApiError> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(name, "a string", other)),
        }
    }

    /// Structured value; text is parsed as JSON.
    pub(crate) fn json(&self, name: &str) -> Result<Option<Value>, ApiError> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => match serde_json::from_str(text) {
                Ok(Value::Null) => Ok(None),
                Ok(value) => Ok(Some(value)),
                Err(error) => Err(ApiError::invalid(format!(
                    "{name}: not valid JSON: {error}"
                ))),
            },
            Some(other) => Ok(Some(other.clone())),
        }
    }

    /// Object, for example the attributes of a container.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Map<String, Value>>, ApiError> {
        match self.json(name)? {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(other) => Err(wrong(name, "an object", &other)),
        }
    }

    /// Array, or a text outside array syntax, returned unchanged.
    pub(crate) fn array_or_text(&self, name: &str) -> Result<Option<Value>, ApiError> {
        match self.0.get(name) {
            Some(Value::String(text)) if !text.trim_start().starts_with('[') => {
                Ok((!text.trim().is_empty()).then(|| Value::String(text.clone())))
            }
            _ => match self.json(name)? {
                None => Ok(None),
                Some(array @ Value::Array(_)) => Ok(Some(array)),
                Some(other) => Err(wrong(name, "an array", &other)),
            },
        }
    }

    /// Whole number of at least 0.
    pub(crate) fn count(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let value = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) if text.is_empty() => return Ok(None),
            Some(value) => value,
        };
        let number = match value {
            Value::String(text) => text.parse().ok(),
            other => other.as_u64(),
        };
        match number.filter(|n| i64::try_from(*n).is_ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(wrong(name, "a whole number of at least 0", value)),
        }
    }

    /// Boolean; false if absent.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::String(text)) if text == "true" || text == "1" => Ok(true),
            Some(Value::String(text)) if text.is_empty() || text == "false" || text == "0" => {
                Ok(false)
            }
            Some(other) => Err(wrong(name, "true or false", other)),
        }
    }

    fn add_form(&mut self, form: &[u8]) {
        for (name, value) in form_urlencoded::parse(form) {
            self.0
                .insert(name.into_owned(), Value::String(value.into_owned()));
        }
    }
}

/// Error 422 with the path of the wrong value, the expected and the given value.
pub(crate) fn wrong(path: &str, expected: &str, got: &Value) -> ApiError {
    ApiError::invalid(format!("{path}: expected {expected}, got {}", shown(got)))
}

/// Value for an error message, cut to a readable length.
pub(crate) fn shown(value: &Value) -> String {
    const SHOWN_CHARS: usize = 80;
    let text = match value {
        Value::Array(items) if items.len() > 8 => format!("an array of {} items", items.len()),
        Value::Object(map) if map.len() > 8 => format!("an object of {} members", map.len()),
        other => other.to_string(),
    };
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn params_form_and_json_are_equivalent() {
        let mut form = Params::from_query(
            "limit=5&filters=%5B%5B%22a%22%5D%5D&follow=true&order=priority+desc",
        );
        let mut body = Params::default();
        body.add_body(
            Some("application/json; charset=utf-8"),
            br#"{"limit":5,"filters":[["a"]],"follow":true,"order":"priority desc"}"#,
        )
        .unwrap();
        form.add_body(None, b"").unwrap();
        for params in [form, body] {
            assert_eq!(params.count("limit").unwrap(), Some(5));
            assert_eq!(params.json("filters").unwrap(), Some(json!([["a"]])));
            assert!(params.flag("follow").unwrap());
            assert_eq!(
                params.array_or_text("order").unwrap(),
                Some(json!("priority desc"))
            );
            assert_eq!(params.text("absent").unwrap(), None);
        }
    }

    #[test]
    fn wrong_shapes_are_named() {
        let params = Params::from_query(
            "limit=-1&container=%5B%5D&filters=%7B&follow=maybe&big=99999999999999999999",
        );
        assert!(
            params
                .count("limit")
                .unwrap_err()
                .message
                .starts_with("limit: expected")
        );
        assert!(params.count("big").is_err());
        assert_eq!(
            params.object("container").unwrap_err().message,
            "container: expected an object, got []"
        );
        assert!(
            params
                .json("filters")
                .unwrap_err()
                .message
                .starts_with("filters: not valid JSON")
        );
        assert!(params.flag("follow").is_err());
        let mut params = Params::default();
        assert_eq!(
            params
                .add_body(Some("application/json"), b"[1]")
                .unwrap_err()
                .status
                .as_u16(),
            400
        );
        assert_eq!(
            params
                .add_body(Some("application/json"), b"{")
                .unwrap_err()
                .status
                .as_u16(),
            400
        );
        assert_eq!(
            params
                .add_body(Some("text/plain"), b"x")
                .unwrap_err()
                .status
                .as_u16(),
            415
        );
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let text = shown(&json!("ü".repeat(500)));
        assert!(text.chars().count() <= 81, "{text}");
        assert_eq!(
            shown(&json!([0, 1, 2, 3, 4, 5, 6, 7, 8])),
            "an array of 9 items"
        );
    }
}
