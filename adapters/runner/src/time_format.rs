//! Time formats read and written by the runner. Times are seconds since the Unix epoch.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

/// HTTP dates without a check of the weekday.
const HTTP_DATES: DateTimeParser = DateTimeParser::new().relaxed_weekday(true);

/// Returns the current time.
pub(crate) fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// Parses RFC 3339, as in `2026-08-07T12:00:00.5+02:00`.
pub(crate) fn rfc3339(text: &str) -> Option<f64> {
    let at: Timestamp = text.parse().ok()?;
    Some(at.as_duration().as_secs_f64())
}

/// Formats a time as RFC 3339 in UTC, to the second. Times after the year 9999 have no such format
/// and are formatted as a number.
pub(crate) fn to_rfc3339(unix_seconds: u64) -> String {
    let at = i64::try_from(unix_seconds).ok();
    match at.and_then(|at| Timestamp::from_second(at).ok()) {
        Some(at) => at.to_string(),
        None => format!("Unix time {unix_seconds}"),
    }
}

/// Parses the date of an HTTP header, as in `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(crate) fn http_date(text: &str) -> Option<f64> {
    let at = HTTP_DATES.parse_timestamp(text).ok()?;
    Some(at.as_duration().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rfc3339_fractions_and_offsets_are_parsed() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0.0),
            ("1969-12-31T23:59:58.5Z", -1.5),
            ("2000-02-29T12:00:00.5Z", 951_825_600.5),
            ("2000-02-29t12:00:00z", 951_825_600.0),
            ("2000-02-29 12:00:00Z", 951_825_600.0),
            ("2000-02-29T14:00:00+02:00", 951_825_600.0),
            ("2000-02-29T06:30:00-05:30", 951_825_600.0),
        ] {
            assert_eq!(rfc3339(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn rfc3339_invalid_times_are_refused() {
        for text in [
            "",
            "soon",
            "2000-01-01",
            "2000-01-01T00:00:00",
            "2000-13-01T00:00:00Z",
            "2000-00-01T00:00:00Z",
            "2000-01-00T00:00:00Z",
            "2026-02-31T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2000-01-01T25:00:00Z",
            "2000-01-01T00:60:00Z",
            "2000-01-01T00:00:61Z",
            "2000-01-01T00:00:00+99:99",
            "2000-01-01T00:00:00-99:00",
            "2000-01-01T00:00:00+01:60",
        ] {
            assert_eq!(rfc3339(text), None, "{text:?}");
        }
    }

    #[test]
    fn rfc3339_formatted_time_is_parsed_back() {
        for text in [
            "1970-01-01T00:00:00Z",
            "1999-12-31T23:59:59Z",
            "2000-02-29T12:00:01Z",
            "2026-03-01T00:00:00Z",
            "2100-02-28T06:07:08Z",
            "2399-12-31T00:00:00Z",
        ] {
            let seconds = rfc3339(text).and_then(|at| Duration::try_from_secs_f64(at).ok());
            assert_eq!(
                seconds.map(|at| to_rfc3339(at.as_secs())).as_deref(),
                Some(text)
            );
        }
        let huge = to_rfc3339(u64::MAX);
        assert_eq!(huge, "Unix time 18446744073709551615");
    }

    #[test]
    fn http_dates_are_parsed() {
        // The weekday of the second date is wrong.
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Mon, 06 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(http_date(text), Some(784_111_777.0), "{text}");
        }
        for text in ["", "yesterday", "Sun, 31 Feb 2026 08:49:37 GMT"] {
            assert_eq!(http_date(text), None, "{text:?}");
        }
    }
}
