//! The conformance suite on real VMs of this host: the suite passes the correct driver, and fails a
//! defective driver in the expected check.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use longshore_core::ids::InstanceId;
use longshore_driver::conformance::{
    Capabilities, Check, CommandError, ErrorCase, Fault, Harness, Hint, Identity, InjectError,
    NoProgress, Options, Outcome, Progress, Report, Step, Timeouts, run,
};
use longshore_driver::{Cloud as _, CreateSpec, ErrorClass, Instance, Operation, SharedCloud};
use longshore_driver_loopback::LoopbackCloud;
use russh::keys::PrivateKey;

use crate::defects::{Defect, DefectiveCloud, State};
use crate::support::{Client, Host, TIMEOUT, key, log_in, spec, vm_processes};

const SET: &str = "set-a";

/// Loopback VMs behind a driver with an optional defect.
struct LoopbackHarness {
    host: Host,
    key: Arc<PrivateKey>,
    cloud: DefectiveCloud,
    other: DefectiveCloud,
    specs: AtomicU64,
    stopped: AtomicBool,
    timeouts: Timeouts,
    expected_owner: &'static str,
    command: Option<Result<&'static str, &'static str>>,
}

impl LoopbackHarness {
    fn new(defect: Defect) -> Self {
        let host = Host::new();
        let [ours, others] = [SET, "set-b"].map(|set| host.cloud_of(set, host.params()));
        let double = |inner: &LoopbackCloud, other_set: &LoopbackCloud| DefectiveCloud {
            defect,
            inner: inner.clone(),
            other_set: other_set.clone(),
            state: Arc::new(Mutex::new(State::default())),
        };
        Self {
            cloud: double(&ours, &others),
            other: double(&others, &ours),
            host,
            key: key(),
            specs: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            timeouts: Timeouts {
                call: TIMEOUT,
                visible: TIMEOUT,
                address: TIMEOUT,
                boot: TIMEOUT,
                terminated: TIMEOUT,
                absence: Duration::from_millis(50),
                poll_interval: Duration::from_millis(50),
                destroy_retry: TIMEOUT,
            },
            expected_owner: "somebody",
            command: None,
        }
    }

    async fn run_suite(&self, options: Options) -> Report {
        run(self, options, &NoProgress).await
    }

    async fn client(&self, instance: &Instance) -> Result<Client, String> {
        let address = instance.address.as_deref().ok_or("no address")?;
        let user = self.cloud.remote_user();
        let client = log_in(address, user, &self.key).await;
        client.ok_or_else(|| "login refused".to_owned())
    }

    /// Running VMs of both sets, according to the real driver.
    async fn running(&self) -> Vec<InstanceId> {
        let mut running = Vec::new();
        for cloud in [&self.cloud, &self.other] {
            let seen = cloud.inner.list().await.unwrap();
            running.extend(seen.into_iter().filter(|i| !i.terminated).map(|i| i.id));
        }
        running
    }
}

#[async_trait]
impl Harness for LoopbackHarness {
    fn cloud(&self) -> SharedCloud {
        Arc::new(self.cloud.clone())
    }

    fn instance_set_id(&self) -> &str {
        SET
    }

    fn other_set(&self) -> Option<SharedCloud> {
        Some(Arc::new(self.other.clone()))
    }

    fn spec(&self) -> Result<CreateSpec, String> {
        let number = self.specs.fetch_add(1, Ordering::Relaxed);
        let mut spec = spec(u128::from(number), &self.key);
        spec.instance_type.preemptible = self.cloud.defect != Defect::PricesOnDemand;
        Ok(spec)
    }

    async fn verify_identity(&self, instance: &Instance) -> Result<Identity, String> {
        let client = self.client(instance).await?;
        let command = format!("cat \"{}\"", self.cloud.secret_path());
        let output = client.run(&command).await;
        if output.text() != instance.secret.expose() {
            return Err("the instance has another secret".to_owned());
        }
        Ok(Identity {
            host_key: Some(client.host_key),
        })
    }

    async fn boot_probe(&self, instance: &Instance) -> Result<(), String> {
        let output = self.client(instance).await?.run("test -d \"$HOME\"").await;
        match output.status {
            Some(0) => Ok(()),
            other => Err(format!("exit status {other:?}")),
        }
    }

