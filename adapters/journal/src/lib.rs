//! The journal: every input of a run with its time, and the commands that came of it.
//!
//! One JSON document a line. The first is the [`Header`]; each further one a [`Step`], whose check sum
//! covers it and all lines before it. It holds no secrets, since the core has none, so it can be sent
//! to a colleague; it does hold the names of containers, instances and types.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use longshore_core::Dispatcher;
use longshore_core::command::Command;
use longshore_core::config::{Config, Seed};
use longshore_core::input::Input;
use longshore_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The format of the file; another one is refused.
const VERSION: u32 = 1;

/// What a run began with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Format of this file.
    pub version: u32,
    /// The program that wrote it.
    pub program: String,
    /// When the run began.
    pub start: Timestamp,
    /// All chances of the core follow from it.
    pub seed: Seed,
    /// The configuration, as the core knows it.
    pub config: Config,
}

/// What was learned between two drains, and what was decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The time of all of it.
    pub now: Timestamp,
    /// What was learned, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
    /// What was decided then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<Command>,
    /// Over the line before and everything above; see [`Chain`].
    #[serde(default)]
    check: String,
}

/// The check sum of everything so far: a changed, lost or added line shows, even where the commands
/// would be the same.
#[derive(Clone, Debug, Default)]
struct Chain(String);

impl Chain {
    fn extend(&mut self, line: &impl Serialize) -> io::Result<&str> {
        let mut hasher = Sha256::new();
        hasher.update(self.0.as_bytes());
        hasher.update(serde_json::to_vec(line)?);
        self.0 = hex::encode(&hasher.finalize()[..8]);
        Ok(&self.0)
    }
}

impl Header {
    /// Of a run that begins now.
    #[must_use]
    pub fn new(config: &Config, seed: Seed, start: Timestamp) -> Self {
        Self {
            version: VERSION,
            program: concat!("longshore ", env!("CARGO_PKG_VERSION")).to_owned(),
            start,
            seed,
            config: config.clone(),
        }
    }
}

impl Step {
    /// One that was just lived through.
    #[must_use]
    pub fn new(now: Timestamp, inputs: Vec<Input>, commands: Vec<Command>) -> Self {
        let check = String::new();
        Self {
            now,
            inputs,
            commands,
            check,
        }
    }

    /// Makes a dispatcher live through this step, apart from the events; the one way that both a run
    /// and its replay go.
    pub fn live(core: &mut Dispatcher, now: Timestamp, inputs: Vec<Input>) -> Vec<Command> {
        for input in inputs {
            core.handle_input(now, input);
        }
        core.handle_timeout(now);
        std::iter::from_fn(|| core.poll_command()).collect()
    }
}

/// A journal being written. Each step is handed to the operating system before the next begins.
#[derive(Debug)]
pub struct Writer {
    file: BufWriter<File>,
    chain: Chain,
    /// The file.
    pub path: PathBuf,
}

impl Writer {
    /// Begins a file of its own in `dir`, named by the time.
    ///
    /// # Errors
    /// If the directory or the file cannot be made.
    pub fn create(dir: &Path, header: &Header) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let nanos = header.start.as_nanos();
        let path = dir.join(format!("longshore-{nanos}.jsonl"));
        let mut open = OpenOptions::new();
        let file = open.write(true).create_new(true).mode(0o600).open(&path)?;
        let mut writer = Self {
            file: BufWriter::new(file),
            chain: Chain::default(),
            path,
        };
        writer.chain.extend(header)?;
        writer.line(header)?;
        Ok(writer)
    }

    /// Adds what was lived through.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn step(&mut self, mut step: Step) -> io::Result<()> {
        let check = self.chain.extend(&step)?.to_owned();
        step.check = check;
        self.line(&step)
    }

    fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.file, value)?;
        self.file.write_all(b"\n")?;
        self.file.flush()
    }
}

/// What a replay found.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// The same commands came out at every step.
    Same {
        /// Steps replayed.
        steps: u64,
        /// Commands compared.
        commands: u64,
        /// The last line was cut off, as by a crash, and left out.
        cut_off: bool,
    },
    /// Something else came out.
    Different {
        /// The line in the file, from 1.
        line: u64,
        /// When.
        now: Timestamp,
        /// The first command in the file that did not come out.
        written: Option<Box<Command>>,
        /// The command that came out in its place.
        replayed: Option<Box<Command>>,
    },
}

