//! VMs as seen over SSH: boot, reachability, identity and runner lists.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longshore_core::command::{Signal, VmAction};
use longshore_core::ids::{Address, CommandId, ContainerId, ImageId, InstanceId, TypeName};
use longshore_core::input::{Answer, ProbeReport, RunnerList, RunnerStatus, SignalReport, VmError};
use longshore_core::time::Timestamp;

use crate::world::dense_map::DenseMap;
use crate::world::events::{Happening, Origin, VmStep};
use crate::world::faults::Fault;
use crate::world::rng::Rng;
use crate::world::runner::Runners;
use crate::world::scheduler::Scheduler;

/// VM in its true state.
#[derive(Clone, Debug)]
pub(crate) struct Vm {
    pub(crate) type_name: TypeName,
    pub(crate) image: ImageId,
    up_at: Timestamp,
    pub(crate) ready_at: Timestamp,
    /// Start of a permanent hang.
    pub(crate) freezes_at: Timestamp,
    /// Time span without reachability.
    pub(crate) silent: (Timestamp, Timestamp),
    pub(crate) broken_at: Timestamp,
    /// Preemption time reported with the VM's runner list.
    pub(crate) preempted_at: Option<Timestamp>,
    pub(crate) impostor: bool,
    pub(crate) refuses_starts: bool,
    /// True if the next start hangs without effect.
    pub(crate) hangs_start: bool,
    /// Time of the host key change.
    key_changes_at: Timestamp,
    /// Time span with a full disk.
    pub(crate) disk_full: (Timestamp, Timestamp),
    /// Start of the absence of the runner's program, until a boot probe restores the program.
    runner_missing_at: Timestamp,
    /// True if the VM's runner does not support signals.
    runner_old: bool,
    /// Locks of ended runners, with the time of release by the other holder.
    pub(crate) stale: BTreeMap<ContainerId, Timestamp>,
}

/// All VMs not yet ended.
#[derive(Debug)]
pub(crate) struct Vms {
    rng: Rng,
    pub(crate) alive: DenseMap<InstanceId, Vm>,
    by_address: BTreeMap<Address, InstanceId>,
    /// Inverse map, from instance to address.
    addresses: DenseMap<InstanceId, Address>,
    /// Shortest and longest boot, in seconds.
    pub(crate) boot_secs: (u64, u64),
    /// Types with VMs that never boot.
    pub(crate) dead_types: BTreeSet<TypeName>,
    /// Containers with a start taking effect after the caller gave up: a runner may be unknown to
    /// every process.
    pub(crate) late: BTreeSet<ContainerId>,
}

/// Command on its way to a VM.
#[derive(Clone, Debug)]
pub(crate) struct VmCall<'a> {
    pub(crate) from: Origin,
    pub(crate) id: CommandId,
    pub(crate) deadline: Timestamp,
    pub(crate) instance: &'a InstanceId,
    pub(crate) address: &'a Address,
    pub(crate) action: &'a VmAction,
}

