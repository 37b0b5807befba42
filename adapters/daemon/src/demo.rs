//! `longshore demo`: runs 60 containers through a complete system on this host.
//!
//! All components are real: the queue serves HTTP from SQLite, VMs are separate SSH servers,
//! runners run processes. Only the scale is small.

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
use crate::engine::wiring::{self, Components};
use crate::error::{CliError, CliResult, Context as _};
use crate::log;
use crate::service::{Service, Source};
use chaos::{ChaosLayer, FaultInjector, Ledger, Proxy};
use record::Recorder;
use tokio::task::JoinHandle;
use verdict::Verdict;
use workload::Workload;

const CLUSTER: &str = "demo1";
/// Time limit of the demo.
const TIMEOUT: Duration = Duration::from_secs(600);
/// Duration of the fault injection; the rest of the demo is for recovery.
const FAULT_PERIOD: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(250);
const LINE_INTERVAL: Duration = Duration::from_secs(5);
const DESTROY_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) fn run(args: &DemoArgs) -> CliResult {
    let dir = tempfile::Builder::new().prefix("longshore-demo-").tempdir();
    let dir = dir.failed("a temporary directory")?;
    let report = block_on(async {
        let injector = args
            .chaos
            .then(|| FaultInjector::new(args.seed, FAULT_PERIOD));
        let demo = Demo::start(dir.path(), args, injector).await?;
        let outcome = tokio::select! {
            outcome = demo.run(args) => outcome,
            ended = terminated() => ended.and_then(|()| {
                Err(CliError::failed("interrupted".to_owned()))
            }),
        };
        let shutdown = demo.shut_down(dir.path()).await;
        let report = outcome?;
        shutdown.map(|()| report)
    })?;
    drop(dir);
    if args.json.json {
        println!("{}", report.json());
    } else {
        println!("{report}");
    }
    match (report.surprises(), args.chaos) {
        ([], _) => Ok(()),
        (unaccounted, true) => Err(CliError::failed(format!(
            "{} containers are not accounted for:\n{}",
            unaccounted.len(),
            unaccounted.join("\n")
        ))),
        (surprises, false) => Err(CliError::failed(format!(
            "{} containers did not end as expected: {}",
            surprises.len(),
            surprises.join(", ")
        ))),
    }
}

/// Additional components of `--chaos`.
struct Chaos {
    injector: FaultInjector,
    ledger: Ledger,
    /// Proxy between the queue and all clients of the demo.
    _proxy: Proxy,
    vm_faults: JoinHandle<()>,
}

/// Queue, cloud and dispatcher, all running.
struct Demo {
    chaos: Option<Chaos>,
    queue: QueueServer,
    cloud: LoopbackCloud,
    service: Service,
    client: Client,
}

