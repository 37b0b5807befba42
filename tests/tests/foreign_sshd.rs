//! Runner on a VM served by OpenSSH instead of the loopback driver.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use longshore_core::command::Signal;
use longshore_core::ids::{CloudId, ContainerId, InstanceId};
use longshore_core::input::{ProbeReport, SignalReport, VmError};
use longshore_queue::{Database, QueueConfig, QueueServer};
use longshore_secret::Secret;
use longshore_ssh::{Remote, RemoteSettings, RunnerSource, SshKey, SshSettings, Target};
use longshore_tests::{Api, Container, Sshd, TIMEOUT, end, free_port, keygen, of_vms, runner};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

const CLUSTER: &str = "other";
const TOKEN: &str = "roottoken1roottoken2roottoken3roottoken4roottoken5";
const SECRET: &str = "0123456789abcdef0123456789abcdef01234567";

/// Queue, and a VM served by OpenSSH.
struct SshdVm {
    dir: TempDir,
    queue: QueueServer,
    api: Api,
    sshd: Sshd,
    remote: Remote,
}

impl SshdVm {
    async fn new(boot_probe: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let vm_dir = dir.path().join("vm");
        for name in ["vm/lock", "vm/scratch", "vm/log"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        fs::write(vm_dir.join("secret"), SECRET).unwrap();
        keygen(&dir.path().join("login"));
        fs::copy(dir.path().join("login.pub"), vm_dir.join("authorized")).unwrap();
        let variables = format!(
            "SetEnv HOME={vm} LONGSHORE_VM_DIR={vm} LONGSHORE_LOCK_DIR={vm}/lock \
             LONGSHORE_SCRATCH_DIR={vm}/scratch LONGSHORE_LOG_DIR={vm}/log",
            vm = vm_dir.display()
        );
        let sshd = Sshd::start(&vm_dir, free_port(), &variables);

        let config = QueueConfig::new(CLUSTER, Database::File(dir.path().join("queue.db")));
        let queue = QueueServer::bind(([127, 0, 0, 1], 0).into(), config)
            .await
            .unwrap();
        queue.tokens().set_root(&Secret::new(TOKEN)).await.unwrap();
        let api = Api::new(queue.local_addr().port(), TOKEN);

        let key = fs::read_to_string(dir.path().join("login")).unwrap();
        let ssh = SshSettings {
            user: user(),
            sudo: false,
            default_port: 22,
            key: SshKey::parse(&Secret::new(key)).unwrap(),
            secret_path: "$LONGSHORE_VM_DIR/secret".to_owned(),
            connects_max: 4,
        };
        let settings = RemoteSettings {
            cluster_id: CLUSTER.to_owned(),
            boot_probe_command: boot_probe.to_owned(),
            runner: RunnerSource::Deploy {
                binary: Bytes::from(fs::read(runner()).unwrap()),
                directory: "$LONGSHORE_VM_DIR/bin".to_owned(),
                name: "longshore-runner".to_owned(),
            },
            runner_args: Vec::new(),
            runtime_engine: "process".to_owned(),
        };
        let remote = Remote::new(ssh, settings).unwrap();
        Self {
            dir,
            queue,
            api,
            sshd,
            remote,
        }
    }

    fn target(&self) -> Target {
        Target {
            cloud: CloudId(0),
            instance: InstanceId::new("i-1"),
            address: self.sshd.address(),
            secret: Secret::new(SECRET),
        }
    }

    /// Submits and locks a container.
    fn locked(&self, container: &Container) -> ContainerId {
        let uuid = self.api.submit(container);
        let path = format!("/arvados/v1/containers/{uuid}/lock");
        let _ = self.api.form(&path, "").ok();
        uuid.parse().unwrap()
    }

    async fn start(&self, container: ContainerId) -> Result<(), VmError> {
        self.start_by(container, self.queue.local_addr()).await
    }

    /// Starts a container with this queue address for the runner.
    async fn start_by(&self, container: ContainerId, address: SocketAddr) -> Result<(), VmError> {
        let document = json!({
            "Env": {
                "ARVADOS_API_HOST": address.to_string(),
                "ARVADOS_API_TOKEN": TOKEN,
                "LONGSHORE_API_URL": format!("http://{address}/"),
            },
        });
        let document = Secret::new(document.to_string());
        self.remote
            .start(&self.target(), container, document, deadline())
            .await
    }

    /// Containers whose runners are listed by the VM.
    async fn listed(&self) -> Vec<ContainerId> {
        let report = self
            .remote
            .probe(&self.target(), false, deadline())
            .await
            .unwrap();
        names(&report)
    }

    async fn until_listed(&self, containers: &[ContainerId]) {
        let deadline = deadline();
        loop {
            let listed = self.listed().await;
            if listed == containers {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{listed:?} instead of {containers:?}"
            );
            sleep(Duration::from_millis(25)).await;
        }
    }
}

impl Drop for SshdVm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.sshd.log());
        }
        let vm = self.dir.path().join("vm");
        let left = end(|| of_vms(&vm));
        assert!(left.is_empty() || std::thread::panicking(), "{left:?}");
    }
}

/// Containers of the listed runners; asserts that the VM is not broken.
fn names(report: &ProbeReport) -> Vec<ContainerId> {
    let list = report.runners.as_ref().unwrap();
    assert!(!list.broken);
    list.runners.iter().map(|runner| runner.container).collect()
}

