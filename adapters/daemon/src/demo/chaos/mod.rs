//! The storm of `demo --chaos`: real faults in real parts, dealt from shuffled decks.
//!
//! Each target of faults has a deck of its own and its own stream of chances, so that the same seed
//! deals the same faults in the same order, however fast one part asks. What they meet depends on the
//! host. The first deck is small and has each kind once, so that a short run meets them all, too; a
//! fault that found its target gone goes to the next one.

mod cloud;
mod proxy;
mod vms;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

pub(crate) use cloud::ChaosLayer;
pub(crate) use proxy::Proxy;
pub(crate) use vms::{boot_probe, strike};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The queue answers 503.
    QueueBusy,
    /// The queue does what it was asked, and the answer is lost.
    QueueAnswerLost,
    /// The queue answers late.
    QueueSlow,
    /// The cloud creates nothing, for no good reason.
    CreateRefused,
    /// The cloud creates nothing, and says that the quota is used up.
    CreateOverQuota,
    /// The cloud creates a VM, and the answer is lost.
    CreateAnswerLost,
    /// The cloud does not show its VMs.
    ListFailed,
    /// The cloud does not destroy a VM.
    DestroyRefused,
    /// A VM is never ready.
    VmRefuses,
    /// A VM and all that runs on it is gone.
    VmVanishes,
    /// A VM and all that runs on it stands still.
    VmFreezes,
    /// A VM reports itself broken.
    VmBroken,
}

impl Fault {
    pub(crate) const ALL: [Self; 12] = [
        Self::QueueBusy,
        Self::QueueAnswerLost,
        Self::QueueSlow,
        Self::CreateRefused,
        Self::CreateOverQuota,
        Self::CreateAnswerLost,
        Self::ListFailed,
        Self::DestroyRefused,
        Self::VmRefuses,
        Self::VmVanishes,
        Self::VmFreezes,
        Self::VmBroken,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::QueueBusy => "queue: 503",
            Self::QueueAnswerLost => "queue: answer lost",
            Self::QueueSlow => "queue: slow",
            Self::CreateRefused => "cloud: create refused",
            Self::CreateOverQuota => "cloud: over quota",
            Self::CreateAnswerLost => "cloud: create, answer lost",
            Self::ListFailed => "cloud: list failed",
            Self::DestroyRefused => "cloud: destroy refused",
            Self::VmRefuses => "VM never ready",
            Self::VmVanishes => "VM vanishes",
            Self::VmFreezes => "VM freezes",
            Self::VmBroken => "VM reports itself broken",
        }
    }

    /// Whether it may end a container that runs there.
    pub(crate) fn may_end_containers(self) -> bool {
        matches!(self, Self::VmVanishes | Self::VmFreezes)
    }
}

/// What a fault may hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Queue,
    Create,
    List,
    Destroy,
    Vm,
}

impl Target {
    /// The first deck: each kind once.
    fn first(self) -> First {
        use Fault as F;
        let (faults, cards, lull): (&'static [Fault], _, _) = match self {
            // Some containers run by then: to who runs none, a 503 says that one is enough.
            Self::Queue => (&[F::QueueBusy, F::QueueAnswerLost, F::QueueSlow], 40, 60),
            // As many as there are VMs at first.
            Self::Vm => (self.deck().0, 6, 0),
            _ => (self.deck().0, self.deck().1, 0),
        };
        First {
            faults,
            cards,
            lull,
        }
    }

    /// The faults of a whole deck, and how many cards it has; the rest of them are blank.
    fn deck(self) -> (&'static [Fault], usize) {
        use Fault as F;
        match self {
            // Few of the first kind: after each the dispatcher runs less at a time, and it takes
            // minutes until it dares as much again.
            Self::Queue => (
                &[
                    F::QueueBusy,
                    F::QueueAnswerLost,
                    F::QueueAnswerLost,
                    F::QueueAnswerLost,
                    F::QueueAnswerLost,
                    F::QueueAnswerLost,
                    F::QueueAnswerLost,
                    F::QueueSlow,
                    F::QueueSlow,
                    F::QueueSlow,
                ],
                240,
            ),
            Self::Create => (
                &[F::CreateRefused, F::CreateOverQuota, F::CreateAnswerLost],
                8,
            ),
            Self::List => (&[F::ListFailed], 8),
            Self::Destroy => (&[F::DestroyRefused], 4),
            Self::Vm => (&[F::VmRefuses, F::VmVanishes, F::VmFreezes, F::VmBroken], 7),
        }
    }
}