impl Demo {
    async fn start(
        dir: &Path,
        args: &DemoArgs,
        injector: Option<FaultInjector>,
    ) -> CliResult<Self> {
        let token = Secret::new(random_token()?);
        let database = Database::File(dir.join("queue.db"));
        let config = QueueConfig::new(CLUSTER, database);
        let loopback = ([127, 0, 0, 1], 0).into();
        let queue = QueueServer::bind(loopback, config)
            .await
            .failed("the queue")?;
        queue.tokens().set_root(&token).await.failed("the queue")?;
        write_private(&dir.join("dispatch_key"), &new_key()?)?;
        let proxy = match &injector {
            Some(injector) => {
                let proxy = Proxy::start(queue.local_addr(), injector.clone()).await;
                Some(proxy.failed("the proxy in front of the queue")?)
            }
            None => None,
        };
        let own_port = queue.local_addr().port();
        let public_port = proxy.as_ref().map_or(own_port, Proxy::port);
        let cluster = configuration(dir, public_port, &token, args.chaos)?;
        log::init(&cluster.log);
        let mut components = wiring::build(&cluster, dir)?;
        let cloud = cloud(&cluster, &components, dir)?;
        // The observing client bypasses the proxy.
        let client = Client::new(&format!("http://127.0.0.1:{own_port}/"), token, false)?;
        if let Some(injector) = &injector {
            let layer = ChaosLayer(injector.clone());
            components.cloud.cloud = Arc::new(Layered::new(components.cloud.cloud, layer));
        }
        let service = Service::start(
            &cluster,
            Source::default(),
            components,
            args.journal.clone(),
        )
        .await?;
        let chaos = match injector.zip(proxy) {
            Some((injector, proxy)) => {
                let vms = dir.canonicalize().failed(dir.display())?.join("vms/vms");
                Some(Chaos {
                    vm_faults: chaos::inject(injector.clone(), vms, service.watch()),
                    ledger: Ledger::create(dir.join("ledger")).failed("the ledger")?,
                    injector,
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

    /// Submits all containers and waits for their end.
    async fn run(&self, args: &DemoArgs) -> CliResult<report::Report> {
        let begun = Instant::now();
        let recorder = Recorder::start(self.service.watch());
        let ledger = self.chaos.as_ref().map(|chaos| &chaos.ledger);
        let mut workload = Workload::new(args.containers, ledger);
        workload.submit(&self.client).await?;
        let bar = progress_bar(u64::from(args.containers), args.json.json);
        let mut line_due = Instant::now() + LINE_INTERVAL;
        while !workload.is_over() {
            if begun.elapsed() > TIMEOUT {
                return Err(CliError::failed(format!(
                    "not over after {TIMEOUT:?}: {}",
                    workload.progress()
                )));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
            workload.poll(&self.client).await?;
            bar.set_position(workload.over());
            let text = format!("{}; {}", workload.progress(), recorder.progress());
            if bar.is_hidden() && Instant::now() >= line_due {
                eprintln!("{:>4} s  {text}", begun.elapsed().as_secs());
                line_due = Instant::now() + LINE_INTERVAL;
            }
            bar.set_message(text);
        }
        bar.finish_and_clear();
        let (record, took) = (recorder.finish(), begun.elapsed());
        let verdict = self.chaos.as_ref().map(|chaos| {
            let faults = chaos.injector.injected();
            Verdict::new(args.seed, &workload, &record, &faults, &chaos.ledger)
        });
        Ok(report::Report::new(&workload, record, took, verdict))
    }

    /// Stops all components and checks that no processes are left.
    async fn shut_down(self, dir: &Path) -> CliResult {
        if let Some(chaos) = &self.chaos {
            chaos.vm_faults.abort();
        }
        self.service.stop().await?;
        let destroyed = tokio::time::timeout(DESTROY_TIMEOUT, self.cloud.destroy_all()).await;
        destroyed
            .failed("destroying the VMs")?
            .failed("destroying the VMs")?;
        self.queue.shutdown().await.failed("the queue")?;
        match leftovers(dir).as_slice() {
            [] => Ok(()),
            pids => Err(CliError::failed(format!("still running: {pids:?}"))),
        }
    }
}

/// Processes started for VMs under `dir`, found by their environment.
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
) -> CliResult<ClusterConfig> {
    // Timeouts short enough to detect injected faults within the demo.
    let (boot_probe, booting, silence, ambiguous) = match chaos {
        true => (chaos::boot_probe(), "15s", "10s", "10s"),
        false => ("true".to_owned(), "10m", "10m", "5m"),
    };
    let text = include_str!("demo/config.yml")
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

/// Second handle of the same cloud, to destroy the VMs left by the dispatcher.
fn cloud(cluster: &ClusterConfig, components: &Components, dir: &Path) -> CliResult<LoopbackCloud> {
    let settings = CloudSettings {
        instance_set_id: components.instance_set_id.clone(),
        tag_key_prefix: cluster.cloud.tag_key_prefix.clone(),
        resource_tags: cluster.cloud.resource_tags.clone(),
    };
    wiring::loopback(cluster, settings, dir)
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
