//! Every code, by hand, beside the table that is tested.

use longshore_core::time::Timestamp;
use proptest::prelude::*;

use super::*;

fn refused(code: &str, message: &str, status: u16) -> Failure {
    Failure {
        reach: Reach::Answered(status),
        code: code.to_owned(),
        message: message.to_owned(),
        request_id: Some("r-1".to_owned()),
        retry_at: None,
    }
}

/// A word for each kind of error, for tables.
fn kind(error: &CloudError) -> &'static str {
    match error {
        CloudError::RateLimited { .. } => "rate",
        CloudError::Quota { .. } => "quota",
        CloudError::Capacity {
            scope: CapacityScope::Type,
            ..
        } => "capacity",
        CloudError::Capacity { .. } => "capacity of more than the type",
        CloudError::NotFound { .. } => "not found",
        CloudError::Ambiguous { .. } => "ambiguous",
        CloudError::Permanent { .. } => "permanent",
        CloudError::Transient { .. } => "transient",
    }
}

fn class(call: Call, failure: &Failure) -> &'static str {
    kind(&classify(call, "Something", failure))
}

fn run_kind(code: &str) -> &'static str {
    class(Call::Run, &refused(code, "words", 400))
}

#[test]
fn every_code_has_its_class() {
    let classes = [
        (
            "rate",
            "RequestLimitExceeded RequestThrottled RequestThrottledException ThrottledException \
             Throttling ThrottlingException Throttling.User EC2ThrottledException TooManyRequests \
             TooManyRequestsException SlowDown BandwidthLimitExceeded PriorRequestNotComplete \
             RequestResourceCountExceeded",
        ),
        (
            "quota",
            "InstanceLimitExceeded VcpuLimitExceeded MaxSpotInstanceCountExceeded \
             InsufficientAddressCapacity InsufficientFreeAddressesInSubnet \
             InsufficientVolumeCapacity VolumeLimitExceeded MaxIOPSLimitExceeded \
             NetworkInterfaceLimitExceeded",
        ),
        (
            "capacity",
            "InsufficientInstanceCapacity InsufficientCapacity InsufficientHostCapacity \
             InsufficientReservedInstanceCapacity SpotMaxPriceTooLow \
             Server.InsufficientInstanceCapacity",
        ),
        ("not found", "InvalidInstanceID.NotFound"),
        (
            "ambiguous",
            "InternalError InternalFailure IdempotentParameterMismatch",
        ),
        (
            "permanent",
            "AuthFailure AuthFailure.ServiceLinkedRoleCreationNotPermitted \
             UnauthorizedOperation AccessDenied AccessDeniedException Blocked \
             DryRunOperation IncompleteSignature OperationNotPermitted OptInRequired \
             PendingVerification SecurityGroupsPerInstanceLimitExceeded SignatureDoesNotMatch \
             TagLimitExceeded TagPolicyViolation UnknownParameter UnrecognizedClientException \
             UnsupportedOperation VPCIdNotSpecified ValidationError Unsupported \
             InvalidAMIID.Malformed InvalidAMIID.NotFound InvalidAMIID.Unavailable \
             InvalidAction InvalidBlockDeviceMapping InvalidClientTokenId InvalidGroup.NotFound \
             InvalidInstanceID.Malformed InvalidInstanceType InvalidKeyPair.NotFound \
             InvalidNetworkInterface.InUse InvalidParameter InvalidParameterCombination \
             InvalidParameterValue InvalidSecurityGroupID.NotFound InvalidSubnet \
             InvalidSubnetID.NotFound InvalidUserData.Malformed MissingParameter MissingAction \
             MalformedQueryString Client.InvalidParameterValue UnsupportedInstanceAttribute",
        ),
        (
            "transient",
            "Unavailable ServiceUnavailable IncorrectInstanceState IncorrectState RequestExpired \
             ExpiredToken ExpiredTokenException NobodyKnowsThis",
        ),
    ];
    let mut named = Vec::new();
    for (expected, codes) in classes {
        for code in codes.split_whitespace() {
            assert_eq!(run_kind(code), expected, "{code}");
            named.push(code);
        }
    }
    for (code, _) in CODES {
        assert!(named.contains(code), "{code} is in no class of this test");
    }
}

#[test]
fn unsupported_is_a_shortage_where_it_speaks_of_the_type() {
    let of_type = "Your requested instance type (p5.48xlarge) is not supported in your requested \
                   Availability Zone (us-east-1e).";
    let failure = refused("Unsupported", of_type, 400);
    assert_eq!(class(Call::Run, &failure), "capacity");
    let other = refused("Unsupported", "The requested configuration", 400);
    assert_eq!(class(Call::Run, &other), "permanent");
}

