//! Run of one container: fetch the record, start, supervise, report.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use longshore_secret::Secret;
use serde_json::{Map, Value, json};

use crate::api::{Api, ApiError, RetryLimit};
use crate::config::{Config, ConfigError};
use crate::container::Container;
use crate::cost::Meter;
use crate::engine::{self, Engine, EngineError, Plan, Started};
use crate::flags::Flags;
use crate::gateway;
use crate::lock::LockDir;
use crate::logs::{self, Logs};
use crate::preemption_file::PreemptionNotice;
use crate::signals::{self, Event};
use crate::supervise::{End, Limits, Stop, supervise};
use crate::{broken_node, ec2_spot, time_format};

/// Length of a container uuid.
pub(crate) const UUID_LENGTH: usize = 27;

/// Time limit for minor updates: a later update replaces a lost one.
const MINOR_UPDATE: RetryLimit = RetryLimit(Duration::from_secs(30));

/// Error of a run without a reported result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The last argument is not a container uuid.
    #[error("{0:?} is not a container uuid: expected {UUID_LENGTH} letters, digits and dashes")]
    Uuid(String),
    /// Invalid configuration from the dispatcher.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The API refused a call or is unreachable.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The container belongs to another runner, or was unlocked by the dispatcher.
    #[error("cannot start: state is {0}, expected Locked")]
    State(String),
    /// The engine cannot run the container. The record contains the error.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The record is invalid. The record contains the error.
    #[error("{0}")]
    Record(String),
    /// Signals or threads are unavailable: the VM lacks resources.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// No port is available for the gateway address: the VM lacks resources.
    #[error("listen for the gateway address: {0}")]
    Gateway(io::Error),
    /// Stopped by the dispatcher before user code ran.
    #[error("stopped by signal {0} before the container ran")]
    Stopped(i32),
}

/// Runs a container and reports the result.
pub(crate) fn run(flags: &Flags, uuid: &str) -> Result<(), RunError> {
    let signals = signals::guard()?;
    check_uuid(uuid)?;
    engine::check(&flags.runtime_engine)?;
    let config = match (flags.stdin_config, &flags.config) {
        (true, _) => Config::read(io::stdin())?,
        (false, Some(file)) => return Err(ConfigError::File(file.display().to_string()).into()),
        (false, None) => Config::from_environment()?,
    };
    std::thread::sleep(flags.sleep);
    let api = Api::new(&config, flags.ca_certs.as_deref())?;
    // Bind the port before reading the record: every rival that saw the state Locked then has a
    // different port.
    let gateway_address = gateway::listen(&config.gateway_address).map_err(RunError::Gateway)?;
    let record = api.container(uuid, RetryLimit::START)?;
    match record.get("state").and_then(Value::as_str) {
        Some("Locked") => {}
        state => return Err(RunError::State(state.unwrap_or("missing").to_owned())),
    }
    let auth = api.auth(uuid, RetryLimit::START);
    let (sender, events) = sync_channel(16);
    signals::watch(signals, sender.clone())?;
    let job = Job {
        flags,
        uuid,
        config: &config,
        api: &api,
        gateway_address,
        locks: LockDir::new(&flags.lock_dir),
        sender,
        events,
    };
    let container = match Container::from_record(record) {
        Ok(container) => container,
        Err(why) => {
            job.cancel(&why, MINOR_UPDATE);
            return Err(RunError::Record(why));
        }
    };
    let token = match auth {
        Ok(token) => Some(token),
        // Only containers with API access need a token.
        Err(ApiError::Rejected { status: 404, .. }) if !container.runtime_constraints.api => None,
        Err(error) => return Err(error.into()),
    };
    job.run(&container, token.as_ref())
}

/// Checks the form of a container uuid, because the uuid is part of a file name.
pub(crate) fn check_uuid(uuid: &str) -> Result<(), RunError> {
    let good = uuid.len() == UUID_LENGTH
        && uuid
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if good {
        Ok(())
    } else {
        Err(RunError::Uuid(uuid.to_owned()))
    }
}

