//! What the server asks of the loop that owns the dispatcher.

use longshore_core::ids::ContainerId;
use longshore_core::input::OperatorRequest;
use longshore_core::time::Timestamp;
use longshore_core::view::{BootBackoff, ContainerView, InstanceView, Totals, View};
use longshore_core::{ContainerExplanation, InstanceExplanation};
use tokio::sync::{mpsc, oneshot};

/// LoopRequests that wait for the loop at most; whoever comes then waits for a place, within the same
/// time limit.
const REQUESTS_MAX: usize = 64;

/// Where one answer goes. Nobody listens any more once it is closed.
pub type Reply<T> = oneshot::Sender<T>;

/// The channel from the server to the loop.
#[must_use]
pub fn loop_requests() -> (mpsc::Sender<LoopRequest>, mpsc::Receiver<LoopRequest>) {
    mpsc::channel(REQUESTS_MAX)
}

/// One question, with the place for its answer.
#[derive(Debug)]
pub enum LoopRequest {
    /// All containers; `None` while queue and clouds have not each been seen whole.
    Containers(Reply<Option<Vec<ContainerView>>>),
    /// One container, if it is known.
    Container(ContainerId, Reply<Option<ContainerView>>),
    /// All instances, and what none is created of.
    Instances(Reply<AsOf<Instances>>),
    /// Why the container or the instance of this name is as it is, if it is known.
    Explain(String, Reply<Option<Explanation>>),
    /// Sums for metrics.
    Totals(Reply<AsOf<Totals>>),
    /// An operator's wish, to be carried out if its object exists.
    Operate(OperatorRequest, Reply<Outcome>),
    /// Whether the dispatcher is able to work, and what it gives a rest.
    Health(Reply<HealthReport>),
}

/// An answer, and when it was true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsOf<T> {
    /// The loop's time.
    pub at: Timestamp,
    /// The answer.
    pub value: T,
}

/// What there is, and what there is none of for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instances {
    /// Those that exist, and wishes.
    pub all: Vec<InstanceView>,
    /// Types and images that do not boot.
    pub boot_backoffs: Vec<BootBackoff>,
}

/// How the dispatcher is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthReport {
    /// Whether it is able to work.
    pub health: Health,
    /// Types and images that do not boot. It works on with all others, so this is no failure.
    pub boot_backoffs: Vec<BootBackoff>,
}

/// Why something is as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Explanation {
    /// A container.
    Container(Box<ContainerExplanation>),
    /// An instance, or the wish for one.
    Instance(Box<InstanceExplanation>),
}

/// What becomes of an operator's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is being carried out.
    Accepted,
    /// There is no such instance, or no instance has that container.
    Missing,
    /// Its object is not known, but neither is the whole world yet, or another process is in
    /// charge.
    NotReady,
}

/// Whether the dispatcher is able to work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It is.
    Ok,
    /// It is not, and why: for instance, the runner's program cannot be read.
    Failing(String),
}

impl LoopRequest {
    /// Answers, unless nobody listens any more. A wish that can be carried out is returned: hand it
    /// to the dispatcher as [`Input::OperatorRequest`](longshore_core::input::Input::Operator). `now` is
    /// the loop's time.
    #[must_use = "a returned wish must be handed to the dispatcher"]
    pub fn answer(
        self,
        now: Timestamp,
        view: View<'_>,
        health: &Health,
    ) -> Option<OperatorRequest> {
        if self.is_abandoned() {
            return None;
        }
        // A send fails when the asker has just given up: then nobody misses the answer.
        match self {
            Self::Containers(reply) => {
                let _ = reply.send(view.is_synced().then(|| view.containers()));
            }
            Self::Container(id, reply) => {
                let _ = reply.send(view.container(id));
            }
            Self::Instances(reply) => {
                let value = Instances {
                    all: view.instances(),
                    boot_backoffs: view.boot_backoffs(),
                };
                let _ = reply.send(AsOf { at: now, value });
            }
            Self::Explain(name, reply) => {
                let _ = reply.send(explain(now, view, &name));
            }
            Self::Totals(reply) => {
                let value = view.totals();
                let _ = reply.send(AsOf { at: now, value });
            }
            Self::Operate(wish, reply) => {
                let outcome = outcome(view, &wish);
                // Whoever gave up was told that nothing is known to have happened: keep it true.
                let told = reply.send(outcome).is_ok();
                return (told && outcome == Outcome::Accepted).then_some(wish);
            }
            Self::Health(reply) => {
                let _ = reply.send(HealthReport {
                    health: health.clone(),
                    boot_backoffs: view.boot_backoffs(),
                });
            }
        }
        None
    }

    /// Whether the asker has given up. A loop that was held up skips such questions.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        match self {
            Self::Containers(reply) => reply.is_closed(),
            Self::Container(_, reply) => reply.is_closed(),
            Self::Instances(reply) => reply.is_closed(),
            Self::Explain(_, reply) => reply.is_closed(),
            Self::Totals(reply) => reply.is_closed(),
            Self::Operate(_, reply) => reply.is_closed(),
            Self::Health(reply) => reply.is_closed(),
        }
    }
}

fn explain(now: Timestamp, view: View<'_>, name: &str) -> Option<Explanation> {
    if let Ok(id) = name.parse::<ContainerId>() {
        let told = view.explain_container(now, id)?;
        return Some(Explanation::Container(Box::new(told)));
    }
    let told = view.explain_instance(now, name)?;
    Some(Explanation::Instance(Box::new(told)))
}

fn outcome(view: View<'_>, wish: &OperatorRequest) -> Outcome {
    let exists = match wish {
        OperatorRequest::SetIdleBehavior { instance, .. }
        | OperatorRequest::KillInstance { instance, .. } => view.instance(instance).is_some(),
        OperatorRequest::KillContainer { container, .. } => view.is_hosted(*container),
    };
    match exists {
        _ if !view.is_leader() => Outcome::NotReady,
        true => Outcome::Accepted,
        false if view.is_synced() => Outcome::Missing,
        false => Outcome::NotReady,
    }
}
