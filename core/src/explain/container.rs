//! Explanation of a container: for each instance type the obstacle, or the pending instances.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::instance::RelativeTime;
use crate::capacity::CreateBlocked;
use crate::capacity::budgets::short;
use crate::container_class::{ContainerClass, IneligibleType};
use crate::fleet::vm::{Phase, RunnerPhase, Vm};
use crate::ids::{ContainerId, TypeName, VmName};
use crate::input::IdleBehavior;
use crate::placement::PlacementOps as _;
use crate::queue::classes::ClassId;
use crate::queue::entry::Entry;
use crate::resources::{MIB, MicroDollars};
use crate::time::Timestamp;
use crate::view::{ContainerView, View};

/// Explanation of the state of a container, with the remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerExplanation {
    /// Time of the explanation, by the clock of the loop.
    pub at: Timestamp,
    /// Entry of the container in lists.
    pub container: ContainerView,
    /// Number of all waiting containers.
    #[serde(alias = "waiting_in_all")]
    pub waiting_total: usize,
    /// Phase of the runner or assignment, with the start of the phase.
    pub runner: Option<(RunnerPhase, Timestamp)>,
    /// Reason of the end of the last attempt, if observed.
    pub last_exit: Option<String>,
    /// Types able to hold the container, cheapest first, followed by the types of
    /// `SpotFallback.After`; empty unless waiting for room.
    pub eligible: Vec<Eligible>,
    /// All other configured types, nearest first; empty unless waiting for room.
    #[serde(alias = "ruled_out")]
    pub ineligible: Vec<IneligibleType>,
}

/// Instances and obstacles of an eligible type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eligible {
    /// Configured type.
    pub instance_type: TypeName,
    /// Price per hour.
    pub price: MicroDollars,
    /// Condition of use of a non-preemptible type for a preemptible container.
    pub fallback: Option<Fallback>,
    /// Number of instances with containers and without room for this container.
    pub full: usize,
    /// Number of instances with room, where another container or none goes first.
    pub roomy: usize,
    /// Number of unschedulable instances: held, drained, quarantined, terminating.
    #[serde(alias = "closed")]
    pub unschedulable: usize,
    /// Pending instances, oldest first.
    #[serde(alias = "arriving")]
    pub pending: Vec<PendingInstance>,
    /// Obstacle to one more instance; `None` if creation is possible.
    pub blocked: Option<CreateBlocked>,
}

/// Use of non-preemptible types for a preemptible container (`SpotFallback.After`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fallback {
    /// Time of failure required of every preemptible type.
    pub after: Duration,
    /// Start of the fallback, past or future, if all preemptible types go on failing; absent if any
    /// succeeds.
    pub begins: Option<Timestamp>,
}

/// Instance not ready yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingInstance {
    /// Name of the instance, or of the create request.
    pub instance: VmName,
    /// Phase: creating, booting, or adopted and unprobed.
    pub phase: Phase,
    /// Start of the phase.
    pub since: Timestamp,
    /// Deadline for becoming ready.
    pub due: Timestamp,
    /// Number of containers with a reservation.
    pub reserved: usize,
    /// True if this container has a reservation.
    pub for_this: bool,
}

