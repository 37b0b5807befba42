//! Containers in the peer's format.

use longshore_core::ids::VmName;
use longshore_core::view::ContainerView;
use serde::Serialize;

use super::rfc3339;
use super::types::{Catalog, NamedTypeJson, TypeJson};
use super::waiting::WaitReasonJson;

#[derive(Debug, Serialize)]
pub(crate) struct EntryJson<'c, 'a> {
    container: RecordJson<'c>,
    instance_resources: NeedJson,
    /// Eligible types, cheapest first.
    instance_types: Vec<&'c TypeJson<'a>>,
    /// Cheapest type in the older format, still read by published clients.
    instance_type: Option<NamedTypeJson<'c, 'a>>,
    first_seen_at: String,
    scheduling_status: &'c str,
    /// Longshore's: instance of the container, running or reserved.
    instance: Option<&'c str>,
    /// Longshore's: number of preemptions of the container's instances, in this process.
    interruptions: u32,
    /// Longshore's: position among all waiting containers, from 1.
    position: Option<usize>,
    /// Longshore's: reason of the wait.
    waiting: Option<WaitReasonJson<'c>>,
    /// Longshore's: change to end the wait.
    unblocked_by: Option<&'c str>,
}

/// Known part of the record; clients read absent fields as zero.
#[derive(Debug, Serialize)]
struct RecordJson<'c> {
    uuid: &'c str,
    state: &'static str,
    priority: u64,
    created_at: String,
    lock_count: u32,
}

/// Needs; all zero for a malformed record.
#[derive(Debug, Default, Serialize)]
struct NeedJson {
    #[serde(rename = "VCPUs")]
    vcpus: u32,
    #[serde(rename = "RAM")]
    ram: u64,
    #[serde(rename = "Scratch")]
    scratch: u64,
    #[serde(rename = "GPUs")]
    gpus: u32,
    #[serde(rename = "GPUVRAM")]
    gpu_vram: u64,
}

impl<'a> Catalog<'a> {
    /// Containers in the given order.
    pub(crate) fn containers<'c>(&'c self, views: &'c [ContainerView]) -> Vec<EntryJson<'c, 'a>> {
        views.iter().map(|view| self.container(view)).collect()
    }

    pub(crate) fn container<'c>(&'c self, view: &'c ContainerView) -> EntryJson<'c, 'a> {
        let need = view.need.unwrap_or_default();
        EntryJson {
            container: RecordJson {
                uuid: view.id.as_str(),
                state: view.state.name(),
                priority: view.priority,
                created_at: rfc3339(view.created_at),
                lock_count: view.lock_count,
            },
            instance_resources: NeedJson {
                vcpus: need.vcpus,
                ram: need.ram,
                scratch: need.scratch,
                gpus: need.gpus,
                gpu_vram: view.gpu_vram,
            },
            instance_types: self.all(&view.eligible),
            instance_type: self.first(&view.eligible),
            first_seen_at: rfc3339(view.first_seen),
            scheduling_status: &view.status,
            instance: view.instance.as_ref().map(VmName::as_str),
            interruptions: view.interruptions,
            position: view.position,
            waiting: view.waiting.as_ref().map(WaitReasonJson::new),
            unblocked_by: view.unblocked_by.as_deref(),
        }
    }
}