/// Why a file cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A line is not what it should be.
    #[error("line {line}: expected {expected}: {error}")]
    Line {
        /// From 1.
        line: u64,
        /// What it should be.
        expected: &'static str,
        /// The parser's words.
        error: serde_json::Error,
    },
    /// There is no header.
    #[error("the file is empty: expected a journal that `dispatch --journal` wrote")]
    Empty,
    /// It is of another format.
    #[error("line 1: journal format {found}, expected {VERSION}: replay it with {program}")]
    Version {
        /// The file's format.
        found: u32,
        /// What wrote it.
        program: String,
    },
    /// A line is not the one that was written.
    #[error(
        "line {line}: its check sum is wrong: this line or one before it was changed, lost or added"
    )]
    Check {
        /// From 1.
        line: u64,
    },
    /// Time goes back.
    #[error("line {line}: time goes back: the file was changed or put together from several")]
    TimeGoesBack {
        /// From 1.
        line: u64,
    },
}

/// Whether a file's first line is the header of a journal, of whatever format.
#[must_use]
pub fn is_header(first_line: &str) -> bool {
    let parsed: Result<serde_json::Value, _> = serde_json::from_str(first_line);
    parsed.is_ok_and(|value| value["version"].is_u64() && value["seed"].is_array())
}

/// Runs the core again on what was written down and compares what comes out. `progress` is told the
/// number of bytes read.
///
/// # Errors
/// If the file cannot be read, is no journal of this format, or is not as it was written.
pub fn replay(path: &Path, progress: impl FnMut(u64)) -> Result<Verdict, ReplayError> {
    let lines = BufReader::new(File::open(path)?);
    replay_lines(lines, |_| {}, progress)
}

/// The same for lines from anywhere; `prepare` is called with the core before it hears anything.
///
/// # Errors
/// The same.
pub fn replay_lines(
    mut lines: impl BufRead,
    prepare: impl FnOnce(&mut Dispatcher),
    mut progress: impl FnMut(u64),
) -> Result<Verdict, ReplayError> {
    let mut text = String::new();
    let read = lines.read_line(&mut text)?;
    if read == 0 {
        return Err(ReplayError::Empty);
    }
    let header = parse_header(&text)?;
    let mut chain = Chain::default();
    chain.extend(&header)?;
    let mut core = Dispatcher::new(header.config, header.seed, header.start);
    prepare(&mut core);
    let (mut before, mut steps, mut commands) = (header.start, 0, 0);
    for line in 2.. {
        text.clear();
        let read = lines.read_line(&mut text)?;
        let cut_off = read > 0 && !text.ends_with('\n');
        if read == 0 || cut_off {
            return Ok(Verdict::Same {
                steps,
                commands,
                cut_off,
            });
        }
        progress(read as u64);
        let mut step: Step = serde_json::from_str(&text).map_err(|error| ReplayError::Line {
            line,
            expected: "a step of a journal",
            error,
        })?;
        if step.now < before {
            return Err(ReplayError::TimeGoesBack { line });
        }
        before = step.now;
        let check = std::mem::take(&mut step.check);
        let intact = chain.extend(&step)? == check;
        let replayed = Step::live(&mut core, step.now, step.inputs);
        while core.poll_event().is_some() {}
        if let Some((written, replayed)) = first_difference(&step.commands, &replayed) {
            return Ok(Verdict::Different {
                line,
                now: step.now,
                written: written.map(Box::new),
                replayed: replayed.map(Box::new),
            });
        }
        if !intact {
            return Err(ReplayError::Check { line });
        }
        steps += 1;
        commands += step.commands.len() as u64;
    }
    unreachable!("lines are counted in 64 bits")
}

fn parse_header(text: &str) -> Result<Header, ReplayError> {
    let broken = |error| ReplayError::Line {
        line: 1,
        expected: "the header of a journal",
        error,
    };
    let value: serde_json::Value = serde_json::from_str(text).map_err(broken)?;
    let found = value["version"].as_u64().unwrap_or_default();
    if found != u64::from(VERSION) {
        return Err(ReplayError::Version {
            found: u32::try_from(found).unwrap_or(u32::MAX),
            program: value["program"].as_str().unwrap_or("its own").to_owned(),
        });
    }
    serde_json::from_value(value).map_err(broken)
}

type Pair = (Option<Command>, Option<Command>);

fn first_difference(written: &[Command], replayed: &[Command]) -> Option<Pair> {
    let longest = written.len().max(replayed.len());
    (0..longest)
        .map(|i| (written.get(i).cloned(), replayed.get(i).cloned()))
        .find(|(a, b)| a != b)
}
