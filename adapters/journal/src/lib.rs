//! Journal of a run: all inputs of the core with the time of each, and the resulting commands.
//!
//! The file holds one JSON document per line: first the [`Header`], then one [`Step`] per line. The
//! check sum of a step covers its own line and all lines above. A journal contains no secrets, since
//! the core has none, and can be sent to a colleague; names of containers, instances and types are
//! in the file.
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

/// Version of the file format. Files of other versions are refused.
const VERSION: u32 = 1;

/// Initial state of a run: the first line of a journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the file format.
    pub version: u32,
    /// Name and version of the program that wrote the file.
    pub program: String,
    /// Start of the run.
    pub start: Timestamp,
    /// Seed of the core's random numbers.
    pub seed: Seed,
    /// Configuration of the core at the start.
    pub config: Config,
}

/// Inputs between two drains of the core, and the resulting commands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Time of the inputs and the commands.
    pub now: Timestamp,
    /// Inputs, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
    /// Commands taken out of the core afterwards, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<Command>,
    /// Check sum, see [`Chain`]. The last field of the line.
    #[serde(default)]
    check: String,
}

/// Check sum of all lines so far. A changed, lost or added line is detected even if the commands are
/// the same.
///
/// The sum covers the bytes of the file, not the parsed values: a line written by an older program
/// stays valid after fields or variants have been renamed.
#[derive(Clone, Debug, Default)]
struct Chain(String);

impl Chain {
    /// Adds a line, given in parts and without its line break. Returns the new check sum.
    fn extend(&mut self, parts: &[&str]) -> &str {
        let mut hasher = Sha256::new();
        hasher.update(self.0.as_bytes());
        for part in parts {
            hasher.update(part.as_bytes());
        }
        self.0 = hex::encode(&hasher.finalize()[..8]);
        &self.0
    }

    /// Adds the line of a step, with an empty check sum in place of `check`. Returns false if the
    /// check sum is wrong, or is not at the end of the line.
    fn verify(&mut self, line: &str, check: &str) -> bool {
        let end = format!("\"check\":\"{check}\"}}");
        let line = line.strip_suffix('\n').unwrap_or(line);
        line.strip_suffix(&end)
            .is_some_and(|begin| self.extend(&[begin, "\"check\":\"\"}"]) == check)
    }
}

impl Header {
    /// Header of a run that starts at `start`.
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
    /// Step without a check sum: [`Writer::step`] adds the check sum.
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

    /// Feeds inputs into a dispatcher and returns the resulting commands. A run and a replay both use
    /// this function. Events stay in the dispatcher.
    pub fn apply(core: &mut Dispatcher, now: Timestamp, inputs: Vec<Input>) -> Vec<Command> {
        for input in inputs {
            core.handle_input(now, input);
        }
        core.handle_timeout(now);
        std::iter::from_fn(|| core.poll_command()).collect()
    }
}

/// Writer of a journal. Each step is handed to the operating system before the next step begins.
#[derive(Debug)]
pub struct Writer {
    file: BufWriter<File>,
    chain: Chain,
    /// Path of the file.
    pub path: PathBuf,
}

impl Writer {
    /// Creates a new file in `dir`, named after the start time, and writes the header.
    ///
    /// # Errors
    /// If the directory or the file cannot be created.
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
        let line = serde_json::to_string(header)?;
        writer.chain.extend(&[&line]);
        writer.line(&line)?;
        Ok(writer)
    }

    /// Adds a step.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn step(&mut self, mut step: Step) -> io::Result<()> {
        step.check.clear();
        let line = serde_json::to_string(&step)?;
        self.chain.extend(&[&line]).clone_into(&mut step.check);
        self.line(&serde_json::to_string(&step)?)
    }

    fn line(&mut self, line: &str) -> io::Result<()> {
        self.file.write_all(line.as_bytes())?;
        self.file.write_all(b"\n")?;
        self.file.flush()
    }
}

