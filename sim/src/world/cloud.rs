//! Cloud: instances, quota, capacity, throttling. Lists are in `lists`, faults of the whole cloud
//! in `outages`.

mod lists;
mod outages;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use longshore_core::command::CloudAction;
use longshore_core::config::InstanceType;
use longshore_core::ids::{
    Address, CommandId, ImageId, InstanceId, IntentId, QuotaGroup, TypeName,
};
use longshore_core::input::{
    Answer, CapacityScope, CloudError, IdleBehavior, InstanceRecord, InstanceTags,
};
use longshore_core::time::Timestamp;

use crate::world::dense_map::DenseMap;
use crate::world::events::{CloudStep, Happening, Origin, VmStep};
use crate::world::faults::Fault;
use crate::world::rng::Rng;
use crate::world::scheduler::Scheduler;

/// Instance in its true state.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) record: InstanceRecord,
    pub(crate) type_name: TypeName,
    pub(crate) offer: InstanceType,
    made_at: Timestamp,
    listed_from: Timestamp,
    /// Last time at which lists began to omit the instance.
    hidden_since: Timestamp,
    pub(crate) leaving: bool,
    /// End of the instance, and the time of its last listing (as terminated, or as alive by a
    /// fault).
    pub(crate) ended: Option<Ended>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    shown_until: Timestamp,
    shown_alive: bool,
}

/// Token bucket for calls: a burst, refilled at a steady rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Throttle {
    pub(crate) interval: Duration,
    pub(crate) burst: u32,
    pub(crate) full_at: Timestamp,
}

/// State of the cloud.
#[derive(Debug)]
pub(crate) struct Cloud {
    pub(crate) rng: Rng,
    pub(crate) types: BTreeMap<TypeName, InstanceType>,
    pub(crate) instances: BTreeMap<InstanceId, Instance>,
    last: u64,
    free_addresses: Vec<Address>,
    /// Maximum number of instances by quota group.
    pub(crate) quota: BTreeMap<QuotaGroup, u32>,
    shrunk: BTreeMap<QuotaGroup, (u32, Timestamp)>,
    /// Maximum number of existing instances by type.
    pub(crate) capacity: BTreeMap<TypeName, u32>,
    sold_out: BTreeMap<TypeName, Timestamp>,
    pub(crate) group_sold_out: BTreeMap<QuotaGroup, Timestamp>,
    all_sold_out: Timestamp,
    /// Time and content of the last list.
    listed: Option<(Timestamp, Vec<InstanceRecord>)>,
    /// Reusable ids of ended instances with the time of the end, oldest first.
    free_ids: VecDeque<(Timestamp, InstanceId)>,
    /// Reused ids: knowledge of the previous holder is void.
    pub(crate) reborn: Vec<InstanceId>,
    /// Shortest and longest create, in milliseconds.
    pub(crate) create_millis: (u64, u64),
    pub(crate) down_until: Timestamp,
    pub(crate) create_throttle: Option<Throttle>,
    pub(crate) alive: usize,
    /// Live instances by id; below, their number by type.
    alive_ids: DenseMap<InstanceId, ()>,
    alive_of: BTreeMap<TypeName, usize>,
    pub(crate) alive_peak: usize,
    /// Number and total lifetime of ended instances, by type.
    pub(crate) used: BTreeMap<TypeName, (u64, Duration)>,
    /// All instances ever created, in order.
    pub(crate) made: Vec<InstanceId>,
}

const TICK: Duration = Duration::from_secs(60);
/// Minimum time between the end of an instance and the reuse of its id.
const REUSE_MIN: Duration = Duration::from_secs(600);