fn deadline() -> Instant {
    Instant::now() + TIMEOUT
}

fn user() -> String {
    let id = longshore_tests::run(std::process::Command::new("id").arg("-un"));
    id.succeeded().text().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn deployed_runner_completes_container() {
    let vm = SshdVm::new("true").await;
    let report = vm
        .remote
        .probe(&vm.target(), true, deadline())
        .await
        .unwrap();
    assert_eq!(report.ready, Ok(()));
    assert_eq!(names(&report), []);
    let bin: Vec<_> = fs::read_dir(vm.sshd.dir().join("bin")).unwrap().collect();
    assert_eq!(bin.len(), 1, "{bin:?}");

    let gate = vm.dir.path().join("gate");
    let script = format!(
        "echo begun; while ! [ -e {} ]; do sleep 0.05; done; echo ended >&2; exit 5",
        gate.display()
    );
    let id = vm.locked(&Container::sh(script));
    vm.start(id).await.unwrap();
    vm.api.until_state(id.as_str(), "Running");
    assert_eq!(vm.listed().await, [id]);
    fs::write(gate, "").unwrap();
    assert_eq!(vm.api.exit_code(id.as_str()), Some(5));
    assert_eq!(vm.api.log(id.as_str()), "begun\nended\n");
    vm.until_listed(&[]).await;
    // A second probe finds the runner deployed.
    let again = vm
        .remote
        .probe(&vm.target(), true, deadline())
        .await
        .unwrap();
    assert_eq!(again.ready, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn term_and_kill_reach_container() {
    let vm = SshdVm::new("true").await;
    let report = vm
        .remote
        .probe(&vm.target(), true, deadline())
        .await
        .unwrap();
    assert_eq!(report.ready, Ok(()));
    let gentle = vm.locked(&Container::sh("sleep 600"));
    let stubborn = vm.locked(&Container::sh(
        "trap '' TERM; (setsid sh -c 'trap \"\" TERM; while :; do sleep 0.2; done' &); \
         echo ready; while :; do sleep 0.2; done",
    ));
    let mut both = [gentle, stubborn];
    both.sort_unstable();
    for id in both {
        vm.start(id).await.unwrap();
        vm.api.until_state(id.as_str(), "Running");
    }
    longshore_tests::until("the trap is set", || {
        vm.api.log(stubborn.as_str()) == "ready\n"
    });
    let mut listed = vm.listed().await;
    listed.sort_unstable();
    assert_eq!(listed, both);

    let signal = async |id, signal| {
        let target = vm.target();
        vm.remote
            .signal(&target, id, signal, deadline())
            .await
            .unwrap()
    };
    signal(gentle, Signal::Term).await;
    vm.until_listed(&[stubborn]).await;
    assert_eq!(signal(stubborn, Signal::Term).await, SignalReport::Alive);
    assert_eq!(signal(stubborn, Signal::Kill).await, SignalReport::Gone);
    assert_eq!(vm.listed().await, []);
    assert_eq!(signal(stubborn, Signal::Kill).await, SignalReport::Gone);
}

#[tokio::test(flavor = "multi_thread")]
async fn unready_vm_reports_reason() {
    let vm = SshdVm::new("echo 'still formatting' >&2; test -e $LONGSHORE_VM_DIR/formatted").await;
    let report = vm
        .remote
        .probe(&vm.target(), true, deadline())
        .await
        .unwrap();
    let why = report.ready.unwrap_err();
    assert!(why.contains("still formatting"), "{why}");
    fs::write(vm.sshd.dir().join("formatted"), "").unwrap();
    let report = vm
        .remote
        .probe(&vm.target(), true, deadline())
        .await
        .unwrap();
    assert_eq!(report.ready, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn runner_survives_replacement_of_file() {
    let vm = SshdVm::new("true").await;
    let report = vm
        .remote
        .probe(&vm.target(), true, deadline())
        .await
        .unwrap();
    assert_eq!(report.ready, Ok(()));
    // The runner's first request to the queue triggers the replacement of the file.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let bin = vm.sshd.dir().join("bin");
    let queue = vm.queue.local_addr();
    tokio::spawn(async move {
        loop {
            let (mut from, _) = listener.accept().await.unwrap();
            let _ = fs::remove_dir_all(&bin);
            let mut to = TcpStream::connect(queue).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut from, &mut to).await });
        }
    });
    let id = vm.locked(&Container::sh("echo fine"));
    vm.start_by(id, address).await.unwrap();
    assert_eq!(vm.api.exit_code(id.as_str()), Some(0));
    assert_eq!(vm.api.log(id.as_str()), "fine\n");
    assert!(!vm.sshd.dir().join("bin").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn second_start_runs_nothing() {
    let vm = SshdVm::new("true").await;
    let report = vm
        .remote
        .probe(&vm.target(), true, deadline())
        .await
        .unwrap();
    assert_eq!(report.ready, Ok(()));
    let file = vm.dir.path().join("begun");
    let script = format!("echo x >>{}; sleep 600", file.display());
    let id = vm.locked(&Container::sh(script));
    vm.start(id).await.unwrap();
    vm.api.until_state(id.as_str(), "Running");
    // A second start may return any result but must not run the command again.
    let _ = vm.start(id).await;
    vm.until_listed(&[id]).await;
    assert_eq!(vm.api.state(id.as_str()), "Running");
    assert_eq!(fs::read_to_string(&file).unwrap(), "x\n");
}
