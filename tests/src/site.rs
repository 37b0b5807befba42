//! A queue, a dispatcher and their VMs, for one test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::api::Api;
use crate::daemon::Daemon;
use crate::procs::{Process, end, of_vms, send};
use crate::ran::{Ran, run};
use crate::setup::Setup;
use crate::sshd::{free_port, keygen};
use crate::wait::{until, until_some};
use crate::{built, container::Container};

const ROOT_TOKEN: &str = "roottoken1roottoken2roottoken3roottoken4roottoken5";
const MANAGEMENT_TOKEN: &str = "managementtoken1managementtoken2managementtoken345";
const INSTANCES: &str = "/arvados/v1/dispatch/instances";
const SHOWN_LINES_MAX: usize = 80;

/// A configuration in a directory of its own, and the processes started for it. All of it ends with
/// the value, VMs and what runs on them included.
#[derive(Debug)]
pub struct Site {
    dir: TempDir,
    ports: [u16; 2],
    /// The root token and the management token.
    tokens: [String; 2],
    queue: Option<Daemon>,
    dispatcher: Option<Daemon>,
}

impl Site {
    /// A site on which the queue and a dispatcher are at work.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(Setup::default())
    }

    /// The same with choices.
    #[must_use]
    pub fn start_with(setup: Setup) -> Self {
        let mut site = Self::prepare(setup);
        site.start_queue();
        site.start_dispatcher();
        site
    }

    /// A site on which nothing runs yet.
    ///
    /// # Panics
    /// If its files cannot be written.
    #[must_use]
    pub fn prepare(setup: Setup) -> Self {
        let site = Self::empty();
        keygen(&site.path("dispatch_key"));
        site.configure(setup);
        site
    }

    /// A site with the configuration that `longshore init` writes; nothing runs yet.
    ///
    /// # Panics
    /// If that does not work.
    #[must_use]
    pub fn init() -> Self {
        let mut site = Self::empty();
        let ports = site.ports.map(|port| port.to_string());
        let args = ["init", "--dir", ".", "--queue-port", &ports[0]];
        let args = [&args[..], &["--management-port", &ports[1]]].concat();
        let _ = site.longshore(&args).succeeded();
        site.tokens = ["SystemRootToken", "ManagementToken"].map(|key| site.setting(key));
        site
    }

    fn empty() -> Self {
        let dir = tempfile::Builder::new().prefix("longshore-test-").tempdir();
        let ports = [free_port(), free_port()];
        Self {
            dir: dir.expect("a temporary directory"),
            // What belongs to whom follows from the token: sites that share a cloud need their own.
            tokens: [
                format!("{ROOT_TOKEN}{}", ports[0]),
                MANAGEMENT_TOKEN.to_owned(),
            ],
            ports,
            queue: None,
            dispatcher: None,
        }
    }

    /// The value of a key that stands once in the configuration.
    fn setting(&self, key: &str) -> String {
        let text = self.read("config.yml");
        let value = text.lines().find_map(|line| {
            let (name, value) = line.trim().split_once(": ")?;
            (name == key).then(|| value.to_owned())
        });
        value.unwrap_or_else(|| panic!("{key} in the configuration"))
    }

    /// Writes the configuration again.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn configure(&self, setup: Setup) {
        let text = setup.fill(
            self.dir.path(),
            self.ports,
            [&self.tokens[0], &self.tokens[1]],
        );
        fs::write(self.config(), text).expect("the configuration is written");
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.path("config.yml")
    }

    /// A file of the site.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What a file of the site says; nothing if there is none.
    #[must_use]
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// A container that appends `word` to the file `begun`, waits for the file `gate`, says "through
    /// `word`" and appends `word` to `ended`.
    #[must_use]
    pub fn gated(&self, word: &str) -> Container {
        let dir = self.dir.path().display();
        Container::sh(format!(
            "echo {word} >>{dir}/begun; while ! [ -e {dir}/gate ]; do sleep 0.05; done; \
             echo through {word}; echo {word} >>{dir}/ended"
        ))
    }

    /// Lets gated containers go on.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn open_gate(&self) {
        fs::write(self.path("gate"), "").expect("the gate is written");
    }

    /// The port of the queue.
    #[must_use]
    pub fn queue_port(&self) -> u16 {
        self.ports[0]
    }

    /// The port of the management API.
    #[must_use]
    pub fn management_port(&self) -> u16 {
        self.ports[1]
    }

    /// The token of the queue and of the dispatcher, from which the name of the instance set follows.
    #[must_use]
    pub fn root_token(&self) -> &str {
        &self.tokens[0]
    }

    /// The queue, with the root token.
    #[must_use]
    pub fn api(&self) -> Api {
        Api::new(self.ports[0], &self.tokens[0])
    }

    /// The management API, with its token.
    #[must_use]
    pub fn management(&self) -> Api {
        Api::new(self.ports[1], &self.tokens[1])
    }

    /// A command of the program, with this site's configuration.
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

    /// Runs a command of the program to its end.
    #[must_use]
    pub fn longshore(&self, args: &[&str]) -> Ran {
        run(&mut self.command(args))
    }

    /// Starts the queue and waits until it answers.
    pub fn start_queue(&mut self) {
        let log = self.path("queue.log");
        self.queue = Some(Daemon::start(&mut self.command(&["queue"]), &log));
        let api = self.api();
        until("the queue answers", || {
            self.still_runs();
            api.send("GET", "/arvados/v1/containers?limit=1", "", "")
                .is_ok()
        });
    }

    /// Kills the queue, as a crash would.
    pub fn kill_queue(&mut self) {
        drop(self.queue.take().expect("the queue runs"));
    }

    /// Stops the queue's process without ending it: whoever calls hangs.
    pub fn freeze_queue(&self) {
        self.signal_queue(Signal::STOP);
    }

    /// Lets the queue's process go on.
    pub fn thaw_queue(&self) {
        self.signal_queue(Signal::CONT);
    }

    fn signal_queue(&self, signal: Signal) {
        let queue = self.queue.as_ref().expect("the queue runs");
        send(queue.process(), signal);
    }

    /// Starts a dispatcher and waits until it answers.
    pub fn start_dispatcher(&mut self) {
        let dispatcher = self.another_dispatcher("dispatch.log");
        self.dispatcher = Some(dispatcher);
        self.until_dispatching();
    }

    /// Waits until a dispatcher answers and has seen the cloud and the queue.
    pub fn until_dispatching(&mut self) {
        let api = self.management();
        until("the dispatcher answers", || {
            self.still_runs();
            let answer = api.send("GET", INSTANCES, "", "");
            answer.is_ok_and(|answer| answer.status == 200)
        });
    }

    /// A dispatcher beside the site's own, not waited for.
    #[must_use]
    pub fn another_dispatcher(&self, log: &str) -> Daemon {
        Daemon::start(&mut self.command(&["dispatch"]), &self.path(log))
    }

    /// Takes the dispatcher out of the site's hands.
    ///
    /// # Panics
    /// If none was started.
    #[must_use]
    pub fn take_dispatcher(&mut self) -> Daemon {
        self.dispatcher.take().expect("a dispatcher was started")
    }

    /// Kills the dispatcher, as a crash would.
    pub fn kill_dispatcher(&mut self) {
        self.take_dispatcher().kill();
    }

    /// Asks the dispatcher to end and waits until it has.
    pub fn stop_dispatcher(&mut self) -> ExitStatus {
        self.take_dispatcher().terminate()
    }

    /// Lets the dispatcher read a new configuration.
    ///
    /// # Panics
    /// If none runs.
    pub fn reload(&self, setup: Setup) {
        self.configure(setup);
        let dispatcher = self.dispatcher.as_ref().expect("a dispatcher runs");
        send(dispatcher.process(), Signal::HUP);
    }

    /// What all dispatchers of the site wrote.
    #[must_use]
    pub fn dispatch_log(&self) -> String {
        self.read("dispatch.log")
    }

    fn still_runs(&mut self) {
        for daemon in [&mut self.queue, &mut self.dispatcher]
            .into_iter()
            .flatten()
        {
            let ended = daemon.ended();
            assert!(
                ended.is_none(),
                "ended by itself: {ended:?}: {}",
                daemon.log()
            );
        }
    }

    /// The instances, as the management API shows them.
    #[must_use]
    pub fn instances(&self) -> Vec<Value> {
        let page = self.management().get(INSTANCES).ok().json();
        page["items"].as_array().cloned().unwrap_or_default()
    }

    /// One instance as the management API shows it, while it is there.
    #[must_use]
    pub fn instance(&self, id: &str) -> Option<Value> {
        self.instances().into_iter().find(|i| i["instance"] == id)
    }

    /// The names of the instances that exist, sorted.
    #[must_use]
    pub fn instance_ids(&self) -> Vec<String> {
        let instances = self.instances();
        let ids = instances.iter().filter_map(|i| i["instance"].as_str());
        let mut ids: Vec<String> = ids.filter(|id| !id.is_empty()).map(str::to_owned).collect();
        ids.sort();
        ids
    }

    /// Waits until some instance meets a condition, and returns its name.
    #[must_use]
    pub fn until_instance(&self, what: &str, meets: impl Fn(&Value) -> bool) -> String {
        until_some(what, || {
            let found = self.instances().into_iter().find(|i| meets(i))?;
            found["instance"].as_str().map(str::to_owned)
        })
    }

    /// Waits until a container runs, and returns the instance that it runs on.
    #[must_use]
    pub fn until_runs(&self, uuid: &str) -> String {
        self.api().until_state(uuid, "Running");
        self.until_instance(&format!("an instance shows that {uuid} runs"), |instance| {
            let running = instance["running_container_uuids"].as_array();
            running.is_some_and(|uuids| uuids.iter().any(|u| u == uuid))
        })
    }

    /// Waits until an instance is idle, in the dispatcher's eyes.
    pub fn until_idle(&self, id: &str) {
        until(&format!("{id} is idle"), || {
            self.instance(id)
                .is_some_and(|i| i["worker_state"] == "idle")
        });
    }

    /// Waits until the dispatcher shows an instance no more.
    pub fn until_gone(&self, id: &str) {
        until(&format!("{id} is gone"), || self.instance(id).is_none());
    }

    /// The directory of a VM.
    #[must_use]
    pub fn vm_dir(&self, id: &str) -> PathBuf {
        self.path("vms/vms").join(id)
    }

    /// How many VMs were ever made, as long as ended ones are shown.
    #[must_use]
    pub fn vms_made(&self) -> usize {
        fs::read_dir(self.path("vms/vms")).map_or(0, Iterator::count)
    }

    /// The process that is a VM.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn vm_process(&self, id: &str) -> Process {
        let text = fs::read_to_string(self.vm_dir(id).join("process.json"));
        let own: Value = serde_json::from_str(&text.expect("a VM")).expect("a process");
        let pid = own["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        let process = Process::with_pid(pid.expect("a number"));
        process.expect("the VM's process lives")
    }

    /// Kills a VM with everything on it, as if its host had failed.
    ///
    /// # Panics
    /// If something on it does not end.
    pub fn kill_vm(&self, id: &str) {
        let dir = self.vm_dir(id);
        assert_eq!(end(|| of_vms(&dir)), []);
    }

    /// Everything that runs on the site's VMs, themselves included.
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
    println!("--- the end of {}:\n{}", log.display(), shown.join("\n"));
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        // First who makes VMs, then what is left of them.
        self.dispatcher = None;
        self.queue = None;
        let left = end(|| self.processes());
        assert!(left.is_empty() || std::thread::panicking(), "{left:?}");
    }
}
