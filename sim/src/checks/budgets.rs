//! Budgets, concurrency and placement: money spent and containers running, counted independently of
//! the core.

use std::time::Duration;

use longshore_core::command::{Action, CloudAction, Command, QueueAction};
use longshore_core::ids::{ContainerId, ImageId, TypeName, VmName};
use longshore_core::input::{Answer, IdleBehavior, Input, QueueError};
use longshore_core::time::Timestamp;
use longshore_core::view::{ContainerView, InstanceView, View};
use longshore_core::{CreateBlocked, Phase, WaitReason};

use crate::checks::check::{Check, Context, DRAIN_MAX, Look};
use crate::checks::ledger::Open;
use crate::world::observation::Findings;

const HOUR_NANOS: u128 = 3_600_000_000_000;
/// Largest number of open containers for rules with a look at all of them.
const SMALL_WORLD: usize = 200;

/// Money spent stays within the budgets, and running containers within the concurrency limit.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    of: [Memory; 2],
}

/// Facts about one process, reset at a change of leadership.
#[derive(Debug, Default)]
struct Memory {
    /// Price per hour of all instances, in spans without a gap, the oldest first: start and price.
    spans: Vec<(Timestamp, u64)>,
    counted_to: Timestamp,
    /// Concurrency limit, and the time since which the limit grows.
    concurrency: Option<(u32, Timestamp)>,
}

impl Memory {
    /// Concurrency limit, 10 % higher for each minute since the last cut.
    fn concurrency_max(&self, now: Timestamp) -> Option<u32> {
        let (mut max, since) = self.concurrency?;
        let mut minute = since + Duration::from_secs(60);
        while minute <= now && max < 1_000_000 {
            max += 1.max(max / 10);
            minute = minute + Duration::from_secs(60);
        }
        Some(max)
    }

    /// Money spent since a time, in millionths of a dollar per hour times nanoseconds.
    fn spent_since(&self, since: Timestamp) -> u128 {
        let ends = self.spans.iter().skip(1).map(|(begin, _)| *begin);
        let ends = ends.chain([self.counted_to]);
        let cost = |((begin, price), end): (&(Timestamp, u64), Timestamp)| {
            end.since((*begin).max(since)).as_nanos() * u128::from(*price)
        };
        self.spans.iter().zip(ends).map(cost).sum()
    }

    /// Adds the span up to now, at the price of the instances known and requested.
    fn count_price(&mut self, at: &Context<'_>) {
        let now = at.now();
        let budgets = &at.config().limits.budgets;
        let Some(window) = budgets.iter().map(|budget| budget.window).max() else {
            return;
        };
        let price = price_per_hour(at);
        let last = self.spans.last();
        if last.is_none_or(|(_, before)| *before != price) {
            self.spans.push((self.counted_to, price));
        }
        self.counted_to = now;
        let over = self.spans.iter().skip(1);
        let over = over.take_while(|(begin, _)| *begin + window < now).count();
        self.spans.drain(..over);
    }
}

/// Price per hour of the instances known to a process or requested by the process.
fn price_per_hour(at: &Context<'_>) -> u64 {
    let listed = at.ledger.listed.keys();
    let listed = listed.filter_map(|id| at.world.cloud.instances.get(id));
    let alive = listed.filter(|instance| instance.ended.is_none());
    let names = alive.map(|instance| &instance.type_name);
    let creates = at.ledger.counted_creates(at.now());
    let offers = names
        .chain(creates.map(|request| &request.type_name))
        .filter_map(|name| at.config().types.get(name));
    offers.map(|offer| offer.price.0).sum()
}

impl Check for Budgets {
    fn on_input(&mut self, at: &Context<'_>, _: &Input) {
        self.of[at.process].count_price(at);
    }

    fn on_leadership_change(&mut self, at: &Context<'_>, held: bool) {
        let estimate = at.config().limits.initial_quota;
        let now = at.now();
        self.of[at.process] = Memory {
            counted_to: now,
            concurrency: estimate.filter(|_| held).map(|max| (max.max(1), now)),
            ..Memory::default()
        };
    }

    fn on_answer(&mut self, at: &Context<'_>, open: &Open, answer: &Answer, _: &mut Findings) {
        let (Answer::Containers(Err(QueueError::Overloaded(_)))
        | Answer::Updated(Err(QueueError::Overloaded(_)))) = answer
        else {
            return;
        };
        let (now, memory) = (at.now(), &mut self.of[at.process]);
        let core = at.process().core.as_ref();
        if let Some(core) = core.filter(|_| open.deadline > now) {
            let running = core.view().runners().0;
            let fewer = u32::try_from(running).unwrap_or(u32::MAX);
            let fewer = fewer.saturating_sub(1).max(1);
            let max = memory.concurrency_max(now).unwrap_or(u32::MAX);
            memory.concurrency = Some((max.min(fewer), now));
        }
    }

