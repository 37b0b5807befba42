//! Dispatcher assembled from a configuration: components, loop, management API.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use longshore_cluster_config::{ClusterConfig, LogFormat};
use longshore_core::event::Event;
use longshore_core::input::Input;
use longshore_core::time::Timestamp;
use longshore_driver::SharedCloud;
use longshore_management::{
    Management, ManagementSettings, Metrics, ServeError, ServeLimits, Server, ServerTls,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::address::resolve;
use crate::clock::Clock;
use crate::engine::calls::timed;
use crate::engine::executor::{Catalog, Executor};
use crate::engine::wiring::{self, Components};
use crate::engine::{Engine, EngineSettings, INPUTS_MAX};
use crate::error::{CliError, CliResult, Context as _};

const EVENTS_MAX: usize = 65_536;

/// Origin of a configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    /// SHA-256 of the file, in hexadecimal; empty without a file.
    pub(crate) sha256: String,
    pub(crate) changed_at: Option<Timestamp>,
}

impl Source {
    /// Reads the file a second time, which is impossible for standard input.
    pub(crate) fn of(path: &Path) -> Self {
        let changed = std::fs::metadata(path).and_then(|meta| meta.modified());
        let since_epoch = |at: SystemTime| at.duration_since(UNIX_EPOCH).ok();
        Self {
            sha256: std::fs::read(path)
                .map(|text| hex::encode(Sha256::digest(text)))
                .unwrap_or_default(),
            changed_at: changed
                .ok()
                .and_then(since_epoch)
                .map(|since| Timestamp::EPOCH + since),
        }
    }
}

/// Running dispatcher.
pub(crate) struct Service {
    stop: CancellationToken,
    engine: JoinHandle<()>,
    management: JoinHandle<Result<(), ServeError>>,
    management_stop: CancellationToken,
    hints: JoinHandle<()>,
    events: broadcast::Sender<Event>,
    reload: Reload,
    executor: Executor,
}

/// State needed to reload the configuration.
struct Reload {
    cluster: ClusterConfig,
    cloud: SharedCloud,
    inputs: mpsc::Sender<Input>,
    published: watch::Sender<Arc<ManagementSettings>>,
    /// True if the server was bound for TLS.
    encrypted: bool,
    clock: Clock,
}

impl Service {
    /// Binds the management API, then starts to dispatch.
    pub(crate) async fn start(
        cluster: &ClusterConfig,
        source: Source,
        mut components: Components,
        journal: Option<PathBuf>,
    ) -> CliResult<Self> {
        let clock = Clock::start();
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).failed("random numbers")?;
        let (answers, inputs) = mpsc::channel(INPUTS_MAX);
        let (request_sender, requests) = longshore_management::loop_requests();
        let events = broadcast::Sender::new(EVENTS_MAX);
        let metrics = Arc::new(Metrics::new());
        components.cloud.cloud = timed(components.cloud.cloud, Arc::clone(&metrics));
        let (server, encrypted) = bind(cluster).await?;
        let tls = certificate(cluster, encrypted)?;
        let settings = ManagementSettings {
            management_token: cluster.management_token.clone(),
            tls,
            config: Arc::new(components.core.clone()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_sha256: source.sha256,
            config_changed_at: source.changed_at,
            config_loaded_at: clock.now(),
        };
        let (published, settings) = watch::channel(Arc::new(settings));
        let management = Management {
            settings,
            loop_requests: request_sender,
            metrics: Arc::clone(&metrics),
            limits: ServeLimits::default(),
        };
        let hints = follow_hints(components.api.clone(), answers.clone());
        let reload = Reload {
            cluster: cluster.clone(),
            cloud: Arc::clone(&components.cloud.cloud),
            inputs: answers.clone(),
            published,
            encrypted,
            clock,
        };
        let executor = Executor::new(
            components.api,
            vec![components.cloud],
            Catalog::from(&components.core),
            components.runner,
            clock,
            answers,
        );
        let journal_dir = journal
            .as_deref()
            .unwrap_or(Path::new(""))
            .display()
            .to_string();
        let for_reload = executor.clone();
        let settings = EngineSettings {
            config: components.core,
            seed,
            clock,
            journal,
            structured_log: cluster.log.format == LogFormat::Json,
        };
        let engine = Engine::new(
            settings,
            executor,
            metrics,
            inputs,
            requests,
            events.clone(),
        )
        .usage(format!("--journal {journal_dir}"))?;
        let (stop, management_stop) = (CancellationToken::new(), CancellationToken::new());
        Ok(Self {
            engine: tokio::spawn(engine.run(stop.clone())),
            stop,
            management: serve(server, management, management_stop.clone()),
            management_stop,
            hints,
            events,
            reload,
            executor: for_reload,
        })
    }

