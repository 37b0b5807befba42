//! The cloud: instances, quota, capacity, throttling. Its lists are in `lists`, what becomes of the
//! whole of it in `weather`.

mod lists;
mod weather;

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

use crate::chance::Chance;
use crate::faults::Fault;
use crate::stage::{Happening, Origin, Stage};
use crate::table::Table;
use crate::vm::VmStep;

/// What happens in the cloud by itself.
#[derive(Clone, Debug)]
pub(crate) enum CloudStep {
    /// The weather changes, perhaps.
    Tick,
    /// An instance gets its address, or another one.
    Address(InstanceId),
    /// A tag is written at last.
    Tagged(InstanceId, IdleBehavior),
    /// A destroyed instance ends.
    Ends(InstanceId),
    /// An instance is taken away.
    Vanishes(InstanceId),
    /// It is announced that an instance is taken back.
    Noticed(InstanceId),
    /// An instance is taken back, after an announcement or without.
    Preempted { id: InstanceId, announced: bool },
    /// The second page of a list is read.
    ListRest(Box<lists::FirstPage>),
}

/// An instance, as it really is.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) record: InstanceRecord,
    pub(crate) type_name: TypeName,
    pub(crate) offer: InstanceType,
    made_at: Timestamp,
    listed_from: Timestamp,
    /// When lists began to lack it last.
    hidden_since: Timestamp,
    pub(crate) leaving: bool,
    /// When it ended, and until when lists show it (as terminated, or as alive by a fault).
    pub(crate) ended: Option<Ended>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    shown_until: Timestamp,
    shown_alive: bool,
}

/// A limit on calls: a burst, refilled steadily.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Throttle {
    pub(crate) interval: Duration,
    pub(crate) burst: u32,
    pub(crate) full_at: Timestamp,
}

/// The cloud.
#[derive(Debug)]
pub(crate) struct Cloud {
    pub(crate) chance: Chance,
    pub(crate) types: BTreeMap<TypeName, InstanceType>,
    pub(crate) instances: BTreeMap<InstanceId, Instance>,
    last: u64,
    free_addresses: Vec<Address>,
    /// Instances a group may have.
    pub(crate) quota: BTreeMap<QuotaGroup, u32>,
    shrunk: BTreeMap<QuotaGroup, (u32, Timestamp)>,
    /// Instances of a type that exist at most.
    pub(crate) capacity: BTreeMap<TypeName, u32>,
    sold_out: BTreeMap<TypeName, Timestamp>,
    pub(crate) group_sold_out: BTreeMap<QuotaGroup, Timestamp>,
    all_sold_out: Timestamp,
    /// What was last listed, and when.
    listed: Option<(Timestamp, Vec<InstanceRecord>)>,
    /// Names of instances that ended, and when: the oldest first.
    free_ids: VecDeque<(Timestamp, InstanceId)>,
    /// Names that were given again: what was known of the first bearer means nothing any more.
    pub(crate) reborn: Vec<InstanceId>,
    /// Shortest and longest create, in milliseconds.
    pub(crate) create_millis: (u64, u64),
    pub(crate) down_until: Timestamp,
    pub(crate) create_throttle: Option<Throttle>,
    pub(crate) alive: usize,
    /// The same by name, and how many of each type.
    alive_ids: Table<InstanceId, ()>,
    alive_of: BTreeMap<TypeName, usize>,
    pub(crate) alive_peak: usize,
    /// How long the instances of each type that ended have existed, and how many they were.
    pub(crate) used: BTreeMap<TypeName, (u64, Duration)>,
    /// Every instance ever made, in order.
    pub(crate) made: Vec<InstanceId>,
}

const TICK: Duration = Duration::from_secs(60);
/// No name is given again sooner than this after its bearer's end.
const REUSE_MIN: Duration = Duration::from_secs(600);

impl Cloud {
    pub(crate) fn new(seed: u64, types: BTreeMap<TypeName, InstanceType>) -> Self {
        Self {
            chance: Chance::new(seed, "cloud"),
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
            alive_ids: Table::default(),
            alive_of: BTreeMap::new(),
            alive_peak: 0,
            used: BTreeMap::new(),
            made: Vec::new(),
        }
    }

