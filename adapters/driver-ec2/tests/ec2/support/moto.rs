//! The foreign EC2: moto, in a process of its own.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Names the environment that `tests/run` installs moto into.
const VENV_VARIABLE: &str = "LONGSHORE_MOTO_VENV";

/// The Python of the environment that has moto and botocore.
///
/// # Panics
/// If it is not installed.
pub(crate) fn python() -> PathBuf {
    let python = match std::env::var_os(VENV_VARIABLE) {
        Some(venv) => Path::new(&venv).join("bin/python"),
        None => Path::new(env!("CARGO_TARGET_TMPDIR")).join("../moto-venv/bin/python"),
    };
    assert!(
        python.exists(),
        "{} is missing: `tests/install-moto` installs it, and `tests/run` calls that",
        python.display()
    );
    python
}

/// A file beside the tests' sources.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../driver-ec2/tests/moto")
        .join(name)
}

/// Where it listens. Started once for all tests of this process; it ends with this process, because
/// its standard input does.
pub(crate) fn url() -> &'static str {
    static URL: OnceLock<String> = OnceLock::new();
    URL.get_or_init(|| {
        let mut child = Command::new(python())
            .arg(script("serve.py"))
            .env("MOTO_ENABLE_AMI_VALIDATION", "true")
            .env("MOTO_ENABLE_KEYPAIR_VALIDATION", "true")
            .env("MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION", "true")
            .env("MOTO_EC2_LOAD_DEFAULT_AMIS", "true")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("moto starts");
        let mut port = String::new();
        let output = child.stdout.take().expect("it has an output");
        BufReader::new(output)
            .read_line(&mut port)
            .expect("moto says its port");
        // Its input stays open for as long as this process lives.
        std::mem::forget(child);
        format!("http://127.0.0.1:{}", port.trim())
    })
}