/// What a first deck is made of.
#[derive(Clone, Copy, Debug)]
struct First {
    faults: &'static [Fault],
    /// Faults and blanks.
    cards: usize,
    /// Blanks before all of them.
    lull: usize,
}

/// Deals faults until it is over and each kind has struck, and remembers which did. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Storm(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// After this, only kinds are dealt that have not struck yet.
    until: Instant,
    decks: BTreeMap<Target, Deck>,
    struck: BTreeMap<Fault, u64>,
    /// The fault of each VM that was struck.
    vms: BTreeMap<String, Fault>,
}

#[derive(Debug)]
struct Deck {
    chance: ChaCha8Rng,
    /// The last one is dealt first.
    cards: Vec<Option<Fault>>,
}

/// What became of the storm.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    /// How often each fault struck.
    pub(crate) struck: BTreeMap<Fault, u64>,
    /// The fault of each VM that was struck.
    pub(crate) vms: BTreeMap<String, Fault>,
}

impl Storm {
    pub(crate) fn new(seed: u64, lasts: Duration) -> Self {
        let targets = [
            Target::Queue,
            Target::Create,
            Target::List,
            Target::Destroy,
            Target::Vm,
        ];
        let deck = |(number, target)| {
            let mut chance = ChaCha8Rng::seed_from_u64(seed);
            chance.set_stream(number);
            (target, Deck::first(chance, target))
        };
        Self(Arc::new(Mutex::new(State {
            until: Instant::now() + lasts,
            decks: (0..).zip(targets).map(deck).collect(),
            struck: BTreeMap::new(),
            vms: BTreeMap::new(),
        })))
    }

    /// The next card, with a number below 1,000 for whoever needs a chance beside it.
    fn deal(&self, target: Target) -> (Option<Fault>, u64) {
        let mut state = self.state();
        let over = Instant::now() >= state.until;
        let Some(deck) = state.decks.get_mut(&target) else {
            return (None, 0);
        };
        let fault = deck.draw(target);
        let chance = deck.chance.next_u64() % 1000;
        let wanted = |fault: &Fault| !over || !state.struck.contains_key(fault);
        (fault.filter(wanted), chance)
    }

    /// Takes back a fault whose target was gone already: the next one gets it.
    fn put_back(&self, target: Target, fault: Fault) {
        if let Some(deck) = self.state().decks.get_mut(&target) {
            deck.cards.push(Some(fault));
        }
    }

    /// Counts a fault that has struck.
    fn count(&self, fault: Fault) {
        *self.state().struck.entry(fault).or_default() += 1;
    }

    fn count_vm(&self, fault: Fault, instance: &str) {
        self.count(fault);
        self.state().vms.insert(instance.to_owned(), fault);
    }

