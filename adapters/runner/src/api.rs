//! Client of the containers API, with retries bounded in time.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::path::Path;
use std::time::{Duration, Instant};

use longshore_secret::Secret;
use serde_json::{Map, Value};
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use ureq::http::{Method, Request, Response};
use ureq::{Agent, AsSendBody};

use crate::config::Config;
use crate::time_format;
use crate::tls;

/// Timeout of one attempt, from the connection to the last byte of the response.
const ATTEMPT_MAX: Duration = Duration::from_secs(30);

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Maximum size of a response.
const ANSWER_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Maximum duration of a call including retries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetryLimit(pub(crate) Duration);

impl RetryLimit {
    /// Single attempt of at most 3 s, for calls on the critical path of a start.
    pub(crate) const ONCE: Self = Self(Duration::ZERO);
    /// Limit before user code runs: another runner can take the container instead.
    pub(crate) const START: Self = Self(Duration::from_secs(60));
    /// Limit for a result that only this runner can report.
    pub(crate) const RESULT: Self = Self(Duration::from_secs(600));
}

/// Error of an API call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// Refused token: check ARVADOS_API_TOKEN, and that the same token locked the container.
    #[error("{call}: the API refused the token ({text}); check ARVADOS_API_TOKEN")]
    Refused { call: String, text: String },
    /// Rejected request: a retry would not help.
    #[error("{call}: {text}")]
    Rejected {
        call: String,
        status: u16,
        text: String,
    },
    /// API unreachable or failing until the time limit of the call.
    #[error("{call}: gave up after {waited_s} s: {text}")]
    Unavailable {
        call: String,
        waited_s: u64,
        text: String,
    },
    /// Response in an unexpected format: check the URL.
    #[error("{call}: {text}; does ARVADOS_API_HOST name a containers API?")]
    Malformed { call: String, text: String },
    /// Untrusted certificate: name the authority with -ca-certs, or fix the certificate.
    #[error(
        "{call}: the API's certificate is not trusted ({text}); name its authority with -ca-certs"
    )]
    Untrusted { call: String, text: String },
    /// Certificates cannot be loaded.
    #[error("{0}")]
    Trust(String),
}

/// API client with one token.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    agent: Agent,
    base: String,
    token: Secret,
}

enum Outcome {
    Done(Vec<u8>),
    Retry {
        after: Option<Duration>,
        text: String,
    },
    /// The certificate may be fixed soon, but only a result is worth the wait.
    Untrusted(String),
    Fail(ApiError),
}

