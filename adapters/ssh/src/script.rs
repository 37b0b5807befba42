//! Shell commands and scripts for VMs. All knowledge of shell syntax is in this module.

use longshore_core::ids::ContainerId;
use longshore_secret::Secret;

/// Prefix of the lines by which a script separates the outputs of commands.
pub(crate) const MARK: &str = "longshore-boot";
/// The runner is installed with the right checksum.
pub(crate) const RUNNER_PRESENT: &str = "runner-present";
/// The runner is missing or has another checksum.
pub(crate) const RUNNER_ABSENT: &str = "runner-absent";
/// Start of the runner's list.
pub(crate) const LIST_BEGIN: &str = "list-begin";
/// End of the runner's list, followed by the exit status.
pub(crate) const LIST_END: &str = "list-end";
/// End of the boot probe command, followed by the exit status: 124 or 137 after a timeout.
pub(crate) const PROBE_END: &str = "probe-end";

/// Quotes a text as one literal shell word.
pub(crate) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Quotes a text as one shell word with variable expansion.
fn quote_expanding(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '`' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

fn sudo_prefix(sudo: bool) -> &'static str {
    if sudo { "sudo " } else { "" }
}

/// Returns the command for reading the instance secret.
pub(crate) fn read_secret(sudo: bool, path: &str) -> String {
    format!("{}cat {}", sudo_prefix(sudo), quote_expanding(path))
}

/// Returns the script that a new instance runs as root at first boot: writes the secret to a file
/// readable by root only, without a newline, and then runs `init_command`. `secret_path` is a shell
/// word and may contain variables.
///
/// The returned text contains the secret and is therefore a `Secret`.
#[must_use]
pub fn init_script(secret: &Secret, secret_path: &str, init_command: &str) -> Secret {
    // `printf` is a shell builtin: the secret is never among the arguments of a process.
    Secret::new(format!(
        "#!/bin/sh\n(umask 177 && printf %s {} >{})\n{}\n",
        quote(secret.expose()),
        quote_expanding(secret_path),
        init_command.trim_end(),
    ))
}

/// Command lines of the runner on a VM.
#[derive(Clone, Debug)]
pub(crate) struct RunnerCommands {
    /// `sudo ` or empty.
    prefix: &'static str,
    /// Shell words of the runner command, inserted without quoting.
    runner: String,
}

impl RunnerCommands {
    pub(crate) fn new(sudo: bool, runner: impl Into<String>) -> Self {
        Self {
            prefix: sudo_prefix(sudo),
            runner: runner.into(),
        }
    }

    pub(crate) fn list(&self) -> String {
        format!("{}{} --list", self.prefix, self.runner)
    }

    /// Returns the list command with a price history on standard input.
    pub(crate) fn list_with_prices(&self) -> String {
        format!("{} --stdin-prices", self.list())
    }

    pub(crate) fn start(&self, container: ContainerId, engine: &str, args: &[String]) -> String {
        let mut words = format!("{}{} --detach --stdin-config ", self.prefix, self.runner);
        words.push_str(&quote(&format!("--runtime-engine={engine}")));
        for arg in args.iter().map(String::as_str).chain([container.as_str()]) {
            words.push(' ');
            words.push_str(&quote(arg));
        }
        words
    }

    pub(crate) fn kill(&self, container: ContainerId, signal: u8) -> String {
        format!("{}{} --kill {signal} {container}", self.prefix, self.runner)
    }

    /// Returns the list command between two marker lines.
    fn marked_list(&self) -> String {
        format!(
            "printf '\\n{MARK} {LIST_BEGIN}\\n'\n\
             {} </dev/null\n\
             printf '\\n{MARK} {LIST_END} %s\\n' $?\n",
            self.list()
        )
    }
}

/// File on a VM, named after its checksum.
#[derive(Clone, Debug)]
pub(crate) struct Deployment {
    pub(crate) directory: String,
    /// File name, `name~checksum`.
    pub(crate) file: String,
    /// SHA-256 in hexadecimal.
    pub(crate) checksum: String,
}

impl Deployment {
    pub(crate) fn path(&self) -> String {
        format!("{}/{}", self.directory, self.file)
    }
}

