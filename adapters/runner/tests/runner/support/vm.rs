//! Simulated VM with its own lock, log and scratch directories.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::{SOON, Server};

/// Result of a command.
#[derive(Debug)]
pub(crate) struct CommandOutput {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

pub(crate) struct Vm {
    dir: TempDir,
    /// Flags of every command on this VM.
    pub(crate) flags: Vec<String>,
    /// Containers started here, killed on drop.
    uuids: std::cell::RefCell<Vec<String>>,
}

impl Vm {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["lock", "log", "scratch"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let flag = |name: &str| format!("--{name}-dir={}", dir.path().join(name).display());
        let flags = ["lock", "log", "scratch"].map(flag).to_vec();
        Self {
            dir,
            flags,
            uuids: Default::default(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn lockfile(&self, uuid: &str) -> PathBuf {
        self.path("lock").join(format!("crunch-run-{uuid}.lock"))
    }

    /// Returns a runner command with the flags of this VM and `args`, with empty standard input.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore-runner"));
        command.args(&self.flags).args(args).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the runner with `input` on standard input.
    pub(crate) fn run(&self, args: &[&str], input: &str) -> CommandOutput {
        let mut command = self.command(args);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A runner that refuses its command line does not read the input.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        finish(child)
    }

    /// Starts a container as a dispatcher does.
    pub(crate) fn start(&self, server: &Server, args: &[&str]) -> CommandOutput {
        self.start_with(server, args, &server.config())
    }

    pub(crate) fn start_with(
        &self,
        server: &Server,
        args: &[&str],
        config: &Value,
    ) -> CommandOutput {
        self.uuids.borrow_mut().push(server.uuid.clone());
        let mut words = vec!["--detach", "--stdin-config", "--runtime-engine=process"];
        words.extend(args);
        words.push(&server.uuid);
        self.run(&words, &config.to_string())
    }

    /// Starts a container and waits until the API has the state Running.
    pub(crate) fn start_running(&self, server: &Server, args: &[&str]) {
        let ran = self.start(server, args);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        server.wait_for_state("Running");
    }

    /// Runs a container in the foreground.
    pub(crate) fn run_here(&self, server: &Server, args: &[&str]) -> CommandOutput {
        let mut words = vec!["--stdin-config", "--runtime-engine=process"];
        words.extend(args);
        words.push(&server.uuid);
        self.run(&words, &server.config().to_string())
    }

    pub(crate) fn list(&self) -> CommandOutput {
        self.run(&["--list"], "")
    }

    pub(crate) fn kill(&self, signal: i32, uuid: &str) -> CommandOutput {
        self.run(&["--kill", &signal.to_string(), uuid], "")
    }

    /// Content of the lock file.
    pub(crate) fn record(&self, uuid: &str) -> Value {
        serde_json::from_str(&fs::read_to_string(self.lockfile(uuid)).unwrap()).unwrap()
    }

    pub(crate) fn local_log(&self, uuid: &str) -> String {
        fs::read_to_string(self.path("log").join(format!("{uuid}.log"))).unwrap_or_default()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        for uuid in self.uuids.borrow().iter() {
            self.kill(9, uuid);
        }
    }
}

/// Collects the result of a command, with a timeout.
pub(crate) fn finish(mut child: Child) -> CommandOutput {
    let began = Instant::now();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (sender, results) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let text = |pipe: Option<&mut dyn std::io::Read>| {
            let mut text = String::new();
            pipe.map(|pipe| pipe.read_to_string(&mut text).unwrap());
            text
        };
        let (mut stdout, mut stderr) = (stdout, stderr);
        let out = text(stdout.as_mut().map(|pipe| pipe as _));
        let err = text(stderr.as_mut().map(|pipe| pipe as _));
        sender.send((out, err))
    });
    let Ok((stdout, stderr)) = results.recv_timeout(SOON) else {
        let _ = child.kill();
        panic!("the command did not end, or something still holds its output");
    };
    let code = child.wait().unwrap().code();
    CommandOutput {
        code,
        stdout,
        stderr,
        took: began.elapsed(),
    }
}

/// Returns the live processes of a container, found by the mark in their environment.
pub(crate) fn processes_of(uuid: &str) -> Vec<i32> {
    let mark = format!("CONTAINER_MARK={uuid}\0");
    let marked = |pid: &i32| {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let environment = fs::read(proc.join("environ")).unwrap_or_default();
        environment
            .windows(mark.len())
            .any(|window| window == mark.as_bytes())
            && !is_zombie(&proc)
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(marked)
        .collect()
}

fn is_zombie(proc: &Path) -> bool {
    fs::read_to_string(proc.join("stat")).map_or(true, |stat| stat.contains(") Z "))
}

/// Returns the control groups of a container, in all hierarchies.
pub(crate) fn groups_of(uuid: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.contains(uuid) {
                    found.push(name);
                }
                open.push(entry.path());
            }
        }
    }
    found
}
