//! Goes through the points, and leaves nothing behind.

use std::collections::BTreeSet;
use std::time::Duration;

use longshore_core::ids::{InstanceId, IntentId};
use tokio::time::{Instant, sleep};

use super::advice::checks;
use super::report::{Outcome, Point, Progress, Report, Step};
use super::{Bench, Patience, Plan};
use crate::driver::{Cloud as _, SharedCloud};
use crate::instance::{CreateSpec, Instance};
use crate::layer::{Deadlines, Layered};
use crate::{CloudError, ErrorClass, tag};

/// After a cloud said that it is called too often, and no longer than this between two looks.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Tries every point, and destroys what it made.
pub async fn run(bench: &dyn Bench, plan: Plan, progress: &dyn Progress) -> Report {
    let mut run = Run::new(bench, plan, progress);
    run.all().await;
    Report { steps: run.steps }
}

/// What is tried with the instance while it lives.
const LIFE: [Point; 13] = [
    Point::Listed,
    Point::Tags,
    Point::Retag,
    Point::Address,
    Point::Identity,
    Point::HostKey,
    Point::BootProbe,
    Point::Command,
    Point::Pause,
    Point::Prices,
    Point::DuplicateToken,
    Point::OtherSet,
    Point::Refusals,
];
/// What is tried in any case, once there is one.
const END: [Point; 3] = [Point::Destroy, Point::Gone, Point::DestroyAgain];

/// Why a point was not passed.
#[derive(Debug)]
pub(super) enum Miss {
    /// Not as it must be; by the driver's own error, if by any.
    Failed {
        words: String,
        class: Option<ErrorClass>,
    },
    Skipped(String),
}

/// What a point gave, with a note that is worth showing.
pub(super) type Found<T> = Result<(T, String), Miss>;

impl From<CloudError> for Miss {
    fn from(error: CloudError) -> Self {
        Self::Failed {
            words: error.to_string(),
            class: Some(ErrorClass::of(&error)),
        }
    }
}

pub(super) fn broken<T>(words: impl Into<String>) -> Result<T, Miss> {
    Err(Miss::Failed {
        words: words.into(),
        class: None,
    })
}

pub(super) fn left_out<T>(why: impl Into<String>) -> Result<T, Miss> {
    Err(Miss::Skipped(why.into()))
}

/// Puts what was done before an error's words.
pub(super) fn said(what: &str, error: &CloudError) -> Miss {
    Miss::Failed {
        words: format!("{what}: {error}"),
        class: Some(ErrorClass::of(error)),
    }
}

/// A run under way.
pub(super) struct Run<'a> {
    pub(super) bench: &'a dyn Bench,
    pub(super) cloud: SharedCloud,
    pub(super) plan: Plan,
    pub(super) patience: Patience,
    pub(super) progress: &'a dyn Progress,
    /// Every wish that was sent: whatever bears one of them is ours to destroy.
    pub(super) wishes: Vec<IntentId>,
    /// What was made, as far as it was answered.
    pub(super) made: Vec<InstanceId>,
    steps: Vec<Step>,
    /// Only destroys from now on, so nobody is asked whether to stop.
    ending: bool,
}

/// The instance that the run is about, and what it was made from.
pub(super) struct Subject {
    pub(super) spec: CreateSpec,
    pub(super) instance: Instance,
    /// What it showed, once it was proved.
    pub(super) host_key: Option<String>,
}

impl<'a> Run<'a> {
    fn new(bench: &'a dyn Bench, plan: Plan, progress: &'a dyn Progress) -> Self {
        let patience = bench.patience();
        let each = patience.call;
        Self {
            bench,
            cloud: std::sync::Arc::new(Layered::new(bench.cloud(), Deadlines { each })),
            plan,
            patience,
            progress,
            wishes: Vec::new(),
            made: Vec::new(),
            steps: Vec::new(),
            ending: false,
        }
    }

    async fn all(&mut self) {
        let ready = self.before().await;
        let subject = match ready {
            Ok(()) => self.birth().await,
            Err(why) => Err(why),
        };
        match subject {
            Ok(subject) => {
                self.life(subject).await;
                self.after().await;
            }
            Err(why) => {
                for point in Point::ALL {
                    if !self.tried(point) && point != Point::Empty {
                        self.skip(point, &why);
                    }
                }
            }
        }
        self.ending = true;
        if self.wishes.is_empty() {
            self.skip(Point::Empty, "nothing was made");
        } else {
            let since = self.begin(Point::Empty);
            let empty = self.leave_nothing().await;
            self.end(Point::Empty, since, empty);
        }
    }