#[test]
fn a_lost_answer_is_ambiguous_only_where_something_may_have_changed() {
    let mut failure = refused("", "broken pipe", 0);
    failure.reach = Reach::Lost;
    for (call, expected) in [
        (Call::Run, "ambiguous"),
        (Call::Change, "ambiguous"),
        (Call::Look, "transient"),
    ] {
        assert_eq!(class(call, &failure), expected);
        assert_eq!(class(call, &refused("", "", 502)), expected);
        let inside = refused("InternalError", "oh", 500);
        assert_eq!(class(call, &inside), expected);
    }
    failure.reach = Reach::NotSent;
    assert_eq!(class(Call::Run, &failure), "transient");
}

#[test]
fn a_status_counts_where_the_code_says_nothing() {
    for (code, status, expected) in [
        ("", 429, "rate"),
        ("NewName", 429, "rate"),
        ("", 403, "permanent"),
        ("", 401, "permanent"),
        ("", 404, "transient"),
        ("NewName", 503, "transient"),
    ] {
        let failure = refused(code, "", status);
        assert_eq!(class(Call::Run, &failure), expected, "{code} {status}");
    }
}

#[test]
fn an_error_says_code_words_and_request() {
    let failure = refused("VcpuLimitExceeded", "at most 32", 400);
    assert_eq!(
        failure.to_string(),
        "at most 32 (VcpuLimitExceeded, request r-1)"
    );
    let silent = refused("", "", 502).to_string();
    assert_eq!(silent, "HTTP status 502 (no code, request r-1)");
    let long = refused("X", &"\u{e9}".repeat(1000), 400).to_string();
    assert_eq!(long.chars().count(), 401 + " (X, request r-1)".len());
}

#[test]
fn advice_is_passed_on() {
    let mut failure = refused("RequestLimitExceeded", "", 503);
    failure.retry_at = Some(Timestamp::EPOCH + std::time::Duration::from_secs(7));
    let CloudError::RateLimited { until, .. } = classify(Call::Look, "Something", &failure) else {
        panic!("not rate limited");
    };
    assert_eq!(until, failure.retry_at);
}

#[test]
fn another_subnet_is_tried_for_what_is_about_the_subnet() {
    for (code, message, expected) in [
        ("InsufficientFreeAddressesInSubnet", "", true),
        ("InvalidSubnetID.NotFound", "", true),
        ("InvalidSubnet", "", true),
        ("InsufficientInstanceCapacity", "", true),
        ("InsufficientVolumeCapacity", "", true),
        ("Unsupported", "", true),
        ("InvalidParameterValue", "The Subnet is wrong", true),
        ("InvalidParameter", "not enough free IPv4 addresses", true),
        ("InvalidParameterValue", "no free IPv6 address", true),
        ("InvalidParameterValue", "user data is too long", false),
        ("InvalidParameterValue", "bad IPv6 prefix", false),
        ("InvalidAMIID.NotFound", "subnet", false),
        ("VcpuLimitExceeded", "subnet", false),
        ("RequestLimitExceeded", "", false),
    ] {
        let failure = refused(code, message, 400);
        assert_eq!(is_about_subnet(&failure), expected, "{code} {message}");
    }
    let mut lost = refused("InvalidSubnet", "", 0);
    lost.reach = Reach::Lost;
    assert!(!is_about_subnet(&lost), "it may have been done");
}

fn any_failure() -> impl Strategy<Value = Failure> {
    let reach = prop_oneof![
        any::<u16>().prop_map(Reach::Answered),
        Just(Reach::NotSent),
        Just(Reach::Lost),
    ];
    let code = prop_oneof![".{0,40}", "(Client\\.|Server\\.)?[A-Z][A-Za-z.]{0,40}"];
    (reach, code, ".{0,900}", any::<Option<u64>>()).prop_map(|(reach, code, message, id)| Failure {
        reach,
        code,
        message,
        request_id: id.map(|id| format!("{id:x}")),
        retry_at: None,
    })
}

proptest! {
    #[test]
    fn anything_is_exactly_one_error(failure in any_failure()) {
        for call in [Call::Run, Call::Change, Call::Look] {
            let error = classify(call, "Something", &failure);
            prop_assert!(!(call == Call::Look && kind(&error) == "ambiguous"));
            let never_sent = failure.reach == Reach::NotSent;
            prop_assert!(!never_sent || kind(&error) == "transient");
            // Lost means that it may have been done, whatever else is known.
            let lost = failure.reach == Reach::Lost && call == Call::Run;
            prop_assert!(!lost || kind(&error) == "ambiguous");
            prop_assert!(failure.to_string().chars().count() <= 401 + 40 + 60);
        }
        let _ = is_about_subnet(&failure);
        let _ = is_about_one_of_many(&failure);
    }
}
