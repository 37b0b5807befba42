//! `longshore cloudtest`: is this account, image and type fit for use?

mod bench;
mod show;

use std::sync::Arc;

use longshore_cluster_config::{ClusterConfig, Log, LogFormat, LogLevel};
use longshore_core::config::InstanceType;
use longshore_core::ids::{ImageId, TypeName};
use longshore_driver::conformance::{Capabilities, Options, Timeouts, run as prove};
use longshore_driver::{Cloud as _, SharedCloud};
use longshore_ssh::Remote;
use tokio_util::sync::CancellationToken;

use self::bench::{CliBench, Wanted};
use self::show::{Shown, Subnet};
use super::{block_on, load, terminated};
use crate::cli::CloudtestArgs;
use crate::engine::parts;
use crate::exit::{Failure, Outcome};
use crate::log;
use crate::service::default_state_dir;

pub(crate) fn run(args: &CloudtestArgs) -> Outcome {
    let cluster = load(&args.config)?;
    // Steps tell what happens: only what somebody should know comes between them.
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
        if set == parts::instance_set_id(&cluster.system_root_token) {
            return Err(Failure::Usage(format!(
                "--instance-set-id {set:?}: expected another one than the dispatcher's own, which \
                 would take the test's instances for its own, and the test the dispatcher's"
            )));
        }
        let cloud = parts::driver(&cluster, parts::settings(&cluster, set), &state_dir)?;
        let elsewhere = format!("{set}-other");
        let other = parts::driver(&cluster, parts::settings(&cluster, &elsewhere), &state_dir)?;
        let subject = Subject::choose(args, &cluster, &cloud)?;
        let stop = CancellationToken::new();
        let _ended = stop_on_signal(stop.clone());
        let shown = Shown::new(&cluster, args, &subject);
        let site = Site {
            args,
            cluster: &cluster,
            subject,
            other,
            stop,
        };
        site.prove_all(&cloud, shown).await
    })
}

/// TERM and INT end the test, not the process: what was made is destroyed first.
fn stop_on_signal(stop: CancellationToken) -> tokio_util::task::AbortOnDropHandle<()> {
    tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        if terminated().await.is_ok() {
            eprintln!("stopping: destroying what was made");
            stop.cancel();
        }
    }))
}

/// What is made.
pub(super) struct Subject {
    pub(super) type_name: TypeName,
    pub(super) offer: InstanceType,
    pub(super) image: ImageId,
}

impl Subject {
    /// What was asked for, or the cheapest type and the configured image.
    fn choose(args: &CloudtestArgs, cluster: &ClusterConfig, cloud: &SharedCloud) -> Outcome<Self> {
        let types = &cluster.core.types;
        let chosen = match &args.instance_type {
            Some(name) => types.get_key_value(&TypeName::from(name.as_str())),
            None => types.iter().min_by_key(|(_, offer)| offer.price),
        };
        let Some((type_name, offer)) = chosen else {
            let names: Vec<&str> = types.keys().map(TypeName::as_str).collect();
            return Err(Failure::Usage(match &args.instance_type {
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

/// Everything but the driver under test.
struct Site<'a> {
    args: &'a CloudtestArgs,
    cluster: &'a ClusterConfig,
    subject: Subject,
    /// The same account, another set.
    other: SharedCloud,
    stop: CancellationToken,
}

impl Site<'_> {
    /// Once for each subnet, or once.
    async fn prove_all(&self, cloud: &SharedCloud, mut shown: Shown) -> Outcome {
        let subnets = cloud.subnets();
        if subnets.is_empty() {
            self.verify_identity(Arc::clone(cloud), None, &mut shown)
                .await?;
        }
        for (place, name) in subnets.into_iter().enumerate() {
            let Some(there) = cloud.for_subnet(place) else {
                return Err(Failure::Failed(format!(
                    "the driver names the subnet {name} and does not know it"
                )));
            };
            if !self.stop.is_cancelled() {
                self.verify_identity(there, Some(name), &mut shown).await?;
            }
        }
        shown.finish(self.stop.is_cancelled())
    }

    async fn verify_identity(
        &self,
        cloud: SharedCloud,
        subnet: Option<String>,
        shown: &mut Shown,
    ) -> Outcome {
        let remote = self.remote(&cloud)?;
        let bench = CliBench {
            public_key: remote.public_key,
            remote: remote.remote,
            cloud,
            other: Arc::clone(&self.other),
            cluster: self.cluster,
            subject: &self.subject,
            wanted: Wanted {
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
        let rows = shown.begin(subnet.as_deref());
        let report = prove(&bench, plan, &rows).await;
        rows.finish();
        shown.add(Subnet { subnet, report });
        Ok(())
    }

    fn remote(&self, cloud: &SharedCloud) -> Outcome<WayIn> {
        let (parts, _) = parts::cloud_parts(self.cluster, Arc::clone(cloud))?;
        Ok(WayIn {
            remote: parts.remote,
            public_key: parts.public_key,
        })
    }
}

/// How instances are reached.
struct WayIn {
    remote: Remote,
    public_key: Option<String>,
}

/// What each driver capabilities beyond what every driver must do. Batches are left out: a second
/// instance costs money and shows nothing about the account. So are prices, which the operator may
/// have switched off.
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
        // VMs on this host are seen at once.
        absence: if local {
            default.poll_interval
        } else {
            default.absence
        },
        ..default
    }
}
