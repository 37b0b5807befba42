//! Lists, creates, destroys and tags: calls to clouds, and effects of the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Dispatcher;
use crate::backoff::Backoff;
use crate::capacity::{CreateFacts, in_group};
use crate::command::{CloudAction, CloudCall};
use crate::event::Event;
use crate::fleet::vm::{BehaviorCause, Phase, ShutdownReason, Vm};
use crate::ids::{CloudId, CommandId, ContainerId, ImageId, InstanceId, TypeName, VmKey};
use crate::input::{CloudError, IdleBehavior, InstanceRecord};
use crate::mutants::Mutant;
use crate::outbox::Purpose;
use crate::time::Timestamp;
use crate::timers::TimeoutReason;

/// Pause between two lists while a change is expected; doubled up to the regular interval.
const SYNC_PAUSE_MIN: Duration = Duration::from_secs(1);
const DESTROY_PAUSE_MAX: Duration = Duration::from_secs(600);
const TAG_PAUSE: Duration = Duration::from_secs(10);
/// Time after a write in which lists may still show the previous tag.
const TAG_SETTLES: Duration = Duration::from_secs(300);
/// Number of lists without an instance before the instance counts as gone: a single list may lag
/// behind.
const ABSENT_LISTS: u32 = 2;

/// Progress of listing a cloud.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Sync {
    in_flight: Option<CommandId>,
    /// Start of the first complete list since leadership was gained.
    pub(super) first_list: Option<Timestamp>,
    pub(super) latest_list: Timestamp,
    /// Tombstones: destroyed instances absent from lists since, with the end of the tombstone and
    /// the reason of the shutdown. A list with such an instance lags behind. As many as are
    /// destroyed within `DisappearGrace`.
    pub(super) tombstones: BTreeMap<InstanceId, (Timestamp, ShutdownReason)>,
    /// Time of the latest list request.
    asked_at: Timestamp,
    /// Number of consecutive quick lists.
    quick: u32,
}

impl Dispatcher {
    pub(super) fn sync_cloud(&mut self, cloud: CloudId) {
        let sync = self.syncs.entry(cloud).or_default();
        if sync.in_flight.is_some() {
            return;
        }
        let limits = &self.config.limits;
        let mut at = self
            .capacity
            .call_at(self.now, limits, cloud, CloudCall::List);
        if let Some(all) = limits.cloud_ops {
            // At least every other call is left to creates and destroys.
            at = at.max(sync.asked_at + all.interval * 2);
        }
        if at > self.now {
            self.timers.set(TimeoutReason::SyncCloud(cloud), at);
            return;
        }
        self.capacity
            .count_call(self.now, limits, cloud, CloudCall::List);
        let id = self.ask_cloud(cloud, Purpose::List(cloud), CloudAction::List);
        let sync = self.syncs.entry(cloud).or_default();
        (sync.in_flight, sync.asked_at) = (Some(id), self.now);
    }

    /// Start of the latest complete list of each configured cloud, if any.
    pub(crate) fn latest_lists(&self) -> Vec<(CloudId, Option<Timestamp>)> {
        let latest = |cloud: &CloudId| {
            let sync = self.syncs.get(cloud)?;
            sync.first_list.map(|_| sync.latest_list)
        };
        let clouds = self.clouds.iter();
        clouds.map(|cloud| (*cloud, latest(cloud))).collect()
    }

    /// Lists a cloud soon, because a change is expected.
    fn sync_soon(&mut self, cloud: CloudId) {
        self.syncs.entry(cloud).or_default().quick = 0;
        let at = self.now + SYNC_PAUSE_MIN;
        self.timers.set_earlier(TimeoutReason::SyncCloud(cloud), at);
    }