    fn on_command(&mut self, at: &Context<'_>, command: &Command, findings: &mut Findings) {
        let wrong = match &command.action {
            Action::Cloud {
                action: CloudAction::Create { .. },
                ..
            } => self.over_budget(at),
            Action::Queue(QueueAction::Lock { id }) => self.over_concurrency(at, *id),
            _ => None,
        };
        if let Some((rule, text)) = wrong {
            findings.violate(rule, text);
        }
    }

    fn on_look(&mut self, _: &Context<'_>, look: Option<&Look<'_>>, findings: &mut Findings) {
        let Some(look) = look else { return };
        let runners: usize = look.instances.iter().map(|vm| vm.containers.len()).sum();
        let counted = look.view.runners();
        if counted.0 != runners {
            let text = format!("{runners} runners, {counted:?} counted");
            findings.violate("counters", text);
        }
    }
}

impl Budgets {
    fn over_budget(&mut self, at: &Context<'_>) -> Option<(&'static str, String)> {
        let memory = &mut self.of[at.process];
        memory.count_price(at);
        let slack = u128::from(price_per_hour(at)) * DRAIN_MAX.as_nanos();
        let budgets = &at.config().limits.budgets;
        let over = budgets.iter().find(|budget| {
            let spent = memory.spent_since(at.now() - budget.window);
            spent > u128::from(budget.limit.0) * HOUR_NANOS + slack
        })?;
        let text = format!("an instance is created though {over:?} is used up");
        Some(("budgets", text))
    }

    /// A locked container has a place: within the limits of its kind, and no container of a higher
    /// priority waits for the same place.
    fn over_concurrency(
        &self,
        at: &Context<'_>,
        id: ContainerId,
    ) -> Option<(&'static str, String)> {
        let view = at.process().core.as_ref()?.view();
        if !view.is_hosted(id) {
            return None;
        }
        let (running, supervisors) = view.runners();
        let concurrency = self.of[at.process].concurrency_max(at.now());
        if let Some(max) = concurrency.filter(|max| running > *max as usize) {
            let text = format!("{running} containers, no more than {max} may run");
            return Some(("overload", text));
        }
        let limits = &at.config().limits;
        let demand = at.world.queue.records.get(&id)?.demand.as_ref().ok()?;
        let all = [concurrency, limits.instances].into_iter().flatten().min();
        if let (true, Some(all), Some(ppm)) =
            (demand.supervisor, all, limits.supervisor_fraction_ppm)
        {
            let max = (u64::from(all) * ppm / 1_000_000).max(1);
            if supervisors as u64 > max {
                let text = format!("{supervisors} supervisors, no more than {max} may run");
                return Some(("supervisors", text));
            }
        }
        if at.world.queue.open > SMALL_WORLD {
            return None;
        }
        let (vm, high) = taken_from(at, &view, id)?;
        let text = format!("{id} gets {vm}, the only VM that {high} could wait for");
        Some(("the last VM is kept", text))
    }
}

/// VM of a placed container, and a blocked container of a higher priority without another VM to wait
/// for, if any.
fn taken_from(at: &Context<'_>, view: &View<'_>, id: ContainerId) -> Option<(VmName, ContainerId)> {
    let placed = view.container(id)?;
    let vm = placed.instance?;
    let instances = view.instances();
    let leaving = |phase| matches!(phase, Phase::Cordoned | Phase::Shutdown);
    if instances.iter().any(|other| leaving(other.phase)) {
        return None;
    }
    let blocked = view.containers().into_iter().find(|other| {
        other.priority > placed.priority && waits_for_only(at, &instances, other, &vm)
    })?;
    Some((vm, blocked.id))
}

/// True if a lasting limit blocks the container, and the VM is its only candidate.
fn waits_for_only(
    at: &Context<'_>,
    instances: &[InstanceView],
    container: &ContainerView,
    vm: &VmName,
) -> bool {
    let Some(WaitReason::CreateBlocked(blocked)) = &container.waiting else {
        return false;
    };
    let lasting = |why: &CreateBlocked| {
        matches!(
            why,
            CreateBlocked::MaxInstances
                | CreateBlocked::MaxPricePerHour
                | CreateBlocked::Budget { .. }
        )
    };
    // Types of a spot fallback are not eligible, and are awaited all the same.
    let waits_for = |name: &TypeName| {
        container.eligible.contains(name) || blocked.iter().any(|(of, _)| of == name)
    };
    let image = image_of(at, container.id);
    let candidates = instances.iter().filter(|vm| {
        vm.phase == Phase::Ready
            && vm.idle_behavior == IdleBehavior::Run
            && Some(&vm.image) == image.as_ref()
            && waits_for(&vm.instance_type)
    });
    let names = candidates.map(|vm| vm.instance.as_ref().map(VmName::from));
    let names: Vec<Option<VmName>> = names.collect();
    blocked.iter().any(|(_, why)| lasting(why)) && names == [Some(vm.clone())]
}

fn image_of(at: &Context<'_>, id: ContainerId) -> Option<ImageId> {
    let demand = at.world.queue.records.get(&id)?.demand.as_ref().ok()?;
    let own = demand.vm_image.clone();
    Some(own.unwrap_or_else(|| at.config().image.clone()))
}
