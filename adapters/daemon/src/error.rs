//! Errors of commands, with their causes and exit statuses.

use std::error::Error;
use std::fmt;

/// Any error below a [`CliError`].
type Source = Box<dyn Error + Send + Sync>;

/// Failure of a command. `Display` shows the message alone, [`CliError::chain`] the causes too.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct CliError {
    status: u8,
    message: String,
    #[source]
    source: Option<Source>,
}

impl CliError {
    /// Failure of an operation: exit status 1.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(1, message.into())
    }

    /// Invalid options, configuration or input file: exit status 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(2, message.into())
    }

    fn new(status: u8, message: String) -> Self {
        Self {
            status,
            message,
            source: None,
        }
    }

    /// Keeps the cause of the error.
    pub(crate) fn because(mut self, cause: impl Into<Source>) -> Self {
        self.source = Some(cause.into());
        self
    }

    /// Exit status of the process.
    pub(crate) fn status(&self) -> u8 {
        self.status
    }

    /// One line: the message, then the causes down to the root cause, each once.
    pub(crate) fn chain(&self) -> String {
        let mut causes = Vec::new();
        let mut next = self.source();
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        let mut text = self.message.clone();
        // Many messages repeat their cause, or show the root cause alone.
        let root = causes.last().cloned().unwrap_or_default();
        for cause in causes {
            if !text.contains(&root) && !text.contains(&cause) {
                text.push_str(": ");
                text.push_str(&cause);
            }
        }
        text
    }
}

/// Result of a command or of a part of it.
pub(crate) type CliResult<T = ()> = Result<T, CliError>;

/// Puts a description of the attempted operation in front of an error.
pub(crate) trait Context<T> {
    /// Exit status 1.
    fn failed(self, operation: impl fmt::Display) -> CliResult<T>;
    /// Exit status 2.
    fn usage(self, operation: impl fmt::Display) -> CliResult<T>;
}

impl<T, E: Into<Source>> Context<T> for Result<T, E> {
    fn failed(self, operation: impl fmt::Display) -> CliResult<T> {
        self.map_err(|cause| CliError::failed(operation.to_string()).because(cause))
    }

    fn usage(self, operation: impl fmt::Display) -> CliResult<T> {
        self.map_err(|cause| CliError::usage(operation.to_string()).because(cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("reading the file")]
    struct Silent(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("reading the file: {0}")]
    struct Repeating(#[source] std::io::Error);

    fn cause() -> std::io::Error {
        std::io::Error::other("disk full")
    }

    #[test]
    fn chain_shows_each_cause_once() {
        let line = "the journal: reading the file: disk full";
        let silent = Err::<(), _>(Silent(cause())).failed("the journal");
        assert_eq!(silent.unwrap_err().chain(), line);
        let repeating = Err::<(), _>(Repeating(cause())).failed("the journal");
        assert_eq!(repeating.unwrap_err().chain(), line);
    }

    #[test]
    fn context_keeps_source_and_status() {
        let error = Err::<(), _>(cause()).usage("the journal").unwrap_err();
        assert_eq!(error.status(), 2);
        assert_eq!(error.to_string(), "the journal");
        assert!(
            error
                .source()
                .is_some_and(|source| source.is::<std::io::Error>())
        );
    }
}
