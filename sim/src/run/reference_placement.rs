//! Reference implementation of placement: checks every VM for each container in turn. Slow and
//! evidently correct, for comparison with the placement of the core.

use std::cmp::Reverse;

use longshore_core::Phase;
use longshore_core::config::{Config, InstanceType};
use longshore_core::ids::{ContainerId, ImageId, TypeName};
use longshore_core::input::IdleBehavior;
use longshore_core::resources::Resources;
use longshore_core::view::View;

/// Container waiting for a VM.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Container uuid.
    pub id: ContainerId,
    /// Priority; higher values are placed first.
    pub priority: u64,
    /// Required resources.
    pub need: Resources,
    /// Types with sufficient resources, in order of preference.
    pub eligible: Vec<TypeName>,
    /// Required boot image of the VM.
    pub image: ImageId,
}

/// Usability of a VM for placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Containers start at once.
    Ready,
    /// Not ready yet: containers may wait for the VM.
    Arriving,
    /// No further container is placed on the VM.
    Closed,
    /// The VM is being destroyed.
    Leaving,
}

#[derive(Clone, Debug)]
struct Vm {
    name: String,
    type_name: TypeName,
    image: ImageId,
    price: u64,
    total: Resources,
    standing: Standing,
    unanswered: bool,
    /// True if a container runs on the VM.
    runs: bool,
    needs: Vec<Resources>,
    /// True if the VM is reserved for a blocked container: no container of lower priority is placed
    /// on the VM.
    kept: bool,
}

/// Decision about a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Lock the container and start the container on this VM.
    Starts(String),
    /// Wait for this VM, not ready yet.
    Awaits(String),
    /// Wait: no create request is possible.
    Waits,
}

/// Instances, oldest first, and the limits of creation.
#[derive(Clone, Debug)]
pub struct ReferencePlacement<'a> {
    config: &'a Config,
    vms: Vec<Vm>,
    /// Create requests, in order. The new VMs are named `new 0`, `new 1`, ….
    pub creates: Vec<(TypeName, ImageId)>,
    /// VM destroyed to make room.
    pub given_back: Option<String>,
    /// True if the container being placed is blocked by the limit on instances or price.
    lacks_room: bool,
}

impl<'a> ReferencePlacement<'a> {
    /// Copies the instances from the view of a dispatcher.
    #[must_use]
    pub fn of(view: &View<'_>, config: &'a Config) -> Self {
        let vms = view.instances().into_iter().map(|shown| {
            let needs = shown.containers.iter().map(|id| view.container(*id)?.need);
            let needs: Option<Vec<Resources>> = needs.collect();
            let standing = match shown.phase {
                Phase::Cordoned | Phase::Shutdown => Standing::Leaving,
                // A container without a known record may need the whole VM.
                _ if shown.idle_behavior != IdleBehavior::Run || needs.is_none() => {
                    Standing::Closed
                }
                Phase::Ready => Standing::Ready,
                Phase::Unknown if shown.complaint.is_some() => Standing::Closed,
                Phase::Creating | Phase::Booting | Phase::Unknown => Standing::Arriving,
            };
            let offer = config.types.get(&shown.instance_type);
            let name = shown.instance.map(|id| id.to_string());
            Vm {
                name: name.unwrap_or_default(),
                type_name: shown.instance_type,
                image: shown.image,
                price: shown.price.0,
                total: offer.map(|offer| offer.resources).unwrap_or_default(),
                standing,
                unanswered: shown.phase == Phase::Creating,
                runs: !shown.containers.is_empty(),
                needs: needs.unwrap_or_default(),
                kept: false,
            }
        });
        Self {
            config,
            vms: vms.collect(),
            creates: Vec::new(),
            given_back: None,
            lacks_room: false,
        }
    }

    /// Places the containers by descending priority, then by uuid. All containers must have been
    /// read in the same poll. O(containers · instances).
    pub fn place(&mut self, wanted: &[Wanted]) -> Vec<(ContainerId, Choice)> {
        let mut order: Vec<&Wanted> = wanted.iter().collect();
        order.sort_by_key(|one| (Reverse(one.priority), one.id));
        let mut choices = Vec::new();
        for equals in order.chunk_by(|a, b| a.priority == b.priority) {
            let mut without_room = Vec::new();
            for one in equals {
                self.lacks_room = false;
                choices.push((one.id, self.choose(one)));
                if self.lacks_room {
                    without_room.push(*one);
                }
            }
            for one in without_room {
                if !self.make_room() {
                    self.keep_one_for(one);
                }
            }
        }
        choices
    }

