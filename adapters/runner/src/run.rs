//! The life of one container on this machine: fetch, start, watch, report.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use longshore_secret::Secret;
use serde_json::{Map, Value, json};

use crate::api::{Api, ApiError, Patience};
use crate::config::{Config, ConfigError};
use crate::container::Container;
use crate::cost::Meter;
use crate::engine::{self, Engine, EngineError, Plan, Started};
use crate::flags::Flags;
use crate::gateway;
use crate::lock::LockDir;
use crate::logs::{self, Logs};
use crate::notice::Notice;
use crate::signals::{self, Event};
use crate::supervise::{End, Limits, Stop, supervise};
use crate::{broken, clock, spot};

/// Length of a container's uuid.
pub(crate) const UUID_LENGTH: usize = 27;

/// For updates in passing: the next one makes up for a lost one.
const PASSING: Patience = Patience(Duration::from_secs(30));

/// Why a container was not run to a reported end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The last argument must be a container uuid.
    #[error("{0:?} is not a container uuid: expected {UUID_LENGTH} letters, digits and dashes")]
    Uuid(String),
    /// Mend the configuration that the dispatcher sends.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The API said no, or nothing.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Another runner has the container, or the dispatcher took it back.
    #[error("cannot start: state is {0}, expected Locked")]
    State(String),
    /// The container cannot be run; the record says so too.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The record cannot be run by anybody; the record says so too.
    #[error("{0}")]
    Record(String),
    /// Signals or threads cannot be had: the machine is out of something.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// No port can be had to be reached at: the machine is out of something.
    #[error("listen for the gateway address: {0}")]
    Gateway(io::Error),
    /// The dispatcher changed its mind before user code ran.
    #[error("stopped by signal {0} before the container ran")]
    Stopped(i32),
}

/// Runs a container from its record to its result.
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
    // Before the record is looked at: a rival that saw it Locked as well has a port of its own by then.
    let gateway_address = gateway::listen(&config.gateway_address).map_err(RunError::Gateway)?;
    let record = api.container(uuid, Patience::START)?;
    match record.get("state").and_then(Value::as_str) {
        Some("Locked") => {}
        state => return Err(RunError::State(state.unwrap_or("missing").to_owned())),
    }
    let auth = api.auth(uuid, Patience::START);
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
            job.cancel(&why, PASSING);
            return Err(RunError::Record(why));
        }
    };
    let token = match auth {
        Ok(token) => Some(token),
        // Only a container that is to speak to the API needs one.
        Err(ApiError::Rejected { status: 404, .. }) if !container.runtime_constraints.api => None,
        Err(error) => return Err(error.into()),
    };
    job.run(&container, token.as_ref())
}

/// Accepts what can be a container's uuid; a lock file is named after it.
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

