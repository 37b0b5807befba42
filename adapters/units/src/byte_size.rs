//! Byte sizes with units.

use crate::decimal::{Decimal, Rounding};

/// Parses a signed size in bytes: a number, an optional space, optionally one of K Ki M Mi G Gi T Ti P
/// Pi E Ei, and an optional `B`. Upper and lower case differ. Fractions of a byte are dropped.
///
/// # Errors
/// Description of the invalid text.
pub fn parse_signed_byte_size(text: &str) -> Result<i64, &'static str> {
    // An `E` followed by digits or a sign is an exponent, any other `E` is a unit.
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

/// Parses a size of 0 bytes or more, as [`parse_signed_byte_size`].
///
/// # Errors
/// Description of the invalid text.
pub fn parse_byte_size(text: &str) -> Result<u64, &'static str> {
    let bytes = parse_signed_byte_size(text)?;
    u64::try_from(bytes).map_err(|_| "a negative size")
}

/// Formats a size with one decimal and the largest fitting unit of KiB, MiB and GiB.
#[must_use]
pub fn format_byte_size(bytes: u64) -> String {
    let steps = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match steps.iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) => {
            let tenths = u128::from(bytes) * 10 / u128::from(*size);
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_parse_with_every_unit() {
        assert_eq!(parse_signed_byte_size("4000000000"), Ok(4_000_000_000));
        assert_eq!(parse_signed_byte_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_signed_byte_size("1.5 GB"), Ok(1_500_000_000));
        assert_eq!(parse_signed_byte_size("2Ei"), Ok(2 << 60));
        assert_eq!(parse_signed_byte_size("2E"), Ok(2_000_000_000_000_000_000));
        assert_eq!(parse_signed_byte_size("1e3"), Ok(1000));
        assert_eq!(parse_signed_byte_size("1E+3K"), Ok(1_000_000));
        assert_eq!(parse_signed_byte_size("-1K"), Ok(-1000));
        for wrong in [
            "", "K", "1k", "1  K", "1Kib", "8Ei", "1 000", "i", "1iB", "1KBB",
        ] {
            assert!(parse_signed_byte_size(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(parse_byte_size("512MiB"), Ok(512 << 20));
        assert!(parse_byte_size("-1").is_err());
    }

    #[test]
    fn formatted_sizes_have_one_decimal() {
        assert_eq!(format_byte_size(1536 << 20), "1.5 GiB");
        assert_eq!(format_byte_size(12), "12 B");
    }

    proptest! {
        #[test]
        fn every_size_round_trips(bytes in any::<i64>().prop_filter("has no negative", |b| *b > i64::MIN), space in "[ ]?", b in "B?") {
            prop_assert_eq!(parse_signed_byte_size(&format!("{bytes}{space}{b}")), Ok(bytes));
            let kib = bytes / 1024;
            prop_assert_eq!(parse_signed_byte_size(&format!("{kib}{space}Ki{b}")), Ok(kib * 1024));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}", digits in "[-+.0-9eEKMGiB ]{0,40}") {
            let _ = (parse_signed_byte_size(&text), parse_signed_byte_size(&digits));
        }
    }
}
