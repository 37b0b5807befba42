//! Checks of the workspace's own source: the prose of comments and test names, and import circles.
//!
//! [`Workspace::read`] finds every crate below a folder. [`prose`] counts words in comments and in
//! the names of tests, [`circles`] follows paths between modules. The program `longshore-lint`
//! prints both as tables.

pub mod circles;
pub mod prose;

mod workspace;

pub use workspace::{Crate, LintError, Source, Workspace};