    pub(crate) fn damage(&self) -> Damage {
        let state = self.state();
        Damage {
            struck: state.struck.clone(),
            vms: state.vms.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deck {
    fn first(chance: ChaCha8Rng, target: Target) -> Self {
        let First {
            faults,
            cards,
            lull,
        } = target.first();
        let mut deck = Self {
            chance,
            cards: Vec::new(),
        };
        deck.shuffle(faults, cards);
        deck.cards.resize(cards + lull, None);
        deck
    }

    fn draw(&mut self, target: Target) -> Option<Fault> {
        if self.cards.is_empty() {
            let (faults, size) = target.deck();
            self.shuffle(faults, size);
        }
        self.cards.pop().flatten()
    }

    /// Replaces all cards.
    fn shuffle(&mut self, faults: &[Fault], size: usize) {
        self.cards = faults.iter().copied().map(Some).collect();
        self.cards.resize(size, None);
        for last in (1..self.cards.len()).rev() {
            let other = self.chance.next_u64() % (last as u64 + 1);
            self.cards
                .swap(last, usize::try_from(other).unwrap_or(last));
        }
    }
}

/// Where the commands of the containers write down that they ran.
#[derive(Clone, Debug)]
pub(crate) struct Ledger(PathBuf);

impl Ledger {
    /// Makes the directory.
    pub(crate) fn create(dir: PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }

    /// A script that does what the other does, and writes down beginning and end.
    pub(crate) fn wrap(&self, number: u32, script: &str) -> String {
        let file = self.0.join(number.to_string());
        let file = file.display();
        format!("echo begun >>{file}; ( {script} ); status=$?; echo ended >>{file}; exit $status")
    }

    /// How often the command of a container began and ended.
    pub(crate) fn of(&self, number: u32) -> (usize, usize) {
        let text = std::fs::read_to_string(self.0.join(number.to_string()));
        let text = text.unwrap_or_default();
        let count = |word| text.lines().filter(|line| *line == word).count();
        (count("begun"), count("ended"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dealt(seed: u64, target: Target) -> Vec<Option<Fault>> {
        let storm = Storm::new(seed, Duration::from_secs(3600));
        (0..240).map(|_| storm.deal(target).0).collect()
    }

    #[test]
    fn a_seed_deals_the_same_cards_and_every_fault_comes_up() {
        let targets = [
            Target::Queue,
            Target::Create,
            Target::List,
            Target::Destroy,
            Target::Vm,
        ];
        let mut seen: Vec<Fault> = Vec::new();
        for target in targets {
            assert_eq!(dealt(7, target), dealt(7, target));
            seen.extend(dealt(7, target).into_iter().flatten());
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, Fault::ALL);
        assert_ne!(dealt(7, Target::Vm), dealt(8, Target::Vm));
    }

    /// The faults among the next cards, sorted.
    fn next(storm: &Storm, target: Target, cards: usize) -> Vec<Fault> {
        let cards = (0..cards).map(|_| storm.deal(target).0);
        let mut faults: Vec<Fault> = cards.flatten().collect();
        faults.sort_unstable();
        faults
    }

    #[test]
    fn the_first_deck_has_each_kind_once() {
        use Fault as F;
        for seed in 0..20 {
            let storm = Storm::new(seed, Duration::from_secs(3600));
            let vms = [F::VmRefuses, F::VmVanishes, F::VmFreezes, F::VmBroken];
            assert_eq!(next(&storm, Target::Vm, 6), vms);
            assert_eq!(next(&storm, Target::Queue, 60), [], "nothing runs yet");
            let queue = [F::QueueBusy, F::QueueAnswerLost, F::QueueSlow];
            assert_eq!(next(&storm, Target::Queue, 40), queue);
            let creates = [F::CreateRefused, F::CreateOverQuota, F::CreateAnswerLost];
            assert_eq!(next(&storm, Target::Create, 8), creates);
        }
    }

    #[test]
    fn a_fault_that_met_nothing_is_dealt_to_the_next() {
        let storm = Storm::new(7, Duration::from_secs(3600));
        let dealt = next(&storm, Target::Vm, 6)[0];
        storm.put_back(Target::Vm, dealt);
        assert_eq!(storm.deal(Target::Vm).0, Some(dealt));
    }

    #[test]
    fn a_storm_that_is_over_deals_only_what_has_not_struck() {
        let storm = Storm::new(7, Duration::ZERO);
        let faults = next(&storm, Target::Vm, 6);
        assert_eq!(faults.len(), 4);
        for (fault, vm) in faults.into_iter().zip(["a", "b", "c", "d"]) {
            storm.count_vm(fault, vm);
        }
        assert_eq!(next(&storm, Target::Vm, 100), []);
    }

    #[test]
    fn the_ledger_counts_beginnings_and_ends_and_keeps_the_exit_status() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::create(dir.path().join("ledger")).unwrap();
        let run = |script: &str| {
            let script = ledger.wrap(3, script);
            let mut shell = std::process::Command::new("sh");
            shell.arg("-c").arg(script).status().unwrap().code()
        };
        assert_eq!(ledger.of(3), (0, 0));
        assert_eq!(run("exit 3"), Some(3));
        assert_eq!(ledger.of(3), (1, 1));
        assert_eq!(run("kill -9 $$; sleep 1"), None);
        assert_eq!(ledger.of(3), (2, 1));
    }
}
