//! The section `Containers.CloudVMs`: intervals, timeouts, limits; settings of drivers.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_core::config::{
    Budget, Config, Intervals, Limits, Rate, Sizing, SpotFallback, Timeouts,
};
use longshore_core::ids::ImageId;
use longshore_core::resources::MicroDollars;

use super::cluster::CloudVms;
use super::host;
use super::reader::{Entry, Section, UnknownKeys};

/// Maximum number of budgets: enough for a day, a week, a month, a year.
const BUDGETS_MAX: usize = 16;
const WINDOW_MIN: Duration = Duration::from_secs(60);
/// Longest window: a leap year.
const WINDOW_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Reads the configuration of the core. The caller finishes the section.
pub(super) fn core(vms: &Section<'_>) -> Config {
    Config {
        image: ImageId::new(vms.text("ImageID", "")),
        intervals: intervals(vms),
        timeouts: timeouts(vms),
        limits: limits(vms),
        sizing: Sizing {
            spot_fallback: spot_fallback(vms),
            ..Sizing::default()
        },
        ..Config::default()
    }
}

fn intervals(vms: &Section<'_>) -> Intervals {
    let default = Intervals::default();
    let at_least_1ms = |d: Duration| d.max(Duration::from_millis(1));
    let poll = vms.duration_or_zero("PollInterval", default.poll);
    let poll = if poll.is_zero() {
        // The peer polls without a pause then.
        let message = format!("0 means no pause at all; {:?} is used", default.poll);
        let line = vms.get("PollInterval").map(|entry| entry.line());
        vms.report()
            .warn(&vms.path_of("PollInterval"), line, message);
        default.poll
    } else {
        poll
    };
    Intervals {
        poll: at_least_1ms(poll),
        sync: at_least_1ms(vms.duration("SyncInterval", default.sync)),
        probe: at_least_1ms(vms.duration("ProbeInterval", default.probe)),
    }
}

fn timeouts(vms: &Section<'_>) -> Timeouts {
    let default = Timeouts::default();
    Timeouts {
        idle: vms.duration("TimeoutIdle", default.idle),
        booting: vms.duration("TimeoutBooting", default.booting),
        probe: vms.duration("TimeoutProbe", default.probe),
        shutdown: vms.duration("TimeoutShutdown", default.shutdown),
        signal: vms.duration("TimeoutSignal", default.signal),
        term: vms.duration("TimeoutTERM", default.term),
        kill: vms.duration("TimeoutKILL", default.kill),
        unkillable: vms.duration("TimeoutUnkillable", default.unkillable),
        stale_run_lock: vms.duration("TimeoutStaleRunLock", default.stale_run_lock),
        scheduling: Some(vms.duration_or_zero("MaxSchedulingTime", Duration::ZERO))
            .filter(|span| !span.is_zero()),
        create_ambiguous: vms.duration("TimeoutCreateAmbiguous", default.create_ambiguous),
        disappear_grace: vms.duration_or_zero("DisappearGrace", default.disappear_grace),
        ..default
    }
}

fn spot_fallback(vms: &Section<'_>) -> SpotFallback {
    let rule = vms.section("SpotFallback");
    let after = rule.duration_or_zero("After", Duration::ZERO);
    let fallback = SpotFallback {
        interruptions: rule.count_above_zero("Interruptions", 0),
        after: (!after.is_zero()).then_some(after),
    };
    rule.finish(UnknownKeys::Warn);
    fallback
}

fn limits(vms: &Section<'_>) -> Limits {
    let rate = |key, default: u64| {
        let per_second = vms.millionths_above_zero(key, default * 1_000_000);
        per_second.and_then(Rate::of_millionths)
    };
    Limits {
        instances: vms.count_above_zero("MaxInstances", 64),
        // The peer's default is 1, because of its slow reuse of addresses.
        creates_in_flight: vms.count_above_zero("MaxConcurrentInstanceCreateOps", 0),
        containers_per_instance: vms.count_above_zero("MaxRunningContainersPerInstance", 0),
        // The peer's default is 10: with a thousand VMs, one probe of each VM in 100 s.
        probes: rate("MaxProbesPerSecond", 0),
        creates: rate("MaxCreatesPerSecond", 0),
        destroys: rate("MaxDestroysPerSecond", 0),
        lists: rate("MaxListsPerSecond", 0),
        cloud_ops: rate("MaxCloudOpsPerSecond", 10),
        price_per_hour: vms
            .millionths_above_zero("MaxPricePerHour", 0)
            .map(MicroDollars),
        budgets: budgets(vms),
        initial_quota: vms.count_above_zero("InitialQuotaEstimate", 0),
        supervisor_fraction_ppm: vms.millionths_above_zero("SupervisorFraction", 500_000),
        boot_failures: vms.count_above_zero("BootFailuresBeforePause", 5),
        ..Limits::default()
    }
}

