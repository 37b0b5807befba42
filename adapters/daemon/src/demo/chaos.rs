//! Fault injector of `demo --chaos`: real faults in real components, drawn from shuffled decks.
//!
//! Each target of faults has a separate deck and a separate random stream, so that the same seed
//! draws the same faults in the same order, independent of the speed of the components. The
//! containers and VMs hit by a fault depend on the host. The first deck is small and contains each
//! kind once, so that a short run draws every kind, too; a fault whose target has vanished goes to
//! the next target.

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
pub(crate) use vms::{boot_probe, inject};

/// Kind of an injected fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Queue responds 503.
    QueueBusy,
    /// Queue executes the request, and the response is lost.
    QueueAnswerLost,
    /// Queue responds late.
    QueueSlow,
    /// Cloud creates nothing and reports a transient error.
    CreateRefused,
    /// Cloud creates nothing and reports an exhausted quota.
    CreateOverQuota,
    /// Cloud creates a VM, and the response is lost.
    CreateAnswerLost,
    /// Cloud does not list the VMs.
    ListFailed,
    /// Cloud does not destroy a VM.
    DestroyRefused,
    /// VM never becomes ready.
    VmRefuses,
    /// VM and all processes on the VM are killed.
    VmVanishes,
    /// VM and all processes on the VM are stopped.
    VmFreezes,
    /// Runner reports the VM as broken.
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

    /// True if the fault may end containers running on the VM.
    pub(crate) fn may_end_containers(self) -> bool {
        matches!(self, Self::VmVanishes | Self::VmFreezes)
    }
}

/// Target of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Queue,
    Create,
    List,
    Destroy,
    Vm,
}

impl Target {
    /// First deck: each kind once.
    fn first(self) -> First {
        use Fault as F;
        let (faults, cards, leading_blanks): (&'static [Fault], _, _) = match self {
            // The blanks at the start let some containers start: the dispatcher cuts the
            // concurrency limit to one if a 503 arrives while no container runs.
            Self::Queue => (&[F::QueueBusy, F::QueueAnswerLost, F::QueueSlow], 40, 60),
            // About the number of VMs at the start.
            Self::Vm => (self.deck().0, 6, 0),
            _ => (self.deck().0, self.deck().1, 0),
        };
        First {
            faults,
            cards,
            leading_blanks,
        }
    }

