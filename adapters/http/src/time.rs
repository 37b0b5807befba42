//! Times as nanoseconds since the Unix epoch, read and written as RFC 3339.

use jiff::Timestamp;

/// Current time by the system clock, in nanoseconds since the epoch; at most 2262-04-11.
#[must_use]
pub fn now_nanos() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// Formats a time in UTC with as many fractional digits as needed, 0 to 9.
#[must_use]
pub fn format_rfc3339(nanos: u64) -> String {
    match Timestamp::from_nanosecond(i128::from(nanos)) {
        Ok(at) => at.to_string(),
        // `u64` ends in 2554, the calendar of jiff in 9999.
        Err(error) => unreachable!("{error}"),
    }
}

/// Formats a time in UTC with exactly nine fractional digits.
#[must_use]
pub fn format_rfc3339_nine_digits(nanos: i64) -> String {
    match Timestamp::from_nanosecond(i128::from(nanos)) {
        Ok(at) => format!("{at:.9}"),
        // `i64` spans the years 1677 to 2262, the calendar of jiff -9999 to 9999.
        Err(error) => unreachable!("{error}"),
    }
}

/// Parses RFC 3339 with any offset and up to nine fractional digits into nanoseconds since the epoch;
/// `None` if malformed or impossible.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<i128> {
    let at: Timestamp = text.parse().ok()?;
    Some(at.as_nanosecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_uses_needed_digits() {
        assert_eq!(format_rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(format_rfc3339(1), "1970-01-01T00:00:00.000000001Z");
        assert_eq!(
            format_rfc3339(1_786_060_800_120_000_000),
            "2026-08-07T00:00:00.12Z"
        );
        assert_eq!(format_rfc3339(u64::MAX), "2554-07-21T23:34:33.709551615Z");
    }

    #[test]
    fn nine_digits_round_trip() {
        let text = format_rfc3339_nine_digits(1_786_060_800_123_456_789);
        assert_eq!(text, "2026-08-07T00:00:00.123456789Z");
        assert_eq!(
            format_rfc3339_nine_digits(0),
            "1970-01-01T00:00:00.000000000Z"
        );
        for nanos in [i64::MIN, -1, 0, i64::MAX] {
            let text = format_rfc3339_nine_digits(nanos);
            assert_eq!(parse_rfc3339(&text), Some(i128::from(nanos)), "{text}");
        }
    }

    #[test]
    fn parse_applies_offsets_and_leap_days() {
        let noon = Some(1_709_208_000_500_000_000);
        assert_eq!(parse_rfc3339("2024-02-29T12:00:00.5Z"), noon);
        assert_eq!(parse_rfc3339("2024-02-29T14:00:00.5+02:00"), noon);
        assert_eq!(parse_rfc3339("2024-02-29T06:30:00.5-05:30"), noon);
    }

    #[test]
    fn impossible_times_are_refused() {
        for text in [
            "",
            "yesterday",
            "2026-08-07",
            "2026-08-07T00:00:00",
            "2026-02-31T00:00:00Z",
            "2025-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-08-07T24:00:00Z",
            "2026-08-07T00:00:00.Z",
            "2026-08-07T00:00:00+99:99",
            "2026-08-07T00:00:00+2:00",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text:?}");
        }
    }
}