    /// Whether an instance exists and has not ended.
    pub(crate) fn is_alive(&self, id: &InstanceId) -> bool {
        self.alive_ids.contains_key(id)
    }

    /// Instances of a group that have not ended. O(types).
    fn alive_in(&self, group: &QuotaGroup) -> usize {
        let types = self.types.iter();
        let names = types.filter(|(_, offer)| offer.quota_group == *group);
        let counts = names.filter_map(|(name, _)| self.alive_of.get(name));
        counts.sum()
    }

    pub(crate) fn living(&self) -> impl Iterator<Item = &Instance> {
        self.instances.values().filter(|i| i.ended.is_none())
    }

    /// A command has arrived.
    pub(crate) fn execute(
        &mut self,
        stage: &mut Stage,
        from: Origin,
        id: CommandId,
        action: &CloudAction,
    ) {
        match action {
            CloudAction::List => self.list(stage, from, id),
            CloudAction::Create {
                intent,
                instance_type,
                image,
            } => self.create(stage, (from, id), *intent, instance_type, image),
            CloudAction::Destroy { instance } => {
                let done = self.destroy(stage, instance);
                let pause = self.chance.millis(50, 3000);
                self.reply(stage, from, id, Answer::CloudDone(done), pause);
            }
            CloudAction::Tag {
                instance,
                idle_behavior,
            } => {
                let done = self.tag(stage, instance, *idle_behavior);
                let pause = self.chance.millis(50, 1500);
                self.reply(stage, from, id, Answer::CloudDone(done), pause);
            }
        }
    }

    pub(crate) fn step(&mut self, stage: &mut Stage, step: CloudStep) {
        match step {
            CloudStep::Tick => self.tick(stage),
            CloudStep::Address(id) => self.assign_address(stage, &id),
            CloudStep::Tagged(id, behavior) => {
                if let Some(instance) = self.instances.get_mut(&id) {
                    instance.record.tags.idle_behavior = Some(behavior);
                }
            }
            CloudStep::Ends(id) => self.end(stage, &id),
            CloudStep::Vanishes(id) => {
                if !stage.faults.healed() && self.is_alive(&id) {
                    stage.note(|| format!("{id} vanishes"));
                    self.end(stage, &id);
                }
            }
            CloudStep::Noticed(id) => {
                if !stage.faults.healed() {
                    self.announce_loss(stage, &id);
                }
            }
            CloudStep::Preempted { id, announced } => {
                if announced || !stage.faults.healed() {
                    self.take_back(stage, &id);
                }
            }
            CloudStep::ListRest(first) => self.list_rest(stage, *first),
        }
    }

    fn create(
        &mut self,
        stage: &mut Stage,
        (from, id): (Origin, CommandId),
        intent: IntentId,
        name: &TypeName,
        image: &ImageId,
    ) {
        if let Some(error) = self.refuse_create(stage, name) {
            let pause = self.chance.millis(100, 3000);
            return self.reply(stage, from, id, Answer::Created(Err(error)), pause);
        }
        let record = self.make(stage, intent, name, image);
        if stage.faults.strikes(&mut self.chance, Fault::CreateTwice) {
            let twin = self.make(stage, intent, name, image);
            stage.note(|| format!("{} is made twice, as {}", record.id, twin.id));
        }
        let slow = stage.faults.strikes(&mut self.chance, Fault::CreateSlow);
        let pause = if slow {
            self.chance.secs(30, 400)
        } else {
            self.chance
                .millis(self.create_millis.0, self.create_millis.1)
        };
        if stage
            .faults
            .strikes(&mut self.chance, Fault::CreateMadeButFailed)
        {
            let message = "internal error".to_owned();
            let error = CloudError::Transient { message };
            return self.reply(stage, from, id, Answer::Created(Err(error)), pause);
        }
        if stage
            .faults
            .strikes(&mut self.chance, Fault::CreateAnswerLost)
        {
            stage.note(|| format!("the answer about {} is lost", record.id));
            if self.chance.one_in(2) {
                let message = "connection reset".to_owned();
                let error = CloudError::Ambiguous { message };
                self.reply(stage, from, id, Answer::Created(Err(error)), pause);
            }
            return;
        }
        self.reply(stage, from, id, Answer::Created(Ok(record)), pause);
    }

