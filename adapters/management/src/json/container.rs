//! Containers, as the peer writes them.

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
    /// Cheapest first.
    instance_types: Vec<&'c TypeJson<'a>>,
    /// The cheapest in the older shape, which published clients still read.
    instance_type: Option<NamedTypeJson<'c, 'a>>,
    first_seen_at: String,
    scheduling_status: &'c str,
    /// Ours: where it runs, or which VM is kept for it.
    instance: Option<&'c str>,
    /// Ours: how often the cloud took back what it ran on, as far as this process saw.
    interruptions: u32,
    /// Ours: its place among all that wait, from 1.
    position: Option<usize>,
    /// Ours: what it waits for.
    waiting: Option<WaitReasonJson<'c>>,
    /// Ours: what would end the wait.
    unblocked_by: Option<&'c str>,
}

/// What the dispatcher keeps of the record; clients read absent fields as zero.
#[derive(Debug, Serialize)]
struct RecordJson<'c> {
    uuid: &'c str,
    state: &'static str,
    priority: u64,
    created_at: String,
    lock_count: u32,
}

/// All zero where the record is malformed.
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
    /// In the order given.
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