/// Reads the list of budgets, each with window and limit.
fn budgets(vms: &Section<'_>) -> Vec<Budget> {
    let Some(entry) = vms.get("Budgets") else {
        return Vec::new();
    };
    let items = entry.list();
    if items.len() > BUDGETS_MAX {
        let expected = format!("at most {BUDGETS_MAX} budgets");
        entry.wrong(&expected, "delete those that another one contains");
    }
    let mut budgets: Vec<Budget> = Vec::new();
    for item in items.iter().take(BUDGETS_MAX) {
        let Some(next) = budget(item) else { continue };
        let same = |other: &Budget| other.window == next.window && next.window < Duration::MAX;
        if let Some(window) = item.section().get("Window")
            && budgets.iter().any(same)
        {
            // The higher one would have no effect, and metrics label budgets by window.
            window.wrong(
                "a span that no other budget has",
                "keep the budget with the lower Limit",
            );
        }
        budgets.push(next);
    }
    budgets
}

fn budget(item: &Entry<'_>) -> Option<Budget> {
    const WINDOW: &str = "a duration from 1m to 8784h, such as 24h";
    const LIMIT: &str = "an amount above 0 in dollars, such as 500";
    if !item.is_section() {
        item.wrong(
            "a section with Window and Limit",
            "write {Window: 24h, Limit: 500}",
        );
        return None;
    }
    let section = item.section();
    let (window, limit) = (section.get("Window"), section.get("Limit"));
    if window.is_none() {
        section.missing(
            "Window",
            WINDOW,
            "write over how long a span the Limit counts",
        );
    }
    if limit.is_none() {
        section.missing("Limit", LIMIT, "write what may be spent within the Window");
    }
    // Unreadable values are reported already; the maximum avoids a second error.
    let span = section.duration_or_zero("Window", Duration::MAX);
    let amount = section.millionths("Limit", u64::MAX);
    section.finish(UnknownKeys::Warn);
    let (window, limit) = (window?, limit?);
    if span < WINDOW_MIN || span > WINDOW_MAX && span < Duration::MAX {
        window.wrong(WINDOW, "write such a duration");
    }
    if amount == 0 {
        limit.wrong(
            LIMIT,
            "write such an amount; to create nothing, set MaxInstances",
        );
    }
    Some(Budget {
        window: span,
        limit: MicroDollars(amount),
    })
}

/// Reads the settings of adapters. The caller finishes the section.
pub(super) fn adapters(vms: &Section<'_>) -> CloudVms {
    // The program checks if a driver is built in.
    let drivers = [("ec2", "ec2"), ("azure", "azure"), ("loopback", "loopback")];
    vms.ignore(&["Enable"]);
    CloudVms {
        driver: vms.choice("Driver", &drivers, "ec2").to_owned(),
        driver_parameters: driver_parameters(vms),
        ssh_port: ssh_port(vms),
        boot_probe_command: vms.text("BootProbeCommand", "systemctl is-system-running"),
        instance_init_command: vms.text("InstanceInitCommand", ""),
        deploy_runner_binary: vms.text("DeployRunnerBinary", "/proc/self/exe"),
        deploy_runner_directory: vms.text("DeployRunnerDirectory", "/tmp/arvados-crunch-run"),
        deploy_public_key: vms.bool("DeployPublicKey", true),
        resource_tags: resource_tags(vms),
        tag_key_prefix: vms.text("TagKeyPrefix", "Arvados"),
    }
}

/// Returns the driver's parameters unchanged; the driver validates them. Only duplicate keys are
/// reported here.
fn driver_parameters(vms: &Section<'_>) -> serde_json::Value {
    let Some(entry) = vms.get("DriverParameters") else {
        return serde_json::Value::Null;
    };
    entry.section().report_duplicates();
    entry.to_json()
}

fn ssh_port(vms: &Section<'_>) -> u16 {
    let Some(entry) = vms.get("SSHPort") else {
        return 22;
    };
    let Some(text) = entry.text_or_number() else {
        return 22;
    };
    host::tcp_port(&text).unwrap_or_else(|| {
        let expected = "a port from 1 to 65535, or a service's name as in /etc/services";
        entry.wrong(expected, "write \"22\"");
        22
    })
}

fn resource_tags(vms: &Section<'_>) -> BTreeMap<String, String> {
    let tags = vms.section("ResourceTags").named();
    let tag = |(name, entry): &(&str, Entry<'_>)| Some(((*name).to_owned(), entry.text()?));
    tags.iter().filter_map(tag).collect()
}
