//! The containers API, with retries that are bounded in time.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::path::Path;
use std::time::{Duration, Instant};

use longshore_secret::Secret;
use serde_json::{Map, Value};
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use ureq::http::{Method, Request, Response};
use ureq::{Agent, AsSendBody};

use crate::clock;
use crate::config::Config;
use crate::tls;

/// One attempt, from the connection to the last byte of the answer.
const ATTEMPT_MAX: Duration = Duration::from_secs(30);

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// A longer answer is refused.
const ANSWER_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// How long a call may go on retrying.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience(pub(crate) Duration);

impl Patience {
    /// A single attempt that may take 3 s: somebody waits for it.
    pub(crate) const ONCE: Self = Self(Duration::ZERO);
    /// Before user code runs: another runner can take the container instead.
    pub(crate) const START: Self = Self(Duration::from_secs(60));
    /// For a result that nobody else can report.
    pub(crate) const RESULT: Self = Self(Duration::from_secs(600));
}

/// Why the API did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// Check ARVADOS_API_TOKEN, and that this token locked the container.
    #[error("{call}: the API refused the token ({text}); check ARVADOS_API_TOKEN")]
    Refused { call: String, text: String },
    /// The API understood and said no: retrying would not help.
    #[error("{call}: {text}")]
    Rejected {
        call: String,
        status: u16,
        text: String,
    },
    /// The API could not be reached, or could not cope, for as long as the call could wait.
    #[error("{call}: gave up after {waited_s} s: {text}")]
    Unavailable {
        call: String,
        waited_s: u64,
        text: String,
    },
    /// The answer is not what the API promises: is the URL right?
    #[error("{call}: {text}; does ARVADOS_API_HOST name a containers API?")]
    Malformed { call: String, text: String },
    /// The server is not who it should be: name its authority with -ca-certs, or mend its certificate.
    #[error(
        "{call}: the API's certificate is not trusted ({text}); name its authority with -ca-certs"
    )]
    Untrusted { call: String, text: String },
    /// Certificates cannot be loaded.
    #[error("{0}")]
    Trust(String),
}

/// A client with one token.
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
    /// Somebody may be mending it, but only a result is worth waiting for that.
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

    /// The record of a container.
    pub(crate) fn container(&self, uuid: &str, patience: Patience) -> Result<Value, ApiError> {
        self.get(&format!("arvados/v1/containers/{uuid}"), patience)
    }

    /// The container's own token, complete.
    pub(crate) fn auth(&self, uuid: &str, patience: Patience) -> Result<Secret, ApiError> {
        let path = format!("arvados/v1/containers/{uuid}/auth");
        let answer = self.get(&path, patience)?;
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
        patience: Patience,
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
            patience,
        )
        .map(drop)
    }

    /// Appends to one of the container's logs. `position` counts the bytes of that stream before
    /// these: by it the API knows the bytes again when an answer was lost and they come twice.
    pub(crate) fn append(
        &self,
        uuid: &str,
        stream: &str,
        position: u64,
        bytes: &[u8],
        patience: Patience,
    ) -> Result<(), ApiError> {
        let path = format!("arvados/v1/containers/{uuid}/log?stream={stream}&position={position}");
        self.call(
            &Method::POST,
            &path,
            "application/octet-stream",
            bytes,
            patience,
        )
        .map(drop)
    }

    fn get(&self, path: &str, patience: Patience) -> Result<Value, ApiError> {
        let bytes = self.call(&Method::GET, path, "", b"", patience)?;
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
        patience: Patience,
    ) -> Result<Vec<u8>, ApiError> {
        let began = Instant::now();
        let request_id = request_id();
        let mut delay = RETRY_FIRST;
        loop {
            let left = patience
                .0
                .saturating_sub(began.elapsed())
                .max(Duration::from_secs(3))
                .min(ATTEMPT_MAX);
            let (after, text) = match self.attempt(method, path, kind, body, &request_id, left) {
                Outcome::Done(answer) => return Ok(answer),
                Outcome::Fail(error) => return Err(error),
                Outcome::Retry { after, text } => (after, text),
                Outcome::Untrusted(text) if patience.0 >= Patience::RESULT.0 => (None, text),
                Outcome::Untrusted(text) => {
                    let call = format!("{method} {path}");
                    return Err(ApiError::Untrusted { call, text });
                }
            };
            let wait = after.unwrap_or_else(|| jitter(delay));
            if began.elapsed() + wait >= patience.0 {
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
        judge(response, call())
    }

    fn send(
        &self,
        request: ureq::http::Result<Request<impl AsSendBody>>,
        within: Duration,
    ) -> Result<Response<ureq::Body>, ureq::Error> {
        let request = request?;
        if within == ATTEMPT_MAX {
            // Without settings of its own a request shares the agent's parsed certificates.
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

/// Sorts an answer: done, worth another attempt, or final.
fn judge(mut response: Response<ureq::Body>, call: String) -> Outcome {
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

/// The status and what the API says about it, cut to a line.
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
        Err(_) => clock::http_date(text)? - clock::now(),
    };
    Duration::try_from_secs_f64(seconds.max(0.0)).ok()
}

/// Between half of the delay and the whole, so that many runners do not come back at once.
fn jitter(delay: Duration) -> Duration {
    let half = delay / 2;
    let spread = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_micros(random() % spread)
}

/// The hasher's keys are random in every instance: enough for jitter and request ids.
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
    fn request_ids_have_twenty_digits_and_differ() {
        let (one, two) = (request_id(), request_id());
        assert_eq!(one.len(), 24);
        assert_ne!(one, two);
    }

    #[test]
    fn jitter_stays_between_half_and_whole() {
        for _ in 0..100 {
            let wait = jitter(Duration::from_millis(100));
            assert!((50..=100).contains(&wait.as_millis()));
        }
    }

    #[test]
    fn errors_of_the_api_are_shown_and_other_bodies_are_not() {
        assert_eq!(
            describe(422, br#"{"errors":["cannot lock when Running"]}"#),
            "HTTP 422: cannot lock when Running"
        );
        assert_eq!(describe(502, b"<html>"), "HTTP 502");
    }

    #[test]
    fn retry_after_is_read_in_seconds_and_as_a_date() {
        assert_eq!(retry_after("3"), Some(Duration::from_secs(3)));
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(Duration::ZERO)
        );
        assert_eq!(retry_after("soon"), None);
    }
}
