//! From a failure to what somebody can look at.

use std::fmt;

use serde::Serialize;

use super::report::Point;
use crate::ErrorClass;

/// Something to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// What the credentials may do.
    Permissions,
    /// The credentials themselves.
    Credentials,
    /// The endpoint and the network between here and the cloud.
    Endpoint,
    /// The configured subnet.
    Subnet,
    /// The configured image.
    Image,
    /// The configured security groups, and other ways in.
    SecurityGroup,
    /// The name of the instance type.
    InstanceType,
    /// How much the account may have.
    Quota,
    /// Whether another type or zone has room.
    Capacity,
    /// How often the cloud is called.
    Rate,
    /// The key pair.
    Key,
    /// The user to log in as.
    UserName,
    /// Whether the image runs the script that is handed over at boot.
    InitScript,
    /// The command that tells whether an instance is ready.
    BootProbe,
    /// How long booting may take.
    BootTime,
    /// The command that was to be tried.
    Command,
    /// What is left from before.
    Leftovers,
    /// What costs money until somebody destroys it by hand.
    ByHand,
    /// The tag prefix and the tags that the account allows.
    TagNames,
    /// The driver breaks its contract.
    Driver,
}

impl Check {
    /// What to do, in one sentence, by the configuration's keys.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Permissions => {
                "permissions: may these credentials list, create, tag and destroy instances?"
            }
            Self::Credentials => {
                "credentials: are those in DriverParameters right, and not expired?"
            }
            Self::Endpoint => "network: does this host reach the cloud's endpoint and region?",
            Self::Subnet => {
                "subnet: does SubnetID (or Network and Subnet) exist, with free addresses, in the \
                 zone and network of the rest?"
            }
            Self::Image => {
                "image: does ImageID exist in this region, for this account, for this type's \
                 processor?"
            }
            Self::SecurityGroup => {
                "security group: does it let this host in to SSHPort, and is there a route?"
            }
            Self::InstanceType => {
                "instance type: is ProviderType a type of this region and zone, spelt as the cloud \
                 does?"
            }
            Self::Quota => "quota: ask the cloud for more, or end something",
            Self::Capacity => "capacity: try another type, zone or subnet, or try again later",
            Self::Rate => "rate: something else calls this cloud with the same account; try later",
            Self::Key => {
                "key: is DispatchPrivateKey the one whose public half the image or the cloud puts \
                 on instances (DeployPublicKey)?"
            }
            Self::UserName => {
                "user name: is it the image's (AdminUsername), with sudo without a password unless \
                 it is root?"
            }
            Self::InitScript => {
                "init script: does the image run the user data that it gets at its first boot?"
            }
            Self::BootProbe => {
                "boot probe: log in (--pause-before-destroy) and run BootProbeCommand by hand"
            }
            Self::BootTime => "time: does it boot for longer than TimeoutBooting?",
            Self::Command => "command: log in (--pause-before-destroy) and run it by hand",
            Self::Leftovers => {
                "leftovers: if nothing else uses this instance set, destroy them with \
                 --destroy-existing; otherwise choose another --instance-set-id"
            }
            Self::ByHand => "money: look for it in the cloud's own console and destroy it there",
            Self::TagNames => {
                "tags: does the account allow these names and values (TagKeyPrefix, ResourceTags)?"
            }
            Self::Driver => "driver: it breaks its contract; please report this with all words",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.advice())
    }
}

/// Words of clouds, in small letters, and what they speak of.
const SPOKEN_OF: [(&str, Check); 22] = [
    ("unauthorized", Check::Permissions),
    ("not authorized", Check::Permissions),
    ("accessdenied", Check::Permissions),
    ("authorizationfailed", Check::Permissions),
    ("forbidden", Check::Permissions),
    ("authfailure", Check::Credentials),
    ("expiredtoken", Check::Credentials),
    ("credential", Check::Credentials),
    ("subnet", Check::Subnet),
    ("ami", Check::Image),
    ("image", Check::Image),
    ("securitygroup", Check::SecurityGroup),
    ("security group", Check::SecurityGroup),
    ("instance type", Check::InstanceType),
    ("instancetype", Check::InstanceType),
    ("keypair", Check::Key),
    ("key pair", Check::Key),
    ("public key", Check::Key),
    ("tag", Check::TagNames),
    ("dns", Check::Endpoint),
    ("connect", Check::Endpoint),
    ("timed out", Check::Endpoint),
];

/// What an instance's words speak of, in small letters.
const SAID_BY_SSH: [(&str, Check); 4] = [
    ("login refused", Check::UserName),
    ("log in", Check::UserName),
    ("secret", Check::InitScript),
    ("key", Check::Key),
];

