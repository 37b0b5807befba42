//! Operator: holds, drains, kills and releases of held VMs.

use std::time::Duration;

use longshore_core::ids::{ContainerId, InstanceId};
use longshore_core::input::{IdleBehavior, OperatorRequest};

use crate::world::events::{Happening, OperatorStep};
use crate::world::faults::Fault;
use crate::world::rng::Rng;
use crate::world::scheduler::Scheduler;

/// State of the operator.
#[derive(Debug)]
pub(crate) struct OperatorPart {
    rng: Rng,
}

/// Operator's view of the dispatcher.
#[derive(Clone, Debug, Default)]
pub(crate) struct OperatorView {
    pub(crate) instances: Vec<InstanceId>,
    pub(crate) held: Vec<InstanceId>,
    pub(crate) containers: Vec<ContainerId>,
}

const TICK: Duration = Duration::from_secs(60);

impl OperatorPart {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed, "operator"),
        }
    }

    /// Returns the operator's requests of the current step.
    pub(crate) fn step(
        &mut self,
        scheduler: &mut Scheduler,
        step: OperatorStep,
        operator_view: &OperatorView,
    ) -> Vec<OperatorRequest> {
        match step {
            OperatorStep::Release(instance) => vec![set(instance, IdleBehavior::Run)],
            OperatorStep::Tick => {
                scheduler.after(TICK, Happening::Operator(OperatorStep::Tick));
                if scheduler.faults.stopped() {
                    // Releases all held VMs, repeated on every tick until the dispatcher has
                    // applied the requests.
                    let held = operator_view.held.iter().cloned();
                    return held.map(|id| set(id, IdleBehavior::Run)).collect();
                }
                self.wishes(scheduler, operator_view)
            }
        }
    }

    fn wishes(
        &mut self,
        scheduler: &mut Scheduler,
        operator_view: &OperatorView,
    ) -> Vec<OperatorRequest> {
        let mut wishes = Vec::new();
        let rng = &mut self.rng;
        if let Some(id) = rng.pick(&operator_view.instances).cloned() {
            if scheduler.faults.strikes(rng, Fault::OperatorHolds) {
                let pause = rng.secs(10, 3600);
                let release = OperatorStep::Release(id.clone());
                scheduler.after(pause, Happening::Operator(release));
                wishes.push(set(id.clone(), IdleBehavior::Hold));
            }
            if scheduler.faults.strikes(rng, Fault::OperatorDrains) {
                wishes.push(set(id.clone(), IdleBehavior::Drain));
            }
            if scheduler.faults.strikes(rng, Fault::OperatorKillsVm) {
                wishes.push(OperatorRequest::KillInstance {
                    instance: id,
                    reason: "it looks odd".to_owned(),
                });
            }
        }
        if let Some(container) = rng.pick(&operator_view.containers).copied()
            && scheduler.faults.strikes(rng, Fault::OperatorKillsContainer)
        {
            wishes.push(OperatorRequest::KillContainer {
                container,
                reason: "it takes too much".to_owned(),
            });
        }
        wishes
    }
}

fn set(instance: InstanceId, behavior: IdleBehavior) -> OperatorRequest {
    OperatorRequest::SetIdleBehavior { instance, behavior }
}

/// Returns the operator's part of the dispatcher's view.
pub(crate) fn operator_view(view: &longshore_core::view::View<'_>) -> OperatorView {
    let mut operator_view = OperatorView::default();
    for instance in view.instances() {
        let Some(id) = instance.instance else {
            continue;
        };
        if instance.idle_behavior == IdleBehavior::Hold {
            operator_view.held.push(id.clone());
        }
        operator_view.instances.push(id);
        operator_view.containers.extend(instance.containers);
    }
    operator_view
}
