//! From the SDK's errors to what they show.

use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::operation::RequestId;
use aws_sdk_ec2::primitives::{DateTime, DateTimeFormat};
use longshore_core::time::Timestamp;

use crate::errors::{Failure, Reach};

/// What the transport says where no connection came about; its types are not ours to look at.
const NEVER_CONNECTED: [&str; 2] = ["client error (Connect)", "HTTP connect timeout"];

/// Longer ones are not request ids.
const REQUEST_ID_CHARS_MAX: usize = 64;

/// Causes deeper than this are not looked at.
const CAUSES_MAX: usize = 16;

/// What an error of the SDK shows.
pub(crate) fn failure<E>(error: &SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let (reach, code, message) = match error {
        SdkError::ServiceError(refused) => {
            let meta = refused.err().meta();
            let text = |text: Option<&str>| text.unwrap_or_default().trim().to_owned();
            let reach = match refused.raw().status() {
                // It says that all went well, and then makes no sense.
                status if status.is_success() => Reach::Lost,
                status => Reach::Answered(status.as_u16()),
            };
            let message = match (reach, meta.message()) {
                (Reach::Lost, None) => causes(error),
                (_, message) => text(message),
            };
            (reach, text(meta.code()), message)
        }
        SdkError::ConstructionFailure(_) => (Reach::NotSent, String::new(), causes(error)),
        _ if never_sent(error) => (Reach::NotSent, String::new(), causes(error)),
        _ => (Reach::Lost, String::new(), causes(error)),
    };
    let of_body = || request_id_in(error.raw_response()?.body().bytes()?);
    Failure {
        reach,
        code,
        message,
        request_id: error.request_id().map(str::to_owned).or_else(of_body),
        retry_at: retry_at(error, now()),
    }
}

/// EC2's errors carry it beside their codes, and not everything before EC2 puts it into a header too.
fn request_id_in(body: &[u8]) -> Option<String> {
    let body = std::str::from_utf8(body).ok()?;
    let (_, rest) = body.split_once("<RequestID>")?;
    let (id, _) = rest.split_once("</RequestID>")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (id.len() <= REQUEST_ID_CHARS_MAX && id.chars().all(plain)).then(|| id.to_owned())
}

/// The error and its causes, each once.
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

/// The error and its causes, the deepest last.
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

/// Whether it surely did not leave this host. What may have left counts as lost.
fn never_sent<E>(error: &SdkError<E, HttpResponse>) -> bool
where
    E: Error + 'static,
{
    if error.raw_response().is_some() {
        return false;
    }
    // The SDK knows who we are before it connects.
    let of_credentials = |cause: &(dyn Error + 'static)| cause.is::<CredentialsError>();
    let refused = |cause: &(dyn Error + 'static)| {
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
    let says_so = |cause: &(dyn Error + 'static)| {
        let text = cause.to_string();
        NEVER_CONNECTED.iter().any(|words| text.contains(words))
    };
    chain(error)
        .into_iter()
        .any(|cause| of_credentials(cause) || refused(cause) || says_so(cause))
}

/// When the cloud wants to be asked again: seconds from now, or a date.
fn retry_at<E>(error: &SdkError<E, HttpResponse>, now: SystemTime) -> Option<Timestamp> {
    let advice = error.raw_response()?.headers().get("retry-after")?;
    retry_after(advice, now)
}

fn retry_after(advice: &str, now: SystemTime) -> Option<Timestamp> {
    let advice = advice.trim();
    let since_epoch = match advice.parse::<u32>() {
        Ok(seconds) => {
            let later = now.checked_add(Duration::from_secs(seconds.into()))?;
            later.duration_since(UNIX_EPOCH).ok()?
        }
        Err(_) => {
            let date = DateTime::from_str(advice, DateTimeFormat::HttpDate).ok()?;
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
    fn the_request_id_is_found_in_the_body() {
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
    fn advice_is_seconds_or_a_date() {
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