    /// Faults of a full deck, and the number of cards; the remaining cards are blank.
    fn deck(self) -> (&'static [Fault], usize) {
        use Fault as F;
        match self {
            // Few 503s: after each 503 the dispatcher cuts the concurrency limit, and needs minutes
            // to raise the limit again.
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

/// Composition of a first deck.
#[derive(Clone, Copy, Debug)]
struct First {
    faults: &'static [Fault],
    /// Number of faults and blanks.
    cards: usize,
    /// Number of blanks in front.
    leading_blanks: usize,
}

/// Draws faults until the end of the fault period and until each kind was injected, and counts
/// injected faults. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct FaultInjector(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// End of the fault period: from then on, only kinds not injected yet are drawn.
    until: Instant,
    decks: BTreeMap<Target, Deck>,
    injected: BTreeMap<Fault, u64>,
    /// Fault of each affected VM.
    vms: BTreeMap<String, Fault>,
}

#[derive(Debug)]
struct Deck {
    chance: ChaCha8Rng,
    /// Drawn from the end.
    cards: Vec<Option<Fault>>,
}

/// Faults injected so far.
#[derive(Clone, Debug)]
pub(crate) struct InjectedFaults {
    /// Number of injections of each fault.
    pub(crate) injected: BTreeMap<Fault, u64>,
    /// Fault of each affected VM.
    pub(crate) vms: BTreeMap<String, Fault>,
}

impl FaultInjector {
    pub(crate) fn new(seed: u64, period: Duration) -> Self {
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
            until: Instant::now() + period,
            decks: (0..).zip(targets).map(deck).collect(),
            injected: BTreeMap::new(),
            vms: BTreeMap::new(),
        })))
    }

    /// Draws the next card, with a random number below 1,000 for parameters of the fault.
    fn draw(&self, target: Target) -> (Option<Fault>, u64) {
        let mut state = self.state();
        let ended = Instant::now() >= state.until;
        let Some(deck) = state.decks.get_mut(&target) else {
            return (None, 0);
        };
        let fault = deck.draw(target);
        let chance = deck.chance.next_u64() % 1000;
        let due = |fault: &Fault| !ended || !state.injected.contains_key(fault);
        (fault.filter(due), chance)
    }

    /// Returns a fault whose target had vanished: the next target gets the fault.
    fn put_back(&self, target: Target, fault: Fault) {
        if let Some(deck) = self.state().decks.get_mut(&target) {
            deck.cards.push(Some(fault));
        }
    }

    /// Counts an injected fault.
    fn count(&self, fault: Fault) {
        *self.state().injected.entry(fault).or_default() += 1;
    }

    fn count_vm(&self, fault: Fault, instance: &str) {
        self.count(fault);
        self.state().vms.insert(instance.to_owned(), fault);
    }

    pub(crate) fn injected(&self) -> InjectedFaults {
        let state = self.state();
        InjectedFaults {
            injected: state.injected.clone(),
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
            leading_blanks,
        } = target.first();
        let mut deck = Self {
            chance,
            cards: Vec::new(),
        };
        deck.shuffle(faults, cards);
        deck.cards.resize(cards + leading_blanks, None);
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

/// Directory of files in which the containers' commands record begin and end.
#[derive(Clone, Debug)]
pub(crate) struct Ledger(PathBuf);

impl Ledger {
    /// Creates the directory.
    pub(crate) fn create(dir: PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }

    /// Script that runs another script, and records begin and end.
    pub(crate) fn wrap(&self, number: u32, script: &str) -> String {
        let file = self.0.join(number.to_string());
        let file = file.display();
        format!("echo begun >>{file}; ( {script} ); status=$?; echo ended >>{file}; exit $status")
    }

    /// Number of begins and ends of a container's command.
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

    fn drawn(seed: u64, target: Target) -> Vec<Option<Fault>> {
        let injector = FaultInjector::new(seed, Duration::from_secs(3600));
        (0..240).map(|_| injector.draw(target).0).collect()
    }

    #[test]
    fn seed_determines_faults_and_covers_all() {
        let targets = [
            Target::Queue,
            Target::Create,
            Target::List,
            Target::Destroy,
            Target::Vm,
        ];
        let mut seen: Vec<Fault> = Vec::new();
        for target in targets {
            assert_eq!(drawn(7, target), drawn(7, target));
            seen.extend(drawn(7, target).into_iter().flatten());
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, Fault::ALL);
        assert_ne!(drawn(7, Target::Vm), drawn(8, Target::Vm));
    }

    /// Faults among the next cards, sorted.
    fn next(injector: &FaultInjector, target: Target, cards: usize) -> Vec<Fault> {
        let cards = (0..cards).map(|_| injector.draw(target).0);
        let mut faults: Vec<Fault> = cards.flatten().collect();
        faults.sort_unstable();
        faults
    }

    #[test]
    fn first_deck_contains_each_kind_once() {
        use Fault as F;
        for seed in 0..20 {
            let injector = FaultInjector::new(seed, Duration::from_secs(3600));
            let vms = [F::VmRefuses, F::VmVanishes, F::VmFreezes, F::VmBroken];
            assert_eq!(next(&injector, Target::Vm, 6), vms);
            assert_eq!(
                next(&injector, Target::Queue, 60),
                [],
                "no containers run yet"
            );
            let queue = [F::QueueBusy, F::QueueAnswerLost, F::QueueSlow];
            assert_eq!(next(&injector, Target::Queue, 40), queue);
            let creates = [F::CreateRefused, F::CreateOverQuota, F::CreateAnswerLost];
            assert_eq!(next(&injector, Target::Create, 8), creates);
        }
    }

    #[test]
    fn fault_without_target_is_drawn_again() {
        let injector = FaultInjector::new(7, Duration::from_secs(3600));
        let drawn = next(&injector, Target::Vm, 6)[0];
        injector.put_back(Target::Vm, drawn);
        assert_eq!(injector.draw(Target::Vm).0, Some(drawn));
    }

    #[test]
    fn ended_injector_draws_missing_kinds_only() {
        let injector = FaultInjector::new(7, Duration::ZERO);
        let faults = next(&injector, Target::Vm, 6);
        assert_eq!(faults.len(), 4);
        for (fault, vm) in faults.into_iter().zip(["a", "b", "c", "d"]) {
            injector.count_vm(fault, vm);
        }
        assert_eq!(next(&injector, Target::Vm, 100), []);
    }

    #[test]
    fn ledger_counts_runs_and_keeps_status() {
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
