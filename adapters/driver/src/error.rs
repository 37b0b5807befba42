//! Conversion of provider errors to [`CloudError`].

use std::fmt;

use longshore_core::time::Timestamp;

use crate::{CapacityScope, CloudError};

/// Error as reported by the cloud provider. Each method creates the [`CloudError`] of one class
/// with code, message and request id in the text, for inquiries with the provider's support.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProviderError<'a> {
    /// Error code of the provider, such as `InstanceLimitExceeded`; empty if absent.
    pub code: &'a str,
    /// Error message of the provider.
    pub message: &'a str,
    /// Request id of the provider; empty if absent.
    pub request_id: &'a str,
}

impl fmt::Display for ProviderError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = match self.code.trim() {
            "" => "no code",
            code => code,
        };
        let message = self.message.trim();
        let request = match self.request_id.trim() {
            "" => "no request id".to_owned(),
            id => format!("request {id}"),
        };
        match message {
            "" => write!(f, "{code} ({request})"),
            _ => write!(f, "{message} ({code}, {request})"),
        }
    }
}

impl ProviderError<'_> {
    /// Too many calls. `until` is the retry time, if the provider names a time.
    #[must_use]
    pub fn rate_limited(self, until: Option<Timestamp>) -> CloudError {
        let message = self.to_string();
        CloudError::RateLimited { until, message }
    }

    /// Account limit reached for the type's quota group.
    #[must_use]
    pub fn quota(self) -> CloudError {
        let message = self.to_string();
        CloudError::Quota { message }
    }

    /// No capacity at the provider.
    #[must_use]
    pub fn capacity(self, scope: CapacityScope) -> CloudError {
        let message = self.to_string();
        CloudError::Capacity { scope, message }
    }

    /// Instance does not exist.
    #[must_use]
    pub fn not_found(self) -> CloudError {
        let message = self.to_string();
        CloudError::NotFound { message }
    }

    /// Outcome unknown: the operation may have taken effect.
    #[must_use]
    pub fn ambiguous(self) -> CloudError {
        let message = self.to_string();
        CloudError::Ambiguous { message }
    }

    /// Failure that repeats until an operator changes something.
    #[must_use]
    pub fn permanent(self) -> CloudError {
        let message = self.to_string();
        CloudError::Permanent { message }
    }

    /// Failure that may not repeat.
    #[must_use]
    pub fn transient(self) -> CloudError {
        let message = self.to_string();
        CloudError::Transient { message }
    }

    /// Error with a code unknown to the driver: treated as transient, and logged as a warning
    /// because the error table of the driver lacks an entry.
    #[must_use]
    pub fn unknown(self, operation: &str) -> CloudError {
        tracing::warn!(
            operation,
            code = self.code,
            request_id = self.request_id,
            message = self.message,
            "unknown error code of the cloud, treated as transient"
        );
        self.transient()
    }
}

/// Class of an error, without its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorClass {
    /// [`CloudError::RateLimited`].
    RateLimited,
    /// [`CloudError::Quota`].
    Quota,
    /// [`CloudError::Capacity`].
    Capacity,
    /// [`CloudError::NotFound`].
    NotFound,
    /// [`CloudError::Ambiguous`].
    Ambiguous,
    /// [`CloudError::Permanent`].
    Permanent,
    /// [`CloudError::Transient`].
    Transient,
}

impl ErrorClass {
    /// Class of the error.
    #[must_use]
    pub fn of(error: &CloudError) -> Self {
        match error {
            CloudError::RateLimited { .. } => Self::RateLimited,
            CloudError::Quota { .. } => Self::Quota,
            CloudError::Capacity { .. } => Self::Capacity,
            CloudError::NotFound { .. } => Self::NotFound,
            CloudError::Ambiguous { .. } => Self::Ambiguous,
            CloudError::Permanent { .. } => Self::Permanent,
            CloudError::Transient { .. } => Self::Transient,
        }
    }

    /// Name in metrics and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::Quota => "quota",
            Self::Capacity => "capacity",
            Self::NotFound => "not_found",
            Self::Ambiguous => "ambiguous",
            Self::Permanent => "permanent",
            Self::Transient => "transient",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: ProviderError<'_> = ProviderError {
        code: "InstanceLimitExceeded",
        message: "You have 8 instances.\n",
        request_id: "0a1b-2c",
    };

    #[test]
    fn provider_error_text_keeps_all_fields() {
        let errors = [
            ERROR.rate_limited(None),
            ERROR.quota(),
            ERROR.capacity(CapacityScope::Type),
            ERROR.not_found(),
            ERROR.ambiguous(),
            ERROR.permanent(),
            ERROR.transient(),
            ERROR.unknown("Create"),
        ];
        for error in &errors {
            let text = error.to_string();
            let all = "You have 8 instances. (InstanceLimitExceeded, request 0a1b-2c)";
            assert!(text.contains(all), "{text}");
        }
        let mut classes: Vec<_> = errors.iter().map(ErrorClass::of).collect();
        classes.dedup();
        assert_eq!(classes.len(), 7, "an unknown error is transient");
    }

    #[test]
    fn provider_error_empty_fields_are_named() {
        let empty = ProviderError::default();
        assert_eq!(empty.to_string(), "no code (no request id)");
    }
}
