//! Every class of errors, over the wire.

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
async fn every_code_arrives_as_its_class() {
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
            assert_eq!(calls, 1, "{code} is not tried again by the driver");
        }
    }
    assert_eq!(cloud.list().await.unwrap(), [], "nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_calls_translate_as_well() {
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
        // Nothing that happens to the key pair can have made an instance.
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

/// What a create makes of a call for the key pair that is refused.
async fn key_pair(ec2: &Ec2, action: &str, code: &str) -> Result<(), CloudError> {
    let mut spec = ec2.spec();
    spec.public_key = Some(crate::support::key().public_key().to_openssh().unwrap());
    ec2.proxy.refuse(action, code);
    ec2.cloud().create(spec).await.map(drop)
}

/// What is made of a price history that is refused.
async fn prices(ec2: &Ec2, code: &str) -> Result<(), CloudError> {
    let cloud = ec2.cloud();
    let mut spec = ec2.spec();
    spec.instance_type.preemptible = true;
    let spot = cloud.create(spec).await?.id;
    ec2.proxy.refuse("DescribeSpotPriceHistory", code);
    cloud.prices(&[spot], Timestamp::EPOCH).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_is_given_up_and_may_have_been_done() {
    let ec2 = Ec2::start().await;
    let timeouts = Timeouts {
        connect: Duration::from_secs(10),
        call: Duration::from_millis(500),
    };
    let (settings, params) = (ec2.settings(&ec2.set), ec2.params(json!({})));
    let cloud = Ec2Cloud::with_timeouts(settings, params, timeouts);
    let mut spec = ec2.spec();
    // Only the one call is to be slow.
    spec.public_key = None;
    let gate = ec2.proxy.hold("RunInstances", None);
    let made = cloud.create(spec.clone()).await;
    assert_eq!(kind(&made), "ambiguous", "{made:?}");
    let _gate = ec2.proxy.hold("DescribeInstances", None);
    assert_eq!(kind(&cloud.list().await), "transient");
    // It was on its way all the time; whoever asks again gets the same one.
    gate.send_replace(true);
    let again = ec2.cloud().create(spec).await.unwrap();
    let seen = ec2.cloud().list().await.unwrap();
    let ids: Vec<_> = seen.into_iter().map(|instance| instance.id).collect();
    assert_eq!(ids, [again.id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_connection_comes_about_nothing_was_made() {
    let ec2 = Ec2::start().await;
    // Nobody takes connections off its queue, which is full soon.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let deaf = socket.listen(1).unwrap();
    let address = deaf.local_addr().unwrap();
    let short = Duration::from_millis(300);
    let mut waiting = Vec::new();
    while let Ok(connection) = std::net::TcpStream::connect_timeout(&address, short) {
        waiting.push(connection);
        assert!(waiting.len() < 100, "its queue has no end");
    }
    let timeouts = Timeouts {
        connect: short,
        call: Duration::from_secs(30),
    };
    let params = ec2.params(json!({"Endpoint": format!("http://{address}")}));
    let cloud = Ec2Cloud::with_timeouts(ec2.settings(&ec2.set), params, timeouts);
    let mut spec = ec2.spec();
    spec.public_key = None;
    let made = cloud.create(spec).await;
    assert_eq!(kind(&made), "transient", "{made:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn advice_to_come_later_is_passed_on() {
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
async fn answers_that_are_not_ec2s_break_nothing() {
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
        let made = cloud.create(ec2.spec()).await;
        assert_eq!(kind(&made), run, "{status} {text}: {made:?}");
    }
    // An answer that is well formed and has no instance in it.
    ec2.proxy
        .fault("RunInstances", None, 1, Effect::ShowNothing);
    let made = cloud.create(ec2.spec()).await;
    assert_eq!(kind(&made), "ambiguous");
    let words = made.unwrap_err().to_string();
    assert!(words.contains("req-nothing"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_told_at_once() {
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
async fn a_cloud_that_is_not_there_made_nothing() {
    let ec2 = Ec2::start().await;
    // Nobody listens on a port that was given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", port.local_addr().unwrap());
    drop(port);
    let cloud = ec2.cloud_with(json!({"Endpoint": url}));
    let mut spec = ec2.spec();
    spec.public_key = None;
    let made = cloud.create(spec).await;
    assert_eq!(kind(&made), "transient", "{made:?}");
    assert_eq!(kind(&cloud.list().await), "transient");
}
