//! Truth of the reasons to wait: judged by the inputs of the process and by the truth, never by the
//! conclusions of the core.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use longshore_core::event::{BootOutcome, Event};
use longshore_core::ids::{ContainerId, ImageId, InstanceId, QuotaGroup, TypeName};
use longshore_core::input::{Answer, CapacityScope, CloudError, InstanceRecord};
use longshore_core::resources::MicroDollars;
use longshore_core::time::Timestamp;
use longshore_core::view::{ContainerView, InstanceView};
use longshore_core::{CreateBlocked, Phase, WaitReason};

use crate::checks::check::{Check, Context, Look};
use crate::checks::ledger::{Open, Subject};
use crate::world::World;
use crate::world::dense_map::DenseMap;
use crate::world::observation::Findings;

/// Longest time for which a reason is shown after the end of the reason: several inputs may be taken
/// before the next decisions.
const SLACK: Duration = Duration::from_secs(5);
/// Longest back-offs after errors, each up to an eighth longer by jitter.
const QUOTA_BACKOFF_MAX: Duration = Duration::from_secs(15 * 60);
const CREATE_BACKOFF_MAX: Duration = Duration::from_secs(30 * 60);
const BOOT_BACKOFF_MAX: Duration = Duration::from_secs(60 * 60);
/// Longest retry time taken from a rate limit error of the cloud.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);
/// Age of the oldest list kept.
const LISTS_KEPT: Duration = Duration::from_secs(2 * 3600);

/// A shown reason to wait is true. For process 0.
#[derive(Debug, Default)]
pub(super) struct WaitReasons {
    /// Time of sending of each answered list.
    lists: BTreeSet<Timestamp>,
    shown: DenseMap<InstanceId, Shown>,
    /// Time of the last quota error of each group.
    quota: BTreeMap<QuotaGroup, Timestamp>,
    /// Time of the last failed create of each type.
    failed: BTreeMap<TypeName, Timestamp>,
    /// Time of the last rate limit error.
    throttled: Option<Timestamp>,
    /// Failed boots in a row, and the time of the last one.
    boots: BTreeMap<(TypeName, ImageId), (u32, Timestamp)>,
}

/// Instance shown to the process.
#[derive(Clone, Debug)]
struct Shown {
    /// Last sign of life: only lists begun later can prove the end of the instance.
    alive_at: Timestamp,
    price: MicroDollars,
    image: ImageId,
}

/// Facts at a look, computed once for all waiting containers.
struct Facts<'a, 'w> {
    at: &'a Context<'w>,
    checks: &'a WaitReasons,
    /// Number of instances possibly alive for the process, with create requests.
    count: usize,
    /// Price per hour of these instances.
    price: u64,
    creates: usize,
    /// Types of the instances not ready yet.
    pending: BTreeSet<TypeName>,
    /// Number of containers with a runner or a reservation.
    containers: usize,
    /// Number of supervisors among these containers.
    supervisors: usize,
}

impl Check for WaitReasons {
    fn on_begin(&mut self, at: &Context<'_>) {
        if at.process == 0 {
            *self = Self::default();
        }
    }

    /// Errors stay in the memory of the process; instances are dropped.
    fn on_leadership_change(&mut self, at: &Context<'_>, _: bool) {
        if at.process == 0 {
            self.lists.clear();
            self.shown.clear();
        }
    }

    fn on_answer(&mut self, at: &Context<'_>, open: &Open, answer: &Answer, _: &mut Findings) {
        if at.process != 0 {
            return;
        }
        let now = at.now();
        match (&open.subject, answer) {
            (_, Answer::Instances(Ok(records))) => self.take_list(at, open.since, records),
            (Subject::Probe(instance), Answer::Probed(Ok(_))) => {
                if let Some(shown) = self.shown.get_mut(instance) {
                    shown.alive_at = now;
                }
            }
            (Subject::Create(_), Answer::Created(Ok(record))) => {
                self.show(at.world, now, now, record);
            }
            (Subject::Create(_), Answer::Created(Err(error))) => {
                if let Some(name) = &open.type_name {
                    self.take_refusal(at, name, error);
                }
            }
            _ => {}
        }
    }