impl Api {
    pub(crate) fn new(config: &Config, ca_certs: Option<&Path>) -> Result<Self, ApiError> {
        let mut builder = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(ATTEMPT_MAX))
            .timeout_connect(Some(Duration::from_secs(10)))
            .user_agent(concat!("longshore-runner/", env!("CARGO_PKG_VERSION")));
        if config.api_url.starts_with("https:") {
            builder = builder
                .tls_config(tls::config(config.insecure, ca_certs).map_err(ApiError::Trust)?);
        }
        Ok(Self {
            agent: builder.build().into(),
            base: config.api_url.clone(),
            token: config.token.clone(),
        })
    }

    /// Fetches the record of a container.
    pub(crate) fn container(&self, uuid: &str, retry_limit: RetryLimit) -> Result<Value, ApiError> {
        self.get(&format!("arvados/v1/containers/{uuid}"), retry_limit)
    }

    /// Fetches the complete API token of a container.
    pub(crate) fn auth(&self, uuid: &str, retry_limit: RetryLimit) -> Result<Secret, ApiError> {
        let path = format!("arvados/v1/containers/{uuid}/auth");
        let answer = self.get(&path, retry_limit)?;
        let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default();
        match (text("uuid"), text("api_token")) {
            (_, "") => Err(ApiError::Malformed {
                call: format!("GET {path}"),
                text: "api_token is missing".to_owned(),
            }),
            ("", token) => Ok(Secret::new(token)),
            (_, token) if token.starts_with("v2/") => Ok(Secret::new(token)),
            (uuid, token) => Ok(Secret::new(format!("v2/{uuid}/{token}"))),
        }
    }

    /// Changes attributes of a container.
    pub(crate) fn update(
        &self,
        uuid: &str,
        change: &Map<String, Value>,
        retry_limit: RetryLimit,
    ) -> Result<(), ApiError> {
        let path = format!("arvados/v1/containers/{uuid}");
        let change = serde_json::to_string(change).unwrap_or_default();
        let body = format!(
            "container={}&select={}",
            form_encode(&change),
            form_encode("[\"uuid\"]")
        );
        self.call(
            &Method::PUT,
            &path,
            "application/x-www-form-urlencoded",
            body.as_bytes(),
            retry_limit,
        )
        .map(drop)
    }

    /// Appends to a log of a container. `position` is the number of bytes of the stream before
    /// `bytes`: with the position the API recognises bytes repeated after a lost response.
    pub(crate) fn append(
        &self,
        uuid: &str,
        stream: &str,
        position: u64,
        bytes: &[u8],
        retry_limit: RetryLimit,
    ) -> Result<(), ApiError> {
        let path = format!("arvados/v1/containers/{uuid}/log?stream={stream}&position={position}");
        self.call(
            &Method::POST,
            &path,
            "application/octet-stream",
            bytes,
            retry_limit,
        )
        .map(drop)
    }

    fn get(&self, path: &str, retry_limit: RetryLimit) -> Result<Value, ApiError> {
        let bytes = self.call(&Method::GET, path, "", b"", retry_limit)?;
        serde_json::from_slice(&bytes).map_err(|e| ApiError::Malformed {
            call: format!("GET {path}"),
            text: e.to_string(),
        })
    }

    fn call(
        &self,
        method: &Method,
        path: &str,
        kind: &str,
        body: &[u8],
        retry_limit: RetryLimit,
    ) -> Result<Vec<u8>, ApiError> {
        let began = Instant::now();
        let request_id = request_id();
        let mut delay = RETRY_FIRST;
        loop {
            let left = retry_limit
                .0
                .saturating_sub(began.elapsed())
                .max(Duration::from_secs(3))
                .min(ATTEMPT_MAX);
            let (after, text) = match self.attempt(method, path, kind, body, &request_id, left) {
                Outcome::Done(answer) => return Ok(answer),
                Outcome::Fail(error) => return Err(error),
                Outcome::Retry { after, text } => (after, text),
                Outcome::Untrusted(text) if retry_limit.0 >= RetryLimit::RESULT.0 => (None, text),
                Outcome::Untrusted(text) => {
                    let call = format!("{method} {path}");
                    return Err(ApiError::Untrusted { call, text });
                }
            };
            let wait = after.unwrap_or_else(|| jitter(delay));
            if began.elapsed() + wait >= retry_limit.0 {
                let waited_s = began.elapsed().as_secs();
                return Err(ApiError::Unavailable {
                    call: format!("{method} {path}"),
                    waited_s,
                    text,
                });
            }
            std::thread::sleep(wait);
            delay = (delay * 2).min(RETRY_MAX);
        }
    }

    fn attempt(
        &self,
        method: &Method,
        path: &str,
        kind: &str,
        body: &[u8],
        request_id: &str,
        within: Duration,
    ) -> Outcome {
        let call = || format!("{method} {path}");
        let malformed = |text: String| Outcome::Fail(ApiError::Malformed { call: call(), text });
        let request = Request::builder()
            .method(method)
            .uri(format!("{}/{path}", self.base))
            .header(AUTHORIZATION, format!("Bearer {}", self.token.expose()))
            .header("X-Request-Id", request_id);
        let sent = if body.is_empty() {
            self.send(request.body(()), within)
        } else {
            self.send(request.header(CONTENT_TYPE, kind).body(body), within)
        };
        let response = match sent {
            Ok(response) => response,
            Err(ureq::Error::BadUri(text)) => return malformed(text),
            Err(ureq::Error::Http(error)) => return malformed(error.to_string()),
            Err(error) if is_certificate(&error) => return Outcome::Untrusted(error.to_string()),
            Err(error) => {
                return Outcome::Retry {
                    after: None,
                    text: error.to_string(),
                };
            }
        };
        classify(response, call())
    }

    fn send(
        &self,
        request: ureq::http::Result<Request<impl AsSendBody>>,
        within: Duration,
    ) -> Result<Response<ureq::Body>, ureq::Error> {
        let request = request?;
        if within == ATTEMPT_MAX {
            // A request without own settings shares the agent's parsed certificates.
            return self.agent.run(request);
        }
        self.agent.run(
            self.agent
                .configure_request(request)
                .timeout_global(Some(within))
                .build(),
        )
    }
}