/// Returns the boot script, which checks the installation of the runner, lists the containers, and
/// runs the boot probe command. The boot probe command is last, so that a hanging command does not
/// hide the list. `timeout`, if present on the VM, ends the command after `probe_max_s` seconds, so
/// that hanging commands do not accumulate. Only the last 1,000 bytes of the output go to standard
/// error, so that no output can be mistaken for a marker line.
pub(crate) fn boot(
    runner: &RunnerCommands,
    deployment: Option<&Deployment>,
    probe_command: &str,
    probe_max_s: u64,
) -> String {
    let list = match deployment {
        None => format!(
            "printf '{MARK} {RUNNER_PRESENT}\\n'\n{}",
            runner.marked_list()
        ),
        Some(deployment) => format!(
            "if [ \"$(sha256sum <{path} 2>/dev/null)\" = '{sum}  -' ] && [ -x {path} ]; then\n\
             printf '{MARK} {RUNNER_PRESENT}\\n'\n\
             {list}\
             else\n\
             printf '{MARK} {RUNNER_ABSENT}\\n'\n\
             fi\n",
            path = quote_expanding(&deployment.path()),
            sum = deployment.checksum,
            list = runner.marked_list(),
        ),
    };
    let probe_command = match probe_command.trim() {
        "" => "true",
        command => command,
    };
    in_sh(
        false,
        &format!(
            "{list}limit=\n\
             command -v timeout >/dev/null 2>&1 && limit='timeout -k 1 {probe_max_s}'\n\
             {{ {{ $limit sh -c {probe} </dev/null 2>&1 3>&-\n\
             printf '{MARK} {PROBE_END} %s\\n' $? >&3\n\
             }} | tail -c 1000 >&2; }} 3>&1\n",
            probe = quote(probe_command),
        ),
    )
}

/// Returns the script that installs the runner from standard input and lists the containers. The
/// file is renamed into place, so the final name never refers to a partial file, even with
/// concurrent installations. An intact file installed in the meantime is kept.
pub(crate) fn deploy(sudo: bool, runner: &RunnerCommands, deployment: &Deployment) -> String {
    let install = format!(
        "umask 022\n\
         d={directory}\n\
         mkdir -p \"$d\" || exit 1\n\
         t=$(mktemp \"$d/.{file}.XXXXXX\") || exit 1\n\
         trap 'rm -f \"$t\"' EXIT\n\
         trap 'exit 1' HUP INT PIPE TERM\n\
         cat >\"$t\" || exit 1\n\
         if [ \"$(sha256sum <\"$t\")\" != '{sum}  -' ]; then\n\
         echo 'damaged in transfer: wrong checksum' >&2\n\
         exit 1\n\
         fi\n\
         if [ \"$(sha256sum <\"$d/{file}\" 2>/dev/null)\" = '{sum}  -' ] && [ -x \"$d/{file}\" ]; then\n\
         rm -f \"$t\"\n\
         else\n\
         chmod 755 \"$t\" && mv -f \"$t\" \"$d/{file}\" || exit 1\n\
         fi\n\
         trap - EXIT\n",
        directory = quote_expanding(&deployment.directory),
        file = deployment.file,
        sum = deployment.checksum,
    );
    let list = format!(
        "printf '{MARK} {RUNNER_PRESENT}\\n'\n{}",
        runner.marked_list()
    );
    format!("{} && {}", in_sh(sudo, &install), in_sh(false, &list))
}

/// Runs a script by `sh`, independent of the user's login shell.
fn in_sh(sudo: bool, script: &str) -> String {
    format!("{}sh -c {}", sudo_prefix(sudo), quote(script))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn container() -> ContainerId {
        "zzzzz-dz642-0123456789abcde".parse().unwrap()
    }

    #[test]
    fn runner_commands_follow_protocol() {
        let root = RunnerCommands::new(false, "/var/lib/arvados/crunch-run~abc");
        let user = RunnerCommands::new(true, "arvados-server crunch-run");
        assert_eq!(root.list(), "/var/lib/arvados/crunch-run~abc --list");
        assert_eq!(
            root.list_with_prices(),
            "/var/lib/arvados/crunch-run~abc --list --stdin-prices"
        );
        assert_eq!(
            user.kill(container(), 15),
            "sudo arvados-server crunch-run --kill 15 zzzzz-dz642-0123456789abcde"
        );
        assert_eq!(
            user.start(container(), "docker", &["--foo=it's".into(), "b c".into()]),
            "sudo arvados-server crunch-run --detach --stdin-config '--runtime-engine=docker' \
             '--foo=it'\\''s' 'b c' 'zzzzz-dz642-0123456789abcde'"
        );
        assert_eq!(read_secret(true, "/run/x"), "sudo cat \"/run/x\"");
    }

    #[test]
    fn init_script_writes_private_secret() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let script = init_script(
            &Secret::new("0123abcd"),
            "$VM_DIR/the secret",
            "echo done >\"$VM_DIR/init\"\n",
        );
        assert!(script.expose().starts_with("#!/bin/sh\n"));
        let status = Command::new("sh")
            .args(["-c", script.expose()])
            .env("VM_DIR", dir.path())
            .status()
            .unwrap();
        assert!(status.success());
        let secret = dir.path().join("the secret");
        assert_eq!(std::fs::read(&secret).unwrap(), b"0123abcd");
        let mode = std::fs::metadata(&secret).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read(dir.path().join("init")).unwrap(), b"done\n");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn quoted_text_is_unchanged_by_shell(text in "[^\0]{0,40}") {
            let output = Command::new("sh")
                .args(["-c", &format!("printf %s {}", quote(&text))])
                .output()
                .unwrap();
            prop_assert_eq!(output.stdout, text.as_bytes());
        }
    }
}
