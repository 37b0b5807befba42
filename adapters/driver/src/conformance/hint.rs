//! Hints for the user after a failed check.

use std::fmt;

use serde::Serialize;

use super::check::Check;
use crate::ErrorClass;

/// Possible cause of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hint {
    /// Permissions of the credentials.
    Permissions,
    /// The credentials themselves.
    Credentials,
    /// The endpoint, and the network between this host and the cloud.
    Endpoint,
    /// The configured subnet.
    Subnet,
    /// The configured image.
    Image,
    /// The configured security groups, and the route to the instance.
    SecurityGroup,
    /// The name of the instance type.
    InstanceType,
    /// Quota of the account.
    Quota,
    /// Capacity of other types or zones.
    Capacity,
    /// Rate of calls to the cloud.
    Rate,
    /// The key pair.
    Key,
    /// The login user.
    UserName,
    /// Execution of the init script by the image at boot.
    InitScript,
    /// The boot probe command.
    BootProbe,
    /// Boot time and its timeout.
    BootTime,
    /// The requested command.
    Command,
    /// Instances from before the run.
    Leftovers,
    /// Instances that cost money until destroyed by hand.
    ByHand,
    /// The tag prefix, and the tags allowed by the account.
    TagNames,
    /// A violation of the contract by the driver.
    Driver,
}

impl Hint {
    /// Advice in one sentence, with the names of configuration keys.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Permissions => {
                "permissions: are these credentials allowed to list, create, tag and destroy instances?"
            }
            Self::Credentials => {
                "credentials: are the credentials in DriverParameters correct and not expired?"
            }
            Self::Endpoint => "network: can this host reach the cloud's endpoint and region?",
            Self::Subnet => {
                "subnet: does SubnetID (or Network and Subnet) exist, with free addresses, in the \
                 same zone and network as the other resources?"
            }
            Self::Image => {
                "image: does ImageID exist in this region, for this account, for this type's \
                 processor?"
            }
            Self::SecurityGroup => {
                "security group: does it allow connections from this host to SSHPort, and is there a route?"
            }
            Self::InstanceType => {
                "instance type: is ProviderType a type of this region and zone, in the cloud's \
                 spelling?"
            }
            Self::Quota => "quota: request a higher quota, or destroy instances",
            Self::Capacity => "capacity: try another type, zone or subnet, or try again later",
            Self::Rate => {
                "rate: another program calls this cloud with the same account; try again later"
            }
            Self::Key => {
                "key: does DispatchPrivateKey match the public key installed on instances by the \
                 image or the cloud (DeployPublicKey)?"
            }
            Self::UserName => {
                "user name: does the image have this user (AdminUsername), with password-free sudo \
                 unless the user is root?"
            }
            Self::InitScript => "init script: does the image run its user data at the first boot?",
            Self::BootProbe => {
                "boot probe: log in (--pause-before-destroy) and run BootProbeCommand by hand"
            }
            Self::BootTime => "time: does the instance need more than TimeoutBooting to boot?",
            Self::Command => "command: log in (--pause-before-destroy) and run it by hand",
            Self::Leftovers => {
                "leftovers: if nothing else uses this instance set, destroy the instances with \
                 --destroy-existing; otherwise choose another --instance-set-id"
            }
            Self::ByHand => "costs: find and destroy the instances in the cloud's console",
            Self::TagNames => {
                "tags: does the account allow these names and values (TagKeyPrefix, ResourceTags)?"
            }
            Self::Driver => {
                "driver: the driver violates its contract; please report this with the complete output"
            }
        }
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.advice())
    }
}

/// Keywords in messages of clouds, in lower case, with the related hints.
const CLOUD_KEYWORDS: [(&str, Hint); 22] = [
    ("unauthorized", Hint::Permissions),
    ("not authorized", Hint::Permissions),
    ("accessdenied", Hint::Permissions),
    ("authorizationfailed", Hint::Permissions),
    ("forbidden", Hint::Permissions),
    ("authfailure", Hint::Credentials),
    ("expiredtoken", Hint::Credentials),
    ("credential", Hint::Credentials),
    ("subnet", Hint::Subnet),
    ("ami", Hint::Image),
    ("image", Hint::Image),
    ("securitygroup", Hint::SecurityGroup),
    ("security group", Hint::SecurityGroup),
    ("instance type", Hint::InstanceType),
    ("instancetype", Hint::InstanceType),
    ("keypair", Hint::Key),
    ("key pair", Hint::Key),
    ("public key", Hint::Key),
    ("tag", Hint::TagNames),
    ("dns", Hint::Endpoint),
    ("connect", Hint::Endpoint),
    ("timed out", Hint::Endpoint),
];