impl Cloud {
    pub(crate) fn new(seed: u64, types: BTreeMap<TypeName, InstanceType>) -> Self {
        Self {
            rng: Rng::new(seed, "cloud"),
            types,
            instances: BTreeMap::new(),
            last: 0,
            free_addresses: Vec::new(),
            quota: BTreeMap::new(),
            shrunk: BTreeMap::new(),
            capacity: BTreeMap::new(),
            sold_out: BTreeMap::new(),
            group_sold_out: BTreeMap::new(),
            all_sold_out: Timestamp::EPOCH,
            listed: None,
            free_ids: VecDeque::new(),
            reborn: Vec::new(),
            create_millis: (300, 8000),
            down_until: Timestamp::EPOCH,
            create_throttle: None,
            alive: 0,
            alive_ids: DenseMap::default(),
            alive_of: BTreeMap::new(),
            alive_peak: 0,
            used: BTreeMap::new(),
            made: Vec::new(),
        }
    }

    /// True if an instance exists and has not ended.
    pub(crate) fn is_alive(&self, id: &InstanceId) -> bool {
        self.alive_ids.contains_key(id)
    }

    /// Number of live instances in a group. O(types).
    fn alive_in(&self, group: &QuotaGroup) -> usize {
        let types = self.types.iter();
        let names = types.filter(|(_, offer)| offer.quota_group == *group);
        let counts = names.filter_map(|(name, _)| self.alive_of.get(name));
        counts.sum()
    }

    pub(crate) fn living(&self) -> impl Iterator<Item = &Instance> {
        self.instances.values().filter(|i| i.ended.is_none())
    }

    /// Handles an arriving command.
    pub(crate) fn execute(
        &mut self,
        scheduler: &mut Scheduler,
        from: Origin,
        id: CommandId,
        action: &CloudAction,
    ) {
        match action {
            CloudAction::List => self.list(scheduler, from, id),
            CloudAction::Create {
                intent,
                instance_type,
                image,
            } => self.create(scheduler, (from, id), *intent, instance_type, image),
            CloudAction::Destroy { instance } => {
                let done = self.destroy(scheduler, instance);
                let pause = self.rng.millis(50, 3000);
                self.reply(scheduler, from, id, Answer::CloudDone(done), pause);
            }
            CloudAction::Tag {
                instance,
                idle_behavior,
            } => {
                let done = self.tag(scheduler, instance, *idle_behavior);
                let pause = self.rng.millis(50, 1500);
                self.reply(scheduler, from, id, Answer::CloudDone(done), pause);
            }
        }
    }

    pub(crate) fn step(&mut self, scheduler: &mut Scheduler, step: CloudStep) {
        match step {
            CloudStep::Tick => self.tick(scheduler),
            CloudStep::Address(id) => self.assign_address(scheduler, &id),
            CloudStep::Tagged(id, behavior) => {
                if let Some(instance) = self.instances.get_mut(&id) {
                    instance.record.tags.idle_behavior = Some(behavior);
                }
            }
            CloudStep::Ends(id) => self.end(scheduler, &id),
            CloudStep::Vanishes(id) => {
                if !scheduler.faults.stopped() && self.is_alive(&id) {
                    scheduler.note(|| format!("{id} vanishes"));
                    self.end(scheduler, &id);
                }
            }
            CloudStep::Noticed(id) => {
                if !scheduler.faults.stopped() {
                    self.announce_loss(scheduler, &id);
                }
            }
            CloudStep::Preempted { id, announced } => {
                if announced || !scheduler.faults.stopped() {
                    self.take_back(scheduler, &id);
                }
            }
            CloudStep::ListRest(first) => self.list_rest(scheduler, *first),
        }
    }