/// Container to be run, with everything needed for the run.
struct Job<'a> {
    flags: &'a Flags,
    uuid: &'a str,
    config: &'a Config,
    api: &'a Api,
    /// Gateway address, unique among live runners.
    gateway_address: String,
    locks: LockDir,
    sender: SyncSender<Event>,
    events: Receiver<Event>,
}

impl Job<'_> {
    fn say(&self, text: &str) {
        say(self.uuid, text);
    }

    fn run(&self, container: &Container, token: Option<&Secret>) -> Result<(), RunError> {
        let mut engine = engine::make(&self.flags.runtime_engine, self.plan(container, token))?;
        if let Err(error) = engine.prepare() {
            return Err(self.handle_failed_prepare(engine.as_mut(), error));
        }
        if let Some(signal) = self.stop_wanted() {
            engine.finish();
            self.requeue();
            return Err(RunError::Stopped(signal));
        }
        // Protection against a second run: no user code unless the API accepts the update.
        if let Err(error) = self.report_start() {
            engine.finish();
            return Err(error.into());
        }
        let meter = Meter {
            price: self.config.price,
            started: time_format::now(),
            history: self.locks.prices(),
        };
        if let Some(signal) = self.stop_wanted() {
            engine.finish();
            self.api.update(
                self.uuid,
                &change([("state", json!("Cancelled"))]),
                RetryLimit::RESULT,
            )?;
            return Err(RunError::Stopped(signal));
        }
        let started = match engine.start() {
            Ok(started) => started,
            Err(error) => {
                engine.finish();
                self.mark_if_broken(&error);
                self.cancel(&error.to_string(), RetryLimit::RESULT);
                return Err(error.into());
            }
        };
        let watched = self.watch(engine.as_mut(), started, container, &meter);
        if let Err(RunError::Io(error)) = &watched {
            // Without the threads the container would run unsupervised.
            if let Err(pids) = engine.kill(Duration::from_secs(5)) {
                self.say(&format!("these processes cannot be killed: {pids:?}"));
            }
            engine.finish();
            self.cancel(
                &format!("the runner cannot supervise the container: {error}"),
                RetryLimit::RESULT,
            );
        }
        watched
    }

    /// Reports `Running` to the API. A refusal may refer to a repeated report, sent by this runner
    /// or a proxy after a lost response: then the record contains the address of this runner.
    fn report_start(&self) -> Result<(), ApiError> {
        let start = change([
            ("state", json!("Running")),
            ("gateway_address", json!(self.gateway_address)),
        ]);
        let refusal = match self.api.update(self.uuid, &start, RetryLimit::START) {
            Err(error @ (ApiError::Refused { .. } | ApiError::Rejected { .. })) => error,
            done => return done,
        };
        match self.api.container(self.uuid, RetryLimit::START) {
            Ok(record)
                if start
                    .iter()
                    .all(|(key, value)| record.get(key) == Some(value)) =>
            {
                Ok(())
            }
            _ => Err(refusal),
        }
    }

    fn watch(
        &self,
        engine: &mut dyn Engine,
        started: Started,
        container: &Container,
        meter: &Meter,
    ) -> Result<(), RunError> {
        let local = logs::open_local(&self.flags.log_dir, self.locks.path(), self.uuid);
        if let Err(error) = &local {
            self.say(&format!("no local log: {error}"));
        }
        let local = local.ok().map(|(_, file)| file);
        let own_uuid = self.uuid.to_owned();
        let tell = move |text: &str| say(&own_uuid, text);
        let outputs = [started.stdout, started.stderr];
        let logs = Logs::start(outputs, local.as_ref(), self.api, self.uuid, tell)?;
        let (sender, wait) = (self.sender.clone(), started.wait);
        std::thread::Builder::new()
            .name("wait".to_owned())
            .spawn(move || sender.send(Event::Exited(wait())))?;
        let updates = Updates::start(self.api, self.uuid, container.runtime_status.clone())?;
        if self.config.ec2_spot_check {
            updates.watch_spot(self.uuid, self.locks.clone())?;
        }
        let pass_on_notice = || {
            if let Some(notice) = PreemptionNotice::read(&self.locks) {
                updates.warn(&notice);
            }
        };
        // A `--list` may have signalled before the event loop started.
        pass_on_notice();
        let limit = container.scheduling_parameters.max_run_time;
        let limits = Limits {
            run_time_max: (limit > 0).then(|| Duration::from_secs(limit)),
            term_grace: self.flags.term_grace,
        };
        let on_idle_event = |event| match event {
            Event::Flush => logs.flush(),
            // `--list` was called: a preemption notice shown by `--list` is also reported to the
            // container's owner.
            _ => {
                updates.send(change([("cost", json!(meter.cost(time_format::now())))]));
                pass_on_notice();
            }
        };
        let say = |text: &str| self.say(text);
        let end = supervise(engine, &self.events, limits, &say, &on_idle_event);
        let cost = meter.cost(time_format::now());
        logs.finish();
        self.report(end, cost, container, &updates)
    }

    fn report(
        &self,
        end: End,
        cost: f64,
        container: &Container,
        updates: &Updates,
    ) -> Result<(), RunError> {
        let mut last = change([("cost", json!(cost))]);
        let state = if end.stop.is_some() {
            "Cancelled"
        } else {
            "Complete"
        };
        last.insert("state".to_owned(), state.into());
        let limit = container.scheduling_parameters.max_run_time;
        match end.stop {
            Some(Stop::TimeLimit) => {
                let why = format!(
                    "stopped after its time limit of {limit} s (scheduling_parameters.max_run_time)"
                );
                last.insert(
                    "runtime_status".to_owned(),
                    updates.status(&change([("error", why.into())])),
                );
            }
            Some(Stop::Signal(_)) => {}
            None => {
                last.insert("exit_code".to_owned(), end.code.into());
                if end.out_of_memory {
                    let ram = container.runtime_constraints.ram;
                    let why = format!(
                        "a process was killed at the memory limit of {ram} bytes (runtime_constraints.ram)"
                    );
                    last.insert(
                        "runtime_status".to_owned(),
                        updates.status(&change([("warning", why.into())])),
                    );
                }
            }
        }
        self.api.update(self.uuid, &last, RetryLimit::RESULT)?;
        self.say(&format!("{state}, exit status {}", end.code));
        Ok(())
    }

    fn plan(&self, container: &Container, token: Option<&Secret>) -> Plan {
        let mut environment = container.environment.clone();
        if let Some(token) = token.filter(|_| container.runtime_constraints.api) {
            environment.insert("ARVADOS_API_HOST".to_owned(), self.config.api_host.clone());
            environment.insert("ARVADOS_API_TOKEN".to_owned(), token.expose().to_owned());
            if self.config.insecure {
                environment.insert("ARVADOS_API_HOST_INSECURE".to_owned(), "1".to_owned());
            }
            if self.config.api_url.starts_with("http:") {
                environment.insert("LONGSHORE_API_URL".to_owned(), self.config.api_url.clone());
            }
        }
        let ram = container.runtime_constraints.ram;
        Plan {
            command: container.command.clone(),
            environment,
            cwd: container.cwd.clone(),
            memory_bytes_max: (self.flags.enable_memory_limit && ram > 0).then_some(ram),
            scratch_root: self.flags.scratch_dir.clone(),
            tag: self.locks.tag(self.uuid),
            cgroups: !self.flags.no_cgroups,
        }
    }

    /// Handles a failed preparation, before the API knows of a start. The container is requeued if
    /// this VM is the cause.
    fn handle_failed_prepare(&self, engine: &mut dyn Engine, error: EngineError) -> RunError {
        engine.finish();
        match &error {
            EngineError::Container(why) => self.cancel(why, MINOR_UPDATE),
            _ => {
                self.mark_if_broken(&error);
                self.requeue();
            }
        }
        error.into()
    }

    fn mark_if_broken(&self, error: &EngineError) {
        if error.is_broken_node() {
            self.say(&broken_node::report(
                &self.locks,
                self.flags.broken_node_hook.as_deref(),
            ));
        }
    }

    /// Requeues the container. A refusal is not an error, because the dispatcher may unlock the
    /// container instead.
    fn requeue(&self) {
        if let Err(error) = self.api.update(
            self.uuid,
            &change([("state", json!("Queued"))]),
            MINOR_UPDATE,
        ) {
            self.say(&format!("left for the dispatcher to unlock: {error}"));
        }
    }

    fn cancel(&self, why: &str, retry_limit: RetryLimit) {
        let last = change([
            ("state", json!("Cancelled")),
            ("runtime_status", json!({"error": why})),
        ]);
        if let Err(error) = self.api.update(self.uuid, &last, retry_limit) {
            self.say(&format!("the failure could not be reported: {error}"));
        }
    }

    fn stop_wanted(&self) -> Option<i32> {
        self.events.try_iter().find_map(|event| match event {
            Event::Stop(signal) => Some(signal),
            _ => None,
        })
    }
}