    /// Whether anything may be made at all; if not, why.
    async fn before(&mut self) -> Result<(), String> {
        let since = self.begin(Point::List);
        let listed = self.list().await;
        let seen = self.end(Point::List, since, listed);
        let seen = seen.ok_or("the cloud does not list")?;
        if self.bench.stopped() {
            return Err("stopped".to_owned());
        }
        let since = self.begin(Point::Leftovers);
        let cleared = self.clear(seen).await;
        let cleared = self.end(Point::Leftovers, since, cleared);
        cleared.ok_or_else(|| match self.bench.stopped() {
            true => "stopped".to_owned(),
            false => "what was there before is in the way".to_owned(),
        })
    }

    /// The instance that the rest is about.
    async fn birth(&mut self) -> Result<Subject, String> {
        if self.bench.stopped() {
            return Err("stopped".to_owned());
        }
        let since = self.begin(Point::Create);
        let (subject, outcome) = match self.create().await {
            Ok((subject, miss)) => (Some(subject), miss.map_or(Ok(((), String::new())), Err)),
            Err(miss) => (None, Err(miss)),
        };
        self.end(Point::Create, since, outcome);
        subject.ok_or_else(|| "there is no instance".to_owned())
    }

    /// From the list to the end of the instance.
    async fn life(&mut self, mut subject: Subject) {
        for point in LIFE {
            match self.in_the_way(point) {
                Some(why) => self.skip(point, why),
                None => self.try_point(point, &mut subject).await,
            }
        }
        self.ending = true;
        for point in END {
            self.try_point(point, &mut subject).await;
        }
        self.ending = false;
    }

