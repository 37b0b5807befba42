//! Names of things, each its own type, so that one cannot be taken for another.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::time::Timestamp;

/// A container's uuid: 27 ASCII characters, `ccccc-ttttt-xxxxxxxxxxxxxxx`.
///
/// Kept inline, so that copies and comparisons cost no allocation. The first five characters are
/// the cluster's id.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContainerId([u8; Self::LEN]);

impl ContainerId {
    /// The same order as the text's, in two comparisons of words: maps of the core ask for it all
    /// the time, and most ids begin alike.
    fn halves(&self) -> (u128, u128) {
        let word = |from: usize| {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&self.0[from..from + 16]);
            u128::from_be_bytes(bytes)
        };
        (word(0), word(Self::LEN - 16))
    }
}

impl Ord for ContainerId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.halves().cmp(&other.halves())
    }
}

impl PartialOrd for ContainerId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The text is not a container's uuid: 27 characters `ccccc-dz642-xxxxxxxxxxxxxxx` of `a-z0-9`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a container uuid: expected 27 characters like zzzzz-dz642-0123456789abcde"
)]
pub struct BadContainerId {
    text: String,
}

impl ContainerId {
    const LEN: usize = 27;

    /// The uuid as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only ASCII gets in, by `FromStr`.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for ContainerId {
    type Err = BadContainerId;

    fn from_str(text: &str) -> Result<Self, BadContainerId> {
        let bad = || BadContainerId {
            text: text.chars().take(64).collect(),
        };
        let bytes: [u8; Self::LEN] = text.as_bytes().try_into().map_err(|_| bad())?;
        let well_formed = bytes.iter().enumerate().all(|(i, b)| match i {
            5 | 11 => *b == b'-',
            _ => b.is_ascii_lowercase() || b.is_ascii_digit(),
        });
        if well_formed && &bytes[6..11] == b"dz642" {
            Ok(Self(bytes))
        } else {
            Err(bad())
        }
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ContainerId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ContainerId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Declares a name that is cheap to clone: shared text, compared by content.
macro_rules! shared_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the text as it is.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                Ok(Self(Cow::<str>::deserialize(from)?.into()))
            }
        }
    };
}

shared_name! {
    /// A VM's name in its cloud, whole and as the cloud writes it (EC2: `i-0123…`; others use paths
    /// with slashes).
    InstanceId
}
shared_name! {
    /// What operators call a VM: its id in its cloud; for a wish, the wish.
    VmName
}

impl From<&InstanceId> for VmName {
    fn from(id: &InstanceId) -> Self {
        Self(Arc::clone(&id.0))
    }
}

shared_name! {
    /// Host and port of a VM's SSH server, as its cloud writes them.
    Address
}
shared_name! {
    /// The configured name of an instance type (the key under `InstanceTypes`).
    TypeName
}
shared_name! {
    /// A VM image in its cloud's own notation.
    ImageId
}
shared_name! {
    /// Instances that share one quota, as the driver names the group (EC2: `standard`, `g`, …, and
    /// the same with `.spot`).
    QuotaGroup
}

/// Which of the configured clouds; a plain configuration has only `CloudId(0)`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct CloudId(pub u16);

/// Names one wish for a VM: idempotency token, tag, and the way a lost answer is matched.
///
/// Drawn by the core from its own seed; 128 bits, written as 32 hexadecimal digits. The first 48 are
/// the milliseconds since the epoch when it was drawn: so whoever finds the tag on an instance knows
/// since when it is to be paid for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IntentId(u128);

impl IntentId {
    const CHANCE_BITS: u32 = 80;
    const MILLI: u64 = 1_000_000;

    /// From its 128 bits.
    #[must_use]
    pub const fn new(bits: u128) -> Self {
        Self(bits)
    }

    /// For a wish of now, from 80 random bits; more are ignored.
    #[must_use]
    pub fn at(now: Timestamp, chance: u128) -> Self {
        let millis = u128::from(now.as_nanos() / Self::MILLI);
        let chance = chance & ((1 << Self::CHANCE_BITS) - 1);
        Self(millis << Self::CHANCE_BITS | chance)
    }

    /// When it was drawn, to the millisecond; saturated, if no clock ever showed that.
    #[must_use]
    pub fn asked_at(self) -> Timestamp {
        let millis = u64::try_from(self.0 >> Self::CHANCE_BITS).unwrap_or(u64::MAX);
        Timestamp::from_nanos(millis.saturating_mul(Self::MILLI))
    }
}

impl fmt::Display for IntentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for IntentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an intent id: 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an intent id: expected 32 hexadecimal digits")]
pub struct BadIntentId;

impl FromStr for IntentId {
    type Err = BadIntentId;

    fn from_str(text: &str) -> Result<Self, BadIntentId> {
        let plain = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        match u128::from_str_radix(text, 16) {
            Ok(bits) if plain => Ok(Self(bits)),
            _ => Err(BadIntentId),
        }
    }
}

impl Serialize for IntentId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IntentId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Numbers the commands of one dispatcher process, from 1; an answer quotes it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct CommandId(pub u64);

/// A VM as the core knows it, from the wish to its end; never reused within a process.
///
/// A wish has no [`InstanceId`] yet, and a cloud may use an id again, so neither can be the key.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct VmKey(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_ids_are_checked_at_the_door() {
        assert!("zzzzz-dz642-0123456789abcde".parse::<ContainerId>().is_ok());
        for wrong in [
            "",
            "zzzzz-dz642-0123456789abcd",
            "zzzzz-dz642-0123456789abcdef",
            "zzzzz-xvhdp-0123456789abcde",
            "ZZZZZ-dz642-0123456789abcde",
            "zzzzz_dz642-0123456789abcde",
            "zzzzz-dz642-0123456789abc\u{e9}",
        ] {
            assert!(wrong.parse::<ContainerId>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn intent_ids_survive_the_round_trip_through_a_tag() {
        let intent = IntentId::new(0xabc);
        assert_eq!(intent.to_string().parse(), Ok(intent));
        assert_eq!("+bc".parse::<IntentId>(), Err(BadIntentId));
        assert!("0".repeat(33).parse::<IntentId>().is_err());
    }

    #[test]
    fn an_intent_tells_when_it_was_drawn() {
        let now = Timestamp::from_nanos(1_800_000_000_123_456_789);
        let one = IntentId::at(now, u128::MAX);
        assert_eq!(one.asked_at().as_nanos(), 1_800_000_000_123_000_000);
        assert_ne!(one, IntentId::at(now, 1));
        assert!(IntentId::new(u128::MAX).asked_at() > now);
    }
}
