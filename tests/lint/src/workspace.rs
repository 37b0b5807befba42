//! Crates of a workspace and the source files of each.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Failure to read or to parse source.
#[derive(Debug, thiserror::Error)]
pub enum LintError {
    /// A file or folder cannot be read.
    #[error("cannot read {path}: {error}")]
    Unreadable {
        /// File or folder.
        path: PathBuf,
        /// Cause given by the system.
        error: io::Error,
    },
    /// A folder without any crate below.
    #[error("no crate below {0}: name the root of the workspace with --root")]
    NoCrate(PathBuf),
    /// A file is no valid Rust.
    #[error("cannot parse {path}:{line}: {message}")]
    Unparsable {
        /// File relative to the workspace.
        path: PathBuf,
        /// Line of the first error, counted from 1.
        line: usize,
        /// Message of the parser.
        message: String,
    },
    /// A `mod` declaration without a file.
    #[error("{path}:{line}: no file for module `{module}`")]
    NoModuleFile {
        /// File with the declaration.
        path: PathBuf,
        /// Line of the declaration, counted from 1.
        line: usize,
        /// Name of the module.
        module: String,
    },
}

/// A Rust file with its text.
#[derive(Debug, Clone)]
pub struct Source {
    /// Path relative to the workspace.
    pub path: PathBuf,
    /// Content.
    pub text: String,
}

/// A package with all Rust files below its manifest, files of nested packages excluded.
#[derive(Debug, Clone)]
pub struct Crate {
    /// Package name.
    pub name: String,
    /// Folder of the manifest relative to the workspace.
    pub dir: PathBuf,
    /// Rust files in the order of paths.
    pub files: Vec<Source>,
}

/// All crates below a folder, members of the Cargo workspace or not.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// Crates in the order of folders.
    pub crates: Vec<Crate>,
}

impl Workspace {
    /// Reads every crate below `root`. Skips `target`, hidden folders and symbolic links.
    pub fn read(root: &Path) -> Result<Self, LintError> {
        let mut found = Found::default();
        found.walk(root, Path::new(""), None)?;
        if found.crates.is_empty() {
            return Err(LintError::NoCrate(root.to_owned()));
        }
        Ok(Self {
            crates: found.crates.into_values().collect(),
        })
    }
}

#[derive(Default)]
struct Found {
    crates: BTreeMap<PathBuf, Crate>,
}

impl Found {
    /// Walks `dir`, a folder below `root`; `owner` is the folder of the nearest manifest upwards.
    fn walk(&mut self, root: &Path, dir: &Path, owner: Option<&Path>) -> Result<(), LintError> {
        let manifest = root.join(dir).join("Cargo.toml");
        let name = if manifest.is_file() {
            package_name(&read(&manifest)?)
        } else {
            None
        };
        let owner = match name {
            Some(name) => {
                let new = Crate {
                    name,
                    dir: dir.to_owned(),
                    files: Vec::new(),
                };
                self.crates.insert(dir.to_owned(), new);
                Some(dir)
            }
            None => owner,
        };
        for (name, kind) in entries(&root.join(dir))? {
            let path = dir.join(&name);
            if kind.is_dir() && name != "target" && !name.starts_with('.') {
                self.walk(root, &path, owner)?;
            } else if kind.is_file()
                && name.ends_with(".rs")
                && let Some(owner) = owner.and_then(|owner| self.crates.get_mut(owner))
            {
                let text = read(&root.join(&path))?;
                owner.files.push(Source { path, text });
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<String, LintError> {
    fs::read_to_string(path).map_err(|error| unreadable(path, error))
}

fn unreadable(path: &Path, error: io::Error) -> LintError {
    LintError::Unreadable {
        path: path.to_owned(),
        error,
    }
}

/// Entries of a folder in the order of names.
fn entries(dir: &Path) -> Result<Vec<(String, fs::FileType)>, LintError> {
    let listed = fs::read_dir(dir).and_then(|entries| {
        entries
            .map(|entry| {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                Ok((name, entry.file_type()?))
            })
            .collect::<io::Result<Vec<_>>>()
    });
    let mut listed = listed.map_err(|error| unreadable(dir, error))?;
    listed.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(listed)
}

/// Name under `[package]` of a manifest; none for a workspace without a package.
fn package_name(manifest: &str) -> Option<String> {
    manifest
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != "[package]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .find_map(|line| {
            let value = line.strip_prefix("name")?.trim_start().strip_prefix('=')?;
            Some(value.trim().trim_matches('"').to_owned())
        })
}
