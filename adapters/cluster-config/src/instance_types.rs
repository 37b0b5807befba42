//! The section `InstanceTypes`: types that may be created.

use std::collections::BTreeMap;

use longshore_core::config::InstanceType;
use longshore_core::ids::{CloudId, QuotaGroup, TypeName};
use longshore_core::resources::{GpuStack, Gpus, MicroDollars, Resources, Version};

use super::host;
use super::reader::{Entry, Section, UnknownKeys};

type Types = BTreeMap<TypeName, InstanceType>;

/// Reads all types. With a price factor above zero, adds a preemptible twin for each type that is not
/// preemptible, at the multiplied price rounded to the nearest millionth of a dollar. On loopback
/// without any type, adds one type of the size of this host.
pub(super) fn instance_types(
    cluster: &Section<'_>,
    preemptible_price_factor_ppm: u64,
    loopback: bool,
) -> Types {
    let named = cluster.section("InstanceTypes").named();
    if named.is_empty() && loopback {
        return localhost_type(cluster);
    }
    let read =
        |(name, entry): &(&str, Entry<'_>)| (TypeName::from(*name), instance_type(name, entry));
    let mut types: Types = named.iter().map(read).collect();
    if preemptible_price_factor_ppm > 0 {
        add_preemptible_twins(&mut types, preemptible_price_factor_ppm);
    }
    types
}

fn instance_type(name: &str, entry: &Entry<'_>) -> InstanceType {
    let section = entry.section();
    // Both follow from other keys; the peer ignores them too.
    section.ignore(&["Name", "Scratch"]);
    let vcpus = match section.get("VCPUs") {
        Some(_) => section.count("VCPUs", 1, 1),
        None => {
            let advice = "write the number of the type's cores";
            section.missing("VCPUs", "a whole number from 1", advice);
            1
        }
    };
    let ram = section.bytes("RAM", 0);
    if ram == 0 {
        let line = section.get("RAM").map(|e| e.line());
        let message = "is 0: no container will ever fit into this type".to_owned();
        let path = section.path_of("RAM");
        section.report().warn(&path, line, message);
    }
    let added_scratch = section.bytes("AddedScratch", 0);
    let gpus = section.get("GPU").and_then(|entry| gpus(&entry));
    let preemptible = section.bool("Preemptible", false);
    let instance_type = InstanceType {
        cloud: CloudId(0),
        provider_type: section.text("ProviderType", name),
        resources: Resources {
            vcpus,
            ram,
            scratch: section
                .bytes("IncludedScratch", 0)
                .saturating_add(added_scratch),
            gpus: gpus.as_ref().map_or(0, |g| g.count),
        },
        added_scratch,
        gpus,
        price: MicroDollars(section.millionths("Price", 0)),
        preemptible,
        quota_group: quota_group(preemptible),
    };
    section.finish(UnknownKeys::Warn);
    instance_type
}

fn quota_group(preemptible: bool) -> QuotaGroup {
    QuotaGroup::from(if preemptible { "spot" } else { "on-demand" })
}

/// Reads the GPUs of a type; none if the count is 0, regardless of other keys.
fn gpus(entry: &Entry<'_>) -> Option<Gpus> {
    let section = entry.section();
    let count = section.count("DeviceCount", 0, 0);
    let stacks = [
        ("", None),
        ("cuda", Some(GpuStack::Cuda)),
        ("rocm", Some(GpuStack::Rocm)),
    ];
    let stack = section.choice("Stack", &stacks, None);
    let driver = driver_version(&section);
    let target = section.text("HardwareTarget", "");
    let vram = section.bytes("VRAM", 0);
    if count > 0 && section.is_blank("Stack") {
        section.missing("Stack", "cuda or rocm", "write which of both it is");
    }
    if count > 0 && section.is_blank("DriverVersion") {
        let advice = "write the version of the driver on the image, in quotes";
        section.missing("DriverVersion", "a version such as \"12.2\"", advice);
    }
    section.finish(UnknownKeys::Warn);
    let (stack, driver) = (stack?, driver?);
    (count > 0).then_some(Gpus {
        stack,
        driver,
        target,
        count,
        vram,
    })
}

fn driver_version(section: &Section<'_>) -> Option<Version> {
    let entry = section.get("DriverVersion")?;
    let text = entry.text().filter(|text| !text.is_empty())?;
    let digits = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let version = text.parse().ok().filter(|_| digits);
    if version.is_none() {
        let advice = "write major and minor version, in quotes, and leave the rest out";
        entry.wrong("a version such as \"12.2\"", advice);
    }
    version
}

fn add_preemptible_twins(types: &mut Types, factor_ppm: u64) {
    let twin = |(name, t): (&TypeName, &InstanceType)| {
        let price = (u128::from(t.price.0) * u128::from(factor_ppm) + 500_000) / 1_000_000;
        let twin = InstanceType {
            price: MicroDollars(u64::try_from(price).unwrap_or(u64::MAX)),
            preemptible: true,
            quota_group: quota_group(true),
            ..t.clone()
        };
        (TypeName::new(format!("{name}.preemptible")), twin)
    };
    let on_demand = types.iter().filter(|(_, t)| !t.preemptible);
    let twins: Vec<_> = on_demand.map(twin).collect();
    for (name, twin) in twins {
        types.entry(name).or_insert(twin);
    }
}

fn localhost_type(cluster: &Section<'_>) -> Types {
    let resources = match host::resources() {
        Ok(resources) => resources,
        Err(why) => {
            let expected = "a type that describes this host, whose size is not known";
            let advice = format!("write one with VCPUs and RAM ({why})");
            cluster.missing("InstanceTypes", expected, &advice);
            return Types::new();
        }
    };
    let localhost = InstanceType {
        cloud: CloudId(0),
        provider_type: "localhost".into(),
        resources,
        added_scratch: 0,
        gpus: None,
        price: MicroDollars(1_000_000),
        preemptible: false,
        quota_group: quota_group(false),
    };
    Types::from([(TypeName::from("localhost"), localhost)])
}
