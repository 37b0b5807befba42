//! SSH server with the files of a simulated VM in a directory.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use longshore_core::ids::{CloudId, InstanceId};
use longshore_secret::Secret;
use longshore_ssh::{
    Exec, Output, Pool, Remote, RemoteSettings, RunnerSource, SshKey, SshSettings, Target,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef01234567";
const SSHD: &str = "/usr/sbin/sshd";

/// Replacement for the runner: returns the contents of files in `state` and records the calls.
pub(crate) const RUNNER: &str = r#"#!/bin/sh
state=$LONGSHORE_VM_DIR/state
echo "$*" >>"$state/calls"
case $1 in
--list)
[ "$2" = --stdin-prices ] && cat >"$state/prices"
cat "$state/list"; exit "$(cat "$state/list-status")" ;;
--detach) cat >"$state/stdin"; exit "$(cat "$state/start-status")" ;;
--kill) cat "$state/kill-stderr" >&2; exit "$(cat "$state/kill-status")" ;;
esac
exit 2
"#;

/// Simulated VM: an SSH server with files. Stopped on drop.
pub(crate) struct Vm {
    dir: TempDir,
    port: u16,
    server: Option<Child>,
}

impl Vm {
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// Starts a VM with additional lines in the server's configuration.
    pub(crate) async fn start_with(settings: &str) -> Self {
        assert!(
            Path::new(SSHD).exists(),
            "{SSHD} is missing: install it by `apt-get update && apt-get install -y openssh-server`"
        );
        // As root, sshd needs an empty directory that the system service would create.
        if is_root() {
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let dir = tempfile::Builder::new().prefix("vm").tempdir().unwrap();
        let mut vm = Self {
            dir,
            port: free_port(),
            server: None,
        };
        fs::create_dir(vm.path("state")).unwrap();
        for (file, text) in [
            ("secret", SECRET),
            ("state/list", ""),
            ("state/list-status", "0"),
            ("state/start-status", "0"),
            ("state/kill-stderr", ""),
            ("state/kill-status", "0"),
        ] {
            vm.write(file, text);
        }
        vm.write("runner", RUNNER);
        fs::set_permissions(vm.path("runner"), fs::Permissions::from_mode(0o755)).unwrap();
        keygen(&vm.path("login"), "ed25519");
        keygen(&vm.path("host"), "ed25519");
        fs::copy(vm.path("login.pub"), vm.path("authorized")).unwrap();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/authorized\n\
             PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n\
             LogLevel VERBOSE\n\
             SetEnv HOME={dir} LONGSHORE_VM_DIR={dir} PATH={dir}/tools:/usr/local/bin:/usr/bin:/bin\n\
             {settings}\n",
            port = vm.port,
            dir = vm.dir.path().display(),
        );
        vm.write("config", &config);
        vm.launch().await;
        vm
    }

