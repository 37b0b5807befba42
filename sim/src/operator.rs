//! The operator: holds, drains and kills, and lets go of what is held.

use std::time::Duration;

use longshore_core::ids::{ContainerId, InstanceId};
use longshore_core::input::{IdleBehavior, OperatorRequest};

use crate::chance::Chance;
use crate::faults::Fault;
use crate::stage::{Happening, Stage};

/// What the operator does.
#[derive(Clone, Debug)]
pub(crate) enum OperatorStep {
    /// Looks whether something is to be done.
    Tick,
    /// Lets go of a VM.
    Release(InstanceId),
}

/// The operator.
#[derive(Debug)]
pub(crate) struct OperatorPart {
    chance: Chance,
}

/// What an operator sees of the dispatcher.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sight {
    pub(crate) instances: Vec<InstanceId>,
    pub(crate) held: Vec<InstanceId>,
    pub(crate) containers: Vec<ContainerId>,
}

const TICK: Duration = Duration::from_secs(60);

impl OperatorPart {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            chance: Chance::new(seed, "operator"),
        }
    }

    /// What is wished now.
    pub(crate) fn step(
        &mut self,
        stage: &mut Stage,
        step: OperatorStep,
        sight: &Sight,
    ) -> Vec<OperatorRequest> {
        match step {
            OperatorStep::Release(instance) => vec![set(instance, IdleBehavior::Run)],
            OperatorStep::Tick => {
                stage.after(TICK, Happening::Operator(OperatorStep::Tick));
                if stage.faults.healed() {
                    // Whatever was held is let go, as often as needed until it is heard.
                    let held = sight.held.iter().cloned();
                    return held.map(|id| set(id, IdleBehavior::Run)).collect();
                }
                self.wishes(stage, sight)
            }
        }
    }

    fn wishes(&mut self, stage: &mut Stage, sight: &Sight) -> Vec<OperatorRequest> {
        let mut wishes = Vec::new();
        let chance = &mut self.chance;
        if let Some(id) = chance.pick(&sight.instances).cloned() {
            if stage.faults.strikes(chance, Fault::OperatorHolds) {
                let pause = chance.secs(10, 3600);
                let release = OperatorStep::Release(id.clone());
                stage.after(pause, Happening::Operator(release));
                wishes.push(set(id.clone(), IdleBehavior::Hold));
            }
            if stage.faults.strikes(chance, Fault::OperatorDrains) {
                wishes.push(set(id.clone(), IdleBehavior::Drain));
            }
            if stage.faults.strikes(chance, Fault::OperatorKillsVm) {
                wishes.push(OperatorRequest::KillInstance {
                    instance: id,
                    reason: "it looks odd".to_owned(),
                });
            }
        }
        if let Some(container) = chance.pick(&sight.containers).copied()
            && stage.faults.strikes(chance, Fault::OperatorKillsContainer)
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
