//! Metrics.
//!
//! Gauges are derived from the dispatcher's totals at each request, so they cannot drift; counters,
//! summaries and histograms come from events. Names without `longshore_` are the peer's.

mod disruptions;
mod families;
mod gauges;
mod json;
mod summary;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use longshore_core::event::{BootOutcome, CloudCall, Event};
use longshore_core::ids::{CloudId, TypeName};
use longshore_core::input::CloudError;
use longshore_core::time::Timestamp;
use longshore_core::view::Totals;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry,
    TextEncoder,
};

use crate::loop_request::AsOf;
use crate::settings::ManagementSettings;
use crate::worker_state::WorkerState;
use disruptions::Disruptions;
use summary::{Clock, Series, SummaryVec};

const OUTCOMES: [BootOutcome; 4] = [
    BootOutcome::Success,
    BootOutcome::Failure,
    BootOutcome::Aborted,
    BootOutcome::Disappeared,
];
const CALLS: [CloudCall; 4] = [
    CloudCall::Create,
    CloudCall::List,
    CloudCall::Destroy,
    CloudCall::SetTags,
];
const ERROR_CLASSES: [&str; 7] = [
    "rate_limited",
    "quota",
    "capacity",
    "not_found",
    "ambiguous",
    "permanent",
    "transient",
];
/// Summary of probes, as named by the peer.
const PROBES: &str = "instances_run_probe_duration_seconds";
/// From an immediate answer of the loop to a minute, in seconds.
const LATENCY_BUCKETS: [f64; 12] = [
    0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
];
/// From an available ready instance to a wait of a day, in seconds.
const WAIT_BUCKETS: [f64; 12] = [
    0.1, 1.0, 5.0, 15.0, 60.0, 150.0, 300.0, 600.0, 1800.0, 3600.0, 14_400.0, 86_400.0,
];
/// From a pass without work to a pass over a hundred thousand containers, in seconds.
const PASS_BUCKETS: [f64; 10] = [
    0.000_01, 0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0,
];
/// Outcomes of a probe: answered, failed, answered by another host.
const PROBE_OUTCOMES: [&str; 3] = ["success", "fail", "impostor"];

/// From loopback VMs to a cloud call given up, in seconds.
const CALL_BUCKETS: [f64; 11] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];

/// Counters and summaries for `/metrics`.
///
/// Quantiles of summaries cover the last 10 minutes, limited to the last 1,000 observations; `_sum`
/// and `_count` cover all observations since the start. Without any observation in the window,
/// quantiles are `NaN`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    clock: Clock,
    /// Nanoseconds since the epoch; 0 means never.
    last_503: AtomicU64,
    disappeared: IntCounterVec,
    unexpected: IntCounterVec,
    boots: IntCounterVec,
    boots_by_type: IntCounterVec,
    disruptions: Disruptions,
    calls: IntCounterVec,
    call_errors: IntCounterVec,
    call_duration: HistogramVec,
    timings: Timings,
    queue_to_start: Series,
    to_ssh: Series,
    to_ready: Series,
    to_disappearance: Series,
    probe_success: Series,
    probe_fail: Series,
    request_duration: SummaryVec,
    time_to_status: SummaryVec,
}

/// Durations of work, and outcomes of probes.
#[derive(Debug)]
struct Timings {
    probes: IntCounterVec,
    dispatch_latency: Histogram,
    queued_to_started: Histogram,
    passes: Histogram,
}

impl Timings {
    fn new(registry: &Registry) -> Self {
        let histograms = |name: &str, help: &str, buckets: &[f64]| {
            register(registry, histogram(name, help, buckets))
        };
        let probes = counters(
            "longshore_probes_total",
            "Probes by outcome and type; an impostor is whoever else answers at an instance's address.",
            &["outcome", "instance_type"],
        );
        Self {
            probes: register(registry, probes),
            dispatch_latency: histograms(
                "longshore_dispatch_latency_seconds",
                "Time from when both a container and a ready instance with room were there to the \
                 start.",
                &LATENCY_BUCKETS,
            ),
            queued_to_started: histograms(
                "longshore_queued_to_started_seconds",
                "Time from a container's submission to the first start of its runner.",
                &WAIT_BUCKETS,
            ),
            passes: histograms(
                "longshore_placement_pass_seconds",
                "Time that the decisions of one step took, where a pass of placement was among \
                 them.",
                &PASS_BUCKETS,
            ),
        }
    }
}