    fn on_event(&mut self, at: &Context<'_>, event: &Event, _: &mut Findings) {
        let Event::Boot {
            instance,
            instance_type,
            outcome,
        } = event
        else {
            return;
        };
        let id = InstanceId::from(instance.as_str());
        let Some(shown) = self.shown.get(&id).filter(|_| at.process == 0) else {
            return;
        };
        let kind = (instance_type.clone(), shown.image.clone());
        match outcome {
            BootOutcome::Success => {
                self.boots.remove(&kind);
            }
            BootOutcome::Failure => {
                let boots = self.boots.entry(kind).or_insert((0, Timestamp::EPOCH));
                *boots = (boots.0 + 1, at.now());
            }
            BootOutcome::Aborted | BootOutcome::Disappeared => {}
        }
    }

    /// O(containers + instances).
    fn on_look(&mut self, at: &Context<'_>, look: Option<&Look<'_>>, findings: &mut Findings) {
        let Some(look) = look.filter(|look| look.has_queue(at)) else {
            return;
        };
        let world = at.world;
        if at.process().drain_due || world.processes.is_wake_due(&world.scheduler, 0) {
            // The core has not yet decided on its last input, or on deadlines passed during a stall.
            return;
        }
        let facts = self.facts(at, look);
        for container in look.containers() {
            if let Some(why) = facts.untrue(container) {
                let (id, waiting) = (container.id, &container.waiting);
                let text = format!("{id} waits for {waiting:?}, but {why}");
                findings.violate("true reasons", text);
            }
        }
    }

    fn on_id_reused(&mut self, id: &InstanceId) {
        self.shown.remove(id);
    }
}

impl WaitReasons {
    fn take_list(&mut self, at: &Context<'_>, began: Timestamp, records: &[InstanceRecord]) {
        let now = at.now();
        for record in records {
            self.show(at.world, now, began, record);
        }
        self.lists.insert(began);
        let old = now - LISTS_KEPT;
        while self.lists.first().is_some_and(|at| *at < old) {
            self.lists.pop_first();
        }
        // After a long time without lists, age proves nothing.
        let grace = at.config().timeouts.disappear_grace;
        let mut shown = std::mem::take(&mut self.shown);
        let cloud = &at.world.cloud;
        shown.retain(|id, one| cloud.is_alive(id) || self.may_linger(one, grace));
        self.shown = shown;
    }

    /// Records an instance in an answer to a command sent at `began`.
    fn show(&mut self, world: &World, now: Timestamp, began: Timestamp, record: &InstanceRecord) {
        if record.terminated {
            self.shown.remove(&record.id);
            return;
        }
        let shown = self.shown.or_insert_with(&record.id, || {
            let types = &world.plan.config.types;
            let offered = record.tags.instance_type.as_ref();
            let offer = offered.and_then(|name| types.get(name));
            let image = record.tags.image.clone();
            Shown {
                // Lists sent before the first sight prove nothing.
                alive_at: now,
                price: offer.map(|offer| offer.price).unwrap_or_default(),
                image: image.unwrap_or_else(|| ImageId::from("")),
            }
        });
        shown.alive_at = shown.alive_at.max(began);
    }

    fn take_refusal(&mut self, at: &Context<'_>, name: &TypeName, error: &CloudError) {
        let now = at.now();
        let types = &at.world.plan.config.types;
        let Some(offer) = types.get(name) else { return };
        match error {
            CloudError::Quota { .. } => {
                self.quota.insert(offer.quota_group.clone(), now);
            }
            CloudError::RateLimited { .. } => self.throttled = Some(now),
            CloudError::Capacity { scope, .. } => {
                let affected = types.iter().filter(|(other, of)| match scope {
                    CapacityScope::Type => *other == name,
                    CapacityScope::Group => of.quota_group == offer.quota_group,
                    CapacityScope::All => true,
                });
                let affected = affected.map(|(name, _)| (name.clone(), now));
                self.failed.extend(affected);
            }
            CloudError::Ambiguous { .. } => {}
            CloudError::NotFound { .. }
            | CloudError::Permanent { .. }
            | CloudError::Transient { .. } => {
                self.failed.insert(name.clone(), now);
            }
        }
    }