/// Thread for minor updates, so that a slow API never delays a signal.
#[derive(Clone)]
struct Updates {
    queue: SyncSender<Map<String, Value>>,
    status: Arc<Mutex<Map<String, Value>>>,
}

impl Updates {
    fn start(api: &Api, uuid: &str, status: Map<String, Value>) -> io::Result<Self> {
        let (queue, waiting) = sync_channel::<Map<String, Value>>(4);
        let (api, uuid) = (api.clone(), uuid.to_owned());
        std::thread::Builder::new()
            .name("updates".to_owned())
            .spawn(move || {
                for change in waiting {
                    if let Err(error) = api.update(&uuid, &change, MINOR_UPDATE) {
                        say(&uuid, &format!("a minor update was lost: {error}"));
                    }
                }
            })?;
        Ok(Self {
            queue,
            status: Arc::new(Mutex::new(status)),
        })
    }

    /// Sends an update. The update is dropped if the queue is full.
    fn send(&self, change: Map<String, Value>) {
        let _ = self.queue.try_send(change);
    }

    /// Returns the container's whole `runtime_status` with an addition, because the API replaces
    /// the value instead of merging.
    fn status(&self, addition: &Map<String, Value>) -> Value {
        merge(&self.status, addition)
    }

    /// Reports a preemption notice to the container's owner, once. Returns false if the thread has
    /// ended.
    fn warn(&self, notice: &PreemptionNotice) -> bool {
        let mut known = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let mut with = known.clone();
        with.extend(notice.status());
        if with == *known {
            return true;
        }
        let change = change([("runtime_status", Value::Object(with.clone()))]);
        match self.queue.try_send(change) {
            Ok(()) => *known = with,
            // The next `--list` retries.
            Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Disconnected(_)) => return false,
        }
        true
    }

    fn watch_spot(&self, uuid: &str, locks: LockDir) -> io::Result<()> {
        let (updates, uuid) = (self.clone(), uuid.to_owned());
        let report = move |notice: &PreemptionNotice| updates.warn(notice);
        let thread = std::thread::Builder::new().name("spot".to_owned());
        thread
            .spawn(move || ec2_spot::watch(&locks, &report, &|text| say(&uuid, text)))
            .map(drop)
    }
}

fn merge(status: &Mutex<Map<String, Value>>, addition: &Map<String, Value>) -> Value {
    let mut status = status.lock().unwrap_or_else(PoisonError::into_inner);
    status.extend(addition.clone());
    Value::Object(status.clone())
}

fn change<const N: usize>(pairs: [(&str, Value); N]) -> Map<String, Value> {
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

fn say(uuid: &str, text: &str) {
    crate::print_error(&format!("{uuid} {text}\n"));
}