/// A container that this runner may run.
struct Job<'a> {
    flags: &'a Flags,
    uuid: &'a str,
    config: &'a Config,
    api: &'a Api,
    /// Where this runner, and no other, is reached.
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
            return Err(self.unprepared(engine.as_mut(), error));
        }
        if let Some(signal) = self.stop_wanted() {
            engine.finish();
            self.requeue();
            return Err(RunError::Stopped(signal));
        }
        // The guard against running twice: no user code unless the API agrees.
        if let Err(error) = self.report_start() {
            engine.finish();
            return Err(error.into());
        }
        let meter = Meter {
            price: self.config.price,
            started: clock::now(),
            history: self.locks.prices(),
        };
        if let Some(signal) = self.stop_wanted() {
            engine.finish();
            self.api.update(
                self.uuid,
                &change([("state", json!("Cancelled"))]),
                Patience::RESULT,
            )?;
            return Err(RunError::Stopped(signal));
        }
        let started = match engine.start() {
            Ok(started) => started,
            Err(error) => {
                engine.finish();
                self.mark_if_broken(&error);
                self.cancel(&error.to_string(), Patience::RESULT);
                return Err(error.into());
            }
        };
        let watched = self.watch(engine.as_mut(), started, container, &meter);
        if let Err(RunError::Io(error)) = &watched {
            // Without its watchers the container would run unseen.
            if let Err(pids) = engine.kill(Duration::from_secs(5)) {
                self.say(&format!("these processes cannot be killed: {pids:?}"));
            }
            engine.finish();
            self.cancel(
                &format!("the runner cannot watch the container: {error}"),
                Patience::RESULT,
            );
        }
        watched
    }

    /// Tells the API that the container runs. A refusal may be about a repeated report, of this runner
    /// or of a proxy, whose first answer was lost: then the record says that it is this runner's.
    fn report_start(&self) -> Result<(), ApiError> {
        let start = change([
            ("state", json!("Running")),
            ("gateway_address", json!(self.gateway_address)),
        ]);
        let refusal = match self.api.update(self.uuid, &start, Patience::START) {
            Err(error @ (ApiError::Refused { .. } | ApiError::Rejected { .. })) => error,
            done => return done,
        };
        match self.api.container(self.uuid, Patience::START) {
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
            if let Some(notice) = Notice::read(&self.locks) {
                updates.warn(&notice);
            }
        };
        // A `--list` may have come by while nobody listened yet.
        pass_on_notice();
        let limit = container.scheduling_parameters.max_run_time;
        let limits = Limits {
            run_time_max: (limit > 0).then(|| Duration::from_secs(limit)),
            term_grace: self.flags.term_grace,
        };
        let on_idle_event = |event| match event {
            Event::Flush => logs.flush(),
            // A `--list` has come by: what it showed, the container's owner may want to know.
            _ => {
                updates.send(change([("cost", json!(meter.cost(clock::now())))]));
                pass_on_notice();
            }
        };
        let say = |text: &str| self.say(text);
        let end = supervise(engine, &self.events, limits, &say, &on_idle_event);
        let cost = meter.cost(clock::now());
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
        self.api.update(self.uuid, &last, Patience::RESULT)?;
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

    /// Nobody was told yet that the container runs: it goes back when this machine is to blame.
    fn unprepared(&self, engine: &mut dyn Engine, error: EngineError) -> RunError {
        engine.finish();
        match &error {
            EngineError::Container(why) => self.cancel(why, PASSING),
            _ => {
                self.mark_if_broken(&error);
                self.requeue();
            }
        }
        error.into()
    }

    fn mark_if_broken(&self, error: &EngineError) {
        if error.is_broken_node() {
            self.say(&broken::report(
                &self.locks,
                self.flags.broken_node_hook.as_deref(),
            ));
        }
    }

    /// The API may leave this to the dispatcher's unlock: a refusal is no failure.
    fn requeue(&self) {
        if let Err(error) =
            self.api
                .update(self.uuid, &change([("state", json!("Queued"))]), PASSING)
        {
            self.say(&format!("left for the dispatcher to unlock: {error}"));
        }
    }

    fn cancel(&self, why: &str, patience: Patience) {
        let last = change([
            ("state", json!("Cancelled")),
            ("runtime_status", json!({"error": why})),
        ]);
        if let Err(error) = self.api.update(self.uuid, &last, patience) {
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

/// Sends updates in passing from a thread of its own, so that a slow API never delays a signal.
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
                    if let Err(error) = api.update(&uuid, &change, PASSING) {
                        say(&uuid, &format!("an update in passing was lost: {error}"));
                    }
                }
            })?;
        Ok(Self {
            queue,
            status: Arc::new(Mutex::new(status)),
        })
    }

    /// When the API is so slow that updates pile up, this one is dropped.
    fn send(&self, change: Map<String, Value>) {
        let _ = self.queue.try_send(change);
    }

    /// The container's whole `runtime_status` with an addition: the API replaces, it does not merge.
    fn status(&self, addition: &Map<String, Value>) -> Value {
        merge(&self.status, addition)
    }

    /// Tells the container's owner that this machine is about to go, once; false when nobody sends
    /// updates any more.
    fn warn(&self, notice: &Notice) -> bool {
        let mut known = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let mut with = known.clone();
        with.extend(notice.status());
        if with == *known {
            return true;
        }
        let change = change([("runtime_status", Value::Object(with.clone()))]);
        match self.queue.try_send(change) {
            Ok(()) => *known = with,
            // The next `--list` tries again.
            Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Disconnected(_)) => return false,
        }
        true
    }

    fn watch_spot(&self, uuid: &str, locks: LockDir) -> io::Result<()> {
        let (updates, uuid) = (self.clone(), uuid.to_owned());
        let report = move |notice: &Notice| updates.warn(notice);
        let thread = std::thread::Builder::new().name("spot".to_owned());
        thread
            .spawn(move || spot::watch(&locks, &report, &|text| say(&uuid, text)))
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
    crate::complain(&format!("{uuid} {text}\n"));
}