    /// True if a process may still count an ended instance: only two lists without the instance,
    /// begun a grace period apart, prove the end.
    fn may_linger(&self, shown: &Shown, grace: Duration) -> bool {
        let later = (Bound::Excluded(shown.alive_at), Bound::Unbounded);
        let mut since = self.lists.range(later).copied();
        let first = since.next();
        let last = since.next_back();
        !matches!((first, last), (Some(first), Some(last)) if last.since(first) >= grace)
    }

    fn facts<'a, 'w>(&'a self, at: &'a Context<'w>, look: &Look<'_>) -> Facts<'a, 'w> {
        let now = at.now();
        let grace = at.config().timeouts.disappear_grace;
        let believed = self
            .shown
            .iter()
            .filter(|(id, shown)| at.world.cloud.is_alive(id) || self.may_linger(shown, grace));
        let prices = believed.map(|(_, shown)| shown.price.0);
        let types = &at.world.plan.config.types;
        let creates = at.ledger.counted_creates(now - SLACK);
        let creates = creates.map(|r| types.get(&r.type_name).map_or(0, |offer| offer.price.0));
        let prices: Vec<u64> = prices.chain(creates).collect();
        let pending = |vm: &&InstanceView| matches!(vm.phase, Phase::Creating | Phase::Booting);
        let pending = look.instances.iter().filter(pending);
        let reserved = look
            .containers()
            .iter()
            .filter(|c| matches!(c.waiting, Some(WaitReason::Booting { .. })));
        let supervises = |id: ContainerId| {
            let record = at.world.queue.records.get(&id);
            let demand = record.map(|record| record.demand.as_ref());
            demand.is_some_and(|demand| demand.is_ok_and(|demand| demand.supervisor))
        };
        let running = look.view.runners();
        let (containers, supervisors) = reserved.fold(running, |(all, some), container| {
            (all + 1, some + usize::from(supervises(container.id)))
        });
        Facts {
            at,
            checks: self,
            count: prices.len(),
            price: prices.iter().sum(),
            creates: at.ledger.open_creates(now - SLACK),
            pending: pending.map(|vm| vm.instance_type.clone()).collect(),
            containers,
            supervisors,
        }
    }
}

impl Facts<'_, '_> {
    /// Fact against the reason of a container, if any.
    fn untrue(&self, container: &ContainerView) -> Option<String> {
        match container.waiting.as_ref()? {
            WaitReason::CreateBlocked(blocked) if blocked.is_empty() => {
                Some("that names no type".to_owned())
            }
            WaitReason::CreateBlocked(blocked) => {
                let mut all = blocked.iter();
                all.find_map(|(name, why)| self.not_blocked(name, why))
            }
            WaitReason::Booting { instance, .. }
            | WaitReason::Starting { instance }
            | WaitReason::EarlierAttempt { instance } => self.not_there(instance.as_str()),
            WaitReason::Retry { at } => {
                let at = self.at.process().world_time(*at);
                (at + SLACK < self.at.now()).then(|| format!("the time was {at}"))
            }
            _ => None,
        }
    }

