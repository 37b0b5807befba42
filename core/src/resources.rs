//! Container needs and instance type capacities: bytes, cores, devices and money as integers.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::ImageId;

/// Bytes in one mebibyte.
pub const MIB: u64 = 1 << 20;

/// Millionths of a US dollar; for a price, of a dollar per hour.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct MicroDollars(pub u64);

impl MicroDollars {
    /// Cost of `nanos` nanoseconds at a price per hour, rounded down.
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

/// Amounts of the resources shared by containers on one VM.
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
    /// True if `need` fits.
    #[must_use]
    pub fn holds(&self, need: &Self) -> bool {
        need.vcpus <= self.vcpus
            && need.ram <= self.ram
            && need.scratch <= self.scratch
            && need.gpus <= self.gpus
    }

    /// Sum of both, saturating: an absurd record must not wrap around to a small need.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_add(other.vcpus),
            ram: self.ram.saturating_add(other.ram),
            scratch: self.scratch.saturating_add(other.scratch),
            gpus: self.gpus.saturating_add(other.gpus),
        }
    }

    /// Difference, at least zero in each field.
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

/// Programming interface of a graphics processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GpuStack {
    /// NVIDIA's interface.
    Cuda,
    /// AMD's interface.
    Rocm,
}

/// Version `major.minor`, compared as numbers (9.0 is older than 12.0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// Number before the dot.
    pub major: u32,
    /// Number after the dot; 0 without a dot.
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

/// Error for a text other than a version: digits, or digits.digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a version: expected digits, or digits.digits")]
pub struct BadVersion;

/// Graphics processors of an instance type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpus {
    /// Programming interface.
    pub stack: GpuStack,
    /// Driver version on the image.
    pub driver: Version,
    /// Hardware generation: CUDA compute capability (`9.0`) or ROCm target (`gfx1100`).
    pub target: String,
    /// Number of devices; at least one.
    pub count: u32,
    /// Memory of each device in bytes.
    pub vram: u64,
}

/// Graphics processors required by a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GpuDemand {
    /// Programming interface.
    pub stack: GpuStack,
    /// Oldest acceptable driver.
    pub driver: Version,
    /// Acceptable hardware. CUDA: a single entry is a minimum, several are exact alternatives, an
    /// empty list fits nothing. ROCm: alternatives.
    pub targets: Vec<String>,
    /// Number of devices; at least one.
    pub count: u32,
    /// Memory required on each device, in bytes.
    pub vram: u64,
}

impl Gpus {
    /// True if the kind of device suits; the count is part of [`Resources`].
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

/// Needs of one container from its record, without additions or rounding.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Demand {
    /// Cores; containers with 0 share one core.
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
    /// True if the container runs on preemptible instances, and only there.
    pub preemptible: bool,
    /// True if the container submits other containers and waits for them.
    pub supervisor: bool,
    /// Boot image for the container's instance, instead of the configured image.
    pub vm_image: Option<ImageId>,
}

/// Estimates the size of a container image, in bytes, from its portable data hash (`<md5>+<manifest
/// bytes>`): a manifest has a frame of 80 bytes and 42 bytes for each block of 64 MiB. A text other
/// than a hash, or a manifest too short for one block, gives 0.
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
    fn cuda_single_target_is_a_minimum() {
        assert!(cuda("10.0").suits(&demand(&["9.0"])));
        assert!(!cuda("8.6").suits(&demand(&["9.0"])));
        assert!(!cuda("10.0").suits(&demand(&["9.0", "8.6"])));
        assert!(cuda("8.6").suits(&demand(&["9.0", "8.6"])));
        assert!(!cuda("9.0").suits(&demand(&[])));
    }

    #[test]
    fn image_size_is_estimated_from_hash() {
        let pdh = "d740a57097711e08eb9b2a93518f20ab";
        assert_eq!(image_size_estimate(&format!("{pdh}+342")), 402_653_184);
        assert_eq!(image_size_estimate(&format!("{pdh}+121")), 0);
        assert_eq!(image_size_estimate("arvados/jobs:latest"), 0);
    }

    #[test]
    fn cost_is_rounded_down() {
        let price = MicroDollars(123_000);
        assert_eq!(price.for_nanos(3_600_000_000_000), price);
        assert_eq!(price.for_nanos(1_000_000_000), MicroDollars(34));
        assert_eq!(MicroDollars(1_500_001).to_string(), "$1.500001");
    }
}
