//! How commands end.

use std::fmt;

/// Why a command failed; the number is the process's exit status.
#[derive(Debug)]
pub(crate) enum Failure {
    /// 1: it was tried and did not work.
    Failed(String),
    /// 2: what was asked for makes no sense: options, configuration, a malformed file.
    Usage(String),
}

impl Failure {
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(text) | Self::Usage(text) => f.write_str(text),
        }
    }
}

/// Shorthand for what commands return.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Puts what was attempted before an error.
pub(crate) trait Context<T> {
    fn failed(self, what: impl fmt::Display) -> Outcome<T>;
    fn usage(self, what: impl fmt::Display) -> Outcome<T>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn failed(self, what: impl fmt::Display) -> Outcome<T> {
        self.map_err(|error| Failure::Failed(format!("{what}: {error}")))
    }

    fn usage(self, what: impl fmt::Display) -> Outcome<T> {
        self.map_err(|error| Failure::Usage(format!("{what}: {error}")))
    }
}