    /// Fact against a block of a type, if any.
    fn not_blocked(&self, name: &TypeName, why: &CreateBlocked) -> Option<String> {
        let (config, checks) = (self.at.config(), self.checks);
        let limits = &config.limits;
        let offer = config.types.get(name);
        let over = |max: Option<usize>, count: usize, what: &str| match max {
            Some(max) if count >= max => None,
            _ => Some(format!("there are {count} {what}, the limit is {max:?}")),
        };
        match why {
            CreateBlocked::MaxInstances => {
                let max = limits.instances.map(|max| max as usize);
                over(max, self.count, "instances")
            }
            CreateBlocked::MaxPricePerHour => {
                let with_it = self.price + offer.map_or(0, |offer| offer.price.0);
                let passed = limits.price_per_hour.is_some_and(|max| with_it > max.0);
                (!passed).then(|| format!("{name} would make the price {with_it} an hour"))
            }
            CreateBlocked::CreatesInFlight => {
                let max = limits.creates_in_flight.map(|max| max as usize);
                over(max, self.creates, "creates in flight")
            }
            CreateBlocked::SerializedAfterError => {
                let refused = !checks.quota.is_empty() || checks.throttled.is_some();
                over(refused.then_some(1), self.creates, "creates in flight")
            }
            CreateBlocked::Canary => {
                let tried = self.creates > 0 || self.pending.contains(name);
                (!tried).then(|| format!("no create and no boot of {name} is in flight"))
            }
            CreateBlocked::Quota { until, .. } => {
                let met = offer.and_then(|offer| checks.quota.get(&offer.quota_group));
                self.not_backed_off(*until, met.copied(), QUOTA_BACKOFF_MAX)
            }
            CreateBlocked::BackedOff { until, .. } => {
                let failed = checks.failed.get(name).copied();
                self.not_backed_off(*until, failed, CREATE_BACKOFF_MAX)
            }
            CreateBlocked::BootsFail {
                until, failures, ..
            } => {
                let of_type = checks.boots.iter().filter(|((of, _), _)| of == name);
                let failed = of_type.filter(|(_, (count, _))| count >= failures);
                let last = failed.map(|(_, (_, at))| *at).max();
                self.not_backed_off(*until, last, BOOT_BACKOFF_MAX)
            }
            CreateBlocked::Rate { until } | CreateBlocked::CloudRateLimited { until } => {
                self.not_rate_limited(*until)
            }
            CreateBlocked::Containers { max, .. } => {
                over(Some(*max as usize), self.containers, "containers")
            }
            CreateBlocked::Supervisors { max } => {
                over(Some(*max as usize), self.supervisors, "supervisors")
            }
            CreateBlocked::Budget { .. } => None,
        }
    }

    /// Fact against a back-off until a time after an error at another time, if any.
    fn not_backed_off(
        &self,
        until: Timestamp,
        error: Option<Timestamp>,
        max: Duration,
    ) -> Option<String> {
        let until = self.at.process().world_time(until);
        let Some(error) = error else {
            return Some("no such error was given".to_owned());
        };
        if until + SLACK < self.at.now() {
            return Some(format!("the back-off ended at {until}"));
        }
        let longest = max + max / 8 + SLACK;
        (until > error + longest).then(|| format!("the error came at {error}"))
    }

    /// Fact against a rate limit in force until a time, if any.
    fn not_rate_limited(&self, until: Timestamp) -> Option<String> {
        let (until, now) = (self.at.process().world_time(until), self.at.now());
        if until + SLACK < now {
            return Some(format!("the limit ended at {until}"));
        }
        let limits = &self.at.config().limits;
        let own = [limits.creates, limits.cloud_ops].into_iter().flatten();
        let own = own.map(|rate| now + rate.interval * (rate.burst + 1));
        let advised = self.checks.throttled.map(|at| at + RETRY_AFTER_MAX);
        let latest = own.chain(advised).max()?;
        (until > latest + SLACK).then(|| format!("no rate lasts longer than until {latest}"))
    }

    /// Fact against a wait for an instance or a create request, if any.
    fn not_there(&self, name: &str) -> Option<String> {
        if name.starts_with("intent ") {
            let mut creates = self.at.ledger.creates.iter();
            let since = self.at.now() - SLACK;
            let counted = creates.any(|(intent, request)| {
                format!("intent {intent}") == name && request.until > since
            });
            return (!counted).then(|| "no create request counts any more".to_owned());
        }
        let id = InstanceId::from(name);
        let grace = self.at.config().timeouts.disappear_grace;
        let shown = self.checks.shown.get(&id);
        let believed = self.at.world.cloud.is_alive(&id)
            || shown.is_some_and(|shown| self.checks.may_linger(shown, grace));
        (!believed).then(|| "the instance ended long ago".to_owned())
    }
}