    fn refuse_create(&mut self, stage: &mut Stage, name: &TypeName) -> Option<CloudError> {
        if let Some(error) = self.refuse(stage) {
            return Some(error);
        }
        let now = stage.now;
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
        if stage.faults.strikes(&mut self.chance, Fault::CreateFails) {
            let message = "internal error".to_owned();
            return Some(CloudError::Transient { message });
        }
        if stage.faults.strikes(&mut self.chance, Fault::CreateRefused) {
            let message = "no such subnet".to_owned();
            return Some(CloudError::Permanent { message });
        }
        None
    }

    /// Makes an instance, whatever the caller will be told.
    pub(crate) fn make(
        &mut self,
        stage: &mut Stage,
        intent: IntentId,
        name: &TypeName,
        image: &ImageId,
    ) -> InstanceRecord {
        let id = self.name(stage);
        let late = stage.faults.strikes(&mut self.chance, Fault::ListLate);
        let lag = if late {
            self.chance.secs(5, 120)
        } else {
            self.chance.millis(0, 500)
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
            made_at: stage.now,
            listed_from: stage.now + lag,
            hidden_since: Timestamp::EPOCH,
            leaving: false,
            ended: None,
        };
        stage.note(|| format!("{id} ({name}) is made"));
        self.instances.insert(id.clone(), instance);
        self.made.push(id.clone());
        self.alive += 1;
        self.alive_ids.insert(&id, ());
        *self.alive_of.entry(name.clone()).or_default() += 1;
        self.alive_peak = self.alive_peak.max(self.alive);
        self.fates(stage, &id);
        let born = VmStep::Born {
            instance: id,
            type_name: name.clone(),
            image: image.clone(),
        };
        stage.after(Duration::ZERO, Happening::Vm(Box::new(born)));
        record
    }

    /// A name for a new instance: a fresh one, or that of one which ended long ago.
    fn name(&mut self, stage: &mut Stage) -> InstanceId {
        let oldest = self.free_ids.front();
        let long_ago = oldest.is_some_and(|(ended, _)| stage.now.since(*ended) > REUSE_MIN);
        if long_ago
            && stage.faults.strikes(&mut self.chance, Fault::IdReused)
            && let Some((_, id)) = self.free_ids.pop_front()
        {
            stage.note(|| format!("{id} is given again"));
            self.reborn.push(id.clone());
            return id;
        }
        self.last += 1;
        InstanceId::from(format!("i-{:08x}", self.last).as_str())
    }

    /// What will happen to an instance during its life.
    fn fates(&mut self, stage: &mut Stage, id: &InstanceId) {
        let late = stage.faults.strikes(&mut self.chance, Fault::AddressLate);
        let pause = if late {
            self.chance.secs(30, 300)
        } else {
            self.chance.millis(0, 10_000)
        };
        let step = CloudStep::Address(id.clone());
        stage.after(pause, Happening::Cloud(step.clone()));
        if stage
            .faults
            .strikes(&mut self.chance, Fault::AddressChanges)
        {
            let later = pause + self.chance.secs(10, 3600);
            stage.after(later, Happening::Cloud(step));
        }
        if stage.faults.strikes(&mut self.chance, Fault::Vanishes) {
            let pause = Duration::from_secs(self.chance.uneven(1, 7200));
            stage.after(pause, Happening::Cloud(CloudStep::Vanishes(id.clone())));
        }
        self.spot_fates(stage, id);
    }