    async fn command(&self, _: &Instance) -> Result<String, CommandError> {
        match self.command {
            None => Err(CommandError::NotRequested),
            Some(Ok(words)) => Ok(words.to_owned()),
            Some(Err(words)) => Err(CommandError::Failed(words.to_owned())),
        }
    }

    async fn provider_tags(
        &self,
        instance: &InstanceId,
    ) -> Result<Option<BTreeMap<String, String>>, String> {
        let file = self.host.vm(instance).join("tags.json");
        let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
        Ok(Some(serde_json::from_str(&text).unwrap()))
    }

    fn resource_tags(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("Owner".to_owned(), self.expected_owner.to_owned())])
    }

    async fn inject(&self, fault: &Fault) -> Result<(), InjectError> {
        self.cloud.state.lock().unwrap().fault = Some(fault.clone());
        Ok(())
    }

    fn error_cases(&self) -> Vec<ErrorCase> {
        let case = |code: &str, operation, class| ErrorCase {
            code: code.to_owned(),
            message: format!("The cloud says {code}."),
            operation,
            class,
        };
        vec![
            case("TooManyVms", Operation::Create, ErrorClass::Quota),
            case("NoRoom", Operation::Create, ErrorClass::Capacity),
            case("NotYou", Operation::Create, ErrorClass::Permanent),
            case("Slower", Operation::List, ErrorClass::RateLimited),
            case("Oops", Operation::SetTags, ErrorClass::Transient),
            case("Who", Operation::SetTags, ErrorClass::NotFound),
            case("Who", Operation::Destroy, ErrorClass::NotFound),
            case("Broken", Operation::Destroy, ErrorClass::Ambiguous),
        ]
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            idempotent_create: true,
            batches: true,
            market_prices: true,
        }
    }

    fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

/// Runs the suite against a driver with this defect. Exactly these checks must fail, and the suite
/// must destroy all created VMs.
async fn assert_failures(
    defect: Defect,
    checks: &[Check],
    timeouts: impl FnOnce(&mut Timeouts),
) -> Report {
    let mut harness = LoopbackHarness::new(defect);
    timeouts(&mut harness.timeouts);
    let report = harness.run_suite(Options::default()).await;
    assert_eq!(report.failures(), checks, "{defect:?}\n{report}");
    assert_eq!(harness.running().await, [], "{defect:?}\n{report}");
    report
}

