//! Gauges from the dispatcher's totals and the server's settings.

use std::collections::BTreeMap;

use longshore_core::BudgetLeft;
use longshore_core::ids::TypeName;
use longshore_core::input::ContainerState;
use longshore_core::resources::MicroDollars;
use longshore_core::time::Timestamp;
use longshore_core::view::{Category, Totals};
use prometheus::proto::{Metric, MetricFamily, MetricType};

use super::families::{family, gauge};
use crate::json::dollars;
use crate::loop_request::AsOf;
use crate::settings::ManagementSettings;

const STATES: [ContainerState; 5] = [
    ContainerState::Queued,
    ContainerState::Locked,
    ContainerState::Running,
    ContainerState::Complete,
    ContainerState::Cancelled,
];
/// Kinds of commands always shown. Other kinds appear only while in flight.
const KINDS: [&str; 10] = [
    "poll", "lookup", "update", "list", "create", "destroy", "tag", "probe", "start", "signal",
];

pub(super) fn of_totals(settings: &ManagementSettings, dated: &AsOf<Totals>) -> Vec<MetricFamily> {
    let mut families = of_containers(settings, dated);
    families.extend(of_instances(settings, dated));
    families.push(gauges(
        "longshore_commands_in_flight",
        "Commands whose answers are awaited, by kind.",
        in_flight(&dated.value),
    ));
    families
}

fn of_containers(settings: &ManagementSettings, dated: &AsOf<Totals>) -> Vec<MetricFamily> {
    let totals = &dated.value;
    let longest = totals.oldest_waiting.map_or(0.0, |at| age(dated.at, at));
    vec![
        single(
            "containers_running",
            "Runners that are alive or being started.",
            totals.runners as f64,
        ),
        single(
            "containers_allocated_not_started",
            "Containers that will fit on an instance on its way.",
            totals.allocated_not_started as f64,
        ),
        single(
            "containers_not_allocated_over_quota",
            "Containers for which nothing can be created now.",
            totals.not_allocated as f64,
        ),
        single(
            "containers_longest_wait_time_seconds",
            "Since when the oldest container that waits has been there.",
            longest,
        ),
        gauges(
            "arvados_dispatchcloud_queue_entries",
            "Containers known, by state and cheapest type; no type where none fits.",
            queue_entries(totals),
        ),
        gauges(
            "longshore_containers",
            "Containers known, by state and cheapest type, zeros included.",
            containers(settings, totals),
        ),
    ]
}

fn of_instances(settings: &ManagementSettings, dated: &AsOf<Totals>) -> Vec<MetricFamily> {
    let totals = &dated.value;
    let price = |category| dollars(totals.price.get(&category).copied().unwrap_or_default());
    let offered = |category| totals.resources.get(&category).copied().unwrap_or_default();
    let (oldest, median) = probe_ages(dated);
    vec![
        gauges(
            "arvados_dispatchcloud_instances_total",
            "Instances by category and type.",
            instances(settings, totals),
        ),
        gauges(
            "arvados_dispatchcloud_instances_price",
            "Sum of the prices of instances, in dollars per hour.",
            by_category(price),
        ),
        gauges(
            "arvados_dispatchcloud_vcpus_total",
            "Sum of the cores of instances.",
            by_category(|category| f64::from(offered(category).vcpus)),
        ),
        gauges(
            "arvados_dispatchcloud_memory_bytes_total",
            "Sum of the memory of instances.",
            by_category(|category| offered(category).ram as f64),
        ),
        gauges(
            "longshore_instances_price",
            "Sum of the prices of instances by category and type, in dollars per hour.",
            prices(settings, totals),
        ),
        gauges(
            "longshore_create_failing_seconds",
            "Since when creates of a type that containers wait for have failed, one after the other; \
             0 while they do not.",
            failing(settings, dated),
        ),
        single(
            "probe_age_seconds_max",
            "Time since the last good probe, for the instance that was silent longest.",
            oldest,
        ),
        single(
            "probe_age_seconds_median",
            "Time since the last good probe, for the instance in the middle.",
            median,
        ),
        gauges(
            "longshore_boot_pause_until_seconds",
            "When a type that failed to boot is tried again, in seconds since the epoch.",
            boot_backoffs(totals),
        ),
        single(
            "at_quota",
            "1 if some quota was met lately.",
            f64::from(u8::from(totals.at_quota)),
        ),
        single(
            "max_concurrent_containers",
            "Containers that may run at a time while the queue's strength limits that; 0 is no limit.",
            totals.containers_max.map_or(0.0, f64::from),
        ),
        gauges(
            "longshore_budget_left",
            "What may still be spent within each budget's window, in dollars.",
            budgets(totals, |budget| budget.left),
        ),
        gauges(
            "longshore_budget_spent",
            "What was spent within each budget's window, in dollars.",
            budgets(totals, |budget| budget.spent),
        ),
    ]
}

