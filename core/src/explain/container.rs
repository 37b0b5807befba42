//! Everything about one container that waits: for each type what stands in the way, or what is on
//! its way.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::instance::Ago;
use crate::capacity::Blocked;
use crate::dispatcher::Dispatcher;
use crate::fleet::vm::{Phase, RunnerPhase, Vm};
use crate::ids::{ContainerId, ImageId, TypeName};
use crate::input::IdleBehavior;
use crate::placement::Hand as _;
use crate::placement::sizing::RuledOut;
use crate::queue::entry::Entry;
use crate::resources::{MIB, MicroDollars};
use crate::time::Timestamp;
use crate::view::ContainerView;

/// Why a container is where it is, and what would take it on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerExplanation {
    /// When this was true, by the loop's clock.
    pub at: Timestamp,
    /// What lists show of it.
    pub container: ContainerView,
    /// How many wait in all.
    pub waiting_in_all: usize,
    /// How far its runner is, and since when, if there is one or a place is kept for it.
    pub runner: Option<(RunnerPhase, Timestamp)>,
    /// Why its last attempt ended, as far as it was seen.
    pub last_exit: Option<String>,
    /// The types that can hold it, cheapest first, while it waits for room.
    pub eligible: Vec<Eligible>,
    /// The other configured types, nearest first, while it waits.
    pub ruled_out: Vec<RuledOut>,
}

/// What a type that could hold the container is waiting for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eligible {
    /// The type.
    pub instance_type: TypeName,
    /// Its price per hour.
    pub price: MicroDollars,
    /// Instances of it that run containers and have no room for this one.
    pub full: usize,
    /// Instances of it that take no containers now: held, drained, in doubt, ending.
    pub closed: usize,
    /// Instances of it on their way, oldest first.
    pub arriving: Vec<Arriving>,
    /// Why no further one is created now; `None` where one would be.
    pub blocked: Option<Blocked>,
}

/// An instance on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arriving {
    /// Its name, or the wish's.
    pub instance: String,
    /// Asked for, booting, or found and not heard yet.
    pub phase: Phase,
    /// Since when.
    pub since: Timestamp,
    /// Given up if it is not ready by then.
    pub due: Timestamp,
    /// How many waiting containers will fit on it.
    pub promised: usize,
    /// Whether this container is one of them.
    pub for_this: bool,
}

impl Dispatcher {
    /// Everything about one container, as of `now`. O(containers + instances + types).
    pub(crate) fn explain_container(
        &self,
        now: Timestamp,
        id: ContainerId,
    ) -> Option<ContainerExplanation> {
        let container = self.view().container(id)?;
        let entry = self.queue().get(&id)?;
        let runner = self.fleet().hosts(id).next().and_then(|key| {
            let runner = self.fleet().get(key)?.runners.get(&id)?;
            Some((runner.phase, runner.since))
        });
        let waits = container.waiting.is_some();
        let for_room = waits && runner.is_none();
        Some(ContainerExplanation {
            at: now,
            waiting_in_all: self.queue().waiting_in_order().len(),
            runner,
            last_exit: entry.exit.as_ref().map(|exit| exit.reason.clone()),
            eligible: match for_room {
                true => self.eligible(now, entry, &container.eligible),
                false => Vec::new(),
            },
            ruled_out: match (for_room, &entry.shape) {
                (true, Ok(shape)) => {
                    let shape = &self.queue().shape(*shape).shape;
                    shape.ruled_out(self.config(), &container.eligible)
                }
                _ => Vec::new(),
            },
            container,
        })
    }

    fn eligible(&self, now: Timestamp, entry: &Entry, names: &[TypeName]) -> Vec<Eligible> {
        let Ok(shape) = entry.shape else {
            return Vec::new();
        };
        let image = &self.queue().shape(shape).shape.image;
        let known = |name: &TypeName| Some((name.clone(), self.config().types.get(name)?.price));
        let describe = |(name, price): (TypeName, MicroDollars)| {
            let ours = self.fleet().iter();
            let ours = ours.filter(|vm| vm.type_name == name && vm.image == *image);
            let mut offer = Eligible {
                price,
                full: 0,
                closed: 0,
                arriving: Vec::new(),
                blocked: self.blocked_now(now, &name, image),
                instance_type: name.clone(),
            };
            for vm in ours {
                match vm.phase {
                    _ if !vm.takes_containers() => offer.closed += 1,
                    Phase::Ready => offer.full += 1,
                    _ => offer.arriving.push(self.arriving(entry.id, vm)),
                }
            }
            offer
        };
        names.iter().filter_map(known).map(describe).collect()
    }