    /// Receiver of all events from now on.
    pub(crate) fn watch(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Applies a new configuration, completely or not at all. Running containers are not affected.
    pub(crate) async fn reconfigure(
        &mut self,
        cluster: ClusterConfig,
        source: Source,
    ) -> CliResult {
        let reload = &mut self.reload;
        let core = wiring::reconfigured(&reload.cluster, &cluster, &reload.cloud)?;
        let tls = certificate(&cluster, reload.encrypted)?;
        self.executor.reconfigure(Catalog::from(&core));
        let settings = ManagementSettings {
            management_token: cluster.management_token.clone(),
            tls,
            config: Arc::new(core.clone()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_sha256: source.sha256,
            config_changed_at: source.changed_at,
            config_loaded_at: reload.clock.now(),
        };
        reload.published.send_replace(Arc::new(settings));
        let input = Input::Reconfigured(Box::new(core));
        reload
            .inputs
            .send(input)
            .await
            .failed("the dispatcher's loop")?;
        reload.cluster = cluster;
        Ok(())
    }

    /// Shuts down: first the commands, then the API. Containers continue to run on the VMs.
    pub(crate) async fn stop(self) -> CliResult {
        self.stop.cancel();
        self.hints.abort();
        self.engine.await.failed("the dispatcher's loop")?;
        self.management_stop.cancel();
        let served = self.management.await.failed("the management API")?;
        served.failed("the management API")
    }
}

/// Binds the first configured address that can be bound; true if TLS is configured.
async fn bind(cluster: &ClusterConfig) -> CliResult<(Server, bool)> {
    const KEY: &str = "Services.DispatchCloud.InternalURLs";
    let urls = &cluster.services.dispatch_cloud;
    let mut errors = Vec::new();
    for url in urls {
        match Server::bind(&[resolve(KEY, &url.listen)?]).await {
            Ok(server) => {
                tracing::info!(address = ?server.local_addrs(), tls = url.tls, "management API");
                return Ok((server, url.tls));
            }
            Err(error) => errors.push(error.to_string()),
        }
    }
    Err(match errors.as_slice() {
        [] => CliError::usage(format!(
            "{KEY}: expected at least one URL, such as \"http://localhost:9006\": {{}}"
        )),
        _ => CliError::usage(format!("{KEY}: {}", errors.join("; "))),
    })
}

/// Certificate and key of the management API, if TLS is configured.
fn certificate(cluster: &ClusterConfig, encrypted: bool) -> CliResult<Option<ServerTls>> {
    if !encrypted {
        return Ok(None);
    }
    let files = cluster.tls.as_ref().ok_or_else(|| {
        CliError::usage(
            "TLS.Certificate and TLS.Key: expected both, since the URL of the management API \
             (Services.DispatchCloud.InternalURLs) begins with https"
                .to_owned(),
        )
    })?;
    let chain = files.certificate.read().usage("TLS.Certificate")?;
    let key = files.key.read().usage("TLS.Key")?;
    let tls = ServerTls::from_pem(chain.expose(), &key).usage("TLS")?;
    Ok(Some(tls))
}

/// Answers management requests until `stop`.
fn serve(
    server: Server,
    management: Management,
    stop: CancellationToken,
) -> JoinHandle<Result<(), ServeError>> {
    tokio::spawn(async move {
        let stopped = async move { stop.cancelled().await };
        server.serve(management, stopped).await
    })
}

/// Turns the push stream of the queue into hints for the loop. A hint dropped by a full channel
/// does no harm: the loop also polls.
fn follow_hints(
    api: longshore_queue_client::ApiClient,
    inputs: mpsc::Sender<Input>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let hint = || {
            let _ = inputs.try_send(Input::QueueChanged);
        };
        api.changes(hint).await;
    })
}

/// Default directory for state on this host.
pub(crate) fn default_state_dir() -> CliResult<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(Path::new("/var/lib/longshore").to_owned());
    }
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let base = variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")));
    match base {
        Some(base) if base.is_absolute() => Ok(base.join("longshore")),
        _ => Err(CliError::usage(
            "neither XDG_STATE_HOME nor HOME is an absolute path: give --state-dir".to_owned(),
        )),
    }
}
