//! Answers that no EC2 would give: whatever comes, each call has one answer and nothing breaks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use longshore_core::ids::InstanceId;
use longshore_core::time::Timestamp;
use longshore_driver::{Cloud as _, CloudError, tag};
use longshore_driver_ec2::Ec2Cloud;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use crate::support::proxy::Effect;
use crate::support::{Ec2, key, kind};

/// A call of the driver, and what EC2 calls it.
const CALLS: [(&str, &str); 6] = [
    ("create", "RunInstances"),
    ("list", "DescribeInstances"),
    ("tag", "CreateTags"),
    ("destroy", "TerminateInstances"),
    ("prices", "DescribeSpotPriceHistory"),
    ("key", "DescribeKeyPairs"),
];

/// Where the answers to mutate come from: EC2's refusals are answers too.
const REFUSAL: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error>\
    <Code>InvalidInstanceID.NotFound</Code><Message>The instance ID 'i-1' does not exist</Message>\
    </Error></Errors><RequestID>59dbff89-35bd-4eac-99ed-be587EXAMPLE</RequestID></Response>";

/// A change to a text, at places that count from its length.
#[derive(Clone, Debug)]
enum Edit {
    Cut(Index),
    Remove(Index, usize),
    Insert(Index, Vec<u8>),
    Repeat(Index, Index),
    /// What stands between two tags becomes this.
    Value(Index, String),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        any::<Index>().prop_map(Edit::Cut),
        (any::<Index>(), 1..200_usize).prop_map(|(at, count)| Edit::Remove(at, count)),
        (any::<Index>(), any::<Vec<u8>>()).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        any::<(Index, Index)>().prop_map(|(from, to)| Edit::Repeat(from, to)),
        (any::<Index>(), value()).prop_map(|(at, text)| Edit::Value(at, text)),
    ]
}

/// What may stand where EC2 has a number, a time or a name.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("99999999999999999999999".to_owned()),
        Just("-1".to_owned()),
        Just("NaN".to_owned()),
        Just("9999-12-31T23:59:59.999Z".to_owned()),
        Just("0000-00-00T00:00:00Z".to_owned()),
        "\\PC{0,40}",
    ]
}

fn edited(mut text: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    for edit in edits {
        let len = text.len();
        let at = |index: &Index| index.index(len + 1);
        match edit {
            Edit::Cut(index) => text.truncate(at(index)),
            Edit::Remove(index, count) => {
                let from = at(index);
                drop(text.drain(from..len.min(from + count)));
            }
            Edit::Insert(index, bytes) => {
                let from = at(index);
                text.splice(from..from, bytes.iter().copied());
            }
            Edit::Repeat(one, other) => {
                let (one, other) = (at(one), at(other));
                let part = text[one.min(other)..one.max(other)].to_vec();
                text.splice(one..one, part);
            }
            Edit::Value(index, value) => {
                let opened: Vec<usize> = (0..len).filter(|n| text[*n] == b'>').collect();
                if opened.is_empty() {
                    continue;
                }
                let from = opened[index.index(opened.len())] + 1;
                let until = text[from..].iter().position(|byte| *byte == b'<');
                text.splice(from..until.map_or(len, |n| from + n), value.bytes());
            }
        }
    }
    text
}

/// What comes instead of an answer: anything, or an answer of EC2 that somebody has meddled with.
#[derive(Clone, Debug)]
enum Body {
    Anything(Vec<u8>),
    Meddled { refusal: bool, edits: Vec<Edit> },
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        1 => any::<Vec<u8>>().prop_map(Body::Anything),
        1 => "(<[a-zA-Z]{1,8}/?>|</[a-zA-Z]{1,8}>|&[a-z]{0,4};|[a-z ]{1,5}){0,30}"
            .prop_map(|text| Body::Anything(text.into_bytes())),
        4 => (any::<bool>(), prop::collection::vec(edit(), 0..4))
            .prop_map(|(refusal, edits)| Body::Meddled { refusal, edits }),
    ]
}

fn status() -> impl Strategy<Value = u16> {
    let others = prop::sample::select(vec![204_u16, 302, 400, 403, 404, 429, 500, 502, 503, 599]);
    prop_oneof![2 => Just(200_u16), 3 => others]
}

struct Bench {
    ec2: Ec2,
    cloud: Ec2Cloud,
    /// EC2's own answers, by action.
    answers: BTreeMap<&'static str, String>,
    spot: InstanceId,
}

