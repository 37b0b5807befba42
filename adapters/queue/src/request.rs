//! Layers around the handlers, and extractors of the parts of a request.
//!
//! Order: [`identify`] outside of the router, then [`admit`] inside, then the extractors. So an
//! unauthenticated caller gets 401 even for an unknown path, and no body is read before the caller
//! and the path are known.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use longshore_http::{InFlightSlot, read_body, request_id};
use longshore_secret::Secret;

use crate::app::App;
use crate::error::ApiError;
use crate::ids;
use crate::params::Params;
use crate::token::{self, Caller};

/// Route of the lock action, with special treatment under load.
pub(crate) const LOCK_PATH: &str = "/arvados/v1/containers/{uuid}/lock";

static METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");

/// Path as sent, before the removal of trailing slashes: for error messages.
#[derive(Clone, Debug)]
pub(crate) struct SentPath(pub(crate) Arc<str>);

/// Outermost layer: assigns the request id, applies `X-Http-Method-Override`, removes trailing
/// slashes from the path, and renders errors.
///
/// Runs before the router, because the router matches the changed method and path.
pub(crate) async fn identify(request: Request, next: Next) -> Response {
    let id = match request_id::from_headers(request.headers()) {
        Some(id) => id.to_owned(),
        None => match request_id::create() {
            Ok(id) => id,
            Err(error) => return ApiError::from(error).render("req-unknown"),
        },
    };
    let mut response = match normalize(request) {
        Ok(request) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        response = error.render(&id);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(request_id::HEADER, value);
    }
    response
}

fn normalize(mut request: Request) -> Result<Request, ApiError> {
    *request.method_mut() = effective_method(request.method(), request.headers())?;
    let sent_path = SentPath(request.uri().path().into());
    request.extensions_mut().insert(sent_path);
    if let Some(uri) = without_trailing_slashes(request.uri()) {
        *request.uri_mut() = uri;
    }
    Ok(request)
}

/// Method of the request, or of `X-Http-Method-Override` on a POST: a client sends a GET with
/// parameters too long for a URL as a POST.
fn effective_method(method: &Method, headers: &HeaderMap) -> Result<Method, ApiError> {
    match headers.get(&METHOD_OVERRIDE) {
        Some(value) if *method == Method::POST => match value.as_bytes() {
            b"GET" => Ok(Method::GET),
            b"PUT" => Ok(Method::PUT),
            b"PATCH" => Ok(Method::PATCH),
            b"DELETE" => Ok(Method::DELETE),
            _ => Err(ApiError::malformed(
                "X-Http-Method-Override: expected GET, PUT, PATCH or DELETE",
            )),
        },
        _ => Ok(method.clone()),
    }
}

/// Returns the URI with the trailing slashes of the path removed; `None` if there are none.
fn without_trailing_slashes(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() || trimmed.len() == path.len() {
        return None;
    }
    let text = match uri.query() {
        Some(query) => format!("{trimmed}?{query}"),
        None => trimmed.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(text).ok()?);
    Uri::from_parts(parts).ok()
}

/// Inner layer, for all routes and for unknown paths: takes a slot in flight for the time until the
/// response, and authenticates the caller.
pub(crate) async fn admit(
    State(app): State<Arc<App>>,
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let _slot = enter(&app, &request, remote)?;
    let caller = authenticate(&app, request.headers()).await?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// Takes a slot in flight. Locks are refused first, at half of the slots: under load, finishing
/// running containers counts for more than starting new ones.
fn enter(app: &App, request: &Request, remote: SocketAddr) -> Result<InFlightSlot, ApiError> {
    let too_busy = || ApiError::overloaded("too many requests are in work: try again in a second");
    let in_flight = &app.in_flight;
    let free = in_flight.max().saturating_sub(in_flight.count());
    if is_lock(request) && free <= in_flight.max() / 2 {
        return Err(too_busy());
    }
    in_flight
        .enter(request.method(), request.uri(), remote)
        .ok_or_else(too_busy)
}

fn is_lock(request: &Request) -> bool {
    let path = request.extensions().get::<MatchedPath>();
    request.method() == Method::POST && path.is_some_and(|path| path.as_str() == LOCK_PATH)
}

async fn authenticate(app: &App, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let value = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let token = value
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| {
            scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("oauth2")
        })
        .map(|(_, token)| Secret::new(token.trim()))
        .ok_or_else(ApiError::unauthorized)?;
    app.store
        .read(move |tx| token::authenticate(tx, &token))
        .await
}

/// Container uuid of the path.
pub(crate) struct ContainerUuid(pub(crate) String);

impl<S: Sync> FromRequestParts<S> for ContainerUuid {
    type Rejection = ApiError;

    /// Takes the segment as sent: an escaped uuid (`%2D`) is refused, in contrast to the `Path`
    /// extractor of axum.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let uuid = parts.uri.path().split('/').nth(4).unwrap_or_default();
        if ids::is_container_uuid(uuid) {
            Ok(Self(uuid.to_owned()))
        } else {
            let shown: String = uuid.chars().take(64).collect();
            Err(ApiError::no_container(&shown))
        }
    }
}

/// Authenticated request with the parameters of query and body.
pub(crate) struct Call {
    pub(crate) caller: Caller,
    pub(crate) params: Params,
}

/// Authenticated request with the parameters of the query, and an uninterpreted body.
pub(crate) struct RawCall {
    pub(crate) caller: Caller,
    pub(crate) params: Params,
    pub(crate) body: Bytes,
}

impl FromRequest<Arc<App>> for Call {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let content_type = request.headers().get(header::CONTENT_TYPE).cloned();
        let raw = RawCall::from_request(request, app).await?;
        let mut params = raw.params;
        let content_type = content_type.as_ref().and_then(|v| v.to_str().ok());
        params.add_body(content_type, &raw.body)?;
        Ok(Self {
            caller: raw.caller,
            params,
        })
    }
}

impl FromRequest<Arc<App>> for RawCall {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let caller = parts
            .extensions
            .remove::<Caller>()
            .ok_or_else(|| ApiError::internal("a request without a caller"))?;
        Ok(Self {
            caller,
            params: Params::from_query(parts.uri.query().unwrap_or_default()),
            body: read_body(body, app.body_limits()).await?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_slashes_are_removed() {
        let trim = |text: &'static str| {
            without_trailing_slashes(&Uri::from_static(text)).map(|uri| uri.to_string())
        };
        assert_eq!(trim("/a/b//?x=/"), Some("/a/b?x=/".to_owned()));
        assert_eq!(
            trim("http://h:1/a/").as_deref(),
            Some("http://h:1/a"),
            "an absolute URI stays absolute"
        );
        for unchanged in ["/", "//", "/a", "/a?x=/", "*"] {
            assert_eq!(trim(unchanged), None, "{unchanged}");
        }
    }
}