    fn create(
        &mut self,
        scheduler: &mut Scheduler,
        (from, id): (Origin, CommandId),
        intent: IntentId,
        name: &TypeName,
        image: &ImageId,
    ) {
        if let Some(error) = self.refuse_create(scheduler, name) {
            let pause = self.rng.millis(100, 3000);
            return self.reply(scheduler, from, id, Answer::Created(Err(error)), pause);
        }
        let record = self.make(scheduler, intent, name, image);
        if scheduler.faults.strikes(&mut self.rng, Fault::CreateTwice) {
            let twin = self.make(scheduler, intent, name, image);
            scheduler.note(|| format!("{} is made twice, as {}", record.id, twin.id));
        }
        let slow = scheduler.faults.strikes(&mut self.rng, Fault::CreateSlow);
        let pause = if slow {
            self.rng.secs(30, 400)
        } else {
            self.rng.millis(self.create_millis.0, self.create_millis.1)
        };
        if scheduler
            .faults
            .strikes(&mut self.rng, Fault::CreateMadeButFailed)
        {
            let message = "internal error".to_owned();
            let error = CloudError::Transient { message };
            return self.reply(scheduler, from, id, Answer::Created(Err(error)), pause);
        }
        if scheduler
            .faults
            .strikes(&mut self.rng, Fault::CreateAnswerLost)
        {
            scheduler.note(|| format!("the answer about {} is lost", record.id));
            if self.rng.one_in(2) {
                let message = "connection reset".to_owned();
                let error = CloudError::Ambiguous { message };
                self.reply(scheduler, from, id, Answer::Created(Err(error)), pause);
            }
            return;
        }
        self.reply(scheduler, from, id, Answer::Created(Ok(record)), pause);
    }

    fn refuse_create(&mut self, scheduler: &mut Scheduler, name: &TypeName) -> Option<CloudError> {
        if let Some(error) = self.refuse(scheduler) {
            return Some(error);
        }
        let now = scheduler.now;
        if let Some(throttle) = &mut self.create_throttle {
            let depth = throttle.interval * throttle.burst.saturating_sub(1);
            if throttle.full_at > now + depth {
                let until = Some(throttle.full_at - depth);
                let message = "RequestLimitExceeded".to_owned();
                return Some(CloudError::RateLimited { until, message });
            }
            throttle.full_at = throttle.full_at.max(now) + throttle.interval;
        }
        let Some(offer) = self.types.get(name) else {
            let message = format!("no such type: {name}");
            return Some(CloudError::Permanent { message });
        };
        let in_group = self.alive_in(&offer.quota_group);
        let quota = self.quota.get(&offer.quota_group).copied();
        let shrunk = self.shrunk.get(&offer.quota_group);
        let shrunk = shrunk.filter(|(_, until)| now < *until).map(|(n, _)| *n);
        let quota = quota.into_iter().chain(shrunk).min();
        if quota.is_some_and(|max| in_group >= max as usize) {
            let message = "VcpuLimitExceeded".to_owned();
            return Some(CloudError::Quota { message });
        }
        let of_type = self.alive_of.get(name).copied().unwrap_or_default();
        let capacity = self.capacity.get(name).copied();
        if let Some(scope) = self.lacking(now, name, &offer.quota_group).or_else(|| {
            capacity
                .is_some_and(|max| of_type >= max as usize)
                .then_some(CapacityScope::Type)
        }) {
            let message = "InsufficientInstanceCapacity".to_owned();
            return Some(CloudError::Capacity { scope, message });
        }
        if scheduler.faults.strikes(&mut self.rng, Fault::CreateFails) {
            let message = "internal error".to_owned();
            return Some(CloudError::Transient { message });
        }
        if scheduler
            .faults
            .strikes(&mut self.rng, Fault::CreateRefused)
        {
            let message = "no such subnet".to_owned();
            return Some(CloudError::Permanent { message });
        }
        None
    }

