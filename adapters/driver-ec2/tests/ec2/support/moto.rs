//! The EC2 emulator moto, in a separate process.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Environment variable with the Python environment installed by `tests/run`.
const VENV_VARIABLE: &str = "LONGSHORE_MOTO_VENV";

/// Python interpreter of the environment with moto and botocore.
///
/// # Panics
/// The environment is not installed.
pub(crate) fn python() -> PathBuf {
    let python = match std::env::var_os(VENV_VARIABLE) {
        Some(venv) => Path::new(&venv).join("bin/python"),
        None => Path::new(env!("CARGO_TARGET_TMPDIR")).join("../moto-venv/bin/python"),
    };
    assert!(
        python.exists(),
        "{} is missing: run `tests/install-moto` or `tests/run`",
        python.display()
    );
    python
}

/// Path of a file in the test directory.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../driver-ec2/tests/moto")
        .join(name)
}

/// URL of the emulator. Started once per test process; exits together with the test process, at the
/// end of its standard input.
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
        let output = child.stdout.take().expect("piped standard output");
        BufReader::new(output)
            .read_line(&mut port)
            .expect("moto prints its port");
        // Keeps the input open during the lifetime of the test process.
        std::mem::forget(child);
        format!("http://127.0.0.1:{}", port.trim())
    })
}
