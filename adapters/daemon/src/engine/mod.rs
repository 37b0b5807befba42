//! The loop that drives the core: inputs in, commands out, events to log and metrics.
//!
//! One task owns the core; everything else sends it messages. Data flows one way: world → inputs →
//! core → commands → world.

pub(crate) mod calls;
pub(crate) mod parts;
mod prices;
pub(crate) mod runner_config;
pub(crate) mod vault;
pub(crate) mod wish;
pub(crate) mod world;

use std::sync::Arc;
use std::time::Duration;

use longshore_core::config::{Config, Seed};
use longshore_core::event::{Event, Level};
use longshore_core::ids::InstanceId;
use longshore_core::input::Input;
use longshore_core::time::Timestamp;
use longshore_core::{Dispatcher, HealthProblem};
use longshore_journal::{Header, Step, Writer};
use longshore_management::{Health, LoopRequest, Metrics};
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use world::World;

/// Inputs handled before the commands are drained, at most.
const BATCH_MAX: usize = 256;
/// Answers on their way to the loop, before tasks wait.
pub(crate) const INPUTS_MAX: usize = 1024;
/// How long commands under way may take when the process is to end.
const FINISH_PATIENCE: Duration = Duration::from_secs(5);

/// The running dispatcher.
pub(crate) struct Engine {
    core: Dispatcher,
    clock: Clock,
    world: World,
    metrics: Arc<Metrics>,
    journal: Option<Writer>,
    structured_log: bool,
    inputs: mpsc::Receiver<Input>,
    questions: mpsc::Receiver<LoopRequest>,
    /// For whoever wants to watch; events are lost when nobody does.
    watchers: broadcast::Sender<Event>,
}

/// What an engine is made of, beside the world.
pub(crate) struct EngineSettings {
    pub(crate) config: Config,
    pub(crate) seed: Seed,
    pub(crate) clock: Clock,
    pub(crate) journal: Option<std::path::PathBuf>,
    /// Log lines carry the events themselves.
    pub(crate) structured_log: bool,
}

impl Engine {
    /// Begins the journal, if there is to be one; nothing is asked of the world yet.
    pub(crate) fn new(
        settings: EngineSettings,
        world: World,
        metrics: Arc<Metrics>,
        inputs: mpsc::Receiver<Input>,
        questions: mpsc::Receiver<LoopRequest>,
        watchers: broadcast::Sender<Event>,
    ) -> std::io::Result<Self> {
        let EngineSettings {
            config,
            seed,
            clock,
            journal,
            structured_log,
        } = settings;
        let now = clock.now();
        let header = Header::new(&config, seed, now);
        let journal = journal.map(|dir| Writer::create(&dir, &header));
        let journal = journal.transpose()?;
        if let Some(writer) = &journal {
            tracing::info!(path = %writer.path.display(), "journal begun");
        }
        Ok(Self {
            core: Dispatcher::new(config, seed, now),
            clock,
            world,
            metrics,
            journal,
            structured_log,
            inputs,
            questions,
            watchers,
        })
    }

    /// Runs until `stop`; then lets what is under way end. Containers go on without us.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        self.step(vec![Input::Leadership { held: true }]);
        loop {
            let wake = self
                .core
                .poll_timeout()
                .map(|(at, _)| self.clock.instant(at));
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                Some(input) = self.inputs.recv() => {
                    let mut batch = vec![input];
                    while batch.len() < BATCH_MAX
                        && let Ok(input) = self.inputs.try_recv()
                    {
                        batch.push(input);
                    }
                    self.step(batch);
                }
                Some(question) = self.questions.recv() => self.answer(question),
                () = sleep => self.step(Vec::new()),
            }
        }
        self.step(vec![Input::Leadership { held: false }]);
        if !self.world.finish(FINISH_PATIENCE).await {
            tracing::warn!("some commands were still under way; a restart finds out what they did");
        }
    }

    fn step(&mut self, inputs: Vec<Input>) {
        let now = self.clock.now();
        let recorded = self.journal.is_some().then(|| inputs.clone());
        let (passes, begun) = (self.core.view().passes(), std::time::Instant::now());
        let commands = Step::apply(&mut self.core, now, inputs);
        if self.core.view().passes() > passes {
            self.metrics.pass_made(begun.elapsed());
        }
        if let Some(inputs) = recorded {
            self.record(Step::new(now, inputs, commands.clone()));
        }
        while let Some(event) = self.core.poll_event() {
            self.publish(now, event);
        }
        if let Some(at) = self.world.last_503() {
            self.metrics.set_last_503(at);
        }
        for command in commands {
            self.world.carry_out(now, command);
        }
    }

    /// A journal that cannot be written is given up: dispatching goes on.
    fn record(&mut self, step: Step) {
        if let Some(writer) = &mut self.journal
            && let Err(error) = writer.step(step)
        {
            tracing::error!(path = %writer.path.display(), %error, "the journal ends here");
            self.journal = None;
        }
    }

    fn publish(&mut self, now: Timestamp, event: Event) {
        log(&event, self.structured_log);
        self.metrics.observe(now, &event);
        if let Event::Gone { instance, .. } = &event {
            self.world.forget(&InstanceId::from(instance.as_str()));
        }
        // An error means that nobody watches.
        let _ = self.watchers.send(event);
    }

    fn answer(&mut self, question: LoopRequest) {
        let now = self.clock.now();
        let health = health(&self.core.view().health_problems(now));
        if let Some(wish) = question.answer(now, self.core.view(), &health) {
            self.step(vec![Input::OperatorRequest(wish)]);
        }
    }
}

/// What monitors are told.
fn health(health_problems: &[HealthProblem]) -> Health {
    if health_problems.is_empty() {
        return Health::Ok;
    }
    let each: Vec<String> = health_problems.iter().map(ToString::to_string).collect();
    Health::Failing(each.join("; "))
}

/// One line for each event, in JSON logs with the event itself for whoever filters.
fn log(event: &Event, structured: bool) {
    if !structured {
        return match event.level() {
            Level::Debug => tracing::debug!("{event}"),
            Level::Info => tracing::info!("{event}"),
            Level::Warn => tracing::warn!("{event}"),
            Level::Error => tracing::error!("{event}"),
        };
    }
    let fields = serde_json::to_string(event).unwrap_or_default();
    match event.level() {
        Level::Debug => tracing::debug!(event = fields, "{event}"),
        Level::Info => tracing::info!(event = fields, "{event}"),
        Level::Warn => tracing::warn!(event = fields, "{event}"),
        Level::Error => tracing::error!(event = fields, "{event}"),
    }
}
