//! Rules about how much runs and what it costs, reckoned independently of the core.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_core::command::{Action, CloudAction, Command, QueueAction};
use longshore_core::ids::{ContainerId, ImageId, TypeName, VmName};
use longshore_core::input::{Answer, IdleBehavior, Input, QueueError};
use longshore_core::time::Timestamp;
use longshore_core::view::View;
use longshore_core::{CreateBlocked, Phase, WaitReason};

use crate::world::World;

/// Several inputs may be taken before commands are drained: so much older a decision may be.
const DRAIN_MAX: Duration = Duration::from_secs(5);
const HOUR_NANOS: u128 = 3_600_000_000_000;
/// Rules that look at everything are kept for small worlds.
const CROWD: usize = 200;

/// What is remembered of each process while it may act.
#[derive(Debug, Default)]
pub(crate) struct Thrift {
    of: [Memory; 2],
    looked_at: Option<Timestamp>,
    /// How long each container was seen to wait for limits of the operator's own.
    own_limits: BTreeMap<ContainerId, Duration>,
}

#[derive(Debug, Default)]
struct Memory {
    /// What all instances cost per hour, in spans without a gap, oldest first.
    spans: Vec<(Timestamp, u64)>,
    counted_to: Timestamp,
    /// How many containers may run, as it was then.
    crowd: Option<(u32, Timestamp)>,
}

impl Memory {
    fn crowd_max(&self, now: Timestamp) -> Option<u32> {
        let (mut max, since) = self.crowd?;
        let mut minute = since + Duration::from_secs(60);
        while minute <= now && max < 1_000_000 {
            max += 1.max(max / 10);
            minute = minute + Duration::from_secs(60);
        }
        Some(max)
    }

    /// What was spent since then, in millionths of a dollar per hour times nanoseconds.
    fn spent_since(&self, since: Timestamp) -> u128 {
        let ends = self.spans.iter().skip(1).map(|(begin, _)| *begin);
        let ends = ends.chain([self.counted_to]);
        let cost = |((begin, price), end): (&(Timestamp, u64), Timestamp)| {
            end.since((*begin).max(since)).as_nanos() * u128::from(*price)
        };
        self.spans.iter().zip(ends).map(cost).sum()
    }
}

impl World {
    /// A process is about to hear something.
    pub(crate) fn thrift_hears(&mut self, index: usize, input: &Input) {
        let now = self.scheduler.now;
        self.count_price(index);
        let process = &self.processes.all[index];
        let memory = &mut self.thrift.of[index];
        match input {
            Input::Leadership { held } if *held != process.ledger.leader => {
                let estimate = process.config.limits.initial_quota;
                *memory = Memory {
                    counted_to: now,
                    crowd: estimate.filter(|_| *held).map(|max| (max.max(1), now)),
                    ..Memory::default()
                };
            }
            Input::Answer {
                id,
                answer:
                    Answer::Containers(Err(QueueError::Overloaded(_)))
                    | Answer::Updated(Err(QueueError::Overloaded(_))),
            } => {
                let open = process.ledger.open(*id);
                let heard = open.is_some_and(|open| open.deadline > now);
                if let Some(core) = process.core.as_ref().filter(|_| heard) {
                    let running = core.view().runners().0;
                    let fewer = u32::try_from(running).unwrap_or(u32::MAX);
                    let fewer = fewer.saturating_sub(1).max(1);
                    let max = memory.crowd_max(now).unwrap_or(u32::MAX);
                    memory.crowd = Some((max.min(fewer), now));
                }
            }
            _ => {}
        }
    }

