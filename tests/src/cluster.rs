//! Queue, dispatcher and VMs for one test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::api::Api;
use crate::command_output::{CommandOutput, run};
use crate::daemon::Daemon;
use crate::procs::{Process, end, of_vms, send};
use crate::setup::Setup;
use crate::sshd::{free_port, keygen};
use crate::wait::{until, until_some};
use crate::{built, container::Container};

const ROOT_TOKEN: &str = "roottoken1roottoken2roottoken3roottoken4roottoken5";
const MANAGEMENT_TOKEN: &str = "managementtoken1managementtoken2managementtoken345";
const INSTANCES: &str = "/arvados/v1/dispatch/instances";
const SHOWN_LINES_MAX: usize = 80;

/// Configuration in a temporary directory, and processes started with the configuration. Dropping
/// the value ends all processes, including VMs and processes on VMs.
#[derive(Debug)]
pub struct TestCluster {
    dir: TempDir,
    ports: [u16; 2],
    /// Root token and management token.
    tokens: [String; 2],
    queue: Option<Daemon>,
    dispatcher: Option<Daemon>,
}

impl TestCluster {
    /// Cluster with a running queue and a running dispatcher.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(Setup::default())
    }

    /// Running cluster with another configuration.
    #[must_use]
    pub fn start_with(setup: Setup) -> Self {
        let mut cluster = Self::prepare(setup);
        cluster.start_queue();
        cluster.start_dispatcher();
        cluster
    }

    /// Cluster without running processes.
    ///
    /// # Panics
    ///
    /// If the files cannot be written.
    #[must_use]
    pub fn prepare(setup: Setup) -> Self {
        let cluster = Self::empty();
        keygen(&cluster.path("dispatch_key"));
        cluster.configure(setup);
        cluster
    }

    /// Cluster with the configuration written by `longshore init`, without running processes.
    ///
    /// # Panics
    ///
    /// If `longshore init` fails.
    #[must_use]
    pub fn init() -> Self {
        let mut cluster = Self::empty();
        let ports = cluster.ports.map(|port| port.to_string());
        let args = ["init", "--dir", ".", "--queue-port", &ports[0]];
        let args = [&args[..], &["--management-port", &ports[1]]].concat();
        let _ = cluster.longshore(&args).succeeded();
        cluster.tokens = ["SystemRootToken", "ManagementToken"].map(|key| cluster.setting(key));
        cluster
    }

    fn empty() -> Self {
        let dir = tempfile::Builder::new().prefix("longshore-test-").tempdir();
        let ports = [free_port(), free_port()];
        Self {
            dir: dir.expect("a temporary directory"),
            // The instance set ID depends on the token: clusters sharing a cloud need different
            // tokens.
            tokens: [
                format!("{ROOT_TOKEN}{}", ports[0]),
                MANAGEMENT_TOKEN.to_owned(),
            ],
            ports,
            queue: None,
            dispatcher: None,
        }
    }

    /// Value of a key that occurs once in the configuration.
    fn setting(&self, key: &str) -> String {
        let text = self.read("config.yml");
        let value = text.lines().find_map(|line| {
            let (name, value) = line.trim().split_once(": ")?;
            (name == key).then(|| value.to_owned())
        });
        value.unwrap_or_else(|| panic!("{key} in the configuration"))
    }

    /// Writes a new configuration.
    ///
    /// # Panics
    ///
    /// If the file cannot be written.
    pub fn configure(&self, setup: Setup) {
        let text = setup.fill(
            self.dir.path(),
            self.ports,
            [&self.tokens[0], &self.tokens[1]],
        );
        fs::write(self.config(), text).expect("the configuration is written");
    }

    /// Configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.path("config.yml")
    }

    /// Path of a file of the cluster.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Content of a file of the cluster; empty if the file does not exist.
    #[must_use]
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Container that appends `word` to the file `begun`, waits for the file `gate`, prints
    /// "through `word`" and appends `word` to `ended`.
    #[must_use]
    pub fn gated(&self, word: &str) -> Container {
        let dir = self.dir.path().display();
        Container::sh(format!(
            "echo {word} >>{dir}/begun; while ! [ -e {dir}/gate ]; do sleep 0.05; done; \
             echo through {word}; echo {word} >>{dir}/ended"
        ))
    }

    /// Lets gated containers continue.
    ///
    /// # Panics
    ///
    /// If the file cannot be written.
    pub fn open_gate(&self) {
        fs::write(self.path("gate"), "").expect("the gate is written");
    }

    /// Port of the queue.
    #[must_use]
    pub fn queue_port(&self) -> u16 {
        self.ports[0]
    }

    /// Port of the management API.
    #[must_use]
    pub fn management_port(&self) -> u16 {
        self.ports[1]
    }

    /// Token of the queue and of the dispatcher; determines the instance set ID.
    #[must_use]
    pub fn root_token(&self) -> &str {
        &self.tokens[0]
    }

    /// Client of the queue with the root token.
    #[must_use]
    pub fn api(&self) -> Api {
        Api::new(self.ports[0], &self.tokens[0])
    }

    /// Client of the management API with the management token.
    #[must_use]
    pub fn management(&self) -> Api {
        Api::new(self.ports[1], &self.tokens[1])
    }

    /// Command of the program with this cluster's configuration.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(built::longshore());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("ARVADOS_") || text.starts_with("LONGSHORE_") || text == "RUST_LOG"
            {
                command.env_remove(&name);
            }
        }
        command
            .args(args)
            .env("ARVADOS_CONFIG", self.config())
            .env("LONGSHORE_STATE_DIR", self.path("state"))
            .current_dir(self.dir.path());
        command
    }

    /// Runs a command of the program to completion.
    #[must_use]
    pub fn longshore(&self, args: &[&str]) -> CommandOutput {
        run(&mut self.command(args))
    }

    /// Starts the queue and waits until the queue responds.
    pub fn start_queue(&mut self) {
        let log = self.path("queue.log");
        self.queue = Some(Daemon::start(&mut self.command(&["queue"]), &log));
        let api = self.api();
        until("the queue answers", || {
            self.assert_running();
            api.send("GET", "/arvados/v1/containers?limit=1", "", "")
                .is_ok()
        });
    }

    /// Kills the queue with SIGKILL, like a crash.
    pub fn kill_queue(&mut self) {
        drop(self.queue.take().expect("the queue runs"));
    }

    /// Stops the queue's process with SIGSTOP: requests hang.
    pub fn freeze_queue(&self) {
        self.signal_queue(Signal::STOP);
    }

    /// Continues the queue's process.
    pub fn thaw_queue(&self) {
        self.signal_queue(Signal::CONT);
    }

    fn signal_queue(&self, signal: Signal) {
        let queue = self.queue.as_ref().expect("the queue runs");
        send(queue.process(), signal);
    }

    /// Starts a dispatcher and waits until the dispatcher responds.
    pub fn start_dispatcher(&mut self) {
        let dispatcher = self.another_dispatcher("dispatch.log");
        self.dispatcher = Some(dispatcher);
        self.until_dispatching();
    }

    /// Waits until a dispatcher responds and has synced with cloud and queue.
    pub fn until_dispatching(&mut self) {
        let api = self.management();
        until("the dispatcher answers", || {
            self.assert_running();
            let answer = api.send("GET", INSTANCES, "", "");
            answer.is_ok_and(|answer| answer.status == 200)
        });
    }

    /// Starts an additional dispatcher, without waiting.
    #[must_use]
    pub fn another_dispatcher(&self, log: &str) -> Daemon {
        Daemon::start(&mut self.command(&["dispatch"]), &self.path(log))
    }

    /// Removes the dispatcher from the cluster and returns the process.
    ///
    /// # Panics
    ///
    /// If no dispatcher was started.
    #[must_use]
    pub fn take_dispatcher(&mut self) -> Daemon {
        self.dispatcher.take().expect("a dispatcher was started")
    }

    /// Kills the dispatcher with SIGKILL, like a crash.
    pub fn kill_dispatcher(&mut self) {
        self.take_dispatcher().kill();
    }

    /// Sends TERM to the dispatcher and waits for the end.
    pub fn stop_dispatcher(&mut self) -> ExitStatus {
        self.take_dispatcher().terminate()
    }

    /// Writes a new configuration and makes the dispatcher reload it.
    ///
    /// # Panics
    ///
    /// If no dispatcher is running.
    pub fn reload(&self, setup: Setup) {
        self.configure(setup);
        let dispatcher = self.dispatcher.as_ref().expect("a dispatcher runs");
        send(dispatcher.process(), Signal::HUP);
    }

    /// Log of all dispatchers of the cluster.
    #[must_use]
    pub fn dispatch_log(&self) -> String {
        self.read("dispatch.log")
    }

    fn assert_running(&mut self) {
        for daemon in [&mut self.queue, &mut self.dispatcher]
            .into_iter()
            .flatten()
        {
            let ended = daemon.ended();
            assert!(
                ended.is_none(),
                "process ended unexpectedly: {ended:?}: {}",
                daemon.log()
            );
        }
    }

    /// Instances listed by the management API.
    #[must_use]
    pub fn instances(&self) -> Vec<Value> {
        let page = self.management().get(INSTANCES).ok().json();
        page["items"].as_array().cloned().unwrap_or_default()
    }

    /// Instance listed by the management API; `None` if not listed.
    #[must_use]
    pub fn instance(&self, id: &str) -> Option<Value> {
        self.instances().into_iter().find(|i| i["instance"] == id)
    }

    /// Names of the listed instances, sorted.
    #[must_use]
    pub fn instance_ids(&self) -> Vec<String> {
        let instances = self.instances();
        let ids = instances.iter().filter_map(|i| i["instance"].as_str());
        let mut ids: Vec<String> = ids.filter(|id| !id.is_empty()).map(str::to_owned).collect();
        ids.sort();
        ids
    }

    /// Waits until an instance meets a condition, and returns the name.
    #[must_use]
    pub fn until_instance(&self, what: &str, meets: impl Fn(&Value) -> bool) -> String {
        until_some(what, || {
            let found = self.instances().into_iter().find(|i| meets(i))?;
            found["instance"].as_str().map(str::to_owned)
        })
    }

    /// Waits until a container runs, and returns the name of the instance.
    #[must_use]
    pub fn until_runs(&self, uuid: &str) -> String {
        self.api().until_state(uuid, "Running");
        self.until_instance(
            &format!("an instance lists {uuid} as running"),
            |instance| {
                let running = instance["running_container_uuids"].as_array();
                running.is_some_and(|uuids| uuids.iter().any(|u| u == uuid))
            },
        )
    }

    /// Waits until the dispatcher lists an instance as idle.
    pub fn until_idle(&self, id: &str) {
        until(&format!("{id} is idle"), || {
            self.instance(id)
                .is_some_and(|i| i["worker_state"] == "idle")
        });
    }

    /// Waits until the dispatcher no longer lists an instance.
    pub fn until_gone(&self, id: &str) {
        until(&format!("{id} is gone"), || self.instance(id).is_none());
    }

    /// Directory of a VM.
    #[must_use]
    pub fn vm_dir(&self, id: &str) -> PathBuf {
        self.path("vms/vms").join(id)
    }

    /// Number of VMs ever created, as long as terminated VMs are listed.
    #[must_use]
    pub fn vms_made(&self) -> usize {
        fs::read_dir(self.path("vms/vms")).map_or(0, Iterator::count)
    }

    /// Process of a VM.
    ///
    /// # Panics
    ///
    /// If the VM does not run.
    #[must_use]
    pub fn vm_process(&self, id: &str) -> Process {
        let text = fs::read_to_string(self.vm_dir(id).join("process.json"));
        let own: Value = serde_json::from_str(&text.expect("a VM")).expect("a process");
        let pid = own["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        let process = Process::with_pid(pid.expect("a number"));
        process.expect("the VM's process lives")
    }

    /// Kills a VM with all processes, like a failure of the host.
    ///
    /// # Panics
    ///
    /// If a process does not end.
    pub fn kill_vm(&self, id: &str) {
        let dir = self.vm_dir(id);
        assert_eq!(end(|| of_vms(&dir)), []);
    }

    /// All processes of the cluster's VMs, including the VMs.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        of_vms(self.dir.path())
    }

    fn show_logs(&self) {
        let mut logs = vec![self.path("queue.log"), self.path("dispatch.log")];
        let vms = fs::read_dir(self.path("vms/vms"));
        let vms = vms.into_iter().flatten().flatten();
        logs.extend(vms.map(|vm| vm.path().join("vm.log")));
        logs.iter().for_each(|log| show_tail(log));
    }
}

fn show_tail(log: &Path) {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(SHOWN_LINES_MAX)..];
    println!("--- last lines of {}:\n{}", log.display(), shown.join("\n"));
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        // The dispatcher is stopped before the remaining VMs, since the dispatcher creates VMs.
        self.dispatcher = None;
        self.queue = None;
        let left = end(|| self.processes());
        assert!(left.is_empty() || std::thread::panicking(), "{left:?}");
    }
}
