//! Report of the work left in a run without an end.

use crate::world::World;

/// Describes up to ten each of the containers and instances left, as the queue, the cloud and the core
/// have them.
pub(crate) fn stuck(world: &World) -> Vec<String> {
    let mut lines = Vec::new();
    let view = world.processes.all[0].core.as_ref().map(|core| core.view());
    for (id, record) in world.queue.open_records().take(10) {
        let shown = view.as_ref().and_then(|view| view.container(*id));
        let why = shown.map(|c| format!("{:?} on {:?}, {:?}", c.state, c.instance, c.waiting));
        lines.push(format!(
            "{id} is {:?}, priority {}, locked {} times; the core: {why:?}",
            record.state, record.priority, record.lock_count
        ));
    }
    for instance in world.cloud.living().take(10) {
        let id = &instance.record.id;
        let shown = view.as_ref().and_then(|view| view.instance(id));
        let why = shown.map(|v| {
            format!(
                "{:?}, {:?}, containers {:?}, leaving {:?}, complaint {:?}",
                v.phase, v.idle_behavior, v.containers, v.terminating, v.complaint
            )
        });
        lines.push(format!("{id} exists; the core: {why:?}"));
    }
    for instance in view.iter().flat_map(|v| v.instances()).take(10) {
        let gone = instance.instance.as_ref();
        if gone.is_none_or(|id| !world.cloud.is_alive(id)) {
            lines.push(format!("the core has {instance:?}"));
        }
    }
    for container in view.iter().flat_map(|v| v.containers()).take(10) {
        lines.push(format!("the core has {container:?}"));
    }
    lines
}
