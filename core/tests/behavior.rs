//! The page `docs/behavior.md`: numbers as in the code, rules as numbered by the catalogue of scenarios.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use longshore_core::config::{Config, Rate};
use longshore_core::mutants::Mutant;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Rows `| name | value | source |` of the table of numbers.
fn numbers(page: &str) -> Vec<(String, String, String)> {
    let (_, table) = page.split_once("## Numbers").expect("the page has a table");
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let [name, value, source] = cells.as_slice() else {
            panic!("three cells: {row}");
        };
        let plain = |cell: &str| cell.trim().trim_matches('`').to_owned();
        (plain(name), plain(value), plain(source))
    });
    rows.collect()
}

#[test]
fn numbers_table_matches_code() {
    let defaults = defaults();
    let rows = numbers(&read("docs/behavior.md"));
    assert!(rows.len() > 50, "{rows:?}");
    for (name, value, source) in rows {
        let given = match source.as_str() {
            "configuration" | "config.rs" => defaults.get(name.as_str()).cloned(),
            file => constant(file, &name),
        };
        let given = given.unwrap_or_else(|| panic!("{name} is not found in {source}"));
        assert_eq!(nanos(&given), nanos(&value), "{name} in {source}: {given}");
    }
}

#[test]
fn numbers_in_text_match_table() {
    let page = read("docs/behavior.md");
    let rows = numbers(&page);
    let (text, _) = page.split_once("## Numbers").expect("the page has a table");
    let parts: Vec<&str> = text.split('`').collect();
    let mut used = BTreeSet::new();
    for pair in parts.chunks_exact(2).zip(parts.iter().skip(2).step_by(2)) {
        let ([_, name], after) = pair else { continue };
        let after = after.trim_start_matches("**");
        let shown = after
            .strip_prefix(" (")
            .or_else(|| after.strip_prefix("\n  ("));
        let Some((shown, _)) = shown.and_then(|rest| rest.split_once(')')) else {
            continue;
        };
        used.insert((*name).to_owned());
        if shown != "no limit" && !shown.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        let known = rows
            .iter()
            .any(|(row, value, _)| row == name && value == shown);
        assert!(known, "`{name}` ({shown}) is not in the table");
    }
    for (name, ..) in rows {
        assert!(
            used.contains(&name),
            "{name} is in the table and has no value in the text"
        );
    }
}

#[test]
fn rules_match_catalogue_of_scenarios() {
    let page = read("docs/behavior.md");
    let rule = |line: &str| {
        let number = line.strip_prefix("- **")?.split(' ').next()?;
        Some(number.trim_end_matches('*').to_owned())
    };
    let rules: Vec<String> = page.lines().filter_map(rule).collect();
    let catalogue = read("sim/SCENARIOS.md");
    let item = |line: &str| {
        let number = line.strip_prefix("| Rule ")?.split(' ').next()?;
        Some(number.to_owned())
    };
    let items: Vec<String> = catalogue.lines().filter_map(item).collect();
    assert_eq!(rules, items);
}

#[test]
fn rules_of_mutants_name_sections() {
    let page = read("docs/behavior.md");
    let rules = Mutant::ALL.iter().map(|mutant| mutant.rule());
    for rule in rules.filter(|rule| rule.starts_with('§')) {
        let section = rule.split(':').next().unwrap_or_default();
        assert!(page.contains(&format!("\n## {section} ")), "{rule}");
    }
}

