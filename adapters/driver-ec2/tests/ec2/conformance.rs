//! Conformance suite on the emulated EC2, with a real sshd for each instance.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use longshore_core::ids::{CloudId, InstanceId};
use longshore_driver::conformance::{
    Capabilities, Check, ErrorCase, Fault, Harness, Identity, InjectError, NoProgress, Options,
    Outcome, Timeouts, run,
};
use longshore_driver::{Cloud as _, CreateSpec, ErrorClass, Instance, Operation, SharedCloud};
use longshore_driver_ec2::Ec2Cloud;
use longshore_secret::Secret;
use longshore_ssh::{Remote, RemoteSettings, RunnerSource, SshKey, SshSettings, Target};
use serde_json::json;
use tokio::time::Instant;

use crate::support::proxy::{Effect, Proxy, VmProvider};
use crate::support::vm::Vms;
use crate::support::{Ec2, direct};

/// Upper limit for all operations.
const TIMEOUT: Duration = Duration::from_secs(60);

struct Ec2Harness {
    ec2: Ec2,
    cloud: Ec2Cloud,
    remote: Remote,
    /// True for spot instances.
    spot: bool,
}

impl Ec2Harness {
    async fn new(vms: &Arc<Vms>, spot: bool) -> Self {
        let provider: Arc<dyn VmProvider> = Arc::<Vms>::clone(vms);
        let ec2 = Ec2::behind(Proxy::with_vms(Some(provider)).await).await;
        let cloud = ec2.cloud();
        let key = ec2.key.to_openssh(russh::keys::ssh_key::LineEnding::LF);
        let ssh = SshSettings {
            user: cloud.remote_user().to_owned(),
            sudo: cloud.sudo(),
            default_port: vms.port,
            key: SshKey::parse(&Secret::new(key.unwrap().to_string())).unwrap(),
            secret_path: cloud.secret_path().to_owned(),
            connects_max: 4,
        };
        let settings = RemoteSettings {
            cluster_id: "zzzzz".to_owned(),
            boot_probe_command: "test -s /run/arvados-instance-secret".to_owned(),
            runner: RunnerSource::Installed {
                command: "true".to_owned(),
            },
            runner_args: Vec::new(),
            runtime_engine: "process".to_owned(),
        };
        Self {
            ec2,
            cloud,
            remote: Remote::new(ssh, settings).unwrap(),
            spot,
        }
    }

    /// Verifies the secret and runs the boot probe.
    async fn probe(&self, instance: &Instance) -> Result<Result<(), String>, String> {
        let target = Target {
            cloud: CloudId(0),
            instance: instance.id.clone(),
            address: instance.address.clone().ok_or("no address")?,
            secret: instance.secret.clone(),
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        let report = self.remote.probe(&target, true, deadline).await;
        Ok(report.map_err(|error| error.to_string())?.ready)
    }
}

fn action(operation: Operation) -> Result<&'static str, InjectError> {
    match operation {
        Operation::Create => Ok("RunInstances"),
        Operation::List => Ok("DescribeInstances"),
        Operation::SetTags => Ok("CreateTags"),
        Operation::Destroy => Ok("TerminateInstances"),
        Operation::Prices | Operation::HostKeyCheck => Err(InjectError::Unsupported),
    }
}

#[async_trait]
impl Harness for Ec2Harness {
    fn cloud(&self) -> SharedCloud {
        Arc::new(self.cloud.clone())
    }

    fn instance_set_id(&self) -> &str {
        &self.ec2.set
    }

    fn other_set(&self) -> Option<SharedCloud> {
        let other = format!("{}-other", self.ec2.set);
        let params = self.ec2.params(json!({}));
        Some(Arc::new(Ec2Cloud::new(self.ec2.settings(&other), params)))
    }

    fn spec(&self) -> Result<CreateSpec, String> {
        let mut spec = self.ec2.spec();
        spec.instance_type.preemptible = self.spot;
        Ok(spec)
    }

    async fn verify_identity(&self, instance: &Instance) -> Result<Identity, String> {
        self.probe(instance).await.map(|_| Identity::default())
    }

    async fn boot_probe(&self, instance: &Instance) -> Result<(), String> {
        self.probe(instance).await?
    }