impl View<'_> {
    /// Explains a container as of `now`, the time of the loop. O(containers + instances + types).
    #[must_use]
    pub fn explain_container(
        &self,
        now: Timestamp,
        id: ContainerId,
    ) -> Option<ContainerExplanation> {
        let container = self.container(id)?;
        let entry = self.core.queue().get(&id)?;
        let runner = self.core.fleet().hosts(id).next().and_then(|key| {
            let runner = self.core.fleet().get(key)?.work.runners.get(&id)?;
            Some((runner.phase, runner.since))
        });
        let waits = container.waiting.is_some();
        let for_room = waits && runner.is_none();
        let eligible = match for_room {
            true => self.eligible(now, entry),
            false => Vec::new(),
        };
        Some(ContainerExplanation {
            at: now,
            waiting_total: self.core.queue().waiting_in_order().len(),
            runner,
            last_exit: entry.exit.as_ref().map(|exit| exit.reason.to_string()),
            ineligible: match (for_room, &entry.class) {
                (true, Ok(class)) => {
                    let class = &self.core.queue().class(*class).class;
                    let ruled_out = class.ruled_out(self.core.config(), &container.eligible);
                    let named = |other: &IneligibleType| {
                        let mut offers = eligible.iter();
                        offers.any(|offer| offer.instance_type == other.instance_type)
                    };
                    ruled_out.into_iter().filter(|r| !named(r)).collect()
                }
                _ => Vec::new(),
            },
            eligible,
            container,
        })
    }

    fn eligible(&self, now: Timestamp, entry: &Entry) -> Vec<Eligible> {
        let Ok(id) = entry.class else {
            return Vec::new();
        };
        let group = self.core.queue().class(id);
        let first = group.types();
        let after = self.core.config().sizing.spot_fallback.after;
        let fallback = after.map(|after| Fallback {
            after,
            begins: self
                .core
                .capacity()
                .all_fail_since(now, self.core.config(), first)
                .map(|since| since + after),
        });
        let named = first.iter().map(|name| (name, None));
        let others = group.fallback().iter().map(|name| (name, fallback));
        let named = named.chain(others);
        let described = named.filter_map(|(name, fallback)| {
            let price = self.core.config().types.get(name)?.price;
            let mut offer = Eligible {
                instance_type: name.clone(),
                price,
                fallback,
                full: 0,
                roomy: 0,
                unschedulable: 0,
                pending: Vec::new(),
                blocked: self.blocked_now(now, id, name),
            };
            self.count_instances(&mut offer, entry.id, &group.class);
            Some(offer)
        });
        described.collect()
    }

    fn count_instances(
        &self,
        offer: &mut Eligible,
        container: ContainerId,
        class: &ContainerClass,
    ) {
        let max = self.core.config().limits.containers_per_instance;
        let fits = |vm: &Vm| {
            let load = vm.load();
            max.is_none_or(|max| load.count < max) && load.admits(&class.need, &vm.total())
        };
        let ours = self.core.fleet().iter();
        for vm in ours.filter(|vm| {
            vm.identity.type_name == offer.instance_type && vm.identity.image == class.image
        }) {
            match vm.phase {
                _ if !vm.takes_containers() => offer.unschedulable += 1,
                Phase::Ready if fits(vm) => offer.roomy += 1,
                Phase::Ready => offer.full += 1,
                _ => offer.pending.push(self.pending(container, vm)),
            }
        }
    }

    /// Obstacle of a type in the last pass, unless ended since. For a type without an obstacle in
    /// that pass, the obstacle to one more instance now.
    fn blocked_now(&self, now: Timestamp, id: ClassId, name: &TypeName) -> Option<CreateBlocked> {
        let group = self.core.queue().class(id);
        let class = &group.class;
        let parked = self.core.verdicts().parked.get(&id);
        let found = parked.and_then(|parked| parked.blocked.iter().find(|(of, _)| of == name));
        let blocked = match found {
            Some((_, why)) => why.clone(),
            None => {
                let first = group.first();
                let may = first.map_or(Ok(()), |rank| self.core.may_start(class, rank));
                may.and_then(|()| self.core.may_create(name, &class.image))
                    .err()?
            }
        };
        // An obstacle with an end before `now` is over.
        let over = blocked.until().is_some_and(|until| until <= now);
        (!over).then_some(blocked)
    }

    fn pending(&self, id: ContainerId, vm: &Vm) -> PendingInstance {
        PendingInstance {
            instance: vm.name(),
            phase: vm.phase,
            since: vm.phase_since(),
            due: self.ready_due(vm),
            reserved: vm.work.reserved.len(),
            for_this: self.core.fleet().reserved_for(&id) == Some(vm.key),
        }
    }

    /// Deadline of a pending instance for becoming ready.
    pub(crate) fn ready_due(&self, vm: &Vm) -> Timestamp {
        match (vm.phase, vm.behavior.idle, vm.lifecycle.write_off_at) {
            (_, IdleBehavior::Hold, _) => Timestamp::NEVER,
            (Phase::Creating, _, Some(at)) => at,
            (Phase::Creating, ..) => vm.lifecycle.since + self.core.config().timeouts.cloud_answer,
            _ => self
                .core
                .boot_due(vm)
                .map_or(Timestamp::NEVER, |(due, _)| due),
        }
    }
}

