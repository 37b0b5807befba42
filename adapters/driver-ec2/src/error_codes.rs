//! Classification of failed calls: from EC2's error codes to exactly one [`CloudError`].
//!
//! Pure functions of the observed failure, so that every code is tested without a network. Source
//! of the codes: EC2 API reference, "Error codes for the Amazon EC2 API", and the guide to request
//! throttling.

use std::fmt;

use longshore_core::time::Timestamp;
use longshore_driver::{CapacityScope, CloudError, ProviderError};

/// Maximum length of a message in an error text; some messages contain kilobytes of encoded policy.
const MESSAGE_CHARS_MAX: usize = 400;

/// Kind of a call, as far as relevant for the classification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// `RunInstances`: a lost response leaves an unknown instance.
    RunInstances,
    /// Any other call with a side effect.
    Write,
    /// Call without a side effect: a lost response is harmless.
    Read,
}

/// Delivery state of a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// EC2, or a proxy before EC2, answered with this HTTP status.
    Answered(u16),
    /// Not sent: no connection or no credentials.
    NotSent,
    /// Sent, but no valid response received.
    ResponseLost,
}

/// Observed failure of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallFailure {
    /// Delivery state.
    pub delivery: Delivery,
    /// EC2's error code; empty if absent.
    pub code: String,
    /// EC2's message, or the error of the transport.
    pub message: String,
    /// Request id, for inquiries with AWS support.
    pub request_id: Option<String>,
    /// Retry time named by EC2, if any.
    pub retry_at: Option<Timestamp>,
}

impl CallFailure {
    /// Message, shortened.
    fn short_message(&self) -> String {
        let mut rest = self.message.chars();
        let mut text: String = rest.by_ref().take(MESSAGE_CHARS_MAX).collect();
        if rest.next().is_some() {
            text.push('\u{2026}');
        }
        if let (true, Delivery::Answered(status)) =
            (text.is_empty() && self.code.is_empty(), self.delivery)
        {
            text = format!("HTTP status {status}");
        }
        text
    }
}

impl fmt::Display for CallFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = ProviderError {
            code: &self.code,
            message: &self.short_message(),
            request_id: self.request_id.as_deref().unwrap_or_default(),
        };
        error.fmt(f)
    }
}

/// Class of an error.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    RateLimited,
    Quota,
    NoCapacity,
    NotFound,
    /// Internal failure of EC2, with unknown outcome.
    Internal,
    Permanent,
    /// Temporary failure.
    Transient,
}

/// Classes of single codes. Code prefixes are in [`class_of`].
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
    // An earlier request with the same token had other parameters, so an instance may exist.
    ("IdempotentParameterMismatch", Class::Internal),
    ("Unavailable", Class::Transient),
    ("ServiceUnavailable", Class::Transient),
    ("IncorrectInstanceState", Class::Transient),
    ("IncorrectState", Class::Transient),
    // Expired credentials are renewed.
    ("RequestExpired", Class::Transient),
    ("ExpiredToken", Class::Transient),
    ("ExpiredTokenException", Class::Transient),
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

/// Prefixes of codes for invalid requests; a repeated request fails again.
const PERMANENT_PREFIXES: [&str; 5] = [
    "AuthFailure",
    "Invalid",
    "Missing",
    "Malformed",
    "UnsupportedInstance",
];

/// Classifies a failure. `operation` is a name for the log. An unknown code is transient, and is
/// logged so that the table can be extended.
#[must_use]
pub fn classify(call: CallKind, operation: &str, failure: &CallFailure) -> CloudError {
    let class = match failure.delivery {
        Delivery::Answered(status) => class_of(&failure.code, &failure.message, status),
        Delivery::NotSent => Some(Class::Transient),
        Delivery::ResponseLost => Some(Class::Internal),
    };
    let error = ProviderError {
        code: &failure.code,
        message: &failure.short_message(),
        request_id: failure.request_id.as_deref().unwrap_or_default(),
    };
    match class {
        Some(Class::RateLimited) => error.rate_limited(failure.retry_at),
        Some(Class::Quota) => error.quota(),
        Some(Class::NoCapacity) => error.capacity(CapacityScope::Type),
        Some(Class::NotFound) => error.not_found(),
        Some(Class::Internal) if call != CallKind::Read => error.ambiguous(),
        Some(Class::Permanent) => error.permanent(),
        Some(Class::Internal | Class::Transient) => error.transient(),
        None => error.unknown(operation),
    }
}

/// Class of EC2's code; `None` if unknown.
fn class_of(code: &str, message: &str, status: u16) -> Option<Class> {
    let code = without_fault_prefix(code);
    if let Some((_, class)) = CODES.iter().find(|(known, _)| *known == code) {
        return Some(*class);
    }
    if code.starts_with("Throttling") || status == 429 {
        return Some(Class::RateLimited);
    }
    if code == "Unsupported" {
        let names_type = message.to_ascii_lowercase().contains("instance type");
        return Some(match names_type {
            true => Class::NoCapacity,
            false => Class::Permanent,
        });
    }
    if PERMANENT_PREFIXES.iter().any(|f| code.starts_with(f)) {
        return Some(Class::Permanent);
    }
    match (code, status) {
        // Response of a proxy or load balancer: EC2 may have executed the call.
        ("", 500..) => Some(Class::Internal),
        ("", 401 | 403) => Some(Class::Permanent),
        _ => None,
    }
}

/// Removes the prefix with the responsible side (`Client.` or `Server.`), added by some APIs.
fn without_fault_prefix(code: &str) -> &str {
    let code = code.trim();
    let stripped = code
        .strip_prefix("Client.")
        .or(code.strip_prefix("Server."));
    stripped.unwrap_or(code)
}

/// True if another subnet may succeed.
#[must_use]
pub fn is_about_subnet(failure: &CallFailure) -> bool {
    let Delivery::Answered(_) = failure.delivery else {
        return false;
    };
    let code = without_fault_prefix(&failure.code);
    let whole = [
        "InsufficientInstanceCapacity",
        "InsufficientVolumeCapacity",
        "Unsupported",
    ];
    if code.contains("Subnet") || whole.contains(&code) {
        return true;
    }
    let message = failure.message.to_ascii_lowercase();
    let mentions_subnet = message.contains("subnet")
        || message.contains("free")
            && ["ipv4", "ipv6", "address"]
                .iter()
                .any(|word| message.contains(word));
    code.starts_with("InvalidParameter") && mentions_subnet
}

/// True if a failed call for many instances concerns only some of the instances.
#[must_use]
pub(crate) fn is_about_single_instances(failure: &CallFailure) -> bool {
    let code = without_fault_prefix(&failure.code);
    let whole = [
        "OperationNotPermitted",
        "UnsupportedOperation",
        "IncorrectInstanceState",
        "UnauthorizedOperation",
    ];
    matches!(failure.delivery, Delivery::Answered(_))
        && (code.starts_with("InvalidInstanceID") || whole.contains(&code))
}

#[cfg(test)]
mod tests;
