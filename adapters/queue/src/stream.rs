//! Open-ended answers: event streams and followed logs.
//!
//! Each holds a permit, ends with the server, and keeps at most one piece in memory.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::error::ApiError;
use crate::events::Change;
use crate::logs::{self, Output, Slice};
use crate::store::Store;
use crate::token::Caller;

const FOLLOW_PIECE_BYTES: usize = 64 << 10;
/// Interval of database checks for followers: another process may write to the same database
/// without a wake-up here.
const FOLLOW_RECHECK: Duration = Duration::from_secs(2);
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Signal for the end of all streams at server shutdown.
pub(crate) type Stop = watch::Receiver<bool>;

struct Subscription {
    changes: broadcast::Receiver<Change>,
    /// Owner of the visible containers; `None` for all.
    only_owner: Option<String>,
    stop: Stop,
    is_new: bool,
    _permit: OwnedSemaphorePermit,
}

/// Event stream: `ready` first, then `change` and `deleted` events, and `lost` for a slow
/// subscriber, which should read the list again.
pub(crate) fn events(
    changes: broadcast::Receiver<Change>,
    caller: &Caller,
    stop: Stop,
    permit: OwnedSemaphorePermit,
) -> Response {
    let only_owner = (!caller.is_dispatcher()).then(|| caller.owner.clone());
    let subscription = Subscription {
        changes,
        only_owner,
        stop,
        is_new: true,
        _permit: permit,
    };
    let events = stream::unfold(subscription, |mut subscription| async move {
        let event = subscription.next().await?;
        Some((Ok::<_, Infallible>(event), subscription))
    });
    Sse::new(events)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response()
}

impl Subscription {
    async fn next(&mut self) -> Option<Event> {
        if std::mem::take(&mut self.is_new) {
            return Some(Event::default().event("ready").data("{}"));
        }
        loop {
            let received = tokio::select! {
                received = self.changes.recv() => received,
                _ = self.stop.wait_for(|is_stopping| *is_stopping) => return None,
            };
            match received {
                Ok(change) if change.is_visible_to(self.only_owner.as_deref()) => {
                    return Some(event_of(&change));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    let data = json!({ "missed": missed }).to_string();
                    return Some(Event::default().event("lost").data(data));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

fn event_of(change: &Change) -> Event {
    let (name, data) = match change {
        Change::Record {
            uuid,
            state,
            priority,
            ..
        } => (
            "change",
            json!({ "uuid": &**uuid, "state": state, "priority": priority }),
        ),
        Change::Deleted { uuid, .. } | Change::Log { uuid } => {
            ("deleted", json!({ "uuid": &**uuid }))
        }
    };
    Event::default().event(name).data(data.to_string())
}

/// Followed log.
pub(crate) struct Follow {
    pub(crate) store: Store,
    pub(crate) touched: broadcast::Receiver<Arc<str>>,
    pub(crate) caller: Caller,
    pub(crate) uuid: String,
    pub(crate) output: Option<Output>,
    pub(crate) offset: u64,
    /// Bytes still to send; `None` means until the end.
    pub(crate) left: Option<usize>,
    pub(crate) stop: Stop,
    /// Permit for a stream, held until dropped.
    pub(crate) _permit: OwnedSemaphorePermit,
}

impl Follow {
    /// Body with the log from the offset on, open until the container is final and all bytes are
    /// sent.
    pub(crate) fn into_body(self) -> Body {
        Body::from_stream(stream::unfold(Some(self), |follow| async move {
            let mut follow = follow?;
            match follow.next().await {
                Ok(Some(data)) => Some((Ok(data), Some(follow))),
                Ok(None) => None,
                // The body ends with an error, so that the reader does not take it for complete.
                Err(error) => Some((Err(std::io::Error::other(error.message)), None)),
            }
        }))
    }

    async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            if self.left == Some(0) || *self.stop.borrow() {
                return Ok(None);
            }
            let slice = self.read().await?;
            self.offset = slice.next_offset;
            if !slice.data.is_empty() {
                self.left = self.left.map(|left| left.saturating_sub(slice.data.len()));
                return Ok(Some(slice.data.into()));
            }
            if slice.is_end {
                return Ok(None);
            }
            self.wait().await;
        }
    }

    async fn read(&self) -> Result<Slice, ApiError> {
        let (caller, uuid) = (self.caller.clone(), self.uuid.clone());
        let (output, offset) = (self.output, self.offset);
        let limit = self.left.unwrap_or(usize::MAX).min(FOLLOW_PIECE_BYTES);
        self.store
            .read(move |tx| logs::read(tx, &caller, &uuid, output, offset, limit))
            .await
    }

    /// Waits for a change of the container, the end of the server, or the next check.
    async fn wait(&mut self) {
        let Self {
            touched,
            uuid,
            stop,
            ..
        } = self;
        let touch = async {
            loop {
                match touched.recv().await {
                    Ok(touched) if *touched != **uuid => {}
                    Ok(_) | Err(RecvError::Lagged(_) | RecvError::Closed) => return,
                }
            }
        };
        tokio::select! {
            () = touch => {}
            _ = stop.wait_for(|is_stopping| *is_stopping) => {}
            () = tokio::time::sleep(FOLLOW_RECHECK) => {}
        }
    }
}
