//! The program `longshore-lint`: tables of the prose and of import circles.

mod tables;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use longshore_lint::{Crate, LintError, Workspace};

const HELP: &str = "\
Measures the prose and the imports of the workspace's own source

Usage: longshore-lint prose [--root DIR] [--crate NAME] [--worst N]
       longshore-lint circles [--root DIR] [--crate NAME] [--depth N]

Commands:
  prose    Pronouns, interrogative openings and test names of each crate
  circles  Modules with references to each other around a ring

Options:
  --root DIR    Root of the workspace [default: the nearest one upwards]
  --crate NAME  Only this package
  --worst N     Also the N doc comments with most pronouns, and all interrogative openings
  --depth N     Count modules below depth N as part of the ancestor there
  --help        This text

Example:
  longshore-lint prose --crate longshore-core --worst 20

Exit status: 0 all goals are met, 1 a goal is missed, 2 the command line or the source is wrong.
";

/// The command line.
#[derive(Default)]
struct Options {
    command: Option<String>,
    root: Option<PathBuf>,
    krate: Option<String>,
    worst: Option<usize>,
    depth: Option<usize>,
    help: bool,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--root" => options.root = Some(value()?.into()),
                "--crate" => options.krate = Some(value()?),
                "--worst" => options.worst = Some(number(&value()?)?),
                "--depth" => options.depth = Some(number(&value()?)?),
                "-h" | "--help" => options.help = true,
                "prose" | "circles" if options.command.is_none() => options.command = Some(word),
                _ => return Err(format!("unknown argument {word:?}")),
            }
        }
        match options.command.as_deref() {
            None if !options.help => Err("a command is missing: prose or circles".to_owned()),
            Some("circles") if options.worst.is_some() => Err("--worst is for prose".to_owned()),
            Some("prose") if options.depth.is_some() => Err("--depth is for circles".to_owned()),
            _ => Ok(options),
        }
    }

    /// Crates under the root, narrowed to `--crate`.
    fn crates(&self) -> Result<Vec<Crate>, String> {
        let root = match &self.root {
            Some(root) => root.clone(),
            None => nearest_root()?,
        };
        let read = |error: LintError| error.to_string();
        let mut crates = Workspace::read(&root).map_err(read)?.crates;
        if let Some(name) = &self.krate {
            crates.retain(|krate| krate.name == *name);
            if crates.is_empty() {
                return Err(format!("no package {name} below {}", root.display()));
            }
        }
        Ok(crates)
    }

    /// Text to print, and whether all goals are met.
    fn perform(&self) -> Result<(String, bool), String> {
        if self.help {
            return Ok((HELP.to_owned(), true));
        }
        let crates = self.crates()?;
        let done = match self.command.as_deref() {
            Some("circles") => tables::circles(&crates, self.depth),
            _ => tables::prose(&crates, self.worst),
        };
        done.map_err(|error| error.to_string())
    }
}

fn number(text: &str) -> Result<usize, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not a number"))
}

/// Nearest folder upwards with a manifest of a Cargo workspace.
fn nearest_root() -> Result<PathBuf, String> {
    let here = std::env::current_dir().map_err(|error| error.to_string())?;
    let found = here.ancestors().find(|dir| {
        std::fs::read_to_string(dir.join("Cargo.toml"))
            .is_ok_and(|manifest| manifest.lines().any(|line| line == "[workspace]"))
    });
    let found = found.ok_or("no Cargo workspace upwards of here: name the root with --root")?;
    Ok(found.to_owned())
}

fn main() -> ExitCode {
    let done = Options::parse(std::env::args().skip(1))
        .map_err(|error| format!("{error}\n\nFor more information: longshore-lint --help"))
        .and_then(|options| options.perform());
    match done {
        Ok((text, met)) => match io::stdout().lock().write_all(text.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(&error.to_string()),
            _ => ExitCode::from(u8::from(!met)),
        },
        Err(message) => fail(&message),
    }
}

fn fail(message: &str) -> ExitCode {
    // Standard error may be closed too, and then the exit status is the only report.
    let _ = writeln!(io::stderr(), "longshore-lint: {message}");
    ExitCode::from(2)
}
