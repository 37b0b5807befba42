//! Whether what a container is said to wait for is so: judged by what its process was told and by the
//! truth, never by what the core makes of either.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longshore_core::event::{BootOutcome, Event};
use longshore_core::ids::{ContainerId, ImageId, InstanceId, IntentId, QuotaGroup, TypeName};
use longshore_core::input::{Answer, CapacityScope, CloudError, Input, InstanceRecord};
use longshore_core::resources::MicroDollars;
use longshore_core::time::Timestamp;
use longshore_core::view::{ContainerView, InstanceView, View};
use longshore_core::{CreateBlocked, Phase, WaitReason};

use crate::checks::ledger::About;
use crate::world::World;
use crate::world::dense_map::DenseMap;
use crate::world::process::Process;

/// What holds may be said for so long after it has ended: inputs may be taken before the decisions
/// that follow from them are made.
const SLACK: Duration = Duration::from_secs(5);
/// The longest pauses after errors, each up to an eighth longer by chance.
const QUOTA_PAUSE_MAX: Duration = Duration::from_secs(15 * 60);
const COOLING_PAUSE_MAX: Duration = Duration::from_secs(30 * 60);
const BOOT_PAUSE_MAX: Duration = Duration::from_secs(60 * 60);
/// A cloud's advice when to call again is heard up to so far ahead.
const ADVICE_MAX: Duration = Duration::from_secs(60 * 60);
/// Lists that began earlier are forgotten.
const LISTS_KEPT: Duration = Duration::from_secs(2 * 3600);

/// What the first process was told that could be a reason to wait.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    incarnation: u32,
    /// When each list began that was answered.
    lists: BTreeSet<Timestamp>,
    shown: DenseMap<InstanceId, Shown>,
    /// Instances that it calls gone, and since when, until a list that comes later than the grace.
    pub(crate) gone: BTreeMap<InstanceId, Timestamp>,
    /// Creates under way, by what they are for.
    asked: BTreeMap<IntentId, TypeName>,
    /// When the quota of a group was met last, a type could not be created, and a rate was passed.
    quota: BTreeMap<QuotaGroup, Timestamp>,
    failed: BTreeMap<TypeName, Timestamp>,
    throttled: Option<Timestamp>,
    /// Boots that failed in a row, and when the last one did.
    boots: BTreeMap<(TypeName, ImageId), (u32, Timestamp)>,
}

/// An instance that the process was shown.
#[derive(Clone, Debug)]
struct Shown {
    /// The last sign of its life: lists that began later may prove that it is gone.
    alive_at: Timestamp,
    price: MicroDollars,
    image: ImageId,
}

impl Facts {
    /// Whether a process may still believe in an instance that has ended: it takes two lists without
    /// it, begun so far apart, to know that it is gone.
    fn may_linger(&self, shown: &Shown, grace: Duration) -> bool {
        let mut since = self
            .lists
            .range((
                std::ops::Bound::Excluded(shown.alive_at),
                std::ops::Bound::Unbounded,
            ))
            .copied();
        let first = since.next();
        let last = since.next_back();
        !matches!((first, last), (Some(first), Some(last)) if last.since(first) >= grace)
    }

    /// A process asks for an instance.
    pub(crate) fn asked(&mut self, index: usize, intent: IntentId, name: &TypeName) {
        if index == 0 {
            self.asked.insert(intent, name.clone());
        }
    }

    fn show(&mut self, now: Timestamp, began: Timestamp, record: &InstanceRecord, world: &Prices) {
        if record.terminated {
            self.shown.remove(&record.id);
            return;
        }
        let shown = self.shown.or_insert_with(&record.id, || {
            let offered = record.tags.instance_type.as_ref();
            let price = offered.and_then(|name| world.get(name)).copied();
            let image = record.tags.image.clone();
            Shown {
                // It was not known before: lists that are under way prove nothing.
                alive_at: now,
                price: price.unwrap_or_default(),
                image: image.unwrap_or_else(|| ImageId::from("")),
            }
        });
        shown.alive_at = shown.alive_at.max(began);
    }
}

type Prices = BTreeMap<TypeName, MicroDollars>;

/// What is true at a look, reckoned once for all that wait.
struct Truth<'a> {
    /// As many instances the process may believe in, wishes counted, and what they cost per hour.
    count: usize,
    price: u64,
    creates: usize,
    /// Types that the core has on their way.
    arriving: BTreeSet<TypeName>,
    /// Containers that run or have a place promised, and the supervisors of them.
    crowd: (usize, usize),
    process: &'a Process,
}