fn boot_backoffs(totals: &Totals) -> Vec<Metric> {
    let pauses = totals.boot_backoffs.iter();
    let each = pauses.map(|pause| {
        let (name, image) = (pause.instance_type.as_str(), pause.image.as_str());
        let labels = [("image", image), ("instance_type", name)];
        gauge(&labels, epoch_seconds(pause.until))
    });
    each.collect()
}

/// Time of the queue's last overload; 0 means never.
pub(super) fn last_503(at: Timestamp) -> MetricFamily {
    single(
        "last_503_time",
        "When the queue last answered with status 503, in seconds since the epoch; 0 is never.",
        epoch_seconds(at),
    )
}

pub(super) fn of_service(settings: &ManagementSettings) -> Vec<MetricFamily> {
    let sha256 = settings.config_sha256.as_str();
    let dated = |at| vec![gauge(&[("sha256", sha256)], epoch_seconds(at))];
    let mut families = vec![
        gauges(
            "arvados_version_running",
            "The version that runs: always 1.",
            vec![gauge(&[("version", &settings.version)], 1.0)],
        ),
        gauges(
            "arvados_config_load_timestamp_seconds",
            "When the configuration was read.",
            dated(settings.config_loaded_at),
        ),
    ];
    if let Some(at) = settings.config_changed_at {
        families.push(gauges(
            "arvados_config_source_timestamp_seconds",
            "When the configuration file was last changed.",
            dated(at),
        ));
    }
    families
}

pub(super) fn of_requests(active: usize, max: usize) -> Vec<MetricFamily> {
    let labels = [("queue", "api")];
    vec![
        gauges(
            "arvados_concurrent_requests",
            "Requests being worked on.",
            vec![gauge(&labels, active as f64)],
        ),
        gauges(
            "arvados_max_concurrent_requests",
            "Requests that may be worked on at a time.",
            vec![gauge(&labels, max as f64)],
        ),
    ]
}

fn gauges(name: &str, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    family(name, help, MetricType::GAUGE, metrics)
}

fn single(name: &str, help: &str, value: f64) -> MetricFamily {
    let name = format!("arvados_dispatchcloud_{name}");
    gauges(&name, help, vec![gauge(&[], value)])
}

fn type_name(name: Option<&TypeName>) -> &str {
    name.map_or("", TypeName::as_str)
}

fn by_state_and_type((state, name): (ContainerState, Option<&TypeName>), count: u64) -> Metric {
    let labels = [("state", state.name()), ("instance_type", type_name(name))];
    gauge(&labels, count as f64)
}

fn queue_entries(totals: &Totals) -> Vec<Metric> {
    let entries = totals.containers.iter();
    entries
        .map(|((state, name), count)| by_state_and_type((*state, name.as_ref()), *count))
        .collect()
}

fn containers(settings: &ManagementSettings, totals: &Totals) -> Vec<Metric> {
    let mut counts = BTreeMap::new();
    for state in STATES {
        counts.insert((state, None), 0);
        for name in settings.config.types.keys() {
            counts.insert((state, Some(name)), 0);
        }
    }
    for ((state, name), count) in &totals.containers {
        counts.insert((*state, name.as_ref()), *count);
    }
    let counts = counts.into_iter();
    counts
        .map(|(key, count)| by_state_and_type(key, count))
        .collect()
}

