//! Expected class of every code, written independently of the tested table.

use longshore_core::time::Timestamp;
use proptest::prelude::*;

use super::*;

fn rejected(code: &str, message: &str, status: u16) -> CallFailure {
    CallFailure {
        delivery: Delivery::Answered(status),
        code: code.to_owned(),
        message: message.to_owned(),
        request_id: Some("r-1".to_owned()),
        retry_at: None,
    }
}

/// Name of an error's class, for tables.
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

fn class(call: CallKind, failure: &CallFailure) -> &'static str {
    kind(&classify(call, "Something", failure))
}

fn run_kind(code: &str) -> &'static str {
    class(CallKind::RunInstances, &rejected(code, "words", 400))
}

#[test]
fn every_code_has_expected_class() {
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
        assert!(named.contains(code), "{code} is absent from the test");
    }
}

#[test]
fn unsupported_type_is_capacity_error() {
    let names_type = "Your requested instance type (p5.48xlarge) is not supported in your requested \
                   Availability Zone (us-east-1e).";
    let failure = rejected("Unsupported", names_type, 400);
    assert_eq!(class(CallKind::RunInstances, &failure), "capacity");
    let other = rejected("Unsupported", "The requested configuration", 400);
    assert_eq!(class(CallKind::RunInstances, &other), "permanent");
}

#[test]
fn lost_response_of_write_is_ambiguous() {
    let mut failure = rejected("", "broken pipe", 0);
    failure.delivery = Delivery::ResponseLost;
    for (call, expected) in [
        (CallKind::RunInstances, "ambiguous"),
        (CallKind::Write, "ambiguous"),
        (CallKind::Read, "transient"),
    ] {
        assert_eq!(class(call, &failure), expected);
        assert_eq!(class(call, &rejected("", "", 502)), expected);
        let inside = rejected("InternalError", "oh", 500);
        assert_eq!(class(call, &inside), expected);
    }
    failure.delivery = Delivery::NotSent;
    assert_eq!(class(CallKind::RunInstances, &failure), "transient");
}

#[test]
fn unknown_code_is_classified_by_status() {
    for (code, status, expected) in [
        ("", 429, "rate"),
        ("NewName", 429, "rate"),
        ("", 403, "permanent"),
        ("", 401, "permanent"),
        ("", 404, "transient"),
        ("NewName", 503, "transient"),
    ] {
        let failure = rejected(code, "", status);
        assert_eq!(
            class(CallKind::RunInstances, &failure),
            expected,
            "{code} {status}"
        );
    }
}

#[test]
fn failure_text_has_code_message_and_request() {
    let failure = rejected("VcpuLimitExceeded", "at most 32", 400);
    assert_eq!(
        failure.to_string(),
        "at most 32 (VcpuLimitExceeded, request r-1)"
    );
    let empty = rejected("", "", 502).to_string();
    assert_eq!(empty, "HTTP status 502 (no code, request r-1)");
    let long = rejected("X", &"\u{e9}".repeat(1000), 400).to_string();
    assert_eq!(long.chars().count(), 401 + " (X, request r-1)".len());
}

#[test]
fn retry_time_is_passed_on() {
    let mut failure = rejected("RequestLimitExceeded", "", 503);
    failure.retry_at = Some(Timestamp::EPOCH + std::time::Duration::from_secs(7));
    let CloudError::RateLimited { until, .. } = classify(CallKind::Read, "Something", &failure)
    else {
        panic!("not rate limited");
    };
    assert_eq!(until, failure.retry_at);
}

#[test]
fn subnet_errors_are_recognized() {
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
        let failure = rejected(code, message, 400);
        assert_eq!(is_about_subnet(&failure), expected, "{code} {message}");
    }
    let mut lost = rejected("InvalidSubnet", "", 0);
    lost.delivery = Delivery::ResponseLost;
    assert!(
        !is_about_subnet(&lost),
        "a call with a lost response may have taken effect"
    );
}

fn any_failure() -> impl Strategy<Value = CallFailure> {
    let delivery = prop_oneof![
        any::<u16>().prop_map(Delivery::Answered),
        Just(Delivery::NotSent),
        Just(Delivery::ResponseLost),
    ];
    let code = prop_oneof![".{0,40}", "(Client\\.|Server\\.)?[A-Z][A-Za-z.]{0,40}"];
    (delivery, code, ".{0,900}", any::<Option<u64>>()).prop_map(|(delivery, code, message, id)| {
        CallFailure {
            delivery,
            code,
            message,
            request_id: id.map(|id| format!("{id:x}")),
            retry_at: None,
        }
    })
}

proptest! {
    #[test]
    fn any_failure_has_one_class(failure in any_failure()) {
        for call in [CallKind::RunInstances, CallKind::Write, CallKind::Read] {
            let error = classify(call, "Something", &failure);
            prop_assert!(!(call == CallKind::Read && kind(&error) == "ambiguous"));
            let never_sent = failure.delivery == Delivery::NotSent;
            prop_assert!(!never_sent || kind(&error) == "transient");
            // A lost response means that the call may have taken effect, independent of the other
            // fields.
            let lost = failure.delivery == Delivery::ResponseLost && call == CallKind::RunInstances;
            prop_assert!(!lost || kind(&error) == "ambiguous");
            prop_assert!(failure.to_string().chars().count() <= 401 + 40 + 60);
        }
        let _ = is_about_subnet(&failure);
        let _ = is_about_single_instances(&failure);
    }
}
