//! Terminations: a missing instance is not a dead one, and an idle instance is probed once more.

use std::collections::{BTreeMap, BTreeSet};

use longshore_core::ShutdownReason;
use longshore_core::command::{Action, CloudAction, Command};
use longshore_core::event::Event;
use longshore_core::ids::InstanceId;
use longshore_core::input::{Answer, Input, OperatorRequest};
use longshore_core::time::Timestamp;

use crate::checks::check::{Check, Context, LEAVES_MAX};
use crate::checks::ledger::{Open, Subject};
use crate::world::dense_map::DenseMap;
use crate::world::observation::Findings;

/// Instances are neither given up too early nor destroyed without a fresh probe.
#[derive(Debug, Default)]
pub(super) struct Terminations {
    of: [Memory; 2],
}

/// Facts about one process, reset at a change of leadership.
#[derive(Debug, Default)]
struct Memory {
    /// Time at which the core first saw each instance created by the core.
    appeared: BTreeMap<InstanceId, Timestamp>,
    /// Time of sending of the last probe without a runner in its report, by instance.
    idle: DenseMap<InstanceId, Timestamp>,
    /// Time of the last report of readiness, by instance.
    ready: DenseMap<InstanceId, Timestamp>,
    /// Instances killed by the operator.
    killed: BTreeSet<InstanceId>,
}

/// True if the instance is terminated although no failure or operator demands the termination.
pub(super) fn is_gentle(reason: &ShutdownReason) -> bool {
    matches!(
        reason,
        ShutdownReason::Idle | ShutdownReason::Drained | ShutdownReason::MakeRoom
    )
}

impl Check for Terminations {
    fn on_input(&mut self, at: &Context<'_>, input: &Input) {
        if let Input::OperatorRequest(OperatorRequest::KillInstance { instance, .. }) = input {
            self.of[at.process].killed.insert(instance.clone());
        }
    }

    fn on_leadership_change(&mut self, at: &Context<'_>, _: bool) {
        self.of[at.process] = Memory::default();
    }

    fn on_answer(&mut self, at: &Context<'_>, open: &Open, answer: &Answer, _: &mut Findings) {
        if let (Subject::Probe(instance), Answer::Probed(Ok(report))) = (&open.subject, answer)
            && report.ready.is_ok()
        {
            let memory = &mut self.of[at.process];
            memory.ready.insert(instance, at.now());
            let list = report.runners.as_ref();
            if list.is_some_and(|list| list.runners.iter().all(|runner| runner.stale)) {
                memory.idle.insert(instance, open.since);
            }
        }
    }

    fn on_event(&mut self, at: &Context<'_>, event: &Event, findings: &mut Findings) {
        let memory = &mut self.of[at.process];
        match event {
            Event::Created { instance, .. } => {
                let id = InstanceId::from(instance.as_str());
                memory.appeared.insert(id, at.now());
            }
            Event::Gone {
                instance, expected, ..
            } => {
                let id = InstanceId::from(instance.as_str());
                let appeared = memory.appeared.remove(&id);
                let grace = at.config().timeouts.disappear_grace;
                let young = appeared.is_some_and(|seen| at.now().since(seen) <= grace);
                if expected.is_none() && young && at.world.cloud.is_alive(&id) {
                    let text = format!("{id} is young and alive, and taken for gone");
                    findings.violate("missing is not dead", text);
                }
            }
            _ => {}
        }
    }

    fn on_command(&mut self, at: &Context<'_>, command: &Command, findings: &mut Findings) {
        if let Action::Cloud {
            action: CloudAction::Destroy { instance },
            ..
        } = &command.action
            && let Some(reason) = self.unconfirmed(at, instance)
        {
            let text = format!("{instance} is destroyed ({reason}) without a fresh probe");
            findings.violate("idle VMs are asked first", text);
        }
    }

    fn on_id_reused(&mut self, id: &InstanceId) {
        for memory in &mut self.of {
            memory.appeared.remove(id);
            memory.idle.remove(id);
            memory.ready.remove(id);
            memory.killed.remove(id);
        }
    }
}

impl Terminations {
    /// Reason of a termination without a probe, sent after the decision, that has shown no runner.
    /// `None` if the termination needs no such probe.
    fn unconfirmed<'a>(
        &self,
        at: &Context<'a>,
        instance: &InstanceId,
    ) -> Option<&'a ShutdownReason> {
        let (ledger, memory) = (at.ledger, &self.of[at.process]);
        let (reason, since) = ledger.terminating.get(instance)?;
        let ready = memory.ready.get(instance)?;
        let silent = *ready + at.config().timeouts.probe <= at.now();
        let confirmed = memory.idle.get(instance).is_some_and(|sent| sent >= since);
        let again = ledger.destroyed.contains(instance);
        // An instance terminated during its boot was never used: the destroy may wait for the rate
        // limit, and the first good answer may come meanwhile.
        let verified = ledger.verified_at.get(instance);
        let used = verified.is_some_and(|first| *first + LEAVES_MAX < *since);
        let excused = again || silent || memory.killed.contains(instance);
        (is_gentle(reason) && !confirmed && !excused && used).then_some(reason)
    }
}
