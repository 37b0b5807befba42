//! The requests being worked on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::http::{Method, Uri};
use serde_json::{Value, json};

/// All of them, bounded.
#[derive(Debug)]
pub(crate) struct Requests {
    max: usize,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    last: u64,
    active: BTreeMap<u64, Active>,
}

#[derive(Debug)]
struct Active {
    method: Method,
    /// Without the query: somebody may have put a token there.
    path: String,
    caller: SocketAddr,
    since: Instant,
}

/// A place among the requests being worked on, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    requests: Arc<Requests>,
    number: u64,
    pub(crate) since: Instant,
}

impl Requests {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            book: Mutex::default(),
        }
    }

    /// Takes a request on, unless there are too many.
    pub(crate) fn enter(
        self: &Arc<Self>,
        method: &Method,
        uri: &Uri,
        caller: SocketAddr,
    ) -> Option<Place> {
        let mut book = self.book();
        if book.active.len() >= self.max {
            return None;
        }
        let since = Instant::now();
        book.last += 1;
        let number = book.last;
        let active = Active {
            method: method.clone(),
            path: uri.path().to_owned(),
            caller,
            since,
        };
        book.active.insert(number, active);
        Some(Place {
            requests: Arc::clone(self),
            number,
            since,
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.book().active.len()
    }

    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// Oldest first.
    pub(crate) fn list(&self) -> Value {
        let book = self.book();
        let each = book.active.values().map(|request| {
            json!({
                "method": request.method.as_str(),
                "path": request.path,
                "remote_addr": request.caller.to_string(),
                "elapsed_seconds": request.since.elapsed().as_secs_f64(),
            })
        });
        each.collect()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing that could panic is done under the lock.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.requests.book().active.remove(&self.number);
    }
}