fn instances(settings: &ManagementSettings, totals: &Totals) -> Vec<Metric> {
    let counts = totals.instances.iter();
    by_category_and_type(
        settings,
        counts.map(|(place, count)| (place, *count as f64)),
    )
}

fn prices(settings: &ManagementSettings, totals: &Totals) -> Vec<Metric> {
    let prices = totals.price_of_type.iter();
    by_category_and_type(settings, prices.map(|(place, sum)| (place, dollars(*sum))))
}

/// Values by category and type, including zeros.
fn by_category_and_type<'a>(
    settings: &'a ManagementSettings,
    values: impl Iterator<Item = (&'a (Category, TypeName), f64)>,
) -> Vec<Metric> {
    let mut all = BTreeMap::new();
    for category in Category::ALL {
        for name in settings.config.types.keys() {
            all.insert((category, name), 0.0);
        }
    }
    all.extend(values.map(|((category, name), value)| ((*category, name), value)));
    let metric = |((category, name), value): ((Category, &TypeName), f64)| {
        let labels = [
            ("category", category.name()),
            ("instance_type", name.as_str()),
        ];
        gauge(&labels, value)
    };
    all.into_iter().map(metric).collect()
}

fn failing(settings: &ManagementSettings, dated: &AsOf<Totals>) -> Vec<Metric> {
    let names = settings.config.types.keys();
    let metric = |name: &TypeName| {
        let since = dated.value.failing.get(name);
        let seconds = since.map_or(0.0, |since| age(dated.at, *since));
        gauge(&[("instance_type", name.as_str())], seconds)
    };
    names.map(metric).collect()
}

fn budgets(totals: &Totals, amount: impl Fn(&BudgetLeft) -> MicroDollars) -> Vec<Metric> {
    let each = totals.budgets.iter();
    each.map(|left| {
        let window = left.budget.window.as_secs_f64().to_string();
        gauge(&[("window_seconds", &window)], dollars(amount(left)))
    })
    .collect()
}

fn by_category(value: impl Fn(Category) -> f64) -> Vec<Metric> {
    let each = Category::ALL.iter();
    each.map(|category| gauge(&[("category", category.name())], value(*category)))
        .collect()
}

fn in_flight(totals: &Totals) -> Vec<Metric> {
    let mut counts: BTreeMap<&str, u64> = KINDS.iter().map(|kind| (*kind, 0)).collect();
    for (kind, count) in &totals.in_flight {
        counts.insert(kind, *count);
    }
    let metric = |(kind, count): (&str, u64)| gauge(&[("kind", kind)], count as f64);
    counts.into_iter().map(metric).collect()
}

/// Maximum and lower median of probe ages; 0 without probed instances.
fn probe_ages(dated: &AsOf<Totals>) -> (f64, f64) {
    let last_probes = dated.value.last_probes.iter();
    let mut ages: Vec<f64> = last_probes.map(|last| age(dated.at, *last)).collect();
    ages.sort_by(f64::total_cmp);
    let middle = ages.len().saturating_sub(1) / 2;
    (
        ages.last().copied().unwrap_or_default(),
        ages.get(middle).copied().unwrap_or_default(),
    )
}

fn age(now: Timestamp, since: Timestamp) -> f64 {
    now.since(since).as_secs_f64()
}

fn epoch_seconds(at: Timestamp) -> f64 {
    age(at, Timestamp::EPOCH)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn probe_ages_are_maximum_and_median() {
        let ago = |secs: u64| Timestamp::from_nanos(1 << 60) - Duration::from_secs(secs);
        let ages = |last_probes: &[u64]| {
            let value = Totals {
                last_probes: last_probes.iter().map(|secs| ago(*secs)).collect(),
                ..Totals::default()
            };
            probe_ages(&AsOf { at: ago(0), value })
        };
        assert_eq!(ages(&[]), (0.0, 0.0));
        assert_eq!(ages(&[3]), (3.0, 3.0));
        assert_eq!(ages(&[9, 1, 5]), (9.0, 5.0));
        assert_eq!(ages(&[9, 1, 5, 7]), (9.0, 5.0));
    }
}
