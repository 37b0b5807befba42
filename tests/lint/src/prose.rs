//! Prose of comments and test names: pronouns, interrogative openings, length of names.

mod comments;
mod goals;
mod names;
mod words;

use std::path::{Path, PathBuf};

use crate::{Crate, LintError, Source};

pub use comments::Kind;
pub use goals::{
    MAX_INTERROGATIVE_PERCENT, MAX_MEAN_NAME_WORDS, MAX_NAME_WORDS, MAX_PRONOUN_PERCENT,
    MIN_COMMENTS, MIN_NAMES, MIN_WORDS, violations,
};
pub use words::{INTERROGATIVES, PRONOUNS};

/// A comment, one run of consecutive comment lines of one kind.
#[derive(Debug, Clone)]
pub struct Comment {
    /// File relative to the workspace.
    pub path: PathBuf,
    /// First line, counted from 1.
    pub line: usize,
    /// Doc comment or plain comment.
    pub kind: Kind,
    /// Text without comment marks, lines joined by line ends.
    pub text: String,
    /// Number of words outside code and link targets.
    pub words: usize,
    /// Number of those words in [`PRONOUNS`].
    pub pronouns: usize,
    /// First word in [`INTERROGATIVES`].
    pub interrogative: bool,
}

/// The name of a test function.
#[derive(Debug, Clone)]
pub struct TestName {
    /// File relative to the workspace.
    pub path: PathBuf,
    /// Line of the name, counted from 1.
    pub line: usize,
    /// Name of the function.
    pub name: String,
}

impl TestName {
    /// Number of words, the parts between underscores.
    #[must_use]
    pub fn words(&self) -> usize {
        self.name.split('_').filter(|part| !part.is_empty()).count()
    }
}

/// Comments and test names of a crate.
#[derive(Debug, Clone)]
pub struct CrateProse {
    /// Package name.
    pub name: String,
    /// Comments in the order of files and lines.
    pub comments: Vec<Comment>,
    /// Test names in the order of files and lines.
    pub tests: Vec<TestName>,
}

/// A count out of a total.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// Number of cases.
    pub count: usize,
    /// Number of cases that were possible.
    pub total: usize,
}

impl Share {
    /// Count in percent of the total; 0 for an empty total.
    #[must_use]
    pub fn percent(self) -> f64 {
        ratio(self.count, self.total) * 100.0
    }
}

impl CrateProse {
    /// Measures all files of a crate. Fails for a file that is no sequence of Rust tokens.
    pub fn of(krate: &Crate) -> Result<Self, LintError> {
        let mut prose = Self {
            name: krate.name.clone(),
            comments: Vec::new(),
            tests: Vec::new(),
        };
        for file in &krate.files {
            prose.add(file)?;
        }
        Ok(prose)
    }

    /// Sum of crates under one name, for the whole workspace.
    #[must_use]
    pub fn sum(name: &str, crates: &[Self]) -> Self {
        Self {
            name: name.to_owned(),
            comments: crates.iter().flat_map(|one| one.comments.clone()).collect(),
            tests: crates.iter().flat_map(|one| one.tests.clone()).collect(),
        }
    }

    /// Pronouns among the words of doc comments.
    #[must_use]
    pub fn doc_pronouns(&self) -> Share {
        self.pronouns(|comment| comment.kind == Kind::Doc)
    }

    /// Pronouns among the words of plain comments.
    #[must_use]
    pub fn plain_pronouns(&self) -> Share {
        self.pronouns(|comment| comment.kind == Kind::Plain)
    }

    /// Pronouns among the words of all comments.
    #[must_use]
    pub fn all_pronouns(&self) -> Share {
        self.pronouns(|_| true)
    }

    /// Doc comments with an interrogative as first word.
    #[must_use]
    pub fn interrogatives(&self) -> Share {
        let docs = || self.comments.iter().filter(|one| one.kind == Kind::Doc);
        Share {
            count: docs().filter(|one| one.interrogative).count(),
            total: docs().count(),
        }
    }

    /// Mean number of words in test names; 0 without tests.
    #[must_use]
    pub fn mean_name_words(&self) -> f64 {
        let words: usize = self.tests.iter().map(TestName::words).sum();
        ratio(words, self.tests.len())
    }

    /// Largest number of words in a test name, with all names of that length.
    #[must_use]
    pub fn longest_names(&self) -> (usize, Vec<&TestName>) {
        let most = self.tests.iter().map(TestName::words).max().unwrap_or(0);
        let names = self.tests.iter().filter(|test| test.words() == most);
        (most, names.collect())
    }

    fn pronouns(&self, counted: impl Fn(&Comment) -> bool) -> Share {
        let counted = self.comments.iter().filter(|comment| counted(comment));
        counted.fold(Share::default(), |sum, comment| Share {
            count: sum.count + comment.pronouns,
            total: sum.total + comment.words,
        })
    }

    fn add(&mut self, file: &Source) -> Result<(), LintError> {
        let tokens = names::tokens(file)?;
        let quoted = names::quoted_lines(tokens.clone());
        for run in comments::runs(&file.text, &quoted) {
            self.comments.push(measured(&file.path, run));
        }
        let tests = names::tests(tokens).into_iter();
        self.tests.extend(tests.map(|(name, line)| TestName {
            path: file.path.clone(),
            line,
            name,
        }));
        Ok(())
    }
}

fn measured(path: &Path, run: comments::Run) -> Comment {
    let words = words::of(&words::prose_of(&run.text));
    Comment {
        path: path.to_owned(),
        line: run.line,
        kind: run.kind,
        words: words.len(),
        pronouns: words.iter().filter(|word| words::is_pronoun(word)).count(),
        interrogative: words::opens_with_interrogative(&run.text),
        text: run.text,
    }
}

fn ratio(count: usize, total: usize) -> f64 {
    if total == 0 {
        0.0
    } else {
        count as f64 / total as f64
    }
}