impl World {
    /// The first process is about to hear something.
    pub(crate) fn reasons_hear(&mut self, index: usize, input: &Input) {
        if index != 0 {
            return;
        }
        let (now, process) = (self.scheduler.now, &self.processes.all[0]);
        let facts = &mut self.facts;
        match input {
            Input::Leadership { held } if *held != process.ledger.leader => {
                if facts.incarnation != process.incarnation {
                    // Errors are remembered as long as the process lives, instances are not.
                    *facts = Facts {
                        incarnation: process.incarnation,
                        ..Facts::default()
                    };
                }
                facts.lists.clear();
                facts.shown.clear();
                facts.gone.clear();
                facts.asked.clear();
            }
            Input::Answer { id, answer } => {
                if let Some(open) = process.ledger.open(*id) {
                    let (began, about) = (open.since, open.about.clone());
                    self.reasons_hear_answer(now, began, &about, answer);
                }
            }
            _ => {}
        }
    }

    fn reasons_hear_answer(
        &mut self,
        now: Timestamp,
        began: Timestamp,
        about: &About,
        answer: &Answer,
    ) {
        let types = &self.plan.config.types;
        let prices = || types.iter().map(|(name, o)| (name.clone(), o.price));
        let facts = &mut self.facts;
        match (about, answer) {
            (_, Answer::Instances(Ok(records))) => {
                let grace = self.processes.all[0].config.timeouts.disappear_grace;
                facts.gone.retain(|_, at| *at + grace > now);
                let prices: Prices = prices().collect();
                for record in records {
                    facts.show(now, began, record, &prices);
                }
                facts.lists.insert(began);
                let old = now - LISTS_KEPT;
                while facts.lists.first().is_some_and(|at| *at < old) {
                    facts.lists.pop_first();
                }
                // Where no list came for long, nothing is proved by its age.
                let mut shown = std::mem::take(&mut facts.shown);
                let cloud = &self.cloud;
                shown.retain(|id, one| cloud.is_alive(id) || facts.may_linger(one, grace));
                facts.shown = shown;
            }
            (About::Probe(instance), Answer::Probed(Ok(_))) => {
                if let Some(shown) = facts.shown.get_mut(instance) {
                    shown.alive_at = now;
                }
            }
            (About::Create(intent), Answer::Created(made)) => {
                let asked = facts.asked.remove(intent);
                match (asked, made) {
                    (_, Ok(record)) => facts.show(now, now, record, &prices().collect()),
                    (Some(name), Err(error)) => self.reasons_hear_refusal(now, &name, error),
                    (None, Err(_)) => {}
                }
            }
            _ => {}
        }
    }

    fn reasons_hear_refusal(&mut self, now: Timestamp, name: &TypeName, error: &CloudError) {
        let types = &self.plan.config.types;
        let Some(offer) = types.get(name) else { return };
        let facts = &mut self.facts;
        match error {
            CloudError::Quota { .. } => {
                facts.quota.insert(offer.quota_group.clone(), now);
            }
            CloudError::RateLimited { .. } => facts.throttled = Some(now),
            CloudError::Capacity { scope, .. } => {
                let affected = types.iter().filter(|(other, of)| match scope {
                    CapacityScope::Type => *other == name,
                    CapacityScope::Group => of.quota_group == offer.quota_group,
                    CapacityScope::All => true,
                });
                let affected = affected.map(|(name, _)| (name.clone(), now));
                facts.failed.extend(affected);
            }
            CloudError::Ambiguous { .. } => {}
            CloudError::NotFound { .. }
            | CloudError::Permanent { .. }
            | CloudError::Transient { .. } => {
                facts.failed.insert(name.clone(), now);
            }
        }
    }

    /// The first process tells how a boot ended.
    pub(crate) fn reasons_event(&mut self, index: usize, event: &Event) {
        let Event::Boot {
            instance,
            instance_type,
            outcome,
        } = event
        else {
            return;
        };
        let id = InstanceId::from(instance.as_str());
        let Some(shown) = self.facts.shown.get(&id).filter(|_| index == 0) else {
            return;
        };
        let kind = (instance_type.clone(), shown.image.clone());
        match outcome {
            BootOutcome::Success => {
                self.facts.boots.remove(&kind);
            }
            BootOutcome::Failure => {
                let boots = self
                    .facts
                    .boots
                    .entry(kind)
                    .or_insert((0, Timestamp::EPOCH));
                *boots = (boots.0 + 1, self.scheduler.now);
            }
            BootOutcome::Aborted | BootOutcome::Disappeared => {}
        }
    }

