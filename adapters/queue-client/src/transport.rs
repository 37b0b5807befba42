//! HTTP requests: transfer of parameters, and meaning of responses.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use longshore_core::input::QueueError;
use longshore_core::time::Timestamp;
use longshore_http::request_id;
use longshore_secret::Secret;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Certificate, Method, Response, StatusCode, Url, redirect};
use serde_json::Value;

use super::limiter::Limiter;
use super::{ApiSettings, ClientError};

/// Parameters by name, as transferred: plain text or JSON.
pub(super) type Params = BTreeMap<&'static str, String>;

const CONNECT_MAX: Duration = Duration::from_secs(30);
/// Longer responses are invalid.
const ANSWER_BYTES_MAX: usize = 128 << 20;
/// Parameters of this size or above are sent in the body instead of the URL.
const QUERY_BYTES_MAX: usize = 1000;
/// Longer error messages are truncated.
const MESSAGE_CHARS_MAX: usize = 1000;
const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");

/// Operation of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Post,
    Put,
}

/// Sends requests, without retries.
#[derive(Debug)]
pub(super) struct Transport {
    http: reqwest::Client,
    base: Url,
    authorization: HeaderValue,
    token: Secret,
    limiter: Limiter,
}

impl Transport {
    pub(super) fn new(settings: ApiSettings) -> Result<Self, ClientError> {
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_MAX)
            .tcp_keepalive(CONNECT_MAX)
            // The token must not be sent to another server.
            .redirect(redirect::Policy::none())
            .tls_danger_accept_invalid_certs(settings.insecure);
        if let Some(pem) = &settings.ca_pem {
            let bundle = Certificate::from_pem_bundle(pem).map_err(ClientError::BadCertificates)?;
            http = http.tls_certs_merge(bundle);
        }
        let bearer = format!("Bearer {}", settings.token.expose());
        let mut authorization = HeaderValue::try_from(bearer).map_err(|_| ClientError::BadToken)?;
        authorization.set_sensitive(true);
        Ok(Self {
            http: http.build().map_err(ClientError::NoClient)?,
            base: base_url(&settings.base_url)?,
            authorization,
            token: settings.token,
            limiter: Limiter::new(settings.concurrency_max),
        })
    }

    pub(super) fn last_503(&self) -> Option<Timestamp> {
        let since = self
            .limiter
            .last_503()?
            .duration_since(SystemTime::UNIX_EPOCH);
        let nanos = since.ok().and_then(|d| u64::try_from(d.as_nanos()).ok())?;
        Some(Timestamp::from_nanos(nanos))
    }

    /// Sends a request and returns the response body; null for status 204.
    pub(super) async fn call(
        &self,
        verb: Verb,
        path: &str,
        params: &Params,
    ) -> Result<Value, QueueError> {
        let request = self.request(verb, path, params)?;
        let permit = self.limiter.enter().await;
        let response = request.send().await.map_err(|e| failed(path, &e))?;
        let status = response.status();
        match status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => permit.overloaded(),
            _ if status.is_success() || status.is_redirection() => permit.succeeded(),
            _ => {}
        }
        let body = read_body(response, path).await;
        if !status.is_success() {
            // The status decides alone: the body may be missing.
            return Err(self.refusal(path, status, &body.unwrap_or_default()));
        }
        if status == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body?)
            .map_err(|e| unavailable(path, format!("an answer that is not JSON: {e}")))
    }

    /// Opens the event stream; not limited, since the stream stays open.
    pub(super) async fn events(&self, path: &str) -> Result<Response, reqwest::Error> {
        let url = self.base.join(path).unwrap_or_else(|_| self.base.clone());
        let request = self
            .http
            .get(url)
            .header(AUTHORIZATION, self.authorization.clone())
            .header(ACCEPT, HeaderValue::from_static("text/event-stream"));
        request.send().await
    }

    fn request(
        &self,
        verb: Verb,
        path: &str,
        params: &Params,
    ) -> Result<reqwest::RequestBuilder, QueueError> {
        let mut url = self
            .base
            .join(path)
            .map_err(|e| unavailable(path, e.to_string()))?;
        if !params.is_empty() {
            url.query_pairs_mut().extend_pairs(params);
        }
        let encoded = url.query().unwrap_or_default().to_owned();
        let in_url = verb == Verb::Get && encoded.len() < QUERY_BYTES_MAX;
        if !in_url {
            url.set_query(None);
        }
        let method = match verb {
            Verb::Get if in_url => Method::GET,
            Verb::Get | Verb::Post => Method::POST,
            Verb::Put => Method::PUT,
        };
        let mut request = self
            .http
            .request(method, url)
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, FORM);
        if let Ok(id) = request_id::create() {
            request = request.header(request_id::HEADER, id);
        }
        if in_url {
            return Ok(request);
        }
        if verb == Verb::Get {
            request = request.header("X-Http-Method-Override", "GET");
        }
        Ok(request.body(encoded))
    }

    /// Error for a response other than success.
    fn refusal(&self, path: &str, status: StatusCode, body: &[u8]) -> QueueError {
        let text = self.without_token(&api_message(body));
        let message = format!(
            "{path}: {status}{}{text}",
            if text.is_empty() { "" } else { ": " }
        );
        match status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                QueueError::Overloaded(message)
            }
            StatusCode::UNAUTHORIZED => QueueError::Refused(format!(
                "the token is wrong or has expired: put a valid one into SystemRootToken ({message})"
            )),
            _ if status.is_client_error() => QueueError::Refused(message),
            _ => QueueError::Unavailable(message),
        }
    }

    /// Replaces the token, since servers may quote the request.
    fn without_token(&self, text: &str) -> String {
        if self.token.is_empty() {
            return text.to_owned();
        }
        text.replace(self.token.expose(), "…")
    }
}

