//! Authentication by the management token.

use axum::http::{HeaderMap, StatusCode, header};
use longshore_secret::Secret;

use crate::error::ApiError;

/// Route of the health check.
pub(crate) const PING_PATH: &str = "/_health/ping";

/// Checks the management token. `path` is the matched route; `None` for an unknown path, hidden from
/// unauthenticated callers.
pub(crate) fn check(
    token: &Secret,
    headers: &HeaderMap,
    path: Option<&str>,
) -> Result<(), ApiError> {
    if token.is_empty() {
        // As in the peer: without a configured token there is no health check at all.
        return Err(match path {
            Some(PING_PATH) => ApiError::plain(
                StatusCode::NOT_FOUND,
                "no health check: ManagementToken is not configured",
            ),
            _ => ApiError::plain(
                StatusCode::FORBIDDEN,
                "Management API authentication is not configured",
            ),
        });
    }
    let shown = bearer(headers).ok_or_else(|| {
        ApiError::plain(
            StatusCode::UNAUTHORIZED,
            "give the management token: Authorization: Bearer TOKEN",
        )
    })?;
    // `Secret` compares in constant time.
    if shown == *token {
        Ok(())
    } else {
        let message = "this is not the management token";
        Err(ApiError::plain(StatusCode::FORBIDDEN, message))
    }
}

/// Token of `Authorization: Bearer TOKEN`.
fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| Secret::new(token))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn status(token: &str, header: Option<&str>) -> Option<u16> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            let value = HeaderValue::from_str(header).expect("a header");
            headers.insert(header::AUTHORIZATION, value);
        }
        let checked = check(&Secret::new(token), &headers, Some("/metrics"));
        checked.err().map(|error| error.status.as_u16())
    }

    #[test]
    fn only_exact_token_is_accepted() {
        assert_eq!(status("abc", Some("Bearer abc")), None);
        assert_eq!(status("abc", Some("bearer  abc ")), None);
        for wrong in ["Bearer ab", "Bearer abcd", "Bearer ABC", "Bearer xyz"] {
            assert_eq!(status("abc", Some(wrong)), Some(403), "{wrong}");
        }
        for none in ["", "abc", "Bearer", "Bearer ", "Basic YWJj"] {
            assert_eq!(status("abc", Some(none)), Some(401), "{none}");
        }
        assert_eq!(status("abc", None), Some(401));
    }

    #[test]
    fn unconfigured_token_refuses_all_callers() {
        for header in [None, Some("Bearer "), Some("Bearer abc")] {
            assert_eq!(status("", header), Some(403));
        }
    }
}
