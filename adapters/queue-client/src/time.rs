//! Times of the API, as times of the core.

use longshore_core::time::Timestamp;
use longshore_http::time::parse_rfc3339;

/// Parses a time written by the API: RFC 3339 with any offset and up to nine fractional digits; `None`
/// if malformed, impossible, or outside the years 1970 to 2554.
#[must_use]
pub fn parse_time(text: &str) -> Option<Timestamp> {
    let nanos = u64::try_from(parse_rfc3339(text)?).ok()?;
    Some(Timestamp::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn time_is_read_to_the_nanosecond() {
        let nanos = |text| parse_time(text).map(Timestamp::as_nanos);
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
    }

    #[test]
    fn bad_time_is_refused() {
        for text in [
            "",
            "2026-08-07",
            "2026-13-07T00:00:00Z",
            "2026-02-31T00:00:00Z",
            "2026-08-07T00:00:00",
            "2026-08-07T00:00:00.Z",
            "1969-12-31T23:59:59Z",
            "9999-01-01T00:00:00Z",
            "2026-08-07T00:00:00+2:00",
            "2026-08-07T00:00:00+99:99",
            "+026-08-07T00:00:00Z",
        ] {
            assert_eq!(parse_time(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}", likely in "[0-9TZ:.+ -]{0,40}") {
            let _ = (parse_time(&text), parse_time(&likely));
        }
    }
}