fn held() -> BTreeMap<String, String> {
    BTreeMap::from([(tag::IDLE_BEHAVIOR.to_owned(), "hold".to_owned())])
}

impl Bench {
    async fn new() -> Self {
        let ec2 = Ec2::start().await;
        // So short that prices are asked for each time.
        let cloud = ec2.cloud_with(json!({"SpotPriceUpdateInterval": "1ns"}));
        let mut spec = ec2.spec();
        spec.instance_type.preemptible = true;
        spec.instance_type.added_scratch = 1 << 30;
        let spot = cloud.create(spec).await.unwrap().id;
        cloud.list().await.unwrap();
        cloud.set_tags(&spot, held()).await.unwrap();
        let ids = std::slice::from_ref(&spot);
        cloud.prices(ids, Timestamp::EPOCH).await.unwrap();
        let ended = cloud.create(ec2.spec()).await.unwrap().id;
        cloud.destroy(&ended).await.unwrap();
        let answer = |(_, action)| (action, ec2.proxy.answer(action));
        let answers = CALLS.map(answer).into();
        Self {
            ec2,
            cloud,
            answers,
            spot,
        }
    }

    /// Makes a call that is answered so, once for all that the driver tries, and says what came of it.
    async fn answered(&self, call: &str, action: &str, status: u16, body: &Body) -> &'static str {
        let text = match body {
            Body::Anything(bytes) => bytes.clone(),
            Body::Meddled { refusal, edits } => {
                let text = match refusal {
                    true => REFUSAL,
                    false => &self.answers[action],
                };
                edited(text.as_bytes().to_vec(), edits)
            }
        };
        let proxy = &self.ec2.proxy;
        let effect = Effect::Bytes(status, text);
        proxy.fault(action, None, usize::MAX, effect);
        let before = proxy.calls(action).len();
        let kind = kind(&self.call(call).await);
        let calls = proxy.calls(action).len() - before;
        assert!((1..=3).contains(&calls), "{calls} times {action}");
        proxy.heal();
        kind
    }

    async fn call(&self, call: &str) -> Result<(), CloudError> {
        let (ec2, cloud) = (&self.ec2, &self.cloud);
        match call {
            "create" => {
                let made = cloud.create(ec2.spec()).await?;
                assert!(!made.id.as_str().is_empty());
                Ok(())
            }
            "list" => cloud.list().await.map(drop),
            "tag" => cloud.set_tags(&self.spot, held()).await,
            "destroy" => cloud.destroy(&self.spot).await,
            "prices" => {
                let ids = std::slice::from_ref(&self.spot);
                cloud.prices(ids, Timestamp::EPOCH).await.map(drop)
            }
            // A key that was not heard of before is looked for.
            _ => {
                let mut spec = ec2.spec();
                spec.public_key = Some(key().public_key().to_openssh().unwrap());
                ec2.proxy.refuse("RunInstances", "RequestLimitExceeded");
                cloud.create(spec).await.map(drop)
            }
        }
    }
}

#[test]
fn any_answer_is_an_answer_or_exactly_one_error() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bench = runtime.block_on(Bench::new());
    let mut runner = TestRunner::new(Config {
        cases: 400,
        failure_persistence: None,
        ..Config::default()
    });
    let case = (prop::sample::select(CALLS.to_vec()), status(), body());
    let met = Mutex::new(BTreeSet::new());
    let checked = runner.run(&case, |((call, action), status, body)| {
        let kind = runtime.block_on(bench.answered(call, action, status, &body));
        met.lock().unwrap().insert(kind);
        let looks = ["list", "prices", "key"].contains(&call);
        prop_assert!(!looks || kind != "ambiguous", "{call} changes nothing");
        // A destroy of what is gone is success.
        let refused = status >= 300 && call != "destroy";
        prop_assert!(!refused || kind != "ok", "{call} was refused");
        Ok(())
    });
    checked.unwrap();
    let met = met.into_inner().unwrap();
    for kind in [
        "ok",
        "transient",
        "ambiguous",
        "permanent",
        "rate",
        "not found",
    ] {
        assert!(met.contains(kind), "{kind} is not among {met:?}");
    }
    // Nothing of it stays: the next true answer is taken as it is. A garbled list may have made the
    // driver forget, a garbled create remember; neither is asked about here.
    let seen = runtime.block_on(bench.cloud.list()).unwrap();
    let living = seen.iter().filter(|instance| !instance.terminated);
    assert_eq!(living.map(|i| &i.id).collect::<Vec<_>>(), [&bench.spot]);
}
