//! Whether a caller may.

use axum::http::{HeaderMap, StatusCode, header};
use longshore_secret::Secret;

use crate::error::ApiError;
use crate::route::Route;

/// Lets a caller in who shows the management token. `route` is `None` where the path leads nowhere:
/// who is not let in does not learn that.
pub(crate) fn check(
    token: &Secret,
    headers: &HeaderMap,
    route: Option<Route>,
) -> Result<(), ApiError> {
    if token.is_empty() {
        // As the peer has it: without a token there is no health check at all.
        return Err(match route {
            Some(Route::Ping) => ApiError::plain(
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
    // Comparison takes the same time wherever the texts differ.
    if shown == *token {
        Ok(())
    } else {
        let message = "this is not the management token";
        Err(ApiError::plain(StatusCode::FORBIDDEN, message))
    }
}

/// The token of `Authorization: Bearer TOKEN`, if there is one.
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
        let checked = check(&Secret::new(token), &headers, Some(Route::Metrics));
        checked.err().map(|error| error.status.as_u16())
    }

    #[test]
    fn only_the_whole_token_lets_in() {
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
    fn without_a_token_nobody_is_let_in() {
        for header in [None, Some("Bearer "), Some("Bearer abc")] {
            assert_eq!(status("", header), Some(403));
        }
    }
}
