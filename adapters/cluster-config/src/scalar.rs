//! Decimals, durations and sizes as they are written, as integers.

use std::time::Duration;

/// A decimal number, exactly: `digits` × 10^`exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    negative: bool,
    digits: u128,
    exponent: i32,
}

/// What to do with what is smaller than the unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    /// It must not be there.
    Exact,
    /// Leave it out.
    Down,
    /// To the nearest, a half upwards.
    Nearest,
}

impl Decimal {
    /// Reads `[+-]digits[.digits][e[+-]digits]`; `None` for anything else, and beyond 38 digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
            None => (rest, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if !all_digits(whole) || !all_digits(fraction) || whole.len() + fraction.len() == 0 {
            return None;
        }
        let fraction = fraction.trim_end_matches('0');
        let digits = format!("0{whole}{fraction}").parse().ok()?;
        let exponent = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
        Some(Self {
            negative,
            digits,
            exponent,
        })
    }

    pub(super) fn is_negative(self) -> bool {
        self.negative && self.digits > 0
    }

    pub(super) fn is_zero(self) -> bool {
        self.digits == 0
    }

    /// Its amount, without the sign, times `factor`; `None` where it is too large, or not whole
    /// and has to be.
    pub(super) fn times(self, factor: u64, rounding: Rounding) -> Option<u128> {
        if self.digits == 0 {
            return Some(0);
        }
        let product = self.digits.checked_mul(u128::from(factor))?;
        let Ok(shift) = u32::try_from(self.exponent) else {
            return Self::divided(product, self.exponent.unsigned_abs(), rounding);
        };
        product.checked_mul(10_u128.checked_pow(shift)?)
    }

    fn divided(product: u128, power: u32, rounding: Rounding) -> Option<u128> {
        let Some(divisor) = 10_u128.checked_pow(power) else {
            // Less than a half of anything: the product has at most 39 digits, the divisor more.
            return (rounding != Rounding::Exact).then_some(0);
        };
        let (whole, rest) = (product / divisor, product % divisor);
        match rounding {
            Rounding::Exact if rest > 0 => None,
            Rounding::Nearest if rest >= divisor.div_ceil(2) => Some(whole + 1),
            _ => Some(whole),
        }
    }
}

fn parse_exponent(text: &str) -> Option<i32> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // So far beyond every size that more makes no difference, and sums cannot overflow.
    let amount = digits.parse::<i32>().unwrap_or(i32::MAX).min(100_000);
    Some(if text.starts_with('-') {
        -amount
    } else {
        amount
    })
}

/// A span of time with a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SignedDuration {
    pub(super) negative: bool,
    pub(super) amount: Duration,
}

/// Reads a duration in Go's syntax: `1h30m`, `1.5s`, `300ms`, `0`. What is below a nanosecond is
/// left out. The error says what is wrong with it.
pub(super) fn parse_duration(text: &str) -> Result<SignedDuration, &'static str> {
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
    // Go's own range, about 292 years.
    match i64::try_from(nanos) {
        Ok(nanos) => Ok(SignedDuration {
            negative: negative && nanos > 0,
            amount: Duration::from_nanos(nanos.unsigned_abs()),
        }),
        Err(_) => Err("a duration of more than 292 years"),
    }
}

/// Reads one number with its unit; returns nanoseconds and what follows.
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

/// Reads a size in bytes: a number, perhaps a space, perhaps one of K Ki M Mi G Gi T Ti P Pi E Ei,
/// perhaps `B`. Upper and lower case differ. A fraction of a byte is left out. The error says what
/// is wrong with it.
pub(super) fn parse_byte_size(text: &str) -> Result<i64, &'static str> {
    // An `E` followed by digits or a sign is an exponent, any other begins a unit.
    let number_len = text
        .char_indices()
        .find(|&(at, c)| match c {
            '0'..='9' | '.' => false,
            '+' | '-' => at > 0 && !text[..at].ends_with(['e', 'E']),
            'e' | 'E' => !text[at + 1..]
                .trim_start_matches(['+', '-'])
                .starts_with(|c: char| c.is_ascii_digit()),
            _ => true,
        })
        .map_or(text.len(), |(at, _)| at);
    let (number, unit) = text.split_at(number_len);
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let unit_bytes = unit_bytes(unit.strip_suffix('B').unwrap_or(unit)).ok_or("an unknown unit")?;
    let decimal = Decimal::parse(number).ok_or("no number")?;
    let bytes = decimal.times(unit_bytes, Rounding::Down);
    let bytes = bytes
        .and_then(|b| i64::try_from(b).ok())
        .ok_or("a size of 8 EiB or more")?;
    Ok(if decimal.is_negative() { -bytes } else { bytes })
}