/// Result of a replay.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// The core returned the same commands at every step.
    Same {
        /// Number of replayed steps.
        steps: u64,
        /// Number of compared commands.
        commands: u64,
        /// True if the last line was truncated, as by a crash, and skipped.
        cut_off: bool,
    },
    /// The core returned other commands.
    Different {
        /// Number of the line in the file, from 1.
        line: u64,
        /// Time of the step.
        now: Timestamp,
        /// First differing command in the file; none if the file has fewer commands.
        written: Option<Box<Command>>,
        /// Command of the core at the same position; none if the core returned fewer commands.
        replayed: Option<Box<Command>>,
    },
}

/// Error of a replay.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A line cannot be parsed.
    #[error("line {line}: expected {expected}: {error}")]
    Line {
        /// Number of the line, from 1.
        line: u64,
        /// Expected content of the line.
        expected: &'static str,
        /// Error of the parser.
        error: serde_json::Error,
    },
    /// The file is empty.
    #[error("the file is empty: expected a journal that `dispatch --journal` wrote")]
    Empty,
    /// The file has another format version.
    #[error("line 1: journal format {found}, expected {VERSION}: replay it with {program}")]
    Version {
        /// Format version of the file.
        found: u32,
        /// Program that wrote the file.
        program: String,
    },
    /// The check sum of a line is wrong.
    #[error(
        "line {line}: wrong check sum: this line or an earlier line was changed, lost or added"
    )]
    Check {
        /// Number of the line, from 1.
        line: u64,
    },
    /// The time of a line is before the time of the line above.
    #[error("line {line}: time goes back: the file was changed or joined from several files")]
    TimeGoesBack {
        /// Number of the line, from 1.
        line: u64,
    },
}

/// True if the first line of a file is the header of a journal of any format version.
#[must_use]
pub fn is_header(first_line: &str) -> bool {
    let parsed: Result<serde_json::Value, _> = serde_json::from_str(first_line);
    parsed.is_ok_and(|value| value["version"].is_u64() && value["seed"].is_array())
}

/// Feeds the recorded inputs into a new core and compares the commands with the recorded commands.
/// Calls `progress` with the number of bytes of each step.
///
/// # Errors
/// If the file cannot be read, is not a journal of this format version, or has been changed.
pub fn replay(path: &Path, progress: impl FnMut(u64)) -> Result<Verdict, ReplayError> {
    let lines = BufReader::new(File::open(path)?);
    replay_lines(lines, |_| {}, progress)
}

/// Replays a journal from any reader, as [`replay`]. Calls `prepare` with the core before the first
/// input.
///
/// # Errors
/// As for [`replay`].
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
    chain.extend(&[text.strip_suffix('\n').unwrap_or(&text)]);
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
        let step: Step = serde_json::from_str(&text).map_err(|error| ReplayError::Line {
            line,
            expected: "a step of a journal",
            error,
        })?;
        if step.now < before {
            return Err(ReplayError::TimeGoesBack { line });
        }
        before = step.now;
        let intact = chain.verify(&text, &step.check);
        let replayed = Step::apply(&mut core, step.now, step.inputs);
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
    let malformed = |error| ReplayError::Line {
        line: 1,
        expected: "the header of a journal",
        error,
    };
    let value: serde_json::Value = serde_json::from_str(text).map_err(malformed)?;
    let found = value["version"].as_u64().unwrap_or_default();
    if found != u64::from(VERSION) {
        return Err(ReplayError::Version {
            found: u32::try_from(found).unwrap_or(u32::MAX),
            program: value["program"].as_str().unwrap_or("its own").to_owned(),
        });
    }
    serde_json::from_value(value).map_err(malformed)
}

type Pair = (Option<Command>, Option<Command>);

fn first_difference(written: &[Command], replayed: &[Command]) -> Option<Pair> {
    let longest = written.len().max(replayed.len());
    (0..longest)
        .map(|i| (written.get(i).cloned(), replayed.get(i).cloned()))
        .find(|(a, b)| a != b)
}
