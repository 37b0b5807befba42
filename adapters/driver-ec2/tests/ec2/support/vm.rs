//! VMs for emulated instances: each a real sshd in namespaces, with its own processes and its own
//! `/run`, that runs the user data like cloud-init. Namespaces need root.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::proxy::VmProvider;

/// Boot script of a VM; its arguments are the init script and the configuration of sshd.
const BOOT: &str = "set -e; mount -t tmpfs -o mode=755 tmpfs /run; mkdir -p /run/sshd /run/lock; \
                    sh \"$1\"; exec /usr/sbin/sshd -D -e -f \"$2\"";

/// All VMs of a test, stopped on drop.
pub(crate) struct Vms {
    dir: tempfile::TempDir,
    /// Common port of all VMs, each with its own address.
    pub(crate) port: u16,
    vms: Mutex<Living>,
}

#[derive(Default)]
struct Living {
    made: u8,
    running: BTreeMap<String, Child>,
}

impl Vms {
    /// Creates the key and the directory.
    ///
    /// # Panics
    /// This host cannot run the VMs.
    pub(crate) fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "VMs in namespaces need root: run the tests as root"
        );
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            dir: tempfile::tempdir().unwrap(),
            port: listener.local_addr().unwrap().port(),
            vms: Mutex::default(),
        }
    }

    fn start(&self, id: &str, address: Ipv4Addr, user_data: &str, key: &str) -> Child {
        let dir = self.dir.path().join(id);
        std::fs::create_dir(&dir).unwrap();
        let file = |name: &str, text: &str| -> PathBuf {
            std::fs::write(dir.join(name), text).unwrap();
            dir.join(name)
        };
        let script = file("user-data", user_data);
        file("authorized", key);
        let made = Command::new("ssh-keygen")
            .args(["-q", "-N", "", "-t", "ed25519", "-f"])
            .arg(dir.join("host"))
            .status();
        assert!(made.unwrap().success(), "ssh-keygen");
        let config = format!(
            "ListenAddress {address}:{port}\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/authorized\n\
             PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitRootLogin yes\n\
             SetEnv HOME={dir} LONGSHORE_SCRATCH_DIR={dir}/scratch LONGSHORE_LOG_DIR={dir}/log.d\n",
            port = self.port,
            dir = dir.display(),
        );
        let config = file("sshd_config", &config);
        let log = std::fs::File::create(dir.join("log")).unwrap();
        Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", BOOT, "boot"])
            .arg(script)
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("unshare is part of util-linux")
    }

    /// Ids of running VMs.
    pub(crate) fn running(&self) -> Vec<String> {
        self.vms.lock().unwrap().running.keys().cloned().collect()
    }

    /// Log of a VM's sshd.
    pub(crate) fn log(&self, id: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(id).join("log")).unwrap_or_default()
    }
}

impl VmProvider for Vms {
    fn start_vm(&self, id: &str, user_data: &str, public_key: Option<&str>) -> String {
        let mut vms = self.vms.lock().unwrap();
        vms.made += 1;
        // An address separate from other tests on this host.
        let address = Ipv4Addr::new(127, 53, (self.port % 251) as u8, vms.made);
        let child = self.start(id, address, user_data, public_key.unwrap_or_default());
        vms.running.insert(id.to_owned(), child);
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect((address, self.port)).is_err() {
            assert!(Instant::now() < deadline, "no sshd: {}", self.log(id));
            std::thread::sleep(Duration::from_millis(10));
        }
        address.to_string()
    }

    fn stop_vm(&self, id: &str) {
        let child = self.vms.lock().unwrap().running.remove(id);
        if let Some(child) = child {
            end(child);
        }
    }
}

/// Kills the first process in the namespace of the VM, which takes all other processes along.
fn end(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

impl Drop for Vms {
    fn drop(&mut self) {
        let vms = self.vms.get_mut().unwrap();
        std::mem::take(&mut vms.running).into_values().for_each(end);
    }
}
