//! From a cloud's own words to a [`CloudError`].

use std::fmt;

use longshore_core::time::Timestamp;

use crate::{CapacityScope, CloudError};

/// A cloud's refusal in its own words. Each method makes the one error that it means to the core,
/// with all of the words in its message, so that whoever reads a log can ask the cloud's support.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said<'a> {
    /// The cloud's name for the error, such as `InstanceLimitExceeded`; empty where it gave none.
    pub code: &'a str,
    /// Its sentence.
    pub message: &'a str,
    /// What the cloud calls the call; empty where it gave nothing.
    pub request_id: &'a str,
}

impl fmt::Display for Said<'_> {
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

impl Said<'_> {
    /// Too many calls; `until` where the cloud says when it will listen again.
    #[must_use]
    pub fn rate_limited(self, until: Option<Timestamp>) -> CloudError {
        let message = self.to_string();
        CloudError::RateLimited { until, message }
    }

    /// The account may not have more of the type's quota group.
    #[must_use]
    pub fn quota(self) -> CloudError {
        let message = self.to_string();
        CloudError::Quota { message }
    }

    /// The cloud itself has no more.
    #[must_use]
    pub fn capacity(self, scope: CapacityScope) -> CloudError {
        let message = self.to_string();
        CloudError::Capacity { scope, message }
    }

    /// There is no such instance.
    #[must_use]
    pub fn not_found(self) -> CloudError {
        let message = self.to_string();
        CloudError::NotFound { message }
    }

    /// It may have been done.
    #[must_use]
    pub fn ambiguous(self) -> CloudError {
        let message = self.to_string();
        CloudError::Ambiguous { message }
    }

    /// It will fail again until somebody changes something.
    #[must_use]
    pub fn permanent(self) -> CloudError {
        let message = self.to_string();
        CloudError::Permanent { message }
    }

    /// It may work later.
    #[must_use]
    pub fn transient(self) -> CloudError {
        let message = self.to_string();
        CloudError::Transient { message }
    }

    /// An error that the driver does not know: it may work later, and the log tells that a line is
    /// missing from the driver's table.
    #[must_use]
    pub fn unknown(self, operation: &str) -> CloudError {
        tracing::warn!(
            operation,
            code = self.code,
            request_id = self.request_id,
            message = self.message,
            "an error of the cloud that this driver does not know: taken as passing"
        );
        self.transient()
    }
}

/// What an error means, without its words.
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
    /// The class of an error.
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

    /// As metrics and reports have it.
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

    const SAID: Said<'_> = Said {
        code: "InstanceLimitExceeded",
        message: "You have 8 instances.\n",
        request_id: "0a1b-2c",
    };

    #[test]
    fn every_error_carries_all_words() {
        let errors = [
            SAID.rate_limited(None),
            SAID.quota(),
            SAID.capacity(CapacityScope::Type),
            SAID.not_found(),
            SAID.ambiguous(),
            SAID.permanent(),
            SAID.transient(),
            SAID.unknown("Create"),
        ];
        for error in &errors {
            let words = error.to_string();
            let all = "You have 8 instances. (InstanceLimitExceeded, request 0a1b-2c)";
            assert!(words.contains(all), "{words}");
        }
        let mut classes: Vec<_> = errors.iter().map(ErrorClass::of).collect();
        classes.dedup();
        assert_eq!(classes.len(), 7, "an unknown error counts as transient");
    }

    #[test]
    fn what_the_cloud_left_out_is_said() {
        let silent = Said::default();
        assert_eq!(silent.to_string(), "no code (no request id)");
    }
}
