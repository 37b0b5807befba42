//! What containers need and what instance types offer: bytes, cores, devices and money as integers.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::ImageId;

/// Bytes in one mebibyte.
pub const MIB: u64 = 1 << 20;

/// Millionths of a US dollar, or of a dollar per hour where a price is meant.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct MicroDollars(pub u64);

impl MicroDollars {
    /// What a price per hour comes to after so many nanoseconds, rounded down.
    #[must_use]
    pub fn for_nanos(self, nanos: u64) -> Self {
        const HOUR_NANOS: u128 = 3_600_000_000_000;
        let cost = u128::from(self.0) * u128::from(nanos) / HOUR_NANOS;
        Self(u64::try_from(cost).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for MicroDollars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// An amount of each thing that containers on one VM share.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Resources {
    /// Cores.
    pub vcpus: u32,
    /// Memory in bytes.
    pub ram: u64,
    /// Disk in bytes.
    pub scratch: u64,
    /// Graphics processors.
    pub gpus: u32,
}

impl Resources {
    /// Whether `need` fits into this much.
    #[must_use]
    pub fn holds(&self, need: &Self) -> bool {
        need.vcpus <= self.vcpus
            && need.ram <= self.ram
            && need.scratch <= self.scratch
            && need.gpus <= self.gpus
    }

    /// The sum of both, saturating: an absurd record must not wrap around into a small one.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_add(other.vcpus),
            ram: self.ram.saturating_add(other.ram),
            scratch: self.scratch.saturating_add(other.scratch),
            gpus: self.gpus.saturating_add(other.gpus),
        }
    }

    /// What is left after `other`, never less than nothing.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_sub(other.vcpus),
            ram: self.ram.saturating_sub(other.ram),
            scratch: self.scratch.saturating_sub(other.scratch),
            gpus: self.gpus.saturating_sub(other.gpus),
        }
    }
}

/// Whose programming interface a graphics processor speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GpuStack {
    /// NVIDIA's.
    Cuda,
    /// AMD's.
    Rocm,
}

/// A version `major.minor`, compared as numbers (so that 9.0 is older than 12.0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// Before the dot.
    pub major: u32,
    /// After the dot; 0 if there is none.
    pub minor: u32,
}

impl std::str::FromStr for Version {
    type Err = BadVersion;

    fn from_str(text: &str) -> Result<Self, BadVersion> {
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        let number = |part: &str| part.parse().map_err(|_| BadVersion);
        Ok(Self {
            major: number(major)?,
            minor: number(minor)?,
        })
    }
}

/// The text is not a version: digits, or digits.digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a version: expected digits, or digits.digits")]
pub struct BadVersion;

/// The graphics processors of an instance type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpus {
    /// Whose interface.
    pub stack: GpuStack,
    /// Version of the driver on the image.
    pub driver: Version,
    /// Hardware generation: CUDA compute capability (`9.0`) or ROCm target (`gfx1100`).
    pub target: String,
    /// How many; at least one.
    pub count: u32,
    /// Memory of each in bytes.
    pub vram: u64,
}

/// The graphics processors that a container asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GpuDemand {
    /// Whose interface.
    pub stack: GpuStack,
    /// Oldest driver that will do.
    pub driver: Version,
    /// Hardware that will do. CUDA: one entry is a minimum, several are exact alternatives, none
    /// fits nothing. ROCm: alternatives.
    pub targets: Vec<String>,
    /// How many; at least one.
    pub count: u32,
    /// Memory needed on each, in bytes.
    pub vram: u64,
}

impl Gpus {
    /// Whether the kind of device suits; the count is accounted with the other [`Resources`].
    #[must_use]
    pub fn suits(&self, demand: &GpuDemand) -> bool {
        self.stack == demand.stack
            && self.driver >= demand.driver
            && self.vram >= demand.vram
            && self.target_suits(demand)
    }