/// What to look at after a failure; the likeliest first.
pub(super) fn checks(point: Point, class: Option<ErrorClass>, words: &str) -> Vec<Check> {
    let words = words.to_lowercase();
    let mut checks = Vec::new();
    match class {
        Some(ErrorClass::Quota) => checks.push(Check::Quota),
        Some(ErrorClass::Capacity) => checks.push(Check::Capacity),
        Some(ErrorClass::RateLimited) => checks.push(Check::Rate),
        _ => {}
    }
    let of_the_cloud = class.is_some();
    if of_the_cloud {
        checks.extend(spoken_of(&SPOKEN_OF, &words));
    }
    checks.extend_from_slice(match point {
        Point::List if checks.is_empty() => {
            &[Check::Credentials, Check::Permissions, Check::Endpoint]
        }
        Point::Leftovers if of_the_cloud => &[Check::Permissions, Check::ByHand],
        Point::Leftovers if words.contains("from before") => &[Check::Leftovers],
        Point::Create if checks.is_empty() => &[
            Check::Permissions,
            Check::Subnet,
            Check::Image,
            Check::SecurityGroup,
            Check::InstanceType,
        ],
        Point::Tags | Point::Retag if of_the_cloud => &[Check::Permissions, Check::TagNames],
        Point::Address => &[Check::Subnet, Check::BootTime],
        Point::BootProbe => &[Check::BootProbe, Check::BootTime],
        Point::Command => &[Check::Command],
        Point::Destroy => &[Check::Permissions, Check::ByHand],
        Point::Gone | Point::Empty => &[Check::ByHand],
        Point::Identity => &[],
        _ if of_the_cloud => &[],
        _ => &[Check::Driver],
    });
    if point == Point::Identity {
        checks.extend(spoken_of(&SAID_BY_SSH, &words));
        checks.extend_from_slice(&[
            Check::SecurityGroup,
            Check::UserName,
            Check::Key,
            Check::InitScript,
            Check::BootTime,
        ]);
    }
    once(checks)
}

fn spoken_of<'a>(
    table: &'a [(&'static str, Check)],
    words: &'a str,
) -> impl Iterator<Item = Check> + 'a {
    let spoken = table.iter().filter(|(word, _)| has_word(words, word));
    spoken.map(|(_, check)| *check)
}

/// Short words must stand alone: `ami` is in `family` too.
fn has_word(words: &str, word: &str) -> bool {
    if word.len() > 4 {
        return words.contains(word);
    }
    words
        .split(|c: char| !c.is_alphanumeric())
        .any(|part| part == word || part.strip_suffix('s') == Some(word))
}

/// Each check at its first place.
fn once(checks: Vec<Check>) -> Vec<Check> {
    let mut seen = Vec::with_capacity(checks.len());
    for check in checks {
        if !seen.contains(&check) {
            seen.push(check);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_leads_to_what_it_speaks_of() {
        let refused = Some(ErrorClass::Permanent);
        for (words, first) in [
            (
                "You are not authorized to perform this operation. (UnauthorizedOperation, …)",
                Check::Permissions,
            ),
            (
                "The subnet ID 'subnet-1' does not exist (InvalidSubnetID.NotFound, …)",
                Check::Subnet,
            ),
            (
                "The image id '[ami-1]' does not exist (InvalidAMIID.NotFound, …)",
                Check::Image,
            ),
            (
                "The security group 'sg-1' does not exist (InvalidGroup.NotFound, …)",
                Check::SecurityGroup,
            ),
            (
                "The key pair 'x' does not exist (InvalidKeyPair.NotFound, …)",
                Check::Key,
            ),
        ] {
            assert_eq!(checks(Point::Create, refused, words)[0], first, "{words}");
        }
        let quota = checks(Point::Create, Some(ErrorClass::Quota), "family limit");
        assert_eq!(quota[0], Check::Quota);
        assert!(!quota.contains(&Check::Image), "{quota:?}");
    }

    #[test]
    fn each_point_of_a_broken_contract_leads_somewhere_once() {
        for point in Point::ALL {
            for class in [None, Some(ErrorClass::Transient)] {
                let checks = checks(point, class, "unknown words about a key");
                let mut sorted = checks.clone();
                sorted.sort_unstable();
                sorted.dedup();
                assert_eq!(sorted.len(), checks.len(), "{point:?}");
                assert!(class.is_some() || !checks.is_empty(), "{point:?}");
            }
        }
    }
}