fn base_url(text: &str) -> Result<Url, ClientError> {
    let bad = || ClientError::BadUrl(text.to_owned());
    // Without the slash `join` would replace the last part of the path.
    let url = Url::parse(&format!("{}/", text.trim_end_matches('/'))).map_err(|_| bad())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !url.username().is_empty() {
        return Err(bad());
    }
    Ok(url)
}

async fn read_body(mut response: Response, path: &str) -> Result<Vec<u8>, QueueError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| failed(path, &e))? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(unavailable(path, "an answer of more than 128 MiB".into()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Texts under `errors` of a JSON body; for other bodies, the beginning.
fn api_message(body: &[u8]) -> String {
    let json: Option<Value> = serde_json::from_slice(body).ok();
    let errors = json
        .as_ref()
        .and_then(|json| json.get("errors")?.as_array());
    let text = match errors {
        Some(errors) => {
            let texts: Vec<String> = errors
                .iter()
                .map(|e| e.as_str().map_or_else(|| e.to_string(), str::to_owned))
                .collect();
            texts.join("; ")
        }
        None => String::from_utf8_lossy(body).into_owned(),
    };
    text.trim().chars().take(MESSAGE_CHARS_MAX).collect()
}

/// Error of a request without response, with all causes but without the URL, whose parameters are
/// long.
fn failed(path: &str, error: &reqwest::Error) -> QueueError {
    let mut message = if error.is_connect() {
        "not connected".to_owned()
    } else {
        "no proper answer".to_owned()
    };
    let mut cause = std::error::Error::source(error);
    while let Some(e) = cause {
        message = format!("{message}: {e}");
        cause = e.source();
    }
    unavailable(path, message)
}

fn unavailable(path: &str, message: String) -> QueueError {
    let message: String = message.chars().take(MESSAGE_CHARS_MAX).collect();
    QueueError::Unavailable(format!("{path}: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_url_requires_host() {
        let base = |text| base_url(text).map(|u| u.to_string()).ok();
        assert_eq!(base("https://a.b"), Some("https://a.b/".into()));
        assert_eq!(base("http://a.b/c"), Some("http://a.b/c/".into()));
        for wrong in ["", "a.b", "ftp://a.b", "https://", "https://me:pw@a.b"] {
            assert_eq!(base(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn error_message_comes_from_body() {
        assert_eq!(api_message(br#"{"errors":["a","b"]}"#), "a; b");
        assert_eq!(api_message(br#"{"errors":[{"x":1}]}"#), r#"{"x":1}"#);
        assert_eq!(api_message(b"<html>"), "<html>");
        assert_eq!(api_message(&[b'x'; 5000]).len(), MESSAGE_CHARS_MAX);
    }
}