    /// Keeps account of what everything costs that the process knows of or has asked for.
    fn count_price(&mut self, index: usize) {
        let (process, now) = (&self.processes.all[index], self.scheduler.now);
        let budgets = &process.config.limits.budgets;
        let Some(window) = budgets.iter().map(|budget| budget.window).max() else {
            return;
        };
        let price = self.known_price(index);
        let memory = &mut self.thrift.of[index];
        if memory
            .spans
            .last()
            .is_none_or(|(_, before)| *before != price)
        {
            memory.spans.push((memory.counted_to, price));
        }
        memory.counted_to = now;
        let over = memory.spans.iter().skip(1);
        let over = over.take_while(|(begin, _)| *begin + window < now).count();
        memory.spans.drain(..over);
    }

    fn known_price(&self, index: usize) -> u64 {
        let process = &self.processes.all[index];
        let known = process.ledger.known.keys();
        let known = known.filter_map(|id| self.cloud.instances.get(id));
        let alive = known.filter(|instance| instance.ended.is_none());
        let names = alive.map(|instance| &instance.type_name);
        let wishes = process.ledger.counted_wishes(self.scheduler.now);
        let offers = names
            .chain(wishes.map(|wish| &wish.type_name))
            .filter_map(|name| process.config.types.get(name));
        offers.map(|offer| offer.price.0).sum()
    }

    /// A command leaves a process.
    pub(crate) fn thrift_command(&mut self, index: usize, command: &Command) {
        let wrong = match &command.action {
            Action::Cloud {
                action: CloudAction::Create { .. },
                ..
            } => self.over_budget(index),
            Action::Queue(QueueAction::Lock { id }) => self.over_crowd(index, *id),
            _ => None,
        };
        if let Some((rule, text)) = wrong {
            self.scheduler.violate(rule, text);
        }
    }

    fn over_budget(&mut self, index: usize) -> Option<(&'static str, String)> {
        self.count_price(index);
        let (now, memory) = (self.scheduler.now, &self.thrift.of[index]);
        let slack = u128::from(self.known_price(index)) * DRAIN_MAX.as_nanos();
        let budgets = &self.processes.all[index].config.limits.budgets;
        let over = budgets.iter().find(|budget| {
            let spent = memory.spent_since(now - budget.window);
            spent > u128::from(budget.limit.0) * HOUR_NANOS + slack
        })?;
        let text = format!("something is created though {over:?} is used up");
        Some(("budgets", text))
    }

    /// A container gets a place: there must be room for one more of its kind, and nobody may be
    /// waiting for that place who ranks higher.
    fn over_crowd(&self, index: usize, id: ContainerId) -> Option<(&'static str, String)> {
        let (now, process) = (self.scheduler.now, &self.processes.all[index]);
        let view = process.core.as_ref()?.view();
        if !view.is_hosted(id) {
            return None;
        }
        let (running, supervisors) = view.runners();
        let crowd = self.thrift.of[index].crowd_max(now);
        if let Some(max) = crowd.filter(|max| running > *max as usize) {
            let text = format!("{running} containers, no more than {max} may run");
            return Some(("overload", text));
        }
        let limits = &process.config.limits;
        let demand = self.queue.records.get(&id)?.demand.as_ref().ok()?;
        let all = [crowd, limits.instances].into_iter().flatten().min();
        if let (true, Some(all), Some(ppm)) =
            (demand.supervisor, all, limits.supervisor_fraction_ppm)
        {
            let max = (u64::from(all) * ppm / 1_000_000).max(1);
            if supervisors as u64 > max {
                let text = format!("{supervisors} supervisors, no more than {max} may run");
                return Some(("supervisors", text));
            }
        }
        if self.queue.open > CROWD {
            return None;
        }
        let image = |id: ContainerId| {
            let demand = self.queue.records.get(&id)?.demand.as_ref().ok()?;
            let own = demand.vm_image.clone();
            Some(own.unwrap_or_else(|| process.config.image.clone()))
        };
        let (vm, high) = taken_from(&view, image, id)?;
        let text = format!("{id} gets {vm}, the only one that {high} could wait for");
        Some(("the last VM is kept", text))
    }