    pub(super) fn on_listed(
        &mut self,
        started: Timestamp,
        cloud: CloudId,
        result: Result<Vec<InstanceRecord>, CloudError>,
    ) {
        self.note_call(cloud, CloudCall::List, result.as_ref().err());
        let sync = self.syncs.entry(cloud).or_default();
        sync.in_flight = None;
        if let Ok(records) = result {
            let first = sync.first_list.is_none();
            sync.first_list.get_or_insert(started);
            sync.latest_list = started;
            let now = self.now;
            let keep = self.mutants.has(Mutant::TombstonesKept);
            sync.tombstones.retain(|_, (until, _)| *until > now || keep);
            self.apply_instances(started, cloud, &records);
            if first {
                self.schedule_unowned_locks();
            }
            if first && self.is_synced() {
                self.mark_all_dirty();
            }
        }
        let interval = self.config.intervals.sync;
        let awaited = self
            .fleet
            .iter()
            .any(|vm| vm.identity.cloud == cloud && awaits_list(vm));
        let sync = self.syncs.entry(cloud).or_default();
        let pause = if awaited {
            let backoff = Backoff {
                min: SYNC_PAUSE_MIN,
                max: interval,
            };
            let pause = backoff.delay(sync.quick);
            sync.quick += 1;
            pause
        } else {
            sync.quick = 0;
            interval
        };
        self.timers
            .set(TimeoutReason::SyncCloud(cloud), self.now + pause);
    }

    /// Compares a list with the known instances.
    fn apply_instances(&mut self, started: Timestamp, cloud: CloudId, records: &[InstanceRecord]) {
        let mut seen = BTreeSet::new();
        for record in records {
            let mut named = self.fleet.by_instance(cloud, &record.id);
            if let Some(former) = named.filter(|key| self.is_id_reused(*key, record)) {
                if record.terminated {
                    continue;
                }
                self.note_id_reused(cloud, former, &record.id);
                named = self.fleet.by_instance(cloud, &record.id);
            }
            let known = named.or_else(|| {
                let key = self.fleet.by_intent(record.tags.intent?)?;
                let vm = self.fleet.get(key)?;
                (vm.identity.cloud == cloud && vm.identity.instance.is_none()).then_some(key)
            });
            match known {
                Some(key) => {
                    seen.insert(key);
                    self.note_listed(started, key, record);
                }
                None if record.terminated => {}
                None => {
                    seen.insert(self.adopt_instance(cloud, record));
                }
            }
        }
        let missing: Vec<VmKey> = self
            .fleet
            .iter()
            .filter(|vm| vm.identity.cloud == cloud && vm.identity.instance.is_some())
            .filter(|vm| vm.liveness.alive_at < started && !seen.contains(&vm.key))
            .map(|vm| vm.key)
            .collect();
        for key in missing {
            self.note_absent(started, key);
        }
    }

    /// Takes over the record of a known instance.
    fn note_listed(&mut self, started: Timestamp, key: VmKey, record: &InstanceRecord) {
        self.note_identity(key, record);
        if record.preempted {
            self.note_preemption(key, self.now);
        }
        if record.terminated {
            self.note_gone(key, true);
            return;
        }
        let shown = record.tags.idle_behavior.unwrap_or_default();
        let lost = self.fleet.note(key, |vm| {
            vm.liveness.alive_at = vm.liveness.alive_at.max(started);
            vm.liveness.absent_lists = 0;
            vm.liveness.absent_since = None;
            // Tags are the persistent memory: a confirmed tag missing from the list was not
            // written.
            let settled = started >= vm.tag.confirmed_at + TAG_SETTLES;
            let lost = settled && vm.tag.written.is_some_and(|written| written != shown);
            if lost {
                vm.tag.written = None;
            }
            lost
        });
        if lost == Some(true) {
            self.dirty.vms.insert(key);
        }
    }

    /// True if the known instance was made for another create request than the listed instance of
    /// the same id: clouds reuse ids, and one of the two is gone.
    fn is_id_reused(&self, key: VmKey, record: &InstanceRecord) -> bool {
        let known = self.fleet.get(key).and_then(|vm| vm.identity.intent);
        let both = known.zip(record.tags.intent);
        both.is_some_and(|(known, shown)| known != shown)
    }

    /// Removes an instance, because another instance has the same id now.
    fn note_id_reused(&mut self, cloud: CloudId, former: VmKey, name: &InstanceId) {
        self.note_gone(former, true);
        if let Some(sync) = self.syncs.get_mut(&cloud) {
            sync.tombstones.remove(name);
        }
    }

