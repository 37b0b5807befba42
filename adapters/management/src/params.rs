//! Parameters of a request, from the query, from a form, or from both.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, Method, StatusCode, header};
use longshore_core::ids::{ContainerId, InstanceId};
use longshore_http::{BodyError, read_body};

use crate::app::App;
use crate::error::ApiError;

const INSTANCE_CHARS_MAX: usize = 1000;
const REASON_CHARS_MAX: usize = 1000;

/// Parameters by name. The first value of a repeated name counts; a form precedes the query.
#[derive(Debug)]
pub(crate) struct Params(BTreeMap<String, String>);

impl FromRequest<Arc<App>> for Params {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let body = match parts.method {
            Method::POST => read_body(body, app.limits.body()).await?,
            _ => Bytes::new(),
        };
        let query = parts.uri.query().unwrap_or_default();
        Ok(Self::read(query, &parts.headers, &body))
    }
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Timeout(timeout) => Self::new(
                StatusCode::REQUEST_TIMEOUT,
                format!("the body did not come within {} s", timeout.as_secs_f64()),
            ),
            BodyError::TooLarge(max) => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is too long: expected at most {max} bytes"),
            ),
            BodyError::Broken(error) => Self::bad_request(format!("request body: {error}")),
        }
    }
}

impl Params {
    fn read(query: &str, headers: &HeaderMap, body: &[u8]) -> Self {
        let mut params = BTreeMap::new();
        let form = if is_form(headers) { body } else { &[] };
        for source in [form, query.as_bytes()] {
            for (name, value) in form_urlencoded::parse(source) {
                params
                    .entry(name.into_owned())
                    .or_insert_with(|| value.into_owned());
            }
        }
        Self(params)
    }

    pub(crate) fn container(&self) -> Result<ContainerId, ApiError> {
        let text = self.required("container_uuid")?;
        text.parse()
            .map_err(|error| ApiError::bad_request(format!("container_uuid: {error}")))
    }

    pub(crate) fn instance(&self) -> Result<InstanceId, ApiError> {
        let text = self.required("instance_id")?;
        if text.chars().count() > INSTANCE_CHARS_MAX {
            return Err(too_long("instance_id", INSTANCE_CHARS_MAX));
        }
        Ok(InstanceId::from(text))
    }

    /// Subject of an explanation: uuid of a container, or name or create request of an instance.
    pub(crate) fn subject(&self) -> Result<String, ApiError> {
        let text = self.required("id")?;
        if text.chars().count() > INSTANCE_CHARS_MAX {
            return Err(too_long("id", INSTANCE_CHARS_MAX));
        }
        Ok(text.to_owned())
    }

    /// Reason given by the operator. Control characters become blanks, because the reason goes into
    /// log lines.
    pub(crate) fn reason(&self) -> Result<String, ApiError> {
        let text = self.0.get("reason").map_or("", |text| text.trim());
        if text.chars().count() > REASON_CHARS_MAX {
            return Err(too_long("reason", REASON_CHARS_MAX));
        }
        if text.is_empty() {
            return Ok("no reason given".to_owned());
        }
        Ok(text.replace(char::is_control, " "))
    }

    fn required(&self, name: &str) -> Result<&str, ApiError> {
        match self.0.get(name) {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(ApiError::bad_request(format!(
                "{name} is missing: give it in the query or in a form"
            ))),
        }
    }
}

fn too_long(name: &str, max: usize) -> ApiError {
    ApiError::bad_request(format!("{name}: expected at most {max} characters"))
}

fn is_form(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    let content_type = content_type.map_or(Cow::Borrowed(""), |value| {
        String::from_utf8_lossy(value.as_bytes())
    });
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn form(content_type: &'static str, body: &str) -> Params {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        Params::read(
            "instance_id=from-query&instance_id=later",
            &headers,
            body.as_bytes(),
        )
    }

    #[test]
    fn form_precedes_query_and_first_value_counts() {
        let with_form = form(
            "Application/X-WWW-Form-URLEncoded; charset=utf-8",
            "instance_id=a%2Fb+c&instance_id=d",
        );
        assert_eq!(with_form.instance(), Ok(InstanceId::from("a/b c")));
        let not_a_form = form("text/plain", "instance_id=a");
        assert_eq!(not_a_form.instance(), Ok(InstanceId::from("from-query")));
    }

    #[test]
    fn reason_is_one_bounded_line() {
        let reason = |text: &str| {
            let query = format!("reason={text}");
            Params::read(&query, &HeaderMap::new(), b"").reason()
        };
        assert_eq!(reason("a%0Ab%1B"), Ok("a b ".to_owned()));
        assert_eq!(reason("+"), Ok("no reason given".to_owned()));
        assert!(reason(&"x".repeat(1000)).is_ok());
        let error = reason(&"x".repeat(1001)).expect_err("too long");
        assert_eq!(error.message, "reason: expected at most 1000 characters");
    }
}
