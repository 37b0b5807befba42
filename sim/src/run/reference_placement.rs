//! Placement as one would write it down: each container in turn looks at every VM. Slow and
//! obviously right, to compare the real one with.

use std::cmp::Reverse;

use longshore_core::Phase;
use longshore_core::config::{Config, InstanceType};
use longshore_core::ids::{ContainerId, ImageId, TypeName};
use longshore_core::input::IdleBehavior;
use longshore_core::resources::Resources;
use longshore_core::view::View;

/// A container that waits for a VM.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its uuid.
    pub id: ContainerId,
    /// Higher comes first.
    pub priority: u64,
    /// What it takes.
    pub need: Resources,
    /// Types that can hold it, in the order of preference.
    pub eligible: Vec<TypeName>,
    /// What its VM must have been booted from.
    pub image: ImageId,
}

/// What a VM can be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Containers start at once.
    Ready,
    /// Containers may wait for it.
    Arriving,
    /// Nothing more is placed on it.
    Closed,
    /// It is being given back.
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
    /// Something runs on it already.
    runs: bool,
    needs: Vec<Resources>,
    /// It is to have room for one that is blocked: nobody of lower priority gets it.
    kept: bool,
}

/// What becomes of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It is locked, to start on this VM.
    Starts(String),
    /// It waits for this VM, which is on its way.
    Awaits(String),
    /// It waits, since nothing more may be created.
    Waits,
}

/// The instances, oldest first, and what may be added.
#[derive(Clone, Debug)]
pub struct ReferencePlacement<'a> {
    config: &'a Config,
    vms: Vec<Vm>,
    /// What is asked for, in order. The VMs on their way are named `new 0`, `new 1`, ….
    pub creates: Vec<(TypeName, ImageId)>,
    /// What is given back to make room.
    pub given_back: Option<String>,
    /// What waits for a limit, of the priority being placed: whether it does so in the end.
    lacks_room: bool,
}

impl<'a> ReferencePlacement<'a> {
    /// The instances that a dispatcher shows.
    #[must_use]
    pub fn of(view: &View<'_>, config: &'a Config) -> Self {
        let vms = view.instances().into_iter().map(|shown| {
            let needs = shown.containers.iter().map(|id| view.container(*id)?.need);
            let needs: Option<Vec<Resources>> = needs.collect();
            let standing = match shown.phase {
                Phase::Cordoned | Phase::Shutdown => Standing::Leaving,
                // A container of which nothing is known may need all there is.
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

    /// Places each container in turn, the most urgent first, then by uuid. All must have been seen
    /// at the same time. O(containers · instances).
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

    /// The VMs of this standing that have room, oldest first.
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

    /// The dearest idle VM goes, the oldest of those, unless one is going already; false if none is
    /// going then.
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

    /// The busy VM with most room is kept, unless one that would do is kept already.
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

/// What containers take together: those that ask for no core share one.
fn used(needs: &[Resources]) -> Resources {
    let mut sum = Resources::default();
    for need in needs {
        sum = sum.plus(need);
    }
    let sharing = needs.iter().any(|need| need.vcpus == 0);
    sum.vcpus = sum.vcpus.saturating_add(u32::from(sharing));
    sum
}