impl Vms {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed, "vm"),
            alive: DenseMap::default(),
            by_address: BTreeMap::new(),
            addresses: DenseMap::default(),
            boot_secs: (20, 90),
            dead_types: BTreeSet::new(),
            late: BTreeSet::new(),
        }
    }

    pub(crate) fn step(&mut self, scheduler: &mut Scheduler, runners: &mut Runners, step: VmStep) {
        match step {
            VmStep::Born {
                instance,
                type_name,
                image,
            } => {
                let vm = self.fates(scheduler, type_name, image);
                if scheduler.faults.strikes(&mut self.rng, Fault::Reboots) {
                    let pause = Duration::from_secs(self.rng.uneven(30, 7200));
                    let instance = instance.clone();
                    scheduler.after(pause, Happening::Vm(Box::new(VmStep::Reboots { instance })));
                }
                self.alive.insert(&instance, vm);
            }
            VmStep::Reboots { instance } => self.reboot(scheduler, runners, &instance),
            VmStep::Moved { instance, address } => {
                self.leave_address(&instance);
                let before = self.by_address.insert(address.clone(), instance.clone());
                if let Some(before) = before {
                    self.addresses.remove(&before);
                }
                self.addresses.insert(&instance, address);
            }
            VmStep::Noticed { instance, at } => {
                if let Some(vm) = self.alive.get_mut(&instance) {
                    vm.preempted_at = Some(at);
                }
            }
            VmStep::LateStart {
                instance,
                container,
            } => {
                if self.alive.contains_key(&instance) && !runners.holds(&instance, container) {
                    scheduler.note(|| format!("the start of {container} on {instance} comes late"));
                    runners.spawn(scheduler, &instance, container);
                }
            }
        }
    }

    /// Ends a VM with everything on the VM.
    pub(crate) fn end(
        &mut self,
        scheduler: &mut Scheduler,
        runners: &mut Runners,
        id: &InstanceId,
    ) {
        self.alive.remove(id);
        self.leave_address(id);
        runners.vm_ended(scheduler, id);
    }

    /// Removes the VM from its address.
    fn leave_address(&mut self, id: &InstanceId) {
        if let Some(address) = self.addresses.remove(id) {
            self.by_address.remove(&address);
        }
    }

    /// Returns the instance actually reached by a call.
    fn reached<'a>(&'a self, call: &VmCall<'a>) -> Option<&'a InstanceId> {
        let home = self.addresses.get(call.instance);
        if home.is_some_and(|address| address == call.address) {
            return Some(call.instance);
        }
        self.by_address.get(call.address)
    }

    /// Reboots a VM: address and disk stay, all processes are lost.
    pub(crate) fn reboot(
        &mut self,
        scheduler: &mut Scheduler,
        runners: &mut Runners,
        id: &InstanceId,
    ) {
        let Some(vm) = self.alive.get_mut(id) else {
            return;
        };
        scheduler.note(|| format!("{id} boots again"));
        let boot = self.rng.secs(10, 120);
        vm.up_at = vm.up_at.max(scheduler.now + boot / 2);
        vm.ready_at = vm.ready_at.max(scheduler.now + boot);
        vm.stale.clear();
        runners.vm_ended(scheduler, id);
    }

    fn fates(&mut self, scheduler: &mut Scheduler, type_name: TypeName, image: ImageId) -> Vm {
        let now = scheduler.now;
        let rng = &mut self.rng;
        let faults = &mut scheduler.faults;
        let mut boot = rng.secs(self.boot_secs.0, self.boot_secs.1);
        if faults.strikes(rng, Fault::BootsLate) {
            boot += rng.secs(60, 900);
        }
        let mut up_at = now + boot / 2;
        let mut ready_at = now + boot;
        let dead = self.dead_types.contains(&type_name);
        if faults.strikes(rng, Fault::NeverBoots) || dead {
            up_at = Timestamp::NEVER;
        }
        if faults.strikes(rng, Fault::BootProbeFails) {
            ready_at = Timestamp::NEVER;
        }
        let mut sometime = |rng: &mut Rng, fault| {
            let strikes = faults.strikes(rng, fault);
            let at = now + Duration::from_secs(rng.uneven(1, 7200));
            if strikes { at } else { Timestamp::NEVER }
        };
        let freezes_at = sometime(rng, Fault::Freezes);
        let silent_at = sometime(rng, Fault::Silent);
        let broken_at = sometime(rng, Fault::Breaks);
        let silence = Duration::from_secs(rng.uneven(5, 1800));
        let key_changes_at = sometime(rng, Fault::HostKeyChanges);
        let disk_full_at = sometime(rng, Fault::DiskFull);
        let disk_full_for = Duration::from_secs(rng.uneven(60, 7200));
        let runner_missing_at = sometime(rng, Fault::RunnerMissing);
        Vm {
            type_name,
            image,
            up_at,
            ready_at,
            freezes_at,
            silent: (silent_at, silent_at + silence),
            broken_at,
            preempted_at: None,
            impostor: scheduler.faults.strikes(rng, Fault::Impostor),
            refuses_starts: scheduler.faults.strikes(rng, Fault::RefusesStarts),
            hangs_start: false,
            key_changes_at,
            disk_full: (disk_full_at, disk_full_at + disk_full_for),
            runner_missing_at,
            runner_old: scheduler.faults.strikes(rng, Fault::RunnerOld),
            stale: BTreeMap::new(),
        }
    }

    /// Handles a command at its destination address.
    pub(crate) fn execute(
        &mut self,
        scheduler: &mut Scheduler,
        runners: &mut Runners,
        call: &VmCall<'_>,
    ) {
        let there = self.reached(call);
        let at_home = there == Some(call.instance);
        let up = there.and_then(|id| self.alive.get(id));
        let Some(vm) = up.filter(|vm| {
            let silent = vm.silent.0 <= scheduler.now && scheduler.now < vm.silent.1;
            vm.up_at <= scheduler.now && !silent
        }) else {
            let error = VmError::Unreachable("connection refused".to_owned());
            return self.fail(scheduler, call, error);
        };
        let impostor = vm.impostor || vm.key_changes_at <= scheduler.now;
        if scheduler
            .faults
            .strikes(&mut self.rng, Fault::HangsBeforeAuth)
        {
            return self.hang_early(scheduler, call);
        }
        if vm.freezes_at <= scheduler.now
            || scheduler.faults.strikes(&mut self.rng, Fault::CommandHangs)
        {
            return self.hang(scheduler, call);
        }
        if !at_home || impostor {
            let why = if at_home && !vm.impostor {
                "another host key than before"
            } else {
                "wrong instance secret"
            };
            let error = VmError::IdentityMismatch(why.to_owned());
            return self.fail(scheduler, call, error);
        }
        if scheduler.now > call.deadline {
            return;
        }
        let drops = scheduler
            .faults
            .strikes(&mut self.rng, Fault::ConnectionDrops);
        if drops && self.rng.one_in(2) {
            return self.fail(scheduler, call, VmError::Lost("broken pipe".to_owned()));
        }
        if let Some(error) = self.lacks_runner(scheduler, call) {
            return self.fail(scheduler, call, error);
        }
        let cut = scheduler
            .faults
            .strikes(&mut self.rng, Fault::OutputTruncated);
        let drops = drops || cut;
        let answer = match call.action {
            VmAction::Probe { .. } => {
                Some(Answer::Probed(Ok(self.probe(scheduler, runners, call))))
            }
            VmAction::Start { container, .. } => self.start(scheduler, runners, call, *container),
            VmAction::Signal { container, signal } => {
                let told = self.signal(scheduler, runners, call, *container, *signal);
                Some(Answer::Signalled(Ok(told)))
            }
        };
        match answer {
            Some(_) if drops => self.fail(scheduler, call, VmError::Lost("broken pipe".to_owned())),
            Some(answer) => {
                let pause = self.rng.millis(20, 1200);
                self.reply(scheduler, call, answer, pause);
            }
            None => {}
        }
    }

    /// Returns the error of a VM without a usable runner; a boot probe restores a missing runner.
    fn lacks_runner(&mut self, scheduler: &mut Scheduler, call: &VmCall<'_>) -> Option<VmError> {
        let vm = self.alive.get_mut(call.instance)?;
        let missing = vm.runner_missing_at <= scheduler.now;
        match call.action {
            VmAction::Probe { boot: true } if missing => {
                vm.runner_missing_at = Timestamp::NEVER;
                None
            }
            _ if missing => Some(VmError::Failed("the runner's --list: not found".to_owned())),
            VmAction::Signal { .. } if vm.runner_old => {
                let why = "the runner's --kill: unknown option";
                Some(VmError::Failed(why.to_owned()))
            }
            _ => None,
        }
    }

    fn probe(
        &mut self,
        scheduler: &mut Scheduler,
        runners: &Runners,
        call: &VmCall<'_>,
    ) -> ProbeReport {
        let now = scheduler.now;
        let hidden = scheduler.faults.strikes(&mut self.rng, Fault::NoRunnerList);
        let vm = self.alive.get_mut(call.instance).expect("it answers");
        vm.stale.retain(|_, until| *until > now);
        let ready = if vm.ready_at <= now {
            Ok(())
        } else {
            Err("boot probe: exit status 1".to_owned())
        };
        let alive = runners
            .containers_on(call.instance)
            .map(|container| RunnerStatus {
                container,
                stale: false,
            });
        let stale = vm.stale.keys().map(|container| RunnerStatus {
            container: *container,
            stale: true,
        });
        let list = RunnerList {
            broken: vm.broken_at <= now,
            preempted_at: vm.preempted_at,
            runners: alive.chain(stale).collect(),
        };
        ProbeReport {
            ready,
            runners: (!hidden).then_some(list),
        }
    }

    fn start(
        &mut self,
        scheduler: &mut Scheduler,
        runners: &mut Runners,
        call: &VmCall<'_>,
        container: ContainerId,
    ) -> Option<Answer> {
        let now = scheduler.now;
        let vm = self.alive.get_mut(call.instance)?;
        if std::mem::take(&mut vm.hangs_start) {
            self.hang(scheduler, call);
            return None;
        }
        let failed = |text: &str| Some(Answer::Started(Err(VmError::Failed(text.to_owned()))));
        let stale = vm.stale.get(&container).is_some_and(|until| *until > now);
        if stale || runners.holds(call.instance, container) {
            return failed("lock: Resource temporarily unavailable");
        }
        if vm.disk_full.0 <= now && now < vm.disk_full.1 {
            return failed("No space left on device");
        }
        if vm.refuses_starts || scheduler.faults.strikes(&mut self.rng, Fault::StartRefused) {
            return failed("cannot fork");
        }
        if scheduler.faults.strikes(&mut self.rng, Fault::DetachLate) {
            let pause = self.rng.secs(1, 120);
            self.late.insert(container);
            let late = VmStep::LateStart {
                instance: call.instance.clone(),
                container,
            };
            scheduler.after(pause, Happening::Vm(Box::new(late)));
            self.fail(scheduler, call, VmError::Lost("broken pipe".to_owned()));
            return None;
        }
        runners.spawn(scheduler, call.instance, container);
        if scheduler
            .faults
            .strikes(&mut self.rng, Fault::StartAnswerLost)
        {
            self.fail(scheduler, call, VmError::Lost("broken pipe".to_owned()));
            return None;
        }
        Some(Answer::Started(Ok(())))
    }

    fn signal(
        &mut self,
        scheduler: &mut Scheduler,
        runners: &mut Runners,
        call: &VmCall<'_>,
        container: ContainerId,
        signal: Signal,
    ) -> SignalReport {
        let stale = runners.signal(scheduler, call.instance, container, signal);
        if let Some(until) = stale
            && let Some(vm) = self.alive.get_mut(call.instance)
        {
            vm.stale.insert(container, until);
        }
        if runners.holds(call.instance, container) {
            SignalReport::Alive
        } else {
            SignalReport::Gone
        }
    }

    /// Records the lock left behind by a runner.
    pub(crate) fn leave_stale(
        &mut self,
        instance: &InstanceId,
        container: ContainerId,
        until: Timestamp,
    ) {
        if let Some(vm) = self.alive.get_mut(instance) {
            vm.stale.insert(container, until);
        }
    }

    fn fail(&mut self, scheduler: &mut Scheduler, call: &VmCall<'_>, error: VmError) {
        let answer = match call.action {
            VmAction::Probe { .. } => Answer::Probed(Err(error)),
            VmAction::Start { .. } => Answer::Started(Err(error)),
            VmAction::Signal { .. } => Answer::Signalled(Err(error)),
        };
        let pause = self.rng.millis(20, 10_000);
        self.reply(scheduler, call, answer, pause);
    }

    /// Hangs a call without effect, before the adapter has sent anything; the adapter knows of the
    /// lack of effect.
    fn hang_early(&mut self, scheduler: &mut Scheduler, call: &VmCall<'_>) {
        let error = VmError::Unreachable("no key exchange in time".to_owned());
        let answer = match call.action {
            VmAction::Probe { .. } => Answer::Probed(Err(error)),
            VmAction::Start { .. } => Answer::Started(Err(error)),
            VmAction::Signal { .. } => Answer::Signalled(Err(error)),
        };
        let pause = call.deadline.since(scheduler.now) * 9 / 10;
        scheduler.answer(call.from, call.id, answer, pause);
    }

    /// Hangs a call without effect; the adapter gives up at the deadline, or never answers.
    fn hang(&mut self, scheduler: &mut Scheduler, call: &VmCall<'_>) {
        if self.rng.one_in(2) {
            let error = VmError::Lost("timed out".to_owned());
            let answer = match call.action {
                VmAction::Probe { .. } => Answer::Probed(Err(error)),
                VmAction::Start { .. } => Answer::Started(Err(error)),
                VmAction::Signal { .. } => Answer::Signalled(Err(error)),
            };
            let pause = call.deadline.since(scheduler.now);
            scheduler.answer(call.from, call.id, answer, pause);
        }
    }

    fn reply(
        &mut self,
        scheduler: &mut Scheduler,
        call: &VmCall<'_>,
        answer: Answer,
        pause: Duration,
    ) {
        if scheduler
            .faults
            .strikes(&mut self.rng, Fault::VmAnswerTwice)
        {
            let again = pause + self.rng.millis(0, 60_000);
            scheduler.answer(call.from, call.id, answer.clone(), again);
        }
        let late = scheduler.faults.strikes(&mut self.rng, Fault::VmAnswerLate);
        let extra = if late {
            self.rng.secs(5, 120)
        } else {
            Duration::ZERO
        };
        scheduler.answer(call.from, call.id, answer, pause + extra);
    }
}