    /// Why a point cannot be tried after what came out so far.
    fn in_the_way(&self, point: Point) -> Option<&'static str> {
        let missed = |before| before < point && !self.passed(before);
        if self.bench.stopped() {
            return Some("stopped");
        }
        if missed(Point::Listed) {
            return Some("it is not in the list");
        }
        match point {
            Point::Identity | Point::Pause if missed(Point::Address) => Some("it has no address"),
            Point::HostKey | Point::BootProbe | Point::Command if missed(Point::Identity) => {
                Some("it has not proved its identity")
            }
            Point::Command if missed(Point::BootProbe) => Some("it is not ready"),
            _ => None,
        }
    }

    /// Points that make instances of their own.
    async fn after(&mut self) {
        for point in [Point::LostCreate, Point::Batch] {
            if self.bench.stopped() {
                self.skip(point, "stopped");
                continue;
            }
            let since = self.begin(point);
            let found = match point {
                Point::LostCreate => self.lost_create().await,
                _ => self.batch().await,
            };
            self.end(point, since, found);
        }
    }

    async fn try_point(&mut self, point: Point, subject: &mut Subject) {
        let since = self.begin(point);
        let found = match point {
            Point::Listed => self.listed(subject).await,
            Point::Tags => self.tags(subject).await,
            Point::Retag => self.retag(subject).await,
            Point::Address => self.address(subject).await,
            Point::Identity => self.identity(subject).await,
            Point::HostKey => self.host_key(subject).await,
            Point::BootProbe => self.boot_probe(subject).await,
            Point::Command => self.command(subject).await,
            Point::Pause => self.pause(subject).await,
            Point::Prices => self.prices(subject).await,
            Point::DuplicateToken => self.duplicate_token(subject).await,
            Point::OtherSet => self.other_set(subject).await,
            Point::Refusals => self.refusals(subject).await,
            Point::Destroy => self.destroy(subject).await,
            Point::Gone => self.gone(subject).await,
            Point::DestroyAgain => self.destroy_again(subject).await,
            _ => left_out("not about one instance"),
        };
        self.end(point, since, found);
    }

    fn passed(&self, point: Point) -> bool {
        let passed = |step: &Step| matches!(step.outcome, Outcome::Passed { .. });
        let steps = &mut self.steps.iter();
        steps.any(|step| step.point == point && passed(step))
    }

    fn tried(&self, point: Point) -> bool {
        self.steps.iter().any(|step| step.point == point)
    }

    fn begin(&self, point: Point) -> Instant {
        self.progress.began(point);
        Instant::now()
    }

    fn end<T>(&mut self, point: Point, since: Instant, found: Found<T>) -> Option<T> {
        let (value, outcome) = match found {
            Ok((value, note)) => (Some(value), Outcome::Passed { note }),
            Err(Miss::Skipped(why)) => (None, Outcome::Skipped { why }),
            Err(Miss::Failed { words, class }) => {
                let check = checks(point, class, &words);
                (None, Outcome::Failed { words, check })
            }
        };
        self.note(Step {
            point,
            took: since.elapsed(),
            outcome,
        });
        value
    }

    fn skip(&mut self, point: Point, why: &str) {
        self.note(Step {
            point,
            took: Duration::ZERO,
            outcome: Outcome::Skipped {
                why: why.to_owned(),
            },
        });
    }

    fn note(&mut self, step: Step) {
        self.progress.ended(&step);
        self.steps.push(step);
    }

    async fn list(&self) -> Found<Vec<Instance>> {
        let seen = self.cloud.list().await?;
        let note = match seen.len() {
            1 => "1 instance".to_owned(),
            count => format!("{count} instances"),
        };
        Ok((seen, note))
    }

    /// Looks at the list until it shows what is wanted, or `patience` is over.
    pub(super) async fn until<T>(
        &self,
        what: &str,
        patience: Duration,
        mut look: impl FnMut(&[Instance]) -> Result<Option<T>, Miss>,
    ) -> Result<T, Miss> {
        let deadline = Instant::now() + patience;
        let mut pause = self.patience.pause / 8;
        let mut pause_max = self.patience.pause;
        self.progress.note(what);
        loop {
            let trouble = match self.cloud.list().await {
                Ok(seen) => match look(&seen)? {
                    Some(found) => return Ok(found),
                    None => None,
                },
                Err(error @ CloudError::Permanent { .. }) => return Err(said(what, &error)),
                Err(error) => {
                    if matches!(error, CloudError::RateLimited { .. }) {
                        pause = pause.max(self.patience.pause);
                        pause_max = PAUSE_MAX;
                    }
                    self.progress.note(&format!("{what}: {error}"));
                    Some(error)
                }
            };
            if self.stopped() {
                return left_out("stopped");
            }
            if Instant::now() + pause > deadline {
                return match trouble {
                    Some(error) => Err(said(&format!("{what}: not within {patience:?}"), &error)),
                    None => broken(format!("{what}: not within {patience:?}")),
                };
            }
            sleep(pause).await;
            pause = (pause * 2).min(pause_max);
        }
    }

    /// Whether to stop; not asked any more while things are destroyed.
    pub(super) fn stopped(&self) -> bool {
        !self.ending && self.bench.stopped()
    }

    /// Destroys all that was made and is still there, until nothing of it is left.
    async fn leave_nothing(&self) -> Found<()> {
        let deadline = Instant::now() + self.patience.gone;
        let mut ours = BTreeSet::new();
        let others = loop {
            let trouble = match self.cloud.list().await {
                Ok(seen) => {
                    let living = seen
                        .iter()
                        .filter(|i| !i.terminated && self.is_of_the_set(i));
                    let (left, others): (Vec<&Instance>, _) = living.partition(|i| self.is_ours(i));
                    if left.is_empty() {
                        break ids(others);
                    }
                    let left = ids(left);
                    let answers = self.cloud.destroy_many(&left).await;
                    ours.extend(left);
                    answers.into_iter().find_map(Result::err)
                }
                Err(error) => Some(error),
            };
            if Instant::now() + self.patience.pause > deadline {
                let left: Vec<InstanceId> = ours.into_iter().collect();
                let words = format!(
                    "still there after {:?}: {}",
                    self.patience.gone,
                    names(&left)
                );
                return match trouble {
                    Some(error) => Err(said(&words, &error)),
                    None => broken(words),
                };
            }
            sleep(self.patience.pause).await;
        };
        self.judge_left(ours, &others)
    }

    /// What had to be destroyed in the end must be known by name, and nothing else may be there.
    fn judge_left(&self, ours: BTreeSet<InstanceId>, others: &[InstanceId]) -> Found<()> {
        let (known, unknown): (Vec<InstanceId>, Vec<InstanceId>) =
            ours.into_iter().partition(|id| self.made.contains(id));
        if !unknown.is_empty() {
            let unknown = names(&unknown);
            return broken(format!(
                "the driver made {unknown} and never said so; destroyed now"
            ));
        }
        if !others.is_empty() {
            let others = names(others);
            return broken(format!(
                "{others} came into the set meanwhile, and is left alone"
            ));
        }
        match known.as_slice() {
            [] => Ok(((), String::new())),
            known => Ok(((), format!("destroyed {}", names(known)))),
        }
    }

    fn is_of_the_set(&self, instance: &Instance) -> bool {
        let set = instance.tags.get(tag::SET).map(String::as_str);
        set == Some(self.bench.instance_set_id())
    }

    /// Whether we made it.
    fn is_ours(&self, instance: &Instance) -> bool {
        self.made.contains(&instance.id)
            || intent(instance).is_some_and(|intent| self.wishes.contains(&intent))
    }
}

/// The wish that an instance was made for.
pub(super) fn intent(instance: &Instance) -> Option<IntentId> {
    instance.tags.get(tag::INTENT)?.parse().ok()
}

pub(super) fn names(ids: &[InstanceId]) -> String {
    let names: Vec<&str> = ids.iter().map(InstanceId::as_str).collect();
    names.join(", ")
}

fn ids(instances: Vec<&Instance>) -> Vec<InstanceId> {
    let ids = instances.into_iter().map(|instance| instance.id.clone());
    ids.collect()
}
