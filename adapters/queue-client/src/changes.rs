//! Change hints of the built-in queue: server-sent events with ignored content.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Response, StatusCode};

use super::transport::Transport;

const PATH: &str = "arvados/v1/containers/events";
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// Also the interval for an API without an event stream.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Timeout without data; the queue sends data at least every 15 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Result of an attempt.
enum End {
    /// Stream was open and has ended.
    Closed,
    /// Stream could not be opened.
    Failed,
    /// API has no event stream.
    Absent,
}

/// Follows the stream, with reconnects; never returns.
pub(super) async fn follow(transport: &Transport, mut hint: impl FnMut()) {
    let mut backoff = BACKOFF_MIN;
    loop {
        let end = follow_once(transport, &mut hint).await;
        backoff = match end {
            End::Closed => BACKOFF_MIN,
            End::Failed => backoff,
            End::Absent => BACKOFF_MAX,
        };
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

async fn follow_once(transport: &Transport, hint: &mut impl FnMut()) -> End {
    let opened = tokio::time::timeout(IDLE_TIMEOUT, transport.events(PATH)).await;
    let response = match opened {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            tracing::debug!(%error, "no event stream of changes");
            return End::Failed;
        }
        Err(_) => return End::Failed,
    };
    let status = response.status();
    if status.is_success() && is_event_stream(&response) {
        read_events(response, hint).await;
        return End::Closed;
    }
    tracing::debug!(%status, "no event stream of changes");
    let busy = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    if busy { End::Failed } else { End::Absent }
}

fn is_event_stream(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("text/event-stream"))
}

async fn read_events(mut response: Response, hint: &mut impl FnMut()) {
    let mut lines = DataLines::default();
    loop {
        let chunk = tokio::time::timeout(IDLE_TIMEOUT, response.chunk()).await;
        let Ok(Ok(Some(chunk))) = chunk else {
            return;
        };
        if lines.push(&chunk) {
            hint();
        }
    }
}

/// Detects lines that begin with `data:`, of any length, in pieces of any size.
#[derive(Default)]
struct DataLines {
    /// Number of leading bytes of the current line equal to [`Self::PREFIX`]; `None` after a
    /// mismatch.
    matched: Matched,
}

#[derive(Clone, Copy)]
struct Matched(Option<usize>);

impl Default for Matched {
    fn default() -> Self {
        Self(Some(0))
    }
}

impl DataLines {
    const PREFIX: &[u8] = b"data:";

    /// True if a data line ended within this piece.
    fn push(&mut self, piece: &[u8]) -> bool {
        let mut found = false;
        for byte in piece {
            self.matched.0 = match (*byte, self.matched.0) {
                (b'\n' | b'\r', matched) => {
                    found |= matched == Some(Self::PREFIX.len());
                    Some(0)
                }
                (_, Some(n)) if n == Self::PREFIX.len() => Some(n),
                (byte, Some(n)) if byte == Self::PREFIX[n] => Some(n + 1),
                _ => None,
            };
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_data_lines_count() {
        let mut lines = DataLines::default();
        assert!(!lines.push(b": keep-alive\n\nevent: change\n"));
        assert!(!lines.push(b"da"));
        assert!(!lines.push(b"ta: {\"uuid\":1}"));
        assert!(lines.push(b"\n\n"));
        assert!(!lines.push(b"\n"));
        assert!(!lines.push(b"xdata: 1\ndat\n"));
        assert!(lines.push(b"data:\r\n"));
    }
}
