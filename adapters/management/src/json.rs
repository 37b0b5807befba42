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
    longshore_http::time::format_rfc3339(at.as_nanos())
}

/// Money in the peer's format.
pub(crate) fn dollars(amount: MicroDollars) -> f64 {
    amount.0 as f64 / 1e6
}