fn failure(report: &Report, check: Check) -> (&str, &[Hint]) {
    match report.outcome(check) {
        Some(Outcome::Failed { message, hints }) => (message, hints),
        other => panic!("{check:?}: {other:?}\n{report}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn loopback_driver_passes_suite() {
    let mut harness = LoopbackHarness::new(Defect::None);
    harness.command = Some(Ok("hello"));
    let report = harness.run_suite(Options::default()).await;
    assert!(report.passed(), "{report}");
    let tried: Vec<Check> = report.steps.iter().map(|step| step.check).collect();
    assert_eq!(tried, Check::ALL, "every check once, in order");
    let skipped = |step: &&Step| matches!(step.outcome, Outcome::Skipped { .. });
    let skipped: Vec<Check> = report
        .steps
        .iter()
        .filter(skipped)
        .map(|s| s.check)
        .collect();
    assert_eq!(skipped, [Check::Pause], "{report}");
    assert_eq!(harness.running().await, []);
    assert_eq!(vm_processes(&harness.host.path()), Vec::<i32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn suite_detects_tag_defects() {
    let short = |timeouts: &mut Timeouts| timeouts.visible = Duration::from_millis(200);
    // The batch check verifies tags too.
    let with_batch = [Check::Tags, Check::Batch];
    let report = assert_failures(Defect::DropsTypeTag, &with_batch, short).await;
    assert_eq!(failure(&report, Check::Tags).0, "InstanceType is missing");
    let report = assert_failures(Defect::ListsOtherSecret, &with_batch, short).await;
    assert_eq!(
        failure(&report, Check::Tags).0,
        "InstanceSecret has another value"
    );
    let report = assert_failures(Defect::RetagReplaces, &[Check::Retag], short).await;
    assert_eq!(failure(&report, Check::Retag).0, "InstanceType is missing");
    let report = assert_failures(Defect::RetagIsNoOp, &[Check::Retag], short).await;
    assert!(
        failure(&report, Check::Retag)
            .0
            .contains("IdleBehavior is \"run\""),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn suite_detects_missing_resource_tag() {
    let mut harness = LoopbackHarness::new(Defect::None);
    harness.expected_owner = "somebody else";
    let report = harness.run_suite(Options::default()).await;
    assert_eq!(report.failures(), [Check::Tags], "{report}");
    assert!(
        failure(&report, Check::Tags).0.contains("Owner"),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn suite_detects_list_defects() {
    let short = |timeouts: &mut Timeouts| timeouts.visible = Duration::from_millis(200);
    // An unlisted instance is not found after a lost response, nor in a batch.
    let unseen = [Check::Listed, Check::LostCreate, Check::Batch];
    let harness = {
        let mut harness = LoopbackHarness::new(Defect::ListsNothing);
        short(&mut harness.timeouts);
        harness
    };
    let report = harness.run_suite(Options::default()).await;
    assert_eq!(report.failures(), unseen, "{report}");
    assert_failures(Defect::ListsTwice, &[Check::Listed], |_| {}).await;
    let report = assert_failures(Defect::ListsOtherSet, &[Check::OtherSet], |_| {}).await;
    assert!(
        failure(&report, Check::OtherSet).0.contains("set-a"),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn suite_keeps_instance_of_other_set() {
    let harness = LoopbackHarness::new(Defect::ListsOtherSet);
    let created = harness
        .other
        .inner
        .create(spec(99, &harness.key))
        .await
        .unwrap();
    let options = Options {
        destroy_existing: true,
    };
    let report = harness.run_suite(options).await;
    assert_eq!(report.failures(), [Check::Leftovers], "{report}");
    assert!(
        failure(&report, Check::Leftovers).0.contains("set-b"),
        "{report}"
    );
    assert_eq!(harness.running().await, std::slice::from_ref(&created.id));
    harness.other.inner.destroy(&created.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_stop_run_without_destroy_existing() {
    let harness = LoopbackHarness::new(Defect::None);
    let left = harness
        .cloud
        .inner
        .create(spec(99, &harness.key))
        .await
        .unwrap();
    let report = harness.run_suite(Options::default()).await;
    assert_eq!(report.failures(), [Check::Leftovers], "{report}");
    let (message, hints) = failure(&report, Check::Leftovers);
    assert!(message.contains(left.id.as_str()), "{message}");
    assert_eq!(hints, [Hint::Leftovers]);
    assert_eq!(
        harness.specs.load(Ordering::Relaxed),
        0,
        "no create request was sent"
    );
    assert_eq!(harness.running().await, std::slice::from_ref(&left.id));

    let options = Options {
        destroy_existing: true,
    };
    let report = harness.run_suite(options).await;
    assert!(report.passed(), "{report}");
    assert_eq!(harness.running().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn suite_detects_address_and_identity_defects() {
    let short = |timeouts: &mut Timeouts| timeouts.address = Duration::from_millis(200);
    let report = assert_failures(Defect::NoAddress, &[Check::Address], short).await;
    let skipped = report.outcome(Check::Identity).unwrap();
    assert!(matches!(skipped, Outcome::Skipped { .. }), "{report}");
    // Long enough for the boot, so that the identity verification is reached.
    let short = |timeouts: &mut Timeouts| timeouts.boot = Duration::from_secs(1);
    let report = assert_failures(Defect::BootsOtherSecret, &[Check::Identity], short).await;
    let (message, hints) = failure(&report, Check::Identity);
    assert!(message.contains("another secret"), "{message}");
    assert_eq!(hints[0], Hint::InitScript);
    assert_failures(Defect::OtherHostKey, &[Check::HostKey], |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn suite_destroys_duplicate_instance() {
    for defect in [Defect::DuplicateCreate, Defect::HiddenDuplicateCreate] {
        let report =
            assert_failures(defect, &[Check::DuplicateToken, Check::LostCreate], |_| {}).await;
        for check in [Check::DuplicateToken, Check::LostCreate] {
            assert!(failure(&report, check).0.contains(" beside "), "{report}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn suite_detects_destroy_defects() {
    assert_failures(Defect::SecondDestroyFails, &[Check::DestroyAgain], |_| {}).await;

    let mut harness = LoopbackHarness::new(Defect::DestroyIsNoOp);
    harness.timeouts.terminated = Duration::from_millis(300);
    harness.timeouts.destroy_retry = Duration::from_millis(100);
    let report = harness.run_suite(Options::default()).await;
    let still_there = [
        Check::Terminated,
        Check::LostCreate,
        Check::Batch,
        Check::Cleanup,
    ];
    assert_eq!(report.failures(), still_there, "{report}");
    let (message, hints) = failure(&report, Check::Cleanup);
    for id in harness.running().await {
        assert!(message.contains(id.as_str()), "{message}");
    }
    assert_eq!(hints, [Hint::ByHand]);
}

#[tokio::test(flavor = "multi_thread")]
async fn suite_detects_error_class_defects() {
    let report = assert_failures(Defect::QuotaIsTransient, &[Check::ErrorClasses], |_| {}).await;
    let (message, _) = failure(&report, Check::ErrorClasses);
    assert!(
        message.contains("TooManyVms: expected quota, got transient"),
        "{message}"
    );
    let report = assert_failures(Defect::DropsMessage, &[Check::ErrorClasses], |_| {}).await;
    assert!(
        failure(&report, Check::ErrorClasses)
            .0
            .contains("message of the cloud is missing"),
        "{report}"
    );

    // Every create of this driver returns an error although an instance was created, so the batch
    // check has no ids to destroy.
    let checks = [
        Check::Create,
        Check::LostCreate,
        Check::Batch,
        Check::Cleanup,
    ];
    let report = assert_failures(Defect::CreatesButFails, &checks, |_| {}).await;
    let (message, _) = failure(&report, Check::Create);
    assert!(
        message.contains("definite failure") && message.contains("connection reset"),
        "{message}"
    );
    assert!(
        failure(&report, Check::Cleanup)
            .0
            .contains("never reported"),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn suite_detects_lost_response_defects() {
    for (defect, expected) in [
        (
            Defect::LostResponseIsPermanent,
            "must be ambiguous, but the driver returned: ",
        ),
        (Defect::LostResponseIsSuccess, "the driver returned success"),
    ] {
        let report = assert_failures(defect, &[Check::LostCreate], |_| {}).await;
        let (message, _) = failure(&report, Check::LostCreate);
        assert!(message.contains(expected), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn suite_detects_batch_and_price_defects() {
    let short = |timeouts: &mut Timeouts| timeouts.visible = Duration::from_millis(200);
    let report = assert_failures(Defect::BatchOutOfOrder, &[Check::Batch], short).await;
    assert!(
        failure(&report, Check::Batch).0.contains("InstanceIntent"),
        "{report}"
    );
    for (defect, expected) in [
        (Defect::PricesUnsorted, "not sorted by time"),
        (Defect::NoSpotPrices, "no spot price"),
        (Defect::PricesOnDemand, "is on demand"),
    ] {
        let report = assert_failures(defect, &[Check::Prices], |_| {}).await;
        let (message, _) = failure(&report, Check::Prices);
        assert!(message.contains(expected), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_command_output_is_reported() {
    let mut harness = LoopbackHarness::new(Defect::None);
    harness.command = Some(Err("no such disk"));
    let report = harness.run_suite(Options::default()).await;
    assert_eq!(report.failures(), [Check::Command], "{report}");
    assert_eq!(
        failure(&report, Check::Command),
        ("no such disk", &[Hint::Command][..])
    );
}

/// Requests a stop after a check.
struct StopAfter<'a>(&'a LoopbackHarness, Check);

impl Progress for StopAfter<'_> {
    fn check_started(&self, _: Check) {}
    fn waiting_for(&self, _: &str) {}
    fn check_ended(&self, step: &Step) {
        if step.check == self.1 {
            self.0.stopped.store(true, Ordering::Relaxed);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_at_any_check_cleans_up() {
    for check in [
        Check::List,
        Check::Create,
        Check::Listed,
        Check::Identity,
        Check::Terminated,
    ] {
        let harness = LoopbackHarness::new(Defect::None);
        let report = run(&harness, Options::default(), &StopAfter(&harness, check)).await;
        assert!(report.passed(), "{check:?}\n{report}");
        assert_eq!(harness.running().await, [], "{check:?}\n{report}");
        let after = report.steps.iter().filter(|step| step.check > check);
        let ends = [
            Check::Destroy,
            Check::Terminated,
            Check::DestroyAgain,
            Check::Cleanup,
        ];
        for step in after.filter(|step| !ends.contains(&step.check)) {
            let skipped = matches!(step.outcome, Outcome::Skipped { .. });
            assert!(
                skipped,
                "{:?} after a stop at {check:?}\n{report}",
                step.check
            );
        }
    }
}
