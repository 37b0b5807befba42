//! Conversion of SDK errors to [`CallFailure`].

use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::operation::RequestId;
use aws_sdk_ec2::primitives::{DateTime, DateTimeFormat};
use longshore_core::time::Timestamp;

use crate::error_codes::{CallFailure, Delivery};

/// Error texts of the transport for failed connects; the error types are private.
const CONNECT_ERRORS: [&str; 2] = ["client error (Connect)", "HTTP connect timeout"];

/// Maximum length of a request id.
const REQUEST_ID_CHARS_MAX: usize = 64;

/// Maximum depth of the error chain.
const CAUSES_MAX: usize = 16;

/// Converts an error of the SDK.
pub(crate) fn call_failure<E>(error: &SdkError<E, HttpResponse>) -> CallFailure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let (delivery, code, message) = match error {
        SdkError::ServiceError(service_error) => {
            let meta = service_error.err().meta();
            let text = |text: Option<&str>| text.unwrap_or_default().trim().to_owned();
            let delivery = match service_error.raw().status() {
                // A success status with an invalid body.
                status if status.is_success() => Delivery::ResponseLost,
                status => Delivery::Answered(status.as_u16()),
            };
            let message = match (delivery, meta.message()) {
                (Delivery::ResponseLost, None) => causes(error),
                (_, message) => text(message),
            };
            (delivery, text(meta.code()), message)
        }
        SdkError::ConstructionFailure(_) => (Delivery::NotSent, String::new(), causes(error)),
        _ if not_sent(error) => (Delivery::NotSent, String::new(), causes(error)),
        _ => (Delivery::ResponseLost, String::new(), causes(error)),
    };
    let in_body = || request_id_in(error.raw_response()?.body().bytes()?);
    CallFailure {
        delivery,
        code,
        message,
        request_id: error.request_id().map(str::to_owned).or_else(in_body),
        retry_at: retry_at(error, now()),
    }
}

/// Request id from the body of an error response; proxies before EC2 may omit the header.
fn request_id_in(body: &[u8]) -> Option<String> {
    let body = std::str::from_utf8(body).ok()?;
    let (_, rest) = body.split_once("<RequestID>")?;
    let (id, _) = rest.split_once("</RequestID>")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (id.len() <= REQUEST_ID_CHARS_MAX && id.chars().all(plain)).then(|| id.to_owned())
}

/// Texts of the error and its causes, without repetition.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for cause in chain(error) {
        let text = cause.to_string();
        if !texts.iter().any(|before| before.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

/// The error and its causes, outermost first.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
    let mut all = vec![error];
    let mut last = error;
    while let Some(cause) = last.source()
        && all.len() < CAUSES_MAX
    {
        all.push(cause);
        last = cause;
    }
    all
}

/// True if the request was definitely not sent. A request in doubt counts as sent.
fn not_sent<E>(error: &SdkError<E, HttpResponse>) -> bool
where
    E: Error + 'static,
{
    if error.raw_response().is_some() {
        return false;
    }
    // The SDK loads credentials before the connect.
    let is_credentials_error = |cause: &(dyn Error + 'static)| cause.is::<CredentialsError>();
    let connection_refused = |cause: &(dyn Error + 'static)| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        matches!(
            kind,
            Some(
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
            )
        )
    };
    let connect_failed = |cause: &(dyn Error + 'static)| {
        let text = cause.to_string();
        CONNECT_ERRORS.iter().any(|pattern| text.contains(pattern))
    };
    chain(error).into_iter().any(|cause| {
        is_credentials_error(cause) || connection_refused(cause) || connect_failed(cause)
    })
}

/// Retry time from the header `Retry-After`: a number of seconds, or a date.
fn retry_at<E>(error: &SdkError<E, HttpResponse>, now: SystemTime) -> Option<Timestamp> {
    let value = error.raw_response()?.headers().get("retry-after")?;
    retry_after(value, now)
}

fn retry_after(value: &str, now: SystemTime) -> Option<Timestamp> {
    let value = value.trim();
    let since_epoch = match value.parse::<u32>() {
        Ok(seconds) => {
            let later = now.checked_add(Duration::from_secs(seconds.into()))?;
            later.duration_since(UNIX_EPOCH).ok()?
        }
        Err(_) => {
            let date = DateTime::from_str(value, DateTimeFormat::HttpDate).ok()?;
            Duration::from_secs(u64::try_from(date.secs()).ok()?)
        }
    };
    Some(Timestamp::EPOCH + since_epoch)
}

fn now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_id_found_in_body() {
        let body = b"<Response><RequestID>59dbff89-35bd</RequestID></Response>";
        assert_eq!(request_id_in(body).as_deref(), Some("59dbff89-35bd"));
        for none in [
            &b"<RequestID>"[..],
            b"",
            b"\xff",
            b"<RequestID>a b</RequestID>",
        ] {
            assert_eq!(request_id_in(none), None);
        }
    }

    #[test]
    fn retry_after_seconds_or_date() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let at = |seconds| Some(Timestamp::EPOCH + Duration::from_secs(seconds));
        assert_eq!(retry_after("7", now), at(1007));
        assert_eq!(retry_after(" 0 ", now), at(1000));
        // date -u -d 'Wed, 21 Oct 2026 07:28:00 GMT' +%s
        let date = "Wed, 21 Oct 2026 07:28:00 GMT";
        assert_eq!(retry_after(date, now), at(1_792_567_680));
        for nonsense in ["", "soon", "-1", "1e9", "99999999999999999999"] {
            assert_eq!(retry_after(nonsense, now), None, "{nonsense}");
        }
    }
}
