//! Error classes over HTTP.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use longshore_core::ids::InstanceId;
use longshore_core::time::Timestamp;
use longshore_driver::{Cloud as _, CloudError, tag};
use longshore_driver_ec2::{Ec2Cloud, Timeouts};
use serde_json::json;

use crate::support::proxy::Effect;
use crate::support::{Ec2, kind};

#[tokio::test(flavor = "multi_thread")]
async fn create_error_codes_have_expected_class() {
    let ec2 = Ec2::start().await;
    let cloud = ec2.cloud();
    for (expected, codes) in [
        (
            "rate",
            "RequestLimitExceeded Throttling ThrottlingException TooManyRequests EC2ThrottledException",
        ),
        (
            "quota",
            "InstanceLimitExceeded VcpuLimitExceeded InsufficientAddressCapacity \
                   InsufficientFreeAddressesInSubnet InsufficientVolumeCapacity MaxSpotInstanceCountExceeded",
        ),
        (
            "capacity",
            "InsufficientInstanceCapacity SpotMaxPriceTooLow",
        ),
        (
            "permanent",
            "AuthFailure UnauthorizedOperation InvalidAMIID.NotFound InvalidAMIID.Unavailable \
                       InvalidGroup.NotFound InvalidParameterValue InvalidSubnetID.NotFound Unsupported",
        ),
        (
            "transient",
            "Unavailable SomethingNew InvalidKeyPair.NotFound",
        ),
        ("ambiguous", "InternalError"),
    ] {
        for code in codes.split_whitespace() {
            ec2.proxy.refuse("RunInstances", code);
            let before = ec2.proxy.calls("RunInstances").len();
            let answer = cloud.create(ec2.spec()).await;
            assert_eq!(kind(&answer), expected, "{code}: {answer:?}");
            let words = answer.unwrap_err().to_string();
            for part in [code, "The cloud says", "req-of-proxy"] {
                assert!(words.contains(part), "{part}: {words}");
            }
            let calls = ec2.proxy.calls("RunInstances").len() - before;
            assert_eq!(calls, 1, "{code} must not be retried by the driver");
        }
    }
    assert_eq!(cloud.list().await.unwrap(), [], "no instance was created");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_calls_have_expected_class() {
    let ec2 = Ec2::start().await;
    let cloud = ec2.cloud();
    let id = InstanceId::from("i-0123456789abcdef0");
    let tags = || BTreeMap::from([(tag::IDLE_BEHAVIOR.to_owned(), "run".to_owned())]);
    for (code, look, change) in [
        ("RequestLimitExceeded", "rate", "rate"),
        ("UnauthorizedOperation", "permanent", "permanent"),
        ("InternalError", "transient", "ambiguous"),
        ("SomethingNew", "transient", "transient"),
    ] {
        for action in ["DescribeInstances", "CreateTags", "TerminateInstances"] {
            ec2.proxy.refuse(action, code);
        }
        // Failed calls for the key pair cannot have created an instance.
        for (answer, expected) in [
            (cloud.list().await.map(drop), look),
            (cloud.set_tags(&id, tags()).await, change),
            (cloud.destroy(&id).await, change),
            (prices(&ec2, code).await, look),
            (key_pair(&ec2, "DescribeKeyPairs", code).await, look),
            (key_pair(&ec2, "ImportKeyPair", code).await, look),
        ] {
            assert_eq!(kind(&answer), expected, "{code}");
            let words = answer.unwrap_err().to_string();
            for part in [code, "The cloud says", "req-of-proxy"] {
                assert!(words.contains(part), "{part}: {words}");
            }
        }
    }
}

/// Create with a failed call for the key pair.
async fn key_pair(ec2: &Ec2, action: &str, code: &str) -> Result<(), CloudError> {
    let mut spec = ec2.spec();
    spec.public_key = Some(crate::support::key().public_key().to_openssh().unwrap());
    ec2.proxy.refuse(action, code);
    ec2.cloud().create(spec).await.map(drop)
}

/// Price query with a failed history call.
async fn prices(ec2: &Ec2, code: &str) -> Result<(), CloudError> {
    let cloud = ec2.cloud();
    let mut spec = ec2.spec();
    spec.instance_type.preemptible = true;
    let spot = cloud.create(spec).await?.id;
    ec2.proxy.refuse("DescribeSpotPriceHistory", code);
    cloud.prices(&[spot], Timestamp::EPOCH).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn call_timeout_is_ambiguous() {
    let ec2 = Ec2::start().await;
    let timeouts = Timeouts {
        connect: Duration::from_secs(10),
        call: Duration::from_millis(500),
    };
    let (settings, params) = (ec2.settings(&ec2.set), ec2.params(json!({})));
    let cloud = Ec2Cloud::with_timeouts(settings, params, timeouts);
    let mut spec = ec2.spec();
    // No calls for key pairs, so that only `RunInstances` is slow.
    spec.public_key = None;
    let gate = ec2.proxy.hold("RunInstances", None);
    let created = cloud.create(spec.clone()).await;
    assert_eq!(kind(&created), "ambiguous", "{created:?}");
    let _gate = ec2.proxy.hold("DescribeInstances", None);
    assert_eq!(kind(&cloud.list().await), "transient");
    // The delayed request is executed now; a repeated create returns the same instance.
    gate.send_replace(true);
    let again = ec2.cloud().create(spec).await.unwrap();
    let seen = ec2.cloud().list().await.unwrap();
    let ids: Vec<_> = seen.into_iter().map(|instance| instance.id).collect();
    assert_eq!(ids, [again.id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_timeout_is_transient() {
    let ec2 = Ec2::start().await;
    // A listener without accepts: the queue of connections is full soon.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let short = Duration::from_millis(300);
    let mut waiting = Vec::new();
    while let Ok(connection) = std::net::TcpStream::connect_timeout(&address, short) {
        waiting.push(connection);
        assert!(waiting.len() < 100, "the accept queue never becomes full");
    }
    let timeouts = Timeouts {
        connect: short,
        call: Duration::from_secs(30),
    };
    let params = ec2.params(json!({"Endpoint": format!("http://{address}")}));
    let cloud = Ec2Cloud::with_timeouts(ec2.settings(&ec2.set), params, timeouts);
    let mut spec = ec2.spec();
    spec.public_key = None;
    let created = cloud.create(spec).await;
    assert_eq!(kind(&created), "transient", "{created:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_header_is_passed_on() {
    let ec2 = Ec2::start().await;
    let cloud = ec2.cloud();
    let code = "RequestLimitExceeded".to_owned();
    let advice = Effect::RefuseUntil(code, "30".to_owned());
    ec2.proxy.fault("DescribeInstances", None, 1, advice);
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = Timestamp::EPOCH + since_epoch;
    let Err(CloudError::RateLimited { until, .. }) = cloud.list().await else {
        panic!("not rate limited");
    };
    let wait = until.unwrap().since(now);
    let half_minute = Duration::from_secs(30)..Duration::from_secs(90);
    assert!(half_minute.contains(&wait), "{wait:?}");

    ec2.proxy
        .refuse("DescribeInstances", "RequestLimitExceeded");
    let without = cloud.list().await;
    assert!(
        matches!(without, Err(CloudError::RateLimited { until: None, .. })),
        "{without:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_responses_have_expected_class() {
    let ec2 = Ec2::start().await;
    let cloud = ec2.cloud();
    for (status, text, look, run) in [
        (200, "", "transient", "ambiguous"),
        (200, "<html>hello</html>", "transient", "ambiguous"),
        (
            200,
            "<RunInstancesResponse><broken",
            "transient",
            "ambiguous",
        ),
        (502, "<html>bad gateway</html>", "transient", "ambiguous"),
        (504, "", "transient", "ambiguous"),
        (429, "slower", "rate", "rate"),
        (403, "no", "permanent", "permanent"),
        (418, "teapot", "transient", "transient"),
        (
            500,
            "<Response><Errors/></Response>",
            "transient",
            "ambiguous",
        ),
    ] {
        for action in ["DescribeInstances", "RunInstances"] {
            let effect = Effect::Text(status, text.to_owned());
            ec2.proxy.fault(action, None, 1, effect);
        }
        assert_eq!(kind(&cloud.list().await), look, "{status} {text}");
        let created = cloud.create(ec2.spec()).await;
        assert_eq!(kind(&created), run, "{status} {text}: {created:?}");
    }
    // A well-formed response without an instance.
    ec2.proxy
        .fault("RunInstances", None, 1, Effect::ShowNothing);
    let created = cloud.create(ec2.spec()).await;
    assert_eq!(kind(&created), "ambiguous");
    let words = created.unwrap_err().to_string();
    assert!(words.contains("req-nothing"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_permanent_error() {
    let ec2 = Ec2::start().await;
    let cloud = ec2.cloud();
    let words = "AWS was not able to validate the provided access credentials";
    let effect = Effect::Refuse(401, "AuthFailure".to_owned(), words.to_owned());
    ec2.proxy.fault("DescribeInstances", None, 1, effect);
    let error = cloud.list().await.unwrap_err();
    assert!(matches!(error, CloudError::Permanent { .. }), "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_connection_is_transient() {
    let ec2 = Ec2::start().await;
    // No listener on a closed port.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", port.local_addr().unwrap());
    drop(port);
    let cloud = ec2.cloud_with(json!({"Endpoint": url}));
    let mut spec = ec2.spec();
    spec.public_key = None;
    let created = cloud.create(spec).await;
    assert_eq!(kind(&created), "transient", "{created:?}");
    assert_eq!(kind(&cloud.list().await), "transient");
}
