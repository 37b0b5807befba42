//! Requests in flight, bounded and listable.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::http::{Method, Uri};

/// All requests in flight of one server, at most a fixed number.
#[derive(Debug)]
pub struct InFlightRequests {
    max: usize,
    table: Mutex<InFlightTable>,
}

#[derive(Debug, Default)]
struct InFlightTable {
    last_number: u64,
    requests: BTreeMap<u64, InFlightRequest>,
}

/// One request in flight.
#[derive(Clone, Debug)]
pub struct InFlightRequest {
    /// HTTP method.
    pub method: Method,
    /// Path without the query, because a query may contain a token.
    pub path: String,
    /// Remote address of the connection.
    pub caller: SocketAddr,
    /// Arrival time.
    pub since: Instant,
}

/// Slot of one request, freed on drop.
#[derive(Debug)]
pub struct InFlightSlot {
    requests: Arc<InFlightRequests>,
    number: u64,
    since: Instant,
}

impl InFlightRequests {
    /// Creates an empty table with `max` slots.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            max,
            table: Mutex::default(),
        }
    }

    /// Takes a slot in O(log n); `None` if all slots are taken.
    #[must_use]
    pub fn enter(
        self: &Arc<Self>,
        method: &Method,
        uri: &Uri,
        caller: SocketAddr,
    ) -> Option<InFlightSlot> {
        let mut table = self.table();
        if table.requests.len() >= self.max {
            return None;
        }
        let since = Instant::now();
        table.last_number += 1;
        let number = table.last_number;
        let request = InFlightRequest {
            method: method.clone(),
            path: uri.path().to_owned(),
            caller,
            since,
        };
        table.requests.insert(number, request);
        Some(InFlightSlot {
            requests: Arc::clone(self),
            number,
            since,
        })
    }

    /// Number of requests in flight.
    #[must_use]
    pub fn count(&self) -> usize {
        self.table().requests.len()
    }

    /// Number of slots.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }

    /// Snapshot of the requests in flight, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<InFlightRequest> {
        self.table().requests.values().cloned().collect()
    }

    fn table(&self) -> MutexGuard<'_, InFlightTable> {
        // No code under the lock panics.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InFlightSlot {
    /// Arrival time of the request.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }
}

impl Drop for InFlightSlot {
    fn drop(&mut self) {
        self.requests.table().requests.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_bounded_listed_and_freed() {
        let requests = Arc::new(InFlightRequests::new(2));
        let caller = SocketAddr::from(([127, 0, 0, 1], 9));
        let enter =
            |path: &'static str| requests.enter(&Method::GET, &Uri::from_static(path), caller);
        let first = enter("/a?api_token=secret").expect("a free slot");
        let second = enter("/b").expect("a free slot");
        assert!(enter("/c").is_none());
        let paths: Vec<String> = requests.list().into_iter().map(|r| r.path).collect();
        assert_eq!(paths, ["/a", "/b"]);
        drop(first);
        assert_eq!((requests.count(), requests.max()), (1, 2));
        let third = enter("/c").expect("the freed slot");
        assert!(third.since() >= second.since());
    }
}
