//! Durations in Go's syntax.

use std::time::Duration;

use crate::decimal::{Decimal, Rounding};

/// Duration with a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedDuration {
    /// True below 0.
    pub negative: bool,
    /// Absolute value.
    pub amount: Duration,
}

/// Parses a signed duration in Go's syntax: `1h30m`, `-1.5s`, `300ms`, `0`. Fractions of a nanosecond
/// are dropped.
///
/// # Errors
/// Description of the invalid text.
pub fn parse_signed_duration(text: &str) -> Result<SignedDuration, &'static str> {
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    let nanos = if rest == "0" {
        0
    } else if rest.is_empty() {
        return Err("no duration");
    } else {
        let mut nanos: u128 = 0;
        while !rest.is_empty() {
            let (part, after) = parse_duration_part(rest)?;
            nanos = nanos.saturating_add(part);
            rest = after;
        }
        nanos
    };
    // Range of Go's type, about 292 years.
    match i64::try_from(nanos) {
        Ok(nanos) => Ok(SignedDuration {
            negative: negative && nanos > 0,
            amount: Duration::from_nanos(nanos.unsigned_abs()),
        }),
        Err(_) => Err("a duration of more than 292 years"),
    }
}

/// Parses one number with a unit; returns nanoseconds and the rest of the text.
fn parse_duration_part(text: &str) -> Result<(u128, &str), &'static str> {
    let number_len = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .ok_or("a number without a unit")?;
    let (number, rest) = text.split_at(number_len);
    let unit_len = rest
        .find(|c: char| c.is_ascii_digit() || c == '.')
        .unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_len);
    let unit_nanos = match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err("an unknown unit"),
    };
    let decimal = Decimal::parse(number).ok_or("no number before a unit")?;
    let nanos = decimal.times(unit_nanos, Rounding::Down);
    Ok((nanos.ok_or("a duration of more than 292 years")?, rest))
}

/// Parses a duration of 0 or more, as [`parse_signed_duration`].
///
/// # Errors
/// Description of the invalid text.
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    match parse_signed_duration(text)? {
        SignedDuration { negative: true, .. } => Err("a negative duration"),
        SignedDuration { amount, .. } => Ok(amount),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_parse_in_go_syntax() {
        let nanos = |text| parse_signed_duration(text).map(|d| d.amount.as_nanos());
        assert_eq!(nanos("1h30m"), Ok(5_400_000_000_000));
        assert_eq!(nanos("1.5s"), Ok(1_500_000_000));
        assert_eq!(nanos(".5m"), Ok(30_000_000_000));
        assert_eq!(nanos("3us2ns"), Ok(3_002));
        assert_eq!(nanos("0"), Ok(0));
        assert!(parse_signed_duration("-10s").is_ok_and(|d| d.negative));
        for wrong in ["", "10", "s", "1d", "1 s", "1S", "9999999h", "1.s.", "-"] {
            assert!(parse_signed_duration(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(parse_duration("2s"), Ok(Duration::from_secs(2)));
        assert!(parse_duration("-2s").is_err());
    }

    proptest! {
        #[test]
        fn every_duration_round_trips(h in 0..2_000_000_u64, m in 0..60_u64, s in 0..60_u64, ns in 0..1_000_000_000_u64) {
            let text = format!("{h}h{m}m{s}.{ns:09}s");
            let amount = Duration::new(h * 3600 + m * 60 + s, u32::try_from(ns).unwrap_or(0));
            prop_assert_eq!(parse_signed_duration(&text), Ok(SignedDuration { negative: false, amount }));
            let text = format!("-{}ns", amount.as_nanos());
            prop_assert_eq!(parse_signed_duration(&text), Ok(SignedDuration { negative: !amount.is_zero(), amount }));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}", digits in "[-+.0-9eEhmsnuµ ]{0,40}") {
            let _ = (parse_signed_duration(&text), parse_signed_duration(&digits));
        }
    }
}