/// Keywords in messages from an instance over SSH, in lower case, with the related hints.
const SSH_KEYWORDS: [(&str, Hint); 4] = [
    ("login refused", Hint::UserName),
    ("log in", Hint::UserName),
    ("secret", Hint::InitScript),
    ("key", Hint::Key),
];

/// Hints after a failure, most likely cause first.
pub(super) fn hints(check: Check, class: Option<ErrorClass>, message: &str) -> Vec<Hint> {
    let message = message.to_lowercase();
    let mut hints = Vec::new();
    match class {
        Some(ErrorClass::Quota) => hints.push(Hint::Quota),
        Some(ErrorClass::Capacity) => hints.push(Hint::Capacity),
        Some(ErrorClass::RateLimited) => hints.push(Hint::Rate),
        _ => {}
    }
    let from_cloud = class.is_some();
    if from_cloud {
        hints.extend(matching(&CLOUD_KEYWORDS, &message));
    }
    hints.extend_from_slice(match check {
        Check::List if hints.is_empty() => &[Hint::Credentials, Hint::Permissions, Hint::Endpoint],
        Check::Leftovers if from_cloud => &[Hint::Permissions, Hint::ByHand],
        Check::Leftovers if message.contains("from before") => &[Hint::Leftovers],
        Check::Create if hints.is_empty() => &[
            Hint::Permissions,
            Hint::Subnet,
            Hint::Image,
            Hint::SecurityGroup,
            Hint::InstanceType,
        ],
        Check::Tags | Check::Retag if from_cloud => &[Hint::Permissions, Hint::TagNames],
        Check::Address => &[Hint::Subnet, Hint::BootTime],
        Check::BootProbe => &[Hint::BootProbe, Hint::BootTime],
        Check::Command => &[Hint::Command],
        Check::Destroy => &[Hint::Permissions, Hint::ByHand],
        Check::Terminated | Check::Cleanup => &[Hint::ByHand],
        Check::Identity => &[],
        _ if from_cloud => &[],
        _ => &[Hint::Driver],
    });
    if check == Check::Identity {
        hints.extend(matching(&SSH_KEYWORDS, &message));
        hints.extend_from_slice(&[
            Hint::SecurityGroup,
            Hint::UserName,
            Hint::Key,
            Hint::InitScript,
            Hint::BootTime,
        ]);
    }
    deduplicated(hints)
}

fn matching<'a>(
    table: &'a [(&'static str, Hint)],
    message: &'a str,
) -> impl Iterator<Item = Hint> + 'a {
    let spoken = table.iter().filter(|(word, _)| has_word(message, word));
    spoken.map(|(_, hints)| *hints)
}

/// Finds a word of up to four letters only as a separate word: `ami` is also part of `family`.
fn has_word(message: &str, word: &str) -> bool {
    if word.len() > 4 {
        return message.contains(word);
    }
    message
        .split(|c: char| !c.is_alphanumeric())
        .any(|part| part == word || part.strip_suffix('s') == Some(word))
}

/// Removes repeated hints and keeps the first of each.
fn deduplicated(hints: Vec<Hint>) -> Vec<Hint> {
    let mut unique = Vec::with_capacity(hints.len());
    for hint in hints {
        if !unique.contains(&hint) {
            unique.push(hint);
        }
    }
    unique
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_error_keywords_come_first() {
        let class = Some(ErrorClass::Permanent);
        for (message, first) in [
            (
                "You are not authorized to perform this operation. (UnauthorizedOperation, …)",
                Hint::Permissions,
            ),
            (
                "The subnet ID 'subnet-1' does not exist (InvalidSubnetID.NotFound, …)",
                Hint::Subnet,
            ),
            (
                "The image id '[ami-1]' does not exist (InvalidAMIID.NotFound, …)",
                Hint::Image,
            ),
            (
                "The security group 'sg-1' does not exist (InvalidGroup.NotFound, …)",
                Hint::SecurityGroup,
            ),
            (
                "The key pair 'x' does not exist (InvalidKeyPair.NotFound, …)",
                Hint::Key,
            ),
        ] {
            assert_eq!(hints(Check::Create, class, message)[0], first, "{message}");
        }
        let quota = hints(Check::Create, Some(ErrorClass::Quota), "family limit");
        assert_eq!(quota[0], Hint::Quota);
        assert!(!quota.contains(&Hint::Image), "{quota:?}");
    }

    #[test]
    fn hints_every_check_without_duplicates() {
        for check in Check::ALL {
            for class in [None, Some(ErrorClass::Transient)] {
                let hints = hints(check, class, "unknown message about a key");
                let mut sorted = hints.clone();
                sorted.sort_unstable();
                sorted.dedup();
                assert_eq!(sorted.len(), hints.len(), "{check:?}");
                assert!(class.is_some() || !hints.is_empty(), "{check:?}");
            }
        }
    }
}