    /// Another instance has the name of one that ended.
    pub(crate) fn reasons_forget(&mut self, id: &InstanceId) {
        self.facts.shown.remove(id);
    }

    /// Containers that are said to wait for what is not so. O(containers + instances).
    pub(crate) fn untrue_reasons(&self, view: &View<'_>, all: &[ContainerView]) -> Vec<String> {
        let process = &self.processes.all[0];
        if process.drain_due || self.processes.is_wake_due(&self.scheduler, 0) {
            // What it was told last, or what ended while its host stood still, has not been thought
            // over yet.
            return Vec::new();
        }
        let truth = self.truth(view, all);
        let untrue = |container: &ContainerView| {
            let why = match container.waiting.as_ref()? {
                WaitReason::CreateBlocked(blocked) if blocked.is_empty() => {
                    Some("that names no type".to_owned())
                }
                WaitReason::CreateBlocked(blocked) => {
                    let mut all = blocked.iter();
                    all.find_map(|(name, why)| self.not_blocked(&truth, name, why))
                }
                WaitReason::Booting { instance, .. }
                | WaitReason::Starting { instance }
                | WaitReason::EarlierAttempt { instance } => {
                    self.not_there(&truth, instance.as_str())
                }
                WaitReason::Retry { at } => {
                    let at = process.world_time(*at);
                    (at + SLACK < self.scheduler.now).then(|| format!("the time was {at}"))
                }
                _ => None,
            };
            let why = why?;
            let (id, waiting) = (container.id, &container.waiting);
            Some(format!("{id} waits for {waiting:?}, but {why}"))
        };
        all.iter().filter_map(untrue).collect()
    }

    fn truth<'a>(&'a self, view: &View<'_>, all: &[ContainerView]) -> Truth<'a> {
        let (now, process) = (self.scheduler.now, &self.processes.all[0]);
        let grace = process.config.timeouts.disappear_grace;
        let believed =
            self.facts.shown.iter().filter(|(id, shown)| {
                self.cloud.is_alive(id) || self.facts.may_linger(shown, grace)
            });
        let prices = believed.map(|(_, shown)| shown.price.0);
        let types = &self.plan.config.types;
        let wishes = process.ledger.counted_wishes(now - SLACK);
        let wishes = wishes.map(|w| types.get(&w.type_name).map_or(0, |offer| offer.price.0));
        let prices: Vec<u64> = prices.chain(wishes).collect();
        let on_its_way = |vm: &InstanceView| matches!(vm.phase, Phase::Creating | Phase::Booting);
        let instances = view.instances().into_iter().filter(on_its_way);
        let promised = all
            .iter()
            .filter(|c| matches!(c.waiting, Some(WaitReason::Booting { .. })));
        let supervises = |id: ContainerId| {
            let demand = self.queue.records.get(&id).map(|r| r.demand.as_ref());
            demand.is_some_and(|demand| demand.is_ok_and(|demand| demand.supervisor))
        };
        let (count, supervisors) = promised.fold(view.runners(), |(all, some), container| {
            (all + 1, some + usize::from(supervises(container.id)))
        });
        Truth {
            count: prices.len(),
            price: prices.iter().sum(),
            creates: process.ledger.open_creates(now - SLACK),
            arriving: instances.map(|vm| vm.instance_type).collect(),
            crowd: (count, supervisors),
            process,
        }
    }

