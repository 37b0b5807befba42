//! A cloud that counts how often it is asked.

use async_trait::async_trait;
use longshore_core::config::InstanceType;
use longshore_core::ids::QuotaGroup;
use longshore_core::resources::MicroDollars;
use longshore_driver::{CloudError, CreateSpec, Instance};
use tokio::sync::{mpsc, oneshot};

use super::*;

type Told = Result<BTreeMap<InstanceId, Vec<PricePoint>>, CloudError>;

/// A question, and where its answer goes.
struct Question {
    ids: Vec<String>,
    since: Timestamp,
    answer: oneshot::Sender<Told>,
}

struct Market(mpsc::UnboundedSender<Question>);

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

    async fn prices(&self, instances: &[InstanceId], since: Timestamp) -> Told {
        let (answer, told) = oneshot::channel();
        let ids = instances.iter().map(|id| id.as_str().to_owned()).collect();
        self.0.send(Question { ids, since, answer }).unwrap();
        told.await.unwrap()
    }

    fn remote_user(&self) -> &str {
        "root"
    }

    fn quota_group(&self, _: &InstanceType) -> QuotaGroup {
        QuotaGroup::from("all")
    }
}

struct Bench {
    prices: Arc<Prices>,
    cloud: SharedCloud,
    questions: mpsc::UnboundedReceiver<Question>,
}

impl Bench {
    fn new() -> Self {
        let (sender, questions) = mpsc::unbounded_channel();
        Self {
            prices: Arc::default(),
            cloud: Arc::new(Market(sender)),
            questions,
        }
    }

    fn list(&self, all: &[(&str, u64)]) {
        let all = all.iter().map(|one| wanted(*one)).collect();
        self.prices.listed(&self.cloud, all);
    }

    async fn question(&mut self) -> Question {
        self.questions.recv().await.unwrap()
    }

    /// Waits until nobody asks.
    async fn quiet(&self) {
        drop(self.prices.turn.lock().await);
    }

    fn news(&self, id: &str) -> Option<String> {
        let news = self.prices.news(&InstanceId::from(id))?;
        Some(String::from_utf8(news.to_vec()).unwrap())
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
async fn a_vm_is_told_once_and_again_when_it_changes() {
    let mut bench = Bench::new();
    bench.list(&[("i-1", 70), ("i-2", 50)]);
    let question = bench.question().await;
    assert_eq!(question.ids, ["i-1", "i-2"]);
    assert_eq!(question.since, at(50), "as far back as the oldest needs");
    question.answer.send(Ok(cost("i-1", 31_200))).unwrap();
    bench.quiet().await;
    let document = r#"[{"Price":0.0312,"StartTime":"1970-01-01T00:01:00Z"}]"#;
    assert_eq!(bench.news("i-1").as_deref(), Some(document));
    assert_eq!(bench.news("i-2"), None, "it costs what is configured");
    bench
        .prices
        .told(&"i-1".into(), &Bytes::from_static(b"older"));
    assert!(bench.news("i-1").is_some());
    bench.prices.told(&"i-1".into(), &Bytes::from(document));
    assert_eq!(bench.news("i-1"), None);

    for (micros, news) in [(31_200, false), (31_300, true)] {
        bench.list(&[("i-1", 70)]);
        let question = bench.question().await;
        question.answer.send(Ok(cost("i-1", micros))).unwrap();
        bench.quiet().await;
        assert_eq!(bench.news("i-1").is_some(), news, "{micros}");
    }
    bench.list(&[("i-2", 50)]);
    assert_eq!(bench.news("i-1"), None, "what is gone is forgotten");
}

#[tokio::test]
async fn what_comes_during_a_question_goes_together_in_the_next() {
    let mut bench = Bench::new();
    bench.list(&[("i-1", 70)]);
    let first = bench.question().await;
    for id in ["i-2", "i-3"] {
        bench.prices.made(&bench.cloud, wanted((id, 80)));
    }
    first.answer.send(Ok(BTreeMap::new())).unwrap();
    let second = bench.question().await;
    assert_eq!(second.ids, ["i-2", "i-3"]);
    second.answer.send(Ok(BTreeMap::new())).unwrap();
    bench.quiet().await;
    assert!(bench.questions.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_cloud_that_does_not_tell_is_left_alone_for_a_while() {
    let mut bench = Bench::new();
    bench.list(&[("i-1", 70)]);
    let refusal = CloudError::Permanent {
        message: "not allowed".to_owned(),
    };
    let question = bench.question().await;
    question.answer.send(Err(refusal)).unwrap();
    bench.quiet().await;
    for _ in 0..3 {
        bench.list(&[("i-1", 70)]);
        tokio::time::advance(PAUSE / 4).await;
        bench.quiet().await;
    }
    assert!(bench.questions.try_recv().is_err());
    tokio::time::advance(PAUSE).await;
    bench.list(&[("i-1", 70)]);
    assert_eq!(bench.question().await.ids, ["i-1"]);
}

#[tokio::test]
async fn a_cloud_of_fixed_prices_is_never_asked() {
    let mut bench = Bench::new();
    bench.list(&[]);
    tokio::task::yield_now().await;
    assert!(bench.questions.try_recv().is_err());
}

#[test]
fn it_matters_from_the_wish_on() {
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
    assert_eq!(since(Some(IntentId::new(u128::MAX))), now, "nonsense");
    assert_eq!(since(None), now - PAST, "somebody else made it");
}
