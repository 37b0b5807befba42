//! Instance types, as the peer writes them.

use std::collections::BTreeMap;

use longshore_core::config::{Config, InstanceType};
use longshore_core::ids::TypeName;
use longshore_core::resources::{GpuStack, Gpus};
use serde::Serialize;

/// The configured types, shaped once for many containers.
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

    /// Those that are still configured, in the order given.
    pub(super) fn all(&self, names: &[TypeName]) -> Vec<&TypeJson<'a>> {
        let known = names.iter().filter_map(|name| self.0.get(name.as_str()));
        known.collect()
    }

    /// The first that is still configured, under its name.
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

/// An instance type as the peer's API and runners know it: without its name.
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

/// The older shape, which has the name and the sum of both kinds of scratch.
#[derive(Debug, Serialize)]
pub(super) struct NamedTypeJson<'c, 'a> {
    #[serde(rename = "Name")]
    name: &'a str,
    #[serde(flatten)]
    offer: &'c TypeJson<'a>,
    #[serde(rename = "Scratch")]
    scratch: u64,
}

/// All zero where there are none.
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
    /// Shapes a configured type.
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