    fn target_suits(&self, demand: &GpuDemand) -> bool {
        match (demand.stack, demand.targets.as_slice()) {
            (GpuStack::Cuda, [minimum]) => {
                let versions = (self.target.parse::<Version>(), minimum.parse::<Version>());
                matches!(versions, (Ok(have), Ok(need)) if have >= need)
            }
            (_, alternatives) => alternatives.contains(&self.target),
        }
    }
}

/// What one container asks for, as its record says it: nothing added, nothing rounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Demand {
    /// Cores; 0 shares one core with other such containers.
    pub vcpus: u32,
    /// Memory in bytes, without any cache.
    pub ram: u64,
    /// Memory for the data cache in bytes.
    pub keep_cache_ram: u64,
    /// Disk for the data cache in bytes.
    pub keep_cache_disk: u64,
    /// Sum of the capacities of all `tmp` mounts in bytes.
    pub tmp: u64,
    /// Estimated size of the container image in bytes, see [`image_size_estimate`].
    pub image_size: u64,
    /// Graphics processors, if any.
    pub gpu: Option<GpuDemand>,
    /// Runs on preemptible instances, and only there.
    pub preemptible: bool,
    /// Submits other containers and waits for them.
    pub supervisor: bool,
    /// Wants VMs booted from this image instead of the configured one.
    pub vm_image: Option<ImageId>,
}

/// Estimates the size of a container image, in bytes, from its portable data hash
/// (`<md5>+<manifest bytes>`): a manifest spends 80 bytes on its frame and 42 on each block of
/// 64 MiB. Anything that is not such a hash, or too short for one block, is 0.
#[must_use]
pub fn image_size_estimate(pdh: &str) -> u64 {
    let Some((hash, rest)) = pdh.split_once('+') else {
        return 0;
    };
    let digits = rest.split('+').next().unwrap_or_default();
    let hex = hash.len() == 32 && hash.bytes().all(|b| b.is_ascii_hexdigit());
    match digits.parse::<u64>() {
        Ok(bytes) if hex && bytes >= 122 => ((bytes - 80) / 42).saturating_mul(64 * MIB),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuda(target: &str) -> Gpus {
        Gpus {
            stack: GpuStack::Cuda,
            driver: Version {
                major: 12,
                minor: 1,
            },
            target: target.into(),
            count: 2,
            vram: 8 * MIB,
        }
    }

    fn demand(targets: &[&str]) -> GpuDemand {
        GpuDemand {
            stack: GpuStack::Cuda,
            driver: Version {
                major: 11,
                minor: 0,
            },
            targets: targets.iter().map(|t| (*t).to_owned()).collect(),
            count: 1,
            vram: 8 * MIB,
        }
    }

    #[test]
    fn one_cuda_target_is_a_minimum_and_several_are_exact() {
        assert!(cuda("10.0").suits(&demand(&["9.0"])));
        assert!(!cuda("8.6").suits(&demand(&["9.0"])));
        assert!(!cuda("10.0").suits(&demand(&["9.0", "8.6"])));
        assert!(cuda("8.6").suits(&demand(&["9.0", "8.6"])));
        assert!(!cuda("9.0").suits(&demand(&[])));
    }

    #[test]
    fn an_image_size_is_read_from_its_hash() {
        let pdh = "d740a57097711e08eb9b2a93518f20ab";
        assert_eq!(image_size_estimate(&format!("{pdh}+342")), 402_653_184);
        assert_eq!(image_size_estimate(&format!("{pdh}+121")), 0);
        assert_eq!(image_size_estimate("arvados/jobs:latest"), 0);
    }

    #[test]
    fn cost_is_rounded_down_to_the_millionth() {
        let price = MicroDollars(123_000);
        assert_eq!(price.for_nanos(3_600_000_000_000), price);
        assert_eq!(price.for_nanos(1_000_000_000), MicroDollars(34));
        assert_eq!(MicroDollars(1_500_001).to_string(), "$1.500001");
    }
}
