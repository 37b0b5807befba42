//! What a request carries: parameters in the query, in a form, or some in each.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::http::{HeaderMap, header};
use longshore_core::ids::{ContainerId, InstanceId};

use crate::error::ApiError;

const INSTANCE_CHARS_MAX: usize = 1000;
const REASON_CHARS_MAX: usize = 1000;

/// Parameters by name. One that comes twice has its first value; a form goes before the query.
#[derive(Debug)]
pub(crate) struct Params(BTreeMap<String, String>);

impl Params {
    pub(crate) fn read(query: &str, headers: &HeaderMap, body: &[u8]) -> Self {
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

    /// Something to be explained: a container's uuid, or an instance's name or wish.
    pub(crate) fn subject(&self) -> Result<String, ApiError> {
        let text = self.required("id")?;
        if text.chars().count() > INSTANCE_CHARS_MAX {
            return Err(too_long("id", INSTANCE_CHARS_MAX));
        }
        Ok(text.to_owned())
    }

    /// The operator's words: they end up in log lines, so line breaks become blanks.
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
    fn a_form_goes_before_the_query_and_the_first_value_counts() {
        let with_form = form(
            "Application/X-WWW-Form-URLEncoded; charset=utf-8",
            "instance_id=a%2Fb+c&instance_id=d",
        );
        assert_eq!(with_form.instance(), Ok(InstanceId::from("a/b c")));
        let not_a_form = form("text/plain", "instance_id=a");
        assert_eq!(not_a_form.instance(), Ok(InstanceId::from("from-query")));
    }

    #[test]
    fn a_reason_stays_on_one_line_and_is_not_endless() {
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