    /// What a pass of placement would be told now.
    fn blocked_now(&self, now: Timestamp, name: &TypeName, image: &ImageId) -> Option<Blocked> {
        let blocked = self.may_create(name, image).err()?;
        // What was to end since the last input has ended.
        let over = blocked.until().is_some_and(|until| until <= now);
        (!over).then_some(blocked)
    }

    fn arriving(&self, id: ContainerId, vm: &Vm) -> Arriving {
        let awaiting = &self.verdicts().awaiting;
        Arriving {
            instance: vm.name(),
            phase: vm.phase,
            since: vm.phase_since(),
            due: self.ready_due(vm),
            promised: awaiting.values().filter(|key| **key == vm.key).count(),
            for_this: awaiting.get(&id) == Some(&vm.key),
        }
    }

    /// When a VM on its way is given up.
    pub(crate) fn ready_due(&self, vm: &Vm) -> Timestamp {
        match (vm.phase, vm.behavior, vm.write_off_at) {
            (_, IdleBehavior::Hold, _) => Timestamp::NEVER,
            (Phase::Creating, _, Some(at)) => at,
            (Phase::Creating, ..) => vm.since + self.config().timeouts.cloud_answer,
            _ => self.boot_due(vm).map_or(Timestamp::NEVER, |(due, _)| due),
        }
    }
}

impl fmt::Display for ContainerExplanation {
    /// Some lines for people, the last without a line break.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ago = Ago(self.at);
        let c = &self.container;
        write!(
            f,
            "{}: {}, priority {}, submitted {}",
            c.id,
            c.state.name(),
            c.priority,
            ago.past(c.created_at)
        )?;
        if let Some(need) = &c.need {
            write!(
                f,
                "\nneeds {} vcpus, {} MiB of memory, {} MiB of scratch, {} GPUs, headroom included",
                need.vcpus,
                need.ram.div_ceil(MIB),
                need.scratch.div_ceil(MIB),
                need.gpus
            )?;
        }
        if let (Some((phase, since)), Some(instance)) = (self.runner, &c.instance) {
            let what = match phase {
                RunnerPhase::Assigned => "a place is kept for it on",
                RunnerPhase::Starting => "its runner is being started on",
                RunnerPhase::Unsure => "its runner may or may not have been started on",
                RunnerPhase::Alive => "it runs on",
            };
            write!(f, "\n{what} {instance}, {}", ago.lasting(since))?;
        }
        if !c.status.is_empty() {
            write!(f, "\n{}", c.status)?;
        }
        if let Some(position) = c.position {
            write!(
                f,
                "\nposition {position} of {} that wait",
                self.waiting_in_all
            )?;
        }
        if let Some(unblocked_by) = &c.unblocked_by {
            write!(f, "\nwhat ends the wait: {unblocked_by}")?;
        }
        if let Some(reason) = &self.last_exit {
            write!(f, "\nits last attempt: {reason}")?;
        }
        for eligible in &self.eligible {
            eligible.write(f, &ago)?;
        }
        for other in &self.ruled_out {
            let lacks: Vec<String> = other.lacks.iter().map(ToString::to_string).collect();
            write!(
                f,
                "\n  {} is not eligible: {}",
                other.instance_type,
                lacks.join(", ")
            )?;
        }
        Ok(())
    }
}

impl Eligible {
    fn write(&self, f: &mut fmt::Formatter<'_>, ago: &Ago) -> fmt::Result {
        write!(f, "\n  {} ({} an hour): ", self.instance_type, self.price)?;
        match &self.blocked {
            None => f.write_str("one more may be created")?,
            Some(why) => {
                write!(f, "{why}")?;
                if let Some(until) = why.until() {
                    write!(f, ", until {}", ago.future(until))?;
                }
                write!(f, "; what ends it: {}", why.remedy())?;
            }
        }
        if self.full > 0 {
            write!(f, "; {} have no room", self.full)?;
        }
        if self.closed > 0 {
            write!(f, "; {} closed to containers", self.closed)?;
        }
        for vm in &self.arriving {
            let mine = if vm.for_this {
                ", this one among them"
            } else {
                ""
            };
            write!(
                f,
                "\n    {} {}, {}, given up {} if not ready; {} that wait will fit{mine}",
                vm.instance,
                super::instance::phase_name(vm.phase),
                ago.lasting(vm.since),
                ago.future(vm.due),
                vm.promised,
            )?;
        }
        Ok(())
    }
}
