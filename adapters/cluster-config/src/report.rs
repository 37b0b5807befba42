//! What is wrong with a file, said so that its owner can put it right.

use std::fmt;

/// One thing that keeps a file from being used. None of them ever shows a secret's value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read: check its path and permissions.
    #[error("cannot be read: {reason}; check the path and its permissions")]
    Unreadable {
        /// The system's words.
        reason: String,
    },
    /// The text is not YAML: put the syntax right at that line.
    #[error("not valid YAML{}: {reason}", AtLine(*line))]
    Syntax {
        /// Counted from 1, where it is known.
        line: Option<u64>,
        /// What the parser missed.
        reason: String,
    },
    /// A key stands twice in its section: delete one of them.
    #[error("{path}{}: given twice, first in line {first_line}; delete one of them", AtLine(Some(*line)))]
    Duplicate {
        /// The key with all of its sections.
        path: String,
        /// Where it stands again, counted from 1.
        line: u64,
        /// Where it stands first, counted from 1.
        first_line: u64,
    },
    /// A value cannot be used: do what `advice` says.
    #[error("{path}{}: found {found}, expected {expected}; {advice}", AtLine(*line))]
    Wrong {
        /// The key with all of its sections.
        path: String,
        /// Counted from 1; absent where the key itself is missing.
        line: Option<u64>,
        /// What stands there.
        found: String,
        /// What may stand there.
        expected: String,
        /// What to do.
        advice: String,
    },
}

impl ConfigError {
    /// The line that it is about, counted from 1, where it is known.
    #[must_use]
    pub fn line(&self) -> Option<u64> {
        match self {
            Self::Unreadable { .. } => None,
            Self::Syntax { line, .. } | Self::Wrong { line, .. } => *line,
            Self::Duplicate { line, .. } => Some(*line),
        }
    }
}

/// Everything that keeps a file from being used, in the order of their lines; never empty. Which file
/// it is, is for whoever shows them to say, once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", Lines(.0))]
pub struct ConfigErrors(pub Vec<ConfigError>);

/// Something that was probably not meant so, but that does no harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigWarning {
    /// The key with all of its sections.
    pub path: String,
    /// Counted from 1; absent where the key itself is missing.
    pub line: Option<u64>,
    /// What is odd about it and what happens.
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