fn is_certificate(error: &ureq::Error) -> bool {
    let inner = match error {
        ureq::Error::Rustls(error) => Some(error),
        ureq::Error::Io(error) => error.get_ref().and_then(|inner| inner.downcast_ref()),
        _ => None,
    };
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

/// Classifies a response: success, retryable, or final.
fn classify(mut response: Response<ureq::Body>, call: String) -> Outcome {
    let status = response.status().as_u16();
    let after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| retry_after(value.to_str().ok()?));
    let body = response
        .body_mut()
        .with_config()
        .limit(ANSWER_BYTES_MAX)
        .read_to_vec();
    match (status, body) {
        (200..=299, Ok(body)) => Outcome::Done(body),
        (200..=299, Err(ureq::Error::BodyExceedsLimit(limit))) => {
            Outcome::Fail(ApiError::Malformed {
                call,
                text: format!("the answer exceeds {limit} bytes"),
            })
        }
        (200..=299, Err(error)) => Outcome::Retry {
            after: None,
            text: error.to_string(),
        },
        (429 | 500..=599, body) => Outcome::Retry {
            after,
            text: describe(status, &body.unwrap_or_default()),
        },
        (401 | 403, body) => Outcome::Fail(ApiError::Refused {
            call,
            text: describe(status, &body.unwrap_or_default()),
        }),
        (_, body) => Outcome::Fail(ApiError::Rejected {
            call,
            status,
            text: describe(status, &body.unwrap_or_default()),
        }),
    }
}

/// Returns the status and the API's error text as one short line.
fn describe(status: u16, body: &[u8]) -> String {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let errors = answer.get("errors").and_then(Value::as_array);
    let texts: Vec<&str> = errors
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let text: String = texts.join("; ").chars().take(500).collect();
    if text.is_empty() {
        format!("HTTP {status}")
    } else {
        format!("HTTP {status}: {text}")
    }
}

fn retry_after(text: &str) -> Option<Duration> {
    let seconds = match text.trim().parse::<u32>() {
        Ok(seconds) => f64::from(seconds),
        Err(_) => time_format::http_date(text)? - time_format::now(),
    };
    Duration::try_from_secs_f64(seconds.max(0.0)).ok()
}

/// Returns a random delay between half of `delay` and `delay`, so that retries of many runners are
/// spread.
fn jitter(delay: Duration) -> Duration {
    let half = delay / 2;
    let spread = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_micros(random() % spread)
}

/// Returns a random number. The keys of a hasher are random in every instance: good enough for
/// jitter and request ids.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn request_id() -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut id = String::from("req-");
    for _ in 0..2 {
        let mut number = random();
        for _ in 0..10 {
            id.push(char::from(
                DIGITS[usize::try_from(number % 36).unwrap_or(0)],
            ));
            number /= 36;
        }
    }
    id
}

fn form_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' => {
                out.push(char::from(byte))
            }
            b' ' => out.push('+'),
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_values_are_encoded() {
        assert_eq!(form_encode("a b&c=\"ä\""), "a+b%26c%3D%22%C3%A4%22");
    }

    #[test]
    fn request_ids_are_unique() {
        let (one, two) = (request_id(), request_id());
        assert_eq!(one.len(), 24);
        assert_ne!(one, two);
    }

    #[test]
    fn jitter_is_between_half_and_full() {
        for _ in 0..100 {
            let wait = jitter(Duration::from_millis(100));
            assert!((50..=100).contains(&wait.as_millis()));
        }
    }

    #[test]
    fn only_api_errors_are_shown() {
        assert_eq!(
            describe(422, br#"{"errors":["cannot lock when Running"]}"#),
            "HTTP 422: cannot lock when Running"
        );
        assert_eq!(describe(502, b"<html>"), "HTTP 502");
    }

    #[test]
    fn retry_after_accepts_seconds_and_date() {
        assert_eq!(retry_after("3"), Some(Duration::from_secs(3)));
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(Duration::ZERO)
        );
        assert_eq!(retry_after("soon"), None);
    }
}
