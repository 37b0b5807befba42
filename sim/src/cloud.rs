//! The cloud: instances, quota, capacity, throttling, and lists that lag behind.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_core::command::CloudAction;
use longshore_core::config::InstanceType;
use longshore_core::ids::{CommandId, ImageId, InstanceId, IntentId, QuotaGroup, TypeName};
use longshore_core::input::{
    Answer, CapacityScope, CloudError, IdleBehavior, InstanceRecord, InstanceTags,
};
use longshore_core::time::Timestamp;

use crate::chance::Chance;
use crate::faults::Fault;
use crate::stage::{Happening, Origin, Stage};
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
    TakenBack { id: InstanceId, announced: bool },
}

/// An instance, as it really is.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) record: InstanceRecord,
    pub(crate) type_name: TypeName,
    pub(crate) offer: InstanceType,
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
    free_addresses: Vec<String>,
    /// Instances a group may have.
    pub(crate) quota: BTreeMap<QuotaGroup, u32>,
    shrunk: BTreeMap<QuotaGroup, (u32, Timestamp)>,
    /// Instances of a type that exist at most.
    pub(crate) capacity: BTreeMap<TypeName, u32>,
    sold_out: BTreeMap<TypeName, Timestamp>,
    pub(crate) down_until: Timestamp,
    pub(crate) create_throttle: Option<Throttle>,
    pub(crate) alive: usize,
    pub(crate) alive_peak: usize,
    /// Every instance ever made, in order.
    pub(crate) made: Vec<InstanceId>,
}

