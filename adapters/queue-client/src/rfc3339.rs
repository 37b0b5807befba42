//! Points in time as the API writes them: `2026-08-07T12:34:56.123456789Z`.

use longshore_core::time::Timestamp;

/// Reads one; `None` where it is none, or before 1970, or after 2554.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        let plain = digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse::<i64>().ok().filter(|_| plain)
    };
    let marks = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if marks.iter().any(|(at, mark)| bytes.get(*at) != Some(mark))
        || !matches!(bytes.get(10)?, b'T' | b't' | b' ')
    {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let (nanos, rest) = fraction_nanos(text.get(19..)?)?;
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second
        - offset_seconds(rest)?;
    let nanos = u64::try_from(seconds)
        .ok()?
        .checked_mul(1_000_000_000)?
        .checked_add(nanos)?;
    Some(Timestamp::from_nanos(nanos))
}

/// Nanoseconds of `.123`, if it begins so, and what follows.
fn fraction_nanos(text: &str) -> Option<(u64, &str)> {
    let Some(fraction) = text.strip_prefix('.') else {
        return Some((0, text));
    };
    let len = fraction
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(fraction.len());
    let (digits, rest) = fraction.split_at(len);
    let digits = digits.get(..9).unwrap_or(digits);
    let nanos = format!("{digits:0<9}").parse().ok()?;
    (len > 0).then_some((nanos, rest))
}

/// Seconds east of Greenwich: `Z`, `+02:00`.
fn offset_seconds(text: &str) -> Option<i64> {
    if matches!(text, "Z" | "z") {
        return Some(0);
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    let two_digits = |s: &str| s.len() == 2 && s.bytes().all(|b| b.is_ascii_digit());
    if !two_digits(hours) || !two_digits(minutes) {
        return None;
    }
    Some(sign * (hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60))
}

/// Days of the Gregorian calendar, counted in years that begin in March, so that the leap day is the
/// last one.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_read_to_the_nanosecond_in_every_zone() {
        let nanos = |text| parse(text).map(Timestamp::as_nanos);
        assert_eq!(nanos("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(
            nanos("2026-08-07T12:34:56.123456789Z"),
            Some(1_786_106_096_123_456_789)
        );
        assert_eq!(
            nanos("2024-02-29T23:59:59.5+02:00"),
            Some(1_709_243_999_500_000_000)
        );
        assert_eq!(nanos("2000-03-01T00:00:00Z"), Some(951_868_800_000_000_000));
        for wrong in [
            "",
            "2026-08-07",
            "2026-13-07T00:00:00Z",
            "2026-08-07T00:00:00",
            "2026-08-07T00:00:00.Z",
            "1969-12-31T23:59:59Z",
            "9999-01-01T00:00:00Z",
            "2026-08-07T00:00:00+2:00",
            "+026-08-07T00:00:00Z",
        ] {
            assert_eq!(nanos(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}", likely in "[0-9TZ:.+ -]{0,40}") {
            let _ = (parse(&text), parse(&likely));
        }
    }
}
