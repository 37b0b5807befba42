//! Driver in a temporary directory, and an SSH client for its VMs.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore_core::config::InstanceType;
use longshore_core::ids::{CloudId, ImageId, InstanceId, IntentId, QuotaGroup, TypeName};
use longshore_driver::{Cloud, CloudSettings, CreateSpec, Instance};
use longshore_driver_loopback::{LoopbackCloud, LoopbackParams, VmProgram};
use longshore_secret::Secret;
use russh::client;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Channel, ChannelMsg, Sig};

/// Upper limit for operations of a few milliseconds on a busy host.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// Polls until `ask` returns a value.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "timeout: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// State directory of a test; its VMs are killed on drop.
pub(crate) struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }

    pub(crate) fn params(&self) -> LoopbackParams {
        let program = VmProgram {
            path: PathBuf::from(env!("CARGO_BIN_EXE_longshore-loopback-vm")),
            args: Vec::new(),
        };
        LoopbackParams::new(self.dir.path().to_owned(), program)
    }

    pub(crate) fn cloud(&self) -> LoopbackCloud {
        self.cloud_of("set-a", self.params())
    }

    pub(crate) fn cloud_of(&self, set: &str, params: LoopbackParams) -> LoopbackCloud {
        let settings = CloudSettings {
            instance_set_id: set.to_owned(),
            tag_key_prefix: "test-".to_owned(),
            resource_tags: BTreeMap::from([("Owner".to_owned(), "somebody".to_owned())]),
        };
        LoopbackCloud::new(settings, params).unwrap()
    }

    pub(crate) fn vm(&self, id: &InstanceId) -> PathBuf {
        self.path().join("vms").join(id.as_str())
    }
}

impl Drop for Host {
    /// Kills every remaining process with the directory in its environment.
    fn drop(&mut self) {
        for pid in vm_processes(&self.path()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// Running processes of VMs in this directory.
pub(crate) fn vm_processes(dir: &Path) -> Vec<i32> {
    let mark = format!("LONGSHORE_VM_DIR={}", dir.display());
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let name = entry.ok()?.file_name();
        name.to_str()?.parse::<i32>().ok()
    });
    pids.filter(|pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(&mark)
    })
    .collect()
}

/// True if the process runs.
pub(crate) fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, fields)| !fields.starts_with('Z') && !fields.starts_with('X'))
}

pub(crate) fn key() -> Arc<PrivateKey> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).unwrap();
    Arc::new(PrivateKey::from(Ed25519Keypair::from_seed(&seed)))
}

pub(crate) fn intent(number: u128) -> IntentId {
    IntentId::new(number)
}

pub(crate) fn spec(number: u128, key: &PrivateKey) -> CreateSpec {
    let name = TypeName::from("small");
    let secret = format!("secret-{number}");
    let script = format!("printf %s {secret} > \"$LONGSHORE_VM_DIR/instance-secret\"\n");
    CreateSpec {
        intent: intent(number),
        type_name: name,
        instance_type: InstanceType {
            cloud: CloudId(0),
            provider_type: "host".to_owned(),
            resources: longshore_core::resources::Resources::default(),
            added_scratch: 0,
            gpus: None,
            price: longshore_core::resources::MicroDollars::default(),
            preemptible: false,
            quota_group: QuotaGroup::from("loopback"),
        },
        image: ImageId::from("none"),
        tags: BTreeMap::from([
            ("InstanceType".to_owned(), "small".to_owned()),
            ("IdleBehavior".to_owned(), "run".to_owned()),
        ]),
        secret: Secret::new(secret),
        init_script: Secret::new(script),
        public_key: Some(key.public_key().to_openssh().unwrap()),
    }
}

pub(crate) async fn find(cloud: &LoopbackCloud, id: &InstanceId) -> Option<Instance> {
    let list = cloud.list().await.unwrap();
    list.into_iter().find(|instance| instance.id == *id)
}