    pub(crate) async fn launch(&mut self) {
        let listening = self.log().matches("Server listening").count();
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let server = Command::new(SSHD)
            .args(["-D", "-e", "-f"])
            .arg(self.path("config"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.server = Some(server);
        until("sshd listens", || {
            self.log().matches("Server listening").count() > listening
        })
        .await;
    }

    /// Stops the listening process. Existing sessions continue.
    pub(crate) fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    /// Restarts the server with another host key on the same port.
    pub(crate) async fn change_host_key(&mut self) {
        self.stop();
        fs::remove_file(self.path("host")).unwrap();
        keygen(&self.path("host"), "ed25519");
        self.launch().await;
    }

    /// Restarts the server on another port.
    pub(crate) async fn move_to_another_port(&mut self) {
        self.stop();
        let before = format!(":{}\n", self.port);
        self.port = free_port();
        let config = self.read("config");
        self.write(
            "config",
            &config.replace(&before, &format!(":{}\n", self.port)),
        );
        self.launch().await;
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).unwrap();
    }

    pub(crate) fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path(file)).unwrap()
    }

    /// Adds a program to the VM's search path.
    pub(crate) fn add_tool(&self, name: &str, script: &str) {
        fs::create_dir_all(self.path("tools")).unwrap();
        let file = format!("tools/{name}");
        self.write(&file, script);
        fs::set_permissions(self.path(&file), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Processes that serve connections: children of the listening process.
    pub(crate) fn session_pids(&self) -> Vec<String> {
        let server = self.server.as_ref().unwrap().id().to_string();
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
            .filter(|pid| {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                // pid (name) state parent …
                let after_name = stat.rsplit(") ").next().unwrap_or_default();
                after_name.split(' ').nth(1) == Some(&server)
            })
            .collect()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Number of logins so far.
    pub(crate) fn connections(&self) -> usize {
        self.log().matches("Accepted publickey").count()
    }

    /// Number of commands so far.
    pub(crate) fn sessions(&self) -> usize {
        self.log().matches("Starting session").count()
    }

    /// Maximum number of concurrent commands, by the server's log.
    pub(crate) fn sessions_at_once(&self) -> usize {
        let (mut now, mut most) = (0_usize, 0);
        for line in self.log().lines() {
            if line.contains("Starting session") {
                now += 1;
                most = most.max(now);
            } else if line.contains("Close session") {
                now -= 1;
            }
        }
        most
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn target(&self) -> Target {
        target(&self.address())
    }

    pub(crate) fn settings(&self) -> SshSettings {
        self.settings_with_key("login")
    }

    pub(crate) fn settings_with_key(&self, file: &str) -> SshSettings {
        SshSettings {
            user: user(),
            sudo: false,
            default_port: self.port,
            key: SshKey::parse(&Secret::new(self.read(file))).unwrap(),
            secret_path: "$LONGSHORE_VM_DIR/secret".into(),
            connects_max: 32,
        }
    }

    pub(crate) fn pool(&self) -> Pool {
        Pool::new(self.settings()).unwrap()
    }

    /// Returns a remote with an installed runner.
    pub(crate) fn remote(&self) -> Remote {
        let command = "$LONGSHORE_VM_DIR/runner".into();
        self.remote_with(RunnerSource::Installed { command }, "true")
    }

    /// Returns a remote that deploys the runner.
    pub(crate) fn deploying(&self, boot_probe: &str) -> Remote {
        let source = RunnerSource::Deploy {
            binary: Bytes::from_static(RUNNER.as_bytes()),
            directory: "$LONGSHORE_VM_DIR/bin".into(),
            name: "crunch-run".into(),
        };
        self.remote_with(source, boot_probe)
    }

    pub(crate) fn remote_with(&self, runner: RunnerSource, boot_probe: &str) -> Remote {
        let settings = RemoteSettings {
            cluster_id: "zzzzz".into(),
            boot_probe_command: boot_probe.into(),
            runner,
            runner_args: vec!["--foo=it's".into()],
            runtime_engine: "docker".into(),
        };
        Remote::new(self.settings(), settings).unwrap()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn target(address: &str) -> Target {
    Target {
        cloud: CloudId(0),
        instance: InstanceId::new("i-1"),
        address: address.into(),
        secret: Secret::new(SECRET),
    }
}

pub(crate) fn keygen(path: &Path, kind: &str) {
    let status = Command::new("ssh-keygen")
        .args(["-q", "-N", "", "-t", kind, "-f"])
        .arg(path)
        .stdin(Stdio::null())
        .status()
        .expect("ssh-keygen comes with openssh-client");
    assert!(status.success());
}

/// Sends a signal to a process with a pid reported by a command.
pub(crate) fn kill(signal: &str, pid: &str) {
    let status = Command::new("kill").args([signal, pid]).status().unwrap();
    assert!(status.success(), "kill {signal} {pid}");
}

/// Pid of the process that serves the connection.
pub(crate) async fn session_pid(pool: &Pool, target: &Target) -> String {
    let output = run(pool, target, "echo $PPID").await;
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

pub(crate) async fn run(pool: &Pool, target: &Target, command: &str) -> Output {
    pool.run(target, &Exec::new(command), soon()).await.unwrap()
}

/// Polls a condition until true.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = soon();
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "timeout while waiting until {what}"
        );
        sleep(Duration::from_millis(10)).await;
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn is_root() -> bool {
    user() == "root"
}
