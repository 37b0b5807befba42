//! Calendar time in the two spellings that reach the runner, as seconds since the Unix epoch.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now.
pub(crate) fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// Reads RFC 3339, as in `2026-08-07T12:00:00.5+02:00`.
pub(crate) fn rfc3339(text: &str) -> Option<f64> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let mut date = date.split('-');
    let (year, month, day) = (int(date.next()?)?, int(date.next()?)?, int(date.next()?)?);
    let at = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = time.split_at(at);
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let (hours, minutes) = zone[1..].split_once(':')?;
            let seconds = int(hours)? * 3600 + int(minutes)? * 60;
            if zone.starts_with('-') {
                -seconds
            } else {
                seconds
            }
        }
    };
    Some(whole(days(year, month, day)? * 86_400 - offset) + clock_seconds(clock)?)
}

/// Writes RFC 3339 in UTC, to the second.
pub(crate) fn to_rfc3339(unix_seconds: u64) -> String {
    let (days, seconds) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // Counted from a first of March, so that the leap day is the last of a cycle of 400 years.
    let shifted = days + 719_468;
    let (cycle, day) = (shifted / 146_097, shifted % 146_097);
    let year_of_cycle = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let months = (5 * day_of_year + 2) / 153;
    let (day, month) = (
        day_of_year - (153 * months + 2) / 5 + 1,
        if months < 10 { months + 3 } else { months - 9 },
    );
    let year = cycle * 400 + year_of_cycle + u64::from(month <= 2);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}Z")
}

/// Reads the date of an HTTP header, as in `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(crate) fn http_date(text: &str) -> Option<f64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut words = text.split_once(", ")?.1.split(' ');
    let day = int(words.next()?)?;
    let month = words.next().filter(|name| name.len() == 3)?;
    let month = i64::try_from(MONTHS.find(month)? / 3 + 1).ok()?;
    let year = int(words.next()?)?;
    Some(whole(days(year, month, day)? * 86_400) + clock_seconds(words.next()?)?)
}

fn clock_seconds(text: &str) -> Option<f64> {
    let mut parts = text.split(':');
    let (hours, minutes) = (int(parts.next()?)?, int(parts.next()?)?);
    let seconds: f64 = parts.next()?.parse().ok()?;
    (hours < 24 && minutes < 60 && (0.0..61.0).contains(&seconds))
        .then(|| whole(hours * 3600 + minutes * 60) + seconds)
}

fn int(text: &str) -> Option<i64> {
    (text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())?
}

/// Days from the epoch to a civil date; the year is counted from March so that the leap day is last.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(
        year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year
            - 719_468,
    )
}

/// Seconds of any calendar year fit a double exactly.
#[expect(
    clippy::cast_precision_loss,
    reason = "four-digit years stay far below 2^52 seconds"
)]
fn whole(seconds: i64) -> f64 {
    seconds as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rfc3339_is_read_with_fractions_and_offsets() {
        assert_eq!(rfc3339("1970-01-01T00:00:00Z"), Some(0.0));
        assert_eq!(rfc3339("2000-02-29T12:00:00.5Z"), Some(951_825_600.5));
        assert_eq!(rfc3339("2000-02-29T14:00:00+02:00"), Some(951_825_600.0));
        assert_eq!(
            rfc3339("2026-11-23T18:00:00-05:30"),
            rfc3339("2026-11-23T23:30:00Z")
        );
        assert!(
            [
                "",
                "2000-13-01T00:00:00Z",
                "2000-01-01",
                "2000-01-01T25:00:00Z"
            ]
            .iter()
            .all(|t| rfc3339(t).is_none())
        );
    }

    #[test]
    fn what_is_written_is_what_is_read() {
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
    }

    #[test]
    fn http_dates_are_read() {
        assert_eq!(
            http_date("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(784_111_777.0)
        );
        assert_eq!(http_date("yesterday"), None);
    }
}
