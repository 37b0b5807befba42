//! Errors and warnings about a configuration file, with advice for the operator.

use std::fmt;

/// Error in a configuration file. No error shows the value of a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read: check its path and permissions.
    #[error("cannot be read: {reason}; check the path and its permissions")]
    Unreadable {
        /// Cause given by the system.
        reason: String,
    },
    /// The text is not YAML: correct the syntax at that line.
    #[error("not valid YAML{}: {reason}", AtLine(*line))]
    Syntax {
        /// Line, counted from 1, if known.
        line: Option<u64>,
        /// Message of the parser.
        reason: String,
    },
    /// Duplicate key in a section: delete one.
    #[error("{path}{}: given twice, first in line {first_line}; delete one of them", AtLine(Some(*line)))]
    Duplicate {
        /// Key with its sections.
        path: String,
        /// Line of the duplicate, counted from 1.
        line: u64,
        /// Line of the first occurrence, counted from 1.
        first_line: u64,
    },
    /// Unusable value: follow `advice`.
    #[error("{path}{}: found {found}, expected {expected}; {advice}", AtLine(*line))]
    Wrong {
        /// Key with its sections.
        path: String,
        /// Line, counted from 1; absent if the key itself is missing.
        line: Option<u64>,
        /// Value found.
        found: String,
        /// Values allowed.
        expected: String,
        /// Action for the operator.
        advice: String,
    },
}

impl ConfigError {
    /// Line of the error, counted from 1, if known.
    #[must_use]
    pub fn line(&self) -> Option<u64> {
        match self {
            Self::Unreadable { .. } => None,
            Self::Syntax { line, .. } | Self::Wrong { line, .. } => *line,
            Self::Duplicate { line, .. } => Some(*line),
        }
    }
}

/// All errors of a file in the order of lines; never empty. The caller adds the name of the file,
/// once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", Lines(.0))]
pub struct ConfigErrors(pub Vec<ConfigError>);

/// Harmless, but probably unintended content of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigWarning {
    /// Key with its sections.
    pub path: String,
    /// Line, counted from 1; absent if the key itself is missing.
    pub line: Option<u64>,
    /// Problem and consequence.
    pub message: String,
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}: {}", self.path, AtLine(self.line), self.message)
    }
}

struct AtLine(Option<u64>);

impl fmt::Display for AtLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(line) => write!(f, " (line {line})"),
            None => Ok(()),
        }
    }
}

struct Lines<'a>(&'a [ConfigError]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            write!(f, "{newline}{error}")?;
        }
        Ok(())
    }
}
