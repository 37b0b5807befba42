//! Exact decimal numbers.

/// Exact decimal number: `digits` × 10^`exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal {
    negative: bool,
    digits: u128,
    exponent: i32,
}

/// Treatment of a fraction of the unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Refuse fractions.
    Exact,
    /// Drop fractions.
    Down,
    /// Round to the nearest unit, a half upwards.
    Nearest,
}

impl Decimal {
    /// Parses `[+-]digits[.digits][e[+-]digits]`; `None` for any other text, and beyond 38 digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
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

    /// True for numbers below 0.
    #[must_use]
    pub fn is_negative(self) -> bool {
        self.negative && self.digits > 0
    }

    /// True for 0.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.digits == 0
    }

    /// Absolute value times `factor`; `None` if too large, or if a fraction is refused.
    #[must_use]
    pub fn times(self, factor: u64, rounding: Rounding) -> Option<u128> {
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
            // Less than a half of the unit: the product has at most 39 digits, the divisor more.
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
    // Larger exponents give the same results, and sums must not overflow.
    let amount = digits.parse::<i32>().unwrap_or(i32::MAX).min(100_000);
    Some(if text.starts_with('-') {
        -amount
    } else {
        amount
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(text: &str) -> Option<u128> {
        Decimal::parse(text)?.times(1_000_000, Rounding::Nearest)
    }

    #[test]
    fn decimal_is_exact_and_rounded_half_up() {
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
}