    fn choose(&mut self, one: &Wanted) -> Choice {
        let fitting = self.fitting(one, Standing::Ready);
        let best = fitting.into_iter().min_by_key(|index| {
            let vm = &self.vms[*index];
            let free = vm.total.minus(&used(&vm.needs));
            let rank = one.eligible.iter().position(|name| *name == vm.type_name);
            (vm.needs.is_empty(), free.vcpus, rank, free.ram, *index)
        });
        if let Some(index) = best {
            self.vms[index].needs.push(one.need);
            return Choice::Starts(self.vms[index].name.clone());
        }
        let fitting = self.fitting(one, Standing::Arriving);
        let best = fitting.into_iter().min_by_key(|index| {
            let vm = &self.vms[*index];
            let free = vm.total.minus(&used(&vm.needs));
            let rank = one.eligible.iter().position(|name| *name == vm.type_name);
            (!vm.runs, free.vcpus, rank, free.ram, *index)
        });
        if let Some(index) = best {
            self.vms[index].needs.push(one.need);
            return Choice::Awaits(self.vms[index].name.clone());
        }
        let mut lacks_room = false;
        for name in &one.eligible {
            let Some(offer) = self.config.types.get(name) else {
                continue;
            };
            if self.is_full(offer) {
                lacks_room = true;
            } else if !self.is_busy_creating() {
                return self.create(one, name, offer);
            }
        }
        self.lacks_room |= lacks_room;
        Choice::Waits
    }

    /// Indexes of the VMs with this standing and sufficient room, oldest first.
    fn fitting(&self, one: &Wanted, standing: Standing) -> Vec<usize> {
        let max = self.config.limits.containers_per_instance;
        let fits = |vm: &Vm| {
            let mut with: Vec<Resources> = vm.needs.clone();
            with.push(one.need);
            vm.standing == standing
                && !vm.kept
                && vm.image == one.image
                && one.eligible.contains(&vm.type_name)
                && max.is_none_or(|max| with.len() <= max as usize)
                && vm.total.holds(&used(&with))
        };
        let all = self.vms.iter().enumerate();
        all.filter(|(_, vm)| fits(vm)).map(|(at, _)| at).collect()
    }

    fn is_full(&self, offer: &InstanceType) -> bool {
        let limits = &self.config.limits;
        let price = self.vms.iter().map(|vm| vm.price).sum::<u64>() + offer.price.0;
        limits
            .instances
            .is_some_and(|max| self.vms.len() >= max as usize)
            || limits.price_per_hour.is_some_and(|max| price > max.0)
    }

    fn is_busy_creating(&self) -> bool {
        let unanswered = self.vms.iter().filter(|vm| vm.unanswered).count();
        let max = self.config.limits.creates_in_flight;
        max.is_some_and(|max| unanswered >= max as usize)
    }

    fn create(&mut self, one: &Wanted, name: &TypeName, offer: &InstanceType) -> Choice {
        let vm = Vm {
            name: format!("new {}", self.creates.len()),
            type_name: name.clone(),
            image: one.image.clone(),
            price: offer.price.0,
            total: offer.resources,
            standing: Standing::Arriving,
            unanswered: true,
            runs: false,
            needs: vec![one.need],
            kept: false,
        };
        let choice = Choice::Awaits(vm.name.clone());
        self.creates.push((name.clone(), one.image.clone()));
        self.vms.push(vm);
        choice
    }

    /// Destroys the most expensive idle VM, the oldest of equals, unless a VM is being destroyed
    /// already. Returns false if no VM is being destroyed afterwards.
    fn make_room(&mut self) -> bool {
        if self.vms.iter().any(|vm| vm.standing == Standing::Leaving) {
            return true;
        }
        let idle = |vm: &&mut Vm| vm.standing == Standing::Ready && vm.needs.is_empty();
        let idle = self.vms.iter_mut().filter(idle);
        let Some(vm) = idle.min_by_key(|vm| Reverse(vm.price)) else {
            return false;
        };
        vm.standing = Standing::Leaving;
        self.given_back = Some(vm.name.clone());
        true
    }

    /// Reserves the busy VM with most free resources, unless a suitable VM is reserved already.
    fn keep_one_for(&mut self, one: &Wanted) {
        let would_do = |vm: &Vm| {
            let busy = vm.standing == Standing::Ready && !vm.needs.is_empty();
            busy && vm.image == one.image && one.eligible.contains(&vm.type_name)
        };
        if self.vms.iter().any(|vm| vm.kept && would_do(vm)) {
            return;
        }
        let all = 0..self.vms.len();
        let candidates = all.filter(|index| would_do(&self.vms[*index]));
        let best = candidates.max_by_key(|index| {
            let vm = &self.vms[*index];
            let free = vm.total.minus(&used(&vm.needs));
            (free.vcpus, free.ram, *index)
        });
        if let Some(index) = best {
            self.vms[index].kept = true;
        }
    }
}

/// Sum of the resources of containers on one VM: all containers without a requested core share one
/// core.
fn used(needs: &[Resources]) -> Resources {
    let mut sum = Resources::default();
    for need in needs {
        sum = sum.plus(need);
    }
    let sharing = needs.iter().any(|need| need.vcpus == 0);
    sum.vcpus = sum.vcpus.saturating_add(u32::from(sharing));
    sum
}
