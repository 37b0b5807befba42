//! OpenSSH's server, as an independent SSH implementation.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::daemon::Daemon;
use crate::wait::until;

/// Path of the server on Debian.
pub const SSHD: &str = "/usr/sbin/sshd";

/// Server on this host, with files in a directory of the caller.
#[derive(Debug)]
pub struct Sshd {
    daemon: Daemon,
    dir: PathBuf,
    port: u16,
}

impl Sshd {
    /// Starts a server on a port; `settings` are additional lines of the configuration. The host
    /// key is created in `dir`; the keys in the file `authorized` may log in.
    ///
    /// # Panics
    ///
    /// If the server is not installed or does not start.
    #[must_use]
    pub fn start(dir: &Path, port: u16, settings: &str) -> Self {
        assert!(
            Path::new(SSHD).exists(),
            "{SSHD} is missing: install it by `apt-get update && apt-get install -y openssh-server`"
        );
        // As root the server needs an empty directory, normally created by the system service.
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

    /// Log of the server.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Directory of the server's files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Address of the server.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// Creates a key pair, `path` and `path.pub`.
///
/// # Panics
///
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

/// Unused port of this host.
///
/// # Panics
///
/// If there is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it has an address").port()
}