/// Waits for the address of the VM.
pub(crate) async fn booted(cloud: &LoopbackCloud, id: &InstanceId) -> String {
    until("the address", || async { find(cloud, id).await?.address }).await
}

pub(crate) struct Client {
    handle: client::Handle<Keys>,
    pub(crate) host_key: String,
}

#[derive(Clone, Default)]
struct Keys(Arc<Mutex<String>>);

impl client::Handler for Keys {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        key: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        *self.0.lock().unwrap() = format!("{key:?}");
        Ok(true)
    }
}

/// Result of a command.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) status: Option<u32>,
    pub(crate) signal: Option<String>,
}

impl Output {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }
}

/// Client connection; `None` if the login is rejected.
pub(crate) async fn log_in(address: &str, user: &str, key: &Arc<PrivateKey>) -> Option<Client> {
    let keys = Keys::default();
    let config = Arc::new(client::Config::default());
    let mut handle = client::connect(config, address, keys.clone())
        .await
        .unwrap();
    let key = PrivateKeyWithHashAlg::new(Arc::clone(key), None);
    let result = handle.authenticate_publickey(user, key).await.unwrap();
    let host_key = keys.0.lock().unwrap().clone();
    result.success().then_some(Client { handle, host_key })
}

impl Client {
    pub(crate) async fn open(&self) -> Channel<client::Msg> {
        self.handle.channel_open_session().await.unwrap()
    }

    /// Starts a command and returns its channel.
    pub(crate) async fn start(&self, command: &str) -> Channel<client::Msg> {
        let channel = self.open().await;
        channel.exec(true, command).await.unwrap();
        channel
    }

    pub(crate) async fn run(&self, command: &str) -> Output {
        self.run_with(command, Vec::new()).await
    }

    pub(crate) async fn run_with(&self, command: &str, input: Vec<u8>) -> Output {
        let (mut from, to) = self.start(command).await.split();
        let feed = tokio::spawn(async move {
            if !input.is_empty() {
                // Fails if the command exits before reading all input.
                let _ = to.data_bytes(input).await;
            }
            let _ = to.eof().await;
            to
        });
        let mut output = Output::default();
        let collect = async {
            while let Some(message) = from.wait().await {
                match message {
                    ChannelMsg::Data { data } => output.stdout.extend_from_slice(&data),
                    ChannelMsg::ExtendedData { data, ext: 1 } => {
                        output.stderr.extend_from_slice(&data);
                    }
                    ChannelMsg::ExitStatus { exit_status } => output.status = Some(exit_status),
                    ChannelMsg::ExitSignal { signal_name, .. } => {
                        output.signal = Some(signal(&signal_name));
                    }
                    _ => {}
                }
            }
        };
        tokio::time::timeout(TIMEOUT, collect)
            .await
            .expect("the command ends");
        feed.abort();
        output
    }
}

fn signal(name: &Sig) -> String {
    format!("{name:?}")
}

/// Booted VM with a connected client.
pub(crate) async fn vm(cloud: &LoopbackCloud, number: u128) -> (Instance, Client) {
    let key = key();
    let created = cloud.create(spec(number, &key)).await.unwrap();
    let address = booted(cloud, &created.id).await;
    let client = log_in(&address, cloud.remote_user(), &key).await.unwrap();
    (created, client)
}

/// Client with unauthorized keys.
pub(crate) struct UnauthorizedClient(client::Handle<Keys>);

impl UnauthorizedClient {
    pub(crate) async fn new(address: &str) -> Self {
        let config = Arc::new(client::Config::default());
        let connected = client::connect(config, address, Keys::default()).await;
        Self(connected.unwrap())
    }

    /// True if a login attempt with a new key was answered with a rejection, false if the
    /// connection was closed.
    pub(crate) async fn try_login(&mut self, user: &str) -> bool {
        let key = PrivateKeyWithHashAlg::new(key(), None);
        match self.0.authenticate_publickey(user, key).await {
            Ok(result) => {
                assert!(!result.success());
                !self.0.is_closed()
            }
            Err(_) => false,
        }
    }
}
