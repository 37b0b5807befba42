//! Demo with fault injection: every container is accounted for.

use std::process::Command;
use std::time::Duration;

use longshore_tests::{longshore, of_vms, run_within};
use serde_json::Value;

/// Longer than the demo's own timeout of ten minutes, whose error names the missing results.
const TIMEOUT: Duration = Duration::from_secs(660);

#[test]
fn chaos_demo_accounts_for_every_container() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(longshore());
    command
        .args([
            "demo",
            "--chaos",
            "--seed",
            "3",
            "--containers",
            "24",
            "--json",
        ])
        .env("TMPDIR", dir.path())
        .env_remove("RUST_LOG");
    let output = run_within(&mut command, TIMEOUT).succeeded();
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    let chaos = &report["chaos"];
    assert_eq!(chaos["seed"], 3);
    assert_eq!(
        chaos["unaccounted"].as_array().map(Vec::len),
        Some(0),
        "{chaos:#}"
    );
    let count = |key: &str| chaos[key].as_u64().unwrap();
    assert_eq!(
        count("as_expected") + count("lost_with_their_vm"),
        24,
        "{chaos:#}"
    );
    let faults = chaos["faults"].as_object().unwrap();
    assert_eq!(faults.len(), 12);
    // VMs and queue requests are numerous enough to draw each of these faults; a fault without a
    // target is drawn again.
    for fault in [
        "VM never ready",
        "VM vanishes",
        "VM freezes",
        "VM reports itself broken",
        "queue: 503",
        "queue: answer lost",
        "queue: slow",
        "cloud: create refused",
        "cloud: over quota",
        "cloud: create, answer lost",
    ] {
        assert!(faults[fault].as_u64().unwrap() > 0, "{fault}: {chaos:#}");
    }
    // The number of these calls in a short run depends on the host.
    let others = ["cloud: list failed", "cloud: destroy refused"];
    for fault in others {
        assert!(faults[fault].is_u64(), "{fault}: {chaos:#}");
    }
    assert_eq!(of_vms(dir.path()), []);
}

#[test]
fn seed_without_chaos_is_refused() {
    let mut command = Command::new(longshore());
    let output = run_within(command.args(["demo", "--seed", "3"]), TIMEOUT);
    assert_eq!(output.code(), Some(2));
    assert!(output.stderr.contains("--chaos"), "{}", output.stderr);
}
