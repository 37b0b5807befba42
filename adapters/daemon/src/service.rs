//! A dispatcher put together from a configuration: parts, loop, management API.

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

use crate::clock::Clock;
use crate::commands::queue::resolve;
use crate::engine::calls::timed;
use crate::engine::parts::{self, Parts};
use crate::engine::world::{Catalog, World};
use crate::engine::{Engine, EngineSettings, INPUTS_MAX};
use crate::exit::{Context as _, Failure, Outcome};

const WATCHED_MAX: usize = 65_536;

/// Where a configuration came from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    /// SHA-256 of the file, in hexadecimal; empty where there is none.
    pub(crate) sha256: String,
    pub(crate) changed_at: Option<Timestamp>,
}

impl Source {
    /// Looks at the file once more; standard input cannot be read twice.
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

/// A dispatcher at work.
pub(crate) struct Service {
    stop: CancellationToken,
    engine: JoinHandle<()>,
    management: JoinHandle<Result<(), ServeError>>,
    management_stop: CancellationToken,
    hints: JoinHandle<()>,
    events: broadcast::Sender<Event>,
    reload: Reload,
    world: World,
}

/// What taking over a new configuration needs.
struct Reload {
    cluster: ClusterConfig,
    cloud: SharedCloud,
    inputs: mpsc::Sender<Input>,
    published: watch::Sender<Arc<ManagementSettings>>,
    /// TLS is spoken where the server was bound.
    encrypted: bool,
    clock: Clock,
}

impl Service {
    /// Binds the management API, then begins to dispatch.
    pub(crate) async fn start(
        cluster: &ClusterConfig,
        source: Source,
        mut parts: Parts,
        journal: Option<PathBuf>,
    ) -> Outcome<Self> {
        let clock = Clock::start();
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).failed("random numbers")?;
        let (answers, inputs) = mpsc::channel(INPUTS_MAX);
        let (ask, questions) = longshore_management::loop_requests();
        let events = broadcast::Sender::new(WATCHED_MAX);
        let metrics = Arc::new(Metrics::new());
        parts.cloud.cloud = timed(parts.cloud.cloud, Arc::clone(&metrics));
        let (server, encrypted) = bind(cluster).await?;
        let tls = certificate(cluster, encrypted)?;
        let settings = ManagementSettings {
            management_token: cluster.management_token.clone(),
            tls,
            config: Arc::new(parts.core.clone()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_sha256: source.sha256,
            config_changed_at: source.changed_at,
            config_loaded_at: clock.now(),
        };
        let (published, settings) = watch::channel(Arc::new(settings));
        let management = Management {
            settings,
            loop_requests: ask,
            metrics: Arc::clone(&metrics),
            limits: ServeLimits::default(),
        };
        let hints = follow_hints(parts.api.clone(), answers.clone());
        let reload = Reload {
            cluster: cluster.clone(),
            cloud: Arc::clone(&parts.cloud.cloud),
            inputs: answers.clone(),
            published,
            encrypted,
            clock,
        };
        let world = World::new(
            parts.api,
            vec![parts.cloud],
            Catalog::from(&parts.core),
            parts.runner,
            clock,
            answers,
        );
        let journal_dir = journal
            .as_deref()
            .unwrap_or(Path::new(""))
            .display()
            .to_string();
        let for_reload = world.clone();
        let settings = EngineSettings {
            config: parts.core,
            seed,
            clock,
            journal,
            structured_log: cluster.log.format == LogFormat::Json,
        };
        let engine = Engine::new(settings, world, metrics, inputs, questions, events.clone())
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
            world: for_reload,
        })
    }

    /// Everything that happens from now on.
    pub(crate) fn watch(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Takes over a new configuration, whole or not at all. Running work is untouched.
    pub(crate) async fn reconfigure(&mut self, cluster: ClusterConfig, source: Source) -> Outcome {
        let reload = &mut self.reload;
        let core = parts::reconfigured(&reload.cluster, &cluster, &reload.cloud)?;
        let tls = certificate(&cluster, reload.encrypted)?;
        self.world.reconfigure(Catalog::from(&core));
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

    /// Ends it: no more commands, then no more API. Containers go on.
    pub(crate) async fn stop(self) -> Outcome {
        self.stop.cancel();
        self.hints.abort();
        self.engine.await.failed("the dispatcher's loop")?;
        self.management_stop.cancel();
        let served = self.management.await.failed("the management API")?;
        served.failed("the management API")
    }
}

/// Binds the first of the configured addresses that can be bound; whether TLS is spoken there.
async fn bind(cluster: &ClusterConfig) -> Outcome<(Server, bool)> {
    const KEY: &str = "Services.DispatchCloud.InternalURLs";
    let urls = &cluster.services.dispatch_cloud;
    let mut refused = Vec::new();
    for url in urls {
        match Server::bind(&[resolve(KEY, &url.listen)?]).await {
            Ok(server) => {
                tracing::info!(address = ?server.local_addrs(), tls = url.tls, "management API");
                return Ok((server, url.tls));
            }
            Err(error) => refused.push(error.to_string()),
        }
    }
    Err(match refused.as_slice() {
        [] => Failure::Usage(format!(
            "{KEY}: expected at least one URL, such as \"http://localhost:9006\": {{}}"
        )),
        _ => Failure::Usage(format!("{KEY}: {}", refused.join("; "))),
    })
}

/// What the management API proves who it is with, where TLS is spoken.
fn certificate(cluster: &ClusterConfig, encrypted: bool) -> Outcome<Option<ServerTls>> {
    if !encrypted {
        return Ok(None);
    }
    let files = cluster.tls.as_ref().ok_or_else(|| {
        Failure::Usage(
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

/// Turns the queue's push stream into hints for the loop. A hint that finds the loop busy is not
/// missed: the loop polls all the same.
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

/// Where things are kept on this host, unless the operator chose.
pub(crate) fn default_state_dir() -> Outcome<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(Path::new("/var/lib/longshore").to_owned());
    }
    let set = |name| std::env::var_os(name).map(PathBuf::from);
    let base = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")));
    match base {
        Some(base) if base.is_absolute() => Ok(base.join("longshore")),
        _ => Err(Failure::Usage(
            "neither XDG_STATE_HOME nor HOME is an absolute path: give --state-dir".to_owned(),
        )),
    }
}

/// Makes the parts ahead of [`Service::start`], so that a wrong configuration is told before
/// anything runs.
pub(crate) fn parts(cluster: &ClusterConfig, state_dir: &Path) -> Outcome<Parts> {
    parts::build(cluster, state_dir)
}
