//! Tests against a cloud with a counter of price requests.

use async_trait::async_trait;
use longshore_core::config::InstanceType;
use longshore_core::ids::QuotaGroup;
use longshore_core::resources::MicroDollars;
use longshore_driver::{CloudError, CreateSpec, Instance};
use tokio::sync::{mpsc, oneshot};

use super::*;

type PriceResult = Result<BTreeMap<InstanceId, Vec<PricePoint>>, CloudError>;

/// Price request, with a sender for the answer.
struct PriceRequest {
    ids: Vec<String>,
    since: Timestamp,
    answer: oneshot::Sender<PriceResult>,
}

struct Market(mpsc::UnboundedSender<PriceRequest>);

#[async_trait]
impl Cloud for Market {
    async fn create(&self, _: CreateSpec) -> Result<Instance, CloudError> {
        std::future::pending().await
    }

    async fn list(&self) -> Result<Vec<Instance>, CloudError> {
        std::future::pending().await
    }

    async fn set_tags(
        &self,
        _: &InstanceId,
        _: BTreeMap<String, String>,
    ) -> Result<(), CloudError> {
        Ok(())
    }

    async fn destroy(&self, _: &InstanceId) -> Result<(), CloudError> {
        Ok(())
    }

    async fn prices(&self, instances: &[InstanceId], since: Timestamp) -> PriceResult {
        let (answer, result) = oneshot::channel();
        let ids = instances.iter().map(|id| id.as_str().to_owned()).collect();
        self.0.send(PriceRequest { ids, since, answer }).unwrap();
        result.await.unwrap()
    }

    fn remote_user(&self) -> &str {
        "root"
    }

    fn quota_group(&self, _: &InstanceType) -> QuotaGroup {
        QuotaGroup::from("all")
    }
}

struct Harness {
    prices: Arc<Prices>,
    cloud: SharedCloud,
    requests: mpsc::UnboundedReceiver<PriceRequest>,
}

impl Harness {
    fn new() -> Self {
        let (sender, requests) = mpsc::unbounded_channel();
        Self {
            prices: Arc::default(),
            cloud: Arc::new(Market(sender)),
            requests,
        }
    }

    fn list(&self, all: &[(&str, u64)]) {
        let all = all.iter().map(|one| wanted(*one)).collect();
        self.prices.listed(&self.cloud, all);
    }

    async fn request(&mut self) -> PriceRequest {
        self.requests.recv().await.unwrap()
    }

    /// Waits until no fetch is in flight.
    async fn quiet(&self) {
        drop(self.prices.fetching.lock().await);
    }

    fn update(&self, id: &str) -> Option<String> {
        let update = self.prices.update_for(&InstanceId::from(id))?;
        Some(String::from_utf8(update.to_vec()).unwrap())
    }
}

fn wanted((id, since): (&str, u64)) -> (InstanceId, Timestamp) {
    (InstanceId::from(id), at(since))
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::EPOCH + Duration::from_secs(seconds)
}

fn cost(id: &str, micros: u64) -> BTreeMap<InstanceId, Vec<PricePoint>> {
    let point = PricePoint {
        since: at(60),
        price: MicroDollars(micros),
    };
    BTreeMap::from([(InstanceId::from(id), vec![point])])
}

#[tokio::test]
async fn price_is_delivered_once_per_change() {
    let mut harness = Harness::new();
    harness.list(&[("i-1", 70), ("i-2", 50)]);
    let request = harness.request().await;
    assert_eq!(request.ids, ["i-1", "i-2"]);
    assert_eq!(request.since, at(50), "start of the longest period");
    request.answer.send(Ok(cost("i-1", 31_200))).unwrap();
    harness.quiet().await;
    let document = r#"[{"Price":0.0312,"StartTime":"1970-01-01T00:01:00Z"}]"#;
    assert_eq!(harness.update("i-1").as_deref(), Some(document));
    assert_eq!(harness.update("i-2"), None, "configured price applies");
    harness
        .prices
        .delivered(&"i-1".into(), &Bytes::from_static(b"older"));
    assert!(harness.update("i-1").is_some());
    harness
        .prices
        .delivered(&"i-1".into(), &Bytes::from(document));
    assert_eq!(harness.update("i-1"), None);

    for (micros, changed) in [(31_200, false), (31_300, true)] {
        harness.list(&[("i-1", 70)]);
        let request = harness.request().await;
        request.answer.send(Ok(cost("i-1", micros))).unwrap();
        harness.quiet().await;
        assert_eq!(harness.update("i-1").is_some(), changed, "{micros}");
    }
    harness.list(&[("i-2", 50)]);
    assert_eq!(
        harness.update("i-1"),
        None,
        "vanished instances are forgotten"
    );
}

#[tokio::test]
async fn instances_during_fetch_are_combined() {
    let mut harness = Harness::new();
    harness.list(&[("i-1", 70)]);
    let first = harness.request().await;
    for id in ["i-2", "i-3"] {
        harness.prices.created(&harness.cloud, wanted((id, 80)));
    }
    first.answer.send(Ok(BTreeMap::new())).unwrap();
    let second = harness.request().await;
    assert_eq!(second.ids, ["i-2", "i-3"]);
    second.answer.send(Ok(BTreeMap::new())).unwrap();
    harness.quiet().await;
    assert!(harness.requests.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn failed_fetch_backs_off() {
    let mut harness = Harness::new();
    harness.list(&[("i-1", 70)]);
    let refusal = CloudError::Permanent {
        message: "not allowed".to_owned(),
    };
    let request = harness.request().await;
    request.answer.send(Err(refusal)).unwrap();
    harness.quiet().await;
    for _ in 0..3 {
        harness.list(&[("i-1", 70)]);
        tokio::time::advance(BACKOFF / 4).await;
        harness.quiet().await;
    }
    assert!(harness.requests.try_recv().is_err());
    tokio::time::advance(BACKOFF).await;
    harness.list(&[("i-1", 70)]);
    assert_eq!(harness.request().await.ids, ["i-1"]);
}

#[tokio::test]
async fn fixed_prices_are_never_fetched() {
    let mut harness = Harness::new();
    harness.list(&[]);
    tokio::task::yield_now().await;
    assert!(harness.requests.try_recv().is_err());
}

#[test]
fn period_starts_at_create_request() {
    let instance = Instance {
        id: "i-1".into(),
        address: None,
        terminated: false,
        preempted: false,
        tags: BTreeMap::new(),
        secret: longshore_secret::Secret::default(),
    };
    let now = at(1_000_000);
    let since = |intent| priced(&instance, intent, now).1;
    assert_eq!(since(Some(IntentId::at(at(999_000), 7))), at(999_000));
    assert_eq!(
        since(Some(IntentId::new(u128::MAX))),
        now,
        "time in the future is clamped"
    );
    assert_eq!(
        since(None),
        now - DEFAULT_PERIOD,
        "no create request is known"
    );
}