impl fmt::Display for ContainerExplanation {
    /// Writes several lines for people, without a line break at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ago = RelativeTime(self.at);
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
                RunnerPhase::Assigned => "assigned to",
                RunnerPhase::Starting => "runner starting on",
                RunnerPhase::Unsure => "runner possibly started on",
                RunnerPhase::Alive => "running on",
            };
            write!(f, "\n{what} {instance}, {}", ago.lasting(since))?;
        }
        if !c.status.is_empty() {
            write!(f, "\n{}", c.status)?;
        }
        if let Some(position) = c.position {
            write!(f, "\nposition {position} of {} waiting", self.waiting_total)?;
        }
        if let Some(unblocked_by) = &c.unblocked_by {
            write!(f, "\nunblocked by: {unblocked_by}")?;
        }
        if let Some(reason) = &self.last_exit {
            write!(f, "\nlast attempt: {reason}")?;
        }
        for eligible in &self.eligible {
            eligible.write(f, &ago)?;
        }
        for other in &self.ineligible {
            let shortfalls: Vec<String> =
                other.shortfalls.iter().map(ToString::to_string).collect();
            write!(
                f,
                "\n  {} is not eligible: {}",
                other.instance_type,
                shortfalls.join(", ")
            )?;
        }
        Ok(())
    }
}

impl Fallback {
    fn is_in_force(&self, now: Timestamp) -> bool {
        self.begins.is_some_and(|begins| begins <= now)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, ago: &RelativeTime) -> fmt::Result {
        let after = short(self.after);
        match self.begins {
            _ if self.is_in_force(ago.0) => write!(
                f,
                "used because every preemptible type has failed for {after} (SpotFallback.After); "
            ),
            Some(begins) => write!(
                f,
                "used once every preemptible type has failed for {after} (SpotFallback.After), {}; ",
                ago.future(begins)
            ),
            None => write!(
                f,
                "used only while every preemptible type has failed for {after} \
                 (SpotFallback.After), and one does not fail; "
            ),
        }
    }
}

impl Eligible {
    fn write(&self, f: &mut fmt::Formatter<'_>, ago: &RelativeTime) -> fmt::Result {
        write!(f, "\n  {} ({} an hour): ", self.instance_type, self.price)?;
        if let Some(fallback) = &self.fallback {
            fallback.write(f, ago)?;
        }
        match &self.blocked {
            None if self
                .fallback
                .is_some_and(|fallback| !fallback.is_in_force(ago.0)) => {}
            None => f.write_str("one more may be created")?,
            Some(why) => {
                write!(f, "{why}")?;
                if let Some(until) = why.until() {
                    write!(f, ", until {}", ago.future(until))?;
                }
                write!(f, "; unblocked by: {}", why.remedy())?;
            }
        }
        if self.full > 0 {
            write!(f, "; {} full", self.full)?;
        }
        if self.roomy > 0 {
            write!(f, "; {} with room", self.roomy)?;
        }
        if self.unschedulable > 0 {
            write!(f, "; {} unschedulable", self.unschedulable)?;
        }
        for pending in &self.pending {
            let mine = if pending.for_this {
                ", this container included"
            } else {
                ""
            };
            write!(
                f,
                "\n    {} {}, {}, terminated {} if not ready; reservations: {}{mine}",
                pending.instance,
                super::instance::phase_name(pending.phase),
                ago.lasting(pending.since),
                ago.future(pending.due),
                pending.reserved,
            )?;
        }
        Ok(())
    }
}
