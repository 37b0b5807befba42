//! Time as the database keeps it: nanoseconds since the Unix epoch; and as the API shows it:
//! RFC 3339 in UTC with nine digits.

use jiff::Timestamp;

/// Now, in nanoseconds since the epoch.
pub(crate) fn now_ns() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// The text of a time. Every `i64` of nanoseconds lies between the years 1677 and 2262.
pub(crate) fn format(ns: i64) -> String {
    match Timestamp::from_nanosecond(i128::from(ns)) {
        Ok(at) => format!("{at:.9}"),
        Err(_) => String::new(),
    }
}

/// Reads RFC 3339 with any offset and fraction; `None` if it is not that, or out of range.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let at: Timestamp = text.parse().ok()?;
    i64::try_from(at.as_nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_nine_digits_and_reads_back() {
        assert_eq!(format(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(
            format(1_786_060_800_123_456_789),
            "2026-08-07T00:00:00.123456789Z"
        );
        assert_eq!(
            parse("2026-08-07T00:00:00.123456789Z"),
            Some(1_786_060_800_123_456_789)
        );
        assert_eq!(
            parse("2026-08-07T02:00:00+02:00"),
            Some(1_786_060_800_000_000_000)
        );
        for ns in [i64::MIN, -1, i64::MAX] {
            assert_eq!(parse(&format(ns)), Some(ns));
        }
        assert_eq!(parse("yesterday"), None);
        assert_eq!(parse("9999-01-01T00:00:00Z"), None);
    }
}
