//! `longshore cloudtest`: tests a cloud account, image and instance type.

mod harness;
mod reporter;

use std::sync::Arc;

use longshore_cluster_config::{ClusterConfig, Log, LogFormat, LogLevel};
use longshore_core::config::InstanceType;
use longshore_core::ids::{ImageId, TypeName};
use longshore_driver::conformance::{Capabilities, Options, Timeouts, run as run_conformance};
use longshore_driver::{Cloud as _, SharedCloud};
use longshore_ssh::Remote;
use tokio_util::sync::CancellationToken;

use self::harness::{CliHarness, HarnessOptions};
use self::reporter::{Reporter, Subnet};
use super::{block_on, load, terminated};
use crate::cli::CloudtestArgs;
use crate::engine::wiring;
use crate::error::{CliError, CliResult};
use crate::log;
use crate::service::default_state_dir;

pub(crate) fn run(args: &CloudtestArgs) -> CliResult {
    let cluster = load(&args.config)?;
    // Progress is printed step by step: only warnings of the log are worth a line in between.
    log::init(&Log {
        format: LogFormat::Text,
        level: LogLevel::Warn,
    });
    let state_dir = match &args.state_dir {
        Some(dir) => dir.clone(),
        None => default_state_dir()?,
    };
    block_on(async {
        let set = args.instance_set_id.as_str();
        if set == wiring::instance_set_id(&cluster.system_root_token) {
            return Err(CliError::usage(format!(
                "--instance-set-id {set:?}: expected an ID other than the instance set ID of the dispatcher: \
                 the dispatcher would adopt the instances of the test, and the test the instances of the dispatcher"
            )));
        }
        let cloud = wiring::driver(&cluster, wiring::settings(&cluster, set), &state_dir)?;
        let elsewhere = format!("{set}-other");
        let other = wiring::driver(&cluster, wiring::settings(&cluster, &elsewhere), &state_dir)?;
        let subject = Subject::choose(args, &cluster, &cloud)?;
        let stop = CancellationToken::new();
        let _ended = stop_on_signal(stop.clone());
        let reporter = Reporter::new(&cluster, args, &subject);
        let run = TestRun {
            args,
            cluster: &cluster,
            subject,
            other,
            stop,
        };
        run.run_all(&cloud, reporter).await
    })
}

/// Cancels the test on TERM or INT; the process continues and destroys the instances of the test.
fn stop_on_signal(stop: CancellationToken) -> tokio_util::task::AbortOnDropHandle<()> {
    tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        if terminated().await.is_ok() {
            eprintln!("stopping: destroying the instances of the test");
            stop.cancel();
        }
    }))
}

/// Instance type and image under test.
pub(super) struct Subject {
    pub(super) type_name: TypeName,
    pub(super) offer: InstanceType,
    pub(super) image: ImageId,
}

impl Subject {
    /// Type and image of the options, or else the cheapest type and the configured image.
    fn choose(
        args: &CloudtestArgs,
        cluster: &ClusterConfig,
        cloud: &SharedCloud,
    ) -> CliResult<Self> {
        let types = &cluster.core.types;
        let chosen = match &args.instance_type {
            Some(name) => types.get_key_value(&TypeName::from(name.as_str())),
            None => types.iter().min_by_key(|(_, offer)| offer.price),
        };
        let Some((type_name, offer)) = chosen else {
            let names: Vec<&str> = types.keys().map(TypeName::as_str).collect();
            return Err(CliError::usage(match &args.instance_type {
                Some(name) => format!(
                    "--instance-type {name:?}: expected one of InstanceTypes: {}",
                    names.join(", ")
                ),
                None => "InstanceTypes: expected at least one type, found none".to_owned(),
            }));
        };
        let mut offer = offer.clone();
        offer.quota_group = cloud.quota_group(&offer);
        Ok(Self {
            type_name: type_name.clone(),
            offer,
            image: match &args.image_id {
                Some(image) => ImageId::from(image.as_str()),
                None => cluster.core.image.clone(),
            },
        })
    }
}

/// State of one test run, apart from the driver under test.
struct TestRun<'a> {
    args: &'a CloudtestArgs,
    cluster: &'a ClusterConfig,
    subject: Subject,
    /// Same account with another instance set ID.
    other: SharedCloud,
    stop: CancellationToken,
}

impl TestRun<'_> {
    /// Runs the suite in each subnet, or once if the driver has no subnets.
    async fn run_all(&self, cloud: &SharedCloud, mut reporter: Reporter) -> CliResult {
        let subnets = cloud.subnets();
        if subnets.is_empty() {
            self.run_suite(Arc::clone(cloud), None, &mut reporter)
                .await?;
        }
        for (place, name) in subnets.into_iter().enumerate() {
            let Some(there) = cloud.for_subnet(place) else {
                return Err(CliError::failed(format!(
                    "the driver lists the subnet {name} and has no client for the subnet"
                )));
            };
            if !self.stop.is_cancelled() {
                self.run_suite(there, Some(name), &mut reporter).await?;
            }
        }
        reporter.finish(self.stop.is_cancelled())
    }

    async fn run_suite(
        &self,
        cloud: SharedCloud,
        subnet: Option<String>,
        reporter: &mut Reporter,
    ) -> CliResult {
        let remote = self.remote(&cloud)?;
        let harness = CliHarness {
            public_key: remote.public_key,
            remote: remote.remote,
            cloud,
            other: Arc::clone(&self.other),
            cluster: self.cluster,
            subject: &self.subject,
            options: HarnessOptions {
                set: &self.args.instance_set_id,
                command: self.args.command.as_deref(),
                pause: self.args.pause_before_destroy,
                json: self.args.json.json,
            },
            stop: self.stop.clone(),
            capabilities: capabilities(&self.cluster.cloud.driver),
            timeouts: timeouts(self.cluster),
        };
        let plan = Options {
            destroy_existing: self.args.destroy_existing,
        };
        let rows = reporter.begin(subnet.as_deref());
        let report = run_conformance(&harness, plan, &rows).await;
        rows.finish();
        reporter.add(Subnet { subnet, report });
        Ok(())
    }

    fn remote(&self, cloud: &SharedCloud) -> CliResult<Access> {
        let (components, _) = wiring::cloud_components(self.cluster, Arc::clone(cloud))?;
        Ok(Access {
            remote: components.remote,
            public_key: components.public_key,
        })
    }
}

/// SSH access to instances.
struct Access {
    remote: Remote,
    public_key: Option<String>,
}

/// Optional features of each driver. Batches are not tested: a second instance costs money without
/// testing the account. Prices are not tested either, since operators may have disabled them.
fn capabilities(driver: &str) -> Capabilities {
    Capabilities {
        idempotent_create: matches!(driver, "loopback" | "ec2"),
        batches: false,
        market_prices: false,
    }
}

fn timeouts(cluster: &ClusterConfig) -> Timeouts {
    let timeouts = &cluster.core.timeouts;
    let default = Timeouts::default();
    let local = cluster.cloud.driver == "loopback";
    Timeouts {
        boot: timeouts.booting,
        destroy_retry: timeouts.shutdown,
        // The list of the loopback driver is consistent at once.
        absence: if local {
            default.poll_interval
        } else {
            default.absence
        },
        ..default
    }
}