fn unit_bytes(unit: &str) -> Option<u64> {
    let (letter, base) = match unit.strip_suffix('i') {
        Some(letter) => (letter, 1024_u64),
        None => (unit, 1000),
    };
    let power = match letter {
        "" if unit.is_empty() => 0,
        "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        "P" => 5,
        "E" => 6,
        _ => return None,
    };
    Some(base.pow(power))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn micros(text: &str) -> Option<u128> {
        Decimal::parse(text)?.times(1_000_000, Rounding::Nearest)
    }

    #[test]
    fn money_is_rounded_to_the_millionth() {
        assert_eq!(micros("0.123"), Some(123_000));
        assert_eq!(micros("1e-3"), Some(1_000));
        assert_eq!(micros("0.0000005"), Some(1));
        assert_eq!(micros("0.00000049999999999999999"), Some(0));
        assert_eq!(micros("1.1e2"), Some(110_000_000));
        assert_eq!(micros("1e-99999999999"), Some(0));
        assert_eq!(micros("1e99999999999"), None);
        for wrong in [
            "", ".", "+", "1e", "1.2.3", "0x1", " 1", "1_0", "--1", "nan",
        ] {
            assert_eq!(Decimal::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let nanos = |text| parse_duration(text).map(|d| d.amount.as_nanos());
        assert_eq!(nanos("1h30m"), Ok(5_400_000_000_000));
        assert_eq!(nanos("1.5s"), Ok(1_500_000_000));
        assert_eq!(nanos(".5m"), Ok(30_000_000_000));
        assert_eq!(nanos("3us2ns"), Ok(3_002));
        assert_eq!(nanos("0"), Ok(0));
        assert!(parse_duration("-10s").is_ok_and(|d| d.negative));
        for wrong in ["", "10", "s", "1d", "1 s", "1S", "9999999h", "1.s.", "-"] {
            assert!(parse_duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn sizes_are_read_with_every_unit() {
        assert_eq!(parse_byte_size("4000000000"), Ok(4_000_000_000));
        assert_eq!(parse_byte_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_byte_size("1.5 GB"), Ok(1_500_000_000));
        assert_eq!(parse_byte_size("2Ei"), Ok(2 << 60));
        assert_eq!(parse_byte_size("2E"), Ok(2_000_000_000_000_000_000));
        assert_eq!(parse_byte_size("1e3"), Ok(1000));
        assert_eq!(parse_byte_size("1E+3K"), Ok(1_000_000));
        assert_eq!(parse_byte_size("-1K"), Ok(-1000));
        for wrong in [
            "", "K", "1k", "1  K", "1Kib", "8Ei", "1 000", "i", "1iB", "1KBB",
        ] {
            assert!(parse_byte_size(wrong).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn every_duration_reads_back_as_written(h in 0..2_000_000_u64, m in 0..60_u64, s in 0..60_u64, ns in 0..1_000_000_000_u64) {
            let text = format!("{h}h{m}m{s}.{ns:09}s");
            let amount = Duration::new(h * 3600 + m * 60 + s, u32::try_from(ns).unwrap_or(0));
            prop_assert_eq!(parse_duration(&text), Ok(SignedDuration { negative: false, amount }));
            let text = format!("-{}ns", amount.as_nanos());
            prop_assert_eq!(parse_duration(&text), Ok(SignedDuration { negative: !amount.is_zero(), amount }));
        }

        #[test]
        fn every_size_reads_back_as_written(bytes in any::<i64>().prop_filter("has no negative", |b| *b > i64::MIN), space in "[ ]?", b in "B?") {
            prop_assert_eq!(parse_byte_size(&format!("{bytes}{space}{b}")), Ok(bytes));
            let kib = bytes / 1024;
            prop_assert_eq!(parse_byte_size(&format!("{kib}{space}Ki{b}")), Ok(kib * 1024));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}", digits in "[-+.0-9eEKMGiBhmsnuµ ]{0,40}") {
            for t in [&text, &digits] {
                let _ = (parse_duration(t), parse_byte_size(t), Decimal::parse(t));
            }
        }
    }
}
