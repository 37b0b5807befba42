//! Request ids: one id in the logs of client and server, sent as `X-Request-Id`.

use axum::http::{HeaderMap, HeaderName};

use crate::random::{NoRandomness, base36};

/// Name of the header.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Maximum length of an accepted id, in bytes.
const BYTES_MAX: usize = 64;
/// 20 digits of base 36 hold 103 bits.
const DIGITS: usize = 20;

/// Creates an id: `req-` and 20 random digits.
///
/// # Errors
/// [`NoRandomness`].
pub fn create() -> Result<String, NoRandomness> {
    Ok(format!("req-{}", base36(DIGITS)?))
}

/// Returns the id sent by the caller if it is safe in a log line: 1 to 64 bytes of
/// `0-9A-Za-z-_.`.
#[must_use]
pub fn from_headers(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(HEADER)?.to_str().ok()?;
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    ((1..=BYTES_MAX).contains(&id.len()) && id.bytes().all(is_safe)).then_some(id)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn accepted(id: &str) -> bool {
        let value = HeaderValue::from_str(id).expect("a header value");
        let headers = HeaderMap::from_iter([(HEADER, value)]);
        from_headers(&headers) == Some(id)
    }

    #[test]
    fn created_ids_are_accepted_and_differ() {
        let ids = [create(), create()].map(|id| id.expect("randomness"));
        assert_ne!(ids[0], ids[1]);
        for id in ids {
            assert!(id.len() == 24 && id.starts_with("req-"), "{id}");
            assert!(accepted(&id), "{id}");
        }
    }

    #[test]
    fn unsafe_ids_are_refused() {
        assert!(accepted(&"x".repeat(64)));
        for id in ["", "two words", "a<b>", &"x".repeat(65)] {
            assert!(!accepted(id), "{id:?}");
        }
    }
}
