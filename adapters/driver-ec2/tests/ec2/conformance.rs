//! The suite that every driver passes, with a real sshd for each instance.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use longshore_core::ids::{CloudId, InstanceId};
use longshore_driver::conformance::{
    Bench, Fault, InjectError, Outcome, Patience, Plan, Point, Promises, Proof, Refusal, Silent,
    run,
};
use longshore_driver::{Cloud as _, CreateSpec, ErrorClass, Instance, Operation, SharedCloud};
use longshore_driver_ec2::Ec2Cloud;
use longshore_secret::Secret;
use longshore_ssh::{Remote, RemoteSettings, RunnerSource, SshKey, SshSettings, Target};
use serde_json::json;
use tokio::time::Instant;

use crate::support::proxy::{Effect, Machines, Proxy};
use crate::support::vm::Vms;
use crate::support::{Ec2, direct};

/// Whatever takes longer does not come.
const LONG: Duration = Duration::from_secs(60);

struct Ec2Bench {
    ec2: Ec2,
    cloud: Ec2Cloud,
    remote: Remote,
    /// Whether instances are of the spot market.
    spot: bool,
}

impl Ec2Bench {
    async fn new(vms: &Arc<Vms>, spot: bool) -> Self {
        let machines: Arc<dyn Machines> = Arc::<Vms>::clone(vms);
        let ec2 = Ec2::behind(Proxy::with_machines(Some(machines)).await).await;
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

    /// Compares the secret and asks whether the machine is ready.
    async fn asked(&self, instance: &Instance) -> Result<Result<(), String>, String> {
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
        Operation::Prices | Operation::HostKeyCheck => Err(InjectError::Unable),
    }
}

#[async_trait]
impl Bench for Ec2Bench {
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

    async fn prove(&self, instance: &Instance) -> Result<Proof, String> {
        self.asked(instance).await.map(|_| Proof::default())
    }

    async fn boot_probe(&self, instance: &Instance) -> Result<(), String> {
        self.asked(instance).await?
    }

    async fn tags_seen_otherwise(
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
            Fault::Refused(refusal) => {
                let effect = Effect::Refuse(400, refusal.code.clone(), refusal.message.clone());
                proxy.fault(action(refusal.operation)?, None, 1, effect);
            }
        }
        Ok(())
    }

    fn refusals(&self) -> Vec<Refusal> {
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
        let refusal = |(operation, code, class): (Operation, &str, ErrorClass)| Refusal {
            code: code.to_owned(),
            message: format!("The cloud says {code}."),
            operation,
            class,
        };
        table.map(refusal).to_vec()
    }

    fn promises(&self) -> Promises {
        Promises {
            idempotent_create: true,
            batches: true,
            market_prices: true,
        }
    }

    fn patience(&self) -> Patience {
        Patience {
            call: LONG,
            appear: LONG,
            address: LONG,
            boot: LONG,
            gone: LONG,
            settle: Duration::from_millis(200),
            pause: Duration::from_millis(100),
            again: LONG,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_driver_keeps_the_contract() {
    keeps_the_contract(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_driver_keeps_the_contract_on_the_spot_market() {
    keeps_the_contract(true).await;
}

async fn keeps_the_contract(spot: bool) {
    let vms = Arc::new(Vms::new());
    let bench = Ec2Bench::new(&vms, spot).await;
    let report = run(&bench, Plan::default(), &Silent).await;
    assert!(report.passed(), "{report}");
    let skipped = |point: &&Point| matches!(report.outcome(**point), Some(Outcome::Skipped { .. }));
    let skipped: Vec<&Point> = Point::ALL.iter().filter(skipped).collect();
    // EC2 tells nothing of host keys at once, and nobody wanted a command or a pause.
    let expected = [&Point::HostKey, &Point::Command, &Point::Pause];
    assert_eq!(skipped, expected, "{report}");
    let note = match report.outcome(Point::Prices) {
        Some(Outcome::Passed { note }) => note.as_str(),
        other => panic!("{other:?}"),
    };
    assert_eq!(note.ends_with("an hour now"), spot, "{note}");
    let calls = bench.ec2.proxy.calls("RunInstances");
    let market = "InstanceMarketOptions.MarketType";
    assert!(calls.iter().all(|call| call.contains_key(market) == spot));
    assert_eq!(vms.running(), [] as [String; 0]);
}
