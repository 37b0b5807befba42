//! Requests of the server to the loop owning the dispatcher.

use longshore_core::ids::ContainerId;
use longshore_core::input::OperatorRequest;
use longshore_core::time::Timestamp;
use longshore_core::view::{BootBackoff, ContainerView, InstanceView, Totals, View};
use longshore_core::{ContainerExplanation, InstanceExplanation};
use tokio::sync::{mpsc, oneshot};

/// Capacity of the channel. A sender to a full channel waits, within the timeout of its reply.
const REQUESTS_MAX: usize = 64;

/// Sender of one reply; closed once the HTTP request has timed out.
pub type Reply<T> = oneshot::Sender<T>;

/// Creates the channel from the server to the loop.
#[must_use]
pub fn loop_requests() -> (mpsc::Sender<LoopRequest>, mpsc::Receiver<LoopRequest>) {
    mpsc::channel(REQUESTS_MAX)
}

/// One request, with the sender of its reply.
#[derive(Debug)]
pub enum LoopRequest {
    /// All containers; `None` until queue and clouds have each been read completely.
    Containers(Reply<Option<Vec<ContainerView>>>),
    /// One container; `None` if unknown.
    Container(ContainerId, Reply<Option<ContainerView>>),
    /// All instances, and the types and images backed off after failed boots.
    Instances(Reply<AsOf<Instances>>),
    /// Explanation of the container or instance of this name; `None` if unknown.
    Explain(String, Reply<Option<Explanation>>),
    /// Totals for metrics.
    Totals(Reply<AsOf<Totals>>),
    /// Request of an operator, to be executed if its container or instance exists.
    Operate(OperatorRequest, Reply<Outcome>),
    /// Health of the dispatcher, and the types and images backed off after failed boots.
    Health(Reply<HealthReport>),
}

/// A value with its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsOf<T> {
    /// Time of the value, by the clock of the loop.
    pub at: Timestamp,
    /// The value.
    pub value: T,
}

/// Instances, with the types and images backed off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instances {
    /// Existing instances, and create requests.
    pub all: Vec<InstanceView>,
    /// Types and images backed off after failed boots.
    pub boot_backoffs: Vec<BootBackoff>,
}

/// Health of the dispatcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthReport {
    /// State of the dispatcher as a whole.
    pub health: Health,
    /// Types and images backed off after failed boots. Not a failure: all others still work.
    pub boot_backoffs: Vec<BootBackoff>,
}

/// Explanation of the state of a container or an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Explanation {
    /// Of a container.
    Container(Box<ContainerExplanation>),
    /// Of an instance or a create request.
    Instance(Box<InstanceExplanation>),
}

/// Outcome of a request of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// In execution.
    Accepted,
    /// Refused: the instance does not exist, or no instance hosts the container.
    Missing,
    /// Refused for now: queue and clouds are not yet read completely, or another process is the
    /// leader.
    NotReady,
}

/// State of the dispatcher as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Working.
    Ok,
    /// Not working, with the reason, such as an unreadable runner program.
    Failing(String),
}

impl LoopRequest {
    /// Sends the reply, unless the HTTP request has timed out. Returns an accepted request of an
    /// operator, to be passed to the dispatcher as
    /// [`Input::OperatorRequest`](longshore_core::input::Input::OperatorRequest). `now` is the time by
    /// the clock of the loop.
    #[must_use = "a returned request must be passed to the dispatcher"]
    pub fn answer(
        self,
        now: Timestamp,
        view: View<'_>,
        health: &Health,
    ) -> Option<OperatorRequest> {
        if self.is_abandoned() {
            return None;
        }
        // A send fails if the HTTP request has just timed out: then no reply is missing.
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
            Self::Operate(request, reply) => {
                let outcome = outcome(view, &request);
                // After a timeout the caller has got an error: do not execute the request later.
                let is_delivered = reply.send(outcome).is_ok();
                return (is_delivered && outcome == Outcome::Accepted).then_some(request);
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

    /// True if the HTTP request has timed out. A delayed loop skips abandoned requests.
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
        let explanation = view.explain_container(now, id)?;
        return Some(Explanation::Container(Box::new(explanation)));
    }
    let explanation = view.explain_instance(now, name)?;
    Some(Explanation::Instance(Box::new(explanation)))
}

fn outcome(view: View<'_>, request: &OperatorRequest) -> Outcome {
    let exists = match request {
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
