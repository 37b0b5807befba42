//! Identifiers, each with a type of its own, so that the compiler tells them apart.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::time::Timestamp;

/// Uuid of a container: 27 ASCII characters, `ccccc-ttttt-xxxxxxxxxxxxxxx`.
///
/// Kept inline, so that copies and comparisons cost no allocation. The first five characters are
/// the id of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContainerId([u8; Self::LEN]);

impl ContainerId {
    /// Halves of the id as integers, in the order of the text: two comparisons of words for the
    /// many map lookups of the core, since most ids share a prefix.
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

/// Error for a text other than a container uuid: 27 characters `ccccc-dz642-xxxxxxxxxxxxxxx` of
/// `a-z0-9`.
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
        // `FromStr` accepts ASCII only.
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

/// Declares a name type that is cheap to clone: shared text, compared by content.
macro_rules! shared_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps the text unchanged.
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
    /// Id of an instance in its cloud, whole and in the cloud's notation (EC2: `i-0123…`; other
    /// clouds use paths with slashes).
    InstanceId
}
shared_name! {
    /// Display name of an instance: its id in its cloud, or its intent before an id exists.
    VmName
}

impl From<&InstanceId> for VmName {
    fn from(id: &InstanceId) -> Self {
        Self(Arc::clone(&id.0))
    }
}

shared_name! {
    /// Host and port of an instance's SSH server, in the cloud's notation.
    Address
}
shared_name! {
    /// Configured name of an instance type (the key under `InstanceTypes`).
    TypeName
}
shared_name! {
    /// Boot image in the cloud's notation.
    ImageId
}
shared_name! {
    /// Name of a group of instances with a common quota, given by the driver (EC2: `standard`, `g`,
    /// …, each also with `.spot`).
    QuotaGroup
}

/// Number of a configured cloud; a plain configuration has only `CloudId(0)`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct CloudId(pub u16);

/// Id of a create request: idempotency token, tag, and the key to match a lost answer.
///
/// Drawn by the core from its own seed; 128 bits, written as 32 hexadecimal digits. The first 48
/// bits are the time of the draw in milliseconds since the epoch, so the tag on an instance gives
/// the start of its cost.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IntentId(u128);

impl IntentId {
    const CHANCE_BITS: u32 = 80;
    const MILLI: u64 = 1_000_000;

    /// Id with the given 128 bits.
    #[must_use]
    pub const fn new(bits: u128) -> Self {
        Self(bits)
    }

    /// Id for a create request at `now`, from 80 random bits; higher bits are ignored.
    #[must_use]
    pub fn at(now: Timestamp, chance: u128) -> Self {
        let millis = u128::from(now.as_nanos() / Self::MILLI);
        let chance = chance & ((1 << Self::CHANCE_BITS) - 1);
        Self(millis << Self::CHANCE_BITS | chance)
    }

    /// Time of the draw, to the millisecond; saturates for times out of range.
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

/// Error for a text other than an intent id: 32 hexadecimal digits.
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

/// Number of a command of one dispatcher process, from 1; the answer quotes it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct CommandId(pub u64);

/// Key of an instance in the core, from the create request to the end of the instance; never reused
/// within a process.
///
/// A create request has no [`InstanceId`] yet, and a cloud may reuse an id, so neither can be the
/// key.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct VmKey(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_id_invalid_text_is_refused() {
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
    fn intent_id_tag_round_trip_is_equal() {
        let intent = IntentId::new(0xabc);
        assert_eq!(intent.to_string().parse(), Ok(intent));
        assert_eq!("+bc".parse::<IntentId>(), Err(BadIntentId));
        assert!("0".repeat(33).parse::<IntentId>().is_err());
    }

    #[test]
    fn intent_id_contains_draw_time() {
        let now = Timestamp::from_nanos(1_800_000_000_123_456_789);
        let one = IntentId::at(now, u128::MAX);
        assert_eq!(one.asked_at().as_nanos(), 1_800_000_000_123_000_000);
        assert_ne!(one, IntentId::at(now, 1));
        assert!(IntentId::new(u128::MAX).asked_at() > now);
    }
}