    /// Why a type is not blocked in this way.
    fn not_blocked(
        &self,
        truth: &Truth<'_>,
        name: &TypeName,
        why: &CreateBlocked,
    ) -> Option<String> {
        let (process, facts) = (truth.process, &self.facts);
        let limits = &process.config.limits;
        let offer = process.config.types.get(name);
        let over = |max: Option<usize>, count: usize, what: &str| match max {
            Some(max) if count >= max => None,
            _ => Some(format!("there are {count} {what}, the limit is {max:?}")),
        };
        match why {
            CreateBlocked::MaxInstances => {
                let max = limits.instances.map(|max| max as usize);
                over(max, truth.count, "instances")
            }
            CreateBlocked::MaxPricePerHour => {
                let with_it = truth.price + offer.map_or(0, |offer| offer.price.0);
                let passed = limits.price_per_hour.is_some_and(|max| with_it > max.0);
                (!passed).then(|| format!("{name} would make it {with_it} an hour"))
            }
            CreateBlocked::CreatesInFlight => {
                let max = limits.creates_in_flight.map(|max| max as usize);
                over(max, truth.creates, "creates under way")
            }
            CreateBlocked::SerializedAfterError => {
                let refused = !facts.quota.is_empty() || facts.throttled.is_some();
                over(refused.then_some(1), truth.creates, "creates under way")
            }
            CreateBlocked::Canary => {
                let tried = truth.creates > 0 || truth.arriving.contains(name);
                (!tried).then(|| format!("no create and no boot of {name} is under way"))
            }
            CreateBlocked::Quota { until, .. } => {
                let met = offer.and_then(|offer| facts.quota.get(&offer.quota_group));
                self.not_paused(truth, *until, met.copied(), QUOTA_PAUSE_MAX)
            }
            CreateBlocked::BackedOff { until, .. } => {
                let failed = facts.failed.get(name).copied();
                self.not_paused(truth, *until, failed, COOLING_PAUSE_MAX)
            }
            CreateBlocked::BootsFail {
                until, failures, ..
            } => {
                let of_type = facts.boots.iter().filter(|((of, _), _)| of == name);
                let failed = of_type.filter(|(_, (count, _))| count >= failures);
                let last = failed.map(|(_, (_, at))| *at).max();
                self.not_paused(truth, *until, last, BOOT_PAUSE_MAX)
            }
            CreateBlocked::Rate { until } | CreateBlocked::CloudRateLimited { until } => {
                self.not_limited(truth, *until)
            }
            CreateBlocked::Containers { max, .. } => {
                over(Some(*max as usize), truth.crowd.0, "containers")
            }
            CreateBlocked::Supervisors { max } => {
                over(Some(*max as usize), truth.crowd.1, "supervisors")
            }
            CreateBlocked::Budget { .. } => None,
        }
    }

    /// Why an error at that time is no reason to pause until then.
    fn not_paused(
        &self,
        truth: &Truth<'_>,
        until: Timestamp,
        error: Option<Timestamp>,
        max: Duration,
    ) -> Option<String> {
        let until = truth.process.world_time(until);
        let Some(error) = error else {
            return Some("no such error was given".to_owned());
        };
        if until + SLACK < self.scheduler.now {
            return Some(format!("the pause ended at {until}"));
        }
        let longest = max + max / 8 + SLACK;
        (until > error + longest).then(|| format!("the error came at {error}"))
    }

    /// Why no rate forbids a create until then.
    fn not_limited(&self, truth: &Truth<'_>, until: Timestamp) -> Option<String> {
        let (until, now) = (truth.process.world_time(until), self.scheduler.now);
        if until + SLACK < now {
            return Some(format!("there was room at {until}"));
        }
        let limits = &truth.process.config.limits;
        let own = [limits.creates, limits.cloud_ops].into_iter().flatten();
        let own = own.map(|rate| now + rate.interval * (rate.burst + 1));
        let advised = self.facts.throttled.map(|at| at + ADVICE_MAX);
        let latest = own.chain(advised).max()?;
        (until > latest + SLACK).then(|| format!("no rate lasts longer than until {latest}"))
    }

    /// Why nobody can wait for this instance, or this wish.
    fn not_there(&self, truth: &Truth<'_>, name: &str) -> Option<String> {
        if name.starts_with("intent ") {
            let mut wishes = truth.process.ledger.wishes.iter();
            let since = self.scheduler.now - SLACK;
            let counted = wishes
                .any(|(intent, wish)| format!("intent {intent}") == name && wish.until > since);
            return (!counted).then(|| "nobody wishes for it any more".to_owned());
        }
        let id = InstanceId::from(name);
        let grace = truth.process.config.timeouts.disappear_grace;
        let shown = self.facts.shown.get(&id);
        let believed = self.cloud.is_alive(&id)
            || shown.is_some_and(|shown| self.facts.may_linger(shown, grace));
        (!believed).then(|| "it has ended long since".to_owned())
    }
}