    /// Counts a list without the instance, begun after the last proof of existence.
    fn note_absent(&mut self, started: Timestamp, key: VmKey) {
        let mut grace = self.config.timeouts.disappear_grace;
        if self.mutant(Mutant::OneListIsEnough) {
            return self.note_gone(key, false);
        }
        if self.mutant(Mutant::GraceIgnored) {
            grace = Duration::ZERO;
        }
        let gone = self.fleet.update(key, |vm| {
            vm.liveness.absent_lists += 1;
            // Answers may come late: the start of the lists counts.
            let since = *vm.liveness.absent_since.get_or_insert(started);
            let young =
                started.since(vm.lifecycle.appeared_at.unwrap_or(vm.lifecycle.since)) <= grace;
            // Lists may follow each other quickly and lag behind for longer. A destroyed instance
            // is expected to disappear, but never while containers are on the instance.
            let expected = vm.phase == Phase::Shutdown && vm.idle();
            let doubtful = !expected && started.since(since) < grace;
            vm.liveness.absent_lists >= ABSENT_LISTS && !young && !doubtful
        });
        match gone {
            Some(true) => self.note_gone(key, false),
            // An existing instance answers the probe.
            _ => self.probe_now(key),
        }
    }

    /// Takes over id and address from the record of an instance: the id once, the address after
    /// every change.
    fn note_identity(&mut self, key: VmKey, record: &InstanceRecord) {
        let now = self.now;
        let Some(vm) = self.fleet.get(key) else {
            return;
        };
        let moved = record.address.is_some() && vm.identity.address != record.address;
        if vm.identity.instance.as_ref() == Some(&record.id)
            && vm.lifecycle.appeared_at.is_some()
            && !moved
        {
            return;
        }
        let (created, was_address) = (vm.identity.instance.is_none(), vm.identity.address.clone());
        self.fleet.update(key, |vm| {
            vm.identity.instance = Some(record.id.clone());
            vm.lifecycle.appeared_at.get_or_insert(now);
            if record.address.is_some() {
                vm.identity.address.clone_from(&record.address);
            }
            if created {
                vm.phase = Phase::Booting;
                vm.lifecycle.write_off_at = None;
                vm.liveness.alive_at = now;
            }
        });
        let Some(vm) = self.fleet.get(key) else {
            return;
        };
        if created && let Some(intent) = vm.identity.intent {
            self.out.event(Event::Created {
                instance: vm.name(),
                intent,
                instance_type: vm.identity.type_name.clone(),
                container: vm.lifecycle.created_for,
            });
            self.dirty.vms.insert(key);
        }
        if vm.identity.address != was_address
            && let Some(address) = vm.identity.address.clone()
        {
            let instance = vm.name();
            self.out.event(Event::AddressChanged { instance, address });
            self.probe_now(key);
        }
    }

    /// Adopts an instance that this process did not create, or wrote off.
    fn adopt_instance(&mut self, cloud: CloudId, record: &InstanceRecord) -> VmKey {
        let key = self.fleet.next_key();
        let tags = &record.tags;
        let type_name = tags
            .instance_type
            .clone()
            .unwrap_or_else(|| TypeName::from("unknown"));
        let offer = self.config.types.get(&type_name);
        let image = tags.image.clone().unwrap_or(self.config.image.clone());
        let mut vm = Vm::new(self.now, key, cloud, type_name.clone(), offer, image);
        let configured = offer.is_some();
        vm.identity.instance = Some(record.id.clone());
        vm.identity.intent = tags.intent;
        vm.phase = Phase::Unknown;
        vm.lifecycle.found = true;
        vm.lifecycle.appeared_at = Some(self.now);
        vm.behavior.idle = tags.idle_behavior.unwrap_or_default();
        if vm.behavior.idle != IdleBehavior::Run {
            vm.behavior.cause = BehaviorCause::Tag;
        }
        vm.tag.written = Some(vm.behavior.idle);
        self.out.event(Event::InstanceFound {
            instance: vm.name(),
            instance_type: type_name,
            behavior: vm.behavior.idle,
        });
        let drain = !configured && vm.behavior.idle == IdleBehavior::Run;
        self.capacity.budgets.count_found(&vm);
        self.fleet.insert(vm);
        self.note_identity(key, record);
        if drain {
            self.set_behavior(key, IdleBehavior::Drain, BehaviorCause::TypeRemoved);
        }
        if record.preempted {
            self.note_preemption(key, self.now);
        }
        self.dirty.vms.insert(key);
        self.dirty.placement = true;
        let tombstones = self.syncs.get(&cloud).map(|sync| &sync.tombstones);
        if let Some((_, reason)) = tombstones.and_then(|b| b.get(&record.id)).cloned() {
            // The instance terminates soon, and the containers on the instance were handled at the
            // first disappearance.
            self.fleet.update(key, |vm| vm.probe.listed = true);
            self.begin_shutdown(key, reason);
        }
        key
    }