impl Metrics {
    /// Metrics without observations.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let clock = Clock::default();
        let dispatch = |name: &str| format!("arvados_dispatchcloud_{name}");
        let counters = |name: &str, help, labels| register(&registry, counters(name, help, labels));
        let summaries = |name: &str, help, labels| {
            register(&registry, SummaryVec::new(&clock, name, help, labels))
        };
        let summary = |name, help| summaries(&dispatch(name), help, &[]).with(&[]);
        let probes = summaries(&dispatch(PROBES), "Time that a probe took.", &["outcome"]);
        let metrics = Self {
            disappeared: counters(
                &dispatch("instances_disappeared"),
                "Instances that are gone, by their last state.",
                &["state"],
            ),
            unexpected: counters(
                "longshore_unexpected_disappearances_total",
                "Instances that are gone though nobody asked for it, by last state and type.",
                &["state", "instance_type"],
            ),
            boots: counters(
                &dispatch("boot_outcomes"),
                "Boots by outcome; each instance counts once.",
                &["outcome"],
            ),
            boots_by_type: counters(
                "longshore_boot_outcomes_total",
                "Boots by outcome and type; each instance counts once.",
                &["outcome", "instance_type"],
            ),
            disruptions: Disruptions::new(&registry),
            calls: counters(
                &dispatch("driver_operations"),
                "Calls to the cloud.",
                &["operation", "error"],
            ),
            call_errors: counters(
                "longshore_cloud_call_errors_total",
                "Calls to a cloud that failed, by class of error.",
                &["cloud", "operation", "class"],
            ),
            call_duration: register(&registry, call_duration()),
            timings: Timings::new(&registry),
            queue_to_start: summary(
                "containers_time_from_queue_to_crunch_run_seconds",
                "Time from a container's submission to the start of its runner.",
            ),
            to_ssh: summary(
                "instances_time_to_ssh_seconds",
                "Time from the appearance of an instance that was created here to its first answer.",
            ),
            to_ready: summary(
                "instances_time_to_ready_for_container_seconds",
                "Time from the first answer of an instance that was created here until it is ready.",
            ),
            to_disappearance: summary(
                "instances_time_from_shutdown_request_to_disappearance_seconds",
                "Time from the first request to destroy an instance until it is gone.",
            ),
            probe_success: probes.with(&["success"]),
            probe_fail: probes.with(&["fail"]),
            request_duration: summaries(
                "request_duration_seconds",
                "Time from a request's arrival to its whole answer.",
                &["code", "method"],
            ),
            time_to_status: summaries(
                "time_to_status_seconds",
                "Time from a request's arrival to the status of its answer.",
                &["code", "method"],
            ),
            last_503: AtomicU64::new(0),
            clock: clock.clone(),
            registry: registry.clone(),
        };
        metrics.begin_at_zero();
        metrics
    }

    /// Counts an event, at the loop's time. Cheap enough for every event.
    pub fn observe(&self, now: Timestamp, event: &Event) {
        self.clock.advance(now);
        self.disruptions.observe(event);
        match event {
            Event::StartIssued {
                waited,
                ready_wait,
                first,
                ..
            } => {
                self.queue_to_start.observe(*waited);
                self.timings
                    .dispatch_latency
                    .observe(ready_wait.as_secs_f64());
                if *first {
                    self.timings.queued_to_started.observe(waited.as_secs_f64());
                }
            }
            Event::Reached {
                after, own: true, ..
            } => self.to_ssh.observe(*after),
            Event::Ready {
                after, own: true, ..
            } => self.to_ready.observe(*after),
            Event::Boot {
                instance_type,
                outcome,
                ..
            } => {
                let outcome = outcome.name();
                self.boots.with_label_values(&[outcome]).inc();
                let labels = [outcome, instance_type.as_str()];
                self.boots_by_type.with_label_values(&labels).inc();
            }
            Event::ProbeEnded {
                instance_type,
                took,
                error,
                identity_mismatch,
                ..
            } => self.count_probe(instance_type, *took, error.is_some(), *identity_mismatch),
            Event::Gone {
                instance_type,
                phase,
                runners,
                expected,
                ..
            } => {
                if let Some(span) = expected {
                    self.to_disappearance.observe(*span);
                }
                let state = WorkerState::new(*phase, *runners > 0);
                self.count_gone(state, instance_type, expected.is_some());
            }
            Event::CloudCalled { cloud, call, error } => {
                self.count_call(*cloud, *call, error.as_ref());
            }
            _ => {}
        }
    }

    /// Records the duration of a step's decisions, for steps with a placement pass.
    pub fn pass_made(&self, took: Duration) {
        self.timings.passes.observe(took.as_secs_f64());
    }

    /// Records an overload of the queue (HTTP status 503).
    pub fn set_last_503(&self, at: Timestamp) {
        self.last_503.fetch_max(at.as_nanos(), Ordering::Relaxed);
    }

    /// Records the end of a driver call: `done`, `failed`, or `abandoned` after the caller gave up.
    pub fn driver_call_ended(&self, operation: &str, outcome: &str, took: Duration) {
        let labels = [operation, outcome];
        let series = self.call_duration.with_label_values(&labels);
        series.observe(took.as_secs_f64());
    }

    /// All metrics, at the time of the totals.
    #[must_use]
    pub fn gather(&self, settings: &ManagementSettings, totals: &AsOf<Totals>) -> MetricsSnapshot {
        self.clock.advance(totals.at);
        self.begin_types_at_zero(settings);
        let mut families = self.registry.gather();
        families.extend(gauges::of_totals(settings, totals));
        families.extend(gauges::of_service(settings));
        let last_503 = Timestamp::from_nanos(self.last_503.load(Ordering::Relaxed));
        families.push(gauges::last_503(last_503));
        // The format excludes families without a metric, such as the queue's entries while empty.
        families.retain(|family| !family.get_metric().is_empty());
        MetricsSnapshot(families)
    }

    /// Records an answer to an HTTP request, after its whole body.
    pub(crate) fn request_ended(&self, method: &Method, status: StatusCode, took: Duration) {
        let method = match method.as_str() {
            "GET" => "get",
            "HEAD" => "head",
            "POST" => "post",
            "PUT" => "put",
            "PATCH" => "patch",
            "DELETE" => "delete",
            "OPTIONS" => "options",
            _ => "unknown",
        };
        let labels = [status.as_str(), method];
        self.request_duration.with(&labels).observe(took);
        self.time_to_status.with(&labels).observe(took);
    }

    fn count_call(&self, cloud: CloudId, call: CloudCall, error: Option<&CloudError>) {
        let failed = if error.is_some() { "1" } else { "0" };
        self.calls.with_label_values(&[call.name(), failed]).inc();
        if let Some(error) = error {
            let cloud = cloud.0.to_string();
            let labels = [cloud.as_str(), call.name(), error_class(error)];
            self.call_errors.with_label_values(&labels).inc();
        }
    }

    fn count_probe(&self, name: &TypeName, took: Duration, failed: bool, identity_mismatch: bool) {
        let (outcome, series) = match (failed, identity_mismatch) {
            (false, _) => (PROBE_OUTCOMES[0], &self.probe_success),
            (true, false) => (PROBE_OUTCOMES[1], &self.probe_fail),
            (true, true) => (PROBE_OUTCOMES[2], &self.probe_fail),
        };
        let labels = [outcome, name.as_str()];
        self.timings.probes.with_label_values(&labels).inc();
        series.observe(took);
    }

    fn count_gone(&self, state: WorkerState, instance_type: &TypeName, expected: bool) {
        let state = state.name();
        self.disappeared.with_label_values(&[state]).inc();
        if !expected {
            let labels = [state, instance_type.as_str()];
            self.unexpected.with_label_values(&labels).inc();
        }
    }

    fn begin_at_zero(&self) {
        for state in WorkerState::ALL {
            self.disappeared.with_label_values(&[state.name()]);
        }
        for outcome in OUTCOMES {
            self.boots.with_label_values(&[outcome.name()]);
        }
        for call in CALLS {
            for failed in ["0", "1"] {
                self.calls.with_label_values(&[call.name(), failed]);
            }
        }
    }

    fn begin_types_at_zero(&self, settings: &ManagementSettings) {
        let mut clouds = BTreeMap::new();
        for (name, offer) in &settings.config.types {
            clouds.insert(offer.cloud, offer.cloud.0.to_string());
            for state in WorkerState::ALL {
                let labels = [state.name(), name.as_str()];
                self.unexpected.with_label_values(&labels);
            }
            self.disruptions.begin_at_zero(name);
            for outcome in PROBE_OUTCOMES {
                let labels = [outcome, name.as_str()];
                self.timings.probes.with_label_values(&labels);
            }
            for outcome in OUTCOMES {
                let labels = [outcome.name(), name.as_str()];
                self.boots_by_type.with_label_values(&labels);
            }
        }
        for cloud in clouds.values() {
            for call in CALLS {
                for class in ERROR_CLASSES {
                    let labels = [cloud.as_str(), call.name(), class];
                    self.call_errors.with_label_values(&labels);
                }
            }
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// All metrics at one time.
#[derive(Clone, Debug)]
pub struct MetricsSnapshot(Vec<MetricFamily>);

impl MetricsSnapshot {
    /// Prometheus text format, version 0.0.4.
    #[must_use]
    pub fn text(mut self) -> String {
        self.sort();
        let mut text = Vec::new();
        let written = TextEncoder::new().encode(&self.0, &mut text);
        // Every family has a name and a metric, and memory accepts all bytes.
        written.unwrap_or_else(|error| unreachable!("{error}"));
        String::from_utf8_lossy(&text).into_owned()
    }

    /// JSON array of metric families.
    #[must_use]
    pub fn json(mut self) -> String {
        self.sort();
        json::families(&self.0).to_string()
    }

    pub(crate) fn add_requests(&mut self, active: usize, max: usize) {
        self.0.extend(gauges::of_requests(active, max));
    }

    fn sort(&mut self) {
        self.0.sort_by(|a, b| a.name().cmp(b.name()));
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    let registered = registry.register(Box::new(collector.clone()));
    // Each name is registered once, in `new`.
    registered.unwrap_or_else(|error| unreachable!("{error}"));
    collector
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let made = IntCounterVec::new(Opts::new(name, help), labels);
    // Names and labels are constants of this file.
    made.unwrap_or_else(|error| unreachable!("{error}"))
}

fn call_duration() -> HistogramVec {
    let options = HistogramOpts::new(
        "longshore_cloud_call_duration_seconds",
        "Time that a call of a driver took, until it ended or was given up.",
    );
    let options = options.buckets(CALL_BUCKETS.to_vec());
    let made = HistogramVec::new(options, &["operation", "outcome"]);
    // Name, labels and buckets are constants of this file.
    made.unwrap_or_else(|error| unreachable!("{error}"))
}

fn histogram(name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let options = HistogramOpts::new(name, help);
    let made = Histogram::with_opts(options.buckets(buckets.to_vec()));
    // Names and buckets are constants of this file.
    made.unwrap_or_else(|error| unreachable!("{error}"))
}

fn error_class(error: &CloudError) -> &'static str {
    match error {
        CloudError::RateLimited { .. } => "rate_limited",
        CloudError::Quota { .. } => "quota",
        CloudError::Capacity { .. } => "capacity",
        CloudError::NotFound { .. } => "not_found",
        CloudError::Ambiguous { .. } => "ambiguous",
        CloudError::Permanent { .. } => "permanent",
        CloudError::Transient { .. } => "transient",
    }
}
