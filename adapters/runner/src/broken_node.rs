//! Reports to the dispatcher that this VM is unfit for containers.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::lock::LockDir;

/// Timeout of the operator's hook.
const HOOK_MAX: Duration = Duration::from_secs(60);

/// Runs the operator's hook. Without a hook, or if the hook fails, creates the flag file reported
/// by `--list`. Returns a message for the log.
pub(crate) fn report(locks: &LockDir, hook: Option<&Path>) -> String {
    let failed = match hook.map(run) {
        Some(Ok(())) => return "this node is broken: the broken-node hook has run".to_owned(),
        Some(Err(why)) => format!(" (the broken-node hook failed: {why})"),
        None => String::new(),
    };
    let path = locks.broken();
    match OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o700)
        .open(&path)
    {
        Ok(_) => format!("this node is broken: wrote {}{failed}", path.display()),
        Err(e) => format!(
            "this node is broken, and {} cannot be written: {e}{failed}",
            path.display()
        ),
    }
}

fn run(hook: &Path) -> Result<(), String> {
    let what = |e: std::io::Error| format!("{}: {e}", hook.display());
    let mut child = Command::new(hook)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(what)?;
    let deadline = Instant::now() + HOOK_MAX;
    loop {
        match child.try_wait().map_err(what)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("{}: {status}", hook.display())),
            None if Instant::now() >= deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!(
                    "{}: still running after {} s",
                    hook.display(),
                    HOOK_MAX.as_secs()
                ));
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_file_is_written_without_successful_hook() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let locks = LockDir::new(dir.path());
        report(&locks, Some(Path::new("/bin/true")));
        assert!(!locks.broken().exists());
        assert!(report(&locks, Some(Path::new("/bin/false"))).contains("hook failed"));
        assert!(locks.broken().exists());
        Ok(())
    }
}
