//! `longshore demo`: the whole way of 60 containers, on this host alone.
//!
//! Everything is real: the queue speaks HTTP over SQLite, VMs are SSH servers of their own, runners
//! run processes. Only the scale is small.

mod chaos;
mod record;
mod report;
mod verdict;
mod workload;

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use longshore_cluster_config::{ClusterConfig, load};
use longshore_driver::{CloudSettings, Layered};
use longshore_driver_loopback::LoopbackCloud;
use longshore_queue::{Database, QueueConfig, QueueServer};
use longshore_secret::Secret;

use crate::cli::DemoArgs;
use crate::client::Client;
use crate::commands::init::{new_key, random_token, write_private};
use crate::commands::{block_on, terminated};
use crate::engine::parts::{self, Parts};
use crate::exit::{Context as _, Failure, Outcome};
use crate::log;
use crate::service::{self, Service, Source};
use chaos::{ChaosLayer, Ledger, Proxy, Storm};
use record::Recorder;
use tokio::task::JoinHandle;
use verdict::Verdict;
use workload::Workload;

const CLUSTER: &str = "demo1";
/// The demo is over by then, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(600);
/// Faults are dealt for so long; then everything may settle.
const STORM: Duration = Duration::from_secs(60);
const LOOK_PAUSE: Duration = Duration::from_millis(250);
const LINE_PAUSE: Duration = Duration::from_secs(5);
const DESTROY_PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(args: &DemoArgs) -> Outcome {
    let dir = tempfile::Builder::new().prefix("longshore-demo-").tempdir();
    let dir = dir.failed("a temporary directory")?;
    let report = block_on(async {
        let storm = args.chaos.then(|| Storm::new(args.seed, STORM));
        let stage = Stage::set(dir.path(), args, storm).await?;
        let played = tokio::select! {
            played = stage.play(args) => played,
            ended = terminated() => ended.and_then(|()| {
                Err(Failure::Failed("interrupted".to_owned()))
            }),
        };
        let cleared = stage.clear(dir.path()).await;
        let report = played?;
        cleared.map(|()| report)
    })?;
    drop(dir);
    if args.json.json {
        println!("{}", report.json());
    } else {
        println!("{report}");
    }
    match (report.surprises(), args.chaos) {
        ([], _) => Ok(()),
        (unaccounted, true) => Err(Failure::Failed(format!(
            "{} containers are not accounted for:\n{}",
            unaccounted.len(),
            unaccounted.join("\n")
        ))),
        (surprises, false) => Err(Failure::Failed(format!(
            "{} containers ended otherwise than they should: {}",
            surprises.len(),
            surprises.join(", ")
        ))),
    }
}

/// What `--chaos` adds.
struct Chaos {
    storm: Storm,
    ledger: Ledger,
    /// Between the queue and everybody.
    _proxy: Proxy,
    lots: JoinHandle<()>,
}

/// Queue, cloud and dispatcher, all running.
struct Stage {
    chaos: Option<Chaos>,
    queue: QueueServer,
    cloud: LoopbackCloud,
    service: Service,
    client: Client,
}

impl Stage {
    async fn set(dir: &Path, args: &DemoArgs, storm: Option<Storm>) -> Outcome<Self> {
        let token = Secret::new(random_token()?);
        let database = Database::File(dir.join("queue.db"));
        let config = QueueConfig::new(CLUSTER, database);
        let loopback = ([127, 0, 0, 1], 0).into();
        let queue = QueueServer::bind(loopback, config)
            .await
            .failed("the queue")?;
        queue.tokens().set_root(&token).await.failed("the queue")?;
        write_private(&dir.join("dispatch_key"), &new_key()?)?;
        let proxy = match &storm {
            Some(storm) => {
                let proxy = Proxy::start(queue.local_addr(), storm.clone()).await;
                Some(proxy.failed("the proxy before the queue")?)
            }
            None => None,
        };
        let own_port = queue.local_addr().port();
        let seen_port = proxy.as_ref().map_or(own_port, Proxy::port);
        let cluster = configuration(dir, seen_port, &token, args.chaos)?;
        log::init(&cluster.log);
        let mut parts = service::parts(&cluster, dir)?;
        let cloud = cloud(&cluster, &parts, dir)?;
        // Whoever watches is not part of the play.
        let client = Client::new(&format!("http://127.0.0.1:{own_port}/"), token, false)?;
        if let Some(storm) = &storm {
            let layer = ChaosLayer(storm.clone());
            parts.cloud.cloud = Arc::new(Layered::new(parts.cloud.cloud, layer));
        }
        let service =
            Service::start(&cluster, Source::default(), parts, args.journal.clone()).await?;
        let chaos = match storm.zip(proxy) {
            Some((storm, proxy)) => {
                let vms = dir.canonicalize().failed(dir.display())?.join("vms/vms");
                Some(Chaos {
                    lots: chaos::strike(storm.clone(), vms, service.watch()),
                    ledger: Ledger::create(dir.join("ledger")).failed("the ledger")?,
                    storm,
                    _proxy: proxy,
                })
            }
            None => None,
        };
        Ok(Self {
            chaos,
            queue,
            cloud,
            service,
            client,
        })
    }

