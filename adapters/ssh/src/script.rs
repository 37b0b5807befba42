//! Words for the shell of a VM, and nothing else that depends on what a shell is.

use longshore_core::ids::ContainerId;
use longshore_secret::Secret;

/// Begins each line that a script of ours puts between the outputs of others.
pub(crate) const MARK: &str = "longshore-boot";
/// The runner is in place, with the right checksum.
pub(crate) const RUNNER_PRESENT: &str = "runner-present";
/// The runner is not there, or is another file.
pub(crate) const RUNNER_ABSENT: &str = "runner-absent";
/// The list of runners begins.
pub(crate) const LIST_BEGIN: &str = "list-begin";
/// The list of runners has ended; its exit status follows.
pub(crate) const LIST_END: &str = "list-end";
/// The boot probe has ended; its exit status follows: 124 or 137 after its time was up.
pub(crate) const PROBE_END: &str = "probe-end";

/// As one word that a shell takes literally.
pub(crate) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// As one word in which a shell still replaces variables.
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

/// Shows the instance's secret.
pub(crate) fn read_secret(sudo: bool, path: &str) -> String {
    format!("{}cat {}", sudo_prefix(sudo), quote_expanding(path))
}

/// Script that a new instance runs as root at its first boot: it puts the secret where only root can
/// read it, without a newline, and then does `init_command`. `secret_path` is a word of the shell
/// and may contain variables.
///
/// The text contains the secret, so it is one.
#[must_use]
pub fn init_script(secret: &Secret, secret_path: &str, init_command: &str) -> Secret {
    // The shell prints the secret itself: no other process ever has it among its arguments.
    Secret::new(format!(
        "#!/bin/sh\n(umask 177 && printf %s {} >{})\n{}\n",
        quote(secret.expose()),
        quote_expanding(secret_path),
        init_command.trim_end(),
    ))
}

/// How the runner is called on a VM.
#[derive(Clone, Debug)]
pub(crate) struct RunnerWords {
    /// `sudo ` or nothing.
    prefix: &'static str,
    /// Words of the shell, not to be quoted.
    runner: String,
}

impl RunnerWords {
    pub(crate) fn new(sudo: bool, runner: impl Into<String>) -> Self {
        Self {
            prefix: sudo_prefix(sudo),
            runner: runner.into(),
        }
    }

    pub(crate) fn list(&self) -> String {
        format!("{}{} --list", self.prefix, self.runner)
    }

    /// The same, with a price history on standard input.
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

    /// The list between two marks.
    fn marked_list(&self) -> String {
        format!(
            "printf '\\n{MARK} {LIST_BEGIN}\\n'\n\
             {} </dev/null\n\
             printf '\\n{MARK} {LIST_END} %s\\n' $?\n",
            self.list()
        )
    }
}

/// A file on a VM that is named after its content.
#[derive(Clone, Debug)]
pub(crate) struct Deployment {
    pub(crate) directory: String,
    /// `name~checksum`.
    pub(crate) file: String,
    /// SHA-256 in hexadecimal digits.
    pub(crate) checksum: String,
}

impl Deployment {
    pub(crate) fn path(&self) -> String {
        format!("{}/{}", self.directory, self.file)
    }
}

/// Asks in one go whether the runner is in place, what it lists, and whether the VM is ready. The
/// boot probe comes last, so that one that hangs does not hide what runs; it is ended after
/// `probe_max_s` seconds where the VM can do that, so that those that hang do not pile up. Its output
/// goes to standard error, the last 1,000 bytes of it, so that it cannot pass for an answer.
pub(crate) fn boot(
    runner: &RunnerWords,
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

/// Puts the runner that comes on standard input in place, and lists. Under its final name there is
/// never anything but the whole file, whoever else does the same at the same time; a whole file that
/// somebody else has put there meanwhile stays.
pub(crate) fn deploy(sudo: bool, runner: &RunnerWords, deployment: &Deployment) -> String {
    let install = format!(
        "umask 022\n\
         d={directory}\n\
         mkdir -p \"$d\" || exit 1\n\
         t=$(mktemp \"$d/.{file}.XXXXXX\") || exit 1\n\
         trap 'rm -f \"$t\"' EXIT\n\
         trap 'exit 1' HUP INT PIPE TERM\n\
         cat >\"$t\" || exit 1\n\
         if [ \"$(sha256sum <\"$t\")\" != '{sum}  -' ]; then\n\
         echo 'it arrived damaged: wrong checksum' >&2\n\
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

/// Runs a script by `sh`, whatever shell the user has.
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
    fn the_runner_is_called_by_the_words_of_the_protocol() {
        let root = RunnerWords::new(false, "/var/lib/arvados/crunch-run~abc");
        let user = RunnerWords::new(true, "arvados-server crunch-run");
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
    fn the_secret_is_written_for_root_alone_without_newline() {
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
        fn a_quoted_word_reaches_a_program_as_it_was(text in "[^\0]{0,40}") {
            let output = Command::new("sh")
                .args(["-c", &format!("printf %s {}", quote(&text))])
                .output()
                .unwrap();
            prop_assert_eq!(output.stdout, text.as_bytes());
        }
    }
}
