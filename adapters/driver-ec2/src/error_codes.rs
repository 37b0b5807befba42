//! What a failed call means: from EC2's codes to exactly one [`CloudError`].
//!
//! Pure functions over what was seen, so that every code can be tested without a network. The codes
//! are those of the EC2 API reference, "Error codes for the Amazon EC2 API", and of its guide to
//! request throttling.

use std::fmt;

use longshore_core::time::Timestamp;
use longshore_driver::{CapacityScope, CloudError, Said};

/// As much of the cloud's words as goes into an error; some messages carry kilobytes of encoded
/// policy.
const MESSAGE_CHARS_MAX: usize = 400;

/// What was tried, as far as it changes what an error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `RunInstances`: a lost answer leaves an instance that nobody knows.
    Run,
    /// Any other call that changes something.
    Change,
    /// A call that only looks: a lost answer is nothing but a lost answer.
    Look,
}

/// How far a failed call got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// EC2, or something before it, answered with this HTTP status.
    Answered(u16),
    /// It was not sent: no connection, no credentials.
    NotSent,
    /// It was sent, and no answer came that makes sense.
    Lost,
}

/// What was seen of a failed call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How far it got.
    pub reach: Reach,
    /// EC2's code; empty where it gave none.
    pub code: String,
    /// EC2's words, or those of the transport.
    pub message: String,
    /// EC2's name for the call, which its support asks for.
    pub request_id: Option<String>,
    /// When EC2 wants to hear of us again, where it says so.
    pub retry_at: Option<Timestamp>,
}

impl Failure {
    /// EC2's words, shortened.
    fn words(&self) -> String {
        let mut rest = self.message.chars();
        let mut text: String = rest.by_ref().take(MESSAGE_CHARS_MAX).collect();
        if rest.next().is_some() {
            text.push('\u{2026}');
        }
        if let (true, Reach::Answered(status)) =
            (text.is_empty() && self.code.is_empty(), self.reach)
        {
            text = format!("HTTP status {status}");
        }
        text
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = Said {
            code: &self.code,
            message: &self.words(),
            request_id: self.request_id.as_deref().unwrap_or_default(),
        };
        said.fmt(f)
    }
}

/// The kinds of errors, without words.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    RateLimited,
    Quota,
    NoCapacity,
    NotFound,
    /// EC2 failed inside: who knows how far it got.
    Internal,
    Permanent,
    /// Known to pass.
    Passing,
}

/// Codes with a meaning of their own. Whole families follow in [`class_of`].
const CODES: &[(&str, Class)] = &[
    ("RequestLimitExceeded", Class::RateLimited),
    ("RequestThrottled", Class::RateLimited),
    ("RequestThrottledException", Class::RateLimited),
    ("ThrottledException", Class::RateLimited),
    ("EC2ThrottledException", Class::RateLimited),
    ("TooManyRequests", Class::RateLimited),
    ("TooManyRequestsException", Class::RateLimited),
    ("SlowDown", Class::RateLimited),
    ("BandwidthLimitExceeded", Class::RateLimited),
    ("PriorRequestNotComplete", Class::RateLimited),
    ("RequestResourceCountExceeded", Class::RateLimited),
    ("InstanceLimitExceeded", Class::Quota),
    ("VcpuLimitExceeded", Class::Quota),
    ("MaxSpotInstanceCountExceeded", Class::Quota),
    ("InsufficientAddressCapacity", Class::Quota),
    ("InsufficientFreeAddressesInSubnet", Class::Quota),
    ("InsufficientVolumeCapacity", Class::Quota),
    ("VolumeLimitExceeded", Class::Quota),
    ("MaxIOPSLimitExceeded", Class::Quota),
    ("NetworkInterfaceLimitExceeded", Class::Quota),
    ("InsufficientInstanceCapacity", Class::NoCapacity),
    ("InsufficientCapacity", Class::NoCapacity),
    ("InsufficientHostCapacity", Class::NoCapacity),
    ("InsufficientReservedInstanceCapacity", Class::NoCapacity),
    ("SpotMaxPriceTooLow", Class::NoCapacity),
    ("InvalidInstanceID.NotFound", Class::NotFound),
    ("InternalError", Class::Internal),
    ("InternalFailure", Class::Internal),
    // What it was told before was something else, so there may be an instance.
    ("IdempotentParameterMismatch", Class::Internal),
    ("Unavailable", Class::Passing),
    ("ServiceUnavailable", Class::Passing),
    ("IncorrectInstanceState", Class::Passing),
    ("IncorrectState", Class::Passing),
    // Credentials that end are renewed.
    ("RequestExpired", Class::Passing),
    ("ExpiredToken", Class::Passing),
    ("ExpiredTokenException", Class::Passing),
    ("UnauthorizedOperation", Class::Permanent),
    ("AccessDenied", Class::Permanent),
    ("AccessDeniedException", Class::Permanent),
    ("Blocked", Class::Permanent),
    ("DryRunOperation", Class::Permanent),
    ("IncompleteSignature", Class::Permanent),
    ("OperationNotPermitted", Class::Permanent),
    ("OptInRequired", Class::Permanent),
    ("PendingVerification", Class::Permanent),
    ("SecurityGroupsPerInstanceLimitExceeded", Class::Permanent),
    ("SignatureDoesNotMatch", Class::Permanent),
    ("TagLimitExceeded", Class::Permanent),
    ("TagPolicyViolation", Class::Permanent),
    ("UnknownParameter", Class::Permanent),
    ("UnrecognizedClientException", Class::Permanent),
    ("UnsupportedOperation", Class::Permanent),
    ("VPCIdNotSpecified", Class::Permanent),
    ("ValidationError", Class::Permanent),
];

