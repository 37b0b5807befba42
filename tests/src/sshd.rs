//! OpenSSH's server: somebody else's idea of what SSH is.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::daemon::Daemon;
use crate::wait::until;

/// Where Debian puts it.
pub const SSHD: &str = "/usr/sbin/sshd";

/// A server on this host, with its files in a directory of the caller's.
#[derive(Debug)]
pub struct Sshd {
    daemon: Daemon,
    dir: PathBuf,
    port: u16,
}

impl Sshd {
    /// Starts it on a port; `settings` are further lines of its configuration. `dir` gets a host key
    /// of its own; whoever is in its file `authorized` may log in.
    ///
    /// # Panics
    /// If it is not installed or does not start.
    #[must_use]
    pub fn start(dir: &Path, port: u16, settings: &str) -> Self {
        assert!(
            Path::new(SSHD).exists(),
            "{SSHD} is missing: install it by `apt-get update && apt-get install -y openssh-server`"
        );
        // As root it wants its empty directory, which the service's start would make.
        if rustix::process::geteuid().is_root() {
            fs::create_dir_all("/run/sshd").expect("a directory for sshd");
        }
        if !dir.join("host").exists() {
            keygen(&dir.join("host"));
        }
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/authorized\n\
             PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitRootLogin yes\nLogLevel VERBOSE\n{settings}\n",
            dir = dir.display(),
        );
        fs::write(dir.join("sshd_config"), config).expect("a file is written");
        let mut command = Command::new(SSHD);
        command
            .args(["-D", "-e", "-f"])
            .arg(dir.join("sshd_config"));
        let daemon = Daemon::start(&mut command, &dir.join("sshd.log"));
        until("sshd listens", || daemon.log().contains("Server listening"));
        Self {
            daemon,
            dir: dir.to_owned(),
            port,
        }
    }

    /// What it wrote.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Its files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// Makes a key pair, `path` and `path.pub`.
///
/// # Panics
/// If `ssh-keygen` is missing.
pub fn keygen(path: &Path) {
    let status = Command::new("ssh-keygen")
        .args(["-q", "-N", "", "-t", "ed25519", "-f"])
        .arg(path)
        .stdin(Stdio::null())
        .status()
        .expect("ssh-keygen comes with openssh-client");
    assert!(status.success(), "ssh-keygen: {status}");
}

/// A port of this host that nobody uses now.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it has an address").port()
}
