//! Malformed responses: every call returns a result or an error, without a panic.

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

/// Calls of the driver with EC2's name.
const CALLS: [(&str, &str); 6] = [
    ("create", "RunInstances"),
    ("list", "DescribeInstances"),
    ("tag", "CreateTags"),
    ("destroy", "TerminateInstances"),
    ("prices", "DescribeSpotPriceHistory"),
    ("key", "DescribeKeyPairs"),
];

/// Error response, mutated like the successful responses.
const ERROR_RESPONSE: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error>\
    <Code>InvalidInstanceID.NotFound</Code><Message>The instance ID 'i-1' does not exist</Message>\
    </Error></Errors><RequestID>59dbff89-35bd-4eac-99ed-be587EXAMPLE</RequestID></Response>";

/// Mutation of a text, at positions relative to its length.
#[derive(Clone, Debug)]
enum Edit {
    Cut(Index),
    Remove(Index, usize),
    Insert(Index, Vec<u8>),
    Repeat(Index, Index),
    /// Replaces the text between two tags.
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

/// Replacement of a number, a time or a name.
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

/// Body of a response: arbitrary bytes, or a mutated response of EC2.
#[derive(Clone, Debug)]
enum Body {
    Anything(Vec<u8>),
    Mutated { error: bool, edits: Vec<Edit> },
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        1 => any::<Vec<u8>>().prop_map(Body::Anything),
        1 => "(<[a-zA-Z]{1,8}/?>|</[a-zA-Z]{1,8}>|&[a-z]{0,4};|[a-z ]{1,5}){0,30}"
            .prop_map(|text| Body::Anything(text.into_bytes())),
        4 => (any::<bool>(), prop::collection::vec(edit(), 0..4))
            .prop_map(|(error, edits)| Body::Mutated { error, edits }),
    ]
}

fn status() -> impl Strategy<Value = u16> {
    let others = prop::sample::select(vec![204_u16, 302, 400, 403, 404, 429, 500, 502, 503, 599]);
    prop_oneof![2 => Just(200_u16), 3 => others]
}

struct Fixture {
    ec2: Ec2,
    cloud: Ec2Cloud,
    /// Valid responses by action.
    answers: BTreeMap<&'static str, String>,
    spot: InstanceId,
}

fn hold_tag() -> BTreeMap<String, String> {
    BTreeMap::from([(tag::IDLE_BEHAVIOR.to_owned(), "hold".to_owned())])
}

impl Fixture {
    async fn new() -> Self {
        let ec2 = Ec2::start().await;
        // Short, so that prices are queried in each call.
        let cloud = ec2.cloud_with(json!({"SpotPriceUpdateInterval": "1ns"}));
        let mut spec = ec2.spec();
        spec.instance_type.preemptible = true;
        spec.instance_type.added_scratch = 1 << 30;
        let spot = cloud.create(spec).await.unwrap().id;
        cloud.list().await.unwrap();
        cloud.set_tags(&spot, hold_tag()).await.unwrap();
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

    /// Makes a driver call with this response to all its requests and returns the class of the
    /// result.
    async fn call_with_response(
        &self,
        call: &str,
        action: &str,
        status: u16,
        body: &Body,
    ) -> &'static str {
        let text = match body {
            Body::Anything(bytes) => bytes.clone(),
            Body::Mutated { error, edits } => {
                let text = match error {
                    true => ERROR_RESPONSE,
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
        proxy.clear_faults();
        kind
    }

    async fn call(&self, call: &str) -> Result<(), CloudError> {
        let (ec2, cloud) = (&self.ec2, &self.cloud);
        match call {
            "create" => {
                let created = cloud.create(ec2.spec()).await?;
                assert!(!created.id.as_str().is_empty());
                Ok(())
            }
            "list" => cloud.list().await.map(drop),
            "tag" => cloud.set_tags(&self.spot, hold_tag()).await,
            "destroy" => cloud.destroy(&self.spot).await,
            "prices" => {
                let ids = std::slice::from_ref(&self.spot);
                cloud.prices(ids, Timestamp::EPOCH).await.map(drop)
            }
            // A new key is looked up.
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
fn any_response_gives_result_or_one_error() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fixture = runtime.block_on(Fixture::new());
    let mut runner = TestRunner::new(Config {
        cases: 400,
        failure_persistence: None,
        ..Config::default()
    });
    let case = (prop::sample::select(CALLS.to_vec()), status(), body());
    let kinds = Mutex::new(BTreeSet::new());
    let checked = runner.run(&case, |((call, action), status, body)| {
        let kind = runtime.block_on(fixture.call_with_response(call, action, status, &body));
        kinds.lock().unwrap().insert(kind);
        let read_only = ["list", "prices", "key"].contains(&call);
        prop_assert!(!read_only || kind != "ambiguous", "{call} changes nothing");
        // Destroying a terminated instance succeeds.
        let refused = status >= 300 && call != "destroy";
        prop_assert!(!refused || kind != "ok", "{call} was refused");
        Ok(())
    });
    checked.unwrap();
    let kinds = kinds.into_inner().unwrap();
    for kind in [
        "ok",
        "transient",
        "ambiguous",
        "permanent",
        "rate",
        "not found",
    ] {
        assert!(kinds.contains(kind), "{kind} is not in {kinds:?}");
    }
    // A valid response is processed normally afterwards. (A malformed list may have removed
    // recorded instances, and a malformed create may have added some; neither is checked here.)
    let seen = runtime.block_on(fixture.cloud.list()).unwrap();
    let running = seen.iter().filter(|instance| !instance.terminated);
    assert_eq!(running.map(|i| &i.id).collect::<Vec<_>>(), [&fixture.spot]);
}