    /// Sends a create request; `container` is the first container for the new instance.
    pub(super) fn create(
        &mut self,
        container: ContainerId,
        name: &TypeName,
        image: &ImageId,
    ) -> VmKey {
        let offer = &self.config.types[name];
        let (key, intent) = (self.fleet.next_key(), self.chance.intent(self.now));
        let cloud = offer.cloud;
        let mut vm = Vm::new(
            self.now,
            key,
            cloud,
            name.clone(),
            Some(offer),
            image.clone(),
        );
        vm.identity.intent = Some(intent);
        vm.lifecycle.created_for = Some(container);
        let limits = &self.config.limits;
        self.capacity
            .create_sent(self.now, limits, (name, image), offer, key);
        self.fleet.insert(vm);
        self.out.event(Event::CreateIssued {
            intent,
            instance_type: name.clone(),
            container,
        });
        let action = CloudAction::Create {
            intent,
            instance_type: name.clone(),
            image: match self.mutant(Mutant::ImageIgnored) {
                true => self.config.image.clone(),
                false => image.clone(),
            },
        };
        self.ask_cloud(cloud, Purpose::Create(key), action);
        key
    }

    pub(super) fn on_created(&mut self, key: VmKey, result: Result<InstanceRecord, CloudError>) {
        let Some(vm) = self.fleet.get(key) else {
            // Written off, or already listed and gone; a list shows the instance if alive.
            return;
        };
        let (name, cloud, listed) = (
            vm.identity.type_name.clone(),
            vm.identity.cloud,
            vm.identity.instance.clone(),
        );
        if let (Err(error), None, Some(intent)) = (&result, &listed, vm.identity.intent) {
            self.out.event(Event::CreateFailed {
                intent,
                instance_type: name.clone(),
                error: error.clone(),
            });
        }
        self.out.event(Event::CloudCalled {
            cloud,
            call: CloudCall::Create,
            error: result.as_ref().err().cloned(),
        });
        // After a list has shown the instance, a lost answer carries no information.
        let doubted = matches!(result, Err(CloudError::Ambiguous { .. }));
        let conclusive = !doubted || listed.is_none();
        if let Some(offer) = self.config.types.get(&name).filter(|_| conclusive) {
            let facts = CreateFacts {
                jitter: self.chance.jitter(),
                group_count: in_group(&self.fleet, offer).saturating_sub(1),
            };
            let error = result.as_ref().err();
            self.capacity
                .create_ended(self.now, &name, offer, error, facts);
        }
        if let Ok(record) = &result
            && let Some(former) = self.fleet.by_instance(cloud, &record.id)
            && self.is_id_reused(former, record)
        {
            self.note_id_reused(cloud, former, &record.id);
        }
        match result {
            // A list has shown another id before: the cloud created two instances.
            Ok(record) if listed.as_ref().is_some_and(|id| *id != record.id) => {
                if self.fleet.by_instance(cloud, &record.id).is_none() {
                    self.adopt_instance(cloud, &record);
                }
            }
            Ok(record) => {
                self.note_identity(key, &record);
                if record.address.is_none() {
                    self.sync_soon(cloud);
                }
            }
            Err(_) if listed.is_some() => {}
            Err(CloudError::Ambiguous { .. }) if !self.mutant(Mutant::LostCreateForgotten) => {
                let at = self.now + self.config.timeouts.create_ambiguous;
                self.fleet
                    .update(key, |vm| vm.lifecycle.write_off_at = Some(at));
                self.dirty.vms.insert(key);
                self.sync_soon(cloud);
            }
            Err(_) => {
                self.fleet.remove(key);
            }
        }
        self.dirty.placement = true;
    }

