//! Reading `DriverParameters`, which every driver checks for itself.

use std::time::Duration;

use serde_json::Value;

/// A wrong entry in the driver's parameters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: expected {expected}, found {found}")]
pub struct ParamError {
    /// Where, from `DriverParameters` on.
    pub path: String,
    /// What should be there.
    pub expected: &'static str,
    /// What is there, in JSON, or `an unknown key`.
    pub found: String,
}

const ROOT: &str = "DriverParameters";
const DURATION: &str = "a duration such as \"90s\" or \"1m30s\"";

impl ParamError {
    /// This key, `""` for the whole, has a wrong value.
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

    /// There is no such key; `expected` names those that there are.
    #[must_use]
    pub fn unknown_key(key: &str, expected: &'static str) -> Self {
        Self {
            path: format!("{ROOT}.{key}"),
            expected,
            found: "an unknown key".to_owned(),
        }
    }

    /// The key is needed and not there, or blank.
    #[must_use]
    pub fn missing(key: &str, expected: &'static str) -> Self {
        Self {
            path: format!("{ROOT}.{key}"),
            expected,
            found: "nothing".to_owned(),
        }
    }
}

/// A duration in the peer's format, as in `1h2m3.5s`; `0` needs no unit.
///
/// # Errors
/// If it is none.
pub fn duration(key: &str, value: &Value) -> Result<Duration, ParamError> {
    let parsed = match value {
        Value::Number(number) if number.as_u64() == Some(0) => Some(Duration::ZERO),
        value => value.as_str().and_then(parse_duration),
    };
    parsed.ok_or_else(|| ParamError::new(key, DURATION, value))
}

/// Numbers with units, one after the other, as in `1h2m3.5s`; a bare `0` is allowed. No sign.
fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let end_of_number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end_of_number);
        let end_of_unit = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end_of_unit);
        let unit: u128 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        nanos = nanos.checked_add(scaled(number, unit)?)?;
        rest = tail;
    }
    if text.is_empty() {
        return None;
    }
    Some(Duration::from_nanos(u64::try_from(nanos).ok()?))
}

/// A decimal number times `unit`, rounded down.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.len() > 18 || fraction.contains('.') {
        return None;
    }
    let digits = |text: &str| match text {
        "" => Some(0),
        text => text.parse::<u64>().ok().map(u128::from),
    };
    let ten = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    (digits(whole)?.checked_mul(unit)?).checked_add(digits(fraction)?.checked_mul(unit)? / ten)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        for (text, nanos) in [
            ("0", 0),
            ("1.5s", 1_500_000_000),
            ("2h3m", 7_380_000_000_000),
            (".5ms", 500_000),
            ("7\u{b5}s", 7_000),
        ] {
            assert_eq!(
                parse_duration(text),
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
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