    /// Submits everything and waits until it is over.
    async fn play(&self, args: &DemoArgs) -> Outcome<report::Report> {
        let begun = Instant::now();
        let recorder = Recorder::start(self.service.watch());
        let ledger = self.chaos.as_ref().map(|chaos| &chaos.ledger);
        let mut workload = Workload::new(args.containers, ledger);
        workload.submit(&self.client).await?;
        let bar = progress_bar(u64::from(args.containers), args.json.json);
        let mut line_due = Instant::now() + LINE_PAUSE;
        while !workload.is_over() {
            if begun.elapsed() > PATIENCE {
                return Err(Failure::Failed(format!(
                    "not over after {PATIENCE:?}: {}",
                    workload.progress()
                )));
            }
            tokio::time::sleep(LOOK_PAUSE).await;
            workload.look(&self.client).await?;
            bar.set_position(workload.over());
            let text = format!("{}; {}", workload.progress(), recorder.progress());
            if bar.is_hidden() && Instant::now() >= line_due {
                eprintln!("{:>4} s  {text}", begun.elapsed().as_secs());
                line_due = Instant::now() + LINE_PAUSE;
            }
            bar.set_message(text);
        }
        bar.finish_and_clear();
        let (record, took) = (recorder.finish(), begun.elapsed());
        let judged = self.chaos.as_ref().map(|chaos| {
            let damage = chaos.storm.damage();
            Verdict::new(args.seed, &workload, &record, &damage, &chaos.ledger)
        });
        Ok(report::Report::new(&workload, record, took, judged))
    }

    /// Ends everything and proves that nothing is left.
    async fn clear(self, dir: &Path) -> Outcome {
        if let Some(chaos) = &self.chaos {
            chaos.lots.abort();
        }
        self.service.stop().await?;
        let destroyed = tokio::time::timeout(DESTROY_PATIENCE, self.cloud.destroy_all()).await;
        destroyed
            .failed("destroying the VMs")?
            .failed("destroying the VMs")?;
        self.queue.shutdown().await.failed("the queue")?;
        match leftovers(dir).as_slice() {
            [] => Ok(()),
            pids => Err(Failure::Failed(format!("still running: {pids:?}"))),
        }
    }
}

/// Processes that were started for VMs under `dir`, by what their environment says.
fn leftovers(dir: &Path) -> Vec<u32> {
    let marker = format!("LONGSHORE_VM_DIR={}/", dir.display());
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let marked = |pid: &u32| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut variables = environ.split(|b| *b == 0);
        variables.any(|variable| variable.starts_with(marker.as_bytes()))
    };
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(marked)
        .collect()
}

fn configuration(
    dir: &Path,
    queue_port: u16,
    token: &Secret,
    chaos: bool,
) -> Outcome<ClusterConfig> {
    // What fails on purpose is to be given up within the demo's time.
    let (boot_probe, booting, silence, ambiguous) = match chaos {
        true => (chaos::boot_probe(), "15s", "10s", "10s"),
        false => ("true".to_owned(), "10m", "10m", "5m"),
    };
    let text = include_str!("config.yml")
        .replace("{boot_probe}", &boot_probe)
        .replace("{booting}", booting)
        .replace("{silence}", silence)
        .replace("{ambiguous}", ambiguous)
        .replace("{cluster}", CLUSTER)
        .replace("{queue_port}", &queue_port.to_string())
        .replace("{root_token}", token.expose())
        .replace("{management_token}", &random_token()?)
        .replace("{dir}", &dir.display().to_string());
    Ok(load(&text).failed("the demo's configuration")?.cluster)
}

/// The same cloud once more, to clear up what the dispatcher leaves.
fn cloud(cluster: &ClusterConfig, parts: &Parts, dir: &Path) -> Outcome<LoopbackCloud> {
    let settings = CloudSettings {
        instance_set_id: parts.instance_set_id.clone(),
        tag_key_prefix: cluster.cloud.tag_key_prefix.clone(),
        resource_tags: cluster.cloud.resource_tags.clone(),
    };
    parts::loopback(cluster, settings, dir)
}

fn progress_bar(containers: u64, quiet: bool) -> ProgressBar {
    if quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{elapsed:>4} [{bar:30}] {pos}/{len}  {msg}";
    let style = ProgressStyle::with_template(template);
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(containers).with_style(style.progress_chars("=> "))
}