    /// Sends a destroy if the rate allows, and schedules the next attempt.
    pub(super) fn destroy(&mut self, key: VmKey) {
        let Some(vm) = self.fleet.get(key) else {
            return;
        };
        if vm.phase != Phase::Shutdown || vm.shutdown.in_flight.is_some() {
            return;
        }
        let Some(instance) = vm.identity.instance.clone() else {
            return;
        };
        let (cloud, name, attempt) = (vm.identity.cloud, vm.name(), vm.shutdown.attempts + 1);
        if !self.admit_destroy(cloud, key) {
            return;
        }
        self.out.event(Event::DestroyIssued {
            instance: name,
            attempt,
        });
        let action = CloudAction::Destroy { instance };
        let sent = self.ask_cloud(cloud, Purpose::Destroy(key), action);
        self.fleet.update(key, |vm| {
            vm.shutdown.in_flight = Some(sent);
            vm.shutdown.attempts = attempt;
        });
    }

    pub(super) fn on_destroyed(&mut self, key: VmKey, result: Result<(), CloudError>) {
        let Some(vm) = self.fleet.get(key) else {
            return;
        };
        let (cloud, attempts) = (vm.identity.cloud, vm.shutdown.attempts);
        self.note_call(cloud, CloudCall::Destroy, result.as_ref().err());
        self.fleet.update(key, |vm| vm.shutdown.in_flight = None);
        let backoff = Backoff {
            min: self.config.timeouts.shutdown,
            max: DESTROY_PAUSE_MAX,
        };
        let at = self.now + backoff.delay(attempts.saturating_sub(1));
        if !self.mutant(Mutant::DestroyForgotten) {
            self.timers.set(TimeoutReason::DestroyVm(key), at);
        }
        self.sync_soon(cloud);
    }

    /// Writes the idle behavior into the tag, if the tag differs.
    pub(super) fn write_tag(&mut self, key: VmKey) {
        let Some(vm) = self.fleet.get(key) else {
            return;
        };
        let (cloud, behavior) = (vm.identity.cloud, vm.behavior.idle);
        let mut idle = vm.tag.written == Some(behavior) || vm.tag.in_flight.is_some();
        idle |= self.mutant(Mutant::TagForgotten);
        if idle || matches!(vm.phase, Phase::Creating | Phase::Shutdown) {
            return;
        }
        let Some(instance) = vm.identity.instance.clone() else {
            return;
        };
        let limits = &self.config.limits;
        let open_at = self
            .capacity
            .call_at(self.now, limits, cloud, CloudCall::SetTags);
        let at = open_at.max(vm.tag.retry_at);
        if at > self.now {
            self.timers.set_earlier(TimeoutReason::ReconcileVm(key), at);
            return;
        }
        self.capacity
            .count_call(self.now, limits, cloud, CloudCall::SetTags);
        let action = CloudAction::Tag {
            instance,
            idle_behavior: behavior,
        };
        let sent = self.ask_cloud(cloud, Purpose::Tag(key), action);
        self.fleet.update(key, |vm| {
            vm.tag.in_flight = Some((sent, behavior));
            vm.tag.written = None;
        });
    }

    pub(super) fn on_tagged(&mut self, key: VmKey, result: Result<(), CloudError>) {
        let Some(cloud) = self.fleet.get(key).map(|vm| vm.identity.cloud) else {
            return;
        };
        self.note_call(cloud, CloudCall::SetTags, result.as_ref().err());
        let (now, retry_at) = (self.now, self.now + TAG_PAUSE);
        self.fleet.update(key, |vm| {
            if let Some((_, behavior)) = vm.tag.in_flight.take() {
                match result {
                    Ok(()) => {
                        vm.tag.written = Some(behavior);
                        vm.tag.confirmed_at = now;
                    }
                    Err(_) => vm.tag.retry_at = retry_at,
                }
            }
        });
        self.dirty.vms.insert(key);
    }

    fn note_call(&mut self, cloud: CloudId, call: CloudCall, error: Option<&CloudError>) {
        let jitter = self.chance.jitter();
        self.capacity
            .call_ended(self.now, cloud, call, error, jitter);
        self.out.event(Event::CloudCalled {
            cloud,
            call,
            error: error.cloned(),
        });
    }

    /// Key of the instance with this id, for operator requests.
    pub(super) fn vm_named(&self, instance: &InstanceId) -> Option<VmKey> {
        self.fleet.named(instance)
    }
}

/// True if the next list is expected to bring a change of this instance.
fn awaits_list(vm: &Vm) -> bool {
    match vm.phase {
        Phase::Creating => vm.lifecycle.write_off_at.is_some(),
        Phase::Shutdown => true,
        _ => vm.identity.address.is_none(),
    }
}
