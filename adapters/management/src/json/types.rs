//! Instance types in the peer's format.

use std::collections::BTreeMap;

use longshore_core::config::{Config, InstanceType};
use longshore_core::ids::TypeName;
use longshore_core::resources::{GpuStack, Gpus};
use serde::Serialize;

/// Configured types, converted once for many containers.
pub(crate) struct Catalog<'a>(BTreeMap<&'a str, TypeJson<'a>>);

impl<'a> Catalog<'a> {
    pub(crate) fn new(config: &'a Config) -> Self {
        let types = config.types.iter();
        Self(
            types
                .map(|(name, offer)| (name.as_str(), TypeJson::new(offer)))
                .collect(),
        )
    }

    /// Types still configured, in the given order.
    pub(super) fn all(&self, names: &[TypeName]) -> Vec<&TypeJson<'a>> {
        let known = names.iter().filter_map(|name| self.0.get(name.as_str()));
        known.collect()
    }

    /// First type still configured, with its name.
    pub(super) fn first(&self, names: &[TypeName]) -> Option<NamedTypeJson<'_, 'a>> {
        let mut known = names
            .iter()
            .filter_map(|name| self.0.get_key_value(name.as_str()));
        known.next().map(|(name, offer)| NamedTypeJson {
            name,
            scratch: offer.included_scratch.saturating_add(offer.added_scratch),
            offer,
        })
    }
}

/// Instance type in the format of the peer's API and runners, without its name.
#[derive(Debug, Serialize)]
pub struct TypeJson<'a> {
    #[serde(rename = "ProviderType")]
    provider_type: &'a str,
    #[serde(rename = "VCPUs")]
    vcpus: u32,
    #[serde(rename = "RAM")]
    ram: u64,
    #[serde(rename = "IncludedScratch")]
    included_scratch: u64,
    #[serde(rename = "AddedScratch")]
    added_scratch: u64,
    /// Dollars per hour.
    #[serde(rename = "Price")]
    price: f64,
    #[serde(rename = "Preemptible")]
    preemptible: bool,
    #[serde(rename = "GPU")]
    gpu: GpuJson<'a>,
}

/// Older format, with the name and the sum of both kinds of scratch.
#[derive(Debug, Serialize)]
pub(super) struct NamedTypeJson<'c, 'a> {
    #[serde(rename = "Name")]
    name: &'a str,
    #[serde(flatten)]
    offer: &'c TypeJson<'a>,
    #[serde(rename = "Scratch")]
    scratch: u64,
}

/// Graphics processors; all zero without any.
#[derive(Debug, Default, Serialize)]
struct GpuJson<'a> {
    #[serde(rename = "Stack")]
    stack: &'static str,
    #[serde(rename = "DriverVersion")]
    driver_version: String,
    #[serde(rename = "HardwareTarget")]
    hardware_target: &'a str,
    #[serde(rename = "DeviceCount")]
    device_count: u32,
    #[serde(rename = "VRAM")]
    vram: u64,
}

impl<'a> TypeJson<'a> {
    /// Converts a configured type.
    #[must_use]
    pub fn new(offer: &'a InstanceType) -> Self {
        let resources = &offer.resources;
        Self {
            provider_type: &offer.provider_type,
            vcpus: resources.vcpus,
            ram: resources.ram,
            included_scratch: resources.scratch.saturating_sub(offer.added_scratch),
            added_scratch: offer.added_scratch,
            price: super::dollars(offer.price),
            preemptible: offer.preemptible,
            gpu: offer.gpus.as_ref().map(GpuJson::new).unwrap_or_default(),
        }
    }
}

impl<'a> GpuJson<'a> {
    fn new(gpus: &'a Gpus) -> Self {
        Self {
            stack: match gpus.stack {
                GpuStack::Cuda => "cuda",
                GpuStack::Rocm => "rocm",
            },
            driver_version: format!("{}.{}", gpus.driver.major, gpus.driver.minor),
            hardware_target: &gpus.target,
            device_count: gpus.count,
            vram: gpus.vram,
        }
    }
}