    /// Creates an instance, independent of the answer sent to the caller.
    pub(crate) fn make(
        &mut self,
        scheduler: &mut Scheduler,
        intent: IntentId,
        name: &TypeName,
        image: &ImageId,
    ) -> InstanceRecord {
        let id = self.name(scheduler);
        let late = scheduler.faults.strikes(&mut self.rng, Fault::ListLate);
        let lag = if late {
            self.rng.secs(5, 120)
        } else {
            self.rng.millis(0, 500)
        };
        let record = InstanceRecord {
            id: id.clone(),
            address: None,
            terminated: false,
            preempted: false,
            tags: InstanceTags {
                instance_type: Some(name.clone()),
                idle_behavior: Some(IdleBehavior::Run),
                intent: Some(intent),
                image: Some(image.clone()),
            },
        };
        let instance = Instance {
            record: record.clone(),
            type_name: name.clone(),
            offer: self.types[name].clone(),
            made_at: scheduler.now,
            listed_from: scheduler.now + lag,
            hidden_since: Timestamp::EPOCH,
            leaving: false,
            ended: None,
        };
        scheduler.note(|| format!("{id} ({name}) is made"));
        self.instances.insert(id.clone(), instance);
        self.made.push(id.clone());
        self.alive += 1;
        self.alive_ids.insert(&id, ());
        *self.alive_of.entry(name.clone()).or_default() += 1;
        self.alive_peak = self.alive_peak.max(self.alive);
        self.fates(scheduler, &id);
        let born = VmStep::Born {
            instance: id,
            type_name: name.clone(),
            image: image.clone(),
        };
        scheduler.after(Duration::ZERO, Happening::Vm(Box::new(born)));
        record
    }

    /// Returns an id for a new instance: a fresh id, or the id of an instance ended long ago.
    fn name(&mut self, scheduler: &mut Scheduler) -> InstanceId {
        let oldest = self.free_ids.front();
        let long_ago = oldest.is_some_and(|(ended, _)| scheduler.now.since(*ended) > REUSE_MIN);
        if long_ago
            && scheduler.faults.strikes(&mut self.rng, Fault::IdReused)
            && let Some((_, id)) = self.free_ids.pop_front()
        {
            scheduler.note(|| format!("{id} is given again"));
            self.reborn.push(id.clone());
            return id;
        }
        self.last += 1;
        InstanceId::from(format!("i-{:08x}", self.last).as_str())
    }

    /// Schedules the future events of an instance.
    fn fates(&mut self, scheduler: &mut Scheduler, id: &InstanceId) {
        let late = scheduler.faults.strikes(&mut self.rng, Fault::AddressLate);
        let pause = if late {
            self.rng.secs(30, 300)
        } else {
            self.rng.millis(0, 10_000)
        };
        let step = CloudStep::Address(id.clone());
        scheduler.after(pause, Happening::Cloud(step.clone()));
        if scheduler
            .faults
            .strikes(&mut self.rng, Fault::AddressChanges)
        {
            let later = pause + self.rng.secs(10, 3600);
            scheduler.after(later, Happening::Cloud(step));
        }
        if scheduler.faults.strikes(&mut self.rng, Fault::Vanishes) {
            let pause = Duration::from_secs(self.rng.uneven(1, 7200));
            scheduler.after(pause, Happening::Cloud(CloudStep::Vanishes(id.clone())));
        }
        self.spot_fates(scheduler, id);
    }

    fn assign_address(&mut self, scheduler: &mut Scheduler, id: &InstanceId) {
        if !self.is_alive(id) {
            return;
        }
        let reuse = !self.free_addresses.is_empty()
            && scheduler
                .faults
                .strikes(&mut self.rng, Fault::AddressReused);
        let address = if reuse {
            self.free_addresses.remove(0)
        } else {
            self.last += 1;
            Address::new(format!(
                "10.{}.{}.{}:22",
                self.last >> 16 & 255,
                self.last >> 8 & 255,
                self.last & 255
            ))
        };
        if let Some(instance) = self.instances.get_mut(id) {
            scheduler.note(|| format!("{id} is at {address}"));
            let before = instance.record.address.replace(address.clone());
            self.free_addresses.extend(before);
            let moved = VmStep::Moved {
                instance: id.clone(),
                address,
            };
            scheduler.after(Duration::ZERO, Happening::Vm(Box::new(moved)));
        }
    }

