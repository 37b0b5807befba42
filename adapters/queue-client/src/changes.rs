//! Hints of the built-in queue that something changed: server-sent events, of which only the coming
//! counts.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Response, StatusCode};

use super::transport::Transport;

const PATH: &str = "arvados/v1/containers/events";
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Also for an API that has no such stream.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// The queue says something at least every 15 s; after so long it is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How one attempt ended.
enum End {
    /// It was open for a while.
    Closed,
    /// It could not be opened.
    Failed,
    /// The API has no such thing.
    Absent,
}

/// Follows the stream, again and again; never returns.
pub(super) async fn follow(transport: &Transport, mut hint: impl FnMut()) {
    let mut pause = PAUSE_MIN;
    loop {
        let end = follow_once(transport, &mut hint).await;
        pause = match end {
            End::Closed => PAUSE_MIN,
            End::Failed => pause,
            End::Absent => PAUSE_MAX,
        };
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn follow_once(transport: &Transport, hint: &mut impl FnMut()) -> End {
    let opened = tokio::time::timeout(SILENCE_MAX, transport.events(PATH)).await;
    let response = match opened {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            tracing::debug!(%error, "no stream of changes");
            return End::Failed;
        }
        Err(_) => return End::Failed,
    };
    let status = response.status();
    if status.is_success() && is_event_stream(&response) {
        read_events(response, hint).await;
        return End::Closed;
    }
    tracing::debug!(%status, "no stream of changes");
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
        let chunk = tokio::time::timeout(SILENCE_MAX, response.chunk()).await;
        let Ok(Ok(Some(chunk))) = chunk else {
            return;
        };
        if lines.push(&chunk) {
            hint();
        }
    }
}

/// Finds lines that begin with `data:`, of any length, in pieces of any size.
#[derive(Default)]
struct DataLines {
    /// How many bytes of the current line were like [`Self::PREFIX`]; absent once one was not.
    like: Like,
}

#[derive(Clone, Copy)]
struct Like(Option<usize>);

impl Default for Like {
    fn default() -> Self {
        Self(Some(0))
    }
}

impl DataLines {
    const PREFIX: &[u8] = b"data:";

    /// Whether a line with data ended within this piece.
    fn push(&mut self, piece: &[u8]) -> bool {
        let mut found = false;
        for byte in piece {
            self.like.0 = match (*byte, self.like.0) {
                (b'\n' | b'\r', like) => {
                    found |= like == Some(Self::PREFIX.len());
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
    fn only_whole_lines_of_data_count() {
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
