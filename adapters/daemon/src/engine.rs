//! Loop that drives the core: inputs in, commands out, events to log and metrics.
//!
//! A single task owns the core; all other tasks send messages to the loop. Data flows in one
//! direction: executor → inputs → core → commands → executor.

pub(crate) mod calls;
pub(crate) mod create_spec;
pub(crate) mod executor;
pub(crate) mod instance_secrets;
mod prices;
pub(crate) mod runner_config;
pub(crate) mod wiring;

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
use executor::Executor;

/// Maximum number of inputs handled before commands are drained.
const BATCH_MAX: usize = 256;
/// Capacity of the channel of answers; tasks wait when the channel is full.
pub(crate) const INPUTS_MAX: usize = 1024;
/// Time limit for commands in flight during shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Running dispatcher.
pub(crate) struct Engine {
    core: Dispatcher,
    clock: Clock,
    executor: Executor,
    metrics: Arc<Metrics>,
    journal: Option<Writer>,
    structured_log: bool,
    inputs: mpsc::Receiver<Input>,
    requests: mpsc::Receiver<LoopRequest>,
    /// Event subscribers; events without subscribers are dropped.
    watchers: broadcast::Sender<Event>,
}

/// Settings of an engine.
pub(crate) struct EngineSettings {
    pub(crate) config: Config,
    pub(crate) seed: Seed,
    pub(crate) clock: Clock,
    pub(crate) journal: Option<std::path::PathBuf>,
    /// True if log lines carry the events in JSON.
    pub(crate) structured_log: bool,
}

impl Engine {
    /// Starts the journal, if configured; sends no commands yet.
    pub(crate) fn new(
        settings: EngineSettings,
        executor: Executor,
        metrics: Arc<Metrics>,
        inputs: mpsc::Receiver<Input>,
        requests: mpsc::Receiver<LoopRequest>,
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
            tracing::info!(path = %writer.path.display(), "journal started");
        }
        Ok(Self {
            core: Dispatcher::new(config, seed, now),
            clock,
            executor,
            metrics,
            journal,
            structured_log,
            inputs,
            requests,
            watchers,
        })
    }

    /// Runs until `stop`, then waits for commands in flight. Containers continue to run on the VMs.
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
                Some(request) = self.requests.recv() => self.answer(request),
                () = sleep => self.step(Vec::new()),
            }
        }
        self.step(vec![Input::Leadership { held: false }]);
        if !self.executor.finish(SHUTDOWN_TIMEOUT).await {
            tracing::warn!(
                "commands were still in flight at shutdown; a restart detects their effects"
            );
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
        if let Some(at) = self.executor.last_503() {
            self.metrics.set_last_503(at);
        }
        for command in commands {
            self.executor.execute(now, command);
        }
    }

    /// Appends a step to the journal. After a write error the journal is closed and dispatching
    /// continues.
    fn record(&mut self, step: Step) {
        if let Some(writer) = &mut self.journal
            && let Err(error) = writer.step(step)
        {
            tracing::error!(path = %writer.path.display(), %error, "writing the journal failed; the journal ends here");
            self.journal = None;
        }
    }

    fn publish(&mut self, now: Timestamp, event: Event) {
        log(&event, self.structured_log);
        self.metrics.observe(now, &event);
        if let Event::Gone { instance, .. } = &event {
            self.executor.forget(&InstanceId::from(instance.as_str()));
        }
        // An error means that there are no subscribers.
        let _ = self.watchers.send(event);
    }

    fn answer(&mut self, request: LoopRequest) {
        let now = self.clock.now();
        let health = health(&self.core.view().health_problems(now));
        if let Some(request) = request.answer(now, self.core.view(), &health) {
            self.step(vec![Input::OperatorRequest(request)]);
        }
    }
}

/// Health for monitoring.
fn health(health_problems: &[HealthProblem]) -> Health {
    if health_problems.is_empty() {
        return Health::Ok;
    }
    let problems: Vec<String> = health_problems.iter().map(ToString::to_string).collect();
    Health::Failing(problems.join("; "))
}

/// Logs an event as one line; JSON logs also carry the event as a field, for filters.
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