    fn destroy(&mut self, scheduler: &mut Scheduler, id: &InstanceId) -> Result<(), CloudError> {
        if let Some(error) = self.refuse(scheduler) {
            return Err(error);
        }
        if scheduler.faults.strikes(&mut self.rng, Fault::DestroyFails) {
            let message = "internal error".to_owned();
            return Err(CloudError::Transient { message });
        }
        if !self.is_alive(id) {
            return Ok(());
        }
        if scheduler.faults.strikes(&mut self.rng, Fault::DestroyLies) {
            return Ok(());
        }
        let slow = scheduler.faults.strikes(&mut self.rng, Fault::DestroySlow);
        let pause = if slow {
            self.rng.secs(120, 1200)
        } else {
            self.rng.millis(500, 30_000)
        };
        if let Some(instance) = self.instances.get_mut(id)
            && !std::mem::replace(&mut instance.leaving, true)
        {
            scheduler.after(pause, Happening::Cloud(CloudStep::Ends(id.clone())));
        }
        Ok(())
    }

    /// Ends an instance, for any reason.
    pub(crate) fn end(&mut self, scheduler: &mut Scheduler, id: &InstanceId) {
        let shown_alive = scheduler
            .faults
            .strikes(&mut self.rng, Fault::ListShowsDead);
        let shown = self.rng.secs(0, 90);
        let Some(instance) = self.instances.get_mut(id) else {
            return;
        };
        if instance.ended.is_some() {
            return;
        }
        self.alive -= 1;
        self.alive_ids.remove(id);
        if let Some(alive) = self.alive_of.get_mut(&instance.type_name) {
            *alive -= 1;
        }
        let used = self.used.entry(instance.type_name.clone()).or_default();
        used.0 += 1;
        used.1 += scheduler.now.since(instance.made_at);
        instance.ended = Some(Ended {
            shown_until: scheduler.now + shown,
            shown_alive,
        });
        self.free_addresses.extend(instance.record.address.clone());
        self.free_ids.push_back((scheduler.now, id.clone()));
        scheduler.note(|| format!("{id} ends"));
        scheduler.after(Duration::ZERO, Happening::VmEnds(id.clone()));
    }

    fn tag(
        &mut self,
        scheduler: &mut Scheduler,
        id: &InstanceId,
        behavior: IdleBehavior,
    ) -> Result<(), CloudError> {
        if let Some(error) = self.refuse(scheduler) {
            return Err(error);
        }
        if !self.is_alive(id) {
            let message = format!("no instance {id}");
            return Err(CloudError::NotFound { message });
        }
        if scheduler.faults.strikes(&mut self.rng, Fault::TagFails) {
            let message = "internal error".to_owned();
            return Err(CloudError::Transient { message });
        }
        if scheduler.faults.strikes(&mut self.rng, Fault::TagLost) {
            scheduler.note(|| format!("the tag of {id} is lost"));
            return Ok(());
        }
        let late = scheduler.faults.strikes(&mut self.rng, Fault::TagLate);
        let pause = if late {
            self.rng.secs(5, 120)
        } else {
            self.rng.millis(0, 500)
        };
        let step = CloudStep::Tagged(id.clone(), behavior);
        scheduler.after(pause, Happening::Cloud(step));
        Ok(())
    }

    /// Sends an answer; sometimes late, twice or never.
    fn reply(
        &mut self,
        scheduler: &mut Scheduler,
        to: Origin,
        id: CommandId,
        answer: Answer,
        pause: Duration,
    ) {
        let creates = matches!(answer, Answer::Created(_));
        if !creates
            && scheduler
                .faults
                .strikes(&mut self.rng, Fault::CloudAnswerLost)
        {
            return;
        }
        if scheduler
            .faults
            .strikes(&mut self.rng, Fault::CloudAnswerTwice)
        {
            let again = pause + self.rng.millis(0, 200_000);
            scheduler.answer(to, id, answer.clone(), again);
        }
        let late = scheduler
            .faults
            .strikes(&mut self.rng, Fault::CloudAnswerLate);
        let extra = if late {
            self.rng.secs(10, 300)
        } else {
            Duration::ZERO
        };
        scheduler.answer(to, id, answer, pause + extra);
    }
}