const TICK: Duration = Duration::from_secs(60);
const HIDDEN_MAX: Duration = Duration::from_secs(30);
const SHOWN_MIN: Duration = Duration::from_secs(120);

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
            down_until: Timestamp::EPOCH,
            create_throttle: None,
            alive: 0,
            alive_peak: 0,
            made: Vec::new(),
        }
    }

    /// Whether an instance exists and has not ended.
    pub(crate) fn is_alive(&self, id: &InstanceId) -> bool {
        self.instances.get(id).is_some_and(|i| i.ended.is_none())
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
            CloudAction::List => {
                let found = self.list(stage);
                let pause = self.chance.millis(50, 1500);
                self.reply(stage, from, id, Answer::Instances(found), pause);
            }
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
            CloudStep::TakenBack { id, announced } => {
                if announced || !stage.faults.healed() {
                    self.take_back(stage, &id);
                }
            }
        }
    }

    /// From here on the cloud works.
    pub(crate) fn heal(&mut self) {
        self.shrunk.clear();
        self.sold_out.clear();
        self.down_until = Timestamp::EPOCH;
    }

    fn tick(&mut self, stage: &mut Stage) {
        stage.after(TICK, Happening::Cloud(CloudStep::Tick));
        if stage.faults.strikes(&mut self.chance, Fault::CloudDown) {
            self.down_until = stage.now + self.chance.secs(30, 3600);
            stage.note(|| "the cloud's API goes down".to_owned());
        }
        if stage.faults.strikes(&mut self.chance, Fault::QuotaShrinks) {
            let groups: Vec<_> = self.types.values().map(|t| t.quota_group.clone()).collect();
            if let Some(group) = self.chance.pick(&groups).cloned() {
                let used = self.living().filter(|i| i.offer.quota_group == group);
                let used = used.count() as u64;
                let limit = u32::try_from(self.chance.below(used + 2)).unwrap_or(0);
                let until = stage.now + self.chance.secs(60, 3600);
                stage.note(|| format!("the quota of {group} shrinks to {limit}"));
                self.shrunk.insert(group, (limit, until));
            }
        }
        if stage.faults.strikes(&mut self.chance, Fault::SoldOut) {
            let names: Vec<_> = self.types.keys().cloned().collect();
            if let Some(name) = self.chance.pick(&names).cloned() {
                let until = stage.now + self.chance.secs(60, 3600);
                stage.note(|| format!("{name} is sold out"));
                self.sold_out.insert(name, until);
            }
        }
    }

    /// What stands in the way of any call.
    fn refuse(&mut self, stage: &mut Stage) -> Option<CloudError> {
        if stage.now < self.down_until {
            let message = "service unavailable".to_owned();
            return Some(CloudError::Transient { message });
        }
        if stage.faults.strikes(&mut self.chance, Fault::Throttled) {
            let until = self.chance.one_in(2);
            let until = until.then(|| stage.now + self.chance.secs(1, 60));
            let message = "RequestLimitExceeded".to_owned();
            return Some(CloudError::RateLimited { until, message });
        }
        None
    }

    fn list(&mut self, stage: &mut Stage) -> Result<Vec<InstanceRecord>, CloudError> {
        if let Some(error) = self.refuse(stage) {
            return Err(error);
        }
        if stage.faults.strikes(&mut self.chance, Fault::ListFails) {
            let message = "connection reset".to_owned();
            return Err(CloudError::Transient { message });
        }
        let now = stage.now;
        self.instances
            .retain(|_, i| i.ended.is_none_or(|ended| ended.shown_until > now));
        let shown = self.instances.values().filter(|i| i.listed_from <= now);
        let mut records: Vec<InstanceRecord> = shown
            .map(|i| {
                let mut record = i.record.clone();
                record.terminated = i.ended.is_some_and(|ended| !ended.shown_alive);
                record
            })
            .collect();
        if !records.is_empty() && stage.faults.strikes(&mut self.chance, Fault::ListPartial) {
            let index = self.chance.below(records.len() as u64);
            let index = usize::try_from(index).unwrap_or(0);
            if self.may_hide(now, &records[index].id) {
                let lacking = records.remove(index);
                stage.note(|| format!("a list lacks {}", lacking.id));
            }
        }
        Ok(records)
    }

    /// Lists are behind for a while, not for ever: what was hidden for half a minute is shown for
    /// the next two.
    fn may_hide(&mut self, now: Timestamp, id: &InstanceId) -> bool {
        let Some(instance) = self.instances.get_mut(id) else {
            return true;
        };
        if now.since(instance.hidden_since) > HIDDEN_MAX + SHOWN_MIN {
            instance.hidden_since = now;
        }
        now.since(instance.hidden_since) < HIDDEN_MAX
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
            self.chance.millis(300, 8000)
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
        let same_group = |i: &&Instance| i.offer.quota_group == offer.quota_group;
        let in_group = self.living().filter(same_group).count();
        let quota = self.quota.get(&offer.quota_group).copied();
        let shrunk = self.shrunk.get(&offer.quota_group);
        let shrunk = shrunk.filter(|(_, until)| now < *until).map(|(n, _)| *n);
        let quota = quota.into_iter().chain(shrunk).min();
        if quota.is_some_and(|max| in_group >= max as usize) {
            let message = "VcpuLimitExceeded".to_owned();
            return Some(CloudError::Quota { message });
        }
        let of_type = self.living().filter(|i| i.type_name == *name).count();
        let capacity = self.capacity.get(name).copied();
        let sold_out = self.sold_out.get(name).is_some_and(|until| now < *until);
        if sold_out || capacity.is_some_and(|max| of_type >= max as usize) {
            let (scope, message) = (CapacityScope::Type, "InsufficientInstanceCapacity".into());
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
        self.last += 1;
        let id = InstanceId::from(format!("i-{:08x}", self.last).as_str());
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
            taken_back: false,
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
            listed_from: stage.now + lag,
            hidden_since: Timestamp::EPOCH,
            leaving: false,
            ended: None,
        };
        stage.note(|| format!("{id} ({name}) is made"));
        self.instances.insert(id.clone(), instance);
        self.made.push(id.clone());
        self.alive += 1;
        self.alive_peak = self.alive_peak.max(self.alive);
        self.fates(stage, &id);
        let born = VmStep::Born {
            instance: id,
            type_name: name.clone(),
            image: image.clone(),
        };
        stage.after(Duration::ZERO, Happening::Vm(born));
        record
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
            format!(
                "10.{}.{}.{}:22",
                self.last >> 16 & 255,
                self.last >> 8 & 255,
                self.last & 255
            )
        };
        if let Some(instance) = self.instances.get_mut(id) {
            stage.note(|| format!("{id} is at {address}"));
            let before = instance.record.address.replace(address.clone());
            self.free_addresses.extend(before);
            let moved = VmStep::Moved {
                instance: id.clone(),
                address,
            };
            stage.after(Duration::ZERO, Happening::Vm(moved));
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
        instance.ended = Some(Ended {
            shown_until: stage.now + shown,
            shown_alive,
        });
        self.free_addresses.extend(instance.record.address.clone());
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
