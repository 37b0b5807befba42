//! The suite for drivers, over real VMs of this host: it passes what is right and fails what is
//! wrong, at the right point.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use longshore_core::ids::InstanceId;
use longshore_driver::conformance::{
    Bench, Check, CommandError, Fault, InjectError, Outcome, Patience, Plan, Point, Progress,
    Promises, Proof, Refusal, Report, Silent, Step, run,
};
use longshore_driver::{Cloud as _, CreateSpec, ErrorClass, Instance, Operation, SharedCloud};
use longshore_driver_loopback::LoopbackCloud;
use russh::keys::PrivateKey;

use crate::support::{Client, Host, PATIENCE, key, log_in, marked, spec};
use crate::wrong::{State, Wrong, WrongCloud};

const SET: &str = "set-a";

/// Loopback VMs behind a driver that may be wrong.
struct LoopBench {
    host: Host,
    key: Arc<PrivateKey>,
    cloud: WrongCloud,
    other: WrongCloud,
    specs: AtomicU64,
    stopped: AtomicBool,
    patience: Patience,
    expected_owner: &'static str,
    command: Option<Result<&'static str, &'static str>>,
}

impl LoopBench {
    fn new(wrong: Wrong) -> Self {
        let host = Host::new();
        let [ours, others] = [SET, "set-b"].map(|set| host.cloud_of(set, host.params()));
        let double = |inner: &LoopbackCloud, elsewhere: &LoopbackCloud| WrongCloud {
            wrong,
            inner: inner.clone(),
            elsewhere: elsewhere.clone(),
            state: Arc::new(Mutex::new(State::default())),
        };
        Self {
            cloud: double(&ours, &others),
            other: double(&others, &ours),
            host,
            key: key(),
            specs: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            patience: Patience {
                call: PATIENCE,
                appear: PATIENCE,
                address: PATIENCE,
                boot: PATIENCE,
                gone: PATIENCE,
                settle: Duration::from_millis(50),
                pause: Duration::from_millis(50),
                again: PATIENCE,
            },
            expected_owner: "somebody",
            command: None,
        }
    }

    async fn prove_with(&self, plan: Plan) -> Report {
        run(self, plan, &Silent).await
    }

    async fn client(&self, instance: &Instance) -> Result<Client, String> {
        let address = instance.address.as_deref().ok_or("no address")?;
        let user = self.cloud.remote_user();
        let client = log_in(address, user, &self.key).await;
        client.ok_or_else(|| "login refused".to_owned())
    }

    /// Living VMs of both sets, by the real driver.
    async fn living(&self) -> Vec<InstanceId> {
        let mut living = Vec::new();
        for cloud in [&self.cloud, &self.other] {
            let seen = cloud.inner.list().await.unwrap();
            living.extend(seen.into_iter().filter(|i| !i.terminated).map(|i| i.id));
        }
        living
    }
}