    /// What is judged now and then.
    pub(crate) fn thrift_looks(&mut self) {
        let now = self.scheduler.now;
        let before = self.thrift.looked_at.replace(now);
        let gap = before.map_or(Duration::ZERO, |before| now.since(before));
        let Some(core) = &self.processes.all[0].core else {
            return;
        };
        let view = core.view();
        let instances = view.instances();
        let runners: usize = instances.iter().map(|vm| vm.containers.len()).sum();
        let counted = view.runners();
        if self.processes.all[0].config.timeouts.scheduling.is_some() {
            for container in view.containers() {
                let Some(WaitReason::CreateBlocked(blocked)) = &container.waiting else {
                    continue;
                };
                if blocked.iter().any(|(_, why)| is_own(why)) {
                    *self.thrift.own_limits.entry(container.id).or_default() += gap;
                }
            }
        }
        if counted.0 != runners {
            let text = format!("{runners} runners, {counted:?} counted");
            self.scheduler.violate("counters", text);
        }
    }

    /// Whether a container may be cancelled because it waited for too long. What stood in its way was
    /// seen now and then only, so half of the time is not judged.
    pub(crate) fn impatient(&self, index: usize, id: ContainerId) -> Option<String> {
        let record = self.queue.records.get(&id)?;
        let Some(max) = self.processes.all[index].config.timeouts.scheduling else {
            return Some("no MaxSchedulingTime is set".to_owned());
        };
        let waited = self.scheduler.now.since(record.submitted_at);
        let own = self.thrift.own_limits.get(&id).copied();
        let own = own.unwrap_or_default();
        let early = waited + DRAIN_MAX < max || waited < own + max / 2;
        early.then(|| format!("it waited for {waited:?}, {own:?} of it for limits of our own"))
    }
}

/// Limits that an operator has set, as opposed to what the world refuses.
fn is_own(why: &CreateBlocked) -> bool {
    matches!(
        why,
        CreateBlocked::MaxInstances
            | CreateBlocked::MaxPricePerHour
            | CreateBlocked::Budget { .. }
            | CreateBlocked::Containers { .. }
            | CreateBlocked::Supervisors { .. }
    )
}

/// The VM that a container gets though one of higher priority is blocked that could run on no other:
/// that VM, and who is blocked.
fn taken_from(
    view: &View<'_>,
    image: impl Fn(ContainerId) -> Option<ImageId>,
    id: ContainerId,
) -> Option<(VmName, ContainerId)> {
    let placed = view.container(id)?;
    let vm = placed.instance?;
    let instances = view.instances();
    let leaving = |phase| matches!(phase, Phase::Cordoned | Phase::Shutdown);
    if instances.iter().any(|other| leaving(other.phase)) {
        return None;
    }
    let lasting = |why: &CreateBlocked| {
        matches!(
            why,
            CreateBlocked::MaxInstances
                | CreateBlocked::MaxPricePerHour
                | CreateBlocked::Budget { .. }
        )
    };
    let blocked = view.containers().into_iter().find(|other| {
        let Some(WaitReason::CreateBlocked(blocked)) = &other.waiting else {
            return false;
        };
        // Types that it falls back to are not eligible, and it waits for them all the same.
        let waits_for = |name: &TypeName| {
            other.eligible.contains(name) || blocked.iter().any(|(of, _)| of == name)
        };
        let could = instances.iter().filter(|vm| {
            vm.phase == Phase::Ready
                && vm.idle_behavior == IdleBehavior::Run
                && Some(&vm.image) == image(other.id).as_ref()
                && waits_for(&vm.instance_type)
        });
        let names = could.map(|vm| vm.instance.as_ref().map(VmName::from));
        let names: Vec<Option<VmName>> = names.collect();
        other.priority > placed.priority
            && blocked.iter().any(|(_, why)| lasting(why))
            && names == [Some(vm.clone())]
    })?;
    Some((vm, blocked.id))
}