/// Codes that begin so are about what we asked for, and asking again does not help.
const PERMANENT_FAMILIES: [&str; 5] = [
    "AuthFailure",
    "Invalid",
    "Missing",
    "Malformed",
    "UnsupportedInstance",
];

/// The one error that a failure of an `operation`, a name for the log, is. Whatever is unknown is
/// transient, and is logged so that somebody can tell us of it.
#[must_use]
pub fn classify(call: Call, operation: &str, failure: &Failure) -> CloudError {
    let class = match failure.reach {
        Reach::Answered(status) => class_of(&failure.code, &failure.message, status),
        Reach::NotSent => Some(Class::Passing),
        Reach::Lost => Some(Class::Internal),
    };
    let said = Said {
        code: &failure.code,
        message: &failure.words(),
        request_id: failure.request_id.as_deref().unwrap_or_default(),
    };
    match class {
        Some(Class::RateLimited) => said.rate_limited(failure.retry_at),
        Some(Class::Quota) => said.quota(),
        Some(Class::NoCapacity) => said.capacity(CapacityScope::Type),
        Some(Class::NotFound) => said.not_found(),
        Some(Class::Internal) if call != Call::Look => said.ambiguous(),
        Some(Class::Permanent) => said.permanent(),
        Some(Class::Internal | Class::Passing) => said.transient(),
        None => said.unknown(operation),
    }
}

/// What EC2's code means; none if it is unknown.
fn class_of(code: &str, message: &str, status: u16) -> Option<Class> {
    let code = bare(code);
    if let Some((_, class)) = CODES.iter().find(|(known, _)| *known == code) {
        return Some(*class);
    }
    if code.starts_with("Throttling") || status == 429 {
        return Some(Class::RateLimited);
    }
    if code == "Unsupported" {
        let of_type = message.to_ascii_lowercase().contains("instance type");
        return Some(match of_type {
            true => Class::NoCapacity,
            false => Class::Permanent,
        });
    }
    if PERMANENT_FAMILIES.iter().any(|f| code.starts_with(f)) {
        return Some(Class::Permanent);
    }
    match (code, status) {
        // Not EC2's own words: a proxy or a load balancer, and EC2 may have gone on behind it.
        ("", 500..) => Some(Class::Internal),
        ("", 401 | 403) => Some(Class::Permanent),
        _ => None,
    }
}

/// Some places say whose fault it is before the code.
fn bare(code: &str) -> &str {
    let code = code.trim();
    let stripped = code
        .strip_prefix("Client.")
        .or(code.strip_prefix("Server."));
    stripped.unwrap_or(code)
}

/// Whether another subnet may do, although this one did not.
#[must_use]
pub fn is_about_subnet(failure: &Failure) -> bool {
    let Reach::Answered(_) = failure.reach else {
        return false;
    };
    let code = bare(&failure.code);
    let whole = [
        "InsufficientInstanceCapacity",
        "InsufficientVolumeCapacity",
        "Unsupported",
    ];
    if code.contains("Subnet") || whole.contains(&code) {
        return true;
    }
    let message = failure.message.to_ascii_lowercase();
    let speaks_of_it = message.contains("subnet")
        || message.contains("free")
            && ["ipv4", "ipv6", "address"]
                .iter()
                .any(|word| message.contains(word));
    code.starts_with("InvalidParameter") && speaks_of_it
}

/// Whether a failed call for many instances says nothing of most of them.
#[must_use]
pub(crate) fn is_about_one_of_many(failure: &Failure) -> bool {
    let code = bare(&failure.code);
    let whole = [
        "OperationNotPermitted",
        "UnsupportedOperation",
        "IncorrectInstanceState",
        "UnauthorizedOperation",
    ];
    matches!(failure.reach, Reach::Answered(_))
        && (code.starts_with("InvalidInstanceID") || whole.contains(&code))
}

#[cfg(test)]
mod tests;