    async fn provider_tags(
        &self,
        instance: &InstanceId,
    ) -> Result<Option<BTreeMap<String, String>>, String> {
        let call = direct(&self.ec2.proxy.url).describe_instances();
        let answer = call.instance_ids(instance.as_str()).send().await;
        let answer = answer.map_err(|error| error.to_string())?;
        let tags = answer.reservations()[0].instances()[0].tags().iter();
        let pair = |tag: &aws_sdk_ec2::types::Tag| Some((tag.key.clone()?, tag.value.clone()?));
        Ok(Some(tags.filter_map(pair).collect()))
    }

    fn resource_tags(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("Owner".to_owned(), "lab".to_owned())])
    }

    async fn inject(&self, fault: &Fault) -> Result<(), InjectError> {
        let proxy = &self.ec2.proxy;
        match fault {
            Fault::LostCreate => proxy.fault("RunInstances", None, 1, Effect::LoseAnswer),
            Fault::Error(case) => {
                let effect = Effect::Refuse(400, case.code.clone(), case.message.clone());
                proxy.fault(action(case.operation)?, None, 1, effect);
            }
        }
        Ok(())
    }

    fn error_cases(&self) -> Vec<ErrorCase> {
        use ErrorClass::{Ambiguous, Capacity, Permanent, Quota, RateLimited, Transient};
        use Operation::{Create, Destroy, List, SetTags};
        let table = [
            (Create, "InstanceLimitExceeded", Quota),
            (Create, "VcpuLimitExceeded", Quota),
            (Create, "MaxSpotInstanceCountExceeded", Quota),
            (Create, "InsufficientInstanceCapacity", Capacity),
            (Create, "SpotMaxPriceTooLow", Capacity),
            (Create, "RequestLimitExceeded", RateLimited),
            (Create, "AuthFailure", Permanent),
            (Create, "InvalidAMIID.NotFound", Permanent),
            (Create, "InternalError", Ambiguous),
            (Create, "SomethingNew", Transient),
            (List, "RequestLimitExceeded", RateLimited),
            (List, "UnauthorizedOperation", Permanent),
            (SetTags, "RequestLimitExceeded", RateLimited),
            (SetTags, "SomethingNew", Transient),
            (Destroy, "RequestLimitExceeded", RateLimited),
            (Destroy, "InternalError", Ambiguous),
        ];
        let case = |(operation, code, class): (Operation, &str, ErrorClass)| ErrorCase {
            code: code.to_owned(),
            message: format!("The cloud says {code}."),
            operation,
            class,
        };
        table.map(case).to_vec()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            idempotent_create: true,
            batches: true,
            market_prices: true,
        }
    }

    fn timeouts(&self) -> Timeouts {
        Timeouts {
            call: TIMEOUT,
            visible: TIMEOUT,
            address: TIMEOUT,
            boot: TIMEOUT,
            terminated: TIMEOUT,
            absence: Duration::from_millis(200),
            poll_interval: Duration::from_millis(100),
            destroy_retry: TIMEOUT,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ec2_driver_passes_suite() {
    assert_suite_passes(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ec2_driver_spot_passes_suite() {
    assert_suite_passes(true).await;
}

async fn assert_suite_passes(spot: bool) {
    let vms = Arc::new(Vms::new());
    let harness = Ec2Harness::new(&vms, spot).await;
    let report = run(&harness, Options::default(), &NoProgress).await;
    assert!(report.passed(), "{report}");
    let skipped = |check: &&Check| matches!(report.outcome(**check), Some(Outcome::Skipped { .. }));
    let skipped: Vec<&Check> = Check::ALL.iter().filter(skipped).collect();
    // EC2 has no information about host keys; no command and no pause was requested.
    let expected = [&Check::HostKey, &Check::Command, &Check::Pause];
    assert_eq!(skipped, expected, "{report}");
    let note = match report.outcome(Check::Prices) {
        Some(Outcome::Passed { note }) => note.as_str(),
        other => panic!("{other:?}"),
    };
    assert_eq!(note.ends_with("per hour now"), spot, "{note}");
    let calls = harness.ec2.proxy.calls("RunInstances");
    let market = "InstanceMarketOptions.MarketType";
    assert!(calls.iter().all(|call| call.contains_key(market) == spot));
    assert_eq!(vms.running(), [] as [String; 0]);
}