/// Defaults of `Config`, by the names that the page uses.
fn defaults() -> BTreeMap<&'static str, String> {
    let Config {
        intervals: i,
        timeouts: t,
        limits: l,
        sizing: s,
        ..
    } = Config::default();
    let span = |d: Duration| format!("{}ms", d.as_millis());
    let count = |n: Option<u32>| n.map_or_else(|| "no limit".to_owned(), |n| n.to_string());
    let rate = |rate: Option<Rate>| {
        rate.map_or_else(
            || "no limit".to_owned(),
            |rate| (1_000_000_000 / rate.interval.as_nanos()).to_string(),
        )
    };
    let millionths = |n: u64| format!("{}.{}", n / 1_000_000, n % 1_000_000 / 100_000);
    BTreeMap::from([
        ("PollInterval", span(i.poll)),
        ("SyncInterval", span(i.sync)),
        ("ProbeInterval", span(i.probe)),
        ("TimeoutIdle", span(t.idle)),
        ("TimeoutBooting", span(t.booting)),
        ("TimeoutProbe", span(t.probe)),
        ("TimeoutShutdown", span(t.shutdown)),
        ("TimeoutSignal", span(t.signal)),
        ("TimeoutTERM", span(t.term)),
        ("TimeoutKILL", span(t.kill)),
        ("TimeoutUnkillable", span(t.unkillable)),
        ("TimeoutStaleRunLock", span(t.stale_run_lock)),
        ("StaleLockTimeout", span(t.stale_lock)),
        (
            "MaxSchedulingTime",
            t.scheduling.map_or_else(|| "off".to_owned(), span),
        ),
        ("TimeoutCreateAmbiguous", span(t.create_ambiguous)),
        ("DisappearGrace", span(t.disappear_grace)),
        ("queue_answer", span(t.queue_answer)),
        ("cloud_answer", span(t.cloud_answer)),
        ("vm_answer", span(t.vm_answer)),
        ("queued_per_poll", l.queued_per_poll.to_string()),
        (
            "ReserveExtraRAM",
            format!("{}MiB", s.reserve_extra_ram >> 20),
        ),
        ("MaximumPriceFactor", millionths(s.max_price_factor_ppm)),
        ("MaxInstances", count(l.instances)),
        ("MaxConcurrentInstanceCreateOps", count(l.creates_in_flight)),
        (
            "MaxRunningContainersPerInstance",
            count(l.containers_per_instance),
        ),
        ("MaxProbesPerSecond", rate(l.probes)),
        ("MaxCreatesPerSecond", rate(l.creates)),
        ("MaxDestroysPerSecond", rate(l.destroys)),
        ("MaxListsPerSecond", rate(l.lists)),
        ("MaxCloudOpsPerSecond", rate(l.cloud_ops)),
        (
            "MaxPricePerHour",
            l.price_per_hour
                .map_or_else(|| "no limit".to_owned(), |p| p.to_string()),
        ),
        ("BootFailuresBeforePause", count(l.boot_failures)),
        (
            "SupervisorFraction",
            l.supervisor_fraction_ppm
                .map_or_else(|| "no limit".to_owned(), millionths),
        ),
    ])
}

/// Value of a constant declared in a file of that name below `src`.
fn constant(file: &str, name: &str) -> Option<String> {
    let mut dirs = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.unwrap_or_else(|e| panic!("{e}")).path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.ends_with(file) {
                let source = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{e}"));
                let found = constant_in(&source, name);
                if found.is_some() {
                    return found;
                }
            }
        }
    }
    None
}

/// Value of a constant in a source text: a number, a duration, or the range of a back-off.
fn constant_in(source: &str, name: &str) -> Option<String> {
    let (_, declared) = source.split_once(&format!("const {name}: "))?;
    let (declared, _) = declared.split_once(';')?;
    let (_, value) = declared.split_once('=')?;
    let value = value.trim();
    let Some(fields) = value.strip_prefix("Backoff {") else {
        return Some(scalar(value));
    };
    let field = |name: &str| {
        let (_, rest) = fields.split_once(&format!("{name}: "))?;
        let (value, _) = rest.split_once([',', '}'])?;
        Some(scalar(value.trim()))
    };
    Some(format!("{} to {}", field("min")?, field("max")?))
}

fn scalar(expression: &str) -> String {
    let product = |text: &str| -> u64 {
        let factors = text.split('*').map(|n| n.trim().replace('_', ""));
        factors
            .map(|n| n.parse::<u64>().unwrap_or_else(|e| panic!("{text}: {e}")))
            .product()
    };
    for (call, unit) in [
        ("Duration::from_secs(", "s"),
        ("Duration::from_millis(", "ms"),
    ] {
        if let Some(text) = expression.strip_prefix(call) {
            return format!("{}{unit}", product(text.trim_end_matches(')')));
        }
    }
    product(expression).to_string()
}

/// Durations in nanoseconds, ranges as two of them, all other text unchanged: `60s` equals `1m`.
fn nanos(text: &str) -> String {
    let one = |text: &str| {
        let digits = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor: u64 = match unit {
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return text.to_owned(),
        };
        number
            .parse::<u64>()
            .map_or_else(|_| text.to_owned(), |n| format!("{} ns", n * factor))
    };
    let parts: Vec<String> = text.split(" to ").map(one).collect();
    parts.join(" to ")
}
