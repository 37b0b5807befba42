//! `longshore demo`: the whole way of 60 containers, on this host alone.
//!
//! Everything is real: the queue speaks HTTP over SQLite, VMs are SSH servers of their own, runners
//! run processes. Only the scale is small.

mod record;
mod report;
mod workload;

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use longshore_arvados::config::{ClusterConfig, load};
use longshore_cloud::CloudSettings;
use longshore_loopback::LoopbackCloud;
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
use record::Recorder;
use workload::Workload;

const CLUSTER: &str = "demo1";
/// The demo is over by then, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK_PAUSE: Duration = Duration::from_millis(250);
const LINE_PAUSE: Duration = Duration::from_secs(5);
const DESTROY_PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(args: &DemoArgs) -> Outcome {
    let dir = tempfile::Builder::new().prefix("longshore-demo-").tempdir();
    let dir = dir.failed("a temporary directory")?;
    let report = block_on(async {
        let stage = Stage::set(dir.path(), args).await?;
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
    match report.surprises() {
        [] => Ok(()),
        surprises => Err(Failure::Failed(format!(
            "{} containers ended otherwise than they should: {}",
            surprises.len(),
            surprises.join(", ")
        ))),
    }
}

/// Queue, cloud and dispatcher, all running.
struct Stage {
    queue: QueueServer,
    cloud: LoopbackCloud,
    service: Service,
    client: Client,
}

impl Stage {
    async fn set(dir: &Path, args: &DemoArgs) -> Outcome<Self> {
        let token = Secret::new(random_token()?);
        let database = Database::File(dir.join("queue.db"));
        let config = QueueConfig::new(CLUSTER, database);
        let loopback = ([127, 0, 0, 1], 0).into();
        let queue = QueueServer::bind(loopback, config)
            .await
            .failed("the queue")?;
        queue.tokens().set_root(&token).await.failed("the queue")?;
        write_private(&dir.join("dispatch_key"), &new_key()?)?;
        let cluster = configuration(dir, queue.local_addr().port(), &token)?;
        log::init(&cluster.log);
        let parts = service::parts(&cluster, dir)?;
        let cloud = cloud(&cluster, &parts, dir)?;
        let client = Client::new(&cluster.services.controller_url, token, false)?;
        let service =
            Service::start(&cluster, Source::default(), parts, args.journal.clone()).await?;
        Ok(Self {
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
        let mut workload = Workload::new(args.containers);
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
        Ok(report::Report::new(
            &workload,
            recorder.finish(),
            begun.elapsed(),
        ))
    }

    /// Ends everything and proves that nothing is left.
    async fn clear(self, dir: &Path) -> Outcome {
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

fn configuration(dir: &Path, queue_port: u16, token: &Secret) -> Outcome<ClusterConfig> {
    let text = include_str!("config.yml")
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
