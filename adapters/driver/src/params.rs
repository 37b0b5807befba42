//! Parsing of `DriverParameters`, common to the drivers.

use std::time::Duration;

use serde_json::Value;

/// Invalid entry in the driver's parameters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: expected {expected}, found {found}")]
pub struct ParamError {
    /// Path of the entry, beginning with `DriverParameters`.
    pub path: String,
    /// Expected value.
    pub expected: &'static str,
    /// Actual value in JSON, or `an unknown key`.
    pub found: String,
}

const ROOT: &str = "DriverParameters";
const DURATION: &str = "a duration such as \"90s\" or \"1m30s\"";

impl ParamError {
    /// Invalid value of a key; the empty key means the whole document.
    #[must_use]
    pub fn new(key: &str, expected: &'static str, found: &Value) -> Self {
        let path = match key {
            "" => ROOT.to_owned(),
            key => format!("{ROOT}.{key}"),
        };
        Self {
            path,
            expected,
            found: found.to_string(),
        }
    }

    /// Unknown key; `expected` lists the valid keys.
    #[must_use]
    pub fn unknown_key(key: &str, expected: &'static str) -> Self {
        Self {
            path: format!("{ROOT}.{key}"),
            expected,
            found: "an unknown key".to_owned(),
        }
    }

    /// Required key absent or blank.
    #[must_use]
    pub fn missing(key: &str, expected: &'static str) -> Self {
        Self {
            path: format!("{ROOT}.{key}"),
            expected,
            found: "nothing".to_owned(),
        }
    }
}

/// Parses a duration in Go format, such as `1h2m3.5s`; `0` needs no unit.
///
/// # Errors
/// Any other value.
pub fn duration(key: &str, value: &Value) -> Result<Duration, ParamError> {
    let parsed = match value {
        Value::Number(number) if number.as_u64() == Some(0) => Some(Duration::ZERO),
        value => value
            .as_str()
            .and_then(|text| longshore_units::parse_duration(text).ok()),
    };
    parsed.ok_or_else(|| ParamError::new(key, DURATION, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_parse_go_format() {
        for (text, nanos) in [
            ("0", 0),
            ("1.5s", 1_500_000_000),
            ("2h3m", 7_380_000_000_000),
            (".5ms", 500_000),
            ("7\u{b5}s", 7_000),
        ] {
            assert_eq!(
                duration("Key", &Value::from(text)).ok(),
                Some(Duration::from_nanos(nanos)),
                "{text}"
            );
        }
        for text in [
            "",
            "5",
            "s",
            ".s",
            "-1s",
            "1..5s",
            "1d",
            "99999999999999999999s",
            "9999999999h",
            "1s ",
        ] {
            assert_eq!(duration("Key", &Value::from(text)).ok(), None, "{text}");
        }
    }
}