    fn assign_address(&mut self, stage: &mut Stage, id: &InstanceId) {
        if !self.is_alive(id) {
            return;
        }
        let reuse = !self.free_addresses.is_empty()
            && stage.faults.strikes(&mut self.chance, Fault::AddressReused);
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
            stage.note(|| format!("{id} is at {address}"));
            let before = instance.record.address.replace(address.clone());
            self.free_addresses.extend(before);
            let moved = VmStep::Moved {
                instance: id.clone(),
                address,
            };
            stage.after(Duration::ZERO, Happening::Vm(Box::new(moved)));
        }
    }

    fn destroy(&mut self, stage: &mut Stage, id: &InstanceId) -> Result<(), CloudError> {
        if let Some(error) = self.refuse(stage) {
            return Err(error);
        }
        if stage.faults.strikes(&mut self.chance, Fault::DestroyFails) {
            let message = "internal error".to_owned();
            return Err(CloudError::Transient { message });
        }
        if !self.is_alive(id) {
            return Ok(());
        }
        if stage.faults.strikes(&mut self.chance, Fault::DestroyLies) {
            return Ok(());
        }
        let slow = stage.faults.strikes(&mut self.chance, Fault::DestroySlow);
        let pause = if slow {
            self.chance.secs(120, 1200)
        } else {
            self.chance.millis(500, 30_000)
        };
        if let Some(instance) = self.instances.get_mut(id)
            && !std::mem::replace(&mut instance.leaving, true)
        {
            stage.after(pause, Happening::Cloud(CloudStep::Ends(id.clone())));
        }
        Ok(())
    }

    /// An instance ends, by whose doing ever.
    pub(crate) fn end(&mut self, stage: &mut Stage, id: &InstanceId) {
        let shown_alive = stage.faults.strikes(&mut self.chance, Fault::ListShowsDead);
        let shown = self.chance.secs(0, 90);
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
        used.1 += stage.now.since(instance.made_at);
        instance.ended = Some(Ended {
            shown_until: stage.now + shown,
            shown_alive,
        });
        self.free_addresses.extend(instance.record.address.clone());
        self.free_ids.push_back((stage.now, id.clone()));
        stage.note(|| format!("{id} ends"));
        stage.after(Duration::ZERO, Happening::VmEnds(id.clone()));
    }

    fn tag(
        &mut self,
        stage: &mut Stage,
        id: &InstanceId,
        behavior: IdleBehavior,
    ) -> Result<(), CloudError> {
        if let Some(error) = self.refuse(stage) {
            return Err(error);
        }
        if !self.is_alive(id) {
            let message = format!("no instance {id}");
            return Err(CloudError::NotFound { message });
        }
        if stage.faults.strikes(&mut self.chance, Fault::TagFails) {
            let message = "internal error".to_owned();
            return Err(CloudError::Transient { message });
        }
        if stage.faults.strikes(&mut self.chance, Fault::TagLost) {
            stage.note(|| format!("the tag of {id} is lost"));
            return Ok(());
        }
        let late = stage.faults.strikes(&mut self.chance, Fault::TagLate);
        let pause = if late {
            self.chance.secs(5, 120)
        } else {
            self.chance.millis(0, 500)
        };
        let step = CloudStep::Tagged(id.clone(), behavior);
        stage.after(pause, Happening::Cloud(step));
        Ok(())
    }

    /// Sends an answer: late, twice or never, now and then.
    fn reply(
        &mut self,
        stage: &mut Stage,
        to: Origin,
        id: CommandId,
        answer: Answer,
        pause: Duration,
    ) {
        let creates = matches!(answer, Answer::Created(_));
        if !creates
            && stage
                .faults
                .strikes(&mut self.chance, Fault::CloudAnswerLost)
        {
            return;
        }
        if stage
            .faults
            .strikes(&mut self.chance, Fault::CloudAnswerTwice)
        {
            let again = pause + self.chance.millis(0, 200_000);
            stage.answer(to, id, answer.clone(), again);
        }
        let late = stage
            .faults
            .strikes(&mut self.chance, Fault::CloudAnswerLate);
        let extra = if late {
            self.chance.secs(10, 300)
        } else {
            Duration::ZERO
        };
        stage.answer(to, id, answer, pause + extra);
    }
}