#[async_trait]
impl Bench for LoopBench {
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
        spec.instance_type.preemptible = self.cloud.wrong != Wrong::PricesWhatIsFixed;
        Ok(spec)
    }

    async fn prove(&self, instance: &Instance) -> Result<Proof, String> {
        let client = self.client(instance).await?;
        let command = format!("cat \"{}\"", self.cloud.secret_path());
        let output = client.run(&command).await;
        if output.text() != instance.secret.expose() {
            return Err("it shows another secret".to_owned());
        }
        Ok(Proof {
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
            None => Err(CommandError::NotWanted),
            Some(Ok(words)) => Ok(words.to_owned()),
            Some(Err(words)) => Err(CommandError::Failed(words.to_owned())),
        }
    }

    async fn tags_seen_otherwise(
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

    fn refusals(&self) -> Vec<Refusal> {
        let refusal = |code: &str, operation, class| Refusal {
            code: code.to_owned(),
            message: format!("The cloud says {code}."),
            operation,
            class,
        };
        vec![
            refusal("TooManyVms", Operation::Create, ErrorClass::Quota),
            refusal("NoRoom", Operation::Create, ErrorClass::Capacity),
            refusal("NotYou", Operation::Create, ErrorClass::Permanent),
            refusal("Slower", Operation::List, ErrorClass::RateLimited),
            refusal("Oops", Operation::SetTags, ErrorClass::Transient),
            refusal("Who", Operation::SetTags, ErrorClass::NotFound),
            refusal("Who", Operation::Destroy, ErrorClass::NotFound),
            refusal("Broken", Operation::Destroy, ErrorClass::Ambiguous),
        ]
    }

    fn promises(&self) -> Promises {
        Promises {
            idempotent_create: true,
            batches: true,
            market_prices: true,
        }
    }

    fn patience(&self) -> Patience {
        self.patience
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

/// Runs the suite against a driver that is wrong in this way. It must miss these points and no
/// others, and destroy what it made.
async fn misses(wrong: Wrong, points: &[Point], patience: impl FnOnce(&mut Patience)) -> Report {
    let mut bench = LoopBench::new(wrong);
    patience(&mut bench.patience);
    let report = bench.prove_with(Plan::default()).await;
    assert_eq!(report.failures(), points, "{wrong:?}\n{report}");
    assert_eq!(bench.living().await, [], "{wrong:?}\n{report}");
    report
}

fn words(report: &Report, point: Point) -> (&str, &[Check]) {
    match report.outcome(point) {
        Some(Outcome::Failed { words, check }) => (words, check),
        other => panic!("{point:?}: {other:?}\n{report}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loopback_driver_keeps_the_contract() {
    let mut bench = LoopBench::new(Wrong::No);
    bench.command = Some(Ok("hello"));
    let report = bench.prove_with(Plan::default()).await;
    assert!(report.passed(), "{report}");
    let tried: Vec<Point> = report.steps.iter().map(|step| step.point).collect();
    assert_eq!(tried, Point::ALL, "each once, in order");
    let skipped = |step: &&Step| matches!(step.outcome, Outcome::Skipped { .. });
    let skipped: Vec<Point> = report
        .steps
        .iter()
        .filter(skipped)
        .map(|s| s.point)
        .collect();
    assert_eq!(skipped, [Point::Pause], "{report}");
    assert_eq!(bench.living().await, []);
    assert_eq!(marked(&bench.host.path()), Vec::<i32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_tags_is_noticed() {
    let soon = |patience: &mut Patience| patience.appear = Duration::from_millis(200);
    // The batch looks at tags too.
    let with_batch = [Point::Tags, Point::Batch];
    let report = misses(Wrong::ForgetsTypeTag, &with_batch, soon).await;
    assert_eq!(words(&report, Point::Tags).0, "InstanceType is missing");
    let report = misses(Wrong::ListsOtherSecret, &with_batch, soon).await;
    assert_eq!(words(&report, Point::Tags).0, "InstanceSecret is another");
    let report = misses(Wrong::RetagReplaces, &[Point::Retag], soon).await;
    assert_eq!(words(&report, Point::Retag).0, "InstanceType is missing");
    let report = misses(Wrong::RetagDoesNothing, &[Point::Retag], soon).await;
    assert!(
        words(&report, Point::Retag)
            .0
            .contains("IdleBehavior is \"run\""),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_resource_tag_is_noticed() {
    let mut bench = LoopBench::new(Wrong::No);
    bench.expected_owner = "somebody else";
    let report = bench.prove_with(Plan::default()).await;
    assert_eq!(report.failures(), [Point::Tags], "{report}");
    assert!(words(&report, Point::Tags).0.contains("Owner"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_lists_is_noticed() {
    let soon = |patience: &mut Patience| patience.appear = Duration::from_millis(200);
    // What is never seen is not found after a lost answer, nor in a batch.
    let unseen = [Point::Listed, Point::LostCreate, Point::Batch];
    let bench = {
        let mut bench = LoopBench::new(Wrong::NeverLists);
        soon(&mut bench.patience);
        bench
    };
    let report = bench.prove_with(Plan::default()).await;
    assert_eq!(report.failures(), unseen, "{report}");
    misses(Wrong::ListsTwice, &[Point::Listed], |_| {}).await;
    let report = misses(Wrong::ListsOthers, &[Point::OtherSet], |_| {}).await;
    assert!(
        words(&report, Point::OtherSet).0.contains("set-a"),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_of_another_set_is_noticed_and_left_alone() {
    let bench = LoopBench::new(Wrong::ListsOthers);
    let made = bench
        .other
        .inner
        .create(spec(99, &bench.key))
        .await
        .unwrap();
    let plan = Plan {
        destroy_existing: true,
    };
    let report = bench.prove_with(plan).await;
    assert_eq!(report.failures(), [Point::Leftovers], "{report}");
    assert!(
        words(&report, Point::Leftovers).0.contains("set-b"),
        "{report}"
    );
    assert_eq!(bench.living().await, std::slice::from_ref(&made.id));
    bench.other.inner.destroy(&made.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_end_the_run_unless_they_are_to_be_destroyed() {
    let bench = LoopBench::new(Wrong::No);
    let left = bench
        .cloud
        .inner
        .create(spec(99, &bench.key))
        .await
        .unwrap();
    let report = bench.prove_with(Plan::default()).await;
    assert_eq!(report.failures(), [Point::Leftovers], "{report}");
    let (said, check) = words(&report, Point::Leftovers);
    assert!(said.contains(left.id.as_str()), "{said}");
    assert_eq!(check, [Check::Leftovers]);
    assert_eq!(bench.specs.load(Ordering::Relaxed), 0, "nothing was made");
    assert_eq!(bench.living().await, std::slice::from_ref(&left.id));

    let plan = Plan {
        destroy_existing: true,
    };
    let report = bench.prove_with(plan).await;
    assert!(report.passed(), "{report}");
    assert_eq!(bench.living().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_cannot_be_reached_or_trusted_is_noticed() {
    let soon = |patience: &mut Patience| patience.address = Duration::from_millis(200);
    let report = misses(Wrong::NoAddress, &[Point::Address], soon).await;
    let skipped = report.outcome(Point::Identity).unwrap();
    assert!(matches!(skipped, Outcome::Skipped { .. }), "{report}");
    // Long enough for it to boot, so that it is asked.
    let soon = |patience: &mut Patience| patience.boot = Duration::from_secs(1);
    let report = misses(Wrong::BootsOtherSecret, &[Point::Identity], soon).await;
    let (said, check) = words(&report, Point::Identity);
    assert!(said.contains("another secret"), "{said}");
    assert_eq!(check[0], Check::InitScript);
    misses(Wrong::OtherHostKey, &[Point::HostKey], |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_vm_for_one_token_is_noticed_and_destroyed() {
    for wrong in [Wrong::TwoForOneToken, Wrong::SecretlyTwoForOneToken] {
        let report = misses(wrong, &[Point::DuplicateToken, Point::LostCreate], |_| {}).await;
        for point in [Point::DuplicateToken, Point::LostCreate] {
            assert!(words(&report, point).0.contains(" beside "), "{report}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_end_is_noticed() {
    misses(Wrong::SecondDestroyFails, &[Point::DestroyAgain], |_| {}).await;

    let mut bench = LoopBench::new(Wrong::DestroysNothing);
    bench.patience.gone = Duration::from_millis(300);
    bench.patience.again = Duration::from_millis(100);
    let report = bench.prove_with(Plan::default()).await;
    let still_there = [Point::Gone, Point::LostCreate, Point::Batch, Point::Empty];
    assert_eq!(report.failures(), still_there, "{report}");
    let (said, check) = words(&report, Point::Empty);
    for id in bench.living().await {
        assert!(said.contains(id.as_str()), "{said}");
    }
    assert_eq!(check, [Check::ByHand]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_errors_is_noticed() {
    let report = misses(Wrong::QuotaIsTransient, &[Point::Refusals], |_| {}).await;
    let (said, _) = words(&report, Point::Refusals);
    assert!(
        said.contains("TooManyVms: must be quota, it is transient"),
        "{said}"
    );
    let report = misses(Wrong::DropsWords, &[Point::Refusals], |_| {}).await;
    assert!(
        words(&report, Point::Refusals).0.contains("own words"),
        "{report}"
    );

    // Each create of this one is refused though it was done, so a batch has no names to destroy.
    let points = [Point::Create, Point::LostCreate, Point::Batch, Point::Empty];
    let report = misses(Wrong::DoneButRefused, &points, |_| {}).await;
    let (said, _) = words(&report, Point::Create);
    assert!(
        said.contains("for sure") && said.contains("connection reset"),
        "{said}"
    );
    assert!(
        words(&report, Point::Empty).0.contains("never said so"),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_lost_answer_is_noticed() {
    for (wrong, expected) in [
        (Wrong::LostIsPermanent, "must be an unknown outcome"),
        (Wrong::LostIsDone, "says that all went well"),
    ] {
        let report = misses(wrong, &[Point::LostCreate], |_| {}).await;
        let (said, _) = words(&report, Point::LostCreate);
        assert!(said.contains(expected), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_batches_and_prices_is_noticed() {
    let soon = |patience: &mut Patience| patience.appear = Duration::from_millis(200);
    let report = misses(Wrong::BatchOutOfOrder, &[Point::Batch], soon).await;
    assert!(
        words(&report, Point::Batch).0.contains("InstanceIntent"),
        "{report}"
    );
    for (wrong, expected) in [
        (Wrong::PricesBackwards, "order of time"),
        (Wrong::TellsNoPrices, "has no price"),
        (Wrong::PricesWhatIsFixed, "the price is fixed"),
    ] {
        let report = misses(wrong, &[Point::Prices], |_| {}).await;
        let (said, _) = words(&report, Point::Prices);
        assert!(said.contains(expected), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_fails_is_told_in_its_words() {
    let mut bench = LoopBench::new(Wrong::No);
    bench.command = Some(Err("no such disk"));
    let report = bench.prove_with(Plan::default()).await;
    assert_eq!(report.failures(), [Point::Command], "{report}");
    assert_eq!(
        words(&report, Point::Command),
        ("no such disk", &[Check::Command][..])
    );
}

/// Stops the run once a point has been tried.
struct StopAfter<'a>(&'a LoopBench, Point);

impl Progress for StopAfter<'_> {
    fn began(&self, _: Point) {}
    fn note(&self, _: &str) {}
    fn ended(&self, step: &Step) {
        if step.point == self.1 {
            self.0.stopped.store(true, Ordering::Relaxed);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_at_any_point_leaves_nothing_behind() {
    for point in [
        Point::List,
        Point::Create,
        Point::Listed,
        Point::Identity,
        Point::Gone,
    ] {
        let bench = LoopBench::new(Wrong::No);
        let report = run(&bench, Plan::default(), &StopAfter(&bench, point)).await;
        assert!(report.passed(), "{point:?}\n{report}");
        assert_eq!(bench.living().await, [], "{point:?}\n{report}");
        let after = report.steps.iter().filter(|step| step.point > point);
        let ends = [
            Point::Destroy,
            Point::Gone,
            Point::DestroyAgain,
            Point::Empty,
        ];
        for step in after.filter(|step| !ends.contains(&step.point)) {
            let skipped = matches!(step.outcome, Outcome::Skipped { .. });
            assert!(
                skipped,
                "{:?} after a stop at {point:?}\n{report}",
                step.point
            );
        }
    }
}
