//! JSON answers in the formats of the peer's clients, with Longshore's additions at the end of
//! each.

mod container;
mod explanation;
mod instance;
mod types;
mod waiting;

use longshore_core::resources::MicroDollars;
use longshore_core::time::Timestamp;
use serde::Serialize;

pub(crate) use explanation::explain_instance;
pub(crate) use instance::{boot_backoffs, instances};
pub(crate) use types::Catalog;
pub use types::TypeJson;

/// Returns `{"items": [...]}`, or `{"items": null}`.
pub(crate) fn items<T: Serialize>(items: Option<Vec<T>>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Items<T> {
        items: Option<Vec<T>>,
    }
    let written = serde_json::to_vec(&Items { items });
    // All keys are text, and memory accepts all bytes.
    written.unwrap_or_else(|error| unreachable!("{error}"))
}

/// Time in the peer's format: RFC 3339 in UTC, with the necessary digits only.
#[must_use]
pub fn rfc3339(at: Timestamp) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(at.as_nanos())) {
        Ok(at) => at.to_string(),
        // The core's times end in 2554, the calendar's in 9999.
        Err(error) => unreachable!("{error}"),
    }
}

/// Money in the peer's format.
pub(crate) fn dollars(amount: MicroDollars) -> f64 {
    amount.0 as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_has_only_necessary_digits() {
        let text = |nanos| rfc3339(Timestamp::from_nanos(nanos));
        assert_eq!(text(0), "1970-01-01T00:00:00Z");
        assert_eq!(text(1_786_060_800_120_000_000), "2026-08-07T00:00:00.12Z");
        assert_eq!(text(1), "1970-01-01T00:00:00.000000001Z");
        assert_eq!(text(u64::MAX), "2554-07-21T23:34:33.709551615Z");
    }
}
