//! Times as stored in the database: nanoseconds since the Unix epoch; and as shown by the API:
//! RFC 3339 in UTC with nine digits.

use longshore_http::time;

/// Current time, in nanoseconds since the epoch.
pub(crate) fn now_ns() -> i64 {
    time::now_nanos()
}

/// Formats a time.
pub(crate) fn format(ns: i64) -> String {
    time::format_rfc3339_nine_digits(ns)
}

/// Parses RFC 3339 with any offset and fraction; `None` if malformed, or outside the years 1677 to
/// 2262.
pub(crate) fn parse(text: &str) -> Option<i64> {
    i64::try_from(time::parse_rfc3339(text)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_and_parse_round_trip() {
        assert_eq!(
            format(1_786_060_800_123_456_789),
            "2026-08-07T00:00:00.123456789Z"
        );
        assert_eq!(
            parse("2026-08-07T02:00:00+02:00"),
            Some(1_786_060_800_000_000_000)
        );
        for ns in [i64::MIN, -1, 0, i64::MAX] {
            assert_eq!(parse(&format(ns)), Some(ns));
        }
    }

    #[test]
    fn parse_refuses_bad_times() {
        for text in ["yesterday", "9999-01-01T00:00:00Z", "2026-02-31T00:00:00Z"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
