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
            (
                Reach::Answered(refused.raw().status().as_u16()),
                text(meta.code()),
                text(meta.message()),
            )
        }
        SdkError::ConstructionFailure(_) => (Reach::NotSent, String::new(), causes(error)),
        _ if never_sent(error) => (Reach::NotSent, String::new(), causes(error)),
        _ => (Reach::Lost, String::new(), causes(error)),
    };
    let of_body = error
        .as_service_error()
        .and_then(|refused| refused.meta().request_id());
    Failure {
        reach,
        code,
        message,
        request_id: error.request_id().or(of_body).map(str::to_owned),
        retry_at: retry_at(error, now()),
    }
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
    let of_credentials =
        |cause: &(dyn Error + 'static)| cause.is::<CredentialsError>();
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
    chain(error).into_iter().any(|cause| of_credentials(cause) || refused(cause) || says_so(cause))
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
