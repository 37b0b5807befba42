//! Bounds on the number of calls per minute, under any fault.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_core::command::{Action, CloudAction, Command, QueueAction, VmAction};
use longshore_core::config::Config;
use longshore_core::ids::{ContainerId, InstanceId};

use crate::checks::check::{Check, Context};
use crate::world::dense_map::DenseMap;
use crate::world::events::Origin;
use crate::world::observation::Findings;

const MINUTE: Duration = Duration::from_secs(60);

/// No process calls in a tight loop.
#[derive(Debug, Default)]
pub(super) struct CallBounds {
    /// Number of the present minute.
    minute: u64,
    counts: BTreeMap<(Origin, Call), u32>,
    /// Counts of probes, by far the most frequent calls.
    probes: BTreeMap<Origin, DenseMap<InstanceId, u32>>,
}

/// Class of calls with a common count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    Poll,
    Lookup,
    List,
    Create,
    Update(ContainerId),
    Destroy(InstanceId),
    Tag(InstanceId),
    Probe(InstanceId),
    Start(InstanceId),
    Signal(InstanceId, ContainerId),
}

impl Call {
    fn of(action: &Action) -> Self {
        match action {
            Action::Queue(QueueAction::Poll { .. }) => Self::Poll,
            Action::Queue(QueueAction::Lookup { .. }) => Self::Lookup,
            Action::Queue(
                QueueAction::Lock { id }
                | QueueAction::Unlock { id }
                | QueueAction::Requeue { id, .. }
                | QueueAction::Cancel { id, .. },
            ) => Self::Update(*id),
            Action::Cloud { action, .. } => match action {
                CloudAction::List => Self::List,
                CloudAction::Create { .. } => Self::Create,
                CloudAction::Destroy { instance } => Self::Destroy(instance.clone()),
                CloudAction::Tag { instance, .. } => Self::Tag(instance.clone()),
            },
            Action::Vm {
                instance, action, ..
            } => match action {
                VmAction::Probe { .. } => Self::Probe(instance.clone()),
                VmAction::Start { .. } => Self::Start(instance.clone()),
                VmAction::Signal { container, .. } => Self::Signal(instance.clone(), *container),
            },
        }
    }

    /// Largest number per minute without a tight loop.
    fn bound(&self, config: &Config) -> u32 {
        let timeouts = &config.timeouts;
        match self {
            Self::Create => creates_max(config),
            // Hints are unlimited; two reads are at least a tenth of a second apart.
            Self::Poll | Self::Lookup => times(Duration::from_millis(100)),
            // Awaited instances are listed every second.
            Self::List => times(Duration::from_secs(1)),
            // A VM in doubt for several reasons is probed once for each reason.
            Self::Probe(_) => 2 * times(Duration::from_secs(1)),
            Self::Update(_) => 40,
            // As many short containers may run one after the other.
            Self::Start(_) => 2 * times(Duration::from_secs(1)),
            Self::Signal(..) => times(timeouts.signal),
            Self::Destroy(_) => times(timeouts.shutdown),
            // One per ten seconds, and one per new request of the operator.
            Self::Tag(_) => 2 * times(Duration::from_secs(10)),
        }
    }
}

/// Number of calls per minute at one call per `each`, with room for delayed calls.
fn times(each: Duration) -> u32 {
    let times = MINUTE.as_nanos() / each.as_nanos().max(1);
    u32::try_from(times).unwrap_or(u32::MAX).saturating_add(4)
}

/// Creates per minute: within the own rates, and no more than three times all instances and a retry
/// of each failing type every five seconds.
fn creates_max(config: &Config) -> u32 {
    let limits = &config.limits;
    let rates = [limits.creates, limits.cloud_ops].into_iter().flatten();
    let rates = rates.map(|rate| times(rate.interval).saturating_add(rate.burst));
    let types = u32::try_from(config.types.len()).unwrap_or(u32::MAX);
    let retries = types.saturating_mul(times(Duration::from_secs(5)));
    let anew = limits.instances.map(|max| max.saturating_mul(3));
    let anew = anew.map(|anew| anew.saturating_add(retries));
    rates.chain(anew).min().unwrap_or(20_000)
}

impl Check for CallBounds {
    fn on_command(&mut self, at: &Context<'_>, command: &Command, findings: &mut Findings) {
        let minute = at.world.scheduler.elapsed().as_secs() / 60;
        if minute != self.minute {
            self.minute = minute;
            self.counts.clear();
            self.probes.clear();
        }
        let from = at.world.processes.origin(at.process);
        if let Action::Vm {
            instance,
            action: VmAction::Start { container, .. },
            ..
        } = &command.action
        {
            // Another attempt has another runner, possibly with signals of its own.
            let signals = Call::Signal(instance.clone(), *container);
            self.counts.remove(&(from, signals));
        }
        let call = Call::of(&command.action);
        let bound = call.bound(at.config());
        let count = match &call {
            Call::Probe(instance) => {
                let probes = self.probes.entry(from).or_default();
                probes.or_insert_with(instance, || 0)
            }
            _ => self.counts.entry((from, call)).or_default(),
        };
        *count += 1;
        if *count == bound + 1 {
            let text = format!("more than {bound} times a minute: {:?}", command.action);
            findings.violate("no tight loops", text);
        }
    }
}
