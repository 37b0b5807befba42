//! Reading of a request body, bounded in size and time.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

/// Bytes read and discarded after a body turned out too large, as a multiple of the size limit.
const DRAIN_FACTOR: usize = 4;

/// Bounds of a request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimits {
    /// Maximum size.
    pub bytes: usize,
    /// Maximum time until the last byte has arrived.
    pub timeout: Duration,
}

/// Reasons for not reading a request body.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Larger than [`BodyLimits::bytes`]: send less at a time.
    #[error("request body is larger than {0} bytes")]
    TooLarge(usize),
    /// Incomplete after [`BodyLimits::timeout`]: retry on a faster connection.
    #[error("request body is incomplete after {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// Malformed encoding, or a closed connection: retry.
    #[error("{0}")]
    Broken(axum::Error),
}

/// Reads a whole body into memory.
///
/// A body above the size limit is drained up to four times the limit without being kept, because a
/// client disconnected while sending may never read the response.
///
/// # Errors
/// See [`BodyError`].
pub async fn read_body(body: Body, limits: BodyLimits) -> Result<Bytes, BodyError> {
    tokio::time::timeout(limits.timeout, collect(body, limits.bytes))
        .await
        .unwrap_or(Err(BodyError::Timeout(limits.timeout)))
}

async fn collect(body: Body, bytes_max: usize) -> Result<Bytes, BodyError> {
    let mut chunks = body.into_data_stream();
    let mut whole = BytesMut::new();
    let mut received = 0_usize;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(BodyError::Broken)?;
        received = received.saturating_add(chunk.len());
        if received <= bytes_max {
            whole.extend_from_slice(&chunk);
        } else if received > bytes_max.saturating_mul(DRAIN_FACTOR) {
            break;
        }
    }
    if received > bytes_max {
        return Err(BodyError::TooLarge(bytes_max));
    }
    Ok(whole.freeze())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;

    use super::*;

    const LIMITS: BodyLimits = BodyLimits {
        bytes: 4,
        timeout: Duration::from_millis(50),
    };

    #[tokio::test]
    async fn body_at_limit_is_read() {
        let body = read_body(Body::from("abcd"), LIMITS).await;
        assert_eq!(body.expect("within the limit"), "abcd");
    }

    #[tokio::test]
    async fn body_above_limit_is_refused() {
        for body in ["abcde", "a body above four times the limit"] {
            let error = read_body(Body::from(body), LIMITS).await;
            assert!(matches!(error, Err(BodyError::TooLarge(4))), "{error:?}");
        }
    }

    #[tokio::test]
    async fn stalled_body_times_out() {
        let body = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let error = read_body(body, LIMITS).await;
        assert!(matches!(error, Err(BodyError::Timeout(_))), "{error:?}");
    }

    #[tokio::test]
    async fn failing_body_is_broken() {
        let chunks = [Ok(Bytes::from("a")), Err(std::io::Error::other("reset"))];
        let error = read_body(Body::from_stream(stream::iter(chunks)), LIMITS).await;
        assert!(matches!(error, Err(BodyError::Broken(_))), "{error:?}");
    }
}
